//===- EpilogueFormula.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EpilogueFormula.h"

#include "quant-llm/Support/Json.h"
#include "quant-llm/Support/JsonFields.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

using namespace quant_llm;
using namespace quant_llm::bench;
using namespace quant_llm::cuda;
using nlohmann::json;

/// Values of all steps are kept for a tile of elements: 64 MB of a thread.
static constexpr size_t maxSteps = 4096;

//===----------------------------------------------------------------------===//
// Ops
//===----------------------------------------------------------------------===//

using Unary = double (*)(double);
using Binary = double (*)(double, double);
using Ternary = double (*)(double, double, double);

/// NaN if one of them is, unlike the functions of the C library.
static double takeNaN(double x, double y, double otherwise) {
  return std::isnan(x) ? x : std::isnan(y) ? y : otherwise;
}

static double maximum(double x, double y) {
  return takeNaN(x, y, std::fmax(x, y));
}

static double minimum(double x, double y) {
  return takeNaN(x, y, std::fmin(x, y));
}

static double same(double x) { return x; }

static constexpr std::pair<const char *, Unary> unaryOps[] = {
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
    {"math.isfinite", [](double x) -> double { return std::isfinite(x); }},
    {"math.isinf", [](double x) -> double { return std::isinf(x); }},
    {"math.isnan", [](double x) -> double { return std::isnan(x); }},
    {"math.round", [](double x) { return std::round(x); }},
    {"math.roundeven", [](double x) { return std::nearbyint(x); }},
    {"math.rsqrt", [](double x) { return 1 / std::sqrt(x); }},
    {"math.sin", [](double x) { return std::sin(x); }},
    {"math.sinh", [](double x) { return std::sinh(x); }},
    {"math.sqrt", [](double x) { return std::sqrt(x); }},
    {"math.tan", [](double x) { return std::tan(x); }},
    {"math.tanh", [](double x) { return std::tanh(x); }},
    {"math.trunc", [](double x) { return std::trunc(x); }},
};

static constexpr std::pair<const char *, Binary> binaryOps[] = {
    {"arith.addf", [](double x, double y) { return x + y; }},
    {"arith.subf", [](double x, double y) { return x - y; }},
    {"arith.mulf", [](double x, double y) { return x * y; }},
    {"arith.divf", [](double x, double y) { return x / y; }},
    {"arith.remf", [](double x, double y) { return std::fmod(x, y); }},
    {"arith.maximumf", maximum},
    {"arith.minimumf", minimum},
    {"arith.maxnumf", [](double x, double y) { return std::fmax(x, y); }},
    {"arith.minnumf", [](double x, double y) { return std::fmin(x, y); }},
    {"math.atan2", [](double x, double y) { return std::atan2(x, y); }},
    {"math.copysign", [](double x, double y) { return std::copysign(x, y); }},
    {"math.powf", [](double x, double y) { return std::pow(x, y); }},
};

static constexpr std::pair<const char *, Ternary> ternaryOps[] = {
    {"arith.select",
     [](double x, double y, double z) { return x != 0 ? y : z; }},
    {"math.clampf", [](double x, double low,
                       double high) { return minimum(maximum(x, low), high); }},
    {"math.fma", [](double x, double y, double z) { return x * y + z; }},
};

