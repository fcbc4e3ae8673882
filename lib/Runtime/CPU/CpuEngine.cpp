//===- CpuEngine.cpp - Compile a module and run its functions -------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Runtime/CPU/CpuEngine.h"

#include "CompiledModule.h"
#include "Memory.h"
#include "ObjectCache.h"

#include "quant-llm/Conversion/QuantLLMToCPU/RuntimeFunctions.h"
#include "quant-llm/Formats/Archive.h"
#include "quant-llm/Support/MappedFile.h"
#include "quant-llm/Support/Parallel.h"
#include "quant-llm/Support/Path.h"

#include "llvm/ExecutionEngine/Orc/AbsoluteSymbols.h"
#include "llvm/ExecutionEngine/Orc/ExecutionUtils.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/Support/MemoryBuffer.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

using namespace quant_llm;
using namespace quant_llm::cpu;

//===----------------------------------------------------------------------===//
// The OpenMP runtime
//===----------------------------------------------------------------------===//

namespace {

struct OpenMPRuntime {
  std::string path;
  void (*setNumThreads)(int) = nullptr;
  /// The number of parallel regions around the caller.
  int (*getLevel)() = nullptr;
};

} // namespace

/// Loads the OpenMP runtime once for the process.
static Result<OpenMPRuntime> loadOpenMP() {
  static const Result<OpenMPRuntime> runtime = []() -> Result<OpenMPRuntime> {
    std::string failure;
    for (const char *path : {QUANT_LLM_OPENMP_RUNTIME, "libomp.so.5"}) {
      void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
      if (!handle) {
        const char *message = dlerror();
        failure = message ? message : "unknown error";
        continue;
      }
      OpenMPRuntime loaded;
      loaded.path = path;
      loaded.setNumThreads =
          reinterpret_cast<void (*)(int)>(dlsym(handle, "omp_set_num_threads"));
      loaded.getLevel =
          reinterpret_cast<int (*)()>(dlsym(handle, "omp_get_level"));
      if (loaded.setNumThreads && loaded.getLevel)
        return loaded;
      failure =
          std::string(path) + " has no omp_set_num_threads and omp_get_level";
    }
    return Status::error("cannot load the OpenMP runtime of LLVM: " + failure +
                         "; install libomp5-22");
  }();
  return runtime;
}

//===----------------------------------------------------------------------===//
// What generated code calls
//===----------------------------------------------------------------------===//

namespace {

/// What went wrong in the call in progress of an engine, noted by any thread.
struct CallState {
  std::atomic<bool> outOfMemory{false};
  std::atomic<int64_t> failedCheck{-1};
  /// What the check got, and the bound of that.
  int64_t checkedValue = 0;
  int64_t checkedBound = 0;
  std::atomic<bool> indexFailed{false};
  int64_t index = 0;
  int64_t bound = 0;

  bool anyFault() const {
    return outOfMemory || failedCheck >= 0 || indexFailed;
  }
  void clear() {
    outOfMemory = indexFailed = false;
    failedCheck = -1;
  }
};

/// The call in progress on this thread.
struct CallFrame {
  CallFrame(CallState &state, int (*getLevel)())
      : state(state), getLevel(getLevel), level(getLevel()) {}

  std::jmp_buf escape;
  CallState &state;
  int (*getLevel)();
  /// Parallel regions around the call.
  int level;
};
thread_local CallFrame *currentCall = nullptr;

struct KernelTime {
  std::atomic<int64_t> nanoseconds{0};
  std::atomic<int64_t> calls{0};
};

} // namespace

static int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// Ends the call in progress, unless this is a thread of a parallel region:
/// nothing may jump out of one, not even the thread that entered it.
static void leaveCall() {
  if (currentCall && currentCall->getLevel() == currentCall->level)
    std::longjmp(currentCall->escape, 1);
}

