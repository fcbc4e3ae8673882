//===- GroupQuantizer.cpp - A matrix to codes and scales, and back --------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/GroupQuantizer.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/NestedScales.h"
#include "quant-llm/Numerics/Packing.h"
#include "quant-llm/Support/Parallel.h"

#include "Kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>

using namespace quant_llm;

static const float floatMax = std::numeric_limits<float>::max();

//===----------------------------------------------------------------------===//
// Source matrices
//===----------------------------------------------------------------------===//

void quant_llm::loadRow(const MatrixView &matrix, int64_t row, int64_t begin,
                        int64_t count, float *to) {
  const uint8_t *from = static_cast<const uint8_t *>(matrix.data) +
                        (row * matrix.k + begin) * sourceTypeBytes(matrix.type);
  auto size = static_cast<size_t>(count);
  switch (matrix.type) {
  case SourceType::F32:
    std::memcpy(to, from, size * sizeof(float));
    return;
  case SourceType::F16:
    f16ToFloat(from, to, size);
    return;
  case SourceType::BF16:
    bf16ToFloat(from, to, size);
    return;
  }
}

/// The error for row `row`, which has an element that is not finite.
static Status makeNotFiniteError(const MatrixView &matrix, int64_t row,
                                 const std::string &tensorName) {
  std::vector<float> values(static_cast<size_t>(matrix.k));
  loadRow(matrix, row, 0, matrix.k, values.data());
  auto bad = std::find_if(values.begin(), values.end(),
                          [](float value) { return !std::isfinite(value); });
  std::string what = std::isnan(*bad) ? "nan" : *bad > 0 ? "inf" : "-inf";
  return Status::error("tensor '" + tensorName + "' has " + what + " at row " +
                       std::to_string(row) + ", column " +
                       std::to_string(bad - values.begin()) +
                       "; expected finite weights");
}

namespace {
/// The smallest row that any thread reports.
class FirstBadRow {
public:
  void report(int64_t row) {
    int64_t known = first.load();
    while (row < known && !first.compare_exchange_weak(known, row))
      ;
  }
  bool any() const { return first.load() != none; }
  int64_t get() const { return first.load(); }

private:
  static constexpr int64_t none = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first{none};
};
} // namespace

static const uint32_t infinityBits = 0x7f800000;

Status quant_llm::verifyFinite(const MatrixView &matrix,
                               const std::string &tensorName, int threads) {
  if (matrix.n <= 0 || matrix.k <= 0)
    return Status::success();
  FirstBadRow bad;
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(matrix.k));
    for (int64_t row = begin; row < end; ++row) {
      float largest;
      loadRow(matrix, row, 0, matrix.k, values.data());
      if (getKernels().absMax(values.data(), matrix.k, matrix.k, &largest) >=
          infinityBits) {
        bad.report(row);
        return;
      }
    }
  });
  return bad.any() ? makeNotFiniteError(matrix, bad.get(), tensorName)
                   : Status::success();
}

//===----------------------------------------------------------------------===//
// Schemes and their storage
//===----------------------------------------------------------------------===//

/// True if a scale of the scheme can be stored as 0.
static bool canStoreZeroScale(const Scheme &scheme) {
  if (!scheme.scaleScheme)
    return scheme.scaleType != FloatType::F8E8M0FNU;
  Result<Element> inner = Element::get(scheme.scaleScheme->element);
  return inner.ok() && inner->hasZero();
}

Status quant_llm::verifyScheme(const Scheme &scheme) {
  Result<Element> element = Element::get(scheme.element);
  if (!element.ok())
    return element.status();
  std::string name = elementName(scheme.element);
  ElementKind kind = scheme.element.kind;

  for (int64_t block : {scheme.blockN, scheme.blockK})
    if (block < 1 && block != -1)
      return Status::error("expected block sizes of at least 1, or -1 for the "
                           "whole dimension, but got [" +
                           std::to_string(scheme.blockN) + ", " +
                           std::to_string(scheme.blockK) + "]");

  bool hasZero = scheme.zero != ZeroKind::None;
  ScaleRule rule = scheme.rule;
  if (rule == ScaleRule::AbsMaxFull) {
    if (kind != ElementKind::Int)
      return Status::error("expected an element intN with rule absmax_full but "
                           "got " +
                           name + "; use absmax");
    if (hasZero)
      return Status::error("expected no zero with rule absmax_full; use minmax "
                           "or mse");
  }
  if (rule == ScaleRule::AbsMax && hasZero)
    return Status::error(
        "expected no zero with rule absmax; use minmax or mse");
  if ((rule == ScaleRule::AbsMax || (rule == ScaleRule::Mse && !hasZero)) &&
      !(element->maxValue() > 0.0f))
    return Status::error(std::string("expected an element with a positive "
                                     "value for rule ") +
                         scaleRuleName(rule) + " but got " + name +
                         (kind == ElementKind::Int ? "; use absmax_full" : ""));
  if (rule == ScaleRule::MinMax && !hasZero)
    return Status::error("expected an integer or float zero with rule minmax; "
                         "use absmax for a symmetric scheme");
  if (scheme.zero == ZeroKind::Integer && kind != ElementKind::UInt)
    return Status::error("expected an element uintN with an integer zero but "
                         "got " +
                         name +
                         (kind == ElementKind::Int
                              ? "; use uint" + std::to_string(element->bits())
                              : "; use a float zero"));
  if (scheme.zero == ZeroKind::Float) {
    if (scheme.zeroType == FloatType::F8E8M0FNU)
      return Status::error("expected a zero of type f16, bf16, f32 or f8E4M3FN "
                           "but got f8E8M0FNU, which has no sign and no 0");
    if (!(element->minValue() < element->maxValue()))
      return Status::error(
          "expected an element with two different values for a "
          "float zero but got " +
          name);
  }
  if (scheme.rounding == Rounding::HalfAway && !element->isInteger())
    return Status::error("expected rounding half_even with element " + name +
                         ", which has its own rule for ties; half_away is for "
                         "integers");
  if (scheme.scaleScheme) {
    const Scheme &inner = *scheme.scaleScheme;
    if (inner.scaleScheme)
      return Status::error(
          "expected a scale scheme with a floating-point scale "
          "but its scale is again a scheme; only one level is "
          "supported");
    if (inner.zero != ZeroKind::None)
      return Status::error("expected a scale scheme without zero");
    if (inner.lowRank != 0)
      return Status::error("expected a scale scheme without low_rank");
    Status status = verifyScheme(inner);
    if (!status.ok())
      return status.withContext("scale scheme");
  }
  if (!hasZero && !element->hasZero() && !canStoreZeroScale(scheme))
    return Status::error(
        "expected a scale that can be 0 with element " + name +
        ", which has no value 0: a block of zeros could not be "
        "stored; use scale type f16, bf16 or f32");
  if (scheme.lowRank < 0)
    return Status::error("expected a rank of low_rank of at least 1, or none, "
                         "but got " +
                         std::to_string(scheme.lowRank));
  if (scheme.lowRank != 0 && scheme.lowRankType != FloatType::F16 &&
      scheme.lowRankType != FloatType::BF16 &&
      scheme.lowRankType != FloatType::F32)
    return Status::error("expected low_rank of type f16, bf16 or f32 but got " +
                         std::string(floatTypeName(scheme.lowRankType)));
  return Status::success();
}

