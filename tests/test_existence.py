"""No fit on its way to infinity says that it has converged, however close it starts and whatever the algorithm."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import Status, links

GROUP = np.repeat([0.0, 1.0], 10)
DESIGN = np.stack([np.ones(20), GROUP], axis=-1)
ONE_GROUP_OF_ONES = np.concatenate([np.tile([0.0, 1.0], 5), np.ones(10)])
BINARY = [links.Logit(), links.Probit(), links.CLogLog(), links.LogLog(), links.Cauchy()]


def name(link):
    return type(link).__name__


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("link", BINARY, ids=name)
def test_refits_from_the_last_coefficients(link, end, dtype):
    """Of a group whose responses are all ones, or all zeros."""
    X, y = DESIGN.astype(dtype), ONE_GROUP_OF_ONES.astype(dtype)
    y = y if end else 1 - y
    start = np.zeros(2, dtype)
    for _ in range(8):
        fit = ji.fit(X, y, ji.Binomial(link=link), start=start)
        assert Status(int(fit.status)).name == "SEPARATED"
        start = np.asarray(fit.params)


@pytest.mark.parametrize("link", BINARY, ids=name)
def test_lbfgs(link):
    fit = ji.fit(DESIGN, ONE_GROUP_OF_ONES, ji.Binomial(link=link), config=ji.LBFGS())
    assert fit.status == Status.SEPARATED


def test_lbfgs_without_information_does_not_claim_an_estimate():
    fit = ji.fit(DESIGN, ONE_GROUP_OF_ONES, ji.Binomial(), config=ji.LBFGS(information=False))
    assert fit.status in (Status.MAX_ITERATIONS, Status.STALLED)


def test_a_group_of_zeros_under_other_means_than_counts():
    """Its squares fall for ever along the log link; its count, towards a mean of zero."""
    y = np.where(GROUP == 1, 0.0, np.arange(20) % 3 + 1.0)
    for family in (ji.Gaussian(link=links.Log()), ji.NegativeBinomial(alpha=1.0, link=links.CLogLog())):
        assert ji.fit(DESIGN, y, family).status == Status.SEPARATED
    below = ji.fit(DESIGN, y - 3 * GROUP, ji.Gaussian(link=links.Log()))
    assert below.status == Status.SEPARATED
    np.testing.assert_allclose(np.abs(below.direction), [0, 1])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "family",
    [*(ji.Binomial(link=link) for link in BINARY), ji.NegativeBinomial(alpha=0.5), ji.Tweedie(power=1.5)],
    ids=lambda family: f"{type(family).__name__}-{type(family.link).__name__}",
)
def test_estimates_that_exist_are_told_by_the_first_passes(family, dtype, monkeypatch):
    """The scores of the rows prove it where the decrement does not: no linear program is asked."""
    rng = np.random.default_rng(2)
    X = np.stack([np.ones((300, 100)), rng.normal(size=(300, 100))], axis=-1).astype(dtype)
    draws = rng.random((300, 100))
    y = (draws < 0.4) if isinstance(family, ji.Binomial) else np.floor(4 * draws * draws)
    asked = []
    monkeypatch.setattr("jaxirls.engine.on_cores._second_chunk", lambda *_: asked.append(1) or 1 / 0)
    fit = ji.fit(X, y.astype(dtype), family)
    assert not asked
    assert (fit.status == Status.CONVERGED).all()
    assert jnp.isfinite(fit.params).all()
