//===- QuantLLMToCPU.cpp - Linears and contractions to fast kernels -------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelLibrary.h"
#include "SmallWork.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToCPU/KernelEmitter.h"
#include "quant-llm/Conversion/QuantLLMToCPU/LowerToLLVM.h"
#include "quant-llm/Conversion/QuantLLMToLinalg/QuantLLMToLinalg.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Matchers.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/TargetParser/Host.h"
#include "llvm/TargetParser/Triple.h"

#include <memory>

namespace quant_llm {
#define GEN_PASS_DEF_CONVERTQUANTLLMTOCPU
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

/// Whether a processor of the kind that code is made for has a feature of this
/// name.
static bool isFeature(StringRef name) {
  static const std::unique_ptr<llvm::MCSubtargetInfo> subtarget =
      []() -> std::unique_ptr<llvm::MCSubtargetInfo> {
    llvm::InitializeNativeTarget();
    llvm::Triple triple(llvm::sys::getProcessTriple());
    std::string error;
    const llvm::Target *target =
        llvm::TargetRegistry::lookupTarget(triple, error);
    return std::unique_ptr<llvm::MCSubtargetInfo>(
        target ? target->createMCSubtargetInfo(triple, "", "") : nullptr);
  }();
  return !subtarget || llvm::any_of(subtarget->getAllProcessorFeatures(),
                                    [&](const llvm::SubtargetFeatureKV &known) {
                                      return name == known.Key;
                                    });
}

namespace {

struct ConvertQuantLLMToCPU
    : public quant_llm::impl::ConvertQuantLLMToCPUBase<ConvertQuantLLMToCPU> {
  using ConvertQuantLLMToCPUBase::ConvertQuantLLMToCPUBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (failed(verifyCanonicalWeights(module)))
      return signalPassFailure();
    llvm::StringMap<bool> available = llvm::sys::getHostCPUFeatures();
    if (!features.empty()) {
      available.clear();
      for (StringRef feature : llvm::split(StringRef(features), ',')) {
        bool isEnabled = feature.consume_front("+");
        if (!isEnabled && !feature.consume_front("-")) {
          emitOptionError("features",
                          "expected names with + or - before them but got '" +
                              feature + "'");
          return signalPassFailure();
        }
        if (!isFeature(feature)) {
          emitOptionError("features",
                          "expected features of processors of this machine's "
                          "kind, in the names that llc -mattr=help lists, but "
                          "got '" +
                              feature + "'");
          return signalPassFailure();
        }
        available[feature] = isEnabled;
      }
    }
    unsigned bits = vectorBits != 0 ? vectorBits : getVectorBits(available);
    if (bits != 128 && bits != 256 && bits != 512) {
      emitOptionError("vector-bits",
                      "expected 128, 256 or 512 but got " + Twine(bits));
      return signalPassFailure();
    }
    // Narrower kernels are portable.
    if (bits == 512 && !available.lookup("avx512f")) {
      module.emitError("expected a processor with avx512f for vector-bits=512 "
                       "of convert-quant-llm-to-cpu; choose 128 or 256, or "
                       "name the features of another processor that the code "
                       "is for");
      return signalPassFailure();
    }
    pairProducts = (bits == 512 && available.lookup("avx512bw")) ||
                   (bits == 256 && available.lookup("avx2"));
    KernelLibrary library(module);
    parametersOfBytes.clear();
    IRRewriter rewriter(&getContext());
    SmallVector<QuantizeActivationOp> activations;
    module.walk([&](QuantizeActivationOp op) { activations.push_back(op); });
    for (QuantizeActivationOp op : activations) {
      rewriter.setInsertionPoint(op);
      decomposeQuantizeActivation(rewriter, op);
    }
    SmallVector<GroupedLinearOp> grouped;
    module.walk([&](GroupedLinearOp op) { grouped.push_back(op); });
    for (GroupedLinearOp op : grouped) {
      rewriter.setInsertionPoint(op);
      expandGroupedLinear(rewriter, op);
    }
    SmallVector<LinearOp> linears;
    module.walk([&](LinearOp op) { linears.push_back(op); });
    for (LinearOp op : linears) {
      rewriter.setInsertionPoint(op);
      splitLowRank(rewriter, op);
    }
    SmallVector<Operation *> ops;
    module.walk([&](Operation *op) {
      if (isa<LinearOp>(op) || isContraction(op))
        ops.push_back(op);
    });
    for (Operation *op : ops) {
      LogicalResult converted =
          isa<LinearOp>(op)
              ? convertLinear(module, library, cast<LinearOp>(op), bits)
              : convertContraction(module, library, cast<linalg::LinalgOp>(op),
                                   bits);
      if (failed(converted))
        return signalPassFailure();
    }
    // What is left of weights is dead.
    module.walk([&](AssembleOp op) {
      if (op.use_empty())
        op.erase();
    });
  }

