//===- Assembler.cpp - PTX to machine code by ptxas -----------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Target/Assembler.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

using namespace quant_llm;

namespace fs = std::filesystem;

//===----------------------------------------------------------------------===//
// Reports
//===----------------------------------------------------------------------===//

std::string AssemblerVersion::str() const {
  return std::to_string(major) + "." + std::to_string(minor) + "." +
         std::to_string(build);
}

/// Takes a number off the front of `text`.
template <typename Int>
static bool consumeNumber(std::string_view &text, Int &value) {
  auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc())
    return false;
  text.remove_prefix(end - text.data());
  return true;
}

static bool consumeFront(std::string_view &text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix)
    return false;
  text.remove_prefix(prefix.size());
  return true;
}

/// Removes everything up to and including `mark`.
static bool consumePast(std::string_view &text, std::string_view mark) {
  size_t at = text.find(mark);
  if (at == std::string_view::npos)
    return false;
  text.remove_prefix(at + mark.size());
  return true;
}

Result<AssemblerVersion>
quant_llm::parseAssemblerVersion(std::string_view text) {
  std::string_view rest = text;
  AssemblerVersion version;
  if (consumePast(rest, "release ") && consumePast(rest, ", V") &&
      consumeNumber(rest, version.major) && consumeFront(rest, ".") &&
      consumeNumber(rest, version.minor) && consumeFront(rest, ".") &&
      consumeNumber(rest, version.build))
    return version;
  return Status::error(
      "expected the version of ptxas, 'release 13.0, V13.0.88', but got '" +
      std::string(text.substr(0, 200)) + "'");
}

namespace {
/// Versions from `first` on and before `fixed` compile `instruction` wrongly.
struct KnownFault {
  AssemblerVersion first;
  AssemblerVersion fixed;
  std::string_view instruction;
  std::string_view text;
};
} // namespace

// docs/UpstreamIssues.md says where each entry comes from. 13.0.88 has the
// first one by report, but our kernels were compared with references and their
// machine code was walked for hazards under it, so it stands outside.
static constexpr KnownFault knownFaults[] = {
    {{12, 0, 0},
     {13, 0, 88},
     "wgmma.mma_async",
     "may overwrite registers of a matrix instruction in flight"},
    {{13, 0, 89},
     {13, 3, 0},
     "wgmma.mma_async",
     "may overwrite registers of a matrix instruction in flight"},
};

Status quant_llm::checkKnownFaults(const AssemblerVersion &version,
                                   std::string_view ptx) {
  for (const KnownFault &fault : knownFaults)
    if (!(version < fault.first) && version < fault.fixed &&
        ptx.find(fault.instruction) != std::string_view::npos)
      return Status::error("ptxas " + version.str() + " " +
                           std::string(fault.text) + " (" +
                           std::string(fault.instruction) +
                           "); use 13.0.88, or 13.3 or newer, for example by "
                           "pip install nvidia-cuda-nvcc==13.0.88");
  return Status::success();
}

/// Bytes of static shared memory that a kernel can have on every chip.
static constexpr int64_t maxStaticSharedBytes = 48 * 1024;

/// Reads the number in front of `mark` in a list such as "4 registers, used 0
/// barriers"; leaves `value` alone if the mark is not there.
static void readCount(std::string_view line, std::string_view mark,
                      int64_t &value) {
  size_t end = line.find(mark);
  if (end == std::string_view::npos)
    return;
  size_t start = end;
  while (start > 0 && line[start - 1] >= '0' && line[start - 1] <= '9')
    --start;
  std::string_view digits = line.substr(start, end - start);
  consumeNumber(digits, value);
}

Result<Assembly> quant_llm::parseAssemblerReport(std::string_view text) {
  Assembly assembly;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));

    // Codes C75xx and C76xx: matrix instructions that are serialized or whose
    // register use is not what the program says.
    if (line.find("(C75") != std::string_view::npos ||
        line.find("(C76") != std::string_view::npos)
      return Status::error("ptxas could not keep matrix instructions "
                           "asynchronous: " +
                           std::string(line));
    std::string_view rest = line;
    if (consumePast(rest, "Compiling entry function '")) {
      assembly.kernels.emplace_back();
      assembly.kernels.back().name = rest.substr(0, rest.find('\''));
      continue;
    }
    if (line.find("warning") != std::string_view::npos) {
      assembly.warnings.emplace_back(line);
      continue;
    }
    if (assembly.kernels.empty())
      continue;
    KernelResources &kernel = assembly.kernels.back();
    readCount(line, " bytes stack frame", kernel.stackBytes);
    readCount(line, " bytes spill stores", kernel.spillStoreBytes);
    readCount(line, " bytes spill loads", kernel.spillLoadBytes);
    readCount(line, " registers", kernel.registers);
    readCount(line, " barriers", kernel.barriers);
    readCount(line, " bytes smem", kernel.sharedBytes);
    if (kernel.sharedBytes > maxStaticSharedBytes)
      return Status::error(
          "expected at most " + std::to_string(maxStaticSharedBytes) +
          " bytes of static shared memory but kernel '" + kernel.name +
          "' has " + std::to_string(kernel.sharedBytes) + "; make it dynamic");
  }
  return assembly;
}

