// Rotary embeddings in forms that no importer here writes, and experts.
// RUN: split-file %s %t && cd %t
// RUN: %python -c "import numpy as np, safetensors.numpy as s; r = np.random.default_rng(0); s.save_file({name: r.normal(size=(8, 16)).astype(np.float32) for name in 'ab'}, 'w.safetensors'); np.save('x.npy', r.normal(size=(9, 4))); np.save('o.npy', np.array([0, 4, 9], np.int32))"

// Interleaved pairs, no cache, names of nobody.
// RUN: quant-opt interleaved.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=scale random},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefix=SCALE
// SCALE-DAG: quant_llm.scale_channels inverse %{{.*}} by %{{.*}} dims = [0] : tensor<8x16xf32>
// SCALE-DAG: quant_llm.scale_channels %{{.*}} by %{{.*}} dims = [0] : tensor<8x16xf32>
// RUN: quant-opt interleaved.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=orthogonal random seed=4},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefix=ROTATE
// ROTATE-COUNT-2: quant_llm.rotate {{.*}} dims = [0] : tensor<8x16xf32>
// ROTATE-NOT: quant_llm.rotate

// The second half has a coefficient of its own: no rotation of pairs any more, but still linear in each.
// RUN: sed 's/ins(%%a1, %%a0, %%cos, %%sin : /ins(%%a1, %%a0, %%sin, %%cos : /' interleaved.mlir > skewed.mlir
// RUN: quant-opt skewed.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=scale random},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefix=SCALE
// RUN: quant-opt skewed.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=orthogonal random seed=4},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefix=SKEWED
// SKEWED-NOT: quant_llm.rotate

// All channels at once, as Hugging Face's models have it: x * cos + (-x2, x1) * sin, of angles that both halves share.
// RUN: quant-opt concatenated.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=scale random},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefixes=SCALE,SPLIT
// RUN: quant-opt concatenated.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=orthogonal random seed=4},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefixes=ROTATE,SPLIT
// SPLIT-NOT: tensor.concat
// SPLIT-NOT: linalg.negf

// Angles of their own for each half: scales pass, rotations do not.
// RUN: sed 's/tensor.concat dim(1) %%f, %%f/tensor.concat dim(1) %%f, %%g/' concatenated.mlir > angles.mlir
// RUN: quant-opt angles.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=scale random},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefix=SCALE
// RUN: quant-opt angles.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=orthogonal random seed=4},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefix=SKEWED

// What is joined is not of the keys: no embedding.
// RUN: sed 's/extract_slice %%k4\[0, 0, 2\]/extract_slice %%q4[0, 0, 2]/' concatenated.mlir > foreign.mlir
// RUN: not quant-opt foreign.mlir --quant-llm-insert-transforms="sites=query-key transform=scale random" 2>&1 | FileCheck %s --check-prefix=FOREIGN
// FOREIGN: found no site to insert a transform at

// Coefficients that are read in another order: not those of a half. A scalar beside the tensors is read as it is.
// RUN: sed '/ins(%%k4/s/(t, d)/(t, d floordiv 2)/' concatenated.mlir > order.mlir
// RUN: not quant-opt order.mlir --quant-llm-insert-transforms="sites=query-key transform=scale random" 2>&1 | FileCheck %s --check-prefix=FOREIGN
// RUN: sed '/ins(%%k4/{s/(t, h, d)>\], iter/()>, affine_map<(t, h, d) -> (t, h, d)>], iter/;s/%%sin :/%%sin, %%zero :/;s/) outs/, f32) outs/}; s/%%s: f32, %%out/%%s: f32, %%more: f32, %%out/' concatenated.mlir > scalar.mlir
// RUN: quant-opt scalar.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=scale random},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefixes=SCALE,SCALAR
// SCALAR-COUNT-2: f32) outs(

// What is used twice, fifteen times over, stays as small as it was.
// RUN: %python -c "s = open('concatenated.mlir').read(); d = ''.join(f'  %%d{i + 1} = linalg.add ins(%%d{i}, %%d{i} : tensor<?x2x4xf32>, tensor<?x2x4xf32>) outs(%%e : tensor<?x2x4xf32>) -> tensor<?x2x4xf32>\n' for i in range(15)).replace('%%d0', '%%k4'); open('shared.mlir', 'w').write(s.replace('  // One op for all', d + '  // One op for all').replace('ins(%%k4, %%kr', 'ins(%%d15, %%kr'))"
// RUN: quant-opt shared.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=scale random},quant-llm-fold-transforms{max-online=0}"})' -o small.mlir
// RUN: FileCheck %s --check-prefix=SCALE < small.mlir
// RUN: %python -c "assert len(open('small.mlir').readlines()) < 300"

