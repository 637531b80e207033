r"""A batch of datasets as the engine holds it, and the step from there to a tile of lanes.

Every leaf of a ``Batch`` has one batch axis in front, of length B, or of length 1 where all datasets share the value.
A tile is T consecutive (or gathered) datasets with that axis moved last.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.designs import (
    WIDTH,
    Dense,
    Design,
    Folded,
    InOneKernel,
    Lanes,
    LanesByBlock,
    LanesByRow,
    Shared,
    SharedByRow,
    width,
)
from jaxirls.dispersion import Scale, ScaleRule
from jaxirls.families import Family
from jaxirls.kernel import GROUP
from jaxirls.penalties import Penalty
from jaxirls.problem import Problem
from jaxirls.rows import Origin, Rows, combined, nonnegative
from jaxirls.trees import varying

# Beyond these, columns and elements of X, a dataset is large enough for matrix products of its own.
LANES_COLUMNS = 8
LANES_ELEMENTS = 2**17
# On a CPU: a few vectors for every operation, whatever the batch, and a tile that stays in cache.
LANES_TILE = 16
SHARED_TILE = WIDTH
# By row is faster than matrix products up to more columns, and beyond them too long to compile. A dataset of more
# elements is spread over lanes, so that one dataset alone is not fitted ``WIDTH`` times; beyond ``LANES_ELEMENTS``, and
# where there is but one vector of lanes, it has them all to itself.
ROWS_COLUMNS = 24
ROWS_ELEMENTS = 2**11
FOLDED_TILE = 8
# Datasets that are read side by side where their layout changes: half a tile, but so many at least.
STRIP = 8
# Bytes, of which the address of an array is to be a multiple for XLA to use its memory.
ALIGNMENT = 64
# Tells XLA to make one function of a loop over rows, as it does by itself since JAX 0.12: then by row is fastest.
FOLD_LOOPS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"
# On a GPU: the most lanes of a tile; one part in how many of the device's memory it may take where its layout changes;
# that memory, in bytes, if the device does not report it. From so many lanes on a batch is not filled up to a power of
# two, which is a copy.
GPU_TILE, GPU_PART, GPU_MEMORY = 2**20, 8, 2**34
GPU_WHOLE = 2**16
# The most lanes and bytes of a tile of the second round: below them its kernels take no less time. And the rows beyond
# which one thread a dataset would take long.
GPU_REST, GPU_REST_BYTES = 2**17, 2**26
GPU_ROWS = 2**11
# Bytes of a row of X up to which the sums of a lane have room in the registers of a thread, or nearly.
KERNEL_ROW = 80


class Batch(NamedTuple):
    """B datasets of one shape."""

    x: Array  # (B | 1, n, p)
    y: Array  # (B | 1, n)
    offset: Array | None
    freq_weights: Array | None
    var_weights: Array | None
    family: Family  # parameters of rows (B | 1, n), of datasets (B | 1, 1)
    penalty: Penalty | None  # leaves (B | 1, p | 1)
    start: Array | None  # (B | 1, p)
    scale: Scale  # (B | 1,)
    fallback: Penalty | None = None  # leaves (B | 1, p | 1)
    origin: Origin | None = None  # leaves (1, p) and (1, n); see ``resamples``

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of every leaf, X first, as with the batch axis in front."""
        return [leaf.shape for leaf in jax.tree.leaves(self)]

    @property
    def size(self) -> int:
        """B."""
        return max(shape[0] for shape in self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of X: n and p."""
        return self.shapes[0][1:]

    @property
    def has_one_design(self) -> bool:
        """Whether many datasets share X."""
        return self.shapes[0][0] == 1 and self.size > 1

    @property
    def bytes(self) -> int:
        """Of what one dataset has to itself."""
        own = sum(math.prod(shape[1:]) for shape in self.shapes if shape[0] > 1)
        return max(1, own * self.x.dtype.itemsize)

    def first(self) -> Batch:
        """The batch with its axis in front."""
        return self

    def part(self, start: int, count: int) -> Batch:
        """Datasets one after the other."""
        return self.select(lambda leaf: leaf[start : start + count])

    def take(self, numbers: Array | np.ndarray, by_row: bool = False) -> Batch:
        """Some datasets; ``by_row`` where XLA makes a function of a loop over rows."""
        return self.select(lambda leaf: leaf[numbers])

    def take_into_room(self, numbers: np.ndarray, room: int) -> Batch:
        """Some datasets of NumPy's arrays, in arrays for ``room``; behind them lies anything."""

        def pick(leaf: Any) -> Any:
            whole = aligned((room, *leaf.shape[1:]), leaf.dtype)
            np.take(leaf, numbers, 0, whole[: numbers.size], mode="clip")  # by any other mode into a buffer first
            return whole

        return self.select(pick)

    def tile(self, start: Array | int, lanes: int, strip: int | None = None) -> Batch:
        """The T datasets from ``start`` on, lanes last; moved ``strip`` at a time, where that is given."""

        def moved(leaf: Array) -> Array:
            if leaf.shape[0] == 1:
                return lanes_last(leaf)
            if strip is None or lanes < strip:
                return lanes_last(lax.dynamic_slice_in_dim(leaf, start, lanes))
            return lanes_last_by_strips(leaf, start, lanes, strip)

        return jax.tree.map(moved, self)

    def select(self, pick: Callable[[Array], Array]) -> Batch:
        """The batch with ``pick`` applied to every leaf that differs between datasets."""
        return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == 1 else pick(leaf), self)


