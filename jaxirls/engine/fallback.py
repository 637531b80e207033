r"""The fallback: a second, penalized fit of exactly the datasets whose first one asks for it.

They are gathered into tiles of their own, as the second round of a fit gathers its lanes: concrete data compile and
compute the penalized fit only where a dataset needs it, and a program that is traced holds it once, in a loop that runs
over the flagged datasets alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.config import Algorithm
from jaxirls.engine.batch import Batch, Plan, plan
from jaxirls.engine.dispatch import fit_batch, fit_planned, is_concrete
from jaxirls.engine.tiles import padded
from jaxirls.linalg import condition_number
from jaxirls.penalties import Penalty
from jaxirls.proof import Solution
from jaxirls.status import Status
from jaxirls.trees import varying

__all__ = ["Outcome", "fit_with_fallback"]


class Outcome(NamedTuple):
    """The fits of B datasets, batch axis in front, and which of them a penalty made."""

    solution: Solution
    penalized: Array  # (B,)
    unpenalized_status: Array  # (B,): how the fit without the fallback ended


def fit_with_fallback(batch: Batch, config: Algorithm) -> Outcome:
    """Fit B datasets, then those again by ``batch.fallback`` whose status or condition number asks for it."""
    fallback, size = batch.fallback, batch.size
    first = fit_batch(batch._replace(fallback=None), config)
    if fallback is None:
        return Outcome(first, jnp.full(size, batch.penalty is not None), first.status)
    first = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape[1:])), first)
    flagged = _flagged(first, fallback, config)
    layout = plan(batch)
    layout = layout._replace(tile=layout.rest)
    batch = padded(batch._replace(penalty=fallback, fallback=None), max(size, layout.tile))
    refit = _refit_concrete if is_concrete((batch, flagged)) else _refit_traced
    second = refit(batch, first, flagged, layout, config)
    # The proof that there is no finite estimate stays, beside the status that it proves.
    return Outcome(second._replace(direction=first.direction), flagged, first.status)


def _flagged(solution: Solution, fallback: Penalty, config: Algorithm) -> Array:
    """Which fits are without an estimate that the fallback can give, or worse conditioned than is allowed."""
    lacking = [Status.SEPARATED, Status.BOUNDARY, Status.STALLED, Status.MAX_ITERATIONS]
    if fallback.identifies:
        lacking.append(Status.RANK_DEFICIENT)
    flagged = jnp.isin(solution.status, jnp.asarray(lacking, solution.status.dtype))
    if config.max_condition is None:
        return flagged
    estimated = solution.status == Status.CONVERGED
    return flagged | (estimated & (condition_number(solution.root) > config.max_condition))


def _refit_concrete(batch: Batch, first: Solution, flagged: Array, layout: Plan, config: Algorithm) -> Solution:
    lanes = np.flatnonzero(flagged)
    if not lanes.size:
        return first
    # A power of two of tiles, so that few sizes are ever compiled.
    tiles = -(-lanes.size // layout.tile)
    places = np.resize(lanes, layout.tile << (tiles - 1).bit_length())
    second = fit_planned(batch.take(places), layout, config)
    return jax.tree.map(lambda whole, new: whole.at[lanes].set(new[: lanes.size]), first, second)


def _refit_traced(batch: Batch, first: Solution, flagged: Array, layout: Plan, config: Algorithm) -> Solution:
    size, tile = flagged.shape[0], layout.tile
    count = flagged.sum(dtype=jnp.int32)
    # Flagged lanes first; past them, an index out of range marks an empty place, filled by the last flagged dataset.
    order = jnp.nonzero(flagged, size=size + tile, fill_value=size)[0].astype(jnp.int32)

    def step(carry: tuple[Array, Solution]) -> tuple[Array, Solution]:
        i, solution = carry
        lanes = lax.dynamic_slice_in_dim(order, i * tile, tile)
        source = jnp.where(lanes < size, lanes, order[count - 1])
        part = fit_planned(batch.take(source), layout, config)
        put = jax.tree.map(lambda whole, new: whole.at[lanes].set(new, mode="drop"), solution, part)
        return i + 1, put

    return lax.while_loop(lambda carry: carry[0] * tile < count, step, varying((jnp.int32(0), first), batch))[1]
