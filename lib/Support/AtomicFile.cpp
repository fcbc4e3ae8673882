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
#include <initializer_list>
#include <iterator>
#include <random>
#include <utility>

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace quant_llm;

//===----------------------------------------------------------------------===//
// What to take back when a signal ends the process
//===----------------------------------------------------------------------===//

static const int handledSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
static struct sigaction previousActions[std::size(handledSignals)];
/// Where the handlers were installed: not a child made by fork().
static pid_t handlingProcess;

namespace {

/// What is on the disk changes only under this lock, together with the list of
/// it, so that a handler finds them in agreement. Who holds it cannot run a
/// handler of these signals and does nothing that may wait for another thread,
/// such as to allocate or free memory: that thread may be in a handler, which
/// waits for the lock.
class DiskLock {
public:
  DiskLock() { acquire(blockedBefore); }
  ~DiskLock() { release(blockedBefore); }
  DiskLock(const DiskLock &) = delete;
  DiskLock &operator=(const DiskLock &) = delete;

  /// A child made by fork() has one thread: what others held stays held. So
  /// fork() waits for the lock, and both processes release it.
  static void attendForks() {
    static const int isAttended = ::pthread_atfork(
        [] {
          sigset_t before;
          acquire(before);
          blockedBeforeFork = before;
        },
        [] { release(blockedBeforeFork); }, [] { release(blockedBeforeFork); });
    (void)isAttended;
  }

private:
  static void acquire(sigset_t &blockedBefore) {
    sigset_t handled;
    ::sigemptyset(&handled);
    for (int signal : handledSignals)
      ::sigaddset(&handled, signal);
    ::pthread_sigmask(SIG_BLOCK, &handled, &blockedBefore);
    while (isHeld.exchange(true, std::memory_order_acquire))
      ::sched_yield();
  }
  static void release(const sigset_t &blockedBefore) {
    sigset_t before = blockedBefore; // the next holder may change it
    isHeld.store(false, std::memory_order_release);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  static sigset_t blockedBeforeFork; // guarded by the lock
  static std::atomic<bool> isHeld;
  static_assert(std::atomic<bool>::is_always_lock_free,
                "a signal handler uses it");
  sigset_t blockedBefore;
};

} // namespace

std::atomic<bool> DiskLock::isHeld;
sigset_t DiskLock::blockedBeforeFork;

/// An entry of the list of what is on the disk and not final, which it leaves
/// with its life.
struct quant_llm::FileOnDisk {
  enum class Role {
    Unfinished, // will go to `target`; at `hidden` unless that is empty
    Old,        // what is at `target` is at `hidden` too
    New,        // at `target`, where nothing was before
    Replaced,   // at `target`, with the old file at `hidden`
    Final,      // nothing is to be done
  };

  FileOnDisk(Role role, std::string target, uint64_t family,
             FileTransaction *owner = nullptr)
      : role(role), target(std::move(target)), family(family), owner(owner) {
    DiskLock::attendForks();
  }
  FileOnDisk(const FileOnDisk &) = delete;
  FileOnDisk &operator=(const FileOnDisk &) = delete;
  ~FileOnDisk();

  /// Not in a child made by fork(): what is on the disk is for the parent.
  bool isOurs() const { return ::getpid() == process; }

  /// By AtomicFile, in a transaction that may take it back.
  bool isCompleted() const {
    return role == Role::New || role == Role::Replaced;
  }

  // With the lock held, and without memory being allocated or freed.
  void enterList();
  void leaveList();
  void takeBack();

