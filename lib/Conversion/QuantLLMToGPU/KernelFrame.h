//===- KernelFrame.h - Arguments and results of GPU kernels -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What every kernel family has in common at its two ends: the function with its
// arguments and the description that the host reads, the tokens of a CTA, and
// the way from f32 sums to stored results (scales of mode Channel, the user's
// epilogue, edges).
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_KERNELFRAME_H
#define QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_KERNELFRAME_H

#include "Dequantize.h"
#include "PTXBuilder.h"
#include "quant-llm/Kernels/KernelSpec.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"

namespace quant_llm {

/// How the host launches a kernel, beside what follows from the configuration.
struct LaunchShape {
  int64_t threads = 0;
  int64_t sharedBytes = 0;
  /// Columns of a tensor copy's box, if the kernel makes any.
  int64_t boxColumns = 64;
  /// Boxes that one copy makes, side by side along the columns; 0 if x is not
  /// divided into boxes of columns but addressed by single ones.
  int64_t boxSegments = 0;
  bool persistent = false;
  /// Whether the kernel may start while the one before it in the stream still
  /// runs: see KernelFrame::awaitInputs.
  bool overlaps = false;
  /// CTAs that may share a tile, if they are no cluster.
  int64_t shares = 1;
  /// @{ The workspace: bytes in all, and for each CTA; none if both are 0.
  int64_t workspaceBytes = 0;
  int64_t workspaceBytesPerCTA = 0;
  /// @}
};

class KernelFrame {
public:
  /// Creates the function in `module` and sets the insertion point into its
  /// body.
  KernelFrame(PTXBuilder &b, mlir::gpu::GPUModuleOp module,
              llvm::StringRef name, const KernelProblem &problem,
              const KernelConfig &config, const ChipLimits &chip,
              mlir::Region *epilogue, const LaunchShape &shape);

  mlir::LLVM::LLVMFuncOp function() { return func; }

  /// @{ Arguments. Those that the kernel does not have are null.
  mlir::Value tensorMapX;
  mlir::Value x;
  llvm::SmallVector<mlir::Value, 2> packed;
  llvm::SmallVector<mlir::Value, 2> scales;
  llvm::SmallVector<mlir::Value, 2> zeros;
  mlir::Value offsets;
  mlir::Value workspace;
  mlir::Value y;
  mlir::Value m;
  /// @}

  /// Builds the body of a kernel whose CTA (x, y) works on tile y of the
  /// tokens. Without experts the tile begins at y * tokenTile. With experts the
  /// tiles of one follow those of the one before, where no tile has tokens of
  /// two; the grid has as many as there can be, and CTAs beyond the last leave.
  void withTile(llvm::function_ref<void()> body);

  /// Of a kernel that overlaps, what every thread calls before it reads or
  /// writes anything in global memory but weights: those are constant, all else
  /// may be of kernels that still run. The producer's copies count as its own.
  void awaitInputs();

  /// @{ In the body: the first token of the tile; the end of the tokens that
  /// the weights are for; the row of the weight where the expert's begin, null
  /// without experts.
  mlir::Value firstToken;
  mlir::Value tokensEnd;
  mlir::Value expertRow;
  /// @}

  /// The first token of a tile's box of a tensor copy, if `first` is that of
  /// the tile. Filling the part of a box that lies beyond the last token takes
  /// longer than copying: the box of the last tile begins earlier, with tokens
  /// of the tile before.
  mlir::Value loadedTokenOf(mlir::Value first);
  mlir::Value loadedToken() { return loadedTokenOf(firstToken); }
  /// Whether a token is from `first` on and before the end of the tokens.
  mlir::Value isTokenFrom(mlir::Value first, mlir::Value token);
  mlir::Value isOfTile(mlir::Value token) {
    return isTokenFrom(firstToken, token);
  }

  /// Number of strips of a weight, padding included.
  int64_t numStrips() const { return (problem.getRows() + 63) / 64 * 4; }
  /// Number of units.
  int64_t numUnits() const {
    return (problem.k + kUnitColumns - 1) / kUnitColumns;
  }

  /// Stores y[token, row] = epilogue(sums) for a position inside the result:
  /// one raw sum (f32) of products per weight. Here and below, rows are outputs
  /// (of an expert).
  void storeResult(Dequantizer &dequantizer, mlir::Value row, mlir::Value token,
                   mlir::ValueRange sums);

  /// @{ The parts of storeResult: the factor of raw sums of weight j; the type
  /// of operand i of the epilogue, and its address for a position; the result,
  /// in the type of y, from sums with their factors and operands.
  mlir::Value sumFactor(Dequantizer &dequantizer, unsigned j, mlir::Value row);
  mlir::Type operandType(unsigned i);
  mlir::Value operandPointer(unsigned i, mlir::Value row, mlir::Value token);
  mlir::Value finish(mlir::ValueRange sums, mlir::ValueRange operands);
  mlir::Value resultPointer(mlir::Value row, mlir::Value token);
  /// @}

private:
  void findGroup();
  /// The row of the weight of an output.
  mlir::Value weightRow(mlir::Value row) {
    return expertRow ? b.add(expertRow, row) : row;
  }
  mlir::Value elementPointer(mlir::Value base, mlir::Value row,
                             mlir::Value token, mlir::Type type);

  PTXBuilder &b;
  const KernelProblem &problem;
  const KernelConfig &config;
  mlir::Region *epilogue;
  bool overlaps;
  mlir::LLVM::LLVMFuncOp func;
  /// Whether the CTA has a tile of tokens.
  mlir::Value isTile;
  llvm::SmallVector<mlir::Value, 2> outputScales;
  llvm::SmallVector<mlir::Value> epilogueOperands;
};

/// The MLIR type of a tensor's elements.
mlir::Type toMLIR(mlir::Builder &b, TensorType type);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_CONVERSION_QUANTLLMTOGPU_KERNELFRAME_H