extern "C" {

/// Returns null only in parallel regions, where the code looks.
static void *quantLLMAllocate(CallState *state, uint64_t size) {
  void *block = allocateBlock(size);
  if (!block) {
    state->outOfMemory = true;
    leaveCall();
  }
  return block;
}

static void quantLLMRelease(CallState *state, void *block) {
  freeBlock(block);
  // What a kernel could not do should not be worked on for long.
  if (state->anyFault())
    leaveCall();
}

static void quantLLMCheckFault(CallState *state, int64_t check, int64_t value,
                               int64_t bound) {
  int64_t none = -1;
  if (!state->failedCheck.compare_exchange_strong(none, check))
    return;
  // Read after the kernel.
  state->checkedValue = value;
  state->checkedBound = bound;
}

static void quantLLMFailCheck(int64_t check, int64_t value, int64_t bound) {
  if (currentCall)
    quantLLMCheckFault(&currentCall->state, check, value, bound);
  leaveCall();
  // quant-llm-serialize-loops keeps calls of this out of parallel regions.
  std::fprintf(stderr, "quant-llm: a check failed in a parallel region\n");
  std::abort();
}

static void quantLLMRequire(int64_t check, int64_t value, int64_t bound) {
  if (check >= 0)
    quantLLMFailCheck(check, value, bound);
}

static void quantLLMIndexFault(CallState *state, int64_t index, int64_t bound) {
  if (!state->indexFailed.exchange(true)) {
    state->index = index;
    state->bound = bound;
  }
}

static int64_t quantLLMProfileBegin() { return now(); }

static void quantLLMProfileEnd(KernelTime *times, int64_t kernel,
                               int64_t begin) {
  times[kernel].nanoseconds += now() - begin;
  times[kernel].calls += 1;
}

} // extern "C"

//===----------------------------------------------------------------------===//
// CpuEngine
//===----------------------------------------------------------------------===//

struct CpuEngine::Impl {
  CompiledModule module;
  CpuEngineOptions options;
  std::string name;
  std::map<std::string, void (*)(void **), std::less<>> entries;
  OpenMPRuntime openMP;
  std::mutex mutex;
  CallState state;
  std::unique_ptr<KernelTime[]> times;
  std::map<std::string, std::unique_ptr<Archive>> archives;
  /// Tensors that could not be used where they lie in their file.
  std::vector<std::shared_ptr<uint8_t>> copies;
  double compileSeconds = 0;
  bool fromCache = false;
  std::unique_ptr<llvm::orc::LLJIT> jit;

  Status link(const std::string &directory);
  Result<TensorInfo> findParameter(const std::string &directory,
                                   const ParameterBinding &parameter);
  Status bindParameters(const std::string &directory,
                        llvm::orc::SymbolMap &symbols);
  Result<std::vector<Tensor>> invoke(const FunctionSignature &signature,
                                     const std::vector<Argument> &arguments);
  bool call(void (*entry)(void **), void **slots, CallFrame &frame);
  std::string describeFailedCheck() const;
  void printProfile() const;

  ~Impl() {
    if (times)
      printProfile();
  }
};

std::string ValueSignature::describe() const {
  std::string text(elementTypeName(dtype));
  return isScalar ? text : text + " " + describeShape(shape);
}

CpuEngine::CpuEngine(std::unique_ptr<Impl> impl) : impl(std::move(impl)) {}
CpuEngine::~CpuEngine() = default;

static Result<std::unique_ptr<CpuEngine>> makeError(const Status &status) {
  return status;
}

