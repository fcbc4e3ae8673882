//===- DecomposeWeights.cpp - Weight parameters to their components -------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Conversion/Passes.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/SymbolTable.h"

namespace quant_llm {
#define GEN_PASS_DEF_DECOMPOSEWEIGHTS
#include "quant-llm/Conversion/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

namespace {

struct DecomposeWeights
    : public quant_llm::impl::DecomposeWeightsBase<DecomposeWeights> {
  using DecomposeWeightsBase::DecomposeWeightsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    SymbolTable symbols(module);
    OpBuilder builder(&getContext());
    // One parameter per component, after that of the weight.
    DenseMap<StringAttr, SmallVector<ParameterOp>> components;
    SmallVector<ParameterOp> weights;
    for (auto parameter : module.getOps<ParameterOp>())
      if (isa<WeightType>(parameter.getType()))
        weights.push_back(parameter);
    for (ParameterOp parameter : weights) {
      auto type = cast<WeightType>(parameter.getType());
      builder.setInsertionPoint(parameter);
      SmallVector<ParameterOp> &parts = components[parameter.getSymNameAttr()];
      for (auto [name, componentType] :
           llvm::zip(type.getComponentNames(), type.getComponentTypes())) {
        std::string key = (parameter.getArchiveKey() + "." + name).str();
        auto part = ParameterOp::create(
            builder, parameter.getLoc(),
            (parameter.getSymName() + "." + name).str(), parameter.getArchive(),
            builder.getStringAttr(key), componentType);
        // May rename it if the module has such a symbol already.
        symbols.insert(part);
        parts.push_back(part);
      }
    }
    module.walk([&](GetParameterOp op) {
      auto type = dyn_cast<WeightType>(op.getType());
      if (!type)
        return;
      auto parameter = symbols.lookup<ParameterOp>(op.getParameter());
      builder.setInsertionPoint(op);
      SmallVector<Value> parts;
      for (ParameterOp part : components[parameter.getSymNameAttr()])
        parts.push_back(GetParameterOp::create(
            builder, op.getLoc(), part.getType(), part.getSymName()));
      Value weight = AssembleOp::create(builder, op.getLoc(), type, parts);
      op.replaceAllUsesWith(weight);
      op.erase();
    });
    for (ParameterOp parameter : weights)
      if (SymbolTable::symbolKnownUseEmpty(parameter, module))
        parameter.erase();
  }
};

} // namespace
