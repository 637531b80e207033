"""Layouts whose sums are matrix products."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.designs.base import Design, Kernel, RowData, Sums, merged, reduced, repeated, some_rows, square, through
from jaxirls.designs.lanes import Lanes
from jaxirls.linalg import HIGHEST, Factor
from jaxirls.trees import pytree

# What a weighted copy is made of at a time: elements of X that stay in cache, and rows at least.
DENSE_ELEMENTS = 2**18
DENSE_ROWS = 256


@pytree
class Shared(Design):
    """One X for all lanes: ``x (n, p)``. All Gram matrices are one product ``Zᵀ W``, Z the products of columns."""

    x: Array

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(x[..., 0])

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def p(self) -> int:
        return self.x.shape[1]

    def lanes(self, count: int) -> Array:
        return repeated(self.x[:, :, None], count)

    def predict(self, beta: Array) -> Array:
        return _dot(self.x, beta)

    def pull(self, residual: Array) -> Array:
        return _dot(self.x.T, residual)

    def whitened(self, factor: Factor) -> Design:
        return Lanes(through(factor, self.x[:, :, None]))

    def squares(self) -> Array:
        return square(self.x[:, :, None])

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        p = self.p
        terms = kernel(self.predict(beta), rows)
        n, lanes = self.n, beta.shape[1]
        row, column = np.tril_indices(p)
        products = self.x[:, row] * self.x[:, column]
        packed = _dot(products.T, jnp.broadcast_to(terms.weight, (n, lanes)))
        score = _dot(self.x.T, jnp.broadcast_to(terms.residual, (n, lanes)))
        whole = np.zeros((p, p), int)
        whole[row, column] = whole[column, row] = np.arange(row.size)
        return Sums(packed[whole], score, *reduced(terms, lanes))


@pytree
class Dense(Design):
    """One X a dataset, datasets first: ``x (T, n, p)``, for many columns or rows: matrix products by blocks of rows."""

    x: Array

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(jnp.moveaxis(repeated(x, count), -1, 0))

    @property
    def n(self) -> int:
        return self.x.shape[1]

    @property
    def p(self) -> int:
        return self.x.shape[2]

    def lanes(self, count: int) -> Array:
        return self.x.transpose(1, 2, 0)

    def predict(self, beta: Array) -> Array:
        return jnp.einsum("tnp,pt->nt", self.x, beta, precision=HIGHEST)

    def pull(self, residual: Array) -> Array:
        return jnp.einsum("tnp,nt->pt", self.x, residual, precision=HIGHEST)

    def whitened(self, factor: Factor) -> Design:
        return Dense(jnp.moveaxis(through(factor, self.lanes(self.x.shape[0])), -1, 0))

    def squares(self) -> Array:
        return jnp.einsum("tnp,tnp->nt", self.x, self.x, precision=HIGHEST)

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        block = min(self.n, max(DENSE_ROWS, DENSE_ELEMENTS // (self.p * self.x.shape[0])))
        whole = self.n // block

        def part(start: Array | int, size: int) -> Sums:
            x, own = lax.dynamic_slice_in_dim(self.x, start, size, 1), some_rows(rows, start, size)
            terms = kernel(jnp.einsum("tnp,pt->nt", x, beta, precision=HIGHEST), own)
            lanes = beta.shape[1]
            weight = jnp.broadcast_to(terms.weight, (size, lanes))
            residual = jnp.broadcast_to(terms.residual, (size, lanes))
            weighted = x * weight.T[:, :, None]
            gram = jnp.einsum("tnp,tnq->pqt", weighted, x, precision=HIGHEST)
            score = jnp.einsum("tnp,nt->pt", x, residual, precision=HIGHEST)
            return Sums(gram, score, *reduced(terms, lanes))

        total = part(0, block)
        total = lax.fori_loop(1, whole, lambda i, carry: merged(carry, part(i * block, block)), total)
        rest = self.n - whole * block
        return merged(total, part(whole * block, rest)) if rest else total


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=HIGHEST)
