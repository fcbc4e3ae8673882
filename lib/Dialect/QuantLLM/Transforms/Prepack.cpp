//===- Prepack.cpp - Weights in the layout of GPU kernels -----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// NewArchive.h has the phases of the pass, which it shares with others.
//
//===----------------------------------------------------------------------===//

#include "AnnounceProgress.h"
#include "NewArchive.h"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Packing/FragmentLayout.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/MapVector.h"

namespace quant_llm {
#define GEN_PASS_DEF_PREPACK
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-prepack";
static constexpr StringLiteral kOutputScale = "output_scale";

namespace {

/// A parameter to be packed; the canonical one is kept for other uses.
struct Packed : MovedWeight {
  /// The stored components, in the order of the canonical type.
  SmallVector<TensorInfo> infos;

  // Filled while writing.
  float outputScale = 1.0f;
};

struct Prepack : quant_llm::impl::PrepackBase<Prepack> {
  using PrepackBase::PrepackBase;

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  LogicalResult run();
  LogicalResult collect();
  LogicalResult plan(ParameterArchives &archives, NewArchive &newArchive);
  FailureOr<PackedWeight> pack(Packed &entry);
  LogicalResult write(ParameterArchives &archives, NewArchive &newArchive);
  void rewrite(NewArchive &newArchive);

