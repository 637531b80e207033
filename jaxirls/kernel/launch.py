r"""A program over lanes, launched as one kernel by Pallas' Mosaic GPU backend: a block of threads a group of lanes.

Every block loads what is not row data, runs the program (see ``vectors``), and stores the results; its loops end when
its own lanes are done. It needs a GPU of compute capability 9.0 (Hopper) or newer, and JAX 0.11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from jaxirls.kernel.vectors import Cells, Lanes, Stored, evaluate

__all__ = ["launch"]

plgpu: Any = mosaic_gpu  # whose types differ between the versions of JAX


def launch(
    program: Callable[[list[Any]], Any], leaves: Sequence[Array], stored: Sequence[bool], lanes: int, group: int
) -> Any:
    """``program(leaves)``.

    Args:
      program: a program over lanes.
      leaves: arrays ``(..., T)``, or ``(..., 1)`` where all lanes share them.
      stored: which of them stay in memory, for ``dynamic_slice`` to read; a block holds the others in registers.
      lanes: T, a multiple of ``group``.
      group: lanes of a block.

    Raises:
      UnsupportedError: for a program that cannot be a kernel.
    """

    def of_group(leaf: Array) -> jax.ShapeDtypeStruct:
        own = group if leaf.shape[-1] == lanes else 1
        return jax.ShapeDtypeStruct((*leaf.shape[:-1], own), leaf.dtype)

    traced, result = jax.make_jaxpr(program, return_shape=True)([of_group(leaf) for leaf in leaves])
    results, structure = jax.tree.flatten(result)
    layout = plgpu.Layout.WG_STRIDED((group,), vec_size=1)  # element i in thread i

    def spread(value: Any, dtype: Any) -> Array:
        return plgpu.layout_cast(lax.full((group,), value, dtype), layout)

    def body(*refs: Any) -> None:
        block = lax.axis_index("block")
        own = pl.ds(block * group, group)

        def operand(ref: Any, leaf: Array, stays: bool) -> Cells | Stored:
            def read(*index: Any) -> Array:
                shared = leaf.shape[-1] == 1
                value = (
                    ref[(*index, 0)] if shared else plgpu.load(ref.at[(*index, own)], layout=layout, optimized=False)
                )
                return value != 0 if leaf.dtype == bool else value

            array = Stored(read)
            return array if stays else array.cells([0] * leaf.ndim, leaf.shape)

        operands = [operand(*each) for each in zip(refs, leaves, stored, strict=False)]
        form = Lanes(group, spread)
        for ref, cells, out in zip(refs[len(leaves) :], evaluate(traced, form, operands), results, strict=True):
            for at in np.ndindex(cells.shape[:-1]):
                ref[(*at, own)] = form.vector(cells[(*at, 0)], out.dtype).astype(ref.dtype)

    kernel = plgpu.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct((*out.shape[:-1], lanes), _in_memory(out.dtype)) for out in results],
        grid=(lanes // group,),
        grid_names=("block",),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
    )
    # Without the barrier XLA may run the kernel once more for every result that goes to a place of its own.
    found = lax.optimization_barrier(kernel(*(leaf.astype(_in_memory(leaf.dtype)) for leaf in leaves)))
    return jax.tree.unflatten(structure, [new.astype(out.dtype) for new, out in zip(found, results, strict=True)])


def _in_memory(dtype: Any) -> Any:
    """The type that a kernel reads and writes: it has no memory of booleans."""
    return jnp.int32 if dtype == jnp.bool else dtype
