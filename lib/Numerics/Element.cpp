//===- Element.cpp - Element formats: codes and their values --------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Element.h"

#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Support/Numbers.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <optional>

using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Formats
//===----------------------------------------------------------------------===//

/// Width of kinds that have only one, else 0.
static unsigned getFixedBits(ElementKind kind) {
  switch (kind) {
  case ElementKind::Int:
  case ElementKind::UInt:
  case ElementKind::Codebook:
    return 0;
  case ElementKind::Ternary:
    return 2;
  case ElementKind::NF4:
    return 4;
  default:
    return getSmallFloat(kind)->bits();
  }
}

static const char *getFixedName(ElementKind kind) {
  if (kind == ElementKind::Ternary)
    return "ternary";
  if (kind == ElementKind::NF4)
    return "nf4";
  const SmallFloat *format = getSmallFloat(kind);
  return format ? format->name : nullptr;
}

ElementFormat quant_llm::makeElement(ElementKind kind, unsigned bits) {
  ElementFormat format;
  format.kind = kind;
  unsigned fixed = getFixedBits(kind);
  format.bits = fixed ? fixed : bits;
  return format;
}

ElementFormat quant_llm::makeCodebook(std::vector<float> table) {
  ElementFormat format;
  format.kind = ElementKind::Codebook;
  format.bits = 0;
  while (format.bits < 31 && (size_t(1) << format.bits) < table.size())
    ++format.bits;
  format.table = std::move(table);
  return format;
}

Status quant_llm::verifyElement(const ElementFormat &format) {
  if (format.bits < 1 || format.bits > 8)
    return Status::error("expected an element of 1 to 8 bits but got " +
                         std::to_string(format.bits));
  unsigned fixed = getFixedBits(format.kind);
  if (fixed && format.bits != fixed)
    return Status::error("expected " + std::to_string(fixed) +
                         " bits for element " + getFixedName(format.kind) +
                         " but got " + std::to_string(format.bits));
  if (format.kind != ElementKind::Codebook) {
    if (!format.table.empty())
      return Status::error("expected no table on element " +
                           elementName(format) + "; only codebooks have one");
    return Status::success();
  }
  size_t entries = size_t(1) << format.bits;
  if (format.table.size() != entries)
    return Status::error("expected " + std::to_string(entries) +
                         " values in a codebook of " +
                         std::to_string(format.bits) + " bits but got " +
                         std::to_string(format.table.size()));
  for (size_t i = 0; i < entries; ++i)
    if (!std::isfinite(format.table[i]))
      return Status::error("expected finite values in a codebook but value " +
                           std::to_string(i) + " is " +
                           (std::isnan(format.table[i]) ? "nan" : "infinite"));
  return Status::success();
}

//===----------------------------------------------------------------------===//
// nf4
//===----------------------------------------------------------------------===//

double quant_llm::normalQuantile(double p) {
  if (p == 0.5)
    return 0.0;
  // Work in the lower half, where p has no cancellation.
  if (p > 0.5)
    return -normalQuantile(1.0 - p);
  // Start: the tail expansion, good to a few percent, enough for Halley's
  // iteration (third order) to be exact after four steps.
  double t = std::sqrt(-2.0 * std::log(p));
  double x =
      -(t - (2.30753 + 0.27061 * t) / (1.0 + t * (0.99229 + t * 0.04481)));
  for (int i = 0; i < 4; ++i) {
    double error = 0.5 * std::erfc(-x * M_SQRT1_2) - p;
    double step = error * std::sqrt(2.0 * M_PI) * std::exp(0.5 * x * x);
    x -= step / (1.0 + 0.5 * x * step);
  }
  return x;
}

const std::vector<float> &quant_llm::nf4Table() {
  static const std::vector<float> table = [] {
    const double last = 0.9677083;
    std::vector<double> values{0.0};
    // linspace(last, 0.5, points) without its end.
    auto quantiles = [&](int points, double sign) {
      for (int i = 0; i + 1 < points; ++i) {
        double p = last + (0.5 - last) * i / (points - 1);
        values.push_back(sign * normalQuantile(p));
      }
    };
    quantiles(9, 1.0);
    quantiles(8, -1.0);
    std::sort(values.begin(), values.end());
    std::vector<float> result;
    for (double value : values)
      result.push_back(static_cast<float>(value / values.back()));
    return result;
  }();
  return table;
}

