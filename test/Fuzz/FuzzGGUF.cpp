//===- FuzzGGUF.cpp -------------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FuzzInput.h"

using namespace quant_llm;

static void visit(const GGUFValue &value) {
  (void)value.asInteger();
  (void)value.asUnsigned();
  (void)value.asFloat();
  (void)value.asBool();
  if (auto text = value.asString())
    fuzz::touch(reinterpret_cast<const uint8_t *>(text->data()), text->size());
  if (auto elements = value.asArray())
    for (const GGUFValue &element : *elements)
      visit(element);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz::FuzzInput input(data, size);
  Result<GGUFFile> file = GGUFFile::open(input.path());
  if (!file.ok())
    return 0;
  for (const auto &[key, value] : file->metadata()) {
    if (file->findMetadata(key) != &value)
      std::abort();
    visit(value);
  }
  (void)file->metadataJson();
  for (const GGUFTensor &tensor : file->tensors())
    fuzz::touch(tensor.data, tensor.bytes);
  fuzz::readAll(input.path());
  return 0;
}
