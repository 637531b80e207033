"""Ten thousand bootstrap refits of a logistic regression, as one batch.

A bootstrap sample is a count for every row: a ``freq_weights`` of shape ``(10000, n)``. X and y are given once, and
shared. Printed are the standard errors of the model beside the spread of the refits. Run it with
``python examples/bootstrap.py``.
"""

import time

import jax
import numpy as np

import jaxirls as ji

jax.config.update("jax_enable_x64", True)

REFITS, N = 10_000, 400


def main() -> None:
    rng = np.random.default_rng(3)
    X = np.stack([np.ones(N), rng.normal(size=N), rng.binomial(1, 0.5, N)], axis=1)
    y = rng.binomial(1, 1 / (1 + np.exp(-X @ np.array([-0.3, 0.8, 0.5])))).astype(float)
    counts = rng.multinomial(N, np.full(N, 1 / N), size=REFITS).astype(float)

    fit = ji.fit(X, y, ji.Binomial())
    before = time.perf_counter()
    refits = ji.fit(X, y, ji.Binomial(), freq_weights=counts)
    seconds = time.perf_counter() - before
    spread = np.std(refits.params, axis=0, ddof=1)
    low, high = np.quantile(refits.params, [0.025, 0.975], axis=0)

    print(f"{REFITS:,} refits in {seconds:.1f} s, compilation included; {int(refits.converged.sum()):,} converged")
    print("coefficient     model's std err     bootstrap's     95% interval, model's       bootstrap's")
    for j, (a, b) in enumerate(fit.conf_int()):
        intervals = f"[{a:8.4f}, {b:7.4f}]   [{low[j]:7.4f}, {high[j]:7.4f}]"
        print(f"{fit.params[j]:11.4f}{fit.bse[j]:20.4f}{spread[j]:16.4f}       {intervals}")
    if not refits.converged.all() or np.max(np.abs(spread / np.asarray(fit.bse) - 1)) > 0.1:
        raise SystemExit("bootstrap and model disagree")


if __name__ == "__main__":
    main()
