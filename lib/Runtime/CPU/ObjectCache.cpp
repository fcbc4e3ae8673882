//===- ObjectCache.cpp - Compiled modules kept on disk --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ObjectCache.h"

#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/Json.h"
#include "quant-llm/Support/MappedFile.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/SHA256.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>

using namespace quant_llm;
using namespace quant_llm::cpu;
namespace fs = std::filesystem;

//===----------------------------------------------------------------------===//
// File format: a checksum of what follows, magic, length and text of a JSON
// header, objects
//===----------------------------------------------------------------------===//

static constexpr char magic[8] = {'Q', 'L', 'L', 'M', 'O', 'B', 'J', '2'};
static constexpr const char *suffix = ".qllmobj";

static nlohmann::json toJson(const std::vector<ValueSignature> &values) {
  nlohmann::json list = nlohmann::json::array();
  for (const ValueSignature &value : values)
    list.push_back({{"scalar", value.isScalar},
                    {"dtype", getDTypeName(value.dtype)},
                    {"shape", value.shape}});
  return list;
}

std::string cpu::serialize(const CompiledModule &module) {
  nlohmann::json header;
  header["functions"] = nlohmann::json::array();
  for (const FunctionSignature &function : module.functions)
    header["functions"].push_back({{"name", function.name},
                                   {"arguments", toJson(function.arguments)},
                                   {"results", toJson(function.results)},
                                   {"aliases", function.resultAliases}});
  header["parameters"] = nlohmann::json::array();
  for (const ParameterBinding &parameter : module.parameters)
    header["parameters"].push_back({{"symbol", parameter.symbol},
                                    {"archive", parameter.archive},
                                    {"key", parameter.key},
                                    {"dtype", getDTypeName(parameter.dtype)},
                                    {"shape", parameter.shape}});
  header["kernels"] = module.kernels;
  header["checks"] = module.checks;
  std::vector<uint64_t> sizes;
  for (const std::string &object : module.objects)
    sizes.push_back(object.size());
  header["objects"] = sizes;
  // Strings that are not UTF-8 (file names) must not make this throw; such an
  // entry is found invalid when read and compiled again.
  std::string text =
      header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string bytes(magic, sizeof(magic));
  uint64_t length = text.size();
  bytes.append(reinterpret_cast<const char *>(&length), sizeof(length));
  bytes += text;
  for (const std::string &object : module.objects)
    bytes += object;
  return bytes;
}

namespace {

/// Reads JSON of the expected structure; any surprise clears `valid`.
struct HeaderReader {
  bool valid = true;

  const nlohmann::json &get(const nlohmann::json &object, const char *key) {
    static const nlohmann::json none;
    if (object.is_object()) {
      auto it = object.find(key);
      if (it != object.end())
        return *it;
    }
    valid = false;
    return none;
  }
  std::string string(const nlohmann::json &value) {
    if (value.is_string())
      return value.get<std::string>();
    valid = false;
    return {};
  }
  std::vector<std::string> strings(const nlohmann::json &value) {
    std::vector<std::string> list;
    valid &= value.is_array();
    if (value.is_array())
      for (const nlohmann::json &element : value)
        list.push_back(string(element));
    return list;
  }
  std::vector<int64_t> integers(const nlohmann::json &value) {
    std::vector<int64_t> list;
    valid &= value.is_array();
    if (value.is_array())
      for (const nlohmann::json &element : value) {
        valid &= element.is_number_integer();
        list.push_back(element.is_number_integer() ? element.get<int64_t>()
                                                   : 0);
      }
    return list;
  }
  DType dtype(const nlohmann::json &value) {
    std::optional<DType> type = parseDType(string(value));
    valid &= type.has_value();
    return type.value_or(DType::F32);
  }
  std::vector<ValueSignature> signatures(const nlohmann::json &value) {
    std::vector<ValueSignature> list;
    valid &= value.is_array();
    if (value.is_array())
      for (const nlohmann::json &element : value) {
        const nlohmann::json &scalar = get(element, "scalar");
        valid &= scalar.is_boolean();
        ValueSignature signature;
        signature.isScalar = scalar.is_boolean() && scalar.get<bool>();
        signature.dtype = dtype(get(element, "dtype"));
        signature.shape = integers(get(element, "shape"));
        list.push_back(std::move(signature));
      }
    return list;
  }
};

} // namespace

