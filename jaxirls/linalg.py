r"""Small symmetric systems, one a lane: matrices ``(p, p, T)``, vectors ``(p, T)``, lanes last.

Up to a few columns (``folds.unrolls``) every entry is its own vector over the lanes and the factorization is
straight-line code; beyond them the same recurrences run column by column over whole slabs; beyond ``WIDE`` LAPACK
blocks them, lane by lane.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from jaxirls.folds import total, unrolls
from jaxirls.trees import varying

WIDE = 64
# Of every product of matrices: on some devices less is the default.
HIGHEST = lax.Precision.HIGHEST


class Factor(NamedTuple):
    """A = D⁻¹ L Lᵀ D⁻¹ with D = diag(``scaling``) and L of unit row norms: the Cholesky factor after equilibration.

    ``pivot`` is the smallest squared pivot of L, between 0 (singular) and 1 (orthogonal columns): 1/``pivot`` bounds
    from below the condition number of the scaled A. A lane that is not positive definite has ``pivot`` <= 0 or NaN.
    A ``scaling`` of zero leaves its row and column out of A: solutions are zero there.
    """

    lower: Array  # (p, p, T)
    scaling: Array  # (p, T)
    pivot: Array  # (T,)

    @property
    def lossy(self) -> Array:
        """Where A is so close to singular that having squared its root has cost more than half of the digits, (T,)."""
        return ~(self.pivot > float(jnp.finfo(self.pivot.dtype).eps) ** 0.5)

    def root(self) -> Array:
        """R = Lᵀ D⁻¹, upper triangular, with RᵀR = A; ``(p, p, T)``."""
        return jnp.swapaxes(self.lower, 0, 1) * _reciprocal(self.scaling)[None]

    def length(self, x: Array) -> Array:
        """√(xᵀAx)."""
        return jnp.sqrt(jnp.square(times_root(self, x)).sum(0))

    def reach(self, x: Array) -> Array:
        """Σⱼ |xⱼ| √Aⱼⱼ."""
        return (jnp.abs(x) * _reciprocal(self.scaling)).sum(0)


def factorize_with(matrix: Array, rhs: Array) -> tuple[Factor, Array]:
    """The factor, and ``forward(factor, rhs)``, which takes little more than the factor alone."""
    p, diagonal = matrix.shape[0], _diagonal(matrix)
    scaling = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    scaled = matrix * scaling[:, None] * scaling[None, :]
    if unrolls(p):
        lower, pivot, z = _eliminated(scaled, rhs * scaling)
    else:
        lower, pivot = (_cholesky_columns if p <= WIDE else _cholesky_by_lapack)(scaled)
    # The barrier keeps XLA from computing the pivot, or the scaling, again wherever it is asked for.
    factor = Factor(*lax.optimization_barrier((lower, scaling, pivot)))
    return factor, z if unrolls(p) else forward(factor, rhs)


def factor_of(root: Array) -> Factor:
    """The factor of RᵀR for an upper triangular ``root`` R; where its diagonal is zero, row and column are left out."""
    size, used = jnp.sqrt(total(lambda k: jnp.square(root[k]), root.shape[0])), _diagonal(root) != 0
    scaling = jnp.where(used, 1 / jnp.where(used, size, 1.0), 0.0)
    left_out = jnp.eye(root.shape[0], dtype=bool)[:, :, None] & ~used[None]
    lower = jnp.where(left_out, 1.0, jnp.swapaxes(root * scaling[None], 0, 1))
    return Factor(lower, scaling, jnp.square(_diagonal(lower)).min(0))


def forward(factor: Factor, rhs: Array) -> Array:
    """z with L z = D rhs; ``sum(z²)`` is rhsᵀ A⁻¹ rhs."""
    lower, scaled = factor.lower, rhs * factor.scaling
    p = lower.shape[0]
    if unrolls(p):
        z: list[Array] = []
        for j in range(p):
            z.append((scaled[j] - sum(lower[j, k] * z[k] for k in range(j))) / lower[j, j])
        return jnp.stack(z)
    if p > WIDE:
        return _solved(lower, scaled, transposed=False)

    def column(j: Array, rest: Array) -> Array:
        value = rest[j] / lower[j, j]
        below = jnp.arange(p)[:, None] > j
        return jnp.where(below, rest - lower[:, j] * value[None], rest).at[j].set(value)

    return lax.fori_loop(0, p, column, scaled)


def colored(factor: Factor, z: Array) -> Array:
    """D⁻¹ L z, (p, T): the inverse of ``forward``."""
    return total(lambda k: factor.lower[:, k] * z[k][None], z.shape[0]) * _reciprocal(factor.scaling)


def backward(factor: Factor, z: Array) -> Array:
    """x with Lᵀ D⁻¹ x = z."""
    lower = factor.lower
    p = lower.shape[0]
    if unrolls(p):
        x: list[Array] = [z[0]] * p
        for j in reversed(range(p)):
            x[j] = (z[j] - sum(lower[k, j] * x[k] for k in range(j + 1, p))) / lower[j, j]
        return jnp.stack(x) * factor.scaling
    if p > WIDE:
        return _solved(lower, z, transposed=True) * factor.scaling

    def column(i: Array, rest: Array) -> Array:
        j = p - 1 - i
        value = rest[j] / lower[j, j]
        above = jnp.arange(p)[:, None] < j
        return jnp.where(above, rest - lower[j] * value[None], rest).at[j].set(value)

    return lax.fori_loop(0, p, column, z) * factor.scaling


def norm(x: Array) -> Array:
    """Euclidean, of (p, T) whose squares may overflow; (T,)."""
    largest = jnp.abs(x).max(0)
    unit = jnp.where(largest > 0, largest, 1.0)
    return unit * jnp.sqrt(jnp.square(x / unit[None]).sum(0))


def log_determinant(factor: Factor) -> Array:
    """log det A, (T,)."""
    scaling = jnp.where(factor.scaling > 0, factor.scaling, 1.0)
    return 2 * (jnp.log(_diagonal(factor.lower)) - jnp.log(scaling)).sum(0)


def _diagonal(matrix: Array) -> Array:
    """(p, T), by strides: an index array would make of it a gather, or a scatter of its derivative."""
    p = matrix.shape[0]
    return lax.slice_in_dim(matrix.reshape(p * p, -1), 0, None, p + 1)


@jax.jit  # once in a program, as in ``special``
def _eliminated(a: Array, rhs: Array) -> tuple[Array, Array, Array]:
    """L, its smallest squared pivot and L⁻¹ rhs: column by column of L, with rhs as a row below A.

    NaN for the pivot, and a one in its place, where a lane is not positive definite.
    """
    # Of a difference of two products XLA fuses one with it, in one program the first and in another the second, which
    # differ in the last bit: behind the barrier the entries are numbers.
    a, rhs = lax.optimization_barrier((a, rhs))
    p = a.shape[0]
    columns: list[Array] = []  # from the diagonal on
    inverses = []  # of the diagonal
    for j in range(p):
        column = jnp.concatenate([a[j:, j], rhs[j : j + 1]])
        for k, before in enumerate(columns):
            column = column - before[j - k :] * before[j - k][None]
        # The barriers keep XLA from computing the column again for every one after it.
        inverses.append(lax.optimization_barrier(1 / jnp.sqrt(column[0])))
        positive = (inverses[j] < jnp.inf)[None]
        on_diagonal = np.arange(column.shape[0])[:, None] == 0
        scaled = jnp.where(positive, column * inverses[j][None], jnp.where(on_diagonal, 1.0, column))
        columns.append(lax.optimization_barrier(scaled))
    pivot = 1 / jnp.square(functools.reduce(jnp.maximum, inverses))
    # By one gather each, which compiles fast; the entries above L's diagonal are the last of all, zero.
    entries = jnp.concatenate([*columns, jnp.zeros_like(pivot)[None]])
    lower, z, start = np.full((p, p), entries.shape[0] - 1), np.zeros(p, int), 0
    for j in range(p):
        lower[j:, j], z[j] = start + np.arange(p - j), start + p - j
        start += p - j + 1
    return entries[lower], pivot, entries[z]


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

    start = varying((a, jnp.zeros_like(a), jnp.full_like(a[0, 0], jnp.inf)))
    _, lower, pivot = lax.fori_loop(0, p, column, start)
    return lower, pivot


def _cholesky_by_lapack(a: Array) -> tuple[Array, Array]:
    """NaN for a pivot, and the identity for a factor, where a lane is not positive definite."""
    matrix, identity = jnp.moveaxis(a, -1, 0), jnp.eye(a.shape[0], dtype=a.dtype)
    finite = jnp.isfinite(matrix).all((-2, -1), keepdims=True)
    lower = jnp.linalg.cholesky(jnp.where(finite, matrix, identity), symmetrize_input=False)
    good = finite & jnp.isfinite(lower).all((-2, -1), keepdims=True)
    lower = jnp.moveaxis(jnp.where(good, lower, identity), 0, -1)
    return lower, jnp.where(good[:, 0, 0], jnp.square(_diagonal(lower)).min(0), jnp.nan)


def _solved(lower: Array, rhs: Array, transposed: bool) -> Array:
    """L⁻¹ rhs, or L⁻ᵀ rhs, of L (p, p, T) and rhs (p, T)."""
    solution = solve_triangular(jnp.moveaxis(lower, -1, 0), rhs.T[:, :, None], trans=int(transposed), lower=True)
    return solution[:, :, 0].T


def half_inverse_of_root(root: Array) -> Array:
    """R⁻ᵀ for upper triangular R ``(..., p, p)``, batch axes in front, its columns brought to one length first.

    A row and column whose diagonal is zero is left out, as one of the identity; NaN where an entry is not finite.
    """
    finite = jnp.isfinite(root).all((-2, -1), keepdims=True)
    identity = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    left_out = jnp.diagonal(root, axis1=-2, axis2=-1) == 0
    size = jnp.sqrt(jnp.square(root).sum(-2))
    scaling = 1 / jnp.where(left_out, 1.0, size)
    upper = plus_diagonal(root * scaling[..., None, :], left_out.astype(root.dtype))
    half = solve_triangular(jnp.where(finite, upper, identity), identity, trans=1) * scaling[..., None, :]
    return jnp.where(finite, half, jnp.nan)


def times_root(factor: Factor, x: Array) -> Array:
    """R x, (p, T), of the factor's ``root``: the inverse of ``backward``; its squares sum to xᵀAx."""
    scaled = x * _reciprocal(factor.scaling)
    return total(lambda k: factor.lower[k] * scaled[k][None], x.shape[0])


def _reciprocal(x: Array) -> Array:
    """1/x, zero where x is."""
    return jnp.where(x == 0, 0.0, 1 / jnp.where(x == 0, 1.0, x))


def condition_number(root: Array) -> Array:
    """2-norm condition number of RᵀR for upper triangular R ``(..., p, p)``, batch axes in front.

    Rows and columns whose diagonal is zero are left out; NaN where an entry is not finite.
    """
    finite = jnp.isfinite(root).all((-2, -1))  # a NaN must not reach LAPACK
    # A diagonal entry lies between the smallest and the largest singular value: one more such row changes neither.
    diagonal = jnp.abs(jnp.diagonal(root, axis1=-2, axis2=-1))
    whole = plus_diagonal(root, jnp.where(diagonal == 0, diagonal.max(-1, keepdims=True), 0.0))
    identity = jnp.eye(root.shape[-1], dtype=root.dtype)
    singular_values = jnp.linalg.svd(jnp.where(finite[..., None, None], whole, identity), compute_uv=False)
    return jnp.where(finite, jnp.square(singular_values[..., 0] / singular_values[..., -1]), jnp.nan)


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
