//===- Compiler.cpp - From a module to objects ----------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CompiledModule.h"

#include "quant-llm/Conversion/QuantLLMToCPU/RuntimeFunctions.h"
#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"
#include "quant-llm/Parser/ParseSafely.h"
#include "quant-llm/Pipelines/Pipelines.h"
#include "quant-llm/Support/Parallel.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/IR/AttrTypeSubElements.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Export.h"

#include "llvm/ADT/StringSet.h"
#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/Bitcode/BitcodeWriter.h"
#include "llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h"
#include "llvm/IR/DiagnosticInfo.h"
#include "llvm/IR/DiagnosticPrinter.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Utils/Cloning.h"
#include "llvm/Transforms/Utils/SplitModule.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <mutex>
#include <thread>

using namespace mlir;
using namespace quant_llm;
using namespace quant_llm::cpu;

//===----------------------------------------------------------------------===//
// Diagnostics as text
//===----------------------------------------------------------------------===//

namespace {

/// Collects the errors of a context, each with its location and notes.
class DiagnosticCollector : public ScopedDiagnosticHandler {
public:
  explicit DiagnosticCollector(MLIRContext *context)
      : ScopedDiagnosticHandler(context) {
    setHandler([this](Diagnostic &diagnostic) {
      if (diagnostic.getSeverity() != DiagnosticSeverity::Error)
        return failure(); // warnings and remarks go their usual way
      std::lock_guard<std::mutex> lock(mutex);
      append(diagnostic, "");
      for (Diagnostic &note : diagnostic.getNotes())
        append(note, "note: ");
      return success();
    });
  }

  /// The collected text, or `otherwise` if nothing was reported.
  std::string take(const std::string &otherwise) {
    std::lock_guard<std::mutex> lock(mutex);
    return text.empty() ? otherwise : text;
  }

private:
  void append(Diagnostic &diagnostic, const char *kind) {
    if (!text.empty())
      text += "\n";
    llvm::raw_string_ostream os(text);
    if (auto location =
            diagnostic.getLocation()->findInstanceOf<FileLineColLoc>())
      os << location.getFilename().getValue() << ":" << location.getLine()
         << ":" << location.getColumn() << ": ";
    os << kind << diagnostic;
  }

  std::mutex mutex;
  std::string text;
};

} // namespace

//===----------------------------------------------------------------------===//
// Signatures
//===----------------------------------------------------------------------===//

static std::optional<DType> convertElementType(Type type) {
  // Of integers getStoredType sees the width alone.
  if (type.isUnsignedInteger(8))
    return DType::U8;
  if (type.isUnsignedInteger(16))
    return DType::U16;
  if (type.isUnsignedInteger(32))
    return DType::U32;
  if (type.isUnsignedInteger(64))
    return DType::U64;
  if (isa<IndexType>(type))
    return DType::I64;
  return getStoredType(type);
}

static std::optional<ValueSignature> convertType(Type type) {
  ValueSignature signature;
  Type element = type;
  if (auto shaped = dyn_cast<ShapedType>(type)) {
    if (!isa<RankedTensorType, MemRefType>(type))
      return std::nullopt;
    if (auto memref = dyn_cast<MemRefType>(type))
      if (!memref.getLayout().isIdentity())
        return std::nullopt;
    for (int64_t extent : shaped.getShape())
      signature.shape.push_back(ShapedType::isDynamic(extent) ? -1 : extent);
    element = shaped.getElementType();
  } else {
    signature.isScalar = true;
  }
  std::optional<DType> dtype = convertElementType(element);
  if (!dtype)
    return std::nullopt;
  signature.dtype = *dtype;
  return signature;
}

/// The signature, or nothing if a type cannot cross the boundary, which
/// `obstacle` then is.
static std::optional<FunctionSignature> convertFunction(func::FuncOp function,
                                                        Type &obstacle) {
  FunctionSignature signature;
  signature.name = function.getName().str();
  auto convertAll = [&](ArrayRef<Type> types,
                        std::vector<ValueSignature> &out) {
    for (Type type : types) {
      std::optional<ValueSignature> value = convertType(type);
      if (!value) {
        obstacle = type;
        return false;
      }
      out.push_back(std::move(*value));
    }
    return true;
  };
  if (!convertAll(function.getArgumentTypes(), signature.arguments) ||
      !convertAll(function.getResultTypes(), signature.results))
    return std::nullopt;
  signature.resultAliases.assign(signature.results.size(), -1);
  return signature;
}

