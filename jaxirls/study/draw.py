r"""Data generation on the device: the datasets of any replicates, laid out for the fit.

The seed's key is split in two, one for X and one for y. Replicate i draws from i folded into each and from nothing
else, so that it is the same dataset in whatever tile, chunk or order it is drawn. A tile comes out with its replicates
last, as the lanes of the fit want them.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxirls.designs import Design
from jaxirls.engine.batch import Batch, Plan, plan
from jaxirls.families import Family
from jaxirls.problem import Problem
from jaxirls.rows import Rows
from jaxirls.study.generator import THREEFRY
from jaxirls.study.scenario import Scenario

__all__ = ["datasets", "draw", "layout", "root_keys"]

# Of a GPU's tile, so that the cores count one while it fits the next.
MOST_LANES = 2**17
# Counts are drawn in int32.
LARGEST_COUNT_MEAN = 2.0**30


def layout(scenario: Scenario) -> Plan:
    """How the engine lays out such datasets, and how many to a tile; whatever the chunk."""
    many, dtype = max(2, scenario.replicates), jnp.dtype(scenario.dtype)
    x = jax.ShapeDtypeStruct((many if scenario.design.redraw else 1, scenario.n, scenario.p), dtype)
    y = jax.ShapeDtypeStruct((many, scenario.n), dtype)
    form = plan(Batch(x, y, None, None, None, scenario.family, None, None, None))  # type: ignore[arg-type]
    tile = min(form.tile, MOST_LANES)
    return form._replace(tile=tile, rest=min(form.rest, tile))


def root_keys(scenario: Scenario) -> Array:
    """The two keys, for X and for y, that every replicate's keys are folded from."""
    return jax.random.split(jax.random.key(np.uint32(scenario.seed), impl=THREEFRY))


def draw(scenario: Scenario, design: type[Design], roots: Array, index: Array) -> Problem:
    """The datasets of T replicates, unweighted.

    Args:
      scenario: the law of the data.
      design: the layout of X.
      roots: the two root keys, ``(2,)``.
      index: replicate numbers, unsigned, ``(T,)``.

    Returns:
      Their ``Problem``. A replicate with a mean outside the family's range, or too large to draw, is invalid.
    """
    family, dtype = scenario.family, jnp.dtype(scenario.dtype)
    design_keys, response_keys = jax.vmap(lambda root: jax.vmap(lambda i: jax.random.fold_in(root, i))(index))(roots)
    X = _design(scenario, design, roots[0], design_keys)
    truth = jnp.asarray(scenario.coefficients, dtype)[:, None]
    eta = X.predict(jnp.broadcast_to(truth, (scenario.p, index.shape[0])))
    y = _responses(scenario, response_keys, eta)
    # No clipping in silence: a mean that cannot be drawn from leaves NaN in its row.
    valid = jnp.isfinite(y).all(0)
    shaped = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype).reshape(1, 1), family)
    return Problem(X, Rows(y, None, None, None, shaped), None, None, None, ~valid)


def datasets(scenario: Scenario, index: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The data of some replicates, to look at or to fit elsewhere.

    Args:
      scenario: the law of the data.
      index: replicate numbers, ``(B,)``.

    Returns:
      X ``(B, n, p)`` and y ``(B, n)``, NumPy arrays of the scenario's precision.

    Example:
      >>> import jaxirls as ji
      >>> from jaxirls import study
      >>> scenario = study.Scenario(
      ...     n=4, coefficients=[1.0], design=study.Normal(), family=ji.Poisson(), replicates=10, seed=1
      ... )
      >>> X, y = study.datasets(scenario, [3, 7])
      >>> X.shape, y.shape
      ((2, 4, 1), (2, 4))
    """
    numbers = np.atleast_1d(np.asarray(index))
    if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer) or (numbers < 0).any():
        raise ValueError(f"index must hold replicate numbers from 0, got {index!r}")
    padded = np.pad(numbers, (0, (1 << max(len(numbers) - 1, 0).bit_length()) - len(numbers)), mode="edge")
    with jax.enable_x64(scenario.dtype == "float64"):
        X, y = _batch_first(scenario.law, root_keys(scenario), padded.astype(np.uint32))
        return np.asarray(X)[: len(numbers)], np.asarray(y)[: len(numbers)]


@partial(jax.jit, static_argnums=0)
def _batch_first(law: Scenario, roots: Array, index: Array) -> tuple[Array, Array]:
    problem = draw(law, layout(law).design, roots, index)
    return jnp.moveaxis(problem.design.lanes(index.shape[0]), -1, 0), problem.rows.y.T


def _design(scenario: Scenario, design: type[Design], root: Array, keys: Array) -> Design:
    n, p, dtype = scenario.n, scenario.p, jnp.dtype(scenario.dtype)

    # Replicates are below 2³¹: the last number of 32 bits is free for what all of them share.
    shared = jax.random.fold_in(root, np.uint32(2**32 - 1))
    x = scenario.design.draw(keys if scenario.design.redraw else shared[None], n, p, dtype)
    # The barrier keeps XLA from drawing again for every use.
    return design.of(lax.optimization_barrier(x), keys.shape[0])


def _responses(scenario: Scenario, keys: Array, eta: Array) -> Array:
    """A response for every row of η ``(n, T)``, NaN where its mean is out of range."""
    family: Family = scenario.family
    mean = family.mean(eta)
    valid = family.valid_predictor(eta) & jnp.isfinite(mean)
    if family.discrete:
        valid = valid & (mean <= LARGEST_COUNT_MEAN)

    def one(key: Array, mean: Array) -> Array:
        return family.sample(key, mean, scenario.dispersion)

    within = jnp.where(valid, mean, 0.5)  # a mean of every family
    return jnp.where(valid, jax.vmap(one, in_axes=(0, -1), out_axes=-1)(keys, within), jnp.nan)
