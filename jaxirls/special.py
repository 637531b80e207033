r"""Special functions that JAX lacks: what links and families need to stay accurate in tails and near saturation.

Every function is elementwise, keeps the dtype of its argument, and has finite derivatives wherever its value is finite.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import betainc, gammainc, gammaincc, ndtri
from jax.typing import ArrayLike

from jaxirls.arguments import is_number
from jaxirls.trees import varying

__all__ = [
    "box_cox",
    "chi2_tail",
    "exp",
    "f_tail",
    "half_deviance",
    "log",
    "log1mexp",
    "log1p_small",
    "log_factorial_excess",
    "log_reflection",
    "log_tweedie_series",
    "mills_ratio",
    "normal_reach",
    "raised",
    "tweedie_tails",
]

LOG_2PI = 1.8378770664093453
LOG_2 = 0.6931471805599453
# The first 32 bits of it, and the rest; and √½ as an integer.
_LOG_2_HIGH = 0.6931471803691238
_LOG_2_LOW = 1.9082149292705877e-10
_ROOT_HALF = 0x3FE6A09E667F3BCD


def log1mexp(x: Array) -> Array:
    """log(1-eˣ) for x < 0: the two forms of Mächler (2012), each exact on its side of -log 2."""
    small = x < -LOG_2
    return jnp.where(
        small,
        log1p_small(-exp(jnp.where(small, x, -1.0))),
        log(-jnp.expm1(jnp.where(small, -1.0, x))),
    )


# (1+x) M(x) in powers of t = (x-5)/(x+5), which maps [0, ∞] to [-1, 1]: Chebyshev interpolation at 60 nodes in 60
# digits, cut where the remainder is below 1e-16, as Shepherd & Laframboise (1981) did for (1+2x) exp(x²) erfc(x).
_MILLS = (
    1.1568486282918946,
    -0.22948753825211315,
    0.07778159886873769,
    0.0250721793016388,
    -0.0661776007790963,
    0.0615050458401865,
    -0.03802659218584139,
    0.01634823128102938,
    -0.004201290329187307,
    1.9530638370790786e-05,
    0.00045704392357953655,
    -0.0001343742785571135,
    -2.480583845192319e-05,
    2.270961270923768e-05,
    -1.7633239265736746e-07,
    -3.277287633208865e-06,
    3.2054316652589574e-07,
    4.91996233147834e-07,
    -6.588974491108954e-08,
    -7.758520236786343e-08,
    9.092476134019147e-09,
    1.1032071151574336e-08,
    -7.073898575561589e-10,
    -9.564832934712551e-10,
)


@jax.jit  # once in a program, however often a link and its derivatives ask
def mills_ratio(x: Array) -> Array:
    """M(x) = (1-Φ(x))/φ(x) of the standard normal, for x >= 0; relative error below 4 eps up to the largest number."""
    return _polynomial((x - 5) / (x + 5), _MILLS) / (1 + x)


# 2 artanh(s)/s in powers of 18s²-1, for s² from 0 to 1/9: as above, from 40 nodes.
_ARTANH = (
    2.038322813588351,
    0.03966212261758931,
    0.0013952765489187707,
    5.8519288140113996e-05,
    2.6742881227275554e-06,
    1.2860729238297913e-07,
    6.397563473545985e-09,
    3.2599912218914794e-10,
    1.691437191489953e-11,
    8.970336418968718e-13,
    4.7771267513004476e-14,
)


def log1p_small(x: Array) -> Array:
    """log(1+x) for -½ <= x <= 1, as 2 artanh(x/(2+x)): relative error below 4 eps, by arithmetic that vectorizes."""
    s = x / (2 + x)
    return s * _polynomial(18 * jnp.square(s) - 1, _ARTANH)


@jax.custom_jvp
def log(x: Array) -> Array:
    """Natural logarithm, relative error below 4 eps; of doubles by ``log1p_small``, as XLA calls a library for each."""
    return _log_of_doubles(x) if jnp.result_type(x) == jnp.float64 else jnp.log(x)


@log.defjvp
def _log_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log(*primals), tangents[0] / primals[0]


@jax.jit
def _log_of_doubles(x: Array) -> Array:
    """k log 2 + log m for x = 2ᵏ m, with m from √½ to √2; subnormal numbers count as zero, as XLA takes them."""
    bits, tiny = lax.bitcast_convert_type(x, jnp.int64), float(jnp.finfo(x.dtype).tiny)
    biased = lax.shift_right_logical(bits - _ROOT_HALF + (1023 << 52), jnp.int64(52))  # k + 1023
    m = lax.bitcast_convert_type(bits - ((biased - 1023) << 52), x.dtype)
    k = (biased.astype(jnp.int32) - 1023).astype(x.dtype)
    value = k * _LOG_2_HIGH + (log1p_small(m - 1) + k * _LOG_2_LOW)
    beyond = jnp.where(jnp.abs(x) < tiny, -jnp.inf, jnp.where(x == jnp.inf, x, jnp.nan))
    return jnp.where((x >= tiny) & (x < jnp.inf), value, beyond)


# (eˣ-1-x)/x² in powers of x, for |x| up to ½ log 2: interpolation at 10 Chebyshev nodes in 50 digits.
_EXP = (
    0.5000000000000001,
    0.16666666666666669,
    0.041666666666624164,
    0.008333333333330065,
    0.0013888888917196881,
    0.0001984126986304067,
    2.4801521322116825e-05,
    2.7557268480116333e-06,
    2.762007599981065e-07,
    2.5100375924709717e-08,
)


@jax.custom_jvp
def exp(x: Array) -> Array:
    """eˣ, relative error below 2 eps; of doubles without the division that XLA makes for each.

    An XLA before that of JAX 0.12 would compute such arithmetic again for every use.
    """
    own = jnp.result_type(x) == jnp.float64 and jax.__version_info__ >= (0, 12)
    return _exp_of_doubles(x) if own else jnp.exp(x)


@exp.defjvp
def _exp_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = exp(*primals)
    return value, tangents[0] * value


@jax.jit
def _exp_of_doubles(x: Array) -> Array:
    """2ᵏ eʳ for x = k log 2 + r, with |r| up to ½ log 2; zero below 3.2e-308, where XLA's ends at 2.3e-308."""
    shift = 1.5 * 2.0**52  # a number whose last bits count ones
    x = jnp.where(x < -708.3, -708.3, x)
    shifted = x * (1 / LOG_2) + shift
    # Between the sum and the difference, the bound also keeps XLA from taking the two for nothing.
    shifted = jnp.where(shifted > shift + 1024, shift + 1024, shifted)
    k = shifted - shift
    r = (x - k * _LOG_2_HIGH) - k * _LOG_2_LOW
    rest = functools.reduce(lambda value, c: value * r + c, _EXP[-2::-1], jnp.full_like(r, _EXP[-1]))
    value = 1 + (r + jnp.square(r) * rest)
    half = (lax.bitcast_convert_type(shifted, jnp.int64) << 52) + (1022 << 52)  # 2ᵏ⁻¹, which is zero at the lower end
    value = (value + value) * lax.bitcast_convert_type(half, x.dtype)
    return lax.optimization_barrier(value)


