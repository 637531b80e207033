"""Variance functions μᵏ: normal (k = 0), Poisson (1), gamma (2), inverse Gaussian (3) and Tweedie's laws in between.

Where the mean is positive all terms come from log μ:
score = (y μ¹⁻ᵏ - μ²⁻ᵏ) (log μ)', weight = μ²⁻ᵏ (log μ)'², loss = ∫ μ¹⁻ᵏ dμ - y ∫ μ⁻ᵏ dμ.
"""

from __future__ import annotations

from dataclasses import field
from numbers import Real

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammainc, gammaincc, ndtr

from jaxirls.families.base import Family, Working, cast, lattice, poisson_counts, times
from jaxirls.links import Identity, InversePower, InverseSquared, Link, Log, Probit
from jaxirls.special import (
    LOG_2PI,
    box_cox,
    exp,
    half_deviance,
    log,
    log_factorial_excess,
    log_tweedie_series,
    mills_ratio,
    raised,
    tweedie_tails,
)
from jaxirls.trees import pytree

__all__ = ["Gamma", "Gaussian", "InverseGaussian", "Poisson", "PowerVariance", "Tweedie"]


@pytree
class Gaussian(Family):
    """Normal response, V = 1. Default link: identity."""

    has_dispersion = True
    canonical_link = Identity

    link: Link = field(default_factory=Identity)

    def working(self, eta: Array, y: Array) -> Working:
        residual = y - self.link.inverse(eta)
        slope = self.link.inverse_deriv(eta)
        return Working(residual * slope, jnp.square(slope), 0.5 * jnp.square(residual))

    def variance(self, mu: Array) -> Array:
        return jnp.ones_like(mu)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        return jnp.square(y - self.link.inverse(eta))

    def log_saturated(self, y: Array, precision: Array) -> Array:
        return 0.5 * (log(precision) - LOG_2PI)

    def likelihood_scale(self, scale: Array, deviance: Array, nobs: Array) -> Array:
        # With the identity link the variance is profiled out, as in statsmodels and R.
        return deviance / nobs if isinstance(self.link, Identity) else scale

    def pearson_residual(self, eta: Array, y: Array) -> Array:
        return y - self.link.inverse(eta)

    def anscombe_residual(self, eta: Array, y: Array) -> Array:
        return y - self.link.inverse(eta)

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        return ndtr((y - mu) / jnp.sqrt(cast(scale, mu)))

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        return ndtr((mu - y) / jnp.sqrt(cast(scale, mu)))

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        return mu + jnp.sqrt(cast(scale / weight, mu)) * jax.random.normal(key, mu.shape, mu.dtype)


class PowerVariance(Family):
    """Families with V(μ) = μᵏ and μ > 0, k >= 1: all that they share. A subclass gives k by ``_power``."""

    mean_range = (0.0, None)

    def _power(self, like: Array) -> Array | float:
        """k: a number known now, or an array of the dtype of ``like``."""
        raise NotImplementedError(f"{type(self).__name__} must define _power(like)")

    def _mean_to(self, exponent: Array | float, eta: Array) -> Array:
        """μᶜ."""
        if isinstance(exponent, float) and exponent in (0.0, 1.0):
            return self.link.inverse(eta) if exponent else jnp.ones_like(eta)
        return self.link.inverse_power(eta, exponent)

    def _integral(self, exponent: Array | float, eta: Array) -> Array:
        """∫ μᶜ⁻¹ dμ: μᶜ/c, or log μ at c = 0; for a traced exponent the form that is smooth between the two."""
        if not isinstance(exponent, float):
            return box_cox(exponent, self.link.log_inverse(eta))
        return self._mean_to(exponent, eta) / exponent if exponent else self.link.log_inverse(eta)

    def working(self, eta: Array, y: Array) -> Working:
        k = self._power(eta)
        rate, information = self.link.log_inverse_deriv(eta), self._mean_to(2 - k, eta)
        loss = self._integral(2 - k, eta) - times(y, self._integral(1 - k, eta))
        return Working((y * self._mean_to(1 - k, eta) - information) * rate, information * jnp.square(rate), loss)

    def variance(self, mu: Array) -> Array:
        return raised(mu, self._power(mu))

    def log_variance_slope(self, eta: Array) -> Array:
        return self._power(eta) * self.link.log_inverse_deriv(eta)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        return 2 * half_deviance(y, self.link.inverse(eta), self.link.log_inverse(eta), self._power(eta))

    def pearson_residual(self, eta: Array, y: Array) -> Array:
        return (y - self.link.inverse(eta)) * self._mean_to(-0.5 * self._power(eta), eta)

    def anscombe_residual(self, eta: Array, y: Array) -> Array:
        # A(y) = y^c/c with c = 1 - k/3.
        k, log_mu = self._power(eta), self.link.log_inverse(eta)
        positive = y > 0
        log_ratio = log(jnp.where(positive, y, 1.0)) - log_mu
        c = 1 - k / 3
        difference = jnp.where(positive, box_cox(c, log_ratio), -1 / jnp.maximum(c, 0.0))
        return self._mean_to(1 - 0.5 * k, eta) * difference

    def valid_response(self, y: Array) -> Array:
        return jnp.isfinite(y) & (y > 0)


