"""What a GPU is given to do, as far as that shows without one.

Its layout gives on a CPU the fits of a CPU's. Its kernel, interpreted, makes the passes that the loop makes, lowers for
CUDA, and, where a CUDA compiler is at hand, is compiled for an H100 without spilling a register.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import IRLS, Status, irls, kernel, rounds, starts
from jaxirls.designs import Dense, InOneKernel, LanesByBlock
from jaxirls.engine import batch, dispatch, on_cores, tiles
from jaxirls.equations import by_cholesky
from jaxirls.kernel import GROUP, in_one_kernel, vectors

SIZE, N, P = 90, 24, 3
MEMORY = 2**33
H100 = SimpleNamespace(platform="gpu", compute_capability="9.0", memory_stats=lambda: {"bytes_limit": MEMORY})
OLDER = SimpleNamespace(platform="gpu", compute_capability="8.0", memory_stats=lambda: None)  # without kernels


@pytest.fixture
def as_on_gpu(monkeypatch):
    """The layouts of a GPU, with tiles so small that a batch has several."""
    for module in (batch, dispatch):
        monkeypatch.setattr(module, "device", lambda _: OLDER)
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
    monkeypatch.setattr(batch, "device", lambda _: OLDER)
    monkeypatch.setattr(batch, "GPU_MEMORY", MEMORY)
    (size, n, p), layout = shape, plan_of(shape)
    tiles = -(-size // layout.tile)
    assert layout.design is design
    assert layout.rest <= layout.tile
    assert layout.tile == 1 or layout.tile * n * (p + 1) * 8 <= MEMORY // 8
    if tiles == 1:
        assert size <= layout.tile < max(2 * size, 129)
    else:
        assert layout.tile * tiles - size < 128 * tiles
        assert 4 * layout.tile * n * (p + 1) * 8 >= MEMORY // 8 or 4 * layout.tile >= batch.GPU_TILE


def test_data_on_a_cpu_are_fitted_there_whatever_the_default_device(monkeypatch):
    class ReachedError(Exception):
        pass

    def reached(*_):
        raise ReachedError(jax.config.jax_default_device)

    monkeypatch.setattr(on_cores, "_first_chunk", reached)
    (X, y, _), _ = simulate()
    there = jax.devices("cpu")[0]
    with pytest.raises(ReachedError) as caught:
        ji.fit(*jax.device_put((X, y), there), ji.Binomial())
    assert caught.value.args == (there,)


has_kernels = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="JAX compiles the kernel from 0.11 on")


def test_a_kernel_is_planned_only_where_it_runs(monkeypatch):
    monkeypatch.setattr(batch, "device", lambda _: H100)
    newest = InOneKernel if jax.__version_info__ >= (0, 11) else LanesByBlock
    assert plan_of((1000, 200, 5)).design is newest
    assert plan_of((1000, 2**14, 5)).design is plan_of((1000, 200, 50)).design is Dense
    monkeypatch.setattr(batch, "device", lambda _: OLDER)
    assert plan_of((1000, 200, 5)).design is LanesByBlock


def draw(family, dtype):
    """Two groups of datasets with weights and offsets: one of them invalid, one without an estimate."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(2 * GROUP, 10, 2))
    X[:, :, 0] = 1
    offset, weight = 0.3 * rng.normal(size=X.shape[:2]), rng.integers(0, 3, X.shape[:2]).astype(float)
    mean = family.mean(jnp.asarray(0.4 + 0.4 * X[:, :, 1] + offset))
    y = np.array(family.sample(jax.random.key(0), mean))
    X[3, 2, 1] = np.nan
    weight[3] = 1
    y[200] = 0
    return [leaf.astype(dtype) for leaf in (X, y, offset, weight)]


def problem(design, family, X, y, offset=None, weight=None, penalty=None):
    family = jax.tree.map(lambda leaf: jnp.full((1, 1), leaf, X.dtype), family)
    lanes = max(len(X), len(y))
    whole = batch.Batch(X, y, offset, weight, None, family, penalty, None, None)
    return batch.problem(whole.tile(0, lanes), design, lanes)


