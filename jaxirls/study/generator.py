"""The random numbers of JAX's threefry2x32, for many keys at once, as arithmetic that XLA fuses with their use.

JAX's own cipher is a call, or a loop of its own over arrays, and the numbers of many keys come out batch first: they
take several times as long on a CPU.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.random import define_prng_impl
from jax.typing import DTypeLike

__all__ = ["THREEFRY", "normal", "uniform"]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def uniform(keys: Array, count: int, dtype: DTypeLike, low: float = 0.0, high: float = 1.0) -> Array:
    """What ``jax.random.uniform(key, (count,), dtype, low, high)`` draws, for T keys, ``(count, T)``."""
    kind = jnp.finfo(dtype)
    bits = _numbers(threefry2x32(jax.random.key_data(keys).T[:, None], _places((count, 1))), kind.bits)
    # The mantissa of a number in [1, 2).
    one = np.ones((), dtype).view(bits.dtype)
    unit = lax.bitcast_convert_type(bits >> bits.dtype.type(kind.bits - kind.nmant) | one, dtype) - 1
    least, most = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    return jnp.maximum(least, unit * (most - least) + least)


def normal(keys: Array, count: int, dtype: DTypeLike) -> Array:
    """What ``jax.random.normal(key, (count,), dtype)`` draws, for T keys, ``(count, T)``."""
    inside = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
    return jnp.asarray(math.sqrt(2), dtype) * lax.erf_inv(uniform(keys, count, dtype, float(inside), 1.0))


def threefry2x32(key: Array, place: Array) -> tuple[Array, Array]:
    """20 rounds of the block cipher Threefry on two words of 32 bits, of which the first is zero: numbers of a key.

    ``key`` has its two words in front; the rest of its shape and that of ``place`` broadcast.

    Source: Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    words = key[0], key[1], key[0] ^ key[1] ^ PARITY
    first, second = words[0], place + words[1]
    for block in range(5):
        for distance in ROTATIONS[block % 2]:
            first = first + second
            second = first ^ (second << np.uint32(distance) | second >> np.uint32(32 - distance))
        first = first + words[(block + 1) % 3]
        second = second + words[(block + 2) % 3] + np.uint32(block + 1)
    return first, second


def _numbers(words: tuple[Array, Array], bits: int) -> Array:
    """One of so many bits of every two words."""
    first, second = words
    if bits == 64:
        return first.astype(jnp.uint64) << np.uint64(32) | second.astype(jnp.uint64)
    return (first ^ second).astype(f"uint{bits}")


def _places(shape: tuple[int, ...]) -> Array:
    return lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)


def _seed(seed: Array | int) -> Array:
    return jnp.stack([jnp.uint32(0), jnp.asarray(seed).astype(jnp.uint32)])


def _fold_in(key: Array, data: Array | int) -> Array:
    return jnp.stack(threefry2x32(key, jnp.asarray(data).astype(jnp.uint32)))


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(threefry2x32(key, _places(shape)), axis=-1)


def _random_bits(key: Array, bits: int, shape: tuple[int, ...]) -> Array:
    # The barrier keeps XLA from drawing again for every term of what is made of a number.
    return lax.optimization_barrier(_numbers(threefry2x32(key, _places(shape)), bits))


# For the functions of ``jax.random``: a key of one dataset, which a family draws a response by.
THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32 in line",
    tag="fry",
)
