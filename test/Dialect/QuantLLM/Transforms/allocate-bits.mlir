// RUN: rm -rf %t && %python %S/Inputs/make_hessians.py %t && cp %s %t/m.mlir && cd %t
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=uint3 block=1,32' -o chosen.mlir

// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 bits=2,3,4,6 calibration=fisher.safetensors any-model report=output.json' -remarks-filter=quant-llm-allocate-bits -o output.mlir 2> remarks.txt
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4.2 sensitivity=weight report=weight.json' -o weight.mlir
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4.2 sensitivity=relative-output calibration=fisher.safetensors any-model report=relative-output.json' -o relative.mlir
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 sensitivity=fisher bits=2,3,4 groups=16,32,-1 calibration=fisher.safetensors any-model report=fisher.json threads=3' -o fisher.mlir
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 sensitivity=fisher-output bits=2,3,4 groups=16,32,-1 calibration=fisher.safetensors any-model report=fisher-output.json threads=3' -o fisher-output.mlir
// RUN: %python %S/Inputs/check_bits.py . output weight relative-output fisher fisher-output
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 sensitivity=fisher bits=2,3,4 groups=16,32,-1 calibration=fisher.safetensors any-model threads=1' | diff - fisher.mlir
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 sensitivity=fisher-output bits=2,3,4 groups=16,32,-1 calibration=fisher.safetensors any-model threads=1' | diff - fisher-output.mlir
// RUN: FileCheck %s --check-prefix=ROWS < fisher-output.mlir
// ROWS: reason = "allocated: uint{{[234]}} of the fisher-output errors uint2 by 16: {{.*}}"
// RUN: FileCheck %s < output.mlir
// RUN: FileCheck %s --check-prefix=REMARKS < remarks.txt
// REMARKS: allocated | Category:quant-llm-allocate-bits | parameter=w, reason="allocated: uint{{.*}}", scheme="#quant_llm.scheme<uint{{[2346]}}, block = [1, 32]
// REMARKS: allocated | Category:quant-llm-allocate-bits{{.*}}parameter=v

// The schemes can be applied. A budget for all is spent on all.
// RUN: quant-opt fisher.mlir -quant-llm-quantize='output=q.safetensors report=q.json' -quant-llm-verify-stage='stage=quantized check-archives' -o /dev/null
// RUN: %python -c "import json; b = json.load(open('q.json'))['totals']['bits_per_weight']; a = json.load(open('fisher.json'))['bits_per_weight']; assert abs(a - b) < 1e-9 and a <= 3.9, (a, b)"
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=64 calibration=fisher.safetensors any-model' | FileCheck %s --check-prefix=ALL
// ALL-COUNT-2: allocated: uint8

// Low-rank parts stay, and count with their bytes.
// RUN: sed 's/scale = f16/scale = f16, low_rank = 1xf16/' chosen.mlir > rank.mlir
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=8 sensitivity=weight bits=3 report=plain.json' -o /dev/null
// RUN: quant-opt rank.mlir -quant-llm-allocate-bits='budget=8 sensitivity=weight bits=3 report=rank.json' | FileCheck %s --check-prefix=RANK
// RANK: uint3, block = [1, 32], scale = f16, zero = int, low_rank = 1xf16
// RUN: %python -c "import json; a, b = (json.load(open(n)) for n in ('plain.json', 'rank.json')); assert a['error'] == b['error']; assert b['stored_bytes'] - a['stored_bytes'] == 2 * (24 + 96 + 40 + 96), (a, b)"

// Budgets and schemes that cannot be.
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=2.1 calibration=fisher.safetensors any-model report=never.json' 2>&1 | FileCheck %s --check-prefix=SMALL
// SMALL: error: quant-llm-allocate-bits: expected a budget of at least 2.7500 bits per weight, which the smallest candidates take with their scales and zeros, but got 2.1000
// RUN: not quant-opt m.mlir -quant-llm-allocate-bits='budget=4 calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NOSCHEME
// NOSCHEME: error: quant-llm-allocate-bits: no linear has a scheme to change; run quant-llm-choose-granularity first
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=nf4 block=1,32' -o nf4.mlir
// RUN: not quant-opt nf4.mlir -quant-llm-allocate-bits='budget=4 sensitivity=weight' 2>&1 | FileCheck %s --check-prefix=NF4
// NF4: error: 'quant_llm.linear' op expected a scheme with an element intN or uintN, whose width can be changed, but got #quant_llm.scheme<nf4
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=int4 block=1,32' -o int4.mlir
// RUN: not quant-opt int4.mlir -quant-llm-allocate-bits='budget=4 bits=1,4 sensitivity=weight' 2>&1 | FileCheck %s --check-prefix=INT1
// INT1: error: 'quant_llm.linear' op cannot have 1 bits in groups of 32: expected an element with a positive value for rule absmax

