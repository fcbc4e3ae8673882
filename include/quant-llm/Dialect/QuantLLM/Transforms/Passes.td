//===- Passes.td - Passes on quant_llm ---------------------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_TD
#define QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_TD

include "quant-llm/Dialect/QuantLLM/Utils/CheckedPass.td"

// In alphabetical order of the argument.

def AllocateBits : CheckedPass<"quant-llm-allocate-bits", "::mlir::ModuleOp"> {
  let summary = "Choose the width of every weight's elements under a budget";
  let description = [{
    Linears have a scheme with an element `intN` or `uintN` (`quant-llm-choose-granularity`, or by hand). This pass chooses
    the width N of each weight, and with `groups` its group size along the inputs, such that the sum of errors is the smallest
    that `budget` bits per weight allow. What a weight takes is all that is stored for it: codes with their padding, scales and zeros. The
    budget is for all weights that have a scheme, on average over their elements.

    The error of a weight under a candidate is the one of rounding to nearest, dW, and is measured for each of them:
    - `weight`: `|dW|^2`;
    - `output`: `tr(dW H dW^T)` with the second moments H of the inputs, the statistic `hessian`;
    - `relative-output`: the same divided by `tr(W H W^T)`;
    - `fisher`: `sum F dW^2` with the Fisher diagonal, which estimates the change of the loss;
    - `fisher-output`: `sum_n f_n dW_n H dW_n^T / tr(H)` with the statistic `row-fisher`, another estimate of it: `f_n / tr(H)` is the
      mean squared gradient with respect to output n, and errors of the elements of a row that cancel in the outputs do not
      count. Needs `hessian`, too.

    The low-rank part of a scheme counts with its bytes, but not in the errors: they are those of the codes, which it mends
    when `quant-llm-quantize` computes it.

    The choice is exact: dynamic programming over costs in bytes, without a unit to round to (`BitAllocation.h`). Weights that
    meet in a linear, and linears that share a weight, get one scheme. The linears' `reason` has the errors of all candidates, and so
    has the JSON file `report`: an object with `sensitivity`, `budget`, `bits_per_weight`, `stored_bytes`, `error` and `weights`
    (`parameters`, `weights`: their number, `options` with `scheme`, `bits_per_weight` and `error`, `chosen`: the index of one, and its `scheme`).
    Memory holds one weight with its statistic at a time; the result does not depend on the number of threads.

    Example (`test/Dialect/QuantLLM/Transforms/allocate-bits.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w {scheme = #quant_llm.scheme<uint3, ...>} : ...
    // becomes
    %y = quant_llm.linear %x, %w {reason = "allocated: uint4 ...", scheme = #quant_llm.scheme<uint4, ...>} : ...
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"budget", "budget", "double", "0.0",
           "Bits per weight, on average; required">,
    CheckedListOption<"bits", "bits", "int64_t",
               "Widths of elements to choose from; by default 2,3,4,5,6,8">,
    CheckedListOption<"groups", "groups", "int64_t",
               "Sizes of groups along the inputs to choose from (-1: the whole row); by default what "
               "the scheme has">,
    CheckedOption<"sensitivity", "sensitivity", "::quant_llm::SchemeError", "::quant_llm::SchemeError::Output",
           "What is made small: weight, output, relative-output, fisher or fisher-output",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::SchemeError::Weight, "weight", "squared error of the elements"),
             clEnumValN(::quant_llm::SchemeError::Output, "output", "squared error of the outputs"),
             clEnumValN(::quant_llm::SchemeError::RelativeOutput, "relative-output",
                        "the same, divided by the square of the outputs"),
             clEnumValN(::quant_llm::SchemeError::Fisher, "fisher",
                        "squared errors times the Fisher diagonal"),
             clEnumValN(::quant_llm::SchemeError::FisherOutput, "fisher-output",
                        "squared errors of outputs times their squared gradients"))}]>,
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "Calibration file with what the sensitivity needs; required but for weight">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Take a calibration file of a model with other values of the weights">,
    CheckedOption<"report", "report", "std::string", "\"\"",
           "JSON file to write with errors and choices">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
    CheckedOption<"threads", "threads", "unsigned", "0",
           "Number of threads, at most 4096; 0 for one per processor">,
  ];
  let statistics = [
    Statistic<"numAllocated", "weights-allocated", "Number of choices">,
  ];
}

def AllocateRows : CheckedPass<"quant-llm-allocate-rows", "::mlir::ModuleOp"> {
  let summary = "Choose the scheme of every row of the weights under a budget";
  let description = [{
    Rows of a weight (outputs) differ by far more in what their errors do to a model than weights do. This pass chooses for every
    row one of the candidates, `elements` times `groups`, such that the sum of errors is small and at most `budget` bits per
    weight are stored, on average over all weights that have a scheme (`quant-llm-choose-granularity`, or by hand). Scales,
    block sizes along the outputs and rounding of a candidate are those of that scheme; a candidate `uintN` has an integer zero and the rule
    `minmax`, the others have no zero and the rule `absmax`. `normalN` is the codebook of 2^N values with the least squared error for a normal
    distribution (docs/Spec.md).

    The error of row n under a candidate is

    ```
    f_n * sum_i D_i (Q_ni - W_ni)^2,    f_n = g_n^p * sum_m g_m / sum_m g_m^p / tr(H)
    ```

    with Q rounded to nearest after ranges were clipped by the diagonal of H (as `quant-llm-quantize{clip=diagonal}`), H the statistic `hessian` of the
    inputs, g the statistic `row-fisher`, and p the option `row-power`. `f_n` estimates the mean squared gradient with
    respect to output n, tokens counting as in H. `D_i = 1 / U_ii^2`, where `U^T U` is the inverse of H (`damping`, columns in the order of falling H_ii): what the
    rounding error of a column adds to the error of the outputs after GPTQ, so that GPTQ need not run for every candidate; 0 for inputs that are always 0.

    Rows of a weight have at most `parts` different candidates, each for at least `min-rows` rows. A linear whose rows have several becomes
    several linears, with rows in the order of their candidate:

    ```mlir
    %order = arith.constant dense<[1, 2, 5, 0, 3, 4]> : tensor<6xi16>
    %p = quant_llm.permute_channels %w by %order dims = [0] : tensor<6x64xf16>, tensor<6xi16>
    %w0 = tensor.extract_slice %p[0, 0] [3, 64] [1, 1] : tensor<6x64xf16> to tensor<3x64xf16>
    %w1 = tensor.extract_slice %p[3, 0] [3, 64] [1, 1] : tensor<6x64xf16> to tensor<3x64xf16>
    %y0 = quant_llm.linear %x, %w0 {scheme = #quant_llm.scheme<uint3, ...>} : ...
    %y1 = quant_llm.linear %x, %w1 {scheme = #quant_llm.scheme<uint4, ...>} : ...
    %z = tensor.concat dim(1) %y0, %y1 : ...
    %y = quant_llm.permute_channels inverse %z by %order dims = [1] : ...
    ```

    `quant-llm-materialize-transforms` then computes the parts, and what becomes of the statistics. The order counts against the budget with 2 bytes
    per row of a weight that is split, 4 if it has more than 32768 rows. Weights stay whole that are used by several linears or otherwise, meet another weight, or have an
    epilogue; each of these needs one candidate for all its rows, and linears that are not `quant_llm.linear` are refused.
    Part of the budget may be left over, most where weights stay whole: all bytes have one price, and at the next lower one more rows change than it allows.

    The JSON file `report` has `budget`, `bits_per_weight`, `stored_bytes`, `error` and `weights` (`parameters`, `weights`: their number, and `parts` with
    `scheme`, `rows` and `error`; `rows` is null for a weight that stays whole). The result does not depend on the number of threads. Memory holds one weight with its statistics and its errors at a time, and the
    errors of all rows.
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect", "::mlir::arith::ArithDialect",
                           "::mlir::tensor::TensorDialect"];
  let options = [
    CheckedOption<"budget", "budget", "double", "0.0",
           "Bits per weight, on average; required">,
    CheckedListOption<"elements", "elements", "std::string",
               "Elements to choose from; by default normal2,normal3,normal4,normal5,int5,int6">,
    CheckedListOption<"groups", "groups", "int64_t",
               "Sizes of groups along the inputs to choose from (-1: the whole row); by default what "
               "the scheme has">,
    CheckedOption<"parts", "parts", "int64_t", "4",
           "Different candidates in a weight, at most">,
    CheckedOption<"minRows", "min-rows", "int64_t", "16",
           "Rows of a candidate in a weight that has several, at least">,
    CheckedOption<"rowPower", "row-power", "double", "0.8",
           "Power of the squared gradients of rows, from 0 to 1: below 1 the estimates of large ones count less">,
    CheckedOption<"damping", "damping", "double", "0.01",
           "Added to the diagonal of the Hessian, as a part of its mean">,
    CheckedOption<"clipGrid", "clip-grid", "int", "10",
           "Steps between no range and the whole range">,
    CheckedOption<"clipShrink", "clip-shrink", "double", "0.6",
           "The largest part of a range that is given up">,
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "Calibration file with hessian and row-fisher; required">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Take a calibration file of a model with other values of the weights">,
    CheckedOption<"report", "report", "std::string", "\"\"",
           "JSON file to write with the choices">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
    CheckedOption<"threads", "threads", "unsigned", "0",
           "Number of threads, at most 4096; 0 for one per processor">,
  ];
  let statistics = [
    Statistic<"numSplit", "weights-split", "Number of weights that were split by rows">,
  ];
}

def ChooseChannelScales : CheckedPass<"quant-llm-choose-channel-scales", "::mlir::ModuleOp"> {
  let summary = "Choose scales of channels from statistics, and insert them";
  let description = [{
    Inserts at the sites of `quant-llm-insert-transforms` pairs of `scale_channels` whose numbers a method
    chooses from the statistics of a calibration file (`docs/Calibration.md`) and the weights:

    - `smoothquant` (arXiv:2211.10438): `s = max|x|^alpha / max|W|^(1-alpha)` per channel, with
      `alpha` or 0.5; maxima of the weights are over all linears of the site. Needs the statistic `absmax`, and no schemes.
    - `smoothquant-plus` (arXiv:2312.03788): the same scales with the one alpha, of 0, 1/`grid`, ..., 1, that
      makes the loss of the whole model smallest: the sum of the errors of the outputs of all quantized linears
      at the sites. Needs `absmax` and `hessian`.
    - `awq` (arXiv:2306.00978): `s = mean|x|^r` per channel, divided by `sqrt(min s * max s)`, with the exponent r, of
      0, 1/`grid`, ..., 1 - 1/`grid`, that makes the error of the site smallest. With `duo-scaling` s is also divided by
      `mean(|W| / group max)^(1-r)`, or both are tried. Needs `absmean` and `hessian`. With `alpha` r is that number
      everywhere: nothing is searched and no error measured, and `hessian` is not needed.

    The error of a linear is that of its outputs on the calibration tokens when its weight is quantized to nearest
    under its scheme: `tr(dW H dW^T)` with the second moments H of its inputs, which is exact. With `error=relative-output` it
    is divided by `tr(W H W^T)`, so that linears with large outputs, such as queries and keys beside values, count no more than others.
    The low-rank part of a scheme is left out. Linears must have
    their schemes before (`quant-llm-choose-granularity`, `quant-llm-allocate-bits`, or by hand), except for `smoothquant`. A
    site without a quantized linear is left alone; of a linear that stays dense nothing is counted.
    With `awq` a site that no scale improves gets none, unless `alpha` is given.

    At `value-output` a scale belongs to all the query heads that share a value head. Channels that were always 0 get the scale
    1, with a remark. Functions that share weights share scales. The result does not depend on the number of
    threads; memory holds one weight and one Hessian at a time.

    Run `quant-llm-fold-transforms` next and then `quant-llm-materialize-transforms`. The schemes stay on the linears.
    With `report` a JSON file has an object with `method`, `strength` (of the methods with one), `error_before`, `error_after`
    and `sites` (`site`, `parameters`, `channels`, `dead_channels`, `strength`, `smallest_scale`, `largest_scale`, `duo_scaling`,
    `error_before`, `error_after`, and `outputs`: the sum of `tr(W H W^T)`).

    Example (`test/Dialect/QuantLLM/Transforms/choose-channel-scales.mlir`):
    ```mlir
    %y = quant_llm.linear %0, %w {scheme = #scheme} : (tensor<?x8xf32>, tensor<16x8xf32>) -> tensor<?x16xf32>
    // becomes
    %s = arith.constant dense<[...]> : tensor<8xf64>
    %1 = quant_llm.scale_channels inverse %0 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf64>
    %2 = quant_llm.scale_channels %1 by %s dims = [1] : tensor<?x8xf32>, tensor<8xf64>
    %y = quant_llm.linear %2, %w {scheme = #scheme} : (tensor<?x8xf32>, tensor<16x8xf32>) -> tensor<?x16xf32>
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"method", "method", "::quant_llm::ChannelScaleMethod",
           "::quant_llm::ChannelScaleMethod::AWQ",
           "How scales are chosen: smoothquant, smoothquant-plus or awq",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::ChannelScaleMethod::SmoothQuant, "smoothquant",
                        "by the maxima of inputs and weights"),
             clEnumValN(::quant_llm::ChannelScaleMethod::SmoothQuantPlus, "smoothquant-plus",
                        "the same, with the strength of least loss"),
             clEnumValN(::quant_llm::ChannelScaleMethod::AWQ, "awq",
                        "by the mean inputs, with the exponent of least error"))}]>,
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "Calibration file; required">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Take a calibration file of a model with other values of the weights">,
    CheckedListOption<"sites", "sites", "std::string",
               "Where: norm-attention, norm-mlp, norm-head, up-down, value-output; by default the first two, "
               "and with awq up-down and value-output as well">,
    CheckedOption<"alpha", "alpha", "double", "-1.0",
           "smoothquant: the strength, from 0 (all in the inputs) to 1 (all in the weights), 0.5 if not given; "
           "awq: the exponent of all sites, which is searched site by site if not given">,
    CheckedOption<"grid", "grid", "int", "20",
           "smoothquant-plus, awq: steps between 0 and 1 that are tried">,
    CheckedOption<"duo", "duo-scaling", "::quant_llm::DuoScaling", "::quant_llm::DuoScaling::No",
           "awq: whether scales depend on weights: no, yes, or both are tried",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::DuoScaling::No, "no", "on inputs only"),
             clEnumValN(::quant_llm::DuoScaling::Yes, "yes", "on inputs and weights"),
             clEnumValN(::quant_llm::DuoScaling::Both, "both", "the better of the two"))}]>,
    CheckedOption<"error", "error", "::quant_llm::SchemeError", "::quant_llm::SchemeError::Output",
           "smoothquant-plus, awq: what is made small: output or relative-output",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::SchemeError::Output, "output", "squared error of the outputs"),
             clEnumValN(::quant_llm::SchemeError::RelativeOutput, "relative-output",
                        "the same, divided by the square of the outputs"))}]>,
    CheckedOption<"report", "report", "std::string", "\"\"",
           "JSON file to write with strengths and errors">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
    CheckedOption<"threads", "threads", "unsigned", "0",
           "Number of threads, at most 4096; 0 for one per processor">,
  ];
  let statistics = [
    Statistic<"numPairs", "pairs-inserted", "Number of pairs inserted">,
  ];
}

