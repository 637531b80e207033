"""Optima on the edge of the domain, and steps that would leave it: the conditions of Karush, Kuhn and Tucker."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import brentq, minimize, nnls

import jaxirls as ji
from jaxirls import Status, links
from jaxirls.barrier import Barred


def log_binomial(sets=150, n=100):
    """The design of Marschner (2011): the mean reaches 1 at the end of the covariate."""
    rng = np.random.default_rng(0)
    X = np.stack([np.ones((sets, n)), rng.uniform(-1, 1, size=(sets, n))], axis=-1)
    mean = np.minimum(np.exp(X @ [-0.75, 0.74]), 1)
    return ji.Binomial(link=links.Log()), X, (rng.random((sets, n)) < mean).astype(float), 1


def identity_poisson(sets=150, n=20):
    """Means near zero at one end, where the counts are often all zero."""
    rng = np.random.default_rng(1)
    X = np.stack([np.ones((sets, n)), rng.uniform(0, 1, size=(sets, n))], axis=-1)
    return ji.Poisson(link=links.Identity()), X, rng.poisson(X @ [0.1, 1.5]).astype(float), -1


@pytest.mark.parametrize("make", [log_binomial, identity_poisson])
def test_an_optimum_inside_is_found_and_one_on_the_edge_is_told(make):
    """The score is zero, or a sum of outward normals of the rows on the edge with multipliers that are not negative."""
    family, X, y, outward = make()
    fit = ji.fit(X, y, family)
    assert np.isin(fit.status, [Status.CONVERGED, Status.BOUNDARY]).all()
    assert 10 < (fit.status == Status.BOUNDARY).sum() < 140
    eta = jnp.einsum("bnp,bp->bn", X, fit.params)
    assert family.valid_predictor(eta).all()

    def loss(beta, X, y):
        return -family.log_likelihood(X @ beta, y).sum()

    pull = -np.asarray(jax.vmap(jax.grad(loss))(fit.params, jnp.asarray(X), jnp.asarray(y)))
    for i in range(len(y)):
        score = np.abs(np.asarray(family.working(eta[i], y[i]).score)[:, None] * X[i]).sum(0).max()
        # The barrier's last strength is 4e-10: its multiplier on a row off the edge by more than 1e-5 is below 4e-5.
        edge = np.flatnonzero(np.abs(eta[i]) < 1e-5)
        if fit.status[i] == Status.CONVERGED:
            assert np.abs(pull[i]).max() < 1e-7 * score
        else:
            multiplier, residual = nnls(outward * X[i, edge].T, pull[i])
            assert residual < 1e-4 * score
            assert multiplier.max() > 1e-4


def test_the_objective_never_rises_on_the_way():
    family, X, y, _ = log_binomial(sets=3)
    for i in range(3):
        history = ji.trace(X[i], y[i], family)
        assert (np.diff(history.deviance) <= 1e-10 * history.deviance[:-1]).all()


@pytest.mark.parametrize("solver", ["cholesky", "qr"])
def test_links_that_score_slowly_converge_on_few_rows(solver):
    """Scoring takes hundreds of steps on a tenth of these, or none that converges. Every score is formed anew here."""
    rng = np.random.default_rng(7)
    X, y = rng.normal(size=(800, 10, 2)), (rng.random((800, 10)) < 0.5).astype(float)
    fit = ji.fit(X, y, ji.Binomial(link=links.Cauchy()), config=ji.IRLS(solver=solver))
    separated = ji.detect_separation(X, y, ji.Binomial(link=links.Cauchy())).separated
    np.testing.assert_array_equal(fit.status, np.where(separated, Status.SEPARATED, Status.CONVERGED))
    assert np.max(fit.n_iter, where=~separated, initial=0) < 60
    eta = np.einsum("bnp,bp->bn", X, fit.params)
    mean, density = 0.5 + np.arctan(eta) / np.pi, 1 / (np.pi * (1 + eta**2))
    terms = (density * (y / mean - (1 - y) / (1 - mean)))[..., None] * X
    assert (np.abs(terms.sum(1)) <= 1e-10 * np.abs(terms).sum(1))[~separated].all()


def test_the_history_ends_where_the_fit_does():
    rng = np.random.default_rng(7)
    X, y = rng.normal(size=(20, 2)), (rng.random(20) < 0.5).astype(float)
    family = ji.Binomial(link=links.Cauchy())
    history, fit = ji.trace(X, y, family), ji.fit(X, y, family)
    assert history.status == fit.status == Status.CONVERGED
    assert len(history) == fit.n_iter + 1
    np.testing.assert_allclose(history.beta[-1], fit.params, rtol=1e-12)


def test_gamma_with_heavy_tails_and_the_inverse_link():
    """Responses over eight orders of magnitude, a link whose domain ends: every set converges, to a score of zero."""
    rng = np.random.default_rng(2)
    X = np.stack([np.ones((100, 30)), rng.uniform(0, 1, size=(100, 30))], axis=-1)
    y = rng.gamma(0.2, 5.0, size=(100, 30)) / (1 + X[..., 1]) + 1e-6
    family = ji.Gamma(link=links.InversePower())
    fit = ji.fit(X, y, family)
    assert np.isin(fit.status, [Status.CONVERGED, Status.BOUNDARY]).all()
    assert (fit.status == Status.CONVERGED).sum() >= 90
    eta = jnp.einsum("bnp,bp->bn", X, fit.params)
    score = family.working(eta, jnp.asarray(y)).score[..., None] * X
    inside = np.asarray(fit.status == Status.CONVERGED)
    assert (jnp.abs(score.sum(1)) / jnp.abs(score).sum(1))[inside].max() < 1e-7


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_steps_near_the_optimum_are_newtons_whatever_the_link(dtype):
    """Fisher scoring takes 8 to 11 passes here in float64."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 200, 5))
    mean = np.exp(X @ np.full(5, 0.4))
    families = [(ji.Gamma(link=links.Log()), mean * rng.gamma(2, 0.5, mean.shape))]
    families += [(ji.NegativeBinomial(alpha=1.0), rng.poisson(mean * rng.gamma(1, 1, mean.shape)))]
    families += [(ji.Binomial(link=links.Probit()), rng.random(mean.shape) < mean / (1 + mean))]
    for family, y in families:
        fit = ji.fit(X.astype(dtype), y.astype(dtype), family)
        assert fit.converged.all()
        assert int(fit.n_iter.max()) <= 7


