"""A sample of a study's replicates, with autodiff as an independent witness of their fits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxirls.config import IRLS, Algorithm
from jaxirls.fit import fit
from jaxirls.information import check_information
from jaxirls.results import Fit
from jaxirls.study.draw import datasets
from jaxirls.study.scenario import Scenario

__all__ = ["StudyCheck", "check"]

SAMPLE = 256


class StudyCheck(NamedTuple):
    """The worst that ``ji.check_information`` found in a sample of replicates.

    Attributes:
      sample: replicates looked at, spread evenly over the study.
      checked: those among them with a finite estimate, to which the rest refers.
      difference: largest relative difference of X'WX to the Hessian of the log-likelihood; NaN where none was checked.
      replicate: the number of the replicate where it was found, for ``study.datasets``.
      score: largest distance to the optimum, in standard errors, by the gradient of the log-likelihood.
    """

    sample: int
    checked: int
    difference: float
    replicate: int
    score: float

    def line(self) -> str:
        """What was found, in words."""
        heading = f"Autodiff as a witness of {self.checked:,} fits with an estimate, of a sample of {self.sample:,}: "
        if not self.checked:
            return heading + "there is nothing to check."
        return (
            f"{heading}the information differs by at most {self.difference:.1e} (replicate {self.replicate}), "
            f"the score is at most {self.score:.1e} standard errors from zero."
        )


def check(
    scenario: Scenario,
    *,
    sample: int = SAMPLE,
    config: Algorithm = IRLS(),  # noqa: B008 (frozen)
) -> StudyCheck:
    """Fit a sample of a study's replicates, and check their information and score by automatic differentiation.

    Args:
      scenario: the study.
      sample: how many replicates, at most; they are spread evenly over the study.
      config: options of the fits.

    Raises:
      ValueError: for a sample of less than one.

    Example:
      >>> import jaxirls as ji
      >>> from jaxirls import study
      >>> scenario = study.Scenario(
      ...     n=30, coefficients=[0.5], design=study.Normal(), family=ji.Poisson(), replicates=1000, seed=1
      ... )
      >>> study.check(scenario, sample=10).difference < 1e-12
      True
    """
    if not (isinstance(sample, int) and sample >= 1):
        raise ValueError(f"check(sample={sample!r}): sample must be a positive integer")
    index = np.unique(np.linspace(0, scenario.replicates - 1, sample).round().astype(np.int64))
    X, y = datasets(scenario, index)
    with jax.enable_x64(scenario.dtype == "float64"):
        fits = fit(X, y, scenario.family, config=config)
        difference, score = jax.device_get(_differences(fits, X, y))
        estimated = np.flatnonzero(fits.converged)
    if not estimated.size:
        return StudyCheck(index.size, 0, np.nan, 0, np.nan)
    worst = int(estimated[np.argmax(difference[estimated])])
    return StudyCheck(
        sample=index.size,
        checked=estimated.size,
        difference=float(difference[worst]),
        replicate=int(index[worst]),
        score=float(score[estimated].max()),
    )


@jax.jit
def _differences(fits: Fit, X: Array, y: Array) -> tuple[Array, Array]:
    """Of every fit, the relative difference of the information, and √(s'G⁻¹s/φ) of the score s."""
    found = check_information(fits, X, y)
    half = jnp.einsum("bkj,bj->bk", fits.half_inverse(), found.score)
    return found.difference, jnp.sqrt(jnp.square(half).sum(-1) / fits.scale)
