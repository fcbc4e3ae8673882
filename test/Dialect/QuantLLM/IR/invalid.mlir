// RUN: quant-opt %s -split-input-file -verify-diagnostics

// QL-ARCHIVE-C1
// expected-error @below {{expected the path of a file but got an empty string}}
quant_llm.archive @model ""

// -----

// QL-ARCHIVE-C1
// expected-error @below {{expected a path without zero bytes}}
quant_llm.archive @model "model\00.safetensors"

// -----

// QL-PARAMETER-C1
// expected-error @below {{expected @model to name an archive but found no symbol}}
quant_llm.parameter @w from @model : tensor<4xf32>

// -----

// QL-PARAMETER-C1
// expected-note @below {{it names this operation}}
func.func private @model()
// expected-error @below {{expected @model to name an archive}}
quant_llm.parameter @w from @model : tensor<4xf32>

// -----

// QL-PARAMETER-C2
quant_llm.archive @model "model.safetensors"
// expected-error @below {{expected the type to be a weight or a ranked tensor with static shape and no encoding but got 'tensor<?x4xf32>'}}
quant_llm.parameter @w from @model : tensor<?x4xf32>

// -----

// QL-PARAMETER-C2
quant_llm.archive @model "model.safetensors"
// expected-error @below {{expected the type to be a weight or a ranked tensor with static shape and no encoding but got 'tensor<*xf32>'}}
quant_llm.parameter @w from @model : tensor<*xf32>

// -----

// QL-PARAMETER-C2
quant_llm.archive @model "model.safetensors"
// expected-error @below {{expected the type to be a weight or a ranked tensor with static shape and no encoding but got 'tensor<4xf32, "x">'}}
quant_llm.parameter @w from @model : tensor<4xf32, "x">

// -----

// QL-PARAMETER-C2
quant_llm.archive @model "model.safetensors"
// expected-error @below {{expected the type to be a weight or a ranked tensor with static shape and no encoding but got 'memref<4xf32>'}}
quant_llm.parameter @w from @model : memref<4xf32>

// -----

// QL-PARAMETER-C2
quant_llm.archive @model "model.safetensors"
// expected-error @below {{expected an element type that archives hold (f16, bf16, f32, f64, f8E4M3FN, f8E5M2, f8E8M0FNU, i8, i16, i32, i64) but got 'i4'}}
quant_llm.parameter @w from @model : tensor<4xi4>

// -----

// QL-PARAMETER-C2
quant_llm.archive @model "model.safetensors"
// expected-error @below {{but got 'complex<f32>'}}
quant_llm.parameter @w from @model : tensor<4xcomplex<f32>>

// -----

// QL-PARAMETER-C3
quant_llm.archive @model "model.safetensors"
// expected-error @below {{expected less than 2^63 bytes but got the type 'tensor<4294967296x4294967296xf32>'}}
quant_llm.parameter @w from @model : tensor<4294967296x4294967296xf32>

// -----

// QL-PARAMETER-C4
quant_llm.archive @model "model.safetensors"
// expected-error @below {{expected a key but got an empty string}}
quant_llm.parameter @w from @model key "" : tensor<4xf32>

// -----

// QL-GET-PARAMETER-C1
func.func @f() {
  // expected-error @below {{expected @w to name a parameter but found no symbol}}
  %0 = quant_llm.get_parameter @w : tensor<4xf32>
  return
}

// -----

// QL-GET-PARAMETER-C1
// expected-note @below {{it names this operation}}
quant_llm.archive @w "model.safetensors"
func.func @f() {
  // expected-error @below {{expected @w to name a parameter}}
  %0 = quant_llm.get_parameter @w : tensor<4xf32>
  return
}

// -----

