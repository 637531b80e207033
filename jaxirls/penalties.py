r"""Penalties: what is added to minus the log-likelihood, in units of φ times it, as everywhere in the loop.

A penalty is an immutable pytree with up to two parts. The first is quadratic: ``diagonal`` is its second derivative,
which enters the system that gives a step. The second bends the score by

    ½ Σᵢ qᵢ rᵢ xᵢ,    qᵢ = xᵢ'(X'WX)⁻¹xᵢ, the variance of the i-th predictor at φ = 1,

with an elementwise ``rate`` r(η) of the penalty; ``objective`` is what the bent score is the gradient of, if anything.

**Jeffreys** maximizes ℓ + ½ log det (X'WX/φ), the mode under Jeffreys' prior: r = w' = dw/dη.

**Mean bias reduction** solves the adjusted score equations of Firth (1993), which remove the first-order bias of the
estimate. In a generalized linear model r = w d'/d with d = dμ/dη (Kosmidis & Firth 2009, section 4.2: ½ hᵢ d'/d with
hᵢ = wᵢqᵢ the leverage). As w = d²/V(μ), that is r = (w' + w (log V)')/2, which needs no ratio of two vanishing numbers
in the tails. For a canonical link d = w, and the two penalties are one: Firth's. Off it the bent score is no gradient.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxirls import linalg
from jaxirls.arguments import is_number, numeric
from jaxirls.families import Family
from jaxirls.links import slope
from jaxirls.trees import pytree

__all__ = ["Jeffreys", "MeanBiasReduction", "Penalty", "Ridge"]


class Penalty:
    """Base of all penalties.

    Attributes:
      bends: whether the penalty has the second part, a ``rate``.
      identifies: whether it makes the estimate unique, whatever the rank of X.
    """

    bends: ClassVar[bool] = False
    identifies: ClassVar[bool] = False

    def check(self, family: Family, estimates_dispersion: bool) -> None:
        """Raise a ValueError where the penalty is not defined for a model."""

    def bound(self, p: int, dtype: DTypeLike) -> Penalty:
        """The penalty for p columns: leaves of shape ``(..., p)`` or ``(..., 1)``, batch axes in front."""
        raise NotImplementedError(f"{type(self).__name__} must define bound(p, dtype)")

    @property
    def diagonal(self) -> Array | None:
        """Of a bound penalty, the diagonal of the second derivative of its quadratic part, or None."""
        return None

    def rate(self, family: Family, eta: Array) -> Array:
        """r at η, for a row of unit weight."""
        raise NotImplementedError(f"{type(self).__name__} must define rate(family, eta)")

    def follows_information(self, family: Family) -> bool:
        """Whether r = w', in which case the derivative of the bend is symmetric."""
        return False

    def objective(self, loss: Array, factor: linalg.Factor, scale: Array) -> Array | None:
        """The function ``(T,)`` whose gradient is minus the bent score, from the ``loss`` without the bend and X'WX."""
        return None


@pytree
class Ridge(Penalty):
    r"""½ Σⱼ sⱼ βⱼ².

    The penalized objective is minus the log-likelihood plus this term; in a family with a dispersion φ, φ times the
    log-likelihood stands in its place, so that for a Gaussian the objective is ½|y-Xβ|² + ½ s|β|².

    Args:
      strength: s >= 0. A scalar, or an array whose leading axes are batch axes.
      penalize: optional mask or multiplier a column, ``(p,)``; zero leaves a column (an intercept, say) unpenalized.

    Raises:
      ValueError: for a strength that is negative or no number.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.array([[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> slope_only = ji.Ridge(2.0, penalize=jnp.array([0.0, 1.0]))
      >>> print(ji.fit(X, jnp.array([1.0, 2.0, 3.0]), ji.Gaussian(), penalty=slope_only).params)
      [2.  0.5]
    """

    identifies = True

    strength: Array | float
    penalize: Array | None = None

    def __post_init__(self) -> None:
        if is_number(self.strength) and not self.strength >= 0:
            raise ValueError(f"Ridge(strength={self.strength}): strength must be zero or positive")
        if self.strength is None or isinstance(self.strength, str):
            raise ValueError(f"Ridge(strength={self.strength!r}): strength must be a number or an array of numbers")

    def bound(self, p: int, dtype: DTypeLike) -> Ridge:
        strength = jnp.asarray(numeric("Ridge(strength)", self.strength), dtype)[..., None]
        if self.penalize is None:
            return Ridge(strength)
        mask = jnp.asarray(numeric("Ridge(penalize)", self.penalize), dtype)
        if mask.shape[-1:] != (p,):
            raise ValueError(
                f"Ridge(penalize=...) has shape {mask.shape}: expected (..., {p}), one value a column of X"
            )
        shape = (*jnp.broadcast_shapes(strength.shape[:-1], mask.shape[:-1]), p)
        return Ridge(jnp.broadcast_to(strength, shape) * jnp.broadcast_to(mask, shape))

    @property
    def diagonal(self) -> Array:
        return jnp.asarray(self.strength)


