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
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
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

//===----------------------------------------------------------------------===//
// Failures inside of loops
//===----------------------------------------------------------------------===//

static Result<std::unique_ptr<CpuEngine>> compile(const char *text,
                                                  bool reference = false) {
  CpuEngineOptions options = withoutCache();
  options.reference = reference;
  return CpuEngine::fromMemory(text, options, "test.mlir");
}

static Tensor makeVector(int64_t size, float value) {
  Result<Tensor> tensor = Tensor::allocate(DType::F32, {size});
  for (int64_t i = 0; i < size; ++i)
    static_cast<float *>(tensor->data())[i] = value;
  return tensor.take();
}

static Tensor index(int64_t value) {
  return Tensor::scalar<int64_t>(DType::I64, value);
}

// The kernel of this function needs a row of `n` elements per thread.
TEST(CpuEngineTest, NoMemoryInParallelRegions) {
  auto engine = compile(R"mlir(
#whole = affine_map<(i, j) -> (i, j)>
#row = affine_map<(i, j) -> (i)>
func.func @f(%x: tensor<?xf32>, %n: index) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %m = tensor.dim %x, %c0 : tensor<?xf32>
  %e = tensor.empty(%m, %n) : tensor<?x?xf32>
  %wide = linalg.generic {indexing_maps = [#row, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?xf32>) outs(%e : tensor<?x?xf32>) {
  ^bb0(%a: f32, %o: f32):
    %i = linalg.index 1 : index
    %j = arith.index_cast %i : index to i32
    %k = arith.sitofp %j : i32 to f32
    %t = arith.addf %a, %k : f32
    linalg.yield %t : f32
  } -> tensor<?x?xf32>
  %s = tensor.empty(%m) : tensor<?xf32>
  %f = linalg.fill ins(%zero : f32) outs(%s : tensor<?xf32>) -> tensor<?xf32>
  %max = linalg.generic {indexing_maps = [#whole, #row], iterator_types = ["parallel", "reduction"]}
      ins(%wide : tensor<?x?xf32>) outs(%f : tensor<?xf32>) {
  ^bb0(%a: f32, %acc: f32):
    %t = arith.maximumf %a, %acc : f32
    linalg.yield %t : f32
  } -> tensor<?xf32>
  %r = linalg.generic {indexing_maps = [#whole, #row, #row], iterator_types = ["parallel", "reduction"]}
      ins(%wide, %max : tensor<?x?xf32>, tensor<?xf32>) outs(%f : tensor<?xf32>) {
  ^bb0(%a: f32, %b: f32, %acc: f32):
    %t = arith.divf %a, %b : f32
    %u = arith.addf %t, %acc : f32
    linalg.yield %u : f32
  } -> tensor<?xf32>
  return %r : tensor<?xf32>
}
)mlir");
  ASSERT_TRUE(engine.ok()) << engine.message();
  int64_t before = getRuntimeMemoryUse().live;
  for (int repeat = 0; repeat < 3; ++repeat) {
    // More bytes than addresses: no system has them.
    auto failed =
        (*engine)->invoke("f", {makeVector(64, 1), index(int64_t(1) << 48)});
    EXPECT_EQ(failed.message(), "function 'f': not enough memory");
    EXPECT_EQ(getRuntimeMemoryUse().live, before);
    // Threads work on as before: (1 + 2 + ... + 4096) / 4096 per row.
    auto results = (*engine)->invoke("f", {makeVector(64, 1), index(4096)});
    ASSERT_TRUE(results.ok()) << results.message();
    for (int64_t i = 0; i < 64; ++i)
      EXPECT_NEAR(at((*results)[0], i), 2048.5f, 0.05f);
  }
  EXPECT_EQ(getRuntimeMemoryUse().live, before);
}

TEST(CpuEngineTest, FailuresInParallelLoopsOfTheProgram) {
  for (bool reference : {false, true}) {
    auto engine = compile(R"mlir(
#id = affine_map<(i) -> (i)>
func.func @slices(%x: tensor<?xf32>, %step: index) -> tensor<100x4xf32> {
  %e = tensor.empty() : tensor<100x4xf32>
  %r = scf.forall (%i) in (100) shared_outs(%o = %e) -> tensor<100x4xf32> {
    %at = arith.muli %i, %step : index
    %s = tensor.extract_slice %x[%at] [4] [1] : tensor<?xf32> to tensor<4xf32>
    scf.forall.in_parallel {
      tensor.parallel_insert_slice %s into %o[%i, 0] [1, 4] [1, 1] : tensor<4xf32> into tensor<100x4xf32>
    }
  }
  return %r : tensor<100x4xf32>
}
func.func @allocs(%x: memref<?xf32>, %n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c100 = arith.constant 100 : index
  scf.parallel (%i) = (%c0) to (%c100) step (%c1) {
    %m = memref.alloc(%n) : memref<?xf32>
    %v = memref.load %x[%c0] : memref<?xf32>
    memref.store %v, %m[%c0] : memref<?xf32>
    %w = memref.load %m[%c0] : memref<?xf32>
    memref.store %w, %x[%i] : memref<?xf32>
  }
  return
}
)mlir",
                          reference);
    ASSERT_TRUE(engine.ok()) << engine.message();
    int64_t before = getRuntimeMemoryUse().live;
    {
      auto inside = (*engine)->invoke("slices", {makeVector(400, 2), index(4)});
      ASSERT_TRUE(inside.ok()) << inside.message();
      EXPECT_EQ(at((*inside)[0], 399), 2);
    }
    auto outside = (*engine)->invoke("slices", {makeVector(396, 2), index(4)});
    EXPECT_NE(outside.message().find("out of bounds"), std::string::npos)
        << outside.message();
    auto memory = (*engine)->invoke(
        "allocs", {makeVector(100, 1), index(int64_t(1) << 60)});
    EXPECT_EQ(memory.message(), "function 'allocs': not enough memory");
    EXPECT_TRUE(
        (*engine)->invoke("allocs", {makeVector(100, 1), index(8)}).ok());
    EXPECT_EQ(getRuntimeMemoryUse().live, before);
  }
}

TEST(CpuEngineTest, AssertsAreErrorsOfTheCall) {
  for (bool reference : {false, true}) {
    auto engine = compile(R"mlir(
#id = affine_map<(i) -> (i)>
#conv = affine_map<(i, j) -> (i + j)>
#first = affine_map<(i, j) -> (i)>
#second = affine_map<(i, j) -> (j)>
func.func @outside(%x: i64) -> i64 {
  %c9 = arith.constant 9 : i64
  %ok = arith.cmpi slt, %x, %c9 : i64
  cf.assert %ok, "x is not small"
  return %x : i64
}
// As front ends write gathers.
func.func @body(%x: tensor<?xf32>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %n = tensor.dim %x, %c0 : tensor<?xf32>
  %e = tensor.empty(%n) : tensor<?xf32>
  %y = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : tensor<?xf32>) outs(%e : tensor<?xf32>) {
  ^bb0(%a: f32, %o: f32):
    %ok = arith.cmpf oge, %a, %zero : f32
    cf.assert %ok, "an element is negative"
    %t = arith.addf %a, %a : f32
    linalg.yield %t : f32
  } -> tensor<?xf32>
  return %y : tensor<?xf32>
}
// No kernel is made of this one.
func.func @window(%x: tensor<8xf32>, %k: tensor<3xf32>) -> tensor<6xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<6xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<6xf32>) -> tensor<6xf32>
  %y = linalg.generic {indexing_maps = [#conv, #second, #first], iterator_types = ["parallel", "reduction"]}
      ins(%x, %k : tensor<8xf32>, tensor<3xf32>) outs(%f : tensor<6xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %ok = arith.cmpf oge, %a, %zero : f32
    cf.assert %ok, "an element of the window is negative"
    %t = arith.mulf %a, %b : f32
    %u = arith.addf %t, %o : f32
    linalg.yield %u : f32
  } -> tensor<6xf32>
  return %y : tensor<6xf32>
}
)mlir",
                          reference);
    ASSERT_TRUE(engine.ok()) << engine.message();
    int64_t before = getRuntimeMemoryUse().live;
    auto message = [&](const char *function, std::vector<Argument> arguments) {
      return (*engine)->invoke(function, arguments).message();
    };
    EXPECT_EQ(message("outside", {index(8)}), "");
    EXPECT_EQ(
        message("outside", {index(9)}),
        "function 'outside': test.mlir:9:3: x is not small: expected less "
        "than 9 but got 9");
    EXPECT_EQ(
        message("outside", {index(INT64_MAX)}),
        "function 'outside': test.mlir:9:3: x is not small: expected less "
        "than 9 but got 9223372036854775807");
    // On one thread and on several.
    for (int64_t size : {int64_t(10), int64_t(1) << 20}) {
      Tensor x = makeVector(size, 1);
      EXPECT_EQ(message("body", {x}), "");
      static_cast<float *>(x.data())[size - 1] = -1;
      EXPECT_EQ(message("body", {x}),
                "function 'body': test.mlir:22:5: an element is negative");
    }
    Tensor x = makeVector(8, 1), k = makeVector(3, 1);
    EXPECT_EQ(message("window", {x, k}), "");
    static_cast<float *>(x.data())[7] = -1;
    EXPECT_EQ(message("window", {x, k}),
              "function 'window': test.mlir:37:5: an element of the window is "
              "negative");
    EXPECT_EQ(getRuntimeMemoryUse().live, before);
  }
}

TEST(CpuEngineTest, ShiftsByTheWidthAreErrorsOfTheCall) {
  for (bool reference : {false, true}) {
    auto engine = compile(R"mlir(
func.func @left(%x: i64, %n: i64) -> i64 {
  %0 = arith.shli %x, %n : i64
  return %0 : i64
}
func.func @right(%x: i64, %n: i64) -> i64 {
  %0 = arith.shrsi %x, %n : i64
  %1 = arith.shrui %x, %n : i64
  %2 = arith.addi %0, %1 : i64
  return %2 : i64
}
func.func @index(%x: index, %n: index) -> index {
  %0 = index.shl %x, %n
  return %0 : index
}
func.func @element(%x: tensor<4xf32>, %n: i64) -> f32 {
  %c1 = arith.constant 1 : i64
  %0 = arith.shli %c1, %n : i64
  %1 = arith.index_cast %0 : i64 to index
  %2 = tensor.extract %x[%1] : tensor<4xf32>
  return %2 : f32
}
func.func @tensors(%x: tensor<?xf32>, %n: tensor<?xf32>) -> tensor<?xf32> {
  %0 = arith.fptosi %x : tensor<?xf32> to tensor<?xi32>
  %1 = arith.fptosi %n : tensor<?xf32> to tensor<?xi32>
  %2 = arith.shli %0, %1 : tensor<?xi32>
  %3 = arith.sitofp %2 : tensor<?xi32> to tensor<?xf32>
  return %3 : tensor<?xf32>
}
)mlir",
                          reference);
    ASSERT_TRUE(engine.ok()) << engine.message();
    auto expectFault = [&](const char *function, Argument x, Argument n) {
      std::string message = (*engine)->invoke(function, {x, n}).message();
      EXPECT_NE(message.find("expected an amount below the width"),
                std::string::npos)
          << function << ": " << message;
    };
    for (const char *function : {"left", "right", "index"}) {
      EXPECT_EQ((*engine)->invoke(function, {index(7), index(63)}).message(),
                "");
      expectFault(function, index(7), index(64));
      expectFault(function, index(7), index(-1));
    }
    Tensor x = makeVector(4, 3), n = makeVector(4, 31);
    expectFault("element", x, index(64));
    EXPECT_EQ((*engine)->invoke("element", {x, index(1)}).message(), "");
    EXPECT_EQ((*engine)->invoke("tensors", {x, n}).message(), "");
    static_cast<float *>(n.data())[3] = 32;
    expectFault("tensors", x, n);
  }
}

