"""Studies: measures and their definitions, replicates and statsmodels, totals and chunk sizes, scenario errors."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
import statsmodels.api as sm

import jaxirls as ji
from jaxirls import study
from jaxirls.study.draw import draw, layout, root_keys
from jaxirls.study.measures import Tally, merged, performance, rates, tallies
from jaxirls.study.scenario import FAMILIES, LINKS

SEPARATION = study.Scenario(
    n=20,
    coefficients=(1.5, -1.0),
    design=study.Normal(scale=1.5),
    family=ji.Binomial(),
    replicates=700,
    seed=418,
)


@pytest.fixture(scope="module")
def result() -> study.StudyResult:
    return study.run(SEPARATION, keep=True)


# --- measures ---------------------------------------------------------------------------------------------------------


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


# --- replicates -------------------------------------------------------------------------------------------------------


def _reference(X: np.ndarray, y: np.ndarray):
    return sm.GLM(y, X, family=sm.families.Binomial()).fit(tol=1e-12, tol_criterion="params")


def test_replicates_are_statsmodels_fits(result: study.StudyResult):
    kept = result.replicates
    X, y = study.datasets(SEPARATION, np.arange(40))
    finite = [i for i in range(40) if kept.status[i] == ji.Status.CONVERGED]
    assert len(finite) > 30
    for i in finite:
        reference = _reference(X[i], y[i])
        np.testing.assert_allclose(kept.estimates[i], reference.params, rtol=1e-7)
        np.testing.assert_allclose(kept.standard_errors[i], reference.bse, rtol=1e-6)


def test_a_study_is_a_batch_fit_of_its_datasets(result: study.StudyResult):
    X, y = study.datasets(SEPARATION, np.arange(SEPARATION.replicates))
    fit = ji.fit(X, y, ji.Binomial())
    np.testing.assert_array_equal(fit.status, result.replicates.status)
    good = np.asarray(fit.converged)
    np.testing.assert_allclose(result.replicates.estimates[good], fit.params[good], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(result.replicates.standard_errors[good], fit.bse[good], rtol=1e-8)
    assert result.total.used == good.sum()
    assert result["bias", "x2"].estimate == pytest.approx(np.mean(np.asarray(fit.params)[good, 1] + 1.0), rel=1e-8)


def test_the_chunk_changes_no_bit(result: study.StudyResult):
    whole, parts = result, study.run(dataclasses.replace(SEPARATION, chunk=200), keep=True)  # 200 is rounded up to 256
    for a, b in zip(whole.replicates, parts.replicates, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(whole.total), jax.tree.leaves(parts.total), strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_replicates_begin_with_the_same(result: study.StudyResult):
    fewer = study.run(dataclasses.replace(SEPARATION, replicates=300), keep=True)
    for a, b in zip(fewer.replicates, result.replicates, strict=True):
        np.testing.assert_array_equal(a, b[:300])


def test_precisions_agree(result: study.StudyResult):
    single = study.run(dataclasses.replace(SEPARATION, dtype="float32"), keep=True)
    assert single.replicates.estimates.dtype == np.float32
    # Each draws from its own random bits: they are two studies of one law.
    for name in ("bias", "coverage"):
        a, b = result[name, "x1"], single[name, "x1"]
        assert abs(a.estimate - b.estimate) < 5 * np.hypot(a.mcse, b.mcse)


def test_seeds_are_different_studies():
    draw = [study.datasets(dataclasses.replace(SEPARATION, seed=seed), [0])[0] for seed in (0, 1, 2**32 - 1)]
    assert not np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])


@pytest.mark.parametrize("x64", [True, False])
def test_no_setting_is_needed_and_none_is_changed(x64: bool, result: study.StudyResult):
    with jax.enable_x64(x64):
        X, _ = study.datasets(SEPARATION, [3])
        assert jax.config.jax_enable_x64 == x64
    assert X.dtype == np.float64
    np.testing.assert_array_equal(X, study.datasets(SEPARATION, [3])[0])


def test_progress_tells_all_replicates_in_order():
    calls: list[int] = []
    study.run(dataclasses.replace(SEPARATION, replicates=600, chunk=256), progress=calls.append)
    assert calls == [0, 256, 256, 88]


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("design", "mean", "sd"),
    [
        (study.Normal(mean=2.0, scale=0.5), 2.0, 0.5),
        (study.Uniform(low=-1.0, high=3.0), 1.0, 4 / np.sqrt(12)),
        (study.Bernoulli(probability=0.3), 0.3, np.sqrt(0.21)),
    ],
)
def test_covariates_follow_their_law(design: study.Covariates, mean: float, sd: float):
    X = np.asarray(design.draw(jax.random.key(4), 5000, 2, np.float64))
    assert X.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(X.size))
    assert X.std() == pytest.approx(sd, rel=0.05)
    assert abs(np.corrcoef(X.T)[0, 1]) < 4 / np.sqrt(len(X))


def test_intercept_is_the_first_column():
    design = study.Uniform(intercept=True)
    X = np.asarray(design.draw(jax.random.key(4), 50, 2, np.float64))
    assert dataclasses.replace(SEPARATION, design=design).names == ("const", "x1")
    np.testing.assert_array_equal(X[:, 0], 1.0)
    assert X[:, 1].std() > 0


def test_a_design_that_is_not_redrawn_is_shared():
    design = study.Normal(intercept=True, redraw=False)
    scenario = dataclasses.replace(SEPARATION, design=design, coefficients=(0.2, 0.4), replicates=200, n=40)
    X, y = study.datasets(scenario, [0, 1, 199])
    np.testing.assert_array_equal(X[0], X[2])
    assert not np.array_equal(y[0], y[2])
    kept = study.run(scenario, keep=True).replicates
    for i, X_, y_ in zip([0, 1, 199], X, y, strict=True):
        assert kept.status[i] == ji.Status.CONVERGED
        np.testing.assert_allclose(kept.estimates[i], _reference(X_, y_).params, rtol=1e-7)


@pytest.mark.parametrize(
    ("family", "coefficients", "dispersion"),
    [(ji.Gaussian(), (1.0, -2.0), 4.0), (ji.Poisson(), (0.5, 0.3), 1.0)],
)
def test_other_families_are_unbiased_where_theory_says_so(family, coefficients, dispersion):
    scenario = study.Scenario(
        n=100,
        coefficients=coefficients,
        design=study.Normal(intercept=True),
        family=family,
        dispersion=dispersion,
        replicates=1000,
        seed=7,
    )
    result = study.run(scenario)
    assert result.total.used == 1000
    for name in scenario.names:
        bias, coverage = result["bias", name], result["coverage", name]
        # Unbiased for Gaussian responses, to O(1/n) for counts.
        assert abs(bias.estimate) < 4 * bias.mcse + 0.01 * isinstance(family, ji.Poisson)
        assert coverage.estimate == pytest.approx(0.95, abs=4 * coverage.mcse + 0.01)
    if isinstance(family, ji.Gaussian):
        # se² is φ (X'X)⁻¹ with φ = 4 about the line.
        assert result["model SE", "x1"].estimate == pytest.approx(2 / np.sqrt(97), rel=0.03)


def test_means_that_cannot_be_drawn_make_a_replicate_invalid():
    # Counts are not drawn with a mean past 2³⁰ = e^20.8.
    scenario = dataclasses.replace(
        SEPARATION, family=ji.Poisson(), coefficients=(1.0,), n=4, design=study.Uniform(low=20.0, high=21.0)
    )
    problem = jax.jit(lambda roots, index: draw(scenario, layout(scenario).design, roots, index))(
        root_keys(scenario), np.arange(100, dtype=np.uint32)
    )
    beyond = np.asarray(problem.design.x[:, 0]) > np.log(2.0**30)
    np.testing.assert_array_equal(np.isnan(problem.rows.y), beyond)
    np.testing.assert_array_equal(problem.invalid, beyond.any(0))
    assert 0 < beyond.any(0).sum() < 100


def test_wide_datasets_are_fitted_one_by_one():
    scenario = study.Scenario(
        n=60, coefficients=[0.1] * 25, design=study.Normal(), family=ji.Gaussian(), replicates=6, seed=1
    )
    kept = study.run(scenario, keep=True).replicates
    X, y = study.datasets(scenario, np.arange(6))
    for i in range(6):
        np.testing.assert_allclose(kept.estimates[i], np.linalg.lstsq(X[i], y[i])[0], atol=1e-10)


# --- results ----------------------------------------------------------------------------------------------------------


def test_table_says_what_was_left_out(result: study.StudyResult):
    text = result.table()
    left = 700 - result.total.used
    assert left > 0
    assert f"over the {result.total.used} fits that converged to a finite maximum likelihood estimate" in text
    assert f"other {left} have no estimate" in text
    for word in ("converged", "separated", "bias", "empirical SE", "model SE", "coverage of 95% intervals", "x1 = 1.5"):
        assert word in text
    assert "compile time apart" in text
    bias = result["bias", "x1"]
    assert f"{bias.estimate:.2f} ({bias.mcse:.2f})" in text


def test_unknown_measure_names_the_known(result: study.StudyResult):
    with pytest.raises(KeyError, match="coverage"):
        result["covrage", "x1"]


# --- scenario files ---------------------------------------------------------------------------------------------------

GOOD = """
n = 20
coefficients = [1.5, -1.0]
replicates = 100
seed = 418

