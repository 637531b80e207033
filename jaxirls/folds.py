"""Reductions in one fixed order, term after term: elementwise over lanes, as no reduction of XLA's is on a CPU.

No lane's result then depends on how many lanes there are, and the loop stays inside the compiled function around it,
where XLA would call a library.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jax import Array, lax

from jaxirls.trees import varying

__all__ = ["folded", "straight_line", "total", "unrolls"]

# Up to so many terms, entries or columns are straight-line code.
_most: ContextVar[int] = ContextVar("most", default=8)


def unrolls(count: int) -> bool:
    """Whether code for so many terms, entries or columns is straight-line."""
    return count <= _most.get()


@contextmanager
def straight_line(most: int) -> Iterator[None]:
    """Straight-line code for more of them: it takes longer to compile."""
    token = _most.set(max(most, _most.get()))
    try:
        yield
    finally:
        _most.reset(token)


def folded(both: Callable[[Any, Any], Any], term: Callable[[int | Array], Any], count: int) -> Any:
    """``both`` of all terms in their order."""
    if unrolls(count):
        return functools.reduce(both, map(term, range(count)))
    return lax.fori_loop(1, count, lambda k, so_far: both(so_far, term(k)), varying(term(0)))


def total(term: Callable[[int | Array], Array], count: int) -> Array:
    """Σ term(k)."""
    return folded(operator.add, term, count)
