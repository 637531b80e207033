r"""The edge of the domain: where a link reaches means that the family does not have, the optimum may lie there.

In place of the negative log-likelihood f the loop minimizes f - τ Σᵢ log dᵢ over n rows, with dᵢ the distance of ηᵢ to
the edge, for τ that falls by stages to ``last_strength``. For convex f the minimum is within τ n of the infimum of f,
wherever that is attained (Boyd & Vandenberghe 2004, Convex Optimization, section 11.2): this is the proof of an optimum
on the edge. A barred family takes the family's place in the loop, which knows nothing of it. Its weights are
the observed ones, or zero: near an edge the expected ones make slow steps.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxirls.families import Family
from jaxirls.families.base import Working
from jaxirls.special import log
from jaxirls.trees import pytree

STAGES = 8


@pytree
class Barred(Family):
    """A family whose loss has a barrier of the given ``strength``, as far as the loop asks: τ in units of the loss."""

    inner: Family
    strength: Array

    def __post_init__(self) -> None:
        """The inner family has checked its link."""

    @property
    def link(self) -> Any:  # type: ignore[override]
        return self.inner.link

    @property
    def has_dispersion(self) -> bool:  # type: ignore[override]
        return self.inner.has_dispersion

    @property
    def mean_range(self) -> Any:  # type: ignore[override]
        return self.inner.mean_range

    def working(self, eta: Array, y: Array) -> Working:
        work = self.inner.working(eta, y)
        score, loss = work.score, work.partial_loss
        weight = jnp.maximum(self.inner.observed_information(eta, y), 0.0)
        for edge in self.inner.edges(eta):
            inverse = 1 / (eta - edge)
            score = score + self.strength * inverse
            weight = weight + self.strength * jnp.square(inverse)
            loss = loss + self.strength * log(jnp.abs(inverse))
        return work._replace(score=score, weight=weight, partial_loss=loss)

    def pearson_chi2(self, eta: Array, y: Array, work: Working) -> Array:
        return self.inner.pearson_chi2(eta, y, self.inner.working(eta, y))

    def starting_mean(self, y: Array, average: Array) -> Array:
        return self.inner.starting_mean(y, average)


def last_strength(dtype: DTypeLike) -> float:
    """The smallest τ: the barrier's curvature at the edge, 1/τ, leaves the equations a third of their digits."""
    return float(jnp.finfo(dtype).eps) ** 0.6


def strength(stage: Array, dtype: DTypeLike) -> Array:
    """τ of a stage, 0 to ``STAGES``, from 1 in equal ratios."""
    return jnp.asarray(last_strength(dtype) ** (1 / STAGES), dtype) ** stage
