// RUN: rm -rf %t && %python %S/Inputs/make_archive.py %t && cp %S/Inputs/model.mlir %t
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' -quant-llm-quantize='output=%t/out/q.safetensors report=%t/r.json' -o %t/never.mlir 2>&1 | FileCheck %s --check-prefix=NODIR
// RUN: not test -e %t/never.mlir && not test -e %t/r.json
// NODIR: error: quant-llm-quantize: cannot write '{{.*}}out/q.safetensors'

// RUN: mkdir %t/out
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' -quant-llm-quantize='output=%t/out/q.safetensors report=%t/r.json' -quant-llm-verify-stage='stage=quantized check-archives' -o %t/out/q.mlir
// RUN: FileCheck %s < %t/out/q.mlir
// The archive is found beside the module, by a second process as well.
// RUN: quant-opt %t/out/q.mlir -quant-llm-verify-stage='stage=quantized check-archives' -o /dev/null
// RUN: %python %S/Inputs/check_archive.py %t/model.safetensors %t/out/q.safetensors %t/r.json

// CHECK-NOT: @model
// CHECK:     quant_llm.archive @quantized "q.safetensors"
// CHECK:     quant_llm.parameter @layers.0.q_proj.weight from @quantized : !quant_llm.weight<32x512xf16, #[[ROW:.*]]>
// CHECK:     quant_llm.parameter @k from @quantized key "layers.0.k_proj.weight" : !quant_llm.weight<32x512xf16, #[[G64:.*]]>
// CHECK:     quant_llm.parameter @embed_tokens.weight from @quantized : tensor<8x512xf16>
// CHECK:     %[[Q:.*]] = quant_llm.get_parameter @layers.0.q_proj.weight : !quant_llm.weight<32x512xf16, #[[ROW]]>
// CHECK:     quant_llm.linear %{{.*}}, %[[Q]] {reason = "FineQuant: {{.*}}"} : (tensor<?x512xf32>, !quant_llm.weight<32x512xf16, #[[ROW]]>)
// CHECK-NOT: scheme =

// The same bytes for any number of threads.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' -quant-llm-quantize='output=%t/out/q1.safetensors report=%t/r1.json threads=1' -o /dev/null
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' -quant-llm-quantize='output=%t/out/q7.safetensors report=%t/r7.json threads=7' -o /dev/null
// RUN: cmp %t/out/q1.safetensors %t/out/q7.safetensors
// RUN: sed 's/q1.safetensors/q7.safetensors/' %t/r1.json | diff - %t/r7.json

// Without the dense parameters: the old archive stays, by a path from the new module.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' -quant-llm-quantize='output=%t/out/part.safetensors copy-dense=false' -quant-llm-verify-stage='stage=quantized check-archives' -o %t/out/part.mlir
// RUN: FileCheck %s --check-prefix=PART < %t/out/part.mlir
// RUN: quant-opt %t/out/part.mlir -quant-llm-verify-stage='stage=quantized check-archives' -o /dev/null
// PART: quant_llm.archive @model "../model.safetensors"
// PART: quant_llm.archive @quantized "part.safetensors"
// PART: quant_llm.parameter @embed_tokens.weight from @model : tensor<8x512xf16>

// The module may be stored elsewhere.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 alpha=0.8 sizes=512,256,128,64' -quant-llm-quantize='output=%t/out/x.safetensors copy-dense=false module-dir=%t archive-name=new' -quant-llm-verify-stage='stage=quantized check-archives' | FileCheck %s --check-prefix=DIR
// DIR: quant_llm.archive @model "model.safetensors"
// DIR: quant_llm.archive @new "out/x.safetensors"

// A shared parameter is stored both ways.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='include-shared exclude= block=1,64' -quant-llm-quantize='output=%t/out/s.safetensors' -quant-llm-verify-stage='stage=quantized check-archives' | FileCheck %s --check-prefix=SHARED
// SHARED: quant_llm.parameter @embed_tokens.weight from @quantized : tensor<8x512xf16>
// SHARED: quant_llm.parameter @embed_tokens.weight.quantized from @quantized key "embed_tokens.weight" : !quant_llm.weight<8x512xf16
// SHARED: %[[W:.*]] = quant_llm.get_parameter @embed_tokens.weight.quantized
// SHARED: %[[D:.*]] = quant_llm.get_parameter @embed_tokens.weight : tensor<8x512xf16>
// SHARED: quant_llm.linear %{{.*}}, %[[W]]
// SHARED: tensor.extract_slice %[[D]]

// Quantizing the rest of a module that is partly quantized copies what is there.
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity='include=q_proj block=1,64' -quant-llm-quantize='output=%t/out/a.safetensors' -o %t/out/a.mlir
// RUN: sed 's/reason = "dense[^"]*"/reason = ""/' %t/out/a.mlir > %t/out/b.mlir
// RUN: quant-opt %t/out/b.mlir -quant-llm-choose-granularity='block=1,32' -quant-llm-quantize='output=%t/out/c.safetensors archive-name=second' -quant-llm-verify-stage='stage=quantized check-archives' | FileCheck %s --check-prefix=AGAIN
// AGAIN: quant_llm.archive @second "c.safetensors"
// AGAIN: quant_llm.parameter @layers.0.q_proj.weight from @second : !quant_llm.weight<32x512xf16, #[[G64:.*]]>
// AGAIN: quant_llm.parameter @k from @second key "layers.0.k_proj.weight" : !quant_llm.weight<32x512xf16, #[[G32:.*]]>
