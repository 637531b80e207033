"""Text tables of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxirls.status import Status

if TYPE_CHECKING:
    from jaxirls.results import Fit

WIDTH = 78


def summary_of_one(fit: Fit) -> str:
    """The table a statsmodels user expects, with status, condition number and smallest weight."""
    family = fit.family
    status = Status(int(fit.status))
    facts = [
        ("Family", type(family).__name__, "Link", type(family.link).__name__),
        ("No. Observations", f"{float(fit.nobs):g}", "Df Residuals", f"{float(fit.df_resid):g}"),
        ("Log-Likelihood", f"{float(fit.llf):.6g}", "Df Model", f"{float(fit.df_model):g}"),
        ("Deviance", f"{float(fit.deviance):.6g}", "Pearson chi2", f"{float(fit.pearson_chi2):.6g}"),
        ("Scale", f"{float(fit.scale):.6g}", "AIC", f"{float(fit.aic):.6g}"),
        ("Status", status.name, "Iterations", f"{int(fit.n_iter)}"),
        ("Condition number", f"{float(fit.condition_number):.4g}", "Smallest weight", f"{float(fit.min_weight):.4g}"),
    ]
    lines = ["Generalized Linear Model, IRLS".center(WIDTH), "=" * WIDTH]
    lines += [f"{a + ':':<18}{b:>19}  {c + ':':<18}{d:>21}" for a, b, c, d in facts]
    lines += ["=" * WIDTH, f"{'':<10}{'coef':>12}{'std err':>11}{'z':>10}{'P>|z|':>9}{'[0.025':>13}{'0.975]':>13}"]
    lines += ["-" * WIDTH]
    columns = (fit.params, fit.bse, fit.tvalues, fit.pvalues, fit.conf_int()[..., 0], fit.conf_int()[..., 1])
    for j, (b, se, z, p, low, high) in enumerate(zip(*map(np.asarray, columns), strict=True)):
        lines.append(f"{f'x{j}':<10}{b:>12.4f}{se:>11.4f}{z:>10.3f}{p:>9.3f}{low:>13.4f}{high:>13.4f}")
    lines.append("=" * WIDTH)
    if bool(fit.penalized):
        lines.append("The estimate maximizes a penalized likelihood.")
    if status is not Status.CONVERGED:
        lines.append(f"{status.name}: {status.explain}")
    return "\n".join(lines)


def summary_of_batch(fit: Fit) -> str:
    """Counts by status, and quantiles over the converged fits."""
    codes = np.asarray(fit.status).ravel()
    good = codes == Status.CONVERGED
    lines = [f"{codes.size} fits, {type(fit.family).__name__}, {type(fit.family.link).__name__}", "=" * WIDTH]
    lines += [f"{s.name:<18}{np.sum(codes == s):>12}{np.mean(codes == s):>12.4%}" for s in Status if np.any(codes == s)]
    lines += ["-" * WIDTH, f"{'converged fits':<18}{'min':>12}{'25%':>12}{'median':>12}{'75%':>12}{'max':>12}"]
    params = np.asarray(fit.params).reshape(-1, fit.params.shape[-1])
    rows = [(f"x{j}", params[:, j]) for j in range(params.shape[1])]
    rows += [("deviance", np.asarray(fit.deviance).ravel()), ("n_iter", np.asarray(fit.n_iter).ravel())]
    for name, values in rows:
        if good.any():
            lines.append(
                f"{name:<18}" + "".join(f"{q:>12.4g}" for q in np.quantile(values[good], (0, 0.25, 0.5, 0.75, 1)))
            )
    lines.append("=" * WIDTH)
    lines += [f"{s.name}: {s.explain}" for s in Status if s is not Status.CONVERGED and np.any(codes == s)]
    return "\n".join(lines)
