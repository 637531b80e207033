"""The peers that run on a GPU alone, what a fit there is made of, and the bandwidth that bounds all of them.

The layout that is not the default is measured by setting a constant of ``jaxirls.engine.batch``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxirls as ji
from benchmarks.cases import Data, draw
from benchmarks.peers import BATCHES, Run, clocked, peer
from jaxirls import rounds
from jaxirls.designs import InOneKernel, LanesByBlock
from jaxirls.engine import batch
from jaxirls.kernel import in_one_kernel

PORTABLE = {"KERNEL_ROW": 0}


def layout(constants: dict[str, Any]) -> AbstractContextManager:
    """The planner of the engine with other constants."""
    return mock.patch.multiple(batch, **constants)


def kernels_run(data: Data) -> bool:
    """Whether the planner uses kernels here."""
    case = data.case
    x = jax.ShapeDtypeStruct((case.batch, case.n, case.p), data.dtype)
    y = jax.ShapeDtypeStruct((case.batch, case.n), data.dtype)
    return batch.plan(_batch(x, y)).design is InOneKernel


def _batch(x: Any, y: Any) -> batch.Batch:
    return batch.Batch(x, y, None, None, None, ji.Binomial(), None, None, None)


@peer("jaxirls, without kernels", BATCHES, device="gpu", when=kernels_run)
def _portable(data: Data) -> Run:
    """As on a GPU that has none."""
    x, y = data.x, data.y

    def fits() -> Any:
        with layout(PORTABLE):
            return ji.fit(x, y, ji.Binomial()).params

    return clocked(data.case.batch, fits)


@partial(jax.jit, static_argnums=2)
def _newton(x: Array, y: Array, tol: float) -> Array:
    def turn(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        beta, _, i = state
        mu = jax.nn.sigmoid(jnp.einsum("bnp,bp->bn", x, beta))
        score = jnp.einsum("bnp,bn->bp", x, y - mu)
        gram = jnp.einsum("bnp,bn,bnq->bpq", x, mu * (1 - mu), x)
        step = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(gram), True), score[..., None])[..., 0]
        return beta + step, jnp.abs(step).max(), i + 1

    start = jnp.zeros_like(x[:, 0]), jnp.array(jnp.inf, x.dtype), 0
    return lax.while_loop(lambda state: (state[1] > tol) & (state[2] < 25), turn, start)[0]


def _tolerance(data: Data) -> float:
    return 1e-6 if data.dtype == np.float64 else 1e-3


@peer("einsum + cholesky, batched", BATCHES, device="gpu")
def _einsum(data: Data) -> Run:
    """Batched Newton by whole-batch operations."""
    x, y, tol = data.x, data.y, _tolerance(data)
    return clocked(data.case.batch, lambda: _newton(x, y, tol))


@peer("PyTorch, batched", BATCHES, ("torch",), device="gpu")
def _torch(data: Data) -> Run:
    """The same in PyTorch, on the same memory."""
    import torch

    x, y = torch.from_dlpack(data.x), torch.from_dlpack(data.y)
    tol = _tolerance(data)

    def solve() -> np.ndarray:
        beta = torch.zeros_like(x[:, 0])
        for _ in range(25):
            mu = torch.sigmoid(torch.einsum("bnp,bp->bn", x, beta))
            score = torch.einsum("bnp,bn->bp", x, y - mu)
            gram = (x * (mu * (1 - mu))[..., None]).mT @ x
            factor, _ = torch.linalg.cholesky_ex(gram)
            step = torch.cholesky_solve(score[..., None], factor)[..., 0]
            beta = beta + step
            if float(step.abs().max()) <= tol:
                break
        if x.is_cuda:
            torch.cuda.synchronize()
        return beta.cpu().numpy()

    return clocked(data.case.batch, solve)


def copy_bandwidth(size: int) -> float:
    """Bytes a second, read and written, of a copy of ``size`` bytes on the default device."""
    array = jnp.zeros(size // 4, jnp.float32)
    return 2 * size / seconds(jax.jit(lambda a: a + 1), array)


def seconds(function: Callable[..., Any], *arguments: Any, turns: int = 10) -> float:
    """The fastest of some calls, after one that compiles."""
    times = []
    for _ in range(1 + turns):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def parts(data: Data) -> dict[str, float]:
    """Datasets a second of each part of a fit by itself."""
    case, count = data.case, min(data.chunk, data.case.batch)
    x, y = data.last[0]

    def passes(design: type, x: Array, y: Array) -> Array:
        laid = batch.problem(_batch(x, y), design, count)  # lanes last, as they were drawn
        return in_one_kernel(partial(rounds.first_passes, ji.IRLS()), laid)[0].beta

    first = jnp.moveaxis(x, -1, 0) + 0  # in memory too
    found = {"transposition of X": count / seconds(jax.jit(batch.lanes_last), first)}
    for name in ("threefry2x32", "rbg"):
        found[f"drawing, {name}"] = count / seconds(
            lambda name=name: draw(jnp.uint32(0), case, count, data.dtype, name)
        )
    design = InOneKernel if kernels_run(data) else LanesByBlock
    if case.p <= batch.LANES_COLUMNS or design is InOneKernel:
        found["all passes"] = count / seconds(jax.jit(partial(passes, design)), x, y)
    return found
