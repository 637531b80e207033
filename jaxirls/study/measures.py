r"""Performance measures of estimators and their Monte Carlo standard errors (MCSE), streamed.

With d = β̂ - β over the n replicates used, EmpSE the standard deviation of d, se the model-based standard errors and q a
proportion:

    bias            mean d                  EmpSE/√n
    relative bias   mean d/β                EmpSE/(|β|√n)
    empirical SE    EmpSE                   EmpSE/√(2(n-1))
    model SE        ModSE = √mean(se²)      √(var(se²)/(4n ModSE²))
    relative error  100 (ModSE/EmpSE - 1)   100 (ModSE/EmpSE) √(var(se²)/(4n ModSE⁴) + 1/(2(n-1)))
    MSE             mean d²                 √(Σ(d²-MSE)²/(n(n-1)))
    coverage, power, rates                  √(q(1-q)/n)

The MCSE of the empirical SE takes estimates to be normal, as is the custom; where their tails are heavy (samples
near separation) it is too small, and that of the MSE, which assumes nothing, tells more.

Of the replicates they need no more than the mean and the sum of squares about it of d, d² and se², and counts: a
``Tally``, in double precision whatever the fits were in. Means and sums of squares are merged without cancellation, by
the update of Chan, Golub & LeVeque (1983), The American Statistician 37, eq. 2.1.

Source: Morris, White & Crowther (2019), Statistics in Medicine 38, table 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxirls.status import Status

__all__ = ["Measure", "Moments", "Rate", "Tally", "merged", "performance", "rates", "tallies"]


class Measure(NamedTuple):
    """One performance measure of one coefficient."""

    name: str
    coefficient: int
    estimate: float
    mcse: float


class Rate(NamedTuple):
    """How many of all replicates ended in a status."""

    status: Status
    fits: int
    estimate: float
    mcse: float


class Moments(NamedTuple):
    """Mean and sum of squares about it, of p series of equal length; or of k blocks of them, on a first axis."""

    n: Any  # (k,)
    mean: np.ndarray  # (k, p)
    squares: np.ndarray  # (k, p)

    @classmethod
    def of(cls, values: np.ndarray, used: np.ndarray) -> Moments:
        """The moments of k blocks of ``values (p, k, B)``, of the entries ``used (k, B)``. Overwrites the values."""
        n = used.sum(1)
        values[:, ~used] = 0.0
        mean = values.sum(2) / np.maximum(n, 1)
        values -= mean[..., None]
        values[:, ~used] = 0.0
        return cls(n, mean.T, np.square(values, out=values).sum(2).T)

    def columns(self, start: int, stop: int) -> Moments:
        """Of some of the series."""
        return Moments(self.n, self.mean[:, start:stop], self.squares[:, start:stop])

    def merge(self, other: Moments) -> Moments:
        """The moments of both series, one after the other."""
        n = self.n + other.n
        gap = other.mean - self.mean
        share = np.asarray(other.n / np.maximum(n, 1))[..., None]
        squares = self.squares + other.squares + np.asarray(self.n)[..., None] * share * np.square(gap)
        return Moments(n, self.mean + share * gap, squares)

    @property
    def variance(self) -> np.ndarray:
        """Unbiased, ``(p,)``; NaN for fewer than two values."""
        return self.squares / (self.n - 1) if self.n > 1 else np.full_like(self.mean, np.nan)


class Tally(NamedTuple):
    """What the measures need of replicates. Statuses are counted over all, the rest over those with an estimate.

    Of one block, or of k on a first axis.
    """

    statuses: np.ndarray  # (number of codes,)
    error: Moments  # d
    squared_error: Moments  # d²
    variance: Moments  # se²
    covered: np.ndarray  # (p,), intervals that hold the truth
    rejected: np.ndarray  # (p,), tests of β = 0 that reject

    def merge(self, other: Tally) -> Tally:
        """The tally of both sets of replicates."""
        return Tally(
            self.statuses + other.statuses,
            self.error.merge(other.error),
            self.squared_error.merge(other.squared_error),
            self.variance.merge(other.variance),
            self.covered + other.covered,
            self.rejected + other.rejected,
        )

    @property
    def used(self) -> int:
        """Replicates with an estimate."""
        return int(self.error.n)

    @property
    def replicates(self) -> int:
        """All replicates."""
        return int(self.statuses.sum())


# Replicates whose numbers stay in cache while they are counted.
AT_A_TIME = 2**14


def tallies(
    estimates: np.ndarray, standard_errors: np.ndarray, status: np.ndarray, truth: np.ndarray, level: float, block: int
) -> list[Tally]:
    """Count replicates in blocks of fixed length, to be merged in a fixed order: the totals are the same in any chunks.

    Args:
      estimates, standard_errors: ``(B, p)``.
      status: ``ji.Status`` codes, ``(B,)``; replicates that are CONVERGED have an estimate.
      truth: β, ``(p,)``.
      level: of the Wald intervals, and one minus the level of the tests.
      block: replicates a block.

    Returns:
      Tallies of some blocks each.
    """
    reach = NormalDist().inv_cdf((1 + level) / 2)
    size = block * max(1, AT_A_TIME // block)

    def some(start: int) -> Tally:
        codes, *fits = (leaf[start : start + size] for leaf in (status, estimates, standard_errors))
        estimate, se = (np.array(leaf.T, np.float64, order="C") for leaf in fits)  # to be written to
        (p, count), blocks = estimate.shape, -(-len(codes) // block)
        series = np.zeros((3, p, blocks * block))  # d, d² and se²
        counted = np.zeros((2, p, blocks * block), bool)  # intervals that hold the truth, and tests that reject
        good = np.zeros(blocks * block, bool)
        good[:count] = codes == Status.CONVERGED
        with np.errstate(all="ignore"):  # of what is not used
            error = np.subtract(estimate, truth[:, None], out=series[0, :, :count])
            np.square(error, out=series[1, :, :count])
            np.square(se, out=series[2, :, :count])
            se *= reach
            np.less_equal(np.abs(error), se, out=counted[0, :, :count])
            np.greater(np.abs(estimate, out=estimate), se, out=counted[1, :, :count])
        counted &= good
        moments = Moments.of(series.reshape(3 * p, blocks, block), good.reshape(blocks, block))
        held, refuted = counted.reshape(2, p, blocks, block).sum(3).swapaxes(1, 2)
        place = np.arange(count) // block * len(Status) + codes
        return Tally(
            np.bincount(place, minlength=blocks * len(Status)).reshape(blocks, len(Status)),
            moments.columns(0, p),
            moments.columns(p, 2 * p),
            moments.columns(2 * p, 3 * p),
            held,
            refuted,
        )

    return [some(start) for start in range(0, len(status), size)]


def merged(tallies: Iterable[Tally]) -> Tally:
    """The tally of all blocks: of neighbours, then of neighbours among these, and so on."""
    total = jax.tree.map(lambda *parts: np.concatenate(parts), *tallies)
    while (count := len(total.statuses)) > 1:
        pairs = count // 2 * 2
        first, second, last = (
            jax.tree.map(lambda leaf, cut=cut: leaf[cut], total)
            for cut in (slice(0, pairs, 2), slice(1, pairs, 2), slice(pairs, None))
        )
        total = jax.tree.map(lambda *parts: np.concatenate(parts), first.merge(second), last)
    return jax.tree.map(lambda leaf: leaf[0], total)


def rates(total: Tally) -> list[Rate]:
    """The rate of every status, over all replicates."""
    q = total.statuses / total.replicates
    mcse = _of_proportion(q, total.replicates)
    return [Rate(s, int(total.statuses[s]), float(q[s]), float(mcse[s])) for s in Status]


def performance(total: Tally, truth: np.ndarray) -> list[Measure]:
    """Every measure of every coefficient, over the replicates with an estimate.

    NaN where the measure is not defined: with too few replicates, or a relative bias of a coefficient that is zero.
    """
    n = total.used
    nan = np.full_like(truth, np.nan)
    if not n:
        values = dict.fromkeys(_NAMES, (nan, nan))
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = _measures(total, np.where(truth == 0, np.nan, truth))
    return [
        Measure(name, j, float(values[name][0][j]), float(values[name][1][j]))
        for name in _NAMES
        for j in range(len(truth))
    ]


_NAMES = (
    "bias",
    "relative bias",
    "empirical SE",
    "model SE",
    "relative error of model SE, %",
    "MSE",
    "coverage",
    "power",
)


def _measures(total: Tally, divisor: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    n = total.used
    degrees = n - 1 if n > 1 else np.nan
    bias, emp = total.error.mean, np.sqrt(total.error.variance)
    mse, mod = total.squared_error.mean, np.sqrt(total.variance.mean)
    mcse_bias = emp / np.sqrt(n)
    spread = total.variance.variance / (4 * n)
    ratio = mod / emp
    covered, rejected = total.covered / n, total.rejected / n
    values = (
        (bias, mcse_bias),
        (bias / divisor, mcse_bias / np.abs(divisor)),
        (emp, emp / np.sqrt(2 * degrees)),
        (mod, np.sqrt(spread) / mod),
        (100 * (ratio - 1), 100 * ratio * np.sqrt(spread / mod**4 + 1 / (2 * degrees))),
        (mse, np.sqrt(total.squared_error.variance / n)),
        (covered, _of_proportion(covered, n)),
        (rejected, _of_proportion(rejected, n)),
    )
    return dict(zip(_NAMES, values, strict=True))


def _of_proportion(q: np.ndarray, n: int) -> np.ndarray:
    return np.sqrt(q * (1 - q) / n)
