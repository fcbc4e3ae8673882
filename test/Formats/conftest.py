# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The tool under test, for the tests in this folder."""

import json
import shutil
import subprocess

import pytest


class Tool:
    """Runs quant-formats-dump."""

    path = shutil.which("quant-formats-dump")

    def run(self, *args):
        return subprocess.run([self.path, *map(str, args)], capture_output=True, timeout=120)

    def ok(self, *args):
        result = self.run(*args)
        assert result.returncode == 0, result.stderr.decode(errors="replace")
        assert result.stderr == b""
        return result.stdout

    def list(self, path):
        return json.loads(self.ok("list", path))

    def error(self, *args):
        """The message of a run that must fail cleanly."""
        result = self.run(*args)
        assert result.returncode == 1, (result.returncode, result.stderr)
        assert result.stderr.startswith(b"quant-formats-dump: error: ") and result.stderr.count(b"\n") == 1
        return result.stderr.decode()


@pytest.fixture(scope="session")
def tool():
    assert Tool.path, "quant-formats-dump is not on the PATH; run through lit"
    return Tool()
