//===- CalibrationFileTest.cpp --------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/CalibrationFile.h"

#include "../TestFiles.h"

#include <cmath>
#include <limits>

using namespace quant_llm;
using namespace quant_llm::test;

namespace {

const std::string model(64, 'a');

class CalibrationFileTest : public ::testing::Test {
protected:
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    std::vector<float> values;
  };

  void write(const std::vector<Tensor> &tensors) {
    std::vector<TensorDeclaration> declarations;
    for (const Tensor &tensor : tensors)
      declarations.push_back({tensor.name, DType::F32, tensor.shape});
    Result<SafetensorsWriter> writer =
        SafetensorsWriter::create(path, declarations, metadata);
    ASSERT_TRUE(writer.ok()) << writer.message();
    for (const Tensor &tensor : tensors)
      ASSERT_TRUE(writer
                      ->append(tensor.name, tensor.values.data(),
                               tensor.values.size() * sizeof(float))
                      .ok());
    ASSERT_TRUE(writer->finish().ok());
  }

  CalibrationFile open() {
    Result<CalibrationFile> file = CalibrationFile::open(path);
    EXPECT_TRUE(file.ok()) << file.message();
    return file.take();
  }

  /// The file with the metadata `key` set to `value`, or removed.
  void expectInvalid(const std::string &key, const char *value,
                     const std::string &part) {
    auto before = metadata;
    metadata.erase(key);
    if (value)
      metadata[key] = value;
    write({{"absmax/w", {2}, {1, 2}}});
    expectError(CalibrationFile::open(path), part);
    metadata = before;
  }

  TempDir directory;
  const std::string path = directory / "c.safetensors";
  std::map<std::string, std::string> metadata = {
      {"schema", "quant_llm.calibration/1"},
      {"model", model},
      {"tokens", "1024"},
      {"samples", "2"},
      {"length", "512"},
      {"seed", "18446744073709551615"}};
};

TEST_F(CalibrationFileTest, WhatItSays) {
  metadata["quantiles"] = "0.5,0.99,1";
  metadata["token_weights"] = "given";
  write({{"absmax/w", {2}, {1, 0}}, {"inputs/w", {3, 2}, {1, 2, 3, 4, 5, 6}}});
  CalibrationFile file = open();
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.model(), model);
  EXPECT_EQ(file.numTokens(), 1024);
  EXPECT_EQ(file.numSamples(), 2);
  EXPECT_EQ(file.length(), 512);
  EXPECT_EQ(file.seed(), UINT64_MAX);
  EXPECT_TRUE(file.isTokenWeighted());
  EXPECT_EQ(file.quantiles(), (std::vector<double>{0.5, 0.99, 1}));
  EXPECT_TRUE(file.checkModel(model).ok());
  expectError(file.checkModel(std::string(64, 'b')), "is of another model");

  EXPECT_EQ(file.parameters(), std::vector<std::string>{"w"});
  EXPECT_EQ(file.statistics("w"),
            (std::vector<std::string>{"absmax", "inputs"}));
  EXPECT_TRUE(file.contains(statistic::absMax, "w"));
  EXPECT_FALSE(file.contains(statistic::absMax, "v"));
  EXPECT_FALSE(file.contains(statistic::hessian, "w"));
  Result<std::vector<float>> values =
      file.readChannels(statistic::absMax, "w", 2);
  ASSERT_TRUE(values.ok()) << values.message();
  EXPECT_EQ(*values, (std::vector<float>{1, 0}));
  Result<std::vector<float>> inputs = file.readInputs("w", 2);
  ASSERT_TRUE(inputs.ok()) << inputs.message();
  EXPECT_EQ(inputs->size(), 6u);
  Result<std::vector<int64_t>> dead = file.findDeadChannels("w", 2);
  ASSERT_TRUE(dead.ok()) << dead.message();
  EXPECT_EQ(*dead, std::vector<int64_t>{1});
}

TEST_F(CalibrationFileTest, LinearsWithOneInput) {
  metadata["aliases"] = R"({"k": "q"})";
  write({{"absmax/q", {2}, {1, 2}},
         {"fisher/q", {1, 2}, {1, 2}},
         {"row-fisher/q", {1}, {3}},
         {"learned/k", {1}, {-5}}});
  CalibrationFile file = open();
  EXPECT_EQ(file.parameters(), (std::vector<std::string>{"k", "q"}));
  EXPECT_EQ(file.statistics("k"),
            (std::vector<std::string>{"absmax", "learned"}));
  Result<std::vector<float>> values =
      file.readChannels(statistic::absMax, "k", 2);
  ASSERT_TRUE(values.ok()) << values.message();
  EXPECT_EQ(*values, (std::vector<float>{1, 2}));
  // What belongs to a weight is not that of another one.
  expectError(file.read(statistic::fisher, "k", {1, 2}),
              "no statistic 'fisher' of 'k'");
  expectError(file.read(statistic::rowFisher, "k", {1}),
              "no statistic 'row-fisher' of 'k'");
  EXPECT_TRUE(file.contains(statistic::rowFisher, "q"));
  Result<std::vector<float>> learned = file.read("learned", "k", {1});
  ASSERT_TRUE(learned.ok()) << learned.message();
  EXPECT_EQ(learned->front(), -5);
}

