"""Reference results that only statsmodels gives, on cases of glm.json.gz.

Run in the folder above: python -m references.make_statsmodels   -> statsmodels.json.gz
Every fit is started at R's estimate and must agree with it. What differs from R by definition:
- `llf` and `aic` take the dispersion as Pearson's chi2 / df_resid in the Gamma and InverseGaussian families, and `aic`
  never counts it as a parameter;
- a GLM's HC1, HC2 and HC3 are all equal to HC0, so only HC0 is kept; HC0 and cluster covariances have the inverse of
  the observed information on either side, R's sandwich that of the expected; with a canonical link they agree, and
  "cluster_corrected" is R's HC1 with cadjust;
- with trials, `scale="X2"` forgets to multiply by the trials (so no such case is here);
- with trials, response and working residuals are those of the counts, not of the proportions.
"""

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import statsmodels
import statsmodels.api as sm

from . import load

CASES = (
    "swiss_gaussian_identity",
    "birthwt_logit",
    "birthwt_probit",
    "birthwt_cloglog",
    "menarche_logit",
    "warpbreaks_poisson_log",
    "airquality_gamma_log",
    "chickwts_ig_inverse_squared",
    "quine_nb_theta2",
    "bacteria_logit_cluster",
    "kidney_ig_log_cluster",
    "epil_poisson_cluster",
)


def model_of(case: dict):
    """The statsmodels GLM of a reference case, and the scale rule that R used."""
    parameters = case["parameters"] or {}
    link_class = getattr(sm.families.links, case["link"])
    link = link_class(power=parameters["link_power"]) if case["link"] == "Power" else link_class()
    if case["family"] == "NegativeBinomial":
        family = sm.families.NegativeBinomial(link, alpha=parameters["alpha"], check_link=False)
    elif case["family"] == "Tweedie":
        family = sm.families.Tweedie(link, var_power=parameters["power"], check_link=False)
    else:
        family = getattr(sm.families, case["family"])(link, check_link=False)
    y = case["y"]
    if case["trials"] is not None:
        successes = np.round(y * case["trials"])
        y = np.column_stack([successes, case["trials"] - successes])
    return sm.GLM(y, case["X"], family, offset=case["offset"], var_weights=case["weights"])


def fit(case: dict, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scale = case.get("scale_rule")
        return model_of(case).fit(
            start_params=case["params"], maxiter=500, tol=1e-15, tol_criterion="params", scale=scale, **kwargs
        )


def reference(case: dict) -> dict:
    result = fit(case)
    gap = np.max(np.abs(result.params / case["params"] - 1))
    if gap > 1e-9:
        raise RuntimeError(f"{case['name']}: statsmodels and R differ by {gap:.1e}")
    p = len(result.params)
    names = ["llf", "llnull", "deviance", "null_deviance", "aic", "bic_llf", "bic_deviance", "scale", "pearson_chi2"]
    out = {"name": case["name"]}
    out |= {name: float(getattr(result, name)) for name in [*names, "df_model", "df_resid"]}
    out |= {name: getattr(result, name) for name in ("params", "bse", "tvalues", "pvalues")}
    out["conf_int_95"] = result.conf_int(0.05)
    out["pseudo_rsquared"] = {kind: float(result.pseudo_rsquared(kind)) for kind in ("cs", "mcf")}
    out["residuals"] = {
        kind: np.asarray(getattr(result, f"resid_{kind}"))
        for kind in ("response", "pearson", "deviance", "working", "anscombe", "anscombe_scaled", "anscombe_unscaled")
    }
    out["influence"] = influence(result, observed=False)
    out["influence_observed"] = influence(result, observed=True)
    out["cov"] = {"nonrobust": result.cov_params()}
    out["cov"]["HC0"] = fit(case, cov_type="HC0").cov_params()
    if any(np.any(fit(case, cov_type=kind).cov_params() != out["cov"]["HC0"]) for kind in ("HC1", "HC2", "HC3")):
        raise RuntimeError("this statsmodels tells the HC kinds of a GLM apart: freeze them all")
    if "cluster" in case:
        groups = case["cluster"]["groups"]
        out["cov"] |= {
            f"cluster_{label}": fit(
                case, cov_type="cluster", cov_kwds={"groups": groups, "use_correction": flag, "df_correction": False}
            ).cov_params()
            for label, flag in (("uncorrected", False), ("corrected", True))
        }
    # Joint test that the last two coefficients are zero (the last one where there are only two).
    tested = min(2, p - 1)
    restriction = np.eye(p)[p - tested :]
    wald = result.wald_test(restriction, scalar=True, use_f=False)
    out["wald"] = {"columns_tested": tested, "statistic": float(wald.statistic), "pvalue": float(wald.pvalue)}
    out["score"] = score_tests(case, result, tested)
    out["margeff"] = margins(result)
    rows = case["X"][:4]
    table = result.get_prediction(rows, offset=None if case["offset"] is None else case["offset"][:4])
    table = table.summary_frame(alpha=0.1)
    out["prediction"] = {"X": rows, "level": 0.9} | {name: table[name].to_numpy() for name in table.columns}
    return out


def influence(result, observed: bool) -> dict | None:
    """Measures of influence with expected weights, as R, or observed ones (None where one is negative)."""
    if np.any(result.model.hessian_factor(result.params, scale=1.0, observed=observed) < 0):
        return None
    measures = result.get_influence(observed=observed)
    return {
        "hat_matrix_diag": measures.hat_matrix_diag,
        "d_params": measures.d_params,
        "cooks_distance": measures.cooks_distance[0],
        "cooks_distance_pvalues": measures.cooks_distance[1],
        "resid_studentized": measures.resid_studentized,
    }


def score_tests(case: dict, result, tested: int) -> dict:
    """The test of the same hypothesis at the restricted estimate, with expected and with observed information."""
    restricted = dict(case, X=case["X"][:, :-tested], params=None)
    null = fit(restricted)
    out = {"params_null": null.params, "columns_tested": tested}
    padded = np.concatenate([null.params, np.zeros(tested)])
    for observed in (False, True):
        # the full model's own score and information at the restricted estimate, over the restricted fit's scale
        score = result.model.score(padded, scale=null.scale)
        information = -result.model.hessian(padded, scale=null.scale, observed=observed)
        out["observed" if observed else "expected"] = float(score @ np.linalg.solve(information, score))
    method = null.model.score_test(null.params, k_constraints=tested, exog_extra=case["X"][:, -tested:], observed=False)
    out["model_score_test_expected"] = float(np.squeeze(method[0]))
    return out


def margins(result) -> dict | None:
    """Average marginal effects of every column but the intercept, by the delta method."""
    try:
        effects = result.get_margeff(at="overall", method="dydx")
    except (AttributeError, NotImplementedError, ValueError):
        return None
    return {"dydx": effects.margeff, "se": effects.margeff_se}


def main() -> None:
    by_name = {case["name"]: case for case in load("glm")}
    cases = [reference(by_name[name]) for name in CASES]
    lines = ",\n".join(json.dumps(case, default=lambda v: np.asarray(v).tolist()) for case in cases)
    path = Path(__file__).with_name("statsmodels.json.gz")
    path.write_bytes(gzip.compress(f"[\n{lines}\n]\n".replace("NaN", "null").encode(), mtime=0))
    print(f"{len(cases)} cases, statsmodels {statsmodels.__version__}")


if __name__ == "__main__":
    main()
