//===- CpuEngineTest.cpp --------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CPU/CpuEngine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <thread>

#include <unistd.h>

using namespace quant_llm;
namespace fs = std::filesystem;

static const char *const source = R"mlir(
#id = affine_map<(i, j) -> (i, j)>
#row = affine_map<(i) -> (i)>
func.func @add(%a: tensor<?x4xf32>, %b: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %a, %c0 : tensor<?x4xf32>
  %e = tensor.empty(%n) : tensor<?x4xf32>
  %0 = linalg.add ins(%a, %b : tensor<?x4xf32>, tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}
// Writes 2 * x into row `i` of the cache; also returns i + 1.
func.func @append(%cache: tensor<?x4xf32>, %x: tensor<1x4xf32>, %i: index) -> (i64, tensor<?x4xf32>) {
  %s = tensor.extract_slice %cache[%i, 0] [1, 4] [1, 1] : tensor<?x4xf32> to tensor<1x4xf32>
  %0 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<1x4xf32>) outs(%s : tensor<1x4xf32>) {
  ^bb0(%a: f32, %b: f32):
    %t = arith.addf %a, %a : f32
    linalg.yield %t : f32
  } -> tensor<1x4xf32>
  %new = tensor.insert_slice %0 into %cache[%i, 0] [1, 4] [1, 1] : tensor<1x4xf32> into tensor<?x4xf32>
  %j = arith.index_cast %i : index to i64
  %one = arith.constant 1 : i64
  %next = arith.addi %j, %one : i64
  return %next, %new : i64, tensor<?x4xf32>
}
func.func @gather(%table: tensor<?xf32>, %i: tensor<?xi64>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %i, %c0 : tensor<?xi64>
  %e = tensor.empty(%n) : tensor<?xf32>
  %0 = linalg.generic {indexing_maps = [#row, #row], iterator_types = ["parallel"]}
      ins(%i : tensor<?xi64>) outs(%e : tensor<?xf32>) {
  ^bb0(%a: i64, %b: f32):
    %j = arith.index_cast %a : i64 to index
    %t = tensor.extract %table[%j] : tensor<?xf32>
    linalg.yield %t : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @half(%x: f32) -> f32 {
  %h = arith.constant 0.5 : f32
  %0 = arith.mulf %x, %h : f32
  return %0 : f32
}
)mlir";

static CpuEngineOptions withoutCache() {
  CpuEngineOptions options;
  options.useCache = false;
  options.threads = 2;
  return options;
}

static CpuEngine &getEngine() {
  static Result<std::unique_ptr<CpuEngine>> engine =
      CpuEngine::fromMemory(source, withoutCache());
  EXPECT_TRUE(engine.ok()) << engine.message();
  return **engine;
}

static Tensor makeMatrix(int64_t rows, float start) {
  Result<Tensor> tensor = Tensor::allocate(DType::F32, {rows, 4});
  for (int64_t i = 0; i < rows * 4; ++i)
    static_cast<float *>(tensor->data())[i] = start + float(i);
  return tensor.take();
}

static float at(const Tensor &tensor, int64_t index) {
  return static_cast<const float *>(tensor.data())[index];
}

TEST(CpuEngineTest, Signatures) {
  CpuEngine &engine = getEngine();
  ASSERT_EQ(engine.functions().size(), 4u);
  const FunctionSignature *append = engine.findFunction("append");
  ASSERT_TRUE(append);
  EXPECT_EQ(append->arguments[0].describe(), "f32 [?, 4]");
  EXPECT_TRUE(append->arguments[2].isScalar);
  EXPECT_EQ(append->resultAliases, (std::vector<int64_t>{-1, 0}));
  EXPECT_EQ(engine.findFunction("nothing"), nullptr);
}

TEST(CpuEngineTest, AddsAndFreesEverything) {
  int64_t before = getRuntimeMemoryUse().live;
  {
    for (int64_t rows : {0, 1, 3, 1000}) {
      auto results =
          getEngine().invoke("add", {makeMatrix(rows, 1), makeMatrix(rows, 2)});
      ASSERT_TRUE(results.ok()) << results.message();
      EXPECT_EQ((*results)[0].shape(), (std::vector<int64_t>{rows, 4}));
      for (int64_t i = 0; i < rows * 4; ++i)
        ASSERT_EQ(at((*results)[0], i), 3 + 2 * float(i));
    }
  }
  EXPECT_EQ(getRuntimeMemoryUse().live, before);
}

TEST(CpuEngineTest, UpdatesInPlaceOnlyIfAllowed) {
  Tensor cache = makeMatrix(3, 0);
  Tensor row = makeMatrix(1, 10);
  Tensor index = Tensor::scalar<int64_t>(DType::I64, 1);
  auto copied = getEngine().invoke("append", {cache, row, index});
  ASSERT_TRUE(copied.ok()) << copied.message();
  EXPECT_EQ(*static_cast<int64_t *>((*copied)[0].data()), 2);
  EXPECT_NE((*copied)[1].data(), cache.data());
  EXPECT_EQ(at((*copied)[1], 4), 20);
  EXPECT_EQ(at((*copied)[1], 3), 3);
  EXPECT_EQ(at(cache, 4), 4);

  auto updated = getEngine().invoke(
      "append", {Argument(cache, /*inPlace=*/true), row, index});
  ASSERT_TRUE(updated.ok()) << updated.message();
  EXPECT_EQ((*updated)[1].data(), cache.data());
  EXPECT_EQ(at(cache, 4), 20);
  EXPECT_EQ(at(cache, 8), 8);
}

TEST(CpuEngineTest, Scalars) {
  auto results =
      getEngine().invoke("half", {Tensor::scalar<float>(DType::F32, 3)});
  ASSERT_TRUE(results.ok()) << results.message();
  EXPECT_EQ(at((*results)[0], 0), 1.5f);
}

TEST(CpuEngineTest, WrongArgumentsAreErrors) {
  CpuEngine &engine = getEngine();
  auto message = [&](const char *function, std::vector<Argument> arguments) {
    return engine.invoke(function, arguments).message();
  };
  EXPECT_EQ(message("sub", {}),
            "there is no function 'sub' that can be called; expected one of: "
            "add, append, gather, half");
  EXPECT_EQ(message("add", {makeMatrix(1, 0)}),
            "function 'add': expected 2 arguments but got 1");
  EXPECT_EQ(message("half", {Tensor::scalar<double>(DType::F64, 1)}),
            "function 'half': argument 0: expected f32 but got f64 []");
  Tensor wrong = Tensor::allocate(DType::F32, {2, 5}).take();
  EXPECT_EQ(message("add", {makeMatrix(2, 0), wrong}),
            "function 'add': argument 1: expected f32 [?, 4] but got f32 "
            "[2, 5]");
  EXPECT_EQ(message("add", {makeMatrix(2, 0),
                            Tensor::wrap(DType::F32, {2, 4}, nullptr)}),
            "function 'add': argument 1: expected data but got a null pointer");
  float storage[17];
  void *unaligned = reinterpret_cast<char *>(storage) + 1;
  EXPECT_EQ(message("add", {makeMatrix(4, 0),
                            Tensor::wrap(DType::F32, {4, 4}, unaligned)}),
            "function 'add': argument 1: expected data aligned to its element "
            "type");
}

// What no signature can say is checked by the code itself.
TEST(CpuEngineTest, FailedChecksAreErrorsAndLeakNothing) {
  CpuEngine &engine = getEngine();
  int64_t before = getRuntimeMemoryUse().live;
  auto mismatch = engine.invoke("add", {makeMatrix(2, 0), makeMatrix(3, 0)});
  EXPECT_NE(mismatch.message().find("shapes do not fit together"),
            std::string::npos)
      << mismatch.message();
  for (int64_t index : {int64_t(3), int64_t(-1), INT64_MAX, INT64_MIN}) {
    auto outside =
        engine.invoke("append", {makeMatrix(3, 0), makeMatrix(1, 0),
                                 Tensor::scalar<int64_t>(DType::I64, index)});
    EXPECT_FALSE(outside.ok());
  }
  Tensor table = Tensor::allocate(DType::F32, {3}).take();
  Tensor indices = Tensor::allocate(DType::I64, {2}).take();
  static_cast<int64_t *>(indices.data())[1] = 3;
  EXPECT_EQ(engine.invoke("gather", {table, indices}).message(),
            "function 'gather': index 3 is out of range: expected 0 to 2");
  static_cast<int64_t *>(indices.data())[1] = -1;
  EXPECT_EQ(engine.invoke("gather", {table, indices}).message(),
            "function 'gather': index -1 is out of range: expected 0 to 2");
  static_cast<int64_t *>(indices.data())[1] = 2;
  EXPECT_TRUE(engine.invoke("gather", {table, indices}).ok());
  EXPECT_EQ(getRuntimeMemoryUse().live, before);
}

TEST(CpuEngineTest, CallsFromSeveralThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        auto results = getEngine().invoke(
            "add", {makeMatrix(50, float(t)), makeMatrix(50, 1)});
        failures += !results.ok() || at((*results)[0], 0) != float(t) + 1;
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(failures, 0);
}

TEST(CpuEngineTest, BadModulesAreErrors) {
  auto message = [](const char *text) {
    return CpuEngine::fromMemory(text, withoutCache(), "bad.mlir").message();
  };
  EXPECT_EQ(message("func.func @f( {").rfind("bad.mlir:1:14: ", 0), 0u)
      << message("func.func @f( {");
  EXPECT_NE(message("func.func @f() -> i32 { %0 = \"unknown.op\"() : () -> i32 "
                    "return %0 : i32 }"),
            "");
  EXPECT_NE(message(R"(
quant_llm.archive @a "does-not-exist.safetensors"
quant_llm.parameter @w from @a : tensor<4xf32>
func.func @f() -> tensor<4xf32> {
  %0 = quant_llm.get_parameter @w : tensor<4xf32>
  return %0 : tensor<4xf32>
})")
                .find("does-not-exist.safetensors"),
            std::string::npos);
}

TEST(CpuEngineTest, CacheIsUsedAndBounded) {
  fs::path directory = fs::temp_directory_path() /
                       ("quant-llm-cache-test-" + std::to_string(getpid()));
  fs::remove_all(directory);
  CpuEngineOptions options;
  options.cacheDirectory = directory.string();
  {
    auto first = CpuEngine::fromMemory(source, options);
    ASSERT_TRUE(first.ok()) << first.message();
    EXPECT_FALSE((*first)->fromCache());
    auto second = CpuEngine::fromMemory(source, options);
    ASSERT_TRUE(second.ok()) << second.message();
    EXPECT_TRUE((*second)->fromCache());
    auto results =
        (*second)->invoke("add", {makeMatrix(2, 1), makeMatrix(2, 2)});
    ASSERT_TRUE(results.ok()) << results.message();
    EXPECT_EQ(at((*results)[0], 0), 3);
  }
  // Damaged entries are compiled again.
  for (const auto &entry : fs::directory_iterator(directory))
    fs::resize_file(entry.path(), fs::file_size(entry.path()) / 2);
  auto third = CpuEngine::fromMemory(source, options);
  ASSERT_TRUE(third.ok()) << third.message();
  EXPECT_FALSE((*third)->fromCache());
  // Other options are other entries, and the bound holds.
  options.cacheLimitBytes =
      fs::file_size(fs::directory_iterator(directory)->path());
  options.optLevel = 1;
  auto fourth = CpuEngine::fromMemory(source, options);
  ASSERT_TRUE(fourth.ok()) << fourth.message();
  EXPECT_FALSE((*fourth)->fromCache());
  uint64_t total = 0;
  for (const auto &entry : fs::directory_iterator(directory))
    total += fs::file_size(entry.path());
  EXPECT_LE(total, options.cacheLimitBytes);
  fs::remove_all(directory);
}
