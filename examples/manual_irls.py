"""One logistic fit three ways: jaxirls, statsmodels, and IRLS written out in NumPy.

Twenty Bernoulli responses, two standard normal columns times 1.5, no intercept. The script prints the history of the
fit step by step, then the largest differences between the three. Run it with ``python examples/manual_irls.py``; it
needs statsmodels.
"""

import jax
import numpy as np
import statsmodels.api as sm

import jaxirls as ji

jax.config.update("jax_enable_x64", True)


def make_data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(418)
    X = rng.normal(size=(20, 2)) * 1.5
    probability = 1 / (1 + np.exp(-X @ np.array([1.5, -1.0])))
    return X, rng.binomial(1, probability).astype(float)


def numpy_irls(X: np.ndarray, y: np.ndarray, steps: int = 50) -> np.ndarray:
    """Newton's increments for the logistic model: solve (X'WX) δ = X'(y-μ) until the decrement is at rounding."""
    beta = np.zeros(X.shape[1])
    for _ in range(steps):
        mu = 1 / (1 + np.exp(-X @ beta))
        score = X.T @ (y - mu)
        information = (X * (mu * (1 - mu))[:, None]).T @ X
        delta = np.linalg.solve(information, score)
        beta = beta + delta
        if score @ delta < 1e-24:
            break
    return beta


def main() -> None:
    X, y = make_data()
    print(ji.trace(X, y, ji.Binomial()))
    fit = ji.fit(X, y, ji.Binomial())
    print(fit.summary())
    peer = sm.GLM(y, X, family=sm.families.Binomial()).fit(tol=1e-14)
    manual = numpy_irls(X, y)
    difference = {
        "coefficients, against statsmodels": np.max(np.abs(np.asarray(fit.params) - peer.params)),
        "standard errors, against statsmodels": np.max(np.abs(np.asarray(fit.bse) - peer.bse)),
        "log-likelihood, against statsmodels": abs(float(fit.llf) - peer.llf),
        "coefficients, against NumPy": np.max(np.abs(np.asarray(fit.params) - manual)),
    }
    print("largest differences")
    for name, value in difference.items():
        print(f"  {name:<40}{value:.1e}")
    if not all(value < 1e-8 for value in difference.values()):
        raise SystemExit("the three fits disagree")


if __name__ == "__main__":
    main()