//===----------------------------------------------------------------------===//
// LLVM
//===----------------------------------------------------------------------===//

std::string cpu::getEntrySymbol(std::string_view function) {
  return kRuntimePrefix.str() + "call_" + std::string(function);
}

static std::string describeError(llvm::Error error) {
  return llvm::toString(std::move(error));
}

void cpu::initializeTarget() {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
  });
}

static Result<std::unique_ptr<llvm::TargetMachine>>
createTargetMachine(unsigned optLevel) {
  initializeTarget();
  auto builder = llvm::orc::JITTargetMachineBuilder::detectHost();
  if (!builder)
    return Status::error("cannot compile for this processor: " +
                         describeError(builder.takeError()));
  builder->setRelocationModel(llvm::Reloc::PIC_);
  builder->setCodeGenOptLevel(
      static_cast<llvm::CodeGenOptLevel>(std::min(optLevel, 3u)));
  auto machine = builder->createTargetMachine();
  if (!machine)
    return Status::error("cannot compile for this processor: " +
                         describeError(machine.takeError()));
  return std::move(*machine);
}

/// No function of a library has a name with this end.
static constexpr const char *kOwnNameSuffix = ".code";

/// Renames what the module defines, and its parameters: code calls functions of
/// libraries by their names (`sinf`, `memcpy`), and LLVM knows what these
/// compute.
static void giveOwnNames(ModuleOp module, ParameterBindings &parameters) {
  llvm::StringSet<> defined;
  for (ParameterBinding &parameter : parameters) {
    defined.insert(parameter.symbol);
    parameter.symbol += kOwnNameSuffix;
  }
  for (auto symbol : module.getOps<SymbolOpInterface>())
    if (!symbol.isDeclaration() && isa<func::FuncOp, memref::GlobalOp>(*symbol))
      defined.insert(symbol.getName());
  AttrTypeReplacer replacer;
  replacer.addReplacement([&](FlatSymbolRefAttr reference) -> Attribute {
    if (!defined.contains(reference.getValue()))
      return reference;
    return FlatSymbolRefAttr::get(StringAttr::get(
        reference.getContext(), reference.getValue() + kOwnNameSuffix));
  });
  replacer.recursivelyReplaceElementsIn(module);
  for (auto symbol : module.getOps<SymbolOpInterface>())
    if (defined.contains(symbol.getName()))
      symbol.setName((symbol.getName() + kOwnNameSuffix).str());
}

/// The names that MLIR gives the C interfaces of functions.
static constexpr llvm::StringLiteral kInterfacePrefix = "_mlir_ciface_";

/// Adds the function that the engine calls: it unpacks an array of pointers
/// into the arguments of the C interface of `symbol`, which is `function` in
/// the source.
static void addEntry(llvm::Module &module, const std::string &function,
                     const std::string &symbol) {
  llvm::Function *callee =
      module.getFunction((kInterfacePrefix + symbol).str());
  if (!callee)
    return;
  llvm::LLVMContext &context = module.getContext();
  llvm::IRBuilder<> builder(context);
  auto *entry = llvm::Function::Create(
      llvm::FunctionType::get(builder.getVoidTy(), {builder.getPtrTy()}, false),
      llvm::GlobalValue::ExternalLinkage, getEntrySymbol(function), module);
  builder.SetInsertPoint(llvm::BasicBlock::Create(context, "", entry));
  auto loadSlot = [&](unsigned index) {
    llvm::Value *slot =
        builder.CreateConstGEP1_64(builder.getPtrTy(), entry->getArg(0), index);
    return builder.CreateLoad(builder.getPtrTy(), slot);
  };
  llvm::SmallVector<llvm::Value *> arguments;
  unsigned index = 0;
  for (llvm::Argument &argument : callee->args()) {
    llvm::Value *pointer = loadSlot(index++);
    arguments.push_back(argument.getType()->isPointerTy()
                            ? pointer
                            : builder.CreateLoad(argument.getType(), pointer));
  }
  llvm::Value *result = builder.CreateCall(callee, arguments);
  if (!result->getType()->isVoidTy())
    builder.CreateStore(result, loadSlot(index));
  builder.CreateRetVoid();
}

