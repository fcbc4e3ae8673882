//===- MmaKernel.cpp - Kernels on mma.sync --------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The families FewTokens and Multistage: one way to compute, two ways to feed
// it. A CTA makes a tile of rowTile rows and tokenTile tokens. Shared memory
// holds a ring of stages of stageK columns: X in the layout of a tensor copy,
// packed codes, scales and zeros (StageLayout). A warp owns some strips of the
// tile and, where several warps share rows, some units of each stage; it turns
// codes into operand A in registers and multiplies them with the tokens. At the
// end the sums of the warps meet in shared memory, are added in the order of
// the warps and go through the epilogue.
//
// FewTokens: a thread of one warp more than needed to compute keeps the ring
// full with bulk and tensor copies, a stage for every pair of mbarriers.
// Issuing a copy takes it tens of nanoseconds, so there is one for the
// activations of a stage. Multistage: all threads copy with cp.async, a barrier
// of the CTA per stage.
//
//===----------------------------------------------------------------------===//

#include "Dequantize.h"
#include "KernelFrame.h"
#include "Kernels.h"
#include "PTXBuilder.h"

#include "quant-llm/Kernels/FewTokensPlan.h"
#include "quant-llm/Kernels/StageLayout.h"

#include <algorithm>

using namespace mlir;
using namespace quant_llm;

using Kind = PipelineAction::Kind;

namespace {

class MmaKernel {
public:
  MmaKernel(gpu::GPUModuleOp module, OpBuilder &builder, StringRef name,
            const KernelProblem &problem, const KernelConfig &config,
            const ChipLimits &chip, Region *epilogue)
      : problem(problem), config(config), layout(problem, config),
        program(planFewTokens(config)),
        b(NameLoc::get(builder.getStringAttr(name)), builder),
        frame(b, module, name, problem, config, chip, epilogue,
              LaunchShape{numThreads(), layout.total, /*boxColumns=*/64,
                          hasSegments() ? segmentsPerStage() : 0,
                          /*persistent=*/false, /*overlaps=*/hasProducer()}),
        dequantizer(b, problem, name) {}

  LLVM::LLVMFuncOp emit();

private:
  void emitTile();
  bool hasProducer() const { return config.family == KernelFamily::FewTokens; }
  int64_t numWarps() const { return config.warpsRows * config.warpsK; }
  int64_t numThreads() const {
    return kWarpLanes * (numWarps() + (hasProducer() ? 1 : 0));
  }
  int64_t tokenTiles() const { return config.tokenTile / 8; }
  int64_t stripsPerWarp() const { return layout.strips / config.warpsRows; }
  int64_t unitsPerWarp() const { return layout.units / config.warpsK; }
  /// Stages that the columns fill; the last one may have fewer units.
  int64_t numChunks() const {
    return (frame.numUnits() + layout.units - 1) / layout.units;
  }
  /// Whether tiles reach beyond the rows of the result: the grid covers the
  /// rows of the packed weight.
  bool hangsOver() const {
    return problem.n % config.rowTile != 0 ||
           (!problem.isGrouped() &&
            frame.numStrips() * kStripRows != problem.n);
  }
  /// Whether experts begin inside of strips; their first tile then has rows of
  /// the expert before.
  bool splitsStrips() const {
    return problem.isGrouped() && problem.n % kStripRows != 0;
  }
  bool hasRaggedChunk() const { return frame.numUnits() % layout.units != 0; }
  /// Independent sums, so that a lone tile does not wait for its own product.
  int64_t numChains() const {
    int64_t tiles = tokenTiles() * stripsPerWarp() * problem.numWeights;
    return tiles == 1 ? 4 : tiles == 2 ? 2 : 1;
  }
  /// Segments of 64 columns of X.
  int64_t segmentsPerStage() const {
    return layout.units * (kUnitColumns / 64);
  }
  /// Whether rows of X are whole segments, so that one tensor copy can bring
  /// those of a stage.
  bool hasSegments() const { return hasProducer() && problem.k % 64 == 0; }
  /// Rows of a segment of X in shared memory: a tensor copy leaves no room for
  /// tokens that do not exist.
  Value segmentRows() {
    return hasProducer() ? b.min(frame.m, config.tokenTile)
                         : b.i32(config.tokenTile);
  }

