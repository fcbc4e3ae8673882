// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-insert-checks

// Each module has an op in front of which no check could find what goes wrong.

func.func @view(%a: memref<4xf32>, %n: index) -> memref<?xf32> {
  // expected-error @+1 {{expected an op whose accesses to memory can be checked: alloc, cast, collapse_shape,}}
  %0 = memref.reinterpret_cast %a to offset: [0], sizes: [%n], strides: [1] : memref<4xf32> to memref<?xf32>
  return %0 : memref<?xf32>
}

// -----

func.func @stack(%n: index) {
  // expected-error @+1 {{expected an op whose accesses to memory can be checked}}
  %0 = memref.alloca(%n) : memref<?xf32>
  return
}

// -----

func.func @strides(%a: memref<4x4xf32, strided<[?, 1]>>) -> memref<4x4xf32> {
  // expected-error @+1 {{expected a cast that promises no strides and offset that its source does not have, which cannot be checked}}
  %0 = memref.cast %a : memref<4x4xf32, strided<[?, 1]>> to memref<4x4xf32>
  return %0 : memref<4x4xf32>
}

// -----

func.func @free(%a: tensor<?xf32>) {
  // expected-error @+1 {{expected an op whose accesses to memory can be checked: alloc_tensor,}}
  bufferization.dealloc_tensor %a : tensor<?xf32>
  return
}

// -----

func.func @vector(%a: tensor<?xf32>, %i: index) -> vector<8xf32> {
  %zero = arith.constant 0.0 : f32
  // expected-error @+1 {{expected no access to tensors and buffers as vectors, which cannot be checked}}
  %0 = vector.transfer_read %a[%i], %zero {in_bounds = [true]} : tensor<?xf32>, vector<8xf32>
  return %0 : vector<8xf32>
}

// -----

func.func @pointer(%a: i64) -> i64 {
  // expected-error @+1 {{expected no op of the dialect 'llvm', whose accesses to memory cannot be checked; write it with scf and memref}}
  %p = llvm.inttoptr %a : i64 to !llvm.ptr
  %0 = llvm.load %p : !llvm.ptr -> i64
  return %0 : i64
}

// -----

// expected-error @+1 {{expected no op of the dialect 'llvm'}}
llvm.func @pointer(%p: !llvm.ptr) -> i64 {
  %0 = llvm.load %p : !llvm.ptr -> i64
  llvm.return %0 : i64
}

// -----

func.func @parallel() {
  // expected-error @+1 {{expected no op of the dialect 'omp'}}
  omp.parallel {
    omp.terminator
  }
  return
}

// -----

func.func @undefined(%a: tensor<4xf32>) -> f32 {
  // expected-error @+1 {{expected defined values; an op with constant operands for which it is undefined folds to this}}
  %i = ub.poison : index
  %0 = tensor.extract %a[%i] : tensor<4xf32>
  return %0 : f32
}

// -----

func.func @rank(%a: tensor<?xf32>) -> index {
  %c1 = arith.constant 1 : index
  // expected-error @+1 {{expected a dimension below the rank 1 but got 1}}
  %0 = tensor.dim %a, %c1 : tensor<?xf32>
  return %0 : index
}

// -----

func.func @body(%a: tensor<?xf32>, %d: tensor<4xf32>) -> tensor<4xf32> {
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>], iterator_types = ["parallel"]} outs(%d : tensor<4xf32>) {
  ^bb0(%y: f32):
    %i = linalg.index 0 : index
    // expected-error @+1 {{expected no access to tensors and buffers in the body of another op, where it cannot be checked, but for tensor.extract of a number and tensor.dim of a constant dimension}}
    %n = tensor.dim %a, %i : tensor<?xf32>
    linalg.yield %y : f32
  } -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @map(%a: tensor<?xf32>, %d: tensor<?xf32>) -> tensor<?xf32> {
  // expected-error @+1 {{expected indexing maps without large numbers and divisions by others than positive ones, but got affine_map<(d0) -> (d0 * 1000000000000)>}}
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i * 1000000000000)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%a : tensor<?xf32>) outs(%d : tensor<?xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}

// -----

// expected-error @+1 {{expected a value, since nothing else defines it}}
memref.global "private" @elsewhere : memref<4xf32>

// -----

func.func private @elsewhere(i64) -> i64
func.func @call(%a: i64) -> i64 {
  // expected-error @+1 {{expected a function of the module, but 'elsewhere' is only declared, and code from elsewhere is not called}}
  %0 = func.call @elsewhere(%a) : (i64) -> i64
  return %0 : i64
}

// -----

