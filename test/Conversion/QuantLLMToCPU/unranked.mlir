// RUN: quant-opt %s --verify-diagnostics --quant-llm-to-cpu

// What is known of a tensor ends where its rank is not.

func.func @unranked(%a: tensor<4xf32>, %b: tensor<4x4xf32>) -> tensor<2x2xf32> {
  // expected-error @+1 {{expected tensors and buffers of known rank}}
  %0 = tensor.cast %a : tensor<4xf32> to tensor<*xf32>
  %1 = tensor.cast %0 : tensor<*xf32> to tensor<?x?xf32>
  %two = arith.constant 2 : index
  %2 = tensor.insert_slice %1 into %b[0, 0] [%two, %two] [1, 1] : tensor<?x?xf32> into tensor<4x4xf32>
  %3 = tensor.extract_slice %1[0, 0] [2, 2] [1, 1] : tensor<?x?xf32> to tensor<2x2xf32>
  return %3 : tensor<2x2xf32>
}