Status quant_llm::verifyScheme(const Scheme &scheme, int64_t n, int64_t k) {
  Status status = verifyScheme(scheme);
  if (!status.ok())
    return status;
  if (n < 1 || k < 1)
    return Status::error("expected a matrix with at least one row and one "
                         "column but got " +
                         std::to_string(n) + "x" + std::to_string(k));
  // 16 bytes per element hold every component and every temporary.
  int64_t bytes;
  if (__builtin_mul_overflow(n, k, &bytes) ||
      __builtin_mul_overflow(bytes, int64_t(16), &bytes))
    return Status::error(
        "expected a matrix of fewer than 2^59 elements but got " +
        std::to_string(n) + "x" + std::to_string(k));
  if (scheme.lowRank > std::min(n, k))
    return Status::error("expected the rank of low_rank to be at most " +
                         std::to_string(std::min(n, k)) + " for a " +
                         std::to_string(n) + "x" + std::to_string(k) +
                         " weight but got " + std::to_string(scheme.lowRank));
  return Status::success();
}

BlockGrid quant_llm::getBlockGrid(const Scheme &scheme, int64_t n, int64_t k) {
  BlockGrid grid;
  grid.blockN = scheme.blockN == -1 ? n : std::min(scheme.blockN, n);
  grid.blockK = scheme.blockK == -1 ? k : std::min(scheme.blockK, k);
  grid.gridN = (n - 1) / grid.blockN + 1;
  grid.gridK = (k - 1) / grid.blockK + 1;
  return grid;
}

std::vector<ComponentInfo> quant_llm::getComponents(const Scheme &scheme,
                                                    int64_t n, int64_t k) {
  BlockGrid grid = getBlockGrid(scheme, n, k);
  std::vector<ComponentInfo> result;
  auto addBytes = [&](ComponentKind kind, const char *suffix, int64_t rows,
                      int64_t columns) {
    result.push_back(
        {kind, suffix, true, FloatType::F32, rows, columns, rows * columns});
  };
  auto addFloats = [&](ComponentKind kind, const char *suffix, FloatType type,
                       int64_t rows, int64_t columns) {
    result.push_back({kind, suffix, false, type, rows, columns,
                      rows * columns * floatTypeBytes(type)});
  };
  addBytes(ComponentKind::Codes, ".codes", n,
           packedRowBytes(k, scheme.element.bits));
  if (const Scheme *inner = scheme.scaleScheme.get()) {
    BlockGrid innerGrid = getBlockGrid(*inner, grid.gridN, grid.gridK);
    addBytes(ComponentKind::ScaleCodes, ".scales.codes", grid.gridN,
             packedRowBytes(grid.gridK, inner->element.bits));
    addFloats(ComponentKind::ScaleScales, ".scales.scales", inner->scaleType,
              innerGrid.gridN, innerGrid.gridK);
  } else {
    addFloats(ComponentKind::Scales, ".scales", scheme.scaleType, grid.gridN,
              grid.gridK);
  }
  if (scheme.zero == ZeroKind::Integer)
    addBytes(ComponentKind::Zeros, ".zeros", grid.gridN, grid.gridK);
  else if (scheme.zero == ZeroKind::Float)
    addFloats(ComponentKind::Zeros, ".zeros", scheme.zeroType, grid.gridN,
              grid.gridK);
  if (scheme.lowRank != 0) {
    addFloats(ComponentKind::LowRankA, ".low_rank.a", scheme.lowRankType, n,
              scheme.lowRank);
    addFloats(ComponentKind::LowRankB, ".low_rank.b", scheme.lowRankType,
              scheme.lowRank, k);
  }
  return result;
}

int64_t quant_llm::getStoredBytes(const Scheme &scheme, int64_t n, int64_t k) {
  int64_t bytes = 0;
  for (const ComponentInfo &component : getComponents(scheme, n, k))
    bytes += component.bytes;
  return bytes;
}

double quant_llm::getBitsPerWeight(const Scheme &scheme, int64_t n, int64_t k) {
  return 8.0 * static_cast<double>(getStoredBytes(scheme, n, k)) /
         (static_cast<double>(n) * static_cast<double>(k));
}

const QuantizedView::Buffer &QuantizedView::get(ComponentKind kind) const {
  switch (kind) {
  case ComponentKind::Codes:
    return codes;
  case ComponentKind::ScaleCodes:
    return scaleCodes;
  case ComponentKind::Zeros:
    return zeros;
  case ComponentKind::LowRankA:
    return lowRankA;
  case ComponentKind::LowRankB:
    return lowRankB;
  default:
    return scales;
  }
}

