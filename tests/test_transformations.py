"""A fit inside JAX's transformations has the numbers of the plain call, and stays one batch of the engine."""

import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import Mesh, PartitionSpec
from registry import LINKS

import jaxirls as ji
from jaxirls import designs, links
from jaxirls.engine import dispatch

B, N, P = 4, 20, 2
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def case():
    rng = np.random.default_rng(8)
    X = rng.normal(size=(B, N, P))
    return jnp.asarray(X), jnp.asarray(rng.poisson(np.exp(X @ np.array([0.3, -0.2]))), float)


def params(X, y):
    return ji.fit(X, y, ji.Poisson(), penalty=ji.Ridge(0.5)).params


def total(X, y):
    return params(X, y).sum()


@pytest.fixture(scope="module")
def expected():
    X, y = case()
    return jax.jit(lambda X, y: (params(X, y), jax.grad(total)(X, y)))(X, y)


pytestmark = pytest.mark.usefixtures("compile_fast")


def subclasses(cls):
    return [cls, *(below for child in cls.__subclasses__() for below in subclasses(child))]


def test_no_type_is_taken_for_another():
    """What has the structure of another is served by its compiled programs."""
    instances = [ji.Ridge(1.0), ji.Jeffreys(), ji.MeanBiasReduction()]
    instances += [cls(jnp.zeros((2, 2, 2))) for cls in (*subclasses(designs.Lanes), designs.Shared, designs.Dense)]
    instances += [
        designs.Folded(jnp.zeros((2, 2, 2)), 3, 1),
        designs.Streamed(jnp.zeros((2, 2, 2)), 2, 0),
    ]
    instances += {type(link): link for link in LINKS}.values()
    structures = [jax.tree.structure(instance) for instance in instances]
    for i, structure in enumerate(structures):
        assert structure not in structures[:i], structure


def test_scans_maps_and_checkpoints_give_the_numbers_of_the_plain_call(expected):
    X, y = case()

    @jax.jit
    def transformed(X, y):
        def step(carry, data):
            b = params(*data)
            return carry + b, b

        last, scanned = lax.scan(step, jnp.zeros(P), (X, y))
        mapped = lax.map(lambda data: params(*data), (X, y))
        gradients = jax.vmap(jax.grad(jax.checkpoint(total)))(X, y)
        return last, scanned, mapped, gradients

    last, scanned, mapped, gradients = transformed(X, y)
    np.testing.assert_allclose(last, expected[0].sum(0), **CLOSE)
    np.testing.assert_allclose(scanned, expected[0], **CLOSE)
    np.testing.assert_allclose(mapped, expected[0], **CLOSE)
    np.testing.assert_allclose(gradients, expected[1], **CLOSE)


def test_an_exported_fit_is_the_fit(expected):
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in case()]
    exported = export.export(jax.jit(jax.value_and_grad(total)))(*shapes)
    if importlib.util.find_spec("flatbuffers"):  # without which JAX exports, but not to a file
        exported = export.deserialize(exported.serialize())
    value, gradient = exported.call(*case())
    np.testing.assert_allclose(value, expected[0].sum(), **CLOSE)
    np.testing.assert_allclose(gradient, expected[1], **CLOSE)


def test_shapes_are_known_without_computing_and_buffers_may_be_given_away(expected):
    X, y = case()
    abstract = jax.eval_shape(lambda X, y: ji.fit(X, y, ji.Poisson()), X, y)
    assert isinstance(abstract, ji.Fit)
    assert abstract.params == jax.ShapeDtypeStruct((B, P), X.dtype)
    assert abstract.status == jax.ShapeDtypeStruct((B,), jnp.int32)

    @partial(jax.jit, donate_argnums=0)
    def refit(b, X, y):
        return ji.fit(X, y, ji.Poisson(), start=b, penalty=ji.Ridge(0.5)).params

    given = jnp.zeros((B, P))
    np.testing.assert_allclose(refit(given, X, y), expected[0], **CLOSE)
    assert given.is_deleted()


