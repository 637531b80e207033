"""The protocol of a family."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxirls.links import Interval, Link, slope
from jaxirls.special import log, log1p_small

__all__ = ["NOT_STORED", "Family", "NotStored", "Working", "cast", "lattice", "poisson_counts", "times"]


class Working(NamedTuple):
    """What one pass needs of a row, for unit weight and unit dispersion.

    The loss is minus the log-likelihood up to a term of y alone: ``partial_loss + log1p(excess)``. A family whose loss
    ends in the logarithm of a number in [1, 2] may leave it to the pass, which takes one of the product of many rows.
    """

    score: Array
    weight: Array
    partial_loss: Array
    excess: Array | None = None

    @property
    def loss(self) -> Array:
        """The whole loss."""
        return self.partial_loss if self.excess is None else self.partial_loss + log1p_small(self.excess)


class NotStored:
    """In place of a row parameter, in the family of a fit: it was given, and a fit stores nothing of its rows."""

    def __repr__(self) -> str:
        return "<not stored>"

    def __reduce__(self) -> str:
        return "NOT_STORED"  # a copy, or one out of a file, is the same object


NOT_STORED = NotStored()
# Without leaves, it is carried by every transformation and stays itself.
jax.tree_util.register_pytree_node(NotStored, lambda _: ((), None), lambda *_: NOT_STORED)


class Family:
    """Base of all families: an immutable pytree whose leaves are its parameters and its link's.

    Attributes:
      link: the link.
      has_dispersion: whether φ is a free parameter (estimated by the fit) or known to be one.
      mean_range: open interval of valid means.
      discrete: whether the response lies on the lattice 0, 1, 2, ..., so that ``cdf`` is a staircase.
      has_atoms: whether some responses have positive probability, so that quantile residuals are drawn.
      row_parameters: the parameters that hold one value a row, like the response; all others hold one value a dataset.
      canonical_link: the class of the link under which η is the natural parameter, if there is one.
    """

    has_dispersion: ClassVar[bool] = False
    mean_range: ClassVar[Interval] = (None, None)
    discrete: ClassVar[bool] = False
    row_parameters: ClassVar[tuple[str, ...]] = ()
    canonical_link: ClassVar[type[Link] | None] = None

    link: Link

    def __post_init__(self) -> None:
        if self.link is None or isinstance(self.link, str | type):
            shown = self.link.__name__ if isinstance(self.link, type) else repr(self.link)
            raise ValueError(f"link must be an instance of a link, got {shown}; write, for example, links.Log()")

    @property
    def is_canonical(self) -> bool:
        """Whether expected and observed information are one for every response."""
        return type(self.link) is self.canonical_link

    @property
    def is_open(self) -> bool:
        """Whether a parameter is left to the fit."""
        return False

    def with_parameters(self, **parameters: Any) -> Family:
        """The family with these parameters in place of its own."""
        return dataclasses.replace(self, **parameters)  # type: ignore[type-var]

    def working(self, eta: Array, y: Array) -> Working:
        """Score, weight and loss at η."""
        raise NotImplementedError(f"{type(self).__name__} must define working(eta, y)")

    def pearson_chi2(self, eta: Array, y: Array, work: Working) -> Array:
        """(y-μ)²/V(μ), from ``working`` at η: with d = dμ/dη the score is (y-μ) d/V and the weight d²/V."""
        return jnp.where(work.score == 0, 0.0, work.score * (work.score / work.weight))

    def variance(self, mu: Array) -> Array:
        """V(μ), so that Var y = φ V(μ) / weight."""
        raise NotImplementedError(f"{type(self).__name__} must define variance(mu)")

    def information(self, eta: Array) -> Array:
        """The weight of ``working``, which is free of the response."""
        return self.working(eta, self.mean(eta)).weight

    def observed_information(self, eta: Array, y: Array) -> Array:
        """-∂²ℓ/∂η² for unit weight and dispersion, which may be negative."""
        return -slope(lambda eta: self.working(eta, y).score, eta)

    def log_variance_slope(self, eta: Array) -> Array:
        """∂ log V(μ)/∂η."""
        return slope(lambda eta: log(self.variance(self.link.inverse(eta))), eta)

    def mean(self, eta: Array) -> Array:
        """E y at η, on the scale of μ."""
        return self.link.inverse(eta)

    def unit_deviance(self, eta: Array, y: Array) -> Array:
        """2φ (ℓ(y; y) - ℓ(y; μ)) for unit weight, with no cancellation between the two."""
        raise NotImplementedError(f"{type(self).__name__} must define unit_deviance(eta, y)")

    def saturates(self, y: Array) -> Array | None:
        """Which responses have ℓ(y; y) = 0, and so half the deviance for a loss; None where that is not asked for."""
        return None

    def log_saturated(self, y: Array, precision: Array) -> Array:
        """ℓ at μ = y, for a row with ``weight / scale = precision``."""
        raise NotImplementedError(f"{type(self).__name__} must define log_saturated(y, precision)")

    def log_likelihood(self, eta: Array, y: Array, weight: Array | float = 1.0, scale: Array | float = 1.0) -> Array:
        """ℓ with all its constants, a row whose dispersion is ``scale / weight``; statsmodels' ``loglike_obs``."""
        precision = cast(weight / scale, eta)
        return self.log_saturated(y, precision) - 0.5 * precision * self.unit_deviance(eta, y)

    def likelihood_scale(self, scale: Array, deviance: Array, nobs: Array) -> Array:
        """The dispersion at which the log-likelihood of a fit is reported."""
        return scale

    def response_residual(self, eta: Array, y: Array) -> Array:
        """y - E y."""
        return y - self.mean(eta)

    def pearson_residual(self, eta: Array, y: Array) -> Array:
        """(y-μ)/√V(μ)."""
        mu = self.mean(eta)
        return (y - mu) / jnp.sqrt(self.variance(mu))

    def anscombe_residual(self, eta: Array, y: Array) -> Array:
        """(A(y)-A(μ)) / (A'(μ) √V(μ)) with A' = V^{-1/3}; statsmodels' ``resid_anscombe`` for unit weight and scale."""
        raise NotImplementedError(f"{type(self).__name__} must define anscombe_residual(eta, y)")

    def cdf(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        """P(Y <= y) for unit weight; a discrete family has the law of ``sample``, ``scale`` times a count."""
        raise NotImplementedError(
            f"{type(self).__name__} must define cdf(y, mu, scale) for quantile residuals; kind='deviance' needs none"
        )

    def survival(self, y: Array, mu: Array, scale: Array | float = 1.0) -> Array:
        """P(Y > y), the complement of ``cdf``, as accurate where it is small."""
        return 1 - self.cdf(y, mu, scale)

    @property
    def has_atoms(self) -> bool:
        return self.discrete

    def before(self, y: Array, scale: Array | float = 1.0) -> Array:
        """Where ``cdf`` is P(Y < y)."""
        return y - cast(scale, y) if self.discrete else y

    def sample(self, key: Array, mu: Array, scale: Array | float = 1.0, weight: Array | float = 1.0) -> Array:
        """A response for every element of ``mu``, with mean μ and variance scale V(μ) / weight.

        Off unit dispersion a discrete family gives the lattice law of its dispersion model: (φ/w) times a count.
        """
        raise NotImplementedError(f"{type(self).__name__} must define sample(key, mu, scale, weight)")

    def starting_mean(self, y: Array, average: Array) -> Array:
        """(y + average)/2, or the average, or a number inside: the first in both the range of means and the link's.

        ``average`` is the weighted mean of the dataset.
        """
        low = max((end for end in (self.mean_range[0], self.link.image[0]) if end is not None), default=None)
        high = min((end for end in (self.mean_range[1], self.link.image[1]) if end is not None), default=None)
        interior = (low or 0.0) + 1.0 if high is None else 0.5 * ((high - 1.0 if low is None else low) + high)
        halfway, average = 0.5 * (y + average), average + jnp.zeros_like(y)
        second = jnp.where(_between(average, (low, high)), average, interior)
        return jnp.where(_between(halfway, (low, high)), halfway, second)

    def starting_predictor(self, y: Array, average: Array) -> Array:
        """η of ``starting_mean``."""
        return self.link(self.starting_mean(y, average))

    def starting_values(self, average: Array) -> Any:
        """What ``starting_regression`` takes of a dataset, from its average response (1, T)."""
        return average

    def starting_regression(self, y: Array, values: Any) -> tuple[Array, Array]:
        """W and Wz of the least squares problem that scoring from ``starting_predictor`` solves."""
        eta = self.starting_predictor(y, values)
        work = self.working(eta, y)
        return work.weight, work.weight * eta + work.score

    def valid_response(self, y: Array) -> Array:
        """Whether each response lies in the support."""
        return jnp.isfinite(y)

    @property
    def guards_domain(self) -> bool:
        """Whether the link reaches means outside the family's range, so that steps must be checked against it."""

        def inside(bound: float | None, limit: float | None) -> bool:
            return limit is None or bound == limit

        (low, high), (family_low, family_high) = self.link.image, self.mean_range
        whole_line = self.link.domain == (None, None)
        return not (whole_line and inside(low, family_low) and inside(high, family_high))

    def edges(self, eta: Array) -> list[Array]:
        """The finite ends of the interval of valid η: the link's, and η of the ends of the family's range of means."""
        ends = [cast(end, eta) for end in self.link.domain if end is not None]
        inner = zip(self.mean_range, self.link.image, strict=True)
        return ends + [self.link(cast(mean, eta)) for mean, reached in inner if mean is not None and mean != reached]

    def valid_predictor(self, eta: Array) -> Array:
        """Whether η is in the link's domain and its mean in the family's range."""
        if not self.guards_domain:
            return jnp.isfinite(eta)
        valid = jnp.isfinite(eta) & _between(eta, self.link.domain)
        return valid & _between(self.mean(eta), self.mean_range)


def cast(value: Array | float, like: Array) -> Array:
    """``value`` in the dtype of ``like``."""
    return jnp.asarray(value, like.dtype)


def lattice(y: Array, step: Array | float) -> Array:
    """The number of steps in y, rounded down; a quotient that only rounding keeps below a number counts as that."""
    count = y / cast(step, y)
    return jnp.floor(count + 8 * jnp.finfo(y.dtype).eps * jnp.abs(count))


def times(a: Array, b: Array) -> Array:
    """a·b, zero wherever a is zero, even when b is not finite."""
    return jnp.where(a == 0, 0.0, a * jnp.where(a == 0, 0.0, b))


def check_family(family: Family) -> None:
    """Raise a ValueError for what is no family."""
    if not isinstance(family, Family):
        hint = f"; write ji.{family.__name__}()" if isinstance(family, type) and issubclass(family, Family) else ""
        raise ValueError(f"family must be a family such as ji.Binomial(), got {family!r}{hint}")


def poisson_counts(key: Array, rate: Array) -> Array:
    """Counts of the mean ``rate``. JAX draws them by keys of its own threefry alone: one is made of the key's words."""
    own = jax.random.wrap_key_data(jax.random.key_data(key), impl="threefry2x32")
    return jax.random.poisson(own, rate).astype(rate.dtype)


def _between(x: Array, interval: Interval) -> Array:
    low, high = interval
    inside = jnp.ones_like(x, dtype=bool)
    if low is not None:
        inside &= x > low
    if high is not None:
        inside &= x < high
    return inside
