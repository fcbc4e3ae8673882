// RUN: rm -rf %t && %python %S/Inputs/make_calibration.py %t && cp %s %t/m.mlir && cd %t

// RUN: quant-opt m.mlir -quant-llm-verify-calibration='calibration=good.safetensors any-model' -remarks-filter=quant-llm-verify-calibration 2>&1 | FileCheck %s
// RUN: quant-opt m.mlir -quant-llm-verify-calibration='calibration=good.safetensors any-model statistics=absmax,hessian' | FileCheck %s --check-prefix=SAME
// CHECK: dead-inputs | Category:quant-llm-verify-calibration | Remark="inputs of w are always 0", dead=1, inputs=8
// CHECK: Remark="inputs of v are always 0", dead=1, inputs=8
// SAME:  quant_llm.linear

// RUN: not quant-opt m.mlir -quant-llm-verify-calibration=calibration=good.safetensors 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'good.safetensors' is of another model: it has the fingerprint 0000000000000000... but the model's is {{[0-9a-f]+}}...; calibrate the model again
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=good.safetensors any-model statistics=absmean' 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: error: 'quant_llm.linear' op 'good.safetensors' has no statistic 'absmean' of 'w', only absmax, hessian; calibrate with --statistics absmean
// MISSING: error: 'quant_llm.linear' op 'good.safetensors' has no statistic 'absmean' of 'v'
// Of weights, each its own; and of pairs of inputs.
// RUN: quant-opt m.mlir -quant-llm-verify-calibration='calibration=all.safetensors any-model statistics=fisher,row-fisher,drift,residual-drift' | FileCheck %s --check-prefix=SAME
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=part.safetensors any-model statistics=fisher' 2>&1 | FileCheck %s --check-prefix=PART
// PART: error: 'quant_llm.linear' op 'part.safetensors' has no statistic 'fisher' of 'v'
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=part.safetensors any-model statistics=row-fisher' 2>&1 | FileCheck %s --check-prefix=ROWS
// ROWS: error: 'quant_llm.linear' op 'part.safetensors': row-fisher of 'w': expected the shape [4] but got [8]; the file is of another model
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=part.safetensors any-model statistics=drift' 2>&1 | FileCheck %s --check-prefix=DRIFT
// DRIFT: error: 'quant_llm.linear' op 'part.safetensors': drift of 'w': expected the shape [8, 8] but got [8]; the file is of another model
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=nan.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NAN
// NAN: error: 'quant_llm.linear' op 'nan.safetensors': absmax of 'w': expected finite values but got a NaN or an infinity at 5
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=narrow.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=SHAPE
// SHAPE: error: 'quant_llm.linear' op 'narrow.safetensors': absmax of 'w': expected the shape [8] but got [4]; the file is of another model
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=other.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=OTHER
// OTHER: error: 'quant_llm.linear' op 'other.safetensors' has no statistic 'absmax' of 'w' and no other; it knows 1 parameters: u
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration=calibration=later.safetensors 2>&1 | FileCheck %s --check-prefix=LATER
// LATER: error: 'later.safetensors' is no calibration file: expected the schema quant_llm.calibration/1 but got 'quant_llm.calibration/2'
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration=calibration=a.safetensors 2>&1 | FileCheck %s --check-prefix=WEIGHTS
// WEIGHTS: error: 'a.safetensors' is no calibration file: expected the metadata 'schema'
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration=calibration=none 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: error: cannot open 'none': No such file or directory
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration 2>&1 | FileCheck %s --check-prefix=REQUIRED
// REQUIRED: error: quant-llm-verify-calibration: invalid option 'calibration': expected a file
// RUN: not quant-opt m.mlir -quant-llm-verify-calibration='calibration=good.safetensors statistics=inputs' 2>&1 | FileCheck %s --check-prefix=STATISTICS
// STATISTICS: error: quant-llm-verify-calibration: invalid option 'statistics': expected one of absmax, absmean, mean, min, max, hessian, drift, residual-drift, fisher, row-fisher but got 'inputs'

quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<4x8xf16>
quant_llm.parameter @v from @a : tensor<4x8xf16>
func.func @f(%x: tensor<?x8xf32>) -> (tensor<?x4xf32>, tensor<?x4xf32>) {
  %w = quant_llm.get_parameter @w : tensor<4x8xf16>
  %v = quant_llm.get_parameter @v : tensor<4x8xf16>
  %0 = quant_llm.linear %x, %w : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  %1 = quant_llm.linear %x, %v : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  return %0, %1 : tensor<?x4xf32>, tensor<?x4xf32>
}