def ChooseGranularity : CheckedPass<"quant-llm-choose-granularity", "::mlir::ModuleOp"> {
  let summary = "Choose a scheme for the weight of every linear";
  let description = [{
    Writes `scheme` and `reason` on every `quant_llm.linear` whose weight is a parameter,
    and only `reason` on those that stay dense. Linears that already have a
    scheme keep it, so that one may be written by hand.

    The group size is FineQuant's adaptive choice: starting with one scale
    per output channel, groups along the inputs are split as long as that shrinks their range
    by more than `alpha` (`docs/FineQuant.md`). With `block` given, every weight
    gets that block instead, no archive is read, and the options of the choice are errors. The weights are read from their archives
    one at a time; the result does not depend on the number of threads.

    All linears of one parameter, and the weights of one gated linear, get one scheme:
    the finest that any of them asks for.

    Example (`test/Dialect/QuantLLM/Transforms/choose-granularity.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w : (tensor<?x256xf32>, tensor<64x256xf16>) -> tensor<?x64xf32>
    // becomes
    %y = quant_llm.linear %x, %w : (tensor<?x256xf32>, tensor<64x256xf16>) -> tensor<?x64xf32>
      {reason = "...", scheme = #quant_llm.scheme<uint4, block = [1, -1], scale = f16, zero = int, rule = minmax, rounding = half_even>}
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"element", "element", "std::string", "\"uint4\"",
           "Element of the schemes: intN, uintN, ternary, nf4, f4E2M1FN, ...">,
    CheckedOption<"zero", "zero", "std::string", "\"\"",
           "Zero of the schemes: none, int, f16, bf16 or f32; by default int for uintN "
           "and none for other elements">,
    CheckedOption<"rule", "rule", "std::string", "\"\"",
           "Rule of the scales: absmax, absmax_full, minmax or mse; by default minmax "
           "with a zero and absmax without">,
    CheckedOption<"scale", "scale", "std::string", "\"f16\"",
           "Type of the scales: f16, bf16, f32, f8E8M0FNU or f8E4M3FN">,
    CheckedOption<"rowScale", "row-scale", "std::string", "\"\"",
           "Type of one more scale per output, under which scales are stored; scale is then their element, "
           "such as f8E4M3FN">,
    CheckedOption<"rounding", "rounding", "std::string", "\"half_even\"",
           "Rounding of ties: half_even or half_away">,
    CheckedListOption<"block", "block", "int64_t",
               "Give every weight this block [outputs, inputs] (-1: the whole dimension) "
               "instead of an adaptive one">,
    CheckedOption<"alpha", "alpha", "double", "0.75",
           "Split groups while the ratio of their ranges is below this, a number in (0, 2]">,
    CheckedOption<"statistic", "statistic", "::quant_llm::RangeStatistic",
           "::quant_llm::RangeStatistic::Raw",
           "What is compared with alpha: raw, the ratio of ranges, or gaussian, that "
           "ratio divided by the one of normal numbers",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::RangeStatistic::Raw, "raw",
                        "the ratio of ranges after and before a split"),
             clEnumValN(::quant_llm::RangeStatistic::Gaussian, "gaussian",
                        "that ratio divided by the one expected of normal numbers"))}]>,
    CheckedOption<"aggregation", "aggregation", "::quant_llm::RangeAggregation",
           "::quant_llm::RangeAggregation::Min",
           "Over the rows of a matrix: min, the smallest ratio of a row, or mean, the "
           "ratio of the mean ranges",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::RangeAggregation::Mean, "mean",
                        "the ratio of the mean ranges"),
             clEnumValN(::quant_llm::RangeAggregation::Min, "min",
                        "the smallest ratio of a row"))}]>,
    CheckedListOption<"sizes", "sizes", "int64_t",
               "Allowed group sizes beside the whole row; by default 256,128,64">,
    CheckedOption<"include", "include", "std::string", "\"\"",
           "Only parameters whose name has a match of this regular expression">,
    CheckedOption<"exclude", "exclude", "std::string",
           "\"lm_head|embed|token_embd|^output[.]weight$\"",
           "No parameters whose name has a match of this regular expression">,
    CheckedOption<"includeShared", "include-shared", "bool", "false",
           "Also parameters that are used by other ops than linears, such as tied "
           "embeddings (these uses keep the dense parameter)">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
    CheckedOption<"threads", "threads", "unsigned", "0",
           "Number of threads; 0 for one per processor">,
  ];
  let statistics = [
    Statistic<"numChosen", "parameters-chosen", "Number of parameters with a scheme">,
    Statistic<"numDense", "parameters-dense", "Number of parameters that stay dense">,
  ];
}

def ChooseGroupAxis : CheckedPass<"quant-llm-choose-group-axis", "::mlir::ModuleOp"> {
  let summary = "Choose between groups along inputs and along outputs";
  let description = [{
    AdaDim (arXiv:2309.15531): a group of g weights of one input channel, `block = [g, 1]`, keeps the channels of large inputs
    apart, a group of one output channel, `block = [1, g]`, does not. For every linear with a scheme of the second kind this pass
    compares both and keeps the one with the smaller error of rounding to nearest (`quant-llm-allocate-bits` says what the errors are;
    the paper's, of the outputs, is `output`; low-rank parts are left out, and stay). Of equals, groups along inputs. Schemes with other blocks are left alone, with a remark.

    With `report` a JSON file has an object with `error` and `weights` (`parameters`, `error_inputs`, `error_outputs`, `bits_inputs`,
    `bits_outputs`, `block`).

    Example (`test/Dialect/QuantLLM/Transforms/choose-group-axis.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w {scheme = #quant_llm.scheme<uint4, block = [1, 64], ...>} : ...
    // becomes
    %y = quant_llm.linear %x, %w {reason = "AdaDim: ...", scheme = #quant_llm.scheme<uint4, block = [64, 1], ...>} : ...
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"error", "error", "::quant_llm::SchemeError", "::quant_llm::SchemeError::Output",
           "What is compared: weight, output, relative-output or fisher",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::SchemeError::Weight, "weight", "squared error of the elements"),
             clEnumValN(::quant_llm::SchemeError::Output, "output", "squared error of the outputs"),
             clEnumValN(::quant_llm::SchemeError::RelativeOutput, "relative-output",
                        "the same, divided by the square of the outputs"),
             clEnumValN(::quant_llm::SchemeError::Fisher, "fisher",
                        "squared errors times the Fisher diagonal"))}]>,
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "Calibration file with hessian, or fisher; required but for weight">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Take a calibration file of a model with other values of the weights">,
    CheckedOption<"report", "report", "std::string", "\"\"",
           "JSON file to write with errors and choices">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
    CheckedOption<"threads", "threads", "unsigned", "0",
           "Number of threads, at most 4096; 0 for one per processor">,
  ];
  let statistics = [
    Statistic<"numOutputs", "groups-along-outputs", "Number of weights whose groups were turned">,
  ];
}

