r"""What a fit says of the mean: predictions with their errors, and average marginal effects."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm
from jax.typing import ArrayLike

from jaxirls.estimate import align, check_fit, zeroed
from jaxirls.families import Family
from jaxirls.linalg import HIGHEST
from jaxirls.links import slope
from jaxirls.results import Fit, over_rows
from jaxirls.special import normal_reach

__all__ = ["MarginalEffects", "Prediction", "get_prediction", "margeff"]


class Prediction(NamedTuple):
    """Predictions at m rows, every field ``(..., m)``; ``pandas.DataFrame(prediction._asdict())`` tabulates one fit's.

    Attributes:
      mean, mean_se: the mean, and its standard error by the delta method.
      mean_ci_lower, mean_ci_upper: the ends of the linear predictor's interval, mapped by the link and put in order;
        NaN for an end that no mean corresponds to.
      linear, linear_se: the linear predictor and its standard error.
    """

    mean: Array
    mean_se: Array
    mean_ci_lower: Array
    mean_ci_upper: Array
    linear: Array
    linear_se: Array


def get_prediction(
    fit: Fit,
    X: ArrayLike,
    *,
    offset: ArrayLike | None = None,
    alpha: float = 0.05,
    cov: Array | None = None,
) -> Prediction:
    r"""The mean at new rows, with standard errors and intervals of level 1-alpha, as statsmodels' ``get_prediction``.

    se(η) = √(x' cov x), se(μ) = |dμ/dη| se(η).

    Args:
      fit: of ``ji.fit``.
      X: new rows, ``(..., m, p)``.
      offset: known part of the linear predictor, ``(..., m)``.
      alpha: one minus the level of the intervals, between 0 and 1.
      cov: covariance of the estimate, ``(..., p, p)``; ``fit.cov_params()`` if not given.

    Returns:
      A ``Prediction``. For ``Binomial(trials=...)`` the mean is the probability. Aliased columns are left out.

    Raises:
      ValueError: for shapes that do not fit.

    Where the link decreases, statsmodels returns the two ends of the mean's interval the other way round.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit = ji.fit(X, y, ji.Poisson())
      >>> predicted = ji.get_prediction(fit, X[-1:])
      >>> print(predicted.mean.round(1), predicted.mean_ci_lower.round(1), predicted.mean_ci_upper.round(1))
      [10.] [5.9] [16.7]
    """
    at = _at(fit, X, offset, cov)
    eta, link = at.eta, at.family.link
    if at.cov is None:
        # The half keeps the digits that x' cov x cancels.
        half = at.fit.half_inverse(aliased=0.0)
        size = jnp.square(jnp.einsum("...kp,...mp->...mk", half, at.X, precision=HIGHEST)).sum(-1)
        linear_se = jnp.sqrt(at.fit.scale[..., None] * size)
    else:
        linear_se = jnp.sqrt(jnp.einsum("...mp,...pq,...mq->...m", at.X, at.cov, at.X, precision=HIGHEST))
    reach = normal_reach(alpha, eta.dtype) * linear_se
    ends = [jnp.where(at.family.valid_predictor(end), link.inverse(end), jnp.nan) for end in (eta - reach, eta + reach)]
    decreasing = link.inverse_deriv(eta) < 0
    return Prediction(
        mean=link.inverse(eta),
        mean_se=jnp.abs(link.inverse_deriv(eta)) * linear_se,
        mean_ci_lower=jnp.where(decreasing, ends[1], ends[0]),
        mean_ci_upper=jnp.where(decreasing, ends[0], ends[1]),
        linear=eta,
        linear_se=linear_se,
    )


class MarginalEffects(NamedTuple):
    """Marginal effects of every column on the mean. Names are statsmodels'.

    Attributes:
      margeff: effects, ``(..., p)``; NaN for a constant column (an intercept), which has none, and an aliased one.
      margeff_cov: their covariance by the delta method, ``(..., p, p)``.
    """

    margeff: Array
    margeff_cov: Array

    @property
    def margeff_se(self) -> Array:
        """Standard errors, ``(..., p)``."""
        return jnp.sqrt(jnp.diagonal(self.margeff_cov, axis1=-2, axis2=-1))

    @property
    def tvalues(self) -> Array:
        """Effects over standard errors, ``(..., p)``."""
        return self.margeff / self.margeff_se

    @property
    def pvalues(self) -> Array:
        """Two-sided p-values of the standard normal, ``(..., p)``."""
        return 2 * norm.sf(jnp.abs(self.tvalues))

    def conf_int(self, alpha: float = 0.05) -> Array:
        """Intervals of level 1-alpha, ``(..., p, 2)``."""
        reach = normal_reach(alpha, self.margeff.dtype) * self.margeff_se
        return jnp.stack([self.margeff - reach, self.margeff + reach], axis=-1)


def margeff(
    fit: Fit,
    X: ArrayLike,
    *,
    at: str = "overall",
    dummy: bool = False,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    cov: Array | None = None,
) -> MarginalEffects:
    r"""Marginal effects on the mean, as statsmodels' ``get_margeff(method="dydx")``, with delta-method standard errors.

    The effect of column j is the average over the rows of ∂μ/∂xⱼ = βⱼ dμ/dη; with ``dummy``, for a column of zeros and
    ones, the average of μ(xⱼ=1) - μ(xⱼ=0).

    Args:
      fit: of ``ji.fit``.
      X: rows to average over, ``(..., n, p)``, as a rule those of the fit.
      at: "overall" averages the effects; "mean" gives the effect at the average row.
      dummy: whether columns of zeros and ones change by steps.
      offset: known part of the linear predictor, ``(..., n)`` (statsmodels leaves it out).
      freq_weights: weights of the averages, ``(..., n)`` (statsmodels leaves them out).
      cov: covariance of the estimate, ``(..., p, p)``; ``fit.cov_params()`` if not given.

    Returns:
      ``MarginalEffects`` of all p columns. Columns that are functions of each other are not recognized as such.

    Raises:
      ValueError: for an unknown ``at``, or shapes that do not fit.

    Source: Greene (2012), Econometric Analysis, section 17.3.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit = ji.fit(X, y, ji.Poisson())
      >>> print(ji.margeff(fit, X).margeff[1].round(2))
      1.8
    """
    if at not in ("overall", "mean"):
        raise ValueError(f'margeff(at={at!r}): at must be "overall" or "mean"')
    rows = _at(fit, X, offset, cov, freq_weights)
    X_, eta, share, beta = rows.X, rows.eta, rows.share, rows.fit.used_params
    used = (share > 0)[..., None]
    low, high = jnp.where(used, X_, jnp.inf).min(-2), jnp.where(used, X_, -jnp.inf).max(-2)
    steps = ((X_ == 0) | (X_ == 1) | ~used).all(-2) & dummy
    if at == "mean":
        X_ = jnp.einsum("...n,...np->...p", share, X_, precision=HIGHEST)[..., None, :]
        eta = (share * eta).sum(-1, keepdims=True)
        share = jnp.ones_like(eta)

    link = rows.family.link

    def average(term: Array) -> Array:
        return (jnp.where(share > 0, share * term, 0.0)).sum(-1)

    def average_columns(term: Array, columns: str) -> Array:
        kept = jnp.where((share > 0)[..., None], share[..., None] * term, 0.0)
        return jnp.einsum(f"...n{columns[0]},...n{columns[1]}->...{columns}", kept, X_, precision=HIGHEST)

    density = link.inverse_deriv(eta)
    identity = jnp.eye(beta.shape[-1], dtype=beta.dtype).reshape((1,) * (beta.ndim - 1) + (beta.shape[-1],) * 2)
    effect = average(density)[..., None] * beta
    curved = average_columns(slope(link.inverse_deriv, eta)[..., None], "ak")[..., 0, :]
    jacobian = beta[..., :, None] * curved[..., None, :] + average(density)[..., None, None] * identity

    if dummy:
        # From every row, column j is moved to 0 and to 1.
        ahead = beta[..., None, :]
        zero = eta[..., None] - X_ * ahead
        one = zero + ahead
        kept = jnp.where((share > 0)[..., None], share[..., None], 0.0)
        inverse, inverse_deriv = (jax.vmap(function, -1, -1) for function in (link.inverse, link.inverse_deriv))
        change = (kept * (inverse(one) - inverse(zero))).sum(-2)
        others = average_columns(inverse_deriv(one) - inverse_deriv(zero), "jk")
        own = (kept * inverse_deriv(one)).sum(-2)
        stepped = jnp.where(identity > 0, own[..., :, None], others)
        effect = jnp.where(steps, change, effect)
        jacobian = jnp.where(steps[..., None], stepped, jacobian)

    none = ~(high > low) | rows.fit.aliased
    effect = jnp.where(none, jnp.nan, effect)
    jacobian = jnp.where(none[..., None], jnp.nan, jacobian)
    known = zeroed(rows.fit.cov_params(), rows.fit.aliased) if rows.cov is None else rows.cov
    covariance = jnp.einsum("...jp,...pq,...kq->...jk", jacobian, known, jacobian, precision=HIGHEST)
    return MarginalEffects(effect, covariance)


class _Rows(NamedTuple):
    """Fits and rows to predict, aligned to the same batch axes."""

    fit: Fit
    family: Family  # its parameters broadcast over rows
    X: Array
    eta: Array
    cov: Array | None  # as given, zero for aliased coefficients
    share: Array  # of each row in an average


def _at(
    fit: Fit,
    X: ArrayLike,
    offset: ArrayLike | None,
    cov: Array | None,
    freq_weights: ArrayLike | None = None,
) -> _Rows:
    check_fit("fit", fit)
    dtype, p = fit.params.dtype, fit.params.shape[-1]
    named = {"X": (X, 2), "offset": (offset, 1), "freq_weights": (freq_weights, 1), "cov": (cov, 2)}
    arrays = {name: (jnp.asarray(value, dtype), core) for name, (value, core) in named.items() if value is not None}
    X = arrays["X"][0]
    if X.ndim < 2 or X.shape[-1] != p:
        raise ValueError(f"X has shape {X.shape}: expected (..., m, {p}), a column a coefficient")
    for name, core in {"offset": X.shape[-2:-1], "freq_weights": X.shape[-2:-1], "cov": (p, p)}.items():
        if name in arrays and arrays[name][0].shape[-len(core) :] != core:
            raise ValueError(f"{name} has shape {arrays[name][0].shape}: expected (..., {', '.join(map(str, core))})")
    depth = max(len(fit.shape), *(value.ndim - core for value, core in arrays.values()))
    fit = align(fit, depth)
    aligned = {
        name: value.reshape((1,) * (depth + core - value.ndim) + value.shape) for name, (value, core) in arrays.items()
    }
    weight = aligned.get("freq_weights", jnp.ones_like(aligned["X"][..., 0]))
    X = jnp.where((weight > 0)[..., None], aligned["X"], 0.0)
    eta = jnp.einsum("...mp,...p->...m", X, fit.used_params, precision=HIGHEST)
    if "offset" in aligned:
        eta = eta + jnp.where(weight > 0, aligned["offset"], 0.0)
    cov = zeroed(aligned["cov"], fit.aliased) if "cov" in aligned else None
    return _Rows(fit, over_rows(fit.family, depth), X, eta, cov, weight / weight.sum(-1, keepdims=True))