const std::vector<uint8_t> &QuantizedMatrix::get(ComponentKind kind) const {
  switch (kind) {
  case ComponentKind::Codes:
    return codes;
  case ComponentKind::ScaleCodes:
    return scaleCodes;
  case ComponentKind::Zeros:
    return zeros;
  case ComponentKind::LowRankA:
    return lowRankA;
  case ComponentKind::LowRankB:
    return lowRankB;
  default:
    return scales;
  }
}

QuantizedView QuantizedMatrix::view() const {
  auto buffer = [](const std::vector<uint8_t> &bytes) {
    return QuantizedView::Buffer{bytes.data(),
                                 static_cast<int64_t>(bytes.size())};
  };
  QuantizedView result;
  result.n = n;
  result.k = k;
  result.codes = buffer(codes);
  result.scales = buffer(scales);
  result.scaleCodes = buffer(scaleCodes);
  result.zeros = buffer(zeros);
  result.lowRankA = buffer(lowRankA);
  result.lowRankB = buffer(lowRankB);
  return result;
}

//===----------------------------------------------------------------------===//
// Scales of blocks
//===----------------------------------------------------------------------===//

/// RowParameters from arrays of one row of blocks.
static RowParameters getRowParameters(ZeroKind zeroKind, int64_t count,
                                      int64_t blockK, const float *scales,
                                      const float *zeros) {
  return {count, blockK, scales, zeroKind == ZeroKind::Float ? zeros : nullptr,
          zeroKind == ZeroKind::Integer ? zeros : nullptr};
}

/// Encodes a row of blocks to one code per byte.
static void encodeRow(const Element &element, Rounding rounding,
                      const float *row, const RowParameters &parameters,
                      uint8_t *codes) {
  auto zeroCode = static_cast<uint8_t>(element.zeroCode());
  if (element.isInteger()) {
    getKernels().encodeInt(row, parameters, element.minValue(),
                           element.maxValue(), rounding == Rounding::HalfAway,
                           static_cast<uint8_t>(element.numCodes() - 1), codes);
  } else if (const SmallFloat *format = getSmallFloat(element.kind())) {
    getKernels().encodeSmallFloat(row, parameters, format->exponentBits,
                                  format->mantissaBits, format->bias,
                                  element.maxValue(), zeroCode, codes);
  } else {
    getKernels().encodeTable(row, parameters, element.bits(),
                             element.thresholds().data(),
                             element.order().data(), zeroCode, codes);
  }
}

void quant_llm::roundRow(const Element &element, Rounding rounding,
                         ZeroKind zeroKind, const float *row, int64_t k,
                         int64_t blockK, const float *scales,
                         const float *zeros, uint8_t *codes, float *values) {
  RowParameters parameters =
      getRowParameters(zeroKind, k, blockK, scales, zeros);
  encodeRow(element, rounding, row, parameters, codes);
  if (values)
    getKernels().decode(codes, parameters, element.table().data(), values);
}

namespace {
/// Range of the weights of a block: [-a, a] with a = max|w| if the scheme has
/// no zero, else [min, max], which holds 0 if the zero is an integer.
struct Range {
  double low, high;
};

/// The most clips that rule mse tries.
constexpr int maxClips = 33;

/// Scales and zeros of a block under every clip, as codes are computed with.
struct ClippedParameters {
  float scales[maxClips];
  float zeros[maxClips];
};

/// Computes and stores scales and zeros of blocks.
class BlockCoder {
public:
  BlockCoder(const Scheme &scheme, const Element &element)
      : scheme(scheme), element(element),
        powerOfTwo(!scheme.scaleScheme &&
                   scheme.scaleType == FloatType::F8E8M0FNU) {
    double low = element.minValue(), high = element.maxValue();
    span = high - low;
    largest = scheme.zero == ZeroKind::None ? element.maxMagnitude() : span;

    nearest.low = element.minValue();
    nearest.high = element.maxValue();
    nearest.halfAway = scheme.rounding == Rounding::HalfAway;
    nearest.bits = element.bits();
    if (element.isInteger()) {
      nearest.kind = NearestValue::Integer;
    } else if (const SmallFloat *format = getSmallFloat(element.kind())) {
      nearest.kind = NearestValue::SmallFloat;
      nearest.mantissaBits = format->mantissaBits;
      nearest.bias = format->bias;
    } else {
      nearest.kind = NearestValue::Table;
      nearest.thresholds = element.thresholds().data();
      for (uint8_t code : element.order())
        sortedValues.push_back(element.decode(code));
      nearest.values = sortedValues.data();
    }
  }
  BlockCoder(const BlockCoder &) = delete;
  BlockCoder &operator=(const BlockCoder &) = delete;

  bool hasFloatZero() const { return scheme.zero == ZeroKind::Float; }
  bool hasIntZero() const { return scheme.zero == ZeroKind::Integer; }
  bool isSymmetric() const { return scheme.zero == ZeroKind::None; }

  /// Number of clips that rule mse tries, the first of which is none.
  int getNumClips() const { return powerOfTwo ? 4 : maxClips; }

  /// The scale before it is stored; finite and not negative.
  double computeScale(Range range, int clip) const {
    if (!powerOfTwo)
      range = clipRange(range, clip);
    bool minMax = !isSymmetric();
    double scale;
    if (minMax)
      scale = (range.high - range.low) / span;
    else if (scheme.rule == ScaleRule::AbsMaxFull)
      scale = range.high / static_cast<double>(1u << (element.bits() - 1));
    else
      scale = range.high / static_cast<double>(element.maxValue());
    // Values have to stay finite; one more bit for scales that are rounded
    // again.
    double limit = floatMax / largest / (scheme.scaleScheme ? 2.0 : 1.0);
    scale = std::min(scale, limit);
    if (!powerOfTwo || scale == 0.0)
      return scale;

    int exponent;
    if (!minMax && scheme.rule != ScaleRule::AbsMaxFull) {
      exponent = std::ilogb(range.high) - element.maxExponent();
    } else {
      // scale = fraction * 2^exponent with 0.5 <= fraction < 1
      double fraction = std::frexp(scale, &exponent);
      if (fraction == 0.5)
        --exponent;
    }
    if (scheme.rule == ScaleRule::Mse)
      exponent += 1 - clip;
    return std::min(std::ldexp(1.0, exponent),
                    std::exp2(std::floor(std::log2(limit))));
  }

