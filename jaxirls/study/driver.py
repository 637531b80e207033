r"""The driver: chunks of replicates over the machine's cores, each one compiled call that draws, fits and returns O(p).

A chunk goes tile by tile: draw T datasets, batch last, and give them the few passes that a well-posed dataset needs. The
replicates that are then not proven (slow, separated, stuck) are gathered into tiles of their own, drawn again from their
numbers, which is cheaper than to have kept them, and finished there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls import irls, linalg
from jaxirls.config import IRLS
from jaxirls.engine.batch import Plan
from jaxirls.engine.tiles import FIRST_PASSES
from jaxirls.status import Status
from jaxirls.study.draw import draw, layout, root_key
from jaxirls.study.measures import Tally, tally
from jaxirls.study.result import Replicates, StudyResult, Timing
from jaxirls.study.scenario import Scenario

__all__ = ["run"]

# Chunks a core, where no size is asked for: even shares, and a bar that moves. Tiles a chunk are bounded both ways: few
# make the tiles of unfinished replicates ragged, many make a long study look stuck.
CHUNKS_PER_CORE = 8
FEWEST_TILES, MOST_TILES = 4, 128


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
      progress: called with the number of replicates newly done, in order, from the calling thread.

    Example:
      >>> import jaxirls as ji
      >>> from jaxirls import study
      >>> scenario = study.Scenario(
      ...     n=50, coefficients=[1.0, 0.5], design=study.Normal(intercept=True), family=ji.Poisson(), replicates=512, seed=3
      ... )
      >>> result = study.run(scenario)
      >>> abs(result["bias", "x1"].estimate) < 4 * result["bias", "x1"].mcse
      True
    """
    form = layout(scenario)
    cores = _cores()
    tiles = _tiles(scenario, form.tile, cores)
    chunk = tiles * form.tile
    starts = range(0, scenario.replicates, chunk)
    key = root_key(scenario)

    before = time.perf_counter()
    with jax.enable_x64(scenario.dtype == "float64"):
        call = _compiled(scenario, form, tiles, config, key)
    compiled = time.perf_counter()

    def fit(start: int) -> Outcome:
        count = min(tiles, -(-(scenario.replicates - start) // form.tile))
        with jax.enable_x64(scenario.dtype == "float64"):
            return jax.device_get(call(key, np.uint32(start), np.int32(count)))

    truth = np.asarray(scenario.coefficients)
    total: Tally | None = None
    kept: list[Outcome] = []
    for start, outcome in zip(starts, _in_order(fit, starts, cores), strict=True):
        size = min(chunk, scenario.replicates - start)
        flat = Outcome(*(_replicates_first(leaf)[:size] for leaf in outcome))
        part = tally(*flat, truth, scenario.level, form.tile)
        total = part if total is None else total.merge(part)
        if keep:
            kept.append(flat)
        if progress is not None:
            progress(size)
    assert total is not None
    timing = Timing(compile_seconds=compiled - before, run_seconds=time.perf_counter() - compiled)
    replicates = Replicates(*map(np.concatenate, zip(*kept, strict=True))) if keep else None
    return StudyResult(scenario=scenario, total=total, timing=timing, replicates=replicates)


class Outcome(NamedTuple):
    """What a study keeps of a fit."""

    estimates: Any  # (..., p, T) on the device, (B, p) on the host
    standard_errors: Any
    status: Any


def _compiled(scenario: Scenario, form: Plan, tiles: int, config: IRLS, key: Array) -> Callable[..., Outcome]:
    def chunk(key: Array, first: Array, count: Array) -> Outcome:
        return _fit_chunk(scenario, form, tiles, config, key, first, count)

    return jax.jit(chunk).lower(key, np.uint32(0), np.int32(tiles)).compile()


def _fit_chunk(
    scenario: Scenario, form: Plan, tiles: int, config: IRLS, key: Array, first: Array, count: Array
) -> Outcome:
    """Fit ``count`` tiles of replicates from number ``first`` on; leaves ``(tiles, ..., T)``."""
    tile, size = form.tile, tiles * form.tile

    def load(lanes: Array) -> irls.Problem:
        return draw(scenario, form.design, key, first + lanes.astype(jnp.uint32))

    def begin(i: Array) -> tuple[Outcome, irls.State, Array]:
        problem = load(i * tile + jnp.arange(tile, dtype=jnp.int32))
        state = irls.run(problem, irls.start(problem, config), config, min(FIRST_PASSES, config.max_iter))
        solution, certain = irls.statistics(problem, state, config)
        unfinished = state.code == irls.RUNNING
        return _outcome(solution), state, unfinished if certain is None else unfinished | ~certain

    def first_round(i: Array, store: Any) -> Any:
        return jax.tree.map(lambda whole, part: lax.dynamic_update_index_in_dim(whole, part, i, 0), store, begin(i))

    shapes = jax.eval_shape(begin, jnp.int32(0))
    store = jax.tree.map(lambda s: jnp.zeros((tiles, *s.shape), s.dtype), shapes)
    outcome, state, open_ = lax.fori_loop(jnp.int32(0), count, first_round, store)

    # The unfinished lanes in their order; past them, a number out of range marks an empty place.
    order = jnp.nonzero(open_.reshape(-1), size=size + tile, fill_value=size)[0].astype(jnp.int32)
    remaining = open_.sum(dtype=jnp.int32)

    def second_round(carry: tuple[Array, Outcome]) -> tuple[Array, Outcome]:
        i, outcome = carry
        lanes = lax.dynamic_slice_in_dim(order, i * tile, tile)
        own = jax.tree.map(lambda leaf: _gather(leaf, jnp.minimum(lanes, size - 1)), state)
        own = own._replace(code=jnp.where(lanes < size, own.code, Status.STALLED).astype(jnp.int32))
        problem = load(lanes)
        finished = _outcome(irls.prove(problem, irls.run(problem, own, config, config.max_iter), config))
        return i + 1, jax.tree.map(lambda whole, part: _scatter(whole, lanes, part), outcome, finished)

    _, outcome = lax.while_loop(lambda carry: carry[0] * tile < remaining, second_round, (jnp.int32(0), outcome))
    return outcome


def _gather(leaf: Array, lanes: Array) -> Array:
    """Lanes of a leaf ``(tiles, ..., T)``, last."""
    tile = leaf.shape[-1]
    return jnp.moveaxis(leaf[lanes // tile, ..., lanes % tile], 0, -1)


def _scatter(leaf: Array, lanes: Array, values: Array) -> Array:
    """Put ``values (..., T)`` where ``_gather`` takes them from; lanes out of range are dropped."""
    tile = leaf.shape[-1]
    return leaf.at[lanes // tile, ..., lanes % tile].set(jnp.moveaxis(values, -1, 0), mode="drop")


def _outcome(solution: irls.Solution) -> Outcome:
    """Estimates, and standard errors √(φ diag G⁻¹): with D G D = L Lᵀ, the norms of the columns of L⁻¹D."""
    factor = linalg.factorize(solution.information)
    p, lanes = solution.params.shape
    units = jnp.broadcast_to(jnp.eye(p, dtype=solution.params.dtype)[:, :, None], (p, p, lanes))
    squares = jax.vmap(lambda unit: jnp.square(linalg.forward(factor, unit)).sum(0))(units)
    return Outcome(solution.params, jnp.sqrt(solution.scale[None] * squares), solution.status)


def _replicates_first(leaf: np.ndarray) -> np.ndarray:
    """From ``(tiles, ..., T)`` to ``(tiles·T, ...)``."""
    last = np.moveaxis(leaf, -1, 1)
    return last.reshape(-1, *last.shape[2:])


def _in_order(fit: Callable[[int], Outcome], starts: range, workers: int) -> Iterator[Outcome]:
    """The chunks in their order. XLA runs each on one core of a CPU: as many threads run as many at a time."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(fit, starts)
    finally:
        pool.shutdown(cancel_futures=True)


def _tiles(scenario: Scenario, tile: int, cores: int) -> int:
    """Tiles a chunk: what the scenario asks for, rounded up, or an even share of the work."""
    needed = -(-scenario.replicates // tile)
    if scenario.chunk is not None:
        return min(needed, -(-scenario.chunk // tile))
    share = -(-needed // (CHUNKS_PER_CORE * cores))
    return min(needed, max(FEWEST_TILES, min(MOST_TILES, share)))


def _cores() -> int:
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
