// RUN: rm -rf %t && %python %S/Inputs/make_channel_statistics.py %t && cp %s %t/m.mlir && cd %t
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant alpha=0.75 calibration=c.safetensors any-model report=smooth.json' -o smooth.mlir
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant-plus grid=10 calibration=c.safetensors any-model report=plus.json' -o plus.mlir
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model report=awq.json' -remarks-filter=quant-llm-choose-channel-scales -o awq.mlir 2> remarks.txt
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model duo-scaling=yes report=duo.json' -o duo.mlir
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model duo-scaling=both report=both.json threads=3' -o both.mlir
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model error=relative-output report=relative.json' -o relative.mlir
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=no-hessian.safetensors any-model alpha=0.25 report=fixed.json' -remarks-filter=quant-llm-choose-channel-scales -o fixed.mlir 2> fixed.txt
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=no-hessian.safetensors any-model alpha=0.25 duo-scaling=yes report=fixed-duo.json' -o fixed-duo.mlir
// RUN: %python %S/Inputs/check_channel_scales.py .
// RUN: FileCheck %s < awq.mlir
// RUN: FileCheck %s --check-prefix=REMARKS < remarks.txt
// RUN: FileCheck %s --check-prefix=FIXED < fixed.txt
// FIXED-NOT: error
// FIXED: scaled | Category:quant-llm-choose-channel-scales | parameter=w_up, site=norm-mlp, strength=2.5{{0*}}e-01
// FIXED-NOT: error
// REMARKS: scaled | Category:quant-llm-choose-channel-scales | error after={{.*}}, error before={{.*}}, parameter=w_up, site=norm-mlp, strength={{.*}}
// REMARKS: dead-channels | Category:quant-llm-choose-channel-scales{{.*}}channels that were always 0 get the scale 1; parameter w_up", dead=1
// REMARKS: scaled | Category:quant-llm-choose-channel-scales | {{.*}}parameter=down, site=up-down

// Into the parameters, with their schemes; the same function.
// RUN: quant-opt awq.mlir -quant-llm-fold-transforms=max-online=0 -quant-llm-materialize-transforms=output=scaled.safetensors -o scaled.mlir
// RUN: FileCheck %s --check-prefix=STORED < scaled.mlir
// STORED-NOT: scale_channels
// STORED: quant_llm.linear {{.*}}scheme
// STORED: quant_llm.linear {{.*}}scheme
// STORED: quant_llm.linear {{.*}}scheme
// STORED-NOT: scale_channels

