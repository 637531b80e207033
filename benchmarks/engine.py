"""What the engine's choices are made of: ``python -m benchmarks.engine [SECTION ...]``.

designs      fits a second of each layout of X, by rows and columns; the choices of ``engine/batch.py`` come from these
families     fits a second of families and links, n = 200, p = 5, and the most passes that a dataset takes
penalties    a batch under Jeffreys' penalty, in units of one without
stragglers   a batch with a fifth of its datasets separated, in units of one with none, datasets first and last
memory       resident memory of a study of a million datasets, n = 200, p = 5, float64
compiling    seconds of a first call, by columns, each in a process of its own (importing JAX apart), and of a second

Logistic but for the families, warm but for the last; the candidates of a row are taken in turns, and their median.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import jaxirls as ji
from benchmarks import report
from benchmarks.cases import CASES, Data
from benchmarks.peers import fit_batch, fit_chunks
from jaxirls import links
from jaxirls.config import IRLS
from jaxirls.designs import WIDTH, Dense, Folded, Lanes, LanesByRow, Shared, SharedByRow
from jaxirls.engine.batch import FOLDED_TILE, LANES_TILE, SHARED_TILE, Batch, Plan, cpu_plan, plan
from jaxirls.engine.dispatch import fit_planned

TURNS = 5
ELEMENTS = 2**22  # of X in a batch
PLANS = (
    cpu_plan(Lanes, LANES_TILE),
    cpu_plan(LanesByRow, WIDTH),
    cpu_plan(LanesByRow, 8),
    cpu_plan(Folded, FOLDED_TILE),
    cpu_plan(Folded, 1),
    cpu_plan(Dense, 1),
)
SHARED_PLANS = (*PLANS, cpu_plan(Shared, SHARED_TILE), cpu_plan(SharedByRow, SHARED_TILE))
SHAPES = (
    (20, 2),
    (200, 5),
    (200, 8),
    (200, 12),
    (200, 20),
    (200, 32),
    (1000, 5),
    (1000, 20),
    (20_000, 5),
    (20_000, 20),
)
UNROLLED = 12  # columns: beyond them the products of ``Lanes`` are slow, and slow to compile
FAMILIES = (
    ji.Binomial(),
    ji.Binomial(link=links.Probit()),
    ji.Binomial(link=links.CLogLog()),
    ji.Poisson(),
    ji.Gamma(link=links.Log()),
    ji.NegativeBinomial(alpha=1.0),
    ji.InverseGaussian(link=links.Log()),
)
PENALIZED_SHAPES = ((20, 2), (200, 5), (50, 8), (1000, 20))
SHARED_SHAPES = ((20, 2), (200, 5), (200, 8), (200, 20), (1000, 5), (1000, 20))

MILLION = """
import resource
import jaxirls as ji
from jaxirls import study
scenario = study.Scenario(n=200, coefficients=[0.4, -0.4, 0.4, -0.4, 0.4], design=study.Normal(intercept=False),
                          family=ji.Binomial(), replicates=1_000_000, seed=1, dtype="float64")
result = study.run(scenario)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{peak:.2f} GiB at most; {result.timing.run_seconds:.1f} s, compiling {result.timing.compile_seconds:.1f} s")
"""
FIRST = """
import time
import jax, numpy as np
jax.config.update("jax_enable_x64", {dtype!r} == "float64")
import jaxirls as ji
rng = np.random.default_rng(0)
def data(batch):
    X = rng.normal(size=(batch, 200, {p})).astype({dtype!r})
    return X, rng.binomial(1, 1 / (1 + np.exp(-X[..., 0]))).astype({dtype!r})
jax.block_until_ready(jax.numpy.ones(3) + 1)
def seconds(batch):
    X, y = data(batch)
    before = time.perf_counter()
    fit = ji.fit(X, y, ji.Binomial())
    jax.block_until_ready(fit.params)
    return time.perf_counter() - before
print(f"{{seconds(1000):.1f}} s, again {{seconds(1000):.2f}} s, of 999 datasets {{seconds(999):.2f}} s")
"""


def in_turns(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of a warm call of each."""
    seconds: dict[str, list[float]] = {}
    for turn in range(TURNS + 1):
        for name, call in candidates.items():
            before = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds.setdefault(name, []).append(time.perf_counter() - before)
    return {name: statistics.median(each) for name, each in seconds.items()}


