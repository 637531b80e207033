"""The measures of a study: their definitions, their Monte Carlo errors, and totals that merge."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from studies import SEPARATION

import jaxirls as ji
from jaxirls import study
from jaxirls.study.measures import Tally, merged, performance, rates, tallies


def draws(count: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Estimates, standard errors, statuses and truth of a made-up study."""
    rng = np.random.default_rng(seed)
    truth = np.array([0.7, 0.0, -300.0])
    se = rng.gamma(20.0, 0.05, (count, 3))
    estimates = truth + 0.1 + rng.normal(size=(count, 3)) * se
    status = rng.choice([ji.Status.CONVERGED, ji.Status.SEPARATED, ji.Status.STALLED], size=count, p=[0.8, 0.15, 0.05])
    estimates[status == ji.Status.STALLED] = np.nan
    return estimates, se, status.astype(np.int32), truth


def test_measures_are_their_definitions():
    estimates, se, status, truth = draws(501)
    total = merged(tallies(estimates, se, status, truth, 0.9, block=64))
    good = status == ji.Status.CONVERGED
    b, s, n = estimates[good], se[good], good.sum()
    d, z = b - truth, 1.6448536269514722
    emp, mod, mse = b.std(0, ddof=1), np.sqrt((s**2).mean(0)), (d**2).mean(0)
    spread = (s**2).var(0, ddof=1)
    covered = ((b - z * s <= truth) & (truth <= b + z * s)).mean(0)
    power = (np.abs(b / s) > z).mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = {
            "bias": (d.mean(0), emp / np.sqrt(n)),
            "relative bias": ((d / truth).mean(0), (d / truth).std(0, ddof=1) / np.sqrt(n)),
            "empirical SE": (emp, emp / np.sqrt(2 * (n - 1))),
            "model SE": (mod, np.sqrt(spread / (4 * n * mod**2))),
            "relative error of model SE, %": (
                100 * (mod / emp - 1),
                100 * (mod / emp) * np.sqrt(spread / (4 * n * mod**4) + 1 / (2 * (n - 1))),
            ),
            "MSE": (mse, np.sqrt(((d**2 - mse) ** 2).sum(0) / (n * (n - 1)))),
            "coverage": (covered, np.sqrt(covered * (1 - covered) / n)),
            "power": (power, np.sqrt(power * (1 - power) / n)),
        }
    found = performance(total, truth)
    assert {m.name for m in found} == set(expected)
    for measure in found:
        j = measure.coefficient
        if measure.name == "relative bias" and truth[j] == 0:
            assert np.isnan(measure.estimate)
            assert np.isnan(measure.mcse)
            continue
        np.testing.assert_allclose(measure.estimate, expected[measure.name][0][j], rtol=1e-10, err_msg=measure.name)
        np.testing.assert_allclose(measure.mcse, expected[measure.name][1][j], rtol=1e-10, err_msg=measure.name)


def test_rates_count_every_replicate():
    estimates, se, status, truth = draws(501)
    total = merged(tallies(estimates, se, status, truth, 0.95, block=64))
    found = {rate.status: rate for rate in rates(total)}
    assert set(found) == set(ji.Status)
    assert sum(rate.fits for rate in found.values()) == total.replicates == 501
    for code, rate in found.items():
        q = (status == code).mean()
        np.testing.assert_allclose((rate.estimate, rate.mcse), (q, np.sqrt(q * (1 - q) / 501)), rtol=1e-12)


def test_monte_carlo_standard_errors_are_the_spread_over_studies():
    # 400 studies of 200 replicates: a measure's standard deviation over studies, known to 1/√800, is its MCSE.
    studies, count = 400, 200
    rng = np.random.default_rng(11)
    truth = np.array([0.5])
    found = []
    for _ in range(studies):
        # Standard errors are independent of the estimates, as the formulas have it.
        se = np.sqrt(rng.chisquare(12, (count, 1)) / 12) * 0.4
        estimates = truth + 0.4 * rng.normal(size=(count, 1))
        found.append(performance(merged(tallies(estimates, se, np.zeros(count, np.int32), truth, 0.95, 256)), truth))
    for measures in zip(*found, strict=True):
        spread = np.std([m.estimate for m in measures], ddof=1)
        mcse = np.sqrt(np.mean([m.mcse**2 for m in measures]))
        assert spread / mcse == pytest.approx(1, abs=4 / np.sqrt(2 * studies)), measures[0].name


def test_merging_loses_nothing_to_cancellation():
    # d about 1e8 with spread 1: raw sums of squares would keep no digit of the variance.
    rng = np.random.default_rng(2)
    truth = np.array([0.0])
    estimates = 1e8 + rng.normal(size=(4096, 1))
    parts = [
        tally
        for part in np.split(estimates, [1000, 1001])
        for tally in tallies(part, np.ones_like(part), np.zeros(len(part), np.int32), truth, 0.95, 128)
    ]
    emp = next(m for m in performance(merged(parts), truth) if m.name == "empirical SE")
    np.testing.assert_allclose(emp.estimate, estimates.std(ddof=1), rtol=1e-7)


@pytest.mark.parametrize("used", [0, 1])
def test_too_few_estimates_are_undefined_not_wrong(used: int):
    status = np.full(5, ji.Status.SEPARATED, np.int32)
    status[:used] = ji.Status.CONVERGED
    estimates = np.arange(5.0)[:, None]
    truth = np.array([1.0])
    total = merged(tallies(estimates, np.ones((5, 1)), status, truth, 0.95, 4))
    found = {m.name: m for m in performance(total, truth)}
    assert np.isnan(found["empirical SE"].estimate)
    assert np.isnan(found["bias"].mcse)
    assert np.isnan(found["bias"].estimate) == (used == 0)
    result = study.StudyResult(
        scenario=dataclasses.replace(SEPARATION, coefficients=(1.0,), replicates=5),
        total=total,
        timing=study.Timing(1.0, 1.0),
    )
    assert "undefined" in result.table()
    json.dumps(result.to_dict(), allow_nan=False)


def test_tallies_merge_with_one_that_has_no_estimate():
    estimates, se, status, truth = draws(50)
    full = merged(tallies(estimates, se, status, truth, 0.95, 16))
    separated = merged(tallies(estimates, se, np.full_like(status, ji.Status.SEPARATED), truth, 0.95, 16))
    both: Tally = separated.merge(full)
    assert both.used == full.used
    np.testing.assert_array_equal(both.error.mean, full.error.mean)
    assert both.replicates == 100


def test_tallies_only_read_what_they_count():
    """Arrays that may not be written to, as JAX's are, in the order of memory that is theirs on the inside."""
    rng = np.random.default_rng(3)
    estimates, se = (np.asfortranarray(rng.uniform(1, 2, (50, 2))) for _ in range(2))
    given = estimates.copy(), se.copy()
    status = np.zeros(50, np.int32)
    expected = merged(tallies(*(np.ascontiguousarray(leaf) for leaf in given), status, np.ones(2), 0.95, 16))
    for leaf in (estimates, se):
        leaf.flags.writeable = False
    total = merged(tallies(estimates, se, status, np.ones(2), 0.95, 16))
    for found, known in zip(jax.tree.leaves(total), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(found, known)
