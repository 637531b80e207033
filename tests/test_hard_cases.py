"""Optima on the edge of the domain, and steps that would leave it: the conditions of Karush, Kuhn and Tucker."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

import jaxirls as ji
from jaxirls import Status, links


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
