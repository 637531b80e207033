"""jaxirls: generalized linear models by iteratively reweighted least squares in JAX, one dataset or a million in one call."""

from jaxirls import links
from jaxirls.config import IRLS
from jaxirls.families import Binomial, Family, Gaussian, Poisson
from jaxirls.fit import fit
from jaxirls.penalties import Penalty, Ridge
from jaxirls.results import Fit
from jaxirls.status import Status

__all__ = [
    "IRLS",
    "Binomial",
    "Family",
    "Fit",
    "Gaussian",
    "Penalty",
    "Poisson",
    "Ridge",
    "Status",
    "fit",
    "links",
]
