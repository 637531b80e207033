r"""The deviance and the log-likelihood of a fit: the one at saturation (μ = y) less half the deviance.

Where every row of a lane has a log-likelihood of zero at saturation, as binary data have, the deviance is twice the
loss, which the last pass sums. For other lanes of such a family these are ``pending``, and found when the fit is done,
in two parts: what is to be computed is much, and few datasets need it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxirls.config import Algorithm
from jaxirls.problem import Problem
from jaxirls.rows import Rows

__all__ = [
    "Asked",
    "LaneEstimate",
    "Likelihood",
    "deviance",
    "log_likelihood",
    "pending_deviance",
    "pending_likelihood",
    "saturated",
]


class LaneEstimate(NamedTuple):
    """Where the likelihood of T datasets is asked for."""

    params: Array  # (p, T)
    aliased: Array  # (p, T)
    scale: Array  # (T,)


class Likelihood(NamedTuple):
    """Of T datasets."""

    deviance: Array  # (T,)
    llf: Array  # (T,)


class Asked(NamedTuple):
    """Likelihoods of which some are still to be found."""

    pending: Array  # (T,), which
    at: LaneEstimate
    known: Likelihood


def pending_deviance(problem: Problem, at: LaneEstimate, config: Algorithm) -> tuple[Array, Array]:
    """The deviances, NaN for a lane without an estimate; and the dispersions."""
    return deviance(problem, jnp.where(at.aliased, 0.0, at.params)), at.scale


def pending_likelihood(problem: Problem, reached: tuple[Array, Array], config: Algorithm) -> Likelihood:
    """The deviances, and with what they lack the log-likelihoods."""
    deviance, scale = reached
    at = problem.rows.family.likelihood_scale(scale, deviance, problem.nobs)
    return Likelihood(deviance, log_likelihood(saturated(problem, at), deviance, at))


def deviance(problem: Problem, beta: Array) -> Array:
    """At β, (p, T), with no cancellation between its two log-likelihoods; (T,)."""

    def row(data: tuple[Array, Rows]) -> Array:
        eta, rows = data
        return rows.weigh(rows.family.unit_deviance(eta, rows.y))

    return problem.design.total((problem.predict(beta), problem.rows), row, problem.lanes)


def saturated(problem: Problem, scale: Array) -> Array:
    """The log-likelihood at saturation and a dispersion (T,), all constants included; (T,)."""

    def row(data: tuple[Rows, Array]) -> Array:
        rows, scale = data
        var = jnp.ones_like(scale) if rows.var_weights is None else rows.var_weights
        term = rows.family.log_saturated(rows.y, jnp.where(var > 0, var, 1.0) / scale)
        term = term if rows.freq_weights is None else rows.freq_weights * term
        present = rows.weight
        return term if present is None else jnp.where(present > 0, term, 0.0)

    return problem.design.total((problem.rows, scale[None]), row, scale.shape[0])


def log_likelihood(saturated: Array, deviance: Array, scale: Array) -> Array:
    """Of T fits. Where the data are fitted exactly the dispersion is zero, and the term that would be 0/0 left out."""
    return saturated - 0.5 * jnp.where(deviance == 0, 0.0, deviance / scale)
