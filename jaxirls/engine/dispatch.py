r"""Chunks over the machine's cores.

XLA runs one program of a CPU device on one core where, as here, its loops carry a dependence. Called with concrete
arrays on the CPU, the engine therefore cuts the batch into chunks and runs the one compiled program for them on as many
threads as there are cores. Inside a user's ``jit`` the batch is one program: shard it over devices with ``shard_map``.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp

from jaxirls.config import IRLS
from jaxirls.engine.batch import Batch, plan
from jaxirls.engine.tiles import fit_tiles
from jaxirls.irls import Solution

# Bytes of data a chunk may hold; small enough for the threads to share the work evenly, large enough to amortize a call.
CHUNK_BYTES = 2**25

_compiled = jax.jit(fit_tiles, static_argnums=1)


def fit_batch(batch: Batch, config: IRLS) -> Solution:
    """Fit B datasets on every core at hand."""
    cores = _cores()
    chunk = _chunk(batch, cores)
    if cores == 1 or batch.size <= chunk or not _runs_here(batch):
        return _compiled(batch, config)
    starts = [min(start, batch.size - chunk) for start in range(0, batch.size, chunk)]
    parts = [batch.select(partial(_slice, start=start, size=chunk)) for start in starts]
    with ThreadPoolExecutor(cores) as pool:
        solutions = list(pool.map(lambda part: jax.block_until_ready(_compiled(part, config)), parts))
    last = batch.size - starts[-2]  # the last chunk reaches back over its neighbour; drop what is there twice
    return jax.tree.map(lambda *leaves: jnp.concatenate([*leaves[:-1], leaves[-1][2 * chunk - last :]]), *solutions)


def _slice(leaf: jax.Array, start: int, size: int) -> jax.Array:
    return leaf[start : start + size]


def _chunk(batch: Batch, cores: int) -> int:
    """Datasets a chunk: whole tiles, at least two chunks a core where there is work for them."""
    tile = plan(batch).tile
    own = sum(leaf.size // leaf.shape[0] * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch) if leaf.shape[0] > 1)
    fitting = max(tile, CHUNK_BYTES // max(own, 1) // tile * tile)
    even = -(-batch.size // (2 * cores * tile)) * tile
    return max(4 * tile, min(fitting, even))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _runs_here(batch: Batch) -> bool:
    """Whether the batch is concrete and on one CPU device, with no tracer in it."""
    leaves = jax.tree.leaves(batch)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return False
    devices = {device for leaf in leaves for device in leaf.devices()}
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"
