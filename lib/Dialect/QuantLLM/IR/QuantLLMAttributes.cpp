//===- QuantLLMAttributes.cpp - Element and scheme attributes -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Numerics/GroupQuantizer.h"
#include "quant-llm/Packing/FragmentLayout.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"

#include <utility>

#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Names
//===----------------------------------------------------------------------===//

namespace {

/// Elements that have one width and are spelled by a word.
struct NamedElement {
  ElementKind kind;
  unsigned bits;
  StringLiteral name;
};
constexpr NamedElement namedElements[] = {
    {ElementKind::Ternary, 2, "ternary"},
    {ElementKind::F4E2M1FN, 4, "f4E2M1FN"},
    {ElementKind::F6E2M3FN, 6, "f6E2M3FN"},
    {ElementKind::F6E3M2FN, 6, "f6E3M2FN"},
    {ElementKind::F8E4M3FN, 8, "f8E4M3FN"},
    {ElementKind::F8E5M2, 8, "f8E5M2"},
    {ElementKind::NF4, 4, "nf4"},
};

constexpr std::pair<ScaleRule, StringLiteral> ruleNames[] = {
    {ScaleRule::AbsMaxFull, "absmax_full"},
    {ScaleRule::AbsMax, "absmax"},
    {ScaleRule::MinMax, "minmax"},
    {ScaleRule::Mse, "mse"},
};

constexpr std::pair<Rounding, StringLiteral> roundingNames[] = {
    {Rounding::HalfEven, "half_even"},
    {Rounding::HalfAway, "half_away"},
};

template <typename Enum, size_t Size>
StringRef nameOf(const std::pair<Enum, StringLiteral> (&table)[Size],
                 Enum value) {
  for (const auto &entry : table)
    if (entry.first == value)
      return entry.second;
  return "unknown";
}

/// Parses one of the names of a table.
template <typename Enum, size_t Size>
ParseResult parseName(AsmParser &parser,
                      const std::pair<Enum, StringLiteral> (&table)[Size],
                      StringRef what, Enum &value) {
  SMLoc loc = parser.getCurrentLocation();
  StringRef name;
  if (failed(parser.parseOptionalKeyword(&name)))
    return parser.emitError(loc, "expected the name of a ") << what;
  for (const auto &entry : table) {
    if (entry.second == name) {
      value = entry.first;
      return success();
    }
  }
  auto diag = parser.emitError(loc, "expected ") << what << " to be one of ";
  llvm::interleaveComma(table, diag, [&](const auto &entry) {
    diag << '\'' << entry.second << '\'';
  });
  return diag << " but got '" << name << "'";
}

mlir::FloatType getFloatType(MLIRContext *context, quant_llm::FloatType type) {
  switch (type) {
  case quant_llm::FloatType::F16:
    return Float16Type::get(context);
  case quant_llm::FloatType::BF16:
    return BFloat16Type::get(context);
  case quant_llm::FloatType::F32:
    return Float32Type::get(context);
  case quant_llm::FloatType::F8E8M0FNU:
    return Float8E8M0FNUType::get(context);
  case quant_llm::FloatType::F8E4M3FN:
    return Float8E4M3FNType::get(context);
  }
  return nullptr;
}

/// The type of a scale or zero; nothing if it cannot be one.
std::optional<quant_llm::FloatType> getNumericsType(Type type) {
  if (isa<Float16Type>(type))
    return quant_llm::FloatType::F16;
  if (isa<BFloat16Type>(type))
    return quant_llm::FloatType::BF16;
  if (isa<Float32Type>(type))
    return quant_llm::FloatType::F32;
  if (isa<Float8E8M0FNUType>(type))
    return quant_llm::FloatType::F8E8M0FNU;
  if (isa<Float8E4M3FNType>(type))
    return quant_llm::FloatType::F8E4M3FN;
  return std::nullopt;
}

} // namespace

//===----------------------------------------------------------------------===//
// ElementAttr
//===----------------------------------------------------------------------===//

