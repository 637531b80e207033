"""L-BFGS, which shares neither score nor weights with IRLS: as its witness, and in its own right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import name

import jaxirls as ji
from jaxirls import links

B, N = 6, 60
MODELS = [
    ji.Gaussian(link=links.Log()),
    ji.Binomial(link=links.CLogLog()),
    ji.Poisson(),
    ji.Gamma(),
    ji.InverseGaussian(),
    ji.NegativeBinomial(alpha=0.7),
    ji.Tweedie(1.5),
]


def suite(model, seed=7):
    """Random datasets in columns of very different units, with weights, some of them zero, and an offset."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(B, N, 3)) * 0.2
    X[..., 0] = 1
    offset = rng.uniform(0, 0.2, (B, N))
    mean = np.asarray(model.mean(X @ np.array([0.5, 0.5, -0.4]) + offset))
    if isinstance(model, ji.Binomial):
        y = rng.binomial(1, mean)
    else:
        y = rng.poisson(mean) if model.discrete else mean * rng.gamma(20, 1 / 20, (B, N))
    X[..., 2] *= 1e3
    weights = rng.integers(0, 3, (B, N))
    return {"X": X, "y": y, "family": model, "offset": offset, "freq_weights": weights}


@pytest.mark.parametrize("model", MODELS, ids=name)
@pytest.mark.usefixtures("compile_fast")
def test_both_optimizers_agree(model):
    # A strength of zero is no penalty.
    ridge = ji.Ridge(np.array([0, 0, 0, 1e-3, 0.3, 10.0]), penalize=np.array([0.0, 1.0, 1.0]))
    fit = ji.fit(**suite(model), penalty=ridge)
    witness = ji.fit(**suite(model), penalty=ridge, config=ji.LBFGS())
    assert (fit.status == ji.Status.CONVERGED).all()
    np.testing.assert_array_equal(witness.status, fit.status)
    assert (jnp.abs(witness.params - fit.params) <= 1e-6 * fit.bse).all()
    for result in ("bse", "llf", "scale"):
        np.testing.assert_allclose(getattr(witness, result), getattr(fit, result), rtol=1e-6)


def hard():
    """Five designs, the same with the third not finite and the fourth of rank one, and responses, one separated."""
    rng = np.random.default_rng(1)
    clean = rng.normal(size=(5, 30, 2))
    y = rng.binomial(1, 0.5, (5, 30)).astype(float)
    y[1] = clean[1, :, 0] > 0
    X = clean.copy()
    X[2, 3, 1] = np.nan
    X[3, :, 1] = 2 * X[3, :, 0]
    return clean, X, y


@pytest.mark.usefixtures("compile_fast")
def test_statuses_are_proven_and_neighbours_untouched():
    clean, X, y = hard()
    fit = ji.fit(X, y, ji.Binomial(), config=ji.LBFGS(), fallback=ji.Ridge(1.0))
    found = [ji.Status(int(code)).name for code in fit.unpenalized_status]
    assert found == ["CONVERGED", "SEPARATED", "INVALID_DATA", "RANK_DEFICIENT", "CONVERGED"]
    margin = (2 * y[1] - 1) * (X[1] @ np.asarray(fit.direction[1]))
    assert margin.min() > -1e-9
    neighbours = ji.fit(clean, y, ji.Binomial(), config=ji.LBFGS(), fallback=ji.Ridge(1.0))
    for i in (0, 1, 4):
        np.testing.assert_array_equal(fit.params[i], neighbours.params[i])
    np.testing.assert_array_equal(fit.penalized, [False, True, False, True, False])
    for i in (1, 3):
        # At the optimum the score is the penalty's.
        score = X[i].T @ (y[i] - 1 / (1 + np.exp(-X[i] @ np.asarray(fit.params[i]))))
        np.testing.assert_allclose(score, fit.params[i], atol=1e-7)


@pytest.mark.usefixtures("compile_fast")
def test_more_columns_than_rows_and_a_derivative():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(10, 15)), rng.poisson(2.0, 10).astype(float)

    @jax.jit
    @jax.value_and_grad
    def first(strength):
        return ji.fit(X, y, ji.Poisson(), penalty=ji.Ridge(strength), config=ji.LBFGS()).params[0]

    # The optimum has β = Xᵀ(y-μ)/s; dβ/ds = -(XᵀWX + sI)⁻¹β.
    fit = ji.fit(X, y, ji.Poisson(), penalty=ji.Ridge(3.0))
    mu = np.exp(X @ np.asarray(fit.params))
    moved = -np.linalg.solve((X.T * mu) @ X + 3 * np.eye(15), fit.params)
    np.testing.assert_allclose(first(3.0), (fit.params[0], moved[0]), rtol=1e-7)


