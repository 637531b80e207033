"""The public ``fit``: arguments to a batch, the batch to the engine, its solution to a ``Fit``."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxirls.checks import check_arguments, check_config, refuse_empty
from jaxirls.config import IRLS, Algorithm
from jaxirls.data import Data, batch_shape, core_ranks
from jaxirls.engine import Outcome, fit_with_fallback, is_concrete
from jaxirls.engine.batch import Batch, BatchLast
from jaxirls.families import NOT_STORED, Family
from jaxirls.implicit import tangents
from jaxirls.overdispersion import fit_with_alpha
from jaxirls.penalties import Penalty
from jaxirls.results import Fit
from jaxirls.trees import varying
from jaxirls.vmapped import UNMAPPED, with_vmap_rule

__all__ = ["fit"]


def fit(
    X: ArrayLike,
    y: ArrayLike,
    family: Family,
    *,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    penalty: Penalty | None = None,
    fallback: Penalty | None = None,
    start: ArrayLike | None = None,
    scale: ArrayLike | str | None = None,
    config: Algorithm = IRLS(),  # noqa: B008 (frozen)
) -> Fit:
    r"""Fit a generalized linear model, or a batch of them, by iteratively reweighted least squares.

    Maximizes Σᵢ ℓ(yᵢ; μᵢ) with g(μᵢ) = xᵢ'β + offsetᵢ by Fisher scoring with step-halving, and near the optimum by
    Newton's steps. Leading axes are batch axes and broadcast as in ``numpy.linalg``: ``X (n, p)`` with ``y (B, n)`` is
    one design with B responses, ``X (B, n, p)`` with ``y (n,)`` one response with B designs. No intercept is added.

    Args:
      X: design, ``(..., n, p)``.
      y: response, ``(..., n)``, in the family's support.
      family: ``ji.Gaussian()``, ``ji.Binomial()``, ``ji.Poisson()``, ..., each with ``link=``.
      offset: known part of the linear predictor, ``(..., n)``.
      freq_weights: how often each row was observed, ``(..., n)``. Rows of weight zero contribute nothing, whatever they
        hold: that is how datasets of different lengths are padded into one batch.
      var_weights: precision of each row, ``(..., n)``: its dispersion is φ / weight.
      penalty: ``ji.Ridge(strength)``, ``ji.Jeffreys()`` or ``ji.MeanBiasReduction()``; the log-likelihood less the
        penalty is maximized, or the adjusted score equations are solved.
      fallback: a penalty, as above, for exactly the datasets that have no estimate without one (SEPARATED, BOUNDARY,
        STALLED, MAX_ITERATIONS, and, by Ridge, RANK_DEFICIENT) or whose condition number exceeds
        ``IRLS(max_condition=...)``. They are fitted again as by ``penalty=fallback``; ``fit.penalized`` says which they
        are, ``fit.unpenalized_status`` why.
      start: coefficients to start from, ``(..., p)``; None starts with a weighted least squares fit to the response.
        Datasets that share all but weights may start from the fit of their rows, each taken once.
      scale: dispersion φ, as in statsmodels: a known one, a number or ``(...)``; "X2" or "dev" estimates it as
        Pearson's χ² or the deviance over df_resid, in any family (quasi-likelihood); None is "X2" in the families that
        have a dispersion (all but Binomial, Poisson and NegativeBinomial), else 1.
      config: the algorithm and its options, ``ji.IRLS(tol=..., max_iter=...)`` or, by gradients alone, ``ji.LBFGS()``.

    Returns:
      A ``ji.Fit``, its arrays with the batch axes in front. ``fit.status`` says of every dataset how it ended; nothing
      that happens in one dataset is raised, or touches another.

    Raises:
      ValueError: for arguments whose shapes, types or options cannot be right; the message names the argument.

    The dtype follows the inputs: the widest floating type among X, y, offset, weights, start and scale; integers,
    booleans and Python's numbers follow the others, or take JAX's default. Without ``jax_enable_x64`` that is float32,
    to which JAX also rounds float64. Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.5.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit = ji.fit(X, y, ji.Poisson())
      >>> print(ji.Status(int(fit.status)).name, np.asarray(fit.params).round(3))
      CONVERGED [0.365 0.387]
      >>> ji.fit(X, jnp.stack([y, y[::-1]]), ji.Poisson()).params.shape
      (2, 2)
    """
    data = check_arguments(X, y, family, offset, freq_weights, var_weights, penalty, start, scale, fallback)
    check_config(config, penalty, fallback)
    alpha_se = None
    if family.is_open:
        outcome, alpha, alpha_se = fit_with_alpha(_solve, config, data)
        family = family.with_parameters(alpha=alpha)
    else:
        outcome = _solve(config, data)
    solution, penalized, unpenalized_status = outcome
    used = jax.tree.map(
        lambda leaf: jnp.where(penalized[..., None], jnp.broadcast_to(leaf, solution.params.shape), 0.0),
        data.penalty if data.fallback is None else data.fallback,
    )
    return Fit(
        params=solution.params,
        root=solution.root,
        aliased=solution.aliased,
        penalty=used,
        direction=solution.direction,
        llf=solution.llf,
        deviance=solution.deviance,
        pearson_chi2=solution.pearson_chi2,
        scale=solution.scale,
        nobs=solution.nobs,
        n_iter=solution.n_iter,
        status=solution.status,
        penalized=penalized,
        unpenalized_status=unpenalized_status,
        score_norm=solution.score_norm,
        newton_decrement=solution.newton_decrement,
        min_weight=solution.min_weight,
        family=jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, solution.nobs.shape) if jnp.ndim(leaf) else leaf, _without_rows(family)
        ),
        alpha_se=alpha_se,
    )


def _solve(config: Algorithm, data: Data, last: bool = False) -> Outcome:
    """The fits of all datasets; where something is traced, with its rules for ``vmap`` and derivatives.

    Leading axes are batch axes; or, if ``last``, one axis behind the others, of length one where it is shared.
    """
    return (_fit_all if is_concrete(data) else _fit_traced)(config, last, data)


def _fit_all(config: Algorithm, last: bool, data: Data) -> Outcome:
    """Broadcast the leading axes to one batch axis, fit, and restore them."""
    data = varying(data)
    if last:
        return fit_with_fallback(as_batch_last(data), config)
    ranks = core_ranks(data)
    lead = batch_shape(data)
    size = math.prod(lead)

    def flat(leaf: Array, rank: int) -> Array:
        own, core = leaf.shape[: leaf.ndim - rank], leaf.shape[leaf.ndim - rank :]
        if math.prod(own) == 1:
            return leaf.reshape(1, *core)
        if own != lead:
            leaf = jnp.broadcast_to(leaf.reshape((1,) * (len(lead) - len(own)) + leaf.shape), (*lead, *core))
        return leaf.reshape(size, *core)

    outcome = fit_with_fallback(as_batch(jax.tree.map(flat, data, ranks)), config)
    return outcome if lead == (size,) else _with_axes(lead, outcome)


@partial(jax.jit, static_argnums=0)
def _with_axes(lead: tuple[int, ...], outcome: Outcome) -> Outcome:
    """The outcome with the batch axes of the data, by one call: one for every leaf takes longer than a small fit."""
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), outcome)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fit_traced(config: Algorithm, last: bool, data: Data) -> Outcome:
    return with_vmap_rule(partial(_fit_all, config, last), partial(_fit_mapped, config, last))(data)


@_fit_traced.defjvp
def _fit_jvp(config: Algorithm, last: bool, primals: tuple[Data], moved: tuple[Data]) -> tuple[Outcome, Outcome]:
    outcome = _solve(config, *primals, last)
    first = partial(jax.tree.map, partial(jnp.moveaxis, source=-1, destination=0) if last else lambda leaf: leaf)
    return outcome, tangents(outcome, *map(first, (*primals, *moved)))


def _fit_mapped(config: Algorithm, last: bool, axes: Data, data: Data) -> Outcome:
    """``vmap`` is one more leading axis; or, where X has that axis last and no other, the one that stays behind."""
    ranks = core_ranks(data)
    mapped = _map_leaves(lambda leaf, axis: 1 if axis == UNMAPPED else leaf.shape[axis], data, axes)
    refuse_empty((min(mapped),))

    def leads(leaf: Array, rank: int, axis: int) -> int:
        """How many batch axes a leaf has besides the mapped one."""
        return leaf.ndim - rank - (axis != UNMAPPED)

    if not last and axes.X == 2 and not any(_map_leaves(leads, data, ranks, axes)):

        def behind(leaf: Array, axis: int) -> Array:
            if axis == UNMAPPED:
                return leaf[..., None]
            # Of concrete data a move to where the axis is already would be a copy.
            return leaf if axis == leaf.ndim - 1 else jnp.moveaxis(leaf, axis, -1)

        return _solve(config, jax.tree.map(behind, data, axes), last=True)

    def leading(leaf: Array, axis: int) -> Array:
        own = axis != UNMAPPED
        leaf = jnp.moveaxis(leaf, axis, 0) if own else leaf
        return jnp.moveaxis(leaf, -1, int(own)) if last else leaf

    data = jax.tree.map(leading, data, axes)
    depth = max(_map_leaves(leads, data, ranks, axes))

    def aligned(leaf: Array, rank: int, axis: int) -> Array:
        fill = (1,) * (depth - leads(leaf, rank, axis))
        return leaf if axis == UNMAPPED else leaf.reshape(leaf.shape[0], *fill, *leaf.shape[1:])

    return _solve(config, jax.tree.map(aligned, data, ranks, axes))


def _without_rows(family: Family) -> Family:
    given = {name for name in family.row_parameters if getattr(family, name) is not None}
    return family.with_parameters(**dict.fromkeys(given, NOT_STORED))


def as_batch(data: Data) -> Batch:
    """The batch of arguments that have one leading axis each."""
    family = jax.tree.map(lambda leaf: leaf[:, None] if leaf.ndim == 1 else leaf, data.family)
    return Batch(*data._replace(family=family))


def as_batch_last(data: Data) -> BatchLast:
    """The batch of arguments that have one axis each behind the others."""
    family = jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 1 else leaf, data.family)
    return BatchLast(*data._replace(family=family))


def _map_leaves(function: Any, *trees: Any) -> list[Any]:
    return [function(*leaves) for leaves in zip(*map(jax.tree.leaves, trees), strict=True)]
