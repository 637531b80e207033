"""Separation against the linear program, known cases, and the isolation of lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxirls as ji
from jaxirls import links
from jaxirls.separation import ABSENT, DOWN, FLAT, UP, detect_separation, recedes_along, recession, row_cones

N, DATASETS = 60, 250  # the most rows, and random datasets for each number of columns
BINARY_LINKS = [links.Logit(), links.Probit(), links.Cauchy(), links.CLogLog(), links.LogLog()]
DTYPES = ["float64", "float32"]

decide = jax.jit(recession)


def recedes(X, cone):
    """The linear program: maximize Σ ±xᵢ'd over the cone and the box [-1, 1]ᵖ; a positive optimum is a recession."""
    signed = np.where(cone == DOWN, -1.0, 1.0)[:, None] * X
    moving, flat = signed[(cone == UP) | (cone == DOWN)], X[cone == FLAT]
    if not len(moving):
        return False
    found = linprog(
        -moving.sum(axis=0),
        A_ub=-moving,
        b_ub=np.zeros(len(moving)),
        A_eq=flat if len(flat) else None,
        b_eq=np.zeros(len(flat)) if len(flat) else None,
        bounds=(-1, 1),
        method="highs",
    )
    assert found.status == 0
    return -found.fun > 1e-6


def covariates(rng, n, p, kind):
    draws = [rng.standard_normal((n, p)), rng.random((n, p)) < 0.5, rng.random((n, p)) < 0.1]
    if kind == "mixed":
        return np.choose(rng.integers(3, size=p)[None], [d.astype(float) for d in draws])
    return draws[["continuous", "binary", "rare"].index(kind)].astype(float)


def random_dataset(rng, p, poisson):
    """X ``(N, p)``, y ``(N,)`` and weights that are zero from a random number of rows on."""
    n = rng.integers(8, N + 1)
    X = covariates(rng, N, p, rng.choice(["continuous", "binary", "rare", "mixed"]))
    if rng.random() < 0.5:
        X[:, 0] = 1
    if rng.random() < 0.1:
        X[:, -1] = X[:, 0] - X[:, p // 2]
    eta = X @ (rng.standard_normal(p) * rng.choice([0.3, 1, 2, 4]))
    if poisson:
        y = rng.poisson(np.exp(np.clip(eta - rng.integers(5), -30, 3)))
    else:
        y = rng.random(N) < 1 / (1 + np.exp(-eta))
    return X, y.astype(float), (np.arange(N) < n).astype(float)


def random_batch(seed, p, poisson, size=DATASETS):
    rng = np.random.default_rng(seed)
    X, y, weights = map(np.stack, zip(*(random_dataset(rng, p, poisson) for _ in range(size)), strict=True))
    cone = np.where(y == 0, DOWN, FLAT if poisson else UP)
    return X, y, weights, np.where(weights > 0, cone, ABSENT)


def holds(X, cone, d, tolerance):
    """Whether d is a recession: every row within a tolerance of its own size, and one that moves."""
    z, size = X @ d, np.linalg.norm(X, axis=1) * np.linalg.norm(d)
    signed = np.where(cone == DOWN, -z, z)
    rows = np.where(cone == FLAT, np.abs(z) <= tolerance * size, signed >= -tolerance * size) | (cone == ABSENT)
    moves = ((cone == UP) | (cone == DOWN)) & (signed > 1e-3 * size)
    return rows.all() and moves.any()


@pytest.mark.parametrize("p", [2, 4, 6])
def test_agrees_with_the_linear_program(p):
    X, cone = (
        np.concatenate(a) for a in zip(*(random_batch(p, p, poisson)[::3] for poisson in (False, True)), strict=True)
    )
    truth = np.array([recedes(*dataset) for dataset in zip(X, cone, strict=True)])
    assert 0.1 < truth.mean() < 0.9
    for dtype in DTYPES:
        found = decide(jnp.asarray(np.moveaxis(X, 0, -1), dtype), jnp.asarray(cone.T))
        assert found.direction.dtype == dtype
        decided, separated, direction = (
            np.asarray(found.decided),
            np.asarray(found.separated),
            np.asarray(found.direction),
        )
        assert decided.mean() >= (1 if dtype == "float64" else 0.995)
        np.testing.assert_array_equal(separated[decided], truth[decided])
        np.testing.assert_array_equal(np.abs(direction).max(axis=0), separated)
        for i in np.flatnonzero(separated):
            assert holds(X[i], cone[i], direction[:, i].astype(float), 1e4 * float(jnp.finfo(dtype).eps))


def lanes(X, cone):
    """``recession`` of a single lane."""
    found = decide(jnp.asarray(X[..., None]), jnp.asarray(cone[..., None]))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., 0], found)


