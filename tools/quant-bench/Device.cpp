//===- Device.cpp ---------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Device.h"

#include "quant-llm/Support/Rounding.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <dlfcn.h>

using namespace quant_llm;
using namespace quant_llm::bench;
using cuda::DevicePointer;
using cuda::Driver;

//===----------------------------------------------------------------------===//
// DeviceMemory
//===----------------------------------------------------------------------===//

Status DeviceMemory::allocate(const Driver &from, uint64_t bytes) {
  reset();
  Status status = from.check(
      from.memAlloc(&pointer, std::max<uint64_t>(bytes, 1)), "cuMemAlloc");
  if (status.ok())
    driver = &from;
  return status.withContext("cannot allocate " + std::to_string(bytes) +
                            " bytes on the device");
}

void DeviceMemory::reset() {
  if (driver)
    (void)driver->memFree(pointer);
  driver = nullptr;
  pointer = 0;
}

//===----------------------------------------------------------------------===//
// Timer
//===----------------------------------------------------------------------===//

Result<std::unique_ptr<Timer>> Timer::create(const cuda::DeviceContext &device,
                                             int64_t replays) {
  std::unique_ptr<Timer> timer(new Timer(device, replays));
  const Driver &driver = timer->getDriver();
  Status status = driver.check(
      driver.streamCreate(&timer->stream, /*CU_STREAM_NON_BLOCKING=*/1),
      "cuStreamCreate");
  if (status.ok())
    status =
        driver.check(driver.eventCreate(&timer->begin, 0), "cuEventCreate");
  if (status.ok())
    status = driver.check(driver.eventCreate(&timer->end, 0), "cuEventCreate");
  if (!status.ok())
    return status;
  return timer;
}

Timer::~Timer() {
  const Driver &driver = getDriver();
  if (begin)
    (void)driver.eventDestroy(begin);
  if (end)
    (void)driver.eventDestroy(end);
  if (stream)
    (void)driver.streamDestroy(stream);
}

Result<Timing> Timer::time(int64_t count,
                           const std::function<Status(int64_t)> &launch,
                           int64_t wanted) {
  const Driver &driver = getDriver();
  // Once outside of the graph: errors show, and code is loaded.
  Status status = launch(0);
  if (status.ok())
    status =
        driver.check(driver.streamSynchronize(stream), "cuStreamSynchronize");
  if (status.ok())
    status = driver.check(
        driver.streamBeginCapture(stream, /*CU_STREAM_CAPTURE_MODE_RELAXED=*/2),
        "cuStreamBeginCapture");
  if (!status.ok())
    return status;
  for (int64_t i = 0; i < count && status.ok(); ++i)
    status = launch(i);
  // The capture must end in any case.
  cuda::Graph graph = nullptr;
  cuda::GraphExec exec = nullptr;
  Status ended = driver.check(driver.streamEndCapture(stream, &graph),
                              "cuStreamEndCapture");
  if (status.ok())
    status = ended;
  if (status.ok())
    status = driver.check(driver.graphInstantiate(&exec, graph, 0),
                          "cuGraphInstantiate");
  const int64_t warmup = 3;
  int64_t rounds = warmup + (wanted > 0 ? wanted : replays);
  std::vector<double> times;
  for (int64_t i = 0; i < rounds && status.ok(); ++i) {
    const std::pair<int, const char *> calls[] = {
        {driver.eventRecord(begin, stream), "cuEventRecord"},
        {driver.graphLaunch(exec, stream), "cuGraphLaunch"},
        {driver.eventRecord(end, stream), "cuEventRecord"},
        {driver.eventSynchronize(end), "cuEventSynchronize"}};
    for (const auto &[code, call] : calls)
      if (status.ok())
        status = driver.check(code, call);
    float milliseconds = 0;
    if (status.ok())
      status = driver.check(driver.eventElapsed(&milliseconds, begin, end),
                            "cuEventElapsedTime");
    if (i >= warmup)
      times.push_back(milliseconds * 1000.0 / static_cast<double>(count));
  }
  if (exec)
    (void)driver.graphExecDestroy(exec);
  if (graph)
    (void)driver.graphDestroy(graph);
  if (!status.ok())
    return status;
  std::sort(times.begin(), times.end());
  size_t middle = times.size() / 2;
  double median = times.size() % 2 ? times[middle]
                                   : (times[middle - 1] + times[middle]) / 2;
  return Timing{median, times.front(), times.back()};
}