def batched(function, *arguments):
    """The leading lengths of X, y, ... as they at last reach the engine, and the number of loops in the program."""
    seen = []

    def spy(batch, *options):
        seen.append(tuple(leaf.shape[0] for leaf in jax.tree.leaves(batch)))
        return original(batch, *options)

    original = dispatch.fit_planned
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "fit_planned", spy)
        program = str(jax.make_jaxpr(function)(*arguments))
    assert "callback" not in program
    return seen[-1], program.count(" while[")


MAPPED = ["all", "X", "y", "offset", "freq_weights", "var_weights", "start", "scale", "strength", "penalize", "alpha"]


@pytest.mark.parametrize("mapped", MAPPED)
def test_a_mapped_fit_is_one_batch_of_the_engine(mapped, on_cpu):
    """Over one argument, the others shared, or over all."""
    X, y = case()
    shared = {"X": X[0], "y": y[0], **dict.fromkeys(("offset", "freq_weights", "var_weights"), jnp.full(N, 0.5))}
    shared |= {"start": jnp.zeros(P), "penalize": jnp.ones(P)}
    shared |= {name: jnp.array(0.5) for name in ("scale", "strength", "alpha")}
    axes = {name: 0 if mapped in (name, "all") else None for name in shared}
    arguments = {name: jnp.stack([a] * B) if axes[name] == 0 else a for name, a in shared.items()}

    def one(data):
        strength, penalize, alpha = (data[name] for name in ("strength", "penalize", "alpha"))
        others = {name: value for name, value in data.items() if name not in ("strength", "penalize", "alpha")}
        return ji.fit(**others, family=ji.NegativeBinomial(alpha), penalty=ji.Ridge(strength, penalize)).llf

    lengths, loops = batched(one, shared)
    assert loops > 0
    assert set(lengths) == {1}
    for function in (one, jax.grad(one)):
        lengths, found = batched(jax.vmap(function, in_axes=(axes,)), arguments)
        assert found == loops
        # Strength and mask of a ridge reach the engine as their product.
        assert lengths.count(B) == (len(shared) - 1 if mapped == "all" else 1)


def everything():
    """Arguments that all differ between datasets, datasets first."""
    X, y = case()
    rng = np.random.default_rng(9)
    rows = {name: jnp.asarray(rng.uniform(0.5, 1, size=(B, N))) for name in ("offset", "freq_weights", "var_weights")}
    options = {name: jnp.asarray(rng.uniform(0.2, 0.4, size=B)) for name in ("scale", "alpha", "strength")}
    return {"X": X, "y": y, **rows, **options, "start": jnp.zeros((B, P))}


def negative_binomial(data):
    others = {name: value for name, value in data.items() if name not in ("alpha", "strength")}
    return ji.fit(**others, family=ji.NegativeBinomial(data["alpha"]), penalty=ji.Ridge(data["strength"])).params


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("first", [(), ("y", "start"), ("X",)])
def test_datasets_may_come_last(first, compiled):
    """Whatever else comes first: the numbers and the derivatives are those of leading axes."""
    data = everything()
    axes = {name: 0 if name in first else -1 for name in data}
    moved = {name: jnp.moveaxis(a, 0, axes[name]) for name, a in data.items()}
    gradient = jax.grad(lambda data: jnp.sin(negative_binomial(data)).sum())
    fitted, differentiated = (jax.vmap(function, in_axes=(axes,)) for function in (negative_binomial, gradient))
    if compiled:
        fitted, differentiated = jax.jit(fitted), jax.jit(differentiated)
    np.testing.assert_allclose(fitted(moved), negative_binomial(data), **CLOSE)
    expected = gradient(data)
    for name, value in differentiated(moved).items():
        np.testing.assert_allclose(value, expected[name], **CLOSE)


