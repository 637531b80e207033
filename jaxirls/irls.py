r"""The loop: Fisher scoring for T datasets at once, one ``lax.while_loop``, ignorant of how X is stored.

Every turn makes one pass over the data at a candidate β + δ, for the loss, the score s and the information G there.
A lane whose loss rose, or whose candidate left the family's domain, halves δ and tries again; any other lane accepts
and solves G δ = s for its next step. The Newton decrement √(sᵀG⁻¹s/φ) is the distance to the optimum in standard
errors. It decides when a lane is done, and the pass of ``statistics`` at the final β proves or refutes it.

Steps come from the Gram matrix. A lane for which that is ill conditioned is fitted anew, in ``finish``, by steps from
QR, on the columns of X that are linearly independent.

Finished lanes are frozen by mask; no operation crosses lanes but the ``any`` of the loop's condition.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import linalg
from jaxirls.barrier import STAGES, Barred, last_strength, room, strength
from jaxirls.bends import bend, newton_step, whitened
from jaxirls.config import IRLS, Algorithm
from jaxirls.designs import Design, Terms
from jaxirls.dispersion import Scale, dispersion, is_estimated
from jaxirls.equations import Equations, Method, System, by_cholesky, by_qr, independent
from jaxirls.penalties import Penalty
from jaxirls.rows import Rows
from jaxirls.separation import ABSENT, recession, row_cones
from jaxirls.status import Status
from jaxirls.trees import varying

RUNNING, ILL_CONDITIONED = -1, -2
MAX_HALVINGS = 60
# Enough for nearly every well-posed dataset; what is then unfinished is finished among its own kind.
FIRST_PASSES = 8
FIRST_BENT_PASSES = 12


class Problem(NamedTuple):
    """The constant data of T datasets."""

    design: Design
    rows: Rows
    penalty: Penalty | None  # leaves (p | 1, T | 1)
    start: Array | None  # (p, T) or (p, 1)
    scale: Scale  # (T,) or (1,): a known dispersion; or how to estimate it
    invalid: Array  # (T,)
    aliased: Array | None = None  # (p, T): columns left out of the fit, or None

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


class State(NamedTuple):
    """What the next turn needs."""

    beta: Array  # (p, T), the accepted coefficients
    step: Array  # (p, T), the step to try next
    limit: Array  # (T,), what the objective at the candidate may not exceed
    decrement: Array  # (T,), Newton decrement at beta, in standard errors
    halvings: Array  # (T,), of the step being tried
    n_iter: Array  # (T,), passes made
    code: Array  # (T,), RUNNING, ILL_CONDITIONED, or how the loop ended for this lane, before proof


class Solution(NamedTuple):
    """The fit of T datasets, and what is known about it."""

    params: Array  # (p, T)
    root: Array  # (p, p, T), R, upper triangular: RᵀR = X'WX + penalty at unit dispersion
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


def begin(problem: Problem, config: IRLS) -> tuple[State, Solution, Array]:
    """Start, the first passes, and the statistics there; also which lanes are still open, without a proof."""
    passes = FIRST_PASSES if _bending(problem) is None else FIRST_BENT_PASSES
    state = run(problem, start(problem), config, min(passes, config.max_iter), by_cholesky)
    solution, certain = statistics(problem, state, config, by_cholesky)
    # A lane that stopped where the proof then failed had too good a forecast of its last step: it goes on from there.
    early = (state.code == Status.CONVERGED) & (solution.status == Status.STALLED)
    state = state._replace(
        step=jnp.where(early, 0.0, state.step),
        limit=jnp.where(early, jnp.inf, state.limit),
        decrement=jnp.where(early, jnp.inf, state.decrement),
        code=jnp.where(early, RUNNING, state.code),
    )
    ill = _ill_conditioned(problem, state, solution, config)
    state = state._replace(code=jnp.where(ill, ILL_CONDITIONED, state.code).astype(jnp.int32))
    return state, solution, (state.code == RUNNING) | ill | ~certain


def finish(problem: Problem, state: State, open_: Array, config: IRLS) -> Solution:
    """Decide separation for the open lanes, run the others among them to their end, and give all their statistics."""
    found = existence(problem, open_)
    separated = found.separated
    # On the way to infinity the weights, not X, make the Gram matrix singular, unless it was so from the start.
    ill = open_ & (state.code == ILL_CONDITIONED) & (~separated | (state.n_iter == 0))
    state = run(problem, marked(state, found), config, config.max_iter, by_cholesky)
    if has_edge(problem):
        inside = (state.code == Status.CONVERGED) & is_inside(problem, state.beta)
        state = _to_the_edge(problem, state, open_ & ~separated & ~inside, config)
        ill = ill & (state.code != Status.BOUNDARY)
    if config.solver == "cholesky":
        solution, certain = statistics(problem, state, config, by_cholesky)
    else:
        ill = ill | (open_ & (state.code == ILL_CONDITIONED))
        aliased, state = varying((jnp.zeros(state.beta.shape, bool), state), problem)
        aliased, state = lax.cond(
            ill.any(),
            lambda: _select(ill, fit_independent(problem, separated, config), (aliased, state)),
            lambda: (aliased, state),
        )
        solution, certain = statistics(problem._replace(aliased=aliased), state, config, by_qr)
    return concluded(solution, certain, found)


class Existence(NamedTuple):
    """Whether T datasets have a finite estimate, as far as that is proven."""

    separated: Array  # (T,), they have none
    overlap: Array  # (T,), they have one
    direction: Array  # (p, T), of recession


def _norm(score: Array) -> Array:
    """Euclidean, of entries whose squares may overflow."""
    largest = jnp.abs(score).max(0)
    unit = jnp.where(largest > 0, largest, 1.0)
    return unit * jnp.sqrt(jnp.square(score / unit[None]).sum(0))


def existence(problem: Problem, open_: Array) -> Existence:
    """Decide it for the open lanes."""
    lanes, cones = open_.shape[0], _cones(problem)
    if cones is None:
        direction = jnp.zeros((problem.design.p, lanes), problem.rows.y.dtype)
        return Existence(jnp.zeros(lanes, bool), jnp.ones(lanes, bool), direction)
    cone = jnp.where(_present(problem) & open_[None], cones, ABSENT)
    # Along a direction that a penalty holds back nothing recedes.
    found = recession(jnp.where(_free(problem)[None], problem.design.lanes(lanes), 0.0), cone)
    return Existence(open_ & found.separated, found.decided & ~found.separated, found.direction)


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


def fit_independent(problem: Problem, separated: Array, config: IRLS) -> tuple[Array, State]:
    """Fit all lanes anew by QR, on the columns that those before them do not span; which are aliased, and the state."""
    aliased, state = start_independent(problem)
    problem = problem._replace(aliased=aliased)
    # Where no estimate exists, a few steps on the way to infinity.
    limit = jnp.where(separated, min(FIRST_PASSES, config.max_iter), config.max_iter)
    state = run(problem, state, config, limit, by_qr)
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
    left = ~(_room(problem, one.beta + one.step) >= _room(problem, at.beta) / 2)
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


def has_edge(problem: Problem) -> bool:
    return problem.rows.family.guards_domain and _bending(problem) is None


def is_inside(problem: Problem, beta: Array) -> Array:
    """Whether β is so far from the edge that the barrier would not move it by much."""
    return _room(problem, beta) > last_strength(beta.dtype) ** 0.5


def _room(problem: Problem, beta: Array) -> Array:
    """The smallest room that a predictor has to the edge of the domain, (T,); zero outside."""
    family, eta = problem.rows.family, problem.rows.shift(problem.design.predict(beta))
    distance = jnp.where(family.valid_predictor(eta), room(family, eta), 0.0)
    return jnp.where(_present(problem), distance, jnp.inf).min(0)


def _ill_conditioned(problem: Problem, state: State, solution: Solution, config: IRLS) -> Array:
    """Whether the Gram matrix is too close to singular: its squares then cost more than half of the digits."""
    if config.solver == "cholesky":
        return state.code == ILL_CONDITIONED
    pivot = linalg.factor_of(solution.root).pivot
    ill = (state.code == ILL_CONDITIONED) | ~(pivot > float(jnp.finfo(pivot.dtype).eps) ** 0.5)
    return (ill | (config.solver == "qr")) & ~problem.invalid


def _select(where: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(where, a, b), new, old)


def start(problem: Problem) -> State:
    """Where the loop begins: the user's ``start``, or one weighted least squares fit to the starting means."""
    rows, p = problem.rows, problem.design.p
    zero = jnp.zeros((p, problem.invalid.shape[0]), rows.y.dtype)
    if problem.start is not None:
        first = problem.start + zero
        return _at(problem, first, first, problem.invalid & False)
    data = (rows, mean_response(problem)[None])
    fit = by_cholesky(problem.system, zero, data, _around_response)
    first = anchor = linalg.backward(fit.factor, fit.half)
    if rows.family.guards_domain:
        # The predictor of the average is inside the domain: steps are halved towards it.
        around = by_cholesky(problem.system, zero, data, _around_average)
        anchor = linalg.backward(around.factor, around.half)
    return _at(problem, anchor if rows.family.guards_domain else zero, first, fit.singular)


