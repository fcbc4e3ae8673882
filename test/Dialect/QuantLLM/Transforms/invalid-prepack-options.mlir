// Every wrong option or file is one message, and no file changes.
// RUN: rm -rf %t && %python %S/Inputs/make_quantized.py %t && ls %t > %t.before
// RUN: cp %t/good.safetensors %t.good
// RUN: not quant-opt %s -quant-llm-prepack='base-dir=%t' 2>&1 | FileCheck %s --check-prefix=OUTPUT
// OUTPUT: error: quant-llm-prepack: invalid option 'output': expected a safetensors file to write but got none
// RUN: not quant-opt %s -quant-llm-prepack='base-dir=%t output=%t/good.safetensors' 2>&1 | FileCheck %s --check-prefix=SELF
// SELF: error: quant-llm-prepack: '{{.*}}good.safetensors' is a file of an archive that the module reads; choose another file
// SELF: note: the archive is here
// RUN: not quant-opt %s -quant-llm-prepack='base-dir=%t output=%t/p.safetensors archive-name=f' 2>&1 | FileCheck %s --check-prefix=SYMBOL
// SYMBOL: error: quant-llm-prepack: invalid option 'archive-name': expected a new name but got 'f', which is the name of another symbol
// RUN: not quant-opt %s -quant-llm-prepack='base-dir=%t output=%t/p.safetensors archive-name=' 2>&1 | FileCheck %s --check-prefix=NONAME
// NONAME: error: quant-llm-prepack: invalid option 'archive-name': expected a symbol name but got none
// RUN: not quant-opt %s -quant-llm-prepack='base-dir=%t output=%t/nowhere/p.safetensors' 2>&1 | FileCheck %s --check-prefix=NODIR
// NODIR: error: quant-llm-prepack: cannot write '{{.*}}nowhere/p.safetensors'
// RUN: not quant-opt %s -quant-llm-prepack='base-dir=%t/nowhere output=%t/p.safetensors' 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: error: 'quant_llm.archive' op cannot be opened: {{.*}}nowhere/good.safetensors
// RUN: ls %t | diff %t.before -
// RUN: cmp %t/good.safetensors %t.good

// Scales far below the largest lose bits, which is a warning.
// RUN: sed 's/good/underflow/' %s > %t/underflow.mlir
// RUN: quant-opt %t/underflow.mlir -quant-llm-prepack='output=%t/p.safetensors' -o /dev/null 2>&1 | FileCheck %s --check-prefix=WARNING
// WARNING: warning: quant-llm-prepack: 1 scales and zeros are so far below the largest scale that they lose bits
// RUN: test -e %t/p.safetensors

#int4 = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
quant_llm.archive @a "good.safetensors"
quant_llm.parameter @w from @a : !quant_llm.weight<8x64xf16, #int4>
func.func @f(%x: tensor<1x64xf32>) -> tensor<1x8xf32> {
  %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #int4>
  %0 = quant_llm.linear %x, %w : (tensor<1x64xf32>, !quant_llm.weight<8x64xf16, #int4>) -> tensor<1x8xf32>
  return %0 : tensor<1x8xf32>
}
