//===- GPUToPTX.cpp - The pass quant-llm-gpu-to-ptx -----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Target/Assembler.h"
#include "quant-llm/Target/PTX.h"
#include "quant-llm/Target/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "mlir/IR/Verifier.h"

#include <cstdlib>

namespace quant_llm {
#define GEN_PASS_DEF_GPUTOPTX
#include "quant-llm/Target/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

namespace {

struct GPUToPTXPass : public quant_llm::impl::GPUToPTXBase<GPUToPTXPass> {
  using GPUToPTXBase::GPUToPTXBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    GPUToPTXBase::getDependentDialects(registry);
    registerPTXTranslation(registry);
  }

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (format != "ptx" && format != "cubin" && format != "auto") {
      emitOptionError("format",
                      "expected ptx, cubin or auto but got '" + format + "'");
      return signalPassFailure();
    }
    assembler.reset();
    SmallVector<gpu::GPUModuleOp> kernels;
    module.walk([&](gpu::GPUModuleOp op) { kernels.push_back(op); });
    if (kernels.size() != 1 && !(ptxFile.empty() && cubinFile.empty())) {
      emitError(module.getLoc(),
                "expected exactly one gpu.module for the options "
                "'ptx-file' and 'cubin-file' but got ")
          << kernels.size();
      return signalPassFailure();
    }
    if (!kernels.empty() && (format != "ptx" || !cubinFile.empty())) {
      Result<Assembler> found = Assembler::find();
      if (found.ok()) {
        assembler = found.take();
      } else if (format == "auto" && cubinFile.empty()) {
        remark::missed(module.getLoc(),
                       remark::RemarkOpts::name("not assembled")
                           .category("quant-llm-gpu-to-ptx"))
            << found.message();
        // Nobody names a program that is not to be used.
        if (const char *named = std::getenv("QUANT_LLM_PTXAS"); named && *named)
          emitWarning(module.getLoc())
              << found.message() << "; the kernels stay PTX";
      } else {
        emitError(module.getLoc()) << found.message();
        return signalPassFailure();
      }
    }
    for (gpu::GPUModuleOp op : kernels)
      if (failed(compile(op)))
        return signalPassFailure();
  }

private:
  LogicalResult write(Operation *op, StringRef path, StringRef data) {
    if (path.empty())
      return success();
    Status status = writeFileAtomically(path.str(), data.data(), data.size());
    if (!status.ok())
      return emitError(op->getLoc()) << status.message();
    return success();
  }

  LogicalResult compile(gpu::GPUModuleOp op) {
    FailureOr<NVVM::NVVMTargetAttr> target = chooseTarget(op);
    if (failed(target))
      return failure();
    // Whether the ops fit the chip is a matter of their verifiers.
    op.setTargetsAttr(ArrayAttr::get(&getContext(), {*target}));
    if (failed(verify(op)))
      return failure();
    // The lowering drops attributes of functions it does not know.
    SmallVector<gpu::KernelMetadataAttr> table;
    op.walk([&](LLVM::LLVMFuncOp function) {
      if (!function->hasAttr(NVVM::NVVMDialect::getKernelFuncAttrName()))
        return;
      NamedAttrList data;
      if (Attribute launch = function->getAttr("quant_llm.launch"))
        data.append("launch", launch);
      table.push_back(gpu::KernelMetadataAttr::get(
          function, data.getDictionary(&getContext())));
    });

    OpPassManager pipeline(gpu::GPUModuleOp::getOperationName());
    buildLowerToNVVMPipeline(pipeline);
    if (failed(runPipeline(pipeline, op)))
      return failure();
    FailureOr<std::string> ptx = translateToPTX(op);
    if (failed(ptx))
      return failure();
    StringRef object = *ptx;
    Assembly assembly;
    bool isBinary = format != "ptx" && assembler;
    if (assembler &&
        failed(assemble(op, *ptx, target->getChip(), assembly, table)))
      return failure();
    if (isBinary)
      object = assembly.cubin;
    // No file of an earlier run is replaced unless everything has succeeded.
    if (failed(write(op, ptxFile, *ptx)) ||
        failed(write(op, cubinFile, assembly.cubin)))
      return failure();

    OpBuilder b(op);
    auto objectAttr =
        gpu::ObjectAttr::get(*target,
                             isBinary ? gpu::CompilationTarget::Binary
                                      : gpu::CompilationTarget::Assembly,
                             b.getStringAttr(object), nullptr,
                             gpu::KernelTableAttr::get(&getContext(), table));
    gpu::BinaryOp::create(b, op.getLoc(), op.getName(),
                          op.getOffloadingHandlerAttr(),
                          b.getArrayAttr({objectAttr}));
    op.erase();
    return success();
  }

