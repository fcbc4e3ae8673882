# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A cache of directories on disk, shared by processes."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time

from ._errors import QuantLLMError

# What a process that was killed left behind is removed after this time.
_STALE_SECONDS = 3600


def default_directory():
    """Where the project caches: $QUANT_LLM_CACHE_DIR, or quant-llm below
    $XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("QUANT_LLM_CACHE_DIR")
    if given:
        return given
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "quant-llm")


def parse_size(text):
    """Bytes of `1000`, `64K`, `512M` or `2G`."""
    text = str(text).strip()
    unit = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    digits = text[:-1] if unit else text
    if not (digits.isascii() and digits.isdigit()):
        raise QuantLLMError(f"expected a size such as 512M or 2G but got '{text}'")
    return int(digits) << unit


class DirectoryCache:
    """Entries are directories under a key, complete or not there at all, of
    together at most `limit` bytes: those that were not used for the longest
    time go first.

    An entry is made beside its place and renamed, under a lock of its key, so
    that processes that need the same one make it once. Entries hold code that
    will be executed: the cache must belong to this user and be closed to
    others.
    """

    def __init__(self, directory, limit):
        self.directory = os.path.abspath(os.fsdecode(directory))
        self.limit = limit

    def _prepare(self):
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            info = os.stat(self.directory)
        except OSError as error:
            raise QuantLLMError(f"cannot use the cache '{self.directory}': {error.strerror}; QUANT_LLM_CACHE_DIR names another place") from None
        if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise QuantLLMError(f"cannot use the cache '{self.directory}': expected a directory of this user that nobody else can write; QUANT_LLM_CACHE_DIR names another place")

    @contextlib.contextmanager
    def _lock(self, name):
        # The files stay: who removed one could not know whether another process
        # waits for it.
        path = os.path.join(self.directory, f".{name}.lock")
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key):
        return os.path.join(self.directory, key)

    def find(self, prefix):
        """The paths of the entries whose key begins with `prefix`, last used
        first."""
        found = [(used, path) for path, used, _ in self._entries() if os.path.basename(path).startswith(prefix)]
        return [path for _, path in sorted(found, reverse=True)]

    def use(self, path):
        """Notes that an entry was used."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def get(self, key, make):
        """The path of an entry; `make(directory)` fills one that is missing. It may
        be removed by other processes: what is used longer must be open."""
        self._prepare()
        path, made = self._path(key), False
        # Of 256 locks, so that their number is bounded, too.
        try:
            with self._lock(key[:2]):
                if not os.path.isdir(path):
                    staging = tempfile.mkdtemp(prefix=f".{key}.", dir=self.directory)
                    try:
                        make(staging)
                        os.rename(staging, path)
                        made = True
                    finally:
                        shutil.rmtree(staging, ignore_errors=True)
                self.use(path)
        except OSError as error:
            raise QuantLLMError(f"cannot write to the cache '{self.directory}': {error.strerror or error}") from None
        # It grows by new entries alone.
        if made:
            self.evict(keep=path)
        return path

    def remove(self, path):
        """Removes an entry, such as a damaged one."""
        # Renamed first, so that it disappears at once.
        try:
            aside = tempfile.mkdtemp(prefix=".old.", dir=self.directory)
            with contextlib.suppress(OSError):
                os.rename(path, os.path.join(aside, "entry"))
            shutil.rmtree(aside, ignore_errors=True)
        except OSError:
            pass

    def evict(self, keep=None):
        """Removes what is too much, never `keep`."""
        with contextlib.suppress(OSError), self._lock("evict"):
            entries = sorted(self._entries(), key=lambda entry: entry[1])
            total = sum(size for _, _, size in entries)
            for path, _, size in entries:
                if total <= self.limit:
                    break
                if path != keep:
                    self.remove(path)
                    total -= size
            self._remove_stale()

    def _entries(self):
        """(path, time of last use, bytes) of all entries."""
        result = []
        with contextlib.suppress(OSError), os.scandir(self.directory) as items:
            for item in items:
                if item.name.startswith(".") or not item.is_dir(follow_symlinks=False):
                    continue
                # Another process may be removing it.
                with contextlib.suppress(OSError):
                    with os.scandir(item.path) as files:
                        size = sum(file.stat(follow_symlinks=False).st_size for file in files)
                    result.append((item.path, item.stat().st_mtime_ns, size))
        return result

    def _remove_stale(self):
        with os.scandir(self.directory) as items:
            for item in items:
                if item.name.startswith(".") and item.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):
                        if time.time() - item.stat().st_mtime > _STALE_SECONDS:
                            shutil.rmtree(item.path, ignore_errors=True)
