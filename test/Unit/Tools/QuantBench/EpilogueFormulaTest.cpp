//===- EpilogueFormulaTest.cpp --------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../../Runtime/CUDA/TestArtifact.h"

#include "EpilogueFormula.h"

#include <cmath>
#include <limits>

using namespace quant_llm;
using namespace quant_llm::bench;
using namespace quant_llm::cuda;
using namespace quant_llm::test;
using nlohmann::json;

/// A linear of the test artifact, with a formula that is not looked at when a
/// manifest is read.
static LinearDescription readLinear(size_t index, const json &formula) {
  TestArtifact artifact;
  artifact.manifest["linears"][index]["formula"] = formula;
  Result<Manifest> manifest = parseManifest(artifact.manifest.dump());
  EXPECT_TRUE(manifest.ok()) << manifest.message();
  return manifest->linears[index];
}

/// Of the pair.
static Result<EpilogueFormula> readFormula(const json &formula) {
  return EpilogueFormula::create(readLinear(0, formula));
}

static double apply(const json &steps, double sum0, double sum1,
                    double operand0) {
  Result<EpilogueFormula> formula = readFormula(steps);
  EXPECT_TRUE(formula.ok()) << formula.message();
  double other = 1000;
  double result = NAN;
  formula->evaluate({&sum0, &sum1}, {&operand0, &other}, 1, &result);
  return result;
}

static json step(const char *op, json arguments) {
  return {{"op", op}, {"args", std::move(arguments)}};
}

static json compare(const char *predicate) {
  json made = step("arith.cmpf", {"sum0", "sum1"});
  made["predicate"] = predicate;
  return made;
}

TEST(EpilogueFormulaTest, Ops) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  auto unary = [](const char *op, double x) {
    return apply({step(op, {"sum0"}), step("quant_llm.yield", {0})}, x, 0, 0);
  };
  EXPECT_EQ(unary("arith.negf", 3), -3);
  EXPECT_EQ(unary("arith.extf", 0.1), 0.1);
  EXPECT_EQ(unary("arith.truncf", 0.1), 0.1);
  EXPECT_EQ(unary("math.absf", -3), 3);
  EXPECT_EQ(unary("math.exp", 1), std::exp(1.0));
  EXPECT_EQ(unary("math.erf", 0.5), std::erf(0.5));
  EXPECT_EQ(unary("math.tanh", 0.5), std::tanh(0.5));
  EXPECT_EQ(unary("math.rsqrt", 4), 0.5);
  EXPECT_EQ(unary("math.floor", -1.5), -2);
  EXPECT_EQ(unary("math.round", 2.5), 3);
  EXPECT_EQ(unary("math.roundeven", 2.5), 2);
  const double infinity = std::numeric_limits<double>::infinity();
  for (double x : {1.0, infinity, nan}) {
    EXPECT_EQ(unary("math.isfinite", x), x == 1);
    EXPECT_EQ(unary("math.isinf", x), x == infinity);
    EXPECT_EQ(unary("math.isnan", x), x != x);
  }
  auto binary = [](const char *op, double x, double y) {
    return apply({step(op, {"sum0", "sum1"}), step("quant_llm.yield", {0})}, x,
                 y, 0);
  };
  EXPECT_EQ(binary("arith.addf", 3, 4), 7);
  EXPECT_EQ(binary("arith.subf", 3, 4), -1);
  EXPECT_EQ(binary("arith.mulf", 3, 4), 12);
  EXPECT_EQ(binary("arith.divf", 3, 4), 0.75);
  EXPECT_EQ(binary("arith.remf", -7, 4), -3);
  EXPECT_EQ(binary("math.powf", 3, 4), 81);
  EXPECT_EQ(binary("math.copysign", 3, -4), -3);
  EXPECT_EQ(binary("arith.maximumf", 3, 4), 4);
  EXPECT_EQ(binary("arith.minimumf", 3, 4), 3);
  EXPECT_TRUE(std::isnan(binary("arith.maximumf", 3, nan)));
  EXPECT_TRUE(std::isnan(binary("arith.minimumf", nan, 3)));
  EXPECT_EQ(binary("arith.maxnumf", 3, nan), 3);
  EXPECT_EQ(binary("arith.minnumf", nan, 3), 3);
  EXPECT_EQ(apply({step("math.fma", {"sum0", "sum1", "epilogue0"}),
                   step("quant_llm.yield", {0})},
                  3, 4, 5),
            17);
  for (double x : {-7.0, 3.5, 7.0})
    EXPECT_EQ(apply({step("math.clampf", {"sum0", "sum1", "epilogue0"}),
                     step("quant_llm.yield", {0})},
                    x, -2, 5),
              std::fmin(std::fmax(x, -2), 5));
  EXPECT_EQ(apply({{{"op", "arith.constant"}, {"value", "-inf"}},
                   step("quant_llm.yield", {0})},
                  3, 4, 5),
            -std::numeric_limits<double>::infinity());
}

