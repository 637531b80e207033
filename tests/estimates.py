"""Fits at given estimates, without fitting: what a test of diagnostics and inference needs of the frozen references."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxirls as ji
from jaxirls.data import Data, aligned_rows, gram, linear

SHAPED = ("llf", "deviance", "pearson_chi2", "scale", "nobs", "n_iter", "score_norm", "newton_decrement", "min_weight")


def family_of(case):
    """The family of a reference case; binomial counts are proportions whose trials are weights."""
    parameters = case["parameters"] or {}
    link = getattr(ji.links, case["link"])
    link = link(parameters["link_power"]) if case["link"] == "Power" else link()
    own = {name: parameters[name] for name in ("alpha", "power") if name in parameters}
    return getattr(ji, case["family"])(link=link, **own)


def data_of(case):
    """The data of a reference case, as keyword arguments."""
    weights = case["trials"] if case["trials"] is not None else case["weights"]
    given = {"X": case["X"], "y": case["y"], "offset": case["offset"], "var_weights": weights}
    return {name: jnp.asarray(value) for name, value in given.items() if value is not None}


@jax.jit
def fit_at(params, family, data, scale=1.0):
    """The ``ji.Fit`` of one dataset whose estimate is ``params``."""
    given = {name: jnp.asarray(value) for name, value in data.items()}
    whole = {name: given.get(name) for name in ("X", "y", "offset", "freq_weights", "var_weights")}
    params, family = jnp.asarray(params), jax.tree.map(jnp.asarray, family)
    rows = aligned_rows(Data(**whole, family=family, penalty=None, start=None, scale=None), jnp.ones((), bool), 0)
    eta, weight = linear(params, rows), rows.freq * rows.var
    numbers = dict.fromkeys(SHAPED, jnp.zeros(()))
    numbers["deviance"] = (weight * family.unit_deviance(eta, rows.y)).sum()
    numbers["llf"] = (rows.freq * family.log_likelihood(eta, rows.y, rows.var, scale)).sum()
    numbers["scale"], numbers["nobs"] = jnp.asarray(scale, params.dtype), rows.freq.sum()
    return ji.Fit(
        params=params,
        root=jnp.linalg.cholesky(gram(rows, weight * family.working(eta, rows.y).weight)).T,
        aliased=jnp.zeros(params.shape, bool),
        penalty=None,
        direction=jnp.zeros_like(params),
        status=jnp.int32(0),
        penalized=jnp.zeros((), bool),
        unpenalized_status=jnp.int32(0),
        family=family,
        **numbers,
    )


def fitted(case):
    """The fit of a reference case at R's estimate, and its data."""
    family, data = family_of(case), data_of(case)
    return fit_at(case["params"], family, data, np.float64(case["scale"])), data


def digits(found, expected):
    """Correct digits of the worst entry, relative to the largest entry of its column or vector."""
    found, expected = np.asarray(found), np.asarray(expected)
    size = np.max(np.abs(expected), axis=0, keepdims=True) if expected.ndim else np.abs(expected)
    off = np.max(np.abs(found - expected) / np.where(size > 0, size, 1.0))
    return 16.0 if off == 0 else -np.log10(off)