def FoldTransforms : CheckedPass<"quant-llm-fold-transforms"> {
  let summary = "Move channel transforms until parameters absorb them";
  let description = [{
    A transform whose only users are its inverse is a pair: it moves up, against the flow of
    values, and the inverse moves down; a transform without a partner moves down, or up. They cross ops that implement
    `TransformCommuteOpInterface` (linalg, tensor, pointwise `arith` and `math`, and `linear` do, where their
    meaning allows it) and end in parameters, which become transformed parameters:
    `quant_llm.rotate %w ...`, for `quant-llm-materialize-transforms` to compute. Each step keeps the function
    what it is in exact arithmetic.

    A transform moves up only if parameters absorb all of it. Its inverse moves where parameters absorb some of
    it. What cannot move stays as an op that is executed, with the attribute `quant_llm.online`; a pair that would
    leave more than `max-online` of them, or whose inverse nothing absorbs, is removed.

    With `change-state` a transform may cross a cache: an argument of the function of which slices are
    replaced and that is returned then holds transformed elements and is marked
    `quant_llm.changed_state`. Its callers must not look into it.

    Remarks (category `quant-llm-fold-transforms`) and the JSON file `report` tell what became of every
    transform: `folded`, `online` or `removed`, and which parameters absorbed it.

    Example (`test/Dialect/QuantLLM/Transforms/fold-transforms.mlir`):
    ```mlir
    %0 = linalg.mul ins(%x, %gain : tensor<4x64xf32>, tensor<4x64xf32>) outs(%e : tensor<4x64xf32>) -> tensor<4x64xf32>
    %1 = quant_llm.scale_channels inverse %0 by %s dims = [1] : tensor<4x64xf32>, tensor<64xf32>
    %2 = quant_llm.scale_channels %1 by %s dims = [1] : tensor<4x64xf32>, tensor<64xf32>
    %y = quant_llm.linear %2, %w : (tensor<4x64xf32>, tensor<8x64xf32>) -> tensor<4x8xf32>
    // becomes
    %gain1 = quant_llm.scale_channels inverse %gain by %s dims = [1] : tensor<4x64xf32>, tensor<64xf32>
    %0 = linalg.mul ins(%x, %gain1 : tensor<4x64xf32>, tensor<4x64xf32>) outs(%e : tensor<4x64xf32>) -> tensor<4x64xf32>
    %w1 = quant_llm.scale_channels %w by %s dims = [1] : tensor<8x64xf32>, tensor<64xf32>
    %y = quant_llm.linear %0, %w1 : (tensor<4x64xf32>, tensor<8x64xf32>) -> tensor<4x8xf32>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"changeState", "change-state", "bool", "true",
           "Allow transforms to cross caches, whose elements then are transformed ones">,
    CheckedOption<"maxOnline", "max-online", "int64_t", "1",
           "Most ops that a transform or a pair may leave">,
    CheckedOption<"reportFile", "report", "std::string", "\"\"",
           "JSON file to write with what became of every transform">,
  ];
  let statistics = [
    Statistic<"numFolded", "transforms-folded", "Number of transforms and pairs absorbed as a whole">,
    Statistic<"numOnline", "ops-online", "Number of ops left">,
    Statistic<"numRemoved", "pairs-removed", "Number of pairs removed">,
  ];
}

def FormBlocks : CheckedPass<"quant-llm-form-blocks"> {
  let summary = "Wraps the layers of a model into block and cross_block regions";
  let description = [{
    The names of parameters say which layer of the model an operation belongs to: with
    the pattern `model.layers.{}.` the parameter `model.layers.3.mlp.up_proj.weight`
    is of layer 3. An operation that uses a parameter of a layer is of this layer; what lies between
    two layers is divided where the fewest values cross the boundary, which is
    behind the hidden state. What no layer needs and no layer is needed
    for (embedding, tables of positions) stays in front of the blocks; the final norm
    and the head, which use parameters of no layer, stay behind them.

    The blocks are put into one `quant_llm.cross_block` with the given window and overlap, unless the window
    is 0. A function without parameters of layers is left as it is; one with
    effects on memory, with missing layers, or whose layers use parameters of other
    layers is an error.

    ```mlir
    %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
    %h1 = arith.mulf %h0, %w0 : tensor<4xf32>
    return %h1 : tensor<4xf32>
    // becomes
    %0 = quant_llm.cross_block window = 2, overlap = 1 -> (tensor<4xf32>) {
      %1 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
        %w0 = quant_llm.get_parameter @model.layers.0.w : tensor<4xf32>
        %h1 = arith.mulf %h0, %w0 : tensor<4xf32>
        quant_llm.yield %h1 : tensor<4xf32>
      }
      quant_llm.yield %1 : tensor<4xf32>
    }
    return %0 : tensor<4xf32>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"layerPattern", "layer-pattern", "std::string", "\"model.layers.{}.\"",
           "Start of the names of a layer's parameters, {} in the place of its number">,
    CheckedOption<"window", "window", "int64_t", "2",
           "Blocks that are optimized together; 0 forms blocks only">,
    CheckedOption<"overlap", "overlap", "int64_t", "1",
           "Blocks that neighbouring windows share">
  ];
}

