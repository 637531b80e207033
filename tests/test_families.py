"""Families against their definitions in mpmath, statsmodels and scipy, over the whole registry."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import statsmodels.genmod.families.family as sm_families
import statsmodels.genmod.families.links as sm_links
from registry import (
    MODELS,
    etas,
    log_likelihood,
    logs,
    mean_deriv,
    means,
    name,
    reference,
    responses,
    tweedie_tails,
    variance,
)
from scipy import stats

from jaxirls import families, links

every_model = pytest.mark.parametrize("model", MODELS, ids=name)
TINY = float(np.finfo(np.float64).tiny)
WEIGHT, SCALE = 2.5, 0.7


def trials(model):
    return (model.trials or 1) if isinstance(model, families.Binomial) else 1


def grid(model, reach=30.0):
    """Every predictor with every response."""
    eta = etas(model.link, model.mean_range)
    eta = eta[np.abs(eta) <= reach]
    pairs = [(t, y) for t in eta for y in responses(model)]
    return tuple(np.array(column) for column in zip(*pairs, strict=True))


def evaluate(function, *columns, dtype=jnp.float64):
    """``function`` of the columns, all of one length, so that each operation is compiled once for all models."""
    n = len(columns[0])
    result = function(*(jnp.asarray(np.resize(column, 64), dtype) for column in columns))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:n], result)


def saturated(model, y):
    """log-likelihood of unit weight at μ = y, from the definition with the link out of the way."""
    m = trials(model)
    if isinstance(model, families.Binomial):
        at = families.Binomial(model.trials, links.Identity())
    else:
        at = type(model)(
            **{k: v for k, v in vars(model).items() if k != "link"},
            link=links.Identity(),
        )
    y = mp.mpf(y)
    if y in (0, m) and not isinstance(model, families.Gaussian):
        # The limit: no term of the mean is left.
        return log_likelihood(at, mp.mpf("1e-500") if y == 0 else 1 - mp.mpf("1e-500"), y)
    return log_likelihood(at, y / m, y)


def test_registry_holds_every_family():
    assert {type(model).__name__ for model in MODELS} == set(families.FAMILIES)
    assert set(families.FAMILIES) <= set(families.__all__)


def test_registry_holds_every_link_that_statsmodels_allows_in_a_family():
    allowed = {
        (family, link)
        for family in families.FAMILIES
        for link in links.LINKS
        if issubclass(getattr(sm_links, link), tuple(getattr(sm_families, family).links))
    }
    assert len(allowed) > 30
    assert allowed <= {(type(model).__name__, type(model.link).__name__) for model in MODELS}


@every_model
def test_working_quantities(model):
    eta, y = grid(model)
    work = evaluate(model.working, eta, y)
    m = trials(model)

    def row(t, y):
        mu, rest = means(model.link, t)
        slope, v = mean_deriv(model.link, t), variance(model, mu, rest)
        away = y - m * mu if y != m or m * mu < 0.5 else m * rest
        return away * slope / v, m * slope**2 / v, away**2 / (m * v)

    np.testing.assert_allclose(work.score, reference(lambda t, y: row(t, y)[0], eta, y), rtol=1e-10, atol=TINY)
    np.testing.assert_allclose(work.weight, reference(lambda t, y: row(t, y)[1], eta, y), rtol=1e-10, atol=TINY)
    chi2 = reference(lambda t, y: row(t, y)[2], eta, y)
    found = evaluate(lambda eta, y: model.pearson_chi2(eta, y, model.working(eta, y)), eta, y)
    normal = (np.abs(work.score) > TINY) & (work.weight > TINY)
    np.testing.assert_allclose(found[normal], chi2[normal], rtol=1e-9)

    # The loss is the negative log-likelihood up to a constant of the response.
    loss = np.asarray(work.loss).reshape(-1, len(responses(model)))
    want = -reference(lambda t, y: log_likelihood(model, t, y), eta, y).reshape(loss.shape)
    size = np.abs(loss) + np.abs(loss[:1]) + np.abs(want) + np.abs(want[:1])
    assert (np.abs((loss - loss[:1]) - (want - want[:1])) <= 1e-10 * size).all()


@every_model
def test_log_likelihood(model):
    eta, y = grid(model)
    for weight, scale in ((1.0, 1.0), (WEIGHT, SCALE)):
        got = evaluate(lambda t, y, w=weight, s=scale: model.log_likelihood(t, y, w, s), eta, y)
        want = reference(lambda t, y, w=weight, s=scale: log_likelihood(model, t, y, w, s), eta, y)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)


@every_model
def test_unit_deviance(model):
    eta, y = grid(model)
    got = evaluate(model.unit_deviance, eta, y)
    limits = {float(v): saturated(model, v) for v in responses(model)}
    want = reference(lambda t, y: 2 * (limits[y] - log_likelihood(model, t, y)), eta, y)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=TINY)
    assert (got >= 0).all()


def test_observed_information_is_the_expected_one_under_the_canonical_link():
    canonical_models = [model for model in MODELS if model.is_canonical]
    assert {type(model).__name__ for model in canonical_models} == set(families.FAMILIES) - {
        "NegativeBinomial",
        "Tweedie",
    }
    for model in canonical_models:
        eta, y = grid(model, reach=10.0)
        observed = evaluate(model.observed_information, eta, y)
        np.testing.assert_allclose(observed, evaluate(model.working, eta, y).weight, rtol=1e-10)


@every_model
@pytest.mark.parametrize("distance", [1e-2, 1e-5])
def test_unit_deviance_does_not_cancel_near_saturation(model, distance):
    eta, _ = grid(model, reach=3.5)
    eta = np.unique(eta)
    y = trials(model) * reference(lambda t: means(model.link, t)[0], eta) * (1 + distance)
    valid = np.asarray(model.valid_response(jnp.asarray(y))) & (y != 0)
    eta, y = eta[valid], y[valid]
    got = evaluate(model.unit_deviance, eta, y)
    want = reference(lambda t, y: 2 * (saturated(model, y) - log_likelihood(model, t, y)), eta, y)
    # The deviance is quadratic in a distance that rounding of the mean moves by a few eps.
    np.testing.assert_allclose(got, want, rtol=100 * np.finfo(float).eps / distance, atol=TINY)


@every_model
def test_derivatives_of_the_log_likelihood(model):
    eta, y = grid(model, reach=10.0)

    def derivatives(eta, y):
        mean = trials(model) * model.mean(eta)
        return (
            links.slope(lambda t: model.log_likelihood(t, y), eta),
            -jax.grad(lambda t: model.working(t, y).loss.sum())(eta),
            # The score is linear in y, so the expected information is the observed one at y = μ.
            -links.slope(lambda t: model.working(t, mean).score, eta),
            links.slope(lambda t: model.working(t, y).weight, eta),
        )

    slope, gradient, information, third = evaluate(derivatives, eta, y)
    work = evaluate(model.working, eta, y)
    size = np.abs(work.score) + np.abs(evaluate(model.working, eta, np.zeros_like(y)).score)
    assert (np.abs(slope - work.score) <= 1e-9 * size + 1e-13).all()
    assert (np.abs(gradient - work.score) <= 1e-9 * size + 1e-13).all()
    np.testing.assert_allclose(information, work.weight, rtol=1e-7, atol=1e-13)
    assert np.isfinite(third).all()


# With a tiny alpha it is statsmodels that cancels.
@pytest.mark.parametrize("model", [model for model in MODELS if getattr(model, "alpha", None) != 1e-8], ids=name)
def test_agrees_with_statsmodels(model):
    peer_class = getattr(sm_families, type(model).__name__)
    link_class = getattr(sm_links, type(model.link).__name__)
    link = link_class(*[v for k, v in vars(model.link).items() if k in ("power", "alpha")])
    renamed = {"alpha": "alpha", "power": "var_power"}
    peer = peer_class(link, **{renamed[k]: v for k, v in vars(model).items() if k in renamed})
    peer.n = trials(model)
    mu, y = np.array([0.15, 0.4, 0.8]), responses(model)[-2] * np.array([0.5, 0.9, 1.0])
    eta = link(mu)
    share = y / trials(model)
    arrays = jnp.asarray(eta), jnp.asarray(y)

    np.testing.assert_allclose(model.mean(arrays[0]), mu, rtol=1e-12)
    np.testing.assert_allclose(model.variance(jnp.asarray(mu)), peer.variance(mu), rtol=1e-12)
    np.testing.assert_allclose(model.working(*arrays).weight, trials(model) * peer.weights(mu), rtol=1e-12)
    deviance = peer.resid_dev(share, mu) ** 2
    np.testing.assert_allclose(model.unit_deviance(*arrays), deviance, rtol=1e-9, atol=1e-15)
    pearson = np.sqrt(trials(model)) * (share - mu) / np.sqrt(peer.variance(mu))
    np.testing.assert_allclose(model.pearson_residual(*arrays), pearson, rtol=1e-11, atol=1e-15)
    anscombe = peer.resid_anscombe(share, mu)
    np.testing.assert_allclose(model.anscombe_residual(*arrays), anscombe, rtol=1e-6, atol=1e-13)
    if not (isinstance(model, families.Tweedie) and model.power > 2):  # there statsmodels has no likelihood
        want = peer.loglike_obs(share, mu, WEIGHT, SCALE)
        np.testing.assert_allclose(model.log_likelihood(*arrays, WEIGHT, SCALE), want, rtol=1e-8)
    if not isinstance(model, families.Binomial):  # which starts nearer to the average response
        start = model.starting_mean(arrays[1], arrays[1].mean())
        inside = peer.starting_mu(y) < (model.link.image[1] or np.inf)
        np.testing.assert_allclose(start[inside], peer.starting_mu(y)[inside], rtol=1e-14)


@every_model
def test_float32_keeps_its_type_and_accuracy(model):
    eta, y = (column.astype(np.float32) for column in grid(model, reach=6.0))

    def everything(eta, y):
        mu = model.mean(eta)
        return {
            "work": model.working(eta, y),
            "deviance": model.unit_deviance(eta, y),
            "log_likelihood": model.log_likelihood(eta, y, WEIGHT, SCALE),
            "rest": (mu, model.variance(mu), model.pearson_residual(eta, y), model.anscombe_residual(eta, y)),
            "start": model.starting_predictor(y, y.mean()),
        }

    got, want = evaluate(everything, eta, y, dtype=jnp.float32), evaluate(everything, eta, y)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float32"}
    assert np.isfinite(got["start"]).all()

    # The conditioning of exp(-η²/2) and exp(-e^η) grows to e⁶ at the end of the range.
    rtol = 512 * float(np.finfo(np.float32).eps)
    size = np.abs(want["work"].score) + np.abs(evaluate(model.working, eta, np.zeros_like(y)).score)
    assert (np.abs(got["work"].score - want["work"].score) <= rtol * size + 1e-37).all()
    np.testing.assert_allclose(got["work"].weight, want["work"].weight, rtol=rtol, atol=1e-37)
    np.testing.assert_allclose(got["deviance"], want["deviance"], rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(got["log_likelihood"], want["log_likelihood"], rtol=rtol, atol=1e-5)


@every_model
def test_starting_predictor_is_valid(model):
    for y in (responses(model), responses(model)[:1].repeat(3)):
        y = jnp.asarray(y)
        assert model.valid_response(y).all()
        assert model.valid_predictor(model.starting_predictor(y, y.mean())).all()


def canonical(kind):
    return [
        model for model in MODELS if type(model).__name__ in kind and isinstance(model.link, links.Log | links.Logit)
    ]


def test_binary_responses_start_from_the_weights_of_scoring():
    y, average = np.array([0.0, 1.0, 0.25]), jnp.array([0.1])
    for link in (links.Logit(), links.Probit(), links.CLogLog(), links.Log()):
        model = families.Binomial(link=link)
        got = np.array(model.starting_regression(y, model.starting_values(average)))
        mean = 0.5 * (y + 0.98 * average + 0.01)
        slope = 1 / jax.vmap(jax.grad(link))(mean)
        weight = slope**2 / (mean * (1 - mean))
        want = np.array([weight, weight * (link(mean) + (y - mean) / slope)])
        np.testing.assert_allclose(got[:, :2], want[:, :2], rtol=1e-10)
        np.testing.assert_allclose(got[:, 2], got[:, :2] @ [0.75, 0.25], rtol=1e-12)


@pytest.mark.parametrize("model", canonical(set(families.FAMILIES)), ids=name)
@pytest.mark.parametrize("dispersion", [(1.0, 1.0), (1.2, 2.0)])
def test_sampler_moments(model, dispersion):
    scale, weight = dispersion
    if isinstance(model, families.Binomial):
        scale = 1.0
    mu = jnp.asarray([0.7, 0.2]) if isinstance(model, families.Binomial) else jnp.asarray([0.7, 6.0])
    n = 10_000
    if isinstance(model, families.Tweedie) and model.power not in (1, 2, 3) and model.power > 2:
        pytest.skip("no sampler")
    draws = np.asarray(model.sample(jax.random.key(0), jnp.tile(mu, (n, 1)), scale, weight))
    m = trials(model)
    variance = np.asarray(model.variance(mu)) * m * scale / weight
    centred = draws - m * np.asarray(mu)
    assert (np.abs(centred.mean(0)) < 5 * np.sqrt(variance / n)).all()
    error = np.sqrt(np.maximum((centred**4).mean(0) - variance**2, variance**2) / n)
    assert (np.abs((centred**2).mean(0) - variance) < 5 * error).all()
    assert np.asarray(model.valid_response(jnp.asarray(draws))).all()


def peer_distribution(model, mu, scale):
    match model:
        case families.Gaussian():
            return stats.norm(mu, np.sqrt(scale))
        case families.Binomial():
            return stats.binom(trials(model), mu)
        case families.Poisson():
            return stats.poisson(mu)
        case families.Gamma():
            return stats.gamma(1 / scale, scale=mu * scale)
        case families.InverseGaussian():
            return stats.invgauss(mu * scale, scale=1 / scale)
    return stats.nbinom(1 / model.alpha, 1 / (1 + model.alpha * mu))


@pytest.mark.parametrize(
    "model",
    [
        families.Gaussian(),
        families.Binomial(),
        families.Binomial(7),
        families.Poisson(),
        families.Gamma(),
        families.InverseGaussian(),
        families.NegativeBinomial(0.7),
    ],
    ids=name,
)
def test_distribution_function(model):
    mu = np.array([0.3, 0.6, 0.9])
    y = np.array([-1.0, 0.0, 0.4, 1.0, 3.0, 8.0])
    for scale in (1.0,) if not model.has_dispersion else (0.1, 0.6):
        got = model.cdf(jnp.asarray(y)[:, None], jnp.asarray(mu)[None], scale)
        peer = peer_distribution(model, mu, scale)
        np.testing.assert_allclose(got, peer.cdf(y[:, None]), rtol=1e-9, atol=1e-14)
        above = model.survival(jnp.asarray(y)[:, None], jnp.asarray(mu)[None], scale)
        np.testing.assert_allclose(above, peer.sf(y[:, None]), rtol=1e-9, atol=1e-200)
    assert model.cdf(jnp.float32(0.5), jnp.float32(0.6)).dtype == jnp.float32


def test_tweedie_distribution_function():
    grid = [(1.3, 0.005), (1.3, 0.6), (20.0, 4.0)]
    ratios = (0.0, 0.01, 0.4, 0.97, 1.02, 1.8, 6.0)
    points = [(r * mu, mu, scale, p) for p in (1.03, 1.2, 1.5, 1.9) for mu, scale in grid for r in ratios]
    expected = [tweedie_tails(*point) for point in points]
    limits = {1.0: families.Poisson(), 2.0: families.Gamma(), 3.0: families.InverseGaussian()}
    for power, family in limits.items():
        law = peer_distribution(family, 1.3, 1.0)
        y = np.array([0.0, 1.0, 2.0, 5.0])
        points += [(t, 1.3, 1.0, power) for t in y]
        expected += list(zip(law.cdf(y), law.sf(y), strict=True))
    y, mu, scale, power = (jnp.asarray(column) for column in zip(*points, strict=True))
    model = families.Tweedie(power)
    below, above = jax.jit(lambda: (model.cdf(y, mu, scale), model.survival(y, mu, scale)))()
    np.testing.assert_allclose(below, [pair[0] for pair in expected], rtol=1e-10)
    np.testing.assert_allclose(above, [pair[1] for pair in expected], rtol=1e-10, atol=1e-290)


def test_tweedie_power_and_dispersion_differentiate():
    eta, power, scale = 0.3, 1.6, 0.8
    responses = jnp.asarray([0.0, 0.4, 25.0])

    def got(p, s):
        return families.Tweedie(p).log_likelihood(jnp.full_like(responses, eta), responses, 1.0, s)

    def want(y, p, s):
        model = object.__new__(families.Tweedie)
        object.__setattr__(model, "power", p)
        object.__setattr__(model, "link", links.Log())
        return log_likelihood(model, eta, y, 1.0, s)

    in_power, in_scale = jax.jit(jax.jacrev(got, (0, 1)))(jnp.asarray(power), jnp.asarray(scale))
    for i, y in enumerate(map(float, responses)):
        np.testing.assert_allclose(in_power[i], float(mp.diff(lambda p, y=y: want(y, p, scale), power)), rtol=1e-9)
        np.testing.assert_allclose(in_scale[i], float(mp.diff(lambda s, y=y: want(y, power, s), scale)), rtol=1e-9)


def test_tweedie_density_from_sparse_to_dense_series():
    model = families.Tweedie(jnp.asarray([[1.01, 1.3, 1.5, 1.7, 1.99]]))
    y, eta = jnp.asarray([0.1, 2.0, 30.0]), jnp.zeros((3, 5))
    for scale in (0.004, 0.3, 3.0):
        got = model.log_likelihood(eta, y[:, None] + eta, 1.0, scale)
        for j, power in enumerate((1.01, 1.3, 1.5, 1.7, 1.99)):
            want = reference(lambda v, p=power, s=scale: log_likelihood(families.Tweedie(p), 0.0, v, 1.0, s), y)
            np.testing.assert_allclose(got[:, j], want, rtol=1e-10, atol=1e-11)


def test_negative_binomial_differentiates_in_alpha_and_tends_to_poisson():
    eta, y = jnp.asarray([0.3, 2.0, 2.0]), jnp.asarray([0.0, 1.0, 23.0])
    got = jax.jit(jax.jacrev(lambda a, t, y: families.NegativeBinomial(a).log_likelihood(t, y)))
    for alpha in (1e-3, 0.5, 20.0):
        want = [
            mp.diff(lambda a, t=t, v=v: nb_log_likelihood(a, mp.exp(t), v), mp.mpf(alpha))
            for t, v in zip(map(float, eta), map(float, y), strict=True)
        ]
        np.testing.assert_allclose(got(jnp.asarray(alpha), eta, y), [float(w) for w in want], rtol=1e-8)
    limit = families.NegativeBinomial(1e-14).log_likelihood(eta, y)
    np.testing.assert_allclose(limit, families.Poisson().log_likelihood(eta, y), rtol=1e-11)


def nb_log_likelihood(a, mu, y):
    constant = mp.loggamma(y + 1 / a) - mp.loggamma(1 / a) - mp.loggamma(y + 1)
    return constant + y * mp.log(a * mu) - (y + 1 / a) * mp.log1p(a * mu)


@pytest.mark.parametrize("model", canonical(set(families.FAMILIES)), ids=name)
def test_one_response_broadcasts_against_many_predictors_and_scales(model):
    eta, y, scale = jnp.asarray([-1.0, 0.1, 0.4]), jnp.asarray(responses(model)[1:2]), jnp.asarray([0.3, 1.0, 2.0])
    wide = y + jnp.zeros_like(eta)
    for function in (
        lambda y: model.log_likelihood(eta, y, 1.0, scale),
        lambda y: model.unit_deviance(eta, y),
        lambda y: model.pearson_residual(eta, y),
        lambda y: model.anscombe_residual(eta, y),
        lambda y: model.working(eta, y).loss,
    ):
        np.testing.assert_allclose(function(y), function(wide), rtol=1e-14)


def test_parameters_batch_like_arrays():
    alphas, eta, y = jnp.asarray([[0.2], [3.0]]), jnp.asarray([[0.1, 1.0, 2.0]]), jnp.asarray([[0.0, 2.0, 9.0]])
    batched = families.NegativeBinomial(alphas).working(eta, y)
    mapped = jax.vmap(lambda f: f.working(eta[0], y[0]))(families.NegativeBinomial(alphas[:, 0]))
    for got, want in zip(jax.tree.leaves(batched), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14)
    sizes = jnp.asarray([[1.0, 3.0, 9.0]])
    rows = families.Binomial(sizes).unit_deviance(eta, jnp.asarray([[0.0, 3.0, 4.0]]))
    single = [
        families.Binomial(m).unit_deviance(t, v) for m, t, v in zip((1, 3, 9), eta[0], [0.0, 3.0, 4.0], strict=True)
    ]
    np.testing.assert_allclose(rows[0], single, rtol=1e-14)
    powers = families.Tweedie(jnp.asarray([[1.0, 1.5, 2.0, 3.0]])).working(eta[:, :1], y[:, 1:2])
    fixed = [families.Tweedie(p).working(eta[0, 0], y[0, 1]).score for p in (1, 1.5, 2, 3)]
    np.testing.assert_allclose(powers.score[0], fixed, rtol=1e-13)


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        # The logarithm of a logistic loss is left to the pass, one for many rows.
        (families.Binomial(), {"exponential": 1, "log-plus-one": 0, "divide": 1, "log": 0}),
        (families.Poisson(), {"exponential": 1, "log-plus-one": 0, "divide": 0, "log": 0}),
        (families.NegativeBinomial(0.5), {"exponential": 1, "log-plus-one": 0, "divide": 2, "log": 0}),
    ],
    ids=lambda value: name(value) if isinstance(value, families.Family) else "",
)
def test_a_pass_costs_few_transcendentals(model, counts):
    def compiled(dtype):
        rows = jax.ShapeDtypeStruct((4096,), dtype)
        return jax.jit(model.working).lower(rows, rows).compile().as_text()

    text = compiled(jnp.float32)
    for operation, count in counts.items():
        assert text.count(f" {operation}(") == count, operation
    # An exponential of doubles is arithmetic with one shift of bits, or, before JAX 0.12, one of XLA's.
    text = compiled(jnp.float64)
    assert text.count(" shift-left(") + text.count(" exponential(") == counts["exponential"]
    assert text.count(" divide(") == counts["divide"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_proportions_lose_no_digits_at_saturation(dtype):
    part = np.concatenate([np.geomspace(1e-12, 1e-2, 20), np.linspace(0.02, 0.98, 49), 1 - np.geomspace(1e-2, 1e-5, 9)])
    part = part.astype(dtype)

    def exact(y):
        y = mp.mpf(float(y))
        return y * mp.log(y) + (1 - y) * mp.log1p(-y) - mp.loggamma(1 + y) - mp.loggamma(2 - y)

    found = families.Binomial().log_saturated(jnp.asarray(part), jnp.ones((), dtype))
    np.testing.assert_allclose(found, reference(exact, part), rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: families.NegativeBinomial(0), r"alpha must be positive, got 0; .* use Poisson\(\)"),
        (lambda: families.NegativeBinomial(float("nan")), "alpha must be positive, got nan"),
        (lambda: families.Tweedie(0.5), r"power must be at least 1, got 0.5; .* Gaussian\(\)"),
        (lambda: families.Binomial(trials=0), "trials must be positive, got 0"),
        (lambda: families.Poisson(links.Log), r"link must be an instance of a link, got Log; write"),
        (lambda: families.Gamma("log"), r"link must be an instance of a link, got 'log'"),
        (lambda: families.NegativeBinomial().working(jnp.zeros(1), jnp.zeros(1)), "alpha is None"),
        (lambda: families.Tweedie(2.5).sample(jax.random.key(0), jnp.ones(1)), "power must lie between 1 and 2"),
    ],
)
def test_impossible_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pytrees():
    assert jax.tree.leaves(families.Binomial(trials=1)) == []
    assert jax.tree.leaves(families.NegativeBinomial(0.3, links.Power(2.0))) == [0.3, 2.0]
    assert jax.tree.map(lambda _: 0, families.NegativeBinomial(0.3)).alpha == 0
    assert isinstance(families.Gamma().link, links.InversePower)


def test_valid_responses():
    y = jnp.asarray([-1.0, 0.0, 0.5, 7.5, jnp.nan, jnp.inf])
    assert families.Binomial(7).valid_response(y).tolist() == [False, True, True, False, False, False]
    assert families.Poisson().valid_response(y).tolist() == [False, True, True, True, False, False]
    assert families.Gamma().valid_response(y).tolist() == [False, False, True, True, False, False]
    assert families.Tweedie(1.5).valid_response(y).tolist() == [False, True, True, True, False, False]
    assert families.Tweedie(2.5).valid_response(y).tolist() == [False, False, True, True, False, False]
    assert families.Gaussian().valid_response(y).tolist() == [True, True, True, True, False, False]


@every_model
def test_logarithms_exist_where_the_model_needs_them(model):
    if not isinstance(model, families.Gaussian):
        eta, _ = grid(model)
        assert all(logs(model.link, t)[0] is not None for t in eta)
