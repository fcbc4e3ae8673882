//===- FuzzCalibration.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FuzzInput.h"

#include "quant-llm/Formats/CalibrationFile.h"

using namespace quant_llm;

/// What is accepted must be readable, or say why not.
static void check(const Result<std::vector<float>> &values) {
  if (values.ok())
    fuzz::touch(reinterpret_cast<const uint8_t *>(values->data()),
                values->size() * sizeof(float));
  else if (values.message().empty())
    std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz::FuzzInput input(data, size);
  Result<CalibrationFile> file = CalibrationFile::open(input.path());
  if (!file.ok()) {
    if (file.message().empty())
      std::abort();
    return 0;
  }
  double last = -1;
  for (double fraction : file->quantiles()) {
    if (!(fraction > last && fraction <= 1))
      std::abort();
    last = fraction;
  }
  for (const std::string &parameter : file->parameters()) {
    for (const std::string &name : file->statistics(parameter)) {
      if (!file->contains(name, parameter))
        std::abort();
      for (int64_t channels : {0, 1, 2, 3}) {
        check(file->readChannels(name, parameter, channels));
        check(file->read(name, parameter, {channels, 2}));
      }
    }
    for (int64_t channels : {0, 1, 2}) {
      check(file->read(statistic::hessian, parameter, {channels, channels}));
      check(file->readInputs(parameter, channels));
      (void)file->findDeadChannels(parameter, channels);
    }
  }
  return 0;
}