TEST(CpuEngineTest, IntegersOfAnyNumber) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> numbers{
      std::nanf(""), infinity, -infinity, 1e30f,  -1e30f, 127.9f, -128.9f,
      128.0f,        -129.0f,  -0.5f,     255.9f, 256.0f, 3.7f};
  const int32_t most = INT32_MAX, least = INT32_MIN;
  const std::map<std::string, std::vector<int32_t>> expected{
      {"narrow",
       {0, 127, -128, 127, -128, 127, -128, 127, -128, 0, 127, 127, 3}},
      {"unsigned", {0, 255, 0, 255, 0, 127, 0, 128, 0, 0, 255, 255, 3}},
      {"wide",
       {0, most, least, most, least, 127, -128, 128, -129, 0, 255, 256, 3}},
      {"named",
       {0, most, least, most, least, 127, -128, 128, -129, 0, 255, 256, 3}},
      // Of f16, which has no 1e30, and rounds 127.9.
      {"half",
       {0, most, least, most, least, 127, -128, 128, -129, 0, 255, 256, 3}}};
  for (bool reference : {false, true}) {
    auto engine = compile(R"mlir(
func.func @narrow(%x: tensor<?xf32>) -> tensor<?xi32> {
  %0 = arith.fptosi %x : tensor<?xf32> to tensor<?xi8>
  %1 = arith.extsi %0 : tensor<?xi8> to tensor<?xi32>
  return %1 : tensor<?xi32>
}
func.func @unsigned(%x: tensor<?xf32>) -> tensor<?xi32> {
  %0 = arith.fptoui %x : tensor<?xf32> to tensor<?xi8>
  %1 = arith.extui %0 : tensor<?xi8> to tensor<?xi32>
  return %1 : tensor<?xi32>
}
func.func @wide(%x: tensor<?xf32>) -> tensor<?xi32> {
  %0 = arith.fptosi %x : tensor<?xf32> to tensor<?xi32>
  return %0 : tensor<?xi32>
}
func.func @half(%x: tensor<?xf32>) -> tensor<?xi32> {
  %0 = arith.truncf %x : tensor<?xf32> to tensor<?xf16>
  %1 = arith.fptosi %0 : tensor<?xf16> to tensor<?xi32>
  return %1 : tensor<?xi32>
}
func.func @named(%x: tensor<13xf32>) -> tensor<13xi32> {
  %one = arith.constant dense<1.0> : tensor<1x1xf32>
  %zero = arith.constant dense<0> : tensor<13x1xi32>
  %column = tensor.expand_shape %x [[0, 1]] output_shape [13, 1]
      : tensor<13xf32> into tensor<13x1xf32>
  %0 = linalg.matmul ins(%column, %one : tensor<13x1xf32>, tensor<1x1xf32>)
      outs(%zero : tensor<13x1xi32>) -> tensor<13x1xi32>
  %1 = tensor.collapse_shape %0 [[0, 1]]
      : tensor<13x1xi32> into tensor<13xi32>
  return %1 : tensor<13xi32>
}
func.func @element(%t: tensor<4xf32>, %x: tensor<1xf32>) -> f32 {
  %c0 = arith.constant 0 : index
  %0 = tensor.extract %x[%c0] : tensor<1xf32>
  %1 = arith.mulf %0, %0 fastmath<nnan,ninf> : f32
  %2 = arith.fptosi %1 : f32 to i64
  %3 = arith.index_cast %2 : i64 to index
  %4 = tensor.extract %t[%3] : tensor<4xf32>
  return %4 : f32
}
)mlir",
                          reference);
    ASSERT_TRUE(engine.ok()) << engine.message();
    Tensor x = Tensor::allocate(DType::F32, {int64_t(numbers.size())}).take();
    std::copy(numbers.begin(), numbers.end(), static_cast<float *>(x.data()));
    for (const auto &[function, values] : expected) {
      auto results = (*engine)->invoke(function, {x});
      ASSERT_TRUE(results.ok()) << results.message();
      const auto *found = static_cast<const int32_t *>((*results)[0].data());
      for (size_t i = 0; i < numbers.size(); ++i)
        EXPECT_EQ(found[i], values[i]) << function << " of " << numbers[i];
    }
    // An index may be of such a number: it is outside, or 0.
    auto call = [&](float number) {
      return (*engine)
          ->invoke("element", {makeVector(4, 3), makeVector(1, number)})
          .message();
    };
    EXPECT_EQ(call(1.5f), "");
    EXPECT_EQ(call(std::nanf("")), "");
    for (float number : {2.0f, 1e15f, 1e30f, infinity})
      EXPECT_NE(call(number).find("out of bounds"), std::string::npos)
          << number << ": " << call(number);
  }
}

