// RUN: rm -rf %t && %python %S/Inputs/make_archive.py %t && cp %S/Inputs/model.mlir %t
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' | FileCheck %s
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' -remarks-filter='quant-llm-.*' 2>&1 >/dev/null | FileCheck %s --check-prefix=REMARK

// Normal numbers stay whole rows; a row with an outlier makes its matrix split down to the
// smallest size; a pair gets the finer of its two; what is not only a weight stays dense.
// CHECK-DAG: #[[ROW:.*]] = #quant_llm.scheme<int4, block = [1, -1], scale = f16, rule = absmax, rounding = half_even>
// CHECK-DAG: #[[G64:.*]] = #quant_llm.scheme<int4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>
// CHECK:     quant_llm.linear %{{.*}}, %layers.0.q_proj.weight {reason = "FineQuant: K=512 -> 256: smallest row ratio {{.*}} >= 0.8, stop", scheme = #[[ROW]]}
// CHECK:     quant_llm.linear %{{.*}}, %k {reason = "FineQuant: {{.*}}128 -> 64: smallest row ratio {{.*}} (row 3) < 0.8, split", scheme = #[[G64]]}
// CHECK:     quant_llm.linear %{{.*}}, %layers.0.gate_proj.weight, %layers.0.up_proj.weight {reason = "finest of the pair; first weight: FineQuant: {{.*}}stop; second weight: FineQuant: {{.*}}", scheme = #[[G64]]}
// CHECK:     quant_llm.linear %{{.*}}, %embed_tokens.weight {reason = "dense: the parameter is also used by other operations than linears"}

// REMARK: remark: [Passed] granularity | Category:quant-llm-choose-granularity | parameter=layers.0.q_proj.weight, {{.*}}smallest row ratio{{.*}}block = [1, -1]
// REMARK: remark: [Passed] granularity {{.*}}parameter=k,{{.*}}block = [1, 64]
// REMARK: remark: [Passed] granularity {{.*}}parameter=layers.0.gate_proj.weight, reason="as 'layers.0.up_proj.weight', which is used by the same linear
// REMARK: remark: [Missed] granularity {{.*}}parameter=embed_tokens.weight,{{.*}}scheme=none

// The mean over the rows does not see one bad row of many.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 aggregation=mean sizes=256,64' | FileCheck %s --check-prefix=MEAN
// MEAN: %k {reason = "FineQuant: K=512 -> 256: mean ratio {{.*}} >= 0.8, stop"

// Divided by what is expected of normal numbers.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 statistic=gaussian alpha=0.8 sizes=64' | FileCheck %s --check-prefix=GAUSS
// GAUSS: %layers.0.q_proj.weight {reason = "FineQuant: K=512 -> 64: smallest row ratio {{.*}} of normal (row 13) >= 0.8, stop"
// GAUSS: %k {reason = "FineQuant: K=512 -> 64: smallest row ratio {{.*}} of normal (row 3) < 0.8, split"

// The defaults: unsigned codes with zeros, measured in docs/FineQuant.md; a signed or a
// floating-point element has no zero unless asked for.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity | FileCheck %s --check-prefix=DEFAULT
// DEFAULT-DAG: #[[ROW:.*]] = #quant_llm.scheme<uint4, block = [1, -1], scale = f16, zero = int, rule = minmax, rounding = half_even>
// DEFAULT-DAG: #[[G64:.*]] = #quant_llm.scheme<uint4, block = [1, 64], scale = f16, zero = int, rule = minmax, rounding = half_even>
// DEFAULT:     %layers.0.q_proj.weight {reason = "FineQuant: K=512 -> 256: smallest row ratio {{.*}} >= 0.75, stop", scheme = #[[ROW]]}
// DEFAULT:     %k {reason = "FineQuant: K=512 -> 256: {{.*}} split", scheme = #[[G64]]}
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=nf4 block=1,64' | FileCheck %s --check-prefix=NF4
// NF4: #quant_llm.scheme<nf4, block = [1, 64], scale = f16, rule = absmax, rounding = half_even>

// Everything else about the scheme is an option; zeros go with minmax.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=uint3 zero=int scale=bf16 rounding=half_away alpha=0.5' | FileCheck %s --check-prefix=ASYM
// ASYM: #quant_llm.scheme<uint3, block = [1, -1], scale = bf16, zero = int, rule = minmax, rounding = half_away>

// A regular expression chooses; excluded parameters say which one.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='include=layers exclude=gate|up element=int4 block=1,32' | FileCheck %s --check-prefix=NAMES
// NAMES: #[[G32:.*]] = #quant_llm.scheme<int4, block = [1, 32]
// NAMES: %layers.0.q_proj.weight {reason = "uniform: the same block for every weight", scheme = #[[G32]]}
// NAMES: %k {reason = "dense: the name does not match the include expression 'layers'"}
// NAMES: %layers.0.gate_proj.weight, %layers.0.up_proj.weight {reason = "dense: the name matches the exclude expression 'gate|up'"} epilogue

// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='include-shared exclude= element=int4 block=-1,-1' | FileCheck %s --check-prefix=SHARED
// SHARED: #[[T:.*]] = #quant_llm.scheme<int4, block = [-1, -1]
// SHARED: %embed_tokens.weight {reason = "uniform: the same block for every weight", scheme = #[[T]]}

// A uniform choice needs no archive, and --base-dir finds one elsewhere.
// RUN: quant-opt %S/Inputs/model.mlir -quant-llm-choose-granularity='element=int4 block=1,128' | FileCheck %s --check-prefix=UNIFORM
// UNIFORM: #quant_llm.scheme<int4, block = [1, 128]
// RUN: quant-opt %S/Inputs/model.mlir -quant-llm-choose-granularity='base-dir=%t element=int4 alpha=0.8 sizes=512,256,128,64' | FileCheck %s
// RUN: quant-opt -quant-llm-choose-granularity='base-dir=%t element=int4 alpha=0.8 sizes=512,256,128,64' < %S/Inputs/model.mlir | FileCheck %s

// The result does not depend on the number of threads.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='threads=1' -o %t/1.mlir
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='threads=7' -o %t/7.mlir
// RUN: diff %t/1.mlir %t/7.mlir

// Choosing again changes nothing: a scheme that is there stays.
// RUN: quant-opt %t/1.mlir -quant-llm-choose-granularity=block=1,16 -o %t/again.mlir
// RUN: diff %t/1.mlir %t/again.mlir

// Options print and parse again.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='alpha=0.75 statistic=gaussian aggregation=mean sizes=256,64 include=layers zero=f16 element=uint4' -dump-pass-pipeline -o /dev/null 2>&1 | FileCheck %s --check-prefix=PIPELINE
// PIPELINE: quant-llm-choose-granularity{
// PIPELINE-DAG: aggregation=mean
// PIPELINE-DAG: alpha=7.5
// PIPELINE-DAG: element=uint4
// PIPELINE-DAG: include=layers
// PIPELINE-DAG: sizes={256,64}
// PIPELINE-DAG: statistic=gaussian
// PIPELINE-DAG: zero=f16