int64_t Timer::getNumCopies(uint64_t bytes) const {
  uint64_t cache = 4 * static_cast<uint64_t>(device.l2Bytes);
  return static_cast<int64_t>(
      std::min<uint64_t>(1024, cache / std::max<uint64_t>(bytes, 1) + 1));
}

//===----------------------------------------------------------------------===//
// MachineLimits
//===----------------------------------------------------------------------===//

/// PTX of a kernel that reads n vectors of 16 bytes once, `unroll` at a time. A
/// yardstick: what is bound by memory cannot be faster.
static std::string getReadKernel(int unroll) {
  auto load = [](int i) {
    std::string registers;
    for (int j = 0; j < 4; ++j)
      registers += (j ? ",%v" : "%v") + std::to_string(4 * i + j);
    return "  ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {" + registers +
           "}, [%rd5];\n";
  };
  auto fold = [](int i) {
    std::string text;
    for (int j = 0; j < 4; ++j)
      text += "  xor.b32 %r5, %r5, %v" + std::to_string(4 * i + j) + ";\n";
    return text;
  };
  std::string body;
  for (int i = 0; i < unroll; ++i)
    body += load(i) + "  add.s64 %rd5, %rd5, %rd6;\n";
  for (int i = 0; i < unroll; ++i)
    body += fold(i);
  return ".visible .entry read_" + std::to_string(unroll) +
         "(.param .u64 p, .param .u64 n, .param .u64 out)\n{\n"
         "  .reg .pred %p<3>;\n  .reg .b32 %r<8>;\n  .reg .b64 %rd<16>;\n"
         "  .reg .b32 %v<" +
         std::to_string(4 * unroll) +
         ">;\n"
         "  ld.param.u64 %rd1, [p];\n"
         "  ld.param.u64 %rd2, [n];\n"
         "  ld.param.u64 %rd3, [out];\n"
         "  cvta.to.global.u64 %rd1, %rd1;\n"
         "  cvta.to.global.u64 %rd3, %rd3;\n"
         "  mov.u32 %r1, %ctaid.x;\n"
         "  mov.u32 %r2, %ntid.x;\n"
         "  mov.u32 %r3, %tid.x;\n"
         "  mov.u32 %r4, %nctaid.x;\n"
         "  mul.wide.u32 %rd7, %r1, %r2;\n"
         "  cvt.u64.u32 %rd8, %r3;\n"
         "  add.s64 %rd7, %rd7, %rd8;\n"    // index of the thread's vector
         "  mul.wide.u32 %rd9, %r4, %r2;\n" // threads
         "  shl.b64 %rd6, %rd9, 4;\n"
         "  mul.lo.s64 %rd10, %rd9, " +
         std::to_string(unroll) +
         ";\n"
         "  mul.lo.s64 %rd11, %rd9, " +
         std::to_string(unroll - 1) +
         ";\n"
         "  mov.b32 %r5, 0;\n"
         "LOOP:\n"
         "  add.s64 %rd12, %rd7, %rd11;\n"
         "  setp.ge.u64 %p1, %rd12, %rd2;\n"
         "  @%p1 bra TAIL;\n"
         "  shl.b64 %rd5, %rd7, 4;\n"
         "  add.s64 %rd5, %rd5, %rd1;\n" +
         body +
         "  add.s64 %rd7, %rd7, %rd10;\n"
         "  bra LOOP;\n"
         "TAIL:\n"
         "  setp.ge.u64 %p1, %rd7, %rd2;\n"
         "  @%p1 bra DONE;\n"
         "  shl.b64 %rd5, %rd7, 4;\n"
         "  add.s64 %rd5, %rd5, %rd1;\n" +
         load(0) + fold(0) +
         "  add.s64 %rd7, %rd7, %rd9;\n"
         "  bra TAIL;\n"
         "DONE:\n"
         // Never true of random data, but nobody can know.
         "  setp.ne.u32 %p2, %r5, 0x12345679;\n"
         "  @%p2 bra END;\n"
         "  st.global.u32 [%rd3], %r5;\n"
         "END:\n"
         "  ret;\n}\n";
}