TEST(CpuEngineTest, PositionsInVectorsAreChecked) {
  auto engine = compile(R"mlir(
func.func @extract(%t: tensor<4xf32>, %i: index) -> f32 {
  %v = arith.constant dense<[3, 2, 1, 0]> : vector<4xindex>
  %0 = vector.extract %v[%i] : index from vector<4xindex>
  %1 = tensor.extract %t[%0] : tensor<4xf32>
  return %1 : f32
}
func.func @insert(%t: tensor<4xf32>, %i: index) -> f32 {
  %v = arith.constant dense<2> : vector<2x4xindex>
  %0 = vector.insert %i, %v[1, %i] : index into vector<2x4xindex>
  %1 = vector.extract %0[1, 3] : index from vector<2x4xindex>
  %2 = tensor.extract %t[%1] : tensor<4xf32>
  return %2 : f32
}
)mlir",
                        /*reference=*/false);
  ASSERT_TRUE(engine.ok()) << engine.message();
  for (const char *function : {"extract", "insert"}) {
    auto call = [&](int64_t position) {
      return (*engine)
          ->invoke(function, {makeVector(4, 1), index(position)})
          .message();
    };
    EXPECT_EQ(call(0), "");
    EXPECT_EQ(call(3), "");
    EXPECT_NE(call(4).find("inside its tensor, buffer or vector"),
              std::string::npos)
        << call(4);
    EXPECT_NE(call(-1).find("not negative"), std::string::npos) << call(-1);
  }
}

