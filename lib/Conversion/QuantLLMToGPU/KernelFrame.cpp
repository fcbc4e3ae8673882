//===- KernelFrame.cpp - Arguments and results of GPU kernels -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelFrame.h"

#include "mlir/IR/IRMapping.h"

#include <algorithm>

using namespace mlir;
using namespace quant_llm;

Type quant_llm::toMLIR(Builder &b, TensorType type) {
  switch (type) {
  case TensorType::F16:
    return b.getF16Type();
  case TensorType::BF16:
    return b.getBF16Type();
  case TensorType::F32:
    return b.getF32Type();
  }
  return {};
}

/// Shared memory of which a multiprocessor has no room for more CTAs than the
/// configuration says. A grid that starts while the one before it leaves finds
/// some multiprocessors empty: if these took several CTAs where one is meant,
/// they would have twice the work of others.
static int64_t getLeastOverlapping(const KernelConfig &config,
                                   const ChipLimits &chip) {
  // The driver takes 1024 bytes beside those of a CTA.
  constexpr int64_t kUnit = 1024;
  int64_t units = chip.sharedBytesPerSM / kUnit;
  int64_t tooMany = units / (config.ctasPerSM + 1);
  return kUnit * std::min(tooMany, units / config.ctasPerSM - 1);
}

KernelFrame::KernelFrame(PTXBuilder &b, gpu::GPUModuleOp module, StringRef name,
                         const KernelProblem &problem,
                         const KernelConfig &config, const ChipLimits &chip,
                         Region *epilogue, const LaunchShape &shape)
    : b(b), problem(problem), config(config), epilogue(epilogue),
      overlaps(shape.overlaps) {
  MLIRContext *context = b.getContext();
  Type global = b.pointer(kGlobalSpace);
  SmallVector<Type> types;
  SmallVector<std::string> names;
  auto argument = [&](Type type, const Twine &name) {
    types.push_back(type);
    names.push_back(name.str());
  };

  bool usesTensorMap = config.copy == ActivationCopy::Tensor;
  if (usesTensorMap)
    argument(b.pointer(kGenericSpace), "tensor_map_x");
  else
    argument(global, "x");
  for (unsigned j = 0; j != problem.numWeights; ++j) {
    argument(global, "packed" + Twine(j));
    argument(global, "packed_scales" + Twine(j));
    if (problem.scheme.zero != ZeroKind::None)
      argument(global, "packed_zeros" + Twine(j));
    argument(b.f32Type(), "output_scale" + Twine(j));
  }
  if (problem.isGrouped())
    argument(global, "offsets");
  if (shape.workspaceBytes)
    argument(global, "workspace");
  argument(global, "y");
  for (unsigned i = 0; i != problem.epilogue.size(); ++i)
    argument(global, "epilogue" + Twine(i));
  argument(b.i32Type(), "m");

  SmallVector<NamedAttribute> attributes;
  auto attribute = [&](StringRef name, Attribute value) {
    attributes.push_back(b.getNamedAttr(name, value));
  };
  attribute("gpu.kernel", b.getUnitAttr());
  attribute("nvvm.kernel", b.getUnitAttr());
  attribute("nvvm.reqntid",
            b.getDenseI32ArrayAttr({int32_t(shape.threads), 1, 1}));
  attribute("nvvm.minctasm", b.getI32IntegerAttr(config.ctasPerSM));

  SmallVector<NamedAttribute> description;
  auto describe = [&](StringRef name, Attribute value) {
    description.push_back(b.getNamedAttr(name, value));
  };
  SmallVector<StringRef> nameRefs(names.begin(), names.end());
  describe("args", b.getStrArrayAttr(nameRefs));
  int64_t cluster = std::max<int64_t>(config.split, 1);
  describe("cluster", b.getI32IntegerAttr(cluster));
  describe("ctas_per_sm", b.getI32IntegerAttr(config.ctasPerSM));
  if (overlaps)
    describe("dependent_launch", b.getI32IntegerAttr(1));
  describe("grid", b.getStringAttr(shape.persistent ? "persistent" : "tiles"));
  describe("row_tile", b.getI32IntegerAttr(config.rowTile));
  int64_t sharedBytes = shape.sharedBytes;
  if (overlaps)
    sharedBytes = std::max(sharedBytes, getLeastOverlapping(config, chip));
  describe("shared_bytes", b.getI32IntegerAttr(sharedBytes));
  describe("split", b.getI32IntegerAttr(std::max(cluster, shape.shares)));
  describe("threads", b.getI32IntegerAttr(shape.threads));
  describe("token_tile", b.getI32IntegerAttr(config.tokenTile));
  describe("tokens", b.getI64ArrayAttr({config.minTokens, config.maxTokens}));
  if (usesTensorMap) {
    SmallVector<NamedAttribute> map = {
        b.getNamedAttr("box_k", b.getI32IntegerAttr(shape.boxColumns)),
        b.getNamedAttr("box_tokens", b.getI32IntegerAttr(config.tokenTile)),
        b.getNamedAttr("swizzle", b.getI32IntegerAttr(128))};
    if (shape.boxSegments)
      map.push_back(b.getNamedAttr("box_segments",
                                   b.getI32IntegerAttr(shape.boxSegments)));
    describe("tensor_map_x", b.getDictionaryAttr(map));
  }
  if (shape.workspaceBytes) {
    describe("workspace_bytes", b.getI64IntegerAttr(shape.workspaceBytes));
    describe("workspace_bytes_per_cta",
             b.getI64IntegerAttr(shape.workspaceBytesPerCTA));
  }
  attribute("quant_llm.launch", b.getDictionaryAttr(description));

  SmallVector<DictionaryAttr> argumentAttributes(types.size(),
                                                 b.getDictionaryAttr({}));
  if (usesTensorMap)
    argumentAttributes[0] = b.getDictionaryAttr(
        {b.getNamedAttr("llvm.byval", TypeAttr::get(LLVM::LLVMArrayType::get(
                                          b.getI8Type(), 128))),
         b.getNamedAttr("llvm.align", b.getI64IntegerAttr(128)),
         b.getNamedAttr("nvvm.grid_constant", b.getUnitAttr())});

  b.setInsertionPointToEnd(&module.getBodyRegion().front());
  func = LLVM::LLVMFuncOp::create(
      b, name,
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context), types),
      LLVM::Linkage::External, /*dsoLocal=*/false, LLVM::CConv::C,
      SymbolRefAttr(), attributes, argumentAttributes);
  Block *entry = func.addEntryBlock(b);
  b.setInsertionPointToStart(entry);
  LLVM::ReturnOp::create(b, ValueRange());
  b.setInsertionPointToStart(entry);

  for (auto [index, name] : llvm::enumerate(names)) {
    Value value = entry->getArgument(index);
    StringRef kind = StringRef(name).rtrim("0123456789");
    value.setLoc(NameLoc::get(b.getStringAttr(name), b.getLoc()));
    if (kind == "tensor_map_x")
      tensorMapX = value;
    else if (kind == "x")
      x = value;
    else if (kind == "packed")
      packed.push_back(value);
    else if (kind == "packed_scales")
      scales.push_back(value);
    else if (kind == "packed_zeros")
      zeros.push_back(value);
    else if (kind == "output_scale")
      outputScales.push_back(value);
    else if (kind == "offsets")
      offsets = value;
    else if (kind == "workspace")
      workspace = value;
    else if (kind == "y")
      y = value;
    else if (kind == "epilogue")
      epilogueOperands.push_back(value);
    else
      m = value;
  }
  tokensEnd = m;
}

