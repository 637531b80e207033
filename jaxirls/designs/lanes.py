"""One X a dataset, datasets last, in whole columns."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.designs.base import Design, Kernel, Pair, RowData, Sums, log_excess_of, repeated, square, through
from jaxirls.linalg import Factor
from jaxirls.trees import pytree

# Slabs of rows that are added elementwise before the slab itself is summed.
SLABS = 8


@pytree
class Lanes(Design):
    """One X a dataset, datasets last: ``x (n, p, T)``. Lanes are SIMD lanes; no operation crosses them."""

    x: Array

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(repeated(x, count))

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def p(self) -> int:
        return self.x.shape[1]

    def lanes(self, count: int) -> Array:
        return self.x

    def predict(self, beta: Array) -> Array:
        return combine(self.x, beta)

    def pull(self, residual: Array) -> Array:
        return (self.x * residual[:, None]).sum(0)

    def whitened(self, factor: Factor) -> Design:
        return type(self)(through(factor, self.x))

    def squares(self) -> Array:
        return square(self.x)

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        n, p, lanes = self.x.shape
        # The barriers keep XLA from computing the kernel, or a product, again for every sum that uses it.
        terms = lax.optimization_barrier(kernel(combine(self.x, beta), rows))
        weight, residual = (jnp.broadcast_to(term, (n, lanes)) for term in (terms.weight, terms.residual))
        columns = [self.x[:, j] for j in range(p)]
        weighted = [weight * column for column in columns]
        products = [weighted[j] * columns[k] for j in range(p) for k in range(j + 1)]
        products += [residual * column for column in columns]
        products += [jnp.broadcast_to(term, (n, lanes)) for term in terms.sums]
        lowest = [jnp.broadcast_to(term, (n, lanes)) for term in terms.minima]
        minima = tuple(_fold_rows(lowest, jnp.minimum)) if lowest else ()
        return Sums(*unpacked(_fold_rows(products, jnp.add), p), minima, log_excess_of(terms.excess))


def combine(x: Array, beta: Array) -> Array:
    """Σⱼ x[:, j] β[j] over (n, p, T) and (p, T), in the order of the columns, elementwise over lanes."""
    eta = x[:, 0] * beta[:1]
    for j in range(1, x.shape[1]):
        eta = eta + x[:, j] * beta[j : j + 1]
    return eta


def unpacked(totals: Array, p: int) -> tuple[Array, Array, tuple[Array, ...]]:
    """The Gram matrix (p, p, T), the score (p, T) and the further sums, each (T,), from all of them in rows, (k, T).

    Of the matrix these are the rows of the lower triangle; it is made by one gather, which compiles fast.
    """
    start = p * (p + 1) // 2
    place = np.zeros((p, p), int)
    place[np.tril_indices(p)] = np.arange(start)
    further = tuple(totals[i] for i in range(start + p, totals.shape[0]))
    return totals[:start][np.maximum(place, place.T)], totals[start : start + p], further


def _fold_rows(terms: list[Array], pair: Pair) -> Array:
    """``pair`` of the rows of each (n, T), (k, T).

    First slabs of rows elementwise, which vectorizes, then the slabs of all terms together: a reduction of each alone
    would be two kernels more for every term.
    """
    n = terms[0].shape[0]
    slab = n // SLABS
    whole, parts = slab * SLABS, []
    if slab:
        slabs = [functools.reduce(pair, [term[i : i + slab] for i in range(0, whole, slab)]) for term in terms]
        parts.append(lax.optimization_barrier(jnp.stack(slabs)))
    if whole < n:
        parts.append(jnp.stack([term[whole:] for term in terms]))
    return pair.reduce(jnp.concatenate(parts, 1), axis=1)