TEST(CpuEngineTest, DivisionsThatTrapAreErrorsOfTheCall) {
  for (bool reference : {false, true}) {
    auto engine = compile(R"mlir(
#id = affine_map<(i) -> (i)>
func.func @div(%x: i64, %y: i64) -> i64 {
  %0 = arith.divsi %x, %y : i64
  return %0 : i64
}
func.func @rem(%x: i64, %y: i64) -> i64 {
  %0 = arith.remsi %x, %y : i64
  return %0 : i64
}
func.func @ceil(%x: i64, %y: i64) -> i64 {
  %0 = arith.ceildivsi %x, %y : i64
  return %0 : i64
}
func.func @unsigned(%x: i64, %y: i64) -> i64 {
  %0 = arith.divui %x, %y : i64
  %1 = arith.remui %x, %y : i64
  %2 = arith.addi %0, %1 : i64
  return %2 : i64
}
func.func @index(%x: index, %y: index) -> index {
  %0 = index.floordivs %x, %y
  return %0 : index
}
func.func @map(%x: index, %y: index) -> index {
  %0 = affine.apply affine_map<(d0)[s0] -> (d0 floordiv s0)>(%x)[%y]
  return %0 : index
}
func.func @loop(%x: i64, %n: index, %y: i64) -> i64 {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = scf.for %i = %c0 to %n step %c1 iter_args(%s = %x) -> i64 {
    %t = arith.divsi %x, %y : i64
    %u = arith.addi %s, %t : i64
    scf.yield %u : i64
  }
  return %r : i64
}
func.func @tensors(%x: tensor<?xi32>, %y: tensor<?xi32>) -> tensor<?xi32> {
  %0 = arith.divsi %x, %y : tensor<?xi32>
  return %0 : tensor<?xi32>
}
func.func @named(%x: tensor<4xi32>, %y: tensor<4xi32>) -> tensor<4xi32> {
  %e = tensor.empty() : tensor<4xi32>
  %0 = linalg.div ins(%x, %y : tensor<4xi32>, tensor<4xi32>) outs(%e : tensor<4xi32>) -> tensor<4xi32>
  return %0 : tensor<4xi32>
}
func.func @body(%x: tensor<4xi32>, %y: i32) -> tensor<4xi32> {
  %e = tensor.empty() : tensor<4xi32>
  %0 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : tensor<4xi32>) outs(%e : tensor<4xi32>) {
  ^bb0(%a: i32, %o: i32):
    %r = arith.remsi %a, %y : i32
    linalg.yield %r : i32
  } -> tensor<4xi32>
  return %0 : tensor<4xi32>
}
)mlir",
                          reference);
    ASSERT_TRUE(engine.ok()) << engine.message();
    auto call = [&](const char *function, std::vector<Argument> arguments) {
      return (*engine)->invoke(function, arguments).message();
    };
    auto expectFault = [&](const char *function,
                           std::vector<Argument> arguments) {
      std::string message = call(function, std::move(arguments));
      EXPECT_NE(message.find("expected a divisor other than zero"),
                std::string::npos)
          << function << ": " << message;
    };
    for (const char *function : {"div", "rem", "ceil", "unsigned", "index"}) {
      EXPECT_EQ(call(function, {index(7), index(2)}), "") << function;
      expectFault(function, {index(7), index(0)});
    }
    for (const char *function : {"div", "rem", "ceil", "index"}) {
      expectFault(function, {index(INT64_MIN), index(-1)});
      EXPECT_EQ(call(function, {index(INT64_MIN + 1), index(-1)}), "");
    }
    EXPECT_EQ(call("unsigned", {index(INT64_MIN), index(-1)}), "");
    EXPECT_EQ(call("map", {index(7), index(2)}), "");
    expectFault("map", {index(7), index(0)});
    EXPECT_EQ(call("loop", {index(7), index(3), index(2)}), "");
    // What is not executed does not fail.
    EXPECT_EQ(call("loop", {index(7), index(0), index(0)}), "");
    expectFault("loop", {index(7), index(3), index(0)});

    auto make = [](std::initializer_list<int32_t> values) {
      Tensor tensor =
          Tensor::allocate(DType::I32, {int64_t(values.size())}).take();
      std::copy(values.begin(), values.end(),
                static_cast<int32_t *>(tensor.data()));
      return tensor;
    };
    Tensor x = make({7, -7, INT32_MIN, 0});
    for (const char *function : {"tensors", "named"}) {
      auto results = (*engine)->invoke(function, {x, make({2, 2, 1, 5})});
      ASSERT_TRUE(results.ok()) << results.message();
      const int32_t *y = static_cast<const int32_t *>((*results)[0].data());
      EXPECT_EQ(y[0], 3);
      EXPECT_EQ(y[1], -3);
      EXPECT_EQ(y[2], INT32_MIN);
      expectFault(function, {x, make({2, 2, 1, 0})});
      expectFault(function, {x, make({2, 2, -1, 1})});
    }
    Tensor divisor = Tensor::allocate(DType::I32, {}).take();
    *static_cast<int32_t *>(divisor.data()) = 4;
    EXPECT_EQ(call("body", {x, divisor}), "");
    *static_cast<int32_t *>(divisor.data()) = 0;
    expectFault("body", {x, divisor});
  }
}

