"""``ji.check_information``: autodiff against the information of the fit; it must notice a fault in it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimates import fit_at

import jaxirls as ji
from jaxirls import links

N, P = 40, 3
MODELS = [
    ji.Gaussian(),
    ji.Binomial(),
    ji.Binomial(link=links.CLogLog()),
    ji.Poisson(link=links.Sqrt()),
    ji.NegativeBinomial(alpha=0.7),
]
CANONICAL = {0, 1}


def case(model, dtype=np.float64):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(N, P)) * 0.4
    X[:, 0] = 1.0
    beta = np.array([0.8, 0.5, -0.3])
    X, beta = jnp.asarray(X, dtype), jnp.asarray(beta, dtype)
    weights = jnp.asarray(rng.integers(0, 3, size=N), dtype)
    y = model.sample(jax.random.key(3), model.mean(X @ beta), 1.0)
    data = {"X": X, "y": y, "freq_weights": weights}
    return fit_at(beta, model, data), data


@pytest.mark.parametrize("index", range(len(MODELS)), ids=lambda i: f"{type(MODELS[i]).__name__}-{i}")
def test_autodiff_finds_the_information_of_the_fit(index):
    model = MODELS[index]
    fit, data = case(model)
    check = jax.jit(ji.check_information)(fit, **data, family=model)
    assert check.difference < 1e-9
    assert check.sampled is None
    if index in CANONICAL:
        assert check.observed_difference < 1e-9
    else:
        assert check.observed_difference > 1e-4
    # Of the Gaussian sum of squares everything is known in closed form.
    if index == 0:
        weighted = data["X"] * data["freq_weights"][:, None]
        np.testing.assert_allclose(check.observed, weighted.T @ data["X"], rtol=1e-12)
        residual = data["y"] - data["X"] @ fit.params
        np.testing.assert_allclose(check.score, weighted.T @ residual, rtol=1e-10)


def test_drawn_scores_agree_within_their_error():
    model = MODELS[2]
    fit, data = case(model)
    check = ji.check_information(fit, **data, family=model, key=jax.random.key(1), draws=2000)
    z = (check.sampled - fit.information) / check.sampled_error
    assert jnp.abs(z).max() < 4.5
    assert (check.sampled_error < 0.1 * jnp.diagonal(fit.information).max()).all()


def test_a_wrong_information_is_found_in_its_own_dataset_only():
    fits = ji.fit(*(batch := _batch()), ji.Poisson())
    wrong = dataclasses.replace(fits, root=fits.root.at[1, 0, 0].multiply(1.01))
    check = ji.check_information(wrong, *batch)
    assert check.difference.shape == (3,)
    assert check.difference[0] < 1e-9
    assert check.difference[1] > 1e-4
    assert jnp.isnan(check.difference[2])
    assert jnp.abs(check.score[:2]).max() < 1e-6


def _batch():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3, N, P))
    y = rng.poisson(1.0, size=(3, N)).astype(float)
    X[2, 4, 1] = np.nan
    return X, y


def test_float32():
    fit, data = case(ji.Binomial(), np.float32)
    check = ji.check_information(fit, **data)
    assert check.expected.dtype == jnp.float32
    assert check.difference < 1e-5


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="draws"):
        ji.check_information(None, None, None, draws=1)
