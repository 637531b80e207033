r"""Who runs a batch: one program inside the user's own, or chunks on the machine's cores.

XLA runs a CPU program whose loops carry a dependence, as these do, on one core. Called with concrete arrays on a
CPU, the engine therefore cuts the batch into chunks and runs one compiled program over them on as many threads as
there are cores. On another device the first round is one program over the whole batch. Either way a later round is
compiled only if a dataset needs it. Traced batches (under ``jit``, say) get one program with all rounds.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxirls.config import Algorithm
from jaxirls.engine.batch import Batch, Plan, device, plan
from jaxirls.engine.tiles import (
    Round,
    first_round,
    fit_tiles,
    likelihood_round,
    padded,
    refined,
    second_round,
    third_round,
)
from jaxirls.likelihood import Likelihood
from jaxirls.proof import Solution

# Bytes of data a chunk may hold. A core has few chunks, as a call costs part of a millisecond, and twice as many where
# it goes through ``LONG`` elements of X: then others make up for a core that starts late.
CHUNK_BYTES = 2**25
CHUNKS_PER_CORE = 2
LONG = 2**22
# Tiles of the second round in a chunk, at most, and bytes that they may hold: a call costs as much as small tiles do.
REST_TILES = 8
REST_BYTES = 2**21
# Bytes, of which the address of an array is to be a multiple for XLA to use its memory.
ALIGNMENT = 64

# Options of XLA for programs of this package's own, but for those that the environment sets. Where the processor has
# vectors of 512 bits, use them: LLVM prefers 256, which measures slower here. Its first level takes the least time to
# compile, and fits and random numbers are as fast by any.
CPU_OPTIONS: dict[str, str | bool] = {
    name: value
    for name, value in (("xla_cpu_prefer_vector_width", "512"), ("xla_backend_optimization_level", "1"))
    if name not in os.environ.get("XLA_FLAGS", "")
}

_first_chunk = jax.jit(first_round, static_argnums=(1, 2), compiler_options=CPU_OPTIONS)
_second_chunk = jax.jit(second_round, static_argnums=(3, 4), compiler_options=CPU_OPTIONS)
_third_chunk = jax.jit(third_round, static_argnums=(3, 4), compiler_options=CPU_OPTIONS)
_likelihood_chunk = jax.jit(likelihood_round, static_argnums=(2, 3), compiler_options=CPU_OPTIONS)
_first_round = jax.jit(first_round, static_argnums=(1, 2))
_refined = jax.jit(refined, static_argnums=(3, 4))
_likelihoods = jax.jit(likelihood_round, static_argnums=(2, 3))
_fit_tiles = jax.jit(fit_tiles, static_argnums=(1, 2))


def fit_batch(batch: Batch, config: Algorithm) -> Solution:
    """Fit B datasets; the result has the batch axis in front."""
    layout = plan(batch)
    return fit_planned(padded(batch, max(batch.size, layout.tile)), layout, config, batch.size)


def fit_planned(batch: Batch, layout: Plan, config: Algorithm, size: int | None = None) -> Solution:
    """Solutions of a batch of at least one tile in a given layout, or of its first ``size`` datasets."""

    def first(solution: Solution) -> Solution:
        return solution if size in (None, batch.size) else jax.tree.map(lambda leaf: leaf[:size], solution)

    if not is_concrete(batch) or any(len(leaf.devices()) > 1 for leaf in _on_devices(batch)):
        return first(_fit_tiles(batch, layout, config))
    home = device(batch)
    if home.platform == "cpu":
        return jax.device_put(first(_on_cores(batch, layout, config, home)), home)
    return first(_on_device(jax.tree.map(jnp.asarray, batch), layout, config))


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
    if _is_pending(solution):
        return solution.completed(_likelihoods(batch, solution.asked, layout, config))
    return solution._replace(pending=None)


def _on_cores(batch: Batch, layout: Plan, config: Algorithm, home: jax.Device) -> Solution:
    """The fits of concrete data: NumPy cuts and joins by views and copies, with nothing to compile."""
    batch = jax.tree.map(np.asarray, batch)
    size, chunk = batch.size, _chunk(batch, layout)
    starts = [min(start, size - chunk) for start in range(0, size, chunk)]  # the last may reach back over its neighbour

    def begin(start: int) -> Round:
        return _first_chunk(batch.part(start, chunk), layout, config)

    at = _on_threads(begin, starts, chunk, size, home)
    solution, lanes = at.solution, np.flatnonzero(at.open)
    if lanes.size:
        at = _later_on_cores(_second_chunk, batch, lanes, _some(at.state, lanes), layout, config, home)
        solution = jax.tree.map(partial(_replaced, at=lanes), solution, at.solution)
        left = np.flatnonzero(at.open)
        if left.size:
            lanes = lanes[left]
            last = _later_on_cores(_third_chunk, batch, lanes, _some(at.state, left), layout, config, home)
            solution = jax.tree.map(partial(_replaced, at=lanes), solution, last)
    if _is_pending(solution):
        asked = solution.asked

        def complete(start: int) -> Likelihood:
            own = _some(asked, slice(start, start + chunk))
            return _likelihood_chunk(batch.part(start, chunk), own, layout, config)

        return solution.completed(_on_threads(complete, starts, chunk, size, home))
    return solution._replace(pending=None)


def _later_on_cores(
    program: Callable[..., Any],
    batch: Batch,
    lanes: np.ndarray,
    state: Any,
    layout: Plan,
    config: Algorithm,
    home: jax.Device,
) -> Any:
    """A later round of some lanes of a batch, given where these stand, by chunks that share its program."""
    room = _rest_chunk(batch, layout)
    turns = -(-lanes.size // (cores() * room))
    share = -(-lanes.size // (cores() * turns * layout.rest)) * layout.rest

    def work(start: int) -> Any:
        count = min(share, lanes.size - start)
        filled = start + np.resize(np.arange(count), room)
        return program(batch.take(lanes[filled]), _some(state, filled), np.arange(room) < count, layout, config)

    return _on_threads(work, range(0, lanes.size, share), share, lanes.size, home)


def _is_pending(solution: Solution) -> bool:
    """Whether the likelihood of some dataset is still to be found."""
    return solution.pending is not None and bool(np.any(solution.pending))


def _some(tree: Any, lanes: np.ndarray | slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[lanes], tree)


def _on_threads(task: Callable[[int], Any], starts: Sequence[int], count: int, size: int, home: jax.Device) -> Any:
    """``task`` of every start joined, for ``size`` datasets: of each the ``count`` from there on.

    A core goes from one call to the next without a pause: that has begun before the one before it is waited for.
    """
    with jax.default_device(home):
        first = task(starts[0])  # which compiles the program for all
    whole = jax.tree.map(lambda leaf: _aligned((size, *leaf.shape[1:]), leaf.dtype), first)
    wide = jnp.zeros(()).dtype == jnp.float64  # a scope may have set it for this thread alone
    left = deque(starts[1:])

    def put(start: int, result: Any) -> None:
        for room, part in zip(jax.tree.leaves(whole), jax.tree.leaves(result), strict=True):
            own = room[start : start + count]
            own[...] = np.asarray(part)[: len(own)]

    def begun() -> tuple[tuple[int, Any], ...]:
        try:
            start = left.popleft()
        except IndexError:
            return ()
        return ((start, task(start)),)

    def work(*calls: tuple[int, Any]) -> None:
        try:
            with jax.enable_x64(wide), jax.default_device(home):
                calls = calls or begun()
                while calls:
                    ahead = begun()
                    put(*calls[0])
                    calls = ahead
        finally:
            left.clear()  # where one fails or is interrupted, the others stop

    helpers = min(cores(), len(starts)) - 1
    with ThreadPoolExecutor(max(helpers, 1)) as pool:  # which starts no thread before it has work
        others = [pool.submit(work) for _ in range(helpers)]
        work((starts[0], first))
    for other in others:
        other.result()
    return whole


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address that XLA takes as it is."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def _replaced(whole: np.ndarray, new: np.ndarray, at: np.ndarray) -> np.ndarray:
    whole[at] = new
    return whole


def _chunk(batch: Batch, layout: Plan) -> int:
    """Datasets a chunk: a power of two of tiles, within ``CHUNK_BYTES``, so that batch sizes share programs."""
    elements = batch.size * math.prod(batch.shape) // cores()
    chunks = cores() * CHUNKS_PER_CORE * (1 if elements < LONG else 2)
    share = batch.size // (chunks * layout.tile)
    tiles = max(1, min(CHUNK_BYTES // (batch.bytes * layout.tile), share))
    return layout.tile << (tiles.bit_length() - 1)


def _rest_chunk(batch: Batch, layout: Plan) -> int:
    """Datasets a chunk of the second round has room for, in whole tiles."""
    return layout.rest * max(1, min(REST_TILES, REST_BYTES // (batch.bytes * layout.rest)))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_concrete(tree: Any) -> bool:
    """Whether no leaf is being traced, nor a program around, of which all operations would be."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in [jnp.zeros(()), *jax.tree.leaves(tree)])
