//===- TranslateToTorch.cpp - From IR to PyTorch source -------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// How it is done:
// - The function becomes a list of ops; blocks are transparent. A part of it is
//   a range of this list.
// - Every op of the range becomes statements that assign each name once, and
//   whatever the results do not need is dropped at the end. So the emission of
//   an op need not ask whether anybody wants it (destinations of linalg ops,
//   for instance, are seldom read).
// - linalg ops are all alike: a body on scalars becomes expressions on tensors
//   that broadcast over the loops, and a reduction one call around them, or a
//   matrix product or an einsum if it is a contraction.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Target/Torch.h"

#include "Expression.h"
#include "WeightFormulas.h"
#include "quant-llm/Conversion/QuantLLMToLinalg/QuantLLMToLinalg.h"
#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Transforms/RegionUtils.h"
#include "mlir/Transforms/WalkPatternRewriteDriver.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/JSON.h"

#include <limits>
#include <set>

using namespace mlir;
using namespace quant_llm;
using namespace quant_llm::torch;

namespace {

/// Lines of the Python function. They assign `defines`, or change the tensor
/// that has this name already.
struct Statement {
  std::string text;
  std::string defines;
  /// Of which block, -1 for none.
  int64_t block = -1;
  bool keep = false;
};

/// Dense constants up to this size are part of the source.
constexpr int64_t kMaxConstant = 65536;

class Translator {
public:
  Translator(func::FuncOp function, const TorchOptions &options)
      : function(function), options(options) {}

  FailureOr<TorchSource> translate();

private:
  struct Use {
    Operation *op;
    /// Null for a value that a region captures.
    OpOperand *operand;
  };

  // The function as a list.
  LogicalResult flatten();
  LogicalResult flatten(Block &block, int64_t index);
  LogicalResult chooseRange();
  void findSlots();
  bool followSlots(Value value, std::pair<int64_t, int64_t> &range,
                   SmallVectorImpl<Value> &chain);
  Value resolve(Value value) const;
  bool isInRange(Operation *op) const {
    auto entry = position.find(op);
    return entry != position.end() && entry->second >= rangeBegin &&
           entry->second < rangeEnd;
  }
  bool isDefinedInRange(Value value) const {
    Operation *op = value.getDefiningOp();
    return op && isInRange(op);
  }
  bool isShapeOnly(const Use &use) const;
  bool isRematerializable(Value value) const;

  // Names.
  GetParameterOp getParameter(Value weight) const;
  std::string getBaseName(Value value);
  std::string makeName(StringRef base);
  std::string nameOf(Value value) { return makeName(getBaseName(value)); }

  // Values.
  FailureOr<Expr> get(Value value);
  FailureOr<Expr> getTensor(Value value);
  FailureOr<SmallVector<std::string>> getComponents(Value value);
  FailureOr<Expr> getSize(Value tensor, int64_t dim);
  FailureOr<std::string> getIndex(OpFoldResult value);
  FailureOr<std::string> getShape(Value tensor);
  Expr addInput(Value value);
  void assign(Value value, const Expr &expr);
  Expr assignTemporary(StringRef base, const Expr &expr);
  void add(const std::string &name, const std::string &text) {
    Statement statement;
    statement.text = text;
    statement.defines = name;
    statement.block = currentBlock;
    statements.push_back(std::move(statement));
  }
  std::string narrow(const Expr &expr) const {
    return expr.isWide ? expr.bind(Atom) + ".to(dtype)" : expr.text;
  }
  void addAssertion(cf::AssertOp op, const Expr &holds);
  static SmallVector<unsigned> iota(unsigned count) {
    return llvm::to_vector(llvm::seq<unsigned>(0, count));
  }

  // Ops.
  LogicalResult emit(Operation *op);
  LogicalResult emitConstant(arith::ConstantOp op);
  LogicalResult emitLinalg(linalg::LinalgOp op);
  FailureOr<Expr> emitReduction(linalg::LinalgOp op, unsigned result,
                                ArrayRef<unsigned> order,
                                DenseMap<Value, Expr> &body);
  FailureOr<Expr> emitContraction(linalg::LinalgOp op, Value left, Value right,
                                  ArrayRef<unsigned> order);
  FailureOr<Expr> getOperandInLoops(linalg::LinalgOp op, OpOperand &operand,
                                    ArrayRef<unsigned> order);
  LogicalResult emitBody(Block &block, DenseMap<Value, Expr> &body,
                         linalg::LinalgOp op, ArrayRef<unsigned> order);
  FailureOr<Expr> emitExtract(tensor::ExtractOp op, ArrayRef<Expr> indices,
                              unsigned numLoops);
  LogicalResult emitSlice(tensor::ExtractSliceOp op);
  LogicalResult emitInsert(tensor::InsertSliceOp op);
  FailureOr<std::string> getSubscript(Operation *op, Value tensor,
                                      ArrayRef<OpFoldResult> offsets,
                                      ArrayRef<OpFoldResult> sizes,
                                      ArrayRef<OpFoldResult> strides,
                                      const llvm::SmallBitVector &dropped);
  LogicalResult emitReshape(Operation *op, Value source, Value result,
                            ArrayRef<ReassociationIndices> groups, bool expand);
  LogicalResult emitPad(tensor::PadOp op);
  LogicalResult emitLinear(LinearOp op);
  LogicalResult emitWeight(Operation *op);
  LogicalResult emitActivation(Operation *op);

  std::string finish();
  void dropUnused(ArrayRef<std::string> results);
  void renumber(SmallVectorImpl<std::string> &results);

  func::FuncOp function;
  const TorchOptions &options;
  TorchSource source;

  std::vector<Operation *> ops;
  std::vector<int64_t> blockOf; // of ops
  DenseMap<Operation *, int64_t> position;
  DenseMap<Value, Value> alias;
  DenseMap<Value, int64_t> ids;
  DenseMap<Value, SmallVector<Use>> uses;
  int64_t rangeBegin = 0, rangeEnd = 0;
  /// Tensors of which the part has only the entries [begin, end) of the first
  /// dimension.
  DenseMap<Value, std::pair<int64_t, int64_t>> slots;

  DenseMap<Value, Expr> values;
  /// The names of sizes such as "x.shape[0]".
  llvm::StringMap<std::string> sizeNames;
  DenseMap<Value, SmallVector<std::string>> components;
  /// What is fake-quantized: the name of the dense matrix.
  DenseMap<Value, std::string> fakeQuantized;
  /// Tensors that nobody else sees: they may be changed.
  DenseSet<Value> owned;
  llvm::StringSet<> taken, reserved;
  std::vector<Statement> statements;
  SmallVector<Value> inputs;
  std::set<Helper> helpers;
  int64_t currentBlock = -1;
};

} // namespace

//===----------------------------------------------------------------------===//
// The function as a list
//===----------------------------------------------------------------------===//

Value Translator::resolve(Value value) const {
  while (true) {
    auto entry = alias.find(value);
    if (entry == alias.end())
      return value;
    value = entry->second;
  }
}

LogicalResult Translator::flatten(Block &block, int64_t index) {
  for (Operation &op : block) {
    int64_t inside = index;
    if (auto blockOp = dyn_cast<BlockOp>(op)) {
      inside = blockOp.getIndex();
      source.blocks.push_back(inside);
    }
    if (isa<BlockOp, CrossBlockOp>(op)) {
      Block &body = op.getRegion(0).front();
      if (failed(flatten(body, inside)))
        return failure();
      for (auto [result, value] : llvm::zip_equal(
               op.getResults(), body.getTerminator()->getOperands()))
        alias[result] = value;
      continue;
    }
    if (isa<YieldOp>(op))
      continue;
    position[&op] = ops.size();
    ops.push_back(&op);
    blockOf.push_back(index);
    for (Value result : op.getResults())
      ids[result] = ids.size();
    for (OpOperand &operand : op.getOpOperands())
      uses[resolve(operand.get())].push_back({&op, &operand});
    llvm::SetVector<Value> captured;
    getUsedValuesDefinedAbove(op.getRegions(), captured);
    for (Value value : captured)
      uses[resolve(value)].push_back({&op, nullptr});
  }
  return success();
}

LogicalResult Translator::flatten() {
  if (!llvm::hasSingleElement(function.getBody()))
    return function.emitOpError("cannot be translated to PyTorch: expected a "
                                "function of one block but got ")
           << function.getBody().getBlocks().size();
  for (BlockArgument argument : function.getArguments())
    ids[argument] = ids.size();
  return flatten(function.getBody().front(), -1);
}

LogicalResult Translator::chooseRange() {
  rangeBegin = 0;
  rangeEnd = ops.size() - 1; // without the return
  if (options.part == TorchOptions::Part::Whole)
    return success();
  // The first and the one behind the last op of each block; what is between
  // blocks goes with the one before.
  auto firstOf = [&](int64_t block) {
    return llvm::find(blockOf, block) - blockOf.begin();
  };
  if (source.blocks.empty()) {
    if (options.part == TorchOptions::Part::Front)
      return success();
    return function.emitOpError("has no blocks; run quant-llm-form-blocks");
  }
  auto endOf = [&](int64_t block) -> int64_t {
    auto next = llvm::find(source.blocks, block) + 1;
    if (next != source.blocks.end())
      return firstOf(*next);
    return blockOf.rend() - std::find(blockOf.rbegin(), blockOf.rend(), block);
  };
  switch (options.part) {
  case TorchOptions::Part::Front:
    rangeEnd = firstOf(source.blocks.front());
    return success();
  case TorchOptions::Part::Back:
    rangeBegin = endOf(source.blocks.back());
    return success();
  default:
    break;
  }
  for (int64_t block : {options.firstBlock, options.lastBlock})
    if (!llvm::is_contained(source.blocks, block))
      return function.emitOpError("has no block ")
             << block << "; it has " << source.blocks.front() << " to "
             << source.blocks.back();
  rangeBegin = firstOf(options.firstBlock);
  rangeEnd = endOf(options.lastBlock);
  if (rangeBegin > rangeEnd || options.firstBlock > options.lastBlock)
    return function.emitOpError("expected the first block to be before the "
                                "last but got ")
           << options.firstBlock << " and " << options.lastBlock;
  return success();
}

