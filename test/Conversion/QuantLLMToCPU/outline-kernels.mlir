// RUN: quant-opt %s --quant-llm-outline-kernels=parallel=false | FileCheck %s
// RUN: quant-opt %s --quant-llm-outline-kernels | FileCheck %s --check-prefix=OMP
// RUN: quant-opt %s --quant-llm-outline-kernels="fuse=false fast-math=false" | FileCheck %s --check-prefix=SINGLE

#whole = affine_map<(t, c) -> (t, c)>
#row = affine_map<(t, c) -> (t)>
#column = affine_map<(t, c) -> (c)>
#id = affine_map<(t) -> (t)>

// Two normalizations, one after the other, run row by row in one kernel: the sums
// are registers, the tensor between them is one row.
// CHECK-LABEL: func.func @norms
// CHECK-NOT: linalg
// CHECK: quant_llm.dispatch @[[K:.*]] ins(
// CHECK-NEXT: return
// OMP-LABEL: func.func @norms
// SINGLE-LABEL: func.func @norms
// SINGLE-COUNT-4: quant_llm.dispatch
func.func @norms(%x: tensor<?x576xf32>, %w: tensor<576xf32>) -> tensor<?x576xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %eps = arith.constant 1.0e-5 : f32
  %n = tensor.dim %x, %c0 : tensor<?x576xf32>
  %e1 = tensor.empty(%n) : tensor<?xf32>
  %e2 = tensor.empty(%n) : tensor<?x576xf32>
  %fill = linalg.fill ins(%zero : f32) outs(%e1 : tensor<?xf32>) -> tensor<?xf32>
  %sum = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<?x576xf32>) outs(%fill : tensor<?xf32>) {
  ^bb0(%a: f32, %acc: f32):
    %p = arith.mulf %a, %a : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  } -> tensor<?xf32>
  %y = linalg.generic {indexing_maps = [#whole, #row, #column, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%x, %sum, %w : tensor<?x576xf32>, tensor<?xf32>, tensor<576xf32>) outs(%e2 : tensor<?x576xf32>) {
  ^bb0(%a: f32, %s: f32, %b: f32, %out: f32):
    %q = arith.addf %s, %eps : f32
    %r = math.sqrt %q : f32
    %d = arith.divf %a, %r : f32
    %m = arith.mulf %d, %b : f32
    linalg.yield %m : f32
  } -> tensor<?x576xf32>
  %sum2 = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "reduction"]}
      ins(%y : tensor<?x576xf32>) outs(%fill : tensor<?xf32>) {
  ^bb0(%a: f32, %acc: f32):
    %p = arith.mulf %a, %a : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  } -> tensor<?xf32>
  %z = linalg.generic {indexing_maps = [#whole, #row, #column, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%y, %sum2, %w : tensor<?x576xf32>, tensor<?xf32>, tensor<576xf32>) outs(%e2 : tensor<?x576xf32>) {
  ^bb0(%a: f32, %s: f32, %b: f32, %out: f32):
    %q = arith.addf %s, %eps : f32
    %r = math.sqrt %q : f32
    %d = arith.divf %a, %r : f32
    %m = arith.mulf %d, %b : f32
    linalg.yield %m : f32
  } -> tensor<?x576xf32>
  return %z : tensor<?x576xf32>
}

// An index from the data is compared with the extent; one that is masked is not.
// CHECK-LABEL: func.func @gather
// CHECK: quant_llm.dispatch @[[G:.*]] ins(
func.func @gather(%i: tensor<?xi64>, %table: tensor<16xf32>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %i, %c0 : tensor<?xi64>
  %e = tensor.empty(%n) : tensor<?xf32>
  %y = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%i : tensor<?xi64>) outs(%e : tensor<?xf32>) {
  ^bb0(%a: i64, %out: f32):
    %j = arith.index_cast %a : i64 to index
    %c15 = arith.constant 15 : i64
    %b = arith.andi %a, %c15 : i64
    %k = arith.index_cast %b : i64 to index
    %u = tensor.extract %table[%j] : tensor<16xf32>
    %v = tensor.extract %table[%k] : tensor<16xf32>
    %s = arith.addf %u, %v : f32
    linalg.yield %s : f32
  } -> tensor<?xf32>
  return %y : tensor<?xf32>
}

// CHECK: func.func private @[[K]](%[[X:.*]]: memref<?x576xf32, strided<[?, 1], offset: ?>>
// CHECK-SAME: quant_llm.kernel
// CHECK: %[[ROW:.*]] = memref.alloc() {alignment = 64 : i64} : memref<576xf32>
// CHECK: scf.for
// CHECK: %[[S:.*]] = scf.for {{.*}} iter_args
// CHECK: arith.addf {{.*}} fastmath<reassoc,contract>
// CHECK: scf.for
// CHECK: arith.addf %[[S]]
// CHECK: memref.store {{.*}}, %[[ROW]]
// CHECK: scf.for {{.*}} iter_args
// CHECK: memref.load %[[ROW]]
// CHECK: memref.dealloc %[[ROW]]
// OMP: %[[LARGE:.*]] = arith.cmpi sge
// OMP: omp.parallel if(%[[LARGE]])
// OMP: omp.loop_nest
// SINGLE-NOT: fastmath

// CHECK: func.func private @[[G]](
// CHECK: arith.cmpi ult
// CHECK: scf.if
// CHECK: func.call @__quant_llm_index_fault
// CHECK-NOT: arith.cmpi ult
// CHECK: return