Status CpuEngine::Impl::link(const std::string &directory) {
  using namespace llvm::orc;
  auto failed = [&](llvm::Error error) {
    return Status::error("cannot link '" + name +
                         "': " + llvm::toString(std::move(error)));
  };
  Result<OpenMPRuntime> runtime = loadOpenMP();
  if (!runtime.ok())
    return runtime.status();
  openMP = *runtime;

  initializeTarget();
  auto created = LLJITBuilder().create();
  if (!created)
    return failed(created.takeError());
  jit = std::move(*created);
  // By default it writes to stderr what the failed look-up tells as well.
  jit->getExecutionSession().setErrorReporter(
      [](llvm::Error error) { llvm::consumeError(std::move(error)); });
  JITDylib &main = jit->getMainJITDylib();
  auto generator = DynamicLibrarySearchGenerator::Load(
      openMP.path.c_str(), jit->getDataLayout().getGlobalPrefix());
  if (!generator)
    return failed(generator.takeError());
  main.addGenerator(std::move(*generator));

  SymbolMap symbols;
  auto define = [&](llvm::StringRef symbol, const void *address) {
    symbols[jit->mangleAndIntern(symbol)] = ExecutorSymbolDef(
        ExecutorAddr::fromPtr(address), llvm::JITSymbolFlags::Exported);
  };
  auto code = [](auto *function) {
    return reinterpret_cast<const void *>(function);
  };
  times.reset(options.profile ? new KernelTime[module.kernels.size() + 1]
                              : nullptr);
  define(kAllocateFunction, code(&quantLLMAllocate));
  define(kReleaseFunction, code(&quantLLMRelease));
  define(kFailCheckFunction, code(&quantLLMFailCheck));
  define(kRequireFunction, code(&quantLLMRequire));
  define(kCheckFaultFunction, code(&quantLLMCheckFault));
  define(kIndexFaultFunction, code(&quantLLMIndexFault));
  define(kCallState, &state);
  define(kProfileBeginFunction, code(&quantLLMProfileBegin));
  define(kProfileEndFunction, code(&quantLLMProfileEnd));
  define(kProfileTimes, times.get());
  Status bound = bindParameters(directory, symbols);
  if (!bound.ok())
    return bound;
  if (llvm::Error error = main.define(absoluteSymbols(std::move(symbols))))
    return failed(std::move(error));
  for (const std::string &object : module.objects)
    if (llvm::Error error = jit->addObjectFile(
            llvm::MemoryBuffer::getMemBuffer(object, name,
                                             /*RequiresNullTerminator=*/false)))
      return failed(std::move(error));
  for (const FunctionSignature &function : module.functions) {
    auto entry = jit->lookup(getEntrySymbol(function.name));
    if (!entry)
      return failed(entry.takeError());
    entries[function.name] = entry->toPtr<void (*)(void **)>();
  }
  return Status::success();
}

/// The tensor in its archive, of the type and shape that the module has.
Result<TensorInfo>
CpuEngine::Impl::findParameter(const std::string &directory,
                               const ParameterBinding &parameter) {
  std::unique_ptr<Archive> &archive = archives[parameter.archive];
  if (!archive) {
    Result<std::unique_ptr<Archive>> opened =
        Archive::open(resolvePath(directory, parameter.archive));
    if (!opened.ok())
      return opened.status();
    archive = opened.take();
  }
  Result<TensorInfo> found = archive->find(parameter.key);
  if (!found.ok())
    return found;
  ValueSignature wanted;
  wanted.dtype = parameter.dtype;
  wanted.shape = parameter.shape;
  // Lowered code holds floats of 8 bits as bytes; which ones they are was
  // compared when the module was.
  bool readable =
      isReadableAs(found->dtype, parameter.dtype) ||
      (parameter.dtype == DType::I8 && isReadableAs(DType::U8, found->dtype));
  if (!readable || found->shape != parameter.shape)
    return Status::error("'" + archive->path() + "': expected tensor '" +
                         parameter.key + "' to be " + wanted.describe() +
                         " but got " +
                         std::string(elementTypeName(found->dtype)) + " " +
                         describeShape(found->shape));
  return found;
}