func.func private @elsewhere(i64) -> i64
func.func @pointer(%a: i64) -> i64 {
  // expected-error @+1 {{expected a function of the module}}
  %f = func.constant @elsewhere : (i64) -> i64
  %0 = func.call_indirect %f(%a) : (i64) -> i64
  return %0 : i64
}

// -----

func.func @beside() {
  return
}
// expected-error @+1 {{expected functions at the top level of the module, where they can be checked}}
module @nested {
  func.func @f() {
    return
  }
}

// -----

func.func @endless(%a: i32) -> i32 {
  // expected-error @+1 {{expected functions that do not call themselves, since the stack is finite, but got a call of 'endless', which leads here; write a loop}}
  %0 = func.call @endless(%a) : (i32) -> i32
  return %0 : i32
}

// -----

func.func @first(%a: i32) -> i32 {
  %0 = func.call @second(%a) : (i32) -> i32
  return %0 : i32
}
func.func @second(%a: i32) -> i32 {
  // expected-error @+1 {{but got a call of 'first', which leads here}}
  %f = func.constant @first : (i32) -> i32
  %0 = func.call_indirect %f(%a) : (i32) -> i32
  return %0 : i32
}

// -----

// Not a cycle.
func.func @leaf(%a: i32) -> i32 {
  return %a : i32
}
func.func @left(%a: i32) -> i32 {
  %0 = func.call @leaf(%a) : (i32) -> i32
  return %0 : i32
}
func.func @top(%a: i32) -> i32 {
  %0 = func.call @left(%a) : (i32) -> i32
  %1 = func.call @left(%0) : (i32) -> i32
  %2 = func.call @leaf(%1) : (i32) -> i32
  return %2 : i32
}

// -----

// Bounds of what a map gives would change places.
func.func @negative(%x: tensor<?xf32>, %y: tensor<?xf32>) -> tensor<?xf32> {
  // expected-error @below {{expected indexing maps without large numbers and divisions by others than positive ones, but got affine_map<(d0) -> (d0 floordiv -2)>}}
  %0 = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0 floordiv -2)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}
      ins(%x : tensor<?xf32>) outs(%y : tensor<?xf32>) {
  ^bb0(%a: f32, %b: f32):
    linalg.yield %a : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}

// -----

func.func @lane(%x: tensor<4xindex>, %v: vector<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  %0 = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}
      ins(%x : tensor<4xindex>) outs(%y : tensor<4xf32>) {
  ^bb0(%i: index, %o: f32):
    // expected-error @below {{expected constant positions in a vector in the body of another op, where they cannot be checked}}
    %e = vector.extract %v[%i] : f32 from vector<4xf32>
    linalg.yield %e : f32
  } -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// expected-error @below {{'func.func' op expected vectors of a fixed number of elements but got 'vector<[4]xf32>'; write the number without brackets}}
func.func private @scalable_argument(%v: vector<[4]xf32>)

// -----

func.func @scalable(%x: f32) -> f32 {
  // expected-error @below {{expected vectors of a fixed number of elements but got 'vector<2x[4]xf32>'}}
  %0 = vector.broadcast %x : f32 to vector<2x[4]xf32>
  %1 = vector.extract %0[0, 0] : f32 from vector<2x[4]xf32>
  return %1 : f32
}

// -----

func.func @scalable_block(%x: f32) -> f32 {
  // expected-error @below {{expected vectors of a fixed number of elements but got 'vector<[4]xf32>'}}
  %0 = scf.execute_region -> f32 {
    scf.yield %x : f32
  ^bb1(%v: vector<[4]xf32>):
    scf.yield %x : f32
  }
  return %0 : f32
}

// -----

func.func @scale() -> index {
  // expected-error @below {{expected a number of elements that is fixed}}
  %0 = vector.vscale
  return %0 : index
}

// -----

func.func @stride(%a: tensor<?xf32>, %n: index) -> tensor<?xf32> {
  // expected-error @+1 {{expected strides of slices that are positive but got 0}}
  %0 = tensor.extract_slice %a[0] [%n] [0] : tensor<?xf32> to tensor<?xf32>
  return %0 : tensor<?xf32>
}

// -----

func.func @constant_stride(%a: tensor<?xf32>, %b: tensor<?xf32>, %n: index) -> tensor<?xf32> {
  %s = arith.constant -2 : index
  // expected-error @+1 {{expected strides of slices that are positive but got -2}}
  %0 = tensor.insert_slice %a into %b[0] [%n] [%s] : tensor<?xf32> into tensor<?xf32>
  return %0 : tensor<?xf32>
}

// -----

