"""A program over lanes as one kernel of a GPU: the same program, every lane a thread.

Other designs, and programs that a kernel cannot run, are run as they stand. Pallas is imported only for a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

from jaxirls.designs import InOneKernel, Streamed
from jaxirls.kernel.vectors import UnsupportedError
from jaxirls.problem import Problem

__all__ = ["GROUP", "in_one_kernel"]

T = TypeVar("T")

GROUP = 128  # lanes of a block: the threads that Pallas' Mosaic backend works with


def in_one_kernel(program: Callable[[Problem], T], problem: Problem) -> T:
    """``program(problem)``, in one kernel where the design asks for it and that can be."""
    sharded = any(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(problem))
    if not isinstance(problem.design, InOneKernel) or problem.lanes % GROUP or sharded:
        return program(problem)
    from jaxirls.kernel.launch import launch

    leaves, structure = jax.tree.flatten(problem._replace(design=Streamed(problem.design.x)))
    of_rows = len(jax.tree.leaves((problem.design, problem.rows)))  # the first of a problem
    stored = [k < of_rows and leaf.shape[0] > 1 for k, leaf in enumerate(leaves)]
    try:
        return launch(
            lambda leaves: program(jax.tree.unflatten(structure, leaves)), leaves, stored, problem.lanes, GROUP
        )
    except UnsupportedError:
        return program(problem)
