//===- quant-packing-dump.cpp - Packing as a filter, for tests ------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   quant-packing-dump SCHEME N K
//
// Reads the components of a stored weight from stdin (codes, scales or codes
// and scales of the scales, zeros) and writes the packed codes, scales, zeros
// and the output scale to stdout, all raw and little-endian.
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Numerics/Element.h"
#include "quant-llm/Packing/FragmentLayout.h"

#include <cstdio>
#include <cstdlib>

using namespace quant_llm;

[[noreturn]] static void fail(const std::string &message) {
  std::fprintf(stderr, "quant-packing-dump: %s\n", message.c_str());
  std::exit(1);
}

static void write(const void *data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, stdout) != bytes)
    fail("cannot write");
}

int main(int argc, char **argv) {
  if (argc != 4)
    fail("expected a scheme, N and K");
  Result<Scheme> scheme = parseScheme(argv[1]);
  if (!scheme.ok())
    fail(scheme.message());
  QuantizedMatrix matrix;
  matrix.n = std::atoll(argv[2]);
  matrix.k = std::atoll(argv[3]);
  if (Status status = verifyScheme(*scheme, matrix.n, matrix.k); !status.ok())
    fail(status.message());
  for (const ComponentInfo &info : getComponents(*scheme, matrix.n, matrix.k)) {
    std::vector<uint8_t> bytes(static_cast<size_t>(info.bytes));
    if (std::fread(bytes.data(), 1, bytes.size(), stdin) != bytes.size())
      fail(std::string("expected more bytes for ") + info.suffix);
    switch (info.kind) {
    case ComponentKind::Codes:
      matrix.codes = std::move(bytes);
      break;
    case ComponentKind::Scales:
    case ComponentKind::ScaleScales:
      matrix.scales = std::move(bytes);
      break;
    case ComponentKind::ScaleCodes:
      matrix.scaleCodes = std::move(bytes);
      break;
    case ComponentKind::Zeros:
      matrix.zeros = std::move(bytes);
      break;
    case ComponentKind::LowRankA:
      matrix.lowRankA = std::move(bytes);
      break;
    case ComponentKind::LowRankB:
      matrix.lowRankB = std::move(bytes);
      break;
    }
  }
  Result<PackedWeight> packed =
      packWeight(matrix.view(), *scheme, /*threads=*/2);
  if (!packed.ok())
    fail(packed.message());
  for (const std::vector<uint8_t> *part :
       {&packed->codes, &packed->scales, &packed->zeros})
    write(part->data(), part->size());
  write(&packed->outputScale, sizeof(float));
}
