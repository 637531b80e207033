r"""Small symmetric systems, one a lane: matrices ``(p, p, T)``, vectors ``(p, T)``, lanes last.

Up to ``UNROLL`` columns every entry is its own vector over the lanes and the factorization is straight-line code;
beyond it the same recurrences run column by column over whole slabs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

UNROLL = 8


class Factor(NamedTuple):
    """A = D⁻¹ L Lᵀ D⁻¹ with D = diag(``scaling``) and L of unit row norms: the Cholesky factor after equilibration.

    ``pivot`` is the smallest squared pivot of L, between 0 (singular) and 1 (orthogonal columns): 1/``pivot`` bounds
    from below the condition number of the scaled A. A lane that is not positive definite has ``pivot`` <= 0 or NaN.
    """

    lower: Array  # (p, p, T)
    scaling: Array  # (p, T)
    pivot: Array  # (T,)


def factorize(matrix: Array) -> Factor:
    """Equilibrated Cholesky factorization of every lane; never fails, see ``Factor.pivot``."""
    p = matrix.shape[0]
    diagonal = matrix[jnp.arange(p), jnp.arange(p)]
    scaling = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    scaled = matrix * scaling[:, None] * scaling[None, :]
    lower, pivot = _cholesky_unrolled(scaled) if p <= UNROLL else _cholesky_columns(scaled)
    return Factor(lower, scaling, pivot)


def solve(factor: Factor, rhs: Array) -> Array:
    """x with A x = rhs, for ``rhs`` of shape (p, T)."""
    return backward(factor, forward(factor, rhs))


def forward(factor: Factor, rhs: Array) -> Array:
    """z with L z = D rhs; ``sum(z²)`` is rhsᵀ A⁻¹ rhs."""
    lower, scaled = factor.lower, rhs * factor.scaling
    p = lower.shape[0]
    if p <= UNROLL:
        z: list[Array] = []
        for j in range(p):
            z.append((scaled[j] - sum(lower[j, k] * z[k] for k in range(j))) / lower[j, j])
        return jnp.stack(z)

    def column(j: Array, rest: Array) -> Array:
        value = rest[j] / lower[j, j]
        below = jnp.arange(p)[:, None] > j
        return jnp.where(below, rest - lower[:, j] * value[None], rest).at[j].set(value)

    return lax.fori_loop(0, p, column, scaled)


def backward(factor: Factor, z: Array) -> Array:
    """x with Lᵀ D⁻¹ x = z."""
    lower = factor.lower
    p = lower.shape[0]
    if p <= UNROLL:
        x: list[Array] = [z[0]] * p
        for j in reversed(range(p)):
            x[j] = (z[j] - sum(lower[k, j] * x[k] for k in range(j + 1, p))) / lower[j, j]
        return jnp.stack(x) * factor.scaling

    def column(i: Array, rest: Array) -> Array:
        j = p - 1 - i
        value = rest[j] / lower[j, j]
        above = jnp.arange(p)[:, None] < j
        return jnp.where(above, rest - lower[j] * value[None], rest).at[j].set(value)

    return lax.fori_loop(0, p, column, z) * factor.scaling


def log_determinant(factor: Factor) -> Array:
    """log det A, (T,)."""
    diagonal = jnp.arange(factor.lower.shape[0])
    return 2 * (jnp.log(factor.lower[diagonal, diagonal]) - jnp.log(factor.scaling)).sum(0)


def _cholesky_unrolled(a: Array) -> tuple[Array, Array]:
    p = a.shape[0]
    lower: list[list[Array]] = [[jnp.zeros_like(a[0, 0])] * p for _ in range(p)]
    pivot = jnp.full_like(a[0, 0], jnp.inf)
    for j in range(p):
        square = a[j, j] - sum(jnp.square(lower[j][k]) for k in range(j))
        pivot = jnp.minimum(pivot, square)
        lower[j][j] = jnp.sqrt(jnp.where(square > 0, square, 1.0))
        for i in range(j + 1, p):
            lower[i][j] = (a[i, j] - sum(lower[i][k] * lower[j][k] for k in range(j))) / lower[j][j]
    return jnp.stack([jnp.stack(row) for row in lower]), pivot


def _cholesky_columns(a: Array) -> tuple[Array, Array]:
    p = a.shape[0]
    rows = jnp.arange(p)[:, None]

    def column(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rest, lower, pivot = carry
        square = rest[j, j]
        root = jnp.sqrt(jnp.where(square > 0, square, 1.0))
        entries = jnp.where(rows > j, rest[:, j] / root[None], 0.0).at[j].set(root)
        rest = rest - entries[:, None] * entries[None, :]
        return rest, lower.at[:, j].set(entries), jnp.minimum(pivot, square)

    start = (a, jnp.zeros_like(a), jnp.full_like(a[0, 0], jnp.inf))
    _, lower, pivot = lax.fori_loop(0, p, column, start)
    return lower, pivot


def condition_number(matrix: Array) -> Array:
    """2-norm condition number of ``matrix (..., p, p)``, batch axes in front; NaN where an entry is not finite."""
    finite = jnp.isfinite(matrix).all((-2, -1))  # a NaN must not reach LAPACK
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return jnp.where(finite, jnp.linalg.cond(jnp.where(finite[..., None, None], matrix, identity)), jnp.nan)


def half_inverse(matrix: Array) -> Array:
    """H with A⁻¹ = HᵀH for ``matrix (..., p, p)``, batch axes in front, by Cholesky after equilibration.

    NaN where A is not positive definite to working precision, or not finite: no such matrix reaches LAPACK.
    """
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    scaling = jnp.where(diagonal > 0, diagonal, 1.0) ** -0.5
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    finite = jnp.isfinite(matrix).all((-2, -1), keepdims=True) & (diagonal > 0).all(-1)[..., None, None]
    scaled = jnp.where(finite, matrix * scaling[..., :, None] * scaling[..., None, :], identity)
    lower = jnp.linalg.cholesky(scaled, symmetrize_input=False)
    good = finite & jnp.isfinite(lower).all((-2, -1), keepdims=True)
    half = solve_triangular(jnp.where(good, lower, identity), identity, lower=True) * scaling[..., None, :]
    return jnp.where(good, half, jnp.nan)


def plus_diagonal(matrix: Array, diagonal: Array) -> Array:
    """``matrix (..., p, p)``, batch axes in front, with ``diagonal (..., p)`` added to its diagonal."""
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return matrix + diagonal[..., None] * identity.reshape((1,) * (diagonal.ndim - 1) + identity.shape)