  Value stageAddress(Value slot) {
    return b.add(base, b.mul(slot, layout.stage));
  }
  Value fullBarrier(Value slot) {
    return b.add(b.add(base, layout.barriers), b.mul(slot, 8));
  }
  Value emptyBarrier(Value slot) {
    return b.add(fullBarrier(slot), 8 * config.stages);
  }
  /// Units of a chunk.
  Value unitsOf(Value chunk) {
    if (!hasRaggedChunk())
      return b.i32(layout.units);
    return b.min(b.i32(layout.units),
                 b.sub(b.i32(frame.numUnits()), b.mul(chunk, layout.units)));
  }
  /// The first group of a chunk and the number of those staged.
  std::pair<Value, Value> groupsOf(Value chunk);
  /// The chunk to work on as number `index`: every tile begins elsewhere, so
  /// that CTAs do not read the same columns of X at the same time.
  Value chunkAt(Value index) {
    if (!hasProducer() || numChunks() == 1)
      return index;
    Value chunk = b.add(index, rotation);
    Value wrapped = b.sub(chunk, chunkCount);
    return b.add(firstChunk,
                 b.select(b.less(chunk, chunkCount), chunk, wrapped));
  }
  /// Segments of X of a chunk; those beyond K are filled with zeros by a copy
  /// of several. And their size.
  Value segmentsOf(Value chunk) {
    return hasSegments() ? b.i32(segmentsPerStage())
                         : b.mul(unitsOf(chunk), kUnitColumns / 64);
  }
  Value segmentBytes() { return b.mul(segmentRows(), 128); }
  /// Slot and parity of the next stage.
  std::pair<Value, Value> advance(Value slot, Value parity);
  /// The strip of the weight for a strip of the tile; tiles may hang over.
  Value stripOf(Value inTile) {
    Value strip = b.add(firstStrip, inTile);
    bool isInside = problem.isGrouped()
                        ? problem.n % config.rowTile == 0
                        : frame.numStrips() % layout.strips == 0;
    return isInside ? strip : b.min(strip, frame.numStrips() - 1);
  }

  /// The barrier that tells consumers that the mbarriers are there; the
  /// producer only arrives.
  static constexpr int64_t kReadyBarrier = 2;
  void initializeBarriers();
  void emitProducer();
  /// The two halves of filling a stage, in this order.
  void produceWeights(Value chunk, Value slot);
  void produceActivations(Value chunk, Value slot);
  Values consumeProduced();
  void copyStage(Value chunk, Value slot);
  void copyActivations(Value chunk, Value stage);
  void copyRows(Value source, Value sourceStrip, Value target, int64_t perStrip,
                Value valid);
  Values consumeCopied();

  /// Adds the products of a stage to the sums.
  Values multiplyStage(Value stage, Value chunk, ValueRange sums);
  Values multiplyUnit(Value stage, Value chunk, Value unitInStage,
                      ValueRange sums);
  /// Scales of a strip for a step.
  struct StripScales {
    ScaleRegisters before, after;
    Value boundary;
  };
  void updateScales(StripScales &scales, unsigned weight, int64_t strip,
                    Value stage, Value chunk, Value unitInStage, unsigned step);
  /// @{ The end of a tile.
  void endTile(ValueRange sums);
  void depositSums(ValueRange sums);
  void sendSums();
  void finish();
  /// @}
  /// The sums of a fragment: part `part` of weight `weight`.
  Value partAddress(Value fragment, unsigned weight, Value part) {
    int64_t perWeight = config.warpsK * 512;
    return b.add(b.add(base, b.mul(fragment, problem.numWeights * perWeight)),
                 b.add(b.mul(part, 512), weight * perWeight));
  }
  /// With a split: the same in the memory for sums of all CTAs, for the own
  /// fragment number `own`.
  Value exchangeAddress(Value own, unsigned weight, Value rank) {
    int64_t perWeight = config.split * 512;
    return b.add(b.add(b.add(base, layout.exchange),
                       b.mul(own, problem.numWeights * perWeight)),
                 b.add(b.mul(rank, 512), weight * perWeight));
  }
  Value exchangeBarrier() {
    return b.add(base, layout.barriers + 16 * config.stages);
  }
  /// Fragments that this CTA finishes: those with number rank modulo split.
  Value ownFragments() {
    if (config.split == 1)
      return b.i32(layout.fragments);
    return b.div(b.sub(b.i32(layout.fragments + config.split - 1), rank),
                 config.split);
  }

  /// The index of a sum in the list of all.
  size_t sumIndex(int64_t chain, unsigned weight, int64_t strip, int64_t tile,
                  unsigned element) const {
    return (((chain * problem.numWeights + weight) * stripsPerWarp() + strip) *
                tokenTiles() +
            tile) *
               4 +
           element;
  }
  size_t numSums() const {
    return numChains() * problem.numWeights * stripsPerWarp() * tokenTiles() *
           4;
  }

  const KernelProblem &problem;
  const KernelConfig &config;
  StageLayout layout;
  /// The family Multistage, which has no producer, follows its end only.
  PipelineProgram program;
  PTXBuilder b;
  KernelFrame frame;
  Dequantizer dequantizer;

  Value base, thread, lane, warp, warpRow, warpK;
  /// The first strip: of the weight, and of the outputs.
  Value firstStrip, firstOutput;
  /// Of the cluster: this CTA, the chunks it works on, and which comes first.
  Value rank, firstChunk, chunkCount, rotation;
  SmallVector<SmallVector<ScaleRegisters>, 2> channelRegisters;
};

} // namespace

