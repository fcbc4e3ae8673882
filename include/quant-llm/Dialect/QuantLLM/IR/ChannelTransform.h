//===- ChannelTransform.h - Transforms as values ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What an op of TransformOps.td does, without what it does it to: passes
// insert, move and compare transforms in this form.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_CHANNELTRANSFORM_H
#define QUANT_LLM_DIALECT_QUANTLLM_IR_CHANNELTRANSFORM_H

#include "mlir/IR/Builders.h"
#include "mlir/IR/Value.h"
#include "llvm/ADT/SmallVector.h"

#include <cstdint>
#include <optional>
#include <string>

namespace quant_llm {

enum class TransformKind { Scale, Shift, Permute, Rotate, Affine };

/// How far the elements of R R^T, or of the product of a matrix and its
/// inverse, may be from those of the identity, by the type of the elements.
double getIdentityTolerance(mlir::Value matrix);

struct ChannelTransform {
  TransformKind kind = TransformKind::Scale;
  bool inverse = false;
  /// The dimensions of the tensor that it is applied to.
  llvm::SmallVector<int64_t, 2> dims;
  /// The operands of the op behind the input: the scales, the offsets, the
  /// permutation, the matrices of a rotation; matrix, inverse and, if there is
  /// one, offset of an affine transform.
  llvm::SmallVector<mlir::Value, 3> data;
  /// Of a rotation by a Hadamard matrix; 0 for other rotations.
  int64_t hadamard = 0;
  std::optional<int64_t> seed;

  /// The transform of an op; nothing if it is none.
  static std::optional<ChannelTransform> of(mlir::Operation *op);
  /// Creates the op.
  mlir::Value apply(mlir::OpBuilder &builder, mlir::Location loc,
                    mlir::Value input) const;

  ChannelTransform getInverse() const;
  /// The same on other dimensions.
  ChannelTransform on(llvm::ArrayRef<int64_t> newDims) const;
  /// transform(x + y) = transform(x) + transform(y).
  bool isLinear() const;
  /// It keeps the sum of squares of all channels.
  bool isOrthogonal() const;
  /// Channels that are mixed with each other: the order of the matrix of a
  /// rotation or an affine transform, else 1.
  int64_t getBlock() const;
  bool operator==(const ChannelTransform &other) const;
  bool operator!=(const ChannelTransform &other) const {
    return !(*this == other);
  }
  bool isInverseOf(const ChannelTransform &other) const {
    return getInverse() == other;
  }

  /// For remarks: `rotate hadamard 64`, `scale_channels inverse`.
  std::string describe() const;
};

/// An operand and what is to be applied to it.
struct OperandTransform {
  mlir::OpOperand *operand;
  ChannelTransform transform;
};
using OperandTransforms = llvm::SmallVector<OperandTransform, 2>;

/// Whether two values are known to be equal: the same one, the same parameter,
/// or equal constants.
bool isSameData(mlir::Value a, mlir::Value b);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_CHANNELTRANSFORM_H
