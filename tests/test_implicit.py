"""Derivatives of a fit against central differences, and the rule for datasets without an estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji

FAMILIES = {
    "gaussian": ji.Gaussian(),
    "logit": ji.Binomial(),
    "cloglog": ji.Binomial(link=ji.links.CLogLog()),
    "poisson": ji.Poisson(),
    "gamma": ji.Gamma(link=ji.links.Log()),
}


def dataset(name, n=30, p=3, seed=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X[:, 0] = 1
    eta = X @ np.array([0.2, 0.4, -0.3])
    draw = {
        "gaussian": lambda: eta + rng.normal(size=n),
        "logit": lambda: rng.binomial(1, 1 / (1 + np.exp(-eta))),
        "cloglog": lambda: rng.binomial(1, -np.expm1(-np.exp(eta))),
        "poisson": lambda: rng.poisson(np.exp(eta)),
        "gamma": lambda: rng.gamma(2, np.exp(eta) / 2),
    }
    return {
        "X": X,
        "y": draw[name]().astype(float),
        "offset": rng.normal(size=n) / 5,
        "freq_weights": rng.uniform(0.5, 2, n),
        "strength": np.array(0.7),
    }


def scalar(family, data):
    """A function of everything that a fit differentiates."""
    fit = ji.fit(
        data["X"],
        data["y"],
        family,
        offset=data["offset"],
        freq_weights=data["freq_weights"],
        penalty=ji.Ridge(data["strength"]),
    )
    return jnp.sum(fit.params**3) + jnp.sum(jnp.log(fit.bse)) + 0.1 * fit.llf + fit.scale + 0.01 * fit.deviance


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_agree_with_central_differences(name):
    family, data = FAMILIES[name], dataset(name)
    value = jax.jit(lambda data: scalar(family, data))
    gradient = jax.jit(jax.grad(lambda data: scalar(family, data)))(data)
    rng = np.random.default_rng(0)
    for argument, point in data.items():
        direction = rng.normal(size=np.shape(point))
        if argument == "y" and name in ("logit", "cloglog", "poisson"):
            direction = np.where(point == 0, 0.0, np.where(point == 1, 0.0, direction))
        h = 1e-5
        up, down = ({**data, argument: point + s * h * direction} for s in (1, -1))
        expected = (value(up) - value(down)) / (2 * h)
        found = np.sum(np.asarray(gradient[argument]) * direction)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8, err_msg=argument)


def test_second_derivatives_and_forward_mode():
    family, data = FAMILIES["poisson"], dataset("poisson")

    def of_strength(s):
        return scalar(family, {**data, "strength": s})

    h = 1e-4
    first = jax.jit(jax.grad(of_strength))
    expected = (first(0.7 + h) - first(0.7 - h)) / (2 * h)
    np.testing.assert_allclose(jax.hessian(of_strength)(0.7), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(of_strength, (0.7,), (1.0,))[1], first(0.7), rtol=1e-12)


def test_the_start_has_derivative_zero():
    data = dataset("logit")
    gradient = jax.grad(lambda b: ji.fit(data["X"], data["y"], ji.Binomial(), start=b).params.sum())(jnp.zeros(3))
    np.testing.assert_array_equal(gradient, 0)


def test_a_dataset_without_an_estimate_has_zero_derivatives_and_spoils_no_neighbour():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(4, 25, 2))
    y = rng.binomial(1, 0.5, (4, 25)).astype(float)
    y[1] = X[1, :, 0] > 0
    X[2, 3, 1] = np.nan

    def total(X, y):
        return jnp.sum(jnp.nan_to_num(ji.fit(X, y, ji.Binomial()).params) ** 2)

    gradient = jax.grad(total)(jnp.asarray(X), jnp.asarray(y))
    good = np.array([0, 3])
    np.testing.assert_array_equal(gradient[np.array([1, 2])], 0)
    np.testing.assert_allclose(gradient[good], jax.grad(total)(X[good], y[good]), rtol=1e-9, atol=1e-12)
    assert np.abs(gradient[good]).max() > 0


def test_mapped_and_compiled_gradients_are_those_of_each_dataset():
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(3, 20, 2)), rng.poisson(2.0, (3, 20)).astype(float)

    def of_one(X, y):
        return ji.fit(X, y, ji.Poisson()).params.sum()

    mapped = jax.jit(jax.vmap(jax.grad(of_one)))(X, y)
    for i in range(3):
        np.testing.assert_allclose(mapped[i], jax.grad(of_one)(X[i], y[i]), rtol=1e-9, atol=1e-12)