def start_independent(problem: Problem) -> tuple[Array, State]:
    """The columns of X that those before them span, and a start from least squares, by QR, on the others."""
    rows, average = problem.rows, mean_response(problem)[None]
    aliased, least_squares = independent(problem.system, _present(problem))
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
    lanes, dtype = problem.invalid.shape[0], first.dtype
    code = jnp.where(singular, ILL_CONDITIONED, RUNNING)
    code = jnp.where(problem.invalid, Status.INVALID_DATA, code)
    return State(
        beta=anchor,
        step=first - anchor,
        limit=jnp.full(lanes, jnp.inf, dtype),
        decrement=jnp.full(lanes, jnp.inf, dtype),
        halvings=jnp.zeros(lanes, jnp.int32),
        n_iter=jnp.zeros(lanes, jnp.int32),
        code=code.astype(jnp.int32),
    )


def _around_response(eta: Array, data: tuple[Rows, Array]) -> Terms:
    """One least squares step from η₀ = g(starting mean): the target Wη₀ + score, less the offset."""
    rows, average = data
    work = rows.family.working(rows.family.starting_predictor(rows.y, average), rows.y)
    target = work.weight * _target(rows, rows.y, average) + work.score
    return Terms(rows.weigh(work.weight), rows.weigh(target))


