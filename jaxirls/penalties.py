r"""Penalties: what is added to minus the log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["Penalty", "Ridge"]


class Penalty:
    """Base of all penalties."""

    def curvature(self, p: int) -> Array:
        """Diagonal of the penalty's second derivative, ``(..., p)`` with the batch axes in front."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ridge(Penalty):
    r"""½ Σⱼ sⱼ βⱼ².

    The penalized objective is minus the log-likelihood plus this term; in a family with a dispersion φ, φ times the
    log-likelihood stands in its place, so that for a Gaussian the objective is ½|y-Xβ|² + ½ s|β|².

    Args:
      strength: s >= 0. A scalar, or an array whose leading axes are batch axes.
      penalize: optional mask or multiplier a column, ``(p,)``; zero leaves a column (an intercept, say) unpenalized.
    """

    strength: Array | float
    penalize: Array | None = None

    def __post_init__(self) -> None:
        if isinstance(self.strength, (int, float)) and not self.strength >= 0:
            raise ValueError(f"Ridge(strength={self.strength}): strength must be zero or positive")

    def curvature(self, p: int) -> Array:
        strength = jnp.asarray(self.strength)[..., None]
        mask = jnp.ones(p, strength.dtype) if self.penalize is None else jnp.asarray(self.penalize)
        if mask.shape[-1:] != (p,):
            raise ValueError(
                f"Ridge(penalize=...) has shape {mask.shape}: expected (..., {p}), one value a column of X"
            )
        lead = jnp.broadcast_shapes(strength.shape[:-1], mask.shape[:-1])
        return jnp.broadcast_to(strength, (*lead, p)) * jnp.broadcast_to(mask, (*lead, p)).astype(strength.dtype)
