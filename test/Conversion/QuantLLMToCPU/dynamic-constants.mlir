// RUN: quant-opt %s --quant-llm-insert-checks --canonicalize | FileCheck %s
// RUN: quant-opt %s --quant-llm-to-cpu | FileCheck %s --check-prefix=LLVM
// RUN: not quant-opt %s --canonicalize --quant-llm-insert-checks 2>&1 | FileCheck %s --check-prefix=FOLDED

// Upstream folds these to constants of a dynamic shape, which no memory can be laid out for: they become
// ops on scalars before anything folds.

// FOLDED: dynamic-constants.mlir:[[#]]:{{.*}}: error: 'arith.constant' op expected a constant of a fixed shape

// CHECK-LABEL: func.func @clear
// CHECK: linalg.{{generic|fill}}
// CHECK-NOT: arith.xori %arg0
// CHECK: return
// LLVM: llvm.func @clear
func.func @clear(%a: tensor<?xi32>) -> tensor<?xi32> {
  %0 = arith.xori %a, %a : tensor<?xi32>
  return %0 : tensor<?xi32>
}

// CHECK-LABEL: func.func @same
// CHECK-NOT: arith.cmpi eq, %arg0
// CHECK: linalg.{{generic|fill}}
// CHECK: return
// LLVM: llvm.func @same
func.func @same(%a: tensor<2x?xi32>) -> tensor<2x?xi1> {
  %0 = arith.cmpi eq, %a, %a : tensor<2x?xi32>
  return %0 : tensor<2x?xi1>
}
