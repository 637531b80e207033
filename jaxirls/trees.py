"""Immutable objects that pass through JAX transformations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import jax

__all__ = ["pytree"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass and a pytree whose leaves are its fields.

    JAX rebuilds such an object without ``__init__``, so that a check there meets the user's values only, never the
    tracers, axis numbers or placeholders that a transformation puts in a leaf's place.
    """
    made: Any = dataclass(frozen=True)(cls)
    names = tuple(field.name for field in fields(made))

    def flatten_with_keys(instance: Any) -> tuple[list, None]:
        return [(jax.tree_util.GetAttrKey(name), getattr(instance, name)) for name in names], None

    def unflatten(_: None, children: Iterable[Any]) -> Any:
        instance = object.__new__(made)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(instance, name, child)
        return instance

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten)
    return made
