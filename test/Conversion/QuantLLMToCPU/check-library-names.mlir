// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-check-library-names
// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-to-cpu

// expected-error @+1 {{expected another name than that of the function 'cosf' of the C library, which code calls; rename it}}
func.func @cosf(%x: f32) -> f32 {
  %0 = math.sin %x : f32
  return %0 : f32
}

// -----

// expected-error @+1 {{expected another name than that of the function 'memcpy' of the C library, which code calls; rename it}}
func.func private @memcpy(%x: f32) -> f32 {
  return %x : f32
}

func.func @f(%x: f32) -> f32 {
  %0 = call @memcpy(%x) : (f32) -> f32
  return %0 : f32
}

// -----

// expected-error @+1 {{expected another name than that of the function 'exp' of the C library, which code calls; rename it}}
memref.global @exp : memref<4xf32> = dense<1.0>

// -----

func.func @remove(%x: f32) -> f32 {
  return %x : f32
}

func.func @cos_f(%x: f32) -> f32 {
  %0 = math.sin %x : f32
  return %0 : f32
}
