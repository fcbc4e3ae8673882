//===- MaterializeTransforms.cpp - Compute transformed parameters ---------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AnnounceProgress.h"
#include "NewArchive.h"
#include "TransformEvaluator.h"
#include "TransformStatistics.h"

#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/Calibration.h"
#include "quant-llm/Formats/Fingerprint.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Support/AtomicFile.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Iterators.h"
#include "mlir/IR/Remarks.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>
#include <cstring>

namespace quant_llm {
#define GEN_PASS_DEF_MATERIALIZETRANSFORMS
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-materialize-transforms";

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

/// A parameter to be computed.
struct Computed {
  /// What it replaces: equal chains.
  SmallVector<Value> roots;
  /// The parameter that the chain transforms; null if there is none.
  ParameterOp source;
  /// In the new archive and in the module.
  std::string name;
  bool keepsName = false;
  /// What a linear with that parameter makes of the data of a shift.
  bool isOffset = false;
};

struct MaterializeTransforms
    : public quant_llm::impl::MaterializeTransformsBase<MaterializeTransforms> {
  using MaterializeTransformsBase::MaterializeTransformsBase;

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  LogicalResult run();
  void collect();
  void chooseNames();
  LogicalResult plan(ParameterArchives &archives, NewArchive &newArchive);
  LogicalResult write(ParameterArchives &archives, NewArchive &newArchive);
  LogicalResult planCalibration(ParameterArchives &archives);
  LogicalResult writeCalibration(ParameterArchives &archives);
  void rewrite(NewArchive &newArchive);

  std::vector<Computed> computed;
  std::vector<CopiedParameter> copied;
  /// Parameters that only chains use.
  llvm::SetVector<Operation *> consumed;
  /// The parameters that have been written, for the calibration file.
  Fingerprint fingerprint;
  std::shared_ptr<TransformStatistics> statistics;
  /// Whether any parameter has more than one form now. (Statistics count
  /// nothing in a release build of LLVM.)
  bool hasUntied = false;
};

} // namespace

/// Whether `value` is an operand of a longer chain in all its uses.
static bool isRoot(Value value) {
  Operation *op = value.getDefiningOp();
  if (!op || isa<GetParameterOp>(op) || op->hasTrait<OpTrait::ConstantLike>() ||
      !isParameterLike(value))
    return false;
  return llvm::any_of(value.getUsers(), [](Operation *user) {
    return user->getNumResults() != 1 || !isParameterLike(user->getResult(0));
  });
}

/// A text that is the same for chains that compute the same.
static void describeChain(Value value, raw_ostream &os) {
  Operation *op = value.getDefiningOp();
  os << op->getName() << op->getAttrDictionary() << value.getType() << "(";
  for (Value operand : op->getOperands())
    if (!operand.getDefiningOp<tensor::EmptyOp>())
      describeChain(operand, os);
  os << ")";
}

/// The parameter that a chain transforms. For what a linear makes of the data
/// of a shift it is the weight.
static ParameterOp getSource(Value value, bool &isOffset) {
  isOffset = false;
  while (Operation *op = value.getDefiningOp()) {
    if (isa<GetParameterOp>(op))
      return getParameterOf(value);
    if (op->getNumOperands() == 0)
      break;
    auto linear = dyn_cast<LinearOp>(op);
    isOffset |= linear != nullptr;
    value = linear ? linear.getWeights().front() : op->getOperand(0);
  }
  return nullptr;
}

void MaterializeTransforms::collect() {
  computed.clear();
  copied.clear();
  consumed.clear();
  llvm::StringMap<size_t> byChain;
  DenseSet<Operation *> usedDirectly;
  SymbolTableCollection tables;
  getOperation()->walk([&](Operation *op) {
    if (auto get = dyn_cast<GetParameterOp>(op)) {
      ParameterOp parameter = getParameterOf(get.getResult(), &tables);
      consumed.insert(parameter);
      for (Operation *user : get->getUsers())
        if (user->getNumResults() != 1 || !isParameterLike(user->getResult(0)))
          usedDirectly.insert(parameter);
      return;
    }
    if (op->getNumResults() != 1 || !isRoot(op->getResult(0)))
      return;
    std::string chain;
    llvm::raw_string_ostream stream(chain);
    describeChain(op->getResult(0), stream);
    auto [found, inserted] = byChain.try_emplace(chain, computed.size());
    if (inserted) {
      Computed &entry = computed.emplace_back();
      entry.source = getSource(op->getResult(0), entry.isOffset);
    }
    computed[found->second].roots.push_back(op->getResult(0));
  });
  // Names of symbols alone are no use.
  consumed.remove_if(
      [&](Operation *parameter) { return usedDirectly.contains(parameter); });
}

