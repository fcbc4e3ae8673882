// Experts go the way of linears: chosen, quantized, packed, compiled.
// RUN: rm -rf %t && %python %S/Inputs/make_archive.py %t && cp %s %t/module.mlir && mkdir %t/out
// RUN: quant-opt %t/module.mlir -quant-llm-choose-granularity='sizes=128,64' -quant-llm-quantize='output=%t/q.safetensors' -quant-llm-verify-stage='stage=quantized check-archives' -o %t/q.mlir
// RUN: FileCheck %s --check-prefix=QUANTIZED < %t/q.mlir
// RUN: quant-opt %t/q.mlir -quant-llm-prepack='output=%t/out/p.safetensors' -o %t/out/p.mlir
// RUN: FileCheck %s --check-prefix=PACKED < %t/out/p.mlir
// RUN: not quant-opt %t/out/p.mlir -convert-quant-llm-to-linalg -o /dev/null 2>&1 | FileCheck %s --check-prefix=LAYOUT
// RUN: quant-opt %t/out/p.mlir -quant-llm-to-gpu='chip=sm_80 format=ptx output=%t/out' -o /dev/null
// RUN: FileCheck %s --check-prefix=MANIFEST < %t/out/manifest.json
// RUN: not quant-opt %t/module.mlir -quant-llm-verify-stage=stage=chosen -o /dev/null 2>&1 | FileCheck %s --check-prefix=STAGE

// RUN: %python %S/Inputs/make_hessians.py %t/calibration
// RUN: not quant-opt %t/module.mlir -quant-llm-choose-granularity='block=1,64' -quant-llm-quantize='output=%t/never.safetensors method=gptq calibration=%t/calibration/both.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=METHOD
// METHOD: error: 'quant_llm.grouped_linear' op expected quant_llm.linear for method gptq, because calibration files know the inputs of no other op; choose method nearest or hqq

// QUANTIZED: quant_llm.parameter @layers.0.q_proj.weight from @quantized : !quant_llm.weight<32x512xf16, #[[S:.*]]>
// QUANTIZED: quant_llm.grouped_linear %{{.*}}, %{{.*}} offsets(%{{.*}} : tensor<5xi64>) {reason = "FineQuant: {{.*}}"} : (tensor<?x512xf16>, !quant_llm.weight<32x512xf16, #[[S]]>) -> tensor<?x8xf16>

// PACKED: quant_llm.parameter @layers.0.q_proj.weight from @packed : !quant_llm.weight<32x512xf16, #[[S:.*]], #quant_llm.fragment_layout>
// PACKED: quant_llm.grouped_linear {{.*}} : (tensor<?x512xf16>, !quant_llm.weight<32x512xf16, #[[S]], #quant_llm.fragment_layout>) -> tensor<?x8xf16>

// LAYOUT: error: 'quant_llm.grouped_linear' op expected weights in canonical storage but got the layout #quant_llm.fragment_layout

// MANIFEST: "offsets",
// MANIFEST: "linears": [
// MANIFEST: "experts": 4,
// MANIFEST: "kind": "grouped_linear",
// MANIFEST: "n": 8,
// MANIFEST: "offsets": "i64",

// STAGE: error: 'quant_llm.grouped_linear' op has neither a scheme nor a reason for having none

quant_llm.archive @model "model.safetensors"
quant_llm.parameter @layers.0.q_proj.weight from @model : tensor<32x512xf16>
func.func @experts(%x: tensor<?x512xf16>, %o: tensor<5xi64>) -> tensor<?x8xf16> {
  %w = quant_llm.get_parameter @layers.0.q_proj.weight : tensor<32x512xf16>
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<5xi64>) : (tensor<?x512xf16>, tensor<32x512xf16>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}
