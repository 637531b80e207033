"""jaxirls: generalized linear models by iteratively reweighted least squares in JAX, one dataset or a million."""

from jaxirls import links
from jaxirls.config import IRLS
from jaxirls.families import (
    Binomial,
    Family,
    Gamma,
    Gaussian,
    InverseGaussian,
    NegativeBinomial,
    Poisson,
    Tweedie,
)
from jaxirls.fit import fit
from jaxirls.penalties import Jeffreys, MeanBiasReduction, Penalty, Ridge
from jaxirls.results import Fit
from jaxirls.separation import Recession, detect_separation
from jaxirls.status import Status
from jaxirls.trace import Trace, trace

__all__ = [
    "IRLS",
    "Binomial",
    "Family",
    "Fit",
    "Gamma",
    "Gaussian",
    "InverseGaussian",
    "Jeffreys",
    "MeanBiasReduction",
    "NegativeBinomial",
    "Penalty",
    "Poisson",
    "Recession",
    "Ridge",
    "Status",
    "Trace",
    "Tweedie",
    "detect_separation",
    "fit",
    "links",
    "trace",
]