void MaterializeTransforms::chooseNames() {
  ModuleOp module = getOperation();
  llvm::StringSet<> taken;
  for (auto op : module.getOps<SymbolOpInterface>())
    taken.insert(op.getName());
  DenseSet<Operation *> named, untied;
  for (Computed &entry : computed) {
    // The first form of a parameter that is used no other way is that
    // parameter.
    if (entry.source && !entry.isOffset &&
        entry.source.getType() == entry.roots.front().getType() &&
        consumed.contains(entry.source) && named.insert(entry.source).second) {
      entry.keepsName = true;
      entry.name = entry.source.getSymName().str();
      continue;
    }
    const bool isPart = isRowSlice(entry.roots.front().getDefiningOp());
    std::string base = "transform";
    if (isPart)
      base = (entry.source.getSymName() + ".rows").str();
    else if (entry.source)
      base =
          (entry.source.getSymName() + (entry.isOffset ? ".offset" : ".untied"))
              .str();
    entry.name = base;
    for (int i = 1; !taken.insert(entry.name).second; ++i)
      entry.name = base + "_" + std::to_string(i);
    if (!entry.source || entry.isOffset || isPart ||
        !untied.insert(entry.source).second)
      continue;
    ++numUntied;
    hasUntied = true;
    using Arg = remark::detail::Remark::Arg;
    remark::passed(entry.source.getLoc(),
                   remark::RemarkOpts::name("untied").category(kPassName))
        << Arg("parameter", entry.source.getSymName())
        << Arg("further form", entry.name);
  }
}

LogicalResult MaterializeTransforms::plan(ParameterArchives &archives,
                                          NewArchive &newArchive) {
  bool ok = true;
  for (Computed &entry : computed) {
    Type element = getElementTypeOrSelf(entry.roots.front().getType());
    std::optional<DType> dtype = getStoredType(element);
    if (!dtype || !isa<mlir::FloatType>(element) || getBitWidth(*dtype) < 16) {
      entry.roots.front().getDefiningOp()->emitOpError(
          "expected elements of type f16, bf16, f32 or f64 to compute a new "
          "parameter of, but got ")
          << element;
      ok = false;
    }
  }
  for (auto parameter : getOperation().getOps<ParameterOp>()) {
    if (!copyDense || consumed.contains(parameter))
      continue;
    FailureOr<CopiedParameter> copy = findCopied(archives, parameter);
    if (succeeded(copy))
      copied.push_back(std::move(*copy));
    ok &= succeeded(copy);
  }
  if (!ok)
    return failure();
  for (CopiedParameter &copy : copied)
    newArchive.addParameter(copy.parameter);
  // Wide elements first: all are then aligned to their type. Copies lie
  // behind.
  std::vector<Computed> sorted;
  for (unsigned width : {64u, 32u, 16u})
    for (Computed &entry : computed)
      if (getElementTypeOrSelf(entry.roots.front().getType())
              .getIntOrFloatBitWidth() == width)
        sorted.push_back(entry);
  computed = std::move(sorted);
  for (Computed &entry : computed) {
    auto type = cast<RankedTensorType>(entry.roots.front().getType());
    ParameterOp owner = entry.source
                            ? entry.source
                            : *getOperation().getOps<ParameterOp>().begin();
    if (failed(newArchive.declare(owner, entry.name,
                                  *getStoredType(type.getElementType()),
                                  type.getShape())))
      return failure();
  }
  return newArchive.declare(copied);
}

/// To f16 or bf16 with one rounding: to odd in f32, whose last bit then stands
/// for all that were cut off.
static float roundToOdd(double value) {
  float narrow = static_cast<float>(value);
  if (std::isfinite(narrow) && static_cast<double>(narrow) != value) {
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof(bits));
    // Toward zero, then odd.
    if (std::fabs(static_cast<double>(narrow)) > std::fabs(value))
      --bits;
    bits |= 1;
    std::memcpy(&narrow, &bits, sizeof(bits));
  }
  return narrow;
}

