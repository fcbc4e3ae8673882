//===- Fingerprint.h - Which model is this? ---------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What is measured on a model (statistics, learned values) must not be applied
// to another one. A fingerprint tells models apart by the names, types, shapes
// and a sample of the bytes of their parameters, so that it costs the same
// little time whatever the size of the model.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_FORMATS_FINGERPRINT_H
#define QUANT_LLM_FORMATS_FINGERPRINT_H

#include "quant-llm/Formats/Archive.h"

#include <map>
#include <string>

namespace quant_llm {

/// Collects the tensors of a model in any order.
class Fingerprint {
public:
  /// Adds the tensor that the model knows as `name`. The bytes that count are
  /// all of them up to 8192, else 16 pieces of 512 at equal distances, from the
  /// first to the last.
  void add(const std::string &name, const TensorInfo &tensor);

  /// 64 hexadecimal digits.
  std::string finish() const;

private:
  std::map<std::string, std::string> lines;
};

} // namespace quant_llm

#endif // QUANT_LLM_FORMATS_FINGERPRINT_H
