// How codes are chosen: by the error of the outputs, or with zeros of a robust norm.
// RUN: rm -rf %t && %python %S/Inputs/make_hessians.py %t && cp %s %t/m.mlir && cd %t
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='block=1,32' -o chosen.mlir

// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=nearest.safetensors report=nearest.json' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=gptq.safetensors report=gptq.json method=gptq calibration=both.safetensors any-model' -remarks-filter=quant-llm-quantize -quant-llm-verify-stage='stage=quantized check-archives' 2>&1 -o /dev/null | FileCheck %s
// CHECK: dead-inputs | Category:quant-llm-quantize{{.*}}inputs of w are always 0; rounded to nearest", dead=1
// Where all are, nothing but rounding to nearest is left.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=rounded.safetensors method=gptq calibration=dead.safetensors any-model' -o /dev/null 2>&1 | FileCheck %s --check-prefix=DEAD
// DEAD: warning: quant-llm-quantize: all inputs of 'w' are always 0 in the calibration, so that it is rounded to nearest; measure it with other text, if its inputs are not so
// DEAD-NOT: warning
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=gptq-order.safetensors report=gptq-order.json method=gptq act-order calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=quantease.safetensors report=quantease.json method=quantease calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=quantease-start.safetensors report=quantease-start.json method=quantease start-from-gptq relax=false sweeps=5 calibration=both.safetensors any-model' -o /dev/null
// RUN: %python %S/Inputs/check_methods.py . nearest gptq gptq-order quantease quantease-start

// Every option makes a difference.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=static.safetensors method=gptq static-groups calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=damped.safetensors method=gptq damping=0.5 calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=unrelaxed.safetensors method=quantease relax=false calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=started.safetensors method=quantease start-from-gptq calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=short.safetensors method=quantease sweeps=5 calibration=both.safetensors any-model' -o /dev/null
// RUN: not cmp gptq-order.safetensors gptq.safetensors
// RUN: not cmp static.safetensors gptq.safetensors
// RUN: not cmp static.safetensors gptq-order.safetensors
// RUN: not cmp damped.safetensors gptq.safetensors
// RUN: not cmp unrelaxed.safetensors quantease.safetensors
// RUN: not cmp started.safetensors quantease.safetensors
// RUN: not cmp short.safetensors quantease.safetensors

// A Hessian of too few tokens.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=raised.safetensors report=raised.json method=gptq damping=0 calibration=token.safetensors any-model' -remarks-filter=quant-llm-quantize 2>&1 -o /dev/null | FileCheck %s --check-prefix=RAISED
// RAISED: damping-raised | Category:quant-llm-quantize{{.*}}the Hessian of the inputs of w could not be factored with the damping that was asked for", damping=1.0{{0*}}e-02
// RUN: FileCheck %s --check-prefix=DAMPED < raised.json
// DAMPED: "damping": 0.01
// The same where only the drift needs it.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=raised-drift.safetensors report=raised-drift.json method=quantease drift=1 damping=0 calibration=token-drift.safetensors any-model' -remarks-filter=quant-llm-quantize 2>&1 -o /dev/null | FileCheck %s --check-prefix=RAISED
// RUN: FileCheck %s --check-prefix=DRIFTDAMPED < raised-drift.json
// DRIFTDAMPED: "drift_damping": 0.01
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=much.safetensors method=gptq drift=1 calibration=large-drift.safetensors any-model' -o /dev/null 2>&1 | FileCheck %s --check-prefix=LARGEDRIFT
// LARGEDRIFT: warning: quant-llm-quantize: what is added to 'w' for what drifted behind quantized layers is {{[0-9.]+}} times as large; measure that again, with more tokens, or lower the options 'drift' and 'residual-drift'

