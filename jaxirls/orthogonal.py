r"""Orthonormal bases of the columns of many matrices at once: QR by Gram-Schmidt done twice, lanes last.

Every sum runs in one fixed order, so that no lane's result depends on how many lanes there are. A column that the ones
before it span up to rounding becomes a zero column of Q: ranks are decided in the order of the columns, as in R, and
whatever the units of the columns.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.folds import folded, total
from jaxirls.trees import varying


class Basis(NamedTuple):
    """A = QR and Q = AM, for A ``(n, p, T)``; R is upper triangular, and row j of it zero where column j is spanned."""

    q: Array  # (n, p, T), columns orthonormal or zero
    r: Array  # (p, p, T)
    m: Array  # (p, p, T)


@jax.jit  # once in a program, as in ``special``
def orthonormalize(a: Array) -> Basis:
    """Gram-Schmidt done twice, which is enough: Giraud, Langou & Rozložník (2005), Comput. Math. Appl. 50, 1069-1075.

    Column j is spanned if what is left of it, aⱼ - Σ mₖaₖ, is within the rounding of its terms.
    """
    p, lanes = a.shape[1:]
    noise = 8 * p * float(jnp.finfo(a.dtype).eps) * length(a)
    columns = jnp.arange(p)[:, None]

    def column(j: Array, carry: Basis) -> Basis:
        q, r, m = carry
        v, own = a[:, j], jnp.broadcast_to(columns == j, (p, lanes)).astype(a.dtype)
        share = jnp.zeros_like(own)
        for _ in range(2):
            along = project(q, v)
            v = v - combine(q, along)
            own = own - combine(m, along)
            share = share + along
        # The barriers keep XLA from computing this again for every part of the basis.
        v, own, share = lax.optimization_barrier((v, own, share))
        left = length(v)
        spanned = left <= total(lambda k: noise[k] * jnp.abs(own[k]), p)
        spanned, left = lax.optimization_barrier((spanned, left))
        scale = jnp.where(spanned, 0.0, 1 / jnp.where(spanned, 1.0, left))[None]
        share = jnp.where(columns == j, jnp.where(spanned, 0.0, left)[None], share)
        return Basis(q.at[:, j].set(v * scale), r.at[:, j].set(share), m.at[:, j].set(own * scale))

    empty = jnp.zeros((p, p, lanes), a.dtype)
    return lax.fori_loop(0, p, column, varying(Basis(jnp.zeros_like(a), empty, empty), a))


def balanced(a: Array) -> tuple[Array, Array]:
    """The columns in units of powers of two, in which their largest entries are 1 to 4; those units, ``(p, T)``.

    No bit of an entry is lost.
    """
    unit = _power_of_two(folded(jnp.maximum, lambda i: jnp.abs(a[i]), a.shape[0]))
    # The barrier keeps XLA from scaling again for every use.
    return lax.optimization_barrier(a * (1 / unit)[None]), unit


def _power_of_two(x: Array) -> Array:
    """The largest up to x whose reciprocal is a normal number too; 1 where x is zero or not finite."""
    infinity = np.array(np.inf, x.dtype)
    kind = np.dtype(f"int{8 * infinity.itemsize}")
    power = lax.bitcast_convert_type(lax.bitcast_convert_type(x, kind) & infinity.view(kind), x.dtype)
    power = jnp.minimum(power, 1 / float(jnp.finfo(x.dtype).tiny))
    return jnp.where((power > 0) & (x < jnp.inf), power, 1.0)


def combine(a: Array, b: Array) -> Array:
    """Ab for every lane, ``(n, p, T)`` and ``(p, T)``."""
    return total(lambda k: a[:, k] * b[k][None], a.shape[1])


def project(a: Array, b: Array) -> Array:
    """A'b for every lane, ``(n, p, T)`` and ``(n, T)``."""
    return total(lambda i: a[i] * b[i][None], a.shape[0])


def length(x: Array) -> Array:
    """Euclidean length over the first axis."""
    return jnp.sqrt(total(lambda i: jnp.square(x[i]), x.shape[0]))
