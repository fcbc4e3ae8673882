// RUN: rm -rf %t && %python %S/Inputs/make_hessians.py %t && cp %s %t/m.mlir && cd %t
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=int4 block=1,32' -o chosen.mlir

// RUN: quant-opt chosen.mlir -quant-llm-allocate-rows='budget=3.9 elements=normal2,normal3,uint3,int5 groups=16,32 min-rows=4 calibration=rows.safetensors any-model report=rows.json threads=3' -remarks-filter=quant-llm-allocate-rows -o rows.mlir 2> remarks.txt
// RUN: %python %S/Inputs/check_rows.py . rows 0.8
// RUN: FileCheck %s < rows.mlir
// RUN: FileCheck %s --check-prefix=REMARKS < remarks.txt
// REMARKS: allocated | Category:quant-llm-allocate-rows | parameter=w, rows={{[0-9]+}}, scheme="#quant_llm.scheme<
// RUN: quant-opt chosen.mlir -quant-llm-allocate-rows='budget=3.9 elements=normal2,normal3,uint3,int5 groups=16,32 min-rows=4 calibration=rows.safetensors any-model threads=1' | diff - rows.mlir
// RUN: quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4.5 elements=normal3,uint3,int5,int6 parts=2 min-rows=2 row-power=1 calibration=rows.safetensors any-model report=two.json' -o two.mlir
// RUN: %python %S/Inputs/check_rows.py . two 1

// The parts compute what the whole did, and have its statistics.
// RUN: quant-opt rows.mlir -quant-llm-materialize-transforms='output=parts.safetensors calibration=rows.safetensors any-model calibration-output=parts-c.safetensors' -quant-llm-verify-equivalence='reference=m.mlir' -o parts.mlir
// RUN: %python %S/Inputs/check_row_parts.py .
// RUN: FileCheck %s --check-prefix=PARTS < parts.mlir
// PARTS-DAG: quant_llm.parameter @w.rows from @transformed : tensor<{{[0-9]+}}x96xf16>
// PARTS-DAG: quant_llm.parameter @w.rows_1 from @transformed : tensor<{{[0-9]+}}x96xf16>
// PARTS: quant_llm.permute_channels inverse
// RUN: quant-opt parts.mlir -quant-llm-quantize='method=gptq act-order clip=diagonal calibration=parts-c.safetensors output=q.safetensors report=q.json' -quant-llm-verify-stage='stage=quantized check-archives' -o q.mlir
// RUN: %python -c "import json; q = json.load(open('q.json'))['totals']; r = json.load(open('rows.json')); assert q['stored_bytes'] <= r['stored_bytes'], (q, r)"
// It is not quite another function after 3.9 bits.
// RUN: %python -c "import numpy as np; np.save('x.npy', np.random.default_rng(1).normal(size=(5, 96)).astype(np.float32))"
// RUN: quant-run m.mlir --input=x.npy --output=y0.npy --output=y1.npy
// RUN: quant-run q.mlir --input=x.npy --output=z0.npy --output=z1.npy
// RUN: %python %S/Inputs/check_row_parts.py . quantized

// Weights that are used twice, or have an epilogue, stay whole.
// RUN: sed 's/linear %x, %v :/linear %x, %w :/; s/tensor<40x96xf16>) -> tensor<?x40xf32>/tensor<24x96xf16>) -> tensor<?x24xf32>/; s/tensor<?x40xf32>/tensor<?x24xf32>/g' m.mlir > twice.mlir
// RUN: quant-opt twice.mlir -quant-llm-choose-granularity='element=int4 block=1,32' -quant-llm-allocate-rows='budget=3.9 elements=normal3,int5 min-rows=2 calibration=rows.safetensors any-model' | FileCheck %s --check-prefix=TWICE
// TWICE-NOT: tensor.concat
// TWICE-COUNT-2: reason = "allocated: all rows, error {{.*}}", scheme = #scheme}

// So do those that anything else gets, which would need them besides the parts.
// RUN: sed 's/^    return %0, %1 : tensor<?x24xf32>, tensor<?x40xf32>/    %%t = quant_llm.get_parameter @w : tensor<24x96xf16>\n    return %0, %1, %%t : tensor<?x24xf32>, tensor<?x40xf32>, tensor<24x96xf16>/; s/tensor<?x40xf32>) {/tensor<?x40xf32>, tensor<24x96xf16>) {/' chosen.mlir > tied.mlir
// RUN: quant-opt tied.mlir -quant-llm-allocate-rows='budget=3.9 elements=normal3,int5 min-rows=2 calibration=rows.safetensors any-model report=tied.json' | FileCheck %s --check-prefix=TIED
// RUN: %python -c "import json; w, v = json.load(open('tied.json'))['weights']; assert w['parameters'] == ['w'] and len(w['parts']) == 1, w"
// TIED: quant_llm.linear %arg0, %[[W:.+]] {reason = "allocated: all rows, error {{.*}}", scheme = #{{.+}}} : (tensor<?x96xf32>, tensor<24x96xf16>)
// TIED: quant_llm.get_parameter @w