// An embedding of an embedding: nothing of all channels at once is left.
// RUN: %python -c "s = open('concatenated.mlir').read(); a = s.index('  %%k1 ='); b = s.index('  %%s0 ='); again = s[a:b].replace('%%k4', '%%#').replace('%%k', '%%m').replace('%%#', '%%ky'); open('twice.mlir', 'w').write(s[:b] + again + s[b:].replace('%%ky', '%%my'))"
// RUN: quant-opt twice.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=query-key transform=orthogonal random seed=4},quant-llm-fold-transforms{max-online=0}"})' | FileCheck %s --check-prefixes=ROTATE,TWICE
// TWICE-NOT: outs(%{{[a-z0-9_]+}} : tensor<?x2x4xf32>)

// Experts: what is between two grouped linears folds into the rows of every expert and the columns.
// RUN: quant-opt experts.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-fold-transforms{max-online=0}" inputs=x.npy,o.npy})' | FileCheck %s --check-prefix=EXPERTS
// EXPERTS-DAG: quant_llm.scale_channels %{{.*}} by %{{.*}} dims = [0] : tensor<8x4xf32>
// EXPERTS-DAG: quant_llm.scale_channels inverse %{{.*}} by %{{.*}} dims = [1] : tensor<12x4xf32>
// RUN: sed 's/scale_channels %%h by %%s /rotate %%h hadamard 4 /; s/scale_channels inverse %%h1 by %%s /rotate inverse %%h1 hadamard 4 /; s/: tensor<?x4xf32>, tensor<4xf32>$/: tensor<?x4xf32>/' experts.mlir > rotated.mlir
// RUN: quant-opt rotated.mlir --pass-pipeline='builtin.module(quant-llm-verify-equivalence{pipeline="quant-llm-fold-transforms{max-online=0}" inputs=x.npy,o.npy})' | FileCheck %s --check-prefix=ROWS
// ROWS-DAG: quant_llm.rotate %{{.*}} hadamard 4 dims = [0] : tensor<8x4xf32>
// ROWS-DAG: quant_llm.rotate %{{.*}} hadamard 4 dims = [1] : tensor<12x4xf32>
// ROWS-NOT: tensor<?x4xf32> hadamard

