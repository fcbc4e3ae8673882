//===- OutputText.h - What a tool writes to the file of -o ------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TOOLS_OUTPUTTEXT_H
#define QUANT_LLM_TOOLS_OUTPUTTEXT_H

#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"
#include "quant-llm/Support/AtomicFile.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace quant_llm {

/// The place of -o, looked at before the work. A pipe or device takes what
/// comes; a file is replaced when there is something to replace it with: it may
/// be the input.
class OutputText {
public:
  /// `example` is a name that would do.
  static Result<OutputText> open(const std::string &name, const char *example) {
    // Text in the place of an archive of weights is a mistake, and the archive
    // may be the one that the module reads or that a pass writes.
    if (isNamedLikeArchive(name))
      return Status::error("expected a file for text in -o but got '" + name +
                           "', which ends like an archive of weights; choose "
                           "another name, such as " +
                           example);
    if (isArchive(name))
      return Status::error("expected a file for text in -o but got '" + name +
                           "', which is an archive of weights; choose another "
                           "name, such as " +
                           example);
    OutputText output;
    output.name = name;
    if (name == "-" || (llvm::sys::fs::exists(name) &&
                        !llvm::sys::fs::is_regular_file(name))) {
      std::error_code error;
      output.stream = std::make_unique<llvm::raw_fd_ostream>(name, error);
      if (error)
        return Status::error("cannot write '" + name + "': " + error.message());
      return output;
    }
    Result<AtomicFile> file = AtomicFile::create(name);
    if (!file.ok())
      return file.status();
    output.file.emplace(file.take());
    return output;
  }

  /// Whether what comes goes on at once, so that it may also be a part.
  bool isStream() const { return stream != nullptr; }

  /// Writes everything.
  Status write(llvm::StringRef text) {
    if (file) {
      Status status = file->write(text.data(), text.size());
      return status.ok() ? file->commit() : status;
    }
    *stream << text;
    stream->flush();
    if (!stream->has_error())
      return Status::success();
    std::error_code error = stream->error();
    stream->clear_error();
    return Status::error(
        "cannot write " +
        (name == "-" ? std::string("standard output") : "'" + name + "'") +
        ": " + error.message());
  }

private:
  std::string name;
  std::unique_ptr<llvm::raw_fd_ostream> stream; // or
  std::optional<AtomicFile> file;
};

} // namespace quant_llm

#endif // QUANT_LLM_TOOLS_OUTPUTTEXT_H
