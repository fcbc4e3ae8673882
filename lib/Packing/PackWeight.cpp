//===- PackWeight.cpp - Weights to the packed layout and back -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Codes go through a tile of bytes, one per code, of a strip and a few units.
// From there a plane is made 16 columns (8 for two rows) at a time: the eight
// codes of a half step are the low and high halves of the words of four lanes,
// in order, so that a vector of eight 16-bit numbers collects, by shift and or,
// what the slots of these words hold, and one rotation puts it into place.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/Packing.h"
#include "quant-llm/Packing/FragmentLayout.h"
#include "quant-llm/Support/Parallel.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>

using namespace quant_llm;

PackedView PackedWeight::view() const {
  auto get = [](const std::vector<uint8_t> &bytes) {
    return QuantizedView::Buffer{bytes.data(),
                                 static_cast<int64_t>(bytes.size())};
  };
  return {get(codes), get(scales), get(zeros), outputScale};
}

//===----------------------------------------------------------------------===//
// Codes
//===----------------------------------------------------------------------===//

namespace {

/// Units that are taken through a tile at once: rows are then read in runs that
/// are long enough for the memory system.
constexpr int64_t tileUnits = 8;
constexpr int64_t tileColumns = tileUnits * unitColumns;
using CodeTile = uint8_t[stripRows * tileColumns];

/// Vectors of the compiler (GCC and Clang have them alike): loops over eight
/// numbers are unrolled before they could be vectorized.
using Bytes = uint8_t __attribute__((vector_size(8)));
using Halves = uint16_t __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));

/// The four words of lanes 4g..4g+3 that hold the slots of word `word`.
template <unsigned Width>
struct WordGroup {
  static constexpr unsigned slots = 16 / Width;
  static constexpr unsigned rotation = Width == 8 ? 3 : 7 - Width;

  /// Where slot `slot` begins in a half, before the rotation.
  static constexpr unsigned getShift(unsigned slot) {
    return Width == 8 ? 8 * slot : Width * (slot ^ 1);
  }
  /// First of the eight codes of a slot, from the first code of row g of the
  /// unit on.
  static constexpr int64_t getFirstCode(unsigned word, unsigned slot) {
    unsigned step = Width == 8 ? word / 2 : word * (slots / 4) + slot / 4;
    unsigned reg = Width == 8 ? slot + word % 2 * 2 : slot % 4;
    return (reg & 1) * 8 * tileColumns + 16 * step + 8 * (reg >> 1);
  }
};

/// Writes a plane of one unit; `codes` is the unit's first code in a tile.
template <unsigned Width>
void packPlane(const uint8_t *codes, unsigned shift, uint8_t *to) {
  using Group = WordGroup<Width>;
  constexpr uint16_t mask = (1u << Width) - 1;
  for (unsigned g = 0; g < 8; ++g)
    for (unsigned word = 0; word < getLaneWords(Width); ++word) {
      Halves halves{};
      for (unsigned slot = 0; slot < Group::slots; ++slot) {
        Bytes from;
        std::memcpy(&from,
                    codes + g * tileColumns + Group::getFirstCode(word, slot),
                    sizeof(from));
        halves |= ((__builtin_convertvector(from, Halves) >> shift) & mask)
                  << Group::getShift(slot);
      }
      Words words;
      std::memcpy(&words, &halves, sizeof(words));
      words = words << Group::rotation | words >> (32 - Group::rotation);
      for (unsigned c = 0; c < 4; ++c) {
        uint32_t bits = words[c];
        std::memcpy(to + getWordOffset(Width, 4 * g + c, word), &bits, 4);
      }
    }
}

/// Inverse of packPlane: takes the exclusive or of the plane's bits and codes.
template <unsigned Width>
void unpackPlane(const uint8_t *from, unsigned shift, uint8_t *codes) {
  using Group = WordGroup<Width>;
  constexpr uint16_t mask = (1u << Width) - 1;
  for (unsigned g = 0; g < 8; ++g)
    for (unsigned word = 0; word < getLaneWords(Width); ++word) {
      Words words;
      for (unsigned c = 0; c < 4; ++c) {
        uint32_t bits;
        std::memcpy(&bits, from + getWordOffset(Width, 4 * g + c, word), 4);
        words[c] = bits;
      }
      words = words >> Group::rotation | words << (32 - Group::rotation);
      Halves halves;
      std::memcpy(&halves, &words, sizeof(halves));
      for (unsigned slot = 0; slot < Group::slots; ++slot) {
        uint8_t *to = codes + g * tileColumns + Group::getFirstCode(word, slot);
        Bytes bytes;
        std::memcpy(&bytes, to, sizeof(bytes));
        bytes ^= __builtin_convertvector(
            ((halves >> Group::getShift(slot)) & mask) << shift, Bytes);
        std::memcpy(to, &bytes, sizeof(bytes));
      }
    }
}

