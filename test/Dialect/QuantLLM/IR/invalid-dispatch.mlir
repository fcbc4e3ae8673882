// RUN: quant-opt %s -split-input-file -verify-diagnostics

// QL-DISPATCH-C1
func.func @no_kernel(%x: memref<4xf32>) {
  // expected-error @+1 {{expected @nothing to name a function, the kernel}}
  quant_llm.dispatch @nothing outs(%x : memref<4xf32>)
  return
}

// -----

module @other {}

// QL-DISPATCH-C1
func.func @not_a_function(%x: memref<4xf32>) {
  // expected-error @+1 {{expected @other to name a function, the kernel}}
  quant_llm.dispatch @other outs(%x : memref<4xf32>)
  return
}

// -----

func.func private @kernel(memref<4xf32>) -> f32

// QL-DISPATCH-C1
func.func @results(%x: memref<4xf32>) {
  // expected-error @+1 {{expected kernel @kernel to return nothing but it returns 1 values}}
  quant_llm.dispatch @kernel outs(%x : memref<4xf32>)
  return
}

// -----

func.func private @kernel(memref<4xf32>, memref<4xf32>)

// QL-DISPATCH-C2
func.func @operands(%x: memref<4xf32>) {
  // expected-error @+1 {{expected 2 operands, as many as kernel @kernel has arguments, but got 1}}
  quant_llm.dispatch @kernel outs(%x : memref<4xf32>)
  return
}

// -----

func.func private @kernel(f32, memref<4xf32>)

// QL-DISPATCH-C3
func.func @scalar(%a: f64, %x: memref<4xf32>) {
  // expected-error @+1 {{expected operand 0 to fit the argument of kernel @kernel of type 'f32' but got 'f64'}}
  quant_llm.dispatch @kernel ins(%a : f64) outs(%x : memref<4xf32>)
  return
}

// -----

func.func private @kernel(memref<?x4xf32>)

// QL-DISPATCH-C3
func.func @rank(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{expected operand 0 to fit the argument of kernel @kernel of type 'memref<?x4xf32>' but got 'tensor<4xf32>'}}
  %0 = quant_llm.dispatch @kernel outs(%x : tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func private @kernel(memref<?x4xf32>)

// QL-DISPATCH-C3
func.func @extent(%x: tensor<2x5xf32>) -> tensor<2x5xf32> {
  // expected-error @+1 {{expected operand 0 to fit the argument of kernel @kernel of type 'memref<?x4xf32>' but got 'tensor<2x5xf32>'}}
  %0 = quant_llm.dispatch @kernel outs(%x : tensor<2x5xf32>) -> tensor<2x5xf32>
  return %0 : tensor<2x5xf32>
}

// -----

func.func private @kernel(memref<4xf16>)

// QL-DISPATCH-C3
func.func @element(%x: memref<4xf32>) {
  // expected-error @+1 {{expected operand 0 to fit the argument of kernel @kernel of type 'memref<4xf16>' but got 'memref<4xf32>'}}
  quant_llm.dispatch @kernel outs(%x : memref<4xf32>)
  return
}

// -----

func.func private @kernel(memref<4xf32>, memref<4xf32>)

// QL-DISPATCH-C3
func.func @unranked(%x: tensor<*xf32>, %y: memref<4xf32>) {
  // expected-error @+1 {{expected operand 0 to fit the argument of kernel @kernel of type 'memref<4xf32>' but got 'tensor<*xf32>'}}
  quant_llm.dispatch @kernel ins(%x : tensor<*xf32>) outs(%y : memref<4xf32>)
  return
}

// -----

func.func private @kernel(memref<4xf32>, memref<4xf32>)

// QL-DISPATCH-C4
func.func @mixed(%x: tensor<4xf32>, %y: memref<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{expected outputs that are all tensors or all memrefs}}
  %0 = quant_llm.dispatch @kernel outs(%x, %y : tensor<4xf32>, memref<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func private @kernel(memref<4xf32>)

// QL-DISPATCH-C4
func.func @no_result(%x: tensor<4xf32>) {
  // expected-error @+1 {{expected 1 results, one for each tensor in the outputs, but got 0}}
  quant_llm.dispatch @kernel outs(%x : tensor<4xf32>)
  return
}

// -----

func.func private @kernel(memref<?xf32>)

// QL-DISPATCH-C4
func.func @result_type(%x: tensor<4xf32>) -> tensor<?xf32> {
  // expected-error @+1 {{expected result 0 to have the type of its output, 'tensor<4xf32>', but got 'tensor<?xf32>'}}
  %0 = quant_llm.dispatch @kernel outs(%x : tensor<4xf32>) -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
