// RUN: rm -rf %t && mkdir %t
// RUN: quant-opt %s --quant-llm-insert-transforms='sites=norm-attention,norm-mlp,norm-head,up-down,value-output,residual' | FileCheck %s
// RUN: quant-opt %s --quant-llm-insert-transforms='sites=up-down transform=scale random seed=4' | FileCheck %s --check-prefix=SCALE
// RUN: quant-opt %s --quant-llm-insert-transforms='sites=residual seed=4' | FileCheck %s --check-prefix=GAIN
// RUN: quant-opt %s --quant-llm-insert-transforms='sites=residual fold-gains=false' | FileCheck %s --check-prefix=NOGAIN

// Numbers from a file: only the site that it names.
// RUN: %python -c "import numpy as np, safetensors.numpy as s; s.save_file({'down.channel_scale': np.ones(16, np.float32), 'w_up.channel_scale': np.ones(3, np.float32)}, '%t/d.safetensors')"
// RUN: quant-opt %s --quant-llm-insert-transforms='sites=up-down,norm-head transform=scale data=%t/d.safetensors' | FileCheck %s --check-prefix=DATA

// RUN: not quant-opt %s --quant-llm-insert-transforms 2>&1 | FileCheck %s --check-prefix=NOSITES
// NOSITES: error: quant-llm-insert-transforms: invalid option 'sites': expected at least one site but got none
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=up-down,door' 2>&1 | FileCheck %s --check-prefix=BADSITE
// BADSITE: error: quant-llm-insert-transforms: invalid option 'sites': expected norm-attention, norm-mlp, norm-head, up-down, value-output, residual or query-key but got 'door'
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=up-down transform=turn' 2>&1 | FileCheck %s --check-prefix=BADKIND
// BADKIND: error: quant-llm-insert-transforms: invalid option 'transform': expected scale, shift, permute, orthogonal or hadamard but got 'turn'
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=up-down transform=scale' 2>&1 | FileCheck %s --check-prefix=NODATA
// NODATA: error: quant-llm-insert-transforms: expected one of the options 'random' and 'data' for the transform scale
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=up-down random' 2>&1 | FileCheck %s --check-prefix=NONUMBERS
// NONUMBERS: error: quant-llm-insert-transforms: a Hadamard matrix has no numbers that 'random' or 'data' could give; its signs come from 'seed'
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=up-down transform=scale data=%t/no.safetensors' 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: error: quant-llm-insert-transforms: cannot read '{{.*}}no.safetensors'
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=norm-mlp transform=scale data=%t/d.safetensors' 2>&1 | FileCheck %s --check-prefix=SHAPE
// SHAPE: error: quant-llm-insert-transforms: expected 'w_up.channel_scale' in '{{.*}}' to have the shape [8] but got [3]
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=up-down transform=shift data=%t/d.safetensors' 2>&1 | FileCheck %s --check-prefix=NOKEY
// NOKEY: error: quant-llm-insert-transforms: found no site to insert a transform at; raise weight contractions first (convert-linalg-to-quant-llm), and compare the keys of 'data' with the names of parameters
// RUN: %python -c "import numpy as np, safetensors.numpy as s; s.save_file({'down.channel_scale': np.ones(16, np.int32)}, '%t/i.safetensors')"
// RUN: not quant-opt %s --quant-llm-insert-transforms='sites=up-down transform=scale data=%t/i.safetensors' 2>&1 | FileCheck %s --check-prefix=TYPE
// TYPE: error: quant-llm-insert-transforms: expected 'down.channel_scale' in '{{.*}}' to have elements of type F64, F32, F16 or BF16 but got I32

#tc = affine_map<(d0, d1) -> (d0, d1)>
#t = affine_map<(d0, d1) -> (d0)>
#c = affine_map<(d0, d1) -> (d1)>
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @embedding from @model : tensor<32x8xf32>
quant_llm.parameter @gain from @model : tensor<8xf16>
quant_llm.parameter @w_up from @model : tensor<16x8xf32>
quant_llm.parameter @w_gate from @model : tensor<16x8xf32>
quant_llm.parameter @down from @model : tensor<8x16xf32>
quant_llm.parameter @head from @model : tensor<32x8xf32>