def FuseEpilogues : CheckedPass<"quant-llm-fuse-epilogues"> {
  let summary = "Fuse elementwise operations into the linears before them";
  let description = [{
    Moves elementwise linalg ops whose operand is the result of a
    `quant_llm.linear`, used by nothing else, into its epilogue: bias, activation (SiLU in one
    op or several), residual, and gated pairs such as `silu(x Wg^T) * (x Wu^T)`, which become
    one linear with two weights. Roundings between the ops are kept as they
    are, so the result is the same bit for bit.

    Example (`test/Dialect/QuantLLM/Transforms/fuse-epilogues.mlir`):
    ```mlir
    %0 = quant_llm.linear %x, %w : (tensor<?x64xf32>, tensor<32x64xf16>) -> tensor<?x32xf32>
    %1 = linalg.generic {indexing_maps = [#mn, #n, #mn], iterator_types = ["parallel", "parallel"]}
      ins(%0, %bias : tensor<?x32xf32>, tensor<32xf32>) outs(%empty : tensor<?x32xf32>) {
    ^bb0(%a: f32, %b: f32, %out: f32):
      %2 = arith.addf %a, %b : f32
      linalg.yield %2 : f32
    } -> tensor<?x32xf32>
    // becomes
    %1 = quant_llm.linear %x, %w epilogue(%bias : tensor<32xf32>) {
    ^bb0(%a: f32, %b: f32):
      %2 = arith.addf %a, %b : f32
      quant_llm.yield %2 : f32
    } : (tensor<?x64xf32>, tensor<32x64xf16>) -> tensor<?x32xf32>
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"fuseResidual", "residual", "bool", "true",
           "Fuse ops with a further operand of the result's shape">,
    CheckedOption<"fuseGated", "gated", "bool", "true",
           "Combine two linears with the same input">,
  ];
  let statistics = [
    Statistic<"numFused", "ops-fused", "Number of elementwise ops fused">,
    Statistic<"numPairs", "gated-pairs", "Number of linears with two weights made">,
  ];
}

def InlineBlocks : CheckedPass<"quant-llm-inline-blocks"> {
  let summary = "Replaces block and cross_block regions by their operations";
  let description = [{
    The regions only mark which operations belong together, so this changes
    nothing about the execution.

    ```mlir
    %h1 = quant_llm.block 0 "model.layers.0" -> (tensor<4xf32>) {
      %0 = math.tanh %h0 : tensor<4xf32>
      quant_llm.yield %0 : tensor<4xf32>
    }
    // becomes
    %0 = math.tanh %h0 : tensor<4xf32>
    ```
  }];
}

def InsertTransforms : CheckedPass<"quant-llm-insert-transforms", "::mlir::ModuleOp"> {
  let summary = "Insert pairs of channel transforms at sites of a model";
  let description = [{
    Sites are found by the structure of the function, whose weight contractions must be
    `quant_llm.linear` (`convert-linalg-to-quant-llm`); names do not matter:

    - `norm-attention`, `norm-mlp`, `norm-head`: the output of a norm that the linears of queries, keys
      and values read, those of a feed-forward layer, or the head;
    - `up-down`: the input of the last linear of a feed-forward layer;
    - `value-output`: the values of an attention;
    - `residual`: the stream that the layers add to. The gains of norms are
      first taken out of them (`fold-gains`), since a rotation does not commute with them;
    - `query-key`: the keys of an attention behind their rotary embedding, across which the transform moves on
      to rows of the keys' weight, and its inverse to those of the queries' weight. Only `scale` and
      `orthogonal`, and only numbers that commute with rotary embeddings: equal scales of the two channels of a pair, rotations
      of each pair. Keys whose halves go to a cache one by one are first joined.

    At each site an op and its inverse are inserted, for `quant-llm-fold-transforms` to move. Run that pass next:
    canonicalization removes pairs that are still side by side.

    `transform` is `scale`, `shift`, `permute`, `orthogonal` or `hadamard`. A Hadamard matrix has the order of
    the site's channels (of a head at `value-output`), or the largest one that divides them, and with `seed` random signs.
    The other transforms need numbers: with `random` those are drawn, for tests; else they are
    parameters in the archive `data`, a safetensors file, under the name of the first parameter that absorbs the
    inverse, with the ending `.channel_scale`, `.channel_shift`, `.channel_permutation` or `.channel_rotation`:
    the site's value is divided by the scale, the shift is subtracted from it, it is permuted, or multiplied
    by the matrix. (At `query-key` the name is that of the keys' weight, the scale is `[heads, channels]`, or `[channels]` behind
    a norm of the heads, and the type F64 or F32; at `residual` the name is `residual`.) Sites that the file does not name are left alone;
    a site that is nowhere in the module is warned of. Matrices that are not orthogonal are found by
    `quant-llm-materialize-transforms`, which reads them, and by `quant-llm-verify-equivalence`.

    Example (`test/Dialect/QuantLLM/Transforms/insert-transforms.mlir`):
    ```mlir
    %y = quant_llm.linear %0, %w : (tensor<4x64xf32>, tensor<8x64xf32>) -> tensor<4x8xf32>
    // becomes
    %1 = quant_llm.rotate %0 hadamard 64 dims = [1] : tensor<4x64xf32>
    %2 = quant_llm.rotate inverse %1 hadamard 64 dims = [1] : tensor<4x64xf32>
    %y = quant_llm.linear %2, %w : (tensor<4x64xf32>, tensor<8x64xf32>) -> tensor<4x8xf32>
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedListOption<"sites", "sites", "std::string", "Where to insert">,
    CheckedOption<"transform", "transform", "std::string", "\"hadamard\"",
           "What to insert: scale, shift, permute, orthogonal or hadamard">,
    CheckedOption<"seed", "seed", "int64_t", "-1",
           "Of random signs and numbers; -1 for a Hadamard matrix without signs">,
    CheckedOption<"random", "random", "bool", "false",
           "Draw the numbers of transforms that need some">,
    CheckedOption<"dataFile", "data", "std::string", "\"\"",
           "safetensors file with the numbers of transforms">,
    CheckedOption<"foldGains", "fold-gains", "bool", "true",
           "Take gains out of norms before a rotation of the residual stream">,
  ];
  let statistics = [
    Statistic<"numPairs", "pairs-inserted", "Number of pairs inserted">,
    Statistic<"numGains", "gains-extracted", "Number of gains taken out of norms">,
  ];
}

def MaterializeTransforms : CheckedPass<"quant-llm-materialize-transforms", "::mlir::ModuleOp"> {
  let summary = "Compute transformed parameters and store them in a new archive";
  let description = [{
    Evaluates every value that is made of parameters and constants by channel transforms, reshapes and
    linears without an epilogue (what `quant-llm-fold-transforms` leaves), in f64, rounds it once to its type and
    stores it in a new safetensors archive, from which `get_parameter` then reads it. A result that is the only
    transformed form of a parameter keeps its name. A parameter with several forms, such as
    an embedding that is also the head, is untied: a remark says so, and the further forms get names of their own.

    Parameters are streamed: memory holds one chain at a time. The archive appears complete or not at all; on a
    failure module and disk are as before. With `copy-dense` (the default) the other parameters are copied, so that the new archive
    alone serves the new module. Relative paths in the module are relative to `module-dir`, by default
    the directory of `output`: print the module there.

    The transformed model is another model, but its statistics need not be measured again: with `calibration` and
    `calibration-output` the file of the model as it was becomes one of the model as it will be, for passes that
    follow. The inputs of a linear are transformed by the inverse transpose of what its weight's columns are. A
    scale or a permutation transforms all statistics but `row-fisher`, which a scale loses; a rotation `mean`, `hessian`, `inputs` and `row-fisher`, and the others are left out, with a
    remark, as are those of affine transforms; `fisher` and `row-fisher` go with rows, too. A module with shifts is an error.

    Example (`test/Dialect/QuantLLM/Transforms/materialize-transforms.mlir`):
    ```mlir
    quant_llm.archive @model "model.safetensors"
    quant_llm.parameter @w from @model : tensor<8x64xf32>
    %w = quant_llm.get_parameter @w : tensor<8x64xf32>
    %w1 = quant_llm.rotate %w hadamard 64 dims = [1] : tensor<8x64xf32>
    // becomes
    quant_llm.archive @transformed "t.safetensors"
    quant_llm.parameter @w from @transformed : tensor<8x64xf32>
    %w1 = quant_llm.get_parameter @w : tensor<8x64xf32>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"output", "output", "std::string", "\"\"",
           "The safetensors file to write; required">,
    CheckedOption<"archiveName", "archive-name", "std::string", "\"transformed\"",
           "Symbol of the new archive">,
    CheckedOption<"copyDense", "copy-dense", "bool", "true",
           "Copy the parameters that are not transformed to the new archive">,
    CheckedOption<"allowNone", "allow-none", "bool", "false",
           "Write the files as well if no parameter is transformed, instead of an error">,
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "Calibration file of the model before">,
    CheckedOption<"calibrationOutput", "calibration-output", "std::string", "\"\"",
           "Calibration file to write for the transformed model">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Take a calibration file of a model with other values of the weights">,
    CheckedOption<"moduleDir", "module-dir", "std::string", "\"\"",
           "Directory that the module will be stored in; by default that of output">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
  ];
  let statistics = [
    Statistic<"numMaterialized", "parameters-computed", "Number of parameters computed">,
    Statistic<"numUntied", "parameters-untied", "Number of parameters with several forms">,
  ];
}

def Prepack : CheckedPass<"quant-llm-prepack", "::mlir::ModuleOp"> {
  let summary = "Pack quantized weights into the layout of GPU kernels";
  let description = [{
    Writes every quantized parameter that is the weight of a `quant_llm.linear` to a new safetensors
    archive in the layout `#quant_llm.fragment_layout` (`docs/Weights.md`), padded to whole tiles, and makes it
    a parameter with that layout there. The canonical parameter stays for its other
    users, if any; all other parameters stay where they are. Weights without a parameter, such as function arguments, are
    not touched.

    Weights are streamed: memory holds one at a time. Packing is exact and,
    with `verify`, checked by unpacking; only scales and float zeros far below the largest one of their weight can
    lose bits, with a warning. The archive appears complete or not at all, with the same bytes
    for any number of threads; on a failure module and disk are as before.

    Relative paths in the module are relative to `module-dir`, by default the
    directory of `output`: print the module there.

    Example (`test/Dialect/QuantLLM/Transforms/prepack.mlir`):
    ```mlir
    quant_llm.archive @quantized "q.safetensors"
    quant_llm.parameter @w from @quantized : !quant_llm.weight<64x256xf16, #scheme>
    // becomes
    quant_llm.archive @packed "p.safetensors"
    quant_llm.parameter @w from @packed : !quant_llm.weight<64x256xf16, #scheme, #quant_llm.fragment_layout>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"output", "output", "std::string", "\"\"",
           "The safetensors file to write; required">,
    CheckedOption<"archiveName", "archive-name", "std::string", "\"packed\"",
           "Symbol of the new archive">,
    CheckedOption<"verify", "verify", "bool", "true",
           "Check every packed weight by unpacking it">,
    CheckedOption<"moduleDir", "module-dir", "std::string", "\"\"",
           "Directory that the module will be stored in; by default that of output">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
    CheckedOption<"threads", "threads", "unsigned", "0",
           "Number of threads; 0 for one per processor">,
  ];
  let statistics = [
    Statistic<"numPacked", "parameters-packed", "Number of parameters packed">,
  ];
}

def QuantizeWeights : CheckedPass<"quant-llm-quantize", "::mlir::ModuleOp"> {
  let summary = "Quantize parameters under the schemes of their linears";
  let description = [{
    Quantizes every parameter that is the weight of a `quant_llm.linear` with a scheme, writes its
    components to a new safetensors archive and makes it a parameter of weight
    type in that archive. The dense parameter stays for its other users, if any.
    Weights are streamed: memory holds one at a time, whatever the size of
    the model. The archive appears complete or not at all, with the same bytes for any number of
    threads; on a failure module and disk are as before.

    With `copy-dense` (the default) the other parameters of the module are copied, so that the
    new archive alone serves the new module. Relative paths in the module are
    relative to `module-dir`, by default the directory of `output`: print the
    module there.

    `method` is how codes are chosen, and zeros in one case, on the grid that a scheme gives:
    - `nearest`: each weight is rounded by itself;
    - `hqq`: half-quadratic quantization (Badri and Shaji, 2023): zeros, which must be floats, that make a
      robust norm of the error small; the search begins where the weight 0 has a code, so that the errors
      of a block may be larger than those of `nearest`;
    - `gptq` (arXiv:2210.17323): column by column, the error of each spread over the columns that follow;
    - `quantease` (arXiv:2309.01885): cyclic coordinate descent on the error of the outputs;
    - `easyquant` (arXiv:2403.02775): scales by gradient descent on the squared error, without data; for schemes
      without a zero. Its outliers are not kept apart.

    `clip` shrinks the ranges of blocks, and with them scales and zeros, as long as an error of the block falls. With `grid` n
    and `shrink` s it tries 1, 1 - 1/n, 1 - 2/n, ... above 1 - s of the range of the scheme's rule:
    - `diagonal`: `sum_j H_jj dW_j^2`, the squared error weighted by the second moments of the inputs;
    - `output`: `dW_g H_gg dW_g^T`, the squared error of what the block adds to the outputs (AWQ's clip search);
    - `fisher`: `sum F dW^2` with the Fisher diagonal.
    With `clip-each-end` the lower end of the best range alone is tried at all of these, and then the upper one: three times the work.
    Weights whose name `clip-exclude` matches keep their ranges (the authors of AWQ leave queries and keys out). It goes with `nearest`, with `gptq` when groups are static, and with `quantease`, which keep the scales that it finds.

    With `low-rank`, or where a scheme has it, the leading singular vectors of what the codes leave of a weight are stored
    beside them (LoRC, arXiv:2303.08302); with a calibration file those of what they leave of the outputs. More `low-rank-steps`
    choose the codes again, for the weight without that product, and so on by turns, as long as the
    error falls (as LQ-LoRA, arXiv:2311.12023, and SVDQuant, arXiv:2411.05007, do).

    `gptq` and `quantease` minimize tr((Q - W) H (Q - W)^T) and read H, the statistic `hessian` of the inputs of
    the linear, from the file `calibration` (`docs/Calibration.md`). Beside the weight they need memory for
    at most two K x K matrices of f64 and three of f32, with K the inputs of the linear. An option that cannot
    matter with the method is an error. All are deterministic for any number of threads.

    With `drift` s they do not follow W but `W + s W drift (H + damping mean(diag H) I)^-1`: what does on the inputs y of the
    linear behind layers that are quantized already what W does on those of the original model, x (the asymmetric objective of GPTAQ,
    arXiv:2504.02692). The file has `drift`, E[(x - y)^T y], and H of y then. With `residual-drift` t they follow besides what the
    residual stream lacks: `t R (H + damping mean(diag H) I)^-1` is added for weights of which the file has R, the statistic `residual-drift`,
    E[(u - v)^T y], with u and v what the linear's outputs are added to in the original model and behind quantized layers. The
    command-line tool measures all of these for recipes with `$behind` (`docs/Recipes.md`). Errors in the report are those of W, but for those of outputs, which are of what is followed.

    `include` leaves other parameters as they are, with the schemes of their linears: a later run of the pass may take them.

    With `report` a JSON file says for every weight what was done, why, and with which error:
    an object with `weights` (`name`, `kind`, `shape`, `scheme`, `reason`, `block`, `bits_per_weight`,
    `stored_bytes`, `dense_bytes`, `mse`, `relative_frobenius`, `max_error`, `sqnr_db`, if there are any `largest_scales` and `smallest_scales`, the numbers of scales that are the largest or the smallest positive number of their type, where those beyond are clamped (a warning says so as well, unless the type is as wide as bf16; of f8E8M0FNU only the largest are counted: the smallest are those of blocks of zeros), of what `drift` or `residual-drift` corrected the `drift_change`, what is added to W relative to it (above 1 a warning), and the `drift_damping` of the formula above, with a low-rank part `low_rank`: its
    `rank`, the `remaining_error` as a part of that of the codes, and the number of `steps`, and with a Hessian `output_error`, `nearest_output_error`: relative errors of the outputs
    on the calibration tokens, of the result and of rounding to nearest; with `gptq` `damping`), `method`, `dense`
    (`name`, `type`, `bytes`, `reason`, which is a word on what keeps a parameter dense) and `totals`, of this run alone; with `include` and `drift` these, and if an earlier run quantized
    some weights, `quantized_before` (`name`, `type`). An infinite number is written as null.

    Example (`test/Dialect/QuantLLM/Transforms/quantize.mlir`):
    ```mlir
    quant_llm.archive @model "model.safetensors"
    quant_llm.parameter @w from @model : tensor<64x256xf16>
    // becomes
    quant_llm.archive @quantized "q.safetensors"
    quant_llm.parameter @w from @quantized : !quant_llm.weight<64x256xf16, #scheme>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"output", "output", "std::string", "\"\"",
           "The safetensors file to write; required">,
    CheckedOption<"report", "report", "std::string", "\"\"",
           "JSON file to write with schemes, reasons and errors">,
    CheckedOption<"method", "method", "::quant_llm::QuantizationMethod",
           "::quant_llm::QuantizationMethod::Nearest",
           "How codes are chosen: nearest, hqq, gptq, quantease or easyquant",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::QuantizationMethod::Nearest, "nearest", "the nearest ones"),
             clEnumValN(::quant_llm::QuantizationMethod::HalfQuadratic, "hqq",
                        "with float zeros of least robust error"),
             clEnumValN(::quant_llm::QuantizationMethod::GPTQ, "gptq",
                        "by columns, spreading the error of the outputs"),
             clEnumValN(::quant_llm::QuantizationMethod::QuantEase, "quantease",
                        "by coordinate descent on the error of the outputs"),
             clEnumValN(::quant_llm::QuantizationMethod::EasyQuant, "easyquant",
                        "the nearest ones, with scales learned without data"))}]>,
    CheckedOption<"clip", "clip", "::quant_llm::ClipObjective", "::quant_llm::ClipObjective::None",
           "By which error ranges of blocks are shrunk: none, diagonal, output or fisher",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::ClipObjective::None, "none",
                        "by none, or by that of the scheme's rule"),
             clEnumValN(::quant_llm::ClipObjective::Diagonal, "diagonal",
                        "squared errors times the second moments of the inputs"),
             clEnumValN(::quant_llm::ClipObjective::Output, "output",
                        "of what each block adds to the outputs"),
             clEnumValN(::quant_llm::ClipObjective::Fisher, "fisher",
                        "squared errors times the Fisher diagonal"))}]>,
    CheckedOption<"clipGrid", "clip-grid", "int", "20",
           "clip: steps between a range of nothing and the whole range, from 1 to 1000">,
    CheckedOption<"clipShrink", "clip-shrink", "double", "0.5",
           "clip: the largest part of a range that is given up, at most 1">,
    CheckedOption<"clipEachEnd", "clip-each-end", "bool", "false",
           "clip: shrink the two ends of a range apart, where schemes have zeros">,
    CheckedOption<"clipExclude", "clip-exclude", "std::string", "\"\"",
           "clip: not for parameters whose name has a match of this regular expression">,
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "Calibration file with the Hessians that gptq, quantease and clips need and low-rank parts use, or the Fisher diagonal">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Take a calibration file of a model with other values of the weights">,
    CheckedOption<"damping", "damping", "double", "0.01",
           "gptq, drift, residual-drift, and low-rank with a calibration file: what is added to the diagonal of H, as a part of its mean, from 0 to 1e6">,
    CheckedOption<"drift", "drift", "double", "0.0",
           "gptq and quantease: how far the inputs' drift behind quantized layers is made good for, from 0 to 1">,
    CheckedOption<"residualDrift", "residual-drift", "double", "0.0",
           "gptq and quantease: how far what the outputs are added to is made good for in the same way, from 0 to 1">,
    CheckedOption<"include", "include", "std::string", "\"\"",
           "Only parameters whose name has a match of this regular expression; by default all">,
    CheckedOption<"actOrder", "act-order", "bool", "false",
           "gptq: columns in the order of falling H_ii, with static groups">,
    CheckedOption<"staticGroups", "static-groups", "bool", "false",
           "gptq: scales of the original weight, not of the one with spread errors">,
    CheckedOption<"sweeps", "sweeps", "int", "30",
           "quantease: number of sweeps over all columns">,
    CheckedOption<"relax", "relax", "bool", "true",
           "quantease: leave the columns unrounded in every third of the first 26 sweeps, never "
           "in the last">,
    CheckedOption<"startFromGPTQ", "start-from-gptq", "bool", "false",
           "quantease: start from the codes of gptq instead of the nearest ones">,
    CheckedOption<"lowRank", "low-rank", "unsigned", "0",
           "Rank of the low-rank part of schemes that have none; 0 for no such part">,
    CheckedOption<"lowRankType", "low-rank-type", "::quant_llm::FloatType",
           "::quant_llm::FloatType::F16", "Type of what low-rank adds: f16, bf16 or f32",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::FloatType::F16, "f16", ""),
             clEnumValN(::quant_llm::FloatType::BF16, "bf16", ""),
             clEnumValN(::quant_llm::FloatType::F32, "f32", ""))}]>,
    CheckedOption<"lowRankSteps", "low-rank-steps", "int", "1",
           "Number of times, at most, that codes and low-rank parts are chosen">,
    CheckedOption<"archiveName", "archive-name", "std::string", "\"quantized\"",
           "Symbol of the new archive">,
    CheckedOption<"copyDense", "copy-dense", "bool", "true",
           "Copy the parameters that are not quantized to the new archive">,
    CheckedOption<"moduleDir", "module-dir", "std::string", "\"\"",
           "Directory that the module will be stored in; by default that of output">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
    CheckedOption<"threads", "threads", "unsigned", "0",
           "Number of threads, at most 4096; 0 for one per processor">,
  ];
  let statistics = [
    Statistic<"numQuantized", "parameters-quantized", "Number of parameters quantized">,
    Statistic<"numCopied", "parameters-copied", "Number of parameters copied">,
  ];
}

