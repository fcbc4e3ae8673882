//===- Calibration.cpp - Calibration files for passes ---------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"

using namespace mlir;
using namespace quant_llm;

FailureOr<CalibrationFile>
quant_llm::openCalibration(ModuleOp module, StringRef path,
                           ParameterArchives &archives, bool anyModel) {
  Result<CalibrationFile> file = CalibrationFile::open(path.str());
  if (!file.ok())
    return emitError(module.getLoc(), file.message());
  if (anyModel)
    return file.take();
  FailureOr<std::string> fingerprint = archives.computeFingerprint(module);
  if (failed(fingerprint))
    return failure();
  if (Status status = file->checkModel(*fingerprint); !status.ok())
    return emitError(module.getLoc(), status.message());
  return file.take();
}

FailureOr<std::vector<float>>
quant_llm::readStatistic(const CalibrationFile &file,
                         std::string_view statistic, LinearOp linear,
                         ParameterOp parameter) {
  const std::string name = parameter.getSymName().str();
  const int64_t channels = linear.getK();
  Result<std::vector<float>> values =
      statistic == statistic::inputs
          ? file.readInputs(name, channels)
          : file.read(statistic, name,
                      statistic::getShape(statistic, linear.getN(), channels));
  if (values.ok())
    return values.take();
  linear.emitOpError(values.message());
  return failure();
}
