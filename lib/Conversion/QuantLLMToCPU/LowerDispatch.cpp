//===- LowerDispatch.cpp - Dispatches and copies to calls -----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelLibrary.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/RuntimeFunctions.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

namespace quant_llm {
#define GEN_PASS_DEF_LOWERDISPATCH
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

namespace {

/// True if a cast from one layout to the other is always right: what the kernel
/// knows must be known of the operand as well.
bool isCastSafe(MemRefType from, MemRefType to) {
  if (!memref::CastOp::areCastCompatible(from, to))
    return false;
  SmallVector<int64_t> fromStrides, toStrides;
  int64_t fromOffset = 0, toOffset = 0;
  if (failed(from.getStridesAndOffset(fromStrides, fromOffset)) ||
      failed(to.getStridesAndOffset(toStrides, toOffset)))
    return false;
  if (!ShapedType::isDynamic(toOffset) && toOffset != fromOffset)
    return false;
  for (auto [known, wanted] : llvm::zip(fromStrides, toStrides))
    if (!ShapedType::isDynamic(wanted) && wanted != known)
      return false;
  for (auto [known, wanted] : llvm::zip(from.getShape(), to.getShape()))
    if (!ShapedType::isDynamic(wanted) && wanted != known)
      return false;
  return true;
}

struct LowerDispatch
    : public quant_llm::impl::LowerDispatchBase<LowerDispatch> {
  using LowerDispatchBase::LowerDispatchBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    KernelLibrary library(module);
    SmallVector<DispatchOp> dispatches;
    SmallVector<memref::CopyOp> copies;
    for (auto function : module.getOps<func::FuncOp>()) {
      if (function->hasAttr(kKernelAttrName))
        continue;
      function.walk([&](Operation *op) {
        if (auto dispatch = dyn_cast<DispatchOp>(op))
          dispatches.push_back(dispatch);
        else if (auto copy = dyn_cast<memref::CopyOp>(op))
          copies.push_back(copy);
      });
    }
    for (memref::CopyOp copy : copies)
      lowerCopy(module, library, copy.getLoc(), copy, copy.getSource(),
                copy.getTarget());
    for (memref::CopyOp copy : copies)
      copy.erase();
    SmallVector<memref::ExpandShapeOp> reshapes;
    module.walk([&](memref::ExpandShapeOp op) { reshapes.push_back(op); });
    for (memref::ExpandShapeOp op : reshapes)
      lowerExpandShape(op);
    SymbolTable symbols(module);
    for (DispatchOp dispatch : dispatches)
      if (failed(lower(module, library, symbols, dispatch)))
        return signalPassFailure();
    if (profile)
      module->setAttr(kProfiledKernelsAttrName,
                      OpBuilder(module).getArrayAttr(profiled));
  }

  /// expand-strided-metadata of LLVM 22.1 crashes on two dynamic extents in one
  /// group (docs/UpstreamIssues.md), so these are written out here.
  void lowerExpandShape(memref::ExpandShapeOp op) {
    MemRefType type = op.getResultType();
    auto hasTwo = [&](ArrayRef<int64_t> group) {
      return llvm::count_if(
                 group, [&](int64_t i) { return type.isDynamicDim(i); }) > 1;
    };
    SmallVector<ReassociationIndices> groups = op.getReassociationIndices();
    if (llvm::none_of(groups, hasTwo))
      return;
    OpBuilder builder(op);
    Location loc = op.getLoc();
    auto source =
        memref::ExtractStridedMetadataOp::create(builder, loc, op.getSrc());
    SmallVector<OpFoldResult> sizes = op.getMixedOutputShape();
    SmallVector<OpFoldResult> strides(sizes.size());
    AffineExpr a, b;
    bindSymbols(op.getContext(), a, b);
    for (auto [group, stride] :
         llvm::zip_equal(groups, source.getConstifiedMixedStrides())) {
      for (int64_t i : llvm::reverse(group)) {
        strides[i] = stride;
        stride = affine::makeComposedFoldedAffineApply(builder, loc, a * b,
                                                       {stride, sizes[i]});
      }
    }
    Value view = memref::ReinterpretCastOp::create(
        builder, loc, type, source.getBaseBuffer(),
        source.getConstifiedMixedOffset(), sizes, strides);
    op.replaceAllUsesWith(view);
    op.erase();
  }