/// The bytes of elements of a stored type; the index of the first element that
/// is not finite, if there is one.
static std::optional<int64_t> store(const Elements &x, DType dtype,
                                    std::vector<uint8_t> &bytes) {
  const int64_t count = x.values.size();
  std::optional<int64_t> bad;
  auto convert = [&](auto toStored, auto isBad) {
    using T = decltype(toStored(0.0));
    bytes.resize(count * sizeof(T));
    for (int64_t i = 0; i < count; ++i) {
      T stored = toStored(x.values[i]);
      if (isBad(stored) && !bad)
        bad = i;
      std::memcpy(bytes.data() + i * sizeof(T), &stored, sizeof(T));
    }
  };
  switch (dtype) {
  case DType::F64:
    convert([](double v) { return v; },
            [](double v) { return !std::isfinite(v); });
    break;
  case DType::F16:
    convert([](double v) { return floatToF16(roundToOdd(v)); },
            [](uint16_t v) { return !std::isfinite(f16ToFloat(v)); });
    break;
  case DType::BF16:
    convert([](double v) { return floatToBF16(roundToOdd(v)); },
            [](uint16_t v) { return !std::isfinite(bf16ToFloat(v)); });
    break;
  default:
    convert([](double v) { return static_cast<float>(v); },
            [](float v) { return !std::isfinite(v); });
    break;
  }
  return bad;
}

LogicalResult MaterializeTransforms::write(ParameterArchives &archives,
                                           NewArchive &newArchive) {
  Progress progress{"computing transformed parameters", "", 0, 0};
  auto getBytes = [](Value value) -> uint64_t {
    auto type = cast<RankedTensorType>(value.getType());
    return type.getNumElements() * type.getElementTypeBitWidth() / 8;
  };
  for (const Computed &entry : computed)
    progress.total += getBytes(entry.roots.front());
  for (const CopiedParameter &copy : copied)
    progress.total += copy.getBytes();
  auto advance = [&](const std::string &item, uint64_t bytes) {
    progress.item = item;
    progress.done += bytes;
    return announce(getOperation(), progress);
  };
  for (const Computed &entry : computed) {
    Value root = entry.roots.front();
    Evaluator evaluator(archives);
    FailureOr<Elements> elements = evaluator.evaluate(root);
    if (failed(elements))
      return failure();
    std::vector<uint8_t> bytes;
    Type element = getElementTypeOrSelf(root.getType());
    if (std::optional<int64_t> bad =
            store(*elements, *getStoredType(element), bytes))
      return root.getDefiningOp()->emitOpError("computes parameter '")
             << entry.name << "', whose element " << *bad
             << " is not a finite number of type " << element;
    if (failed(newArchive.append(entry.name, bytes.data(), bytes.size())))
      return failure();
    TensorInfo info;
    info.dtype = *getStoredType(element);
    info.shape.assign(elements->shape.begin(), elements->shape.end());
    info.data = bytes.data();
    info.bytes = bytes.size();
    fingerprint.add(entry.name, info);
    if (failed(advance(entry.name, bytes.size())))
      return failure();
  }
  for (const CopiedParameter &copy : copied)
    if (failed(newArchive.append(copy, archives, advance)))
      return failure();
  return success();
}

LogicalResult
MaterializeTransforms::planCalibration(ParameterArchives &archives) {
  if (calibration.empty())
    return success();
  FailureOr<CalibrationFile> file =
      openCalibration(getOperation(), calibration, archives, anyModel);
  if (failed(file))
    return failure();
  llvm::DenseMap<Value, std::string> names;
  for (Computed &entry : computed)
    for (Value root : entry.roots)
      names[root] = entry.name;
  statistics = std::make_shared<TransformStatistics>(
      kPassName, std::make_shared<CalibrationFile>(std::move(*file)));
  return statistics->plan(getOperation(), [&](Value weight) {
    auto found = names.find(weight);
    return found != names.end() ? found->second
                                : getParameterOf(weight).getSymName().str();
  });
}

