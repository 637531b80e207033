r"""From a batch to its fits: tile by tile, then once more over the lanes that need more.

First every tile makes the passes that a well-posed dataset needs. The lanes that are then open (slow, separated, stuck)
are gathered into full tiles of their own and finished there, so that a straggler does not hold up its neighbours.
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

# Each has a ``begin`` and a ``finish``.
ALGORITHMS: dict[type[Algorithm], Any] = {IRLS: irls, LBFGS: lbfgs}


class Round(NamedTuple):
    """Where B datasets stand, batch axis in front."""

    state: State
    solution: Solution
    open: Array  # (B,)


def first_round(batch: Batch, layout: Plan, config: Algorithm) -> Round:
    """The first passes over every tile of a batch of at least one tile."""

    def load(start: Array) -> Problem:
        return problem(_tile(batch, start, layout), layout.design, layout.tile)

    return _over_tiles(load, lambda laid: Round(*ALGORITHMS[type(config)].begin(laid, config)), batch.size, layout.tile)


def second_round(batch: Batch, state: State, real: Array, layout: Plan, config: Algorithm) -> Solution:
    """Finish datasets, given where they stand; those that are not ``real`` fill a place."""

    def load(start: Array) -> tuple[Problem, State, Array]:
        part = (state._replace(code=jnp.where(real, state.code, Status.STALLED).astype(jnp.int32)), real)
        own = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, layout.tile), part)
        return problem(_tile(batch, start, layout), layout.design, layout.tile), *jax.tree.map(_lanes_last, own)

    def work(part: tuple[Problem, State, Array]) -> Solution:
        laid, state, real = part
        return ALGORITHMS[type(config)].finish(laid, state, real, config)

    return _over_tiles(load, work, real.shape[0], layout.tile)


def _tile(batch: Batch, start: Array, layout: Plan) -> Batch:
    return batch.select(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, layout.tile))


def _over_tiles(load: Callable[[Array], Any], work: Callable[[Any], Any], size: int, tile: int) -> Any:
    """``work`` on every tile, results batch first.

    A tile is loaded one turn ahead and carried: the loop's carry is memory, so that the layout change of the load is
    made once, not again inside every pass that reads it.
    """

    def start_of(i: Array) -> Array:
        # The last tile overlaps the one before it: the same datasets, computed to the same bits.
        return jnp.minimum(i * tile, size - tile)

    def step(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        loaded, store = carry
        done = jax.tree.map(_batch_first, work(loaded))
        put = lax.dynamic_update_slice_in_dim
        store = jax.tree.map(lambda whole, part: put(whole, part, start_of(i), 0), store, done)
        return load(start_of(i + 1)), store

    first = load(jnp.int32(0))
    shapes = jax.eval_shape(work, first)
    store = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[:-1]), leaf.dtype), shapes)
    return lax.fori_loop(0, -(-size // tile), step, varying((first, store)))[1]


def fit_tiles(batch: Batch, layout: Plan, config: Algorithm) -> Solution:
    """Both rounds in one program, for a batch inside a user's own transformation."""
    size, tile = batch.size, layout.tile
    begun = first_round(batch, layout, config)
    # Open lanes first, in their order; past them, an index out of range marks an empty place.
    count = begun.open.sum(dtype=jnp.int32)
    order = jnp.nonzero(begun.open, size=size + tile, fill_value=size)[0].astype(jnp.int32)

    def step(carry: tuple[Array, Solution]) -> tuple[Array, Solution]:
        i, solution = carry
        lanes = lax.dynamic_slice_in_dim(order, i * tile, tile)

        def gather(leaf: Array) -> Array:
            return leaf.at[lanes].get(mode="clip")

        part = second_round(batch.select(gather), jax.tree.map(gather, begun.state), lanes < size, layout, config)
        put = jax.tree.map(lambda whole, new: whole.at[lanes].set(new, mode="drop"), solution, part)
        return i + 1, put

    start = varying((jnp.int32(0), begun.solution), batch)
    return lax.while_loop(lambda carry: carry[0] * tile < count, step, start)[1]


def padded(batch: Batch, size: int) -> Batch:
    """The batch filled up to ``size`` datasets by repeating its last."""
    extra = size - batch.size
    if batch.size == 1:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape[1:])), batch)
    return batch.select(lambda leaf: jnp.pad(leaf, ((0, extra),) + ((0, 0),) * (leaf.ndim - 1), mode="edge"))


def _batch_first(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, -1, 0)


def _lanes_last(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, 0, -1)