void packUnit(const FragmentLayout &layout, const uint8_t *codes, uint8_t *to) {
  for (const FragmentPlane &plane : layout.getPlanes()) {
    uint8_t *words = to + plane.offset;
    switch (plane.width) {
    case 8:
      packPlane<8>(codes, plane.shift, words);
      break;
    case 4:
      packPlane<4>(codes, plane.shift, words);
      break;
    case 2:
      packPlane<2>(codes, plane.shift, words);
      break;
    default:
      packPlane<1>(codes, plane.shift, words);
    }
  }
}

void unpackUnit(const FragmentLayout &layout, const uint8_t *from,
                uint8_t *codes) {
  for (const FragmentPlane &plane : layout.getPlanes()) {
    const uint8_t *words = from + plane.offset;
    switch (plane.width) {
    case 8:
      unpackPlane<8>(words, plane.shift, codes);
      break;
    case 4:
      unpackPlane<4>(words, plane.shift, codes);
      break;
    case 2:
      unpackPlane<2>(words, plane.shift, codes);
      break;
    default:
      unpackPlane<1>(words, plane.shift, codes);
    }
  }
}

/// Calls body(strip, firstUnit, lastUnit) on tiles that cover all units.
template <typename Body>
void forEachTile(const FragmentLayout &layout, int threads, const Body &body) {
  int64_t tilesPerStrip = (layout.getNumUnits() - 1) / tileUnits + 1;
  parallelFor(layout.getNumStrips() * tilesPerStrip, threads,
              [&](int64_t begin, int64_t end) {
                for (int64_t tile = begin; tile < end; ++tile) {
                  int64_t first = tile % tilesPerStrip * tileUnits;
                  body(tile / tilesPerStrip, first,
                       std::min(first + tileUnits, layout.getNumUnits()));
                }
              });
}

} // namespace

static void packCodes(const QuantizedView &view, const FragmentLayout &layout,
                      int threads, uint8_t *to) {
  int64_t n = layout.getN(), k = layout.getK();
  unsigned bits = layout.getBits();
  int64_t rowBytes = packedRowBytes(k, bits);
  bool zeroPadding =
      layout.getZeroKind() == ZeroKind::Integer && !layout.hasColumnScales();
  const BlockGrid &grid = layout.getGrid();
  const auto flip = static_cast<uint8_t>(layout.getCodeFlip());
  forEachTile(layout, threads, [&](int64_t strip, int64_t first, int64_t last) {
    CodeTile tile;
    int64_t firstColumn = first * unitColumns;
    int64_t columns = (last - first) * unitColumns;
    int64_t valid = std::min(columns, k - firstColumn);
    for (int64_t i = 0; i < stripRows; ++i) {
      uint8_t *codes = tile + i * tileColumns;
      int64_t row = strip * stripRows + i;
      int64_t filled = 0;
      auto padding = static_cast<uint8_t>(layout.getPaddingCode());
      if (row < n) {
        unpackRow(view.codes.data + row * rowBytes + firstColumn * bits / 8,
                  valid, bits, codes);
        for (int64_t column = 0; column < valid; ++column)
          codes[column] ^= flip;
        filled = valid;
        if (zeroPadding)
          padding = view.zeros.data[(row / grid.blockN + 1) * grid.gridK - 1];
      }
      std::memset(codes + filled, padding,
                  static_cast<size_t>(columns - filled));
    }
    uint8_t *units =
        to + (strip * layout.getNumUnits() + first) * layout.getUnitBytes();
    for (int64_t unit = 0; unit < last - first; ++unit)
      packUnit(layout, tile + unit * unitColumns,
               units + unit * layout.getUnitBytes());
  });
}

