r"""A program over lanes, launched as one kernel by Pallas' Mosaic GPU backend: a block of threads a group of lanes.

Every block loads what is not row data, runs the program (see ``vectors``), and stores the results; its loops end when
its own lanes are done. A dataset has one thread, or one for each of several shares of its rows. Then the block has few
enough datasets to keep their rows on the chip, or most, and reads these from memory once.

It needs a GPU of compute capability 9.0 (Hopper) or newer, and JAX 0.11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu.fragmented_array import Tiling
from jax.experimental.pallas import mosaic_gpu

from jaxirls.designs import SHARES
from jaxirls.kernel.vectors import Stored, Value, Vectors, evaluate

__all__ = ["launch"]

plgpu: Any = mosaic_gpu  # whose types differ between the versions of JAX

WARPS = 4  # of a block of Mosaic's
FETCHED = 72  # numbers that a thread waits for together


def launch(
    program: Callable[[list[Any]], Any],
    leaves: Sequence[Array],
    stored: Sequence[bool],
    lanes: int,
    group: int,
    shares: int,
    kept: int,
) -> Any:
    """``program(leaves)``.

    Args:
      program: a program over lanes, and over the axis ``SHARES``, at every place of which are some of the rows.
      leaves: arrays ``(..., T)``, or ``(..., 1)`` where all lanes share them; X first.
      stored: which of them are row data, for ``dynamic_slice`` to read, each share its own; a block holds the others in
        registers.
      lanes: T, a multiple of ``group``.
      group: threads of a block.
      shares: of the rows of a dataset, a thread each.
      kept: rows of every share that the chip has room for.

    Raises:
      UnsupportedError: for a program that cannot be a kernel.
    """
    threads = _Threads(group, shares)
    width = group // shares  # lanes of a block

    def of_block(leaf: Array, is_rows: bool) -> jax.ShapeDtypeStruct:
        lead = (-(-leaf.shape[0] // shares), *leaf.shape[1:-1]) if is_rows else leaf.shape[:-1]
        return jax.ShapeDtypeStruct((*lead, group if leaf.shape[-1] == lanes else 1), leaf.dtype)

    traced, result = jax.make_jaxpr(program, return_shape=True, axis_env=[(SHARES, shares)])(
        list(map(of_block, leaves, stored))
    )
    results, structure = jax.tree.flatten(result)
    own_rows = [k for k, leaf in enumerate(leaves) if kept and stored[k] and leaf.shape[-1] == lanes]

    def body(*refs: Any) -> None:
        given, rest = refs[: len(leaves)], refs[len(leaves) :]
        here = pl.ds(lax.axis_index("block") * width, width)

        def in_memory(ref: Any, leaf: Array, is_rows: bool) -> Stored:
            def read(*index: Any) -> Value:
                at, axes = list(index), []
                if is_rows and shares > 1:
                    at[0], axes = threads.rows(index[0], leaf.shape[0]), [threads.ROWS]
                if leaf.shape[-1] == lanes:
                    at, axes = [*at, here], [*axes, threads.lanes]
                value = threads.load(ref.at[tuple(at)], axes) if axes else ref[(*at, 0)]
                return value != 0 if leaf.dtype == bool else value

            return Stored(lambda *index: read(*(int(i) if isinstance(i, np.generic) else i for i in index)))

        arrays = list(map(in_memory, given, leaves, stored))
        if kept:
            near = _at_hand(threads, [arrays[k] for k in own_rows], rest[len(results) :])
            for k, array in zip(own_rows, near, strict=True):
                arrays[k] = array
        operands = [
            array if is_rows else array.cells([0] * leaf.ndim, leaf.shape)
            for array, leaf, is_rows in zip(arrays, leaves, stored, strict=True)
        ]
        form = Vectors(group, threads.spread, threads.across, threads.place)
        for ref, cells, out in zip(rest, evaluate(traced, form, operands), results, strict=False):
            for at in np.ndindex(cells.shape[:-1]):
                ref[(*at, here)] = threads.of_lanes(form.vector(cells[(*at, 0)], out.dtype).astype(ref.dtype))

    kernel = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct((*out.shape[:-1], lanes), _in_memory(out.dtype)) for out in results],
        grid=(lanes // width,),
        grid_names=("block",),
        scratch_types=[threads.room((kept, *leaves[k].shape[1:-1]), leaves[k].dtype) for k in own_rows],
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            unsafe_no_auto_barriers=True,  # no thread reads what another has stored
        ),
    )
    # Without the barrier XLA may run the kernel once more for every result that goes to a place of its own.
    found = lax.optimization_barrier(kernel(*(leaf.astype(_in_memory(leaf.dtype)) for leaf in leaves)))
    return jax.tree.unflatten(structure, [new.astype(out.dtype) for new, out in zip(found, results, strict=True)])


@dataclass(frozen=True)
class _Threads:
    """The threads of a block, each of which has one element of a vector, ``(lanes,)`` or ``(shares, lanes)``.

    The shares of a dataset are threads of one warp, which sum without the memory that warps have in common.
    """

    count: int
    shares: int

    ROWS: ClassVar[int] = 0  # the axis of shares, if there are several

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count,) if self.shares == 1 else (self.shares, self.count // self.shares)

    @property
    def lanes(self) -> int:
        """The axis of lanes."""
        return len(self.shape) - 1

    @property
    def layout(self) -> Any:
        if self.shares == 1:
            return plgpu.Layout.WG_STRIDED(self.shape, vec_size=1)
        tiling = Tiling((self.shape, (self.shape[1] // WARPS,), (1,)))  # axes: shares, warps, lanes of a warp, one
        return plgpu.Layout.TILED(tiling, warp_dims=(-3,), lane_dims=(-4, -2), vector_dim=-1)

    def spread(self, value: Any, dtype: Any) -> Array:
        return plgpu.layout_cast(lax.full(self.shape, value, dtype), self.layout)

    def load(self, ref: Any, axes: Sequence[int]) -> Array:
        """A vector of what lies along some of its axes, or all."""
        others = tuple(axis for axis in range(len(self.shape)) if axis not in axes)
        value = plgpu.load(ref, layout=self.layout.reduce(others) if others else self.layout, optimized=False)
        return self._widened(value, axes) if others else value

    def rows(self, i: Any, count: int) -> Any:
        """Row i of every share, of ``count`` rows of a dataset: the last of all shares are the last of these."""
        first = i * self.shares
        return pl.ds(min(first, count - self.shares) if isinstance(i, int) else first, self.shares)

    def across(self, reduce: Callable[..., Array], value: Array) -> Array:
        """A reduction over shares, for each of them."""
        return value if self.shares == 1 else self._widened(reduce(value, axis=self.ROWS), [self.lanes])

    def place(self) -> Value:
        """Which share a thread has."""
        if self.shares == 1:
            return np.int32(0)
        return plgpu.broadcasted_iota(jnp.int32, self.shape, self.ROWS, layout=self.layout)

    def of_lanes(self, value: Array) -> Array:
        """What all shares have, once."""
        return value if self.shares == 1 else value.max(self.ROWS)

    def room(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Room on the chip for vectors, in which the shares of a lane lie side by side, as their threads do.

        So no two threads of a warp wait for one bank of it.
        """
        return plgpu.SMEM((*shape, *self.shape[::-1]), dtype)

    def _widened(self, value: Array, axes: Sequence[int]) -> Array:
        return plgpu.layout_cast(lax.broadcast_in_dim(value, self.shape, axes), self.layout)


