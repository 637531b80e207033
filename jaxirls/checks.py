"""Whether the arguments of a fit belong together: their shapes, types and options."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxirls.arguments import is_number, numeric
from jaxirls.config import IRLS, LBFGS, Algorithm
from jaxirls.data import Data, core_ranks
from jaxirls.dispersion import ScaleRule, is_estimated
from jaxirls.families import Family, check_family
from jaxirls.penalties import Penalty

__all__ = ["check_arguments", "check_config", "refuse_empty"]


def check_arguments(
    X: ArrayLike,
    y: ArrayLike,
    family: Family,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    penalty: Penalty | None = None,
    start: ArrayLike | None = None,
    scale: ArrayLike | str | None = None,
    fallback: Penalty | None = None,
    unique: bool = True,
) -> Data:
    """Arrays of one dtype whose shapes fit together, or a ValueError that says which does not.

    ``unique`` asks that the data can determine an estimate without a penalty.
    """
    check_family(family)
    for name, option in (("penalty", penalty), ("fallback", fallback)):
        if not (option is None or isinstance(option, Penalty)):
            raise ValueError(f"{name} must be None or a penalty such as ji.Ridge(1.0), got {option!r}")
    if not (penalty is None or fallback is None):
        raise ValueError("penalty and fallback are both given: a fallback is for fits without a penalty; drop one")
    used = penalty if fallback is None else fallback
    named = {
        "X": X,
        "y": y,
        "offset": offset,
        "freq_weights": freq_weights,
        "var_weights": var_weights,
        "start": start,
        "scale": None if isinstance(scale, str) else scale,
    }
    arrays = {name: None if value is None else numeric(name, value) for name, value in named.items()}
    X_, y_ = arrays["X"], arrays["y"]
    if X_ is None or y_ is None:
        raise ValueError(f"{'X' if X_ is None else 'y'} is None: give an array")
    if X_.ndim < 2:
        raise ValueError(
            f"X has shape {X_.shape}: expected (..., n, p), one row an observation; use X[:, None] for p = 1"
        )
    n, p = X_.shape[-2:]
    if n == 0 or p == 0:
        raise ValueError(f"X has shape {X_.shape}: it needs at least one row and one column")
    if y_.ndim < 1 or y_.shape[-1] != n:
        raise ValueError(f"y has shape {y_.shape}, X has {n} rows: expected y of shape (..., {n})")
    if unique and n < p and not (used is not None and used.identifies):
        raise ValueError(
            f"X has {n} rows and {p} columns: n < p has no unique estimate; drop columns or give penalty=ji.Ridge(...)"
        )
    cores = {"offset": (n,), "freq_weights": (n,), "var_weights": (n,), "start": (p,)}
    for name, core in cores.items():
        value = arrays[name]
        if value is not None and value.shape[-1:] != core:
            raise ValueError(f"{name} has shape {value.shape}: expected (..., {core[0]}) for X of shape {X_.shape}")
    # A number of Python's takes the precision of the arrays.
    typed = [a.dtype for name, a in arrays.items() if a is not None and not is_number(named[name])]
    floating = [dtype for dtype in typed if jnp.issubdtype(dtype, jnp.floating)]
    dtype = jnp.result_type(*floating) if floating else jnp.result_type(float)
    if dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"the data are {dtype}: fits run in float32 or float64; convert X and y")
    cast: dict[str, Any] = {name: None if a is None else a.astype(dtype, copy=False) for name, a in arrays.items()}
    family = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), family)
    for name in family.row_parameters:
        value = getattr(family, name)
        if value is not None and value.ndim and value.shape[-1] not in (1, n):
            raise ValueError(f"family: {name} has shape {value.shape}, expected a number or (..., {n})")
        if value is not None and not value.ndim:
            family = family.with_parameters(**{name: value[None]})
    rule = ScaleRule.of(scale) if isinstance(scale, str) else cast["scale"]
    if used is not None:
        used.check(family, family.is_open or is_estimated(rule, family.has_dispersion))
    if family.is_open and scale is not None:
        raise ValueError(f"scale is {scale!r} while alpha is estimated, and both measure the dispersion: drop scale")
    data = Data(
        cast["X"],
        cast["y"],
        cast["offset"],
        cast["freq_weights"],
        cast["var_weights"],
        family,
        None if penalty is None else penalty.bound(p, dtype),
        cast["start"],
        rule,
        None if fallback is None else fallback.bound(p, dtype),
    )
    leads = {name: leaf.shape[: leaf.ndim - rank] for name, leaf, rank in _named_leaves(data)}
    try:
        lead = jnp.broadcast_shapes(*leads.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in leads.items())
        raise ValueError(f"the batch axes do not broadcast: {listed}") from None
    refuse_empty(lead)
    return data


def check_config(config: Algorithm, penalty: Penalty | None, fallback: Penalty | None) -> None:
    """Raise a ValueError for what is no algorithm, or one that cannot fit with the penalty."""
    if not isinstance(config, (IRLS, LBFGS)):
        raise ValueError(f"config must be ji.IRLS(...) or ji.LBFGS(...), got {type(config).__name__}")
    for name, option in (("penalty", penalty), ("fallback", fallback)):
        if isinstance(config, LBFGS) and option is not None and option.bends:
            raise ValueError(
                f"{name} is ji.{type(option).__name__}(), whose score ji.LBFGS does not know: use config=ji.IRLS(...)"
            )


def refuse_empty(lead: tuple[int, ...]) -> None:
    """Raise a ValueError for a batch of no datasets, ``lead`` its shape."""
    if 0 in lead:
        raise ValueError(f"the batch is empty: batch shape {lead}; leave the call out")


def _named_leaves(data: Data) -> list[tuple[str, Array, int]]:
    paths = [jax.tree_util.keystr(path).strip(".") for path, _ in jax.tree_util.tree_flatten_with_path(data)[0]]
    return list(zip(paths, jax.tree.leaves(data), jax.tree.leaves(core_ranks(data)), strict=True))