// A feed-forward layer and a head, with names that say nothing.
// CHECK-LABEL: func.func @f
// CHECK:         %[[H:.*]] = linalg.generic
// CHECK:         %[[R:.*]] = quant_llm.rotate %[[H]] hadamard 8 dims = [1] : tensor<?x8xf32>
// CHECK:         %[[I:.*]] = quant_llm.rotate inverse %[[R]] hadamard 8 dims = [1] : tensor<?x8xf32>
// CHECK:         linalg.generic {{.*}} ins(%[[I]] : tensor<?x8xf32>)
// The norm: without its gain, then the gain, then the pair.
// CHECK:         %[[G:.*]] = quant_llm.scale_channels %{{.*}} by %{{.*}} dims = [1] : tensor<?x8xf32>, tensor<8xf16>
// CHECK:         %[[R:.*]] = quant_llm.rotate %[[G]] hadamard 8
// CHECK:         %[[I:.*]] = quant_llm.rotate inverse %[[R]] hadamard 8
// CHECK:         quant_llm.linear %[[I]]
// CHECK:         quant_llm.linear %[[I]]
// CHECK:         %[[R:.*]] = quant_llm.rotate %{{.*}} hadamard 16 dims = [1] : tensor<?x16xf32>
// CHECK:         %[[I:.*]] = quant_llm.rotate inverse %[[R]] hadamard 16
// CHECK:         quant_llm.linear %[[I]]
// The head has no norm.
// CHECK-NOT:     quant_llm.rotate
// CHECK:         return

// SCALE:         %[[S:.*]] = arith.constant dense<{{.*}}> : tensor<16xf64>
// SCALE:         quant_llm.scale_channels inverse %{{.*}} by %[[S]] dims = [1] : tensor<?x16xf32>, tensor<16xf64>
// SCALE:         quant_llm.scale_channels %{{.*}} by %[[S]]

// GAIN-COUNT-1:  quant_llm.rotate %{{.*}} hadamard 8 seed 4
// GAIN-COUNT-1:  quant_llm.scale_channels
// NOGAIN-NOT:    quant_llm.scale_channels

// DATA:          quant_llm.archive @transforms "{{.*}}d.safetensors"
// DATA:          quant_llm.parameter @down.channel_scale from @transforms : tensor<16xf32>
// DATA:          %[[S:.*]] = quant_llm.get_parameter @down.channel_scale : tensor<16xf32>
// DATA:          quant_llm.scale_channels inverse %{{.*}} by %[[S]]
func.func @f(%tokens: tensor<?xindex>, %e8: tensor<?x8xf32>, %e16: tensor<?x16xf32>, %e: tensor<?xf32>) -> tensor<?x32xf32> {
  %table = quant_llm.get_parameter @embedding : tensor<32x8xf32>
  %h = linalg.generic {indexing_maps = [#t, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%tokens : tensor<?xindex>) outs(%e8 : tensor<?x8xf32>) {
  ^bb0(%token: index, %o: f32):
    %i = linalg.index 1 : index
    %v = tensor.extract %table[%token, %i] : tensor<32x8xf32>
    linalg.yield %v : f32
  } -> tensor<?x8xf32>
  %zero = arith.constant 0.0 : f32
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %squares = linalg.generic {indexing_maps = [#tc, #t], iterator_types = ["parallel", "reduction"]}
      ins(%h : tensor<?x8xf32>) outs(%init : tensor<?xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.mulf %a, %a : f32
    %v = arith.addf %o, %s : f32
    linalg.yield %v : f32
  } -> tensor<?xf32>
  %root = math.rsqrt %squares : tensor<?xf32>
  %g = quant_llm.get_parameter @gain : tensor<8xf16>
  %n = linalg.generic {indexing_maps = [#tc, #t, #c, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%h, %root, %g : tensor<?x8xf32>, tensor<?xf32>, tensor<8xf16>) outs(%e8 : tensor<?x8xf32>) {
  ^bb0(%a: f32, %r: f32, %gg: f16, %o: f32):
    %m = arith.mulf %a, %r : f32
    %w = arith.extf %gg : f16 to f32
    %v = arith.mulf %m, %w : f32
    linalg.yield %v : f32
  } -> tensor<?x8xf32>
  %up = quant_llm.get_parameter @w_up : tensor<16x8xf32>
  %gate = quant_llm.get_parameter @w_gate : tensor<16x8xf32>
  %u = quant_llm.linear %n, %up : (tensor<?x8xf32>, tensor<16x8xf32>) -> tensor<?x16xf32>
  %q = quant_llm.linear %n, %gate : (tensor<?x8xf32>, tensor<16x8xf32>) -> tensor<?x16xf32>
  %act = math.tanh %q : tensor<?x16xf32>
  %z = arith.mulf %act, %u : tensor<?x16xf32>
  %d = quant_llm.get_parameter @down : tensor<8x16xf32>
  %y = quant_llm.linear %z, %d : (tensor<?x16xf32>, tensor<8x16xf32>) -> tensor<?x8xf32>
  %next = arith.addf %h, %y : tensor<?x8xf32>
  %hw = quant_llm.get_parameter @head : tensor<32x8xf32>
  %logits = quant_llm.linear %next, %hw : (tensor<?x8xf32>, tensor<32x8xf32>) -> tensor<?x32xf32>
  return %logits : tensor<?x32xf32>
}
