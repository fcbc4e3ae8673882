// RUN: rm -rf %t && %python %S/Inputs/make_hessians.py %t && cp %s %t/m.mlir && cd %t
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=uint3 block=1,8' -o chosen.mlir

// The inputs have channels of very different sizes: a group along the outputs has one of them. The elements have not.
// RUN: quant-opt chosen.mlir -quant-llm-choose-group-axis='calibration=fisher.safetensors any-model report=output.json' -remarks-filter=quant-llm-choose-group-axis -o output.mlir 2> remarks.txt
// RUN: quant-opt chosen.mlir -quant-llm-choose-group-axis='error=weight report=weight.json' -o weight.mlir
// RUN: quant-opt chosen.mlir -quant-llm-choose-group-axis='error=fisher calibration=fisher.safetensors any-model report=fisher.json threads=3' -o fisher.mlir
// RUN: quant-opt chosen.mlir -quant-llm-choose-group-axis='error=relative-output calibration=fisher.safetensors any-model report=relative-output.json' -o relative.mlir
// RUN: %python %S/Inputs/check_axes.py . output weight fisher relative-output
// RUN: quant-opt chosen.mlir -quant-llm-choose-group-axis='error=fisher calibration=fisher.safetensors any-model threads=1' | diff - fisher.mlir
// RUN: FileCheck %s --check-prefix=REMARKS < remarks.txt
// REMARKS: axis | Category:quant-llm-choose-group-axis | parameter=w, reason="AdaDim: groups along the {{inputs|outputs}}, output error {{.*}}; along the {{inputs|outputs}}: {{.*}}", scheme="#quant_llm.scheme<uint3, block = [{{8, 1|1, 8}}]
// RUN: quant-opt output.mlir -quant-llm-quantize='output=q.safetensors' -quant-llm-verify-stage='stage=quantized check-archives' -o /dev/null

// Low-rank parts stay, and are left out of the errors.
// RUN: sed 's/scale = f16/scale = f16, low_rank = 1xf16/' chosen.mlir > rank.mlir
// RUN: quant-opt rank.mlir -quant-llm-choose-group-axis='calibration=fisher.safetensors any-model report=rank.json' | FileCheck %s --check-prefix=RANK
// RANK: block = [{{8, 1|1, 8}}], scale = f16, zero = int, low_rank = 1xf16
// RUN: %python -c "import json; a, b = (json.load(open(n))['weights'] for n in ('output.json', 'rank.json')); assert [(w['error_inputs'], w['error_outputs'], w['block']) for w in a] == [(w['error_inputs'], w['error_outputs'], w['block']) for w in b]"

// Other blocks are left alone.
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=uint3 block=2,8' -o square.mlir
// RUN: not quant-opt square.mlir -quant-llm-choose-group-axis='error=weight report=never.json' 2>&1 | FileCheck %s --check-prefix=SQUARE
// SQUARE: error: quant-llm-choose-group-axis: no scheme has groups along the inputs, [1, g], to compare
// RUN: not quant-opt m.mlir -quant-llm-choose-group-axis='error=weight' 2>&1 | FileCheck %s --check-prefix=NOSCHEME
// NOSCHEME: error: quant-llm-choose-group-axis: no linear has a scheme to change; run quant-llm-choose-granularity first
// RUN: not quant-opt chosen.mlir -quant-llm-choose-group-axis='calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'both.safetensors' is of another model
// RUN: not quant-opt chosen.mlir -quant-llm-choose-group-axis='error=fisher calibration=both.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=FISHER
// FISHER: error: 'quant_llm.linear' op 'both.safetensors' has no statistic 'fisher' of 'w', only hessian
// FISHER: error: 'quant_llm.linear' op 'both.safetensors' has no statistic 'fisher' of 'v'
// RUN: not quant-opt chosen.mlir -quant-llm-choose-group-axis 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: invalid option 'calibration': expected a file with the statistics that the error needs
// RUN: not quant-opt chosen.mlir -quant-llm-choose-group-axis='error=weight calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=NOUSE
// NOUSE: invalid option 'calibration': expected none with the error weight
// RUN: not test -e never.json

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
