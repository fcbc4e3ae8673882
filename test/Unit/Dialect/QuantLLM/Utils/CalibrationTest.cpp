//===- CalibrationTest.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"

#include "../../../TestFiles.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"

using namespace mlir;
using namespace quant_llm;
using namespace quant_llm::test;

namespace {

/// A module with a dense and a quantized parameter, and a linear of each.
constexpr const char *source = R"(
#q = #quant_llm.scheme<int8, block = [1, -1], scale = f16>
quant_llm.archive @a "a.safetensors"
quant_llm.parameter @w from @a : tensor<2x3xf16>
quant_llm.parameter @q from @a : !quant_llm.weight<2x4xf16, #q>
func.func private @f(%x: tensor<1x3xf32>, %v: tensor<1x4xf32>) {
  %w = quant_llm.get_parameter @w : tensor<2x3xf16>
  %q = quant_llm.get_parameter @q : !quant_llm.weight<2x4xf16, #q>
  %y = quant_llm.linear %x, %w : (tensor<1x3xf32>, tensor<2x3xf16>) -> tensor<1x2xf32>
  %z = quant_llm.linear %v, %q : (tensor<1x4xf32>, !quant_llm.weight<2x4xf16, #q>) -> tensor<1x2xf32>
  return
}
)";

class CalibrationTest : public ::testing::Test {
protected:
  CalibrationTest() {
    context.loadDialect<func::FuncDialect, QuantLLMDialect>();
    context.getDiagEngine().registerHandler([this](Diagnostic &diagnostic) {
      messages += diagnostic.str() + "\n";
      return success();
    });
    writeArchive(1);
  }

  /// The archive, all of whose bytes are `value`.
  void writeArchive(uint8_t value) {
    const std::vector<uint8_t> data(64, value);
    Result<SafetensorsWriter> writer = SafetensorsWriter::create(
        directory / "a.safetensors", {{"w", DType::F16, {2, 3}},
                                      {"q.scales", DType::F16, {2, 1}},
                                      {"q.codes", DType::I8, {2, 4}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->append("w", data.data(), 12).ok());
    ASSERT_TRUE(writer->append("q.scales", data.data(), 4).ok());
    ASSERT_TRUE(writer->append("q.codes", data.data(), 8).ok());
    ASSERT_TRUE(writer->finish().ok());
  }

  /// A file of the model `fingerprint` with the absmax of w and q.
  std::string writeCalibration(const std::string &fingerprint) {
    const std::string path = directory / "c.safetensors";
    const float values[] = {1, 2, 3, 4};
    Result<SafetensorsWriter> writer =
        SafetensorsWriter::create(path,
                                  {{"absmax/w", DType::F32, {3}},
                                   {"absmax/q", DType::F32, {4}},
                                   {"inputs/w", DType::F32, {1, 3}}},
                                  {{"schema", "quant_llm.calibration/1"},
                                   {"model", fingerprint},
                                   {"tokens", "4"},
                                   {"samples", "1"},
                                   {"length", "4"},
                                   {"seed", "0"}});
    EXPECT_TRUE(writer.ok());
    EXPECT_TRUE(writer->append("absmax/w", values, 12).ok());
    EXPECT_TRUE(writer->append("absmax/q", values, 16).ok());
    EXPECT_TRUE(writer->append("inputs/w", values, 12).ok());
    EXPECT_TRUE(writer->finish().ok());
    return path;
  }

  TempDir directory;
  MLIRContext context;
  std::string messages;
};

TEST_F(CalibrationTest, FitsOneModelOnly) {
  OwningOpRef<ModuleOp> module =
      parseSourceString<ModuleOp>(source, ParserConfig(&context));
  ASSERT_TRUE(module) << messages;
  ParameterArchives archives(directory.path);
  FailureOr<std::string> fingerprint = archives.computeFingerprint(*module);
  ASSERT_TRUE(succeeded(fingerprint)) << messages;
  std::string path = writeCalibration(*fingerprint);
  FailureOr<CalibrationFile> file = openCalibration(*module, path, archives);
  ASSERT_TRUE(succeeded(file)) << messages;

  SmallVector<LinearOp> linears;
  module->walk([&](LinearOp op) { linears.push_back(op); });
  ASSERT_EQ(linears.size(), 2u);
  for (LinearOp linear : linears) {
    ParameterOp parameter = getParameterOf(linear.getWeights().front());
    FailureOr<std::vector<float>> values =
        readStatistic(*file, statistic::absMax, linear, parameter);
    ASSERT_TRUE(succeeded(values)) << messages;
    EXPECT_EQ(values->size(), static_cast<size_t>(linear.getK()));
    EXPECT_TRUE(
        failed(readStatistic(*file, statistic::hessian, linear, parameter)));
    EXPECT_NE(messages.find("no statistic 'hessian'"), std::string::npos);
    messages.clear();
  }
  ParameterOp w = getParameterOf(linears.front().getWeights().front());
  EXPECT_TRUE(
      succeeded(readStatistic(*file, statistic::inputs, linears.front(), w)));
  // Statistics of one linear do not fit another one.
  EXPECT_TRUE(
      failed(readStatistic(*file, statistic::absMax, linears.back(), w)));
  EXPECT_NE(messages.find("expected the shape [4] but got [3]"),
            std::string::npos)
      << messages;
  messages.clear();

  // The same module on other weights.
  writeArchive(2);
  ParameterArchives others(directory.path);
  EXPECT_TRUE(failed(openCalibration(*module, path, others)));
  EXPECT_NE(messages.find("is of another model"), std::string::npos);
  EXPECT_TRUE(
      succeeded(openCalibration(*module, path, others, /*anyModel=*/true)));
}

TEST_F(CalibrationTest, WhatCannotBeRead) {
  OwningOpRef<ModuleOp> module = parseSourceString<ModuleOp>(
      "quant_llm.archive @a \"a.safetensors\"\n"
      "quant_llm.parameter @v from @a : tensor<2x3xf16>\n",
      ParserConfig(&context));
  ASSERT_TRUE(module) << messages;
  ParameterArchives archives(directory.path);
  EXPECT_TRUE(failed(archives.computeFingerprint(*module)));
  EXPECT_NE(messages.find("cannot be read"), std::string::npos);
  messages.clear();
  EXPECT_TRUE(failed(openCalibration(*module, directory / "none", archives)));
  EXPECT_NE(messages.find("none"), std::string::npos);
}

} // namespace