static std::vector<float> makeNormalTable(unsigned bits) {
  // The upper half: limits[i] is below value i, and the first one is 0.
  const size_t count = size_t(1) << (bits - 1);
  std::vector<double> values(count), limits(count + 1);
  for (size_t i = 0; i < count; ++i)
    values[i] = normalQuantile(0.5 + (static_cast<double>(i) + 0.5) /
                                         static_cast<double>(2 * count));
  const double density0 = 1.0 / std::sqrt(2.0 * M_PI);
  auto getDensity = [&](double x) {
    return std::isinf(x) ? 0.0 : density0 * std::exp(-0.5 * x * x);
  };
  auto getTail = [](double x) { return 0.5 * std::erfc(x / std::sqrt(2.0)); };
  // Every step brings the values nearer; with 32 of them it takes thousands.
  for (int step = 0; step < 50000; ++step) {
    limits[0] = 0.0;
    limits[count] = HUGE_VAL;
    for (size_t i = 1; i < count; ++i)
      limits[i] = 0.5 * (values[i - 1] + values[i]);
    double change = 0.0;
    for (size_t i = 0; i < count; ++i) {
      double mean = (getDensity(limits[i]) - getDensity(limits[i + 1])) /
                    (getTail(limits[i]) - getTail(limits[i + 1]));
      change = std::max(change, std::fabs(mean - values[i]));
      values[i] = mean;
    }
    if (change < 1e-13)
      break;
  }
  std::vector<float> table;
  for (size_t i = 0; i < count; ++i)
    table.push_back(
        static_cast<float>(-values[count - 1 - i] / values[count - 1]));
  for (size_t i = 0; i < count; ++i)
    table.push_back(static_cast<float>(values[i] / values[count - 1]));
  return table;
}

ElementFormat quant_llm::makeNormalCodebook(unsigned bits) {
  constexpr unsigned mostBits = 6;
  assert(bits >= 1 && bits <= mostBits);
  static std::array<std::once_flag, mostBits + 1> computed;
  static std::array<std::vector<float>, mostBits + 1> tables;
  std::call_once(computed[bits], [&] { tables[bits] = makeNormalTable(bits); });
  return makeCodebook(tables[bits]);
}

//===----------------------------------------------------------------------===//
// Element
//===----------------------------------------------------------------------===//

Result<Element> Element::get(const ElementFormat &format) {
  Status valid = verifyElement(format);
  if (!valid.ok())
    return valid;
  Element element;
  element.desc = format;
  unsigned codes = 1u << format.bits;
  element.values.resize(codes);
  for (unsigned code = 0; code < codes; ++code) {
    float &value = element.values[code];
    switch (format.kind) {
    case ElementKind::UInt:
      value = static_cast<float>(code);
      break;
    case ElementKind::Int:
    case ElementKind::Ternary:
      value = static_cast<float>(
          code < codes / 2 ? static_cast<int>(code)
                           : static_cast<int>(code) - static_cast<int>(codes));
      break;
    case ElementKind::NF4:
      value = nf4Table()[code];
      break;
    case ElementKind::Codebook:
      value = format.table[code];
      break;
    default:
      value = decodeSmallFloat(*getSmallFloat(format.kind),
                               static_cast<uint8_t>(code));
    }
  }

  element.minimum = std::numeric_limits<float>::max();
  element.maximum = std::numeric_limits<float>::lowest();
  for (unsigned code = 0; code < codes; ++code)
    if (element.isUsed(code)) {
      element.minimum = std::min(element.minimum, element.values[code]);
      element.maximum = std::max(element.maximum, element.values[code]);
    }

  if (format.kind == ElementKind::NF4 || format.kind == ElementKind::Codebook) {
    // Distinct values in ascending order, each with its smallest code.
    std::vector<uint8_t> order(codes);
    std::iota(order.begin(), order.end(), uint8_t(0));
    auto value = [&](uint8_t code) { return element.values[code]; };
    std::sort(order.begin(), order.end(), [&](uint8_t a, uint8_t b) {
      return value(a) != value(b) ? value(a) < value(b) : a < b;
    });
    order.erase(
        std::unique(order.begin(), order.end(),
                    [&](uint8_t a, uint8_t b) { return value(a) == value(b); }),
        order.end());
    for (size_t i = 0; i + 1 < order.size(); ++i) {
      double middle =
          (static_cast<double>(value(order[i])) + value(order[i + 1])) / 2;
      // The largest binary32 number that still belongs to the smaller value.
      float limit = static_cast<float>(middle);
      if (static_cast<double>(limit) > middle)
        limit = std::nextafter(limit, -std::numeric_limits<float>::infinity());
      element.limits.push_back(limit);
    }
    element.limits.resize(codes - 1, std::numeric_limits<float>::infinity());
    order.resize(codes, order.back());
    element.sorted = std::move(order);
  }
  element.zero = element.encode(0.0f);
  return element;
}

