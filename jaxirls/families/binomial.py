"""Binomial and negative binomial: the two laws whose terms come from a probability and its complement.

For a Bernoulli mean, score = y (log μ)' + (1-y) (log(1-μ))' and weight = -(log μ)' (log(1-μ))'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import betainc

from jaxirls.families.base import Family, Working, cast, lattice, poisson_counts, times
from jaxirls.links import Link, Log, Logit
from jaxirls.special import exp, half_deviance, log, log1p_small, log_factorial_excess, log_reflection
from jaxirls.trees import pytree, varying

__all__ = ["Binomial", "NegativeBinomial"]


@pytree
class Binomial(Family):
    """Successes in ``trials``, V = μ(1-μ). Default link: logit.

    With ``trials=1`` the response is 0/1, or a proportion whose number of trials is its ``var_weights`` (the
    log-likelihood then holds statsmodels' constant); with ``trials`` given, the response is a count between 0 and
    ``trials``, and μ is still the probability. ``scale`` does not enter the log-likelihood.

    Args:
      trials: number of trials, one value or one a row.
      link: the link.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> fit = ji.fit(jnp.ones((3, 1)), jnp.array([2.0, 5.0, 8.0]), ji.Binomial(trials=10))
      >>> print(fit.predict(jnp.ones((1, 1))))
      [0.5]
    """

    mean_range = (0.0, 1.0)
    discrete = True
    row_parameters = ("trials",)
    canonical_link = Logit

    trials: Array | float | None = None
    link: Link = field(default_factory=Logit)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.trials, Real):
            if not self.trials > 0:
                raise ValueError(f"trials must be positive, got {self.trials}; leave it out for a 0/1 response")
            if self.trials == 1:
                # One trial is the absence of the parameter: no array is carried or multiplied for it.
                object.__setattr__(self, "trials", None)

    def _m(self, like: Array) -> Array | float:
        return 1.0 if self.trials is None else cast(self.trials, like)

    def working(self, eta: Array, y: Array) -> Working:
        m = self._m(eta)
        failures = m - y
        up, down = self.link.log_inverse_deriv(eta), self.link.log_complement_deriv(eta)
        log_mu, log_rest, excess = self.link.log_shares(eta)
        loss = -times(y, log_mu) - times(failures, log_rest)
        if excess is not None and self.trials is not None:
            loss, excess = loss + m * log1p_small(excess), None
        # Of the canonical link the slope of the mean is the variance.
        weight = m * self.link.inverse_deriv(eta) if self.is_canonical else -m * up * down
        return Working(y * up + failures * down, weight, loss, excess)

    def variance(self, mu: Array) -> Array:
        return mu * (1 - mu)

    def log_variance_slope(self, eta: Array) -> Array:
        return self.link.log_inverse_deriv(eta) + self.link.log_complement_deriv(eta)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        m = self._m(eta)
        log_m = 0.0 if self.trials is None else log(m)

        def counts(eta: Array, y: Array) -> Array:
            log_mu, log_rest = self.link.log_inverse(eta), self.link.log_complement(eta)
            successes = half_deviance(y, m * self.link.inverse(eta), log_m + log_mu, 1.0)
            return 2 * (successes + half_deviance(m - y, m * exp(log_rest), log_m + log_rest, 1.0))

        if self.trials is not None:
            return counts(eta, y)
        return _unless_binary(y, lambda: counts(eta, y), 2 * self.working(eta, y).loss)

    def saturates(self, y: Array) -> Array | None:
        return None if self.trials is not None else ~_is_fraction(y)

    def log_saturated(self, y: Array, precision: Array) -> Array:
        if self.trials is not None:
            m = self._m(y)
            both = log_factorial_excess(y) + log_factorial_excess(m - y)
            return precision * (log_factorial_excess(m + jnp.zeros_like(y)) - both)

        def fractions() -> Array:
            # y log y + (1-y) log(1-y) - log Γ(1+y) Γ(2-y) from the smaller part x of y and 1-y: Γ(2-x) is (1-x) Γ(1-x),
            # and no two terms that are left cancel.
            part = jnp.where(_is_fraction(y), jnp.minimum(y, 1 - y), 0.5)
            return precision * (part * log(part / (1 - part)) - log_reflection(part))

        shape = jnp.broadcast_shapes(y.shape, jnp.shape(precision))
        return _unless_binary(y, fractions, varying(jnp.zeros(shape, y.dtype), y, precision))

    def log_likelihood(self, eta: Array, y: Array, weight: Array | float = 1.0, scale: Array | float = 1.0) -> Array:
        return super().log_likelihood(eta, y, weight)

    def likelihood_scale(self, scale: Array, deviance: Array, nobs: Array) -> Array:
        # A dispersion that is given (quasi-binomial) does not enter the log-likelihood.
        return jnp.ones_like(scale)

    def response_residual(self, eta: Array, y: Array) -> Array:
        # y - mμ = y(1-μ) - (m-y)μ, which neither tail loses.
        return y * exp(self.link.log_complement(eta)) - (self._m(eta) - y) * self.link.inverse(eta)

    def pearson_residual(self, eta: Array, y: Array) -> Array:
        # (y-mμ)/√(mμ(1-μ)) from the odds, which neither tail loses.
        m = self._m(eta)
        root = self.link.root_odds(eta)
        residual = y / root - (m - y) * root
        return residual if self.trials is None else residual / jnp.sqrt(m)

    def anscombe_residual(self, eta: Array, y: Array) -> Array:
        m = self._m(eta) + jnp.zeros_like(eta)
        log_mu, log_rest = self.link.log_inverse(eta), self.link.log_complement(eta)
        lower = log_mu < log_rest
        # The incomplete beta function of the smaller of μ and 1-μ.
        share, mu = jnp.where(lower, y, m - y) / m, exp(jnp.minimum(log_mu, log_rest))
        difference = _cox_snell(share) - _cox_snell(mu)
        return jnp.where(lower, 1.0, -1.0) * jnp.sqrt(m) * difference * exp(-(log_mu + log_rest) / 6)

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        inner, successes, failures = self._tails(y, mu, scale)
        return jnp.where(inner, betainc(failures, successes + 1, 1 - mu), jnp.where(y < 0, 0.0, 1.0))

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        inner, successes, failures = self._tails(y, mu, scale)
        return jnp.where(inner, betainc(successes + 1, failures, mu), jnp.where(y < 0, 1.0, 0.0))

    def _tails(self, y: Array, mu: Array, scale: Array | float) -> tuple[Array, Array, Array]:
        """Whether y is one of 0 ... m-1, and successes and failures there, harmless elsewhere."""
        trials, count = lattice(self._m(mu) + jnp.zeros_like(mu), scale), lattice(y, scale)
        inner = (count >= 0) & (count < trials)
        return inner, jnp.where(inner, count, 0.0), jnp.where(inner, trials - count, 1.0)

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        if self.trials is None and isinstance(weight, Real) and weight == 1:
            return (jax.random.uniform(key, mu.shape, mu.dtype) < mu).astype(mu.dtype)
        number = cast(weight, mu) * self._m(mu) + jnp.zeros_like(mu)
        return jax.random.binomial(key, number, mu, dtype=mu.dtype) / cast(weight, mu)

    def starting_mean(self, y: Array, average: Array) -> Array:
        if self.trials is not None:
            return (y + 0.5) / (self._m(y) + 1)
        return 0.5 * (y + 0.98 * average + 0.01)

    def starting_values(self, average: Array) -> Any:
        if self.trials is not None:
            return average
        # A row is a failure or a success, or is taken for a mixture of the two: no function of y is computed a row.
        ends = jnp.zeros_like(average), jnp.ones_like(average)
        return [super(Binomial, self).starting_regression(end, average) for end in ends]

    def starting_regression(self, y: Array, values: Any) -> tuple[Array, Array]:
        if self.trials is not None:
            return super().starting_regression(y, values)
        weight, target = (failure + y * (success - failure) for failure, success in zip(*values, strict=True))
        return weight, target

    def valid_response(self, y: Array) -> Array:
        return (y >= 0) & (y <= self._m(y))


@pytree
class NegativeBinomial(Family):
    """Overdispersed counts, V = μ + αμ² (NB2). Default link: log.

    With v = log αμ the law is logistic in v: αμ/(1+αμ) and 1/(1+αμ) are the probabilities of ``Logit`` at v. No tail of
    either parameter is lost: for α → 0 every function goes to Poisson's.

    Args:
      alpha: α > 0, or None: estimated by the fit. An array may hold zeros: Poisson, computed at α = eps², from which no
        result can tell it.
      link: the link.
    """

    mean_range = (0.0, None)
    discrete = True

    alpha: Array | float | None = None
    link: Link = field(default_factory=Log)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.alpha, Real) and not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}; for no overdispersion use Poisson()")

    @property
    def is_open(self) -> bool:
        return self.alpha is None

    def _alpha(self, like: Array) -> Array:
        if self.alpha is None:
            raise ValueError(
                "alpha is None, which leaves it to a fit; give its value here: NegativeBinomial(alpha=...)"
            )
        alpha = cast(self.alpha, like)
        return jnp.where(alpha == 0, jnp.finfo(like.dtype).eps ** 2, alpha)

    def working(self, eta: Array, y: Array) -> Working:
        alpha, log_mu, rate = self._alpha(eta), self.link.log_inverse(eta), self.link.log_inverse_deriv(eta)
        v = log_mu + log(alpha)
        size, rest = 1 / alpha, Logit().log_inverse_deriv(v)
        information = size * Logit().inverse(v)
        # (y+1/α) log(1+αμ) - y log μ. Beyond αμ = 1 the multiples of y log μ are cancelled by hand.
        *_, excess = Logit().log_shares(v)
        near = (y + size) * log1p_small(excess)
        loss = near + jnp.where(v >= 0, (y + size) * log(alpha) + size * log_mu, -times(y, log_mu))
        return Working((y * rest - information) * rate, information * jnp.square(rate), loss)

    def variance(self, mu: Array) -> Array:
        return mu + self._alpha(mu) * jnp.square(mu)

    def log_variance_slope(self, eta: Array) -> Array:
        odds = Logit().inverse(self.link.log_inverse(eta) + log(self._alpha(eta)))
        return self.link.log_inverse_deriv(eta) * (1 + odds)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        # Given y + 1/α trials the law is binomial, so the deviance is a sum of two Poisson ones.
        alpha, log_mu = self._alpha(eta), self.link.log_inverse(eta)
        v = log_mu + log(alpha)
        log_ratio = jnp.log1p(alpha * y) + Logit().log_complement(v)
        trials = 1 / alpha + y
        counts = half_deviance(y, trials * Logit().inverse(v), log_mu + log_ratio, 1.0)
        rest = half_deviance(1 / alpha, trials * Logit().log_inverse_deriv(v), log_ratio - log(alpha), 1.0)
        return 2 * (counts + rest)

    def log_saturated(self, y: Array, precision: Array) -> Array:
        alpha = self._alpha(y)
        size = 1 / alpha
        separate = log_factorial_excess(size) + log_factorial_excess(y)
        return precision * (log_factorial_excess(y + size) - separate - jnp.log1p(alpha * y))

    def anscombe_residual(self, eta: Array, y: Array) -> Array:
        alpha, mu = self._alpha(eta), self.link.inverse(eta)

        def transform(t: Array) -> Array:
            # ∫ (t+αt²)^{-1/3} dt, as an incomplete beta function of negative argument reduced to one of positive.
            odds = alpha * t
            return 3 * jnp.cbrt(jnp.square(odds) / (1 + odds)) - _cox_snell(odds / (1 + odds))

        difference = (transform(y) - transform(mu)) / jnp.cbrt(jnp.square(alpha))
        return difference / jnp.power(self.variance(mu), 1 / 6)

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        size, count, odds = self._tails(y, mu, scale)
        return jnp.where(y >= 0, betainc(size, count + 1, 1 / (1 + odds)), 0.0)

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        size, count, odds = self._tails(y, mu, scale)
        return jnp.where(y >= 0, betainc(count + 1, size, odds / (1 + odds)), 1.0)

    def _tails(self, y: Array, mu: Array, scale: Array | float) -> tuple[Array, Array, Array]:
        """The law's size, the count at y, and the odds αμ of a further count."""
        alpha = self._alpha(mu)
        return 1 / (alpha * cast(scale, mu)) + jnp.zeros_like(mu), lattice(jnp.maximum(y, 0.0), scale), alpha * mu

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        rate_key, count_key = jax.random.split(key)
        precision, alpha = cast(weight / scale, mu), self._alpha(mu)
        rate = jax.random.gamma(rate_key, precision / alpha + jnp.zeros_like(mu), mu.shape, mu.dtype) * alpha * mu
        return poisson_counts(count_key, rate) / precision

    def valid_response(self, y: Array) -> Array:
        valid = jnp.isfinite(y) & (y >= 0)
        if self.alpha is None:
            return valid
        alpha = cast(self.alpha, y)
        return valid & (alpha >= 0) & (alpha < jnp.inf)


# B(2/3, 2/3), the complete beta function.
_BETA = math.gamma(2 / 3) ** 2 / math.gamma(4 / 3)


def _cox_snell(x: Array) -> Array:
    """The incomplete beta function B(x; 2/3, 2/3) of Cox & Snell (1968)."""
    a = jnp.full_like(x, 2 / 3)
    return _BETA * betainc(a, a, x)


def _is_fraction(y: Array) -> Array:
    return (y != 0) & (y != 1)


def _unless_binary(y: Array, general: Callable[[], Array], binary: Array) -> Array:
    """``binary`` where y is 0 or 1, else ``general``, whose entropies or log-gammas are computed only if asked for."""
    fraction = _is_fraction(y)
    return lax.cond(jnp.any(fraction), lambda: jnp.where(fraction, general(), binary), lambda: binary)