//===----------------------------------------------------------------------===//
// The tokens of a CTA
//===----------------------------------------------------------------------===//

/// Every lane looks at some neighbouring experts; their numbers of tiles, added
/// up over the lanes, say which of them has the tile of this CTA.
void KernelFrame::findGroup() {
  PTXBuilder::Scope scope(b, "experts");
  constexpr int64_t kMostUnrolled = 8;
  int64_t perLane = (problem.experts + kWarpLanes - 1) / kWarpLanes;
  Value firstExpert = b.mul(b.laneIndex(), perLane);
  // Whatever the offsets are, tokens are those of x. Of wide offsets the low
  // word is enough.
  auto offsetAt = [&](Value expert) {
    int64_t bytes = problem.wideOffsets ? 8 : 4;
    Value at = b.mul(b.min(expert, problem.experts), bytes);
    return b.min(b.load(b.i32Type(), b.offsetPointer(offsets, at), bytes), m);
  };
  auto tilesOf = [&](Value begin, Value end) {
    Value tokens = b.select(b.less(begin, end), b.sub(end, begin), b.i32(0));
    return b.div(b.add(tokens, config.tokenTile - 1), config.tokenTile);
  };
  // Carries values, of which the last is the end of the expert before.
  auto walk = [&](Values carried,
                  function_ref<Values(Value expert, Value begin, Value end,
                                      ValueRange carried)>
                      body) {
    carried.push_back(offsetAt(firstExpert));
    auto visit = [&](Value index, ValueRange carried) {
      Value expert = b.add(firstExpert, index);
      Value end = offsetAt(b.add(expert, 1));
      Values next = body(expert, carried.back(), end, carried.drop_back());
      next.push_back(end);
      return next;
    };
    if (perLane > kMostUnrolled)
      return b.loop(b.i32(0), b.i32(perLane), b.i32(1), carried, visit);
    for (int64_t index = 0; index != perLane; ++index)
      carried = visit(b.i32(index), carried);
    return carried;
  };

  Value own =
      walk({b.i32(0)},
           [&](Value, Value begin, Value end, ValueRange carried) -> Values {
             return {b.add(carried[0], tilesOf(begin, end))};
           })[0];
  Value before = b.sub(b.sumOfLanes(own), own);
  // Unsigned: tiles before those of this lane are above all of its own.
  Value tile = b.sub(b.blockIndexY(), before);
  Value lanes = b.ballot(b.less(tile, own));
  isTile = b.compare(arith::CmpIPredicate::ne, lanes, b.i32(0));

  Values zero(3, b.i32(0));
  zero.push_back(tile);
  Values found = walk(
      zero,
      [&](Value expert, Value begin, Value end, ValueRange carried) -> Values {
        Value tile = carried[3], tiles = tilesOf(begin, end);
        Value isHere = b.less(tile, tiles);
        Value first = b.add(begin, b.mul(tile, config.tokenTile));
        return {b.select(isHere, expert, carried[0]),
                b.select(isHere, first, carried[1]),
                b.select(isHere, end, carried[2]), b.sub(tile, tiles)};
      });
  Value source = b.trailingZeros(lanes);
  expertRow = b.mul(b.broadcastLane(found[0], source), problem.n);
  firstToken = b.broadcastLane(found[1], source);
  tokensEnd = b.broadcastLane(found[2], source);
}

