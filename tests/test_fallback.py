"""The fallback: who is fitted again, by what, and what is said about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import Status

N = 12
# One dataset of every kind: well posed, separated, aliased, invalid, well posed.
GOOD, SEPARATED, ALIASED, INVALID, LAST = range(5)


def datasets():
    rng = np.random.default_rng(11)
    X = np.stack([np.ones((5, N)), rng.normal(size=(5, N))], axis=-1)
    y = np.array([[0, 1, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0]] * 5, dtype=float)
    y[SEPARATED] = X[SEPARATED, :, 1] > 0.1
    X[ALIASED, :, 1] = 1
    X[INVALID, 3, 1] = np.nan
    return X, y


def same(a, b, msg=""):
    for name in ("params", "bse", "llf", "status"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=f"{msg} {name}")


@pytest.mark.parametrize("penalty", [ji.Jeffreys(), ji.Ridge(0.5)], ids=["jeffreys", "ridge"])
def test_exactly_the_datasets_without_an_estimate_are_fitted_again(penalty):
    X, y = datasets()
    plain = ji.fit(X, y, ji.Binomial())
    fit = ji.fit(X, y, ji.Binomial(), fallback=penalty)
    again = ji.fit(X, y, ji.Binomial(), penalty=penalty)
    expected = np.isin(np.arange(5), [SEPARATED, *([ALIASED] if penalty.identifies else [])])
    np.testing.assert_array_equal(fit.penalized, expected)
    np.testing.assert_array_equal(fit.unpenalized_status, plain.status)
    assert plain.status[SEPARATED] == Status.SEPARATED
    for i in range(5):
        same(fit[i], (again if expected[i] else plain)[i], str(i))
        if expected[i]:
            assert fit.status[i] == Status.CONVERGED
    np.testing.assert_array_equal(fit.direction[SEPARATED], plain.direction[SEPARATED])
    assert np.abs(fit.direction[SEPARATED]).max() == 1


def test_compiled_and_mapped_programs_fall_back_alike():
    X, y = datasets()

    def of(X, y):
        return ji.fit(X, y, ji.Binomial(), fallback=ji.Jeffreys())

    eager, compiled = of(X, y), jax.jit(of)(X, y)
    mapped = jax.jit(jax.vmap(of))(X, y)
    for other in (compiled, mapped):
        # One estimate is zero, to rounding.
        np.testing.assert_allclose(other.params, eager.params, rtol=1e-9, atol=1e-15)
        for name in ("status", "unpenalized_status", "penalized"):
            np.testing.assert_array_equal(getattr(other, name), getattr(eager, name))


def test_derivatives_are_those_of_the_objective_that_was_maximized():
    X, y = datasets()

    def total(X, **options):
        return jnp.nansum(jax.vmap(lambda X, y: ji.fit(X, y, ji.Binomial(), **options).params)(X, y) ** 2)

    found = jax.jit(jax.grad(lambda X: total(X, fallback=ji.Jeffreys())))(X)
    plain = jax.jit(jax.grad(total))(X)
    penalized = jax.jit(jax.grad(lambda X: total(X, penalty=ji.Jeffreys())))(X)
    for i in (GOOD, LAST):
        np.testing.assert_allclose(found[i], plain[i], rtol=1e-9)
    np.testing.assert_allclose(found[SEPARATED], penalized[SEPARATED], rtol=1e-9)
    assert np.abs(found[SEPARATED]).max() > 0
    np.testing.assert_array_equal(found[INVALID], 0)


def test_the_condition_number_asks_for_it_too():
    X, y = datasets()
    plain = ji.fit(X, y, ji.Binomial())
    ranked = np.sort(np.asarray(plain.condition_number)[[GOOD, LAST]])
    config = ji.IRLS(max_condition=float(ranked.mean()))
    fit = ji.fit(X, y, ji.Binomial(), fallback=ji.Ridge(0.5), config=config)
    worst = (GOOD, LAST)[int(np.argmax(np.asarray(plain.condition_number)[[GOOD, LAST]]))]
    assert bool(fit.penalized[worst])
    assert fit.unpenalized_status[worst] == Status.CONVERGED
    assert int(fit.penalized.sum()) == 3
    np.testing.assert_array_equal(fit.penalty_curvature[~fit.penalized], 0)
    np.testing.assert_array_equal(fit.penalty_curvature[fit.penalized], 0.5)


def test_a_fallback_that_nobody_needs_is_not_even_compiled(monkeypatch):
    X, y = (a[[GOOD, LAST]] for a in datasets())

    def refused(*_):
        raise AssertionError("the fallback was fitted")

    monkeypatch.setattr(ji.Jeffreys, "rate", refused)
    data = ji.fit(X, y, ji.Binomial(), fallback=ji.Jeffreys())
    assert not data.penalized.any()
    same(data, ji.fit(X, y, ji.Binomial()))


def test_impossible_options_are_refused():
    X, y = datasets()
    with pytest.raises(ValueError, match="penalty and fallback are both given"):
        ji.fit(X, y, ji.Binomial(), penalty=ji.Ridge(1.0), fallback=ji.Jeffreys())
    with pytest.raises(ValueError, match="fallback must be None or a penalty"):
        ji.fit(X, y, ji.Binomial(), fallback=1.0)
    with pytest.raises(ValueError, match="needs a known dispersion"):
        ji.fit(X, y, ji.Gaussian(), fallback=ji.Jeffreys())
    with pytest.raises(ValueError, match="max_condition must be at least 1"):
        ji.IRLS(max_condition=0.5)
    with pytest.raises(ValueError, match="n < p"):
        ji.fit(np.ones((2, 3)), np.ones(2), ji.Binomial(), fallback=ji.Jeffreys())