//===----------------------------------------------------------------------===//
// The child process
//===----------------------------------------------------------------------===//

namespace {

/// A file in memory, closed with the object.
class MemoryFile {
public:
  explicit MemoryFile(const char *name)
      : descriptor(::memfd_create(name, MFD_CLOEXEC)) {}
  ~MemoryFile() {
    if (descriptor >= 0)
      ::close(descriptor);
  }
  MemoryFile(const MemoryFile &) = delete;
  MemoryFile &operator=(const MemoryFile &) = delete;

  int get() const { return descriptor; }

  Status write(std::string_view data) {
    while (!data.empty()) {
      ssize_t count = ::write(descriptor, data.data(), data.size());
      if (count < 0 && errno == EINTR)
        continue;
      if (count <= 0)
        return Status::error(std::string("cannot hold the PTX in memory: ") +
                             std::strerror(errno));
      data.remove_prefix(count);
    }
    return Status::success();
  }

  std::string read() const {
    std::string data;
    char buffer[1 << 16];
    for (off_t offset = 0;;) {
      ssize_t count = ::pread(descriptor, buffer, sizeof(buffer), offset);
      if (count < 0 && errno == EINTR)
        continue;
      if (count <= 0)
        return data;
      data.append(buffer, count);
      offset += count;
    }
  }

private:
  int descriptor;
};

} // namespace

// The descriptors of input and output in the child process, and their names.
static constexpr int inputDescriptor = 3;
static constexpr int outputDescriptor = 4;
static constexpr char inputName[] = "/proc/self/fd/3";
static constexpr char outputName[] = "/proc/self/fd/4";

/// Runs `path` with `arguments`; the result is what it prints. `input` and
/// `output` may be null.
static Result<std::string> runProgram(const std::string &path,
                                      std::vector<std::string> arguments,
                                      const MemoryFile *input,
                                      const MemoryFile *output) {
  MemoryFile messages("ptxas messages");
  if (messages.get() < 0)
    return Status::error(std::string("cannot make a file in memory: ") +
                         std::strerror(errno));
  std::vector<char *> argv{const_cast<char *>(path.c_str())};
  for (std::string &argument : arguments)
    argv.push_back(argument.data());
  argv.push_back(nullptr);

  // Descriptors above those that the child uses cannot be in the way of the
  // dup2 calls, which run in this order.
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  int messagesCopy = ::fcntl(messages.get(), F_DUPFD_CLOEXEC, 16);
  int inputCopy = input ? ::fcntl(input->get(), F_DUPFD_CLOEXEC, 16) : -1;
  int outputCopy = output ? ::fcntl(output->get(), F_DUPFD_CLOEXEC, 16) : -1;
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, messagesCopy, 1);
  ::posix_spawn_file_actions_adddup2(&actions, messagesCopy, 2);
  if (input)
    ::posix_spawn_file_actions_adddup2(&actions, inputCopy, inputDescriptor);
  if (output)
    ::posix_spawn_file_actions_adddup2(&actions, outputCopy, outputDescriptor);
  pid_t child = -1;
  int failure = ::posix_spawn(&child, path.c_str(), &actions, nullptr,
                              argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  for (int descriptor : {messagesCopy, inputCopy, outputCopy})
    if (descriptor >= 0)
      ::close(descriptor);
  if (failure != 0)
    return Status::error("cannot run '" + path +
                         "': " + std::strerror(failure));

  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      return Status::error("cannot wait for '" + path +
                           "': " + std::strerror(errno));
  std::string text = messages.read();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
    return text;
  // The name of the descriptor would mean nothing to the reader.
  for (size_t at; (at = text.find(inputName)) != std::string::npos;)
    text.replace(at, sizeof(inputName) - 1, "<ptx>");
  std::string what =
      WIFSIGNALED(status)
          ? "ended by signal " + std::to_string(WTERMSIG(status))
          : "failed with status " + std::to_string(WEXITSTATUS(status));
  constexpr size_t maxShown = 4000;
  if (text.size() > maxShown)
    text = text.substr(0, maxShown) + "...";
  return Status::error("'" + path + "' " + what +
                       (text.empty() ? "" : ":\n" + text));
}