LINE = np.stack([np.ones(6), np.arange(6.0)], axis=1)
COPIES = np.concatenate([LINE, LINE[:, :1] - 2 * LINE[:, 1:], np.zeros((6, 1))], axis=1)
GROUPS = np.stack([np.ones(8), np.repeat([0.0, 1.0], 4)], axis=1)
GRID = np.stack([np.ones(9), *np.mgrid[-1:2, -1:2].reshape(2, 9)], axis=1)

KNOWN = {
    "complete": (LINE, [0, 0, 0, 1, 1, 1], True),
    "overlap": (LINE, [0, 0, 1, 0, 1, 1], False),
    "overlap in one pair": (LINE, [0, 1, 0, 0, 0, 1], False),
    "all ones": (LINE, [1, 1, 1, 1, 1, 1], True),
    "all zeros": (LINE, [0, 0, 0, 0, 0, 0], True),
    "intercept only": (LINE[:, :1], [0, 1, 0, 1, 1, 1], False),
    "intercept only, all ones": (LINE[:, :1], [1, 1, 1, 1, 1, 1], True),
    "quasi: a tie on the threshold": (np.stack([np.ones(6), [0, 1, 2, 2, 3, 4]], 1), [0, 0, 0, 1, 1, 1], True),
    "quasi: one group without failures": (GROUPS, [0, 1, 0, 1, 1, 1, 1, 1], True),
    "both groups mixed": (GROUPS, [0, 1, 0, 1, 1, 1, 0, 1], False),
    "quasi: one row moves": (np.concatenate([GROUPS[:, :1], np.eye(8)[:, 7:]], 1), [0, 1, 0, 1, 0, 1, 0, 1], True),
    "rank deficient, overlap": (COPIES, [0, 0, 1, 0, 1, 1], False),
    "rank deficient, complete": (COPIES, [0, 0, 0, 1, 1, 1], True),
    "proportions fix their rows": (LINE, [0, 0, 0.5, 0.5, 1, 1], False),
    "proportion on the threshold": (LINE, [0, 0, 0.5, 1, 1, 1], True),
    "no information": (np.zeros((6, 2)), [0, 1, 0, 1, 0, 1], False),
    "more columns than rows": (GRID[:2], [0, 1], True),
    "exclusive or": (GRID, [1, 1, 0, 1, 0, 0, 0, 0, 1], False),
    "quasi: a middle line of ties": (GRID, [0, 0, 0, 1, 0, 1, 1, 1, 1], True),
    "two sides out of order": (GRID, [0, 1, 0, 0, 1, 1, 1, 0, 1], False),
    "quasi: ties along a line": (GRID, [0, 0, 0, 0, 1, 0, 1, 1, 1], True),
}


@pytest.fixture(scope="module", params=DTYPES)
def known(request):
    """The decision of every known case, from one call: missing rows absent, missing columns zero."""
    n, p = (max(X.shape[axis] for X, _, _ in KNOWN.values()) for axis in (0, 1))
    X, cone = np.zeros((n, p, len(KNOWN)), request.param), np.full((n, len(KNOWN)), ABSENT)
    for lane, (design, y, _) in enumerate(KNOWN.values()):
        rows, columns = design.shape
        X[:rows, :columns, lane] = design
        cone[:rows, lane] = row_cones(ji.Binomial(), jnp.asarray(y, request.param))
    found = jax.tree.map(np.asarray, decide(jnp.asarray(X), jnp.asarray(cone)))
    return {name: (X[..., lane], cone[:, lane], [a[..., lane] for a in found]) for lane, name in enumerate(KNOWN)}


