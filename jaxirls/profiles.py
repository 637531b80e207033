r"""Profile-likelihood intervals: every end of every interval is the root of a constrained fit, found for all at once.

With D(b) the deviance maximized over the other coefficients while βⱼ = b, the interval of level 1-α is where

    ζ(b) = √((D(b) - D(β̂)) / φ)  <=  z,      z = Φ⁻¹(1-α/2).

D(b) is a fit without column j, with offset xⱼ b, so that each turn of the search is one call of ``ji.fit`` for all
datasets, coefficients and sides. Its slope is free: at the constrained estimate the other scores vanish, so that
D'(b) = -2 xⱼ's, and ζ' = D'/(2φζ). ζ is nearly linear, which makes Newton's steps on it good from the start; they are
kept between the last point known to be inside and the last one outside, or replaced by doubling or halving.

A separated dataset has its supremum at infinity, and half of an interval: if all d of a recession have dⱼ > 0, the
upper end is +∞. On the way there the rows with x'd ≠ 0 cease to count, so the supremum is a fit of the others, in which
xⱼ is a combination of the other columns: the search measures D from there, and finds the finite end.

Under Jeffreys' penalty (Heinze & Schemper 2002) D is the deviance less φ log det X'WX, of **all** columns, the fixed
one among them: the constrained problem is then no fit of fewer columns, and Newton's method maximizes it here. Few data
and a link other than the logit can give it several maxima; the search follows the one that leads to the estimate.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import cho_solve
from jax.typing import ArrayLike

from jaxirls.config import IRLS, Algorithm
from jaxirls.data import AlignedRows, family_ranks, gram, linear
from jaxirls.engine import is_concrete
from jaxirls.estimate import Estimate, at_estimate
from jaxirls.families import Family
from jaxirls.fit import fit as fit_all
from jaxirls.hypotheses import HypothesisTest
from jaxirls.implicit import observed_information, score
from jaxirls.linalg import HIGHEST
from jaxirls.penalties import Jeffreys
from jaxirls.results import Fit
from jaxirls.special import chi2_tail, normal_reach
from jaxirls.status import RUNNING, Status

__all__ = ["Profile", "profile_conf_int", "profile_test"]

MAX_TURNS, MAX_HALVINGS = 60, 60


class Profile(NamedTuple):
    """Profile-likelihood intervals.

    Attributes:
      conf_int: lower and upper ends, ``(..., p, 2)``; ±inf where the likelihood never falls to the level, NaN where
        the end was not found.
      status: of each end, ``(..., p, 2)``: CONVERGED if found; SEPARATED if infinite, or not to be had, because the
        data are separated; MAX_ITERATIONS if the search ran out; the status of the constrained fit beyond which the
        search could not go; where none was made, that of the fit itself.
    """

    conf_int: Array
    status: Array


def profile_conf_int(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float = 0.05,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
    config: Algorithm = IRLS(),  # noqa: B008 (frozen)
) -> Profile:
    r"""Intervals of level 1-alpha for every coefficient, by inverting the likelihood-ratio test.

    Args:
      fit: of ``ji.fit``; penalized by Jeffreys' penalty, or not at all.
      X, y, offset, freq_weights, var_weights, family: the data of the fit, as in ``ji.residuals``.
      alpha: one minus the level, between 0 and 1.
      config: options of the constrained fits.

    Returns:
      A ``Profile``. The dispersion is held at the fit's, as MASS's ``confint`` holds it. Where Jeffreys' penalty made
      the estimate, or mean bias reduction with a canonical link, the penalized likelihood is profiled, as in R's
      ``logistf``. Where another penalty made it, as a fallback, the ends are NaN: there is no likelihood to invert.
      About 2 p · 6 fits a dataset, with 2 p copies of its X.

    Raises:
      ValueError: for shapes that do not fit, alpha outside (0, 1), or fits all penalized without a likelihood.

    Sources: Venzon & Moolgavkar (1988), Appl. Statist. 37, 87-94; Heinze & Schemper (2002), Stat. Med. 21, 2409-2419.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X, y = jnp.ones((6, 1)), jnp.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
      >>> fit = ji.fit(X, y, ji.Poisson())
      >>> print(ji.profile_conf_int(fit, X, y).conf_int.round(2))
      [[1.15 1.89]]
    """
    reach = normal_reach(alpha, fit.params.dtype)
    at = at_estimate(fit, X, y, offset=offset, freq_weights=freq_weights, var_weights=var_weights, family=family)
    _refuse_without_likelihood("profile_conf_int", fit)
    return _search(at, reach.astype(at.eta.dtype), config)


def profile_test(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    value: ArrayLike = 0.0,
    *,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    family: Family | None = None,
    config: Algorithm = IRLS(),  # noqa: B008 (frozen)
) -> HypothesisTest:
    r"""Likelihood-ratio tests of βⱼ = value, one for every coefficient, each by a constrained fit.

    The statistic is (D(value) - D(β̂)) / φ ~ χ²(1), with D the deviance maximized over the other coefficients or, under
    Jeffreys' penalty, the penalized one: the tests that invert to ``ji.profile_conf_int``. For several coefficients
    together see ``ji.lr_test``.

    Args:
      fit, X, y, offset, freq_weights, var_weights, family, config: as in ``ji.profile_conf_int``.
      value: under the hypothesis, a number or ``(..., p)``.

    Returns:
      A ``HypothesisTest``, its arrays ``(..., p)``. NaN where there is no estimate, constrained or not, or no
      likelihood.

    Raises:
      ValueError: for shapes that do not fit, or fits all penalized without a likelihood.

    Source: Heinze & Schemper (2002), Stat. Med. 21, 2409-2419.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(6), jnp.arange(6.0)], axis=-1)
      >>> y = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])  # separated
      >>> fit = ji.fit(X, y, ji.Binomial(), penalty=ji.Jeffreys())
      >>> print(f"{ji.profile_test(fit, X, y).pvalue[1]:.2f}")
      0.05
    """
    at = at_estimate(fit, X, y, offset=offset, freq_weights=freq_weights, var_weights=var_weights, family=family)
    p = fit.params.shape[-1]
    value = jnp.asarray(value, at.eta.dtype)
    if value.ndim and value.shape[-1] not in (1, p):
        raise ValueError(f"value has shape {value.shape}: expected a number or (..., {p}), one a coefficient")
    _refuse_without_likelihood("profile_test", fit)
    return _test(at, value, config)


def _refuse_without_likelihood(called: str, fit: Fit) -> None:
    if _likelihood_of(fit) or not is_concrete(fit.penalized) or not bool(fit.penalized.all()):
        return
    raise ValueError(
        f"{called}: under ji.{type(fit.penalty).__name__}(...) there is no likelihood ratio. Fit with "
        "penalty=ji.Jeffreys(), or without a penalty; for this fit there are fit.conf_int() and ji.wald_test"
    )


def _likelihood_of(fit: Fit) -> bool:
    """Whether the penalty is a term of a likelihood: Jeffreys', or Firth's where that is the same."""
    return fit.penalty is not None and fit.penalty.follows_information(fit.family)


class _Data(NamedTuple):
    """The constrained problems: lanes are datasets, coefficients and sides, ``L = (..., p, 2)``."""

    column: Array  # (..., p, 1, n), xⱼ
    others: Array  # (..., p, 1, n, p-1)
    y: Array
    offset: Array
    freq: Array  # (..., 1, 1, n)
    var: Array
    limit: Array  # (..., 1, 1, n), freq without the rows that move along the direction of recession
    family: Family
    scale: Array  # (..., 1, 1)
    bent: AlignedRows | None  # all columns, where Jeffreys' penalty is profiled too


class _Point(NamedTuple):
    """The profile at some b, arrays ``L``."""

    deviance: Array  # penalized, where the fit is
    slope: Array
    params: Array  # (..., p, 2, p-1), of the other coefficients
    status: Array


class _State(NamedTuple):
    b: Array  # to evaluate next
    inside: Array  # where ζ < z, the last point; infinite where only the limit is
    outside: Array  # where ζ > z; infinite until one is found
    blocked: Array  # status of the constrained fit at ``outside``, if it failed there
    supremum: Array  # D(β̂), or its limit
    params: Array
    turns: Array
    code: Array


@partial(jax.jit, static_argnums=2)
def _search(at: Estimate, reach: Array, config: Algorithm) -> Profile:
    fit, data = at.fit, _constrained(at)
    dtype, p = at.eta.dtype, fit.params.shape[-1]
    lead = jnp.broadcast_shapes(fit.shape, at.eta.shape[:-1])
    shape = (*lead, p, 2)
    side = jnp.broadcast_to(jnp.asarray([-1.0, 1.0], dtype), shape)

    def lanes(value: Array, core: int) -> Array:
        return jnp.broadcast_to(value[(..., *(None,) * (2 - core))], shape)

    separated = lanes(fit.status == Status.SEPARATED, 0)
    ahead = lanes(fit.direction, 1) * side  # positive: the end is infinite
    usable = lanes(_usable(fit), 0) | (separated & (ahead < 0) & ~lanes(fit.penalized, 0))
    code = jnp.where(usable, RUNNING, lanes(fit.status, 0))

    unit = lanes(fit.bse, 1) * reach
    unit = jnp.where(separated, 1 / jnp.abs(data.column).max(-1), unit)
    origin = jnp.where(separated, 0.0, lanes(fit.params, 1))
    others, slope = _others(p), _slopes(fit, p)
    start = jnp.broadcast_to(fit.params[..., others][..., None, :], (*shape, p - 1))

    state = _State(
        b=jnp.where(separated, origin, origin + side * unit),
        inside=jnp.where(separated, -side * jnp.inf, origin),
        outside=side * jnp.inf,
        blocked=jnp.full(shape, Status.CONVERGED, jnp.int32),
        supremum=jnp.where(separated, jnp.nan, lanes(_supremum(fit), 0)),
        params=jnp.where(separated[..., None], 0.0, start + (slope * unit[..., None]) * side[..., None]),
        turns=jnp.int32(0),
        code=code.astype(jnp.int32),
    )
    tolerance = 8 * jnp.finfo(dtype).eps ** 0.5

    def turn(state: _State) -> _State:
        at_limit = jnp.isnan(state.supremum) & (state.code == RUNNING)
        freq = jnp.where(at_limit[..., None], data.limit, data.freq)
        point = _evaluate(data, state.b, state.params, freq, config)
        good = point.status == Status.CONVERGED
        supremum = jnp.where(at_limit & good, point.deviance, state.supremum)

        excess = (point.deviance - supremum) / data.scale
        zeta = jnp.where(good, jnp.sqrt(jnp.maximum(excess, 0.0)), jnp.inf)
        is_outside = zeta > reach
        inside = jnp.where(is_outside | at_limit, state.inside, state.b)
        outside = jnp.where(is_outside & ~at_limit, state.b, state.outside)
        blocked = jnp.where(is_outside & ~at_limit, point.status, state.blocked)

        stride = unit * 2.0 ** state.turns.astype(dtype)
        newton = (reach - zeta) * 2 * data.scale * zeta / point.slope
        there = state.b + newton
        between = (jnp.abs(newton) <= stride) & ((there - inside) * side > 0) & ((outside - there) * side > 0)
        searched = jnp.where(
            jnp.isinf(outside),
            state.b + side * stride,
            jnp.where(jnp.isinf(inside), state.b - side * stride, 0.5 * (inside + outside)),
        )
        b = jnp.where(at_limit, state.b, jnp.where(between & good, there, searched))
        width = jnp.where(separated, jnp.maximum(unit, jnp.abs(b)), unit)
        near = good & ~at_limit & between & (jnp.abs(newton) <= tolerance * width)
        closed = jnp.abs(outside - inside) <= tolerance * width
        found = jnp.where(closed & (blocked != Status.CONVERGED), blocked, Status.CONVERGED)
        running = state.code == RUNNING
        code = jnp.where(running & (near | closed), found, state.code)
        code = jnp.where(running & at_limit & ~good, Status.SEPARATED, code).astype(jnp.int32)
        params = jnp.where(good[..., None] & ~at_limit[..., None], point.params, state.params)
        moved = _State(b, inside, outside, blocked, supremum, params, state.turns + 1, code)
        return jax.tree.map(partial(_keep, running), moved, state)._replace(turns=state.turns + 1)

    state = lax.while_loop(lambda s: jnp.any(s.code == RUNNING) & (s.turns < MAX_TURNS), turn, state)
    status = jnp.where(state.code == RUNNING, Status.MAX_ITERATIONS, state.code).astype(jnp.int32)
    end = jnp.where(status == Status.CONVERGED, state.b, jnp.nan)
    end = jnp.where(~usable, jnp.nan, end)
    return Profile(jnp.where(separated & (ahead > 0) & ~lanes(fit.penalized, 0), side * jnp.inf, end), status)


@partial(jax.jit, static_argnums=2)
def _test(at: Estimate, value: Array, config: Algorithm) -> HypothesisTest:
    fit, data, p = at.fit, _constrained(at), at.fit.params.shape[-1]
    lead = jnp.broadcast_shapes(fit.shape, at.eta.shape[:-1], value.shape[:-1])
    b, params = jnp.broadcast_to(value, (*lead, p)), jnp.broadcast_to(fit.params, (*lead, p))
    start = params[..., _others(p)] + _slopes(fit, p)[..., 0, :] * (b - params)[..., None]
    point = _evaluate(data, b[..., None], start[..., None, :], data.freq, config)
    drop = (point.deviance - _supremum(fit)[..., None, None]) / data.scale
    found = _usable(fit)[..., None] & (point.status == Status.CONVERGED)[..., 0]
    statistic = jnp.where(found, jnp.maximum(drop, 0.0)[..., 0], jnp.nan)
    return HypothesisTest(statistic, chi2_tail(statistic, 1), 1)


def _usable(fit: Fit) -> Array:
    """Where the estimate is at the maximum of a likelihood."""
    converged = fit.status == Status.CONVERGED
    return converged if _likelihood_of(fit) else converged & ~fit.penalized


def _supremum(fit: Fit) -> Array:
    """D(β̂)."""
    if not _likelihood_of(fit):
        return fit.deviance
    log_determinant = 2 * jnp.log(jnp.abs(jnp.diagonal(fit.known_root(), axis1=-2, axis2=-1))).sum(-1)
    return fit.deviance - jnp.where(fit.penalized, fit.scale * log_determinant, 0.0)


def _keep(running: Array, new: Array, old: Array) -> Array:
    if new.ndim == 0:
        return new
    return jnp.where(running.reshape(running.shape + (1,) * (new.ndim - running.ndim)), new, old)


def _others(p: int) -> np.ndarray:
    """(p, p-1): for each column, the others."""
    return np.array([[k for k in range(p) if k != j] for j in range(p)], int).reshape(p, p - 1)


def _slopes(fit: Fit, p: int) -> Array:
    """How the other coefficients follow βⱼ: row j of C⁻¹ over its diagonal, ``(..., p, 1, p-1)``."""
    half = fit.half_inverse()
    cov = jnp.einsum("...kp,...kq->...pq", half, half, precision=HIGHEST)
    ratio = cov / jnp.diagonal(cov, axis1=-2, axis2=-1)[..., :, None]
    return ratio[..., np.arange(p)[:, None], _others(p)][..., None, :]


def _constrained(at: Estimate) -> _Data:
    rows, p = at.rows, at.rows.X.shape[-1]
    X = jnp.where(at.used[..., None], jnp.where(at.valid[..., None], rows.X, jnp.nan), 0.0)
    column = jnp.swapaxes(X, -1, -2)[..., :, None, :]
    others = jnp.swapaxes(X[..., _others(p)], -3, -2)[..., :, None, :, :]  # (..., n, p, p-1) first
    moving = jnp.einsum("...np,...p->...n", jnp.abs(X), jnp.abs(at.fit.direction), precision=HIGHEST)
    along = jnp.einsum("...np,...p->...n", X, at.fit.direction, precision=HIGHEST)
    still = jnp.abs(along) <= 64 * p * jnp.finfo(X.dtype).eps * moving

    def lanes(value: Array) -> Array:
        return value[..., None, None, :]

    offset = jnp.zeros_like(rows.y) if rows.offset is None else rows.offset
    return _Data(
        column=column,
        others=others,
        y=lanes(rows.y),
        offset=lanes(offset),
        freq=lanes(rows.freq),
        var=lanes(rows.var),
        limit=lanes(jnp.where(still, rows.freq, 0.0)),
        family=jax.tree.map(lanes, rows.family),
        scale=at.fit.scale[..., None, None],
        bent=_bent(at) if _likelihood_of(at.fit) else None,
    )


def _bent(at: Estimate) -> AlignedRows:
    """The rows with Jeffreys' penalty, where the fit has it; lanes as in ``_Data``."""
    rows = at.rows._replace(penalty=Jeffreys(), penalized=at.fit.penalized, scale=at.fit.scale)
    cores = {"X": 2, "y": 1, "offset": 1, "freq": 1, "var": 1, "penalized": 0, "scale": 0}

    def lanes(value: Array, core: int) -> Array:
        return jnp.expand_dims(value, (value.ndim - core, value.ndim - core + 1))

    given: Any = {
        name: lanes(getattr(rows, name), core) for name, core in cores.items() if getattr(rows, name) is not None
    }
    return rows._replace(**given, family=jax.tree.map(lambda leaf: lanes(leaf, 1), rows.family))


