r"""The loop: Fisher scoring for T datasets at once, one ``lax.while_loop``, ignorant of how X is stored.

Every turn makes one pass over the data at a candidate β + δ, for the loss, the score s and the information G there.
A lane whose loss rose, or whose candidate left the family's domain, halves δ and tries again; any other lane accepts
and solves G δ = s for its next step. The Newton decrement √(sᵀG⁻¹s/φ) is the distance to the optimum in standard
errors. It decides when a lane is done, and the pass of ``statistics`` at the final β proves or refutes it.

Finished lanes are frozen by mask; no operation crosses lanes but the ``any`` of the loop's condition.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import linalg
from jaxirls.config import IRLS
from jaxirls.designs import Design, Kernel, Sums, Terms
from jaxirls.dispersion import Scale, dispersion, is_estimated
from jaxirls.families import Family
from jaxirls.penalties import Penalty
from jaxirls.separation import ABSENT, recession, row_cones
from jaxirls.status import Status

RUNNING = -1
MAX_HALVINGS = 60
# Enough for nearly every well-posed dataset; what is then unfinished is finished among its own kind.
FIRST_PASSES = 8
# A bent score is solved by steps that converge linearly.
FIRST_BENT_PASSES = 24


class Rows(NamedTuple):
    """Row data, leaves ``(n, T)``, ``(n, 1)``, ``(1, T)`` or ``(1, 1)``; ``None`` where the user gave nothing."""

    y: Array
    offset: Array | None
    freq_weights: Array | None
    var_weights: Array | None
    family: Family


class Problem(NamedTuple):
    """The constant data of T datasets."""

    design: Design
    rows: Rows
    penalty: Penalty | None  # leaves (p | 1, T | 1)
    start: Array | None  # (p, T) or (p, 1)
    scale: Scale  # (T,) or (1,): a known dispersion; or how to estimate it
    invalid: Array  # (T,)

    @property
    def curvature(self) -> Array | None:
        """Diagonal of the second derivative of the penalty's quadratic part, (p | 1, T | 1)."""
        return None if self.penalty is None else self.penalty.diagonal


class State(NamedTuple):
    """What the next turn needs."""

    beta: Array  # (p, T), the accepted coefficients
    step: Array  # (p, T), the step to try next
    loss: Array  # (T,), objective at beta
    decrement: Array  # (T,), Newton decrement at beta, in standard errors
    halvings: Array  # (T,), of the step being tried
    n_iter: Array  # (T,), passes made
    code: Array  # (T,), RUNNING or how the loop ended for this lane, before proof


class Solution(NamedTuple):
    """The fit of T datasets, and what is known about it."""

    params: Array  # (p, T)
    information: Array  # (p, p, T), X'WX at unit dispersion, penalty excluded
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


def begin(problem: Problem, config: IRLS) -> tuple[State, Solution, Array]:
    """Start, the first passes, and the statistics there; also which lanes are still open, without a proof."""
    bends = problem.penalty is not None and problem.penalty.bends
    passes = FIRST_BENT_PASSES if bends else FIRST_PASSES
    state = run(problem, start(problem, config), config, min(passes, config.max_iter))
    solution, certain = statistics(problem, state, config)
    # A lane that stopped where the proof then failed had too good a forecast of its last step: it goes on from there.
    early = (state.code == Status.CONVERGED) & (solution.status == Status.STALLED)
    state = state._replace(
        step=jnp.where(early, 0.0, state.step),
        loss=jnp.where(early, jnp.inf, state.loss),
        decrement=jnp.where(early, jnp.inf, state.decrement),
        code=jnp.where(early, RUNNING, state.code).astype(jnp.int32),
    )
    return state, solution, (state.code == RUNNING) | ~certain