static ElementFormat getFormat(ElementKind kind, unsigned bits,
                               DenseF32ArrayAttr table) {
  ElementFormat format;
  format.kind = kind;
  format.bits = bits;
  if (table) {
    ArrayRef<float> values = table.asArrayRef();
    format.table.assign(values.begin(), values.end());
  }
  return format;
}

LogicalResult ElementAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                  ElementKind kind, unsigned bits,
                                  DenseF32ArrayAttr table) {
  if (kind != ElementKind::Codebook && table)
    return emitError() << "expected values for a codebook only";
  // QL-ELEMENT-C1 to C3
  Status status = verifyElement(getFormat(kind, bits, table));
  if (!status.ok())
    return emitError() << status.message();
  return success();
}

FailureOr<ElementAttr> ElementAttr::parseBare(AsmParser &parser) {
  MLIRContext *context = parser.getContext();
  SMLoc loc = parser.getCurrentLocation();
  auto emitError = [&] { return parser.emitError(loc); };
  StringRef name;
  if (failed(parser.parseOptionalKeyword(&name)))
    return parser.emitError(loc, "expected an element such as 'int4', 'nf4' or "
                                 "'codebook<4, [...]>'");
  auto make = [&](ElementKind kind, unsigned bits,
                  DenseF32ArrayAttr table) -> FailureOr<ElementAttr> {
    ElementAttr attr = getChecked(emitError, context, kind, bits, table);
    if (!attr)
      return failure();
    return attr;
  };
  for (const NamedElement &named : namedElements)
    if (named.name == name)
      return make(named.kind, named.bits, {});

  if (name == "codebook") {
    APInt bits;
    SmallVector<float> values;
    auto parseValue = [&]() -> ParseResult {
      APFloat value(APFloat::IEEEsingle());
      if (parser.parseFloat(APFloat::IEEEsingle(), value))
        return failure();
      values.push_back(value.convertToFloat());
      return success();
    };
    if (parser.parseLess())
      return failure();
    SMLoc bitsLoc = parser.getCurrentLocation();
    OptionalParseResult parsed = parser.parseOptionalInteger(bits);
    if (!parsed.has_value())
      return parser.emitError(bitsLoc, "expected the bits of a codebook");
    if (failed(*parsed))
      return failure();
    // Of verify(), which has no room for any other number.
    if (bits.slt(1) || bits.sgt(8))
      return parser.emitError(bitsLoc,
                              "expected an element of 1 to 8 bits but got ")
             << llvm::toString(bits, 10, /*Signed=*/true);
    if (parser.parseComma() ||
        parser.parseCommaSeparatedList(AsmParser::Delimiter::Square,
                                       parseValue) ||
        parser.parseGreater())
      return failure();
    return make(ElementKind::Codebook, bits.getZExtValue(),
                DenseF32ArrayAttr::get(context, values));
  }

  unsigned bits;
  StringRef digits = name;
  ElementKind kind =
      digits.consume_front("u") ? ElementKind::UInt : ElementKind::Int;
  if (digits.consume_front("int") && !digits.getAsInteger(10, bits) &&
      std::to_string(bits) == digits)
    return make(kind, bits, {});

  auto diag = parser.emitError(
      loc, "expected an element such as 'int4', 'uint4', 'codebook<4, "
           "[...]>'");
  for (const NamedElement &named : namedElements)
    diag << ", '" << named.name << "'";
  return diag << " but got '" << name << "'";
}

void ElementAttr::printBare(AsmPrinter &printer) const {
  for (const NamedElement &named : namedElements) {
    if (named.kind == getKind()) {
      printer << named.name;
      return;
    }
  }
  if (getKind() != ElementKind::Codebook) {
    printer << (getKind() == ElementKind::UInt ? "uint" : "int") << getBits();
    return;
  }
  printer << "codebook<" << getBits() << ", [";
  llvm::interleaveComma(
      getTable().asArrayRef(), printer.getStream(),
      [&](float value) { printer.printFloat(APFloat(value)); });
  printer << "]>";
}