std::pair<Value, Value> MmaKernel::groupsOf(Value chunk) {
  int64_t block = problem.scheme.blockK, total = getNumGroups(problem);
  if (total == 1)
    return {b.i32(0), b.i32(1)};
  Value first = config.stageK % block == 0
                    ? b.mul(chunk, config.stageK / block)
                    : b.div(b.mul(chunk, config.stageK), block);
  if (layout.groups == 1)
    return {first, b.i32(1)};
  return {first, b.min(b.i32(layout.groups), b.sub(b.i32(total), first))};
}

std::pair<Value, Value> MmaKernel::advance(Value slot, Value parity) {
  Value next = b.add(slot, 1);
  Value wraps = b.equal(next, config.stages);
  return {b.select(wraps, b.i32(0), next),
          b.select(wraps, b.bitXor(parity, b.i32(1)), parity)};
}

//===----------------------------------------------------------------------===//
// FewTokens: a warp that copies
//===----------------------------------------------------------------------===//

/// By one thread: copies with addresses that differ between lanes are issued
/// one lane after the other, at twice the cost of each. The barrier waits for
/// the activations, too.
void MmaKernel::produceWeights(Value chunk, Value slot) {
  PTXBuilder::Scope scope(b, "produce_weights");
  const Scheme &scheme = problem.scheme;
  int64_t unitBytes = 256 * scheme.element.bits;
  Value stage = stageAddress(slot), full = fullBarrier(slot);
  Value units = unitsOf(chunk);
  auto [firstGroup, groups] =
      layout.groups ? groupsOf(chunk) : std::pair(b.i32(0), b.i32(0));
  Value codeBytes = b.mul(units, unitBytes);
  Value scaleBytes = b.mul(groups, kStripRows * getScaleBytes(scheme));
  Value zeroBytes = b.mul(groups, kStripRows * getZeroBytes(scheme));
  Value perStrip = b.add(codeBytes, b.add(scaleBytes, zeroBytes));
  b.arriveExpect(full,
                 b.add(b.mul(segmentsOf(chunk), segmentBytes()),
                       b.mul(perStrip, layout.strips * problem.numWeights)));

  // The weight comes from memory and takes longer than X, so it goes first.
  Value policy = b.evictFirstPolicy();
  for (unsigned j = 0; j != problem.numWeights; ++j) {
    Value weight = b.add(stage, j * layout.perWeight);
    auto copyStrips = [&](Value source, int64_t bytesPerStrip, Value offset,
                          int64_t target, int64_t targetStride, Value size) {
      b.loop(b.i32(0), b.i32(layout.strips), b.i32(1), [&](Value strip) {
        Value from = b.createOrFold<arith::MulIOp>(b.toI64(stripOf(strip)),
                                                   b.i64(bytesPerStrip));
        from = b.createOrFold<arith::AddIOp>(from, b.toI64(offset));
        b.bulkCopy(b.add(b.add(weight, target), b.mul(strip, targetStride)),
                   b.offsetPointer(source, from), size, full, policy);
      });
    };
    copyStrips(frame.packed[j], frame.numUnits() * unitBytes,
               b.mul(chunk, layout.units * unitBytes), layout.codes,
               layout.codesPerStrip, codeBytes);
    if (!layout.groups)
      continue;
    int64_t scaleSize = kStripRows * getScaleBytes(scheme);
    copyStrips(frame.scales[j], getNumGroups(problem) * scaleSize,
               b.mul(firstGroup, scaleSize), layout.scales,
               layout.scalesPerStrip, scaleBytes);
    if (int64_t zeroSize = kStripRows * getZeroBytes(scheme))
      copyStrips(frame.zeros[j], getNumGroups(problem) * zeroSize,
                 b.mul(firstGroup, zeroSize), layout.zeros,
                 layout.zerosPerStrip, zeroBytes);
  }
}

void MmaKernel::produceActivations(Value chunk, Value slot) {
  PTXBuilder::Scope scope(b, "produce_activations");
  Value stage = stageAddress(slot), full = fullBarrier(slot);
  Value firstSegment = b.mul(chunk, segmentsPerStage());
  if (hasSegments()) {
    b.tensorCopy(stage, frame.tensorMapX,
                 ValueRange{b.i32(0), frame.loadedToken(), firstSegment}, full);
    return;
  }
  b.loop(b.i32(0), segmentsOf(chunk), b.i32(1), [&](Value segment) {
    Value column = b.mul(b.add(firstSegment, segment), 64);
    b.tensorCopy(b.add(stage, b.mul(segment, segmentBytes())), frame.tensorMapX,
                 ValueRange{column, frame.loadedToken()}, full);
  });
}

void MmaKernel::initializeBarriers() {
  b.prefetchTensorMap(frame.tensorMapX);
  for (int64_t slot = 0; slot != config.stages; ++slot) {
    b.initBarrier(fullBarrier(b.i32(slot)), 1);
    b.initBarrier(emptyBarrier(b.i32(slot)), numWarps());
  }
  if (config.split > 1) {
    b.initBarrier(exchangeBarrier(), 1);
    b.arriveExpect(
        exchangeBarrier(),
        b.mul(ownFragments(), config.split * problem.numWeights * 512));
  }
  b.fenceBarrierInit();
  b.fenceAsyncProxy();
}

