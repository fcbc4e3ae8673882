//===- ManifestTest.cpp ---------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestArtifact.h"

#include "quant-llm/Runtime/CUDA/Manifest.h"

#include <functional>

using namespace quant_llm;
using namespace quant_llm::cuda;
using namespace quant_llm::test;
using nlohmann::json;

TEST(CudaManifestTest, EverythingIsRead) {
  TestArtifact artifact;
  Result<Manifest> manifest = parseManifest(artifact.manifest.dump());
  ASSERT_TRUE(manifest.ok()) << manifest.message();
  EXPECT_EQ(manifest->chip, "sm_90a");
  EXPECT_EQ(manifest->producer, "test");
  ASSERT_EQ(manifest->kernels.size(), 4u);
  const KernelDescription &few = manifest->kernels[0];
  EXPECT_EQ(few.name, "few");
  EXPECT_EQ(few.file, "kernels.cubin");
  EXPECT_EQ(few.threads, 160);
  EXPECT_EQ(few.sharedBytes, 100000);
  EXPECT_EQ(few.cluster, 2);
  EXPECT_EQ(few.tokenTile, 16);
  EXPECT_EQ(few.rowTile, 16);
  EXPECT_EQ(few.split, 2);
  EXPECT_FALSE(few.persistent);
  ASSERT_TRUE(few.tensorMap.has_value());
  EXPECT_EQ(few.tensorMap->boxK, 64);
  std::string names;
  for (const KernelArgument &argument : few.arguments)
    names += argumentName(argument) + " ";
  EXPECT_EQ(names, "tensor_map_x packed0 packed_scales0 output_scale0 packed1 "
                   "packed_scales1 output_scale1 y epilogue0 epilogue1 m ");
  const KernelDescription &many = manifest->kernels[1];
  EXPECT_TRUE(many.persistent);
  EXPECT_EQ(many.workspaceBytes, 100);
  EXPECT_EQ(many.workspaceBytesPerTile, 8);
  EXPECT_EQ(many.tensorMap->swizzle, 64);
  ASSERT_EQ(manifest->linears.size(), 3u);
  const LinearDescription &linear = manifest->linears[0];
  EXPECT_EQ(linear.name, "gate_up");
  EXPECT_EQ(linear.n, 48);
  EXPECT_EQ(linear.k, 200);
  EXPECT_EQ(linear.scheme.blockK, 32);
  EXPECT_EQ(linear.activation, TensorType::F16);
  ASSERT_EQ(linear.epilogue.size(), 2u);
  EXPECT_EQ(linear.epilogue[0].type, TensorType::F32);
  EXPECT_FALSE(linear.epilogue[0].perElement);
  EXPECT_TRUE(linear.epilogue[1].perElement);
  EXPECT_EQ(linear.archive, "packed.safetensors");
  EXPECT_EQ(linear.keys, (std::vector<std::string>{"gate", "up"}));
  ASSERT_EQ(linear.variants.size(), 2u);
  EXPECT_EQ(linear.variants[1].minTokens, 17);
  EXPECT_EQ(linear.variants[1].maxTokens, 4096);
  EXPECT_EQ(linear.variants[1].kernel, 1u);
  EXPECT_EQ(manifest->linears[1].output, TensorType::F32);
  EXPECT_EQ(manifest->linears[1].scheme.zero, ZeroKind::Integer);
}

TEST(CudaManifestTest, Experts) {
  TestArtifact artifact;
  artifact.makeExperts();
  Result<Manifest> manifest = parseManifest(artifact.manifest.dump());
  ASSERT_TRUE(manifest.ok()) << manifest.message();
  const LinearDescription &linear = manifest->linears[2];
  EXPECT_TRUE(linear.isGrouped());
  EXPECT_EQ(linear.experts, 4);
  EXPECT_EQ(linear.n, 12);
  EXPECT_EQ(linear.getRows(), 48);
  EXPECT_EQ(linear.offsetBytes, 4);
  EXPECT_FALSE(manifest->linears[0].isGrouped());
  EXPECT_EQ(manifest->linears[0].getRows(), 48);

  struct Case {
    std::function<void(json &linear, json &kernel)> change;
    const char *message;
  };
  const Case cases[] = {
      {[](json &linear, json &) { linear["experts"] = 0; },
       "linear 'shared': expected 'experts' to be an integer from 1 to "
       "178956970 but got 0"},
      {[](json &linear, json &) { linear["experts"] = 178956971; },
       "but got 178956971"},
      {[](json &linear, json &) { linear.erase("offsets"); },
       "expected a field 'offsets'"},
      {[](json &linear, json &) { linear["offsets"] = "f32"; },
       "expected 'offsets' to be i32 or i64 but got 'f32'"},
      {[](json &, json &kernel) { kernel["args"].erase(4); },
       "kernel 'plain' is for a linear without experts"},
      {[](json &, json &kernel) { kernel["grid"] = "persistent"; },
       "expected an argument 'offsets' and the grid tiles"},
  };
  for (const Case &test : cases) {
    json changed = artifact.manifest;
    test.change(changed["linears"][2], changed["kernels"][3]);
    Result<Manifest> manifest = parseManifest(changed.dump());
    expectError(manifest.status(), test.message);
  }
}

