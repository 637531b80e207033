r"""The equations of one step, G δ = s with G = XᵀWX + P, made and factorized in one pass over the data.

There are two ways, and a third, without the matrix, in ``matrixfree``. ``by_cholesky`` sums G and factorizes it: one
product a row and pair of columns, and half of the digits lost to squaring, so that a design of condition κ costs κ²ε.
``by_qr`` orthogonalizes √W X and never forms G: several times the work, and κε. Both return RᵀR = G and R⁻ᵀs, from
which everything else follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxirls import linalg
from jaxirls.designs import Design, Kernel, Terms
from jaxirls.orthogonal import balanced, orthonormalize, project


class Equations(NamedTuple):
    """G δ = s at some β, for T datasets."""

    factor: Any  # of G: a ``linalg.Factor``, or ``matrixfree.Products``
    half: Array  # (p, T), R⁻ᵀs: its squares sum to s'G⁻¹s
    score: Array  # (p, T), s
    singular: Array  # (T,), G is not positive definite to rounding, on the columns that are not aliased
    sums: tuple[Array, ...]  # each (T,), of the kernel's further terms
    minima: tuple[Array, ...]
    log_excess: Array  # (T,), see ``designs.Terms``
    indefinite: Array | None = None  # (T,), the observed information is, beyond rounding; None, if not looked at


class System(NamedTuple):
    """What makes the equations: X, and the penalty."""

    design: Design
    curvature: Array | None  # (p, T) or (p, 1): the diagonal P
    aliased: Array | None = None  # (p, T): columns that the ones before them span; their coefficients are left out


Method = Callable[[System, Array, Any, Kernel], Equations]


def by_cholesky(system: System, beta: Array, rows: Any, kernel: Kernel) -> Equations:
    """From the Gram matrix; of no use to a system with aliased columns."""
    total = system.design.accumulate(beta, rows, kernel)
    gram, score = total.gram, total.score
    if system.curvature is not None:
        gram = gram + jnp.where(jnp.eye(system.design.p, dtype=bool)[:, :, None], system.curvature[None], 0.0)
        score = score - system.curvature * beta
    factor, half = linalg.factorize_with(gram, score)
    singular = ~(factor.pivot > pivot_tolerance(system.design.p, score.dtype))
    log_excess = jnp.zeros_like(factor.pivot) + total.log_excess
    return Equations(factor, half, score, singular, total.sums, total.minima, log_excess)


def pivot_tolerance(p: int, dtype: jnp.dtype) -> float:
    """The squared pivot below which an equilibrated p × p Gram matrix is singular to rounding."""
    return 4 * p * float(jnp.finfo(dtype).eps)


def by_qr(system: System, beta: Array, rows: Any, kernel: Kernel) -> Equations:
    """From √W X = QR, with R⁻ᵀs = Qᵀ(r/√w). No weight of zero is divided by: such rows enter by R⁻ᵀXᵀr."""
    design, lanes = system.design, beta.shape[1]
    x, terms = design.lanes(lanes), kernel(design.predict(beta), rows)
    weight, residual = (jnp.broadcast_to(term, (design.n, lanes)) for term in (terms.weight, terms.residual))
    root = jnp.sqrt(weight)
    divides = root > 0
    target = jnp.where(divides, residual / jnp.where(divides, root, 1.0), 0.0)
    score = project(x, residual)
    if system.curvature is not None:
        target = jnp.concatenate([target, -jnp.sqrt(system.curvature) * beta])
        score = score - system.curvature * beta
    matrix, unit = balanced(stacked(system, x * root[:, None]))
    q, r, _ = orthonormalize(matrix)
    factor = linalg.factor_of(r * unit[None])
    half = project(q, target) + linalg.forward(factor, project(x, jnp.where(divides, 0.0, residual)))
    left_out = factor.scaling == 0
    if system.aliased is not None:
        left_out, score = left_out & ~system.aliased, jnp.where(system.aliased, 0.0, score)
    return Equations(factor, half, score, left_out.any(0), *further(design, terms, lanes))


def further(design: Design, terms: Terms, lanes: int) -> tuple[tuple[Array, ...], tuple[Array, ...], Array]:
    """What the kernel asks for beside the equations, from terms of all rows at once, (n, T)."""
    sums = tuple(design.fold(jnp.add, term, lanes) for term in terms.sums)
    minima = tuple(design.fold(jnp.minimum, term, lanes) for term in terms.minima)
    log_excess = jnp.zeros_like(terms.residual) if terms.excess is None else jnp.log1p(terms.excess)
    return sums, minima, design.fold(jnp.add, log_excess, lanes)


def stacked(system: System, x: Array) -> Array:
    """Rows ``x (n, p, T)`` and, below them, √P; zero in the columns that are aliased."""
    p, lanes = x.shape[1:]
    if system.curvature is not None:
        root = jnp.broadcast_to(jnp.sqrt(system.curvature), (p, lanes))
        x = jnp.concatenate([x, jnp.where(jnp.eye(p, dtype=bool)[:, :, None], root[None], 0.0)])
    return x if system.aliased is None else jnp.where(system.aliased[None], 0.0, x)


def independent(system: System, present: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Which columns of X, on the rows that are ``present (n, T)``, those before them span; and how to fit the others.

    Returns the mask (p, T) of the former, and the map from a target (n, T) to the least squares coefficients (p, T).
    """
    lanes = present.shape[1]
    x = jnp.where(present[:, None], system.design.lanes(lanes), 0.0)
    matrix, unit = balanced(stacked(system, x))
    q, r, _ = orthonormalize(matrix)
    factor = linalg.factor_of(r * unit[None])

    def least_squares(target: Array) -> Array:
        return linalg.backward(factor, project(q[: system.design.n], jnp.where(present, target, 0.0)))

    return factor.scaling == 0, least_squares
