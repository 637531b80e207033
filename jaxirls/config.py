"""How to fit: frozen options of the algorithms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp

from jaxirls.arguments import is_count, is_number

__all__ = ["IRLS", "LBFGS", "Algorithm"]

SOLVERS = ("auto", "cholesky", "qr")


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What the algorithms have in common; ``IRLS`` and ``LBFGS`` are the ones there are."""

    tol: float | None = None
    max_iter: int = 100
    max_condition: float | None = None

    def __post_init__(self) -> None:
        if self.tol is not None and not (is_number(self.tol) and 0 < self.tol < math.inf):
            self._refuse("tol", "a positive number, or None for the default")
        if not is_count(self.max_iter):
            self._refuse("max_iter", "a positive integer")
        if self.max_condition is not None and not (is_number(self.max_condition) and self.max_condition >= 1):
            self._refuse("max_condition", "at least 1, or None")

    def _refuse(self, name: str, allowed: str) -> None:
        raise ValueError(f"{type(self).__name__}({name}={getattr(self, name)!r}): {name} must be {allowed}")

    def tolerance(self, dtype: jnp.dtype) -> float:
        """The tolerance for a dtype."""
        return float(jnp.finfo(dtype).eps) ** 0.5 if self.tol is None else float(self.tol)


@dataclass(frozen=True, kw_only=True)
class IRLS(Algorithm):
    """Options of iteratively reweighted least squares.

    Args:
      tol: the largest Newton decrement, in standard errors, at which a fit counts as converged. The default is the
        square root of the machine epsilon: 1.5e-8 in float64, 3.5e-4 in float32. Steps aim 64 times lower, so that the
        estimate is usually exact to rounding.
        Where the last place of the coefficients alone moves the estimate further (large terms that cancel), its square
        root is enough.
      max_iter: the largest number of turns of the loop, step-halvings included. A turn is one pass over the data; in
        later turns under a link that is not canonical two, under ``Jeffreys()`` and ``MeanBiasReduction()`` about p+2.
        Where the optimum may lie on the edge of the family's domain, each stage of the search there makes up to as
        many.
      max_condition: the condition number of X'WX above which ``fit`` replaces an estimate by its ``fallback``; None
        sets no limit.
      solver: "cholesky" factorizes X'WX; "qr" orthogonalizes √W X, which is slower and loses half as many digits to ill
        conditioning; "auto" does the latter for exactly the datasets that need it. Only QR tells which columns are
        aliased: under "cholesky" a singular X'WX ends a fit as RANK_DEFICIENT, without numbers.

    Raises:
      ValueError: for an option that cannot be right.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> print(repr(ji.Status(int(ji.fit(X, y, ji.Poisson(), config=ji.IRLS(max_iter=2)).status))))
      <Status.MAX_ITERATIONS: 1>
    """

    solver: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in SOLVERS:
            self._refuse("solver", f"one of {', '.join(map(repr, SOLVERS))}")


@dataclass(frozen=True, kw_only=True)
class LBFGS(Algorithm):
    """Options of L-BFGS: the same objective by gradients alone, which are automatic derivatives of the deviance.

    It shares neither score nor weights with IRLS, and is so a second witness of an estimate; and its steps cost O(np),
    where those of IRLS cost O(np²). It is no way to more speed for few columns. For many, say ``information=False``.

    Under ``jax.shard_map`` give ``check_vma=False``: optax's line search does not say what differs between devices.

    Args:
      tol: as in ``IRLS``.
      max_iter: the largest number of steps. Each is one pass over the data, or a few where it must be cut or stretched;
        ``fit.n_iter`` counts the passes.
      max_condition: as in ``IRLS``.
      memory: how many of the last steps the approximate inverse Hessian is made of.
      information: whether X'WX is formed and factorized, once, for the proof of convergence, the standard errors and
        the tests: O(np² + p³) of time and O(p²) of memory. Where p is too large for that, False proves convergence by
        conjugate gradients, in O(np) a step: logit with a ridge, n = 500, p = 20,000 in float64, takes a second and
        1.2 GB in all, where X'WX would be 3.2 GB. The fit then has ``root=None`` and neither standard errors nor a
        condition number; separated data end as MAX_ITERATIONS, columns that depend on others as STALLED, for nothing
        is known of either. Derivatives of the fit do form X'WX.

    Source: Liu & Nocedal (1989), Mathematical Programming 45, 503-528; the steps are optax's.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit, witness = ji.fit(X, y, ji.Poisson()), ji.fit(X, y, ji.Poisson(), config=ji.LBFGS())
      >>> bool(jnp.all(jnp.abs(fit.params - witness.params) < 1e-3 * fit.bse))
      True
    """

    max_iter: int = 1000
    memory: int = 10
    information: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_count(self.memory):
            self._refuse("memory", "a positive integer")
        if not isinstance(self.information, bool):
            self._refuse("information", "True or False")
        if not (self.information or self.max_condition is None):
            self._refuse("max_condition", "None where information is False: no condition number is known then")
