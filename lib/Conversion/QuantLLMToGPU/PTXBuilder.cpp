//===- PTXBuilder.cpp - The vocabulary of the GPU kernels -----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PTXBuilder.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "llvm/ADT/Sequence.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace quant_llm;

PTXBuilder::Scope::Scope(PTXBuilder &builder, StringRef name)
    : builder(builder), outer(builder.getLoc()) {
  builder.setLoc(NameLoc::get(builder.getStringAttr(name), outer));
}

LLVM::LLVMStructType PTXBuilder::structOf(Type type, unsigned count) {
  return LLVM::LLVMStructType::getLiteral(getContext(),
                                          SmallVector<Type>(count, type));
}

//===----------------------------------------------------------------------===//
// Constants and integers
//===----------------------------------------------------------------------===//

Value PTXBuilder::i32(int64_t value) {
  return arith::ConstantOp::create(
      *this, IntegerAttr::get(getI32Type(), APInt(32, uint64_t(value),
                                                  /*isSigned=*/false,
                                                  /*implicitTrunc=*/true)));
}

Value PTXBuilder::i64(int64_t value) {
  return arith::ConstantOp::create(*this, getI64IntegerAttr(value));
}

Value PTXBuilder::f32(float value) {
  return arith::ConstantOp::create(*this, getF32FloatAttr(value));
}

Value PTXBuilder::add(Value lhs, Value rhs) {
  return createOrFold<arith::AddIOp>(lhs, rhs);
}
Value PTXBuilder::add(Value lhs, int64_t rhs) {
  return rhs == 0 ? lhs : add(lhs, i32(rhs));
}
Value PTXBuilder::sub(Value lhs, Value rhs) {
  return createOrFold<arith::SubIOp>(lhs, rhs);
}
Value PTXBuilder::mul(Value lhs, Value rhs) {
  return createOrFold<arith::MulIOp>(lhs, rhs);
}
Value PTXBuilder::mul(Value lhs, int64_t rhs) {
  if (rhs == 1)
    return lhs;
  if (rhs > 0 && llvm::isPowerOf2_64(rhs))
    return shiftLeft(lhs, llvm::Log2_64(rhs));
  return mul(lhs, i32(rhs));
}
Value PTXBuilder::div(Value lhs, Value rhs) {
  return createOrFold<arith::DivUIOp>(lhs, rhs);
}
Value PTXBuilder::div(Value lhs, int64_t rhs) {
  if (llvm::isPowerOf2_64(rhs))
    return shiftRight(lhs, llvm::Log2_64(rhs));
  return div(lhs, i32(rhs));
}
Value PTXBuilder::rem(Value lhs, Value rhs) {
  return createOrFold<arith::RemUIOp>(lhs, rhs);
}
Value PTXBuilder::rem(Value lhs, int64_t rhs) {
  if (llvm::isPowerOf2_64(rhs))
    return bitAnd(lhs, rhs - 1);
  return rem(lhs, i32(rhs));
}
Value PTXBuilder::bitAnd(Value lhs, Value rhs) {
  return createOrFold<arith::AndIOp>(lhs, rhs);
}
Value PTXBuilder::bitAnd(Value lhs, int64_t rhs) {
  return bitAnd(lhs, i32(rhs));
}
Value PTXBuilder::bitOr(Value lhs, Value rhs) {
  return createOrFold<arith::OrIOp>(lhs, rhs);
}
Value PTXBuilder::bitXor(Value lhs, Value rhs) {
  return createOrFold<arith::XOrIOp>(lhs, rhs);
}
Value PTXBuilder::shiftLeft(Value lhs, int64_t bits) {
  return bits == 0 ? lhs : createOrFold<arith::ShLIOp>(lhs, i32(bits));
}
Value PTXBuilder::shiftRight(Value lhs, int64_t bits) {
  return bits == 0 ? lhs : createOrFold<arith::ShRUIOp>(lhs, i32(bits));
}
Value PTXBuilder::rotateRight(Value word, unsigned bits) {
  if (bits % 32 == 0)
    return word;
  return LLVM::FshrOp::create(*this, word, word, i32(bits % 32));
}
Value PTXBuilder::dotHalves(Value word, unsigned factorOfLow,
                            unsigned factorOfHigh, Value addend) {
  Value halves = bitcast(word, VectorType::get({2}, getI16Type()));
  Value factors = bitcast(i32(factorOfLow | factorOfHigh << 8),
                          VectorType::get({4}, getI8Type()));
  return NVVM::DotAccumulate2WayOp::create(
      *this, getI32Type(), halves, NVVM::DotAccumulateType::UNSIGNED, factors,
      NVVM::DotAccumulateType::UNSIGNED, addend, /*b_hi=*/false);
}
Value PTXBuilder::min(Value lhs, Value rhs) {
  return createOrFold<arith::MinUIOp>(lhs, rhs);
}
Value PTXBuilder::max(Value lhs, Value rhs) {
  return createOrFold<arith::MaxUIOp>(lhs, rhs);
}
Value PTXBuilder::toI64(Value value) {
  if (value.getType().isInteger(64))
    return value;
  return createOrFold<arith::ExtUIOp>(getI64Type(), value);
}
Value PTXBuilder::compare(arith::CmpIPredicate predicate, Value lhs,
                          Value rhs) {
  return createOrFold<arith::CmpIOp>(predicate, lhs, rhs);
}
Value PTXBuilder::less(Value lhs, Value rhs) {
  return compare(arith::CmpIPredicate::ult, lhs, rhs);
}
Value PTXBuilder::equal(Value lhs, Value rhs) {
  return compare(arith::CmpIPredicate::eq, lhs, rhs);
}
Value PTXBuilder::both(Value lhs, Value rhs) {
  return createOrFold<arith::AndIOp>(lhs, rhs);
}
Value PTXBuilder::select(Value condition, Value yes, Value no) {
  return createOrFold<arith::SelectOp>(condition, yes, no);
}

