r"""The rows of datasets at their estimates: what diagnostics and inference compute from.

A fit keeps no data, so the functions of ``jaxirls.diagnostics``, ``covariance``, ``hypotheses``, ``profiles``, ``null``
and ``information`` take them again and start here. Rows of weight zero have score and weight zero, whatever they hold;
a value that cannot be fitted, in a row that counts, makes that row's terms NaN. Aliased columns are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxirls.checks import check_arguments
from jaxirls.data import AlignedRows, Data, aligned_rows, gram, linear
from jaxirls.families import NOT_STORED, Family
from jaxirls.linalg import HIGHEST, half_inverse, plus_diagonal
from jaxirls.results import Fit

__all__ = ["Estimate", "align", "at_estimate", "check_fit", "family_of", "zeroed"]


class Estimate(NamedTuple):
    """Fits and their data, all aligned to the same batch axes ``...``; lengths of one still broadcast.

    Attributes:
      fit: the fits.
      rows: the data.
      used: whether a row has positive weight, ``(..., n)``.
      valid: whether all values of a row are such as can be fitted, ``(..., n)``.
      eta: linear predictors, ``(..., n)``.
    """

    fit: Fit
    rows: AlignedRows
    used: Array
    valid: Array
    eta: Array

    def masked(self, term: Array, absent: float = 0.0) -> Array:
        """The term of every row: ``absent`` where the weight is zero, NaN where the data cannot be fitted."""
        return jnp.where(self.used, jnp.where(self.valid, term, jnp.nan), absent)

    def score(self) -> Array:
        """φ ∂ℓ/∂η of one observation of every row, ``(..., n)``."""
        return self.masked(self.rows.var * self.rows.family.working(self.eta, self.rows.y).score)

    def weight(self, observed: bool) -> Array:
        """Expected or observed -φ ∂²ℓ/∂η² of one observation of every row, ``(..., n)``."""
        family, y = self.rows.family, self.rows.y
        if not observed:
            return self.masked(self.rows.var * family.working(self.eta, y).weight)
        return self.masked(self.rows.var * family.observed_information(self.eta, y))

    def half_inverse(self, observed: bool) -> Array:
        """H with HᵀH the inverse of the expected or observed information plus the penalty's curvature.

        Zero in the columns of aliased coefficients.
        """
        aliased = self.fit.aliased
        if not observed:
            return self.fit.half_inverse(aliased=0.0)
        information = gram(self.rows, self.rows.freq * self.weight(observed=True))
        penalty = self.fit.penalty_curvature
        if penalty is not None:
            information = plus_diagonal(information, penalty)
        information = plus_diagonal(zeroed(information, aliased), aliased.astype(information.dtype))
        return jnp.where(aliased[..., None, :], 0.0, half_inverse(information))

    def whitened(self, half: Array) -> Array:
        """H xᵢ for every row, ``(..., n, p)``."""
        return jnp.einsum("...kp,...np->...nk", half, self.rows.X, precision=HIGHEST)


def check_fit(name: str, fit: Fit) -> None:
    """Raise a ValueError for what is no ``Fit``."""
    if not isinstance(fit, Fit):
        raise ValueError(f"{name} must be the result of ji.fit, got {type(fit).__name__}")


def zeroed(matrix: Array, aliased: Array, value: float = 0.0) -> Array:
    """``matrix (..., p, p)`` with the rows and columns of ``aliased (..., p)`` zero, or another value."""
    left_out = aliased[..., :, None] | aliased[..., None, :]
    depth = max(matrix.ndim, left_out.ndim)
    matrix, left_out = (leaf.reshape((1,) * (depth - leaf.ndim) + leaf.shape) for leaf in (matrix, left_out))
    return jnp.where(left_out, value, matrix)


def at_estimate(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    *,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
    depth: int = 0,
) -> Estimate:
    """The rows of the data at the estimates of ``fit``, with ``depth`` batch axes or more.

    Raises:
      ValueError: for data whose shapes or types cannot be right; the message names the argument.
    """
    check_fit("fit", fit)
    p = fit.params.shape[-1]
    family = family_of(fit, family)
    checked = check_arguments(X, y, family, offset, freq_weights, var_weights, unique=False)
    data: Data = jax.tree.map(jnp.asarray, checked)
    if data.X.shape[-1] != p:
        raise ValueError(f"X has {data.X.shape[-1]} columns, the fit {p} coefficients: give the design of the fit")
    leads = [fit.shape, *(value.shape[:-core] for value, core in _cores(data))]
    try:
        jnp.broadcast_shapes(*leads)
    except ValueError:
        raise ValueError(f"the batch axes do not broadcast: fit {fit.shape}, data {leads[1:]}") from None
    depth = max(depth, *map(len, leads))
    fit = _in_dtype(align(fit, depth), data.y.dtype)
    rows = aligned_rows(data, jnp.ones((1,) * depth, bool), depth)
    used = rows.freq > 0
    y, X, offset = _deepened(data.y, depth, 1), _deepened(data.X, depth, 2), data.offset
    valid = rows.family.valid_response(y) & jnp.isfinite(X).all(-1)
    if offset is not None:
        valid = valid & jnp.isfinite(_deepened(offset, depth, 1))
    return Estimate(fit, rows, used, valid, linear(fit.used_params, rows))


def align(fit: Fit, depth: int) -> Fit:
    """The fit with axes of length one in front, ``depth`` batch axes in all."""
    extra = (1,) * (depth - len(fit.shape))
    family = jax.tree.map(lambda leaf: leaf.reshape(extra + leaf.shape) if jnp.ndim(leaf) else leaf, fit.family)
    arrays = {name: value for name, value in vars(fit).items() if name != "family"}
    return Fit(**jax.tree.map(lambda leaf: leaf.reshape(extra + leaf.shape), arrays), family=family)


def _deepened(value: Array, depth: int, core: int) -> Array:
    return value.reshape((1,) * (depth + core - value.ndim) + value.shape)


def _cores(data: tuple) -> list[tuple[Array, int]]:
    named = {"X": 2, "y": 1, "offset": 1, "freq_weights": 1, "var_weights": 1}
    return [(getattr(data, name), core) for name, core in named.items() if getattr(data, name) is not None]


def _in_dtype(fit: Fit, dtype: jnp.dtype) -> Fit:
    def cast(leaf: Array | float) -> Array | float:
        floating = isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating else leaf  # type: ignore[union-attr]

    return jax.tree.map(cast, fit)


def family_of(fit: Fit, family: Family | None) -> Family:
    """The family of the fit, with its row parameters from ``family``."""
    check_fit("fit", fit)
    names = [name for name in fit.family.row_parameters if getattr(fit.family, name) is NOT_STORED]
    called = type(fit.family).__name__
    if family is None:
        if names:
            raise ValueError(
                f"the fit had {names[0]}, which belongs to the rows, and a fit stores nothing of its rows: "
                f"give it again as family=ji.{called}({names[0]}=...)"
            )
        return fit.family
    if type(family) is not type(fit.family):
        raise ValueError(f"family is {type(family).__name__}, the fit is of the {called} family")
    rows = {name: getattr(family, name) for name in fit.family.row_parameters}
    missing = [name for name in names if rows[name] is None]
    if missing:
        raise ValueError(f"family: the fit had {missing[0]}: give family=ji.{called}({missing[0]}=...)")
    return fit.family.with_parameters(**rows)