// The statistics go with the weights, and belong to the new model.
// RUN: quant-opt awq.mlir -quant-llm-fold-transforms=max-online=0 -quant-llm-materialize-transforms='output=scaled.safetensors calibration=c.safetensors any-model calibration-output=scaled-c.safetensors' -o scaled.mlir
// RUN: %python %S/Inputs/check_statistics.py . scaled
// RUN: quant-opt scaled.mlir -quant-llm-quantize='output=gptq.safetensors method=gptq static-groups clip=output calibration=scaled-c.safetensors' -o /dev/null
// RUN: not quant-opt m.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=scaled-c.safetensors' 2>&1 | FileCheck %s --check-prefix=BEFORE
// BEFORE: error: 'scaled-c.safetensors' is of another model
// RUN: quant-opt m.mlir -quant-llm-insert-transforms='sites=up-down transform=hadamard seed=3' -quant-llm-fold-transforms -quant-llm-materialize-transforms='output=rotated.safetensors calibration=c.safetensors any-model calibration-output=rotated-c.safetensors' -remarks-filter=quant-llm-materialize-transforms -o rotated.mlir 2>&1 | FileCheck %s --check-prefix=LOST
// LOST: statistics-lost | Category:quant-llm-materialize-transforms{{.*}}parameter=down, statistics="absmax absmean fisher max min quantiles"
// RUN: %python %S/Inputs/check_statistics.py . rotated
// RUN: quant-opt rotated.mlir -quant-llm-quantize='output=r.safetensors method=gptq calibration=rotated-c.safetensors' -o /dev/null
// RUN: not quant-opt awq.mlir -quant-llm-fold-transforms -quant-llm-materialize-transforms='output=never.safetensors calibration=c.safetensors' 2>&1 | FileCheck %s --check-prefix=BOTH
// RUN: not quant-opt awq.mlir -quant-llm-fold-transforms -quant-llm-materialize-transforms='output=never.safetensors calibration-output=never.safetensors' 2>&1 | FileCheck %s --check-prefix=BOTH
// BOTH: error: quant-llm-materialize-transforms: expected both of the options 'calibration' and 'calibration-output'
// RUN: not quant-opt awq.mlir -quant-llm-fold-transforms -quant-llm-materialize-transforms='output=never.safetensors calibration=c.safetensors calibration-output=never-c.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// RUN: not quant-opt m.mlir -quant-llm-insert-transforms='sites=up-down transform=hadamard' -quant-llm-fold-transforms -quant-llm-insert-transforms='sites=norm-mlp transform=shift random' -quant-llm-materialize-transforms='output=never.safetensors calibration=c.safetensors any-model calibration-output=never-c.safetensors' 2>&1 | FileCheck %s --check-prefix=SHIFT
// SHIFT: error: 'quant_llm.shift_channels' op shifts the inputs of linears, which their weights do not tell; calibrate the transformed model instead
// RUN: cp model.safetensors kept.safetensors
// RUN: not quant-opt awq.mlir -quant-llm-fold-transforms=max-online=0 -quant-llm-materialize-transforms='output=never.safetensors calibration=c.safetensors any-model calibration-output=model.safetensors' 2>&1 | FileCheck %s --check-prefix=ARCHIVE
// ARCHIVE: error: quant-llm-materialize-transforms: 'model.safetensors' is a file of an archive that the module reads; choose another file for 'calibration-output'
// RUN: cmp model.safetensors kept.safetensors
// RUN: not quant-opt awq.mlir -quant-llm-fold-transforms=max-online=0 -quant-llm-materialize-transforms='output=never.safetensors calibration=c.safetensors any-model calibration-output=./never.safetensors' 2>&1 | FileCheck %s --check-prefix=TWICE
// TWICE: error: quant-llm-materialize-transforms: cannot write './never.safetensors': another file of the same name is being written
// RUN: not test -e never.safetensors
// RUN: not test -e never-c.safetensors

// Low-rank parts are left out of the errors, and stay.
// RUN: sed 's/zero = int, rule/zero = int, low_rank = 1xf16, rule/' m.mlir > rank.mlir
// RUN: quant-opt rank.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model' -o rank-awq.mlir
// RUN: sed 's/, low_rank = 1xf16//' rank-awq.mlir | diff - awq.mlir
// RUN: FileCheck %s --check-prefix=RANK < rank-awq.mlir
// RANK: low_rank = 1xf16

// Only what was asked for; one number of threads is as good as another.
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model sites=up-down threads=1' | FileCheck %s --check-prefix=DOWN
// DOWN-COUNT-1: quant_llm.scale_channels inverse
// DOWN-NOT: quant_llm.scale_channels inverse
// RUN: quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model threads=1' | diff - awq.mlir

// Without schemes there is no error to make small. SmoothQuant needs none.
// RUN: sed 's/ {scheme = #scheme}//' m.mlir > dense.mlir
// RUN: quant-opt dense.mlir -quant-llm-choose-channel-scales='method=smoothquant calibration=c.safetensors any-model' | FileCheck %s --check-prefix=DENSE
// DENSE: quant_llm.scale_channels inverse
// RUN: not quant-opt dense.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NOSCHEME
// NOSCHEME: error: quant-llm-choose-channel-scales: found no site with a linear that has a scheme, which tells what the error will be; run quant-llm-choose-granularity or quant-llm-allocate-bits first
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model sites=value-output' 2>&1 | FileCheck %s --check-prefix=NOSITE
// NOSITE: error: quant-llm-choose-channel-scales: found no site to scale; raise weight contractions first (convert-linalg-to-quant-llm)

