//===- WidenToF64.cpp - All arithmetic in f64 -----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Equivalence/Passes.h"

#include "quant-llm/Conversion/Passes.h"
#include "quant-llm/Conversion/QuantLLMToLinalg/QuantLLMToLinalg.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

using namespace mlir;
using namespace quant_llm;

/// f16, bf16 and f32, also as elements of tensors, become f64.
static Type widen(Type type) {
  Type element = getElementTypeOrSelf(type);
  if (!element.isF16() && !element.isBF16() && !element.isF32())
    return type;
  Type wide = Float64Type::get(type.getContext());
  if (auto shaped = dyn_cast<ShapedType>(type))
    return shaped.clone(wide);
  return wide;
}

static double toDouble(APFloat value) {
  bool losesInfo;
  value.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven,
                &losesInfo);
  return value.convertToDouble();
}

/// The attribute of a constant.
static FailureOr<TypedAttr> widen(Operation *op, TypedAttr attr) {
  Type type = widen(attr.getType());
  if (type == attr.getType())
    return attr;
  if (auto number = dyn_cast<FloatAttr>(attr))
    return TypedAttr(FloatAttr::get(type, toDouble(number.getValue())));
  if (auto elements = dyn_cast<DenseFPElementsAttr>(attr))
    return cast<TypedAttr>(elements.mapValues(
        getElementTypeOrSelf(type), [](const APFloat &value) {
          return APFloat(toDouble(value)).bitcastToAPInt();
        }));
  return op->emitOpError("cannot be widened to f64: expected a number or a "
                         "dense attribute");
}

/// A parameter keeps the type that its file has.
static void widenParameter(GetParameterOp get) {
  auto type = dyn_cast<RankedTensorType>(get.getType());
  if (!type || widen(type) == type)
    return;
  OpBuilder builder(get->getContext());
  builder.setInsertionPointAfter(get);
  auto wide = cast<RankedTensorType>(widen(type));
  Value empty = tensor::EmptyOp::create(builder, get.getLoc(), wide.getShape(),
                                        wide.getElementType());
  AffineMap identity = builder.getMultiDimIdentityMap(type.getRank());
  auto generic = linalg::GenericOp::create(
      builder, get.getLoc(), TypeRange{wide}, get.getResult(), empty,
      ArrayRef<AffineMap>{identity, identity},
      SmallVector<utils::IteratorType>(type.getRank(),
                                       utils::IteratorType::parallel),
      [&](OpBuilder &b, Location loc, ValueRange args) {
        Value element =
            arith::ExtFOp::create(b, loc, wide.getElementType(), args[0]);
        linalg::YieldOp::create(b, loc, element);
      });
  get.getResult().replaceAllUsesExcept(generic.getResult(0), generic);
}

LogicalResult quant_llm::widenToF64(ModuleOp module) {
  MLIRContext *context = module.getContext();
  PassManager pm(context);
  pm.addPass(createInlineBlocks());
  pm.addPass(createDecomposeWeights());
  if (failed(pm.run(module)) || failed(verifyCanonicalWeights(module)))
    return failure();
  // Transforms stay for now: widened, they compute with exact roots.
  RewritePatternSet linears(context);
  populateQuantLLMToLinalgPatterns(linears);
  // Constants must not be folded in the types that they have.
  GreedyRewriteConfig config;
  config.enableFolding(false).enableConstantCSE(false);
  if (failed(applyPatternsGreedily(module, std::move(linears), config)))
    return failure();

  SmallVector<GetParameterOp> parameters;
  WalkResult walked = module.walk([&](Operation *op) {
    if (auto get = dyn_cast<GetParameterOp>(op)) {
      parameters.push_back(get);
      return WalkResult::advance();
    }
    if (isa<QuantizeOp, QuantizeActivationOp>(op)) {
      op->emitOpError("cannot be compared in f64: codes depend on roundings");
      return WalkResult::interrupt();
    }
    if (isa<arith::BitcastOp>(op) &&
        (widen(op->getOperand(0).getType()) != op->getOperand(0).getType() ||
         widen(op->getResult(0).getType()) != op->getResult(0).getType())) {
      op->emitOpError("cannot be widened to f64: it depends on the bits of "
                      "a number");
      return WalkResult::interrupt();
    }
    if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
      FailureOr<TypedAttr> attr = widen(op, constant.getValue());
      if (failed(attr))
        return WalkResult::interrupt();
      constant.setValueAttr(*attr);
    }
    for (Value result : op->getResults())
      result.setType(widen(result.getType()));
    for (Region &region : op->getRegions())
      for (Block &block : region)
        for (BlockArgument argument : block.getArguments())
          argument.setType(widen(argument.getType()));
    if (auto function = dyn_cast<FunctionOpInterface>(op)) {
      SmallVector<Type> arguments, results;
      for (Type type : function.getArgumentTypes())
        arguments.push_back(widen(type));
      for (Type type : function.getResultTypes())
        results.push_back(widen(type));
      function.setType(FunctionType::get(context, arguments, results));
    }
    return WalkResult::advance();
  });
  if (walked.wasInterrupted())
    return failure();
  // Conversions between types that have become one.
  module.walk([](Operation *op) {
    if (isa<arith::ExtFOp, arith::TruncFOp>(op) &&
        op->getOperand(0).getType() == op->getResult(0).getType()) {
      op->getResult(0).replaceAllUsesWith(op->getOperand(0));
      op->erase();
    }
  });
  for (GetParameterOp get : parameters)
    widenParameter(get);

  RewritePatternSet transforms(context);
  populateTransformsToLinalgPatterns(transforms);
  return applyPatternsGreedily(module, std::move(transforms));
}
