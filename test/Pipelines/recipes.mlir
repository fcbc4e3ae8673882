// Every recipe file is a pipeline. Its options reach the passes.
// RUN: rm -rf %t && %python %S/../Dialect/QuantLLM/Transforms/Inputs/make_archive.py %t && cp %S/finequant.mlir %t/model.mlir
// RUN: quant-opt %t/model.mlir -quant-llm-rtn='output=%t/q.safetensors group=32 scale=f8E4M3FN row-scale=f16 exclude=k_proj' -o %t/q.mlir
// RUN: FileCheck %s < %t/q.mlir
// CHECK: #[[SCALES:.*]] = #quant_llm.scheme<f8E4M3FN, block = [1, -1], scale = f16
// CHECK: #quant_llm.scheme<uint4, block = [1, 32], scale = #[[SCALES]], zero = int
// RUN: quant-opt --help | FileCheck %s --check-prefix=HELP
// HELP: --quant-llm-gptq-clip
// HELP: --quant-llm-lorc
// HELP: --quant-llm-quarot
// HELP: --quant-llm-rotated-w8a8
// HELP: --quant-llm-rsq
// HELP: --quant-llm-rtn
// HELP: --quant-llm-smoothquant-static
// RUN: quant-opt %t/model.mlir -quant-llm-lorc='output=%t/l.safetensors group=32 rank=3' -o %t/l.mlir
// RUN: FileCheck %s --check-prefix=LORC < %t/l.mlir
// LORC: #quant_llm.scheme<uint4, block = [1, 32], {{.*}}low_rank = 3xf16

// RUN: not quant-opt %t/model.mlir -quant-llm-gptq='output=%t/x.safetensors' 2>&1 | FileCheck %s --check-prefix=CALIBRATION
// CALIBRATION: error: quant-llm-gptq: invalid option 'calibration': expected a path but got none
// RUN: not quant-opt %t/model.mlir -quant-llm-hadamard='output=%t/x.safetensors' 2>&1 | FileCheck %s --check-prefix=SCRATCH
// SCRATCH: error: quant-llm-hadamard: invalid option 'scratch': expected a path but got none
// RUN: not quant-opt %t/model.mlir -quant-llm-rtn 2>&1 | FileCheck %s --check-prefix=OUTPUT
// OUTPUT: error: quant-llm-rtn: invalid option 'output': expected a path but got none
// RUN: not quant-opt %t/model.mlir -quant-llm-rtn='output=%t/x.safetensors grp=1' 2>&1 | FileCheck %s --check-prefix=UNKNOWN
// UNKNOWN: {{^}}quant-opt: error: quant-llm-rtn: unknown option 'grp': expected output, report,
// RUN: not quant-opt %t/model.mlir -quant-llm-rtn='output=%t/x.safetensors scale=f99 row-scale=f16' 2>&1 | FileCheck %s --check-prefix=ELEMENT
// ELEMENT: error: quant-llm-choose-granularity: invalid option 'scale'
// RUN: not quant-opt %t/model.mlir -quant-llm-rtn='output=%t/x.safetensors scale=f8E4M3FN row-scale=f99' 2>&1 | FileCheck %s --check-prefix=ROW
// ROW: error: quant-llm-choose-granularity: invalid option 'row-scale'
// RUN: not quant-opt %t/model.mlir -quant-llm-rtn='output=%t/x.safetensors group=-2' 2>&1 | FileCheck %s --check-prefix=RANGE
// RANGE: quant-llm-rtn: invalid option 'group': expected an integer from -1 but got -2
// RUN: not quant-opt %t/model.mlir -quant-llm-adadim='output=%t/x.safetensors calibration=c any-model=perhaps' 2>&1 | FileCheck %s --check-prefix=KIND
// KIND: quant-llm-adadim: invalid option 'any-model': expected true or false but got 'perhaps'
