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

#include <csignal>
#include <functional>

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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

TEST(InterruptCleanupTest, MoreFilesThanSlots) {
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
    // The first one is what comes back.
    ASSERT_TRUE(writeFileAtomically(dir / "old", "third", 5).ok());
    EXPECT_EQ(readFile(dir / "old"), "third");
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
    files.commit();
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
      inner.commit();
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
  EXPECT_TRUE(writeFileAtomically(dir / "out", "y", 1).ok());
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
