"""The peers that run on a GPU alone, and the bandwidth that bounds all of them."""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.cases import Data
from benchmarks.peers import BATCHES, Run, clocked, peer


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
    """Bytes a second, read and written, of a copy of ``size`` bytes on the default device; the best of several."""
    copy = jax.jit(lambda a: a + 1)
    array = jnp.zeros(size // 4, jnp.float32)
    jax.block_until_ready(copy(array))
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(copy(array))
        times.append(time.perf_counter() - begin)
    return 2 * size / min(times)