TEST(CudaManifestTest, Errors) {
  TestArtifact artifact;
  struct Case {
    std::function<void(json &)> change;
    const char *message;
  };
  auto kernel = [](json &m, const char *key) -> json & {
    return m["kernels"][0][key];
  };
  auto linear = [](json &m, const char *key) -> json & {
    return m["linears"][0][key];
  };
  const Case cases[] = {
      {[](json &m) { m = json::array(); },
       "manifest: expected an object but got array"},
      {[](json &m) { m.erase("schema"); }, "expected a field 'schema'"},
      {[](json &m) { m["schema"] = "quant_llm.manifest/2"; },
       "expected a manifest of schema 'quant_llm.manifest/1' but got "
       "'quant_llm.manifest/2'"},
      {[](json &m) { m["chip"] = 90; },
       "expected 'chip' to be text but got number"},
      {[](json &m) { m["kernels"] = "none"; },
       "expected 'kernels' to be an array but got string"},
      {[](json &m) { m["kernels"][0] = 1; },
       "kernel 0: expected an object but got number"},
      {[](json &m) { m["kernels"][1]["name"] = "few"; },
       "expected kernels of different names but got 'few' again"},
      {[&](json &m) { kernel(m, "name") = ""; },
       "expected 'name' to be text without zero bytes, and not empty"},
      {[&](json &m) { kernel(m, "name") = std::string("a\0b", 3); },
       "without zero bytes"},
      {[&](json &m) { kernel(m, "file") = "/etc/passwd"; },
       "kernel 'few': expected 'file' to name a file below the manifest's "
       "directory but got '/etc/passwd'"},
      {[&](json &m) { kernel(m, "file") = "a/../../b"; }, "below"},
      {[&](json &m) { kernel(m, "file") = ".."; }, "below"},
      {[&](json &m) { kernel(m, "sha256") = "abc"; },
       "expected 'sha256' to be 64 lower-case hexadecimal digits"},
      {[&](json &m) { kernel(m, "threads") = 0; },
       "expected 'threads' to be an integer from 1 to 1024 but got 0"},
      {[&](json &m) { kernel(m, "threads") = 1025; }, "but got 1025"},
      {[&](json &m) { kernel(m, "threads") = 12.5; }, "but got 12.5"},
      {[&](json &m) { kernel(m, "threads") = "128"; }, "but got string"},
      {[&](json &m) { kernel(m, "threads") = UINT64_MAX; },
       "but got 18446744073709551615"},
      {[&](json &m) { kernel(m, "shared_bytes") = -1; }, "'shared_bytes'"},
      {[&](json &m) { kernel(m, "cluster") = 17; }, "'cluster'"},
      {[&](json &m) { kernel(m, "token_tile") = 0; }, "'token_tile'"},
      {[&](json &m) { kernel(m, "row_tile") = 0; }, "'row_tile'"},
      {[&](json &m) { kernel(m, "split") = 0; }, "'split'"},
      {[&](json &m) { kernel(m, "grid") = "cube"; },
       "expected 'grid' to be tiles or persistent but got 'cube'"},
      {[&](json &m) { kernel(m, "ctas_per_sm") = 1000; }, "'ctas_per_sm'"},
      {[&](json &m) { kernel(m, "dependent_launch") = 2; },
       "'dependent_launch'"},
      {[&](json &m) { kernel(m, "workspace_bytes") = -1; },
       "'workspace_bytes'"},
      {[&](json &m) { kernel(m, "args").push_back("z"); },
       "expected an argument (tensor_map_x, x, y, offsets, workspace, m, "
       "packedI, packed_scalesI, packed_zerosI, output_scaleI, epilogueI) but "
       "got 'z'"},
      {[&](json &m) { kernel(m, "args").push_back("offsets"); },
       "kernel 'few' has an argument 'offsets' but the linear has no experts"},
      {[&](json &m) { linear(m, "kind") = "conv"; },
       "expected 'kind' to be linear or grouped_linear but got 'conv'"},
      {[&](json &m) { kernel(m, "args").push_back("packed99"); },
       "but got 'packed99'"},
      {[&](json &m) { kernel(m, "args").push_back("y"); },
       "expected every argument once but got 'y' again"},
      {[&](json &m) { kernel(m, "args").push_back("packed2"); },
       "linear 'gate_up': kernel 'few' has an argument 'packed2' but there are "
       "2 weights"},
      {[&](json &m) { kernel(m, "args").push_back("epilogue2"); },
       "the epilogue has 2 operands"},
      {[&](json &m) { kernel(m, "args").push_back("packed_zeros0"); },
       "the scheme has no zeros"},
      {[&](json &m) { kernel(m, "args") = {"x", "m"}; },
       "expected an argument 'y'"},
      {[&](json &m) { kernel(m, "args") = {"x", "y"}; },
       "expected an argument 'm'"},
      {[&](json &m) {
         for (int i = 0; i < 32; ++i)
           kernel(m, "args").push_back("epilogue" + std::to_string(i));
       },
       "expected at most 32 arguments but got 43"},
      {[&](json &m) { m["kernels"][0].erase("tensor_map_x"); },
       "expected a field 'tensor_map_x' for the argument of that name"},
      {[&](json &m) { kernel(m, "tensor_map_x")["box_k"] = 257; },
       "kernel 'few': tensor_map_x: expected 'box_k' to be an integer from 1 "
       "to 256 but got 257"},
      {[&](json &m) { kernel(m, "tensor_map_x")["box_tokens"] = 0; },
       "'box_tokens'"},
      {[&](json &m) { kernel(m, "tensor_map_x")["swizzle"] = 96; },
       "expected 'swizzle' to be 0, 32, 64 or 128 but got 96"},
      {[&](json &m) { kernel(m, "tensor_map_x")["box_k"] = 65; },
       "a box has 130 bytes along k"},
      {[&](json &m) { kernel(m, "tensor_map_x")["box_k"] = 128; },
       "a box has 256 bytes along k"},
      {[&](json &m) { kernel(m, "tensor_map_x")["box_segments"] = 0; },
       "expected 'box_segments' to be an integer from 1 to 256 but got 0"},
      {[&](json &m) { kernel(m, "tensor_map_x")["box_segments"] = 2; },
       "K = 200 is no multiple of box_k = 64"},
      {[&](json &m) { linear(m, "k") = 201; },
       "rows of x have 402 bytes; tensor maps need a multiple of 16"},
      {[&](json &m) { linear(m, "n") = 0; }, "'n'"},
      {[&](json &m) { linear(m, "k") = int64_t(1) << 31; }, "'k'"},
      {[&](json &m) { linear(m, "scheme") = "int9"; },
       "linear 'gate_up': scheme: expected an element"},
      {[&](json &m) { linear(m, "scheme") = "int4, block = [1, 0]"; },
       "expected block sizes of at least 1"},
      {[&](json &m) { linear(m, "activation") = "f32"; },
       "expected 'activation' to be f16 or bf16 but got 'f32'"},
      {[&](json &m) { linear(m, "output") = "i8"; },
       "expected 'output' to be f16, bf16 or f32 but got 'i8'"},
      {[&](json &m) { linear(m, "weights") = json::array(); },
       "expected one or two weights but got 0"},
      {[&](json &m) { linear(m, "weights") = {"a", "b", "c"}; },
       "expected one or two weights but got 3"},
      {[&](json &m) { linear(m, "epilogue")[0]["type"] = "f64"; },
       "linear 'gate_up': epilogue operand 0: expected 'type'"},
      {[&](json &m) { linear(m, "packed")["archive"] = "../x"; }, "below"},
      {[&](json &m) { linear(m, "packed")["keys"] = json::array({"gate"}); },
       "expected one key for each weight (2) but got 1"},
      {[&](json &m) { linear(m, "variants")[0]["tokens"] = json::array({1}); },
       "expected 'tokens' to be [min, max] but got 1 elements"},
      {[&](json &m) { linear(m, "variants")[0]["tokens"] = {5, 4}; },
       "expected 'tokens' to be [min, max] but got [5, 4]"},
      {[&](json &m) { linear(m, "variants")[0]["tokens"] = {0, 4}; },
       "'tokens'"},
      {[&](json &m) { linear(m, "variants")[0]["kernel"] = "none"; },
       "linear 'gate_up': variant 0: expected the name of a kernel but got "
       "'none'"},
      {[&](json &m) { linear(m, "name") = "zeros"; },
       "expected linears of different names but got 'zeros' again"},
  };
  for (const Case &test : cases) {
    json changed = artifact.manifest;
    test.change(changed);
    SCOPED_TRACE(test.message);
    expectError(parseManifest(changed.dump()), test.message);
  }
  expectError(parseManifest(""), "");
  expectError(parseManifest("{\"schema\": "), "");
}

