r"""Families: the elementwise mathematics of the exponential dispersion models, as functions of η.

Everything is written in the linear predictor η, not in μ: a probability within 1e-300 of one, or a mean of e^700, has
no accurate route through μ. The loop takes from ``working`` the score, the weight and the loss of a row, all three up
to the dispersion φ,

    score  = φ ∂ℓ/∂η,      weight = -φ E[∂²ℓ/∂η²],      loss = -φ ℓ + (terms free of η),

for one unit of weight. No function clips; the tails are formulas of the link. A log-likelihood is its value at
saturation (μ = y) less half the deviance, each of them without cancellation. Definitions and names are those of
statsmodels (``statsmodels.genmod.families.family``).

Your own family is one class, decorated with ``pytree``. ``ji.fit`` asks it for ``working``, ``unit_deviance`` and
``log_saturated``, and where not every number will do for ``mean_range`` and ``valid_response``; residuals and studies,
for ``variance``, ``anscombe_residual``, ``cdf`` and ``sample``. The geometric law, V = μ + μ²:

>>> from dataclasses import field
>>> import jax.numpy as jnp
>>> import jaxirls as ji
>>> from jax.scipy.special import xlogy
>>> from jaxirls.families import Family, Working
>>> from jaxirls.links import Link, Log, pytree
>>> @pytree
... class Geometric(Family):
...     mean_range = (0.0, None)
...     link: Link = field(default_factory=Log)
...
...     def working(self, eta, y):
...         mu, slope = self.link.inverse(eta), self.link.inverse_deriv(eta)
...         variance = self.variance(mu)
...         loss = (1 + y) * jnp.log1p(mu) - xlogy(y, mu)
...         return Working((y - mu) * slope / variance, slope**2 / variance, loss)
...
...     def variance(self, mu):
...         return mu + mu**2
...
...     def unit_deviance(self, eta, y):
...         return 2 * (self.log_saturated(y, 1.0) + self.working(eta, y).loss)
...
...     def log_saturated(self, y, precision):
...         return xlogy(y, y) - (1 + y) * jnp.log1p(y)
...
...     def valid_response(self, y):
...         return (y >= 0) & (y == jnp.floor(y))
>>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
>>> y = jnp.array([1.0, 0.0, 2.0, 5.0, 3.0, 9.0])
>>> fit, known = ji.fit(X, y, Geometric()), ji.fit(X, y, ji.NegativeBinomial(1.0))
>>> bool(jnp.allclose(fit.params, known.params, rtol=1e-4)), bool(jnp.allclose(fit.llf, known.llf))
(True, True)
"""

from jaxirls.families.base import NOT_STORED, Family, Working, check_family
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
    "check_family",
]

_ALL = (Gaussian, Binomial, Poisson, Gamma, InverseGaussian, NegativeBinomial, Tweedie)
FAMILIES: dict[str, type[Family]] = {family.__name__: family for family in _ALL}
