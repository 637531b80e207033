"""Frozen reference results of R, brglm2, statsmodels and NIST, with the scripts that made them.

    load("glm")          R: glm, MASS, sandwich, lmtest, statmod (make_glm.R)
    load("firth")        R: brglm2 (make_firth.R)
    load("statsmodels")  statsmodels (make_statsmodels.py), on cases of "glm", by name
    references.nist      NIST StRD linear regression, data and certificates

`verify.py` checks the first two against arithmetic with 40 digits, and the first against statsmodels.

Each case is a dict; numbers come as float64 arrays, missing ones as None (a whole field) or NaN (an entry).

Every case of "glm" and "firth": `name source formula family link columns X (n, p) y trials offset`, in "glm" also
`parameters weights`. `family` and `link` are jaxirls' names; `parameters` holds `alpha`, `power`, `link_power`.
Binomial `y` is a proportion of `trials` (None: 0/1). `weights` are R's prior weights, statsmodels' var_weights.

"glm": `params bse cov deviance null_deviance df_resid scale pearson_chi2 llf aic`. `scale` is 1 for Binomial, Poisson
and NegativeBinomial unless `scale_rule` is "X2"; else it is Pearson's chi2 / df_resid. `aic` counts the dispersion as a
parameter in the Gaussian, Gamma and InverseGaussian families, as R does; their `llf` is at the dispersion deviance / n
(in the latter two n is the sum of the weights, and `llf` counts them as frequencies). Where made:
- `residuals` {response pearson deviance working};
- `influence` {hat cooks_distance rstandard_deviance rstandard_pearson rstudent dfbeta_deviance}, the last R's changes
  of the coefficients, which it builds on deviance residuals;
- `cov_hc` {HC0..HC3}; `cluster` {groups, HC0 HC1 with and without _cadjust, the factor G/(G-1)};
- `tests`: a nested model's likelihood-ratio and Rao tests, both divided by the larger model's dispersion, and its Wald
  tests with the covariance of the model and with HC3;
- `profile` {level conf_int}; `prediction` {X linear linear_se mean mean_se};
- `theta theta_se alpha_se`, where alpha = 1 / theta was estimated: theta_se comes from the observed information of
  theta alone, alpha_se from it by the delta method; `cov` and `aic` take alpha as known.
`polish` is how far, relatively, the last refit from the solution moved an estimate (in "firth" too).

"firth": `penalty` is "MeanBiasReduction" (brglm2's AS_mean) or "Jeffreys" (MPL_Jeffreys); `params bse cov deviance llf
penalized_llf`, with `cov` the inverse of the expected information at the estimate; for logit with "Jeffreys" also
`profile` {level, penalized likelihood-ratio tests `lr lr_pvalue` of each coefficient, conf_int}.

"statsmodels": under statsmodels' own names; make_statsmodels.py says what differs from R by definition. `influence` has
expected weights, `influence_observed` observed ones; `score` is the score test of the last `columns_tested`
coefficients at the restricted estimate, with expected and with observed information, over the restricted fit's scale.
"""

import gzip
import json
from pathlib import Path

import numpy as np

__all__ = ["load"]

_HERE = Path(__file__).parent


def load(name: str) -> list[dict]:
    """The cases of one reference file: "glm", "firth" or "statsmodels"."""
    with gzip.open(_HERE / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return [_arrays(case) for case in json.load(file)]


def _arrays(value):
    if isinstance(value, dict):
        return {key: _arrays(item).astype(int) if key == "groups" else _arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [str(item) for item in value] if any(isinstance(item, str) for item in value) else np.array(value, float)
    return value