# log(πx/sin πx) / x² in powers of 8x²-1, for x from 0 to ½: as above, from 40 nodes.
_REFLECTION = (
    1.7184227791449844,
    0.0799380342714324,
    0.007123256754409652,
    0.0007500855535761505,
    8.515442515800779e-05,
    1.0100832590917225e-05,
    1.2338268438063764e-06,
    1.5394700428987935e-07,
    1.9520665472660345e-08,
    2.506919187971248e-09,
    3.2525944379209414e-10,
    4.247825619193026e-11,
    5.595689523347953e-12,
    7.953100597256264e-13,
    1.0652756764976293e-13,
)


def log_reflection(x: Array) -> Array:
    """log(πx / sin πx) for 0 <= x <= ½: log Γ(1+x) Γ(1-x) by Euler's reflection; relative error below 4 eps."""
    square = jnp.square(x)
    return square * _polynomial(8 * square - 1, _REFLECTION)


def raised(x: Array, exponent: Array | float) -> Array:
    """xᶜ, by multiplication, and a root, when c is a whole number or a half known now."""
    if isinstance(exponent, float) and (2 * exponent).is_integer():
        return x ** int(exponent) if exponent.is_integer() else jnp.sqrt(x) ** int(2 * exponent)
    return jnp.power(x, exponent)