// Every required field, left out.
TEST(CudaManifestTest, MissingFields) {
  TestArtifact artifact;
  const std::set<std::string> optional = {
      "producer",        "cluster",  "split",
      "workspace_bytes", "epilogue", "workspace_bytes_per_tile",
      "tensor_map_x",    "packed"};
  auto check = [&](const char *list, size_t index) {
    for (const auto &field : artifact.manifest[list][index].items()) {
      if (optional.count(field.key()))
        continue;
      json changed = artifact.manifest;
      changed[list][index].erase(field.key());
      expectError(parseManifest(changed.dump()), "'" + field.key() + "'");
    }
  };
  check("kernels", 0);
  check("linears", 0);
}

// Whatever a manifest says, reading it ends in a value or an error.
TEST(CudaManifestTest, DamagedText) {
  TestArtifact artifact;
  std::string text = artifact.manifest.dump();
  uint32_t random = 1;
  auto next = [&](size_t limit) {
    random = random * 1664525 + 1013904223;
    return (random >> 8) % limit;
  };
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = text;
    for (size_t j = 0; j <= next(3); ++j)
      damaged[next(damaged.size())] = "0123456789-.eE\"[]{},:xnull"[next(26)];
    Result<Manifest> manifest = parseManifest(damaged);
    if (!manifest.ok())
      continue;
    for (const LinearDescription &linear : manifest->linears)
      for (const LinearVariant &variant : linear.variants)
        EXPECT_LT(variant.kernel, manifest->kernels.size());
  }
}