static constexpr int unrolls[] = {4, 8};

Result<std::unique_ptr<MachineLimits>> MachineLimits::create(Timer &timer) {
  std::unique_ptr<MachineLimits> limits(new MachineLimits(timer));
  const Driver &driver = timer.getDriver();
  std::string text = ".version 7.4\n.target sm_80\n.address_size 64\n";
  for (int unroll : unrolls)
    text += getReadKernel(unroll);
  Status status = driver.check(
      driver.moduleLoad(&limits->module, text.c_str(), 0, nullptr, nullptr),
      "cuModuleLoadDataEx");
  for (int unroll : unrolls)
    if (status.ok())
      status = driver.check(
          driver.moduleGetFunction(&limits->functions[unroll], limits->module,
                                   ("read_" + std::to_string(unroll)).c_str()),
          "cuModuleGetFunction");
  if (!status.ok())
    return status.withContext("kernel of the read limit");
  return limits;
}

MachineLimits::~MachineLimits() {
  if (module)
    (void)timer.getDriver().moduleUnload(module);
}

/// Fills device memory with pseudorandom bytes.
static Status fillRandom(const Driver &driver, DevicePointer to,
                         uint64_t bytes) {
  std::vector<uint64_t> block(1 << 17);
  uint64_t state = 0x9e3779b97f4a7c15u;
  for (uint64_t &word : block) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    word = state;
  }
  uint64_t blockBytes = block.size() * sizeof(uint64_t);
  for (uint64_t at = 0; at < bytes; at += blockBytes) {
    Status status =
        driver.check(driver.copyToDevice(to + at, block.data(),
                                         std::min(blockBytes, bytes - at)),
                     "cuMemcpyHtoD");
    if (!status.ok())
      return status;
  }
  return Status::success();
}

Result<double> MachineLimits::getReadMicroseconds(uint64_t bytes) {
  bytes = (bytes + 255) / 256 * 256;
  if (auto it = known.find(bytes); it != known.end())
    return it->second;
  const Driver &driver = timer.getDriver();
  int64_t copies = timer.getNumCopies(bytes);
  DeviceMemory data, out;
  Status status = data.allocate(driver, bytes * static_cast<uint64_t>(copies));
  if (status.ok())
    status = out.allocate(driver, 256);
  if (status.ok())
    status =
        fillRandom(driver, data.get(), bytes * static_cast<uint64_t>(copies));
  if (!status.ok())
    return status;
  double best = INFINITY;
  for (int unroll : unrolls)
    for (unsigned threads : {256u, 512u})
      for (int perSM : {1, 2, 4}) {
        auto launch = [&](int64_t i) -> Status {
          uint64_t p = data.get() + static_cast<uint64_t>(i % copies) * bytes;
          uint64_t n = bytes / 16, result = out.get();
          void *arguments[] = {&p, &n, &result};
          cuda::LaunchConfig config = {};
          config.gridX =
              static_cast<unsigned>(timer.getDevice().multiprocessors * perSM);
          config.gridY = config.gridZ = config.blockY = config.blockZ = 1;
          config.blockX = threads;
          config.stream = timer.getStream();
          return driver.check(driver.launchKernel(&config, functions[unroll],
                                                  arguments, nullptr),
                              "cuLaunchKernelEx");
        };
        Result<Timing> timing =
            timer.time(std::max<int64_t>(copies, 40), launch, 10);
        if (!timing.ok())
          return timing.status();
        best = std::min(best, timing->median);
      }
  known[bytes] = best;
  return best;
}

