//===- WriteGPUArtifact.cpp - The pass quant-llm-write-gpu-artifact -------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The manifest is what lib/Runtime/CUDA/Manifest.cpp reads.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/KernelProblem.h"
#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Sha256.h"
#include "quant-llm/Target/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <nlohmann/json.hpp>

#include <cmath>

namespace quant_llm {
#define GEN_PASS_DEF_WRITEGPUARTIFACT
#include "quant-llm/Target/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;
using nlohmann::json;

static constexpr char manifestSchema[] = "quant_llm.manifest/1";

/// The attribute of a launch description as JSON; nothing for attributes that
/// no kernel generator writes.
static std::optional<json> toJson(Attribute attribute) {
  if (auto text = dyn_cast<StringAttr>(attribute))
    return json(text.str());
  if (auto flag = dyn_cast<BoolAttr>(attribute))
    return json(flag.getValue());
  if (auto number = dyn_cast<IntegerAttr>(attribute);
      number && number.getValue().isSignedIntN(64))
    return json(number.getValue().getSExtValue());
  if (auto list = dyn_cast<ArrayAttr>(attribute)) {
    json array = json::array();
    for (Attribute element : list) {
      std::optional<json> value = toJson(element);
      if (!value)
        return std::nullopt;
      array.push_back(*value);
    }
    return array;
  }
  if (auto dictionary = dyn_cast<DictionaryAttr>(attribute)) {
    json object = json::object();
    for (NamedAttribute entry : dictionary) {
      std::optional<json> value = toJson(entry.getValue());
      if (!value)
        return std::nullopt;
      object[entry.getName().str()] = *value;
    }
    return object;
  }
  return std::nullopt;
}

/// The value of a constant; null for one that is no number of the formula.
static json getConstant(arith::ConstantOp constant) {
  if (auto number = dyn_cast<FloatAttr>(constant.getValue())) {
    double value = number.getValueAsDouble();
    // JSON has finite numbers only.
    if (std::isfinite(value))
      return value;
    return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
  }
  return toJson(constant.getValue()).value_or(nullptr);
}

/// What the epilogue computes, step by step. Ops are written whatever they are:
/// it is for the reader to say which of them it knows.
static json getFormula(LinearOpInterface op) {
  Block &body = op.getEpilogue().front();
  DenseMap<Value, json> names;
  size_t numWeights = op.getWeights().size();
  for (BlockArgument argument : body.getArguments()) {
    size_t index = argument.getArgNumber();
    names[argument] = index < numWeights
                          ? "sum" + std::to_string(index)
                          : "epilogue" + std::to_string(index - numWeights);
  }
  json formula = json::array();
  for (Operation &step : body) {
    json entry = {{"op", step.getName().getStringRef().str()}};
    for (Value operand : step.getOperands())
      entry["args"].push_back(names.lookup(operand));
    if (auto constant = dyn_cast<arith::ConstantOp>(step))
      entry["value"] = getConstant(constant);
    if (auto compare = dyn_cast<arith::CmpFOp>(step))
      entry["predicate"] =
          arith::stringifyCmpFPredicate(compare.getPredicate()).str();
    for (Value result : step.getResults())
      names[result] = formula.size();
    formula.push_back(std::move(entry));
  }
  return formula;
}

namespace {

struct WriteGPUArtifactPass
    : public quant_llm::impl::WriteGPUArtifactBase<WriteGPUArtifactPass> {
  using WriteGPUArtifactBase::WriteGPUArtifactBase;

  void runOnOperation() override {
    if (failed(write()))
      signalPassFailure();
  }

private:
  LogicalResult write();
  LogicalResult writeFile(const std::string &name, StringRef data);
  FailureOr<json> describeKernels(gpu::BinaryOp binary, gpu::ObjectAttr object,
                                  const std::string &file);
  FailureOr<json> describeLinear(LinearOpInterface op,
                                 SymbolTableCollection &tables);
  /// The archive's path relative to the directory.
  FailureOr<std::string> getRelativePath(LinearOpInterface op,
                                         ArchiveOp archive);

  /// Names of linears so far.
  llvm::StringSet<> names;
};

} // namespace

LogicalResult WriteGPUArtifactPass::writeFile(const std::string &name,
                                              StringRef data) {
  SmallString<128> path(output);
  llvm::sys::path::append(path, name);
  Status status =
      writeFileAtomically(std::string(path), data.data(), data.size());
  if (!status.ok())
    return emitError(getOperation().getLoc()) << status.message();
  return success();
}

FailureOr<json> WriteGPUArtifactPass::describeKernels(gpu::BinaryOp binary,
                                                      gpu::ObjectAttr object,
                                                      const std::string &file) {
  StringRef data = object.getObject().getValue();
  std::string hash = sha256Hex(data.data(), data.size());
  json kernels = json::array();
  if (!object.getKernels())
    return kernels;
  for (gpu::KernelMetadataAttr kernel : object.getKernels()) {
    // The launch description, then the resources that ptxas reported.
    json entry = json::object();
    for (NamedAttribute field : kernel.getMetadata()
                                    ? kernel.getMetadata()
                                    : DictionaryAttr::get(&getContext())) {
      std::optional<json> value = toJson(field.getValue());
      if (!value)
        return emitError(binary.getLoc(), "kernel '")
               << kernel.getName().getValue()
               << "': expected numbers, text, lists and dictionaries but got "
               << field.getValue();
      if (field.getName() == "launch" && value->is_object())
        entry.update(*value);
      else if (field.getName() == "resources")
        entry["resources"] = *value;
    }
    entry["name"] = kernel.getName().str();
    entry["file"] = file;
    entry["sha256"] = hash;
    kernels.push_back(std::move(entry));
  }
  return kernels;
}

FailureOr<std::string>
WriteGPUArtifactPass::getRelativePath(LinearOpInterface op, ArchiveOp archive) {
  SmallString<256> directory, file;
  std::string path = resolveArchivePath(archive, baseDir);
  if (std::error_code error = llvm::sys::fs::real_path(output, directory))
    return emitError(getOperation().getLoc(), "cannot find '")
           << output << "': " << error.message();
  // The file itself need not exist yet, its directory does.
  StringRef parent = llvm::sys::path::parent_path(path);
  if (std::error_code error =
          llvm::sys::fs::real_path(parent.empty() ? "." : parent, file))
    return op.emitError("cannot find the directory of '")
           << path << "': " << error.message();
  llvm::sys::path::append(file, llvm::sys::path::filename(path));
  StringRef relative = file;
  if (!relative.consume_front(directory) || !relative.consume_front("/"))
    return op.emitError("expected the archive of packed weights below '")
           << output << "' but got '" << path
           << "'; pack the weights into that directory";
  return relative.str();
}

FailureOr<json>
WriteGPUArtifactPass::describeLinear(LinearOpInterface op,
                                     SymbolTableCollection &tables) {
  FailureOr<KernelProblem> problem = getProblemOfKernels(op);
  if (failed(problem))
    return failure();
  json weights = json::array(), keys = json::array();
  std::string name, archiveFile = packed;
  bool first = true;
  for (Value weight : op.getWeights()) {
    // Weights that are no parameters still need a name.
    std::string key = "weight" + std::to_string(weights.size());
    std::string symbol = key;
    if (ParameterOp parameter = getParameterOf(weight, &tables)) {
      key = parameter.getArchiveKey().str();
      symbol = parameter.getSymName().str();
      auto type = cast<WeightType>(weight.getType());
      if (isa_and_present<FragmentLayoutAttr>(type.getLayout())) {
        auto archive = tables.lookupNearestSymbolFrom<ArchiveOp>(
            parameter, parameter.getArchiveAttr());
        if (!archive)
          return op.emitError("expected the archive of parameter '")
                 << symbol << "' to exist";
        FailureOr<std::string> file = getRelativePath(op, archive);
        if (failed(file))
          return failure();
        if (!first && *file != archiveFile)
          return op.emitError("expected the weights of a linear in one "
                              "archive but got '")
                 << archiveFile << "' and '" << *file << "'";
        archiveFile = *file;
      }
    }
    name += (name.empty() ? "" : "+") + symbol;
    weights.push_back(symbol);
    keys.push_back(key);
    first = false;
  }
  std::string unique = name;
  for (unsigned i = 2; !names.insert(unique).second; ++i)
    unique = name + "#" + std::to_string(i);

  json epilogue = json::array();
  for (const EpilogueOperand &operand : problem->epilogue)
    epilogue.push_back({{"type", quant_llm::getName(operand.type)},
                        {"per_element", operand.perElement}});
  json variants = json::array();
  for (const auto &[config, symbol] :
       llvm::zip_equal(op.getKernelConfigs(),
                       op.getKernelSymbolsAttr().getAsRange<SymbolRefAttr>()))
    variants.push_back({{"tokens", {config.minTokens, config.maxTokens}},
                        {"kernel", symbol.getLeafReference().str()}});
  json linear{{"name", unique},
              {"n", problem->n},
              {"k", problem->k},
              {"scheme", schemeName(problem->scheme)},
              {"activation", quant_llm::getName(problem->activation)},
              {"output", quant_llm::getName(problem->output)},
              {"weights", weights},
              {"epilogue", epilogue},
              {"packed", {{"archive", archiveFile}, {"keys", keys}}},
              {"variants", variants}};
  if (op.hasEpilogue())
    linear["formula"] = getFormula(op);
  if (problem->isGrouped()) {
    linear["kind"] = "grouped_linear";
    linear["experts"] = problem->experts;
    linear["offsets"] = problem->wideOffsets ? "i64" : "i32";
  }
  return linear;
}

/// The most linears that an error lists.
static constexpr size_t kMostNotes = 8;

/// Why a linear has no kernels. What no kernel can do is the same for all
/// chips, so that it does not take a known one.
static std::string explainMissing(LinearOpInterface op, StringRef chip) {
  Result<ChipLimits> limits = getChipLimits(chip.str());
  return explainMissingKernels(op,
                               limits.ok() ? *limits : *getChipLimits("sm_80"));
}

LogicalResult WriteGPUArtifactPass::write() {
  names.clear();
  ModuleOp module = getOperation();
  if (output.empty())
    return emitOptionError("output",
                           "expected the directory to write but got none");
  // As the readers of manifests want it.
  if (packed.empty() || StringRef(packed).starts_with("/") ||
      llvm::is_contained(llvm::split(StringRef(packed), '/'), ".."))
    return emitOptionError(
        "packed",
        "expected a file below the output directory but got '" + packed + "'");
  SmallVector<LinearOpInterface> linears, missing;
  module.walk([&](LinearOpInterface op) {
    if (op.getKernelSymbolsAttr())
      linears.push_back(op);
    else if (op.isQuantized())
      missing.push_back(op);
  });
  SymbolTableCollection tables;
  gpu::BinaryOp binary;
  for (LinearOpInterface op : linears)
    for (auto symbol : op.getKernelSymbolsAttr().getAsRange<SymbolRefAttr>()) {
      auto holder = tables.lookupNearestSymbolFrom<gpu::BinaryOp>(
          op, symbol.getRootReference());
      if (!holder)
        return op.emitOpError("expected its kernels in a gpu.binary; run "
                              "quant-llm-gpu-to-ptx before");
      if (binary && binary != holder)
        return op.emitOpError("expected all kernels in one gpu.binary");
      binary = holder;
    }
  if (!binary) {
    auto diag = emitError(module.getLoc(),
                          "expected at least one linear with kernels but got ");
    if (missing.empty())
      return diag << "no quantized one; run quant-llm-quantize before";
    diag << "none";
    for (LinearOpInterface op : ArrayRef(missing).take_front(kMostNotes))
      diag.attachNote(op.getLoc())
          << "this one has none: " << explainMissing(op, "");
    return diag;
  }
  auto object = cast<gpu::ObjectAttr>(binary.getObjects()[0]);
  auto target = dyn_cast<NVVM::NVVMTargetAttr>(object.getTarget());
  bool isBinary = object.getFormat() == gpu::CompilationTarget::Binary;
  if (!target ||
      (!isBinary && object.getFormat() != gpu::CompilationTarget::Assembly))
    return emitError(binary.getLoc(), "expected a gpu.binary with PTX or "
                                      "machine code for a #nvvm.target");
  // A model would run without them only as far as they are not needed.
  for (LinearOpInterface op : missing)
    emitWarning(op.getLoc())
        << "'" << op->getName()
        << "' is not in the artifact: " << explainMissing(op, target.getChip());

  // Empty directories are no use: those that are made here, the deepest first.
  SmallVector<std::string> missingDirectories;
  llvm::sys::fs::file_status status;
  for (StringRef path = output;
       !path.empty() && llvm::sys::fs::status(path, status, /*follow=*/false);
       path = llvm::sys::path::parent_path(path))
    missingDirectories.push_back(path.str());
  llvm::scope_exit removeEmpty([&] {
    for (const std::string &path : missingDirectories)
      llvm::sys::fs::remove(path);
  });
  if (std::error_code error = llvm::sys::fs::create_directories(output))
    return emitError(module.getLoc(), "cannot make the directory '")
           << output << "': " << error.message();
  std::string file = isBinary ? "kernels.cubin" : "kernels.ptx";
  FailureOr<json> kernels = describeKernels(binary, object, file);
  if (failed(kernels))
    return failure();
  json linearList = json::array();
  for (LinearOpInterface op : linears) {
    FailureOr<json> linear = describeLinear(op, tables);
    if (failed(linear))
      return failure();
    linearList.push_back(std::move(*linear));
  }
  json manifest = {{"schema", manifestSchema},
                   {"chip", target.getChip().str()},
                   {"producer", "quant-llm"},
                   {"kernels", *kernels},
                   {"linears", linearList}};
  // Names may come from a file: bytes that are no UTF-8 are replaced.
  std::string text = manifest.dump(2, ' ', /*ensure_ascii=*/false,
                                   json::error_handler_t::replace) +
                     "\n";
  // The manifest tells what is in the kernels.
  FileTransaction files;
  if (failed(writeFile(file, object.getObject().getValue())) ||
      failed(writeFile("manifest.json", text)))
    return failure();
  if (Status status = files.commit(); !status.ok())
    return emitError(module.getLoc(), status.message());
  removeEmpty.release();
  return success();
}
