//===- PipelineModel.h - Every interleaving of a pipeline -------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A model of a PipelineProgram: one producer, any number of consumers, copies
// that complete at any time and in any order, barriers with the semantics of
// mbarrier (a phase completes when all arrivals and all bytes are in; a wait
// for a parity sees only the parity of the current phase). It runs through all
// reachable states and stops at the first that is wrong:
// - a copy is started into a slot that a product still reads;
// - a slot is read before its item arrived or after it was replaced;
// - fragments are overwritten while a product that reads them is incomplete;
// - consumers meet to use the memory of the rings, and a copy is still to come;
// - a barrier is used before it is made;
// - sums replace a stage that is still needed, are read before they are there,
//   or are sent to a CTA that has no barriers yet or has ended;
// - a barrier gets more arrivals than a phase has;
// - nobody can go on, and not everybody has ended, or a copy is left over.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TEST_UNIT_KERNELS_PIPELINEMODEL_H
#define QUANT_LLM_TEST_UNIT_KERNELS_PIPELINEMODEL_H

#include "quant-llm/Kernels/Pipeline.h"

#include <cstdint>

namespace quant_llm {

struct PipelineVerdict {
  /// Empty if nothing is wrong.
  std::string fault;
  uint64_t states = 0;
};

/// Explores `program` with `consumers` consumers in every part and tiles of the
/// given numbers of units (one tile if consumers meet at its end). The first
/// `moreUnits` CTAs have one unit more.
PipelineVerdict explorePipeline(const PipelineProgram &program,
                                unsigned consumers,
                                const std::vector<unsigned> &tiles,
                                unsigned moreUnits = 0);

} // namespace quant_llm

#endif // QUANT_LLM_TEST_UNIT_KERNELS_PIPELINEMODEL_H
