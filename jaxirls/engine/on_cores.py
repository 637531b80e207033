r"""Concrete batches on the cores of a CPU: chunks of datasets, and of those that are open after each round.

No core waits for another between the rounds. NumPy cuts and joins by views and copies, with nothing to compile, and a
later round is compiled only if a dataset needs it.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxirls.config import Algorithm
from jaxirls.engine.batch import Batch, Plan, aligned
from jaxirls.engine.crew import cores, once_compiled, work_through
from jaxirls.engine.tiles import Round, first_round, likelihood_round, second_round, third_round
from jaxirls.likelihood import Asked, Likelihood
from jaxirls.proof import Solution

__all__ = ["CPU_OPTIONS", "fit_on_cores"]

# Bytes of data a chunk may hold. A core has few chunks, as a call costs part of a millisecond, and twice as many where
# it goes through ``LONG`` elements of X: then others make up for a core that starts late.
CHUNK_BYTES = 2**25
CHUNKS_PER_CORE = 2
LONG = 2**22
# Tiles of the second round in a chunk, at most, and bytes that they may hold: a call costs as much as small tiles do.
REST_TILES = 8
REST_BYTES = 2**21

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


class _Task(NamedTuple):
    """A round of some datasets."""

    round: int
    lanes: slice | np.ndarray  # their numbers: of the first round a chunk
    state: Any = None  # where they stand; for the first round, nothing

    @property
    def size(self) -> int:
        return self.lanes.stop - self.lanes.start if isinstance(self.lanes, slice) else self.lanes.size


def fit_on_cores(batch: Batch, layout: Plan, config: Algorithm, home: jax.Device) -> Solution:
    """The fits of NumPy's arrays. Lanes that are open go on as soon as there is a chunk of them, or no other work."""
    size, chunk, room = batch.size, _chunk(batch, layout), _rest_chunk(batch, layout)
    programs = list(map(once_compiled, (_first_chunk, _second_chunk, _third_chunk)))
    store, waiting = _Store(size), [list[_Task]() for _ in programs]

    def begin(task: _Task) -> Round | Solution:
        program = programs[task.round]
        if isinstance(task.lanes, slice):
            return program(batch.part(_start(task.lanes, chunk), chunk), layout, config)
        filled = np.resize(np.arange(task.size), -(-task.size // layout.rest) * layout.rest)
        some = batch.take_into_room(task.lanes[filled], room)
        state = _some(task.state, np.resize(filled, room))
        return program(some, state, np.arange(room) < task.size, layout, config)

    def end(task: _Task, result: Round | Solution) -> None:
        if isinstance(result, Solution):
            return store.put(task.lanes, result)
        store.put(task.lanes, result.solution)
        left = np.flatnonzero(_own(result.open, task.lanes))
        if left.size:
            lanes = task.lanes.start + left if isinstance(task.lanes, slice) else task.lanes[left]
            state = jax.tree.map(lambda leaf: _own(leaf, task.lanes)[left], result.state)
            waiting[task.round + 1].append(_Task(task.round + 1, lanes, state))

    def more(free: int) -> list[_Task]:
        return [task for some in waiting for task in _ready(some, room, layout.rest, free)]

    work_through([_Task(0, lanes) for lanes in _chunks(size, chunk)], begin, end, home, more)
    solution = store.whole
    if solution.is_pending:
        return solution.completed(_likelihoods_on_cores(batch, solution.asked, layout, config, home))
    return solution._replace(pending=None)


def _likelihoods_on_cores(batch: Batch, asked: Asked, layout: Plan, config: Algorithm, home: jax.Device) -> Likelihood:
    chunk, store, program = _chunk(batch, layout), _Store(batch.size), once_compiled(_likelihood_chunk)

    def begin(lanes: slice) -> Likelihood:
        start = _start(lanes, chunk)
        return program(batch.part(start, chunk), _some(asked, slice(start, start + chunk)), layout, config)

    work_through(_chunks(batch.size, chunk), begin, store.put, home)
    return store.whole


def _chunks(size: int, chunk: int) -> list[slice]:
    """All datasets, chunk by chunk; of the last those that are in no other."""
    return [slice(start, min(start + chunk, size)) for start in range(0, size, chunk)]


def _start(lanes: slice, chunk: int) -> int:
    """Where the whole chunk begins that ends with these: the last reaches back over its neighbour."""
    return lanes.stop - chunk


def _own(results: Array, lanes: slice | np.ndarray) -> np.ndarray:
    """The results of these lanes, without those that fill a chunk: before its own, or in a later round behind them."""
    whole = np.asarray(results)
    return whole[lanes.start - lanes.stop :] if isinstance(lanes, slice) else whole[: lanes.size]


def _ready(waiting: list[_Task], room: int, tile: int, free: int) -> list[_Task]:
    """Take full chunks from what waits; or all, shared out over the threads that are free."""
    taken = waiting[:]  # to which other threads may append meanwhile
    count = sum(task.size for task in taken)
    if count < (1 if free else room):
        return []
    number, lanes = taken[0].round, np.concatenate([task.lanes for task in taken])
    state = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[task.state for task in taken])
    share = min(room, -(-count // (free * tile)) * tile) if free else room
    parts = [slice(start, start + share) for start in range(0, count, share)]
    tasks = [_Task(number, lanes[part], _some(state, part)) for part in parts]
    waiting[: len(taken)] = [] if free or tasks[-1].size == room else [tasks.pop()]
    return tasks


class _Store:
    """Room for the results of all datasets."""

    def __init__(self, size: int):
        self.size, self.lock = size, threading.Lock()
        self.whole: Any = None

    def put(self, lanes: slice | np.ndarray, results: Any) -> None:
        """Keep the results of some."""
        with self.lock:
            if self.whole is None:
                self.whole = jax.tree.map(lambda leaf: aligned((self.size, *leaf.shape[1:]), leaf.dtype), results)
        for room, part in zip(jax.tree.leaves(self.whole), jax.tree.leaves(results), strict=True):
            room[lanes] = _own(part, lanes)


def _some(tree: Any, lanes: np.ndarray | slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[lanes], tree)


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
