"""A program over lanes as one kernel of a GPU: the same program, every lane a thread.

Other designs, and programs that a kernel cannot run, are run as they stand. Pallas is imported only for a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxirls.designs import InOneKernel, Streamed, UnsupportedError
from jaxirls.folds import straight_line
from jaxirls.problem import Problem

__all__ = ["GROUP", "in_one_kernel"]

T = TypeVar("T")

COLUMNS = 24  # of X, at most, for which every entry of a matrix is a register
GROUP = 128  # threads of a block, with which Pallas' Mosaic backend works
# Bytes of its rows that a thread can keep, if three blocks are to have room on a processor of an H100; how many times
# as many rows it may have; and the most threads, and columns, for which several threads a dataset measure faster than
# one. In float64 the equations, which every thread solves, weigh too much.
ROOM, SPARE, MOST_SHARES, SHARED_COLUMNS = 576, 1.25, 8, 6


def in_one_kernel(program: Callable[..., T], problem: Problem, *lanes: Any) -> T:
    """``program(problem, *lanes)``, trees of arrays (..., T), in one kernel where the design asks and that can be."""
    sharded = any(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(problem))
    if not isinstance(problem.design, InOneKernel) or problem.lanes % GROUP or sharded:
        return program(problem, *lanes)
    from jaxirls.kernel.launch import launch

    design = problem.design
    of_rows = jax.tree.leaves((design, problem.rows))  # the first of a problem
    stored = [leaf.shape[0] > 1 for leaf in of_rows]
    own = [leaf for leaf, stays in zip(of_rows, stored, strict=True) if stays and leaf.shape[-1] > 1]
    count, kept = shares(design.n, own) if own and own[0] is design.x else (1, 0)
    leaves, structure = jax.tree.flatten((problem._replace(design=Streamed(design.x, design.n, kept)), *lanes))
    stored += [False] * (len(leaves) - len(stored))

    def unflattened(leaves: list[Any]) -> T:
        with straight_line(COLUMNS):
            return program(*jax.tree.unflatten(structure, leaves))

    try:
        return launch(unflattened, leaves, stored, problem.lanes, GROUP, count, kept)
    except UnsupportedError:
        return program(problem, *lanes)


def shares(n: int, rows: Sequence[Array]) -> tuple[int, int]:
    """How many threads share the rows of a dataset, X first among them, and how many rows each keeps on the chip.

    One thread reads all rows again from memory in every pass. Several keep theirs, but each solves the equations.
    """
    p, dtype = rows[0].shape[1], rows[0].dtype
    room = ROOM // sum(leaf.size // (n * leaf.shape[-1]) * leaf.dtype.itemsize for leaf in rows)
    count = 1
    while count * SPARE * room < n:
        count *= 2
    if count == 1 or count > MOST_SHARES or p > SHARED_COLUMNS or dtype != jnp.float32:
        return 1, 0
    return count, min(room, n // count)
