"""The models of statsmodels' own installed tests, fitted here and held to the results published there."""

import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.genmod.tests import test_glm as theirs

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

CLASSES = (
    "TestGaussianLog",
    "TestGaussianInverse",
    "TestGlmBinomial",
    "TestGlmBernoulli",
    "TestGlmGamma",
    "TestGlmGammaLog",
    "TestGlmGammaIdentity",
    "TestGlmPoisson",
    "TestGlmInvgauss",
    "TestGlmInvgaussLog",
    "TestGlmInvgaussIdentity",
    "TestGlmNegbinomial",
    "TestGlmPoissonOffset",
)
TESTS = [
    "test_params",
    "test_standard_errors",
    "test_aic_R",
    "test_aic_Stata",
    "test_deviance",
    "test_scale",
    "test_loglike",
    "test_null_deviance",
    "test_bic",
    "test_degrees",
    "test_fittedvalues",
    "test_tpvalues",
    "test_pearson_chi2",
    "test_prsquared",
]


def family_of(model):
    """A statsmodels model's family and link, by name, with its trials."""
    theirs, link = model.family, type(model.family.link).__name__
    options = {"link": getattr(ji.links, link)()}
    if isinstance(theirs, sm.families.NegativeBinomial):
        options["alpha"] = theirs.alpha
    if isinstance(theirs, sm.families.Binomial):
        options["trials"] = np.asarray(model.n_trials, float)
    return getattr(ji, type(theirs).__name__)(**options)


@cache
def refitted(name):
    """An instance of the test class whose ``res1`` is our fit."""
    case = getattr(theirs, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.setup_class()
    model, family = case.res1.model, family_of(case.res1.model)
    X = np.asarray(model.exog, float)
    y = np.asarray(model.endog, float) * np.asarray(model.n_trials)
    offset = np.broadcast_to(np.asarray(model._offset_exposure, float), y.shape)
    fit = ji.fit(X, y, family, offset=offset, scale=model.scaletype)
    assert ji.Status(int(fit.status)) is ji.Status.CONVERGED
    null = ji.null_model(fit, y, family=family, offset=offset)
    names = ("params", "bse", "tvalues", "pvalues", "aic", "bic_deviance", "deviance", "scale", "llf", "pearson_chi2")
    shown = {key: np.asarray(getattr(fit, key)) for key in (*names, "df_model", "nobs")}
    instance = case()
    instance.res1 = SimpleNamespace(
        **shown,
        conf_int=lambda: np.asarray(fit.conf_int()),
        null_deviance=float(null.null_deviance),
        pseudo_rsquared=null.pseudo_rsquared,
        mu=np.asarray(fit.predict(X, offset=offset)),
        fittedvalues=np.asarray(fit.predict(X, offset=offset)),
        model=SimpleNamespace(
            family=model.family,
            endog=model.endog,
            var_weights=model.var_weights,
            freq_weights=model.freq_weights,
            df_resid=float(fit.df_resid),
        ),
    )
    return instance


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("name", CLASSES)
def test_their_tests_pass_on_our_fits(name, test):
    getattr(refitted(name), test)()
