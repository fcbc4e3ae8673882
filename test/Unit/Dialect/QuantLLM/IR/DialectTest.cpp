//===- DialectTest.cpp - The dialect from C++ -----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/Bytecode/BytecodeReader.h"
#include "mlir/Bytecode/BytecodeWriter.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "llvm/Support/MemoryBuffer.h"
#include "gtest/gtest.h"

using namespace mlir;
using namespace quant_llm;

namespace {

class DialectTest : public ::testing::Test {
protected:
  DialectTest() { context.loadDialect<QuantLLMDialect>(); }

  OwningOpRef<ModuleOp> parse(StringRef text, StringRef file = "") {
    return parseSourceString<ModuleOp>(text, ParserConfig(&context), file);
  }

  MLIRContext context;
};

TEST_F(DialectTest, ArchivePaths) {
  StringRef text = "quant_llm.archive @a \"model.safetensors\"\n"
                   "quant_llm.archive @b \"/else/where.gguf\"\n";
  auto resolve = [&](StringRef file, StringRef baseDir, unsigned index) {
    OwningOpRef<ModuleOp> module = parse(text, file);
    auto archives = llvm::to_vector(module->getOps<ArchiveOp>());
    return resolveArchivePath(archives[index], baseDir);
  };
  EXPECT_EQ(resolve("/models/a/m.mlir", "", 0), "/models/a/model.safetensors");
  EXPECT_EQ(resolve("a/m.mlir", "", 0), "a/model.safetensors");
  EXPECT_EQ(resolve("m.mlir", "", 0), "model.safetensors");
  EXPECT_EQ(resolve("-", "", 0), "model.safetensors");
  EXPECT_EQ(resolve("<stdin>", "", 0), "model.safetensors");
  // An option of a tool comes before the location.
  EXPECT_EQ(resolve("/models/a/m.mlir", "/base", 0), "/base/model.safetensors");
  // An absolute path is what it says.
  EXPECT_EQ(resolve("/models/a/m.mlir", "/base", 1), "/else/where.gguf");
}

TEST_F(DialectTest, ArchivePathsThroughLocations) {
  for (StringRef loc :
       {"loc(\"name\"(\"/m/a.mlir\":1:2))",
        "loc(fused[unknown, \"/m/a.mlir\":1:2])",
        "loc(callsite(\"/m/a.mlir\":1:2 at \"/n/b.mlir\":3:4))"}) {
    OwningOpRef<ModuleOp> module =
        parse(("quant_llm.archive @a \"x.gguf\" " + loc).str(), "/p/c.mlir");
    ASSERT_TRUE(module) << loc.str();
    EXPECT_EQ(resolveArchivePath(*module->getOps<ArchiveOp>().begin()),
              "/m/x.gguf")
        << loc.str();
  }
  OwningOpRef<ModuleOp> module =
      parse("quant_llm.archive @a \"x.gguf\" loc(unknown)", "/p/c.mlir");
  EXPECT_EQ(resolveArchivePath(*module->getOps<ArchiveOp>().begin()), "x.gguf");
}

TEST_F(DialectTest, Windows) {
  using Windows = SmallVector<std::pair<int64_t, int64_t>>;
  auto getWindows = [&](int64_t blocks, int64_t window, int64_t overlap) {
    std::string text =
        "quant_llm.cross_block window = " + std::to_string(window) +
        ", overlap = " + std::to_string(overlap) + " {\n";
    for (int64_t i = 0; i < blocks; ++i)
      text += "quant_llm.block " + std::to_string(i + 5) +
              " \"b\" { quant_llm.yield }\n";
    OwningOpRef<ModuleOp> module = parse(text + "quant_llm.yield }\n");
    return (*module->getOps<CrossBlockOp>().begin()).getWindows();
  };
  EXPECT_EQ(getWindows(4, 2, 1), (Windows{{0, 1}, {1, 2}, {2, 3}}));
  EXPECT_EQ(getWindows(4, 2, 0), (Windows{{0, 1}, {2, 3}}));
  // The last window ends with the last block.
  EXPECT_EQ(getWindows(5, 2, 0), (Windows{{0, 1}, {2, 3}, {3, 4}}));
  EXPECT_EQ(getWindows(5, 4, 1), (Windows{{0, 3}, {1, 4}}));
  EXPECT_EQ(getWindows(3, 1, 0), (Windows{{0, 0}, {1, 1}, {2, 2}}));
  // A window of more blocks than there are is all of them.
  EXPECT_EQ(getWindows(2, 9, 3), (Windows{{0, 1}}));
  EXPECT_EQ(getWindows(1, INT64_MAX, 0), (Windows{{0, 0}}));
}

TEST_F(DialectTest, SchemesOfNumerics) {
  Scheme inner;
  inner.element = {ElementKind::F8E4M3FN, 8, {}};
  inner.blockN = inner.blockK = -1;
  inner.scaleType = quant_llm::FloatType::F32;
  Scheme scheme;
  scheme.element = {ElementKind::Codebook, 1, {-1.0f, 0.5f}};
  scheme.blockN = 2;
  scheme.blockK = 16;
  scheme.scaleScheme = std::make_shared<const Scheme>(inner);
  SchemeAttr attr = SchemeAttr::fromNumerics(&context, scheme);
  ASSERT_TRUE(attr);
  EXPECT_EQ(attr, SchemeAttr::fromNumerics(&context, attr.toNumerics()));
  EXPECT_EQ(attr.getScaleScheme(), SchemeAttr::fromNumerics(&context, inner));
  EXPECT_FALSE(attr.getScaleType());

  auto type = WeightType::get({5, 40}, Float16Type::get(&context), attr);
  EXPECT_EQ(type.getGridN(), 3);
  EXPECT_EQ(type.getGridK(), 3);
  EXPECT_EQ(type.getComponentNames(),
            (SmallVector<StringRef>{"codes", "scales.codes", "scales.scales"}));
  auto shape = [&](unsigned i) {
    return type.getComponentTypes()[i].getShape();
  };
  EXPECT_EQ(shape(0), (ArrayRef<int64_t>{5, 5}));
  EXPECT_EQ(shape(1), (ArrayRef<int64_t>{3, 3}));
  EXPECT_EQ(shape(2), (ArrayRef<int64_t>{1, 1}));
  EXPECT_EQ(type.getStorageBytes(), 25 + 9 + 4);

  Scheme mended = scheme;
  mended.lowRank = 3;
  mended.lowRankType = quant_llm::FloatType::BF16;
  SchemeAttr mendedAttr = SchemeAttr::fromNumerics(&context, mended);
  EXPECT_EQ(mendedAttr,
            SchemeAttr::fromNumerics(&context, mendedAttr.toNumerics()));
  EXPECT_NE(mendedAttr, attr);
  EXPECT_EQ(mendedAttr.withoutLowRank(), attr);
  EXPECT_EQ(WeightType::get({5, 40}, Float16Type::get(&context), mendedAttr)
                .getStorageBytes(),
            25 + 9 + 4 + 2 * 3 * (5 + 40));

  auto packed = WeightType::get({5, 40}, Float16Type::get(&context), attr,
                                FragmentLayoutAttr::get(&context));
  EXPECT_NE(packed, type);
  EXPECT_EQ(
      packed.getComponentNames(),
      (SmallVector<StringRef>{"packed", "packed_scales", "output_scale"}));
  EXPECT_EQ(packed.getStorageBytes(), 4 * 256 + 4 * 3 * 16 + 4);

  // What is not legal is an error, not an assertion.
  scheme.blockK = 0;
  std::string message;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    message = diagnostic.str();
    return success();
  });
  auto emitError = [&] { return mlir::emitError(UnknownLoc::get(&context)); };
  EXPECT_FALSE(SchemeAttr::fromNumericsChecked(emitError, &context, scheme));
  EXPECT_NE(message.find("expected block sizes"), std::string::npos);
}

