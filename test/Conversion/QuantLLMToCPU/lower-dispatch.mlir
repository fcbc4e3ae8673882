// RUN: quant-opt %s --quant-llm-lower-dispatch | FileCheck %s
// RUN: quant-opt %s --quant-llm-lower-dispatch --expand-strided-metadata | FileCheck %s --check-prefix=EXPANDED

// Upstream cannot lower two dynamic extents in one group.
// CHECK-LABEL: func.func @two
// CHECK-NOT: memref.expand_shape
// CHECK: memref.reinterpret_cast %{{.*}} to offset: [%{{.*}}], sizes: [%arg1, %arg2, 4], strides: [%{{.*}}, 4, 1]
// EXPANDED-LABEL: func.func @two
// EXPANDED-NOT: memref.expand_shape
func.func @two(%x: memref<?x4xf32, strided<[4, 1], offset: ?>>, %m: index, %n: index) -> memref<?x?x4xf32, strided<[?, 4, 1], offset: ?>> {
  %y = memref.expand_shape %x [[0, 1], [2]] output_shape [%m, %n, 4]
    : memref<?x4xf32, strided<[4, 1], offset: ?>> into memref<?x?x4xf32, strided<[?, 4, 1], offset: ?>>
  return %y : memref<?x?x4xf32, strided<[?, 4, 1], offset: ?>>
}

// CHECK-LABEL: func.func @one
// CHECK: memref.expand_shape
func.func @one(%x: memref<?xf32>, %m: index) -> memref<?x4xf32> {
  %y = memref.expand_shape %x [[0, 1]] output_shape [%m, 4] : memref<?xf32> into memref<?x4xf32>
  return %y : memref<?x4xf32>
}