// Behind quantized layers: what the weight does on inputs that drifted, against NumPy.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=drift.safetensors report=drift.json method=gptq drift=0.5 damping=0.02 calibration=drift-statistics.safetensors any-model' -o /dev/null
// RUN: sed -e 's/"a.safetensors"/"drift-weights.safetensors"/' -e 's/xf16>/xf32>/g' m.mlir > drift-weights.mlir
// RUN: quant-opt drift-weights.mlir -quant-llm-choose-granularity='block=1,32' -quant-llm-quantize='output=drift-wanted.safetensors method=gptq damping=0.02 calibration=drift-statistics.safetensors any-model' -o /dev/null
// RUN: %python %S/Inputs/check_drift.py . drift
// What the residual stream lacks, too, where the file has it: of w, and not of v.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=residual.safetensors report=residual.json method=gptq drift=0.25 residual-drift=0.75 damping=0.02 calibration=drift-statistics.safetensors any-model' -o /dev/null 2>&1 | FileCheck %s --check-prefix=NOWARNING --allow-empty
// NOWARNING-NOT: warning:
// RUN: sed -e 's/"a.safetensors"/"residual-weights.safetensors"/' -e 's/xf16>/xf32>/g' m.mlir > residual-weights.mlir
// RUN: quant-opt residual-weights.mlir -quant-llm-choose-granularity='block=1,32' -quant-llm-quantize='output=residual-wanted.safetensors method=gptq damping=0.02 calibration=drift-statistics.safetensors any-model' -o /dev/null
// RUN: %python %S/Inputs/check_drift.py . residual
// RUN: FileCheck %s --check-prefix=RESIDUAL < residual.json
// RESIDUAL: "drift": 0.25
// RESIDUAL: "residual_drift": 0.75
// Only what was corrected says by how much.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=corrected.safetensors report=corrected.json method=gptq residual-drift=0.75 damping=0.02 calibration=drift-statistics.safetensors any-model' -o /dev/null
// RUN: %python -c "import json; print(sorted((w['name'], 'drift_change' in w, 'drift_damping' in w) for w in json.load(open('corrected.json'))['weights']))" | FileCheck %s --check-prefix=CORRECTED
// CORRECTED: [('v', False, False), ('w', True, True)]
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=only-residual.safetensors method=gptq residual-drift=0.75 damping=0.02 calibration=both.safetensors any-model' -o /dev/null 2>&1 | FileCheck %s --check-prefix=NORESIDUAL
// NORESIDUAL: warning: quant-llm-quantize: the option 'residual-drift' changes nothing, because 'both.safetensors' has the statistic residual-drift of no weight that is quantized
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=neither.safetensors method=gptq damping=0.02 calibration=both.safetensors any-model' -o /dev/null
// RUN: cmp only-residual.safetensors neither.safetensors
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq residual-drift=0.5 calibration=wrong-residual.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=WRONGRESIDUAL
// WRONGRESIDUAL: error: 'quant_llm.linear' op 'wrong-residual.safetensors': residual-drift of 'w': expected the shape [24, 96] but got [24, 95]; the file is of another model
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq residual-drift=-1 calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=RESIDUALSTRENGTH
// RESIDUALSTRENGTH: error: quant-llm-quantize: invalid option 'residual-drift': expected a number from 0 to 1 but got -1
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors residual-drift=0.5' 2>&1 | FileCheck %s --check-prefix=RESIDUALVAIN
// RESIDUALVAIN: error: quant-llm-quantize: invalid option 'residual-drift': expected none with a method that follows no errors of outputs; choose gptq or quantease
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=drift-3.safetensors method=gptq drift=0.5 damping=0.02 calibration=drift-statistics.safetensors any-model threads=3' -o /dev/null
// RUN: cmp drift-3.safetensors drift.safetensors
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=no-drift.safetensors method=gptq drift=0 damping=0.02 calibration=drift-statistics.safetensors any-model' -o /dev/null
// RUN: not cmp no-drift.safetensors drift.safetensors
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=drift-ease.safetensors method=quantease drift=0.5 calibration=drift-statistics.safetensors any-model' -o /dev/null
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq drift=0.5 calibration=both.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NODRIFT
// NODRIFT: error: 'quant_llm.linear' op 'both.safetensors' has no statistic 'drift' of 'w', only hessian
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq drift=0.5 calibration=wrong-drift.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=WRONGDRIFT
// WRONGDRIFT: error: 'quant_llm.linear' op 'wrong-drift.safetensors': drift of 'w': expected the shape [96, 96] but got [95, 96]; the file is of another model
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq drift=0.5 calibration=nan-drift.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=NANDRIFT
// NANDRIFT: error: 'quant_llm.linear' op 'nan-drift.safetensors': drift of 'w': expected finite values but got a NaN or an infinity at 7
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq drift=1.5 calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=STRENGTH
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq drift=nan calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=STRENGTH
// STRENGTH: error: quant-llm-quantize: invalid option 'drift': expected a number from 0 to 1 but got {{1.5|-?nan}}
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors drift=0.5' 2>&1 | FileCheck %s --check-prefix=DRIFTVAIN
// DRIFTVAIN: error: quant-llm-quantize: invalid option 'drift': expected none with a method that follows no errors of outputs; choose gptq or quantease

