r"""Families: the elementwise mathematics of the exponential dispersion models, as functions of η.

Everything is written in the linear predictor η, not in μ: a probability within 1e-300 of one, or a mean of e^700, has no
accurate route through μ. The loop asks a family for one thing, ``working``: the score, the weight and the loss of a row,
all three up to the dispersion φ,

    score  = φ ∂ℓ/∂η,      weight = -φ E[∂²ℓ/∂η²],      loss = -φ ℓ + (terms free of η),

for one unit of weight. No function clips; the tails are formulas of the link.

Two recipes cover all families. A Bernoulli mean takes its terms from log μ and log(1-μ):
score = y (log μ)' + (1-y) (log(1-μ))', weight = -(log μ)' (log(1-μ))'. A power variance V = μᵏ takes them from log μ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln, xlogy

from jaxirls.links import Identity, Link, Log, Logit

__all__ = ["Binomial", "Family", "Gaussian", "Poisson", "Working"]

LOG_2PI = 1.8378770664093453


class Working(NamedTuple):
    """What one pass needs of a row, for unit weight and unit dispersion."""

    score: Array
    weight: Array
    loss: Array


@dataclass(frozen=True)
class Family:
    """Base of all families: an immutable pytree whose leaves are its link and its parameters.

    Attributes:
      link: the link.
      has_dispersion: whether φ is a free parameter (estimated by the fit) or known to be one.
      mean_range: open interval of valid means.
      support: what a response must be, in words for the user.
    """

    has_dispersion: ClassVar[bool] = False
    mean_range: ClassVar[tuple[float | None, float | None]] = (None, None)
    support: ClassVar[str] = "any finite number"
    # Row parameters hold one value a row, like the response; all other parameters hold one value a dataset.
    row_parameters: ClassVar[tuple[str, ...]] = ()

    link: Link

    def working(self, eta: Array, y: Array) -> Working:
        """Score, weight and loss at η."""
        raise NotImplementedError

    def variance(self, mu: Array) -> Array:
        """V(μ), so that Var y = φ V(μ) / weight."""
        raise NotImplementedError

    def mean(self, eta: Array) -> Array:
        """E y at η, on the scale of μ."""
        return self.link.inverse(eta)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        """2φ (ℓ(y; y) - ℓ(y; μ)) for unit weight, with no cancellation between the two."""
        raise NotImplementedError

    def log_likelihood(self, eta: Array, y: Array, weight: Array, scale: Array) -> Array:
        """ℓ with all its constants, a row whose dispersion is ``scale / weight``."""
        raise NotImplementedError

    def pearson_residual(self, eta: Array, y: Array) -> Array:
        """(y-μ)/√V(μ)."""
        mu = self.mean(eta)
        return (y - mu) / jnp.sqrt(self.variance(mu))

    def starting_mean(self, y: Array, average: Array) -> Array:
        """A mean inside the family's range, near the response; ``average`` is the weighted mean of the dataset."""
        raise NotImplementedError

    def valid_response(self, y: Array) -> Array:
        """Whether each response lies in the support."""
        return jnp.isfinite(y)

    def starting_predictor(self, y: Array, average: Array) -> Array:
        """η of ``starting_mean``."""
        return self.link(self.starting_mean(y, average))

    @property
    def guards_domain(self) -> bool:
        """Whether the link reaches means outside the family's range, so that steps must be checked against it."""

        def inside(bound: float | None, limit: float | None) -> bool:
            return limit is None or bound == limit

        (low, high), (family_low, family_high) = self.link.image, self.mean_range
        whole_line = self.link.domain == (None, None)
        return not (whole_line and inside(low, family_low) and inside(high, family_high))

    def valid_predictor(self, eta: Array) -> Array:
        """Whether η is in the link's domain and its mean in the family's range."""
        if not self.guards_domain:
            return jnp.isfinite(eta)
        valid = jnp.isfinite(eta) & _between(eta, self.link.domain)
        return valid & _between(self.mean(eta), self.mean_range)