@pytest.mark.usefixtures("compile_fast")
def test_precision_follows_the_data_and_the_start_is_where_it_begins():
    X, y = np.ones((4, 1), np.float32), np.array([1, 2, 3, 6], np.float32)
    fit = ji.fit(X, y, ji.Poisson(), config=ji.LBFGS())
    assert fit.params.dtype == np.float32
    assert fit.converged
    np.testing.assert_allclose(fit.params[0], np.log(3), rtol=1e-6)
    short = ji.fit(X, y, ji.Poisson(), config=ji.LBFGS(max_iter=1), start=np.array([-2], np.float32))
    assert short.status == ji.Status.MAX_ITERATIONS
    assert -2 < float(short.params[0]) < np.log(3)


@pytest.mark.parametrize("penalty", [ji.Jeffreys(), ji.MeanBiasReduction()], ids=["jeffreys", "mean-bias"])
@pytest.mark.parametrize("argument", ["penalty", "fallback"])
def test_a_penalty_whose_score_is_no_part_of_the_objective_is_refused(penalty, argument):
    with pytest.raises(ValueError, match=rf"{argument} is ji.{type(penalty).__name__}\(\).*ji.IRLS"):
        ji.fit(np.ones((4, 1)), np.ones(4), ji.Binomial(), config=ji.LBFGS(), **{argument: penalty})


def test_options_are_checked_where_they_are_made():
    with pytest.raises(ValueError, match=r"LBFGS\(memory=0\): memory must be a positive integer"):
        ji.LBFGS(memory=0)
    with pytest.raises(ValueError, match=r"LBFGS\(tol=-1\)"):
        ji.LBFGS(tol=-1)


@pytest.mark.usefixtures("compile_fast")
def test_without_the_information_the_estimates_are_the_same_and_what_needs_it_says_so():
    ridge = ji.Ridge(np.array([0, 0, 0, 1e-3, 0.3, 10.0]), penalize=np.array([0.0, 1.0, 1.0]))
    data = suite(ji.Binomial(link=links.CLogLog()))
    fit = ji.fit(**data, penalty=ridge)
    bare = ji.fit(**data, penalty=ridge, config=ji.LBFGS(information=False))
    np.testing.assert_array_equal(bare.status, fit.status)
    assert (jnp.abs(bare.params - fit.params) <= 1e-6 * fit.bse).all()
    for result in ("llf", "scale", "aic"):
        np.testing.assert_allclose(getattr(bare, result), getattr(fit, result), rtol=1e-6)
    assert bare.root is None
    for result in ("bse", "information", "condition_number"):
        with pytest.raises(ValueError, match=r"holds no information matrix.*information=True"):
            getattr(bare, result)
    assert "not known" in bare[0].summary()
    assert "CONVERGED" in bare.summary()
    assert bare.to_dataframe()["bse"].isna().all()


@pytest.mark.usefixtures("compile_fast")
def test_without_the_information_nothing_is_claimed_that_needs_it():
    _, X, y = hard()
    fit = ji.fit(X, y, ji.Binomial(), config=ji.LBFGS(information=False))
    found = [ji.Status(int(code)).name for code in fit.status]
    assert found == ["CONVERGED", "MAX_ITERATIONS", "INVALID_DATA", "STALLED", "CONVERGED"]


@pytest.mark.usefixtures("compile_fast")
def test_more_columns_than_a_gram_matrix_is_formed_of():
    n, p = 40, 3000
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(n, p)) / np.sqrt(p), rng.poisson(2.0, n).astype(float)

    def solve(X, y):
        return ji.fit(X, y, ji.Poisson(), penalty=ji.Ridge(2.0), config=ji.LBFGS(information=False))

    fit = solve(X, y)
    assert fit.converged
    # At the optimum β = Xᵀ(y-μ)/2.
    np.testing.assert_allclose(X.T @ (y - np.exp(X @ fit.params)) / 2, fit.params, atol=1e-6)
    shapes = jax.make_jaxpr(solve)(X, y).pretty_print()
    assert f"{p},{p}" not in shapes


def test_a_condition_number_that_is_not_known_is_no_limit():
    with pytest.raises(ValueError, match=r"LBFGS\(max_condition=10.*information is False"):
        ji.LBFGS(information=False, max_condition=10.0)
