//===- Tuning.cpp - Kernels chosen by measurement -------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/Tuning.h"

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Support/Json.h"

#include <set>

using namespace quant_llm;
using nlohmann::json;

static constexpr const char *tuningSchema = "quant_llm.tuning/1";

Status quant_llm::verifyCoverage(const std::vector<KernelConfig> &kernels) {
  if (kernels.empty())
    return Status::error("expected at least one kernel");
  int64_t next = 1;
  for (const KernelConfig &config : kernels) {
    // Behind a kernel without an end there is nothing left.
    if (config.minTokens != next)
      return Status::error(
          (next < 1 ? "expected no kernel behind one for all further tokens "
                      "but got one from "
                    : "expected a kernel from " + std::to_string(next) +
                          " tokens on but got one from ") +
          std::to_string(config.minTokens));
    next = config.maxTokens == INT64_MAX ? 0 : config.maxTokens + 1;
  }
  if (next != 0)
    return Status::error("expected the last kernel to be for all tokens from " +
                         std::to_string(kernels.back().minTokens) +
                         " on but it ends at " + std::to_string(next - 1));
  return Status::success();
}

namespace {
/// Reads the fields of an object; keeps the first error.
class Fields {
public:
  Fields(const json &value, std::string where)
      : value(value), where(std::move(where)) {
    if (!value.is_object())
      fail("expected an object but got " + std::string(value.type_name()));
  }

  Status take() {
    if (status.ok() && value.is_object())
      for (const auto &item : value.items())
        if (!known.count(item.key()))
          fail("unknown field '" + item.key() + "'");
    return status;
  }
  void fail(const std::string &message) {
    if (status.ok())
      status = Status::error(where + ": " + message);
  }

  const json *find(const char *name, bool required) {
    known.insert(name);
    if (!value.is_object())
      return nullptr;
    auto it = value.find(name);
    if (it != value.end())
      return &*it;
    if (required)
      fail(std::string("expected a field '") + name + "'");
    return nullptr;
  }

  std::string text(const char *name) {
    const json *field = find(name, /*required=*/true);
    if (!field)
      return {};
    if (field->is_string() && !field->get_ref<const std::string &>().empty())
      return field->get<std::string>();
    fail(std::string("expected '") + name + "' to be text that is not empty");
    return {};
  }

  int64_t integer(const char *name, int64_t otherwise, bool required) {
    const json *field = find(name, required);
    return field ? asInteger(*field, name, otherwise) : otherwise;
  }

  int64_t asInteger(const json &field, const char *name, int64_t otherwise) {
    constexpr int64_t most = int64_t(1) << 30;
    if (field.is_number_unsigned() && field.get<uint64_t>() >= 1 &&
        field.get<uint64_t>() <= uint64_t(most))
      return field.get<int64_t>();
    fail(std::string("expected '") + name + "' to be an integer from 1 to " +
         std::to_string(most) + " but got " + field.dump());
    return otherwise;
  }

  const json *array(const char *name) {
    const json *field = find(name, /*required=*/true);
    if (field && field->is_array())
      return field;
    if (field)
      fail(std::string("expected '") + name + "' to be an array but got " +
           field->type_name());
    return nullptr;
  }

private:
  const json &value;
  std::string where;
  std::set<std::string> known;
  Status status;
};
} // namespace

static Result<KernelConfig> parseConfig(const json &value,
                                        const std::string &where) {
  Fields fields(value, where);
  KernelConfig config;
  std::string family = fields.text("family");
  if (auto parsed = parseKernelFamily(family))
    config.family = *parsed;
  else
    fields.fail("expected 'family' to be one of " +
                std::string(getKernelFamilyNames()) + " but got '" + family +
                "'");
  std::string copy = fields.text("copy");
  if (auto parsed = parseActivationCopy(copy))
    config.copy = *parsed;
  else
    fields.fail("expected 'copy' to be one of " +
                std::string(getActivationCopyNames()) + " but got '" + copy +
                "'");
  for (const ConfigField &field : getConfigFields())
    config.*field.member =
        fields.integer(field.name, config.*field.member, /*required=*/true);
  if (const json *tokens = fields.array("tokens")) {
    if (tokens->size() != 2) {
      fields.fail("expected 'tokens' to be [min, max] but got " +
                  std::to_string(tokens->size()) + " elements");
    } else {
      config.minTokens = fields.asInteger((*tokens)[0], "tokens", 1);
      config.maxTokens = (*tokens)[1].is_null()
                             ? INT64_MAX
                             : fields.asInteger((*tokens)[1], "tokens", 1);
    }
  }
  if (Status status = fields.take(); !status.ok())
    return status;
  if (Status status = verifyConfig(config); !status.ok())
    return status.withContext(where);
  return config;
}

Result<std::vector<TuningEntry>> quant_llm::parseTuning(std::string_view text) {
  Result<json> root = parseJson(text);
  if (!root.ok())
    return root.status();
  Fields file(*root, "tuning file");
  std::string schema = file.text("schema");
  if (schema != tuningSchema)
    file.fail(std::string("expected 'schema' to be '") + tuningSchema +
              "' but got '" + schema + "'");
  const json *list = file.array("entries");
  if (Status status = file.take(); !status.ok())
    return status;
  std::vector<TuningEntry> entries;
  std::set<std::tuple<std::string, std::string, int64_t, int64_t, int64_t>>
      keys;
  for (const json &value : *list) {
    std::string where = "entry " + std::to_string(entries.size());
    Fields fields(value, where);
    TuningEntry entry;
    entry.chip = fields.text("chip");
    entry.scheme = fields.text("scheme");
    entry.n = fields.integer("n", 0, /*required=*/true);
    entry.k = fields.integer("k", 0, /*required=*/true);
    entry.weights = fields.integer("weights", 1, /*required=*/false);
    const json *kernels = fields.array("kernels");
    if (Status status = fields.take(); !status.ok())
      return status;
    if (Result<ChipLimits> chip = getChipLimits(entry.chip); !chip.ok())
      return chip.status().withContext(where);
    for (const json &kernel : *kernels) {
      Result<KernelConfig> config = parseConfig(
          kernel, where + ", kernel " + std::to_string(entry.kernels.size()));
      if (!config.ok())
        return config.status();
      entry.kernels.push_back(*config);
    }
    if (Status status = verifyCoverage(entry.kernels); !status.ok())
      return status.withContext(where);
    if (!keys.insert(
                 {entry.chip, entry.scheme, entry.n, entry.k, entry.weights})
             .second)
      return Status::error(where + ": expected every shape once");
    entries.push_back(std::move(entry));
  }
  return entries;
}