// Files.
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 sensitivity=fisher calibration=half-fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=HALF
// HALF: error: 'quant_llm.linear' op 'half-fisher.safetensors' has no statistic 'fisher' of 'v'
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 sensitivity=fisher-output calibration=half-fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=HALFROWS
// HALFROWS: error: 'quant_llm.linear' op 'half-fisher.safetensors' has no statistic 'row-fisher' of 'v'
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 sensitivity=fisher-output calibration=only-fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=ONLY
// ONLY: error: 'quant_llm.linear' op 'only-fisher.safetensors' has no statistic 'hessian' of 'w'
// Neither a large H nor tiny gradients change the choice.
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 sensitivity=fisher-output bits=2,3,4 calibration=fisher.safetensors any-model report=plain.json' -o plain.mlir
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 sensitivity=fisher-output bits=2,3,4 calibration=tiny-fisher.safetensors any-model report=tiny.json' -o tiny.mlir
// RUN: %python -c "import json; a, b = (json.load(open(n)) for n in ('plain.json', 'tiny.json')); assert abs(b['error'] / a['error'] / 1e-30 - 1) < 1e-3, (a, b); assert [w['chosen'] for w in a['weights']] == [w['chosen'] for w in b['weights']]"
// No gradients: no errors, and the least bytes.
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=3.9 sensitivity=fisher-output bits=2,3,4 calibration=no-gradients.safetensors any-model' | FileCheck %s --check-prefix=NOGRADIENTS
// NOGRADIENTS-COUNT-2: allocated: uint2 of the fisher-output errors uint2: 0.00e+00
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 calibration=wrong.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=WRONG
// WRONG: error: 'quant_llm.linear' op 'wrong.safetensors': hessian of 'w': expected the shape [96, 96] but got [95, 95]
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'both.safetensors' is of another model
// RUN: quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 calibration=huge.safetensors any-model' | FileCheck %s --check-prefix=HUGE
// HUGE-COUNT-2: allocated

// Options.
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=BUDGET
// BUDGET: invalid option 'budget': expected bits per weight
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=-3 calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NEGATIVE
// NEGATIVE: invalid option 'budget': expected bits per weight, above 0 and at most 64, but got -3
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=nan calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NAN
// NAN: invalid option 'budget': expected bits per weight, above 0
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 bits=3,9 calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=BITS
// BITS: invalid option 'bits': expected widths from 1 to 8 but got 9
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 groups=0 calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=GROUPS
// GROUPS: invalid option 'groups': expected positive group sizes, or -1 for the whole row, but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits=budget=4 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: invalid option 'calibration': expected a file with the statistics that the sensitivity needs
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 sensitivity=weight calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NOUSE
// NOUSE: invalid option 'calibration': expected none with the sensitivity weight
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-bits='budget=4 sensitivity=weight any-model' 2>&1 | FileCheck %s --check-prefix=ANY
// ANY: invalid option 'any-model': expected none without the option calibration
// RUN: not test -e never.json

// CHECK: quant_llm.linear {{.*}}reason = "allocated: uint{{[2346]}} of the output errors uint2: {{.*}}, uint3: {{.*}}, uint4: {{.*}}, uint6: {{.*}}", scheme = #

quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<24x96xf16>
quant_llm.parameter @v from @a : tensor<40x96xf16>
func.func @f(%x: tensor<?x96xf32>) -> (tensor<?x24xf32>, tensor<?x40xf32>) {
  %w = quant_llm.get_parameter @w : tensor<24x96xf16>
  %v = quant_llm.get_parameter @v : tensor<40x96xf16>
  %0 = quant_llm.linear %x, %w : (tensor<?x96xf32>, tensor<24x96xf16>) -> tensor<?x24xf32>
  %1 = quant_llm.linear %x, %v : (tensor<?x96xf32>, tensor<40x96xf16>) -> tensor<?x40xf32>
  return %0, %1 : tensor<?x24xf32>, tensor<?x40xf32>
}