/// Of arith.cmpf: those with u hold for numbers that are no numbers, too.
static constexpr std::pair<const char *, Binary> predicates[] = {
    {"false", [](double, double) -> double { return 0; }},
    {"true", [](double, double) -> double { return 1; }},
    {"ord",
     [](double x, double y) -> double {
       return !std::isnan(x) && !std::isnan(y);
     }},
    {"uno",
     [](double x, double y) -> double {
       return std::isnan(x) || std::isnan(y);
     }},
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
static auto find(const Table &table, const std::string &op) {
  auto it = std::find_if(std::begin(table), std::end(table),
                         [&](const auto &entry) { return op == entry.first; });
  return it == std::end(table) ? nullptr : it->second;
}

static Binary findBinary(const EpilogueFormula::Step &step) {
  return step.op == "arith.cmpf" ? find(predicates, step.predicate)
                                 : find(binaryOps, step.op);
}

/// How many arguments an op has, nothing if it is not known.
static std::optional<size_t> getArity(const std::string &op) {
  if (op == "arith.constant")
    return 0;
  if (find(unaryOps, op))
    return 1;
  if (op == "arith.cmpf" || find(binaryOps, op))
    return 2;
  if (find(ternaryOps, op))
    return 3;
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// "sum0", "epilogue1", or the number of an earlier step.
static std::optional<EpilogueFormula::Argument>
parseArgument(const json &value, size_t numSteps,
              const LinearDescription &linear) {
  using Kind = EpilogueFormula::Argument::Kind;
  EpilogueFormula::Argument made;
  if (value.is_number_integer()) {
    if (value < 0 || value >= numSteps)
      return std::nullopt;
    made.index = value.get<size_t>();
    return made;
  }
  if (!value.is_string())
    return std::nullopt;
  std::string text = value.get<std::string>();
  const std::tuple<const char *, Kind, size_t> names[] = {
      {"sum", Kind::Sum, linear.weights.size()},
      {"epilogue", Kind::Operand, linear.epilogue.size()}};
  for (const auto &[name, kind, count] : names)
    for (made.index = 0; made.index < count; ++made.index)
      if (text == name + std::to_string(made.index)) {
        made.kind = kind;
        return made;
      }
  return std::nullopt;
}

/// A number, or one of those that JSON does not have.
static std::optional<double> parseConstant(const json &value) {
  if (value.is_number())
    return value.get<double>();
  for (const auto &[name, number] :
       {std::pair("inf", INFINITY), {"-inf", -INFINITY}, {"nan", NAN}})
    if (value == name)
      return number;
  return std::nullopt;
}

static std::string print(const json &value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

static Result<EpilogueFormula::Step> readStep(const json &value, size_t index,
                                              const LinearDescription &linear) {
  JsonFields fields(value, "step " + std::to_string(index) + " of the formula");
  EpilogueFormula::Step step;
  step.op = fields.text("op");
  std::optional<size_t> arity = getArity(step.op);
  if (fields.ok() && !arity)
    fields.fail("expected an op whose meaning is known here but got '" +
                step.op + "'");
  std::vector<const json *> arguments = fields.arrayOr("args");
  if (fields.ok() && arguments.size() != *arity)
    fields.fail("expected " + std::to_string(*arity) +
                (*arity == 1 ? " argument" : " arguments") + " of '" + step.op +
                "' but got " + std::to_string(arguments.size()));
  for (const json *argument : arguments) {
    std::optional<EpilogueFormula::Argument> parsed =
        parseArgument(*argument, index, linear);
    if (parsed)
      step.arguments.push_back(*parsed);
    else
      fields.fail("expected sumI of a weight, epilogueI of an operand or the "
                  "number of an earlier step but got " +
                  print(*argument));
  }
  if (fields.ok() && step.op == "arith.constant") {
    const json *constant = fields.require("value");
    std::optional<double> number;
    if (constant)
      number = parseConstant(*constant);
    if (number)
      step.value = *number;
    else if (constant)
      fields.fail("expected 'value' to be a number, inf, -inf or nan but got " +
                  print(*constant));
  }
  if (fields.ok() && step.op == "arith.cmpf") {
    step.predicate = fields.text("predicate");
    if (fields.ok() && !findBinary(step))
      fields.fail("expected a predicate whose meaning is known here but got '" +
                  step.predicate + "'");
  }
  if (!fields.ok())
    return fields.status();
  return step;
}

Result<EpilogueFormula>
EpilogueFormula::create(const LinearDescription &linear) {
  EpilogueFormula formula;
  if (linear.formula.empty()) {
    if (linear.weights.size() == 1 && linear.epilogue.empty())
      return formula;
    return Status::error("expected the manifest to say what the epilogue "
                         "computes ('formula'); compile the artifact again");
  }
  Result<json> parsed = parseJson(linear.formula);
  if (!parsed.ok())
    return parsed.status().withContext("formula");
  if (!parsed->is_array())
    return Status::error(std::string("expected 'formula' to be an array of "
                                     "steps but got ") +
                         parsed->type_name());
  if (parsed->size() > maxSteps)
    return Status::error("expected at most " + std::to_string(maxSteps) +
                         " steps of the formula but got " +
                         std::to_string(parsed->size()));
  for (const json &value : *parsed) {
    Result<Step> step = readStep(value, formula.steps.size(), linear);
    if (!step.ok())
      return step.status();
    formula.steps.push_back(step.take());
    bool isLast = formula.steps.size() == parsed->size();
    if (isLast != (formula.steps.back().op == "quant_llm.yield"))
      return Status::error("expected the last step of the formula, and no "
                           "other, to be quant_llm.yield but got '" +
                           formula.steps.back().op + "'");
  }
  if (formula.steps.empty())
    return Status::error("expected 'formula' to end with quant_llm.yield but "
                         "it has no steps");
  // Of one weight, conversions of the sum are the sum.
  const Step *step = &formula.steps.back();
  while (find(unaryOps, step->op) == same &&
         step->arguments[0].kind == Argument::Kind::Step)
    step = &formula.steps[step->arguments[0].index];
  if (linear.weights.size() == 1 && find(unaryOps, step->op) == same &&
      step->arguments[0].kind == Argument::Kind::Sum)
    formula.steps.clear();
  return formula;
}

//===----------------------------------------------------------------------===//
// Using
//===----------------------------------------------------------------------===//

std::string EpilogueFormula::getSummary() const {
  std::string text;
  for (const Step &step : steps)
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
    const Step &step = steps[i];
    const double *from[3] = {};
    for (size_t j = 0; j < step.arguments.size(); ++j) {
      const Argument &argument = step.arguments[j];
      from[j] = argument.kind == Argument::Kind::Sum ? sums[argument.index]
                : argument.kind == Argument::Kind::Operand
                    ? operands[argument.index]
                    : values.data() + argument.index * size;
    }
    double *to = values.data() + i * size;
    if (step.op == "arith.constant") {
      std::fill(to, to + size, step.value);
    } else if (Ternary ternary = find(ternaryOps, step.op)) {
      for (size_t e = 0; e < size; ++e)
        to[e] = ternary(from[0][e], from[1][e], from[2][e]);
    } else if (Binary binary = findBinary(step)) {
      for (size_t e = 0; e < size; ++e)
        to[e] = binary(from[0][e], from[1][e]);
    } else {
      std::transform(from[0], from[0] + size, to, find(unaryOps, step.op));
    }
  }
  std::copy(values.end() - count, values.end(), results);
}
