/* Part of the quant-llm project, under the Apache License v2.0 with LLVM
 * Exceptions. See LICENSE for license information.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */

#include "quant-llm-c/CudaRuntime.h"
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>

static void check(QuantLLMCudaStatus status) {
  if (status != QUANT_LLM_CUDA_OK) {
    fprintf(stderr, "error: %s\n", quantLLMCudaGetLastError());
    exit(1);
  }
}

static void checkDriver(CUresult code) {
  if (code != CUDA_SUCCESS) {
    fprintf(stderr, "error: the driver says %d\n", (int)code);
    exit(1);
  }
}

/* linear ARTIFACT NAME M: a layer on m rows of numbers. */
int main(int argc, char **argv) {
  /* 0 rows are legal as well, and launch nothing. */
  int m = argc == 4 ? atoi(argv[3]) : 0;
  if (m < 1) {
    fprintf(stderr, "usage: %s ARTIFACT NAME M (M rows, at least 1)\n",
            argv[0]);
    return 2;
  }
  QuantLLMCudaArtifact *artifact;
  QuantLLMCudaModule *module;
  QuantLLMCudaLinear layer;
  QuantLLMCudaPlan plan;
  size_t index;
  check(quantLLMCudaArtifactOpen(argv[1], NULL, &artifact)); /* needs no GPU */
  check(quantLLMCudaArtifactFindLinear(artifact, argv[2], &index));
  check(quantLLMCudaArtifactGetLinear(artifact, index, &layer));
  check(quantLLMCudaModuleCreate(artifact, NULL, &module)); /* on device 0 */
  check(quantLLMCudaModulePlan(module, index, m, &plan));

  /* Memory of the device's primary context, as the CUDA runtime has it. */
  CUdevice device;
  CUcontext context;
  CUdeviceptr x, y, workspace = 0;
  checkDriver(cuInit(0));
  checkDriver(cuDeviceGet(&device, 0));
  checkDriver(cuDevicePrimaryCtxRetain(&context, device));
  checkDriver(cuCtxPushCurrent(context));
  checkDriver(cuMemAlloc(&x, plan.xBytes));
  checkDriver(cuMemAlloc(&y, plan.yBytes));
  if (plan.workspaceBytes > 0) {
    checkDriver(cuMemAlloc(&workspace, plan.workspaceBytes));
    checkDriver(cuMemsetD8(workspace, 0, plan.workspaceBytes));
  }
  uint16_t *host =
      malloc(plan.xBytes > plan.yBytes ? plan.xBytes : plan.yBytes);
  if (!host)
    return 1;
  for (uint64_t i = 0; i < plan.xBytes / 2; ++i)
    host[i] = i % 3 ? 0x3800 : 0xb800; /* 0.5 and -0.5 in f16 */
  checkDriver(cuMemcpyHtoD(x, host, plan.xBytes));

  QuantLLMCudaOperands operands = {{(void *)x, plan.xBytes},
                                   {(void *)y, plan.yBytes},
                                   {(void *)workspace, plan.workspaceBytes},
                                   NULL,
                                   0};
  CUstream stream = NULL; /* the default stream */
  check(quantLLMCudaModuleLaunch(module, &plan, stream, &operands));
  checkDriver(cuStreamSynchronize(stream));
  checkDriver(cuMemcpyDtoH(host, y, plan.yBytes));

  uint32_t sum = 0;
  for (uint64_t i = 0; i < plan.yBytes / 2; ++i)
    sum = sum * 31 + host[i];
  printf("%s [%lld, %lld] on %s: kernel %s, y[0] = %04x, checksum %08x\n",
         layer.name, (long long)layer.n, (long long)layer.k,
         quantLLMCudaModuleGetDeviceName(module), plan.kernel, host[0], sum);

  free(host);
  cuMemFree(x);
  cuMemFree(y);
  if (workspace)
    cuMemFree(workspace);
  cuDevicePrimaryCtxRelease(device);
  quantLLMCudaModuleDestroy(module);
  quantLLMCudaArtifactDestroy(artifact);
  return 0;
}
