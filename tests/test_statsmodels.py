"""Every model of statsmodels' own installed tests of GLM, fitted here and held to the results published there.

Out of scope, by class: TestRegularized (elastic nets) and TestConvergence (statsmodels' own stopping rules). By test:
what asks statsmodels' model, optimizers or distributions rather than the fit (``test_compare_discrete``,
``test_compare_OLS``, ``test_compare_optimizers``, ``test_get_distribution``, ``test_summary2`` and the like), and what
passes no result to compare (``test_score_test``, ``test_get_prediction``, ``test_missing``).
"""

import warnings
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.genmod.generalized_linear_model import GLMResultsWrapper
from statsmodels.genmod.tests import test_glm, test_glm_weights

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

OUT_OF_SCOPE = {"TestRegularized", "TestConvergence"}
CLASSES = {
    name: value
    for module in (test_glm, test_glm_weights)
    for name, value in vars(module).items()
    if name.startswith("Test") and name not in OUT_OF_SCOPE
}
TESTS = (
    "test_params",
    "test_standard_errors",
    "test_bse",
    "test_basic",
    "test_residuals",
    "test_resid",
    "test_aic",
    "test_aic_R",
    "test_aic_Stata",
    "test_deviance",
    "test_scale",
    "test_loglike",
    "test_r_llf",
    "test_null_deviance",
    "test_bic",
    "test_degrees",
    "test_df",
    "test_fittedvalues",
    "test_mu",
    "test_tpvalues",
    "test_pearson_chi2",
    "test_prsquared",
    "test_score_r",
)
# statsmodels marks these as known to fail: it has no probability weights, and neither has jaxirls.
NOT_PASSED_THERE = {("TestGlmPoissonPwNr", "test_basic")}

# statsmodels reports an estimate of data that have none.
SEPARATED = {"TestBinomial0RepeatedvsAverage"}
# Rows of weight zero fill all data up to one length, so that models share their compiled programs.
ROWS = 10_000


def filled(values, n, fill=0.0):
    """The n values with ``fill`` behind them."""
    return np.pad(np.broadcast_to(np.asarray(values, float), n), (0, ROWS - n), constant_values=fill)


def family_of(model):
    """A statsmodels model's family and link, by name."""
    theirs, link = model.family, model.family.link
    parameter = {"Power": "power", "NegativeBinomial": "alpha"}.get(type(link).__name__)
    options = {"link": getattr(ji.links, type(link).__name__)(*([vars(link)[parameter]] if parameter else []))}
    if isinstance(theirs, sm.families.NegativeBinomial):
        options["alpha"] = theirs.alpha
    if isinstance(theirs, sm.families.Tweedie):
        options["power"] = theirs.var_power
    if np.any(model.n_trials != 1):
        options["trials"] = filled(model.n_trials, len(model.endog), 1.0)
    return getattr(ji, type(theirs).__name__)(**options)


class Results:
    """Our fit of the model of statsmodels' results, under the names by which their tests ask for it."""

    def __init__(self, theirs):
        model = theirs.model
        self.n, self.nobs, self.n_trials = model.exog.shape[0], theirs.nobs, model.n_trials
        self.X = np.pad(np.asarray(model.exog, float), [(0, ROWS - self.n), (0, 0)])
        self.data = {
            "y": filled(model.endog * model.n_trials, self.n),
            "offset": filled(model._offset_exposure, self.n),
            "freq_weights": filled(model.freq_weights, self.n),
            "var_weights": filled(model.var_weights, self.n, 1.0),
            "family": family_of(model),
        }
        self.fit = ji.fit(self.X, **self.data, scale=model.scaletype)
        kind = {"nonrobust": "nonrobust", "cluster": "cluster"}.get(theirs.cov_type, "HC0")
        robust = {}
        if kind == "cluster":
            robust = {"groups": np.resize(theirs.cov_kwds["groups"], ROWS), "correction": "none"}
        # With Newton's method theirs are errors of the observed information.
        robust["observed"] = theirs.method != "IRLS"
        self.test = ji.t_test(
            self.fit, np.eye(self.X.shape[1]), cov=ji.covariance(self.fit, self.X, **self.data, kind=kind, **robust)
        )
        self.bse, self.tvalues, self.pvalues = (np.asarray(part) for part in self.test[1:])
        self.normalized_cov_params = np.asarray(self.fit.cov_params() / self.fit.scale)
        self.family, self._var_weights, self._iweights = model.family, model.var_weights, model.iweights
        names = ("family", "exog", "endog", "var_weights", "freq_weights", "wnobs")
        self.model = SimpleNamespace(
            **{name: getattr(model, name) for name in names},
            df_resid=float(self.fit.df_resid),
            score_test=self.score_test,
        )

    def __getattr__(self, name):
        return np.asarray(getattr(self.fit, name))

    def conf_int(self):
        return np.asarray(self.test.conf_int())

    @cached_property
    def null(self):
        return ji.null_model(self.fit, **self.data)

    @property
    def null_deviance(self):
        return np.asarray(self.null.null_deviance)

    def pseudo_rsquared(self, kind):
        return self.null.pseudo_rsquared(kind)

    @property
    def mu(self):
        return np.asarray(self.fit.predict(self.X, offset=self.data["offset"]))[: self.n]

    fittedvalues = mu

    def residuals(self, kind):
        value = np.asarray(ji.residuals(self.fit, self.X, **self.data, kind=kind))[: self.n]
        # Theirs are the residuals of the counts: those of the proportions times the trials, twice.
        return value * np.square(self.n_trials) if kind == "working" else value

    def score_test(self, params, exog_extra):
        found = ji.score_test(self.fit, self.X, **self.data, exog_extra=filled(exog_extra, self.n)[:, None])
        return found.statistic, found.pvalue, found.df_num


for kind in ("response", "pearson", "deviance", "working", "anscombe"):
    setattr(Results, f"resid_{kind}", property(lambda self, kind=kind: self.residuals(kind)))
Results.resid_anscombe_unscaled = property(lambda self: self.resid_anscombe * np.sqrt(self.scale))


def carried_on(theirs):
    """statsmodels' own fit, carried on until its coefficients stop: its rule looks at the deviance."""
    if theirs.method != "IRLS":
        return theirs
    options = {"tol": 1e-14, "tol_criterion": "params", "maxiter": 200}
    return theirs.model.fit(start_params=theirs.params, scale=theirs.model.scaletype, **options)


@pytest.mark.parametrize("name", CLASSES)
def test_their_tests_pass_on_our_fits(name):
    case = CLASSES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.setup_class()
        if isinstance(case.res2, GLMResultsWrapper) and case.res2.cov_type == "nonrobust":
            case.res2 = carried_on(case.res2)
    instance = case()
    instance.res1 = ours = Results(case.res1)
    if name in SEPARATED:
        assert ji.Status(int(ours.fit.status)) is ji.Status.SEPARATED
        return
    assert ji.Status(int(ours.fit.status)) is ji.Status.CONVERGED
    asked = [test for test in TESTS if hasattr(instance, test) and (name, test) not in NOT_PASSED_THERE]
    assert asked
    for test in asked:
        getattr(instance, test)()