def box_cox(exponent: Array | float, x: Array) -> Array:
    """(e^{cx}-1)/c, and its limit x at c = 0: the integral of e^{ct} from 0 to x, smooth in c."""
    if isinstance(exponent, float | int) and exponent == 0:
        return x
    z = exponent * x
    series = jnp.abs(z) < 1e-4  # where z⁴/120 is below the resolution of float64
    z_series, z_direct = jnp.where(series, z, 0.0), jnp.where(series, 1.0, z)
    return x * jnp.where(series, _polynomial(z_series, (1.0, 1 / 2, 1 / 6, 1 / 24)), jnp.expm1(z_direct) / z_direct)


def half_deviance(y: Array, mu: Array, log_mu: Array, power: Array | float) -> Array:
    r"""∫_μ^y (y-t) t⁻ᵏ dt, half the unit deviance of the variance function μᵏ, k >= 1, without cancellation.

    With r = log(y/μ) and m = 2-k it is μᵐ r² exp[0, r, mr], where exp[...] is the divided difference; its power series
    Σ (1+m+...+mʲ) rʲ/(j+2)! serves near saturation. Away from it the two terms of the integral are taken from the
    larger of y and μ, so that neither overflows before the result does. At y = 0 it is μᵐ/m for k < 2, else infinite.
    For k = 1 they are y r and μ - y, and no exponential is taken.
    ``log_mu`` is asked for beside ``mu`` because it is exact where ``mu`` has under- or overflowed.
    """
    m = 2 - power
    positive = y > 0
    y_safe = jnp.where(positive, y, 1.0)
    log_y = log(y_safe)

    representable = (mu > 0) & (mu < jnp.inf)
    mu_safe = jnp.where(representable, mu, 1.0)
    excess = (y_safe - mu_safe) / mu_safe
    close = representable & (jnp.abs(excess) < 0.5)
    r = jnp.where(close, log1p_small(jnp.where(close, excess, 0.0)), log_y - log_mu)

    near = jnp.abs(r) * (max(1.0, abs(m)) if isinstance(m, float | int) else jnp.maximum(1.0, jnp.abs(m))) < 0.5
    r_near = jnp.where(near, r, 0.0)
    sums: list[Array | float] = [1.0]
    for _ in range(14):
        sums.append(1 + m * sums[-1])
    series = _polynomial(r_near, [s / float(math.factorial(j + 2)) for j, s in enumerate(sums)])

    mu_m = _power(mu, log_mu, m)
    close_by = mu_m * jnp.square(r_near) * series
    if isinstance(power, float | int) and power == 1:
        return jnp.where(positive, jnp.where(near, close_by, y_safe * r + (mu - y_safe)), mu)

    s = jnp.where(near, -1.0, -jnp.abs(jnp.where(near, 1.0, r)))
    direct = jnp.where(
        r > 0,
        box_cox(m, s) - box_cox(m - 1, s),
        exp(m * s) * box_cox(1 - m, s) - box_cox(m, s),
    )
    larger_m = _power(jnp.maximum(y_safe, mu), jnp.maximum(log_y, log_mu), m)
    at_zero = jnp.where(m > 0, mu_m / jnp.where(m > 0, m, 1.0), jnp.inf)
    return jnp.where(positive, jnp.where(near, close_by, larger_m * direct), at_zero)


