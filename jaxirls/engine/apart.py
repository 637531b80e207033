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
    """``part(into, *given)``, written over ``into``, compiled apart. What is left between parts should be little.

    Since JAX 0.12 XLA makes a function of every loop, with all loops inside it: of one over tiles, if it could, too. A
    sort may not be in such a function. So a part is a loop of one turn, behind a sort of its bounds, for which the loop
    around it becomes none.

    Before, XLA makes one of a call that is marked so. It knows the arguments of the function by their uses, and aborts
    at one that has none: so each has one in the bounds of the loop. What is empty is no argument, and the barrier keeps
    XLA from putting constants in the place of one.
    """
    if jax.__version_info__ >= (0, 12):
        some = _unknown(jax.tree.leaves(given)[:1])
        first, last = lax.sort(jnp.stack([some + 1, some]))
        return _in_one_turn(part, into, given, first, last)
    leaves, structure = jax.tree.flatten((into, given))
    avals = [jax.typeof(leaf) for leaf in leaves]

    def function(full: list[Array]) -> T:
        each, some = iter(full), _unknown(full)
        whole = [next(each) if aval.size else jnp.zeros_like(aval) for aval in avals]
        into, given = jax.tree.unflatten(structure, whole)
        return _in_one_turn(part, into, given, some, some + 1)

    done = jax.jit(function)(lax.optimization_barrier([leaf for leaf in leaves if leaf.size]))
    return set_xla_metadata(done, inlineable="false", xla_cpu_small_call="true")


def _in_one_turn(part: Callable[..., T], into: T, given: Any, first: Array, last: Array) -> T:
    """The barrier keeps in the loop what is the same in every turn."""

    def turn(i: Array, into: T) -> T:
        return part(into, *lax.optimization_barrier((given, i))[0])

    return lax.fori_loop(first, last, turn, into)


def _unknown(leaves: list[Array]) -> Array:
    """A number of which the compiler knows nothing, as bounds of a loop must be, or it would see through that."""
    first = [leaf[(0,) * leaf.ndim] for leaf in leaves]
    some = [jnp.isnan(x) if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(bool) for x in first]
    return jnp.stack(some).sum(dtype=jnp.int32)
