//===- VerifyEquivalence.cpp - Whether two modules compute the same -------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Equivalence/Passes.h"

#include "quant-llm/Dialect/QuantLLM/IR/QuantLLM.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/EquivalenceTransforms.h"
#include "quant-llm/Dialect/QuantLLM/Transforms/Passes.h"
#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParsePipeline.h"
#include "quant-llm/Numerics/Float.h"
#include "quant-llm/Parser/ParseSafely.h"
#include "quant-llm/Pipelines/Pipelines.h"
#include "quant-llm/Runtime/CPU/CpuEngine.h"
#include "quant-llm/Runtime/CPU/Npy.h"
#include "quant-llm/Support/AtomicFile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Support/FileUtilities.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

namespace quant_llm {
#define GEN_PASS_DEF_SAVEMODULE
#define GEN_PASS_DEF_VERIFYEQUIVALENCE
#include "quant-llm/Equivalence/Passes.h.inc"
} // namespace quant_llm

using namespace mlir;
using namespace quant_llm;

static constexpr StringLiteral kPassName = "quant-llm-verify-equivalence";
/// Beyond, extents of all calls might not fit into a number.
static constexpr int64_t kMostExtent = int64_t(1) << 40;
static constexpr unsigned kMostCalls = 1 << 20;
/// Random integers are below.
static constexpr uint64_t kNumIntegers = 8;

/// The module in text, with archives that are found from everywhere: the text
/// does not have the location beside which they lie.
static FailureOr<std::string>
printForElsewhere(ModuleOp module, StringRef baseDir, std::string &message) {
  OwningOpRef<ModuleOp> copy = module.clone();
  for (auto archive : copy->getOps<ArchiveOp>()) {
    SmallString<128> path(resolveArchivePath(archive, baseDir));
    if (llvm::sys::fs::make_absolute(path)) {
      message = ("cannot find the directory of '" + path + "'").str();
      return failure();
    }
    archive.setPath(path);
  }
  std::string text;
  llvm::raw_string_ostream stream(text);
  copy->print(stream, OpPrintingFlags().printGenericOpForm());
  return text;
}

/// For each result the argument that it is after slices were replaced, or -1.
static SmallVector<int64_t> getStates(func::FuncOp function) {
  SmallVector<int64_t> states(function.getNumResults(), -1);
  Operation *terminator = function.getBody().front().getTerminator();
  for (auto [i, value] : llvm::enumerate(terminator->getOperands())) {
    bool isReplaced = false;
    while (auto insert = value.getDefiningOp<tensor::InsertSliceOp>()) {
      value = insert.getDest();
      isReplaced = true;
    }
    if (auto argument = dyn_cast<BlockArgument>(value); argument && isReplaced)
      states[i] = argument.getArgNumber();
  }
  return states;
}

/// The first extent of a tensor, if dynamic ones of arguments are `extent`;
/// nothing if that is not told by ops that keep it.
static std::optional<int64_t> findRows(Value tensor, int64_t extent) {
  while (true) {
    auto type = dyn_cast<RankedTensorType>(tensor.getType());
    if (!type || type.getRank() == 0)
      return std::nullopt;
    if (!type.isDynamicDim(0))
      return type.getDimSize(0);
    if (auto argument = dyn_cast<BlockArgument>(tensor)) {
      Block *block = argument.getOwner();
      if (block->isEntryBlock() && isa<func::FuncOp>(block->getParentOp()))
        return extent;
      return std::nullopt;
    }
    Operation *op = tensor.getDefiningOp();
    if (auto linear = dyn_cast<LinearOpInterface>(op)) {
      tensor = linear.getInput();
    } else if (auto init = dyn_cast<DestinationStyleOpInterface>(op)) {
      tensor = init.getTiedOpOperand(cast<OpResult>(tensor))->get();
    } else if (auto empty = dyn_cast<tensor::EmptyOp>(op)) {
      auto dim = empty.getDynamicSize(0).getDefiningOp<tensor::DimOp>();
      if (!dim || dim.getConstantIndex() != 0)
        return std::nullopt;
      tensor = dim.getSource();
    } else if (isa<BlockOp, CrossBlockOp>(op)) {
      tensor = op->getRegion(0).front().getTerminator()->getOperand(
          cast<OpResult>(tensor).getResultNumber());
    } else if (op->hasTrait<OpTrait::Elementwise>() ||
               ChannelTransform::of(op) ||
               isa<tensor::CastOp, QuantizeActivationOp>(op)) {
      auto isTensor = [](Value operand) {
        return isa<RankedTensorType>(operand.getType());
      };
      tensor = *llvm::find_if(op->getOperands(), isTensor);
    } else {
      return std::nullopt;
    }
  }
}