@pytest.mark.parametrize("name", KNOWN)
def test_known_cases(name, known):
    expected = KNOWN[name][-1]
    X, cone, (separated, decided, direction) = known[name]
    assert recedes(X.astype(float), cone) == expected
    assert decided
    assert separated == expected
    assert not expected or holds(X, cone, direction, 32 * np.finfo(X.dtype).eps)
    assert expected or not direction.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poisson", [False, True])
def test_quasi_separation_by_a_single_row(poisson, dtype):
    # All rows but one lie in the hyperplane x'd = 0 of an integer d; their labels are arbitrary.
    rng = np.random.default_rng(5)
    n, p, size = 40, 5, 100
    d = rng.integers(-2, 3, (size, p))
    d[:, 0] = 1
    X = rng.integers(-2, 3, (size, n, p))
    X[..., 0] -= (X @ d[..., None])[..., 0]
    cone = rng.choice([DOWN, FLAT if poisson else UP], (size, n))
    X[:, -1, 0] -= rng.integers(1, 3, size)
    cone[:, -1] = DOWN
    found = decide(jnp.asarray(np.moveaxis(X, 0, -1), dtype), jnp.asarray(cone.T))
    assert np.all(found.separated)


def test_endometrial_like():
    # A binary covariate that never occurs without the event, beside two overlapping ones: d = ±e of that covariate.
    rng = np.random.default_rng(8)
    X = np.stack([np.ones(79), np.arange(79) < 13, rng.integers(0, 50, 79), rng.uniform(0.3, 3.6, 79)], axis=1)
    y = np.where(X[:, 1] == 1, 1.0, rng.random(79) < 1 / (1 + np.exp(2 * X[:, 3] - 3)))
    found = detect_separation(X, y, ji.Binomial())
    assert found.separated
    np.testing.assert_array_equal(found.direction, [0, 1, 0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extreme", [False, True])
def test_scale_free(dtype, extreme):
    # The units of the columns and the sizes of the rows change no decision.
    rng = np.random.default_rng(11)
    X, cone = np.moveaxis(rng.integers(-3, 4, (200, 20, 4)), 0, -1), rng.choice([UP, DOWN], (20, 200))
    limits = np.finfo(dtype)
    small, large = (8 * limits.tiny, limits.max / 8) if extreme else (1e-18, 3e15)
    units = np.array([small, 1.0, large, 7e-3])[None, :, None]
    plain = decide(jnp.asarray(X, dtype), jnp.asarray(cone))
    columns = decide(jnp.asarray(X * units, dtype), jnp.asarray(cone))
    rows = decide(jnp.asarray(X * 2.0 ** rng.integers(-6, 7, (20, 1, 200)), dtype), jnp.asarray(cone))
    assert np.all(plain.decided)
    assert 0 < np.mean(plain.separated) < 1
    for other in (columns, rows):
        np.testing.assert_array_equal(plain.separated, other.separated)
        np.testing.assert_array_equal(plain.decided, other.decided)
        np.testing.assert_array_equal(np.abs(other.direction).max(0), np.where(other.separated, 1.0, 0.0))


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("separated", [False, True])
def test_narrow_gap(gap, separated):
    # Two far points fix the side of d, and many at ± the gap fix its direction: 1e-8 is below the linear program's own
    # tolerance.
    rng = np.random.default_rng(3)
    d = rng.standard_normal(4)
    d /= np.sqrt(d @ d)
    on = rng.standard_normal((50, 4))
    on -= np.outer(on @ d, d)
    shift = (gap if separated else -gap) * d
    X = np.concatenate([on + shift, on - shift, d[None], -d[None]])
    found = lanes(X, np.array([UP] * 50 + [DOWN] * 50 + [UP, DOWN]))
    assert found.decided
    assert found.separated == separated


def test_many_columns():
    rng = np.random.default_rng(2)
    n, p = 1000, 20
    X = np.stack([covariates(rng, n, p, "mixed") for _ in range(8)])
    X[:, :, 0] = 1
    beta = np.array([1.0, 1, 1, 1, 30, 30, 30, 1e6])[:, None] * rng.standard_normal((8, p))
    y = rng.random((8, n)) < 1 / (1 + np.exp(-np.clip((X @ beta[..., None])[..., 0], -50, 50)))
    truth = [recedes(x, np.where(r, UP, DOWN)) for x, r in zip(X, y, strict=True)]
    found = detect_separation(X, y, ji.Binomial())
    assert np.all(found.decided)
    assert sorted(set(truth)) == [False, True]
    np.testing.assert_array_equal(found.separated, truth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lane_does_not_touch_its_neighbours(dtype):
    X, _, _, cone = random_batch(1, 4, False, size=96)
    X, cone = np.moveaxis(X, 0, -1).astype(dtype), cone.T
    alone = decide(jnp.asarray(X), jnp.asarray(cone))
    broken = X.copy()
    broken[3, 1, ::10], broken[:, :, 5::10], broken[2, 2, 7::10] = np.nan, 0, np.inf
    healthy = ~np.isin(np.arange(96) % 10, [0, 5, 7])
    beside = decide(jnp.asarray(broken), jnp.asarray(cone))
    for a, b in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[..., healthy], np.asarray(b)[..., healthy])
    assert not np.any(beside.decided[np.arange(96) % 10 == 0])
    assert not np.any(beside.decided[np.arange(96) % 10 == 7])
    order = np.random.default_rng(0).permutation(96)
    for part in (order, order[:7]):
        some = decide(jnp.asarray(X[..., part]), jnp.asarray(cone[:, part]))
        for a, b in zip(alone, some, strict=True):
            np.testing.assert_array_equal(np.asarray(a)[..., part], b)


@pytest.mark.parametrize(
    ("x", "cone", "d", "expected"),
    [
        ([-2, -1, 1, 3], [DOWN, DOWN, UP, UP], [0, 1], True),
        ([-2, -1, 1, 3], [DOWN, DOWN, UP, UP], [0.9, 2], True),
        ([-2, -1, 1, 3], [DOWN, UP, DOWN, UP], [0, 1], False),
        ([-2, 0, 1, 3], [DOWN, DOWN, UP, UP], [0, 1], True),  # one is not touched
        ([-2, 0, 1, 3], [DOWN, FLAT, UP, UP], [0, 1], True),
        ([0, 0, 0, 0], [DOWN, DOWN, UP, UP], [0, 1], False),
        ([-2, -1, 1, 3], [DOWN, DOWN, UP, UP], [1, 1], False),  # one is touched and stands still: no proof
        ([-2, -1, 1, 3], [DOWN, FLAT, UP, UP], [0, 1], False),
        ([-2, np.nan, 1, 3], [DOWN, ABSENT, UP, UP], [0, 1], True),
        ([-2, -1, 1, 3], [ABSENT] * 4, [0, 1], False),
        ([-2, -1, 1, 3], [DOWN, DOWN, UP, UP], [0, np.inf], False),
        ([-2, -1, 1, 3], [DOWN, DOWN, UP, UP], [np.nan, 1], False),
        ([1e8 - 2, 1e8 - 1, 1e8 + 1, 1e8 + 3], [DOWN, DOWN, UP, UP], [-1e8, 1], True),
        ([1e8 - 2, 1e8 - 1, 1e8 + 1, 1e8 + 3e-8], [DOWN, DOWN, UP, UP], [-1e8, 1], False),  # two roundings away
    ],
)
def test_a_direction_is_a_proof_where_it_moves_what_it_touches_by_more_than_rounding(x, cone, d, expected):
    X = jnp.asarray(np.stack([np.ones(4), x], -1)[..., None])
    assert bool(recedes_along(X, jnp.asarray(cone)[:, None], jnp.asarray(d, float)[:, None])[0]) == expected


def test_a_fit_that_separates_its_own_data_is_not_finished_anew(monkeypatch):
    """Lanes whose β is a direction of recession are told with the first passes."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(64, 12, 2))
    y = (X[..., 0] > 0.8 * X[..., 1]).astype(float)
    X[..., 0] += np.where(y == 1, 0.5, -0.5)  # a margin
    monkeypatch.setattr("jaxirls.engine.on_cores._second_chunk", None)
    fit = ji.fit(X, y, ji.Binomial())
    assert (fit.status == ji.Status.SEPARATED).all()
    np.testing.assert_array_equal(np.abs(fit.direction).max(-1), 1)
    assert ((2 * y - 1) * np.einsum("bnp,bp->bn", X, fit.direction) > 0).all()


def test_a_column_that_separates_the_data_alone_is_seen_without_finishing_anew(monkeypatch):
    rng = np.random.default_rng(4)
    X = np.stack([np.ones((64, 60)), 1e3 * rng.normal(size=(64, 60)), rng.integers(0, 2, size=(64, 60))], -1)
    y = np.where(X[..., 2] == 1, 1.0, rng.integers(0, 2, size=(64, 60)))
    monkeypatch.setattr("jaxirls.engine.on_cores._second_chunk", None)
    fit = ji.fit(X, y, ji.Binomial())
    assert (fit.status == ji.Status.SEPARATED).all()
    np.testing.assert_array_equal(fit.direction, np.tile([0, 0, 1], (64, 1)))


def test_too_few_pivots_leave_lanes_undecided(monkeypatch):
    X, _, _, cone = random_batch(4, 6, False, size=50)
    X, cone = jnp.asarray(np.moveaxis(X, 0, -1)), jnp.asarray(cone.T)
    full = decide(X, cone)
    monkeypatch.setattr("jaxirls.separation.PIVOTS", 1)
    short = jax.jit(lambda X, cone: recession(X, cone))(X, cone)
    assert np.all(full.decided)
    assert 0 < np.mean(short.decided) < 1
    np.testing.assert_array_equal(short.separated, np.asarray(full.separated & short.decided))


def test_absent_rows_may_hold_anything():
    X, y, expected = KNOWN["overlap"]
    X = np.concatenate([X, np.full((2, 2), np.nan)])
    y = np.array([*y, np.nan, 7.0])
    weights = np.array([1.0] * 6 + [0, 0])
    for name in ("freq_weights", "var_weights"):
        found = detect_separation(X, y, ji.Binomial(), **{name: weights})
        assert found.decided
        assert found.separated == expected
    assert not detect_separation(X, y, ji.Binomial()).decided
    # Without its fourth row the response is monotone.
    weights[3] = 0
    assert detect_separation(X, y, ji.Binomial(), freq_weights=weights).separated


@pytest.mark.parametrize("bad", [np.nan, 2.0, -1.0])
def test_invalid_responses_are_undecided(bad):
    found = detect_separation(LINE, np.array([[0, 0, 0, 1, 1, bad], [0, 0, 0, 1, 1, 1.0]]), ji.Binomial())
    np.testing.assert_array_equal(found.decided, [False, True])
    np.testing.assert_array_equal(found.separated, [False, True])
    np.testing.assert_array_equal(found.direction[0], 0)


def test_batch_axes_broadcast():
    rng = np.random.default_rng(0)
    X = rng.integers(-2, 3, (3, 1, 15, 3)).astype(float)
    y = rng.integers(0, 2, (4, 15)).astype(float)
    found = detect_separation(X, y, ji.Binomial())
    assert found.separated.shape == found.decided.shape == (3, 4)
    assert found.direction.shape == (3, 4, 3)
    shared = detect_separation(X[1, 0], y, ji.Binomial())
    mapped = jax.vmap(lambda r: detect_separation(X[1, 0], r, ji.Binomial()))(jnp.asarray(y))
    for a, b, c in zip(found, shared, mapped, strict=True):
        np.testing.assert_array_equal(a[1], b)
        np.testing.assert_array_equal(b, c)


def test_more_datasets_than_a_tile():
    X, y, weights, _ = random_batch(6, 3, False, size=300)
    whole = detect_separation(X, y, ji.Binomial(), freq_weights=weights)
    parts = [
        detect_separation(X[i : i + 50], y[i : i + 50], ji.Binomial(), freq_weights=weights[i : i + 50])
        for i in (0, 250)
    ]
    for a, first, last in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(a[:50], first)
        np.testing.assert_array_equal(a[250:], last)


@pytest.mark.parametrize("link", BINARY_LINKS, ids=lambda link: type(link).__name__)
def test_cones_of_binary_links(link):
    y = jnp.array([0.0, 1.0, 0.3])
    np.testing.assert_array_equal(row_cones(ji.Binomial(link=link), y), [DOWN, UP, FLAT])
    counts = row_cones(ji.Binomial(trials=jnp.array([5.0, 5.0, 1.0, 3.0]), link=link), jnp.array([0.0, 5.0, 1.0, 1.0]))
    np.testing.assert_array_equal(counts, [DOWN, UP, UP, FLAT])


def test_cones_of_log_links():
    y = jnp.array([0.0, 1.0, 0.3])
    np.testing.assert_array_equal(row_cones(ji.Binomial(link=links.Log()), y), [DOWN, FLAT, FLAT])
    np.testing.assert_array_equal(row_cones(ji.Binomial(link=links.LogC()), y), [FLAT, DOWN, FLAT])
    counting = [ji.Poisson(), ji.NegativeBinomial(alpha=1.0), ji.Tweedie(power=1.5)]
    counting.append(ji.NegativeBinomial(alpha=1.0, link=links.NegativeBinomial(1.0)))
    for family in counting:
        np.testing.assert_array_equal(row_cones(family, jnp.array([0.0, 2.0])), [DOWN, FLAT])


def test_cones_of_responses_beyond_the_ends_of_the_link():
    y = jnp.array([-1.0, 0.0, 0.3, 1.0, 2.0])
    np.testing.assert_array_equal(row_cones(ji.Gaussian(link=links.Log()), y), [DOWN, DOWN, FLAT, FLAT, FLAT])
    np.testing.assert_array_equal(row_cones(ji.Gaussian(link=links.CLogLog()), y), [DOWN, DOWN, FLAT, UP, UP])
    counts = row_cones(ji.NegativeBinomial(alpha=1.0, link=links.CLogLog()), y[1:])
    np.testing.assert_array_equal(counts, [DOWN, FLAT, UP, UP])


@pytest.mark.parametrize(
    "family",
    [
        ji.Gaussian(),
        ji.Gaussian(link=links.InversePower()),
        ji.Gamma(link=links.Log()),
        ji.InverseGaussian(),
        ji.Poisson(link=links.Identity()),
        ji.Poisson(link=links.Sqrt()),
        ji.Binomial(link=links.Identity()),
    ],
    ids=lambda family: f"{type(family).__name__}-{type(family.link).__name__}",
)
def test_families_without_cones(family):
    assert row_cones(family, jnp.ones(3)) is None
    found = detect_separation(LINE, np.ones(6), family)
    assert found.decided
    assert not found.separated


def test_parameters_of_the_family_broadcast():
    y = np.array([0.0, 0.0, 0.0, 0.0, 3.0, 5.0])
    found = detect_separation(LINE, y, ji.NegativeBinomial(alpha=jnp.array([0.5, 1.0, 2.0])))
    np.testing.assert_array_equal(found.separated, [False, False, False])
    found = detect_separation(LINE, y, ji.Binomial(trials=jnp.array([5.0, 5, 5, 5, 3, 5])))
    assert found.separated


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.ones(3), np.ones(3), r"X has shape \(3,\)"),
        (np.ones((3, 1)), np.ones(4), r"y has shape \(4,\)"),
        (np.ones((2, 3, 1)), np.ones((5, 3)), "do not broadcast"),
        (np.ones((0, 3, 1)), np.ones(3), "empty"),
        (np.ones((3, 1), np.float16), np.ones(3, np.float16), "float16"),
    ],
)
def test_impossible_arguments(X, y, message):
    with pytest.raises(ValueError, match=message):
        detect_separation(X, y, ji.Binomial())


def test_family_must_be_a_family():
    with pytest.raises(ValueError, match="family must be"):
        detect_separation(LINE, np.ones(6), "binomial")