static void unpackCodes(const uint8_t *from, const FragmentLayout &layout,
                        int threads, uint8_t *to) {
  int64_t n = layout.getN(), k = layout.getK();
  unsigned bits = layout.getBits();
  int64_t rowBytes = packedRowBytes(k, bits);
  forEachTile(layout, threads, [&](int64_t strip, int64_t first, int64_t last) {
    if (strip * stripRows >= n)
      return;
    CodeTile tile;
    // The exclusive or with all planes also takes the flip away.
    std::memset(tile, static_cast<int>(layout.getCodeFlip()), sizeof(tile));
    const uint8_t *units =
        from + (strip * layout.getNumUnits() + first) * layout.getUnitBytes();
    for (int64_t unit = 0; unit < last - first; ++unit)
      unpackUnit(layout, units + unit * layout.getUnitBytes(),
                 tile + unit * unitColumns);
    int64_t firstColumn = first * unitColumns;
    int64_t valid = std::min(last * unitColumns, k) - firstColumn;
    for (int64_t i = 0; i < std::min(stripRows, n - strip * stripRows); ++i)
      packRow(tile + i * tileColumns, valid, bits,
              to + (strip * stripRows + i) * rowBytes + firstColumn * bits / 8);
  });
}

//===----------------------------------------------------------------------===//
// Scales and zeros
//===----------------------------------------------------------------------===//

/// Reads and writes runs of numbers, like loadFloat and storeFloat.
static void loadFloats(FloatType type, const uint8_t *from, int64_t count,
                       float *to) {
  auto size = static_cast<size_t>(count);
  switch (type) {
  case FloatType::F16:
    return f16ToFloat(from, to, size);
  case FloatType::BF16:
    return bf16ToFloat(from, to, size);
  case FloatType::F32:
    std::memcpy(to, from, 4 * size);
    return;
  case FloatType::F8E8M0FNU:
  case FloatType::F8E4M3FN:
    for (size_t i = 0; i < size; ++i)
      to[i] = loadFloat(type, from + i);
  }
}

static void storeFloats(FloatType type, const float *from, int64_t count,
                        uint8_t *to) {
  auto size = static_cast<size_t>(count);
  switch (type) {
  case FloatType::F16:
    return floatToF16(from, to, size);
  case FloatType::BF16:
    return floatToBF16(from, to, size);
  case FloatType::F32:
    std::memcpy(to, from, 4 * size);
    return;
  case FloatType::F8E8M0FNU:
  case FloatType::F8E4M3FN:
    for (size_t i = 0; i < size; ++i)
      storeFloat(type, from[i], to + i);
  }
}

namespace {

/// The scales or zeros of a weight, row-major.
struct GridView {
  const uint8_t *data;
  FloatType type;
  int64_t rows;
  int64_t columns;

  const uint8_t *row(int64_t row) const {
    return data + row * columns * floatTypeBytes(type);
  }
};

struct GridRange {
  /// Largest magnitude.
  float largest = 0.0f;
  /// Row-major index of the first number that is not finite, if any.
  int64_t firstBad = INT64_MAX;
};

} // namespace

static GridRange computeRange(const GridView &grid, int threads) {
  GridRange range;
  std::mutex mutex;
  parallelFor(grid.rows, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(grid.columns));
    GridRange mine;
    for (int64_t row = begin; row < end; ++row) {
      loadFloats(grid.type, grid.row(row), grid.columns, values.data());
      for (size_t i = 0; i < values.size(); ++i) {
        float magnitude = std::fabs(values[i]);
        if (!std::isfinite(magnitude))
          mine.firstBad = std::min(mine.firstBad, row * grid.columns +
                                                      static_cast<int64_t>(i));
        mine.largest = std::max(mine.largest, magnitude);
      }
    }
    // Neither depends on the order in which threads come.
    std::lock_guard<std::mutex> lock(mutex);
    range.largest = std::max(range.largest, mine.largest);
    range.firstBad = std::min(range.firstBad, mine.firstBad);
  });
  return range;
}