  llvm::MapVector<Operation *, Packed> packed;
};

} // namespace

LogicalResult Prepack::collect() {
  packed.clear();
  SymbolTableCollection tables;
  auto layout = FragmentLayoutAttr::get(&getContext());
  bool ok = true, arePacked = false;
  getOperation()->walk([&](LinearOpInterface linear) {
    // No kernel takes one weight packed and the other one not.
    bool allPacked = llvm::all_of(linear.getWeights(), [&](Value weight) {
      auto type = dyn_cast<WeightType>(weight.getType());
      return type && (type.getLayout() || getParameterOf(weight, &tables));
    });
    if (!allPacked)
      return;
    for (Value weight : linear.getWeights()) {
      auto type = cast<WeightType>(weight.getType());
      if (type.getLayout()) {
        arePacked = true;
        continue;
      }
      ParameterOp parameter = getParameterOf(weight, &tables);
      Packed &entry = packed[parameter];
      if (!entry.parameter) {
        entry.parameter = parameter;
        entry.type = WeightType::getChecked(
            [&] { return parameter.emitOpError("cannot be packed: "); },
            type.getShape(), type.getElementType(), type.getScheme(), layout);
        ok &= bool(entry.type);
      }
      if (entry.linears.empty() || entry.linears.back() != linear)
        entry.linears.push_back(linear);
    }
  });
  if (!ok)
    return failure();
  if (packed.empty())
    return getOperation().emitError()
           << kPassName
           << (arePacked ? ": no linear has a weight left to pack; "
                           "leave the pass out"
                         : ": no linear has a parameter in canonical storage "
                           "as its weight; run quant-llm-quantize first");
  findOtherUses(getOperation(), [&](ParameterOp parameter) -> MovedWeight * {
    auto entry = packed.find(parameter);
    return entry == packed.end() ? nullptr : &entry->second;
  });
  return success();
}

LogicalResult Prepack::plan(ParameterArchives &archives,
                            NewArchive &newArchive) {
  bool ok = true;
  for (auto &[key, entry] : packed) {
    FailureOr<SmallVector<TensorInfo>> infos =
        archives.findComponents(entry.parameter);
    ok &= succeeded(infos);
    if (succeeded(infos))
      entry.infos = std::move(*infos);
    newArchive.addParameter(entry.parameter);
  }
  if (!ok)
    return failure();
  // The output scales, four bytes each, come last: everything before them is a
  // multiple of 64 bytes long, and so every packed tensor is aligned to that.
  for (auto &[key, entry] : packed) {
    entry.key = newArchive.getNewKey(entry.parameter);
    if (failed(newArchive.declare(
            entry, [](StringRef name) { return name != kOutputScale; })))
      return failure();
  }
  for (auto &[key, entry] : packed)
    if (failed(newArchive.declare(
            entry, [](StringRef name) { return name == kOutputScale; })))
      return failure();
  return success();
}

/// The stored weight, packed.
FailureOr<PackedWeight> Prepack::pack(Packed &entry) {
  ParameterOp parameter = entry.parameter;
  Scheme scheme = entry.type.getScheme().toNumerics();
  QuantizedView view;
  view.n = entry.type.getN();
  view.k = entry.type.getK();
  SmallVector<TensorBuffer> buffers;
  for (auto [component, info] : llvm::zip_equal(
           quant_llm::getComponents(scheme, view.n, view.k), entry.infos)) {
    Result<TensorBuffer> buffer = loadTensor(info, /*alignment=*/1);
    if (!buffer.ok())
      return parameter.emitOpError("cannot be read: ") << buffer.message();
    QuantizedView::Buffer part{buffer->data,
                               static_cast<int64_t>(buffer->bytes)};
    switch (component.kind) {
    case ComponentKind::Codes:
      view.codes = part;
      break;
    case ComponentKind::Scales:
    case ComponentKind::ScaleScales:
      view.scales = part;
      break;
    case ComponentKind::ScaleCodes:
      view.scaleCodes = part;
      break;
    case ComponentKind::Zeros:
      view.zeros = part;
      break;
    case ComponentKind::LowRankA:
      view.lowRankA = part;
      break;
    case ComponentKind::LowRankB:
      view.lowRankB = part;
      break;
    }
    buffers.push_back(buffer.take());
  }
  Result<PackedWeight> result = packWeight(view, scheme, threads);
  if (!result.ok())
    return parameter.emitOpError("cannot be packed: ") << result.message();
  if (verify) {
    Status status = verifyPackedWeight(*result, view, scheme, threads);
    if (!status.ok())
      return parameter.emitOpError("was packed wrongly: ") << status.message();
  }
  if (int64_t inexact = result->inexactScales + result->inexactZeros)
    parameter.emitWarning()
        << kPassName << ": " << inexact
        << " scales and zeros are so far below the largest scale that they "
           "lose bits";
  return result.take();
}

LogicalResult Prepack::write(ParameterArchives &archives,
                             NewArchive &newArchive) {
  Progress progress{"packing weights", "", 0, 0};
  for (auto &[key, entry] : packed)
    for (const TensorInfo &info : entry.infos)
      progress.total += getByteSize(info.dtype, info.shape).value_or(0);
  for (auto &[key, entry] : packed) {
    FailureOr<PackedWeight> weight = pack(entry);
    if (failed(weight))
      return failure();
    entry.outputScale = weight->outputScale;
    for (StringRef name : entry.type.getComponentNames()) {
      if (name == kOutputScale)
        continue;
      const std::vector<uint8_t> &bytes = name == "packed" ? weight->codes
                                          : name == "packed_scales"
                                              ? weight->scales
                                              : weight->zeros;
      if (failed(newArchive.append(entry.key + "." + name.str(), bytes.data(),
                                   bytes.size())))
        return failure();
    }
    using Arg = remark::detail::Remark::Arg;
    remark::passed(entry.parameter.getLoc(),
                   remark::RemarkOpts::name("packed").category(kPassName))
        << Arg("parameter", entry.parameter.getSymName())
        << Arg("output scale", entry.outputScale)
        << Arg("inexact scales", weight->inexactScales)
        << Arg("inexact zeros", weight->inexactZeros)
        << Arg("bytes", entry.type.getStorageBytes());
    progress.item = entry.parameter.getSymName().str();
    for (const TensorInfo &info : entry.infos) {
      progress.done += getByteSize(info.dtype, info.shape).value_or(0);
      archives.release(entry.parameter, info);
    }
    if (failed(announce(entry.parameter, progress)))
      return failure();
  }
  for (auto &[key, entry] : packed)
    if (failed(newArchive.append((entry.key + ".") + kOutputScale.str(),
                                 &entry.outputScale,
                                 sizeof(entry.outputScale))))
      return failure();
  return success();
}

void Prepack::rewrite(NewArchive &newArchive) {
  newArchive.beginRewrite();
  for (auto &[key, entry] : packed) {
    newArchive.move(entry, ".packed");
    ++numPacked;
  }
  newArchive.endRewrite();
}

LogicalResult Prepack::run() {
  ParameterArchives archives(baseDir);
  NewArchive newArchive(getOperation(), {kPassName, output, /*report=*/"",
                                         archiveName, moduleDir, baseDir});
  if (failed(collect()) || failed(newArchive.verifyOptions(archives)) ||
      failed(plan(archives, newArchive)) || failed(newArchive.open()) ||
      failed(write(archives, newArchive)) ||
      failed(newArchive.finish([] { return std::string(); })))
    return failure();
  rewrite(newArchive);
  return success();
}
