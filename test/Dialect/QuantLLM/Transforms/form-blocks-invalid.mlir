// RUN: quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks))' -split-input-file -verify-diagnostics
// RUN: not quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks{layer-pattern=layers.}))' -split-input-file 2>&1 | FileCheck %s --check-prefix=PATTERN
// RUN: not quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks{window=-1}))' -split-input-file 2>&1 | FileCheck %s --check-prefix=WINDOW
// RUN: not quant-opt %s --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks{window=2 overlap=2}))' -split-input-file 2>&1 | FileCheck %s --check-prefix=OVERLAP

// PATTERN: {{^}}quant-opt: error: quant-llm-form-blocks: invalid option 'layer-pattern': expected '{}' once, in the place of the layer's number, but got 'layers.'
// WINDOW: {{^}}quant-opt: error: quant-llm-form-blocks: invalid option 'window': expected 0 (no cross_block) or a positive number but got -1
// OVERLAP: {{^}}quant-opt: error: quant-llm-form-blocks: invalid option 'overlap': expected at least 0 and less than the window of 2 blocks but got 2

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @model.layers.0.w from @file : tensor<4xf32>
quant_llm.parameter @model.layers.1.w from @file : tensor<4xf32>

func.func @wrong_order(%x: tensor<4xf32>) -> tensor<4xf32> {
  %w1 = quant_llm.get_parameter @model.layers.1.w : tensor<4xf32>
  %y1 = arith.mulf %x, %w1 : tensor<4xf32>
  // expected-note @below {{the parameter comes from here}}
  %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
  // expected-error @below {{uses a parameter of layer 0 but depends on layer 1}}
  %y0 = arith.mulf %y1, %w0 : tensor<4xf32>
  return %y0 : tensor<4xf32>
}

// -----

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @model.layers.0.w from @file : tensor<4xf32>
quant_llm.parameter @model.layers.2.w from @file : tensor<4xf32>

func.func @gap(%x: tensor<4xf32>) -> tensor<4xf32> {
  %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
  %y0 = arith.mulf %x, %w0 : tensor<4xf32>
  // expected-error @below {{expected consecutive layers but found no parameter of layer 1}}
  %w2 = quant_llm.get_parameter @model.layers.2.w : tensor<4xf32>
  %y2 = arith.mulf %y0, %w2 : tensor<4xf32>
  return %y2 : tensor<4xf32>
}

// -----

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @model.layers.0.w from @file : tensor<4xf32>

func.func @effects(%x: tensor<4xf32>, %m: memref<f32>, %v: f32) -> tensor<4xf32> {
  %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
  %y0 = arith.mulf %x, %w0 : tensor<4xf32>
  // expected-error @below {{has effects on memory}}
  memref.store %v, %m[] : memref<f32>
  return %y0 : tensor<4xf32>
}

// -----

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @model.layers.0.w from @file : tensor<4xf32>

func.func @formed() -> tensor<4xf32> {
  // expected-error @below {{expected a function without blocks; run quant-llm-inline-blocks before}}
  %0 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
    %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
    quant_llm.yield %w0 : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @model.layers.0.w from @file : tensor<4xf32>

// expected-error @below {{expected a function of one block but got 2}}
func.func @branches(%x: tensor<4xf32>) -> tensor<4xf32> {
  %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
  cf.br ^bb1
^bb1:
  return %w0 : tensor<4xf32>
}

// -----

quant_llm.archive @file "model.safetensors"
quant_llm.parameter @model.layers.0.w from @file : tensor<4xf32>
quant_llm.parameter @model.layers.1.w from @file : tensor<4xf32>

func.func @nested(%c: i1) -> tensor<4xf32> {
  %0 = scf.if %c -> tensor<4xf32> {
    %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
    scf.yield %w0 : tensor<4xf32>
  } else {
    // expected-error @below {{expected one operation to use parameters of one layer but got layers 0 and 1}}
    %w1 = quant_llm.get_parameter @model.layers.1.w : tensor<4xf32>
    scf.yield %w1 : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}
