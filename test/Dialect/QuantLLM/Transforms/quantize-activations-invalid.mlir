// RUN: not quant-opt %s -quant-llm-quantize-activations='element=int9' 2>&1 | FileCheck %s --check-prefix=C0_
// C0_: error: quant-llm-quantize-activations: invalid option 'element'
// RUN: not quant-opt %s -quant-llm-quantize-activations='element=nf4' 2>&1 | FileCheck %s --check-prefix=C1_
// C1_: error: quant-llm-quantize-activations: the options are no legal scheme: expected the element of an activation to be an integer of at least 2 bits or a float
// RUN: not quant-opt %s -quant-llm-quantize-activations='scale=f64' 2>&1 | FileCheck %s --check-prefix=C2_
// C2_: error: quant-llm-quantize-activations: invalid option 'scale'
// RUN: not quant-opt %s -quant-llm-quantize-activations='scale=f8E8M0FNU' 2>&1 | FileCheck %s --check-prefix=C3_
// C3_: error: quant-llm-quantize-activations: the options are no legal scheme: expected the scales of an activation to be f16, bf16 or f32
// RUN: not quant-opt %s -quant-llm-quantize-activations='mode=later' 2>&1 | FileCheck %s --check-prefix=C4_
// C4_: error: quant-llm-quantize-activations: invalid option 'mode': expected dynamic or static but got 'later'
// RUN: not quant-opt %s -quant-llm-quantize-activations='granularity=channel' 2>&1 | FileCheck %s --check-prefix=C5_
// C5_: error: quant-llm-quantize-activations: invalid option 'granularity': expected token, group or tensor but got 'channel'
// RUN: not quant-opt %s -quant-llm-quantize-activations='granularity=group' 2>&1 | FileCheck %s --check-prefix=C6_
// C6_: error: quant-llm-quantize-activations: invalid option 'group': expected the number of channels that share a scale, at least 1, but got 0
// RUN: not quant-opt %s -quant-llm-quantize-activations='group=64' 2>&1 | FileCheck %s --check-prefix=C7_
// C7_: error: quant-llm-quantize-activations: invalid option 'group': expected it with granularity=group only
// RUN: not quant-opt %s -quant-llm-quantize-activations='mode=static calibration=c' 2>&1 | FileCheck %s --check-prefix=C8_
// C8_: error: quant-llm-quantize-activations: invalid option 'granularity': expected tensor or group with mode=static
// RUN: not quant-opt %s -quant-llm-quantize-activations='mode=static granularity=tensor' 2>&1 | FileCheck %s --check-prefix=C9_
// C9_: error: quant-llm-quantize-activations: invalid option 'calibration': expected a file, which mode=static needs
// RUN: not quant-opt %s -quant-llm-quantize-activations='calibration=c' 2>&1 | FileCheck %s --check-prefix=C10_
// C10_: error: quant-llm-quantize-activations: invalid option 'calibration': expected none with mode=dynamic
// RUN: not quant-opt %s -quant-llm-quantize-activations='any-model' 2>&1 | FileCheck %s --check-prefix=ANY
// ANY: error: quant-llm-quantize-activations: invalid option 'any-model': expected it with mode=static only
// RUN: not quant-opt %s -quant-llm-quantize-activations='clip=0' 2>&1 | FileCheck %s --check-prefix=C11_
// C11_: error: quant-llm-quantize-activations: invalid option 'clip': expected a number of more than 0 and at most 1
// RUN: not quant-opt %s -quant-llm-quantize-activations='clip=nan' 2>&1 | FileCheck %s --check-prefix=C12_
// C12_: error: quant-llm-quantize-activations: invalid option 'clip': expected a number of more than 0 and at most 1
// RUN: not quant-opt %s -quant-llm-quantize-activations='percentile=0.9' 2>&1 | FileCheck %s --check-prefix=C13_
// C13_: error: quant-llm-quantize-activations: invalid option 'percentile': expected it with mode=static only
// RUN: not quant-opt %s -quant-llm-quantize-activations='percentile=2' 2>&1 | FileCheck %s --check-prefix=C14_
// C14_: error: quant-llm-quantize-activations: invalid option 'percentile': expected a fraction of more than 0 and at most 1
// RUN: not quant-opt %s -quant-llm-quantize-activations='outlier-ratio=5' 2>&1 | FileCheck %s --check-prefix=C15_
// C15_: error: quant-llm-quantize-activations: invalid option 'outlier-ratio': expected it with mode=static only
// RUN: not quant-opt %s -quant-llm-quantize-activations='mode=static granularity=tensor calibration=c outlier-ratio=0.5' 2>&1 | FileCheck %s --check-prefix=C16_
// C16_: error: quant-llm-quantize-activations: invalid option 'outlier-ratio': expected 0 or a finite number of at least 1
// RUN: not quant-opt %s -quant-llm-quantize-activations='outlier-percentile=0' 2>&1 | FileCheck %s --check-prefix=C17_
// C17_: error: quant-llm-quantize-activations: invalid option 'outlier-percentile': expected a fraction
// RUN: not quant-opt %s -quant-llm-quantize-activations='mode=static granularity=tensor calibration=c outlier-percentile=0.5' 2>&1 | FileCheck %s --check-prefix=C21_
// C21_: error: quant-llm-quantize-activations: invalid option 'outlier-percentile': expected none without the option outlier-ratio
// RUN: not quant-opt %s -quant-llm-quantize-activations='mode=static granularity=tensor calibration=c element=uint8 percentile=0.9' 2>&1 | FileCheck %s --check-prefix=C18_
// C18_: error: quant-llm-quantize-activations: invalid option 'percentile': expected none with an element without sign
// RUN: not quant-opt %s -quant-llm-quantize-activations='include=(' 2>&1 | FileCheck %s --check-prefix=C19_
// C19_: error: quant-llm-quantize-activations: invalid option 'include': '(' is no regular expression
// RUN: not quant-opt %s -quant-llm-quantize-activations='exclude=[' 2>&1 | FileCheck %s --check-prefix=C20_
// C20_: error: quant-llm-quantize-activations: invalid option 'exclude': '[' is no regular expression

// RUN: not quant-opt %s -quant-llm-quantize-activations=report=%t.none/r.json 2>&1 | FileCheck %s --check-prefix=REPORT
// REPORT: error: quant-llm-quantize-activations: {{.+}}

// Static ranges are those of parameters.
// RUN: rm -rf %t && %python %S/Inputs/make_activations.py %t
// RUN: not quant-opt %s -quant-llm-quantize-activations='mode=static granularity=tensor calibration=%t/good.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=ARGUMENT
// ARGUMENT: error: 'quant_llm.linear' op has no static range: expected a quant_llm.linear with a parameter as its weight; exclude it, or quantize it with mode=dynamic
func.func @f(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>) -> tensor<?x4xf32> {
  %0 = quant_llm.linear %x, %w : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}
