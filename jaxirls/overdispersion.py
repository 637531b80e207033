r"""The α of a negative binomial fit by maximum likelihood.

As ``MASS::glm.nb`` (Venables & Ripley 2002, section 7.4) the estimation alternates: the coefficients at a fixed α, then
α. Here α takes Newton's steps on the profile log-likelihood p(t) = maxᵦ ℓ(β, t), t = log α, inside a bracket:

    p' = ∂ℓ/∂t,      -p'' = -∂²ℓ/∂t² - cᵀ C⁻¹ c,      c = ∂s/∂t,

with the score s and the observed information C of β. Where p falls already at α = 0, that is, where
Σ w ((y-μ)² - y) <= 0 at the Poisson estimate (Dean & Lawless 1989), and is lower still at glm.nb's starting value, the
data are not overdispersed: α is 0 and the status ``BOUNDARY``. Few large counts can hide that all others vary more.

The derivative of α̂ follows from p'(t) = 0, in which β̂ moves with α and the data by the rule of a fit; so the
derivatives of everything a fit reports are those of the joint estimate. At α = 0 they are Poisson's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_solve

from jaxirls.config import Algorithm
from jaxirls.data import AlignedRows, Data, aligned_rows, batch_shape, linear
from jaxirls.engine import Outcome, is_concrete
from jaxirls.implicit import no_tangent, observed_information, score, tangents
from jaxirls.links import slope
from jaxirls.status import RUNNING, Status
from jaxirls.trees import varying

__all__ = ["fit_with_alpha"]

MAX_TURNS = 60
LARGEST_STEP = 3.0

Solve = Callable[[Algorithm, Data], Outcome]


class AlphaSearch(NamedTuple):
    """Where the search for α stands, every array ``(...)``."""

    alpha: Array
    lower: Array  # log α known to be too small
    upper: Array  # log α known to be too large
    turns: Array
    passes: Array
    floor: Array  # the log-likelihood at α = 0, where α is a trial that must exceed it; else -∞
    code: Array  # RUNNING or a status


class AlphaProfile(NamedTuple):
    """The profile log-likelihood at one α, ``(...)``."""

    slope: Array  # p'
    information: Array  # -p''
    alone: Array  # -∂²ℓ/∂t², β held fixed
    noise: Array  # what rounding leaves of a slope of zero


def fit_with_alpha(solve: Solve, config: Algorithm, data: Data) -> tuple[Outcome, Array, Array]:
    """The fits, α and the standard error of α, which takes the coefficients as known, as MASS does for θ = 1/α."""
    outcome, alpha, code, passes = _joint(solve, config, data)
    solution = outcome.solution
    fitted = (solution.status == Status.CONVERGED) & (code == Status.CONVERGED)
    profile = _profile(outcome, alpha, data, fitted)
    proven = jnp.abs(profile.slope) <= jnp.maximum(
        config.tolerance(alpha.dtype) * jnp.sqrt(jnp.maximum(profile.information, 0.0)), profile.noise
    )
    status = jnp.where(fitted & ~proven, Status.STALLED, jnp.where(code == Status.CONVERGED, solution.status, code))
    se = alpha / jnp.sqrt(jnp.where(profile.alone > 0, profile.alone, jnp.nan))
    known = fitted | ((code == Status.BOUNDARY) & (solution.status == Status.CONVERGED))
    status = status.astype(jnp.int32)
    outcome = Outcome(
        solution._replace(status=status, n_iter=passes),
        outcome.penalized,
        jnp.where(outcome.penalized, outcome.unpenalized_status, status),
    )
    return outcome, jnp.where(known, alpha, jnp.nan), jnp.where(fitted, se, jnp.nan)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _joint(solve: Solve, config: Algorithm, data: Data) -> tuple[Outcome, Array, Array, Array]:
    """The fits at α̂, α̂, how the search for it ended and the passes it took, those fits included."""
    lead = batch_shape(data)
    zero, count = jnp.zeros(lead, data.y.dtype), jnp.zeros(lead, jnp.int32)
    state = AlphaSearch(zero, zero - jnp.inf, zero + jnp.inf, count, count, zero - jnp.inf, count + RUNNING)

    def turn(state: AlphaSearch) -> tuple[AlphaSearch, Outcome, Array]:
        """The search one turn on, the fits before it, and whether it goes on: the last turn leaves the fits at α̂."""
        outcome = varying(solve(config, _at(data, state.alpha)), data)
        alpha = jnp.where(state.alpha == 0, 1.0, state.alpha)
        profile = _profile(outcome, alpha, data, outcome.solution.status == Status.CONVERGED)
        return _advance(config, state, outcome, profile, data), outcome, jnp.any(state.code == RUNNING)

    if is_concrete(data):
        searching: Array | bool = True
        while searching:
            state, outcome, searching = turn(state)
    else:
        _, none, _ = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(turn, state))
        start = varying((state, none, jnp.array(True)), data)
        state, outcome, _ = lax.while_loop(lambda carry: carry[2], lambda carry: turn(carry[0]), start)
    return outcome, state.alpha, state.code, state.passes + outcome.solution.n_iter


@_joint.defjvp
def _joint_jvp(solve: Solve, config: Algorithm, primals: tuple[Data], moved: tuple[Data]) -> tuple[Any, Any]:
    (data,) = primals
    outcome, alpha, code, passes = _joint(solve, config, data)
    found = code == Status.CONVERGED
    near = jnp.where(found, alpha, 1.0)

    def along(change: Array) -> Outcome:
        """The tangent of the fits when α changes too."""
        return tangents(outcome, _at(data, alpha), _at(*moved, change))

    def profile_slope(params: Array, data: Data) -> Array:
        at = outcome._replace(solution=outcome.solution._replace(params=params))
        rows, beta = _rows(at, near, data, found)
        return slope(partial(_log_likelihood, beta, rows), jnp.log(near))

    fixed = along(jnp.zeros_like(alpha)).solution.params
    rise = jax.jvp(profile_slope, (outcome.solution.params, data), (fixed, *moved))[1]
    information = _profile(outcome, near, data, found).information
    change = jnp.where(found, alpha * rise / jnp.where(found, information, 1.0), 0.0)
    return (outcome, alpha, code, passes), (along(change), change, no_tangent(code), no_tangent(passes))


@partial(jax.jit, static_argnums=0)
def _advance(config: Algorithm, state: AlphaSearch, outcome: Outcome, profile: AlphaProfile, data: Data) -> AlphaSearch:
    """The next α of every dataset that is still running, given its fit and the profile at the present one."""
    solution = outcome.solution
    running, fitted = state.code == RUNNING, solution.status == Status.CONVERGED
    dtype, first = state.alpha.dtype, state.alpha == 0
    excess, start, trial = _overdispersion(outcome, data, fitted)
    doubtful = first & (excess <= 0) & ~outcome.penalized
    better = solution.llf > state.floor + jnp.finfo(dtype).eps ** 0.5 * jnp.abs(state.floor)
    failed = jnp.isfinite(state.floor) & ~(fitted & better)
    at = jnp.log(jnp.where(first, 1.0, state.alpha))

    concave = profile.information > 0
    newton = profile.slope / jnp.where(concave, profile.information, 1.0)
    step = jnp.where(concave, jnp.clip(newton, -LARGEST_STEP, LARGEST_STEP), jnp.sign(profile.slope))
    rising = profile.slope > 0
    lower = jnp.where(~first & rising, at, state.lower)
    upper = jnp.where(~first & ~rising, at, state.upper)
    inside = (at + step > lower) & (at + step < upper)
    following = jnp.where(inside | ~jnp.isfinite(lower + upper), at + step, 0.5 * (lower + upper))

    aim = config.tolerance(dtype) / 64 * jnp.sqrt(jnp.maximum(profile.information, 0.0))
    done = ~first & concave & (jnp.abs(profile.slope) <= jnp.maximum(aim, profile.noise))
    turns = state.turns + 1
    code = jnp.where(turns >= MAX_TURNS, Status.MAX_ITERATIONS, RUNNING)
    code = jnp.where(done, Status.CONVERGED, code)
    code = jnp.where(first & (excess <= 0) & ~doubtful, Status.BOUNDARY, code)
    code = jnp.where(fitted, code, solution.status)
    code = jnp.where(failed, Status.BOUNDARY, code)
    begin = jnp.where(excess > 0, start, jnp.where(doubtful, trial, 0.0))
    alpha = jnp.where(first, begin, jnp.exp(jnp.where(done, at + newton, following)))
    alpha = jnp.where(failed, 0.0, alpha)
    floor = jnp.where(doubtful & fitted, solution.llf, -jnp.inf)
    after = AlphaSearch(alpha, lower, upper, turns, state.passes + solution.n_iter, floor, code.astype(jnp.int32))
    return jax.tree.map(lambda new, old: jnp.where(running, new, old), after, state)


def _overdispersion(outcome: Outcome, data: Data, fitted: Array) -> tuple[Array, Array, Array]:
    """2 ∂ℓ/∂α at α = 0; the α at which the variances match the squared residuals; and that of all relative ones."""
    rows, beta = _rows(outcome, jnp.zeros_like(fitted, data.y.dtype), data, fitted)
    mu, weight = rows.family.mean(linear(beta, rows)), rows.freq * rows.var
    excess = (weight * (jnp.square(rows.y - mu) - rows.y)).sum(-1)
    size = (weight * jnp.square(mu)).sum(-1)
    relative = jnp.where(weight > 0, weight * jnp.square(rows.y / mu - 1), 0.0).sum(-1) / weight.sum(-1)
    return excess, excess / jnp.where(size > 0, size, 1.0), jnp.where(jnp.isfinite(relative), relative, 0.0)


@jax.jit
def _profile(outcome: Outcome, alpha: Array, data: Data, fitted: Array) -> AlphaProfile:
    """The (penalized) profile log-likelihood at α, where ``outcome`` is the fit at α."""
    rows, beta = _rows(outcome, alpha, data, fitted)
    eta = linear(beta, rows)
    t = jnp.log(jnp.where(alpha > 0, alpha, 1.0))

    def scored(t: Array) -> Array:
        return score(beta, _rows_at(rows, jnp.exp(t)[..., None]))

    likelihood = partial(_log_likelihood, beta, rows)
    cross = slope(scored, t)
    alone = -slope(partial(slope, likelihood), t)
    curvature = observed_information(beta, rows)
    identity = jnp.broadcast_to(jnp.eye(beta.shape[-1], dtype=beta.dtype), curvature.shape)
    curvature = jnp.where(fitted[..., None, None], curvature, identity)
    explained = cho_solve((jnp.linalg.cholesky(curvature), True), cross[..., None])[..., 0]
    sizes = rows.freq * rows.var * (1 + rows.y + rows.family.mean(eta))
    noise = 4 * jnp.finfo(beta.dtype).eps * sizes.sum(-1)
    return AlphaProfile(slope(likelihood, t), alone - (cross * explained).sum(-1), alone, noise)


def _log_likelihood(beta: Array, rows: AlignedRows, t: Array) -> Array:
    """ℓ(β, t), without a penalty."""
    family = _rows_at(rows, jnp.exp(t)[..., None]).family
    return (rows.freq * family.log_likelihood(linear(beta, rows), rows.y, rows.var)).sum(-1)


def _rows(outcome: Outcome, alpha: Array, data: Data, fitted: Array) -> tuple[AlignedRows, Array]:
    """The rows with α in their family, and the coefficients; harmless where nothing was fitted."""
    if data.fallback is not None:
        data = data._replace(penalty=data.fallback, fallback=None)
    rows = aligned_rows(_at(data, jnp.where(fitted, alpha, 1.0)), fitted, fitted.ndim)
    rows = rows._replace(penalized=fitted & outcome.penalized)
    return rows, jnp.where(fitted[..., None], outcome.solution.params, 0.0)


def _at(data: Data, alpha: Array) -> Data:
    return data._replace(family=data.family.with_parameters(alpha=alpha))


def _rows_at(rows: AlignedRows, alpha: Array) -> AlignedRows:
    return rows._replace(family=rows.family.with_parameters(alpha=alpha))