//===----------------------------------------------------------------------===//
// Floating point
//===----------------------------------------------------------------------===//

Value PTXBuilder::bitcast(Value value, Type type) {
  if (value.getType() == type)
    return value;
  return LLVM::BitcastOp::create(*this, type, value);
}
Value PTXBuilder::addF(Value lhs, Value rhs) {
  return arith::AddFOp::create(*this, lhs, rhs);
}
Value PTXBuilder::mulF(Value lhs, Value rhs) {
  return arith::MulFOp::create(*this, lhs, rhs);
}
Value PTXBuilder::fma(Value a, Value b, Value c) {
  // math.fma becomes a call of libdevice in 22.1 (docs/UpstreamIssues.md).
  return LLVM::FMAOp::create(*this, a, b, c);
}

Value PTXBuilder::pairConstant(Type element, double value) {
  APFloat scalar(value);
  bool losesInfo;
  scalar.convert(cast<FloatType>(element).getFloatSemantics(),
                 APFloat::rmNearestTiesToEven, &losesInfo);
  uint32_t bits = scalar.bitcastToAPInt().getZExtValue();
  return pairBits(element, bits << 16 | bits);
}

Value PTXBuilder::pairBits(Type element, uint32_t bits) {
  return bitcast(i32(bits), pair(element));
}

Value PTXBuilder::packPair(Type element, Value low, Value high) {
  Value both = vectorOf({low, high});
  return LLVM::FPTruncOp::create(*this, pair(element), both);
}

Value PTXBuilder::toF32(Value value) {
  if (value.getType().isF32())
    return value;
  return arith::ExtFOp::create(*this, getF32Type(), value);
}

Value PTXBuilder::fromF32(Value value, Type type) {
  if (type.isF32())
    return value;
  return arith::TruncFOp::create(*this, type, value);
}

//===----------------------------------------------------------------------===//
// Control flow
//===----------------------------------------------------------------------===//

