// Tensors of safetensors files as inputs, as expected results, and as results.
// RUN: rm -rf %t && mkdir -p %t
// RUN: %python -c "import numpy as n; from safetensors.numpy import save_file as s; s({'x': n.arange(6, dtype='f4').reshape(2, 3), 'n': n.array([3, -4]), 'w': n.eye(3, dtype='f4')}, r'%t/in.safetensors')"
// RUN: cp %s %t/model.mlir && cp %t/in.safetensors %t/before

// All results in one file, named result0, result1, ...
// RUN: quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/all.safetensors
// RUN: %python -c "import numpy as n; from safetensors import safe_open; f = safe_open(r'%t/all.safetensors', 'numpy'); k = f.keys(); assert sorted(k) == ['result0', 'result1', 'result2'], k; assert n.array_equal(f.get_tensor('result1'), [3, -4]) and f.get_tensor('result1').dtype == n.int64; assert n.array_equal(f.get_tensor('result2'), n.arange(6, dtype='f4').reshape(2, 3) * 2); assert f.get_slice('result0').get_dtype() == 'BF16'"
// The names that the user gives, in two files; the first result nowhere.
// RUN: quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output - --output %t/named.safetensors:count --output %t/doubled.safetensors:y
// RUN: %python -c "from safetensors.numpy import load_file as l; assert list(l(r'%t/named.safetensors')) == ['count'] and list(l(r'%t/doubled.safetensors')) == ['y']"
// RUN: quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/one.npy.safetensors:a --output %t/./one.npy.safetensors:b --output %t/y.npy
// RUN: %python -c "import numpy as n; from safetensors import safe_open; assert sorted(safe_open(r'%t/one.npy.safetensors', 'numpy').keys()) == ['a', 'b']; assert n.load(r'%t/y.npy')[1, 2] == 10"
// Expected results, bf16 too, which .npy files cannot hold.
// RUN: quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --expect %t/all.safetensors:result0 --expect %t/named.safetensors:count --expect %t/doubled.safetensors:y | FileCheck %s --check-prefix=EQUAL
// EQUAL-COUNT-3: equal
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --expect - --expect - --expect %t/in.safetensors:x | FileCheck %s --check-prefix=DIFFERENT
// DIFFERENT: result 2: DIFFERENT
// The help says so.
// RUN: quant-run --help | FileCheck %s --check-prefix=HELP
// HELP: --input=<argument>{{.*}}FILE.safetensors:KEY
// HELP: --output=<path>{{.*}}FILE.safetensors:NAME
// HELP: --output out.safetensors:y

// What is wrong is said before anything is run or written.
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:z --input %t/in.safetensors:n 2>&1 | FileCheck %s --check-prefix=KEY
// KEY: quant-run: error: input 0: '{{.*}}in.safetensors' has no tensor 'z'; expected one of: 'n', 'w', 'x'
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:n --input %t/in.safetensors:n 2>&1 | FileCheck %s --check-prefix=TYPE
// TYPE: quant-run: error: function 'split': argument 0: expected f32 [2, 3] but got i64 [2]
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/absent.safetensors:x --input %t/in.safetensors:n 2>&1 | FileCheck %s --check-prefix=ABSENT
// ABSENT: quant-run: error: input 0: cannot open '{{.*}}absent.safetensors'
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/a.safetensors --output %t/b.npy 2>&1 | FileCheck %s --check-prefix=NAME
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/a.safetensors: 2>&1 | FileCheck %s --check-prefix=NAME
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/a.txt 2>&1 | FileCheck %s --check-prefix=NAME
// NAME: quant-run: error: output 0: expected a .npy file, FILE.safetensors:NAME or -, or for all results FILE.safetensors or a directory, but got '
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/a.safetensors:y --output %t/./a.safetensors:y 2>&1 | FileCheck %s --check-prefix=TWICE
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output - --output %t/a.npy --output %t/a.npy 2>&1 | FileCheck %s --check-prefix=TWICE
// Spellings of a file that does not exist yet, from the current directory.
// RUN: rm -rf %t.cwd && mkdir %t.cwd && cd %t.cwd && not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output - --output y.npy --output ./y.npy 2>&1 | FileCheck %s --check-prefix=TWICE
// TWICE: quant-run: error: expected different --output for different results but got '{{.*}}' twice
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/a.npy --output %t/b.npy --output %t/c.npy --output %t/d.npy 2>&1 | FileCheck %s --check-prefix=MANY
// MANY: quant-run: error: the function has 3 results but there are 4 --output
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/nowhere/a.safetensors 2>&1 | FileCheck %s --check-prefix=NODIR
// NODIR: quant-run: error: cannot write '{{.*}}nowhere/a.safetensors'
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/a.safetensors:__metadata__ 2>&1 | FileCheck %s --check-prefix=RESERVED
// RESERVED: quant-run: error: cannot write '{{.*}}a.safetensors': tensor '__metadata__' has a name that the format reserves
// If one file of several cannot be written, none appears.
// RUN: not quant-run %t/model.mlir -f split --cache-dir %t.cache --input %t/in.safetensors:x --input %t/in.safetensors:n --output %t/a.safetensors:a --output %t/nowhere/b.safetensors:b

