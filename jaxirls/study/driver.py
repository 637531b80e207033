r"""The driver: chunks of replicates over the machine's cores, each one compiled call that draws, fits and returns O(p).

A chunk goes tile by tile: draw T datasets, batch last, and give them the few passes that a well-posed dataset needs.
The replicates that are not done by then (slow, separated, stuck) queue up for tiles of their own, drawn again from
their numbers, which is cheaper than to have kept them, and fitted to the end. So no straggler holds up its neighbours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls import irls, linalg
from jaxirls.config import IRLS
from jaxirls.engine.batch import Plan
from jaxirls.engine.dispatch import CPU_OPTIONS, cores
from jaxirls.proof import Solution
from jaxirls.study.draw import draw, layout, root_keys
from jaxirls.study.measures import AT_A_TIME, Tally, merged, tallies
from jaxirls.study.result import Replicates, StudyResult, Timing
from jaxirls.study.scenario import Scenario

__all__ = ["run"]

T = TypeVar("T")

# Chunks a core, where no size is asked for: even shares, and a bar that moves. Tiles a chunk are bounded both ways: few
# make the tiles of unfinished replicates ragged, where they are small, and many make a long study look stuck.
CHUNKS_PER_CORE = 8
FEWEST_TILES, MOST_TILES = 4, 128
# Threads that count what another device has done: more would keep Python from calling it.
COUNTERS = 4


def run(
    scenario: Scenario,
    *,
    config: IRLS = IRLS(),  # noqa: B008 (frozen)
    keep: bool = False,
    progress: Callable[[int], object] | None = None,
) -> StudyResult:
    """Draw and fit every replicate of a scenario, and measure the estimator.

    Replicate i, its estimate and every total are the same to the last bit whatever ``scenario.chunk`` and the number of
    cores. No JAX setting is changed: a scenario in float64 runs in a scope of its own.

    Args:
      scenario: what to draw.
      config: options of the fits.
      keep: whether the result also holds the estimates, standard errors and statuses of all replicates.
      progress: called in this thread, with 0 when all is compiled and then with the number of replicates newly done.

    Example:
      >>> import jaxirls as ji
      >>> from jaxirls import study
      >>> design = study.Normal(intercept=True)
      >>> scenario = study.Scenario(
      ...     n=50, coefficients=[1.0, 0.5], design=design, family=ji.Poisson(), replicates=99, seed=3
      ... )
      >>> result = study.run(scenario)
      >>> abs(result["bias", "x1"].estimate) < 4 * result["bias", "x1"].mcse
      True
    """
    form, way = layout(scenario), _way()
    chunk = _chunk(scenario, form.tile, way)
    block = math.gcd(form.tile, AT_A_TIME)
    starts = range(0, scenario.replicates, chunk)
    roots = root_keys(scenario)

    before = time.perf_counter()
    with jax.enable_x64(scenario.dtype == "float64"):
        call = _compiled(scenario.law, form, chunk, config)
    compiled = time.perf_counter()
    if progress is not None:
        progress(0)

    truth = np.asarray(scenario.coefficients)

    def work(start: int) -> tuple[Outcome, list[Tally]]:
        count = min(chunk, scenario.replicates - start)
        with way.turn, jax.enable_x64(scenario.dtype == "float64"):
            outcome = jax.device_get(call(roots, np.uint32(start), np.int32(count)))
        outcome = Outcome(*(leaf[:count] for leaf in outcome))
        return outcome, tallies(*outcome, truth, scenario.level, block)

    parts: list[Tally] = []
    kept: list[Outcome] = []
    for outcome, counted in _in_order(work, starts, way.workers):
        parts += counted
        if keep:
            kept.append(outcome)
        if progress is not None:
            progress(len(outcome.status))
    timing = Timing(compile_seconds=compiled - before, run_seconds=time.perf_counter() - compiled)
    replicates = Replicates(*map(np.concatenate, zip(*kept, strict=True))) if keep else None
    return StudyResult(scenario=scenario, total=merged(parts), timing=timing, replicates=replicates)


class _Way(NamedTuple):
    """How the chunks go over the default device: one a core of a CPU; else one at a time, while the cores count."""

    workers: int  # threads that have one fitted and count it
    abreast: int  # how many are fitted at a time
    fewest: int  # tiles a chunk
    turn: AbstractContextManager  # held while one is fitted


def _way() -> _Way:
    if jax.default_backend() == "cpu":
        return _Way(cores(), cores(), FEWEST_TILES, nullcontext())
    return _Way(min(cores(), COUNTERS), 1, 1, Lock())


class Outcome(NamedTuple):
    """What a study keeps of a fit."""

    estimates: Any  # (p, T) of a tile, (B, p) of a chunk
    standard_errors: Any
    status: Any


@lru_cache(maxsize=32)
def _compiled(law: Scenario, form: Plan, size: int, config: IRLS) -> Callable[..., Outcome]:
    """The program of a chunk, which another study of the same law, chunk and options has no need to compile again."""

    def chunk(roots: Array, first: Array, count: Array) -> Outcome:
        return _fit_chunk(law, form, size, config, roots, first, count)

    lowered = jax.jit(chunk).lower(root_keys(law), np.uint32(0), np.int32(size))
    return lowered.compile(CPU_OPTIONS if jax.default_backend() == "cpu" else None)


class _Progress(NamedTuple):
    """What the loop over the tiles of a chunk carries. Lanes are numbered from the chunk's first replicate."""

    drawn: Array  # lanes whose first fit is made
    queue: Array  # lanes to be fitted to the end, then numbers out of range, (size + T,)
    head: Array  # how many of the queue are done
    tail: Array  # how many the queue holds
    outcome: Outcome


