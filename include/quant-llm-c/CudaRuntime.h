/*===- CudaRuntime.h - Quantized linear layers on NVIDIA GPUs -----*- C -*-===*\
|*                                                                            *|
|* Part of the quant-llm project, under the Apache License v2.0 with LLVM     *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
|*===----------------------------------------------------------------------===*|
|*                                                                            *|
|* The library libQuantLLMRuntime runs what quant-llm-to-gpu compiled. It has *|
|* no compiler in it and is independent of libQuantLLMC. The CUDA driver is   *|
|* loaded when a module is created, so the library itself loads anywhere.     *|
|*                                                                            *|
|* An artifact is a directory: manifest.json, kernels, packed weights. A      *|
|* module is an artifact on a device. A plan says what a linear layer         *|
|* launches for a number of tokens and which memory it needs; a launch does   *|
|* just that.                                                                 *|
|*                                                                            *|
|* Launches neither allocate nor wait nor copy between host and device, and   *|
|* can be captured in a CUDA graph. The same arguments give the same bits on  *|
|* every stream and in every repetition. All functions may be called from     *|
|* several threads; only destroying excludes other uses of an object.         *|
|*                                                                            *|
|* A function that can fail returns a status; quantLLMCudaGetLastError() then *|
|* tells in words what is wrong. Results are only written on success.         *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef QUANT_LLM_C_CUDARUNTIME_H
#define QUANT_LLM_C_CUDARUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QUANT_LLM_CUDA_EXPORTED __attribute__((visibility("default")))
#else
#define QUANT_LLM_CUDA_EXPORTED
#endif

typedef enum QuantLLMCudaStatus {
  QUANT_LLM_CUDA_OK = 0,
  /* An argument is wrong: an index, a number of tokens, a buffer. */
  QUANT_LLM_CUDA_INVALID_ARGUMENT = 1,
  /* A file of the artifact is missing or wrong. */
  QUANT_LLM_CUDA_INVALID_ARTIFACT = 2,
  /* No CUDA driver, no such device, or one that the kernels are not for. */
  QUANT_LLM_CUDA_UNAVAILABLE = 3,
  /* A call of the driver failed. */
  QUANT_LLM_CUDA_DRIVER_ERROR = 4,
  /* Memory of the host or of the device ran out. */
  QUANT_LLM_CUDA_OUT_OF_MEMORY = 5,
  /* A fault of this library. */
  QUANT_LLM_CUDA_INTERNAL_ERROR = 6,
} QuantLLMCudaStatus;

/* What the last function that failed in this thread had to say; valid until the
 * next one fails here. Never NULL. */
QUANT_LLM_CUDA_EXPORTED const char *quantLLMCudaGetLastError(void);

/* The version of quant-llm, such as "0.1.0". */
QUANT_LLM_CUDA_EXPORTED const char *quantLLMCudaGetVersion(void);

/*===----------------------------------------------------------------------===*\
|* Artifacts                                                                  *|
\*===----------------------------------------------------------------------===*/

typedef struct QuantLLMCudaArtifact QuantLLMCudaArtifact;

/* Opens and checks a directory (or its manifest.json); needs no GPU. `archive`
 * is the path of the packed weights if they are not where the manifest says, or
 * NULL. */
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaArtifactOpen(
    const char *path, const char *archive, QuantLLMCudaArtifact **artifact);
/* May be called while modules made from it live on. NULL may be destroyed. */
QUANT_LLM_CUDA_EXPORTED void
quantLLMCudaArtifactDestroy(QuantLLMCudaArtifact *artifact);

/* The chip it was compiled for, such as "sm_90a". */
QUANT_LLM_CUDA_EXPORTED const char *
quantLLMCudaArtifactGetChip(const QuantLLMCudaArtifact *artifact);
/* Device memory of all weights. */
QUANT_LLM_CUDA_EXPORTED uint64_t
quantLLMCudaArtifactGetWeightBytes(const QuantLLMCudaArtifact *artifact);

/* A linear layer. Strings live as long as the artifact. */
typedef struct QuantLLMCudaLinear {
  const char *name;
  /* y [m, n] = epilogue(x [m, k] * W^T), W [n, k] */
  int64_t n;
  int64_t k;
  /* 1, or 2 for a gated pair. */
  size_t numWeights;
  size_t numEpilogueOperands;
  size_t numVariants;
  /* As in schemeName: "int4, block = [1, 128], ...". */
  const char *scheme;
  /* "f16", "bf16"; of y also "f32". */
  const char *activation;
  const char *output;
} QuantLLMCudaLinear;

