//===- QuantizeWeights.cpp - From dense parameters to weights -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Two phases, because the header of a safetensors file comes first: shapes and
// schemes alone say how large every component will be, so the file is declared
// before any weight is read, and then written front to back with one weight in
// memory. The module is changed last, when nothing can fail any more.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Metrics.h"
#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Progress.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <filesystem>

namespace quant_llm {
#define GEN_PASS_DEF_QUANTIZEWEIGHTS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-quantize";

namespace {

/// A parameter to be quantized.
struct Quantized {
  ParameterOp parameter;
  SmallVector<LinearOp> linears;
  WeightType type;
  TensorInfo info;
  std::string reason;
  /// In the new archive.
  std::string key;
  /// Some use is not as the weight of a linear.
  bool keepDense = false;

  // Filled while writing.
  ErrorMetrics errors;
};

/// A parameter that goes to the new archive as it is: one tensor, or the
/// components of a weight that was quantized before.
struct Copied {
  ParameterOp parameter;
  SmallVector<TensorInfo> infos;
  SmallVector<std::string> keys;
  std::string key;
};

struct QuantizeWeights : quant_llm::impl::QuantizeWeightsBase<QuantizeWeights> {
  using QuantizeWeightsBase::QuantizeWeightsBase;

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  LogicalResult run();
  LogicalResult collect();
  LogicalResult plan(ParameterArchives &archives);
  LogicalResult declare(ParameterOp op, const std::string &name, DType dtype,
                        ArrayRef<int64_t> shape);
  LogicalResult checkOutput(ParameterArchives &archives);
  LogicalResult write(ParameterArchives &archives, SafetensorsWriter &writer);
  std::string makeReport();
  void rewrite();
  InFlightDiagnostic fail() {
    return getOperation().emitError() << kPassName << ": ";
  }

