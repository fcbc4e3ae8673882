//===- PTX.cpp - From gpu.module to PTX -----------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Upstream's gpu-module-to-binary does the same with three differences: it
// leaves inline assembly not convergent, so that LLVM may duplicate a barrier
// in one (docs/UpstreamIssues.md); it links the device library of whatever
// toolkit it finds; and what the back end cannot select ends the process.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Target/PTX.h"
#include "quant-llm/Target/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/GPUToNVVM/GPUToNVVMPass.h"
#include "mlir/Conversion/IndexToLLVM/IndexToLLVM.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Index/IR/IndexDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Target/LLVM/ModuleToObject.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/GPU/GPUToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/DiagnosticInfo.h"
#include "llvm/IR/DiagnosticPrinter.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/CrashRecoveryContext.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

#include <mutex>

namespace quant_llm {
#define GEN_PASS_DEF_LOWERTONVVM
#include "quant-llm/Target/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr llvm::StringLiteral tripleName = "nvptx64-nvidia-cuda";

//===----------------------------------------------------------------------===//
// Target
//===----------------------------------------------------------------------===//

static void initializeNVPTX() {
  static bool once = [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    return true;
  }();
  (void)once;
}

namespace {
/// Versions of PTX (81 for 8.1) of a generation of chips: the oldest that LLVM
/// accepts, and the oldest that has all instructions which kernels use.
struct PTXVersions {
  unsigned oldest;
  unsigned preferred;
};
} // namespace

static PTXVersions getPTXVersions(unsigned computeCapability) {
  if (computeCapability < 90)
    return {78, 78};
  if (computeCapability < 100)
    return {80, 81}; // 8.1: st.async
  if (computeCapability == 100)
    return {86, 86};
  if (computeCapability == 120)
    return {87, 87};
  return {90, 90};
}

Result<NVVM::NVVMTargetAttr> quant_llm::getNVVMTarget(MLIRContext *context,
                                                      StringRef chip,
                                                      StringRef features) {
  initializeNVPTX();
  llvm::Triple triple(tripleName);
  std::string text;
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple, text);
  if (!target)
    return Status::error("this LLVM cannot generate PTX: " + text);
  std::unique_ptr<llvm::MCSubtargetInfo> info(
      target->createMCSubtargetInfo(triple, "", ""));
  StringRef number = chip;
  unsigned computeCapability;
  if (!info->isCPUStringValid(chip) || !number.consume_front("sm_") ||
      number.consumeInteger(10, computeCapability) || computeCapability < 80)
    return Status::error("expected a chip from sm_80 on, such as sm_86, "
                         "sm_90a or sm_120a, but got '" +
                         chip.str() + "'");
  PTXVersions versions = getPTXVersions(computeCapability);
  std::string version = "+ptx" + std::to_string(versions.preferred);
  if (!features.empty()) {
    unsigned given;
    StringRef rest = features;
    bool known =
        llvm::any_of(info->getAllProcessorFeatures(), [&](const auto &feature) {
          return features.starts_with("+") &&
                 features.drop_front() == feature.Key;
        });
    if (!known || !rest.consume_front("+ptx") || rest.getAsInteger(10, given) ||
        given < versions.oldest)
      return Status::error("expected features of " + chip.str() +
                           " to be a version of PTX from '+ptx" +
                           std::to_string(versions.oldest) +
                           "' on that LLVM knows but got '" + features.str() +
                           "'");
    version = features.str();
  }
  return NVVM::NVVMTargetAttr::get(context, /*optLevel=*/2, tripleName, chip,
                                   version);
}

//===----------------------------------------------------------------------===//
// Lowering
//===----------------------------------------------------------------------===//

