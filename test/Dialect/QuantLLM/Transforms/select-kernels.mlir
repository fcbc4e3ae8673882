// RUN: rm -rf %t && split-file %s %t
// RUN: quant-opt %t/input.mlir --quant-llm-select-kernels=chip=sm_80 --remarks-filter=quant-llm-select-kernels 2> %t/remarks | FileCheck %s
// RUN: FileCheck %s --check-prefix=REMARK < %t/remarks
// RUN: quant-opt %t/input.mlir --quant-llm-select-kernels='chip=sm_80 tuning-file=%t/tuning.json' | FileCheck %s --check-prefix=TUNED
// RUN: quant-opt %t/input.mlir --quant-llm-select-kernels='chip=sm_86 tuning-file=%t/tuning.json' | FileCheck %s
// The choice is stable: running the pass again only verifies.
// RUN: quant-opt %t/input.mlir --quant-llm-select-kernels=chip=sm_80 -o %t/once.mlir
// RUN: quant-opt %t/once.mlir --quant-llm-select-kernels=chip=sm_80 | diff - %t/once.mlir

//--- input.mlir
#scheme = #quant_llm.scheme<int4, block = [1, 64], scale = f16>
!weight = !quant_llm.weight<4096x4096xf16, #scheme>

// A choice, with its reasons.
// CHECK-LABEL: func @chosen
// CHECK: kernels = [#quant_llm.kernel_config<multistage, tokens = [1, {{[0-9]+}}]
// CHECK-SAME: #quant_llm.kernel_config<multistage, tokens = [{{[0-9]+}}, *]
// REMARK: [Passed] kernel {{.*}}1 to {{[0-9]+}} tokens: multistage, {{.*}} tiles on 108 multiprocessors
// REMARK: [Passed] kernel {{.*}}tokens on: multistage
// The tuning file has another rule of quantization, which does not matter.
// TUNED-LABEL: func @chosen
// TUNED: kernels = [#quant_llm.kernel_config<multistage, tokens = [1, 3], row_tile = 32, {{.*}}>, #quant_llm.kernel_config<multistage, tokens = [4, *], row_tile = 64,
func.func @chosen(%x: tensor<?x4096xf16>, %w: !weight) -> tensor<?x4096xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x4096xf16>, !weight) -> tensor<?x4096xf16>
  return %y : tensor<?x4096xf16>
}

// Written by hand: it stays.
// CHECK-LABEL: func @by_hand
// CHECK: kernels = [#quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8,
// TUNED-LABEL: func @by_hand
// TUNED: kernels = [#quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8,
func.func @by_hand(%x: tensor<?x4096xf16>, %w: !weight) -> tensor<?x4096xf16> {
  %y = quant_llm.linear %x, %w {kernels = [#quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 8, stage_k = 128, stages = 2, warps_rows = 1, warps_k = 1, copy = async16>]}
    : (tensor<?x4096xf16>, !weight) -> tensor<?x4096xf16>
  return %y : tensor<?x4096xf16>
}

// Experts have entries of their own.
// TUNED-LABEL: func @experts
// TUNED: grouped_linear {{.*}}kernels = [#quant_llm.kernel_config<multistage, tokens = [1, *], row_tile = 16, token_tile = 64,
func.func @experts(%x: tensor<?x4096xf16>, %w: !weight, %o: tensor<9xi32>) -> tensor<?x512xf16> {
  %y = quant_llm.grouped_linear %x, %w offsets(%o : tensor<9xi32>) : (tensor<?x4096xf16>, !weight) -> tensor<?x512xf16>
  return %y : tensor<?x512xf16>
}

// CHECK-LABEL: func @dense
// CHECK-NOT: kernels
// REMARK: [Missed] no kernel {{.*}}expected quantized weights but got dense ones
func.func @dense(%x: tensor<?x64xf16>, %w: tensor<8x64xf16>) -> tensor<?x8xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x64xf16>, tensor<8x64xf16>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}

// CHECK-LABEL: func @f32
// CHECK-NOT: kernels
// REMARK: [Missed] no kernel {{.*}}expected activations of f16 or bf16 but got f32
func.func @f32(%x: tensor<?x4096xf32>, %w: !weight) -> tensor<?x4096xf32> {
  %y = quant_llm.linear %x, %w : (tensor<?x4096xf32>, !weight) -> tensor<?x4096xf32>
  return %y : tensor<?x4096xf32>
}

// CHECK-LABEL: func @narrow_floats
// CHECK-NOT: kernels
// REMARK: [Missed] no kernel {{.*}}expected an epilogue of f16, bf16, f32, f64, index and integers of at most 64 bits but got 'f8E4M3FN'
func.func @narrow_floats(%x: tensor<?x4096xf16>, %w: !weight) -> tensor<?x4096xf16> {
  %y = quant_llm.linear %x, %w epilogue {
  ^bb0(%sum: f32):
    %0 = arith.truncf %sum : f32 to f8E4M3FN
    %1 = arith.extf %0 : f8E4M3FN to f16
    quant_llm.yield %1 : f16
  } : (tensor<?x4096xf16>, !weight) -> tensor<?x4096xf16>
  return %y : tensor<?x4096xf16>
}

// CHECK-LABEL: func @blocks
// CHECK-NOT: kernels
// REMARK: [Missed] no kernel {{.*}}expected blocks of at least 16 columns
#blocks8 = #quant_llm.scheme<int4, block = [1, 8], scale = f16>
func.func @blocks(%x: tensor<?x64xf16>, %w: !quant_llm.weight<8x64xf16, #blocks8>) -> tensor<?x8xf16> {
  %y = quant_llm.linear %x, %w : (tensor<?x64xf16>, !quant_llm.weight<8x64xf16, #blocks8>) -> tensor<?x8xf16>
  return %y : tensor<?x8xf16>
}

//--- tuning.json
{"schema": "quant_llm.tuning/1", "entries": [
  {"chip": "sm_80", "scheme": "#quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax_full>",
   "n": 4096, "k": 4096, "kernels": [
     {"family": "multistage", "tokens": [1, 3], "row_tile": 32, "token_tile": 8, "stage_k": 512, "stages": 4,
      "warps_rows": 2, "warps_k": 4, "split": 1, "ctas_per_sm": 1, "copy": "async16"},
     {"family": "multistage", "tokens": [4, null], "row_tile": 64, "token_tile": 64, "stage_k": 128, "stages": 3,
      "warps_rows": 4, "warps_k": 1, "split": 1, "ctas_per_sm": 1, "copy": "async16"}]},
  {"chip": "sm_80", "scheme": "#quant_llm.scheme<int4, block = [1, 64], scale = f16>", "n": 512, "k": 4096, "kernels": [
     {"family": "multistage", "tokens": [1, null], "row_tile": 32, "token_tile": 64, "stage_k": 128, "stages": 3,
      "warps_rows": 2, "warps_k": 1, "split": 1, "ctas_per_sm": 1, "copy": "async16"}]},
  {"chip": "sm_80", "scheme": "#quant_llm.scheme<int4, block = [1, 64], scale = f16>", "n": 512, "k": 4096, "experts": 8, "kernels": [
     {"family": "multistage", "tokens": [1, null], "row_tile": 16, "token_tile": 64, "stage_k": 128, "stages": 3,
      "warps_rows": 1, "warps_k": 1, "split": 1, "ctas_per_sm": 1, "copy": "async16"}]}
]}
