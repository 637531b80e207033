r"""Newton's equations: those of the observed information, in the lanes where it is positive definite; else Fisher's.

Fisher scoring nears the optimum by the factor by which the two differ: in many small steps where rows are few, and
hardly at all where the likelihood is not concave (Cauchy). Under a canonical link there is no difference.

From the Gram matrix the observed information is one more pass with other weights. These may be negative, and √W X = QR
then does not exist: there it is I + Σᵢ (oᵢ - wᵢ) zᵢzᵢ' in the coordinates z = R⁻ᵀx in which the expected one is I.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxirls import linalg
from jaxirls.bends import products
from jaxirls.designs import Kernel, Terms
from jaxirls.equations import Equations, Method, System, by_cholesky, by_qr
from jaxirls.problem import Problem
from jaxirls.rows import Rows
from jaxirls.trees import select

__all__ = ["newtons", "sharpened"]


def sharpened(method: Method, problem: Problem) -> Method:
    """The method that makes Newton's equations where ``method`` makes Fisher's."""
    if not problem.has_newton_steps:
        return method
    return _by_newton_and_qr if method is by_qr else _by_newton


def _by_newton(system: System, beta: Array, rows: Rows, kernel: Kernel) -> Equations:
    return newtons(system, beta, rows, by_cholesky(system, beta, rows, kernel))


def newtons(system: System, beta: Array, rows: Rows, fisher: Equations) -> Equations:
    """Newton's equations from the Gram matrix, given ``fisher``, those that they take the place of."""

    def observed(eta: Array, rows: Rows) -> Terms:
        at = rows.shift(eta)
        weight = rows.family.observed_information(at, rows.y)
        return Terms(rows.weigh(weight), rows.weigh(rows.family.working(at, rows.y).score))

    newton = by_cholesky(system, beta, rows, observed)
    return _merged(fisher, newton.factor, newton.half, ~newton.singular, newton.factor.pivot)


def _by_newton_and_qr(system: System, beta: Array, rows: Rows, kernel: Kernel) -> Equations:
    fisher, p = by_qr(system, beta, rows, kernel), system.design.p
    at = rows.shift(system.design.predict(beta))
    surplus = rows.weigh(rows.family.observed_information(at, rows.y) - rows.family.working(at, rows.y).weight)
    z = system.design.whitened(fisher.factor)
    turn = jnp.eye(p, dtype=beta.dtype)[:, :, None] + products(z, surplus)
    newton, half = linalg.factorize_with(turn, fisher.half)
    root = jnp.einsum("abt,bct->act", newton.root(), fisher.factor.root(), precision=linalg.HIGHEST)
    return _merged(fisher, linalg.factor_of(root), half, ~newton.lossy, newton.pivot)


def _merged(fisher: Equations, factor: linalg.Factor, half: Array, definite: Array, pivot: Array) -> Equations:
    return fisher._replace(
        factor=select(definite, factor, fisher.factor),
        half=select(definite, half, fisher.half),
        singular=fisher.singular & ~definite,
        indefinite=~(pivot > -(jnp.finfo(half.dtype).eps ** 0.5)) & ~fisher.factor.lossy,
    )