  /// Rounds a scale to its type, writes it and returns it.
  float storeScale(double scale, uint8_t *to) const {
    FloatType type = scheme.scaleType;
    float rounded = std::min(static_cast<float>(scale), maxFinite(type));
    if (scale > 0.0)
      rounded = std::max(rounded, minPositive(type));
    storeFloat(type, rounded, to);
    float stored = loadFloat(type, to);
    if (stored == 0.0f && scale > 0.0) {
      storeFloat(type, minPositive(type), to);
      stored = minPositive(type);
    }
    // Rounding up may have gone over the limit of computeScale.
    if (static_cast<double>(stored) * largest > floatMax) {
      storeFloat(type, stored * (type == FloatType::F8E8M0FNU ? 0.5f : 0.99f),
                 to);
      stored = loadFloat(type, to);
    }
    return stored;
  }

  /// Writes the zero for a stored scale and returns its value.
  float storeZero(Range range, int clip, float scale, uint8_t *to) const {
    if (!powerOfTwo)
      range = clipRange(range, clip);
    if (hasFloatZero()) {
      double zero = range.low - static_cast<double>(scale) * element.minValue();
      storeFloat(scheme.zeroType, static_cast<float>(zero), to);
      return loadFloat(scheme.zeroType, to);
    }
    // The code of an unsigned integer is its value.
    float quotient =
        scale == 0.0f ? 0.0f : static_cast<float>(range.low) / scale;
    unsigned code = element.encode(-quotient, scheme.rounding);
    *to = static_cast<uint8_t>(code);
    return element.decode(code);
  }

  /// True if every code has a finite value.
  bool isFinite(float scale, float floatZero) const {
    return std::isfinite(scale * element.minValue() + floatZero) &&
           std::isfinite(scale * element.maxValue() + floatZero);
  }

  /// Bytes of a stored scale and zero.
  unsigned getScaleBytes() const { return floatTypeBytes(scheme.scaleType); }
  unsigned getZeroBytes() const {
    return hasIntZero()     ? 1
           : hasFloatZero() ? floatTypeBytes(scheme.zeroType)
                            : 0;
  }

  /// Stores scale and zero of a block, so that no code has an infinite value.
  void store(Range range, int clip, uint8_t *scaleTo, uint8_t *zeroTo,
             float &scale, float &zero) const {
    double wanted = computeScale(range, clip);
    zero = 0.0f;
    for (int attempt = 0; attempt < 64; ++attempt) {
      scale = storeScale(wanted, scaleTo);
      if (isSymmetric())
        return;
      zero = storeZero(range, clip, scale, zeroTo);
      if (!hasFloatZero() || isFinite(scale, zero))
        return;
      wanted = scale * (powerOfTwo ? 0.5 : 0.98);
    }
  }

  /// Encodes a row of blocks to one code per byte.
  void encode(const float *row, const RowParameters &parameters,
              uint8_t *codes) const {
    encodeRow(element, scheme.rounding, row, parameters, codes);
  }

  /// RowParameters from arrays of one row of blocks.
  RowParameters getParameters(int64_t count, int64_t blockK,
                              const float *scales, const float *zeros) const {
    return getRowParameters(scheme.zero, count, blockK, scales, zeros);
  }

  /// Scales and zeros under every clip, as the search for one needs them.
  void computeClips(Range range, ClippedParameters &clips) const {
    if (powerOfTwo || !computeUsualClips(range, clips))
      for (int clip = 0; clip < getNumClips(); ++clip)
        computeClip(range, clip, clips.scales[clip], clips.zeros[clip]);
  }

  /// The best clip of a block of rows that are `stride` apart; see
  /// Kernels::findBest about `hint`.
  int findBestClip(const float *rows, int64_t numRows, int64_t stride,
                   int64_t count, const ClippedParameters &clips,
                   int hint) const {
    return static_cast<int>(getKernels().findBest(
        nearest, rows, numRows, stride, count, getCandidates(clips), hint));
  }

  /// Squared errors of `row`, a part of a block, under every clip.
  void computeErrors(const float *row, int64_t count,
                     const ClippedParameters &clips, double *errors) const {
    getKernels().squaredErrors(nearest, row, count, getCandidates(clips),
                               errors);
  }

private:
  /// The range under clip number `clip` of rule mse.
  Range clipRange(Range range, int clip) const {
    if (clip == 0)
      return range;
    double ratio = (40 - clip) / 40.0;
    if (!hasFloatZero())
      return {range.low * ratio, range.high * ratio};
    double middle = (range.low + range.high) / 2;
    double half = (range.high - range.low) / 2 * ratio;
    return {middle - half, middle + half};
  }

  Candidates getCandidates(const ClippedParameters &clips) const {
    return {getNumClips(), clips.scales, hasFloatZero() ? clips.zeros : nullptr,
            hasIntZero() ? clips.zeros : nullptr};
  }

  void computeClip(Range range, int clip, float &scale, float &zero) const {
    uint8_t scaleBytes[4], zeroBytes[4];
    if (!scheme.scaleScheme) {
      store(range, clip, scaleBytes, zeroBytes, scale, zero);
      return;
    }
    // The stored scale depends on all blocks; search with the one before.
    scale = static_cast<float>(computeScale(range, clip));
    zero = isSymmetric() ? 0.0f : storeZero(range, clip, scale, zeroBytes);
  }

