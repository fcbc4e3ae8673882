//===- AssemblerTest.cpp --------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Target/Assembler.h"

#include "../../TestFiles.h"

#include <gtest/gtest.h>

#include <sys/stat.h>

using namespace quant_llm;
using namespace quant_llm::test;

namespace {

/// An assembler that is a shell script.
void writeProgram(const std::string &path, const std::string &body) {
  std::filesystem::create_directories(
      std::filesystem::path(path).parent_path());
  writeFile(path, "#!/bin/sh\n" + body);
  ASSERT_EQ(::chmod(path.c_str(), 0755), 0);
}

const std::string version13 =
    "if [ \"$1\" = --version ]; then\n"
    "  echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit 0\n"
    "fi\n";

/// Sets a variable of the environment for the time of the object.
class Variable {
public:
  Variable(const char *name, const char *value) : name(name) {
    if (const char *current = std::getenv(name))
      old = current;
    if (value)
      ::setenv(name, value, 1);
    else
      ::unsetenv(name);
  }
  ~Variable() {
    if (old)
      ::setenv(name, old->c_str(), 1);
    else
      ::unsetenv(name);
  }

private:
  const char *name;
  std::optional<std::string> old;
};

} // namespace

TEST(AssemblerTest, Version) {
  Result<AssemblerVersion> version = parseAssemblerVersion(
      "ptxas: NVIDIA (R) Ptx optimizing assembler\n"
      "Cuda compilation tools, release 12.4, V12.4.131\nBuild cuda_12.4\n");
  ASSERT_TRUE(version.ok()) << version.message();
  EXPECT_EQ(version->str(), "12.4.131");
  EXPECT_TRUE((AssemblerVersion{9, 9, 9} < AssemblerVersion{12, 0, 0}));
  EXPECT_TRUE((AssemblerVersion{12, 4, 9} < AssemblerVersion{12, 4, 10}));
  EXPECT_FALSE((AssemblerVersion{13, 0, 88} < AssemblerVersion{13, 0, 88}));
  for (const char *text : {"", "release 13", "release 13.0, V", ", V13.0.88",
                           "release 13.0, V13.0", "release 13.0, V13.x.1",
                           "release 1, V99999999999999999999.0.0"})
    expectError(parseAssemblerVersion(text), "expected the version of ptxas");
}

TEST(AssemblerTest, KnownFaults) {
  auto check = [](unsigned major, unsigned minor, unsigned build) {
    return checkKnownFaults({major, minor, build},
                            "wgmma.mma_async.sync.aligned.m64n8k16 ...");
  };
  expectError(check(12, 9, 86), "ptxas 12.9.86 may overwrite registers");
  expectError(check(13, 2, 1), "use 13.0.88, or 13.3 or newer");
  EXPECT_TRUE(check(13, 0, 88).ok());
  EXPECT_TRUE(check(13, 3, 0).ok());
  EXPECT_TRUE(check(13, 5, 37).ok());
  EXPECT_TRUE(checkKnownFaults({12, 9, 86}, "mma.sync.aligned").ok());
}

TEST(AssemblerTest, Report) {
  Result<Assembly> assembly = parseAssemblerReport(
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'first' for 'sm_90a'\n"
      "ptxas info    : Function properties for first\n"
      "    16 bytes stack frame, 12 bytes spill stores, 24 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 16 barriers, 16 bytes "
      "cumulative stack size, 4096 bytes smem, 384 bytes cmem[0]\n"
      "ptxas info    : Compile time = 245.649 ms\n"
      "ptxas warning : something is odd\n"
      "ptxas info    : Compiling entry function 'second' for 'sm_90a'\n"
      "ptxas info    : Used 4 registers, used 0 barriers");
  ASSERT_TRUE(assembly.ok()) << assembly.message();
  ASSERT_EQ(assembly->kernels.size(), 2u);
  const KernelResources &first = assembly->kernels[0];
  EXPECT_EQ(first.name, "first");
  EXPECT_EQ(first.registers, 168);
  EXPECT_EQ(first.barriers, 16);
  EXPECT_EQ(first.stackBytes, 16);
  EXPECT_EQ(first.spillStoreBytes, 12);
  EXPECT_EQ(first.spillLoadBytes, 24);
  EXPECT_EQ(first.sharedBytes, 4096);
  EXPECT_EQ(assembly->kernels[1].name, "second");
  EXPECT_EQ(assembly->kernels[1].registers, 4);
  EXPECT_EQ(assembly->kernels[1].sharedBytes, 0);
  EXPECT_EQ(assembly->warnings,
            std::vector<std::string>{"ptxas warning : something is odd"});
  EXPECT_TRUE(parseAssemblerReport("")->kernels.empty());
}

