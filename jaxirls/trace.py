"""``trace``: the history of one fit, step by step."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxirls import irls, rounds, starts
from jaxirls.checks import check_arguments
from jaxirls.config import IRLS
from jaxirls.designs import Dense
from jaxirls.engine.batch import problem
from jaxirls.equations import by_cholesky, by_qr
from jaxirls.families import Family
from jaxirls.fit import as_batch
from jaxirls.likelihood import pending_deviance, pending_likelihood
from jaxirls.problem import ILL_CONDITIONED, Problem, State
from jaxirls.proof import Solution, last_pass, statistics
from jaxirls.status import RUNNING, Status

__all__ = ["Trace", "trace"]


class Trace(NamedTuple):
    """One fit's history: entry k of every array is the state after k accepted steps; entry 0 is the start.

    Attributes:
      beta: coefficients, ``(steps + 1, p)``.
      llf: log-likelihood with all its constants (at the dispersion of that step), ``(steps + 1,)``.
      deviance: ``(steps + 1,)``.
      score_norm: Euclidean norm of the score, ``(steps + 1,)``.
      newton_decrement: distance to the optimum in standard errors, ``(steps + 1,)``.
      condition_number: 2-norm condition number of X'WX, ``(steps + 1,)``.
      min_weight: smallest working weight, ``(steps + 1,)``.
      halvings: how often the step that led here was halved, ``(steps + 1,)``.
      status: how the fit ended.
    """

    beta: np.ndarray
    llf: np.ndarray
    deviance: np.ndarray
    score_norm: np.ndarray
    newton_decrement: np.ndarray
    condition_number: np.ndarray
    min_weight: np.ndarray
    halvings: np.ndarray
    status: Status

    def __len__(self) -> int:
        return self.beta.shape[0]

    def __str__(self) -> str:
        names = f"{'log-likelihood':>18}{'deviance':>16}{'|score|':>12}{'decrement':>12}{'cond':>11}{'min w':>11}"
        head = f"{'step':>4}{names}  beta"
        lines = [head]
        for k in range(len(self)):
            numbers = (
                f"{k:>4}{self.llf[k]:>18.10g}{self.deviance[k]:>16.10g}{self.score_norm[k]:>12.3e}"
                f"{self.newton_decrement[k]:>12.3e}{self.condition_number[k]:>11.4g}{self.min_weight[k]:>11.3e}"
            )
            lines.append(f"{numbers}  {np.array2string(self.beta[k], precision=6)}")
        return "\n".join([*lines, f"{self.status.name}: {self.status.explain}"])


def trace(
    X: ArrayLike,
    y: ArrayLike,
    family: Family,
    *,
    offset: ArrayLike | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    start: ArrayLike | None = None,
    scale: ArrayLike | str | None = None,
    config: IRLS = IRLS(),  # noqa: B008 (frozen)
) -> Trace:
    """Fit one dataset by the loop of ``ji.fit`` and record every step.

    For teaching and for finding out why a fit is slow or fails; it steps from Python, one pass over the data a time,
    and is not meant to be compiled. Arguments are those of ``ji.fit`` for one dataset.

    Args:
      X: design, ``(n, p)``.
      y: response, ``(n,)``.
      family: as in ``ji.fit``, its parameters known: ``NegativeBinomial(alpha=...)``.
      offset, freq_weights, var_weights, start, scale: as in ``ji.fit``; there is no penalty here.
      config: ``ji.IRLS(...)``.

    Returns:
      A ``Trace``; ``print(trace)`` is its table.

    Raises:
      ValueError: for the reasons of ``ji.fit``, and where the arguments have batch axes.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxirls as ji
      >>> X = jnp.ones((4, 1))
      >>> history = ji.trace(X, jnp.array([1.0, 1.0, 1.0, 0.0]), ji.Binomial(), start=jnp.array([-1.81]))
      >>> history.status.name
      'CONVERGED'
      >>> bool((history.deviance[1:] <= history.deviance[:-1] + 1e-5).all())
      True
    """
    if not isinstance(config, IRLS):
        raise ValueError(f"trace: config must be ji.IRLS(...), whose steps it shows, got {type(config).__name__}")
    data = check_arguments(X, y, family, offset, freq_weights, var_weights, start=start, scale=scale)
    if data.X.ndim != 2 or data.y.ndim != 1:
        raise ValueError(
            f"trace takes one dataset: X has shape {data.X.shape} and y {data.y.shape}; index the batch first"
        )
    one = as_batch(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], data))
    laid = problem(one.tile(0, 1), Dense, 1).checked
    finish = jax.jit(partial(_finished, laid, config))
    method, state = by_cholesky, starts.start(laid)
    if config.solver == "qr" or (config.solver == "auto" and int(state.code[0]) == ILL_CONDITIONED):
        method = by_qr
        aliased, state = starts.start_independent(laid)
        laid = laid._replace(aliased=aliased)
    late = jax.jit(lambda state: irls.run_late(laid, state, config, state.n_iter[0] + 1, method))
    early = jax.jit(lambda state: irls.run_early(laid, state, config, state.n_iter[0] + 1))
    again = jax.jit(lambda state: late(irls.by_loss(laid, state)) if irls.is_judged_by_score(laid) else state)

    @jax.jit
    def inspect(state: State, beta: Array) -> Solution:
        solution, _ = statistics(laid, _running_at(state, beta), config, last_pass(laid, beta, method))
        return _completed(laid, solution, config)

    history: list[Solution] = []
    halvings: list[int] = []
    refused, is_early = 0, method is by_cholesky
    while int(state.code[0]) == RUNNING and int(state.n_iter[0]) < config.max_iter:
        if is_early and not bool((state.n_iter < rounds.first_limit(laid, config, state)).all()):
            is_early, state = False, again(state)
            continue
        step = early if is_early else late
        candidate, state = state.beta + state.step, step(state)
        if int(state.halvings[0]):
            refused += 1
            continue
        if not np.isfinite(state.decrement[0]):  # the same candidate again, by Fisher's weights
            continue
        history.append(inspect(state, candidate))
        halvings.append(refused)
        refused = 0
    final = finish(state)
    if not history or int(state.code[0]) == Status.CONVERGED:
        history.append(final)
        halvings.append(0)
    states = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf)[..., 0] for leaf in leaves]), *history)
    return Trace(
        beta=states.params,
        llf=states.llf,
        deviance=states.deviance,
        score_norm=states.score_norm,
        newton_decrement=states.newton_decrement,
        condition_number=_condition(states.root, final.aliased[..., 0]),
        min_weight=states.min_weight,
        halvings=np.asarray(halvings),
        status=Status(int(final.status[0])),
    )


def _condition(roots: np.ndarray, aliased: Array) -> np.ndarray:
    """Condition numbers of RᵀR on the columns that are not aliased, infinite where R is not known."""
    kept = np.flatnonzero(~np.asarray(aliased))
    return np.square(np.linalg.cond(np.nan_to_num(roots[:, kept][:, :, kept])))


def _finished(problem: Problem, config: IRLS, state: State) -> Solution:
    return _completed(problem, rounds.complete(problem, state, jnp.ones(1, bool), config), config)


def _completed(problem: Problem, solution: Solution, config: IRLS) -> Solution:
    """The solution with its likelihood."""
    if solution.pending is None:
        return solution
    return solution.completed(pending_likelihood(problem, pending_deviance(problem, solution.asked.at, config), config))


def _running_at(state: State, beta: Array) -> State:
    return state._replace(beta=beta, code=jnp.full_like(state.code, RUNNING))
