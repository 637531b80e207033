"""What must hold for any data: invariances of a fit, and no number that is missing without a status that says why."""

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxirls as ji
from jaxirls import Status

B, N, P = 4, 12, 3  # one shape, so that little is compiled: short datasets are rows of weight zero
FAMILIES = {"gaussian": ji.Gaussian(), "binomial": ji.Binomial(), "poisson": ji.Poisson(), "gamma": ji.Gamma()}

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(P + 2, N)
many = settings(max_examples=25, deadline=None, derandomize=True)


def simulate(name, seed, rows=N):
    rng = np.random.default_rng(seed)
    X = np.concatenate([np.ones((B, N, 1)), rng.normal(size=(B, N, P - 1))], axis=-1)
    eta = np.einsum("bnp,bp->bn", X, rng.normal(size=(B, P)) / 2)
    y = {
        "gaussian": lambda: rng.normal(eta),
        "binomial": lambda: (rng.random((B, N)) < 1 / (1 + np.exp(-eta))).astype(float),
        "poisson": lambda: rng.poisson(np.exp(eta)).astype(float),
        "gamma": lambda: rng.gamma(4.0, np.exp(-eta) / 4) + 1e-3,
    }[name]()
    weight = (np.arange(N) < rows).astype(float) * np.ones((B, 1))
    return X, y, weight


def fit(name, X, y, weight):
    return ji.fit(X, y, FAMILIES[name], freq_weights=weight)


def assert_agree(one, other, turn, rtol=1e-6):
    """The same statuses; where there is an estimate, β of ``one`` is ``turn`` of the other's, and so its deviance."""
    np.testing.assert_array_equal(one.status, other.status)
    fitted = np.asarray(one.status) == Status.CONVERGED
    scale = np.abs(np.asarray(one.params)) + np.asarray(one.bse)
    off = np.abs(np.asarray(one.params) - turn(np.asarray(other.params))) / scale
    assert (off[fitted] < rtol).all()
    np.testing.assert_allclose(np.asarray(one.llf)[fitted], np.asarray(other.llf)[fitted], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
@given(seed=seeds, rows=sizes, shuffle=st.permutations(range(N)), columns=st.permutations(range(P)))
@many
def test_the_order_of_rows_and_columns_does_not_matter(name, seed, rows, shuffle, columns):
    X, y, weight = simulate(name, seed, rows)
    shuffle, columns = list(shuffle), list(columns)
    moved = fit(name, X[:, shuffle][:, :, columns], y[:, shuffle], weight[:, shuffle])
    assert_agree(moved, fit(name, X, y, weight), lambda beta: beta[:, columns])


@pytest.mark.parametrize("name", ["binomial", "poisson"])
@given(seed=seeds, rows=sizes, exponents=hnp.arrays(int, P, elements=st.integers(-40, 40)))
@many
def test_units_of_the_columns_do_not_matter(name, seed, rows, exponents):
    X, y, weight = simulate(name, seed, rows)
    units = 2.0**exponents
    scaled = fit(name, X * units, y, weight)
    plain = fit(name, X, y, weight)
    # Powers of two change no digit: the estimates are the same to the last.
    np.testing.assert_array_equal(scaled.status, plain.status)
    np.testing.assert_array_equal(np.asarray(scaled.params) * units, plain.params)
    np.testing.assert_array_equal(scaled.n_iter, plain.n_iter)


@pytest.mark.parametrize("name", ["binomial", "poisson"])
@given(seed=seeds, rows=sizes)
@many
def test_affine_changes_of_the_covariates_are_undone(name, seed, rows):
    X, y, weight = simulate(name, seed, rows)
    rng = np.random.default_rng(seed)
    turn = np.triu(rng.normal(size=(P, P)), 1) + np.diag(rng.uniform(0.5, 2, P))
    assert_agree(fit(name, X @ turn, y, weight), fit(name, X, y, weight), lambda beta: np.linalg.solve(turn, beta.T).T)


EXTREMES = np.array([0.0, -0.0, 1.0, -1.0, 1e-300, 1e-30, 1e30, 1e154, 1e300, np.inf, -np.inf, np.nan])


def spoilt(rng, values):
    """The values with a random share of them, none to all, replaced by extreme ones."""
    return np.where(rng.random(values.shape) < rng.random(), rng.choice(EXTREMES, values.shape), values)


@pytest.mark.parametrize("name", FAMILIES)
@given(seed=seeds)
@many
def test_whatever_the_data_a_missing_number_has_a_reason(name, seed):
    rng = np.random.default_rng(seed)
    good_X, good_y, good_weight = simulate(name, seed)
    X, y, weight = spoilt(rng, good_X), spoilt(rng, good_y), rng.choice([0.0, 1.0, 1.0, 3.0], (B, N))
    X[0], y[0], weight[0] = good_X[0], good_y[0], good_weight[0]
    found = fit(name, X, y, weight)
    status = np.asarray(found.status)
    assert np.isin(status, list(Status)).all()
    estimated = np.isin(status, [Status.CONVERGED])
    for result in ("params", "bse", "llf", "deviance", "score_norm", "newton_decrement", "min_weight"):
        values = np.asarray(getattr(found, result))[estimated]
        if result in ("bse", "llf") and found.family.has_dispersion:
            # No degree of freedom is left for a dispersion.
            values = values[np.asarray(found.df_resid)[estimated] > 0]
        # Data fitted exactly have, in a family with a dispersion, an infinite likelihood.
        assert (np.isfinite(values) | ((result == "llf") & (values == np.inf))).all(), (result, values)
    present = weight > 0
    finite = np.isfinite(X).all(-1) & np.isfinite(y)
    assert (status[(present & ~finite).any(1)] == Status.INVALID_DATA).all()
    alone = fit(name, *(np.repeat(leaf[:1], B, axis=0) for leaf in (good_X, good_y, good_weight)))
    for here, there in zip(jax.tree.leaves(found[0]), jax.tree.leaves(alone[0]), strict=True):
        np.testing.assert_array_equal(here, there)
