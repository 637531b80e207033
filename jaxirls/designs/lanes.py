"""One X a dataset, datasets last, in whole columns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from jaxirls.designs.base import Design, Kernel, Rows, Sums, log_excess_of, repeated, square, through
from jaxirls.linalg import Factor
from jaxirls.trees import pytree

# Slabs of rows that are added elementwise before the slab itself is summed.
SLABS = 4


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

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        n, p, lanes = self.x.shape
        # The barriers keep XLA from computing the kernel, or a product, again for every sum that uses it.
        terms = lax.optimization_barrier(kernel(combine(self.x, beta), rows))
        weight, residual = (jnp.broadcast_to(term, (n, lanes)) for term in (terms.weight, terms.residual))
        columns = [self.x[:, j] for j in range(p)]
        weighted = [weight * column for column in columns]
        products = [weighted[j] * columns[k] for j in range(p) for k in range(j + 1)]
        products += [residual * column for column in columns]
        products += [jnp.broadcast_to(term, (n, lanes)) for term in terms.sums]
        sums = iter(_fold_rows(products, jnp.add, jnp.sum))
        gram = symmetric([jnp.stack([next(sums) for _ in range(j + 1)]) for j in range(p)])
        score = jnp.stack([next(sums) for _ in range(p)])
        lowest = [jnp.broadcast_to(term, (n, lanes)) for term in terms.minima]
        return Sums(
            gram, score, tuple(sums), tuple(_fold_rows(lowest, jnp.minimum, jnp.min)), log_excess_of(terms.excess)
        )


def combine(x: Array, beta: Array) -> Array:
    """Σⱼ x[:, j] β[j] over (n, p, T) and (p, T), in the order of the columns, elementwise over lanes."""
    eta = x[:, 0] * beta[:1]
    for j in range(1, x.shape[1]):
        eta = eta + x[:, j] * beta[j : j + 1]
    return eta


def symmetric(triangle: Sequence[Array | list[Array]]) -> Array:
    """The symmetric (p, p, T) matrix of a lower triangle given by rows."""
    p = len(triangle)
    return jnp.stack([jnp.stack([triangle[max(j, k)][min(j, k)] for k in range(p)]) for j in range(p)])


def _fold_rows(
    terms: list[Array], pair: Callable[[Array, Array], Array], reduce: Callable[[Array, int], Array]
) -> list[Array]:
    """Reduce each (n, T) over its rows: first ``SLABS`` slabs of rows elementwise, which vectorizes, then the slab."""
    n = terms[0].shape[0] if terms else 0
    slab = n // SLABS

    def fold(term: Array) -> Array:
        parts = [term[i * slab : (i + 1) * slab] for i in range(SLABS)]
        return functools.reduce(pair, parts)

    if not slab:
        return [reduce(term, 0) for term in terms]
    slabs = lax.optimization_barrier([fold(term) for term in terms])
    rest = slab * SLABS
    totals = [reduce(part, 0) for part in slabs]
    return totals if rest == n else [pair(a, reduce(term[rest:], 0)) for a, term in zip(totals, terms, strict=True)]
