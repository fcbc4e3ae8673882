//===- ScaleMode.cpp - How kernels see the scales of a scheme -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/ScaleMode.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Support/Rounding.h"

#include <algorithm>

using namespace quant_llm;

int64_t quant_llm::getNumGroups(const KernelProblem &problem) {
  int64_t block = problem.scheme.blockK;
  return block < 0 || block >= problem.k ? 1 : (problem.k + block - 1) / block;
}

ScaleMode quant_llm::getScaleMode(const KernelProblem &problem) {
  int64_t block = problem.scheme.blockK;
  // The sum over x that a float zero needs is not at hand in the epilogue.
  if (getNumGroups(problem) == 1)
    return problem.scheme.zero == ZeroKind::Float ? ScaleMode::Static
                                                  : ScaleMode::Channel;
  if (block < kStepColumns)
    return ScaleMode::Column;
  bool isStatic = block % kStepColumns == 0 &&
                  (kUnitColumns % block == 0 || block % kUnitColumns == 0);
  return isStatic ? ScaleMode::Static : ScaleMode::General;
}

int64_t quant_llm::getScaleBytes(const Scheme &scheme) {
  return floatTypeBytes(getPackedScaleType(scheme));
}

int64_t quant_llm::getZeroBytes(const Scheme &scheme) {
  switch (scheme.zero) {
  case ZeroKind::None:
    return 0;
  case ZeroKind::Integer:
    return 1;
  case ZeroKind::Float:
    return floatTypeBytes(getPackedZeroType(scheme));
  }
  return 0;
}

static bool isRounded(FloatType type, TensorType activation) {
  return type == FloatType::F32 ||
         (type == FloatType::F16 && activation == TensorType::BF16);
}

bool quant_llm::roundsScales(const KernelProblem &problem) {
  return isRounded(getPackedScaleType(problem.scheme), problem.activation);
}

bool quant_llm::roundsZeros(const KernelProblem &problem) {
  return problem.scheme.zero == ZeroKind::Float &&
         isRounded(getPackedZeroType(problem.scheme), problem.activation);
}

/// The mean square of that many rounding errors is almost never thrice that of
/// very many; of a single one it is in one case of seven.
static constexpr int64_t leastEvenBlocks = 16;

bool quant_llm::addsRests(const KernelProblem &problem) {
  if (getScaleMode(problem) == ScaleMode::Channel ||
      !(roundsScales(problem) || roundsZeros(problem)))
    return false;
  int64_t blockN = problem.scheme.blockN;
  int64_t rowBlocks = blockN < 0 ? 1 : ceilDiv(problem.getRows(), blockN);
  return rowBlocks * getNumGroups(problem) < leastEvenBlocks;
}

static bool hasTable(const Scheme &scheme) {
  return scheme.element.kind == ElementKind::NF4 ||
         scheme.element.kind == ElementKind::Codebook;
}

bool quant_llm::hasPairTable(const Scheme &scheme) {
  return hasTable(scheme) && scheme.element.bits <= 4;
}

int64_t quant_llm::getTableBytes(const Scheme &scheme) {
  int64_t values = int64_t(1) << scheme.element.bits;
  if (hasPairTable(scheme))
    return values * values * 4 * kWarpLanes;
  return hasTable(scheme) ? 2 * values : 0;
}
