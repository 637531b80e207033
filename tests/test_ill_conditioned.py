"""Ill conditioning: NIST's certified regressions, collinear columns against fits without them, scales against none."""

import numpy as np
import pytest
import statsmodels.api as sm
from references import nist

import jaxirls as ji

# Certified digits that QR gets from float64 data, where not 8. LAPACK's gets 7.1 to 8 of Filip, 7.8 to 8 of Wampler4,
# 5.8 to 6 of Wampler5; to round in another order, by fused multiply-adds and vectors of another length, is half a
# digit, which took Wampler5 to 5.74. The data of Filip, once rounded to float64, are good for no more than 7.7 of the
# coefficients and 8.2 of their errors (solved with 80 digits).
DIGITS = {"Filip": 7.0, "Longley": 10.0, "Wampler4": 7.8, "Wampler5": 5.3}
DIGITS_BSE = {"Filip": 7.7}
SHAPES = sorted({data.X.shape for data in nist.ALL})


def digits(ours, reference):
    """Correct digits of the worst entry, an entry of zero measured absolutely."""
    ours, reference = np.asarray(ours, float), np.asarray(reference)
    return -np.log10(np.max(np.abs(ours - reference) / np.where(reference == 0, 1.0, np.abs(reference))) + 1e-16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_certified_digits_of_nist_regressions(shape):
    sets = [data for data in nist.ALL if data.X.shape == shape]
    fit = ji.fit(np.stack([data.X for data in sets]), np.stack([data.y for data in sets]), ji.Gaussian())
    for i, data in enumerate(sets):
        assert fit.status[i] == ji.Status.CONVERGED, data.name
        assert digits(fit.params[i], data.params) >= DIGITS.get(data.name, 8.0), data.name
        # Wampler1 and 2 are exact polynomials: their certified errors are zero.
        if data.residual_sd > 0:
            assert digits(fit.bse[i], data.bse) >= DIGITS_BSE.get(data.name, 8.0), data.name


def collinear(n=40, p=5):
    """Designs with a fault each, and the columns that R would call aliased (NA)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, n, p))
    X[..., 0] = 1
    weights = np.ones((8, n))
    X[0, :, 3] = X[0, :, 1] + 2 * X[0, :, 2]
    X[1, :, 1] = 0
    X[2, :, 2] = 7
    X[3, :, 4] = X[3, :, 3] * 1e-8
    X[4] *= [1e-8, 1e8, 1, 1e4, 1e-4]
    X[5, :, 1] = 1e-8 * (X[5, :, 0] - 3 * X[5, :, 3])  # column 3 comes later: it is the one left out
    X[6, 6:, 4] = X[6, 6:, 1]  # but for rows of weight zero
    weights[6, :6] = 0
    y = rng.poisson(np.exp(0.3 * X[:, :, 0] + 0.4 * np.where(np.abs(X[:, :, 2]) < 5, X[:, :, 2], 0)))
    return X, y.astype(float), weights, [{3}, {1}, {2}, {4}, set(), {3}, {4}, set()]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_aliased_columns_are_told_and_the_others_fitted(dtype):
    X, y, weights, aliased = collinear()
    fit = ji.fit(X.astype(dtype), y.astype(dtype), ji.Poisson(), freq_weights=weights.astype(dtype))
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    for i, left_out in enumerate(aliased):
        assert set(np.flatnonzero(fit.aliased[i])) == left_out
        assert fit.status[i] == (ji.Status.RANK_DEFICIENT if left_out else ji.Status.CONVERGED)
        kept = [j for j in range(X.shape[2]) if j not in left_out]
        size = np.abs(X[i]).max(0)[kept]  # the peer, which has no scaling of its own, gets columns of one size
        model = sm.GLM(y[i], X[i][:, kept] / size, family=sm.families.Poisson(), freq_weights=weights[i])
        peer = model.fit(tol=1e-14, maxiter=100)
        assert np.isnan(np.asarray(fit.params[i])[list(left_out)]).all()
        assert np.isnan(np.asarray(fit.bse[i])[list(left_out)]).all()
        off = np.asarray(fit.params[i], float)[kept] * size - peer.params
        assert np.max(np.abs(off) / peer.bse) < rtol
        np.testing.assert_allclose(np.asarray(fit.bse[i], float)[kept] * size, peer.bse, rtol=10 * rtol)
        for result in ("llf", "deviance", "df_resid", "df_model", "aic"):
            np.testing.assert_allclose(getattr(fit[i], result), getattr(peer, result), rtol=rtol, err_msg=result)


def test_near_collinear_columns_converge_to_the_fit_in_other_coordinates():
    rng = np.random.default_rng(1)
    n, gap = 40, np.array([1e-3, 1e-5, 1e-7])
    a, b = rng.normal(size=(2, 3, n))
    near = a + gap[:, None] * b
    y = rng.poisson(np.exp(0.3 * a)).astype(float)
    X = np.stack([np.ones_like(a), a, near], -1)
    fit = ji.fit(X, y, ji.Poisson())
    assert (fit.status == ji.Status.CONVERGED).all()
    for i in range(3):
        apart = (near[i] - a[i]) / gap[i]
        model = sm.GLM(y[i], np.stack([np.ones(n), a[i], apart], -1), family=sm.families.Poisson())
        peer = model.fit(tol=1e-14, maxiter=100)
        # η = c + s a + t (near - a)/gap: the coefficient of `near` is t/gap, and its last place moves η by ε t/gap.
        slope, cross = peer.params[2] / gap[i], peer.bse[2] / gap[i]
        assert abs(fit.params[i, 2] - slope) / cross < 1e-15 / gap[i]
        np.testing.assert_allclose(fit.bse[i, 2], cross, rtol=1e-8)
        np.testing.assert_allclose(fit.llf[i], peer.llf, rtol=1e-15 / gap[i])


def test_every_solver_finds_the_estimate_and_only_qr_resolves_collinearity():
    X, y, _, _ = collinear()
    X, y = X[[7, 0]], y[[7, 0]]
    peer = sm.GLM(y[0], X[0], family=sm.families.Poisson()).fit(tol=1e-14, maxiter=100)
    for solver in ("cholesky", "qr"):
        fit = ji.fit(X, y, ji.Poisson(), config=ji.IRLS(solver=solver))
        np.testing.assert_allclose(fit.params[0], peer.params, rtol=1e-10)
        np.testing.assert_allclose(fit.bse[0], peer.bse, rtol=1e-10)
        assert fit.status[1] == ji.Status.RANK_DEFICIENT
        assert bool(np.isnan(fit.params[1]).all()) == (solver == "cholesky")
    with pytest.raises(ValueError, match="solver"):
        ji.IRLS(solver="lu")


def test_a_ridge_on_the_collinear_columns_leaves_nothing_out():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(30, 3))
    X[:, 2] = X[:, 0] - X[:, 1]
    y = X[:, 0] + rng.normal(size=30)
    ridge = np.array([[1e-6, 1e-6, 1e-6], [1e-6, 0, 0]])  # the second leaves the plane of the last two free of penalty
    fit = ji.fit(X, y, ji.Gaussian(), penalty=ji.Ridge(1.0, penalize=ridge))
    assert (fit.status == ji.Status.CONVERGED).all()
    assert not np.asarray(fit.aliased).any()
    for i in range(2):
        stacked = np.concatenate([X, np.diag(np.sqrt(ridge[i]))])
        expected = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(3)]), rcond=None)[0]
        # Rounding X by ε moves the solution by ε|r|/s along the collinear direction.
        np.testing.assert_allclose(fit.params[i], expected, atol=1e-8)


@pytest.mark.parametrize("p", [64, 65, 90])
def test_wide_designs_are_factorized_aliased_and_kept_apart(p):
    """On both sides of where LAPACK takes over: a sound design, one with a column twice, one with a NaN."""
    rng = np.random.default_rng(p)
    X, size = rng.normal(size=(3, 4 * p, p)), np.geomspace(1e-4, 1e4, p)
    X[1, :, -1] = X[1, :, 0]
    y = rng.poisson(1.5, (3, 4 * p)).astype(float)
    y[2, 0] = np.nan
    fit = ji.fit(X * size, y, ji.Poisson())
    assert fit.status.tolist() == [ji.Status.CONVERGED, ji.Status.RANK_DEFICIENT, ji.Status.INVALID_DATA]
    assert np.flatnonzero(fit.aliased[1]).tolist() == [p - 1]
    for i, columns in ((0, p), (1, p - 1)):
        kept = X[i, :, :columns]
        expected = sm.GLM(y[i], kept, family=sm.families.Poisson()).fit(tol=1e-14).params
        bse = np.sqrt(np.diag(np.linalg.inv(kept.T @ (np.exp(kept @ expected)[:, None] * kept))))
        np.testing.assert_allclose(fit.params[i, :columns] * size[:columns] / bse, expected / bse, atol=1e-10)
        np.testing.assert_allclose(fit.bse[i, :columns] * size[:columns], bse, rtol=1e-10)
    alone = ji.fit(X[0] * size, y[0], ji.Poisson())
    np.testing.assert_array_equal(alone.params, fit.params[0])