def _around_average(eta: Array, data: tuple[Rows, Array]) -> Terms:
    """Least squares to the constant predictor of the average response, or of a mean inside the family's range."""
    rows, average = data
    target = _target(rows, average, average)
    return Terms(rows.weigh(jnp.ones_like(target)), rows.weigh(target))


def _target(rows: Rows, y: Array, average: Array) -> Array:
    """The starting predictor of every row, less the offset."""
    at = rows.family.starting_predictor(y, average) + jnp.zeros_like(rows.y)
    return at if rows.offset is None else at - rows.offset


def run(problem: Problem, state: State, config: IRLS, max_iter: int | Array, method: Method) -> State:
    """Turns until every lane is done or has made ``max_iter`` passes. Resumable: the result may be run further."""

    def running(state: State) -> Array:
        return (state.code == RUNNING) & (state.n_iter < max_iter)

    def turn(state: State) -> State:
        return _select(running(state), _turn(problem, state, config, method), state)

    return lax.while_loop(lambda state: jnp.any(running(state)), turn, varying(state, problem))


def _turn(problem: Problem, state: State, config: IRLS, method: Method) -> State:
    dtype = state.limit.dtype
    eps = jnp.finfo(dtype).eps
    candidate = state.beta + state.step
    equations, loss, scale, total = _evaluate(problem, candidate, method)
    move, limit, penalty = equations.half, loss, _bending(problem)
    if penalty is not None:
        equations, move, loss, limit = _turn_bent(problem, penalty, state, equations, loss, scale)
    factor = equations.factor

    reach = linalg.reach(factor, candidate)
    finite = jnp.isfinite(loss) & jnp.isfinite(equations.score).all(0)
    noise = 16 * eps * (jnp.abs(state.limit) + total) + eps * reach * jnp.sqrt(scale * total)
    accept = finite & ((loss <= state.limit + noise) | ~jnp.isfinite(state.limit))

    size = jnp.sqrt(jnp.square(move).sum(0))
    step = linalg.backward(factor, move)

    # Newton's decrement falls quadratically, Fisher scoring's linearly; the last ratio bounds the next one either way.
    decrement = size / unit(scale)
    ahead = jnp.where(
        jnp.isfinite(state.decrement), decrement * jnp.minimum(decrement / state.decrement, 1.0), decrement
    )
    tol = config.tolerance(dtype)
    rounding = _is_rounding(size / 8, decrement, linalg.length(factor, candidate), reach, config)
    done = (ahead <= tol / 64) | rounding | ((decrement <= tol) & (decrement > state.decrement / 2))

    halvings = jnp.where(accept, 0, state.halvings + 1)
    stuck = ~accept & (halvings > MAX_HALVINGS)
    code = jnp.where(stuck, Status.STALLED, RUNNING)
    code = jnp.where(accept & done, Status.CONVERGED, code)
    code = jnp.where(accept & equations.singular, ILL_CONDITIONED, code)
    beta = jnp.where(accept, candidate, state.beta)
    return State(
        beta=jnp.where(code == Status.CONVERGED, beta + step, beta),
        step=jnp.where(accept, step, state.step / 2),
        limit=jnp.where(accept, limit, state.limit),
        decrement=jnp.where(accept, decrement, state.decrement),
        halvings=halvings,
        n_iter=state.n_iter + 1,
        code=code.astype(jnp.int32),
    )


