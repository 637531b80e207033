"""Tables of results: as text, and as a data frame."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxirls.status import Status

if TYPE_CHECKING:
    from jaxirls.null import NullModel
    from jaxirls.results import Fit

WIDTH = 78
QUANTILES = {"min": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1.0}


def column_names(fit: Fit, xname: Sequence[str] | None) -> list[str]:
    """The names of the coefficients, x0, x1, ... where none are given."""
    p = fit.params.shape[-1]
    if xname is None:
        return [f"x{j}" for j in range(p)]
    if isinstance(xname, str) or len(xname) != p:
        raise ValueError(f"xname={xname!r}: expected {p} names, one a coefficient")
    return list(map(str, xname))


def summary_of_one(fit: Fit, names: list[str], yname: str, alpha: float, null: NullModel | None) -> str:
    """The table of statsmodels' ``summary()``, with status, condition number and smallest weight."""
    status = Status(int(fit.status))
    left = {
        "Dep. Variable": yname,
        "Model": "GLM",
        "Model Family": type(fit.family).__name__,
        "Link Function": type(fit.family.link).__name__,
        "Method": "penalized" if bool(fit.penalized) else "maximum likelihood",
        "Covariance Type": "nonrobust",
        "No. Iterations": f"{int(fit.n_iter)}",
        "Status": status.name,
        "Condition number": "not known" if fit.root is None else f"{float(fit.condition_number):.4g}",
        "Smallest weight": f"{float(fit.min_weight):.4g}",
    }
    right = {
        "No. Observations": f"{float(fit.nobs):g}",
        "Df Residuals": f"{float(fit.df_resid):g}",
        "Df Model": f"{float(fit.df_model):g}",
        "Scale": f"{float(fit.scale):.5g}",
        "Log-Likelihood": f"{float(fit.llf):.5g}",
        "Deviance": f"{float(fit.deviance):.5g}",
        "Pearson chi2": f"{float(fit.pearson_chi2):.3g}",
        "Pseudo R-squ. (CS)": "not asked for" if null is None else f"{float(null.pseudo_rsquared('cs')):.4g}",
        "AIC": f"{float(fit.aic):.5g}",
        "BIC": f"{float(fit.bic):.5g}",
    }
    if fit.alpha_se is not None:
        left["Alpha"], right["Alpha std err"] = f"{float(vars(fit.family)['alpha']):.5g}", f"{float(fit.alpha_se):.5g}"
    pairs = zip(left.items(), right.items(), strict=True)
    lines = ["Generalized Linear Model Regression Results".center(WIDTH), "=" * WIDTH]
    lines += [f"{a + ':':<18}{b:>19}   {c + ':':<20}{d:>18}" for (a, b), (c, d) in pairs]
    low, high = f"[{alpha / 2:g}", f"{1 - alpha / 2:g}]"
    room = max(12, *(len(name) + 1 for name in names))
    lines += [
        "=" * WIDTH,
        f"{'':<{room}}{'coef':>11}{'std err':>11}{'z':>11}{'P>|z|':>9}{low:>12}{high:>12}",
        "-" * WIDTH,
    ]
    for name, b, se, z, p, low_end, high_end in zip(names, *_inference(fit, alpha).values(), strict=True):
        lines.append(
            f"{name:<{room}}{_number(b, 4):>11}{_number(se):>11}{z:>11.3f}{p:>9.3f}"
            f"{_number(low_end):>12}{_number(high_end):>12}"
        )
    lines.append("=" * WIDTH)
    if bool(fit.penalized):
        lines.append("The estimate maximizes a penalized likelihood, or solves penalized score equations.")
    if status is not Status.CONVERGED:
        lines.append(_explained(status))
    return "\n".join(lines)


def summary_of_batch(fit: Fit, names: list[str]) -> str:
    """Counts by status, and quantiles over the converged fits."""
    codes = np.asarray(fit.status).ravel()
    good = codes == Status.CONVERGED
    lines = [f"{codes.size} fits, {type(fit.family).__name__}, {type(fit.family.link).__name__}", "=" * WIDTH]
    lines += [f"{s.name:<18}{np.sum(codes == s):>12}{np.mean(codes == s):>12.4%}" for s in Status if np.any(codes == s)]
    also = ["deviance", "scale", "condition_number", "min_weight", "n_iter"]
    room = max(18, *(len(name) + 1 for name in names))
    lines += ["-" * WIDTH, f"{'converged fits':<{room}}" + "".join(f"{name:>12}" for name in QUANTILES)]
    measured: list[tuple[str, Any]] = list(zip(names, np.asarray(fit.params).reshape(-1, len(names)).T, strict=True))
    measured += [(name, getattr(fit, name)) for name in also if name != "condition_number" or fit.root is not None]
    if good.any():
        for name, values in measured:
            quantiles = np.quantile(np.asarray(values).ravel()[good], list(QUANTILES.values()))
            lines.append(f"{name:<{room}}" + "".join(f"{quantile:>12.4g}" for quantile in quantiles))
    lines.append("=" * WIDTH)
    lines += [_explained(s) for s in Status if s is not Status.CONVERGED and np.any(codes == s)]
    return "\n".join(lines)


def dataframe_of(fit: Fit, names: list[str], alpha: float) -> Any:
    """One row a dataset and coefficient, the datasets in the order of their batch index."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("to_dataframe needs pandas: pip install 'jaxirls[frames]'") from None
    p, shape = len(names), fit.shape
    axes = ["batch"] if len(shape) == 1 else [f"batch_{axis}" for axis in range(len(shape))]
    index = np.indices(shape).reshape(len(shape), math.prod(shape))
    status = np.array([Status(code).name for code in np.asarray(fit.status).ravel()])
    of_dataset = dict(zip(axes, index, strict=True))
    about = {"status": status, "converged": status == "CONVERGED", "n_iter": np.asarray(fit.n_iter).ravel()}
    return pd.DataFrame(
        {name: np.repeat(values, p) for name, values in of_dataset.items()}
        | {"coefficient": np.tile(names, status.size)}
        | {name: values.ravel() for name, values in _inference(fit, alpha).items()}
        | {name: np.repeat(values, p) for name, values in about.items()}
    )


def _inference(fit: Fit, alpha: float) -> dict[str, np.ndarray]:
    """Estimates and what is said of them, NaN where the fit holds no information."""
    params, names = np.asarray(fit.params), ("bse", "tvalue", "pvalue", "conf_low", "conf_high")
    if fit.root is None:
        return {"estimate": params} | {name: np.full_like(params, np.nan) for name in names}
    interval = np.asarray(fit.conf_int(alpha))
    values = (fit.bse, fit.tvalues, fit.pvalues, interval[..., 0], interval[..., 1])
    return {"estimate": params} | dict(zip(names, map(np.asarray, values), strict=True))


def _explained(status: Status) -> str:
    return textwrap.fill(f"{status.name}: {status.explain}", WIDTH)


def _number(value: float, digits: int = 3) -> str:
    """Fixed decimals, significant digits for the very large and very small: as statsmodels shows coefficients."""
    return f"{value:.{digits}f}" if 1e-4 <= abs(value) < 1e4 else f"{value:.{digits}g}"
