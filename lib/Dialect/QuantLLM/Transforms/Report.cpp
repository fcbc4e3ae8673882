//===- Report.cpp - JSON reports of passes --------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Report.h"

#include "quant-llm/Support/AtomicFile.h"

#include "llvm/Support/FormatVariadic.h"

using namespace quant_llm;

std::string quant_llm::printReport(llvm::json::Object report) {
  report["version"] = 1;
  return llvm::formatv("{0:2}\n", llvm::json::Value(std::move(report))).str();
}

Status quant_llm::writeReport(const std::string &path,
                              llvm::json::Object report) {
  std::string text = printReport(std::move(report));
  return writeFileAtomically(path, text.data(), text.size());
}
