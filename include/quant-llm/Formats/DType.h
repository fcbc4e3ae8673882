//===- DType.h - Element types of stored tensors ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_DTYPE_H
#define QUANT_LLM_FORMATS_DTYPE_H

#include "quant-llm/Numerics/Scheme.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

/// The element types of safetensors. Multi-byte types are little-endian; the
/// types narrower than a byte are densely packed.
enum class DType : uint8_t {
  Bool,
  F4, // E2M1
  F6E2M3,
  F6E3M2,
  U8,
  I8,
  F8E5M2,
  F8E4M3, // the FN variant: no infinity
  F8E8M0,
  F8E4M3FNUZ,
  F8E5M2FNUZ,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  C64,
  F64,
  I64,
  U64,
};

/// The name in safetensors headers, such as "F16" or "F8_E4M3".
std::string_view getDTypeName(DType dtype);
std::optional<DType> parseDType(std::string_view name);

/// How numbers of a scale or zero type are stored.
DType getDType(FloatType type);

/// Width of an element: 4, 6, 8, 16, 32 or 64.
unsigned getBitWidth(DType dtype);
/// Width of an element in bytes; 0 for the types narrower than a byte.
unsigned getByteWidth(DType dtype);

/// Whether a tensor stored as `stored` may be read as elements of type
/// `wanted`. Integers of MLIR carry no sign, and writers older than the 8-bit
/// floats of safetensors store these as bytes.
bool isReadableAs(DType stored, DType wanted);

/// Product of the dimensions (1 for a scalar); nothing if one is negative or
/// the product overflows.
std::optional<int64_t> getNumElements(const std::vector<int64_t> &shape);
/// Bytes of a densely stored tensor; nothing if that overflows or is not a
/// whole number of bytes.
std::optional<uint64_t> getByteSize(DType dtype,
                                    const std::vector<int64_t> &shape);

/// "[2, 3]", for messages.
std::string shapeToString(const std::vector<int64_t> &shape);

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_DTYPE_H