Result<double> MachineLimits::getCopyRate() {
  const Driver &driver = timer.getDriver();
  // About 1 GB on a chip of today.
  const uint64_t bytes = 20 * static_cast<uint64_t>(timer.getDevice().l2Bytes);
  DeviceMemory from, to;
  Status status = from.allocate(driver, bytes);
  if (status.ok())
    status = to.allocate(driver, bytes);
  if (status.ok())
    status = fillRandom(driver, from.get(), bytes);
  if (!status.ok())
    return status;
  auto copy = [&](int64_t) -> Status {
    return driver.check(driver.copyOnDeviceAsync(to.get(), from.get(), bytes,
                                                 timer.getStream()),
                        "cuMemcpyDtoDAsync");
  };
  Result<Timing> timing = timer.time(4, copy, 10);
  if (!timing.ok())
    return timing.status();
  return 2.0 * static_cast<double>(bytes) / timing->median / 1e3;
}

//===----------------------------------------------------------------------===//
// Cublas
//===----------------------------------------------------------------------===//

Result<std::unique_ptr<Cublas>> Cublas::load(const std::string &library,
                                             Timer &timer) {
  if (library == "none")
    return std::unique_ptr<Cublas>();
  void *handle = nullptr;
  if (library.empty()) {
    for (const char *name :
         {"libcublas.so.13", "libcublas.so.12", "libcublas.so",
          "/usr/local/cuda/lib64/libcublas.so"})
      if (!handle)
        handle = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
      return std::unique_ptr<Cublas>();
  } else {
    handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      const char *reason = ::dlerror();
      return Status::error("cannot load cuBLAS '" + library +
                           "': " + (reason ? reason : "unknown error"));
    }
  }
  std::unique_ptr<Cublas> made(new Cublas(timer));
  auto create =
      reinterpret_cast<int (*)(void **)>(::dlsym(handle, "cublasCreate_v2"));
  auto setStream = reinterpret_cast<int (*)(void *, void *)>(
      ::dlsym(handle, "cublasSetStream_v2"));
  auto setWorkspace = reinterpret_cast<int (*)(void *, void *, size_t)>(
      ::dlsym(handle, "cublasSetWorkspace_v2"));
  made->destroy =
      reinterpret_cast<int (*)(void *)>(::dlsym(handle, "cublasDestroy_v2"));
  made->gemm =
      reinterpret_cast<decltype(made->gemm)>(::dlsym(handle, "cublasGemmEx"));
  if (!create || !setStream || !setWorkspace || !made->destroy || !made->gemm)
    return Status::error("expected '" +
                         (library.empty() ? "libcublas" : library) +
                         "' to be cuBLAS but it lacks some of its functions");
  // What is recommended for Hopper; a captured launch must not allocate.
  const uint64_t workspaceBytes = 32 << 20;
  Status status = made->workspace.allocate(timer.getDriver(), workspaceBytes);
  if (!status.ok())
    return status;
  int code = create(&made->handle);
  if (code == 0)
    code = setStream(made->handle, timer.getStream());
  if (code == 0)
    code = setWorkspace(made->handle,
                        reinterpret_cast<void *>(made->workspace.get()),
                        workspaceBytes);
  if (code != 0)
    return Status::error("cannot use cuBLAS: status " + std::to_string(code));
  return made;
}

Cublas::~Cublas() {
  if (handle)
    (void)destroy(handle);
}

