//===- AtomicFile.cpp -----------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/AtomicFile.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace quant_llm;

//===----------------------------------------------------------------------===//
// Files to remove when a signal ends the process
//===----------------------------------------------------------------------===//

namespace {

/// A path in static memory: a signal handler can neither lock nor allocate. The
/// file is removed, or replaced by that at the path of `backup`. The handler
/// reads paths only in state Used; a slot that is freed and taken again while
/// the handler runs cannot mislead it, because after `interrupted` is set no
/// slot is taken any more.
struct CleanupSlot {
  enum State { Free, Filling, Used };
  std::atomic<int> state;
  char path[PATH_MAX];
  char backup[PATH_MAX];
};

} // namespace

static constexpr int numSlots = 32;
static CleanupSlot slots[numSlots];
static std::atomic<bool> interrupted;
static_assert(std::atomic<int>::is_always_lock_free &&
                  std::atomic<bool>::is_always_lock_free,
              "a signal handler uses these");

/// Returns -1 if all slots are taken: such a file is only lost to interrupts.
static int registerForCleanup(const std::string &path,
                              const std::string &backup = "") {
  if (path.size() >= PATH_MAX || backup.size() >= PATH_MAX)
    return -1;
  for (int slot = 0; slot < numSlots; ++slot) {
    int expected = CleanupSlot::Free;
    if (interrupted.load() || !slots[slot].state.compare_exchange_strong(
                                  expected, CleanupSlot::Filling))
      continue;
    std::memcpy(slots[slot].path, path.c_str(), path.size() + 1);
    std::memcpy(slots[slot].backup, backup.c_str(), backup.size() + 1);
    slots[slot].state.store(CleanupSlot::Used);
    return slot;
  }
  return -1;
}

static void unregisterFromCleanup(int slot) {
  if (slot >= 0)
    slots[slot].state.store(CleanupSlot::Free);
}

static const int handledSignals[] = {SIGINT, SIGTERM, SIGHUP};
static struct sigaction previousActions[std::size(handledSignals)];

/// Removes a new file, or puts back the one that was there before. A signal
/// handler may call it.
static void takeBack(const char *path, const char *backup) {
  if (backup[0] == '\0')
    ::unlink(path);
  else if (::rename(backup, path) == 0)
    // Of two names of one file, which is not replaced yet, a rename keeps both.
    ::unlink(backup);
}

static void removeTemporaryFiles(int signal) {
  int savedErrno = errno;
  interrupted.store(true);
  for (CleanupSlot &slot : slots)
    if (slot.state.load() == CleanupSlot::Used)
      takeBack(slot.path, slot.backup);
  // Hand the signal to whoever was there before; it is delivered when this
  // handler returns and the signal is no longer blocked.
  for (size_t i = 0; i < std::size(handledSignals); ++i)
    if (handledSignals[i] == signal)
      ::sigaction(signal, &previousActions[i], nullptr);
  errno = savedErrno;
  ::raise(signal);
}

void quant_llm::installInterruptCleanup() {
  static std::atomic<bool> installed;
  if (installed.exchange(true))
    return;
  for (size_t i = 0; i < std::size(handledSignals); ++i) {
    if (::sigaction(handledSignals[i], nullptr, &previousActions[i]) != 0)
      continue;
    bool hasInfo = previousActions[i].sa_flags & SA_SIGINFO;
    if (!hasInfo && previousActions[i].sa_handler == SIG_IGN)
      continue; // for instance SIGHUP under nohup
    struct sigaction action;
    std::memset(&action, 0, sizeof(action));
    action.sa_handler = removeTemporaryFiles;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(handledSignals[i], &action, nullptr);
  }
}

//===----------------------------------------------------------------------===//
// AtomicFile
//===----------------------------------------------------------------------===//

/// The innermost transaction of this thread.
static thread_local FileTransaction *transaction = nullptr;

/// Small pieces are collected up to this size before they are written.
static constexpr size_t bufferSize = 1 << 18;

static Status errnoError(const std::string &path, const char *action) {
  return Status::error(std::string("cannot ") + action + " '" + path +
                       "': " + std::strerror(errno));
}

static std::string getDirectory(const std::string &path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos)
    return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// A hidden name beside `target` that nobody else uses.
static std::string makeTemporaryName(const std::string &target) {
  static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
  thread_local std::mt19937_64 generator{std::random_device{}()};
  std::string suffix = ".";
  // A child made by fork() has the same generator.
  uint64_t number = generator() ^ (static_cast<uint64_t>(::getpid()) << 32);
  for (int i = 0; i < 10; ++i, number /= 36)
    suffix += digits[number % 36];
  suffix += ".tmp";
  size_t slash = target.rfind('/');
  std::string base = target.substr(slash + 1);
  base.resize(std::min<size_t>(base.size(), NAME_MAX - suffix.size() - 1));
  return target.substr(0, slash + 1) + "." + base + suffix;
}

