r"""The driver: chunks of replicates over the machine's cores, each one or two compiled calls that return O(p).

The first goes tile by tile: draw T datasets, batch last, and give them the few passes that a well-posed dataset needs.
The replicates that are not done by then (slow, separated, stuck) are gathered into tiles of their own in a second call,
drawn again from their numbers, which is cheaper than to have kept them, and fitted to the end. So no straggler holds up
its neighbours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls import linalg, rounds
from jaxirls.config import IRLS
from jaxirls.engine.batch import Plan
from jaxirls.engine.crew import cores
from jaxirls.engine.on_cores import CPU_OPTIONS
from jaxirls.problem import State
from jaxirls.proof import Solution
from jaxirls.study.draw import draw, layout, root_keys
from jaxirls.study.measures import AT_A_TIME, Tally, merged, tallies
from jaxirls.study.result import Replicates, StudyResult, Timing
from jaxirls.study.scenario import Scenario

__all__ = ["run"]

T = TypeVar("T")

# Threads that count the replicates of another device: more would keep Python from calling it.
COUNTERS = 4
# Replicates that one thread counts at a time.
COUNTED = 2**17


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

    Returns:
      A ``StudyResult``: ``result[measure, coefficient]`` is an estimate with its Monte Carlo standard error, beside
      the counts of statuses, the times and, if ``keep``, the replicates.

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
        programs = _compiled(scenario.law, form, chunk, config)
    compiled = time.perf_counter()
    if progress is not None:
        progress(0)

    truth = np.asarray(scenario.coefficients)

    def fitted(start: int) -> Replicates:
        count = min(chunk, scenario.replicates - start)
        with jax.enable_x64(scenario.dtype == "float64"):
            return programs.run(roots, start, count)

    def counted(outcome: Replicates, start: int) -> list[Tally]:
        own = Replicates(*(leaf[start : start + COUNTED] for leaf in outcome))
        return tallies(*own, truth, scenario.level, block)

    counts: list[Future[list[Tally]]] = []
    kept: list[Replicates] = []
    with ThreadPoolExecutor(way.counters) as counters:
        for outcome in _in_order(fitted, starts, way.abreast):
            replicates = len(outcome.status)
            counts += [counters.submit(counted, outcome, first) for first in range(0, replicates, COUNTED)]
            if keep:
                kept.append(outcome)
            if progress is not None:
                progress(replicates)
        total = merged(tally for count in counts for tally in count.result())
    timing = Timing(compile_seconds=compiled - before, run_seconds=time.perf_counter() - compiled)
    all_kept = Replicates(*map(np.concatenate, zip(*kept, strict=True))) if keep else None
    return StudyResult(scenario=scenario, total=total, timing=timing, replicates=all_kept)


class _Way(NamedTuple):
    """How the chunks go over the default device."""

    abreast: int  # chunks that are fitted at a time
    counters: int  # threads that count them
    chunks: int  # that a study makes, where no size is asked for and within the next two
    fewest: int  # tiles a chunk
    most: int


def _way() -> _Way:
    """On a CPU many equal chunks, so that all cores end together and the progress bar moves; elsewhere few.

    There the second call takes as long for few open replicates as for many, and one chunk is fitted while the results
    of another are on their way. On a CPU tiles are small: of a few of them, open replicates would not fill one.
    """
    if jax.default_backend() == "cpu":
        return _Way(cores(), cores(), 8 * cores(), 4, 128)
    return _Way(2, min(cores(), COUNTERS), 2, 1, 32)


class _Programs(NamedTuple):
    """Of a chunk of some size. Both take the root keys, the replicates' numbers, and how many these are."""

    first: Callable[..., tuple[Replicates, Array, State]]  # the first passes; which are open, and where all are
    rest: Callable[..., Replicates]  # also takes that, and which replicates of the chunk these are: the end
    size: int

    def run(self, roots: Array, start: int, count: int) -> Replicates:
        """Fit the replicates from number ``start`` on."""
        numbers = np.uint32(start) + np.arange(self.size, dtype=np.uint32)
        begun, open_, state = self.first(roots, numbers, np.int32(count))
        outcome = Replicates(*(np.asarray(leaf)[:count] for leaf in begun))
        lanes = np.flatnonzero(np.asarray(open_)[:count]).astype(np.int32)
        if lanes.size:
            filled = np.resize(lanes, self.size)
            ended = self.rest(roots, numbers[filled], np.int32(lanes.size), state, filled)
            outcome = Replicates(*map(np.array, outcome))  # to be written to
            for whole, part in zip(outcome, ended, strict=True):
                whole[lanes] = np.asarray(part)[: lanes.size]
        return outcome