@pytest.mark.parametrize("name", ["scale", "alpha", "strength"])
def test_one_number_may_be_shared_where_datasets_come_last(name):
    data = everything()
    data[name] = data[name][0]
    moved = {key: jnp.moveaxis(a, 0, -1) if a.ndim else a for key, a in data.items()}
    axes = {key: -1 if a.ndim else None for key, a in data.items()}
    found = jax.vmap(negative_binomial, in_axes=(axes,))(moved)
    np.testing.assert_allclose(found, negative_binomial(data), **CLOSE)


@pytest.mark.parametrize(("inner", "outer"), [((-1, -1), (0, 0)), ((-1, -1), (-1, -1)), ((0, -1), (-1, 0))])
def test_axes_may_be_mapped_one_within_the_other(inner, outer):
    X, y = case()
    expected = params(X, y)
    X, y = jnp.stack([X, X[::-1]]), jnp.stack([y, y[::-1]])  # (2, B, N, P), (2, B, N)
    X, y = (
        jnp.moveaxis(jax.vmap(lambda one, i=i: jnp.moveaxis(one, 0, i))(a), 0, o)
        for a, i, o in zip((X, y), inner, outer, strict=True)
    )
    found = jax.vmap(jax.vmap(params, in_axes=inner), in_axes=outer)(X, y)
    np.testing.assert_allclose(found, jnp.stack([expected, expected[::-1]]), **CLOSE)


def test_datasets_that_come_last_are_not_moved(on_cpu):
    X, y = (jnp.moveaxis(a, 0, -1) for a in case())
    program = jax.jit(jax.vmap(params, in_axes=-1)).lower(X, y).compile().as_text()
    assert f"[{N},{P},{B}]" in program
    assert f"[{B},{N},{P}]" not in program


def test_fits_survive_files_and_carries(tmp_path):
    X, y = case()
    fit = ji.fit(X, y, ji.Binomial(trials=y.max(-1, keepdims=True)), penalty=ji.Ridge(jnp.arange(1.0, B + 1)))
    leaves, structure = jax.tree.flatten(fit)
    np.savez(tmp_path / "fit.npz", *leaves)
    with np.load(tmp_path / "fit.npz") as file:
        stored = jax.tree.unflatten(structure, [jnp.asarray(file[name]) for name in file.files])
    carried, _ = lax.scan(lambda fit, _: (fit, None), fit, length=2)
    for again in (stored, carried, pickle.loads(pickle.dumps(fit)), copy.deepcopy(fit)):
        assert jax.tree.structure(again) == structure
        for here, there in zip(jax.tree.leaves(again), leaves, strict=True):
            assert here.dtype == there.dtype
            np.testing.assert_array_equal(here, there)
        np.testing.assert_array_equal(again.bse, fit.bse)
        with pytest.raises(ValueError, match="trials"):
            ji.residuals(again, X, y)


@pytest.mark.parametrize(
    "option",
    [
        ji.Ridge(np.ones(B), np.ones(P)),
        ji.Jeffreys(),
        ji.MeanBiasReduction(),
        ji.NegativeBinomial(np.ones(B)),
        ji.NegativeBinomial(),
        ji.Tweedie(np.full(B, 1.5), link=links.Power(0.3)),
        ji.IRLS(tol=1e-6),
        ji.LBFGS(),
    ],
    ids=lambda option: type(option).__name__,
)
def test_options_survive_files(option):
    again = pickle.loads(pickle.dumps(option))
    assert jax.tree.structure(again) == jax.tree.structure(option)
    jax.tree.map(np.testing.assert_array_equal, again, option)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (ji.Binomial(link=links.CLogLog()), {"fallback": ji.Jeffreys()}),
        (ji.Binomial(), {"penalty": ji.MeanBiasReduction()}),
        (ji.NegativeBinomial(), {}),
        (ji.Gamma(link=links.Identity()), {"penalty": ji.Ridge(0.5)}),
        (ji.Tweedie(1.5), {"scale": "dev", "config": ji.IRLS(solver="qr")}),
        (ji.Poisson(link=links.Sqrt()), {"config": ji.LBFGS()}),
    ],
    ids=["fallback", "bent", "open", "edge", "qr", "lbfgs"],
)
def test_every_way_to_fit_has_a_gradient_through_a_compiled_shard_map(family, options):
    """Its types are checked when it is traced: loops and branches must tell what differs between devices."""
    over = {"in_specs": PartitionSpec("batch"), "out_specs": PartitionSpec("batch")}
    over["check_vma"] = options.get("config") != ji.LBFGS()  # optax's branches do not tell
    mesh = Mesh(np.array(jax.devices()[:1]), "batch")
    fitted = jax.jit(jax.shard_map(lambda X, y: ji.fit(X, y, family, **options).llf, mesh=mesh, **over))
    gradient = jax.eval_shape(jax.grad(lambda X, y: fitted(X, y).sum()), *case())
    assert gradient.shape == (B, N, P)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as Spec
