"""What a derivative costs, in units of the fit: ``python -m benchmarks.derivatives``.

Logistic, float64, one program each, warm, the turns of all programs taken in rotation and the fastest turn of each
reported. The scalar is the sum of all coefficients; its gradient is with respect to X and y.
"""

from __future__ import annotations

import time

import jax
import numpy as np

import jaxirls as ji

TURNS = 7
SHAPES = ((1000, 200, 5), (10_000, 20, 2))


def seconds(programs: dict, *arguments) -> dict[str, float]:
    """The fastest turn of every program, its compilation left out."""
    for program in programs.values():
        jax.block_until_ready(program(*arguments))
    best = dict.fromkeys(programs, np.inf)
    for _ in range(TURNS):
        for name, program in programs.items():
            before = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            best[name] = min(best[name], time.perf_counter() - before)
    return best


def main() -> None:
    def total(X, y):
        return ji.fit(X, y, ji.Binomial()).params.sum()

    def tangent(X, y):
        return jax.jvp(total, (X, y), (X, y))[1]

    programs = {
        "fit": jax.jit(total),
        "forward": jax.jit(tangent),
        "gradient": jax.jit(jax.grad(total, argnums=(0, 1))),
    }
    for batch, n, p in SHAPES:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(batch, n, p))
        y = rng.binomial(1, 1 / (1 + np.exp(-X.sum(-1) / p))).astype(float)
        best = seconds(programs, X, y)
        ratios = ", ".join(f"{name} {best[name] / best['fit']:.2f}" for name in programs if name != "fit")
        print(f"{batch:,} datasets, n = {n}, p = {p}: fit {1e3 * best['fit']:.1f} ms; in units of it, {ratios}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
