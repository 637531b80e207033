"""Profile-likelihood intervals against R, against brute force, and at infinity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimates import fit_at, fitted
from references import load
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.stats import chi2, norm

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

R = {case["name"]: case for case in load("glm")}


def deviance(X, y, offset):
    """The smallest logistic deviance, by step-halved Newton in NumPy."""

    def loss(beta):
        return np.sum(np.logaddexp(0, -(2 * y - 1) * (X @ beta + offset)))

    beta = np.zeros(X.shape[1])
    for _ in range(100):
        mu = 1 / (1 + np.exp(-(X @ beta + offset)))
        step = np.linalg.solve((X * (mu * (1 - mu))[:, None]).T @ X, X.T @ (y - mu))
        while loss(beta + step) > loss(beta) + 1e-12:
            step /= 2
        beta = beta + step
    return 2 * loss(beta)


def test_r_gives_the_same_intervals_and_separation_makes_one_end_infinite():
    case = R["nodal_logit"]
    whole, data = fitted(case)
    X, y = np.asarray(data["X"]), np.asarray(data["y"])
    column = case["columns"].index("xray")
    separated = np.where(X[:, column] == 1, 1.0, y)
    direction = np.eye(X.shape[1])[column]
    # The datasets: R's; one that xray separates; one that was not fitted.
    fits = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), dataclasses.replace(whole, family=None))
    fits = dataclasses.replace(
        fits,
        family=whole.family,
        params=fits.params.at[1].set(whole.params + 20 * direction).at[2].set(jnp.nan),
        direction=fits.direction.at[1].set(direction),
        status=jnp.array([ji.Status.CONVERGED, ji.Status.SEPARATED, ji.Status.INVALID_DATA], jnp.int32),
    )
    found = ji.profile_conf_int(fits, X, np.stack([y, separated, np.where(y == 1, np.nan, y)]))
    np.testing.assert_allclose(found.conf_int[0], case["profile"]["conf_int"], rtol=1e-9, atol=1e-9)
    assert (found.status[0] == ji.Status.CONVERGED).all()
    assert np.isnan(found.conf_int[2]).all()
    assert (found.status[2] == ji.Status.INVALID_DATA).all()

    assert found.conf_int[1, column, 1] == np.inf
    assert found.status[1, column, 1] == ji.Status.SEPARATED
    others, still = np.delete(X, column, 1), X[:, column] == 0
    supremum = deviance(others[still], separated[still], 0.0)
    cut = chi2.ppf(0.95, 1)
    lower = brentq(lambda b: deviance(others, separated, b * X[:, column]) - supremum - cut, -5, 5, xtol=1e-12)
    np.testing.assert_allclose(found.conf_int[1, column, 0], lower, rtol=1e-8)
    assert found.status[1, column, 0] == ji.Status.CONVERGED
    rest = np.delete(np.arange(X.shape[1]), column)
    assert np.isnan(found.conf_int[1, rest]).all()
    assert (found.status[1, rest] == ji.Status.SEPARATED).all()


def test_in_a_gaussian_model_of_known_dispersion_the_interval_is_walds():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2, 12, 2)), rng.normal(size=(2, 12))
    beta = np.stack([np.linalg.lstsq(X[i], y[i])[0] for i in range(2)])
    fits = jax.vmap(lambda beta, X, y: fit_at(beta, ji.Gaussian(), {"X": X, "y": y}, 0.4))(beta, X, y)
    found = jax.jit(lambda fits: ji.profile_conf_int(fits, X, y, alpha=0.2))(fits)
    np.testing.assert_allclose(found.conf_int, fits.conf_int(0.2), rtol=1e-8, atol=1e-9)
    penalized = dataclasses.replace(fits, penalized=jnp.array([True, False]))
    mixed = jax.jit(lambda fits: ji.profile_conf_int(fits, X, y, alpha=0.2))(penalized)
    assert np.isnan(mixed.conf_int[0]).all()
    np.testing.assert_allclose(mixed.conf_int[1], found.conf_int[1], rtol=1e-12)


def test_with_one_column_weights_and_offset_count():
    y, weight, offset = np.array([1.0, 3, 0, 5]), np.array([2.0, 1, 0, 3]), np.array([0.1, 0.4, np.nan, -0.2])
    data = {"X": np.ones((4, 1)), "y": y, "freq_weights": weight, "offset": offset}
    used = weight > 0
    total = np.sum((weight * y)[used])
    exposure = np.sum((weight * np.exp(offset))[used])
    best = np.log(total / exposure)

    def excess(b):
        return 2 * (total * (best - b) + exposure * (np.exp(b) - np.exp(best))) - norm.isf(0.025) ** 2

    expected = [brentq(excess, best - 3, best, xtol=1e-13), brentq(excess, best, best + 3, xtol=1e-13)]
    found = ji.profile_conf_int(fit_at([best], ji.Poisson(), data), **data)
    np.testing.assert_allclose(found.conf_int[0], expected, rtol=1e-9)


def test_logistf_definition_gives_the_same_tests_and_intervals_under_jeffreys():
    case = next(case for case in load("firth") if case["name"] == "endometrial_logit_MPL_Jeffreys")
    X, y, expected = case["X"], case["y"], case["profile"]
    # With the logit link mean bias reduction is Jeffreys' penalty.
    fit = ji.fit(X, y, ji.Binomial(), penalty=ji.MeanBiasReduction())
    test, found = jax.jit(lambda fit: (ji.profile_test(fit, X, y), ji.profile_conf_int(fit, X, y)))(fit)
    np.testing.assert_allclose(test.statistic, expected["lr"], rtol=1e-9)
    np.testing.assert_allclose(test.pvalue, expected["lr_pvalue"], rtol=1e-8)
    np.testing.assert_allclose(found.conf_int, expected["conf_int"], rtol=1e-9)
    assert (found.status == ji.Status.CONVERGED).all()


def test_where_jeffreys_is_the_fallback_each_dataset_has_its_own_likelihood():
    x = np.linspace(-1, 1, 16)
    X, y = np.column_stack([np.ones(16), x]), np.stack([x > 0.1, (x > 0.1) ^ (np.arange(16) % 5 == 1)]).astype(float)
    family, penalized = ji.Binomial(link=ji.links.Probit()), np.array([True, False])

    def objective(beta, i):
        eta = X @ beta
        value = -2 * norm.logcdf((2 * y[i] - 1) * eta).sum()
        weight = np.exp(2 * norm.logpdf(eta) - norm.logcdf(eta) - norm.logsf(eta))
        return value - penalized[i] * np.linalg.slogdet((X * weight[:, None]).T @ X)[1]

    def drop(j, b, i):
        other = minimize_scalar(lambda t: objective(np.insert([t], j, b), i), (-0.5, 0.5), tol=1e-10)
        return other.fun - objective(best[i], i)

    best = np.stack([minimize(objective, [0.0, 0.5], i, "Nelder-Mead", tol=1e-13).x for i in range(2)])
    fits = jax.vmap(lambda beta, y: fit_at(beta, family, {"X": X, "y": y}))(best, y)
    fits = dataclasses.replace(fits, penalty=ji.Jeffreys(), penalized=jnp.asarray(penalized))
    value = np.array([0.0, 0.3])
    test, intervals = jax.jit(lambda f: (ji.profile_test(f, X, y, value), ji.profile_conf_int(f, X, y)))(fits)
    for i in range(2):
        for j in range(2):
            np.testing.assert_allclose(test.statistic[i, j], drop(j, value[j], i), rtol=1e-8, atol=1e-12)
            for end in intervals.conf_int[i, j]:
                np.testing.assert_allclose(drop(j, float(end), i), chi2.ppf(0.95, 1), rtol=1e-8)


def test_a_penalty_that_belongs_to_no_likelihood_is_an_error_or_nan_where_it_was_used():
    X, y = np.ones((4, 1)), np.array([0.0, 1, 1, 1])
    fit = ji.fit(X, y, ji.Binomial(link=ji.links.Probit()), penalty=ji.Ridge(1.0))
    biased = dataclasses.replace(fit, penalty=ji.MeanBiasReduction())
    for called in (ji.profile_conf_int, ji.profile_test):
        with pytest.raises(ValueError, match=r"ji.Ridge\(...\) there is no likelihood ratio. Fit with penalty="):
            called(fit, X, y)
        with pytest.raises(ValueError, match=r"ji.MeanBiasReduction"):
            called(biased, X, y)
    assert np.isnan(jax.jit(lambda fit: ji.profile_test(fit, X, y).statistic)(fit)).all()
    with pytest.raises(ValueError, match=r"value has shape \(3,\)"):
        ji.profile_test(fit, X, y, np.zeros(3))
