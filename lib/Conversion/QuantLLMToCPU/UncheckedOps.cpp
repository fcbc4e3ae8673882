//===- UncheckedOps.cpp - What quant-llm-insert-checks refuses ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "UncheckedOps.h"

#include "quant-llm/Conversion/QuantLLMToCPU/RuntimeFunctions.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/OpenMP/OpenMPDialect.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/UB/IR/UBOps.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/SymbolTable.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/SmallBitVector.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <limits>
#include <optional>

using namespace mlir;
using namespace quant_llm;

/// Functions of a model call each other a few levels deep. A frame of compiled
/// code is far below a thousandth of the usual 8 MiB.
static constexpr unsigned kMostCallDepth = 1000;

/// No memory has as many numbers.
static constexpr int64_t kMostPosition = int64_t(1) << 61;

//===----------------------------------------------------------------------===//
// Operations
//===----------------------------------------------------------------------===//

static bool isTensorOrBuffer(Type type) {
  return isa<TensorType, BaseMemRefType>(type);
}

static bool touchesTensorOrBuffer(Operation *op) {
  return llvm::any_of(op->getOperandTypes(), isTensorOrBuffer) ||
         llvm::any_of(op->getResultTypes(), isTensorOrBuffer);
}

/// Whether a view of the source type is one of the result type as far as the
/// distances in memory go, which nothing checks at run time.
static bool keepsLayout(memref::CastOp op) {
  auto from = dyn_cast<MemRefType>(op.getSource().getType()),
       to = dyn_cast<MemRefType>(op.getType());
  if (!from || !to)
    return true; // of unknown rank, which is refused elsewhere
  int64_t fromOffset, toOffset;
  SmallVector<int64_t> fromStrides, toStrides;
  if (failed(from.getStridesAndOffset(fromStrides, fromOffset)) ||
      failed(to.getStridesAndOffset(toStrides, toOffset)))
    return false;
  // Without a layout, strides are products of extents, which are checked.
  if (from.getLayout().isIdentity() && to.getLayout().isIdentity())
    return true;
  auto fits = [](int64_t is, int64_t promised) {
    return ShapedType::isDynamic(promised) || is == promised;
  };
  return fits(fromOffset, toOffset) &&
         llvm::all_of(llvm::zip_equal(fromStrides, toStrides), [&](auto pair) {
           return fits(std::get<0>(pair), std::get<1>(pair));
         });
}

/// Whether the function has a body, or is one of the runtime that checks of an
/// earlier run call.
static bool isDefined(func::FuncOp function) {
  return !function.isExternal() || function.getName() == kFailCheckFunction ||
         function.getName() == kRequireFunction;
}

/// Whether an element of a vector is named by a number that is known only at
/// run time, where no check of it can be: in the body of another op.
static bool hasUncheckedPosition(Operation *op) {
  auto extract = dyn_cast<vector::ExtractOp>(op);
  auto insert = dyn_cast<vector::InsertOp>(op);
  return ((extract && extract.hasDynamicPosition()) ||
          (insert && insert.hasDynamicPosition())) &&
         op->getParentOfType<linalg::LinalgOp>();
}

/// Whether an element of a vector is named that upstream leaves undefined, -1.
static bool hasUndefinedPosition(Operation *op) {
  if (auto extract = dyn_cast<vector::ExtractOp>(op))
    return llvm::is_contained(extract.getStaticPosition(),
                              vector::ExtractOp::kPoisonIndex);
  if (auto insert = dyn_cast<vector::InsertOp>(op))
    return llvm::is_contained(insert.getStaticPosition(),
                              vector::InsertOp::kPoisonIndex);
  auto shuffle = dyn_cast<vector::ShuffleOp>(op);
  return shuffle &&
         llvm::is_contained(shuffle.getMask(), vector::ShuffleOp::kPoisonIndex);
}

