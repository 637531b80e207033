"""Penalties: brglm2's estimates, the rates from the moments of the score, small samples, what a mask leaves free."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import load

import jaxirls as ji
from jaxirls import Status, links

pytestmark = pytest.mark.usefixtures("compile_fast")

FIRTH = load("firth")
MODELS = sorted({(case["family"], case["link"], case["penalty"]) for case in FIRTH})
LINKS = {name: getattr(links, name)() for name in ("Logit", "Probit", "CLogLog", "LogLog", "Cauchy")}


def stacked(cases):
    """Datasets of different sizes in one batch.

    A missing column gets a row of its own, which no other column enters: it changes no other coefficient. Missing rows
    have weight zero.
    """
    p = max(case["X"].shape[1] for case in cases)
    n = max(len(case["y"]) + p - case["X"].shape[1] for case in cases)
    X, y, offset = np.zeros((len(cases), n, p)), np.full((len(cases), n), 0.5), np.zeros((len(cases), n))
    weight, trials = np.zeros((len(cases), n)), np.ones((len(cases), n))
    for i, case in enumerate(cases):
        rows, columns = case["X"].shape
        X[i, :rows, :columns] = case["X"]
        X[i, np.arange(rows, rows + p - columns), np.arange(columns, p)] = 1
        y[i, :rows] = case["y"]
        y[i, rows : rows + p - columns] = 0.5
        weight[i, : rows + p - columns] = 1
        offset[i, :rows] = 0 if case["offset"] is None else case["offset"]
        trials[i, :rows] = 1 if case["trials"] is None else case["trials"]
        trials[i, rows:] = 2
    return X, y, offset, weight, trials


@pytest.mark.parametrize(("family", "link", "penalty"), MODELS)
def test_estimates_and_errors_agree_with_brglm2(family, link, penalty):
    cases = [case for case in FIRTH if (case["family"], case["link"], case["penalty"]) == (family, link, penalty)]
    X, y, offset, weight, trials = stacked(cases)
    link = getattr(links, link)()
    if family == "Binomial":
        y, model = y * trials, ji.Binomial(link=link, trials=trials)
    else:
        model = getattr(ji, family)(link=link)
    fit = ji.fit(X, y, model, offset=offset, freq_weights=weight, penalty=getattr(ji, penalty)())
    for i, case in enumerate(cases):
        p = case["X"].shape[1]
        assert fit.status[i] == Status.CONVERGED, case["name"]
        np.testing.assert_allclose(fit.bse[i, :p], case["bse"], rtol=1e-9, err_msg=case["name"])
        # Steps aim at 64 times less than the tolerance, which is 1.5e-8 standard errors.
        off = np.abs(fit.params[i, :p] - case["params"]) / case["bse"]
        assert off.max() < 1.5e-8 / 64, case["name"]


def moments(family, outcomes, eta):
    """E s² and E(s³ + s s') at η, where s is the derivative of the log-likelihood, by autodiff and enumeration."""

    def log_probability(eta, y):
        mu = family.link.inverse(eta)
        if isinstance(family, ji.Poisson):
            return y * jnp.log(mu) - mu - jax.scipy.special.gammaln(y + 1)
        return jnp.log(jnp.where(y == 1, mu, 1 - mu))

    def term(eta, y):
        slope = jax.grad(log_probability)
        s, turn = slope(eta, y), jax.grad(slope)(eta, y)
        return jnp.exp(log_probability(eta, y)) * jnp.stack([s**2, s**3 + s * turn])

    return jax.jit(jax.vmap(lambda eta: jax.vmap(lambda y: term(eta, y))(outcomes).sum(0)))(eta)


@pytest.mark.parametrize(
    "family",
    [*(ji.Binomial(link=link) for link in LINKS.values()), ji.Poisson(), ji.Poisson(link=links.Sqrt())],
    ids=lambda family: f"{type(family).__name__}-{type(family.link).__name__}",
)
def test_the_rates_are_moments_of_the_score(family):
    """Jeffreys: d/dη of E s². Mean bias reduction: P + Q of Firth (1993, section 3), for one row."""
    signs = [1.0] * 5 if isinstance(family.link, links.Sqrt) else [-1.0, 1.0, -1.0, 1.0, 1.0]
    eta = jnp.linspace(0.4, 2.4, 5) * jnp.array(signs)
    outcomes = jnp.arange(60.0) if isinstance(family, ji.Poisson) else jnp.arange(2.0)

    def information(eta):
        return moments(family, outcomes, eta)[:, 0]

    step = 1e-5
    slope = (information(eta + step) - information(eta - step)) / (2 * step)
    np.testing.assert_allclose(ji.Jeffreys().rate(family, eta), slope, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        ji.MeanBiasReduction().rate(family, eta), moments(family, outcomes, eta)[:, 1], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("penalty", [ji.Jeffreys(), ji.MeanBiasReduction()], ids=["jeffreys", "mean"])
@pytest.mark.parametrize("name", ["Logit", "CLogLog", "Cauchy"])
def test_every_small_sample_has_an_estimate(name, penalty):
    """Few data, most of them separated in some way, and no step that swings about the solution."""
    rng = np.random.default_rng(5)
    sets, n = 300, 14
    X = np.concatenate([np.ones((sets, n, 1)), rng.normal(size=(sets, n, 2))], axis=-1)
    eta = np.einsum("bnp,bp->bn", X, rng.normal(size=(sets, 3)))
    y = np.asarray(rng.random((sets, n)) < LINKS[name].inverse(jnp.asarray(eta)), float)
    family = ji.Binomial(link=LINKS[name])
    fit = ji.fit(X, y, family, penalty=penalty)
    assert (fit.status == Status.CONVERGED).all()
    rate = penalty.rate(family, jnp.einsum("bnp,bp->bn", X, fit.params))
    variance = jnp.einsum("bni,bij,bnj->bn", X, fit.cov_params(), X)
    score = family.working(jnp.einsum("bnp,bp->bn", X, fit.params), y).score + 0.5 * variance * rate
    total = jnp.einsum("bnp,bn->bp", X, score)
    decrement = jnp.sqrt(jnp.einsum("bi,bij,bj->b", total, fit.cov_params(), total))
    assert decrement.max() < 1.5e-8


def test_units_of_the_columns_change_nothing():
    rng = np.random.default_rng(3)
    X = np.concatenate([np.ones((20, 1)), rng.normal(size=(20, 2))], axis=-1)
    y = (rng.random(20) < 0.4).astype(float)
    units = np.array([1.0, 1e-7, 1e9])
    for penalty in (ji.Jeffreys(), ji.MeanBiasReduction()):
        family = ji.Binomial(link=links.CLogLog())
        fit = ji.fit(np.stack([X, X * units]), y, family, penalty=penalty)
        assert (fit.status == Status.CONVERGED).all()
        np.testing.assert_allclose(fit.params[1] * units, fit.params[0], rtol=1e-9)


def test_a_column_without_penalty_is_separated_as_ever():
    """Ridge on one column alone: the data recede along another, or they recede along the penalized one only."""
    x = np.linspace(-1.0, 1.0, 12)
    noise = np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1, -1, 1.0])
    y = (x > 0).astype(float)
    X = np.stack([np.stack([x, noise], -1), np.stack([noise, x], -1)])
    strengths = np.array([0.0, 1.0])
    fit = ji.fit(X, y, ji.Binomial(), penalty=ji.Ridge(1.0, penalize=strengths))
    np.testing.assert_array_equal(fit.status, [Status.SEPARATED, Status.CONVERGED])
    np.testing.assert_allclose(fit.direction, [[1, 0], [0, 0]], atol=1e-12)
    free = ji.fit(X, y, ji.Binomial(), penalty=ji.Ridge(0.0))
    assert (free.status == Status.SEPARATED).all()
    both = ji.fit(X, y, ji.Binomial(), penalty=ji.Ridge(np.array([[0.0], [1.0]])))
    assert both.shape == (2, 2)
    np.testing.assert_array_equal(both.status, [[Status.SEPARATED] * 2, [Status.CONVERGED] * 2])


@pytest.mark.parametrize("penalty", [ji.Jeffreys(), ji.MeanBiasReduction()], ids=["jeffreys", "mean"])
def test_float32_is_near_float64(penalty):
    rng = np.random.default_rng(8)
    X = np.concatenate([np.ones((40, 30, 1)), rng.normal(size=(40, 30, 2))], axis=-1)
    y = (rng.random((40, 30)) < 0.3).astype(float)
    wide = ji.fit(X, y, ji.Binomial(), penalty=penalty)
    narrow = ji.fit(X.astype(np.float32), y.astype(np.float32), ji.Binomial(), penalty=penalty)
    np.testing.assert_array_equal(wide.status, narrow.status)
    assert (np.abs(narrow.params.astype(float) - wide.params) / wide.bse).max() < 1e-3