def unit(dispersion: Array) -> Array:
    """What a standard error is, in units of √(sᵀG⁻¹s)."""
    root = jnp.sqrt(dispersion)
    return jnp.where(root > 0, root, 1.0)


def _is_rounding(size: Array, decrement: Array, length: Array, reach: Array, config: Algorithm) -> Array:
    """Whether a step that moves √W η by ``size`` is within the rounding of √W η, of the given ``length``, or of β.

    The last half place of β moves it by up to ½ε Σⱼ |βⱼ| ‖√W xⱼ‖, ε/2 times the ``reach``. That can be much, where
    large terms cancel: then only if the step is still small in standard errors.
    """
    eps = jnp.finfo(size.dtype).eps
    return (size <= eps * length) | ((size <= eps * reach) & (decrement <= config.tolerance(size.dtype) ** 0.5))


def statistics(problem: Problem, state: State, config: Algorithm, method: Method) -> tuple[Solution, Array]:
    """One pass at the final β, and the proof.

    Returns the solution and whether its status is certain: a converged lane of a family that can be separated also
    needs the certificate that the estimate exists. It is Newton's: for a log-likelihood with |ℓ'''| <= ℓ'' per unit of
    x'd (logit, Poisson log), the maximum exists if the decrement is below ½ / maxᵢ|xᵢ|_{G⁻¹} (Bach 2010, Electron. J.
    Statist. 4), and |xᵢ|²_{G⁻¹} <= 1/wᵢ.
    """
    rows, beta = problem.rows, state.beta
    equations = method(problem.system, beta, rows, _final)
    factor, singular = equations.factor, equations.singular
    deviance, chi2, nobs = equations.sums
    smallest = jnp.where(jnp.isfinite(equations.minima[0]), equations.minima[0], 0.0)
    scale = dispersion(problem.scale, rows.family.has_dispersion, chi2, deviance, nobs - problem.rank)
    at = rows.family.likelihood_scale(scale, deviance, nobs)
    # Data fitted exactly have, at their dispersion of zero, no bound to their likelihood.
    llf = _saturated(problem, at) - 0.5 * jnp.where(deviance == 0, 0.0, deviance / at)

    penalty = _bending(problem)
    if penalty is not None:
        equations, _, _ = _bent(problem, penalty, beta, equations, scale)
    size = jnp.sqrt(jnp.square(equations.half).sum(0))
    decrement = size / unit(scale)
    length = jnp.sqrt(jnp.square(linalg.length(factor, beta)) + nobs)
    limit = _is_rounding(size / 64, decrement, length, linalg.reach(factor, beta), config)
    proven = jnp.isfinite(decrement) & ~singular & ((decrement <= config.tolerance(beta.dtype)) | limit)

    status = jnp.where(state.code == RUNNING, Status.MAX_ITERATIONS, state.code)
    status = jnp.where(status == ILL_CONDITIONED, Status.RANK_DEFICIENT, status)
    status = jnp.where((status == Status.CONVERGED) & ~proven, Status.STALLED, status).astype(jnp.int32)
    invalid = status == Status.INVALID_DATA
    unfitted = invalid | (status == Status.RANK_DEFICIENT)
    aliased = jnp.zeros(beta.shape, bool) if problem.aliased is None else problem.aliased & ~invalid[None]

    def blank(value: Array, where: Array = invalid) -> Array:
        return jnp.where(where, jnp.nan, value)

    solution = Solution(
        params=blank(beta, unfitted[None] | aliased),
        root=blank(linalg.root_of(factor), invalid | singular),
        aliased=aliased,
        direction=jnp.zeros_like(beta),
        score_norm=blank(_norm(equations.score)),
        newton_decrement=blank(decrement),
        min_weight=blank(smallest),
        deviance=blank(deviance, unfitted),
        pearson_chi2=blank(chi2, unfitted),
        scale=blank(scale, unfitted),
        llf=blank(llf, unfitted),
        nobs=nobs,
        n_iter=state.n_iter,
        status=status,
    )
    if _cones(problem) is None and not has_edge(problem):
        return solution, jnp.ones_like(invalid)
    certain = status == Status.CONVERGED
    if _cones(problem) is not None:
        certain = certain & ((jnp.square(size) <= smallest / 4) | ~_free(problem).any(0))
    if has_edge(problem):
        # Where the weights have no bound, a small decrement is no proof.
        certain = certain & is_inside(problem, beta)
    return solution, certain | invalid