  //===--------------------------------------------------------------------===//
  // quant_llm.linear
  //===--------------------------------------------------------------------===//

  DenseMap<Operation *, ParameterOp> parametersOfBytes;

  /// The bytes of a component of 8-bit floats, which is how kernels take it.
  Value getAsBytes(OpBuilder &builder, Location loc, KernelLibrary &library,
                   Value component) {
    auto type = cast<RankedTensorType>(component.getType());
    if (!isa<mlir::FloatType>(type.getElementType()) ||
        type.getElementTypeBitWidth() != 8)
      return component;
    auto bytes = RankedTensorType::get(type.getShape(), builder.getI8Type());
    // A parameter is read as bytes in the first place.
    if (auto get = component.getDefiningOp<GetParameterOp>()) {
      auto parameter = SymbolTable::lookupNearestSymbolFrom<ParameterOp>(
          get, get.getParameterAttr());
      ParameterOp &asBytes = parametersOfBytes[parameter];
      if (!asBytes) {
        OpBuilder::InsertionGuard guard(builder);
        builder.setInsertionPoint(parameter);
        // Any parameter may have this name already, with any type.
        asBytes = ParameterOp::create(
            builder, parameter.getLoc(),
            library.makeName((parameter.getSymName() + ".bytes").str()),
            parameter.getArchive(),
            builder.getStringAttr(parameter.getArchiveKey()), bytes);
        library.add(asBytes);
      }
      return GetParameterOp::create(builder, loc, bytes, asBytes.getSymName());
    }
    return arith::BitcastOp::create(builder, loc, bytes, component);
  }

  /// Whether codes of the input are multiplied with codes of the weights.
  static bool canMultiplyIntegers(LinearOp op, ActivationType type) {
    const ElementFormat element = type.getScheme().toNumerics().element;
    if (element.kind != ElementKind::Int && element.kind != ElementKind::UInt)
      return false;
    return llvm::all_of(op.getWeights().getTypes(), [&](Type weight) {
      auto quantized = dyn_cast<WeightType>(weight);
      if (!quantized)
        return false;
      KernelWeight description;
      description.scheme = quantized.getScheme().toNumerics();
      // Codes and zeros may be any bytes, whatever the element (`assemble`).
      return quant_llm::canMultiplyIntegers(description, op.getK(),
                                            type.getGroup(),
                                            /*largest=*/int64_t(1) << 8);
    });
  }

  /// Whether pairs of 16-bit integers are multiplied and added at this width.
  bool pairProducts = false;

