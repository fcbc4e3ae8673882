//===- Artifact.cpp - Files of compiled linear layers ---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CUDA/Module.h"
#include "quant-llm/Support/Sha256.h"

#include <cmath>
#include <cstring>
#include <filesystem>

using namespace quant_llm;
using namespace quant_llm::cuda;

namespace fs = std::filesystem;

/// A manifest is text of kernels and layers: far less than this.
static constexpr size_t maxManifestBytes = 64 << 20;

static CudaStatus artifactError(const std::string &where,
                                const Status &status) {
  return {ErrorKind::Artifact, status.withContext(where)};
}

/// An error if `file`, seen from the directory of the manifest, is a symbolic
/// link out of it. The directory that the manifest itself really lies in is
/// fine, too: caches link all files of a set into one directory of blobs.
static Status checkInside(const std::string &directory,
                          const std::string &file) {
  std::error_code error;
  fs::path target = fs::canonical(fs::path(directory) / file, error);
  if (error)
    return Status::error("cannot open '" + file + "': " + error.message());
  fs::path manifest =
      fs::canonical(fs::path(directory) / "manifest.json", error);
  for (const fs::path &root :
       {fs::canonical(directory, error), manifest.parent_path()}) {
    auto mismatch =
        std::mismatch(root.begin(), root.end(), target.begin(), target.end());
    if (!root.empty() && mismatch.first == root.end())
      return Status::success();
  }
  return Status::error("expected '" + file +
                       "' to lie below the manifest's directory but it is a "
                       "link to '" +
                       target.string() + "'");
}

CudaStatus Artifact::open(const std::string &path, const Options &options,
                          std::shared_ptr<const Artifact> &result) {
  std::shared_ptr<Artifact> made(new Artifact);
  std::error_code ignored;
  if (path.find('\0') != std::string::npos)
    return {ErrorKind::Argument, "expected a path without zero bytes"};
  fs::path given(path);
  std::string directory = fs::is_directory(given, ignored)
                              ? given.string()
                              : given.parent_path().string();
  if (directory.empty())
    directory = ".";
  made->path = fs::is_directory(given, ignored)
                   ? (given / "manifest.json").string()
                   : path;
  Result<MappedFile> text = MappedFile::open(made->path);
  if (!text.ok())
    return {ErrorKind::Artifact, text.status()};
  if (text->size() > maxManifestBytes)
    return {ErrorKind::Artifact, made->path + ": expected at most " +
                                     std::to_string(maxManifestBytes) +
                                     " bytes but got " +
                                     std::to_string(text->size())};
  Result<Manifest> manifest = parseManifest(std::string_view(
      reinterpret_cast<const char *>(text->data()), text->size()));
  if (!manifest.ok())
    return artifactError(made->path, manifest.status());
  made->manifest = manifest.take();
  CudaStatus status = made->loadKernels(directory);
  if (status.ok())
    status = made->loadWeights(directory, options);
  if (!status.ok())
    return {status.kind, status.withContext(made->path)};
  result = std::move(made);
  return {};
}

CudaStatus Artifact::loadKernels(const std::string &directory) {
  std::map<std::string, size_t> indexOf;
  std::vector<std::string> hashes;
  for (const KernelDescription &kernel : manifest.kernels) {
    auto [it, isNew] = indexOf.emplace(kernel.file, files.size());
    if (isNew) {
      Status inside = checkInside(directory, kernel.file);
      if (!inside.ok())
        return {ErrorKind::Artifact, inside};
      Result<MappedFile> file =
          MappedFile::open((fs::path(directory) / kernel.file).string());
      if (!file.ok())
        return {ErrorKind::Artifact, file.status()};
      hashes.push_back(sha256Hex(file->data(), file->size()));
      files.push_back(file.take());
    }
    if (hashes[it->second] != kernel.sha256)
      return {ErrorKind::Artifact,
              "expected '" + kernel.file + "' to have the SHA-256 " +
                  kernel.sha256 + " but got " + hashes[it->second] +
                  "; the file and the manifest are not of one compilation"};
    fileOfKernel.push_back(it->second);
  }
  return {};
}

