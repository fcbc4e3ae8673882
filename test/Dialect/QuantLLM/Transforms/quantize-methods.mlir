// How codes are chosen: by the error of the outputs, or with zeros of a robust norm.
// RUN: rm -rf %t && %python %S/Inputs/make_hessians.py %t && cp %s %t/m.mlir && cd %t
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32' -o chosen.mlir

// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=nearest.safetensors report=nearest.json' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=gptq.safetensors report=gptq.json method=gptq calibration=both.safetensors any-model' -remarks-filter=quant-llm-quantize -quant-llm-verify-stage='stage=quantized check-archives' 2>&1 -o /dev/null | FileCheck %s
// CHECK: dead-inputs | Category:quant-llm-quantize{{.*}}inputs of w are always 0; rounded to nearest", dead=1
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=gptq-order.safetensors report=gptq-order.json method=gptq act-order damping=0.02 calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=quantease.safetensors report=quantease.json method=quantease calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=quantease-start.safetensors report=quantease-start.json method=quantease start-from-gptq relax=false sweeps=5 calibration=both.safetensors any-model' -o /dev/null
// RUN: %python %S/Inputs/check_methods.py . nearest gptq gptq-order quantease quantease-start

// The same bytes for any number of threads.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=again.safetensors method=gptq calibration=both.safetensors any-model threads=3' -o /dev/null
// RUN: cmp again.safetensors gptq.safetensors

// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=uint3 zero=f16 block=1,32' -quant-llm-quantize='output=hqq.safetensors report=hqq.json method=hqq' -o /dev/null
// RUN: FileCheck %s --check-prefix=HQQ < hqq.json
// HQQ: "method": "hqq"

// Wrong options and files: one message, nothing written.
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq' 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: error: quant-llm-quantize: invalid option 'calibration': expected a file with the Hessians that the method needs
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=NOUSE
// NOUSE: error: quant-llm-quantize: invalid option 'calibration': expected none with a method without statistics
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors damping=nan' 2>&1 | FileCheck %s --check-prefix=DAMPING
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors damping=-1' 2>&1 | FileCheck %s --check-prefix=DAMPING
// DAMPING: error: quant-llm-quantize: invalid option 'damping': expected a number of at least 0 but got
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=quantease calibration=both.safetensors sweeps=0' 2>&1 | FileCheck %s --check-prefix=SWEEPS
// SWEEPS: error: quant-llm-quantize: invalid option 'sweeps': expected at least 1 but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'both.safetensors' is of another model
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=one.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: error: 'quant_llm.linear' op 'one.safetensors' has no statistic 'hessian' of 'v'
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=indefinite.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=FACTOR
// FACTOR: error: 'quant_llm.linear' op 'indefinite.safetensors': hessian of 'w': expected the sum of products
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=hqq' 2>&1 | FileCheck %s --check-prefix=ZERO
// ZERO: error: 'quant_llm.parameter' op cannot be quantized: tensor 'w': expected a scheme with a float zero
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
