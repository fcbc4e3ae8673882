//===- TestArtifact.h - An artifact and a driver for tests ------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TEST_UNIT_RUNTIME_CUDA_TESTARTIFACT_H
#define QUANT_LLM_TEST_UNIT_RUNTIME_CUDA_TESTARTIFACT_H

#include "../../TestFiles.h"
#include "FakeDriver.h"

#include "quant-llm/Formats/Safetensors.h"
#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Packing/FragmentLayout.h"
#include "quant-llm/Support/Sha256.h"

#include <nlohmann/json.hpp>

#include <dlfcn.h>

namespace quant_llm::test {

/// The fake driver, as new.
inline FakeCuda &resetFakeCuda() {
  static void *handle = ::dlopen(FAKE_CUDA_DRIVER, RTLD_NOW);
  EXPECT_NE(handle, nullptr) << ::dlerror();
  reinterpret_cast<FakeCudaReset>(::dlsym(handle, "fakeCudaReset"))();
  return *reinterpret_cast<FakeCudaGet>(::dlsym(handle, "fakeCudaGet"))();
}

/// The linears of the test artifact, in this order:
///   gate_up  [48, 200] x 2, int4 g32, a bias and a residual; kernels few
///   (1..16
///            tokens, tensor map, clusters) and many (17..4096, persistent, a
///            workspace)
///   zeros    [17, 100], uint3 g32 with integer zeros, kernel zeros
///   shared   the first weight of gate_up alone, kernel plain
class TestArtifact {
public:
  TestArtifact() {
    using nlohmann::json;
    json few = {{"name", "few"},
                {"threads", 160},
                {"shared_bytes", 100000},
                {"cluster", 2},
                {"token_tile", 16},
                {"row_tile", 16},
                {"split", 2},
                {"grid", "tiles"},
                {"args",
                 {"tensor_map_x", "packed0", "packed_scales0", "output_scale0",
                  "packed1", "packed_scales1", "output_scale1", "y",
                  "epilogue0", "epilogue1", "m"}},
                {"tensor_map_x",
                 {{"box_k", 64}, {"box_tokens", 16}, {"swizzle", 128}}}};
    json many = few;
    many.update(
        {{"name", "many"},
         {"cluster", 1},
         {"token_tile", 64},
         {"split", 1},
         {"grid", "persistent"},
         {"workspace_bytes", 100},
         {"workspace_bytes_per_tile", 8},
         {"tensor_map_x", {{"box_k", 32}, {"box_tokens", 64}, {"swizzle", 64}}},
         {"args",
          {"tensor_map_x", "x", "packed0", "packed_scales0", "output_scale0",
           "packed1", "packed_scales1", "output_scale1", "y", "workspace",
           "epilogue0", "epilogue1", "m"}}});
    json zeros = {{"name", "zeros"},
                  {"threads", 128},
                  {"shared_bytes", 0},
                  {"token_tile", 8},
                  {"row_tile", 64},
                  {"grid", "tiles"},
                  {"args",
                   {"x", "packed0", "packed_scales0", "packed_zeros0",
                    "output_scale0", "y", "m"}}};
    json plain = zeros;
    plain["name"] = "plain";
    plain["args"] = {"x", "packed0", "packed_scales0", "output_scale0",
                     "y", "m"};
    kernelFile = "\177ELF few:128,8,8,4,8,8,4,8,8,8,4 "
                 "many:128,8,8,8,4,8,8,4,8,8,8,8,4 zeros:8,8,8,8,4,8,4 "
                 "plain:8,8,8,4,8,4";
    for (json *kernel : {&few, &many, &zeros, &plain}) {
      (*kernel)["file"] = "kernels.cubin";
      (*kernel)["sha256"] = sha256Hex(kernelFile.data(), kernelFile.size());
    }
    const char *g32 = "int4, block = [1, 32], scale = f16";
    json packed = {{"archive", "packed.safetensors"}, {"keys", {"gate", "up"}}};
    manifest = {
        {"schema", "quant_llm.manifest/1"},
        {"chip", "sm_90a"},
        {"producer", "test"},
        {"kernels", {few, many, zeros, plain}},
        {"linears",
         {{{"name", "gate_up"},
           {"n", 48},
           {"k", 200},
           {"scheme", g32},
           {"activation", "f16"},
           {"output", "f16"},
           {"weights", {"gate.weight", "up.weight"}},
           {"epilogue",
            {{{"type", "f32"}}, {{"type", "f16"}, {"per_element", true}}}},
           {"packed", packed},
           {"variants",
            {{{"tokens", {1, 16}}, {"kernel", "few"}},
             {{"tokens", {17, 4096}}, {"kernel", "many"}}}}},
          {{"name", "zeros"},
           {"n", 17},
           {"k", 100},
           {"scheme", "uint3, block = [1, 32], scale = bf16, zero = int"},
           {"activation", "bf16"},
           {"output", "f32"},
           {"weights", json::array({"zeros.weight"})},
           {"packed",
            {{"archive", "packed.safetensors"},
             {"keys", json::array({"zeros"})}}},
           {"variants",
            json::array({{{"tokens", {1, INT64_MAX}}, {"kernel", "zeros"}}})}},
          {{"name", "shared"},
           {"n", 48},
           {"k", 200},
           {"scheme", g32},
           {"activation", "f16"},
           {"output", "f16"},
           {"weights", json::array({"gate.weight"})},
           {"packed",
            {{"archive", "packed.safetensors"},
             {"keys", json::array({"gate"})}}},
           {"variants",
            json::array({{{"tokens", {1, 100}}, {"kernel", "plain"}}})}}}}};
    addWeight("gate", g32, 48, 200, 1);
    addWeight("up", g32, 48, 200, 2);
    addWeight("zeros", "uint3, block = [1, 32], scale = bf16, zero = int", 17,
              100, 3);
    write();
  }

