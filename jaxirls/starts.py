"""Where the loop begins, in T lanes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import linalg
from jaxirls.designs import Terms
from jaxirls.equations import Equations, by_cholesky, independent
from jaxirls.problem import ILL_CONDITIONED, Problem, State
from jaxirls.rows import Origin, Rows
from jaxirls.status import RUNNING, Status
from jaxirls.trees import varying

__all__ = ["start", "start_at", "start_independent"]

# A step from the origin is long that changes η by more than this, in the root mean square, or that explains more than
# this part of Pearson's χ² there.
LONG, MOST = 2.0, 0.5


def start(problem: Problem) -> State:
    """Where the loop begins: the user's ``start``, or one weighted least squares fit, in whose pass rows are checked.

    It is a step of scoring from the ``origin``, if there is one; else, and in lanes far from it, a fit to the starting
    means.
    """
    rows, p = problem.rows, problem.design.p
    zero = jnp.zeros((p, problem.lanes), rows.y.dtype)
    if problem.start is not None:
        first = problem.start + zero
        return start_at(problem, first, first, problem.invalid & False)
    average = problem.mean_response[None]
    values, anchor = rows.family.starting_values(average), zero
    if problem.origin is None:
        fit = by_cholesky(problem.system, zero, (rows, values), _starting)
    else:
        near, fit = _around_origin(problem, values, problem.origin)
        anchor = jnp.where(near, problem.origin.beta, zero)
    problem = problem._replace(invalid=problem.invalid | ~(fit.minima[0] > 0))
    first = linalg.backward(fit.factor, fit.half)
    if rows.family.guards_domain:
        # The predictor of the average is inside the domain: steps are halved towards it.
        around = by_cholesky(problem.system, zero, (rows, average), _around_average)
        anchor = linalg.backward(around.factor, around.half)
        if rows.offset is not None:
            one = by_cholesky(problem.system, zero, rows, _around_one)
            anchor = _into_domain(problem, anchor, linalg.backward(one.factor, one.half), average)
    return start_at(problem, anchor, first, fit.singular)


def _around_origin(problem: Problem, values: Any, origin: Origin) -> tuple[Array, Equations]:
    """The lanes near the origin, and the regression: by the family's starting ``values`` in those that are not.

    Near is where the step is not long. A bound on the step in η alone would take lanes for near whose means are far
    below those of the origin: no row then asks for a step of more than one in log μ. So the part of χ² that the step
    explains is bounded too.
    """
    rows, zero = problem.rows, jnp.zeros((problem.design.p, problem.lanes), problem.rows.y.dtype)

    def fit(near: Array) -> Equations:
        data = rows, values, near[None], origin.weight, origin.target, origin.chi2
        return by_cholesky(problem.system, zero, data, _starting)

    def turn(carry: tuple[Array, Array, Equations]) -> tuple[Array, Array, Equations]:
        k, near, _ = carry
        found = fit(near)
        weight, chi2 = found.sums
        step = jnp.square(found.factor.length(linalg.backward(found.factor, found.half) - origin.beta))
        return k + 1, near & (step <= LONG**2 * weight) & (step <= MOST * chi2), found

    # In a loop of two turns the pass is compiled once; for lanes that are all near it ends after the first.
    all_near = jnp.ones(problem.lanes, bool)
    empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(fit, all_near))
    begin = varying((jnp.int32(0), all_near, empty), problem)
    _, near, found = lax.while_loop(lambda carry: (carry[0] < 1) | ((carry[0] < 2) & ~carry[1].all()), turn, begin)
    return near, found


def start_independent(problem: Problem) -> tuple[Array, State]:
    """The columns of X that those before them span, and a start from least squares, by QR, on the others."""
    rows, average = problem.rows, problem.mean_response[None]
    aliased, least_squares = independent(problem.system, problem.present)
    possible = jnp.zeros_like(problem.invalid)
    if problem.start is not None:
        first = jnp.where(aliased, 0.0, problem.start)
        return aliased, start_at(problem, first, first, possible)
    first = least_squares(_target(rows, rows.y, average))
    guarded = rows.family.guards_domain
    anchor = least_squares(_target(rows, average, average)) if guarded else jnp.zeros_like(first)
    if guarded and rows.offset is not None:
        anchor = _into_domain(problem, anchor, least_squares(jnp.ones_like(rows.y)), average)
    return aliased, start_at(problem, anchor, first, possible)


def start_at(problem: Problem, anchor: Array, first: Array, singular: Array) -> State:
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


def _starting(eta: Array, data: tuple[Rows, Any, *tuple[Array, ...]]) -> Terms:
    """One step of scoring from η₀ = g(starting mean), or in lanes near it from the origin: a fit to η₀ + score/W.

    Offsets are subtracted from that. Where there is an origin, further terms are W and Pearson's χ² there.
    """
    rows, values, *origin = data
    weight, target = rows.family.starting_regression(rows.y, values)
    target = target if rows.offset is None else target - weight * rows.offset
    further: list[Array] = []
    if origin:
        near, *there, chi2 = origin
        weight, target = (jnp.where(near, *pair) for pair in zip(there, (weight, target), strict=True))
        further = [weight, chi2]
    valid = rows.valid(eta).astype(eta.dtype)
    return Terms(rows.weigh(weight), rows.weigh(target), tuple(map(rows.weigh, further)), minima=(valid,))


def _around_average(eta: Array, data: tuple[Rows, Array]) -> Terms:
    """Least squares to the constant predictor of the average response, or of a mean inside the family's range."""
    rows, average = data
    target = _target(rows, average, average)
    return Terms(rows.weigh(jnp.ones_like(target)), rows.weigh(target))


def _around_one(eta: Array, rows: Rows) -> Terms:
    """Least squares to a constant: where X has an intercept, that alone."""
    one = jnp.ones_like(rows.y)
    return Terms(rows.weigh(one), rows.weigh(one))


def _into_domain(problem: Problem, anchor: Array, constant: Array, average: Array) -> Array:
    """The anchor moved along the coefficients of a constant predictor until every row is inside the domain.

    What no coefficients take off the offsets may push rows beyond the edge that the average response is away from: they
    keep half of its room.
    """
    family, lanes = problem.rows.family, problem.lanes
    eta, center = problem.predict(anchor), family.starting_predictor(average, average)[0]
    low, high = (
        problem.design.fold(fold, jnp.where(problem.present, eta, absent), lanes)
        for fold, absent in ((jnp.minimum, jnp.inf), (jnp.maximum, -jnp.inf))
    )
    move = jnp.zeros_like(center)
    for edge in family.edges(center):
        half_way = 0.5 * (edge + center)
        needed = jnp.where(edge > center, jnp.minimum(half_way - high, 0.0), jnp.maximum(half_way - low, 0.0))
        move = move + jnp.where(jnp.isfinite(needed), needed, 0.0)
    return anchor + move[None] * constant


def _target(rows: Rows, y: Array, average: Array) -> Array:
    """The starting predictor of every row, less the offset."""
    at = rows.family.starting_predictor(y, average) + jnp.zeros_like(rows.y)
    return rows.unshift(at)
