//===- Import.cpp - From a checkpoint to a module
//---------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Import/Import.h"

#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Json.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Verifier.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

using namespace mlir;
using namespace quant_llm;
namespace fs = std::filesystem;

/// The directory that a file is in, links resolved.
static fs::path getDirectory(const fs::path &file) {
  std::error_code error;
  fs::path parent = file.parent_path();
  fs::path real =
      fs::weakly_canonical(parent.empty() ? fs::path(".") : parent, error);
  return error ? fs::absolute(parent, error) : real;
}

/// How a module in `directory` names the file `target`: relative if both have a
/// directory in common (they are likely to move together), absolute otherwise.
static std::string makeReference(const fs::path &target,
                                 const fs::path &directory) {
  const fs::path folder = getDirectory(target);
  const fs::path absolute = folder / target.filename();
  auto first = [](const fs::path &path) {
    auto it = path.begin();
    return it != path.end() && ++it != path.end() ? *it : fs::path();
  };
  if (first(folder) != first(directory) && folder != directory)
    return absolute.string();
  return absolute.lexically_relative(directory).string();
}

/// Whether a safetensors file was written by the importer.
static bool isImportedWeights(const std::string &path) {
  Result<SafetensorsFile> file = SafetensorsFile::open(path);
  return file.ok() && file->metadata().count(kImportedMetadataKey);
}

/// Whether a config.json was written by the importer.
static bool isImportedConfig(const std::string &path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok())
    return false;
  Result<nlohmann::json> json = parseJson(std::string_view(
      reinterpret_cast<const char *>(file->data()), file->size()));
  return json.ok() && json->is_object() && json->contains("quant_llm");
}

static bool endsWith(const std::string &text, const std::string &suffix) {
  return text.size() > suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

/// The text of the module; diagnostics of the verifier become the error.
static Result<std::string> printModule(MLIRContext &context,
                                       const Checkpoint &checkpoint,
                                       const std::string &archivePath) {
  std::string diagnostics;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    if (!diagnostics.empty())
      diagnostics += "; ";
    diagnostics += diagnostic.str();
    return success();
  });
  OwningOpRef<ModuleOp> module =
      buildModel(context, checkpoint.config, checkpoint.tensors, archivePath);
  if (failed(verify(*module)))
    return Status::error("the imported module is invalid: " + diagnostics);
  std::string text;
  llvm::raw_string_ostream stream(text);
  module->print(stream);
  stream << "\n";
  return text;
}

Status quant_llm::importModel(MLIRContext &context, const std::string &input,
                              const std::string &output,
                              const ImportOptions &options) {
  const bool toStandardOutput = output == "-";
  if (!toStandardOutput) {
    std::error_code error;
    if (fs::is_directory(output, error))
      return Status::error("expected a file to write but '" + output +
                           "' is a directory; give a name such as '" +
                           (fs::path(output) / "model.mlir").string() + "'");
    if (!endsWith(output, ".mlir"))
      return Status::error(
          "expected an output file that ends in .mlir but got '" + output +
          "'");
    const fs::path parent = fs::path(output).parent_path();
    if (!parent.empty() && !fs::is_directory(parent, error))
      return Status::error(
          "expected a directory '" + parent.string() +
          "' for the output but there is none; create it first");
  }

  Result<Checkpoint> opened = openCheckpoint(input, options.blockType);
  if (!opened.ok())
    return opened.status();
  const Checkpoint &checkpoint = *opened;
  // Only a link can have such a name.
  if (!toStandardOutput)
    if (const Archive::File *file = checkpoint.archive->findFile(output))
      return Status::error("'" + output + "' leads to '" + file->path +
                           "', which holds weights of the model; choose "
                           "another output name");
  auto warn = [&](const std::string &message) {
    if (options.warn)
      options.warn(message);
  };
  for (const std::string &warning : checkpoint.warnings)
    warn(warning);

  const fs::path directory = getDirectory(toStandardOutput ? "./-" : output);
  if (checkpoint.format == Checkpoint::Format::HuggingFace) {
    Result<std::string> text =
        printModule(context, checkpoint,
                    makeReference(checkpoint.archive->path(), directory));
    if (!text.ok())
      return text.status();
    if (toStandardOutput) {
      llvm::outs() << *text;
      llvm::outs().flush();
      if (llvm::outs().has_error())
        return Status::error("cannot write to standard output: " +
                             llvm::outs().error().message());
      return Status::success();
    }
    return writeFileAtomically(output, text->data(), text->size());
  }

  if (toStandardOutput)
    return Status::error(
        "expected an output file for a GGUF model: its weights are "
        "written beside it");
  const std::string stem = output.substr(0, output.size() - 5);
  const std::string weights = stem + ".safetensors";
  std::error_code error;
  if (fs::exists(weights, error) && !isImportedWeights(weights))
    return Status::error(
        "'" + weights +
        "' exists and was not written by this tool; choose another "
        "output name or remove it");
  Result<std::string> text =
      printModule(context, checkpoint, fs::path(weights).filename().string());
  if (!text.ok())
    return text.status();

  // With a config.json beside them, the weights are a model for Transformers
  // too, if they have the name that it looks for.
  std::optional<AtomicFile> configFile;
  const std::string configPath =
      (fs::path(output).parent_path() / "config.json").string();
  Result<std::string> config = writeHuggingFaceConfig(
      checkpoint.config,
      options.blockType == StorageType::F32 ? "float32" : "float16");
  if (!config.ok()) {
    warn("no config.json is written: " + config.message());
  } else if (fs::exists(configPath, error) && !isImportedConfig(configPath)) {
    warn("'" + configPath + "' exists and is left as it is");
  } else {
    Result<AtomicFile> file = AtomicFile::create(configPath);
    if (!file.ok())
      return file.status();
    if (Status status = file->write(config->data(), config->size());
        !status.ok())
      return status;
    configFile.emplace(file.take());
  }
  Result<AtomicFile> moduleFile = AtomicFile::create(output);
  if (!moduleFile.ok())
    return moduleFile.status();
  if (Status status = moduleFile->write(text->data(), text->size());
      !status.ok())
    return status;

  Result<SafetensorsWriter> writer =
      convertWeights(checkpoint, weights, options.progress);
  if (!writer.ok())
    return writer.status();
  // Everything is written: let the files appear, the one that refers to the
  // others last.
  FileTransaction files;
  if (Status status = writer->finish(); !status.ok())
    return status;
  if (configFile)
    if (Status status = configFile->commit(); !status.ok())
      return status;
  if (Status status = moduleFile->commit(); !status.ok())
    return status;
  return files.commit();
}

