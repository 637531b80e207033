"""The generator against JAX's own threefry, key by key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxirls.families.base import poisson_counts
from jaxirls.study.generator import THREEFRY, normal, uniform

SEED = np.uint32(20)
KEY = jax.random.key(SEED, impl="threefry2x32")
OWN = jax.random.key(SEED, impl=THREEFRY)


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def test_keys_are_seeded_folded_and_split_alike():
    np.testing.assert_array_equal(data(OWN), data(KEY))
    for key, own in ((KEY, OWN), (jax.random.fold_in(KEY, 7), jax.random.fold_in(OWN, 7))):
        np.testing.assert_array_equal(
            data(jax.random.fold_in(own, 2**32 - 1)), data(jax.random.fold_in(key, 2**32 - 1))
        )
        np.testing.assert_array_equal(data(jax.random.split(own, (3, 2))), data(jax.random.split(key, (3, 2))))


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_bits_are_the_same_one_key_or_many(bits):
    def drawn(keys):
        return jax.vmap(lambda key: jax.random.bits(key, (5, 3), f"uint{bits}"))(keys)

    np.testing.assert_array_equal(drawn(OWN[None]), drawn(KEY[None]))
    np.testing.assert_array_equal(jax.jit(drawn)(jax.random.split(OWN, 4)), drawn(jax.random.split(KEY, 4)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_of_many_keys_are_those_of_each(dtype):
    keys, eps = jax.random.split(KEY, 6), np.finfo(dtype).eps
    for low, high in ((0.0, 1.0), (-2.5, 0.5)):
        each = jax.vmap(lambda key, low=low, high=high: jax.random.uniform(key, (40,), dtype, low, high))(keys)
        drawn = uniform(keys, 40, dtype, low, high)
        assert drawn.dtype == dtype
        np.testing.assert_allclose(drawn, each.T, rtol=0, atol=2 * eps * max(abs(low), high))
    each = jax.vmap(lambda key: jax.random.normal(key, (40,), dtype))(keys)
    drawn = normal(keys, 40, dtype)
    assert drawn.dtype == dtype
    np.testing.assert_allclose(drawn, each.T, rtol=8 * eps)


def test_samplers_take_the_keys():
    rate = jnp.array([0.3, 4.0, 80.0])
    np.testing.assert_array_equal(jax.random.gamma(OWN, rate), jax.random.gamma(KEY, rate))
    np.testing.assert_array_equal(jax.random.binomial(OWN, 9.0, 0.3, (8,)), jax.random.binomial(KEY, 9.0, 0.3, (8,)))
    np.testing.assert_array_equal(poisson_counts(OWN, rate), jax.random.poisson(KEY, rate).astype(rate.dtype))