bool Element::isUsed(unsigned code) const {
  if (desc.kind == ElementKind::Ternary)
    return code != 2;
  if (desc.kind == ElementKind::NF4 || desc.kind == ElementKind::Codebook)
    // Of equal values only the smallest code.
    return std::find(values.begin(), values.begin() + code, values[code]) ==
           values.begin() + code;
  return std::isfinite(values[code]);
}

unsigned Element::encode(float value, Rounding rounding) const {
  if (const SmallFloat *format = getSmallFloat(desc.kind))
    return encodeSmallFloat(*format, value);
  if (std::isnan(value))
    value = 0.0f;
  if (!isInteger())
    return sorted[static_cast<size_t>(
        std::lower_bound(limits.begin(), limits.end(), value) -
        limits.begin())];
  float clamped = std::max(minimum, std::min(maximum, value));
  float rounded = std::trunc(clamped);
  float rest = std::fabs(clamped - rounded);
  bool up = rest > 0.5f;
  if (rest == 0.5f)
    up = rounding == Rounding::HalfAway || std::fmod(rounded, 2.0f) != 0.0f;
  if (up)
    rounded += std::copysign(1.0f, clamped);
  return static_cast<unsigned>(static_cast<int>(rounded)) & (numCodes() - 1);
}

int Element::maxExponent() const { return std::ilogb(maximum); }

//===----------------------------------------------------------------------===//
// Names
//===----------------------------------------------------------------------===//

std::string quant_llm::elementName(const ElementFormat &format) {
  switch (format.kind) {
  case ElementKind::Int:
    return "int" + std::to_string(format.bits);
  case ElementKind::UInt:
    return "uint" + std::to_string(format.bits);
  case ElementKind::Codebook: {
    std::string text = "codebook<" + std::to_string(format.bits) + ", [";
    for (size_t i = 0; i < format.table.size(); ++i)
      text += (i ? ", " : "") + formatShortest(format.table[i]);
    return text + "]>";
  }
  default:
    return getFixedName(format.kind);
  }
}

/// Parses "codebook<2, [-1, 0, 0.5, 1]>".
static Result<ElementFormat> parseCodebook(const std::string &text) {
  Status failure = Status::error(
      "expected 'codebook<bits, [value, ...]>' but got '" + text + "'");
  const char *at = text.c_str();
  auto skip = [&](const std::string &token) {
    while (*at == ' ')
      ++at;
    if (text.compare(static_cast<size_t>(at - text.c_str()), token.size(),
                     token) != 0)
      return false;
    at += token.size();
    return true;
  };
  if (!skip("codebook") || !skip("<"))
    return failure;
  char *end = nullptr;
  unsigned long bits = std::strtoul(at, &end, 10);
  if (end == at || bits > 8)
    return failure;
  at = end;
  if (!skip(",") || !skip("["))
    return failure;
  ElementFormat format;
  format.kind = ElementKind::Codebook;
  format.bits = static_cast<unsigned>(bits);
  do {
    format.table.push_back(std::strtof(at, &end));
    if (end == at)
      return failure;
    at = end;
  } while (skip(","));
  if (!skip("]") || !skip(">") || *at != '\0')
    return failure;
  return format;
}