/// Arguments that are offsets of experts, and the number of tokens, which they
/// end with, if that can be told.
static llvm::DenseMap<int64_t, std::optional<int64_t>>
getOffsets(func::FuncOp function, int64_t extent) {
  llvm::DenseMap<int64_t, std::optional<int64_t>> tokens;
  function.walk([&](GroupedLinearOp linear) {
    auto offsets = dyn_cast<BlockArgument>(linear.getOffsets());
    if (!offsets || offsets.getOwner() != &function.getBody().front())
      return;
    std::optional<int64_t> rows = findRows(linear.getInput(), extent);
    auto [entry, isNew] = tokens.try_emplace(offsets.getArgNumber(), rows);
    if (!isNew && entry->second != rows)
      entry->second = std::nullopt;
  });
  return tokens;
}

namespace {

/// A module in a context of its own (a pass must not run others in the context
/// that it is run in), and its code.
struct Candidate {
  std::unique_ptr<MLIRContext> context;
  OwningOpRef<ModuleOp> module;
  std::unique_ptr<CpuEngine> engine;
};

struct VerifyEquivalence
    : public quant_llm::impl::VerifyEquivalenceBase<VerifyEquivalence> {
  using VerifyEquivalenceBase::VerifyEquivalenceBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registerCpuPipelineDialects(registry);
    // Dialects have to be loaded before the passes run. What is wrong with the
    // text is reported when the pass runs.
    OpPassManager nested(ModuleOp::getOperationName());
    std::string ignored;
    if (!pipeline.empty() &&
        succeeded(parsePipeline(pipeline, nested, ignored)))
      nested.getDependentDialects(registry);
  }

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

private:
  InFlightDiagnostic fail() {
    return getOperation().emitError() << kPassName << ": ";
  }
  LogicalResult run();
  OwningOpRef<ModuleOp> parseReference(MLIRContext *context);
  FailureOr<Candidate> load(function_ref<OwningOpRef<ModuleOp>(MLIRContext *)>);
  FailureOr<Candidate> loadCopy(ModuleOp module);
  FailureOr<std::vector<Tensor>> makeArguments(func::FuncOp function,
                                               const FunctionSignature &type,
                                               ArrayRef<int64_t> states);
  LogicalResult compare(func::FuncOp before, func::FuncOp after,
                        CpuEngine &engineBefore, CpuEngine &engineAfter,
                        Location loc);
};

} // namespace

FailureOr<Candidate> VerifyEquivalence::load(
    function_ref<OwningOpRef<ModuleOp>(MLIRContext *)> read) {
  Candidate candidate;
  DialectRegistry registry;
  registerCpuPipelineDialects(registry);
  candidate.context = std::make_unique<MLIRContext>(registry);
  // Patterns create ops of dialects that the text may not have.
  candidate.context->loadAllAvailableDialects();
  std::string errors;
  ScopedDiagnosticHandler handler(
      candidate.context.get(), [&](Diagnostic &diagnostic) {
        if (diagnostic.getSeverity() == DiagnosticSeverity::Error)
          errors += (errors.empty() ? "" : "; ") + diagnostic.str();
        return success();
      });
  candidate.module = read(candidate.context.get());
  if (!candidate.module)
    return fail() << "cannot read a module: " << errors;
  // States are looked for across blocks.
  PassManager inlining(candidate.context.get());
  inlining.addPass(createInlineBlocks());
  if (failed(inlining.run(*candidate.module)))
    return fail() << "cannot compute a module in f64: " << errors;
  OwningOpRef<ModuleOp> wide = candidate.module->clone();
  for (auto archive : wide->getOps<ArchiveOp>())
    archive.setPath(resolveArchivePath(archive, baseDir));
  if (failed(widenToF64(*wide)))
    return fail() << "cannot compute a module in f64: " << errors;
  std::string text;
  llvm::raw_string_ostream stream(text);
  wide->print(stream, OpPrintingFlags().printGenericOpForm());
  CpuEngineOptions options;
  options.reference = true;
  options.useCache = false;
  options.optLevel = 1;
  Result<std::unique_ptr<CpuEngine>> engine =
      CpuEngine::fromMemory(text, options);
  if (!engine.ok())
    return fail() << "cannot run a module: " << engine.message();
  candidate.engine = engine.take();
  return candidate;
}