def test_separated_data_leave_early():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(40, 200, 5))
    y = X[..., 0] > 0.3 * X[..., 1]
    fit = ji.fit(X, y.astype(float), ji.Binomial())
    assert (fit.status == Status.SEPARATED).all()
    assert int(fit.n_iter.max()) <= 5


@pytest.mark.parametrize("strength", [1.0, 1e-9])
def test_the_barrier_does_not_enter_the_dispersion(strength):
    family = ji.Gamma(link=links.Identity())
    eta, y = jnp.array([1e-6, 0.1, 1.0, 30.0]), jnp.array([2.0, 0.3, 1.5, 0.1])
    barred = Barred(family, jnp.asarray(strength))
    found = barred.pearson_chi2(eta, y, barred.working(eta, y))
    np.testing.assert_allclose(found, jnp.square(y / eta - 1), rtol=1e-12)  # V(μ) = μ²


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_step_to_the_end_of_the_numbers_is_halved(dtype):
    """Newton's first step from far below lands where the information is a number, and along the step is none."""
    mean, n, last = 500.0, 40, np.log(np.finfo(dtype).max)
    end = last - np.log(n) - 1.5 * np.log(last)
    start = brentq(lambda start: start + mean * np.exp(-start) - 1 - end, -3, 5)
    fit = ji.fit(np.ones((n, 1), dtype), np.full(n, mean, dtype), ji.Poisson(), start=np.array([start], dtype))
    assert fit.converged
    np.testing.assert_allclose(fit.params, np.log(mean), rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("config", [ji.IRLS(), ji.IRLS(solver="qr"), ji.LBFGS()], ids=["auto", "qr", "lbfgs"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_proof_comes_of_numbers_that_overflow(dtype, config):
    """From there to the optimum it takes a step for every unit of β: it is reached, or not claimed."""
    mean, n, last = 500.0, 40, np.log(np.finfo(dtype).max)
    start = np.linspace(last - np.log(n) - 3 * np.log(last), last - np.log(n), 12).astype(dtype)[:, None]
    fit = ji.fit(np.ones((n, 1), dtype), np.full(n, mean, dtype), ji.Poisson(), start=start, config=config)
    reached = np.abs(np.asarray(fit.params[:, 0]) - np.log(mean)) < 1e-4
    np.testing.assert_array_equal(fit.converged, reached)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_offsets_leave_a_start_inside_the_domain(dtype):
    """They push single rows beyond the edge; the optimum is there all the same, as SciPy's SLSQP finds."""
    rng = np.random.default_rng(0)
    sets, n = 200, 12
    X = np.stack([np.ones((sets, n)), rng.normal(size=(sets, n))], axis=-1)
    offset = 0.3 * rng.normal(size=(sets, n))
    y = (rng.random((sets, n)) < 0.5).astype(float)
    family = ji.Binomial(link=links.Log())
    fit = ji.fit(*(a.astype(dtype) for a in (X, y)), family, offset=offset.astype(dtype))
    assert np.isin(fit.status, [Status.CONVERGED, Status.BOUNDARY]).all()
    for i in np.flatnonzero(fit.status == Status.BOUNDARY)[:8]:

        def loss(beta, i=i):
            eta = np.minimum(X[i] @ beta + offset[i], -1e-12)
            return -(y[i] * eta + (1 - y[i]) * np.log(-np.expm1(eta))).sum()

        room = {"type": "ineq", "fun": lambda beta, i=i: -(X[i] @ beta + offset[i]) - 1e-10}
        best = minimize(loss, [-1.0, 0.0], constraints=room, method="SLSQP", options={"ftol": 1e-12, "maxiter": 500})
        assert loss(np.asarray(fit.params[i], float)) <= best.fun + (1e-4 if dtype == "float64" else 1e-3)


@pytest.mark.filterwarnings("ignore:The Sqrt link function")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("link", [links.Log(), links.Sqrt()], ids=lambda link: type(link).__name__)
def test_large_counts_end_no_search_early_where_alpha_is_one(link, dtype):
    """There the logarithm of α does not hide in the loss what y log μ and (y+1) log(1+μ) lose to one another."""
    rng = np.random.default_rng(0)
    X = np.stack([np.ones((200, 20)), rng.normal(size=(200, 20))], -1)
    mean = 1e4 * np.exp(0.3 * X[..., 1])
    y = rng.negative_binomial(1, 1 / (1 + mean)).astype(float)
    fit = ji.fit(X.astype(dtype), y.astype(dtype), ji.NegativeBinomial(1.0, link=link))
    assert (fit.status == Status.CONVERGED).all()
    family = sm.families.NegativeBinomial(getattr(sm.families.links, type(link).__name__)(), alpha=1.0)
    for i in range(3):
        peer = sm.GLM(y[i], X[i], family).fit(tol=1e-14, tol_criterion="params", maxiter=200)
        distance = np.abs(np.asarray(fit.params[i]) - peer.params) / peer.bse
        assert distance.max() < (1e-6 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("link", [links.Identity(), links.Sqrt()], ids=lambda link: type(link).__name__)
def test_an_edge_has_no_unit(link):
    """Rates, whose precisions are the exposures, are the counts in another unit."""
    X = np.stack([np.ones(6), np.arange(6.0)], -1).astype(np.float32)
    counts = np.array([3, 5, 4, 7, 6, 9], np.float32)
    expected = ji.fit(X, counts, ji.Poisson(link=link))
    for exposure in (1e3, 1e6):
        weights = np.full(6, exposure, np.float32)
        fit = ji.fit(X, counts / weights, ji.Poisson(link=link), var_weights=weights)
        assert fit.status == Status.CONVERGED
        unit = exposure if isinstance(link, links.Identity) else np.sqrt(exposure)
        np.testing.assert_allclose(fit.params * np.float32(unit), expected.params, rtol=1e-4)
    zero = ji.fit(X[:4], np.array([1e-6, 0, 0, 0], np.float32), ji.Poisson(link=link), var_weights=weights[:4])
    assert zero.status == Status.BOUNDARY


def test_an_edge_that_qr_came_to_is_no_optimum_inside():
    X, y = np.array([[1.0, 0], [1, 1], [1, 2], [1, 3]]), np.array([1.0, 0, 0, 0])
    fit = ji.fit(X, y, ji.Tweedie(1.5, link=links.Identity()))
    assert fit.status in (Status.BOUNDARY, Status.STALLED)


SQUARES = ji.Gaussian(link=links.InversePower()), np.array([1, 0.1, 0.1, 0.1, 1], np.float32), 1 / 0.46


@pytest.mark.parametrize(
    ("family", "y", "intercept", "options"),
    [
        (ji.Gamma(link=links.Identity()), np.array([0.1, 5, 5, 5, 0.1]), 3.04, {}),
        (*SQUARES, {"start": np.array([1 / 0.46, 0], np.float32)}),
        (*SQUARES, {"config": ji.IRLS(solver="qr")}),
        (*SQUARES, {"config": ji.LBFGS()}),
    ],
    ids=["gamma", "start", "qr", "lbfgs"],
)
def test_a_saddle_is_no_optimum(family, y, intercept, options):
    """Responses that mirror one another: a slope of zero has score zero, and the likelihood rises to either side."""
    X, there = np.stack([np.ones(5), np.arange(-2.0, 3.0)], axis=-1).astype(y.dtype), np.array([intercept, 0], y.dtype)

    def at(slope):
        eta = X.astype(float) @ np.array([intercept, slope])
        return -float(family.unit_deviance(eta, y.astype(float)).sum())

    assert at(0.05) > at(0) < at(-0.05)
    fit = ji.fit(X, y, family, **options)
    np.testing.assert_allclose(fit.params, there, atol=1e-3)
    assert fit.status == Status.STALLED
    fit = ji.fit(X, y * np.array([1.01, 1, 1, 1, 1], y.dtype), family, **options)
    assert fit.status == Status.CONVERGED
    assert abs(fit.params[1]) > 0.5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("family", [ji.Gaussian(), ji.Gamma()], ids=["gaussian", "gamma"])
def test_as_many_rows_as_columns_are_fitted_exactly(family, dtype):
    """The dispersion is then estimated from rounding, and so is what a standard error is."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(500, 5, 5))
    X[:, :, 0] = 1
    y = np.exp(0.3 * X.sum(-1)) * rng.gamma(1, size=(500, 5)) + 0.1
    X, y = X.astype(dtype), y.astype(dtype)
    fit = ji.fit(X, y, family)
    assert (fit.status == Status.CONVERGED).all()
    params, target = np.asarray(fit.params, float), np.asarray(family.link(jnp.asarray(y)), float)
    error = np.abs(np.einsum("bnp,bp->bn", X, params) - target)
    reach = np.einsum("bnp,bp->bn", np.abs(X), np.abs(params)) + target
    assert (error.max(-1) < 8 * np.finfo(dtype).eps * reach.max(-1)).all()
    np.testing.assert_array_equal(np.isnan(fit.scale), True)
