r"""The null model of a fit, and what is measured against it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxirls.estimate import at_estimate, family_of
from jaxirls.families import Family
from jaxirls.fit import fit
from jaxirls.results import Fit
from jaxirls.status import Status
from jaxirls.trees import pytree

__all__ = ["NullModel", "null_model"]


@pytree
class NullModel:
    """The model with a constant as its only column, beside the fit it belongs to; names are statsmodels'.

    Attributes:
      null_deviance: its deviance, ``(...)``.
      llnull: its log-likelihood at the scale of the fit, ``(...)``.
      llf, nobs: of the fit, ``(...)``.
      status: how its own fit ended, a ``ji.Status`` code, ``(...)``; the other numbers are NaN unless CONVERGED
        (INVALID_DATA where the fit has no scale).
    """

    null_deviance: Array
    llnull: Array
    llf: Array
    nobs: Array
    status: Array

    def pseudo_rsquared(self, kind: str = "cs") -> Array:
        """Cox and Snell's 1 - exp(2 (llnull - llf) / nobs) for "cs", McFadden's 1 - llf / llnull for "mcf", ``(...)``.

        A Gaussian fit with identity link reports its llf at the profiled scale but llnull at ``scale``, as statsmodels
        does; for R² take ``1 - fit.deviance / null_deviance``.
        """
        if kind == "cs":
            return -jnp.expm1(2 * (self.llnull - self.llf) / self.nobs)
        if kind == "mcf":
            return 1 - self.llf / self.llnull
        raise ValueError(f"pseudo_rsquared(kind={kind!r}): kind must be 'cs' (Cox and Snell) or 'mcf' (McFadden)")


def null_model(
    of: Fit,
    y: ArrayLike,
    *,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
) -> NullModel:
    """Fit the null model of a fit: a constant, the offset, the same family and scale.

    Args:
      of: a fit.
      y, offset, freq_weights, var_weights: the data of that fit, which a fit does not store.
      family: needed only to give ``trials`` again: ``ji.Binomial(trials=...)``.

    Raises:
      ValueError: for arguments whose shapes or types cannot be right; the message names the argument.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> null = ji.null_model(ji.fit(X, y, ji.Poisson()), y)
      >>> print(f"{null.null_deviance:.3f} {null.pseudo_rsquared('mcf'):.3f}")
      12.015 0.345
    """
    family = family_of(of, family)
    ones = jnp.ones((jnp.asarray(y).shape[-1], 1), of.params.dtype)
    data: dict[str, Any] = {
        "offset": offset,
        "freq_weights": freq_weights,
        "var_weights": var_weights,
        "family": family,
    }
    null = fit(ones, y, **data, scale=of.scale)
    at = at_estimate(null, ones, y, **data)
    terms = at.rows.family.log_likelihood(at.eta, at.rows.y, at.rows.var, null.scale[..., None])
    llnull = (at.rows.freq * at.masked(terms)).sum(-1)
    found = null.status == Status.CONVERGED
    return NullModel(
        null_deviance=jnp.where(found, null.deviance, jnp.nan),
        llnull=jnp.where(found, llnull, jnp.nan),
        llf=of.llf,
        nobs=of.nobs,
        status=null.status,
    )