Attribute ElementAttr::parse(AsmParser &parser, Type) {
  if (parser.parseLess())
    return {};
  FailureOr<ElementAttr> element = parseBare(parser);
  if (failed(element) || parser.parseGreater())
    return {};
  return *element;
}

void ElementAttr::print(AsmPrinter &printer) const {
  printer << '<';
  printBare(printer);
  printer << '>';
}

ElementFormat ElementAttr::toNumerics() const {
  return getFormat(getKind(), getBits(), getTable());
}

ElementAttr ElementAttr::fromNumerics(MLIRContext *context,
                                      const ElementFormat &element) {
  DenseF32ArrayAttr table;
  if (element.kind == ElementKind::Codebook)
    table = DenseF32ArrayAttr::get(context, element.table);
  return get(context, element.kind, element.bits, table);
}

//===----------------------------------------------------------------------===//
// SchemeAttr
//===----------------------------------------------------------------------===//

static Scheme getScheme(ElementAttr element, int64_t blockN, int64_t blockK,
                        Attribute scale, ZeroKind zeroKind, Type zeroType,
                        ScaleRule rule, Rounding rounding, int64_t lowRank,
                        Type lowRankType) {
  Scheme scheme;
  scheme.element = element.toNumerics();
  scheme.blockN = blockN;
  scheme.blockK = blockK;
  if (auto scales = dyn_cast<SchemeAttr>(scale))
    scheme.scaleScheme = std::make_shared<const Scheme>(scales.toNumerics());
  else
    scheme.scaleType = *getNumericsType(cast<TypeAttr>(scale).getValue());
  scheme.zero = zeroKind;
  if (zeroType)
    scheme.zeroType = *getNumericsType(zeroType);
  scheme.rule = rule;
  scheme.rounding = rounding;
  scheme.lowRank = lowRank;
  if (lowRankType)
    scheme.lowRankType = *getNumericsType(lowRankType);
  return scheme;
}

LogicalResult SchemeAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                 ElementAttr element, int64_t blockN,
                                 int64_t blockK, Attribute scale,
                                 ZeroKind zeroKind, Type zeroType,
                                 ScaleRule rule, Rounding rounding,
                                 int64_t lowRank, Type lowRankType) {
  if (!element)
    return emitError() << "expected an element";
  // QL-SCHEME-C2
  auto scaleType = dyn_cast_if_present<TypeAttr>(scale);
  if (!isa_and_present<SchemeAttr>(scale) &&
      (!scaleType || !getNumericsType(scaleType.getValue()))) {
    auto diag = emitError()
                << "expected scale to be f16, bf16, f32, f8E8M0FNU, "
                   "f8E4M3FN or a scheme";
    if (scale)
      diag << " but got " << scale;
    return diag;
  }
  // QL-SCHEME-C6
  bool floatZero = zeroKind == ZeroKind::Float;
  if (floatZero != bool(zeroType) ||
      (floatZero && !getNumericsType(zeroType))) {
    auto diag = emitError() << "expected zero to be int, f16, bf16, f32 or "
                               "f8E4M3FN";
    if (zeroType)
      diag << " but got " << zeroType;
    return diag;
  }
  // QL-SCHEME-C12
  if ((lowRank != 0) != bool(lowRankType) ||
      (lowRankType && !getNumericsType(lowRankType))) {
    auto diag = emitError() << "expected low_rank to have a positive rank and "
                               "the type f16, bf16 or f32";
    if (lowRankType)
      diag << " but got " << lowRank << "x" << lowRankType;
    return diag;
  }
  // The others are the rules of every user of schemes.
  Status status =
      verifyScheme(getScheme(element, blockN, blockK, scale, zeroKind, zeroType,
                             rule, rounding, lowRank, lowRankType));
  if (!status.ok())
    return emitError() << status.message();
  return success();
}