// Nothing to split: the files are written all the same, if they are wanted.
// RUN: quant-opt chosen.mlir -quant-llm-allocate-rows='budget=8 elements=int6 calibration=rows.safetensors any-model' -o whole.mlir
// RUN: not quant-opt whole.mlir -quant-llm-materialize-transforms='output=whole.safetensors' 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: no parameter is transformed
// RUN: quant-opt whole.mlir -quant-llm-materialize-transforms='output=whole.safetensors allow-none calibration=rows.safetensors any-model calibration-output=whole-c.safetensors' -quant-llm-verify-equivalence='reference=m.mlir' -quant-llm-quantize='method=gptq calibration=whole-c.safetensors output=wq.safetensors' -o /dev/null
// No gradients: the least bytes.
// RUN: quant-opt chosen.mlir -quant-llm-allocate-rows='budget=8 elements=normal2,int6 calibration=no-gradients.safetensors any-model' | FileCheck %s --check-prefix=NOGRADIENTS
// NOGRADIENTS-COUNT-2: allocated: all rows, error 0.00e+00

// Budgets, schemes, files.
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=2.1 calibration=fisher.safetensors any-model report=never.json' 2>&1 | FileCheck %s --check-prefix=SMALL
// SMALL: error: quant-llm-allocate-rows: expected a budget of at least 2.5000 bits per weight, which the smallest candidates take with their scales and zeros, but got 2.1000
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=int4 block=8,32' -o blocks.mlir
// RUN: not quant-opt blocks.mlir -quant-llm-allocate-rows='budget=4 calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=BLOCKS
// BLOCKS: error: 'quant_llm.linear' op expected a scheme that stores every row by itself (block = [1, ...], and no low-rank part) but got #quant_llm.scheme<
// RUN: not quant-opt m.mlir -quant-llm-allocate-rows='budget=4 calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NOSCHEME
// NOSCHEME: error: quant-llm-allocate-rows: no linear has a scheme to change; run quant-llm-choose-granularity first
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 calibration=half-fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=HALF
// HALF: error: 'quant_llm.linear' op 'half-fisher.safetensors' has no statistic 'row-fisher' of 'v'
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'both.safetensors' is of another model

// Options.
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=BUDGET
// BUDGET: invalid option 'budget': expected bits per weight
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4' 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: invalid option 'calibration': expected a file with the statistics that the allocation of rows needs
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 elements=normal9 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=ELEMENT
// ELEMENT: invalid option 'elements': expected an element (int1..int8, {{.*}}) but got 'normal9'
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 elements=int1 calibration=fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=INT1
// INT1: error: 'quant_llm.linear' op cannot have elements int1 in groups of 32: expected an element with a positive value for rule absmax
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 groups=0 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=GROUPS
// GROUPS: invalid option 'groups': expected positive group sizes, or -1 for the whole row, but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 parts=0 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=NOPARTS
// NOPARTS: invalid option 'parts': expected at least 1 but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 min-rows=0 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=MINROWS
// MINROWS: invalid option 'min-rows': expected at least 1 but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 row-power=1.5 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=POWER
// POWER: invalid option 'row-power': expected a power from 0 to 1 but got 1.5
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 damping=-1 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=DAMPING
// DAMPING: invalid option 'damping': expected a damping from 0 to 1000000 but got -1
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 clip-shrink=0 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=SHRINK
// SHRINK: invalid option 'clip-shrink': expected a part above 0 and at most 1 but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 clip-grid=0 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=GRID
// GRID: invalid option 'clip-grid': expected 1 to 1000 steps but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-allocate-rows='budget=4 clip-grid=2147483647 calibration=fisher.safetensors' 2>&1 | FileCheck %s --check-prefix=FINEGRID
// FINEGRID: invalid option 'clip-grid': expected 1 to 1000 steps but got 2147483647
// RUN: not test -e never.json

// CHECK: %[[W:.+]] = quant_llm.get_parameter @w
// CHECK: %[[ORDER:.+]] = arith.constant dense<[{{.*}}]> : tensor<24xi16>
// CHECK: %[[P:.+]] = quant_llm.permute_channels %[[W]] by %[[ORDER]] dims = [0] : tensor<24x96xf16>, tensor<24xi16>
// CHECK: %[[S0:.+]] = tensor.extract_slice %[[P]][0, 0] [[[N0:.*]], 96] [1, 1]
// CHECK: %[[Y0:.+]] = quant_llm.linear %{{.*}}, %[[S0]] {reason = "allocated: [[N0]] of 24 rows, error {{.*}}", scheme = #{{.*}}}
// CHECK: tensor.extract_slice %[[P]]{{\[}}[[N0]], 0]
// CHECK: %[[Z:.+]] = tensor.concat dim(1) %[[Y0]], {{.*}} -> tensor<?x24xf32>
// CHECK: %[[Y:.+]] = quant_llm.permute_channels inverse %[[Z]] by %[[ORDER]] dims = [1]
// CHECK: return %[[Y]]

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