Status CpuEngine::Impl::bindParameters(const std::string &directory,
                                       llvm::orc::SymbolMap &symbols) {
  for (const ParameterBinding &parameter : module.parameters) {
    Result<TensorInfo> found = findParameter(directory, parameter);
    if (!found.ok())
      return found.status();
    Result<TensorBuffer> loaded = loadTensor(*found);
    if (!loaded.ok())
      return loaded.status().withContext(
          "'" + archives[parameter.archive]->path() + "'");
    if (loaded->storage)
      copies.push_back(loaded->storage);
    // A tensor without elements has no data; no code reads it, but its symbol
    // must not be null.
    const void *address =
        loaded->data ? static_cast<const void *>(loaded->data) : this;
    symbols[jit->mangleAndIntern(parameter.symbol)] =
        llvm::orc::ExecutorSymbolDef(llvm::orc::ExecutorAddr::fromPtr(address),
                                     llvm::JITSymbolFlags::Exported);
  }
  return Status::success();
}

Result<std::unique_ptr<CpuEngine>>
CpuEngine::fromMemory(std::string_view source, const CpuEngineOptions &options,
                      const std::string &name) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->name = name;
  if (const char *profile = std::getenv("QUANT_LLM_PROFILE"))
    impl->options.profile |= *profile != '\0' && std::strcmp(profile, "0") != 0;
  ObjectCache cache(impl->options);
  std::string key = ObjectCache::computeKey(source, impl->options);
  if (std::optional<CompiledModule> cached = cache.load(key)) {
    impl->module = std::move(*cached);
    impl->fromCache = true;
  } else {
    int64_t begin = now();
    auto checkParameters = [&](const ParameterBindings &parameters) {
      for (const ParameterBinding &parameter : parameters) {
        Result<TensorInfo> found =
            impl->findParameter(options.baseDirectory, parameter);
        if (!found.ok())
          return found.status();
      }
      return Status::success();
    };
    Result<CompiledModule> compiled =
        compileModule(source, name, impl->options, checkParameters);
    if (!compiled.ok())
      return makeError(compiled.status());
    impl->module = compiled.take();
    impl->compileSeconds = double(now() - begin) * 1e-9;
    cache.store(key, impl->module);
  }
  Status linked = impl->link(options.baseDirectory);
  if (!linked.ok())
    return makeError(linked);
  return std::unique_ptr<CpuEngine>(new CpuEngine(std::move(impl)));
}

Result<std::unique_ptr<CpuEngine>>
CpuEngine::fromFile(const std::string &path, const CpuEngineOptions &options) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok())
    return makeError(file.status());
  CpuEngineOptions resolved = options;
  if (resolved.baseDirectory.empty()) {
    size_t slash = path.rfind('/');
    resolved.baseDirectory =
        slash == std::string::npos ? "." : path.substr(0, slash + 1);
  }
  return fromMemory(
      std::string_view(reinterpret_cast<const char *>(file->data()),
                       file->size()),
      resolved, path);
}

const std::vector<FunctionSignature> &CpuEngine::functions() const {
  return impl->module.functions;
}

const FunctionSignature *CpuEngine::findFunction(std::string_view name) const {
  for (const FunctionSignature &function : impl->module.functions)
    if (function.name == name)
      return &function;
  return nullptr;
}

bool CpuEngine::readsFile(const std::string &path) const {
  for (const auto &entry : impl->archives)
    if (entry.second && entry.second->findFile(path))
      return true;
  return false;
}

double CpuEngine::compileSeconds() const { return impl->compileSeconds; }
bool CpuEngine::fromCache() const { return impl->fromCache; }

Result<std::vector<Tensor>>
CpuEngine::invoke(std::string_view function,
                  const std::vector<Argument> &arguments) {
  const FunctionSignature *signature = findFunction(function);
  if (!signature) {
    std::string known;
    for (const FunctionSignature &candidate : impl->module.functions)
      known += (known.empty() ? "" : ", ") + candidate.name;
    return Status::error("there is no function '" + std::string(function) +
                         "' that can be called; expected one of: " +
                         (known.empty() ? "(none)" : known));
  }
  return impl->invoke(*signature, arguments);
}