Value KernelFrame::loadedTokenOf(Value first) {
  return b.min(first, b.sub(m, b.min(m, config.tokenTile)));
}

Value KernelFrame::isTokenFrom(Value first, Value token) {
  // Unsigned: tokens before the first are above all others.
  return b.less(b.sub(token, first), b.sub(tokensEnd, first));
}

void KernelFrame::withTile(function_ref<void()> body) {
  // Early: the next grid starts only where this one has left room, and all of
  // its CTAs have begun by then, so those that wait for each other do not wait
  // for it.
  if (overlaps)
    b.launchDependents();
  if (!problem.isGrouped()) {
    firstToken = b.mul(b.blockIndexY(), config.tokenTile);
    return body();
  }
  // Which weights a CTA needs depends on the offsets.
  if (overlaps)
    b.awaitEarlierGrids();
  findGroup();
  b.ifThen(isTile, body);
}

void KernelFrame::awaitInputs() {
  if (overlaps && !problem.isGrouped())
    b.awaitEarlierGrids();
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

Value KernelFrame::sumFactor(Dequantizer &dequantizer, unsigned j, Value row) {
  Value factor = b.mulF(outputScales[j], b.f32(dequantizer.outputFactor()));
  if (dequantizer.mode() == ScaleMode::Channel)
    factor =
        b.mulF(dequantizer.channelScale(scales[j], weightRow(row)), factor);
  return factor;
}

Value KernelFrame::elementPointer(Value base, Value row, Value token,
                                  Type type) {
  Value index = b.toI64(row);
  if (token)
    index = b.add(b.mul(b.toI64(token), b.i64(problem.n)), index);
  return b.offsetPointer(base,
                         b.mul(index, b.i64(type.getIntOrFloatBitWidth() / 8)));
}

Type KernelFrame::operandType(unsigned i) {
  return epilogue->front().getArgument(problem.numWeights + i).getType();
}

Value KernelFrame::operandPointer(unsigned i, Value row, Value token) {
  if (problem.epilogue[i].perElement)
    return elementPointer(epilogueOperands[i], row, token, operandType(i));
  return elementPointer(epilogueOperands[i], weightRow(row), Value(),
                        operandType(i));
}

Value KernelFrame::resultPointer(Value row, Value token) {
  return elementPointer(y, row, token, toMLIR(b, problem.output));
}

Value KernelFrame::finish(ValueRange sums, ValueRange operands) {
  if (!epilogue)
    return b.fromF32(sums.front(), toMLIR(b, problem.output));
  IRMapping mapping;
  Block &body = epilogue->front();
  for (auto [argument, value] :
       llvm::zip(body.getArguments(),
                 llvm::concat<const Value>(Values(sums), Values(operands))))
    mapping.map(argument, value);
  for (Operation &op : body.without_terminator())
    b.clone(op, mapping);
  return mapping.lookupOrDefault(body.getTerminator()->getOperand(0));
}

void KernelFrame::storeResult(Dequantizer &dequantizer, Value row, Value token,
                              ValueRange rawSums) {
  PTXBuilder::Scope scope(b, "epilogue");
  Values sums, operands;
  for (auto [j, sum] : llvm::enumerate(rawSums))
    sums.push_back(b.mulF(sum, sumFactor(dequantizer, j, row)));
  for (unsigned i = 0; i != problem.epilogue.size(); ++i)
    operands.push_back(b.load(operandType(i), operandPointer(i, row, token),
                              operandType(i).getIntOrFloatBitWidth() / 8));
  Value result = finish(sums, operands);
  b.store(result, resultPointer(row, token),
          result.getType().getIntOrFloatBitWidth() / 8);
}