//--- interleaved.mlir
quant_llm.archive @w "w.safetensors"
quant_llm.parameter @a from @w : tensor<8x16xf32>
quant_llm.parameter @b from @w : tensor<8x16xf32>
func.func @scores(%x: tensor<3x16xf32>, %cos: tensor<3x2xf32>, %sin: tensor<3x2xf32>) -> tensor<2x3x3xf32> {
  %zero = arith.constant 0.0 : f32
  %wq = quant_llm.get_parameter @a : tensor<8x16xf32>
  %wk = quant_llm.get_parameter @b : tensor<8x16xf32>
  %q = quant_llm.linear %x, %wq : (tensor<3x16xf32>, tensor<8x16xf32>) -> tensor<3x8xf32>
  %k = quant_llm.linear %x, %wk : (tensor<3x16xf32>, tensor<8x16xf32>) -> tensor<3x8xf32>
  %q4 = tensor.expand_shape %q [[0], [1, 2]] output_shape [3, 2, 4] : tensor<3x8xf32> into tensor<3x2x4xf32>
  %k4 = tensor.expand_shape %k [[0], [1, 2]] output_shape [3, 2, 4] : tensor<3x8xf32> into tensor<3x2x4xf32>
  %e = tensor.empty() : tensor<3x2x4xf32>
  %h = tensor.empty() : tensor<3x2x2xf32>
  %a0 = tensor.extract_slice %q4[0, 0, 0] [3, 2, 2] [1, 1, 2] : tensor<3x2x4xf32> to tensor<3x2x2xf32>
  %a1 = tensor.extract_slice %q4[0, 0, 1] [3, 2, 2] [1, 1, 2] : tensor<3x2x4xf32> to tensor<3x2x2xf32>
  %b0 = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%a0, %a1, %cos, %sin : tensor<3x2x2xf32>, tensor<3x2x2xf32>, tensor<3x2xf32>, tensor<3x2xf32>) outs(%h : tensor<3x2x2xf32>) {
  ^bb0(%x0: f32, %x1: f32, %c: f32, %s: f32, %out: f32):
    %0 = arith.mulf %x0, %c : f32
    %1 = arith.mulf %x1, %s : f32
    %2 = arith.subf %0, %1 : f32
    linalg.yield %2 : f32
  } -> tensor<3x2x2xf32>
  %b1 = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%a1, %a0, %cos, %sin : tensor<3x2x2xf32>, tensor<3x2x2xf32>, tensor<3x2xf32>, tensor<3x2xf32>) outs(%h : tensor<3x2x2xf32>) {
  ^bb0(%x1: f32, %x0: f32, %c: f32, %s: f32, %out: f32):
    %0 = arith.mulf %x1, %c : f32
    %1 = arith.mulf %x0, %s : f32
    %2 = arith.addf %0, %1 : f32
    linalg.yield %2 : f32
  } -> tensor<3x2x2xf32>
  %b2 = tensor.insert_slice %b0 into %e[0, 0, 0] [3, 2, 2] [1, 1, 2] : tensor<3x2x2xf32> into tensor<3x2x4xf32>
  %b3 = tensor.insert_slice %b1 into %b2[0, 0, 1] [3, 2, 2] [1, 1, 2] : tensor<3x2x2xf32> into tensor<3x2x4xf32>
  %k0 = tensor.extract_slice %k4[0, 0, 0] [3, 2, 2] [1, 1, 2] : tensor<3x2x4xf32> to tensor<3x2x2xf32>
  %k1 = tensor.extract_slice %k4[0, 0, 1] [3, 2, 2] [1, 1, 2] : tensor<3x2x4xf32> to tensor<3x2x2xf32>
  %c0 = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%k0, %k1, %cos, %sin : tensor<3x2x2xf32>, tensor<3x2x2xf32>, tensor<3x2xf32>, tensor<3x2xf32>) outs(%h : tensor<3x2x2xf32>) {
  ^bb0(%x0: f32, %x1: f32, %c: f32, %s: f32, %out: f32):
    %0 = arith.mulf %x0, %c : f32
    %1 = arith.mulf %x1, %s : f32
    %2 = arith.subf %0, %1 : f32
    linalg.yield %2 : f32
  } -> tensor<3x2x2xf32>
  %c1 = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%k0, %k1, %cos, %sin : tensor<3x2x2xf32>, tensor<3x2x2xf32>, tensor<3x2xf32>, tensor<3x2xf32>) outs(%h : tensor<3x2x2xf32>) {
  ^bb0(%x0: f32, %x1: f32, %c: f32, %s: f32, %out: f32):
    %0 = arith.mulf %x0, %s : f32
    %1 = arith.mulf %x1, %c : f32
    %2 = arith.addf %0, %1 : f32
    linalg.yield %2 : f32
  } -> tensor<3x2x2xf32>
  %c2 = tensor.insert_slice %c0 into %e[0, 0, 0] [3, 2, 2] [1, 1, 2] : tensor<3x2x2xf32> into tensor<3x2x4xf32>
  %c3 = tensor.insert_slice %c1 into %c2[0, 0, 1] [3, 2, 2] [1, 1, 2] : tensor<3x2x2xf32> into tensor<3x2x4xf32>
  %s0 = tensor.empty() : tensor<2x3x3xf32>
  %s1 = linalg.fill ins(%zero : f32) outs(%s0 : tensor<2x3x3xf32>) -> tensor<2x3x3xf32>
  %s2 = linalg.generic {indexing_maps = [affine_map<(h, t, s, d) -> (t, h, d)>, affine_map<(h, t, s, d) -> (s, h, d)>, affine_map<(h, t, s, d) -> (h, t, s)>], iterator_types = ["parallel", "parallel", "parallel", "reduction"]} ins(%b3, %c3 : tensor<3x2x4xf32>, tensor<3x2x4xf32>) outs(%s1 : tensor<2x3x3xf32>) {
  ^bb0(%y: f32, %z: f32, %out: f32):
    %0 = arith.mulf %y, %z : f32
    %1 = arith.addf %out, %0 : f32
    linalg.yield %1 : f32
  } -> tensor<2x3x3xf32>
  return %s2 : tensor<2x3x3xf32>
}

