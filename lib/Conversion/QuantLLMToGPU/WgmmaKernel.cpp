//===- WgmmaKernel.cpp - The wgmma family ---------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Many tokens on Hopper. The product is computed transposed: rows of the weight
// are the M dimension of wgmma, so that the weight can be the operand that
// comes from registers, and tokens are its N dimension.
//
// A CTA stays on its multiprocessor and walks over tiles. Its first warp copies
// weights and activations into two rings; its other warpgroups turn packed
// words into fragments a few chunks ahead of the wgmma that uses them, without
// a stop between tiles. Which warp waits for what, and when it gives a slot
// back, is the program of the plan (Kernels/WgmmaPlan.h).
//
// If the columns of a tile are shared, a cluster works on one tile: its sums
// meet in shared memory, and every warpgroup finishes some of the tokens. With
// experts, too, a CTA has one tile, whose tokens are found on the device.
//
// If tiles are dealt out by their units (Kernels/StreamK.h), a CTA has parts of
// tiles, too. A part that does not end its tile goes to the workspace, thread
// by thread; the CTA that ends the tile adds the parts that others have of it.
//
//===----------------------------------------------------------------------===//

#include "Dequantize.h"
#include "KernelFrame.h"
#include "Kernels.h"
#include "PTXBuilder.h"
#include "quant-llm/Kernels/StreamK.h"
#include "quant-llm/Kernels/WgmmaPlan.h"

#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace quant_llm;

using Kind = PipelineAction::Kind;

namespace {

/// The newest item of a ring: its slot, and the parity of the phase in which it
/// was awaited.
struct Cursor {
  Value slot, parity;
};

/// Rows and tokens of a tile, in units of tiles. Without `tokens` they are
/// those of the CTA's place in the grid.
struct Tile {
  Value rows, tokens;
};

/// What a CTA has of a tile: its number, the units from the first to before the
/// last, and the first unit of what comes next.
struct TilePart {
  Value number;
  Tile tile;
  Value from, to, nextFrom;
};

/// What a consumer carries from one unit to the next.
struct ConsumerState {
  /// Of a row block: two neighbouring tokens of row g, then of row g + 8, for
  /// every 8 tokens.
  SmallVector<Values> sums;
  /// By buffer, step of the chunk and row block; only buffers that are
  /// prepared and not yet multiplied have values.
  SmallVector<SmallVector<SmallVector<Values>>> fragments;
  Cursor weights, activations;
};

class WgmmaEmitter {
public:
  WgmmaEmitter(PTXBuilder &b, KernelFrame &frame, const KernelProblem &problem,
               const KernelConfig &config, const WgmmaPlan &plan)
      : b(b), frame(frame), problem(problem), config(config), plan(plan),
        dequantizer(b, problem, frame.function().getName()),
        element(toMLIR(b, problem.activation)) {}

  void emit();

private:
  unsigned numBlocks() const { return plan.blocksPerConsumer; }

  /// @{ Rings.
  unsigned slots(unsigned ring) { return plan.program.rings[ring].slots; }
  Cursor startOf(unsigned ring) { return {b.i32(slots(ring) - 1), b.i32(1)}; }
  Cursor next(Cursor cursor, unsigned ring);
  /// The slot of the item `back` before the newest.
  Value slotBefore(Cursor cursor, unsigned ring, unsigned back);
  /// Among the slots of all parts.
  Value slotOfAll(unsigned ring, Value slot);
  Value fullBarrier(unsigned ring, Value slot);
  Value emptyBarrier(unsigned ring, Value slot);
  Value slotAddress(unsigned ring, Value slot);
  /// @}

  Value numTiles();
  Tile tileAt(Value index);
  using Deal = StreamDeal<PTXBuilder, Value>;
  void dealTiles();
  /// Calls `body` for every tile of this CTA, or part of one.
  Values walkTiles(ValueRange carried,
                   function_ref<Values(const TilePart &, ValueRange)> body);
  Value firstTokenOf(const Tile &tile) {
    return tile.tokens ? b.mul(tile.tokens, config.tokenTile)
                       : frame.firstToken;
  }
  /// Of a kernel whose sums meet: the tile of the cluster, the units of this
  /// CTA.
  Tile tileOfCluster();
  Value clusterRank() { return b.rem(b.blockIndexX(), plan.split); }
  Value firstUnit(Value rank);

  void emitProducer();
  using Cursors = std::array<Cursor, 2>;
  /// `isFirst` (i1) says that activations may not have been awaited before.
  void produce(ArrayRef<PipelineAction> actions, Cursors &cursors,
               const Tile &tile, Value unit, Value isFirst);
  /// The copies of a unit of weights, or of half a unit of activations.
  void copyWeights(const Tile &tile, Value unit, Value slot);
  void copyActivations(const Tile &tile, Value column, Value slot);

  void emitConsumer();
  Values flatten(const ConsumerState &state);
  ConsumerState unflatten(ValueRange values);
  /// Walks over actions; `unit` is null outside of units, `notFirst` (i1) says
  /// that the unit is not the first of its part of a tile.
  void consume(ArrayRef<PipelineAction> actions, ConsumerState &state,
               unsigned &heldWeights, unsigned &heldActivations, Value unit,
               Value notFirst, const TilePart *current = nullptr);
  void openUnit(const ConsumerState &state, Value unit);
  const ScaleRegisters &registersOf(unsigned block, unsigned step);
  void prepare(const PipelineAction &action, ConsumerState &state);
  void multiply(const PipelineAction &action, ConsumerState &state,
                Value accumulate);

  /// @{ Results of a tile.
  /// The block of 64 rows of the weight, at most the last one.
  Value globalBlock(const Tile &tile, Value blockOfTile);
  void finishTile(const Tile &tile, ArrayRef<Values> sums);
  /// @{ Sums of parts of tiles: leaves them in the workspace, or adds those of
  /// the CTAs before this one and finishes the tile.
  void finishPart(const TilePart &current, ArrayRef<Values> sums);
  void leavePart(ArrayRef<Values> sums);
  SmallVector<Values> addParts(const TilePart &current, ArrayRef<Values> sums);
  Value flagOf(Value cta);
  Value partOf(Value cta, unsigned index);
  /// @}
  void meet(const Tile &tile, ArrayRef<Values> sums);
  /// Stores this warpgroup's range of the tokens of a row block.
  void storeMet(unsigned rowBlock, Value firstRow, const Tile &tile);
  Value stagingAddress();
  /// One value of a staged plane.
  Value wordAddress(Value base, unsigned plane, Value token, Value row);
  /// One pass of a row block: `count` values are what a thread holds of it, of
  /// every plane that is staged. They are asked for in their order when they
  /// are stored: few are on their way at a time.
  void stagePairs(unsigned count, function_ref<Value(unsigned index)> value);
  void stageWords(unsigned planes, unsigned count,
                  function_ref<Value(unsigned plane, unsigned index)> value,
                  unsigned firstPlane = 0);
  /// How the threads of a warpgroup share rows of y: neighbouring rows of a
  /// token at once, threads of a token, tokens of the warpgroup at once.
  struct StoreShape {
    int64_t width, threadsPerToken, tokensAtOnce;
    Type vectorOf(Type type) const {
      return width == 1 ? type : Type(VectorType::get({width}, type));
    }
    unsigned bytesOf(Type type) const {
      return width * type.getIntOrFloatBitWidth() / 8;
    }
  };
  StoreShape storeShape() const;
  /// Finishes and stores the sums (vectors of f32) of all weights.
  void storeSums(const StoreShape &shape, ValueRange sums, Value row,
                 Value token);
  void storePass(const Tile &tile, Value firstRow, int64_t firstCopied,
                 int64_t tokens);
  /// @}

