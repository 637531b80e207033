"""Every design makes the same pass: sums, minima and logarithms of products, against NumPy; what XLA makes of it."""

import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import linalg
from jaxirls.designs import Dense, Folded, Lanes, LanesByBlock, LanesByRow, Shared, SharedByRow, Terms
from jaxirls.engine.batch import Batch, plan
from jaxirls.engine.tiles import first_round, later_rounds, second_round, third_round

LANES = 3
DESIGNS = (Lanes, LanesByRow, LanesByBlock, Folded, Shared, SharedByRow, Dense)
# Straight-line code of many columns takes long to compile.
WIDE = tuple(design for design in DESIGNS if design is not LanesByBlock)


def kernel(eta, rows):
    y, weight = rows
    return Terms(weight * eta**2, y - eta, (y * eta, weight), (eta,), jnp.exp(-jnp.abs(eta)))


def laid(design, x):
    x = x[:1] if design in (Shared, SharedByRow) else x
    return design.of(jnp.asarray(x.transpose(1, 2, 0)), LANES)


# Folded, one whole row and a part of another: where 32 lanes run side by side, and where 64 do.
HALF_FOLDED = ((Folded, 2, 15), (Folded, 2, 30))


@pytest.mark.parametrize(("design", "p", "n"), [*product(DESIGNS, (2, 9, 13), (3, 71, 126)), *HALF_FOLDED])
def test_one_pass_gives_the_sums_that_numpy_gives(design, p, n):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(LANES, n, p))
    if design in (Shared, SharedByRow):
        x[:] = x[0]
    y, weight, beta = rng.normal(size=(n, LANES)), rng.uniform(size=(n, 1)), rng.normal(size=(p, LANES))
    design = laid(design, x)
    found = design.accumulate(jnp.asarray(beta), (jnp.asarray(y), jnp.asarray(weight)), kernel)
    eta = np.einsum("tnp,pt->nt", x, beta)
    expected = {
        "gram": np.einsum("tnp,tnq,nt->pqt", x, x, weight * eta**2),
        "score": np.einsum("tnp,nt->pt", x, y - eta),
        "log_excess": np.log1p(np.exp(-np.abs(eta))).sum(0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.sums[0], (y * eta).sum(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.broadcast_to(found.sums[1], LANES), weight.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.minima[0], eta.min(0), rtol=1e-12)
    np.testing.assert_allclose(design.predict(jnp.asarray(beta)), eta, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(design.pull(jnp.asarray(y)), np.einsum("tnp,nt->pt", x, y), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(design.lanes(LANES), x.transpose(1, 2, 0))
    assert (design.n, design.p) == (n, p)


@pytest.mark.parametrize(("design", "p"), [*product(DESIGNS, (2, 9)), *product(WIDE, (25,))])
def test_whitened_rows_have_the_identity_for_a_gram_matrix(design, p):
    n, rng = 71, np.random.default_rng(p)
    x, weight = rng.normal(size=(LANES, n, p)), rng.uniform(size=(n, LANES))
    if design in (Shared, SharedByRow):
        x[:] = x[0]
    design = laid(design, x)
    gram = jnp.einsum("tnp,tnq,nt->pqt", x, x, weight)
    factor, _ = linalg.factorize_with(gram, jnp.zeros_like(gram[0]))
    z = design.whitened(factor)
    gram = z.accumulate(jnp.zeros((p, LANES)), jnp.asarray(weight), lambda eta, weight: Terms(weight, weight)).gram
    np.testing.assert_allclose(gram, np.repeat(np.eye(p)[:, :, None], LANES, 2), atol=1e-11)
    expected = np.stack(
        [np.linalg.solve(np.linalg.cholesky(a.T @ (w[:, None] * a)), a.T) for a, w in zip(x, weight.T, strict=True)]
    )
    np.testing.assert_allclose(z.lanes(LANES), expected.transpose(2, 1, 0), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(z.squares(), np.square(expected).sum(1).T, rtol=1e-9)
    np.testing.assert_allclose(design.squares() + np.zeros((n, LANES)), np.square(x).sum(2).T, rtol=1e-12)
    back = linalg.colored(factor, jnp.asarray(expected.transpose(2, 1, 0)[0]))
    np.testing.assert_allclose(back, x[:, 0].T, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [3, 71, 126])
@pytest.mark.parametrize("pair", [jnp.add, jnp.minimum, jnp.logical_and], ids=["sum", "minimum", "all"])
@pytest.mark.parametrize("design", DESIGNS)
def test_rows_fold_as_numpy_reduces_them(design, pair, n):
    rng = np.random.default_rng(n)
    design = laid(design, rng.normal(size=(LANES, n, 2)))
    for shape in ((n, LANES), (n, 1), (1, LANES), (1, 1)):
        values = rng.normal(size=shape)
        values = values > -2.2 if pair is jnp.logical_and else values
        expected = getattr(np, pair.__name__).reduce(np.broadcast_to(values, (n, LANES)), axis=0)
        np.testing.assert_allclose(design.fold(pair, jnp.asarray(values), LANES), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA then makes no function of a loop over rows")
@pytest.mark.parametrize(("p", "shared"), [(5, False), (5, True), (8, False), (20, False)])
def test_the_first_round_calls_no_library(p, shared):
    """One call in it would keep the passes of a tile from being one function, at twice the time a fit."""
    x = jax.ShapeDtypeStruct((1 if shared else 256, 100, p), jnp.float32)
    y = jax.ShapeDtypeStruct((256, 100), jnp.float32)
    batch = Batch(x, y, None, y, None, ji.Binomial(), None, None, None)
    program = jax.jit(first_round, static_argnums=(1, 2)).lower(batch, plan(batch), ji.IRLS()).compile().as_text()
    assert "xla_cpu_small_call" in program
    assert "kind=kCustom" not in program
    assert "custom-call" not in program


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA then makes no function of a loop over rows")
@pytest.mark.parametrize("family", [ji.Binomial(), ji.Gamma()], ids=str)
def test_layout_and_parts_of_the_later_rounds_are_functions(family):
    """Also where XLA would leave a sum over so many rows to a library, and in one program of all rounds."""
    x, y = jax.ShapeDtypeStruct((256, 200, 3), jnp.float32), jax.ShapeDtypeStruct((256, 200), jnp.float32)
    batch, real = Batch(x, y, None, None, None, family, None, None, None), jax.ShapeDtypeStruct((256,), bool)
    layout, config = plan(batch), ji.IRLS()
    first = jax.eval_shape(lambda batch: first_round(batch, layout, config), batch)
    rounds = [jax.jit(rounds, static_argnums=(3, 4)) for rounds in (second_round, third_round, later_rounds)]
    second = jax.eval_shape(lambda *data: second_round(*data, layout, config), batch, first.state, real)
    for later, state, count in zip(rounds, (first.state, second.state, first.state), (3, 3, 6), strict=True):
        assert_functions(later.lower(batch, state, real, layout, config), count)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA then makes no function of a loop over rows")
@pytest.mark.parametrize(("n", "p"), [(100, 5), (1000, 20)])
def test_layout_passes_and_proof_of_a_tile_are_a_function_each(n, p):
    """Not one, which one core would compile, nor more, which would be called one by one for every tile."""
    x, y = jax.ShapeDtypeStruct((256, n, p), jnp.float32), jax.ShapeDtypeStruct((256, n), jnp.float32)
    batch = Batch(x, y, None, None, None, ji.Binomial(), None, None, None)
    layout = plan(batch)
    assert layout.design.by_row
    assert_functions(jax.jit(first_round, static_argnums=(1, 2)).lower(batch, layout, ji.IRLS()))


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA then makes no function of a loop over rows")
def test_they_are_where_x_and_y_are_constants_of_the_program():
    x, y = (np.random.default_rng(k).normal(size=shape) > 0 for k, shape in enumerate([(1, 100, 5), (1, 100)]))
    weights = jax.ShapeDtypeStruct((256, 100), jnp.float32)

    def bootstrap(weights):
        x_and_y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
        batch = Batch(*x_and_y, None, weights, None, ji.Binomial(), None, None, None)
        return first_round(batch, plan(batch), ji.IRLS())

    assert_functions(jax.jit(bootstrap).lower(weights))


def ready_at_once(program):
    """Of a compiled program the operations that wait for no other."""
    given, ready = set(), []
    for name, kind, operands in re.findall(
        r"%(\S+) = (?:\([^=]*\)|\S+) ([\w-]+)\(([^)]*)\)", program[program.index("ENTRY") :]
    ):
        if set(re.findall(r"%([\w.-]+)", operands)) <= given:
            if kind in ("parameter", "constant", "bitcast", "get-tuple-element", "tuple"):
                given.add(name)
            else:
                ready.append(name)
    return ready


def assert_functions(lowered, count=3):
    program = lowered.compile().as_text()
    # Half of more than nine would go to another thread, see ``apart.room_for``.
    assert 0 < len(ready_at_once(program)) <= 9
    (loop,) = re.findall(r" while\(.* body=%?([\w.-]+)", program[program.index("ENTRY") :])
    body = re.search(rf"^%?{re.escape(loop)} \(.*?^}}", program, re.MULTILINE | re.DOTALL)[0]
    assert body.count("xla_cpu_small_call") == count
    assert body.count(" fusion(") < 16


def test_a_product_of_many_factors_does_not_overflow_in_float32():
    n = 4000
    excess = np.full((n, LANES), 0.999, np.float32)
    rows = (jnp.asarray(excess), jnp.ones((n, 1), jnp.float32))
    for design in (Lanes, LanesByRow, LanesByBlock, Folded, Dense):
        x = np.ones((LANES, n, 1), np.float32)
        total = laid(design, x).accumulate(
            jnp.zeros((1, LANES), jnp.float32),
            rows,
            lambda eta, rows: Terms(rows[1], rows[1], excess=rows[0] + 0 * eta),
        )
        np.testing.assert_allclose(total.log_excess, n * np.log(1.999), rtol=1e-5)
