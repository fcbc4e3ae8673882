//===- Expression.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Expression.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/JSON.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <set>

using namespace mlir;
using namespace quant_llm::torch;

SmallVector<unsigned, 4>
quant_llm::torch::joinDims(llvm::ArrayRef<Expr> exprs) {
  std::set<unsigned> dims;
  for (const Expr &expr : exprs)
    dims.insert(expr.dims.begin(), expr.dims.end());
  return {dims.begin(), dims.end()};
}

Expr quant_llm::torch::align(const Expr &expr, llvm::ArrayRef<unsigned> dims) {
  // Leading dimensions come by themselves, and a subscript ends with its last
  // None.
  SmallVector<StringRef> subscripts;
  size_t last = 0;
  for (unsigned dim : dims) {
    bool has = llvm::is_contained(expr.dims, dim);
    if (subscripts.empty() && !has)
      continue;
    subscripts.push_back(has ? ":" : "None");
    if (!has)
      last = subscripts.size();
  }
  if (expr.isNumber || expr.dims.empty() || last == 0)
    return expr;
  subscripts.resize(last);
  Expr result = expr;
  result.text = expr.bind(Atom) + "[" + llvm::join(subscripts, ", ") + "]";
  result.precedence = Atom;
  result.loop.reset();
  return result;
}

std::string quant_llm::torch::printFloat(double value) {
  if (std::isnan(value))
    return "float(\"nan\")";
  if (std::isinf(value))
    return value < 0 ? "float(\"-inf\")" : "float(\"inf\")";
  char buffer[64];
  float narrow = static_cast<float>(value);
  auto [end, error] =
      narrow == value ? std::to_chars(buffer, buffer + sizeof(buffer), narrow)
                      : std::to_chars(buffer, buffer + sizeof(buffer), value);
  std::string text(buffer, end);
  if (text.find_first_of(".e") == std::string::npos)
    text += ".0";
  return text;
}

std::string quant_llm::torch::quotePython(StringRef text) {
  std::string quoted = "\"";
  // Python reads UTF-8 alone.
  for (char c : llvm::json::fixUTF8(text)) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '\\')
      quoted += "\\\\";
    else if (c != '"' && (llvm::isPrint(c) || code >= 0x80))
      quoted += c;
    else
      // Quotes as well: so there is none but those around literals.
      quoted += std::string("\\x") + llvm::hexdigit(code / 16, true) +
                llvm::hexdigit(code % 16, true);
  }
  return quoted + "\"";
}

std::string quant_llm::torch::getTorchType(Type type) {
  if (isa<FloatType>(type))
    return "dtype";
  if (isa<IndexType>(type))
    return "torch.int64";
  auto integer = dyn_cast<IntegerType>(type);
  if (!integer || integer.isUnsigned())
    return "";
  switch (integer.getWidth()) {
  case 1:
    return "torch.bool";
  case 8:
  case 16:
  case 32:
  case 64:
    return "torch.int" + std::to_string(integer.getWidth());
  default:
    return "";
  }
}

namespace {

/// Emits one op whose operands broadcast against each other.
class ScalarEmitter {
public:
  ScalarEmitter(Operation *op, llvm::ArrayRef<Expr> given)
      : op(op), dims(joinDims(given)) {
    numbers = llvm::all_of(given, [](const Expr &e) { return e.isNumber; });
    // A wide tensor meets another float in the type of the function.
    bool narrow =
        llvm::any_of(llvm::zip_equal(given, op->getOperands()), [](auto pair) {
          auto [expr, value] = pair;
          return isFloat(value.getType()) && !expr.isNumber && !expr.isWide;
        });
    for (auto [expr, value] : llvm::zip_equal(given, op->getOperands())) {
      Expr aligned = align(expr, dims);
      if (aligned.isWide && narrow) {
        aligned.text = aligned.bind(Atom) + ".to(dtype)";
        aligned.precedence = Atom;
        aligned.isWide = false;
      }
      wide |= aligned.isWide;
      operands.push_back(std::move(aligned));
    }
  }

  FailureOr<Expr> emit();

private:
  static bool isFloat(Type type) {
    return isa<FloatType>(getElementTypeOrSelf(type));
  }
  Type elementType(unsigned i) const {
    return getElementTypeOrSelf(op->getOperand(i).getType());
  }