class _Climb(NamedTuple):
    """Newton's method under a constraint."""

    beta: Array  # (L, p)
    step: Array
    value: Array  # (L,), penalized deviance at beta
    halvings: Array
    code: Array
    turns: Array


def _maximize_bent(rows: AlignedRows, b: Array, start: Array, config: Algorithm) -> _Point:
    """The penalized profile at b: Newton's steps, Fisher's where the objective is not concave, both halved."""
    p, dtype = rows.X.shape[-1], b.dtype
    scale: Any = rows.scale
    lead = (1,) * (b.ndim - 2)
    fixed = jnp.eye(p, dtype=dtype).reshape(*lead, p, 1, p)  # βⱼ in the lanes of coefficient j
    places = jax.nn.one_hot(_others(p), p, dtype=dtype).reshape(*lead, p, 1, p - 1, p)
    first = jnp.einsum("...q,...qp->...p", start, places, precision=HIGHEST) + b[..., None] * fixed
    weight = rows.freq * rows.var
    noise = 16 * jnp.finfo(dtype).eps

    def information(beta: Array) -> Array:
        return gram(rows, weight * rows.family.information(linear(beta, rows)))

    def measured(beta: Array) -> Array:
        eta = linear(beta, rows)
        root = jnp.diagonal(jnp.linalg.cholesky(information(beta)), axis1=-2, axis2=-1)
        value = jnp.where(weight > 0, weight * rows.family.unit_deviance(eta, rows.y), 0.0).sum(-1)
        value = value - jnp.where(rows.penalized, 2 * scale * jnp.log(root).sum(-1), 0.0)
        valid = ((weight == 0) | rows.family.valid_predictor(eta)).all(-1) & jnp.isfinite(value)
        return jnp.where(valid, value, jnp.inf)

    def constrained(matrix: Array) -> Array:
        free = 1 - fixed
        return matrix * free[..., None] * free[..., None, :] + fixed[..., None] * fixed[..., None, :]

    def turn(state: _Climb) -> _Climb:
        candidate = state.beta + state.step
        value = measured(candidate)
        accept = value <= state.value + noise * (jnp.abs(state.value) + weight.sum(-1))
        accept = jnp.isfinite(value) & (accept | jnp.isinf(state.value))
        pull = score(candidate, rows) * (1 - fixed)
        newton = jnp.linalg.cholesky(constrained(observed_information(candidate, rows)))
        curved = jnp.isfinite(newton).all((-2, -1))
        scoring = jnp.linalg.cholesky(constrained(information(candidate)))
        factor = jnp.where(curved[..., None, None], newton, scoring)
        step = cho_solve((factor, True), pull[..., None])[..., 0]
        # Newton's error is squared by the last step.
        done = curved & ((step * pull).sum(-1) <= scale * config.tolerance(dtype) ** 2)
        halvings = jnp.where(accept, 0, state.halvings + 1)
        code = jnp.where(halvings > MAX_HALVINGS, Status.STALLED, RUNNING)
        code = jnp.where(accept & done, Status.CONVERGED, code)
        moved = _Climb(
            beta=jnp.where(accept[..., None], jnp.where(done[..., None], candidate + step, candidate), state.beta),
            step=jnp.where(accept[..., None], step, state.step / 2),
            value=jnp.where(accept, value, state.value),
            halvings=halvings,
            code=code.astype(jnp.int32),
            turns=state.turns,
        )
        running = state.code == RUNNING
        return jax.tree.map(partial(_keep, running), moved, state)._replace(turns=state.turns + 1)

    shape = jnp.broadcast_shapes(b.shape, rows.penalized.shape)
    first = jnp.broadcast_to(first, (*shape, p))
    code = jnp.where(jnp.isfinite(measured(first)), RUNNING, Status.BOUNDARY)
    climb = _Climb(
        beta=first,
        step=jnp.zeros_like(first),
        value=jnp.full(shape, jnp.inf, dtype),
        halvings=jnp.zeros(shape, jnp.int32),
        code=code.astype(jnp.int32),
        turns=jnp.int32(0),
    )
    climb = lax.while_loop(lambda s: jnp.any(s.code == RUNNING) & (s.turns < config.max_iter), turn, climb)
    status = jnp.where(climb.code == RUNNING, Status.MAX_ITERATIONS, climb.code).astype(jnp.int32)
    slope = -2 * (score(climb.beta, rows) * fixed).sum(-1)
    others = jnp.einsum("...p,...qp->...q", climb.beta, places, precision=HIGHEST)
    return _Point(measured(climb.beta), slope, others, status)


