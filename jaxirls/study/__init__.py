"""Simulation studies: a scenario in, its performance measures with Monte Carlo standard errors out."""

from jaxirls.study.covariates import Bernoulli, Normal, Uniform
from jaxirls.study.draw import datasets
from jaxirls.study.driver import run
from jaxirls.study.measures import Measure
from jaxirls.study.result import StudyResult
from jaxirls.study.scenario import Scenario
from jaxirls.study.schema import ScenarioError

__all__ = [
    "Bernoulli",
    "Measure",
    "Normal",
    "Scenario",
    "ScenarioError",
    "StudyResult",
    "Uniform",
    "datasets",
    "run",
]
