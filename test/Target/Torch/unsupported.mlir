// What has no translation is refused by name, at its place.
// RUN: quant-translate --mlir-to-torch --split-input-file --verify-diagnostics %s

#scheme = #quant_llm.scheme<int4, block = [1, 8], scale = f16>

func.func @other_op(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @below {{'tensor.generate' op cannot be translated to PyTorch}}
  %0 = tensor.generate {
  ^bb0(%i: index):
    %c = arith.constant 0.0 : f32
    tensor.yield %c : f32
  } : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func private @callee(tensor<4xf32>) -> tensor<4xf32>
func.func @caller(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @below {{'func.call' op cannot be translated to PyTorch}}
  %0 = func.call @callee(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @unsigned(%x: tensor<4xi32>) -> tensor<4xi1> {
  // expected-error @below {{'arith.cmpi' op cannot be translated to PyTorch: expected signed integers, or indices}}
  %0 = arith.cmpi ult, %x, %x : tensor<4xi32>
  return %0 : tensor<4xi1>
}

// -----

func.func @body(%x: tensor<4xi32>) -> tensor<4xi32> {
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%x : tensor<4xi32>) outs(%x : tensor<4xi32>) {
  ^bb0(%a: i32, %out: i32):
    // expected-error @below {{'arith.shrui' op cannot be translated to PyTorch}}
    %1 = arith.shrui %a, %a : i32
    linalg.yield %1 : i32
  } -> tensor<4xi32>
  return %0 : tensor<4xi32>
}

// -----

func.func @window(%x: tensor<8xf32>, %w: tensor<3xf32>, %y: tensor<6xf32>) -> tensor<6xf32> {
  // expected-error @below {{'linalg.conv_1d' op cannot be translated to PyTorch: expected indexing maps that select loops but operand 0 has affine_map<(d0, d1) -> (d0 + d1)>}}
  %0 = linalg.conv_1d ins(%x, %w : tensor<8xf32>, tensor<3xf32>) outs(%y : tensor<6xf32>) -> tensor<6xf32>
  return %0 : tensor<6xf32>
}

// -----

func.func @diagonal(%x: tensor<4x4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @below {{'linalg.generic' op cannot be translated to PyTorch: operand 0 uses a loop twice}}
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i, i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%x : tensor<4x4xf32>) outs(%y : tensor<4xf32>) {
  ^bb0(%a: f32, %out: f32):
    linalg.yield %a : f32
  } -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @reduction(%x: tensor<4xf32>, %y: tensor<f32>) -> tensor<f32> {
  // expected-error @below {{'linalg.generic' op cannot be translated to PyTorch: expected a reduction by +, *, minimum or maximum but the body has 'arith.subf'}}
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> ()>], iterator_types = ["reduction"]} ins(%x : tensor<4xf32>) outs(%y : tensor<f32>) {
  ^bb0(%a: f32, %out: f32):
    %1 = arith.subf %out, %a : f32
    linalg.yield %1 : f32
  } -> tensor<f32>
  return %0 : tensor<f32>
}

// -----

func.func @flow(%c: i1, %x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @below {{'scf.if' op cannot be translated to PyTorch}}
  %0 = scf.if %c -> tensor<4xf32> {
    scf.yield %x : tensor<4xf32>
  } else {
    scf.yield %x : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

// expected-error @below {{'func.func' op cannot be translated to PyTorch: expected a function of one block but got 2}}
func.func @branches(%x: tensor<4xf32>) -> tensor<4xf32> {
  cf.br ^bb1
^bb1:
  return %x : tensor<4xf32>
}

// -----

// expected-error @below {{'func.func' op cannot be translated to PyTorch: expected no weight of a quantized type among the arguments}}
func.func @weight(%w: !quant_llm.weight<4x8xf16, #quant_llm.scheme<int4, block = [1, 8], scale = f16>>) -> tensor<4x8xf16> {
  %0 = quant_llm.dequantize %w : !quant_llm.weight<4x8xf16, #quant_llm.scheme<int4, block = [1, 8], scale = f16>> -> tensor<4x8xf16>
  return %0 : tensor<4x8xf16>
}

// -----

func.func @search(%w: tensor<4x8xf16>) -> tensor<4x8xf16> {
  // expected-error @below {{'quant_llm.quantize' op cannot be translated to PyTorch: expected the rule absmax, absmax_full or minmax}}
  %0 = quant_llm.quantize %w : tensor<4x8xf16> -> !quant_llm.weight<4x8xf16, #quant_llm.scheme<int4, block = [1, 8], scale = f16, rule = mse>>
  %1 = quant_llm.dequantize %0 : !quant_llm.weight<4x8xf16, #quant_llm.scheme<int4, block = [1, 8], scale = f16, rule = mse>> -> tensor<4x8xf16>
  return %1 : tensor<4x8xf16>
}

// -----

// expected-error @below {{expected one function but got "a" and "b"; give the name of one}}
module {
  func.func @a() { return }
  func.func @b() { return }
}
