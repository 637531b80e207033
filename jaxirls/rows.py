"""The rows of T datasets, X aside, and what their weights do to a term."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxirls.families import Family


def combined(freq_weights: Array | None, var_weights: Array | None) -> Array | None:
    """The product of both weights; None where all are one."""
    if freq_weights is None:
        return var_weights
    return freq_weights if var_weights is None else freq_weights * var_weights


def nonnegative(value: Array) -> Array:
    """Whether a value is finite and not negative."""
    return jnp.isfinite(value) & (value >= 0)


class Origin(NamedTuple):
    """Coefficients from which lanes that share their rows can start, and of every row the step of scoring there."""

    beta: Array  # (p, 1)
    weight: Array  # (n, 1), W
    target: Array  # (n, 1), Wη + score, less the offset
    chi2: Array  # (n, 1), Pearson's


class Rows(NamedTuple):
    """Row data, leaves ``(n, T)``, ``(n, 1)``, ``(1, T)`` or ``(1, 1)``; ``None`` where the user gave nothing."""

    y: Array
    offset: Array | None
    freq_weights: Array | None
    var_weights: Array | None
    family: Family

    def shift(self, eta: Array) -> Array:
        """The predictor with the offset."""
        return eta if self.offset is None else eta + self.offset

    def unshift(self, eta: Array) -> Array:
        """The predictor less the offset."""
        return eta if self.offset is None else eta - self.offset

    def valid(self, eta: Array) -> Array:
        """Which rows can be fitted: their weights are in order and, unless these are zero, all else.

        ``eta`` is the predictor at β = 0, which is zero where X is finite.
        """
        valid = jnp.isfinite(self.shift(eta)) & self.family.valid_response(self.y)
        weight = self.weight
        if weight is not None:
            valid = valid | (weight == 0)
        for weights in (self.freq_weights, self.var_weights):
            if weights is not None:
                valid = valid & nonnegative(weights)
        return valid

    @property
    def weight(self) -> Array | None:
        """The product of both weights; None where all are one."""
        return combined(self.freq_weights, self.var_weights)

    def weigh(self, term: Array) -> Array:
        """The term times the row's weight; exactly zero where the weight is, whatever the term."""
        weight = self.weight
        return term if weight is None else jnp.where(weight > 0, weight * term, 0.0)