void MmaKernel::emitProducer() {
  Value isIssuer = b.electThread();
  auto perform = [&](ArrayRef<PipelineAction> actions) {
    for (const PipelineAction &action : actions)
      switch (action.kind) {
      case Kind::Initialize:
        b.ifThen(isIssuer, [&] { initializeBarriers(); });
        b.syncWarp();
        break;
      case Kind::TellReady:
        b.arriveNamed(kReadyBarrier, numThreads());
        break;
      case Kind::ArriveCluster:
        b.clusterArriveRelaxed();
        break;
      case Kind::WaitCluster:
        b.syncWarp();
        b.clusterWait();
        break;
      default:
        llvm_unreachable("not an action between the stages of a producer");
      }
  };
  perform(program.produceStart);
  b.ifThen(isIssuer, [&] {
    // Weights come while earlier kernels still make X. The first round over
    // the ring waits for no consumer.
    int64_t early = layout.earlyStages;
    Value numEarly = b.min(chunkCount, early);
    b.loop(b.i32(0), numEarly, b.i32(1),
           [&](Value index) { produceWeights(chunkAt(index), index); });
    frame.awaitInputs();
    b.loop(b.i32(0), numEarly, b.i32(1),
           [&](Value index) { produceActivations(chunkAt(index), index); });
    bool isRound = early == config.stages;
    b.loop(numEarly, chunkCount, b.i32(1),
           {b.i32(isRound ? 0 : early), b.i32(isRound ? 0 : 1)},
           [&](Value index, ValueRange ring) -> Values {
             for (const PipelineAction &action : program.produceUnit)
               if (action.kind == Kind::WaitEmpty) {
                 b.waitBarrier(emptyBarrier(ring[0]), ring[1]);
               } else {
                 Value chunk = chunkAt(index);
                 produceWeights(chunk, ring[0]);
                 produceActivations(chunk, ring[0]);
               }
             auto [slot, parity] = advance(ring[0], ring[1]);
             return {slot, parity};
           });
  });
  perform(program.produceEnd);
}

Values MmaKernel::consumeProduced() {
  for (const PipelineAction &action : program.consumeStart)
    if (action.kind == Kind::AwaitReady)
      b.syncNamed(kReadyBarrier, numThreads());
    else
      b.clusterArriveRelaxed();
  Values carried(numSums(), b.f32(0));
  carried.append({b.i32(0), b.i32(0)});
  Values results = b.loop(
      b.i32(0), chunkCount, b.i32(1), carried,
      [&](Value chunk, ValueRange carried) -> Values {
        Value slot = carried[numSums()], parity = carried[numSums() + 1];
        Values sums(carried.take_front(numSums()));
        for (const PipelineAction &action : program.consumeUnit)
          switch (action.kind) {
          case Kind::WaitFull:
            b.waitBarrier(fullBarrier(slot), parity);
            break;
          case Kind::Work:
            sums = multiplyStage(stageAddress(slot), chunkAt(chunk), sums);
            b.syncWarp();
            break;
          default:
            // Kind::Release.
            b.ifThen(b.equal(lane, 0), [&] { b.arrive(emptyBarrier(slot)); });
          }
        auto [nextSlot, nextParity] = advance(slot, parity);
        sums.append({nextSlot, nextParity});
        return sums;
      });
  results.resize(numSums());
  return results;
}

//===----------------------------------------------------------------------===//
// Multistage: all threads copy
//===----------------------------------------------------------------------===//

void MmaKernel::copyActivations(Value chunk, Value stage) {
  Value firstColumn = b.mul(chunk, config.stageK);
  auto source = [&](Value token, Value column) {
    Value element = b.createOrFold<arith::MulIOp>(
        b.toI64(b.add(frame.firstToken, token)), b.i64(problem.k));
    element = b.createOrFold<arith::AddIOp>(element, b.toI64(column));
    return b.offsetPointer(frame.x,
                           b.createOrFold<arith::ShLIOp>(element, b.i64(1)));
  };
  auto isInside = [&](Value token, Value column) {
    return b.both(b.less(b.add(frame.firstToken, token), frame.tokensEnd),
                  b.less(column, problem.k));
  };
  /// Where element `column` of the stage lies.
  auto target = [&](Value token, Value column) {
    Value piece = b.bitXor(b.bitAnd(b.div(column, 8), 7), b.bitAnd(token, 7));
    Value inSegment = b.add(b.mul(token, 128), b.mul(piece, 16));
    Value segment = b.mul(b.div(column, 64), config.tokenTile * 128);
    return b.add(b.add(stage, segment),
                 b.add(inSegment, b.mul(b.bitAnd(column, 7), 2)));
  };
  bool isAsync = config.copy == ActivationCopy::Async16;
  int64_t width = isAsync ? 8 : 2, perToken = config.stageK / width;
  b.loop(thread, b.i32(config.tokenTile * perToken), b.i32(numThreads()),
         [&](Value index) {
           Value token = b.div(index, perToken);
           Value column = b.mul(b.rem(index, perToken), width);
           Value global = b.add(firstColumn, column);
           if (isAsync) {
             Value valid =
                 b.select(isInside(token, global), b.i32(16), b.i32(0));
             b.copyAsync16(target(token, column), source(token, global), valid);
             return;
           }
           auto element = [&](int64_t i) {
             Value at = b.add(global, i);
             Values loaded = b.ifElse(
                 isInside(token, at),
                 [&]() -> Values {
                   Value bits = b.load(b.getI16Type(), source(token, at), 2);
                   return {arith::ExtUIOp::create(b, b.i32Type(), bits)};
                 },
                 [&]() -> Values { return {b.i32(0)}; });
             return loaded.front();
           };
           Value both = b.bitOr(element(0), b.shiftLeft(element(1), 16));
           b.storeShared(both, target(token, column), 4);
         });
}

