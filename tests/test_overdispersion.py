"""``ji.fit`` of NegativeBinomial() with alpha left open: against MASS, differences, and the limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import load
from scipy.optimize import minimize_scalar
from scipy.stats import nbinom, poisson
from test_references import digits

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

CASES = [case for case in load("glm") if "theta" in case]
OPEN = ji.NegativeBinomial()


def counts(seed=0, n=60):
    """One design; overdispersed counts, underdispersed ones, all zeros, an invalid one and slight overdispersion."""
    rng = np.random.default_rng(seed)
    X = np.stack([np.ones(n), rng.normal(size=n)], -1)
    mu = np.exp(1 + 0.3 * X[:, 1])
    y = np.stack([rng.negative_binomial(2, 2 / (2 + mu)), rng.binomial(4, 0.5, n), mu * 0, mu * 0, rng.poisson(mu)])
    y = y.astype(float)
    y[3, 5] = -1
    y[4, 0] += 9
    return X, y


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_alpha_and_its_standard_error_agree_with_mass(case):
    fit = ji.fit(case["X"], case["y"], OPEN)
    assert fit.status == ji.Status.CONVERGED
    expected = {"params": case["params"], "bse": case["bse"], "llf": case["llf"], "deviance": case["deviance"]}
    found = {name: digits(getattr(fit, name), value) for name, value in expected.items()}
    found |= {"alpha": digits(fit.family.alpha, 1 / case["theta"]), "alpha_se": digits(fit.alpha_se, case["alpha_se"])}
    print(case["name"], {name: round(value, 1) for name, value in found.items()})
    assert min(found.values()) >= 8


def test_every_dataset_of_a_batch_ends_with_the_truth():
    X, y = counts()
    fit = ji.fit(X, y, OPEN)
    names = [ji.Status(int(code)).name for code in fit.status]
    assert names == ["CONVERGED", "BOUNDARY", "SEPARATED", "INVALID_DATA", "CONVERGED"]
    alpha = np.asarray(fit.family.alpha)
    assert alpha[1] == 0
    assert np.isnan(alpha[[2, 3]]).all()
    assert np.isfinite(fit.alpha_se[jnp.array([0, 4])]).all()
    assert np.isnan(fit.alpha_se[1])
    without = ji.fit(X, y[1], ji.Poisson())
    for name in ("params", "bse", "llf", "deviance"):
        np.testing.assert_allclose(getattr(fit[1], name), getattr(without, name), rtol=1e-12)
    # At the estimate the likelihood is the highest among neighbours, each with its own coefficients.
    for i in (0, 4):
        for factor in (0.99, 1.01):
            near = ji.fit(X, y[i], ji.NegativeBinomial(np.full(1, alpha[i] * factor)))
            assert near.llf[0] < fit.llf[i]


def test_jit_vmap_and_float32_give_the_same_fits():
    X, y = counts()
    fit = ji.fit(X, y, OPEN)
    mapped = jax.jit(jax.vmap(lambda y: ji.fit(X, y, OPEN)))(y)
    np.testing.assert_array_equal(mapped.status, fit.status)
    np.testing.assert_allclose(mapped.family.alpha, fit.family.alpha, rtol=1e-9)
    np.testing.assert_allclose(mapped.alpha_se, fit.alpha_se, rtol=1e-9)
    narrow = ji.fit(X.astype(np.float32), y.astype(np.float32), OPEN)
    assert narrow.family.alpha.dtype == np.float32
    np.testing.assert_array_equal(narrow.status, fit.status)
    np.testing.assert_allclose(narrow.family.alpha, fit.family.alpha, rtol=1e-3)


def test_derivatives_are_those_of_the_joint_estimate():
    X, y = counts()
    rng = np.random.default_rng(1)
    # Off the orthogonal case; one dataset is Poisson's, at alpha = 0. No response leaves the support.
    family, direction = ji.NegativeBinomial(link=ji.links.Sqrt()), np.where(y[:2] > 0, rng.normal(size=y[:2].shape), 0)

    def results(y):
        fit = ji.fit(X, y, family)
        return jnp.stack([fit.params[:, 1], fit.family.alpha, fit.llf, fit.bse[:, 0]])

    @jax.jit
    def derivatives(y, direction):
        push = jax.linearize(results, y)[1]
        (pulled,) = jax.linear_transpose(push, y)(jnp.ones((4, 2)))
        return push(direction), pulled

    tangent, pulled = derivatives(y[:2], direction)
    step = 1e-4
    differences = (results(y[:2] + step * direction) - results(y[:2] - step * direction)) / (2 * step)
    np.testing.assert_allclose(tangent, differences, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose((pulled * direction).sum(), tangent.sum(), rtol=1e-9)
    assert tangent[1, 0] != 0
    assert tangent[1, 1] == 0


def test_what_cannot_be_combined_is_an_error():
    X, y = counts()
    with pytest.raises(ValueError, match="drop scale"):
        ji.fit(X, y, OPEN, scale="X2")
    with pytest.raises(ValueError, match="known dispersion"):
        ji.fit(X, y, OPEN, penalty=ji.Jeffreys())


def test_few_large_counts_do_not_hide_overdispersion():
    """Group means are the estimate whatever α, so that SciPy has the whole profile: it rises only from some α on."""
    X = np.zeros((205, 2))
    X[:5, 0] = X[5:, 1] = 1
    y = np.concatenate([np.full(5, 1000.0), np.full(20, 10.0), np.zeros(180)])
    mean = X @ [1000.0, 1.0]

    def profile(alpha):
        return nbinom.logpmf(y, 1 / alpha, 1 / (1 + alpha * mean)).sum()

    best = minimize_scalar(lambda t: -profile(np.exp(t)), bracket=(2.0, 3.0))
    assert profile(1e-3) < poisson.logpmf(y, mean).sum() < -best.fun
    fit = ji.fit(X, y, ji.NegativeBinomial())
    assert fit.status == ji.Status.CONVERGED
    np.testing.assert_allclose(fit.family.alpha, np.exp(best.x), rtol=1e-6)
    np.testing.assert_allclose(fit.llf, -best.fun, rtol=1e-10)
