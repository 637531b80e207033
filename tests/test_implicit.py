"""Derivatives of a fit under ``jit`` and ``vmap``, and the rule for datasets without an estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")


def dataset(n=30, p=3, seed=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X[:, 0] = 1
    return {
        "X": X,
        "y": rng.poisson(np.exp(X @ np.array([0.2, 0.4, -0.3]))).astype(float),
        "offset": rng.normal(size=n) / 5,
        "freq_weights": rng.uniform(0.5, 2, n),
        "strength": np.array(0.7),
    }


def scalar(data):
    """A function of everything that a fit differentiates."""
    penalty = ji.Ridge(data["strength"])
    fit = ji.fit(
        data["X"], data["y"], ji.Poisson(), offset=data["offset"], freq_weights=data["freq_weights"], penalty=penalty
    )
    return jnp.sum(fit.params**3) + jnp.sum(jnp.log(fit.bse)) + 0.1 * fit.llf + fit.scale + 0.01 * fit.deviance


def test_second_derivatives_and_forward_mode():
    data = dataset()

    def of_strength(s):
        return scalar({**data, "strength": s})

    h = 1e-4
    first = jax.jit(jax.grad(of_strength))
    expected = (first(0.7 + h) - first(0.7 - h)) / (2 * h)
    second, forward = jax.jit(lambda s: (jax.hessian(of_strength)(s), jax.jvp(of_strength, (s,), (1.0,))[1]))(0.7)
    np.testing.assert_allclose(second, expected, rtol=1e-6)
    np.testing.assert_allclose(forward, first(0.7), rtol=1e-12)


def test_the_start_has_derivative_zero():
    data = dataset()
    gradient = jax.grad(lambda b: ji.fit(data["X"], data["y"], ji.Poisson(), start=b).params.sum())(jnp.zeros(3))
    np.testing.assert_array_equal(gradient, 0)


def test_a_dataset_without_an_estimate_has_zero_derivatives_and_spoils_no_neighbour():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(4, 25, 2))
    y = rng.binomial(1, 0.5, (4, 25)).astype(float)
    y[1] = X[1, :, 0] > 0
    X[2, 3, 1] = np.nan

    def total(X, y):
        return jnp.sum(jnp.nan_to_num(ji.fit(X, y, ji.Binomial()).params) ** 2)

    gradient_of = jax.jit(jax.grad(total))
    gradient = gradient_of(X, y)
    good = np.array([0, 3])
    np.testing.assert_array_equal(gradient[np.array([1, 2])], 0)
    np.testing.assert_allclose(gradient[good], gradient_of(X[good], y[good]), rtol=1e-9, atol=1e-12)
    assert np.abs(gradient[good]).max() > 0


def test_mapped_and_compiled_gradients_are_those_of_each_dataset():
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(3, 20, 2)), rng.poisson(2.0, (3, 20)).astype(float)

    def of_one(X, y):
        return ji.fit(X, y, ji.Poisson()).params.sum()

    alone = jax.jit(jax.grad(of_one))
    mapped = jax.jit(jax.vmap(jax.grad(of_one)))(X, y)
    for i in range(3):
        np.testing.assert_allclose(mapped[i], alone(X[i], y[i]), rtol=1e-9, atol=1e-12)