jax.config.update("jax_enable_x64", True)
import jaxirls as ji
import jaxirls.engine.batch
jaxirls.engine.batch.LANES_COLUMNS = jaxirls.engine.batch.ROWS_COLUMNS = 0

rng = np.random.default_rng(0)
X, y = rng.normal(size=(6, 20, 2)), rng.poisson(2.0, (6, 20)).astype(float)
mesh = Mesh(np.array(jax.devices()), "batch")
assert mesh.size == 2

def params(X, y):
    fit = ji.fit(X, y, ji.Poisson(), penalty=ji.Ridge(0.5))
    return fit.params, fit.converged

sharded = jax.jit(jax.shard_map(params, mesh=mesh, in_specs=Spec("batch"), out_specs=Spec("batch")))
found, converged = sharded(X, y)
assert converged.all()
assert len(found.sharding.device_set) == 2
np.testing.assert_allclose(found, params(X, y)[0], rtol=1e-9)
inner = jax.grad(lambda X, y: params(X, y)[0].sum())
gradient = jax.jit(jax.shard_map(inner, mesh=mesh, in_specs=Spec("batch"), out_specs=Spec("batch")))(X, y)
outer = jax.jit(jax.grad(lambda X, y: sharded(X, y)[0].sum()))(X, y)
np.testing.assert_allclose(outer, gradient, rtol=1e-9, atol=1e-12)
h = 1e-5 * np.sign(X)
up, down = (params(X + s * h, y)[0].sum() for s in (1, -1))
np.testing.assert_allclose((gradient * h).sum(), (up - down) / 2, rtol=1e-6)
"""


def test_batches_are_sharded_over_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_rows_of_weight_zero_hold_anything_and_move_nothing(bad):
    """A parameter of the rows too: as if they were not there, and derivatives of zero."""
    rng = np.random.default_rng(0)
    X = np.stack([np.ones(40), rng.normal(size=40)], -1)
    trials = rng.integers(1, 6, 40).astype(float)
    y = rng.binomial(trials.astype(int), 0.4).astype(float)
    weights = np.arange(40) < 30
    expected = ji.fit(X[:30], y[:30], ji.Binomial(trials=trials[:30]))
    for array in (X, y, trials):
        array[30:] = bad

    def results(X, y, trials):
        fit = ji.fit(X, y, ji.Binomial(trials=trials), freq_weights=weights.astype(float))
        return fit.params, fit.bse, fit.llf, fit.deviance

    found = results(X, y, trials)
    for one, other in zip(found, (expected.params, expected.bse, expected.llf, expected.deviance), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    moved = jax.grad(lambda *data: sum(value.sum() for value in results(*data)), (0, 1, 2))(X, y, trials)
    for one in moved:
        assert np.isfinite(one).all()
        assert not np.asarray(one[30:]).any()


@pytest.mark.parametrize("axis", [0, -1])
def test_a_mapped_axis_of_length_zero_is_an_empty_batch(axis):
    X = np.moveaxis(np.ones((0, 10, 2)), 0, axis)
    with pytest.raises(ValueError, match="the batch is empty"):
        jax.vmap(lambda X: ji.fit(X, np.ones(10), ji.Poisson()).params, in_axes=axis)(X)