  FailureOr<NVVM::NVVMTargetAttr> chooseTarget(gpu::GPUModuleOp op) {
    std::string wantedChip = chip, wantedFeatures = features;
    if (wantedChip.empty()) {
      ArrayAttr targets = op.getTargetsAttr();
      auto target = targets && targets.size() == 1
                        ? dyn_cast<NVVM::NVVMTargetAttr>(targets[0])
                        : NVVM::NVVMTargetAttr();
      if (!target)
        return emitError(op.getLoc(), "expected one target #nvvm.target of the "
                                      "gpu.module, or the option 'chip'");
      wantedChip = target.getChip();
      if (wantedFeatures.empty())
        wantedFeatures = target.getFeatures();
    }
    Result<NVVM::NVVMTargetAttr> target =
        getNVVMTarget(&getContext(), wantedChip, wantedFeatures);
    if (!target.ok() && !chip.empty())
      return emitOptionError("chip", target.message());
    if (!target.ok())
      return emitError(op.getLoc()) << target.message();
    return *target;
  }

  /// Says that a kernel has too few registers, and what its user can do.
  void warnOfSpills(gpu::GPUModuleOp op, const KernelResources &kernel) {
    if (kernel.spillStoreBytes == 0 && kernel.spillLoadBytes == 0)
      return;
    Operation *function = op.lookupSymbol(kernel.name);
    emitWarning(function ? function->getLoc() : op.getLoc())
        << "kernel '" << kernel.name << "' has too few registers: every thread "
        << "stores " << kernel.spillStoreBytes << " bytes of them to memory "
        << "and loads " << kernel.spillLoadBytes << " (spills); its results "
        << "are right, but it may be slow: a kernel_config or tuning file with "
        << "a smaller row_tile or token_tile, or fewer ctas_per_sm, needs "
           "fewer";
  }

  /// Assembles and adds the resources of every kernel to the table.
  LogicalResult assemble(gpu::GPUModuleOp op, StringRef ptx, StringRef chip,
                         Assembly &assembly,
                         SmallVectorImpl<gpu::KernelMetadataAttr> &table) {
    Result<Assembly> result = assembler->assemble(ptx, chip.str());
    if (!result.ok())
      return emitError(op.getLoc()) << result.message();
    assembly = result.take();
    for (const std::string &warning : assembly.warnings)
      emitWarning(op.getLoc()) << warning;
    Builder b(&getContext());
    for (const KernelResources &kernel : assembly.kernels) {
      using Arg = remark::detail::Remark::Arg;
      remark::passed(op.getLoc(), remark::RemarkOpts::name("assembled")
                                      .category("quant-llm-gpu-to-ptx"))
          << Arg("kernel", kernel.name) << Arg("registers", kernel.registers)
          << Arg("stack bytes", kernel.stackBytes)
          << Arg("spilled bytes",
                 kernel.spillStoreBytes + kernel.spillLoadBytes)
          << Arg("static shared bytes", kernel.sharedBytes)
          << Arg("ptxas", assembler->getVersion().str());
      warnOfSpills(op, kernel);
      for (gpu::KernelMetadataAttr &entry : table)
        if (entry.getName() == kernel.name)
          entry = entry.appendMetadata(b.getNamedAttr(
              "resources",
              b.getDictionaryAttr({
                  b.getNamedAttr("registers",
                                 b.getI64IntegerAttr(kernel.registers)),
                  b.getNamedAttr("spill_bytes",
                                 b.getI64IntegerAttr(kernel.spillStoreBytes +
                                                     kernel.spillLoadBytes)),
                  b.getNamedAttr("stack_bytes",
                                 b.getI64IntegerAttr(kernel.stackBytes)),
                  b.getNamedAttr("static_shared_bytes",
                                 b.getI64IntegerAttr(kernel.sharedBytes)),
              })));
    }
    return success();
  }

  /// Set if machine code is wanted.
  std::optional<Assembler> assembler;
};

} // namespace