func.func @shuffle(%v: vector<2xindex>) -> vector<2xindex> {
  // expected-error @+1 {{expected positions of elements of a vector but got -1, for which the result is undefined}}
  %0 = vector.shuffle %v, %v [-1, 0] : vector<2xindex>, vector<2xindex>
  return %0 : vector<2xindex>
}

// -----

func.func @extract(%v: vector<2xindex>, %d: tensor<4xindex>) -> tensor<4xindex> {
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>], iterator_types = ["parallel"]} outs(%d : tensor<4xindex>) {
  ^bb0(%y: index):
    // expected-error @+1 {{expected positions of elements of a vector but got -1}}
    %i = vector.extract %v[-1] : index from vector<2xindex>
    linalg.yield %i : index
  } -> tensor<4xindex>
  return %0 : tensor<4xindex>
}

// -----

func.func @insert(%v: vector<2xindex>, %i: index) -> vector<2xindex> {
  // expected-error @+1 {{expected positions of elements of a vector but got -1}}
  %0 = vector.insert %i, %v[-1] : index into vector<2xindex>
  return %0 : vector<2xindex>
}

// -----

// The number is the operand, not the position that it would be in memory.
func.func @offset(%a: tensor<?x16xf32>) -> tensor<2x2xf32> {
  %m = arith.constant 9223372036854775807 : index
  // expected-error @+1 {{expected offsets of slices that are not negative, and in a tensor that fits into memory, but got 9223372036854775807}}
  %0 = tensor.extract_slice %a[%m, 5] [2, 2] [1, 1] : tensor<?x16xf32> to tensor<2x2xf32>
  return %0 : tensor<2x2xf32>
}

// -----

func.func @offset_times_extents(%a: tensor<2x2xf32>, %b: tensor<?x4294967296x4294967296xf32>) -> tensor<?x4294967296x4294967296xf32> {
  // expected-error @+1 {{that fits into memory, but got 1}}
  %0 = tensor.insert_slice %a into %b[1, 0, 0] [1, 2, 2] [1, 1, 1] : tensor<2x2xf32> into tensor<?x4294967296x4294967296xf32>
  return %0 : tensor<?x4294967296x4294967296xf32>
}

// -----

func.func @offset_times_stride(%a: memref<?x16xf32, strided<[1152921504606846976, 1]>>, %b: memref<2xf32>) {
  %m = arith.constant 3 : index
  // expected-error @+1 {{that fits into memory, but got 3}}
  %0 = memref.subview %a[%m, 5] [1, 2] [1, 1] : memref<?x16xf32, strided<[1152921504606846976, 1]>> to memref<2xf32, strided<[1], offset: ?>>
  memref.copy %0, %b : memref<2xf32, strided<[1], offset: ?>> to memref<2xf32>
  return
}

// -----

func.func @negative_offset(%a: tensor<?x16xf32>) -> tensor<2x2xf32> {
  %m = arith.constant -1 : index
  // expected-error @+1 {{but got -1}}
  %0 = tensor.extract_slice %a[%m, 5] [2, 2] [1, 1] : tensor<?x16xf32> to tensor<2x2xf32>
  return %0 : tensor<2x2xf32>
}

// -----

// Each product is small enough, but not the sum.
func.func @far_offsets(%a: tensor<?x?x?x?x?xf32>) -> tensor<1x1x1x1x1xf32> {
  // expected-error @+1 {{expected offsets of slices that are not negative, and in a tensor that fits into memory, but got 2305843009213693952}}
  %0 = tensor.extract_slice %a[2305843009213693952, 2305843009213693952, 2305843009213693952, 2305843009213693952, 2305843009213693952] [1, 1, 1, 1, 1] [1, 1, 1, 1, 1] : tensor<?x?x?x?x?xf32> to tensor<1x1x1x1x1xf32>
  return %0 : tensor<1x1x1x1x1xf32>
}

// -----

func.func @far_backwards(%a: memref<?xf32, strided<[-4096], offset: ?>>, %b: memref<1xf32>) {
  // expected-error @+1 {{but got 2251799813685248}}
  %0 = memref.subview %a[2251799813685248] [1] [1] : memref<?xf32, strided<[-4096], offset: ?>> to memref<1xf32, strided<[-4096], offset: ?>>
  memref.copy %0, %b : memref<1xf32, strided<[-4096], offset: ?>> to memref<1xf32>
  return
}

// -----

func.func @vector_power(%a: vector<4xi64>) -> vector<4xi64> {
  // expected-error @+1 {{expected a division, a shift, a power or a conversion to an integer of numbers or ranked tensors, which can be checked, but got one of 'vector<4xi64>'}}
  %0 = math.ipowi %a, %a : vector<4xi64>
  return %0 : vector<4xi64>
}

// -----