class BatchLast(Batch):
    """The same with the batch axis last, as it is in a tile: leaves ``(..., B | 1)``."""

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(leaf.shape[-1], *leaf.shape[:-1]) for leaf in jax.tree.leaves(self)]

    def first(self) -> Batch:
        return Batch(*jax.tree.map(lambda leaf: leaf.transpose(leaf.ndim - 1, *range(leaf.ndim - 1)), tuple(self)))

    def part(self, start: int, count: int) -> Batch:
        return self.select(lambda leaf: leaf[..., start : start + count])

    def take(self, numbers: Array | np.ndarray, by_row: bool = False) -> Batch:
        def pick(leaf: Array) -> Array:
            if not by_row or leaf.ndim == 1:
                return leaf[..., numbers]
            # All at once XLA gathers dataset by dataset, and touches every line of memory anew for each.
            return lax.map(lambda row: row.at[..., numbers].get(mode="promise_in_bounds"), leaf)

        return self.select(pick)

    def take_into_room(self, numbers: np.ndarray, room: int) -> Batch:
        def pick(leaf: Any) -> Any:
            whole = aligned((*leaf.shape[:-1], room), leaf.dtype)
            whole[..., : numbers.size] = leaf[..., numbers]
            return whole

        return self.select(pick)

    def tile(self, start: Array | int, lanes: int, strip: int | None = None) -> Batch:
        def cut(leaf: Array) -> Array:
            own = leaf if leaf.shape[-1] == 1 else lax.dynamic_slice_in_dim(leaf, start, lanes, -1)
            if strip is None:
                return own
            # A loop that does more than copy is compiled to vectors, which wait for memory many at a time.
            return lax.optimization_barrier(jnp.where(jnp.isnan(own), jnp.nan, own))

        return Batch(*jax.tree.map(cut, tuple(self)))

    def select(self, pick: Callable[[Array], Array]) -> Batch:
        return jax.tree.map(lambda leaf: leaf if leaf.shape[-1] == 1 else pick(leaf), self)


class Plan(NamedTuple):
    """How a batch is laid out; a function of shapes, the platform and XLA's flags, never of values."""

    design: type[Design]
    tile: int  # datasets of a tile, in the first round
    rest: int  # and in the second
    strip: int | None = None  # of which so many change their layout at a time; all, if None


def plan(batch: Batch) -> Plan:
    """Choose the design and the tiles. The design never depends on B, so that neither does a result."""
    return _plan_cpu(batch) if device(batch).platform == "cpu" else _plan_gpu(batch)


def device(batch: Batch) -> jax.Device:
    """Where the batch is fitted: where X lies or, if that is on no device yet, y and so on; else the default device."""
    for leaf in jax.tree.leaves(batch):
        if isinstance(leaf, Array) and not isinstance(leaf, jax.core.Tracer):
            return next(iter(leaf.devices()))
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    return default if isinstance(default, jax.Device) else jax.local_devices(backend=default)[0]


def _plan_cpu(batch: Batch) -> Plan:
    n, p = batch.shape
    many, shared = n * p > LANES_ELEMENTS, batch.has_one_design
    if not folds_loops():
        if p > LANES_COLUMNS or many:
            return cpu_plan(Dense, 1)
        return cpu_plan(Shared, SHARED_TILE) if shared else cpu_plan(Lanes, LANES_TILE)
    if p > ROWS_COLUMNS:
        return cpu_plan(Dense, 1)
    if many:
        return cpu_plan(Folded, 1)
    if shared:
        return cpu_plan(SharedByRow, SHARED_TILE)
    lanes = width(n, p, batch.x.dtype)
    if n * p <= ROWS_ELEMENTS:
        return cpu_plan(LanesByRow, lanes)
    return cpu_plan(Folded, FOLDED_TILE if lanes == WIDTH else 1)