// Files.
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'c.safetensors' is of another model
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=no-hessian.safetensors any-model report=never.json' 2>&1 | FileCheck %s --check-prefix=HESSIAN
// Of all linears at once.
// HESSIAN: error: 'quant_llm.linear' op 'no-hessian.safetensors' has no statistic 'hessian' of 'w_up'
// HESSIAN: error: 'quant_llm.linear' op 'no-hessian.safetensors' has no statistic 'hessian' of 'w_gate'
// HESSIAN: error: 'quant_llm.linear' op 'no-hessian.safetensors' has no statistic 'hessian' of 'down'
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=no-mean.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=MEAN
// MEAN: error: 'quant_llm.linear' op 'no-mean.safetensors' has no statistic 'absmean' of 'w_up'
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=narrow.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NARROW
// NARROW: error: 'quant_llm.linear' op 'narrow.safetensors': absmean of 'down': expected the shape [16] but got [5]
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant calibration=nan-statistic.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NANSTAT
// NANSTAT: error: 'quant_llm.linear' op 'nan-statistic.safetensors': absmax of 'w_up': expected finite values
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=other.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=OTHER
// OTHER: error: 'quant_llm.linear' op 'other.safetensors' has no statistic 'absmean' of 'w_up' and no other; it knows 1 parameters: w
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales=calibration=none 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: error: cannot open 'none': No such file or directory
// RUN: sed 's/"model.safetensors"/"nan.safetensors"/' m.mlir > nan.mlir
// RUN: not quant-opt nan.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NAN
// RUN: not quant-opt nan.mlir -quant-llm-choose-channel-scales='method=smoothquant calibration=c.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NAN
// NAN: error: 'quant_llm.parameter' op cannot be scaled: tensor 'w_gate' has nan at row 3, column 4
// RUN: not test -e never.json

// Options.
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales 2>&1 | FileCheck %s --check-prefix=REQUIRED
// REQUIRED: error: quant-llm-choose-channel-scales: invalid option 'calibration': expected a file with statistics of the inputs
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors sites=residual' 2>&1 | FileCheck %s --check-prefix=SITES
// SITES: invalid option 'sites': expected norm-attention, norm-mlp, norm-head, up-down or value-output but got 'residual'
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors sites=query-key' 2>&1 | FileCheck %s --check-prefix=KEYS
// KEYS: invalid option 'sites': expected norm-attention, norm-mlp, norm-head, up-down or value-output but got 'query-key'
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant calibration=c.safetensors alpha=1.5' 2>&1 | FileCheck %s --check-prefix=ALPHA
// ALPHA: invalid option 'alpha': expected a number from 0 to 1 but got 1.5
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant-plus calibration=c.safetensors alpha=0.7' 2>&1 | FileCheck %s --check-prefix=PLUSALPHA
// PLUSALPHA: invalid option 'alpha': expected none with smoothquant-plus, which searches it
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors alpha=nan' 2>&1 | FileCheck %s --check-prefix=NANALPHA
// NANALPHA: invalid option 'alpha': expected a number from 0 to 1 but got nan
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors alpha=0.5 grid=10' 2>&1 | FileCheck %s --check-prefix=FIXEDGRID
// FIXEDGRID: invalid option 'grid': expected none with alpha
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors alpha=0.5 error=relative-output' 2>&1 | FileCheck %s --check-prefix=FIXEDERROR
// FIXEDERROR: invalid option 'error': expected none with alpha
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors alpha=0.5 duo-scaling=both' 2>&1 | FileCheck %s --check-prefix=FIXEDDUO
// FIXEDDUO: invalid option 'duo-scaling': expected no or yes with alpha
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='calibration=c.safetensors grid=0' 2>&1 | FileCheck %s --check-prefix=GRID
// GRID: invalid option 'grid': expected 1 to 1000 steps but got 0
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant calibration=c.safetensors grid=10' 2>&1 | FileCheck %s --check-prefix=NOGRID
// NOGRID: invalid option 'grid': expected none with smoothquant
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant calibration=c.safetensors error=relative-output' 2>&1 | FileCheck %s --check-prefix=NOERROR
// NOERROR: invalid option 'error': expected none with smoothquant, which measures none
// RUN: not quant-opt m.mlir -quant-llm-choose-channel-scales='method=smoothquant-plus calibration=c.safetensors duo-scaling=yes' 2>&1 | FileCheck %s --check-prefix=DUO
// DUO: invalid option 'duo-scaling': expected none with another method than awq

// CHECK-LABEL: func.func @f
// CHECK:         %[[N:.*]] = linalg.generic {{.*}}%{{.*}}, %{{.*}}, %{{.*}} : tensor<?x8xf32>, tensor<?xf32>, tensor<8xf16>
// CHECK:         %[[S:.*]] = arith.constant dense<[{{.*}}]> : tensor<8xf64>
// CHECK:         %[[A:.*]] = quant_llm.scale_channels inverse %{{.*}} by %[[S]] dims = [1] : tensor<?x8xf32>, tensor<8xf64>
// CHECK:         %[[B:.*]] = quant_llm.scale_channels %[[A]] by %[[S]] dims = [1] : tensor<?x8xf32>, tensor<8xf64>
// CHECK:         quant_llm.linear %[[B]]
// CHECK:         quant_llm.linear %[[B]]
// CHECK:         %[[S:.*]] = arith.constant dense<[{{.*}}]> : tensor<16xf64>
// CHECK:         quant_llm.scale_channels inverse %{{.*}} by %[[S]] dims = [1] : tensor<?x16xf32>, tensor<16xf64>
// CHECK:         %[[C:.*]] = quant_llm.scale_channels
// CHECK:         quant_llm.linear %[[C]]
// CHECK-NOT:     scale_channels

