//===- Manifest.cpp -------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CUDA/Manifest.h"

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/GroupQuantizer.h"
#include "quant-llm/Support/CheckedMath.h"
#include "quant-llm/Support/JsonFields.h"
#include "quant-llm/Support/Rounding.h"

#include <algorithm>
#include <map>
#include <set>

using namespace quant_llm;
using namespace quant_llm::cuda;
using nlohmann::json;

static constexpr const char *schemaName = "quant_llm.manifest/1";

/// What a launch can hold on any chip; the device is asked for its own limits.
static constexpr int64_t maxThreads = 1024;
static constexpr int64_t maxShared = 1 << 20;
static constexpr int64_t maxCluster = 16;
static constexpr int64_t maxExtent = INT32_MAX;
static constexpr int64_t maxWorkspace = int64_t(1) << 40;
static constexpr int64_t maxGridX = INT32_MAX;
static constexpr int64_t maxGridY = 65535;

//===----------------------------------------------------------------------===//
// Fields
//===----------------------------------------------------------------------===//

/// [low, high] token counts.
static void readTokens(JsonFields &fields, int64_t &low, int64_t &high) {
  std::vector<const json *> range = fields.array("tokens");
  if (!fields.ok())
    return;
  if (range.size() != 2) {
    fields.fail("expected 'tokens' to be [min, max] but got " +
                std::to_string(range.size()) + " elements");
    return;
  }
  low = fields.asInteger(*range[0], "tokens", 1, INT64_MAX);
  high = fields.asInteger(*range[1], "tokens", 1, INT64_MAX);
  if (fields.ok() && low > high)
    fields.fail("expected 'tokens' to be [min, max] but got [" +
                std::to_string(low) + ", " + std::to_string(high) + "]");
}

/// A file of the directory: relative, and without a way out of it.
static std::string readFileName(JsonFields &fields, const char *name) {
  std::string file = fields.text(name);
  if (!fields.ok())
    return file;
  bool leaves = file.front() == '/';
  for (size_t begin = 0; begin <= file.size();) {
    size_t end = std::min(file.find('/', begin), file.size());
    leaves |= file.compare(begin, end - begin, "..") == 0;
    begin = end + 1;
  }
  if (leaves)
    fields.fail(std::string("expected '") + name +
                "' to name a file below the manifest's directory but got '" +
                file + "'");
  return file;
}

