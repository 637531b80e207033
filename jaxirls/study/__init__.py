"""Simulation studies: a scenario in, its performance measures with Monte Carlo standard errors out."""

from jaxirls.study.covariates import Bernoulli, Covariates, Normal, Uniform
from jaxirls.study.draw import datasets
from jaxirls.study.driver import run
from jaxirls.study.measures import Measure
from jaxirls.study.result import StudyResult, Timing
from jaxirls.study.scenario import Scenario
from jaxirls.study.schema import ScenarioError
from jaxirls.study.witness import StudyCheck, check

__all__ = [
    "Bernoulli",
    "Covariates",
    "Measure",
    "Normal",
    "Scenario",
    "ScenarioError",
    "StudyCheck",
    "StudyResult",
    "Timing",
    "Uniform",
    "check",
    "datasets",
    "run",
]
