"""Every link, and every (family, link) pair that statsmodels allows, as instances, with their definitions in mpmath.

A new link or family is tested by entering it here. The definitions are the textbook's, written in ordinary arithmetic:
at 60 digits they need none of the care that the library's formulas take.
"""

import mpmath as mp
import numpy as np
from scipy import stats

from jaxirls import families, links

mp.mp.dps = 60

LINKS = [
    links.Logit(),
    links.Probit(),
    links.CLogLog(),
    links.LogLog(),
    links.Cauchy(),
    links.Log(),
    links.LogC(),
    links.Identity(),
    links.InversePower(),
    links.InverseSquared(),
    links.Sqrt(),
    links.Power(0.3),
    links.Power(-1.5),
    links.NegativeBinomial(0.7),
]

# link -> (μ, 1-μ), each without cancellation where the link makes a probability of it.
MEANS = {
    "Logit": lambda _, eta: (1 / (1 + mp.exp(-eta)), 1 / (1 + mp.exp(eta))),
    "Probit": lambda _, eta: (mp.erfc(-eta / mp.sqrt(2)) / 2, mp.erfc(eta / mp.sqrt(2)) / 2),
    "CLogLog": lambda _, eta: (-mp.expm1(-mp.exp(eta)), mp.exp(-mp.exp(eta))),
    "LogLog": lambda _, eta: (mp.exp(-mp.exp(-eta)), -mp.expm1(-mp.exp(-eta))),
    "Cauchy": lambda _, eta: (mp.atan2(1, -eta) / mp.pi, mp.atan2(1, eta) / mp.pi),
    "Log": lambda _, eta: (mp.exp(eta), -mp.expm1(eta)),
    "LogC": lambda _, eta: (-mp.expm1(eta), mp.exp(eta)),
    "Identity": lambda _, eta: (eta, 1 - eta),
    "InversePower": lambda _, eta: (1 / eta, 1 - 1 / eta),
    "InverseSquared": lambda _, eta: (1 / mp.sqrt(eta), 1 - 1 / mp.sqrt(eta)),
    "Sqrt": lambda _, eta: (eta**2, 1 - eta**2),
    "Power": lambda link, eta: ((mu := eta ** (1 / mp.mpf(link.power))), 1 - mu),
    "NegativeBinomial": lambda link, eta: ((mu := 1 / (mp.mpf(link.alpha) * mp.expm1(-eta))), 1 - mu),
}


def reference(function, *columns):
    """``function`` in mpmath of every row of the columns."""
    return np.array([float(function(*map(float, row))) for row in zip(*columns, strict=True)])


def means(link, eta):
    """(μ, 1-μ) at η, in mpmath."""
    return MEANS[type(link).__name__](link, mp.mpf(eta))


def logs(link, eta):
    """(log μ, log(1-μ)) at η, in mpmath; None where undefined."""

    def log(a, b):
        return None if a <= 0 else mp.log1p(-b) if abs(b) < 0.5 else mp.log(a)

    mu, rest = means(link, eta)
    return log(mu, rest), log(rest, mu)


def mean_deriv(link, eta):
    """dμ/dη, by differences of the smaller of μ and 1-μ."""
    mu, rest = means(link, eta)
    if abs(mu) < abs(rest):
        return mp.diff(lambda t: means(link, t)[0], mp.mpf(eta))
    return -mp.diff(lambda t: means(link, t)[1], mp.mpf(eta))


_GRID = (0.003, 0.15, 0.8, 1.7, 3.3, 5.9, 9.5, 17.3, 30.0)


def etas(link, mean_range=(None, None)):
    """Predictors up to 30 in magnitude, in the domain of the link and with means in the given range."""

    def inside(x, interval):
        low, high = interval
        return (low is None or x > low) and (high is None or x < high)

    grid = [*(-x for x in reversed(_GRID)), 0.0, *_GRID]
    pole = isinstance(link, links.InversePower)
    grid = [eta for eta in grid if inside(eta, link.domain) and not (pole and eta == 0)]

    def valid(eta):
        mu, rest = means(link, eta)
        return inside(mu, (mean_range[0], None)) and (mean_range[1] is None or rest > 0)

    return np.array([eta for eta in grid if valid(eta)])


_POSITIVE = (links.Log(), links.Identity(), links.InversePower())
_POWERS = (
    links.Log(),
    links.Identity(),
    links.Sqrt(),
    links.InversePower(),
    links.InverseSquared(),
    links.Power(0.3),
)

MODELS = [
    *(families.Gaussian(link) for link in (links.Identity(), links.Log(), links.InversePower())),
    *(
        families.Binomial(link=link) for link in LINKS[:8]
    ),  # logit, probit, cloglog, loglog, cauchy, log, logc, identity
    *(families.Binomial(7, link) for link in (links.Logit(), links.CLogLog())),
    *(families.Poisson(link) for link in (links.Log(), links.Identity(), links.Sqrt())),
    *(families.Gamma(link) for link in _POSITIVE),
    *(families.InverseGaussian(link) for link in (*_POSITIVE, links.InverseSquared())),
    *(families.NegativeBinomial(0.7, link) for link in (*_POWERS, links.CLogLog(), links.NegativeBinomial(0.7))),
    *(families.NegativeBinomial(alpha) for alpha in (1e-8, 30.0)),
    *(families.Tweedie(1.5, link) for link in _POWERS),
    *(families.Tweedie(power) for power in (1, 1.1, 1.9, 2, 3.0)),
]


