"""The peers: each a function from the data to a ``Run``, registered with what it needs and the cases it can do.

A peer sets up whatever layout it likes best off the clock. Its ``Run`` fits the first ``count`` datasets; what it
compiles it compiles in its first call.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxirls as ji
from benchmarks import native
from benchmarks.cases import CORES, Data, draw, newton, solved
from jaxirls import study
from jaxirls.engine.on_cores import CPU_OPTIONS

BATCHES = ("own", "mix")
BOOTSTRAP, MIX, LARGE = ("bootstrap",), ("mix",), ("large",)


class Fits(NamedTuple):
    """One timed call."""

    seconds: float
    core_seconds: float  # processor time over all threads, which other people's work on the machine does not stretch
    params: np.ndarray  # (count, p)


class Run(NamedTuple):
    """What is timed."""

    count: int
    fits: Callable[[], Fits]
    reference: Callable[[], np.ndarray] | None = None  # of data of its own


@dataclass(frozen=True)
class Peer:
    """One way to fit a case."""

    name: str
    prepare: Callable[[Data], Run]
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    device: str
    float64_only: bool
    when: Callable[[Data], bool]

    def available(self) -> bool:
        """Whether the modules and programs it needs are on this machine."""
        return all(shutil.which(need) or importlib.util.find_spec(need) for need in self.needs)

    def applies(self, data: Data) -> bool:
        """Whether it can do this case in this precision on this device."""
        fits = data.case.kind in self.kinds and not (self.float64_only and data.dtype == np.float32)
        return fits and self.device in (data.device, "any") and self.when(data)


PEERS: dict[str, Peer] = {}


def peer(
    name: str,
    kinds: tuple[str, ...],
    needs: tuple[str, ...] = (),
    *,
    device: str = "cpu",
    float64_only: bool = False,
    when: Callable[[Data], bool] = lambda _: True,
) -> Callable[[Callable[[Data], Run]], Callable[[Data], Run]]:
    """Register a peer."""

    def register(prepare: Callable[[Data], Run]) -> Callable[[Data], Run]:
        PEERS[name] = Peer(name, prepare, kinds, needs, device, float64_only, when)
        return prepare

    return register


def clocked(count: int, function: Callable[[], Any]) -> Run:
    """Time a call until its result is there."""

    def fits() -> Fits:
        begin, own = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(function())
        return Fits(time.perf_counter() - begin, time.process_time() - own, np.asarray(result))

    return Run(count, fits)


def on_cores(function: Callable[[Any], Array], parts: list[Any]) -> list[Array]:
    """``function`` of every part, on as many threads as there are cores; each begins all of its calls, then waits."""
    if len(parts) == 1:  # as a user calls it: a thread of its own would be timed too
        return [jax.block_until_ready(function(parts[0]))]
    done: list[Any] = [None] * len(parts)

    def work(core: int) -> None:
        done[core::CORES] = jax.block_until_ready([function(part) for part in parts[core::CORES]])

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(work, range(min(CORES, len(parts)))))
    return done


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


@peer("jaxirls", (*BATCHES, *LARGE, *BOOTSTRAP), device="any")
def fit_batch(data: Data) -> Run:
    """The user's own arrays, datasets first."""
    x, y, weights = data.x, data.y, data.weights
    return clocked(data.case.batch, lambda: ji.fit(x, y, ji.Binomial(), freq_weights=weights).params)


@lru_cache
def _fit_last(device: str) -> Callable[[tuple[Array, Array]], Array]:
    """A program of its own, with the options of XLA that the README names."""

    def fit(x: Array, y: Array) -> Array:
        return ji.fit(x, y, ji.Binomial()).params

    options = CPU_OPTIONS if device == "cpu" else None
    return jax.jit(lambda chunk: jax.vmap(fit, in_axes=-1)(*chunk), compiler_options=options)


@peer("jaxirls, batch-last", BATCHES, device="any")
def fit_chunks(data: Data) -> Run:
    """Data that lies on the device as it was drawn there, datasets last, mapped over that axis inside jit."""
    fit = _fit_last(data.device)
    return clocked(data.case.batch, lambda: _joined(on_cores(fit, data.last)))


@peer("jaxirls, none separated", MIX)
def _fit_batch_unmixed(data: Data) -> Run:
    return fit_batch(data.unmixed)._replace(reference=lambda: data.unmixed.reference)