  /// A function that copies any slices of one rank.
  FlatSymbolRefAttr getCopyKernel(ModuleOp module, KernelLibrary &library,
                                  Location loc, int64_t rank, Type element,
                                  bool contiguousRows) {
    std::string key;
    llvm::raw_string_ostream(key)
        << "copy " << rank << " " << element << " " << contiguousRows;
    if (FlatSymbolRefAttr known = library.lookup(key))
      return known;
    OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
    SmallVector<int64_t> shape(rank, ShapedType::kDynamic);
    SmallVector<int64_t> strides = shape;
    if (contiguousRows)
      strides.back() = 1;
    auto type =
        MemRefType::get(shape, element,
                        StridedLayoutAttr::get(builder.getContext(),
                                               ShapedType::kDynamic, strides));
    auto kernel =
        func::FuncOp::create(builder, loc, library.makeName("copy"),
                             builder.getFunctionType({type, type}, {}));
    Block *entry = kernel.addEntryBlock();
    builder.setInsertionPointToStart(entry);
    Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
    Value one = arith::ConstantIndexOp::create(builder, loc, 1);
    SmallVector<Value> extents, indices;
    for (int64_t i = 0; i < rank; ++i)
      extents.push_back(
          memref::DimOp::create(builder, loc, entry->getArgument(0), i));
    for (int64_t i = 0; i < rank; ++i) {
      auto loop = scf::ForOp::create(builder, loc, zero, extents[i], one);
      builder.setInsertionPointToStart(loop.getBody());
      indices.push_back(loop.getInductionVar());
    }
    Value value =
        memref::LoadOp::create(builder, loc, entry->getArgument(0), indices);
    memref::StoreOp::create(builder, loc, value, entry->getArgument(1),
                            indices);
    builder.setInsertionPointToEnd(entry);
    func::ReturnOp::create(builder, loc);
    return library.insert(key, kernel);
  }

  void lowerCopy(ModuleOp module, KernelLibrary &library, Location loc,
                 Operation *before, Value source, Value target) {
    auto from = cast<MemRefType>(source.getType());
    auto to = cast<MemRefType>(target.getType());
    auto hasContiguousRows = [](MemRefType type) {
      SmallVector<int64_t> strides;
      int64_t offset = 0;
      return succeeded(type.getStridesAndOffset(strides, offset)) &&
             !strides.empty() && strides.back() == 1;
    };
    bool contiguous = hasContiguousRows(from) && hasContiguousRows(to);
    FlatSymbolRefAttr kernel =
        getCopyKernel(module, library, loc, from.getRank(),
                      from.getElementType(), contiguous);
    auto argument = cast<MemRefType>(
        module.lookupSymbol<func::FuncOp>(kernel).getArgumentTypes()[0]);
    OpBuilder builder(before);
    Value begin = beginProfile(module, builder, loc);
    auto cast = [&](Value value) -> Value {
      return value.getType() == argument
                 ? value
                 : memref::CastOp::create(builder, loc, argument, value)
                       .getResult();
    };
    func::CallOp::create(builder, loc, kernel.getValue(), TypeRange{},
                         ValueRange{cast(source), cast(target)});
    endProfile(builder, loc, kernel.getValue(), begin);
  }

