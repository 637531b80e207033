r"""Parts of a CPU program that compile side by side.

XLA makes one function of a loop with all loops inside it, and LLVM compiles a function on one core: of a loop over
tiles, that would be the whole program. A sort may not be in such a function. So each part is a loop of one turn, which
becomes a function, behind a sort of two numbers, for which the loop around them becomes none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls.problem import Problem
from jaxirls.trees import varying

__all__ = ["apart", "apart_into"]

T = TypeVar("T")


def apart(part: Callable[..., T], laid: Problem, *given: Any) -> T:
    """``part(laid, *given)``, compiled apart where a pass is a loop over rows."""
    if not laid.design.by_row:
        return part(laid, *given)
    part = jax.jit(part)  # traced once, for the shapes and for the loop
    shapes = jax.eval_shape(part, laid, *given)
    room = varying(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), laid, given)
    return apart_into(room, lambda _, *given: varying(part(*given), given), laid, *given)


def apart_into(store: T, part: Callable[..., T], laid: Problem, *given: Any) -> T:
    """``part(store, laid, *given)``, written over the store, likewise.

    The bounds of the loop, one apart, come from a number of the data, of which the compiler knows nothing: it would see
    through others. The barrier keeps in the loop what is the same in every turn.
    """
    if not laid.design.by_row:
        return part(store, laid, *given)
    some = jnp.isnan(laid.rows.y[0, 0]).astype(jnp.int32)
    first, last = lax.sort(jnp.stack([some + 1, some]))

    def turn(i: Array, store: T) -> T:
        return part(store, *lax.optimization_barrier(((laid, *given), i))[0])

    return lax.fori_loop(first, last, turn, store)