def QuantizeActivations : CheckedPass<"quant-llm-quantize-activations", "::mlir::ModuleOp"> {
  let summary = "Quantize the inputs of linears";
  let description = [{
    Puts `quant_llm.quantize_activation` before every `quant_llm.linear` and `quant_llm.grouped_linear` whose weights are
    not excluded by name: one for all that read the same value, such as queries, keys and values, or gate and up.
    Linears whose input is quantized already are left as they are.

    `granularity` says what shares a scale: `token`, a token; `group`, `group` channels of a token, or of all tokens with `mode=static`;
    `tensor`, everything. With `mode=dynamic` ranges are those of the data. With `mode=static` they
    come from a calibration file (`docs/Calibration.md`) of this very model, and become constants: the largest magnitude (`absmax`), or the
    fraction `percentile` of magnitudes in the channel where it is largest (`quantiles`); with an element without sign, which has a zero, `min` and `max`.
    `clip` multiplies ranges of either kind. A static range that the type of the scales rounds to 0 would make every value of its
    channels 0, whatever comes. A group of channels of such a range gets scale and zero of the widest one; if that is such a
    range too, the linears at this place get scales per token, of their data.

    A few tokens, most often the first one, can be a thousand times as large as all others; they ruin a static
    range, and must not be clipped. With `outlier-ratio` a range that is more than that multiple of the fraction `outlier-percentile` of
    its magnitudes is taken to be that of such tokens: the linears at this place get scales
    per token, of their data. Transforms that flatten channels (`quant-llm-insert-transforms`) come first.

    Remarks (category `quant-llm-quantize-activations`) and the JSON file `report` (an object with `sites`: `linears`, `mode`, `scheme`,
    and if static `absmax`, `range`, `typical`, `dead_groups` (the groups of a range that rounds to 0) or why ranges are not static, `reason`; and `skipped`: `name`, `reason`) say what was done and why.

    Example (`test/Dialect/QuantLLM/Transforms/quantize-activations.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
    // becomes
    %0 = quant_llm.quantize_activation %x : tensor<?x64xf32> -> !quant_llm.activation<?x64xf32, #scheme>
    %y = quant_llm.linear %0, %w : (!quant_llm.activation<?x64xf32, #scheme>, tensor<8x64xf32>) -> tensor<?x8xf32>
    ```
  }];
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"element", "element", "std::string", "\"int8\"",
           "Element of the codes: intN, uintN, f8E4M3FN, ...">,
    CheckedOption<"granularity", "granularity", "::quant_llm::ActivationGranularity",
           "::quant_llm::ActivationGranularity::Token",
           "What has a scale of its own: token, group or tensor",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::ActivationGranularity::Token, "token", "a token"),
             clEnumValN(::quant_llm::ActivationGranularity::Group, "group",
                        "a group of channels of a token, or of all tokens if static"),
             clEnumValN(::quant_llm::ActivationGranularity::Tensor, "tensor", "everything"))}]>,
    CheckedOption<"group", "group", "int64_t", "0",
           "Channels of a group, with granularity=group">,
    CheckedOption<"mode", "mode", "::quant_llm::ActivationRange", "::quant_llm::ActivationRange::Dynamic",
           "Where ranges come from: dynamic, the data, or static, a calibration file",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::ActivationRange::Dynamic, "dynamic", "the data"),
             clEnumValN(::quant_llm::ActivationRange::Static, "static", "a calibration file"))}]>,
    CheckedOption<"scale", "scale", "std::string", "\"f32\"",
           "Type of the scales: f16, bf16 or f32">,
    CheckedOption<"clip", "clip", "double", "1.0",
           "Part of a range that is kept, more than 0 and at most 1">,
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "Calibration file with the ranges, with mode=static">,
    CheckedOption<"percentile", "percentile", "double", "1.0",
           "Fraction of the magnitudes of a channel within a static range; 1 for all">,
    CheckedOption<"outlierRatio", "outlier-ratio", "double", "0.0",
           "Static ranges that are more than this multiple of a typical one are replaced by "
           "ranges of each token; 0 for none, else at least 1">,
    CheckedOption<"outlierPercentile", "outlier-percentile", "double", "0.99",
           "Fraction of the magnitudes that are typical, with outlier-ratio">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Accept statistics of another model, if the shapes are the same">,
    CheckedOption<"include", "include", "std::string", "\"\"",
           "Only linears with a parameter whose name has a match of this regular expression">,
    CheckedOption<"exclude", "exclude", "std::string",
           "\"lm_head|embed|token_embd|^output[.]weight$\"",
           "No linears with a parameter whose name has a match of this regular expression">,
    CheckedOption<"reportFile", "report", "std::string", "\"\"",
           "JSON file to write with what was done at every place">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
  ];
  let statistics = [
    Statistic<"numSites", "activations-quantized", "Number of values quantized">,
    Statistic<"numLinears", "linears-changed", "Number of linears with a quantized input">,
    Statistic<"numOutliers", "outlier-sites", "Number of values with scales per token because of outliers">,
  ];
}

