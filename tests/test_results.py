"""What a fit reports beyond its estimates: the dispersion by rule, the null model, tables."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from references import load
from test_references import digits

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

CASES = {case["name"]: case for case in load("glm")}
THEIRS = {case["name"]: case for case in load("statsmodels")}


def simulate(seed=0, n=50, p=3):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    return X, rng.poisson(np.exp(X @ np.linspace(0.5, -0.3, p))) + 1.0


@pytest.mark.parametrize(("name", "rule"), [("Poisson", "x2"), ("Poisson", 2.5), ("Gamma", "dev")])
def test_scale_by_rule_agrees_with_statsmodels(name, rule):
    X, y = simulate()
    link = sm.families.links.Log()
    family = getattr(sm.families, name)(link)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y))
    fit = ji.fit(X, y, getattr(ji, name)(link=ji.links.Log()), scale=rule, var_weights=weights)
    peer = sm.GLM(y, X, family, var_weights=weights).fit(scale=rule, tol=1e-15, tol_criterion="params", maxiter=100)
    assert fit.status == ji.Status.CONVERGED
    for result in ("params", "bse", "scale", "llf", "deviance", "aic", "bic_llf", "bic_deviance"):
        np.testing.assert_allclose(getattr(fit, result), getattr(peer, result), rtol=1e-9, err_msg=result)


def test_scale_by_rule_is_a_function_like_any_other():
    X, y = simulate()
    y = np.stack([y, y[::-1]])

    def errors(y):
        return ji.fit(X, y, ji.Poisson(), scale="dev").bse

    here = errors(y)
    np.testing.assert_allclose(jax.jit(jax.vmap(errors))(y), here, rtol=1e-12)
    direction, step = np.random.default_rng(2).normal(size=y.shape), 1e-5
    differences = (errors(y + step * direction) - errors(y - step * direction)) / (2 * step)
    tangent = jax.jvp(errors, (jnp.asarray(y),), (jnp.asarray(direction),))[1]
    np.testing.assert_allclose(tangent, differences, rtol=1e-6)


def test_an_unknown_scale_is_an_error_that_names_the_known_ones():
    X, y = simulate()
    with pytest.raises(ValueError, match="scale='pearson': expected None, 'X2', 'dev'"):
        ji.fit(X, y, ji.Poisson(), scale="pearson")
    with pytest.raises(ValueError, match="known dispersion"):
        ji.fit(X, y, ji.Poisson(), scale="X2", penalty=ji.Jeffreys())


@pytest.mark.parametrize(
    "name",
    ["swiss_gaussian_identity", "birthwt_logit", "menarche_logit", "warpbreaks_poisson_log", "airquality_gamma_log"],
)
def test_the_null_model_agrees_with_statsmodels_and_r(name):
    case, theirs = CASES[name], THEIRS[name]
    trials = {} if case["trials"] is None else {"trials": case["trials"]}
    y = case["y"] if case["trials"] is None else case["y"] * case["trials"]
    family = getattr(ji, case["family"])(link=getattr(ji.links, case["link"])(), **trials)
    fit = ji.fit(case["X"], y, family)
    null = ji.null_model(fit, y, family=family)
    assert null.status == ji.Status.CONVERGED
    assert digits(null.null_deviance, case["null_deviance"]) >= 9
    for result in ("null_deviance", "llnull"):
        assert digits(getattr(null, result), theirs[result]) >= 9, result
    for kind, value in theirs["pseudo_rsquared"].items():
        assert digits(null.pseudo_rsquared(kind), value) >= 9, kind
    for result in ("bic_llf", "bic_deviance", "aic", "df_model", "df_resid", "llf"):
        assert digits(getattr(fit, result), theirs[result]) >= 8, result


def test_the_null_model_of_weighted_batches_with_offsets():
    X, y = simulate()
    rng = np.random.default_rng(3)
    freq, var, offset = rng.integers(0, 3, len(y)), rng.uniform(0.5, 2, len(y)), rng.normal(size=len(y)) / 3
    data = {"freq_weights": freq, "var_weights": var, "offset": offset}
    Y = np.stack([y, y[::-1]])
    null = ji.null_model(ji.fit(X, Y, ji.Poisson(), **data), Y, **data)
    peer = sm.GLM(y[::-1], X, sm.families.Poisson(), **data).fit(tol=1e-14)
    expected = sm.GLM(y[::-1], X[:, :1], sm.families.Poisson(), **data).fit(tol=1e-14)
    np.testing.assert_allclose(null.null_deviance[1], expected.deviance, rtol=1e-9)
    np.testing.assert_allclose(null.llnull[1], expected.llf, rtol=1e-9)
    np.testing.assert_allclose(null.pseudo_rsquared("mcf")[1], 1 - peer.llf / expected.llf, rtol=1e-8)
    with pytest.raises(ValueError, match="'cs'"):
        null.pseudo_rsquared("r2")


def test_names_of_statsmodels_that_need_the_data_say_where_to_find_them():
    X, y = simulate()
    fit = ji.fit(X, y, ji.Poisson())
    for name in ("null_deviance", "pseudo_rsquared", "mu", "resid_pearson", "get_influence", "wald_test"):
        with pytest.raises(AttributeError, match=f"for {name} write ") as error:
            getattr(fit, name)
        package, function = str(error.value).split(" write ")[1].split("(")[0].split(".")
        assert hasattr({"ji": ji, "fit": fit}[package], function)
    assert not hasattr(fit, "nonsense")


def test_the_summary_shows_the_table_of_statsmodels():
    X, y = simulate()
    names = ["const", "age", "dose"]
    X = X * [1, 1e-5, 300]
    fit = ji.fit(X, y, ji.Poisson())
    shown = fit.summary(names, null=ji.null_model(fit, y))
    theirs = str(sm.GLM(y, X, sm.families.Poisson()).fit(tol=1e-12).summary(xname=names))

    def rows(text):
        return [line.split() for line in text.splitlines() if line.split()[:1] and line.split()[0] in names]

    assert len(rows(shown)) == 3
    assert rows(shown) == rows(theirs)
    facts = ["No. Observations", "Df Residuals", "Df Model", "Scale", "Log-Likelihood", "Deviance", "Pearson chi2"]

    def fact(text, name):
        return float(text.split(f"{name}:")[1].split()[0])

    for name in [*facts, "Pseudo R-squ. (CS)"]:
        np.testing.assert_allclose(fact(shown, name), fact(theirs, name), rtol=1e-4, err_msg=name)
    assert fact(shown, "Condition number") == float(f"{fit.condition_number:.4g}")
    assert fact(shown, "Smallest weight") == float(f"{fit.min_weight:.4g}")
    assert max(map(len, shown.splitlines())) <= 78
    with pytest.raises(ValueError, match="expected 3 names"):
        fit.summary(["const"])


def test_the_data_frame_is_tidy():
    X, y = simulate()
    fit = ji.fit(X, np.stack([[y, y[::-1], -y]] * 2), ji.Poisson())
    frame = fit.to_dataframe(["a", "b", "c"], alpha=0.1)
    assert list(frame.columns[:3]) == ["batch_0", "batch_1", "coefficient"]
    assert len(frame) == 2 * 3 * 3
    row = frame[(frame.batch_0 == 1) & (frame.batch_1 == 1) & (frame.coefficient == "c")].iloc[0]
    one = fit[1, 1]
    expected = [one.params[2], one.bse[2], one.tvalues[2], one.pvalues[2], *one.conf_int(0.1)[2]]
    columns = ["estimate", "bse", "tvalue", "pvalue", "conf_low", "conf_high"]
    np.testing.assert_allclose(row[columns].astype(float), expected, rtol=1e-12)
    assert row.status == "CONVERGED"
    assert row.n_iter == one.n_iter
    wrong = frame[frame.batch_1 == 2]
    assert set(wrong.status) == {"INVALID_DATA"}
    assert not wrong.converged.any()
    assert wrong.estimate.isna().all()
    assert fit[0].to_dataframe().columns[0] == "batch"
    assert one.to_dataframe().columns[0] == "coefficient"


def test_a_missing_pandas_is_named(monkeypatch):
    X, y = simulate()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"jaxirls\[frames\]"):
        ji.fit(X, y, ji.Poisson()).to_dataframe()
