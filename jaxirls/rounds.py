r"""IRLS from start to proof, in the parts of which the engine's rounds are made.

The first round, ``begin`` and ``begun``, makes the passes that a well-posed dataset needs. The second, ``resume`` and
``finish``, decides whether the lanes that are then open have a finite estimate, and runs them to their end. Those for
which the Gram matrix is ill conditioned are fitted anew in the third, ``resume_by_qr`` and ``finish_by_qr``, by steps
from QR, on the columns of X that are linearly independent. ``later_parts`` are the second and the third in one. Every
round ends with a last pass, at its final β, from which ``proof`` has the statistics and the status.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import linalg
from jaxirls.config import IRLS
from jaxirls.edge import is_inside, to_the_edge
from jaxirls.equations import Equations, by_cholesky, by_qr
from jaxirls.irls import by_loss, run, run_early, run_late
from jaxirls.kernel import in_one_kernel
from jaxirls.newton import sharpened
from jaxirls.problem import ILL_CONDITIONED, Problem, State
from jaxirls.proof import Existence, Solution, concluded, evident, existence, last_pass, marked, statistics
from jaxirls.separation import row_cones
from jaxirls.starts import start, start_independent
from jaxirls.status import RUNNING, Status
from jaxirls.trees import select, varying

__all__ = [
    "Finished",
    "begin",
    "begun",
    "complete",
    "finish",
    "finish_by_qr",
    "first_limit",
    "first_passes",
    "later_parts",
    "resume",
    "resume_by_qr",
]

# Enough for nearly every well-posed dataset; what is then unfinished is finished among its own kind.
FIRST_PASSES = 8
FIRST_BENT_PASSES = 12
# A lane that can be separated, and after so many passes is still so far from an optimum, in standard errors, is taken
# to be so; to reach one in the rest would take luck.
EARLY_PASSES, FAR = 4, 0.4


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
    # The loop stops on a forecast of its last step. Where the proof shows that this was too good, the lane goes on.
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
    state = in_one_kernel(late, problem, by_loss(problem, marked(state, found)))
    if problem.has_edge:
        inside = (state.code == Status.CONVERGED) & is_inside(problem, state.beta)
        state = to_the_edge(problem, state, open_ & ~separated & ~inside, config)
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
        lambda: select(anew, fit_independent(of_these, finished.found.separated, config), (aliased, state)),
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
        return select(ill, by_qr_alone, settled.equations)

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
    """Fit all lanes anew by QR, on the columns that those before them do not span; which are aliased, and the state.

    A given start led nowhere by the Gram matrix, and is left, unless that was not tried.
    """
    if config.solver != "qr":
        problem = problem._replace(start=None)
    aliased, state = start_independent(problem)
    problem = problem._replace(aliased=aliased)
    # Where no estimate exists, a few steps on the way to infinity.
    limit = jnp.where(separated, min(FIRST_PASSES, config.max_iter), config.max_iter)
    state = run(problem, state, config, limit, sharpened(by_qr, problem))
    code = jnp.where((state.code == ILL_CONDITIONED) & ~aliased.any(0), Status.STALLED, state.code)  # by its weights
    if problem.has_edge:  # near which a small decrement is no proof, and that its weights made it ill conditioned
        code = jnp.where((code == Status.CONVERGED) & ~is_inside(problem, state.beta), Status.STALLED, code)
    return aliased, state._replace(code=jnp.where(separated, Status.SEPARATED, code).astype(jnp.int32))


def _asks_for_qr(state: State, factor: linalg.Factor, config: IRLS) -> Array:
    """Which lanes the Gram matrix serves too badly, or, without QR, not at all."""
    if config.solver == "cholesky":
        return state.code == ILL_CONDITIONED
    ill = (state.code == ILL_CONDITIONED) | factor.lossy | (config.solver == "qr")
    return ill & (state.code != Status.INVALID_DATA)
