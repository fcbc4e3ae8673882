//===- ParameterArchivesTest.cpp ------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"

#include "../../../TestFiles.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"

using namespace mlir;
using namespace quant_llm;
using namespace quant_llm::test;

namespace {

/// Parameters of one archive with the tensors "w" (F16 2x3: 1 to 6), "bytes"
/// (U8 2x2) and the components of the weight "q".
class ParameterArchivesTest : public ::testing::Test {
protected:
  ParameterArchivesTest() {
    context.loadDialect<QuantLLMDialect>();
    context.getDiagEngine().registerHandler([this](Diagnostic &diagnostic) {
      messages += diagnostic.str() + "\n";
      return success();
    });
    const uint16_t w[] = {0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600};
    const uint8_t zeros[8] = {};
    Result<SafetensorsWriter> writer = SafetensorsWriter::create(
        directory / "a.safetensors", {{"w", DType::F16, {2, 3}},
                                      {"q.scales", DType::F16, {2, 1}},
                                      {"bytes", DType::U8, {2, 2}},
                                      {"q.codes", DType::U8, {2, 4}}});
    EXPECT_TRUE(writer.ok());
    EXPECT_TRUE(writer->append("w", w, sizeof(w)).ok());
    EXPECT_TRUE(writer->append("q.scales", zeros, 4).ok());
    EXPECT_TRUE(writer->append("bytes", zeros, 4).ok());
    EXPECT_TRUE(writer->append("q.codes", zeros, 8).ok());
    EXPECT_TRUE(writer->finish().ok());
  }

  /// The parameter `text` of the archive `file`.
  ParameterOp parse(const std::string &text,
                    const std::string &file = "a.safetensors") {
    module = parseSourceString<ModuleOp>(
        "#q = #quant_llm.scheme<int4, block = [1, 8], scale = f16>\n"
        "quant_llm.archive @a \"" +
            file + "\"\nquant_llm.parameter " + text + "\n",
        ParserConfig(&context));
    EXPECT_TRUE(module) << messages;
    return *module->getOps<ParameterOp>().begin();
  }

  /// That the last call failed and said so.
  void expectDiagnosed(LogicalResult result, StringRef part) {
    EXPECT_TRUE(failed(result));
    EXPECT_NE(messages.find(part), std::string::npos)
        << "expected '" << part.str() << "' in: " << messages;
    messages.clear();
  }

