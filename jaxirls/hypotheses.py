r"""Tests of hypotheses: Wald, likelihood ratio and score, each at the estimate that its theory asks for."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm
from jax.typing import ArrayLike

from jaxirls.data import gram
from jaxirls.equations import pivot_tolerance
from jaxirls.estimate import align, at_estimate, check_fit, zeroed
from jaxirls.families import Family, NegativeBinomial
from jaxirls.linalg import HIGHEST, half_inverse, half_inverse_of_root
from jaxirls.results import Fit
from jaxirls.special import chi2_tail, f_tail, normal_reach

__all__ = ["Contrast", "HypothesisTest", "lr_test", "score_test", "t_test", "wald_test"]


class HypothesisTest(NamedTuple):
    """A test of one hypothesis a dataset.

    Attributes:
      statistic: ``(...)``.
      pvalue: probability of a larger statistic under the hypothesis, ``(...)``.
      df_num: degrees of freedom, the number of restrictions; of ``ji.lr_test`` ``(...)``.
      df_denom: degrees of freedom of the denominator of F, ``(...)``; None for a χ² statistic.
    """

    statistic: Array
    pvalue: Array
    df_num: int | Array
    df_denom: Array | None = None


class Contrast(NamedTuple):
    """Linear functions of the coefficients, each with its own test.

    Attributes:
      effect: Rβ̂, ``(..., k)``.
      sd: its standard error, ``(..., k)``.
      statistic: (effect - q) / sd, ``(..., k)``.
      pvalue: two-sided, of the standard normal, ``(..., k)``.
    """

    effect: Array
    sd: Array
    statistic: Array
    pvalue: Array

    def conf_int(self, alpha: float = 0.05) -> Array:
        """Intervals of level 1-alpha, ``(..., k, 2)``."""
        reach = normal_reach(alpha, self.effect.dtype) * self.sd
        return jnp.stack([self.effect - reach, self.effect + reach], axis=-1)


def wald_test(
    fit: Fit, R: ArrayLike, q: ArrayLike | None = None, *, cov: Array | None = None, use_f: bool = False
) -> HypothesisTest:
    r"""Wald test of Rβ = q: (Rβ̂-q)' (R cov R')⁻¹ (Rβ̂-q) ~ χ²(k), or that over k ~ F(k, df_resid).

    Args:
      fit: of ``ji.fit``.
      R: ``(..., k, p)`` with linearly independent rows, or ``(p,)`` for one restriction.
      q: ``(..., k)``; zero if not given.
      cov: covariance of the estimate, ``(..., p, p)``, from ``ji.covariance`` say; ``fit.cov_params()`` if not given.
      use_f: the F statistic instead of χ², for families with an estimated dispersion.

    Returns:
      A ``HypothesisTest``; NaN where R cov R' is singular, or R has to do with an aliased coefficient.

    Raises:
      ValueError: for shapes that do not fit.

    Under a penalty the coefficients are shrunken towards the penalty's centre and the test is not of its nominal size.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> fit = ji.fit(X, jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0]), ji.Poisson())
      >>> print(ji.wald_test(fit, jnp.array([0.0, 1.0])).statistic.round(2))
      9.44
    """
    R, _, difference = _restrictions(fit, R, q)
    if cov is None:
        inverse = _half_inverse_of_square(_half(fit, R))
    else:
        inverse = half_inverse(jnp.einsum("...kp,...pq,...lq->...kl", R, _known(fit, cov), R, precision=HIGHEST))
    statistic = jnp.square(jnp.einsum("...kl,...l->...k", inverse, difference, precision=HIGHEST)).sum(-1)
    k = R.shape[-2]
    if not use_f:
        return HypothesisTest(statistic, chi2_tail(statistic, k), k)
    df_resid = jnp.broadcast_to(fit.df_resid, jnp.broadcast_shapes(fit.shape, statistic.shape))
    return HypothesisTest(statistic / k, f_tail(statistic / k, k, df_resid), k, df_resid)


def t_test(fit: Fit, R: ArrayLike, q: ArrayLike | None = None, *, cov: Array | None = None) -> Contrast:
    """Effect, standard error and test of every row of Rβ = q, by the normal distribution as statsmodels' GLM has it.

    Args:
      fit: of ``ji.fit``.
      R: ``(..., k, p)``, whose rows may depend on each other, or ``(p,)`` for one function.
      q: ``(..., k)``; zero if not given.
      cov: covariance of the estimate, ``(..., p, p)``; ``fit.cov_params()`` if not given.

    Returns:
      A ``Contrast``; NaN where a row of R has to do with an aliased coefficient.

    Raises:
      ValueError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit = ji.fit(X, y, ji.Poisson())
      >>> contrast = ji.t_test(fit, jnp.array([1.0, 5.0]))  # the linear predictor of the last row
      >>> print(contrast.effect.round(2), contrast.sd.round(2))
      [2.3] [0.26]
    """
    R, effect, difference = _restrictions(fit, R, q)
    if cov is None:
        square = jnp.square(_half(fit, R)).sum(-2)
    else:
        square = jnp.einsum("...kp,...pq,...kq->...k", R, _known(fit, cov), R, precision=HIGHEST)
    sd = jnp.sqrt(square)
    shape = jnp.broadcast_shapes(sd.shape, difference.shape)
    effect, sd, difference = (jnp.broadcast_to(value, shape) for value in (effect, sd, difference))
    return Contrast(effect, sd, difference / sd, 2 * norm.sf(jnp.abs(difference / sd)))


def lr_test(restricted: Fit, full: Fit) -> HypothesisTest:
    r"""Likelihood-ratio test of two nested fits of the same data.

    The statistic is (deviance of the restricted - deviance of the full fit) / φ, χ² with the difference in rank;
    φ is the full fit's, as in R's ``anova``, so that it is 2 Δℓ where the dispersion is known. For the negative
    binomial it is 2 Δℓ, whose two fits may have estimated different alphas.

    Args:
      restricted, full: of ``ji.fit``, of the same family and link, the second with more columns.

    Returns:
      A ``HypothesisTest``; NaN where either fit is penalized (its deviance is not at a maximum; under Jeffreys' penalty
      take ``ji.profile_test``), where the numbers of observations differ, where the full fit has no higher rank, or
      where the dispersion is that of no data.

    Raises:
      ValueError: where the families, or the numbers of columns, cannot be those of nested fits.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit = ji.fit(X, y, ji.Poisson())
      >>> test = ji.lr_test(ji.fit(X[:, :1], y, ji.Poisson()), fit)
      >>> print(test.statistic.round(2), int(test.df_num))
      10.74 1
    """
    for name, fit in (("restricted", restricted), ("full", full)):
        check_fit(f"lr_test: {name}", fit)
    if type(restricted.family) is not type(full.family) or type(restricted.family.link) is not type(full.family.link):
        raise ValueError("lr_test: the two fits differ in family or link, so neither is nested in the other")
    more = full.params.shape[-1] - restricted.params.shape[-1]
    if more < 1:
        raise ValueError(f"lr_test: the full fit needs more columns than the restricted one, it has {more:+d}")
    depth = max(len(restricted.shape), len(full.shape))
    restricted, full = align(restricted, depth), align(full, depth)
    if isinstance(full.family, NegativeBinomial):
        difference = 2 * (full.llf * full.scale - restricted.llf * restricted.scale)
    else:
        difference = restricted.deviance - full.deviance
    df = full.rank - restricted.rank
    comparable = ~(restricted.penalized | full.penalized) & (restricted.nobs == full.nobs) & (df > 0)
    statistic = jnp.where(comparable, difference / full.scale, jnp.nan)
    return HypothesisTest(statistic, chi2_tail(statistic, df), df)


def score_test(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    exog_extra: ArrayLike,
    *,
    observed: bool = False,
    scale: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
) -> HypothesisTest:
    r"""Rao's score test that added columns have coefficient zero, computed from the fit without them.

    With s the scores and W the weights of the rows at the **restricted** estimate, and Z̃ = Z - X (X'WX)⁻¹ X'WZ, the
    statistic is (Z̃'s)' (Z̃'WZ̃)⁻¹ (Z̃'s) / φ ~ χ²(k). Nothing is fitted: one fit tests any number of added columns.

    Args:
      fit: of ``ji.fit``, without the added columns.
      X, y, offset, freq_weights, var_weights, family: the data of that fit, as in ``ji.residuals``.
      exog_extra: Z, the columns to test together, ``(..., n, k)``; further leading axes are further tests.
      observed: W from the observed information instead of the expected; for a canonical link they agree.
      scale: φ, ``(...)``; if not given that of the restricted fit, as in statsmodels. R's ``anova(test="Rao")`` takes
        that of the larger model.

    Returns:
      A ``HypothesisTest``; NaN where Z depends on the columns of X, and where the fit is penalized (its score is
      not zero).

    Raises:
      ValueError: for shapes that do not fit.

    Source: Rao (1948), Proc. Camb. Phil. Soc. 44, 50-57; Pregibon (1982), GLIM 82, 87-97.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X, y = jnp.ones((6, 1)), jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> null = ji.fit(X, y, ji.Poisson())
      >>> print(ji.score_test(null, X, y, jnp.arange(6.0)[:, None]).statistic.round(2))
      10.3
    """
    Z = jnp.asarray(exog_extra)
    at_depth = max(Z.ndim - 2, 0)
    at = at_estimate(
        fit,
        X,
        y,
        offset=offset,
        freq_weights=freq_weights,
        var_weights=var_weights,
        family=family,
        depth=at_depth,
    )
    n, dtype = at.eta.shape[-1], at.eta.dtype
    if Z.ndim < 2 or Z.shape[-2] != n:
        raise ValueError(f"exog_extra has shape {Z.shape}: expected (..., {n}, k), a column a coefficient tested")
    k = Z.shape[-1]
    Z = Z.astype(dtype).reshape((1,) * (at.eta.ndim + 1 - Z.ndim) + Z.shape)
    Z = jnp.where(at.used[..., None], Z, 0.0)
    weight, half = at.rows.freq * at.weight(observed), at.half_inverse(observed)
    cross = jnp.einsum("...np,...n,...nk->...pk", at.rows.X, weight, Z, precision=HIGHEST)
    slope = jnp.einsum("...lp,...lq,...qk->...pk", half, half, cross, precision=HIGHEST)
    residual = Z - jnp.einsum("...np,...pk->...nk", at.rows.X, slope, precision=HIGHEST)
    score = jnp.einsum("...nk,...n->...k", residual, at.rows.freq * at.score(), precision=HIGHEST)
    information = gram(at.rows._replace(X=residual), weight)

    before = jnp.abs(weight[..., None] * jnp.square(Z)).sum(-2)
    left = jnp.diagonal(information, axis1=-2, axis2=-1)
    independent = (left > pivot_tolerance(k + half.shape[-1], dtype) * before).all(-1) & ~at.fit.penalized
    root = jnp.einsum("...kl,...l->...k", half_inverse(information), score, precision=HIGHEST)
    dispersion = at.fit.scale if scale is None else jnp.asarray(scale, dtype)
    dispersion = dispersion.reshape((1,) * (root.ndim - 1 - dispersion.ndim) + dispersion.shape)
    statistic = jnp.where(independent, jnp.square(root).sum(-1) / dispersion, jnp.nan)
    return HypothesisTest(statistic, chi2_tail(statistic, k), k)


def _half(fit: Fit, R: Array) -> Array:
    """S with SᵀS = R cov R', ``(..., p, k)``: it holds the digits that the product cancels."""
    half = jnp.einsum("...lp,...kp->...lk", fit.half_inverse(aliased=0.0), R, precision=HIGHEST)
    return jnp.sqrt(fit.scale[..., None, None]) * half


def _half_inverse_of_square(half: Array) -> Array:
    """H with (SᵀS)⁻¹ = HᵀH for S ``(..., m, k)``, by QR; NaN where its columns are dependent, or not finite."""
    m, k = half.shape[-2:]
    half = jnp.concatenate([half, jnp.zeros((*half.shape[:-2], max(k - m, 0), k), half.dtype)], axis=-2)
    finite = jnp.isfinite(half).all((-2, -1), keepdims=True)
    root = jnp.linalg.qr(jnp.where(finite, half, 0.0), mode="r")
    noise = 8 * k * jnp.finfo(half.dtype).eps * jnp.sqrt(jnp.square(root).sum(-2))
    independent = (jnp.abs(jnp.diagonal(root, axis1=-2, axis2=-1)) > noise).all(-1)
    return jnp.where(independent[..., None, None] & finite, half_inverse_of_root(root), jnp.nan)


def _known(fit: Fit, cov: ArrayLike) -> Array:
    """A given covariance, zero for aliased coefficients."""
    cov, p = jnp.asarray(cov, fit.params.dtype), fit.params.shape[-1]
    if cov.shape[-2:] != (p, p):
        raise ValueError(f"cov has shape {cov.shape}: expected (..., {p}, {p})")
    return zeroed(cov, fit.aliased)


def _restrictions(fit: Fit, R: ArrayLike, q: ArrayLike | None) -> tuple[Array, Array, Array]:
    """R as ``(..., k, p)``, Rβ̂, and Rβ̂ - q."""
    check_fit("fit", fit)
    dtype, p = fit.params.dtype, fit.params.shape[-1]
    R = jnp.atleast_2d(jnp.asarray(R, dtype))
    if R.shape[-1] != p:
        raise ValueError(f"R has shape {R.shape}: expected (..., k, {p}), one column a coefficient")
    unknown = jnp.einsum("...kp,...p->...k", (R != 0).astype(dtype), fit.aliased.astype(dtype)) > 0
    effect = jnp.where(unknown, jnp.nan, jnp.einsum("...kp,...p->...k", R, fit.used_params, precision=HIGHEST))
    difference = effect
    if q is not None:
        q = jnp.asarray(q, dtype)
        if q.ndim and q.shape[-1] not in (1, R.shape[-2]):
            raise ValueError(f"q has shape {q.shape}: expected (..., {R.shape[-2]}), one value a row of R")
        rank = max(difference.ndim, q.ndim)
        difference, q = (value.reshape((1,) * (rank - value.ndim) + value.shape) for value in (difference, q))
        difference = difference - q
    return R, effect, difference
