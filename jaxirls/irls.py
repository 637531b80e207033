r"""The loop: Fisher scoring for T datasets at once, one ``lax.while_loop``, ignorant of how X is stored.

Every turn makes one pass over the data at a candidate β + δ, for the loss, the score s and the information G there.
A lane whose loss rose, or whose candidate left the family's domain, halves δ and tries again; any other lane accepts
and solves G δ = s for its next step. Where the loss is convex in η, the first passes do without it: there a step is too
long if the score at its end points back along it by more than half of what it pointed ahead at its start.

The Newton decrement √(sᵀG⁻¹s/φ) is the distance to the optimum in standard errors. It decides when a lane is done, and
the last pass, at the final β, proves or refutes it.

Steps come from the Gram matrix. A lane for which that is ill conditioned is fitted anew, in ``finish_by_qr``, by steps
from QR, on the columns of X that are linearly independent. Near the optimum, and in lanes that the first passes leave
open, steps are Newton's.

Finished lanes are frozen by mask; no operation crosses lanes but the ``any`` of the loop's condition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import linalg
from jaxirls.barrier import STAGES, Barred, strength
from jaxirls.bends import newton_step
from jaxirls.config import IRLS
from jaxirls.designs import Terms
from jaxirls.dispersion import dispersion, is_estimated
from jaxirls.equations import Equations, Method, by_cholesky, by_qr, independent
from jaxirls.kernel import in_one_kernel
from jaxirls.newton import sharpened
from jaxirls.penalties import Penalty
from jaxirls.problem import ILL_CONDITIONED, RUNNING, Problem, State, bent, error_unit, is_rounding, loss_terms
from jaxirls.proof import (
    Existence,
    Solution,
    concluded,
    evident,
    existence,
    is_inside,
    last_pass,
    marked,
    room_left,
    statistics,
)
from jaxirls.rows import Rows
from jaxirls.separation import row_cones
from jaxirls.status import Status
from jaxirls.trees import varying

Limit = int | Array | Callable[[State], Array | int]

MAX_HALVINGS = 60
# Enough for nearly every well-posed dataset; what is then unfinished is finished among its own kind.
FIRST_PASSES = 8
FIRST_BENT_PASSES = 12
# A lane that can be separated, and after so many passes is still so far from an optimum, in standard errors, is taken
# to be so; to reach one in the rest would take luck.
EARLY_PASSES, FAR = 5, 0.2
# Within so many standard errors of the optimum the observed information, where it differs, makes quadratic steps.
NEAR = 0.5


def begin(problem: Problem, config: IRLS) -> tuple[State, Equations | None]:
    """Where the first passes lead, and the last pass there or, if ``begun`` makes that, None."""
    problem = problem if problem.start is None else problem.checked
    return in_one_kernel(partial(first_passes, config), problem)


def begun(problem: Problem, reached: tuple[State, Equations | None], config: IRLS) -> tuple[State, Solution, Array]:
    """The statistics there, where to go on from, and which lanes are still open, without a proof."""
    state, equations = reached
    if equations is None:
        equations = last_pass(problem, state.beta, by_cholesky)
    found = evident(problem, state)
    solution, certain = statistics(problem, marked(state, found), config, equations)
    solution = solution._replace(direction=found.direction)
    # A lane that stopped where the proof then failed had too good a forecast of its last step: it goes on from there.
    early = (state.code == Status.CONVERGED) & (solution.status == Status.STALLED)
    state = state._replace(
        step=jnp.where(early, 0.0, state.step),
        limit=jnp.where(early, jnp.inf, state.limit),
        decrement=jnp.where(early, jnp.inf, state.decrement),
        code=jnp.where(early, RUNNING, state.code),
    )
    ill = _asks_for_qr(state, equations.factor, config)
    state = state._replace(code=jnp.where(ill, ILL_CONDITIONED, state.code).astype(jnp.int32))
    return state, solution, ((state.code == RUNNING) | ill | ~certain) & ~found.separated


def first_passes(config: IRLS, problem: Problem) -> tuple[State, Equations | None]:
    """Start, and as many passes as most lanes need; and the last, in one kernel: it has the data at hand.

    By row that is left to ``begun``: of two functions of much the same size the program compiles fastest.
    """
    state = run_early(problem, start(problem), config, partial(first_limit, problem, config))
    return state, None if problem.design.by_row else last_pass(problem, state.beta, by_cholesky)


def first_limit(problem: Problem, config: IRLS, state: State) -> Array | int:
    """How many passes are the first."""
    if problem.bending is not None:
        return min(FIRST_BENT_PASSES, config.max_iter)
    separable = jax.eval_shape(row_cones, problem.rows.family, problem.rows.y) is not None
    far = (state.decrement > FAR) & separable
    return jnp.minimum(jnp.where(far, EARLY_PASSES, FIRST_PASSES), config.max_iter)


class Resumed(NamedTuple):
    """T lanes of which is known whether they have a finite estimate."""

    state: State
    open: Array  # (T,)
    found: Existence


class Finished(NamedTuple):
    """Where T lanes stand that are finished, but for QR."""

    state: State
    open: Array  # (T,), as they were before
    found: Existence
    anew: Array  # (T,), to be fitted again: the Gram matrix does not lead to their optimum


class Settled(NamedTuple):
    """Lanes whose last pass is made."""

    finished: Finished
    equations: Equations
    aliased: Array | None = None  # (p, T), columns that are left out; none, if None


def resume(problem: Problem, state: State, open_: Array, config: IRLS) -> Resumed:
    """Decide separation for the open lanes. What follows is about as much to compile, in a function of its own."""
    return Resumed(state, open_, existence(problem, open_))


def finish(problem: Problem, resumed: Resumed, config: IRLS) -> tuple[Finished, Solution, Array]:
    """The solutions by steps from the Gram matrix, where the lanes then stand, and which of them ask for QR."""
    settled = settle(problem, resumed, config)
    return settled.finished, conclude(problem, settled, config), _ill(settled, config)


def settle(problem: Problem, resumed: Resumed, config: IRLS) -> Settled:
    """Steps from the Gram matrix to their end, and the last pass there."""
    finished = _finished(problem, resumed, config)
    by_gram = partial(last_pass, method=by_cholesky)
    return Settled(finished, in_one_kernel(by_gram, problem, finished.state.beta))


def _finished(problem: Problem, resumed: Resumed, config: IRLS) -> Finished:
    """The open lanes, those that are separated aside, run to their end."""
    state, open_, found = varying(resumed, problem)
    separated = found.separated
    # On the way to infinity the weights, not X, make the Gram matrix singular, unless it was so from the start.
    anew = open_ & (state.code == ILL_CONDITIONED) & (~separated | (state.n_iter == 0))
    late = partial(run_late, config=config, limit=config.max_iter, method=by_cholesky)
    state = in_one_kernel(late, problem, marked(state, found))
    if problem.has_edge:
        inside = (state.code == Status.CONVERGED) & is_inside(problem, state.beta)
        state = _to_the_edge(problem, state, open_ & ~separated & ~inside, config)
        anew = anew & (state.code != Status.BOUNDARY)
    anew = anew | (open_ & (state.code == ILL_CONDITIONED))
    return Finished(state, open_, found, jnp.zeros_like(anew) if config.solver == "cholesky" else anew)


def resume_by_qr(problem: Problem, finished: Finished, config: IRLS) -> tuple[Array, Finished]:
    """The columns that are left out, (p, T), and the lanes fitted anew where they are to be."""
    finished = varying(finished, problem)
    state, anew = finished.state, finished.anew
    aliased = varying(jnp.zeros(state.beta.shape, bool), problem)
    of_these = problem._replace(invalid=problem.invalid | ~anew)  # the others keep nobody waiting
    aliased, state = lax.cond(
        anew.any(),
        lambda: _select(anew, fit_independent(of_these, finished.found.separated, config), (aliased, state)),
        lambda: (aliased, state),
    )
    return aliased, finished._replace(state=state)


def finish_by_qr(problem: Problem, resumed: tuple[Array, Finished], config: IRLS) -> Solution:
    """The solutions of lanes that ask for QR."""
    aliased, finished = resumed
    return conclude(problem, Settled(finished, _last_pass_by_qr(problem, aliased, finished), aliased), config)


def refit(problem: Problem, settled: Settled, config: IRLS) -> Settled:
    """By QR the lanes that the Gram matrix did not lead to their optimum."""
    aliased, finished = resume_by_qr(problem, settled.finished, config)
    return settled._replace(finished=finished, aliased=aliased)


def settle_by_qr(problem: Problem, settled: Settled, config: IRLS) -> Settled:
    """The last pass of the lanes that ask for QR."""
    settled = varying(settled, problem)
    ill = _ill(settled, config)

    def by_qr_too() -> Equations:
        by_qr_alone = _last_pass_by_qr(problem, settled.aliased, settled.finished)
        return _select(ill, by_qr_alone, settled.equations)

    return settled._replace(equations=lax.cond(ill.any(), by_qr_too, lambda: settled.equations))


def _last_pass_by_qr(problem: Problem, aliased: Array | None, finished: Finished) -> Equations:
    return last_pass(problem._replace(aliased=aliased), finished.state.beta, by_qr)


def conclude(problem: Problem, settled: Settled, config: IRLS) -> Solution:
    """The solutions, with the proof of separation."""
    finished, equations, aliased = settled
    problem = problem if aliased is None else problem._replace(aliased=aliased)
    solution, certain = statistics(problem, finished.state, config, equations)
    return concluded(solution, certain, finished.found)


def complete(problem: Problem, state: State, open_: Array, config: IRLS) -> Solution:
    """The solutions of the open lanes, by all parts that come after the first passes."""
    first, *rest = later_parts(config)
    return reduce(lambda reached, part: part(problem, reached, config), rest, first(problem, state, open_, config))


def later_parts(config: IRLS) -> tuple[Callable[..., Any], ...]:
    """What comes after the first passes: each is compiled apart, and takes what the one before it made."""
    by_qr_too = () if config.solver == "cholesky" else (refit, settle_by_qr)
    return resume, settle, *by_qr_too, conclude


def _ill(settled: Settled, config: IRLS) -> Array:
    """Which lanes ask for QR."""
    finished = settled.finished
    if config.solver == "cholesky":
        return jnp.zeros_like(finished.anew)
    return finished.anew | (finished.open & _asks_for_qr(finished.state, settled.equations.factor, config))


def fit_independent(problem: Problem, separated: Array, config: IRLS) -> tuple[Array, State]:
    """Fit all lanes anew by QR, on the columns that those before them do not span; which are aliased, and the state."""
    aliased, state = start_independent(problem)
    problem = problem._replace(aliased=aliased)
    # Where no estimate exists, a few steps on the way to infinity.
    limit = jnp.where(separated, min(FIRST_PASSES, config.max_iter), config.max_iter)
    state = run(problem, state, config, limit, sharpened(by_qr, problem))
    return aliased, state._replace(code=jnp.where(separated, Status.SEPARATED, state.code).astype(jnp.int32))


def _to_the_edge(problem: Problem, state: State, lanes: Array, config: IRLS) -> State:
    """Follow the barrier's minima to the optimum, for ``lanes``, and tell one on the edge from one inside.

    A step without the barrier stays, of an optimum inside, where it is; of one on the edge it leaves the domain.
    """
    dtype = state.beta.dtype

    def barred(strength: Array) -> Problem:
        family = Barred(problem.rows.family, strength[None, None])
        return problem._replace(rows=problem.rows._replace(family=family), start=None)

    def stage(k: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        at, followed = carry
        fresh = _at(problem, at.beta, at.beta + jnp.where(k == 0, at.step, 0.0), ~followed)
        new = run(barred(strength(k, dtype)), fresh, config, config.max_iter, by_cholesky)
        return new._replace(n_iter=at.n_iter + new.n_iter), followed & (new.code == Status.CONVERGED)

    first = start(barred(jnp.ones((), dtype)))
    at, followed = lax.fori_loop(0, STAGES + 1, stage, (first, lanes & (first.code == RUNNING)))
    free = barred(jnp.zeros((), dtype))
    one = run(free, _at(problem, at.beta, at.beta, ~followed), config, 1, by_cholesky)
    left = ~(room_left(problem, one.beta + one.step) >= room_left(problem, at.beta) / 2)
    end = run(free, one, config, FIRST_PASSES, by_cholesky)
    # Weights without bound make the equations ill conditioned on the edge; inside, that is for QR to solve.
    ill = state.code == ILL_CONDITIONED
    inside = followed & ~left & (end.code == Status.CONVERGED) & ~ill
    on_edge = followed & left
    # Without either proof a lane stays as it was, but not converged, nor known to be on the edge.
    code = jnp.where(lanes & (state.code != RUNNING) & ~ill, Status.STALLED, state.code)
    code = jnp.where(on_edge, Status.BOUNDARY, jnp.where(inside, Status.CONVERGED, code))
    return state._replace(
        beta=jnp.where(on_edge, at.beta, jnp.where(inside, end.beta, state.beta)),
        n_iter=jnp.where(lanes, state.n_iter + at.n_iter + end.n_iter, state.n_iter),
        code=code.astype(jnp.int32),
    )


def _asks_for_qr(state: State, factor: linalg.Factor, config: IRLS) -> Array:
    """Which lanes the Gram matrix serves too badly, or, without QR, not at all."""
    if config.solver == "cholesky":
        return state.code == ILL_CONDITIONED
    ill = (state.code == ILL_CONDITIONED) | factor.lossy | (config.solver == "qr")
    return ill & (state.code != Status.INVALID_DATA)


def _select(where: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(where, a, b), new, old)


def start(problem: Problem) -> State:
    """Where the loop begins: the user's ``start``, or one weighted least squares fit to the starting means.

    In the pass of the latter the rows are checked.
    """
    rows, p = problem.rows, problem.design.p
    zero = jnp.zeros((p, problem.lanes), rows.y.dtype)
    if problem.start is not None:
        first = problem.start + zero
        return _at(problem, first, first, problem.invalid & False)
    data = (rows, problem.mean_response[None])
    fit = by_cholesky(problem.system, zero, data, _around_response)
    problem = problem._replace(invalid=problem.invalid | ~(fit.minima[0] > 0))
    first = anchor = linalg.backward(fit.factor, fit.half)
    if rows.family.guards_domain:
        # The predictor of the average is inside the domain: steps are halved towards it.
        around = by_cholesky(problem.system, zero, data, _around_average)
        anchor = linalg.backward(around.factor, around.half)
    return _at(problem, anchor if rows.family.guards_domain else zero, first, fit.singular)


def start_independent(problem: Problem) -> tuple[Array, State]:
    """The columns of X that those before them span, and a start from least squares, by QR, on the others."""
    rows, average = problem.rows, problem.mean_response[None]
    aliased, least_squares = independent(problem.system, problem.present)
    possible = jnp.zeros_like(problem.invalid)
    if problem.start is not None:
        first = jnp.where(aliased, 0.0, problem.start)
        return aliased, _at(problem, first, first, possible)
    first = least_squares(_target(rows, rows.y, average))
    guarded = rows.family.guards_domain
    anchor = least_squares(_target(rows, average, average)) if guarded else jnp.zeros_like(first)
    return aliased, _at(problem, anchor, first, possible)


def _at(problem: Problem, anchor: Array, first: Array, singular: Array) -> State:
    """The state before the first turn, which tries ``first`` and halves its way back to the ``anchor``."""
    lanes, dtype = problem.lanes, first.dtype
    code = jnp.where(singular, ILL_CONDITIONED, RUNNING)
    code = jnp.where(problem.invalid, Status.INVALID_DATA, code)
    state = State(
        beta=anchor,
        step=first - anchor,
        limit=jnp.full(lanes, jnp.inf, dtype),
        decrement=jnp.full(lanes, jnp.inf, dtype),
        halvings=jnp.zeros(lanes, jnp.int32),
        n_iter=jnp.zeros(lanes, jnp.int32),
        code=code.astype(jnp.int32),
    )
    return varying(state, problem)


def _around_response(eta: Array, data: tuple[Rows, Array]) -> Terms:
    """One least squares step from η₀ = g(starting mean): the target Wη₀ + score, less the offset."""
    rows, average = data
    weight, target = rows.family.starting_regression(rows.y, average)
    target = target if rows.offset is None else target - weight * rows.offset
    valid = rows.valid(eta).astype(eta.dtype)
    return Terms(rows.weigh(weight), rows.weigh(target), minima=(valid,))


def _around_average(eta: Array, data: tuple[Rows, Array]) -> Terms:
    """Least squares to the constant predictor of the average response, or of a mean inside the family's range."""
    rows, average = data
    target = _target(rows, average, average)
    return Terms(rows.weigh(jnp.ones_like(target)), rows.weigh(target))


