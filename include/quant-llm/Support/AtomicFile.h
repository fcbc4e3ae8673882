//===- AtomicFile.h - Files that appear complete or not at all --*- C++ -*-===//
//
// Part of the quant-llm project, under the Apache License v2.0 with LLVM
// Exceptions. See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QUANT_LLM_SUPPORT_ATOMICFILE_H
#define QUANT_LLM_SUPPORT_ATOMICFILE_H

#include "quant-llm/Support/Status.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace quant_llm {

/// What is on the disk because of a file that is written (AtomicFile.cpp).
struct FileOnDisk;

/// A file written beside its final place and renamed there by commit(): readers
/// see the old file or the complete new one, never a part. Without commit(),
/// destruction leaves nothing behind, and neither does a full disk. While it is
/// written the file has no name at all where the file system allows that (so
/// that not even SIGKILL leaves anything), and else a hidden one in the same
/// directory, which installInterruptCleanup() takes care of.
class AtomicFile {
public:
  /// How the unfinished file is kept; Named is the fall-back of Automatic.
  enum class Temporary { Automatic, Named };

  /// Starts a file that will replace `path`. Fails if the directory cannot be
  /// written, or if `path` exists and is not a regular file (or a symbolic link
  /// to one, in which case the file linked to is replaced).
  static Result<AtomicFile> create(const std::string &path,
                                   Temporary temporary = Temporary::Automatic);

  AtomicFile(AtomicFile &&other) noexcept;
  AtomicFile &operator=(AtomicFile &&other) noexcept;
  AtomicFile(const AtomicFile &) = delete;
  AtomicFile &operator=(const AtomicFile &) = delete;
  ~AtomicFile();

  /// The path as given to create().
  const std::string &path() const { return name; }

  /// Appends. After an error every further call fails.
  Status write(const void *data, size_t count);

  /// Flushes to the disk and renames. Nothing may be called afterwards.
  Status commit();

private:
  AtomicFile();
  void discard();
  Status fail(const std::string &message);
  Status linkUnnamed();
  Status replaceTarget();
  Status writeThrough(const uint8_t *data, size_t count);

  std::string name;   // as given
  std::string target; // absolute, links resolved
  std::vector<uint8_t> buffer;
  Status failure;
  std::unique_ptr<FileOnDisk> unfinished; // null if moved from or done
  int descriptor = -1;
};

/// Files that appear together or not at all. While a transaction is alive, the
/// files that AtomicFile completes in its scope can be taken back: destruction
/// without commit() removes those that were new and puts back those that were
/// replaced. Of an old file a hidden second name is kept beside the new one
/// until then, or a copy where there are no hard links; a file of which neither
/// can be made is not replaced, which is an error of AtomicFile::commit(). A
/// file that is being written, or was, cannot be begun a second time: what the
/// first writer has put there would be lost without a word.
///
/// The signals of installInterruptCleanup() end a transaction without commit()
/// until commit() has begun, and with it from then on, in whatever thread they
/// arrive. A crash, SIGKILL or the loss of power leaves what is there at that
/// moment: some files new, some old, and the hidden old ones, which are named
/// like the files with a dot before and a suffix behind them.
///
/// If an old file cannot be put back (its directory was removed or made
/// unwritable meanwhile), a line on standard error says where it is kept.
///
/// A child made by fork() can begin files and transactions of its own, and has
/// no part in those of its parent: it neither completes nor takes back anything
/// of them.
///
/// Transactions nest: the files of an inner one become those of the outer one.
/// Without one, every file is final when it is complete.
class FileTransaction {
public:
  /// Whose files belong to it. Thread: those completed on the thread that made
  /// it and on those that joined it (FileTransactionMember). Process: also
  /// those of all threads without one of their own, such as the thread on which
  /// MLIR runs passes when it is to write a reproducer of crashes; there may be
  /// one such transaction at a time, and it outlives the others.
  enum class Scope { Thread, Process };

  explicit FileTransaction(Scope scope = Scope::Thread);
  FileTransaction(const FileTransaction &) = delete;
  FileTransaction &operator=(const FileTransaction &) = delete;
  ~FileTransaction();

  /// Keeps the files, or fails because a signal has taken them back. May be
  /// called again for files that follow.
  Status commit();

  /// Whether a file that AtomicFile would put at `path` was completed in the
  /// transaction that the calling thread is in, or in one around it. Without
  /// one, nothing was.
  static bool hasWritten(const std::string &path);

  /// That of the calling thread, else that of the process, or null.
  static FileTransaction *current();

private:
  friend class AtomicFile;
  friend class FileTransactionMember;

  FileTransaction *previous; // the one of this thread before
  FileTransaction *outer;    // that or the one of the process
  /// The same for all that are nested in one another.
  uint64_t family;
};

/// While it is alive, the calling thread is in a transaction of another thread,
/// which hands out a part of its work and waits for it.
class FileTransactionMember {
public:
  /// `transaction` is what current() was on that thread, perhaps null.
  explicit FileTransactionMember(FileTransaction *transaction);
  FileTransactionMember(const FileTransactionMember &) = delete;
  FileTransactionMember &operator=(const FileTransactionMember &) = delete;
  ~FileTransactionMember();

private:
  FileTransaction *previous; // the one of this thread before
};

/// Writes a whole file through AtomicFile.
Status writeFileAtomically(const std::string &path, const void *data,
                           size_t count);

/// For the main function of a tool: on SIGINT, SIGTERM, SIGHUP and SIGPIPE,
/// removes the temporary files of every AtomicFile of the process and takes
/// back the files of every FileTransaction, then lets the signal take its
/// previous course (by default the end of the process by that signal). From
/// then on no file can be begun or completed. Ignored signals stay ignored.
/// SIGXFSZ becomes one of them: a file larger than the process may write is an
/// error of writing. Calling it again does nothing.
void installInterruptCleanup();

/// What such a signal does with the files, for a process that is about to end
/// for another reason without the destructors of its objects.
void abandonFiles();

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_ATOMICFILE_H