TEST(CpuEngineTest, DivisionsInMapsThatTrapAreErrorsOfTheCall) {
  for (bool reference : {false, true}) {
    auto engine = compile(R"mlir(
func.func @min(%x: index, %y: index) -> index {
  %0 = affine.min affine_map<(d0)[s0] -> (d0 floordiv s0, 100)>(%x)[%y]
  return %0 : index
}
func.func @max(%x: index, %y: index) -> index {
  %0 = affine.max affine_map<(d0)[s0] -> (d0 mod s0, -5)>(%x)[%y]
  return %0 : index
}
func.func @for(%x: index, %y: index) -> index {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = affine.for %i = 0 to affine_map<()[s0, s1] -> (s0 ceildiv s1)>()[%x, %y] iter_args(%s = %c0) -> index {
    %t = arith.addi %s, %c1 : index
    affine.yield %t : index
  }
  return %r : index
}
func.func @if(%x: index, %y: index) -> index {
  %c3 = arith.constant 3 : index
  %0 = affine.if affine_set<()[s0, s1] : (s0 floordiv s1 - 3 >= 0)>()[%x, %y] -> index {
    affine.yield %c3 : index
  } else {
    affine.yield %x : index
  }
  return %0 : index
}
func.func @delinearize(%x: index, %y: index) -> index {
  %0:2 = affine.delinearize_index %x into (4, %y) : index, index
  return %0#0 : index
}
)mlir",
                          reference);
    ASSERT_TRUE(engine.ok()) << engine.message();
    for (auto [function, expected] :
         {std::pair<const char *, int64_t>{"min", 3},
          {"max", 1},
          {"for", 4},
          {"if", 3},
          {"delinearize", 3}}) {
      auto results = (*engine)->invoke(function, {index(7), index(2)});
      ASSERT_TRUE(results.ok()) << function << ": " << results.message();
      EXPECT_EQ(*static_cast<const int64_t *>((*results)[0].data()), expected)
          << function;
      std::string message =
          (*engine)->invoke(function, {index(7), index(0)}).message();
      EXPECT_NE(message.find("expected a divisor other than zero"),
                std::string::npos)
          << function << ": " << message;
    }
  }
}

