r"""The bend that a bias-reducing penalty gives to the score, and Newton's step for the bent score.

With zᵢ = L⁻¹D xᵢ, in which X'WX is the identity, qᵢ = |zᵢ|² and r the penalty's ``rate``, the bend is ½φ Σᵢ qᵢ rᵢ xᵢ.
Its derivative by β is, in the same coordinates,

    ½φ Σᵢ qᵢ rᵢ' zᵢzᵢ' - ½φ Σᵢⱼ rᵢ wⱼ' (zᵢ'zⱼ)² zᵢzⱼ',

where the double sum is one over pairs of columns: Σₐᵦ Rₐᵦ Vₐᵦ' with Rₐᵦ = Σᵢ rᵢ zᵢₐ zᵢᵦ zᵢ and V alike with w'.

A step of Fisher scoring leaves this derivative out. Where data are few it is as large as the rest, and such steps swing
about the solution. Newton's does not, but it may lead to a saddle, or far away; there scoring's is taken.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls.designs import Design
from jaxirls.linalg import Factor, backward, factorize, forward
from jaxirls.links import slope
from jaxirls.penalties import Penalty
from jaxirls.rows import Rows

# How many times longer than the step of Fisher scoring a Newton step may be, in standard errors.
LEAP = 4.0


def whitened(design: Design, factor: Factor, lanes: int) -> Array:
    """zᵢ, (n, p, T)."""
    return jax.vmap(lambda row: forward(factor, row))(design.lanes(lanes))


def bend(penalty: Penalty, rows: Rows, eta: Array, z: Array, scale: Array) -> Array:
    """½φ qᵢ rᵢ, a row (n, T): Xᵀ of it is added to the score, and Zᵀ of it to the whitened score."""
    return 0.5 * scale[None] * rows.weigh(jnp.square(z).sum(1) * penalty.rate(rows.family, eta))


def newton_step(penalty: Penalty, rows: Rows, eta: Array, z: Array, half: Array, scale: Array) -> Array:
    """The whitened step (p, T), given the whitened bent score ``half``."""
    family, unit = rows.family, 0.5 * scale[None]

    def rate(eta: Array) -> Array:
        return penalty.rate(family, eta)

    bending = unit * jnp.square(z).sum(1) * slope(rate, eta)
    curvature = rows.weigh(family.observed_information(eta, rows.y) - bending)
    cubes = [_cubes(z, rows.weigh(term)) for term in (rate(eta), slope(family.information, eta))]
    turn = products(z, curvature) + unit[None] * jnp.einsum("abct,abdt->cdt", *cubes, precision=lax.Precision.HIGHEST)
    newton = factorize(0.5 * (turn + jnp.swapaxes(turn, 0, 1)))
    step = backward(newton, forward(newton, half))
    far = jnp.sqrt(jnp.square(step).sum(0)) / (LEAP * jnp.sqrt(jnp.square(half).sum(0)))
    return jnp.where(newton.pivot > 0, step / jnp.maximum(far, 1.0)[None], half)


def products(z: Array, weight: Array) -> Array:
    """Σᵢ wᵢ zᵢzᵢ', (p, p, T)."""
    return jnp.einsum("nat,nbt->abt", z * weight[:, None], z, precision=lax.Precision.HIGHEST)


def _cubes(z: Array, weight: Array) -> Array:
    """Σᵢ wᵢ zᵢ⊗zᵢ⊗zᵢ, (p, p, p, T), a column of the first factor at a time."""
    return lax.map(lambda column: products(z, column * weight), jnp.moveaxis(z, 1, 0))