/// Whether all that the part does with `value` is to read and write entries of
/// its first dimension that are known, and which; `chain` is the value and what
/// is written into it.
bool Translator::followSlots(Value value, std::pair<int64_t, int64_t> &range,
                             SmallVectorImpl<Value> &chain) {
  chain.push_back(value);
  for (const Use &use : uses.lookup(value)) {
    if (!isInRange(use.op)) {
      continue;
    }
    if (!use.operand)
      return false;
    SmallVector<OpFoldResult> offsets, sizes, strides;
    Value result;
    if (auto slice = dyn_cast<tensor::ExtractSliceOp>(use.op);
        slice && use.operand == &slice.getSourceMutable()) {
      offsets = slice.getMixedOffsets();
      sizes = slice.getMixedSizes();
      strides = slice.getMixedStrides();
    } else if (auto insert = dyn_cast<tensor::InsertSliceOp>(use.op);
               insert && use.operand == &insert.getDestMutable()) {
      offsets = insert.getMixedOffsets();
      sizes = insert.getMixedSizes();
      strides = insert.getMixedStrides();
      result = insert.getResult();
    } else {
      auto dim = dyn_cast<tensor::DimOp>(use.op);
      if (dim && dim.getConstantIndex().value_or(0) > 0)
        continue;
      return false;
    }
    std::optional<int64_t> offset = getConstantIntValue(offsets.front()),
                           size = getConstantIntValue(sizes.front());
    if (!offset || !size || !isConstantIntValue(strides.front(), 1))
      return false;
    range.first = std::min(range.first, *offset);
    range.second = std::max(range.second, *offset + *size);
    if (result && !followSlots(result, range, chain))
      return false;
  }
  return true;
}

void Translator::findSlots() {
  if (options.part != TorchOptions::Part::Blocks)
    return;
  SmallVector<Value> outside;
  for (int64_t i = rangeBegin; i < rangeEnd; ++i)
    for (OpOperand &operand : ops[i]->getOpOperands())
      if (Value value = resolve(operand.get()); !isDefinedInRange(value))
        if (!llvm::is_contained(outside, value))
          outside.push_back(value);
  for (Value value : outside) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    if (!type || type.getRank() < 2 || type.isDynamicDim(0))
      continue;
    std::pair<int64_t, int64_t> range = {std::numeric_limits<int64_t>::max(),
                                         0};
    SmallVector<Value> chain;
    // Only what is written is a cache.
    if (followSlots(value, range, chain) && chain.size() > 1)
      for (Value member : chain)
        slots[member] = range;
  }
}

/// Whether only the shape of a tensor matters to a use of it.
bool Translator::isShapeOnly(const Use &use) const {
  if (isa<tensor::DimOp>(use.op))
    return true;
  if (!use.operand)
    return false;
  if (auto slice = dyn_cast<tensor::ExtractSliceOp>(use.op))
    return llvm::all_of(uses.lookup(slice.getResult()),
                        [&](const Use &next) { return isShapeOnly(next); });
  auto linalgOp = dyn_cast<linalg::LinalgOp>(use.op);
  return linalgOp && linalgOp.isDpsInit(use.operand) &&
         !linalgOp.payloadUsesValueFromOperand(use.operand);
}

/// What depends on no data is made again in every part.
bool Translator::isRematerializable(Value value) const {
  Operation *op = value.getDefiningOp();
  if (!op)
    return false;
  if (isa<GetParameterOp>(op) || op->hasTrait<OpTrait::ConstantLike>())
    return true;
  if (!isa<tensor::EmptyOp, AssembleOp, DequantizeOp, linalg::FillOp,
           tensor::CastOp, QuantizeOp>(op))
    return false;
  return llvm::all_of(op->getOperands(), [&](Value operand) {
    return isRematerializable(resolve(operand));
  });
}

//===----------------------------------------------------------------------===//
// Names
//===----------------------------------------------------------------------===//

/// The last part of a dotted name that is a Python identifier, without what
/// kind of parameter it is; "q_proj" of
/// "model.layers.0.self_attn.q_proj.weight".
static std::string getLastPart(StringRef name) {
  for (StringRef suffix : {".weight", ".bias"})
    name.consume_back(suffix);
  name = name.substr(name.rfind('.') + 1);
  std::string text;
  for (char c : name)
    text += llvm::isAlnum(c) || c == '_' ? c : '_';
  if (text.empty() || llvm::isDigit(text.front()))
    text = "v" + text;
  return text;
}

/// A name without the number that keeps it apart from others.
static StringRef stripNumber(StringRef name) {
  StringRef rest = name.rtrim("0123456789");
  return rest.size() < name.size() && rest.size() > 1 && rest.ends_with("_")
             ? rest.drop_back()
             : name;
}

/// The name in a location, if any.
static std::optional<StringRef> getLocationName(Location loc) {
  std::optional<StringRef> name;
  loc->walk([&](Location inner) {
    if (auto named = dyn_cast<NameLoc>(inner)) {
      name = named.getName().getValue();
      return WalkResult::interrupt();
    }
    return WalkResult::advance();
  });
  return name;
}

/// What a linalg op does, in a word.
static StringRef describe(linalg::LinalgOp op) {
  if (isa<linalg::TransposeOp>(op))
    return "transposed";
  if (isa<linalg::FillOp>(op))
    return "filled";
  Operation *yielded =
      op.getBlock()->getTerminator()->getOperand(0).getDefiningOp();
  const bool reduces = op.getNumReductionLoops() != 0;
  if (reduces && op.getNumDpsInputs() == 2 &&
      isa_and_nonnull<arith::AddFOp>(yielded))
    return "product";
  bool gathers = false;
  bool hasRoot = false;
  for (Operation &inner : *op.getBlock()) {
    gathers |= isa<tensor::ExtractOp>(inner);
    hasRoot |= isa<math::SqrtOp, math::RsqrtOp>(inner);
  }
  if (gathers)
    return "rows";
  if (hasRoot)
    return "scale";
  if (!yielded)
    return "copy";
  return llvm::TypeSwitch<Operation *, StringRef>(yielded)
      .Case<arith::AddFOp, arith::AddIOp>(
          [&](auto) { return reduces ? "total" : "added"; })
      .Case<arith::MaximumFOp, arith::MaxNumFOp>(
          [&](auto) { return reduces ? "largest" : "clamped"; })
      .Case<arith::SubFOp>([](auto) { return "difference"; })
      .Case<arith::MulFOp>([](auto) { return "scaled"; })
      .Case<arith::DivFOp>([](auto) { return "quotient"; })
      .Case<arith::SelectOp>([](auto) { return "masked"; })
      .Case<math::ExpOp>([](auto) { return "weights"; })
      .Case<math::CosOp>([](auto) { return "cosine"; })
      .Case<math::SinOp>([](auto) { return "sine"; })
      .Default([](Operation *) { return "x"; });
}

/// The parameter behind a weight that may have been quantized in between.
GetParameterOp Translator::getParameter(Value weight) const {
  weight = resolve(weight);
  while (Operation *op = weight.getDefiningOp()) {
    if (auto parameter = dyn_cast<GetParameterOp>(op))
      return parameter;
    if (!isa<QuantizeOp, DequantizeOp>(op))
      break;
    weight = resolve(op->getOperand(0));
  }
  return nullptr;
}

std::string Translator::getBaseName(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    if (auto name = function.getArgAttrOfType<StringAttr>(
            argument.getArgNumber(), kNameAttrName))
      return getLastPart(name.getValue());
    if (std::optional<StringRef> name = getLocationName(argument.getLoc()))
      return getLastPart(*name);
    return "arg" + std::to_string(argument.getArgNumber());
  }
  Operation *op = value.getDefiningOp();
  if (auto linear = dyn_cast<LinearOp>(op))
    for (Value weight : linear.getWeights())
      if (GetParameterOp parameter = getParameter(weight))
        return getLastPart(parameter.getParameter());
  if (auto parameter = dyn_cast<GetParameterOp>(op))
    return getLastPart(parameter.getParameter()) + "_weight";
  // A norm or a bias has the name of its parameter.
  if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op))
    for (Value operand : linalgOp.getDpsInputs())
      if (auto parameter = resolve(operand).getDefiningOp<GetParameterOp>())
        return getLastPart(parameter.getParameter());
  if (std::optional<StringRef> name = getLocationName(op->getLoc()))
    return getLastPart(*name);
  auto from = [&](Value source) {
    source = resolve(source);
    auto entry = values.find(source);
    if (entry == values.end() || entry->second.isNumber)
      return std::string("x");
    StringRef text = entry->second.text;
    text = text.take_while([](char c) { return llvm::isAlnum(c) || c == '_'; });
    return stripNumber(text).str();
  };
  return llvm::TypeSwitch<Operation *, std::string>(op)
      .Case<tensor::DimOp>([](auto) { return "size"; })
      .Case<tensor::EmptyOp>([](auto) { return "empty"; })
      .Case<tensor::ExtractSliceOp, tensor::CollapseShapeOp,
            tensor::ExpandShapeOp, tensor::CastOp>(
          [&](auto view) { return from(view->getOperand(0)); })
      .Case<tensor::InsertSliceOp>(
          [&](auto insert) { return from(insert.getDest()); })
      .Case<linalg::LinalgOp>(
          [&](linalg::LinalgOp linalgOp) { return describe(linalgOp).str(); })
      .Case<DequantizeOp>([](auto) { return "weight"; })
      .Case<QuantizeActivationOp>([&](auto quantize) {
        return from(quantize.getSource()) + "_quantized";
      })
      .Case<arith::ConstantOp>([](auto) { return "constant"; })
      .Default([&](Operation *) {
        return isa<ShapedType>(value.getType()) ? "x" : "n";
      });
}

std::string Translator::makeName(StringRef base) {
  if (base.empty())
    base = "x";
  std::string name = base.str();
  for (unsigned i = 1; !taken.insert(name).second; ++i)
    name = (base + "_" + Twine(i)).str();
  return name;
}

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

Expr Translator::addInput(Value value) {
  inputs.push_back(value);
  // A cache is called what it was before anything was written into it.
  Value root = value;
  while (auto insert = root.getDefiningOp<tensor::InsertSliceOp>())
    root = resolve(insert.getDest());
  std::string base = getBaseName(root);
  if (!isa<BlockArgument>(root) && (base == "added" || base == "x"))
    base = "hidden";
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (isa<ActivationType>(value.getType()))
    type = getDenseType(value.getType());
  Expr expr = type ? Expr::name(makeName(base), iota(type.getRank()))
                   : Expr::number(makeName(base));
  values[value] = expr;
  return expr;
}