  TempDir directory;
  MLIRContext context;
  std::string messages;
  OwningOpRef<ModuleOp> module;
};

TEST_F(ParameterArchivesTest, StoredTypes) {
  Builder builder(&context);
  EXPECT_EQ(getStoredType(builder.getF16Type()), DType::F16);
  EXPECT_EQ(getStoredType(builder.getBF16Type()), DType::BF16);
  EXPECT_EQ(getStoredType(Float8E8M0FNUType::get(&context)), DType::F8E8M0);
  EXPECT_EQ(getStoredType(builder.getI8Type()), DType::I8);
  EXPECT_EQ(getStoredType(builder.getI1Type()), DType::Bool);
  EXPECT_EQ(getStoredType(builder.getIntegerType(4)), std::nullopt);
  EXPECT_EQ(getStoredType(builder.getIndexType()), std::nullopt);
}

TEST_F(ParameterArchivesTest, LoadsAMatrix) {
  ParameterOp op = parse("@w from @a : tensor<2x3xf16>");
  ParameterArchives archives(directory.path);
  FailureOr<TensorInfo> info = archives.find(op);
  ASSERT_TRUE(succeeded(info)) << messages;
  FailureOr<LoadedMatrix> matrix = archives.load(op, *info);
  ASSERT_TRUE(succeeded(matrix)) << messages;
  EXPECT_EQ(matrix->view.n, 2);
  EXPECT_EQ(matrix->view.k, 3);
  float row[3];
  loadRow(matrix->view, 1, 0, 3, row);
  EXPECT_EQ(row[0], 4.0f);
  EXPECT_EQ(row[2], 6.0f);
  // What was released is there again when it is read.
  archives.release(op, *info);
  loadRow(matrix->view, 0, 0, 3, row);
  EXPECT_EQ(row[1], 2.0f);
}

TEST_F(ParameterArchivesTest, KeysAndBytes) {
  // Signless integers are read from bytes, under a key of their own.
  ParameterOp op = parse("@other from @a key \"bytes\" : tensor<2x2xi8>");
  ParameterArchives archives(directory.path);
  FailureOr<TensorInfo> info = archives.find(op);
  ASSERT_TRUE(succeeded(info)) << messages;
  EXPECT_EQ(info->dtype, DType::U8);
  expectDiagnosed(archives.load(op, *info),
                  "expected elements of type f16, bf16 or f32");
}

TEST_F(ParameterArchivesTest, Components) {
  ParameterOp op = parse("@q from @a : !quant_llm.weight<2x8xf16, #q>");
  ParameterArchives archives(directory.path);
  FailureOr<SmallVector<TensorInfo>> infos = archives.findComponents(op);
  ASSERT_TRUE(succeeded(infos)) << messages;
  ASSERT_EQ(infos->size(), 2u);
  EXPECT_EQ((*infos)[0].name, "q.codes");
  EXPECT_EQ((*infos)[1].name, "q.scales");
  expectDiagnosed(archives.find(op), "expected a parameter of tensor type");
}

TEST_F(ParameterArchivesTest, WhatDoesNotFit) {
  auto find = [&](const std::string &text,
                  const std::string &file = "a.safetensors") {
    ParameterOp op = parse(text, file);
    return LogicalResult(ParameterArchives(directory.path).find(op));
  };
  expectDiagnosed(find("@w from @a : tensor<3x2xf16>"),
                  "expected tensor 'w' of shape [3, 2] in the archive but got "
                  "[2, 3]");
  expectDiagnosed(find("@w from @a : tensor<2x3xbf16>"),
                  "expected tensor 'w' of type 'bf16' in the archive but got "
                  "F16");
  expectDiagnosed(find("@v from @a : tensor<2x3xf16>"), "cannot be read: ");
  expectDiagnosed(find("@w from @a : tensor<2x3xf16>", "b.safetensors"),
                  "cannot be opened: ");
  ParameterOp dense = parse("@w from @a : tensor<2x3xf16>");
  expectDiagnosed(ParameterArchives(directory.path).findComponents(dense),
                  "expected a parameter of weight type");
}

TEST_F(ParameterArchivesTest, ArchiveOfAFile) {
  parse("@w from @a : tensor<2x3xf16>");
  ParameterArchives archives(directory.path);
  ArchiveOp op = *module->getOps<ArchiveOp>().begin();
  EXPECT_EQ(archives.findArchiveOfFile(*module, directory / "a.safetensors"),
            op);
  EXPECT_FALSE(archives.findArchiveOfFile(*module, directory / "new"));
  // One that cannot be opened is found by its name; nothing is said yet.
  ParameterOp broken = parse("@w from @a : tensor<2x3xf16>", "broken");
  writeFile(directory / "broken", "no archive");
  ParameterArchives others(directory.path);
  EXPECT_TRUE(others.findArchiveOfFile(*module, directory / "broken"));
  EXPECT_FALSE(others.findArchiveOfFile(*module, directory / "a.safetensors"));
  EXPECT_EQ(messages, "");
  expectDiagnosed(others.find(broken), "cannot be opened: ");
}

TEST_F(ParameterArchivesTest, AnArchiveIsDiagnosedOnce) {
  ParameterOp op = parse("@w from @a : tensor<2x3xf16>", "b.safetensors");
  ParameterArchives archives(directory.path);
  expectDiagnosed(archives.find(op), "cannot be opened: ");
  EXPECT_TRUE(failed(archives.find(op)));
  EXPECT_EQ(messages, "");
}

} // namespace
