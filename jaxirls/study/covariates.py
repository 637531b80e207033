"""How the columns of X are drawn: one frozen law a kind, each a few numbers and one draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxirls.study.generator import normal, uniform
from jaxirls.study.schema import FLAG, NUMBER, POSITIVE, PROBABILITY, ScenarioError, check, must

__all__ = ["KINDS", "Bernoulli", "Covariates", "Normal", "Uniform"]


@dataclass(frozen=True, kw_only=True)
class Covariates:
    """Base of all laws: independent columns, identically distributed.

    Attributes:
      intercept: whether the first column is ones; its coefficient then comes first.
      redraw: whether every replicate draws its own X, or all share one.
    """

    kind: ClassVar[str]

    intercept: bool = field(default=False, metadata=must(FLAG))
    redraw: bool = field(default=True, metadata=must(FLAG))

    def __post_init__(self) -> None:
        check(self)

    def sample(self, keys: Array, count: int, dtype: DTypeLike) -> Array:
        """Independent draws of the law by each of T keys, ``(count, T)``."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(keys, count, dtype)")

    def draw(self, keys: Array, n: int, p: int, dtype: DTypeLike) -> Array:
        """X of T datasets, ``(n, p, T)``, each by its key, the intercept's column included."""
        own = p - self.intercept
        x = self.sample(keys, n * own, dtype).reshape(n, own, keys.size)
        return jnp.concatenate([jnp.ones((n, 1, keys.size), dtype), x], axis=1) if self.intercept else x


@dataclass(frozen=True, kw_only=True)
class Normal(Covariates):
    """N(mean, scale²)."""

    kind = "normal"

    mean: float = field(default=0.0, metadata=must(NUMBER))
    scale: float = field(default=1.0, metadata=must(POSITIVE))

    def sample(self, keys: Array, count: int, dtype: DTypeLike) -> Array:
        return self.mean + self.scale * normal(keys, count, dtype)


@dataclass(frozen=True, kw_only=True)
class Uniform(Covariates):
    """Uniform on [low, high)."""

    kind = "uniform"

    low: float = field(default=0.0, metadata=must(NUMBER))
    high: float = field(default=1.0, metadata=must(NUMBER))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise ScenarioError(f"high = {self.high!r}: expected a number above low = {self.low!r}")

    def sample(self, keys: Array, count: int, dtype: DTypeLike) -> Array:
        return uniform(keys, count, dtype, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Bernoulli(Covariates):
    """One with the given probability, else zero."""

    kind = "bernoulli"

    probability: float = field(default=0.5, metadata=must(PROBABILITY))

    def sample(self, keys: Array, count: int, dtype: DTypeLike) -> Array:
        return (uniform(keys, count, dtype) < self.probability).astype(dtype)


KINDS: dict[str, type[Covariates]] = {law.kind: law for law in (Normal, Uniform, Bernoulli)}
