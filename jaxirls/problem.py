r"""T datasets laid out for the loop, and where the loop stands with them. Lanes are on the last axis."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxirls.bends import Bend, bend
from jaxirls.config import Algorithm
from jaxirls.designs import Design
from jaxirls.dispersion import Scale, is_estimated
from jaxirls.equations import Equations, System
from jaxirls.families.base import Working
from jaxirls.linalg import colored
from jaxirls.penalties import Penalty
from jaxirls.rows import Origin, Rows
from jaxirls.special import log1p_small

# Besides ``RUNNING``, a lane without a status: stopped, as the Gram matrix is of no use.
ILL_CONDITIONED = -2


class Problem(NamedTuple):
    """The constant data of T datasets."""

    design: Design
    rows: Rows
    penalty: Penalty | None  # leaves (p | 1, T | 1)
    start: Array | None  # (p, T) or (p, 1)
    scale: Scale  # (T,) or (1,): a known dispersion; or how to estimate it
    invalid: Array  # (T,), as far as is known: rows are looked at by the start, or when ``checked``
    aliased: Array | None = None  # (p, T): columns left out of the fit, or None
    origin: Origin | None = None

    @property
    def lanes(self) -> int:
        """T."""
        return self.invalid.shape[0]

    @property
    def checked(self) -> Problem:
        """The same, and it is known which datasets have invalid rows."""
        valid = self.design.fold(jnp.logical_and, self.valid_rows, self.lanes)
        return self._replace(invalid=self.invalid | ~valid)

    @property
    def valid_rows(self) -> Array:
        """Which rows can be fitted, (n, T)."""
        return self.rows.valid(self.design.predict(jnp.zeros((self.design.p, self.lanes), self.rows.y.dtype)))

    @property
    def system(self) -> System:
        return System(self.design, self.curvature, self.aliased)

    @property
    def rank(self) -> Array | int:
        return self.design.p if self.aliased is None else (~self.aliased).sum(0, dtype=self.rows.y.dtype)

    @property
    def curvature(self) -> Array | None:
        """Diagonal of the second derivative of the penalty's quadratic part, (p | 1, T | 1)."""
        return None if self.penalty is None else self.penalty.diagonal

    @property
    def free(self) -> Array:
        """Which columns no penalty holds back, (p, T)."""
        shape = (self.design.p, self.lanes)
        return jnp.ones(shape, bool) if self.curvature is None else jnp.broadcast_to(self.curvature == 0, shape)

    @property
    def bending(self) -> Penalty | None:
        """The penalty, if it bends the score."""
        return self.penalty if self.penalty is not None and self.penalty.bends else None

    @property
    def estimates_scale(self) -> bool:
        """Whether the dispersion is estimated by the fit."""
        return is_estimated(self.scale, self.rows.family.has_dispersion)

    @property
    def has_newton_steps(self) -> bool:
        """Whether Newton's equations are others than Fisher's, and steps are made of them.

        A bend of the score is measured by Fisher's, and has Newton's steps of its own.
        """
        return not self.rows.family.is_canonical and self.bending is None

    @property
    def has_edge(self) -> bool:
        """Whether the optimum may lie on an edge of the family's domain."""
        return self.rows.family.guards_domain and self.bending is None

    @property
    def present(self) -> Array:
        """Which rows have a positive weight, (n, T)."""
        weight, shape = self.rows.weight, (self.design.n, self.lanes)
        return jnp.ones(shape, bool) if weight is None else jnp.broadcast_to(weight > 0, shape)

    @property
    def total_weight(self) -> Array:
        """Of all rows, (T,)."""
        if self.rows.weight is None:
            return jnp.full(self.lanes, self.design.n, self.rows.y.dtype)
        return self.design.total(self.rows, lambda rows: rows.weigh(jnp.ones_like(rows.y)), self.lanes)

    @property
    def nobs(self) -> Array:
        """The number of observations that the rows stand for, (T,)."""
        freq = self.rows.freq_weights
        if freq is None:
            return jnp.full(self.lanes, self.design.n, self.rows.y.dtype)
        return self.design.total(freq, lambda freq: freq, self.lanes)

    @property
    def mean_response(self) -> Array:
        """Weighted, (T,)."""
        return self.design.total(self.rows, lambda rows: rows.weigh(rows.y), self.lanes) / self.total_weight

    def predict(self, beta: Array) -> Array:
        """The linear predictor with its offset, (n, T)."""
        return self.rows.shift(self.design.predict(beta))


class State(NamedTuple):
    """What the next turn needs."""

    beta: Array  # (p, T), the accepted coefficients
    step: Array  # (p, T), the step to try next
    limit: Array  # (T,), what the objective at the candidate, or half the slope along the step, may not exceed
    decrement: Array  # (T,), Newton decrement at beta, in standard errors
    halvings: Array  # (T,), of the step being tried
    n_iter: Array  # (T,), turns made
    code: Array  # (T,), RUNNING, ILL_CONDITIONED, or how the loop ended for this lane, before proof


def loss_terms(rows: Rows, work: Working) -> tuple[Array, Array | None]:
    """The loss of every row, (n, T); and, if all weights are one, an excess that it leaves to ``designs.Terms``."""
    if work.excess is None:
        return rows.weigh(work.loss), None
    if rows.weight is None:
        return work.partial_loss, work.excess
    return rows.weigh(work.partial_loss + log1p_small(work.excess)), None


def bent(
    problem: Problem, penalty: Penalty, beta: Array, equations: Equations, scale: Array
) -> tuple[Equations, Array, Bend]:
    """The equations with the bend of the score, the predictor and the bend."""
    eta, factor = problem.predict(beta), equations.factor
    at = bend(penalty, problem.design, factor, problem.rows, eta, scale)
    return equations._replace(score=equations.score + colored(factor, at.half), half=equations.half + at.half), eta, at


def error_unit(dispersion: Array) -> Array:
    """What a standard error is, in units of √(sᵀG⁻¹s)."""
    root = jnp.sqrt(dispersion)
    return jnp.where(root > 0, root, 1.0)


def is_rounding(
    size: Array, decrement: Array, length: Array, reach: Array, residual: Array | None, config: Algorithm
) -> Array:
    """Whether a step that moves √W η by ``size`` is within the rounding of √W η, of the given ``length``, or of β.

    The last half place of β moves it by up to ½ε Σⱼ |βⱼ| ‖√W xⱼ‖, ε/2 times the ``reach``. That can be much, where
    large terms cancel: then only if the step is still small in standard errors, or these are nothing but rounding: the
    data are fitted exactly, with √χ², the ``residual``, within as much. A length that overflows says nothing.
    """
    eps, near = jnp.finfo(size.dtype).eps, decrement <= config.tolerance(size.dtype) ** 0.5
    if residual is not None:
        near = near | ((residual <= eps * reach) & (reach < jnp.inf))
    return ((size <= eps * length) & (length < jnp.inf)) | ((size <= eps * reach) & near)