@lru_cache(maxsize=32)
def _compiled(law: Scenario, form: Plan, size: int, config: IRLS) -> _Programs:
    """The programs of a chunk, which another study of the same law, chunk and options has no need to compile again."""
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None

    def first(roots: Array, numbers: Array, count: Array) -> tuple[Replicates, Array, State]:
        return _over_tiles(partial(_first, law, form, config, roots), form.tile, (numbers,), count)

    def rest(roots: Array, numbers: Array, count: Array, state: State, lanes: Array) -> Replicates:
        own = jax.tree.map(lambda leaf: leaf[lanes], state)
        return _over_tiles(partial(_rest, law, form, config, roots), form.rest, (numbers, own), count)

    given = root_keys(law), np.zeros(size, np.uint32), np.int32(size)
    lowered = jax.jit(first).lower(*given)
    _, _, state = lowered.out_info
    # XLA leaves Python to others while it compiles.
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(lowered.compile, options)
        ended = jax.jit(rest).lower(*given, state, np.zeros(size, np.int32)).compile(options)
        return _Programs(compiled.result(), ended, size)


def _over_tiles(fit: Callable[..., Any], tile: int, replicates: Any, count: Array) -> Any:
    """``fit(*some, empty)`` of the first ``count`` replicates, batch first, in tiles; there is room for one."""
    size = len(replicates[0])

    def some(start: Array) -> Any:
        own = jax.tree.map(lambda leaf: jnp.moveaxis(lax.dynamic_slice_in_dim(leaf, start, tile), 0, -1), replicates)
        fits = fit(*own, start + jnp.arange(tile, dtype=jnp.int32) >= count)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), fits)

    def turn(i: Array, store: Any) -> Any:
        # The last tile may overlap the one before it: the same replicates, fitted to the same bits.
        start = jnp.minimum(i * tile, size - tile)
        return jax.tree.map(
            lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, start, 0), store, some(start)
        )

    shapes = jax.eval_shape(some, jnp.int32(0))
    store = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), shapes)
    return lax.fori_loop(jnp.int32(0), (count + tile - 1) // tile, turn, store)


def _first(
    law: Scenario, form: Plan, config: IRLS, roots: Array, numbers: Array, empty: Array
) -> tuple[Replicates, Array, State]:
    """What the first passes of a tile lead to, which lanes are open, and where all are."""
    problem = draw(law, form.design, roots, numbers)
    problem = problem._replace(invalid=problem.invalid | empty)  # which keeps nobody waiting
    state, solution, open_ = rounds.begun(problem, rounds.begin(problem, config), config)
    return _replicates(solution), open_, state


def _rest(
    law: Scenario, form: Plan, config: IRLS, roots: Array, numbers: Array, state: State, empty: Array
) -> Replicates:
    """The end of every lane of a tile, given where it is. Those of an empty place are some of the others."""
    problem = draw(law, form.design, roots, numbers)
    return _replicates(rounds.complete(problem, state, ~empty, config))


def _replicates(solution: Solution) -> Replicates:
    """Estimates, and standard errors √(φ diag G⁻¹): with D G D = L Lᵀ, the norms of the columns of L⁻¹D."""
    factor = linalg.factor_of(solution.root)
    p, lanes = solution.params.shape
    units = jnp.broadcast_to(jnp.eye(p, dtype=solution.params.dtype)[:, :, None], (p, p, lanes))
    squares = jax.vmap(lambda unit: jnp.square(linalg.forward(factor, unit)).sum(0))(units)
    return Replicates(solution.params, jnp.sqrt(solution.scale[None] * squares), solution.status)


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
    share = -(-scenario.replicates // (way.chunks * tile))
    return max(way.fewest, min(way.most, share)) * tile
