"""Residuals, influence and covariances against R and statsmodels, and against their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimates import data_of, digits, family_of, fit_at
from references import load
from registry import tweedie_tails
from scipy import stats

import jaxirls as ji

pytestmark = pytest.mark.usefixtures("compile_fast")

R = {case["name"]: case for case in load("glm")}
STATSMODELS = {case["name"]: case for case in load("statsmodels")}
CASES = [
    "states_gaussian_weighted",
    "birthwt_cloglog",
    "menarche_logit",
    "quine_nb_theta2",
    "chickwts_ig_inverse_squared",
    "kidney_ig_log_cluster",
]
KINDS = ("response", "pearson", "deviance", "working", "anscombe")
HC = ("nonrobust", "HC0", "HC1", "HC2", "HC3")


@pytest.mark.parametrize("name", CASES)
def test_r_and_statsmodels_give_the_same_to_ten_digits(name):
    case, family = R[name], family_of(R[name])
    clusters = case.get("cluster")

    @jax.jit
    def everything(params, scale, data):
        fit = fit_at(params, family, data, scale)
        found = {kind: ji.residuals(fit, **data, kind=kind) for kind in KINDS}
        found |= {kind: ji.covariance(fit, **data, kind=kind) for kind in HC}
        found["observed HC0"] = ji.covariance(fit, **data, kind="HC0", observed=True)
        if clusters:
            for correction in ("none", "sandwich", "statsmodels"):
                options = {"kind": "cluster", "groups": clusters["groups"], "correction": correction}
                found[correction] = ji.covariance(fit, **data, **options)
                found["observed " + correction] = ji.covariance(fit, **data, **options, observed=True)
        eta = data["X"] @ params + data.get("offset", 0.0)
        slope = family.link.inverse_deriv(eta)
        weight, score = (getattr(family.working(eta, data["y"]), part) for part in ("weight", "score"))
        found["sign"], found["exact"] = jnp.sign(slope), (weight, score)
        return found, ji.influence(fit, **data), ji.influence(fit, **data, observed=True)

    data = data_of(case)
    found, influence, observed = everything(jnp.asarray(case["params"]), jnp.float64(case["scale"]), data)

    def check(found, expected, label):
        assert digits(found, expected) > 10, f"{label}: {digits(found, expected):.1f} digits"

    for kind, expected in case["residuals"].items():
        check(found[kind], expected, kind)
    for kind, expected in case["cov_hc"].items():
        check(found[kind], expected, kind)
    check(found["nonrobust"], case["cov"], "nonrobust")
    if clusters:
        check(found["none"], clusters["HC0"], "cluster")
        check(found["sandwich"], clusters["HC0_cadjust"], "cluster, cadjust")
        check(found["statsmodels"], clusters["HC1_cadjust"], "cluster HC1, cadjust")
    check(influence.hat_matrix_diag, case["influence"]["hat"], "hat")
    check(influence.cooks_distance, case["influence"]["cooks_distance"], "Cook")
    check(influence.resid_studentized, case["influence"]["rstandard_pearson"], "studentized")
    # R puts deviance residuals in the place of Pearson's, both without the sign of dμ/dη.
    in_place = np.asarray(found["deviance"] / found["pearson"] * found["sign"])
    check(influence.d_params * in_place[:, None], case["influence"]["dfbeta_deviance"], "changes")

    peer = STATSMODELS.get(name)
    if peer is None:
        return
    check(found["anscombe"], peer["residuals"]["anscombe"], "anscombe")
    check(found["observed HC0"], peer["cov"]["HC0"], "observed HC0")
    if clusters:
        check(found["observed none"], peer["cov"]["cluster_uncorrected"], "observed cluster")
        check(found["observed statsmodels"], peer["cov"]["cluster_corrected"], "observed cluster, corrected")
    measures = ("hat_matrix_diag", "cooks_distance", "cooks_distance_pvalues", "resid_studentized")
    for label, here, there in (("", influence, peer["influence"]), ("observed ", observed, peer["influence_observed"])):
        for measure in measures if there else ():
            check(getattr(here, measure), there[measure], label + measure)
    check(influence.d_params * np.asarray(found["sign"])[:, None], peer["influence"]["d_params"], "d_params")


@pytest.mark.parametrize(
    "name",
    [
        "orthodont_gaussian_cluster",
        "infert_logit",
        "bacteria_logit_cluster",
        "epil_poisson_cluster",
        "trees_gaussian_log",
        "birthwt_cauchit",
        "birthwt_logc",
        "insects_poisson_sqrt",
        "ships_quasipoisson_offset",
        "hills_gamma_identity",
        "poisons_ig_inverse",
        "insects_nb_identity",
        "epil_tweedie12_power",
    ],
)
def test_r_gives_the_same_robust_covariances(name):
    case, family, data = R[name], family_of(R[name]), data_of(R[name])
    options = {kind: {"kind": kind} for kind in HC}
    expected = case["cov_hc"] | {"nonrobust": case["cov"]}
    if case.get("cluster"):
        names = {"none": "HC0", "sandwich": "HC0_cadjust", "statsmodels": "HC1_cadjust"}
        groups = case["cluster"]["groups"]
        options |= {rule: {"kind": "cluster", "groups": groups, "correction": rule} for rule in names}
        expected |= {rule: case["cluster"][key] for rule, key in names.items()}

    @jax.jit
    def covariances(params, scale, data):
        fit = fit_at(params, family, data, scale)
        return {label: ji.covariance(fit, **data, **asked) for label, asked in options.items()}

    for label, found in covariances(jnp.asarray(case["params"]), jnp.float64(case["scale"]), data).items():
        assert digits(found, expected[label]) > 10, f"{label}: {digits(found, expected[label]):.1f} digits"


def one_step_without(i, X, score, weight, penalty=0.0):
    """The change of the estimate in one Newton step without row i, by brute force."""
    keep = np.arange(len(X)) != i
    information = (X[keep] * weight[keep, None]).T @ X[keep] + penalty
    return -np.linalg.solve(information, X[i] * score[i])


def poisson(n=24, p=3, seed=0):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    return {"X": X, "y": rng.poisson(np.exp(X @ np.linspace(0.9, -0.4, p))).astype(float)}


def newton(X, y, penalty=None):
    """The (penalized) Poisson estimate by Newton's method in NumPy."""
    beta = np.zeros(X.shape[1])
    penalty = np.zeros((len(beta), len(beta))) if penalty is None else penalty
    for _ in range(50):
        mu = np.exp(X @ beta)
        information = (X * mu[:, None]).T @ X + penalty
        beta = beta + np.linalg.solve(information, X.T @ (y - mu) - penalty @ beta)
    return beta