def _at_hand(threads: _Threads, arrays: Sequence[Stored], rooms: Sequence[Any]) -> list[Stored]:
    """The arrays with their first rows copied to rooms on the chip, where a thread finds what it has put there."""
    entries = [(k, entry) for k, room in enumerate(rooms) for entry in np.ndindex(room.shape[1:-2])]
    kept = rooms[0].shape[0]
    size = max(1, FETCHED // len(entries))

    def place(k: int, *index: Any) -> Any:
        return rooms[k].at[index].transpose((1, 0))

    def turn(first: Any, size: int) -> None:
        places = [(k, first + i, *entry) for i in range(size) for k, entry in entries]
        for at, value in [((k, *index), arrays[k].read(*index)) for k, *index in places]:
            place(*at)[...] = value

    def read(k: int, *index: Any) -> Array:
        return threads.load(place(k, *index), range(2))

    lax.fori_loop(0, kept // size, lambda i, _: turn(i * size, size), None)
    turn(kept // size * size, kept % size)
    return [Stored(array.read, kept, partial(read, k)) for k, array in enumerate(arrays)]


def _in_memory(dtype: Any) -> Any:
    """The type that a kernel reads and writes: it has no memory of booleans."""
    return jnp.int32 if dtype == jnp.bool else dtype
