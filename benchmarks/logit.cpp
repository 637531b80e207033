// Logistic regression by Newton's method, one model a dataset, many datasets on all cores. Two layouts:
//   fit_lanes  datasets last: a SIMD lane holds a dataset, data as (tiles, n, P, L); with `shared`, one X (n, P) for all
//   fit_rows   datasets first: a SIMD lane holds a row of the one dataset at hand, data as (B, n, P)
// Compiled for one number of columns (COLUMNS), one precision (REAL) and SIMD registers of so many BYTES. Both stop at a
// Newton decrement whose square is below TOLERANCE, and take the step it belongs to: what remains is of the order of that
// square.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

using Real = REAL;
constexpr int L = BYTES / sizeof(Real), P = COLUMNS, PASSES = 25;
constexpr int ROWS = P <= 8 ? 32 : 8;  // a block of rows stays in the first-level cache
constexpr Real TOLERANCE = sizeof(Real) == 8 ? 1e-10 : 1e-6, NOISE = sizeof(Real) == 8 ? 1e-14 : 1e-6;
typedef Real V __attribute__((vector_size(BYTES)));

constexpr int largest_divisor(int n, int most) { return n % most ? largest_divisor(n, most - 1) : most; }
constexpr int BLOCK = P <= 6 ? P : largest_divisor(P, 4);  // of the Gram matrix, held in registers

struct Sums {
  V gram[P][P] = {}, score[P] = {}, loss = {};
};

// Entry i of X in every lane: L numbers, or one that all lanes share.
template <bool SHARED>
inline V entry(const Real* x, long i) {
  if constexpr (SHARED) return V{} + x[i];
  V value;
  std::memcpy(&value, x + i * L, BYTES);
  return value;
}

// Adds rows to the sums.
template <bool SHARED>
inline void accumulate(const Real* x, const Real* y, const Real* w, const V* beta, int rows, Sums& sums) {
  alignas(BYTES) Real e[ROWS * L], v[ROWS * L], d[ROWS * L], l[ROWS * L];
  V *eta = (V*)e, *weight = (V*)v, *residual = (V*)d, *loss = (V*)l;
  for (int r = 0; r < rows; ++r) {
    V sum = entry<SHARED>(x, r * P) * beta[0];
#pragma GCC unroll 32
    for (int j = 1; j < P; ++j) sum += entry<SHARED>(x, r * P + j) * beta[j];
    eta[r] = sum;
  }
#pragma omp simd
  for (int i = 0; i < rows * L; ++i) {
    Real t = std::exp(-std::abs(e[i])), q = 1 / (1 + t);
    v[i] = t * q * q;
    d[i] = y[i] - (e[i] >= 0 ? q : t * q);
    l[i] = std::log1p(t) + std::max(e[i], Real(0)) - y[i] * e[i];
  }
  if (w) {
#pragma omp simd
    for (int i = 0; i < rows * L; ++i) v[i] *= w[i], d[i] *= w[i], l[i] *= w[i];
  }
  for (int r = 0; r < rows; ++r) sums.loss += loss[r];
  {
    V score[P];
    std::copy(sums.score, sums.score + P, score);
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 32
      for (int j = 0; j < P; ++j) score[j] += residual[r] * entry<SHARED>(x, r * P + j);
    std::copy(score, score + P, sums.score);
  }
  for (int j0 = 0; j0 < P; j0 += BLOCK)
    for (int k0 = 0; k0 <= j0; k0 += BLOCK) {
      V part[BLOCK][BLOCK] = {};
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK; ++j) {
          V scaled = weight[r] * entry<SHARED>(x, r * P + j0 + j);
#pragma GCC unroll 8
          for (int k = 0; k < (BLOCK == P ? j + 1 : BLOCK); ++k) part[j][k] += scaled * entry<SHARED>(x, r * P + k0 + k);
        }
#pragma GCC unroll 8
      for (int j = 0; j < BLOCK; ++j)
#pragma GCC unroll 8
        for (int k = 0; k < (BLOCK == P ? j + 1 : BLOCK); ++k) sums.gram[j0 + j][k0 + k] += part[j][k];
    }
}

inline Real root(Real a) { return std::sqrt(a); }
inline V root(V a) {
  for (int l = 0; l < L; ++l) a[l] = std::sqrt(a[l]);
  return a;
}
inline bool any(int mask) { return mask; }
template <class Mask>
inline bool any(Mask mask) {
  bool found = false;
  for (int l = 0; l < L; ++l) found |= mask[l] != 0;
  return found;
}