func.func @epilogue_power(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>) -> tensor<?x4xf32> {
  %0 = quant_llm.linear %x, %w epilogue {
  ^bb0(%a: f32):
    %i = arith.fptosi %a : f32 to i32
    // expected-error @+1 {{expected an exponent in an epilogue to be a constant that is not negative, since it cannot be checked there}}
    %p = math.ipowi %i, %i : i32
    %f = arith.sitofp %p : i32 to f32
    quant_llm.yield %f : f32
  } : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// -----

func.func @small_floats(%a: tensor<4xf8E4M3FN>) -> tensor<4xf8E4M3FN> {
  // expected-error @+1 {{'arith.addf' op expected f16, bf16, f32 or f64 but got 'f8E4M3FN', for which there is no arithmetic; weights and activations of small floats are those of quant_llm ops, others are decoded from their bits (arith.bitcast)}}
  %0 = arith.addf %a, %a : tensor<4xf8E4M3FN>
  return %0 : tensor<4xf8E4M3FN>
}

// -----

func.func @from_small_floats(%a: tensor<4xf8E5M2>, %d: tensor<4xf32>) -> tensor<4xf32> {
  %0 = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]} ins(%a : tensor<4xf8E5M2>) outs(%d : tensor<4xf32>) {
  ^bb0(%x: f8E5M2, %y: f32):
    // expected-error @+1 {{expected f16, bf16, f32 or f64 but got 'f8E5M2'}}
    %1 = arith.extf %x : f8E5M2 to f32
    linalg.yield %1 : f32
  } -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @tf32(%a: f32) -> i1 {
  // expected-error @+1 {{expected f16, bf16, f32 or f64 but got 'tf32'}}
  %0 = arith.truncf %a : f32 to tf32
  %1 = arith.cmpf olt, %0, %0 : tf32
  return %1 : i1
}

// -----

func.func @f128(%a: f64) -> f64 {
  // expected-error @+1 {{expected f16, bf16, f32 or f64 but got 'f128'}}
  %0 = arith.extf %a : f64 to f128
  %1 = arith.truncf %0 : f128 to f64
  return %1 : f64
}

// -----

// Sizes for which patterns of upstream make buffers that do not exist.

func.func @pad(%a: tensor<?xf32>) -> tensor<?xf32> {
  %low = arith.constant -5 : index
  %high = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  // expected-error @+1 {{expected paddings that are not negative, and of a tensor that fits into memory, but got -5}}
  %0 = tensor.pad %a low[%low] high[%high] {
  ^bb0(%i: index):
    tensor.yield %zero : f32
  } : tensor<?xf32> to tensor<?xf32>
  return %0 : tensor<?xf32>
}

// -----

func.func @expand(%a: tensor<?xf32>, %n: index) -> tensor<?x?xf32> {
  %size = arith.constant 0x7fffffffffffffff : index
  // expected-error @+1 {{expected sizes that are not negative, and of a tensor that fits into memory, but got 9223372036854775807}}
  %0 = tensor.expand_shape %a [[0, 1]] output_shape [%n, %size] : tensor<?xf32> into tensor<?x?xf32>
  return %0 : tensor<?x?xf32>
}

// -----

func.func @extract(%a: tensor<4x8xf32>, %i: index) -> tensor<?x8xf32> {
  %size = arith.constant 5 : index
  // expected-error @+1 {{expected a slice of at most 4 in dimension 0 but got 5}}
  %0 = tensor.extract_slice %a[%i, 0] [%size, 8] [1, 1] : tensor<4x8xf32> to tensor<?x8xf32>
  return %0 : tensor<?x8xf32>
}

// -----

func.func @insert(%a: tensor<16xi64>, %i: index) -> tensor<16xi64> {
  %size = arith.constant 3 : index
  %cast = tensor.cast %a : tensor<16xi64> to tensor<?xi64>
  // expected-error @+1 {{expected a slice of 16 in dimension 0, the size of what is inserted, but got 3}}
  %0 = tensor.insert_slice %cast into %a[%i] [%size] [1] : tensor<?xi64> into tensor<16xi64>
  return %0 : tensor<16xi64>
}

// -----

func.func @reduced(%a: tensor<8xf32>, %b: tensor<4x8xf32>, %i: index) -> tensor<4x8xf32> {
  %size = arith.constant 7 : index
  %cast = tensor.cast %a : tensor<8xf32> to tensor<?xf32>
  // expected-error @+1 {{expected a slice of 8 in dimension 1, the size of what is inserted, but got 7}}
  %0 = tensor.insert_slice %cast into %b[%i, 0] [1, %size] [1, 1] : tensor<?xf32> into tensor<4x8xf32>
  return %0 : tensor<4x8xf32>
}
