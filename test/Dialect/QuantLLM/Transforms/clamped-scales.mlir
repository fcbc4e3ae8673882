// Scales beyond the range of their type are clamped, and those at its ends are counted.
// REQUIRES: python
// RUN: rm -rf %t && mkdir %t && cp %s %t/m.mlir && cd %t
// RUN: %python -c "import numpy as np; from safetensors.numpy import save_file; w = np.ones((4, 64), np.float32); w[1, 3] = w[2, 40] = w[2, 1] = 3e38; save_file({'w': w}, 'm.safetensors')"
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32' -quant-llm-quantize='output=q.safetensors report=q.json' -o /dev/null 2>&1 | FileCheck %s
// CHECK: m.mlir:{{[0-9]+}}:{{[0-9]+}}: warning: {{.*}}quant-llm-quantize: 3 of 8 scales of 'w' are 6.5504{{0*}}e+04, the largest f16, as are all that should be larger; where the errors of the report are large, use scales of a wider type (bf16 or f32)
// RUN: FileCheck %s --check-prefix=REPORT < q.json
// REPORT: "largest_scales": 3
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32 scale=bf16' -quant-llm-quantize='output=b.safetensors report=b.json' -o /dev/null 2>&1 | count 0
// RUN: not grep est_scales b.json

// The other end.
// RUN: %python -c "import numpy as np; from safetensors.numpy import save_file; w = np.full((4, 64), 1e-9, np.float32); w[1] = 1; save_file({'w': w}, 'm.safetensors')"
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32' -quant-llm-quantize='output=s.safetensors report=s.json' -o /dev/null 2>&1 | FileCheck %s --check-prefix=SMALL
// SMALL: warning: {{.*}}quant-llm-quantize: 6 of 8 scales of 'w' are 5.96{{[0-9]*}}e-08, the smallest positive f16, as are all that should be smaller;
// RUN: FileCheck %s --check-prefix=SMALLREPORT < s.json
// SMALLREPORT: "smallest_scales": 6

// The smallest power of two is the scale of zeros as well.
// RUN: %python -c "import numpy as np; from safetensors.numpy import save_file; w = np.ones((4, 64), np.float32); w[1:3] = 0; save_file({'w': w}, 'm.safetensors')"
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=f4E2M1FN block=1,32 scale=f8E8M0FNU' -quant-llm-quantize='output=z.safetensors report=z.json' -o /dev/null 2>&1 | count 0
// RUN: not grep est_scales z.json

quant_llm.archive @a "m.safetensors"
quant_llm.parameter @w from @a : tensor<4x64xf32>
func.func @f(%x: tensor<2x64xf32>) -> tensor<2x4xf32> {
  %w = quant_llm.get_parameter @w : tensor<4x64xf32>
  %0 = quant_llm.linear %x, %w : (tensor<2x64xf32>, tensor<4x64xf32>) -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}
