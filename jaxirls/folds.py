"""Reductions in one fixed order, term after term: elementwise over lanes, as no reduction of XLA's is on a CPU.

No lane's result then depends on how many lanes there are, and the loop stays inside the compiled function around it,
where XLA would call a library.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from jax import Array, lax

from jaxirls.trees import varying

__all__ = ["UNROLL", "folded", "total"]

# Up to so many terms, entries or columns are straight-line code.
UNROLL = 8


def folded(both: Callable[[Any, Any], Any], term: Callable[[int | Array], Any], count: int) -> Any:
    """``both`` of all terms in their order."""
    if count <= UNROLL:
        return functools.reduce(both, map(term, range(count)))
    return lax.fori_loop(1, count, lambda k, so_far: both(so_far, term(k)), varying(term(0)))


def total(term: Callable[[int | Array], Array], count: int) -> Array:
    """Σ term(k)."""
    return folded(operator.add, term, count)
