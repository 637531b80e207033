r"""From a batch to its fits: tile by tile, then once more over the lanes that need more.

First every tile makes the passes that a well-posed dataset needs. The lanes that are then open (slow, separated, stuck)
are gathered into full tiles of their own and finished there, so that a straggler does not hold up its neighbours. What
then asks for QR makes a third round: few datasets do, and it takes as long to compile as either of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import irls, lbfgs
from jaxirls.config import IRLS, LBFGS, Algorithm
from jaxirls.engine.batch import Batch, Plan, problem
from jaxirls.problem import Problem, State
from jaxirls.proof import Solution
from jaxirls.status import Status
from jaxirls.trees import varying

# Each has a ``begin`` for the first round, a ``finish`` for the second, and a ``complete`` for all after the first.
ALGORITHMS: dict[type[Algorithm], Any] = {IRLS: irls, LBFGS: lbfgs}


class Round(NamedTuple):
    """Where B datasets stand, batch axis in front."""

    state: Any  # what the next round begins with
    solution: Solution
    open: Array  # (B,)


def first_round(batch: Batch, layout: Plan, config: Algorithm) -> Round:
    """The first passes over every tile of a batch of at least one tile."""

    def begin(start: Array) -> Round:
        laid = problem(batch.tile(start, layout.tile, layout.strip), layout.design, layout.tile)
        return Round(*ALGORITHMS[type(config)].begin(laid, config))

    return _over_tiles(begin, varying(jnp.int32(0), batch), batch.size, layout.tile)


def second_round(batch: Batch, state: State, real: Array, layout: Plan, config: Algorithm) -> Round:
    """Finish tiles, given where their datasets stand; those that are not ``real`` fill the last places, or tiles."""
    return Round(*_later_round(ALGORITHMS[type(config)].finish, batch, _idle(state, real), real, layout, config))


def third_round(batch: Batch, finished: irls.Finished, real: Array, layout: Plan, config: IRLS) -> Solution:
    """Finish by QR what the second round left open, likewise."""

    def finish(problem: Problem, finished: irls.Finished, _: Array, config: IRLS) -> Solution:
        return irls.finish_by_qr(problem, finished, config)

    return _later_round(finish, batch, finished, real, layout, config)


def later_rounds(batch: Batch, state: State, real: Array, layout: Plan, config: Algorithm) -> Solution:
    """The second round and the third in one."""
    return _later_round(ALGORITHMS[type(config)].complete, batch, _idle(state, real), real, layout, config)


def _idle(state: State, real: Array) -> State:
    """The state in which lanes that are not real have nothing left to do."""
    return state._replace(code=jnp.where(real, state.code, Status.STALLED).astype(jnp.int32))


def _later_round(
    work: Callable[..., Any], batch: Batch, state: Any, real: Array, layout: Plan, config: Algorithm
) -> Any:
    rest = layout.rest

    def finish(start: Array) -> Any:
        laid = problem(batch.tile(start, rest, layout.strip), layout.design, rest)
        own, open_ = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, rest), (state, real))
        return work(laid, jax.tree.map(_lanes_last, own), open_, config)

    filled = real.reshape(-1, rest).any(1).sum(dtype=jnp.int32)
    return _over_tiles(finish, varying(jnp.int32(0), batch, state), real.shape[0], rest, filled)


def _over_tiles(
    work: Callable[[Array], Any], first: Array, size: int, tile: int, count: int | Array | None = None
) -> Any:
    """``work`` on every tile, or the first ``count``, given its first dataset's number; results batch first."""

    def step(i: Array, store: Any) -> Any:
        # The last tile overlaps the one before it: the same datasets, computed to the same bits.
        start = jnp.minimum(first + i * tile, size - tile)
        done = jax.tree.map(_batch_first, work(start))
        put = lax.dynamic_update_slice_in_dim
        return jax.tree.map(lambda whole, part: put(whole, part, start, 0), store, done)

    work = jax.jit(work)  # traced once, for the shapes and for the loop
    shapes = jax.eval_shape(work, first)
    store = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[:-1]), leaf.dtype), shapes)
    last = jnp.int32(-(-size // tile)) if count is None else count
    return lax.fori_loop(jnp.int32(0), last, step, varying(store, first))


def refined(batch: Batch, begun: Round, lanes: Array, layout: Plan, config: Algorithm) -> Round:
    """The first round with ``layout.rest`` of its lanes finished; a number out of range is an empty place."""

    def gather(leaf: Array) -> Array:
        return leaf.at[lanes].get(mode="clip")

    state = jax.tree.map(gather, begun.state)
    part = later_rounds(batch.take(jnp.minimum(lanes, batch.size - 1)), state, lanes < batch.size, layout, config)
    put = jax.tree.map(lambda whole, new: whole.at[lanes].set(new, mode="drop"), begun.solution, part)
    return begun._replace(solution=put)


def fit_tiles(batch: Batch, layout: Plan, config: Algorithm) -> Solution:
    """All rounds in one program, for a batch inside a user's own transformation."""
    size, rest = batch.size, layout.rest
    begun = first_round(batch, layout, config)
    # Open lanes first, in their order; past them, an index out of range marks an empty place.
    count = begun.open.sum(dtype=jnp.int32)
    order = lax.cond(
        count > 0,
        lambda: jnp.nonzero(begun.open, size=size + rest, fill_value=size)[0].astype(jnp.int32),
        lambda: varying(jnp.full(size + rest, size, jnp.int32), begun.open),
    )

    def step(carry: tuple[Array, Round]) -> tuple[Array, Round]:
        i, begun = carry
        lanes = lax.dynamic_slice_in_dim(order, i * rest, rest)
        return i + 1, refined(batch, begun, lanes, layout, config)

    start = varying((jnp.int32(0), begun), batch)
    return lax.while_loop(lambda carry: carry[0] * rest < count, step, start)[1].solution


def padded(batch: Batch, size: int) -> Batch:
    """The batch filled up to ``size`` datasets by repeating its last."""
    extra = size - batch.size
    if extra == 0:
        return batch
    batch = batch.first()
    if batch.size == 1:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape[1:])), batch)
    return batch.select(lambda leaf: jnp.pad(leaf, ((0, extra),) + ((0, 0),) * (leaf.ndim - 1), mode="edge"))


def _batch_first(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, -1, 0)


def _lanes_last(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, 0, -1)
