"""Derivatives of a fit against central differences, and the rule for datasets without an estimate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import name

import jaxirls as ji
from jaxirls import links

pytestmark = pytest.mark.usefixtures("compile_fast")

RIDGE = ji.Ridge(0.7)
N, P = 25, 3
CASES = [
    (ji.Gaussian(link=links.Log()), RIDGE),
    (ji.Binomial(), ji.Jeffreys()),
    (ji.Binomial(link=links.Cauchy()), RIDGE),
    (ji.Binomial(link=links.CLogLog()), ji.MeanBiasReduction()),
    (ji.Poisson(link=links.Sqrt()), None),
    (ji.Gamma(), None),
    (ji.InverseGaussian(link=links.Log()), RIDGE),
    (ji.NegativeBinomial(alpha=0.7), RIDGE),
    (ji.Tweedie(1.5), RIDGE),
]
RESULTS = ("params", "root", "llf", "deviance", "pearson_chi2", "scale")


def smooth_case(model, penalty, seed=3):
    """Data of which every number may move: responses off the edge of their range, weights, an offset, parameters."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, P)) * 0.3
    X[:, 0] = 1
    offset = rng.uniform(0, 0.2, N)
    intercept = 0.2 if isinstance(model, ji.Binomial) else 1.2
    mean = np.asarray(model.mean(X @ np.array([intercept, 0.4, -0.3]) + offset))
    spread = rng.uniform(0.6, 1.4, N)
    y = mean**spread if isinstance(model, ji.Binomial) else mean * spread
    weights = {name: rng.uniform(0.5, 2, N) for name in ("freq_weights", "var_weights")}
    data = {"X": X, "y": y, "offset": offset, **weights}
    data |= {"strength": np.array(0.7)} if penalty is RIDGE else {}
    return data | {name: np.array(value) for name, value in vars(model).items() if name in ("alpha", "power")}


def results(model, penalty, data):
    data = dict(data)
    if penalty is RIDGE:
        penalty = ji.Ridge(data.pop("strength"))
    parameters = {name: data.pop(name) for name in ("alpha", "power") if name in data}
    family = dataclasses.replace(model, **parameters)
    config = ji.IRLS(tol=1e-11)  # which divided by h is still below the tolerance
    fit = ji.fit(**data, family=family, penalty=penalty, config=config)
    return {name: getattr(fit, name) for name in RESULTS}, fit.status


@pytest.mark.parametrize(
    ("model", "penalty"), CASES, ids=lambda case: name(case) if isinstance(case, ji.Family) else type(case).__name__
)
def test_derivatives_agree_with_central_differences(model, penalty):
    """In one call: for every argument the dataset with a tangent, and the two datasets on either side of it."""
    data, h = smooth_case(model, penalty), 1e-4
    rng = np.random.default_rng(0)
    point, moved = {}, {}
    for argument, value in data.items():
        directions = np.zeros((len(data), *value.shape))
        directions[list(data).index(argument)] = rng.normal(size=value.shape) * value.std() if value.ndim else 1.0
        point[argument] = value + h * np.stack([0 * directions, directions, -directions])
        moved[argument] = np.stack([directions, 0 * directions, 0 * directions])
    program = jax.jit(lambda point, moved: jax.jvp(lambda data: results(model, penalty, data), (point,), (moved,)))
    (values, status), (tangents, _) = program(point, moved)
    assert (status == ji.Status.CONVERGED).all()
    for result in RESULTS:
        expected = np.asarray(values[result][1] - values[result][2]) / (2 * h)
        found = np.asarray(tangents[result][0])
        for i, argument in enumerate(data):
            # Central differences are out by h² times the third derivative.
            tolerance = 1e-6 * max(np.abs(expected[i]).max(), 0.01)
            np.testing.assert_allclose(found[i], expected[i], rtol=0, atol=tolerance, err_msg=f"{result} by {argument}")


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
