//===- OutputFile.h - Which files a pass may write --------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Files appear by a rename, so replacing one that is read would work, and what
// was in it would be gone. These checks come before the work.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_DIALECT_QUANTLLM_UTILS_OUTPUTFILE_H
#define QUANT_LLM_DIALECT_QUANTLLM_UTILS_OUTPUTFILE_H

#include "quant-llm/Dialect/QuantLLM/Utils/ParameterArchives.h"

namespace quant_llm {

/// A file and the option that names it.
struct OptionFile {
  llvm::StringRef option, path;
};

/// Whether a path, or what it leads to, ends like an archive of weights.
bool isNamedLikeArchive(llvm::StringRef path);

/// Whether there is a file at a path that can be read as an archive, whatever
/// its name is.
bool isArchive(llvm::StringRef path);

/// Checks that writing `output` replaces no file of an archive of `module` and
/// none of `inputs`, through links of any kind, nor what an earlier pass of the
/// same FileTransaction wrote. `fail` begins the error. Empty paths are fine.
llvm::LogicalResult
verifyOutputFile(mlir::ModuleOp module, ParameterArchives &archives,
                 OptionFile output, llvm::ArrayRef<OptionFile> inputs,
                 llvm::function_ref<mlir::InFlightDiagnostic()> fail);

/// The same for the JSON file of the option 'report', which can replace neither
/// the file that the module was read from nor anything that is an archive or is
/// named like one: a pass before may have replaced an archive in the module.
llvm::LogicalResult
verifyReportFile(mlir::ModuleOp module, ParameterArchives &archives,
                 llvm::StringRef report, llvm::ArrayRef<OptionFile> inputs,
                 llvm::function_ref<mlir::InFlightDiagnostic()> fail);

} // namespace quant_llm

#endif // QUANT_LLM_DIALECT_QUANTLLM_UTILS_OUTPUTFILE_H
