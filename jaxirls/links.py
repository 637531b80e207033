r"""Links: the elementwise maps between a mean μ and its linear predictor η = g(μ).

A link is a small immutable pytree. A subclass must give ``__call__`` (g) and ``inverse`` (g⁻¹); every derivative
has a default by automatic differentiation, which a subclass replaces where a formula is faster or reaches further into
the tails. Families ask for three groups of functions:

* ``inverse`` and ``inverse_deriv``: μ and dμ/dη, for any family;
* ``log_inverse``, ``log_inverse_deriv`` and ``inverse_power``: log μ, its derivative and μᶜ, if the mean is positive;
* ``log_complement`` and ``log_complement_deriv``: log(1-μ) and its derivative, if the mean is a probability.

The last two let tails be computed by formula: a probability of 1e-300 and its complement are both exact. Definitions
and names are those of statsmodels (``statsmodels.genmod.families.links``).

Your own link is one class, decorated with ``pytree``; fields, if any, are its parameters:

>>> import jax.numpy as jnp
>>> import numpy as np
>>> from jaxirls.links import Link, pytree
>>> @pytree
... class Angular(Link):
...     domain = (0.0, 1.5707963267948966)
...     image = (0.0, 1.0)
...
...     def __call__(self, mu):
...         return jnp.arcsin(jnp.sqrt(mu))
...
...     def inverse(self, eta):
...         return jnp.square(jnp.sin(eta))
>>> print(np.asarray(Angular().inverse_deriv(jnp.asarray([0.25, 0.5]))).round(4))
[0.4794 0.8415]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri

from jaxirls.special import LOG_2PI, exp, log, log1mexp, log1p_small, mills_ratio, raised
from jaxirls.trees import pytree, varying

__all__ = [
    "LINKS",
    "CLogLog",
    "Cauchy",
    "Identity",
    "InversePower",
    "InverseSquared",
    "Link",
    "Log",
    "LogC",
    "LogLog",
    "Logit",
    "NegativeBinomial",
    "Power",
    "Probit",
    "Sqrt",
    "pytree",
    "slope",
]

Interval = tuple[float | None, float | None]


def slope(function: Callable[[Array], Array], at: Array) -> Array:
    """Derivative of an elementwise ``function`` at every element of ``at``."""
    return jax.jvp(function, (at,), (varying(jnp.ones_like(at), at),))[1]


@dataclass(frozen=True)
class Link:
    """Base of all links: subclass it, give ``__call__`` and ``inverse``, and decorate the class with ``pytree``.

    Attributes:
      domain: interval of η on which ``inverse`` is defined; ``None`` stands for an open end.
      image: interval of μ that ``inverse`` reaches. A family whose own range is smaller asks the solver to guard it.
    """

    domain: ClassVar[Interval] = (None, None)
    image: ClassVar[Interval] = (None, None)

    def __call__(self, mu: Array) -> Array:
        """η = g(μ)."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(mu)")

    def inverse(self, eta: Array) -> Array:
        """μ = g⁻¹(η)."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse(eta)")

    def deriv(self, mu: Array) -> Array:
        """dη/dμ."""
        return slope(self.__call__, mu)

    def inverse_deriv(self, eta: Array) -> Array:
        """dμ/dη."""
        return slope(self.inverse, eta)

    def log_inverse(self, eta: Array) -> Array:
        """log μ."""
        return log(self.inverse(eta))

    def log_inverse_deriv(self, eta: Array) -> Array:
        """d log μ/dη."""
        return self.inverse_deriv(eta) / self.inverse(eta)

    def inverse_power(self, eta: Array, exponent: Array | float) -> Array:
        """μᶜ, which may be a number where μ itself has under- or overflowed."""
        return exp(exponent * self.log_inverse(eta))

    def log_complement(self, eta: Array) -> Array:
        """log(1-μ)."""
        return jnp.log1p(-self.inverse(eta))

    def log_odds(self, eta: Array) -> Array:
        """log(μ/(1-μ))."""
        return self.log_inverse(eta) - self.log_complement(eta)

    def root_odds(self, eta: Array) -> Array:
        """√(μ/(1-μ))."""
        return exp(0.5 * self.log_odds(eta))

    def log_complement_deriv(self, eta: Array) -> Array:
        """d log(1-μ)/dη."""
        return -self.inverse_deriv(eta) / (1 - self.inverse(eta))

    def log_shares(self, eta: Array) -> tuple[Array, Array, Array | None]:
        """log μ + log(1+e), log(1-μ) + log(1+e) and an e in [0, 1] common to both, or None for e = 0.

        A sum over rows then costs one logarithm of a product in place of one a row.
        """
        return self.log_inverse(eta), self.log_complement(eta), None


class _PowerLink(Link):
    """η = μᵖ, with p = ``self.power``: a number of the class, or a field."""

    power: Array | float

    def _exponent(self, like: Array) -> Array | float:
        return float(self.power) if isinstance(self.power, Real) else jnp.asarray(self.power, like.dtype)

    def __call__(self, mu: Array) -> Array:
        return raised(mu, self._exponent(mu))

    def inverse(self, eta: Array) -> Array:
        return raised(eta, 1 / self._exponent(eta))

    def inverse_deriv(self, eta: Array) -> Array:
        p = self._exponent(eta)
        return raised(eta, 1 / p - 1) / p

    def log_inverse(self, eta: Array) -> Array:
        return log(eta) / self._exponent(eta)

    def log_inverse_deriv(self, eta: Array) -> Array:
        return 1 / (self._exponent(eta) * eta)

    def inverse_power(self, eta: Array, exponent: Array | float) -> Array:
        return raised(eta, exponent / self._exponent(eta))


@pytree
class Identity(_PowerLink):
    """η = μ."""

    power = 1.0


@pytree
class InversePower(_PowerLink):
    """η = 1/μ, for either sign."""

    power = -1.0


@pytree
class InverseSquared(_PowerLink):
    """η = 1/μ², for positive μ."""

    domain = (0.0, None)
    image = (0.0, None)
    power = -2.0


@pytree
class Sqrt(_PowerLink):
    """η = √μ. Only η > 0 is its domain: that μ = η² also exists elsewhere does not make it a second solution."""

    domain = (0.0, None)
    image = (0.0, None)
    power = 0.5


@pytree
class Power(_PowerLink):
    """η = μᵖ for positive μ.

    Args:
      power: p, any number but zero, whose limit is the logarithm.
    """

    domain = (0.0, None)
    image = (0.0, None)

    power: Array | float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.power, Real) and not abs(self.power) > 0:
            raise ValueError(f"power must be a number other than zero, got {self.power}; for η = log μ use Log()")


@pytree
class Log(Link):
    """η = log μ."""

    image = (0.0, None)

    def __call__(self, mu: Array) -> Array:
        return log(mu)

    def inverse(self, eta: Array) -> Array:
        return exp(eta)

    def inverse_deriv(self, eta: Array) -> Array:
        return exp(eta)

    def log_inverse(self, eta: Array) -> Array:
        return eta

    def log_inverse_deriv(self, eta: Array) -> Array:
        return jnp.ones_like(eta)

    def log_complement(self, eta: Array) -> Array:
        return log1mexp(eta)

    def log_complement_deriv(self, eta: Array) -> Array:
        return 1 / -jnp.expm1(-eta)


@pytree
class LogC(Link):
    """η = log(1-μ): ``Log`` of the complement."""

    image = (None, 1.0)

    def __call__(self, mu: Array) -> Array:
        return jnp.log1p(-mu)

    def inverse(self, eta: Array) -> Array:
        return -jnp.expm1(eta)

    def inverse_deriv(self, eta: Array) -> Array:
        return -exp(eta)

    def log_inverse(self, eta: Array) -> Array:
        return Log().log_complement(eta)

    def log_inverse_deriv(self, eta: Array) -> Array:
        return Log().log_complement_deriv(eta)

    def log_complement(self, eta: Array) -> Array:
        return eta

    def log_complement_deriv(self, eta: Array) -> Array:
        return jnp.ones_like(eta)


@pytree
class Logit(Link):
    """η = log(μ/(1-μ)).

    All its functions share one exponential and one reciprocal, which XLA computes once.
    """

    image = (0.0, 1.0)

    def __call__(self, mu: Array) -> Array:
        return log(mu / (1 - mu))

    def inverse(self, eta: Array) -> Array:
        return jnp.where(eta >= 0, 1.0, _decay(eta)) * _larger(eta)

    def inverse_deriv(self, eta: Array) -> Array:
        return _decay(eta) * jnp.square(_larger(eta))

    def log_inverse(self, eta: Array) -> Array:
        return jnp.where(eta >= 0, 0.0, eta) - log1p_small(_decay(eta))

    def log_inverse_deriv(self, eta: Array) -> Array:
        return jnp.where(eta >= 0, _decay(eta), 1.0) * _larger(eta)

    def log_complement(self, eta: Array) -> Array:
        return jnp.where(eta >= 0, -eta, 0.0) - log1p_small(_decay(eta))

    def log_odds(self, eta: Array) -> Array:
        return eta

    def root_odds(self, eta: Array) -> Array:
        return jnp.where(eta >= 0, 1 / _root_decay(eta), _root_decay(eta))

    def log_complement_deriv(self, eta: Array) -> Array:
        return -self.inverse(eta)

    def log_shares(self, eta: Array) -> tuple[Array, Array, Array]:
        return jnp.where(eta >= 0, 0.0, eta), jnp.where(eta >= 0, -eta, 0.0), _decay(eta)


@pytree
class Probit(Link):
    """η = Φ⁻¹(μ), Φ the standard normal distribution function; tails by Mills' ratio M: 1-Φ(x) = φ(x) M(x)."""

    image = (0.0, 1.0)

    def __call__(self, mu: Array) -> Array:
        return ndtri(mu)

    def inverse(self, eta: Array) -> Array:
        tail = _normal_tail(eta)
        return jnp.where(eta >= 0, 1 - tail, tail)

    def inverse_deriv(self, eta: Array) -> Array:
        return _normal_density(eta)

    def log_inverse(self, eta: Array) -> Array:
        x = _magnitude(eta)
        log_tail = log(mills_ratio(x)) - 0.5 * (jnp.square(x) + LOG_2PI)
        return jnp.where(eta >= 0, log1p_small(-_normal_tail(eta)), log_tail)

    def log_inverse_deriv(self, eta: Array) -> Array:
        upper = _normal_density(eta) / (1 - _normal_tail(eta))
        return jnp.where(eta >= 0, upper, 1 / mills_ratio(_magnitude(eta)))

    def log_complement(self, eta: Array) -> Array:
        return self.log_inverse(-eta)

    def log_complement_deriv(self, eta: Array) -> Array:
        return -self.log_inverse_deriv(-eta)

    def log_shares(self, eta: Array) -> tuple[Array, Array, Array | None]:
        x, tail = _magnitude(eta), _normal_tail(eta)
        odds = tail / (1 - tail)
        lower = log(mills_ratio(x) * (1 + odds)) - 0.5 * (jnp.square(x) + LOG_2PI)
        return *_either(eta, lower), odds