// Solves gram · step = score by Cholesky, in place; returns the squared Newton decrement.
template <class N>
inline N newton_step(N (*a)[P], N* b) {
  N size = {};
  for (int j = 0; j < P; ++j) {
    for (int k = 0; k < j; ++k) {
      for (int i = 0; i < k; ++i) a[j][k] -= a[j][i] * a[k][i];
      a[j][k] *= a[k][k];  // the diagonal holds reciprocals
      a[j][j] -= a[j][k] * a[j][k];
      b[j] -= a[j][k] * b[k];
    }
    a[j][j] = 1 / root(a[j][j] > 0 ? a[j][j] : N{} + 1);
    b[j] *= a[j][j];
    size += b[j] * b[j];
  }
  for (int j = P - 1; j >= 0; --j) {
    for (int k = j + 1; k < P; ++k) b[j] -= a[k][j] * b[k];
    b[j] *= a[j][j];
  }
  return size;
}

// Newton with step-halving; N is a vector of datasets or the one dataset. pass(beta, gram, score) returns the loss.
template <class N, class Pass>
inline void fit(const Pass& pass, N* beta) {
  N step[P] = {}, candidate[P], gram[P][P], score[P], least = N{} + Real(1e30);
  for (int j = 0; j < P; ++j) beta[j] = N{};
  for (int turn = 0; turn < PASSES; ++turn) {
    for (int j = 0; j < P; ++j) candidate[j] = beta[j] + step[j];
    N loss = pass(candidate, gram, score);
    N size = newton_step(gram, score);
    auto rose = loss > least * (1 + NOISE);
    for (int j = 0; j < P; ++j) {
      beta[j] = rose ? beta[j] : candidate[j];
      step[j] = rose ? step[j] / 2 : score[j];
    }
    least = rose ? least : loss;
    if (!any(rose | ((size > TOLERANCE) & (least > Real(1e-6))))) break;
  }
  for (int j = 0; j < P; ++j) beta[j] += step[j];
}

extern "C" void fit_lanes(const Real* x, const Real* y, const Real* w, Real* out, int n, long tiles, int shared) {
#pragma omp parallel for schedule(dynamic, 4)
  for (long t = 0; t < tiles; ++t) {
    V beta[P];
    auto pass = [&](const V* at, V(*gram)[P], V* score) {
      Sums sums;
      for (int i = 0; i < n; i += ROWS) {
        int rows = std::min(ROWS, n - i);
        const Real *yi = y + (t * n + i) * L, *wi = w ? w + (t * n + i) * L : nullptr;
        if (shared) accumulate<true>(x + i * P, yi, wi, at, rows, sums);
        else accumulate<false>(x + (t * n + i) * P * L, yi, wi, at, rows, sums);
      }
      std::copy(&sums.gram[0][0], &sums.gram[0][0] + P * P, &gram[0][0]);
      std::copy(sums.score, sums.score + P, score);
      return sums.loss;
    };
    fit<V>(pass, beta);
    std::memcpy(out + t * P * L, beta, P * BYTES);
  }
}

extern "C" void fit_rows(const Real* x, const Real* y, Real* out, int n, long count) {
  int groups = (n + L - 1) / L;
#pragma omp parallel
  {
    // The rows that fill the last vector are zeros, which add a constant to the loss and nothing else.
    std::vector<Real> columns(groups * P * L), responses(groups * L);
#pragma omp for schedule(dynamic, 16)
    for (long b = 0; b < count; ++b) {
      Real *xs = columns.data(), *ys = responses.data();
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < P; ++j) xs[(i / L * P + j) * L + i % L] = x[(b * n + i) * P + j];
        ys[i] = y[b * n + i];
      }
      auto pass = [&](const Real* at, Real(*gram)[P], Real* score) {
        V beta[P];
        for (int j = 0; j < P; ++j) beta[j] = V{} + at[j];
        Sums sums;
        for (int g = 0; g < groups; g += ROWS)
          accumulate<false>(xs + g * P * L, ys + g * L, nullptr, beta, std::min(ROWS, groups - g), sums);
        auto total = [](V a) {
          Real sum = 0;
          for (int l = 0; l < L; ++l) sum += a[l];
          return sum;
        };
        for (int j = 0; j < P; ++j) {
          score[j] = total(sums.score[j]);
          for (int k = 0; k <= j; ++k) gram[j][k] = total(sums.gram[j][k]);
        }
        return total(sums.loss);
      };
      fit<Real>(pass, out + b * P);
    }
  }
}