def _evaluate(data: _Data, b: Array, start: Array, freq: Array, config: Algorithm) -> _Point:
    """The profile at b."""
    if data.bent is not None:
        return _maximize_bent(data.bent, b, start, config)
    offset = data.offset + data.column * b[..., None]
    if not start.shape[-1]:
        return _at(data, offset, freq, start, jnp.full(b.shape, Status.CONVERGED, jnp.int32))
    ranks: Any = family_ranks(data.family)
    family = jax.tree.map(lambda leaf, rank: leaf if rank else leaf[..., 0], data.family, ranks)
    inner = fit_all(
        data.others,
        data.y,
        family,
        offset=offset,
        freq_weights=freq,
        var_weights=data.var,
        start=None if data.family.guards_domain else start,
        scale=data.scale,
        config=config,
    )
    eta = offset + jnp.einsum("...nq,...q->...n", data.others, inner.params, precision=HIGHEST)
    return _at(data, eta, freq, inner.params, inner.status)


def _at(data: _Data, eta: Array, freq: Array, params: Array, status: Array) -> _Point:
    weight = freq * data.var

    def total(term: Array) -> Array:
        return jnp.where(weight > 0, weight * term, 0.0).sum(-1)

    deviance = total(data.family.unit_deviance(eta, data.y))
    slope = -2 * total(data.column * data.family.working(eta, data.y).score)
    status = jnp.where(jnp.isfinite(deviance) & jnp.isfinite(slope), status, jnp.maximum(status, Status.BOUNDARY))
    return _Point(deviance, slope, params, status)
