"""Resamples: datasets that share their rows and differ in weights. They start from the fit of the rows, each once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls import linalg
from jaxirls.designs import SharedByRow, Terms
from jaxirls.engine.apart import apart, room_for
from jaxirls.engine.batch import Batch, problem
from jaxirls.equations import by_cholesky
from jaxirls.families.base import Working
from jaxirls.problem import Problem
from jaxirls.rows import Origin, Rows
from jaxirls.trees import varying

__all__ = ["from_common_rows"]

# Steps of the fit, at most, and how short the last of them must be, as a part of √W η.
STEPS, SHORT = 8, 1e-3


def from_common_rows(batch: Batch) -> Batch:
    """The batch, with an origin if its datasets share all but weights.

    Not where the user gives a start, and only for links like log and logit, whose η has no unit: there a number tells
    what is far from the origin.
    """
    weights = {name: getattr(batch, name) for name in ("freq_weights", "var_weights")}
    own = {name: leaf for name, leaf in weights.items() if leaf is not None and leaf.shape[0] > 1}
    common, link = batch._replace(**dict.fromkeys(own)), batch.family.link  # type: ignore[arg-type]
    has_no_unit = link.domain == (None, None) != link.image and not batch.family.guards_domain
    if common.size > 1 or batch.start is not None or not has_no_unit:
        return batch

    def fit(_: Origin | None, own: list[Array], common: Batch) -> Origin:
        return varying(_origin(_one(_present(common))), own)

    # Numbers of the datasets' own come first: of those the compiler knows nothing, even where the rows are constants.
    given = [leaf[:1, 0] for leaf in own.values()], common
    room = room_for(jax.eval_shape(fit, None, *given), *given)
    return batch._replace(origin=jax.tree.map(jnp.transpose, apart(fit, varying(room, given), *given)))


def _one(common: Batch) -> Problem:
    return problem(common.tile(0, 1), SharedByRow, 1)


def _present(common: Batch) -> Batch:
    """The same, rows that cannot be fitted with weight zero: a dataset in which they have another is invalid."""
    laid = _one(common)
    weight = jnp.ones_like(laid.rows.y) if laid.rows.weight is None else laid.rows.weight
    present = jnp.where(laid.valid_rows, weight, 0.0)
    return common._replace(freq_weights=present.T, var_weights=None)


def _origin(laid: Problem) -> Origin:
    """Where the rows' own fit leads, by scoring without step-halving: what needs that is no place to start from."""
    rows, system, zero = laid.rows, laid.system, jnp.zeros((laid.design.p, 1), laid.rows.y.dtype)

    def step(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        k, eta, beta, _ = carry
        fit = by_cholesky(system, zero, (rows, eta), _scoring)
        new = linalg.backward(fit.factor, fit.half)
        ended = fit.factor.length(new - beta) <= SHORT * fit.factor.length(new)
        return k + 1, laid.predict(new), new, ended[0]

    usual = rows.family.starting_predictor(rows.y, laid.mean_response[None])
    begin = varying((jnp.int32(0), usual, zero, jnp.zeros((), bool)), laid)
    _, eta, beta, ended = lax.while_loop(lambda carry: (carry[0] < STEPS) & ~carry[3], step, begin)
    work = rows.family.working(eta, rows.y)
    there = work.weight, _target(rows, eta, work), rows.family.pearson_chi2(eta, rows.y, work)
    return Origin(jnp.where(ended, beta, jnp.nan), *(jnp.broadcast_to(leaf, eta.shape) for leaf in there))


def _scoring(_: Array, data: tuple[Rows, Array]) -> Terms:
    """The regression that is a step of scoring from a predictor."""
    rows, eta = data
    work = rows.family.working(eta, rows.y)
    return Terms(rows.weigh(work.weight), rows.weigh(_target(rows, eta, work)))


def _target(rows: Rows, eta: Array, work: Working) -> Array:
    """Wη + score, less the offset."""
    return work.weight * rows.unshift(eta) + work.score
