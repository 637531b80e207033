r"""Covariances of the estimate: model-based, heteroscedasticity-consistent, clustered."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxirls.estimate import Estimate, at_estimate, zeroed
from jaxirls.families import Family
from jaxirls.linalg import HIGHEST
from jaxirls.results import Fit

__all__ = ["covariance"]

KINDS = ("nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster")
CORRECTIONS = ("sandwich", "statsmodels", "none")


def covariance(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    *,
    kind: str = "nonrobust",
    groups: ArrayLike | None = None,
    correction: str = "sandwich",
    observed: bool = False,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
) -> Array:
    r"""Covariance of the estimate.

    Robust kinds are sandwiches C⁻¹ M C⁻¹, C the information X'WX plus the penalty's second derivative and M a sum over
    observations, with score uᵢ = xᵢ sᵢ, weight wᵢ and leverage hᵢ = wᵢ xᵢ' C⁻¹ xᵢ:

    ========= ==========================================================
    nonrobust φ C⁻¹
    HC0       M = Σ uᵢ uᵢ'
    HC1       HC0 times n / (n-p)
    HC2       M = Σ uᵢ uᵢ' / (1-hᵢ)
    HC3       M = Σ uᵢ uᵢ' / (1-hᵢ)²
    cluster   M = Σ over groups of U U', U the sum of uᵢ over the group
    ========= ==========================================================

    Args:
      fit: of ``ji.fit``.
      X, y, offset, freq_weights, var_weights, family: as in ``ji.residuals``. ``freq_weights`` f stand for f
        independent observations (of one group under "cluster"); ``var_weights`` multiply score and weight.
      kind: one of the names above. statsmodels' HC1, HC2 and HC3 of a GLM all equal its HC0.
      groups: integer labels, ``(..., n)``, any numbers; for "cluster". Rows of weight zero belong to no group.
      correction: for "cluster", with G groups: "sandwich" multiplies by G/(G-1), as R's ``sandwich::vcovCL`` does for a
        glm; "statsmodels" by G/(G-1) · (n-1)/(n-p), as statsmodels and ``vcovCL(type="HC1")`` do; "none" does not.
      observed: the observed information in C, as statsmodels has it in all these kinds, instead of the expected one of
        R; they agree for a canonical link.

    Returns:
      ``(..., p, p)``, NaN where C is singular, and in the rows and columns of aliased coefficients.

    Raises:
      ValueError: for an unknown kind or correction, groups that are missing or not integers, or shapes that do not fit.

    Under a penalty, "nonrobust" is the covariance of the Laplace approximation with the penalty as a prior; the robust
    kinds estimate the variance of the penalized estimate about its own, shrunken, expectation.

    Source: Zeileis, Köll & Graham (2020), J. Stat. Softw. 95(1); MacKinnon & White (1985), J. Econometrics 29, 305-325.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X, y = jnp.ones((4, 1)), jnp.array([1.0, 2.0, 3.0, 6.0])
      >>> fit = ji.fit(X, y, ji.Poisson())
      >>> print(ji.covariance(fit, X, y, kind="HC0").round(4))
      [[0.0972]]
    """
    if kind not in KINDS:
        raise ValueError(f"covariance(kind={kind!r}): kind must be one of {', '.join(KINDS)}")
    if correction not in CORRECTIONS:
        raise ValueError(f"covariance(correction={correction!r}): it must be one of {', '.join(CORRECTIONS)}")
    if (groups is None) == (kind == "cluster"):
        raise ValueError("covariance: groups go with kind='cluster', and that kind needs them")
    at = at_estimate(fit, X, y, offset=offset, freq_weights=freq_weights, var_weights=var_weights, family=family)
    half = at.half_inverse(observed)
    known = partial(zeroed, aliased=at.fit.aliased, value=jnp.nan)
    if kind == "nonrobust":
        found = at.fit.scale[..., None, None] * jnp.einsum("...kp,...kq->...pq", half, half, precision=HIGHEST)
        return jnp.broadcast_to(known(found), at.eta.shape[:-1] + found.shape[-2:])
    whitened = jnp.where(at.used[..., None], at.whitened(half), 0.0)
    scores, freq = at.score(), at.rows.freq
    nobs = freq.sum(-1)[..., None, None]
    count = at.fit.rank[..., None, None]
    if groups is not None:
        sums, number = _grouped(whitened * (freq * scores)[..., None], at, groups)
        found = _between(half, jnp.einsum("...gp,...gq->...pq", sums, sums, precision=HIGHEST))
        if correction != "none":
            found = found * (number / (number - 1))[..., None, None]
        return known(found * (nobs - 1) / (nobs - count) if correction == "statsmodels" else found)
    squares = freq * jnp.square(scores)
    if kind in ("HC2", "HC3"):
        rest = 1 - at.weight(observed) * jnp.square(whitened).sum(-1)
        squares = squares / (rest if kind == "HC2" else jnp.square(rest))
    meat = jnp.einsum("...np,...nq->...pq", whitened * squares[..., None], whitened, precision=HIGHEST)
    found = _between(half, meat)
    return known(found * nobs / (nobs - count) if kind == "HC1" else found)


def _between(half: Array, filling: Array) -> Array:
    """Hᵀ M H."""
    return jnp.einsum("...kp,...kl,...lq->...pq", half, filling, half, precision=HIGHEST)


def _grouped(terms: Array, at: Estimate, groups: ArrayLike) -> tuple[Array, Array]:
    """Sums of the rows' terms by group, in n places, and the number of groups that hold a row of positive weight."""
    given: Any = groups if isinstance(groups, Array) else np.asarray(groups)
    n = terms.shape[-2]
    if not jnp.issubdtype(given.dtype, jnp.integer) or given.shape[-1:] != (n,):
        raise ValueError(
            f"groups has dtype {given.dtype} and shape {given.shape}: expected integers of shape (..., {n}); "
            "numpy.unique(labels, return_inverse=True)[1] makes integers of any labels"
        )
    labels = jnp.asarray(given)

    def one(labels: Array, terms: Array, used: Array) -> tuple[Array, Array]:
        order = jnp.argsort(labels)
        ordered = labels[order]
        fresh = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])
        place = jnp.zeros(n, jnp.int32).at[order].set(jnp.cumsum(fresh, dtype=jnp.int32))
        inhabited = jnp.zeros(n, bool).at[place].max(used)
        return jnp.zeros_like(terms).at[place].add(terms), inhabited.sum(dtype=terms.dtype)

    lead = jnp.broadcast_shapes(labels.shape[:-1], terms.shape[:-2], at.used.shape[:-1])
    flat = (
        jnp.broadcast_to(value, lead + value.shape[-core:]).reshape(-1, *value.shape[-core:])
        for value, core in ((labels, 1), (terms, 2), (at.used, 1))
    )
    sums, number = jax.vmap(one)(*flat)
    return sums.reshape(*lead, *sums.shape[1:]), number.reshape(lead)
