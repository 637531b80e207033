r"""The data of a fit: its arguments, and their rows laid out for arithmetic, batch axes in front."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxirls.dispersion import Scale
from jaxirls.families import Family
from jaxirls.linalg import HIGHEST
from jaxirls.penalties import Penalty

__all__ = [
    "AlignedRows",
    "Data",
    "aligned_rows",
    "batch_shape",
    "core_ranks",
    "family_ranks",
    "gram",
    "linear",
]


class Data(NamedTuple):
    """The arguments of a fit, each with its own leading axes, all of one dtype."""

    X: Array
    y: Array
    offset: Array | None
    freq_weights: Array | None
    var_weights: Array | None
    family: Family
    penalty: Penalty | None
    start: Array | None
    scale: Scale
    fallback: Penalty | None = None


def core_ranks(data: Data) -> Data:
    """The number of trailing axes of each leaf that are not batch axes."""
    given = {"X": 2, "y": 1, "offset": 1, "freq_weights": 1, "var_weights": 1, "start": 1}
    ranks: dict = {name: rank if getattr(data, name) is not None else None for name, rank in given.items()}
    ranks |= {name: jax.tree.map(lambda _: 1, getattr(data, name)) for name in ("penalty", "fallback")}
    return Data(family=family_ranks(data.family), scale=jax.tree.map(lambda _: 0, data.scale), **ranks)


def family_ranks(family: Family) -> Family:
    """1 for every leaf with a value a row, 0 for every other."""
    rows = family.row_parameters
    return jax.tree_util.tree_map_with_path(lambda path, leaf: int(getattr(path[0], "name", None) in rows), family)


def batch_shape(data: Data) -> tuple[int, ...]:
    """The shape to which the leading axes broadcast."""
    leaves = zip(jax.tree.leaves(data), jax.tree.leaves(core_ranks(data)), strict=True)
    return jnp.broadcast_shapes(*(leaf.shape[: leaf.ndim - rank] for leaf, rank in leaves))


class AlignedRows(NamedTuple):
    """Data without traps, aligned to the batch axes of the solution."""

    X: Array
    y: Array
    offset: Array | None
    freq: Array
    var: Array
    family: Family
    penalty: Penalty | None
    penalized: Array
    scale: Scale


def aligned_rows(data: Data, fitted: Array, depth: int) -> AlignedRows:
    """The data with ``depth`` batch axes each, and weight zero and harmless values wherever nothing was fitted."""
    ranks = core_ranks(data)

    def aligned(leaf: Array, rank: int) -> Array:
        return leaf.reshape((1,) * (depth - (leaf.ndim - rank)) + leaf.shape)

    data = jax.tree.map(aligned, data, ranks)
    freq = jnp.ones_like(data.y) if data.freq_weights is None else data.freq_weights
    var = jnp.ones_like(data.y) if data.var_weights is None else data.var_weights
    used = fitted[..., None] & (freq > 0) & (var > 0)
    family = jax.tree.map(
        lambda leaf, rank: jnp.where(used, leaf, 1.0) if rank else leaf[..., None], data.family, ranks.family
    )
    return AlignedRows(
        X=jnp.where(jnp.isfinite(data.X), data.X, 0.0),
        y=jnp.where(used & family.valid_response(data.y), data.y, 1.0),
        offset=None if data.offset is None else jnp.where(jnp.isfinite(data.offset), data.offset, 0.0),
        freq=jnp.where(used, freq, 0.0),
        var=jnp.where(var > 0, var, 1.0),
        family=family,
        penalty=data.penalty,
        penalized=fitted,
        scale=data.scale,
    )


def linear(beta: Array, data: AlignedRows) -> Array:
    """η = Xβ + offset, ``(..., n)``."""
    eta = jnp.einsum("...np,...p->...n", data.X, beta, precision=HIGHEST)
    return eta if data.offset is None else eta + data.offset


def gram(data: AlignedRows, weight: Array) -> Array:
    """X' diag(weight) X, ``(..., p, p)``."""
    return jnp.einsum("...np,...nq->...pq", data.X * weight[..., None], data.X, precision=HIGHEST)
