"""Check glm.json.gz and firth.json.gz by arithmetic with 40 digits, and glm.json.gz by statsmodels.

Run in the folder above: python -m references.verify

For every case the adjusted score is evaluated at the frozen estimate with mpmath, from formulas that owe nothing to R:
one scoring step from it must not move. Printed are correct digits: of the estimates (the step against the estimate), of
the standard errors and the deviance (recomputed), and of statsmodels' own fit against R's.
"""

import mpmath as mp
import numpy as np

from . import load
from .make_statsmodels import fit as statsmodels_fit

mp.mp.dps = 40

HALF = mp.mpf(1) / 2


def inverse_link(name: str, power):
    return {
        "Identity": lambda eta: eta,
        "Log": mp.exp,
        "LogC": lambda eta: -mp.expm1(eta),
        "Logit": lambda eta: 1 / (1 + mp.exp(-eta)),
        "Probit": mp.ncdf,
        "Cauchy": lambda eta: HALF + mp.atan(eta) / mp.pi,
        "CLogLog": lambda eta: -mp.expm1(-mp.exp(eta)),
        "LogLog": lambda eta: mp.exp(-mp.exp(-eta)),
        "Sqrt": lambda eta: eta**2,
        "InversePower": lambda eta: 1 / eta,
        "InverseSquared": lambda eta: 1 / mp.sqrt(eta),
        "Power": lambda eta: eta ** (1 / power),
    }[name]


def variance_and_deviance(family: str, parameters: dict):
    """`V(mu)` and the unit deviance `d(y, mu) = 2 int_mu^y (y - t) / V(t) dt`."""
    xlogy = lambda x, y: x * mp.log(y) if x else mp.mpf(0)  # noqa: E731
    if family == "Gaussian":
        return lambda mu: mp.mpf(1), lambda y, mu: (y - mu) ** 2
    if family == "Binomial":
        return lambda mu: mu * (1 - mu), lambda y, mu: 2 * (xlogy(y, y / mu) + xlogy(1 - y, (1 - y) / (1 - mu)))
    if family == "Poisson":
        return lambda mu: mu, lambda y, mu: 2 * (xlogy(y, y / mu) - (y - mu))
    if family == "Gamma":
        return lambda mu: mu**2, lambda y, mu: 2 * ((y - mu) / mu - mp.log(y / mu))
    if family == "InverseGaussian":
        return lambda mu: mu**3, lambda y, mu: (y - mu) ** 2 / (y * mu**2)
    if family == "NegativeBinomial":
        alpha = mp.mpf(parameters["alpha"])
        rest = lambda y, mu: (y + 1 / alpha) * mp.log((1 + alpha * y) / (1 + alpha * mu))  # noqa: E731
        return lambda mu: mu + alpha * mu**2, lambda y, mu: 2 * (xlogy(y, y / mu) - rest(y, mu))
    power = mp.mpf(parameters["power"])
    one, two = 1 - power, 2 - power
    return (
        lambda mu: mu**power,
        lambda y, mu: 2 * ((y**two if y else mp.mpf(0)) / (one * two) - y * mu**one / one + mu**two / two),
    )


def digits(value, truth) -> float:
    value, truth = np.atleast_1d(value).astype(float), np.atleast_1d(truth).astype(float)
    return float(np.min(-np.log10(np.clip(np.abs(value / truth - 1), 1e-16, None))))


