// Folds that are right, and some that are not.
// RUN: rm -rf %t && mkdir %t && sed "/^\/\//d" %s > %t/m.mlir && cd %t
// RUN: %python -c "import numpy as np, safetensors.numpy as s; r = np.random.default_rng(0); s.save_file({'gain': r.normal(size=16).astype(np.float16), 'up': r.normal(size=(24, 16)).astype(np.float16), 'gate': r.normal(size=(24, 16)).astype(np.float32), 'down': r.normal(size=(16, 24)).astype(np.float32)}, 'a.safetensors'); np.save('x.npy', r.normal(size=(7, 16)).astype(np.float16)); np.save('nan.npy', np.full((7, 16), np.nan, np.float32)); np.save('wide.npy', np.zeros((7, 15), np.float32))"

// Both ways to know what was before.
// RUN: quant-opt m.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=norm-mlp,up-down transform=scale random},quant-llm-fold-transforms{max-online=0}"})' --remarks-filter=quant-llm-verify-equivalence -o folded.mlir 2>&1 | FileCheck %s --check-prefix=EQUAL
// EQUAL: equivalent | Category:quant-llm-verify-equivalence | Function=mlp | calls=1, relative difference={{[0-9.]+}}e-1{{[4-7]}}
// RUN: mkdir other && quant-opt m.mlir --pass-pipeline='builtin.module(quant-llm-save-module{output=other/before.mlir},quant-llm-insert-transforms{sites=up-down transform=permute random},quant-llm-fold-transforms{max-online=0},quant-llm-verify-equivalence{reference=other/before.mlir})' -o permuted.mlir
// RUN: quant-opt permuted.mlir --quant-llm-verify-equivalence='reference=m.mlir inputs=x.npy' -o /dev/null
// RUN: FileCheck %s --check-prefix=FOLDED < folded.mlir
// FOLDED: quant_llm.scale_channels
// FOLDED-NOT: online

// Wrong folds, each of one thing: the gain is multiplied where it has to be divided; a permutation of one factor only; a scale of the
// factor behind silu, which is not homogeneous.
// RUN: sed 's/%%g = quant_llm.get_parameter @gain/%%g0 = quant_llm.get_parameter @gain/; s/%%u = quant_llm.get_parameter @up/%%two = arith.constant dense<2.0> : tensor<16xf32>\n    %%g = quant_llm.scale_channels %%g0 by %%two dims = [0] : tensor<16xf16>, tensor<16xf32>\n    %%u = quant_llm.get_parameter @up/' m.mlir > gain.mlir
// RUN: not quant-opt gain.mlir --quant-llm-verify-equivalence=reference=m.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=DIFFERS
// RUN: sed 's/%%d = quant_llm.get_parameter @down/%%p = arith.constant dense<[1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]> : tensor<24xi64>\n    %%d0 = quant_llm.get_parameter @down/; s/%%2 = quant_llm.linear %%1, %%d /%%d = quant_llm.permute_channels %%d0 by %%p dims = [1] : tensor<16x24xf32>, tensor<24xi64>\n    %%2 = quant_llm.linear %%1, %%d /' m.mlir > permutation.mlir
// RUN: not quant-opt permutation.mlir --quant-llm-verify-equivalence=reference=m.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=DIFFERS
// RUN: sed 's/%%t = quant_llm.get_parameter @gate/%%half = arith.constant dense<0.5> : tensor<24xf32>\n    %%two = arith.constant dense<2.0> : tensor<24xf32>\n    %%t0 = quant_llm.get_parameter @gate/; s/%%d = quant_llm.get_parameter @down/%%t = quant_llm.scale_channels %%t0 by %%half dims = [0] : tensor<24x16xf32>, tensor<24xf32>\n    %%d0 = quant_llm.get_parameter @down/; s/%%0 = quant_llm.linear/%%d = quant_llm.scale_channels %%d0 by %%two dims = [1] : tensor<16x24xf32>, tensor<24xf32>\n    %%0 = quant_llm.linear/' m.mlir > silu.mlir
// RUN: not quant-opt silu.mlir --quant-llm-verify-equivalence=reference=m.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=DIFFERS
// DIFFERS: error: quant-llm-verify-equivalence: result 0 of @mlp differs by {{.*}} (relative), more than the bound 1.00e-10