@pytree
class Poisson(PowerVariance):
    """Counts, V = μ. Default link: log. Off unit dispersion (quasi) the log-likelihood is divided by it."""

    discrete = True
    canonical_link = Log

    link: Link = field(default_factory=Log)

    def _power(self, like: Array) -> float:
        return 1.0

    def log_saturated(self, y: Array, precision: Array) -> Array:
        return -precision * log_factorial_excess(y)

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        return jnp.where(y >= 0, gammaincc(lattice(jnp.maximum(y, 0.0), scale) + 1, mu / cast(scale, mu)), 0.0)

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        return jnp.where(y >= 0, gammainc(lattice(jnp.maximum(y, 0.0), scale) + 1, mu / cast(scale, mu)), 1.0)

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        unit = cast(scale / weight, mu)
        return unit * poisson_counts(key, mu / unit)

    def valid_response(self, y: Array) -> Array:
        return jnp.isfinite(y) & (y >= 0)


@pytree
class Gamma(PowerVariance):
    """Positive response of constant coefficient of variation, V = μ². Default link: inverse."""

    has_dispersion = True
    canonical_link = InversePower

    link: Link = field(default_factory=InversePower)

    def _power(self, like: Array) -> float:
        return 2.0

    def log_saturated(self, y: Array, precision: Array) -> Array:
        return log(precision) - log_factorial_excess(precision) - log(y)

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        shape = cast(1 / scale, mu) + jnp.zeros_like(mu)
        return gammainc(shape, shape * jnp.maximum(y, 0.0) / mu)

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        shape = cast(1 / scale, mu) + jnp.zeros_like(mu)
        return gammaincc(shape, shape * jnp.maximum(y, 0.0) / mu)

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        shape = cast(weight / scale, mu) + jnp.zeros_like(mu)
        return mu * (jax.random.gamma(key, shape, mu.shape, mu.dtype) / shape)


@pytree
class InverseGaussian(PowerVariance):
    """Positive, skewed response: a first passage time; V = μ³. Default link: 1/μ²."""

    has_dispersion = True
    canonical_link = InverseSquared

    link: Link = field(default_factory=InverseSquared)

    def _power(self, like: Array) -> float:
        return 3.0

    def log_saturated(self, y: Array, precision: Array) -> Array:
        return 0.5 * (log(precision) - LOG_2PI - 3 * log(y))

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        positive, shape = y > 0, cast(1 / scale, mu)
        y = jnp.where(positive, y, 1.0)
        z = jnp.sqrt(shape / y)
        reflected = exp(2 * shape / mu + Probit().log_inverse(-z * (y / mu + 1)))
        return jnp.where(positive, ndtr(z * (y / mu - 1)) + reflected, 0.0)

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        # Φ(-a) - e^{2λ/μ} Φ(-b) = φ(a) (M(a) - M(b)) with Mills' ratio M, as b² = a² + 4λ/μ.
        positive, shape = y > 0, cast(1 / scale, mu)
        y = jnp.where(positive, y, 1.0)
        z = jnp.sqrt(shape / y)
        a, b = z * (y / mu - 1), z * (y / mu + 1)
        density = exp(-0.5 * (jnp.square(a) + LOG_2PI))
        above = density * (mills_ratio(jnp.maximum(a, 0.0)) - mills_ratio(b))
        return jnp.where(positive, jnp.where(a > 0, above, 1 - self.cdf(y, mu, scale)), 1.0)

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        # Michael, Schucany & Haas (1976): the smaller root, or with odds its ratio to μ, the larger one.
        normal_key, uniform_key = jax.random.split(key)
        c = 0.5 * mu * cast(scale / weight, mu) * jnp.square(jax.random.normal(normal_key, mu.shape, mu.dtype))
        ratio = 1 / (1 + c + jnp.sqrt(c * (c + 2)))
        smaller = jax.random.uniform(uniform_key, mu.shape, mu.dtype) * (1 + ratio) < 1
        return mu * jnp.where(smaller, ratio, 1 / ratio)


