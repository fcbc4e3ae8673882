//===- OutputFile.cpp - Which files a pass may write ----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Dialect/QuantLLM/Utils/OutputFile.h"

#include "quant-llm/Support/AtomicFile.h"
#include "quant-llm/Support/MappedFile.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"

using namespace mlir;
using namespace quant_llm;

bool quant_llm::isNamedLikeArchive(StringRef path) {
  SmallString<128> target;
  if (llvm::sys::fs::real_path(path, target))
    target = path; // a new file, or none that can be written
  for (StringRef name : {path, target.str()})
    for (const char *end : {".safetensors", ".safetensors.index.json", ".gguf"})
      if (name.ends_with_insensitive(end))
        return true;
  return false;
}

bool quant_llm::isArchive(StringRef path) {
  // Not of a pipe or a device.
  return llvm::sys::fs::is_regular_file(path) && Archive::open(path.str()).ok();
}

LogicalResult
quant_llm::verifyOutputFile(ModuleOp module, ParameterArchives &archives,
                            OptionFile output, ArrayRef<OptionFile> inputs,
                            function_ref<InFlightDiagnostic()> fail) {
  std::optional<FileId> id = FileId::of(output.path.str());
  if (!id)
    return success();
  if (ArchiveOp archive = archives.findArchiveOfFile(module, output.path)) {
    InFlightDiagnostic diag = fail();
    diag << "'" << output.path
         << "' is a file of an archive that the module reads; choose another "
            "file for '"
         << output.option << "'";
    diag.attachNote(archive.getLoc()) << "the archive is here";
    return diag;
  }
  for (const OptionFile &input : inputs)
    if (FileId::of(input.path.str()) == id)
      return fail() << "'" << output.path << "' is read as the file of '"
                    << input.option << "'; choose another file for '"
                    << output.option << "'";
  if (FileTransaction::hasWritten(output.path.str()))
    return fail() << "'" << output.path
                  << "' was written by an earlier pass and would be lost; "
                     "choose another file for '"
                  << output.option << "'";
  return success();
}

LogicalResult
quant_llm::verifyReportFile(ModuleOp module, ParameterArchives &archives,
                            StringRef report, ArrayRef<OptionFile> inputs,
                            function_ref<InFlightDiagnostic()> fail) {
  if (failed(
          verifyOutputFile(module, archives, {"report", report}, inputs, fail)))
    return failure();
  if (isNamedLikeArchive(report))
    return fail() << "invalid option 'report': expected a JSON file but got '"
                  << report << "', which ends like an archive of weights";
  if (isArchive(report))
    return fail() << "invalid option 'report': expected a JSON file but got '"
                  << report << "', which is an archive of weights";
  std::optional<FileId> id = FileId::of(report.str());
  auto source = module.getLoc()->findInstanceOf<FileLineColLoc>();
  if (id && source && FileId::of(source.getFilename().str()) == id)
    return fail() << "'" << report
                  << "' is the file of the module; choose another file for "
                     "'report'";
  return success();
}
