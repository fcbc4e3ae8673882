//===- EpilogueFormula.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CUDA/EpilogueFormula.h"

#include <algorithm>
#include <cmath>

using namespace quant_llm;
using namespace quant_llm::cuda;

namespace {

using Unary = double (*)(double);
using Binary = double (*)(double, double);

/// NaN if one of them is, unlike the functions of the C library.
double takeNaN(double x, double y, double otherwise) {
  return std::isnan(x) ? x : std::isnan(y) ? y : otherwise;
}

double same(double x) { return x; }

const std::pair<const char *, Unary> unaryOps[] = {
    // Conversions and the result.
    {"arith.extf", same},
    {"arith.truncf", same},
    {"quant_llm.yield", same},
    {"arith.negf", [](double x) { return -x; }},
    {"math.absf", [](double x) { return std::fabs(x); }},
    {"math.acos", [](double x) { return std::acos(x); }},
    {"math.asin", [](double x) { return std::asin(x); }},
    {"math.atan", [](double x) { return std::atan(x); }},
    {"math.cbrt", [](double x) { return std::cbrt(x); }},
    {"math.ceil", [](double x) { return std::ceil(x); }},
    {"math.cos", [](double x) { return std::cos(x); }},
    {"math.cosh", [](double x) { return std::cosh(x); }},
    {"math.erf", [](double x) { return std::erf(x); }},
    {"math.erfc", [](double x) { return std::erfc(x); }},
    {"math.exp", [](double x) { return std::exp(x); }},
    {"math.exp2", [](double x) { return std::exp2(x); }},
    {"math.expm1", [](double x) { return std::expm1(x); }},
    {"math.floor", [](double x) { return std::floor(x); }},
    {"math.log", [](double x) { return std::log(x); }},
    {"math.log10", [](double x) { return std::log10(x); }},
    {"math.log1p", [](double x) { return std::log1p(x); }},
    {"math.log2", [](double x) { return std::log2(x); }},
    {"math.rsqrt", [](double x) { return 1 / std::sqrt(x); }},
    {"math.sin", [](double x) { return std::sin(x); }},
    {"math.sinh", [](double x) { return std::sinh(x); }},
    {"math.sqrt", [](double x) { return std::sqrt(x); }},
    {"math.tan", [](double x) { return std::tan(x); }},
    {"math.tanh", [](double x) { return std::tanh(x); }},
    {"math.trunc", [](double x) { return std::trunc(x); }},
};

const std::pair<const char *, Binary> binaryOps[] = {
    {"arith.addf", [](double x, double y) { return x + y; }},
    {"arith.subf", [](double x, double y) { return x - y; }},
    {"arith.mulf", [](double x, double y) { return x * y; }},
    {"arith.divf", [](double x, double y) { return x / y; }},
    {"arith.maximumf",
     [](double x, double y) { return takeNaN(x, y, std::fmax(x, y)); }},
    {"arith.minimumf",
     [](double x, double y) { return takeNaN(x, y, std::fmin(x, y)); }},
    {"arith.maxnumf", [](double x, double y) { return std::fmax(x, y); }},
    {"arith.minnumf", [](double x, double y) { return std::fmin(x, y); }},
    {"math.atan2", [](double x, double y) { return std::atan2(x, y); }},
    {"math.copysign", [](double x, double y) { return std::copysign(x, y); }},
    {"math.powf", [](double x, double y) { return std::pow(x, y); }},
};

/// Of arith.cmpf: those with u hold for numbers that are no numbers, too.
const std::pair<const char *, Binary> predicates[] = {
    {"oeq", [](double x, double y) -> double { return x == y; }},
    {"ogt", [](double x, double y) -> double { return x > y; }},
    {"oge", [](double x, double y) -> double { return x >= y; }},
    {"olt", [](double x, double y) -> double { return x < y; }},
    {"ole", [](double x, double y) -> double { return x <= y; }},
    {"one", [](double x, double y) -> double { return x < y || x > y; }},
    {"une", [](double x, double y) -> double { return x != y; }},
    {"ule", [](double x, double y) -> double { return !(x > y); }},
    {"ult", [](double x, double y) -> double { return !(x >= y); }},
    {"uge", [](double x, double y) -> double { return !(x < y); }},
    {"ugt", [](double x, double y) -> double { return !(x <= y); }},
    {"ueq", [](double x, double y) -> double { return !(x < y || x > y); }},
};

template <typename Table>
auto find(const Table &table, const std::string &op) {
  auto it = std::find_if(std::begin(table), std::end(table),
                         [&](const auto &entry) { return op == entry.first; });
  return it == std::end(table) ? nullptr : it->second;
}

Binary findBinary(const FormulaStep &step) {
  return step.op == "arith.cmpf" ? find(predicates, step.predicate)
                                 : find(binaryOps, step.op);
}

/// How many arguments an op has, -1 if it is not known.
int getArity(const FormulaStep &step) {
  if (step.op == "arith.constant")
    return 0;
  if (step.op == "arith.select" || step.op == "math.fma")
    return 3;
  if (findBinary(step))
    return 2;
  return find(unaryOps, step.op) ? 1 : -1;
}

} // namespace