/// Copies `perStrip` bytes to each strip of the tile, of which the first
/// `valid` (i32) exist in the source.
void MmaKernel::copyRows(Value source, Value sourceStrip, Value target,
                         int64_t perStrip, Value valid) {
  int64_t pieces = perStrip / 16;
  b.loop(thread, b.i32(layout.strips * pieces), b.i32(numThreads()),
         [&](Value index) {
           Value strip = b.div(index, pieces);
           Value offset = b.mul(b.rem(index, pieces), 16);
           Value from = b.createOrFold<arith::MulIOp>(b.toI64(stripOf(strip)),
                                                      sourceStrip);
           from = b.createOrFold<arith::AddIOp>(from, b.toI64(offset));
           Value bytes = b.select(b.less(offset, valid), b.i32(16), b.i32(0));
           b.copyAsync16(b.add(target, b.mul(index, 16)),
                         b.offsetPointer(source, from), bytes);
         });
}

void MmaKernel::copyStage(Value chunk, Value slot) {
  PTXBuilder::Scope scope(b, "copy");
  const Scheme &scheme = problem.scheme;
  int64_t unitBytes = 256 * scheme.element.bits;
  Value stage = stageAddress(slot);
  copyActivations(chunk, stage);
  for (unsigned j = 0; j != problem.numWeights; ++j) {
    Value weight = b.add(stage, j * layout.perWeight);
    auto advanced = [&](Value pointer, Value steps, int64_t bytes) {
      return b.offsetPointer(
          pointer, b.createOrFold<arith::MulIOp>(b.toI64(steps), b.i64(bytes)));
    };
    copyRows(advanced(frame.packed[j], chunk, layout.units * unitBytes),
             b.i64(frame.numUnits() * unitBytes), b.add(weight, layout.codes),
             layout.codesPerStrip, b.mul(unitsOf(chunk), unitBytes));
    if (!layout.groups)
      continue;
    auto [firstGroup, groups] = groupsOf(chunk);
    int64_t scaleSize = kStripRows * getScaleBytes(scheme);
    copyRows(advanced(frame.scales[j], firstGroup, scaleSize),
             b.i64(getNumGroups(problem) * scaleSize),
             b.add(weight, layout.scales), layout.scalesPerStrip,
             b.mul(groups, scaleSize));
    if (int64_t zeroSize = kStripRows * getZeroBytes(scheme))
      copyRows(advanced(frame.zeros[j], firstGroup, zeroSize),
               b.i64(getNumGroups(problem) * zeroSize),
               b.add(weight, layout.zeros), layout.zerosPerStrip,
               b.mul(groups, zeroSize));
  }
}

Values MmaKernel::consumeCopied() {
  int64_t ahead = config.stages - 1;
  for (int64_t chunk = 0; chunk != ahead; ++chunk) {
    if (chunk < numChunks())
      copyStage(b.i32(chunk), b.i32(chunk));
    b.commitCopies();
  }
  Values carried(numSums(), b.f32(0));
  carried.append({b.i32(0), b.i32(ahead)});
  Values results = b.loop(
      b.i32(0), b.i32(numChunks()), b.i32(1), carried,
      [&](Value chunk, ValueRange carried) -> Values {
        Value slot = carried[numSums()], fill = carried[numSums() + 1];
        b.waitCopies(ahead - 1);
        // The stage is complete for all, and the one before it free.
        b.syncThreads();
        Value next = b.add(chunk, ahead);
        b.ifThen(b.less(next, numChunks()), [&] { copyStage(next, fill); });
        b.commitCopies();
        Values sums = multiplyStage(stageAddress(slot), chunk,
                                    carried.take_front(numSums()));
        auto following = [&](Value slot) {
          Value next = b.add(slot, 1);
          return b.select(b.equal(next, config.stages), b.i32(0), next);
        };
        sums.append({following(slot), following(fill)});
        return sums;
      });
  results.resize(numSums());
  b.waitCopies(0);
  return results;
}

//===----------------------------------------------------------------------===//
// The product
//===----------------------------------------------------------------------===//