TEST_F(CalibrationFileTest, MissingAndWrong) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  write({{"absmax/w", {2}, {1, 2}},
         {"absmean/w", {2}, {1, -2}},
         {"min/w", {2}, {-infinity, 1}},
         {"max/w", {2}, {1, nan}},
         {"inputs/scalar", {}, {1}}});
  CalibrationFile file = open();
  expectError(file.readChannels(statistic::absMax, "v", 2),
              "no statistic 'absmax' of 'v' and no other; it knows 2 "
              "parameters: scalar, w; calibrate the model again");
  expectError(file.read(statistic::hessian, "w", {2, 2}),
              "no statistic 'hessian' of 'w', only absmax, absmean, max, min; "
              "calibrate with --statistics hessian");
  expectError(file.readChannels(statistic::absMax, "w", 3),
              "absmax of 'w': expected the shape [3] but got [2]");
  expectError(file.readChannels(statistic::absMean, "w", 2),
              "expected no negative value but got -2");
  expectError(file.readChannels(statistic::min, "w", 2), "infinity at 0");
  expectError(file.readChannels(statistic::max, "w", 2), "NaN");
  expectError(file.readInputs("scalar", 1), "expected the shape [0, 1]");
  expectError(file.findDeadChannels("v", 2), "no statistic 'absmax'");
}

TEST_F(CalibrationFileTest, Hessians) {
  write({{"hessian/good", {2, 2}, {4, -2, -2, 1}},
         {"hessian/dead", {2, 2}, {0, 0, 0, 1}},
         {"hessian/negative", {2, 2}, {-1, 0, 0, 1}},
         {"hessian/asymmetric", {2, 2}, {4, 1, -1, 4}},
         {"hessian/large", {2, 2}, {1, 3, 3, 1}}});
  CalibrationFile file = open();
  EXPECT_TRUE(file.read(statistic::hessian, "good", {2, 2}).ok());
  EXPECT_TRUE(file.read(statistic::hessian, "dead", {2, 2}).ok());
  expectError(file.read(statistic::hessian, "negative", {2, 2}),
              "on the diagonal");
  expectError(file.read(statistic::hessian, "asymmetric", {2, 2}),
              "expected a symmetric matrix");
  expectError(file.read(statistic::hessian, "large", {2, 2}),
              "larger than theirs allow");
}

TEST_F(CalibrationFileTest, OtherTypes) {
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(
      path, {{"absmax/w", DType::F16, {1}}}, metadata);
  const uint16_t one = 0x3c00;
  ASSERT_TRUE(writer.ok() && writer->append("absmax/w", &one, 2).ok() &&
              writer->finish().ok());
  expectError(open().readChannels(statistic::absMax, "w", 1),
              "expected F32 but got F16");
}

TEST_F(CalibrationFileTest, InvalidMetadata) {
  expectError(CalibrationFile::open(directory / "none"), "none");
  writeFile(path, "text");
  expectError(CalibrationFile::open(path), "not a valid safetensors file");
  expectInvalid("schema", nullptr, "is no calibration file");
  expectInvalid("schema", "quant_llm.calibration/2",
                "expected the schema quant_llm.calibration/1 but got "
                "'quant_llm.calibration/2'");
  expectInvalid("model", nullptr, "expected the metadata 'model'");
  expectInvalid("model", "abc", "64 hexadecimal digits");
  expectInvalid("tokens", "-1", "'tokens' to be a number from 0 but got '-1'");
  expectInvalid("samples", "1.5", "'samples' to be a number");
  expectInvalid("length", "", "'length' to be a number");
  expectInvalid("seed", "99999999999999999999", "'seed' to be a number");
  for (const char *text : {"", "0.5,", "0.5,0.5", "-1", "2", "nan", "a"})
    expectInvalid("quantiles", text, "expected 'quantiles' to be rising");
  expectInvalid("aliases", "{", "'aliases'");
  expectInvalid("aliases", "[]", "expected 'aliases' to be a JSON object");
  expectInvalid("aliases", R"({"a": "b"})", "expected the alias 'a'");
  expectInvalid("aliases", R"({"a": 1})", "expected the alias 'a'");
  for (const char *name : {"w", "/w", "absmax/"}) {
    write({{name, {1}, {1}}});
    expectError(CalibrationFile::open(path),
                "expected tensors '<statistic>/<parameter>'");
  }
}

} // namespace