def test_in_the_gaussian_family_deletion_changes_are_those_of_refits():
    rng = np.random.default_rng(2)
    X, y, weight = rng.normal(size=(15, 3)), rng.normal(size=15), rng.uniform(0.5, 2, 15)

    def estimate(keep):
        root = np.sqrt(weight[keep])
        return np.linalg.lstsq(X[keep] * root[:, None], y[keep] * root)[0]

    everything = np.ones(15, bool)
    beta = estimate(everything)
    data = {"X": X, "y": y, "var_weights": weight}
    scale = np.sum(weight * (y - X @ beta) ** 2) / 12
    found = ji.influence(fit_at(beta, ji.Gaussian(), data, scale), **data)
    moved = np.array([beta - estimate(np.arange(15) != i) for i in range(15)])
    np.testing.assert_allclose(found.d_params, moved, rtol=1e-10, atol=1e-13)
    gram = (X * weight[:, None]).T @ X
    cook = np.einsum("ip,pq,iq->i", moved, gram, moved) / (3 * scale)
    np.testing.assert_allclose(found.cooks_distance, cook, rtol=1e-10)
    np.testing.assert_allclose(np.sum(found.hat_matrix_diag), 3, rtol=1e-12)


def test_frequency_weights_are_repeated_rows_and_weight_zero_is_absence():
    data = poisson()
    rng = np.random.default_rng(1)
    counts, groups = rng.integers(0, 4, 24), rng.integers(-5, 3, 24) * 7
    beta = newton(np.repeat(data["X"], counts, 0), np.repeat(data["y"], counts))
    absent = counts == 0
    spoiled = {"X": np.where(absent[:, None], np.nan, data["X"]), "y": np.where(absent, -3.0, data["y"])}
    spoiled |= {"freq_weights": counts.astype(float), "offset": np.where(absent, np.inf, 0.0)}
    groups = np.where(absent, 999, groups)
    repeated = {key: np.repeat(value, counts, 0) for key, value in data.items()}

    @jax.jit
    def both(weighted, repeated, labels, repeated_labels):
        here, there = (fit_at(beta, ji.Poisson(), some) for some in (weighted, repeated))
        kinds = {kind: {} for kind in HC} | {"cluster": {"correction": "statsmodels"}}

        def covariances(fit, data, labels):
            given = {kind: {"groups": labels} if kind == "cluster" else {} for kind in kinds}
            return [ji.covariance(fit, **data, kind=kind, **kinds[kind], **given[kind]) for kind in kinds]

        rows = [ji.residuals(here, **weighted, kind=kind) for kind in KINDS]
        return covariances(here, weighted, labels), covariances(there, repeated, repeated_labels), rows

    spoiled_fit, repeated_fit, rows = both(spoiled, repeated, groups, np.repeat(groups, counts))
    for here, there in zip(spoiled_fit, repeated_fit, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-14)
    for residual in rows:
        np.testing.assert_array_equal(residual[absent], 0)
        assert np.isfinite(residual).all()
    influence = jax.jit(lambda data: ji.influence(fit_at(beta, ji.Poisson(), data), **data))(spoiled)
    mu = np.exp(data["X"] @ beta)
    for i in np.flatnonzero(~absent):
        change = one_step_without(i, data["X"], counts * (data["y"] - mu), counts * mu)
        np.testing.assert_allclose(-influence.d_params[i], change, rtol=1e-9, atol=1e-13)
    for leaf in influence:
        assert np.isfinite(leaf).all()
    for leaf in (influence.hat_matrix_diag, influence.resid_studentized, influence.d_params):
        np.testing.assert_array_equal(leaf[absent], 0)


