r"""Families: the elementwise mathematics of the exponential dispersion models, as functions of η.

Everything is written in the linear predictor η, not in μ: a probability within 1e-300 of one, or a mean of e^700, has
no accurate route through μ. The loop asks a family for one thing, ``working``: the score, the weight and the loss of a
row, all three up to the dispersion φ,

    score  = φ ∂ℓ/∂η,      weight = -φ E[∂²ℓ/∂η²],      loss = -φ ℓ + (terms free of η),

for one unit of weight. No function clips; the tails are formulas of the link. A log-likelihood is its value at
saturation (μ = y) less half the deviance, each of them without cancellation. Definitions and names are those of
statsmodels (``statsmodels.genmod.families.family``).

Your own family is one class, decorated with ``pytree``. The hyperbolic secant law, V = 1 + μ²:

>>> from dataclasses import field
>>> import jax.numpy as jnp
>>> from jaxirls.families import Family, Working
>>> from jaxirls.links import Identity, Link, pytree
>>> @pytree
... class HyperbolicSecant(Family):
...     has_dispersion = True
...     link: Link = field(default_factory=Identity)
...
...     def working(self, eta, y):
...         mu, slope = self.link.inverse(eta), self.link.inverse_deriv(eta)
...         variance = self.variance(mu)
...         loss = 0.5 * jnp.log(variance) - y * jnp.arctan(mu)
...         return Working((y - mu) * slope / variance, slope**2 / variance, loss)
...
...     def variance(self, mu):
...         return 1 + mu**2
>>> print(HyperbolicSecant().working(jnp.asarray(1.0), jnp.asarray(3.0)).score)
1.0
"""

from jaxirls.families.base import NOT_STORED, Family, Working
from jaxirls.families.binomial import Binomial, NegativeBinomial
from jaxirls.families.power import Gamma, Gaussian, InverseGaussian, Poisson, PowerVariance, Tweedie

__all__ = [
    "FAMILIES",
    "NOT_STORED",
    "Binomial",
    "Family",
    "Gamma",
    "Gaussian",
    "InverseGaussian",
    "NegativeBinomial",
    "Poisson",
    "PowerVariance",
    "Tweedie",
    "Working",
]

_ALL = (Gaussian, Binomial, Poisson, Gamma, InverseGaussian, NegativeBinomial, Tweedie)
FAMILIES: dict[str, type[Family]] = {family.__name__: family for family in _ALL}