// As far as f64 sees, a difference of roundings is one.
// RUN: quant-opt folded.mlir --quant-llm-materialize-transforms=output=b.safetensors -o stored.mlir
// RUN: not quant-opt stored.mlir --quant-llm-verify-equivalence=reference=m.mlir -o /dev/null 2>&1 | FileCheck %s --check-prefix=DIFFERS
// RUN: quant-opt stored.mlir --quant-llm-verify-equivalence='reference=m.mlir bound=1e-2' -o /dev/null

// Quantized weights have a bound of their own; so has another scheme.
// RUN: quant-opt m.mlir --quant-llm-choose-granularity='element=int8 block=1,8' --quant-llm-quantize=output=q.safetensors -o q.mlir
// RUN: quant-opt q.mlir --quant-llm-verify-equivalence='reference=m.mlir bound=0.05' -o /dev/null
// RUN: not quant-opt q.mlir --quant-llm-verify-equivalence='reference=m.mlir bound=1e-4' -o /dev/null 2>&1 | FileCheck %s --check-prefix=QUANTIZED
// QUANTIZED: differs by {{.*}}e-0{{[23]}} (relative), more than the bound 1.00e-04

// Wrong options and files.
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence -o /dev/null 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir pipeline=canonicalize' -o /dev/null 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: error: quant-llm-verify-equivalence: expected one of the options 'reference' and 'pipeline'
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='pipeline=no-such-pass' -o /dev/null 2>&1 | FileCheck %s --check-prefix=PASS
// PASS: error: quant-llm-verify-equivalence: invalid option 'pipeline': 'no-such-pass' does not refer to a registered pass
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=none.mlir' -o /dev/null 2>&1 | FileCheck %s --check-prefix=FILE
// FILE: error: quant-llm-verify-equivalence: cannot read a module: {{.*}}none.mlir
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir extent=0' -o /dev/null 2>&1 | FileCheck %s --check-prefix=EXTENT
// EXTENT: error: quant-llm-verify-equivalence: invalid option 'extent': expected an integer from 1 to 1099511627776 but got 0
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir extent=1000000000000' -o /dev/null 2>&1 | FileCheck %s --check-prefix=LARGE
// LARGE: error: quant-llm-verify-equivalence: cannot make argument 0 of @mlp:
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir calls=0' -o /dev/null 2>&1 | FileCheck %s --check-prefix=CALLS
// CALLS: error: quant-llm-verify-equivalence: invalid option 'calls': expected an integer from 1 to 1048576 but got 0
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir bound=nan' -o /dev/null 2>&1 | FileCheck %s --check-prefix=BOUND
// BOUND: error: quant-llm-verify-equivalence: invalid option 'bound': expected a number that is not negative but got nan
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir inputs=x.npy,x.npy' -o /dev/null 2>&1 | FileCheck %s --check-prefix=COUNT
// COUNT: error: quant-llm-verify-equivalence: invalid option 'inputs': expected 1 files for @mlp but got 2
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir inputs=none.npy' -o /dev/null 2>&1 | FileCheck %s --check-prefix=INPUT
// INPUT: error: quant-llm-verify-equivalence: cannot read argument 0 of @mlp: {{.*}}none.npy
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir inputs=wide.npy' -o /dev/null 2>&1 | FileCheck %s --check-prefix=WIDE
// WIDE: error: quant-llm-verify-equivalence: @mlp cannot be run before: {{.*}}[7, 15]
// RUN: not quant-opt m.mlir --quant-llm-verify-equivalence='reference=m.mlir inputs=nan.npy' -o /dev/null 2>&1 | FileCheck %s --check-prefix=NAN
// NAN: error: quant-llm-verify-equivalence: result 0 of @mlp has 112 elements that are not finite before in call 0; compare on other inputs
// RUN: rm q.safetensors && not quant-opt q.mlir --quant-llm-verify-equivalence='reference=m.mlir' -o /dev/null 2>&1 | FileCheck %s --check-prefix=ARCHIVE
// ARCHIVE: error: quant-llm-verify-equivalence: cannot run a module: {{.*}}q.safetensors
// RUN: not quant-opt m.mlir --quant-llm-save-module -o /dev/null 2>&1 | FileCheck %s --check-prefix=OUTPUT
// OUTPUT: error: quant-llm-save-module: invalid option 'output': expected a file to write but got none
// RUN: not quant-opt m.mlir --quant-llm-save-module=output=a.safetensors -o /dev/null 2>&1 | FileCheck %s --check-prefix=OVER
// OVER: error: quant-llm-save-module: 'a.safetensors' is a file of an archive that the module reads; choose another file for 'output'

