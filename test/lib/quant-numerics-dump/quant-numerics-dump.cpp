//===- quant-numerics-dump.cpp - Numerics as a filter, for tests ----------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Lets Python tests compare the library with independent implementations:
//
//   decode ELEMENT                    one f32 per code
//   used ELEMENT                      one byte per code: may encode() return
//   it? encode ELEMENT ROUNDING           f32 from stdin to one byte each load
//   TYPE                         every code of a floating-point type as f32
//   store TYPE                        f32 from stdin to the type
//   quantile                          f64 probabilities from stdin to quantiles
//   quantize N K ELEMENT BN BK SCALE ZERO RULE ROUNDING
//                                     f32 matrix from stdin to codes, scales,
//                                     zeros and the dequantized f32 matrix;
//                                     SCALE is a type or ELEMENT:BN:BK:TYPE;
//                                     ZERO is none, int or a type
//
// All data is raw and little-endian, on stdin and stdout.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Numerics/GroupQuantizer.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>

using namespace quant_llm;

[[noreturn]] static void fail(const std::string &message) {
  std::fprintf(stderr, "quant-numerics-dump: %s\n", message.c_str());
  std::exit(1);
}

template <typename T>
static T take(Result<T> result) {
  if (!result.ok())
    fail(result.message());
  return result.take();
}

template <typename T>
static std::vector<T> readAll() {
  std::vector<T> values;
  T buffer[1024];
  while (size_t count = std::fread(buffer, sizeof(T), 1024, stdin))
    values.insert(values.end(), buffer, buffer + count);
  return values;
}

template <typename T>
static void write(const std::vector<T> &values) {
  if (std::fwrite(values.data(), sizeof(T), values.size(), stdout) !=
      values.size())
    fail("cannot write to stdout");
}

static void quantizeMatrix(const std::vector<std::string> &arguments) {
  if (arguments.size() != 9)
    fail("quantize: expected 9 arguments");
  MatrixView matrix;
  matrix.n = std::atoll(arguments[0].c_str());
  matrix.k = std::atoll(arguments[1].c_str());
  Scheme scheme;
  scheme.element = take(parseElement(arguments[2]));
  scheme.blockN = std::atoll(arguments[3].c_str());
  scheme.blockK = std::atoll(arguments[4].c_str());
  if (arguments[5].find(':') == std::string::npos) {
    scheme.scaleType = take(parseFloatType(arguments[5]));
  } else {
    auto inner = std::make_shared<Scheme>();
    std::istringstream stream(arguments[5]);
    std::string part[4];
    for (std::string &text : part)
      std::getline(stream, text, ':');
    inner->element = take(parseElement(part[0]));
    inner->blockN = std::atoll(part[1].c_str());
    inner->blockK = std::atoll(part[2].c_str());
    inner->scaleType = take(parseFloatType(part[3]));
    scheme.scaleScheme = inner;
  }
  if (arguments[6] == "int") {
    scheme.zero = ZeroKind::Integer;
  } else if (arguments[6] != "none") {
    scheme.zero = ZeroKind::Float;
    scheme.zeroType = take(parseFloatType(arguments[6]));
  }
  scheme.rule = take(parseScaleRule(arguments[7]));
  scheme.rounding = take(parseRounding(arguments[8]));

  auto values = readAll<float>();
  if (static_cast<int64_t>(values.size()) != matrix.n * matrix.k)
    fail("quantize: expected n*k numbers");
  matrix.data = values.data();
  QuantizedMatrix stored = take(quantize(matrix, scheme, "stdin", 2));
  for (const ComponentInfo &component :
       getComponents(scheme, matrix.n, matrix.k))
    write(stored.get(component.kind));
  Status status = dequantize(stored, scheme, values.data(), 2);
  if (!status.ok())
    fail(status.message());
  write(values);
}

int main(int argc, char **argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty())
    fail("expected a command");
  std::string command = arguments[0];
  arguments.erase(arguments.begin());
  if (command == "quantize") {
    quantizeMatrix(arguments);
    return 0;
  }
  if (command == "quantile") {
    auto values = readAll<double>();
    for (double &value : values)
      value = normalQuantile(value);
    write(values);
    return 0;
  }
  if (arguments.empty())
    fail(command + ": expected a format");
  if (command == "load" || command == "store") {
    FloatType type = take(parseFloatType(arguments[0]));
    unsigned bytes = floatTypeBytes(type);
    if (command == "load") {
      if (bytes > 2)
        fail("load: expected a type of at most 16 bits");
      std::vector<float> values;
      for (uint32_t code = 0; code < 1u << (8 * bytes); ++code)
        values.push_back(loadFloat(type, &code));
      write(values);
      return 0;
    }
    std::vector<uint8_t> result;
    for (float value : readAll<float>()) {
      uint8_t buffer[4];
      storeFloat(type, value, buffer);
      result.insert(result.end(), buffer, buffer + bytes);
    }
    write(result);
    return 0;
  }
  Element element = take(Element::get(take(parseElement(arguments[0]))));
  if (command == "decode") {
    write(element.table());
  } else if (command == "used") {
    std::vector<uint8_t> used;
    for (unsigned code = 0; code < element.numCodes(); ++code)
      used.push_back(element.isUsed(code));
    write(used);
  } else if (command == "encode") {
    if (arguments.size() != 2)
      fail("encode: expected a format and a rounding");
    Rounding rounding = take(parseRounding(arguments[1]));
    std::vector<uint8_t> codes;
    for (float value : readAll<float>())
      codes.push_back(static_cast<uint8_t>(element.encode(value, rounding)));
    write(codes);
  } else {
    fail("unknown command '" + command + "'");
  }
  return 0;
}
