//===- Tuning.cpp - Kernels chosen by measurement -------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/Tuning.h"

#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/StreamK.h"
#include "quant-llm/Support/JsonFields.h"

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

/// Sizes and token counts.
static constexpr int64_t maxNumber = int64_t(1) << 30;

static Result<KernelConfig> parseConfig(const json &value,
                                        const std::string &where) {
  JsonFields fields(value, where);
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
  for (const ConfigField &field : getConfigFields()) {
    const json *given = fields.find(field.name);
    if (field.member == &KernelConfig::split && given && *given == kStreamKName)
      config.split = kStreamK;
    else
      config.*field.member = fields.integer(field.name, 1, maxNumber);
  }
  std::vector<const json *> tokens = fields.array("tokens");
  if (tokens.size() == 2) {
    config.minTokens = fields.asInteger(*tokens[0], "tokens", 1, maxNumber);
    config.maxTokens =
        tokens[1]->is_null()
            ? INT64_MAX
            : fields.asInteger(*tokens[1], "tokens", 1, maxNumber);
  } else {
    fields.fail("expected 'tokens' to be [min, max] but got " +
                std::to_string(tokens.size()) + " elements");
  }
  if (Status status = fields.rejectOthers(); !status.ok())
    return status;
  if (Status status = verifyConfig(config); !status.ok())
    return status.withContext(where);
  return config;
}

Result<std::vector<TuningEntry>> quant_llm::parseTuning(std::string_view text) {
  Result<json> root = parseJson(text);
  if (!root.ok())
    return root.status();
  JsonFields file(*root, "tuning file");
  std::string schema = file.text("schema");
  if (schema != tuningSchema)
    file.fail(std::string("expected 'schema' to be '") + tuningSchema +
              "' but got '" + schema + "'");
  std::vector<const json *> list = file.array("entries");
  if (Status status = file.rejectOthers(); !status.ok())
    return status;
  std::vector<TuningEntry> entries;
  std::set<
      std::tuple<std::string, std::string, int64_t, int64_t, int64_t, int64_t>>
      keys;
  for (const json *value : list) {
    std::string where = "entry " + std::to_string(entries.size());
    JsonFields fields(*value, where);
    TuningEntry entry;
    entry.chip = fields.text("chip");
    entry.scheme = fields.text("scheme");
    entry.n = fields.integer("n", 1, maxNumber);
    entry.k = fields.integer("k", 1, maxNumber);
    entry.weights = fields.integerOr("weights", 1, 1, 2);
    entry.experts = fields.integerOr("experts", 0, 1, maxNumber);
    std::vector<const json *> kernels = fields.array("kernels");
    if (Status status = fields.rejectOthers(); !status.ok())
      return status;
    if (Result<ChipLimits> chip = getChipLimits(entry.chip); !chip.ok())
      return chip.status().withContext(where);
    for (const json *kernel : kernels) {
      Result<KernelConfig> config = parseConfig(
          *kernel, where + ", kernel " + std::to_string(entry.kernels.size()));
      if (!config.ok())
        return config.status();
      entry.kernels.push_back(*config);
    }
    if (Status status = verifyCoverage(entry.kernels); !status.ok())
      return status.withContext(where);
    if (!keys.insert({entry.chip, entry.scheme, entry.n, entry.k, entry.weights,
                      entry.experts})
             .second)
      return Status::error(where + ": expected every chip, scheme, n, k, "
                                   "weights and experts once but got those of "
                                   "an entry before");
    entries.push_back(std::move(entry));
  }
  return entries;
}