//--- concatenated.mlir
quant_llm.archive @w "w.safetensors"
quant_llm.parameter @a from @w : tensor<8x16xf32>
quant_llm.parameter @b from @w : tensor<8x16xf32>
func.func @scores(%x: tensor<?x16xf32>, %f: tensor<?x2xf32>, %g: tensor<?x2xf32>) -> tensor<2x?x?xf32> {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?x16xf32>
  %zero = arith.constant 0.0 : f32
  %wq = quant_llm.get_parameter @a : tensor<8x16xf32>
  %wk = quant_llm.get_parameter @b : tensor<8x16xf32>
  %q = quant_llm.linear %x, %wq : (tensor<?x16xf32>, tensor<8x16xf32>) -> tensor<?x8xf32>
  %k = quant_llm.linear %x, %wk : (tensor<?x16xf32>, tensor<8x16xf32>) -> tensor<?x8xf32>
  %q4 = tensor.expand_shape %q [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
  %k4 = tensor.expand_shape %k [[0], [1, 2]] output_shape [%n, 2, 4] : tensor<?x8xf32> into tensor<?x2x4xf32>
  %angles = tensor.concat dim(1) %f, %f : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x4xf32>
  %e2 = tensor.empty(%n) : tensor<?x4xf32>
  %cos = linalg.generic {indexing_maps = [affine_map<(t, d) -> (t, d)>, affine_map<(t, d) -> (t, d)>], iterator_types = ["parallel", "parallel"]} ins(%angles : tensor<?x4xf32>) outs(%e2 : tensor<?x4xf32>) {
  ^bb0(%angle: f32, %out: f32):
    %0 = math.cos %angle : f32
    linalg.yield %0 : f32
  } -> tensor<?x4xf32>
  %sin = linalg.generic {indexing_maps = [affine_map<(t, d) -> (t, d)>, affine_map<(t, d) -> (t, d)>], iterator_types = ["parallel", "parallel"]} ins(%angles : tensor<?x4xf32>) outs(%e2 : tensor<?x4xf32>) {
  ^bb0(%angle: f32, %out: f32):
    %0 = math.sin %angle : f32
    linalg.yield %0 : f32
  } -> tensor<?x4xf32>
  %cos3 = tensor.expand_shape %cos [[0, 1], [2]] output_shape [%n, 1, 4] : tensor<?x4xf32> into tensor<?x1x4xf32>
  %sin3 = tensor.expand_shape %sin [[0, 1], [2]] output_shape [%n, 1, 4] : tensor<?x4xf32> into tensor<?x1x4xf32>
  %e = tensor.empty(%n) : tensor<?x2x4xf32>
  %h = tensor.empty(%n) : tensor<?x2x2xf32>
  // One op for each step, and halves that are joined by tensor.concat.
  %q1 = tensor.extract_slice %q4[0, 0, 0] [%n, 2, 2] [1, 1, 1] : tensor<?x2x4xf32> to tensor<?x2x2xf32>
  %q2 = tensor.extract_slice %q4[0, 0, 2] [%n, 2, 2] [1, 1, 1] : tensor<?x2x4xf32> to tensor<?x2x2xf32>
  %q2n = linalg.negf ins(%q2 : tensor<?x2x2xf32>) outs(%h : tensor<?x2x2xf32>) -> tensor<?x2x2xf32>
  %qr = tensor.concat dim(2) %q2n, %q1 : (tensor<?x2x2xf32>, tensor<?x2x2xf32>) -> tensor<?x2x4xf32>
  %qc = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, 0, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%q4, %cos3 : tensor<?x2x4xf32>, tensor<?x1x4xf32>) outs(%e : tensor<?x2x4xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %0 = arith.mulf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?x2x4xf32>
  %qs = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, 0, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%qr, %sin3 : tensor<?x2x4xf32>, tensor<?x1x4xf32>) outs(%e : tensor<?x2x4xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %0 = arith.mulf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?x2x4xf32>
  %qy = linalg.add ins(%qc, %qs : tensor<?x2x4xf32>, tensor<?x2x4xf32>) outs(%e : tensor<?x2x4xf32>) -> tensor<?x2x4xf32>
  // One op for all of them, and halves that are inserted.
  %k1 = tensor.extract_slice %k4[0, 0, 0] [%n, 2, 2] [1, 1, 1] : tensor<?x2x4xf32> to tensor<?x2x2xf32>
  %k2 = tensor.extract_slice %k4[0, 0, 2] [%n, 2, 2] [1, 1, 1] : tensor<?x2x4xf32> to tensor<?x2x2xf32>
  %k2n = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%k2 : tensor<?x2x2xf32>) outs(%h : tensor<?x2x2xf32>) {
  ^bb0(%a: f32, %out: f32):
    %0 = arith.negf %a : f32
    linalg.yield %0 : f32
  } -> tensor<?x2x2xf32>
  %kr0 = tensor.insert_slice %k2n into %e[0, 0, 0] [%n, 2, 2] [1, 1, 1] : tensor<?x2x2xf32> into tensor<?x2x4xf32>
  %kr = tensor.insert_slice %k1 into %kr0[0, 0, 2] [%n, 2, 2] [1, 1, 1] : tensor<?x2x2xf32> into tensor<?x2x4xf32>
  %ky = linalg.generic {indexing_maps = [affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, h, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, d)>, affine_map<(t, h, d) -> (t, h, d)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%k4, %kr, %cos, %sin : tensor<?x2x4xf32>, tensor<?x2x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) outs(%e : tensor<?x2x4xf32>) {
  ^bb0(%a: f32, %r: f32, %c: f32, %s: f32, %out: f32):
    %0 = arith.mulf %a, %c : f32
    %1 = arith.mulf %r, %s : f32
    %2 = arith.addf %0, %1 : f32
    linalg.yield %2 : f32
  } -> tensor<?x2x4xf32>
  %s0 = tensor.empty(%n, %n) : tensor<2x?x?xf32>
  %s1 = linalg.fill ins(%zero : f32) outs(%s0 : tensor<2x?x?xf32>) -> tensor<2x?x?xf32>
  %s2 = linalg.generic {indexing_maps = [affine_map<(h, t, s, d) -> (t, h, d)>, affine_map<(h, t, s, d) -> (s, h, d)>, affine_map<(h, t, s, d) -> (h, t, s)>], iterator_types = ["parallel", "parallel", "parallel", "reduction"]} ins(%qy, %ky : tensor<?x2x4xf32>, tensor<?x2x4xf32>) outs(%s1 : tensor<2x?x?xf32>) {
  ^bb0(%y: f32, %z: f32, %out: f32):
    %0 = arith.mulf %y, %z : f32
    %1 = arith.addf %out, %0 : f32
    linalg.yield %1 : f32
  } -> tensor<2x?x?xf32>
  return %s2 : tensor<2x?x?xf32>
}