/* An operand of the epilogue: [n], or [m, n] if `perElement` is not 0. Of a
 * grouped layer [numExperts * n], or [m, n]. */
typedef struct QuantLLMCudaEpilogueOperand {
  const char *type;
  int perElement;
} QuantLLMCudaEpilogueOperand;

/* Token counts, both included, and the kernel that runs for them. */
typedef struct QuantLLMCudaVariant {
  int64_t minTokens;
  int64_t maxTokens;
  const char *kernel;
} QuantLLMCudaVariant;

QUANT_LLM_CUDA_EXPORTED size_t
quantLLMCudaArtifactGetNumLinears(const QuantLLMCudaArtifact *artifact);
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus
quantLLMCudaArtifactGetLinear(const QuantLLMCudaArtifact *artifact,
                              size_t linear, QuantLLMCudaLinear *result);
/* The experts of a grouped linear layer (a mixture of experts): tokens are
 * sorted by expert, and n are the outputs of one. */
typedef struct QuantLLMCudaGrouping {
  /* 0 for a layer that is not grouped. */
  int64_t numExperts;
  /* "i32" or "i64"; "" for a layer that is not grouped. */
  const char *offsets;
  /* Bytes of numExperts + 1 offsets. */
  uint64_t offsetsBytes;
} QuantLLMCudaGrouping;

QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus
quantLLMCudaArtifactGetGrouping(const QuantLLMCudaArtifact *artifact,
                                size_t linear, QuantLLMCudaGrouping *result);

QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaArtifactFindLinear(
    const QuantLLMCudaArtifact *artifact, const char *name, size_t *linear);
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus
quantLLMCudaArtifactGetEpilogueOperand(const QuantLLMCudaArtifact *artifact,
                                       size_t linear, size_t operand,
                                       QuantLLMCudaEpilogueOperand *result);
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaArtifactGetVariant(
    const QuantLLMCudaArtifact *artifact, size_t linear, size_t variant,
    QuantLLMCudaVariant *result);

/*===----------------------------------------------------------------------===*\
|* Modules                                                                    *|
\*===----------------------------------------------------------------------===*/

typedef struct QuantLLMCudaModule QuantLLMCudaModule;

/* Zero and NULL everywhere are the defaults. */
typedef struct QuantLLMCudaModuleOptions {
  /* Ordinal of the device. Its primary context is used, that of PyTorch and of
   * the CUDA runtime. */
  int device;
  /* Library of the CUDA driver: NULL means $QUANT_LLM_CUDA_DRIVER, or
   * libcuda.so.1. */
  const char *driver;
  /* Device memory for the weights, aligned to 256 bytes, of at least
   * quantLLMCudaArtifactGetWeightBytes() bytes, which the module keeps using;
   * NULL means that the module allocates it. Nothing else may write it as long
   * as the module lives: launches read it before they wait for what is before
   * them in the stream. */
  void *weightMemory;
  uint64_t weightMemoryBytes;
  /* Not 0: loads only kernels; every launch brings its weights
   * (quantLLMCudaModuleLaunchWithWeights, or ...WithOptions). */
  int withoutWeights;
} QuantLLMCudaModuleOptions;

/* Loads the kernels and copies the weights to the device. `options` may be
 * NULL. */
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaModuleCreate(
    const QuantLLMCudaArtifact *artifact,
    const QuantLLMCudaModuleOptions *options, QuantLLMCudaModule **module);
/* No launch may be running. NULL may be destroyed. */
QUANT_LLM_CUDA_EXPORTED void
quantLLMCudaModuleDestroy(QuantLLMCudaModule *module);

/* The name of the device, such as "NVIDIA H100 80GB HBM3". */
QUANT_LLM_CUDA_EXPORTED const char *
quantLLMCudaModuleGetDeviceName(const QuantLLMCudaModule *module);

typedef struct QuantLLMCudaPlan {
  size_t linear;
  int64_t m;
  /* NULL for m = 0: nothing is launched. Lives as long as the artifact. */
  const char *kernel;
  uint32_t grid[3];
  uint32_t threads;
  uint32_t cluster;
  uint32_t sharedBytes;
  /* Bytes of the buffers of a launch. */
  uint64_t xBytes;
  uint64_t yBytes;
  uint64_t workspaceBytes;
} QuantLLMCudaPlan;

/* What the linear layer launches for m tokens, 0 included. */
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus
quantLLMCudaModulePlan(const QuantLLMCudaModule *module, size_t linear,
                       int64_t m, QuantLLMCudaPlan *plan);

