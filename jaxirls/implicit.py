r"""The derivative of a fit, from the condition that defines it.

At the estimate the penalized score vanishes, s(β, data) = 0. Hence dβ = C⁻¹ ∂s/∂data · d(data) with C = -∂s/∂β, the
**observed** information plus the penalty's second derivative; the expected information is a different matrix off the
canonical link. Everything else a fit reports is a function of β and the data, differentiated as such; but what tells of
the fitting itself (``score_norm``, ``newton_decrement``, ``min_weight``) has derivative zero.

The rule for datasets without an estimate: where the status is not ``CONVERGED`` every derivative is zero, and no value
of that dataset, finite or not, enters those of another.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from jaxirls.data import AlignedRows, Data, aligned_rows, gram, linear
from jaxirls.dispersion import dispersion
from jaxirls.engine import Outcome
from jaxirls.linalg import HIGHEST, plus_diagonal
from jaxirls.status import Status
from jaxirls.trees import varying


def tangents(outcome: Outcome, data: Data, moved: Data) -> Outcome:
    """The tangent of ``outcome`` when ``data`` moves by ``moved``; linear in ``moved``."""
    solution = outcome.solution
    if data.fallback is not None:
        data, moved = (each._replace(penalty=each.fallback, fallback=None) for each in (data, moved))
    fitted = solution.status == Status.CONVERGED
    beta = jnp.where(fitted[..., None], solution.params, 0.0)

    def clean(data: Data) -> AlignedRows:
        rows = aligned_rows(data, fitted, solution.params.ndim - 1)
        return rows._replace(penalized=fitted & outcome.penalized)

    pull = jax.jvp(lambda data: score(beta, clean(data)), (data,), (moved,))[1]
    curvature = observed_information(beta, clean(data))
    identity = jnp.broadcast_to(jnp.eye(beta.shape[-1], dtype=beta.dtype), curvature.shape)
    curvature = jnp.where(fitted[..., None, None], curvature, identity)
    step = jnp.linalg.solve(curvature, pull[..., None])[..., 0]
    step = jnp.where(fitted[..., None], step, 0.0)
    change = jax.jvp(lambda beta, data: _measures(beta, clean(data)), (beta, data), (step, moved))[1]
    turned = change.pop("curvature")
    if solution.root is not None:
        change["root"] = _root_tangent(jnp.where(fitted[..., None, None], solution.root, identity), turned)

    still = jax.tree.map(no_tangent, outcome)
    change = {
        name: jnp.where(fitted.reshape(fitted.shape + (1,) * (value.ndim - fitted.ndim)), value, 0.0)
        for name, value in change.items()
    }
    return still._replace(solution=still.solution._replace(params=step, **change))


def _root_tangent(root: Array, moved: Array) -> Array:
    """dR for RᵀR = C: R⁻ᵀ dC R⁻¹ is (dR R⁻¹)ᵀ + dR R⁻¹, and dR R⁻¹ its upper triangle with half the diagonal."""
    half = solve_triangular(root, moved, trans=1)
    both = jnp.swapaxes(solve_triangular(root, jnp.swapaxes(half, -1, -2), trans=1), -1, -2)
    return (jnp.triu(both, 1) + 0.5 * jnp.triu(jnp.tril(both))) @ root


def no_tangent(leaf: Array) -> Array:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.zeros_like(leaf, dtype=leaf.dtype if floating else jax.dtypes.float0)


def score(beta: Array, data: AlignedRows) -> Array:
    residual = data.freq * data.var * data.family.working(linear(beta, data), data.y).score
    score = jnp.einsum("...np,...n->...p", data.X, residual, precision=HIGHEST)
    return score if data.penalty is None else score + _penalty_score(beta, data)


def _penalty_score(beta: Array, data: AlignedRows) -> Array:
    """What the penalty adds to the score, zero where there is none."""
    penalty: Any = data.penalty
    score = jnp.zeros_like(beta) if penalty.diagonal is None else -penalty.diagonal * beta
    if penalty.bends:
        score = score + _bend(beta, data)
    return jnp.where(data.penalized[..., None], score, 0.0)


def _bend(beta: Array, data: AlignedRows) -> Array:
    """½ Σᵢ qᵢ rᵢ xᵢ, see ``penalties``."""
    penalty: Any = data.penalty
    eta, weight = linear(beta, data), data.freq * data.var
    information = gram(data, weight * data.family.information(eta))
    identity = jnp.eye(beta.shape[-1], dtype=beta.dtype)
    lower = jnp.linalg.cholesky(jnp.where(data.penalized[..., None, None], information, identity))
    rows = jnp.broadcast_to(data.X, (*beta.shape[:-1], *data.X.shape[-2:]))
    variance = jnp.square(lax.linalg.triangular_solve(lower, rows, lower=True, transpose_a=True)).sum(-1)
    pull = 0.5 * weight * variance * penalty.rate(data.family, eta)
    pull = pull * data.scale[..., None] if isinstance(data.scale, Array) else pull
    return jnp.einsum("...np,...n->...p", data.X, pull, precision=HIGHEST)


def observed_information(beta: Array, data: AlignedRows) -> Array:
    """-∂score/∂β; not symmetric, where a penalty's score is no gradient."""
    eta = linear(beta, data)
    information = gram(data, data.freq * data.var * data.family.observed_information(eta, data.y))
    if data.penalty is None:
        return information
    p = beta.shape[-1]
    units = jnp.broadcast_to(jnp.eye(p, dtype=beta.dtype).reshape(p, *(1,) * (beta.ndim - 1), p), (p, *beta.shape))
    turn = jax.vmap(lambda unit: jax.jvp(lambda beta: _penalty_score(beta, data), (beta,), (unit,))[1])(
        varying(units, beta)
    )
    return information - jnp.moveaxis(turn, 0, -1)


def _measures(beta: Array, data: AlignedRows) -> dict[str, Array]:
    """The differentiable statistics of a fit, as functions of the estimate and the data."""
    family, eta, weight = data.family, linear(beta, data), data.freq * data.var
    deviance = (weight * family.unit_deviance(eta, data.y)).sum(-1)
    pearson = (weight * jnp.square(family.pearson_residual(eta, data.y))).sum(-1)
    nobs = data.freq.sum(-1)
    scale = dispersion(data.scale, family.has_dispersion, pearson, deviance, nobs - beta.shape[-1])
    at = family.likelihood_scale(scale, deviance, nobs)
    positive = jnp.where(at > 0, at, 1.0)[..., None]
    rows = family.log_likelihood(eta, data.y, data.var, positive)
    curvature = gram(data, weight * family.information(eta))
    if data.penalty is not None and data.penalty.diagonal is not None:
        curvature = plus_diagonal(curvature, jnp.where(data.penalized[..., None], data.penalty.diagonal, 0.0))
    return {
        "curvature": curvature,
        "deviance": deviance,
        "pearson_chi2": pearson,
        "nobs": nobs,
        "scale": scale,
        "llf": (data.freq * rows).sum(-1),
    }