def _target(rows: Rows, y: Array, average: Array) -> Array:
    """The starting predictor of every row, less the offset."""
    at = rows.family.starting_predictor(y, average) + jnp.zeros_like(rows.y)
    return at if rows.offset is None else at - rows.offset


def run_early(problem: Problem, state: State, config: IRLS, limit: Limit) -> State:
    """The turns of the first passes."""
    near = NEAR if problem.has_newton_steps else 0.0
    return run(problem, state, config, limit, by_cholesky, near, _is_judged_by_score(problem))


def run_late(problem: Problem, state: State, config: IRLS, limit: Limit, method: Method) -> State:
    """The turns after them, which judge by the loss."""
    if _is_judged_by_score(problem):
        _, loss, _, _ = _evaluate(problem, state.beta, method, None, by_score=False)
        state = state._replace(limit=jnp.where(jnp.isfinite(state.limit), loss, jnp.inf))
    return run(problem, state, config, limit, sharpened(method, problem))


def _is_judged_by_score(problem: Problem) -> bool:
    """Whether the loss is known to be convex in η, on the whole line."""
    family = problem.rows.family
    return family.is_canonical and not family.guards_domain and problem.bending is None


def run(
    problem: Problem,
    state: State,
    config: IRLS,
    limit: Limit,
    method: Method,
    near: float = 0.0,
    by_score: bool = False,
) -> State:
    """Turns until every lane is done or at the ``limit`` of its passes. Resumable: the result may be run further.

    Lanes within ``near`` standard errors of the optimum take Newton's steps. Steps are judged ``by_score``, or by the
    loss.
    """

    def running(state: State) -> Array:
        return (state.code == RUNNING) & (state.n_iter < (limit(state) if callable(limit) else limit))

    def turn(state: State) -> State:
        return _select(running(state), _turn(problem, state, config, method, near, by_score), state)

    return lax.while_loop(lambda state: jnp.any(running(state)), turn, varying(state, problem))