@peer("jaxirls, batch-last, none separated", MIX)
def _fit_chunks_unmixed(data: Data) -> Run:
    return fit_chunks(data.unmixed)._replace(reference=lambda: data.unmixed.reference)


@peer("jaxirls, drawing included", BATCHES, device="any")
def drawn_chunks(data: Data) -> Run:
    """Every chunk is drawn on the device, and fitted there."""
    case, count, dtype, fit = data.case, data.chunk, data.dtype, _fit_last(data.device)
    chunks = [jnp.uint32(i) for i in range(case.batch // count)]
    return clocked(case.batch, lambda: _joined(on_cores(lambda i: fit(draw(i, case, count, dtype)), chunks)))


@peer("jaxirls study, drawing included", ("own",), device="any")
def _study(data: Data) -> Run:
    """The same law, drawn, fitted and measured by the library's own driver."""
    case = data.case
    scenario = study.Scenario(
        n=case.n,
        coefficients=case.coefficients,
        design=study.Normal(scale=case.spread, intercept=False),
        family=ji.Binomial(),
        replicates=case.batch,
        seed=case.seed,
        dtype=data.dtype.name,
    )

    def reference() -> np.ndarray:
        x, y = study.datasets(scenario, np.arange(min(case.batch, 2**11)))
        return solved(x.astype(np.float64), y.astype(np.float64), None)

    timed = clocked(case.batch, lambda: study.run(scenario, keep=True).replicates.estimates)
    return timed._replace(reference=reference)


@peer("jaxirls, X repeated", BOOTSTRAP)
def _jaxirls_repeated(data: Data) -> Run:
    """The bootstrap by the path of one X a dataset."""
    x = jnp.repeat(data.x[None], data.case.batch, 0)
    y, weights = data.y, data.weights
    return clocked(data.case.batch, lambda: ji.fit(x, y, ji.Binomial(), freq_weights=weights).params)


def logit_irls(x: Array, y: Array, weights: Array | None, tol: float, max_iter: int = 25) -> Array:
    """The loop that a JAX user writes: solve for the step until it is small."""

    def turn(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        beta, _, i = state
        mu = jax.nn.sigmoid(x @ beta)
        residual, weight = y - mu, mu * (1 - mu)
        if weights is not None:
            residual, weight = weights * residual, weights * weight
        step = jax.scipy.linalg.solve((x.T * weight[None]) @ x, x.T @ residual, assume_a="pos")
        return beta + step, jnp.abs(step).max(), i + 1

    start = jnp.zeros(x.shape[1], x.dtype), jnp.array(jnp.inf, x.dtype), 0
    return lax.while_loop(lambda state: (state[1] > tol) & (state[2] < max_iter), turn, start)[0]


def _vmapped(data: Data) -> tuple[Callable[[Any], Array], Any]:
    """``vmap(while_loop)`` over the batch, and the arrays that have a batch axis."""
    tol = 1e-6 if data.dtype == np.float64 else 1e-3
    if data.case.kind == "bootstrap":
        x, y = data.x, data.y
        return jax.jit(jax.vmap(lambda weights: logit_irls(x, y, weights, tol))), data.weights
    return jax.jit(jax.vmap(lambda own: logit_irls(*own, None, tol))), (data.x, data.y)


@peer("vmap(while_loop)", (*BATCHES, *BOOTSTRAP, *LARGE), device="any")
def _vmap(data: Data) -> Run:
    solve, arrays = _vmapped(data)
    return clocked(data.case.batch, lambda: solve(arrays))


@peer("vmap(while_loop), on every core", (*BATCHES, *BOOTSTRAP))
def _vmap_cores(data: Data) -> Run:
    """The same in chunks, with the threads that jaxirls brings along."""
    solve, arrays = _vmapped(data)
    starts = range(0, data.case.batch, data.chunk)
    parts = [jax.tree.map(lambda a, i=i: a[i : i + data.chunk], arrays) for i in starts]
    return clocked(data.case.batch, lambda: jnp.concatenate(on_cores(solve, parts)))


@peer("C++ OpenMP, datasets in SIMD lanes", (*BATCHES, *BOOTSTRAP), ("g++",))
def _native_lanes(data: Data) -> Run:
    """Data in tiles of one SIMD register of datasets, packed off the clock."""
    x, y, weights = (None if a is None else np.asarray(a) for a in (data.x, data.y, data.weights))
    shared = data.case.kind == "bootstrap"
    y = np.broadcast_to(y, (data.case.batch, data.case.n))
    tiled = (x if shared else native.tiles(x), native.tiles(y), None if weights is None else native.tiles(weights))
    return clocked(data.case.batch, lambda: native.fit_lanes(*tiled, data.case.batch))


@peer("C++ OpenMP, one dataset at a time", BATCHES, ("g++",))
def _native_rows(data: Data) -> Run:
    """Datasets first, as jaxirls gets them; rows in SIMD lanes."""
    x, y = np.asarray(data.x), np.asarray(data.y)
    return clocked(data.case.batch, lambda: native.fit_rows(x, y))


@peer("NumPy, batched", (*BATCHES, *BOOTSTRAP))
def _numpy(data: Data) -> Run:
    count = min(data.case.batch, 2048)
    arrays = data.host(count)
    tol = 1e-10 if data.dtype == np.float64 else 1e-6
    return clocked(count, lambda: newton(*arrays, tol=tol, max_iter=25)[0])


@peer("statsmodels, a loop", (*BATCHES, *BOOTSTRAP, *LARGE), ("statsmodels",), float64_only=True)
def _statsmodels(data: Data) -> Run:
    import statsmodels.api as sm

    count = min(data.case.batch, 32)
    arrays = data.host(count)

    def one(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        return sm.GLM(y, x, sm.families.Binomial(), freq_weights=weights).fit(tol=1e-10).params

    return _loop(count, one, arrays)


def _loop(count: int, one: Callable[..., np.ndarray], arrays: tuple[np.ndarray | None, ...]) -> Run:
    def all_() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # separation; the table says what became of the coefficients
            each = ([a if a is None else a[i if len(a) > 1 else 0] for a in arrays] for i in range(count))
            return np.stack([one(*own) for own in each])

    return clocked(count, all_)


@peer("R glm.fit, a loop", (*BATCHES, *BOOTSTRAP), ("Rscript",), float64_only=True)
def _r(data: Data) -> Run:
    """Timed inside R, so that its start and the transfer do not count."""
    n, p, count = data.case.n, data.case.p, min(data.case.batch, 128)
    x, y, weights = data.host(count)
    full = [(x, (count, n, p)), (y, (count, n)), (np.ones(1) if weights is None else weights, (count, n))]
    packed = np.concatenate([np.broadcast_to(a, shape).swapaxes(1, -1).ravel() for a, shape in full])
    script = Path(__file__).with_name("glm.R")

    def fits() -> Fits:
        with tempfile.NamedTemporaryFile() as given, tempfile.NamedTemporaryFile() as taken:
            packed.astype("<f8").tofile(given.name)
            subprocess.run(
                ["Rscript", "--vanilla", str(script), given.name, taken.name, *map(str, (count, n, p))], check=True
            )
            answer = np.fromfile(taken.name)
        return Fits(answer[0], answer[0], answer[1:].reshape(count, p))

    return Run(count, fits)


@peer("glmax, vmap", BATCHES, ("glmax",), float64_only=True)
def _glmax(data: Data) -> Run:
    import glmax

    count = min(data.case.batch, 2048)
    x, y = data.x[:count], data.y[:count]
    solve = jax.jit(jax.vmap(lambda x, y: glmax.fit(glmax.Binomial(), x, y).params.beta))
    return clocked(count, lambda: solve(x, y))


@peer("scikit-learn, newton-cholesky", LARGE, ("sklearn",))
def _sklearn(data: Data) -> Run:
    from sklearn.linear_model import LogisticRegression

    x, y = np.asarray(data.x[0]), np.asarray(data.y[0])
    model = LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=1e-8)
    return clocked(1, lambda: model.fit(x, y).coef_)


@peer("glum", LARGE, ("glum",))
def _glum(data: Data) -> Run:
    import glum

    x, y = np.asarray(data.x[0]), np.asarray(data.y[0])
    model = glum.GeneralizedLinearRegressor(family="binomial", alpha=0, fit_intercept=False, gradient_tol=1e-8)
    return clocked(1, lambda: model.fit(x, y).coef_[None])
