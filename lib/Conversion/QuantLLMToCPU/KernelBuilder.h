//===- KernelBuilder.h - Shared pieces of the CPU kernels -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A builder with the vocabulary of the kernels: index arithmetic, loops as
// lambdas, vectors of the register width, a transpose in registers, and the
// register tile of the matrix product.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_KERNELBUILDER_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_KERNELBUILDER_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

#include "llvm/ADT/STLFunctionalExtras.h"

namespace quant_llm {

using Values = llvm::SmallVector<mlir::Value>;

class KernelBuilder : public mlir::ImplicitLocOpBuilder {
public:
  KernelBuilder(mlir::Location loc, mlir::OpBuilder &builder,
                unsigned vectorBits)
      : ImplicitLocOpBuilder(loc, builder),
        lanes(std::max<int64_t>(vectorBits / 32, 8)) {}

  /// f32 elements of a vector. At least 8, so that codes of any width begin and
  /// end at whole bytes; LLVM splits what is wider than a register.
  const int64_t lanes;

  /// @{ Index arithmetic, folded where the operands are constants.
  mlir::Value index(int64_t value);
  mlir::Value add(mlir::Value lhs, mlir::Value rhs);
  mlir::Value add(mlir::Value lhs, int64_t rhs);
  mlir::Value sub(mlir::Value lhs, mlir::Value rhs);
  mlir::Value mul(mlir::Value lhs, mlir::Value rhs);
  mlir::Value mul(mlir::Value lhs, int64_t rhs);
  mlir::Value div(mlir::Value lhs, int64_t rhs);
  mlir::Value ceilDiv(mlir::Value lhs, int64_t rhs);
  mlir::Value min(mlir::Value lhs, mlir::Value rhs);
  /// lhs rounded down to a multiple of rhs.
  mlir::Value roundDown(mlir::Value lhs, int64_t rhs);
  mlir::Value less(mlir::Value lhs, mlir::Value rhs);
  mlir::Value equal(mlir::Value lhs, mlir::Value rhs);
  /// @}

  mlir::VectorType vec(mlir::Type element, int64_t size) {
    return mlir::VectorType::get({size}, element);
  }
  mlir::VectorType vecF32() { return vec(getF32Type(), lanes); }
  mlir::Value zeroVector() { return floatVector(0.0f); }
  mlir::Value floatVector(float value);
  mlir::Value floatScalar(float value);
  /// A constant of integer or integer vector type `type`.
  mlir::Value integer(mlir::Type type, uint64_t value);
  mlir::Value splat(mlir::Value scalar);
  mlir::Value shuffle(mlir::Value a, mlir::Value b,
                      llvm::ArrayRef<int64_t> mask) {
    return mlir::vector::ShuffleOp::create(*this, a, b, mask);
  }
  /// f32 of an f32, f16 or bf16 scalar or vector.
  mlir::Value toF32(mlir::Value value);
  /// `value` (f32) as the floating-point type `element`, rounded half to even.
  mlir::Value fromF32(mlir::Value value, mlir::Type element);

  /// @{ Loops from `from` to `to`. The body gets the induction variable and the
  /// carried values and returns their next values.
  using Body = llvm::function_ref<void(mlir::Value)>;
  using CarryBody = llvm::function_ref<Values(mlir::Value, mlir::ValueRange)>;
  void loop(mlir::Value from, mlir::Value to, int64_t step, Body body);
  Values loop(mlir::Value from, mlir::Value to, int64_t step,
              mlir::ValueRange init, CarryBody body);
  /// Iterations 0 .. count-1 on all threads.
  void parallel(llvm::ArrayRef<mlir::Value> counts,
                llvm::function_ref<void(mlir::ValueRange)> body);
  void when(mlir::Value condition, llvm::function_ref<void()> then,
            llvm::function_ref<void()> otherwise = nullptr);
  Values choose(mlir::Value condition, llvm::function_ref<Values()> then,
                llvm::function_ref<Values()> otherwise);
  /// @}

  /// @{ Vectors of `lanes` elements from memory, of which the first `count` are
  /// valid (null: all). Loads widen to f32, stores narrow.
  mlir::Value load(mlir::Value memref, mlir::ValueRange indices,
                   mlir::Value mask = nullptr);
  void store(mlir::Value vector, mlir::Value memref, mlir::ValueRange indices,
             mlir::Value mask = nullptr);
  mlir::Value loadScalar(mlir::Value memref, mlir::ValueRange indices);
  /// The mask of the first `count` lanes.
  mlir::Value mask(mlir::Value count);
  /// @}

  /// A shape of f32 with a size for each extent that is dynamic.
  struct BufferShape {
    llvm::SmallVector<int64_t> shape;
    Values sizes;
  };
  /// Runs `body` with buffers of these shapes and frees them. Inside of a
  /// parallel loop this is the only way to have buffers: where there is no
  /// memory for one, the body does not run (see areAllocated()).
  void withBuffers(llvm::ArrayRef<BufferShape> shapes,
                   llvm::function_ref<void(llvm::ArrayRef<mlir::Value>)> body);

  /// A buffer on the heap, 64-byte aligned, freed by release().
  mlir::Value allocate(llvm::ArrayRef<int64_t> shape,
                       mlir::ValueRange sizes = {});
  void release(mlir::Value buffer) {
    mlir::memref::DeallocOp::create(*this, buffer);
  }

  /// The transpose of `lanes` vectors of `lanes` elements.
  Values transpose(mlir::ValueRange rows);

  mlir::Value fma(mlir::Value a, mlir::Value b, mlir::Value c) {
    return mlir::vector::FMAOp::create(*this, a, b, c);
  }

  /// @{ The register tile: rows x (2 * lanes) accumulators.
  int64_t tileRows() const { return lanes >= 16 ? 8 : 4; }
  int64_t tileColumns() const { return 2 * lanes; }
  /// acc[accRow + i, :] (=, or += if `accumulate` is true at run time)
  ///   sum over k < depth of a(i, k) * panel[k, :], for i < rows
  /// `accumulate` may be null: never.
  void tile(int64_t rows, mlir::Value depth, mlir::Value panel,
            llvm::function_ref<mlir::Value(int64_t, mlir::Value)> a,
            mlir::Value acc, mlir::Value accRow, mlir::Value accumulate);
  /// The same for all rows from 0 to `count`, in tiles; the last one repeats
  /// its last row, so `acc` has to have a multiple of tileRows() rows. With
  /// `inPlace` unset, acc has only tileRows() rows, overwritten by each tile.
  /// After each tile, `done` is called with the first row and the end.
  void tiles(mlir::Value count, mlir::Value depth, mlir::Value panel,
             llvm::function_ref<mlir::Value(mlir::Value row, mlir::Value k)> a,
             mlir::Value acc, bool inPlace, mlir::Value accumulate,
             llvm::function_ref<void(mlir::Value from, mlir::Value to)> done);
  /// @}
};

/// True (i1) if there was memory for all `buffers`. An allocation that fails
/// outside of parallel regions ends the call; inside of them nothing can be
/// unwound, so the runtime notes the failure and returns null, which code that
/// allocates there has to look at. SerializeLoops relies on this check being
/// there.
mlir::Value areAllocated(mlir::OpBuilder &builder, mlir::Location loc,
                         mlir::ValueRange buffers);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOCPU_KERNELBUILDER_H