FailureOr<Candidate> VerifyEquivalence::loadCopy(ModuleOp module) {
  std::string message;
  FailureOr<std::string> text = printForElsewhere(module, baseDir, message);
  if (failed(text))
    return fail() << message;
  return load([&](MLIRContext *context) {
    return parseSourceString<ModuleOp>(*text, context);
  });
}

OwningOpRef<ModuleOp> VerifyEquivalence::parseReference(MLIRContext *context) {
  OwningOpRef<ModuleOp> module;
  std::string message;
  std::unique_ptr<llvm::MemoryBuffer> input =
      openInputFile(reference, &message);
  if (!input) {
    emitError(UnknownLoc::get(context)) << message;
    return module;
  }
  llvm::SourceMgr sources;
  StringRef source = input->getBuffer();
  sources.AddNewSourceBuffer(std::move(input), llvm::SMLoc());
  Status status = parseSafely(
      source, [&] { module = parseSourceFile<ModuleOp>(sources, context); });
  if (!status.ok())
    emitError(UnknownLoc::get(context)) << status.message();
  return module;
}

/// Numbers as a widened function takes them.
static Result<Tensor> widenTensor(Tensor tensor, DType wanted) {
  std::optional<quant_llm::FloatType> type;
  switch (tensor.dtype()) {
  case DType::F32:
    type = quant_llm::FloatType::F32;
    break;
  case DType::F16:
    type = quant_llm::FloatType::F16;
    break;
  case DType::BF16:
    type = quant_llm::FloatType::BF16;
    break;
  default:
    break;
  }
  if (wanted != DType::F64 || !type)
    return tensor;
  Result<Tensor> wide = Tensor::allocate(DType::F64, tensor.shape());
  if (!wide.ok())
    return wide;
  const auto *from = static_cast<const char *>(tensor.data());
  for (int64_t i = 0; i < tensor.numElements(); ++i)
    static_cast<double *>(wide->data())[i] =
        loadFloat(*type, from + i * floatTypeBytes(*type));
  return wide;
}

/// The number of elements that are NaN or infinite.
static int64_t countNotFinite(const Tensor &tensor) {
  if (tensor.dtype() != DType::F64)
    return 0;
  const auto *values = static_cast<const double *>(tensor.data());
  return std::count_if(values, values + tensor.numElements(),
                       [](double value) { return !std::isfinite(value); });
}

static std::string describe(ArrayRef<ValueSignature> values) {
  std::string text = "(";
  for (auto [i, value] : llvm::enumerate(values))
    text += (i ? ", " : "") + value.describe();
  return text + ")";
}

FailureOr<std::vector<Tensor>>
VerifyEquivalence::makeArguments(func::FuncOp function,
                                 const FunctionSignature &type,
                                 ArrayRef<int64_t> states) {
  if (!inputs.empty() && inputs.size() != type.arguments.size())
    return emitOptionError("inputs")
           << "expected " << type.arguments.size() << " files for @"
           << type.name << " but got " << inputs.size();
  std::mt19937_64 random(seed);
  const llvm::DenseMap<int64_t, std::optional<int64_t>> tokens =
      getOffsets(function, extent);
  std::vector<Tensor> arguments;
  for (auto [i, argument] : llvm::enumerate(type.arguments)) {
    if (!inputs.empty()) {
      Result<Tensor> loaded = readNpy(inputs[i]);
      if (loaded.ok())
        loaded = widenTensor(loaded.take(), argument.dtype);
      if (!loaded.ok())
        return fail() << "cannot read argument " << i << " of @" << type.name
                      << ": " << loaded.message();
      arguments.push_back(loaded.take());
      continue;
    }
    auto offsets = tokens.find(static_cast<int64_t>(i));
    if (offsets != tokens.end() && !offsets->second)
      return fail() << "cannot make argument " << i << " of @" << type.name
                    << ": it has the offsets of experts, whose last is the "
                       "number of tokens, but how many there are cannot be "
                       "told; give files in the option 'inputs'";
    bool isState = llvm::is_contained(states, static_cast<int64_t>(i));
    std::vector<int64_t> shape = argument.shape;
    for (int64_t &size : shape)
      if (size < 0)
        size = isState ? extent * int64_t(calls) : int64_t(extent);
    Result<Tensor> tensor = Tensor::allocate(argument.dtype, shape);
    if (!tensor.ok())
      return fail() << "cannot make argument " << i << " of @" << type.name
                    << ": " << tensor.message();
    auto fill = [&](auto *data, auto next) {
      for (int64_t k = 0; k < tensor->numElements(); ++k)
        data[k] = next();
    };
    std::normal_distribution<double> normal;
    auto small = [&] { return static_cast<int64_t>(random() % kNumIntegers); };
    auto fillIntegers = [&](auto *data) {
      if (offsets == tokens.end())
        return fill(data, small);
      // They ascend, from 0 to the number of tokens.
      const uint64_t last = *offsets->second;
      fill(data, [&] { return random() % (last + 1); });
      std::sort(data, data + tensor->numElements());
      data[0] = 0;
      data[tensor->numElements() - 1] = last;
    };
    if (!isState && !argument.isScalar) {
      switch (argument.dtype) {
      case DType::F64:
        fill(static_cast<double *>(tensor->data()),
             [&] { return normal(random); });
        break;
      case DType::I64:
        fillIntegers(static_cast<int64_t *>(tensor->data()));
        break;
      case DType::I32:
        fillIntegers(static_cast<int32_t *>(tensor->data()));
        break;
      case DType::I8:
      case DType::Bool:
        fill(static_cast<int8_t *>(tensor->data()),
             [&] { return random() & 1; });
        break;
      default:
        return fail() << "cannot make up argument " << i << " of @" << type.name
                      << ", " << argument.describe()
                      << "; give files in the option 'inputs'";
      }
    } else if (argument.isScalar && argument.dtype == DType::F64) {
      *static_cast<double *>(tensor->data()) = normal(random);
    }
    arguments.push_back(tensor.take());
  }
  return arguments;
}

