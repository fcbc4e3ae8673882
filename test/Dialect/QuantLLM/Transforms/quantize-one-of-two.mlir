// A linear of two weights, of which one run quantizes one: it keeps its scheme for the other.
// RUN: rm -rf %t && mkdir %t && cp %s %t/m.mlir && cd %t
// RUN: %python -c "import numpy as np, safetensors.numpy as s; r = np.random.default_rng(0); s.save_file({'w': r.normal(size=(4, 64)).astype(np.float32), 'v': r.normal(size=(4, 64)).astype(np.float32)}, 'a.safetensors')"
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32' -o chosen.mlir
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=first.safetensors report=first.json include=^w$' -o first.mlir
// RUN: FileCheck %s < first.mlir
// CHECK: quant_llm.linear {{.*}}scheme = #
// CHECK: : (tensor<2x64xf32>, !quant_llm.weight<4x64xf32, #{{.*}}>, tensor<4x64xf32>) -> tensor<2x4xf32>
// RUN: quant-opt first.mlir -quant-llm-quantize='output=second.safetensors report=second.json archive-name=second include=^v$' -o second.mlir
// RUN: FileCheck %s --check-prefix=SECOND < second.mlir
// SECOND: quant_llm.linear
// SECOND-NOT: scheme =
// SECOND: : (tensor<2x64xf32>, !quant_llm.weight<4x64xf32, #{{.*}}>, !quant_llm.weight<4x64xf32, #{{.*}}>) -> tensor<2x4xf32>

// Reports are of their runs.
// RUN: %python -c "import json; a, b = (json.load(open(n)) for n in ('first.json', 'second.json')); assert a['include'] == '^w$' and 'quantized_before' not in a and [w['name'] for w in a['weights']] == ['w'] and [(d['name'], d['reason']) for d in a['dense']] == [('v', \"left out by the option 'include'\")], a; assert [w['name'] for w in b['weights']] == ['v'] and b['dense'] == [] and b['totals']['dense_bytes'] == 0 and [q['name'] for q in b['quantized_before']] == ['w'], b"

// The same as both at once.
// RUN: quant-opt chosen.mlir -quant-llm-quantize=output=both.safetensors -o both.mlir
// RUN: %python -c "import numpy as np, safetensors.numpy as s; a, b = s.load_file('second.safetensors'), s.load_file('both.safetensors'); assert set(a) == set(b) and all((a[n] == b[n]).all() for n in a), (list(a), list(b))"
quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<4x64xf32>
quant_llm.parameter @v from @a : tensor<4x64xf32>
func.func @f(%x: tensor<2x64xf32>) -> tensor<2x4xf32> {
  %w = quant_llm.get_parameter @w : tensor<4x64xf32>
  %v = quant_llm.get_parameter @v : tensor<4x64xf32>
  %0 = quant_llm.linear %x, %w, %v epilogue {
  ^bb0(%a: f32, %b: f32):
    %1 = arith.mulf %a, %b : f32
    quant_llm.yield %1 : f32
  } : (tensor<2x64xf32>, tensor<4x64xf32>, tensor<4x64xf32>) -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}