def log_factorial_excess(x: Array) -> Array:
    """log Γ(x+1) - (x log x - x) for x >= 0: what log x! holds beyond its leading terms, ½ log 2πx + 1/(12x) - ... .

    Log-likelihoods at saturation are sums of it (Loader 2000), small where sums of log-gammas are differences of large
    numbers. Stirling's series from 8 up; below it that of z = x+8, with Γ(z+1) = (x+1) ... (x+8) Γ(x+1).
    """
    large = x >= 8
    low = jnp.where(large | (x == 0), 1.0, x)
    z = jnp.where(large, x, low + 8)
    u = 1 / z
    coefficients = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    series = 0.5 * LOG_2PI + u * _polynomial(jnp.square(u), coefficients)
    product = math.prod((low + k) / (low + 8) for k in range(1, 8))
    value = series + 0.5 * log(jnp.where(large, z, z / jnp.square(product)))
    value = jnp.where(large, value, value + (low * log(jnp.where(large, 1.0, z / low)) - 8))
    return jnp.where(x == 0, 0.0, value)


# Nodes of the sum below, in its own steps from the peak. The step is one until the standard deviation of the terms,
# seen as a distribution of j, is 5.3; it then grows with it, so that the window always reaches terms of e⁻²⁸.
_WINDOW = (-40, 49)
_DEVIATION = 5.3


@jax.jit
def log_tweedie_series(y: Array, dispersion: Array, power: Array) -> Array:
    r"""log density at saturation (μ = y > 0) of the Tweedie law with 1 < p < 2, a Poisson sum of gammas.

    With a = (2-p)/(p-1) and j* = y^{2-p}/(φ(2-p)), the series of Dunn & Smyth (2005, eq. 7) at μ = y is

        f(y) = 1/y Σ_j exp(-(j log(j/j*) - j + j*)/(p-1) - ε(j) - ε(aj)) aj,       j = 1, 2, ...,

    ε being ``log_factorial_excess``: every large term has cancelled by algebra. The terms are a bell around j* of
    variance j*(p-1). When it is wide, the sum equals the trapezoidal rule with a longer step, up to a part e⁻²⁸.
    """
    a = (2 - power) / (power - 1)
    log_peak = (2 - power) * log(y) - log(dispersion) - log(2 - power)
    peak = exp(log_peak)
    step = lax.stop_gradient(jnp.maximum(1.0, jnp.sqrt(peak * (power - 1)) / _DEVIATION))
    centre = lax.stop_gradient(jnp.maximum(jnp.round(peak), 1.0))

    def term(i: Array) -> Array:
        j = centre + step * i.astype(y.dtype)
        valid = j > 0.5
        j = jnp.where(valid, j, 1.0)
        exponent = half_deviance(j, peak, log_peak, 1.0) / (power - 1)
        value = log(a * j) - exponent - log_factorial_excess(j) - log_factorial_excess(a * j)
        return jnp.where(valid, value, -jnp.inf)

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        top, total = carry
        value = term(i)
        new_top = lax.stop_gradient(jnp.maximum(top, value))
        return new_top, total * exp(top - new_top) + exp(value - new_top)

    lowest = jnp.full_like(peak, jnp.finfo(y.dtype).min)
    top, total = lax.fori_loop(*_WINDOW, add, varying((lowest, jnp.zeros_like(peak)), peak))
    return top + log(total) + log(step) - log(y)