def SelectKernels : CheckedPass<"quant-llm-select-kernels"> {
  let summary = "Choose the GPU kernels of every linear";
  let description = [{
    Writes the configurations of the kernels that compute a `quant_llm.linear` on a chip into its
    attribute `kernels`, each for a range of token counts. What a linear already has stays, and is
    verified against the chip. The rules are in `lib/Kernels/Select.cpp`; a tuning
    file replaces them for single shapes (`docs/KernelConfig.md`).

    Remarks (category `quant-llm-select-kernels`) give every choice with its
    reason, and why a linear has no kernel: dense weights, activations of f32, blocks that kernels
    cannot follow.

    Example (`test/Strategy/config_int4_sm90.mlir`):
    ```mlir
    %y = quant_llm.linear %x, %w : (tensor<?x4096xf16>, !weight) -> tensor<?x4096xf16>
    // becomes
    %y = quant_llm.linear %x, %w {kernels = [
      #quant_llm.kernel_config<few_tokens, tokens = [1, 8], row_tile = 16, ...>, ...]}
      : (tensor<?x4096xf16>, !weight) -> tensor<?x4096xf16>
    ```
  }];
  let dependentDialects = ["::quant_llm::QuantLLMDialect"];
  let options = [
    CheckedOption<"chip", "chip", "std::string", "\"\"",
           "The chip: sm_80, sm_86, sm_89, sm_90, sm_90a, sm_100a or sm_120a; required">,
    CheckedOption<"tuningFile", "tuning-file", "std::string", "\"\"",
           "JSON file with the kernels of single shapes">,
  ];
  let statistics = [
    Statistic<"numSelected", "linears-with-kernels", "Number of linears with kernels">,
    Statistic<"numSkipped", "linears-without", "Number of linears without kernels">,
  ];
}

