"""Links against their definitions in mpmath, over the whole registry."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import statsmodels.genmod.families.links as sm_links
from registry import LINKS, etas, logs, mean_deriv, means, name, reference

from jaxirls import links

every_link = pytest.mark.parametrize("link", LINKS, ids=name)
PROBABILITY = [link for link in LINKS if link.image == (0.0, 1.0)]
TINY = float(np.finfo(np.float64).tiny)


def assert_close(got, want, rtol=1e-10):
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=TINY)


def test_registry_holds_every_link():
    assert {type(link).__name__ for link in LINKS} == set(links.LINKS)
    assert set(links.LINKS) <= set(links.__all__)


@every_link
def test_mean_and_its_derivative(link):
    eta = etas(link)
    assert_close(link.inverse(jnp.asarray(eta)), reference(lambda t: means(link, t)[0], eta))
    assert_close(link.inverse_deriv(jnp.asarray(eta)), reference(lambda t: mean_deriv(link, t), eta))


@every_link
def test_logarithm_of_mean(link):
    eta = etas(link, (0.0, None))
    assert_close(link.log_inverse(jnp.asarray(eta)), reference(lambda t: logs(link, t)[0], eta))
    assert_close(
        link.log_inverse_deriv(jnp.asarray(eta)),
        reference(lambda t: mean_deriv(link, t) / means(link, t)[0], eta),
    )
    for exponent in (-0.5, 2.0, -3.0):
        want = reference(lambda t, c=exponent: means(link, t)[0] ** c, eta)
        assert_close(link.inverse_power(jnp.asarray(eta), exponent), want)


@every_link
def test_logarithm_of_complement(link):
    eta = etas(link, (0.0, 1.0))
    # The mean of a link that is not made for probabilities has no tail: its complement is as exact as 1 - μ.
    eta = eta if link in PROBABILITY else eta[reference(lambda t: means(link, t)[0], eta) > 1e-6]
    assert_close(link.log_complement(jnp.asarray(eta)), reference(lambda t: logs(link, t)[1], eta))
    assert_close(
        link.log_complement_deriv(jnp.asarray(eta)),
        reference(lambda t: -mean_deriv(link, t) / means(link, t)[1], eta),
    )


@every_link
def test_link_inverts_inverse(link):
    eta = etas(link)
    eta = jnp.asarray(eta[np.abs(eta) <= 2.0])  # further out the format of μ holds less of η than the tolerance
    mu = link.inverse(eta)
    np.testing.assert_allclose(link(mu), eta, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(link.deriv(mu) * link.inverse_deriv(eta), jnp.ones_like(eta), rtol=1e-11)


@every_link
def test_derivatives_agree_with_automatic_differentiation_and_have_derivatives(link):
    pairs = [(link.inverse, link.inverse_deriv, (None, None))]
    pairs += [(link.log_inverse, link.log_inverse_deriv, (0.0, None))]
    pairs += [(link.log_complement, link.log_complement_deriv, (0.0, 1.0))] if link in PROBABILITY else []
    for function, derivative, mean_range in pairs:
        eta = jnp.asarray(etas(link, mean_range))
        # JAX differentiates expm1 through its value, which costs the tails their relative accuracy, hence ``atol``.
        np.testing.assert_allclose(links.slope(function, eta), derivative(eta), rtol=1e-9, atol=1e-15)
        assert np.isfinite(links.slope(derivative, eta)).all()
        gradient = jax.grad(lambda t, f=function: f(t).sum())(eta)
        np.testing.assert_allclose(gradient, derivative(eta), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("link", PROBABILITY, ids=name)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_far_tails_are_finite(link, dtype):
    # As far as the exponential of the predictor is a number; probit and Cauchy as far as its square is.
    reach = {links.Probit: 0.45, links.Cauchy: 0.95}
    largest = float(jnp.finfo(dtype).maxexp) * np.log(2.0)
    far = np.exp(reach[type(link)] * largest) if type(link) in reach else 0.99 * largest
    eta = jnp.asarray([-far, -0.1 * far, 0.1 * far, far], dtype)
    for function in (link.inverse, link.inverse_deriv, link.log_inverse, link.log_inverse_deriv):
        assert np.isfinite(function(eta)).all()
    for function in (link.log_complement, link.log_complement_deriv):
        assert np.isfinite(function(eta)).all()


def test_tails_at_reference_points():
    log_tail = float(mp.log(mp.erfc(1e4 / mp.sqrt(2)) / 2))
    assert_close(links.Probit().log_inverse(jnp.asarray(-1e4)), log_tail, 1e-14)
    assert_close(links.Probit().log_complement_deriv(jnp.asarray(1e15)), -1e15, 1e-14)
    assert_close(links.Logit().log_inverse(jnp.asarray(700.0)), -np.exp(-700.0), 1e-12)
    assert_close(links.CLogLog().log_inverse(jnp.asarray(-5000.0)), -5000.0, 1e-14)
    assert_close(links.LogLog().log_complement(jnp.asarray(5000.0)), -5000.0, 1e-14)
    assert_close(links.Cauchy().log_inverse_deriv(jnp.asarray(-1e300)), 1e-300, 1e-14)


@every_link
def test_float32(link):
    low, high = 0.05, 4.0
    eta = etas(link)
    eta = eta[(np.abs(eta) >= low) & (np.abs(eta) <= high)].astype(np.float32)
    # The conditioning of exp(-η²/2) and of exp(-e^η) at the ends of the range, and a few roundings.
    rtol = 64 * np.finfo(np.float32).eps
    names = ["inverse", "inverse_deriv"]
    names += ["log_inverse", "log_inverse_deriv"] if link.image[0] == 0.0 else []
    names += ["log_complement", "log_complement_deriv"] if link in PROBABILITY else []
    for method in names:
        got = getattr(link, method)(jnp.asarray(eta))
        assert got.dtype == jnp.float32
        want = getattr(link, method)(jnp.asarray(eta.astype(np.float64)))
        np.testing.assert_allclose(got, want, rtol=rtol, err_msg=method)
    assert link(jnp.asarray([0.25, 0.75], jnp.float32)).dtype == jnp.float32


@every_link
def test_agrees_with_statsmodels(link):
    arguments = [value for key, value in vars(link).items() if key in ("power", "alpha")]
    peer = getattr(sm_links, type(link).__name__)(*arguments)
    mu = np.array([0.08, 0.35, 0.5, 0.93])
    eta = np.asarray(link(jnp.asarray(mu)))
    np.testing.assert_allclose(eta, peer(mu), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(link.deriv(jnp.asarray(mu)), peer.deriv(mu), rtol=1e-12)
    np.testing.assert_allclose(link.inverse(jnp.asarray(eta)), peer.inverse(eta), rtol=1e-12)
    np.testing.assert_allclose(link.inverse_deriv(jnp.asarray(eta)), peer.inverse_deriv(eta), rtol=1e-12)


@pytest.mark.parametrize("make", [links.Power, links.NegativeBinomial])
def test_parameters_batch_trace_and_differentiate(make):
    values, eta = jnp.asarray([0.5, 1.5]), jnp.asarray(-0.8 if make is links.NegativeBinomial else 0.8)
    batched = jax.jit(jax.vmap(lambda value: make(value).inverse(eta)))(values)
    np.testing.assert_allclose(batched, [make(float(value)).inverse(eta) for value in values], rtol=1e-14)
    gradient = jax.grad(lambda value: make(value).log_inverse(eta))(jnp.asarray(0.5))
    want = mp.diff(lambda value: mp.log(means(with_parameter(make, value), float(eta))[0]), mp.mpf(0.5))
    np.testing.assert_allclose(gradient, float(want), rtol=1e-12)


def with_parameter(make, value):
    """A link whose parameter is an mpmath number."""
    link = object.__new__(make)
    object.__setattr__(link, "alpha" if make is links.NegativeBinomial else "power", value)
    return link


def test_impossible_parameters_are_refused():
    with pytest.raises(ValueError, match=r"power .* got 0; .* use Log\(\)"):
        links.Power(0)
    with pytest.raises(ValueError, match=r"alpha must be positive, got -1"):
        links.NegativeBinomial(-1)


def test_rebuilding_a_link_checks_nothing():
    leaves, tree = jax.tree.flatten(links.Power(2.0))
    assert leaves == [2.0]
    assert jax.tree.unflatten(tree, [0]).power == 0
    assert jax.tree.leaves(links.Identity()) == []