@jax.jit
def tweedie_tails(y: Array, mu: Array, dispersion: Array, power: Array) -> tuple[Array, Array]:
    r"""P(Y <= y) and P(Y > y) of the Tweedie law with 1 < p < 2, for y >= 0.

    Y is the sum of a Poisson number of gammas, of mean λ = μ^{2-p}/(φ(2-p)), shape a = (2-p)/(p-1) and scale
    φ(p-1)μ^{p-1}: with x = y over that scale and Γ the distribution function of the gamma law, that of Y is

        e^{-λ} + Σ_j e^{-λ} λʲ/j! Γ(x; aj),       j = 1, 2, ... .

    The tail on whose side of μ the response lies is summed, and so keeps its digits where it is small. Its terms are a
    bell around j* = y^{2-p}/(φ(2-p)), at most √j* wide and nowhere steeper than one of √((p-1)j*), which sets the step
    of the trapezoidal rule, as in ``log_tweedie_series``; up to j* = 64 every j is counted.
    """
    positive, lower = y > 0, y < mu
    y = jnp.where(positive, y, mu)
    a = (2 - power) / (power - 1)
    log_rate = (2 - power) * log(mu) - log(dispersion * (2 - power))
    rate = exp(log_rate)
    x = rate * a * (y / mu)
    peak = rate * jnp.power(y / mu, 2 - power)
    step = jnp.where(peak > 64, jnp.maximum(1.0, jnp.sqrt(peak * (power - 1)) / 1.3), 1.0)
    centre = jnp.maximum(jnp.round(peak), 1.0)
    reach = jnp.ceil((8 * jnp.sqrt(peak) + 16) / step)

    def add(i: Array, total: Array) -> Array:
        steps = i.astype(y.dtype)
        j = centre + step * steps
        counted = (j > 0.5) & (jnp.abs(steps) <= reach)
        j = jnp.where(counted, j, 1.0)
        tail = jnp.where(lower, gammainc(a * j, x), gammaincc(a * j, x))
        weight = exp(-half_deviance(j, rate, log_rate, 1.0) - log_factorial_excess(j))
        return total + jnp.where(counted, weight * tail, 0.0)

    furthest = jnp.max(jnp.where(jnp.isfinite(reach), reach, 0.0)).astype(jnp.int32)
    total = step * lax.fori_loop(-furthest, furthest + 1, add, jnp.zeros_like(peak))
    none, some = exp(-rate), -jnp.expm1(-rate)
    below = jnp.where(positive, jnp.where(lower, none + total, 1 - total), none)
    return below, jnp.where(positive, jnp.where(lower, some - total, total), some)


def _polynomial(x: Array, coefficients: tuple[float, ...] | list) -> Array:
    """Σ cᵢ xⁱ for |x| <= 1 by Horner's rule, without the last terms that together are below the resolution of x."""
    if all(isinstance(c, float) for c in coefficients):
        resolution = float(jnp.finfo(x.dtype).eps) / 8 * abs(coefficients[0])
        left_out = np.cumsum(np.abs(coefficients[::-1])) < resolution
        coefficients = coefficients[: len(coefficients) - int(left_out.sum())]
    value = jnp.full_like(x, coefficients[-1]) if isinstance(coefficients[-1], float) else coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def _power(x: Array, log_x: Array, exponent: Array | float) -> Array:
    """xᶜ, without a logarithm's error for the exponents 0 and 1 of the most used families."""
    if isinstance(exponent, float | int) and exponent in (0, 1):
        return x if exponent else jnp.ones_like(x)
    return exp(exponent * log_x)


def chi2_tail(statistic: Array, df: ArrayLike) -> Array:
    """P(χ² > statistic) with ``df`` degrees of freedom."""
    return gammaincc(_like(statistic, df) / 2, 0.5 * statistic)


def f_tail(statistic: Array, df_num: ArrayLike, df_denom: ArrayLike) -> Array:
    """P(F > statistic) for Snedecor's F."""
    half_num, half_denom = _like(statistic, df_num) / 2, _like(statistic, df_denom) / 2
    return betainc(half_denom, half_num, half_denom / (half_denom + half_num * statistic))


def _like(statistic: Array, df: ArrayLike) -> Array:
    return jnp.broadcast_to(jnp.asarray(df, statistic.dtype), statistic.shape)


def normal_reach(alpha: float, dtype: jnp.dtype) -> Array:
    """The standard normal quantile of a two-sided interval of level 1-alpha."""
    if not (is_number(alpha) and 0 < alpha < 1):
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha!r}")
    return -ndtri(jnp.asarray(alpha / 2, dtype))
