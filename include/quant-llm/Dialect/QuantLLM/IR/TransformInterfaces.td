//===- TransformInterfaces.td - Channel transforms ---------*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_IR_TRANSFORMINTERFACES_TD
#define QUANT_LLM_DIALECT_QUANTLLM_IR_TRANSFORMINTERFACES_TD

include "mlir/IR/OpBase.td"

def QuantLLM_ChannelTransformOpInterface
    : OpInterface<"ChannelTransformOpInterface"> {
  let cppNamespace = "::quant_llm";
  let description = [{
    An op that applies an invertible transform to the channels of its input, or the
    inverse of that transform.
  }];
  let methods = [
    InterfaceMethod<"The tensor that is transformed.",
      "::mlir::TypedValue<::mlir::RankedTensorType>", "getInput">,
    InterfaceMethod<"What the op does to it.",
      "::quant_llm::ChannelTransform", "getTransform">,
  ];
}

def QuantLLM_TransformCommuteOpInterface
    : OpInterface<"TransformCommuteOpInterface"> {
  let cppNamespace = "::quant_llm";
  let description = [{
    How a channel transform crosses an op. Dialects implement it for their ops, or
    attach external models to those of others; without it nothing crosses an op.

    Statements hold for exact arithmetic. Data that a transform on the other
    side needs (a vector that is repeated, a transposed matrix) is made with the builder,
    whose insertion point all operands of the transform dominate; ops that turn out not
    to be needed are removed by the caller.
  }];
  let methods = [
    InterfaceMethod<[{
        Ways to have the transform applied to the result by transforming operands only:
        `transform(op(x, y)) = op(x', y')`, where the operands in a way are
        replaced by their transformed values and all others stay. In the order of
        preference; empty if there is none. An operand may belong to an op in a region
        of the op.
      }],
      "void", "hoistTransform",
      (ins "const ::quant_llm::ChannelTransform &":$transform,
           "::mlir::OpBuilder &":$builder,
           "::llvm::SmallVectorImpl<::quant_llm::OperandTransforms> &":$ways),
      "", "">,
    InterfaceMethod<[{
        What a transform of one operand does to the (single) result, if further operands
        are transformed as well: `op(transform(x), y) = result(op(x, y'))`, with y' the
        operands in `others`. `result` has no value if the transform is absorbed.
        Fails if the transform cannot cross.
      }],
      "::llvm::LogicalResult", "sinkTransform",
      (ins "::mlir::OpOperand &":$operand,
           "const ::quant_llm::ChannelTransform &":$transform,
           "::mlir::OpBuilder &":$builder,
           "::quant_llm::OperandTransforms &":$others,
           "std::optional<::quant_llm::ChannelTransform> &":$result),
      "", "return ::llvm::failure();">,
  ];
}

#endif // QUANT_LLM_DIALECT_QUANTLLM_IR_TRANSFORMINTERFACES_TD