Attribute SchemeAttr::parse(AsmParser &parser, Type) {
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess())
    return {};
  FailureOr<ElementAttr> element = ElementAttr::parseBare(parser);
  if (failed(element))
    return {};

  std::optional<SmallVector<int64_t>> block;
  Attribute scale;
  std::optional<ZeroKind> zeroKind;
  Type zeroType;
  SmallVector<int64_t> lowRank;
  Type lowRankType;
  bool hasRule = false, hasRounding = false;
  ScaleRule rule = ScaleRule::AbsMax;
  Rounding rounding = Rounding::HalfEven;

  while (succeeded(parser.parseOptionalComma())) {
    SMLoc fieldLoc = parser.getCurrentLocation();
    StringRef field;
    if (failed(parser.parseOptionalKeyword(&field))) {
      parser.emitError(fieldLoc, "expected a field of a scheme: 'block', "
                                 "'scale', 'zero', 'low_rank', 'rule' or "
                                 "'rounding'");
      return {};
    }
    auto duplicate = [&](bool present) -> bool {
      if (present)
        parser.emitError(fieldLoc, "expected field '")
            << field << "' only once";
      return present;
    };
    if (parser.parseEqual())
      return {};
    if (field == "block") {
      if (duplicate(block.has_value()))
        return {};
      block.emplace();
      SMLoc blockLoc = parser.getCurrentLocation();
      auto parseSize = [&]() {
        return parser.parseInteger(block->emplace_back());
      };
      if (parser.parseCommaSeparatedList(AsmParser::Delimiter::Square,
                                         parseSize))
        return {};
      if (block->size() != 2) {
        parser.emitError(blockLoc, "expected a block of two sizes, [n, k], "
                                   "but got ")
            << block->size();
        return {};
      }
    } else if (field == "scale") {
      if (duplicate(bool(scale)) || parser.parseAttribute(scale))
        return {};
    } else if (field == "zero") {
      if (duplicate(zeroKind.has_value()))
        return {};
      if (succeeded(parser.parseOptionalKeyword("int"))) {
        zeroKind = ZeroKind::Integer;
      } else {
        zeroKind = ZeroKind::Float;
        if (parser.parseType(zeroType))
          return {};
      }
    } else if (field == "low_rank") {
      SMLoc rankLoc = parser.getCurrentLocation();
      if (duplicate(bool(lowRankType)) ||
          parser.parseDimensionList(lowRank, /*allowDynamic=*/false) ||
          parser.parseType(lowRankType))
        return {};
      if (lowRank.size() != 1 || lowRank.front() < 1) {
        parser.emitError(rankLoc, "expected low_rank to be a positive rank and "
                                  "a type, such as 8xf16");
        return {};
      }
    } else if (field == "rule") {
      if (duplicate(std::exchange(hasRule, true)) ||
          parseName(parser, ruleNames, "rule", rule))
        return {};
    } else if (field == "rounding") {
      if (duplicate(std::exchange(hasRounding, true)) ||
          parseName(parser, roundingNames, "rounding", rounding))
        return {};
    } else {
      parser.emitError(fieldLoc, "expected a field of a scheme: 'block', "
                                 "'scale', 'zero', 'low_rank', 'rule' or "
                                 "'rounding' but got '")
          << field << "'";
      return {};
    }
  }
  if (parser.parseGreater())
    return {};
  if (!block || !scale) {
    parser.emitError(loc, "expected a scheme to have the field '")
        << (block ? "scale" : "block") << "'";
    return {};
  }
  return getChecked([&] { return parser.emitError(loc); }, parser.getContext(),
                    *element, (*block)[0], (*block)[1], scale,
                    zeroKind.value_or(ZeroKind::None), zeroType, rule, rounding,
                    lowRank.empty() ? 0 : lowRank.front(), lowRankType);
}

