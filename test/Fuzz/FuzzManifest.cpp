//===- FuzzManifest.cpp - Manifests of GPU kernels from any bytes ---------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CUDA/Manifest.h"

#include <cstdlib>

using namespace quant_llm;
using namespace quant_llm::cuda;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Result<Manifest> manifest = parseManifest(
      std::string_view(reinterpret_cast<const char *>(data), size));
  if (!manifest.ok())
    return 0;
  for (const LinearDescription &linear : manifest->linears)
    for (const LinearVariant &variant : linear.variants) {
      if (variant.kernel >= manifest->kernels.size())
        std::abort();
      LaunchGeometry geometry;
      for (int64_t m : {int64_t(1), int64_t(100), int64_t(INT32_MAX)})
        (void)getLaunchGeometry(manifest->kernels[variant.kernel], linear.n,
                                linear.experts, m, 132, geometry);
    }
  return 0;
}
