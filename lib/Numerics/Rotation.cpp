//===- Rotation.cpp - Hadamard and other orthogonal matrices --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Rotation.h"

#include <algorithm>
#include <array>
#include <cmath>

using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Finite fields
//===----------------------------------------------------------------------===//

namespace {

/// A number q = p^degree with p an odd prime and degree at most 3: these give
/// every base of order up to HadamardMatrix::maxBaseOrder that any prime power
/// gives.
struct PrimePower {
  int64_t p = 0;
  int degree = 0;
};

/// The quadratic character of the field of q elements. Elements are polynomials
/// over the integers modulo p, and numbers whose digits to the base p are the
/// coefficients.
class QuadraticCharacter {
public:
  explicit QuadraticCharacter(PrimePower power);

  /// 0 if a = b, 1 if a - b is a square, else -1.
  int operator()(int64_t a, int64_t b) const {
    Polynomial x = split(a), y = split(b);
    for (int i = 0; i < degree; ++i)
      x[i] = (x[i] + p - y[i]) % p;
    return character[join(x)];
  }

private:
  using Polynomial = std::array<int64_t, 3>;
  Polynomial split(int64_t number) const;
  int64_t join(const Polynomial &x) const;
  Polynomial square(const Polynomial &x) const;
  bool isRoot(int64_t x) const;

  int64_t p;
  int degree;
  /// x^degree = sum of -modulus[i] x^i.
  Polynomial modulus = {};
  std::vector<int8_t> character;
};

} // namespace

/// p^degree, or p = 0 if q is none.
static PrimePower getPrimePower(int64_t q) {
  if (q < 3 || q % 2 == 0)
    return {};
  int64_t p = 3;
  while (p * p <= q && q % p != 0)
    p += 2;
  if (q % p != 0)
    p = q;
  int degree = 0;
  for (; q % p == 0; q /= p)
    ++degree;
  return q == 1 && degree <= 3 ? PrimePower{p, degree} : PrimePower{};
}

QuadraticCharacter::QuadraticCharacter(PrimePower power)
    : p(power.p), degree(power.degree) {
  // The first irreducible polynomial; of degree 2 and 3 that is one without a
  // root.
  int64_t size = 1;
  for (int i = 0; i < degree; ++i)
    size *= p;
  if (degree > 1) {
    for (int64_t candidate = 1; candidate < size; ++candidate) {
      modulus = split(candidate);
      bool hasRoot = false;
      for (int64_t x = 0; x < p && !hasRoot; ++x)
        hasRoot = isRoot(x);
      if (!hasRoot)
        break;
    }
  }
  character.assign(size, -1);
  character[0] = 0;
  for (int64_t x = 1; x < size; ++x)
    character[join(square(split(x)))] = 1;
}

QuadraticCharacter::Polynomial QuadraticCharacter::split(int64_t number) const {
  Polynomial x = {};
  for (int i = 0; i < degree; ++i, number /= p)
    x[i] = number % p;
  return x;
}

int64_t QuadraticCharacter::join(const Polynomial &x) const {
  int64_t number = 0;
  for (int i = degree - 1; i >= 0; --i)
    number = number * p + x[i];
  return number;
}

QuadraticCharacter::Polynomial
QuadraticCharacter::square(const Polynomial &x) const {
  std::array<int64_t, 5> product = {};
  for (int i = 0; i < degree; ++i)
    for (int j = 0; j < degree; ++j)
      product[i + j] = (product[i + j] + x[i] * x[j]) % p;
  for (int i = 2 * degree - 2; i >= degree; --i)
    for (int j = 0; j < degree; ++j)
      product[i - degree + j] =
          (product[i - degree + j] + (p - modulus[j]) * product[i]) % p;
  Polynomial result = {};
  std::copy_n(product.begin(), degree, result.begin());
  return result;
}

/// Of the monic polynomial with the coefficients `modulus`.
bool QuadraticCharacter::isRoot(int64_t x) const {
  int64_t value = 1;
  for (int i = degree - 1; i >= 0; --i)
    value = (value * x + modulus[i]) % p;
  return value == 0;
}

//===----------------------------------------------------------------------===//
// Hadamard matrices
//===----------------------------------------------------------------------===//

