"""The eleven NIST StRD data sets for linear regression, with their certified values.

Source: NIST/ITL Statistical Reference Datasets, https://www.itl.nist.gov/div898/strd/lls/lls.shtml. The data are
decimal numbers; `exact_least_squares` solves them in rational arithmetic, and reproduces the certified digits
(`python nist.py` prints the comparison), which proves the typed data and the typed certificates at once.

A float64 program sees the data and the powers of `x` rounded to doubles. On Filip that alone moves the solution; the
exact solution of the rounded problem, `NistSet.rounded()`, tells the error of a solver apart from that of its input.
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np

__all__ = ["ALL", "Exact", "NistSet", "digits", "exact_least_squares"]


@dataclass(frozen=True)
class Exact:
    """Least squares solved exactly, then rounded to double."""

    params: np.ndarray  # (p,)
    bse: np.ndarray  # (p,)
    residual_sd: float
    rsquared: float
    rss: float


@dataclass(frozen=True)
class NistSet:
    """One data set: decimal strings as published, and NIST's certified values."""

    name: str
    difficulty: str
    y_text: tuple[str, ...]
    x_text: tuple[tuple[str, ...], ...]  # one tuple a predictor
    degree: int | None  # polynomial in the one predictor, or None: the predictors as they are
    intercept: bool
    params: tuple[float, ...]
    bse: tuple[float, ...]
    residual_sd: float
    rsquared: float

    @property
    def y(self) -> np.ndarray:
        return np.array([float(Fraction(v)) for v in self.y_text])

    @property
    def X(self) -> np.ndarray:  # noqa: N802
        """The design `(n, p)` as float64, each entry the double nearest to its exact value."""
        return np.array([[float(v) for v in row] for row in self._rows()])

    def exact(self) -> Exact:
        """The solution for the decimal data: NIST's certified values, with every digit of a double."""
        return exact_least_squares(self._rows(), [Fraction(v) for v in self.y_text], centred=self.intercept)

    def rounded(self) -> Exact:
        """The exact solution for the float64 arrays `X` and `y`."""
        rows = [[Fraction(v) for v in row] for row in self.X.tolist()]
        return exact_least_squares(rows, [Fraction(v) for v in self.y.tolist()], centred=self.intercept)

    def _rows(self) -> list[list[Fraction]]:
        columns = [[Fraction(v) for v in column] for column in self.x_text]
        if self.degree is not None:
            columns = [[v**k for v in columns[0]] for k in range(1, self.degree + 1)]
        if self.intercept:
            columns.insert(0, [Fraction(1)] * len(self.y_text))
        return [list(row) for row in zip(*columns, strict=True)]


def exact_least_squares(X: list[list[Fraction]], y: list[Fraction], *, centred: bool) -> Exact:
    """Solve the normal equations over the rationals; only square roots and the result are rounded (to double)."""
    n, p = len(X), len(X[0])
    gram = [[sum(row[i] * row[j] for row in X) for j in range(p)] for i in range(p)]
    moment = [sum(row[i] * v for row, v in zip(X, y, strict=True)) for i in range(p)]
    inverse = _inverse(gram)
    beta = [sum(a * b for a, b in zip(row, moment, strict=True)) for row in inverse]
    fitted = [sum(a * b for a, b in zip(row, beta, strict=True)) for row in X]
    rss = sum((v - f) ** 2 for v, f in zip(y, fitted, strict=True))
    mean = sum(y) / n if centred else Fraction(0)
    tss = sum((v - mean) ** 2 for v in y)
    variance = rss / (n - p)
    return Exact(
        params=np.array([float(b) for b in beta]),
        bse=np.array([_sqrt(variance * inverse[i][i]) for i in range(p)]),
        residual_sd=_sqrt(variance),
        rsquared=float(1 - rss / tss),
        rss=float(rss),
    )


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    p = len(matrix)
    work = [[*row, *(Fraction(int(i == j)) for j in range(p))] for i, row in enumerate(matrix)]
    for i in range(p):  # positive definite: no pivoting
        pivot = work[i][i]
        work[i] = [v / pivot for v in work[i]]
        for k in range(p):
            if k != i and work[k][i]:
                factor = work[k][i]
                work[k] = [a - factor * b for a, b in zip(work[k], work[i], strict=True)]
    return [row[p:] for row in work]