def name(model):
    """A short name, for the test's."""
    if isinstance(model, links.Link):
        parameters = [getattr(model, key) for key in ("power", "alpha") if key in vars(model)]
    else:
        parameters = [value for key, value in vars(model).items() if key != "link" and value is not None]
        parameters.append(type(model.link).__name__)
    return "-".join([type(model).__name__, *map(str, parameters)])


def responses(model):
    """Valid responses, the boundary among them."""
    if isinstance(model, families.Binomial):
        return np.array([0.0, 0.3, 1.0]) if model.trials is None else np.array([0.0, 2.0, 7.0])
    if isinstance(model, families.Gaussian):
        return np.array([-2.5, 1.5, 4.0])
    if isinstance(model, families.Gamma | families.InverseGaussian):
        return np.array([0.01, 1.3, 40.0])
    if isinstance(model, families.Tweedie) and model.power >= 2:
        return np.array([0.01, 1.3, 40.0])
    if isinstance(model, families.Tweedie) and model.power > 1:
        return np.array([0.0, 0.4, 25.0])
    return np.array([0.0, 2.0, 23.0])


def variance(model, mu, rest):
    """V(μ) in mpmath."""
    match model:
        case families.Gaussian():
            return mp.mpf(1)
        case families.Binomial():
            return mu * rest
        case families.NegativeBinomial():
            return mu + mp.mpf(model.alpha) * mu**2
        case families.Tweedie():
            return mu ** mp.mpf(model.power)
    return mu ** {"Poisson": 1, "Gamma": 2, "InverseGaussian": 3}[type(model).__name__]


def log_likelihood(model, eta, y, weight=1.0, scale=1.0):
    """log-likelihood with all constants, in mpmath: the formulas of statsmodels' ``loglike_obs``."""
    y, weight, scale = mp.mpf(y), mp.mpf(weight), mp.mpf(scale)
    mu, _ = means(model.link, eta)
    log_mu, log_rest = logs(model.link, eta)
    precision = weight / scale

    def times(a, b):
        return mp.mpf(0) if a == 0 else a * b

    match model:
        case families.Gaussian():
            return -(precision * (y - mu) ** 2 - mp.log(precision) + mp.log(2 * mp.pi)) / 2
        case families.Binomial():
            m = mp.mpf(1 if model.trials is None else model.trials)
            constant = mp.loggamma(m + 1) - mp.loggamma(y + 1) - mp.loggamma(m - y + 1)
            return weight * (constant + times(y, log_mu) + times(m - y, log_rest))
        case families.NegativeBinomial():
            a = mp.mpf(model.alpha)
            constant = mp.loggamma(y + 1 / a) - mp.loggamma(1 / a) - mp.loggamma(y + 1)
            return precision * (constant + times(y, mp.log(a) + log_mu) - (y + 1 / a) * mp.log1p(a * mu))
    power = {"Poisson": 1, "Gamma": 2, "InverseGaussian": 3}.get(type(model).__name__) or mp.mpf(model.power)
    if power == 1:
        return precision * (times(y, log_mu) - mu - mp.loggamma(y + 1))
    if power == 2:
        return precision * (mp.log(precision * y) - log_mu - y / mu) - mp.loggamma(precision) - mp.log(y)
    if power == 3:
        return -(precision * (y - mu) ** 2 / (y * mu**2) - mp.log(precision / y**3) + mp.log(2 * mp.pi)) / 2
    theta, kappa = mu ** (1 - power) / (1 - power), mu ** (2 - power) / (2 - power)
    return precision * (y * theta - kappa) + log_tweedie_constant(y, 1 / precision, power)


_CONSTANTS = {}


def log_tweedie_constant(y, dispersion, power):
    """log a(y, φ, p) by direct summation of the series of Dunn & Smyth (2005), 1 < p < 2."""
    if y == 0:
        return mp.mpf(0)
    key = (y, dispersion, power)
    if key not in _CONSTANTS:
        a = (2 - power) / (power - 1)
        log_z = a * mp.log(y / (power - 1)) - (1 + a) * mp.log(dispersion) - mp.log(2 - power)
        peak = int(y ** (2 - power) / (dispersion * (2 - power)))
        reach = 40 + int(12 * mp.sqrt(peak))
        terms = (
            j * log_z - mp.loggamma(j + 1) - mp.loggamma(a * j) for j in range(max(1, peak - reach), peak + reach + 40)
        )
        _CONSTANTS[key] = mp.log(mp.fsum(mp.exp(t) for t in terms)) - mp.log(y)
    return _CONSTANTS[key]


def tweedie_tails(y, mu, dispersion, power):
    """P(Y <= y) and P(Y > y), 1 < p < 2, as the sum over the number of gammas that it is."""
    a = (2 - power) / (power - 1)
    rate = mu ** (2 - power) / (dispersion * (2 - power))
    j = np.arange(1, 40 + int(3 * rate * max(1.0, y / mu)))
    weight, law = stats.poisson.pmf(j, rate), stats.gamma(a * j, scale=mu / (rate * a))
    return np.exp(-rate) + weight @ law.cdf(y), weight @ law.sf(y)
