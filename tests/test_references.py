"""``ji.fit`` on real data against R's glm. Run with -s to see the correct digits of every case."""

from itertools import groupby

import numpy as np
import pytest
from references import load

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

CASES = sorted(
    load("glm"), key=lambda case: (case["family"], case["link"], case["X"].shape[1], str(case.get("scale_rule")))
)
GROUPS = {
    "-".join(map(str, key)): list(cases)
    for key, cases in groupby(CASES, lambda case: (case["family"], case["link"], case["X"].shape[1]))
}


def digits(ours, reference) -> float:
    """Correct digits: the smallest log relative error, absolute where the reference is zero."""
    ours, reference = np.atleast_1d(np.asarray(ours, float)), np.atleast_1d(reference)
    scale = np.where(reference == 0, 1.0, np.abs(reference))
    return float(-np.log10(np.max(np.abs(ours - reference) / scale) + 1e-16))


def batch(cases):
    """Cases of one family, link and number of columns as one batch, filled up with rows of weight zero."""
    n = max(len(case["y"]) for case in cases)

    def stack(values, fill):
        return np.stack([np.pad(v, [(0, n - len(v))] + [(0, 0)] * (v.ndim - 1), constant_values=fill) for v in values])

    ones = [np.ones(len(case["y"])) for case in cases]
    given = {
        key: [one if case.get(key) is None else case[key] for case, one in zip(cases, ones, strict=True)]
        for key in ("trials", "weights")
    }
    y = stack([case["y"] * m for case, m in zip(cases, given["trials"], strict=True)], 0.5)
    first = cases[0]
    power = (first["parameters"] or {}).get("link_power")
    options = {"link": getattr(ji.links, first["link"])(*([] if power is None else [float(power)]))}
    if first["family"] == "Binomial":
        options["trials"] = stack(given["trials"], 1)
    for parameter in ("alpha", "power"):
        if parameter in (first["parameters"] or {}):
            options[parameter] = np.array([case["parameters"][parameter] for case in cases], float).reshape(-1)
    offsets = [one * 0 if case["offset"] is None else case["offset"] for case, one in zip(cases, ones, strict=True)]
    return (
        (stack([case["X"] for case in cases], np.nan), y, getattr(ji, first["family"])(**options)),
        {
            "offset": stack(offsets, 0),
            "freq_weights": stack(ones, 0),
            "var_weights": stack(given["weights"], 1),
        },
    )


def likelihood(case, fit, params):
    """The log-likelihood as R defines it: at the dispersion deviance / n, where there is one."""
    if not fit.family.has_dispersion:
        return fit.llf
    n = len(case["y"])
    ones = np.ones(n)
    weights = ones if case["weights"] is None else case["weights"]
    # R counts prior weights as frequencies in the Gamma and InverseGaussian families.
    freq, var = (ones, weights) if case["family"] == "Gaussian" else (weights, ones)
    eta = case["X"] @ np.asarray(params) + (0 if case["offset"] is None else case["offset"])
    # One length for all, so that no case compiles anything of its own.
    eta, y, var = (np.resize(values, 1000) for values in (eta, case["y"], var))
    rows = fit.family.log_likelihood(eta, y, var, np.asarray(fit.deviance / freq.sum()))
    return (freq * np.asarray(rows)[:n]).sum()


@pytest.mark.parametrize("name", GROUPS)
def test_real_data_agree_with_r(name):
    cases = GROUPS[name]
    arguments, options = batch(cases)
    fits = ji.fit(*arguments, **options)
    errors = np.asarray(fits.bse)
    for i, case in enumerate(cases):
        fit, params = fits[i], np.asarray(fits.params[i])
        assert ji.Status(int(fit.status)) is ji.Status.CONVERGED, case["name"]
        scale = case["scale"] if case.get("scale_rule") == "X2" else fit.scale
        ours = {
            "params": params,
            "bse": errors[i] * np.sqrt(scale / fit.scale),
            "deviance": fit.deviance,
            "pearson_chi2": fit.pearson_chi2,
            "df_resid": fit.df_resid,
        }
        if case.get("scale_rule") is None:
            ours["scale"] = fit.scale
        if case["llf"] is not None:
            ours["llf"] = likelihood(case, fit, params)
        found = {result: digits(value, case[result]) for result, value in ours.items()}
        print(f"{case['name']:<34}", *(f"{result} {value:4.1f}" for result, value in found.items()))
        assert min(found.values()) >= 8, case["name"]
