// The shards of an archive are read but never written, whatever the name of one.
// RUN: rm -rf %t && %python %S/Inputs/make_archive.py %t
// RUN: sed 's/"model.safetensors"/"model.safetensors.index.json"/' %S/Inputs/model.mlir > %t/sharded/model.mlir
// RUN: quant-opt %t/sharded/model.mlir -quant-llm-choose-granularity=block=1,64 -o %t/sharded/chosen.mlir
// RUN: cd %t/sharded && sha256sum model* > %t/before
// RUN: ln -s model-00002-of-00002.safetensors %t/sharded/symbolic && ln %t/sharded/model-00001-of-00002.safetensors %t/hard

// RUN: not quant-opt %t/sharded/chosen.mlir -quant-llm-quantize='output=%t/sharded/model-00001-of-00002.safetensors' 2>&1 | FileCheck %s
// RUN: not quant-opt %t/sharded/chosen.mlir -quant-llm-quantize='output=%t/sharded/model.safetensors.index.json' 2>&1 | FileCheck %s
// RUN: not quant-opt %t/sharded/chosen.mlir -quant-llm-quantize='output=%t/sharded/symbolic' 2>&1 | FileCheck %s
// RUN: not quant-opt %t/sharded/chosen.mlir -quant-llm-quantize='output=%t/hard' 2>&1 | FileCheck %s
// RUN: not quant-opt %t/sharded/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors report=%t/sharded/symbolic' 2>&1 | FileCheck %s
// CHECK: error: quant-llm-quantize: '{{.*}}' is a file of an archive that the module reads; choose another file
// CHECK: chosen.mlir:{{.*}}: note: the archive is here
// RUN: cd %t/sharded && sha256sum --check --quiet %t/before && not test -e %t/q.safetensors

// Another name is fine, and gives what the single file gives.
// RUN: quant-opt %t/sharded/chosen.mlir -quant-llm-quantize='output=%t/sharded/q.safetensors' -o /dev/null
// RUN: sed 's/"model.safetensors.index.json"/"model.safetensors"/' %t/sharded/chosen.mlir > %t/chosen.mlir
// RUN: quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors' -o /dev/null
// RUN: cmp %t/q.safetensors %t/sharded/q.safetensors
