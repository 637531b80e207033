r"""The equations of a step without their matrix: G δ = s by conjugate gradients, for p too large for p² numbers.

A product with G is two with X. What a factorization says of G is asked of the gradients: the decrement √(sᵀG⁻¹s), and
whether G is regular, by solving for a random right-hand side too. Such a vector lies outside the range of any
singular G, and the iterations for it then do not settle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.sparse.linalg import cg

from jaxirls.designs import Kernel
from jaxirls.equations import Equations, System, further
from jaxirls.linalg import HIGHEST

__all__ = ["by_products"]


class Products(NamedTuple):
    """G by its products, for T datasets; what is asked of a ``linalg.Factor`` and needs no more."""

    multiply: Callable[[Array], Array]
    diagonal: Array  # (p, T)

    def root(self) -> None:
        return None

    def length(self, x: Array) -> Array:
        return jnp.sqrt((x * self.multiply(x)).sum(0))

    def reach(self, x: Array) -> Array:
        return (jnp.abs(x) * jnp.sqrt(self.diagonal)).sum(0)


def by_products(system: System, beta: Array, rows: Any, kernel: Kernel, *, max_iter: int) -> Equations:
    """The equations at β, singular in lanes where ``max_iter`` products with G do not show that it is regular."""
    design, lanes = system.design, beta.shape[1]
    terms = kernel(design.predict(beta), rows)
    weight, residual = (jnp.broadcast_to(term, (design.n, lanes)) for term in (terms.weight, terms.residual))
    ridge = jnp.zeros_like(beta) if system.curvature is None else jnp.broadcast_to(system.curvature, beta.shape)
    score = design.pull(residual) - ridge * beta
    x = design.lanes(lanes)

    def multiply(v: Array) -> Array:
        return design.pull(weight * design.predict(v)) + ridge * v

    diagonal = jnp.einsum("npt,nt->pt", jnp.square(x), weight, precision=HIGHEST) + ridge
    data = (jnp.moveaxis(x, -1, 0), weight.T, ridge.T, diagonal.T, score.T)
    with jax.numpy_dtype_promotion("standard"):  # which JAX's own solver takes for granted
        square, settled = lax.map(partial(_decrement, max_iter), data)
    half = jnp.sqrt(jnp.maximum(square, 0.0))[None]
    return Equations(Products(multiply, diagonal), half, score, ~settled, *further(design, terms, lanes))


def _decrement(max_iter: int, lane: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array]:
    """sᵀG⁻¹s of one dataset, and whether it is to be trusted; G is brought to a unit diagonal first."""
    x, weight, ridge, diagonal, score = lane
    tolerance = float(jnp.finfo(x.dtype).eps) ** 0.5
    unit = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))

    def scaled(v: Array) -> Array:
        v = unit * v
        return unit * (jnp.matmul(weight * jnp.matmul(x, v, precision=HIGHEST), x, precision=HIGHEST) + ridge * v)

    def solve(rhs: Array) -> tuple[Array, Array]:
        solution = cg(scaled, rhs, tol=tolerance, maxiter=max_iter)[0]
        left = rhs - scaled(solution)
        return solution, (left @ left) <= 16 * tolerance**2 * (rhs @ rhs)

    other = jax.random.normal(jax.random.key(0), score.shape, x.dtype)
    rhs = unit * score
    (solution, first), (_, second) = solve(rhs), solve(other)
    return rhs @ solution, first & second