Result<CompiledModule> cpu::deserialize(std::string_view bytes) {
  Status damaged = Status::error("the cached object is damaged");
  uint64_t length = 0;
  if (bytes.size() < sizeof(magic) + sizeof(length) ||
      std::memcmp(bytes.data(), magic, sizeof(magic)) != 0)
    return damaged;
  std::memcpy(&length, bytes.data() + sizeof(magic), sizeof(length));
  bytes.remove_prefix(sizeof(magic) + sizeof(length));
  if (length > bytes.size())
    return damaged;
  Result<nlohmann::json> header = parseJson(bytes.substr(0, length));
  if (!header.ok())
    return damaged;
  bytes.remove_prefix(length);
  HeaderReader reader;
  CompiledModule module;
  for (const nlohmann::json &value : reader.get(*header, "functions")) {
    FunctionSignature function;
    function.name = reader.string(reader.get(value, "name"));
    function.arguments = reader.signatures(reader.get(value, "arguments"));
    function.results = reader.signatures(reader.get(value, "results"));
    function.resultAliases = reader.integers(reader.get(value, "aliases"));
    reader.valid &= function.resultAliases.size() == function.results.size();
    module.functions.push_back(std::move(function));
  }
  for (const nlohmann::json &value : reader.get(*header, "parameters")) {
    ParameterBinding parameter;
    parameter.symbol = reader.string(reader.get(value, "symbol"));
    parameter.archive = reader.string(reader.get(value, "archive"));
    parameter.key = reader.string(reader.get(value, "key"));
    parameter.dtype = reader.dtype(reader.get(value, "dtype"));
    parameter.shape = reader.integers(reader.get(value, "shape"));
    module.parameters.push_back(std::move(parameter));
  }
  module.kernels = reader.strings(reader.get(*header, "kernels"));
  module.checks = reader.strings(reader.get(*header, "checks"));
  for (int64_t size : reader.integers(reader.get(*header, "objects"))) {
    if (size < 0 || static_cast<uint64_t>(size) > bytes.size())
      return damaged;
    module.objects.emplace_back(bytes.substr(0, static_cast<size_t>(size)));
    bytes.remove_prefix(static_cast<size_t>(size));
  }
  if (!reader.valid || !bytes.empty() || module.objects.empty())
    return damaged;
  return module;
}

//===----------------------------------------------------------------------===//
// Trust
//===----------------------------------------------------------------------===//

static constexpr size_t checksumSize = 32;

/// Covers the name of an entry and all of its contents, so that neither a
/// damaged file nor one under another name is taken for it.
static std::array<uint8_t, checksumSize>
computeChecksum(std::string_view key, std::string_view contents) {
  llvm::SHA256 hash;
  hash.update(llvm::StringRef(key.data(), key.size()));
  hash.update(llvm::StringRef(contents.data(), contents.size()));
  return hash.final();
}