/// Defines the functions that allocate and free by those of the runtime, which
/// also take the state of the engine that the code belongs to.
static void defineAllocation(llvm::Module &module) {
  auto define = [&](StringRef name, StringRef runtimeName) {
    llvm::Function *function = module.getFunction(name);
    if (!function || !function->isDeclaration() || function->arg_empty())
      return;
    llvm::IRBuilder<> builder(module.getContext());
    builder.SetInsertPoint(
        llvm::BasicBlock::Create(module.getContext(), "", function));
    llvm::Constant *state =
        module.getOrInsertGlobal(kCallState, builder.getInt8Ty());
    // The alignment comes before the size; all blocks have the largest one.
    llvm::Value *argument = function->getArg(function->arg_size() - 1);
    llvm::FunctionCallee callee =
        module.getOrInsertFunction(runtimeName, function->getReturnType(),
                                   state->getType(), argument->getType());
    llvm::Value *result = builder.CreateCall(callee, {state, argument});
    if (result->getType()->isVoidTy())
      builder.CreateRetVoid();
    else
      builder.CreateRet(result);
  };
  define(kAllocFunction, kAllocateFunction);
  define(kFreeFunction, kReleaseFunction);
}

/// Inlines functions that may be dropped where they are not used, which those
/// for powers are: the part that has one may not be the part that calls it, and
/// constant exponents make short code of it.
static void inlineGenerated(llvm::Module &module) {
  for (llvm::Function &function : llvm::make_early_inc_range(module)) {
    if (!function.hasLinkOnceLinkage())
      continue;
    function.setLinkage(llvm::GlobalValue::InternalLinkage);
    for (llvm::User *user : llvm::make_early_inc_range(function.users())) {
      llvm::InlineFunctionInfo info;
      if (auto *call = dyn_cast<llvm::CallBase>(user))
        llvm::InlineFunction(*call, info);
    }
    if (function.use_empty())
      function.eraseFromParent();
  }
}

namespace {

/// Collects the errors of LLVM's code generation. Without a handler, the first
/// one would end the process.
struct ErrorCollector : public llvm::DiagnosticHandler {
  bool handleDiagnostics(const llvm::DiagnosticInfo &info) override {
    if (info.getSeverity() != llvm::DS_Error)
      return false; // warnings and remarks go their usual way
    if (!text.empty())
      text += "\n";
    llvm::raw_string_ostream os(text);
    llvm::DiagnosticPrinterRawOStream printer(os);
    info.print(printer);
    return true;
  }

  std::string text;
};

} // namespace

static Result<std::string> compileToObject(llvm::Module &module,
                                           unsigned optLevel) {
  auto handler = std::make_unique<ErrorCollector>();
  const std::string &errors = handler->text;
  module.getContext().setDiagnosticHandler(std::move(handler));
  auto machine = createTargetMachine(optLevel);
  if (!machine.ok())
    return machine.status();
  module.setTargetTriple((*machine)->getTargetTriple());
  module.setDataLayout((*machine)->createDataLayout());

  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  llvm::PipelineTuningOptions tuning;
  tuning.LoopInterleaving = tuning.LoopVectorization = tuning.SLPVectorization =
      optLevel >= 2;
  llvm::PassBuilder passes(machine->get(), tuning);
  passes.registerModuleAnalyses(modules);
  passes.registerCGSCCAnalyses(components);
  passes.registerFunctionAnalyses(functions);
  passes.registerLoopAnalyses(loops);
  passes.crossRegisterProxies(loops, functions, components, modules);
  llvm::OptimizationLevel level = optLevel == 0   ? llvm::OptimizationLevel::O0
                                  : optLevel == 1 ? llvm::OptimizationLevel::O1
                                  : optLevel == 2 ? llvm::OptimizationLevel::O2
                                                  : llvm::OptimizationLevel::O3;
  llvm::ModulePassManager pipeline =
      optLevel == 0 ? passes.buildO0DefaultPipeline(level)
                    : passes.buildPerModuleDefaultPipeline(level);
  pipeline.run(module, modules);

  llvm::SmallVector<char, 0> object;
  llvm::raw_svector_ostream stream(object);
  llvm::legacy::PassManager codegen;
  if ((*machine)->addPassesToEmitFile(codegen, stream, nullptr,
                                      llvm::CodeGenFileType::ObjectFile))
    return Status::error("cannot emit an object for this processor");
  codegen.run(module);
  if (!errors.empty())
    return Status::error("cannot compile for this processor: " + errors);
  return std::string(object.data(), object.size());
}

