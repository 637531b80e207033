r"""Links: the elementwise maps between a mean μ and its linear predictor η = g(μ).

A link is a small immutable pytree. What a subclass must give is ``__call__`` (g) and ``inverse`` (g⁻¹); every derivative
below has a default by automatic differentiation, which a subclass replaces where a formula is faster or reaches
further into the tails. Families ask for three groups of functions:

* ``inverse`` and ``inverse_deriv``: μ and dμ/dη, for any family;
* ``log_inverse`` and ``log_inverse_deriv``: log μ and d log μ/dη, for families with a positive mean;
* ``log_complement`` and ``log_complement_deriv``: log(1-μ) and its derivative, for families whose mean is a probability.

The last two let tails be computed by formula: a probability of 1e-300 and its complement are both exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["Identity", "Link", "Log", "Logit"]


def slope(function: Callable[[Array], Array], at: Array) -> Array:
    """Derivative of an elementwise ``function`` at every element of ``at``."""
    return jax.jvp(function, (at,), (jnp.ones_like(at),))[1]


@dataclass(frozen=True)
class Link:
    """Base of all links. Subclass it, give ``__call__`` and ``inverse``, and register the class as a dataclass pytree.

    Attributes:
      domain: interval of η on which ``inverse`` is defined; ``None`` stands for an open end.
      image: interval of μ that ``inverse`` reaches. A family whose own range is smaller asks the solver to guard it.
    """

    domain: ClassVar[tuple[float | None, float | None]] = (None, None)
    image: ClassVar[tuple[float | None, float | None]] = (None, None)

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
        return jnp.log(self.inverse(eta))

    def log_inverse_deriv(self, eta: Array) -> Array:
        """d log μ/dη."""
        return self.inverse_deriv(eta) / self.inverse(eta)

    def log_complement(self, eta: Array) -> Array:
        """log(1-μ)."""
        return jnp.log1p(-self.inverse(eta))

    def log_complement_deriv(self, eta: Array) -> Array:
        """d log(1-μ)/dη."""
        return -self.inverse_deriv(eta) / (1 - self.inverse(eta))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Identity(Link):
    """η = μ."""

    def __call__(self, mu: Array) -> Array:
        return mu

    def inverse(self, eta: Array) -> Array:
        return eta

    def inverse_deriv(self, eta: Array) -> Array:
        return jnp.ones_like(eta)

    def log_inverse_deriv(self, eta: Array) -> Array:
        return 1 / eta


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Log(Link):
    """η = log μ."""

    image = (0.0, None)

    def __call__(self, mu: Array) -> Array:
        return jnp.log(mu)

    def inverse(self, eta: Array) -> Array:
        return jnp.exp(eta)

    def inverse_deriv(self, eta: Array) -> Array:
        return jnp.exp(eta)

    def log_inverse(self, eta: Array) -> Array:
        return eta

    def log_inverse_deriv(self, eta: Array) -> Array:
        return jnp.ones_like(eta)

    def log_complement(self, eta: Array) -> Array:
        # log(1-e^η): the two forms of Mächler (2012), each exact on its side of -log 2.
        small = eta < -0.6931471805599453
        return jnp.where(
            small,
            jnp.log1p(-jnp.exp(jnp.where(small, eta, -1.0))),
            jnp.log(-jnp.expm1(jnp.where(small, -1.0, eta))),
        )

    def log_complement_deriv(self, eta: Array) -> Array:
        return 1 / -jnp.expm1(-eta)


def _decay(eta: Array) -> Array:
    """exp(-|η|): the one transcendental that every logistic quantity shares, so that XLA computes it once."""
    return jnp.exp(-jnp.abs(eta))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Logit(Link):
    """η = log(μ/(1-μ))."""

    image = (0.0, 1.0)

    def __call__(self, mu: Array) -> Array:
        return jnp.log(mu) - jnp.log1p(-mu)

    def inverse(self, eta: Array) -> Array:
        e = _decay(eta)
        return jnp.where(eta >= 0, 1.0, e) / (1 + e)

    def inverse_deriv(self, eta: Array) -> Array:
        e = _decay(eta)
        return e / jnp.square(1 + e)

    def log_inverse(self, eta: Array) -> Array:
        return jnp.minimum(eta, 0.0) - jnp.log1p(_decay(eta))

    def log_inverse_deriv(self, eta: Array) -> Array:
        e = _decay(eta)
        return jnp.where(eta >= 0, e, 1.0) / (1 + e)

    def log_complement(self, eta: Array) -> Array:
        return jnp.minimum(-eta, 0.0) - jnp.log1p(_decay(eta))

    def log_complement_deriv(self, eta: Array) -> Array:
        return -self.inverse(eta)
