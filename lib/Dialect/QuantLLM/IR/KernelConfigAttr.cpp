//===- KernelConfigAttr.cpp - Configurations of kernels -------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Kernels/ConfigText.h"
#include "quant-llm/Kernels/StreamK.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace quant_llm;

llvm::hash_code quant_llm::hash_value(const KernelConfig &config) {
  llvm::hash_code hash = llvm::hash_combine(config.family, config.copy,
                                            config.minTokens, config.maxTokens);
  for (const ConfigField &field : getConfigFields())
    hash = llvm::hash_combine(hash, config.*field.member);
  return hash;
}

LogicalResult
KernelConfigAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                         KernelConfig config) {
  // QL-KERNEL-CONFIG-C1 to C4
  Status status = verifyConfig(config);
  if (!status.ok())
    return emitError() << status.message();
  return success();
}

/// Parses one of the words that `parseWord` knows.
template <typename Enum>
static ParseResult parseWord(AsmParser &parser, StringRef what,
                             std::optional<Enum> (*parseName)(std::string_view),
                             StringRef names, Enum &value) {
  SMLoc loc = parser.getCurrentLocation();
  StringRef word;
  if (failed(parser.parseOptionalKeyword(&word)))
    return parser.emitError(loc, "expected ") << what << ": " << names;
  std::optional<Enum> parsed = parseName(std::string_view(word));
  if (!parsed)
    return parser.emitError(loc, "expected ")
           << what << " to be one of " << names << " but got '" << word << "'";
  value = *parsed;
  return success();
}

/// `[1, 8]`, `[9, *]`
static ParseResult parseTokens(AsmParser &parser, KernelConfig &config) {
  if (parser.parseLSquare() || parser.parseInteger(config.minTokens) ||
      parser.parseComma())
    return failure();
  if (succeeded(parser.parseOptionalStar()))
    config.maxTokens = INT64_MAX;
  else if (parser.parseInteger(config.maxTokens))
    return failure();
  return parser.parseRSquare();
}

Attribute KernelConfigAttr::parse(AsmParser &parser, Type) {
  SMLoc loc = parser.getCurrentLocation();
  KernelConfig config;
  if (parser.parseLess() ||
      parseWord(parser, "a kernel family", parseKernelFamily,
                getKernelFamilyNames(), config.family))
    return {};

  llvm::StringSet<> seen;
  while (succeeded(parser.parseOptionalComma())) {
    SMLoc fieldLoc = parser.getCurrentLocation();
    StringRef name;
    if (failed(parser.parseOptionalKeyword(&name))) {
      parser.emitError(fieldLoc, "expected a field of a kernel configuration");
      return {};
    }
    if (!seen.insert(name).second) {
      parser.emitError(fieldLoc, "expected field '") << name << "' only once";
      return {};
    }
    auto field = llvm::find_if(getConfigFields(), [&](const ConfigField &f) {
      return name == f.name;
    });
    bool isSize = field != getConfigFields().end();
    if (!isSize && name != "tokens" && name != "copy") {
      auto diag = parser.emitError(
          fieldLoc, "expected a field of a kernel configuration: tokens, ");
      for (const ConfigField &known : getConfigFields())
        diag << known.name << ", ";
      diag << "copy, but got '" << name << "'";
      return {};
    }
    if (parser.parseEqual())
      return {};
    if (isSize && field->member == &KernelConfig::split &&
        succeeded(parser.parseOptionalKeyword(kStreamKName))) {
      config.split = kStreamK;
      continue;
    }
    ParseResult parsed = isSize ? parser.parseInteger(config.*field->member)
                         : name == "tokens"
                             ? parseTokens(parser, config)
                             : parseWord(parser, "copy", parseActivationCopy,
                                         getActivationCopyNames(), config.copy);
    if (failed(parsed))
      return {};
    if (isSize && config.*field->member == 0 &&
        field->member == &KernelConfig::split) {
      parser.emitError(fieldLoc, "expected split to be ")
          << kStreamKName << " or 1 to 65536 but got 0";
      return {};
    }
  }
  if (parser.parseGreater())
    return {};
  for (StringRef name : {"tokens", "row_tile", "token_tile", "stage_k",
                         "stages", "warps_rows", "warps_k", "copy"})
    if (!seen.contains(name)) {
      parser.emitError(loc,
                       "expected a kernel configuration to have the field '")
          << name << "'";
      return {};
    }
  return getChecked([&] { return parser.emitError(loc); }, parser.getContext(),
                    config);
}

void KernelConfigAttr::print(AsmPrinter &printer) const {
  const KernelConfig &config = getConfig();
  printer << '<' << getName(config.family) << ", tokens = [" << config.minTokens
          << ", ";
  if (config.maxTokens == INT64_MAX)
    printer << '*';
  else
    printer << config.maxTokens;
  printer << ']';
  for (const ConfigField &field : getConfigFields()) {
    printer << ", " << field.name << " = ";
    if (field.member == &KernelConfig::split && config.split == kStreamK)
      printer << kStreamKName;
    else
      printer << config.*field.member;
  }
  printer << ", copy = " << getName(config.copy) << '>';
}