Result<ElementFormat> quant_llm::parseElement(const std::string &text) {
  if (text.compare(0, 8, "codebook") == 0) {
    Result<ElementFormat> codebook = parseCodebook(text);
    if (codebook.ok())
      if (Status valid = verifyElement(*codebook); !valid.ok())
        return valid;
    return codebook;
  }
  if (text.size() == 7 && text.compare(0, 6, "normal") == 0 && text[6] >= '1' &&
      text[6] <= '6')
    return makeNormalCodebook(static_cast<unsigned>(text[6] - '0'));
  for (ElementKind kind :
       {ElementKind::Ternary, ElementKind::F4E2M1FN, ElementKind::F6E2M3FN,
        ElementKind::F6E3M2FN, ElementKind::F8E4M3FN, ElementKind::F8E5M2,
        ElementKind::NF4})
    if (text == getFixedName(kind))
      return makeElement(kind);
  for (unsigned bits = 1; bits <= 8; ++bits)
    for (ElementKind kind : {ElementKind::Int, ElementKind::UInt})
      if (text == elementName(makeElement(kind, bits)))
        return makeElement(kind, bits);
  return Status::error(
      "expected an element (int1..int8, uint1..uint8, ternary, f4E2M1FN, "
      "f6E2M3FN, f6E3M2FN, f8E4M3FN, f8E5M2, nf4, normal1..normal6, "
      "codebook<bits, [...]>) but "
      "got '" +
      text + "'");
}

const char *quant_llm::floatTypeName(FloatType type) {
  switch (type) {
  case FloatType::F16:
    return "f16";
  case FloatType::BF16:
    return "bf16";
  case FloatType::F32:
    return "f32";
  case FloatType::F8E8M0FNU:
    return "f8E8M0FNU";
  case FloatType::F8E4M3FN:
    return "f8E4M3FN";
  }
  return "";
}

const char *quant_llm::scaleRuleName(ScaleRule rule) {
  switch (rule) {
  case ScaleRule::AbsMaxFull:
    return "absmax_full";
  case ScaleRule::AbsMax:
    return "absmax";
  case ScaleRule::MinMax:
    return "minmax";
  case ScaleRule::Mse:
    return "mse";
  }
  return "";
}

const char *quant_llm::roundingName(Rounding rounding) {
  return rounding == Rounding::HalfEven ? "half_even" : "half_away";
}

/// The one of `all` whose name is `text`, or an error that lists the names.
template <typename T, size_t Count>
static Result<T> parseName(const std::string &text, const char *what,
                           const char *(*name)(T), const T (&all)[Count]) {
  std::string names;
  for (T value : all) {
    if (text == name(value))
      return value;
    names += (names.empty() ? "" : ", ") + std::string(name(value));
  }
  return Status::error(std::string("expected ") + what + " (" + names +
                       ") but got '" + text + "'");
}

Result<FloatType> quant_llm::parseFloatType(const std::string &text) {
  return parseName(text, "a floating-point type", floatTypeName,
                   {FloatType::F16, FloatType::BF16, FloatType::F32,
                    FloatType::F8E8M0FNU, FloatType::F8E4M3FN});
}

Result<ScaleRule> quant_llm::parseScaleRule(const std::string &text) {
  return parseName(text, "a scale rule", scaleRuleName,
                   {ScaleRule::AbsMaxFull, ScaleRule::AbsMax, ScaleRule::MinMax,
                    ScaleRule::Mse});
}

Result<Rounding> quant_llm::parseRounding(const std::string &text) {
  return parseName(text, "a rounding", roundingName,
                   {Rounding::HalfEven, Rounding::HalfAway});
}

std::string quant_llm::schemeName(const Scheme &scheme) {
  std::string text = elementName(scheme.element) + ", block = [" +
                     std::to_string(scheme.blockN) + ", " +
                     std::to_string(scheme.blockK) + "], scale = ";
  if (scheme.scaleScheme)
    text += "scheme<" + schemeName(*scheme.scaleScheme) + ">";
  else
    text += floatTypeName(scheme.scaleType);
  if (scheme.zero == ZeroKind::Integer)
    text += ", zero = int";
  else if (scheme.zero == ZeroKind::Float)
    text += std::string(", zero = ") + floatTypeName(scheme.zeroType);
  text += std::string(", rule = ") + scaleRuleName(scheme.rule);
  return text + ", rounding = " + roundingName(scheme.rounding);
}

static std::string trimmed(const std::string &text) {
  size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string::npos)
    return {};
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

/// The pieces between commas that are not inside of brackets.
static std::vector<std::string> splitFields(const std::string &text) {
  std::vector<std::string> fields(1);
  int depth = 0;
  for (char c : text) {
    if (c == '<' || c == '[')
      ++depth;
    if (c == '>' || c == ']')
      --depth;
    if (c == ',' && depth == 0)
      fields.emplace_back();
    else
      fields.back() += c;
  }
  for (std::string &field : fields)
    field = trimmed(field);
  return fields;
}