  Role role;
  std::string target;
  std::string hidden;
  uint64_t family;        // of transactions
  FileTransaction *owner; // of New and Replaced
  pid_t process = ::getpid();
  bool isListed = false;
  FileOnDisk *before = nullptr, *after = nullptr;
};

/// Guarded by the lock: the latest entry, and whether all was taken back.
static FileOnDisk *latest = nullptr;
static bool isAbandoned = false;

void FileOnDisk::enterList() {
  before = latest;
  if (latest)
    latest->after = this;
  latest = this;
  isListed = true;
}

void FileOnDisk::leaveList() {
  if (!std::exchange(isListed, false))
    return;
  (after ? after->before : latest) = before;
  if (before)
    before->after = after;
  before = after = nullptr;
}

/// In the way that a signal handler may.
static void printError(std::initializer_list<const char *> parts) {
  for (const char *part : parts)
    (void)!::write(STDERR_FILENO, part, std::strlen(part));
}

void FileOnDisk::takeBack() {
  if (!isOurs())
    return;
  switch (std::exchange(role, Role::Final)) {
  case Role::Unfinished:
  case Role::Old:
    if (!hidden.empty())
      ::unlink(hidden.c_str());
    return;
  case Role::New:
    if (::unlink(target.c_str()) != 0 && errno != ENOENT)
      printError({"error: cannot remove '", target.c_str(),
                  "', which is of no use without other files\n"});
    return;
  case Role::Replaced:
    if (::rename(hidden.c_str(), target.c_str()) != 0)
      printError({"error: cannot put back '", target.c_str(),
                  "': its old contents are in '", hidden.c_str(), "'\n"});
    return;
  case Role::Final:
    return;
  }
}

FileOnDisk::~FileOnDisk() {
  DiskLock lock;
  takeBack();
  leaveList();
}

void quant_llm::abandonFiles() {
  DiskLock lock;
  isAbandoned = true;
  for (FileOnDisk *file = latest; file; file = file->before)
    file->takeBack();
}

static void handleSignal(int signal) {
  int savedErrno = errno;
  if (::getpid() == handlingProcess)
    abandonFiles();
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
  handlingProcess = ::getpid();
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  action.sa_handler = handleSignal;
  ::sigemptyset(&action.sa_mask);
  for (int signal : handledSignals)
    ::sigaddset(&action.sa_mask, signal);
  for (size_t i = 0; i < std::size(handledSignals); ++i) {
    if (::sigaction(handledSignals[i], nullptr, &previousActions[i]) != 0)
      continue;
    bool hasInfo = previousActions[i].sa_flags & SA_SIGINFO;
    if (!hasInfo && previousActions[i].sa_handler == SIG_IGN)
      continue; // for instance SIGHUP under nohup
    ::sigaction(handledSignals[i], &action, nullptr);
  }
  // What exceeds a limit of the size of files is an error of writing.
  ::signal(SIGXFSZ, SIG_IGN);
}

//===----------------------------------------------------------------------===//
// AtomicFile
//===----------------------------------------------------------------------===//

/// The innermost transaction of this thread, and the one of the process.
static thread_local FileTransaction *innermost = nullptr;
static std::atomic<FileTransaction *> ofProcess;

/// Small pieces are collected up to this size before they are written.
static constexpr size_t bufferSize = 1 << 18;

/// Stands for isAbandoned among the values of errno.
static constexpr int abandonedError = ECANCELED;

static std::string describeError(int error) {
  return error == abandonedError ? "the process was interrupted"
                                 : std::strerror(error);
}

static Status writeError(const std::string &path, int error) {
  return Status::error("cannot write '" + path + "': " + describeError(error));
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
    return writeError(path, errno);
  if (path.back() == '/')
    return Status::error("cannot write '" + path +
                         "': there is no such "
                         "directory, and a file name is expected");
  std::string toResolve = exists ? path : getDirectory(path);
  char *resolved = ::realpath(toResolve.c_str(), nullptr);
  if (!resolved)
    return writeError(path, errno);
  std::string target(resolved);
  std::free(resolved);
  if (!exists) {
    if (target.back() != '/')
      target += '/';
    target += path.substr(path.rfind('/') + 1);
  }
  return target;
}

/// How often another random name is tried.
static constexpr int maxAttempts = 100;

/// Enters a file into the list, unless a transaction of the family has begun
/// (EBUSY) or completed (EEXIST) one for the same target. Returns 0 or an error
/// number.
static int begin(FileOnDisk &file) {
  DiskLock lock;
  if (isAbandoned)
    return abandonedError;
  if (file.family != 0)
    for (FileOnDisk *other = latest; other; other = other->before)
      if (other->family == file.family && other->target == file.target) {
        if (other->role == FileOnDisk::Role::Unfinished)
          return EBUSY;
        if (other->isCompleted())
          return EEXIST;
      }
  file.enterList();
  return 0;
}

/// Lets `step` make a hidden file beside the target, whose name it is given,
/// and remembers it in the list. Returns 0 or an error number.
template <typename Step>
static int makeHidden(FileOnDisk &file, Step step) {
  std::string name = makeTemporaryName(file.target);
  DiskLock lock;
  if (isAbandoned)
    return abandonedError;
  if (!step(name.c_str()))
    return errno;
  file.hidden.swap(name);
  if (!file.isListed)
    file.enterList();
  return 0;
}

/// Copies all bytes, and what else there is as far as the user may.
static int copyFile(int from, int to) {
  struct stat info;
  if (::fstat(from, &info) != 0)
    return errno;
  (void)!::fchown(to, info.st_uid, info.st_gid);
  (void)::fchmod(to, info.st_mode & 07777);
  std::vector<char> piece(1 << 20);
  for (;;) {
    ssize_t count = ::read(from, piece.data(), piece.size());
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0)
      return errno;
    if (count == 0)
      break;
    for (ssize_t done = 0; done < count;) {
      ssize_t written = ::write(to, piece.data() + done, count - done);
      if (written < 0 && errno != EINTR)
        return errno;
      done += std::max<ssize_t>(written, 0);
    }
  }
  const struct timespec times[] = {info.st_atim, info.st_mtim};
  (void)::futimens(to, times);
  return ::fsync(to) == 0 ? 0 : errno;
}

