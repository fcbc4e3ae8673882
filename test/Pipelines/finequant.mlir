// From linalg on parameters to weights in a new archive, in one pipeline.
// RUN: rm -rf %t && %python %S/../Dialect/QuantLLM/Transforms/Inputs/make_archive.py %t && cp %s %t/model.mlir
// RUN: quant-opt %t/model.mlir -quant-llm-finequant='output=%t/q.safetensors report=%t/r.json exclude=k_proj element=int4' -o %t/q.mlir
// RUN: FileCheck %s < %t/q.mlir
// RUN: FileCheck %s --check-prefix=REPORT < %t/r.json
// RUN: quant-opt %t/q.mlir -quant-llm-verify-stage='stage=quantized check-archives' -o /dev/null

// The result is the same as that of the passes one after the other.
// RUN: quant-opt %t/model.mlir -convert-linalg-to-quant-llm -quant-llm-choose-granularity='exclude=k_proj element=int4' -quant-llm-quantize='output=%t/q2.safetensors' -quant-llm-fuse-epilogues -o %t/q2.mlir
// RUN: cmp %t/q.safetensors %t/q2.safetensors
// RUN: sed 's/q2.safetensors/q.safetensors/' %t/q2.mlir | diff %t/q.mlir -

// Its options reach the passes, and what it prints is what it does.
// RUN: %python %S/../Dialect/QuantLLM/Transforms/Inputs/reparse.py %t/model.mlir '-quant-llm-finequant=output=%t/p.safetensors report=%t/p.json element=uint3 zero=int rule=mse scale=f8E4M3FN row-scale=bf16 rounding=half_away alpha=0.7 statistic=gaussian aggregation=mean sizes=128,64 include=proj exclude=xyz include-shared=true copy-dense=false archive-name=w module-dir=%t base-dir=%t threads=2' | FileCheck %s --check-prefix=OPTIONS
// OPTIONS: convert-linalg-to-quant-llm{
// OPTIONS-SAME: quant-llm-choose-granularity{aggregation=mean alpha=7.000000e-01 base-dir={{.*}} element=uint3 exclude=xyz include=proj include-shared=true rounding=half_away row-scale=bf16 rule=mse scale=f8E4M3FN sizes={128,64} statistic=gaussian threads=2 zero=int}
// OPTIONS-SAME: quant-llm-quantize{{[{].*}} archive-name=w base-dir={{.*}} copy-dense=false {{.*}} module-dir={{.*}} output={{.*}}p.safetensors {{.*}}report={{.*}}p.json {{.*}}threads=2}
// OPTIONS-SAME: quant-llm-fuse-epilogues{
// RUN: %python %S/../Dialect/QuantLLM/Transforms/Inputs/reparse.py %t/model.mlir '-quant-llm-finequant=output=%t/p2.safetensors block=1,32 fuse=false' | FileCheck %s --check-prefix=NOFUSE
// NOFUSE-NOT: fuse-epilogues
// The defaults of the pipeline are those of the passes.
// RUN: %python %S/../Dialect/QuantLLM/Transforms/Inputs/reparse.py %t/model.mlir '-quant-llm-finequant=output=%t/p3.safetensors' | sed 's/quant-llm-verify-stage{[^}]*},//g; s/,quant-llm-verify-stage{[^}]*}//' > %t/pipeline.txt
// RUN: %python %S/../Dialect/QuantLLM/Transforms/Inputs/reparse.py %t/model.mlir -convert-linalg-to-quant-llm -quant-llm-choose-granularity '-quant-llm-quantize=output=%t/p3.safetensors' -quant-llm-fuse-epilogues > %t/passes.txt
// RUN: diff %t/pipeline.txt %t/passes.txt

// RUN: not quant-opt %t/model.mlir -quant-llm-finequant 2>&1 | FileCheck %s --check-prefix=OUTPUT
// OUTPUT: error: quant-llm-quantize: invalid option 'output': expected a safetensors file to write but got none
// RUN: not quant-opt %t/model.mlir -quant-llm-finequant='output=%t/x.safetensors alpha=high' 2>&1 | FileCheck %s --check-prefix=ALPHA
// ALPHA: quant-llm-finequant: invalid option 'alpha': expected a number but got 'high'