/// The statistics of the model that the module will be.
LogicalResult
MaterializeTransforms::writeCalibration(ParameterArchives &archives) {
  if (!statistics)
    return success();
  DenseSet<Operation *> added;
  for (Computed &entry : computed)
    if (entry.keepsName)
      added.insert(entry.source);
  for (auto parameter : getOperation().getOps<ParameterOp>())
    if (!consumed.contains(parameter) && !added.contains(parameter) &&
        failed(archives.addToFingerprint(parameter, fingerprint)))
      return failure();
  return statistics->write(calibrationOutput, fingerprint.finish(), archives);
}

void MaterializeTransforms::rewrite(NewArchive &newArchive) {
  ModuleOp module = getOperation();
  newArchive.beginRewrite();
  OpBuilder builder(module.getContext());
  for (Computed &entry : computed) {
    ParameterOp parameter = entry.source;
    Type type = entry.roots.front().getType();
    if (!entry.keepsName) {
      // Beside the source, or at the end of the parameters.
      if (parameter)
        builder.setInsertionPointAfter(parameter);
      else
        builder.setInsertionPointAfter(*module.getOps<ArchiveOp>().begin());
      parameter = ParameterOp::create(
          builder, entry.roots.front().getLoc(), entry.name, archiveName,
          /*key=*/StringAttr(), cast<RankedTensorType>(type));
    }
    newArchive.move(parameter, entry.name);
    for (Value root : entry.roots) {
      builder.setInsertionPointAfterValue(root);
      auto get = GetParameterOp::create(
          builder, root.getLoc(), type,
          FlatSymbolRefAttr::get(builder.getContext(), entry.name));
      root.replaceAllUsesWith(get);
    }
    ++numMaterialized;
  }
  for (const CopiedParameter &copy : copied)
    newArchive.move(copy.parameter, copy.key);
  // What the chains were made of.
  eraseUnusedData(module, /*constants=*/true);
  for (Operation *parameter : consumed)
    if (SymbolTable::symbolKnownUseEmpty(parameter, module))
      parameter->erase();
  // The importer's note that embedding and head are one parameter.
  auto model = module->getAttrOfType<DictionaryAttr>("quant_llm.model");
  if (hasUntied && model && model.contains("tied_embeddings")) {
    NamedAttrList entries(model);
    entries.set("tied_embeddings", builder.getBoolAttr(false));
    module->setAttr("quant_llm.model",
                    entries.getDictionary(module.getContext()));
  }
  newArchive.endRewrite();
}

LogicalResult MaterializeTransforms::run() {
  ParameterArchives archives(baseDir);
  NewArchive newArchive(getOperation(), {kPassName, output, /*report=*/"",
                                         archiveName, moduleDir, baseDir});
  hasUntied = false;
  fingerprint = Fingerprint();
  statistics.reset();
  if (calibration.empty() != calibrationOutput.empty())
    return newArchive.fail()
           << "expected both of the options 'calibration' and "
              "'calibration-output', the statistics of the model as it is and "
              "those of the transformed one, or neither";
  if (anyModel && calibration.empty())
    return emitOptionError("any-model",
                           "expected none without the option calibration");
  collect();
  if (computed.empty() && !allowNone)
    return newArchive.fail() << "no parameter is transformed; run "
                                "quant-llm-fold-transforms first";
  const OptionFile inputs[] = {{"calibration", calibration}};
  if (failed(newArchive.verifyOptions(archives, inputs)) ||
      failed(verifyOutputFile(getOperation(), archives,
                              {"calibration-output", calibrationOutput}, inputs,
                              [&] { return newArchive.fail(); })))
    return failure();
  chooseNames();
  // Weights and statistics of different models are no use.
  FileTransaction files;
  if (failed(plan(archives, newArchive)) || failed(planCalibration(archives)) ||
      failed(newArchive.open()) || failed(write(archives, newArchive)) ||
      failed(writeCalibration(archives)) ||
      failed(newArchive.finish([] { return std::string(); })) ||
      (statistics && failed(statistics->finish())))
    return failure();
  if (Status status = files.commit(); !status.ok())
    return newArchive.fail() << status.message();
  rewrite(newArchive);
  return success();
}
