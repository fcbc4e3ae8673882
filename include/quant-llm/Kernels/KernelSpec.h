//===- KernelSpec.h - What a GPU kernel computes and how --------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The two halves of a kernel's description, in plain C++: the problem (what is
// computed) and the configuration (how). Selection maps the first to the
// second, verification rejects pairs that cannot be built, and the generator
// obeys both. Nothing else decides anything about a kernel.
//
// Words: a strip is 16 rows of the weight, a unit 128 columns (k), a step 16
// columns: strip x step is the operand A of one mma.m16n8k16.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_KERNELSPEC_H
#define QUANT_LLM_KERNELS_KERNELSPEC_H

#include "quant-llm/Kernels/KernelConfig.h"
#include "quant-llm/Numerics/Scheme.h"
#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quant_llm {

/// Floating-point types of activations and outputs.
enum class TensorType { F16, BF16, F32 };

/// An operand of the epilogue: one value per row of the weight, or one per
/// element of the result.
struct EpilogueOperand {
  TensorType type = TensorType::F16;
  bool perElement = false;
};

/// y[m, n] = epilogue(sum_k x[m, k] * W_j[n, k]) for a static N and K and any
/// number m of tokens. The body of the epilogue is a region of IR and not part
/// of this structure.
///
/// With experts, tokens are sorted by expert, and n are the outputs of one: a
/// weight has the rows of all experts on top of each other.
struct KernelProblem {
  Scheme scheme;
  int64_t n = 0;
  int64_t k = 0;
  /// 0 for a linear; for a grouped linear the number of experts, 1 included.
  int64_t experts = 0;
  /// Offsets of the experts' tokens are i64, not i32.
  bool wideOffsets = false;
  /// F16 or BF16: also what weights are rounded to before the product.
  TensorType activation = TensorType::F16;
  TensorType output = TensorType::F16;
  /// 1, or 2 for a gated pair.
  unsigned numWeights = 1;
  std::vector<EpilogueOperand> epilogue;

  bool isGrouped() const { return experts > 0; }
  /// Rows of a weight.
  int64_t getRows() const { return isGrouped() ? n * experts : n; }
};

/// What a chip offers to a kernel.
struct ChipLimits {
  std::string name;
  /// 80, 86, 89, 90, 100, 120.
  int computeCapability = 0;
  int64_t sharedBytesPerCTA = 0;
  int64_t sharedBytesPerSM = 0;
  int64_t registersPerSM = 65536;
  int64_t multiprocessors = 0;
  bool hasBulkCopy = false;
  bool hasWgmma = false;
};

/// The limits of `chip` ("sm_80", "sm_90a", ...); an error lists those known.
Result<ChipLimits> getChipLimits(const std::string &chip);

/// CTAs that run at a time in clusters of `cluster` (1 to 8), one to a
/// multiprocessor. A cluster stays in one group of the chip, so that some
/// multiprocessors are left over.
int64_t getClusterPlaces(const ChipLimits &chip, int64_t cluster);

/// Bytes of dynamic shared memory of a kernel.
int64_t getSharedBytes(const KernelProblem &problem,
                       const KernelConfig &config);

/// Rejects a configuration that the generator or the chip cannot hold; the
/// message says which limit, what it is, and what was asked for.
Status verifyKernel(const KernelProblem &problem, const KernelConfig &config,
                    const ChipLimits &chip);

/// Configurations that verifyKernel accepts and that together cover the token
/// counts from 1 on, in their order; none for a problem that has no kernel
/// (verifyKernel says why). `reasons`, if given, gets one line per
/// configuration.
std::vector<KernelConfig> selectKernels(const KernelProblem &problem,
                                        const ChipLimits &chip,
                                        std::vector<std::string> *reasons);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_KERNELSPEC_H
