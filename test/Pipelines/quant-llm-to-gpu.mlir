// RUN: rm -rf %t && mkdir %t
// RUN: quant-opt %s --pass-pipeline='builtin.module(quant-llm-to-gpu{chip=sm_90a format=ptx output=%t/new/out})' -o %t/module.mlir
// RUN: FileCheck %s < %t/new/out/manifest.json
// RUN: FileCheck %s --check-prefix=PTX < %t/new/out/kernels.ptx
// The same input gives the same bytes.
// RUN: quant-opt %s --pass-pipeline='builtin.module(quant-llm-to-gpu{chip=sm_90a format=ptx output=%t/again})' -o %t/module.mlir
// RUN: diff -r %t/new/out %t/again

// A contraction in linalg, a bias and an activation are one kernel for each
// range of tokens.
// CHECK: "args": [
// CHECK: "epilogue0",
// CHECK: "epilogue": [
// CHECK-NEXT: {
// CHECK-NEXT: "per_element": false,
// CHECK-NEXT: "type": "f32"
// PTX: .visible .entry linear_256x512_int4_
!weight = !quant_llm.weight<256x512xf16, #quant_llm.scheme<int4, block = [1, 64], scale = f16>>
#mn = affine_map<(m, n) -> (m, n)>
#n = affine_map<(m, n) -> (n)>
func.func @f(%x: tensor<?x512xf16>, %w: !weight, %b: tensor<256xf32>) -> tensor<?x256xf16> {
  %c0 = arith.constant 0 : index
  %m = tensor.dim %x, %c0 : tensor<?x512xf16>
  %y = quant_llm.linear %x, %w : (tensor<?x512xf16>, !weight) -> tensor<?x256xf32>
  %e = tensor.empty(%m) : tensor<?x256xf16>
  %z = linalg.generic {indexing_maps = [#mn, #n, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%y, %b : tensor<?x256xf32>, tensor<256xf32>) outs(%e : tensor<?x256xf16>) {
  ^bb0(%a: f32, %c: f32, %out: f16):
    %0 = arith.addf %a, %c : f32
    %1 = math.tanh %0 : f32
    %2 = arith.truncf %1 : f32 to f16
    linalg.yield %2 : f16
  } -> tensor<?x256xf16>
  return %z : tensor<?x256xf16>
}