/// A type of floats that the arithmetic of `op` is on and that LLVM has not, or
/// has by calls of a library (f128); null if there is none.
static Type findFloatWithoutCode(Operation *op) {
  if (!isa_and_nonnull<arith::ArithDialect, math::MathDialect>(
          op->getDialect()) ||
      isa<arith::BitcastOp, arith::ConstantOp, arith::SelectOp>(op))
    return {};
  auto hasNoCode = [](Type type) {
    auto element = dyn_cast<mlir::FloatType>(getElementTypeOrSelf(type));
    return element && (element.getWidth() < 16 ||
                       isa<FloatTF32Type, Float128Type>(element));
  };
  for (TypeRange types :
       {TypeRange(op->getOperandTypes()), TypeRange(op->getResultTypes())})
    for (Type type : types)
      if (hasNoCode(type))
        return getElementTypeOrSelf(type);
  return {};
}

/// Whether a slice begins, by offsets that are known, in front of what it is
/// of, or so far behind that the position is that of no number in memory and
/// may be negative as one of 64 bits. The first offset with which it does.
static std::optional<int64_t> findWrongOffset(Operation *op) {
  auto slice = dyn_cast<OffsetSizeAndStrideOpInterface>(op);
  if (!slice)
    return std::nullopt;
  ShapedType type;
  if (auto extract = dyn_cast<tensor::ExtractSliceOp>(op))
    type = extract.getSourceType();
  else if (auto insert = dyn_cast<tensor::InsertSliceOp>(op))
    type = insert.getDestType();
  else if (auto insert = dyn_cast<tensor::ParallelInsertSliceOp>(op))
    type = insert.getDestType();
  else if (auto view = dyn_cast<memref::SubViewOp>(op))
    type = view.getSourceType();
  else
    return std::nullopt;
  SmallVector<OpFoldResult> offsets = slice.getMixedOffsets();
  SmallVector<int64_t> strides;
  int64_t first = 0;
  auto buffer = dyn_cast<MemRefType>(type);
  if (!buffer || failed(buffer.getStridesAndOffset(strides, first))) {
    first = 0;
    strides.assign(offsets.size(), 1);
    for (size_t i = offsets.size(); i-- > 1;)
      if (llvm::MulOverflow(strides[i],
                            type.isDynamicDim(i)
                                ? 1
                                : std::max<int64_t>(1, type.getDimSize(i)),
                            strides[i - 1]))
        strides[i - 1] = std::numeric_limits<int64_t>::max();
  }
  // Of what is not known, nothing is computed before the check.
  uint64_t farthest = 0;
  if (!ShapedType::isDynamic(first))
    farthest = llvm::AbsoluteValue(first);
  for (auto [offset, stride] : llvm::zip_equal(offsets, strides)) {
    std::optional<int64_t> value = getConstantIntValue(offset);
    if (!value)
      continue;
    if (*value < 0)
      return value;
    uint64_t factor = ShapedType::isDynamic(stride)
                          ? 1
                          : std::max<uint64_t>(1, llvm::AbsoluteValue(stride));
    farthest = llvm::SaturatingMultiplyAdd(uint64_t(*value), factor, farthest);
    if (*value > 0 && farthest > kMostPosition)
      return value;
  }
  return std::nullopt;
}

/// The type of a value, or of what it was before its extents were forgotten.
static ShapedType getKnownType(Value value) {
  while (auto cast = value.getDefiningOp<tensor::CastOp>()) {
    if (!isa<RankedTensorType>(cast.getSource().getType()))
      break;
    value = cast.getSource();
  }
  return cast<ShapedType>(value.getType());
}

