//===- Tensor.cpp - Dense tensors at the boundary of the runtime ----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CPU/Tensor.h"

#include "quant-llm/Numerics/Float.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

using namespace quant_llm;

std::string_view quant_llm::elementTypeName(DType type) {
  switch (type) {
  case DType::Bool:
    return "i1";
  case DType::I8:
    return "i8";
  case DType::U8:
    return "ui8";
  case DType::I16:
    return "i16";
  case DType::U16:
    return "ui16";
  case DType::I32:
    return "i32";
  case DType::U32:
    return "ui32";
  case DType::I64:
    return "i64";
  case DType::U64:
    return "ui64";
  case DType::F16:
    return "f16";
  case DType::BF16:
    return "bf16";
  case DType::F32:
    return "f32";
  case DType::F64:
    return "f64";
  default:
    return getDTypeName(type);
  }
}

bool quant_llm::isCompatible(DType actual, DType expected) {
  auto signless = [](DType type) {
    switch (type) {
    case DType::U8:
      return DType::I8;
    case DType::U16:
      return DType::I16;
    case DType::U32:
      return DType::I32;
    case DType::U64:
      return DType::I64;
    default:
      return type;
    }
  };
  return signless(actual) == signless(expected);
}

Result<int64_t>
quant_llm::checkedElementCount(const std::vector<int64_t> &shape,
                               int64_t bytesPerElement) {
  // A zero extent makes the product zero whatever the others are, so the check
  // for overflow must not depend on the order of the extents.
  bool empty = false;
  for (int64_t extent : shape) {
    if (extent < 0)
      return Status::error("expected extents that are not negative but got "
                           "shape " +
                           describeShape(shape));
    empty |= extent == 0;
  }
  if (empty)
    return int64_t(0);
  int64_t count = 1;
  int64_t limit = std::numeric_limits<int64_t>::max() / bytesPerElement;
  for (int64_t extent : shape) {
    if (count > limit / extent)
      return Status::error("shape " + describeShape(shape) +
                           " has more bytes than this machine can address");
    count *= extent;
  }
  return count;
}

std::string quant_llm::describeShape(const std::vector<int64_t> &shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i != 0)
      text += ", ";
    text += shape[i] < 0 ? "?" : std::to_string(shape[i]);
  }
  return text + "]";
}

Result<Tensor> Tensor::allocate(DType type, std::vector<int64_t> shape) {
  int64_t width = getByteWidth(type);
  if (width == 0)
    return Status::error("expected an element type of whole bytes but got " +
                         std::string(getDTypeName(type)));
  Result<int64_t> count = checkedElementCount(shape, width);
  if (!count.ok())
    return count.status();
  constexpr size_t alignment = 64;
  size_t bytes = static_cast<size_t>(*count * width);
  if (bytes > std::numeric_limits<size_t>::max() - alignment)
    return Status::error("not enough memory for shape " + describeShape(shape));
  size_t rounded = (bytes + alignment) / alignment * alignment;
  void *data = std::aligned_alloc(alignment, rounded);
  if (!data)
    return Status::error("not enough memory for " + std::to_string(bytes) +
                         " bytes of shape " + describeShape(shape));
  std::memset(data, 0, rounded);
  return wrap(type, std::move(shape), data,
              std::shared_ptr<void>(data, [](void *p) { std::free(p); }));
}

int64_t Tensor::numElements() const {
  int64_t count = 1;
  for (int64_t extent : extents)
    count *= extent;
  return count;
}

Result<Tensor> Tensor::clone() const {
  Result<Tensor> copy = allocate(type, extents);
  if (copy.ok() && numBytes() > 0)
    std::memcpy(copy->data(), storage, static_cast<size_t>(numBytes()));
  return copy;
}

std::string Tensor::describe() const {
  return std::string(elementTypeName(type)) + " " + describeShape(extents);
}

template <typename T>
static double loadAs(const void *data, int64_t index) {
  T value;
  std::memcpy(&value,
              static_cast<const char *>(data) + index * int64_t(sizeof(T)),
              sizeof(T));
  return static_cast<double>(value);
}

/// Reads one number; false if the type holds codes rather than numbers.
static bool loadNumber(const Tensor &tensor, int64_t index, double &value) {
  const void *data = tensor.data();
  switch (tensor.dtype()) {
  case DType::Bool:
  case DType::U8:
    value = loadAs<uint8_t>(data, index);
    return true;
  case DType::I8:
    value = loadAs<int8_t>(data, index);
    return true;
  case DType::I16:
    value = loadAs<int16_t>(data, index);
    return true;
  case DType::U16:
    value = loadAs<uint16_t>(data, index);
    return true;
  case DType::I32:
    value = loadAs<int32_t>(data, index);
    return true;
  case DType::U32:
    value = loadAs<uint32_t>(data, index);
    return true;
  case DType::I64:
    value = loadAs<int64_t>(data, index);
    return true;
  case DType::U64:
    value = loadAs<uint64_t>(data, index);
    return true;
  case DType::F32:
    value = loadAs<float>(data, index);
    return true;
  case DType::F64:
    value = loadAs<double>(data, index);
    return true;
  case DType::F16:
    value = f16ToFloat(static_cast<uint16_t>(loadAs<uint16_t>(data, index)));
    return true;
  case DType::BF16:
    value = bf16ToFloat(static_cast<uint16_t>(loadAs<uint16_t>(data, index)));
    return true;
  default:
    return false;
  }
}

Result<TensorDifference> quant_llm::compareTensors(const Tensor &actual,
                                                   const Tensor &expected,
                                                   double rtol, double atol) {
  if (actual.shape() != expected.shape())
    return Status::error("expected shape " + describeShape(expected.shape()) +
                         " but got " + describeShape(actual.shape()));
  TensorDifference result;
  double differenceNorm = 0, expectedNorm = 0;
  for (int64_t i = 0, e = actual.numElements(); i < e; ++i) {
    double a = 0, b = 0;
    if (!loadNumber(actual, i, a) || !loadNumber(expected, i, b))
      return Status::error(
          "cannot compare " + actual.describe() + " with " +
          expected.describe() +
          ": convert tensors of 8-bit floating point numbers first");
    bool same = a == b || (std::isnan(a) && std::isnan(b));
    double difference = same ? 0 : std::fabs(a - b);
    // No tolerance makes a number equal to NaN or infinity.
    bool finite = std::isfinite(a) && std::isfinite(b);
    if (!same && (!finite || !(difference <= atol + rtol * std::fabs(b))))
      ++result.mismatches;
    // A lone NaN or infinity counts as an infinite difference.
    if (std::isnan(difference))
      difference = std::numeric_limits<double>::infinity();
    if (difference > result.maxAbsolute) {
      result.maxAbsolute = difference;
      result.worst = i;
    }
    differenceNorm += difference * difference;
    if (std::isfinite(b))
      expectedNorm += b * b;
  }
  if (differenceNorm > 0)
    result.relativeFrobenius = expectedNorm > 0
                                   ? std::sqrt(differenceNorm / expectedNorm)
                                   : std::numeric_limits<double>::infinity();
  return result;
}