/// The absolute path that a rename must go to: the parent with all links
/// resolved, and the file itself too if it is a link to a regular file.
static Result<std::string> resolveTarget(const std::string &path) {
  if (path.empty() || path.find('\0') != std::string::npos)
    return Status::error("expected a path of a file to write, not empty and "
                         "without zero bytes");
  struct stat info;
  bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && !S_ISREG(info.st_mode))
    return Status::error(
        "cannot write '" + path +
        "': expected a regular file or a new name but got " +
        (S_ISDIR(info.st_mode) ? "a directory" : "a special file"));
  if (!exists && errno != ENOENT)
    return errnoError(path, "write");
  if (path.back() == '/')
    return Status::error("cannot write '" + path +
                         "': there is no such "
                         "directory, and a file name is expected");
  std::string toResolve = exists ? path : getDirectory(path);
  char *resolved = ::realpath(toResolve.c_str(), nullptr);
  if (!resolved)
    return errnoError(path, "write");
  std::string target(resolved);
  std::free(resolved);
  if (!exists) {
    if (target.back() != '/')
      target += '/';
    target += path.substr(path.rfind('/') + 1);
  }
  return target;
}

Result<AtomicFile> AtomicFile::create(const std::string &path,
                                      Temporary temporary) {
  Result<std::string> target = resolveTarget(path);
  if (!target.ok())
    return target.status();
  AtomicFile file;
  file.name = path;
  file.target = target.take();
  for (FileTransaction *t = transaction; t; t = t->outer)
    if (std::find(t->begun.begin(), t->begun.end(), file.target) !=
        t->begun.end())
      return Status::error("cannot write '" + path +
                           "': another file of the same name is being written; "
                           "choose another name for one of them");
  std::string directory = getDirectory(file.target);
#ifdef O_TMPFILE
  if (temporary == Temporary::Automatic) {
    file.descriptor =
        ::open(directory.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    // Giving it a name later goes through /proc.
    if (file.descriptor >= 0 &&
        ::access(("/proc/self/fd/" + std::to_string(file.descriptor)).c_str(),
                 F_OK) != 0) {
      ::close(file.descriptor);
      file.descriptor = -1;
    }
  }
#endif
  for (int attempt = 0; file.descriptor < 0; ++attempt) {
    file.temporary = makeTemporaryName(file.target);
    // Registered first, so that there is no moment at which an interrupt leaves
    // it behind; nobody else has a file of this name.
    file.slot = registerForCleanup(file.temporary);
    file.descriptor = ::open(file.temporary.c_str(),
                             O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file.descriptor >= 0)
      break;
    Status status = errnoError(path, "write");
    bool retry = errno == EEXIST && attempt < 100;
    unregisterFromCleanup(file.slot);
    file.slot = -1;
    file.temporary.clear();
    if (!retry)
      return status;
  }
  struct stat info;
  if (::stat(file.target.c_str(), &info) == 0)
    (void)::fchmod(file.descriptor, info.st_mode & 0777);
  file.buffer.reserve(bufferSize);
  if (transaction) {
    transaction->begun.push_back(file.target);
    file.begun = true;
  }
  return file;
}

AtomicFile::AtomicFile(AtomicFile &&other) noexcept
    : name(std::move(other.name)), target(std::move(other.target)),
      temporary(std::move(other.temporary)), buffer(std::move(other.buffer)),
      failure(std::move(other.failure)), slot(std::exchange(other.slot, -1)),
      begun(std::exchange(other.begun, false)),
      descriptor(std::exchange(other.descriptor, -1)) {
  other.temporary.clear();
}

AtomicFile &AtomicFile::operator=(AtomicFile &&other) noexcept {
  std::swap(name, other.name);
  std::swap(target, other.target);
  std::swap(temporary, other.temporary);
  std::swap(buffer, other.buffer);
  std::swap(failure, other.failure);
  std::swap(slot, other.slot);
  std::swap(begun, other.begun);
  std::swap(descriptor, other.descriptor);
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::endBegun() {
  for (FileTransaction *t = transaction; t; t = t->outer) {
    auto entry = std::find(t->begun.begin(), t->begun.end(), target);
    if (entry == t->begun.end())
      continue;
    t->begun.erase(entry);
    return;
  }
}

void AtomicFile::discard() {
  if (std::exchange(begun, false))
    endBegun();
  if (descriptor >= 0)
    ::close(descriptor);
  descriptor = -1;
  if (!temporary.empty())
    ::unlink(temporary.c_str());
  temporary.clear();
  unregisterFromCleanup(slot);
  slot = -1;
  buffer.clear();
}

Status AtomicFile::fail(const char *action) {
  failure = errnoError(name, action);
  discard();
  return failure;
}

Status AtomicFile::writeThrough(const uint8_t *data, size_t count) {
  while (count > 0) {
    ssize_t result =
        ::write(descriptor, data, std::min<size_t>(count, size_t(1) << 30));
    if (result < 0) {
      if (errno == EINTR)
        continue;
      return fail("write");
    }
    data += result;
    count -= static_cast<size_t>(result);
  }
  return Status::success();
}

Status AtomicFile::write(const void *data, size_t count) {
  if (!failure.ok())
    return failure;
  if (descriptor < 0)
    return Status::error("cannot write '" + name +
                         "': the file is already complete");
  const uint8_t *bytes = static_cast<const uint8_t *>(data);
  if (buffer.size() + count > bufferSize) {
    if (Status status = writeThrough(buffer.data(), buffer.size());
        !status.ok())
      return status;
    buffer.clear();
    if (count >= bufferSize)
      return writeThrough(bytes, count);
  }
  buffer.insert(buffer.end(), bytes, bytes + count);
  return Status::success();
}

/// Gives the unnamed file a hidden name, since only a named one can replace
/// another by a rename.
Status AtomicFile::linkUnnamed() {
  std::string source = "/proc/self/fd/" + std::to_string(descriptor);
  for (int attempt = 0;; ++attempt) {
    temporary = makeTemporaryName(target);
    slot = registerForCleanup(temporary);
    if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, temporary.c_str(),
                 AT_SYMLINK_FOLLOW) == 0)
      return Status::success();
    unregisterFromCleanup(slot);
    slot = -1;
    temporary.clear();
    if (errno != EEXIST || attempt >= 100)
      return fail("write");
  }
}

