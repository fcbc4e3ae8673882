//===- AtomicFileTest.cpp -------------------------------------------------===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "quant-llm/Support/AtomicFile.h"

#include "../TestFiles.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <functional>
#include <thread>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

//===----------------------------------------------------------------------===//
// Calls of the system that the code under test makes
//===----------------------------------------------------------------------===//

/// At the step of this number comes the signal; -1 is never.
static int signalAtStep = -1;
static int numSteps = 0;
static int linkError = 0, renameError = 0;

/// A signal can come before a call and after it.
static void step() {
  if (numSteps++ == signalAtStep)
    ::raise(SIGTERM);
}

template <typename Call>
static int inSteps(Call call) {
  step();
  int result = call();
  int error = errno;
  step();
  errno = error;
  return result;
}

static int failWith(int error) {
  errno = error;
  return -1;
}

extern "C" int link(const char *from, const char *to) noexcept {
  return inSteps([&] {
    return linkError ? failWith(linkError)
                     : ::linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
  });
}

extern "C" int rename(const char *from, const char *to) noexcept {
  return inSteps([&] {
    return renameError ? failWith(renameError)
                       : ::renameat(AT_FDCWD, from, AT_FDCWD, to);
  });
}

extern "C" int unlink(const char *path) noexcept {
  return inSteps([&] { return ::unlinkat(AT_FDCWD, path, 0); });
}

extern "C" int fsync(int descriptor) {
  return inSteps(
      [&] { return static_cast<int>(::syscall(SYS_fsync, descriptor)); });
}

//===----------------------------------------------------------------------===//
// Helpers
//===----------------------------------------------------------------------===//

using namespace quant_llm;
using namespace quant_llm::test;

using Temporary = AtomicFile::Temporary;
using Names = std::set<std::string>;

namespace {

/// Both ways to keep the unfinished file.
class AtomicFileTest : public ::testing::TestWithParam<Temporary> {};

/// Runs `body` in a child process; its result is the exit status.
int inChild(const std::function<int()> &body) {
  pid_t child = ::fork();
  if (child == 0)
    ::_exit(body());
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/// Starts a child that runs `body` and then waits; sends it `signal` once body
/// is done and returns the status of waitpid().
int interruptChild(int signal, const std::function<void()> &body) {
  int ready[2];
  EXPECT_EQ(::pipe(ready), 0);
  pid_t child = ::fork();
  if (child == 0) {
    body();
    (void)!::write(ready[1], "x", 1);
    for (;;)
      ::pause();
  }
  char byte;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  ::kill(child, signal);
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  ::close(ready[0]);
  ::close(ready[1]);
  return status;
}

} // namespace

INSTANTIATE_TEST_SUITE_P(Both, AtomicFileTest,
                         ::testing::Values(Temporary::Automatic,
                                           Temporary::Named));

TEST_P(AtomicFileTest, AppearsAtCommit) {
  TempDir dir;
  Result<AtomicFile> file = AtomicFile::create(dir / "out", GetParam());
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->path(), dir / "out");
  std::string expected;
  for (int i = 0; i < 2000; ++i) { // small pieces and ones beyond the buffer
    std::string piece(i % 500 == 499 ? 300000 : i % 7, 'a' + i % 26);
    expected += piece;
    ASSERT_TRUE(file->write(piece.data(), piece.size()).ok());
    ASSERT_FALSE(std::filesystem::exists(dir / "out"));
  }
  Status status = file->commit();
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(dir.list(), Names{"out"});
  EXPECT_EQ(readFile(dir / "out"), expected);
  expectError(file->write("x", 1), "already complete");
  expectError(file->commit(), "already complete");
}