TEST(EpilogueFormulaTest, Comparisons) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    const char *predicate;
    bool less, equal, greater, unordered;
  };
  for (const Case &test : {Case{"oeq", false, true, false, false},
                           {"ogt", false, false, true, false},
                           {"oge", false, true, true, false},
                           {"olt", true, false, false, false},
                           {"ole", true, true, false, false},
                           {"one", true, false, true, false},
                           {"ueq", false, true, false, true},
                           {"ugt", false, false, true, true},
                           {"uge", false, true, true, true},
                           {"ult", true, false, false, true},
                           {"ule", true, true, false, true},
                           {"une", true, false, true, true},
                           {"ord", true, true, true, false},
                           {"uno", false, false, false, true},
                           {"true", true, true, true, true},
                           {"false", false, false, false, false}}) {
    // 1 or 2: of selection by the comparison.
    json steps = {compare(test.predicate),
                  {{"op", "arith.constant"}, {"value", 1}},
                  {{"op", "arith.constant"}, {"value", 2}},
                  step("arith.select", {0, 1, 2}),
                  step("quant_llm.yield", {3})};
    EXPECT_EQ(apply(steps, 1, 2, 0) == 1, test.less) << test.predicate;
    EXPECT_EQ(apply(steps, 2, 2, 0) == 1, test.equal) << test.predicate;
    EXPECT_EQ(apply(steps, 3, 2, 0) == 1, test.greater) << test.predicate;
    EXPECT_EQ(apply(steps, nan, 2, 0) == 1, test.unordered) << test.predicate;
    EXPECT_EQ(apply(steps, 2, nan, 0) == 1, test.unordered) << test.predicate;
  }
}

TEST(EpilogueFormulaTest, ManyElements) {
  // silu(sum0) * sum1 + epilogue1
  json steps = {step("arith.negf", {"sum0"}),
                step("math.exp", {0}),
                {{"op", "arith.constant"}, {"value", 1}},
                step("arith.addf", {1, 2}),
                step("arith.divf", {"sum0", 3}),
                step("arith.mulf", {4, "sum1"}),
                step("arith.addf", {5, "epilogue1"}),
                step("quant_llm.yield", {6})};
  Result<EpilogueFormula> formula = readFormula(steps);
  ASSERT_TRUE(formula.ok()) << formula.message();
  EXPECT_FALSE(formula->isIdentity());
  EXPECT_EQ(formula->getSummary(), "negf, exp, addf, divf, mulf, addf");
  std::vector<double> gate, up, bias(5, 100), residual, results(5);
  for (int i = 0; i < 5; ++i) {
    gate.push_back(i - 2);
    up.push_back(3 * i + 1);
    residual.push_back(0.5 * i);
  }
  formula->evaluate({gate.data(), up.data()}, {bias.data(), residual.data()}, 5,
                    results.data());
  for (size_t i = 0; i < 5; ++i)
    EXPECT_DOUBLE_EQ(results[i],
                     gate[i] / (1 + std::exp(-gate[i])) * up[i] + residual[i]);
}

TEST(EpilogueFormulaTest, NoEpilogue) {
  TestArtifact artifact;
  Result<Manifest> manifest = parseManifest(artifact.manifest.dump());
  ASSERT_TRUE(manifest.ok()) << manifest.message();
  Result<EpilogueFormula> formula =
      EpilogueFormula::create(manifest->linears[2]);
  ASSERT_TRUE(formula.ok()) << formula.message();
  EXPECT_TRUE(formula->isIdentity());
  const double sums[] = {1, 2, 3};
  double results[3];
  formula->evaluate({sums}, {}, 3, results);
  EXPECT_EQ(results[2], 3);
  // A pair without a formula.
  expectError(EpilogueFormula::create(manifest->linears[0]).status(),
              "expected the manifest to say what the epilogue computes "
              "('formula'); compile the artifact again");
}

