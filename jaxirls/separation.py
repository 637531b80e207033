r"""Separation: does a maximum-likelihood estimate exist, or do the data recede to infinity along some direction?

Every row of a dataset confines a direction of recession d through z = x'd: to z ≥ 0 (``UP``), z ≤ 0 (``DOWN``) or
z = 0 (``FLAT``), see ``row_cones``. The likelihood has no finite maximum when some d satisfies every row and moves one,
Xd ≠ 0, and for a log-concave likelihood only then (Albert & Anderson 1984, Biometrika 71, 1-10; Correia, Guimarães &
Zylkin 2019, arXiv 1903.01633). Here that is decided by one projection, and either answer comes with its proof.

**The gap.** Let Q be an orthonormal basis of the column space of X, so that directions modulo the null space of X are
vectors r with ‖Qr‖ = ‖r‖. Let aᵢ = ±qᵢ be its rows, signed so that UP and DOWN read aᵢ'r ≥ 0; K the cone of the r that
satisfy every row; and c = Σ aᵢ over the UP and DOWN rows. Every r in K has

    c'r = Σ|aᵢ'r| = ‖Qr‖₁ ≥ ‖Qr‖₂ = ‖r‖,                                                                     (1)

for the FLAT rows add nothing to either norm. With multipliers λᵢ ≥ 0 (of any sign on FLAT rows) and ρ = c + Σ λᵢ aᵢ,

    ‖r‖ ≤ c'r ≤ ρ'r ≤ ‖ρ‖ ‖r‖   for every r in K.                                                             (2)

So **‖ρ‖ < 1 for any such λ proves that K = {0}**: overlap. The shortest ρ solves a nonnegative least-squares problem,
min over λ of ‖c + Σ λᵢ aᵢ‖, and its optimality conditions are aᵢ'ρ ≥ 0 on every row and aᵢ'ρ = 0 on the FLAT ones:
ρ lies in K, and so ‖ρ‖ is 0 or, by (2) with r = ρ, at least 1. In the second case **ρ is itself the direction of
recession**. No answer lies between, whatever the units of the data: rounding would have to move ‖ρ‖ by one to pass
either answer off as the other.

**The algorithm** is the active-set method of Lawson & Hanson (1974, Solving Least Squares Problems, chapter 23), every
lane (dataset) at its own pivot. The active rows are linearly independent, so p slots hold them; a pivot
orthonormalizes the slots, O(p³), and prices all rows, O(np). FLAT rows enter likewise and never leave. ‖ρ‖ falls from
one price to the next, so that no active set recurs and nothing cycles, however degenerate the data (binary covariates
are). It takes about p pivots.

**Rounding.** Q = XM, with M computed beside it by the same column operations, so that the rounding of row i of Q is at
most a multiple of ε Σⱼₖ |xᵢⱼ||Mⱼₖ|. That is the ``slack`` within which a row counts as zero, and it is charged to ‖ρ‖
in (2), as is what Q lacks of orthogonality. The direction is at last evaluated on X itself. A lane where neither
proof stands is undecided.
"""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxirls.checks import check_arguments
from jaxirls.data import Data, batch_shape, family_ranks
from jaxirls.families import Binomial, Family, Gaussian, NegativeBinomial, Poisson, Tweedie
from jaxirls.folds import folded, total
from jaxirls.orthogonal import balanced, combine, length, orthonormalize, project
from jaxirls.rows import nonnegative
from jaxirls.trees import varying

__all__ = ["ABSENT", "DOWN", "FLAT", "UP", "Recession", "detect_separation", "recession", "row_cones", "row_ends"]

PIVOTS = 20  # at most, times p+1: ten times what random data take
UP, DOWN, FLAT, ABSENT = 1, -1, 0, 2  # x'd >= 0, x'd <= 0, x'd = 0, no constraint: a row of weight zero
TILE = 256  # datasets that detect_separation decides together: a tile of small ones stays in cache