  llvm::MapVector<Operation *, Quantized> quantized;
  std::vector<Copied> copied;
  std::vector<ParameterOp> untouched;
  std::vector<TensorDeclaration> declarations;
  llvm::StringMap<ParameterOp> declaredBy;
};

} // namespace

/// `path` as seen from `directory`, both as the user wrote them; absolute if
/// there is no way (or no current directory).
static std::string makeRelative(StringRef path, StringRef directory) {
  SmallString<128> absolutePath(path), absoluteDirectory(directory);
  if (llvm::sys::fs::make_absolute(absolutePath) ||
      llvm::sys::fs::make_absolute(absoluteDirectory))
    return path.str();
  namespace fs = std::filesystem;
  fs::path relative =
      fs::path(std::string(absolutePath))
          .lexically_normal()
          .lexically_relative(
              fs::path(std::string(absoluteDirectory)).lexically_normal());
  return relative.empty() ? std::string(absolutePath) : relative.string();
}

/// "model.layers.0.mlp.up_proj.weight" -> "up_proj": what matrices of different
/// layers have in common.
static std::string getKind(StringRef name) {
  name.consume_back(".weight");
  return name.substr(name.rfind('.') + 1).str();
}

LogicalResult QuantizeWeights::collect() {
  quantized.clear();
  copied.clear();
  untouched.clear();
  declarations.clear();
  declaredBy.clear();

  SymbolTableCollection tables;
  bool ok = true;
  getOperation()->walk([&](LinearOp linear) {
    SchemeAttr scheme = linear.getSchemeAttr();
    if (!scheme)
      return;
    for (Value weight : linear.getWeights()) {
      if (isa<WeightType>(weight.getType()))
        continue;
      ParameterOp parameter = getParameterOf(weight, &tables);
      if (!parameter) {
        InFlightDiagnostic diag = linear.emitOpError(
            "has a scheme, but its weight is not a parameter of an archive");
        diag.attachNote(weight.getLoc()) << "the weight is defined here";
        ok = false;
        continue;
      }
      auto dense = cast<RankedTensorType>(parameter.getType());
      auto type =
          WeightType::get(dense.getShape(), dense.getElementType(), scheme);
      Quantized &entry = quantized[parameter];
      if (!entry.parameter) {
        entry.parameter = parameter;
        entry.type = type;
        if (StringAttr reason = linear.getReasonAttr())
          entry.reason = reason.str();
      } else if (entry.type != type) {
        InFlightDiagnostic diag =
            linear.emitOpError("expected the scheme ")
            << entry.type.getScheme() << " that another linear of parameter "
            << parameter.getSymNameAttr() << " has, but got " << scheme;
        diag.attachNote(entry.linears.front().getLoc())
            << "the other linear is here";
        ok = false;
      }
      if (entry.linears.empty() || entry.linears.back() != linear)
        entry.linears.push_back(linear);
    }
  });
  if (!ok)
    return failure();
  if (quantized.empty())
    return fail() << "no linear has a scheme to apply; run "
                     "quant-llm-choose-granularity first";

  // Every other use keeps the dense parameter alive: of get_parameter's
  // results, and of the symbol by ops that we do not know.
  getOperation()->walk([&](GetParameterOp get) {
    auto entry = quantized.find(getParameterOf(get.getResult(), &tables));
    if (entry == quantized.end())
      return;
    for (OpOperand &use : get->getUses()) {
      auto linear = dyn_cast<LinearOp>(use.getOwner());
      if (!linear || !llvm::is_contained(entry->second.linears, linear) ||
          use.get() == linear.getInput())
        entry->second.keepDense = true;
    }
  });
  return success();
}

/// Adds a tensor of the new archive.
LogicalResult QuantizeWeights::declare(ParameterOp op, const std::string &name,
                                       DType dtype, ArrayRef<int64_t> shape) {
  auto [entry, inserted] = declaredBy.try_emplace(name, op);
  if (!inserted) {
    InFlightDiagnostic diag = op.emitOpError("needs the tensor '")
                              << name << "' in the new archive";
    diag.attachNote(entry->second.getLoc())
        << "which this parameter needs as well";
    return diag;
  }
  declarations.push_back({name, dtype, shape.vec()});
  return success();
}

LogicalResult QuantizeWeights::plan(ParameterArchives &archives) {
  bool ok = true;
  for (auto &[key, entry] : quantized) {
    FailureOr<TensorInfo> info = archives.find(entry.parameter);
    if (failed(info)) {
      ok = false;
      continue;
    }
    entry.info = std::move(*info);
    Status status = verifyScheme(entry.type.getScheme().toNumerics(),
                                 entry.type.getN(), entry.type.getK());
    if (!status.ok()) {
      entry.parameter.emitOpError("cannot be quantized: ") << status.message();
      ok = false;
    }
  }
  for (auto parameter : getOperation().getOps<ParameterOp>()) {
    auto entry = quantized.find(parameter);
    if (entry != quantized.end() && !entry->second.keepDense)
      continue;
    if (!copyDense) {
      untouched.push_back(parameter);
      continue;
    }
    Copied copy;
    copy.parameter = parameter;
    if (isa<WeightType>(parameter.getType())) {
      FailureOr<SmallVector<TensorInfo>> infos =
          archives.findComponents(parameter);
      if (succeeded(infos))
        copy.infos = std::move(*infos);
      ok &= succeeded(infos);
    } else {
      FailureOr<TensorInfo> info = archives.find(parameter);
      if (succeeded(info))
        copy.infos.push_back(std::move(*info));
      ok &= succeeded(info);
    }
    copied.push_back(std::move(copy));
  }
  if (!ok)
    return failure();

  // Keys stay what they were, unless parameters of several archives share one.
  llvm::StringMap<unsigned> uses;
  for (auto &[key, entry] : quantized)
    ++uses[entry.parameter.getArchiveKey()];
  for (Copied &copy : copied)
    if (!quantized.contains(copy.parameter))
      ++uses[copy.parameter.getArchiveKey()];
  auto getNewKey = [&](ParameterOp op) {
    StringRef key = op.getArchiveKey();
    return (uses[key] > 1 ? op.getSymName() : key).str();
  };
  // Dense tensors of wide elements first: they are then aligned to their type.
  std::vector<Copied> sorted;
  for (unsigned width : {64u, 32u, 16u, 8u, 6u, 4u})
    for (const Copied &copy : copied)
      if (getBitWidth(copy.infos.front().dtype) == width)
        sorted.push_back(copy);
  copied = std::move(sorted);
  for (Copied &copy : copied) {
    copy.key = getNewKey(copy.parameter);
    StringRef oldKey = copy.parameter.getArchiveKey();
    for (const TensorInfo &info : copy.infos) {
      // The component's suffix, if any, stays.
      std::string name =
          copy.key + StringRef(info.name).drop_front(oldKey.size()).str();
      copy.keys.push_back(name);
      if (failed(declare(copy.parameter, name, info.dtype, info.shape)))
        return failure();
    }
  }
  for (auto &[key, entry] : quantized) {
    entry.key = getNewKey(entry.parameter);
    Scheme scheme = entry.type.getScheme().toNumerics();
    for (const ComponentInfo &component :
         getComponents(scheme, entry.type.getN(), entry.type.getK())) {
      DType dtype = DType::U8;
      if (!component.isBytes) {
        switch (component.type) {
        case quant_llm::FloatType::F16:
          dtype = DType::F16;
          break;
        case quant_llm::FloatType::BF16:
          dtype = DType::BF16;
          break;
        case quant_llm::FloatType::F32:
          dtype = DType::F32;
          break;
        case quant_llm::FloatType::F8E8M0FNU:
          dtype = DType::F8E8M0;
          break;
        case quant_llm::FloatType::F8E4M3FN:
          dtype = DType::F8E4M3;
          break;
        }
      }
      if (failed(declare(entry.parameter, entry.key + component.suffix, dtype,
                         {component.rows, component.columns})))
        return failure();
    }
  }
  return success();
}

LogicalResult QuantizeWeights::checkOutput(ParameterArchives &archives) {
  if (output.empty())
    return fail()
           << "expected the option 'output', the safetensors file to write";
  if (!report.empty()) {
    SmallString<128> a(output), b(report);
    bool same =
        !llvm::sys::fs::make_absolute(a) && !llvm::sys::fs::make_absolute(b);
    llvm::sys::path::remove_dots(a, true);
    llvm::sys::path::remove_dots(b, true);
    if ((same && a == b) || llvm::sys::fs::equivalent(output, report))
      return fail()
             << "expected different files for 'output' and 'report' but got '"
             << report << "' for both";
  }
  // Replacing the file that is read would work (it is renamed over), but the
  // dense weights would be gone.
  for (const std::string &target : {std::string(output), std::string(report)}) {
    ArchiveOp archiveOp = archives.findArchiveOfFile(getOperation(), target);
    if (!archiveOp)
      continue;
    InFlightDiagnostic diag = fail()
                              << "'" << target
                              << "' is a file of an archive that the module "
                                 "reads; choose another file";
    diag.attachNote(archiveOp.getLoc()) << "the archive is here";
    return diag;
  }
  if (Operation *other = getOperation().lookupSymbol(archiveName)) {
    InFlightDiagnostic diag = fail()
                              << "the option 'archive-name' is '" << archiveName
                              << "', which is the name of another symbol";
    diag.attachNote(other->getLoc()) << "the other symbol is here";
    return diag;
  }
  if (archiveName.empty())
    return fail() << "expected a symbol name in the option 'archive-name'";
  return success();
}

LogicalResult QuantizeWeights::write(ParameterArchives &archives,
                                     SafetensorsWriter &writer) {
  Progress progress{"quantizing weights", "", 0, 0};
  for (const Copied &copy : copied)
    for (const TensorInfo &info : copy.infos)
      progress.total += getByteSize(info.dtype, info.shape).value_or(0);
  for (auto &[key, entry] : quantized)
    progress.total +=
        getByteSize(entry.info.dtype, entry.info.shape).value_or(0);

  auto advance = [&](ParameterOp op, uint64_t bytes) {
    progress.item = op.getSymName().str();
    progress.done += bytes;
    announceProgress(progress);
  };

  // In the order of the declarations.
  for (const Copied &copy : copied) {
    for (auto [info, name] : llvm::zip_equal(copy.infos, copy.keys)) {
      Result<TensorBuffer> buffer = loadTensor(info, /*alignment=*/1);
      ParameterOp parameter = copy.parameter;
      if (!buffer.ok())
        return parameter.emitOpError("cannot be read: ") << buffer.message();
      // In pieces, so that a large tensor does not stay in memory as a whole.
      if (Status status = writer.append(name, buffer->data, buffer->bytes);
          !status.ok())
        return fail() << "cannot write '" << output
                      << "': " << status.message();
      archives.release(parameter, info);
      advance(parameter, buffer->bytes);
    }
  }
  for (auto &[key, entry] : quantized) {
    ParameterOp parameter = entry.parameter;
    FailureOr<LoadedMatrix> matrix = archives.load(parameter, entry.info);
    if (failed(matrix))
      return failure();
    Scheme scheme = entry.type.getScheme().toNumerics();
    std::string name = parameter.getSymName().str();
    Result<QuantizedMatrix> stored =
        quantize(matrix->view, scheme, name, threads);
    if (!stored.ok())
      return parameter.emitOpError("cannot be quantized: ") << stored.message();
    Result<ErrorMetrics> errors =
        computeErrors(matrix->view, stored->view(), scheme, threads);
    if (!errors.ok())
      return parameter.emitOpError("cannot be compared: ") << errors.message();
    entry.errors = *errors;
    for (const ComponentInfo &component :
         getComponents(scheme, entry.type.getN(), entry.type.getK())) {
      const std::vector<uint8_t> &bytes = stored->get(component.kind);
      Status status = writer.append(entry.key + component.suffix, bytes.data(),
                                    bytes.size());
      if (!status.ok())
        return fail() << "cannot write '" << output
                      << "': " << status.message();
    }
    archives.release(parameter, entry.info);
    using Arg = remark::detail::Remark::Arg;
    remark::passed(parameter.getLoc(),
                   remark::RemarkOpts::name("quantized").category(kPassName))
        << Arg("parameter", parameter.getSymName())
        << Arg("scheme", Attribute(entry.type.getScheme()))
        << Arg("relative error", entry.errors.relativeFrobenius)
        << Arg("bits per weight",
               getBitsPerWeight(scheme, entry.type.getN(), entry.type.getK()));
    advance(parameter, *getByteSize(entry.info.dtype, entry.info.shape));
  }
  return success();
}

/// JSON has no infinity.
static llvm::json::Value finiteOrNull(double value) {
  if (!std::isfinite(value))
    return nullptr;
  return value;
}

static std::string printToString(Attribute attribute) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  attribute.print(stream);
  return text;
}

