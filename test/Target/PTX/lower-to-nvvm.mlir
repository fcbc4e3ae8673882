// RUN: quant-opt %s --pass-pipeline='builtin.module(gpu.module(quant-llm-lower-to-nvvm))' | FileCheck %s

// Instructions stay instructions, and host code is left alone.
// CHECK-LABEL: llvm.func @k
// CHECK-DAG: nvvm.read.ptx.sreg.tid.x
// CHECK-DAG: llvm.icmp "slt"
// CHECK: llvm.cond_br
// CHECK: llvm.fadd
// CHECK: llvm.return
// CHECK-LABEL: func.func @host
// CHECK: arith.addf
gpu.module @kernels {
  llvm.func @k(%x: !llvm.ptr<1>, %n: i64, %a: f32) attributes {nvvm.kernel} {
    %tid = gpu.thread_id x
    %end = arith.index_cast %n : i64 to index
    %inside = arith.cmpi slt, %tid, %end : index
    cf.cond_br %inside, ^store, ^end
  ^store:
    %sum = arith.addf %a, %a : f32
    llvm.store %sum, %x : f32, !llvm.ptr<1>
    cf.br ^end
  ^end:
    llvm.return
  }
}
func.func @host(%a: f32) -> f32 {
  %sum = arith.addf %a, %a : f32
  return %sum : f32
}