FailureOr<Expr> Translator::get(Value value) {
  value = resolve(value);
  if (auto entry = values.find(value); entry != values.end())
    return entry->second;
  if (!isDefinedInRange(value)) {
    if (!isRematerializable(value))
      return addInput(value);
    if (failed(emit(value.getDefiningOp())))
      return failure();
    if (auto entry = values.find(value); entry != values.end())
      return entry->second;
  }
  Operation *op = value.getDefiningOp();
  op->emitOpError("cannot be translated to PyTorch in this place: a weight is "
                  "used other than by a linear");
  return failure();
}

FailureOr<Expr> Translator::getTensor(Value value) {
  FailureOr<Expr> expr = get(value);
  if (failed(expr) || !expr->isWide)
    return expr;
  expr->text = narrow(*expr);
  expr->precedence = Atom;
  expr->isWide = false;
  return expr;
}

void Translator::assign(Value value, const Expr &expr) {
  // A name again is no new value.
  bool isName = llvm::all_of(
      expr.text, [](char c) { return llvm::isAlnum(c) || c == '_'; });
  if (isName && !expr.isNumber) {
    values[value] = expr;
    return;
  }
  if (expr.isNumber && expr.text.size() <= 4 && expr.precedence == Atom) {
    values[value] = expr;
    return;
  }
  std::string name = nameOf(value);
  add(name, name + " = " + expr.text);
  Expr result = expr;
  result.text = name;
  result.precedence = Atom;
  result.loop.reset();
  values[value] = result;
}

Expr Translator::assignTemporary(StringRef base, const Expr &expr) {
  std::string name = makeName(base);
  add(name, name + " = " + expr.text);
  Expr result = expr;
  result.text = name;
  result.precedence = Atom;
  result.loop.reset();
  return result;
}

/// Of tensors, torch.compile makes a check of its graph of it.
void Translator::addAssertion(cf::AssertOp op, const Expr &holds) {
  std::string condition =
      holds.isNumber ? holds.bind(Comparison) : holds.bind(Atom) + ".all()";
  add("", "assert " + condition + ", " + quotePython(op.getMsg()));
}

FailureOr<Expr> Translator::getSize(Value tensor, int64_t dim) {
  tensor = resolve(tensor);
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.isDynamicDim(dim))
    return Expr::number(std::to_string(type.getDimSize(dim)));
  Operation *op = tensor.getDefiningOp();
  auto ofFold = [&](OpFoldResult size) -> FailureOr<Expr> {
    FailureOr<std::string> text = getIndex(size);
    if (failed(text))
      return failure();
    return Expr::number(*text);
  };
  if (op && (isDefinedInRange(tensor) || isRematerializable(tensor))) {
    if (auto empty = dyn_cast<tensor::EmptyOp>(op))
      return get(empty.getDynamicSize(dim));
    if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op))
      return getSize(
          linalgOp.getDpsInits()[cast<OpResult>(tensor).getResultNumber()],
          dim);
    if (auto insert = dyn_cast<tensor::InsertSliceOp>(op))
      return getSize(insert.getDest(), dim);
    if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op))
      return ofFold(expand.getMixedOutputShape()[dim]);
    if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
      ReassociationIndices group = collapse.getReassociationIndices()[dim];
      if (group.size() == 1)
        return getSize(collapse.getSrc(), group.front());
    }
    if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
      llvm::SmallBitVector dropped = slice.getDroppedDims();
      for (auto [i, size] : llvm::enumerate(slice.getMixedSizes()))
        if (!dropped.test(i) && dim-- == 0)
          return ofFold(size);
    }
  }
  FailureOr<Expr> expr = get(tensor);
  if (failed(expr))
    return failure();
  std::string text = expr->bind(Atom) + ".shape[" + std::to_string(dim) + "]";
  auto named = sizeNames.find(text);
  return Expr::number(named == sizeNames.end() ? text : named->second);
}

FailureOr<std::string> Translator::getIndex(OpFoldResult value) {
  if (std::optional<int64_t> constant = getConstantIntValue(value))
    return std::to_string(*constant);
  FailureOr<Expr> expr = get(cast<Value>(value));
  if (failed(expr))
    return failure();
  return expr->text;
}

FailureOr<std::string> Translator::getShape(Value tensor) {
  std::string text = "(";
  const int64_t rank = cast<RankedTensorType>(tensor.getType()).getRank();
  for (int64_t i = 0; i < rank; ++i) {
    FailureOr<Expr> size = getSize(tensor, i);
    if (failed(size))
      return failure();
    text += (i ? ", " : "") + size->text;
  }
  return text + (rank == 1 ? ",)" : ")");
}

//===----------------------------------------------------------------------===//
// linalg
//===----------------------------------------------------------------------===//

/// The operand as a tensor over the loops, which are renumbered: loop order[i]
/// is dimension i.
FailureOr<Expr> Translator::getOperandInLoops(linalg::LinalgOp op,
                                              OpOperand &operand,
                                              ArrayRef<unsigned> order) {
  FailureOr<Expr> found = get(operand.get());
  if (failed(found) || found->isNumber)
    return found;
  Expr expr = *found;
  AffineMap map = op.getMatchingIndexingMap(&operand);
  SmallVector<unsigned> dims;
  std::string subscript;
  bool hasConstants = false;
  for (AffineExpr result : map.getResults()) {
    if (auto dim = dyn_cast<AffineDimExpr>(result)) {
      unsigned loop = llvm::find(order, dim.getPosition()) - order.begin();
      if (llvm::is_contained(dims, loop)) {
        op.emitOpError("cannot be translated to PyTorch: operand ")
            << operand.getOperandNumber() << " uses a loop twice";
        return failure();
      }
      dims.push_back(loop);
      subscript += subscript.empty() ? ":" : ", :";
    } else if (auto constant = dyn_cast<AffineConstantExpr>(result)) {
      subscript +=
          (subscript.empty() ? "" : ", ") + std::to_string(constant.getValue());
      hasConstants = true;
    } else {
      op.emitOpError("cannot be translated to PyTorch: expected indexing maps "
                     "that select loops but operand ")
          << operand.getOperandNumber() << " has " << AffineMapAttr::get(map);
      return failure();
    }
  }
  if (hasConstants) {
    while (StringRef(subscript).ends_with(", :"))
      subscript.resize(subscript.size() - 3);
    expr.text = expr.bind(Atom) + "[" + subscript + "]";
    expr.precedence = Atom;
  }
  SmallVector<unsigned> sorted(dims);
  llvm::sort(sorted);
  if (sorted != dims) {
    std::string permutation;
    for (unsigned dim : sorted)
      permutation += (permutation.empty() ? "" : ", ") +
                     std::to_string(llvm::find(dims, dim) - dims.begin());
    expr.text = expr.bind(Atom) +
                (dims.size() == 2 ? ".T" : ".permute(" + permutation + ")");
    expr.precedence = Atom;
  }
  expr.dims.assign(sorted.begin(), sorted.end());
  return expr;
}

/// The x of x / (1 + exp(-x)), which as it stands has no gradient where exp
/// overflows; null for other ops.
static Value matchSilu(Operation *op) {
  auto div = dyn_cast<arith::DivFOp>(op);
  auto sum = div ? div.getRhs().getDefiningOp<arith::AddFOp>() : nullptr;
  if (!sum)
    return {};
  for (auto [one, other] : {std::pair(sum.getLhs(), sum.getRhs()),
                            std::pair(sum.getRhs(), sum.getLhs())}) {
    auto exp = other.getDefiningOp<math::ExpOp>();
    auto neg = exp ? exp.getOperand().getDefiningOp<arith::NegFOp>() : nullptr;
    if (neg && neg.getOperand() == div.getLhs() &&
        matchPattern(one, m_OneFloat()))
      return div.getLhs();
  }
  return {};
}

/// table[indices]: an element for every point of the loops. Where the last
/// indices run over whole dimensions these are not indexed.
FailureOr<Expr> Translator::emitExtract(tensor::ExtractOp op,
                                        ArrayRef<Expr> indices,
                                        unsigned numLoops) {
  FailureOr<Expr> table = get(op.getTensor());
  if (failed(table))
    return failure();
  auto type = cast<RankedTensorType>(op.getTensor().getType());
  size_t count = indices.size();
  // Only of tables whose size is that of the loop for sure.
  unsigned next = numLoops;
  while (count > 0 && indices[count - 1].loop && next > 0 &&
         *indices[count - 1].loop == next - 1 &&
         !type.isDynamicDim(count - 1) &&
         indices[count - 1].text ==
             "torch.arange(" + std::to_string(type.getDimSize(count - 1)) +
                 ", device=device)") {
    --next;
    --count;
  }
  ArrayRef<Expr> rest = indices.take_front(count);
  SmallVector<unsigned, 4> dims = joinDims(rest);
  if (!dims.empty() && dims.back() >= next) {
    rest = indices;
    next = numLoops;
    dims = joinDims(rest);
  }
  Expr expr = *table;
  if (!rest.empty()) {
    std::string text = expr.bind(Atom) + "[";
    for (auto [i, index] : llvm::enumerate(rest))
      text += (i ? ", " : "") + align(index, dims).text;
    expr.text = text + "]";
  }
  expr.precedence = Atom;
  expr.dims.assign(dims.begin(), dims.end());
  for (unsigned loop = next; loop < numLoops; ++loop)
    expr.dims.push_back(loop);
  return expr;
}