class Recession(NamedTuple):
    """Whether data recede; batch axes in front (``detect_separation``) or lanes last (``recession``).

    Attributes:
      separated: no finite maximum-likelihood estimate exists, and ``direction`` is the evidence.
      decided: ``separated`` is proven true or proven false. Never ``separated`` without ``decided``.
      direction: d, its largest entry ±1; zero where not separated.
    """

    separated: Array
    decided: Array
    direction: Array


def detect_separation(
    X: ArrayLike,
    y: ArrayLike,
    family: Family,
    *,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
) -> Recession:
    """Decide, without fitting, whether the maximum-likelihood estimate exists, for one dataset or a batch.

    Finds d with x'd in the cone of every row (``row_cones``) and Xd ≠ 0, or proves that there is none. Collinear
    columns of X are no separation. Families and links whose likelihood has no cones are never separated.

    Args:
      X: design, ``(..., n, p)``.
      y: response, ``(..., n)``; leading axes broadcast against those of X.
      family: ``ji.Binomial()``, ``ji.Poisson()``, ..., with their links.
      freq_weights: ``(..., n)``; rows of weight zero are absent, whatever they hold.
      var_weights: likewise.

    Returns:
      ``Recession`` with ``separated (...)``, ``decided (...)`` and ``direction (..., p)``. A dataset that ``ji.fit``
      calls INVALID_DATA (not finite, not in the family's support, of a negative weight) is undecided.

    Raises:
      ValueError: for shapes or types that cannot be right.

    Source: Albert & Anderson (1984), Biometrika 71, 1-10; the procedure is derived at the top of this module.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.stack([jnp.ones(4), jnp.arange(4.0)], axis=-1)
      >>> y = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
      >>> print(ji.detect_separation(X, y, ji.Binomial()).separated)
      [ True False]
    """
    checked = check_arguments(X, y, family, None, freq_weights, var_weights, unique=False)
    data: Data = jax.tree.map(jnp.asarray, checked)
    n, p = data.X.shape[-2:]
    shape = (*batch_shape(data), n)

    def by_row(leaf: Array, rank: int = 1) -> Array:
        return jnp.broadcast_to(leaf if rank else leaf[..., None], shape)

    family = jax.tree.map(by_row, data.family, family_ranks(data.family))
    response = by_row(data.y)
    rows = family.valid_response(response) & by_row(jnp.isfinite(data.X).all(-1))
    weights = [by_row(given) for given in (data.freq_weights, data.var_weights) if given is not None]
    present = reduce(jnp.logical_and, (weight != 0 for weight in weights), jnp.ones(shape, bool))
    valid = reduce(jnp.logical_and, map(nonnegative, weights), rows | ~present).all(-1)
    cone = row_cones(family, response)
    if cone is None:
        return Recession(jnp.zeros_like(valid), valid, jnp.zeros((*valid.shape, p), response.dtype))
    return _tiled(data.X, jnp.where(present, cone, ABSENT), valid)


def row_cones(family: Family, y: Array) -> Array | None:
    """The cone of every row, ``UP``, ``DOWN`` or ``FLAT`` in the shape of ``y``; None if the family and link have none.

    A row allows z = x'd when its log-likelihood does not fall along η + tz as t → ∞, inside the domain. It rises
    towards a mean nearer to y, and on to an end of the link's image that y has reached:

    - links onto (0, 1) (logit, probit, cauchit, cloglog, loglog): y = 0: z ≤ 0; y = 1, or ``trials``: z ≥ 0;
      else z = 0;
    - log link, and the negative binomial's: y = 0: z ≤ 0; else z = 0;
    - complementary log link: y = 1, or ``trials``: z ≤ 0; else z = 0.

    A Gaussian response may lie beyond the end; its likelihood is not concave, and where no direction recedes a maximum
    is none the less local. A Gamma or inverse Gaussian response is never zero.

    Source: Correia, Guimarães & Zylkin (2019), arXiv 1903.01633, proposition 1.
    """
    found = row_ends(family, y)
    return None if found is None else jnp.where(found[0], DOWN, jnp.where(found[1], UP, FLAT)).astype(jnp.int8)


