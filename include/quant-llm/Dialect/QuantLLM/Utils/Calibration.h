//===- Calibration.h - Calibration files for passes -------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The way from the name of a calibration file to numbers, with a diagnostic for
// everything that can be wrong with it.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_CALIBRATION_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_CALIBRATION_H

#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Formats/CalibrationFile.h"

namespace quant_llm {

/// Opens a calibration file and, unless `anyModel`, checks that it is of the
/// model that `module` is now. A pass that changes parameters makes another
/// model; a pipeline that does so first opens the file before.
mlir::FailureOr<CalibrationFile> openCalibration(mlir::ModuleOp module,
                                                 llvm::StringRef path,
                                                 ParameterArchives &archives,
                                                 bool anyModel = false);

/// A statistic of the inputs of `linear` whose weight is `parameter`: [K]
/// values, [K, K] for statistic::hessian, [rows, K] for statistic::inputs.
mlir::FailureOr<std::vector<float>> readStatistic(const CalibrationFile &file,
                                                  std::string_view statistic,
                                                  LinearOp linear,
                                                  ParameterOp parameter);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_CALIBRATION_H
