"""A program over lanes as one kernel of a GPU: the same program, every lane a thread.

Other designs, and programs that a kernel cannot run, are run as they stand. Pallas is imported only for a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from jaxirls.designs import InOneKernel, Streamed
from jaxirls.folds import straight_line
from jaxirls.kernel.vectors import UnsupportedError
from jaxirls.problem import Problem

__all__ = ["GROUP", "in_one_kernel"]

T = TypeVar("T")

COLUMNS = 24  # of X, at most, for which every entry of a matrix is a register
GROUP = 128  # lanes of a block: the threads that Pallas' Mosaic backend works with


def in_one_kernel(program: Callable[..., T], problem: Problem, *lanes: Any) -> T:
    """``program(problem, *lanes)``, trees of arrays (..., T), in one kernel where the design asks and that can be."""
    sharded = any(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(problem))
    if not isinstance(problem.design, InOneKernel) or problem.lanes % GROUP or sharded:
        return program(problem, *lanes)
    from jaxirls.kernel.launch import launch

    leaves, structure = jax.tree.flatten((problem._replace(design=Streamed(problem.design.x)), *lanes))
    of_rows = len(jax.tree.leaves((problem.design, problem.rows)))  # the first of a problem
    stored = [k < of_rows and leaf.shape[0] > 1 for k, leaf in enumerate(leaves)]

    def unflattened(leaves: list[Any]) -> T:
        with straight_line(COLUMNS):
            return program(*jax.tree.unflatten(structure, leaves))

    try:
        return launch(unflattened, leaves, stored, problem.lanes, GROUP)
    except UnsupportedError:
        return program(problem, *lanes)
