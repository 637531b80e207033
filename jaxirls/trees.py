"""Trees of arrays, and immutable objects, that pass through JAX transformations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["pytree", "select", "varying"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass and a pytree whose leaves are its fields, but for those marked ``static``.

    A static field, ``field(metadata={"static": True})``, is part of the tree's structure.

    JAX rebuilds such an object without ``__init__``, so that a check there meets the user's values only, never the
    tracers, axis numbers or placeholders that a transformation puts in a leaf's place.

    ``jax.tree_util.register_dataclass`` will not do: the structures of two classes with the same fields are equal to it
    (JAX 0.10 to 0.12), and a compiled program of the one may then serve the other.
    """
    made: Any = dataclass(frozen=True)(cls)
    static = tuple(field.name for field in fields(made) if field.metadata.get("static"))
    names = tuple(field.name for field in fields(made) if field.name not in static)

    def flatten_with_keys(instance: Any) -> tuple[list, tuple]:
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(instance, name)) for name in names]
        return leaves, tuple(getattr(instance, name) for name in static)

    def unflatten(known: tuple, children: Iterable[Any]) -> Any:
        instance = object.__new__(made)
        for name, value in zip((*names, *static), (*children, *known), strict=True):
            object.__setattr__(instance, name, value)
        return instance

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten)
    return made


def select(where: Array, new: T, old: T) -> T:
    """The lanes of ``new`` where it says so, and those of ``old`` elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(where, a, b), new, old)


def varying(tree: Any, *like: Any) -> Any:
    """``tree``, every leaf typed as one that differs between the devices of a ``shard_map`` if any leaf here does.

    ``jax.shard_map`` asks that a loop's carry has the type of what the loop makes of it: constants must be told.
    """

    def axes_of(leaf: Any) -> frozenset[Any]:
        return jax.typeof(leaf).manual_axis_type.varying

    axes = frozenset().union(*map(axes_of, jax.tree.leaves((tree, like))))

    def cast(leaf: Any) -> Any:
        missing = tuple(axes - axes_of(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree
