//===- WeightContractionTest.cpp ------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the matcher accepts is tested through the pass that uses it
// (test/Conversion/LinalgToQuantLLM); here is what that pass does not show.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/WeightContraction.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"
#include "gtest/gtest.h"

using namespace mlir;
using namespace quant_llm;

namespace {

class WeightContractionTest : public ::testing::Test {
protected:
  WeightContractionTest() {
    context.loadDialect<arith::ArithDialect, func::FuncDialect,
                        linalg::LinalgDialect, tensor::TensorDialect>();
  }

  /// Parses a function whose first argument is called the weight.
  func::FuncOp parse(StringRef text) {
    module = parseSourceString<ModuleOp>(text, ParserConfig(&context));
    EXPECT_TRUE(module);
    return *module->getOps<func::FuncOp>().begin();
  }

  /// Matches the last linalg op of the function.
  std::optional<WeightContraction> match(StringRef text, std::string &reason) {
    func::FuncOp function = parse(text);
    linalg::LinalgOp last;
    function.walk([&](linalg::LinalgOp op) { last = op; });
    Value weight = function.getArgument(0);
    return matchWeightContraction(
        last, [&](Value value) { return value == weight; }, reason);
  }

  MLIRContext context;
  OwningOpRef<ModuleOp> module;
};

TEST_F(WeightContractionTest, OrderOfDimensions) {
  // y[n, m] = sum_k x[k, m] W[n, k]: both are transposed for a linear.
  std::string reason;
  std::optional<WeightContraction> found = match(
      R"(func.func @f(%w: tensor<8x4xf32>, %x: tensor<4x2xf32>,
                      %y: tensor<8x2xf32>) -> tensor<8x2xf32> {
        %0 = linalg.matmul ins(%w, %x : tensor<8x4xf32>, tensor<4x2xf32>)
                           outs(%y : tensor<8x2xf32>) -> tensor<8x2xf32>
        return %0 : tensor<8x2xf32>
      })",
      reason);
  ASSERT_TRUE(found) << reason;
  EXPECT_EQ(found->activationOrder, (SmallVector<int64_t>{1, 0}));
  EXPECT_EQ(found->resultOrder, (SmallVector<int64_t>{1, 0}));
  EXPECT_FALSE(isZeroFilled(found->init));
}

TEST_F(WeightContractionTest, ReasonsOnlyWhereAWeightIs) {
  const char *text = R"(func.func @f(%w: tensor<4x8xf32>, %x: tensor<4x8xf32>,
                                     %y: tensor<4x8xf32>) -> tensor<4x8xf32> {
    %0 = linalg.add ins(%a, %x : tensor<4x8xf32>, tensor<4x8xf32>)
                    outs(%y : tensor<4x8xf32>) -> tensor<4x8xf32>
    return %0 : tensor<4x8xf32>
  })";
  auto withOperand = [&](StringRef operand) {
    std::string result(text);
    return result.replace(result.find("%a"), 2, operand);
  };
  std::string reason;
  EXPECT_FALSE(match(withOperand("%w"), reason));
  EXPECT_FALSE(reason.empty());
  EXPECT_FALSE(match(withOperand("%x"), reason));
  EXPECT_EQ(reason, "");
}

TEST_F(WeightContractionTest, TracesThroughTransposes) {
  func::FuncOp function = parse(
      R"(func.func @f(%w: tensor<8x4xf16>, %t: tensor<4x8xf16>)
             -> tensor<4x8xf32> {
        %0 = linalg.transpose ins(%w : tensor<8x4xf16>)
                              outs(%t : tensor<4x8xf16>) permutation = [1, 0]
        %1 = arith.extf %0 : tensor<4x8xf16> to tensor<4x8xf32>
        return %1 : tensor<4x8xf32>
      })");
  Value weight = function.getArgument(0);
  Value result = function.getBody().front().getTerminator()->getOperand(0);
  std::optional<TracedTensor> traced =
      traceTensor(result, [&](Value value) { return value == weight; });
  ASSERT_TRUE(traced);
  EXPECT_EQ(traced->source, weight);
  EXPECT_EQ(traced->map,
            AffineMap::getPermutationMap(ArrayRef<int64_t>{1, 0}, &context));
  // A value that nothing accepts leads nowhere.
  EXPECT_FALSE(traceTensor(result, [](Value) { return false; }));
}

TEST_F(WeightContractionTest, ZeroFilled) {
  func::FuncOp function = parse(
      R"(func.func @f(%e: tensor<2x4xf32>) -> (tensor<2x4xf32>,
                                               tensor<2x4xf32>,
                                               tensor<2x4xf32>) {
        %zero = arith.constant 0.0 : f32
        %one = arith.constant 1.0 : f32
        %0 = linalg.fill ins(%zero : f32)
                         outs(%e : tensor<2x4xf32>) -> tensor<2x4xf32>
        %1 = linalg.fill ins(%one : f32)
                         outs(%e : tensor<2x4xf32>) -> tensor<2x4xf32>
        %2 = arith.constant dense<0.0> : tensor<2x4xf32>
        return %0, %1, %2 : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>
      })");
  Operation *end = function.getBody().front().getTerminator();
  EXPECT_TRUE(isZeroFilled(end->getOperand(0)));
  EXPECT_FALSE(isZeroFilled(end->getOperand(1)));
  EXPECT_TRUE(isZeroFilled(end->getOperand(2)));
}

} // namespace