  Expr make(std::string text, Precedence precedence) const {
    Expr expr;
    expr.text = std::move(text);
    expr.precedence = precedence;
    expr.dims = dims;
    expr.isNumber = numbers;
    expr.isWide = wide && isFloat(op->getResult(0).getType());
    return expr;
  }
  Expr binary(StringRef symbol, Precedence precedence) const {
    // The right operand in parentheses even where the operator is associative:
    // floating-point numbers are not.
    return make(operands[0].bind(precedence) + " " + symbol.str() + " " +
                    operands[1].bind(Precedence(precedence + 1)),
                precedence);
  }
  Expr call(StringRef function) const {
    std::string text = function.str() + "(";
    for (auto [i, operand] : llvm::enumerate(operands))
      text += (i ? ", " : "") + operand.text;
    return make(text + ")", Atom);
  }
  Expr method(const Expr &self, const Twine &rest) const {
    return make(self.bind(Atom) + rest.str(), Atom);
  }
  Expr same() const {
    Expr expr = operands[0];
    return expr;
  }
  Expr convert(StringRef type) const {
    return method(operands[0], ".to(" + type + ")");
  }
  /// torch.`name` of tensors, math.`name` of numbers.
  Expr function(StringRef name) const {
    return call(((numbers ? "math." : "torch.") + name).str());
  }

  FailureOr<Expr> refuse(const Twine &why = "") const {
    op->emitOpError("cannot be translated to PyTorch") << why;
    return failure();
  }
  /// The smaller or the larger of two.
  Expr extremum(bool larger) const {
    if (numbers)
      return call(larger ? "max" : "min");
    for (unsigned i : {0u, 1u})
      if (operands[i].isNumber)
        return method(operands[1 - i],
                      Twine(larger ? ".clamp(min=" : ".clamp(max=") +
                          operands[i].text + ")");
    return call(larger ? "torch.maximum" : "torch.minimum");
  }
  /// Ops on unsigned numbers are those on signed ones where both agree: for
  /// sizes and indices.
  bool isSize() const {
    return isa<IndexType>(elementType(0)) || elementType(0).isInteger(1);
  }
  Expr logical(StringRef symbol, StringRef word, Precedence precedence) const {
    if (numbers && elementType(0).isInteger(1)) {
      if (word.empty())
        return make(operands[0].bind(Sum) + " != " + operands[1].bind(Sum),
                    Comparison);
      return make("(" + operands[0].bind(Comparison) + " " + word.str() + " " +
                      operands[1].bind(Comparison) + ")",
                  Atom);
    }
    return binary(symbol, precedence);
  }
  FailureOr<Expr> compare(StringRef symbol) const {
    return binary(symbol, Comparison);
  }

  Operation *op;
  SmallVector<unsigned, 4> dims;
  SmallVector<Expr> operands;
  bool numbers = true;
  bool wide = false;
};

} // namespace

/// The ops that are one function of the same name in torch and math.
static const llvm::StringMap<StringRef> &getFunctions() {
  static const llvm::StringMap<StringRef> functions = {
      {"math.exp", "exp"},     {"math.exp2", "exp2"},
      {"math.expm1", "expm1"}, {"math.log", "log"},
      {"math.log2", "log2"},   {"math.log10", "log10"},
      {"math.log1p", "log1p"}, {"math.sqrt", "sqrt"},
      {"math.sin", "sin"},     {"math.cos", "cos"},
      {"math.tan", "tan"},     {"math.tanh", "tanh"},
      {"math.sinh", "sinh"},   {"math.cosh", "cosh"},
      {"math.asin", "asin"},   {"math.acos", "acos"},
      {"math.atan", "atan"},   {"math.atan2", "atan2"},
      {"math.erf", "erf"},     {"math.erfc", "erfc"},
      {"math.ceil", "ceil"},   {"math.floor", "floor"},
      {"math.trunc", "trunc"}, {"math.copysign", "copysign"},
      {"arith.remf", "fmod"},
  };
  return functions;
}

