"""Lanes read a few rows a turn, for a CPU: an X a dataset, one X for all, and rows of few datasets side by side."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.designs.base import (
    Design,
    Kernel,
    Pair,
    RowData,
    Sums,
    Terms,
    factors,
    masked,
    repeated,
    some_rows,
    square,
)
from jaxirls.designs.lanes import Lanes, combine
from jaxirls.folds import folded, straight_line
from jaxirls.linalg import Factor, forward
from jaxirls.trees import pytree, varying

# ``WIDTH`` lanes run side by side: of doubles, eight SIMD registers, of which NumPy says how wide the processor's are.
# Where a row of X has more than ``NARROW_ROW`` bytes, the running sums of so many would leave the first-level cache,
# and it is one ``VECTOR`` of bytes; but an X of up to ``FEW`` elements stays in the second level, which costs less than
# narrow tiles do, and keeps ``WIDTH`` up to a ``SHORT_ROW``.
_FEATURES = getattr(sys.modules.get("numpy._core._multiarray_umath"), "__cpu_features__", {})
WIDTH = 64 if _FEATURES.get("AVX512F") else 32
VECTOR = 64
NARROW_ROW, SHORT_ROW = 96, 6 * 2**10 // WIDTH
FEW = 2**13
# Of many lanes, bytes of one lane and column that a turn reads: more would not stay in cache beside the sums.
COLUMN = 16
# Beyond ``NARROW`` columns a sum for every row of the Gram matrix would take long to compile: rows make a few strips,
# of multiples of ``STRIP`` rows, which leaves no odd ends to the loops over columns.
NARROW = 8
STRIPS, STRIP = 3, 4
# Columns up to which a row is whitened by straight-line code.
MOST_UNROLLED = 24


def width(n: int, p: int, dtype: jnp.dtype) -> int:
    """How many lanes to run side by side."""
    size = jnp.dtype(dtype).itemsize
    return WIDTH if p * size <= (SHORT_ROW if n * p <= FEW else NARROW_ROW) else VECTOR // size


@pytree
class LanesByRow(Lanes):
    """``Lanes`` read a few rows a turn into running sums that stay in cache."""

    by_row = True

    @property
    def rows(self) -> int:
        """Rows a turn, for which the running sums are read and written once; a divisor of n, if one is near."""
        size = self.x.dtype.itemsize
        most = min(self.n, 8 if self.x.shape[2] * size == VECTOR else COLUMN // size)
        near = [rows for rows in range(most // 2 + 1, most * 3 // 2 + 1) if self.n % rows == 0]
        return min(near, key=lambda rows: abs(rows - most), default=most)

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        return _sums(self.running(beta, rows, kernel))

    def fold(self, pair: Pair, values: Array, count: int) -> Array:
        values = jnp.broadcast_to(values, (self.n, count))
        return folded(pair, lambda i: values[i], self.n)

    def whitened(self, factor: Factor) -> Design:
        return LanesByRow(_through_by_row(factor, self.x))

    def running(
        self, beta: Array, rows: RowData, kernel: Kernel, last: tuple[RowData, Array] | None = None
    ) -> _Running:
        """The sums of all rows, as they are kept from row to row.

        If ``last`` is given, it has the data of the last row, which the row data then lack, and the lanes, (1, T), that
        have such a row.
        """
        n, p, lanes = self.n, self.p, beta.shape[1]
        whole = (n if last is None else n - 1) // self.rows
        rest = n - whole * self.rows
        block = factors(self.x.dtype) // self.rows
        strips = _strips(p)

        tail = None if last is None else jax.tree.map(functools.partial(_tail, n, n - rest), rows, last[0])

        def kernel_at(eta: Array, start: Array, size: int) -> Terms:
            if last is None or size > 1:
                return kernel(eta, some_rows(rows, start, size))
            return masked(kernel)(eta, (some_rows(tail, start - (n - rest), 1), (start < n - 1) | last[1]))

        def terms_of(start: Array, size: int) -> tuple[Array, Terms]:
            x = lax.dynamic_slice_in_dim(self.x, start, size)
            # The barriers keep XLA from computing again, for every product, what many take: the predictor, the weight
            # and the residual. What enters one sum alone is added there, and not stored.
            eta = lax.optimization_barrier(combine(x, beta))
            terms = kernel_at(eta, start, size)
            weight, residual = lax.optimization_barrier((terms.weight, terms.residual))
            terms = terms._replace(weight=weight, residual=residual)
            return x, jax.tree.map(lambda term: jnp.broadcast_to(term, (size, lanes)), terms)

        def add(start: Array, carry: _Running, size: int) -> _Running:
            x, terms = terms_of(start, size)

            def joined(pair: Callable[[Array, Array], Array], each: Callable[[int], Array]) -> Array:
                return functools.reduce(pair, [each(i) for i in range(size)])

            def row(term: Array) -> Callable[[int], Array]:
                return lambda i: term[i : i + 1]

            def products(j: int, k: int) -> Array:
                return joined(jnp.add, lambda i: (terms.weight[i : i + 1] * x[i, j:k])[:, None] * x[i, None, :k])

            return _Running(
                tuple(part + products(*strip) for strip, part in zip(strips, carry.gram, strict=True)),
                carry.score + joined(jnp.add, lambda i: terms.residual[i : i + 1] * x[i]),
                tuple(part + joined(jnp.add, row(term)) for part, term in zip(carry.sums, terms.sums, strict=True)),
                tuple(
                    jnp.minimum(part, joined(jnp.minimum, row(term)))
                    for part, term in zip(carry.minima, terms.minima, strict=True)
                ),
                carry.product if terms.excess is None else carry.product * joined(jnp.multiply, row(1 + terms.excess)),
                carry.log_excess,
            )

        def turns(first: Array, last: Array, carry: _Running, size: int = self.rows) -> _Running:
            return lax.fori_loop(first, last, lambda i, carry: add(i * size, carry, size), carry)

        def turns_and_log(i: Array, carry: _Running) -> _Running:
            return _logged(turns(i * block, jnp.minimum((i + 1) * block, whole), carry))

        shapes = jax.eval_shape(lambda: kernel(beta[:1], some_rows(rows, 0, 1)))
        zero = jnp.zeros((1, lanes), self.x.dtype)
        carry = _Running(
            tuple(jnp.zeros((k - j, k, lanes), self.x.dtype) for j, k in strips),
            jnp.zeros((p, lanes), self.x.dtype),
            (zero,) * len(shapes.sums),
            (zero + jnp.inf,) * len(shapes.minima),
            zero + 1,
            zero,
        )
        carry = varying(carry, self.x, rows, beta)
        if rest:
            carry = _logged(turns(jnp.int32(n - rest), jnp.int32(n), carry, 1))
        if shapes.excess is None:
            carry = turns(jnp.int32(0), jnp.int32(whole), carry)
        else:
            carry = lax.fori_loop(jnp.int32(0), jnp.int32(-(-whole // block)), turns_and_log, carry)
        return carry


@pytree
class SharedByRow(LanesByRow):
    """One X for all lanes, read row by row likewise: ``x (n, p, 1)``."""

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(x)

    def lanes(self, count: int) -> Array:
        return repeated(self.x, count)


@pytree
class Folded(Design):
    """One X a dataset, for T datasets of many rows, T below the ``width``: f = width // T rows of each are f lanes.

    Row i f + a of dataset t is at ``x[i, :, a T + t]``; zeros fill the last of the m = ⌈n/f⌉.
    """

    by_row = True

    x: Array  # (m, p, f T)
    height: int = field(metadata={"static": True})  # n
    count: int = field(metadata={"static": True})  # T

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        n, p, _ = x.shape
        fold = max(1, min(width(n, p, x.dtype) // count, n))
        whole, left = divmod(n, fold)
        x = repeated(x, count)

        def fill(i: Array, laid: Array) -> Array:
            block = lax.dynamic_slice_in_dim(x, i * fold, fold).swapaxes(0, 1)
            return lax.dynamic_update_slice_in_dim(laid, block[None], i, 0)

        # Block after block: of all at once XLA would compute the place of every number by division.
        laid = varying(jnp.zeros((whole + (left > 0), p, fold, count), x.dtype), x)
        if left:  # first: after the loop it would be a copy
            laid = lax.dynamic_update_slice(laid, x[whole * fold :].swapaxes(0, 1)[None], (whole, 0, 0, 0))
        laid = lax.fori_loop(jnp.int32(0), jnp.int32(whole), fill, laid)
        return cls(laid.reshape(-1, p, fold * count), n, count)

    @property
    def n(self) -> int:
        return self.height

    @property
    def p(self) -> int:
        return self.x.shape[1]

    @property
    def _fold(self) -> int:
        return self.x.shape[2] // self.count

    @property
    def _left(self) -> int:
        """Rows that the last row of x has, if it has not f."""
        return self.n % self._fold

    def lanes(self, count: int) -> Array:
        unfolded = self.x.reshape(-1, self.p, self._fold, count).swapaxes(1, 2)
        return unfolded.reshape(-1, self.p, count)[: self.n]

    def predict(self, beta: Array) -> Array:
        return self._unfolded(combine(self.x, self._spread(beta)))

    def pull(self, residual: Array) -> Array:
        residual = jnp.broadcast_to(residual, (self.n, self.count))
        padded = jnp.pad(residual, ((0, -self.n % self._fold), (0, 0)))
        return self._total(Lanes(self.x).pull(padded.reshape(-1, self.x.shape[2])), jnp.add)

    def fold(self, pair: Pair, values: Array, count: int) -> Array:
        values = jnp.broadcast_to(values, (self.n, count))
        rows, rest = self._folded(values), values[self.n - self._left :]
        total = self._total(folded(pair, lambda i: rows[i], rows.shape[0]), pair)
        return pair(total, folded(pair, lambda i: rest[i], self._left)) if self._left else total

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        last = None
        if self._left:
            last = jax.tree.map(self._last, rows), jnp.repeat(jnp.arange(self._fold) < self._left, self.count)[None]
        own = jax.tree.map(self._folded, rows)
        found = LanesByRow(self.x).running(self._spread(beta), own, kernel, last)
        return _sums(_each(lambda pair, leaf: self._total(leaf, pair), found))

    def whitened(self, factor: Factor) -> Design:
        spread = jax.tree.map(lambda leaf: jnp.tile(leaf, (*(1,) * (leaf.ndim - 1), self._fold)), factor)
        return Folded(_through_by_row(spread, self.x), self.height, self.count)

    def squares(self) -> Array:
        return self._unfolded(square(self.x))

    def _spread(self, beta: Array) -> Array:
        """(p, T) as (p, f T)."""
        return jnp.tile(beta, (1, self._fold))

    def _folded(self, leaf: Array) -> Array:
        """The data of the rows that are in all lanes, (n // f, f T)."""
        if leaf.shape[0] == 1:
            return self._spread(leaf) if leaf.shape[1] > 1 else leaf
        whole = self.n - self._left
        return jnp.broadcast_to(leaf[:whole], (whole, self.count)).reshape(-1, self.x.shape[2])

    def _last(self, leaf: Array) -> Array:
        """Those of the last row, and of empty places after it, (1, f T)."""
        if leaf.shape[0] == 1:
            return self._folded(leaf)
        own = jnp.broadcast_to(leaf[self.n - self._left :], (self._left, self.count))
        return jnp.pad(own, ((0, self._fold - self._left), (0, 0)), mode="edge").reshape(1, -1)

    def _unfolded(self, leaf: Array) -> Array:
        """(m, f T) as (n, T)."""
        return leaf.reshape(-1, self.count)[: self.n]

    def _total(self, leaf: Array, pair: Callable[[Array, Array], Array]) -> Array:
        """(..., f T) reduced to (..., T), in halves, which vectorizes."""
        leaf = leaf.reshape(*leaf.shape[:-1], self._fold, -1)
        while (count := leaf.shape[-2]) > 1:
            half = count // 2
            joined = pair(leaf[..., :half, :], leaf[..., half : 2 * half, :])
            leaf = joined if count % 2 == 0 else jnp.concatenate([joined, leaf[..., -1:, :]], -2)
        return leaf[..., 0, :]


def _through_by_row(factor: Factor, x: Array) -> Array:
    """L⁻¹D xᵢ of rows (n, p, T) or (n, p, 1), row by row."""

    def fill(i: Array, z: Array) -> Array:
        with straight_line(MOST_UNROLLED):
            return lax.dynamic_update_slice_in_dim(z, forward(factor, x[i])[None], i, 0)

    empty = varying(jnp.zeros((x.shape[0], *factor.scaling.shape), x.dtype), factor, x)
    return lax.fori_loop(jnp.int32(0), jnp.int32(x.shape[0]), fill, empty)


def _tail(n: int, start: int, leaf: Array, last: Array) -> Array:
    """The data of rows ``start`` to n, given those of all but the last, and its; what all share stays."""
    return leaf if leaf.shape[0] == 1 < n - 1 else jnp.concatenate([leaf[start:], last])


class _Running(NamedTuple):
    """The sums of the rows seen so far."""

    gram: tuple[Array, ...]  # strips of rows j to k of the Gram matrix up to column k, (k - j, k, T)
    score: Array  # (p, T)
    sums: tuple[Array, ...]  # each (1, T)
    minima: tuple[Array, ...]
    product: Array  # of 1+e over the rows since the last logarithm
    log_excess: Array


def _each(change: Callable[[Pair, Array], Array], running: _Running) -> _Running:
    """``change(pair, leaf)`` of every leaf, given what joins the parts of that leaf."""
    minima = jax.tree.map(functools.partial(change, jnp.minimum), running.minima)
    rest = jax.tree.map(functools.partial(change, jnp.add), running._replace(minima=()))
    return rest._replace(minima=minima)


def _sums(running: _Running) -> Sums:
    sums, minima, log_excess = jax.tree.map(lambda leaf: leaf[0], (running.sums, running.minima, running.log_excess))
    return Sums(_gram(running.gram), running.score, sums, minima, log_excess)


def _strips(p: int) -> list[tuple[int, int]]:
    """The first row of every strip of the Gram matrix, and the one after its last."""
    size = 1 if p <= NARROW else STRIP * -(-p // (STRIPS * STRIP))
    return [(j, min(j + size, p)) for j in range(0, p, size)]


def _gram(strips: tuple[Array, ...]) -> Array:
    """The symmetric (p, p, T) matrix of its strips: by one gather, which compiles fast."""
    p, lanes = strips[-1].shape[1:]
    place, end = np.zeros((p, p), int), 0
    for j, k in _strips(p):
        start, end = end, end + (k - j) * k
        place[j:k, :k] = np.arange(start, end).reshape(k - j, k)
    place = np.tril(place) + np.tril(place, -1).T
    return jnp.concatenate([strip.reshape(-1, lanes) for strip in strips])[place]


def _logged(carry: _Running) -> _Running:
    return carry._replace(product=jnp.ones_like(carry.product), log_excess=carry.log_excess + jnp.log(carry.product))
