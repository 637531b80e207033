"""How to fit: frozen options of the algorithms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp

__all__ = ["IRLS"]

SOLVERS = ("auto", "cholesky", "qr")


@dataclass(frozen=True, kw_only=True)
class IRLS:
    """Options of iteratively reweighted least squares.

    Args:
      tol: the largest Newton decrement, in standard errors, at which a fit counts as converged. The default is the
        square root of the machine epsilon: 1.5e-8 in float64, 3.5e-4 in float32. Steps aim 64 times lower, so that the
        estimate is usually exact to rounding.
        Where the last place of the coefficients alone moves the estimate further (large terms that cancel), its square
        root is enough.
      max_iter: the largest number of passes over the data, step-halvings included.
      max_condition: the condition number of X'WX above which ``fit`` replaces an estimate by its ``fallback``; None
        sets no limit.
      solver: "cholesky" factorizes X'WX; "qr" orthogonalizes √W X, which is slower and loses half as many digits to ill
        conditioning; "auto" does the latter for exactly the datasets that need it. Only QR tells which columns are
        aliased: under "cholesky" a singular X'WX ends a fit as RANK_DEFICIENT, without numbers.
    """

    tol: float | None = None
    max_iter: int = 100
    max_condition: float | None = None
    solver: str = "auto"

    def __post_init__(self) -> None:
        if self.tol is not None and not (isinstance(self.tol, (int, float)) and 0 < self.tol < math.inf):
            raise ValueError(f"IRLS(tol={self.tol!r}): tol must be a positive number, or None for the default")
        if not (isinstance(self.max_iter, int) and self.max_iter >= 1):
            raise ValueError(f"IRLS(max_iter={self.max_iter!r}): max_iter must be a positive integer")
        if self.max_condition is not None and not (
            isinstance(self.max_condition, (int, float)) and self.max_condition >= 1
        ):
            raise ValueError(f"IRLS(max_condition={self.max_condition!r}): max_condition must be at least 1, or None")
        if self.solver not in SOLVERS:
            raise ValueError(f"IRLS(solver={self.solver!r}): solver must be one of {', '.join(map(repr, SOLVERS))}")

    def tolerance(self, dtype: jnp.dtype) -> float:
        """The tolerance for a dtype."""
        return float(jnp.finfo(dtype).eps) ** 0.5 if self.tol is None else float(self.tol)
