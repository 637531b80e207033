"""Functions with a rule of their own for ``vmap`` that is told where the mapped axes lie.

``jax.custom_batching.custom_vmap`` moves them to the front first, which for large arrays is a pass through memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir

__all__ = ["UNMAPPED", "with_vmap_rule"]

UNMAPPED = -1  # in place of the number of an axis


def with_vmap_rule(function: Callable[[Any], Any], rule: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """``function`` of one tree of arrays; under ``vmap``, ``rule(axes, tree)``, whose results are mapped in front.

    ``axes`` is a tree of numbers: where the mapped axis of each leaf lies, or ``UNMAPPED``.
    """

    def call(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)

        def flat(*leaves: Array) -> Any:
            return function(jax.tree.unflatten(structure, leaves))

        def batched(leaves: list[Array], axes: list[int]) -> list[Array]:
            return jax.tree.leaves(rule(jax.tree.unflatten(structure, axes), jax.tree.unflatten(structure, leaves)))

        traced, result = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(result), _call.bind(*leaves, traced=traced, batched=batched))

    return call


def _run(*leaves: Array, traced: ClosedJaxpr, batched: Callable) -> list[Array]:
    return jaxpr_as_fun(traced)(*leaves)


def _batch(leaves: Any, axes: Any, *, traced: ClosedJaxpr, batched: Callable) -> tuple[list[Array], list[int]]:
    results = batched(list(leaves), [UNMAPPED if axis is None else axis for axis in axes])
    return results, [0] * len(results)


class _Call(Primitive):
    multiple_results = True

    def to_lojax(self, *leaves: Array, **params: Any) -> list[Array]:
        """Asked for by versions of JAX that lower a program in two steps."""
        return _run(*leaves, **params)


_call = _Call("with_vmap_rule")
_call.def_impl(_run)
_call.def_abstract_eval(lambda *_, traced, batched: traced.out_avals)
batching.primitive_batchers[_call] = _batch
mlir.register_lowering(_call, mlir.lower_fun(_run, multiple_results=True))
