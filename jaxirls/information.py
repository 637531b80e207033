r"""Autodiff as an independent witness of the Fisher information.

It differentiates the log-likelihood of the family as a function of the coefficients, and shares with the fit neither
the score nor the weights. Everything is at unit dispersion, like ``fit.information``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxirls.data import gram, linear
from jaxirls.estimate import Estimate, at_estimate, zeroed
from jaxirls.families import Family
from jaxirls.results import Fit

__all__ = ["InformationCheck", "check_information"]


class InformationCheck(NamedTuple):
    """What autodiff says of a fit. NaN where a dataset has no estimate.

    A difference of two information matrices A, B is max |A-B|ⱼₖ / √(Bⱼⱼ Bₖₖ), which no scaling of columns changes, over
    the coefficients that are not aliased.

    Attributes:
      score: gradient of the log-likelihood at the estimate, without any penalty, ``(..., p)``.
      observed: minus its Hessian, ``(..., p, p)``.
      expected: minus the Hessian with y put at the fitted mean: the expected information wherever the log-likelihood is
        linear in y, as in every exponential dispersion family, ``(..., p, p)``.
      difference: largest relative difference of ``expected`` to the fit's X'WX, ``(...)``.
      observed_difference: the same of ``observed``: zero for a canonical link, a property of the data for others.
      sampled: mean outer product of the scores of drawn responses, ``(..., p, p)``, or None without a key.
      sampled_error: its Monte Carlo standard error, entry by entry, or None.
    """

    score: Array
    observed: Array
    expected: Array
    difference: Array
    observed_difference: Array
    sampled: Array | None
    sampled_error: Array | None


def check_information(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    *,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
    key: Array | None = None,
    draws: int = 1000,
) -> InformationCheck:
    r"""Check the Fisher information of a fit by automatic differentiation of its log-likelihood.

    Args:
      fit, X, y, offset, freq_weights, var_weights, family: as in ``ji.residuals``.
      key: ``jax.random.key(...)``; with it the expected information is also estimated as E[s s'], s the score of
        responses drawn at the fitted means, which holds for log-likelihoods that are not linear in y too.
      draws: number of responses drawn a row.

    Returns:
      An ``InformationCheck``.

    Raises:
      ValueError: for data whose shapes do not fit, or fewer than two draws.

    Source: McCullagh & Nelder (1989), section 2.5; E[s s'] = -E[∂²ℓ] is the information identity.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
      >>> check = ji.check_information(ji.fit(X, y, ji.Binomial()), X, y)
      >>> bool(check.difference < 1e-5)
      True
    """
    if not (isinstance(draws, int) and draws >= 2):
        raise ValueError(f"check_information(draws={draws!r}): draws must be an integer of at least 2")
    at = at_estimate(fit, X, y, offset=offset, freq_weights=freq_weights, var_weights=var_weights, family=family)
    mean = _mean_response(at)
    score, observed = _derivatives(at, at.rows.y)
    _, expected = _derivatives(at, mean)
    whole = (at.valid | ~at.used).all(-1)

    def shown(value: Array) -> Array:
        return jnp.where(whole.reshape(whole.shape + (1,) * (value.ndim - whole.ndim)), value, jnp.nan)

    sampled, error = (None, None) if key is None else map(shown, _sampled(at, key, draws))
    return InformationCheck(
        score=shown(score),
        observed=shown(observed),
        expected=shown(expected),
        difference=shown(_difference(expected, at.fit)),
        observed_difference=shown(_difference(observed, at.fit)),
        sampled=sampled,
        sampled_error=error,
    )


def _mean_response(at: Estimate) -> Array:
    """E y, on the scale of the response."""
    return at.rows.y - at.rows.family.response_residual(at.eta, at.rows.y)


def _log_likelihood(at: Estimate, eta: Array, y: Array) -> Array:
    """Of every row at unit dispersion; zero where the weight is."""
    rows = at.rows.family.log_likelihood(eta, y, at.rows.var, 1.0)
    return jnp.where(at.used, at.rows.freq * rows, 0.0)


def _derivatives(at: Estimate, y: Array) -> tuple[Array, Array]:
    """Gradient and minus Hessian in the coefficients of every dataset, with responses ``y``."""
    params = at.fit.used_params
    params = jnp.broadcast_to(params, (*at.eta.shape[:-1], params.shape[-1]))

    # Datasets share no term: the gradient of the sum over all holds the gradient of each.
    score = jax.grad(lambda params: _log_likelihood(at, linear(params, at.rows), y).sum())

    def column(unit: Array) -> Array:
        return -jax.jvp(score, (params,), (jnp.broadcast_to(unit, params.shape),))[1]

    units = jnp.eye(params.shape[-1], dtype=params.dtype)
    return score(params), jnp.moveaxis(jax.lax.map(column, units), 0, -1)


def _sampled(at: Estimate, key: Array, draws: int) -> tuple[Array, Array]:
    """The mean of X' diag(s²) X over draws, s = ∂ℓ/∂η, and its standard error."""
    family, eta = at.rows.family, at.eta
    score = jax.grad(lambda eta, y: _unit_log_likelihood(at, eta, y).sum())

    def one(total: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
        y = family.sample(key, family.mean(eta), 1.0, jnp.broadcast_to(at.rows.var, eta.shape))
        weight = at.rows.freq * jnp.square(score(eta, y))
        information = gram(at.rows, weight)
        return (total[0] + information, total[1] + jnp.square(information)), None

    zero = jnp.zeros_like(jnp.broadcast_to(at.fit.information, (*eta.shape[:-1], *at.fit.information.shape[-2:])))
    (first, second), _ = jax.lax.scan(one, (zero, zero), jax.random.split(key, draws))
    mean = first / draws
    variance = jnp.maximum(second / draws - jnp.square(mean), 0.0) / (draws - 1)
    return mean, jnp.sqrt(variance)


def _unit_log_likelihood(at: Estimate, eta: Array, y: Array) -> Array:
    """Of one observation of every row."""
    return jnp.where(at.used, at.rows.family.log_likelihood(eta, y, at.rows.var, 1.0), 0.0)


def _difference(found: Array, fit: Fit) -> Array:
    expected = fit.information
    scale = jnp.where(fit.aliased, 1.0, jnp.sqrt(jnp.diagonal(expected, axis1=-2, axis2=-1)))
    difference = zeroed(found - expected, fit.aliased) / (scale[..., :, None] * scale[..., None, :])
    return jnp.abs(difference).max(axis=(-2, -1))