std::string quant_llm::describeCheckpoint(const Checkpoint &checkpoint) {
  const ModelConfig &config = checkpoint.config;
  std::string text;
  llvm::raw_string_ostream os(text);
  auto yesNo = [](bool value) { return value ? "yes" : "no"; };
  os << "model:             " << config.architecture << " ("
     << (checkpoint.format == Checkpoint::Format::GGUF ? "GGUF"
                                                       : "Hugging Face")
     << ")\n";
  os << "layers:            " << config.numLayers << "\n";
  os << "hidden size:       " << config.hiddenSize << "\n";
  os << "intermediate size: " << config.intermediateSize << "\n";
  os << "heads:             " << config.numHeads << " (" << config.numKVHeads
     << " key-value) of size " << config.headDim << "\n";
  os << "vocabulary:        " << config.vocabSize << "\n";
  os << "positions:         " << config.maxPositions << "\n";
  os << "rms norm eps:      " << llvm::format("%g", config.rmsNormEps) << "\n";
  os << "rope:              base " << llvm::format("%g", config.ropeTheta);
  if (config.ropeScaling.kind == RopeScaling::Kind::Llama3)
    os << ", llama3 scaling by "
       << llvm::format("%g", config.ropeScaling.factor) << " of "
       << config.ropeScaling.originalMaxPositions << " positions";
  os << "\n";
  os << "activation:        " << stringifyActivation(config.activation) << "\n";
  os << "biases:            qkv " << yesNo(config.qkvBias) << ", output "
     << yesNo(config.outputBias) << ", mlp " << yesNo(config.mlpBias) << "\n";
  os << "query-key norm:    " << yesNo(config.qkNorm) << "\n";
  os << "tied embeddings:   " << yesNo(config.tiedEmbeddings) << "\n";
  os << "weights:           " << checkpoint.archive->path() << "\n";

  uint64_t elements = 0, bytes = 0;
  size_t nameWidth = 0, typeWidth = 0;
  std::vector<std::array<std::string, 3>> rows;
  for (const StoredTensor &tensor : checkpoint.tensors) {
    const std::string &name =
        tensor.source.empty() ? tensor.key : tensor.source;
    std::string type(getDTypeName(getDType(tensor.type)));
    if (Result<TensorInfo> info = checkpoint.archive->find(name); info.ok()) {
      bytes += info->bytes;
      if (info->blockType)
        type = getGGMLTypeName(*info->blockType);
    }
    elements += getNumElements(tensor.spec.shape).value_or(0);
    std::string shown = tensor.key;
    if (!tensor.source.empty())
      shown += " (" + tensor.source + ")";
    nameWidth = std::max(nameWidth, shown.size());
    typeWidth = std::max(typeWidth, type.size());
    rows.push_back(
        {std::move(shown), std::move(type), shapeToString(tensor.spec.shape)});
  }
  os << "tensors:           " << rows.size() << ", " << elements
     << " elements, " << bytes << " bytes\n";
  for (const auto &row : rows) {
    os << "  " << row[0];
    os.indent(nameWidth - row[0].size() + 2) << row[1];
    os.indent(typeWidth - row[1].size() + 2) << row[2] << "\n";
  }
  return text;
}