  /// Writes all files; to be called after a change.
  void write() {
    writeFile(directory / "manifest.json", manifest.dump());
    writeFile(directory / "kernels.cubin", kernelFile);
    std::vector<TensorDeclaration> declarations;
    for (const auto &[name, tensor] : tensors)
      declarations.push_back({name, tensor.dtype, tensor.shape});
    Result<SafetensorsWriter> writer = SafetensorsWriter::create(
        directory / "packed.safetensors", declarations);
    ASSERT_TRUE(writer.ok()) << writer.message();
    for (const auto &[name, tensor] : tensors) {
      Status status =
          writer->append(name, tensor.bytes.data(), tensor.bytes.size());
      ASSERT_TRUE(status.ok()) << status.message();
    }
    Status status = writer->finish();
    ASSERT_TRUE(status.ok()) << status.message();
  }

  /// Makes four experts of 12 rows of the linear `shared`, whose kernel then
  /// has the offsets before y; to be written.
  void makeExperts() {
    linear(2).update({{"kind", "grouped_linear"},
                      {"n", 12},
                      {"experts", 4},
                      {"offsets", "i32"},
                      {"epilogue", {{{"type", "f16"}}}}});
    kernel(3)["args"] = {
        "x",       "packed0", "packed_scales0", "output_scale0",
        "offsets", "y",       "epilogue0",      "m"};
    kernelFile.replace(kernelFile.find("plain:"), std::string::npos,
                       "plain:8,8,8,4,8,8,8,4");
    for (nlohmann::json &kernel : manifest["kernels"])
      kernel["sha256"] = sha256Hex(kernelFile.data(), kernelFile.size());
  }

  nlohmann::json &kernel(size_t i) { return manifest["kernels"][i]; }
  nlohmann::json &linear(size_t i) { return manifest["linears"][i]; }

  struct Tensor {
    DType dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };

  TempDir directory;
  nlohmann::json manifest;
  std::string kernelFile;
  std::map<std::string, Tensor> tensors;

private:
  void addWeight(const std::string &key, const char *text, int64_t n, int64_t k,
                 unsigned seed) {
    Result<Scheme> scheme = parseScheme(text);
    ASSERT_TRUE(scheme.ok()) << scheme.message();
    std::vector<float> values;
    for (int64_t i = 0; i < n * k; ++i)
      values.push_back(static_cast<float>((i * 7919 + seed) % 1009) / 1009 -
                       0.5f);
    MatrixView view{values.data(), SourceType::F32, n, k};
    Result<QuantizedMatrix> matrix = quantize(view, *scheme, key, 1);
    ASSERT_TRUE(matrix.ok()) << matrix.message();
    Result<PackedWeight> packed = packWeight(matrix->view(), *scheme, 1);
    ASSERT_TRUE(packed.ok()) << packed.message();
    Result<FragmentLayout> layout = FragmentLayout::get(*scheme, n, k);
    ASSERT_TRUE(layout.ok()) << layout.message();
    for (const PackedComponentInfo &info : layout->getComponents()) {
      std::string bytes;
      auto text = [](const std::vector<uint8_t> &data) {
        return std::string(data.begin(), data.end());
      };
      switch (info.kind) {
      case PackedComponentKind::Codes:
        bytes = text(packed->codes);
        break;
      case PackedComponentKind::Scales:
        bytes = text(packed->scales);
        break;
      case PackedComponentKind::Zeros:
        bytes = text(packed->zeros);
        break;
      case PackedComponentKind::OutputScale:
        bytes = le(packed->outputScale);
        break;
      }
      DType dtype = info.isBytes                   ? DType::U8
                    : info.type == FloatType::F16  ? DType::F16
                    : info.type == FloatType::BF16 ? DType::BF16
                                                   : DType::F32;
      tensors[key + info.suffix] = {dtype, info.shape, bytes};
    }
  }
};

} // namespace quant_llm::test

#endif // QUANT_LLM_TEST_UNIT_RUNTIME_CUDA_TESTARTIFACT_H
