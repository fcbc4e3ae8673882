//===- Extension.cpp - The Python extension over the C API ----------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Only what Python cannot do itself: calls of the C API with the GIL released,
// errors as exceptions, arrays without copies. Everything pleasant is written
// in Python on top. Nothing here includes MLIR or the C++ libraries, so the
// package can live in one process with other packages built on MLIR.
//
//===----------------------------------------------------------------------===//

#include "quant-llm-c/Compile.h"
#include "quant-llm-c/Model.h"
#include "quant-llm-c/Runtime.h"
#include "quant-llm-c/Support.h"
#include "quant-llm-c/Torch.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace {

template <auto destroy>
struct Destroyer {
  template <typename T>
  void operator()(T *object) const {
    destroy(object);
  }
};
using Error = std::unique_ptr<QuantLLMError, Destroyer<quantLLMErrorDestroy>>;
using Buffer =
    std::unique_ptr<QuantLLMBuffer, Destroyer<quantLLMBufferDestroy>>;

const char *severityName(QuantLLMSeverity severity) {
  switch (severity) {
  case QUANT_LLM_ERROR:
    return "error";
  case QUANT_LLM_WARNING:
    return "warning";
  case QUANT_LLM_REMARK:
    return "remark";
  case QUANT_LLM_NOTE:
    break;
  }
  return "note";
}

/// A str even if a message quotes bytes of a file that are not UTF-8.
nb::object toText(const char *text) {
  return nb::steal(PyUnicode_DecodeUTF8(
      text, static_cast<Py_ssize_t>(strlen(text)), "replace"));
}

nb::object makeDiagnostic(const QuantLLMDiagnostic &diagnostic) {
  return nb::module_::import_("quant_llm._errors")
      .attr("Diagnostic")(severityName(diagnostic.severity),
                          toText(diagnostic.location),
                          toText(diagnostic.message));
}

[[noreturn]] void raise(QuantLLMStatus status, const QuantLLMError *error) {
  if (status == QUANT_LLM_OUT_OF_MEMORY)
    throw std::bad_alloc();
  if (status == QUANT_LLM_INTERNAL_ERROR)
    throw std::runtime_error(quantLLMErrorGetMessage(error));
  nb::list diagnostics;
  for (size_t i = 0, e = quantLLMErrorGetNumDiagnostics(error); i < e; ++i)
    diagnostics.append(makeDiagnostic(quantLLMErrorGetDiagnostic(error, i)));
  nb::object type =
      nb::module_::import_("quant_llm._errors").attr("QuantLLMError");
  nb::object exception =
      type(toText(quantLLMErrorGetMessage(error)), diagnostics);
  PyErr_SetObject(type.ptr(), exception.ptr());
  throw nb::python_error();
}

/// Calls `function(error)` without the GIL; an error becomes an exception.
template <typename Function>
void call(Function function) {
  QuantLLMError *error = nullptr;
  QuantLLMStatus status;
  {
    nb::gil_scoped_release release;
    status = function(&error);
  }
  Error owned(error);
  if (status != QUANT_LLM_OK)
    raise(status, owned.get());
}

/// The handlers of the C API for two callables of Python, each maybe None. What
/// a callable raises cannot pass through the C API; it is kept and raised after
/// the call, which it ends.
class Handlers {
public:
  Handlers(nb::object progress, nb::object diagnostic)
      : progress(std::move(progress)), diagnostic(std::move(diagnostic)) {}

  QuantLLMHandlers get() {
    QuantLLMHandlers handlers = {};
    handlers.userData = this;
    if (!progress.is_none())
      handlers.progress = [](void *self, const char *stage, const char *item,
                             uint64_t done, uint64_t total) {
        auto *handlers = static_cast<Handlers *>(self);
        handlers->guarded([&] {
          handlers->progress(toText(stage), toText(item), done, total);
        });
      };
    // Work ends by what a callable raises, and by what a signal does, Ctrl-C.
    handlers.shouldStop = [](void *self) -> int {
      auto *handlers = static_cast<Handlers *>(self);
      handlers->guarded([] {
        if (PyErr_CheckSignals() != 0)
          throw nb::python_error();
      });
      return handlers->raised != nullptr;
    };
    if (!diagnostic.is_none())
      handlers.diagnostic = [](void *self, const QuantLLMDiagnostic *value) {
        auto *handlers = static_cast<Handlers *>(self);
        handlers->guarded(
            [&] { handlers->diagnostic(makeDiagnostic(*value)); });
      };
    return handlers;
  }

