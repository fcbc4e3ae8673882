//===- Report.h - JSON reports of passes ------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_REPORT_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_REPORT_H

#include "quant-llm/Support/Status.h"

#include "llvm/Support/JSON.h"

#include <string>

namespace quant_llm {

/// The text of a report, with the version of its form.
std::string printReport(llvm::json::Object report);

/// Writes a report to a file, whole or not at all. Errors are those of
/// writeFileAtomically().
Status writeReport(const std::string &path, llvm::json::Object report);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_REPORT_H
