//===- Pipeline.h - The barrier protocol of a kernel as data ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A kernel with a producer and consumers moves data through rings of slots in
// shared memory. Item i of a ring lives in slot i % slots; every slot has a
// "full" barrier (one arrival, of the producer, and the bytes of its copies)
// and an "empty" barrier (one arrival per consumer). Whoever waits for item i
// waits for the phase of parity (i / slots) % 2, the producer for the opposite
// one, so that its first round over the ring waits for nobody.
//
// Several CTAs of a cluster may share the columns of a tile. At its end each of
// them sends its sums of a fragment to the CTA that finishes the fragment,
// whose "exchange" barrier counts their bytes.
//
// What the agents do, and in which order, is data: the emitter of a kernel
// walks over these lists, and a unit test explores every interleaving of the
// same lists (test/Unit/Kernels/PipelineModel.h). What is proven is what is
// emitted.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_PIPELINE_H
#define QUANT_LLM_KERNELS_PIPELINE_H

#include <string>
#include <vector>

namespace quant_llm {

/// A step of an agent.
struct PipelineAction {
  enum class Kind {
    /// @{ Producer: waits until the slot of the next item of `ring` is free;
    /// starts the copies of that item; announces an item without data.
    WaitEmpty,
    Fill,
    Announce,
    /// @}
    /// @{ Consumer: waits for the next item of `ring`; gives back the slot of
    /// the oldest item that it still holds.
    WaitFull,
    Release,
    /// @}
    /// @{ Producer: makes the barriers of this CTA; says so. Consumer: waits
    /// until it is said.
    Initialize,
    TellReady,
    AwaitReady,
    /// @}
    /// @{ Everybody: tells the cluster that it has come here; waits until all
    /// agents of all CTAs have.
    ArriveCluster,
    WaitCluster,
    /// @}
    /// Reads the newest item of `ring`, and is done with it before the next
    /// action begins.
    Work,
    /// Turns chunk `chunk` of the newest item of `ring` into operands, in
    /// fragment buffer `buffer`.
    Prepare,
    /// Starts the product of buffer `buffer`, which holds chunk `chunk`, with
    /// the newest item of `ring`: one group of asynchronous operations.
    Multiply,
    /// Waits until at most `chunk` groups are incomplete.
    WaitGroups,
    /// Waits for all consumers of all parts. After the first time the memory of
    /// the rings is theirs, after the second what they have left there.
    Meet,
    /// @{ Consumer: leaves its sums in the memory of the rings; sends what the
    /// consumers of this CTA have left to the CTAs that finish it; waits until
    /// the sums of all CTAs have come; makes results of those that came, or of
    /// those that were left if there is one CTA.
    Deposit,
    Send,
    AwaitSums,
    Finish,
    /// @}
  };
  Kind kind;
  unsigned ring = 0;
  unsigned chunk = 0;
  unsigned buffer = 0;
  /// Skipped in the first unit of a tile.
  bool notInFirstUnit = false;
};

/// The agents of a kernel. A tile is the product along a range of k, which is
/// divided into units; a kernel may work on several tiles one after the other.
/// Consumers may be divided into parts along k: every part has all of the rings
/// for itself, and unit u of a tile is of part u % parts.
struct PipelineProgram {
  struct Ring {
    std::string name;
    unsigned slots;
  };
  std::vector<Ring> rings;
  unsigned parts = 1;
  unsigned buffers = 0;
  /// CTAs of a cluster, each with agents of its own, that share a tile.
  unsigned ctas = 1;
  /// @{ Producer: at the start; for every unit of every tile; after the last
  /// tile, for every part, beginning with the one that would get the next unit.
  std::vector<PipelineAction> produceStart;
  std::vector<PipelineAction> produceUnit;
  std::vector<PipelineAction> produceEnd;
  /// @}
  /// @{ Each consumer: before the first tile, for every unit, after a tile.
  std::vector<PipelineAction> consumeStart;
  std::vector<PipelineAction> consumeUnit;
  std::vector<PipelineAction> consumeTileEnd;
  /// @}
};

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_PIPELINE_H
