//===- FragmentLayout.cpp - Sizes and places of packed weights ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Packing/FragmentLayout.h"

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Support/CheckedMath.h"

using namespace quant_llm;

std::vector<FragmentPlane> quant_llm::getFragmentPlanes(unsigned bits) {
  std::vector<FragmentPlane> planes;
  unsigned shift = 0;
  for (unsigned width : {8u, 4u, 2u, 1u}) {
    if (!(bits & width))
      continue;
    planes.push_back({width, shift, 256 * static_cast<int64_t>(shift)});
    shift += width;
  }
  return planes;
}

bool quant_llm::hasScalarSecondLevel(const Scheme &scheme) {
  // A float zero is added beside the product with the first-level scale, and
  // could not be divided exactly by a second-level one.
  const Scheme *inner = scheme.scaleScheme.get();
  return inner && inner->element.kind == ElementKind::F8E4M3FN &&
         inner->blockN == -1 && inner->blockK == -1 &&
         scheme.zero != ZeroKind::Float;
}

FloatType quant_llm::getPackedScaleType(const Scheme &scheme) {
  if (hasScalarSecondLevel(scheme))
    return FloatType::F8E4M3FN;
  if (scheme.scaleScheme)
    return FloatType::F32;
  // Products of the largest numbers of both types are beyond f16, so the scales
  // must be divided by what fits them: in f16, which holds them exactly.
  if (scheme.scaleType == FloatType::F8E4M3FN &&
      scheme.element.kind == ElementKind::F8E5M2)
    return FloatType::F16;
  return scheme.scaleType;
}

FloatType quant_llm::getPackedZeroType(const Scheme &scheme) {
  return scheme.zeroType == FloatType::F8E4M3FN ? FloatType::F16
                                                : scheme.zeroType;
}

/// Whether an array of a * b things has fewer than 2^60 bytes, so that the sum
/// over all components fits as well.
static bool isSmallArray(int64_t a, int64_t b, int64_t bytes) {
  std::optional<int64_t> count = checkedMul(a, b);
  return count && checkedMul(*count, 8 * bytes);
}

Result<FragmentLayout> FragmentLayout::get(const Scheme &scheme, int64_t n,
                                           int64_t k) {
  Status status = verifyScheme(scheme, n, k);
  if (!status.ok())
    return status;
  if (scheme.lowRank != 0)
    return Status::error(
        "expected a scheme without low_rank, which the packed layout and GPU "
        "kernels do not have; quantize without it, or run on the CPU");
  Result<Element> element = Element::get(scheme.element);
  if (!element.ok())
    return element.status();

  FragmentLayout layout;
  layout.n = n;
  layout.k = k;
  layout.strips = ((n - 1) / paddedRows + 1) * (paddedRows / stripRows);
  layout.units = (k - 1) / unitColumns + 1;
  layout.bits = element->bits();
  layout.planes = getFragmentPlanes(layout.bits);
  if (element->kind() == ElementKind::Int ||
      element->kind() == ElementKind::Ternary)
    layout.flip = 1u << (layout.bits - 1);
  if (element->hasZero())
    layout.paddingCode = element->zeroCode() ^ layout.flip;

  layout.grid = getBlockGrid(scheme, n, k);
  if (layout.grid.gridK > 1 && layout.grid.blockK < stepColumns) {
    if (layout.grid.gridN > 1)
      return Status::error(
          "expected blocks of at least 16 columns, or of all rows, but got "
          "block = [" +
          std::to_string(scheme.blockN) + ", " + std::to_string(scheme.blockK) +
          "], which the packed layout does not have");
    layout.columnScales = true;
  }

  layout.scalarSecondLevel = quant_llm::hasScalarSecondLevel(scheme);
  layout.scaleType = getPackedScaleType(scheme);
  layout.zero = scheme.zero;
  layout.zeroType = getPackedZeroType(scheme);

  // A scale has at most four bytes.
  if (!isSmallArray(layout.strips, layout.units, layout.getUnitBytes()) ||
      !isSmallArray(layout.strips, layout.grid.gridK, 4 * stripRows) ||
      !isSmallArray(layout.units, unitColumns, 4))
    return Status::error("expected fewer than 2^60 bytes of a packed weight "
                         "but got a matrix of " +
                         std::to_string(n) + "x" + std::to_string(k));
  return layout;
}

