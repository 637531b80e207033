"""Lanes read a few rows a turn, for a CPU: an X a dataset, one X for all, and rows of few datasets side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.designs.base import Design, Kernel, Rows, Sums, Terms, factors, merged, repeated, some_rows
from jaxirls.designs.lanes import Lanes, combine
from jaxirls.designs.matrices import Dense
from jaxirls.trees import pytree, varying

# Lanes that the rows of few datasets are spread over.
WIDTH = 64
# Rows of the Gram matrix that are one strip: beyond ``NARROW`` columns a sum each would take long to compile.
NARROW = 8
STRIP = 4


@pytree
class LanesByRow(Lanes):
    """``Lanes`` read a few rows a turn into running sums that stay in cache."""

    @property
    def rows(self) -> int:
        """Rows a turn, for which the running sums are read and written once."""
        return min(self.n, 2 if self.p <= NARROW else 4)

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        n, p, lanes = self.n, self.p, beta.shape[1]
        whole, rest = divmod(n, self.rows)
        block = factors(self.x.dtype) // self.rows
        strips = _strips(p)

        def terms_of(start: Array | int, size: int) -> tuple[Array, Terms]:
            x, own = lax.dynamic_slice_in_dim(self.x, start, size), some_rows(rows, start, size)
            # The barriers keep XLA from computing the predictor, and the kernel, again for every sum that uses them.
            eta = lax.optimization_barrier(combine(x, beta))
            terms = lax.optimization_barrier(kernel(eta, own))
            return x, jax.tree.map(lambda term: jnp.broadcast_to(term, (size, lanes)), terms)

        def add(start: Array | int, carry: _Running, size: int = self.rows) -> _Running:
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

        def turns(first: Array, last: Array, carry: _Running) -> _Running:
            return lax.fori_loop(first, last, lambda i, carry: add(i * self.rows, carry), carry)

        def turns_and_log(i: Array, carry: _Running) -> _Running:
            return _logged(turns(i * block, jnp.minimum((i + 1) * block, whole), carry))

        _, shapes = jax.eval_shape(lambda: terms_of(0, 1))
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
            carry = _logged(add(n - rest, carry, rest))
        if shapes.excess is None:
            carry = turns(jnp.int32(0), jnp.int32(whole), carry)
        else:
            carry = lax.fori_loop(jnp.int32(0), jnp.int32(-(-whole // block)), turns_and_log, carry)
        sums, minima, log_excess = jax.tree.map(lambda leaf: leaf[0], (carry.sums, carry.minima, carry.log_excess))
        return Sums(_gram(carry.gram), carry.score, sums, minima, log_excess)


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
    """One X a dataset, for T datasets of many rows, T below ``WIDTH``: f = WIDTH // T rows of each are f lanes.

    Row i f + a of dataset t is at ``x[i, :, a T + t]``, the last n - m f rows are in ``rest``.
    """

    x: Array  # (m, p, f T)
    rest: Array  # (n - m f, p, T)

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        n, p, _ = x.shape
        fold = max(1, min(WIDTH // count, n))
        whole = n - n % fold
        x = repeated(x, count)
        folded = x[:whole].reshape(-1, fold, p, count).swapaxes(1, 2).reshape(-1)
        return cls(lax.optimization_barrier(folded).reshape(-1, p, fold * count), x[whole:])

    @property
    def n(self) -> int:
        return self._whole + self.rest.shape[0]

    @property
    def p(self) -> int:
        return self.x.shape[1]

    @property
    def _fold(self) -> int:
        return self.x.shape[2] // self.rest.shape[2]

    @property
    def _whole(self) -> int:
        """Rows that are folded."""
        return self.x.shape[0] * self._fold

    def lanes(self, count: int) -> Array:
        folded = self.x.reshape(-1, self.p, self._fold, count).swapaxes(1, 2)
        return jnp.concatenate([folded.reshape(-1, self.p, count), self.rest])

    def predict(self, beta: Array) -> Array:
        folded = combine(self.x, self._spread(beta)).reshape(-1, beta.shape[1])
        return jnp.concatenate([folded, combine(self.rest, beta)])

    def pull(self, residual: Array) -> Array:
        folded = Lanes(self.x).pull(self._folded(residual))
        return self._total(folded, jnp.add) + Lanes(self.rest).pull(self._left(residual))

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        found = LanesByRow(self.x).accumulate(self._spread(beta), jax.tree.map(self._folded, rows), kernel)
        minima = tuple(self._total(lowest, jnp.minimum) for lowest in found.minima)
        sums = jax.tree.map(lambda leaf: self._total(leaf, jnp.add), found._replace(minima=()))._replace(minima=minima)
        if not self.rest.shape[0]:
            return sums
        rest = Dense.of(self.rest, beta.shape[1])
        return merged(sums, rest.accumulate(beta, jax.tree.map(self._left, rows), kernel))

    def _spread(self, beta: Array) -> Array:
        """(p, T) as (p, f T)."""
        return jnp.tile(beta, (1, self._fold))

    def _folded(self, leaf: Array) -> Array:
        """The row data of the folded rows, (m, f T)."""
        if leaf.shape[0] == 1:
            return self._spread(leaf) if leaf.shape[1] > 1 else leaf
        count = self.rest.shape[2]
        return jnp.broadcast_to(leaf[: self._whole], (self._whole, count)).reshape(-1, self._fold * count)

    def _left(self, leaf: Array) -> Array:
        """The row data of the rest, (n - m f, T)."""
        return leaf if leaf.shape[0] == 1 else leaf[self._whole :]

    def _total(self, leaf: Array, pair: Callable[[Array, Array], Array]) -> Array:
        """(..., f T) reduced to (..., T), in halves, which vectorizes."""
        leaf = leaf.reshape(*leaf.shape[:-1], self._fold, -1)
        while (count := leaf.shape[-2]) > 1:
            half = count // 2
            joined = pair(leaf[..., :half, :], leaf[..., half : 2 * half, :])
            leaf = joined if count % 2 == 0 else jnp.concatenate([joined, leaf[..., -1:, :]], -2)
        return leaf[..., 0, :]


class _Running(NamedTuple):
    """The sums of the rows seen so far."""

    gram: tuple[Array, ...]  # strips of rows j to k of the Gram matrix up to column k, (k - j, k, T)
    score: Array  # (p, T)
    sums: tuple[Array, ...]  # each (1, T)
    minima: tuple[Array, ...]
    product: Array  # of 1+e over the rows since the last logarithm
    log_excess: Array


def _strips(p: int) -> list[tuple[int, int]]:
    """The first row of every strip of the Gram matrix, and the one after its last."""
    size = 1 if p <= NARROW else STRIP
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