void SchemeAttr::print(AsmPrinter &printer) const {
  printer << '<';
  getElement().printBare(printer);
  printer << ", block = [" << getBlockN() << ", " << getBlockK()
          << "], scale = " << getScale();
  if (getZeroKind() == ZeroKind::Integer)
    printer << ", zero = int";
  else if (getZeroKind() == ZeroKind::Float)
    printer << ", zero = " << getZeroType();
  if (getLowRankType())
    printer << ", low_rank = " << getLowRank() << 'x' << getLowRankType();
  printer << ", rule = " << nameOf(ruleNames, getRule())
          << ", rounding = " << nameOf(roundingNames, getRounding()) << '>';
}

mlir::FloatType SchemeAttr::getScaleType() const {
  if (auto type = dyn_cast<TypeAttr>(getScale()))
    return cast<mlir::FloatType>(type.getValue());
  return nullptr;
}

SchemeAttr SchemeAttr::getScaleScheme() const {
  return dyn_cast<SchemeAttr>(getScale());
}

Scheme SchemeAttr::toNumerics() const {
  return getScheme(getElement(), getBlockN(), getBlockK(), getScale(),
                   getZeroKind(), getZeroType(), getRule(), getRounding(),
                   getLowRank(), getLowRankType());
}

SchemeAttr SchemeAttr::withoutLowRank() const {
  return get(getContext(), getElement(), getBlockN(), getBlockK(), getScale(),
             getZeroKind(), getZeroType(), getRule(), getRounding(),
             /*lowRank=*/0, Type());
}

SchemeAttr
SchemeAttr::fromNumericsChecked(function_ref<InFlightDiagnostic()> emitError,
                                MLIRContext *context, const Scheme &scheme) {
  DenseF32ArrayAttr table;
  if (scheme.element.kind == ElementKind::Codebook)
    table = DenseF32ArrayAttr::get(context, scheme.element.table);
  ElementAttr element = ElementAttr::getChecked(
      emitError, context, scheme.element.kind, scheme.element.bits, table);
  if (!element)
    return nullptr;
  Attribute scale;
  if (scheme.scaleScheme) {
    scale = fromNumericsChecked(emitError, context, *scheme.scaleScheme);
    if (!scale)
      return nullptr;
  } else {
    scale = TypeAttr::get(getFloatType(context, scheme.scaleType));
  }
  Type zeroType;
  if (scheme.zero == ZeroKind::Float)
    zeroType = getFloatType(context, scheme.zeroType);
  Type lowRankType;
  if (scheme.lowRank != 0)
    lowRankType = getFloatType(context, scheme.lowRankType);
  return getChecked(emitError, context, element, scheme.blockN, scheme.blockK,
                    scale, scheme.zero, zeroType, scheme.rule, scheme.rounding,
                    scheme.lowRank, lowRankType);
}

SchemeAttr SchemeAttr::fromNumerics(MLIRContext *context,
                                    const Scheme &scheme) {
  return fromNumericsChecked(
      [&] { return mlir::emitError(UnknownLoc::get(context)); }, context,
      scheme);
}

//===----------------------------------------------------------------------===//
// FragmentLayoutAttr
//===----------------------------------------------------------------------===//

LogicalResult
FragmentLayoutAttr::verifyWeight(function_ref<InFlightDiagnostic()> emitError,
                                 const Scheme &scheme, int64_t n,
                                 int64_t k) const {
  // QL-FRAGMENT-LAYOUT-C1 to C3
  Result<FragmentLayout> layout = FragmentLayout::get(scheme, n, k);
  if (!layout.ok())
    return emitError() << layout.message();
  return success();
}

SmallVector<WeightComponent>
FragmentLayoutAttr::getComponents(const Scheme &scheme, int64_t n,
                                  int64_t k) const {
  Result<FragmentLayout> layout = FragmentLayout::get(scheme, n, k);
  assert(layout.ok() && "a weight type verifies its layout");
  SmallVector<WeightComponent> components;
  for (const PackedComponentInfo &info : layout->getComponents()) {
    Type element = info.isBytes ? Type(IntegerType::get(getContext(), 8))
                                : getFloatType(getContext(), info.type);
    components.push_back({StringRef(info.suffix).drop_front(),
                          RankedTensorType::get(info.shape, element)});
  }
  return components;
}