Result<double>
Cublas::getMicroseconds(int64_t n, int64_t k,
                        const std::vector<std::vector<int64_t>> &tokens,
                        TensorType type) {
  int64_t m = 0, products = 0;
  for (const std::vector<int64_t> &launch : tokens) {
    m = std::max(m, std::accumulate(launch.begin(), launch.end(), int64_t(0)));
    products = std::max(products, static_cast<int64_t>(launch.size()));
  }
  if (n > INT32_MAX || k > INT32_MAX || m > INT32_MAX)
    return Status::error("the product is too large for cuBLAS");
  const Driver &driver = timer.getDriver();
  uint64_t bytes = 2 * static_cast<uint64_t>(n) * static_cast<uint64_t>(k);
  bytes = (bytes + 255) / 256 * 256;
  int64_t copies =
      std::max(products, std::min<int64_t>(64, timer.getNumCopies(bytes)));
  uint64_t weightBytes = bytes * static_cast<uint64_t>(copies);
  DeviceMemory weights, x, y;
  Status status = weights.allocate(driver, weightBytes);
  if (status.ok())
    status = x.allocate(driver, 2 * static_cast<uint64_t>(m * k));
  if (status.ok())
    status = y.allocate(driver, 2 * static_cast<uint64_t>(m * n));
  // Random numbers of the type, half of them negative and none huge: bytes 0x00
  // to 0xff below, sign and exponents near one above.
  std::vector<uint16_t> block(1 << 19);
  uint32_t state = 1;
  for (uint16_t &word : block) {
    state = state * 1664525 + 1013904223;
    word = static_cast<uint16_t>((state >> 16 & 0x83ff) | 0x3800);
  }
  auto fill = [&](const DeviceMemory &memory, uint64_t size) -> Status {
    for (uint64_t at = 0; at < size; at += block.size() * 2) {
      Status copied = driver.check(
          driver.copyToDevice(memory.get() + at, block.data(),
                              std::min<uint64_t>(block.size() * 2, size - at)),
          "cuMemcpyHtoD");
      if (!copied.ok())
        return copied;
    }
    return Status::success();
  };
  if (status.ok())
    status = fill(weights, weightBytes);
  if (status.ok())
    status = fill(x, 2 * static_cast<uint64_t>(m * k));
  if (!status.ok())
    return status;
  const int dataType = type == TensorType::BF16 ? 14 : 2; // CUDA_R_16BF, _16F
  const float one = 1, zero = 0;
  auto multiply = [&](int64_t index, int64_t m) -> Status {
    // Column-major: y^T [n, m] = w [n, k] * x^T [k, m].
    uint64_t weight =
        weights.get() + static_cast<uint64_t>(index % copies) * bytes;
    int code =
        gemm(handle, /*CUBLAS_OP_T=*/1, /*CUBLAS_OP_N=*/0, static_cast<int>(n),
             static_cast<int>(m), static_cast<int>(k), &one,
             reinterpret_cast<void *>(weight), dataType, static_cast<int>(k),
             reinterpret_cast<void *>(x.get()), dataType, static_cast<int>(k),
             &zero, reinterpret_cast<void *>(y.get()), dataType,
             static_cast<int>(n), /*CUBLAS_COMPUTE_32F=*/68,
             /*CUBLAS_GEMM_DEFAULT=*/-1);
    return code == 0 ? Status::success()
                     : Status::error("cublasGemmEx failed: status " +
                                     std::to_string(code));
  };
  auto launch = [&](int64_t i) -> Status {
    const std::vector<int64_t> &list =
        tokens[static_cast<size_t>(i) % tokens.size()];
    Status status;
    for (size_t j = 0; j < list.size() && status.ok(); ++j)
      status = multiply(i * products + static_cast<int64_t>(j), list[j]);
    return status;
  };
  int64_t count = std::max<int64_t>(ceilDiv(copies, products), 20);
  Result<Timing> timing =
      timer.time(roundUp(count, static_cast<int64_t>(tokens.size())), launch);
  if (!timing.ok())
    return timing.status();
  return timing->median;
}