def _turn(problem: Problem, state: State, config: IRLS, method: Method, near: float, by_score: bool) -> State:
    dtype = state.limit.dtype
    eps = jnp.finfo(dtype).eps
    candidate = state.beta + state.step
    newton = (state.decrement < near) if near else None
    equations, loss, scale, total = _evaluate(problem, candidate, method, newton, by_score)
    move, objective, penalty = equations.half, None if by_score else loss, problem.bending
    if penalty is not None:
        equations, move, objective = _turn_bent(problem, penalty, candidate, equations, loss, scale)
    factor = equations.factor

    reach, spread = factor.reach(candidate), jnp.sqrt(scale * total)
    finite = jnp.isfinite(loss) & jnp.isfinite(equations.score).all(0)
    if by_score or penalty is not None:
        finite = finite & (factor.pivot > 0)
    if objective is None:
        measure = -_along(linalg.times_root(factor, state.step), equations.half)
        limit, noise = 0.5 * _along(move, equations.half), eps * (16 * (jnp.abs(state.limit) + spread) + reach)
    else:
        measure = limit = objective
        noise = 16 * eps * (jnp.abs(state.limit) + total) + eps * reach * spread
    accept = finite & ((measure <= state.limit + noise) | ~jnp.isfinite(state.limit))
    # Where the observed information is not positive definite, once more from here with the expected.
    indefinite = jnp.zeros_like(accept) if newton is None else newton & accept & equations.singular
    accept = accept & ~indefinite

    size = jnp.sqrt(jnp.square(move).sum(0))
    step = linalg.backward(factor, move)

    # Newton's decrement falls quadratically, Fisher scoring's linearly; the last ratio bounds the next one either way,
    # and its square forecasts Newton's.
    decrement = size / error_unit(scale)
    ratio = jnp.where(jnp.isfinite(state.decrement), jnp.minimum(decrement / state.decrement, 1.0), 1.0)
    tol = config.tolerance(dtype)
    ahead = decrement * ratio <= tol / 64
    if problem.rows.family.is_canonical and problem.bending is None:
        ahead = ahead | (decrement * jnp.square(ratio) <= 4 * tol**2)
    rounding = is_rounding(size / 8, decrement, factor.length(candidate), reach, config)
    done = ahead | rounding | ((decrement <= tol) & (decrement > state.decrement / 2))

    halvings = jnp.where(accept | indefinite, 0, state.halvings + 1)
    stuck = ~accept & (halvings > MAX_HALVINGS)
    code = jnp.where(stuck, Status.STALLED, RUNNING)
    code = jnp.where(accept & done, Status.CONVERGED, code)
    code = jnp.where(accept & equations.singular, ILL_CONDITIONED, code)
    # The barrier keeps XLA from deciding again for every part of the state.
    accept, code = lax.optimization_barrier((accept, code))
    beta = jnp.where(accept, candidate, state.beta)
    return State(
        beta=jnp.where(code == Status.CONVERGED, beta + step, beta),
        step=jnp.where(accept, step, jnp.where(indefinite, state.step, state.step / 2)),
        limit=jnp.where(accept, limit, state.limit),
        decrement=jnp.where(accept, decrement, jnp.where(indefinite, jnp.inf, state.decrement)),
        halvings=halvings,
        n_iter=state.n_iter + 1,
        code=code.astype(jnp.int32),
    )


