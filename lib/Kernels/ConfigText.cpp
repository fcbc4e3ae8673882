//===- ConfigText.cpp - Kernel configurations as text ---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Kernels/ConfigText.h"

#include "quant-llm/Kernels/StreamK.h"

using namespace quant_llm;

const char *quant_llm::getName(KernelFamily family) {
  switch (family) {
  case KernelFamily::FewTokens:
    return "few_tokens";
  case KernelFamily::Multistage:
    return "multistage";
  case KernelFamily::Wgmma:
    return "wgmma";
  }
  return "?";
}

std::optional<KernelFamily>
quant_llm::parseKernelFamily(std::string_view name) {
  for (KernelFamily family :
       {KernelFamily::FewTokens, KernelFamily::Multistage, KernelFamily::Wgmma})
    if (name == getName(family))
      return family;
  return std::nullopt;
}

const char *quant_llm::getKernelFamilyNames() {
  return "few_tokens, multistage, wgmma";
}

const char *quant_llm::getName(ActivationCopy copy) {
  switch (copy) {
  case ActivationCopy::Tensor:
    return "tensor";
  case ActivationCopy::Async16:
    return "async16";
  case ActivationCopy::Element:
    return "element";
  }
  return "?";
}

std::optional<ActivationCopy>
quant_llm::parseActivationCopy(std::string_view name) {
  for (ActivationCopy copy : {ActivationCopy::Tensor, ActivationCopy::Async16,
                              ActivationCopy::Element})
    if (name == getName(copy))
      return copy;
  return std::nullopt;
}

const char *quant_llm::getActivationCopyNames() {
  return "tensor, async16, element";
}

const char *quant_llm::getName(TensorType type) {
  switch (type) {
  case TensorType::F16:
    return "f16";
  case TensorType::BF16:
    return "bf16";
  case TensorType::F32:
    return "f32";
  }
  return "?";
}

const std::vector<ConfigField> &quant_llm::getConfigFields() {
  static const std::vector<ConfigField> fields = {
      {"row_tile", &KernelConfig::rowTile},
      {"token_tile", &KernelConfig::tokenTile},
      {"stage_k", &KernelConfig::stageK},
      {"stages", &KernelConfig::stages},
      {"warps_rows", &KernelConfig::warpsRows},
      {"warps_k", &KernelConfig::warpsK},
      {"split", &KernelConfig::split},
      {"ctas_per_sm", &KernelConfig::ctasPerSM},
  };
  return fields;
}

bool quant_llm::isSameKernel(const KernelConfig &a, const KernelConfig &b) {
  for (const ConfigField &field : getConfigFields())
    if (a.*field.member != b.*field.member)
      return false;
  return a.family == b.family && a.copy == b.copy;
}

bool quant_llm::operator==(const KernelConfig &a, const KernelConfig &b) {
  return isSameKernel(a, b) && a.minTokens == b.minTokens &&
         a.maxTokens == b.maxTokens;
}

std::string quant_llm::describe(const KernelConfig &config) {
  auto text = [](int64_t value) { return std::to_string(value); };
  std::string tokens = config.maxTokens == INT64_MAX
                           ? "from " + text(config.minTokens) + " tokens on"
                           : text(config.minTokens) + " to " +
                                 text(config.maxTokens) + " tokens";
  return tokens + ": " + getName(config.family) + ", " + text(config.rowTile) +
         " rows x " + text(config.tokenTile) + " tokens, " +
         text(config.stages) + " stages of " + text(config.stageK) +
         " columns, warps " + text(config.warpsRows) + " x " +
         text(config.warpsK) + ", split " +
         (config.split == kStreamK ? kStreamKName : text(config.split)) + ", " +
         text(config.ctasPerSM) + " per multiprocessor, copies " +
         getName(config.copy);
}