def row_ends(family: Family, y: Array) -> tuple[Array, Array] | None:
    """Which rows are ``DOWN`` and which ``UP``, as ``row_cones`` says, or None."""
    (low, high), (least, most) = family.link.domain, family.link.image
    open_ended = low is None and (least, most) != (None, None)
    if not (open_ended and isinstance(family, (Binomial, Gaussian, NegativeBinomial, Poisson, Tweedie))):
        return None
    trials = family.trials if isinstance(family, Binomial) and family.trials is not None else 1.0
    neither = jnp.zeros_like(y, dtype=bool)
    full = neither if most is None else y >= most * trials
    if least is None:
        return full, neither
    return y <= least, full if high is None else neither


def recession(X: Array, cone: Array) -> Recession:
    """Decide every lane: a direction of recession, or the proof that there is none.

    Args:
      X: designs ``(n, p, T)``, lanes last.
      cone: ``UP``, ``DOWN``, ``FLAT`` or ``ABSENT`` for every row, ``(n, T)``.

    Returns:
      ``Recession`` with shapes ``(T,)``, ``(T,)`` and ``(p, T)``. No lane depends on another.
    """
    n, p, _ = X.shape
    present, flat = cone != ABSENT, cone == FLAT
    moving = present & ~flat
    X = jnp.where(present[:, None], X, 0.0)
    X, unit = balanced(X)
    sign = jnp.where(cone == DOWN, -1.0, 1.0).astype(X.dtype)
    Q, _, M = orthonormalize(X)
    problem = _problem(X, Q, M, sign, flat, moving)

    def running(state: _State) -> Array:
        return jnp.any(state.verdict == PIVOTING) & (state.n_iter < PIVOTS * (p + 1))

    state = lax.while_loop(running, lambda state: _pivot(problem, state), varying(_start(problem, p), problem))

    norm = length(state.residual)
    d = combine(M, state.residual)
    # An entry that could be rounding is a coefficient that does not recede.
    d = jnp.where(jnp.abs(d) <= _rounding(X) * _reach(M) * norm[None], 0.0, d)
    z = sign * combine(X, d)
    tolerance = problem.slack * norm[None]
    held = jnp.where(flat, jnp.abs(z) <= tolerance, z >= -tolerance) | ~present
    holds = folded(jnp.logical_and, lambda i: held[i], n)
    largest = folded(jnp.maximum, lambda i: jnp.where(moving[i], z[i], 0.0), n)
    # ‖Qr‖ = ‖r‖ ≥ 1 moves some row by ‖r‖/√n at least: half of either leaves room for rounding and none for doubt.
    moves = (norm > 0.5) & (largest > norm / (2 * math.sqrt(n)))
    separated = lax.optimization_barrier((state.verdict == CONE) & holds & moves)
    direction = normalized(jnp.where(separated[None], d / unit, 0.0))
    return Recession(separated, separated | (state.verdict == OVERLAP), direction)


def normalized(d: Array) -> Array:
    """``d (p, T)`` with its largest entry ±1, exactly; zero stays zero."""
    size = jnp.abs(d)
    largest = size.max(0)
    # Compiled, a quotient may be a product with the reciprocal, and of the largest by itself not quite 1.
    return jnp.where(size == largest[None], jnp.sign(d), d / jnp.where(largest > 0, largest, 1.0)[None])


def recedes_along(X: Array, cone: Array, d: Array) -> Array:
    """Whether every row that ``d (p, T)`` touches moves inside its cone, by more than rounding, and one does; ``(T,)``.

    Then d is a direction of recession. Takes ``X (n, p, T)`` and ``cone (n, T)`` as ``recession`` does.
    """
    n, p, _ = X.shape
    rounding, reach = _rounding(X), jnp.abs(d)

    def margin(i: int | Array) -> Array:
        z = total(lambda k: X[i, k] * d[k], p)
        size = total(lambda k: jnp.abs(X[i, k]) * reach[k], p)
        inside = jnp.where(cone[i] == FLAT, -jnp.inf, jnp.where(cone[i] == DOWN, -z, z) - rounding * size)
        return jnp.where((cone[i] == ABSENT) | (size == 0), jnp.inf, inside)

    least = folded(jnp.minimum, margin, n)
    return (least > 0) & jnp.isfinite(least)