static Result<GridRange> getFiniteRange(const GridView &grid, const char *what,
                                        int threads) {
  GridRange range = computeRange(grid, threads);
  if (range.firstBad == INT64_MAX)
    return range;
  int64_t row = range.firstBad / grid.columns;
  int64_t column = range.firstBad % grid.columns;
  float value =
      loadFloat(grid.type, grid.row(row) + column * floatTypeBytes(grid.type));
  return Status::error(std::string("expected finite ") + what + " but got " +
                       (std::isnan(value) ? "nan"
                        : value > 0       ? "inf"
                                          : "-inf") +
                       " in block (" + std::to_string(row) + ", " +
                       std::to_string(column) + ")");
}

/// The exponent t of the power of two by which scales and zeros are divided.
/// The smallest that makes scales less than 2^-6, leaves zeros finite in f16
/// (whatever their type: kernels add them in the type of the activations), and
/// is the exponent of a normal f32.
static Result<int> chooseExponent(float largestScale, float largestZero) {
  int exponent =
      largestScale == 0 ? 0 : std::max(std::ilogb(largestScale) + 7, -126);
  if (largestZero != 0)
    exponent = std::max(exponent, std::ilogb(largestZero) - 15);
  if (exponent > 127)
    return Status::error("expected scales below 2^121 but got one of at least "
                         "2^" +
                         std::to_string(std::ilogb(largestScale)));
  return exponent;
}

/// Divides a row of the grid by `outputScale`, a power of two, and stores it as
/// `type`. Returns how many numbers are not exact.
static int64_t convertRow(const GridView &grid, int64_t row, FloatType type,
                          float outputScale, std::vector<float> &scratch,
                          uint8_t *to) {
  if (type == grid.type && outputScale == 1.0f) {
    std::memcpy(to, grid.row(row),
                static_cast<size_t>(grid.columns * floatTypeBytes(type)));
    return 0;
  }
  auto columns = static_cast<size_t>(grid.columns);
  scratch.resize(3 * columns);
  float *values = scratch.data(), *divided = values + columns,
        *stored = divided + columns;
  loadFloats(grid.type, grid.row(row), grid.columns, values);
  float factor = 1.0f / outputScale;
  for (size_t i = 0; i < columns; ++i)
    divided[i] = values[i] * factor;
  storeFloats(type, divided, grid.columns, to);
  loadFloats(type, to, grid.columns, stored);
  int64_t inexact = 0;
  for (size_t i = 0; i < columns; ++i)
    inexact += stored[i] * outputScale != values[i];
  return inexact;
}

/// Writes the packed scales or zeros of `bytes` bytes each. `convert(row, to)`
/// writes a row of the grid and returns how many of its numbers are not exact;
/// so does this function.
template <typename Convert>
static int64_t packGrid(const FragmentLayout &layout, int64_t bytes,
                        int threads, const Convert &convert, uint8_t *to) {
  const BlockGrid &grid = layout.getGrid();
  auto size = static_cast<size_t>(bytes);
  std::memset(to, 0, static_cast<size_t>(layout.getNumScales()) * size);
  if (layout.hasColumnScales()) {
    std::vector<uint8_t> row(static_cast<size_t>(grid.gridK) * size);
    int64_t inexact = convert(0, row.data());
    for (int64_t column = 0; column < layout.getK(); ++column)
      std::memcpy(to + column * bytes,
                  row.data() + layout.getGroup(column) * bytes, size);
    return inexact;
  }
  std::atomic<int64_t> inexact{0};
  parallelFor(layout.getNumStrips(), threads, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> values(static_cast<size_t>(grid.gridK) * size);
    int64_t known = -1;
    for (int64_t row = begin * stripRows;
         row < std::min(end * stripRows, layout.getN()); ++row) {
      int64_t block = row / grid.blockN;
      if (block != known) {
        int64_t count = convert(block, values.data());
        // Several threads may meet a block; one of them meets its first row.
        if (row % grid.blockN == 0)
          inexact += count;
        known = block;
      }
      uint8_t *first = to + layout.getScaleIndex(row, 0) * bytes;
      for (int64_t group = 0; group < grid.gridK; ++group)
        std::memcpy(first + group * stripRows * bytes,
                    values.data() + group * bytes, size);
    }
  });
  return inexact;
}

