r"""The other optimizer: L-BFGS on the objective of the loop, by its value and automatic derivatives alone.

The objective is half the deviance plus the penalty's quadratic part: minus the log-likelihood, in units of φ and up to
a term of y. Nothing here knows a score, a weight or a Gram matrix. Columns are brought to unit length. Datasets descend
one after the other, which on a CPU is faster than together: none waits for another's line search. The proofs at the end
are those of ``proof``, which are made at β however it was found.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.scipy.sparse.linalg import cg

from jaxirls.config import LBFGS
from jaxirls.dispersion import Scale, dispersion
from jaxirls.equations import Method, by_cholesky
from jaxirls.linalg import HIGHEST
from jaxirls.matrixfree import by_products
from jaxirls.newton import newtons
from jaxirls.problem import ILL_CONDITIONED, Problem, State, error_unit
from jaxirls.proof import (
    Existence,
    Solution,
    concluded,
    existence,
    is_inside,
    last_pass,
    marked,
    statistics,
    unknown,
)
from jaxirls.rows import Rows
from jaxirls.status import RUNNING, Status
from jaxirls.trees import varying

__all__ = ["begin", "begun", "finish", "later_parts", "resume"]

LINE_SEARCH_PASSES = 30
# Where values differ by less, in units of the machine epsilon, the slopes decide what is a descent.
NOISE = 1000

dot = partial(jnp.matmul, precision=HIGHEST)


def begin(problem: Problem, config: LBFGS) -> State:
    """Where L-BFGS ends."""
    return minimize(problem.checked, config)


def begun(problem: Problem, state: State, config: LBFGS) -> tuple[State, Solution, Array]:
    """The statistics there, and which lanes are open: without a proof."""
    equations = last_pass(problem, state.beta, _method(config))
    if config.information and problem.has_newton_steps:
        at_saddle = cast(Array, newtons(problem.system, state.beta, problem.rows, equations).indefinite)
        code = jnp.where(at_saddle & (state.code == Status.CONVERGED), Status.STALLED, state.code)
        state = state._replace(code=code.astype(jnp.int32))
    solution, certain = statistics(problem, state, config, equations)
    if solution.root is not None:
        singular = (state.code == Status.CONVERGED) & ~jnp.isfinite(solution.root).all((0, 1))
        state = state._replace(code=jnp.where(singular, ILL_CONDITIONED, state.code).astype(jnp.int32))
    return state, solution, ~certain


def resume(problem: Problem, state: State, open_: Array, config: LBFGS) -> tuple[State, Existence]:
    """Decide separation for the open lanes."""
    found = existence(problem, open_) if config.information else unknown(problem)
    if problem.has_edge:
        doubtful = (state.code == Status.CONVERGED) & ~is_inside(problem, state.beta)
        state = state._replace(code=jnp.where(doubtful, Status.STALLED, state.code).astype(jnp.int32))
    return marked(state, found), found


def finish(problem: Problem, resumed: tuple[State, Existence], config: LBFGS) -> tuple[None, Solution, Array]:
    """The solutions of the open lanes; none is left open."""
    return None, conclude(problem, resumed, config), jnp.zeros(problem.lanes, bool)


def conclude(problem: Problem, resumed: tuple[State, Existence], config: LBFGS) -> Solution:
    """The solutions of the open lanes."""
    state, found = resumed
    solution, certain = statistics(problem, state, config, last_pass(problem, state.beta, _method(config)))
    return concluded(solution, certain, found)


def later_parts(config: LBFGS) -> tuple[Callable[..., Any], ...]:
    """What comes after the first round."""
    return resume, conclude


def _method(config: LBFGS) -> Method:
    return by_cholesky if config.information else partial(by_products, max_iter=config.max_iter)


class Dataset(NamedTuple):
    """One lane of a problem."""

    X: Array  # (n, p)
    rows: Rows  # leaves (n,)
    inside: Array  # (n,), predictors in the family's domain: those of the average response
    curvature: Array  # (p,)
    scale: Scale
    weight: Array  # of all rows

    @jax.jit  # traced once, however often a line search asks
    def loss(self, beta: Array) -> Array:
        """The objective at β; infinite outside the family's domain."""
        family, eta = self.rows.family, self.rows.shift(dot(self.X, beta))
        valid = family.valid_predictor(eta)
        half = 0.5 * family.unit_deviance(jnp.where(valid, eta, self.inside), self.rows.y)
        penalty = 0.5 * (self.curvature * jnp.square(beta)).sum()
        return self.rows.weigh(jnp.where(valid, half, jnp.inf)).sum() + penalty

    def dispersion(self, loss: Array) -> Array:
        """Of a fit with that loss."""
        degrees = jnp.maximum(self.weight - self.X.shape[1], 1.0)
        return dispersion(self.scale, self.rows.family.has_dispersion, 2 * loss, 2 * loss, degrees)

    def average(self) -> Array:
        """β whose predictors are, as nearly as can be, those of the average response."""
        target = self.rows.unshift(self.inside)

        def normal(beta: Array) -> Array:
            return dot(self.rows.weigh(dot(self.X, beta)), self.X)

        return cg(normal, dot(self.rows.weigh(target), self.X), maxiter=self.X.shape[1])[0]


