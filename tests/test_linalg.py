"""Small systems, one a lane, against NumPy: factors, solutions, and what is said of a matrix that has none."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_triangular

from jaxirls import linalg

COLUMNS = [1, 2, 5, 8, 9, 24, linalg.WIDE + 1]  # in straight-line code, in loops, by LAPACK


def matrices(p):
    """Four lanes of ``(p, p)``, of columns of very different units; right-hand sides in the same."""
    rng = np.random.default_rng(p)
    units = 10.0 ** rng.integers(-12, 12, size=p)
    x = rng.normal(size=(4, p + 5, p)) * units
    return np.einsum("tnp,tnq->tpq", x, x), rng.normal(size=(4, p)) * units


@pytest.mark.parametrize("p", COLUMNS)
def test_factors_and_solutions_are_those_of_numpy(p):
    a, b = matrices(p)
    factor, z = linalg.factorize_with(jnp.asarray(a.transpose(1, 2, 0)), jnp.asarray(b.T))
    lower = np.linalg.cholesky(a)
    np.testing.assert_allclose(factor.root(), lower.transpose(2, 1, 0), rtol=1e-9, atol=0)
    expected = np.stack([solve_triangular(*each, lower=True) for each in zip(lower, b, strict=True)], axis=-1)
    np.testing.assert_allclose(z, expected, rtol=1e-9)
    np.testing.assert_allclose(linalg.forward(factor, jnp.asarray(b.T)), expected, rtol=1e-9)
    np.testing.assert_allclose(linalg.colored(factor, z), b.T, rtol=1e-9)
    x = linalg.backward(factor, z)
    solved = [solve_triangular(u.T, v) for u, v in zip(lower, expected.T, strict=True)]
    np.testing.assert_allclose(x, np.stack(solved, axis=-1), rtol=1e-8)
    np.testing.assert_allclose(linalg.times_root(factor, x), z, rtol=1e-8)
    np.testing.assert_allclose(linalg.log_determinant(factor), np.linalg.slogdet(a)[1], rtol=1e-11)
    correlation = a / np.sqrt(np.einsum("tpp,tqq->tpq", a, a))
    pivot = np.square(np.linalg.cholesky(correlation).diagonal(axis1=1, axis2=2)).min(1)
    np.testing.assert_allclose(factor.pivot, pivot, rtol=1e-9)


@pytest.mark.parametrize("p", COLUMNS[1:])
def test_a_lane_that_is_not_positive_definite_says_so_and_touches_no_other(p):
    a, b = matrices(p)
    good = linalg.factorize_with(jnp.asarray(a.transpose(1, 2, 0)), jnp.asarray(b.T))
    a[1, -1, -1] *= -1.0
    a[2, 0, 0] = np.nan
    factor, z = linalg.factorize_with(jnp.asarray(a.transpose(1, 2, 0)), jnp.asarray(b.T))
    np.testing.assert_array_equal(factor.pivot > 0, [True, False, False, True])
    for lane in (0, 3):
        np.testing.assert_array_equal(factor.lower[..., lane], good[0].lower[..., lane])
        np.testing.assert_array_equal(z[:, lane], good[1][:, lane])
    assert np.isfinite(np.asarray(factor.lower[..., 1])).all()