/// What is wrong with sizes that are known, of slices and of tensors that are
/// padded or get another shape, for which patterns of upstream build buffers
/// that do not exist. Empty if nothing is.
static std::string findWrongSize(Operation *op) {
  auto write = [](const char *what, int64_t is) {
    return std::string("expected ") + what + " but got " + std::to_string(is);
  };
  auto findNegative = [&](ArrayRef<OpFoldResult> sizes, const char *what) {
    for (OpFoldResult size : sizes)
      if (std::optional<int64_t> value = getConstantIntValue(size);
          value && (*value < 0 || *value > kMostPosition))
        return write(what, *value);
    return std::string();
  };
  if (auto pad = dyn_cast<tensor::PadOp>(op)) {
    SmallVector<OpFoldResult> widths = pad.getMixedLowPad();
    llvm::append_range(widths, pad.getMixedHighPad());
    return findNegative(widths, "paddings that are not negative, and of a "
                                "tensor that fits into memory,");
  }
  static constexpr const char *kSizes =
      "sizes that are not negative, and of a tensor that fits into memory,";
  if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op))
    return findNegative(expand.getMixedOutputShape(), kSizes);
  if (auto expand = dyn_cast<memref::ExpandShapeOp>(op))
    return findNegative(expand.getMixedOutputShape(), kSizes);
  auto slice = dyn_cast<OffsetSizeAndStrideOpInterface>(op);
  if (!slice)
    return "";
  SmallVector<OpFoldResult> sizes = slice.getMixedSizes();
  if (std::string fault = findNegative(sizes, kSizes); !fault.empty())
    return fault;
  auto compare = [&](ShapedType whole, ShapedType part,
                     const llvm::SmallBitVector &dropped) {
    for (int64_t i = 0, j = 0, e = sizes.size(); i < e; ++i) {
      std::optional<int64_t> size = getConstantIntValue(sizes[i]);
      if (size && !whole.isDynamicDim(i) && *size > whole.getDimSize(i))
        return write(("a slice of at most " +
                      std::to_string(whole.getDimSize(i)) + " in dimension " +
                      std::to_string(i))
                         .c_str(),
                     *size);
      if (!part || dropped.test(i))
        continue;
      if (size && !part.isDynamicDim(j) && *size != part.getDimSize(j))
        return write(("a slice of " + std::to_string(part.getDimSize(j)) +
                      " in dimension " + std::to_string(i) +
                      ", the size of what is inserted,")
                         .c_str(),
                     *size);
      ++j;
    }
    return std::string();
  };
  if (auto extract = dyn_cast<tensor::ExtractSliceOp>(op))
    return compare(getKnownType(extract.getSource()), {}, {});
  if (auto insert = dyn_cast<tensor::InsertSliceOp>(op))
    return compare(getKnownType(insert.getDest()),
                   getKnownType(insert.getSource()), insert.getDroppedDims());
  if (auto insert = dyn_cast<tensor::ParallelInsertSliceOp>(op))
    return compare(insert.getDestType(), getKnownType(insert.getSource()),
                   insert.getDroppedDims());
  return "";
}

