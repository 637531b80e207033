r"""From a batch to its fits: tile by tile, then once more over the lanes that need more.

First every tile makes the passes that a well-posed dataset needs. The lanes that are then open (slow, separated, stuck)
are gathered into full tiles of their own and finished there, so that a straggler does not hold up its neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import irls
from jaxirls.config import IRLS
from jaxirls.engine.batch import Batch, Plan, problem
from jaxirls.status import Status


class Round(NamedTuple):
    """Where B datasets stand, batch axis in front."""

    state: irls.State
    solution: irls.Solution
    open: Array  # (B,)


def first_round(batch: Batch, layout: Plan, config: IRLS) -> Round:
    """The first passes over every tile of a batch of at least one tile."""
    size, tile = batch.size, layout.tile

    def fit_at(start: Array) -> Round:
        part = batch.select(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, tile))
        return jax.tree.map(_batch_first, Round(*irls.begin(problem(part, layout.design, tile), config)))

    shapes = jax.eval_shape(fit_at, jnp.int32(0))
    store = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), shapes)

    def step(i: Array, store: Round) -> Round:
        # The last tile overlaps the one before it: the same datasets, computed to the same bits.
        start = jnp.minimum(i * tile, size - tile)
        put = lax.dynamic_update_slice_in_dim
        return jax.tree.map(lambda whole, part: put(whole, part, start, 0), store, fit_at(start))

    return lax.fori_loop(0, -(-size // tile), step, store)


def second_round(batch: Batch, state: irls.State, layout: Plan, config: IRLS, real: Array) -> irls.Solution:
    """Finish one tile of datasets, given where they stand; a lane that is not ``real`` fills a place."""
    laid = problem(batch, layout.design, layout.tile)
    lanes = jax.tree.map(_lanes_last, state)
    code = jnp.where(real, lanes.code, Status.STALLED).astype(jnp.int32)
    return jax.tree.map(_batch_first, irls.finish(laid, lanes._replace(code=code), real, config))


def fit_tiles(batch: Batch, layout: Plan, config: IRLS) -> irls.Solution:
    """Both rounds in one program, for a batch inside a user's own transformation."""
    size, tile = batch.size, layout.tile
    begun = first_round(batch, layout, config)
    # Open lanes first, in their order; past them, an index out of range marks an empty place.
    count = begun.open.sum(dtype=jnp.int32)
    order = jnp.nonzero(begun.open, size=size + tile, fill_value=size)[0].astype(jnp.int32)

    def step(carry: tuple[Array, irls.Solution]) -> tuple[Array, irls.Solution]:
        i, solution = carry
        lanes = lax.dynamic_slice_in_dim(order, i * tile, tile)

        def gather(leaf: Array) -> Array:
            return leaf.at[lanes].get(mode="clip")

        part = second_round(batch.select(gather), jax.tree.map(gather, begun.state), layout, config, lanes < size)
        put = jax.tree.map(lambda whole, new: whole.at[lanes].set(new, mode="drop"), solution, part)
        return i + 1, put

    _, solution = lax.while_loop(lambda carry: carry[0] * tile < count, step, (jnp.int32(0), begun.solution))
    return solution


def padded(batch: Batch, size: int) -> Batch:
    """The batch filled up to ``size`` datasets by repeating its last."""
    extra = size - batch.size
    if batch.size == 1:
        return batch._replace(y=jnp.broadcast_to(batch.y, (size, *batch.y.shape[1:])))
    return batch.select(lambda leaf: jnp.pad(leaf, ((0, extra),) + ((0, 0),) * (leaf.ndim - 1), mode="edge"))


def _batch_first(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, -1, 0)


def _lanes_last(leaf: Array) -> Array:
    return jnp.moveaxis(leaf, 0, -1)
