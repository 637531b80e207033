"""A batch is a set of datasets: no fit depends on another, on their order, or on how the engine cuts them."""

import jax
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import Status

N, P, SIZE = 30, 3, 10_000


def simulate(size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    X = np.concatenate([np.ones((size, N, 1)), rng.normal(size=(size, N, P - 1))], axis=-1)
    eta = np.einsum("bnp,bp->bn", X, rng.normal(size=(size, P)) * 0.5)
    return X, (rng.random((size, N)) < 1 / (1 + np.exp(-eta))).astype(float), np.ones((size, N))


def broken(X, y, weight, lanes):
    """The datasets with those at ``lanes`` spoilt, each in one of ten ways."""
    X, y, weight = X.copy(), y.copy(), weight.copy()
    for k, i in enumerate(lanes):
        match k % 10:
            case 0:
                X[i, 3, 1] = np.nan
            case 1:
                X[i, 5, 2] = np.inf
            case 2:
                X[i, :, 1] = 0
            case 3:
                X[i, :, 2] = X[i, :, 1]
            case 4:
                y[i] = 1
            case 5:
                y[i, 4] = 7
            case 6:
                y[i, 0] = np.nan
            case 7:
                y[i] = X[i, :, 1] > 0.2
            case 8:
                weight[i, 2:] = 0
            case 9:
                X[i, :, 1] *= 1e200
    return X, y, weight


def leaves_equal(a, b, message):
    for here, there in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(here, there, err_msg=message)


def test_broken_datasets_leave_their_neighbours_every_bit():
    """A tenth of 10,000 is broken; the healthy are fitted with them, without them, and in another order."""
    rng = np.random.default_rng(1)
    data = simulate()
    sick = rng.choice(SIZE, SIZE // 10, replace=False)
    healthy = np.setdiff1d(np.arange(SIZE), sick)
    family = ji.Binomial()

    def fit(X, y, weight):
        return ji.fit(X, y, family, freq_weights=weight)

    mixed = fit(*broken(*data, sick))
    leaves_equal(mixed[healthy], fit(*data)[healthy], "beside healthy datasets")
    leaves_equal(mixed[healthy], fit(*(leaf[healthy] for leaf in data)), "without the others")
    order = rng.permutation(SIZE)
    leaves_equal(mixed[order], fit(*(leaf[order] for leaf in broken(*data, sick))), "in another order")
    part = healthy[:777]
    leaves_equal(mixed[part], fit(*(leaf[part] for leaf in data)), "in a batch of another size")

    kinds = mixed.status[sick].reshape(-1, 10)
    for kind in (0, 1, 5, 6):
        assert (kinds[:, kind] == Status.INVALID_DATA).all()
    for kind in (2, 3, 8):
        assert np.isin(kinds[:, kind], [Status.RANK_DEFICIENT, Status.SEPARATED]).all()
    for kind in (4, 7):
        assert (kinds[:, kind] == Status.SEPARATED).all()
    assert np.isin(mixed.status[healthy], [Status.CONVERGED, Status.SEPARATED]).all()


@pytest.mark.parametrize(
    "family", [ji.Gaussian(), ji.Binomial(), ji.Poisson()], ids=lambda family: type(family).__name__
)
def test_float32_ends_as_float64_does(family):
    """n = 200, p = 5, well posed: the same status for 999 in 1000, the same coefficients to 1e-3 standard errors."""
    rng = np.random.default_rng(2)
    X = np.concatenate([np.ones((2000, 200, 1)), rng.normal(size=(2000, 200, 4))], axis=-1)
    eta = np.einsum("bnp,p->bn", X, [0.2, 0.5, -0.5, 0.3, 0.1])
    mean = np.asarray(family.link.inverse(jax.numpy.asarray(eta)))
    y = {
        "Gaussian": lambda: rng.normal(mean),
        "Binomial": lambda: (rng.random(mean.shape) < mean).astype(float),
        "Poisson": lambda: rng.poisson(mean).astype(float),
    }[type(family).__name__]()
    wide, narrow = ji.fit(X, y, family), ji.fit(X.astype(np.float32), y.astype(np.float32), family)
    assert (wide.status == narrow.status).mean() >= 0.999
    off = np.abs(narrow.params.astype(float) - wide.params) / wide.bse
    assert off.max() < 1e-3