def cpu_plan(design: type[Design], tile: int) -> Plan:
    """Tiles of as many datasets in both rounds, that change their layout by strips."""
    return Plan(design, tile, tile, max(STRIP, tile // 2))


def folds_loops() -> bool:
    """Whether XLA makes one function of a loop over rows."""
    return jax.__version_info__ >= (0, 12) or FOLD_LOOPS in os.environ.get("XLA_FLAGS", "")


def _plan_gpu(batch: Batch) -> Plan:
    n, p = batch.shape
    design: type[Design] = LanesByBlock
    if n <= GPU_ROWS and p * batch.x.dtype.itemsize <= KERNEL_ROW and runs_kernels(device(batch)):
        design = InOneKernel
    elif p > LANES_COLUMNS or n > GPU_ROWS:
        design = Dense
    elif batch.has_one_design:
        design = Shared
    room = GPU_TILE if isinstance(batch, BatchLast) else _memory(device(batch)) // GPU_PART // batch.bytes
    most = min(GPU_TILE, _power_of_two(room))
    if batch.size <= min(most, GPU_WHOLE):  # one tile of a power of two, so that batch sizes share programs
        least = min(GROUP, most) if issubclass(design, Lanes) else 1
        tile = max(least, 1 << (batch.size - 1).bit_length())
    elif batch.size <= most and batch.size % GROUP == 0:
        tile = batch.size
    else:  # tiles of much the same size, in whole groups
        tile = -(-batch.size // max(2, -(-batch.size // most)))
        tile = min(most, -(-tile // GROUP) * GROUP)
    return Plan(design, tile, min(tile, GPU_REST, _power_of_two(GPU_REST_BYTES // batch.bytes)))


def _memory(device: jax.Device) -> int:
    """Bytes of the device's memory that JAX may take."""
    return (device.memory_stats() or {}).get("bytes_limit", GPU_MEMORY)


def _power_of_two(most: int) -> int:
    """The largest up to ``most``, or one."""
    return 1 << (max(most, 1).bit_length() - 1)


def runs_kernels(device: jax.Device) -> bool:
    """Whether ``kernel`` can be used: JAX aborts the process where a GPU is too old for it."""
    capability = getattr(device, "compute_capability", "0.0")
    return jax.__version_info__ >= (0, 11) and float(capability) >= 9


def problem(tile: Batch, design: type[Design], lanes: int) -> Problem:
    """Lay out T datasets, lanes last, with rows of weight zero emptied and datasets of invalid options marked."""
    tile = _emptied(tile)
    rows = Rows(tile.y, tile.offset, tile.freq_weights, tile.var_weights, tile.family)
    invalid = varying(jnp.broadcast_to(~_valid_options(tile), (lanes,)), tile)
    laid = design.of(tile.x, lanes)
    return Problem(laid, rows, tile.penalty, tile.start, tile.scale, invalid, origin=tile.origin)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address that XLA takes as it is."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def lanes_last(leaf: Array) -> Array:
    """The batch axis moved last, in memory too: left to itself the compiler keeps the order of the user's array.

    As one long axis, behind the barrier, the leaf has one order only; and a program of these two can be exported.
    """
    if leaf.shape[0] == 1:  # has one order anyhow
        return leaf.reshape(*leaf.shape[1:], 1)
    moved = jnp.moveaxis(leaf, 0, -1)
    return lax.optimization_barrier(moved.reshape(-1)).reshape(moved.shape)


def lanes_last_by_strips(leaf: Array, start: Array | int, lanes: int, strip: int) -> Array:
    """The same of ``lanes`` datasets from ``start`` on, a few at a time.

    Side by side, more datasets are more streams than a processor fetches ahead, and each line waits for memory.
    """

    def fill(i: Array, whole: Array) -> Array:
        few = lax.dynamic_slice_in_dim(leaf, start + i * strip, strip)
        return lax.dynamic_update_slice_in_dim(whole, jnp.moveaxis(few, 0, -1), i * strip, -1)

    empty = varying(jnp.zeros((*leaf.shape[1:], lanes), leaf.dtype), (leaf, start))
    return lax.fori_loop(jnp.int32(0), jnp.int32(lanes // strip), fill, empty)


def _emptied(tile: Batch) -> Batch:
    """Rows of weight zero contribute nothing, whatever they hold: give them harmless values. X may be for all lanes."""
    weight = combined(tile.freq_weights, tile.var_weights)
    if weight is None:
        return tile
    finite = jnp.isfinite(tile.x).all(1)
    return tile._replace(
        x=jnp.where(finite[:, None], tile.x, 0.0),
        y=jnp.where(weight > 0, jnp.where(finite, tile.y, jnp.nan), 1.0),
        offset=None if tile.offset is None else jnp.where(weight > 0, tile.offset, 0.0),
    )


def _valid_options(tile: Batch) -> Array:
    """Whether a dataset's options can be used, (T | 1,)."""
    valid = jnp.ones(1, bool)
    for leaf in jax.tree.leaves(tile.penalty):
        valid = valid & nonnegative(leaf).all(0)
    if tile.start is not None:
        valid = valid & jnp.isfinite(tile.start).all(0)
    if not (tile.scale is None or isinstance(tile.scale, ScaleRule)):
        valid = valid & nonnegative(tile.scale) & (tile.scale != 0)
    return valid