  /// Rounds to a type and back, as storeFloat and loadFloat.
  static void roundAll(FloatType type, float (&values)[maxClips]) {
    float limit = maxFinite(type);
    for (float &value : values)
      value = std::max(-limit, std::min(limit, value));
    uint8_t bytes[4 * maxClips];
    switch (type) {
    case FloatType::F16:
      floatToF16(values, bytes, maxClips);
      f16ToFloat(bytes, values, maxClips);
      return;
    case FloatType::BF16:
      floatToBF16(values, bytes, maxClips);
      bf16ToFloat(bytes, values, maxClips);
      return;
    case FloatType::F32:
      return;
    default:
      for (float &value : values) {
        storeFloat(type, value, bytes);
        value = loadFloat(type, bytes);
      }
    }
  }

  /// computeClip() for all clips at once, in loops that compilers vectorize;
  /// false if a scale or zero is among those that are adjusted one by one. The
  /// same operations in the same order give the same bits.
  bool computeUsualClips(Range range, ClippedParameters &clips) const {
    double lows[maxClips], highs[maxClips], wanted[maxClips];
    for (int clip = 0; clip < maxClips; ++clip) {
      double ratio = (40 - clip) / 40.0;
      lows[clip] = range.low * ratio;
      highs[clip] = range.high * ratio;
    }
    if (hasFloatZero())
      for (int clip = 1; clip < maxClips; ++clip) {
        Range clipped = clipRange(range, clip);
        lows[clip] = clipped.low;
        highs[clip] = clipped.high;
      }
    double limit = floatMax / largest / (scheme.scaleScheme ? 2.0 : 1.0);
    double divisor = isSymmetric() ? element.maxValue() : span;
    for (int clip = 0; clip < maxClips; ++clip) {
      double width = isSymmetric() ? highs[clip] : highs[clip] - lows[clip];
      wanted[clip] = std::min(width / divisor, limit);
      clips.scales[clip] = static_cast<float>(wanted[clip]);
      clips.zeros[clip] = 0.0f;
    }
    if (!scheme.scaleScheme) {
      roundAll(scheme.scaleType, clips.scales);
      // What storeScale() changes after or before rounding. A block of zeros
      // has scales of 0, and so may keep them.
      float least = minPositive(scheme.scaleType);
      float most = maxFinite(scheme.scaleType);
      bool usual = true;
      for (int clip = 0; clip < maxClips; ++clip)
        usual &= (wanted[clip] == 0.0) |
                 ((wanted[clip] >= least) & (clips.scales[clip] < most) &
                  (clips.scales[clip] * largest <= floatMax));
      if (!usual)
        return false;
    }
    if (hasIntZero()) {
      for (int clip = 0; clip < maxClips; ++clip) {
        float scale = clips.scales[clip];
        float quotient =
            scale == 0.0f ? 0.0f : static_cast<float>(lows[clip]) / scale;
        float value = std::max(nearest.low, std::min(nearest.high, -quotient));
        // Rounds to the nearest even integer; the rest is exact.
        float rounded = (value + 0x1.8p23f) - 0x1.8p23f;
        if (nearest.halfAway)
          rounded += value - rounded == 0.5f ? 1.0f : 0.0f;
        clips.zeros[clip] = rounded;
      }
    } else if (hasFloatZero()) {
      for (int clip = 0; clip < maxClips; ++clip)
        clips.zeros[clip] = static_cast<float>(
            lows[clip] -
            static_cast<double>(clips.scales[clip]) * element.minValue());
      roundAll(scheme.zeroType, clips.zeros);
      if (!scheme.scaleScheme)
        for (int clip = 0; clip < maxClips; ++clip)
          if (!isFinite(clips.scales[clip], clips.zeros[clip]))
            return false;
    }
    return true;
  }

  const Scheme &scheme;
  const Element &element;
  bool powerOfTwo;
  /// Largest minus smallest value of the element, and the largest magnitude of
  /// what the scale is multiplied with.
  double span, largest;
  NearestValue nearest = {};
  std::vector<float> sortedValues;
};
} // namespace

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

namespace {
class Quantizer {
public:
  Quantizer(const MatrixView &matrix, const Scheme &scheme, Element source,
            const StoreScales &storeScales, const std::string &tensorName,
            int threads, bool withCodes)
      : matrix(matrix), scheme(scheme), element(std::move(source)),
        coder(scheme, element), storeScales(storeScales),
        tensorName(tensorName), threads(threads), withCodes(withCodes),
        grid(getBlockGrid(scheme, matrix.n, matrix.k)) {}

  Result<QuantizedMatrix> run();

private:
  int64_t getNumBlocks() const { return grid.gridN * grid.gridK; }

  /// Ranges of one row of the matrix to lows and highs; false if it has an
  /// element that is not finite.
  bool computeRowRanges(const float *row, float *lows, float *highs) const;
  Range getRange(float low, float high) const;

  Status quantizeRowBlocks(QuantizedMatrix &result);
  Status quantizeAnyBlocks(QuantizedMatrix &result);
  Status computeRanges(std::vector<float> &lows, std::vector<float> &highs);
  void searchClips(const std::vector<float> &lows,
                   const std::vector<float> &highs, std::vector<int> &clips);
  void searchClipsInPieces(const std::vector<float> &lows,
                           const std::vector<float> &highs,
                           std::vector<int> &clips);
  MatrixView matrix;
  const Scheme &scheme;
  Element element;
  BlockCoder coder;
  const StoreScales &storeScales;
  const std::string &tensorName;
  int threads;
  bool withCodes;
  BlockGrid grid;
};
} // namespace

bool Quantizer::computeRowRanges(const float *row, float *lows,
                                 float *highs) const {
  if (coder.isSymmetric())
    return getKernels().absMax(row, matrix.k, grid.blockK, highs) <
           infinityBits;
  return getKernels().minMax(row, matrix.k, grid.blockK, lows, highs) <
         infinityBits;
}

Range Quantizer::getRange(float low, float high) const {
  if (coder.isSymmetric())
    return {-static_cast<double>(high), static_cast<double>(high)};
  if (coder.hasIntZero())
    return {std::min(low, 0.0f), std::max(high, 0.0f)};
  return {low, high};
}