/// Whether `tensor` may be passed where `expected` is wanted.
static Status checkArgument(const ValueSignature &expected,
                            const Tensor &tensor) {
  bool matches = isCompatible(tensor.dtype(), expected.dtype) &&
                 tensor.shape().size() == expected.shape.size();
  for (size_t i = 0; matches && i < expected.shape.size(); ++i)
    matches = tensor.shape()[i] >= 0 &&
              (expected.shape[i] < 0 || expected.shape[i] == tensor.shape()[i]);
  if (!matches)
    return Status::error("expected " + expected.describe() + " but got " +
                         tensor.describe());
  Result<int64_t> count =
      checkedElementCount(tensor.shape(), getByteWidth(tensor.dtype()));
  if (!count.ok())
    return count.status();
  if (!tensor.data() && *count != 0)
    return Status::error("expected data but got a null pointer");
  if (reinterpret_cast<uintptr_t>(tensor.data()) %
          std::max(1u, getByteWidth(tensor.dtype())) !=
      0)
    return Status::error("expected data aligned to its element type");
  return Status::success();
}

/// The memory layout of a descriptor: allocated pointer, aligned pointer,
/// offset, sizes, strides.
static std::vector<int64_t> makeDescriptor(const Tensor &tensor) {
  size_t rank = tensor.shape().size();
  std::vector<int64_t> descriptor(3 + 2 * rank);
  int64_t address =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensor.data()));
  descriptor[0] = descriptor[1] = address;
  int64_t stride = 1;
  for (size_t i = rank; i-- > 0;) {
    descriptor[3 + i] = tensor.shape()[i];
    descriptor[3 + rank + i] = stride;
    stride *= tensor.shape()[i];
  }
  return descriptor;
}

/// Whether a returned descriptor is contiguous memory that the call allocated,
/// of the shape that the signature says.
static Status checkResult(const ValueSignature &expected,
                          const std::vector<int64_t> &descriptor,
                          const AllocationScope &scope) {
  size_t rank = expected.shape.size();
  int64_t width = getByteWidth(expected.dtype);
  std::vector<int64_t> shape(descriptor.begin() + 3,
                             descriptor.begin() + 3 + int64_t(rank));
  Result<int64_t> count = checkedElementCount(shape, width);
  if (!count.ok())
    return count.status();
  for (size_t i = 0; i < rank; ++i)
    if (expected.shape[i] >= 0 && expected.shape[i] != shape[i])
      return Status::error("expected " + expected.describe() +
                           " but got the shape " + describeShape(shape));
  if (*count == 0)
    return Status::success();
  int64_t stride = 1;
  for (size_t i = rank; i-- > 0; stride *= shape[i])
    if (shape[i] != 1 && descriptor[3 + rank + i] != stride)
      return Status::error("expected contiguous memory but dimension " +
                           std::to_string(i) + " has the stride " +
                           std::to_string(descriptor[3 + rank + i]));
  uintptr_t block = static_cast<uintptr_t>(descriptor[0]);
  std::optional<size_t> size =
      scope.findSize(reinterpret_cast<const void *>(block));
  if (!size)
    return Status::error("expected memory that the function allocated; return "
                         "a copy of other memory");
  // Relative to the block, without products that could overflow.
  int64_t before =
      static_cast<int64_t>(static_cast<uintptr_t>(descriptor[1]) - block);
  int64_t room = static_cast<int64_t>(*size) - before;
  if (before < 0 || room < 0 || descriptor[2] < 0 ||
      descriptor[2] > room / width || *count > room / width - descriptor[2])
    return Status::error("expected " + std::to_string(*count) +
                         " elements inside of the memory that was allocated");
  return Status::success();
}

