r"""Empirical Bayes: how much groups differ, from Laplace's approximation of the marginal likelihood.

Each of 300 groups has six counts with mean exp(offset + b), and its own b ~ N(0, τ²). For a precision s = 1/τ² the
ridge fit of a group is the mode of b, and R'R the curvature there, so that the log of its marginal likelihood is about

    ℓ(b̂) - ½ s b̂² + ½ log s - log R.

The sum over groups, one batch of fits, is maximized over log s by Newton's method: two derivatives through the fit.
Quadrature of the same integrals in NumPy says how good the approximation is. Run it with
``python examples/laplace.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxirls as ji

jax.config.update("jax_enable_x64", True)

GROUPS, N, TAU = 300, 6, 0.5


def make_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    offset = rng.normal(1.0, 0.3, size=(GROUPS, N))
    b = rng.normal(0, TAU, size=(GROUPS, 1))
    return np.ones((N, 1)), rng.poisson(np.exp(offset + b)).astype(float), offset


def by_quadrature(y: np.ndarray, offset: np.ndarray, taus: np.ndarray) -> float:
    """The τ on a grid that maximizes the marginal likelihood, each integral a fine Riemann sum."""
    b = np.linspace(-5, 5, 2001)
    total, exposure = y.sum(1)[:, None], np.exp(offset).sum(1)[:, None]
    rows = np.exp(total * b - exposure * np.exp(b) - (total * np.log(total / exposure + 1e-9) - total))
    prior = np.exp(-0.5 * np.square(b / taus[:, None])) / taus[:, None]
    return float(taus[np.argmax(np.log(prior @ rows.T).sum(1))])


def main() -> None:
    X, y, offset = make_data()

    def evidence(log_s: jax.Array) -> jax.Array:
        s = jnp.exp(log_s)
        fit = ji.fit(X, y, ji.Poisson(), offset=offset, penalty=ji.Ridge(s))
        return (fit.llf - 0.5 * s * fit.params[:, 0] ** 2 - jnp.log(fit.root[:, 0, 0])).sum() + 0.5 * GROUPS * log_s

    @jax.jit
    def derivatives(log_s: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(jax.grad(evidence), (log_s,), (jnp.ones_like(log_s),))

    log_s = jnp.zeros(())
    for _ in range(8):
        slope, curvature = derivatives(log_s)
        log_s = log_s - slope / curvature
    tau = float(jnp.exp(-log_s / 2))
    error = float(jnp.sqrt(-1 / curvature) * tau / 2)
    exact = by_quadrature(y, offset, np.linspace(0.3, 0.8, 501))
    print(f"τ = {tau:.4f} (std err {error:.4f}) by Laplace, {exact:.4f} by quadrature; {TAU} is the truth")
    if abs(tau - exact) > 0.02 * exact or abs(tau - TAU) > 3 * error:
        raise SystemExit("Laplace's approximation went wrong")


if __name__ == "__main__":
    main()