  /// call() with these handlers.
  template <typename Function>
  void call(Function function) {
    try {
      ::call(function);
    } catch (...) {
      // What was raised first, and ended the call.
      rethrow();
      throw;
    }
    rethrow();
  }

private:
  void rethrow() {
    if (raised)
      std::rethrow_exception(std::exchange(raised, nullptr));
  }
  template <typename Function>
  void guarded(Function function) {
    nb::gil_scoped_acquire acquire;
    if (raised)
      return;
    try {
      function();
    } catch (...) {
      raised = std::current_exception();
    }
  }

  nb::object progress;
  nb::object diagnostic;
  std::exception_ptr raised;
};

nb::bytes toBytes(const Buffer &buffer) {
  return nb::bytes(quantLLMBufferGetData(buffer.get()),
                   quantLLMBufferGetSize(buffer.get()));
}

const char *orNull(const std::optional<std::string> &text) {
  return text ? text->c_str() : nullptr;
}

nb::bytes compile(nb::bytes source, std::optional<std::string> name,
                  std::optional<std::string> pipeline, bool bytecode,
                  nb::object progress, nb::object diagnostic) {
  Handlers handlers(std::move(progress), std::move(diagnostic));
  QuantLLMCompileOptions options = {};
  options.name = orNull(name);
  options.pipeline = orNull(pipeline);
  options.bytecode = bytecode;
  options.handlers = handlers.get();
  const char *data = source.c_str();
  size_t size = source.size();
  Buffer module;
  handlers.call([&](QuantLLMError **error) {
    QuantLLMBuffer *made = nullptr;
    QuantLLMStatus status = quantLLMCompile(data, size, &options, &made, error);
    module.reset(made);
    return status;
  });
  return toBytes(module);
}

void importModel(const std::string &input, const std::string &output,
                 bool blocksAsF32, nb::object progress, nb::object diagnostic) {
  Handlers handlers(std::move(progress), std::move(diagnostic));
  QuantLLMImportOptions options = {};
  options.blocksAsF32 = blocksAsF32;
  options.handlers = handlers.get();
  handlers.call([&](QuantLLMError **error) {
    return quantLLMImportModel(input.c_str(), output.c_str(), &options, error);
  });
}

void quantizeModel(const std::string &input, const std::string &output,
                   const std::string &recipe,
                   const std::string &pipelineOptions, nb::object progress,
                   nb::object diagnostic) {
  Handlers handlers(std::move(progress), std::move(diagnostic));
  QuantLLMQuantizeOptions options = {};
  options.recipe = recipe.c_str();
  options.options = pipelineOptions.c_str();
  options.handlers = handlers.get();
  handlers.call([&](QuantLLMError **error) {
    return quantLLMQuantizeModel(input.c_str(), output.c_str(), &options,
                                 error);
  });
}

void checkQuantizeOptions(const std::string &recipe,
                          const std::string &pipelineOptions) {
  QuantLLMQuantizeOptions options = {};
  options.recipe = recipe.c_str();
  options.options = pipelineOptions.c_str();
  call([&](QuantLLMError **error) {
    return quantLLMCheckQuantizeOptions(&options, error);
  });
}

void checkPipeline(const std::string &pipeline) {
  call([&](QuantLLMError **error) {
    return quantLLMCheckPipeline(pipeline.c_str(), error);
  });
}

nb::bytes quoteOption(const std::string &text) {
  QuantLLMBuffer *quoted = nullptr;
  call([&](QuantLLMError **error) {
    return quantLLMQuoteOption(text.c_str(), &quoted, error);
  });
  return toBytes(Buffer(quoted));
}

void checkRecipe(const std::string &recipe, const std::string &values) {
  call([&](QuantLLMError **error) {
    return quantLLMCheckRecipe(recipe.c_str(), values.c_str(), error);
  });
}

nb::bytes renderRecipe(const std::string &recipe, const std::string &values) {
  QuantLLMBuffer *pipeline = nullptr;
  call([&](QuantLLMError **error) {
    return quantLLMRenderRecipe(recipe.c_str(), values.c_str(), &pipeline,
                                error);
  });
  return toBytes(Buffer(pipeline));
}