static TensorType readType(JsonFields &fields, const char *name, bool withF32) {
  std::string text = fields.text(name);
  for (TensorType type : {TensorType::F16, TensorType::BF16, TensorType::F32})
    if (text == getName(type) && (withF32 || type != TensorType::F32))
      return type;
  fields.fail(std::string("expected '") + name + "' to be f16" +
              (withF32 ? ", bf16 or f32" : " or bf16") + " but got '" + text +
              "'");
  return TensorType::F16;
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

static const std::pair<const char *, ArgumentKind> plainArguments[] = {
    {"tensor_map_x", ArgumentKind::TensorMapX},
    {"x", ArgumentKind::X},
    {"y", ArgumentKind::Y},
    {"offsets", ArgumentKind::Offsets},
    {"workspace", ArgumentKind::Workspace},
    {"m", ArgumentKind::M},
};
static const std::pair<const char *, ArgumentKind> indexedArguments[] = {
    {"packed", ArgumentKind::Packed},
    {"packed_scales", ArgumentKind::PackedScales},
    {"packed_zeros", ArgumentKind::PackedZeros},
    {"output_scale", ArgumentKind::OutputScale},
    {"epilogue", ArgumentKind::Epilogue},
};

std::string cuda::argumentName(const KernelArgument &argument) {
  for (const auto &[name, kind] : plainArguments)
    if (kind == argument.kind)
      return name;
  for (const auto &[name, kind] : indexedArguments)
    if (kind == argument.kind)
      return name + std::to_string(argument.index);
  return "?";
}

static std::optional<KernelArgument> parseArgument(const std::string &text) {
  for (const auto &[name, kind] : plainArguments)
    if (text == name)
      return KernelArgument{kind, 0};
  for (const auto &[name, kind] : indexedArguments)
    for (unsigned index = 0; index < maxArguments; ++index)
      if (text == name + std::to_string(index))
        return KernelArgument{kind, index};
  return std::nullopt;
}

static void readArguments(JsonFields &fields, KernelDescription &kernel) {
  std::vector<std::string> names = fields.texts("args");
  if (names.size() > maxArguments) {
    fields.fail("expected at most " + std::to_string(maxArguments) +
                " arguments but got " + std::to_string(names.size()));
    return;
  }
  std::set<std::string> seen;
  for (const std::string &name : names) {
    std::optional<KernelArgument> argument = parseArgument(name);
    if (!argument)
      fields.fail("expected an argument (tensor_map_x, x, y, offsets, "
                  "workspace, m, packedI, packed_scalesI, packed_zerosI, "
                  "output_scaleI, epilogueI) but got '" +
                  name + "'");
    else if (!seen.insert(name).second)
      fields.fail("expected every argument once but got '" + name + "' again");
    else
      kernel.arguments.push_back(*argument);
  }
  if (fields.ok() && !seen.count("y"))
    fields.fail("expected an argument 'y'");
  if (fields.ok() && !seen.count("m"))
    fields.fail("expected an argument 'm'");
  if (fields.ok() && seen.count("tensor_map_x") && !kernel.tensorMap)
    fields.fail("expected a field 'tensor_map_x' for the argument of that "
                "name");
}

static Result<KernelDescription> readKernel(const json &value, size_t index) {
  std::string where = "kernel " + std::to_string(index);
  JsonFields fields(value, where);
  KernelDescription kernel;
  kernel.name = fields.text("name");
  if (fields.ok())
    where = "kernel '" + kernel.name + "'";
  JsonFields named(value, where);
  if (!fields.ok())
    return fields.status();
  kernel.file = readFileName(named, "file");
  kernel.sha256 = named.text("sha256");
  if (named.ok() && (kernel.sha256.size() != 64 ||
                     kernel.sha256.find_first_not_of("0123456789abcdef") !=
                         std::string::npos))
    named.fail("expected 'sha256' to be 64 lower-case hexadecimal digits");
  kernel.threads = named.integer("threads", 1, maxThreads);
  kernel.sharedBytes = named.integer("shared_bytes", 0, maxShared);
  kernel.cluster = named.integerOr("cluster", 1, 1, maxCluster);
  kernel.tokenTile = named.integer("token_tile", 1, maxExtent);
  kernel.rowTile = named.integer("row_tile", 1, maxExtent);
  kernel.split = named.integerOr("split", 1, 1, maxExtent);
  std::string grid = named.text("grid");
  kernel.persistent = grid == "persistent";
  if (named.ok() && grid != "tiles" && grid != "persistent")
    named.fail("expected 'grid' to be tiles or persistent but got '" + grid +
               "'");
  kernel.dependentLaunch = named.integerOr("dependent_launch", 0, 0, 1) != 0;
  kernel.ctasPerSM = named.integerOr("ctas_per_sm", 1, 1, 64);
  kernel.workspaceBytes =
      named.integerOr("workspace_bytes", 0, 0, maxWorkspace);
  kernel.workspaceBytesPerTile =
      named.integerOr("workspace_bytes_per_tile", 0, 0, maxWorkspace);
  kernel.workspaceBytesPerCTA =
      named.integerOr("workspace_bytes_per_cta", 0, 0, maxWorkspace);
  kernel.workspaceBytesPerToken =
      named.integerOr("workspace_bytes_per_token", 0, 0, maxWorkspace);
  if (const json *form = named.find("tensor_map_x")) {
    JsonFields map(*form, where + ": tensor_map_x");
    TensorMapForm made;
    made.boxK = map.integer("box_k", 1, 256);
    made.boxTokens = map.integer("box_tokens", 1, 256);
    made.swizzle = map.integerOr("swizzle", 128, 0, 128);
    if (map.ok() && made.swizzle != 0 && made.swizzle != 32 &&
        made.swizzle != 64 && made.swizzle != 128)
      map.fail("expected 'swizzle' to be 0, 32, 64 or 128 but got " +
               std::to_string(made.swizzle));
    made.boxSegments = map.integerOr("box_segments", 0, 1, 256);
    if (!map.ok())
      return map.status();
    kernel.tensorMap = made;
  }
  readArguments(named, kernel);
  if (!named.ok())
    return named.status();
  return kernel;
}

//===----------------------------------------------------------------------===//
// Linears
//===----------------------------------------------------------------------===//

/// Rejects a kernel that wants what the linear does not have.
static Status verifyArguments(const LinearDescription &linear,
                              const KernelDescription &kernel) {
  auto error = [&](const KernelArgument &argument, const std::string &reason) {
    return Status::error("kernel '" + kernel.name + "' has an argument '" +
                         argumentName(argument) + "' but " + reason);
  };
  bool findsTokens = false;
  for (const KernelArgument &argument : kernel.arguments)
    switch (argument.kind) {
    case ArgumentKind::TensorMapX: {
      int64_t width = getByteWidth(linear.activation);
      int64_t boxBytes = kernel.tensorMap->boxK * width;
      if (linear.k * width % 16 != 0)
        return error(argument, "rows of x have " +
                                   std::to_string(linear.k * width) +
                                   " bytes; tensor maps need a multiple of 16");
      if (boxBytes % 16 != 0 || (kernel.tensorMap->swizzle != 0 &&
                                 boxBytes > kernel.tensorMap->swizzle))
        return error(argument, "a box has " + std::to_string(boxBytes) +
                                   " bytes along k; expected a multiple of 16 "
                                   "that is not above the swizzle");
      if (kernel.tensorMap->boxSegments != 0 &&
          linear.k % kernel.tensorMap->boxK != 0)
        return error(argument, "K = " + std::to_string(linear.k) +
                                   " is no multiple of box_k = " +
                                   std::to_string(kernel.tensorMap->boxK) +
                                   ", which segments must be");
      break;
    }
    case ArgumentKind::X:
    case ArgumentKind::Y:
    case ArgumentKind::Workspace:
    case ArgumentKind::M:
      break;
    case ArgumentKind::Offsets:
      if (!linear.isGrouped())
        return error(argument, "the linear has no experts");
      findsTokens = true;
      break;
    case ArgumentKind::PackedZeros:
      if (linear.scheme.zero == ZeroKind::None)
        return error(argument, "the scheme has no zeros");
      [[fallthrough]];
    case ArgumentKind::Packed:
    case ArgumentKind::PackedScales:
    case ArgumentKind::OutputScale:
      if (argument.index >= linear.weights.size())
        return error(argument, "there are " +
                                   std::to_string(linear.weights.size()) +
                                   " weights");
      break;
    case ArgumentKind::Epilogue:
      if (argument.index >= linear.epilogue.size())
        return error(argument, "the epilogue has " +
                                   std::to_string(linear.epilogue.size()) +
                                   " operands");
      break;
    }
  if (linear.isGrouped() && (!findsTokens || kernel.persistent))
    return Status::error("kernel '" + kernel.name +
                         "' is for a linear without experts: expected an "
                         "argument 'offsets' and the grid tiles");
  return Status::success();
}

static Result<LinearDescription>
readLinear(const json &value, size_t index, const Manifest &manifest,
           const std::map<std::string, size_t> &kernelIndex) {
  JsonFields unnamed(value, "linear " + std::to_string(index));
  LinearDescription linear;
  linear.name = unnamed.text("name");
  if (!unnamed.ok())
    return unnamed.status();
  std::string where = "linear '" + linear.name + "'";
  JsonFields fields(value, where);
  linear.n = fields.integer("n", 1, maxExtent);
  linear.k = fields.integer("k", 1, maxExtent);
  std::string kind = fields.textOr("kind", "linear");
  if (fields.ok() && kind != "linear" && kind != "grouped_linear")
    fields.fail("expected 'kind' to be linear or grouped_linear but got '" +
                kind + "'");
  if (fields.ok() && kind == "grouped_linear") {
    linear.experts = fields.integer("experts", 1, maxExtent / linear.n);
    std::string offsets = fields.text("offsets");
    if (fields.ok() && offsets != "i32" && offsets != "i64")
      fields.fail("expected 'offsets' to be i32 or i64 but got '" + offsets +
                  "'");
    linear.offsetBytes = offsets == "i64" ? 8 : 4;
  }
  std::string scheme = fields.text("scheme");
  if (fields.ok()) {
    Result<Scheme> parsed = parseScheme(scheme);
    if (!parsed.ok())
      return parsed.status().withContext(where + ": scheme");
    linear.scheme = parsed.take();
    Status valid = verifyScheme(linear.scheme, linear.getRows(), linear.k);
    if (!valid.ok())
      return valid.withContext(where);
  }
  linear.activation = readType(fields, "activation", /*withF32=*/false);
  linear.output = readType(fields, "output", /*withF32=*/true);
  linear.weights = fields.texts("weights");
  if (fields.ok() && (linear.weights.empty() || linear.weights.size() > 2))
    fields.fail("expected one or two weights but got " +
                std::to_string(linear.weights.size()));
  std::vector<const json *> operands = fields.arrayOr("epilogue");
  if (operands.size() > maxArguments)
    fields.fail("expected at most " + std::to_string(maxArguments) +
                " epilogue operands but got " +
                std::to_string(operands.size()));
  if (!fields.ok())
    return fields.status();
  for (size_t i = 0; i < operands.size(); ++i) {
    JsonFields operand(*operands[i],
                       where + ": epilogue operand " + std::to_string(i));
    EpilogueOperand made;
    made.type = readType(operand, "type", /*withF32=*/true);
    made.perElement = operand.booleanOr("per_element", false);
    if (!operand.ok())
      return operand.status();
    linear.epilogue.push_back(made);
  }
  if (const json *formula = fields.find("formula"))
    linear.formula =
        formula->dump(-1, ' ', false, json::error_handler_t::replace);
  if (const json *packed = fields.find("packed")) {
    JsonFields files(*packed, where + ": packed");
    linear.archive = readFileName(files, "archive");
    linear.keys = files.texts("keys");
    if (files.ok() && linear.keys.size() != linear.weights.size())
      files.fail("expected one key for each weight (" +
                 std::to_string(linear.weights.size()) + ") but got " +
                 std::to_string(linear.keys.size()));
    if (!files.ok())
      return files.status();
  }
  std::vector<const json *> variants = fields.array("variants");
  for (size_t i = 0; i < variants.size() && fields.ok(); ++i) {
    JsonFields fieldsOfVariant(*variants[i],
                               where + ": variant " + std::to_string(i));
    LinearVariant variant;
    readTokens(fieldsOfVariant, variant.minTokens, variant.maxTokens);
    std::string kernel = fieldsOfVariant.text("kernel");
    if (!fieldsOfVariant.ok())
      return fieldsOfVariant.status();
    auto it = kernelIndex.find(kernel);
    if (it == kernelIndex.end()) {
      fieldsOfVariant.fail("expected the name of a kernel but got '" + kernel +
                           "'");
      return fieldsOfVariant.status();
    }
    variant.kernel = it->second;
    Status valid = verifyArguments(linear, manifest.kernels[it->second]);
    if (!valid.ok())
      return valid.withContext(where);
    linear.variants.push_back(variant);
  }
  if (!fields.ok())
    return fields.status();
  return linear;
}

Result<Manifest> cuda::parseManifest(std::string_view text) {
  Result<json> root = parseJson(text);
  if (!root.ok())
    return root.status();
  JsonFields fields(*root, "manifest");
  std::string schema = fields.text("schema");
  if (!fields.ok())
    return fields.status();
  if (schema != schemaName)
    return Status::error(std::string("expected a manifest of schema '") +
                         schemaName + "' but got '" + schema + "'");
  Manifest manifest;
  manifest.chip = fields.text("chip");
  manifest.producer = fields.textOr("producer", "");
  std::vector<const json *> kernels = fields.array("kernels");
  std::vector<const json *> linears = fields.array("linears");
  if (!fields.ok())
    return fields.status();
  std::map<std::string, size_t> kernelIndex;
  for (size_t i = 0; i < kernels.size(); ++i) {
    Result<KernelDescription> kernel = readKernel(*kernels[i], i);
    if (!kernel.ok())
      return kernel.status();
    if (!kernelIndex.emplace(kernel->name, i).second)
      return Status::error("expected kernels of different names but got '" +
                           kernel->name + "' again");
    manifest.kernels.push_back(kernel.take());
  }
  std::set<std::string> names;
  for (size_t i = 0; i < linears.size(); ++i) {
    Result<LinearDescription> linear =
        readLinear(*linears[i], i, manifest, kernelIndex);
    if (!linear.ok())
      return linear.status();
    if (!names.insert(linear->name).second)
      return Status::error("expected linears of different names but got '" +
                           linear->name + "' again");
    manifest.linears.push_back(linear.take());
  }
  return manifest;
}

//===----------------------------------------------------------------------===//
// Launch geometry
//===----------------------------------------------------------------------===//

Status cuda::getLaunchGeometry(const KernelDescription &kernel, int64_t n,
                               int64_t experts, int64_t m,
                               int64_t multiprocessors,
                               LaunchGeometry &geometry) {
  // All factors are at most 2^31, so products of two fit.
  int64_t columns = ceilDiv(m, kernel.tokenTile);
  int64_t rows =
      ceilDiv(kernel.persistent ? n : roundUp(n, 64), kernel.rowTile);
  if (experts > 0) {
    // Where the tokens are is known on the device only. c of them, 1 or more,
    // have 1 + (c - 1) / tile tiles at most, so most tiles come of most experts
    // with tokens. An expert may begin inside a strip of 16 rows.
    int64_t active = std::min(experts, m);
    columns = active + (m - active) / kernel.tokenTile;
    rows = ceilDiv(n % 16 == 0 ? n : n + 15, kernel.rowTile);
  }
  int64_t tiles = rows * columns;
  int64_t x, y;
  if (kernel.persistent) {
    int64_t limit =
        kernel.ctasPerSM * multiprocessors / kernel.cluster * kernel.cluster;
    std::optional<int64_t> work = checkedMul(tiles, kernel.split);
    // Clusters are whole, also where one does not fill all multiprocessors.
    int64_t needed = work ? ceilDiv(*work, kernel.cluster) : INT64_MAX;
    x = needed > limit / kernel.cluster ? std::max(limit, kernel.cluster)
                                        : needed * kernel.cluster;
    y = 1;
  } else {
    x = rows * kernel.split;
    y = columns;
  }
  if (x > maxGridX || y > maxGridY)
    return Status::error(
        "expected a grid of at most " + std::to_string(maxGridX) + " x " +
        std::to_string(maxGridY) + " blocks but " + std::to_string(m) +
        " tokens need " + std::to_string(x) + " x " + std::to_string(y) +
        "; divide the tokens among several launches");
  if (x % kernel.cluster != 0)
    return Status::error("expected a grid of whole clusters of " +
                         std::to_string(kernel.cluster) + " blocks but got " +
                         std::to_string(x) + " blocks");
  uint64_t bytes = static_cast<uint64_t>(kernel.workspaceBytes);
  const std::pair<int64_t, int64_t> parts[] = {
      {kernel.workspaceBytesPerTile, tiles},
      {kernel.workspaceBytesPerCTA, x * y},
      {kernel.workspaceBytesPerToken, m},
  };
  for (const auto &[size, count] : parts) {
    uint64_t part;
    if (__builtin_mul_overflow(static_cast<uint64_t>(size),
                               static_cast<uint64_t>(count), &part) ||
        __builtin_add_overflow(bytes, part, &bytes))
      return Status::error("expected a workspace of fewer than 2^64 bytes");
  }
  geometry.grid = {static_cast<uint32_t>(x), static_cast<uint32_t>(y), 1};
  geometry.workspaceBytes = bytes;
  return Status::success();
}