  PTXBuilder &b;
  KernelFrame &frame;
  const KernelProblem &problem;
  const KernelConfig &config;
  const WgmmaPlan &plan;
  Dequantizer dequantizer;
  Type element;

  /// Warps are counted in their warpgroup.
  Value shared, thread, lane, warpgroup, warp;
  /// Of the producer: bytes of a slot of activations, L2 policy of weights.
  Value activationBytes, weightPolicy;
  std::optional<Deal> deal;
  /// Of a kernel whose columns are shared: the part at work, and the units from
  /// the first to before the last of this CTA.
  Value part, unitsFrom, unitsTo;
  /// Of a consumer thread: its warpgroup, counted from 0, the warpgroup's place
  /// along the rows, and the index in it.
  Value consumer, rowGroup, threadInGroup;

  /// The unit that is being prepared: of every row block of this warpgroup its
  /// words, address of scales and zeros, and registers by group.
  struct OpenUnit {
    PackedUnit words;
    Value scales, zeros;
    std::map<unsigned, ScaleRegisters> registers;
  };
  SmallVector<std::unique_ptr<OpenUnit>> open;
  Value openIndex;
  SmallVector<ScaleRegisters> channelRegisters;
};

} // namespace

//===----------------------------------------------------------------------===//
// Rings
//===----------------------------------------------------------------------===//

Cursor WgmmaEmitter::next(Cursor cursor, unsigned ring) {
  Value slot = b.add(cursor.slot, 1);
  Value wraps = b.equal(slot, slots(ring));
  return {b.select(wraps, b.i32(0), slot),
          b.select(wraps, b.bitXor(cursor.parity, b.i32(1)), cursor.parity)};
}

Value WgmmaEmitter::slotBefore(Cursor cursor, unsigned ring, unsigned back) {
  if (back == 0)
    return cursor.slot;
  Value wrapped = b.add(cursor.slot, slots(ring) - back);
  return b.select(b.less(cursor.slot, back), wrapped,
                  b.sub(cursor.slot, b.i32(back)));
}

Value WgmmaEmitter::slotOfAll(unsigned ring, Value slot) {
  return plan.parts == 1 ? slot : b.add(b.mul(part, slots(ring)), slot);
}

// All full barriers, then all empty ones, those of the weights first.
Value WgmmaEmitter::fullBarrier(unsigned ring, Value slot) {
  int64_t first = ring == WgmmaPlan::kWeights ? 0 : plan.parts * slots(0);
  return b.add(b.add(shared, b.mul(slotOfAll(ring, slot), 8)),
               plan.barriersAt + 8 * first);
}
Value WgmmaEmitter::emptyBarrier(unsigned ring, Value slot) {
  int64_t all = plan.parts * (slots(0) + slots(1));
  return b.add(fullBarrier(ring, slot), 8 * all);
}