Status AtomicFile::replaceTarget() {
  bool isNew = transaction && transaction->prepare(target);
  if (::rename(temporary.c_str(), target.c_str()) == 0)
    return Status::success();
  Status status = fail("write");
  if (isNew)
    transaction->forget();
  return status;
}

Status AtomicFile::commit() {
  if (!failure.ok())
    return failure;
  if (descriptor < 0)
    return Status::error("cannot write '" + name +
                         "': the file is already complete");
  if (Status status = writeThrough(buffer.data(), buffer.size()); !status.ok())
    return status;
  // The data must be on the disk before the name is: after a power failure a
  // renamed file could else be empty.
  if (::fsync(descriptor) != 0)
    return fail("write");
  if (temporary.empty())
    if (Status status = linkUnnamed(); !status.ok())
      return status;
  int toClose = std::exchange(descriptor, -1);
  if (::close(toClose) != 0)
    return fail("write");
  if (Status status = replaceTarget(); !status.ok())
    return status;
  temporary.clear();
  discard();
  // That the name itself lasts is not promised, so errors do not matter here.
  int directory =
      ::open(getDirectory(target).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    (void)::fsync(directory);
    ::close(directory);
  }
  return Status::success();
}

//===----------------------------------------------------------------------===//
// FileTransaction
//===----------------------------------------------------------------------===//

FileTransaction::FileTransaction() : outer(std::exchange(transaction, this)) {}

FileTransaction::~FileTransaction() {
  while (!files.empty()) {
    const Replaced &file = files.back();
    takeBack(file.target.c_str(), file.backup.c_str());
    unregisterFromCleanup(file.slot);
    files.pop_back();
  }
  if (outer)
    outer->begun.insert(outer->begun.end(), begun.begin(), begun.end());
  transaction = outer;
}

bool FileTransaction::prepare(const std::string &target) {
  for (FileTransaction *t = this; t; t = t->outer)
    for (const Replaced &file : t->files)
      if (file.target == target)
        return false; // what was there at first is what comes back
  Replaced file{target, "", -1};
  for (int attempt = 0;; ++attempt) {
    std::string backup = makeTemporaryName(target);
    if (::link(target.c_str(), backup.c_str()) == 0) {
      file.backup = backup;
      break;
    }
    if (errno == ENOENT)
      break; // there is nothing to keep
    // A file that cannot be kept must not be taken for a new one.
    if (errno != EEXIST || attempt >= 100)
      return false;
  }
  file.slot = registerForCleanup(file.target, file.backup);
  files.push_back(std::move(file));
  return true;
}

void FileTransaction::forget() {
  if (!files.back().backup.empty())
    ::unlink(files.back().backup.c_str());
  unregisterFromCleanup(files.back().slot);
  files.pop_back();
}

void FileTransaction::commit() {
  if (outer) {
    for (Replaced &file : files)
      outer->files.push_back(std::move(file));
    files.clear();
    return;
  }
  while (!files.empty())
    forget();
}

Status quant_llm::writeFileAtomically(const std::string &path, const void *data,
                                      size_t count) {
  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file.ok())
    return file.status();
  if (Status status = file->write(data, count); !status.ok())
    return status;
  return file->commit();
}