LogicalResult Translator::emitBody(Block &block, DenseMap<Value, Expr> &body,
                                   linalg::LinalgOp op,
                                   ArrayRef<unsigned> order) {
  // Only what the yielded values need; a matched pattern skips ops.
  auto lookUp = [&](Value value) -> FailureOr<Expr> {
    if (auto entry = body.find(value); entry != body.end())
      return entry->second;
    return get(value);
  };
  for (Operation &inner : block.without_terminator()) {
    if (auto check = dyn_cast<cf::AssertOp>(inner)) {
      FailureOr<Expr> holds = lookUp(check.getArg());
      if (failed(holds))
        return failure();
      addAssertion(check, *holds);
      continue;
    }
    if (inner.getNumResults() != 1) {
      inner.emitOpError("cannot be translated to PyTorch");
      return failure();
    }
    Value result = inner.getResult(0);
    Expr expr;
    if (auto index = dyn_cast<linalg::IndexOp>(inner)) {
      unsigned loop = llvm::find(order, index.getDim()) - order.begin();
      FailureOr<Expr> size = failure();
      for (OpOperand &operand : op->getOpOperands()) {
        AffineMap map = op.getMatchingIndexingMap(&operand);
        auto at = map.getResultPosition(
            getAffineDimExpr(index.getDim(), index.getContext()));
        if (at && isa<ShapedType>(operand.get().getType())) {
          size = getSize(operand.get(), *at);
          break;
        }
      }
      if (failed(size))
        return inner.emitOpError("cannot be translated to PyTorch: the size "
                                 "of the loop is not known");
      expr =
          Expr::name("torch.arange(" + size->text + ", device=device)", {loop});
      expr.loop = loop;
      body[result] = expr;
      continue;
    }
    SmallVector<Expr> operands;
    ValueRange given = inner.getOperands();
    if (auto extract = dyn_cast<tensor::ExtractOp>(inner))
      given = extract.getIndices();
    for (Value operand : given) {
      FailureOr<Expr> found = lookUp(operand);
      if (failed(found))
        return failure();
      operands.push_back(*found);
    }
    if (auto extract = dyn_cast<tensor::ExtractOp>(inner)) {
      FailureOr<Expr> element = emitExtract(extract, operands, order.size());
      if (failed(element))
        return failure();
      expr = *element;
    } else if (isa<arith::ConstantOp>(inner)) {
      FailureOr<Expr> constant = get(result);
      if (failed(constant))
        return failure();
      expr = *constant;
    } else if (Value x = matchSilu(&inner); x && !operands[0].isNumber) {
      expr = operands[0];
      expr.text = "F.silu(" + expr.text + ")";
      expr.precedence = Atom;
    } else {
      FailureOr<Expr> scalar = emitScalarOp(&inner, operands);
      if (failed(scalar))
        return failure();
      expr = *scalar;
    }
    // What is used twice is computed once; the exp in the pattern above is no
    // use.
    bool hasSilu = llvm::any_of(result.getUsers(), [&](Operation *user) {
      return matchSilu(user) == result;
    });
    unsigned count = 0;
    for (Operation *user : result.getUsers())
      count += !(hasSilu && isa<arith::NegFOp>(user));
    if (count > 1 && expr.text.size() > 24 && !expr.isNumber)
      expr = assignTemporary("t", expr);
    body[result] = expr;
  }
  return success();
}

/// A product of two tensors, summed over some loops.
FailureOr<Expr> Translator::emitContraction(linalg::LinalgOp op, Value left,
                                            Value right,
                                            ArrayRef<unsigned> order) {
  SmallVector<Expr> exprs;
  SmallVector<SmallVector<unsigned>> dims;
  for (Value argument : {left, right}) {
    OpOperand *operand = op.getMatchingOpOperand(cast<BlockArgument>(argument));
    FailureOr<Expr> expr = getTensor(operand->get());
    if (failed(expr))
      return failure();
    exprs.push_back(*expr);
    AffineMap map = op.getMatchingIndexingMap(operand);
    SmallVector<unsigned> &loops = dims.emplace_back();
    for (AffineExpr result : map.getResults())
      loops.push_back(
          llvm::find(order, cast<AffineDimExpr>(result).getPosition()) -
          order.begin());
  }
  const unsigned numLoops = order.size();
  const unsigned rank = numLoops - 1;
  // [..., i, k] and [..., k, j] or [..., j, k]: a matrix product.
  if (op.getNumReductionLoops() == 1 && dims[0].size() == rank &&
      dims[1].size() == rank && rank >= 2) {
    SmallVector<unsigned> batch = iota(rank - 2);
    SmallVector<unsigned> a(batch), b(batch), c(batch);
    a.append({rank - 2, rank});
    b.append({rank, rank - 1});
    c.append({rank - 1, rank});
    Expr expr = Expr::name(exprs[0].bind(Product) + " @ ", iota(rank));
    expr.precedence = Product;
    if (dims[0] == a && dims[1] == b) {
      expr.text += exprs[1].bind(Unary);
      return expr;
    }
    if (dims[0] == a && dims[1] == c) {
      expr.text += exprs[1].bind(Atom) + (rank == 2 ? ".T" : ".mT");
      return expr;
    }
  }
  auto letters = [](ArrayRef<unsigned> loops) {
    std::string text;
    for (unsigned loop : loops)
      text += static_cast<char>('a' + loop);
    return text;
  };
  SmallVector<unsigned> results;
  for (unsigned loop = 0; loop < numLoops - op.getNumReductionLoops(); ++loop)
    if (llvm::is_contained(dims[0], loop) || llvm::is_contained(dims[1], loop))
      results.push_back(loop);
  return Expr::name("torch.einsum(\"" + letters(dims[0]) + "," +
                        letters(dims[1]) + "->" + letters(results) + "\", " +
                        exprs[0].text + ", " + exprs[1].text + ")",
                    results);
}

/// The float that fills a tensor.
static std::optional<double> getFilledFloat(Value tensor) {
  APFloat value(0.0f);
  if (auto fill = tensor.getDefiningOp<linalg::FillOp>())
    if (matchPattern(fill.getInputs().front(), m_ConstantFloat(&value))) {
      bool lossy;
      value.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven,
                    &lossy);
      return value.convertToDouble();
    }
  return std::nullopt;
}

static std::optional<int64_t> getFilledInteger(Value tensor) {
  APInt value;
  if (auto fill = tensor.getDefiningOp<linalg::FillOp>())
    if (matchPattern(fill.getInputs().front(), m_ConstantInt(&value)))
      return value.getSExtValue();
  return std::nullopt;
}

static Value skipExtensions(Value value) {
  while (auto extend = value.getDefiningOp<arith::ExtFOp>())
    value = extend.getIn();
  return value;
}

