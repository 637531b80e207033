"""Datasets that share their rows and differ in weights start from the fit of these rows, and end at their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm

import jaxirls as ji
from jaxirls import Status, links
from jaxirls.engine.batch import folds_loops

N, P, SIZE = 100, 3, 150
FAMILIES = {
    "logit": ji.Binomial(),
    "probit": ji.Binomial(link=links.Probit()),
    "poisson": ji.Poisson(),
    "gamma": ji.Gamma(link=links.Log()),
}
STATSMODELS = {
    "logit": sm.families.Binomial(),
    "probit": sm.families.Binomial(sm.families.links.Probit()),
    "poisson": sm.families.Poisson(),
    "gamma": sm.families.Gamma(sm.families.links.Log()),
}


def simulate(family, seed=0):
    rng = np.random.default_rng(seed)
    X = np.concatenate([np.ones((N, 1)), rng.normal(size=(N, P - 1))], axis=1)
    eta = X @ [0.3, 0.5, -0.4]
    mu = family.mean(jnp.asarray(eta))
    y = np.array(family.sample(jax.random.key(seed), mu, 1.0 if not family.has_dispersion else 0.3))
    return X, y, rng.multinomial(N, np.full(N, 1 / N), size=SIZE).astype(float)


def separately(X, y, family, weights, **options):
    """The same fits, each with rows of its own and the usual start."""
    return ji.fit(np.broadcast_to(X, (len(weights), *X.shape)).copy(), y, family, freq_weights=weights, **options)


@pytest.mark.parametrize("given", [{}, {"offset": np.linspace(-1, 1, N), "var_weights": np.linspace(0.5, 2, N)}])
@pytest.mark.parametrize("name", FAMILIES)
def test_resamples_have_the_estimates_of_statsmodels(name, given):
    family = FAMILIES[name]
    X, y, weights = simulate(family)
    fit = ji.fit(X, y, family, freq_weights=weights, **given)
    assert (fit.status == Status.CONVERGED).all()
    for k in range(0, SIZE, 40):
        model = sm.GLM(y, X, STATSMODELS[name], freq_weights=weights[k], **given)
        expected = model.fit(tol=1e-14, tol_criterion="params", maxiter=200)
        np.testing.assert_allclose(fit.params[k], expected.params, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(fit.bse[k], expected.bse, rtol=1e-8)


@pytest.mark.skipif(not folds_loops(), reason="then other layouts are faster, in which they start as usual")
@pytest.mark.parametrize("name", ["logit", "poisson", "gamma"])
def test_they_take_fewer_passes_than_with_rows_of_their_own(name, on_cpu):
    X, y, weights = simulate(FAMILIES[name])
    shared, own = ji.fit(X, y, FAMILIES[name], freq_weights=weights), separately(X, y, FAMILIES[name], weights)
    assert shared.n_iter.mean() < own.n_iter.mean() - 0.3
    np.testing.assert_allclose(shared.params, own.params, rtol=1e-9, atol=1e-10)


def test_a_start_of_the_users_is_taken():
    """At the estimates no step is left to make."""
    X, y, weights = simulate(ji.Binomial())
    fit = ji.fit(X, y, ji.Binomial(), freq_weights=weights)
    assert (ji.fit(X, y, ji.Binomial(), freq_weights=weights, start=fit.params).n_iter == 1).all()


@pytest.mark.parametrize("penalty", [ji.Ridge(2.0), ji.Jeffreys()], ids=str)
def test_resamples_with_a_penalty(penalty):
    X, y, weights = simulate(ji.Binomial())
    shared = ji.fit(X, y, ji.Binomial(), freq_weights=weights, penalty=penalty)
    own = separately(X, y, ji.Binomial(), weights, penalty=penalty)
    assert (shared.status == Status.CONVERGED).all()
    np.testing.assert_allclose(shared.params, own.params, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("broken", [{"X": np.nan}, {"X": np.inf}, {"y": np.nan}, {"y": 7.0}], ids=str)
def test_what_a_row_of_weight_zero_holds_is_never_asked(broken):
    """Where every dataset leaves it out they are fitted; where some do, these."""
    X, y, weights = simulate(ji.Binomial())
    weights[:, 5] = 0
    expected = ji.fit(X, y, ji.Binomial(), freq_weights=weights)
    X[5, 1], y[5] = broken.get("X", X[5, 1]), broken.get("y", y[5])
    fit = ji.fit(X, y, ji.Binomial(), freq_weights=weights)
    np.testing.assert_allclose(fit.params, expected.params, rtol=1e-9)
    weights[::2, 5] = 1
    some = ji.fit(X, y, ji.Binomial(), freq_weights=weights)
    assert (some.status[::2] == Status.INVALID_DATA).all()
    np.testing.assert_array_equal(some.params[1::2], fit.params[1::2])


@pytest.mark.parametrize("weight", [np.nan, -1.0, np.inf])
def test_weights_that_are_invalid_touch_no_other_dataset(weight):
    X, y, weights = simulate(ji.Binomial())
    expected = ji.fit(X, y, ji.Binomial(), freq_weights=weights)
    weights[3, 7] = weight
    fit = ji.fit(X, y, ji.Binomial(), freq_weights=weights)
    assert fit.status[3] == Status.INVALID_DATA
    others = np.arange(SIZE) != 3
    np.testing.assert_array_equal(fit.params[others], expected.params[others])


@pytest.mark.parametrize("family", [ji.Binomial(), ji.Poisson(), ji.Gamma(link=links.Log())], ids=str)
def test_groups_far_from_what_they_have_in_common(family):
    """Weights that choose a group each: a step from the fit of all rows would lead far past the group's own."""
    rng = np.random.default_rng(0)
    groups, size = 40, 30
    group = np.repeat(np.arange(groups), size)
    X = np.concatenate([np.ones((group.size, 1)), rng.normal(size=(group.size, P - 1))], axis=1)
    beta = rng.normal(size=(groups, P)) * [4 if family.has_dispersion else 2, 1, 1]
    mu = family.mean(jnp.asarray((X * beta[group]).sum(1)))
    y = np.asarray(family.sample(jax.random.key(0), mu))
    weights = (group == np.arange(groups)[:, None]).astype(float)
    together, apart = ji.fit(X, y, family, freq_weights=weights), separately(X, y, family, weights)
    np.testing.assert_array_equal(together.status, apart.status)
    found = np.asarray(apart.status) == Status.CONVERGED
    assert found.sum() > groups / 2
    np.testing.assert_allclose(together.params[found], apart.params[found], rtol=1e-8, atol=1e-8)
    assert together.n_iter[found].max() <= apart.n_iter[found].max() + 8


def test_what_is_separated_together_is_separated_in_every_resample():
    X, _, weights = simulate(ji.Binomial())
    y = (X[:, 1] > 0.2).astype(float)
    assert (ji.fit(X, y, ji.Binomial(), freq_weights=weights).status == Status.SEPARATED).all()