/// What is wrong with `op`; empty if nothing is.
static std::string findFault(Operation *op, SymbolTable &symbols) {
  StringRef dialect = op->getName().getDialectNamespace();
  if (isa_and_nonnull<LLVM::LLVMDialect, omp::OpenMPDialect>(op->getDialect()))
    return ("expected no op of the dialect '" + dialect +
            "', whose accesses to memory cannot be checked; write it with "
            "scf and memref")
        .str();
  if (isa_and_nonnull<ub::UBDialect>(op->getDialect()))
    return "expected defined values; an op with constant operands for which it "
           "is undefined folds to this";
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    auto type = dyn_cast<ShapedType>(constant.getType());
    if (type && !type.hasStaticShape())
      return "expected a constant of a fixed shape; one of a dynamic shape is "
             "what a pass made of arith.xori or arith.cmpi of a tensor with "
             "itself: run that pass later, or write linalg.fill";
  }
  if (auto dim = dyn_cast<ShapedDimOpInterface>(op)) {
    auto type = dyn_cast<ShapedType>(dim.getShapedValue().getType());
    std::optional<int64_t> index = getConstantIntValue(dim.getDimension());
    if (type && type.hasRank() && index &&
        (*index < 0 || *index >= type.getRank()))
      return "expected a dimension below the rank " +
             std::to_string(type.getRank()) + " but got " +
             std::to_string(*index);
    if (index)
      return "";
  }
  // Patterns of upstream crash on buffers with such strides.
  if (auto slice = dyn_cast<OffsetSizeAndStrideOpInterface>(op))
    for (OpFoldResult stride : slice.getMixedStrides())
      if (std::optional<int64_t> step = getConstantIntValue(stride);
          step && *step < 1)
        return "expected strides of slices that are positive but got " +
               std::to_string(*step);
  if (std::optional<int64_t> offset = findWrongOffset(op))
    return "expected offsets of slices that are not negative, and in a tensor "
           "that fits into memory, but got " +
           std::to_string(*offset);
  if (std::string fault = findWrongSize(op); !fault.empty())
    return fault;
  if (Type type = findFloatWithoutCode(op)) {
    std::string text;
    llvm::raw_string_ostream(text)
        << "expected f16, bf16, f32 or f64 but got '" << type
        << "', for which there is no arithmetic; weights and activations of "
           "small floats are those of quant_llm ops, others are decoded from "
           "their bits (arith.bitcast)";
    return text;
  }
  if ((op->getParentOfType<linalg::LinalgOp>() ||
       op->getParentOfType<LinearOpInterface>()) &&
      touchesTensorOrBuffer(op) &&
      !(isa<tensor::ExtractOp>(op) &&
        op->getResult(0).getType().isIntOrIndexOrFloat()))
    return "expected no access to tensors and buffers in the body of another "
           "op, where it cannot be checked, but for tensor.extract of a "
           "number and tensor.dim of a constant dimension";
  if (isa_and_nonnull<memref::MemRefDialect>(op->getDialect()) &&
      !isa<memref::AllocOp, memref::CastOp, memref::CollapseShapeOp,
           memref::CopyOp, memref::DimOp, memref::ExpandShapeOp,
           memref::GetGlobalOp, memref::GlobalOp, memref::LoadOp,
           memref::StoreOp, memref::SubViewOp>(op))
    return "expected an op whose accesses to memory can be checked: alloc, "
           "cast, collapse_shape, copy, dim, expand_shape, get_global, load, "
           "store or subview";
  if (auto cast = dyn_cast<memref::CastOp>(op); cast && !keepsLayout(cast))
    return "expected a cast that promises no strides and offset that its "
           "source does not have, which cannot be checked";
  if (auto global = dyn_cast<memref::GlobalOp>(op);
      global && global.isExternal())
    return "expected a value, since nothing else defines it";
  if (isa_and_nonnull<bufferization::BufferizationDialect>(op->getDialect()) &&
      !isa<bufferization::AllocTensorOp, bufferization::CloneOp,
           bufferization::MaterializeInDestinationOp, bufferization::ToBufferOp,
           bufferization::ToTensorOp>(op))
    return "expected an op whose accesses to memory can be checked: "
           "alloc_tensor, clone, materialize_in_destination, to_buffer or "
           "to_tensor";
  if (isa_and_nonnull<vector::VectorDialect>(op->getDialect()) &&
      touchesTensorOrBuffer(op))
    return "expected no access to tensors and buffers as vectors, which cannot "
           "be checked; write loops or linalg ops, which become vector code";
  if (isa<vector::VectorScaleOp>(op))
    return "expected a number of elements that is fixed, since the processors "
           "that code is made for have no scalable vectors; write a constant";
  if (hasUndefinedPosition(op))
    return "expected positions of elements of a vector but got -1, for which "
           "the result is undefined";
  if (hasUncheckedPosition(op))
    return "expected constant positions in a vector in the body of another op, "
           "where they cannot be checked";
  if (isa<CallOpInterface>(op) || isa<func::ConstantOp, DispatchOp>(op))
    for (NamedAttribute attribute : op->getAttrs())
      if (auto symbol = dyn_cast<FlatSymbolRefAttr>(attribute.getValue()))
        if (auto function = symbols.lookup<func::FuncOp>(symbol.getAttr());
            function && !isDefined(function))
          return ("expected a function of the module, but '" +
                  symbol.getValue() +
                  "' is only declared, and code from elsewhere is not called")
              .str();
  return "";
}