PIVOTING, CONE, OVERLAP, STUCK = 0, 1, 2, 3


class _Problem(NamedTuple):
    """The cone of every lane, in the coordinates of Q; constant over the pivots."""

    rows: Array  # (n, p, T), aᵢ/‖aᵢ‖
    tilt: Array  # (n, T), the rounding of a unit row
    slack: Array  # (n, T), the rounding of the row itself
    flat: Array  # (n, T)
    objective: Array  # (p, T), c
    rounding: Array  # (T,), of c
    steepest: Array  # (T,), the largest tilt


class _State(NamedTuple):
    """The active set of every lane, a row a slot, and where it stands."""

    basis: Array  # (p, slots, T), the active rows; zero in empty slots
    row: Array  # (slots, T), their numbers; -1 for an empty slot
    free: Array  # (slots, T), a FLAT row, its multiplier of any sign
    multiplier: Array  # (slots, T), λ
    residual: Array  # (p, T), ρ at the last price
    verdict: Array  # (T,)
    n_iter: Array  # ()


def _rounding(X: Array) -> float:
    """The relative rounding of the entries of Q and M; half of it leaves 1 in 1000 tied integer datasets undecided."""
    return 4 * X.shape[1] * float(jnp.finfo(X.dtype).eps)


def _reach(M: Array) -> Array:
    """A bound of the entries of Mr for ‖r‖ = 1, ``(p, T)``."""
    return total(lambda k: jnp.abs(M[:, k]), M.shape[1])


def _problem(X: Array, Q: Array, M: Array, sign: Array, flat: Array, moving: Array) -> _Problem:
    slack = _rounding(X) * combine(jnp.abs(X), _reach(M))
    size = jnp.sqrt(total(lambda k: jnp.square(Q[:, k]), Q.shape[1]))
    inverse = 1 / jnp.where(size > 0, size, 1.0)
    tilt = slack * inverse
    return _Problem(
        rows=Q * (sign * inverse)[:, None],
        tilt=tilt,
        slack=slack,
        flat=flat,
        objective=project(Q, jnp.where(moving, sign, 0.0)),
        rounding=total(lambda i: slack[i], slack.shape[0]),
        steepest=folded(jnp.maximum, lambda i: tilt[i], tilt.shape[0]),
    )


def _start(problem: _Problem, p: int) -> _State:
    c = problem.objective
    lanes = c.shape[1]
    return _State(
        basis=jnp.zeros((p, p, lanes), c.dtype),
        row=jnp.full((p, lanes), -1, jnp.int32),
        free=jnp.zeros((p, lanes), bool),
        multiplier=jnp.zeros((p, lanes), c.dtype),
        residual=jnp.full((p, lanes), jnp.inf, c.dtype),
        verdict=jnp.full((lanes,), PIVOTING, jnp.int32),
        n_iter=jnp.zeros((), jnp.int32),
    )


