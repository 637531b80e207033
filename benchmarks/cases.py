"""The cases: logistic regressions, their data in both layouts, and the reference their answers are held against."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Only coefficients of datasets whose linear predictor stays below this are compared: beyond it the maximum exists in
# theory, and moves by more than 1e-8 with the rounding of a weight.
LARGEST_PREDICTOR = 12.0


@dataclass(frozen=True)
class Case:
    """B datasets of n rows and p columns."""

    name: str
    n: int
    p: int
    batch: int
    kind: str = "own"  # "own" X per dataset | "mix": a fifth of them separated | "bootstrap": one X, weights | "large"
    spread: float = 1.0  # standard deviation of X
    seed: int = 418

    @property
    def coefficients(self) -> list[float]:
        """The true ones."""
        return [1.5, -1.0] if self.p == 2 else [(-1) ** j / math.sqrt(self.p) for j in range(self.p)]

    def quick(self, batch: int | None) -> Case:
        """The same case at a size for a rehearsal."""
        if self.kind == "large":
            return replace(self, n=20_000)
        return replace(self, batch=batch or max(64, self.batch // 16))


CASES = {
    case.name: case
    for case in (
        Case("n20-p2", 20, 2, 2**17, spread=1.5),
        Case("n200-p5", 200, 5, 2**14),
        Case("n1000-p20", 1000, 20, 2**10),
        Case("bootstrap", 200, 5, 2**14, "bootstrap"),
        Case("mix", 200, 5, 2**14, "mix"),
        Case("large", 1_000_000, 50, 1, "large"),
    )
}
GPU_CASES = {
    case.name: case
    for case in (
        Case("n200-p5", 200, 5, 2**20),
        Case("n20-p2", 20, 2, 2**22, spread=1.5),
        Case("n1000-p20", 1000, 20, 2**16),
    )
}


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def draw(
    chunk: jax.Array, case: Case, count: int, dtype: np.dtype, generator: str = "threefry2x32"
) -> tuple[jax.Array, jax.Array]:
    """Chunk number ``chunk`` of a study, datasets last: X ``(n, p, T)`` and y ``(n, T)``."""
    for_x, for_y = jax.random.split(jax.random.fold_in(jax.random.key(case.seed, impl=generator), chunk))
    x = case.spread * jax.random.normal(for_x, (case.n, case.p, count), dtype)
    eta = (x * jnp.array(case.coefficients, dtype)[None, :, None]).sum(1)
    y = jax.random.uniform(for_y, eta.shape, dtype) < jax.nn.sigmoid(eta)
    if case.kind == "mix":
        # Every tenth dataset is separated by its true coefficients, the one five places later by a 0/1 column alone.
        complete, quasi = (jnp.arange(count)[None] % 10 == place for place in (0, 5))
        x = x.at[:, -1].set(jnp.where(quasi, (x[:, -1] > 0).astype(dtype), x[:, -1]))
        y = jnp.where(complete, eta > 0, jnp.where(quasi, y | (x[:, -1] > 0), y))
    return x, y.astype(dtype)


@dataclass(frozen=True)
class Data:
    """The data of a case in one precision; every layout is made once, when first asked for."""

    case: Case
    dtype: np.dtype
    device: str = "cpu"

    @cached_property
    def chunk(self) -> int:
        """Datasets a call where they come batch-last: two calls a core, or what a GPU draws at a time."""
        elements = self.case.n * self.case.p
        most = 2**31 // elements if self.device == "gpu" else max(1, self.case.batch // (2 * CORES))
        return math.gcd(self.case.batch, 2 ** int(math.log2(most)))

    @cached_property
    def last(self) -> list[tuple[jax.Array, jax.Array]]:
        """Chunks of X ``(n, p, T)`` and y ``(n, T)``."""
        one = self.case if self.case.kind != "bootstrap" else replace(self.case, batch=1)
        count = min(self.chunk, one.batch)
        return [draw(jnp.uint32(i), one, count, self.dtype) for i in range(one.batch // count)]

    @cached_property
    def x(self) -> jax.Array:
        """``(B, n, p)``; for a bootstrap ``(n, p)``."""
        return self._leading(0)

    @cached_property
    def y(self) -> jax.Array:
        """``(B, n)``; for a bootstrap ``(n,)``."""
        return self._leading(1)

    def _leading(self, part: int) -> jax.Array:
        whole = jnp.concatenate([jnp.moveaxis(chunk[part], -1, 0) for chunk in self.last])
        return jax.block_until_ready(whole[0] if self.case.kind == "bootstrap" else whole)

    @cached_property
    def weights(self) -> jax.Array | None:
        """For a bootstrap, how often each row was drawn: ``(B, n)``."""
        if self.case.kind != "bootstrap":
            return None
        n, rng = self.case.n, np.random.default_rng(self.case.seed)
        return jnp.asarray(rng.multinomial(n, np.full(n, 1 / n), self.case.batch), self.dtype)

    def host(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """X, y and weights of the first ``count`` datasets in NumPy, with their batch axes."""
        shared = self.case.kind == "bootstrap"
        x, y = (np.asarray(a[None] if shared else a[:count]) for a in (self.x, self.y))
        return x, y, None if self.weights is None else np.asarray(self.weights[:count])

    @cached_property
    def unmixed(self) -> Data:
        """Of a mix, the same data before a fifth of them were separated."""
        return replace(self, case=replace(self.case, kind="own"))

    @cached_property
    def reference(self) -> np.ndarray:
        """Coefficients solved to rounding in float64, for the first datasets; NaN where they are not to be compared."""
        arrays = self.host(2**14 if self.device == "cpu" else 2**11)
        return solved(*arrays)


def solved(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Coefficients to rounding, in float64; NaN where they are not to be compared."""
    x, y, weights = (None if a is None else a.astype(np.float64) for a in (x, y, weights))
    params, settled = newton(x, y, weights, tol=0.0)
    largest = in_pieces(lambda x, params: np.abs(np.einsum("bnp,bp->bn", x, params)).max(1), 2048, x, params)
    return np.where((settled & (largest < LARGEST_PREDICTOR))[:, None], params, np.nan)