def _cones(problem: Problem) -> Array | None:
    """The cones of the rows, or None where a finite estimate always exists: for some links, and under a bent score."""
    return None if _bending(problem) is not None else row_cones(problem.rows.family, problem.rows.y)


def _free(problem: Problem) -> Array:
    """Which columns no penalty holds back, (p, T)."""
    shape = (problem.design.p, problem.invalid.shape[0])
    return jnp.ones(shape, bool) if problem.curvature is None else jnp.broadcast_to(problem.curvature == 0, shape)


def _present(problem: Problem) -> Array:
    """Which rows have a positive weight, (n, T)."""
    weight, shape = problem.rows.weight, (problem.design.n, problem.invalid.shape[0])
    return jnp.ones(shape, bool) if weight is None else jnp.broadcast_to(weight > 0, shape)


def _final(eta: Array, rows: Rows) -> Terms:
    """The kernel of the last pass: the sums that the results are made of."""
    family, y = rows.family, rows.y
    at = rows.shift(eta)
    work = family.working(at, y)
    weight = rows.weigh(work.weight)
    present = rows.weight
    freq = jnp.ones_like(at) if rows.freq_weights is None else rows.freq_weights + jnp.zeros_like(at)
    deviance = rows.weigh(family.unit_deviance(at, y))
    chi2 = rows.weigh(jnp.square(family.pearson_residual(at, y)))
    seen = weight if present is None else jnp.where(present > 0, weight, jnp.inf)
    return Terms(weight, rows.weigh(work.score), (deviance, chi2, freq), (seen,))


def _saturated(problem: Problem, scale: Array) -> Array:
    """The log-likelihood at μ = y, all constants included."""

    def row(data: tuple[Rows, Array]) -> Array:
        rows, scale = data
        var = jnp.ones_like(scale) if rows.var_weights is None else rows.var_weights
        term = rows.family.log_saturated(rows.y, jnp.where(var > 0, var, 1.0) / scale)
        term = term if rows.freq_weights is None else rows.freq_weights * term
        present = rows.weight
        return term if present is None else jnp.where(present > 0, term, 0.0)

    return problem.design.total((problem.rows, scale[None]), row, scale.shape[0])


