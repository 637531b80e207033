r"""Diagnostics of a fit: residuals and influence, row by row."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from jaxirls.estimate import Estimate, at_estimate
from jaxirls.families import Family
from jaxirls.linalg import HIGHEST
from jaxirls.results import Fit
from jaxirls.special import f_tail

__all__ = ["Influence", "influence", "residuals"]

KINDS = ("response", "pearson", "deviance", "working", "anscombe", "quantile")


def residuals(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    *,
    kind: str = "deviance",
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
    key: Array | None = None,
) -> Array:
    r"""Residuals of a fit, under statsmodels' names.

    With w = ``var_weights``, of one observation (``freq_weights`` only say how often it occurred):

    ========== =================================================================================================
    response   y - E y, in the units of y
    pearson    √w (y-μ)/√V(μ)
    deviance   sign(y-μ) √(w d(y, μ)), d the unit deviance
    working    (y-μ) dη/dμ; under ``Binomial(trials=...)`` of the proportion, as in R
    anscombe   √(w/φ) (A(y)-A(μ)) / (A'(μ) √V(μ)), A' = V^{-1/3}; statsmodels' ``resid_anscombe``
    quantile   Φ⁻¹(u), u uniform on [F(y-), F(y)], which is F(y) in a continuous family: standard normal if the model
               holds. Needs 1 <= power <= 2, or 3, of Tweedie, and is NaN elsewhere
    ========== =================================================================================================

    Args:
      fit: of ``ji.fit``.
      X, y, offset, freq_weights, var_weights: the data of the fit, which it does not store.
      kind: one of the names above.
      family: needed only to give ``trials`` again: ``ji.Binomial(trials=...)``.
      key: ``jax.random.key(...)``, for the quantile residuals of a discrete family and of Tweedie, whose zeros have
        positive probability. With ``var_weights`` w, a response y of a discrete family stands for the count w y (of w
        trials).

    Returns:
      ``(..., n)``. Zero in rows of weight zero; NaN where the dataset has no estimate.

    Raises:
      ValueError: for an unknown kind, a missing key, or data whose shapes do not fit.
      NotImplementedError: for quantile residuals of a family of your own without ``cdf``.

    Sources: McCullagh & Nelder (1989), section 2.4; Dunn & Smyth (1996), J. Comp. Graph. Statist. 5, 236-244.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X, y = jnp.ones((4, 1)), jnp.array([1.0, 2.0, 3.0, 6.0])
      >>> [round(float(r), 2) for r in ji.residuals(ji.fit(X, y, ji.Poisson()), X, y, kind="pearson")]
      [-1.15, -0.58, 0.0, 1.73]
    """
    if kind not in KINDS:
        raise ValueError(f"residuals(kind={kind!r}): kind must be one of {', '.join(KINDS)}")
    at = at_estimate(fit, X, y, offset=offset, freq_weights=freq_weights, var_weights=var_weights, family=family)
    family, eta, y, var = at.rows.family, at.eta, at.rows.y, at.rows.var
    if kind == "response":
        value = family.response_residual(eta, y)
    elif kind == "pearson":
        value = _pearson(at)
    elif kind == "deviance":
        value = jnp.sign(family.response_residual(eta, y)) * jnp.sqrt(var * family.unit_deviance(eta, y))
    elif kind == "working":
        working = family.working(eta, y)
        value = working.score / working.weight
    elif kind == "anscombe":
        value = jnp.sqrt(var / at.fit.scale[..., None]) * family.anscombe_residual(eta, y)
    else:
        value = _quantile(at, key)
    return at.masked(value)


class Influence(NamedTuple):
    """How much each row moves the fit: one-step deletion. Names are statsmodels'.

    A row counts as a whole: all of its ``freq_weights`` observations are deleted together.

    Attributes:
      hat_matrix_diag: leverage h, the diagonal of √W X (X'WX + penalty)⁻¹ X'√W, ``(..., n)``.
      resid_studentized: Pearson residuals over √(φ (1-h)), ``(..., n)``.
      cooks_distance: resid_studentized² h / (p (1-h)), with p the rank of X, ``(..., n)``.
      cooks_distance_pvalues: its upper tail under F(p, df_resid), a yardstick, not a test, ``(..., n)``.
      d_params: the estimate less what one Newton step from it gives without the row, ``(..., n, p)``. Over ``fit.bse``
        these are DFBETAS.
    """

    hat_matrix_diag: Array
    resid_studentized: Array
    cooks_distance: Array
    cooks_distance_pvalues: Array
    d_params: Array


def influence(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    *,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
    observed: bool = False,
) -> Influence:
    r"""Leverage, Cook's distance, studentized residuals and one-step deletion changes of the coefficients.

    Deleting row i, whose score is xᵢ sᵢ and information wᵢ xᵢ xᵢ', one Newton step from β̂ moves it by
    -C⁻¹ xᵢ sᵢ / (1-hᵢ), with C the information plus the penalty's second derivative and hᵢ = wᵢ xᵢ' C⁻¹ xᵢ
    (Sherman-Morrison); exactly so in the Gaussian family with its identity link. Under a penalty the leverages sum to
    the effective number of coefficients, not to p; under Jeffreys' and mean bias reduction the pull of the penalty is
    held where it is.

    Args:
      fit, X, y, offset, freq_weights, var_weights, family: as in ``ji.residuals``.
      observed: weights of the observed information (statsmodels' default) instead of the expected (R's ``hatvalues``);
        they agree for a canonical link.

    Returns:
      An ``Influence``. Rows of weight zero have leverage, residual and change zero.

    Raises:
      ValueError: for data whose shapes do not fit.

    ``d_params`` uses the score; statsmodels' uses the Pearson residual times the root of the weight, of which it
    forgets the sign under a decreasing link, and with ``observed`` the value. R's ``influence`` puts deviance residuals
    there. Source: Pregibon (1981), Ann. Statist. 9, 705-724; Cook & Weisberg (1982), section 5.4.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> of_rows = ji.influence(ji.fit(X, y, ji.Poisson()), X, y)
      >>> print(of_rows.hat_matrix_diag.sum().round(4), int(of_rows.cooks_distance.argmax()))
      2.0 5
    """
    at = at_estimate(fit, X, y, offset=offset, freq_weights=freq_weights, var_weights=var_weights, family=family)
    freq, half, p = at.rows.freq, at.half_inverse(observed), at.fit.rank[..., None]
    whitened = at.whitened(half)
    leverage = at.masked(freq * at.weight(observed) * jnp.square(whitened).sum(-1))
    rest = 1 - leverage
    studentized = at.masked(jnp.sqrt(freq / (at.fit.scale[..., None] * rest)) * _pearson(at))
    distance = jnp.square(studentized) * leverage / (p * rest)
    change = jnp.einsum("...nk,...kp->...np", whitened, half, precision=HIGHEST)
    change = change * (freq * at.score() / rest)[..., None]
    return Influence(
        hat_matrix_diag=leverage,
        resid_studentized=studentized,
        cooks_distance=distance,
        cooks_distance_pvalues=f_tail(distance, p, at.fit.df_resid[..., None]),
        d_params=jnp.where(at.fit.aliased[..., None, :], jnp.nan, jnp.where(at.used[..., None], change, 0.0)),
    )


def _pearson(at: Estimate) -> Array:
    return jnp.sqrt(at.rows.var) * at.rows.family.pearson_residual(at.eta, at.rows.y)


def _quantile(at: Estimate, key: Array | None) -> Array:
    family, y = at.rows.family, at.rows.y
    if family.has_atoms and key is None:
        raise ValueError(
            f"residuals(kind='quantile') of {type(family).__name__} are randomized: give key=jax.random.key(0)"
        )
    mu = family.mean(at.eta)
    scale = (at.fit.scale[..., None] if family.has_dispersion else 1.0) / at.rows.var
    below, above = family.cdf(y, mu, scale), family.survival(y, mu, scale)
    if key is None:
        return _normal_quantile(below, above)
    before = family.before(y, scale)
    low, high = family.cdf(before, mu, scale), family.survival(before, mu, scale)
    draw = jax.random.uniform(key, mu.shape, mu.dtype, minval=jnp.finfo(mu.dtype).tiny)
    return _normal_quantile(low + draw * (below - low), above + (1 - draw) * (high - above))


def _normal_quantile(below: Array, above: Array) -> Array:
    """Φ⁻¹ of a probability given with its complement: the smaller one decides."""
    return jnp.where(below < above, ndtri(below), -ndtri(above))