def test_under_a_penalty_influence_and_sandwich_have_its_curvature():
    data, strength = poisson(), np.array([0.0, 2.0, 5.0])
    beta = newton(data["X"], data["y"], penalty=np.diag(strength))
    fit = fit_at(beta, ji.Poisson(), data)
    mu = np.exp(data["X"] @ beta)
    curvature = (data["X"] * mu[:, None]).T @ data["X"] + np.diag(strength)
    penalty = {"penalty": ji.Ridge(jnp.asarray(strength)), "penalized": jnp.asarray(True)}
    fit = dataclasses.replace(fit, root=jnp.asarray(np.linalg.cholesky(curvature).T), **penalty)
    found = ji.influence(fit, **data)
    for i in range(24):
        change = one_step_without(i, data["X"], data["y"] - mu, mu, np.diag(strength))
        # Without row i the other rows' scores and the penalty sum to minus its own score.
        np.testing.assert_allclose(-found.d_params[i], change, rtol=1e-8, atol=1e-12)
    bread = np.linalg.inv(curvature)
    scores = data["X"] * (data["y"] - mu)[:, None]
    np.testing.assert_allclose(ji.covariance(fit, **data, kind="HC0"), bread @ scores.T @ scores @ bread, rtol=1e-9)


def test_leading_axes_jit_and_vmap_give_the_numbers_of_each_dataset():
    sets = [poisson(seed=seed) for seed in range(3)]
    groups = np.random.default_rng(0).integers(0, 6, 24)
    data = {key: np.stack([one[key] for one in sets]) for key in ("X", "y")}
    betas = np.stack([newton(**one) for one in sets])

    def everything(fit, data):
        return (
            ji.influence(fit, **data),
            ji.residuals(fit, **data),
            ji.covariance(fit, **data, kind="cluster", groups=groups),
            ji.covariance(fit, **data, kind="HC3"),
        )

    def alone(beta, data):
        return everything(fit_at(beta, ji.Poisson(), data), data)

    mapped = jax.jit(jax.vmap(alone))(betas, data)
    fits = jax.jit(jax.vmap(lambda beta, data: fit_at(beta, ji.Poisson(), data)))(betas, data)
    leading = jax.jit(everything)(fits, data)
    single = jax.jit(alone)
    for i, one in enumerate(sets):
        for a, b, c in zip(*map(jax.tree.leaves, (single(betas[i], one), mapped, leading)), strict=True):
            np.testing.assert_allclose(b[i], a, rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(c[i], a, rtol=1e-10, atol=1e-13)
    # One design and one fit with many responses.
    shared = ji.residuals(fits[0], data["X"][0], data["y"], kind="response")
    np.testing.assert_allclose(shared, data["y"] - np.exp(data["X"][0] @ betas[0]), rtol=1e-9, atol=1e-12)


def test_a_dataset_without_an_estimate_is_nan_and_spoils_no_neighbour():
    sets = [poisson(seed=seed) for seed in range(2)]
    data = {key: np.stack([one[key] for one in sets]) for key in ("X", "y")}
    fits = jax.vmap(lambda beta, data: fit_at(beta, ji.Poisson(), data))(np.stack([newton(**o) for o in sets]), data)
    lost = dataclasses.replace(
        fits,
        params=jnp.asarray(fits.params).at[1].set(jnp.nan),
        root=fits.root.at[1].set(jnp.nan),
    )
    for function in (ji.influence, lambda *a: ji.covariance(*a, kind="HC2"), ji.residuals):
        found, expected = (function(some, data["X"], data["y"]) for some in (lost, fits))
        for here, there in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_array_equal(here[0], there[0])
            assert np.isnan(here[1]).all()


CONTINUOUS = {
    "gaussian": (ji.Gaussian(), lambda mu, scale: stats.norm(mu, np.sqrt(scale))),
    "gamma": (ji.Gamma(link=ji.links.Log()), lambda mu, scale: stats.gamma(1 / scale, scale=mu * scale)),
    "inverse gaussian": (
        ji.InverseGaussian(link=ji.links.Log()),
        lambda mu, scale: stats.invgauss(mu * scale, scale=1 / scale),
    ),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_quantile_residuals_of_continuous_families(name):
    family, law = CONTINUOUS[name]
    X, beta, scale = np.ones((7, 1)), np.array([0.7]), 0.3
    weight = np.array([1.0, 1, 1, 2, 2, 3, 1])
    mu = 0.7 if name == "gaussian" else np.exp(0.7)
    y = mu * np.array([0.2, 0.6, 1.0, 1.3, 0.9, 2.0, 4.0])
    data = {"X": X, "y": y, "var_weights": weight}
    found = ji.residuals(fit_at(beta, family, data, scale), **data, kind="quantile")
    below = law(mu, scale / weight)
    expected = np.where(below.cdf(y) < 0.5, stats.norm.ppf(below.cdf(y)), stats.norm.isf(below.sf(y)))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_quantile_residuals_of_discrete_families_lie_between_the_steps_and_fill_them():
    n = 400
    X, key = np.ones((n, 1)), jax.random.key(3)
    trials = np.resize([1.0, 4.0, 10.0], n)
    cases = {
        "poisson": (ji.Poisson(), np.resize([0.0, 2.0, 60.0], n), stats.poisson(np.exp(0.5)), 1.0),
        "negative binomial": (
            ji.NegativeBinomial(0.5),
            np.resize([0.0, 2.0, 9.0], n),
            stats.nbinom(2, 1 / (1 + 0.5 * np.exp(0.5))),
            1.0,
        ),
        "binomial": (
            ji.Binomial(),
            np.resize([1.0, 0.75, 0.3], n),
            stats.binom(trials, 1 / (1 + np.exp(-0.5))),
            trials,
        ),
    }
    for family, y, law, weight in cases.values():
        data = {"X": X, "y": y, "var_weights": weight * np.ones(n)}
        fit = fit_at(np.array([0.5]), family, data)
        found = np.asarray(ji.residuals(fit, **data, kind="quantile", key=key))
        count = np.round(y * weight)
        low, high = law.sf(count), law.sf(count - 1)  # the upper tails: they keep the digits of large responses
        assert ((stats.norm.sf(found) > low * (1 - 1e-9)) & (stats.norm.sf(found) < high * (1 + 1e-9))).all()
        place = (stats.norm.sf(found) - low) / (high - low)
        assert stats.kstest(place, "uniform").pvalue > 1e-3
    counts = fit_at(np.array([0.5]), ji.Binomial(), {"X": X, "y": np.round(y * trials) / trials})
    asked = {"kind": "quantile", "key": key, "family": ji.Binomial(trials=trials)}
    by_trials = ji.residuals(counts, X, np.round(y * trials), **asked)
    np.testing.assert_allclose(by_trials, found, rtol=1e-9)


def test_quantile_residuals_of_tweedie_are_drawn_at_zero():
    n, scale = 400, 1.4
    y, weight = np.resize([0.0, 0.4, 0.0, 6.0], n), np.resize([1.0, 2.0], n)
    data = {"X": np.ones((n, 1)), "y": y, "var_weights": weight}
    fit = fit_at(np.array([0.5]), ji.Tweedie(1.6), data, scale)
    found = np.asarray(jax.jit(lambda: ji.residuals(fit, **data, kind="quantile", key=jax.random.key(1)))())
    laws = [tweedie_tails(value, np.exp(0.5), scale / w, 1.6) for value, w in zip(y[:4], weight[:4], strict=True)]
    for i in (1, 3):
        at = stats.norm.ppf(laws[i][0]) if laws[i][0] < 0.5 else stats.norm.isf(laws[i][1])
        np.testing.assert_allclose(found[i::4], at, rtol=1e-9)
    drawn = stats.norm.cdf(found[::2]) / laws[0][0]
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    with pytest.raises(ValueError, match="Tweedie are randomized: give key"):
        ji.residuals(fit, **data, kind="quantile")


def test_what_cannot_be_right_is_refused_by_name():
    data = poisson()
    fit = fit_at(newton(**data), ji.Poisson(), data)
    X, y = data["X"], data["y"]
    refusals = [
        (r"kind='raw'.*response, pearson", lambda: ji.residuals(fit, X, y, kind="raw")),
        (r"randomized: give key", lambda: ji.residuals(fit, X, y, kind="quantile")),
        (r"X has 2 columns, the fit 3", lambda: ji.influence(fit, X[:, :2], y)),
        (r"y has shape \(23,\)", lambda: ji.influence(fit, X, y[1:])),
        (r"family is Binomial, the fit is of the Poisson", lambda: ji.influence(fit, X, y, family=ji.Binomial())),
        (r"fit must be the result of ji.fit", lambda: ji.influence(X, X, y)),
        (r"kind='HC4'", lambda: ji.covariance(fit, X, y, kind="HC4")),
        (r"groups go with kind='cluster'", lambda: ji.covariance(fit, X, y, kind="cluster")),
        (r"groups has dtype float64", lambda: ji.covariance(fit, X, y, kind="cluster", groups=y)),
        (r"correction='R'", lambda: ji.covariance(fit, X, y, kind="cluster", groups=y, correction="R")),
    ]
    for message, call in refusals:
        with pytest.raises(ValueError, match=message):
            call()