/// A tensor of the archive that is what the layout says.
static Result<TensorInfo> findComponent(const Archive &archive,
                                        const std::string &key,
                                        const PackedComponentInfo &info) {
  Result<TensorInfo> tensor = archive.find(key);
  if (!tensor.ok())
    return tensor.status();
  bool typeFits =
      !tensor->blockType &&
      (info.isBytes ? tensor->dtype == DType::U8 || tensor->dtype == DType::I8
                    : tensor->dtype == getDType(info.type));
  if (!typeFits || tensor->shape != info.shape ||
      tensor->bytes != static_cast<uint64_t>(info.bytes)) {
    std::string expected =
        info.isBytes ? "U8" : std::string(getDTypeName(getDType(info.type)));
    return Status::error("expected '" + key + "' to be " +
                         shapeToString(info.shape) + " of " + expected +
                         " but got " + shapeToString(tensor->shape) + " of " +
                         std::string(getDTypeName(tensor->dtype)) +
                         "; pack the weights again (quant-llm-prepack)");
  }
  return tensor;
}

Result<PackedTensor> Artifact::findTensor(size_t archive,
                                          const std::string &key,
                                          const PackedComponentInfo &info) {
  Result<TensorInfo> source = findComponent(*archives[archive], key, info);
  if (!source.ok())
    return source.status();
  // Layers may share a weight: it is stored once.
  auto [it, isNew] =
      tensorIndex.emplace(std::make_pair(archive, key), tensors.size());
  if (isNew) {
    PackedTensor tensor;
    tensor.source = source.take();
    tensor.archive = archive;
    tensor.offset = weightBytes;
    // The sum of sizes of tensors of mapped files; a few thousand of them.
    weightBytes += (tensor.source.bytes + weightAlignment - 1) /
                   weightAlignment * weightAlignment;
    tensors.push_back(std::move(tensor));
  }
  return tensors[it->second];
}

CudaStatus Artifact::loadWeights(const std::string &directory,
                                 const Options &options) {
  std::map<std::string, size_t> indexOf;
  for (const LinearDescription &linear : manifest.linears) {
    std::string where = "linear '" + linear.name + "'";
    Result<FragmentLayout> layout =
        FragmentLayout::get(linear.scheme, linear.getRows(), linear.k);
    if (!layout.ok())
      return artifactError(where, layout.status());
    PackedWeightBytes bytes;
    for (const PackedComponentInfo &info : layout->getComponents())
      if (info.kind != PackedComponentKind::OutputScale)
        (info.kind == PackedComponentKind::Codes    ? bytes.codes
         : info.kind == PackedComponentKind::Scales ? bytes.scales
                                                    : bytes.zeros) =
            static_cast<uint64_t>(info.bytes);
    bytesOfWeight.push_back(bytes);
    weights.emplace_back();
    if (linear.keys.empty())
      continue;
    auto [it, isNew] = indexOf.emplace(
        options.archive.empty() ? linear.archive : options.archive,
        archives.size());
    if (isNew) {
      if (options.archive.empty()) {
        Status inside = checkInside(directory, linear.archive);
        if (!inside.ok())
          return artifactError(where, inside);
      }
      Result<std::unique_ptr<Archive>> opened =
          Archive::open(options.archive.empty()
                            ? (fs::path(directory) / linear.archive).string()
                            : options.archive);
      if (!opened.ok())
        return artifactError(where, opened.status());
      archives.push_back(opened.take());
    }
    size_t archive = it->second;
    for (const std::string &key : linear.keys) {
      PackedWeightFiles weight;
      for (const PackedComponentInfo &info : layout->getComponents()) {
        std::string name = key + info.suffix;
        if (info.kind == PackedComponentKind::OutputScale) {
          Result<TensorInfo> scale =
              findComponent(*archives[archive], name, info);
          if (!scale.ok())
            return artifactError(where, scale.status());
          std::memcpy(&weight.outputScale, scale->data, sizeof(float));
          if (!std::isfinite(weight.outputScale))
            return {ErrorKind::Artifact,
                    where + ": expected '" + name + "' to be a finite number"};
          continue;
        }
        Result<PackedTensor> tensor = findTensor(archive, name, info);
        if (!tensor.ok())
          return artifactError(where, tensor.status());
        (info.kind == PackedComponentKind::Codes    ? weight.codes
         : info.kind == PackedComponentKind::Scales ? weight.scales
                                                    : weight.zeros) =
            tensor.take();
      }
      weights.back().push_back(std::move(weight));
    }
  }
  return {};
}
