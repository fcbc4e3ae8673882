//===- KernelFrame.cpp - Arguments and results of GPU kernels -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelFrame.h"

#include "mlir/IR/IRMapping.h"

using namespace mlir;
using namespace quant_llm;

Type quant_llm::toMLIR(Builder &b, TensorType type) {
  switch (type) {
  case TensorType::F16:
    return b.getF16Type();
  case TensorType::BF16:
    return b.getBF16Type();
  case TensorType::F32:
    return b.getF32Type();
  }
  return {};
}

KernelFrame::KernelFrame(PTXBuilder &b, gpu::GPUModuleOp module, StringRef name,
                         const KernelProblem &problem,
                         const KernelConfig &config, Region *epilogue,
                         const LaunchShape &shape)
    : b(b), problem(problem), epilogue(epilogue) {
  MLIRContext *context = b.getContext();
  Type global = b.pointer(kGlobalSpace);
  SmallVector<Type> types;
  SmallVector<std::string> names;
  auto argument = [&](Type type, const Twine &name) {
    types.push_back(type);
    names.push_back(name.str());
  };

  bool usesTensorMap = config.copy == ActivationCopy::Tensor;
  if (usesTensorMap)
    argument(b.pointer(kGenericSpace), "tensor_map_x");
  else
    argument(global, "x");
  for (unsigned j = 0; j != problem.numWeights; ++j) {
    argument(global, "packed" + Twine(j));
    argument(global, "packed_scales" + Twine(j));
    if (problem.scheme.zero != ZeroKind::None)
      argument(global, "packed_zeros" + Twine(j));
    argument(b.f32Type(), "output_scale" + Twine(j));
  }
  argument(global, "y");
  for (unsigned i = 0; i != problem.epilogue.size(); ++i)
    argument(global, "epilogue" + Twine(i));
  argument(b.i32Type(), "m");

  SmallVector<NamedAttribute> attributes;
  auto attribute = [&](StringRef name, Attribute value) {
    attributes.push_back(b.getNamedAttr(name, value));
  };
  attribute("gpu.kernel", b.getUnitAttr());
  attribute("nvvm.kernel", b.getUnitAttr());
  attribute("nvvm.reqntid",
            b.getDenseI32ArrayAttr({int32_t(shape.threads), 1, 1}));
  attribute("nvvm.minctasm", b.getI32IntegerAttr(config.ctasPerSM));

  SmallVector<NamedAttribute> description;
  auto describe = [&](StringRef name, Attribute value) {
    description.push_back(b.getNamedAttr(name, value));
  };
  SmallVector<StringRef> nameRefs(names.begin(), names.end());
  describe("args", b.getStrArrayAttr(nameRefs));
  describe("cluster", b.getI32IntegerAttr(config.split));
  describe("ctas_per_sm", b.getI32IntegerAttr(config.ctasPerSM));
  describe("grid", b.getStringAttr(shape.persistent ? "persistent" : "tiles"));
  describe("row_tile", b.getI32IntegerAttr(config.rowTile));
  describe("shared_bytes", b.getI32IntegerAttr(shape.sharedBytes));
  describe("split", b.getI32IntegerAttr(config.split));
  describe("threads", b.getI32IntegerAttr(shape.threads));
  describe("token_tile", b.getI32IntegerAttr(config.tokenTile));
  describe("tokens", b.getI64ArrayAttr({config.minTokens, config.maxTokens}));
  if (usesTensorMap)
    describe(
        "tensor_map_x",
        b.getDictionaryAttr(
            {b.getNamedAttr("box_k", b.getI32IntegerAttr(shape.boxColumns)),
             b.getNamedAttr("box_tokens",
                            b.getI32IntegerAttr(config.tokenTile)),
             b.getNamedAttr("swizzle", b.getI32IntegerAttr(128))}));
  attribute("quant_llm.launch", b.getDictionaryAttr(description));

  SmallVector<DictionaryAttr> argumentAttributes(types.size(),
                                                 b.getDictionaryAttr({}));
  if (usesTensorMap)
    argumentAttributes[0] = b.getDictionaryAttr(
        {b.getNamedAttr("llvm.byval", TypeAttr::get(LLVM::LLVMArrayType::get(
                                          b.getI8Type(), 128))),
         b.getNamedAttr("llvm.align", b.getI64IntegerAttr(128)),
         b.getNamedAttr("nvvm.grid_constant", b.getUnitAttr())});

  b.setInsertionPointToEnd(&module.getBodyRegion().front());
  func = LLVM::LLVMFuncOp::create(
      b, name,
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context), types),
      LLVM::Linkage::External, /*dsoLocal=*/false, LLVM::CConv::C,
      SymbolRefAttr(), attributes, argumentAttributes);
  Block *entry = func.addEntryBlock(b);
  b.setInsertionPointToStart(entry);
  LLVM::ReturnOp::create(b, ValueRange());
  b.setInsertionPointToStart(entry);

  for (auto [index, name] : llvm::enumerate(names)) {
    Value value = entry->getArgument(index);
    StringRef kind = StringRef(name).rtrim("0123456789");
    value.setLoc(NameLoc::get(b.getStringAttr(name), b.getLoc()));
    if (kind == "tensor_map_x")
      tensorMapX = value;
    else if (kind == "x")
      x = value;
    else if (kind == "packed")
      packed.push_back(value);
    else if (kind == "packed_scales")
      scales.push_back(value);
    else if (kind == "packed_zeros")
      zeros.push_back(value);
    else if (kind == "output_scale")
      outputScales.push_back(value);
    else if (kind == "y")
      y = value;
    else if (kind == "epilogue")
      epilogueOperands.push_back(value);
    else
      m = value;
  }
}

