"""A model that follows its data: one Poisson regression a step, inside ``lax.scan``.

Rows arrive ten at a time, and the truth drifts. The carry of the scan is the window of the last 200 rows and the last
fit's coefficients, from which the next fit starts; out comes the path of the coefficients, with standard errors. Run it
with ``python examples/streaming.py``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxirls as ji

jax.config.update("jax_enable_x64", True)

WINDOW, ARRIVING, STEPS = 200, 10, 100


class Carry(NamedTuple):
    X: Array  # (WINDOW, p)
    y: Array  # (WINDOW,)
    params: Array  # (p,)


def follow(carry: Carry, arrived: tuple[Array, Array]) -> tuple[Carry, ji.Fit]:
    """Slide the window, and fit it."""
    X, y = (jnp.concatenate([old[ARRIVING:], new]) for old, new in zip(carry[:2], arrived, strict=True))
    fit = ji.fit(X, y, ji.Poisson(), start=carry.params)
    return Carry(X, y, fit.params), fit


def main() -> None:
    rng = np.random.default_rng(2)
    rows = WINDOW + ARRIVING * STEPS
    drift = np.stack([np.full(rows, 0.5), np.sin(np.linspace(0, 4, rows))], axis=1)
    X = np.stack([np.ones(rows), rng.normal(size=rows)], axis=1)
    y = rng.poisson(np.exp((X * drift).sum(1))).astype(float)

    start = Carry(jnp.asarray(X[:WINDOW]), jnp.asarray(y[:WINDOW]), jnp.zeros(2))
    arriving = (X[WINDOW:].reshape(STEPS, ARRIVING, 2), y[WINDOW:].reshape(STEPS, ARRIVING))
    _, fits = jax.jit(lambda carry, data: lax.scan(follow, carry, data))(start, arriving)

    # The truth that a window sees is, to first order, the average of its rows.
    seen = np.stack([drift[ARRIVING * (i + 1) :][:WINDOW, 1].mean() for i in range(STEPS)])
    z = (fits.params[:, 1] - seen) / fits.bse[:, 1]
    print("step   slope (std err)      truth")
    for i in range(0, STEPS, 20):
        print(f"{i:4}   {fits.params[i, 1]:6.3f} ({fits.bse[i, 1]:.3f})     {seen[i]:6.3f}")
    print(f"{int(fits.converged.sum())} of {STEPS} fits converged, in {int(fits.n_iter.sum())} passes")
    if not fits.converged.all() or np.mean(np.square(z)) > 2:
        raise SystemExit("the fits do not follow the truth")


if __name__ == "__main__":
    main()
