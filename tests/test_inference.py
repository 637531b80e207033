"""Hypothesis tests, predictions and marginal effects against R and statsmodels, and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimates import data_of, digits, family_of, fit_at, fitted
from references import load
from scipy import stats

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

R = {case["name"]: case for case in load("glm")}
covariance = jax.jit(ji.covariance, static_argnames="kind")
score_test = jax.jit(ji.score_test, static_argnames="observed")
margeff = jax.jit(ji.margeff, static_argnames=("at", "dummy"))
predict = jax.jit(ji.get_prediction, static_argnames="alpha")
STATSMODELS = {case["name"]: case for case in load("statsmodels")}


def without(data, columns):
    return {**data, "X": data["X"][:, :-columns]}


@pytest.mark.parametrize("name", ["birthwt_cloglog", "airquality_gamma_log", "chickwts_ig_inverse_squared"])
def test_statsmodels_gives_the_same_to_ten_digits(name):
    case, peer, family, data = R[name], STATSMODELS[name], family_of(R[name]), data_of(R[name])
    tested = peer["score"]["columns_tested"]

    @jax.jit
    def everything(params, scale, params_null, data):
        fit, part = fit_at(params, family, data, scale), without(data, tested)
        pearson = ji.residuals(fit_at(params_null, family, part), **part, kind="pearson")
        df_resid = pearson.size - params_null.size
        null = fit_at(params_null, family, part, jnp.square(pearson).sum() / df_resid if family.has_dispersion else 1.0)
        extra = data["X"][:, -tested:]
        return {
            "wald": ji.wald_test(fit, jnp.eye(params.size)[-tested:]),
            "expected": ji.score_test(null, **part, exog_extra=extra),
            "observed": ji.score_test(null, **part, exog_extra=extra, observed=True),
            "prediction": ji.get_prediction(fit, data["X"][:4], alpha=0.1),
            "margeff": ji.margeff(fit, data["X"]),
        }

    found = everything(case["params"], case["scale"], peer["score"]["params_null"], data)
    effects, prediction = found["margeff"], found["prediction"]
    ends = ["mean_ci_lower", "mean_ci_upper"]
    theirs = ends[::-1] if name == "chickwts_ig_inverse_squared" else ends  # a decreasing link
    pairs = {
        "wald": (found["wald"].statistic, peer["wald"]["statistic"]),
        "wald p": (found["wald"].pvalue, peer["wald"]["pvalue"]),
        "score": (found["expected"].statistic, peer["score"]["expected"]),
        "score, their method": (found["expected"].statistic, peer["score"]["model_score_test_expected"]),
        "observed score": (found["observed"].statistic, peer["score"]["observed"]),
        "margeff": (effects.margeff[1:], peer["margeff"]["dydx"]),
        "margeff se": (effects.margeff_se[1:], peer["margeff"]["se"]),
        "mean": (prediction.mean, peer["prediction"]["mean"]),
        "mean se": (prediction.mean_se, peer["prediction"]["mean_se"]),
        "lower": (prediction.mean_ci_lower, peer["prediction"][theirs[0]]),
        "upper": (prediction.mean_ci_upper, peer["prediction"][theirs[1]]),
    }
    for label, (here, there) in pairs.items():
        assert digits(here, there) > 10, f"{label}: {digits(here, there):.1f} digits"
    assert np.isnan(effects.margeff[0])


@pytest.mark.parametrize(
    "name",
    [
        "swiss_gaussian_identity",
        "warpbreaks_poisson_log",
        "birthwt_probit",
        "nodal_logit",
        "insurance_poisson_offset",
        "airquality_gamma_log",
    ],
)
def test_r_gives_the_same_tests_of_a_nested_model(name):
    case = R[name]
    tests, family, data = case["tests"], family_of(case), data_of(case)
    fit, _ = fitted(case)
    part = {**data, "X": tests["X_null"]}
    null = fit_at(tests["params_null"], family, part)
    lr = ji.lr_test(null, fit)
    assert lr.df_num == tests["df"]
    assert digits(lr.statistic, tests["lr"]) > 10
    np.testing.assert_allclose(lr.pvalue, tests["lr_pvalue"], rtol=1e-9 * max(tests["lr"], 1))
    added = [column for column in range(case["X"].shape[1]) if case["columns"][column] not in tests["columns_null"]]
    if len(added) == tests["df"]:
        covariances = {"wald": fit.cov_params(), "wald_hc3": covariance(fit, **data, kind="HC3")}
        for result, cov in covariances.items():
            wald = ji.wald_test(fit, np.eye(case["X"].shape[1])[added], cov=cov)
            assert digits(wald.statistic, tests[result]) > 10, result
        rao = score_test(null, **part, exog_extra=case["X"][:, added], scale=case["scale"])
        assert digits(rao.statistic, tests["rao"]) > 10
        np.testing.assert_allclose(rao.pvalue, tests["rao_pvalue"], rtol=1e-9 * max(tests["rao"], 1))


@pytest.mark.parametrize("name", ["birthwt_logit", "swiss_gaussian_identity", "pima_probit"])
def test_r_predicts_the_same(name):
    case = R[name]
    found, expected = predict(fitted(case)[0], case["prediction"]["X"]), case["prediction"]
    for field in ("linear", "linear_se", "mean", "mean_se"):
        assert digits(getattr(found, field), expected[field]) > 10, field


def cloglog_data(n=40, seed=4):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])
    return X, rng.binomial(1, -np.expm1(-np.exp(X @ [-0.3, 0.6, 0.2, 0.1]))).astype(float)


def test_the_score_test_is_made_at_the_restricted_estimate_with_the_whole_information():
    X, y = cloglog_data()
    family = ji.Binomial(link=ji.links.CLogLog())

    def loglike(beta, X):
        rate = jnp.exp(X @ beta)
        return jnp.sum(y * jnp.log(-jnp.expm1(-rate)) - (1 - y) * rate)

    part = {"X": X[:, :2], "y": y}
    derivatives = jax.jit(lambda beta: (jax.hessian(loglike)(beta, X[:, :2]), jax.grad(loglike)(beta, X[:, :2])))
    null = np.zeros(2)
    for _ in range(20):
        null = null - np.linalg.solve(*derivatives(null))
    at = np.concatenate([null, [0.0, 0.0]])
    gradient, hessian = jax.jit(lambda beta: (jax.grad(loglike)(beta, X), jax.hessian(loglike)(beta, X)))(at)
    expected = float(gradient @ np.linalg.solve(-hessian, gradient))
    found = score_test(fit_at(null, family, part), **part, exog_extra=X[:, 2:], observed=True)
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-9)
    np.testing.assert_allclose(found.pvalue, stats.chi2.sf(expected, 2), rtol=1e-9)


def test_one_fit_tests_many_columns_and_a_dependent_one_is_nan():
    X, y = cloglog_data()
    part = {"X": X[:, :2], "y": y}
    null = fit_at([-0.2, 0.5], ji.Binomial(link=ji.links.CLogLog()), part)
    columns = np.stack([X[:, 2], X[:, 3], 2 * X[:, 0] - X[:, 1]])[..., None]
    found = score_test(null, **part, exog_extra=columns)
    assert found.statistic.shape == (3,)
    for i in range(2):
        alone = score_test(null, **part, exog_extra=columns[i])
        np.testing.assert_allclose(found.statistic[i], alone.statistic, rtol=1e-12)
    assert np.isnan(found.statistic[2])
    weights = np.where(np.arange(40) < 5, 0.0, 1.0)
    spoiled = columns[:1] + np.where(np.arange(40) < 5, np.nan, 0.0)[:, None]
    cut = {key: value[5:] for key, value in part.items()}
    # The fit is of all the rows, so take its information from the rows that are left.
    kept = fit_at([-0.2, 0.5], null.family, cut)
    weighted = fit_at([-0.2, 0.5], null.family, {**part, "freq_weights": weights})
    absent = score_test(weighted, **part, exog_extra=spoiled, freq_weights=weights)
    np.testing.assert_allclose(absent.statistic[0], score_test(kept, **cut, exog_extra=columns[0, 5:]).statistic)


def test_wald_and_t_tests_are_their_formulas_and_batch():
    rng = np.random.default_rng(0)
    data = {"X": rng.normal(size=(30, 3)), "y": rng.normal(size=30)}
    betas = rng.normal(size=(4, 3))
    fits = jax.vmap(lambda beta: fit_at(beta, ji.Gaussian(), data, 0.7))(betas)
    restrict, value = np.array([[1.0, -1, 0], [0, 1, 2]]), np.array([0.1, -0.2])
    cov = 0.7 * np.linalg.inv(data["X"].T @ data["X"])
    off = betas @ restrict.T - value
    expected = np.einsum("bi,ij,bj->b", off, np.linalg.inv(restrict @ cov @ restrict.T), off)
    found = jax.jit(ji.wald_test)(fits, restrict, value)
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-10)
    np.testing.assert_allclose(found.pvalue, stats.chi2.sf(expected, 2), rtol=1e-8, atol=1e-300)
    by_f = ji.wald_test(fits, restrict, value, use_f=True)
    np.testing.assert_allclose(by_f.statistic, expected / 2, rtol=1e-10)
    np.testing.assert_allclose(by_f.pvalue, stats.f.sf(expected / 2, 2, 27), rtol=1e-9)
    contrast = ji.t_test(fits, restrict, value, cov=4 * cov)
    sd = 2 * np.sqrt(np.diag(restrict @ cov @ restrict.T))
    np.testing.assert_allclose(contrast.sd, np.broadcast_to(sd, (4, 2)), rtol=1e-10)
    np.testing.assert_allclose(contrast.statistic, off / sd, rtol=1e-9)
    np.testing.assert_allclose(contrast.pvalue, 2 * stats.norm.sf(np.abs(off / sd)), rtol=1e-8)
    reach = stats.norm.isf(0.05) * sd
    ends = np.stack([betas @ restrict.T - reach, betas @ restrict.T + reach], -1)
    np.testing.assert_allclose(contrast.conf_int(0.1), ends, rtol=1e-9, atol=1e-12)
    assert np.isnan(ji.wald_test(fits, np.array([[1.0, 0, 0], [2, 0, 0]])).statistic).all()


def test_likelihood_ratio_statistics_are_differences_of_log_likelihoods():
    X, y = cloglog_data()
    counts = np.round(5 * y + X[:, 1] ** 2)
    families = {"negative binomial": (ji.NegativeBinomial(0.7), counts), "logit": (ji.Binomial(), y)}
    for family, response in families.values():
        full = fit_at([0.1, 0.2, 0.3, -0.1], family, {"X": X, "y": response})
        part = fit_at([0.2, 0.1], family, {"X": X[:, :2], "y": response})
        np.testing.assert_allclose(ji.lr_test(part, full).statistic, 2 * (full.llf - part.llf), rtol=1e-10)
    fewer = fit_at([0.2, 0.1], family, {"X": X[5:, :2], "y": y[5:]})
    assert np.isnan(ji.lr_test(fewer, full).statistic)
    with pytest.raises(ValueError, match="more columns"):
        ji.lr_test(full, part)
    with pytest.raises(ValueError, match="differ in family or link"):
        ji.lr_test(fit_at([0.2, 0.1], ji.Poisson(), {"X": X[:, :2], "y": y}), full)


def test_marginal_effects_are_derivatives_and_differences_of_the_mean():
    X, y = cloglog_data()
    X[:, 3] = X[:, 3] > 0
    weights = np.random.default_rng(0).integers(0, 3, 40).astype(float)
    offset = np.linspace(-0.5, 0.5, 40)
    params = jnp.array([-0.2, 0.5, 0.3, -0.4])
    fit = fit_at(params, ji.Binomial(link=ji.links.CLogLog()), {"X": X, "y": y})

    def mean(beta, X, offset=offset):
        return -jnp.expm1(-jnp.exp(X @ beta + offset))

    def overall(beta):
        return jnp.average(jax.vmap(jax.grad(mean, 1), (None, 0, 0))(beta, X, offset), axis=0, weights=weights)

    def stepped(beta):
        one, zero = (mean(beta, jnp.asarray(X).at[:, 3].set(value)) for value in (1.0, 0.0))
        return overall(beta).at[3].set(jnp.average(one - zero, weights=weights))

    middle, shift = np.average(X, axis=0, weights=weights), np.average(offset, weights=weights)

    def at_mean(beta):
        return jax.grad(mean, 1)(beta, middle, shift)

    cov = np.asarray(fit.cov_params())
    spoiled = np.where(weights[:, None] == 0, np.nan, X)
    for expected, options in ((overall, {}), (stepped, {"dummy": True}), (at_mean, {"at": "mean"})):
        found = margeff(fit, spoiled, offset=offset, freq_weights=weights, **options)
        jacobian = np.asarray(jax.jacobian(expected)(params))[1:]
        np.testing.assert_allclose(found.margeff[1:], expected(params)[1:], rtol=1e-10)
        np.testing.assert_allclose(found.margeff_cov[1:, 1:], jacobian @ cov @ jacobian.T, rtol=1e-9)
        assert np.isnan(found.margeff[0])
    batch = jax.vmap(lambda beta: fit_at(beta, fit.family, {"X": X, "y": y}))(jnp.stack([params, 2 * params]))
    both = margeff(batch, X, offset=offset, freq_weights=weights, dummy=True)
    np.testing.assert_allclose(
        both.margeff[0], margeff(fit, X, offset=offset, freq_weights=weights, dummy=True).margeff, rtol=1e-10
    )
    assert both.margeff_cov.shape == (2, 4, 4)


def test_the_interval_of_a_mean_is_ordered_and_nan_outside_the_domain():
    data = {"X": np.ones((4, 1)), "y": np.array([1.0, 2, 3, 5])}
    fit = fit_at([0.4], ji.Gamma(), data, 0.2)  # inverse link
    wide = ji.get_prediction(fit, np.ones((1, 1)), alpha=1e-12)
    narrow = ji.get_prediction(fit, np.ones((1, 1)), alpha=0.5)
    assert np.isnan(wide.mean_ci_upper[0])
    assert 0 < wide.mean_ci_lower[0] < narrow.mean_ci_lower[0] < 2.5 < narrow.mean_ci_upper[0]


def test_trials_are_given_again_or_refused():
    case = R["menarche_logit"]
    trials = case["trials"]
    X, y = case["X"] - [0.0, 13.0], np.round(case["y"] * trials)
    fit = ji.fit(X, y, ji.Binomial(trials=trials))
    with pytest.raises(ValueError, match=r"give it again as family=ji.Binomial\(trials="):
        ji.residuals(fit, X, y)
    found = ji.influence(fit, X, y, family=ji.Binomial(trials=trials))
    assert digits(found.cooks_distance, case["influence"]["cooks_distance"]) > 8
    shares = ji.residuals(fit, X, y, family=ji.Binomial(trials=trials), kind="response") / trials
    assert digits(shares, case["residuals"]["response"]) > 8


def test_float32_follows_its_inputs_and_is_near_float64():
    X, y = cloglog_data()
    params, family = np.array([-0.2, 0.5, 0.3]), ji.Binomial(link=ji.links.CLogLog())

    @jax.jit
    def everything(params, X, y, extra):
        fit = fit_at(params, family, {"X": X, "y": y})
        return [
            ji.influence(fit, X, y),
            ji.residuals(fit, X, y, kind="anscombe"),
            ji.covariance(fit, X, y, kind="HC3"),
            ji.score_test(fit, X, y, extra).statistic,
            ji.wald_test(fit, jnp.eye(3)[:2]).pvalue,
            ji.get_prediction(fit, X),
            ji.margeff(fit, X, dummy=True),
        ]

    given = params, X[:, :3], y, X[:, 3:]
    wide, narrow = everything(*given), everything(*(value.astype(np.float32) for value in given))
    for here, there in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        assert here.dtype == jnp.float32
        np.testing.assert_allclose(here, there, rtol=2e-4, atol=2e-5)


def test_what_cancels_in_the_covariance_is_not_lost():
    """A cubic in calendar years, against the same in years since 2010: QR of that design is well conditioned."""
    rng = np.random.default_rng(7)
    n, since = 40, rng.integers(-10, 11, 40).astype(float)
    X, Z = (np.stack([t**k for k in range(4)], axis=-1) for t in (since + 2010, since))
    y = np.round(64 * rng.normal(size=n)) / 64
    residual = y - Z @ np.linalg.lstsq(Z, y, rcond=None)[0]
    sd = np.sqrt(residual @ residual / (n - 4) * np.square(np.linalg.qr(Z)[0]).sum(1))
    fit = ji.fit(X, y, ji.Gaussian())
    np.testing.assert_allclose(ji.get_prediction(fit, X).linear_se, sd, rtol=1e-7)
    np.testing.assert_allclose(ji.t_test(fit, X).sd, sd, rtol=1e-7)
    explained = np.square(np.linalg.qr(Z)[0][:, 1:].T @ y).sum() / (residual @ residual / (n - 4))
    np.testing.assert_allclose(ji.wald_test(fit, np.eye(4)[1:]).statistic, explained, rtol=1e-7)
    assert np.isnan(ji.wald_test(fit, np.eye(4)[[1, 2, 1]]).statistic)
    assert np.isnan(ji.wald_test(fit, np.ones((5, 4))).statistic)
