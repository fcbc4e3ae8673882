/*===- capi.c - The C API from a C program ------------------------*- C -*-===*\
|*                                                                            *|
|* Part of the quant-llm project, under the Apache License v2.0 with LLVM     *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#include "quant-llm-c/Compile.h"
#include "quant-llm-c/CudaRuntime.h"
#include "quant-llm-c/Model.h"
#include "quant-llm-c/Runtime.h"
#include "quant-llm-c/Support.h"

#include <stdio.h>
#include <string.h>

static void showError(QuantLLMStatus status, QuantLLMError *error) {
  size_t i;
  printf("status %d: %s\n", (int)status, quantLLMErrorGetMessage(error));
  for (i = 0; i < quantLLMErrorGetNumDiagnostics(error); ++i) {
    QuantLLMDiagnostic d = quantLLMErrorGetDiagnostic(error, i);
    printf("  diagnostic %d at '%s': %s\n", (int)d.severity, d.location,
           d.message);
  }
  quantLLMErrorDestroy(error);
}

static void compile(const char *title, const char *source,
                    const QuantLLMCompileOptions *options) {
  QuantLLMBuffer *module = NULL;
  QuantLLMError *error = NULL;
  QuantLLMStatus status;
  printf("-- %s\n", title);
  status = quantLLMCompile(source, strlen(source), options, &module, &error);
  if (status == QUANT_LLM_OK)
    printf("%s\n", quantLLMBufferGetData(module));
  else
    showError(status, error);
  quantLLMBufferDestroy(module);
}

static int stop(void *userData) { return ++*(int *)userData; }

static void testCompile(void) {
  static const char *good = "func.func @f(%a: i32) -> i32 {\n"
                            "  %0 = arith.addi %a, %a : i32\n"
                            "  %1 = arith.addi %a, %a : i32\n"
                            "  %2 = arith.muli %0, %1 : i32\n"
                            "  return %2 : i32\n"
                            "}\n";
  QuantLLMCompileOptions options;
  QuantLLMBuffer *bytecode = NULL;
  QuantLLMBuffer *again = NULL;
  QuantLLMError *error = NULL;
  int asked = 0;
  memset(&options, 0, sizeof options);

  options.handlers.shouldStop = stop;
  options.handlers.userData = &asked;
  compile("stopped", good, &options);
  printf("asked %d\n", asked);
  memset(&options, 0, sizeof options);
  options.pipeline = "cse";
  compile("pipeline", good, &options);
  options.pipeline = "builtin.module(func.func(cse))";
  compile("nested pipeline", good, &options);
  options.pipeline = "no-such-pass";
  compile("unknown pass", good, &options);
  options.pipeline = NULL;
  options.name = "dir/model.mlir";
  compile("syntax error", "func.func @f(", &options);
  compile("verifier error",
          "func.func @f(%a: i32) -> i64 {\n  return %a : i32\n}\n", &options);

  printf("-- bytecode\n");
  options.bytecode = 1;
  if (quantLLMCompile(good, strlen(good), &options, &bytecode, &error) ||
      quantLLMCompile(quantLLMBufferGetData(bytecode),
                      quantLLMBufferGetSize(bytecode), NULL, &again, &error))
    showError(QUANT_LLM_INVALID_INPUT, error);
  else
    printf("magic %.2s, again %s", quantLLMBufferGetData(bytecode),
           quantLLMBufferGetData(again));
  quantLLMBufferDestroy(bytecode);
  quantLLMBufferDestroy(again);
}

static void show(const char *title, QuantLLMStatus status, QuantLLMBuffer *text,
                 QuantLLMError *error) {
  printf("-- %s\n", title);
  if (status != QUANT_LLM_OK)
    showError(status, error);
  else
    printf("%s\n", text ? quantLLMBufferGetData(text) : "fine");
  quantLLMBufferDestroy(text);
}

static void checkPipeline(const char *title, const char *pipeline) {
  QuantLLMError *error = NULL;
  QuantLLMStatus status = quantLLMCheckPipeline(pipeline, &error);
  show(title, status, NULL, error);
}

static void checkOptions(const char *title, const char *recipe,
                         const char *text) {
  QuantLLMError *error = NULL;
  QuantLLMQuantizeOptions options;
  QuantLLMStatus status;
  memset(&options, 0, sizeof options);
  options.recipe = recipe;
  options.options = text;
  status = quantLLMCheckQuantizeOptions(&options, &error);
  show(title, status, NULL, error);
}

static void render(const char *title, const char *recipe, const char *values) {
  QuantLLMBuffer *text = NULL;
  QuantLLMError *error = NULL;
  QuantLLMStatus status = quantLLMRenderRecipe(recipe, values, &text, &error);
  show(title, status, text, error);
}

static void checkRecipe(const char *title, const char *recipe,
                        const char *values) {
  QuantLLMError *error = NULL;
  QuantLLMStatus status = quantLLMCheckRecipe(recipe, values, &error);
  show(title, status, NULL, error);
}

static void testRecipes(void) {
  static const char *recipe =
      "{\"name\": \"r\", \"summary\": \"s\", \"pipeline\": \"a{bits=$bits "
      "output=$output report=$report},  # why\\n b\", \"options\": [{\"name\": "
      "\"bits\", \"default\": 4, \"help\": \"\", \"minimum\": 1}]}";
  QuantLLMBuffer *quoted = NULL;
  QuantLLMError *error = NULL;
  QuantLLMStatus status;
  checkPipeline("options that fit",
                "quant-llm-choose-granularity{element=int4}");
  checkPipeline("options that do not",
                "cse,quant-llm-choose-granularity{element=int4 alpha=3}");
  checkPipeline("no pass", "no-such-pass");
  checkOptions("options of finequant", "finequant", "alpha=0.5");
  checkOptions("wrong options of finequant", NULL, "scale=f99");
  checkOptions("no such option", "finequant", "colour=red");
  checkOptions("no number", "finequant", "scale=f16 alpha=abc");
  checkPipeline("no number for a pass",
                "cse,quant-llm-choose-granularity{exclude=\"a b\" alpha=abc}");
  checkPipeline("no number for a pass within",
                "builtin.module(builtin.module(quant-llm-choose-granularity{"
                "element=int4 alpha=abc}))");
  checkOptions("wrong options of a recipe", "rtn", "group=many");
  checkOptions("no such recipe", "magic", NULL);
  checkRecipe("option named like a file",
              "{\"name\": \"r\", \"summary\": \"s\", \"pipeline\": "
              "\"a{o=$output r=$report}\", \"options\": [{\"name\": "
              "\"output\", \"default\": \"x\", \"help\": \"\"}]}",
              NULL);
  checkRecipe("two options of one name",
              "{\"name\": \"r\", \"summary\": \"s\", \"pipeline\": "
              "\"a{o=$output r=$report x=$x}\", \"options\": [{\"name\": "
              "\"x\", \"default\": 1, \"help\": \"\"}, {\"name\": \"x\", "
              "\"default\": 2, \"help\": \"\"}]}",
              NULL);
  checkRecipe("recipe", recipe, NULL);
  checkRecipe("recipe and values", recipe, "{\"bits\": \"0\"}");
  checkRecipe("values that are no texts", recipe, "{\"bits\": 3}");
  checkRecipe("values that are no object", recipe, "[]");
  checkRecipe("no JSON", "{", NULL);
  checkRecipe("no object", "[]", NULL);
  checkRecipe("no pipeline", "{\"name\": \"r\", \"summary\": \"s\"}", NULL);
  checkRecipe("options that are no objects",
              "{\"name\": \"r\", \"summary\": \"s\", \"pipeline\": \"\", "
              "\"options\": [3]}",
              NULL);
  render("rendered", recipe, "{\"output\": \"a b\", \"report\": \"\"}");
  render("not all values", recipe, "{\"report\": \"r\"}");
  status = quantLLMQuoteOption("it's", &quoted, &error);
  show("quoted", status, quoted, error);
  quoted = NULL;
  status = quantLLMQuoteOption("it's \"", &quoted, &error);
  show("not quoted", status, quoted, error);
}

static void testMisuse(void) {
  QuantLLMError *error = NULL;
  QuantLLMBuffer *module = NULL;
  QuantLLMStatus status;
  printf("-- misuse\n");
  status = quantLLMCompile(NULL, 0, NULL, &module, &error);
  showError(status, error);
  error = NULL;
  status = quantLLMCompile("", 0, NULL, NULL, &error);
  showError(status, error);
  status = quantLLMCompile(NULL, 0, NULL, &module, NULL);
  printf("status %d without an error\n", (int)status);
  quantLLMErrorDestroy(NULL);
  quantLLMBufferDestroy(NULL);
  printf("[%s] %d\n", quantLLMErrorGetMessage(NULL),
         (int)quantLLMErrorGetNumDiagnostics(NULL));
}

static void testFiles(const char *path) {
  QuantLLMError *error = NULL;
  QuantLLMBuffer *json = NULL;
  QuantLLMStatus status;
  printf("-- files\n");
  status = quantLLMDescribeArchive(path, &json, &error);
  if (status == QUANT_LLM_OK)
    printf("%s\n", quantLLMBufferGetData(json));
  else
    showError(status, error);
  quantLLMBufferDestroy(json);
  error = NULL;
  status = quantLLMDescribeArchive("/no/such/file", &json, &error);
  showError(status, error);
  error = NULL;
  status = quantLLMReadGGUFMetadata(path, &json, &error);
  showError(status, error);
}

static void testEngine(void) {
  static const char *source =
      "func.func @put(%cache: tensor<?xf32>, %row: tensor<1xf32>,\n"
      "               %where: i64) -> tensor<?xf32> {\n"
      "  %i = arith.index_cast %where : i64 to index\n"
      "  %0 = tensor.insert_slice %row into %cache[%i] [1] [1]\n"
      "    : tensor<1xf32> into tensor<?xf32>\n"
      "  return %0 : tensor<?xf32>\n"
      "}\n";
  float cache[3] = {1, 2, 3};
  float row[1] = {7};
  int64_t where = 1;
  int64_t cacheShape[1] = {3};
  int64_t rowShape[1] = {1};
  QuantLLMArgument arguments[3];
  QuantLLMTensor *results[1];
  QuantLLMTensorView view;
  size_t count = 0;
  QuantLLMEngine *engine = NULL;
  QuantLLMBuffer *json = NULL;
  QuantLLMError *error = NULL;
  QuantLLMEngineOptions options;
  QuantLLMStatus status;
  memset(&options, 0, sizeof options);
  memset(arguments, 0, sizeof arguments);
  options.disableCache = 1;
  options.threads = 1;

  printf("-- engine\n");
  status = quantLLMEngineCreateFromMemory("garbage", 7, "bad.mlir", &options,
                                          &engine, &error);
  showError(status, error);
  status = quantLLMEngineCreateFromFile("/no/such/file.mlir", &options, &engine,
                                        &error);
  showError(status, error);
  error = NULL;
  status = quantLLMEngineCreateFromMemory(source, strlen(source), NULL,
                                          &options, &engine, &error);
  if (status != QUANT_LLM_OK) {
    showError(status, error);
    return;
  }
  if (quantLLMEngineDescribe(engine, &json, &error) == QUANT_LLM_OK)
    printf("%s\n", quantLLMBufferGetData(json));
  quantLLMBufferDestroy(json);

  status = quantLLMEngineGetNumResults(engine, "put", &count, &error);
  printf("status %d: %d results\n", (int)status, (int)count);
  status = quantLLMEngineGetNumResults(engine, "none", &count, &error);
  showError(status, error);
  error = NULL;
  arguments[0].tensor.dtype = "F32";
  arguments[0].tensor.rank = 1;
  arguments[0].tensor.shape = cacheShape;
  arguments[0].tensor.data = cache;
  arguments[1].tensor.dtype = "F32";
  arguments[1].tensor.rank = 1;
  arguments[1].tensor.shape = rowShape;
  arguments[1].tensor.data = row;
  arguments[2].tensor.dtype = "I64";
  arguments[2].tensor.data = &where;
  status = quantLLMEngineInvoke(engine, "put", arguments, 3, results, 1, &count,
                                &error);
  if (status == QUANT_LLM_OK) {
    const float *data;
    view = quantLLMTensorGetView(results[0]);
    data = (const float *)view.data;
    printf("copied: %s rank %d, %d bytes: %g %g %g; argument %g %g %g\n",
           view.dtype, (int)view.rank,
           (int)quantLLMTensorGetNumBytes(results[0]), data[0], data[1],
           data[2], cache[0], cache[1], cache[2]);
    quantLLMTensorDestroy(results[0]);
  } else {
    showError(status, error);
  }
  arguments[0].inPlace = 1;
  status = quantLLMEngineInvoke(engine, "put", arguments, 3, results, 1, &count,
                                &error);
  if (status == QUANT_LLM_OK) {
    view = quantLLMTensorGetView(results[0]);
    printf("in place: same memory %d, argument %g %g %g\n",
           view.data == (void *)cache, cache[0], cache[1], cache[2]);
    quantLLMTensorDestroy(results[0]);
  } else {
    showError(status, error);
  }

  status = quantLLMEngineInvoke(engine, "put", arguments, 3, results, 0, &count,
                                &error);
  showError(status, error);
  status = quantLLMEngineInvoke(engine, "none", arguments, 3, results, 1,
                                &count, &error);
  showError(status, error);
  arguments[1].tensor.dtype = "F33";
  status = quantLLMEngineInvoke(engine, "put", arguments, 3, results, 1, &count,
                                &error);
  showError(status, error);
  arguments[1].tensor.dtype = "F32";
  rowShape[0] = -1;
  status = quantLLMEngineInvoke(engine, "put", arguments, 3, results, 1, &count,
                                &error);
  showError(status, error);
  rowShape[0] = 1;
  arguments[1].tensor.data = NULL;
  status = quantLLMEngineInvoke(engine, "put", arguments, 3, results, 1, &count,
                                &error);
  showError(status, error);
  quantLLMEngineDestroy(engine);
}

int main(int argc, char **argv) {
  if (argc != 2)
    return 2;
  printf("version %s\n", quantLLMGetVersion());
  testFiles(argv[1]);
  testCompile();
  testRecipes();
  testMisuse();
  testEngine();
  return 0;
}
