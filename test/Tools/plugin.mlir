// The passes load into the distribution's own mlir-opt.
// RUN: mlir-opt %s --load-dialect-plugin=%lib_dir/libQuantLLMPlugin.so --load-pass-plugin=%lib_dir/libQuantLLMPlugin.so --pass-pipeline='builtin.module(quant-llm-inline-blocks)' | FileCheck %s

// RUN: not mlir-opt %s --load-dialect-plugin=%lib_dir/libQuantLLMPlugin.so --load-pass-plugin=%lib_dir/libQuantLLMPlugin.so --pass-pipeline='builtin.module(func.func(quant-llm-form-blocks{window=abc}))' 2>&1 | FileCheck %s --check-prefix=OPTION
// OPTION: quant-llm-form-blocks: invalid option 'window': expected an integer but got 'abc'

// CHECK-LABEL: func.func @f
// CHECK-NEXT:    math.tanh
// CHECK-NEXT:    return
func.func @f(%h: tensor<4xf32>) -> tensor<4xf32> {
  %0 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
    %1 = math.tanh %h : tensor<4xf32>
    quant_llm.yield %1 : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}