/// The message of a failed check with its numbers.
std::string CpuEngine::Impl::describeFailedCheck() const {
  size_t check = static_cast<size_t>(state.failedCheck);
  if (check >= module.checks.size())
    return "a check failed";
  llvm::StringRef message = module.checks[check];
  if (!message.consume_back(kGotValue))
    return message.str();
  auto [text, rest] = message.rsplit("{1}");
  std::string bound =
      text.size() == message.size() ? "" : std::to_string(state.checkedBound);
  return (text + bound + rest + " but got ").str() +
         std::to_string(state.checkedValue);
}

bool CpuEngine::Impl::call(void (*entry)(void **), void **slots,
                           CallFrame &frame) {
  // Nothing here has a destructor that a jump could skip.
  CallFrame *outer = currentCall;
  currentCall = &frame;
  bool completed = false;
  if (setjmp(frame.escape) == 0) {
    entry(slots);
    completed = true;
  }
  currentCall = outer;
  return completed;
}

Result<std::vector<Tensor>>
CpuEngine::Impl::invoke(const FunctionSignature &signature,
                        const std::vector<Argument> &arguments) {
  auto inFunction = [&](const Status &status) {
    return status.withContext("function '" + signature.name + "'");
  };
  if (arguments.size() != signature.arguments.size())
    return inFunction(Status::error(
        "expected " + std::to_string(signature.arguments.size()) +
        " arguments but got " + std::to_string(arguments.size())));

  std::vector<bool> overwritten(arguments.size(), false);
  for (int64_t alias : signature.resultAliases)
    if (alias >= 0 && alias < static_cast<int64_t>(arguments.size()))
      overwritten[static_cast<size_t>(alias)] = true;
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < arguments.size(); ++i) {
    Tensor tensor = arguments[i].tensor;
    Status status = checkArgument(signature.arguments[i], tensor);
    if (status.ok() && overwritten[i] && !arguments[i].inPlace) {
      Result<Tensor> copy = tensor.clone();
      if (copy.ok())
        tensor = copy.take();
      else
        status = copy.status();
    }
    if (!status.ok())
      return inFunction(status.withContext("argument " + std::to_string(i)));
    tensors.push_back(std::move(tensor));
  }

  // Results that are not updated arguments come back in a structure of
  // descriptors and scalars with the natural layout of C.
  struct Slot {
    size_t offset = 0;
  };
  std::vector<Slot> resultSlots(signature.results.size());
  size_t resultBytes = 0;
  unsigned numReturned = 0;
  bool anyMemRef = false;
  for (size_t i = 0; i < signature.results.size(); ++i) {
    if (signature.resultAliases[i] >= 0)
      continue;
    const ValueSignature &result = signature.results[i];
    size_t size = result.isScalar ? getByteWidth(result.dtype)
                                  : 8 * (3 + 2 * result.shape.size());
    size_t alignment = result.isScalar ? size : 8;
    resultBytes = (resultBytes + alignment - 1) / alignment * alignment;
    resultSlots[i].offset = resultBytes;
    resultBytes += size;
    ++numReturned;
    anyMemRef |= !result.isScalar;
  }
  std::vector<int64_t> resultStorage((resultBytes + 7) / 8 + 1);
  bool resultsFirst = numReturned > 1 || anyMemRef;

  std::vector<std::vector<int64_t>> descriptors(tensors.size());
  std::vector<void *> slots;
  if (resultsFirst)
    slots.push_back(resultStorage.data());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (signature.arguments[i].isScalar) {
      slots.push_back(tensors[i].data());
      continue;
    }
    descriptors[i] = makeDescriptor(tensors[i]);
    slots.push_back(descriptors[i].data());
  }
  if (!resultsFirst)
    slots.push_back(resultStorage.data());

  std::lock_guard<std::mutex> lock(mutex);
  openMP.setNumThreads(static_cast<int>(resolveThreadCount(options.threads)));
  state.clear();
  CallFrame frame(state, openMP.getLevel);
  AllocationScope scope;
  bool completed =
      call(entries.find(signature.name)->second, slots.data(), frame);
  Status status;
  if (state.outOfMemory) {
    status = Status::error("not enough memory");
  } else if (state.failedCheck >= 0) {
    status = Status::error(describeFailedCheck());
  } else if (state.indexFailed) {
    status = Status::error("index " + std::to_string(state.index) +
                           " is out of range: expected 0 to " +
                           std::to_string(state.bound - 1));
  } else if (!completed) {
    status = Status::error("a check failed");
  }
  // What is wrong with the results is found before any of them is given away.
  std::vector<std::vector<int64_t>> resultDescriptors(signature.results.size());
  for (size_t i = 0; status.ok() && i < signature.results.size(); ++i) {
    if (signature.resultAliases[i] >= 0 || signature.results[i].isScalar)
      continue;
    resultDescriptors[i].resize(3 + 2 * signature.results[i].shape.size());
    std::memcpy(resultDescriptors[i].data(),
                reinterpret_cast<const char *>(resultStorage.data()) +
                    resultSlots[i].offset,
                8 * resultDescriptors[i].size());
    status = checkResult(signature.results[i], resultDescriptors[i], scope)
                 .withContext("result " + std::to_string(i));
  }
  if (!status.ok()) {
    scope.freeAll();
    return inFunction(status);
  }

  // Results may share a block.
  std::map<int64_t, std::shared_ptr<void>> blocks;
  std::vector<Tensor> results;
  for (size_t i = 0; i < signature.results.size(); ++i) {
    const ValueSignature &result = signature.results[i];
    int64_t alias = signature.resultAliases[i];
    if (alias >= 0) {
      results.push_back(tensors[static_cast<size_t>(alias)]);
      continue;
    }
    const char *storage = reinterpret_cast<const char *>(resultStorage.data()) +
                          resultSlots[i].offset;
    if (result.isScalar) {
      Result<Tensor> scalar = Tensor::allocate(result.dtype, {});
      if (!scalar.ok())
        return inFunction(scalar.status());
      std::memcpy(scalar->data(), storage, getByteWidth(result.dtype));
      results.push_back(scalar.take());
      continue;
    }
    size_t rank = result.shape.size();
    const std::vector<int64_t> &descriptor = resultDescriptors[i];
    std::shared_ptr<void> &block = blocks[descriptor[0]];
    if (!block)
      block.reset(
          reinterpret_cast<void *>(static_cast<uintptr_t>(descriptor[0])),
          [](void *p) { freeBlock(p); });
    char *data =
        reinterpret_cast<char *>(static_cast<uintptr_t>(descriptor[1])) +
        descriptor[2] * int64_t(getByteWidth(result.dtype));
    results.push_back(Tensor::wrap(
        result.dtype,
        std::vector<int64_t>(descriptor.begin() + 3,
                             descriptor.begin() + 3 + int64_t(rank)),
        data, block));
  }
  return results;
}

void CpuEngine::Impl::printProfile() const {
  std::vector<size_t> order;
  int64_t total = 0;
  for (size_t i = 0; i < module.kernels.size(); ++i) {
    order.push_back(i);
    total += times[i].nanoseconds;
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return times[a].nanoseconds > times[b].nanoseconds;
  });
  std::fprintf(stderr, "%10s %6s %8s %10s  kernel\n", "ms", "%", "calls",
               "us/call");
  for (size_t i : order) {
    int64_t nanoseconds = times[i].nanoseconds, calls = times[i].calls;
    if (calls == 0)
      continue;
    std::fprintf(
        stderr, "%10.3f %6.2f %8lld %10.2f  %s\n", nanoseconds * 1e-6,
        100.0 * double(nanoseconds) / double(std::max<int64_t>(total, 1)),
        static_cast<long long>(calls),
        double(nanoseconds) * 1e-3 / double(calls), module.kernels[i].c_str());
  }
  std::fprintf(stderr, "%10.3f %6.2f\n", double(total) * 1e-6, 100.0);
}
