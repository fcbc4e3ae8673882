//===- TransformEvaluator.h - Transformed parameters as numbers -*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Computes what is made of parameters and constants (isParameterLike), in f64.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_TRANSFORMEVALUATOR_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_TRANSFORMEVALUATOR_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/STLFunctionalExtras.h"

#include <vector>

namespace quant_llm {

/// The elements of a tensor, in f64; indices of permutations are exact in it.
struct Elements {
  llvm::SmallVector<int64_t> shape;
  std::vector<double> values;

  /// Seen as [outer, size of dim, inner].
  int64_t getInner(int64_t dim) const {
    int64_t inner = 1;
    for (int64_t size : llvm::ArrayRef(shape).drop_front(dim + 1))
      inner *= size;
    return inner;
  }
};

/// Leaves the rows of an isRowSlice op in the elements of its source.
void sliceRows(mlir::tensor::ExtractSliceOp slice, Elements &x);

/// Computes the values of chains.
class Evaluator {
public:
  explicit Evaluator(ParameterArchives &archives) : archives(archives) {}
  mlir::FailureOr<Elements> evaluate(mlir::Value value);
  /// What `op`, which is `transform`, makes of `x`.
  llvm::LogicalResult apply(mlir::Operation *op,
                            const ChannelTransform &transform, Elements &x);

private:
  mlir::FailureOr<Elements> load(GetParameterOp get);
  mlir::FailureOr<Elements> readConstant(mlir::Operation *op);
  llvm::LogicalResult multiply(mlir::Operation *op,
                               const ChannelTransform &transform, Elements &x);
  /// An error unless the matrix `a` of `value` times `b` of `inverse` is the
  /// identity; without `inverse`, times the transposed a. What constants alone
  /// say is known to be.
  llvm::LogicalResult verifyInverse(mlir::Operation *op, mlir::Value value,
                                    const Elements &a, mlir::Value inverse,
                                    const Elements &b);
  static void forEachElement(Elements &x, llvm::ArrayRef<int64_t> dims,
                             llvm::function_ref<void(double &, int64_t)> body);

  ParameterArchives &archives;
  /// What verifyInverse() has accepted: the parameters of a matrix and of its
  /// inverse, null for the transposed matrix.
  llvm::DenseSet<std::pair<mlir::Operation *, mlir::Operation *>> verified;
};

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_TRANSFORMEVALUATOR_H
