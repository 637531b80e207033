"""Deviances and log-likelihoods where only some datasets have proportions for responses, against statsmodels'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm

import jaxirls as ji

HAS_PROPORTIONS = np.arange(70) % 3 == 1


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(70, 40, 2))
    y = (rng.uniform(size=(70, 40)) < 0.5).astype(float)
    y[HAS_PROPORTIONS] = rng.uniform(size=(HAS_PROPORTIONS.sum(), 40))
    return X, y


def expected(X, y, params):
    family = sm.families.Binomial()
    means = 1 / (1 + np.exp(-np.einsum("bij,bj->bi", X, params)))
    pairs = [(family.deviance(*row), family.loglike(*row)) for row in zip(y, means, strict=True)]
    return np.transpose(pairs)


@pytest.mark.parametrize("transformed", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
def test_every_dataset_has_its_likelihood(data, transformed):
    fit = transformed(lambda X, y: ji.fit(X, y, ji.Binomial()))(*map(jnp.asarray, data))
    deviance, llf = expected(*data, fit.params)
    np.testing.assert_allclose(fit.deviance, deviance, rtol=1e-11)
    np.testing.assert_allclose(fit.llf, llf, rtol=1e-11)


def test_a_dispersion_from_the_deviance_has_that_of_proportions(data):
    fit = ji.fit(*data, ji.Binomial(), scale="dev")
    deviance, llf = expected(*data, fit.params)
    np.testing.assert_allclose(fit.scale, deviance / 38, rtol=1e-11)
    np.testing.assert_allclose(fit.llf, llf, rtol=1e-11)


def test_the_history_of_a_fit_to_proportions_has_its_likelihoods(data):
    X, y = (leaf[HAS_PROPORTIONS][0] for leaf in data)
    history = ji.trace(X, y, ji.Binomial())
    steps = len(history)
    deviance, llf = expected(np.stack([X] * steps), np.stack([y] * steps), history.beta)
    np.testing.assert_allclose(history.deviance, deviance, rtol=1e-11)
    np.testing.assert_allclose(history.llf, llf, rtol=1e-11)


def test_without_an_estimate_there_is_no_likelihood(data):
    X, y = (leaf[HAS_PROPORTIONS][:2].copy() for leaf in data)
    y[0, 3] = np.nan
    fit = ji.fit(X, y, ji.Binomial())
    assert list(fit.status) == [ji.Status.INVALID_DATA, ji.Status.CONVERGED]
    assert list(np.isnan(fit.deviance)) == list(np.isnan(fit.llf)) == [True, False]


def test_binary_data_never_ask_for_the_round_of_proportions(data, monkeypatch):
    monkeypatch.setattr("jaxirls.engine.on_cores._likelihood_chunk", None)
    X, y = (leaf[~HAS_PROPORTIONS] for leaf in data)
    fit = ji.fit(X, y, ji.Binomial())
    np.testing.assert_allclose(fit.deviance, expected(X, y, fit.params)[0], rtol=1e-11)
