//===- Passes.td - Whether two modules compute the same ----*- tablegen -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_EQUIVALENCE_PASSES_TD
#define QUANT_LLM_EQUIVALENCE_PASSES_TD

include "quant-llm/Dialect/QuantLLM/Utils/CheckedPass.td"

def VerifyEquivalence : CheckedPass<"quant-llm-verify-equivalence", "::mlir::ModuleOp"> {
  let summary = "Check by running them that two modules compute the same";
  let description = [{
    Runs the functions of a module before and after a change and fails if they compute something else. What was
    before is known in one of two ways:

    - `pipeline`: passes that this one runs itself. Then nothing is left on disk, and the check is one element of any pipeline.
    - `reference`: a file with the module as it was, written by hand, by an earlier run, or by `quant-llm-save-module` in the
      same pipeline, any number of passes before.

    Every public function of the module before must be there after, with arguments and results of the same types. It is run on the
    CPU by the reference lowering with all floating-point types made f64 (parameters are widened as they are read),
    so that roundings do not hide a difference. The pass fails if a result differs by more than `bound` in the Frobenius norm, relative to that
    of the result. Before quantization transforms stay far below the default; afterwards, and between archives with rounded weights, a
    larger bound says how much the functions may differ.

    Arguments are those of `inputs`, .npy files in order, or random: normal numbers, integers from 0 to 7, of offsets
    of experts those from 0 to the number of tokens in order (an error if that number is not to be told, as of tokens that are
    picked). Dynamic extents are `extent`.
    An argument that the function returns after replacing slices of it (a cache) is a state: it starts with zeros,
    the function is called `calls` times and gets the state of the call before, with dynamic extents
    for all calls; integer scalars, such as positions, are `extent` times the number of the call. States marked
    `quant_llm.changed_state` are not compared, what later calls make of them is.

    Errors are also results that are not finite, functions that cannot be run in f64 (codes that are computed, bits of numbers that are
    looked at) and everything that keeps a function from running, such as a missing archive or arguments that do not fit each other.

    Example (`test/Equivalence/verify-equivalence.mlir`):
    ```
    quant-opt model.mlir --pass-pipeline='builtin.module(convert-linalg-to-quant-llm,
      quant-llm-verify-equivalence{pipeline="quant-llm-insert-transforms{sites=residual},quant-llm-fold-transforms"})'
    ```
  }];
  let options = [
    CheckedOption<"reference", "reference", "std::string", "\"\"",
           "File of the module to compare with">,
    CheckedOption<"pipeline", "pipeline", "std::string", "\"\"",
           "Passes to run on the module and to check">,
    CheckedListOption<"inputs", "inputs", "std::string",
               "Files in .npy format with the arguments, for modules with one function">,
    CheckedOption<"bound", "bound", "double", "1e-10",
           "Largest relative difference of a result">,
    CheckedOption<"extent", "extent", "int64_t", "5", "Dynamic extents of arguments">,
    CheckedOption<"calls", "calls", "unsigned", "2", "Calls of functions with states">,
    CheckedOption<"seed", "seed", "uint64_t", "1", "Of random arguments">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directories of the modules' files">,
  ];
}

def SaveModule : CheckedPass<"quant-llm-save-module", "::mlir::ModuleOp"> {
  let summary = "Write the module as it is to a file, to compare with later";
  let description = [{
    Writes the module to `output`, with absolute paths of archives, so that the file can be read from everywhere. The module is not
    changed. `quant-llm-verify-equivalence{reference=...}` compares with it.

    Example (`test/Equivalence/verify-equivalence.mlir`):
    ```
    quant-opt model.mlir --pass-pipeline='builtin.module(convert-linalg-to-quant-llm,
      quant-llm-save-module{output=before.mlir}, quant-llm-insert-transforms{sites=residual},
      quant-llm-fold-transforms, quant-llm-verify-equivalence{reference=before.mlir})'
    ```
  }];
  let options = [
    CheckedOption<"output", "output", "std::string", "\"\"", "The file to write; required">,
    CheckedOption<"baseDir", "base-dir", "std::string", "\"\"",
           "Directory that relative paths of archives are relative to, instead of the "
           "directory of the module's file">,
  ];
}

#endif // QUANT_LLM_EQUIVALENCE_PASSES_TD