/// Reads back what packGrid has written, from the first row of every block.
/// `convert(from, row)` takes a row of the grid.
template <typename Convert>
static void unpackGrid(const FragmentLayout &layout, int64_t bytes, int threads,
                       const uint8_t *from, const Convert &convert) {
  const BlockGrid &grid = layout.getGrid();
  parallelFor(grid.gridN, threads, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> values(static_cast<size_t>(grid.gridK * bytes));
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t group = 0; group < grid.gridK; ++group)
        std::memcpy(values.data() + group * bytes,
                    from + layout.getScaleIndex(row * grid.blockN,
                                                group * grid.blockK) *
                               bytes,
                    static_cast<size_t>(bytes));
      convert(values.data(), row);
    }
  });
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

static std::vector<uint8_t> makeBuffer(const FragmentLayout &layout,
                                       PackedComponentKind kind) {
  for (const PackedComponentInfo &info : layout.getComponents())
    if (info.kind == kind)
      return std::vector<uint8_t>(static_cast<size_t>(info.bytes));
  return {};
}

Result<PackedWeight> quant_llm::packWeight(const QuantizedView &view,
                                           const Scheme &scheme, int threads) {
  Status status = verifyStorage(view, scheme);
  if (!status.ok())
    return status;
  Result<FragmentLayout> layout = FragmentLayout::get(scheme, view.n, view.k);
  if (!layout.ok())
    return layout.status();
  const BlockGrid &grid = layout->getGrid();

  GridView scales{view.scales.data, scheme.scaleType, grid.gridN, grid.gridK};
  std::vector<float> expanded;
  PackedWeight packed;
  if (layout->hasScalarSecondLevel()) {
    packed.outputScale =
        loadFloat(scheme.scaleScheme->scaleType, view.scales.data);
    if (!std::isfinite(packed.outputScale))
      return Status::error("expected a finite scale of the scales but got " +
                           std::to_string(packed.outputScale));
    scales.data = view.scaleCodes.data;
    scales.type = FloatType::F8E4M3FN;
  } else if (scheme.scaleScheme) {
    expanded.resize(static_cast<size_t>(grid.gridN * grid.gridK));
    QuantizedView inner;
    inner.n = grid.gridN;
    inner.k = grid.gridK;
    inner.codes = view.scaleCodes;
    inner.scales = view.scales;
    status = dequantize(inner, *scheme.scaleScheme, expanded.data(), threads);
    if (!status.ok())
      return status.withContext("scales");
    scales.data = reinterpret_cast<const uint8_t *>(expanded.data());
    scales.type = FloatType::F32;
  }
  Result<GridRange> range = getFiniteRange(scales, "scales", threads);
  if (!range.ok())
    return range.status();

  GridView zeros{view.zeros.data, scheme.zeroType, grid.gridN, grid.gridK};
  GridRange zeroRange;
  if (scheme.zero == ZeroKind::Float) {
    Result<GridRange> found = getFiniteRange(zeros, "zeros", threads);
    if (!found.ok())
      return found.status();
    zeroRange = *found;
  }
  float divisor = 1.0f;
  if (layout->isShifted()) {
    Result<int> exponent = chooseExponent(range->largest, zeroRange.largest);
    if (!exponent.ok())
      return exponent.status();
    divisor = packed.outputScale = std::ldexp(1.0f, *exponent);
  }

  packed.codes = makeBuffer(*layout, PackedComponentKind::Codes);
  packCodes(view, *layout, threads, packed.codes.data());
  packed.scales = makeBuffer(*layout, PackedComponentKind::Scales);
  auto packFloats = [&](const GridView &from, FloatType type, uint8_t *to) {
    return packGrid(
        *layout, floatTypeBytes(type), threads,
        [&](int64_t row, uint8_t *to) {
          std::vector<float> scratch;
          return convertRow(from, row, type, divisor, scratch, to);
        },
        to);
  };
  packed.inexactScales =
      packFloats(scales, layout->getScaleType(), packed.scales.data());
  packed.zeros = makeBuffer(*layout, PackedComponentKind::Zeros);
  if (scheme.zero == ZeroKind::Float)
    packed.inexactZeros =
        packFloats(zeros, layout->getZeroType(), packed.zeros.data());
  else if (scheme.zero == ZeroKind::Integer)
    packGrid(
        *layout, 1, threads,
        [&](int64_t row, uint8_t *to) -> int64_t {
          std::memcpy(to, view.zeros.data + row * grid.gridK,
                      static_cast<size_t>(grid.gridK));
          return 0;
        },
        packed.zeros.data());
  return packed;
}