#scheme = #quant_llm.scheme<uint3, block = [1, 4], scale = f32, zero = int, rule = minmax, rounding = half_even>
#tc = affine_map<(d0, d1) -> (d0, d1)>
#t = affine_map<(d0, d1) -> (d0)>
#c = affine_map<(d0, d1) -> (d1)>
quant_llm.archive @model "model.safetensors"
quant_llm.parameter @embedding from @model : tensor<32x8xf32>
quant_llm.parameter @gain from @model : tensor<8xf16>
quant_llm.parameter @w_up from @model : tensor<16x8xf32>
quant_llm.parameter @w_gate from @model : tensor<16x8xf32>
quant_llm.parameter @down from @model : tensor<8x16xf32>
quant_llm.parameter @head from @model : tensor<32x8xf32>




func.func @f(%tokens: tensor<?xindex>, %e8: tensor<?x8xf32>, %e: tensor<?xf32>) -> tensor<?x32xf32> {
  %table = quant_llm.get_parameter @embedding : tensor<32x8xf32>
  %h = linalg.generic {indexing_maps = [#t, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%tokens : tensor<?xindex>) outs(%e8 : tensor<?x8xf32>) {
  ^bb0(%token: index, %o: f32):
    %i = linalg.index 1 : index
    %v = tensor.extract %table[%token, %i] : tensor<32x8xf32>
    linalg.yield %v : f32
  } -> tensor<?x8xf32>
  %zero = arith.constant 0.0 : f32
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %squares = linalg.generic {indexing_maps = [#tc, #t], iterator_types = ["parallel", "reduction"]}
      ins(%h : tensor<?x8xf32>) outs(%init : tensor<?xf32>) {
  ^bb0(%a: f32, %o: f32):
    %s = arith.mulf %a, %a : f32
    %v = arith.addf %o, %s : f32
    linalg.yield %v : f32
  } -> tensor<?xf32>
  %root = math.rsqrt %squares : tensor<?xf32>
  %g = quant_llm.get_parameter @gain : tensor<8xf16>
  %n = linalg.generic {indexing_maps = [#tc, #t, #c, #tc], iterator_types = ["parallel", "parallel"]}
      ins(%h, %root, %g : tensor<?x8xf32>, tensor<?xf32>, tensor<8xf16>) outs(%e8 : tensor<?x8xf32>) {
  ^bb0(%a: f32, %r: f32, %gg: f16, %o: f32):
    %m = arith.mulf %a, %r : f32
    %w = arith.extf %gg : f16 to f32
    %v = arith.mulf %m, %w : f32
    linalg.yield %v : f32
  } -> tensor<?x8xf32>
  %up = quant_llm.get_parameter @w_up : tensor<16x8xf32>
  %gate = quant_llm.get_parameter @w_gate : tensor<16x8xf32>
  %u = quant_llm.linear %n, %up {scheme = #scheme} : (tensor<?x8xf32>, tensor<16x8xf32>) -> tensor<?x16xf32>
  %q = quant_llm.linear %n, %gate {scheme = #scheme} : (tensor<?x8xf32>, tensor<16x8xf32>) -> tensor<?x16xf32>
  %act = math.tanh %q : tensor<?x16xf32>
  %z = arith.mulf %act, %u : tensor<?x16xf32>
  %d = quant_llm.get_parameter @down : tensor<8x16xf32>
  %y = quant_llm.linear %z, %d {scheme = #scheme} : (tensor<?x16xf32>, tensor<8x16xf32>) -> tensor<?x8xf32>
  %next = arith.addf %h, %y : tensor<?x8xf32>
  %hw = quant_llm.get_parameter @head : tensor<32x8xf32>
  %logits = quant_llm.linear %next, %hw : (tensor<?x8xf32>, tensor<32x8xf32>) -> tensor<?x32xf32>
  return %logits : tensor<?x32xf32>
}