Result<Assembler> Assembler::open(const std::string &path) {
  Result<std::string> text = runProgram(path, {"--version"}, nullptr, nullptr);
  if (!text.ok())
    return text.status();
  Result<AssemblerVersion> version = parseAssemblerVersion(*text);
  if (!version.ok())
    return version.status().withContext("'" + path + "'");
  Assembler assembler;
  assembler.path = path;
  assembler.version = *version;
  return assembler;
}

Result<Assembly> Assembler::assemble(std::string_view ptx,
                                     const std::string &chip) const {
  Status usable = checkKnownFaults(version, ptx);
  if (!usable.ok())
    return usable;
  MemoryFile input("ptx"), output("cubin");
  if (input.get() < 0 || output.get() < 0)
    return Status::error(std::string("cannot make a file in memory: ") +
                         std::strerror(errno));
  Status written = input.write(ptx);
  if (!written.ok())
    return written;
  Result<std::string> report = runProgram(
      path, {"-v", "-O3", "-arch=" + chip, inputName, "-o", outputName}, &input,
      &output);
  if (!report.ok())
    return report.status();
  Result<Assembly> assembly = parseAssemblerReport(*report);
  if (!assembly.ok())
    return assembly;
  assembly->cubin = output.read();
  if (assembly->cubin.empty())
    return Status::error("'" + path + "' wrote no machine code");
  return assembly;
}

//===----------------------------------------------------------------------===//
// Search
//===----------------------------------------------------------------------===//

static std::string getVariable(const char *name) {
  const char *value = std::getenv(name);
  return value ? value : "";
}

static bool isProgram(const fs::path &path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

/// The directories in `parent` whose names start with `prefix`, the newest
/// version (as far as names tell) first.
static std::vector<fs::path> listDirectories(const fs::path &parent,
                                             std::string_view prefix) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(parent, error), end; !error && it != end;
       it.increment(error))
    if (it->path().filename().native().compare(0, prefix.size(), prefix) == 0)
      found.push_back(it->path());
  std::sort(found.rbegin(), found.rend());
  return found;
}

/// ptxas of the package nvidia-cuda-nvcc (of CUDA 13, or else of CUDA 12) below
/// the `lib` of an installation of Python.
static std::optional<fs::path> findInPython(const fs::path &lib) {
  for (const fs::path &python : listDirectories(lib, "python3"))
    for (const char *prefix : {"cu1", "cuda_nvcc"})
      for (const fs::path &package :
           listDirectories(python / "site-packages/nvidia", prefix))
        if (fs::path program = package / "bin/ptxas"; isProgram(program))
          return program.lexically_normal();
  return std::nullopt;
}

static std::optional<fs::path> search() {
  std::vector<fs::path> searchPath;
  std::string path = getVariable("PATH");
  for (size_t start = 0; start <= path.size();) {
    size_t end = std::min(path.find(':', start), path.size());
    // An empty entry is the working directory, where nobody expects a program.
    if (end > start)
      searchPath.emplace_back(path.substr(start, end - start));
    start = end + 1;
  }

  for (const fs::path &directory : searchPath)
    if (isProgram(directory / "ptxas"))
      return directory / "ptxas";
  std::vector<fs::path> toolkits;
  for (const char *name : {"CUDA_HOME", "CUDA_PATH"})
    if (std::string value = getVariable(name); !value.empty())
      toolkits.emplace_back(value);
  toolkits.emplace_back("/usr/local/cuda");
  for (fs::path &directory : listDirectories("/usr/local", "cuda-"))
    toolkits.push_back(std::move(directory));
  for (const fs::path &toolkit : toolkits)
    if (isProgram(toolkit / "bin/ptxas"))
      return toolkit / "bin/ptxas";

  std::vector<fs::path> environments;
  if (std::string value = getVariable("VIRTUAL_ENV"); !value.empty())
    environments.emplace_back(value);
  std::error_code error;
  for (const fs::path &directory : searchPath)
    if (fs::exists(directory / "../pyvenv.cfg", error))
      environments.push_back(directory / "..");
  if (std::string home = getVariable("HOME"); !home.empty())
    environments.push_back(fs::path(home) / ".local");
  for (const fs::path &environment : environments)
    if (auto found = findInPython(environment / "lib"))
      return found;
  return std::nullopt;
}

Result<Assembler> Assembler::find() {
  if (std::string named = getVariable("QUANT_LLM_PTXAS"); !named.empty()) {
    Result<Assembler> assembler = open(named);
    if (!assembler.ok())
      return assembler.status().withContext("QUANT_LLM_PTXAS");
    return assembler;
  }
  std::optional<fs::path> found = search();
  if (!found)
    return Status::error(
        "no ptxas found in PATH, CUDA_HOME, CUDA_PATH, /usr/local/cuda* or a "
        "virtual environment of Python; pip install nvidia-cuda-nvcc==13.0.88, "
        "or set QUANT_LLM_PTXAS to the program");
  return open(found->string());
}
