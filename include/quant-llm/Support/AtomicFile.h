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
#include <string>
#include <vector>

namespace quant_llm {

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
  AtomicFile() = default;
  void discard();
  void endBegun();
  Status fail(const char *action);
  Status linkUnnamed();
  Status replaceTarget();
  Status writeThrough(const uint8_t *data, size_t count);

  std::string name;      // as given
  std::string target;    // absolute, links resolved
  std::string temporary; // absolute; empty while the file has no name
  std::vector<uint8_t> buffer;
  Status failure;
  int slot = -1;      // of the registry of the interrupt handler
  bool begun = false; // in the transactions of its thread
  int descriptor = -1;
};

/// Files that appear together or not at all, as far as errors go and the
/// signals of installInterruptCleanup(). While one is alive, files that
/// AtomicFile completes on its thread can be taken back: destruction without
/// commit() removes those that were new and puts back those that were replaced,
/// of which a hidden second name is kept beside them until then. A file that is
/// being written can then not be begun a second time. SIGKILL in between leaves
/// the new files, and the hidden names of old ones.
///
/// They nest: the files of an inner one become those of the outer one. Without
/// one, every file is final when it is complete.
class FileTransaction {
public:
  FileTransaction();
  FileTransaction(const FileTransaction &) = delete;
  FileTransaction &operator=(const FileTransaction &) = delete;
  ~FileTransaction();

  /// Keeps the files. May be called again for files that follow.
  void commit();

private:
  friend class AtomicFile;

  struct Replaced {
    std::string target;
    /// The second name of the old file; empty if there was none.
    std::string backup;
    int slot;
  };

  /// Prepares for the rename over `target`. Returns whether this is new here.
  bool prepare(const std::string &target);
  /// Undoes the latest prepare() that returned true.
  void forget();

  FileTransaction *outer;
  std::vector<Replaced> files;
  /// Targets of files that are being written.
  std::vector<std::string> begun;
};

/// Writes a whole file through AtomicFile.
Status writeFileAtomically(const std::string &path, const void *data,
                           size_t count);

/// For the main function of a tool: on SIGINT, SIGTERM and SIGHUP, removes the
/// temporary files of every AtomicFile of the process, then lets the signal
/// take its previous course (by default the end of the process by that signal).
/// Ignored signals stay ignored. Calling it again does nothing.
void installInterruptCleanup();

} // namespace quant_llm

#endif // QUANT_LLM_SUPPORT_ATOMICFILE_H
