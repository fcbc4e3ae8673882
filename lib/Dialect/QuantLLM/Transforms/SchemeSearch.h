//===- SchemeSearch.h - Errors of weights under other schemes ---*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What passes have in common that change schemes which linears have already, by
// what the change does to the weights: weights that meet in a linear, or
// linears that share a weight, change together.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_SCHEMESEARCH_H
#define QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_SCHEMESEARCH_H

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Methods/ClipSearch.h"
#include "quant-llm/Methods/Method.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/JSON.h"

#include <memory>
#include <string>
#include <vector>

namespace quant_llm {

/// Weights that have one scheme.
struct WeightClass {
  struct Member {
    ParameterOp parameter;
    LinearOpInterface linear;
    TensorInfo info;
  };
  std::vector<Member> members;
  llvm::SmallVector<LinearOpInterface> linears;
  SchemeAttr scheme;

  /// The name of the first member.
  llvm::StringRef getName() { return members.front().parameter.getSymName(); }
  int64_t getNumWeights();
  int64_t getStoredBytes(SchemeAttr scheme);
  /// The names of the members, for reports.
  llvm::json::Array getNames();
};

/// How the errors of rows are estimated.
struct RowErrorOptions {
  double damping;
  ClipOptions clip;
  /// Of the squared gradients of the rows of a weight.
  double power;
};

class SchemeSearch {
public:
  SchemeSearch(mlir::ModuleOp module, llvm::StringRef passName,
               llvm::StringRef baseDir, unsigned threads)
      : module(module), passName(passName), threads(threads),
        archives(baseDir) {}

  /// Checks the options that these passes have in common; `errorOption` names
  /// the one that gives `error`.
  static llvm::LogicalResult
  verifyOptions(mlir::MLIRContext *context, llvm::StringRef passName,
                llvm::StringRef errorOption, SchemeError error,
                llvm::StringRef calibration, bool anyModel, unsigned threads);

  /// An error of the pass that belongs to no op.
  mlir::InFlightDiagnostic fail() {
    return module.emitError() << passName << ": ";
  }

  /// Checks that the report replaces nothing that is read.
  llvm::LogicalResult verifyReport(llvm::StringRef report,
                                   llvm::StringRef calibration);

  /// Finds the dense parameters that are weights of linears with a scheme, in
  /// the order of the linears, and opens the statistics that `error` needs.
  llvm::LogicalResult collect(SchemeError error, llvm::StringRef calibration,
                              bool anyModel);
  std::vector<WeightClass> &getClasses() { return classes; }

  /// The error of a class under each scheme, when it is rounded to nearest.
  llvm::LogicalResult measure(WeightClass &weights,
                              llvm::ArrayRef<SchemeAttr> schemes,
                              std::vector<double> &errors);

  /// The errors of the rows of a member of a class, as [rows][schemes]:
  /// f_n sum_i D_i dW_ni^2, where dW is the error of rounding to nearest with
  /// ranges clipped by the diagonal of H, D what the rounding errors of a
  /// column add to those of the outputs after GPTQ in the order of H_ii, and
  /// f_n the mean squared gradient with respect to output n.
  llvm::LogicalResult measureRows(WeightClass &weights, size_t index,
                                  llvm::ArrayRef<SchemeAttr> schemes,
                                  const RowErrorOptions &options,
                                  std::vector<double> &errors);

  /// Gives all linears of a class a scheme and the reason for it, and says so
  /// in a remark of this name.
  void setScheme(WeightClass &weights, SchemeAttr scheme,
                 const std::string &reason, llvm::StringRef remarkName);

private:
  llvm::LogicalResult verifyStatistics(WeightClass::Member &member);

  mlir::ModuleOp module;
  llvm::StringRef passName;
  unsigned threads;
  ParameterArchives archives;
  SchemeError kind = SchemeError::Weight;
  std::unique_ptr<const CalibrationFile> statistics;
  std::vector<WeightClass> classes;
};

llvm::StringRef getSchemeErrorName(SchemeError error);

} // namespace quant_llm

#endif // QUANT_LLM_LIB_DIALECT_QUANTLLM_TRANSFORMS_SCHEMESEARCH_H
