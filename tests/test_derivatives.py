"""The derivative of a fit in every family, link and penalty: against differences of the fit itself.

Derivatives are taken of concrete fits, without ``jit``: then a model and penalty cost one compiled fit, and the
arithmetic of the derivative, operation by operation, is compiled once for all of them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from registry import MODELS, name

import jaxirls as ji
from jaxirls import links

pytestmark = pytest.mark.usefixtures("compile_fast", "one_round")

N, P = 12, 2
ARGUMENTS = 8
RESULTS = ("params", "root", "llf", "deviance", "pearson_chi2", "scale")
PENALTIES = {"none": None, "ridge": ji.Ridge(0.7), "jeffreys": ji.Jeffreys(), "mean-bias": ji.MeanBiasReduction()}
# Values of a function at these multiples of h, and what makes of them its derivative up to h⁴.
STENCIL, WEIGHTS = np.array([0.0, 1.0, -1.0, 2.0, -2.0]), np.array([0.0, 8.0, -8.0, -1.0, 1.0]) / 12

FEW = [
    (ji.Binomial(link=links.CLogLog()), "none"),
    (ji.Poisson(link=links.Sqrt()), "mean-bias"),
    (ji.Gamma(link=links.Log()), "ridge"),
    (ji.NegativeBinomial(0.7), "ridge"),
]


@pytest.fixture
def one_round(monkeypatch):
    monkeypatch.setattr("jaxirls.rounds.FIRST_BENT_PASSES", 100)


def kinds():
    """A model of every family and link: others differ in the values of parameters, which are among the arguments."""
    found = {}
    for model in MODELS:
        found.setdefault((type(model.link), jax.tree.structure(model)), model)
    return list(found.values())


def case(model, penalty, seed=3):
    """Data in which every number may move: responses off the edge of their range, weights, an offset, parameters."""
    rng = np.random.default_rng(seed)
    share = isinstance(model, ji.Binomial) or model.link.image[1] == 1
    ends = np.asarray(model.link(jnp.array([0.3, 0.6] if share else [1.2, 2.5])))
    middle, reach = ends.mean(), np.ptp(ends) / 2
    X = np.stack([np.ones(N), rng.uniform(-0.8, 0.8, N)], axis=-1)
    offset = 0.2 * reach * rng.uniform(-1, 1, N)
    mean = np.asarray(model.mean(jnp.asarray(X @ np.array([middle, reach]) + offset)))
    y = mean ** rng.uniform(0.7, 1.4, N) if isinstance(model, ji.Binomial) else mean * rng.uniform(0.6, 1.4, N)
    if getattr(model, "trials", None) is not None:
        model = dataclasses.replace(model, trials=np.full(N, model.trials))
        y = model.trials * y
    data = {"X": X, "y": y, "offset": offset, "family": model}
    data |= {name: rng.uniform(0.5, 2, N) for name in ("freq_weights", "var_weights")}
    if penalty is not None:
        data["penalty"] = penalty
    if penalty is not None and penalty.bends and model.has_dispersion:
        data["scale"] = 0.3
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), data)


def results(data):
    fit = ji.fit(**data, config=ji.IRLS(tol=1e-9))  # a 64th of it, divided by h, is below the tolerance
    return {name: getattr(fit, name) for name in RESULTS}, fit.status


def directions(data, rng):
    """For every number or array among the data a dataset in which it alone moves, at random, in proportion."""
    leaves, structure = jax.tree.flatten(data)
    assert len(leaves) <= ARGUMENTS
    moved = []
    for i, leaf in enumerate(leaves):
        moved.append(np.zeros((ARGUMENTS, *leaf.shape)))
        moved[i][i] = 0.5 * np.abs(leaf).mean() * rng.normal(size=leaf.shape)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(data)[0]]
    return names, jax.tree.unflatten(structure, moved)


def around(data, moved, h):
    """The data at the points of the stencil, on an axis behind that of the directions."""
    return jax.tree.map(
        lambda leaf, move: leaf + h * STENCIL.reshape(-1, *(1,) * np.ndim(leaf)) * move[:, None], data, moved
    )


def spread(moved, points):
    """The directions at every point."""
    return jax.tree.map(lambda move, point: move[:, None] * np.ones_like(point), moved, points)


def assert_derivatives(found, values, h, names):
    """Derivatives at the centre of the stencil against differences of ``values (arguments, stencil, ...)``."""
    for result, value in values.items():
        expected = np.einsum("as...,s->a...", value, WEIGHTS) / h
        for i, argument in enumerate(names):
            tolerance, message = 1e-6 * max(np.abs(expected[i]).max(), 0.01), f"{result} by {argument}"
            np.testing.assert_allclose(found[result][i, 0], expected[i], rtol=0, atol=tolerance, err_msg=message)


def every_kind():
    """Every model and penalty that differ; a ridge, in whose curvature no family or link has a part, with few."""
    few = {jax.tree.structure(model) for model, penalty in FEW if penalty == "ridge"}
    for model in kinds():
        for key in PENALTIES:
            same_as_jeffreys = key == "mean-bias" and model.is_canonical
            if not same_as_jeffreys and (key != "ridge" or jax.tree.structure(model) in few):
                yield pytest.param(model, PENALTIES[key], id=f"{name(model)}-{key}")


@pytest.mark.parametrize(("model", "penalty"), list(every_kind()))
def test_first_derivatives_agree_with_differences(model, penalty):
    """One batch: for every argument the dataset with its tangent, and those around it."""
    data, h = case(model, penalty), 1e-3
    names, moved = directions(data, np.random.default_rng(0))
    points = around(data, moved, h)
    (values, status), (tangents, _) = jax.jvp(results, (points,), (spread(moved, points),))
    assert (status == ji.Status.CONVERGED).all()
    assert_derivatives(tangents, values, h, names)


few = pytest.mark.parametrize(("model", "penalty"), FEW, ids=lambda case: case if isinstance(case, str) else name(case))


@few
def test_second_derivatives_agree_with_differences_of_the_first(model, penalty):
    """The first along one direction of all arguments at once; of that the derivative by every argument."""
    data, h, rng = case(model, PENALTIES[penalty]), 1e-3, np.random.default_rng(1)
    names, moved = directions(data, rng)
    points = around(data, moved, h)
    along = jax.tree.map(lambda move, point: move.sum(0) * np.ones_like(point), directions(data, rng)[1], points)

    def first(data):
        return jax.jvp(lambda data: results(data)[0], (data,), (along,))[1]

    values, second = jax.jvp(first, (points,), (spread(moved, points),))
    assert_derivatives(second, values, h, names)


@few
def test_reverse_mode_is_the_transpose_of_forward_mode(model, penalty):
    data, rng = case(model, PENALTIES[penalty]), np.random.default_rng(2)
    _, moved = directions(data, rng)
    points = around(data, moved, 1e-3)
    moved = spread(moved, points)

    def dot(a, b):
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return sum((np.asarray(x) * np.asarray(y)).reshape(*points["y"].shape[:2], -1).sum(-1) for x, y in pairs)

    def alone(data):
        return results(data)[0]

    values, pushed = jax.jvp(alone, (points,), (moved,))
    weights = jax.tree.map(lambda value: jnp.asarray(rng.normal(size=value.shape)), values)
    (pulled,) = jax.vjp(alone, points)[1](weights)
    np.testing.assert_allclose(dot(pulled, moved), dot(weights, pushed), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "log_likelihood"),
    [
        (ji.Poisson(), lambda eta, y: y * eta - jnp.exp(eta)),
        (
            ji.Binomial(link=links.CLogLog()),
            lambda eta, y: y * jnp.log(-jnp.expm1(-jnp.exp(eta))) - (1 - y) * jnp.exp(eta),
        ),
    ],
    ids=["poisson", "cloglog"],
)
def test_derivatives_are_those_of_the_iterations_unrolled(model, log_likelihood):
    """Newton's steps written out, and differentiated one through the other."""
    data = {key: jnp.asarray(value) for key, value in case(model, None).items() if key in ("X", "y", "offset")}
    moved = {key: jnp.cos(jnp.arange(float(value.size))).reshape(value.shape) for key, value in data.items()}

    def loss(beta, data):
        ridge = 0.35 * jnp.square(beta).sum()
        return ridge - log_likelihood(data["X"] @ beta + data["offset"], data["y"]).sum()

    def unrolled(data):
        def step(beta, _):
            return beta - jnp.linalg.solve(jax.hessian(loss)(beta, data), jax.grad(loss)(beta, data)), None

        return lax.scan(step, jnp.zeros(P), length=25)[0]

    def fitted(data):
        return ji.fit(**data, family=model, penalty=ji.Ridge(0.7)).params

    expected = jax.jit(lambda data, moved: jax.jvp(unrolled, (data,), (moved,)))(data, moved)
    found = jax.jvp(fitted, (data,), (moved,))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
