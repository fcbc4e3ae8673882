//===- TransformStatistics.cpp - Statistics of a changed model ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TransformStatistics.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"

#include "mlir/IR/Remarks.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>

using namespace mlir;
using namespace quant_llm;

/// The dimensions of a statistic that are channels of the inputs, and of the
/// outputs.
static SmallVector<int64_t> getInputDims(std::string_view statistic) {
  if (statistic == statistic::hessian || statistic == statistic::drift)
    return {0, 1};
  if (statistic == statistic::rowFisher)
    return {};
  if (statistic == statistic::quantiles || statistic == statistic::inputs ||
      statistic == statistic::fisher || statistic == statistic::residualDrift)
    return {1};
  return {0};
}

static bool isKnown(std::string_view name) {
  return llvm::is_contained(statistic::ofWeightShape, name) ||
         llvm::is_contained(statistic::ofAnyRows, name);
}

/// The rows of the weight before a slice of them was taken.
static int64_t getSourceRows(ParameterOp source) {
  return cast<RankedTensorType>(source.getType()).getDimSize(0);
}

LogicalResult TransformStatistics::addWeight(LinearOp linear, Value weight,
                                             const std::string &name) {
  Entry entry;
  entry.name = name;
  entry.linear = linear;
  Value value = weight;
  while (!isa<GetParameterOp>(value.getDefiningOp())) {
    Operation *op = value.getDefiningOp();
    if (isRowSlice(op)) {
      entry.rows.push_back(op);
      value = op->getOperand(0);
      continue;
    }
    std::optional<ChannelTransform> transform = ChannelTransform::of(op);
    const bool isColumns =
        transform && transform->dims == SmallVector<int64_t, 2>{1};
    if (!transform ||
        (!isColumns && transform->dims != SmallVector<int64_t, 2>{0}))
      return op->emitOpError("does not tell how the statistics of the inputs "
                             "change; calibrate the transformed model instead");
    (isColumns ? entry.columns : entry.rows).push_back(op);
    value = op->getOperand(0);
  }
  std::reverse(entry.columns.begin(), entry.columns.end());
  std::reverse(entry.rows.begin(), entry.rows.end());
  entry.source = getParameterOf(value);
  // Linears with one input have one statistic, if they are transformed alike.
  entry.owner = name;
  const std::string source = file->getOwner(entry.source.getSymName().str());
  for (const Entry &known : entries) {
    ParameterOp knownSource = known.source;
    if (file->getOwner(knownSource.getSymName().str()) == source &&
        llvm::equal(
            known.columns, entry.columns, [](Operation *a, Operation *b) {
              return *ChannelTransform::of(a) == *ChannelTransform::of(b);
            })) {
      entry.owner = known.owner;
      break;
    }
  }
  entries.push_back(std::move(entry));
  return success();
}

LogicalResult
TransformStatistics::plan(ModuleOp op,
                          function_ref<std::string(Value)> getName) {
  module = op;
  entries.clear();
  bool ok = true;
  llvm::StringSet<> seen;
  module->walk([&](Operation *op) {
    // It moves the inputs of linears, and no weight tells.
    if (isa<ShiftChannelsOp>(op) ||
        (isa<AffineOp>(op) && op->getNumOperands() > 3)) {
      op->emitOpError(
          "shifts the inputs of linears, which their weights do not "
          "tell; calibrate the transformed model instead of giving "
          "a calibration file to ")
          << passName;
      ok = false;
    }
    auto linear = dyn_cast<LinearOp>(op);
    if (!linear || isParameterLike(linear.getResult()))
      return;
    for (Value weight : linear.getWeights()) {
      if (!isParameterLike(weight) || isa<WeightType>(weight.getType()))
        continue;
      std::string name = getName(weight);
      if (seen.insert(name).second)
        ok &= succeeded(addWeight(linear, weight, name));
    }
  });
  return success(ok);
}