@has_kernels
@pytest.mark.parametrize(
    ("dtype", "shares"),
    [("float32", (1, 0)), ("float64", (1, 0)), ("float32", (2, 2)), ("float64", (4, 1)), ("float64", (8, 1))],
)
def test_the_kernel_makes_the_passes_of_the_loop(dtype, shares, monkeypatch):
    """Against the loop that the statuses and references of all other tests come from, and against statsmodels.

    Ten rows are two shares of five, of which two are kept; and four of three, or eight of two, which have some twice.
    """
    import statsmodels.api as sm
    from jax.experimental.pallas import mosaic_gpu

    monkeypatch.setattr(kernel, "shares", lambda n, rows: shares)
    data = draw(ji.Poisson(), dtype)

    def passes(design, *data):
        laid = problem(design, ji.Poisson(), *data)
        return in_one_kernel(partial(rounds.first_passes, IRLS()), laid)[0]

    loop = jax.jit(partial(passes, LanesByBlock))(*data)
    with mosaic_gpu.force_gpu_interpret_mode():
        found = jax.jit(partial(passes, InOneKernel))(*data)
    np.testing.assert_array_equal(found.code, loop.code)
    assert found.code[3] == Status.INVALID_DATA
    good = np.asarray(loop.code) == Status.CONVERGED
    assert good.sum() > 0.9 * good.size
    np.testing.assert_array_equal(found.n_iter[good], loop.n_iter[good])
    tol = {"float32": 1e-4, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(found.beta[:, good], loop.beta[:, good], rtol=tol, atol=tol)
    for i in (0, 100, 255):
        X, y, offset, weight = (leaf[i].astype(float) for leaf in data)
        model = sm.GLM(y, X, sm.families.Poisson(), offset=offset, freq_weights=weight)
        expected = model.fit(tol=1e-12)
        assert np.abs((np.asarray(found.beta)[:, i] - expected.params) / expected.bse).max() < 2 * tol


@pytest.mark.parametrize(
    ("n", "p", "dtype", "expected"),
    [
        (20, 2, "float32", (1, 0)),  # few enough for one thread
        (200, 5, "float32", (8, 24)),  # of 25 rows of a thread, 24 in 576 bytes
        (100, 5, "float32", (4, 24)),
        (61, 5, "float32", (4, 15)),  # of 16 rows, the last of which some threads have twice
        (200, 2, "float32", (4, 48)),
        (400, 5, "float32", (1, 0)),  # more threads than measure faster
        (200, 8, "float32", (1, 0)),
        (200, 5, "float64", (1, 0)),
    ],
)
def test_threads_share_the_rows_that_they_can_keep(n, p, dtype, expected):
    rows = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((n, p, 256), (n, 256))]
    assert kernel.shares(n, rows) == expected


@has_kernels
def test_a_kernel_is_told_nothing_twice():
    """Neither what nobody uses; but a zero of either sign is one of its own."""

    def program(x):
        jnp.log(x)
        twice = jnp.exp(x) + jnp.exp(x)
        return twice + 1 / (x * jnp.float32(-0.0)) - 1 / (x * jnp.float32(0.0))

    x = jax.ShapeDtypeStruct((GROUP,), jnp.float32)
    form = vectors.Vectors(GROUP, lambda value, dtype: jnp.full(GROUP, value, dtype), None, None)

    def vector(x):
        cell = np.empty(1, object)
        cell[0] = x
        return vectors.evaluate(jax.make_jaxpr(program)(x), form, [cell])[0][0]

    told = [equation.primitive.name for equation in jax.make_jaxpr(vector)(x).eqns]
    assert told.count("exp") == 1
    assert "log" not in told
    np.testing.assert_array_equal(vector(jnp.ones(GROUP, jnp.float32)), np.full(GROUP, -np.inf, np.float32))