/// What stands in "scheme<...>", with or without "#quant_llm." before it.
static std::optional<std::string> schemeBody(const std::string &text) {
  for (const char *prefix : {"#quant_llm.scheme<", "scheme<"}) {
    size_t length = std::strlen(prefix);
    if (text.compare(0, length, prefix) == 0 && text.back() == '>')
      return text.substr(length, text.size() - length - 1);
  }
  return std::nullopt;
}

/// "[1, 64]".
static Status parseBlock(const std::string &text, Scheme &scheme) {
  Status error =
      Status::error("expected a block such as [1, 64] but got '" + text + "'");
  if (text.size() < 2 || text.front() != '[' || text.back() != ']')
    return error;
  std::vector<std::string> parts = splitFields(text.substr(1, text.size() - 2));
  if (parts.size() != 2)
    return error;
  int64_t *sizes[] = {&scheme.blockN, &scheme.blockK};
  for (unsigned i = 0; i < 2; ++i) {
    const char *begin = parts[i].data();
    const char *end = begin + parts[i].size();
    std::from_chars_result read = std::from_chars(begin, end, *sizes[i]);
    if (read.ec != std::errc() || read.ptr != end)
      return error;
  }
  return Status::success();
}

static Result<Scheme> parseLevel(const std::string &given, unsigned depth) {
  std::string text = trimmed(given);
  if (std::optional<std::string> body = schemeBody(text))
    text = *body;
  std::vector<std::string> fields = splitFields(text);
  Result<ElementFormat> element = parseElement(fields.front());
  if (!element.ok())
    return element.status();
  Scheme scheme;
  scheme.element = element.take();
  bool hasRule = false;
  for (size_t i = 1; i < fields.size(); ++i) {
    size_t equals = fields[i].find('=');
    std::string name = trimmed(fields[i].substr(0, equals));
    std::string value = equals == std::string::npos
                            ? std::string()
                            : trimmed(fields[i].substr(equals + 1));
    Status status;
    auto assign = [&](auto parsed, auto &to) {
      if (parsed.ok())
        to = parsed.take();
      else
        status = parsed.status();
    };
    if (name == "block") {
      status = parseBlock(value, scheme);
    } else if (name == "scale" && !value.empty() && schemeBody(value)) {
      // Deeper ones are refused by verifyScheme, too.
      if (depth > 1)
        return Status::error("expected at most two levels of scales");
      Result<Scheme> inner = parseLevel(value, depth + 1);
      if (!inner.ok())
        return inner.status().withContext("scale");
      scheme.scaleScheme = std::make_shared<const Scheme>(inner.take());
    } else if (name == "scale") {
      assign(parseFloatType(value), scheme.scaleType);
    } else if (name == "zero" && value == "int") {
      scheme.zero = ZeroKind::Integer;
    } else if (name == "zero" && value == "none") {
      scheme.zero = ZeroKind::None;
    } else if (name == "zero") {
      scheme.zero = ZeroKind::Float;
      assign(parseFloatType(value), scheme.zeroType);
    } else if (name == "rule") {
      hasRule = true;
      assign(parseScaleRule(value), scheme.rule);
    } else if (name == "rounding") {
      assign(parseRounding(value), scheme.rounding);
    } else {
      status = Status::error("expected block, scale, zero, rule or rounding "
                             "but got '" +
                             name + "'");
    }
    if (!status.ok())
      return status;
  }
  if (!hasRule && scheme.zero != ZeroKind::None)
    scheme.rule = ScaleRule::MinMax;
  return scheme;
}

Result<Scheme> quant_llm::parseScheme(const std::string &text) {
  return parseLevel(text, 0);
}

bool quant_llm::operator==(const ElementFormat &a, const ElementFormat &b) {
  return a.kind == b.kind && a.bits == b.bits && a.table == b.table;
}

bool quant_llm::operator==(const Scheme &a, const Scheme &b) {
  if (!(a.element == b.element) || a.blockN != b.blockN ||
      a.blockK != b.blockK || a.zero != b.zero || a.rule != b.rule ||
      a.rounding != b.rounding)
    return false;
  if (a.zero == ZeroKind::Float && a.zeroType != b.zeroType)
    return false;
  if (!a.scaleScheme != !b.scaleScheme)
    return false;
  return a.scaleScheme ? *a.scaleScheme == *b.scaleScheme
                       : a.scaleType == b.scaleType;
}
