r"""An optimum on the edge of the family's domain: the way there, and how one is told from an optimum inside."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from jaxirls.barrier import STAGES, Barred, last_strength, strength
from jaxirls.config import IRLS
from jaxirls.dispersion import dispersion
from jaxirls.equations import by_cholesky
from jaxirls.families import Family
from jaxirls.irls import run, run_late
from jaxirls.problem import ILL_CONDITIONED, Problem, State
from jaxirls.starts import start, start_at
from jaxirls.status import RUNNING, Status

__all__ = ["is_inside", "to_the_edge"]

# Passes without the barrier that an optimum inside takes from the last stage.
LAST_PASSES = 8


def to_the_edge(problem: Problem, state: State, lanes: Array, config: IRLS) -> State:
    """Follow the barrier's minima to the optimum, for ``lanes``, and tell one on the edge from one inside.

    From an optimum inside, a step without the barrier stays where it is; from one on the edge it leaves the domain.
    """
    dtype, unit = state.beta.dtype, 1 / _importance(problem)

    def barred(strength: Array) -> Problem:
        family = Barred(problem.rows.family, strength * unit)
        return problem._replace(rows=problem.rows._replace(family=family), start=None)

    def stage(k: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        at, followed = carry
        fresh = start_at(problem, at.beta, at.beta + jnp.where(k == 0, at.step, 0.0), ~followed)
        new = run(barred(strength(k, dtype)), fresh, config, config.max_iter, by_cholesky)
        return new._replace(n_iter=at.n_iter + new.n_iter), followed & (new.code == Status.CONVERGED)

    first = start(barred(jnp.ones((), dtype)))
    at, followed = lax.fori_loop(0, STAGES + 1, stage, (first, lanes & (first.code == RUNNING)))
    free = barred(jnp.zeros((), dtype))
    one = run(free, start_at(problem, at.beta, at.beta, ~followed), config, 1, by_cholesky)
    left = ~(_room_left(problem, one.beta + one.step) >= _room_left(problem, at.beta) / 2)
    end = run_late(free, one, config, LAST_PASSES, by_cholesky)
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


def is_inside(problem: Problem, beta: Array) -> Array:
    """Whether β is so far from the edge that the barrier would not move it by much."""
    return _room_left(problem, beta) > last_strength(beta.dtype) ** 0.5


def _room_left(problem: Problem, beta: Array) -> Array:
    """The smallest room that a predictor has to the edge of the domain, (T,); zero outside."""
    family, eta = problem.rows.family, problem.predict(beta)
    distance = jnp.where(family.valid_predictor(eta), _importance(problem) * _room(family, eta), 0.0)
    return problem.design.fold(jnp.minimum, jnp.where(problem.present, distance, jnp.inf), problem.lanes)


def _importance(problem: Problem) -> Array:
    """How much log-likelihood the loss of a row is worth, (n | 1, T | 1): its weight over the dispersion.

    A dispersion that is estimated has the unit of the weights, and is taken for their mean.
    """
    weight, total = problem.rows.weight, problem.total_weight
    rows = problem.present.sum(0, dtype=total.dtype)
    unit = dispersion(problem.scale, problem.rows.family.has_dispersion, total, total, rows)[None]
    return 1 / unit if weight is None else jnp.where(weight > 0, weight, 1.0) / unit


def _room(family: Family, eta: Array) -> Array:
    """The squared distance of η to the edge, times its weight."""
    distances = [jnp.square(eta - edge) for edge in family.edges(eta)]
    return family.information(eta) * jnp.min(jnp.stack(distances), axis=0)
