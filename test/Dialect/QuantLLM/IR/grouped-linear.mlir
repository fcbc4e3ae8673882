// RUN: quant-opt %s | quant-opt | FileCheck %s
// RUN: quant-opt %s --mlir-print-op-generic | quant-opt | FileCheck %s
// RUN: quant-opt %s --emit-bytecode | quant-opt | FileCheck %s
// RUN: quant-opt %s --canonicalize | FileCheck %s --check-prefix=CANON
// RUN: quant-opt %s --loop-invariant-code-motion | FileCheck %s --check-prefix=LICM
// RUN: quant-opt %s --cse | FileCheck %s --check-prefix=CSE

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
!experts = !quant_llm.weight<24x64xf16, #int4>

// CHECK-DAG: #[[INT4:.*]] = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>

// CHECK-LABEL: func.func @forms
func.func @forms(%x: tensor<?x64xf16>, %d: tensor<24x64xbf16>, %q: !experts, %o: tensor<4xi32>, %l: tensor<2xi64>, %b: tensor<24xf16>, %r: tensor<?x8xf32>) {
  // Three experts of eight outputs.
  // CHECK: quant_llm.grouped_linear %{{.*}}, %{{.*}} offsets(%{{.*}} : tensor<4xi32>) : (tensor<?x64xf16>, tensor<24x64xbf16>) -> tensor<?x8xf32>
  %0 = quant_llm.grouped_linear %x, %d offsets(%o : tensor<4xi32>) : (tensor<?x64xf16>, tensor<24x64xbf16>) -> tensor<?x8xf32>
  // CHECK: quant_llm.grouped_linear %{{.*}}, %{{.*}} offsets(%{{.*}} : tensor<4xi32>) {reason = "error grows", scheme = #[[INT4]]} : (tensor<?x64xf16>, tensor<24x64xbf16>) -> tensor<?x8xf32>
  %1 = quant_llm.grouped_linear %x, %d offsets(%o : tensor<4xi32>) {reason = "error grows", scheme = #int4} : (tensor<?x64xf16>, tensor<24x64xbf16>) -> tensor<?x8xf32>
  // One expert, offsets of 64 bits.
  // CHECK: quant_llm.grouped_linear %{{.*}}, %{{.*}} offsets(%{{.*}} : tensor<2xi64>) : (tensor<?x64xf16>, !quant_llm.weight<24x64xf16, #[[INT4]]>) -> tensor<?x24xf16>
  %2 = quant_llm.grouped_linear %x, %q offsets(%l : tensor<2xi64>) : (tensor<?x64xf16>, !experts) -> tensor<?x24xf16>
  // CHECK: quant_llm.grouped_linear %{{.*}}, %{{.*}}, %{{.*}} offsets(%{{.*}} : tensor<4xi32>) epilogue(%{{.*}}, %{{.*}} : tensor<24xf16>, tensor<?x8xf32>) {
  // CHECK-NEXT: ^bb0(%{{.*}}: f32, %{{.*}}: f32, %{{.*}}: f16, %{{.*}}: f32):
  // CHECK: } : (tensor<?x64xf16>, tensor<24x64xbf16>, !quant_llm.weight<24x64xf16, #[[INT4]]>) -> tensor<?x8xf32>
  %3 = quant_llm.grouped_linear %x, %d, %q offsets(%o : tensor<4xi32>) epilogue(%b, %r : tensor<24xf16>, tensor<?x8xf32>) {
  ^bb0(%gate: f32, %up: f32, %bias: f16, %res: f32):
    %4 = arith.extf %bias : f16 to f32
    %5 = arith.addf %gate, %4 : f32
    %6 = arith.mulf %5, %up : f32
    %7 = arith.addf %6, %res : f32
    quant_llm.yield %7 : f32
  } : (tensor<?x64xf16>, tensor<24x64xbf16>, !experts) -> tensor<?x8xf32>
  // No tokens at all.
  // CHECK: (tensor<0x64xf16>, tensor<24x64xbf16>) -> tensor<0x8xf32>
  %x0 = tensor.empty() : tensor<0x64xf16>
  %8 = quant_llm.grouped_linear %x0, %d offsets(%o : tensor<4xi32>) : (tensor<0x64xf16>, tensor<24x64xbf16>) -> tensor<0x8xf32>
  // CHECK: {kernels = [#quant_llm.kernel_config<multistage,
  %9 = quant_llm.grouped_linear %x, %q offsets(%o : tensor<4xi32>) {kernels = [#quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>]} : (tensor<?x64xf16>, !experts) -> tensor<?x8xf16>
  return
}

// Canonicalization keeps what the other passes wrote down.
// CANON-LABEL: func.func @identity_epilogue
// CANON-NEXT:    %[[Y:.*]] = quant_llm.grouped_linear %{{.*}}, %{{.*}} offsets(%{{.*}} : tensor<4xi32>) {reason = "kept"} : (tensor<?x64xf16>, !quant_llm.weight<24x64xf16, #{{.*}}>) -> tensor<?x8xf16>
// CANON-NEXT:    return %[[Y]]
func.func @identity_epilogue(%x: tensor<?x64xf16>, %q: !experts, %o: tensor<4xi32>) -> tensor<?x8xf16> {
  %0 = quant_llm.grouped_linear %x, %q offsets(%o : tensor<4xi32>) {reason = "kept"} epilogue {
  ^bb0(%acc: f32):
    %1 = arith.truncf %acc : f32 to f16
    quant_llm.yield %1 : f16
  } : (tensor<?x64xf16>, !experts) -> tensor<?x8xf16>
  return %0 : tensor<?x8xf16>
}

// CANON-LABEL: func.func @unused_operand
// CANON-SAME:    %[[B:.*]]: tensor<24xf32>, %[[R:.*]]: tensor<?x8xf32>
// CANON-NEXT:    quant_llm.grouped_linear %{{.*}}, %{{.*}} offsets(%{{.*}} : tensor<4xi32>) epilogue(%[[R]] : tensor<?x8xf32>) {
// CANON-NEXT:    ^bb0(%[[ACC:.*]]: f32, %[[RES:.*]]: f32):
// CANON-NEXT:      arith.addf %[[ACC]], %[[RES]]
func.func @unused_operand(%x: tensor<?x64xf16>, %q: !experts, %o: tensor<4xi32>, %b: tensor<24xf32>, %r: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %0 = quant_llm.grouped_linear %x, %q offsets(%o : tensor<4xi32>) epilogue(%b, %r : tensor<24xf32>, tensor<?x8xf32>) {
  ^bb0(%acc: f32, %bias: f32, %res: f32):
    %1 = arith.addf %acc, %res : f32
    quant_llm.yield %1 : f32
  } : (tensor<?x64xf16>, !experts) -> tensor<?x8xf32>
  return %0 : tensor<?x8xf32>
}

// Wrong offsets have no effect beside unspecified results, so the op may move out of a loop
// that is perhaps never entered.
// LICM-LABEL: func.func @speculation
// LICM:         quant_llm.grouped_linear
// LICM:         scf.for
// LICM-NOT:       quant_llm.grouped_linear
// LICM:         return
func.func @speculation(%x: tensor<2x64xf16>, %q: !experts, %o: tensor<4xi32>, %n: index) -> tensor<2x8xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant dense<0.0> : tensor<2x8xf32>
  %0 = scf.for %i = %c0 to %n step %c1 iter_args(%a = %zero) -> (tensor<2x8xf32>) {
    %1 = quant_llm.grouped_linear %x, %q offsets(%o : tensor<4xi32>) : (tensor<2x64xf16>, !experts) -> tensor<2x8xf32>
    scf.yield %1 : tensor<2x8xf32>
  }
  return %0 : tensor<2x8xf32>
}

// CSE-LABEL: func.func @common
// CSE-COUNT-1: quant_llm.grouped_linear
// CSE-NOT:     quant_llm.grouped_linear
// CSE:         return
func.func @common(%x: tensor<2x64xf16>, %q: !experts, %o: tensor<4xi32>) -> (tensor<2x8xf32>, tensor<2x8xf32>) {
  %0 = quant_llm.grouped_linear %x, %q offsets(%o : tensor<4xi32>) : (tensor<2x64xf16>, !experts) -> tensor<2x8xf32>
  %1 = quant_llm.grouped_linear %x, %q offsets(%o : tensor<4xi32>) : (tensor<2x64xf16>, !experts) -> tensor<2x8xf32>
  return %0, %1 : tensor<2x8xf32>, tensor<2x8xf32>
}
