//===- Expression.h - Python expressions over tensors -----------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The scalar operations of arith and math become operations on whole tensors.
// An expression knows which loop dimensions its tensor has, so that operands
// broadcast against each other without more views than a person would write.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_LIB_TARGET_TORCH_EXPRESSION_H
#define QUANT_LLM_LIB_TARGET_TORCH_EXPRESSION_H

#include "mlir/IR/Operation.h"
#include "llvm/ADT/SmallVector.h"

#include <optional>
#include <string>

namespace quant_llm::torch {

/// Binding strength of Python's operators.
enum Precedence {
  Conditional,
  Comparison,
  Or,
  Xor,
  And,
  Shift,
  Sum,
  Product,
  Unary,
  Atom
};

struct Expr {
  std::string text;
  Precedence precedence = Atom;
  /// The loop dimensions of the tensor, rising.
  llvm::SmallVector<unsigned, 4> dims;
  /// A Python number and no tensor.
  bool isNumber = false;
  /// A tensor of at least float32, whatever `dtype` is: made of integers, which
  /// narrower types do not hold.
  bool isWide = false;
  /// Set for the index of a loop.
  std::optional<unsigned> loop;

  static Expr name(std::string text, llvm::ArrayRef<unsigned> dims) {
    Expr expr;
    expr.text = std::move(text);
    expr.dims.assign(dims.begin(), dims.end());
    return expr;
  }
  static Expr number(std::string text, Precedence precedence = Atom) {
    Expr expr;
    expr.text = std::move(text);
    expr.precedence = precedence;
    expr.isNumber = true;
    return expr;
  }

  /// The text, in parentheses if it binds less than `least`.
  std::string bind(Precedence least) const {
    return precedence < least ? "(" + text + ")" : text;
  }
};

/// The loop dimensions of several expressions together.
llvm::SmallVector<unsigned, 4> joinDims(llvm::ArrayRef<Expr> exprs);

/// `expr` with a view such that it broadcasts against tensors of `dims`.
Expr align(const Expr &expr, llvm::ArrayRef<unsigned> dims);

/// A float as Python spells it; the shortest text that gives back a float32.
std::string printFloat(double value);

/// A string literal of Python, whatever is in the text, without quotes inside;
/// bytes that are no UTF-8 become U+FFFD.
std::string quotePython(llvm::StringRef text);

/// "torch.int64" and so on of a type of integers, "dtype" of one of floats;
/// empty for other types.
std::string getTorchType(mlir::Type type);

/// The expression of a scalar op of arith or math, or of such an op on tensors;
/// a failure has been diagnosed.
mlir::FailureOr<Expr> emitScalarOp(mlir::Operation *op,
                                   llvm::ArrayRef<Expr> operands);

} // namespace quant_llm::torch

#endif // QUANT_LLM_LIB_TARGET_TORCH_EXPRESSION_H