Value KernelFrame::sumFactor(Dequantizer &dequantizer, unsigned j, Value row) {
  Value factor = b.mulF(outputScales[j], b.f32(dequantizer.outputFactor()));
  if (dequantizer.mode() == ScaleMode::Channel)
    factor = b.mulF(dequantizer.channelScale(scales[j], row), factor);
  return factor;
}

Value KernelFrame::elementPointer(Value base, Value row, Value token,
                                  Type type) {
  Value index = b.toI64(row);
  if (token)
    index = b.add(b.mul(b.toI64(token), b.i64(problem.n)), index);
  return b.offsetPointer(base,
                         b.mul(index, b.i64(type.getIntOrFloatBitWidth() / 8)));
}

Type KernelFrame::operandType(unsigned i) {
  return epilogue->front().getArgument(problem.numWeights + i).getType();
}

Value KernelFrame::operandPointer(unsigned i, Value row, Value token) {
  return elementPointer(epilogueOperands[i], row,
                        problem.epilogue[i].perElement ? token : Value(),
                        operandType(i));
}

Value KernelFrame::resultPointer(Value row, Value token) {
  return elementPointer(y, row, token, toMLIR(b, problem.output));
}

Value KernelFrame::finish(ValueRange sums, ValueRange operands) {
  if (!epilogue)
    return b.fromF32(sums.front(), toMLIR(b, problem.output));
  IRMapping mapping;
  Block &body = epilogue->front();
  for (auto [argument, value] :
       llvm::zip(body.getArguments(),
                 llvm::concat<const Value>(Values(sums), Values(operands))))
    mapping.map(argument, value);
  for (Operation &op : body.without_terminator())
    b.clone(op, mapping);
  return mapping.lookupOrDefault(body.getTerminator()->getOperand(0));
}

void KernelFrame::storeResult(Dequantizer &dequantizer, Value row, Value token,
                              ValueRange rawSums) {
  PTXBuilder::Scope scope(b, "epilogue");
  Values sums, operands;
  for (auto [j, sum] : llvm::enumerate(rawSums))
    sums.push_back(b.mulF(sum, sumFactor(dequantizer, j, row)));
  for (unsigned i = 0; i != problem.epilogue.size(); ++i)
    operands.push_back(b.load(operandType(i), operandPointer(i, row, token),
                              operandType(i).getIntOrFloatBitWidth() / 8));
  Value result = finish(sums, operands);
  b.store(result, resultPointer(row, token),
          result.getType().getIntOrFloatBitWidth() / 8);
}
