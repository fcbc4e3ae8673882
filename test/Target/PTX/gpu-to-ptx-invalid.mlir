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