class Problem:
    """One case in high precision: `X y m` (trials times weights), offset, link and variance."""

    def __init__(self, case: dict):
        parameters = case.get("parameters") or {}
        self.X = [[mp.mpf(v) for v in row] for row in case["X"].tolist()]
        n = len(self.X)
        ones = np.ones(n)
        weight = ones if case.get("weights") is None else case["weights"]
        trials = ones if case["trials"] is None else case["trials"]
        self.m = [mp.mpf(a) * mp.mpf(b) for a, b in zip(weight, trials, strict=True)]
        # A proportion is its count over its trials, which a double only rounds.
        if case["trials"] is None:
            self.y = [mp.mpf(v) for v in case["y"]]
        else:
            self.y = [mp.mpf(round(v * t)) / mp.mpf(t) for v, t in zip(case["y"], trials, strict=True)]
        self.offset = [mp.mpf(v) for v in (np.zeros(n) if case["offset"] is None else case["offset"])]
        power = mp.mpf(parameters["link_power"]) if "link_power" in parameters else None
        self.inverse = inverse_link(case["link"], power)
        self.variance, self.unit_deviance = variance_and_deviance(case["family"], parameters)

    def eta(self, beta):
        return [mp.fdot(row, beta) + o for row, o in zip(self.X, self.offset, strict=True)]

    def rows(self, beta):
        """`mu`, `d = dmu/deta`, `w = m d^2 / V` a row."""
        for eta, m in zip(self.eta(beta), self.m, strict=True):
            mu, slope = self.inverse(eta), mp.diff(self.inverse, eta)
            yield mu, slope, m * slope**2 / self.variance(mu)

    def gram(self, weights):
        p = len(self.X[0])
        return mp.matrix(
            [
                [mp.fsum(w * r[i] * r[j] for w, r in zip(weights, self.X, strict=True)) for j in range(p)]
                for i in range(p)
            ]
        )

    def score(self, beta):
        """The score at dispersion 1, the expected information and its inverse, and the working rows."""
        rows = list(self.rows(beta))
        information = self.gram([w for _, _, w in rows])
        residual = [w * (y - mu) / d for y, (mu, d, w) in zip(self.y, rows, strict=True)]
        return self.project(residual), information, mp.inverse(information), rows

    def project(self, residual):
        return mp.matrix([mp.fdot(residual, column) for column in zip(*self.X, strict=True)])

    def deviance(self, rows):
        return mp.fsum(m * self.unit_deviance(y, mu) for m, y, (mu, _, _) in zip(self.m, self.y, rows, strict=True))

    def pearson_chi2(self, rows):
        terms = zip(self.m, self.y, rows, strict=True)
        return mp.fsum(m * (y - mu) ** 2 / self.variance(mu) for m, y, (mu, _, _) in terms)

    def mean_bias_adjustment(self, beta, inverse, rows):
        """`X' (h d2mu / (2 dmu))`, `h` the leverages (Kosmidis and Firth 2009)."""
        adjusted = []
        for x, eta, (_, d, w) in zip(self.X, self.eta(beta), rows, strict=True):
            leverage = w * quadratic(inverse, x)
            adjusted.append(leverage * mp.diff(self.inverse, eta, 2) / (2 * d))
        return self.project(adjusted)

    def jeffreys_adjustment(self, beta):
        """The gradient of half the log determinant of the information, by central differences."""
        half_log = lambda b: mp.log(mp.det(self.gram([w for _, _, w in self.rows(b)]))) / 2  # noqa: E731
        step = mp.mpf(10) ** -10
        moved = lambda j, s: [b + (s if i == j else 0) for i, b in enumerate(beta)]  # noqa: E731
        p = len(beta)
        return mp.matrix([(half_log(moved(j, step)) - half_log(moved(j, -step))) / (2 * step) for j in range(p)])


def quadratic(matrix, x):
    p = len(x)
    return mp.fsum(matrix[i, j] * x[i] * x[j] for i in range(p) for j in range(p))


def correct_digits(case: dict) -> tuple[float, float, float]:
    """Digits of the estimate, of the standard errors, and of the deviance and Pearson's chi2 (the fewer)."""
    problem = Problem(case)
    beta = [mp.mpf(b) for b in case["params"]]
    score, _, inverse, rows = problem.score(beta)
    if case.get("penalty") == "MeanBiasReduction":
        score += problem.mean_bias_adjustment(beta, inverse, rows)
    elif case.get("penalty") == "Jeffreys":
        score += problem.jeffreys_adjustment(beta)
    step = inverse * score
    dispersion = mp.mpf(case.get("scale", 1.0))
    bse = [mp.sqrt(dispersion * inverse[i, i]) for i in range(len(beta))]
    # An estimate of zero has no relative digits: compare with its standard error.
    size = [max(abs(b), s * mp.mpf("1e-3")) for b, s in zip(beta, bse, strict=True)]
    moved = max(float(abs(a) / b) for a, b in zip(step, size, strict=True))
    sums = digits(case["deviance"], problem.deviance(rows))
    if "pearson_chi2" in case:
        sums = min(sums, digits(case["pearson_chi2"], problem.pearson_chi2(rows)))
    return -np.log10(max(moved, 1e-16)), digits(case["bse"], bse), sums


def statsmodels_digits(case: dict) -> tuple[float, float, float]:
    result = statsmodels_fit(case)
    return (
        digits(result.params, case["params"]),
        digits(result.bse, case["bse"]),
        digits(result.deviance, case["deviance"]),
    )


def main() -> None:
    print(f"{'':34s}{'40 digits: params':>19s}{'bse':>7s}{'dev':>7s}{'statsmodels: params':>21s}{'bse':>7s}{'dev':>7s}")
    worst = 16.0
    for case in [*load("glm"), *load("firth")]:
        exact = correct_digits(case)
        line = f"{case['name']:34s}{exact[0]:19.1f}{exact[1]:7.1f}{exact[2]:7.1f}"
        if "penalty" not in case:
            other = statsmodels_digits(case)
            line += f"{other[0]:21.1f}{other[1]:7.1f}{other[2]:7.1f}"
        print(line, flush=True)
        worst = min(worst, *exact)
    print(f"fewest digits: {worst:.1f}")
    if worst < 10:
        raise SystemExit("a reference has fewer than 10 correct digits")


if __name__ == "__main__":
    main()
