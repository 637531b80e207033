"""A fit that leaves columns out says what the fit without these columns says, as in R."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji

LEFT_OUT = 2  # of X's columns: twice the one before it
KEPT = [0, 1, 3]
COVARIANCES = (
    {"kind": "nonrobust"},
    {"kind": "HC0"},
    {"kind": "HC1"},
    {"kind": "HC2"},
    {"kind": "HC3"},
    {"kind": "cluster", "groups": np.arange(60) // 5, "correction": "statsmodels"},
)


@pytest.fixture(scope="module", params=[ji.Poisson(), ji.Gamma(link=ji.links.Log())], ids=lambda f: type(f).__name__)
def fits(request):
    """One with an aliased column, the one without it, and their data; the second link is not canonical."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 60))
    X = np.stack([np.ones(60), a, 2 * a, b], axis=-1)
    y = 1.0 + rng.poisson(np.exp(0.3 + 0.4 * a - 0.2 * b))
    full, kept = (ji.fit(x, y, request.param) for x in (X, X[:, KEPT]))
    assert ji.Status(int(full.status)) is ji.Status.RANK_DEFICIENT
    return full, kept, X, y


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_predictions(fits):
    full, kept, X, _ = fits
    close(full.predict(X), kept.predict(X[:, KEPT]))
    for found, expected in zip(ji.get_prediction(full, X), ji.get_prediction(kept, X[:, KEPT]), strict=True):
        close(found, expected)


@pytest.mark.parametrize("kind", ["response", "pearson", "deviance", "working"])
def test_residuals(fits, kind):
    full, kept, X, y = fits
    close(ji.residuals(full, X, y, kind=kind), ji.residuals(kept, X[:, KEPT], y, kind=kind))


@pytest.mark.parametrize("observed", [False, True])
def test_influence(fits, observed):
    full, kept, X, y = fits
    found = ji.influence(full, X, y, observed=observed)
    expected = ji.influence(kept, X[:, KEPT], y, observed=observed)
    for name in ("hat_matrix_diag", "resid_studentized", "cooks_distance", "cooks_distance_pvalues"):
        close(getattr(found, name), getattr(expected, name))
    close(found.d_params[:, KEPT], expected.d_params)
    assert np.isnan(found.d_params[:, LEFT_OUT]).all()


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("options", COVARIANCES, ids=lambda options: options["kind"])
def test_covariances(fits, options, observed):
    full, kept, X, y = fits
    found = np.asarray(ji.covariance(full, X, y, observed=observed, **options))
    close(found[np.ix_(KEPT, KEPT)], ji.covariance(kept, X[:, KEPT], y, observed=observed, **options))
    assert np.isnan(found[LEFT_OUT]).all()
    assert np.isnan(found[:, LEFT_OUT]).all()


def test_wald_tests(fits):
    full, kept, X, y = fits
    R = np.array([[0.0, 1.0, 0.0, -1.0], [1.0, 0.0, 0.0, 0.0]])
    robust = ji.covariance(full, X, y, kind="HC0"), ji.covariance(kept, X[:, KEPT], y, kind="HC0")
    for cov_full, cov_kept in ((None, None), robust):
        for test in (ji.wald_test, ji.t_test):
            found = test(full, R, q=[0.1, 0.2], cov=cov_full)
            expected = test(kept, R[:, KEPT], q=[0.1, 0.2], cov=cov_kept)
            close(found.statistic, expected.statistic)
            close(found.pvalue, expected.pvalue)
    on_aliased = np.eye(4)[[1, LEFT_OUT]]
    assert np.isnan(ji.wald_test(full, on_aliased).pvalue)
    assert np.isnan(ji.t_test(full, on_aliased).effect).tolist() == [False, True]


def test_likelihood_ratio_tests_count_ranks(fits):
    full, kept, X, y = fits
    restricted = ji.fit(X[:, :2], y, full.family)
    found, expected = ji.lr_test(restricted, full), ji.lr_test(restricted, kept)
    close(found.statistic, expected.statistic)
    close(found.pvalue, expected.pvalue)
    assert found.df_num == 1
    nothing_more = ji.lr_test(restricted, ji.fit(X[:, :3], y, full.family))
    assert np.isnan(nothing_more.pvalue)


def test_likelihood_ratio_tests_of_a_batch_count_each_rank(fits):
    full, _, X, y = fits
    sound = X.copy()
    sound[:, LEFT_OUT] = X[:, 1] ** 2
    both = ji.fit(jnp.stack([X, sound]), y, full.family)
    found = ji.lr_test(ji.fit(X[:, :2], y, full.family), both)
    assert found.df_num.tolist() == [1, 2]
    for i, design in enumerate((X, sound)):
        alone = ji.lr_test(ji.fit(X[:, :2], y, full.family), ji.fit(design, y, full.family))
        close(found.pvalue[i], alone.pvalue)


def test_score_tests(fits):
    full, kept, X, y = fits
    extra = (X[:, 3] ** 2)[:, None]
    for observed in (False, True):
        found = ji.score_test(full, X, y, extra, observed=observed)
        expected = ji.score_test(kept, X[:, KEPT], y, extra, observed=observed)
        close(found.statistic, expected.statistic)
        close(found.pvalue, expected.pvalue)


def test_marginal_effects(fits):
    full, kept, X, _ = fits
    found, expected = ji.margeff(full, X), ji.margeff(kept, X[:, KEPT])
    close(found.margeff[jnp.array(KEPT)], expected.margeff)
    close(found.margeff_se[jnp.array(KEPT)], expected.margeff_se)
    assert np.isnan(found.margeff[LEFT_OUT])


def test_autodiff_confirms_the_information(fits):
    full, _, X, y = fits
    assert ji.check_information(full, X, y).difference < 1e-10


def test_a_fit_without_any_estimate_still_has_none(fits):
    full, _, X, y = fits
    nothing = ji.fit(X, np.where(np.arange(60) == 3, np.nan, y), full.family)
    assert np.isnan(nothing.predict(X)).all()
    assert np.isnan(ji.get_prediction(nothing, X).mean_se).all()
