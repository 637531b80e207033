"""What users give: arrays of real numbers, and numbers."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

__all__ = ["is_count", "is_number", "numeric"]


def is_number(value: Any) -> bool:
    """Whether it is a real number of Python's or NumPy's; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool))


def is_count(value: Any) -> bool:
    """Whether it is a positive integer of Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def numeric(name: str, value: ArrayLike) -> Array:
    """An array of JAX's; or of NumPy's, which the engine copies chunk by chunk as it fits them.

    Integers stay NumPy's until they are floating: JAX's may be of 32 bits, beyond which they wrap around.

    Raises:
      ValueError: for what is no array of real numbers; the message names the argument.
    """
    found = "" if isinstance(value, Array | np.ma.MaskedArray) else _host(value)
    if isinstance(found, np.ndarray):
        return found  # type: ignore[return-value]
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} is not a numeric array: got {type(value).__name__}{found} ({error}); give real numbers of up to "
            "64 bits"
        ) from None
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool) or jnp.iscomplexobj(array):
        raise ValueError(f"{name} has dtype {array.dtype}: expected real numbers")
    return array


def _host(value: ArrayLike) -> np.ndarray | str:
    """NumPy's array of what can stay on the host, or what it is instead, in words."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return ""
    native = array.dtype.newbyteorder("=")
    if array.dtype.kind in "biu" or native in (np.float32, jnp.result_type(float)):
        return array.astype(native, copy=False)
    return f" of dtype {array.dtype}"
