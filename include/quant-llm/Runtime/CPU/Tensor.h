//===- Tensor.h - Dense tensors at the boundary of the runtime --*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What goes into and comes out of a compiled function: contiguous row-major
// data with an element type and a shape, owned or borrowed.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_RUNTIME_CPU_TENSOR_H
#define QUANT_LLM_RUNTIME_CPU_TENSOR_H

#include "quant-llm/Formats/DType.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quant_llm {

/// Name of an element type in messages: as in MLIR where MLIR has it (`f32`,
/// `i64`), else as in safetensors.
std::string_view elementTypeName(DType type);
/// True if data of type `actual` may be passed where `expected` is wanted
/// without conversion. Integers of MLIR carry no sign, so i64 accepts u64.
bool isCompatible(DType actual, DType expected);

/// Contiguous row-major data. Copies of a Tensor share the data.
class Tensor {
public:
  Tensor() = default;

  /// Allocates zeroed, 64-byte aligned storage. Fails for negative extents and
  /// for sizes that do not fit into memory.
  static Result<Tensor> allocate(DType type, std::vector<int64_t> shape);

  /// Wraps memory of the caller. `owner`, if any, keeps it alive.
  static Tensor wrap(DType type, std::vector<int64_t> shape, void *data,
                     std::shared_ptr<void> owner = nullptr) {
    Tensor tensor;
    tensor.type = type;
    tensor.extents = std::move(shape);
    tensor.storage = data;
    tensor.keepAlive = std::move(owner);
    return tensor;
  }

  /// A tensor of rank 0, for scalar arguments.
  template <typename T>
  static Tensor scalar(DType type, T value) {
    Result<Tensor> tensor = allocate(type, {});
    *static_cast<T *>(tensor->data()) = value;
    return tensor.take();
  }

  DType dtype() const { return type; }
  const std::vector<int64_t> &shape() const { return extents; }
  int64_t rank() const { return static_cast<int64_t>(extents.size()); }
  int64_t numElements() const;
  int64_t numBytes() const {
    return numElements() * static_cast<int64_t>(getByteWidth(type));
  }
  void *data() const { return storage; }
  const std::shared_ptr<void> &owner() const { return keepAlive; }

  /// A deep copy.
  Result<Tensor> clone() const;
  /// `f32 [512, 576]`, for messages.
  std::string describe() const;

private:
  DType type = DType::F32;
  std::vector<int64_t> extents;
  void *storage = nullptr;
  std::shared_ptr<void> keepAlive;
};

/// The number of elements of a shape, or an error if an extent is negative or
/// the size in bytes does not fit into 63 bits.
Result<int64_t> checkedElementCount(const std::vector<int64_t> &shape,
                                    int64_t bytesPerElement);
/// `[1, ?, 3]` for messages; negative extents print as `?`.
std::string describeShape(const std::vector<int64_t> &shape);

/// How two tensors differ, elementwise and in double precision.
struct TensorDifference {
  double maxAbsolute = 0;
  /// Frobenius norm of the difference over that of the expected tensor.
  double relativeFrobenius = 0;
  /// Elements with |actual - expected| > atol + rtol * |expected|, or where
  /// exactly one of the two is NaN.
  int64_t mismatches = 0;
  /// Flat index of the element with the largest absolute difference.
  int64_t worst = 0;
};
/// Compares numbers of any element types; shapes must be equal.
Result<TensorDifference> compareTensors(const Tensor &actual,
                                        const Tensor &expected, double rtol,
                                        double atol);

} // namespace quant_llm

#endif // QUANT_LLM_RUNTIME_CPU_TENSOR_H
