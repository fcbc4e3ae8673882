// RUN: quant-opt %s --convert-quant-llm-to-linalg | FileCheck %s
// RUN: quant-opt %s --convert-quant-llm-to-cpu='vector-bits=128' | FileCheck %s --check-prefix=CPU

#int4 = #quant_llm.scheme<int4, block = [1, 8], scale = f16>
#rows = #quant_llm.scheme<int8, block = [3, 8], scale = f16>

// A loop over the experts with a linear of each.
// CHECK-LABEL: func.func @experts
// CHECK-SAME:    %[[X:.*]]: tensor<?x8xf32>, %[[CODES:.*]]: tensor<12x4xi8>, %[[SCALES:.*]]: tensor<12x1xf16>, %[[BIAS:.*]]: tensor<12xf32>, %[[O:.*]]: tensor<4xi32>
// CHECK-DAG:     %[[C0:.*]] = arith.constant 0 : index
// CHECK-DAG:     %[[C1:.*]] = arith.constant 1 : index
// CHECK-DAG:     %[[C3:.*]] = arith.constant 3 : index
// CHECK-DAG:     %[[C4:.*]] = arith.constant 4 : index
// CHECK-DAG:     %[[T:.*]] = tensor.dim %[[X]], %[[C0]]
// CHECK:         scf.for %[[E:.*]] = %[[C0]] to %[[C3]] step %[[C1]] iter_args(%[[Y:.*]] = %{{.*}}) -> (tensor<?x4xf32>)
// CHECK:           %[[NEXT:.*]] = arith.addi %[[E]], %[[C1]]
// Offsets stay inside.
// CHECK:           tensor.extract %[[O]][%[[E]]]
// CHECK:           arith.maxsi
// CHECK:           %[[B:.*]] = arith.minsi %{{.*}}, %[[T]]
// CHECK:           tensor.extract %[[O]][%[[NEXT]]]
// CHECK:           arith.maxsi %{{.*}}, %[[B]]
// CHECK:           %[[END:.*]] = arith.minsi %{{.*}}, %[[T]]
// CHECK:           %[[N:.*]] = arith.subi %[[END]], %[[B]]
// CHECK-DAG:       %[[ROW:.*]] = arith.muli %[[E]], %[[C4]]
// CHECK-DAG:       tensor.extract_slice %[[CODES]][%{{.*}}, 0] [4, 4] [1, 1]
// CHECK-DAG:       tensor.extract_slice %[[SCALES]][%{{.*}}, 0] [4, 1] [1, 1]
// CHECK-DAG:       tensor.extract_slice %[[BIAS]][%{{.*}}] [4] [1]
// CHECK-DAG:       %[[XE:.*]] = tensor.extract_slice %[[X]][%[[B]], 0] [%[[N]], 8] [1, 1]
// CHECK:           linalg.generic {{.*}}iterator_types = ["parallel", "parallel", "reduction"]
// CHECK-SAME:        ins(%[[XE]],
// CHECK:           linalg.generic {{.*}}iterator_types = ["parallel", "parallel"]
// CHECK:           tensor.insert_slice %{{.*}} into %[[Y]][%[[B]], 0] [%[[N]], 4] [1, 1]
// CHECK-NOT:     quant_llm
// CPU-LABEL: func.func @experts
// CPU:         scf.for
// CPU:           quant_llm.dispatch @
// CPU-NOT:     quant_llm.grouped_linear
func.func @experts(%x: tensor<?x8xf32>, %codes: tensor<12x4xi8>, %scales: tensor<12x1xf16>, %bias: tensor<12xf32>, %o: tensor<4xi32>) -> tensor<?x4xf32> {
  %w = quant_llm.assemble %codes, %scales : (tensor<12x4xi8>, tensor<12x1xf16>) -> !quant_llm.weight<12x8xf16, #int4>
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<4xi32>) epilogue(%bias : tensor<12xf32>) {
  ^bb0(%acc: f32, %b: f32):
    %1 = arith.addf %acc, %b : f32
    quant_llm.yield %1 : f32
  } : (tensor<?x8xf32>, !quant_llm.weight<12x8xf16, #int4>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// A block with rows of two experts: the matrix is dequantized as a whole.
// CHECK-LABEL: func.func @shared_block
// CHECK:         linalg.generic
// CHECK:         arith.mulf
// CHECK:         scf.for
// CHECK:           tensor.extract_slice %{{.*}} [4, 8] [1, 1] : tensor<12x8xf32> to tensor<4x8xf32>
func.func @shared_block(%x: tensor<5x8xf32>, %codes: tensor<12x8xi8>, %scales: tensor<4x1xf16>, %o: tensor<4xi64>) -> tensor<5x4xf32> {
  %w = quant_llm.assemble %codes, %scales : (tensor<12x8xi8>, tensor<4x1xf16>) -> !quant_llm.weight<12x8xf16, #rows>
  %0 = quant_llm.grouped_linear %x, %w offsets(%o : tensor<4xi64>) : (tensor<5x8xf32>, !quant_llm.weight<12x8xf16, #rows>) -> tensor<5x4xf32>
  return %0 : tensor<5x4xf32>
}