/// q of Paley's first construction for the order, if there is one.
static PrimePower getPaleyOne(int64_t order) {
  return order % 4 == 0 ? getPrimePower(order - 1) : PrimePower{};
}

/// q of his second one.
static PrimePower getPaleyTwo(int64_t order) {
  // The order is twice an even number that is not a multiple of 4.
  return order % 4 == 0 && (order / 2 - 1) % 4 == 1
             ? getPrimePower(order / 2 - 1)
             : PrimePower{};
}

int64_t HadamardMatrix::getBaseOrder(int64_t order) {
  if (order < 1 || order > int64_t(1) << 30)
    return 0;
  int64_t base = order;
  while (base % 2 == 0)
    base /= 2;
  for (; base <= std::min(order, maxBaseOrder); base *= 2)
    if (base == 1 || getPaleyOne(base).p != 0 || getPaleyTwo(base).p != 0)
      return base;
  return 0;
}

int64_t HadamardMatrix::getLargestDivisor(int64_t size) {
  // Pairs of divisors: the large ones fall while the small ones rise.
  int64_t largest = 1;
  for (int64_t divisor = 1; divisor <= size / divisor; ++divisor) {
    if (size % divisor != 0)
      continue;
    if (isSupported(size / divisor))
      return size / divisor;
    if (isSupported(divisor))
      largest = divisor;
  }
  return largest;
}

Result<HadamardMatrix> HadamardMatrix::get(int64_t order) {
  HadamardMatrix matrix;
  int64_t m = getBaseOrder(order);
  if (m == 0) {
    std::string message = "expected an order with a known Hadamard matrix (a "
                          "power of two, or m times one with m = 12, 20, 28, "
                          "36, ...) but got " +
                          std::to_string(order);
    if (order > 0)
      message += "; the largest one that divides it is " +
                 std::to_string(getLargestDivisor(order));
    return Status::error(std::move(message));
  }
  matrix.baseOrder = m;
  matrix.sylvesterOrder = order / m;
  matrix.base.assign(m * m, 1);
  auto at = [&](int64_t row, int64_t column) -> int8_t & {
    return matrix.base[row * m + column];
  };
  if (m == 1)
    return matrix;
  if (PrimePower q = getPaleyOne(m); q.p != 0) {
    // I + [[0, 1], [-1, Q]] with the skew matrix Q of the character.
    QuadraticCharacter character(q);
    for (int64_t i = 1; i < m; ++i) {
      at(i, 0) = -1;
      for (int64_t j = 1; j < m; ++j)
        at(i, j) = i == j ? 1 : character(i - 1, j - 1);
    }
    return matrix;
  }
  // C (x) [[1, 1], [1, -1]] + I (x) [[1, -1], [-1, -1]] with the symmetric
  // C = [[0, 1], [1, Q]].
  QuadraticCharacter character(getPaleyTwo(m));
  for (int64_t i = 0; i < m / 2; ++i) {
    for (int64_t j = 0; j < m / 2; ++j) {
      int c = i == 0 || j == 0 ? 1 : character(i - 1, j - 1);
      bool diagonal = i == j;
      at(2 * i, 2 * j) = diagonal ? 1 : c;
      at(2 * i, 2 * j + 1) = diagonal ? -1 : c;
      at(2 * i + 1, 2 * j) = diagonal ? -1 : c;
      at(2 * i + 1, 2 * j + 1) = diagonal ? -1 : -c;
    }
  }
  return matrix;
}

int HadamardMatrix::at(int64_t row, int64_t column) const {
  int64_t overlap = (row % sylvesterOrder) & (column % sylvesterOrder);
  bool odd = false;
  for (; overlap != 0; overlap &= overlap - 1)
    odd = !odd;
  int sign = base[row / sylvesterOrder * baseOrder + column / sylvesterOrder];
  return odd ? -sign : sign;
}

