r"""The dispersion φ of a fit: known, or estimated by a rule.

Var y = φ V(μ) / weight. In a quasi-likelihood fit (McCullagh & Nelder 1989, chapter 9) φ is estimated in a family whose
own dispersion is one: the coefficients stay, the standard errors grow by √φ.
"""

from __future__ import annotations

from enum import Enum

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["Scale", "ScaleRule", "dispersion", "is_estimated"]


@jax.tree_util.register_static
class ScaleRule(Enum):
    """How φ is estimated: Pearson's χ² or the deviance, over the residual degrees of freedom."""

    X2 = "x2"
    DEV = "dev"

    @classmethod
    def of(cls, name: str) -> ScaleRule:
        """The rule that statsmodels calls ``name``."""
        try:
            return cls(name.lower())
        except ValueError:
            raise ValueError(f"scale={name!r}: expected None, 'X2', 'dev' or a positive number") from None


Scale = Array | ScaleRule | None


def is_estimated(scale: Scale, has_dispersion: bool) -> bool:
    """Whether φ is neither given nor one; ``has_dispersion`` says whether it is a parameter of the family."""
    return isinstance(scale, ScaleRule) or (scale is None and has_dispersion)


def dispersion(scale: Scale, has_dispersion: bool, pearson_chi2: Array, deviance: Array, df_resid: Array) -> Array:
    """φ of each fit; NaN where it is to be estimated and no degree of freedom is left."""
    if not (scale is None or isinstance(scale, ScaleRule)):
        return jnp.broadcast_to(scale, pearson_chi2.shape)
    if not is_estimated(scale, has_dispersion):
        return jnp.ones_like(pearson_chi2)
    measure = deviance if scale is ScaleRule.DEV else pearson_chi2
    return jnp.where(df_resid > 0, measure / jnp.where(df_resid > 0, df_resid, 1.0), jnp.nan)
