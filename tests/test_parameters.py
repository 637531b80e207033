"""Parameters of families and links, one value a dataset, in whatever is computed from them; and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

X = np.column_stack([np.ones(14), np.linspace(0, 1, 14)])
Y = np.stack([np.resize([1.0, 4, 2, 7, 3], 14), np.resize([3.0, 1, 6, 2], 14)])
# Of a model with two parameters, the values for the two datasets.
MODELS = {
    "NegativeBinomial": (
        lambda alpha, power: ji.NegativeBinomial(alpha, ji.links.Power(power)),
        (np.array([0.4, 1.3]), np.array([0.5, 0.8])),
    ),
    "Tweedie": (
        lambda power, exponent: ji.Tweedie(power, ji.links.Power(exponent)),
        (np.array([1.3, 1.7]), np.array([0.5, 0.8])),
    ),
}


@jax.jit
def everything(fit, y):
    return {
        "predict": fit.predict(X),
        "get_prediction": ji.get_prediction(fit, X),
        "residuals": [ji.residuals(fit, X, y, kind=kind) for kind in ("deviance", "anscombe")],
        "influence": ji.influence(fit, X, y, observed=True),
        "covariance": ji.covariance(fit, X, y, kind="HC3"),
        "margeff": ji.margeff(fit, X),
        "score_test": ji.score_test(fit, X, y, X[:, 1:] ** 2).statistic,
        "check_information": ji.check_information(fit, X, y),
    }


def test_a_batch_of_parameters_gives_the_results_of_each():
    make, parameters = MODELS["Tweedie"]
    fits = ji.fit(X, Y, make(*parameters))
    assert fits.converged.all()
    whole = everything(fits, Y)
    for i in range(2):
        fit = ji.fit(X, Y[i], make(*(value[i] for value in parameters)))
        np.testing.assert_allclose(fits.params[i], fit.params, rtol=1e-9)
        alone = everything(fit, Y[i])
        picked = jax.tree.map(lambda leaf, i=i: leaf[i], whole)
        for result, expected in alone.items():
            pairs = zip(*map(jax.tree.leaves, (picked[result], expected)), strict=True)
            for found, value in pairs:
                np.testing.assert_allclose(found, value, rtol=1e-7, atol=1e-10, err_msg=result)
    # One axis of parameters beside another of responses: each fit knows its own.
    table = ji.fit(X, Y[:, None], make(*parameters))
    assert table.shape == (2, 2)
    np.testing.assert_allclose(table[0, 1].predict(X), table.predict(X)[0, 1], rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_fit_is_a_differentiable_function_of_the_parameters(name):
    make, parameters = MODELS[name]
    rng = np.random.default_rng(0)
    moved = tuple(jnp.asarray(rng.normal(size=2)) for _ in parameters)

    @jax.jit
    def value_and_tangent(*parameters):
        def results(*parameters):
            fit = ji.fit(X, Y, make(*parameters))
            return fit.params, fit.llf, fit.bse

        return jax.jvp(results, parameters, moved)

    given, step = tuple(map(jnp.asarray, parameters)), 1e-5
    ahead, behind = (
        value_and_tangent(*(v + sign * step * m for v, m in zip(given, moved, strict=True)))[0] for sign in (1, -1)
    )
    for tangent, a, b in zip(value_and_tangent(*given)[1], ahead, behind, strict=True):
        np.testing.assert_allclose(tangent, (a - b) / (2 * step), rtol=1e-6, atol=1e-8)


def test_trials_may_differ_by_dataset_and_row_and_are_differentiated():
    rng = np.random.default_rng(1)
    trials = rng.integers(3, 9, (2, 14)).astype(float)
    y, step, moved = np.floor(trials * rng.uniform(0.2, 0.9, (2, 14))), 1e-5, rng.normal(size=(2, 14))

    @jax.jit
    def value_and_tangent(trials):
        return jax.jvp(lambda trials: ji.fit(X, y, ji.Binomial(trials)).params, (trials,), (jnp.asarray(moved),))

    params, tangent = value_and_tangent(jnp.asarray(trials))
    for i in range(2):
        share = {"y": y[i] / trials[i], "var_weights": trials[i]}
        np.testing.assert_allclose(params[i], ji.fit(X, family=ji.Binomial(), **share).params, rtol=1e-9)
    ahead, behind = (value_and_tangent(jnp.asarray(trials + sign * step * moved))[0] for sign in (1, -1))
    np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)
