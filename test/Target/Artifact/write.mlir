// RUN: rm -rf %t && mkdir -p %t/out
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 --quant-llm-gpu-to-ptx --quant-llm-write-gpu-artifact='output=%t/out base-dir=%t/out' -o %t/module.mlir
// RUN: FileCheck %s < %t/out/manifest.json
// RUN: FileCheck %s --check-prefix=PTX < %t/out/kernels.ptx
// RUN: sha256sum %t/out/kernels.ptx | cut -c1-64 > %t/hash
// RUN: grep -c -f %t/hash %t/out/manifest.json | FileCheck %s --check-prefix=HASH
// A new directory, and another file of packed weights.
// RUN: quant-opt %s --convert-quant-llm-to-gpu=chip=sm_80 --quant-llm-gpu-to-ptx --quant-llm-write-gpu-artifact='output=%t/out packed=p/q.safetensors base-dir=%t/out' -o %t/module2.mlir
// RUN: FileCheck %s --check-prefix=PACKED < %t/out/manifest.json

#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
!weight = !quant_llm.weight<128x64xf16, #scheme>
!packed = !quant_llm.weight<128x64xf16, #scheme, #quant_llm.fragment_layout>
#config = #quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>

quant_llm.archive @p "packed.safetensors"
quant_llm.parameter @gate from @p : !packed
quant_llm.parameter @up from @p key "layer.up" : !packed

// Keys are sorted; the kernels come in the order of their names.
// PTX: .visible .entry linear_128x64_int4_multistage_16x8(
// HASH: 3
// CHECK: "chip": "sm_80"
// CHECK: "kernels": [
// CHECK: "args": [
// CHECK: "file": "kernels.ptx",
// CHECK: "grid": "tiles",
// CHECK: "name": "gated_128x64_int4_multistage_16x8",
// CHECK: "row_tile": 16,
// CHECK: "sha256": "{{[0-9a-f]+}}",
// CHECK: "shared_bytes": {{[1-9][0-9]*}},
// CHECK: "threads": 32,
// CHECK: "token_tile": 8,
// CHECK: "tokens": [
// CHECK-NEXT: 1,
// CHECK-NEXT: 9223372036854775807
// CHECK: "name": "linear_128x64_int4_multistage_16x8",
// CHECK: "linears": [
// CHECK: "activation": "f16",
// CHECK: "epilogue": [],
// CHECK: "k": 64,
// CHECK: "n": 128,
// CHECK: "name": "weight0",
// CHECK: "output": "f16",
// CHECK: "packed": {
// CHECK-NEXT: "archive": "packed.safetensors",
// CHECK-NEXT: "keys": [
// CHECK-NEXT: "weight0"
// CHECK: "scheme": "{{.*}}int4
// CHECK: "variants": [
// CHECK: "kernel": "linear_128x64_int4_multistage_16x8",
// PACKED: "archive": "p/q.safetensors"
func.func @argument(%x: tensor<?x64xf16>, %w: !weight) -> tensor<?x128xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#config]} : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// The parameters are packed: their archive lies in the directory.
// CHECK: "epilogue": [
// CHECK: "per_element": false,
// CHECK-NEXT: "type": "bf16"
// CHECK: "per_element": true,
// CHECK-NEXT: "type": "f32"
// What the epilogue computes, for those who check it.
// CHECK: "formula": [
// CHECK-NEXT: {
// CHECK-NEXT: "args": [
// CHECK-NEXT: "sum0",
// CHECK-NEXT: "sum1"
// CHECK-NEXT: ],
// CHECK-NEXT: "op": "arith.mulf"
// CHECK: "args": [
// CHECK-NEXT: "epilogue0"
// CHECK-NEXT: ],
// CHECK-NEXT: "op": "arith.extf"
// CHECK: "args": [
// CHECK-NEXT: 0,
// CHECK-NEXT: 1
// CHECK-NEXT: ],
// CHECK-NEXT: "op": "arith.addf"
// CHECK: "args": [
// CHECK-NEXT: 2,
// CHECK-NEXT: "epilogue1"
// CHECK: "args": [
// CHECK-NEXT: 3
// CHECK-NEXT: ],
// CHECK-NEXT: "op": "quant_llm.yield"
// CHECK: "name": "gate+up",
// CHECK: "output": "f32",
// CHECK: "archive": "packed.safetensors",
// CHECK-NEXT: "keys": [
// CHECK-NEXT: "gate",
// CHECK-NEXT: "layer.up"
// CHECK: "weights": [
// CHECK-NEXT: "gate",
// CHECK-NEXT: "up"
// The same weights again have another name, below.
func.func @gated(%x: tensor<?x64xf16>, %b: tensor<128xbf16>, %r: tensor<?x128xf32>) -> (tensor<?x128xf32>, tensor<?x128xf32>) {
  %g = quant_llm.get_parameter @gate : !packed
  %u = quant_llm.get_parameter @up : !packed
  %y = quant_llm.linear %x, %g, %u {kernels = [#config]} epilogue(%b, %r : tensor<128xbf16>, tensor<?x128xf32>) {
  ^bb0(%p: f32, %q: f32, %c: bf16, %d: f32):
    %0 = arith.mulf %p, %q : f32
    %1 = arith.extf %c : bf16 to f32
    %2 = arith.addf %0, %1 : f32
    %3 = arith.addf %2, %d : f32
    quant_llm.yield %3 : f32
  } : (tensor<?x64xf16>, !packed, !packed) -> tensor<?x128xf32>
  %z = quant_llm.linear %x, %g, %u {kernels = [#config]} epilogue(%b, %r : tensor<128xbf16>, tensor<?x128xf32>) {
  ^bb0(%p: f32, %q: f32, %c: bf16, %d: f32):
    %0 = arith.mulf %p, %q : f32
    %1 = arith.extf %c : bf16 to f32
    %2 = arith.addf %0, %1 : f32
    %3 = arith.addf %2, %d : f32
    quant_llm.yield %3 : f32
  } : (tensor<?x64xf16>, !packed, !packed) -> tensor<?x128xf32>
  return %y, %z : tensor<?x128xf32>, tensor<?x128xf32>
}

// Ops are written whatever they are: it is the reader who may not know them.
// CHECK: "name": "gate+up#2",
// CHECK: "formula": [
// CHECK-NEXT: {
// CHECK-NEXT: "op": "arith.constant",
// CHECK-NEXT: "value": 3
// CHECK: "args": [
// CHECK-NEXT: 0
// CHECK-NEXT: ],
// CHECK-NEXT: "op": "arith.sitofp"
// CHECK: "op": "arith.cmpf",
// CHECK-NEXT: "predicate": "ord"
// CHECK: "op": "arith.select"
// CHECK: "op": "quant_llm.yield"
// CHECK: "name": "gate",
// CHECK: "schema": "quant_llm.manifest/1"
func.func @integers(%x: tensor<?x64xf16>) -> tensor<?x128xf32> {
  %g = quant_llm.get_parameter @gate : !packed
  %y = quant_llm.linear %x, %g {kernels = [#config]} epilogue {
  ^bb0(%p: f32):
    %c = arith.constant 3 : i32
    %f = arith.sitofp %c : i32 to f32
    %o = arith.cmpf ord, %p, %f : f32
    %s = arith.select %o, %p, %f : f32
    quant_llm.yield %s : f32
  } : (tensor<?x64xf16>, !packed) -> tensor<?x128xf32>
  return %y : tensor<?x128xf32>
}
