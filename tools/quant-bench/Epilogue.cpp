//===- Epilogue.cpp -------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Epilogue.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>

using namespace quant_llm;
using namespace quant_llm::bench;

static const char *const functions[] = {"silu", "gelu", "gelu_tanh", "relu"};

static bool isFunction(const std::string &name) {
  return std::find(std::begin(functions), std::end(functions), name) !=
         std::end(functions);
}

static Result<Epilogue::Step> parseStep(const std::string &text) {
  using Kind = Epilogue::Kind;
  if (text == "bias")
    return Epilogue::Step{Kind::Bias, ""};
  if (text == "residual")
    return Epilogue::Step{Kind::Residual, ""};
  if (isFunction(text))
    return Epilogue::Step{Kind::Activation, text};
  if (text.rfind("gate_", 0) == 0 && isFunction(text.substr(5)))
    return Epilogue::Step{Kind::Gate, text.substr(5)};
  if (text.rfind("scale:", 0) == 0) {
    const char *begin = text.c_str() + 6;
    char *end = nullptr;
    errno = 0;
    float factor = std::strtof(begin, &end);
    // A factor that underflows to 0 would verify a layer of zeros.
    bool isVoid = factor == 0 && errno == ERANGE;
    if (end != begin && *end == '\0' && std::isfinite(factor) && !isVoid)
      return Epilogue::Step{Kind::Scale, "", factor};
    return Status::error("expected a finite f32 number in the step '" + text +
                         "' of the epilogue");
  }
  return Status::error("expected a step bias, residual, silu, gelu, gelu_tanh, "
                       "relu, gate_silu (gate_...) or scale:NUMBER of the "
                       "epilogue but got '" +
                       text + "'");
}

Result<Epilogue> bench::parseEpilogue(const std::string &text) {
  Epilogue epilogue;
  for (size_t begin = 0; begin <= text.size() && !text.empty();) {
    size_t end = std::min(text.find(',', begin), text.size());
    std::string piece = text.substr(begin, end - begin);
    size_t first = piece.find_first_not_of(' ');
    size_t last = piece.find_last_not_of(' ');
    Result<Epilogue::Step> step = parseStep(
        first == std::string::npos ? ""
                                   : piece.substr(first, last - first + 1));
    if (!step.ok())
      return step.status();
    if (step->kind == Epilogue::Kind::Gate && !epilogue.steps.empty())
      return Status::error("expected the step '" + piece.substr(first) +
                           "' of the epilogue to come first, where the two "
                           "sums are");
    epilogue.steps.push_back(step.take());
    begin = end + 1;
  }
  // Steps may have operands: arguments of a launch, which has room for so many.
  if (epilogue.steps.size() > 16)
    return Status::error("expected at most 16 steps of the epilogue but got " +
                         std::to_string(epilogue.steps.size()));
  return epilogue;
}

namespace {

/// Writes ops on f32 numbers.
class Body {
public:
  std::string text;

  std::string op(const std::string &op, const std::string &type = "f32") {
    std::string name = "%v" + std::to_string(count++);
    text += "    " + name + " = " + op + " : " + type + "\n";
    return name;
  }
  std::string constant(double value) {
    char number[32];
    std::snprintf(number, sizeof(number), "%.9e", value);
    return op(std::string("arith.constant ") + number);
  }
  std::string binary(const char *name, const std::string &x,
                     const std::string &y) {
    return op(std::string(name) + " " + x + ", " + y);
  }
  std::string activate(const std::string &function, const std::string &x);

private:
  int count = 0;
};

} // namespace

std::string Body::activate(const std::string &function, const std::string &x) {
  if (function == "relu") {
    std::string zero = constant(0);
    return op("arith.select " + op("arith.cmpf olt, " + x + ", " + zero) +
              ", " + zero + ", " + x);
  }
  std::string one = constant(1);
  if (function == "silu") {
    std::string exp = op("math.exp " + op("arith.negf " + x));
    return binary("arith.divf", x, binary("arith.addf", exp, one));
  }
  std::string inner;
  if (function == "gelu") {
    inner = op("math.erf " + binary("arith.mulf", x, constant(std::sqrt(0.5))));
  } else {
    std::string cube = binary("arith.mulf", x, binary("arith.mulf", x, x));
    std::string sum =
        binary("arith.addf", x, binary("arith.mulf", cube, constant(0.044715)));
    // sqrt(2 / pi)
    inner = op("math.tanh " +
               binary("arith.mulf", sum, constant(0.79788456080286536)));
  }
  std::string half = binary("arith.mulf", x, constant(0.5));
  return binary("arith.mulf", half, binary("arith.addf", inner, one));
}

std::string bench::getEpilogueBlock(const Epilogue &epilogue,
                                    const std::string &type) {
  std::string arguments =
      epilogue.isGated() ? "%a0: f32, %a1: f32" : "%a0: f32";
  Body body;
  std::string value = "%a0";
  int operands = 0;
  for (const Epilogue::Step &step : epilogue.steps)
    switch (step.kind) {
    case Epilogue::Kind::Bias:
    case Epilogue::Kind::Residual: {
      std::string name = "%o" + std::to_string(operands++);
      arguments += ", " + name + ": " + type;
      value = body.binary("arith.addf", value,
                          body.op("arith.extf " + name, type + " to f32"));
      break;
    }
    case Epilogue::Kind::Scale:
      value = body.binary("arith.mulf", value, body.constant(step.factor));
      break;
    case Epilogue::Kind::Activation:
      value = body.activate(step.function, value);
      break;
    case Epilogue::Kind::Gate:
      value =
          body.binary("arith.mulf", body.activate(step.function, value), "%a1");
      break;
    }
  value = body.op("arith.truncf " + value, "f32 to " + type);
  return "  ^bb0(" + arguments + "):\n" + body.text + "    quant_llm.yield " +
         value + " : " + type + "\n";
}
