//===- Pipelines.h - Named pipelines and their options ----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_PIPELINES_PIPELINES_H
#define QUANT_LLM_PIPELINES_PIPELINES_H

#include "quant-llm/Dialect/QuantLLM/Utils/CheckedOptions.h"
#include "quant-llm/Numerics/Granularity.h"

#include <vector>

namespace mlir {
class DialectRegistry;
class OpPassManager;
} // namespace mlir

namespace quant_llm {

/// Options of `quant-llm-to-cpu`.
struct CpuPipelineOptions : public CheckedPipelineOptions<CpuPipelineOptions> {
  Option<bool> reference{
      *this, "reference",
      llvm::cl::desc("Use the exact reference lowering, not the fast kernels"),
      llvm::cl::init(false)};
  Option<bool> profile{
      *this, "profile",
      llvm::cl::desc("Measure the time of every kernel at run time"),
      llvm::cl::init(false)};
  Option<bool> parallel{
      *this, "parallel",
      llvm::cl::desc("Distribute large loops over threads with OpenMP"),
      llvm::cl::init(true)};
};

/// From functions on tensors in upstream dialects and `quant_llm` to functions
/// on buffers: kernels outlined, bufferized, memory management explicit. See
/// docs/Pipelines.md for the contract with the runtime.
void buildCpuBufferPipeline(mlir::OpPassManager &pm,
                            const CpuPipelineOptions &options);
/// From functions on buffers to the LLVM dialect.
void buildCpuLLVMPipeline(mlir::OpPassManager &pm,
                          const CpuPipelineOptions &options);
/// `quant-llm-to-cpu`: both, one after the other.
void buildCpuPipeline(mlir::OpPassManager &pm,
                      const CpuPipelineOptions &options);

/// Dialects, interface implementations and translations that a module on its
/// way through `quant-llm-to-cpu` needs.
void registerCpuPipelineDialects(mlir::DialectRegistry &registry);

/// Registers `quant-llm-to-cpu` for textual pipelines.
void registerCpuPipelines();

/// Options of `quant-llm-to-gpu`: those of its passes.
struct GpuPipelineOptions : public CheckedPipelineOptions<GpuPipelineOptions> {
  Option<std::string> chip{
      *this, "chip",
      llvm::cl::desc("The chip: sm_80, sm_86, sm_89, sm_90, sm_90a, sm_100a "
                     "or sm_120a; required")};
  Option<std::string> output{
      *this, "output",
      llvm::cl::desc("Directory to write for the GPU runtime; required")};
  Option<std::string> tuningFile{
      *this, "tuning-file",
      llvm::cl::desc("JSON file with the kernels of single shapes")};
  Option<std::string> format{
      *this, "format",
      llvm::cl::desc("ptx, cubin, or auto: cubin if ptxas is found"),
      llvm::cl::init("auto")};
  Option<std::string> packed{
      *this, "packed",
      llvm::cl::desc("File of the packed weights, relative to the directory, "
                     "of linears whose weights are not packed parameters"),
      llvm::cl::init("packed.safetensors")};
  Option<std::string> baseDir{
      *this, "base-dir",
      llvm::cl::desc("Directory that relative paths of archives are relative "
                     "to, instead of that of the module's file")};
};

/// `quant-llm-to-gpu`: raises and fuses linears, chooses and generates their
/// kernels, compiles them, and writes the directory that the GPU runtime loads.
void buildGpuPipeline(mlir::OpPassManager &pm,
                      const GpuPipelineOptions &options);

/// Registers `quant-llm-to-gpu` for textual pipelines.
void registerGpuPipelines();

/// Options of `quant-llm-finequant`: those of its passes under the same names
/// and with the same defaults (a test compares them).
struct FineQuantPipelineOptions
    : public CheckedPipelineOptions<FineQuantPipelineOptions> {
  Option<std::string> output{
      *this, "output",
      llvm::cl::desc("The safetensors file to write; required")};
  Option<std::string> report{
      *this, "report",
      llvm::cl::desc("JSON file to write with schemes, reasons and errors")};
  Option<std::string> element{
      *this, "element",
      llvm::cl::desc("Element of the schemes: intN, uintN, ternary, nf4, ..."),
      llvm::cl::init("uint4")};
  Option<std::string> zero{
      *this, "zero",
      llvm::cl::desc("Zero of the schemes: none, int, f16, bf16 or f32; by "
                     "default int for uintN and none for other elements")};
  Option<std::string> rule{
      *this, "rule",
      llvm::cl::desc("Rule of the scales: absmax, absmax_full, minmax or mse")};
  Option<std::string> scale{*this, "scale",
                            llvm::cl::desc("Type of the scales"),
                            llvm::cl::init("f16")};
  Option<std::string> rowScale{
      *this, "row-scale",
      llvm::cl::desc("Type of one more scale per output, under which scales "
                     "are stored; scale is then their element")};
  Option<std::string> rounding{
      *this, "rounding",
      llvm::cl::desc("Rounding of ties: half_even or half_away"),
      llvm::cl::init("half_even")};
  ListOption<int64_t> block{
      *this, "block",
      llvm::cl::desc("Give every weight this block [outputs, inputs] instead "
                     "of an adaptive one")};
  Option<double> alpha{
      *this, "alpha",
      llvm::cl::desc("Split groups while the ratio of their ranges is below "
                     "this, a number in (0, 2]"),
      llvm::cl::init(0.75)};
  Option<RangeStatistic> statistic{
      *this, "statistic",
      llvm::cl::desc(
          "What is compared with alpha: raw, the ratio of ranges, or "
          "gaussian, that ratio divided by the one of normal "
          "numbers"),
      llvm::cl::init(RangeStatistic::Raw),
      llvm::cl::values(
          clEnumValN(RangeStatistic::Raw, "raw", "the ratio of ranges"),
          clEnumValN(RangeStatistic::Gaussian, "gaussian",
                     "that ratio divided by the one expected of "
                     "normal numbers"))};
  Option<RangeAggregation> aggregation{
      *this, "aggregation",
      llvm::cl::desc("Over the rows of a matrix: min, the smallest ratio of a "
                     "row, or mean, the ratio of the mean ranges"),
      llvm::cl::init(RangeAggregation::Min),
      llvm::cl::values(clEnumValN(RangeAggregation::Mean, "mean",
                                  "the ratio of the mean ranges"),
                       clEnumValN(RangeAggregation::Min, "min",
                                  "the smallest ratio of a row"))};
  ListOption<int64_t> sizes{
      *this, "sizes",
      llvm::cl::desc("Allowed group sizes beside the whole row")};
  Option<std::string> include{
      *this, "include",
      llvm::cl::desc("Only parameters whose name matches this expression")};
  Option<std::string> exclude{
      *this, "exclude",
      llvm::cl::desc("No parameters whose name matches this expression"),
      llvm::cl::init("lm_head|embed|token_embd|^output[.]weight$")};
  Option<bool> includeShared{
      *this, "include-shared",
      llvm::cl::desc("Also parameters that other ops than linears use"),
      llvm::cl::init(false)};
  Option<bool> fuse{
      *this, "fuse",
      llvm::cl::desc("Fuse elementwise operations into the linears at the end"),
      llvm::cl::init(true)};
  Option<bool> copyDense{
      *this, "copy-dense",
      llvm::cl::desc("Copy the parameters that are not quantized as well"),
      llvm::cl::init(true)};
  Option<std::string> archiveName{*this, "archive-name",
                                  llvm::cl::desc("Symbol of the new archive"),
                                  llvm::cl::init("quantized")};
  Option<std::string> moduleDir{
      *this, "module-dir",
      llvm::cl::desc("Directory that the module will be stored in; by default "
                     "that of output")};
  Option<std::string> baseDir{
      *this, "base-dir",
      llvm::cl::desc("Directory that relative paths of archives are relative "
                     "to, instead of that of the module's file")};
  Option<unsigned> threads{
      *this, "threads",
      llvm::cl::desc("Number of threads; 0 for one per processor"),
      llvm::cl::init(0)};
};

/// `quant-llm-finequant`: from a model whose weights are dense parameters to
/// one whose weights are quantized and stored in a new archive. Raise, choose,
/// quantize, fuse epilogues, with the contract of every stage checked.
void buildFineQuantPipeline(mlir::OpPassManager &pm,
                            const FineQuantPipelineOptions &options);

/// Registers `quant-llm-finequant` for textual pipelines.
void registerQuantizationPipelines();

/// Registers the pipelines `quant-llm-<name>` of all recipes (Recipes.h). Their
/// options are those of the recipe, with hyphens, and the files that it reads
/// and writes.
void registerRecipePipelines();

} // namespace quant_llm

#endif // QUANT_LLM_PIPELINES_PIPELINES_H
