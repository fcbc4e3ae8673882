// REQUIRES: ptxas
// RUN: quant-opt %s --quant-llm-gpu-to-ptx='format=cubin cubin-file=%t.cubin' --remarks-filter=quant-llm-gpu-to-ptx 2>&1 | FileCheck %s
// RUN: quant-translate --quant-llm-to-cubin %s -o %t.2.cubin
// RUN: cmp %t.cubin %t.2.cubin
// RUN: llvm-readelf -h %t.cubin | FileCheck %s --check-prefix=ELF

// CHECK: remark: [Passed] assembled {{.*}} kernel=k, ptxas={{[0-9.]+}}, registers={{[1-9][0-9]*}}, spilled bytes=0, stack bytes=0, static shared bytes=512
// CHECK: gpu.binary @m
// CHECK-SAME: metadata = {resources = {registers = {{[1-9][0-9]*}} : i64, spill_bytes = 0 : i64, stack_bytes = 0 : i64, static_shared_bytes = 512 : i64}}
// CHECK-SAME: bin = "\7FELF
// ELF: Machine: NVIDIA CUDA architecture
gpu.module @m [#nvvm.target<chip = "sm_80">] {
  llvm.mlir.global internal @buffer() {addr_space = 3 : i32, alignment = 16 : i64} : !llvm.array<128 x f32>
  llvm.func @k(%x: !llvm.ptr<1>) attributes {nvvm.kernel} {
    %tid = nvvm.read.ptx.sreg.tid.x : i32
    %buffer = llvm.mlir.addressof @buffer : !llvm.ptr<3>
    %s = llvm.getelementptr %buffer[%tid] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, f32
    %p = llvm.getelementptr %x[%tid] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
    %v = llvm.load %p : !llvm.ptr<1> -> f32
    llvm.store %v, %s : f32, !llvm.ptr<3>
    nvvm.barrier0
    %c127 = llvm.mlir.constant(127 : i32) : i32
    %other = llvm.sub %c127, %tid : i32
    %q = llvm.getelementptr %buffer[%other] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, f32
    %w = llvm.load %q : !llvm.ptr<3> -> f32
    llvm.store %w, %p : f32, !llvm.ptr<1>
    llvm.return
  }
}