Values PTXBuilder::loop(Value from, Value to, Value step, ValueRange carried,
                        LoopBody body) {
  Location outer = getLoc();
  auto op = scf::ForOp::create(
      *this, from, to, step, carried,
      [&](OpBuilder &inner, Location loc, Value index, ValueRange values) {
        OpBuilder::InsertionGuard guard(*this);
        setInsertionPoint(inner.getInsertionBlock(), inner.getInsertionPoint());
        Values next = body(index, values);
        scf::YieldOp::create(*this, next);
      });
  setLoc(outer);
  // LLVM would unroll small loops by 8, inline assembly included.
  op->setAttr("loop_annotation",
              LLVM::LoopAnnotationAttr::get(
                  getContext(), {}, {}, {},
                  LLVM::LoopUnrollAttr::get(getContext(), getBoolAttr(true), {},
                                            {}, {}, {}, {}, {}),
                  {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}));
  return Values(op.getResults());
}

void PTXBuilder::loop(Value from, Value to, Value step,
                      function_ref<void(Value)> body) {
  loop(from, to, step, {}, [&](Value index, ValueRange) {
    body(index);
    return Values();
  });
}

void PTXBuilder::ifThen(Value condition, function_ref<void()> body) {
  auto op = scf::IfOp::create(*this, condition, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(op.thenBlock());
  body();
}

Values PTXBuilder::ifElse(Value condition, function_ref<Values()> yes,
                          function_ref<Values()> no) {
  auto build = [&](OpBuilder &inner, function_ref<Values()> body) {
    OpBuilder::InsertionGuard guard(*this);
    setInsertionPoint(inner.getInsertionBlock(), inner.getInsertionPoint());
    Values results = body();
    scf::YieldOp::create(*this, results);
  };
  auto op = scf::IfOp::create(
      *this, condition, [&](OpBuilder &inner, Location) { build(inner, yes); },
      [&](OpBuilder &inner, Location) { build(inner, no); });
  return Values(op.getResults());
}

//===----------------------------------------------------------------------===//
// Thread coordinates
//===----------------------------------------------------------------------===//

Value PTXBuilder::threadIndex() {
  return NVVM::ThreadIdXOp::create(*this, getI32Type());
}
Value PTXBuilder::blockIndexX() {
  return NVVM::BlockIdXOp::create(*this, getI32Type());
}
Value PTXBuilder::blockIndexY() {
  return NVVM::BlockIdYOp::create(*this, getI32Type());
}
Value PTXBuilder::gridSizeX() {
  return NVVM::GridDimXOp::create(*this, getI32Type());
}
Value PTXBuilder::warpIndex() {
  return broadcastLane0(shiftRight(threadIndex(), 5));
}
Value PTXBuilder::laneIndex() { return bitAnd(threadIndex(), 31); }
Value PTXBuilder::electThread() {
  return NVVM::ElectSyncOp::create(*this, getI1Type(), /*membermask=*/Value());
}
Value PTXBuilder::broadcastLane0(Value value) {
  return broadcastLane(value, i32(0));
}
Value PTXBuilder::broadcastLane(Value value, Value source) {
  return NVVM::ShflOp::create(*this, value.getType(), i32(-1), value, source,
                              i32(31), NVVM::ShflKind::idx,
                              /*return_value_and_is_valid=*/UnitAttr());
}
Value PTXBuilder::sumOfLanes(Value value) {
  Value lane = laneIndex();
  for (int64_t distance = 1; distance != 32; distance *= 2) {
    Value before =
        NVVM::ShflOp::create(*this, value.getType(), i32(-1), value,
                             i32(distance), i32(0), NVVM::ShflKind::up,
                             /*return_value_and_is_valid=*/UnitAttr());
    value = add(value, select(less(lane, distance), i32(0), before));
  }
  return value;
}
Value PTXBuilder::ballot(Value condition) {
  return NVVM::VoteSyncOp::create(*this, i32Type(), i32(-1), condition,
                                  NVVM::VoteSyncKind::ballot);
}
Value PTXBuilder::trailingZeros(Value word) {
  return LLVM::CountTrailingZerosOp::create(*this, i32Type(), word,
                                            /*is_zero_poison=*/false);
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Value PTXBuilder::dynamicSharedMemory() {
  constexpr StringLiteral name = "quant_llm_shared";
  Operation *module =
      getInsertionBlock()->getParentOp()->getParentOfType<gpu::GPUModuleOp>();
  if (!SymbolTable::lookupSymbolIn(module, name)) {
    OpBuilder::InsertionGuard guard(*this);
    setInsertionPointToStart(&module->getRegion(0).front());
    // gpu.dynamic_shared_memory would be demoted to a static variable.
    LLVM::GlobalOp::create(*this, LLVM::LLVMArrayType::get(getI8Type(), 0),
                           /*isConstant=*/false, LLVM::Linkage::External, name,
                           Attribute(), /*alignment=*/1024, kSharedSpace);
  }
  Value address = LLVM::AddressOfOp::create(*this, pointer(kSharedSpace), name);
  return LLVM::PtrToIntOp::create(*this, getI32Type(), address);
}

Value PTXBuilder::sharedPointer(Value address) {
  return LLVM::IntToPtrOp::create(*this, pointer(kSharedSpace), address);
}
Value PTXBuilder::clusterPointer(Value address) {
  return LLVM::IntToPtrOp::create(*this, pointer(kClusterSpace), address);
}
Value PTXBuilder::offsetPointer(Value base, Value byteOffset) {
  return LLVM::GEPOp::create(*this, base.getType(), getI8Type(), base,
                             ValueRange{toI64(byteOffset)});
}
Value PTXBuilder::loadShared(Type type, Value address, unsigned align) {
  return load(type, sharedPointer(address), align);
}
void PTXBuilder::storeShared(Value value, Value address, unsigned align) {
  store(value, sharedPointer(address), align);
}
Value PTXBuilder::load(Type type, Value pointer, unsigned align) {
  return LLVM::LoadOp::create(*this, type, pointer, align);
}
void PTXBuilder::store(Value value, Value pointer, unsigned align) {
  LLVM::StoreOp::create(*this, value, pointer, align);
}
Value PTXBuilder::extract(Value vector, unsigned index) {
  return LLVM::ExtractElementOp::create(*this, vector, i32(index));
}
Value PTXBuilder::vectorOf(ValueRange elements) {
  auto type =
      VectorType::get({int64_t(elements.size())}, elements.front().getType());
  Value vector = LLVM::UndefOp::create(*this, type);
  for (auto [index, element] : llvm::enumerate(elements))
    vector = LLVM::InsertElementOp::create(*this, vector, element, i32(index));
  return vector;
}
Values PTXBuilder::unpack(Value aggregate) {
  auto type = cast<LLVM::LLVMStructType>(aggregate.getType());
  Values members;
  for (int64_t index = 0, end = type.getBody().size(); index != end; ++index)
    members.push_back(LLVM::ExtractValueOp::create(*this, aggregate, index));
  return members;
}

//===----------------------------------------------------------------------===//
// Asynchronous copies
//===----------------------------------------------------------------------===//

void PTXBuilder::copyAsync16(Value sharedAddress, Value globalPointer,
                             Value validBytes) {
  NVVM::CpAsyncOp::create(*this, sharedPointer(sharedAddress), globalPointer,
                          16, NVVM::LoadCacheModifierKind::CG, validBytes);
}
void PTXBuilder::commitCopies() { NVVM::CpAsyncCommitGroupOp::create(*this); }
void PTXBuilder::waitCopies(unsigned pending) {
  NVVM::CpAsyncWaitGroupOp::create(*this, pending);
}

void PTXBuilder::initBarrier(Value barrier, int64_t count) {
  NVVM::MBarrierInitOp::create(*this, sharedPointer(barrier), i32(count),
                               /*predicate=*/Value());
}
void PTXBuilder::fenceBarrierInit() {
  NVVM::FenceMbarrierInitOp::create(*this);
}
void PTXBuilder::arrive(Value barrier) {
  NVVM::MBarrierArriveOp::create(*this, Type(), sharedPointer(barrier),
                                 /*count=*/Value());
}
void PTXBuilder::arriveExpect(Value barrier, Value bytes) {
  NVVM::MBarrierArriveExpectTxOp::create(
      *this, Type(), sharedPointer(barrier), bytes, NVVM::MemScopeKind::CTA,
      /*relaxed=*/false, /*predicate=*/Value());
}
void PTXBuilder::waitBarrier(Value barrier, Value parity) {
  // nvvm.mbarrier.try_wait.parity wants a time limit; labels inside braces
  // survive duplication of the block.
  inlineAsm("{\n.reg .pred done;\nwait:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;\n"
            "@!done bra wait;\n}",
            {}, {barrier, parity}, /*hasSideEffects=*/true);
}
Value PTXBuilder::evictFirstPolicy() {
  return inlineAsm("createpolicy.fractional.L2::evict_first.b64 $0, 1.0;",
                   getI64Type(), {}, /*hasSideEffects=*/false)
      .front();
}
Value PTXBuilder::evictNormalPolicy() {
  return inlineAsm("createpolicy.fractional.L2::evict_normal.b64 $0, 1.0;",
                   getI64Type(), {}, /*hasSideEffects=*/false)
      .front();
}
void PTXBuilder::bulkCopy(Value sharedAddress, Value globalPointer, Value bytes,
                          Value barrier, Value policy) {
  NVVM::CpAsyncBulkGlobalToSharedClusterOp::create(
      *this, clusterPointer(sharedAddress), globalPointer,
      sharedPointer(barrier), bytes, /*multicastMask=*/Value(), policy);
}
void PTXBuilder::tensorCopy(Value sharedAddress, Value tensorMap,
                            ValueRange coordinates, Value barrier) {
  NVVM::CpAsyncBulkTensorGlobalToSharedClusterOp::create(
      *this, clusterPointer(sharedAddress), tensorMap, coordinates,
      sharedPointer(barrier), /*im2colOffsets=*/ValueRange(),
      /*multicastMask=*/Value(), /*l2CacheHint=*/Value(),
      NVVM::TMALoadMode::TILE, /*isCTAOnly=*/false,
      /*group=*/NVVM::CTAGroupKindAttr(), /*predicate=*/Value());
}
void PTXBuilder::prefetchTensorMap(Value tensorMap) {
  inlineAsm("prefetch.tensormap [$0];", {}, {tensorMap},
            /*hasSideEffects=*/true);
}
void PTXBuilder::fenceAsyncProxy() {
  NVVM::FenceProxyOp::create(
      *this, NVVM::ProxyKind::async_shared,
      NVVM::SharedSpaceAttr::get(getContext(), NVVM::SharedSpace::shared_cta));
}

//===----------------------------------------------------------------------===//
// Barriers of threads
//===----------------------------------------------------------------------===//

void PTXBuilder::syncThreads() { NVVM::Barrier0Op::create(*this); }
void PTXBuilder::syncWarp() { NVVM::SyncWarpOp::create(*this, i32(-1)); }
void PTXBuilder::syncNamed(int64_t id, int64_t threads) {
  syncNamed(i32(id), threads);
}
void PTXBuilder::syncNamed(Value id, int64_t threads) {
  NVVM::BarrierOp::create(*this, Type(), id, i32(threads),
                          NVVM::BarrierReductionAttr(),
                          /*reductionPredicate=*/Value());
}
void PTXBuilder::arriveNamed(int64_t id, int64_t threads) {
  NVVM::BarrierArriveOp::create(*this, i32(id), i32(threads));
}

//===----------------------------------------------------------------------===//
// Clusters
//===----------------------------------------------------------------------===//

void PTXBuilder::launchDependents() {
  NVVM::GriddepcontrolOp::create(*this,
                                 NVVM::GridDepActionKind::launch_dependents);
}
void PTXBuilder::awaitEarlierGrids() {
  NVVM::GriddepcontrolOp::create(*this, NVVM::GridDepActionKind::wait);
}

void PTXBuilder::clusterArrive() {
  NVVM::ClusterArriveOp::create(*this, getUnitAttr());
}
void PTXBuilder::clusterArriveRelaxed() {
  NVVM::ClusterArriveRelaxedOp::create(*this, getUnitAttr());
}
void PTXBuilder::clusterWait() {
  NVVM::ClusterWaitOp::create(*this, getUnitAttr());
}
void PTXBuilder::setFlag(Value pointer) {
  inlineAsm("st.release.gpu.global.u32 [$0], $1;", {}, {pointer, i32(1)},
            /*hasSideEffects=*/true);
}
void PTXBuilder::takeFlag(Value pointer) {
  inlineAsm("{\n.reg .pred unset;\n.reg .b32 flag;\nwait:\n"
            "ld.acquire.gpu.global.u32 flag, [$0];\n"
            "setp.eq.u32 unset, flag, 0;\n@unset bra wait;\n"
            "st.relaxed.gpu.global.u32 [$0], 0;\n}",
            {}, {pointer}, /*hasSideEffects=*/true);
}
Value PTXBuilder::remoteAddress(Value address, Value rank) {
  return inlineAsm("mapa.shared::cluster.u32 $0, $1, $2;", getI32Type(),
                   {address, rank}, /*hasSideEffects=*/false)
      .front();
}
void PTXBuilder::storeRemote(Value address, ValueRange values, Value barrier) {
  Values operands = {address};
  llvm::append_range(operands, values);
  operands.push_back(barrier);
  inlineAsm("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
            "[$0], {$1, $2, $3, $4}, [$5];",
            {}, operands, /*hasSideEffects=*/true);
}
void PTXBuilder::waitBarrierCluster(Value barrier, Value parity) {
  inlineAsm("{\n.reg .pred done;\nwait:\n"
            "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, "
            "[$0], $1;\n@!done bra wait;\n}",
            {}, {barrier, parity}, /*hasSideEffects=*/true);
}

//===----------------------------------------------------------------------===//
// Tensor cores
//===----------------------------------------------------------------------===//

Values PTXBuilder::loadMatrix4(Value address) {
  auto shape = NVVM::LdStMatrixShapeAttr::get(getContext(), 8, 8);
  Value loaded = NVVM::LdMatrixOp::create(
      *this, structOf(getI32Type(), 4), sharedPointer(address), 4,
      NVVM::MMALayout::row, shape, NVVM::LdStMatrixEltType::B16);
  return unpack(loaded);
}

Values PTXBuilder::mma(Type element, ValueRange a, ValueRange b, ValueRange c) {
  bool isBF16 = element.isBF16();
  // f16 operands are pairs, bf16 ones are words.
  auto fragment = [&](ValueRange words) {
    Values values;
    for (Value word : words)
      values.push_back(
          bitcast(word, isBF16 ? Type(getI32Type()) : Type(pair(element))));
    return values;
  };
  NVVM::MMATypes type = isBF16 ? NVVM::MMATypes::bf16 : NVVM::MMATypes::f16;
  Value product = NVVM::MmaOp::create(
      *this, structOf(getF32Type(), 4), ValueRange(fragment(a)),
      ValueRange(fragment(b)), c, ArrayRef<int64_t>{16, 8, 16}, std::nullopt,
      std::nullopt, std::array<NVVM::MMATypes, 2>{type, type},
      std::array<NVVM::MMALayout, 2>{NVVM::MMALayout::row,
                                     NVVM::MMALayout::col});
  return unpack(product);
}

void PTXBuilder::storeMatrix4Transposed(Value address, ValueRange matrices) {
  auto shape = NVVM::LdStMatrixShapeAttr::get(getContext(), 8, 8);
  NVVM::StMatrixOp::create(*this, sharedPointer(address), matrices,
                           NVVM::MMALayout::col, shape,
                           NVVM::LdStMatrixEltType::B16);
}

void PTXBuilder::decreaseRegisters(int64_t count) {
  NVVM::SetMaxRegisterOp::create(*this, count,
                                 NVVM::SetMaxRegisterAction::decrease);
}
void PTXBuilder::increaseRegisters(int64_t count) {
  NVVM::SetMaxRegisterOp::create(*this, count,
                                 NVVM::SetMaxRegisterAction::increase);
}
void PTXBuilder::wgmmaFence() { NVVM::WgmmaFenceAlignedOp::create(*this); }
void PTXBuilder::wgmmaCommit() { NVVM::WgmmaGroupSyncAlignedOp::create(*this); }
void PTXBuilder::wgmmaWait(unsigned pending) {
  NVVM::WgmmaWaitGroupSyncOp::create(*this, pending);
}

/// 0, 1, ..., count - 1.
static SmallVector<unsigned> firstIntegers(unsigned count) {
  return llvm::to_vector(llvm::seq<unsigned>(0, count));
}

Values PTXBuilder::wgmmaWaitAll(ValueRange sums) {
  return inlineAsm("wgmma.wait_group.sync.aligned 0;", sums.getTypes(), sums,
                   /*hasSideEffects=*/true, firstIntegers(sums.size()));
}

Values PTXBuilder::wgmma(Type element, ValueRange sums, ValueRange a,
                         Value descriptor, Value accumulate) {
  // The tied sums take the numbers after the results.
  unsigned numSums = sums.size(), next = 2 * numSums;
  auto numbers = [](unsigned from, unsigned count) {
    return llvm::join(
        llvm::map_range(llvm::seq(from, from + count),
                        [](unsigned i) { return "$" + std::to_string(i); }),
        ", ");
  };
  std::string type = element.isBF16() ? "bf16" : "f16";
  std::string text =
      "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, $" +
      std::to_string(next + 5) + ", 0;\nwgmma.mma_async.sync.aligned.m64n" +
      std::to_string(2 * numSums) + "k16.f32." + type + "." + type + " {" +
      numbers(0, numSums) + "}, {" + numbers(next, 4) + "}, $" +
      std::to_string(next + 4) + ", accumulate, 1, 1, 0;\n}";
  Values operands(sums);
  llvm::append_range(operands, a);
  operands.push_back(descriptor);
  operands.push_back(accumulate);
  return inlineAsm(text, sums.getTypes(), operands, /*hasSideEffects=*/true,
                   firstIntegers(numSums));
}

//===----------------------------------------------------------------------===//
// Inline assembly
//===----------------------------------------------------------------------===//

/// The letter of a register constraint.
static char getConstraint(Type type) {
  if (isa<LLVM::LLVMPointerType>(type))
    return 'l';
  if (auto vector = dyn_cast<VectorType>(type))
    return vector.getNumElements() * vector.getElementTypeBitWidth() == 32
               ? 'r'
               : 'l';
  if (type.isF32())
    return 'f';
  if (type.isF64())
    return 'd';
  switch (type.getIntOrFloatBitWidth()) {
  case 1:
    return 'b';
  case 8:
  case 16:
    return 'h';
  case 64:
    return 'l';
  default:
    return 'r';
  }
}

Values PTXBuilder::inlineAsm(StringRef text, TypeRange results,
                             ValueRange operands, bool hasSideEffects,
                             ArrayRef<unsigned> tied) {
  SmallVector<std::string> constraints;
  for (Type type : results)
    constraints.push_back(std::string("=") + getConstraint(type));
  for (auto [index, operand] : llvm::enumerate(operands)) {
    const unsigned *tie = llvm::find(tied, index);
    constraints.push_back(
        tie != tied.end() ? std::to_string(tie - tied.begin())
                          : std::string(1, getConstraint(operand.getType())));
  }
  if (hasSideEffects)
    constraints.push_back("~{memory}");

  Type resultType;
  if (results.size() == 1)
    resultType = results.front();
  else if (results.size() > 1)
    resultType = LLVM::LLVMStructType::getLiteral(getContext(),
                                                  llvm::to_vector(results));
  auto op = LLVM::InlineAsmOp::create(
      *this, resultType, operands, text, llvm::join(constraints, ","),
      hasSideEffects, /*is_align_stack=*/false,
      LLVM::tailcallkind::TailCallKind::None,
      LLVM::AsmDialectAttr::get(getContext(), LLVM::AsmDialect::AD_ATT),
      /*operand_attrs=*/ArrayAttr());
  if (results.empty())
    return {};
  return results.size() == 1 ? Values{op.getResult(0)}
                             : unpack(op.getResult(0));
}