def _sqrt(value: Fraction) -> float:
    """The square root of a rational to 60 digits, then to double."""
    shift = 10**120
    return float(Fraction(math.isqrt(value.numerator * shift // value.denominator), 10**60)) if value else 0.0


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NORRIS = NistSet(
    "Norris",
    "lower",
    _words("""0.1 338.8 118.1 888.0 9.2 228.1 668.5 998.5 449.1 778.9 559.2 0.3 0.1 778.1 668.8 339.3 448.9 10.8 557.7
    228.3 998.0 888.8 119.6 0.3 0.6 557.6 339.3 888.0 998.5 778.9 10.2 117.6 228.9 668.4 449.2 0.2"""),
    (
        _words("""0.2 337.4 118.2 884.6 10.1 226.5 666.3 996.3 448.6 777.0 558.2 0.4 0.6 775.5 666.9 338.0 447.5 11.6
        556.0 228.1 995.8 887.6 120.2 0.3 0.3 556.8 339.1 887.2 999.0 779.0 11.1 118.3 229.2 669.1 448.9 0.5"""),
    ),
    1,
    True,
    (-0.262323073774029, 1.00211681802045),
    (0.232818234301152, 0.429796848199937e-03),
    0.884796396144373,
    0.999993745883712,
)

PONTIUS = NistSet(
    "Pontius",
    "lower",
    _words("""0.11019 0.21956 0.32949 0.43899 0.54803 0.65694 0.76562 0.87487 0.98292 1.09146 1.20001 1.30822 1.41599
    1.52399 1.63194 1.73947 1.84646 1.95392 2.06128 2.16844 0.11052 0.22018 0.32939 0.43886 0.54798 0.65739 0.76596
    0.87474 0.98300 1.09150 1.20004 1.30818 1.41613 1.52408 1.63159 1.73965 1.84696 1.95445 2.06177 2.16829"""),
    (tuple(str(150000 * k) for k in range(1, 21)) * 2,),
    2,
    True,
    (0.673565789473684e-03, 0.732059160401003e-06, -0.316081871345029e-14),
    (0.107938612033077e-03, 0.157817399981659e-09, 0.486652849992036e-16),
    0.205177424076185e-03,
    0.999999900178537,
)

NO_INT_1 = NistSet(
    "NoInt1",
    "average",
    tuple(str(v) for v in range(130, 141)),
    (tuple(str(v) for v in range(60, 71)),),
    1,
    False,
    (2.07438016528926,),
    (0.165289256198347e-01,),
    3.56753034006338,
    0.999365492298663,
)

NO_INT_2 = NistSet(
    "NoInt2",
    "average",
    ("3", "4", "4"),
    (("4", "5", "6"),),
    1,
    False,
    (0.727272727272727,),
    (0.420827318078432e-01,),
    0.369274472937998,
    0.993348115299335,
)

FILIP = NistSet(
    "Filip",
    "higher",
    _words("""0.8116 0.9072 0.9052 0.9039 0.8053 0.8377 0.8667 0.8809 0.7975 0.8162 0.8515 0.8766 0.8885 0.8859 0.8959
    0.8913 0.8959 0.8971 0.9021 0.9090 0.9139 0.9199 0.8692 0.8872 0.8900 0.8910 0.8977 0.9035 0.9078 0.7675 0.7705
    0.7713 0.7736 0.7775 0.7841 0.7971 0.8329 0.8641 0.8804 0.7668 0.7633 0.7678 0.7697 0.7700 0.7749 0.7796 0.7897
    0.8131 0.8498 0.8741 0.8061 0.8460 0.8751 0.8856 0.8919 0.8934 0.8940 0.8957 0.9047 0.9129 0.9209 0.9219 0.7739
    0.7681 0.7665 0.7703 0.7702 0.7761 0.7809 0.7961 0.8253 0.8602 0.8809 0.8301 0.8664 0.8834 0.8898 0.8964 0.8963
    0.9074 0.9119 0.9228"""),
    (
        _words("""-6.860120914 -4.324130045 -4.358625055 -4.358426747 -6.955852379 -6.661145254 -6.355462942
        -6.118102026 -7.115148017 -6.815308569 -6.519993057 -6.204119983 -5.853871964 -6.109523091 -5.79832982
        -5.482672118 -5.171791386 -4.851705903 -4.517126416 -4.143573228 -3.709075441 -3.499489089 -6.300769497
        -5.953504836 -5.642065153 -5.031376979 -4.680685696 -4.329846955 -3.928486195 -8.56735134 -8.363211311
        -8.107682739 -7.823908741 -7.522878745 -7.218819279 -6.920818754 -6.628932138 -6.323946875 -5.991399828
        -8.781464495 -8.663140179 -8.473531488 -8.247337057 -7.971428747 -7.676129393 -7.352812702 -7.072065318
        -6.774174009 -6.478861916 -6.159517513 -6.835647144 -6.53165267 -6.224098421 -5.910094889 -5.598599459
        -5.290645224 -4.974284616 -4.64454848 -4.290560426 -3.885055584 -3.408378962 -3.13200249 -8.726767166
        -8.66695597 -8.511026475 -8.165388579 -7.886056648 -7.588043762 -7.283412422 -6.995678626 -6.691862621
        -6.392544977 -6.067374056 -6.684029655 -6.378719832 -6.065855188 -5.752272167 -5.132414673 -4.811352704
        -4.098269308 -3.66174277 -3.2644011"""),
    ),
    10,
    True,
    (
        -1467.48961422980,
        -2772.17959193342,
        -2316.37108160893,
        -1127.97394098372,
        -354.478233703349,
        -75.1242017393757,
        -10.8753180355343,
        -1.06221498588947,
        -0.670191154593408e-01,
        -0.246781078275479e-02,
        -0.402962525080404e-04,
    ),
    (
        298.084530995537,
        559.779865474950,
        466.477572127796,
        227.204274477751,
        71.6478660875927,
        15.2897178747400,
        2.23691159816033,
        0.221624321934227,
        0.142363763154724e-01,
        0.535617408889821e-03,
        0.896632837373868e-05,
    ),
    0.334801051324544e-02,
    0.996727416185620,
)

LONGLEY = NistSet(
    "Longley",
    "higher",
    _words("""60323 61122 60171 61187 63221 63639 64989 63761 66019 67857 68169 66513 68655 69564 69331 70551"""),
    (
        _words("83.0 88.5 88.2 89.5 96.2 98.1 99.0 100.0 101.2 104.6 108.4 110.8 112.6 114.2 115.7 116.9"),
        _words("""234289 259426 258054 284599 328975 346999 365385 363112 397469 419180 442769 444546 482704 502601
        518173 554894"""),
        _words("2356 2325 3682 3351 2099 1932 1870 3578 2904 2822 2936 4681 3813 3931 4806 4007"),
        _words("1590 1456 1616 1650 3099 3594 3547 3350 3048 2857 2798 2637 2552 2514 2572 2827"),
        _words("""107608 108632 109773 110929 112075 113270 115094 116219 117388 118734 120445 121950 123366 125368
        127852 130081"""),
        tuple(str(v) for v in range(1947, 1963)),
    ),
    None,
    True,
    (
        -3482258.63459582,
        15.0618722713733,
        -0.358191792925910e-01,
        -2.02022980381683,
        -1.03322686717359,
        -0.511041056535807e-01,
        1829.15146461355,
    ),
    (
        890420.383607373,
        84.9149257747669,
        0.334910077722432e-01,
        0.488399681651699,
        0.214274163161675,
        0.226073200069370,
        455.478499142212,
    ),
    304.854073561965,
    0.995479004577296,
)

# Wampler3 adds this error to Wampler1, Wampler4 a hundred times it, Wampler5 ten thousand times it. It is orthogonal to
# the powers of x up to the fifth, so that the solution stays at ones.
_ERROR = (759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048, -2048)
_ERROR += (1838, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 759)
_ERROR_BSE = (
    2152.32624678170,
    2363.55173469681,
    779.343524331583,
    101.475507550350,
    5.64566512170752,
    0.112324854679312,
)


def _wampler(number: int, base: tuple[str, ...], error: int, rsquared: float) -> NistSet:
    x = range(21)
    mean = [sum(Fraction(b) * v**k for k, b in enumerate(base)) for v in x]
    y = [m + error * e for m, e in zip(mean, _ERROR, strict=True)]
    return NistSet(
        f"Wampler{number}",
        "higher",
        tuple(str(Decimal(v.numerator) / Decimal(v.denominator)) for v in y),
        (tuple(str(v) for v in x),),
        5,
        True,
        tuple(float(b) for b in base),
        tuple(error * s for s in _ERROR_BSE),
        error * 2360.14502379268,
        rsquared,
    )


_ONES = ("1",) * 6
ALL = (
    NORRIS,
    PONTIUS,
    NO_INT_1,
    NO_INT_2,
    FILIP,
    LONGLEY,
    _wampler(1, _ONES, 0, 1.0),
    _wampler(2, ("1", "0.1", "0.01", "0.001", "0.0001", "0.00001"), 0, 1.0),
    _wampler(3, _ONES, 1, 0.999995559025820),
    _wampler(4, _ONES, 100, 0.957478440825662),
    _wampler(5, _ONES, 10_000, 0.224668921574940e-02),
)


def digits(value, certified) -> float:
    """The fewest correct significant digits over the entries (the log relative error), at most 15."""
    value, certified = np.atleast_1d(value).astype(float), np.atleast_1d(certified).astype(float)
    scale = np.where(certified == 0, 1.0, np.abs(certified))
    return float(np.min(-np.log10(np.maximum(np.abs(value - certified) / scale, 1e-15))))


def _main() -> None:
    print("digits in which the exact solution agrees with the certificate; R2's and the rounded problem's beside it")
    print(f"{'set':10s}{'n':>4s}{'p':>4s}{'params':>9s}{'bse':>9s}{'sd':>9s}{'R2':>9s}{'rounded':>9s}")
    for data in ALL:
        exact, rounded = data.exact(), data.rounded()
        columns = [
            digits(exact.params, data.params),
            digits(exact.bse, data.bse),
            digits(exact.residual_sd, data.residual_sd),
            digits(exact.rsquared, data.rsquared),
            digits(rounded.params, exact.params),
        ]
        n, p = data.X.shape
        print(f"{data.name:10s}{n:4d}{p:4d}" + "".join(f"{v:9.2f}" for v in columns))


if __name__ == "__main__":
    _main()
