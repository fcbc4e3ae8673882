// Low-rank parts beside codes, as LoRC has them.
// RUN: rm -rf %t && %python %S/Inputs/make_hessians.py %t && cp %s %t/m.mlir && cd %t
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32' -o chosen.mlir
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=nearest.safetensors report=nearest.json' -o nearest.mlir
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=plain.safetensors report=plain.json low-rank=4' -quant-llm-verify-stage='stage=quantized check-archives' -o plain.mlir
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=steps.safetensors report=steps.json low-rank=4 low-rank-steps=8 low-rank-type=f32' -o steps.mlir
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=weighted.safetensors report=weighted.json low-rank=4 calibration=both.safetensors any-model' -o weighted.mlir
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=gptq.safetensors report=gptq.json method=gptq calibration=both.safetensors any-model' -o gptq.mlir
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=gptq-low.safetensors report=gptq-low.json method=gptq low-rank=4 low-rank-type=bf16 calibration=both.safetensors any-model' -o gptq-low.mlir
// RUN: %python %S/Inputs/check_low_rank.py . nearest plain steps weighted gptq gptq-low

// RUN: FileCheck %s < plain.mlir
// CHECK: #[[S:.*]] = #quant_llm.scheme<uint4, block = [1, 32], scale = f16, zero = int, low_rank = 4xf16, rule = minmax, rounding = half_even>
// CHECK: quant_llm.parameter @w from @quantized : !quant_llm.weight<24x96xf16, #[[S]]>

// The part that a scheme has is computed without an option, and the option leaves it as it is.
// RUN: sed 's/low_rank = 4xf16/low_rank = 2xf16/' plain.mlir | grep '^#scheme' > two.mlir && sed '/^#scheme/d' chosen.mlir >> two.mlir
// RUN: quant-opt two.mlir -quant-llm-quantize='output=two.safetensors' -o two-out.mlir
// RUN: quant-opt two.mlir -quant-llm-quantize='output=two-again.safetensors low-rank=5' -o /dev/null
// RUN: cmp two.safetensors two-again.safetensors
// RUN: FileCheck %s --check-prefix=TWO < two-out.mlir
// TWO: low_rank = 2xf16

// The same bytes for any number of threads.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=again.safetensors low-rank=4 calibration=both.safetensors any-model threads=3' -o /dev/null
// RUN: cmp again.safetensors weighted.safetensors

// The fast path, the reference, and PyTorch.
// RUN: quant-run plain.mlir --input=x.npy --expect=plain.w.npy --expect=plain.v.npy --max-relative-error=1e-5
// RUN: quant-run plain.mlir --reference --input=x.npy --expect=plain.w.npy --expect=plain.v.npy --max-relative-error=1e-5
// RUN: quant-run gptq-low.mlir --input=x.npy --expect=gptq-low.w.npy --expect=gptq-low.v.npy --max-relative-error=1e-5
// RUN: quant-translate --mlir-to-torch plain.mlir -o plain.py
// RUN: FileCheck %s --check-prefix=TORCH < plain.py
// TORCH: parameters["w.low_rank.a"].to(dtype) @ parameters["w.low_rank.b"].to(dtype)
// RUN: %python -c "import torch, numpy as np, plain; from safetensors.torch import load_file; y = plain.f(torch.from_numpy(np.load('x.npy')), parameters=load_file('plain.safetensors')); e = np.load('plain.w.npy'); assert np.linalg.norm(y[0].numpy() - e) < 1e-5 * np.linalg.norm(e)"

// Not on the GPU.
// RUN: not quant-opt plain.mlir -quant-llm-prepack='output=never.safetensors' 2>&1 | FileCheck %s --check-prefix=PACK
// PACK: error: {{.*}}expected a scheme without low_rank, which the packed layout and GPU kernels do not have; quantize without it, or run on the CPU

// Wrong options: one message, nothing written.
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors low-rank=25' 2>&1 | FileCheck %s --check-prefix=RANK
// RANK: error: 'quant_llm.linear' op cannot be quantized: expected the rank of low_rank to be at most 24 for a 24x96 weight but got 25
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors low-rank-type=bf16' 2>&1 | FileCheck %s --check-prefix=TYPE
// TYPE: error: quant-llm-quantize: invalid option 'low-rank-type': expected none without the option low-rank
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors low-rank-steps=2' 2>&1 | FileCheck %s --check-prefix=STEPS
// STEPS: error: quant-llm-quantize: invalid option 'low-rank-steps': expected none without low-rank parts
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors low-rank=2 low-rank-steps=0' 2>&1 | FileCheck %s --check-prefix=POSITIVE
// POSITIVE: error: quant-llm-quantize: invalid option 'low-rank-steps': expected at least 1 but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors low-rank=2 calibration=one.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: error: 'quant_llm.linear' op 'one.safetensors' has no statistic 'hessian' of 'v'
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors low-rank=2 low-rank-type=f8E4M3FN' 2>&1 | FileCheck %s --check-prefix=NAME
// NAME: error: quant-llm-quantize: invalid option 'low-rank-type': expected f16, bf16 or f32 but got 'f8E4M3FN'
// RUN: not test -e never.safetensors

quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<24x96xf16>
quant_llm.parameter @v from @a : tensor<40x96xf16>
func.func @f(%x: tensor<?x96xf32>) -> (tensor<?x24xf32>, tensor<?x40xf32>) {
  %w = quant_llm.get_parameter @w : tensor<24x96xf16>
  %v = quant_llm.get_parameter @v : tensor<40x96xf16>
  %0 = quant_llm.linear %x, %w : (tensor<?x96xf32>, tensor<24x96xf16>) -> tensor<?x24xf32>
  %1 = quant_llm.linear %x, %v : (tensor<?x96xf32>, tensor<40x96xf16>) -> tensor<?x40xf32>
  return %0, %1 : tensor<?x24xf32>, tensor<?x40xf32>
}