@pytree
class Tweedie(PowerVariance):
    """Tweedie's response, V = μᵖ: for 1 < p < 2 a Poisson sum of gammas, zero with positive probability. Default: log.

    The log-likelihood is the exact series for 1 <= p <= 2; above, where the density is another series, the saddlepoint
    approximation with ½ log(2πφ yᵖ) (Nelder & Pregibon's extended quasi-likelihood), which is exact at p = 3. The
    distribution function is exact for 1 <= p <= 2 and p = 3, and NaN elsewhere.

    Args:
      power: p >= 1.
      link: the link.
    """

    has_dispersion = True
    has_atoms = True

    power: Array | float
    link: Link = field(default_factory=Log)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.power, Real) and not self.power >= 1:
            raise ValueError(f"power must be at least 1, got {self.power}; a constant variance is Gaussian()")

    def _power(self, like: Array) -> Array | float:
        return float(self.power) if isinstance(self.power, Real) else cast(self.power, like)

    def log_saturated(self, y: Array, precision: Array) -> Array:
        p, precision = cast(self.power, y) + jnp.zeros_like(y), precision + jnp.zeros_like(y)
        y_safe = jnp.where(y > 0, y, 1.0)
        between = (p > 1) & (p < 2)
        series = log_tweedie_series(y_safe, 1 / precision, jnp.where(between, p, 1.5))
        gamma = log(precision) - log_factorial_excess(precision) - log(y_safe)
        saddlepoint = 0.5 * (log(precision) - LOG_2PI - p * log(y_safe))
        poisson = -precision * log_factorial_excess(y_safe)
        positive = jnp.where(between, series, jnp.where(p == 1, poisson, jnp.where(p == 2, gamma, saddlepoint)))
        return jnp.where(y > 0, positive, 0.0)

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        return self._by_power(y, mu, scale, "cdf")

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        return self._by_power(y, mu, scale, "survival")

    def _by_power(self, y: Array, mu: Array, scale: Array | float, side: str) -> Array:
        """``cdf`` or ``survival``, by the law that the power stands for."""
        p, scale = cast(self.power, mu), cast(scale, mu)
        y, mu, p, scale = jnp.broadcast_arrays(y, mu, p, scale)
        between = (p > 1) & (p < 2)
        tails = tweedie_tails(jnp.maximum(y, 0.0), mu, scale, jnp.where(between, p, 1.5))
        compound = jnp.where(y < 0, *((0.0, tails[0]) if side == "cdf" else (1.0, tails[1])))
        named = {1: Poisson(), 2: Gamma(), 3: InverseGaussian()}
        value = jnp.where(between, compound, jnp.nan)
        for power, family in named.items():
            value = jnp.where(p == power, getattr(family, side)(y, mu, scale), value)
        return value

    def before(self, y: Array, scale: Array | float = 1.0) -> Array:
        p = cast(self.power, y)
        return jnp.where(p == 1, Poisson().before(y, scale), jnp.where((p < 2) & (y == 0), -1.0, y))

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        """A response for every element of ``mu``; for 1 < power < 2, and for the laws at powers 1, 2 and 3."""
        named: dict[float, Family] = {1.0: Poisson(), 2.0: Gamma(), 3.0: InverseGaussian()}
        p = self._power(mu)
        if isinstance(p, float):
            if p in named:
                return named[p].sample(key, mu, scale, weight)
            if p > 2:
                raise ValueError(f"power must lie between 1 and 2, or be 3, to draw a sample; got {p}")
        dispersion = cast(scale / weight, mu)
        count_key, sum_key = jax.random.split(key)
        count = poisson_counts(count_key, jnp.power(mu, 2 - p) / (dispersion * (2 - p)))
        shape = jnp.where(count > 0, count, 1.0) * (2 - p) / (p - 1)
        total = jax.random.gamma(sum_key, shape, mu.shape, mu.dtype) * dispersion * (p - 1) * jnp.power(mu, p - 1)
        return jnp.where(count > 0, total, 0.0)

    def valid_response(self, y: Array) -> Array:
        power = cast(self.power, y)
        return jnp.isfinite(y) & (power >= 1) & jnp.isfinite(power) & ((y > 0) | ((y == 0) & (power < 2)))