/// Compiles on as many threads as there are parts. Parts get contexts of their
/// own, since a context must not be shared between threads.
static Status compileInParallel(std::unique_ptr<llvm::Module> module,
                                unsigned optLevel, unsigned parts,
                                std::vector<std::string> &objects) {
  std::vector<std::string> bitcode;
  llvm::SplitModule(*module, parts, [&](std::unique_ptr<llvm::Module> part) {
    bitcode.emplace_back();
    llvm::raw_string_ostream stream(bitcode.back());
    llvm::WriteBitcodeToFile(*part, stream);
  });
  module.reset();
  objects.resize(bitcode.size());
  std::vector<Status> failures(bitcode.size());
  parallelFor(static_cast<int64_t>(bitcode.size()), static_cast<int>(parts),
              [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                  llvm::LLVMContext context;
                  auto part = llvm::parseBitcodeFile(
                      llvm::MemoryBufferRef(bitcode[i], "part"), context);
                  if (!part) {
                    failures[i] =
                        Status::error(describeError(part.takeError()));
                    continue;
                  }
                  Result<std::string> object =
                      compileToObject(**part, optLevel);
                  if (object.ok())
                    objects[i] = object.take();
                  else
                    failures[i] = object.status();
                }
              });
  for (const Status &status : failures)
    if (!status.ok())
      return status;
  return Status::success();
}

//===----------------------------------------------------------------------===//
// compileModule
//===----------------------------------------------------------------------===//

static LogicalResult
collectParameters(ModuleOp module, std::vector<ParameterBinding> &bindings) {
  auto list = module->getAttrOfType<ArrayAttr>(kParametersAttrName);
  if (!list)
    return success();
  for (Attribute attribute : list) {
    auto entry = cast<DictionaryAttr>(attribute);
    auto type = cast<MemRefType>(entry.getAs<TypeAttr>("type").getValue());
    ParameterBinding binding;
    binding.symbol = entry.getAs<StringAttr>("symbol").str();
    binding.archive = entry.getAs<StringAttr>("archive").str();
    binding.key = entry.getAs<StringAttr>("key").str();
    std::optional<DType> dtype = getStoredType(type.getElementType());
    if (!dtype) {
      module.emitError("expected elements that an archive can hold in tensor '")
          << binding.key << "' but got " << type.getElementType();
      return failure();
    }
    binding.dtype = *dtype;
    binding.shape = type.getShape().vec();
    bindings.push_back(std::move(binding));
  }
  return success();
}

static std::vector<std::string> collectStrings(ModuleOp module,
                                               StringRef name) {
  std::vector<std::string> strings;
  if (auto list = module->getAttrOfType<ArrayAttr>(name))
    for (Attribute attribute : list)
      strings.push_back(cast<StringAttr>(attribute).str());
  return strings;
}

