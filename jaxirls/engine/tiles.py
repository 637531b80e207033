r"""From a batch to its fits: tile by tile, then once more over the lanes that need more.

First every tile makes the passes that a well-posed dataset needs. The lanes that are then open (slow, separated, stuck)
are gathered into full tiles of their own and finished there, so that a straggler does not hold up its neighbours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import irls
from jaxirls.config import IRLS
from jaxirls.engine.batch import Batch, Plan, plan, problem
from jaxirls.status import Status


def fit_tiles(batch: Batch, config: IRLS) -> irls.Solution:
    """Fit B datasets; the result has the batch axis in front."""
    layout, size = plan(batch), batch.size
    if size <= layout.tile:
        solution = irls.solve(problem(_padded(batch, layout.tile), layout.design, layout.tile), config)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0)[:size], solution)
    if layout.tile == 1:
        return _one_by_one(batch, layout, config)
    return _two_rounds(batch, layout, config)


def _padded(batch: Batch, tile: int) -> Batch:
    extra = tile - batch.size
    return batch.select(lambda leaf: jnp.pad(leaf, ((0, extra),) + ((0, 0),) * (leaf.ndim - 1), mode="edge"))


def _one_by_one(batch: Batch, layout: Plan, config: IRLS) -> irls.Solution:
    def one(i: Array) -> irls.Solution:
        own = batch.select(lambda leaf: lax.dynamic_slice_in_dim(leaf, i, 1))
        solution = irls.solve(problem(own, layout.design, 1), config)
        return jax.tree.map(lambda leaf: leaf[..., 0], solution)

    return lax.map(one, jnp.arange(batch.size))


def _two_rounds(batch: Batch, layout: Plan, config: IRLS) -> irls.Solution:
    size, tile = batch.size, layout.tile

    def first_pass(part: Batch) -> tuple[irls.State, irls.Solution, Array]:
        return irls.begin(problem(part, layout.design, tile), config)

    def slice_at(start: Array) -> Batch:
        return batch.select(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, tile))

    shapes = jax.eval_shape(first_pass, slice_at(jnp.int32(0)))
    store = jax.tree.map(lambda s: jnp.zeros((size, *s.shape[:-1]), s.dtype), shapes)

    def first_round(i: Array, store):
        # The last tile overlaps the one before it: the same datasets, computed to the same bits.
        start = jnp.minimum(i * tile, size - tile)
        return jax.tree.map(
            lambda whole, part: lax.dynamic_update_slice_in_dim(whole, jnp.moveaxis(part, -1, 0), start, 0),
            store,
            first_pass(slice_at(start)),
        )

    state, solution, unfinished = lax.fori_loop(0, -(-size // tile), first_round, store)

    # Unfinished lanes first, in their order; past them, an index out of range marks an empty place.
    count = unfinished.sum(dtype=jnp.int32)
    order = jnp.nonzero(unfinished, size=size + tile, fill_value=size)[0].astype(jnp.int32)

    def second_round(carry: tuple[Array, irls.Solution]) -> tuple[Array, irls.Solution]:
        i, solution = carry
        lanes = lax.dynamic_slice_in_dim(order, i * tile, tile)
        laid = problem(batch.select(lambda leaf: leaf.at[lanes].get(mode="clip")), layout.design, tile)
        own = jax.tree.map(lambda leaf: jnp.moveaxis(leaf.at[lanes].get(mode="clip"), 0, -1), state)
        real = lanes < size
        own = own._replace(code=jnp.where(real, own.code, Status.STALLED).astype(jnp.int32))
        finished = irls.finish(laid, own, real, config)
        put = jax.tree.map(
            lambda whole, part: whole.at[lanes].set(jnp.moveaxis(part, -1, 0), mode="drop"), solution, finished
        )
        return i + 1, put

    _, solution = lax.while_loop(lambda carry: carry[0] * tile < count, second_round, (jnp.int32(0), solution))
    return solution
