// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-bufferize

func.func @gather(%a: tensor<?xf32>, %i: tensor<3x1xindex>) -> tensor<3xf32> {
  // expected-error @below {{expected no 'tensor.gather' on tensors, for which there is no code; write it as linalg.generic, which may read other tensors by tensor.extract, or with loops}}
  %0 = tensor.gather %a[%i] gather_dims([0]) : (tensor<?xf32>, tensor<3x1xindex>) -> tensor<3xf32>
  return %0 : tensor<3xf32>
}

// -----

func.func @hidden(%a: tensor<4xf32>, %n: index) -> tensor<4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = scf.for %i = %c0 to %n step %c1 iter_args(%x = %a) -> tensor<4xf32> {
    // expected-error @below {{expected no 'math.tanh' on tensors, for which there is no code}}
    %0 = math.tanh %x : tensor<4xf32>
    scf.yield %0 : tensor<4xf32>
  }
  return %r : tensor<4xf32>
}