// A gated pair may have two schemes: it is made after they were chosen.
// CHECK-DAG: #[[ROW:.*]] = #quant_llm.scheme<int4, block = [1, -1]
// CHECK-DAG: #[[G64:.*]] = #quant_llm.scheme<int4, block = [1, 64]
// CHECK:     func.func @mlp
// CHECK-SAME:  %[[X:.*]]: tensor<?x512xf32>
// CHECK:     %[[K:.*]] = quant_llm.get_parameter @layers.0.k_proj.weight : tensor<32x512xf16>
// CHECK:     quant_llm.linear %[[X]], %{{.*}}, %{{.*}} {reason = "FineQuant: {{.*}}; second weight: FineQuant: {{.*}}"} epilogue {
// CHECK:     } : (tensor<?x512xf32>, !quant_llm.weight<16x512xf16, #[[ROW]]>, !quant_llm.weight<16x512xf16, #[[G64]]>) -> tensor<?x16xf32>
// CHECK:     quant_llm.linear %[[X]], %[[K]] {reason = "dense: the name matches the exclude expression 'k_proj'"}
// CHECK-NOT: linalg.

// REPORT:     "dense"
// REPORT:       "name": "layers.0.k_proj.weight"
// REPORT:       "reason": "dense: the name matches
// REPORT:     "totals"
// REPORT:     "weights"

#mk = affine_map<(m, n, k) -> (m, k)>
#nk = affine_map<(m, n, k) -> (n, k)>
#mn = affine_map<(m, n, k) -> (m, n)>
#id = affine_map<(m, n) -> (m, n)>
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @layers.0.gate_proj.weight from @model : tensor<16x512xf16>
quant_llm.parameter @layers.0.up_proj.weight from @model : tensor<16x512xf16>
quant_llm.parameter @layers.0.k_proj.weight from @model : tensor<32x512xf16>
func.func @mlp(%x: tensor<?x512xf32>, %m: index) -> (tensor<?x16xf32>, tensor<?x32xf32>) {
  %gate = quant_llm.get_parameter @layers.0.gate_proj.weight : tensor<16x512xf16>
  %up = quant_llm.get_parameter @layers.0.up_proj.weight : tensor<16x512xf16>
  %k = quant_llm.get_parameter @layers.0.k_proj.weight : tensor<32x512xf16>
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %e = tensor.empty(%m) : tensor<?x16xf32>
  %i = linalg.fill ins(%zero : f32) outs(%e : tensor<?x16xf32>) -> tensor<?x16xf32>
  %0 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %gate : tensor<?x512xf32>, tensor<16x512xf16>) outs(%i : tensor<?x16xf32>) -> tensor<?x16xf32>
  %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %up : tensor<?x512xf32>, tensor<16x512xf16>) outs(%i : tensor<?x16xf32>) -> tensor<?x16xf32>
  %2 = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%0, %1 : tensor<?x16xf32>, tensor<?x16xf32>) outs(%e : tensor<?x16xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %3 = arith.negf %a : f32
    %4 = math.exp %3 : f32
    %5 = arith.addf %4, %one : f32
    %6 = arith.divf %a, %5 : f32
    %7 = arith.mulf %6, %b : f32
    linalg.yield %7 : f32
  } -> tensor<?x16xf32>
  %ke = tensor.empty(%m) : tensor<?x32xf32>
  %ki = linalg.fill ins(%zero : f32) outs(%ke : tensor<?x32xf32>) -> tensor<?x32xf32>
  %8 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
    ins(%x, %k : tensor<?x512xf32>, tensor<32x512xf16>) outs(%ki : tensor<?x32xf32>) -> tensor<?x32xf32>
  return %2, %8 : tensor<?x16xf32>, tensor<?x32xf32>
}
