// RUN: quant-opt %s -split-input-file -verify-diagnostics

func.func @f(%x: tensor<?x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C1
  // expected-error @below {{expected an input and one or two weights}}
  %0 = quant_llm.grouped_linear %x offsets(%o : tensor<3xi32>) : (tensor<?x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C1
  // expected-error @below {{expected one or two weights but got 3}}
  %0 = quant_llm.grouped_linear %x, %w, %w, %w offsets(%o : tensor<3xi32>) : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C1
  // expected-error @below {{expected one or two weights but got 0}}
  %0 = "quant_llm.grouped_linear"(%x, %o) <{operandSegmentSizes = array<i32: 1, 0, 1, 0>}> ({}) : (tensor<?x64xf32>, tensor<3xi32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %v: tensor<4x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C2
  // expected-error @below {{expected weights of the same shape but got 'tensor<8x64xf32>' and 'tensor<4x64xf32>'}}
  %0 = quant_llm.grouped_linear %x, %w, %v offsets(%o : tensor<3xi32>) : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<4x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<4xi32>) {
  // QL-GROUPED-LINEAR-C3
  // expected-error @below {{expected the rows of a weight to be those of 3 experts, one less than the offsets, but got 'tensor<8x64xf32>'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<4xi32>) : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x2xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<1xi32>) {
  // QL-GROUPED-LINEAR-C3
  // expected-error @below {{operand #2 must be 1D tensor of i32 or i64 with at least two elements, a static number, and no encoding, but got 'tensor<1xi32>'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<1xi32>) : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<?xi32>) {
  // QL-GROUPED-LINEAR-C3
  // expected-error @below {{operand #2 must be 1D tensor of i32 or i64 with at least two elements}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<?xi32>) : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xindex>) {
  // expected-error @below {{operand #2 must be 1D tensor of i32 or i64 with at least two elements}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xindex>) : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<2x?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C4
  // expected-error @below {{expected an input of two dimensions but got 'tensor<2x?x64xf32>'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) : (tensor<2x?x64xf32>, tensor<8x64xf32>) -> tensor<2x?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x32xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C4
  // expected-error @below {{expected the last dimension of the input to be 64, the inputs of the weight, but got 'tensor<?x32xf32>'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) : (tensor<?x32xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C5
  // expected-error @below {{expected the result to have the shape 'tensor<?x4xf32>' but got 'tensor<?x8xf32>'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C6
  // expected-error @below {{expected an epilogue that combines the two weights}}
  %0 = quant_llm.grouped_linear %x, %w, %w offsets(%o : tensor<3xi32>) : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>, %b: tensor<8xf32>) {
  // QL-GROUPED-LINEAR-C6
  // expected-error @below {{expected an epilogue that uses its operands}}
  %0 = "quant_llm.grouped_linear"(%x, %w, %o, %b) <{operandSegmentSizes = array<i32: 1, 1, 1, 1>}> ({}) : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<3xi32>, tensor<8xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>, %b: tensor<4xf32>) {
  // QL-GROUPED-LINEAR-C7
  // expected-error @below {{expected operand 0 of the epilogue to have one value per row of the weight (8) or the shape of the result, 'tensor<?x4xf32>', but got 'tensor<4xf32>'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) epilogue(%b : tensor<4xf32>) {
  ^bb0(%acc: f32, %bias: f32):
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>, %b: tensor<8xf16>) {
  // QL-GROUPED-LINEAR-C8
  // expected-error @below {{expected the arguments of the epilogue to be ('f32', 'f16') but got ('f32', 'f32')}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) epilogue(%b : tensor<8xf16>) {
  ^bb0(%acc: f32, %bias: f32):
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C9
  // expected-error @below {{expected the epilogue to hold only pure scalar operations of arith and math but got 'tensor.splat'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) epilogue {
  ^bb0(%acc: f32):
    // expected-note @below {{the operation is here}}
    %1 = tensor.splat %acc : tensor<4xf32>
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C10
  // expected-error @below {{expected the epilogue to yield one value of type 'f16'}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) epilogue {
  ^bb0(%acc: f32):
    // expected-note @below {{it yields ('f32')}}
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf16>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#int8 = #quant_llm.scheme<int8, block = [1, 64], scale = f16>
func.func @f(%x: tensor<?x64xf32>, %w: !quant_llm.weight<8x64xf16, #int4>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C11
  // expected-error @below {{expected a quantized weight to have the scheme #quant_llm.scheme<int8,}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) {scheme = #int8} : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf16>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C12
  // expected-error @below {{has wrong kernels: expected the last kernel to be for all tokens from 1 on but it ends at 8}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) {kernels = [
      #quant_llm.kernel_config<multistage, tokens = [1, 8], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>]
  } : (tensor<?x64xf16>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf16>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // QL-GROUPED-LINEAR-C13
  // expected-error @below {{expected a symbol for each of 0 kernels but got 1}}
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<3xi32>) {kernel_symbols = [@k]} : (tensor<?x64xf16>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // expected-error @below {{expected 'offsets'}}
  %0 = quant_llm.grouped_linear %x, %w : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

// Wrong numbers of operands must not be read.
func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // expected-error @below {{operandSegmentSizes}}
  %0 = "quant_llm.grouped_linear"(%x, %w, %o) <{operandSegmentSizes = array<i32: 1, 1, 5, 0>}> ({}) : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<3xi32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @below {{expected one input and one tensor of offsets}}
  %0 = "quant_llm.grouped_linear"(%x, %w) <{operandSegmentSizes = array<i32: 1, 1, 0, 0>}> ({}) : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %o: tensor<3xi32>) {
  // expected-error @below {{expected one input and one tensor of offsets}}
  %0 = "quant_llm.grouped_linear"(%w, %w, %o) <{operandSegmentSizes = array<i32: 0, 2, 1, 0>}> ({}) : (tensor<8x64xf32>, tensor<8x64xf32>, tensor<3xi32>) -> tensor<8x4xf32>
  return
}
