//===- Passes.td - Conversions to and from quant_llm -------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_CONVERSION_PASSES_TD
#define QUANT_LLM_CONVERSION_PASSES_TD

include "quant-llm/Dialect/QuantLLM/Utils/CheckedPass.td"

// In alphabetical order of the argument.

def ConvertLinalgToQuantLLM : CheckedPass<"convert-linalg-to-quant-llm"> {
  let summary = "Raise linalg contractions with a parameter to quant_llm.linear";
  let description = [{
    Turns every linalg op that computes `y[..., n] = init + sum_k x[..., k] * W[n, k]`, with
    `W` a parameter, into a `quant_llm.linear`, whatever its form: `linalg.matmul`
    with any indexing maps, `batch_matmul`, `vecmat`, `matvec`, `linalg.generic`. The
    parameter may pass through transposes, broadcasts, unit dimensions and widening casts
    on its way. An activation or a result in another order of dimensions is
    transposed. An `init` that is not filled with zeros becomes an operand of the
    epilogue, one value per output if it repeats a vector. Reshapes of leading
    dimensions around a linear are removed where the result undoes them.

    The sum is then in f32, whatever the type of the accumulator was. A parameter that is
    stored as `[K, N]` is not raised: a linear reads `[N, K]`, and this pass does not
    copy parameters. Remarks (category `convert-linalg-to-quant-llm`) say what was
    raised, and which contractions with a parameter were not and why.

    Example (`test/Conversion/LinalgToQuantLLM/raise.mlir`):
    ```mlir
    %w = quant_llm.get_parameter @w : tensor<64x256xf16>
    %0 = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x64xf32>) -> tensor<?x64xf32>
    %1 = linalg.matmul indexing_maps = [#mk, #nk, #mn]
      ins(%x, %w : tensor<?x256xf32>, tensor<64x256xf16>)
      outs(%0 : tensor<?x64xf32>) -> tensor<?x64xf32>
    // becomes
    %1 = quant_llm.linear %x, %w : (tensor<?x256xf32>, tensor<64x256xf16>) -> tensor<?x64xf32>
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::tensor::TensorDialect", "::quant_llm::QuantLLMDialect",
  ];
  let options = [
    CheckedOption<"allValues", "all-values", "bool", "false",
           "Also take arguments of functions and constants that are matrices for "
           "weights">,
  ];
  let statistics = [
    Statistic<"numLinears", "linears", "Number of linears after the pass">,
    Statistic<"numNotRaised", "not-raised",
              "Number of contractions with a parameter that are no linears">,
  ];
}

def ConvertQuantLLMToQuant : CheckedPass<"convert-quant-llm-to-quant"> {
  let summary = "Turn dequantized constants into casts of the quant dialect";
  let description = [{
    `dequantize(assemble(...))` with constant scales and zeros becomes
    `quant.dcast(quant.scast(storage))` with these as literals of the type. Codes of less
    than 8 bits must be constants too. Representable are integer elements, scales of
    a type that the expressed type holds exactly, positive scales, integer zeros,
    and blocks that divide the matrix. Everything else is refused with its reason.
    In bf16, upstream's lowering of the cast rounds the difference of code
    and zero point, which quant_llm does not.

    Example (`test/Conversion/QuantToQuantLLM/to-quant.mlir`):
    ```mlir
    %codes = arith.constant dense<[[33, 67]]> : tensor<1x2xi8>
    %scales = arith.constant dense<2.0> : tensor<1x1xf32>
    %0 = quant_llm.assemble %codes, %scales : (tensor<1x2xi8>, tensor<1x1xf32>) -> !quant_llm.weight<1x4xf32, #scheme>
    %1 = quant_llm.dequantize %0 : !quant_llm.weight<1x4xf32, #scheme> -> tensor<1x4xf32>
    // becomes
    %storage = arith.constant dense<[[1, 2, 3, 4]]> : tensor<1x4xi4>
    %0 = quant.scast %storage : tensor<1x4xi4> to tensor<1x4x!quant.uniform<i4:f32, 2.0>>
    %1 = quant.dcast %0 : tensor<1x4x!quant.uniform<i4:f32, 2.0>> to tensor<1x4xf32>
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::quant::QuantDialect"];
  let options = [
    CheckedOption<"allowUnconverted", "allow-unconverted", "bool", "false",
           "Leave what quant cannot represent, with a remark, instead of an error">
  ];
}

def ConvertQuantToQuantLLM : CheckedPass<"convert-quant-to-quant-llm"> {
  let summary = "Turn dequantized storage of the quant dialect into quant_llm weights";
  let description = [{
    `quant.dcast(quant.scast(storage))` of a static matrix becomes `dequantize(assemble(...))`;
    the scales and zero points of the type become constants, in the expressed type as
    in upstream's lowering. Storage of 8 bits may be any value, narrower storage must be
    a constant, which is packed. Per-tensor, per-axis and sub-channel types are
    representable, symmetric or not, with storage of at most 8 bits and f16, bf16 or
    f32 as the expressed type. A signed type with zero points becomes an unsigned element, with
    codes and zeros moved by half the range. A restricted range of the storage is not kept. Everything else, also
    `quant.qcast`, is refused with its reason. Upstream wraps zero points of sub-channel
    types that are out of range when it parses them, so that they mean what their bits are; others are checked here.

    Example (`test/Conversion/QuantToQuantLLM/from-quant.mlir`):
    ```mlir
    %0 = quant.scast %storage : tensor<8x64xi8> to tensor<8x64x!quant.uniform<i8:f32, 2.0>>
    %1 = quant.dcast %0 : tensor<8x64x!quant.uniform<i8:f32, 2.0>> to tensor<8x64xf32>
    // becomes
    %scales = arith.constant dense<2.0> : tensor<1x1xf32>
    %0 = quant_llm.assemble %storage, %scales : (tensor<8x64xi8>, tensor<1x1xf32>) -> !quant_llm.weight<8x64xf32, #scheme>
    %1 = quant_llm.dequantize %0 : !quant_llm.weight<8x64xf32, #scheme> -> tensor<8x64xf32>
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"allowUnconverted", "allow-unconverted", "bool", "false",
           "Leave what quant_llm cannot represent, with a remark, instead of an error">
  ];
}

def ConvertQuantLLMToCPU
    : CheckedPass<"convert-quant-llm-to-cpu", "::mlir::ModuleOp"> {
  let summary = "Lower linears and contractions to fast CPU kernels";
  let description = [{
    Every `quant_llm.linear`, its weights dense or quantized, and every other floating-point
    contraction of linalg (the products of attention) becomes a `quant_llm.dispatch` of a
    kernel: a private function on memrefs in the dialects scf, vector, memref, arith
    and math. Equal ops share one kernel. The dequantization is part of the kernel; the
    dense matrix never exists. A `quant_llm.grouped_linear` is a loop over its experts.

    Quantized weights must come from an `assemble`: run `quant-llm-decompose-weights` before.
    Scales that have a scheme themselves are dequantized in front of the dispatch.

    Example (`test/Conversion/QuantLLMToCPU/linear.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w : (tensor<?x64xf32>, !weight) -> tensor<?x8xf32>
    // becomes
    %e = tensor.empty(%m) : tensor<?x8xf32>
    %y = quant_llm.dispatch @linear ins(%x, %codes, %scales : tensor<?x64xf32>, tensor<8x32xi8>, tensor<8x1xf16>)
      outs(%e : tensor<?x8xf32>) -> tensor<?x8xf32>
    ```
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::math::MathDialect", "::mlir::memref::MemRefDialect",
    "::mlir::scf::SCFDialect", "::mlir::tensor::TensorDialect",
    "::mlir::vector::VectorDialect", "::quant_llm::QuantLLMDialect",
  ];
  let options = [
    CheckedOption<"vectorBits", "vector-bits", "unsigned", "0",
           "Width of the vector registers: 128, 256 or 512; 0 is that of the "
           "processor">,
    CheckedOption<"features", "features", "std::string", "\"\"",
           "Features of the processor in LLVM's names, such as +avx2,+avx512f; by "
           "default those of this machine. 512 bits need avx512f">,
  ];
}

def ConvertQuantLLMToGPU : CheckedPass<"convert-quant-llm-to-gpu", "::mlir::ModuleOp"> {
  let summary = "Generate the GPU kernels of linears";
  let description = [{
    Generates the kernels that the attribute `kernels` of every `quant_llm.linear` asks for
    (`quant-llm-select-kernels`) into one `gpu.module` with the target of the chip, and names them in
    `kernel_symbols` of the linear. Linears that ask for the same (shape, scheme,
    types, epilogue and configuration) share a kernel. The linears stay: whoever executes the
    module launches their kernels, as the attribute `quant_llm.launch` of each says
    (`docs/KernelConfig.md`).

    Example (`test/Conversion/QuantLLMToGPU/convert.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w {kernels = [#quant_llm.kernel_config<multistage, ...>]}
      : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
    // becomes
    gpu.module @quant_llm_kernels [#nvvm.target<chip = "sm_80", features = "+ptx78">] {
      llvm.func @linear_128x64_int4_multistage_16x8(...) attributes {gpu.kernel, nvvm.kernel,
        quant_llm.launch = {args = ["x", "packed0", ...], grid = "tiles", ...}} { ... }
    }
    %y = quant_llm.linear %x, %w {kernels = [#quant_llm.kernel_config<multistage, ...>],
      kernel_symbols = [@quant_llm_kernels::@linear_128x64_int4_multistage_16x8]}
      : (tensor<?x64xf16>, !weight) -> tensor<?x128xf16>
    ```
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect",
    "::mlir::arith::ArithDialect", "::mlir::gpu::GPUDialect",
    "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
    "::quant_llm::QuantLLMDialect",
  ];
  let options = [
    CheckedOption<"chip", "chip", "std::string", "\"\"",
           "The chip: sm_80, sm_86, sm_89, sm_90, sm_90a, sm_100a or sm_120a; required">,
  ];
  let statistics = [
    Statistic<"numKernels", "kernels", "Number of kernels generated">,
    Statistic<"numLinears", "linears", "Number of linears that have kernels">,
  ];
}

def ConvertQuantLLMToLinalg : CheckedPass<"convert-quant-llm-to-linalg"> {
  let summary = "Lower weights, linears and channel transforms to their formulas in linalg";
  let description = [{
    The reference: `quant_llm.dequantize` becomes a `linalg.generic` that takes every code from
    its bits, looks up its value and applies scale and zero in f32;
    `quant_llm.linear` becomes that, a contraction in f32, and a pointwise op for the
    epilogue; `quant_llm.grouped_linear` becomes a loop over the experts with the same on the
    tokens of each. Any scheme works, nothing is fast. Channel transforms become pointwise ops and, for
    rotations, small contractions; a Hadamard matrix is multiplied factor by factor.

    Example (`test/Conversion/QuantLLMToLinalg/linear.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w : (tensor<?x64xf32>, tensor<8x64xf16>) -> tensor<?x8xf32>
    // becomes
    %e = tensor.empty(%m) : tensor<?x8xf32>
    %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<?x8xf32>) -> tensor<?x8xf32>
    %y = linalg.generic {indexing_maps = [#mk, #nk, #mn], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<?x64xf32>, tensor<8x64xf16>) outs(%0 : tensor<?x8xf32>) { ... } -> tensor<?x8xf32>
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::math::MathDialect", "::mlir::scf::SCFDialect", "::mlir::tensor::TensorDialect",
    "::quant_llm::QuantLLMDialect",
  ];
}

def ApproximateMath
    : CheckedPass<"quant-llm-approximate-math", "::mlir::func::FuncOp"> {
  let summary = "Replace transcendental functions by polynomials that vectorize";
  let description = [{
    `math.exp`, `expm1`, `log`, `log1p`, `log2`, `tanh` and `erf` on f32 would become one call
    of libm per element; polynomials of upstream take their place. Sines and cosines stay
    calls: their approximation loses digits for the large angles of a rotary embedding, and
    they are few. Conversions between f32 and bf16 become integer arithmetic, since without
    AVX512-BF16 they would be calls that no library has.

    Example (`test/Conversion/QuantLLMToCPU/approximate-math.mlir`).
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
    "::mlir::vector::VectorDialect",
  ];
  let options = [
    CheckedOption<"approximate", "approximate", "bool", "true",
           "Replace the functions; otherwise only the conversions">,
  ];
}

def Bufferize : CheckedPass<"quant-llm-bufferize", "::mlir::ModuleOp"> {
  let summary = "Bufferize the functions around the kernels";
  let description = [{
    One-shot bufferization with function boundaries, for the runtime of the CPU:

    - Arguments and results have the identity layout. An argument is written only if a
      result is an updated version of it (a cache that grows); such results are dropped and
      listed in `quant_llm.result_aliases` of the function, one number per
      result of the original function: that of the argument, or -1.
    - `quant_llm.get_parameter` becomes a read-only global without initial value. The
      attribute `quant_llm.parameters` of the module lists symbol, archive, key and type
      of each; whoever links the code defines the symbols.
    - Buffers are freed where they are last used; those of results belong to the caller.
    - Kernels (functions marked `quant_llm.kernel`) are left as they are.
  }];
}

def DecomposeWeights
    : CheckedPass<"quant-llm-decompose-weights", "::mlir::ModuleOp"> {
  let summary = "Replace parameters of weight type by one for each component";
  let description = [{
    Example (`test/Conversion/QuantLLMToLinalg/decompose-weights.mlir`):
    ```mlir
    quant_llm.parameter @w from @model : !quant_llm.weight<8x64xf16, #scheme>
    %w = quant_llm.get_parameter @w : !quant_llm.weight<8x64xf16, #scheme>
    // becomes
    quant_llm.parameter @w.codes from @model key "w.codes" : tensor<8x32xi8>
    quant_llm.parameter @w.scales from @model key "w.scales" : tensor<8x1xf16>
    %codes = quant_llm.get_parameter @w.codes : tensor<8x32xi8>
    %scales = quant_llm.get_parameter @w.scales : tensor<8x1xf16>
    %w = quant_llm.assemble %codes, %scales : (tensor<8x32xi8>, tensor<8x1xf16>) -> !quant_llm.weight<8x64xf16, #scheme>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
}

def ExpandMath : CheckedPass<"quant-llm-expand-math", "::mlir::func::FuncOp"> {
  let summary = "Prepare what upstream's lowerings of math lack or get wrong";
  let description = [{
    `math.clampf`, `isinf` and `isnormal` on numbers and vectors become arithmetic and comparisons. Powers with an integer
    exponent are left to `convert-math-to-funcs` after their types are ones that it computes well: exponents have at least 32 bits, and
    powers of f16, bf16 and f32 are computed in f64, so that neither a product nor its reciprocal overflows where the result does not. Conversions
    from f64 to f16 and bf16 go through f32, rounded to odd there, so that the result is rounded once; they would be calls that
    no library has.

    Example (`test/Conversion/QuantLLMToCPU/expand-math.mlir`).
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
  ];
}

def FuseElementwise : CheckedPass<"quant-llm-fuse-elementwise"> {
  let summary = "Fuse pointwise linalg ops into their only consumer";
  let description = [{
    A pointwise `linalg.generic` whose result has one use, in another one, is merged into
    that. Aggregates such as `linalg.softmax` are written out before, and `tensor.concat`
    becomes insertions. Upstream's pass of the same purpose also moves
    reshapes, which separates ops that agree in their loops, and detaches outputs
    from the slices that they are to be written into.

    Example (`test/Conversion/QuantLLMToCPU/fuse-elementwise.mlir`).
  }];
  let dependentDialects = [
    "::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
    "::mlir::linalg::LinalgDialect", "::mlir::math::MathDialect",
    "::mlir::tensor::TensorDialect",
  ];
}

def CheckLibraryNames : CheckedPass<"quant-llm-check-library-names", "::mlir::ModuleOp"> {
  let summary = "Refuse functions that take the place of the C library's";
  let description = [{
    Refuses functions with a body, and buffers, whose name is that of a function of the C library
    that code calls: where an op of `math` has no instructions (`math.sin` of f32: `sinf`), and to
    copy. A function of the module would be called instead, also by itself.
    `quant-run` and the engines of C++ and Python give such functions other names before.

    Example (`test/Conversion/QuantLLMToCPU/check-library-names.mlir`):
    ```mlir
    // error: expected another name than that of the function 'cosf' of the C library, which code calls
    func.func @cosf(%x: f32) -> f32 {
      %0 = math.sin %x : f32
      return %0 : f32
    }
    ```
  }];
}

def GuardParallel : CheckedPass<"quant-llm-guard-parallel", "::mlir::func::FuncOp"> {
  let summary = "Run small calls of kernels on one thread";
  let description = [{
    Gives every `omp.parallel` of a function with the attribute `quant_llm.parallel_if`
    the condition that there is enough work, and removes the attribute. It holds the least
    work, a factor, and pairs of the number of an argument (a memref) and a dimension
    of it; the work is the product of the factor and these extents.

    Example (`test/Conversion/QuantLLMToCPU/guard-parallel.mlir`):
    ```mlir
    func.func @kernel(%x: memref<?x64xf32>) attributes {quant_llm.parallel_if = array<i64: 4096, 64, 0, 0>} {
      omp.parallel { ... }
    // becomes
    func.func @kernel(%x: memref<?x64xf32>) {
      %m = memref.dim %x, %c0 : memref<?x64xf32>
      %work = arith.muli %m, %c64 : index
      %large = arith.cmpi sge, %work, %c4096 : index
      omp.parallel if(%large) { ... }
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::memref::MemRefDialect",
  ];
}

def InsertChecks : CheckedPass<"quant-llm-insert-checks", "::mlir::ModuleOp"> {
  let summary = "Check at run time what compiled code relies on";
  let description = [{
    In front of linalg ops, linears, elementwise ops, slices, concatenations, casts and
    element accesses on tensors and buffers, compares the extents that must agree and are not
    known to. Where an index of a linalg op is a sum of loop counters, as in a convolution, its largest
    and least values must be inside of the operand. A failed check calls
    `__quant_llm_fail_check`, which does not return, with the number of a message in the
    attribute `quant_llm.checks` of the module. Extents are traced through the ops that
    determine them, so a model whose shapes agree by construction gets few checks. The sizes
    of new tensors must not be negative and must fit into memory.

    `cf.assert` becomes such a check, too; in the body of a linalg op a call
    of `__quant_llm_require`, whose first argument is negative if all is well. If the condition is a
    comparison of integers, the message ends with what was expected and what was got. Divisions and
    remainders of integers are checked as well where the divisor may be zero, or may be -1 when the
    least number is divided, negative powers of the integer 0, and shifts where the amount may reach the width; such ops on tensors become linalg ops. If one is in a map,
    the affine dialect is lowered before. The steps of scf loops must be positive. Promises that arithmetic
    does not overflow, or meets no infinity or NaN, are dropped, since checks of the result could be optimized away. For the
    same reason `arith.fptosi` and `arith.fptoui` get a result for every number: that of the nearest integer which the type has, and 0 of a NaN
    (docs/Spec.md, section 6).

    Refused is what no check in front of it could make safe: ops of the dialects llvm, omp and ub, memref
    ops that make views of nothing known or have a lifetime of their own (reinterpret_cast, view,
    alloca, ...), vector ops on tensors and buffers, accesses to them in the bodies of other ops, but
    for tensor.extract, calls of functions that are only declared, scalable vectors, and arithmetic on floats that LLVM has no code for. A function that
    calls itself, by any way, is refused as well, and so are calls more than a thousand deep: the stack
    is finite.

    Example (`test/Conversion/QuantLLMToCPU/insert-checks.mlir`).
  }];
  let dependentDialects = [
    "::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::memref::MemRefDialect", "::mlir::scf::SCFDialect",
    "::mlir::tensor::TensorDialect", "::mlir::vector::VectorDialect",
  ];
}

def LowerDispatch : CheckedPass<"quant-llm-lower-dispatch", "::mlir::ModuleOp"> {
  let summary = "Replace dispatches and copies of buffers by calls";
  let description = [{
    A `quant_llm.dispatch` on memrefs becomes a call. Operands are cast to the types of the
    kernel; one whose layout the kernel cannot take is copied. A `memref.copy` becomes a call
    of a function with loops, one for each rank and element type.
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
    "::mlir::func::FuncDialect", "::mlir::memref::MemRefDialect",
    "::mlir::scf::SCFDialect",
  ];
  let options = [
    CheckedOption<"profile", "profile", "bool", "false",
           "Call `__quant_llm_profile_begin` and `__quant_llm_profile_end` around "
           "each kernel and list the kernels in `quant_llm.profiled_kernels`">,
  ];
}

def OutlineKernels : CheckedPass<"quant-llm-outline-kernels", "::mlir::ModuleOp"> {
  let summary = "Outline linalg ops into shared kernels";
  let description = [{
    Turns linalg ops on tensors into `quant_llm.dispatch` of functions with loops on memrefs;
    equal functions are shared. Ops that follow one another and agree in their outer
    parallel loops (the maximum, exponential and sum of a softmax; the sum and scaling of a
    normalization) become one kernel that executes them row by row: what only they use is a
    row long, or a value in a register. The outer loops run on the threads of OpenMP if there
    is enough work, which is decided at run time.

    An index that a body computes, as in a gather, is compared with the extent unless it is known
    to be in range; if it is not, the kernel reads nothing and calls
    `__quant_llm_index_fault` with it.

    A call of `__quant_llm_require` (see `quant-llm-insert-checks`) becomes a test that calls
    `__quant_llm_check_fault`.

    Ops that the pass cannot handle (windows, buffers, several blocks, bodies with other
    effects) stay.

    Example (`test/Conversion/QuantLLMToCPU/outline-kernels.mlir`).
  }];
  let dependentDialects = [
    "::mlir::LLVM::LLVMDialect", "::mlir::affine::AffineDialect",
    "::mlir::arith::ArithDialect", "::mlir::func::FuncDialect",
    "::mlir::memref::MemRefDialect", "::mlir::omp::OpenMPDialect", "::mlir::scf::SCFDialect",
    "::quant_llm::QuantLLMDialect",
  ];
  let options = [
    CheckedOption<"fuse", "fuse", "bool", "true",
           "Put several ops into one kernel where they agree in outer loops">,
    CheckedOption<"parallel", "parallel", "bool", "true",
           "Use the threads of OpenMP">,
    CheckedOption<"fastMath", "fast-math", "bool", "true",
           "Let sums be reordered and multiplications and additions be fused">,
  ];
  let statistics = [
    Statistic<"numDispatches", "dispatches", "Number of dispatches made">,
  ];
}

def SerializeLoops : CheckedPass<"quant-llm-serialize-loops", "::mlir::ModuleOp"> {
  let summary = "Run parallel loops in order that could not report a failure";
  let description = [{
    A failed check or allocation ends the call of a function by leaving all its frames at
    once, which a thread of a parallel region cannot do. So an `scf.parallel` that calls
    functions other than those of the runtime that note a fault and return, or that
    allocates without looking whether it got memory (`memref.extract_aligned_pointer_as_index`
    of the buffer), becomes nested `scf.for`. An `omp.parallel` of that kind is an error. The
    loops of our kernels stay as they are.

    Example (`test/Conversion/QuantLLMToCPU/serialize-loops.mlir`).
  }];
  let dependentDialects = ["::mlir::scf::SCFDialect"];
}

#endif // QUANT_LLM_CONVERSION_PASSES_TD
