r"""Who runs a batch: one program inside the user's own, or chunks on the machine's cores.

XLA runs a CPU program whose loops carry a dependence, as these do, on one core. Called with concrete arrays on a
CPU, the engine therefore cuts the batch into chunks and runs one compiled program over them on as many threads as
there are cores, see ``on_cores``. On another device the first round is one program over the whole batch. Either way a
later round is compiled only if a dataset needs it. Traced batches (under ``jit``, say) get one program with all rounds.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxirls.config import Algorithm
from jaxirls.engine.batch import Batch, Plan, device, plan
from jaxirls.engine.on_cores import fit_on_cores
from jaxirls.engine.tiles import first_round, fit_tiles, likelihood_round, padded, refined
from jaxirls.proof import Solution

_first_round = jax.jit(first_round, static_argnums=(1, 2))
_refined = jax.jit(refined, static_argnums=(3, 4))
_likelihoods = jax.jit(likelihood_round, static_argnums=(2, 3))
_fit_tiles = jax.jit(fit_tiles, static_argnums=(1, 2))


def fit_batch(batch: Batch, config: Algorithm) -> Solution:
    """Fit B datasets; the result has the batch axis in front."""
    return fit_planned(batch, plan(batch), config)


def fit_planned(batch: Batch, layout: Plan, config: Algorithm) -> Solution:
    """Solutions of a batch in a given layout."""
    size, room = batch.size, max(batch.size, layout.tile)

    def first(solution: Solution) -> Solution:
        return solution if size == room else jax.tree.map(lambda leaf: leaf[:size], solution)

    if not is_concrete(batch) or any(len(leaf.devices()) > 1 for leaf in _on_devices(batch)):
        return first(_fit_tiles(padded(batch, room), layout, config))
    home = device(batch)
    if home.platform == "cpu":
        batch = padded(jax.tree.map(np.asarray, batch), room)
        return jax.device_put(first(fit_on_cores(batch, layout, config, home)), home)
    return first(_on_device(padded(jax.tree.map(jnp.asarray, batch), room), layout, config))


def _on_devices(batch: Batch) -> list[Array]:
    """The leaves that are JAX's; NumPy's are on no device yet."""
    return [leaf for leaf in jax.tree.leaves(batch) if isinstance(leaf, Array)]


def _on_device(batch: Batch, layout: Plan, config: Algorithm) -> Solution:
    """The fits of concrete data where they lie."""
    begun = _first_round(batch, layout, config)
    lanes = np.flatnonzero(begun.open)
    places = np.full((-(-lanes.size // layout.rest), layout.rest), batch.size, np.int32)
    places.ravel()[: lanes.size] = lanes
    for at in places:
        begun = _refined(batch, begun, at, layout, config)
    solution = begun.solution
    if solution.is_pending:
        return solution.completed(_likelihoods(batch, solution.asked, layout, config))
    return solution._replace(pending=None)


def is_concrete(tree: Any) -> bool:
    """Whether no leaf is being traced, nor a program around, of which all operations would be."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in [jnp.zeros(()), *jax.tree.leaves(tree)])