class _BiasReducing(Penalty):
    """Jeffreys' penalty and mean bias reduction."""

    bends = True

    def check(self, family: Family, estimates_dispersion: bool) -> None:
        if estimates_dispersion:
            raise ValueError(
                f"ji.{type(self).__name__}() needs a known dispersion, and {type(family).__name__} estimates its own: "
                "give scale=... (or alpha=...), or use ji.Ridge(...)"
            )

    def bound(self, p: int, dtype: DTypeLike) -> Penalty:
        return self


@pytree
class Jeffreys(_BiasReducing):
    r"""Jeffreys' prior: ½ log det (X'WX/φ) is added to the log-likelihood. For a canonical link, Firth's penalty.

    The estimate is finite for Binomial data with a logit, probit, complementary log-log, log-log or Cauchy link and X
    of full rank, separated or not (Kosmidis & Firth 2021, Biometrika 108, 71-82), and equals that of R's brglm2 with
    ``type = "MPL_Jeffreys"``. Standard errors are those of (X'WX)⁻¹ at the estimate, as there.

    With a link that reaches means which the family does not have (log-binomial, identity Poisson) X'WX grows without
    bound towards that edge, and with it the penalized likelihood. The estimate is then a local maximum inside, and a
    dataset that has none ends STALLED or MAX_ITERATIONS; without the penalty the optimum is found on the edge itself.

    The dispersion must be known: families that estimate one need ``scale=``.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(4), jnp.arange(4.0)], axis=-1)
      >>> fit = ji.fit(X, jnp.array([0.0, 0.0, 1.0, 1.0]), ji.Binomial(), penalty=ji.Jeffreys())
      >>> print(ji.Status(int(fit.status)).name, np.asarray(fit.params).round(2))
      CONVERGED [-1.96  1.31]
    """

    def rate(self, family: Family, eta: Array) -> Array:
        return slope(family.information, eta)

    def follows_information(self, family: Family) -> bool:
        return True

    def objective(self, loss: Array, factor: linalg.Factor, scale: Array) -> Array:
        return loss - 0.5 * scale * linalg.log_determinant(factor)


@pytree
class MeanBiasReduction(_BiasReducing):
    r"""Firth's (1993) adjusted score equations, which remove the first-order bias of the estimate.

    The estimate equals that of R's brglm2 with ``type = "AS_mean"``, and of ``ji.Jeffreys()`` for a canonical link. Off
    it the equations belong to no likelihood, so that there are no likelihood-ratio tests. Standard errors are those of
    (X'WX)⁻¹ at the estimate. With a link that reaches means which the family does not have, the equations need not have
    a root; the status then says so.

    The dispersion must be known: families that estimate one need ``scale=``.

    Source: Firth (1993), Biometrika 80, 27-38; Kosmidis & Firth (2009), Biometrika 96, 793-804.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> fit = ji.fit(jnp.ones((4, 1)), jnp.ones(4), ji.Binomial(), penalty=ji.MeanBiasReduction())
      >>> print(fit.predict(jnp.ones((1, 1))))  # half a success and half a failure are added
      [0.9]
    """

    def rate(self, family: Family, eta: Array) -> Array:
        return 0.5 * (slope(family.information, eta) + family.information(eta) * family.log_variance_slope(eta))

    def follows_information(self, family: Family) -> bool:
        return family.is_canonical