// Neither the files of parameters nor those of inputs are replaced.
// RUN: ln %t/in.safetensors %t/hard.safetensors
// RUN: not quant-run %t/model.mlir -f product --cache-dir %t.cache --input %t/y.npy --output %t/in.safetensors 2>&1 | FileCheck %s --check-prefix=PARAMETERS
// RUN: not quant-run %t/model.mlir -f product --cache-dir %t.cache --input %t/y.npy --output %t/hard.safetensors:w 2>&1 | FileCheck %s --check-prefix=PARAMETERS
// PARAMETERS: quant-run: error: '{{.*}}.safetensors' holds parameters of the module; choose another --output
// RUN: not quant-run %t/model.mlir -f product --cache-dir %t.cache --input %t/doubled.safetensors:y --output %t/doubled.safetensors 2>&1 | FileCheck %s --check-prefix=INPUT
// INPUT: quant-run: error: '{{.*}}{{doubled.safetensors|y.npy}}' is read by --input or --expect; choose another --output
// RUN: cmp %t/in.safetensors %t/before
// RUN: not quant-run %t/model.mlir -f product --cache-dir %t.cache --input %t/doubled.safetensors:y --expect %t/y.npy --output %t/y.npy 2>&1 | FileCheck %s --check-prefix=INPUT
// RUN: ls -A %t | FileCheck %s --check-prefix=LEFT
// LEFT:      all.safetensors
// LEFT-NEXT: before
// LEFT-NEXT: doubled.safetensors
// LEFT-NEXT: hard.safetensors
// LEFT-NEXT: in.safetensors
// LEFT-NEXT: model.mlir
// LEFT-NEXT: named.safetensors
// LEFT-NEXT: one.npy.safetensors
// LEFT-NEXT: y.npy
// LEFT-NOT:  {{.}}

#mn = affine_map<(m, n) -> (m, n)>

quant_llm.archive @weights "in.safetensors"
// The name of a function that code calls is no harm.
quant_llm.parameter @memcpy from @weights key "w" : tensor<3x3xf32>

func.func @split(%x: tensor<2x3xf32>, %n: tensor<2xi64>) -> (tensor<2x3xbf16>, tensor<2xi64>, tensor<2x3xf32>) {
  %e = tensor.empty() : tensor<2x3xbf16>
  %f = tensor.empty() : tensor<2x3xf32>
  %0:2 = linalg.generic {indexing_maps = [#mn, #mn, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<2x3xf32>) outs(%e, %f : tensor<2x3xbf16>, tensor<2x3xf32>) {
  ^bb0(%a: f32, %b: bf16, %c: f32):
    %1 = arith.truncf %a : f32 to bf16
    %2 = arith.addf %a, %a : f32
    linalg.yield %1, %2 : bf16, f32
  } -> (tensor<2x3xbf16>, tensor<2x3xf32>)
  return %0#0, %n, %0#1 : tensor<2x3xbf16>, tensor<2xi64>, tensor<2x3xf32>
}

func.func @product(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %w = quant_llm.get_parameter @memcpy : tensor<3x3xf32>
  %0 = quant_llm.linear %x, %w : (tensor<2x3xf32>, tensor<3x3xf32>) -> tensor<2x3xf32>
  return %0 : tensor<2x3xf32>
}