bool TransformStatistics::survives(const Entry &entry,
                                   std::string_view statistic) {
  // The length of inputs is not that of inputs with other scales, but is that
  // of rotated ones.
  const bool isOfLengths = statistic == statistic::rowFisher;
  auto checkRows = [&](Operation *op) {
    if (isRowSlice(op))
      return true;
    // What outputs lack grows with them, unlike gradients.
    TransformKind kind = ChannelTransform::of(op)->kind;
    return kind == TransformKind::Permute ||
           (kind == TransformKind::Scale &&
            statistic != statistic::residualDrift);
  };
  auto checkColumns = [&](Operation *op) {
    switch (ChannelTransform::of(op)->kind) {
    case TransformKind::Scale:
      return isKnown(statistic) && !isOfLengths;
    case TransformKind::Permute:
      return isKnown(statistic);
    case TransformKind::Rotate:
      return statistic == statistic::mean || statistic == statistic::hessian ||
             statistic == statistic::drift ||
             statistic == statistic::residualDrift ||
             statistic == statistic::inputs || isOfLengths;
    default:
      return false;
    }
  };
  return llvm::all_of(entry.columns, checkColumns) &&
         (!statistic::isOfWeight(statistic) ||
          llvm::all_of(entry.rows, checkRows));
}

LogicalResult TransformStatistics::transform(const Entry &entry,
                                             std::string_view statistic,
                                             std::vector<float> &values,
                                             ArrayRef<int64_t> sourceShape,
                                             Evaluator &evaluator) {
  // A slice of rows changes it.
  SmallVector<int64_t> shape(sourceShape);
  const bool isOfWeight = statistic::isOfWeight(statistic);
  const bool isOfSquares = isOfWeight && statistic != statistic::residualDrift;
  llvm::SmallDenseSet<int64_t, 4> unknown;
  auto apply = [&](Operation *op, int64_t dim,
                   bool isOfInputs) -> LogicalResult {
    if (isRowSlice(op)) {
      Elements x;
      x.shape = shape;
      x.values.assign(values.begin(), values.end());
      sliceRows(cast<tensor::ExtractSliceOp>(op), x);
      shape = x.shape;
      values.assign(x.values.begin(), x.values.end());
      return success();
    }
    ChannelTransform transform = *ChannelTransform::of(op);
    if (transform.kind != TransformKind::Scale) {
      // An orthogonal matrix is its own inverse transpose.
      Elements x;
      x.shape = shape;
      x.values.assign(values.begin(), values.end());
      if (failed(evaluator.apply(op, transform.on({dim}), x)))
        return failure();
      values.assign(x.values.begin(), x.values.end());
      return success();
    }
    FailureOr<Elements> data = evaluator.evaluate(transform.data.front());
    if (failed(data))
      return failure();
    int64_t inner = 1;
    for (int64_t size : ArrayRef(shape).drop_front(dim + 1))
      inner *= size;
    for (int64_t i = 0, e = values.size(); i < e; ++i) {
      double s = data->values[i / inner % shape[dim]];
      if (s < 0 && (statistic == statistic::min || statistic == statistic::max))
        return op->emitOpError("has a negative scale, which makes another "
                               "statistic of ")
               << StringRef(statistic)
               << "; calibrate the transformed model instead";
      if (isOfSquares)
        s *= s;
      else if (statistic == statistic::absMax ||
               statistic == statistic::absMean ||
               statistic == statistic::quantiles)
        s = std::fabs(s);
      // Of channels behind a gain of 0 nothing is known.
      if (isOfInputs && s == 0 && values[i] == 0 && !transform.inverse) {
        unknown.insert(i / inner % shape[dim]);
        continue;
      }
      values[i] =
          static_cast<float>(transform.inverse ? values[i] * s : values[i] / s);
    }
    return success();
  };
  for (int64_t dim : getInputDims(statistic))
    for (Operation *op : entry.columns)
      if (failed(apply(op, dim, /*isOfInputs=*/true)))
        return failure();
  if (isOfWeight)
    for (Operation *op : entry.rows)
      if (failed(apply(op, 0, /*isOfInputs=*/false)))
        return failure();
  if (!unknown.empty() && warned.insert(entry.name).second)
    LinearOp(entry.linear).emitWarning()
        << passName << ": the scale in front of the inputs of '" << entry.name
        << "' is 0 in " << unknown.size() << " channels; what they are without "
        << "it is not known, and counts as 0";
  for (float value : values)
    if (!std::isfinite(value))
      return LinearOp(entry.linear).emitOpError("the transformed statistic ")
             << StringRef(statistic) << " of '" << entry.name
             << "' is out of the range of numbers; calibrate the transformed "
                "model instead";
  if (statistic != statistic::hessian)
    return success();
  // Two roundings in another order.
  for (int64_t i = 0, k = shape[0]; i < k; ++i)
    for (int64_t j = 0; j < i; ++j)
      values[i * k + j] = values[j * k + i];
  return success();
}

