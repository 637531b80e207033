r"""Parts of a CPU program that are functions, which compile side by side.

Of a loop that is in no such function XLA calls the operations one by one, which takes far longer than they do where
they are small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata

__all__ = ["apart"]

T = TypeVar("T")


def apart(part: Callable[..., T], into: T, *given: Any) -> T:
    """``part(into, *given)``, written over ``into``, compiled apart. What is left between parts should be little."""
    return (_of_a_loop if jax.__version_info__ >= (0, 12) else _of_a_call)(part, into, *given)


def _of_a_call(part: Callable[..., T], into: T, *given: Any) -> T:
    """By a mark on a call.

    XLA knows the arguments of the function by their uses, and aborts at one that has none: so what is given is returned
    too, and ``into`` left to the closure, where it is an argument only if it has a use. One barrier keeps JAX from
    seeing that what is returned is the same, the other keeps XLA from putting constants in the place of arguments.
    """

    def function(*given: Any) -> tuple[T, Any]:
        given = lax.optimization_barrier(given)
        return part(into, *given), given

    return set_xla_metadata(
        jax.jit(function)(*lax.optimization_barrier(given)), inlineable="false", xla_cpu_small_call="true"
    )[0]


def _of_a_loop(part: Callable[..., T], into: T, *given: Any) -> T:
    """Since JAX 0.12 XLA makes a function of every loop with all loops inside it: of one over tiles, if it could, too.

    A sort may not be in such a function. So each part is a loop of one turn, behind a sort of two numbers, for which
    the loop around them becomes none. The bounds of the loop, one apart, come from a number of the data, of which the
    compiler knows nothing: it would see through others. The barrier keeps in the loop what is the same in every turn.
    """
    datum = next(leaf for leaf in jax.tree.leaves(given) if jnp.issubdtype(leaf.dtype, jnp.floating))
    some = jnp.isnan(datum[(0,) * datum.ndim]).astype(jnp.int32)
    first, last = lax.sort(jnp.stack([some + 1, some]))

    def turn(i: Array, into: T) -> T:
        return part(into, *lax.optimization_barrier((given, i))[0])

    return lax.fori_loop(first, last, turn, into)