FailureOr<Expr> Translator::emitReduction(linalg::LinalgOp op, unsigned result,
                                          ArrayRef<unsigned> order,
                                          DenseMap<Value, Expr> &body) {
  auto refuse = [&](const Twine &what) -> FailureOr<Expr> {
    op.emitOpError("cannot be translated to PyTorch: expected a reduction by "
                   "+, *, minimum or maximum but ")
        << what;
    return failure();
  };
  Block &block = *op.getBlock();
  Value accumulator = op.getRegionOutputArgs()[result];
  Operation *combine =
      block.getTerminator()->getOperand(result).getDefiningOp();
  if (!combine || combine->getBlock() != &block ||
      combine->getNumOperands() != 2 || !accumulator.hasOneUse() ||
      *accumulator.user_begin() != combine)
    return refuse("the body combines result " + Twine(result) +
                  " in another way");
  Value element = combine->getOperand(combine->getOperand(0) == accumulator);
  OpOperand *init = op.getDpsInitOperand(result);
  Value filled = resolve(init->get());
  const unsigned numResults = order.size() - op.getNumReductionLoops();

  auto withInit = [&](std::string text, Precedence precedence,
                      ArrayRef<unsigned> dims, bool neutral, StringRef binary,
                      StringRef call) -> FailureOr<Expr> {
    Expr expr = Expr::name(std::move(text), dims);
    expr.precedence = precedence;
    if (neutral)
      return expr;
    FailureOr<Expr> start = getOperandInLoops(op, *init, order);
    if (failed(start))
      return failure();
    expr = align(expr, start->dims);
    expr.dims = start->dims;
    if (binary.empty()) {
      expr.text = (call + "(" + start->text + ", " + expr.text + ")").str();
      expr.precedence = Atom;
    } else {
      Precedence own = binary == "+" ? Sum : Product;
      expr.text = (start->text + " " + binary + " ").str() +
                  expr.bind(Precedence(own + 1));
      expr.precedence = own;
    }
    return expr;
  };

  // A contraction.
  bool isSum = isa<arith::AddFOp, arith::AddIOp>(combine);
  std::optional<double> fill = getFilledFloat(filled);
  std::optional<int64_t> integer = getFilledInteger(filled);
  auto isFilledWith = [&](double value) {
    return fill == value || (integer && double(*integer) == value);
  };
  if (auto product = element.getDefiningOp<arith::MulFOp>(); isSum && product) {
    Value left = skipExtensions(product.getLhs()),
          right = skipExtensions(product.getRhs());
    auto isPlain = [&](Value value) {
      auto argument = dyn_cast<BlockArgument>(value);
      if (!argument || argument.getOwner() != &block)
        return false;
      AffineMap map =
          op.getMatchingIndexingMap(op.getMatchingOpOperand(argument));
      return map.isProjectedPermutation();
    };
    if (left != right && isPlain(left) && isPlain(right)) {
      FailureOr<Expr> text = emitContraction(op, left, right, order);
      if (failed(text))
        return failure();
      return withInit(text->text, text->precedence, text->dims, isFilledWith(0),
                      "+", "");
    }
  }

  auto found = body.find(element);
  FailureOr<Expr> value =
      found != body.end() ? FailureOr<Expr>(found->second) : get(element);
  if (failed(value))
    return failure();
  std::string axes;
  for (unsigned loop = numResults; loop < order.size(); ++loop) {
    if (!llvm::is_contained(value->dims, loop))
      return refuse("an element does not depend on all reduced loops");
    auto at = llvm::find(value->dims, loop) - value->dims.begin();
    axes += (axes.empty() ? "" : ", ") +
            std::to_string(at - int64_t(value->dims.size()));
  }
  if (op.getNumReductionLoops() > 1)
    axes = "(" + axes + ")";
  SmallVector<unsigned> dims;
  for (unsigned loop : value->dims)
    if (loop < numResults)
      dims.push_back(loop);
  std::string self = value->isWide ? narrow(*value) : value->bind(Atom);
  if (isSum)
    return withInit(self + ".sum(" + axes + ")", Atom, dims, isFilledWith(0),
                    "+", "");
  if (isa<arith::MulFOp, arith::MulIOp>(combine)) {
    if (op.getNumReductionLoops() > 1)
      return refuse("it multiplies over several loops");
    return withInit(self + ".prod(" + axes + ")", Atom, dims, isFilledWith(1),
                    "*", "");
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const double lowest = std::numeric_limits<float>::lowest();
  if (isa<arith::MaximumFOp, arith::MaxNumFOp, arith::MaxSIOp>(combine))
    return withInit(self + ".amax(" + axes + ")", Atom, dims,
                    fill && (*fill == -infinity || *fill == lowest), "",
                    "torch.maximum");
  if (isa<arith::MinimumFOp, arith::MinNumFOp, arith::MinSIOp>(combine))
    return withInit(self + ".amin(" + axes + ")", Atom, dims,
                    fill && (*fill == infinity || *fill == -lowest), "",
                    "torch.minimum");
  return refuse("the body has '" + combine->getName().getStringRef() + "'");
}

LogicalResult Translator::emitLinalg(linalg::LinalgOp op) {
  Operation *operation = op;
  if (!op.hasPureTensorSemantics())
    return op.emitOpError("cannot be translated to PyTorch: expected tensors");
  // The loops in the order of the first result, then those that reduce.
  AffineMap first = op.getMatchingIndexingMap(op.getDpsInitOperand(0));
  SmallVector<unsigned> order;
  for (AffineExpr expr : first.getResults()) {
    auto dim = dyn_cast<AffineDimExpr>(expr);
    if (!dim || llvm::is_contained(order, dim.getPosition()))
      return op.emitOpError("cannot be translated to PyTorch: expected "
                            "the result to be indexed by loops but got ")
             << AffineMapAttr::get(first);
    order.push_back(dim.getPosition());
  }
  const unsigned numParallel = op.getNumParallelLoops();
  if (order.size() != numParallel)
    return op.emitOpError("cannot be translated to PyTorch: expected one "
                          "dimension of the result for each parallel loop");
  for (unsigned loop = 0; loop < op.getNumLoops(); ++loop)
    if (!llvm::is_contained(order, loop))
      order.push_back(loop);
  for (OpOperand &init : op.getDpsInitsMutable())
    if (op.getMatchingIndexingMap(&init) != first)
      return op.emitOpError("cannot be translated to PyTorch: expected the "
                            "same indexing map for all results");

  if (auto fill = dyn_cast<linalg::FillOp>(operation)) {
    FailureOr<Expr> value = get(fill.getInputs().front());
    FailureOr<std::string> shape = getShape(fill.getResult(0));
    if (failed(value) || failed(shape))
      return failure();
    std::string type =
        getTorchType(getElementTypeOrSelf(fill.getResult(0).getType()));
    assign(fill.getResult(0),
           Expr::name("torch.full(" + *shape + ", " + value->text +
                          ", dtype=" + type + ", device=device)",
                      iota(numParallel)));
    return success();
  }

  DenseMap<Value, Expr> body;
  Block &block = *op.getBlock();
  for (OpOperand &operand : op->getOpOperands()) {
    if (!op.payloadUsesValueFromOperand(&operand))
      continue;
    // The accumulators of reductions are not read by expressions.
    if (op.isDpsInit(&operand) && op.getNumReductionLoops() != 0)
      continue;
    FailureOr<Expr> expr = getOperandInLoops(op, operand, order);
    if (failed(expr))
      return failure();
    body[block.getArgument(operand.getOperandNumber())] = *expr;
  }
  if (op.getNumReductionLoops() != 0) {
    // The combining ops use the accumulators, which have no expressions.
    for (unsigned i = 0; i < op.getNumDpsInits(); ++i)
      body[op.getRegionOutputArgs()[i]] =
          Expr::name("accumulator", iota(op.getNumLoops()));
  }
  if (failed(emitBody(block, body, op, order)))
    return failure();

  for (unsigned i = 0; i < op.getNumDpsInits(); ++i) {
    Value result = operation->getResult(i);
    FailureOr<Expr> expr = failure();
    if (op.getNumReductionLoops() != 0) {
      expr = emitReduction(op, i, order, body);
    } else {
      Value yielded = block.getTerminator()->getOperand(i);
      auto found = body.find(yielded);
      expr =
          found != body.end() ? FailureOr<Expr>(found->second) : get(yielded);
    }
    if (failed(expr))
      return failure();
    if (expr->isNumber || expr->dims.size() != numParallel) {
      FailureOr<std::string> shape = getShape(op.getDpsInits()[i]);
      if (failed(shape))
        return failure();
      std::string type = getTorchType(getElementTypeOrSelf(result.getType()));
      Expr whole = align(*expr, iota(numParallel));
      if (expr->isNumber)
        expr->text = "torch.full(" + *shape + ", " + expr->text +
                     ", dtype=" + type + ", device=device)";
      else
        expr->text =
            (whole.isWide ? "(" + narrow(whole) + ")" : whole.bind(Atom)) +
            ".expand" + *shape;
      expr->precedence = Atom;
      expr->isNumber = expr->isWide = false;
      expr->dims.assign(iota(numParallel));
    }
    if (expr->isWide) {
      expr->text = narrow(*expr);
      expr->precedence = Atom;
      expr->isWide = false;
    }
    assign(result, *expr);
  }
  return success();
}

//===----------------------------------------------------------------------===//
// tensor
//===----------------------------------------------------------------------===//

FailureOr<std::string> Translator::getSubscript(
    Operation *op, Value tensor, ArrayRef<OpFoldResult> offsets,
    ArrayRef<OpFoldResult> sizes, ArrayRef<OpFoldResult> strides,
    const llvm::SmallBitVector &dropped) {
  auto type = cast<RankedTensorType>(tensor.getType());
  SmallVector<std::string> subscripts;
  size_t last = 0;
  auto range = slots.find(resolve(tensor));
  for (int64_t i = 0; i < type.getRank(); ++i) {
    OpFoldResult offset = offsets[i];
    const bool inSlots = i == 0 && range != slots.end();
    if (inSlots)
      offset =
          OpBuilder(op->getContext())
              .getIndexAttr(*getConstantIntValue(offset) - range->second.first);
    FailureOr<std::string> begin = getIndex(offset), size = getIndex(sizes[i]),
                           step = getIndex(strides[i]);
    if (failed(begin) || failed(size) || failed(step))
      return failure();
    std::optional<int64_t> constantSize = getConstantIntValue(sizes[i]);
    std::optional<int64_t> constantBegin = getConstantIntValue(offset);
    std::string text;
    if (dropped.test(i)) {
      text = *begin;
    } else {
      FailureOr<Expr> whole = getSize(tensor, i);
      if (failed(whole))
        return failure();
      std::string extent =
          inSlots ? std::to_string(range->second.second - range->second.first)
                  : whole->text;
      if (*begin == "0" && *step == "1" && *size == extent) {
        text = ":";
      } else if (*step == "1") {
        std::string end = constantSize && constantBegin
                              ? std::to_string(*constantBegin + *constantSize)
                          : *begin == "0" ? *size
                                          : *begin + " + " + *size;
        text = (*begin == "0" ? "" : *begin) + ":" + end;
      } else if (*step == "0" || *step == "-1" ||
                 StringRef(*step).starts_with("-")) {
        op->emitOpError("cannot be translated to PyTorch: expected positive "
                        "strides");
        return failure();
      } else {
        text =
            *begin + ":" + *begin + " + " + *size + " * " + *step + ":" + *step;
        if (constantSize && constantBegin)
          if (std::optional<int64_t> stride = getConstantIntValue(strides[i]))
            text = *begin + ":" +
                   std::to_string(*constantBegin +
                                  (*constantSize - 1) * *stride + 1) +
                   ":" + *step;
      }
    }
    subscripts.push_back(text);
    if (text != ":")
      last = subscripts.size();
  }
  subscripts.resize(last);
  return llvm::join(subscripts, ", ");
}

LogicalResult Translator::emitSlice(tensor::ExtractSliceOp op) {
  FailureOr<Expr> source = get(op.getSource());
  if (failed(source))
    return failure();
  FailureOr<std::string> subscript =
      getSubscript(op, op.getSource(), op.getMixedOffsets(), op.getMixedSizes(),
                   op.getMixedStrides(), op.getDroppedDims());
  if (failed(subscript))
    return failure();
  Expr expr = *source;
  if (!subscript->empty())
    expr.text = source->bind(Atom) + "[" + *subscript + "]";
  expr.precedence = Atom;
  expr.dims.assign(iota(op.getType().getRank()));
  assign(op.getResult(), expr);
  return success();
}

LogicalResult Translator::emitInsert(tensor::InsertSliceOp op) {
  Value dest = resolve(op.getDest());
  FailureOr<Expr> whole = getTensor(dest), part = getTensor(op.getSource());
  if (failed(whole) || failed(part))
    return failure();
  FailureOr<std::string> subscript =
      getSubscript(op, op.getDest(), op.getMixedOffsets(), op.getMixedSizes(),
                   op.getMixedStrides(), op.getDroppedDims());
  if (failed(subscript))
    return failure();
  if (subscript->empty())
    subscript = std::string("...");
  // A tensor of our own whose value before nobody reads again is changed, any
  // other one is copied.
  bool isLastUse = llvm::all_of(uses.lookup(dest), [&](const Use &use) {
    return use.op == op || isShapeOnly(use);
  });
  std::string name = whole->text;
  if (!owned.contains(dest) || !isLastUse) {
    name = nameOf(op.getResult());
    add(name, name + " = " + whole->bind(Atom) + ".clone()");
  }
  add(name, name + "[" + *subscript + "] = " + part->text);
  owned.insert(op.getResult());
  values[op.getResult()] = Expr::name(name, iota(op.getType().getRank()));
  return success();
}

LogicalResult Translator::emitReshape(Operation *op, Value source, Value result,
                                      ArrayRef<ReassociationIndices> groups,
                                      bool expand) {
  FailureOr<Expr> expr = getTensor(source);
  if (failed(expr))
    return failure();
  // One group of dimensions, or all of the shape.
  std::optional<size_t> only;
  size_t several = 0;
  for (auto [i, group] : llvm::enumerate(groups))
    if (group.size() > 1) {
      only = i;
      ++several;
    }
  auto type = cast<RankedTensorType>(result.getType());
  Expr reshaped = *expr;
  reshaped.dims.assign(iota(type.getRank()));
  reshaped.precedence = Atom;
  std::string self = expr->bind(Atom);
  if (several == 1 && !groups.empty()) {
    const ReassociationIndices &group = groups[*only];
    if (!expand) {
      reshaped.text = self + ".flatten(" + std::to_string(group.front()) +
                      ", " + std::to_string(group.back()) + ")";
    } else {
      std::string shape;
      for (int64_t dim : group) {
        FailureOr<Expr> size = getSize(result, dim);
        if (failed(size))
          return failure();
        shape += (shape.empty() ? "" : ", ") + size->text;
      }
      reshaped.text =
          self + ".unflatten(" + std::to_string(*only) + ", (" + shape + "))";
    }
  } else if (several == 0 && !groups.empty()) {
    reshaped.text = self;
  } else {
    std::string shape;
    for (int64_t dim = 0; dim < type.getRank(); ++dim) {
      // One dynamic dimension follows from the others.
      bool infer = type.isDynamicDim(dim) && type.getNumDynamicDims() == 1;
      FailureOr<Expr> size =
          infer ? FailureOr<Expr>(Expr::number("-1")) : getSize(result, dim);
      if (failed(size))
        return failure();
      shape += (dim ? ", " : "") + size->text;
    }
    reshaped.text = self + ".reshape(" + (shape.empty() ? "()" : shape) + ")";
  }
  assign(result, reshaped);
  return success();
}

LogicalResult Translator::emitPad(tensor::PadOp op) {
  Value constant = op.getConstantPaddingValue();
  if (!constant)
    return op.emitOpError("cannot be translated to PyTorch: expected one "
                          "constant to pad with");
  FailureOr<Expr> source = getTensor(op.getSource()), value = get(constant);
  if (failed(source) || failed(value))
    return failure();
  // The last dimension comes first.
  std::string widths;
  SmallVector<OpFoldResult> low = op.getMixedLowPad(),
                            high = op.getMixedHighPad();
  for (int64_t i = low.size() - 1; i >= 0; --i)
    for (OpFoldResult width : {low[i], high[i]}) {
      FailureOr<std::string> text = getIndex(width);
      if (failed(text))
        return failure();
      widths += (widths.empty() ? "" : ", ") + *text;
    }
  assign(op.getResult(), Expr::name("F.pad(" + source->text + ", (" + widths +
                                        "), value=" + value->text + ")",
                                    iota(op.getResultType().getRank())));
  return success();
}

//===----------------------------------------------------------------------===//
// quant_llm
//===----------------------------------------------------------------------===//

FailureOr<SmallVector<std::string>> Translator::getComponents(Value value) {
  value = resolve(value);
  if (auto entry = components.find(value); entry != components.end())
    return entry->second;
  Operation *op = value.getDefiningOp();
  if (op && !isDefinedInRange(value) && isRematerializable(value)) {
    if (failed(emit(op)))
      return failure();
    if (auto entry = components.find(value); entry != components.end())
      return entry->second;
  }
  if (op)
    op->emitOpError("cannot be translated to PyTorch: expected a weight to be "
                    "a parameter, or assembled in the same part");
  else
    function.emitOpError("cannot be translated to PyTorch: expected no weight "
                         "of a quantized type among the arguments");
  return failure();
}

/// Parameters, and weights on their way to a linear.
LogicalResult Translator::emitWeight(Operation *op) {
  auto useParameter = [&](const std::string &key) {
    if (!llvm::is_contained(source.parameters, key))
      source.parameters.push_back(key);
    return "parameters[" + quotePython(key) + "]";
  };
  if (auto get = dyn_cast<GetParameterOp>(op)) {
    const std::string name = get.getParameter().str();
    if (!llvm::json::isUTF8(name))
      return op->emitOpError("cannot be translated to PyTorch: expected the "
                             "name of a parameter in UTF-8 but got '")
             << llvm::json::fixUTF8(name) << "'; rename the parameter";
    if (auto weight = dyn_cast<WeightType>(get.getType())) {
      SmallVector<std::string> parts;
      for (StringRef component : weight.getComponentNames())
        parts.push_back(useParameter(name + "." + component.str()));
      components[get.getResult()] = parts;
      return success();
    }
    auto type = cast<RankedTensorType>(get.getType());
    std::string text = useParameter(name);
    if (isa<mlir::FloatType>(type.getElementType()))
      text += ".to(dtype)";
    values[get.getResult()] = Expr::name(text, iota(type.getRank()));
    return success();
  }
  if (auto assemble = dyn_cast<AssembleOp>(op)) {
    SmallVector<std::string> parts;
    for (Value component : assemble.getComponents()) {
      FailureOr<Expr> expr = get(component);
      if (failed(expr))
        return failure();
      parts.push_back(expr->bind(Atom));
    }
    components[assemble.getResult()] = parts;
    return success();
  }
  if (auto split = dyn_cast<ComponentsOp>(op)) {
    FailureOr<SmallVector<std::string>> parts =
        getComponents(split.getSource());
    if (failed(parts))
      return failure();
    for (auto [result, part] : llvm::zip_equal(split.getComponents(), *parts))
      values[result] = Expr::name(
          part, iota(cast<RankedTensorType>(result.getType()).getRank()));
    return success();
  }
  if (auto quantize = dyn_cast<QuantizeOp>(op)) {
    Value dense = resolve(quantize.getSource());
    FailureOr<Expr> w = getTensor(dense);
    if (failed(w))
      return failure();
    std::string key = getBaseName(dense);
    if (GetParameterOp get = getParameter(dense)) {
      key = get.getParameter().str();
      *w = assignTemporary(getLastPart(key) + "_weight", *w);
    }
    std::string name = makeName(getLastPart(key) + "_quantized");
    FailureOr<std::string> text = emitFakeQuantize(
        op, quantize.getType(), w->bind(Atom), key, name, helpers);
    if (failed(text))
      return failure();
    add(name, *text);
    fakeQuantized[quantize.getResult()] = name;
    return success();
  }
  auto dequantize = cast<DequantizeOp>(op);
  Value weight = resolve(dequantize.getSource());
  if (auto entry = fakeQuantized.find(weight); entry != fakeQuantized.end()) {
    values[dequantize.getResult()] = Expr::name(entry->second, iota(2));
    return success();
  }
  FailureOr<SmallVector<std::string>> parts = getComponents(weight);
  if (failed(parts))
    return failure();
  FailureOr<std::string> text =
      emitDequantize(op, cast<WeightType>(weight.getType()), *parts, helpers);
  if (failed(text))
    return failure();
  assign(dequantize.getResult(), Expr::name(*text, iota(2)));
  return success();
}

/// An activation is what its values are, not its codes.
LogicalResult Translator::emitActivation(Operation *op) {
  if (auto dequantize = dyn_cast<DequantizeOp>(op)) {
    FailureOr<Expr> values = getTensor(dequantize.getSource());
    if (failed(values))
      return failure();
    assign(dequantize.getResult(), *values);
    return success();
  }
  auto quantize = dyn_cast<QuantizeActivationOp>(op);
  if (!quantize)
    return op->emitOpError("cannot be translated to PyTorch: expected "
                           "activations as quant_llm.quantize_activation makes "
                           "them, not their components");
  FailureOr<Expr> input = getTensor(quantize.getSource());
  if (failed(input))
    return failure();
  SmallVector<std::string> given;
  for (Value value : quantize.getGiven()) {
    FailureOr<Expr> expr = getTensor(value);
    if (failed(expr))
      return failure();
    given.push_back(expr->bind(Atom));
  }
  FailureOr<std::string> text =
      emitQuantizeActivation(quantize, input->text, given, helpers);
  if (failed(text))
    return failure();
  assign(quantize.getResult(),
         Expr::name(*text, iota(quantize.getSource().getType().getRank())));
  return success();
}

LogicalResult Translator::emitLinear(LinearOp op) {
  FailureOr<Expr> input = getTensor(op.getInput());
  if (failed(input))
    return failure();
  const int64_t rank = op.getResult().getType().getRank();
  SmallVector<Expr> accumulators;
  SmallVector<std::string> texts, names;
  for (auto [i, value] : llvm::enumerate(op.getWeights())) {
    Value weight = resolve(value);
    std::string text, symbol;
    if (isa<WeightType>(weight.getType())) {
      if (auto entry = fakeQuantized.find(weight);
          entry != fakeQuantized.end()) {
        text = entry->second;
      } else {
        FailureOr<SmallVector<std::string>> parts = getComponents(weight);
        if (failed(parts))
          return failure();
        FailureOr<std::string> dense = emitDequantize(
            op, cast<WeightType>(weight.getType()), *parts, helpers);
        if (failed(dense))
          return failure();
        text = *dense;
      }
    } else {
      FailureOr<Expr> dense = getTensor(weight);
      if (failed(dense))
        return failure();
      text = dense->text;
    }
    std::string base = "weight";
    if (GetParameterOp parameter = getParameter(weight)) {
      symbol = parameter.getParameter().str();
      base = getLastPart(symbol);
    }
    names.push_back(base);
    std::string x = input->text;
    if (options.tap && !symbol.empty())
      x = "tap(" + quotePython(symbol) + ", " + x + ")";
    if (!symbol.empty())
      source.linears.push_back(symbol);
    // A dequantization is long enough for a line of its own.
    if (text.size() > 100) {
      std::string name = makeName(base + "_weight");
      add(name, name + " = " + text);
      text = name;
    }
    texts.push_back("F.linear(" + x + ", " + text);
  }

  Expr result = Expr::name(texts.front() + ")", iota(rank));
  if (op.hasEpilogue()) {
    Block &block = op.getEpilogue().front();
    auto yield = cast<YieldOp>(block.getTerminator());
    Value yielded = yield.getValues().front();
    // A bias is an argument of the linear.
    if (auto sum = yielded.getDefiningOp<arith::AddFOp>();
        sum && op.getWeights().size() == 1 &&
        op.getEpilogueOperands().size() == 1) {
      Value a = skipExtensions(sum.getLhs()), b = skipExtensions(sum.getRhs());
      Value bias = op.getEpilogueOperands().front();
      if (cast<RankedTensorType>(bias.getType()).getRank() == 1 && rank > 1 &&
          ((a == block.getArgument(0) && b == block.getArgument(1)) ||
           (b == block.getArgument(0) && a == block.getArgument(1)))) {
        FailureOr<Expr> expr = getTensor(bias);
        if (failed(expr))
          return failure();
        assign(op.getResult(),
               Expr::name(texts.front() + ", " + expr->text + ")", iota(rank)));
        return success();
      }
    }
    DenseMap<Value, Expr> body;
    for (auto [i, text] : llvm::enumerate(texts))
      body[block.getArgument(i)] =
          assignTemporary(names[i], Expr::name(text + ")", iota(rank)));
    for (auto [i, operand] : llvm::enumerate(op.getEpilogueOperands())) {
      FailureOr<Expr> expr = getTensor(operand);
      if (failed(expr))
        return failure();
      // One value for each output, or a tensor like the result.
      if (cast<RankedTensorType>(operand.getType()).getRank() == 1)
        expr->dims.assign(1, rank - 1);
      body[block.getArgument(texts.size() + i)] = *expr;
    }
    if (failed(emitBody(block, body, nullptr, {})))
      return failure();
    auto found = body.find(yielded);
    FailureOr<Expr> expr =
        found != body.end() ? FailureOr<Expr>(found->second) : get(yielded);
    if (failed(expr))
      return failure();
    if (expr->dims.size() != static_cast<size_t>(rank))
      return op.emitOpError("cannot be translated to PyTorch: expected the "
                            "epilogue to use the product");
    result = *expr;
  }
  assign(op.getResult(), result);
  return success();
}

//===----------------------------------------------------------------------===//
// All ops
//===----------------------------------------------------------------------===//

LogicalResult Translator::emitConstant(arith::ConstantOp op) {
  auto scalar = [&](Attribute attr) -> std::optional<Expr> {
    if (auto number = dyn_cast<FloatAttr>(attr)) {
      double value = number.getValueAsDouble();
      // The end of the range, whatever the range is.
      if (value == std::numeric_limits<float>::lowest())
        return Expr::number("torch.finfo(dtype).min");
      if (value == std::numeric_limits<float>::max())
        return Expr::number("torch.finfo(dtype).max");
      std::string text = printFloat(value);
      return Expr::number(text, text.front() == '-' ? Unary : Atom);
    }
    auto number = dyn_cast<IntegerAttr>(attr);
    if (!number)
      return std::nullopt;
    if (number.getType().isInteger(1))
      return Expr::number(number.getValue().isZero() ? "False" : "True");
    std::string text = std::to_string(number.getValue().getSExtValue());
    return Expr::number(text, text.front() == '-' ? Unary : Atom);
  };
  if (std::optional<Expr> expr = scalar(op.getValue())) {
    values[op.getResult()] = *expr;
    return success();
  }
  auto dense = dyn_cast<DenseElementsAttr>(op.getValue());
  std::string type =
      dense ? getTorchType(dense.getElementType()) : std::string();
  if (type.empty())
    return op.emitOpError("cannot be translated to PyTorch: expected a number "
                          "or a dense tensor of numbers");
  const bool isFloat = type == "dtype";
  if (isFloat)
    type = "wide";
  auto print = [&](Attribute attr) { return scalar(attr)->text; };
  std::string shape = *getShape(op.getResult());
  std::string where = ", dtype=" + type + ", device=device)";
  std::string text;
  if (dense.isSplat()) {
    text = "torch.full(" + shape + ", " +
           print(dense.getSplatValue<Attribute>()) + where;
  } else {
    if (dense.getNumElements() > kMaxConstant)
      return op.emitOpError("cannot be translated to PyTorch: expected a "
                            "constant of at most ")
             << kMaxConstant << " elements but got " << dense.getNumElements()
             << "; make it a parameter";
    text = "torch.tensor([";
    for (auto [i, value] : llvm::enumerate(dense.getValues<Attribute>()))
      text += (i ? ", " : "") + print(value);
    text += "]" + where;
    if (dense.getType().getRank() != 1)
      text += ".reshape" + shape;
  }
  Expr expr = Expr::name(text, iota(dense.getType().getRank()));
  expr.isWide = isFloat;
  assign(op.getResult(), expr);
  return success();
}

LogicalResult Translator::emit(Operation *op) {
  using Case = LogicalResult;
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case<arith::ConstantOp>(
          [&](auto op) -> Case { return emitConstant(op); })
      .Case<GetParameterOp, AssembleOp, ComponentsOp, QuantizeOp, DequantizeOp,
            QuantizeActivationOp>([&](auto op) -> Case {
        bool isActivation = llvm::any_of(op->getOperandTypes(),
                                         llvm::IsaPred<ActivationType>) ||
                            isa<ActivationType>(op->getResult(0).getType());
        return isActivation ? emitActivation(op) : emitWeight(op);
      })
      .Case<LinearOp>([&](auto op) -> Case { return emitLinear(op); })
      .Case<cf::AssertOp>([&](cf::AssertOp op) -> Case {
        FailureOr<Expr> holds = get(op.getArg());
        if (failed(holds))
          return failure();
        addAssertion(op, *holds);
        return success();
      })
      .Case<linalg::LinalgOp>([&](auto op) -> Case { return emitLinalg(op); })
      .Case<linalg::SoftmaxOp>([&](linalg::SoftmaxOp op) -> Case {
        FailureOr<Expr> x = getTensor(op.getInput());
        if (failed(x))
          return failure();
        assign(op->getResult(0),
               Expr::name("torch.softmax(" + x->text + ", " +
                              std::to_string(op.getDimension()) + ")",
                          x->dims));
        return success();
      })
      .Case<tensor::EmptyOp>([&](tensor::EmptyOp op) -> Case {
        FailureOr<std::string> shape = getShape(op.getResult());
        std::string type = getTorchType(op.getType().getElementType());
        if (failed(shape))
          return failure();
        if (type.empty())
          return op.emitOpError("cannot be translated to PyTorch: ")
                 << op.getType().getElementType() << " is no type of it";
        // Not the name "empty": what is written into it has a better one.
        owned.insert(op.getResult());
        std::string name = makeName("buffer");
        add(name, name + " = torch.empty(" + *shape + ", dtype=" + type +
                      ", device=device)");
        values[op.getResult()] = Expr::name(name, iota(op.getType().getRank()));
        return success();
      })
      .Case<tensor::DimOp>([&](tensor::DimOp op) -> Case {
        std::optional<int64_t> index = op.getConstantIndex();
        if (!index)
          return op.emitOpError(
              "cannot be translated to PyTorch: expected a constant index");
        FailureOr<Expr> size = getSize(op.getSource(), *index);
        if (failed(size))
          return failure();
        assign(op.getResult(), *size);
        if (StringRef(size->text).contains(".shape["))
          sizeNames[size->text] = values[op.getResult()].text;
        return success();
      })
      .Case<tensor::ExtractSliceOp>(
          [&](auto op) -> Case { return emitSlice(op); })
      .Case<tensor::InsertSliceOp>(
          [&](auto op) -> Case { return emitInsert(op); })
      .Case<tensor::CollapseShapeOp>([&](tensor::CollapseShapeOp op) -> Case {
        return emitReshape(op, op.getSrc(), op.getResult(),
                           op.getReassociationIndices(), /*expand=*/false);
      })
      .Case<tensor::ExpandShapeOp>([&](tensor::ExpandShapeOp op) -> Case {
        return emitReshape(op, op.getSrc(), op.getResult(),
                           op.getReassociationIndices(), /*expand=*/true);
      })
      .Case<tensor::CastOp>([&](tensor::CastOp op) -> Case {
        FailureOr<Expr> expr = get(op.getSource());
        if (failed(expr))
          return failure();
        values[op.getResult()] = *expr;
        return success();
      })
      .Case<tensor::ConcatOp>([&](tensor::ConcatOp op) -> Case {
        std::string text;
        for (Value input : op.getInputs()) {
          FailureOr<Expr> expr = getTensor(input);
          if (failed(expr))
            return failure();
          text += (text.empty() ? "" : ", ") + expr->text;
        }
        assign(op.getResult(), Expr::name("torch.cat([" + text + "], " +
                                              std::to_string(op.getDim()) + ")",
                                          iota(op.getResultType().getRank())));
        return success();
      })
      .Case<tensor::PadOp>([&](auto op) -> Case { return emitPad(op); })
      .Case<tensor::ExtractOp>([&](tensor::ExtractOp op) -> Case {
        SmallVector<Expr> indices;
        for (Value index : op.getIndices()) {
          FailureOr<Expr> expr = get(index);
          if (failed(expr))
            return failure();
          indices.push_back(*expr);
        }
        FailureOr<Expr> expr = emitExtract(op, indices, 0);
        if (failed(expr))
          return failure();
        // Other code expects numbers of Python.
        if (!isa<mlir::FloatType>(op.getType())) {
          expr->text = "int(" + expr->text + ")";
          expr->isNumber = true;
        }
        assign(op.getResult(), *expr);
        return success();
      })
      .Case<tensor::SplatOp>([&](tensor::SplatOp op) -> Case {
        FailureOr<Expr> value = get(op.getInput());
        FailureOr<std::string> shape = getShape(op.getResult());
        if (failed(value) || failed(shape))
          return failure();
        assign(op.getResult(),
               Expr::name("torch.full(" + *shape + ", " + value->text +
                              ", dtype=" +
                              getTorchType(op.getType().getElementType()) +
                              ", device=device)",
                          iota(op.getType().getRank())));
        return success();
      })
      .Default([&](Operation *op) -> Case {
        const bool isScalarDialect =
            isa<arith::ArithDialect, math::MathDialect>(op->getDialect());
        if (!isScalarDialect || op->getNumResults() != 1)
          return op->emitOpError("cannot be translated to PyTorch");
        SmallVector<Expr> operands;
        for (Value operand : op->getOperands()) {
          FailureOr<Expr> expr = get(operand);
          if (failed(expr))
            return failure();
          operands.push_back(*expr);
        }
        FailureOr<Expr> expr = emitScalarOp(op, operands);
        if (failed(expr))
          return failure();
        if (expr->isWide) {
          expr->text = narrow(*expr);
          expr->precedence = Atom;
          expr->isWide = false;
        }
        assign(op->getResult(0), *expr);
        return success();
      });
}

//===----------------------------------------------------------------------===//
// The module
//===----------------------------------------------------------------------===//

/// Calls `visit` for every identifier of Python code, strings left out.
static void visitIdentifiers(StringRef text,
                             llvm::function_ref<void(StringRef)> visit) {
  while (!text.empty()) {
    if (text.front() == '"') {
      text = text.substr(text.find('"', 1));
      text = text.drop_front();
    } else if (llvm::isAlpha(text.front()) || text.front() == '_') {
      StringRef name =
          text.take_while([](char c) { return llvm::isAlnum(c) || c == '_'; });
      visit(name);
      text = text.drop_front(name.size());
    } else {
      text = text.drop_front();
    }
  }
}

void Translator::dropUnused(ArrayRef<std::string> results) {
  llvm::StringSet<> live;
  for (const std::string &result : results)
    visitIdentifiers(result, [&](StringRef name) { live.insert(name); });
  for (Statement &statement : llvm::reverse(statements)) {
    // Checks happen, and what calls the user's function, used or not.
    statement.keep = live.contains(statement.defines) ||
                     StringRef(statement.text).starts_with("assert ") ||
                     StringRef(statement.text).contains("tap(\"");
    if (statement.keep)
      visitIdentifiers(statement.text,
                       [&](StringRef name) { live.insert(name); });
  }
  llvm::erase_if(statements, [](const Statement &s) { return !s.keep; });
  // Inputs that nothing reads any more.
  llvm::erase_if(inputs, [&](Value value) {
    return options.part != TorchOptions::Part::Whole &&
           !live.contains(values.lookup(value).text);
  });
}

/// Names without gaps in their numbers: what was dropped had names, too.
void Translator::renumber(SmallVectorImpl<std::string> &results) {
  llvm::StringMap<std::string> renamed;
  llvm::StringSet<> inUse;
  auto rename = [&](StringRef name) {
    if (renamed.contains(name))
      return;
    StringRef base = stripNumber(name);
    std::string candidate = base.str();
    // A name without number may be that of Python or of the frame.
    for (unsigned i = 1;
         reserved.contains(candidate) || !inUse.insert(candidate).second; ++i)
      candidate = (base + "_" + Twine(i)).str();
    renamed[name] = candidate;
  };
  auto rewrite = [&](StringRef text) {
    std::string result;
    const char *done = text.begin();
    visitIdentifiers(text, [&](StringRef name) {
      auto entry = renamed.find(name);
      if (entry == renamed.end())
        return;
      // Not an attribute of something, which has a name of its own.
      if (name.begin() != text.begin() && name.begin()[-1] == '.')
        return;
      result.append(done, name.begin());
      result += entry->second;
      done = name.end();
    });
    result.append(done, text.end());
    return result;
  };
  for (Value input : inputs)
    rename(values[input].text);
  for (Statement &statement : statements)
    if (!statement.defines.empty())
      rename(statement.defines);
  for (Value input : inputs)
    values[input].text = rewrite(values[input].text);
  for (Statement &statement : statements)
    statement.text = rewrite(statement.text);
  for (std::string &result : results)
    result = rewrite(result);
}

static TorchValue describeValue(Value value, int64_t id, StringRef name) {
  TorchValue result;
  result.name = name.str();
  result.id = id;
  Type element = getElementTypeOrSelf(value.getType());
  std::string dtype = getTorchType(element);
  result.dtype = dtype == "dtype" ? "float" : dtype.substr(dtype.find('.') + 1);
  if (auto type = dyn_cast<RankedTensorType>(value.getType())) {
    result.shape.emplace();
    for (int64_t size : type.getShape())
      result.shape->push_back(ShapedType::isDynamic(size) ? -1 : size);
  }
  return result;
}

FailureOr<TorchSource> Translator::translate() {
  if (failed(flatten()) || failed(chooseRange()))
    return failure();
  findSlots();
  for (const char *name : {"torch",    "F",      "math",    "parameters",
                           "dtype",    "device", "wide",    "tap",
                           "unpack",   "spread", "decode",  "straight_through",
                           "min",      "max",    "int",     "float",
                           "abs",      "bool",   "round",   "and",
                           "or",       "not",    "in",      "is",
                           "if",       "else",   "for",     "while",
                           "def",      "class",  "return",  "lambda",
                           "None",     "True",   "False",   "from",
                           "import",   "as",     "with",    "pass",
                           "del",      "global", "yield",   "try",
                           "except",   "raise",  "assert",  "break",
                           "continue", "elif",   "finally", "nonlocal",
                           "async",    "await",  "sum",     "accumulator"})
    reserved.insert(name);
  taken = reserved;

  if (options.part == TorchOptions::Part::Whole)
    for (BlockArgument argument : function.getArguments())
      addInput(argument);
  for (int64_t i = rangeBegin; i < rangeEnd; ++i) {
    currentBlock = blockOf[i];
    // What is only made to be made again elsewhere, and weights on their way,
    // come where they are used.
    if (isa<GetParameterOp>(ops[i]) && values.count(ops[i]->getResult(0)))
      continue;
    if (failed(emit(ops[i])))
      return failure();
  }

  // The results.
  Operation *terminator = ops.back();
  SmallVector<Value> outputs;
  auto addOutput = [&](Value value) {
    if (!llvm::is_contained(outputs, value))
      outputs.push_back(value);
  };
  if (options.part == TorchOptions::Part::Whole) {
    for (Value value : terminator->getOperands())
      outputs.push_back(resolve(value));
  } else {
    for (int64_t i = rangeBegin; i < rangeEnd; ++i)
      for (Value result : ops[i]->getResults()) {
        if (isRematerializable(result))
          continue;
        for (const Use &use : uses.lookup(result))
          if (position.lookup(use.op) >= rangeEnd)
            addOutput(result);
      }
  }
  SmallVector<std::string> results;
  currentBlock = -1;
  for (Value output : outputs) {
    FailureOr<Expr> expr = getTensor(output);
    if (failed(expr))
      return failure();
    results.push_back(expr->text);
  }
  dropUnused(results);
  renumber(results);
  auto describe = [&](Value value, StringRef name) {
    TorchValue result = describeValue(value, ids.lookup(value), name);
    if (auto range = slots.find(value); range != slots.end()) {
      result.slots = range->second;
      result.shape->front() = range->second.second - range->second.first;
    }
    return result;
  };
  for (auto [output, name] : llvm::zip_equal(outputs, results))
    source.outputs.push_back(describe(output, name));
  // Arguments in the order of their definition, but tensors before numbers.
  llvm::sort(inputs, [&](Value a, Value b) {
    bool isTensorA = isa<ShapedType>(a.getType()),
         isTensorB = isa<ShapedType>(b.getType());
    if (options.part != TorchOptions::Part::Whole && isTensorA != isTensorB)
      return isTensorA;
    return ids.lookup(a) < ids.lookup(b);
  });
  for (Value input : inputs)
    source.inputs.push_back(describe(input, values.lookup(input).text));

  std::string name = getLastPart(function.getSymName());
  switch (options.part) {
  case TorchOptions::Part::Whole:
    break;
  case TorchOptions::Part::Front:
    name += "_front";
    break;
  case TorchOptions::Part::Back:
    name += "_back";
    break;
  case TorchOptions::Part::Blocks:
    name = options.firstBlock == options.lastBlock
               ? "block_" + std::to_string(options.firstBlock)
               : "blocks_" + std::to_string(options.firstBlock) + "_" +
                     std::to_string(options.lastBlock);
    break;
  }
  if (reserved.contains(name))
    name += "_1";
  source.functionName = name;
  source.text = finish();
  return std::move(source);
}

std::string Translator::finish() {
  std::string body;
  llvm::StringSet<> used;
  int64_t block = -1;
  bool isFirst = true;
  for (const Statement &statement : statements) {
    if (statement.block != block) {
      block = statement.block;
      if (block >= 0)
        body += (isFirst ? "" : "\n") + std::string("    # block ") +
                std::to_string(block) + "\n";
      else
        body += "\n";
    }
    isFirst = false;
    SmallVector<StringRef> lines;
    StringRef(statement.text).split(lines, '\n');
    for (StringRef line : lines)
      body += "    " + line.str() + "\n";
    visitIdentifiers(statement.text,
                     [&](StringRef name) { used.insert(name); });
  }
  std::string head;
  auto describe = [](const TorchValue &value) {
    std::string text = "    " + value.name + ": " + value.dtype;
    if (value.shape) {
      text += "[";
      for (auto [i, size] : llvm::enumerate(*value.shape))
        text += (i ? ", " : "") +
                (size < 0 ? std::string("?") : std::to_string(size));
      text += "]";
    }
    if (value.slots)
      text += ", entries " + std::to_string(value.slots->first) + " to " +
              std::to_string(value.slots->second - 1);
    return text + "\n";
  };
  head += "\"\"\"Made from MLIR by quant-translate --mlir-to-torch.\"\"\"\n\n";
  if (used.contains("math"))
    head += "import math\n\n";
  head += "import torch\n";
  if (used.contains("F") || helpers.count(Helper::Unpack) ||
      helpers.count(Helper::Activation))
    head += "import torch.nn.functional as F\n";
  head += printHelpers(helpers);
  head += "\n\ndef " + source.functionName + "(";
  for (const TorchValue &input : source.inputs)
    head += input.name + ", ";
  head += std::string("*, parameters") + (options.tap ? ", tap" : "") +
          ", dtype=torch.float32):\n";
  head += "    \"\"\"Tensors of floats are of type dtype, parameters of any "
          "type.\n\n";
  for (const TorchValue &input : source.inputs)
    head += describe(input);
  head += "    returns\n";
  for (const TorchValue &output : source.outputs)
    head += describe(output);
  head += "    \"\"\"\n";
  if (used.contains("device")) {
    std::string first;
    for (const TorchValue &input : source.inputs)
      if (input.shape && first.empty())
        first = input.name;
    if (first.empty())
      first = "next(iter(parameters.values()))";
    head += "    device = " + first + ".device\n";
  }
  if (used.contains("wide"))
    head += "    # What comes from integers is not rounded to narrow floats.\n"
            "    wide = torch.promote_types(dtype, torch.float32)\n";
  std::string results;
  for (const TorchValue &output : source.outputs)
    results += (results.empty() ? "" : ", ") + output.name;
  return head + body + "    return " +
         (results.empty() ? std::string("()") : results) + "\n";
}

/// Channel transforms as the tensor ops that they stand for.
static void lowerTransforms(func::FuncOp function) {
  MLIRContext *context = function.getContext();
  context->loadDialect<arith::ArithDialect, linalg::LinalgDialect,
                       math::MathDialect, tensor::TensorDialect>();
  RewritePatternSet patterns(context);
  populateTransformsToLinalgPatterns(patterns);
  // What is not a transform stays as it is.
  walkAndApplyPatterns(function, std::move(patterns));
}

FailureOr<TorchSource>
quant_llm::translateToTorch(ModuleOp module, const TorchOptions &options) {
  func::FuncOp chosen;
  for (auto function : module.getOps<func::FuncOp>()) {
    if (function.isExternal())
      continue;
    if (!options.function.empty()) {
      if (function.getSymName() == options.function)
        chosen = function;
      continue;
    }
    if (chosen)
      return module.emitError("expected one function but got ")
             << chosen.getSymNameAttr() << " and " << function.getSymNameAttr()
             << "; give the name of one";
    chosen = function;
  }
  if (!chosen)
    return module.emitError("expected a function")
           << (options.function.empty() ? std::string()
                                        : " '" + options.function + "'")
           << " with a body but there is none";
  bool hasTransforms =
      chosen
          .walk([](Operation *op) {
            return isa<ScaleChannelsOp, ShiftChannelsOp, PermuteChannelsOp,
                       RotateOp, AffineOp>(op)
                       ? WalkResult::interrupt()
                       : WalkResult::advance();
          })
          .wasInterrupted();
  if (!hasTransforms)
    return Translator(chosen, options).translate();
  // The caller's module stays as it is.
  OwningOpRef<ModuleOp> copy = module.clone();
  chosen = copy->lookupSymbol<func::FuncOp>(chosen.getSymName());
  lowerTransforms(chosen);
  return Translator(chosen, options).translate();
}