def _pivot(problem: _Problem, state: _State) -> _State:
    """Least squares on the active rows; drop those that block the way there, or price all rows and admit the worst."""
    p = state.basis.shape[0]
    U, _, W = orthonormalize(state.basis)
    first = project(U, problem.objective)
    rho = problem.objective - combine(U, first)
    second = project(U, rho)  # once more, for a residual orthogonal to working accuracy
    rho = rho - combine(U, second)
    target = -combine(W, first + second)
    norm = length(rho)

    # The step from λ to its target ends where the first multiplier reaches zero.
    blocking = (state.row >= 0) & ~state.free & (target <= 0)
    ratio = jnp.where(blocking, state.multiplier / jnp.where(blocking, state.multiplier - target, 1.0), jnp.inf)
    step = jnp.min(ratio, axis=0)
    blocked = step < jnp.inf
    dropped = blocking & (ratio <= step[None])
    shortened = state.multiplier + jnp.where(blocked, step, 0.0)[None] * (target - state.multiplier)

    def violation(i: int | Array) -> tuple[Array, Array]:
        value = total(lambda k: problem.rows[i, k] * rho[k], p)
        size = jnp.where(problem.flat[i], jnp.abs(value), -value) - problem.tilt[i] * norm
        return size, jnp.full(size.shape, i, jnp.int32)

    def worse(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.tree.map(partial(jnp.where, b[0] > a[0]), b, a)

    largest, worst = folded(worse, violation, problem.rows.shape[0])
    error = 2 * problem.rounding + problem.steepest * total(lambda k: jnp.abs(target[k]), p)
    # Rounding alone can refuse a row that has just entered, or let ‖ρ‖ rise: then no proof is near.
    falls = norm < length(state.residual)
    priced = jnp.where(
        norm + error < 1 - _rounding(state.basis),
        OVERLAP,
        jnp.where(largest <= 0, CONE, jnp.where(falls & (largest > 0), PIVOTING, STUCK)),
    )
    verdict = jnp.where(blocked, jnp.where(step > 0, PIVOTING, STUCK), priced)

    # The barrier keeps XLA from computing all of this again for every part of the state.
    target, shortened, dropped, blocked, verdict = lax.optimization_barrier(
        (target, shortened, dropped, blocked, verdict)
    )
    entering = jnp.take_along_axis(problem.rows, worst[None, None], axis=0)[0]
    entering_free = jnp.take_along_axis(problem.flat, worst[None], axis=0)
    slot = jnp.argmax(state.row < 0, axis=0)
    enters = (jnp.arange(p)[:, None] == slot[None]) & (~blocked & (verdict == PIVOTING))[None]
    kept = jnp.where(dropped[None], 0.0, state.basis)
    after = _State(
        basis=jnp.where(enters[None], entering[:, None], kept),
        row=jnp.where(enters, worst[None], jnp.where(dropped, -1, state.row)),
        free=jnp.where(enters, entering_free, state.free & ~dropped),
        multiplier=jnp.where(enters | dropped, 0.0, jnp.where(blocked[None], shortened, target)),
        residual=jnp.where(blocked[None], state.residual, rho),
        verdict=verdict,
        n_iter=state.n_iter,
    )

    active = state.verdict == PIVOTING

    def frozen(new: Array, old: Array) -> Array:
        return jnp.where(active.reshape((1,) * (new.ndim - 1) + active.shape), new, old)

    moved = jax.tree.map(frozen, after._replace(n_iter=active), state._replace(n_iter=active))
    return moved._replace(n_iter=state.n_iter + 1)


@jax.jit
def _tiled(X: Array, cone: Array, valid: Array) -> Recession:
    """``recession`` of designs ``(..., n, p)`` with cones ``(..., n)``, tile by tile, where ``valid (...)``."""
    n, p = X.shape[-2:]
    lead, size = valid.shape, valid.size
    shared = math.prod(X.shape[:-2]) == 1
    X = X.reshape(1, n, p) if shared else jnp.broadcast_to(X, (*lead, n, p)).reshape(size, n, p)
    cone = cone.reshape(size, n)
    tile = min(TILE, size)
    # The last tile begins early enough to be full.
    starts = jnp.minimum(jnp.arange(0, size, tile), size - tile)

    def decide(start: Array) -> Recession:
        designs = jnp.broadcast_to(X, (tile, n, p)) if shared else lax.dynamic_slice_in_dim(X, start, tile)
        found = recession(jnp.moveaxis(designs, 0, -1), lax.dynamic_slice_in_dim(cone, start, tile).T)
        return found._replace(direction=found.direction.T)

    tiles = lax.map(decide, starts)
    which = jnp.arange(size) // tile
    inside = jnp.arange(size) - starts[which]
    found = jax.tree.map(lambda leaf: leaf[which, inside].reshape(*lead, *leaf.shape[2:]), tiles)
    return Recession(
        separated=found.separated & valid,
        decided=found.decided & valid,
        direction=jnp.where(valid[..., None], found.direction, 0.0),
    )
