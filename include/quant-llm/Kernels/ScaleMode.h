//===- ScaleMode.h - How kernels see the scales of a scheme -----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_SCALEMODE_H
#define QUANT_LLM_KERNELS_SCALEMODE_H

#include "quant-llm/Kernels/KernelSpec.h"
#include "quant-llm/Packing/FragmentLayout.h"

namespace quant_llm {

/// @{ Sizes of the packed layout (docs/Weights.md).
constexpr int64_t kStripRows = stripRows;
constexpr int64_t kUnitColumns = unitColumns;
constexpr int64_t kStepColumns = stepColumns;
constexpr int64_t kStepsPerUnit = kUnitColumns / kStepColumns;
constexpr int64_t kWarpLanes = 32;
/// @}

/// Where along k the scale changes.
enum class ScaleMode {
  /// Never: the scale is applied to the sums, in f32.
  Channel,
  /// At multiples of 16 that are known while unrolling a unit.
  Static,
  /// Anywhere, also inside a step: groups of 16 or more.
  General,
  /// With every few columns; all rows share the scales.
  Column,
};

ScaleMode getScaleMode(const KernelProblem &problem);

/// Number of groups along k.
int64_t getNumGroups(const KernelProblem &problem);

/// @{ Bytes of a packed scale, and of a packed zero (0 without zeros).
int64_t getScaleBytes(const Scheme &scheme);
int64_t getZeroBytes(const Scheme &scheme);
/// @}

/// @{ Whether the activation type has fewer digits than the scales, or than the
/// float zeros.
bool roundsScales(const KernelProblem &problem);
bool roundsZeros(const KernelProblem &problem);
/// @}

/// Whether scales and zeros are sums of two numbers of the activation type:
/// there are so few of them that their rounding errors need not even out.
bool addsRests(const KernelProblem &problem);

/// Whether the table of a codebook has all pairs of values, for every lane of a
/// warp, and not single values: that of up to 16 values.
bool hasPairTable(const Scheme &scheme);

/// Bytes of the table of a codebook in shared memory, 0 for other formats.
int64_t getTableBytes(const Scheme &scheme);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_SCALEMODE_H