class Descent(NamedTuple):
    """What the next step needs."""

    beta: Array  # (p,), for columns of unit length
    loss: Array
    gradient: Array  # (p,)
    decrement: Array  # at the last β, in standard errors, as far as the memory knows the Hessian
    memory: Any  # optax's
    steps: Array
    passes: Array
    code: Array  # RUNNING, or how the descent ended, before proof


def minimize(problem: Problem, config: LBFGS) -> State:
    """The state in which L-BFGS leaves every lane."""
    lanes, n, p = problem.lanes, problem.design.n, problem.design.p
    average, dtype = problem.mean_response[None], problem.rows.y.dtype

    def lane_first(leaf: Array, *shape: int) -> Array:
        return jnp.moveaxis(jnp.broadcast_to(leaf, (*shape, lanes)), -1, 0)

    data = Dataset(
        X=lane_first(problem.design.lanes(lanes), n, p),
        rows=jax.tree.map(lambda leaf: lane_first(leaf, n), problem.rows),
        inside=lane_first(problem.rows.family.starting_predictor(average, average), n),
        curvature=lane_first(jnp.zeros((1, 1), dtype) if problem.curvature is None else problem.curvature, p),
        scale=jax.tree.map(lane_first, problem.scale),
        weight=problem.total_weight,
    )
    start = None if problem.start is None else lane_first(problem.start, p)
    # optax is written for JAX's default promotion, and takes the default precision for that of the data.
    with jax.enable_x64(dtype == jnp.float64), jax.numpy_dtype_promotion("standard"):
        end = lax.map(partial(_descend, config), (data, start, problem.invalid))
    beta = jnp.moveaxis(end.beta, 0, -1)
    return State(
        beta=beta,
        step=jnp.zeros_like(beta),
        limit=end.loss,
        decrement=end.decrement,
        halvings=jnp.zeros_like(end.passes),
        n_iter=end.passes,
        code=end.code,
    )


def _descend(config: LBFGS, lane: tuple[Dataset, Array | None, Array]) -> Descent:
    """L-BFGS from the start, until the decrement that it knows of is small or no step leads further down."""
    data, start, invalid = lane
    eps = float(jnp.finfo(data.X.dtype).eps)
    square = dot(data.rows.weigh(jnp.ones_like(data.rows.y)), jnp.square(data.X)) + data.curvature
    unit = 1 / jnp.sqrt(jnp.where(square > 0, square, 1.0))
    data = data._replace(X=data.X * unit[None], curvature=data.curvature * jnp.square(unit))
    search = optax.scale_by_zoom_linesearch(LINE_SEARCH_PASSES, approx_dec_rtol=NOISE * eps)
    optimizer = optax.lbfgs(memory_size=config.memory, linesearch=search)
    aim = config.tolerance(data.X.dtype) / 64

    def step(at: Descent) -> Descent:
        move, memory = optimizer.update(
            at.gradient, at.memory, at.beta, value=at.loss, grad=at.gradient, value_fn=data.loss
        )
        beta, found = at.beta + move, memory[-1]
        falls = found.value <= at.loss + NOISE * eps * jnp.abs(at.loss)
        stuck = ~(falls & (beta != at.beta).any())
        outside = jnp.isinf(found.info.decrease_error)
        decrement = jnp.sqrt(jnp.abs(move @ at.gradient) / found.learning_rate / error_unit(data.dispersion(at.loss)))
        code = jnp.where(stuck | (decrement <= aim), Status.CONVERGED, RUNNING)
        code = jnp.where(stuck & outside, Status.STALLED, code)
        return Descent(
            beta=jnp.where(stuck, at.beta, beta),
            loss=jnp.where(stuck, at.loss, found.value),
            gradient=jnp.where(stuck, at.gradient, found.grad),
            decrement=decrement,
            memory=memory,
            steps=at.steps + 1,
            passes=at.passes + found.info.num_linesearch_steps.astype(jnp.int32),
            code=code.astype(jnp.int32),
        )

    beta = data.average() if start is None else start / unit
    loss, gradient = jax.value_and_grad(data.loss)(beta)
    code = jnp.where(jnp.isfinite(loss), RUNNING, Status.STALLED)
    code = jnp.where(invalid, Status.INVALID_DATA, code).astype(jnp.int32)
    first = Descent(
        beta, loss, gradient, jnp.full_like(loss, jnp.inf), optimizer.init(beta), jnp.int32(0), jnp.int32(1), code
    )
    end = lax.while_loop(lambda at: (at.code == RUNNING) & (at.steps < config.max_iter), step, varying(first, data))
    return end._replace(beta=end.beta * unit)
