//===- Clones.h - One copy of a function per instruction set ----*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The compiler makes one copy per instruction set, and the loader chooses; none
// contracts or reassociates, so that all give the same bits.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_METHODS_CLONES_H
#define QUANT_LLM_LIB_METHODS_CLONES_H

#if defined(__x86_64__) && defined(__ELF__) && !defined(__SANITIZE_ADDRESS__)
#define QUANT_LLM_CLONES                                                       \
  __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QUANT_LLM_CLONES
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#undef QUANT_LLM_CLONES
#define QUANT_LLM_CLONES
#endif
#endif

#endif // QUANT_LLM_LIB_METHODS_CLONES_H