quant_llm.archive @a "a.safetensors"
quant_llm.parameter @gain from @a : tensor<16xf16>
quant_llm.parameter @up from @a : tensor<24x16xf16>
quant_llm.parameter @gate from @a : tensor<24x16xf32>
quant_llm.parameter @down from @a : tensor<16x24xf32>
func.func @mlp(%x: tensor<?x16xf32>) -> tensor<?x16xf32> {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %size = arith.constant 16.0 : f32
    %eps = arith.constant 1.0e-5 : f32
    %n = tensor.dim %x, %c0 : tensor<?x16xf32>
    %g = quant_llm.get_parameter @gain : tensor<16xf16>
    %u = quant_llm.get_parameter @up : tensor<24x16xf16>
    %t = quant_llm.get_parameter @gate : tensor<24x16xf32>
    %d = quant_llm.get_parameter @down : tensor<16x24xf32>
    %e = tensor.empty(%n) : tensor<?xf32>
    %f = linalg.fill ins(%zero : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
    %s = linalg.generic {indexing_maps = [affine_map<(m, k) -> (m, k)>, affine_map<(m, k) -> (m)>], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<?x16xf32>) outs(%f : tensor<?xf32>) {
    ^bb0(%in: f32, %out: f32):
      %a = arith.mulf %in, %in : f32
      %b = arith.addf %out, %a : f32
      linalg.yield %b : f32
    } -> tensor<?xf32>
    %y0 = tensor.empty(%n) : tensor<?x16xf16>
    %y = linalg.generic {indexing_maps = [affine_map<(m, k) -> (m, k)>, affine_map<(m, k) -> (m)>, affine_map<(m, k) -> (k)>, affine_map<(m, k) -> (m, k)>], iterator_types = ["parallel", "parallel"]} ins(%x, %s, %g : tensor<?x16xf32>, tensor<?xf32>, tensor<16xf16>) outs(%y0 : tensor<?x16xf16>) {
    ^bb0(%in: f32, %sum: f32, %gain: f16, %out: f16):
      %a = arith.divf %sum, %size : f32
      %b = arith.addf %a, %eps : f32
      %r = math.rsqrt %b : f32
      %h = arith.mulf %in, %r : f32
      %w = arith.extf %gain : f16 to f32
      %v = arith.mulf %w, %h : f32
      %o = arith.truncf %v : f32 to f16
      linalg.yield %o : f16
    } -> tensor<?x16xf16>
    %0 = quant_llm.linear %y, %t : (tensor<?x16xf16>, tensor<24x16xf32>) -> tensor<?x24xf32>
    %v = quant_llm.linear %y, %u : (tensor<?x16xf16>, tensor<24x16xf16>) -> tensor<?x24xf32>
    %i = tensor.empty(%n) : tensor<?x24xf32>
    %1 = linalg.generic {indexing_maps = [affine_map<(m, k) -> (m, k)>, affine_map<(m, k) -> (m, k)>, affine_map<(m, k) -> (m, k)>], iterator_types = ["parallel", "parallel"]} ins(%0, %v : tensor<?x24xf32>, tensor<?x24xf32>) outs(%i : tensor<?x24xf32>) {
    ^bb0(%in: f32, %factor: f32, %out: f32):
      %one = arith.constant 1.0 : f32
      %a = arith.negf %in : f32
      %b = math.exp %a : f32
      %c = arith.addf %b, %one : f32
      %q = arith.divf %in, %c : f32
      %w = arith.mulf %q, %factor : f32
      linalg.yield %w : f32
    } -> tensor<?x24xf32>
    %2 = quant_llm.linear %1, %d : (tensor<?x24xf32>, tensor<16x24xf32>) -> tensor<?x16xf32>
    return %2 : tensor<?x16xf32>
}