def finish(problem: Problem, state: State, open_: Array, config: IRLS) -> Solution:
    """Decide separation for the open lanes, run the others among them to their end, and give all their statistics."""
    lanes, p = open_.shape[0], problem.design.p
    cones = _cones(problem)
    if cones is not None:
        rows = problem.rows
        shape = (problem.design.n, lanes)
        present = _weights(rows)
        keep = jnp.broadcast_to(open_[None], shape)
        if present is not None:
            keep = keep & (present > 0)
        cone = jnp.where(keep, jnp.broadcast_to(cones, shape), ABSENT)
        found = recession(problem.design.lanes(lanes), cone)
        overlap, direction = found.decided & ~found.separated, found.direction
        code = jnp.where(open_ & found.separated, Status.SEPARATED, state.code)
        state = state._replace(code=code.astype(jnp.int32))
    else:
        overlap, direction = jnp.ones(lanes, bool), jnp.zeros((p, lanes), state.beta.dtype)
    solution, certain = statistics(problem, run(problem, state, config, config.max_iter), config)
    undecided = (solution.status == Status.CONVERGED) & ~certain & ~overlap
    status = jnp.where(undecided, Status.MAX_ITERATIONS, solution.status).astype(jnp.int32)
    separated = status == Status.SEPARATED
    return solution._replace(status=status, direction=jnp.where(separated, direction, 0.0))


def start(problem: Problem, config: IRLS) -> State:
    """Where the loop begins: the user's ``start``, or one weighted least squares fit to the starting means."""
    design, rows = problem.design, problem.rows
    lanes, dtype = problem.invalid.shape[0], rows.y.dtype
    p = design.p
    anchor = jnp.zeros((p, lanes), dtype)
    if problem.start is not None:
        first = anchor = problem.start + jnp.zeros((p, lanes), dtype)
        singular = jnp.zeros(lanes, bool)
    else:
        average = _average(problem)[None]
        first, singular = _least_squares(problem, _around_response, (rows, average))
        if rows.family.guards_domain:
            # The predictor of the average is inside the domain: steps are halved towards it.
            anchor, _ = _least_squares(problem, _around_average, (rows, average))

    code = jnp.where(singular, Status.RANK_DEFICIENT, RUNNING)
    code = jnp.where(problem.invalid, Status.INVALID_DATA, code)
    return State(
        beta=anchor,
        step=first - anchor,
        loss=jnp.full(lanes, jnp.inf, dtype),
        decrement=jnp.full(lanes, jnp.inf, dtype),
        halvings=jnp.zeros(lanes, jnp.int32),
        n_iter=jnp.zeros(lanes, jnp.int32),
        code=code.astype(jnp.int32),
    )


def _around_response(eta: Array, data: tuple[Rows, Array]) -> Terms:
    """One least squares step from η₀ = g(starting mean): the target Wη₀ + score, less the offset."""
    rows, average = data
    at = rows.family.starting_predictor(rows.y, average)
    work = rows.family.working(at, rows.y)
    target = at if rows.offset is None else at - rows.offset
    return Terms(_weigh(rows, work.weight), _weigh(rows, work.weight * target + work.score))


def _around_average(eta: Array, data: tuple[Rows, Array]) -> Terms:
    """Least squares to the constant predictor of the average response, or of a mean inside the family's range."""
    rows, average = data
    at = rows.family.starting_predictor(average, average) + jnp.zeros_like(rows.y)
    target = at if rows.offset is None else at - rows.offset
    return Terms(_weigh(rows, jnp.ones_like(target)), _weigh(rows, target))


def run(problem: Problem, state: State, config: IRLS, max_iter: int) -> State:
    """Turns until every lane is done or has made ``max_iter`` passes. Resumable: the result may be run further."""

    def running(state: State) -> Array:
        return (state.code == RUNNING) & (state.n_iter < max_iter)

    def turn(state: State) -> State:
        active = running(state)
        after = _turn(problem, state, config)
        return jax.tree.map(lambda new, old: jnp.where(active, new, old), after, state)

    return lax.while_loop(lambda state: jnp.any(running(state)), turn, state)


