r"""A program over lanes, launched as one kernel by Pallas' Mosaic GPU backend: a block of threads a group of lanes.

Every block loads what is not row data, runs the program (see ``vectors``), and stores the results; its loops end when
its own lanes are done. A dataset has one thread, or one for each of several shares of its rows. Then the block has few
enough datasets to keep X on the chip, and reads it from memory once.

It needs a GPU of compute capability 9.0 (Hopper) or newer, and JAX 0.11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu.fragmented_array import Tiling
from jax.experimental.pallas import mosaic_gpu

from jaxirls.designs import SHARES
from jaxirls.kernel.vectors import Lanes, Stored, Value, evaluate

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
    wide = group // shares  # lanes of a block

    def of_group(leaf: Array, is_rows: bool) -> jax.ShapeDtypeStruct:
        lead = (-(-leaf.shape[0] // shares), *leaf.shape[1:-1]) if is_rows else leaf.shape[:-1]
        return jax.ShapeDtypeStruct((*lead, group if leaf.shape[-1] == lanes else 1), leaf.dtype)

    traced, result = jax.make_jaxpr(program, return_shape=True, axis_env=[(SHARES, shares)])(
        list(map(of_group, leaves, stored))
    )
    results, structure = jax.tree.flatten(result)
    shape, layout = _vectors(group, shares)
    across_lanes, across_shares = len(shape) - 1, 0

    def widened(value: Array, axes: tuple[int, ...]) -> Array:
        return plgpu.layout_cast(lax.broadcast_in_dim(value, shape, axes), layout)

    def load(ref: Any, axes: tuple[int, ...]) -> Array:
        """A vector of what lies along some axes of its shape."""
        if len(axes) == len(shape):
            return plgpu.load(ref, layout=layout, optimized=False)
        others = tuple(axis for axis in range(len(shape)) if axis not in axes)
        return widened(plgpu.load(ref, layout=layout.reduce(others), optimized=False), axes)

    def across(reduce: Callable[..., Array], value: Array) -> Array:
        return value if shares == 1 else widened(reduce(value, axis=across_shares), (across_lanes,))

    def place() -> Value:
        return np.int32(0) if shares == 1 else plgpu.broadcasted_iota(jnp.int32, shape, across_shares, layout=layout)

    def spread(value: Any, dtype: Any) -> Array:
        return plgpu.layout_cast(lax.full(shape, value, dtype), layout)

    form = Lanes(group, spread, across, place)
    own_rows = [k for k, leaf in enumerate(leaves) if kept and stored[k] and leaf.shape[-1] == lanes]
    rooms = [plgpu.SMEM((kept, *leaves[k].shape[1:-1], *shape[::-1]), leaves[k].dtype) for k in own_rows]

    def body(*refs: Any) -> None:
        given, results_at, rooms = refs[: len(leaves)], refs[len(leaves) : len(leaves) + len(results)], refs[count:]
        here = pl.ds(lax.axis_index("block") * wide, wide)

        def from_memory(ref: Any, leaf: Array, is_rows: bool) -> Stored:
            def read(*index: Any) -> Value:
                at: tuple[Any, ...] = tuple(int(i) if isinstance(i, np.generic) else i for i in index)
                axes: tuple[int, ...] = ()
                if is_rows and shares > 1:
                    first = at[0] * shares
                    if isinstance(first, int):  # the last rows of all shares are the last of the dataset
                        first = min(first, leaf.shape[0] - shares)
                    at, axes = (pl.ds(first, shares), *at[1:]), (across_shares,)
                if leaf.shape[-1] == lanes:
                    at, axes = (*at, here), (*axes, across_lanes)
                else:
                    at = (*at, 0)
                value = load(ref.at[at], axes) if axes else ref[at]
                return value != 0 if leaf.dtype == bool else value

            return Stored(read)

        arrays = list(map(from_memory, given, leaves, stored))
        if kept:
            near = _at_hand([arrays[k] for k in own_rows], rooms, lambda ref: load(ref, tuple(range(len(shape)))))
            for k, array in zip(own_rows, near, strict=True):
                arrays[k] = array
        operands = [
            array if is_rows else array.cells([0] * leaf.ndim, leaf.shape)
            for array, leaf, is_rows in zip(arrays, leaves, stored, strict=True)
        ]
        for ref, cells, out in zip(results_at, evaluate(traced, form, operands), results, strict=True):
            for at in np.ndindex(cells.shape[:-1]):
                value = form.vector(cells[(*at, 0)], out.dtype).astype(ref.dtype)
                ref[(*at, here)] = value if shares == 1 else value.max(across_shares)

    count = len(leaves) + len(results)
    kernel = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct((*out.shape[:-1], lanes), _in_memory(out.dtype)) for out in results],
        grid=(lanes // wide,),
        grid_names=("block",),
        scratch_types=rooms,
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            unsafe_no_auto_barriers=True,  # no thread reads what another has stored
        ),
    )
    # Without the barrier XLA may run the kernel once more for every result that goes to a place of its own.
    found = lax.optimization_barrier(kernel(*(leaf.astype(_in_memory(leaf.dtype)) for leaf in leaves)))
    return jax.tree.unflatten(structure, [new.astype(out.dtype) for new, out in zip(found, results, strict=True)])


def _vectors(group: int, shares: int) -> tuple[tuple[int, ...], Any]:
    """The shape of a vector of one element a thread, and which thread has which.

    The shares of a dataset are threads of one warp, which sum without the memory that warps have in common.
    """
    if shares == 1:
        return (group,), plgpu.Layout.WG_STRIDED((group,), vec_size=1)
    shape = shares, group // shares
    tiling = Tiling((shape, (shape[1] // WARPS,), (1,)))  # axes: shares, warps, lanes of a warp, one
    return shape, plgpu.Layout.TILED(tiling, warp_dims=(-3,), lane_dims=(-4, -2), vector_dim=-1)


def _at_hand(arrays: Sequence[Stored], rooms: Sequence[Any], load: Callable[[Any], Array]) -> list[Stored]:
    """The arrays with their first rows copied to rooms on the chip, where a thread finds what it has put there.

    The shares of a dataset lie side by side there, as their threads do, so that no two of a warp wait for one bank.
    """
    entries = [(k, entry) for k, room in enumerate(rooms) for entry in np.ndindex(room.shape[1:-2])]
    kept = rooms[0].shape[0]
    size = max(1, FETCHED // len(entries))

    def place(k: int, *index: Any) -> Any:
        return rooms[k].at[index].transpose((1, 0))

    def turn(first: Any, size: int) -> None:
        places = [(k, first + i, *entry) for i in range(size) for k, entry in entries]
        for at, value in [((k, *index), arrays[k].read(*index)) for k, *index in places]:
            place(*at)[...] = value

    lax.fori_loop(0, kept // size, lambda i, _: turn(i * size, size), None)
    turn(kept // size * size, kept % size)
    return [Stored(array.read, kept, lambda *index, k=k: load(place(k, *index))) for k, array in enumerate(arrays)]


def _in_memory(dtype: Any) -> Any:
    """The type that a kernel reads and writes: it has no memory of booleans."""
    return jnp.int32 if dtype == jnp.bool else dtype