void MmaKernel::updateScales(StripScales &scales, unsigned weight,
                             int64_t strip, Value stage, Value chunk,
                             Value unitInStage, unsigned step) {
  const Scheme &scheme = problem.scheme;
  int64_t block = scheme.blockK, total = getNumGroups(problem);
  int64_t scaleSize = kStripRows * getScaleBytes(scheme);
  int64_t zeroSize = kStripRows * getZeroBytes(scheme);
  Value stripInTile = b.add(b.mul(warpRow, stripsPerWarp()), strip);

  if (dequantizer.mode() == ScaleMode::Channel) {
    scales.before = channelRegisters[weight][strip];
    return;
  }
  if (dequantizer.mode() == ScaleMode::Static) {
    if (step != 0 && (total == 1 || step * kStepColumns % block != 0))
      return;
    Value group;
    if (layout.groups == 1)
      group = b.i32(0);
    else if (block <= kUnitColumns)
      group = b.add(b.mul(unitInStage, kUnitColumns / block),
                    step * kStepColumns / block);
    else if (config.stageK % block == 0)
      group = b.div(unitInStage, block / kUnitColumns);
    else
      group = b.sub(b.div(b.add(b.mul(chunk, layout.units), unitInStage),
                          block / kUnitColumns),
                    groupsOf(chunk).first);
    // The padding of the last unit has no groups: any finite scale will do.
    if (total > 1 && block < kUnitColumns && problem.k % kUnitColumns != 0)
      group = b.min(group, b.sub(groupsOf(chunk).second, b.i32(1)));
    Value at = b.add(stage, weight * layout.perWeight);
    Value scaleAddress = b.add(b.add(b.add(at, layout.scales),
                                     b.mul(stripInTile, layout.scalesPerStrip)),
                               b.mul(group, scaleSize));
    Value zeroAddress;
    if (zeroSize)
      zeroAddress = b.add(b.add(b.add(at, layout.zeros),
                                b.mul(stripInTile, layout.zerosPerStrip)),
                          b.mul(group, zeroSize));
    scales.before = dequantizer.groupRegisters(scaleAddress, zeroAddress, lane);
    return;
  }

  // Scales that are read where they lie.
  Value unit = b.add(b.mul(chunk, layout.units), unitInStage);
  Value column = b.add(b.mul(unit, kUnitColumns), step * kStepColumns);
  auto element = [&](Value pointer, Value index, int64_t bytes) -> Value {
    if (!pointer)
      return {};
    return b.offsetPointer(
        pointer, b.createOrFold<arith::MulIOp>(b.toI64(index), b.i64(bytes)));
  };
  Value zeros = zeroSize ? frame.zeros[weight] : Value();
  if (dequantizer.mode() == ScaleMode::Column) {
    scales.before = dequantizer.columnRegisters(
        element(frame.scales[weight], column, scaleSize / kStripRows),
        element(zeros, column, zeroSize / kStripRows), lane);
    return;
  }
  Value group = b.div(column, block);
  Value row = b.mul(stripOf(stripInTile), total);
  auto registersOf = [&](Value group) {
    Value index = b.add(row, b.min(group, total - 1));
    return dequantizer.groupRegisters(
        element(frame.scales[weight], index, scaleSize),
        element(zeros, index, zeroSize), lane);
  };
  scales.before = registersOf(group);
  if (block % kStepColumns == 0)
    return;
  scales.after = registersOf(b.add(group, 1));
  scales.boundary = b.sub(b.mul(b.add(group, 1), block), column);
}

Values MmaKernel::multiplyUnit(Value stage, Value chunk, Value unitInStage,
                               ValueRange sumsBefore) {
  Values sums(sumsBefore);
  Type element = toMLIR(b, problem.activation);
  int64_t unitBytes = 256 * problem.scheme.element.bits;
  SmallVector<PackedUnit> units;
  SmallVector<StripScales, 0> scales(problem.numWeights * stripsPerWarp());
  for (unsigned j = 0; j != problem.numWeights; ++j)
    for (int64_t strip = 0; strip != stripsPerWarp(); ++strip) {
      Value stripInTile = b.add(b.mul(warpRow, stripsPerWarp()), strip);
      Value address =
          b.add(b.add(b.add(stage, layout.codes + j * layout.perWeight),
                      b.mul(stripInTile, layout.codesPerStrip)),
                b.mul(unitInStage, unitBytes));
      units.emplace_back(b, problem.scheme.element.bits, address, lane);
    }

  // Tokens: a row of 8x8 matrices per tile, 32 columns at a time. Lane 8i + r
  // addresses row r of matrix i. The swizzle follows the address: a segment
  // begins anywhere in a pattern of 8 rows.
  Value matrix = b.div(lane, 8), row, rowAddress;
  for (unsigned two = 0; two != kStepsPerUnit / 2; ++two) {
    if (two % 2 == 0) {
      Value segment = b.add(b.mul(unitInStage, kUnitColumns / 64), two / 2);
      row = b.add(b.mul(segment, segmentRows()), b.bitAnd(lane, 7));
      rowAddress = b.add(stage, b.mul(row, 128));
    }
    Value piece = b.bitXor(b.add(matrix, 4 * (two % 2)), b.bitAnd(row, 7));
    Value address = b.add(rowAddress, b.mul(piece, 16));
    SmallVector<Values> tokens;
    for (int64_t tile = 0; tile != tokenTiles(); ++tile)
      tokens.push_back(b.loadMatrix4(b.add(address, tile * 8 * 128)));
    for (unsigned half = 0; half != 2; ++half) {
      unsigned step = 2 * two + half;
      int64_t chain = step % numChains();
      for (unsigned j = 0; j != problem.numWeights; ++j)
        for (int64_t strip = 0; strip != stripsPerWarp(); ++strip) {
          size_t index = j * stripsPerWarp() + strip;
          StripScales &stripScales = scales[index];
          updateScales(stripScales, j, strip, stage, chunk, unitInStage, step);
          Values a = stripScales.boundary
                         ? dequantizer.fragment(
                               units[index], step, stripScales.before,
                               stripScales.after, stripScales.boundary, lane)
                         : dequantizer.fragment(units[index], step,
                                                stripScales.before);
          for (int64_t tile = 0; tile != tokenTiles(); ++tile) {
            Value *sum = &sums[sumIndex(chain, j, strip, tile, 0)];
            Values product =
                b.mma(element, a, ValueRange(tokens[tile]).slice(2 * half, 2),
                      ValueRange(ArrayRef<Value>(sum, 4)));
            llvm::copy(product, sum);
          }
        }
    }
  }
  return sums;
}