def _turn(problem: Problem, state: State, config: IRLS) -> State:
    dtype = state.loss.dtype
    eps = jnp.finfo(dtype).eps
    candidate = state.beta + state.step
    gram, score, loss, scale, total = _evaluate(problem, candidate)
    factor = linalg.factorize(_plus(gram, problem.curvature))
    score, half, loss = _bent(problem, candidate, factor, score, loss)

    finite = jnp.isfinite(loss) & jnp.isfinite(score).all(0)
    noise = 16 * eps * (jnp.abs(state.loss) + total)
    accept = finite & ((loss <= state.loss + noise) | ~jnp.isfinite(state.loss))

    singular = ~(factor.pivot > pivot_tolerance(problem.design.p, dtype))
    size = jnp.sqrt(jnp.square(half).sum(0))
    step = linalg.backward(factor, half)

    # Newton's decrement falls quadratically, Fisher scoring's linearly; the last ratio bounds the next one either way.
    unit = jnp.sqrt(scale)
    decrement = size / jnp.where(unit > 0, unit, 1.0)
    ahead = jnp.where(
        jnp.isfinite(state.decrement), decrement * jnp.minimum(decrement / state.decrement, 1.0), decrement
    )
    tol = config.tolerance(dtype)
    floor = 8 * eps * jnp.sqrt(_quadratic(gram, candidate))
    done = (ahead <= tol / 64) | (size <= floor) | ((decrement <= tol) & (decrement > state.decrement / 2))

    halvings = jnp.where(accept, 0, state.halvings + 1)
    stuck = ~accept & (halvings > MAX_HALVINGS)
    code = jnp.where(stuck, jnp.where(finite, Status.STALLED, Status.BOUNDARY), RUNNING)
    code = jnp.where(accept & singular, Status.STALLED, code)
    code = jnp.where(accept & done & ~singular, Status.CONVERGED, code)
    beta = jnp.where(accept, candidate, state.beta)
    return State(
        beta=jnp.where(code == Status.CONVERGED, beta + step, beta),
        step=jnp.where(accept, step, state.step / 2),
        loss=jnp.where(accept, loss, state.loss),
        decrement=jnp.where(accept, decrement, state.decrement),
        halvings=halvings,
        n_iter=state.n_iter + 1,
        code=code.astype(jnp.int32),
    )


def statistics(problem: Problem, state: State, config: IRLS) -> tuple[Solution, Array]:
    """One pass at the final β, and the proof.

    Returns the solution and whether its status is certain: a converged lane of a family that can be separated also
    needs the certificate that the estimate exists. It is Newton's: for a log-likelihood with |ℓ'''| <= ℓ'' per unit of
    x'd (logit, Poisson log), the maximum exists if the decrement is below ½ / maxᵢ|xᵢ|_{G⁻¹} (Bach 2010, Electron. J.
    Statist. 4), and |xᵢ|²_{G⁻¹} <= 1/wᵢ.
    """
    design, rows = problem.design, problem.rows
    dtype = state.loss.dtype
    beta = state.beta
    total = design.accumulate(beta, rows, _final)
    gram, score = total.gram, total.score
    deviance, chi2, nobs = total.sums
    smallest = jnp.where(jnp.isfinite(total.minima[0]), total.minima[0], 0.0)
    if problem.curvature is not None:
        score = score - problem.curvature * beta
    scale = dispersion(problem.scale, rows.family.has_dispersion, chi2, deviance, nobs - design.p)
    at = rows.family.likelihood_scale(scale, deviance, nobs)
    llf = _saturated(problem, at) - 0.5 * deviance / at

    factor = linalg.factorize(_plus(gram, problem.curvature))
    score, half, _ = _bent(problem, beta, factor, score, deviance)
    size = jnp.sqrt(jnp.square(half).sum(0))
    unit = jnp.sqrt(scale)
    decrement = size / jnp.where(unit > 0, unit, 1.0)
    floor = 64 * jnp.finfo(dtype).eps * jnp.sqrt(_quadratic(gram, beta) + nobs)
    proven = jnp.isfinite(decrement) & ((decrement <= config.tolerance(dtype)) | (size <= floor))

    status = jnp.where(state.code == RUNNING, Status.MAX_ITERATIONS, state.code)
    status = jnp.where((status == Status.CONVERGED) & ~proven, Status.STALLED, status).astype(jnp.int32)
    invalid = status == Status.INVALID_DATA
    deficient = status == Status.RANK_DEFICIENT

    def blank(value: Array, where: Array = invalid) -> Array:
        return jnp.where(where, jnp.nan, value)

    solution = Solution(
        params=blank(beta, invalid | deficient),
        information=blank(gram),
        direction=jnp.zeros_like(beta),
        score_norm=blank(jnp.sqrt(jnp.square(score).sum(0))),
        newton_decrement=blank(decrement),
        min_weight=blank(smallest),
        deviance=blank(deviance, invalid | deficient),
        pearson_chi2=blank(chi2, invalid | deficient),
        scale=blank(scale, invalid | deficient),
        llf=blank(llf, invalid | deficient),
        nobs=nobs,
        n_iter=state.n_iter,
        status=status,
    )
    if _cones(problem) is None:
        return solution, jnp.ones_like(invalid)
    return solution, (jnp.square(size) <= smallest / 4) & (status == Status.CONVERGED) | invalid | deficient


