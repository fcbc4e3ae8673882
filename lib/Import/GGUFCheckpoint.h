//===- GGUFCheckpoint.h - A model in a GGUF file ----------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_IMPORT_GGUFCHECKPOINT_H
#define QUANT_LLM_LIB_IMPORT_GGUFCHECKPOINT_H

#include "quant-llm/Import/Checkpoint.h"

namespace quant_llm {

Result<Checkpoint> openGGUFCheckpoint(const std::string &path,
                                      StorageType blockType);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_IMPORT_GGUFCHECKPOINT_H