def designs() -> None:
    """Every layout at every shape; the one that the engine picks is marked."""
    for shared, shapes, plans in ((False, SHAPES, PLANS), (True, SHARED_SHAPES, SHARED_PLANS)):
        print("one X for all datasets" if shared else "an X for each dataset")
        for n, p in shapes:
            batch = max(WIDTH, ELEMENTS // (n * p))
            rng = np.random.default_rng(0)
            X = rng.normal(size=(1 if shared else batch, n, p))
            y = rng.binomial(1, 1 / (1 + np.exp(-X[..., 0])), (batch, n)).astype(float)
            data = Batch(X, y, None, None, None, ji.Binomial(), None, None, None)  # type: ignore[arg-type]
            fits = {_name(each): _fit(data, each) for each in plans if each.design is not Lanes or p <= UNROLLED}
            chosen = _name(plan(data))
            rates = {name: batch / seconds for name, seconds in in_turns(fits).items()}
            listed = ", ".join(f"{'*' if name == chosen else ''}{name} {rate:,.0f}" for name, rate in rates.items())
            print(f"  n = {n}, p = {p}: {listed}", flush=True)


def _name(layout: Plan) -> str:
    return f"{layout.design.__name__} of {layout.tile}"


def _fit(data: Batch, layout: Plan) -> Callable[[], object]:
    return lambda: fit_planned(data, layout, IRLS()).params


def families() -> None:
    """Responses drawn from each model itself."""
    n, p, batch = 200, 5, 2**12
    rng = np.random.default_rng(0)
    X = rng.normal(size=(batch, n, p))
    X[..., 0] = 1
    eta = X @ (0.4 * (-1.0) ** np.arange(p))
    for dtype in ("float64", "float32"):
        for family in FAMILIES:
            y = family.sample(jax.random.key(0), family.mean(jnp.asarray(eta)))
            arrays = np.asarray(X, dtype), np.asarray(y, dtype)
            fit = ji.fit(*arrays, family)
            rate = batch / in_turns({"": _public(*arrays, family)})[""]
            name = f"{type(family).__name__} {type(family.link).__name__}"
            print(f"  {dtype} {name}: {rate:,.0f}, at most {int(fit.n_iter.max())} passes", flush=True)


def penalties() -> None:
    """Small samples and large."""
    rng = np.random.default_rng(0)
    for dtype in ("float64", "float32"):
        for n, p in PENALIZED_SHAPES:
            X = rng.normal(size=(ELEMENTS // (n * p), n, p)).astype(dtype)
            y = rng.binomial(1, 1 / (1 + np.exp(-X[..., 0]))).astype(dtype)
            fits = {str(penalty): _public(X, y, ji.Binomial(), penalty) for penalty in (None, ji.Jeffreys())}
            without, penalized = in_turns(fits).values()
            print(f"  {dtype}, n = {n}, p = {p}: {penalized / without:.1f}", flush=True)


def stragglers() -> None:
    """With and without datasets that are separated."""
    for dtype in ("float64", "float32"):
        data = {name: Data(CASES[case], np.dtype(dtype)) for name, case in (("none", "n200-p5"), ("a fifth", "mix"))}
        for layout, peer in (("datasets first", fit_batch), ("datasets last", fit_chunks)):
            runs = {name: peer(each) for name, each in data.items()}
            seconds = in_turns({name: run.fits for name, run in runs.items()})
            print(f"  {dtype}, {layout}: {seconds['a fifth'] / seconds['none']:.2f}", flush=True)


def _public(x: ArrayLike, y: ArrayLike, family: ji.Family, penalty: ji.Penalty | None = None) -> Callable[[], object]:
    return lambda: ji.fit(x, y, family, penalty=penalty).params


def memory() -> None:
    """A process of its own."""
    print("  " + _said_by(MILLION))


def compiling() -> None:
    """A process each."""
    for dtype in ("float64", "float32"):
        for p in (1, 2, 5, 8, 20):
            print(f"  {dtype}, p = {p}: {_said_by(FIRST.format(p=p, dtype=dtype))}", flush=True)


def _said_by(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


SECTIONS = {
    "designs": designs,
    "families": families,
    "penalties": penalties,
    "stragglers": stragglers,
    "memory": memory,
    "compiling": compiling,
}


def main(names: list[str]) -> None:
    """Print the named sections, or all."""
    unknown = set(names) - SECTIONS.keys()
    if unknown:
        raise SystemExit(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    about = report.machine()
    print(f"{about['date']}; {about['cpu']}, {about['cores']} cores; JAX {jax.__version__}")
    for name in names or SECTIONS:
        print(f"{name}", flush=True)
        SECTIONS[name]()


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(sys.argv[1:])