def _between(x: Array, interval: tuple[float | None, float | None]) -> Array:
    low, high = interval
    inside = jnp.ones_like(x, dtype=bool)
    if low is not None:
        inside &= x > low
    if high is not None:
        inside &= x < high
    return inside


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian(Family):
    """Normal response, V = 1. Default link: identity."""

    has_dispersion = True

    link: Link = field(default_factory=Identity)

    def working(self, eta: Array, y: Array) -> Working:
        residual = y - self.link.inverse(eta)
        slope = self.link.inverse_deriv(eta)
        return Working(residual * slope, jnp.square(slope), 0.5 * jnp.square(residual))

    def variance(self, mu: Array) -> Array:
        return jnp.ones_like(mu)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        return jnp.square(y - self.link.inverse(eta))

    def log_likelihood(self, eta: Array, y: Array, weight: Array, scale: Array) -> Array:
        variance = scale / weight
        return -0.5 * (self.unit_deviance(eta, y) / variance + jnp.log(variance) + LOG_2PI)

    def starting_mean(self, y: Array, average: Array) -> Array:
        return y


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Binomial(Family):
    """Successes in ``trials``, V = μ(1-μ). Default link: logit.

    With ``trials=1`` the response is 0/1, or a proportion whose number of trials is its ``var_weights``; with ``trials``
    given, the response is a count between 0 and ``trials``, and μ is still the probability.
    """

    mean_range = (0.0, 1.0)
    support = "between 0 and the number of trials"
    row_parameters = ("trials",)

    trials: Array | None = None
    link: Link = field(default_factory=Logit)

    def __init__(self, trials: Array | int | None = None, link: Link | None = None) -> None:
        # One trial is the absence of the parameter: no array is carried or multiplied for it.
        single = trials is None or (isinstance(trials, int) and trials == 1)
        object.__setattr__(self, "trials", None if single else trials)
        object.__setattr__(self, "link", Logit() if link is None else link)

    @property
    def _m(self) -> Array | float:
        return 1.0 if self.trials is None else self.trials

    def working(self, eta: Array, y: Array) -> Working:
        failures = self._m - y
        up, down = self.link.log_inverse_deriv(eta), self.link.log_complement_deriv(eta)
        log_mu, log_rest = self.link.log_inverse(eta), self.link.log_complement(eta)
        return Working(y * up + failures * down, -self._m * up * down, -_times(y, log_mu) - _times(failures, log_rest))

    def variance(self, mu: Array) -> Array:
        return mu * (1 - mu)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        failures = self._m - y
        return 2 * (
            _times(y, jnp.log(y / self._m) - self.link.log_inverse(eta))
            + _times(failures, jnp.log(failures / self._m) - self.link.log_complement(eta))
        )

    def log_likelihood(self, eta: Array, y: Array, weight: Array, scale: Array) -> Array:
        trials = self._m * weight
        successes, failures = y * weight, (self._m - y) * weight
        choose = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(failures + 1)
        log_mu, log_rest = self.link.log_inverse(eta), self.link.log_complement(eta)
        return choose + _times(successes, log_mu) + _times(failures, log_rest)

    def pearson_residual(self, eta: Array, y: Array) -> Array:
        # (y-mμ)/√(mμ(1-μ)) from the odds, which neither tail loses.
        log_odds = self.link.log_inverse(eta) - self.link.log_complement(eta)
        down, up = jnp.exp(-0.5 * log_odds), jnp.exp(0.5 * log_odds)
        return (y * down - (self._m - y) * up) / jnp.sqrt(jnp.asarray(self._m, eta.dtype))

    def starting_mean(self, y: Array, average: Array) -> Array:
        return (y + 0.5) / (self._m + 1)

    def valid_response(self, y: Array) -> Array:
        return (y >= 0) & (y <= self._m)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Poisson(Family):
    """Counts, V = μ. Default link: log."""

    mean_range = (0.0, None)
    support = "zero or positive"

    link: Link = field(default_factory=Log)

    def working(self, eta: Array, y: Array) -> Working:
        mu, rate = self.link.inverse(eta), self.link.log_inverse_deriv(eta)
        return Working((y - mu) * rate, mu * jnp.square(rate), mu - _times(y, self.link.log_inverse(eta)))

    def variance(self, mu: Array) -> Array:
        return mu

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        log_ratio = jnp.log(y) - self.link.log_inverse(eta)
        return 2 * (_times(y, log_ratio) - (y - self.link.inverse(eta)))

    def log_likelihood(self, eta: Array, y: Array, weight: Array, scale: Array) -> Array:
        mu = self.link.inverse(eta)
        return weight / scale * (_times(y, self.link.log_inverse(eta)) - mu - gammaln(y + 1))

    def starting_mean(self, y: Array, average: Array) -> Array:
        return 0.5 * (y + average)

    def valid_response(self, y: Array) -> Array:
        return jnp.isfinite(y) & (y >= 0)


def _times(a: Array, b: Array) -> Array:
    """a·b, zero wherever a is zero, even when b is not finite."""
    return jnp.where(a == 0, 0.0, a * jnp.where(a == 0, 0.0, b))
