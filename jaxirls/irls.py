r"""The loop: Fisher scoring for T datasets at once, one ``lax.while_loop``, ignorant of how X is stored.

Every turn looks at a candidate β + δ, for the loss, the score s and the information G there: in one pass over the data,
or a few where steps are Newton's or the score is bent.
A lane whose loss rose, or whose candidate left the family's domain, halves δ and tries again; any other lane accepts
and solves G δ = s for its next step. Where the loss is convex in η, the first passes do without it: there a step is too
long if the score at its end points back along it by more than half of what it pointed ahead at its start.

The Newton decrement √(sᵀG⁻¹s/φ) is the distance to the optimum in standard errors. It decides when a lane is done.

Near the optimum, and in lanes that the first passes leave open, steps are Newton's.

Finished lanes are frozen by mask; no operation crosses lanes but the ``any`` of the loop's condition.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxirls import linalg
from jaxirls.bends import newton_step
from jaxirls.config import IRLS
from jaxirls.designs import Terms
from jaxirls.dispersion import dispersion
from jaxirls.equations import Equations, Method, by_cholesky
from jaxirls.newton import sharpened
from jaxirls.penalties import Penalty
from jaxirls.problem import ILL_CONDITIONED, Problem, State, bent, error_unit, is_rounding, loss_terms
from jaxirls.rows import Rows
from jaxirls.status import RUNNING, Status
from jaxirls.trees import select, varying

Limit = int | Array | Callable[[State], Array | int]

MAX_HALVINGS = 60
# Within so many standard errors of the optimum the observed information, where it differs, makes quadratic steps.
NEAR = 0.5


def run_early(problem: Problem, state: State, config: IRLS, limit: Limit) -> State:
    """The turns of the first passes."""
    near = NEAR if problem.has_newton_steps else 0.0
    return run(problem, state, config, limit, by_cholesky, near, is_judged_by_score(problem))


def run_late(problem: Problem, state: State, config: IRLS, limit: Limit, method: Method) -> State:
    """The turns after them, which judge by the loss."""
    return run(problem, state, config, limit, sharpened(method, problem))


def by_loss(problem: Problem, state: State) -> State:
    """The state after the first passes as the turns after them take it: these may have to see β again, for its loss."""
    if not is_judged_by_score(problem):
        return state
    again = (state.code == RUNNING) & jnp.isfinite(state.limit)
    return state._replace(
        step=jnp.where(again, 0.0, state.step),
        limit=jnp.full_like(state.limit, jnp.inf),
        decrement=jnp.full_like(state.decrement, jnp.inf),
        halvings=jnp.zeros_like(state.halvings),
        n_iter=state.n_iter - again.astype(jnp.int32),
    )


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
        return select(running(state), _turn(problem, state, config, method, near, by_score), state)

    return lax.while_loop(lambda state: jnp.any(running(state)), turn, varying(state, problem))


def is_judged_by_score(problem: Problem) -> bool:
    """Whether the loss is known to be convex in η, on the whole line."""
    family = problem.rows.family
    return family.is_canonical and not family.guards_domain and problem.bending is None


def _turn(problem: Problem, state: State, config: IRLS, method: Method, near: float, by_score: bool) -> State:
    dtype = state.limit.dtype
    eps = jnp.finfo(dtype).eps
    candidate = state.beta + state.step
    newton = (state.decrement < near) if near else None
    equations, loss, scale, residual, total = _evaluate(problem, candidate, method, newton, by_score)
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
        # Far past the optimum reach and spread have no bound: what they explain may not be a rise.
        least = 16 * eps * (jnp.abs(state.limit) + total)
        noise = jnp.minimum(least + eps * reach * spread, eps**0.5 * (jnp.abs(state.limit) + total))
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
    rounding = is_rounding(size / 8, decrement, factor.length(candidate), reach, residual, config)
    done = ahead | rounding | ((decrement <= tol) & (decrement > state.decrement / 2))
    # Only the observed information tells a maximum from a saddle.
    if newton is not None:
        done = done & newton
    at_saddle = jnp.zeros_like(done)
    if equations.indefinite is not None:
        done, at_saddle = done & ~equations.indefinite, rounding & equations.indefinite

    halvings = jnp.where(accept | indefinite, 0, state.halvings + 1)
    stuck = ~accept & (halvings > MAX_HALVINGS)
    code = jnp.where(stuck, Status.STALLED, RUNNING)
    if problem.start is not None:
        # No part of the first step from there is any good: as where its weights vanish, the start is left.
        code = jnp.where(stuck & (state.beta == problem.start).all(0), ILL_CONDITIONED, code)
    code = jnp.where(accept & at_saddle, Status.STALLED, code)
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


def _turn_bent(
    problem: Problem, penalty: Penalty, beta: Array, equations: Equations, loss: Array, scale: Array
) -> tuple[Equations, Array, Array | None]:
    """The bent equations at β, Newton's step from there, and the objective, if the bent score has one."""
    equations, eta, at = bent(problem, penalty, beta, equations, scale)
    move = newton_step(penalty, problem.rows, at, eta, equations.half, scale)
    return equations, move, penalty.objective(loss, equations.factor, scale)


def _evaluate(
    problem: Problem, beta: Array, method: Method, newton: Array | None, by_score: bool
) -> tuple[Equations, Array, Array, Array | None, Array]:
    """The equations, the objective if steps are not judged ``by_score``, a running dispersion, √χ² if that is made of
    it, and the total weight.
    """
    rows = problem.rows
    free = problem.estimates_scale

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
    return equations, loss, unit, jnp.sqrt(chi2) if free else None, weight


def _along(step: Array, half: Array) -> Array:
    """The part of the whitened score along a whitened step."""
    size = linalg.norm(step)
    return (step / jnp.where(size > 0, size, 1.0)[None] * half).sum(0)