Scheme quant_llm::getUnpackedScheme(const Scheme &scheme) {
  Scheme unpacked = scheme;
  if (scheme.scaleScheme && !hasScalarSecondLevel(scheme)) {
    unpacked.scaleScheme = nullptr;
    unpacked.scaleType = FloatType::F32;
  }
  return unpacked;
}

/// Checks what packWeight would have written.
static Status verifyPacked(const PackedView &view,
                           const FragmentLayout &layout) {
  for (const PackedComponentInfo &info : layout.getComponents()) {
    const QuantizedView::Buffer *buffer = nullptr;
    if (info.kind == PackedComponentKind::Codes)
      buffer = &view.codes;
    else if (info.kind == PackedComponentKind::Scales)
      buffer = &view.scales;
    else if (info.kind == PackedComponentKind::Zeros)
      buffer = &view.zeros;
    if (buffer && buffer->size != info.bytes)
      return Status::error("expected " + std::to_string(info.bytes) +
                           " bytes in component '" + (info.suffix + 1) +
                           "' of a " + std::to_string(layout.getN()) + "x" +
                           std::to_string(layout.getK()) + " weight but got " +
                           std::to_string(buffer->size));
  }
  int exponent;
  bool powerOfTwo = std::frexp(view.outputScale, &exponent) == 0.5f;
  if (!std::isfinite(view.outputScale) ||
      (!powerOfTwo && !layout.hasScalarSecondLevel()))
    return Status::error(
        std::string("expected ") +
        (layout.hasScalarSecondLevel() ? "a finite number" : "a power of two") +
        " in component 'output_scale' but got " +
        std::to_string(view.outputScale));
  return Status::success();
}

Result<QuantizedMatrix> quant_llm::unpackWeight(const PackedView &view,
                                                const Scheme &scheme, int64_t n,
                                                int64_t k, int threads) {
  Result<FragmentLayout> layout = FragmentLayout::get(scheme, n, k);
  if (!layout.ok())
    return layout.status();
  Status status = verifyPacked(view, *layout);
  if (!status.ok())
    return status;
  const BlockGrid &grid = layout->getGrid();
  Scheme unpacked = getUnpackedScheme(scheme);

  QuantizedMatrix matrix;
  matrix.n = n;
  matrix.k = k;
  for (const ComponentInfo &info : getComponents(unpacked, n, k)) {
    auto size = static_cast<size_t>(info.bytes);
    if (info.kind == ComponentKind::Codes)
      matrix.codes.resize(size);
    else if (info.kind == ComponentKind::ScaleCodes)
      matrix.scaleCodes.resize(size);
    else if (info.kind == ComponentKind::Zeros)
      matrix.zeros.resize(size);
    else
      matrix.scales.resize(size);
  }
  unpackCodes(view.codes.data, *layout, threads, matrix.codes.data());

  float factor = layout->isShifted() ? view.outputScale : 1.0f;
  auto unpackFloats = [&](const uint8_t *from, FloatType fromType,
                          FloatType type, uint8_t *to) {
    unpackGrid(*layout, floatTypeBytes(fromType), threads, from,
               [&](const uint8_t *values, int64_t row) {
                 std::vector<float> floats(static_cast<size_t>(grid.gridK));
                 uint8_t *rowTo = to + row * grid.gridK * floatTypeBytes(type);
                 loadFloats(fromType, values, grid.gridK, floats.data());
                 for (float &value : floats)
                   value *= factor;
                 storeFloats(type, floats.data(), grid.gridK, rowTo);
               });
  };
  if (layout->hasScalarSecondLevel()) {
    storeFloat(scheme.scaleScheme->scaleType, view.outputScale,
               matrix.scales.data());
    unpackFloats(view.scales.data, FloatType::F8E4M3FN, FloatType::F8E4M3FN,
                 matrix.scaleCodes.data());
  } else {
    unpackFloats(view.scales.data, layout->getScaleType(), unpacked.scaleType,
                 matrix.scales.data());
  }
  if (scheme.zero == ZeroKind::Float)
    unpackFloats(view.zeros.data, layout->getZeroType(), scheme.zeroType,
                 matrix.zeros.data());
  else if (scheme.zero == ZeroKind::Integer)
    unpackGrid(*layout, 1, threads, view.zeros.data,
               [&](const uint8_t *values, int64_t row) {
                 std::memcpy(matrix.zeros.data() + row * grid.gridK, values,
                             static_cast<size_t>(grid.gridK));
               });
  // Integer zeros in range.
  status = verifyStorage(matrix.view(), unpacked);
  if (!status.ok())
    return status;
  return matrix;
}