std::string QuantizeWeights::makeReport() {
  llvm::json::Array weights, dense;
  int64_t numWeights = 0, weightBytes = 0, originalBytes = 0;
  double squaredError = 0;
  for (auto &[key, entry] : quantized) {
    Scheme scheme = entry.type.getScheme().toNumerics();
    int64_t n = entry.type.getN(), k = entry.type.getK();
    int64_t stored = getStoredBytes(scheme, n, k);
    int64_t original = *getByteSize(entry.info.dtype, entry.info.shape);
    weights.push_back(llvm::json::Object{
        {"name", entry.parameter.getSymName()},
        {"kind", getKind(entry.key)},
        {"shape", llvm::json::Array{n, k}},
        {"scheme", printToString(entry.type.getScheme())},
        {"block", llvm::json::Array{scheme.blockN, scheme.blockK}},
        {"reason", entry.reason},
        {"bits_per_weight", getBitsPerWeight(scheme, n, k)},
        {"stored_bytes", stored},
        {"dense_bytes", original},
        {"mse", finiteOrNull(entry.errors.mse)},
        {"relative_frobenius", finiteOrNull(entry.errors.relativeFrobenius)},
        {"max_error", finiteOrNull(entry.errors.maxAbs)},
        {"sqnr_db", finiteOrNull(entry.errors.sqnrDecibels)},
    });
    numWeights += n * k;
    weightBytes += stored;
    originalBytes += original;
    squaredError += entry.errors.mse * double(n) * double(k);
  }
  int64_t denseBytes = 0;
  llvm::DenseMap<Operation *, std::string> denseReasons;
  getOperation()->walk([&](LinearOp linear) {
    for (Value weight : linear.getWeights())
      if (ParameterOp parameter = getParameterOf(weight);
          parameter && !linear.getSchemeAttr() && linear.getReasonAttr())
        denseReasons.try_emplace(parameter, linear.getReasonAttr().str());
  });
  auto addDense = [&](ParameterOp parameter, std::optional<int64_t> bytes) {
    std::string type;
    llvm::raw_string_ostream(type) << parameter.getType();
    llvm::json::Object object{{"name", parameter.getSymName()}, {"type", type}};
    if (bytes) {
      object["bytes"] = *bytes;
      denseBytes += *bytes;
    }
    auto reason = denseReasons.find(parameter);
    if (reason != denseReasons.end())
      object["reason"] = reason->second;
    dense.push_back(std::move(object));
  };
  for (const Copied &copy : copied) {
    int64_t bytes = 0;
    for (const TensorInfo &info : copy.infos)
      bytes += getByteSize(info.dtype, info.shape).value_or(0);
    addDense(copy.parameter, bytes);
  }
  for (ParameterOp parameter : untouched) {
    auto type = dyn_cast<RankedTensorType>(parameter.getType());
    std::optional<int64_t> bytes;
    if (type)
      bytes = type.getNumElements() * ((type.getElementTypeBitWidth() + 7) / 8);
    addDense(parameter, bytes);
  }
  llvm::json::Object totals{
      {"weights", numWeights},
      {"bits_per_weight", numWeights ? 8.0 * weightBytes / numWeights : 0.0},
      {"stored_bytes", weightBytes},
      {"weight_bytes_before", originalBytes},
      {"dense_bytes", denseBytes},
      {"bytes_before", originalBytes + denseBytes},
      {"bytes_after", weightBytes + denseBytes},
      {"mse", finiteOrNull(numWeights ? squaredError / numWeights : 0.0)},
  };
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << llvm::formatv("{0:2}",
                          llvm::json::Value(llvm::json::Object{
                              {"version", 1},
                              {"archive", llvm::sys::path::filename(output)},
                              {"weights", std::move(weights)},
                              {"dense", std::move(dense)},
                              {"totals", std::move(totals)},
                          }))
         << "\n";
  return text;
}

