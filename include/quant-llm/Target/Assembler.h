//===- Assembler.h - PTX to machine code by ptxas ---------------*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// ptxas is a program of NVIDIA's CUDA toolkit, also in the Python package
// nvidia-cuda-nvcc. It runs as a child process, without a shell and without
// temporary files.
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_TARGET_ASSEMBLER_H
#define QUANT_LLM_TARGET_ASSEMBLER_H

#include "quant-llm/Support/Status.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace quant_llm {

/// "13.0.88": release and build of an assembler.
struct AssemblerVersion {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned build = 0;

  std::string str() const;
  friend bool operator<(const AssemblerVersion &a, const AssemblerVersion &b) {
    return std::tie(a.major, a.minor, a.build) <
           std::tie(b.major, b.minor, b.build);
  }
};

/// What the assembler says about one kernel. Sizes are in bytes.
struct KernelResources {
  std::string name;
  int64_t registers = 0;
  int64_t barriers = 0;
  int64_t stackBytes = 0;
  int64_t spillStoreBytes = 0;
  int64_t spillLoadBytes = 0;
  /// Static shared memory; what is given at launch is not known here.
  int64_t sharedBytes = 0;
};

struct Assembly {
  /// The machine code, an ELF file.
  std::string cubin;
  /// In the order of the assembler's report.
  std::vector<KernelResources> kernels;
  /// Messages that are no errors.
  std::vector<std::string> warnings;
};

class Assembler {
public:
  /// Looks for ptxas: the file that QUANT_LLM_PTXAS names, else in PATH, in
  /// the toolkits CUDA_HOME, CUDA_PATH and /usr/local/cuda*, and in the
  /// package nvidia-cuda-nvcc of a virtual environment that is active or in
  /// PATH, or of the user.
  static Result<Assembler> find();
  /// The assembler in the file `path`.
  static Result<Assembler> open(const std::string &path);

  const std::string &getPath() const { return path; }
  const AssemblerVersion &getVersion() const { return version; }

  /// Assembles for `chip` ("sm_90a"). Besides what ptxas refuses, it is an
  /// error if this version is known to compile one of the instructions used
  /// wrongly, if ptxas had to serialize matrix instructions, and if a kernel
  /// has more static shared memory than can be launched.
  Result<Assembly> assemble(std::string_view ptx,
                            const std::string &chip) const;

private:
  Assembler() = default;

  std::string path;
  AssemblerVersion version;
};

/// The version in the output of `ptxas --version`.
Result<AssemblerVersion> parseAssemblerVersion(std::string_view text);

/// Why `version` must not assemble `ptx`; success if nothing is known against
/// it.
Status checkKnownFaults(const AssemblerVersion &version, std::string_view ptx);

/// Takes the output of `ptxas -v` apart; an error for messages that mean a
/// kernel that must not be used.
Result<Assembly> parseAssemblerReport(std::string_view text);

} // namespace quant_llm

#endif // QUANT_LLM_TARGET_ASSEMBLER_H