nb::bytes describeModule(nb::bytes source, std::optional<std::string> name) {
  const char *data = source.c_str();
  size_t size = source.size();
  QuantLLMBuffer *json = nullptr;
  call([&](QuantLLMError **error) {
    return quantLLMDescribeModule(data, size, orNull(name), &json, error);
  });
  return toBytes(Buffer(json));
}

nb::bytes translateToTorch(nb::bytes source, std::optional<std::string> name,
                           std::optional<std::string> function, int part,
                           int64_t firstBlock, int64_t lastBlock, bool tap) {
  const char *data = source.c_str();
  size_t size = source.size();
  QuantLLMTorchOptions options = {};
  options.function = orNull(function);
  options.part = static_cast<QuantLLMTorchPart>(part);
  options.firstBlock = firstBlock;
  options.lastBlock = lastBlock;
  options.tap = tap;
  QuantLLMBuffer *json = nullptr;
  call([&](QuantLLMError **error) {
    return quantLLMTranslateToTorch(data, size, orNull(name), &options, &json,
                                    error);
  });
  return toBytes(Buffer(json));
}

nb::bytes fingerprintModel(nb::bytes source, std::optional<std::string> name) {
  const char *data = source.c_str();
  size_t size = source.size();
  QuantLLMBuffer *text = nullptr;
  call([&](QuantLLMError **error) {
    return quantLLMFingerprintModel(data, size, orNull(name), &text, error);
  });
  return toBytes(Buffer(text));
}

/// A function of the API from a path to JSON.
template <QuantLLMStatus (*function)(const char *, QuantLLMBuffer **,
                                     QuantLLMError **)>
nb::bytes describeFile(const std::string &path) {
  QuantLLMBuffer *json = nullptr;
  call([&](QuantLLMError **error) {
    return function(path.c_str(), &json, error);
  });
  return toBytes(Buffer(json));
}

/// An array of bytes in one piece; what it means is passed beside it, because
/// NumPy lacks some of the element types.
using Bytes =
    nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using TypedBytes = std::tuple<std::string, std::vector<int64_t>, Bytes>;

class Engine {
public:
  static Engine *fromFile(const std::string &path, bool reference, int threads,
                          std::optional<std::string> baseDirectory,
                          bool cache) {
    QuantLLMEngineOptions options =
        convert(reference, threads, baseDirectory, cache);
    return create([&](QuantLLMEngine **engine, QuantLLMError **error) {
      return quantLLMEngineCreateFromFile(path.c_str(), &options, engine,
                                          error);
    });
  }

  static Engine *fromMemory(nb::bytes source, std::optional<std::string> name,
                            bool reference, int threads,
                            std::optional<std::string> baseDirectory,
                            bool cache) {
    QuantLLMEngineOptions options =
        convert(reference, threads, baseDirectory, cache);
    const char *data = source.c_str();
    size_t size = source.size();
    return create([&](QuantLLMEngine **engine, QuantLLMError **error) {
      return quantLLMEngineCreateFromMemory(data, size, orNull(name), &options,
                                            engine, error);
    });
  }

  nb::bytes describe() const {
    QuantLLMBuffer *json = nullptr;
    call([&](QuantLLMError **error) {
      return quantLLMEngineDescribe(engine.get(), &json, error);
    });
    return toBytes(Buffer(json));
  }

  nb::list invoke(const std::string &function,
                  const std::vector<TypedBytes> &arguments,
                  const std::vector<bool> &inPlace) {
    std::vector<QuantLLMArgument> converted;
    for (size_t i = 0; i < arguments.size(); ++i) {
      const auto &[dtype, shape, bytes] = arguments[i];
      // Arguments that are not passed in place are only read.
      void *data = const_cast<uint8_t *>(bytes.data());
      converted.push_back(
          {{dtype.c_str(), shape.size(), shape.data(), data}, inPlace.at(i)});
    }
    size_t count = 0;
    call([&](QuantLLMError **error) {
      return quantLLMEngineGetNumResults(engine.get(), function.c_str(), &count,
                                         error);
    });
    std::vector<QuantLLMTensor *> results(count);
    call([&](QuantLLMError **error) {
      return quantLLMEngineInvoke(
          engine.get(), function.c_str(), converted.data(), converted.size(),
          results.data(), results.size(), &count, error);
    });
    std::vector<Tensor> owned(results.begin(), results.end());
    nb::list list;
    for (Tensor &tensor : owned)
      list.append(toTuple(std::move(tensor)));
    return list;
  }

private:
  using Handle =
      std::unique_ptr<QuantLLMEngine, Destroyer<quantLLMEngineDestroy>>;
  using Tensor =
      std::unique_ptr<QuantLLMTensor, Destroyer<quantLLMTensorDestroy>>;