/// Blocks of one row with scales of their own: each row is read once.
Status Quantizer::quantizeRowBlocks(QuantizedMatrix &result) {
  int64_t rowBytes = packedRowBytes(matrix.k, element.bits());
  int64_t blocks = grid.gridK;
  unsigned scaleBytes = coder.getScaleBytes(), zeroBytes = coder.getZeroBytes();
  FirstBadRow bad;
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(matrix.k));
    std::vector<uint8_t> codes(static_cast<size_t>(matrix.k));
    std::vector<float> lows(static_cast<size_t>(blocks)), highs(lows),
        scales(lows), zeros(lows);
    ClippedParameters clips;
    int clip = 0; // neighbours have similar ones
    for (int64_t row = begin; row < end; ++row) {
      loadRow(matrix, row, 0, matrix.k, values.data());
      if (!computeRowRanges(values.data(), lows.data(), highs.data())) {
        bad.report(row);
        return;
      }
      for (int64_t block = 0; block < blocks; ++block) {
        Range range = getRange(lows[block], highs[block]);
        if (scheme.rule == ScaleRule::Mse) {
          int64_t first = block * grid.blockK;
          coder.computeClips(range, clips);
          clip = coder.findBestClip(values.data() + first, 1, matrix.k,
                                    std::min(grid.blockK, matrix.k - first),
                                    clips, clip);
        }
        int64_t cell = row * blocks + block;
        coder.store(range, clip, result.scales.data() + cell * scaleBytes,
                    result.zeros.data() + cell * zeroBytes, scales[block],
                    zeros[block]);
      }
      if (!withCodes)
        continue;
      coder.encode(values.data(),
                   coder.getParameters(matrix.k, grid.blockK, scales.data(),
                                       zeros.data()),
                   codes.data());
      packRow(codes.data(), matrix.k, element.bits(),
              result.codes.data() + row * rowBytes);
    }
  });
  return bad.any() ? makeNotFiniteError(matrix, bad.get(), tensorName)
                   : Status::success();
}

/// Ranges of all blocks. Minima and maxima do not depend on the order in which
/// threads meet them.
Status Quantizer::computeRanges(std::vector<float> &lows,
                                std::vector<float> &highs) {
  auto blocks = static_cast<size_t>(getNumBlocks());
  auto width = static_cast<size_t>(grid.gridK);
  lows.assign(blocks, coder.isSymmetric() ? 0.0f : floatMax);
  highs.assign(blocks, coder.isSymmetric() ? 0.0f : -floatMax);
  FirstBadRow bad;
  std::mutex mutex;
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(matrix.k));
    std::vector<float> rowLows(width), rowHighs(width), blockLows, blockHighs;
    auto merge = [&](int64_t rowBlock) {
      std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = 0; i < width; ++i) {
        size_t cell = static_cast<size_t>(rowBlock) * width + i;
        lows[cell] = std::min(lows[cell], blockLows[i]);
        highs[cell] = std::max(highs[cell], blockHighs[i]);
      }
    };
    for (int64_t row = begin; row < end; ++row) {
      loadRow(matrix, row, 0, matrix.k, values.data());
      if (!computeRowRanges(values.data(), rowLows.data(), rowHighs.data())) {
        bad.report(row);
        return;
      }
      if (row == begin || row % grid.blockN == 0) {
        if (row != begin)
          merge((row - 1) / grid.blockN);
        blockLows = rowLows;
        blockHighs = rowHighs;
        continue;
      }
      for (size_t i = 0; i < width; ++i) {
        blockLows[i] = std::min(blockLows[i], rowLows[i]);
        blockHighs[i] = std::max(blockHighs[i], rowHighs[i]);
      }
    }
    merge((end - 1) / grid.blockN);
  });
  return bad.any() ? makeNotFiniteError(matrix, bad.get(), tensorName)
                   : Status::success();
}

/// Blocks of at most this many rows are searched as a whole; larger ones in
/// pieces, so that threads can share them.
static constexpr int64_t pieceRows = 64;

/// Rule mse for blocks of several rows.
void Quantizer::searchClips(const std::vector<float> &lows,
                            const std::vector<float> &highs,
                            std::vector<int> &clips) {
  if (grid.blockN > pieceRows) {
    searchClipsInPieces(lows, highs, clips);
    return;
  }
  auto width = static_cast<size_t>(grid.gridK);
  parallelFor(grid.gridN, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(grid.blockN * matrix.k));
    ClippedParameters parameters;
    int clip = 0; // neighbours have similar ones
    for (int64_t rowBlock = begin; rowBlock < end; ++rowBlock) {
      int64_t firstRow = rowBlock * grid.blockN;
      int64_t numRows = std::min(grid.blockN, matrix.n - firstRow);
      for (int64_t row = 0; row < numRows; ++row)
        loadRow(matrix, firstRow + row, 0, matrix.k,
                values.data() + row * matrix.k);
      for (size_t i = 0; i < width; ++i) {
        size_t cell = static_cast<size_t>(rowBlock) * width + i;
        int64_t first = static_cast<int64_t>(i) * grid.blockK;
        coder.computeClips(getRange(lows[cell], highs[cell]), parameters);
        clip = coder.findBestClip(values.data() + first, numRows, matrix.k,
                                  std::min(grid.blockK, matrix.k - first),
                                  parameters, clip);
        clips[cell] = clip;
      }
    }
  });
}