def _fit_chunk(
    scenario: Scenario, form: Plan, size: int, config: IRLS, roots: Array, first: Array, count: Array
) -> Outcome:
    """Fit the replicates from number ``first`` on, ``count`` of the ``size`` that there is room for.

    One loop, whose body draws either the next tile of replicates and makes the first passes, or a tile from the queue
    and fits it to the end.
    """
    tile = form.tile

    def body(carry: _Progress) -> _Progress:
        fresh = carry.drawn < count
        queued = lax.dynamic_slice_in_dim(carry.queue, carry.head, tile)
        lanes = jnp.where(fresh, carry.drawn + jnp.arange(tile, dtype=jnp.int32), queued)
        problem = draw(scenario, form.design, roots, first + lanes.astype(jnp.uint32))
        problem = problem._replace(invalid=problem.invalid | (lanes >= count))  # an empty place keeps nobody waiting
        state, solution, open_ = irls.begun(problem, irls.begin(problem, config), config)

        def whole() -> Solution:
            return irls.complete(problem, irls.resume(problem, state, open_, config), config)

        solution = lax.cond(fresh, lambda: solution, whole)
        outcome = _outcome(solution)
        open_ = open_ & fresh
        place = jnp.where(open_, carry.tail + jnp.cumsum(open_, dtype=jnp.int32) - 1, size + tile)
        return _Progress(
            drawn=jnp.where(fresh, carry.drawn + tile, carry.drawn),
            queue=carry.queue.at[place].set(lanes, mode="drop"),
            head=jnp.where(fresh, carry.head, carry.head + tile),
            tail=carry.tail + open_.sum(dtype=jnp.int32),
            outcome=jax.tree.map(lambda whole, part: whole.at[lanes].set(part.T, mode="drop"), carry.outcome, outcome),
        )

    dtype = jnp.dtype(scenario.dtype)
    start = _Progress(
        drawn=jnp.int32(0),
        queue=jnp.full(size + tile, size, jnp.int32),
        head=jnp.int32(0),
        tail=jnp.int32(0),
        outcome=Outcome(
            jnp.zeros((size, scenario.p), dtype), jnp.zeros((size, scenario.p), dtype), jnp.zeros(size, jnp.int32)
        ),
    )
    return lax.while_loop(lambda carry: (carry.drawn < count) | (carry.head < carry.tail), body, start).outcome


def _outcome(solution: Solution) -> Outcome:
    """Estimates, and standard errors √(φ diag G⁻¹): with D G D = L Lᵀ, the norms of the columns of L⁻¹D."""
    factor = linalg.factor_of(solution.root)
    p, lanes = solution.params.shape
    units = jnp.broadcast_to(jnp.eye(p, dtype=solution.params.dtype)[:, :, None], (p, p, lanes))
    squares = jax.vmap(lambda unit: jnp.square(linalg.forward(factor, unit)).sum(0))(units)
    return Outcome(solution.params, jnp.sqrt(solution.scale[None] * squares), solution.status)


def _in_order(work: Callable[[int], T], starts: range, workers: int) -> Iterator[T]:
    """The chunks in their order. XLA runs each on one core of a CPU: as many threads run as many at a time."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(work, starts)
    finally:
        pool.shutdown(cancel_futures=True)


def _chunk(scenario: Scenario, tile: int, way: _Way) -> int:
    """Replicates a chunk, in whole tiles: what the scenario asks for, rounded up, or an even share of the work."""
    if scenario.chunk is not None:
        return -(-scenario.chunk // tile) * tile
    share = -(-scenario.replicates // (CHUNKS_PER_CORE * way.abreast * tile))
    return max(way.fewest, min(MOST_TILES, share)) * tile