//===----------------------------------------------------------------------===//
// Verification
//===----------------------------------------------------------------------===//

/// How many of the numbers of `bytes` bytes differ.
static int64_t countDifferences(const uint8_t *a, const uint8_t *b,
                                int64_t size, int64_t bytes) {
  int64_t count = 0;
  for (int64_t i = 0; i < size; i += bytes)
    count += std::memcmp(a + i, b + i, static_cast<size_t>(bytes)) != 0;
  return count;
}

static Status verifyCount(const char *what, int64_t differences,
                          int64_t expected) {
  if (differences == expected)
    return Status::success();
  return Status::error("expected " + std::to_string(expected) + " " + what +
                       " to differ after unpacking but got " +
                       std::to_string(differences));
}

Status quant_llm::verifyPackedWeight(const PackedWeight &packed,
                                     const QuantizedView &view,
                                     const Scheme &scheme, int threads) {
  Result<QuantizedMatrix> unpacked =
      unpackWeight(packed.view(), scheme, view.n, view.k, threads);
  if (!unpacked.ok())
    return unpacked.status();

  // The bits behind a row's last code mean nothing.
  unsigned bits = scheme.element.bits;
  int64_t rowBytes = packedRowBytes(view.k, bits);
  auto unused = static_cast<unsigned>(rowBytes * 8 - view.k * bits);
  auto lastMask = static_cast<uint8_t>(0xffu >> unused);
  std::atomic<int64_t> firstRow{INT64_MAX};
  parallelFor(view.n, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t *a = view.codes.data + row * rowBytes;
      const uint8_t *b = unpacked->codes.data() + row * rowBytes;
      if (std::memcmp(a, b, static_cast<size_t>(rowBytes - 1)) == 0 &&
          ((a[rowBytes - 1] ^ b[rowBytes - 1]) & lastMask) == 0)
        continue;
      int64_t known = firstRow.load();
      while (row < known && !firstRow.compare_exchange_weak(known, row))
        ;
      return;
    }
  });
  if (firstRow != INT64_MAX)
    return Status::error("the codes of row " + std::to_string(firstRow.load()) +
                         " differ after unpacking");

  Status status;
  BlockGrid grid = getBlockGrid(scheme, view.n, view.k);
  if (scheme.scaleScheme && !hasScalarSecondLevel(scheme)) {
    std::vector<float> scales(static_cast<size_t>(grid.gridN * grid.gridK));
    QuantizedView inner;
    inner.n = grid.gridN;
    inner.k = grid.gridK;
    inner.codes = view.scaleCodes;
    inner.scales = view.scales;
    status = dequantize(inner, *scheme.scaleScheme, scales.data(), threads);
    if (!status.ok())
      return status;
    status = verifyCount(
        "scales",
        countDifferences(reinterpret_cast<const uint8_t *>(scales.data()),
                         unpacked->scales.data(),
                         static_cast<int64_t>(unpacked->scales.size()), 4),
        packed.inexactScales);
  } else {
    FloatType type =
        scheme.scaleScheme ? scheme.scaleScheme->scaleType : scheme.scaleType;
    status = verifyCount(
        "scales",
        countDifferences(view.scales.data, unpacked->scales.data(),
                         view.scales.size, floatTypeBytes(type)) +
            countDifferences(view.scaleCodes.data, unpacked->scaleCodes.data(),
                             view.scaleCodes.size, 1),
        packed.inexactScales);
  }
  if (!status.ok())
    return status;
  int64_t zeroBytes =
      scheme.zero == ZeroKind::Float ? floatTypeBytes(scheme.zeroType) : 1;
  return verifyCount("zeros",
                     countDifferences(view.zeros.data, unpacked->zeros.data(),
                                      view.zeros.size, zeroBytes),
                     packed.inexactZeros);
}