@pytree
class Cauchy(Link):
    """η = tan(π(μ-½)), whose inverse is the Cauchy distribution function ½ + arctan(η)/π = arctan2(1, -η)/π."""

    image = (0.0, 1.0)

    def __call__(self, mu: Array) -> Array:
        lower = mu < 0.5
        cotangent = 1 / jnp.tan(jnp.pi * jnp.where(lower, mu, 1 - mu))
        return jnp.where(lower, -cotangent, cotangent)

    def inverse(self, eta: Array) -> Array:
        return _angle(-eta) / jnp.pi

    def inverse_deriv(self, eta: Array) -> Array:
        return 1 / (jnp.pi * (1 + jnp.square(eta)))

    def log_inverse(self, eta: Array) -> Array:
        tail = _cauchy_tail(eta)
        return jnp.where(eta >= 0, log1p_small(-tail), log(tail))

    def log_inverse_deriv(self, eta: Array) -> Array:
        # 1/((1+η²) arctan2(1, -η)), with the square taken apart so that it cannot overflow.
        secant = jnp.hypot(jnp.ones_like(eta), eta)
        return 1 / (secant * (secant * _angle(-eta)))

    def log_complement(self, eta: Array) -> Array:
        return self.log_inverse(-eta)

    def log_complement_deriv(self, eta: Array) -> Array:
        return -self.log_inverse_deriv(-eta)

    def log_shares(self, eta: Array) -> tuple[Array, Array, Array | None]:
        tail = _cauchy_tail(eta)
        odds = tail / (1 - tail)
        lower = log(odds)
        return *_either(eta, lower), odds


