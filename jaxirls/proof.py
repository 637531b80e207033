r"""The proof at the end of a fit: its statistics, the optimality of its β, and whether a finite estimate exists.

It is made at β however that was found, and every status follows from it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls import likelihood
from jaxirls.config import Algorithm
from jaxirls.designs import Terms
from jaxirls.dispersion import ScaleRule, dispersion
from jaxirls.edge import is_inside
from jaxirls.equations import Equations, Method
from jaxirls.folds import folded
from jaxirls.likelihood import Asked, LaneEstimate, Likelihood
from jaxirls.linalg import norm
from jaxirls.problem import ILL_CONDITIONED, Problem, State, bent, error_unit, is_rounding, loss_terms
from jaxirls.rows import Rows
from jaxirls.separation import ABSENT, normalized, recedes_along, recession, row_cones, row_ends
from jaxirls.status import RUNNING, Status
from jaxirls.trees import varying

# Where a lane on its way to infinity is looked for: there most are past the rows that are still on the wrong side.
STEPS_AHEAD = 2


class Solution(NamedTuple):
    """The fit of T datasets, and what is known about it."""

    params: Array  # (p, T)
    root: Any  # (p, p, T), R, upper triangular: RᵀR = X'WX + penalty at unit dispersion; None where not asked for
    aliased: Array  # (p, T)
    direction: Array  # (p, T), of recession; zero where there is none
    score_norm: Array
    newton_decrement: Array
    min_weight: Array
    deviance: Array
    pearson_chi2: Array
    scale: Array
    llf: Array
    nobs: Array
    n_iter: Array
    status: Array
    pending: Array | None  # (T,), which lanes' likelihood is still to be found; none, if None

    @property
    def is_pending(self) -> bool:
        """Whether some likelihood is still to be found, of concrete data."""
        return self.pending is not None and bool(np.any(self.pending))

    @property
    def asked(self) -> Asked:
        """The likelihoods, where some are pending."""
        at = LaneEstimate(self.params, self.aliased, self.scale)
        return Asked(cast(Array, self.pending), at, Likelihood(self.deviance, self.llf))

    def completed(self, found: Likelihood) -> Solution:
        """The solution with its likelihood found."""
        return self._replace(deviance=found.deviance, llf=found.llf, pending=None)


def last_pass(problem: Problem, beta: Array, method: Method) -> Equations:
    """The equations at the final β, with the sums that the results are made of."""
    return method(problem.system, beta, problem.rows, partial(_final, has_cones=_has_cones(problem)))


def statistics(problem: Problem, state: State, config: Algorithm, equations: Equations) -> tuple[Solution, Array]:
    """The results and the proof, from the ``last_pass`` at the state's β.

    Returns the solution and whether its status is certain. For that a converged lane of a family that can be separated
    also needs a proof that the estimate exists. A direction of recession d moves no row against its score sᵢ, which
    points to the end that the response has reached, so that with the Pearson residuals rᵢ = sᵢ/√wᵢ of those rows

        minᵢ|rᵢ| ‖√W Xd‖ <= Σ|sᵢ||xᵢ'd| = s'Xd <= ‖G^{-½}X's‖ ‖√W Xd‖:

    there is none if the norm of the whitened score, the decrement at unit dispersion, is below minᵢ|rᵢ|.
    """
    rows, beta = problem.rows, state.beta
    factor, singular = equations.factor, equations.singular
    nobs, chi2 = problem.nobs, equations.sums[1]
    has_cones = _has_cones(problem)
    least, *are_plain = equations.minima[:-1] if has_cones else equations.minima
    plain = are_plain[0] == 1 if are_plain else None
    smallest = jnp.where(jnp.isfinite(least), least, 0.0)
    deviance = equations.sums[0] if plain is None else _deviance_if_plain(problem, beta, equations, plain)
    scale = dispersion(problem.scale, rows.family.has_dispersion, chi2, deviance, nobs - problem.rank)
    at = rows.family.likelihood_scale(scale, deviance, nobs)
    saturated = likelihood.saturated(problem, at) if plain is None else jnp.zeros_like(at)
    llf = likelihood.log_likelihood(saturated, deviance, at)

    penalty, root = problem.bending, factor.root()
    if penalty is not None:
        equations, _, _ = bent(problem, penalty, beta, equations, scale)
    size = jnp.sqrt(jnp.square(equations.half).sum(0))
    decrement = size / error_unit(scale)
    length = jnp.sqrt(jnp.square(factor.length(beta)) + nobs)
    residual = jnp.sqrt(chi2) if problem.estimates_scale else None
    limit = is_rounding(size / 64, decrement, length, factor.reach(beta), residual, config)
    proven = jnp.isfinite(decrement) & ~singular & ((decrement <= config.tolerance(beta.dtype)) | limit)

    status = jnp.where(state.code == RUNNING, Status.MAX_ITERATIONS, state.code)
    status = jnp.where(status == ILL_CONDITIONED, Status.RANK_DEFICIENT, status)
    status = jnp.where((status == Status.CONVERGED) & ~proven, Status.STALLED, status).astype(jnp.int32)
    # The barrier keeps XLA from computing all of this again for every result that it blanks.
    status = lax.optimization_barrier(status)
    invalid = status == Status.INVALID_DATA
    unfitted = invalid | (status == Status.RANK_DEFICIENT)
    aliased = jnp.zeros(beta.shape, bool) if problem.aliased is None else problem.aliased & ~invalid[None]

    def blank(value: Array, where: Array = invalid) -> Array:
        return jnp.where(where, jnp.nan, value)

    solution = Solution(
        params=blank(beta, unfitted[None] | aliased),
        root=None if root is None else blank(root, invalid | singular),
        aliased=aliased,
        direction=jnp.zeros_like(beta),
        score_norm=blank(norm(equations.score)),
        newton_decrement=blank(decrement),
        min_weight=blank(smallest),
        deviance=blank(deviance, unfitted),
        pearson_chi2=blank(chi2, unfitted),
        scale=blank(scale, unfitted),
        llf=blank(llf, unfitted),
        nobs=nobs,
        n_iter=state.n_iter,
        status=status,
        pending=None if plain is None else ~plain,
    )
    if not (has_cones or problem.has_edge):
        return solution, jnp.ones_like(invalid)
    certain = status == Status.CONVERGED
    if has_cones:
        noise = 4 * jnp.finfo(beta.dtype).eps * length
        exists = jnp.square(size + noise) < equations.minima[-1]
        certain = certain & (exists | ~problem.free.any(0))
    if problem.has_edge:
        # Where the weights have no bound, a small decrement is no proof.
        certain = certain & is_inside(problem, beta)
    return solution, certain | invalid


def _final(eta: Array, rows: Rows, has_cones: bool) -> Terms:
    """The kernel of the last pass."""
    family, y = rows.family, rows.y
    at = rows.shift(eta)
    work = family.working(at, y)
    weight = rows.weigh(work.weight)
    present = rows.weight
    chi2 = rows.weigh(family.pearson_chi2(at, y, work))
    minima = [weight if present is None else jnp.where(present > 0, weight, jnp.inf)]
    at_saturation = family.saturates(y)
    if at_saturation is None:
        deviance, excess = rows.weigh(family.unit_deviance(at, y)), None
    else:
        deviance, excess = loss_terms(rows, work)
        plain = at_saturation if present is None else at_saturation | ~(present > 0)
        minima.append(plain.astype(weight.dtype))
    if has_cones:
        down, up = cast(tuple[Array, Array], row_ends(family, y))
        moves = down | up if present is None else (down | up) & (present > 0)
        minima.append(jnp.where(moves, chi2, jnp.inf))
    return Terms(weight, rows.weigh(work.score), (deviance, chi2), tuple(minima), excess)


def _deviance_if_plain(problem: Problem, beta: Array, equations: Equations, plain: Array) -> Array:
    """Twice the loss in ``plain`` lanes; in others NaN, unless the dispersion is estimated from it."""
    twice = 2 * (equations.sums[0] + equations.log_excess)
    if problem.scale is not ScaleRule.DEV:
        return jnp.where(plain, twice, jnp.nan)
    return lax.cond(plain.all(), lambda: twice, lambda: jnp.where(plain, twice, likelihood.deviance(problem, beta)))


class Existence(NamedTuple):
    """Whether T datasets have a finite estimate, as far as that is proven."""

    separated: Array  # (T,), they have none
    overlap: Array  # (T,), they have one
    direction: Array  # (p, T), of recession


def existence(problem: Problem, open_: Array) -> Existence:
    """Decide it for the open lanes."""
    lanes, cones, nothing = open_.shape[0], _cones(problem), unknown(problem)
    if cones is None:
        return nothing._replace(overlap=~nothing.overlap)
    cone = jnp.where(problem.present & open_[None], cones, ABSENT)
    # Along a direction that a penalty holds back nothing recedes.
    found = recession(jnp.where(problem.free[None], problem.design.lanes(lanes), 0.0), cone)
    return Existence(open_ & found.separated, found.decided & ~found.separated, found.direction)


def evident(problem: Problem, state: State) -> Existence:
    """The lanes that are on their way to infinity along what is itself a direction of recession.

    That is looked for in β some steps ahead and, where a few columns alone separate the data, in the largest parts of
    the next step.
    """
    nothing = varying(unknown(problem), problem)
    if _cones(problem) is None or problem.penalty is not None:
        return nothing
    away = (state.n_iter > 0) & ((state.code == RUNNING) | (state.code == ILL_CONDITIONED))

    def ahead() -> Existence:
        cones = cast(Array, _cones(problem))  # here, so that without such lanes y is not read for them
        X, cone = problem.design.lanes(problem.lanes), jnp.where(problem.present, cones, ABSENT)
        part = jnp.abs(state.step) * folded(jnp.maximum, lambda i: jnp.abs(X[i]), X.shape[0])
        largest = jnp.where(part > part.max(0, keepdims=True) / 2, state.step, 0.0)
        later = state.beta + STEPS_AHEAD * state.step
        by_beta, by_step = jax.vmap(partial(recedes_along, X, cone))(jnp.stack([later, largest]))
        separated = away & (by_beta | by_step)
        direction = jnp.where(by_beta[None], later, largest)
        return nothing._replace(separated=separated, direction=normalized(jnp.where(separated[None], direction, 0.0)))

    return lax.cond(away.any(), ahead, lambda: nothing)


def unknown(problem: Problem) -> Existence:
    """Nothing decided."""
    no = jnp.zeros(problem.lanes, bool)
    return Existence(no, no, jnp.zeros((problem.design.p, problem.lanes), problem.rows.y.dtype))


def _cones(problem: Problem) -> Array | None:
    """The cones of the rows, or None where a finite estimate always exists: for some links, and under a bent score."""
    return None if problem.bending is not None else row_cones(problem.rows.family, problem.rows.y)


def _has_cones(problem: Problem) -> bool:
    return jax.eval_shape(_cones, problem) is not None


def marked(state: State, found: Existence) -> State:
    """The state with the separated lanes stopped."""
    return state._replace(code=jnp.where(found.separated, Status.SEPARATED, state.code).astype(jnp.int32))


def concluded(solution: Solution, certain: Array, found: Existence) -> Solution:
    """The solution with the status that is proven, and the proof of separation."""
    undecided = (solution.status == Status.CONVERGED) & ~certain & ~found.overlap
    status = jnp.where(undecided, Status.MAX_ITERATIONS, solution.status)
    status = jnp.where((status == Status.CONVERGED) & solution.aliased.any(0), Status.RANK_DEFICIENT, status)
    direction = jnp.where(found.separated, found.direction, 0.0)
    return solution._replace(status=status.astype(jnp.int32), direction=direction)
