//===- FingerprintTest.cpp ------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Fingerprint.h"

#include <gtest/gtest.h>

#include <set>

using namespace quant_llm;

namespace {

TensorInfo makeTensor(const std::vector<uint8_t> &data, DType dtype,
                      std::vector<int64_t> shape) {
  TensorInfo info;
  info.dtype = dtype;
  info.shape = std::move(shape);
  info.data = data.data();
  info.bytes = data.size();
  return info;
}

std::string
fingerprint(const std::vector<std::pair<std::string, TensorInfo>> &tensors) {
  Fingerprint result;
  for (const auto &[name, tensor] : tensors)
    result.add(name, tensor);
  return result.finish();
}

TEST(FingerprintTest, TellsModelsApart) {
  const std::vector<uint8_t> a(64, 1), b(64, 2);
  const TensorInfo x = makeTensor(a, DType::F32, {4, 4});
  const TensorInfo y = makeTensor(b, DType::F32, {4, 4});
  const std::string first = fingerprint({{"x", x}, {"y", y}});
  EXPECT_EQ(first.size(), 64u);
  // The order does not matter, all else does.
  EXPECT_EQ(fingerprint({{"y", y}, {"x", x}}), first);
  std::set<std::string> all = {
      first,
      fingerprint({}),
      fingerprint({{"x", x}}),
      fingerprint({{"x", x}, {"y", x}}),
      fingerprint({{"x", y}, {"y", x}}),
      fingerprint({{"x", x}, {"z", y}}),
      fingerprint({{"x", makeTensor(a, DType::F32, {2, 8})}, {"y", y}}),
      fingerprint({{"x", makeTensor(a, DType::F16, {4, 8})}, {"y", y}}),
  };
  EXPECT_EQ(all.size(), 8u);
  // It is stored in files: it never changes.
  EXPECT_EQ(fingerprint({}),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(FingerprintTest, SamplesLargeTensors) {
  for (size_t size : {8191u, 8192u, 8193u, 8192u * 16, 100001u}) {
    std::vector<uint8_t> data(size, 7);
    const auto shape = std::vector<int64_t>{static_cast<int64_t>(size)};
    const std::string before =
        fingerprint({{"x", makeTensor(data, DType::I8, shape)}});
    // The first and the last byte always count.
    for (size_t at : {size_t(0), size - 1}) {
      data[at] = 8;
      EXPECT_NE(fingerprint({{"x", makeTensor(data, DType::I8, shape)}}),
                before)
          << size << " " << at;
      data[at] = 7;
    }
    // So does a part as large as a hole between the pieces.
    const size_t hole = size / 16 + 1;
    for (size_t begin = 0; begin + hole <= size; begin += hole) {
      std::fill_n(data.begin() + begin, hole, 9);
      EXPECT_NE(fingerprint({{"x", makeTensor(data, DType::I8, shape)}}),
                before)
          << size << " " << begin;
      std::fill_n(data.begin() + begin, hole, 7);
    }
  }
}

} // namespace
