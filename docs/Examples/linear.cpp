// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "quant-llm/Runtime/CUDA/Module.h"

#include <cstdio>
#include <cstdlib>
#include <string>

using namespace quant_llm;
using namespace quant_llm::cuda;

static void check(const CudaStatus &status) {
  if (!status.ok()) {
    std::fprintf(stderr, "error: %s\n", status.message().c_str());
    std::exit(1);
  }
}

// linear ARTIFACT NAME M: a layer on m rows of numbers.
int main(int argc, char **argv) {
  // 0 rows are legal as well, and launch nothing.
  int m = argc == 4 ? std::atoi(argv[3]) : 0;
  if (m < 1) {
    std::fprintf(stderr, "usage: %s ARTIFACT NAME M (M rows, at least 1)\n",
                 argv[0]);
    return 2;
  }
  std::shared_ptr<const Artifact> artifact;
  std::unique_ptr<Module> module;
  check(Artifact::open(argv[1], {}, artifact)); // needs no GPU
  check(Module::create(artifact, {}, module));  // on device 0
  const auto &linears = artifact->getManifest().linears;
  size_t index = 0;
  while (index < linears.size() && linears[index].name != argv[2])
    ++index;
  Plan plan;
  check(module->plan(index, m, plan));

  // The driver that the module has loaded; any memory of the device will do.
  const Driver &driver = module->getDevice().getDriver();
  CurrentContext current(module->getDevice());
  check(current.status());
  auto call = [&](int code, const char *name) {
    check(driver.check(code, name));
  };
  DevicePointer x = 0, y = 0, workspace = 0;
  uint64_t workspaceBytes = plan.geometry.workspaceBytes;
  call(driver.memAlloc(&x, plan.xBytes), "cuMemAlloc");
  call(driver.memAlloc(&y, plan.yBytes), "cuMemAlloc");
  if (workspaceBytes > 0) {
    call(driver.memAlloc(&workspace, workspaceBytes), "cuMemAlloc");
    call(driver.fillBytes(workspace, 0, workspaceBytes), "cuMemsetD8");
  }
  std::vector<uint16_t> input(plan.xBytes / 2), output(plan.yBytes / 2);
  for (size_t i = 0; i < input.size(); ++i)
    input[i] = i % 3 ? 0x3800 : 0xb800; // 0.5 and -0.5 in f16
  call(driver.copyToDevice(x, input.data(), plan.xBytes), "cuMemcpyHtoD");

  LaunchOperands operands;
  operands.x = {x, plan.xBytes};
  operands.y = {y, plan.yBytes};
  operands.workspace = {workspace, workspaceBytes};
  Stream stream = nullptr; // the default stream
  check(module->launch(plan, stream, operands));
  call(driver.streamSynchronize(stream), "cuStreamSynchronize");
  call(driver.copyToHost(output.data(), y, plan.yBytes), "cuMemcpyDtoH");

  uint32_t sum = 0;
  for (uint16_t value : output)
    sum = sum * 31 + value;
  const LinearDescription &layer = linears[index];
  std::printf("%s [%lld, %lld] on %s: kernel %s, y[0] = %04x, checksum %08x\n",
              layer.name.c_str(), static_cast<long long>(layer.n),
              static_cast<long long>(layer.k), module->getDevice().name.c_str(),
              plan.kernel->name.c_str(), output[0], sum);
  for (DevicePointer memory : {x, y, workspace})
    if (memory)
      call(driver.memFree(memory), "cuMemFree");
  return 0;
}