TEST(CpuEngineTest, LoopsWithoutAStepAreErrorsOfTheCall) {
  for (bool reference : {false, true}) {
    auto engine = compile(R"mlir(
func.func @for(%n: index, %step: index) -> index {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %r = scf.for %i = %c0 to %n step %step iter_args(%s = %c0) -> index {
    %t = arith.addi %s, %c1 : index
    scf.yield %t : index
  }
  return %r : index
}
func.func @narrow(%n: i64, %step: i64) -> i64 {
  %c0 = arith.constant 0 : i64
  %c1 = arith.constant 1 : i64
  %r = scf.for %i = %c0 to %n step %step iter_args(%s = %c0) -> i64 : i64 {
    %t = arith.addi %s, %c1 : i64
    scf.yield %t : i64
  }
  return %r : i64
}
func.func @parallel(%n: index, %step: index) -> i64 {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %r = scf.parallel (%i) = (%c0) to (%n) step (%step) init (%zero) -> i64 {
    scf.reduce(%one : i64) {
    ^bb0(%a: i64, %b: i64):
      %t = arith.addi %a, %b : i64
      scf.reduce.return %t : i64
    }
  }
  return %r : i64
}
func.func @forall(%n: index, %step: index) -> tensor<8xf32> {
  %e = arith.constant dense<1.0> : tensor<8xf32>
  %one = arith.constant dense<2.0> : tensor<1xf32>
  %0 = scf.forall (%i) = (0) to (%n) step (%step) shared_outs(%o = %e) -> tensor<8xf32> {
    scf.forall.in_parallel {
      tensor.parallel_insert_slice %one into %o[%i] [1] [1] : tensor<1xf32> into tensor<8xf32>
    }
  }
  return %0 : tensor<8xf32>
}
)mlir",
                          reference);
    ASSERT_TRUE(engine.ok()) << engine.message();
    for (const char *function : {"for", "narrow", "parallel", "forall"}) {
      auto results = (*engine)->invoke(function, {index(7), index(2)});
      ASSERT_TRUE(results.ok()) << function << ": " << results.message();
      if (function != std::string("forall")) {
        EXPECT_EQ(*static_cast<const int64_t *>((*results)[0].data()), 4)
            << function;
      }
      for (int64_t step : {0, -1}) {
        std::string message =
            (*engine)->invoke(function, {index(7), index(step)}).message();
        EXPECT_NE(message.find("expected a positive step of scf."),
                  std::string::npos)
            << function << ": " << message;
      }
    }
  }
}

//===----------------------------------------------------------------------===//
// Shapes that are no shapes
//===----------------------------------------------------------------------===//