void QuantizeWeights::rewrite() {
  ModuleOp module = getOperation();
  MLIRContext *context = &getContext();
  std::string directory = moduleDir;
  if (directory.empty())
    directory = llvm::sys::path::parent_path(output).str();

  // Paths of archives are relative to the file of their location. The module
  // will be in `directory`, so this is what the location of every archive now
  // says.
  SmallString<128> file(directory);
  llvm::sys::path::append(file, "module.mlir");
  Location location = FileLineColLoc::get(context, file, 0, 0);
  OpBuilder builder(context);
  auto archives = llvm::to_vector(module.getOps<ArchiveOp>());
  if (archives.empty())
    builder.setInsertionPointToStart(module.getBody());
  else
    builder.setInsertionPointAfter(archives.back());
  auto newArchive = ArchiveOp::create(builder, location, archiveName,
                                      makeRelative(output, directory));
  auto archiveRef = FlatSymbolRefAttr::get(newArchive.getSymNameAttr());

  SymbolTable table(module);
  auto getKeyAttr = [&](ParameterOp op, StringRef key) {
    return key == op.getSymName() ? StringAttr()
                                  : StringAttr::get(context, key);
  };
  for (const Copied &copy : copied) {
    ParameterOp parameter = copy.parameter;
    parameter.setArchiveAttr(archiveRef);
    parameter.setKeyAttr(getKeyAttr(parameter, copy.key));
    ++numCopied;
  }
  for (auto &[key, entry] : quantized) {
    ParameterOp dense = entry.parameter;
    ParameterOp parameter = dense;
    if (entry.keepDense) {
      // A second parameter beside the dense one.
      parameter = cast<ParameterOp>(dense->clone());
      parameter.setSymName((dense.getSymName() + ".quantized").str());
      table.insert(parameter, std::next(Block::iterator(dense)));
    }
    parameter.setArchiveAttr(archiveRef);
    parameter.setTypeAttr(TypeAttr::get(entry.type));
    parameter.setKeyAttr(getKeyAttr(parameter, entry.key));
    for (LinearOp linear : entry.linears) {
      for (OpOperand &weight : linear.getWeightsMutable()) {
        auto get = weight.get().getDefiningOp<GetParameterOp>();
        if (!get || get.getParameter() != dense.getSymName() ||
            get.getType() == entry.type)
          continue;
        builder.setInsertionPoint(get);
        auto newGet = GetParameterOp::create(
            builder, get.getLoc(), entry.type,
            FlatSymbolRefAttr::get(parameter.getSymNameAttr()));
        weight.set(newGet);
        if (get->use_empty())
          get.erase();
      }
    }
    ++numQuantized;
  }
  // The scheme is in the types now; the reason stays.
  for (auto &[key, entry] : quantized)
    for (LinearOp linear : entry.linears)
      linear.removeSchemeAttr();
  // A get_parameter of a parameter that changed its type and that nobody used.
  module->walk([&](GetParameterOp get) {
    auto parameter = table.lookup<ParameterOp>(get.getParameter());
    if (parameter && get->use_empty() && parameter.getType() != get.getType())
      get.erase();
  });

  for (ArchiveOp archive : archives) {
    if (SymbolTable::symbolKnownUseEmpty(archive, module)) {
      archive.erase();
      continue;
    }
    std::string path = resolveArchivePath(archive, baseDir);
    if (!llvm::sys::path::is_absolute(archive.getPath()))
      archive.setPath(makeRelative(path, directory));
    archive->setLoc(location);
  }
}

