r"""The derivative of a fit, from the condition that defines it.

At the estimate the penalized score vanishes, s(β, data) = 0. Hence dβ = C⁻¹ ∂s/∂data · d(data) with C = -∂s/∂β, the
**observed** information plus the penalty's second derivative; the expected information is a different matrix off the
canonical link. Everything else a fit reports is a function of β and the data, differentiated as such.

The rule for datasets without an estimate: where the status is not ``CONVERGED`` every derivative is zero, and no value
of that dataset, finite or not, enters those of another.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_solve

from jaxirls.families import Family
from jaxirls.irls import Solution
from jaxirls.linalg import plus_diagonal
from jaxirls.status import Status

HIGHEST = lax.Precision.HIGHEST


class Data(NamedTuple):
    """The arguments of a fit, each with its own leading axes, all of one dtype."""

    X: Array
    y: Array
    offset: Array | None
    freq_weights: Array | None
    var_weights: Array | None
    family: Family
    curvature: Array | None
    start: Array | None
    scale: Array | None


def core_ranks(data: Data) -> Data:
    """The number of trailing axes of each leaf that are not batch axes."""
    given = {"X": 2, "y": 1, "offset": 1, "freq_weights": 1, "var_weights": 1, "curvature": 1, "start": 1, "scale": 0}
    ranks = {name: rank for name, rank in given.items() if getattr(data, name) is not None}
    rows = data.family.row_parameters
    family = jax.tree_util.tree_map_with_path(
        lambda path, leaf: int(getattr(path[0], "name", None) in rows), data.family
    )
    absent = dict.fromkeys(Data._fields)
    return Data(**{**absent, **ranks, "family": family})


def tangents(solution: Solution, data: Data, moved: Data) -> Solution:
    """The tangent of ``solution`` when ``data`` moves by ``moved``; linear in ``moved``."""
    fitted = solution.status == Status.CONVERGED
    beta = jnp.where(fitted[..., None], solution.params, 0.0)

    def clean(data: Data) -> _Clean:
        return _harmless(data, fitted, solution.params.ndim - 1)

    pull = jax.jvp(lambda data: _score(beta, clean(data)), (data,), (moved,))[1]
    curvature = _observed(beta, clean(data))
    identity = jnp.broadcast_to(jnp.eye(beta.shape[-1], dtype=beta.dtype), curvature.shape)
    curvature = jnp.where(fitted[..., None, None], curvature, identity)
    step = cho_solve((jnp.linalg.cholesky(curvature), True), pull[..., None])[..., 0]
    step = jnp.where(fitted[..., None], step, 0.0)
    change = jax.jvp(lambda beta, data: _measures(beta, clean(data)), (beta, data), (step, moved))[1]

    still = jax.tree.map(_no_tangent, solution)
    change = {
        name: jnp.where(fitted.reshape(fitted.shape + (1,) * (value.ndim - fitted.ndim)), value, 0.0)
        for name, value in change.items()
    }
    return still._replace(params=step, **change)


def _no_tangent(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros_like(leaf)
    return jnp.zeros(leaf.shape, jax.dtypes.float0)


class _Clean(NamedTuple):
    """Data without traps, aligned to the batch axes of the solution."""

    X: Array
    y: Array
    offset: Array | None
    freq: Array
    var: Array
    family: Family
    curvature: Array | None
    scale: Array | None


def _harmless(data: Data, fitted: Array, depth: int) -> _Clean:
    """The data with ``depth`` batch axes each, and weight zero and harmless values wherever nothing was fitted."""
    ranks = core_ranks(data)

    def aligned(leaf: Array, rank: int) -> Array:
        return leaf.reshape((1,) * (depth - (leaf.ndim - rank)) + leaf.shape)

    data = jax.tree.map(aligned, data, ranks)
    family = jax.tree.map(lambda leaf, rank: leaf if rank else leaf[..., None], data.family, ranks.family)
    freq = jnp.ones_like(data.y) if data.freq_weights is None else data.freq_weights
    var = jnp.ones_like(data.y) if data.var_weights is None else data.var_weights
    used = fitted[..., None] & (freq > 0) & (var > 0)
    return _Clean(
        X=jnp.where(jnp.isfinite(data.X), data.X, 0.0),
        y=jnp.where(used & family.valid_response(data.y), data.y, 0.5),
        offset=None if data.offset is None else jnp.where(jnp.isfinite(data.offset), data.offset, 0.0),
        freq=jnp.where(used, freq, 0.0),
        var=jnp.where(var > 0, var, 1.0),
        family=family,
        curvature=data.curvature,
        scale=data.scale,
    )


def _linear(beta: Array, data: _Clean) -> Array:
    eta = jnp.einsum("...np,...p->...n", data.X, beta, precision=HIGHEST)
    return eta if data.offset is None else eta + data.offset


def _score(beta: Array, data: _Clean) -> Array:
    residual = data.freq * data.var * data.family.working(_linear(beta, data), data.y).score
    score = jnp.einsum("...np,...n->...p", data.X, residual, precision=HIGHEST)
    return score if data.curvature is None else score - data.curvature * beta


def _gram(data: _Clean, weight: Array) -> Array:
    return jnp.einsum("...np,...nq->...pq", data.X * weight[..., None], data.X, precision=HIGHEST)


def _observed(beta: Array, data: _Clean) -> Array:
    """-∂score/∂β."""
    eta = _linear(beta, data)
    slope = jax.jvp(lambda eta: data.family.working(eta, data.y).score, (eta,), (jnp.ones_like(eta),))[1]
    gram = _gram(data, -data.freq * data.var * slope)
    return gram if data.curvature is None else plus_diagonal(gram, data.curvature)


def _measures(beta: Array, data: _Clean) -> dict[str, Array]:
    """The differentiable statistics of a fit, as functions of the estimate and the data."""
    family, eta, weight = data.family, _linear(beta, data), data.freq * data.var
    deviance = (weight * family.unit_deviance(eta, data.y)).sum(-1)
    pearson = (weight * jnp.square(family.pearson_residual(eta, data.y))).sum(-1)
    nobs = data.freq.sum(-1)
    if data.scale is not None:
        scale = jnp.broadcast_to(data.scale, pearson.shape)
    elif family.has_dispersion:
        scale = pearson / jnp.where(nobs > beta.shape[-1], nobs - beta.shape[-1], 1.0)
    else:
        scale = jnp.ones_like(pearson)
    at = family.likelihood_scale(scale, deviance, nobs)
    positive = jnp.where(at > 0, at, 1.0)[..., None]
    rows = family.log_likelihood(eta, data.y, data.var, positive)
    return {
        "information": _gram(data, weight * family.working(eta, data.y).weight),
        "deviance": deviance,
        "pearson_chi2": pearson,
        "nobs": nobs,
        "scale": scale,
        "llf": (data.freq * rows).sum(-1),
    }