TEST_P(AtomicFileTest, ReplacesAndKeepsPermissions) {
  TempDir dir;
  writeFile(dir / "out", "old");
  ASSERT_EQ(::chmod((dir / "out").c_str(), 0640), 0);
  Result<AtomicFile> file = AtomicFile::create(dir / "out", GetParam());
  ASSERT_TRUE(file.ok()) << file.message();
  ASSERT_TRUE(file->write("new", 3).ok());
  EXPECT_EQ(readFile(dir / "out"), "old");
  ASSERT_TRUE(file->commit().ok());
  EXPECT_EQ(readFile(dir / "out"), "new");
  struct stat info;
  ASSERT_EQ(::stat((dir / "out").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST_P(AtomicFileTest, NewFilesFollowTheUmask) {
  TempDir dir;
  mode_t old = ::umask(027);
  Result<AtomicFile> file = AtomicFile::create(dir / "out", GetParam());
  ::umask(old);
  ASSERT_TRUE(file.ok() && file->commit().ok());
  struct stat info;
  ASSERT_EQ(::stat((dir / "out").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST_P(AtomicFileTest, WithoutCommitNothingIsLeft) {
  TempDir dir;
  writeFile(dir / "out", "old");
  {
    Result<AtomicFile> file = AtomicFile::create(dir / "out", GetParam());
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->write("new", 3).ok());
    AtomicFile moved = file.take();
    EXPECT_EQ(dir.list().size(), GetParam() == Temporary::Named ? 2u : 1u);
  }
  EXPECT_EQ(dir.list(), Names{"out"});
  EXPECT_EQ(readFile(dir / "out"), "old");
}

TEST_P(AtomicFileTest, RelativePathsSurviveChangeOfDirectory) {
  TempDir dir;
  EXPECT_EQ(inChild([&] {
              if (::chdir(dir.path.c_str()) != 0)
                return 1;
              Result<AtomicFile> file = AtomicFile::create("out", GetParam());
              if (!file.ok() || ::chdir("/") != 0)
                return 2;
              return file->write("x", 1).ok() && file->commit().ok() ? 0 : 3;
            }),
            0);
  EXPECT_EQ(dir.list(), Names{"out"});
}

TEST_P(AtomicFileTest, FollowsLinksToFiles) {
  TempDir dir;
  ASSERT_EQ(::mkdir((dir / "real").c_str(), 0700), 0);
  writeFile(dir / "real/file", "old");
  ASSERT_EQ(::symlink("real/file", (dir / "link").c_str()), 0);
  Result<AtomicFile> file = AtomicFile::create(dir / "link", GetParam());
  ASSERT_TRUE(file.ok() && file->write("new", 3).ok() && file->commit().ok());
  EXPECT_TRUE(std::filesystem::is_symlink(dir / "link"));
  EXPECT_EQ(readFile(dir / "real/file"), "new");
}

TEST_P(AtomicFileTest, LongNames) {
  TempDir dir;
  std::string name(255, 'n');
  Result<AtomicFile> file = AtomicFile::create(dir / name, GetParam());
  ASSERT_TRUE(file.ok()) << file.message();
  ASSERT_TRUE(file->commit().ok());
  EXPECT_EQ(dir.list(), Names{name});
}

TEST_P(AtomicFileTest, RefusesWhatIsNoFile) {
  TempDir dir;
  auto create = [&](const std::string &path) {
    return AtomicFile::create(path, GetParam());
  };
  expectError(create(""), "expected a path");
  expectError(create(std::string("a\0b", 3)), "without zero bytes");
  expectError(create(dir.path), "but got a directory");
  expectError(create(dir.path + "/"), "but got a directory");
  expectError(create(dir / "missing/"), "a file name is expected");
  expectError(create(dir / "missing/out"), "cannot write '" +
                                               (dir / "missing/out") +
                                               "': No such file or directory");
  expectError(create("/dev/full"), "but got a special file");
  writeFile(dir / "file", "x");
  expectError(create(dir / "file/out"), "Not a directory");
  if (::geteuid() != 0) { // root may write everywhere
    ASSERT_EQ(::mkdir((dir / "closed").c_str(), 0500), 0);
    expectError(create(dir / "closed/out"), "Permission denied");
  }
  EXPECT_EQ(readFile(dir / "file"), "x");
}

TEST_P(AtomicFileTest, FileSizeLimit) {
  TempDir dir;
  writeFile(dir / "out", "old");
  EXPECT_EQ(inChild([&] {
              struct rlimit limit = {100000, 100000};
              ::signal(SIGXFSZ, SIG_IGN);
              if (::setrlimit(RLIMIT_FSIZE, &limit) != 0)
                return 1;
              Result<AtomicFile> file =
                  AtomicFile::create(dir / "out", GetParam());
              if (!file.ok())
                return 2;
              std::string data(400000, 'x');
              Status status = file->write(data.data(), data.size());
              if (status.ok() || status.message() != "cannot write '" +
                                                         (dir / "out") +
                                                         "': File too large")
                return 3;
              // It stays failed.
              return file->write("x", 1).ok() || file->commit().ok() ? 4 : 0;
            }),
            0);
  EXPECT_EQ(dir.list(), Names{"out"});
  EXPECT_EQ(readFile(dir / "out"), "old");
}

TEST_P(AtomicFileTest, FullDisk) {
  TempDir dir;
  int result = inChild([&] {
    // A small file system of our own, invisible to everybody else.
    int flags = CLONE_NEWNS | (::geteuid() == 0 ? 0 : CLONE_NEWUSER);
    if (::unshare(flags) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", dir.path.c_str(), "tmpfs", 0, "size=128k") != 0)
      return 77;
    writeFile(dir / "out", "old");
    for (size_t size : {100000, 200000, 1000000}) {
      Result<AtomicFile> file = AtomicFile::create(dir / "out", GetParam());
      if (!file.ok())
        return 2;
      std::string data(size, 'x');
      Status status = file->write(data.data(), data.size());
      if (status.ok()) // what is still in the buffer fails here
        status = file->commit();
      bool fits = size < 128 * 1024;
      if (status.ok() != fits)
        return 3;
      if (!fits && status.message() != "cannot write '" + (dir / "out") +
                                           "': No space left on device")
        return 4;
      if (dir.list() != Names{"out"} ||
          readFile(dir / "out") != std::string(100000, 'x'))
        return 5;
    }
    return 0;
  });
  if (result == 77)
    GTEST_SKIP() << "a tmpfs cannot be mounted here";
  EXPECT_EQ(result, 0);
}

TEST_P(AtomicFileTest, KilledWriterLeavesTheOldFile) {
  for (bool exists : {true, false}) {
    TempDir dir;
    if (exists)
      writeFile(dir / "out", "old");
    std::optional<Result<AtomicFile>> file;
    int status = interruptChild(SIGKILL, [&] {
      file = AtomicFile::create(dir / "out", GetParam());
      std::string data(1 << 20, 'x');
      if (!file->ok() || !(*file)->write(data.data(), data.size()).ok())
        ::_exit(1);
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    Names names = dir.list();
    EXPECT_EQ(names.count("out"), exists ? 1u : 0u);
    if (exists) {
      EXPECT_EQ(readFile(dir / "out"), "old");
    }
    // A named temporary file is what SIGKILL can leave, hidden; tmpfs and most
    // local file systems do not need one.
    for (const std::string &name : names)
      EXPECT_TRUE(name == "out" || name[0] == '.') << name;
  }
}

TEST_P(AtomicFileTest, InterruptedToolLeavesNothing) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    TempDir dir;
    writeFile(dir / "other", "old");
    std::optional<Result<AtomicFile>> files[3];
    int status = interruptChild(signal, [&] {
      for (int handled : {SIGINT, SIGTERM, SIGHUP})
        ::signal(handled, SIG_DFL);
      installInterruptCleanup();
      installInterruptCleanup();
      for (int i = 0; i < 3; ++i) {
        files[i] =
            AtomicFile::create(dir / ("out" + std::to_string(i)), GetParam());
        if (!files[i]->ok() || !(*files[i])->write("x", 1).ok())
          ::_exit(1);
      }
      // What is complete stays.
      if (!(*files[2])->commit().ok())
        ::_exit(1);
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal);
    EXPECT_EQ(dir.list(), (Names{"other", "out2"}));
  }
}

TEST(InterruptCleanupTest, KeepsEarlierHandlersAndIgnoredSignals) {
  TempDir dir;
  EXPECT_EQ(inChild([&] {
              ::signal(SIGHUP, SIG_IGN);
              ::signal(SIGTERM, [](int) { ::_exit(42); });
              installInterruptCleanup();
              Result<AtomicFile> file =
                  AtomicFile::create(dir / "out", Temporary::Named);
              if (!file.ok())
                return 1;
              ::raise(SIGHUP);
              if (dir.list().size() != 1)
                return 2;
              ::raise(SIGTERM);
              return 3;
            }),
            42);
  EXPECT_EQ(dir.list(), Names{});
}

TEST(InterruptCleanupTest, ManyFiles) {
  TempDir dir;
  std::vector<AtomicFile> files;
  for (int i = 0; i < 100; ++i) {
    Result<AtomicFile> file =
        AtomicFile::create(dir / std::to_string(i), Temporary::Named);
    ASSERT_TRUE(file.ok()) << file.message();
    files.push_back(file.take());
  }
  for (AtomicFile &file : files)
    ASSERT_TRUE(file.commit().ok());
  EXPECT_EQ(dir.list().size(), 100u);
}

TEST(WriteFileAtomicallyTest, WritesAll) {
  TempDir dir;
  ASSERT_TRUE(writeFileAtomically(dir / "out", "text", 4).ok());
  EXPECT_EQ(readFile(dir / "out"), "text");
  ASSERT_TRUE(writeFileAtomically(dir / "out", nullptr, 0).ok());
  EXPECT_EQ(readFile(dir / "out"), "");
  expectError(writeFileAtomically(dir / "no/out", "text", 4), "cannot write");
}

TEST(FileTransactionTest, TakesBackWhatIsNotKept) {
  TempDir dir;
  ASSERT_TRUE(writeFileAtomically(dir / "old", "first", 5).ok());
  {
    FileTransaction files;
    ASSERT_TRUE(writeFileAtomically(dir / "old", "second", 6).ok());
    ASSERT_TRUE(writeFileAtomically(dir / "new", "new", 3).ok());
    EXPECT_EQ(readFile(dir / "old"), "second");
  }
  EXPECT_EQ(readFile(dir / "old"), "first");
  EXPECT_EQ(dir.list(), Names{"old"});
}

TEST(FileTransactionTest, KeepsAndLeavesNothingElse) {
  TempDir dir;
  ASSERT_TRUE(writeFileAtomically(dir / "old", "first", 5).ok());
  {
    FileTransaction files;
    ASSERT_TRUE(writeFileAtomically(dir / "old", "second", 6).ok());
    ASSERT_TRUE(writeFileAtomically(dir / "new", "new", 3).ok());
    ASSERT_TRUE(files.commit().ok());
    ASSERT_TRUE(writeFileAtomically(dir / "late", "late", 4).ok());
  }
  EXPECT_EQ(readFile(dir / "old"), "second");
  EXPECT_EQ(dir.list(), (Names{"old", "new"}));
}

TEST(FileTransactionTest, InnerOnesBelongToTheOuter) {
  TempDir dir;
  {
    FileTransaction outer;
    {
      FileTransaction inner;
      ASSERT_TRUE(writeFileAtomically(dir / "a", "a", 1).ok());
      ASSERT_TRUE(inner.commit().ok());
    }
    EXPECT_EQ(dir.list(), Names{"a"});
    {
      FileTransaction inner;
      ASSERT_TRUE(writeFileAtomically(dir / "b", "b", 1).ok());
    }
    EXPECT_EQ(dir.list(), Names{"a"});
  }
  EXPECT_EQ(dir.list(), Names{});
}

TEST(FileTransactionTest, RefusesTwoWritersOfOneFile) {
  TempDir dir;
  FileTransaction files;
  {
    Result<AtomicFile> first = AtomicFile::create(dir / "out");
    ASSERT_TRUE(first.ok()) << first.message();
    expectError(writeFileAtomically(dir / "./out", "x", 1),
                "another file of the same name is being written");
    // Moving does not end it, its end does.
    AtomicFile moved = first.take();
    expectError(AtomicFile::create(dir / "out").status(), "being written");
  }
  EXPECT_TRUE(writeFileAtomically(dir / "out", "x", 1).ok());
  const char *lost = "it was written earlier in the same run and would be lost";
  expectError(writeFileAtomically(dir / "./out", "y", 1), lost);
  std::thread([&, here = FileTransaction::current()] {
    FileTransactionMember member(here);
    expectError(writeFileAtomically(dir / "out", "y", 1), lost);
  }).join();
  EXPECT_EQ(readFile(dir / "out"), "x");
  ASSERT_TRUE(files.commit().ok());
  EXPECT_TRUE(writeFileAtomically(dir / "out", "y", 1).ok());
}

TEST(FileTransactionTest, KnowsWhatItHasWritten) {
  TempDir dir;
  ASSERT_TRUE(writeFileAtomically(dir / "old", "x", 1).ok());
  EXPECT_FALSE(FileTransaction::hasWritten(dir / "old"));
  {
    FileTransaction outer;
    EXPECT_FALSE(FileTransaction::hasWritten(dir / "old"));
    ASSERT_TRUE(writeFileAtomically(dir / "old", "y", 1).ok());
    Result<AtomicFile> begun = AtomicFile::create(dir / "new");
    ASSERT_TRUE(begun.ok()) << begun.message();
    EXPECT_FALSE(FileTransaction::hasWritten(dir / "new"));
    ASSERT_TRUE(begun->commit().ok());
    {
      FileTransaction inner;
      for (const char *name : {"old", "./old", "new"})
        EXPECT_TRUE(FileTransaction::hasWritten(dir / name)) << name;
      ASSERT_TRUE(writeFileAtomically(dir / "inner", "x", 1).ok());
    }
    EXPECT_FALSE(FileTransaction::hasWritten(dir / "inner")); // taken back
    EXPECT_FALSE(FileTransaction::hasWritten(dir / "none/at/all"));
    ASSERT_TRUE(outer.commit().ok());
    EXPECT_FALSE(FileTransaction::hasWritten(dir / "old"));
  }
  FileTransaction other;
  EXPECT_FALSE(FileTransaction::hasWritten(dir / "old"));
}

TEST(FileTransactionTest, InterruptsTakeBackToo) {
  TempDir dir;
  ASSERT_TRUE(writeFileAtomically(dir / "old", "first", 5).ok());
  int status = interruptChild(SIGTERM, [&] {
    ::signal(SIGTERM, SIG_DFL);
    installInterruptCleanup();
    static FileTransaction files;
    if (!writeFileAtomically(dir / "old", "second", 6).ok() ||
        !writeFileAtomically(dir / "new", "new", 3).ok())
      ::_exit(1);
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
  EXPECT_EQ(readFile(dir / "old"), "first");
  EXPECT_EQ(dir.list(), Names{"old"});
}

TEST(FileTransactionTest, InnerOnesReplaceNothingOfTheOuter) {
  TempDir dir;
  writeFile(dir / "a", "old");
  {
    FileTransaction outer;
    ASSERT_TRUE(writeFileAtomically(dir / "a", "outer", 5).ok());
    {
      FileTransaction inner;
      expectError(writeFileAtomically(dir / "a", "inner", 5), "would be lost");
      ASSERT_TRUE(writeFileAtomically(dir / "b", "inner", 5).ok());
    }
    EXPECT_EQ(readFile(dir / "a"), "outer");
    // What was taken back is nobody's.
    ASSERT_TRUE(writeFileAtomically(dir / "b", "outer", 5).ok());
  }
  EXPECT_EQ(readFile(dir / "a"), "old");
  EXPECT_EQ(dir.list(), Names{"a"});
}

TEST(FileTransactionTest, Members) {
  TempDir dir;
  {
    FileTransaction files;
    std::thread([&, here = FileTransaction::current()] {
      EXPECT_EQ(here, &files);
      FileTransaction other;
      {
        FileTransactionMember member(here);
        EXPECT_TRUE(writeFileAtomically(dir / "a", "a", 1).ok());
        FileTransaction inner;
        EXPECT_TRUE(writeFileAtomically(dir / "b", "b", 1).ok());
        EXPECT_TRUE(inner.commit().ok());
      }
      {
        FileTransactionMember none(nullptr);
        EXPECT_TRUE(writeFileAtomically(dir / "c", "c", 1).ok());
      }
      EXPECT_EQ(FileTransaction::current(), &other);
    }).join();
    EXPECT_TRUE(FileTransaction::hasWritten(dir / "b"));
    EXPECT_FALSE(FileTransaction::hasWritten(dir / "c"));
    EXPECT_EQ(dir.list(), (Names{"a", "b", "c"}));
  }
  EXPECT_EQ(dir.list(), Names{"c"});
}

TEST(FileTransactionTest, OtherThreads) {
  TempDir dir;
  for (auto scope :
       {FileTransaction::Scope::Thread, FileTransaction::Scope::Process}) {
    {
      FileTransaction files(scope);
      std::thread([&] {
        EXPECT_TRUE(writeFileAtomically(dir / "a", "a", 1).ok());
        {
          FileTransaction inner;
          EXPECT_TRUE(writeFileAtomically(dir / "b", "b", 1).ok());
          EXPECT_TRUE(inner.commit().ok());
        }
        EXPECT_TRUE(writeFileAtomically(dir / "c", "c", 1).ok());
      }).join();
      EXPECT_EQ(dir.list(), (Names{"a", "b", "c"}));
    }
    // Without a transaction of its thread, a file is final.
    if (scope == FileTransaction::Scope::Thread)
      EXPECT_EQ(dir.list(), (Names{"a", "b", "c"}));
    else
      EXPECT_EQ(dir.list(), Names{});
    for (const char *name : {"a", "b", "c"})
      std::filesystem::remove(dir / name);
  }
}

namespace {

/// A directory with an old file, in which two files are written that belong
/// together.
struct TwoFiles {
  TwoFiles() { writeFile(dir / "old", "first"); }
  explicit TwoFiles(const std::string &base) : dir(base) {
    writeFile(dir / "old", "first");
  }

  /// The whole work of a child.
  int write() const {
    FileTransaction files;
    for (const char *name : {"old", "new"})
      if (!writeFileAtomically(dir / name, "second", 6).ok())
        return 1;
    return files.commit().ok() ? 0 : 2;
  }

  bool isUntouched() const {
    return dir.list() == Names{"old"} && readFile(dir / "old") == "first";
  }
  bool isComplete() const {
    return dir.list() == Names{"old", "new"} &&
           readFile(dir / "old") == "second" &&
           readFile(dir / "new") == "second";
  }

  TempDir dir;
};

} // namespace

TEST(FileTransactionTest, SignalAtEveryStep) {
  for (int error : {0, EPERM}) {
    int numUntouched = 0, numComplete = 0;
    for (int at = 0;; ++at) {
      TwoFiles files;
      int result = inChild([&] {
        ::signal(SIGTERM, SIG_DFL);
        installInterruptCleanup();
        linkError = error;
        signalAtStep = at;
        numSteps = 0;
        int status = files.write();
        return numSteps > at ? 100 : status; // the signal was lost
      });
      if (result == 0) {
        EXPECT_TRUE(files.isComplete());
        break;
      }
      ASSERT_EQ(result, 1000 + SIGTERM) << "step " << at;
      EXPECT_NE(files.isUntouched(), files.isComplete()) << "step " << at;
      numUntouched += files.isUntouched();
      numComplete += files.isComplete();
    }
    // Two files: at least a sync, a second name and a rename each, and the end.
    EXPECT_GE(numUntouched, 12);
    EXPECT_GE(numComplete, 1);
  }
}

TEST(FileTransactionTest, SignalsAtAnyTimeInAnyThread) {
  // The signal arrives in the thread that writes, or in another one.
  for (bool inOther : {false, true}) {
    for (int i = 0; i < 40; ++i) {
      TempDir dir;
      writeFile(dir / "a", "0");
      writeFile(dir / "b", "0");
      int status = interruptChild(i % 2 ? SIGTERM : SIGINT, [&] {
        for (int handled : {SIGINT, SIGTERM})
          ::signal(handled, SIG_DFL);
        installInterruptCleanup();
        // Writes until it is interrupted, after the parent was told.
        auto work = [&] {
          for (int round = 1;; ++round) {
            std::string text = std::to_string(round);
            FileTransaction files;
            for (const char *name : {"a", "b"})
              if (!writeFileAtomically(dir / name, text.data(), text.size())
                       .ok())
                return;
            (void)files.commit();
          }
        };
        static std::thread worker;
        if (!inOther) {
          sigset_t handled;
          ::sigemptyset(&handled);
          ::sigaddset(&handled, SIGINT);
          ::sigaddset(&handled, SIGTERM);
          worker = std::thread(work);
          ::pthread_sigmask(SIG_BLOCK, &handled, nullptr);
        } else {
          worker = std::thread([work] {
            sigset_t handled;
            ::sigfillset(&handled);
            ::pthread_sigmask(SIG_BLOCK, &handled, nullptr);
            work();
          });
        }
        ::usleep(1 + 263 * i);
      });
      EXPECT_TRUE(WIFSIGNALED(status)) << status;
      EXPECT_EQ(dir.list(), (Names{"a", "b"}));
      EXPECT_EQ(readFile(dir / "a"), readFile(dir / "b"));
    }
  }
}

TEST(FileTransactionTest, NothingIsWrittenAfterTheSignal) {
  TwoFiles files;
  EXPECT_EQ(
      inChild([&] {
        // The process goes on.
        ::signal(SIGTERM, [](int) {});
        installInterruptCleanup();
        FileTransaction transaction;
        Result<AtomicFile> begun = AtomicFile::create(files.dir / "begun");
        if (!begun.ok() || !begun->write("x", 1).ok() ||
            !writeFileAtomically(files.dir / "old", "second", 6).ok())
          return 1;
        ::raise(SIGTERM);
        for (Status status : {begun->commit(), transaction.commit(),
                              writeFileAtomically(files.dir / "late", "x", 1)})
          if (status.message().find("the process was interrupted") ==
              std::string::npos)
            return 2;
        return 0;
      }),
      0);
  EXPECT_TRUE(files.isUntouched());
}

TEST(FileTransactionTest, AbandonedFilesAndChildren) {
  TwoFiles files;
  EXPECT_EQ(inChild([&] {
              ::signal(SIGTERM, SIG_DFL);
              installInterruptCleanup();
              FileTransaction transaction;
              if (!writeFileAtomically(files.dir / "old", "second", 6).ok() ||
                  !writeFileAtomically(files.dir / "new", "second", 6).ok())
                return 1;
              // A child has no part in the files of its parent.
              if (inChild([] { return ::raise(SIGTERM); }) != 1000 + SIGTERM ||
                  readFile(files.dir / "old") != "second")
                return 2;
              abandonFiles();
              return 0;
            }),
            0);
  EXPECT_TRUE(files.isUntouched());
}

TEST(FileTransactionTest, ChildrenEndNothingOfTheirParent) {
  for (Temporary temporary : {Temporary::Automatic, Temporary::Named}) {
    TempDir dir;
    writeFile(dir / "old", "first");
    FileTransaction transaction;
    ASSERT_TRUE(writeFileAtomically(dir / "old", "second", 6).ok());
    ASSERT_TRUE(writeFileAtomically(dir / "new", "second", 6).ok());
    Result<AtomicFile> begun = AtomicFile::create(dir / "begun", temporary);
    ASSERT_TRUE(begun.ok() && begun->write("third", 5).ok());
    Names before = dir.list();
    EXPECT_EQ(inChild([&] {
                // Its own files are as always.
                if (!writeFileAtomically(dir / "own", "x", 1).ok())
                  return 1;
                if (begun->commit().message().find("by fork()") ==
                    std::string::npos)
                  return 2;
                AtomicFile ended = begun.take();
                if (!transaction.commit().ok())
                  return 3;
                return 0;
              }),
              0);
    Names after = before;
    after.insert("own");
    EXPECT_EQ(dir.list(), after);
    EXPECT_EQ(inChild([] {
                abandonFiles();
                return 0;
              }),
              0);
    EXPECT_EQ(dir.list(), after);
    ASSERT_TRUE(begun->commit().ok() && transaction.commit().ok());
    EXPECT_EQ(readFile(dir / "begun"), "third");
    EXPECT_EQ(readFile(dir / "old"), "second");
    EXPECT_EQ(dir.list(), (Names{"begun", "new", "old", "own"}));
  }
}

TEST(FileTransactionTest, ChildrenOfAnyMoment) {
  TempDir dir;
  std::atomic<bool> isDone{false};
  std::thread writer([&] {
    while (!isDone)
      for (const char *name : {"a", "b"})
        (void)AtomicFile::create(dir / name, Temporary::Named);
  });
  // One that waited for what the writer holds would be ended by the alarm.
  for (int i = 0; i < 30; ++i)
    EXPECT_EQ(inChild([&] {
                ::alarm(20);
                return AtomicFile::create(dir / "mine", Temporary::Named).ok()
                           ? 0
                           : 1;
              }),
              0);
  isDone = true;
  writer.join();
  EXPECT_EQ(dir.list(), Names{});
}

TEST(FileTransactionTest, WithoutHardLinks) {
  for (int error : {EPERM, EMLINK, EOPNOTSUPP}) {
    TwoFiles files;
    ASSERT_EQ(::chmod((files.dir / "old").c_str(), 0640), 0);
    linkError = error;
    {
      FileTransaction transaction;
      ASSERT_TRUE(writeFileAtomically(files.dir / "old", "second", 6).ok());
      EXPECT_EQ(readFile(files.dir / "old"), "second");
    }
    EXPECT_TRUE(files.isUntouched());
    struct stat info;
    ASSERT_EQ(::stat((files.dir / "old").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0640u);
    EXPECT_EQ(files.write(), 0);
    EXPECT_TRUE(files.isComplete());
    linkError = 0;
  }
}

TEST(FileTransactionTest, FilesThatCannotBeKeptAreNotReplaced) {
  // TMPDIR may be a folder that nobody but root can enter, as lit's is.
  TwoFiles files("/tmp");
  int result = inChild([&] {
    // Not even readable, for who is not root.
    if (::chmod(files.dir.path.c_str(), 0777) != 0 ||
        ::chmod((files.dir / "old").c_str(), 0) != 0 ||
        (::geteuid() == 0 && ::seteuid(65534) != 0))
      return 77;
    linkError = EPERM;
    FileTransaction transaction;
    Status status = writeFileAtomically(files.dir / "old", "second", 6);
    if (status.message().find("cannot be kept until all others are "
                              "written: no second name (Operation not "
                              "permitted) and no copy (Permission denied); "
                              "write to another place") != std::string::npos)
      return 0;
    std::fprintf(stderr, "got: %s\n", status.message().c_str());
    return 1;
  });
  if (result == 77)
    GTEST_SKIP() << "the user cannot be changed here";
  EXPECT_EQ(result, 0);
  ASSERT_EQ(::chmod((files.dir / "old").c_str(), 0644), 0);
  EXPECT_TRUE(files.isUntouched());
}

TEST(FileTransactionTest, SaysWhatCannotBePutBack) {
  TwoFiles files;
  ::testing::internal::CaptureStderr();
  {
    FileTransaction transaction;
    ASSERT_TRUE(writeFileAtomically(files.dir / "old", "second", 6).ok());
    renameError = EACCES;
  }
  renameError = 0;
  std::string message = ::testing::internal::GetCapturedStderr();
  Names names = files.dir.list();
  ASSERT_EQ(names.size(), 2u);
  std::string hidden = files.dir / *names.begin();
  EXPECT_EQ(message, "error: cannot put back '" + (files.dir / "old") +
                         "': its old contents are in '" + hidden + "'\n");
  EXPECT_EQ(readFile(hidden), "first");
}

TEST(FileTransactionTest, RenameThatFails) {
  TwoFiles files;
  FileTransaction transaction;
  renameError = EACCES;
  expectError(writeFileAtomically(files.dir / "old", "second", 6),
              "Permission denied");
  renameError = 0;
  EXPECT_TRUE(files.isUntouched());
}