/// The types of `op` and of the arguments of its blocks, and its attributes.
static WalkResult walkTypes(Operation *op, AttrTypeWalker &walker) {
  auto walk = [&](auto types) {
    for (Type type : types)
      if (walker.walk(type).wasInterrupted())
        return true;
    return false;
  };
  if (walk(op->getOperandTypes()) || walk(op->getResultTypes()))
    return WalkResult::interrupt();
  for (Region &region : op->getRegions())
    for (Block &block : region)
      if (walk(block.getArgumentTypes()))
        return WalkResult::interrupt();
  return walker.walk(op->getAttrDictionary());
}

LogicalResult quant_llm::refuseUncheckedOps(ModuleOp module) {
  SymbolTable symbols(module);
  // The processors here have no such vectors, and LLVM ends the process.
  VectorType scalable;
  AttrTypeWalker walker;
  walker.addWalk([&](VectorType type) {
    if (!type.isScalable())
      return WalkResult::advance();
    scalable = type;
    return WalkResult::interrupt();
  });
  WalkResult walked =
      module.walk<WalkOrder::PreOrder>([&](Operation *op) -> WalkResult {
        if (op != module && op->hasTrait<OpTrait::SymbolTable>())
          return op->emitOpError(
              "expected functions at the top level of the module, where they "
              "can be checked");
        if (op != module && walkTypes(op, walker).wasInterrupted())
          return op->emitOpError("expected vectors of a fixed number of "
                                 "elements but got ")
                 << scalable << "; write the number without brackets";
        std::string fault = findFault(op, symbols);
        if (!fault.empty())
          return op->emitOpError(fault);
        return WalkResult::advance();
      });
  return failure(walked.wasInterrupted());
}

//===----------------------------------------------------------------------===//
// Calls
//===----------------------------------------------------------------------===//

namespace {

struct CallNode {
  /// Each function that is named in this one, and where it first is.
  llvm::MapVector<Operation *, Operation *> callees;
  enum { New, Open, Done } state = New;
  /// Of calls below this one.
  unsigned depth = 0;
};

} // namespace

LogicalResult quant_llm::refuseRecursion(ModuleOp module) {
  SymbolTable symbols(module);
  llvm::MapVector<Operation *, CallNode> graph;
  for (auto function : module.getOps<func::FuncOp>()) {
    CallNode &node = graph[function];
    auto uses = SymbolTable::getSymbolUses(function);
    if (!uses)
      continue;
    for (const SymbolTable::SymbolUse &use : *uses)
      if (auto callee = symbols.lookup<func::FuncOp>(
              use.getSymbolRef().getRootReference()))
        node.callees.insert({callee, use.getUser()});
  }
  for (auto &[root, unused] : graph) {
    // Depth first, with a stack of our own: the calls may be deep.
    SmallVector<std::pair<Operation *, size_t>> path;
    auto enter = [&](Operation *function) {
      graph[function].state = CallNode::Open;
      path.emplace_back(function, 0);
    };
    if (graph[root].state == CallNode::New)
      enter(root);
    while (!path.empty()) {
      auto &[function, next] = path.back();
      CallNode &node = graph[function];
      if (next == node.callees.size()) {
        node.state = CallNode::Done;
        path.pop_back();
        continue;
      }
      auto [callee, call] = *std::next(node.callees.begin(), next);
      CallNode &other = graph[callee];
      if (other.state == CallNode::Open)
        return call->emitOpError("expected functions that do not call "
                                 "themselves, since the stack is finite, but "
                                 "got a call of '")
               << cast<func::FuncOp>(callee).getName()
               << "', which leads here; write a loop";
      if (other.state == CallNode::New) {
        enter(callee);
        continue;
      }
      ++next;
      node.depth = std::max(node.depth, other.depth + 1);
      if (node.depth > kMostCallDepth)
        return call->emitOpError("expected calls that are at most ")
               << kMostCallDepth << " deep, since the stack is finite";
    }
  }
  return success();
}