TEST(AssemblerTest, ReportsThatAreErrors) {
  expectError(
      parseAssemblerReport(
          "ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async "
          "instructions are serialized due to ... in function 'k'\n"),
      "could not keep matrix instructions asynchronous: ptxas info : (C7510)");
  expectError(parseAssemblerReport("ptxas warning : (C7602) ...\n"), "(C7602)");
  expectError(
      parseAssemblerReport("Compiling entry function 'big' for 'sm_80'\n"
                           "Used 4 registers, 65536 bytes smem\n"),
      "expected at most 49152 bytes of static shared memory but kernel 'big' "
      "has 65536; make it dynamic");
}

TEST(AssemblerTest, RunsTheProgram) {
  TempDir dir;
  std::string program = dir / "ptxas";
  // Copies the input behind a word and tells the arguments and whether there
  // is standard input.
  writeProgram(program,
               version13 +
                   "cat > /dev/null\n"
                   "{ printf 'ELF:'; cat \"$4\"; } > \"$6\"\n"
                   "echo \"Compiling entry function '$1 $2 $3 $5' for\"\n"
                   "echo 'Used 7 registers' >&2\n");
  Result<Assembler> assembler = Assembler::open(program);
  ASSERT_TRUE(assembler.ok()) << assembler.message();
  EXPECT_EQ(assembler->getVersion().str(), "13.0.88");
  std::string ptx(300000, 'p');
  Result<Assembly> assembly = assembler->assemble(ptx, "sm_90a");
  ASSERT_TRUE(assembly.ok()) << assembly.message();
  EXPECT_EQ(assembly->cubin, "ELF:" + ptx);
  ASSERT_EQ(assembly->kernels.size(), 1u);
  EXPECT_EQ(assembly->kernels[0].name, "-v -O3 -arch=sm_90a -o");
  EXPECT_EQ(assembly->kernels[0].registers, 7);
}

TEST(AssemblerTest, FailuresOfTheProgram) {
  TempDir dir;
  std::string program = dir / "ptxas";
  expectError(Assembler::open(program), "No such file or directory");
  writeProgram(program, "echo 'bash 5.2'\n");
  expectError(Assembler::open(program), "expected the version of ptxas");
  writeProgram(program, "echo oops; exit 3\n");
  expectError(Assembler::open(program), "failed with status 3:\noops");

  auto assemble = [&](const std::string &body) {
    writeProgram(program, version13 + body);
    Result<Assembler> assembler = Assembler::open(program);
    EXPECT_TRUE(assembler.ok()) << assembler.message();
    return assembler->assemble("bad", "sm_80");
  };
  expectError(assemble("echo \"$4, line 7; error\" >&2; exit 255\n"),
              "failed with status 255:\n<ptx>, line 7; error");
  expectError(assemble("kill -KILL $$\n"), "ended by signal 9");
  expectError(assemble("exit 0\n"), "wrote no machine code");
  expectError(assemble("head -c 100000 /dev/zero | tr '\\0' x; exit 1\n"),
              "xxx...");
}

TEST(AssemblerTest, Search) {
  TempDir dir;
  Variable named("QUANT_LLM_PTXAS", nullptr), home("HOME", dir.path.c_str()),
      cudaPath("CUDA_PATH", nullptr), venv("VIRTUAL_ENV", nullptr);
  // Least wanted first.
  std::string local =
      dir / ".local/lib/python3.11/site-packages/nvidia/cuda_nvcc/bin/ptxas";
  std::string package =
      dir / "venv/lib/python3.11/site-packages/nvidia/cu13/bin/ptxas";
  std::string toolkit = dir / "toolkit/bin/ptxas";
  std::string inPath = dir / "bin/ptxas";
  std::string wanted = dir / "wanted";
  Variable path("PATH", (dir / "bin:" + (dir / "venv/bin")).c_str());
  Variable cudaHome("CUDA_HOME", (dir / "toolkit").c_str());
  std::filesystem::create_directories(dir / "venv/bin");
  writeFile(dir / "venv/pyvenv.cfg", "");

  auto expectFound = [&](const std::string &expected) {
    Result<Assembler> found = Assembler::find();
    ASSERT_TRUE(found.ok()) << found.message();
    EXPECT_EQ(found->getPath(), expected);
  };
  // A toolkit of this machine comes before the packages of Python.
  bool hasToolkit = std::filesystem::exists("/usr/local/cuda/bin/ptxas");
  if (!hasToolkit) {
    expectError(Assembler::find(), "no ptxas found in PATH");
    writeProgram(local, version13);
    expectFound(local);
    writeProgram(package, version13);
    expectFound(package);
  }
  writeProgram(toolkit, version13);
  expectFound(toolkit);
  writeProgram(inPath, version13);
  expectFound(inPath);
  writeProgram(wanted, version13);
  Variable explicitly("QUANT_LLM_PTXAS", wanted.c_str());
  expectFound(wanted);
}