@has_kernels
@pytest.mark.parametrize(
    ("family", "one_design"),
    [
        (ji.Binomial(), True),
        (ji.Binomial(link=ji.links.Probit()), False),
        (ji.NegativeBinomial(alpha=0.5), False),
    ],
    ids=str,
)
def test_rounds_of_kernels_are_rounds_of_loops(family, one_design):
    """The first, with its statistics, and the passes of the second."""
    from jax.experimental.pallas import mosaic_gpu

    X, y, offset, weight = draw(family, "float64")

    def both(design):
        laid = problem(design, family, X[:1] if one_design else X, y, offset, weight)
        late = partial(irls.run_late, config=IRLS(), limit=25, method=by_cholesky)
        return rounds.begun(laid, rounds.begin(laid, IRLS()), IRLS())[1], in_one_kernel(late, laid, starts.start(laid))

    loops, late_loops = jax.jit(partial(both, LanesByBlock))()
    with mosaic_gpu.force_gpu_interpret_mode():
        kernels, late_kernels = jax.jit(partial(both, InOneKernel))()
    for found, expected in ((kernels.status, loops.status), (late_kernels.code, late_loops.code)):
        np.testing.assert_array_equal(found, expected)
    good = np.asarray(loops.status) == Status.CONVERGED
    assert good.sum() > 0.6 * good.size
    assert one_design or kernels.status[3] == Status.INVALID_DATA
    for name in ("params", "root", "deviance", "pearson_chi2", "llf", "min_weight"):
        found, expected = getattr(kernels, name)[..., good], getattr(loops, name)[..., good]
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(late_kernels.beta[:, good], loops.params[:, good], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "least"), [("expm1", -np.inf), ("log1p", -1.0)])
def test_what_a_kernel_has_in_place_of_a_function_is_as_accurate(name, least, dtype):
    """Against the long double of the C library, to a few units in the last place."""
    eps, size = np.finfo(dtype).eps, np.logspace(-30, 1.9, 400)
    x = np.concatenate([-size, [0.0], size]).astype(dtype)
    x = x[x > least]
    expected = getattr(np, name)(x.astype(np.longdouble))
    with jax.numpy_dtype_promotion("standard"):
        found = np.asarray(vectors.ELEMENTWISE[name](jnp.asarray(x)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected.astype(dtype), rtol=6 * eps, atol=np.finfo(dtype).tiny)


def lowered(function, *arguments):
    """For CUDA, as text."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="cuda")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@has_kernels
@pytest.mark.parametrize(
    ("family", "kernels"),
    [
        (ji.Gaussian(), 1),
        (ji.Binomial(), 1),
        (ji.Binomial(trials=3.0), 1),
        (ji.Gamma(), 1),
        (ji.NegativeBinomial(alpha=0.5), 1),
        (ji.InverseGaussian(), 1),
        (ji.Binomial(link=ji.links.Probit()), 1),
        (ji.Binomial(link=ji.links.Cauchy()), 0),
    ],
    ids=str,
)
def test_the_kernel_lowers_for_cuda(family, kernels):
    """And what cannot be a kernel is the loop."""
    X, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((GROUP, 9, 2), (1, 9)))

    def passes(X, y):
        laid = problem(InOneKernel, family, X, y, penalty=ji.Ridge(jnp.ones((1, 2), X.dtype)))
        return in_one_kernel(partial(rounds.first_passes, IRLS()), laid)[0]

    assert lowered(passes, X, y).count("@mosaic_gpu") == kernels


@has_kernels
@pytest.mark.parametrize(("penalty", "kernels"), [(None, 1), (ji.Jeffreys(), 0)], ids=str)
def test_shared_rows_lower_for_cuda(penalty, kernels):
    """And a score bent by all rows at once is the loop."""
    X, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((GROUP, 101, 2), (GROUP, 101)))

    def passes(X, y):
        return rounds.begin(problem(InOneKernel, ji.Binomial(), X, y, penalty=penalty), IRLS())

    assert lowered(passes, X, y).count("@mosaic_gpu") == kernels


@has_kernels
def test_one_row_is_a_kernel():
    X, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((GROUP, 1, 1), (GROUP, 1)))
    begun = lowered(lambda X, y: rounds.begin(problem(InOneKernel, ji.Poisson(), X, y), IRLS()), X, y)
    assert begun.count("@mosaic_gpu")


def test_a_whole_fit_lowers_for_cuda():
    X, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, 9, 2), (256, 9)))

    def fit(X, y):
        data = batch.Batch(X, y, None, None, None, ji.Binomial(), None, None, None)
        return tiles.fit_tiles(data, batch.Plan(LanesByBlock, 128, 128), IRLS())

    program = jax.jit(fit).trace(X, y).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" in program
    assert "lapack" not in program


H100_CONFIG = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 cuda_compute_capability { major: 9 }
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def compile_for_h100():
    """Compile the kernel for an H100 that need not be there; the assembler's report goes to the standard output."""
    from jax.experimental import topologies

    jax.config.update("jax_enable_x64", True)
    described = topologies.get_topology_desc("1x1x1", platform="cuda", target_config=H100_CONFIG, topology="1x1x1")
    there = jax.sharding.SingleDeviceSharding(described.devices[0])
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="cuda")

    def passes(family, X, y):
        tile = batch.Batch(X, y, None, None, None, family, None, None, None).tile(0, len(X))
        return in_one_kernel(partial(rounds.first_passes, IRLS()), batch.problem(tile, InOneKernel, len(X)))

    shapes = (5, "float32"), (12, "float32"), (8, "float64")
    for family, p, dtype in (*((ji.Binomial(), *shape) for shape in shapes), (ji.Gamma(), 8, "float64")):
        X, y = (jax.ShapeDtypeStruct(s, dtype, sharding=there) for s in ((GROUP, 200, p), (GROUP, 200)))
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
            jax.jit(partial(passes, family)).lower(X, y).compile()


def can_compile_for_cuda():
    plugins = importlib.util.find_spec("jax_plugins") and (
        importlib.util.find_spec(f"jax_plugins.xla_cuda{version}") for version in (12, 13)
    )
    return shutil.which("ptxas") and any(plugins or ())


@has_kernels
@pytest.mark.skipif(not can_compile_for_cuda(), reason="it takes ptxas and JAX's CUDA plugin to count registers")
def test_the_kernel_spills_no_register():
    """In a process of its own, where JAX starts without the device and the assembler reports what it uses."""
    report = subprocess.run(
        [sys.executable, "-c", "import test_gpu; test_gpu.compile_for_h100()"],
        cwd=os.path.dirname(__file__),
        env=os.environ | {"JAX_PLATFORMS": "cpu", "MOSAIC_GPU_DUMP_PTXAS": "1"},
        capture_output=True,
        text=True,
    )
    assert report.returncode == 0, report.stderr[-3000:]
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report.stdout + report.stderr)
    assert len(spills) >= 4
    assert set(spills) == {("0", "0")}