  LogicalResult lower(ModuleOp module, KernelLibrary &library,
                      SymbolTable &symbols, DispatchOp op) {
    OpBuilder builder(op);
    Location loc = op.getLoc();
    auto kernel = symbols.lookup<func::FuncOp>(op.getKernel());
    if (!kernel)
      return op.emitOpError("expected kernel ")
             << op.getKernelAttr() << " to be a func.func";
    if (!op.getResults().empty())
      return op.emitOpError(
          "expected memrefs but got tensors; bufferize first");
    SmallVector<Value> operands;
    struct Temporary {
      Value buffer;
      Value original;
      bool copyBack;
    };
    SmallVector<Temporary> temporaries;
    unsigned index = 0;
    auto add = [&](Value value, bool isOutput) {
      Type wanted = kernel.getArgumentTypes()[index++];
      if (value.getType() == wanted) {
        operands.push_back(value);
        return;
      }
      auto from = cast<MemRefType>(value.getType());
      auto to = cast<MemRefType>(wanted);
      if (!isCastSafe(from, to)) {
        auto type = MemRefType::get(from.getShape(), from.getElementType());
        SmallVector<Value> extents;
        for (int64_t i = 0; i < from.getRank(); ++i)
          if (from.isDynamicDim(i))
            extents.push_back(memref::DimOp::create(builder, loc, value, i));
        Value buffer = memref::AllocOp::create(builder, loc, type, extents,
                                               builder.getI64IntegerAttr(64));
        temporaries.push_back({buffer, value, isOutput});
        lowerCopy(module, library, loc, op, value, buffer);
        value = buffer;
      }
      if (value.getType() != wanted)
        value = memref::CastOp::create(builder, loc, to, value);
      operands.push_back(value);
    };
    for (Value input : op.getInputs())
      add(input, /*isOutput=*/false);
    for (Value output : op.getOutputs())
      add(output, /*isOutput=*/true);
    Value begin = beginProfile(module, builder, loc);
    func::CallOp::create(builder, loc, kernel, operands);
    endProfile(builder, loc, op.getKernel(), begin);
    for (const Temporary &temporary : temporaries) {
      if (temporary.copyBack)
        lowerCopy(module, library, loc, op, temporary.buffer,
                  temporary.original);
      memref::DeallocOp::create(builder, loc, temporary.buffer);
    }
    op.erase();
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Measuring time
  //===--------------------------------------------------------------------===//

  Value beginProfile(ModuleOp module, OpBuilder &builder, Location loc) {
    if (!profile)
      return nullptr;
    Type i64 = builder.getI64Type();
    if (!module.lookupSymbol(kProfileBeginFunction)) {
      OpBuilder::InsertionGuard guard(builder);
      builder.setInsertionPointToStart(module.getBody());
      Type pointer = LLVM::LLVMPointerType::get(builder.getContext());
      func::FuncOp::create(builder, loc, kProfileBeginFunction,
                           builder.getFunctionType({}, {i64}))
          .setPrivate();
      func::FuncOp::create(builder, loc, kProfileEndFunction,
                           builder.getFunctionType({pointer, i64, i64}, {}))
          .setPrivate();
      LLVM::GlobalOp::create(builder, loc, builder.getI8Type(),
                             /*isConstant=*/false, LLVM::Linkage::External,
                             kProfileTimes, Attribute());
    }
    return func::CallOp::create(builder, loc, kProfileBeginFunction,
                                TypeRange{i64}, ValueRange{})
        .getResult(0);
  }

  void endProfile(OpBuilder &builder, Location loc, StringRef kernel,
                  Value begin) {
    if (!begin)
      return;
    auto [it, inserted] = numberOf.try_emplace(kernel, profiled.size());
    if (inserted)
      profiled.push_back(builder.getStringAttr(kernel));
    Value number =
        arith::ConstantIntOp::create(builder, loc, it->second, /*width=*/64);
    Value times = LLVM::AddressOfOp::create(
        builder, loc, LLVM::LLVMPointerType::get(builder.getContext()),
        kProfileTimes);
    func::CallOp::create(builder, loc, kProfileEndFunction, TypeRange{},
                         ValueRange{times, number, begin});
  }

  llvm::StringMap<int64_t> numberOf;
  SmallVector<Attribute> profiled;
};

} // namespace