/// The same for any number of rows: errors are summed over pieces of a row of
/// blocks, and these in order, whichever thread has computed them.
void Quantizer::searchClipsInPieces(const std::vector<float> &lows,
                                    const std::vector<float> &highs,
                                    std::vector<int> &clips) {
  auto width = static_cast<size_t>(grid.gridK);
  auto numClips = static_cast<size_t>(coder.getNumClips());
  int64_t piecesPerBlock = (grid.blockN - 1) / pieceRows + 1;
  int64_t pieces = grid.gridN * piecesPerBlock;
  size_t pieceSums = width * numClips;
  std::vector<double> sums(static_cast<size_t>(pieces) * pieceSums);
  parallelFor(pieces, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(matrix.k));
    std::vector<ClippedParameters> parameters(width);
    std::vector<double> errors(numClips);
    for (int64_t piece = begin; piece < end; ++piece) {
      int64_t rowBlock = piece / piecesPerBlock;
      int64_t firstRow =
          rowBlock * grid.blockN + piece % piecesPerBlock * pieceRows;
      int64_t lastRow = std::min(
          {firstRow + pieceRows, (rowBlock + 1) * grid.blockN, matrix.n});
      for (size_t i = 0; i < width; ++i) {
        size_t cell = static_cast<size_t>(rowBlock) * width + i;
        coder.computeClips(getRange(lows[cell], highs[cell]), parameters[i]);
      }
      double *to = sums.data() + static_cast<size_t>(piece) * pieceSums;
      for (int64_t row = firstRow; row < lastRow; ++row) {
        loadRow(matrix, row, 0, matrix.k, values.data());
        for (size_t i = 0; i < width; ++i) {
          int64_t first = static_cast<int64_t>(i) * grid.blockK;
          coder.computeErrors(values.data() + first,
                              std::min(grid.blockK, matrix.k - first),
                              parameters[i], errors.data());
          for (size_t clip = 0; clip < numClips; ++clip)
            to[i * numClips + clip] += errors[clip];
        }
      }
    }
  });
  std::vector<double> errors(numClips);
  for (size_t cell = 0; cell < lows.size(); ++cell) {
    std::fill(errors.begin(), errors.end(), 0.0);
    for (int64_t piece = 0; piece < piecesPerBlock; ++piece) {
      size_t place = cell / width * static_cast<size_t>(piecesPerBlock) +
                     static_cast<size_t>(piece);
      const double *from =
          sums.data() + place * pieceSums + cell % width * numClips;
      for (size_t clip = 0; clip < numClips; ++clip)
        errors[clip] += from[clip];
    }
    clips[cell] = static_cast<int>(
        std::min_element(errors.begin(), errors.end()) - errors.begin());
  }
}

/// Any blocks and scales: ranges of all blocks, then scales, then codes.
Status Quantizer::quantizeAnyBlocks(QuantizedMatrix &result) {
  std::vector<float> lows, highs;
  Status status = computeRanges(lows, highs);
  if (!status.ok())
    return status;
  size_t blocks = lows.size();
  std::vector<int> clips(blocks, 0);
  if (scheme.rule == ScaleRule::Mse)
    searchClips(lows, highs, clips);

  std::vector<float> scales(blocks), zeros(blocks);
  unsigned zeroBytes = coder.getZeroBytes();
  if (scheme.scaleScheme) {
    for (size_t cell = 0; cell < blocks; ++cell)
      scales[cell] = static_cast<float>(
          coder.computeScale(getRange(lows[cell], highs[cell]), clips[cell]));
    MatrixView view{scales.data(), SourceType::F32, grid.gridN, grid.gridK};
    Result<QuantizedMatrix> inner = storeScales(view);
    if (!inner.ok())
      return inner.status().withContext("tensor '" + tensorName + "'");
    status = dequantize(*inner, *scheme.scaleScheme, scales.data(), threads);
    if (!status.ok())
      return status.withContext("tensor '" + tensorName + "'");
    result.scaleCodes = std::move(inner->codes);
    result.scales = std::move(inner->scales);
    for (size_t cell = 0; cell < blocks && !coder.isSymmetric(); ++cell)
      zeros[cell] =
          coder.storeZero(getRange(lows[cell], highs[cell]), clips[cell],
                          scales[cell], result.zeros.data() + cell * zeroBytes);
  } else {
    unsigned scaleBytes = coder.getScaleBytes();
    for (size_t cell = 0; cell < blocks; ++cell)
      coder.store(getRange(lows[cell], highs[cell]), clips[cell],
                  result.scales.data() + cell * scaleBytes,
                  result.zeros.data() + cell * zeroBytes, scales[cell],
                  zeros[cell]);
  }

  if (!withCodes)
    return Status::success();
  int64_t rowBytes = packedRowBytes(matrix.k, element.bits());
  parallelFor(matrix.n, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(matrix.k));
    std::vector<uint8_t> codes(static_cast<size_t>(matrix.k));
    for (int64_t row = begin; row < end; ++row) {
      loadRow(matrix, row, 0, matrix.k, values.data());
      int64_t cell = row / grid.blockN * grid.gridK;
      coder.encode(values.data(),
                   coder.getParameters(matrix.k, grid.blockK,
                                       scales.data() + cell,
                                       zeros.data() + cell),
                   codes.data());
      packRow(codes.data(), matrix.k, element.bits(),
              result.codes.data() + row * rowBytes);
    }
  });
  return Status::success();
}

Result<QuantizedMatrix> Quantizer::run() {
  QuantizedMatrix result;
  result.n = matrix.n;
  result.k = matrix.k;
  for (const ComponentInfo &component :
       getComponents(scheme, matrix.n, matrix.k)) {
    auto size = static_cast<size_t>(component.bytes);
    if (component.kind == ComponentKind::Codes)
      result.codes.resize(size);
    else if (component.kind == ComponentKind::Scales)
      result.scales.resize(size);
    else if (component.kind == ComponentKind::Zeros)
      result.zeros.resize(size);
  }
  Status status = grid.blockN == 1 && !scheme.scaleScheme
                      ? quantizeRowBlocks(result)
                      : quantizeAnyBlocks(result);
  if (!status.ok())
    return status;
  return result;
}

