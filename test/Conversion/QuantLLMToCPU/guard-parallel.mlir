// RUN: quant-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(func.func(quant-llm-guard-parallel))" | FileCheck %s

// CHECK-LABEL: func.func @kernel(
// CHECK-SAME: %[[X:.*]]: memref<?x64xf32>)
// CHECK-NOT: quant_llm.parallel_if
// CHECK-DAG: %[[FACTOR:.*]] = arith.constant 64
// CHECK-DAG: %[[M:.*]] = memref.dim %[[X]]
// CHECK: %[[WORK:.*]] = arith.muli %[[FACTOR]], %[[M]]
// CHECK: %[[LEAST:.*]] = arith.constant 4096
// CHECK: %[[LARGE:.*]] = arith.cmpi sge, %[[WORK]], %[[LEAST]]
// CHECK: omp.parallel if(%[[LARGE]])
func.func @kernel(%x: memref<?x64xf32>) attributes {quant_llm.parallel_if = array<i64: 4096, 64, 0, 0>} {
  omp.parallel {
    omp.terminator
  }
  return
}

// CHECK-LABEL: func.func @always
// CHECK-NEXT: omp.parallel {
func.func @always(%x: memref<?x64xf32>) {
  omp.parallel {
    omp.terminator
  }
  return
}

// -----

// expected-error @below {{expected argument 0 to have a dimension 2, the work of which 'quant_llm.parallel_if' counts}}
func.func @rank(%x: memref<?x64xf32>) attributes {quant_llm.parallel_if = array<i64: 1, 1, 0, 2>} {
  return
}

// -----

// expected-error @below {{expected argument 0 to have a dimension 0}}
func.func @scalar(%x: index) attributes {quant_llm.parallel_if = array<i64: 1, 1, 0, 0>} {
  return
}