Value WgmmaEmitter::slotAddress(unsigned ring, Value slot) {
  slot = slotOfAll(ring, slot);
  if (ring == WgmmaPlan::kWeights)
    return b.add(b.add(shared, b.mul(slot, plan.weightSlotBytes)),
                 plan.weightsAt);
  return b.add(b.add(shared, b.mul(slot, plan.activationSlotBytes)),
               plan.activationsAt);
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

static Value ceilDiv(PTXBuilder &b, Value value, int64_t divisor) {
  return b.div(b.add(value, divisor - 1), divisor);
}

Value WgmmaEmitter::numTiles() {
  return b.mul(ceilDiv(b, frame.m, config.tokenTile), plan.rowTiles);
}

/// Bands of tokens whose activations stay in L2; in a band the tiles of the
/// same weights follow each other.
Tile WgmmaEmitter::tileAt(Value index) {
  PTXBuilder::Scope scope(b, "tile");
  Value tokenTiles = ceilDiv(b, frame.m, config.tokenTile);
  Value band = b.div(index, plan.bandTiles * plan.rowTiles);
  Value first = b.mul(band, plan.bandTiles);
  Value inBand = b.sub(index, b.mul(first, plan.rowTiles));
  Value width = b.min(b.sub(tokenTiles, first), plan.bandTiles);
  Value rows = b.div(inBand, width);
  return {rows, b.add(first, b.sub(inBand, b.mul(rows, width)))};
}

void WgmmaEmitter::dealTiles() {
  PTXBuilder::Scope scope(b, "deal");
  deal.emplace(b, numTiles(), b.min(b.gridSizeX(), kMostStreamCTAs),
               b.blockIndexX(), plan.units, plan.mostDealt);
}

Values WgmmaEmitter::walkTiles(
    ValueRange carried,
    function_ref<Values(const TilePart &, ValueRange)> body) {
  Value first = b.i32(0), end = b.i32(plan.units);
  if (problem.isGrouped())
    return body({Value(), tileOfCluster(), first, end, first}, carried);
  if (!plan.streams)
    return b.loop(b.blockIndexX(), numTiles(), b.gridSizeX(), carried,
                  [&](Value number, ValueRange carried) {
                    return body({number, tileAt(number), first, end, first},
                                carried);
                  });
  Value takesPart = b.less(b.blockIndexX(), kMostStreamCTAs);
  Value count = b.select(takesPart, deal->getCount(), b.i32(0));
  return b.loop(
      b.i32(0), count, b.i32(1), carried, [&](Value index, ValueRange carried) {
        Value number = deal->getTile(index);
        return body({number, tileAt(number), deal->getFrom(index),
                     deal->getTo(index), deal->getFrom(b.add(index, 1))},
                    carried);
      });
}

Tile WgmmaEmitter::tileOfCluster() {
  return {b.div(b.blockIndexX(), plan.split), Value()};
}

Value WgmmaEmitter::firstUnit(Value rank) {
  return b.div(b.mul(rank, plan.units), plan.split);
}

/// Blocks beyond the last one repeat it: what they give is not stored.
Value WgmmaEmitter::globalBlock(const Tile &tile, Value blockOfTile) {
  int64_t perTile = config.rowTile / 64;
  Value block = b.add(b.mul(tile.rows, perTile), blockOfTile);
  return plan.rowBlocks % perTile == 0 ? block
                                       : b.min(block, plan.rowBlocks - 1);
}

//===----------------------------------------------------------------------===//
// Producer
//===----------------------------------------------------------------------===//

void WgmmaEmitter::copyWeights(const Tile &tile, Value unit, Value slot) {
  PTXBuilder::Scope scope(b, "copy_weights");
  int64_t strips = plan.blocks * 4;
  Value barrier = fullBarrier(WgmmaPlan::kWeights, slot);
  Value destination = slotAddress(WgmmaPlan::kWeights, slot);

  // Bytes of one strip and unit; the last unit may have fewer groups.
  int64_t lastGroups = plan.groups - (plan.units - 1) * plan.groupsPerUnit;
  bool isRagged = plan.groupsPerUnit > 1 && lastGroups < plan.groupsPerUnit;
  auto inUnit = [&](int64_t bytes) {
    Value all = b.i32(bytes);
    if (!isRagged || bytes == 0)
      return all;
    return b.select(b.equal(unit, plan.units - 1),
                    b.i32(bytes / plan.groupsPerUnit * lastGroups), all);
  };
  Value scaleBytes = inUnit(plan.scaleStripBytes);
  Value zeroBytes = inUnit(plan.zeroStripBytes);
  Value bytes = b.add(b.mul(b.add(scaleBytes, zeroBytes), strips),
                      strips * plan.packedStripBytes);
  b.arriveExpect(barrier, bytes);

  Value group = b.div(unit, plan.unitsPerGroup);
  for (unsigned index = 0; index < plan.blocks; ++index) {
    unsigned weight = index % problem.numWeights;
    Value block = globalBlock(tile, b.i32(index / problem.numWeights));
    Value firstStrip = b.mul(block, 4);
    if (problem.isGrouped())
      firstStrip = b.add(b.div(frame.expertRow, kStripRows), firstStrip);
    Value strip = b.toI64(firstStrip);
    auto copy = [&](Value pointer, int64_t offset, int64_t stripStride,
                    Value unitOffset, int64_t unitBytes, Value validBytes) {
      Value base =
          b.offsetPointer(pointer, b.add(b.mul(strip, b.i64(stripStride)),
                                         b.toI64(unitOffset)));
      for (unsigned i = 0; i < 4; ++i) {
        Value to = b.add(destination, offset + (4 * index + i) * unitBytes);
        b.bulkCopy(to, b.offsetPointer(base, b.i64(i * stripStride)),
                   validBytes, barrier, weightPolicy);
      }
    };
    copy(frame.packed[weight], 0, plan.units * plan.packedStripBytes,
         b.mul(unit, plan.packedStripBytes), plan.packedStripBytes,
         b.i32(plan.packedStripBytes));
    if (plan.scalesInLoop)
      copy(frame.scales[weight], plan.scalesOffset,
           plan.groups * plan.scaleStripBytes / plan.groupsPerUnit,
           b.mul(group, plan.scaleStripBytes), plan.scaleStripBytes,
           scaleBytes);
    if (plan.zerosInLoop)
      copy(frame.zeros[weight], plan.zerosOffset,
           plan.groups * plan.zeroStripBytes / plan.groupsPerUnit,
           b.mul(group, plan.zeroStripBytes), plan.zeroStripBytes, zeroBytes);
  }
}

void WgmmaEmitter::copyActivations(const Tile &tile, Value column, Value slot) {
  PTXBuilder::Scope scope(b, "copy_activations");
  Value barrier = fullBarrier(WgmmaPlan::kActivations, slot);
  // Columns beyond K arrive as zeros. Tokens beyond the last are zeros or
  // leftovers: they are columns of the product that are not stored.
  b.arriveExpect(barrier, activationBytes);
  b.tensorCopy(slotAddress(WgmmaPlan::kActivations, slot), frame.tensorMapX,
               ValueRange{column, frame.loadedTokenOf(firstTokenOf(tile))},
               barrier);
}

/// A producer waits for the other parity.
void WgmmaEmitter::produce(ArrayRef<PipelineAction> actions, Cursors &cursors,
                           const Tile &tile, Value unit, Value isFirst) {
  unsigned halves = 0;
  for (const PipelineAction &action : actions) {
    Cursor &cursor = cursors[action.ring];
    switch (action.kind) {
    case Kind::WaitEmpty:
      cursor = next(cursor, action.ring);
      b.waitBarrier(emptyBarrier(action.ring, cursor.slot),
                    b.bitXor(cursor.parity, b.i32(1)));
      break;
    case Kind::Fill:
      if (action.ring == WgmmaPlan::kWeights) {
        copyWeights(tile, unit, cursor.slot);
        break;
      }
      if (halves == 0)
        b.ifThen(isFirst, [&] { frame.awaitInputs(); });
      copyActivations(
          tile, b.add(b.mul(unit, kUnitColumns), WgmmaPlan::kHalf * halves++),
          cursor.slot);
      break;
    default:
      // Kind::Announce.
      b.arrive(fullBarrier(action.ring, cursor.slot));
      break;
    }
  }
}

void WgmmaEmitter::emitProducer() {
  PTXBuilder::Scope scope(b, "producer");
  // In each role, as few registers lead from before the roles into them.
  if (plan.streams)
    dealTiles();
  Value oneTokenTile = b.less(frame.m, b.i32(config.tokenTile + 1));
  weightPolicy =
      b.select(oneTokenTile, b.evictFirstPolicy(), b.evictNormalPolicy());

  // The box of the tensor map never has more tokens than there are.
  activationBytes =
      b.mul(b.min(frame.m, config.tokenTile), WgmmaPlan::kHalf * 2);

  auto toValues = [](const Cursors &cursors) {
    return Values{cursors[0].slot, cursors[0].parity, cursors[1].slot,
                  cursors[1].parity};
  };
  auto fromValues = [](ValueRange c) {
    return Cursors{Cursor{c[0], c[1]}, Cursor{c[2], c[3]}};
  };
  Cursors start = {startOf(0), startOf(1)};

  if (plan.sumsMeet()) {
    // The units of this CTA in the order of their columns, and then an end for
    // every part. In a round all parts are at the same slots of their rings.
    Tile tile = tileOfCluster();
    Values carried = toValues(start);
    carried.push_back(b.i32(0));
    b.loop(unitsFrom, b.add(unitsTo, plan.parts), b.i32(1), carried,
           [&](Value unit, ValueRange values) -> Values {
             part = values[4];
             Cursors before = fromValues(values.take_front(4)), after = before;
             b.ifElse(
                 b.less(unit, unitsTo),
                 [&] {
                   Cursors cursors = before;
                   produce(plan.program.produceUnit, cursors, tile, unit,
                           b.equal(unit, unitsFrom));
                   return Values();
                 },
                 [&] {
                   Cursors cursors = before;
                   produce(plan.program.produceEnd, cursors, tile, Value(),
                           Value());
                   return Values();
                 });
             for (const PipelineAction &action : plan.program.produceUnit)
               if (action.kind == Kind::WaitEmpty)
                 after[action.ring] = next(after[action.ring], action.ring);
             Value isLast = b.equal(part, plan.parts - 1);
             Values result;
             for (auto [stay, go] :
                  llvm::zip(toValues(before), toValues(after)))
               result.push_back(b.select(isLast, go, stay));
             result.push_back(b.select(isLast, b.i32(0), b.add(part, 1)));
             return result;
           });
    return;
  }

  Values left =
      walkTiles(toValues(start), [&](const TilePart &has, ValueRange atTile) {
        return b.loop(has.from, has.to, b.i32(1), atTile,
                      [&](Value unit, ValueRange values) {
                        Cursors cursors = fromValues(values);
                        // Once for each tile, so that no register has to know
                        // whether it has been.
                        produce(plan.program.produceUnit, cursors, has.tile,
                                unit, b.equal(unit, has.from));
                        return toValues(cursors);
                      });
      });
  Cursors last = fromValues(left);
  produce(plan.program.produceEnd, last, Tile(), Value(), Value());
}

//===----------------------------------------------------------------------===//
// Consumers
//===----------------------------------------------------------------------===//

Values WgmmaEmitter::flatten(const ConsumerState &state) {
  Values values;
  for (const Values &sums : state.sums)
    llvm::append_range(values, sums);
  // Between units the first buffers are prepared, the others are not needed.
  for (unsigned buffer = 0; buffer < plan.ahead; ++buffer)
    for (const auto &step : state.fragments[buffer])
      for (const Values &fragment : step)
        llvm::append_range(values, fragment);
  for (const Cursor &cursor : {state.weights, state.activations})
    llvm::append_range(values, Values{cursor.slot, cursor.parity});
  return values;
}

ConsumerState WgmmaEmitter::unflatten(ValueRange values) {
  ConsumerState state;
  auto take = [&](unsigned count) {
    Values taken(values.take_front(count));
    values = values.drop_front(count);
    return taken;
  };
  for (unsigned block = 0; block < numBlocks(); ++block)
    state.sums.push_back(take(config.tokenTile / 2));
  state.fragments.resize(plan.buffers);
  for (unsigned buffer = 0; buffer < plan.ahead; ++buffer) {
    state.fragments[buffer].resize(plan.chunkSteps);
    for (auto &step : state.fragments[buffer])
      for (unsigned block = 0; block < numBlocks(); ++block)
        step.push_back(take(4));
  }
  for (Cursor *cursor : {&state.weights, &state.activations}) {
    Values both = take(2);
    *cursor = {both[0], both[1]};
  }
  return state;
}

/// Addresses of the newest unit of weights; nothing is loaded yet.
void WgmmaEmitter::openUnit(const ConsumerState &state, Value unit) {
  Value slot = slotAddress(WgmmaPlan::kWeights, state.weights.slot);
  open.clear();
  openIndex = unit;
  for (unsigned block = 0; block < numBlocks(); ++block) {
    // Four strips a block, one for each warp.
    Value strip =
        b.add(b.mul(b.add(b.mul(rowGroup, numBlocks()), block), 4), warp);
    auto at = [&](int64_t offset, int64_t bytes) {
      return b.add(b.add(slot, b.mul(strip, bytes)), offset);
    };
    open.push_back(std::make_unique<OpenUnit>(OpenUnit{
        PackedUnit(b, problem.scheme.element.bits, at(0, plan.packedStripBytes),
                   lane),
        plan.scalesInLoop ? at(plan.scalesOffset, plan.scaleStripBytes)
                          : Value(),
        plan.zerosInLoop ? at(plan.zerosOffset, plan.zeroStripBytes) : Value(),
        {}}));
  }
}

const ScaleRegisters &WgmmaEmitter::registersOf(unsigned block, unsigned step) {
  OpenUnit &unit = *open[block];
  unsigned group = step * plan.groupsPerUnit / kStepsPerUnit;
  auto [it, isNew] = unit.registers.try_emplace(group);
  if (!isNew)
    return it->second;
  PTXBuilder::Scope scope(b, "scales");
  // Columns beyond K have no group: the last one's scale is as good for them,
  // as activations are zero there, and it is a number.
  int64_t lastGroups = plan.groups - (plan.units - 1) * plan.groupsPerUnit;
  auto at = [&](Value base, int64_t stripBytes) {
    int64_t bytes = stripBytes / plan.groupsPerUnit;
    if (plan.groupsPerUnit == 1 || group < lastGroups)
      return b.add(base, group * bytes);
    Value isLast = b.equal(openIndex, plan.units - 1);
    return b.add(base, b.select(isLast, b.i32((lastGroups - 1) * bytes),
                                b.i32(group * bytes)));
  };
  Value zeros =
      plan.zerosInLoop ? at(unit.zeros, plan.zeroStripBytes) : Value();
  it->second = plan.scalesInLoop
                   ? dequantizer.groupRegisters(
                         at(unit.scales, plan.scaleStripBytes), zeros, lane)
                   : dequantizer.channelRegisters(zeros, lane);
  return it->second;
}

void WgmmaEmitter::prepare(const PipelineAction &action, ConsumerState &state) {
  auto &buffer = state.fragments[action.buffer];
  buffer.assign(plan.chunkSteps, {});
  for (unsigned i = 0; i < plan.chunkSteps; ++i) {
    unsigned step = action.chunk * plan.chunkSteps + i;
    for (unsigned block = 0; block < numBlocks(); ++block)
      buffer[i].push_back(dequantizer.fragment(open[block]->words, step,
                                               registersOf(block, step)));
  }
}

void WgmmaEmitter::multiply(const PipelineAction &action, ConsumerState &state,
                            Value accumulate) {
  PTXBuilder::Scope scope(b, "multiply");
  // Rows (tokens) of 128 bytes in groups of 8 that are 1024 bytes apart, with
  // the 128-byte swizzle.
  constexpr int64_t descriptorBits =
      int64_t(1) << 16 | int64_t(1024 >> 4) << 32 | int64_t(1) << 62;
  Value address = b.shiftRight(
      slotAddress(WgmmaPlan::kActivations, state.activations.slot), 4);
  Value descriptor = b.bitOr(b.toI64(address), b.i64(descriptorBits));
  b.wgmmaFence();
  for (unsigned i = 0; i < plan.chunkSteps; ++i) {
    unsigned step = action.chunk * plan.chunkSteps + i;
    int64_t column = step % WgmmaPlan::kHalfSteps * (16 * 2);
    Value operand = b.add(descriptor, b.i64(column >> 4));
    for (unsigned block = 0; block < numBlocks(); ++block)
      state.sums[block] = b.wgmma(element, state.sums[block],
                                  state.fragments[action.buffer][i][block],
                                  operand, step == 0 ? accumulate : b.i32(1));
  }
  b.wgmmaCommit();
  state.fragments[action.buffer].clear();
}

void WgmmaEmitter::consume(ArrayRef<PipelineAction> actions,
                           ConsumerState &state, unsigned &heldWeights,
                           unsigned &heldActivations, Value unit,
                           Value notFirst, const TilePart *current) {
  for (const PipelineAction &action : actions) {
    bool isWeights = action.ring == WgmmaPlan::kWeights;
    Cursor &cursor = isWeights ? state.weights : state.activations;
    unsigned &held = isWeights ? heldWeights : heldActivations;
    switch (action.kind) {
    case Kind::WaitFull: {
      cursor = next(cursor, action.ring);
      ++held;
      b.waitBarrier(fullBarrier(action.ring, cursor.slot), cursor.parity);
      if (isWeights) {
        // Inside a unit this is the following one, perhaps of the next tile.
        Value opened = plan.sumsMeet() ? b.add(unitsFrom, part)
                       : plan.streams  ? deal->getFrom(b.i32(0))
                                       : b.i32(0);
        if (unit && plan.sumsMeet()) {
          opened = b.add(unit, plan.parts);
        } else if (unit && plan.units > 1) {
          opened = b.add(unit, 1);
          opened =
              b.select(b.equal(opened, current->to), current->nextFrom, opened);
        }
        openUnit(state, opened);
      }
      break;
    }
    case Kind::Release: {
      Value barrier =
          emptyBarrier(action.ring, slotBefore(cursor, action.ring, held - 1));
      --held;
      Value mayArrive = b.equal(lane, 0);
      if (action.notInFirstUnit)
        mayArrive = b.both(mayArrive, notFirst);
      b.ifThen(mayArrive, [&] { b.arrive(barrier); });
      break;
    }
    case Kind::Prepare:
      prepare(action, state);
      break;
    case Kind::Multiply:
      multiply(action, state, arith::ExtUIOp::create(b, b.i32Type(), notFirst));
      break;
    case Kind::WaitGroups:
      if (action.chunk > 0) {
        b.wgmmaWait(action.chunk);
        break;
      } else {
        Values all;
        for (const Values &sums : state.sums)
          llvm::append_range(all, sums);
        ValueRange complete = all = b.wgmmaWaitAll(all);
        for (Values &sums : state.sums) {
          sums = Values(complete.take_front(sums.size()));
          complete = complete.drop_front(sums.size());
        }
      }
      break;
    case Kind::Meet:
      b.syncNamed(plan.consumers + 1, 128 * plan.consumers);
      break;
    default:
      break;
    }
  }
}

void WgmmaEmitter::emitConsumer() {
  PTXBuilder::Scope scope(b, "consumer");
  const PipelineProgram &program = plan.program;
  consumer = b.sub(warpgroup, b.i32(1));
  part = b.div(consumer, plan.consumersPerPart());
  rowGroup =
      plan.parts == 1 ? consumer : b.rem(consumer, plan.consumersPerPart());
  threadInGroup = b.bitAnd(thread, 127);
  if (plan.streams)
    dealTiles();

  ConsumerState start;
  Value undefined = LLVM::UndefOp::create(b, b.f32Type());
  start.sums.assign(numBlocks(), Values(config.tokenTile / 2, undefined));
  start.fragments.resize(plan.buffers);
  start.weights = startOf(WgmmaPlan::kWeights);
  start.activations = startOf(WgmmaPlan::kActivations);
  unsigned heldWeights = 0, heldActivations = 0;
  consume(program.consumeStart, start, heldWeights, heldActivations, Value(),
          Value());
  // Here the first weights are ready for the first product, which has to wait
  // for activations in any case.
  frame.awaitInputs();

  // Slots of activations that are still in use when a unit that is not the
  // first begins.
  unsigned leftActivations =
      llvm::count_if(program.consumeTileEnd, [](const PipelineAction &action) {
        return action.kind == Kind::Release;
      });
  auto consumeUnits = [&](Value from, Value to, ValueRange before,
                          const TilePart *current) {
    return b.loop(from, to, b.i32(plan.parts), before,
                  [&](Value unit, ValueRange carried) {
                    ConsumerState state = unflatten(carried);
                    unsigned weightsHere = heldWeights,
                             activationsHere = leftActivations;
                    openUnit(state, unit);
                    Value notFirst = b.less(from, unit);
                    consume(program.consumeUnit, state, weightsHere,
                            activationsHere, unit, notFirst, current);
                    return flatten(state);
                  });
  };
  auto endTile = [&](ConsumerState &state) {
    unsigned weightsHere = heldWeights, activationsHere = leftActivations;
    consume(program.consumeTileEnd, state, weightsHere, activationsHere,
            Value(), Value());
  };
  if (plan.sumsMeet()) {
    ConsumerState state = unflatten(
        consumeUnits(b.add(unitsFrom, part), unitsTo, flatten(start), nullptr));
    endTile(state);
    meet(tileOfCluster(), state.sums);
    return;
  }
  walkTiles(flatten(start), [&](const TilePart &has, ValueRange atTile) {
    ConsumerState state =
        unflatten(consumeUnits(has.from, has.to, atTile, &has));
    endTile(state);
    if (plan.streams) {
      finishPart(has, state.sums);
      // Beside those with other parts added there is no room for these.
      state.sums = start.sums;
    } else {
      finishTile(has.tile, state.sums);
    }
    return flatten(state);
  });
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

Value WgmmaEmitter::stagingAddress() {
  return b.add(b.add(shared, b.mul(consumer, plan.stagingBytes)),
               plan.stagingAt);
}

/// The named barrier of the threads of this warpgroup, with its number. That is
/// computed on the spot: a number that is kept would take a register of the
/// epilogue, which has none to spare.
static void syncWarpgroup(PTXBuilder &b) {
  b.inlineAsm("{\n.reg .b32 warpgroup;\nmov.u32 warpgroup, %tid.x;\n"
              "shr.u32 warpgroup, warpgroup, 7;\n"
              "bar.sync warpgroup, 128;\n}",
              {}, {}, /*hasSideEffects=*/true);
}

Value WgmmaEmitter::flagOf(Value cta) {
  return b.offsetPointer(frame.workspace,
                         b.add(b.mul(cta, 16), b.mul(consumer, 4)));
}

/// Four sums of every thread lie together.
Value WgmmaEmitter::partOf(Value cta, unsigned index) {
  int64_t ofConsumer = plan.partBytes / plan.consumers;
  Value bytes = b.add(
      b.mul(b.toI64(cta), b.i64(plan.partBytes)),
      b.toI64(b.add(b.mul(consumer, ofConsumer), b.mul(threadInGroup, 16))));
  return b.offsetPointer(
      frame.workspace,
      b.add(bytes, b.i64(kStreamFlagBytes + int64_t(index / 4) * 128 * 16)));
}

void WgmmaEmitter::leavePart(ArrayRef<Values> sums) {
  PTXBuilder::Scope scope(b, "leave");
  Value cta = b.blockIndexX();
  unsigned index = 0;
  for (const Values &ofBlock : sums)
    for (unsigned i = 0; i < ofBlock.size(); i += 4, index += 4)
      b.store(b.vectorOf(ValueRange(ofBlock).slice(i, 4)), partOf(cta, index),
              16);
  syncWarpgroup(b);
  b.ifThen(b.equal(threadInGroup, 0), [&] { b.setFlag(flagOf(cta)); });
}

SmallVector<Values> WgmmaEmitter::addParts(const TilePart &current,
                                           ArrayRef<Values> sums) {
  PTXBuilder::Scope scope(b, "add_parts");
  Values all;
  for (const Values &ofBlock : sums)
    llvm::append_range(all, ofBlock);
  Value cta = b.blockIndexX();
  Value first = b.select(b.less(b.i32(0), current.from),
                         deal->getFirstCTA(current.number), cta);
  all = b.loop(first, cta, b.i32(1), all, [&](Value other, ValueRange carried) {
    b.ifThen(b.equal(threadInGroup, 0), [&] { b.takeFlag(flagOf(other)); });
    syncWarpgroup(b);
    Values added;
    Type vector = VectorType::get({4}, b.f32Type());
    for (unsigned i = 0; i < carried.size(); i += 4) {
      Value loaded = b.load(vector, partOf(other, i), 16);
      for (unsigned j = 0; j < 4; ++j)
        added.push_back(b.addF(carried[i + j], b.extract(loaded, j)));
    }
    return added;
  });
  SmallVector<Values> result;
  ValueRange left = all;
  for (const Values &ofBlock : sums) {
    result.push_back(Values(left.take_front(ofBlock.size())));
    left = left.drop_front(ofBlock.size());
  }
  return result;
}

void WgmmaEmitter::finishPart(const TilePart &current, ArrayRef<Values> sums) {
  b.ifElse(
      b.less(current.to, plan.units),
      [&] {
        leavePart(sums);
        return Values();
      },
      [&] {
        finishTile(current.tile, addParts(current, sums));
        return Values();
      });
}

void WgmmaEmitter::finishTile(const Tile &tile, ArrayRef<Values> sums) {
  PTXBuilder::Scope scope(b, "results");
  unsigned rowBlocks = numBlocks() / problem.numWeights;
  for (unsigned rowBlock = 0; rowBlock < rowBlocks; ++rowBlock) {
    ArrayRef<Values> ofBlock =
        sums.slice(rowBlock * problem.numWeights, problem.numWeights);
    Value block = b.add(b.mul(tile.rows, config.rowTile / 64),
                        b.add(b.mul(consumer, rowBlocks), rowBlock));
    Value firstRow = b.mul(block, 64);

    // Rows g and g + 8 of this warp's 16; beyond N, the last one.
    Value factors[2][2];
    Values operands[2];
    for (unsigned half : {0u, 1u}) {
      Value row = b.add(b.add(firstRow, b.mul(warp, 16)),
                        b.add(b.div(lane, 4), 8 * half));
      if (problem.n % 64 != 0 || plan.rowBlocks % (config.rowTile / 64) != 0)
        row = b.min(row, problem.n - 1);
      for (unsigned j = 0; j < problem.numWeights; ++j)
        factors[half][j] = frame.sumFactor(dequantizer, j, row);
      if (plan.stagesSums)
        continue;
      for (unsigned i = 0; i < problem.epilogue.size(); ++i)
        operands[half].push_back(
            b.load(frame.operandType(i), frame.operandPointer(i, row, Value()),
                   frame.operandType(i).getIntOrFloatBitWidth() / 8));
    }

    for (int64_t first = 0; first < config.tokenTile;
         first += plan.stagingTokens) {
      int64_t tokens = std::min(plan.stagingTokens, config.tokenTile - first);
      // Until the last pass has been read.
      syncWarpgroup(b);
      auto sumOf = [&](unsigned j, unsigned index) {
        unsigned i = first / 2 + index;
        return b.mulF(ofBlock[j][i], factors[i / 2 % 2][j]);
      };
      auto resultOf = [&](unsigned index) {
        Values ofWeights;
        for (unsigned j = 0; j < problem.numWeights; ++j)
          ofWeights.push_back(sumOf(j, index));
        return frame.finish(ofWeights, operands[index / 2 % 2]);
      };
      unsigned count = tokens / 2;
      if (plan.stagesSums)
        stageWords(problem.numWeights, count, sumOf);
      else if (plan.stagesWords)
        stageWords(1, count,
                   [&](unsigned, unsigned index) { return resultOf(index); });
      else
        stagePairs(count, resultOf);
      syncWarpgroup(b);
      storePass(tile, firstRow, first, tokens);
    }
  }
}

/// Two results as one word.
static Value packResults(PTXBuilder &b, Value low, Value high) {
  // Two conversions are one instruction if they are one operation.
  auto lowTrunc = low.getDefiningOp<arith::TruncFOp>();
  auto highTrunc = high.getDefiningOp<arith::TruncFOp>();
  Value both =
      lowTrunc && highTrunc && lowTrunc.getIn().getType().isF32() &&
              highTrunc.getIn().getType().isF32()
          ? b.packPair(low.getType(), lowTrunc.getIn(), highTrunc.getIn())
          : b.vectorOf({low, high});
  return b.bitcast(both, b.i32Type());
}

/// 16-bit results: a token has 128 bytes, whose pieces of 16 bytes are swizzled
/// by the token, so that neither side of the exchange has bank conflicts.
void WgmmaEmitter::stagePairs(unsigned count,
                              function_ref<Value(unsigned index)> value) {
  PTXBuilder::Scope scope(b, "stage");
  // Matrices 0 and 1 are rows 0..7 and 8..15 of this warp's 16, for 8 tokens; 2
  // and 3 the same for the next 8 tokens.
  Value matrix = b.div(lane, 8), token = b.bitAnd(lane, 7);
  Value piece = b.add(b.mul(warp, 2), b.bitAnd(matrix, 1));
  Value address =
      b.add(b.add(stagingAddress(),
                  b.mul(b.add(b.mul(b.div(matrix, 2), 8), token), 128)),
            b.mul(b.bitXor(piece, token), 16));
  for (unsigned i = 0; i < count; i += 8) {
    Values matrices;
    for (unsigned pair = i; pair < i + 8; pair += 2) {
      Value low = value(pair);
      matrices.push_back(packResults(b, low, value(pair + 1)));
    }
    b.storeMatrix4Transposed(b.add(address, i * 2 * 128), matrices);
  }
}

/// The place of (token, row) among 32-bit values: of a token 64 in a row, whose
/// groups of 8 are swizzled by the token.
static Value wordOffset(PTXBuilder &b, Value token, Value row) {
  Value swizzle = b.mul(b.bitAnd(b.div(token, 2), 3), 32);
  return b.add(b.mul(token, 256), b.bitXor(b.mul(row, 4), swizzle));
}

Value WgmmaEmitter::wordAddress(Value base, unsigned plane, Value token,
                                Value row) {
  return b.add(b.add(base, wordOffset(b, token, row)),
               plane * plan.stagingTokens * 256);
}

void WgmmaEmitter::stageWords(
    unsigned planes, unsigned count,
    function_ref<Value(unsigned plane, unsigned index)> value,
    unsigned firstPlane) {
  PTXBuilder::Scope scope(b, "stage");
  Value token = b.mul(b.bitAnd(lane, 3), 2);
  Value base = stagingAddress();
  SmallVector<Value> addresses[2];
  for (unsigned half : {0u, 1u}) {
    Value row = b.add(b.mul(warp, 16), b.add(b.div(lane, 4), 8 * half));
    for (unsigned j = 0; j < planes; ++j)
      addresses[half].push_back(wordAddress(base, firstPlane + j, token, row));
  }
  // Two neighbouring tokens of both rows, of every 8 tokens.
  for (unsigned i = 0; i < count; ++i)
    for (unsigned j = 0; j < planes; ++j)
      b.storeShared(value(j, i),
                    b.add(addresses[i / 2 % 2][j], (i / 4 * 8 + i % 2) * 256),
                    4);
}

/// Every thread stores as many neighbouring rows at once as 16 bytes and the
/// length of rows of y allow.
void WgmmaEmitter::storePass(const Tile &tile, Value firstRow,
                             int64_t firstCopied, int64_t tokens) {
  PTXBuilder::Scope scope(b, "store");
  Type output = toMLIR(b, problem.output);
  StoreShape shape = storeShape();
  Value token = b.div(threadInGroup, shape.threadsPerToken);
  Value row = b.mul(b.rem(threadInGroup, shape.threadsPerToken), shape.width);
  Value base = stagingAddress();
  Value globalRow = b.add(firstRow, row);

  // A staged value is a result, or the sums of all weights.
  auto loadStaged = [&](Value token, unsigned plane) {
    if (plan.stagesWords)
      return b.loadShared(shape.vectorOf(b.f32Type()),
                          wordAddress(base, plane, token, row),
                          4 * shape.width);
    Value piece = b.bitXor(b.div(row, 8), b.bitAnd(token, 7));
    Value offset = b.add(b.add(b.mul(token, 128), b.mul(piece, 16)),
                         b.mul(b.bitAnd(row, 7), 2));
    return b.loadShared(shape.vectorOf(output), b.add(base, offset),
                        2 * shape.width);
  };
  Value isRow = b.less(globalRow, problem.n);
  auto store = [&](Value step) {
    Value inPass = b.add(token, step);
    Value firstToken = firstTokenOf(tile);
    Value globalToken =
        b.add(b.add(frame.loadedTokenOf(firstToken), inPass), firstCopied);
    Value isInside = b.both(isRow, frame.isTokenFrom(firstToken, globalToken));
    b.ifThen(isInside, [&] {
      if (plan.stagesSums) {
        Values sums;
        for (unsigned j = 0; j < problem.numWeights; ++j)
          sums.push_back(loadStaged(inPass, j));
        storeSums(shape, sums, globalRow, globalToken);
      } else {
        b.store(loadStaged(inPass, 0),
                frame.resultPointer(globalRow, globalToken),
                shape.bytesOf(output));
      }
    });
  };
  if (tokens / shape.tokensAtOnce <= 8) {
    for (int64_t step = 0; step < tokens; step += shape.tokensAtOnce)
      store(b.i32(step));
  } else {
    b.loop(b.i32(0), b.i32(tokens), b.i32(shape.tokensAtOnce), store);
  }
}

WgmmaEmitter::StoreShape WgmmaEmitter::storeShape() const {
  StoreShape shape;
  shape.width = plan.stagesWords ? 4 : 8;
  while (problem.n % shape.width != 0)
    shape.width /= 2;
  shape.threadsPerToken = 64 / shape.width;
  shape.tokensAtOnce = 128 / shape.threadsPerToken;
  return shape;
}

void WgmmaEmitter::storeSums(const StoreShape &shape, ValueRange sums,
                             Value row, Value token) {
  SmallVector<Value> operands;
  for (unsigned i = 0; i < problem.epilogue.size(); ++i) {
    Type type = frame.operandType(i);
    operands.push_back(b.load(shape.vectorOf(type),
                              frame.operandPointer(i, row, token),
                              shape.bytesOf(type)));
  }
  Values results;
  for (unsigned i = 0; i < shape.width; ++i) {
    auto pick = [&](ValueRange vectors) {
      Values elements;
      for (Value vector : vectors)
        elements.push_back(shape.width == 1 ? vector : b.extract(vector, i));
      return elements;
    };
    results.push_back(frame.finish(pick(sums), pick(operands)));
  }
  b.store(shape.width == 1 ? results.front() : b.vectorOf(results),
          frame.resultPointer(row, token),
          shape.bytesOf(toMLIR(b, problem.output)));
}

/// Every warpgroup of the cluster stages its sums. Then each takes a range of
/// the tokens of its rows, and adds what all parts have of it, in their order.
void WgmmaEmitter::meet(const Tile &tile, ArrayRef<Values> sums) {
  PTXBuilder::Scope scope(b, "meet");
  unsigned rowBlocks = numBlocks() / problem.numWeights;
  auto firstRowOf = [&](unsigned rowBlock) {
    Value block = b.add(b.mul(tile.rows, config.rowTile / 64),
                        b.add(b.mul(rowGroup, rowBlocks), rowBlock));
    return b.mul(block, 64);
  };
  for (unsigned rowBlock = 0; rowBlock < rowBlocks; ++rowBlock) {
    Value factors[2][2];
    for (unsigned half : {0u, 1u}) {
      Value row = b.add(b.add(firstRowOf(rowBlock), b.mul(warp, 16)),
                        b.add(b.div(lane, 4), 8 * half));
      row = b.min(row, problem.n - 1);
      for (unsigned j = 0; j < problem.numWeights; ++j)
        factors[half][j] = frame.sumFactor(dequantizer, j, row);
    }
    unsigned firstPlane = rowBlock * problem.numWeights;
    stageWords(
        problem.numWeights, config.tokenTile / 2,
        [&](unsigned j, unsigned i) {
          return b.mulF(sums[firstPlane + j][i], factors[i / 2 % 2][j]);
        },
        firstPlane);
  }
  if (plan.split > 1) {
    b.clusterArrive();
    b.clusterWait();
  } else {
    b.syncNamed(plan.consumers + 1, 128 * plan.consumers);
  }
  for (unsigned rowBlock = 0; rowBlock < rowBlocks; ++rowBlock)
    storeMet(rowBlock, firstRowOf(rowBlock), tile);
  // Nobody leaves while others read.
  if (plan.split > 1)
    b.clusterArrive();
}

void WgmmaEmitter::storeMet(unsigned rowBlock, Value firstRow,
                            const Tile &tile) {
  PTXBuilder::Scope scope(b, "store");
  StoreShape shape = storeShape();
  int64_t parts = plan.parts * plan.split;
  int64_t tokens = (config.tokenTile + 8 * parts - 1) / (8 * parts) * 8;
  Value firstToken =
      b.mul(b.add(b.mul(clusterRank(), plan.parts), part), tokens);
  Value tokenInPass = b.div(threadInGroup, shape.threadsPerToken);
  Value row = b.mul(b.rem(threadInGroup, shape.threadsPerToken), shape.width);
  Value globalRow = b.add(firstRow, row);

  // Of every part the staging of the warpgroup that had the same rows.
  SmallVector<Value> bases;
  Value local = b.add(shared, plan.stagingAt);
  for (int64_t rank = 0; rank < plan.split; ++rank)
    for (int64_t i = 0; i < plan.parts; ++i) {
      Value index = b.add(rowGroup, i * plan.consumersPerPart());
      Value address = b.add(local, b.mul(index, plan.stagingBytes));
      bases.push_back(plan.split > 1 ? b.remoteAddress(address, b.i32(rank))
                                     : address);
    }
  auto sumOf = [&](Value token, unsigned j) {
    Value offset = wordOffset(b, token, row);
    int64_t plane = (rowBlock * problem.numWeights + j) * plan.stagingTokens;
    Value sum;
    for (Value base : bases) {
      Value from = b.add(b.add(base, offset), plane * 256);
      Value loaded = b.load(shape.vectorOf(b.f32Type()),
                            plan.split > 1 ? b.clusterPointer(from)
                                           : b.sharedPointer(from),
                            4 * shape.width);
      sum = sum ? b.addF(sum, loaded) : loaded;
    }
    return sum;
  };

  // Loads of several tokens are in flight together: those of peers take long.
  int64_t steps = tokens / shape.tokensAtOnce;
  int64_t together = std::max<int64_t>(
      1, std::min<int64_t>(steps, 16 / (parts * problem.numWeights)));
  auto storeSome = [&](Value firstStep) {
    SmallVector<Values> sums;
    Values inTile;
    for (int64_t i = 0; i < together; ++i) {
      Value step = b.add(firstStep, i);
      Value token = b.add(b.add(firstToken, tokenInPass),
                          b.mul(step, shape.tokensAtOnce));
      inTile.push_back(token);
      // What lies beyond the tile is read, but never stored.
      Value staged = b.min(token, config.tokenTile - 1);
      Values ofWeights;
      for (unsigned j = 0; j < problem.numWeights; ++j)
        ofWeights.push_back(sumOf(staged, j));
      sums.push_back(ofWeights);
    }
    for (auto [i, token] : llvm::enumerate(inTile)) {
      Value tileToken = firstTokenOf(tile);
      Value globalToken = b.add(frame.loadedTokenOf(tileToken), token);
      Value isInside = b.both(b.less(globalRow, problem.n),
                              frame.isTokenFrom(tileToken, globalToken));
      if (tokens * parts != config.tokenTile)
        isInside = b.both(isInside, b.less(token, config.tokenTile));
      if (steps % together != 0)
        isInside = b.both(isInside, b.less(b.add(firstStep, i), steps));
      b.ifThen(isInside,
               [&] { storeSums(shape, sums[i], globalRow, globalToken); });
    }
  };
  if (steps <= 2 * together) {
    for (int64_t step = 0; step < steps; step += together)
      storeSome(b.i32(step));
  } else {
    b.loop(b.i32(0), b.i32(steps), b.i32(together), storeSome);
  }
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

void WgmmaEmitter::emit() {
  shared = b.dynamicSharedMemory();
  thread = b.threadIndex();
  lane = b.laneIndex();
  Value warpOfCTA = b.warpIndex();
  warpgroup = b.div(warpOfCTA, 4);
  warp = b.bitAnd(warpOfCTA, 3);

  b.ifThen(b.equal(thread, 0), [&] {
    PTXBuilder::Scope scope(b, "barriers");
    for (unsigned ring : {WgmmaPlan::kWeights, WgmmaPlan::kActivations})
      for (unsigned slot = 0; slot < plan.parts * slots(ring); ++slot) {
        part = b.i32(slot / slots(ring));
        Value inPart = b.i32(slot % slots(ring));
        b.initBarrier(fullBarrier(ring, inPart), 1);
        b.initBarrier(emptyBarrier(ring, inPart), 4 * plan.consumersPerPart());
      }
    b.fenceBarrierInit();
    b.fenceAsyncProxy();
    b.prefetchTensorMap(frame.tensorMapX);
  });
  dequantizer.fillTable(b.add(shared, plan.tableAt), thread, plan.threads);
  b.syncThreads();

  if (plan.sumsMeet()) {
    unitsFrom = firstUnit(clusterRank());
    unitsTo = firstUnit(b.add(clusterRank(), 1));
  }

  b.ifElse(
      b.equal(warpgroup, 0),
      [&] {
        if (plan.producerRegisters)
          b.decreaseRegisters(plan.producerRegisters);
        b.ifThen(b.equal(thread, 0), [&] { emitProducer(); });
        if (plan.split > 1) {
          b.syncWarp();
          b.clusterArrive();
          b.clusterWait();
          b.clusterArrive();
        }
        return Values();
      },
      [&] {
        if (plan.consumerRegisters)
          b.increaseRegisters(plan.consumerRegisters);
        emitConsumer();
        return Values();
      });
  if (plan.split > 1)
    b.clusterWait();
}

LLVM::LLVMFuncOp quant_llm::emitWgmmaKernel(
    gpu::GPUModuleOp module, StringRef name, const KernelProblem &problem,
    const KernelConfig &config, const ChipLimits &chip, Region *epilogue) {
  Result<WgmmaPlan> plan = planWgmma(problem, config);
  assert(plan.ok() && "verifyKernel accepts no other configurations");
  OpBuilder builder(module.getContext());
  PTXBuilder b(NameLoc::get(builder.getStringAttr(name), module.getLoc()),
               builder);
  LaunchShape shape;
  shape.threads = plan->threads;
  shape.sharedBytes = plan->sharedBytes;
  shape.boxColumns = WgmmaPlan::kHalf;
  shape.persistent = !plan->sumsMeet() && !problem.isGrouped();
  shape.overlaps = true;
  if (plan->streams) {
    shape.shares = getStreamShares(plan->units);
    shape.workspaceBytes = kStreamFlagBytes;
    shape.workspaceBytesPerCTA = plan->partBytes;
  }
  KernelFrame frame(b, module, name, problem, config, chip, epilogue, shape);
  frame.withTile(
      [&] { WgmmaEmitter(b, frame, problem, config, *plan).emit(); });
  return frame.function();
}