Values MmaKernel::multiplyStage(Value stage, Value chunk, ValueRange sums) {
  PTXBuilder::Scope scope(b, "multiply");
  Values current(sums);
  for (int64_t own = 0; own != unitsPerWarp(); ++own) {
    Value unitInStage = b.add(b.mul(warpK, unitsPerWarp()), own);
    if (!hasRaggedChunk()) {
      current = multiplyUnit(stage, chunk, unitInStage, current);
      continue;
    }
    Value unit = b.add(b.mul(chunk, layout.units), unitInStage);
    current = b.ifElse(
        b.less(unit, frame.numUnits()),
        [&] { return multiplyUnit(stage, chunk, unitInStage, current); },
        [&] { return current; });
  }
  return current;
}

//===----------------------------------------------------------------------===//
// The end
//===----------------------------------------------------------------------===//

/// Adds the parts of the warps and sends each fragment to the CTA that finishes
/// it.
void MmaKernel::sendSums() {
  PTXBuilder::Scope scope(b, "send");
  b.loop(warp, b.i32(layout.fragments), b.i32(numWarps()), [&](Value fragment) {
    Value owner = b.rem(fragment, config.split);
    Value own = b.div(fragment, config.split);
    Value laneOffset = b.mul(lane, 16);
    Value barrier = b.remoteAddress(exchangeBarrier(), owner);
    for (unsigned j = 0; j != problem.numWeights; ++j) {
      Values total;
      for (int64_t part = 0; part != config.warpsK; ++part) {
        Value loaded = b.loadShared(
            VectorType::get({4}, b.f32Type()),
            b.add(partAddress(fragment, j, b.i32(part)), laneOffset), 16);
        for (unsigned e = 0; e != 4; ++e) {
          Value value = b.extract(loaded, e);
          if (part == 0)
            total.push_back(value);
          else
            total[e] = b.addF(total[e], value);
        }
      }
      Value target = b.remoteAddress(
          b.add(exchangeAddress(own, j, rank), laneOffset), owner);
      b.storeRemote(target, total, barrier);
    }
  });
}

void MmaKernel::endTile(ValueRange sums) {
  for (const PipelineAction &action : program.consumeTileEnd)
    switch (action.kind) {
    case Kind::Meet:
      b.syncNamed(1, kWarpLanes * numWarps());
      break;
    case Kind::Deposit:
      depositSums(sums);
      break;
    case Kind::WaitCluster:
      b.clusterWait();
      break;
    case Kind::Send:
      sendSums();
      break;
    case Kind::AwaitSums:
      b.waitBarrierCluster(exchangeBarrier(), b.i32(0));
      break;
    case Kind::Finish:
      finish();
      break;
    default:
      llvm_unreachable("not an action at the end of a tile");
    }
}

void MmaKernel::depositSums(ValueRange sums) {
  PTXBuilder::Scope scope(b, "deposit");
  // Fragment f = strip of the tile * token tiles + token tile; its sums of
  // weight j from the warps along k follow each other.
  for (int64_t strip = 0; strip != stripsPerWarp(); ++strip)
    for (int64_t tile = 0; tile != tokenTiles(); ++tile) {
      Value fragment = b.add(
          b.mul(b.add(b.mul(warpRow, stripsPerWarp()), strip), tokenTiles()),
          tile);
      for (unsigned j = 0; j != problem.numWeights; ++j) {
        Values total;
        for (unsigned e = 0; e != 4; ++e) {
          Value sum = sums[sumIndex(0, j, strip, tile, e)];
          for (int64_t chain = 1; chain != numChains(); ++chain)
            sum = b.addF(sum, sums[sumIndex(chain, j, strip, tile, e)]);
          total.push_back(sum);
        }
        b.storeShared(b.vectorOf(total),
                      b.add(partAddress(fragment, j, warpK), b.mul(lane, 16)),
                      16);
      }
    }
}