def _evaluate(problem: Problem, beta: Array, method: Method) -> tuple[Equations, Array, Array, Array]:
    """The equations, the objective, a running dispersion and the total weight at β."""
    rows = problem.rows
    free = is_estimated(problem.scale, rows.family.has_dispersion)

    def kernel(eta: Array, rows: Rows) -> Terms:
        at = rows.shift(eta)
        work = rows.family.working(at, rows.y)
        loss, excess = work.loss, None
        if work.excess is not None and rows.weight is None:
            loss, excess = work.partial_loss, work.excess
        if rows.family.guards_domain:
            loss = jnp.where(rows.family.valid_predictor(at), loss, jnp.inf)
        sums = [rows.weigh(loss)]
        if free:
            sums.append(rows.weigh(jnp.square(rows.family.pearson_residual(at, rows.y))))
        return Terms(rows.weigh(work.weight), rows.weigh(work.score), tuple(sums), excess=excess)

    equations = method(problem.system, beta, rows, kernel)
    loss, weight = equations.sums[0] + equations.log_excess, total_weight(problem)
    if problem.curvature is not None:
        loss = loss + 0.5 * (problem.curvature * jnp.square(beta)).sum(0)
    # While the loop runs Pearson's rule serves every rule, and the degrees of freedom never run out.
    scale, chi2 = (None, equations.sums[1]) if free else (problem.scale, loss)
    unit = dispersion(scale, free, chi2, loss, jnp.maximum(weight - problem.rank, 1.0))
    return equations, loss, unit, weight


def _bending(problem: Problem) -> Penalty | None:
    """The penalty, if it bends the score."""
    return problem.penalty if problem.penalty is not None and problem.penalty.bends else None


def _bent(
    problem: Problem, penalty: Penalty, beta: Array, equations: Equations, scale: Array
) -> tuple[Equations, Array, Array]:
    """The equations with the bend of the score, the predictor and the whitened rows."""
    eta = problem.rows.shift(problem.design.predict(beta))
    z = whitened(problem.design, equations.factor, beta.shape[1])
    own = bend(penalty, problem.rows, eta, z, scale)
    pull = problem.design.pull(own)
    pull = pull if problem.aliased is None else jnp.where(problem.aliased, 0.0, pull)
    half = equations.half + (z * own[:, None]).sum(0)
    return equations._replace(score=equations.score + pull, half=half), eta, z


def _turn_bent(
    problem: Problem, penalty: Penalty, state: State, equations: Equations, loss: Array, scale: Array
) -> tuple[Equations, Array, Array, Array]:
    """The bent equations at the candidate, Newton's step from there, the objective, and its limit at the next one.

    A bent score without an objective is followed along the steps instead: at the end of a step it must not point back
    by more than half of what it promised at the start.
    """
    equations, eta, z = _bent(problem, penalty, state.beta + state.step, equations, scale)
    factor, half = equations.factor, equations.half
    move = newton_step(penalty, problem.rows, eta, z, half, scale)
    objective = penalty.objective(loss, factor, scale)
    if objective is None:
        back = -_along(linalg.whiten(factor, state.step), half)
        objective, limit = jnp.where(jnp.isfinite(loss), back, jnp.inf), 0.5 * _along(move, half)
    else:
        limit = objective
    return equations, move, jnp.where(factor.pivot > 0, objective, jnp.inf), limit


def _along(step: Array, half: Array) -> Array:
    """The part of the whitened score along a whitened step."""
    size = jnp.sqrt(jnp.square(step).sum(0))
    return (step * half).sum(0) / jnp.where(size > 0, size, 1.0)


def total_weight(problem: Problem) -> Array:
    lanes = problem.invalid.shape[0]
    if problem.rows.weight is None:
        return jnp.full(lanes, problem.design.n, problem.rows.y.dtype)
    return problem.design.total(problem.rows, lambda rows: rows.weigh(jnp.ones_like(rows.y)), lanes)


def mean_response(problem: Problem) -> Array:
    """The weighted mean response."""
    total = problem.design.total(problem.rows, lambda rows: rows.weigh(rows.y), problem.invalid.shape[0])
    return total / total_weight(problem)
