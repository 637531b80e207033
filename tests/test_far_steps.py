"""Steps far past the optimum, and starts far from it: no deviance rises, and no good dataset ends without its fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import Status, links

SETS, ROWS = 2000, 12


def heavy_tailed(shape):
    """Covariates of Student's t with two degrees of freedom, and positive responses with a wide spread."""
    rng = np.random.default_rng(0)
    X = np.concatenate([np.ones((SETS, ROWS, 1)), rng.standard_t(2, size=(SETS, ROWS, 2))], axis=-1)
    mean = np.exp(np.clip(X @ [0.3, 0.8, -0.8], -20, 20))
    return X, mean * rng.gamma(shape, 1 / shape, size=mean.shape) + 1e-30


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        (ji.Gamma(link=links.Log()), "float64"),
        (ji.Gamma(link=links.Log()), "float32"),
        (ji.InverseGaussian(link=links.Log()), "float64"),
        (ji.Tweedie(power=2.5), "float32"),
    ],
    ids=lambda case: case if isinstance(case, str) else type(case).__name__,
)
def test_the_dispersion_moves_no_estimate(family, dtype):
    """Known or estimated, it leads to the same deviance."""
    X, y = (a.astype(dtype) for a in heavy_tailed(shape=0.5 if isinstance(family, ji.Gamma) else 3.0))
    free, known = ji.fit(X, y, family), ji.fit(X, y, family, scale=jnp.ones((), dtype))
    good = np.asarray((free.status == Status.CONVERGED) & jnp.isfinite(known.deviance))
    assert good.mean() > 0.99
    np.testing.assert_allclose(free.deviance[good], known.deviance[good], rtol=1e-8 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("start", [15.0, 40.0])
def test_the_deviance_falls_from_a_far_start(start):
    y = jnp.array([1.0, 2.0, 3.0, 4.0])
    history = ji.trace(jnp.ones((4, 1)), y, ji.Gamma(link=links.Log()), start=jnp.array([start]))
    assert (np.diff(history.deviance) <= 1e-10 * history.deviance[:-1]).all()
    fit = ji.fit(jnp.ones((4, 1)), y, ji.Gamma(link=links.Log()), start=jnp.array([start]))
    assert fit.status == Status.CONVERGED
    np.testing.assert_allclose(fit.params[0], np.log(2.5), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_where_the_likelihood_is_flat_nothing_is_converged(dtype):
    """As far out as exp(-η) vanishes the score is small beside Fisher's information, and the observed one negative."""
    y = np.array([0.5, 1.0, 1.5, 3.0], dtype)
    family, start = ji.InverseGaussian(link=links.Log()), np.array([[80.0], [40.0]], dtype)
    fit = ji.fit(np.ones((4, 1), dtype), y, family, scale=1.0, start=start)
    assert (fit.status == Status.CONVERGED).all()
    np.testing.assert_allclose(fit.params[:, 0], np.log(1.5), rtol=1e-8 if dtype == "float64" else 1e-4)


FAR = np.array([[-1000.0, 0.0], [1e4, 1e4], [50.0, 0.0], [-300.0, 5.0]])


def counts_and_events():
    rng = np.random.default_rng(0)
    X = np.stack([np.ones(200), rng.normal(size=200)], axis=-1)
    return X, (rng.random(200) < 0.6).astype(float), rng.poisson(2.0, 200).astype(float)


@pytest.mark.parametrize("family", [ji.Binomial(), ji.Binomial(link=links.Probit()), ji.Poisson()], ids=str)
def test_a_start_from_which_nothing_can_be_fitted_is_left(family):
    """Its weights vanish, or its first step is beyond all bounds: X is of full rank all the same."""
    X, events, counts = counts_and_events()
    y = counts if isinstance(family, ji.Poisson) else events
    fit = ji.fit(X, y, family, start=FAR)
    assert fit.status.tolist() == [Status.CONVERGED] * 4
    np.testing.assert_allclose(fit.params, np.tile(ji.fit(X, y, family).params, (4, 1)), rtol=1e-8)


def test_such_a_start_is_left_inside_a_program_and_kept_by_qr():
    X, y, _ = counts_and_events()
    family = ji.Binomial(link=links.Probit())
    inside = jax.jit(lambda X, y: ji.fit(X, y, family, start=jnp.array(FAR)).status)
    assert inside(X, y).tolist() == [Status.CONVERGED] * 4
    by_qr = ji.fit(X, y, family, start=FAR, config=ji.IRLS(solver="qr"))
    assert set(by_qr.status.tolist()) <= {Status.CONVERGED, Status.STALLED}