def VerifyCalibration : CheckedPass<"quant-llm-verify-calibration", "::mlir::ModuleOp"> {
  let summary = "Check that a calibration file fits the module";
  let description = [{
    Checks that a calibration file (`docs/Calibration.md`) is of the model of this module, and that
    it has the given statistics of every `quant_llm.linear` whose weight is a parameter, in the right
    shapes and with values that can be. A remark (category `quant-llm-verify-calibration`) tells of
    inputs that were always 0.

    Nothing is changed.
  }];
  let options = [
    CheckedOption<"calibration", "calibration", "std::string", "\"\"",
           "The calibration file; required">,
    CheckedListOption<"wanted", "statistics", "std::string",
               "Statistics that there must be: absmax, absmean, mean, min, max, hessian, drift, residual-drift, "
               "fisher, row-fisher; by default absmax">,
    CheckedOption<"anyModel", "any-model", "bool", "false",
           "Accept statistics of another model, if the shapes are the same">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
  ];
}

def VerifyStage : CheckedPass<"quant-llm-verify-stage", "::mlir::ModuleOp"> {
  let summary = "Check the contract of a stage of the compilation";
  let description = [{
    Reports every op that breaks the contract of a stage (`docs/Architecture.md`):

    - `raised`: every contraction with a parameter is a `quant_llm.linear`.
    - `chosen`: besides, every linear has a scheme, or a reason for having none, and all linears of a
      parameter have the same scheme.
    - `quantized`: besides, no linear has a scheme left to be applied: its weights are of weight
      type, or a reason says why not. Constant scales that `quant_llm.quantize_activation` is given are
      finite and not negative.

    With `check-archives` every parameter is looked up in its archive, and its shape
    and type compared.
  }];
  let options = [
    CheckedOption<"stage", "stage", "::quant_llm::Stage", "::quant_llm::Stage::Raised",
           "The stage that has been reached: raised, chosen or quantized",
           [{::llvm::cl::values(
             clEnumValN(::quant_llm::Stage::Raised, "raised", "contractions are linears"),
             clEnumValN(::quant_llm::Stage::Chosen, "chosen", "linears have schemes"),
             clEnumValN(::quant_llm::Stage::Quantized, "quantized",
                        "parameters are quantized"))}]>,
    CheckedOption<"checkArchives", "check-archives", "bool", "false",
           "Look up every parameter in its archive">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
  ];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_TRANSFORMS_PASSES_TD