[design]
kind = "normal"
scale = 1.5

[family]
name = "binomial"
"""


def test_scenario_from_toml(tmp_path):
    path = tmp_path / "scenario.toml"
    path.write_text(GOOD)
    scenario = study.Scenario.from_toml(path)
    assert scenario == dataclasses.replace(SEPARATION, replicates=100)
    assert study.Scenario.from_dict(scenario.to_dict()) == scenario
    json.dumps(scenario.to_dict())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_and_link_can_be_named(name: str):
    for link in LINKS:
        table = {"name": name, "link": link}
        scenario = study.Scenario.from_dict(dataclasses.replace(SEPARATION, seed=0).to_dict() | {"family": table})
        assert scenario.family_name == name
        assert scenario.link_name == link
        assert study.Scenario.from_dict(scenario.to_dict()) == scenario


def test_example_is_the_scenario_of_these_tests():
    scenario = study.Scenario.from_toml("examples/separation.toml")
    assert scenario == dataclasses.replace(SEPARATION, replicates=100_000)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 418", "sed = 418", r'sed is not a key of the scenario; did you mean "seed"\?; its keys are n, coeff'),
        ("scale = 1.5", "sclae = 1.5", r'design\.sclae is not a key of \[design\]; did you mean "scale"\?'),
        (
            "scale = 1.5",
            "low = 1.5",
            r"design\.low is not a key of \[design\]; its keys are intercept, redraw",
        ),
        ("n = 20", "", r"n is missing: expected a whole number of at least 1"),
        ("[design]", "[dessign]", r'dessign is not a key of the scenario; did you mean "design"\?'),
        ('kind = "normal"', "", r'design\.kind is missing: expected one of "normal", "uniform", "bernoulli"'),
        ('"normal"', '"nromal"', r'design\.kind = "nromal": expected one of .*; did you mean "normal"\?'),
        ("n = 20", "n = 20.5", r"n = 20\.5: expected a whole number of at least 1"),
        ("n = 20", "n = true", r"n = true: expected a whole number"),
        ("n = 20", "n = 1", r"n = 1: expected at least 2 for 2 coefficients"),
        ("[1.5, -1.0]", "[]", r"coefficients = \[\]: expected a list of finite numbers, at least one"),
        ("[1.5, -1.0]", '["a"]', r"coefficients = \['a'\]: expected a list of finite numbers"),
        ("[1.5, -1.0]", "[nan]", r"coefficients = \[nan\]: expected a list of finite numbers"),
        ("replicates = 100", "replicates = 0", r"replicates = 0: expected a whole number from 1"),
        ("seed = 418", "seed = -1", r"seed = -1: expected a whole number from 0 to 4294967295"),
        ("seed = 418", "seed = 1\nlevel = 95", r"level = 95: expected a number between 0 and 1"),
        ("seed = 418", "seed = 1\nchunk = 0", r"chunk = 0: expected a whole number from 1 to 2147483647"),
        ("seed = 418", 'seed = 1\ndtype = "float16"', r'dtype = "float16": expected one of "float32", "float64"'),
        ("scale = 1.5", "scale = -1", r"design\.scale = -1: expected a positive number"),
        ("scale = 1.5", "redraw = 1", r"design\.redraw = 1: expected true or false"),
        ('"normal"\nscale = 1.5', '"uniform"\nlow = 2', r"design\.high = 1\.0: expected a number above low = 2"),
        (
            '"normal"\nscale = 1.5',
            '"bernoulli"\nprobability = 1',
            r"design\.probability = 1: expected a number between",
        ),
        ('"binomial"', '"binomal"', r'family\.name = "binomal": expected .*; did you mean "binomial"\?'),
        (
            '"binomial"',
            '"binomial"\nlink = "logt"',
            r'family\.link = "logt": expected one of .*; did you mean "logit"\?',
        ),
        ('"binomial"', '"binomial"\ndispersion = 2.0', r"family\.dispersion is not a key of \[family\]; its keys are"),
        ('"binomial"', '"gaussian"\ndispersion = 0', r"family\.dispersion = 0: expected a positive number"),
        ('[family]\nname = "binomial"', "", r'family is missing: expected a table with name one of "binomial"'),
        ("n = 20", 'n = 20\nfamily = "binomial"', r"is not TOML"),
        ("n = 20", "n = ", r"is not TOML: .*line 2"),
    ],
)
def test_scenario_errors_name_the_key_and_what_is_allowed(tmp_path, old: str, new: str, message: str):
    path = tmp_path / "scenario.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(study.ScenarioError, match=message) as caught:
        study.Scenario.from_toml(path)
    assert str(caught.value).startswith(str(path))


def test_a_table_is_asked_for_where_a_name_was_given():
    table = dataclasses.replace(SEPARATION, seed=0).to_dict()
    with pytest.raises(study.ScenarioError, match=r'family = "binomial": expected a table with name one of "binomial"'):
        study.Scenario.from_dict(table | {"family": "binomial"})
    with pytest.raises(study.ScenarioError, match=r'design = "normal": expected a table with kind one of "normal"'):
        study.Scenario.from_dict(table | {"design": "normal"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": ji.Binomial(trials=3)}, "family = "),
        ({"dispersion": 2.0}, "the binomial family has none"),
        ({"n": 2, "family": ji.Gaussian()}, "n = 2: expected at least 3"),
        ({"design": "normal"}, "design = "),
    ],
)
def test_scenarios_made_in_python_are_checked_too(change: dict, message: str):
    with pytest.raises(study.ScenarioError, match=message):
        dataclasses.replace(SEPARATION, **change)


def test_unreadable_files_are_scenario_errors(tmp_path):
    with pytest.raises(study.ScenarioError, match="cannot be read"):
        study.Scenario.from_toml(tmp_path / "none.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9\n")
    with pytest.raises(study.ScenarioError, match="is not UTF-8"):
        study.Scenario.from_toml(path)


def test_bad_replicate_numbers_are_errors():
    with pytest.raises(ValueError, match="replicate numbers"):
        study.datasets(SEPARATION, [0.5])
    with pytest.raises(ValueError, match="replicate numbers"):
        study.datasets(SEPARATION, -1)


def test_tallies_merge_with_one_that_has_no_estimate():
    estimates, se, status, truth = draws(50)
    full = merged(tallies(estimates, se, status, truth, 0.95, 16))
    separated = merged(tallies(estimates, se, np.full_like(status, ji.Status.SEPARATED), truth, 0.95, 16))
    both: Tally = separated.merge(full)
    assert both.used == full.used
    np.testing.assert_array_equal(both.error.mean, full.error.mean)
    assert both.replicates == 100


# --- autodiff as a witness --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compile_fast")
def test_the_check_sees_a_fault_of_the_fit(monkeypatch):
    sound = study.check(SEPARATION, sample=40)
    assert sound.sample == 40
    assert 20 < sound.checked < 40  # some of these datasets are separated
    assert sound.difference < 1e-10
    assert sound.score < 1e-7

    def moved(*arguments, **options):
        fit = ji.fit(*arguments, **options)
        return dataclasses.replace(fit, params=fit.params + 0.1 * fit.bse)

    monkeypatch.setattr("jaxirls.study.witness.fit", moved)
    faulty = study.check(SEPARATION, sample=40)
    assert faulty.difference > 1e-3
    assert faulty.score > 0.05
    assert faulty.checked == sound.checked

    def failed(*arguments, **options):
        fit = ji.fit(*arguments, **options)
        return dataclasses.replace(fit, status=jax.numpy.full_like(fit.status, ji.Status.SEPARATED))

    monkeypatch.setattr("jaxirls.study.witness.fit", failed)
    nothing = study.check(SEPARATION, sample=40)
    assert (nothing.sample, nothing.checked) == (40, 0)
    assert "nothing to check" in nothing.line()
    with pytest.raises(ValueError, match=r"sample=0.*positive"):
        study.check(SEPARATION, sample=0)
