// RUN: quant-opt %s --split-input-file --quant-llm-gpu-to-ptx | FileCheck %s
// RUN: quant-opt %s --split-input-file --quant-llm-gpu-to-ptx=chip=sm_80 | FileCheck %s --check-prefix=SM80

// Everything that kernels are written in, with the launch description kept.
// CHECK-LABEL: gpu.binary @kernels
// CHECK-SAME: #gpu.object<#nvvm.target<chip = "sm_90a", features = "+ptx81">
// CHECK-SAME: #gpu.kernel_metadata<"scale", !llvm.func<void (ptr<1>, f32, i32)>, metadata = {launch = {threads = 128 : i32}}>
// CHECK-SAME: .version 8.1
// CHECK-SAME: .target sm_90a
// CHECK-SAME: .visible .entry scale(
// CHECK-SAME: .reqntid 128, 1, 1
// CHECK-SAME: .minnctapersm 2
// SM80-LABEL: gpu.binary @kernels
// SM80-SAME: #nvvm.target<chip = "sm_80", features = "+ptx78">
// SM80-SAME: .version 7.8
// SM80-SAME: .target sm_80
gpu.module @kernels [#nvvm.target<chip = "sm_90a">] {
  llvm.func @scale(%x: !llvm.ptr<1>, %s: f32, %n: i32)
      attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 128, 1, 1>,
                  nvvm.minctasm = 2 : i32,
                  quant_llm.launch = {threads = 128 : i32}} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %tid = gpu.thread_id x
    %end = arith.index_cast %n : i32 to index
    scf.for %i = %tid to %end step %c1 {
      %i64 = arith.index_cast %i : index to i64
      %p = llvm.getelementptr %x[%i64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, f32
      %v = llvm.load %p : !llvm.ptr<1> -> f32
      %is_negative = arith.cmpf olt, %v, %s : f32
      %w = scf.if %is_negative -> f32 {
        %t = math.exp %v : f32
        scf.yield %t : f32
      } else {
        %t = arith.mulf %v, %s : f32
        scf.yield %t : f32
      }
      llvm.store %w, %p : f32, !llvm.ptr<1>
    }
    gpu.barrier
    llvm.return
  }
}

// -----

// A barrier in inline assembly stays one instruction, though both branches
// test the same condition and LLVM would like to join them.
// CHECK-LABEL: gpu.binary @barrier
// CHECK-NOT: bar.sync
// CHECK: bar.sync 0;
// CHECK-NOT: bar.sync
// CHECK-LABEL: gpu.binary @fma
// SM80: @fma
gpu.module @barrier [#nvvm.target<chip = "sm_90a">] {
  llvm.func @k(%x: !llvm.ptr<1>, %n: i32) attributes {nvvm.kernel} {
    %tid = nvvm.read.ptx.sreg.tid.x : i32
    %c = arith.cmpi slt, %tid, %n : i32
    scf.if %c {
      llvm.store volatile %tid, %x : i32, !llvm.ptr<1>
    }
    llvm.inline_asm has_side_effects asm_dialect = att "bar.sync 0;", "~{memory}" : () -> ()
    scf.if %c {
      llvm.store volatile %n, %x : i32, !llvm.ptr<1>
    }
    llvm.return
  }
}

// -----

// math.fma is an instruction, also on pairs.
// CHECK: fma.rn.f32
// CHECK-SAME: fma.rn.f16x2
gpu.module @fma [#nvvm.target<chip = "sm_90a">] {
  llvm.func @k(%x: !llvm.ptr<1>, %a: f32, %b: f32, %h: vector<2xf16>) attributes {nvvm.kernel} {
    %0 = math.fma %a, %b, %a : f32
    llvm.store volatile %0, %x : f32, !llvm.ptr<1>
    %1 = math.fma %h, %h, %h : vector<2xf16>
    llvm.store volatile %1, %x : vector<2xf16>, !llvm.ptr<1>
    llvm.return
  }
}