//--- experts.mlir
func.func @experts(%x: tensor<?x4xf32>, %o: tensor<3xi32>) -> tensor<?x6xf32> {
  %up = arith.constant dense<[[1.0, 2.0, 0.5, -1.0], [0.25, 1.0, 3.0, -2.0], [1.5, -0.5, 1.0, 1.0], [2.0, 1.0, 1.0, 0.0], [1.0, 1.0, -1.0, 1.0], [0.0, 1.0, 0.5, 1.0], [1.0, -2.0, 1.0, 1.0], [3.0, 1.0, 1.0, 0.5]]> : tensor<8x4xf32>
  %bias = arith.constant dense<[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> : tensor<8xf32>
  %down = arith.constant dense<0.5> : tensor<12x4xf32>
  %s = arith.constant dense<[1.0, 2.0, 4.0, 8.0]> : tensor<4xf32>
  %h = quant_llm.grouped_linear %x, %up offsets(%o : tensor<3xi32>) epilogue(%bias : tensor<8xf32>) {
  ^bb0(%acc: f32, %b: f32):
    %0 = arith.addf %acc, %b : f32
    quant_llm.yield %0 : f32
  } : (tensor<?x4xf32>, tensor<8x4xf32>) -> tensor<?x4xf32>
  %h1 = quant_llm.scale_channels %h by %s dims = [1] : tensor<?x4xf32>, tensor<4xf32>
  %h2 = quant_llm.scale_channels inverse %h1 by %s dims = [1] : tensor<?x4xf32>, tensor<4xf32>
  %y = quant_llm.grouped_linear %h2, %down offsets(%o : tensor<3xi32>) : (tensor<?x4xf32>, tensor<12x4xf32>) -> tensor<?x6xf32>
  return %y : tensor<?x6xf32>
}