TEST(EpilogueFormulaTest, ConversionsAreNoEpilogue) {
  const json converted = {step("arith.truncf", {"sum0"}),
                          step("arith.extf", {0}),
                          step("quant_llm.yield", {1})};
  const json negated = {step("arith.negf", {"sum0"}), step("arith.truncf", {0}),
                        step("quant_llm.yield", {1})};
  auto isIdentity = [](size_t linear, const json &steps) {
    Result<EpilogueFormula> formula =
        EpilogueFormula::create(readLinear(linear, steps));
    EXPECT_TRUE(formula.ok()) << formula.message();
    return formula->isIdentity();
  };
  EXPECT_TRUE(isIdentity(2, converted));
  EXPECT_TRUE(isIdentity(2, json::array({step("quant_llm.yield", {"sum0"})})));
  EXPECT_FALSE(isIdentity(2, negated));
  // Of two weights there is a choice.
  EXPECT_FALSE(isIdentity(0, converted));
  // An operand is no sum.
  EXPECT_FALSE(
      isIdentity(0, json::array({step("quant_llm.yield", {"epilogue0"})})));
}

TEST(EpilogueFormulaTest, Errors) {
  const json yield = step("quant_llm.yield", {0});
  const std::pair<json, const char *> rejected[] = {
      {json::array({1}), "step 0 of the formula: expected an object"},
      {json::array({yield}),
       "expected sumI of a weight, epilogueI of an operand or the "
       "number of an earlier step but got 0"},
      {{step("arith.negf", {"sum2"}), yield}, "but got \"sum2\""},
      {{step("arith.negf", {"epilogue2"}), yield}, "but got \"epilogue2\""},
      {{step("arith.negf", {"sum"}), yield}, "but got \"sum\""},
      {{step("arith.negf", {-1}), yield}, "but got -1"},
      {{step("arith.negf", {1}), yield}, "but got 1"},
      {{step("arith.negf", {0.5}), yield}, "but got 0.5"},
      {{step("arith.negf", json::array({nullptr})), yield}, "but got null"},
      {json::array({step("arith.negf", {"sum0"})}),
       "expected the last step of the formula, and no other, to be "
       "quant_llm.yield but got 'arith.negf'"},
      {{step("quant_llm.yield", {"sum0"}), yield}, "but got 'quant_llm.yield'"},
      {json::array({step("quant_llm.yield", {"sum0", "sum1"})}),
       "expected 1 argument of 'quant_llm.yield' but got 2"},
      {json::array({step("quant_llm.yield", json::array())}), "but got 0"},
      {{{{"op", "arith.constant"}, {"value", "many"}}, yield},
       "expected 'value' to be a number, inf, -inf or nan but got \"many\""},
      {{{{"op", "arith.constant"}, {"value", nullptr}}, yield}, "but got null"},
      {{{{"op", "arith.constant"}}, yield}, "'value'"},
      {json::array({json::object()}), "expected a field 'op'"},
      {json::array(), "expected 'formula' to end with quant_llm.yield but it "
                      "has no steps"},
      {json::object(),
       "expected 'formula' to be an array of steps but got object"},
      {json(std::vector<json>(4097, step("arith.negf", {"sum0"}))),
       "expected at most 4096 steps of the formula but got 4097"},
      {{step("math.surprise", {"sum0"}), yield},
       "step 0 of the formula: expected an op whose meaning is known here but "
       "got 'math.surprise'"},
      {{step("arith.addf", {"sum0"}), yield},
       "expected 2 arguments of 'arith.addf' but got 1"},
      {{step("arith.constant", {"sum0"}), yield},
       "expected 0 arguments of 'arith.constant' but got 1"},
      {{compare("maybe"), yield},
       "expected a predicate whose meaning is known here but got 'maybe'"},
      {{step("arith.cmpf", {"sum0", "sum1"}), yield}, "'predicate'"},
  };
  for (const auto &[steps, message] : rejected)
    expectError(readFormula(steps).status(), message);
}