namespace {
struct LowerToNVVMPass
    : public quant_llm::impl::LowerToNVVMBase<LowerToNVVMPass> {
  void runOnOperation() override {
    LLVMTypeConverter converter(&getContext());
    configureGpuToNVVMTypeConverter(converter);
    RewritePatternSet patterns(&getContext());
    populateGpuToNVVMConversionPatterns(converter, patterns);
    arith::populateArithToLLVMConversionPatterns(converter, patterns);
    cf::populateControlFlowToLLVMConversionPatterns(converter, patterns);
    index::populateIndexToLLVMConversionPatterns(converter, patterns);
    LLVMConversionTarget target(getContext());
    target.addIllegalDialect<arith::ArithDialect, cf::ControlFlowDialect,
                             gpu::GPUDialect, index::IndexDialect,
                             math::MathDialect>();
    target.addLegalDialect<NVVM::NVVMDialect>();
    target.addLegalOp<gpu::GPUModuleOp>();
    if (failed(applyPartialConversion(getOperation(), target,
                                      std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace

void quant_llm::buildLowerToNVVMPipeline(OpPassManager &pm) {
  pm.addPass(createExpandGPUMath());
  pm.addPass(createSCFToControlFlowPass());
  // What is left of math has instructions of its own.
  pm.addPass(createConvertMathToLLVMPass());
  pm.addPass(createConvertVectorToLLVMPass());
  pm.addPass(createLowerToNVVM());
  pm.addPass(createConvertNVVMToLLVMPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
}

//===----------------------------------------------------------------------===//
// Translation
//===----------------------------------------------------------------------===//

/// True for the intrinsics that would become calls of a library, which ends
/// the process in the back end.
static bool needsLibrary(const llvm::IntrinsicInst &call) {
  switch (call.getIntrinsicID()) {
  case llvm::Intrinsic::exp2:
    return !call.getType()->isFloatTy() && !call.getType()->isHalfTy();
  case llvm::Intrinsic::acos:
  case llvm::Intrinsic::asin:
  case llvm::Intrinsic::atan:
  case llvm::Intrinsic::atan2:
  case llvm::Intrinsic::cos:
  case llvm::Intrinsic::cosh:
  case llvm::Intrinsic::exp:
  case llvm::Intrinsic::exp10:
  case llvm::Intrinsic::frexp:
  case llvm::Intrinsic::ldexp:
  case llvm::Intrinsic::log:
  case llvm::Intrinsic::log10:
  case llvm::Intrinsic::log2:
  case llvm::Intrinsic::modf:
  case llvm::Intrinsic::pow:
  case llvm::Intrinsic::powi:
  case llvm::Intrinsic::sin:
  case llvm::Intrinsic::sincos:
  case llvm::Intrinsic::sincospi:
  case llvm::Intrinsic::sinh:
  case llvm::Intrinsic::tan:
  case llvm::Intrinsic::tanh:
    return true;
  default:
    return false;
  }
}

/// Whether PTX can have the name, or the back end replaces it: that of a local
/// symbol may have dots.
static bool isSymbolOfPTX(const llvm::GlobalValue &value) {
  StringRef name = value.getName();
  if (name.starts_with("llvm."))
    return true;
  bool isLocal = value.hasLocalLinkage();
  return !name.empty() && !llvm::isDigit(name.front()) &&
         llvm::all_of(name, [&](char c) {
           return llvm::isAlnum(c) || c == '_' || c == '$' ||
                  (isLocal && (c == '.' || c == '@'));
         });
}

/// Calls `body`; false if LLVM gave up in it ("Cannot select"), which would end
/// the process otherwise. What it held is then lost.
static bool runRecovering(llvm::function_ref<void()> body) {
  // The handlers of signals are the whole process's.
  static std::mutex mutex;
  static unsigned users;
  auto enter = [](int change) {
    std::lock_guard<std::mutex> lock(mutex);
    bool wasUsed = users != 0;
    users += change;
    if (wasUsed != (users != 0))
      users ? llvm::CrashRecoveryContext::Enable()
            : llvm::CrashRecoveryContext::Disable();
  };
  enter(1);
  llvm::CrashRecoveryContext recovery;
  bool finished = recovery.RunSafely(body);
  enter(-1);
  return finished;
}

namespace {

class PTXTranslation : public LLVM::ModuleToObject {
public:
  PTXTranslation(gpu::GPUModuleOp module, NVVM::NVVMTargetAttr target)
      : ModuleToObject(*module, tripleName, target.getChip(),
                       target.getFeatures(), target.getO(), markConvergent) {}

protected:
  /// Every function, and every inline assembly that does more than arithmetic,
  /// may synchronize threads: it must be executed by the threads that execute
  /// it in the source, and never be duplicated into the sides of a branch.
  static void markConvergent(llvm::Module &module) {
    for (llvm::Function &function : module) {
      if (function.isDeclaration())
        continue;
      function.setConvergent();
      for (llvm::Instruction &instruction : llvm::instructions(function)) {
        auto *call = dyn_cast<llvm::CallBase>(&instruction);
        if (!call || !call->isInlineAsm())
          continue;
        auto *assembly = cast<llvm::InlineAsm>(call->getCalledOperand());
        if (assembly->hasSideEffects())
          call->setConvergent();
      }
    }
  }

  FailureOr<SmallVector<char, 0>>
  moduleToObject(llvm::Module &module) override {
    for (llvm::Function &function : module) {
      if (function.isDeclaration() && !function.isIntrinsic() &&
          !function.use_empty())
        return emitError(getOperation().getLoc(),
                         "expected every function that is "
                         "called to be defined in the module "
                         "but '")
               << function.getName() << "' is not";
      for (llvm::Instruction &instruction : llvm::instructions(function))
        if (auto *call = dyn_cast<llvm::IntrinsicInst>(&instruction))
          if (needsLibrary(*call))
            return emitError(getOperation().getLoc(),
                             "the GPU has no instruction for '")
                   << call->getCalledFunction()->getName()
                   << "', called in function '" << function.getName() << "'";
    }
    for (const llvm::GlobalValue &value : module.global_values())
      if (!isSymbolOfPTX(value))
        return emitError(getOperation().getLoc(),
                         "expected names of kernels and variables to be "
                         "letters, digits, _ and $, not beginning with a "
                         "digit, but got '")
               << value.getName() << "'";
    FailureOr<llvm::TargetMachine *> machine = getOrCreateTargetMachine();
    if (failed(machine))
      return failure();

    // Without a handler, an error of the back end ends the process.
    std::string message;
    module.getContext().setDiagnosticHandlerCallBack(collectError, &message);
    FailureOr<SmallString<0>> text = failure();
    bool finished = runRecovering([&] {
      text = translateModuleToISA(module, **machine, [&] {
        return emitError(getOperation().getLoc());
      });
    });
    module.getContext().setDiagnosticHandlerCallBack(nullptr);
    if (!finished)
      return emitError(getOperation().getLoc(),
                       "LLVM cannot translate the module for ")
             << chip << "; what it says about that is above";
    if (!message.empty())
      return emitError(getOperation().getLoc(),
                       "LLVM cannot translate the module for ")
             << chip << ": " << message;
    if (failed(text))
      return failure();
    return SmallVector<char, 0>(text->begin(), text->end());
  }

private:
  /// Keeps the first error in the string `message`.
  static void collectError(const llvm::DiagnosticInfo *info, void *message) {
    auto &text = *static_cast<std::string *>(message);
    if (info->getSeverity() != llvm::DS_Error || !text.empty())
      return;
    llvm::raw_string_ostream os(text);
    llvm::DiagnosticPrinterRawOStream printer(os);
    info->print(printer);
  }
};

} // namespace

FailureOr<std::string> quant_llm::translateToPTX(gpu::GPUModuleOp module) {
  ArrayAttr targets = module.getTargetsAttr();
  auto target = targets && targets.size() == 1
                    ? dyn_cast<NVVM::NVVMTargetAttr>(targets[0])
                    : NVVM::NVVMTargetAttr();
  if (!target)
    return emitError(module.getLoc(), "expected one target #nvvm.target");
  // Checks chip and features and completes the latter.
  Result<NVVM::NVVMTargetAttr> complete = getNVVMTarget(
      module.getContext(), target.getChip(), target.getFeatures());
  if (!complete.ok())
    return emitError(module.getLoc()) << complete.message();
  std::optional<SmallVector<char, 0>> text =
      PTXTranslation(module, *complete).run();
  if (!text)
    return failure();
  return std::string(text->begin(), text->end());
}

void quant_llm::registerPTXTranslation(DialectRegistry &registry) {
  registry.insert<LLVM::LLVMDialect, NVVM::NVVMDialect, arith::ArithDialect,
                  cf::ControlFlowDialect, gpu::GPUDialect, index::IndexDialect,
                  math::MathDialect, scf::SCFDialect, vector::VectorDialect>();
  registerBuiltinDialectTranslation(registry);
  registerGPUDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  registerNVVMDialectTranslation(registry);
}
