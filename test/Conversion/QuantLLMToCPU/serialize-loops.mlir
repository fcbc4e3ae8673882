// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-serialize-loops | FileCheck %s

func.func private @__quant_llm_fail_check(i64, i64, i64)

// CHECK-LABEL: func.func @check
// CHECK-NOT: scf.parallel
// CHECK: scf.for
// CHECK: scf.for
func.func @check(%x: memref<?x4xf32>, %n: index, %bad: i1) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %number = arith.constant 0 : i64
  scf.parallel (%i, %j) = (%c0, %c0) to (%n, %n) step (%c1, %c1) {
    scf.if %bad {
      func.call @__quant_llm_fail_check(%number, %number, %number) : (i64, i64, i64) -> ()
    }
  }
  return
}

// CHECK-LABEL: func.func @allocation
// CHECK: %[[SUM:.*]] = scf.for {{.*}} iter_args
// CHECK: memref.alloc
// CHECK: return %[[SUM]]
func.func @allocation(%n: index) -> f32 {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %sum = scf.parallel (%i) = (%c0) to (%n) step (%c1) init (%zero) -> f32 {
    %m = memref.alloc(%n) : memref<?xf32>
    %v = memref.load %m[%i] : memref<?xf32>
    memref.dealloc %m : memref<?xf32>
    scf.reduce(%v : f32) {
    ^bb0(%a: f32, %b: f32):
      %s = arith.addf %a, %b : f32
      scf.reduce.return %s : f32
    }
  }
  return %sum : f32
}

// Loops that look at what they allocate, and that do nothing else, stay.
// CHECK-LABEL: func.func @fine
// CHECK-COUNT-2: scf.parallel
func.func @fine(%x: memref<?xf32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    memref.store %zero, %x[%i] : memref<?xf32>
  }
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
    %m = memref.alloc(%n) : memref<?xf32>
    %address = memref.extract_aligned_pointer_as_index %m : memref<?xf32> -> index
    %ok = arith.cmpi ne, %address, %c0 : index
    scf.if %ok {
      memref.store %zero, %m[%i] : memref<?xf32>
    }
    memref.dealloc %m : memref<?xf32>
  }
  return
}

// -----

func.func private @other()
func.func @threads() {
  // expected-error @below {{'omp.parallel' op expected no 'func.call' in it that could end the call; write the loop as scf.parallel}}
  omp.parallel {
    // expected-note @below {{it is here}}
    func.call @other() : () -> ()
    omp.terminator
  }
  return
}