def _cones(problem: Problem) -> Array | None:
    """The cones of the rows, or None where a finite estimate always exists: under a penalty, and for some links."""
    return None if problem.penalty is not None else row_cones(problem.rows.family, problem.rows.y)


def pivot_tolerance(p: int, dtype: jnp.dtype) -> float:
    """The squared pivot below which an equilibrated p × p Gram matrix is singular to rounding."""
    return 4 * p * float(jnp.finfo(dtype).eps)


def _final(eta: Array, rows: Rows) -> Terms:
    """The kernel of the last pass: the sums that the results are made of."""
    family, y = rows.family, rows.y
    at = _shift(rows, eta)
    work = family.working(at, y)
    weight = _weigh(rows, work.weight)
    present = _weights(rows)
    freq = jnp.ones_like(at) if rows.freq_weights is None else rows.freq_weights + jnp.zeros_like(at)
    deviance = _weigh(rows, family.unit_deviance(at, y))
    chi2 = _weigh(rows, jnp.square(family.pearson_residual(at, y)))
    seen = weight if present is None else jnp.where(present > 0, weight, jnp.inf)
    return Terms(weight, _weigh(rows, work.score), (deviance, chi2, freq), (seen,))


def _saturated(problem: Problem, scale: Array) -> Array:
    """The log-likelihood at μ = y, all constants included."""

    def row(data: tuple[Rows, Array]) -> Array:
        rows, scale = data
        var = jnp.ones_like(scale) if rows.var_weights is None else rows.var_weights
        term = rows.family.log_saturated(rows.y, jnp.where(var > 0, var, 1.0) / scale)
        term = term if rows.freq_weights is None else rows.freq_weights * term
        present = _weights(rows)
        return term if present is None else jnp.where(present > 0, term, 0.0)

    return problem.design.total((problem.rows, scale[None]), row, scale.shape[0])