void HadamardMatrix::multiply(double *x, int64_t stride,
                              bool transposed) const {
  const int64_t n = order();
  for (int64_t half = 1; half < sylvesterOrder; half *= 2) {
    for (int64_t begin = 0; begin < n; begin += 2 * half) {
      for (int64_t i = begin; i < begin + half; ++i) {
        double a = x[i * stride], b = x[(i + half) * stride];
        x[i * stride] = a + b;
        x[(i + half) * stride] = a - b;
      }
    }
  }
  if (baseOrder == 1)
    return;
  std::vector<double> column(baseOrder);
  for (int64_t b = 0; b < sylvesterOrder; ++b) {
    for (int64_t a = 0; a < baseOrder; ++a)
      column[a] = x[(a * sylvesterOrder + b) * stride];
    for (int64_t c = 0; c < baseOrder; ++c) {
      double sum = 0;
      for (int64_t a = 0; a < baseOrder; ++a)
        sum += column[a] *
               base[transposed ? c * baseOrder + a : a * baseOrder + c];
      x[(c * sylvesterOrder + b) * stride] = sum;
    }
  }
}

//===----------------------------------------------------------------------===//
// Random matrices
//===----------------------------------------------------------------------===//

namespace {

/// The generator of Steele, Lea and Flood (2014).
class SplitMix64 {
public:
  explicit SplitMix64(uint64_t seed) : state(seed) {}
  uint64_t operator()() {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// In (0, 1).
  double uniform() {
    return (static_cast<double>((*this)() >> 11) + 0.5) / 9007199254740992.0;
  }

private:
  uint64_t state;
};

} // namespace

std::vector<int8_t> quant_llm::getRandomSigns(uint64_t seed, int64_t size) {
  SplitMix64 random(seed);
  std::vector<int8_t> signs(size);
  uint64_t bits = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (i % 64 == 0)
      bits = random();
    signs[i] = bits >> (i % 64) & 1 ? -1 : 1;
  }
  return signs;
}

std::vector<double> quant_llm::getRandomOrthogonal(uint64_t seed,
                                                   int64_t size) {
  SplitMix64 random(seed);
  std::vector<double> matrix(size * size);
  auto row = [&](int64_t i) { return matrix.data() + i * size; };
  auto dot = [&](const double *a, const double *b) {
    double sum = 0;
    for (int64_t i = 0; i < size; ++i)
      sum += a[i] * b[i];
    return sum;
  };
  for (int64_t i = 0; i < size; ++i) {
    double norm = 0;
    // A row that is nearly a combination of those before it is drawn again.
    while (norm < 1e-3) {
      for (int64_t j = 0; j < size; ++j)
        row(i)[j] = std::sqrt(-2 * std::log(random.uniform())) *
                    std::cos(6.283185307179586 * random.uniform());
      // Twice: once loses digits to cancellation.
      for (int pass = 0; pass < 2; ++pass) {
        for (int64_t k = 0; k < i; ++k) {
          double projection = dot(row(i), row(k));
          for (int64_t j = 0; j < size; ++j)
            row(i)[j] -= projection * row(k)[j];
        }
      }
      norm = std::sqrt(dot(row(i), row(i)));
    }
    for (int64_t j = 0; j < size; ++j)
      row(i)[j] /= norm;
  }
  return matrix;
}

double quant_llm::getIdentityError(const double *a, const double *b,
                                   int64_t size) {
  // Rows of the identity, or vectors of signs, for which errors of single
  // elements add up like random numbers.
  const bool exact = size <= 64;
  const int64_t numVectors = exact ? size : 8;
  double worst = 0;
  std::vector<double> x(size), xa(size), difference(size);
  for (int64_t v = 0; v < numVectors; ++v) {
    std::fill(x.begin(), x.end(), 0.0);
    if (exact) {
      x[v] = 1;
    } else {
      std::vector<int8_t> signs = getRandomSigns(v, size);
      std::copy(signs.begin(), signs.end(), x.begin());
    }
    std::fill(xa.begin(), xa.end(), 0.0);
    for (int64_t k = 0; k < size; ++k)
      for (int64_t j = 0; j < size; ++j)
        xa[j] += x[k] * a[k * size + j];
    for (int64_t j = 0; j < size; ++j)
      difference[j] = -x[j];
    for (int64_t k = 0; k < size; ++k)
      for (int64_t j = 0; j < size; ++j)
        difference[j] += xa[k] * b[k * size + j];
    for (double element : difference)
      // A NaN is as far from the identity as can be.
      worst = std::isfinite(element) ? std::max(worst, std::fabs(element))
                                     : INFINITY;
  }
  return exact ? worst : worst / std::sqrt(static_cast<double>(size));
}