LogicalResult QuantizeWeights::run() {
  ParameterArchives archives(baseDir);
  if (failed(collect()) || failed(checkOutput(archives)) ||
      failed(plan(archives)))
    return failure();

  std::optional<AtomicFile> reportFile;
  if (!report.empty()) {
    Result<AtomicFile> file = AtomicFile::create(report);
    if (!file.ok())
      return fail() << "cannot write '" << report << "': " << file.message();
    reportFile.emplace(file.take());
  }
  std::map<std::string, std::string> metadata{{"format", "quant-llm"}};
  Result<SafetensorsWriter> writer =
      SafetensorsWriter::create(output, declarations, metadata);
  if (!writer.ok())
    return fail() << "cannot write '" << output << "': " << writer.message();
  if (failed(write(archives, *writer)))
    return failure();

  // The report is complete on disk, but not yet visible, before the archive
  // appears: what can still go wrong then is one rename.
  if (reportFile) {
    std::string text = makeReport();
    if (Status status = reportFile->write(text.data(), text.size());
        !status.ok())
      return fail() << "cannot write '" << report << "': " << status.message();
  }
  if (Status status = writer->finish(); !status.ok())
    return fail() << "cannot write '" << output << "': " << status.message();
  if (reportFile)
    if (Status status = reportFile->commit(); !status.ok())
      return fail() << "cannot write '" << report << "': " << status.message();
  rewrite();
  return success();
}