// Some parameters, and the others in a later run.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=some.safetensors include=^w$' | FileCheck %s --check-prefix=SOME
// SOME-DAG: quant_llm.parameter @v from @quantized : tensor<40x96xf16>
// SOME-DAG: quant_llm.parameter @w from @quantized : !quant_llm.weight<24x96xf16
// SOME: quant_llm.linear
// SOME: quant_llm.linear {{.*}}scheme = #
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=some.safetensors include=^w$' -quant-llm-quantize='output=rest.safetensors archive-name=rest' -quant-llm-verify-stage='stage=quantized check-archives' -o /dev/null
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors include=u' 2>&1 | FileCheck %s --check-prefix=NONE
// NONE: error: quant-llm-quantize: invalid option 'include': expected a match in the name of a parameter with a scheme, such as 'w', but 'u' has none
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors include=(' 2>&1 | FileCheck %s --check-prefix=INCLUDEREGEX
// INCLUDEREGEX: error: quant-llm-quantize: invalid option 'include': '(' is no regular expression: parentheses not balanced

// The same bytes for any number of threads.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=again.safetensors method=gptq calibration=both.safetensors any-model threads=3' -o /dev/null
// RUN: cmp again.safetensors gptq.safetensors

// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=uint4 zero=f16 block=1,32' -o float.mlir
// RUN: quant-opt float.mlir -quant-llm-quantize='output=hqq.safetensors report=hqq.json method=hqq' -o /dev/null
// RUN: quant-opt float.mlir -quant-llm-quantize='output=float.safetensors' -o /dev/null
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=uint4 zero=int block=1,32' -quant-llm-quantize='output=int.safetensors' -o /dev/null
// RUN: %python %S/Inputs/check_zeros.py . float int hqq
// RUN: FileCheck %s --check-prefix=HQQ < hqq.json
// HQQ: "method": "hqq"

// Ranges of blocks by errors that know the inputs, or the loss; what the clip minimizes is smaller, whatever rounds.
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=diagonal.safetensors report=diagonal.json clip=diagonal calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=output.safetensors report=output.json clip=output calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=clip-fisher.safetensors report=fisher.json clip=fisher calibration=fisher.safetensors any-model threads=3' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=fine.safetensors clip=output clip-grid=40 clip-shrink=0.8 calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=ends.safetensors clip=diagonal clip-each-end calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=clip-gptq.safetensors report=clip-gptq.json method=gptq static-groups clip=output calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=clip-ease.safetensors method=quantease clip=output calibration=both.safetensors any-model' -o /dev/null
// RUN: quant-opt chosen.mlir -quant-llm-quantize='output=clip-w.safetensors clip=output clip-exclude=^v$ calibration=both.safetensors any-model' -o /dev/null
// RUN: %python %S/Inputs/check_clips.py .
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip-exclude=v' 2>&1 | FileCheck %s --check-prefix=CLIPEXCLUDE
// CLIPEXCLUDE: invalid option 'clip-exclude': expected none without a clip
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip=output clip-exclude=( calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=CLIPREGEX
// CLIPREGEX: invalid option 'clip-exclude': '(' is no regular expression: parentheses not balanced
// RUN: quant-opt m.mlir -quant-llm-choose-granularity='element=int3 block=1,-1' -o symmetric.mlir
// RUN: quant-opt symmetric.mlir -quant-llm-quantize='output=absmax.safetensors report=absmax.json' -o /dev/null
// RUN: quant-opt symmetric.mlir -quant-llm-quantize='output=easy.safetensors report=easy.json method=easyquant' -o /dev/null
// RUN: %python -c "import json; r = lambda f: [(w['name'], w['mse']) for w in json.load(open(f))['weights']]; a, b = r('easy.json'), r('absmax.json'); assert all(x[0] == y[0] and x[1] < 0.9 * y[1] for x, y in zip(a, b, strict=True)), (a, b)"
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=easyquant' 2>&1 | FileCheck %s --check-prefix=EASY
// EASY: error: 'quant_llm.parameter' op cannot be quantized: expected a scheme without zero
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip=output' 2>&1 | FileCheck %s --check-prefix=CLIPFILE
// CLIPFILE: invalid option 'calibration': expected a file with the statistics that the clip needs
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq clip=output calibration=both.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=CLIPGPTQ
// CLIPGPTQ: invalid option 'clip': expected static groups with gptq
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=hqq clip=output calibration=both.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=CLIPHQQ
// CLIPHQQ: invalid option 'clip': expected none with a method that chooses scales or zeros itself
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip=output clip-grid=0 calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=CLIPGRID
// CLIPGRID: invalid option 'clip-grid': expected 1 to 1000 steps but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip=output clip-shrink=1.5 calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=CLIPSHRINK
// CLIPSHRINK: invalid option 'clip-shrink': expected a part above 0 and at most 1 but got 1.5
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip-shrink=0.9' 2>&1 | FileCheck %s --check-prefix=CLIPNONE
// CLIPNONE: invalid option 'clip-shrink': expected none without a clip
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip-each-end' 2>&1 | FileCheck %s --check-prefix=CLIPENDS
// CLIPENDS: invalid option 'clip-each-end': expected none without a clip
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip=fisher calibration=half-fisher.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=CLIPHALF
// CLIPHALF: error: 'quant_llm.linear' op 'half-fisher.safetensors' has no statistic 'fisher' of 'v'

// Wrong options and files: one message, nothing written.
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq' 2>&1 | FileCheck %s --check-prefix=NOFILE
// NOFILE: error: quant-llm-quantize: invalid option 'calibration': expected a file with the Hessians that the method needs
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=NOUSE
// NOUSE: error: quant-llm-quantize: invalid option 'calibration': expected none with a method without statistics; choose gptq or quantease, a clip, or low-rank parts
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors damping=nan' 2>&1 | FileCheck %s --check-prefix=DAMPING
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors damping=-1' 2>&1 | FileCheck %s --check-prefix=DAMPING
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors damping=1e7' 2>&1 | FileCheck %s --check-prefix=DAMPING
// DAMPING: error: quant-llm-quantize: invalid option 'damping': expected a number from 0 to 1e+06 but got {{-?nan|-1|1e\+07}}{{$}}
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors clip=output calibration=both.safetensors any-model damping=0.5' 2>&1 | FileCheck %s --check-prefix=VAIN
// VAIN: error: quant-llm-quantize: invalid option 'damping': expected none without gptq and without low-rank parts that a Hessian weighs
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors sweeps=3' 2>&1 | FileCheck %s --check-prefix=EASE -DNAME=sweeps
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors relax=false' 2>&1 | FileCheck %s --check-prefix=EASE -DNAME=relax
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors start-from-gptq' 2>&1 | FileCheck %s --check-prefix=EASE -DNAME=start-from-gptq
// EASE: error: quant-llm-quantize: invalid option '[[NAME]]': expected none with another method than quantease
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=hqq damping=0.5' 2>&1 | FileCheck %s --check-prefix=GPTQ -DNAME=damping
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors act-order' 2>&1 | FileCheck %s --check-prefix=GPTQ -DNAME=act-order
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=quantease calibration=both.safetensors static-groups' 2>&1 | FileCheck %s --check-prefix=GPTQ -DNAME=static-groups
// GPTQ: error: quant-llm-quantize: invalid option '[[NAME]]': expected none without gptq; choose method=gptq, or quantease with start-from-gptq
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=ANY
// ANY: error: quant-llm-quantize: invalid option 'any-model': expected none without the option calibration
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=quantease calibration=both.safetensors sweeps=0' 2>&1 | FileCheck %s --check-prefix=SWEEPS
// SWEEPS: error: quant-llm-quantize: invalid option 'sweeps': expected at least 1 but got 0
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=both.safetensors' 2>&1 | FileCheck %s --check-prefix=MODEL
// MODEL: error: 'both.safetensors' is of another model
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=one.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=MISSING
// MISSING: error: 'quant_llm.linear' op 'one.safetensors' has no statistic 'hessian' of 'v'
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=wrong.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=WRONG
// Of all weights, before any is quantized.
// WRONG: error: 'quant_llm.linear' op 'wrong.safetensors': hessian of 'w': expected the shape [96, 96] but got [95, 95]; the file is of another model
// WRONG: error: 'quant_llm.linear' op 'wrong.safetensors': hessian of 'v': expected F32 but got F64
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=gptq calibration=indefinite.safetensors any-model' 2>&1 | FileCheck %s --check-prefix=FACTOR
// FACTOR: error: 'quant_llm.linear' op 'indefinite.safetensors': hessian of 'w': expected the sum of products
// RUN: not quant-opt chosen.mlir -quant-llm-quantize='output=never.safetensors method=hqq' 2>&1 | FileCheck %s --check-prefix=ZERO
// ZERO: error: 'quant_llm.parameter' op cannot be quantized: expected a scheme with a float zero
// ZERO: error: 'quant_llm.parameter' op cannot be quantized: expected a scheme with a float zero
// RUN: not test -e never.safetensors

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
