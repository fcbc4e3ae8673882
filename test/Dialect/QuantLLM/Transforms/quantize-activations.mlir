// RUN: rm -rf %t && %python %S/Inputs/make_activations.py %t && cp %s %t/m.mlir && cd %t

// RUN: quant-opt m.mlir -quant-llm-quantize-activations='exclude=head|dead report=r.json' | FileCheck %s --check-prefixes=CHECK,DYNAMIC
// RUN: FileCheck %s --check-prefix=REPORT < r.json
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='exclude=head|dead' -quant-llm-quantize-activations='exclude=head|dead' | FileCheck %s --check-prefixes=CHECK,DYNAMIC
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='element=int4 granularity=group group=4 clip=0.75 scale=f16 include=q|k exclude=' | FileCheck %s --check-prefix=GROUP
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='element=uint8 granularity=tensor' | FileCheck %s --check-prefix=UNSIGNED
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='element=f8E4M3FN' | FileCheck %s --check-prefix=FLOAT

// One op for q and k.
// DYNAMIC: #[[S:.*]] = #quant_llm.scheme<int8, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>
// CHECK-LABEL: func.func @f
// DYNAMIC:      %[[Q:.*]] = quant_llm.quantize_activation %arg0 : tensor<?x8xf32> -> !quant_llm.activation<?x8xf32, #[[S]]>
// DYNAMIC-NEXT: %[[Y:.*]] = quant_llm.linear %[[Q]], %q : (!quant_llm.activation<?x8xf32, #[[S]]>, tensor<4x8xf16>) -> tensor<?x4xf32>
// DYNAMIC-NOT:  quantize_activation
// DYNAMIC:      quant_llm.linear %[[Q]], %k
// DYNAMIC:      %[[D:.*]] = quant_llm.quantize_activation %[[Y]]
// DYNAMIC-NEXT: quant_llm.linear %[[D]], %down
// DYNAMIC:      quant_llm.linear %arg0, %head
// GROUP: #quant_llm.scheme<int4, block = [1, 4], scale = f16, rule = absmax, rounding = half_even>
// GROUP: quant_llm.quantize_activation %arg0 clip 7.500000e-01
// GROUP-NOT: quantize_activation
// UNSIGNED: #quant_llm.scheme<uint8, block = [-1, -1], scale = f32, zero = int, rule = minmax, rounding = half_even>
// FLOAT: #quant_llm.scheme<f8E4M3FN, block = [1, -1], scale = f32, rule = absmax, rounding = half_even>

// REPORT:      "sites": [
// REPORT:      "linears": [
// REPORT-NEXT:   "q",
// REPORT-NEXT:   "k"
// REPORT-NEXT: ],
// REPORT-NEXT: "mode": "dynamic",
// REPORT-NEXT: "scheme": "#quant_llm.scheme<int8,
// REPORT:      "skipped": [
// REPORT:      "name": "head",
// REPORT-NEXT: "reason": "excluded"

// 1.27 / 127.
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=good.safetensors any-model exclude=head|dead' | FileCheck %s --check-prefix=STATIC
// STATIC: %[[A:.*]] = arith.constant dense<{{0.01|1.000000e-02|0.00999999977|9.99999977E-3}}> : tensor<f32>
// STATIC: quant_llm.quantize_activation %arg0 static(%[[A]] : tensor<f32>)
// STATIC: arith.constant dense<{{1.000000e\+00|1.0}}> : tensor<f32>
// STATIC: quant_llm.quantize_activation %{{.*}} static(

// Outliers get scales of their own, and so does what was always 0.
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=good.safetensors any-model outlier-ratio=10 report=o.json exclude=head' -remarks-filter=quant-llm-quantize-activations 2>&1 | FileCheck %s --check-prefix=OUTLIERS
// RUN: FileCheck %s --check-prefix=OREPORT < o.json
// OUTLIERS-DAG: Remark="the inputs of down have outlier tokens, and get a scale per token", absmax=1.270000e+02, typical=1.016000e+00
// OUTLIERS-DAG: Remark="the inputs of dead were always 0, and get a scale per token"
// OUTLIERS-DAG: Remark="the input of head is not quantized: excluded"
// OUTLIERS-DAG: Remark="the input of q, k, static"
// OUTLIERS: quant_llm.quantize_activation %arg0 static(
// OUTLIERS: quant_llm.quantize_activation %{{[0-9]+}} : tensor<?x4xf32>
// OREPORT: "reason": "outlier tokens"
// OREPORT: "typical":

// 0.8 * 1.27 * 0.5 / 127, and groups.
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=group group=4 calibration=good.safetensors any-model percentile=0.99 clip=0.5 include=^q$' | FileCheck %s --check-prefix=GROUPS
// GROUPS: arith.constant dense<[{{.*}}, {{4.000000e-03|0.004|0.00400000019|4.000000.*E-3}}]> : tensor<2xf32>
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='element=uint8 mode=static granularity=tensor calibration=good.safetensors any-model include=^q$' | FileCheck %s --check-prefix=ZERO
// ZERO: arith.constant dense<51> : tensor<i8>