@pytree
class CLogLog(Link):
    """η = log(-log(1-μ)); with u = e^η the hazard, 1-μ = e^{-u}."""

    image = (0.0, 1.0)

    def __call__(self, mu: Array) -> Array:
        return log(-jnp.log1p(-mu))

    def inverse(self, eta: Array) -> Array:
        return -jnp.expm1(-exp(eta))

    def inverse_deriv(self, eta: Array) -> Array:
        return exp(eta - exp(eta))

    def log_inverse(self, eta: Array) -> Array:
        u, tiny = _hazard(eta)
        return jnp.where(tiny, eta - 0.5 * u, log1mexp(-jnp.where(tiny, 1.0, u)))

    def log_inverse_deriv(self, eta: Array) -> Array:
        u, tiny = _hazard(eta)
        return jnp.where(tiny, 1 - 0.5 * u, exp(eta - u) / -jnp.expm1(-jnp.where(tiny, 1.0, u)))

    def log_complement(self, eta: Array) -> Array:
        return -exp(eta)

    def log_complement_deriv(self, eta: Array) -> Array:
        return -exp(eta)


@pytree
class LogLog(Link):
    """η = -log(-log μ): ``CLogLog`` with success and failure, and the sign of η, exchanged."""

    image = (0.0, 1.0)

    def __call__(self, mu: Array) -> Array:
        return -log(-log(mu))

    def inverse(self, eta: Array) -> Array:
        return exp(-exp(-eta))

    def inverse_deriv(self, eta: Array) -> Array:
        return CLogLog().inverse_deriv(-eta)

    def log_inverse(self, eta: Array) -> Array:
        return CLogLog().log_complement(-eta)

    def log_inverse_deriv(self, eta: Array) -> Array:
        return -CLogLog().log_complement_deriv(-eta)

    def log_complement(self, eta: Array) -> Array:
        return CLogLog().log_inverse(-eta)

    def log_complement_deriv(self, eta: Array) -> Array:
        return -CLogLog().log_inverse_deriv(-eta)


