"""``ji.fit`` against statsmodels, against itself in other shapes, and against bad input."""

import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize

import jaxirls as ji
from jaxirls.engine import crew, on_cores

FAMILIES = {
    "gaussian": (ji.Gaussian(), sm.families.Gaussian()),
    "binomial": (ji.Binomial(), sm.families.Binomial()),
    "poisson": (ji.Poisson(), sm.families.Poisson()),
}
RESULTS = ["params", "bse", "tvalues", "llf", "deviance", "pearson_chi2", "scale", "aic", "df_resid", "df_model"]


def simulate(name, shape=(), n=120, p=4, seed=0):
    """Datasets of a family with an intercept, leading axes in front."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(*shape, n, p))
    X[..., 0] = 1
    eta = X @ np.linspace(-0.6, 0.7, p)
    if name == "gaussian":
        return X, eta + rng.normal(size=eta.shape)
    if name == "binomial":
        return X, rng.binomial(1, 1 / (1 + np.exp(-eta))).astype(float)
    return X, rng.poisson(np.exp(eta)).astype(float)


def tight(y, X, family, **weights):
    return sm.GLM(y, X, family=family, **weights).fit(tol=1e-14, maxiter=200)


@pytest.mark.parametrize("name", FAMILIES)
def test_random_data_agree_with_statsmodels(name):
    family, peer_family = FAMILIES[name]
    X, y = simulate(name)
    fit, peer = ji.fit(X, y, family), tight(y, X, peer_family)
    assert fit.status == ji.Status.CONVERGED
    for result in RESULTS:
        np.testing.assert_allclose(getattr(fit, result), getattr(peer, result), rtol=1e-9, err_msg=result)
    # A relative error ε of z is one of z²ε in its p-value.
    np.testing.assert_allclose(fit.pvalues, peer.pvalues, rtol=1e-9 * np.max(np.square(peer.tvalues)))
    np.testing.assert_allclose(fit.conf_int(), peer.conf_int(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fit.cov_params(), peer.cov_params(), rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(fit.predict(X[:7]), peer.predict(X[:7]), rtol=1e-10)


SM = sm.families
NOT_CANONICAL = {
    "binomial-probit": (ji.Binomial(link=ji.links.Probit()), SM.Binomial(SM.links.Probit())),
    "gamma-log": (ji.Gamma(link=ji.links.Log()), SM.Gamma(SM.links.Log())),
    "tweedie-log": (ji.Tweedie(1.5), SM.Tweedie(SM.links.Log(), var_power=1.5)),
}


@pytest.mark.parametrize("n", [60, 1000])  # as many rows of a dataset are lanes of their own
@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_with_32_bit_types_alone_links_that_are_not_canonical_agree_with_statsmodels(name, n):
    family, peer_family = NOT_CANONICAL[name]
    X, y = simulate("binomial" if "binomial" in name else "poisson", (8,), n=n)
    if name == "gamma-log":
        y = y + 0.5
    with jax.enable_x64(False):
        fit = ji.fit(X.astype(np.float32), y.astype(np.float32), family)
        assert fit.params.dtype == jnp.float32
        assert np.all(fit.status == ji.Status.CONVERGED)
        found = jax.tree.map(np.asarray, (fit.params, fit.bse, fit.deviance))
    for i in range(len(X)):
        peer = tight(y[i], X[i], peer_family)
        np.testing.assert_allclose(found[0][i], peer.params, atol=1e-3 * peer.bse.min())
        np.testing.assert_allclose(found[1][i], peer.bse, rtol=1e-4)
        np.testing.assert_allclose(found[2][i], peer.deviance, rtol=1e-5)


def real_data():
    spector = sm.datasets.spector.load_pandas()
    cancer = sm.datasets.cancer.load_pandas().data
    fair = sm.datasets.fair.load_pandas()
    copper = sm.datasets.copper.load_pandas()
    yield "spector", "binomial", spector.exog, spector.endog
    yield "fair", "binomial", fair.exog, (fair.endog > 0)
    yield "cancer", "poisson", np.log(cancer[["population"]]), cancer["cancer"]
    yield "copper", "gaussian", copper.exog, copper.endog


@pytest.mark.parametrize(
    ("label", "name", "exog", "endog"), list(real_data()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_real_data_agree_with_statsmodels(label, name, exog, endog):
    family, peer_family = FAMILIES[name]
    X = sm.add_constant(np.asarray(exog, float))
    y = np.asarray(endog, float)
    fit, peer = ji.fit(X, y, family), tight(y, X, peer_family)
    assert fit.status == ji.Status.CONVERGED
    np.testing.assert_allclose(fit.params, peer.params, rtol=1e-8)
    np.testing.assert_allclose(fit.bse, peer.bse, rtol=1e-8)
    np.testing.assert_allclose(fit.llf, peer.llf, rtol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_follows_its_inputs_and_is_near_float64(name):
    family, _ = FAMILIES[name]
    X, y = simulate(name, (50,))
    wide, narrow = ji.fit(X, y, family), ji.fit(X.astype(np.float32), y.astype(np.float32), family)
    floats = [leaf.dtype for leaf in jax.tree.leaves(narrow) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    assert (narrow.status == wide.status).all()
    off = np.abs(np.asarray(narrow.params, float) - np.asarray(wide.params)) / np.asarray(wide.bse)
    assert off.max() < 1e-3


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [3, 100, 700])
def test_a_dataset_is_fitted_to_the_same_bits_alone_and_in_a_batch(name, size):
    family, _ = FAMILIES[name]
    X, y = simulate(name, (size,), n=40, p=3)
    batch = ji.fit(X, y, family)
    assert len(batch) == size
    for i in {0, size // 2, size - 1}:
        alone = ji.fit(X[i], y[i], family)
        for here, there in zip(jax.tree.leaves(alone), jax.tree.leaves(batch[i]), strict=True):
            np.testing.assert_array_equal(here, there)


def test_leading_axes_broadcast_as_in_numpy_linalg():
    X, y = simulate("poisson", (2, 3), n=30, p=2)
    family = ji.Poisson()
    whole = ji.fit(X, y, family)
    assert whole.shape == (2, 3)
    assert whole.params.shape == (2, 3, 2)
    np.testing.assert_array_equal(whole[1, 2].params, ji.fit(X[1, 2], y[1, 2], family).params)
    design = ji.fit(X[0, 0], y, family)
    response = ji.fit(X, y[0, 0], family)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(design.params[i, j], ji.fit(X[0, 0], y[i, j], family).params, rtol=1e-10)
            np.testing.assert_allclose(response.params[i, j], ji.fit(X[i, j], y[0, 0], family).params, rtol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_vmap_gives_the_numbers_of_the_leading_axis(name):
    family, _ = FAMILIES[name]
    X, y = simulate(name, (5,), n=40, p=3)
    expected = ji.fit(X, y, family)
    mapped = jax.vmap(lambda X, y: ji.fit(X, y, family))(X, y)
    nested = jax.vmap(jax.vmap(lambda X, y: ji.fit(X, y, family)))(X[None], y[None])
    compiled = jax.jit(jax.vmap(lambda X, y: ji.fit(X, y, family)))(X, y)
    for here, a, b, c in zip(*map(jax.tree.leaves, (expected, mapped, nested, compiled)), strict=True):
        np.testing.assert_array_equal(here, a)
        np.testing.assert_array_equal(here, b[0])
        np.testing.assert_allclose(here, c, rtol=1e-12, atol=1e-13)
    shared = jax.vmap(lambda y: ji.fit(X[0], y, family))(y)
    np.testing.assert_array_equal(shared.params, ji.fit(X[0], y, family).params)


@pytest.mark.parametrize("name", FAMILIES)
def test_frequency_weights_are_repeated_rows(name):
    family, peer_family = FAMILIES[name]
    X, y = simulate(name, n=60, p=3)
    counts = np.random.default_rng(1).integers(0, 4, 60)
    weighted = ji.fit(X, y, family, freq_weights=counts)
    repeated = ji.fit(np.repeat(X, counts, 0), np.repeat(y, counts), family)
    for result in ("params", "bse", "llf", "deviance", "pearson_chi2", "scale", "df_resid", "nobs"):
        np.testing.assert_allclose(getattr(weighted, result), getattr(repeated, result), rtol=1e-9, err_msg=result)
    peer = tight(y, X, peer_family, freq_weights=counts)
    np.testing.assert_allclose(weighted.params, peer.params, rtol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_variance_weights_and_offset_agree_with_statsmodels(name):
    family, peer_family = FAMILIES[name]
    X, y = simulate(name, n=60, p=3)
    rng = np.random.default_rng(2)
    weights, offset = rng.uniform(0.5, 2, 60), rng.normal(size=60) / 3
    fit = ji.fit(X, y, family, var_weights=weights, offset=offset)
    peer = tight(y, X, peer_family, var_weights=weights, offset=offset)
    for result in ("params", "bse", "deviance", "pearson_chi2", "scale"):
        np.testing.assert_allclose(getattr(fit, result), getattr(peer, result), rtol=1e-9, err_msg=result)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_weight_zero_contribute_nothing_whatever_they_hold(name, shared):
    family, _ = FAMILIES[name]
    X, y = simulate(name, (20,), n=40, p=3)
    X = X[:1] if shared else X
    weights = np.ones(40)
    weights[-3:] = 0
    clean = ji.fit(X[:, :-3], y[:, :-3], family)
    X, y, offset = X.copy(), y.copy(), np.zeros(40)
    X[:, -3:], y[:, -3], y[:, -2], offset[-1] = np.nan, np.inf, -7, np.nan
    padded = ji.fit(X, y, family, freq_weights=weights, offset=offset)
    np.testing.assert_allclose(padded.params, clean.params, rtol=1e-10)
    np.testing.assert_allclose(padded.llf, clean.llf, rtol=1e-12)
    np.testing.assert_array_equal(padded.nobs, 37)
    assert (padded.status == ji.Status.CONVERGED).all()


def test_ridge_minimizes_the_penalized_objective():
    X, y = simulate("binomial", n=50, p=3)
    mask = np.array([0.0, 1.0, 1.0])

    def objective(beta):
        eta = X @ beta
        return np.sum(np.logaddexp(0, eta) - y * eta) + 0.5 * 3.0 * np.sum(mask * beta**2)

    reference = minimize(objective, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    fit = ji.fit(X, y, ji.Binomial(), penalty=ji.Ridge(3.0, penalize=mask))
    np.testing.assert_allclose(fit.params, reference.x, atol=1e-6)
    assert bool(fit.penalized)
    strengths = np.array([0.0, 3.0, 50.0])
    path = ji.fit(X, y, ji.Binomial(), penalty=ji.Ridge(strengths, penalize=mask))
    np.testing.assert_allclose(path.params[1], fit.params, rtol=1e-9)
    np.testing.assert_allclose(path.params[0], ji.fit(X, y, ji.Binomial()).params, rtol=1e-9)


def test_gaussian_ridge_is_its_closed_form():
    X, y = simulate("gaussian", n=30, p=4)
    expected = np.linalg.solve(X.T @ X + 2.5 * np.eye(4), X.T @ y)
    np.testing.assert_allclose(ji.fit(X, y, ji.Gaussian(), penalty=ji.Ridge(2.5)).params, expected, rtol=1e-11)
    wide = ji.fit(X[:3], y[:3], ji.Gaussian(), penalty=ji.Ridge(2.5), scale=1.0)
    np.testing.assert_allclose(
        wide.params, np.linalg.solve(X[:3].T @ X[:3] + 2.5 * np.eye(4), X[:3].T @ y[:3]), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("y", "start", "truth"),
    [((1, 1, 1, 0), -1.81, np.log(3)), ((1,) * 10 + (0,) * 5, 5.0, np.log(2)), ((1, 1, 1, 0), 20.0, np.log(3))],
)
def test_far_starts_converge(y, start, truth):
    # Marschner (2011), R Journal 3/2: R's glm reports 2.25e15 for the first; glm2 fails on the second.
    y = np.array(y, float)
    fit = ji.fit(np.ones((y.size, 1)), y, ji.Binomial(), start=np.array([start]))
    assert fit.status == ji.Status.CONVERGED
    np.testing.assert_allclose(fit.params[0], truth, rtol=1e-12)
    history = ji.trace(np.ones((y.size, 1)), y, ji.Binomial(), start=np.array([start]))
    assert (np.diff(history.deviance) <= 1e-12).all()


def test_what_is_wrong_with_a_dataset_is_its_status_and_touches_no_neighbour():
    X, y = simulate("binomial", (40,), n=30, p=3)
    clean = ji.fit(X, y, ji.Binomial())
    X, y = X.copy(), y.copy()
    X[3, 4, 1] = np.nan
    y[5, 0] = np.inf
    y[7, 2] = 3
    X[9, :, 2] = X[9, :, 1]
    X[11, :, 1] = 0
    y[13] = X[13, :, 1] > 0
    y[15] = 1
    fit = ji.fit(X, y, ji.Binomial())
    codes = {3: "INVALID_DATA", 5: "INVALID_DATA", 7: "INVALID_DATA", 9: "RANK_DEFICIENT", 11: "RANK_DEFICIENT"}
    codes |= {13: "SEPARATED", 15: "SEPARATED"}
    for i in range(40):
        assert ji.Status(int(fit.status[i])).name == codes.get(i, ji.Status(int(clean.status[i])).name), i
        if i not in codes:
            for here, there in zip(jax.tree.leaves(fit[i]), jax.tree.leaves(clean[i]), strict=True):
                np.testing.assert_array_equal(here, there)
    assert np.isnan(fit.params[3]).all()
    for i in (13, 15):
        margin = (2 * y[i] - 1) * (X[i] @ np.asarray(fit.direction[i]))
        assert margin.min() > -1e-9
        assert margin.max() > 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones(5)}, "X has shape"),
        ({"y": np.ones(9)}, "y has shape"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, "at least one row"),
        ({"X": np.ones((2, 3)), "y": np.ones(2)}, "n < p"),
        ({"X": np.array([["a"] * 2] * 10)}, "X is not a numeric array"),
        ({"y": np.ones(10, complex)}, "y has dtype complex"),
        ({"y": None}, "y is None"),
        ({"offset": np.ones(3)}, "offset has shape"),
        ({"freq_weights": np.ones(3)}, "freq_weights has shape"),
        ({"start": np.ones(3)}, "start has shape"),
        ({"X": np.ones((3, 10, 2)), "y": np.ones((4, 10))}, "do not broadcast"),
        ({"X": np.ones((0, 10, 2))}, "batch is empty"),
        ({"family": ji.Poisson}, r"write ji.Poisson\(\)"),
        ({"family": "poisson"}, "family must be"),
        ({"penalty": 1.0}, "penalty must be"),
        ({"config": {"tol": 1}}, "config must be"),
    ],
)
def test_what_is_visible_from_shapes_is_an_error_that_names_the_argument(change, message):
    arguments = {"X": np.ones((10, 2)), "y": np.ones(10), "family": ji.Poisson(), **change}
    with pytest.raises(ValueError, match=message):
        ji.fit(arguments.pop("X"), arguments.pop("y"), arguments.pop("family"), **arguments)


def test_options_are_checked_where_they_are_made():
    with pytest.raises(ValueError, match="tol"):
        ji.IRLS(tol=-1)
    with pytest.raises(ValueError, match="max_iter"):
        ji.IRLS(max_iter=0)
    with pytest.raises(TypeError, match="max_iters"):
        ji.IRLS(max_iters=5)
    with pytest.raises(ValueError, match="strength"):
        ji.Ridge(-1.0)


def test_the_second_call_compiles_nothing():
    X, y = simulate("poisson", (70,), n=25, p=2)
    ji.fit(X, y, ji.Poisson())
    assert _compilations(lambda: ji.fit(X[:, ::-1], y, ji.Poisson())) == 0


def _compilations(call) -> int:
    events = []

    def listen(event: str, duration: float, **_) -> None:
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(jax.tree.leaves(call()))
    finally:
        jax.monitoring.clear_event_listeners()
    return len(events)


@pytest.mark.usefixtures("compile_fast")
def test_constants_of_a_program_are_fitted_too():
    X, y = simulate("binomial", (3,))
    fit = ji.fit(X, y, ji.Binomial())
    program = jax.jit(lambda factor: factor * ji.fit(X, y, ji.Binomial()).params, compiler_options=on_cores.CPU_OPTIONS)
    np.testing.assert_array_equal(program(1.0), fit.params)


CPU = jax.devices("cpu")[0]


def test_where_one_core_fails_the_others_stop(monkeypatch):
    monkeypatch.setattr(crew, "cores", lambda: 3)
    begun = []

    def begin(task):
        begun.append(task)
        time.sleep(0.01)
        if task and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crew.work_through(range(100), begin, lambda task, result: None, CPU)
    assert len(begun) < 50


def test_a_failure_on_another_core_is_raised(monkeypatch):
    monkeypatch.setattr(crew, "cores", lambda: 2)

    def end(task, result):
        time.sleep(0.01)
        if threading.current_thread() is not threading.main_thread():
            raise ArithmeticError(task)

    with pytest.raises(ArithmeticError):
        crew.work_through(range(100), lambda task: None, end, CPU)


def test_cores_do_what_comes_of_their_tasks_once_and_together(monkeypatch):
    """Every task makes two of half its size: also threads that had nothing else to do take some."""
    monkeypatch.setattr(crew, "cores", lambda: 3)
    ended, waiting, workers = [], [], set()

    def end(task, result):
        assert result == -task
        time.sleep(0.004)
        ended.append(task)
        workers.add(threading.get_ident())
        waiting.extend([task // 2] * 2 if task > 1 else [])

    def more(free):
        some = waiting[:]
        del waiting[: len(some)]
        return some

    crew.work_through([1, 1, 64], lambda task: -task, end, CPU, more)
    assert not waiting
    assert sorted(ended) == sorted([1, 1] + [size for size in (64, 32, 16, 8, 4, 2, 1) for _ in range(64 // size)])
    assert len(workers) == 3


def test_no_bit_depends_on_the_cores(monkeypatch):
    """Nor on the chunks, in which first and later rounds run side by side."""
    X, y = simulate("binomial", (700,), n=12, p=2)
    y[::7] = X[::7, :, 1] > 0.5
    X[3::50, :, 1] = X[3::50, :, 0]

    def fit(count, elements):
        for module in (crew, on_cores):
            monkeypatch.setattr(module, "cores", lambda: count)
        monkeypatch.setattr(on_cores, "CHUNK_BYTES", elements)
        monkeypatch.setattr(on_cores, "REST_TILES", 1)
        monkeypatch.setattr("jaxirls.rounds.FIRST_PASSES", 5)
        return ji.fit(X, y, ji.Binomial())

    expected = fit(1, 2**25)
    assert np.isin([ji.Status.CONVERGED, ji.Status.SEPARATED, ji.Status.RANK_DEFICIENT], expected.status).all()
    for _ in range(5):
        for here, there in zip(jax.tree.leaves(fit(4, 1)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(here, there)


@pytest.mark.usefixtures("compile_fast")
def test_a_scope_of_64_bit_types_reaches_every_core():
    X, y = simulate("binomial", (64,), n=20, p=2)
    expected = ji.fit(X, y, ji.Binomial())
    jax.config.update("jax_enable_x64", False)
    try:
        with jax.enable_x64(True):
            fit = ji.fit(X, y, ji.Binomial())
    finally:
        jax.config.update("jax_enable_x64", True)
    for here, there in zip(jax.tree.leaves(fit), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(here, there)


def test_importing_changes_no_setting():
    script = "import jax; before = dict(jax.config.values); import jaxirls; assert before == dict(jax.config.values)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_fit_is_a_pytree_of_few_numbers():
    X, y = simulate("binomial", (6,), n=500, p=3)
    fit = ji.fit(X, y, ji.Binomial())
    assert sum(leaf.size for leaf in jax.tree.leaves(fit)) <= 6 * (3 * 3 + 5 * 3 + 15)
    again = jax.tree.unflatten(jax.tree.structure(fit), jax.tree.leaves(fit))
    np.testing.assert_array_equal(again.params, fit.params)
    with pytest.raises(TypeError, match="one dataset"):
        len(fit[0])
    with pytest.raises(TypeError, match="one dataset"):
        fit[0][0]


def test_summaries_say_what_happened():
    X, y = simulate("binomial", (10,), n=30, p=2)
    y[0] = X[0, :, 1] > 0
    fit = ji.fit(X, y, ji.Binomial())
    assert "SEPARATED" in fit[0].summary()
    assert ji.Status.SEPARATED.explain in " ".join(fit.summary().split())
    assert f"{float(fit.params[1, 1]):.4f}" in fit[1].summary()
    assert "Condition number" in fit[1].summary()


def test_condition_number_is_that_of_the_information():
    X, y = simulate("binomial", n=80, p=3)
    fit = ji.fit(X, y, ji.Binomial())
    mu = 1 / (1 + np.exp(-X @ np.asarray(fit.params)))
    weight = mu * (1 - mu)
    np.testing.assert_allclose(fit.condition_number, np.linalg.cond((X.T * weight) @ X), rtol=1e-9)
    np.testing.assert_allclose(fit.min_weight, weight.min(), rtol=1e-9)
    np.testing.assert_allclose(fit.information, (X.T * weight) @ X, rtol=1e-9, atol=1e-12)


def test_a_fit_is_indexed_whatever_its_family_parameters_are():
    X, y = simulate("poisson", (2,), n=30, p=2)
    for alpha in (0.5, np.array(0.5), np.array([0.5, 2.0])):
        fit = ji.fit(X, y, ji.NegativeBinomial(alpha))
        assert fit[1].family.alpha == np.broadcast_to(alpha, 2)[1]
        np.testing.assert_array_equal(fit[1].predict(X[1]), fit.predict(X)[1])
        np.testing.assert_array_equal(ji.residuals(fit[1], X[1], y[1]), ji.residuals(fit, X, y)[1])
