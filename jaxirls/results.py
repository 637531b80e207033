r"""Results: what a fit returns, one pytree with the batch axes in front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm
from jax.typing import ArrayLike

from jaxirls.families import Family
from jaxirls.linalg import HIGHEST, condition_number, half_inverse_of_root, plus_diagonal
from jaxirls.penalties import Penalty
from jaxirls.special import normal_reach
from jaxirls.status import Status
from jaxirls.tables import column_names, dataframe_of, summary_of_batch, summary_of_one
from jaxirls.trees import pytree

if TYPE_CHECKING:
    from jaxirls.null import NullModel

__all__ = ["Fit"]


# What statsmodels' results have and a fit, which stores no data, has not: what to write instead.
NEEDS_DATA = {
    "mu": "fit.predict(X)",
    "fittedvalues": "fit.predict(X)",
    "null_deviance": "ji.null_model(fit, y).null_deviance",
    "llnull": "ji.null_model(fit, y).llnull",
    "pseudo_rsquared": "ji.null_model(fit, y).pseudo_rsquared(kind)",
    "get_influence": "ji.influence(fit, X, y)",
    "get_hat_matrix_diag": "ji.influence(fit, X, y).hat_matrix_diag",
    "get_prediction": "ji.get_prediction(fit, X)",
    "get_margeff": "ji.margeff(fit, X, ...)",
    "t_test": "ji.t_test(fit, ...)",
    "wald_test": "ji.wald_test(fit, ...)",
    "f_test": "ji.wald_test(fit, ..., use_f=True)",
    "score_test": "ji.score_test(fit, ...)",
    "fit_history": "ji.trace(X, y, family)",
}
NEEDS_DATA |= {
    f"resid_{kind}": f"ji.residuals(fit, X, y, kind={kind!r})"
    for kind in ("response", "pearson", "deviance", "working", "anscombe")
}


@pytree
class Fit:
    r"""The fit of one dataset or of a batch of them.

    Every array has the batch axes ``...`` in front; ``fit[i]`` is the fit of one dataset, ``len(fit)`` the length of
    the first batch axis and ``fit.shape`` the batch shape. A fit holds O(p²) numbers a dataset and never the data:
    functions that need X and y take them again. Names are statsmodels' wherever it has one.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit = ji.fit(X, jnp.stack([y, y[::-1]]), ji.Poisson())
      >>> fit
      Fit(Poisson, shape=(2,), p=2, dtype=float32)
      >>> print(fit.bse.shape, fit[0].bse.round(2))
      (2, 2) [0.48 0.13]
      >>> print(fit.predict(X[:1]).round(1))
      [[ 1.4]
       [10. ]]

    Attributes:
      params: estimated coefficients, ``(..., p)``. NaN for INVALID_DATA and where aliased; for SEPARATED a point on
        the way to infinity along ``direction``.
      root: R, upper triangular, with R'R = X'WX + penalty at the estimate and unit dispersion, ``(..., p, p)``. It
        holds twice the digits of that product. Zero in the rows and columns of aliased coefficients. None under
        ``ji.LBFGS(information=False)``: what needs it then raises ValueError.
      aliased: which columns of X the ones before them span: the fit is that of the others, ``(..., p)``.
      penalty: the penalty or fallback that the fit was given, one value a coefficient, zero where it was not used; None
        if there was none.
      direction: of recession, largest entry ±1, the proof that no finite estimate exists without a penalty; zero
        elsewhere, ``(..., p)``.
      llf: log-likelihood with all its constants, ``(...)``; a Gaussian identity fit profiles its scale, as elsewhere.
      deviance, pearson_chi2: ``(...)``.
      scale: dispersion φ; 1 for Binomial, Poisson and NegativeBinomial, else Pearson's χ²/df_resid, unless ``scale=``
        said otherwise, ``(...)``.
      nobs: number of observations, the sum of the frequency weights, ``(...)``.
      n_iter: turns of the loop, step-halvings included, ``(...)``; under ``ji.LBFGS`` passes over the data.
      status: a ``ji.Status`` code, ``(...)``.
      penalized: whether a penalty made the estimate, be it the ``penalty`` or the ``fallback`` of ``fit``, ``(...)``.
      unpenalized_status: the status before the fallback, the reason for it; elsewhere ``status``, ``(...)``.
      score_norm: Euclidean norm of the (penalized) score at the estimate, ``(...)``.
      newton_decrement: distance to the optimum in standard errors, ``(...)``.
      min_weight: smallest working weight of a row with positive weight, ``(...)``.
      family: the family fitted; where NegativeBinomial() left α open, ``family.alpha`` is its estimate, 0 if the data
        are not overdispersed (status BOUNDARY). Standard errors and ``aic`` take it as known, as MASS's.
      alpha_se: standard error of that α, ``(...)``; None where it was not estimated.
    """

    params: Array
    root: Array | None
    aliased: Array
    penalty: Penalty | None
    direction: Array
    llf: Array
    deviance: Array
    pearson_chi2: Array
    scale: Array
    nobs: Array
    n_iter: Array
    status: Array
    penalized: Array
    unpenalized_status: Array
    score_norm: Array
    newton_decrement: Array
    min_weight: Array
    family: Family
    alpha_se: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch shape; ``()`` for one dataset."""
        return self.params.shape[:-1]

    def __getattr__(self, name: str) -> Any:
        if name in NEEDS_DATA:
            raise AttributeError(f"a fit stores no data: for {name} write {NEEDS_DATA[name]}")
        raise AttributeError(f"'Fit' object has no attribute '{name}'")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("this fit is of one dataset: it has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Fit]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Fit:
        """The fit, or fits, at ``index`` of the batch axes.

        Raises:
          IndexError: for a number that is out of range, or too many.
        """
        if not self.shape:
            raise TypeError("this fit is of one dataset: it cannot be indexed")
        index = _of_batch_axes(index, self.shape)
        family, self_without = self.family, jax.tree.map(lambda leaf: leaf[index], self._arrays())
        return Fit(**self_without, family=jax.tree.map(lambda leaf: _pick(leaf, index, self.shape), family))

    def _arrays(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "family"}

    @property
    def converged(self) -> Array:
        """Whether the estimate of all coefficients exists and was reached: status CONVERGED, ``(...)``."""
        return self.status == Status.CONVERGED

    @property
    def rank(self) -> Array:
        """Coefficients that were estimated: those not aliased, ``(...)``."""
        return (~self.aliased).sum(-1, dtype=self.params.dtype)

    @property
    def used_params(self) -> Array:
        """``params``, zero where aliased: such columns take no part in a linear predictor, ``(..., p)``."""
        return jnp.where(self.aliased, 0.0, self.params)

    @property
    def df_model(self) -> Array:
        """Rank of X minus one, ``(...)``."""
        return self.rank - 1

    @property
    def df_resid(self) -> Array:
        """Observations minus the rank of X, ``(...)``."""
        return self.nobs - self.rank

    @property
    def aic(self) -> Array:
        """-2 llf + 2 rank, ``(...)``; as in statsmodels, the dispersion is not counted."""
        return -2 * self.llf + 2 * self.rank

    @property
    def bic(self) -> Array:
        """-2 llf + rank log(nobs), ``(...)``; the dispersion is not counted."""
        return -2 * self.llf + self.rank * jnp.log(self.nobs)

    @property
    def penalty_curvature(self) -> Array | None:
        """Diagonal of the second derivative of the penalty's quadratic part, ``(..., p)``, or None."""
        return None if self.penalty is None else self.penalty.diagonal

    @property
    def information(self) -> Array:
        """X'WX at the estimate at unit dispersion, without the penalty, ``(..., p, p)``."""
        if self.penalty_curvature is None:
            return self.curvature
        return plus_diagonal(self.curvature, -self.penalty_curvature)

    @property
    def bic_llf(self) -> Array:
        """``bic`` under statsmodels' other name, ``(...)``."""
        return self.bic

    @property
    def bic_deviance(self) -> Array:
        """deviance - df_resid log(nobs), ``(...)``."""
        return self.deviance - self.df_resid * jnp.log(self.nobs)

    @property
    def curvature(self) -> Array:
        """Information plus the penalty's second derivative at unit dispersion, ``(..., p, p)``."""
        root = self.known_root()
        return jnp.einsum("...ki,...kj->...ij", root, root, precision=HIGHEST)

    @property
    def condition_number(self) -> Array:
        """2-norm condition number of X'WX (with the penalty's part, if any) at the estimate, ``(...)``."""
        return condition_number(self.known_root())

    def cov_params(self) -> Array:
        """Covariance of the estimate, φ (X'WX + penalty)⁻¹, ``(..., p, p)``; NaN where singular or aliased."""
        half = self.half_inverse()
        return self.scale[..., None, None] * jnp.swapaxes(half, -1, -2) @ half

    @property
    def bse(self) -> Array:
        """Standard errors, ``(..., p)``."""
        return jnp.sqrt(self.scale[..., None] * jnp.square(self.half_inverse()).sum(-2))

    def half_inverse(self, aliased: float = math.nan) -> Array:
        """H with HᵀH the inverse of the curvature, ``(..., p, p)``; ``aliased`` in the columns that are."""
        return jnp.where(self.aliased[..., None, :], aliased, half_inverse_of_root(self.known_root()))

    def known_root(self) -> Array:
        """``root``, or a ValueError where the fit has none."""
        if self.root is None:
            raise ValueError(
                "the fit holds no information matrix, which standard errors, tests and the condition number need: "
                "fit with config=ji.LBFGS(information=True), or ji.IRLS()"
            )
        return self.root

    @property
    def tvalues(self) -> Array:
        """Estimates over standard errors, ``(..., p)``."""
        return self.params / self.bse

    @property
    def pvalues(self) -> Array:
        """Two-sided p-values of the standard normal, as statsmodels' GLM reports them, ``(..., p)``."""
        return 2 * norm.sf(jnp.abs(self.tvalues))

    def conf_int(self, alpha: float = 0.05) -> Array:
        """Wald intervals of level 1-alpha, ``(..., p, 2)``; ``ji.profile_conf_int`` has those of the likelihood."""
        reach = normal_reach(alpha, self.params.dtype) * self.bse
        return jnp.stack([self.params - reach, self.params + reach], axis=-1)

    def predict(self, X: ArrayLike, *, offset: ArrayLike | None = None, linear: bool = False) -> Array:
        """Fitted mean at new rows ``X (..., m, p)``, or the linear predictor, ``(..., m)``.

        Aliased columns are left out, as in R: what it says of rows that break their dependence on the others is of no
        use.

        Args:
          X: new rows.
          offset: known part of the linear predictor, ``(..., m)``.
          linear: whether to give the linear predictor.

        Returns:
          ``(..., m)``; for ``Binomial(trials=...)`` the probability.

        Raises:
          ValueError: for shapes that do not fit.
        """
        X = jnp.asarray(X, self.params.dtype)
        if X.ndim < 2 or X.shape[-1] != self.params.shape[-1]:
            raise ValueError(
                f"predict(X): X has shape {X.shape}, expected (..., m, {self.params.shape[-1]}): a column a coefficient"
            )
        eta = jnp.einsum("...mp,...p->...m", X, self.used_params, precision=HIGHEST)
        if offset is not None:
            offset = jnp.asarray(offset, eta.dtype)
            if offset.shape[-1:] not in ((), X.shape[-2:-1]):
                raise ValueError(f"predict(offset): offset has shape {offset.shape}, expected (..., {X.shape[-2]})")
            eta = eta + offset
        return eta if linear else over_rows(self.family, eta.ndim - 1).mean(eta)

    def summary(
        self,
        xname: Sequence[str] | None = None,
        yname: str = "y",
        alpha: float = 0.05,
        null: NullModel | None = None,
    ) -> str:
        """For one fit the table of statsmodels' ``summary()``; for a batch counts by status, and quantiles.

        Args:
          xname: names of the coefficients; x0, x1, ... by default.
          yname: name of the response.
          alpha: the intervals have level 1-alpha.
          null: ``ji.null_model(fit, y, ...)``, for the pseudo R².
        """
        names = column_names(self, xname)
        return summary_of_batch(self, names) if self.shape else summary_of_one(self, names, yname, alpha, null)

    def to_dataframe(self, xname: Sequence[str] | None = None, alpha: float = 0.05) -> Any:
        """A tidy pandas data frame, one row a dataset and coefficient.

        Its columns: ``batch``, the index of the dataset (``batch_0``, ``batch_1``, ... where there are several batch
        axes, none for one dataset), ``coefficient``, ``estimate``, ``bse``, ``tvalue``, ``pvalue``, ``conf_low``,
        ``conf_high``, ``status``, ``converged`` and ``n_iter``.

        Args:
          xname: names of the coefficients; x0, x1, ... by default.
          alpha: the intervals have level 1-alpha.

        Raises:
          ImportError: where pandas, an optional dependency, is missing.
        """
        return dataframe_of(self, column_names(self, xname), alpha)

    def __repr__(self) -> str:
        family = type(self.family).__name__
        if not hasattr(self.params, "dtype"):
            return f"Fit({family})"  # a tree of something else, axis numbers or specifications say
        return f"Fit({family}, shape={self.shape}, p={self.params.shape[-1]}, dtype={self.params.dtype})"


def over_rows(family: Family, depth: int) -> Family:
    """The family with its parameters, one value a dataset, laid out over ``depth`` batch axes and an axis of rows."""
    return jax.tree.map(
        lambda leaf: leaf.reshape((1,) * (depth - leaf.ndim) + leaf.shape + (1,)) if jnp.ndim(leaf) else leaf, family
    )


def _of_batch_axes(index: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The index with a part for every batch axis that it has to do with."""

    def axes(part: Any) -> int:
        """How many axes it picks from."""
        if part is None or part is Ellipsis:
            return 0
        return np.ndim(part) if getattr(part, "dtype", None) == np.dtype(bool) else 1

    parts = index if isinstance(index, tuple) else (index,)
    rest = len(shape) - sum(map(axes, parts))
    if rest < 0:
        raise IndexError(f"fit[...]: the index has {len(shape) - rest} axes, the batch {len(shape)}: {shape}")
    whole: list[Any] = []
    axis = 0
    for part in parts:
        if isinstance(part, (int, np.integer)) and not -shape[axis] <= part < shape[axis]:
            raise IndexError(f"fit[...]: index {part} is out of range for batch axis {axis} of length {shape[axis]}")
        whole += [slice(None)] * rest if part is Ellipsis else [part]
        axis += rest if part is Ellipsis else axes(part)
    return tuple(whole)


def _pick(leaf: Array, index: Any, shape: tuple[int, ...]) -> Array:
    """A family parameter with the batch axes of its fit is picked with it; a scalar serves all."""
    return leaf[index] if jnp.shape(leaf)[: len(shape)] == shape else leaf