FailureOr<Expr> ScalarEmitter::emit() {
  StringRef name = op->getName().getStringRef();
  if (auto entry = getFunctions().find(name); entry != getFunctions().end())
    return function(entry->second);

  using Case = FailureOr<Expr>;
  return llvm::TypeSwitch<Operation *, Case>(op)
      .Case<arith::AddFOp, arith::AddIOp>(
          [&](auto) -> Case { return binary("+", Sum); })
      .Case<arith::SubFOp, arith::SubIOp>(
          [&](auto) -> Case { return binary("-", Sum); })
      .Case<arith::MulFOp, arith::MulIOp>(
          [&](auto) -> Case { return binary("*", Product); })
      .Case<arith::DivFOp>([&](auto) -> Case { return binary("/", Product); })
      .Case<arith::NegFOp>([&](auto) -> Case {
        return make("-" + operands[0].bind(Unary), Unary);
      })
      .Case<arith::MaximumFOp, arith::MaxSIOp>(
          [&](auto) -> Case { return extremum(true); })
      .Case<arith::MinimumFOp, arith::MinSIOp>(
          [&](auto) -> Case { return extremum(false); })
      .Case<arith::MaxNumFOp>([&](auto) -> Case {
        return numbers ? extremum(true) : FailureOr<Expr>(call("torch.fmax"));
      })
      .Case<arith::MinNumFOp>([&](auto) -> Case {
        return numbers ? extremum(false) : FailureOr<Expr>(call("torch.fmin"));
      })
      .Case<arith::MaxUIOp, arith::MinUIOp>([&](auto) -> Case {
        if (!isSize())
          return refuse(": expected signed integers, or indices");
        return extremum(isa<arith::MaxUIOp>(op));
      })
      .Case<arith::FloorDivSIOp>(
          [&](auto) -> Case { return binary("//", Product); })
      .Case<arith::DivUIOp, arith::RemUIOp>([&](auto) -> Case {
        if (!isSize())
          return refuse(": expected signed integers, or indices");
        return binary(isa<arith::DivUIOp>(op) ? "//" : "%", Product);
      })
      .Case<arith::CeilDivSIOp, arith::CeilDivUIOp>([&](auto) -> Case {
        if (isa<arith::CeilDivUIOp>(op) && !isSize())
          return refuse(": expected signed integers, or indices");
        return make("-(-" + operands[0].bind(Unary) + " // " +
                        operands[1].bind(Unary) + ")",
                    Unary);
      })
      .Case<arith::DivSIOp>([&](auto) -> Case {
        if (numbers)
          return make("int(" + operands[0].bind(Product) + " / " +
                          operands[1].bind(Unary) + ")",
                      Atom);
        return make("torch.div(" + operands[0].text + ", " + operands[1].text +
                        ", rounding_mode=\"trunc\")",
                    Atom);
      })
      .Case<arith::RemSIOp>([&](auto) -> Case {
        if (numbers)
          return make("int(math.fmod(" + operands[0].text + ", " +
                          operands[1].text + "))",
                      Atom);
        return call("torch.fmod");
      })
      .Case<arith::AndIOp>(
          [&](auto) -> Case { return logical("&", "and", And); })
      .Case<arith::OrIOp>([&](auto) -> Case { return logical("|", "or", Or); })
      .Case<arith::XOrIOp>([&](auto) -> Case { return logical("^", "", Xor); })
      .Case<arith::ShLIOp>([&](auto) -> Case { return binary("<<", Shift); })
      .Case<arith::ShRSIOp>([&](auto) -> Case { return binary(">>", Shift); })
      .Case<arith::CmpIOp>([&](arith::CmpIOp cmp) -> Case {
        switch (cmp.getPredicate()) {
        case arith::CmpIPredicate::eq:
          return compare("==");
        case arith::CmpIPredicate::ne:
          return compare("!=");
        case arith::CmpIPredicate::slt:
          return compare("<");
        case arith::CmpIPredicate::sle:
          return compare("<=");
        case arith::CmpIPredicate::sgt:
          return compare(">");
        case arith::CmpIPredicate::sge:
          return compare(">=");
        default:
          break;
        }
        if (!isSize()) {
          // Negative numbers are large unsigned ones.
          APInt bound;
          if (cmp.getPredicate() == arith::CmpIPredicate::ult &&
              matchPattern(cmp.getRhs(), m_ConstantInt(&bound)) &&
              !bound.isNegative()) {
            const Expr &x = operands[0], &end = operands[1];
            if (numbers)
              return make("0 <= " + x.bind(Or) + " < " + end.bind(Or),
                          Comparison);
            return make("(" + x.bind(Or) + " >= 0) & (" + x.bind(Or) + " < " +
                            end.bind(Or) + ")",
                        And);
          }
          return refuse(": expected signed integers, or indices");
        }
        switch (cmp.getPredicate()) {
        case arith::CmpIPredicate::ult:
          return compare("<");
        case arith::CmpIPredicate::ule:
          return compare("<=");
        case arith::CmpIPredicate::ugt:
          return compare(">");
        default:
          return compare(">=");
        }
      })
      .Case<arith::CmpFOp>([&](arith::CmpFOp cmp) -> Case {
        // Ordered comparisons, and != of which the unordered one is Python's.
        switch (cmp.getPredicate()) {
        case arith::CmpFPredicate::OEQ:
          return compare("==");
        case arith::CmpFPredicate::UNE:
          return compare("!=");
        case arith::CmpFPredicate::OLT:
          return compare("<");
        case arith::CmpFPredicate::OLE:
          return compare("<=");
        case arith::CmpFPredicate::OGT:
          return compare(">");
        case arith::CmpFPredicate::OGE:
          return compare(">=");
        default:
          return refuse(": expected an ordered comparison, or une");
        }
      })
      .Case<arith::SelectOp>([&](auto) -> Case {
        if (operands[0].isNumber) {
          std::string text = operands[1].bind(Comparison) + " if " +
                             operands[0].bind(Comparison) + " else " +
                             operands[2].bind(Conditional);
          return make(text, Conditional);
        }
        Expr expr = call("torch.where");
        if (operands[1].isNumber && operands[2].isNumber) {
          expr.text += ".to(" +
                       getTorchType(getElementTypeOrSelf(op->getResult(0))) +
                       ")";
          expr.isWide = false;
        }
        return expr;
      })
      // All floats have the type of the function.
      .Case<arith::ExtFOp, arith::TruncFOp>(
          [&](auto) -> Case { return same(); })
      .Case<arith::SIToFPOp, arith::UIToFPOp>([&](auto) -> Case {
        if (isa<arith::UIToFPOp>(op) && !isSize())
          return refuse(": expected signed integers");
        if (numbers)
          return call("float");
        Expr expr = convert("wide");
        expr.isWide = true;
        return expr;
      })
      .Case<arith::FPToSIOp>([&](auto) -> Case {
        if (numbers)
          return call("int");
        return convert(getTorchType(getElementTypeOrSelf(op->getResult(0))));
      })
      .Case<arith::IndexCastOp, arith::IndexCastUIOp, arith::ExtSIOp,
            arith::ExtUIOp, arith::TruncIOp>([&](auto) -> Case {
        Type from = elementType(0), to = getElementTypeOrSelf(op->getResult(0));
        std::string type = getTorchType(to);
        if (isa<arith::IndexCastUIOp>(op) && !from.isInteger(1) &&
            from.isIntOrIndex() && !from.isIndex() && !to.isInteger(64))
          return refuse(": expected signed integers");
        if (isa<arith::ExtUIOp>(op) && !from.isInteger(1))
          return refuse(": expected signed integers, or i1");
        if (type.empty())
          return refuse(": expected i1, i8, i16, i32, i64 or index");
        if (isa<arith::ExtSIOp>(op) && from.isInteger(1))
          return refuse(": expected integers wider than i1");
        if (isa<arith::TruncIOp>(op) && to.isInteger(1))
          return numbers ? make("bool(" + operands[0].bind(And) + " & 1)", Atom)
                         : make("(" + operands[0].bind(And) + " & 1).to(" +
                                    type + ")",
                                Atom);
        if (numbers)
          return from.isInteger(1) ? call("int") : same();
        if (type == getTorchType(from))
          return same();
        return convert(type);
      })
      .Case<math::RsqrtOp>([&](auto) -> Case {
        if (numbers)
          return make("1.0 / math.sqrt(" + operands[0].text + ")", Product);
        return call("torch.rsqrt");
      })
      .Case<math::AbsFOp, math::AbsIOp>(
          [&](auto) -> Case { return call(numbers ? "abs" : "torch.abs"); })
      .Case<math::PowFOp, math::FPowIOp>([&](auto) -> Case {
        return call(numbers ? "math.pow" : "torch.pow");
      })
      .Case<math::RoundEvenOp>(
          [&](auto) -> Case { return call(numbers ? "round" : "torch.round"); })
      .Case<math::RoundOp>([&](auto) -> Case {
        // Half away from zero, which torch.round is not.
        std::string x = operands[0].text;
        return make((numbers ? "math.copysign(math.floor(abs(" + x +
                                   ") + 0.5), " + x + ")"
                             : "torch.copysign(torch.floor(torch.abs(" + x +
                                   ") + 0.5), " + x + ")"),
                    Atom);
      })
      .Case<math::FmaOp>([&](auto) -> Case {
        return make(operands[0].bind(Product) + " * " +
                        operands[1].bind(Unary) + " + " +
                        operands[2].bind(Product),
                    Sum);
      })
      .Default([&](Operation *) -> Case { return refuse(); });
}

FailureOr<Expr> quant_llm::torch::emitScalarOp(Operation *op,
                                               llvm::ArrayRef<Expr> operands) {
  if (op->getNumResults() != 1 || op->getNumRegions() != 0) {
    op->emitOpError("cannot be translated to PyTorch");
    return failure();
  }
  return ScalarEmitter(op, operands).emit();
}