TEST(CpuEngineTest, SizesOfNewTensors) {
  auto engine = compile(R"mlir(
func.func @empty(%m: index, %n: index) -> tensor<?x?xf32> {
  %e = tensor.empty(%m, %n) : tensor<?x?xf32>
  return %e : tensor<?x?xf32>
}
func.func @line(%n: index) -> tensor<?x0xf32> {
  %e = tensor.empty(%n) : tensor<?x0xf32>
  return %e : tensor<?x0xf32>
}
func.func @expand(%x: tensor<?xf32>, %m: index, %n: index) -> tensor<?x?xf32> {
  %y = tensor.expand_shape %x [[0, 1]] output_shape [%m, %n] : tensor<?xf32> into tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}
func.func @reshape(%x: tensor<?xf32>, %s: tensor<2xi64>) -> tensor<?x?xf32> {
  %y = tensor.reshape %x(%s) : (tensor<?xf32>, tensor<2xi64>) -> tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}
func.func @stride(%x: tensor<?xf32>, %o: index, %n: index, %s: index) -> tensor<?xf32> {
  %y = tensor.extract_slice %x[%o] [%n] [%s] : tensor<?xf32> to tensor<?xf32>
  return %y : tensor<?xf32>
}
func.func @pad(%x: tensor<?xf32>, %low: index, %high: index) -> tensor<?xf32> {
  %zero = arith.constant 0.0 : f32
  %y = tensor.pad %x low[%low] high[%high] {
  ^bb0(%i: index):
    tensor.yield %zero : f32
  } : tensor<?xf32> to tensor<?xf32>
  return %y : tensor<?xf32>
}
)mlir");
  ASSERT_TRUE(engine.ok()) << engine.message();
  int64_t before = getRuntimeMemoryUse().live;
  auto shape = [&](const char *function, std::vector<Argument> arguments) {
    auto results = (*engine)->invoke(function, arguments);
    return results.ok() ? describeShape((*results)[0].shape())
                        : results.message();
  };
  auto expectFailure = [&](const char *function,
                           std::vector<Argument> arguments, const char *text) {
    std::string message = (*engine)->invoke(function, arguments).message();
    EXPECT_NE(message.find(text), std::string::npos)
        << function << ": " << message;
  };
  constexpr int64_t huge = int64_t(1) << 32;
  EXPECT_EQ(shape("empty", {index(2), index(0)}), "[2, 0]");
  EXPECT_EQ(shape("empty", {index(2), index(3)}), "[2, 3]");
  for (auto [m, n] : std::vector<std::pair<int64_t, int64_t>>{
           {-1, 3}, {3, -1}, {-2, -3}, {huge, huge}, {INT64_MIN, 0}})
    expectFailure("empty", {index(m), index(n)},
                  "expected sizes of a new tensor");
  EXPECT_EQ(shape("line", {index(3)}), "[3, 0]");
  expectFailure("line", {index(-3)}, "that are not negative");
  Tensor six = makeVector(6, 1), none = makeVector(0, 1);
  EXPECT_EQ(shape("expand", {six, index(2), index(3)}), "[2, 3]");
  expectFailure("expand", {six, index(-2), index(-3)},
                "expected sizes of a new tensor");
  expectFailure("expand", {none, index(huge), index(huge)},
                "expected sizes of a new tensor");
  expectFailure("expand", {six, index(2), index(4)}, "do not fit together");
  Tensor extents = Tensor::allocate(DType::I64, {2}).take();
  int64_t *extent = static_cast<int64_t *>(extents.data());
  extent[0] = 2, extent[1] = 3;
  EXPECT_EQ(shape("reshape", {six, extents}), "[2, 3]");
  extent[1] = 4;
  expectFailure("reshape", {six, extents}, "do not fit together");
  extent[0] = -2, extent[1] = -3;
  expectFailure("reshape", {six, extents}, "expected sizes of a new tensor");
  EXPECT_EQ(shape("stride", {six, index(1), index(3), index(2)}), "[3]");
  expectFailure("stride", {six, index(1), index(4), index(2)}, "out of bounds");
  expectFailure("stride", {six, index(1), index(2), index(INT64_MAX)},
                "out of bounds");
  for (int64_t step : {int64_t(0), int64_t(-1), INT64_MIN})
    expectFailure("stride", {six, index(1), index(1), index(step)},
                  "expected strides of slices that are positive");
  EXPECT_EQ(shape("pad", {six, index(1), index(2)}), "[9]");
  for (int64_t amount : {int64_t(-1), INT64_MIN, INT64_MAX})
    for (bool low : {false, true})
      expectFailure("pad",
                    {six, index(low ? amount : 0), index(low ? 0 : amount)},
                    "expected sizes of a new tensor");
  EXPECT_EQ(getRuntimeMemoryUse().live, before);
}

