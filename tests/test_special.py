"""Special functions against mpmath."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from registry import reference

from jaxirls.special import exp, half_deviance, log, log1p_small, log_factorial_excess, log_reflection, mills_ratio


def test_special_functions():
    x = np.concatenate([np.linspace(0, 40, 81), np.geomspace(50, 1e5, 8)])
    want = reference(lambda t: mp.erfc(mp.mpf(t) / mp.sqrt(2)) / 2 / mp.npdf(t), x)
    np.testing.assert_allclose(mills_ratio(jnp.asarray(x)), want, rtol=2e-15)
    x = np.concatenate([[0.0], np.geomspace(1e-6, 1e8, 60), np.linspace(1, 12, 23)])
    want = reference(lambda t: mp.loggamma(mp.mpf(t) + 1) - (t * mp.log(t) - t if t else 0), x)
    np.testing.assert_allclose(log_factorial_excess(jnp.asarray(x)), want, rtol=1e-14, atol=1e-14)
    x = np.concatenate([np.linspace(-0.5, 1, 151), np.geomspace(1e-300, 1, 50), -np.geomspace(1e-300, 0.5, 50)])
    for dtype in (np.float64, np.float32):
        want = reference(mp.log1p, x.astype(dtype))
        tiny = np.finfo(dtype).tiny  # below it numbers may be taken for zero
        np.testing.assert_allclose(log1p_small(jnp.asarray(x, dtype)), want, rtol=4 * np.finfo(dtype).eps, atol=tiny)
        x_log = np.concatenate(
            [np.geomspace(1e-37, 1e38, 76), 1 + np.geomspace(1e-7, 0.5, 40), 1 - np.geomspace(1e-7, 0.5, 40)]
        )
        want = reference(mp.log, x_log.astype(dtype))
        np.testing.assert_allclose(log(jnp.asarray(x_log, dtype)), want, rtol=4 * np.finfo(dtype).eps)
        part = np.concatenate([np.linspace(1e-3, 0.5, 100), np.geomspace(1e-12, 1e-3, 20)]).astype(dtype)
        want = reference(lambda t: mp.log(mp.pi * mp.mpf(t) / mp.sinpi(mp.mpf(t))), part)
        np.testing.assert_allclose(log_reflection(jnp.asarray(part)), want, rtol=4 * np.finfo(dtype).eps)
        ends = jnp.asarray([0.0, jnp.inf, -1.0, jnp.nan], dtype)
        np.testing.assert_array_equal(log(ends), [-np.inf, np.inf, np.nan, np.nan])
    np.testing.assert_allclose(log(jnp.asarray([1e-307, 1e308])), np.log([1e-307, 1e308]), rtol=1e-15)
    np.testing.assert_allclose(jax.vmap(jax.grad(log))(jnp.asarray([0.3, 7.0])), [1 / 0.3, 1 / 7], rtol=1e-15)
    # A mean that has underflowed is known by its logarithm.
    np.testing.assert_allclose(half_deviance(jnp.asarray(1.0), jnp.asarray(0.0), jnp.asarray(-800.0), 1.0), 799.0)


def test_exp():
    for dtype, low, high in ((np.float64, -708.0, 709.78), (np.float32, -87.0, 88.7)):
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.uniform(low, high, 500), rng.normal(size=500), [low, high, 0.0, 1e-300, -1e-9]])
        want = reference(mp.exp, x.astype(dtype))
        np.testing.assert_allclose(exp(jnp.asarray(x, dtype)), want, rtol=2 * np.finfo(dtype).eps)
        ends = jnp.asarray([-jnp.inf, 1.1 * low, 1.1 * high, jnp.inf, jnp.nan], dtype)
        np.testing.assert_array_equal(exp(ends), [0, 0, np.inf, np.inf, np.nan])
    x = jnp.asarray([-3.0, 0.3])
    for order in (jax.grad(exp), jax.grad(jax.grad(exp)), jax.jacfwd(exp)):
        np.testing.assert_allclose(jax.vmap(order)(x), np.exp(x), rtol=1e-15)
