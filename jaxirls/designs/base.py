"""What a design is asked for, and the sums that layouts make in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls.folds import total
from jaxirls.linalg import Factor, forward

RowData = Any


class UnsupportedError(Exception):
    """A program asks for what a design, or a kernel, does not have."""


class Terms(NamedTuple):
    """What a kernel returns for rows: the weight w, the residual r, and terms to be summed or minimized.

    Of an ``excess`` e in [0, 1] the pass sums log(1+e), by products of 1+e over rows.
    """

    weight: Array
    residual: Array
    sums: tuple[Array, ...] = ()
    minima: tuple[Array, ...] = ()
    excess: Array | None = None


Kernel = Callable[[Array, RowData], Terms]  # (eta, rows) -> Terms, elementwise


class Sums(NamedTuple):
    """The result of one pass."""

    gram: Array  # (p, p, T)
    score: Array  # (p, T)
    sums: tuple[Array, ...]  # each (T,)
    minima: tuple[Array, ...]  # each (T,)
    log_excess: Array | float = 0.0  # (T,), Σ log(1+e)


class Pair(Protocol):
    """What joins two values: ``jnp.add``, ``jnp.minimum``, ``jnp.logical_and``, ..."""

    def __call__(self, a: Array, b: Array, /) -> Array: ...
    def reduce(self, values: Array, /, *, axis: int) -> Array: ...


class Design(Protocol):
    """What the loop needs of a layout."""

    by_row: ClassVar[bool] = False  # whether a pass is a loop over rows, which XLA makes a function of

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        """The layout of X given as (n, p, T), or (n, p, 1) for all T = ``count`` lanes."""
        ...

    @property
    def n(self) -> int: ...
    @property
    def p(self) -> int: ...
    def lanes(self, count: int) -> Array:
        """X as (n, p, T)."""
        ...

    def predict(self, beta: Array) -> Array:
        """Xβ, (n, T)."""
        ...

    def pull(self, residual: Array) -> Array:
        """Xᵀr of r (n, T), (p, T)."""
        ...

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        """One pass over the data at ``beta``; η = Xβ is what the kernel receives."""
        ...

    def whitened(self, factor: Factor) -> Design:
        """The design of the rows zᵢ = L⁻¹D xᵢ of every lane, in which X'WX is the identity, W that of the factor."""
        ...

    def squares(self) -> Array:
        """|xᵢ|², (n, T), or (n, 1) where all lanes share X."""
        ...

    def total(self, rows: RowData, term: Callable[[RowData], Array], count: int) -> Array:
        """Σᵢ of an elementwise term of the row data, (T,)."""
        return self.fold(jnp.add, term(rows), count)

    def fold(self, pair: Pair, values: Array, count: int) -> Array:
        """``pair`` of what every row has, (n, T), (n, 1) or (1, T); (T,)."""
        return pair.reduce(jnp.broadcast_to(values, (self.n, count)), axis=0)


def repeated(x: Array, count: int) -> Array:
    """X for every lane, (n, p, T)."""
    return jnp.broadcast_to(x, (*x.shape[:-1], count))


def through(factor: Factor, x: Array) -> Array:
    """L⁻¹D xᵢ of rows (n, p, T) or (n, p, 1), (n, p, T)."""
    return jax.vmap(lambda row: forward(factor, row))(x)


def square(x: Array) -> Array:
    """|xᵢ|² of rows (n, p, T), in the order of the columns, elementwise over lanes."""
    return total(lambda j: jnp.square(x[:, j]), x.shape[1])


def some_rows(rows: RowData, start: Array | int, size: int) -> RowData:
    """Some rows of row data; what is the same for every row stays."""

    def cut(leaf: Array) -> Array:
        return lax.dynamic_slice_in_dim(leaf, jnp.int32(start), size, allow_negative_indices=False)

    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == 1 else cut(leaf), rows)


def masked(kernel: Kernel) -> Kernel:
    """The kernel for pairs of row data and of whether a row is there: one that is not adds nothing."""

    def seen(eta: Array, rows: tuple[RowData, Array]) -> Terms:
        own, present = rows
        terms = kernel(eta, own)
        kept = jax.tree.map(lambda term: jnp.where(present, term, 0.0), terms._replace(minima=()))
        return kept._replace(minima=tuple(jnp.where(present, term, jnp.inf) for term in terms.minima))

    return seen


def log_excess_of(excess: Array | None) -> Array | float:
    """Σ log(1+e) over the rows of an (n, T), by products of slabs."""
    if excess is None:
        return 0.0
    n = excess.shape[0]
    size = min(n, factors(excess.dtype))
    slab = -(-n // size)
    padded = jnp.pad(1 + excess, ((0, slab * size - n), (0, 0)), constant_values=1.0)
    return jnp.log(padded.reshape(size, slab, -1).prod(0)).sum(0)


def factors(dtype: jnp.dtype) -> int:
    """How many numbers up to 2 are multiplied before the logarithm is taken: far from the largest of their type."""
    return jnp.finfo(dtype).maxexp // 4


def reduced(terms: Terms, lanes: int) -> tuple[tuple[Array, ...], tuple[Array, ...], Array | float]:
    sums = tuple(jnp.broadcast_to(s, (s.shape[0], lanes)).sum(0) for s in terms.sums)
    minima = tuple(jnp.broadcast_to(s, (s.shape[0], lanes)).min(0) for s in terms.minima)
    return sums, minima, log_excess_of(terms.excess)


def merged(a: Sums, b: Sums) -> Sums:
    return Sums(
        a.gram + b.gram,
        a.score + b.score,
        jax.tree.map(jnp.add, a.sums, b.sums),
        jax.tree.map(jnp.minimum, a.minima, b.minima),
        a.log_excess + b.log_excess,
    )