FragmentLayout::PackedBit
FragmentLayout::getPackedBit(ElementBit element) const {
  FragmentPosition position =
      getFragmentPosition(static_cast<unsigned>(element.row % stripRows),
                          static_cast<unsigned>(element.column % unitColumns));
  size_t index = 0;
  while (element.bit >= planes[index].shift + planes[index].width)
    ++index;
  const FragmentPlane &plane = planes[index];
  WordPosition word =
      getWordPosition(plane.width, position.step, position.reg, position.half);
  unsigned bit = (word.bit + element.bit - plane.shift) % 32;
  int64_t unit = element.row / stripRows * units + element.column / unitColumns;
  return {unit * getUnitBytes() + plane.offset +
              getWordOffset(plane.width, position.lane, word.word) + bit / 8,
          bit % 8};
}

FragmentLayout::ElementBit
FragmentLayout::getElementBit(PackedBit packed) const {
  int64_t unit = packed.byte / getUnitBytes();
  int64_t offset = packed.byte % getUnitBytes();
  size_t index = planes.size() - 1;
  while (offset < planes[index].offset)
    --index;
  const FragmentPlane &plane = planes[index];
  offset -= plane.offset;
  unsigned width = plane.width;
  int64_t vectorBytes = 4 * getVectorWords(width);
  auto lane = static_cast<unsigned>(offset / vectorBytes % 32);
  auto word =
      static_cast<unsigned>(offset / vectorBytes / 32 * getVectorWords(width) +
                            offset % vectorBytes / 4);
  // Position of the bit, counted from where the word's first value begins.
  auto bit = static_cast<unsigned>(offset % 4 * 8) + packed.bit;
  FragmentPosition position{lane, 0, 0, 0};
  if (width == 8) {
    bit = (bit + 32 - 3) % 32;
    position.step = word / 2;
    position.reg = bit % 16 / 8 + word % 2 * 2;
  } else {
    bit = (bit + 32 - (7 - width)) % 32;
    unsigned slot = (bit % 16 / width) ^ 1;
    position.step = word * (4 / width) + slot / 4;
    position.reg = slot % 4;
  }
  position.half = bit / 16;
  return {unit / units * stripRows + getFragmentRow(position),
          unit % units * unitColumns + getFragmentColumn(position),
          plane.shift + bit % width};
}

int64_t FragmentLayout::getScaleIndex(int64_t row, int64_t column) const {
  if (columnScales)
    return column;
  return (row / stripRows * grid.gridK + getGroup(column)) * stripRows +
         getScaleSlot(row % stripRows);
}

FragmentLayout::ScaleCell FragmentLayout::getScaleCell(int64_t index) const {
  if (columnScales)
    return {0, index};
  int64_t cell = index / stripRows;
  return {cell / grid.gridK * stripRows + getScaleRow(index % stripRows),
          cell % grid.gridK};
}

std::vector<PackedComponentInfo> FragmentLayout::getComponents() const {
  std::vector<PackedComponentInfo> components;
  components.push_back({PackedComponentKind::Codes,
                        ".packed",
                        true,
                        FloatType::F32,
                        {strips, units, getUnitBytes()},
                        strips * units * getUnitBytes()});
  std::vector<int64_t> shape{strips, grid.gridK, stripRows};
  if (columnScales)
    shape = {units * unitColumns};
  components.push_back({PackedComponentKind::Scales, ".packed_scales", false,
                        scaleType, shape,
                        getNumScales() * floatTypeBytes(scaleType)});
  if (zero == ZeroKind::Integer)
    components.push_back({PackedComponentKind::Zeros, ".packed_zeros", true,
                          FloatType::F32, shape, getNumScales()});
  else if (zero == ZeroKind::Float)
    components.push_back({PackedComponentKind::Zeros, ".packed_zeros", false,
                          zeroType, shape,
                          getNumScales() * floatTypeBytes(zeroType)});
  components.push_back({PackedComponentKind::OutputScale,
                        ".output_scale",
                        false,
                        FloatType::F32,
                        {},
                        4});
  return components;
}
