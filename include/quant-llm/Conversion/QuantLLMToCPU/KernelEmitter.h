//===- KernelEmitter.h - Bodies of the CPU kernels --------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Emits func.func kernels over memrefs for the two contractions of a language
// model: a linear layer with dense or quantized weights, and the batched matrix
// products of attention. The IR uses func, scf, memref, vector, arith and math
// (and calls of AVX-512 intrinsics where asked for), vectors have their final
// register width, and scf.parallel is the one source of threads. Nothing here
// knows the quant_llm dialect: the CPU lowering translates an op into one of
// the structures below.
//
// Arguments of a linear kernel, in this order:
//   x                 memref<?xKxT, strided<[?, 1], offset: ?>>
//   scales of x, if it is quantized
//                     memref<?x ceil(K/group) x f32, strided<[?, 1], offset:
//                     ?>>
//   per weight, dense     memref<NxKxT>
//   per weight, quantized codes  memref<N x ceil(K*b/8) x i8>
//                         scales memref<ceil(N/bn) x ceil(K/bk) x S>
//                         zeros  memref<same grid x Z>, unless ZeroKind::None
//   epilogue operands memref<NxT> per channel, or
//                     memref<?xNxT, strided<[?, 1], offset: ?>>
//   y                 memref<?xNxT, strided<[?, 1], offset: ?>>
// S is f16, bf16, f32, or i8 holding the bits of an 8-bit float; Z is i8 for
// integer zeros (unsigned codes) and a scale type for float zeros. y must not
// overlap any other argument.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_QUANTLLMTOCPU_KERNELEMITTER_H
#define QUANT_LLM_CONVERSION_QUANTLLMTOCPU_KERNELEMITTER_H

#include "quant-llm/Numerics/Scheme.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/AffineMap.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringRef.h"

namespace quant_llm {

/// A weight [N, K]: dense, or stored under a scheme.
struct KernelWeight {
  /// f32, f16 or bf16 for a dense weight; null for a quantized one.
  mlir::Type denseType;
  /// Meaning of the codes of a quantized weight. If it has a scaleScheme, the
  /// kernel takes the already dequantized scales as f32.
  Scheme scheme;
};

/// An extra operand of the epilogue.
struct KernelEpilogueOperand {
  mlir::Type elementType;
  /// One value per output channel, or one per element of the result.
  bool perChannel = false;
};

/// y[m, n] = epilogue(sum_k x[m, k] * W0[n, k] [, sum_k x[m, k] * W1[n, k]],
///                    operands...)
struct LinearKernelSpec {
  int64_t n = 0;
  int64_t k = 0;
  /// One weight, or two of a gated pair.
  llvm::SmallVector<KernelWeight, 2> weights;
  /// f32, f16 or bf16; i16 of a quantized input: codes less zeros.
  mlir::Type inputType;
  /// Channels that share a scale of a quantized input; 0 of one of floats.
  int64_t inputGroup = 0;
  mlir::Type resultType;
  /// Pointwise scalar block: arguments are the f32 accumulators, then the
  /// operands; the first operand of its terminator is the result. Null for
  /// none.
  mlir::Block *epilogue = nullptr;
  llvm::SmallVector<KernelEpilogueOperand> operands;

  /// Width of the vector registers: 128, 256 or 512. At 512 tables are looked
  /// up with instructions of AVX-512 (llvm.call_intrinsic, the one op not
  /// upstream- portable); at the others everything is portable.
  unsigned vectorBits = 512;
  /// Whether the processor adds up products of pairs of 16-bit integers in
  /// vectors of this width (AVX-512BW at 512, AVX2 at 256).
  bool hasPairProducts = false;
  /// @{ Choices that are made from the shape when zero.
  /// Calls with at most this many tokens stream the codes instead of unpacking
  /// them into panels; negative: none do.
  int64_t fewTokens = 0;
  /// Rows of the weight that share the loads of x while streaming.
  int64_t rowsPerPass = 0;
  /// Tokens that share one pass over the codes.
  int64_t tokensPerPass = 0;
  /// Elements of K in a panel.
  int64_t panelDepth = 0;
  /// Bytes that the streaming path prefetches ahead; negative: no prefetch.
  int64_t prefetchBytes = 0;
  /// @}
};

/// Whether a quantized input can be multiplied with this weight [n, k] as
/// integers: both are, in runs of k with one scale each, and no sum of a run
/// leaves 32 bits. `largest` is the largest magnitude of a code of the input
/// less its zero.
bool canMultiplyIntegers(const KernelWeight &weight, int64_t k,
                         int64_t inputGroup, int64_t largest);

/// The argument types of the kernel of `spec`.
llvm::SmallVector<mlir::Type>
getLinearKernelTypes(mlir::MLIRContext *context, const LinearKernelSpec &spec);

/// Emits the kernel at the insertion point of `builder` (a module body). Fails
/// with a diagnostic at `loc` if the spec cannot be emitted.
mlir::FailureOr<mlir::func::FuncOp>
emitLinearKernel(mlir::OpBuilder &builder, mlir::Location loc,
                 llvm::StringRef name, const LinearKernelSpec &spec);

/// out[outMap] (+)= scale * sum over k of lhs[lhsMap] * rhs[rhsMap]
///
/// The maps are projected permutations of the same iteration dimensions. A
/// dimension of all three operands is a batch, one of lhs and out an m, one of
/// rhs and out an n, one of lhs and rhs a k. There must be exactly one k, and
/// at least one m and n. All sizes may be dynamic and all strides arbitrary; it
/// is fast if the last dimension of every operand is contiguous.
///
/// Arguments of the kernel: lhs, rhs, out with the given types.
struct ContractionKernelSpec {
  mlir::AffineMap lhsMap;
  mlir::AffineMap rhsMap;
  mlir::AffineMap outMap;
  mlir::MemRefType lhsType;
  mlir::MemRefType rhsType;
  mlir::MemRefType outType;
  /// Add to out instead of overwriting it.
  bool accumulate = false;
  /// Factor of the sum.
  float scale = 1.0f;
  unsigned vectorBits = 512;
};

mlir::FailureOr<mlir::func::FuncOp>
emitContractionKernel(mlir::OpBuilder &builder, mlir::Location loc,
                      llvm::StringRef name, const ContractionKernelSpec &spec);

/// Vector register width for f32 arithmetic on the machine that runs this
/// program: 512, 256 or 128.
unsigned getHostVectorBits();
/// The same for a processor with these features.
unsigned getVectorBits(const llvm::StringMap<bool> &features);

} // namespace quant_llm

#endif // QUANT_LLM_CONVERSION_QUANTLLMTOCPU_KERNELEMITTER_H