Result<QuantizedMatrix>
quant_llm::quantizeWithScales(const MatrixView &matrix, const Scheme &scheme,
                              const StoreScales &storeScales,
                              const std::string &tensorName, int threads,
                              bool withCodes) {
  Status status = verifyScheme(scheme, matrix.n, matrix.k);
  if (!status.ok())
    return status.withContext("tensor '" + tensorName + "'");
  if (scheme.lowRank != 0)
    return Status::error("tensor '" + tensorName +
                         "': expected a scheme without low_rank");
  Result<Element> element = Element::get(scheme.element);
  if (!element.ok())
    return element.status();
  return Quantizer(matrix, scheme, element.take(), storeScales, tensorName,
                   threads, withCodes)
      .run();
}

Result<QuantizedMatrix> quant_llm::quantize(const MatrixView &matrix,
                                            const Scheme &scheme,
                                            const std::string &tensorName,
                                            int threads) {
  auto storeByRule = [&](const MatrixView &scales) {
    return quantize(scales, *scheme.scaleScheme, "scales", threads);
  };
  return quantizeWithScales(matrix, scheme, storeByRule, tensorName, threads);
}

//===----------------------------------------------------------------------===//
// Dequantization
//===----------------------------------------------------------------------===//

Status quant_llm::verifyStorage(const QuantizedView &view,
                                const Scheme &scheme) {
  Status status = verifyScheme(scheme, view.n, view.k);
  if (!status.ok())
    return status;
  for (const ComponentInfo &component : getComponents(scheme, view.n, view.k)) {
    const QuantizedView::Buffer &buffer = view.get(component.kind);
    if (buffer.size != component.bytes)
      return Status::error("expected " + std::to_string(component.bytes) +
                           " bytes in component '" + (component.suffix + 1) +
                           "' of a " + std::to_string(view.n) + "x" +
                           std::to_string(view.k) + " weight but got " +
                           std::to_string(buffer.size));
    if (component.kind != ComponentKind::Zeros ||
        scheme.zero != ZeroKind::Integer)
      continue;
    int largest = (1 << scheme.element.bits) - 1;
    for (int64_t i = 0; i < buffer.size; ++i)
      if (buffer.data[i] > largest)
        return Status::error("expected zeros between 0 and " +
                             std::to_string(largest) + " but zero " +
                             std::to_string(i) + " is " +
                             std::to_string(buffer.data[i]));
  }
  return Status::success();
}

Result<RowReader> RowReader::get(const QuantizedView &view,
                                 const Scheme &scheme) {
  Status status = verifyStorage(view, scheme);
  if (!status.ok())
    return status;
  Result<Element> element = Element::get(scheme.element);
  if (!element.ok())
    return element.status();
  RowReader reader(element.take());
  reader.view = view;
  reader.grid = getBlockGrid(scheme, view.n, view.k);
  reader.zeroKind = scheme.zero;
  reader.scaleType = scheme.scaleType;
  reader.zeroType = scheme.zeroType;
  if (scheme.scaleScheme) {
    QuantizedView inner;
    inner.n = reader.grid.gridN;
    inner.k = reader.grid.gridK;
    inner.codes = view.scaleCodes;
    inner.scales = view.scales;
    reader.decodedScales.resize(static_cast<size_t>(inner.n * inner.k));
    status = dequantize(inner, *scheme.scaleScheme, reader.decodedScales.data(),
                        /*threads=*/1);
    if (!status.ok())
      return status;
  }
  reader.lowRank = scheme.lowRank;
  reader.lowRankType = scheme.lowRankType;
  reader.lowRankB.resize(static_cast<size_t>(scheme.lowRank * view.k));
  for (size_t i = 0; i < reader.lowRankB.size(); ++i)
    reader.lowRankB[i] =
        loadFloat(scheme.lowRankType,
                  view.lowRankB.data + i * floatTypeBytes(scheme.lowRankType));
  return reader;
}

void RowReader::read(int64_t begin, int64_t end, float *to) const {
  auto blocks = static_cast<size_t>(grid.gridK);
  std::vector<uint8_t> codes(static_cast<size_t>(view.k));
  std::vector<float> scales(blocks), zeros(blocks);
  int64_t rowBytes = packedRowBytes(view.k, element.bits());
  for (int64_t row = begin; row < end; ++row) {
    if (row == begin || row % grid.blockN == 0) {
      size_t cell = static_cast<size_t>(row / grid.blockN) * blocks;
      for (size_t i = 0; i < blocks; ++i) {
        scales[i] = decodedScales.empty()
                        ? loadFloat(scaleType,
                                    view.scales.data +
                                        (cell + i) * floatTypeBytes(scaleType))
                        : decodedScales[cell + i];
        if (zeroKind == ZeroKind::Float)
          zeros[i] =
              loadFloat(zeroType, view.zeros.data +
                                      (cell + i) * floatTypeBytes(zeroType));
        else if (zeroKind == ZeroKind::Integer)
          zeros[i] = static_cast<float>(view.zeros.data[cell + i]);
      }
    }
    unpackRow(view.codes.data + row * rowBytes, view.k, element.bits(),
              codes.data());
    RowParameters parameters = getRowParameters(zeroKind, view.k, grid.blockK,
                                                scales.data(), zeros.data());
    float *values = to + (row - begin) * view.k;
    getKernels().decode(codes.data(), parameters, element.table().data(),
                        values);
    for (int64_t j = 0; j < lowRank; ++j) {
      float factor = loadFloat(
          lowRankType, view.lowRankA.data +
                           (row * lowRank + j) * floatTypeBytes(lowRankType));
      const float *direction = lowRankB.data() + j * view.k;
      for (int64_t i = 0; i < view.k; ++i)
        values[i] += factor * direction[i];
    }
  }
}

Status quant_llm::dequantize(const QuantizedView &view, const Scheme &scheme,
                             float *to, int threads) {
  Result<RowReader> reader = RowReader::get(view, scheme);
  if (!reader.ok())
    return reader.status();
  parallelFor(view.n, threads, [&](int64_t begin, int64_t end) {
    reader->read(begin, end, to + begin * view.k);
  });
  return Status::success();
}