def newton(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, tol: float, max_iter: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Batched Newton's method with step-halving in NumPy: coefficients ``(B, p)``, and whether the last step was small.

    A dataset leaves the batch when its squared Newton decrement is at most ``tol``; ``tol=0`` runs to rounding.
    """
    return in_pieces(partial(_newton, tol=tol, max_iter=max_iter), 2048, x, y, weights)


def in_pieces(function: Callable, size: int, *arrays: np.ndarray | None):
    """``function`` over pieces of the batch axis; axes of length one are shared."""
    batch = max(len(a) for a in arrays if a is not None)
    pieces = [
        function(*(a if a is None or len(a) == 1 else a[i : i + size] for a in arrays)) for i in range(0, batch, size)
    ]
    if isinstance(pieces[0], tuple):
        return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return np.concatenate(pieces)


def _newton(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, tol: float, max_iter: int):
    batch, p = max(len(y), len(x), 0 if weights is None else len(weights)), x.shape[-1]
    params, small = np.zeros((batch, p), x.dtype), np.zeros(batch, bool)
    step, least, open_ = np.zeros_like(params), np.full(batch, np.inf, x.dtype), np.arange(batch)
    # Below this a step is rounding: the best that can be had is when it no longer shrinks.
    noise = 64 * np.finfo(x.dtype).eps
    for _ in range(max_iter):
        own = [a if a is None or len(a) == 1 else a[open_] for a in (x, y, weights)]
        at = params[open_] + step[open_]
        loss, score, gram = _sums(*own, at)
        rose = loss > least[open_] * (1 + noise)
        good = open_[~rose]
        params[good], least[good] = at[~rose], loss[~rose]
        with np.errstate(all="ignore"):
            solved = np.linalg.solve(gram + _ridge(gram), score[..., None])[..., 0]
        step[open_] = np.where(rose[:, None], step[open_] / 2, solved)
        length = np.abs(step[open_]).max(1)
        done = ~rose & (((score * solved).sum(1) <= tol) | (length <= noise * np.abs(at).max(1)))
        small[open_] = length < 1e-6
        params[open_[done]] += step[open_[done]]
        open_ = open_[~done]
        if not open_.size:
            break
    return params, small


def _sums(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, params: np.ndarray):
    eta = (x @ params[..., None])[..., 0]
    tail = np.exp(-np.abs(eta))
    loss = np.log1p(tail) + np.maximum(eta, 0) - y * eta
    residual, weight = y - np.where(eta >= 0, 1, tail) / (1 + tail), tail / np.square(1 + tail)
    if weights is not None:
        loss, residual, weight = weights * loss, weights * residual, weights * weight
    return loss.sum(1), (residual[:, None] @ x)[:, 0], (x * weight[..., None]).swapaxes(1, 2) @ x


def _ridge(gram: np.ndarray) -> np.ndarray:
    """Enough to keep a matrix that has vanished (a separated dataset) from raising in a batch of others."""
    p = gram.shape[-1]
    return np.finfo(gram.dtype).tiny ** 0.5 * np.eye(p, dtype=gram.dtype)
