r"""The bend that a bias-reducing penalty gives to the score, and Newton's step for the bent score.

With zᵢ = L⁻¹D xᵢ, in which X'WX is the identity, qᵢ = |zᵢ|² and r the penalty's ``rate``, the bend is ½φ Σᵢ qᵢ rᵢ xᵢ.
Its derivative by β is, in the same coordinates,

    ½φ Σᵢ qᵢ rᵢ' zᵢzᵢ' - ½φ Σᵢⱼ rᵢ wⱼ' (zᵢ'zⱼ)² zᵢzⱼ',

where the double sum is one over pairs of columns: Σₐᵦ Rₐᵦ Vₐᵦ' with Rₐᵦ = Σᵢ rᵢ zᵢₐ zᵢᵦ zᵢ and V alike with w'.

A step of Fisher scoring leaves this derivative out. Where data are few it is as large as the rest, and such steps swing
about the solution. Newton's does not, but it may lead to a saddle, or far away; there scoring's is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxirls.designs import Design, Terms
from jaxirls.folds import total
from jaxirls.linalg import Factor, backward, factorize_with
from jaxirls.links import slope
from jaxirls.penalties import Penalty
from jaxirls.rows import Rows

# How many times longer than the step of Fisher scoring a Newton step may be, in standard errors.
LEAP = 4.0


class Bend(NamedTuple):
    """The bend at some β, in coordinates in which X'WX is the identity."""

    z: Design
    half: Array  # (p, T), what is added to the whitened score
    turn: Array  # (p, p, T), minus the derivative of the whole whitened score, but for its double sum


def bend(penalty: Penalty, design: Design, factor: Factor, rows: Rows, eta: Array, scale: Array) -> Bend:
    """The bend where the predictor is η (n, T), and X'WX has the ``factor``."""
    z = design.whitened(factor)

    def kernel(_: Array, data: tuple[Array, Rows, Array, Array]) -> Terms:
        eta, rows, square, scale = data

        def rate(eta: Array) -> Array:
            return penalty.rate(rows.family, eta)

        spread = 0.5 * scale * square
        curvature = rows.family.observed_information(eta, rows.y) - spread * slope(rate, eta)
        return Terms(rows.weigh(curvature), rows.weigh(spread * rate(eta)))

    found = z.accumulate(jnp.zeros_like(factor.scaling), (eta, rows, z.squares(), scale[None]), kernel)
    return Bend(z, found.score, found.gram)


def newton_step(penalty: Penalty, rows: Rows, at: Bend, eta: Array, half: Array, scale: Array) -> Array:
    """The whitened step (p, T), given the whitened bent score ``half``."""
    family, (p, lanes) = rows.family, half.shape

    def cubes(rate: Array) -> Array:
        return _cubes(at.z, rows.weigh(rate)).reshape(p * p, p, lanes)

    by_rate = by_information = cubes(penalty.rate(family, eta))
    if not penalty.follows_information(family):
        by_information = cubes(slope(family.information, eta))
    double = total(lambda ab: by_rate[ab][:, None] * by_information[ab][None], p * p)
    turn = at.turn + 0.5 * scale[None, None] * double
    newton, z = factorize_with(0.5 * (turn + jnp.swapaxes(turn, 0, 1)), half)
    step = backward(newton, z)
    far = jnp.sqrt(jnp.square(step).sum(0)) / (LEAP * jnp.sqrt(jnp.square(half).sum(0)))
    return jnp.where(newton.pivot > 0, step / jnp.maximum(far, 1.0)[None], half)


def products(z: Design, weight: Array) -> Array:
    """Σᵢ wᵢ zᵢzᵢ' of w (n, T), (p, p, T)."""
    at = jnp.zeros((z.p, weight.shape[1]), weight.dtype)
    return z.accumulate(at, weight, lambda _, weight: Terms(weight, jnp.zeros_like(weight))).gram


def _cubes(z: Design, weight: Array) -> Array:
    """Σᵢ wᵢ zᵢ⊗zᵢ⊗zᵢ, (p, p, p, T), by a Gram matrix for every column, which is the predictor along a unit vector."""

    def along(unit: Array) -> Array:
        return products(z, weight * z.predict(jnp.broadcast_to(unit[:, None], (z.p, weight.shape[1]))))

    return lax.map(along, jnp.eye(z.p, dtype=weight.dtype))
