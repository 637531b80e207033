"""jaxirls: generalized linear models by iteratively reweighted least squares in JAX, one dataset or a million."""

from jaxirls import frames, links
from jaxirls.config import IRLS, LBFGS
from jaxirls.covariance import covariance
from jaxirls.diagnostics import Influence, influence, residuals
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
from jaxirls.hypotheses import Contrast, HypothesisTest, lr_test, score_test, t_test, wald_test
from jaxirls.information import InformationCheck, check_information
from jaxirls.null import NullModel, null_model
from jaxirls.penalties import Jeffreys, MeanBiasReduction, Penalty, Ridge
from jaxirls.prediction import MarginalEffects, Prediction, get_prediction, margeff
from jaxirls.profiles import Profile, profile_conf_int, profile_test
from jaxirls.results import Fit
from jaxirls.separation import Recession, detect_separation
from jaxirls.status import Status
from jaxirls.trace import Trace, trace

__all__ = [
    "IRLS",
    "LBFGS",
    "Binomial",
    "Contrast",
    "Family",
    "Fit",
    "Gamma",
    "Gaussian",
    "HypothesisTest",
    "Influence",
    "InformationCheck",
    "InverseGaussian",
    "Jeffreys",
    "MarginalEffects",
    "MeanBiasReduction",
    "NegativeBinomial",
    "NullModel",
    "Penalty",
    "Poisson",
    "Prediction",
    "Profile",
    "Recession",
    "Ridge",
    "Status",
    "Trace",
    "Tweedie",
    "check_information",
    "covariance",
    "detect_separation",
    "fit",
    "frames",
    "get_prediction",
    "influence",
    "links",
    "lr_test",
    "margeff",
    "null_model",
    "profile_conf_int",
    "profile_test",
    "residuals",
    "score_test",
    "t_test",
    "trace",
    "wald_test",
]
