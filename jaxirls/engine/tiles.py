r"""From a batch to its fits: tile by tile, then once more over the lanes that need more.

First every tile makes the passes that a well-posed dataset needs. The lanes that are then open (slow, separated, stuck)
are gathered into full tiles of their own and finished there, so that a straggler does not hold up its neighbours. What
then asks for QR makes a third round: few datasets do, and it takes as long to compile as either of the others. The last
round is for likelihoods that are pending.

A round lays a tile out and takes it through its parts, passes and the proof of what they led to. Where XLA makes
functions of loops each is one, see ``apart``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls import lbfgs, rounds
from jaxirls.config import IRLS, LBFGS, Algorithm
from jaxirls.designs import SharedByRow
from jaxirls.engine.apart import apart, room_for
from jaxirls.engine.batch import Batch, Plan, problem
from jaxirls.engine.resamples import from_common_rows
from jaxirls.likelihood import Asked, Likelihood, pending_deviance, pending_likelihood
from jaxirls.problem import Problem, State
from jaxirls.proof import Solution
from jaxirls.status import Status
from jaxirls.trees import varying

# Each algorithm has two parts for the first round, ``begin`` and ``begun``, two for the second, ``resume`` and
# ``finish``, and ``later_parts`` for all after the first in one.
ALGORITHMS: dict[type[Algorithm], Any] = {IRLS: rounds, LBFGS: lbfgs}
Parts = tuple[Callable[..., Any], ...]


class Round(NamedTuple):
    """Where B datasets stand, batch axis in front."""

    state: Any  # what the next round begins with
    solution: Solution
    open: Array  # (B,)


def first_round(batch: Batch, layout: Plan, config: Algorithm) -> Round:
    """The first passes over every tile of a batch of at least one tile, and the proof there."""
    algorithm = ALGORITHMS[type(config)]
    if layout.design is SharedByRow and algorithm is rounds:
        batch = from_common_rows(batch)
    return Round(*_over_tiles((algorithm.begin, algorithm.begun), batch, (), layout.tile, layout, config))


def second_round(batch: Batch, state: State, real: Array, layout: Plan, config: Algorithm) -> Round:
    """Finish tiles, given where their datasets stand; those that are not ``real`` fill the last places, or tiles."""
    algorithm = ALGORITHMS[type(config)]
    given = (_idle(state, real), real)
    return Round(*_later_round((algorithm.resume, algorithm.finish), batch, given, real, layout, config))


def third_round(batch: Batch, finished: rounds.Finished, real: Array, layout: Plan, config: IRLS) -> Solution:
    """Finish by QR what the second round left open, likewise."""
    return _later_round((rounds.resume_by_qr, rounds.finish_by_qr), batch, (finished,), real, layout, config)


def later_rounds(batch: Batch, state: State, real: Array, layout: Plan, config: Algorithm) -> Solution:
    """The second round and the third in one."""
    algorithm = ALGORITHMS[type(config)]
    given = (_idle(state, real), real)
    return _later_round(algorithm.later_parts(config), batch, given, real, layout, config)


def likelihood_round(batch: Batch, asked: Asked, layout: Plan, config: Algorithm) -> Likelihood:
    """The likelihoods of a batch, those that are pending found."""
    parts, tile = (pending_deviance, pending_likelihood), layout.tile
    tiles = jnp.where(asked.pending.any(), jnp.int32(-(-batch.size // tile)), 0)
    found = _over_tiles(parts, batch, (asked.at,), tile, layout, config, tiles)
    return jax.tree.map(partial(jnp.where, asked.pending), found, asked.known)


def _idle(state: State, real: Array) -> State:
    """The state in which lanes that are not real have nothing left to do."""
    return state._replace(code=jnp.where(real, state.code, Status.STALLED).astype(jnp.int32))


def _later_round(
    parts: Parts, batch: Batch, given: tuple[Any, ...], real: Array, layout: Plan, config: Algorithm
) -> Any:
    filled = real.reshape(-1, layout.rest).any(1).sum(dtype=jnp.int32)
    return _over_tiles(parts, batch, given, layout.rest, layout, config, filled)


def _over_tiles(
    parts: Parts,
    batch: Batch,
    given: tuple[Any, ...],
    tile: int,
    layout: Plan,
    config: Algorithm,
    count: int | Array | None = None,
) -> Any:
    """What the last part makes, of every tile or the first ``count``; batch first.

    Args:
      parts: of the first, (problem, *given, config) -> what it makes; of the others, (problem, what the one before
        made, config) -> what it makes.
      batch: B datasets.
      given: what else the first part takes, trees of leaves (B, ...).
      tile: how many datasets to a tile.
      layout: of the batch.
      config: of the algorithm.
      count: of the tiles; all, if None.
    """

    def lay(data: tuple[Batch, tuple[Any, ...]], start: Array) -> tuple[Any, ...]:
        batch, given = data
        laid = problem(batch.tile(start, tile, layout.strip), layout.design, tile)
        own = jax.tree.map(lambda leaf: _lanes_last(lax.dynamic_slice_in_dim(leaf, start, tile)), given)
        return laid, *own

    # Each is traced once, for the shapes and for the loop.
    lay, (*passes, proof) = jax.jit(lay), [jax.jit(partial(part, config=config)) for part in parts]
    data, size = (batch, given), batch.size
    first = varying(jnp.int32(0), data)

    def put(store: Any, laid: Problem, reached: Any, start: Array) -> Any:
        done = jax.tree.map(_batch_first, proof(laid, reached))
        return jax.tree.map(lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, start, 0), store, done)

    def at_once(_: int, part: Callable[..., Any], *given: Any) -> Any:
        return part(*given)

    def through(data: Any, start: Array, made: Callable[..., Any] = at_once) -> list[Any]:
        """What the layout and every pass make, each by ``made(number, part, *given)``."""
        rooms = [made(0, lay, data, start)]
        given = rooms[0]
        for number, part in enumerate(passes, 1):
            rooms.append(made(number, part, *given))
            given = rooms[0][0], rooms[-1]
        return rooms

    def whole(data: Any, start: Array) -> tuple[Any, ...]:
        rooms = through(data, start)
        return *rooms, proof(rooms[0][0], rooms[-1])

    def step(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        rooms, store = carry
        # The last tile overlaps the one before it: the same datasets, computed to the same bits.
        start = jnp.minimum(first + i * tile, size - tile)
        if not layout.design.by_row:
            laid, *_, reached = through(data, start)
            return rooms, put(store, laid[0], reached, start)

        def made(number: int, part: Callable[..., Any], *given: Any) -> Any:
            return apart(lambda _, *given: varying(part(*given), data), rooms[number], *given)

        laid, *_, reached = rooms = through(data, start, made)
        return rooms, apart(put, store, laid[0], reached, start)

    *between, results = jax.eval_shape(whole, data, first)
    stored = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[:-1]), leaf.dtype), results)
    # A part that is apart writes over what it made of the last tile: room for that is made once.
    start = room_for((between, stored), data) if layout.design.by_row else ([], jax.tree.map(jnp.zeros_like, stored))
    last = jnp.int32(-(-size // tile)) if count is None else count
    return lax.fori_loop(jnp.int32(0), last, step, varying(start, first))[1]


def refined(batch: Batch, begun: Round, lanes: Array, layout: Plan, config: Algorithm) -> Round:
    """The first round with ``layout.rest`` of its lanes finished; a number out of range is an empty place."""

    def gather(leaf: Array) -> Array:
        return leaf.at[lanes].get(mode="clip")

    state = jax.tree.map(gather, begun.state)
    some = batch.take(jnp.minimum(lanes, batch.size - 1), layout.design.by_row)
    part = later_rounds(some, state, lanes < batch.size, layout, config)
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
    ended = lax.while_loop(lambda carry: carry[0] * rest < count, step, start)[1]
    solution = ended.solution
    if solution.pending is None:
        return solution
    return solution.completed(likelihood_round(batch, solution.asked, layout, config))


def padded(batch: Batch, size: int) -> Batch:
    """The batch filled up to ``size`` datasets by repeating its last."""
    if size == batch.size:
        return batch
    batch = batch.first()
    if batch.size == 1:
        return jax.tree.map(lambda leaf: leaf.repeat(size, 0), batch)
    return batch.take(np.minimum(np.arange(size), batch.size - 1))


def _batch_first(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, -1, 0)


def _lanes_last(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, 0, -1)
