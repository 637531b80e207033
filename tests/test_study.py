"""Studies: replicates and statsmodels, seeds and chunk sizes, the laws that are drawn, the table, the check."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import statsmodels.api as sm
from studies import SEPARATION

import jaxirls as ji
from jaxirls import study
from jaxirls.study.draw import draw, layout, root_keys


@pytest.fixture(scope="module")
def result() -> study.StudyResult:
    return study.run(SEPARATION, keep=True)


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


def test_bad_replicate_numbers_are_errors():
    with pytest.raises(ValueError, match="replicate numbers"):
        study.datasets(SEPARATION, [0.5])
    with pytest.raises(ValueError, match="replicate numbers"):
        study.datasets(SEPARATION, -1)


@pytest.mark.parametrize(
    ("design", "mean", "sd"),
    [
        (study.Normal(mean=2.0, scale=0.5), 2.0, 0.5),
        (study.Uniform(low=-1.0, high=3.0), 1.0, 4 / np.sqrt(12)),
        (study.Bernoulli(probability=0.3), 0.3, np.sqrt(0.21)),
    ],
)
def test_covariates_follow_their_law(design: study.Covariates, mean: float, sd: float):
    X = np.asarray(design.draw(jax.random.key(4)[None], 5000, 2, np.float64))[..., 0]
    assert X.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(X.size))
    assert X.std() == pytest.approx(sd, rel=0.05)
    assert abs(np.corrcoef(X.T)[0, 1]) < 4 / np.sqrt(len(X))


def test_intercept_is_the_first_column():
    design = study.Uniform(intercept=True)
    X = np.asarray(design.draw(jax.random.key(4)[None], 50, 2, np.float64))[..., 0]
    assert dataclasses.replace(SEPARATION, design=design).names == ("const", "x1")
    np.testing.assert_array_equal(X[:, 0], 1.0)
    assert X[:, 1].std() > 0
    alone = design.draw(jax.random.split(jax.random.key(4), 3), 50, 1, np.float64)
    np.testing.assert_array_equal(alone, np.ones((50, 1, 3)))


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
