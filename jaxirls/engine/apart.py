r"""Parts of a CPU program that compile side by side.

XLA makes one function of a loop with all loops inside it, and LLVM compiles a function on one core: of a loop over
tiles, that would be the whole program. A sort may not be in such a function. So each part is a loop of one turn, which
becomes a function, behind a sort of two numbers, for which the loop around them becomes none. What is then left between
the parts should be little: it is called one by one, and is slower there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["apart"]

T = TypeVar("T")


def apart(part: Callable[..., T], into: T, *given: Any) -> T:
    """``part(into, *given)``, written over ``into``, compiled apart.

    The bounds of the loop, one apart, come from a number of the data, of which the compiler knows nothing: it would see
    through others. The barrier keeps in the loop what is the same in every turn.
    """
    datum = next(leaf for leaf in jax.tree.leaves(given) if jnp.issubdtype(leaf.dtype, jnp.floating))
    some = jnp.isnan(datum[(0,) * datum.ndim]).astype(jnp.int32)
    first, last = lax.sort(jnp.stack([some + 1, some]))

    def turn(i: Array, into: T) -> T:
        return part(into, *lax.optimization_barrier((given, i))[0])

    return lax.fori_loop(first, last, turn, into)