/// Gives what is at the target of `old`, if anything, a second and hidden name.
/// Hard links may be forbidden, used up or unknown to the file system.
static Status keepOld(FileOnDisk &old) {
  int linkError = 0;
  for (int attempt = 0; attempt <= maxAttempts; ++attempt) {
    linkError = makeHidden(old, [&](const char *hidden) {
      return ::link(old.target.c_str(), hidden) == 0;
    });
    if (linkError == 0 || linkError == ENOENT) // there is nothing to keep
      return Status::success();
    if (linkError != EEXIST)
      break;
  }
  if (linkError == abandonedError)
    return Status::error(describeError(linkError));
  int from = ::open(old.target.c_str(), O_RDONLY | O_CLOEXEC);
  int copyError = from < 0 ? errno : 0;
  if (copyError == ENOENT)
    return Status::success();
  int to = -1;
  if (from >= 0)
    copyError = makeHidden(old, [&](const char *hidden) {
      to = ::open(hidden, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
      return to >= 0;
    });
  if (to >= 0) {
    copyError = copyFile(from, to);
    if (::close(to) != 0 && copyError == 0)
      copyError = errno;
  }
  if (from >= 0)
    ::close(from);
  if (copyError == 0)
    return Status::success();
  return Status::error(
      "the file that is there cannot be kept until all others are written: no "
      "second name (" +
      describeError(linkError) + ") and no copy (" + describeError(copyError) +
      "); write to another place");
}

Result<AtomicFile> AtomicFile::create(const std::string &path,
                                      Temporary temporary) {
  Result<std::string> target = resolveTarget(path);
  if (!target.ok())
    return target.status();
  AtomicFile file;
  file.name = path;
  file.target = target.take();
  FileTransaction *transaction = FileTransaction::current();
  uint64_t family = transaction ? transaction->family : 0;
  file.unfinished = std::make_unique<FileOnDisk>(FileOnDisk::Role::Unfinished,
                                                 file.target, family);
  switch (int error = begin(*file.unfinished)) {
  case 0:
    break;
  case EBUSY:
    return Status::error("cannot write '" + path +
                         "': another file of the same name is being written; "
                         "choose another name for one of them");
  case EEXIST:
    return Status::error("cannot write '" + path +
                         "': it was written earlier in the same run and would "
                         "be lost; choose another name for one of them");
  default:
    return writeError(path, error);
  }
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
    int error = makeHidden(*file.unfinished, [&](const char *hidden) {
      file.descriptor =
          ::open(hidden, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      return file.descriptor >= 0;
    });
    if (error != 0 && (error != EEXIST || attempt >= maxAttempts))
      return writeError(path, error);
  }
  struct stat info;
  if (::stat(file.target.c_str(), &info) == 0)
    (void)::fchmod(file.descriptor, info.st_mode & 0777);
  file.buffer.reserve(bufferSize);
  return file;
}

AtomicFile::AtomicFile() = default;

AtomicFile::AtomicFile(AtomicFile &&other) noexcept
    : name(std::move(other.name)), target(std::move(other.target)),
      buffer(std::move(other.buffer)), failure(std::move(other.failure)),
      unfinished(std::move(other.unfinished)),
      descriptor(std::exchange(other.descriptor, -1)) {}

AtomicFile &AtomicFile::operator=(AtomicFile &&other) noexcept {
  std::swap(name, other.name);
  std::swap(target, other.target);
  std::swap(buffer, other.buffer);
  std::swap(failure, other.failure);
  std::swap(unfinished, other.unfinished);
  std::swap(descriptor, other.descriptor);
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() {
  if (descriptor >= 0)
    ::close(descriptor);
  descriptor = -1;
  unfinished.reset();
  buffer.clear();
}

Status AtomicFile::fail(const std::string &message) {
  failure = Status::error("cannot write '" + name + "': " + message);
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
      return fail(describeError(errno));
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
    int error = makeHidden(*unfinished, [&](const char *hidden) {
      return ::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, hidden,
                      AT_SYMLINK_FOLLOW) == 0;
    });
    if (error == 0)
      return Status::success();
    if (error != EEXIST || attempt >= maxAttempts)
      return fail(describeError(error));
  }
}