LogicalResult TransformStatistics::write(const std::string &path,
                                         const std::string &fingerprint,
                                         ParameterArchives &archives) {
  struct Tensor {
    const Entry *entry;
    std::string statistic;
    std::vector<int64_t> shape;
  };
  std::vector<Tensor> tensors;
  std::vector<TensorDeclaration> declarations;
  llvm::json::Object aliases;
  llvm::StringSet<> owners;
  for (const Entry &entry : entries) {
    ParameterOp source = entry.source;
    const std::string name = source.getSymName().str();
    SmallVector<std::string> lost;
    for (const std::string &statistic : file->statistics(name)) {
      // Of the inputs, once.
      if (!statistic::isOfWeight(statistic) && entry.owner != entry.name)
        continue;
      if (!survives(entry, statistic)) {
        lost.push_back(statistic);
        continue;
      }
      Result<std::vector<int64_t>> shape = file->getShape(statistic, name);
      if (!shape.ok())
        return fail(shape.status());
      LinearOp linear = entry.linear;
      // Only what has the shape of its linear can be transformed.
      std::vector<int64_t> expected = statistic::getShape(
          statistic, getSourceRows(entry.source), linear.getK());
      if (statistic == statistic::quantiles || statistic == statistic::inputs)
        expected = {shape->empty() ? 0 : shape->front(), linear.getK()};
      else if (!isKnown(statistic))
        expected = *shape;
      if (Status status = file->checkShape(statistic, name, expected);
          !status.ok())
        return linear.emitOpError(status.message());
      tensors.push_back({&entry, statistic, *shape});
      std::vector<int64_t> newShape = *shape;
      if (statistic::isOfWeight(statistic))
        newShape[0] = linear.getN();
      declarations.push_back(
          {statistic + "/" + entry.name, DType::F32, newShape});
      owners.insert(entry.name);
    }
    if (!lost.empty())
      remark::missed(
          source.getLoc(),
          remark::RemarkOpts::name("statistics-lost").category(passName))
          << remark::detail::Remark::Arg("parameter", entry.name)
          << remark::detail::Remark::Arg("statistics", llvm::join(lost, " "));
  }
  for (const Entry &entry : entries)
    if (entry.owner != entry.name && owners.contains(entry.owner))
      aliases[entry.name] = entry.owner;
  std::map<std::string, std::string> metadata = file->metadata();
  metadata["model"] = fingerprint;
  metadata["writer"] = passName.str();
  metadata.erase("aliases");
  if (!aliases.empty()) {
    std::string text;
    llvm::raw_string_ostream(text) << llvm::json::Value(std::move(aliases));
    metadata["aliases"] = text;
  }
  Result<SafetensorsWriter> created =
      SafetensorsWriter::create(path, declarations, metadata);
  if (!created.ok())
    return fail(created.status());
  writer.emplace(created.take());
  Evaluator evaluator(archives);
  for (const Tensor &tensor : tensors) {
    ParameterOp source = tensor.entry->source;
    Result<std::vector<float>> values =
        file->read(tensor.statistic, source.getSymName().str(), tensor.shape);
    if (!values.ok())
      return LinearOp(tensor.entry->linear).emitOpError(values.message());
    if (isKnown(tensor.statistic) &&
        failed(transform(*tensor.entry, tensor.statistic, *values, tensor.shape,
                         evaluator)))
      return failure();
    if (Status status =
            writer->append(tensor.statistic + "/" + tensor.entry->name,
                           values->data(), values->size() * sizeof(float));
        !status.ok())
      return fail(status);
  }
  return success();
}

LogicalResult TransformStatistics::finish() {
  if (Status status = writer->finish(); !status.ok())
    return fail(status);
  return success();
}