def _evaluate(problem: Problem, beta: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Information, score, objective, a running dispersion and the total weight at β."""
    design, rows = problem.design, problem.rows
    free = is_estimated(problem.scale, rows.family.has_dispersion)

    def kernel(eta: Array, rows: Rows) -> Terms:
        at = _shift(rows, eta)
        work = rows.family.working(at, rows.y)
        loss, excess = work.loss, None
        if work.excess is not None and _weights(rows) is None:
            loss, excess = work.partial_loss, work.excess
        if rows.family.guards_domain:
            loss = jnp.where(rows.family.valid_predictor(at), loss, jnp.inf)
        sums = [_weigh(rows, loss)]
        if free:
            sums.append(_weigh(rows, jnp.square(rows.family.pearson_residual(at, rows.y))))
        return Terms(_weigh(rows, work.weight), _weigh(rows, work.score), tuple(sums), excess=excess)

    total: Sums = design.accumulate(beta, rows, kernel)
    loss, score = total.sums[0] + total.log_excess, total.score
    weight = _total_weight(problem)
    if problem.curvature is not None:
        score = score - problem.curvature * beta
        loss = loss + 0.5 * (problem.curvature * jnp.square(beta)).sum(0)
    # While the loop runs Pearson's rule serves every rule, and the degrees of freedom never run out.
    scale, chi2 = (None, total.sums[1]) if free else (problem.scale, loss)
    unit = dispersion(scale, free, chi2, loss, jnp.maximum(weight - design.p, 1.0))
    return total.gram, score, loss, unit, weight


def _least_squares(problem: Problem, kernel: Kernel, data: Any) -> tuple[Array, Array]:
    """The solution of one weighted least squares problem, and whether its Gram matrix is singular."""
    lanes, p = problem.invalid.shape[0], problem.design.p
    zero = jnp.zeros((p, lanes), problem.rows.y.dtype)
    total = problem.design.accumulate(zero, data, kernel)
    factor = linalg.factorize(_plus(total.gram, problem.curvature))
    singular = ~(factor.pivot > pivot_tolerance(p, zero.dtype))
    return linalg.solve(factor, total.score), singular


def _bent(
    problem: Problem, beta: Array, factor: linalg.Factor, score: Array, loss: Array
) -> tuple[Array, Array, Array]:
    """The score s with the penalty's bend, L⁻¹s, and what must not rise."""
    penalty, design, rows = problem.penalty, problem.design, problem.rows
    if penalty is None or not penalty.bends:
        return score, linalg.forward(factor, score), loss
    scale = dispersion(problem.scale, False, loss, loss, loss)
    rate = penalty.rate(rows.family, _shift(rows, design.predict(beta)))
    score = score + 0.5 * scale[None] * design.pull(_weigh(rows, design.variances(factor) * rate))
    half = linalg.forward(factor, score)
    loss = penalty.descends(loss, half, factor, scale)
    return score, half, jnp.where(factor.pivot > 0, loss, jnp.inf)


def _plus(gram: Array, curvature: Array | None) -> Array:
    if curvature is None:
        return gram
    p = gram.shape[0]
    return gram.at[jnp.arange(p), jnp.arange(p)].add(jnp.broadcast_to(curvature, (p, gram.shape[-1])))


def _quadratic(gram: Array, beta: Array) -> Array:
    return jnp.maximum((gram * beta[:, None] * beta[None, :]).sum((0, 1)), 0.0)


def _shift(rows: Rows, eta: Array) -> Array:
    return eta if rows.offset is None else eta + rows.offset


def _weights(rows: Rows) -> Array | None:
    if rows.freq_weights is None:
        return rows.var_weights
    return rows.freq_weights if rows.var_weights is None else rows.freq_weights * rows.var_weights


def _weigh(rows: Rows, term: Array) -> Array:
    """The term times the row's weight; exactly zero where the weight is, whatever the term."""
    weight = _weights(rows)
    return term if weight is None else jnp.where(weight > 0, weight * term, 0.0)


def _total_weight(problem: Problem) -> Array:
    lanes = problem.invalid.shape[0]
    if _weights(problem.rows) is None:
        return jnp.full(lanes, problem.design.n, problem.rows.y.dtype)
    return problem.design.total(problem.rows, lambda rows: _weigh(rows, jnp.ones_like(rows.y)), lanes)


def _average(problem: Problem) -> Array:
    """The weighted mean response."""
    total = problem.design.total(problem.rows, lambda rows: _weigh(rows, rows.y), problem.invalid.shape[0])
    return total / _total_weight(problem)