  explicit Engine(QuantLLMEngine *engine) : engine(engine) {}

  static QuantLLMEngineOptions
  convert(bool reference, int threads,
          const std::optional<std::string> &baseDirectory, bool cache) {
    QuantLLMEngineOptions options = {};
    options.reference = reference;
    options.threads = threads;
    options.baseDirectory = orNull(baseDirectory);
    options.disableCache = !cache;
    return options;
  }

  template <typename Function>
  static Engine *create(Function function) {
    QuantLLMEngine *engine = nullptr;
    call([&](QuantLLMError **error) { return function(&engine, error); });
    return new Engine(engine);
  }

  /// Element type, shape, and an array of bytes that owns the tensor.
  static nb::tuple toTuple(Tensor tensor) {
    QuantLLMTensorView view = quantLLMTensorGetView(tensor.get());
    nb::list shape;
    for (size_t i = 0; i < view.rank; ++i)
      shape.append(view.shape[i]);
    size_t bytes = quantLLMTensorGetNumBytes(tensor.get());
    std::string dtype = view.dtype;
    nb::capsule owner(tensor.get(), [](void *pointer) noexcept {
      quantLLMTensorDestroy(static_cast<QuantLLMTensor *>(pointer));
    });
    tensor.release();
    return nb::make_tuple(dtype, shape,
                          nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(
                              view.data, {bytes}, owner));
  }

  Handle engine;
};

} // namespace

NB_MODULE(_quant_llm, m) {
  m.doc() = "The C API of quant-llm; use the package quant_llm instead.";
  m.def("version", [] { return quantLLMGetVersion(); });
  m.def("compile", &compile, nb::arg("source"), nb::arg("name").none(),
        nb::arg("pipeline").none(), nb::arg("bytecode"),
        nb::arg("progress").none(), nb::arg("diagnostic").none());
  m.def("import_model", &importModel, nb::arg("input"), nb::arg("output"),
        nb::arg("blocks_as_f32"), nb::arg("progress").none(),
        nb::arg("diagnostic").none());
  m.def("quantize_model", &quantizeModel, nb::arg("input"), nb::arg("output"),
        nb::arg("recipe"), nb::arg("options"), nb::arg("progress").none(),
        nb::arg("diagnostic").none());
  m.def("check_quantize_options", &checkQuantizeOptions, nb::arg("recipe"),
        nb::arg("options"));
  m.def("check_pipeline", &checkPipeline, nb::arg("pipeline"));
  m.def("quote_option", &quoteOption, nb::arg("text"));
  m.def("check_recipe", &checkRecipe, nb::arg("recipe"), nb::arg("values"));
  m.def("render_recipe", &renderRecipe, nb::arg("recipe"), nb::arg("values"));
  m.def("describe_module", &describeModule, nb::arg("source"),
        nb::arg("name").none());
  m.def("translate_to_torch", &translateToTorch, nb::arg("source"),
        nb::arg("name").none(), nb::arg("function").none(), nb::arg("part"),
        nb::arg("first_block"), nb::arg("last_block"), nb::arg("tap"));
  m.def("fingerprint_model", &fingerprintModel, nb::arg("source"),
        nb::arg("name").none());
  nb::class_<Engine>(m, "Engine")
      .def_static("from_file", &Engine::fromFile, nb::arg("path"),
                  nb::arg("reference"), nb::arg("threads"),
                  nb::arg("base_directory").none(), nb::arg("cache"))
      .def_static("from_memory", &Engine::fromMemory, nb::arg("source"),
                  nb::arg("name").none(), nb::arg("reference"),
                  nb::arg("threads"), nb::arg("base_directory").none(),
                  nb::arg("cache"))
      .def("describe", &Engine::describe)
      .def("invoke", &Engine::invoke, nb::arg("function"), nb::arg("arguments"),
           nb::arg("in_place"));
  m.def("describe_archive", &describeFile<quantLLMDescribeArchive>,
        nb::arg("path"));
  m.def("read_gguf_metadata", &describeFile<quantLLMReadGGUFMetadata>,
        nb::arg("path"));
}