//===----------------------------------------------------------------------===//
// Launch geometry
//===----------------------------------------------------------------------===//

static LaunchGeometry geometryOf(const KernelDescription &kernel, int64_t n,
                                 int64_t m, int64_t multiprocessors = 132,
                                 int64_t experts = 0) {
  LaunchGeometry geometry;
  Status status =
      getLaunchGeometry(kernel, n, experts, m, multiprocessors, geometry);
  EXPECT_TRUE(status.ok()) << status.message();
  return geometry;
}

using Grid = std::array<uint32_t, 3>;

TEST(CudaGeometryTest, Tiles) {
  KernelDescription kernel;
  kernel.rowTile = 64;
  kernel.tokenTile = 16;
  EXPECT_EQ(geometryOf(kernel, 64, 1).grid, (Grid{1, 1, 1}));
  EXPECT_EQ(geometryOf(kernel, 65, 16).grid, (Grid{2, 1, 1}));
  EXPECT_EQ(geometryOf(kernel, 4096, 17).grid, (Grid{64, 2, 1}));
  // Rows are padded to 64.
  kernel.rowTile = 16;
  EXPECT_EQ(geometryOf(kernel, 1, 1).grid, (Grid{4, 1, 1}));
  kernel.rowTile = 48;
  EXPECT_EQ(geometryOf(kernel, 100, 1).grid, (Grid{3, 1, 1}));
  kernel.split = 4;
  kernel.cluster = 4;
  EXPECT_EQ(geometryOf(kernel, 100, 1).grid, (Grid{12, 1, 1}));
}