Result<CompiledModule> cpu::compileModule(
    std::string_view source, const std::string &bufferName,
    const CpuEngineOptions &options,
    const std::function<Status(const ParameterBindings &)> &checkParameters) {
  DialectRegistry registry;
  registerCpuPipelineDialects(registry);
  MLIRContext context(registry);
  context.printOpOnDiagnostic(false);
  DiagnosticCollector diagnostics(&context);

  llvm::SourceMgr sources;
  sources.AddNewSourceBuffer(
      llvm::MemoryBuffer::getMemBufferCopy(
          StringRef(source.data(), source.size()), bufferName),
      llvm::SMLoc());
  OwningOpRef<ModuleOp> module;
  Status status = parseSafely(
      source, [&] { module = parseSourceFile<ModuleOp>(sources, &context); });
  if (!status.ok())
    return status.withContext("'" + bufferName + "'");
  if (!module)
    return Status::error(diagnostics.take("cannot parse '" + bufferName + "'"));

  // Definitions of these would take the place of those of the runtime.
  for (Operation &op : *module->getBody()) {
    auto symbol = dyn_cast<SymbolOpInterface>(op);
    if (!symbol || symbol.isDeclaration())
      continue;
    StringRef name = symbol.getName();
    if (name.starts_with(kRuntimePrefix) ||
        name.starts_with(kInterfacePrefix) || name == kAllocFunction ||
        name == kFreeFunction) {
      op.emitError("expected a symbol that does not belong to the runtime but "
                   "got '")
          << name << "'";
      return Status::error(diagnostics.take("reserved name"));
    }
  }

  CompiledModule result;
  std::string obstacles;
  llvm::raw_string_ostream os(obstacles);
  for (func::FuncOp function : module->getOps<func::FuncOp>()) {
    Type obstacle;
    std::optional<FunctionSignature> signature;
    if (function.isPublic() && !function.isExternal())
      signature = convertFunction(function, obstacle);
    if (!signature) {
      os << "; '" << function.getName() << "' ";
      if (obstacle)
        os << "has a value of type " << obstacle;
      else
        os << (function.isExternal() ? "has no body" : "is private");
      continue;
    }
    function->setAttr(LLVM::LLVMDialect::getEmitCWrapperAttrName(),
                      UnitAttr::get(&context));
    result.functions.push_back(std::move(*signature));
  }
  if (result.functions.empty())
    return Status::error(
        "'" + bufferName +
        "' has no function that can be called: expected a public func.func "
        "with a body whose arguments and results are numbers, tensors or "
        "buffers" +
        obstacles.substr(0, 1000));

  CpuPipelineOptions pipelineOptions;
  pipelineOptions.reference = options.reference;
  pipelineOptions.profile = options.profile;
  PassManager buffers(&context);
  buildCpuBufferPipeline(buffers, pipelineOptions);
  if (failed(buffers.run(*module)))
    return Status::error(
        diagnostics.take("cannot lower '" + bufferName + "' to buffers"));

  for (FunctionSignature &signature : result.functions) {
    auto function = module->lookupSymbol<func::FuncOp>(signature.name);
    if (!function)
      return Status::error("function '" + signature.name +
                           "' was lost during lowering");
    // Written by the bufferization, whatever the input had.
    if (auto aliases =
            function->getAttrOfType<DenseI64ArrayAttr>(kResultAliasesAttrName))
      if (aliases.size() == static_cast<int64_t>(signature.results.size()))
        signature.resultAliases.assign(aliases.asArrayRef().begin(),
                                       aliases.asArrayRef().end());
  }
  if (failed(collectParameters(*module, result.parameters)))
    return Status::error(diagnostics.take("cannot bind the parameters"));
  if (Status status = checkParameters(result.parameters); !status.ok())
    return status;
  result.kernels = collectStrings(*module, kProfiledKernelsAttrName);
  result.checks = collectStrings(*module, kChecksAttrName);

  giveOwnNames(*module, result.parameters);
  PassManager lowering(&context);
  buildCpuLLVMPipeline(lowering, pipelineOptions);
  if (failed(lowering.run(*module)))
    return Status::error(diagnostics.take("cannot lower '" + bufferName +
                                          "' to the LLVM dialect"));

  llvm::LLVMContext llvmContext;
  std::unique_ptr<llvm::Module> llvmModule =
      translateModuleToLLVMIR(*module, llvmContext);
  if (!llvmModule)
    return Status::error(
        diagnostics.take("cannot translate '" + bufferName + "' to LLVM IR"));
  module = nullptr;
  for (const FunctionSignature &signature : result.functions)
    addEntry(*llvmModule, signature.name, signature.name + kOwnNameSuffix);
  defineAllocation(*llvmModule);
  inlineGenerated(*llvmModule);

  unsigned parts = std::min(resolveThreadCount(options.threads), 8u);
  Status compiled = compileInParallel(std::move(llvmModule), options.optLevel,
                                      parts, result.objects);
  if (!compiled.ok())
    return compiled;
  return result;
}

std::string cpu::getCompilerIdentity() {
  std::string identity = "llvm " LLVM_VERSION_STRING " cpu ";
  auto builder = llvm::orc::JITTargetMachineBuilder::detectHost();
  if (builder)
    identity += builder->getCPU() + " " + builder->getFeatures().getString();
  else
    llvm::consumeError(builder.takeError());
  // The binary that holds this code, so that a rebuilt compiler does not meet
  // objects of its predecessor.
  Dl_info info;
  struct stat status;
  bool found = false;
  if (dladdr(reinterpret_cast<void *>(&cpu::getCompilerIdentity), &info) &&
      info.dli_fname && StringRef(info.dli_fname).contains('/'))
    found = stat(info.dli_fname, &status) == 0;
  // The name of a program found through PATH is not a path.
  if (!found)
    found = stat("/proc/self/exe", &status) == 0;
  if (found)
    identity += " built " + std::to_string(status.st_size) + " " +
                std::to_string(status.st_mtim.tv_sec) + "." +
                std::to_string(status.st_mtim.tv_nsec);
  return identity;
}
