//===- DType.cpp ----------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/DType.h"

#include "quant-llm/Support/CheckedMath.h"

using namespace quant_llm;

namespace {
struct DTypeRow {
  DType dtype;
  std::string_view name;
  unsigned bits;
};
} // namespace

/// In the order of the enumeration.
static const DTypeRow rows[] = {
    {DType::Bool, "BOOL", 8},
    {DType::F4, "F4", 4},
    {DType::F6E2M3, "F6_E2M3", 6},
    {DType::F6E3M2, "F6_E3M2", 6},
    {DType::U8, "U8", 8},
    {DType::I8, "I8", 8},
    {DType::F8E5M2, "F8_E5M2", 8},
    {DType::F8E4M3, "F8_E4M3", 8},
    {DType::F8E8M0, "F8_E8M0", 8},
    {DType::F8E4M3FNUZ, "F8_E4M3FNUZ", 8},
    {DType::F8E5M2FNUZ, "F8_E5M2FNUZ", 8},
    {DType::I16, "I16", 16},
    {DType::U16, "U16", 16},
    {DType::F16, "F16", 16},
    {DType::BF16, "BF16", 16},
    {DType::I32, "I32", 32},
    {DType::U32, "U32", 32},
    {DType::F32, "F32", 32},
    {DType::C64, "C64", 64},
    {DType::F64, "F64", 64},
    {DType::I64, "I64", 64},
    {DType::U64, "U64", 64},
};

static const DTypeRow &getRow(DType dtype) {
  return rows[static_cast<size_t>(dtype)];
}

std::string_view quant_llm::getDTypeName(DType dtype) {
  return getRow(dtype).name;
}

std::optional<DType> quant_llm::parseDType(std::string_view name) {
  for (const DTypeRow &row : rows)
    if (row.name == name)
      return row.dtype;
  return std::nullopt;
}

DType quant_llm::getDType(FloatType type) {
  switch (type) {
  case FloatType::F16:
    return DType::F16;
  case FloatType::BF16:
    return DType::BF16;
  case FloatType::F32:
    return DType::F32;
  case FloatType::F8E8M0FNU:
    return DType::F8E8M0;
  case FloatType::F8E4M3FN:
    return DType::F8E4M3;
  }
  return DType::U8;
}

unsigned quant_llm::getBitWidth(DType dtype) { return getRow(dtype).bits; }

unsigned quant_llm::getByteWidth(DType dtype) { return getRow(dtype).bits / 8; }

bool quant_llm::isReadableAs(DType stored, DType wanted) {
  if (stored == wanted)
    return true;
  switch (wanted) {
  case DType::I8:
  case DType::F8E4M3:
  case DType::F8E5M2:
  case DType::F8E8M0:
    return stored == DType::U8;
  case DType::I16:
    return stored == DType::U16;
  case DType::I32:
    return stored == DType::U32;
  case DType::I64:
    return stored == DType::U64;
  default:
    return false;
  }
}

std::optional<int64_t>
quant_llm::getNumElements(const std::vector<int64_t> &shape) {
  // [2^62, 2^62, 0] has no elements, but nothing that computes with its
  // dimensions expects them: the nonzero ones must not overflow either.
  int64_t product = 1;
  bool empty = false;
  for (int64_t dim : shape) {
    if (dim < 0)
      return std::nullopt;
    if (dim == 0) {
      empty = true;
      continue;
    }
    std::optional<int64_t> next = checkedMul(product, dim);
    if (!next)
      return std::nullopt;
    product = *next;
  }
  return empty ? 0 : product;
}

std::optional<uint64_t>
quant_llm::getByteSize(DType dtype, const std::vector<int64_t> &shape) {
  std::optional<int64_t> count = getNumElements(shape);
  if (!count)
    return std::nullopt;
  std::optional<uint64_t> bits =
      checkedMul<uint64_t>(static_cast<uint64_t>(*count), getBitWidth(dtype));
  if (!bits || *bits % 8 != 0)
    return std::nullopt;
  return *bits / 8;
}

std::string quant_llm::shapeToString(const std::vector<int64_t> &shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}
