//===- FuzzIndex.cpp ------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The input is the text of an index; the shards a.safetensors (tensors "a" and
// "b") and b.safetensors ("c") lie beside it.
//
//===----------------------------------------------------------------------===//

#include "FuzzInput.h"

#include <cstdio>
#include <filesystem>

using namespace quant_llm;

static std::string makeFolder() {
  // $TMPDIR decides; a file system in memory makes it fast.
  std::string folder =
      std::filesystem::temp_directory_path() / "quant-llm-fuzz-XXXXXX";
  if (!::mkdtemp(folder.data()))
    std::abort();
  auto write = [&](const char *shard, std::vector<TensorDeclaration> tensors) {
    Result<SafetensorsWriter> writer =
        SafetensorsWriter::create(folder + "/" + shard, tensors);
    for (const TensorDeclaration &tensor : tensors)
      if (!writer.ok() || !writer->append(tensor.name, "x", 1).ok())
        std::abort();
    if (!writer->finish().ok())
      std::abort();
  };
  write("a.safetensors", {{"a", DType::U8, {1}}, {"b", DType::U8, {1}}});
  write("b.safetensors", {{"c", DType::U8, {1}}});
  return folder;
}

static const std::string &getFolder() {
  static const std::string folder = makeFolder();
  return folder;
}

static void removeFolder() { std::filesystem::remove_all(getFolder()); }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  // Not in a FuzzInput: the shards are searched beside the index.
  static const std::string path = getFolder() + "/index.json";
  static const bool registered = std::atexit(removeFolder) == 0;
  (void)registered;
  std::FILE *file = std::fopen(path.c_str(), "wb");
  if (!file || std::fwrite(data, 1, size, file) != size ||
      std::fclose(file) != 0)
    std::abort();
  fuzz::readAll(path);
  return 0;
}