@pytree
class NegativeBinomial(Link):
    """η = log(αμ/(1+αμ)), the canonical link of the negative binomial family; η < 0.

    Args:
      alpha: α > 0. It is the link's own: give the family's value for the canonical pair.
    """

    domain = (None, 0.0)
    image = (0.0, None)

    alpha: Array | float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.alpha, Real) and not self.alpha > 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}; for the limit of zero use Log()")

    def __call__(self, mu: Array) -> Array:
        return -jnp.log1p(1 / (jnp.asarray(self.alpha, mu.dtype) * mu))

    def inverse(self, eta: Array) -> Array:
        return 1 / (jnp.asarray(self.alpha, eta.dtype) * jnp.expm1(-eta))

    def inverse_deriv(self, eta: Array) -> Array:
        return self.inverse(eta) * self.log_inverse_deriv(eta)

    def log_inverse(self, eta: Array) -> Array:
        return eta - log1mexp(eta) - log(jnp.asarray(self.alpha, eta.dtype))

    def log_inverse_deriv(self, eta: Array) -> Array:
        return 1 / -jnp.expm1(eta)


_PROBABILITY = (Logit, Probit, CLogLog, LogLog, Cauchy, LogC)
_OTHER = (Log, Identity, InversePower, InverseSquared, Sqrt, Power, NegativeBinomial)
LINKS: dict[str, type[Link]] = {link.__name__: link for link in _PROBABILITY + _OTHER}


def _magnitude(eta: Array) -> Array:
    """|η|, whose derivative at zero comes from above, as it does in the branches ``eta >= 0`` beside it."""
    return jnp.where(eta >= 0, eta, -eta)


def _root_decay(eta: Array) -> Array:
    """exp(-|η|/2)."""
    return exp(-0.5 * _magnitude(eta))


@jax.jit  # once in a program, as in ``special``
def _decay(eta: Array) -> Array:
    """exp(-|η|)."""
    return jnp.square(_root_decay(eta))


@jax.jit
def _larger(eta: Array) -> Array:
    """max(μ, 1-μ) of the logistic mean."""
    return 1 / (1 + _decay(eta))


def _normal_density(eta: Array) -> Array:
    return exp(-0.5 * (jnp.square(eta) + LOG_2PI))


def _normal_tail(eta: Array) -> Array:
    """1-Φ(|η|)."""
    return _normal_density(eta) * mills_ratio(_magnitude(eta))


def _angle(eta: Array) -> Array:
    """arctan2(1, η): π times the upper tail of the Cauchy distribution."""
    return jnp.arctan2(jnp.ones_like(eta), eta)


def _cauchy_tail(eta: Array) -> Array:
    """The upper tail of the Cauchy distribution at |η|."""
    return _angle(_magnitude(eta)) / jnp.pi


def _either(eta: Array, lower: Array) -> tuple[Array, Array]:
    """What ``Link.log_shares`` gives of log μ and log(1-μ): zero of the larger, ``lower`` of the smaller."""
    return jnp.where(eta >= 0, 0.0, lower), jnp.where(eta >= 0, lower, 0.0)


def _hazard(eta: Array) -> tuple[Array, Array]:
    """u = e^η, and whether it is so small that the first two terms of a series in it are all there is."""
    u = exp(eta)
    return u, u < jnp.finfo(u.dtype).eps
