// RUN: quant-opt %s --split-input-file --verify-diagnostics --quant-llm-gpu-to-ptx

// expected-error @+1 {{expected one target #nvvm.target of the gpu.module, or the option 'chip'}}
gpu.module @no_target {
}

// -----

// expected-error @+1 {{expected one target #nvvm.target of the gpu.module, or the option 'chip'}}
gpu.module @two_targets [#nvvm.target<chip = "sm_80">, #nvvm.target<chip = "sm_90a">] {
}

// -----

// expected-error @+1 {{expected a chip from sm_80 on, such as sm_86, sm_90a or sm_120a, but got 'sm_75'}}
gpu.module @old_chip [#nvvm.target<chip = "sm_75">] {
}

// -----

// expected-error @+1 {{expected features of sm_90a to be a version of PTX from '+ptx80' on that LLVM knows but got '+ptx78'}}
gpu.module @old_ptx [#nvvm.target<chip = "sm_90a", features = "+ptx78">] {
}

// -----

// expected-error @+1 {{but got '+ptx8000'}}
gpu.module @no_ptx [#nvvm.target<chip = "sm_90a", features = "+ptx8000">] {
}

// -----

// expected-error @+1 {{but got '+avx2'}}
gpu.module @no_feature [#nvvm.target<chip = "sm_90a", features = "+avx2">] {
}

// -----

// expected-error @+1 {{expected every function that is called to be defined in the module but '__nv_expf' is not}}
gpu.module @unresolved [#nvvm.target<chip = "sm_90a">] {
  llvm.func @__nv_expf(f32) -> f32
  llvm.func @k(%x: !llvm.ptr<1>, %a: f32) attributes {nvvm.kernel} {
    %0 = llvm.call @__nv_expf(%a) : (f32) -> f32
    llvm.store %0, %x : f32, !llvm.ptr<1>
    llvm.return
  }
}

// -----

// expected-error @+1 {{the GPU has no instruction for 'llvm.exp.f64', called in function 'k'}}
gpu.module @no_instruction [#nvvm.target<chip = "sm_90a">] {
  llvm.func @k(%x: !llvm.ptr<1>, %a: f64) attributes {nvvm.kernel} {
    %0 = llvm.intr.exp(%a) : (f64) -> f64
    llvm.store %0, %x : f64, !llvm.ptr<1>
    llvm.return
  }
}

// -----

gpu.module @not_on_this_chip [#nvvm.target<chip = "sm_80">] {
  llvm.func @k() attributes {nvvm.kernel} {
    // expected-error @+1 {{is not supported on sm_80}}
    nvvm.wgmma.fence.aligned
    llvm.return
  }
}

// -----

// expected-error @+1 {{expected names of kernels and variables to be letters, digits, _ and $, not beginning with a digit, but got 'a-b'}}
gpu.module @name [#nvvm.target<chip = "sm_90a">] {
  llvm.func @"a-b"() attributes {nvvm.kernel} {
    llvm.return
  }
}

// -----

// expected-error @+1 {{not beginning with a digit, but got '1x'}}
gpu.module @name_of_variable [#nvvm.target<chip = "sm_90a">] {
  llvm.mlir.global external constant @"1x"(1 : i32) {addr_space = 1 : i32} : i32
}

// -----

// expected-error @+1 {{LLVM cannot translate the module for sm_90a: invalid operand for inline asm constraint 'i'}}
gpu.module @constraint [#nvvm.target<chip = "sm_90a">] {
  llvm.func @k(%x: i32) attributes {nvvm.kernel} {
    llvm.inline_asm has_side_effects "foo $0;", "i" %x : (i32) -> ()
    llvm.return
  }
}

// -----

// Where LLVM would end the process ("Cannot select"), it is an error, and the next module is compiled.
// expected-error @+1 {{LLVM cannot translate the module for sm_90a; what it says about that is above}}
gpu.module @cannot_select [#nvvm.target<chip = "sm_90a">] {
  llvm.func @k(%x: !llvm.ptr<1>) attributes {nvvm.kernel} {
    %0 = llvm.call_intrinsic "llvm.x86.rdtsc"() : () -> i64
    llvm.store %0, %x : i64, !llvm.ptr<1>
    llvm.return
  }
}

// -----

// expected-error @+1 {{LLVM cannot translate the module for sm_90a; what it says about that is above}}
gpu.module @library_call [#nvvm.target<chip = "sm_90a">] {
  llvm.func @k(%x: !llvm.ptr<1>, %a: f32) attributes {nvvm.kernel} {
    %0 = llvm.fpext %a : f32 to f128
    llvm.store %0, %x : f128, !llvm.ptr<1>
    llvm.return
  }
}