/* Device memory of the caller: at an address that is a multiple of 16. */
typedef struct QuantLLMCudaBuffer {
  void *data;
  uint64_t bytes;
} QuantLLMCudaBuffer;

typedef struct QuantLLMCudaOperands {
  /* Contiguous row-major [m, k] and [m, n], different memory. */
  QuantLLMCudaBuffer x;
  QuantLLMCudaBuffer y;
  /* To be filled with zeros once, before the first launch that uses it; every
   * launch leaves it so. Launches that may run at the same time need one each.
   * Not looked at if the plan says 0 bytes. */
  QuantLLMCudaBuffer workspace;
  /* One for each operand of the epilogue; may be NULL if there are none. */
  const QuantLLMCudaBuffer *epilogue;
  size_t numEpilogue;
} QuantLLMCudaOperands;

/* Launches a plan of this module on a CUDA stream (a CUstream or cudaStream_t;
 * NULL is the default stream) of the device's primary context.
 *
 * Where chip and driver allow it, the kernel starts while the kernel before it
 * in the stream ends. It then reads the weights of the module, which nobody
 * writes, and waits for what is before it in the stream before it touches any
 * other memory: for operands everything is as in any launch. */
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaModuleLaunch(
    const QuantLLMCudaModule *module, const QuantLLMCudaPlan *plan,
    void *stream, const QuantLLMCudaOperands *operands);

/* A packed weight in device memory of the caller's: what docs/Weights.md calls
 * its components. `packedZeros` is not looked at if the scheme has no zeros. */
typedef struct QuantLLMCudaWeight {
  QuantLLMCudaBuffer packed;
  QuantLLMCudaBuffer packedScales;
  QuantLLMCudaBuffer packedZeros;
  float outputScale;
} QuantLLMCudaWeight;

/* Bytes that the components of each weight of a linear layer have. */
typedef struct QuantLLMCudaWeightBytes {
  uint64_t packed;
  uint64_t packedScales;
  uint64_t packedZeros;
} QuantLLMCudaWeightBytes;

QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaArtifactGetBytesOfWeight(
    const QuantLLMCudaArtifact *artifact, size_t linear,
    QuantLLMCudaWeightBytes *result);

/* As quantLLMCudaModuleLaunch, with one or two weights instead of those of the
 * module. They may change between launches: the kernel starts when what is
 * before it in the stream has ended. */
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaModuleLaunchWithWeights(
    const QuantLLMCudaModule *module, const QuantLLMCudaPlan *plan,
    void *stream, const QuantLLMCudaOperands *operands,
    const QuantLLMCudaWeight *weights, size_t numWeights);

/* quantLLMCudaModuleLaunch for a plan of a grouped layer. Tokens offsets[e] to
 * before offsets[e + 1] of x are those of expert e: offsets ascend from 0 to m,
 * and are device memory at a multiple of their size. They are read by the
 * kernel, which makes one launch of all experts; if they are wrong, some of y
 * is not written or has other values, but no other memory is touched. */
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaModuleLaunchGrouped(
    const QuantLLMCudaModule *module, const QuantLLMCudaPlan *plan,
    void *stream, const QuantLLMCudaOperands *operands,
    const QuantLLMCudaBuffer *offsets);

/* Zero and NULL everywhere are the defaults. */
typedef struct QuantLLMCudaLaunchOptions {
  /* As quantLLMCudaModuleLaunchWithWeights; NULL: the weights of the module. */
  const QuantLLMCudaWeight *weights;
  size_t numWeights;
  /* As quantLLMCudaModuleLaunchGrouped, without `weights`; NULL for a layer
   * that is not grouped. */
  const QuantLLMCudaBuffer *offsets;
  /* Not 0: the kernel starts when what is before it in the stream has ended,
   * even if it could start before. */
  int plain;
  /* Not 0: the caller promises that `weights` are constant, so that the kernel
   * may start, and read them, before. What writes them must have ended when the
   * launch is made, or there must be a kernel between the two in the stream
   * that is launched plainly. A wrong promise gives wrong numbers, rarely. */
  int constantWeights;
} QuantLLMCudaLaunchOptions;

/* quantLLMCudaModuleLaunch with all that may be said of a launch. `options` may
 * be NULL. */
QUANT_LLM_CUDA_EXPORTED QuantLLMCudaStatus quantLLMCudaModuleLaunchWithOptions(
    const QuantLLMCudaModule *module, const QuantLLMCudaPlan *plan,
    void *stream, const QuantLLMCudaOperands *operands,
    const QuantLLMCudaLaunchOptions *options);

#ifdef __cplusplus
}
#endif

#endif /* QUANT_LLM_C_CUDARUNTIME_H */
