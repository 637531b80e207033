"""One X a dataset, datasets last, in whole columns."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.designs.base import Design, Kernel, Rows, Sums, log_excess_of, repeated, square, through
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
        totals = _fold_rows(products, jnp.add, jnp.sum)
        lowest = [jnp.broadcast_to(term, (n, lanes)) for term in terms.minima]
        start = p * (p + 1) // 2
        return Sums(
            symmetric(totals[:start], p),
            totals[start : start + p],
            tuple(totals[start + p :]),
            tuple(_fold_rows(lowest, jnp.minimum, jnp.min)) if lowest else (),
            log_excess_of(terms.excess),
        )


def combine(x: Array, beta: Array) -> Array:
    """Σⱼ x[:, j] β[j] over (n, p, T) and (p, T), in the order of the columns, elementwise over lanes."""
    eta = x[:, 0] * beta[:1]
    for j in range(1, x.shape[1]):
        eta = eta + x[:, j] * beta[j : j + 1]
    return eta


def symmetric(triangle: Array, p: int) -> Array:
    """The (p, p, T) matrix of the rows of a lower triangle one after the other: by one gather, which compiles fast."""
    place = np.zeros((p, p), int)
    place[np.tril_indices(p)] = np.arange(p * (p + 1) // 2)
    return triangle[np.maximum(place, place.T)]


def _fold_rows(
    terms: list[Array], pair: Callable[[Array, Array], Array], reduce: Callable[[Array, int], Array]
) -> Array:
    """Each (n, T) reduced over its rows, (k, T).

    First slabs of rows elementwise, which vectorizes, then the slabs of all terms together: for every term alone XLA
    takes as long, and two more kernels.
    """
    n = terms[0].shape[0]
    slab = n // SLABS

    def fold(term: Array) -> Array:
        parts = [term[i * slab : (i + 1) * slab] for i in range(SLABS)]
        return functools.reduce(pair, parts)

    if not slab:
        return reduce(jnp.stack(terms), 1)
    slabs = [lax.optimization_barrier(jnp.stack([fold(term) for term in terms]))]
    rest = slab * SLABS
    if rest < n:
        slabs.append(jnp.stack([term[rest:] for term in terms]))
    return reduce(jnp.concatenate(slabs, 1), 1)