  LogicalResult convertLinear(ModuleOp module, KernelLibrary &library,
                              LinearOp op, unsigned bits) {
    OpBuilder builder(op);
    Location loc = op.getLoc();
    auto resultType = cast<RankedTensorType>(op.getResult().getType());
    int64_t rank = resultType.getRank();

    LinearKernelSpec spec;
    spec.n = op.getN();
    spec.k = op.getK();
    spec.vectorBits = bits;
    Value dense = op.getInput(), inputScales;
    if (auto type = dyn_cast<ActivationType>(dense.getType())) {
      SmallVector<Value> components = getWeightComponents(builder, loc, dense);
      if (canMultiplyIntegers(op, type)) {
        std::tie(dense, inputScales) =
            emitIntegerActivation(builder, loc, type, components);
        spec.inputGroup = type.getGroup();
        spec.hasPairProducts = pairProducts;
      } else {
        dense = emitDequantizedActivation(builder, loc, type, components);
      }
    }
    spec.inputType = cast<RankedTensorType>(dense.getType()).getElementType();
    spec.resultType = resultType.getElementType();

    // Everything with a row per token becomes a matrix.
    auto toMatrix = [&](Value value) -> Value {
      auto type = cast<RankedTensorType>(value.getType());
      if (type.getRank() == 2)
        return value;
      if (type.getRank() == 1) {
        auto matrix = RankedTensorType::get({1, type.getDimSize(0)},
                                            type.getElementType());
        return tensor::ExpandShapeOp::create(
            builder, loc, matrix, value,
            ArrayRef<ReassociationIndices>{{0, 1}});
      }
      ReassociationIndices leading;
      for (int64_t i = 0; i + 1 < type.getRank(); ++i)
        leading.push_back(i);
      return tensor::CollapseShapeOp::create(
          builder, loc, value,
          ArrayRef<ReassociationIndices>{leading, {type.getRank() - 1}});
    };
    Value input = toMatrix(dense);

    SmallVector<Value> inputs{input};
    if (inputScales)
      inputs.push_back(toMatrix(inputScales));
    std::string key = "linear ";
    llvm::raw_string_ostream stream(key);
    stream << spec.n << " " << spec.k << " " << spec.inputType << " "
           << spec.resultType << " " << bits << " " << spec.inputGroup;
    for (Value weight : op.getWeights()) {
      KernelWeight &description = spec.weights.emplace_back();
      stream << " " << weight.getType();
      auto type = dyn_cast<WeightType>(weight.getType());
      if (!type) {
        description.denseType =
            cast<RankedTensorType>(weight.getType()).getElementType();
        inputs.push_back(weight);
        continue;
      }
      description.scheme = type.getScheme().toNumerics();
      SmallVector<Value> components = getWeightComponents(builder, loc, weight);
      inputs.push_back(components[0]);
      size_t next = 2;
      if (description.scheme.scaleScheme) {
        int64_t gridN = type.getGridN(), gridK = type.getGridK();
        inputs.push_back(emitDequantizedMatrix(
            builder, loc, gridN, gridK, *description.scheme.scaleScheme,
            ArrayRef<Value>(components).slice(1, 2)));
        next = 3;
      } else {
        inputs.push_back(getAsBytes(builder, loc, library, components[1]));
      }
      for (Value component : ArrayRef<Value>(components).drop_front(next))
        inputs.push_back(getAsBytes(builder, loc, library, component));
    }
    if (op.hasEpilogue()) {
      spec.epilogue = &op.getEpilogue().front();
      for (Operation &inner : *spec.epilogue) {
        stream << "\n";
        inner.print(stream, OpPrintingFlags().useLocalScope());
      }
    }
    for (Value operand : op.getEpilogueOperands()) {
      auto type = cast<RankedTensorType>(operand.getType());
      bool perChannel = type.getRank() == 1 && rank != 1;
      spec.operands.push_back({type.getElementType(), perChannel});
      stream << "\n" << type.getElementType() << " " << perChannel;
      inputs.push_back(perChannel ? operand : toMatrix(operand));
    }

    FlatSymbolRefAttr kernel = library.lookup(key);
    if (!kernel) {
      OpBuilder atEnd = OpBuilder::atBlockEnd(module.getBody());
      FailureOr<func::FuncOp> emitted = emitLinearKernel(
          atEnd, loc, library.makeName(getKernelHint(loc, "linear")), spec);
      if (failed(emitted))
        return failure();
      kernel = library.insert(key, *emitted);
      (*emitted)->setAttr(
          kParallelIfAttrName,
          builder.getDenseI64ArrayAttr(
              {kLeastParallelLinear,
               spec.n * spec.k * int64_t(op.getWeights().size()), 0, 0}));
    }
    SmallVector<OpFoldResult> sizes{
        tensor::getMixedSize(builder, loc, input, 0),
        builder.getIndexAttr(spec.n)};
    Value output =
        tensor::EmptyOp::create(builder, loc, sizes, spec.resultType);
    Value result = DispatchOp::create(builder, loc, TypeRange{output.getType()},
                                      kernel, inputs, ValueRange{output})
                       .getResult(0);
    if (rank == 1) {
      result = tensor::CollapseShapeOp::create(
          builder, loc, resultType, result,
          ArrayRef<ReassociationIndices>{{0, 1}});
    } else if (rank > 2) {
      ReassociationIndices leading;
      for (int64_t i = 0; i + 1 < rank; ++i)
        leading.push_back(i);
      SmallVector<OpFoldResult> shape =
          tensor::getMixedSizes(builder, loc, dense);
      shape.back() = builder.getIndexAttr(spec.n);
      result = tensor::ExpandShapeOp::create(
          builder, loc, resultType, result,
          ArrayRef<ReassociationIndices>{leading, {rank - 1}}, shape);
    } else if (result.getType() != resultType) {
      result = tensor::CastOp::create(builder, loc, resultType, result);
    }
    op.getResult().replaceAllUsesWith(result);
    op.erase();
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Contractions
  //===--------------------------------------------------------------------===//

  /// Whether the contraction kernel covers `op`.
  static bool isContraction(Operation *operation) {
    auto op = dyn_cast<linalg::LinalgOp>(operation);
    if (!op || !op.hasPureTensorSemantics() || op.getNumDpsInputs() != 2 ||
        op.getNumDpsInits() != 1 || op.getNumReductionLoops() != 1 ||
        !linalg::isaContractionOpInterface(op))
      return false;
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    unsigned m = 0, n = 0, k = 0;
    for (unsigned dim = 0; dim < op.getNumLoops(); ++dim) {
      bool inLhs = maps[0].isFunctionOfDim(dim);
      bool inRhs = maps[1].isFunctionOfDim(dim);
      bool inOut = maps[2].isFunctionOfDim(dim);
      if (inLhs && inOut && !inRhs)
        ++m;
      else if (inRhs && inOut && !inLhs)
        ++n;
      else if (inLhs && inRhs && !inOut)
        ++k;
      else if (!(inLhs && inRhs && inOut))
        return false;
    }
    // The body must multiply and add floats in f32.
    for (Operation &inner : op.getBlock()->without_terminator())
      if (!isa<arith::MulFOp, arith::AddFOp, arith::ExtFOp>(inner) ||
          !inner.getResult(0).getType().isF32())
        return false;
    auto isFloat = [](Value value) {
      Type type = cast<ShapedType>(value.getType()).getElementType();
      return type.isF32() || type.isF16() || type.isBF16();
    };
    return m > 0 && n > 0 && k == 1 &&
           llvm::all_of(
               maps,
               [](AffineMap map) { return map.isProjectedPermutation(); }) &&
           isFloat(op.getDpsInputOperand(0)->get()) &&
           isFloat(op.getDpsInputOperand(1)->get()) &&
           cast<ShapedType>(op.getDpsInitOperand(0)->get().getType())
               .getElementType()
               .isF32();
  }

  LogicalResult convertContraction(ModuleOp module, KernelLibrary &library,
                                   linalg::LinalgOp op, unsigned bits) {
    OpBuilder builder(op);
    Location loc = op.getLoc();
    auto convertType = [&](Value value) {
      auto type = cast<RankedTensorType>(value.getType());
      SmallVector<int64_t> strides(type.getRank(), ShapedType::kDynamic);
      if (!strides.empty())
        strides.back() = 1;
      return MemRefType::get(type.getShape(), type.getElementType(),
                             StridedLayoutAttr::get(builder.getContext(),
                                                    ShapedType::kDynamic,
                                                    strides));
    };
    Value lhs = op.getDpsInputOperand(0)->get();
    Value rhs = op.getDpsInputOperand(1)->get();
    Value init = op.getDpsInitOperand(0)->get();
    ContractionKernelSpec spec;
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    spec.lhsMap = maps[0];
    spec.rhsMap = maps[1];
    spec.outMap = maps[2];
    spec.lhsType = convertType(lhs);
    spec.rhsType = convertType(rhs);
    spec.outType = convertType(init);
    spec.vectorBits = bits;
    spec.accumulate = true;
    if (auto fill = init.getDefiningOp<linalg::FillOp>())
      if (matchPattern(fill.value(), m_AnyZeroFloat())) {
        spec.accumulate = false;
        init = fill.output();
      }
    std::string key = "contraction ";
    llvm::raw_string_ostream(key)
        << spec.lhsMap << spec.rhsMap << spec.outMap << spec.lhsType
        << spec.rhsType << spec.outType << spec.accumulate << bits;
    FlatSymbolRefAttr kernel = library.lookup(key);
    if (!kernel) {
      OpBuilder atEnd = OpBuilder::atBlockEnd(module.getBody());
      FailureOr<func::FuncOp> emitted = emitContractionKernel(
          atEnd, loc, library.makeName(getKernelHint(loc, "contraction")),
          spec);
      if (failed(emitted))
        return failure();
      kernel = library.insert(key, *emitted);
      // Each dimension once: those of the output, and the one that is summed.
      SmallVector<int64_t> work{kLeastParallelContraction, 1};
      for (int64_t i = 0; i < spec.outType.getRank(); ++i)
        work.append({2, i});
      for (unsigned i = 0; i < spec.lhsMap.getNumResults(); ++i)
        if (!spec.outMap.isFunctionOfDim(spec.lhsMap.getDimPosition(i)))
          work.append({0, i});
      (*emitted)->setAttr(kParallelIfAttrName,
                          builder.getDenseI64ArrayAttr(work));
    }
    auto dispatch =
        DispatchOp::create(builder, loc, TypeRange{init.getType()}, kernel,
                           ValueRange{lhs, rhs}, ValueRange{init});
    op->getResult(0).replaceAllUsesWith(dispatch.getResult(0));
    op->erase();
    return success();
  }
};

} // namespace
