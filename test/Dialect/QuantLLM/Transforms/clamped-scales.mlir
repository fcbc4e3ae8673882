// Scales beyond the range of their type are clamped, and counted.
// REQUIRES: python
// RUN: rm -rf %t && mkdir %t && cp %s %t/m.mlir && cd %t
// RUN: %python -c "import numpy as np; from safetensors.numpy import save_file; w = np.ones((4, 64), np.float32); w[1, 3] = w[2, 40] = w[2, 1] = 3e38; save_file({'w': w}, 'm.safetensors')"
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32' -quant-llm-quantize='output=q.safetensors report=q.json' -o /dev/null 2>&1 | FileCheck %s
// CHECK: m.mlir:{{[0-9]+}}:{{[0-9]+}}: warning: {{.*}}quant-llm-quantize: 3 of 8 scales of 'w' are 6.5504{{0*}}e+04, the largest f16: larger ones were clamped to it; use scales of a wider type (bf16 or f32)
// RUN: FileCheck %s --check-prefix=REPORT < q.json
// REPORT: "clamped_scales": 3
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32 scale=bf16' -quant-llm-quantize='output=b.safetensors report=b.json' -o /dev/null 2>&1 | count 0
// RUN: not grep clamped_scales b.json

quant_llm.archive @a "m.safetensors"
quant_llm.parameter @w from @a : tensor<4x64xf32>
func.func @f(%x: tensor<2x64xf32>) -> tensor<2x4xf32> {
  %w = quant_llm.get_parameter @w : tensor<4x64xf32>
  %0 = quant_llm.linear %x, %w : (tensor<2x64xf32>, tensor<4x64xf32>) -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}
