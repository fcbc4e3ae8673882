//===- FakeCublas.cpp - A cuBLAS that computes nothing --------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The functions that quant-bench calls. How long they take is what the fake
// driver says of any graph.
//
//===----------------------------------------------------------------------===//

#include <cstddef>

#pragma GCC visibility push(default)
extern "C" {

int cublasCreate_v2(void **handle) {
  static int theHandle;
  *handle = &theHandle;
  return 0;
}
int cublasDestroy_v2(void *) { return 0; }
int cublasSetStream_v2(void *, void *) { return 0; }
int cublasSetWorkspace_v2(void *, void *, size_t) { return 0; }
int cublasGemmEx(void *, int, int, int, int, int, const void *, const void *,
                 int, int, const void *, int, int, const void *, void *, int,
                 int, int, int) {
  return 0;
}

} // extern "C"
#pragma GCC visibility pop
