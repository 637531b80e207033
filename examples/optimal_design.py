"""Where to measure: the D-optimal doses of a logistic experiment, by gradient ascent on the design.

A fit to the *expected* responses of an experiment has the true coefficients, and R'R = X'WX is the information that the
experiment will give. The script climbs log det R'R = 2 Σ log Rⱼⱼ as a function of the doses, through the fit. Theory
has the answer: half of the doses at each of the two points where the linear predictor is ±1.5434 (Ford, Torsney & Wu
1992, J. R. Statist. Soc. B 54, 569-583). Run it with ``python examples/optimal_design.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxirls as ji

jax.config.update("jax_enable_x64", True)

FAMILY, TRUTH = ji.Binomial(), jnp.array([-1.0, 0.5])
OPTIMUM = 1.5434


def predictor(doses: jax.Array) -> jax.Array:
    return TRUTH[0] + TRUTH[1] * doses


def information(doses: jax.Array) -> jax.Array:
    """log det of the information about intercept and slope that the doses will give."""
    X = jnp.stack([jnp.ones_like(doses), doses], axis=-1)
    fit = ji.fit(X, FAMILY.mean(predictor(doses)), FAMILY)
    return 2 * jnp.log(jnp.abs(jnp.diagonal(fit.root))).sum()


def main() -> None:
    doses = jnp.linspace(0.0, 4.0, 10)
    optimizer = optax.adam(0.1)
    state = optimizer.init(doses)
    value_and_grad = jax.jit(jax.value_and_grad(information))
    for step in range(301):
        value, gradient = value_and_grad(doses)
        if step % 100 == 0:
            print(f"step {step:3}   log det {value:.4f}   doses {np.round(doses, 2)}")
        change, state = optimizer.update(-gradient, state)
        doses = optax.apply_updates(doses, change)
    eta = np.sort(predictor(doses))
    print(f"the predictors, in theory ±{OPTIMUM}: {np.round(eta, 4)}")
    if np.max(np.abs(eta - np.repeat([-OPTIMUM, OPTIMUM], 5))) > 1e-3:
        raise SystemExit("the doses are not the optimal ones")


if __name__ == "__main__":
    main()
