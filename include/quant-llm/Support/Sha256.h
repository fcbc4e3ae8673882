//===- Sha256.h - SHA-256 of bytes ------------------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_SHA256_H
#define QUANT_LLM_SUPPORT_SHA256_H

#include <cstddef>
#include <string>

namespace quant_llm {

/// The SHA-256 (FIPS 180-4) of some bytes, as 64 lower-case hexadecimal digits.
/// For libraries that must not depend on LLVM.
std::string sha256Hex(const void *data, size_t size);

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_SHA256_H
