//===- Path.h - Paths relative to a directory -------------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_PATH_H
#define QUANT_LLM_SUPPORT_PATH_H

#include <string>
#include <string_view>

namespace quant_llm {

/// `path` as seen from `directory`, unless it is absolute or the directory is
/// empty. This is how archives are found from the module that names them.
inline std::string resolvePath(std::string_view directory,
                               std::string_view path) {
  bool isAbsolute = !path.empty() && path.front() == '/';
  if (isAbsolute || directory.empty())
    return std::string(path);
  std::string result(directory);
  if (result.back() != '/')
    result += '/';
  return result.append(path);
}

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_PATH_H
