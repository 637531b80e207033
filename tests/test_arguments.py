"""What users give: numbers of every kind as they are meant, and everything else refused by name."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import Status
from jaxirls.separation import detect_separation

X = np.stack([np.ones(6), np.arange(6.0)], axis=-1)
Y = np.array([1.0, 3.0, 2.0, 5.0, 8.0, 9.0])
BATCH = np.stack([Y, Y[::-1], Y + 1])


def test_wide_integers_keep_their_value_without_64_bits():
    with jax.enable_x64(False):
        wide = np.array([[1], [2**32 + 2], [3], [4]], np.int64)
        fit = ji.fit(wide, np.array([1, 2, 3, 4]), ji.Gaussian())
        assert fit.params.dtype == jnp.float32
        x, y = wide[:, 0].astype(float), np.arange(1.0, 5)
        np.testing.assert_allclose(fit.params, [(x @ y) / (x @ x)], rtol=1e-6)
        weights = np.array([2**32 + 1, 1, 1, 1], np.int64)
        counted = ji.fit(np.ones((4, 1)), np.arange(1.0, 5), ji.Poisson(), freq_weights=weights)
        np.testing.assert_allclose(counted.nobs, 2.0**32 + 4, rtol=1e-6)
        assert ji.fit([[1], [2**40]], [3, 5], ji.Gaussian()).status == Status.CONVERGED


@pytest.mark.parametrize("kind", [">f8", ">f4", ">i4", np.uint8, bool])
def test_numbers_of_any_layout(kind):
    given = (np.arange(12) % 3 == 0).reshape(6, 2).astype(kind)
    found = ji.fit(given, Y.astype(np.float32 if kind == ">f4" else float), ji.Gaussian())
    np.testing.assert_allclose(found.params, ji.fit(given.astype(float), Y, ji.Gaussian()).params, rtol=1e-5)


def test_a_number_of_pythons_takes_the_precision_of_the_arrays():
    narrow = X.astype(np.float32), Y.astype(np.float32)
    assert ji.fit(*narrow, ji.Poisson(), scale=1.0).params.dtype == jnp.float32
    assert ji.fit(*narrow, ji.Poisson(), scale=np.float64(1.0)).params.dtype == jnp.float32


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"X is not a numeric array: got ndarray of dtype object", lambda: ji.fit(X.astype(object), Y, ji.Poisson())),
        (r"y is not a numeric array: got ndarray of dtype <U", lambda: ji.fit(X, Y.astype(str), ji.Poisson())),
        (r"dtype (float128|longdouble)", lambda: ji.fit(X.astype(np.longdouble), Y, ji.Poisson())),
        (r"X .*masked", lambda: ji.fit(np.ma.masked_array(X), Y, ji.Poisson())),
        (r"y has dtype complex", lambda: ji.fit(X, Y + 0j, ji.Poisson())),
        (r"y has dtype complex", lambda: detect_separation(X, Y + 0j, ji.Poisson())),
        (r"Ridge\(strength=None\)", lambda: ji.Ridge(None)),
        (r"Ridge\(strength='2'\)", lambda: ji.Ridge("2")),
        (r"Ridge\(strength\) has dtype complex", lambda: ji.fit(X, Y, ji.Poisson(), penalty=ji.Ridge(1j))),
        (r"Ridge\(penalize\) is not", lambda: ji.fit(X, Y, ji.Poisson(), penalty=ji.Ridge(1.0, penalize="x1"))),
        (r"tol=True", lambda: ji.IRLS(tol=True)),
        (r"max_iter=True", lambda: ji.IRLS(max_iter=True)),
        (r"memory=0", lambda: ji.LBFGS(memory=0)),
        (r"trace: config must be ji.IRLS", lambda: ji.trace(X, Y, ji.Poisson(), config=ji.LBFGS())),
        (r"fit must be the result of ji.fit, got int", lambda: ji.wald_test(1, np.eye(2))),
        (r"fit must be the result of ji.fit, got int", lambda: ji.get_prediction(1, X)),
        (r"fit must be the result of ji.fit, got int", lambda: ji.null_model(1, Y)),
        (r"predict\(offset\): offset has shape \(4,\)", lambda: ji.fit(X, Y, ji.Poisson()).predict(X, offset=Y[:4])),
        (
            r"groups has dtype <U1 .* numpy.unique",
            lambda: ji.covariance(ji.fit(X, Y, ji.Poisson()), X, Y, kind="cluster", groups=["a"] * 6),
        ),
    ],
)
def test_what_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_options_take_numbers_of_numpys():
    assert ji.IRLS(max_iter=np.int64(5), tol=np.float32(1e-3)).tolerance(jnp.float32) == np.float32(1e-3)
    assert ji.fit(X, Y, ji.Poisson()).conf_int(np.float32(0.1)).shape == (2, 2)


def test_parameters_that_can_be_none_are_told():
    for family in (
        ji.NegativeBinomial(jnp.array([-0.5, jnp.nan, jnp.inf, 0.5])),
        ji.Tweedie(jnp.array([0.5, jnp.nan, jnp.inf, 1.5])),
    ):
        status = ji.fit(X, Y, family).status
        assert status.tolist() == [Status.INVALID_DATA] * 3 + [Status.CONVERGED]
    assert "scale" in Status(int(ji.fit(X, Y, ji.Poisson(), scale=-1.0).status)).explain


def test_separation_is_not_decided_of_data_that_cannot_be_fitted():
    events = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    assert detect_separation(X, events, ji.Binomial()).separated
    for weight in (-1.0, np.nan, np.inf):
        weights = np.where(np.arange(6) == 2, weight, 1.0)
        assert not detect_separation(X, events, ji.Binomial(), freq_weights=weights).decided
    holes = np.where(np.arange(12).reshape(6, 2) == 5, np.nan, X)
    assert not detect_separation(holes, Y, ji.Gaussian()).decided
    assert detect_separation(holes, events, ji.Binomial(), var_weights=np.arange(6) != 2).decided


def test_a_batch_of_fits_is_a_sequence():
    fit = ji.fit(X, BATCH, ji.Poisson())
    each = list(fit)
    assert [one.shape for one in each] == [()] * 3
    np.testing.assert_array_equal(each[2].params, fit.params[2])
    np.testing.assert_array_equal(fit[-1].params, fit.params[2])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"index {index} is out of range for batch axis 0 of length 3"):
            fit[index]
    with pytest.raises(IndexError, match="2 axes"):
        fit[0, 0]
    np.testing.assert_array_equal(fit[np.array([True, False, True])].params, fit.params[jnp.array([0, 2])])


def test_an_ellipsis_stands_for_batch_axes():
    fit = ji.fit(X, np.stack([BATCH, BATCH + 1]), ji.Poisson())
    assert fit[..., 0].params.shape == (2, 2)
    np.testing.assert_array_equal(fit[..., 0].params, fit.params[:, 0])
    np.testing.assert_array_equal(fit[..., 0].llf, fit.llf[:, 0])
    np.testing.assert_array_equal(fit[1, ...].params, fit.params[1])
    assert fit[None, :, 1:].params.shape == (1, 2, 2, 2)


def test_trees_of_other_things_are_shown():
    assert repr(jax.tree.map(jnp.shape, ji.fit(X, BATCH, ji.Poisson()))) == "Fit(Poisson)"


def test_a_thread_that_can_start_no_other_fits_alone(monkeypatch):
    """As after the end of the main thread."""

    class Pool:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, *_):
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    many = np.tile(BATCH, (2000, 1))
    expected = ji.fit(X, many, ji.Poisson()).params
    monkeypatch.setattr("jaxirls.engine.crew.ThreadPoolExecutor", Pool)
    found = []
    thread = threading.Thread(target=lambda: found.append(ji.fit(X, many, ji.Poisson()).params))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)


def test_names_are_shown_whole():
    names = ["treatment_group_level_a", "scale"]
    assert "treatment_group_level_a  " in ji.fit(X, Y, ji.Poisson()).summary(xname=names)
    lines = ji.fit(X, BATCH, ji.Poisson()).summary(xname=names).splitlines()
    assert sum(line.startswith("scale ") for line in lines) == 2
    assert sum(line.startswith("treatment_group_level_a ") for line in lines) == 1