// QL-GET-PARAMETER-C2
quant_llm.archive @model "model.safetensors"
// expected-note @below {{the parameter is declared here}}
quant_llm.parameter @w from @model : tensor<4xf16>
func.func @f() {
  // expected-error @below {{expected the type of the parameter, 'tensor<4xf16>', but got 'tensor<4xf32>'}}
  %0 = quant_llm.get_parameter @w : tensor<4xf32>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%w: tensor<8x32xf16>) {
  // QL-QUANTIZE-C1
  // expected-error @below {{expected operand and result of equal shape but got 'tensor<8x32xf16>' and 'tensor<8x64xf16>'}}
  %0 = quant_llm.quantize %w : tensor<8x32xf16> -> !quant_llm.weight<8x64xf16, #int4>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%w: tensor<8x64xf32>) {
  // QL-QUANTIZE-C2
  // expected-error @below {{expected the operand's element type to be the expressed type 'f16' but got 'f32'}}
  %0 = quant_llm.quantize %w : tensor<8x64xf32> -> !quant_llm.weight<8x64xf16, #int4>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%w: tensor<8x?xf16>) {
  // expected-error @below {{operand #0 must be 2D tensor of f16, bf16 or f32 with static positive dimensions and no encoding, but got 'tensor<8x?xf16>'}}
  %0 = quant_llm.quantize %w : tensor<8x?xf16> -> !quant_llm.weight<8x64xf16, #int4>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%w: !quant_llm.weight<8x64xf16, #int4>) {
  // QL-DEQUANTIZE-C1
  // expected-error @+2 {{failed to infer returned types}}
  // expected-error @below {{'quant_llm.dequantize' op inferred type(s) 'tensor<8x64xf16>' are incompatible with return type(s) of operation 'tensor<8x64xf32>'}}
  %0 = quant_llm.dequantize %w : !quant_llm.weight<8x64xf16, #int4> -> tensor<8x64xf32>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%c: tensor<8x32xi8>) {
  // QL-ASSEMBLE-C1
  // expected-error @below {{expected 2 components but got 1}}
  %0 = quant_llm.assemble %c : (tensor<8x32xi8>) -> !quant_llm.weight<8x64xf16, #int4>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%c: tensor<8x64xi8>, %s: tensor<8x1xf16>) {
  // QL-ASSEMBLE-C2
  // expected-error @below {{expected the component 'codes' to be 'tensor<8x32xi8>' but got 'tensor<8x64xi8>'}}
  %0 = quant_llm.assemble %c, %s : (tensor<8x64xi8>, tensor<8x1xf16>) -> !quant_llm.weight<8x64xf16, #int4>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
func.func @f(%w: !quant_llm.weight<8x64xf16, #int4>) {
  // QL-COMPONENTS-C1
  // expected-error @+2 {{failed to infer returned types}}
  // expected-error @below {{are incompatible with return type(s) of operation 'tensor<8x32xi8>', 'tensor<8x1xf32>'}}
  %0:2 = quant_llm.components %w : (!quant_llm.weight<8x64xf16, #int4>) -> (tensor<8x32xi8>, tensor<8x1xf32>)
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // QL-LINEAR-C1
  // expected-error @below {{expected an input and one or two weights}}
  %0 = quant_llm.linear %x : (tensor<?x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C1
  // expected-error @below {{expected one or two weights but got 3}}
  %0 = quant_llm.linear %x, %w, %w, %w : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>) {
  // QL-LINEAR-C1
  // expected-error @below {{expected one or two weights but got 0}}
  %0 = "quant_llm.linear"(%x) <{operandSegmentSizes = array<i32: 1, 0, 0>}> ({}) : (tensor<?x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<8x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @below {{expected one input}}
  %0 = "quant_llm.linear"(%x, %w) <{operandSegmentSizes = array<i32: 0, 2, 0>}> ({}) : (tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<8x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %v: tensor<9x64xf32>) {
  // QL-LINEAR-C2
  // expected-error @below {{expected weights of the same shape but got 'tensor<8x64xf32>' and 'tensor<9x64xf32>'}}
  %0 = quant_llm.linear %x, %w, %v : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<9x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x32xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C3
  // expected-error @below {{expected the last dimension of the input to be 64, the inputs of the weight, but got 'tensor<?x32xf32>'}}
  %0 = quant_llm.linear %x, %w : (tensor<?x32xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x?xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C3
  // expected-error @below {{expected the last dimension of the input to be 64, the inputs of the weight, but got 'tensor<?x?xf32>'}}
  %0 = quant_llm.linear %x, %w : (tensor<?x?xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<f32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C3
  // expected-error @below {{expected the last dimension of the input to be 64, the inputs of the weight, but got 'tensor<f32>'}}
  %0 = quant_llm.linear %x, %w : (tensor<f32>, tensor<8x64xf32>) -> tensor<f32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C4
  // expected-error @below {{expected the result to have the shape 'tensor<?x8xf32>' but got 'tensor<2x8xf32>'}}
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<2x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C5
  // expected-error @below {{expected an epilogue that combines the two weights}}
  %0 = quant_llm.linear %x, %w, %w : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %b: tensor<8xf32>) {
  // QL-LINEAR-C5
  // expected-error @below {{expected an epilogue that uses its operands}}
  %0 = "quant_llm.linear"(%x, %w, %b) <{operandSegmentSizes = array<i32: 1, 1, 1>}> ({}) : (tensor<?x64xf32>, tensor<8x64xf32>, tensor<8xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %b: tensor<64xf32>) {
  // QL-LINEAR-C6
  // expected-error @below {{expected operand 0 of the epilogue to have one value per output (8) or the shape of the result, 'tensor<?x8xf32>', but got 'tensor<64xf32>'}}
  %0 = quant_llm.linear %x, %w epilogue(%b : tensor<64xf32>) {
  ^bb0(%acc: f32, %bias: f32):
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %b: tensor<8xf16>) {
  // QL-LINEAR-C7
  // expected-error @below {{expected the arguments of the epilogue to be ('f32', 'f16') but got ('f32', 'f32')}}
  %0 = quant_llm.linear %x, %w epilogue(%b : tensor<8xf16>) {
  ^bb0(%acc: f32, %bias: f32):
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C8
  // expected-error @below {{expected the epilogue to hold only pure scalar operations of arith and math but got 'tensor.splat'}}
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-note @below {{the operation is here}}
    %1 = tensor.splat %acc : tensor<4xf32>
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // A division by zero is undefined, so it is not pure.
  // expected-error @below {{expected the epilogue to hold only pure scalar operations of arith and math but got 'arith.divsi'}}
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    %1 = arith.fptosi %acc : f32 to i32
    // expected-note @below {{the operation is here}}
    %2 = arith.divsi %1, %1 : i32
    %3 = arith.sitofp %2 : i32 to f32
    quant_llm.yield %3 : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @below {{expected the epilogue to hold only pure scalar operations of arith and math but got 'arith.constant'}}
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-note @below {{the operation is here}}
    %1 = arith.constant dense<1.0> : vector<4xf32>
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>, %s: f32) {
  // expected-note @below {{required by region isolation constraints}}
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-error @below {{using value defined outside the region}}
    %1 = arith.mulf %acc, %s : f32
    quant_llm.yield %1 : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C9
  // expected-error @below {{expected the epilogue to yield one value of type 'f16'}}
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-note @below {{it yields ('f32')}}
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf16>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C9
  // expected-error @below {{expected the epilogue to end with quant_llm.yield}}
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    %1 = arith.negf %acc : f32
    llvm.unreachable
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @below {{region #0 ('epilogue') failed to verify constraint: region with at most 1 blocks}}
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%acc: f32):
    cf.br ^bb1
  ^bb1:
    quant_llm.yield %acc : f32
  } : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
#int8 = #quant_llm.scheme<int8, block = [1, 64], scale = f16>
func.func @f(%x: tensor<?x64xf32>, %w: !quant_llm.weight<8x64xf16, #int4>) {
  // QL-LINEAR-C10
  // expected-error @below {{expected a quantized weight to have the scheme #quant_llm.scheme<int8, block = [1, 64], scale = f16, rule = absmax, rounding = half_even> of the op but got #quant_llm.scheme<int4,}}
  %0 = quant_llm.linear %x, %w {scheme = #int8} : (tensor<?x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // QL-LINEAR-C10
  // expected-error @below {{expected a rank of low_rank of at most 8 for a weight of 8 x 64 but got 9}}
  %0 = quant_llm.linear %x, %w {scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 9xf16>} : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf64>, %w: tensor<8x64xf32>) {
  // expected-error @below {{operand #0 must be ranked tensor of f16, bf16 or f32 without encoding or a tensor of tokens stored under a scheme, but got 'tensor<?x64xf64>'}}
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf64>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x0xf32>, %w: tensor<8x0xf32>) {
  // expected-error @below {{operand #1 must be}}
  %0 = quant_llm.linear %x, %w : (tensor<?x0xf32>, tensor<8x0xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @below {{expected 2 operand types and one result type but got 1 and 1}}
  %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x64xf32>, %w: tensor<8x64xf32>) {
  // expected-error @below {{attribute 'scheme' failed to satisfy constraint: what the stored bits of a weight mean}}
  %0 = quant_llm.linear %x, %w {scheme = 4 : i32} : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return
}

// -----

// QL-BLOCK-C1
// expected-error @below {{attribute 'index' failed to satisfy constraint: 64-bit signless integer attribute whose value is non-negative}}
quant_llm.block -1 "model.layers.0" {
  quant_llm.yield
}

// -----

func.func @f(%x: tensor<4xf32>) {
  // QL-BLOCK-C2
  // expected-error @below {{along control flow edge from}}
  %0 = quant_llm.block 0 "model.layers.0" -> (tensor<5xf32>) {
    // expected-note @below {{region branch point}}
    quant_llm.yield %x : tensor<4xf32>
  }
  return
}

// -----

func.func @f(%x: tensor<4xf32>) {
  // QL-BLOCK-C2
  // expected-error @below {{along control flow edge from}}
  %0 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
    // expected-note @below {{region branch point}}
    quant_llm.yield
  }
  return
}

// -----

// QL-BLOCK-C3
// expected-error @below {{expected the region to end with quant_llm.yield}}
quant_llm.block 0 "model.layers.0" {
  %0 = arith.constant 1 : i32
  llvm.unreachable
}

// -----

// QL-CROSS-BLOCK-C6
// expected-error @below {{expected the region to end with quant_llm.yield}}
quant_llm.cross_block window = 2, overlap = 1 {
  quant_llm.block 0 "model.layers.0" {
    quant_llm.yield
  }
  llvm.unreachable
}

// -----

// QL-BLOCK-C3
// expected-error @below {{expects a non-empty block}}
quant_llm.block 0 "model.layers.0" {
}

// -----

// QL-CROSS-BLOCK-C1
// expected-error @below {{attribute 'window' failed to satisfy constraint: 64-bit signless integer attribute whose value is positive}}
quant_llm.cross_block window = 0, overlap = 0 {
  quant_llm.block 0 "model.layers.0" {
    quant_llm.yield
  }
  quant_llm.yield
}

// -----

// QL-CROSS-BLOCK-C2
// expected-error @below {{attribute 'overlap' failed to satisfy constraint: 64-bit signless integer attribute whose value is non-negative}}
quant_llm.cross_block window = 1, overlap = -1 {
  quant_llm.block 0 "model.layers.0" {
    quant_llm.yield
  }
  quant_llm.yield
}

// -----

// QL-CROSS-BLOCK-C2
// expected-error @below {{expected the overlap to be less than the window of 2 blocks but got 2}}
quant_llm.cross_block window = 2, overlap = 2 {
  quant_llm.block 0 "model.layers.0" {
    quant_llm.yield
  }
  quant_llm.yield
}

// -----

// QL-CROSS-BLOCK-C3
// expected-error @below {{expected only quant_llm.block operations but got 'arith.constant'}}
quant_llm.cross_block window = 2, overlap = 1 {
  // expected-note @below {{the operation is here}}
  %0 = arith.constant 1 : i32
  quant_llm.yield
}

// -----

// QL-CROSS-BLOCK-C3
// expected-error @below {{expected at least one quant_llm.block}}
quant_llm.cross_block window = 2, overlap = 1 {
  quant_llm.yield
}

// -----

// QL-CROSS-BLOCK-C4
// expected-error @below {{expected consecutive indices of the blocks but got 2 after 0}}
quant_llm.cross_block window = 2, overlap = 1 {
  quant_llm.block 0 "model.layers.0" {
    quant_llm.yield
  }
  // expected-note @below {{the block is here}}
  quant_llm.block 2 "model.layers.2" {
    quant_llm.yield
  }
  quant_llm.yield
}

// -----

func.func @f(%x: tensor<4xf32>) {
  // QL-CROSS-BLOCK-C5
  // expected-error @below {{along control flow edge from}}
  %0 = quant_llm.cross_block window = 1, overlap = 0 -> (tensor<5xf32>) {
    quant_llm.block 0 "model.layers.0" {
      quant_llm.yield
    }
    // expected-note @below {{region branch point}}
    quant_llm.yield %x : tensor<4xf32>
  }
  return
}

// -----

func.func @f(%x: f32) {
  // expected-error @below {{expects parent op to be one of 'quant_llm.linear, quant_llm.grouped_linear, quant_llm.block, quant_llm.cross_block'}}
  quant_llm.yield %x : f32
}

// -----

// QL-ATTR-C1
// expected-error @below {{expected the attribute 'quant_llm.kernel' on functions only}}
module attributes {quant_llm.kernel} {}

// -----

// QL-ATTR-C1
// expected-error @below {{expected the attribute 'quant_llm.checks' on modules only}}
func.func private @f() attributes {quant_llm.checks = ["a"]}

// -----

// QL-ATTR-C2
// expected-error @below {{expected the attribute 'quant_llm.kernel' to be a unit but got 1 : i64}}
func.func private @f() attributes {quant_llm.kernel = 1}

// -----

// QL-ATTR-C2
// expected-error @below {{expected a function with 'quant_llm.kernel' to work on buffers but it has an argument of type 'tensor<4xf32>'}}
func.func private @f(tensor<4xf32>) attributes {quant_llm.kernel}

// -----

// QL-ATTR-C3
// expected-error @below {{expected the attribute 'quant_llm.parallel_if' to be an array of i64 but got "x"}}
func.func private @f() attributes {quant_llm.parallel_if = "x"}

// -----

// QL-ATTR-C3
// expected-error @below {{expected the least work, a factor and pairs of argument and dimension in 'quant_llm.parallel_if' but got 3 numbers}}
func.func private @f(memref<4xf32>) attributes {quant_llm.parallel_if = array<i64: 1, 1, 0>}

// -----

// QL-ATTR-C3
// expected-error @below {{expected numbers of at least 0 in 'quant_llm.parallel_if' but got -1}}
func.func private @f(memref<4xf32>) attributes {quant_llm.parallel_if = array<i64: 1, 1, -1, 0>}

// -----

// QL-ATTR-C3
// expected-error @below {{expected numbers of arguments below 1 in 'quant_llm.parallel_if' but got 1}}
func.func private @f(memref<4xf32>) attributes {quant_llm.parallel_if = array<i64: 1, 1, 1, 0>}

// -----

// QL-ATTR-C3
// expected-error @below {{expected numbers of arguments below 1 in 'quant_llm.result_aliases' but got 9223372036854775807}}
func.func private @f(memref<4xf32>) attributes {quant_llm.result_aliases = array<i64: 9223372036854775807>}

// -----

// QL-ATTR-C3
// expected-error @below {{expected numbers of at least -1 in 'quant_llm.result_aliases' but got -2}}
func.func private @f(memref<4xf32>) attributes {quant_llm.result_aliases = array<i64: -2>}

// -----

// QL-ATTR-C4
// expected-error @below {{expected the attribute 'quant_llm.checks' to be an array of strings but got [1]}}
module attributes {quant_llm.checks = [1]} {}

// -----

// QL-ATTR-C4
// expected-error @below {{expected the attribute 'quant_llm.profiled_kernels' to be an array of strings but got "x"}}
module attributes {quant_llm.profiled_kernels = "x"} {}

// -----

// QL-ATTR-C4
// expected-error @below {{expected the attribute 'quant_llm.parameters' to be an array of dictionaries with the strings symbol, archive and key and with the type of a static memref}}
module attributes {quant_llm.parameters = [{symbol = "s", archive = "a", key = "k", type = tensor<4xf32>}]} {}

// -----

#low_rank = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 4xf16>
func.func @f(%w: tensor<8x64xf16>) {
  // QL-QUANTIZE-C3
  // expected-error @below {{expected a scheme without low_rank; quantize to #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even> or let quant-llm-quantize do it with the option low-rank}}
  %0 = quant_llm.quantize %w : tensor<8x64xf16> -> !quant_llm.weight<8x64xf16, #low_rank>
  return
}

// -----

#low_rank = #quant_llm.scheme<int4, block = [1, 64], scale = f16, low_rank = 4xf16>
func.func @f(%codes: tensor<8x32xi8>, %scales: tensor<8x1xf16>, %a: tensor<4x8xf16>, %b: tensor<4x64xf16>) {
  // QL-ASSEMBLE-C2
  // expected-error @below {{expected the component 'low_rank.a' to be 'tensor<8x4xf16>' but got 'tensor<4x8xf16>'}}
  %0 = quant_llm.assemble %codes, %scales, %a, %b : (tensor<8x32xi8>, tensor<8x1xf16>, tensor<4x8xf16>, tensor<4x64xf16>) -> !quant_llm.weight<8x64xf16, #low_rank>
  return
}