Status AtomicFile::replaceTarget() {
  FileTransaction *transaction = FileTransaction::current();
  std::unique_ptr<FileOnDisk> old;
  if (transaction) {
    old = std::make_unique<FileOnDisk>(FileOnDisk::Role::Old, target,
                                       transaction->family, transaction);
    if (Status status = keepOld(*old); !status.ok())
      return fail(status.message());
  }
  int error = 0;
  {
    DiskLock lock;
    if (isAbandoned)
      error = abandonedError;
    else if (::rename(unfinished->hidden.c_str(), target.c_str()) != 0)
      error = errno;
    else {
      unfinished->role = FileOnDisk::Role::Final;
      if (old) {
        old->role = old->hidden.empty() ? FileOnDisk::Role::New
                                        : FileOnDisk::Role::Replaced;
        if (!old->isListed)
          old->enterList();
      }
    }
  }
  if (error != 0)
    return fail(describeError(error));
  (void)old.release(); // the transaction's
  return Status::success();
}

Status AtomicFile::commit() {
  if (!failure.ok())
    return failure;
  if (descriptor < 0)
    return Status::error("cannot write '" + name +
                         "': the file is already complete");
  if (!unfinished->isOurs())
    return fail("it was begun by the process that made this one by fork()");
  if (Status status = writeThrough(buffer.data(), buffer.size()); !status.ok())
    return status;
  // The data must be on the disk before the name is: after a power failure a
  // renamed file could else be empty.
  if (::fsync(descriptor) != 0)
    return fail(describeError(errno));
  if (unfinished->hidden.empty())
    if (Status status = linkUnnamed(); !status.ok())
      return status;
  int toClose = std::exchange(descriptor, -1);
  if (::close(toClose) != 0)
    return fail(describeError(errno));
  if (Status status = replaceTarget(); !status.ok())
    return status;
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

FileTransaction::FileTransaction(Scope scope)
    : previous(innermost), outer(current()) {
  static std::atomic<uint64_t> numFamilies;
  family = outer ? outer->family : ++numFamilies;
  innermost = this;
  if (scope == Scope::Process && !outer)
    ofProcess.store(this);
}

FileTransaction *FileTransaction::current() {
  return innermost ? innermost : ofProcess.load();
}

/// Takes those of `owner` from the list, the latest first, and calls `end` for
/// each, with the lock held. Their memory is to be freed without it: see
/// deleteAll().
template <typename End>
static FileOnDisk *endAll(FileTransaction *owner, End end) {
  FileOnDisk *ended = nullptr;
  for (FileOnDisk *file = latest, *next; file; file = next) {
    next = file->before;
    if (file->owner != owner || file->role == FileOnDisk::Role::Old)
      continue;
    end(*file);
    file->leaveList();
    file->before = std::exchange(ended, file);
  }
  return ended;
}

static void deleteAll(FileOnDisk *files) {
  while (files)
    delete std::exchange(files, files->before);
}

FileTransaction::~FileTransaction() {
  FileOnDisk *ended;
  {
    DiskLock lock;
    ended = endAll(this, [](FileOnDisk &file) { file.takeBack(); });
  }
  deleteAll(ended);
  innermost = previous;
  FileTransaction *self = this;
  ofProcess.compare_exchange_strong(self, nullptr);
}

Status FileTransaction::commit() {
  FileOnDisk *ended = nullptr;
  bool failed;
  {
    DiskLock lock;
    failed = isAbandoned;
    if (outer && !failed) {
      for (FileOnDisk *file = latest; file; file = file->before)
        if (file->owner == this)
          file->owner = outer;
    } else if (!failed) {
      ended = endAll(this, [](FileOnDisk &file) {
        if (file.role == FileOnDisk::Role::Replaced && file.isOurs())
          ::unlink(file.hidden.c_str());
        file.role = FileOnDisk::Role::Final;
      });
    }
  }
  deleteAll(ended);
  return failed ? Status::error("the process was interrupted, and the files "
                                "that it wrote are taken back")
                : Status::success();
}

bool FileTransaction::hasWritten(const std::string &path) {
  FileTransaction *transaction = current();
  Result<std::string> target = resolveTarget(path);
  if (!transaction || !target.ok())
    return false;
  DiskLock lock;
  for (FileOnDisk *file = latest; file; file = file->before)
    if (file->isCompleted() && file->family == transaction->family &&
        file->target == *target)
      return true;
  return false;
}

FileTransactionMember::FileTransactionMember(FileTransaction *transaction)
    : previous(std::exchange(innermost, transaction)) {}

FileTransactionMember::~FileTransactionMember() { innermost = previous; }

Status quant_llm::writeFileAtomically(const std::string &path, const void *data,
                                      size_t count) {
  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file.ok())
    return file.status();
  if (Status status = file->write(data, count); !status.ok())
    return status;
  return file->commit();
}
