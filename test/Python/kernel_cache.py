# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""The cache of kernels: processes at the same time, what is removed and when."""

import multiprocessing
import os
import time

import pytest
from quant_llm import QuantLLMError
from quant_llm._cache import DirectoryCache, default_directory, parse_size


def fill(size, log=None, seconds=0.0):
    def make(directory):
        if log:
            with open(log, "a") as file:
                file.write("made\n")
        time.sleep(seconds)
        with open(os.path.join(directory, "data"), "wb") as file:
            file.write(b"x" * size)

    return make


def keys(cache):
    return sorted(name for name in os.listdir(cache.directory) if not name.startswith("."))


def test_an_entry_is_made_once(tmp_path):
    cache = DirectoryCache(tmp_path / "new" / "cache", 1000)
    log = tmp_path / "log"
    path = cache.get("key", fill(10, log))
    assert path == cache.get("key", fill(10, log)) and os.listdir(path) == ["data"]
    assert log.read_text() == "made\n"
    assert os.stat(cache.directory).st_mode & 0o777 == 0o700


def worker(directory, log, start, queue):
    start.wait()
    cache = DirectoryCache(directory, 1 << 20)
    for i in range(8):
        path = cache.get(f"key{i}", fill(100, f"{log}{i}", seconds=0.02))
        queue.put(os.path.getsize(os.path.join(path, "data")))


def test_processes_make_every_entry_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, queue = context.Event(), context.Queue()
    processes = [context.Process(target=worker, args=(str(tmp_path / "cache"), str(tmp_path / "log"), start, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    sizes = [queue.get(timeout=120) for _ in range(32)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sizes == [100] * 32
    assert [(tmp_path / f"log{i}").read_text() for i in range(8)] == ["made\n"] * 8


def thrash(directory, seed, queue):
    """Far more than fits, while others remove it."""
    cache = DirectoryCache(directory, 350)
    for i in range(40):
        path = cache.get(f"key{(i * (seed + 3)) % 7}", fill(100))
        try:
            assert os.path.getsize(os.path.join(path, "data")) == 100
        except FileNotFoundError:
            pass
    queue.put(seed)


def test_processes_that_evict(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=thrash, args=(str(tmp_path / "cache"), seed, queue)) for seed in range(3)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=120) for _ in range(3)) == [0, 1, 2]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    cache = DirectoryCache(tmp_path / "cache", 350)
    cache.evict()
    assert 1 <= len(keys(cache)) <= 3
    assert all(os.listdir(os.path.join(cache.directory, key)) == ["data"] for key in keys(cache))


def test_the_least_recently_used_go(tmp_path):
    cache = DirectoryCache(tmp_path, 250)
    for i, key in enumerate("abc"):
        path = cache.get(key, fill(100))
        os.utime(path, (i, i))
        cache.evict()
    assert keys(cache) == ["b", "c"]
    cache.use(os.path.join(cache.directory, "b"))
    cache.get("d", fill(100))
    assert keys(cache) == ["b", "d"]
    # What was just asked for stays, even if it is too large.
    path = cache.get("large", fill(1000))
    assert keys(cache) == ["large"] and os.path.getsize(os.path.join(path, "data")) == 1000


def test_a_failure_leaves_nothing(tmp_path):
    cache = DirectoryCache(tmp_path, 1000)

    def fail(directory):
        fill(10)(directory)
        raise QuantLLMError("no kernel")

    with pytest.raises(QuantLLMError, match="no kernel"):
        cache.get("key", fail)
    assert keys(cache) == [] and not [name for name in os.listdir(tmp_path) if name.startswith(".key.")]
    cache.get("key", fill(10))
    cache.remove(os.path.join(cache.directory, "key"))
    cache.remove(os.path.join(cache.directory, "key"))
    assert keys(cache) == []


def test_leftovers_of_killed_processes(tmp_path):
    cache = DirectoryCache(tmp_path, 1000)
    old, new = tmp_path / ".old-one", tmp_path / ".new-one"
    for path in (old, new):
        path.mkdir()
        (path / "data").write_bytes(b"x" * 5000)
    os.utime(old, (1, 1))
    cache.get("key", fill(10))
    assert not old.exists() and new.exists() and keys(cache) == ["key"]


def test_found_by_prefix(tmp_path):
    cache = DirectoryCache(tmp_path, 1000)
    for i, key in enumerate(("one-a", "one-b", "two-a")):
        os.utime(cache.get(key, fill(1)), (i, i))
    assert [os.path.basename(path) for path in cache.find("one-")] == ["one-b", "one-a"]
    assert DirectoryCache(tmp_path / "none", 1).find("one-") == []


def test_places_that_do_not_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QuantLLMError, match="cannot use the cache .*QUANT_LLM_CACHE_DIR"):
        DirectoryCache(tmp_path / "file" / "cache", 1).get("key", fill(1))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(QuantLLMError, match="nobody else can write"):
        DirectoryCache(shared, 1).get("key", fill(1))


def test_directory_and_size(monkeypatch):
    for name in ("QUANT_LLM_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert default_directory() == "/somewhere/.cache/quant-llm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert default_directory() == "/var/cache/quant-llm"
    monkeypatch.setenv("QUANT_LLM_CACHE_DIR", "/elsewhere")
    assert default_directory() == "/elsewhere"
    assert [parse_size(text) for text in (17, "64K", "2m", " 3G ")] == [17, 64 << 10, 2 << 20, 3 << 30]
    for text in ("", "G", "-1", "2.5G", "12T", "many"):
        with pytest.raises(QuantLLMError, match="expected a size such as 512M"):
            parse_size(text)
