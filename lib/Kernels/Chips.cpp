//===- Chips.cpp - What chips offer to kernels ----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Shared memory is that of the CUDA programming guide ("technical
// specifications per compute capability"). The number of multiprocessors is
// that of the largest common product of the chip: it steers choices, nothing
// depends on it being right.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/KernelSpec.h"

#include <algorithm>

using namespace quant_llm;

static ChipLimits makeLimits(const char *name, int computeCapability,
                             int64_t sharedKBPerSM, int64_t multiprocessors) {
  ChipLimits limits;
  limits.name = name;
  limits.computeCapability = computeCapability;
  limits.sharedBytesPerSM = sharedKBPerSM * 1024;
  limits.sharedBytesPerCTA = (sharedKBPerSM - 1) * 1024;
  limits.multiprocessors = multiprocessors;
  limits.hasBulkCopy = computeCapability >= 90;
  // Instructions of the a-variant only.
  limits.hasWgmma = limits.name == "sm_90a";
  return limits;
}

int64_t quant_llm::getClusterPlaces(const ChipLimits &chip, int64_t cluster) {
  // What cuOccupancyMaxActiveClusters says on an H100. Other chips are taken to
  // have groups of the same kind.
  constexpr int64_t measured = 132;
  static constexpr int64_t places[] = {132, 132, 117, 120, 110, 102, 105, 120};
  return std::max<int64_t>(1, places[std::clamp<int64_t>(cluster, 1, 8) - 1] *
                                  chip.multiprocessors / (measured * cluster)) *
         cluster;
}

Result<ChipLimits> quant_llm::getChipLimits(const std::string &chip) {
  static const ChipLimits chips[] = {
      makeLimits("sm_80", 80, 164, 108),    // A100
      makeLimits("sm_86", 86, 100, 84),     // RTX A6000
      makeLimits("sm_89", 89, 100, 142),    // L40S
      makeLimits("sm_90", 90, 228, 132),    // H100
      makeLimits("sm_90a", 90, 228, 132),   // H100
      makeLimits("sm_100a", 100, 228, 148), // B200
      makeLimits("sm_120a", 120, 100, 188), // RTX PRO 6000
  };
  std::string names;
  for (const ChipLimits &limits : chips) {
    if (limits.name == chip)
      return limits;
    names += (names.empty() ? "" : ", ") + limits.name;
  }
  return Status::error("expected a chip out of " + names + " but got '" + chip +
                       "'");
}