def _evaluate(
    problem: Problem, beta: Array, method: Method, newton: Array | None, by_score: bool
) -> tuple[Equations, Array, Array, Array]:
    """The equations, the objective if steps are not judged ``by_score``, a running dispersion and the total weight."""
    rows = problem.rows
    free = is_estimated(problem.scale, rows.family.has_dispersion)

    def kernel(eta: Array, rows: Rows, newton: Array | None = None) -> Terms:
        at = rows.shift(eta)
        work = rows.family.working(at, rows.y)
        sums, excess = [], None
        if not by_score:
            loss, excess = loss_terms(rows, work)
            if rows.family.guards_domain:
                loss = jnp.where(rows.family.valid_predictor(at), loss, rows.weigh(jnp.full_like(loss, jnp.inf)))
            sums.append(loss)
        if free:
            sums.append(rows.weigh(rows.family.pearson_chi2(at, rows.y, work)))
        weight = work.weight
        if newton is not None:
            weight = jnp.where(newton, rows.family.observed_information(at, rows.y), weight)
        return Terms(rows.weigh(weight), rows.weigh(work.score), tuple(sums), excess=excess)

    if newton is None:
        equations = method(problem.system, beta, rows, kernel)
    else:
        equations = method(problem.system, beta, (rows, newton[None]), lambda eta, data: kernel(eta, *data))
    weight = problem.total_weight
    loss = jnp.zeros_like(weight) if by_score else equations.sums[0] + equations.log_excess
    if not (by_score or problem.curvature is None):
        loss = loss + 0.5 * (problem.curvature * jnp.square(beta)).sum(0)
    # While the loop runs Pearson's rule serves every rule, and the degrees of freedom never run out.
    scale, chi2 = (None, equations.sums[-1]) if free else (problem.scale, weight)
    unit = dispersion(scale, free, chi2, chi2, jnp.maximum(weight - problem.rank, 1.0))
    return equations, loss, unit, weight


def _turn_bent(
    problem: Problem, penalty: Penalty, beta: Array, equations: Equations, loss: Array, scale: Array
) -> tuple[Equations, Array, Array | None]:
    """The bent equations at β, Newton's step from there, and the objective, if the bent score has one."""
    equations, eta, at = bent(problem, penalty, beta, equations, scale)
    move = newton_step(penalty, problem.rows, at, eta, equations.half, scale)
    return equations, move, penalty.objective(loss, equations.factor, scale)


def _along(step: Array, half: Array) -> Array:
    """The part of the whitened score along a whitened step."""
    size = linalg.norm(step)
    return (step / jnp.where(size > 0, size, 1.0)[None] * half).sum(0)