// As many tiles of tokens as the worst routing has.
TEST(CudaGeometryTest, Experts) {
  KernelDescription kernel;
  kernel.rowTile = 48;
  kernel.tokenTile = 8;
  auto gridOf = [&](int64_t n, int64_t m, int64_t experts) {
    return geometryOf(kernel, n, m, 132, experts).grid;
  };
  EXPECT_EQ(gridOf(96, 1, 1), (Grid{2, 1, 1}));
  EXPECT_EQ(gridOf(96, 16, 1), (Grid{2, 2, 1}));
  EXPECT_EQ(gridOf(96, 17, 1), (Grid{2, 3, 1}));
  EXPECT_EQ(gridOf(96, 3, 64), (Grid{2, 3, 1}));
  EXPECT_EQ(gridOf(96, 64, 64), (Grid{2, 64, 1}));
  EXPECT_EQ(gridOf(96, 64 + 7, 64), (Grid{2, 64, 1}));
  EXPECT_EQ(gridOf(96, 64 + 8, 64), (Grid{2, 65, 1}));
  // Experts that begin inside of strips may touch one more.
  EXPECT_EQ(gridOf(100, 1, 4), (Grid{3, 1, 1}));
  EXPECT_EQ(gridOf(33, 1, 4), (Grid{1, 1, 1}));
  EXPECT_EQ(gridOf(34, 1, 4), (Grid{2, 1, 1}));
  kernel.split = kernel.cluster = 4;
  EXPECT_EQ(gridOf(96, 3, 64), (Grid{8, 3, 1}));
  // No routing has more.
  for (int64_t m = 1; m <= 40; ++m)
    for (int64_t first = 0; first <= m; ++first)
      for (int64_t second = 0; first + second <= m; ++second) {
        int64_t tiles = 0;
        for (int64_t tokens : {first, second, m - first - second})
          tiles += (tokens + 7) / 8;
        EXPECT_LE(tiles, int64_t(gridOf(96, m, 3)[1]));
      }
}

TEST(CudaGeometryTest, Persistent) {
  KernelDescription kernel;
  kernel.persistent = true;
  kernel.rowTile = 128;
  kernel.tokenTile = 256;
  EXPECT_EQ(geometryOf(kernel, 4096, 256).grid, (Grid{32, 1, 1}));
  EXPECT_EQ(geometryOf(kernel, 4096, 257).grid, (Grid{64, 1, 1}));
  EXPECT_EQ(geometryOf(kernel, 4096, 4096).grid, (Grid{132, 1, 1}));
  kernel.ctasPerSM = 2;
  EXPECT_EQ(geometryOf(kernel, 4096, 4096).grid, (Grid{264, 1, 1}));
  // Whole clusters, at least one.
  kernel.ctasPerSM = 1;
  kernel.cluster = 8;
  EXPECT_EQ(geometryOf(kernel, 4096, 4096).grid, (Grid{128, 1, 1}));
  EXPECT_EQ(geometryOf(kernel, 128, 1).grid, (Grid{8, 1, 1}));
  EXPECT_EQ(geometryOf(kernel, 4096, 4096, 4).grid, (Grid{8, 1, 1}));
  kernel.cluster = 2;
  kernel.split = 2;
  EXPECT_EQ(geometryOf(kernel, 384, 1).grid, (Grid{6, 1, 1}));
}

TEST(CudaGeometryTest, Workspace) {
  KernelDescription kernel;
  kernel.rowTile = 64;
  kernel.tokenTile = 16;
  kernel.split = 2;
  kernel.workspaceBytes = 1000000;
  kernel.workspaceBytesPerTile = 10000;
  kernel.workspaceBytesPerCTA = 100;
  kernel.workspaceBytesPerToken = 1;
  // 2 x 2 tiles, 8 blocks, 17 tokens.
  EXPECT_EQ(geometryOf(kernel, 128, 17).workspaceBytes, 1040817u);
}

TEST(CudaGeometryTest, Limits) {
  KernelDescription kernel;
  LaunchGeometry geometry;
  kernel.rowTile = 64;
  EXPECT_EQ(geometryOf(kernel, 64, 65535).grid, (Grid{1, 65535, 1}));
  expectError(getLaunchGeometry(kernel, 64, 0, 65536, 132, geometry),
              "65536 tokens need 1 x 65536; divide the tokens");
  kernel.split = INT32_MAX;
  expectError(getLaunchGeometry(kernel, INT32_MAX, 0, 1, 132, geometry),
              "expected a grid of at most");
  kernel.split = 1;
  kernel.cluster = 2;
  expectError(getLaunchGeometry(kernel, 64, 0, 1, 132, geometry),
              "expected a grid of whole clusters of 2 blocks but got 1 blocks");
  // Nothing overflows at the ends of all ranges.
  kernel = KernelDescription();
  kernel.persistent = true;
  kernel.split = INT32_MAX;
  kernel.cluster = 16;
  kernel.ctasPerSM = 64;
  EXPECT_EQ(geometryOf(kernel, INT32_MAX, INT32_MAX).grid,
            (Grid{64 * 132, 1, 1}));
  kernel.workspaceBytesPerTile = int64_t(1) << 40;
  expectError(getLaunchGeometry(kernel, INT32_MAX, 0, INT32_MAX, 132, geometry),
              "expected a workspace of fewer than 2^64 bytes");
}