TEST_F(DialectTest, BytecodeOfANewerVersionIsRefused) {
  OwningOpRef<ModuleOp> module = parse("quant_llm.archive @a \"x.gguf\"");
  std::string bytecode;
  llvm::raw_string_ostream os(bytecode);
  ASSERT_TRUE(succeeded(writeBytecodeToFile(*module, os)));

  // The version is a number of one byte (2 v + 1); find the place where raising
  // it makes the reader say so.
  std::string expected =
      ("expected version " + Twine(kDialectVersion) +
       " or older of dialect quant_llm but got " + Twine(kDialectVersion + 1))
          .str();
  bool refused = false;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    refused |= StringRef(diagnostic.str()).contains(expected);
    return success();
  });
  for (size_t i = 0; i < bytecode.size() && !refused; ++i) {
    if (bytecode[i] != 2 * kDialectVersion + 1)
      continue;
    std::string changed = bytecode;
    changed[i] = 2 * (kDialectVersion + 1) + 1;
    Block block;
    LogicalResult read =
        readBytecodeFile(llvm::MemoryBufferRef(changed, "changed"), &block,
                         ParserConfig(&context));
    EXPECT_FALSE(refused && succeeded(read));
  }
  EXPECT_TRUE(refused);
}

TEST_F(DialectTest, BuildersOfLinear) {
  OpBuilder builder(&context);
  Location loc = builder.getUnknownLoc();
  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  builder.setInsertionPointToStart(module->getBody());
  Type f32 = builder.getF32Type();
  auto get = [&](ArrayRef<int64_t> shape) -> Value {
    return GetParameterOp::create(builder, loc,
                                  RankedTensorType::get(shape, f32), "w");
  };
  Value x = get({2, 4}), w = get({8, 4}), bias = get({8});
  auto result = RankedTensorType::get({2, 8}, f32);
  auto plain = LinearOp::create(builder, loc, result, x, ValueRange(w));
  EXPECT_TRUE(succeeded(plain.verifyInvariants()));
  EXPECT_FALSE(plain.hasEpilogue());
  EXPECT_FALSE(plain.isQuantized());
  EXPECT_EQ(plain.getN(), 8);
  EXPECT_EQ(plain.getK(), 4);
  auto gated = LinearOp::create(
      builder, loc, result, x, ValueRange{w, w}, ValueRange(bias),
      [](OpBuilder &builder, Location loc, ValueRange args) {
        ASSERT_EQ(args.size(), 3u);
        YieldOp::create(builder, loc, args[2]);
      });
  EXPECT_TRUE(succeeded(gated.verifyInvariants()));
  EXPECT_TRUE(succeeded(gated.verifyRegions()));
}

} // namespace
