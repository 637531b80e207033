"""Learn how much to shrink: the strength of a ridge penalty by gradient descent through the fit.

Sixty rows, twenty columns, logistic. The loss is the mean deviance of held-out rows, a function of the strength by way
of the fitted coefficients alone; ``jax.grad`` goes through the fit by implicit differentiation, optax does the
rest. The same loss on a grid of strengths, all fitted in one call, shows that the descent found the valley. Run it with
``python examples/learn_ridge.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxirls as ji

jax.config.update("jax_enable_x64", True)

FAMILY = ji.Binomial()


def make_data(n: int, rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    X = rng.normal(size=(n, truth.size))
    return X, rng.binomial(1, 1 / (1 + np.exp(-X @ truth))).astype(float)


def main() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=20) * 0.4
    X, y = make_data(60, rng, truth)
    X_new, y_new = make_data(1000, rng, truth)

    def loss(log_strength: jax.Array) -> jax.Array:
        fit = ji.fit(X, y, FAMILY, penalty=ji.Ridge(jnp.exp(log_strength)))
        eta = fit.predict(X_new, linear=True)
        return jnp.mean(FAMILY.unit_deviance(eta, jnp.broadcast_to(y_new, eta.shape)), axis=-1)

    optimizer = optax.adam(0.2)
    log_strength = jnp.zeros(())
    state = optimizer.init(log_strength)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    for step in range(81):
        value, gradient = value_and_grad(log_strength)
        if step % 20 == 0:
            print(f"step {step:2}   strength {np.exp(log_strength):7.4f}   held-out deviance {value:.5f}")
        change, state = optimizer.update(gradient, state)
        log_strength = optax.apply_updates(log_strength, change)

    grid = jnp.linspace(-4, 5, 91)
    on_grid = loss(grid)  # leading axes are batch axes: 91 fits
    print(f"learnt     {np.exp(log_strength):7.4f}   held-out deviance {value:.5f}")
    print(f"best of 91 {np.exp(grid[jnp.argmin(on_grid)]):7.4f}   held-out deviance {on_grid.min():.5f}")
    if value > on_grid.min() + 1e-4:
        raise SystemExit("the descent did not find the best strength")


if __name__ == "__main__":
    main()