LogicalResult VerifyEquivalence::compare(func::FuncOp before,
                                         func::FuncOp after,
                                         CpuEngine &engineBefore,
                                         CpuEngine &engineAfter, Location loc) {
  std::string name = before.getName().str();
  const FunctionSignature *type = engineBefore.findFunction(name);
  const FunctionSignature *typeAfter = engineAfter.findFunction(name);
  if (!type || !typeAfter)
    return fail() << "@" << name << " cannot be called: its arguments and "
                  << "results have to be numbers or tensors of them";
  std::string typeBefore =
      describe(type->arguments) + " -> " + describe(type->results);
  std::string changed =
      describe(typeAfter->arguments) + " -> " + describe(typeAfter->results);
  if (typeBefore != changed)
    return fail() << "expected @" << name << " to have the type " << typeBefore
                  << " as before but got " << changed;
  SmallVector<int64_t> states = getStates(before);
  SmallVector<int64_t> statesAfter = getStates(after);
  FailureOr<std::vector<Tensor>> made = makeArguments(before, *type, states);
  if (failed(made))
    return failure();
  bool hasStates =
      llvm::any_of(states, [](int64_t state) { return state >= 0; });
  unsigned numCalls = hasStates && inputs.empty() ? unsigned(calls) : 1;
  std::vector<Tensor> first = *made, second = *made;
  double worst = 0;
  for (unsigned call = 0; call < numCalls; ++call) {
    if (inputs.empty())
      for (auto [i, argument] : llvm::enumerate(type->arguments))
        if (argument.isScalar && argument.dtype == DType::I64)
          *static_cast<int64_t *>(first[i].data()) =
              *static_cast<int64_t *>(second[i].data()) =
                  int64_t(call) * extent;
    auto invoke = [&](CpuEngine &engine, const std::vector<Tensor> &tensors,
                      const char *which) -> FailureOr<std::vector<Tensor>> {
      std::vector<Argument> arguments(tensors.begin(), tensors.end());
      Result<std::vector<Tensor>> results = engine.invoke(name, arguments);
      if (!results.ok())
        return fail() << "@" << name << " cannot be run " << which << ": "
                      << results.message();
      return results.take();
    };
    FailureOr<std::vector<Tensor>> expected =
        invoke(engineBefore, first, "before");
    if (failed(expected))
      return failure();
    FailureOr<std::vector<Tensor>> actual =
        invoke(engineAfter, second, "after");
    if (failed(actual))
      return failure();
    for (size_t i = 0; i < expected->size(); ++i) {
      bool changed = i < statesAfter.size() && statesAfter[i] >= 0 &&
                     after.getArgAttr(statesAfter[i], kChangedStateAttrName);
      if (!changed) {
        for (auto [tensor, which] : {std::pair(&(*expected)[i], "before"),
                                     std::pair(&(*actual)[i], "after")})
          if (int64_t count = countNotFinite(*tensor))
            return fail() << "result " << i << " of @" << name << " has "
                          << count << " elements that are not finite " << which
                          << " in call " << call << "; compare on other inputs";
        Result<TensorDifference> difference =
            compareTensors((*actual)[i], (*expected)[i], bound, bound);
        if (!difference.ok())
          return fail() << "result " << i << " of @" << name << ": "
                        << difference.message();
        double error = difference->relativeFrobenius;
        if (!(error <= bound)) {
          InFlightDiagnostic diag = fail();
          diag << "result " << i << " of @" << name << " differs by "
               << llvm::formatv("{0:e2}", error).str()
               << " (relative), more than the bound "
               << llvm::formatv("{0:e2}", double(bound)).str();
          if (numCalls > 1)
            diag << ", in call " << call;
          return diag;
        }
        worst = std::max(worst, error);
      }
      if (states[i] >= 0) {
        first[states[i]] = (*expected)[i];
        second[states[i]] = (*actual)[i];
      }
    }
  }
  using Arg = remark::detail::Remark::Arg;
  remark::passed(
      loc,
      remark::RemarkOpts::name("equivalent").category(kPassName).function(name))
      << Arg("relative difference", llvm::formatv("{0:e2}", worst).str())
      << Arg("calls", int64_t(numCalls));
  return success();
}