// A group that was always 0 has the scale, and the zero, of the widest; one whose range the scales round to 0 too.
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=group group=4 calibration=partly.safetensors any-model include=^q$ report=d.json' -remarks-filter=quant-llm-quantize-activations 2>&1 | FileCheck %s --check-prefix=DEAD
// RUN: FileCheck %s --check-prefix=DREPORT < d.json
// DEAD: Remark="groups of the inputs of q have ranges that round to 0, and get the scale of the widest one", groups=1
// DEAD: arith.constant dense<{{0.01|1.000000e-02|0.00999999977|9.99999977E-3}}> : tensor<2xf32>
// DREPORT: "dead_groups": 1
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='element=uint8 mode=static granularity=group group=4 calibration=partly.safetensors any-model include=^q$' | FileCheck %s --check-prefix=DEADZERO
// DEADZERO: arith.constant dense<{{0.01|1.000000e-02|0.00999999977|9.99999977E-3}}> : tensor<2xf32>
// DEADZERO: arith.constant dense<127> : tensor<2xi8>
// RUN: quant-opt m.mlir -quant-llm-quantize-activations='scale=f16 mode=static granularity=tensor calibration=tiny.safetensors any-model include=^q$' -remarks-filter=quant-llm-quantize-activations 2>&1 | FileCheck %s --check-prefix=TINY
// TINY: Remark="the inputs of q have a range that rounds to 0, and get a scale per token"
// TINY: quant_llm.quantize_activation %arg0 : tensor<?x8xf32>

// RUN: not quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=good.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'good.safetensors' is of another model
// RUN: not quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=good.safetensors any-model include=head exclude=' 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: error: 'quant_llm.linear' op 'good.safetensors' has no statistic 'absmax' of 'head'
// RUN: not quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=plain.safetensors any-model percentile=0.99' 2>&1 | FileCheck %s --check-prefix=NOQUANTILES
// NOQUANTILES: error: 'quant_llm.linear' op expected plain.safetensors to have the quantile {{.*}} but got none; calibrate with the statistic quantiles
// RUN: not quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=good.safetensors any-model percentile=0.9' 2>&1 | FileCheck %s --check-prefix=FRACTION
// FRACTION: error: 'quant_llm.linear' op expected good.safetensors to have the quantile {{.*}} but got {{.*}}
// RUN: not quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=narrow.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=SHAPE
// SHAPE: error: 'quant_llm.linear' op 'narrow.safetensors': absmax of 'q': expected the shape [8] but got [4]
// RUN: not quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=other.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=OTHER
// OTHER: error: 'quant_llm.linear' op 'other.safetensors' has no statistic 'absmax' of 'q'
// RUN: not quant-opt m.mlir -quant-llm-quantize-activations='mode=static granularity=tensor calibration=none' 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: error: cannot open 'none'

// Kernels of GPUs do not read activations yet.
// RUN: quant-opt m.mlir -quant-llm-quantize-activations -quant-llm-choose-granularity='block=1,-1' -quant-llm-quantize=output=q.safetensors -quant-llm-select-kernels=chip=sm_90a -remarks-filter=quant-llm-select-kernels 2>&1 | FileCheck %s --check-prefix=GPU
// GPU: expected an input of floats but got a quantized activation, for which there are no GPU kernels

quant_llm.archive @a "a.safetensors"
quant_llm.parameter @q from @a : tensor<4x8xf16>
quant_llm.parameter @k from @a : tensor<4x8xf16>
quant_llm.parameter @down from @a : tensor<8x4xf16>
quant_llm.parameter @head from @a : tensor<4x8xf16>
quant_llm.parameter @dead from @a : tensor<4x8xf16>
func.func @f(%x: tensor<?x8xf32>, %z: tensor<?x8xf32>) -> (tensor<?x4xf32>, tensor<?x8xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %q = quant_llm.get_parameter @q : tensor<4x8xf16>
  %0 = quant_llm.linear %x, %q : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  %k = quant_llm.get_parameter @k : tensor<4x8xf16>
  %1 = quant_llm.linear %x, %k : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  %down = quant_llm.get_parameter @down : tensor<8x4xf16>
  %2 = quant_llm.linear %0, %down : (tensor<?x4xf32>, tensor<8x4xf16>) -> tensor<?x8xf32>
  %head = quant_llm.get_parameter @head : tensor<4x8xf16>
  %3 = quant_llm.linear %x, %head : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  %dead = quant_llm.get_parameter @dead : tensor<4x8xf16>
  %4 = quant_llm.linear %z, %dead : (tensor<?x8xf32>, tensor<4x8xf16>) -> tensor<?x4xf32>
  return %1, %2, %3, %4 : tensor<?x4xf32>, tensor<?x8xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}
