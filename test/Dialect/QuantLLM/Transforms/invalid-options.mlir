// Every wrong option or file of the passes is one message, and nothing is written.
// RUN: rm -rf %t && %python %S/Inputs/make_archive.py %t && cp %S/Inputs/model.mlir %t && mkdir -p %t/done/directory.safetensors
// RUN: quant-opt %t/model.mlir -quant-llm-choose-granularity=block=1,64 -o %t/chosen.mlir

// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int9' 2>&1 | FileCheck %s --check-prefix=ELEMENT
// ELEMENT: error: quant-llm-choose-granularity: invalid option 'element': {{.*}}int9
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='scale=f12' 2>&1 | FileCheck %s --check-prefix=SCALE
// SCALE: error: quant-llm-choose-granularity: invalid option 'scale': {{.*}}f12
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='zero=maybe' 2>&1 | FileCheck %s --check-prefix=ZERO
// ZERO: error: quant-llm-choose-granularity: invalid option 'zero': expected none, int, f16, bf16 or f32 but got 'maybe'
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='rule=best' 2>&1 | FileCheck %s --check-prefix=RULE
// RULE: error: quant-llm-choose-granularity: invalid option 'rule': {{.*}}best
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='rounding=up' 2>&1 | FileCheck %s --check-prefix=ROUNDING
// ROUNDING: error: quant-llm-choose-granularity: invalid option 'rounding': {{.*}}up
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='element=int4 rule=minmax' 2>&1 | FileCheck %s --check-prefix=SCHEME
// SCHEME: error: quant-llm-choose-granularity: the options are no legal scheme:
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='element=nf4 zero=int' 2>&1 | FileCheck %s --check-prefix=SCHEME
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='block=64' 2>&1 | FileCheck %s --check-prefix=BLOCK
// BLOCK: error: quant-llm-choose-granularity: invalid option 'block': expected two sizes, outputs and inputs, but got 1
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='block=0,64' 2>&1 | FileCheck %s --check-prefix=SCHEME
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='alpha=0' 2>&1 | FileCheck %s --check-prefix=ALPHA
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='alpha=nan' 2>&1 | FileCheck %s --check-prefix=ALPHA
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='alpha=2.0000001' 2>&1 | FileCheck %s --check-prefix=DIGITS
// ALPHA: error: quant-llm-choose-granularity: invalid option 'alpha': expected a number in (0, 2] but got
// DIGITS: error: quant-llm-choose-granularity: invalid option 'alpha': expected a number in (0, 2] but got 2.0000001{{$}}
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='sizes=64,-1' 2>&1 | FileCheck %s --check-prefix=SIZES
// SIZES: error: quant-llm-choose-granularity: invalid option 'sizes': expected positive group sizes but got -1
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='block=1,64 alpha=0.5' 2>&1 | FileCheck %s --check-prefix=UNUSED -DNAME=alpha
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='block=1,64 sizes=64' 2>&1 | FileCheck %s --check-prefix=UNUSED -DNAME=sizes
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='block=1,64 statistic=gaussian' 2>&1 | FileCheck %s --check-prefix=UNUSED -DNAME=statistic
// RUN: not quant-opt %t/model.mlir -quant-llm-finequant='output=%t/q.safetensors block=1,64 aggregation=mean' 2>&1 | FileCheck %s --check-prefix=UNUSED -DNAME=aggregation
// UNUSED: error: quant-llm-choose-granularity: invalid option '[[NAME]]': expected none with the option block, which leaves nothing to choose
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='include=(' 2>&1 | FileCheck %s --check-prefix=REGEX
// REGEX: error: quant-llm-choose-granularity: invalid option 'include': '(' is no regular expression: parentheses not balanced
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='exclude=[a' 2>&1 | FileCheck %s --check-prefix=REGEX2
// REGEX2: error: quant-llm-choose-granularity: invalid option 'exclude': '[a' is no regular expression: brackets ([ ]) not balanced
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='statistic=entropy' 2>&1 | FileCheck %s --check-prefix=ENUM
// ENUM: quant-opt: error: quant-llm-choose-granularity: invalid option 'statistic': expected raw or gaussian but got 'entropy'
// RUN: not quant-opt %t/model.mlir -quant-llm-choose-granularity='base-dir=%t/nowhere' 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: error: 'quant_llm.archive' op cannot be opened: {{.*}}nowhere/model.safetensors

// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize 2>&1 | FileCheck %s --check-prefix=OUTPUT
// OUTPUT: error: quant-llm-quantize: invalid option 'output': expected a safetensors file to write but got none
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.txt' 2>&1 | FileCheck %s --check-prefix=SUFFIX
// SUFFIX: error: quant-llm-quantize: invalid option 'output': expected the name of a .safetensors file but got '{{.*}}q.txt'
// RUN: not quant-opt %t/model.mlir -quant-llm-finequant='output=%t/q.safetensors include=nomatch' 2>&1 | FileCheck %s --check-prefix=NOMATCH
// NOMATCH: model.mlir:{{.*}}error: quant-llm-quantize: no linear has a scheme to apply: '{{.*}}' stays dense: the name does not match the include expression 'nomatch'
// RUN: quant-opt %t/model.mlir -quant-llm-finequant='output=%t/done/q.safetensors block=1,64' -o %t/done/model.mlir
// RUN: not quant-opt %t/done/model.mlir -quant-llm-finequant='output=%t/q.safetensors' 2>&1 | FileCheck %s --check-prefix=DONE
// DONE: error: quant-llm-quantize: the linears of the module are quantized already, but for those that stay dense ('embed_tokens.weight' stays dense: the parameter is also used by other operations than linears); start from the module with the dense weights
// RUN: quant-opt %t/model.mlir -quant-llm-finequant='output=%t/done/all.safetensors block=1,64 include-shared exclude=nothing' -o %t/done/all.mlir
// RUN: not quant-opt %t/done/all.mlir -quant-llm-finequant='output=%t/q.safetensors' 2>&1 | FileCheck %s --check-prefix=ALL
// ALL: error: quant-llm-quantize: the linears of the module are quantized already; start from the module with the dense weights
// RUN: quant-opt %t/model.mlir -quant-llm-finequant='output=%t/done/u.safetensors block=1,64 element=uint4 zero=none rule=absmax' -o %t/done/u.mlir 2>&1 | FileCheck %s --check-prefix=SIGN
// SIGN: warning: quant-llm-quantize: {{[0-9]+}} of {{[0-9]+}} weights are negative, which #quant_llm.scheme<uint4, {{.*}}> cannot represent: they become zero; use an element with a sign or a zero (zero = int)
// RUN: not quant-opt %t/model.mlir -quant-llm-quantize='output=%t/q.safetensors' 2>&1 | FileCheck %s --check-prefix=NOSCHEME
// NOSCHEME: error: quant-llm-quantize: no linear has a scheme to apply; run quant-llm-choose-granularity first
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/model.safetensors' 2>&1 | FileCheck %s --check-prefix=SELF
// SELF: error: quant-llm-quantize: '{{.*}}model.safetensors' is a file of an archive that the module reads; choose another file
// SELF: note: the archive is here
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors report=%t/./q.safetensors' 2>&1 | FileCheck %s --check-prefix=SAME
// SAME: error: quant-llm-quantize: expected different files for 'output' and 'report'
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors archive-name=forward' 2>&1 | FileCheck %s --check-prefix=SYMBOL
// SYMBOL: error: quant-llm-quantize: invalid option 'archive-name': expected a new name but got 'forward', which is the name of another symbol
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors archive-name=1x' 2>&1 | FileCheck %s --check-prefix=NAME
// NAME: error: quant-llm-quantize: invalid option 'archive-name': expected a letter or _, then letters, digits, _, $, . or - but got '1x'
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors module-dir=%t/nowhere' 2>&1 | FileCheck %s --check-prefix=MODULEDIR
// MODULEDIR: error: quant-llm-quantize: invalid option 'module-dir': expected a directory, where the module will be written, but got '{{.*}}nowhere'
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/nowhere/q.safetensors' 2>&1 | FileCheck %s --check-prefix=NODIR
// NODIR: error: quant-llm-quantize: cannot write '{{[^ ]*}}nowhere/q.safetensors': No such file or directory{{$}}
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors report=%t/nowhere/r.json' 2>&1 | FileCheck %s --check-prefix=NOREPORT
// NOREPORT: error: quant-llm-quantize: cannot write '{{[^ ]*}}nowhere/r.json': No such file or directory{{$}}
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/done/directory.safetensors' 2>&1 | FileCheck %s --check-prefix=ISDIR
// ISDIR: error: quant-llm-quantize: cannot write '{{[^ ]*}}': expected a regular file or a new name but got a directory{{$}}
// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors threads=-1' 2>&1 | FileCheck %s --check-prefix=THREADS
// THREADS: error: quant-llm-quantize: invalid option 'threads': expected an integer from 0 to 4294967295 but got '-1'

// RUN: not quant-opt %t/chosen.mlir -quant-llm-quantize='output=%t/q.safetensors threads=4097' 2>&1 | FileCheck %s --check-prefix=MANY
// MANY: error: quant-llm-quantize: invalid option 'threads': expected at most 4096 but got 4097

// RUN: not quant-opt %t/chosen.mlir -quant-llm-verify-stage=stage=perfect 2>&1 | FileCheck %s --check-prefix=STAGE
// STAGE: error: quant-llm-verify-stage: invalid option 'stage': expected {{.*}} or {{.*}} but got 'perfect'
// RUN: not quant-opt %t/chosen.mlir -convert-linalg-to-quant-llm=all-values=perhaps 2>&1 | FileCheck %s --check-prefix=BOOL
// BOOL: error: convert-linalg-to-quant-llm: invalid option 'all-values': expected true or false but got 'perhaps'

// RUN: not test -e %t/q.safetensors
// RUN: ls -A %t | FileCheck %s --check-prefix=LEFT
// LEFT:     chosen.mlir
// LEFT-NEXT: done
// LEFT-NEXT: inf.safetensors
// LEFT-NEXT: model.mlir
// LEFT-NEXT: model.safetensors
// LEFT-NEXT: nan-dense-bf16.safetensors
// LEFT-NEXT: nan-dense-f16.safetensors
// LEFT-NEXT: nan-dense-f32.safetensors
// LEFT-NEXT: nan-dense-f64.safetensors
// LEFT-NEXT: nan.safetensors
// LEFT-NEXT: other.safetensors
// LEFT-NEXT: sharded
// LEFT-NOT: {{.}}
