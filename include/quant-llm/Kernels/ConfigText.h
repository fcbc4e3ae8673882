//===- ConfigText.h - Kernel configurations as text -------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The names that the attribute #quant_llm.kernel_config, tuning files and
// reports have for the fields and values of a configuration.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_KERNELS_CONFIGTEXT_H
#define QUANT_LLM_KERNELS_CONFIGTEXT_H

#include "quant-llm/Kernels/KernelSpec.h"

#include <optional>
#include <string_view>

namespace quant_llm {

/// "few_tokens", "multistage", "wgmma".
const char *getName(KernelFamily family);
std::optional<KernelFamily> parseKernelFamily(std::string_view name);
/// All names, for messages: "few_tokens, multistage, ...".
const char *getKernelFamilyNames();

/// "tensor", "async16", "element".
const char *getName(ActivationCopy copy);
std::optional<ActivationCopy> parseActivationCopy(std::string_view name);
const char *getActivationCopyNames();

/// "f16", "bf16", "f32".
const char *getName(TensorType type);

/// The word for KernelConfig::split = kStreamK.
constexpr const char *kStreamKName = "stream_k";

/// A field of a configuration that is an integer, and its name.
struct ConfigField {
  const char *name;
  int64_t KernelConfig::*member;
};

/// row_tile, token_tile, stage_k, stages, warps_rows, warps_k, split,
/// ctas_per_sm.
const std::vector<ConfigField> &getConfigFields();

/// One line: "few_tokens 16x8, 4 stages of 1024, warps 1x8, ...".
std::string describe(const KernelConfig &config);

} // namespace quant_llm

#endif // QUANT_LLM_KERNELS_CONFIGTEXT_H