/// Entries are code that will be executed, so nobody else may be able to write
/// them: what they are in must belong to this user and be closed to others.
static bool isTrusted(const struct stat &info) {
  return info.st_uid == ::geteuid() &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static bool isTrustedDirectory(const std::string &path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
         isTrusted(info);
}

static bool isTrustedFile(const std::string &path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         isTrusted(info);
}

//===----------------------------------------------------------------------===//
// ObjectCache
//===----------------------------------------------------------------------===//

ObjectCache::ObjectCache(const CpuEngineOptions &options)
    : limit(options.cacheLimitBytes) {
  if (!options.useCache)
    return;
  auto fromEnvironment = [](const char *name) -> std::string {
    const char *value = std::getenv(name);
    return value ? value : "";
  };
  directory = options.cacheDirectory;
  if (directory.empty())
    directory = fromEnvironment("QUANT_LLM_CACHE_DIR");
  if (directory.empty()) {
    std::string base = fromEnvironment("XDG_CACHE_HOME");
    if (base.empty()) {
      base = fromEnvironment("HOME");
      if (base.empty())
        return;
      base += "/.cache";
    }
    directory = base + "/quant-llm";
  }
}

std::string ObjectCache::computeKey(std::string_view source,
                                    const CpuEngineOptions &options) {
  llvm::SHA256 hash;
  auto add = [&](std::string_view part) {
    uint64_t length = part.size();
    hash.update(llvm::StringRef(reinterpret_cast<const char *>(&length),
                                sizeof(length)));
    hash.update(llvm::StringRef(part.data(), part.size()));
  };
  add(getCompilerIdentity());
  add("reference " + std::to_string(options.reference) + " profile " +
      std::to_string(options.profile) + " level " +
      std::to_string(options.optLevel));
  add(source);
  return llvm::toHex(hash.final(), /*LowerCase=*/true);
}

std::optional<CompiledModule> ObjectCache::load(const std::string &key) const {
  if (directory.empty())
    return std::nullopt;
  std::string path = directory + "/" + key + suffix;
  if (!isTrustedDirectory(directory) || !isTrustedFile(path))
    return std::nullopt;
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok() || file->size() < checksumSize)
    return std::nullopt;
  std::string_view contents(reinterpret_cast<const char *>(file->data()),
                            file->size());
  std::array<uint8_t, checksumSize> checksum =
      computeChecksum(key, contents.substr(checksumSize));
  if (std::memcmp(contents.data(), checksum.data(), checksumSize) != 0)
    return std::nullopt;
  Result<CompiledModule> module = deserialize(contents.substr(checksumSize));
  if (!module.ok())
    return std::nullopt;
  // The time of the last use decides what is evicted first.
  std::error_code ignored;
  fs::last_write_time(path, fs::file_time_type::clock::now(), ignored);
  return module.take();
}

void ObjectCache::store(const std::string &key,
                        const CompiledModule &module) const {
  if (directory.empty())
    return;
  std::error_code error;
  bool created = fs::create_directories(directory, error);
  if (error)
    return;
  if (created)
    fs::permissions(directory, fs::perms::owner_all, error);
  if (!isTrustedDirectory(directory))
    return;
  std::string contents = serialize(module);
  std::array<uint8_t, checksumSize> checksum = computeChecksum(key, contents);
  contents.insert(0, reinterpret_cast<const char *>(checksum.data()),
                  checksumSize);
  if (contents.size() > limit)
    return;
  std::string path = directory + "/" + key + suffix;
  // What is there was not trusted, or there is nothing; a link is not followed.
  fs::remove(path, error);
  Status written = writeFileAtomically(path, contents.data(), contents.size());
  if (!written.ok())
    return;
  // Whatever the mask of the process lets others do.
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write, error);
  evict();
}

void ObjectCache::evict() const {
  struct Entry {
    fs::path path;
    fs::file_time_type time;
    uint64_t size;
  };
  std::vector<Entry> entries;
  uint64_t total = 0;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().extension() != suffix)
      continue;
    std::error_code failed;
    Entry entry{it->path(), it->last_write_time(failed), 0};
    if (failed)
      continue;
    entry.size = it->file_size(failed);
    if (failed)
      continue;
    total += entry.size;
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry &a, const Entry &b) {
    return a.time != b.time ? a.time < b.time : a.path < b.path;
  });
  for (const Entry &entry : entries) {
    if (total <= limit)
      break;
    std::error_code failed;
    fs::remove(entry.path, failed);
    total -= entry.size;
  }
}
