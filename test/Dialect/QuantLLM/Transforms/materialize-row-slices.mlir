// RUN: rm -rf %t && %python %S/Inputs/make_hessians.py %t && cp %s %t/m.mlir && cd %t

// What is done with rows behind a slice of them is done with their statistics.
// RUN: quant-opt m.mlir -quant-llm-materialize-transforms='output=parts.safetensors calibration=rows.safetensors any-model calibration-output=parts-c.safetensors' | FileCheck %s
// RUN: %python %S/Inputs/check_row_slices.py

// CHECK: quant_llm.parameter @w.untied from @transformed : tensor<5x96xf16>

quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<24x96xf16>
func.func @f(%x: tensor<?x96xf32>) -> tensor<?x5xf32> {
  %w = quant_llm.get_parameter @w : tensor<24x96xf16>
  %all = arith.constant dense<[23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]> : tensor<24xi16>
  %some = arith.constant dense<[7, 0, 6, 1, 5, 2, 4, 3]> : tensor<8xi16>
  %few = arith.constant dense<[2, 0, 1, 4, 3]> : tensor<5xi16>
  %0 = quant_llm.permute_channels %w by %all dims = [0] : tensor<24x96xf16>, tensor<24xi16>
  %1 = tensor.extract_slice %0[10, 0] [8, 96] [1, 1] : tensor<24x96xf16> to tensor<8x96xf16>
  %2 = quant_llm.permute_channels %1 by %some dims = [0] : tensor<8x96xf16>, tensor<8xi16>
  %3 = tensor.extract_slice %2[2, 0] [5, 96] [1, 1] : tensor<8x96xf16> to tensor<5x96xf16>
  %4 = quant_llm.permute_channels %3 by %few dims = [0] : tensor<5x96xf16>, tensor<5xi16>
  %5 = quant_llm.linear %x, %4 : (tensor<?x96xf32>, tensor<5x96xf16>) -> tensor<?x5xf32>
  return %5 : tensor<?x5xf32>
}
