"""What a GPU is given to do, without one: its layout on a CPU gives the fits of a CPU's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import Status
from jaxirls.designs import Dense, LanesByBlock
from jaxirls.engine import batch, dispatch

SIZE, N, P = 90, 24, 3


@pytest.fixture
def as_on_gpu(monkeypatch):
    """The layouts of a GPU, with tiles so small that a batch has several."""
    monkeypatch.setattr("jaxirls.engine.batch.platform", lambda _: "gpu")
    monkeypatch.setattr("jaxirls.engine.dispatch.platform", lambda _: "gpu")
    monkeypatch.setattr("jaxirls.engine.batch.GPU_TILE", 32)
    monkeypatch.setattr("jaxirls.engine.batch.GPU_REST", 16)


def simulate():
    """Logistic data, healthy but for every tenth dataset, which is broken in one of nine ways."""
    rng = np.random.default_rng(0)
    X = np.concatenate([np.ones((SIZE, N, 1)), rng.normal(size=(SIZE, N, P - 1))], axis=-1)
    y = (rng.random((SIZE, N)) < 1 / (1 + np.exp(-X @ [0.3, 0.5, -0.5]))).astype(float)
    weight = np.ones((SIZE, N))
    healthy = (X.copy(), y.copy(), weight.copy())
    X[0, 3, 1] = np.nan
    X[10, 5, 2] = np.inf
    X[20, :, 1] = 0
    X[30, :, 2] = X[30, :, 1]
    y[40] = 1
    y[50, 4] = 7
    y[60] = X[60, :, 1] > 0.2
    weight[70, 2:] = 0
    X[80, :, 1] *= 1e20
    return (X, y, weight), healthy


def test_the_layout_of_a_gpu_gives_the_fits_of_a_cpu(request):
    """Of concrete data in float64, and inside the user's own program in float32."""
    data, healthy = simulate()

    def fit(X, y, weight):
        return ji.fit(X, y, ji.Binomial(), freq_weights=weight)

    on_cpu = fit(*data)
    request.getfixturevalue("as_on_gpu")
    assert plan_of((SIZE, N, P)) == batch.Plan(LanesByBlock, 32, 16)
    wide = fit(*data)
    np.testing.assert_array_equal(wide.status, on_cpu.status)
    assert {Status.CONVERGED, Status.SEPARATED, Status.INVALID_DATA} <= set(np.asarray(wide.status).tolist())
    fitted = np.asarray(on_cpu.status) == Status.CONVERGED
    for name in ("params", "bse", "deviance", "llf", "nobs"):
        here, there = (np.asarray(getattr(each, name)) for each in (wide, on_cpu))
        np.testing.assert_array_equal(np.isnan(here), np.isnan(there), err_msg=name)
        np.testing.assert_allclose(here[fitted], there[fitted], rtol=1e-10, atol=1e-10, err_msg=name)
    alone = fit(*healthy)
    good = np.arange(SIZE) % 10 != 0
    for mixed, unmixed in zip(jax.tree.leaves(wide[good]), jax.tree.leaves(alone[good]), strict=True):
        np.testing.assert_array_equal(mixed, unmixed, err_msg="beside healthy datasets")

    narrow = jax.jit(fit)(*(leaf.astype("float32") for leaf in data))
    np.testing.assert_array_equal(narrow.status[good], wide.status[good])
    off = np.abs(narrow.params.astype(float) - wide.params) / wide.bse
    assert off[good & fitted].max() < 1e-3


def plan_of(shape):
    x, y = (jax.ShapeDtypeStruct(s, jnp.float64) for s in (shape, shape[:2]))
    return batch.plan(batch.Batch(x, y, None, None, None, ji.Binomial(), None, None, None))


@pytest.mark.parametrize(
    ("shape", "design"),
    [
        ((1, 200, 5), LanesByBlock),
        ((1000, 200, 5), LanesByBlock),
        ((10**6, 20, 2), LanesByBlock),
        ((10**6, 200, 5), LanesByBlock),
        ((10**6, 2000, 2), LanesByBlock),
        ((10**5, 1000, 20), Dense),
        ((1, 10**6, 50), Dense),
    ],
)
def test_tiles_of_a_gpu_waste_little_and_fit_its_memory(shape, design, monkeypatch):
    monkeypatch.setattr("jaxirls.engine.batch.platform", lambda _: "gpu")
    (size, n, p), layout = shape, plan_of(shape)
    tiles = -(-size // layout.tile)
    assert layout.design is design
    assert layout.rest <= layout.tile
    assert layout.tile == 1 or layout.tile * n * (p + 1) * 8 <= batch.GPU_BYTES
    if tiles == 1:
        assert size <= layout.tile < 2 * size
    else:
        assert layout.tile * tiles < 1.01 * size
        assert 4 * layout.tile * n * (p + 1) * 8 >= batch.GPU_BYTES or 4 * layout.tile >= batch.GPU_TILE


def test_data_on_a_cpu_are_fitted_there_whatever_the_default_device(monkeypatch):
    class ReachedError(Exception):
        pass

    def reached(*_):
        raise ReachedError(jax.config.jax_default_device)

    monkeypatch.setattr(dispatch, "_first_chunk", reached)
    (X, y, _), _ = simulate()
    with pytest.raises(ReachedError) as caught:
        ji.fit(X, y, ji.Binomial())
    assert caught.value.args == (jax.devices("cpu")[0],)
