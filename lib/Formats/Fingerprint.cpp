//===- Fingerprint.cpp ----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Formats/Fingerprint.h"

#include "quant-llm/Support/Sha256.h"

#include <vector>

using namespace quant_llm;

void Fingerprint::add(const std::string &name, const TensorInfo &tensor) {
  constexpr uint64_t numPieces = 16, pieceBytes = 512;
  std::string line(tensor.blockType ? getGGMLTypeName(*tensor.blockType)
                                    : getDTypeName(tensor.dtype));
  line += ' ' + shapeToString(tensor.shape) + ' ';
  if (tensor.bytes <= numPieces * pieceBytes) {
    line += sha256Hex(tensor.data, tensor.bytes);
  } else {
    std::vector<uint8_t> sample;
    sample.reserve(numPieces * pieceBytes);
    const uint64_t last = tensor.bytes - pieceBytes;
    for (uint64_t i = 0; i < numPieces; ++i) {
      // In this order, i * last cannot overflow: files are below 2^63 bytes.
      const uint64_t begin = last / (numPieces - 1) * i +
                             last % (numPieces - 1) * i / (numPieces - 1);
      sample.insert(sample.end(), tensor.data + begin,
                    tensor.data + begin + pieceBytes);
    }
    line += sha256Hex(sample.data(), sample.size());
  }
  lines[name] = std::move(line);
}

std::string Fingerprint::finish() const {
  std::string text;
  for (const auto &[name, line] : lines) {
    // A name may hold anything; its length keeps it apart from what follows.
    text += std::to_string(name.size()) + ' ' + name + ' ' + line + '\n';
  }
  return sha256Hex(text.data(), text.size());
}
