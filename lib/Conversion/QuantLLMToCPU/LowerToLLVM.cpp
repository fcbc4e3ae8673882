//===- LowerToLLVM.cpp - From memref, scf and vector to LLVM --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/QuantLLMToCPU/LowerToLLVM.h"

#include "quant-llm/Conversion/Passes.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Index/IR/IndexDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Dialect/OpenMP/OpenMPDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/UB/IR/UBOps.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/OpenMP/OpenMPToLLVMIRTranslation.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "mlir/Transforms/Passes.h"

#include "llvm/TargetParser/Host.h"
#include "llvm/TargetParser/Triple.h"

using namespace mlir;

namespace quant_llm {

#define GEN_PASS_DEF_APPROXIMATEMATH
#define GEN_PASS_DEF_CHECKLIBRARYNAMES
#define GEN_PASS_DEF_GUARDPARALLEL
#include "quant-llm/Conversion/Passes.h.inc"

namespace {
struct ApproximateMath
    : public quant_llm::impl::ApproximateMathBase<ApproximateMath> {
  using ApproximateMathBase::ApproximateMathBase;

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    auto approximated = [](StringRef name) {
      return name == math::ExpOp::getOperationName() ||
             name == math::ExpM1Op::getOperationName() ||
             name == math::LogOp::getOperationName() ||
             name == math::Log1pOp::getOperationName() ||
             name == math::Log2Op::getOperationName() ||
             name == math::TanhOp::getOperationName() ||
             name == math::ErfOp::getOperationName();
    };
    if (approximate) {
      populateMathF32ExpansionPatterns(patterns, approximated);
      populateMathPolynomialApproximationPatterns(patterns, approximated);
    }
    arith::populateExpandBFloat16Patterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

/// Whether lowering or LLVM makes calls of the function `name`.
bool isCalledByCode(StringRef name) {
  static constexpr StringRef memory[] = {"memcpy", "memmove",      "memset",
                                         "memcmp", "bcmp",         "malloc",
                                         "free",   "aligned_alloc"};
  static constexpr StringRef math[] = {
      "acos",  "acosh", "asin",     "asinh",  "atan",      "atan2", "atanh",
      "cbrt",  "ceil",  "cos",      "cosh",   "copysign",  "erf",   "erfc",
      "exp",   "exp10", "exp2",     "expm1",  "fabs",      "floor", "fma",
      "fmax",  "fmin",  "fmod",     "frexp",  "ldexp",     "log",   "log10",
      "log1p", "log2",  "lround",   "modf",   "nearbyint", "pow",   "rint",
      "round", "rsqrt", "sin",      "sincos", "sinh",      "sqrt",  "tan",
      "tanh",  "trunc", "roundeven"};
  if (llvm::is_contained(memory, name) || llvm::is_contained(math, name))
    return true;
  // Of float, and of long double.
  return (name.consume_back("f") || name.consume_back("l")) &&
         llvm::is_contained(math, name);
}

struct CheckLibraryNames
    : public quant_llm::impl::CheckLibraryNamesBase<CheckLibraryNames> {
  using CheckLibraryNamesBase::CheckLibraryNamesBase;

  void runOnOperation() override {
    for (Operation &op : *getOperation().getBody()) {
      auto symbol = dyn_cast<SymbolOpInterface>(op);
      if (!symbol || symbol.isDeclaration() ||
          !isCalledByCode(symbol.getName()))
        continue;
      op.emitOpError("expected another name than that of the function '")
          << symbol.getName()
          << "' of the C library, which code calls; rename it";
      return signalPassFailure();
    }
  }
};

struct GuardParallel
    : public quant_llm::impl::GuardParallelBase<GuardParallel> {
  using GuardParallelBase::GuardParallelBase;

  void runOnOperation() override {
    func::FuncOp function = getOperation();
    auto work = function->getAttrOfType<DenseI64ArrayAttr>(kParallelIfAttrName);
    if (!work)
      return;
    function->removeAttr(kParallelIfAttrName);
    for (int64_t i = 2; i < work.size(); i += 2) {
      auto type = dyn_cast<MemRefType>(function.getArgumentTypes()[work[i]]);
      if (type && work[i + 1] < type.getRank())
        continue;
      function.emitOpError("expected argument ")
          << work[i] << " to have a dimension " << work[i + 1]
          << ", the work of which '" << kParallelIfAttrName << "' counts";
      return signalPassFailure();
    }
    if (function.isExternal())
      return;
    OpBuilder b = OpBuilder::atBlockBegin(&function.getBody().front());
    Location loc = function.getLoc();
    Value amount = arith::ConstantIndexOp::create(b, loc, work[1]);
    for (int64_t i = 2; i < work.size(); i += 2) {
      Value size = memref::DimOp::create(b, loc, function.getArgument(work[i]),
                                         work[i + 1]);
      amount = arith::MulIOp::create(b, loc, amount, size);
    }
    Value isLarge =
        arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sge, amount,
                              arith::ConstantIndexOp::create(b, loc, work[0]));
    function.walk([&](omp::ParallelOp op) {
      if (!op.getIfExpr())
        op.getIfExprMutable().assign(isLarge);
    });
  }
};
} // namespace

void buildLowerToLLVMPipeline(OpPassManager &pm,
                              const LowerToLLVMOptions &options) {
  pm.addPass(createCheckLibraryNames());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addNestedPass<func::FuncOp>(createExpandMath());
  pm.addNestedPass<func::FuncOp>(
      createApproximateMath({options.approximateMath}));
  pm.addNestedPass<func::FuncOp>(createConvertVectorToSCFPass(
      VectorTransferToSCFOptions().enableFullUnroll()));
  pm.addPass(createLowerAffinePass());
  pm.addPass(createLoopInvariantCodeMotionPass());
  if (options.openMP) {
    pm.addPass(createSerializeLoops());
    pm.addPass(createConvertSCFToOpenMPPass());
  }
  pm.addNestedPass<func::FuncOp>(createGuardParallel());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(memref::createExpandStridedMetadataPass());
  pm.addPass(createLowerAffinePass());
  pm.addPass(createSCFToControlFlowPass());
  // Powers whose exponent is an integer: LLVM has code for f32 and f64 with an
  // exponent of i32, and it calls a library that a process may lack.
  ConvertMathToFuncsOptions powerOptions;
  powerOptions.minWidthOfFPowIExponent = 1;
  pm.addPass(createConvertMathToFuncs(powerOptions));
  ConvertVectorToLLVMPassOptions vectorOptions;
  vectorOptions.reassociateFPReductions = true;
  vectorOptions.x86Vector = llvm::Triple(llvm::sys::getProcessTriple()).isX86();
  vectorOptions.vectorTransposeLowering =
      vector::VectorTransposeLowering::Shuffle16x16;
  pm.addPass(createConvertVectorToLLVMPass(vectorOptions));
  pm.addPass(createUBToLLVMConversionPass());
  pm.addPass(createConvertMathToLLVMPass());
  pm.addPass(createConvertMathToLibmPass());
  pm.addPass(createConvertIndexToLLVMPass());
  pm.addPass(createConvertFuncToLLVMPass());
  FinalizeMemRefToLLVMConversionPassOptions memrefOptions;
  memrefOptions.useAlignedAlloc = options.useRuntimeAllocator;
  memrefOptions.useGenericFunctions = options.useRuntimeAllocator;
  pm.addPass(createFinalizeMemRefToLLVMConversionPass(memrefOptions));
  pm.addPass(createArithToLLVMConversionPass());
  pm.addPass(createConvertControlFlowToLLVMPass());
  if (options.openMP)
    pm.addPass(createConvertOpenMPToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

void registerLowerToLLVMDialects(DialectRegistry &registry) {
  registry.insert<affine::AffineDialect, arith::ArithDialect,
                  cf::ControlFlowDialect, func::FuncDialect,
                  index::IndexDialect, LLVM::LLVMDialect, math::MathDialect,
                  memref::MemRefDialect, omp::OpenMPDialect, scf::SCFDialect,
                  ub::UBDialect, vector::VectorDialect>();
  registerBuiltinDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  registerOpenMPDialectTranslation(registry);
}

} // namespace quant_llm