LogicalResult VerifyEquivalence::run() {
  ModuleOp module = getOperation();
  if (reference.empty() == pipeline.empty())
    return fail() << "expected one of the options 'reference' and 'pipeline'";
  if (extent < 1 || extent > kMostExtent)
    return emitOptionError("extent")
           << "expected an integer from 1 to " << kMostExtent << " but got "
           << int64_t(extent);
  if (calls < 1 || calls > kMostCalls)
    return emitOptionError("calls")
           << "expected an integer from 1 to " << kMostCalls << " but got "
           << unsigned(calls);
  if (!(bound >= 0))
    return emitOptionError("bound")
           << "expected a number that is not negative but got "
           << double(bound);
  FailureOr<Candidate> before;
  if (!reference.empty()) {
    before =
        load([&](MLIRContext *context) { return parseReference(context); });
    if (failed(before))
      return failure();
  } else {
    before = loadCopy(module);
    if (failed(before))
      return failure();
    OpPassManager nested(ModuleOp::getOperationName());
    std::string message;
    if (failed(parsePipeline(pipeline, nested, message)))
      return emitOptionError("pipeline", message);
    if (message = findUnknownAnchor(nested, module.getContext());
        !message.empty())
      return emitOptionError("pipeline", message);
    if (failed(runPipeline(nested, module)))
      return failure();
  }
  FailureOr<Candidate> after = loadCopy(module);
  if (failed(after))
    return failure();
  for (auto function : before->module->getOps<func::FuncOp>()) {
    if (function.isExternal() || function.isPrivate())
      continue;
    auto other = after->module->lookupSymbol<func::FuncOp>(function.getName());
    if (!other || other.isExternal() || other.isPrivate())
      return fail() << "found @" << function.getName()
                    << " before but no public function of that name after";
    Operation *here = module.lookupSymbol(function.getName());
    if (failed(compare(function, other, *before->engine, *after->engine,
                       here->getLoc())))
      return failure();
  }
  return success();
}

//===----------------------------------------------------------------------===//
// quant-llm-save-module
//===----------------------------------------------------------------------===//

namespace {

struct SaveModule : public quant_llm::impl::SaveModuleBase<SaveModule> {
  using SaveModuleBase::SaveModuleBase;

  void runOnOperation() override {
    auto fail = [&](const Twine &message) {
      getOperation().emitError() << "quant-llm-save-module: " << message;
      signalPassFailure();
    };
    if (output.empty()) {
      emitOptionError("output", "expected a file to write but got none");
      return signalPassFailure();
    }
    ParameterArchives archives(baseDir);
    if (failed(verifyOutputFile(
            getOperation(), archives, {"output", output}, {}, [&] {
              return getOperation().emitError() << "quant-llm-save-module: ";
            })))
      return signalPassFailure();
    std::string message;
    FailureOr<std::string> text =
        printForElsewhere(getOperation(), baseDir, message);
    if (failed(text))
      return fail(message);
    Status status = writeFileAtomically(output, text->data(), text->size());
    if (!status.ok())
      return fail(status.message());
    markAllAnalysesPreserved();
  }
};

} // namespace
