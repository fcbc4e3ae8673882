// RUN: quant-opt %s --quant-llm-inline-blocks | FileCheck %s

// CHECK-LABEL: func.func @nested
// CHECK-SAME:    (%[[H:.*]]: tensor<4xf32>)
// CHECK-NEXT:    %[[T0:.*]] = math.tanh %[[H]]
// CHECK-NEXT:    %[[T1:.*]] = math.tanh %[[T0]]
// CHECK-NEXT:    return %[[T1]], %[[H]]
func.func @nested(%h: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %0:2 = quant_llm.cross_block window = 2, overlap = 1 -> (tensor<4xf32>, tensor<4xf32>) {
    %1:2 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>, tensor<4xf32>) {
      %2 = math.tanh %h : tensor<4xf32>
      quant_llm.yield %2, %h : tensor<4xf32>, tensor<4xf32>
    }
    %3 = quant_llm.block 1 "model.layers.1" -> (tensor<4xf32>) {
      %2 = math.tanh %1#0 : tensor<4xf32>
      quant_llm.yield %2 : tensor<4xf32>
    }
    quant_llm.yield %3, %1#1 : tensor<4xf32>, tensor<4xf32>
  }
  return %0#0, %0#1 : tensor<4xf32>, tensor<4xf32>
}

// A block in a region of another operation.
// CHECK-LABEL: func.func @in_loop
// CHECK:         scf.for
// CHECK-NEXT:      math.tanh
// CHECK-NEXT:      scf.yield
func.func @in_loop(%h: tensor<4xf32>, %n: index, %s: index) -> tensor<4xf32> {
  %0 = scf.for %i = %n to %n step %s iter_args(%x = %h) -> tensor<4xf32> {
    %1 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
      %2 = math.tanh %x : tensor<4xf32>
      quant_llm.yield %2 : tensor<4xf32>
    }
    scf.yield %1 : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}