void MmaKernel::finish() {
  PTXBuilder::Scope scope(b, "finish");
  bool isSplit = config.split > 1;
  int64_t parts = isSplit ? config.split : config.warpsK;

  // A warp stores two tokens of 16 rows at a time.
  Value row = b.bitAnd(lane, 15), tokenHalf = b.div(lane, 16);
  Value owner = b.add(b.mul(b.bitAnd(row, 7), 4 * 16), b.mul(b.div(row, 8), 8));
  b.loop(warp, ownFragments(), b.i32(numWarps()), [&](Value own) {
    Value fragment = isSplit ? b.add(b.mul(own, config.split), rank) : own;
    Value strip = b.div(fragment, tokenTiles());
    Value tile = b.rem(fragment, tokenTiles());
    Value output = b.add(b.mul(b.add(firstOutput, strip), kStripRows), row);
    if (splitsStrips())
      output = b.sub(output, b.rem(frame.expertRow, kStripRows));
    for (unsigned two = 0; two != 4; ++two) {
      Value first = hasProducer() ? frame.loadedToken() : frame.firstToken;
      Value token =
          b.add(b.add(first, b.mul(tile, 8)), b.add(tokenHalf, 2 * two));
      Value inside = frame.isOfTile(token);
      // Unsigned: rows before the first of an expert are beyond the last, too.
      if (hangsOver() || splitsStrips())
        inside = b.both(inside, b.less(output, problem.n));
      b.ifThen(inside, [&] {
        Values totals;
        Value offset = b.add(b.add(owner, 16 * two), b.mul(tokenHalf, 4));
        for (unsigned j = 0; j != problem.numWeights; ++j) {
          Value total;
          for (int64_t part = 0; part != parts; ++part) {
            Value address = isSplit ? exchangeAddress(own, j, b.i32(part))
                                    : partAddress(own, j, b.i32(part));
            Value value = b.loadShared(b.f32Type(), b.add(address, offset), 4);
            total = total ? b.addF(total, value) : value;
          }
          totals.push_back(total);
        }
        frame.storeResult(dequantizer, output, token, totals);
      });
    }
  });
}

LLVM::LLVMFuncOp MmaKernel::emit() {
  frame.withTile([&] { emitTile(); });
  return frame.function();
}

void MmaKernel::emitTile() {
  base = b.dynamicSharedMemory();
  thread = b.threadIndex();
  lane = b.laneIndex();
  warp = b.warpIndex();
  Value tile = b.div(b.blockIndexX(), config.split);
  rank = b.rem(b.blockIndexX(), config.split);
  int64_t perCTA = numChunks() / config.split,
          more = numChunks() % config.split;
  firstChunk = b.mul(rank, perCTA);
  chunkCount = b.i32(perCTA);
  if (more != 0) {
    firstChunk = b.add(firstChunk, b.min(rank, more));
    chunkCount = b.select(b.less(rank, more), b.i32(perCTA + 1), chunkCount);
  }
  rotation = b.rem(tile, chunkCount);
  firstStrip = firstOutput = b.mul(tile, layout.strips);
  if (problem.isGrouped())
    firstStrip = b.add(b.div(frame.expertRow, kStripRows), firstOutput);

  auto compute = [&](function_ref<Values()> consume) {
    warpRow = b.rem(warp, config.warpsRows);
    warpK = b.div(warp, config.warpsRows);
    dequantizer.fillTable(b.add(base, layout.table), thread,
                          kWarpLanes * numWarps());
    if (dequantizer.mode() == ScaleMode::Channel)
      for (unsigned j = 0; j != problem.numWeights; ++j) {
        auto &registers = channelRegisters.emplace_back();
        for (int64_t strip = 0; strip != stripsPerWarp(); ++strip) {
          Value zeros;
          if (int64_t bytes = kStripRows * getZeroBytes(problem.scheme))
            zeros = b.offsetPointer(
                frame.zeros[j],
                b.mul(stripOf(b.add(b.mul(warpRow, stripsPerWarp()), strip)),
                      bytes));
          registers.push_back(dequantizer.channelRegisters(zeros, lane));
        }
      }
    frame.awaitInputs();
    endTile(consume());
  };
  if (!hasProducer()) {
    compute([&] { return consumeCopied(); });
    return;
  }
  b.ifElse(
      b.equal(warp, numWarps()),
      [&]() -> Values {
        emitProducer();
        return {};
      },
      [&]() -> Values {
        compute([&] { return consumeProduced(); });
        return {};
      });
}

LLVM::LLVMFuncOp quant_llm::emitMmaKernel(
    gpu::GPUModuleOp module, StringRef name, const KernelProblem &problem,
    const KernelConfig &config, const ChipLimits &chip, Region *epilogue) {
  OpBuilder builder(module.getContext());
  return MmaKernel(module, builder, name, problem, config, chip, epilogue)
      .emit();
}
