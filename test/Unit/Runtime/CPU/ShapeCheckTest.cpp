//===- ShapeCheckTest.cpp - Shapes and indices that do not fit ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Whatever a caller passes, compiled code must not leave its buffers: each
// function is called with what fits, and with what does not.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CPU/CpuEngine.h"

#include <gtest/gtest.h>

#include <cstring>

using namespace quant_llm;

static const char *const source = R"mlir(
func.func @add(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %0 = arith.addf %a, %b : tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @mixed(%a: tensor<?xf32>, %b: tensor<4xf32>) -> tensor<?xf32> {
  %0 = "arith.addf"(%a, %b) : (tensor<?xf32>, tensor<4xf32>) -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @chain(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %0 = math.exp %a : tensor<?xf32>
  %1 = math.fma %0, %a, %0 : tensor<?xf32>
  %2 = arith.maximumf %1, %b : tensor<?xf32>
  return %2 : tensor<?xf32>
}
func.func @maxsi(%a: tensor<?xi32>, %b: tensor<?xi32>) -> tensor<?xi32> {
  %0 = arith.maxsi %a, %b : tensor<?xi32>
  return %0 : tensor<?xi32>
}
func.func @select(%c: i1, %a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %0 = arith.select %c, %a, %b : tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @select_each(%c: tensor<?xi1>, %a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %0 = arith.select %c, %a, %b : tensor<?xi1>, tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @grow(%a: tensor<?xf32>, %b: tensor<?xf32>, %n: index) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %0 = scf.for %i = %c0 to %n step %c1 iter_args(%t = %a) -> (tensor<?xf32>) {
    %s = arith.addf %t, %b : tensor<?xf32>
    %q = tensor.concat dim(0) %s, %b : (tensor<?xf32>, tensor<?xf32>) -> tensor<?xf32>
    scf.yield %q : tensor<?xf32>
  }
  return %0 : tensor<?xf32>
}
func.func @concat(%a: tensor<3x?xf32>, %b: tensor<?x5xf32>) -> tensor<?x?xf32> {
  %0 = tensor.concat dim(1) %a, %b : (tensor<3x?xf32>, tensor<?x5xf32>) -> tensor<?x?xf32>
  return %0 : tensor<?x?xf32>
}
func.func @concat_static(%a: tensor<?x?xf32>, %b: tensor<?x?xf32>) -> tensor<3x7xf32> {
  %0 = tensor.concat dim(1) %a, %b : (tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<3x7xf32>
  return %0 : tensor<3x7xf32>
}
func.func @dim(%a: tensor<?x?xf32>, %i: index) -> index {
  %0 = tensor.dim %a, %i : tensor<?x?xf32>
  return %0 : index
}
func.func @softmax(%a: tensor<?x?xf32>, %d: tensor<?x?xf32>) -> tensor<?x?xf32> {
  %0 = linalg.softmax dimension(1) ins(%a : tensor<?x?xf32>) outs(%d : tensor<?x?xf32>) -> tensor<?x?xf32>
  return %0 : tensor<?x?xf32>
}
func.func @conv(%a: tensor<?xf32>, %w: tensor<?xf32>, %d: tensor<?xf32>) -> tensor<?xf32> {
  %0 = linalg.conv_1d ins(%a, %w : tensor<?xf32>, tensor<?xf32>) outs(%d : tensor<?xf32>) -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @strided(%a: tensor<?x?x?x?xf32>, %w: tensor<?x?x?x?xf32>, %d: tensor<?x?x?x?xf32>) -> tensor<?x?x?x?xf32> {
  %0 = linalg.conv_2d_nhwc_hwcf {strides = dense<2> : tensor<2xi64>}
      ins(%a, %w : tensor<?x?x?x?xf32>, tensor<?x?x?x?xf32>)
      outs(%d : tensor<?x?x?x?xf32>) -> tensor<?x?x?x?xf32>
  return %0 : tensor<?x?x?x?xf32>
}
// Down from 5 in steps of 2, and the same at rests and quotients.
#down = affine_map<(i) -> (-2 * i + 5)>
#rest = affine_map<(i) -> (i mod 4)>
#half = affine_map<(i) -> (i floordiv 2)>
#up = affine_map<(i) -> (i ceildiv 2)>
#third = affine_map<(i) -> (2)>
#id = affine_map<(i) -> (i)>
func.func @down(%a: tensor<?xf32>, %d: tensor<?xf32>) -> tensor<?xf32> {
  %0 = linalg.generic {indexing_maps = [#down, #id], iterator_types = ["parallel"]} ins(%a : tensor<?xf32>) outs(%d : tensor<?xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @rest(%a: tensor<?xf32>, %d: tensor<?xf32>) -> tensor<?xf32> {
  %0 = linalg.generic {indexing_maps = [#rest, #id], iterator_types = ["parallel"]} ins(%a : tensor<?xf32>) outs(%d : tensor<?xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @half(%a: tensor<?xf32>, %d: tensor<?xf32>) -> tensor<?xf32> {
  %0 = linalg.generic {indexing_maps = [#half, #id], iterator_types = ["parallel"]} ins(%a : tensor<?xf32>) outs(%d : tensor<?xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @up(%a: tensor<?xf32>, %d: tensor<?xf32>) -> tensor<?xf32> {
  %0 = linalg.generic {indexing_maps = [#up, #id], iterator_types = ["parallel"]} ins(%a : tensor<?xf32>) outs(%d : tensor<?xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @third(%a: tensor<?xf32>, %d: tensor<?xf32>) -> tensor<?xf32> {
  %0 = linalg.generic {indexing_maps = [#third, #id], iterator_types = ["parallel"]} ins(%a : tensor<?xf32>) outs(%d : tensor<?xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
func.func @pad(%a: tensor<?xf32>, %n: index) -> tensor<8xf32> {
  %zero = arith.constant 0.0 : f32
  %0 = tensor.pad %a low[0] high[%n] {
  ^bb0(%i: index):
    tensor.yield %zero : f32
  } : tensor<?xf32> to tensor<8xf32>
  return %0 : tensor<8xf32>
}
func.func @in_parallel(%a: tensor<?xf32>, %n: index, %step: index) -> tensor<?xf32> {
  %e = arith.constant dense<1.0> : tensor<4xf32>
  %0 = scf.forall (%i) in (%n) shared_outs(%o = %a) -> (tensor<?xf32>) {
    %j = arith.muli %i, %step : index
    scf.forall.in_parallel {
      tensor.parallel_insert_slice %e into %o[%j] [4] [1] : tensor<4xf32> into tensor<?xf32>
    }
  }
  return %0 : tensor<?xf32>
}
func.func @materialize(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %0 = bufferization.materialize_in_destination %a in %b : (tensor<?xf32>, tensor<?xf32>) -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
// A body with a loop does not become a kernel.
func.func @loop_in_body(%a: tensor<?xf32>, %d: tensor<?xf32>, %shift: index) -> tensor<?xf32> {
  %0 = linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]} outs(%d : tensor<?xf32>) {
  ^bb0(%y: f32):
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %i = linalg.index 0 : index
    %sum = scf.for %k = %c0 to %c2 step %c1 iter_args(%s = %y) -> (f32) {
      %j = arith.addi %i, %k : index
      %l = arith.addi %j, %shift : index
      %x = tensor.extract %a[%l] : tensor<?xf32>
      %t = arith.addf %s, %x : f32
      scf.yield %t : f32
    }
    linalg.yield %sum : f32
  } -> tensor<?xf32>
  return %0 : tensor<?xf32>
}
// The flags would allow to forget that the sum may be negative.
func.func @wraps(%a: tensor<?xf32>, %i: index, %j: index) -> f32 {
  %k = arith.addi %i, %j overflow<nsw, nuw> : index
  %0 = tensor.extract %a[%k] : tensor<?xf32>
  return %0 : f32
}
func.func @add_buffers(%a: memref<?xf32>, %d: memref<?xf32>) {
  linalg.add ins(%a, %a : memref<?xf32>, memref<?xf32>) outs(%d : memref<?xf32>)
  return
}
func.func @load(%a: memref<?xf32>, %i: index) -> f32 {
  %0 = memref.load %a[%i] : memref<?xf32>
  return %0 : f32
}
func.func @affine_load(%a: memref<?xf32>, %i: index) -> f32 {
  %0 = affine.load %a[%i + 1] : memref<?xf32>
  return %0 : f32
}
func.func @store(%a: memref<?xf32>, %i: index) {
  %one = arith.constant 1.0 : f32
  memref.store %one, %a[%i] : memref<?xf32>
  return
}
func.func @cast(%a: memref<?xf32>) -> f32 {
  %c3 = arith.constant 3 : index
  %b = memref.cast %a : memref<?xf32> to memref<4xf32>
  %0 = memref.load %b[%c3] : memref<4xf32>
  return %0 : f32
}
func.func @copy(%a: memref<?xf32>, %b: memref<?xf32>) {
  memref.copy %a, %b : memref<?xf32> to memref<?xf32>
  return
}
func.func @view(%a: memref<?xf32>, %at: index, %n: index) -> f32 {
  %c0 = arith.constant 0 : index
  %b = memref.subview %a[%at] [%n] [1] : memref<?xf32> to memref<?xf32, strided<[1], offset: ?>>
  %0 = memref.load %b[%c0] : memref<?xf32, strided<[1], offset: ?>>
  return %0 : f32
}
func.func @expand(%a: memref<?xf32>, %m: index, %n: index) -> f32 {
  %c1 = arith.constant 1 : index
  %b = memref.expand_shape %a [[0, 1]] output_shape [%m, %n] : memref<?xf32> into memref<?x?xf32>
  %0 = memref.load %b[%c1, %c1] : memref<?x?xf32>
  return %0 : f32
}
func.func @alloc(%n: index) -> index {
  %c0 = arith.constant 0 : index
  %b = memref.alloc(%n) : memref<?xf32>
  %0 = memref.dim %b, %c0 : memref<?xf32>
  return %0 : index
}
func.func @as_buffer(%a: tensor<?xf32>) -> tensor<4xf32> {
  %m = bufferization.to_buffer %a : tensor<?xf32> to memref<?xf32>
  %b = memref.cast %m : memref<?xf32> to memref<4xf32>
  %t = bufferization.to_tensor %b restrict : memref<4xf32> to tensor<4xf32>
  return %t : tensor<4xf32>
}
)mlir";

namespace {

/// Shapes of arguments that are tensors, and values of those that are numbers.
struct Value {
  Value(std::vector<int64_t> shape) : shape(std::move(shape)) {}
  Value(int64_t number) : number(number), isNumber(true) {}
  Value(int number) : Value(int64_t(number)) {}

  std::vector<int64_t> shape;
  int64_t number = 0;
  bool isNumber = false;
};

struct Call {
  const char *function;
  std::vector<Value> arguments;
  /// Part of the message; empty if the arguments fit.
  const char *message;
};

} // namespace

using Shape = std::vector<int64_t>;
static constexpr int64_t kLarge = 200000;
static const char *const kShapes = "shapes do not fit together: ";
static const char *const kInside = "out of bounds: ";
static const char *const kNegative =
    "expected offsets and sizes that are not negative";
static const char *const kSize = "expected sizes of a new tensor";

static const Call calls[] = {
    {"add", {Shape{4}, Shape{4}}, ""},
    {"add", {Shape{0}, Shape{0}}, ""},
    {"add", {Shape{4}, Shape{3}}, kShapes},
    {"add", {Shape{3}, Shape{kLarge}}, kShapes},
    {"add", {Shape{kLarge}, Shape{3}}, kShapes},
    {"mixed", {Shape{4}, Shape{4}}, ""},
    {"mixed", {Shape{kLarge}, Shape{4}}, kShapes},
    {"chain", {Shape{5}, Shape{5}}, ""},
    {"chain", {Shape{kLarge}, Shape{2}}, kShapes},
    {"maxsi", {Shape{5}, Shape{5}}, ""},
    {"maxsi", {Shape{kLarge}, Shape{2}}, kShapes},
    {"select", {1, Shape{5}, Shape{5}}, ""},
    {"select", {1, Shape{5}, Shape{6}}, kShapes},
    {"select", {0, Shape{5}, Shape{6}}, kShapes},
    {"select_each", {Shape{2}, Shape{2}, Shape{2}}, ""},
    {"select_each", {Shape{1}, Shape{kLarge}, Shape{kLarge}}, kShapes},
    {"select_each", {Shape{2}, Shape{2}, Shape{3}}, kShapes},
    {"grow", {Shape{2}, Shape{2}, 1}, ""},
    {"grow", {Shape{2}, Shape{2}, 2}, kShapes},
    {"concat", {Shape{3, 2}, Shape{3, 5}}, ""},
    {"concat", {Shape{3, 2}, Shape{2, 5}}, kShapes},
    {"concat", {Shape{3, 2}, Shape{kLarge, 5}}, kShapes},
    {"concat_static", {Shape{3, 2}, Shape{3, 5}}, ""},
    {"concat_static", {Shape{2, 2}, Shape{2, 5}}, kShapes},
    {"concat_static", {Shape{3, 2}, Shape{3, 6}}, kShapes},
    {"concat_static", {Shape{3, 2}, Shape{4, 5}}, kShapes},
    {"dim", {Shape{3, 2}, 1}, ""},
    {"dim", {Shape{3, 2}, 2}, kInside},
    {"dim", {Shape{3, 2}, -1}, kInside},
    {"softmax", {Shape{3, 2}, Shape{3, 2}}, ""},
    {"softmax", {Shape{3, 2}, Shape{3, 1}}, kShapes},
    {"softmax", {Shape{300, 200}, Shape{3, 2}}, kShapes},
    {"conv", {Shape{16}, Shape{4}, Shape{13}}, ""},
    {"conv", {Shape{0}, Shape{4}, Shape{0}}, ""},
    {"conv", {Shape{16}, Shape{4}, Shape{14}}, kShapes},
    {"conv", {Shape{4}, Shape{kLarge}, Shape{1}}, kShapes},
    {"strided", {Shape{1, 8, 9, 3}, Shape{2, 3, 3, 4}, Shape{1, 4, 4, 4}}, ""},
    {"strided",
     {Shape{1, 8, 8, 3}, Shape{2, 3, 3, 4}, Shape{1, 4, 4, 4}},
     kShapes},
    {"strided",
     {Shape{1, 8, 9, 3}, Shape{2, 3, 2, 4}, Shape{1, 4, 4, 4}},
     kShapes},
    {"down", {Shape{6}, Shape{3}}, ""},
    {"down", {Shape{6}, Shape{4}}, kShapes},
    {"down", {Shape{5}, Shape{3}}, kShapes},
    {"down", {Shape{0}, Shape{0}}, ""},
    {"rest", {Shape{4}, Shape{100}}, ""},
    {"rest", {Shape{3}, Shape{3}}, ""},
    {"rest", {Shape{3}, Shape{4}}, kShapes},
    {"half", {Shape{3}, Shape{6}}, ""},
    {"half", {Shape{3}, Shape{7}}, kShapes},
    {"up", {Shape{4}, Shape{6}}, ""},
    {"up", {Shape{3}, Shape{6}}, kShapes},
    {"third", {Shape{3}, Shape{9}}, ""},
    {"third", {Shape{2}, Shape{9}}, kShapes},
    {"third", {Shape{0}, Shape{0}}, ""},
    {"pad", {Shape{3}, 5}, ""},
    {"pad", {Shape{3}, 4}, kShapes},
    {"in_parallel", {Shape{16}, 4, 4}, ""},
    {"in_parallel", {Shape{16}, 5, 4}, kInside},
    {"in_parallel", {Shape{16}, 2, kLarge}, kInside},
    {"in_parallel", {Shape{16}, 2, -1}, kNegative},
    {"materialize", {Shape{4}, Shape{4}}, ""},
    {"materialize", {Shape{kLarge}, Shape{4}}, kShapes},
    {"loop_in_body", {Shape{5}, Shape{4}, 0}, ""},
    {"loop_in_body", {Shape{4}, Shape{4}, 0}, "index 4 is out of range"},
    {"loop_in_body", {Shape{5}, Shape{4}, -1}, "index -1 is out of range"},
    {"loop_in_body", {Shape{5}, Shape{4}, INT64_MAX}, "is out of range"},
    {"wraps", {Shape{5}, 2, 2}, ""},
    {"wraps", {Shape{5}, INT64_MAX, INT64_MAX}, kNegative},
    {"wraps", {Shape{5}, INT64_MAX, 1}, kNegative},
    {"add_buffers", {Shape{4}, Shape{4}}, ""},
    {"add_buffers", {Shape{kLarge}, Shape{4}}, kShapes},
    {"load", {Shape{4}, 3}, ""},
    {"load", {Shape{4}, 4}, kInside},
    {"load", {Shape{4}, -1}, kNegative},
    {"affine_load", {Shape{4}, 2}, ""},
    {"affine_load", {Shape{4}, 3}, kInside},
    {"affine_load", {Shape{4}, -2}, kNegative},
    {"store", {Shape{4}, 3}, ""},
    {"store", {Shape{4}, kLarge}, kInside},
    {"cast", {Shape{4}}, ""},
    {"cast", {Shape{3}}, kShapes},
    {"copy", {Shape{4}, Shape{4}}, ""},
    {"copy", {Shape{kLarge}, Shape{1}}, kShapes},
    {"view", {Shape{4}, 2, 2}, ""},
    {"view", {Shape{4}, 2, 3}, kInside},
    {"view", {Shape{4}, -1, 2}, kNegative},
    {"view", {Shape{4}, 2, 0}, kInside},
    {"expand", {Shape{6}, 2, 3}, ""},
    {"expand", {Shape{6}, 3, 3}, kShapes},
    {"expand", {Shape{6}, -2, -3}, kSize},
    {"alloc", {4}, ""},
    {"alloc", {-4}, kSize},
    {"alloc", {int64_t(1) << 62}, kSize},
    {"as_buffer", {Shape{4}}, ""},
    {"as_buffer", {Shape{3}}, kShapes},
};

static Argument makeArgument(const Value &value, DType dtype) {
  Tensor tensor =
      Tensor::allocate(dtype, value.isNumber ? Shape() : value.shape).take();
  if (value.isNumber)
    std::memcpy(tensor.data(), &value.number, getByteWidth(dtype));
  else if (tensor.numBytes() != 0)
    std::memset(tensor.data(), 0, static_cast<size_t>(tensor.numBytes()));
  return Argument(std::move(tensor));
}

TEST(ShapeCheckTest, NothingLeavesItsBuffer) {
  for (bool reference : {false, true}) {
    CpuEngineOptions options;
    options.useCache = false;
    options.reference = reference;
    auto engine = CpuEngine::fromMemory(source, options);
    ASSERT_TRUE(engine.ok()) << engine.message();
    int64_t before = getRuntimeMemoryUse().live;
    for (size_t i = 0; i < std::size(calls); ++i) {
      const Call &call = calls[i];
      const FunctionSignature *function =
          (*engine)->findFunction(call.function);
      ASSERT_TRUE(function) << call.function;
      ASSERT_EQ(function->arguments.size(), call.arguments.size());
      std::vector<Argument> arguments;
      for (size_t j = 0; j < call.arguments.size(); ++j)
        arguments.push_back(
            makeArgument(call.arguments[j], function->arguments[j].dtype));
      std::string message =
          (*engine)->invoke(call.function, arguments).message();
      if (*call.message == '\0')
        EXPECT_EQ(message, "") << "call " << i << ": " << call.function;
      else
        EXPECT_NE(message.find(call.message), std::string::npos)
            << "call " << i << ": " << call.function << ": " << message;
    }
    EXPECT_EQ(getRuntimeMemoryUse().live, before);
  }
}