// What a function on buffers returns need not be what its type promises.
TEST(CpuEngineTest, ResultsAreChecked) {
  auto engine = compile(R"mlir(
memref.global "private" constant @table : memref<4xf32> = dense<1.0>
func.func @global() -> memref<4xf32> {
  %0 = memref.get_global @table : memref<4xf32>
  return %0 : memref<4xf32>
}
func.func @same(%x: memref<4xf32>) -> memref<4xf32> {
  return %x : memref<4xf32>
}
func.func @twice() -> (memref<4xf32>, memref<4xf32>) {
  %0 = memref.alloc() : memref<4xf32>
  return %0, %0 : memref<4xf32>, memref<4xf32>
}
func.func @part(%n: index) -> memref<?xf32> {
  %0 = memref.alloc() : memref<4xf32>
  %1 = memref.subview %0[0] [%n] [1] : memref<4xf32> to memref<?xf32, strided<[1]>>
  %2 = memref.cast %1 : memref<?xf32, strided<[1]>> to memref<?xf32>
  return %2 : memref<?xf32>
}
)mlir");
  ASSERT_TRUE(engine.ok()) << engine.message();
  int64_t before = getRuntimeMemoryUse().live;
  Tensor x = makeVector(4, 5);
  for (int repeat = 0; repeat < 2; ++repeat) {
    (void)(*engine)->invoke("global", {});
    (void)(*engine)->invoke("same", {x});
    EXPECT_EQ(at(x, 3), 5);
    auto twice = (*engine)->invoke("twice", {});
    EXPECT_TRUE(twice.ok()) << twice.message();
    auto four = (*engine)->invoke("part", {index(4)});
    EXPECT_TRUE(four.ok()) << four.message();
    for (int64_t size : {int64_t(1) << 20, int64_t(-1), INT64_MAX})
      EXPECT_FALSE((*engine)->invoke("part", {index(size)}).ok()) << size;
  }
  EXPECT_EQ(getRuntimeMemoryUse().live, before);
}

TEST(CpuEngineTest, NamesOfTheRuntimeAreReserved) {
  for (const char *name :
       {"__quant_llm_fail_check", "__quant_llm_call_f", "__quant_llm_allocate",
        "_mlir_memref_to_llvm_aligned_alloc", "_mlir_ciface_f"}) {
    std::string text = "func.func @" + std::string(name) +
                       "(%x: i64) { return }\nfunc.func @f() { return }";
    EXPECT_NE(compile(text.c_str()).message().find("belong to the runtime"),
              std::string::npos)
        << name;
  }
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

/// Compiles, and tells whether the cache had the object.
static bool isCached(const CpuEngineOptions &options) {
  auto engine = CpuEngine::fromMemory(source, options);
  EXPECT_TRUE(engine.ok()) << engine.message();
  return engine.ok() && (*engine)->fromCache();
}

// What is loaded is executed, so others must not be able to write it.
TEST(CpuEngineTest, CacheOfOthersIsNotUsed) {
  fs::path directory = fs::temp_directory_path() /
                       ("quant-llm-cache-trust-" + std::to_string(getpid()));
  fs::remove_all(directory);
  CpuEngineOptions options;
  options.cacheDirectory = directory.string();
  EXPECT_FALSE(isCached(options));
  EXPECT_TRUE(isCached(options));
  fs::path path = fs::directory_iterator(directory)->path();
  auto expectReplaced = [&] {
    EXPECT_FALSE(isCached(options));
    EXPECT_TRUE(isCached(options));
  };
  // A file that others may write to.
  fs::permissions(path, fs::perms::group_write, fs::perm_options::add);
  expectReplaced();
  fs::permissions(path, fs::perms::others_write, fs::perm_options::add);
  expectReplaced();
  EXPECT_EQ(fs::status(path).permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
  // A link to elsewhere.
  fs::path elsewhere = directory / "elsewhere";
  fs::rename(path, elsewhere);
  fs::create_symlink(elsewhere, path);
  expectReplaced();
  EXPECT_FALSE(fs::is_symlink(path));
  // The entry of another module.
  options.optLevel = 1;
  EXPECT_FALSE(isCached(options));
  for (const auto &entry : fs::directory_iterator(directory))
    if (entry.path() != path && entry.path() != elsewhere)
      fs::copy_file(path, entry.path(), fs::copy_options::overwrite_existing);
  expectReplaced();
  // A file of another user, which only root can make.
  if (geteuid() == 0) {
    for (const auto &entry : fs::directory_iterator(directory))
      ASSERT_EQ(chown(entry.path().c_str(), 12345, 12345), 0);
    expectReplaced();
  }
  // A directory in which others may replace files.
  fs::permissions(directory, fs::perms::others_write, fs::perm_options::add);
  EXPECT_FALSE(isCached(options));
  EXPECT_FALSE(isCached(options));
  fs::permissions(directory, fs::perms::others_write, fs::perm_options::remove);
  EXPECT_TRUE(isCached(options));
  fs::remove_all(directory);
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
  // So are entries of which any byte changed, be it of the code.
  {
    fs::path path = fs::directory_iterator(directory)->path();
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-100, std::ios::end);
    int byte = file.get();
    file.seekp(-100, std::ios::end);
    file.put(char(byte ^ 1));
  }
  EXPECT_FALSE(isCached(options));
  EXPECT_TRUE(isCached(options));
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