Result<EpilogueFormula>
EpilogueFormula::create(const LinearDescription &linear) {
  if (linear.formula.empty() &&
      (linear.weights.size() != 1 || !linear.epilogue.empty()))
    return Status::error("expected the manifest to say what the epilogue "
                         "computes ('formula'); compile the artifact again");
  for (const FormulaStep &step : linear.formula)
    if (getArity(step) != static_cast<int>(step.arguments.size()))
      return Status::error(
          "expected ops in the epilogue whose meaning is known "
          "here but got '" +
          step.op + "' of " + std::to_string(step.arguments.size()) +
          " arguments");
  EpilogueFormula formula;
  formula.steps = linear.formula;
  return formula;
}

std::string EpilogueFormula::getSummary() const {
  std::string text;
  for (const FormulaStep &step : steps)
    if (find(unaryOps, step.op) != same && step.op != "arith.constant")
      text +=
          (text.empty() ? "" : ", ") + step.op.substr(step.op.find('.') + 1);
  return text;
}

void EpilogueFormula::evaluate(const std::vector<const double *> &sums,
                               const std::vector<const double *> &operands,
                               int64_t count, double *results) const {
  size_t size = static_cast<size_t>(count);
  if (steps.empty()) {
    std::copy(sums[0], sums[0] + size, results);
    return;
  }
  std::vector<double> values(steps.size() * size);
  for (size_t i = 0; i < steps.size(); ++i) {
    const FormulaStep &step = steps[i];
    const double *from[3] = {};
    for (size_t j = 0; j < step.arguments.size(); ++j) {
      const FormulaArgument &argument = step.arguments[j];
      from[j] = argument.kind == FormulaArgument::Kind::Sum
                    ? sums[argument.index]
                : argument.kind == FormulaArgument::Kind::Operand
                    ? operands[argument.index]
                    : values.data() + argument.index * size;
    }
    double *to = values.data() + i * size;
    if (step.op == "arith.constant") {
      std::fill(to, to + size, step.value);
    } else if (step.op == "arith.select") {
      for (size_t e = 0; e < size; ++e)
        to[e] = from[0][e] != 0 ? from[1][e] : from[2][e];
    } else if (step.op == "math.fma") {
      for (size_t e = 0; e < size; ++e)
        to[e] = from[0][e] * from[1][e] + from[2][e];
    } else if (Binary binary = findBinary(step)) {
      for (size_t e = 0; e < size; ++e)
        to[e] = binary(from[0][e], from[1][e]);
    } else {
      std::transform(from[0], from[0] + size, to, find(unaryOps, step.op));
    }
  }
  std::copy(values.end() - count, values.end(), results);
}
