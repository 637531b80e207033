r"""Parts of a CPU program that compile side by side.

XLA makes one function of a loop with all loops inside it, and LLVM compiles a function on one core: of a loop over
tiles, that would be the whole program. But XLA makes no such function of a loop that contains a sort. So each part is
wrapped in a loop of one turn, which becomes a function of its own, and its bounds are sorted first: that keeps the loop
over tiles around all parts from being one. What is then left between the parts should be little: it is called operation
by operation, and is slower there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["apart", "room_for"]

T = TypeVar("T")

# XLA hands half of the operations that are ready to another thread where there are more than eight.
AT_ONCE = 4


def apart(part: Callable[..., T], into: T, *given: Any) -> T:
    """``part(into, *given)``, written over ``into``, compiled apart.

    The bounds of the loop, one apart, come from a number of the data, of which the compiler knows nothing: it would see
    through others. The barrier keeps in the loop what is the same in every turn.
    """
    first, last = _and_next(_unknown(_numbers(given)[:1]))

    def turn(i: Array, into: T) -> T:
        return part(into, *lax.optimization_barrier((given, i))[0])

    return lax.fori_loop(first, last, turn, into)


def room_for(shapes: T, *given: Any) -> T:
    """Zeros of the given shapes, made a few at a time.

    Of many at once another thread would make half, and the one that ends last would go on with the program: where every
    core has a program of its own, it may have to wait for one first. A number from a sort is ready after the sort.
    """
    leaves, structure = jax.tree.flatten(shapes)
    some, made = _unknown(_numbers(given)), []
    for place, leaf in enumerate(leaves):
        if place % AT_ONCE == 0:
            some, _ = _and_next(some)
        made.append(jnp.full(leaf.shape, jnp.minimum(some, 0).astype(leaf.dtype)))
    return jax.tree.unflatten(structure, made)


def _numbers(given: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(given) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _unknown(leaves: list[Array]) -> Array:
    """Zero or one: of data the compiler knows nothing, unless all of them are constants of the program."""
    return reduce(jnp.maximum, [jnp.isnan(leaf[(0,) * leaf.ndim]).astype(jnp.int32) for leaf in leaves])


def _and_next(some: Array) -> Array:
    """A number that is not negative, and the next."""
    return lax.sort(jnp.stack([some + 1, some]))
