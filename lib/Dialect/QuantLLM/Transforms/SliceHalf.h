//===- SliceHalf.h - Slices that are halves ---------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_SLICEHALF_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_SLICEHALF_H

#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/BuiltinTypes.h"

#include <optional>

namespace quant_llm {

/// Which half of a dimension a slice is.
struct Half {
  bool isSecond;
  bool interleaved;

  template <typename OpTy>
  static std::optional<Half> get(OpTy op, mlir::RankedTensorType large,
                                 int64_t dim) {
    std::optional<int64_t> offset =
        mlir::getConstantIntValue(op.getMixedOffsets()[dim]);
    std::optional<int64_t> size =
        mlir::getConstantIntValue(op.getMixedSizes()[dim]);
    std::optional<int64_t> stride =
        mlir::getConstantIntValue(op.getMixedStrides()[dim]);
    if (large.isDynamicDim(dim) || !offset || !size || !stride ||
        2 * *size != large.getDimSize(dim))
      return std::nullopt;
    bool interleaved = *stride == 2 && (*offset == 0 || *offset == 1);
    if (!interleaved && (*stride != 1 || (*offset != 0 && *offset != *size)))
      return std::nullopt;
    return Half{*offset != 0, interleaved};
  }
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_SLICEHALF_H
