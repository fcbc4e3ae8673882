//===- CalibrationFile.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/CalibrationFile.h"

#include "Text.h"
#include "quant-llm/Support/Json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>

using namespace quant_llm;

/// How to get what the file lacks.
static constexpr const char *kAdvice =
    "calibrate the model again (quant-llm calibrate)";

static std::string join(const std::vector<std::string> &names, size_t most) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < most; ++i)
    text += (i ? ", " : "") + makePrintable(names[i]);
  return names.size() > most ? text + ", ..." : text;
}

static bool isFingerprint(const std::string &text) {
  return text.size() == 64 &&
         text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

/// A whole string as a number.
template <typename T>
static bool parseNumber(const std::string &text, T &value) {
  auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

Result<CalibrationFile> CalibrationFile::open(const std::string &path) {
  Result<SafetensorsFile> file = SafetensorsFile::open(path);
  if (!file.ok())
    return file.status();
  CalibrationFile result(file.take());
  if (Status status = result.readMetadata(); !status.ok())
    return status.withContext("'" + path + "' is no calibration file");
  return result;
}

Status CalibrationFile::readMetadata() {
  const std::map<std::string, std::string> &metadata = file.metadata();
  auto schemaEntry = metadata.find("schema");
  if (schemaEntry == metadata.end())
    return Status::error("expected the metadata 'schema' to be " +
                         std::string(schema) + " but there are none");
  if (schemaEntry->second != schema)
    return Status::error("expected the schema " + std::string(schema) +
                         " but got " + quoteForMessage(schemaEntry->second));

  auto get = [&](const char *key, std::string &value) {
    auto entry = metadata.find(key);
    if (entry == metadata.end())
      return Status::error(std::string("expected the metadata '") + key +
                           "' but there are none");
    value = entry->second;
    return Status::success();
  };
  auto getNumber = [&](const char *key, auto &value) {
    std::string text;
    if (Status status = get(key, text); !status.ok())
      return status;
    if (parseNumber(text, value) && value >= 0)
      return Status::success();
    return Status::error(std::string("expected '") + key +
                         "' to be a number from 0 but got " +
                         quoteForMessage(text));
  };
  if (Status status = get("model", modelFingerprint); !status.ok())
    return status;
  if (!isFingerprint(modelFingerprint))
    return Status::error("expected 'model' to be 64 hexadecimal digits but "
                         "got " +
                         quoteForMessage(modelFingerprint));
  for (auto [key, value] :
       {std::pair<const char *, int64_t *>("tokens", &tokens),
        {"samples", &samples},
        {"length", &longest}})
    if (Status status = getNumber(key, *value); !status.ok())
      return status;
  if (Status status = getNumber("seed", randomSeed); !status.ok())
    return status;
  if (auto entry = metadata.find("token_weights"); entry != metadata.end())
    tokenWeighted = entry->second != "none";

  if (auto entry = metadata.find("quantiles"); entry != metadata.end()) {
    const std::string &text = entry->second;
    for (size_t begin = 0; begin <= text.size();) {
      size_t end = std::min(text.find(',', begin), text.size());
      double fraction = 0;
      if (!parseNumber(text.substr(begin, end - begin), fraction) ||
          !(fraction >= 0 && fraction <= 1) ||
          (!fractions.empty() && fraction <= fractions.back()))
        return Status::error("expected 'quantiles' to be rising numbers in "
                             "[0, 1] but got " +
                             quoteForMessage(text));
      fractions.push_back(fraction);
      begin = end + 1;
    }
  }

  for (const TensorView &tensor : file.tensors()) {
    size_t slash = tensor.name.find('/');
    if (slash == 0 || slash == std::string::npos ||
        slash + 1 == tensor.name.size())
      return Status::error("expected tensors '<statistic>/<parameter>' but "
                           "got " +
                           quoteForMessage(tensor.name));
    known[tensor.name.substr(slash + 1)][tensor.name.substr(0, slash)] =
        &tensor;
  }
  if (auto entry = metadata.find("aliases"); entry != metadata.end())
    return readAliases(entry->second);
  return Status::success();
}

Status CalibrationFile::readAliases(const std::string &json) {
  Result<nlohmann::json> parsed = parseJson(json);
  if (!parsed.ok())
    return parsed.status().withContext("'aliases'");
  if (!parsed->is_object())
    return Status::error("expected 'aliases' to be a JSON object");
  for (const auto &[alias, target] : parsed->items()) {
    if (!target.is_string() || !known.count(target.get<std::string>()))
      return Status::error("expected the alias " + quoteForMessage(alias) +
                           " to name a parameter of the file");
    // What is known of the alias itself (of its weight) is looked up first.
    aliases[alias] = target.get<std::string>();
  }
  return Status::success();
}

Status CalibrationFile::checkModel(std::string_view fingerprint) const {
  if (fingerprint == modelFingerprint)
    return Status::success();
  return Status::error(
      "'" + path() +
      "' is of another model: it has the "
      "fingerprint " +
      modelFingerprint.substr(0, 16) + "... but the model's is " +
      std::string(fingerprint.substr(0, 16)) + "...; " + kAdvice);
}

std::vector<std::string> CalibrationFile::parameters() const {
  std::set<std::string> names;
  for (const auto &entry : known)
    names.insert(entry.first);
  for (const auto &entry : aliases)
    names.insert(entry.first);
  return {names.begin(), names.end()};
}

std::vector<std::string>
CalibrationFile::statistics(std::string_view parameter) const {
  std::set<std::string> names;
  auto add = [&](std::string_view owner, bool ofInput) {
    if (auto entry = known.find(owner); entry != known.end())
      for (const auto &[name, tensor] : entry->second)
        if (!ofInput || !statistic::isOfWeight(name))
          names.insert(name);
  };
  add(parameter, false);
  if (auto alias = aliases.find(parameter); alias != aliases.end())
    add(alias->second, true);
  return {names.begin(), names.end()};
}

Result<const TensorView *>
CalibrationFile::find(std::string_view statistic,
                      std::string_view parameter) const {
  auto lookUp = [&](std::string_view owner) -> const TensorView * {
    auto entry = known.find(owner);
    if (entry == known.end())
      return nullptr;
    auto tensor = entry->second.find(statistic);
    return tensor == entry->second.end() ? nullptr : tensor->second;
  };
  if (const TensorView *tensor = lookUp(parameter))
    return tensor;
  auto alias = aliases.find(parameter);
  // Only what is known of inputs is shared by all linears that have them.
  if (alias != aliases.end() && !statistic::isOfWeight(statistic))
    if (const TensorView *tensor = lookUp(alias->second))
      return tensor;

  std::vector<std::string> others = statistics(parameter);
  std::string message = "'" + path() + "' has no statistic " +
                        quoteForMessage(statistic) + " of " +
                        quoteForMessage(parameter);
  if (!others.empty())
    return Status::error(
        message + ", only " + join(others, 12) +
        (statistic == statistic::drift || statistic == statistic::residualDrift
             ? "; only what quantizes layer by layer measures it (quant-llm "
               "quantize --recipe gptaq)"
             : "; calibrate with --statistics " + makePrintable(statistic)));
  return Status::error(message + " and no other; it knows " +
                       std::to_string(parameters().size()) + " parameters: " +
                       join(parameters(), 2) + "; " + kAdvice);
}

std::string CalibrationFile::getOwner(std::string_view parameter) const {
  auto alias = aliases.find(parameter);
  return alias == aliases.end() ? std::string(parameter) : alias->second;
}

Result<std::vector<int64_t>>
CalibrationFile::getShape(std::string_view statistic,
                          std::string_view parameter) const {
  Result<const TensorView *> found = find(statistic, parameter);
  if (!found.ok())
    return found.status();
  return (*found)->shape;
}

bool CalibrationFile::contains(std::string_view statistic,
                               std::string_view parameter) const {
  return find(statistic, parameter).ok();
}

/// What every value of a statistic must be, beyond finite.
static bool isNeverNegative(std::string_view name) {
  return name == statistic::absMax || name == statistic::absMean ||
         name == statistic::quantiles || name == statistic::fisher ||
         name == statistic::rowFisher;
}

/// Of the square matrix of a quadratic form.
static Status checkHessian(const std::vector<float> &matrix, int64_t size) {
  auto at = [&](int64_t i, int64_t j) { return double(matrix[i * size + j]); };
  for (int64_t i = 0; i < size; ++i) {
    if (at(i, i) < 0)
      return Status::error("expected no negative value on the diagonal of the "
                           "Hessian but got " +
                           std::to_string(at(i, i)) + " at channel " +
                           std::to_string(i));
    for (int64_t j = 0; j < i; ++j) {
      // |h_ij| <= sqrt(h_ii h_jj) for every sum of x^T x.
      double bound = std::sqrt(at(i, i) * at(j, j));
      if (std::abs(at(i, j)) > 1.001 * bound + 1e-30)
        return Status::error("expected the sum of products but the value for "
                             "the channels " +
                             std::to_string(j) + " and " + std::to_string(i) +
                             " is larger than theirs allow");
      if (std::abs(at(i, j) - at(j, i)) > 1e-4 * bound)
        return Status::error("expected a symmetric matrix but the values for "
                             "the channels " +
                             std::to_string(j) + " and " + std::to_string(i) +
                             " differ");
    }
  }
  return Status::success();
}

Status CalibrationFile::fail(std::string_view statistic,
                             std::string_view parameter,
                             const std::string &message) const {
  return Status::error("'" + path() + "': " + makePrintable(statistic) +
                       " of " + quoteForMessage(parameter) + ": " + message);
}

Status CalibrationFile::checkShape(std::string_view statistic,
                                   std::string_view parameter,
                                   const std::vector<int64_t> &shape) const {
  Result<const TensorView *> found = find(statistic, parameter);
  if (!found.ok())
    return found.status();
  const TensorView &tensor = **found;
  if (tensor.dtype != DType::F32)
    return fail(statistic, parameter,
                "expected F32 but got " +
                    std::string(getDTypeName(tensor.dtype)));
  if (tensor.shape != shape)
    return fail(statistic, parameter,
                "expected the shape " + shapeToString(shape) + " but got " +
                    shapeToString(tensor.shape) +
                    "; the file is of another model");
  return Status::success();
}

Result<std::vector<float>>
CalibrationFile::read(std::string_view statistic, std::string_view parameter,
                      const std::vector<int64_t> &shape) const {
  if (Status status = checkShape(statistic, parameter, shape); !status.ok())
    return status;
  const TensorView &tensor = **find(statistic, parameter);
  auto fail = [&](const std::string &message) {
    return this->fail(statistic, parameter, message);
  };
  std::vector<float> values(tensor.bytes / sizeof(float));
  // The data may be of any alignment.
  if (!values.empty())
    std::memcpy(values.data(), tensor.data, tensor.bytes);
  file.release(tensor);

  const bool neverNegative = isNeverNegative(statistic);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i]))
      return fail("expected finite values but got a NaN or an infinity at " +
                  std::to_string(i) +
                  "; the file is damaged or the model "
                  "overflows");
    if (neverNegative && values[i] < 0)
      return fail("expected no negative value but got " +
                  std::to_string(values[i]) + " at " + std::to_string(i));
  }
  if (statistic == statistic::hessian && shape.size() == 2 &&
      shape[0] == shape[1])
    if (Status status = checkHessian(values, shape[0]); !status.ok())
      return fail(status.message());
  return values;
}

Result<std::vector<float>>
CalibrationFile::readInputs(std::string_view parameter,
                            int64_t channels) const {
  Result<const TensorView *> found = find(statistic::inputs, parameter);
  if (!found.ok())
    return found.status();
  int64_t rows = (*found)->shape.empty() ? 0 : (*found)->shape.front();
  return read(statistic::inputs, parameter, {rows, channels});
}

Result<std::vector<int64_t>>
CalibrationFile::findDeadChannels(std::string_view parameter,
                                  int64_t channels) const {
  Result<std::vector<float>> largest =
      readChannels(statistic::absMax, parameter, channels);
  if (!largest.ok())
    return largest.status();
  std::vector<int64_t> dead;
  for (int64_t i = 0; i < channels; ++i)
    if ((*largest)[i] == 0)
      dead.push_back(i);
  return dead;
}
