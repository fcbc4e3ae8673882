//===- GroupQuantizer.h - A matrix to codes and scales, and back *- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Round-to-nearest quantization of a matrix W [N, K] (N outputs, K inputs, K
// contiguous) under a Scheme, and its exact inverse. docs/Spec.md sections 3
// and 3.2 are the definition; every operation below is one binary32 operation
// unless it says float64.
//
// A block is the blockN x blockK elements that share a scale s (and zero z);
// the last block of a dimension may be smaller; GN = ceil(N/blockN), GK =
// ceil(K/blockK). Value of a stored element, with v the table of the element
// format:
//     zero none: s*v(q)    integer: s*(v(q) - z)    float: s*v(q) + z
//
// Scale of a block, before it is rounded to its type (float64, then rounded to
// binary32), with a = max|w|, V = the element's largest value:
//     AbsMaxFull  a / 2^(b-1)
//     AbsMax      a / V
//     MinMax      (hi - lo) / (vmax - vmin), vmax - vmin = 2^b-1 for integers;
//                 integer zero: lo = min(w, 0), hi = max(w, 0),
//                               z = clamp(round(-fl32(lo/s)));
//                 float zero:   lo = min w, hi = max w, z = lo - s*vmin
//     Mse         the above (MinMax with a zero, else AbsMax) applied to the
//     clipped
//                 range: c*a, or [c*lo, c*hi] (integer zero), or the range of
//                 c times the width around its middle (float zero); c is the
//                 ratio of 1, 39/40, 38/40, ..., 8/40 with the smallest sum of
//                 squared errors (float64) of the dequantized block; ties: the
//                 largest.
// With f8E8M0FNU scales: AbsMax is 2^(floor(log2 a) - emax(element)) (OCP
// MX 1.0, section 6.3), all others the next power of two that is not below; Mse
// tries the exponents e+1, e, e-1, e-2 around the rule's e instead of ratios.
//
// The stored scale: rounded to nearest even in its type, clamped to the type's
// finite numbers, and a positive scale never becomes 0 (it is clamped to the
// smallest subnormal). It is further limited so that no code dequantizes to
// infinity. A block of zeros has scale 0 (2^-127 in f8E8M0FNU) and codes of
// value 0. Codes are computed with the stored s and z:
//     encode(w/s)    encode(w/s + z)    encode((w - z)/s)
// with Element::encode, and are the code of value 0 (value z) if s is 0.
//
// Recursive scales: the binary32 matrix of scales [GN, GK] is quantized under
// scaleScheme like any matrix; s is what is read back from it.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_NUMERICS_GROUPQUANTIZER_H
#define QUANT_LLM_NUMERICS_GROUPQUANTIZER_H

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Scheme.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm {

//===----------------------------------------------------------------------===//
// Source matrices
//===----------------------------------------------------------------------===//

/// Element type of a dense matrix in memory.
enum class SourceType { F32, F16, BF16 };

inline unsigned sourceTypeBytes(SourceType type) {
  return type == SourceType::F32 ? 4 : 2;
}

/// A dense row-major matrix [n, k], little-endian, without alignment.
struct MatrixView {
  const void *data = nullptr;
  SourceType type = SourceType::F32;
  int64_t n = 0;
  int64_t k = 0;
};

/// Writes elements [begin, begin + count) of row `row` to `to`.
void loadRow(const MatrixView &matrix, int64_t row, int64_t begin,
             int64_t count, float *to);

/// Error for the first element in row-major order that is NaN or infinity:
/// "tensor 'name' has nan at row R, column C; ...". Same for any thread count.
Status verifyFinite(const MatrixView &matrix, const std::string &tensorName,
                    int threads);

//===----------------------------------------------------------------------===//
// Schemes and their storage
//===----------------------------------------------------------------------===//

/// Checks a scheme by itself:
///  1. the element is valid (verifyElement);
///  2. block sizes are positive or -1;
///  3. rule absmax_full: signed integer element and no zero;
///  4. rule absmax: no zero, and an element whose largest value is positive
///  (not
///     int1);
///  5. rule minmax: a zero;
///  6. rule mse: what minmax (with a zero) or absmax (without) needs;
///  7. integer zero: element uintN; float zero: not of type f8E8M0FNU,
///     and an element with two different values;
///  8. half_away: an integer element;
///  9. a scale scheme has itself no scale scheme, no zero, no low-rank part;
/// 10. an element without a value 0 needs a zero or a scale that can be 0;
/// 11. low-rank part: a rank that is not negative, of type f16, bf16 or f32.
Status verifyScheme(const Scheme &scheme);

/// Also checks the shape: n and k positive, at least the rank of the low-rank
/// part, and sizes that fit into 63 bits.
Status verifyScheme(const Scheme &scheme, int64_t n, int64_t k);

/// Block sizes of a scheme for a shape, with -1 and too large ones replaced by
/// the dimension, and the grid of blocks.
struct BlockGrid {
  int64_t blockN, blockK;
  int64_t gridN, gridK;
};
BlockGrid getBlockGrid(const Scheme &scheme, int64_t n, int64_t k);

/// Parts of a stored weight. A weight has Codes, then Scales, or ScaleCodes and
/// ScaleScales if its scales are stored under a scheme, then Zeros if it has
/// any, then LowRankA [n, rank] and LowRankB [rank, k] if it has them.
enum class ComponentKind {
  Codes,
  Scales,
  ScaleCodes,
  ScaleScales,
  Zeros,
  LowRankA,
  LowRankB
};

struct ComponentInfo {
  ComponentKind kind;
  /// Appended to the weight's key in an archive: ".codes", ".scales", ".zeros",
  /// ".scales.codes", ".scales.scales", ".low_rank.a", ".low_rank.b".
  const char *suffix;
  /// Bytes (codes and integer zeros) or a floating-point type.
  bool isBytes;
  FloatType type;
  int64_t rows, columns;
  int64_t bytes;
};

/// The components of a verified scheme for a shape, in the order above.
std::vector<ComponentInfo> getComponents(const Scheme &scheme, int64_t n,
                                         int64_t k);

/// Bytes of all components.
int64_t getStoredBytes(const Scheme &scheme, int64_t n, int64_t k);
/// 8 * stored bytes / (n * k): all components, padding included.
double getBitsPerWeight(const Scheme &scheme, int64_t n, int64_t k);

/// A stored weight in buffers of others (an archive in memory).
struct QuantizedView {
  struct Buffer {
    const uint8_t *data = nullptr;
    int64_t size = 0;
  };
  int64_t n = 0;
  int64_t k = 0;
  Buffer codes;
  /// Scales, or the scales of the scales.
  Buffer scales;
  /// Codes of the scales, if they are stored under a scheme.
  Buffer scaleCodes;
  /// An integer zero is one unsigned byte, at most 2^b-1.
  Buffer zeros;
  Buffer lowRankA;
  Buffer lowRankB;

  const Buffer &get(ComponentKind kind) const;
};

/// A stored weight that owns its buffers.
struct QuantizedMatrix {
  int64_t n = 0;
  int64_t k = 0;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;
  std::vector<uint8_t> scaleCodes;
  std::vector<uint8_t> zeros;
  std::vector<uint8_t> lowRankA;
  std::vector<uint8_t> lowRankB;

  QuantizedView view() const;
  const std::vector<uint8_t> &get(ComponentKind kind) const;
};

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

/// Quantizes `matrix` under `scheme`. `threads` as for parallelFor; the result
/// does not depend on it. Errors: those of verifyScheme, a low-rank part (which
/// addLowRank computes), and the first NaN or infinity (verifyFinite); all
/// begin with the tensor's name.
Result<QuantizedMatrix> quantize(const MatrixView &matrix, const Scheme &scheme,
                                 const std::string &tensorName, int threads);

/// Checks that every buffer has the size that the scheme and shape ask for, and
/// that integer zeros are in the element's range. Scale values are not checked.
Status verifyStorage(const QuantizedView &view, const Scheme &scheme);

/// Writes the [n, k] values, exactly by the formula above. Errors: those of
/// verifyScheme and verifyStorage.
Status dequantize(const QuantizedView &view, const Scheme &scheme, float *to,
                  int threads);
inline Status dequantize(const QuantizedMatrix &matrix, const Scheme &scheme,
                         float *to, int threads) {
  return dequantize(matrix.view(), scheme, to, threads);
}

/// Writes the nearest codes of k elements in blocks of blockK, and with
/// `values` what they stand for, as quantize() and dequantize() compute them.
/// `scales` and `zeros`, which are not read without a zero, have an entry per
/// block.
void roundRow(const Element &element, Rounding rounding, ZeroKind zeroKind,
              const float *row, int64_t k, int64_t blockK, const float *scales,
              const float *zeros, uint8_t *codes, float *values);

/// Dequantizes rows of a stored weight, one range of rows at a time.
class RowReader {
public:
  /// `view` must outlive the reader. Errors as for dequantize.
  static Result<RowReader> get(const QuantizedView &view, const Scheme &scheme);

  /// Writes rows [begin, end) to `to`; may be called from several threads.
  void read(int64_t begin, int64_t end, float *to) const;

private:
  RowReader(Element element) : element(std::move(element)) {}

  Element element;
  QuantizedView view;
  BlockGrid grid;
  ZeroKind zeroKind = ZeroKind::None;
  FloatType scaleType = FloatType::F32;
  FloatType zeroType = FloatType::F32;
  /// Decoded scales, if they are stored under a scheme.
  std::vector<float> decodedScales;
  int64_t lowRank = 0;
  FloatType lowRankType = FloatType::F32;
  /// Decoded B of the low-rank part, [lowRank, k].
  std::vector<float> lowRankB;
};

} // namespace quant_llm

#endif // QUANT_LLM_NUMERICS_GROUPQUANTIZER_H
