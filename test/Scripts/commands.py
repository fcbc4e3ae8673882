# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""The scripts before and around the work: wrong arguments, --help, two runs at
once, signals. What they call is replaced by programs that do nothing."""

import os
import pathlib
import pty
import shutil
import signal
import subprocess
import sys
import time

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = TESTS.parent / "scripts"
DISTRIBUTION = subprocess.run(["bash", "-c", '. "$1"; distribution', "-", SCRIPTS / "setup.sh"], capture_output=True, text=True).stdout.split()
sys.path[:0] = [str(TESTS / "Python"), str(TESTS / "Inputs")]
from conftest import tiny_checkpoint, write_tokenizer
from processes import accept_signals, alive, wait_for


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """A checkout, in a path with blanks, where everything is installed. cmake
    writes its arguments to the file `cmake`, and the process numbers of itself
    and of a child to `pids` if there is a file `block`, where it hangs then. (The
    child does not ignore Ctrl-C, as what a shell starts in the background does.)"""
    root = tmp_path / "a checkout"
    shutil.copytree(SCRIPTS, root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    write_program(root / "bin" / "dpkg-query", "printf installed\n")
    write_program(
        root / "bin" / "cmake",
        f'echo "$@" >> "{root}/cmake"\n'
        f'if [ -e "{root}/block" ]; then env --default-signal=INT sleep 100 & echo $$ $! > "{root}/pids.part"; mv "{root}/pids.part" "{root}/pids"; wait; fi\n',
    )
    # -c asks where packages are, and a script is the last step.
    (root / "site").mkdir()
    write_program(
        root / ".venv" / "bin" / "python",
        f'case "$1" in scripts/*) echo "$@" > "{root}/python"; exit;; -c) echo "{root}/site"; exit;; esac\nexec "{sys.executable}" "$@"\n',
    )
    for name in ("requirements-run.txt", "requirements-test.txt"):
        pins = subprocess.run(["bash", "-c", f'. "{root}/scripts/setup.sh"; pins_of {name}'], capture_output=True, text=True, check=True)
        (root / ".venv" / f"{name}.installed").write_text(pins.stdout)
    (root / "model.gguf").write_bytes(b"GGUF\0\0")
    (root / "text.txt").write_text("a text\n")
    return root


def start(root, *arguments, script="quickstart.sh", **variables):
    environment = {**os.environ, "PATH": f"{root / 'bin'}:{os.environ['PATH']}", **variables}
    command = ["bash", f"scripts/{script}", *arguments]
    return subprocess.Popen(
        command, cwd=root, env=environment, preexec_fn=accept_signals, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(root, *arguments, **options):
    process = start(root, *arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


USUAL = ("--model", "model.gguf", "--text", "text.txt")


def test_run(checkout):
    status, out, err = run(checkout, *USUAL, "--windows=3", "--prompt", "two words")
    assert (status, err) == (0, "")
    assert (checkout / "python").read_text() == f"scripts/quickstart.py {checkout}/model.gguf {checkout}/text.txt quickstart-out --windows=3 --prompt=two words\n"
    assert "--build" in (checkout / "cmake").read_text()
    version = subprocess.run([checkout / ".venv" / "bin" / "quant-llm", "--version"], capture_output=True, text=True)
    assert version.stdout.startswith("quant-llm ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--windows", "0"], "--windows: expected a number from 1 to 9999999 but got '0'"),
        (["--windows", "-3"], "--windows: expected a number from 1 to 9999999 but got '-3'"),
        (["--windows=1.5"], "--windows: expected a number from 1 to 9999999 but got '1.5'"),
        (["--windows=10000000"], "--windows: expected a number from 1 to 9999999 but got '10000000'"),
        (["--windows="], "--windows: expected a number from 1 to 9999999 but got ''"),
        (["--windows"], "expected a value after --windows"),
        (["--model", "none"], "--model: expected a Hugging Face directory or a GGUF file but there is no {root}/none"),
        (["--model", "text.txt"], "--model: expected a Hugging Face directory or a GGUF file but {root}/text.txt is neither"),
        (["--model", "scripts"], "--model: expected a model in {root}/scripts but found neither model.mlir nor config.json"),
        (["--model", ""], "--model: expected a path but got ''"),
        (["--text", "scripts"], "--text: expected a file to read but got {root}/scripts"),
        (["--text", "none"], "--text: expected a file to read but got {root}/none"),
        (["--text", "/dev/null"], "--text: expected a file to read but got /dev/null"),
        (["--text", "empty"], "--text: {root}/empty is empty"),
        (["--text", "latin1"], "--text: expected UTF-8 text but {root}/latin1 holds other bytes"),
        (["--prompt", ""], "--prompt: expected a text that is not empty"),
        (["--prompt", b"caf\xe9"], "--prompt: expected UTF-8 text"),
        (["--frobnicate"], "unknown argument '--frobnicate'; see scripts/quickstart.sh --help"),
        (["model.gguf"], "unknown argument 'model.gguf'; see scripts/quickstart.sh --help"),
    ],
)
def test_wrong_arguments_before_anything_is_done(checkout, arguments, message):
    (checkout / "empty").touch()
    (checkout / "latin1").write_bytes(b"caf\xe9")
    before = sorted(checkout.rglob("*"))
    status, out, err = run(checkout, *arguments)
    assert (status, out, err) == (2, "", f"quickstart.sh: error: {message.format(root=checkout)}\n")
    assert sorted(checkout.rglob("*")) == before


def test_dry_run_changes_nothing(checkout):
    before = sorted(checkout.rglob("*"))
    status, out, err = run(checkout, "--dry-run")
    assert (status, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [["would", "build"], ["would", "get"], ["would", "get"], ["would", "write"]]
    write_program(checkout / "bin" / "dpkg-query", "exit 1\n")
    (checkout / ".venv" / "requirements-run.txt.installed").unlink()
    status, out, err = run(checkout, "--dry-run", *USUAL)
    assert (status, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [["would", "install"], ["would", "install"], ["would", "build"], ["would", "write"]]
    assert "libmlir-22-dev" in out
    before.remove(checkout / ".venv" / "requirements-run.txt.installed")
    assert sorted(checkout.rglob("*")) == before


@pytest.mark.parametrize(
    "script, words",
    [
        ("quickstart.sh", ("--model", "--text", "--windows", "--prompt", "--dry-run")),
        ("test.sh", ("scripts/test.sh", "passed")),
        ("setup.sh", ("scripts/setup.sh",)),
        ("gpu-check.sh", ("pack BUNDLE", "run BUNDLE", "QUANT_LLM_GPU_CHIP")),
    ],
)
def test_help_and_unknown_words(checkout, script, words):
    before = sorted(checkout.rglob("*"))
    for option in ("--help", "-h"):
        status, out, err = run(checkout, option, script=script)
        assert (status, err) == (0, "") and all(word in out for word in (*words, "Exit status: 0"))
        assert "Apache" not in out and "set -eu" not in out
    for arguments in (["--frobnicate"], ["word"], [""]):
        if script == "gpu-check.sh" and arguments == [""]:
            continue  # the same as none
        status, out, err = run(checkout, *arguments, script=script)
        assert (status, out) == (2, "") and err.startswith(f"{script}: error: ") and err.endswith(f"see scripts/{script} --help\n")
        assert f"'{arguments[0]}'" in err
    assert sorted(checkout.rglob("*")) == before


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh", "setup.sh", "gpu-check.sh"])
@pytest.mark.parametrize("option", ["--help", "--dry-run"])
def test_full_disk(checkout, script, option):
    if option == "--dry-run" and script != "quickstart.sh":
        return
    with open("/dev/full", "w") as full:
        result = subprocess.run(["bash", checkout / "scripts" / script, option], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, f"{script}: error: cannot write to standard output\n")


@pytest.mark.parametrize("script", ["quickstart.sh", "setup.sh"])
def test_build_directory(checkout, script):
    write_program(checkout / "bin" / "ptxas", "exit 0\n")
    for given, expected in (("out/b c", checkout / "out/b c"), ("../elsewhere", checkout.parent / "elsewhere"), (checkout.parent / "abs/olute", checkout.parent / "abs/olute"), ("", checkout / "build")):
        arguments = USUAL if script == "quickstart.sh" else ()
        status, _, err = run(checkout, *arguments, script=script, QUANT_LLM_BUILD_DIR=str(given))
        assert (status, err) == (0, "")
        assert (checkout / "site" / "quant_llm_build.pth").read_text() == f"{expected}/python_packages\n"
        assert f"-B {expected} " in (checkout / "cmake").read_text()
        (checkout / "cmake").unlink()


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("QUANT_LLM_JOBS", "abc", "expected a number from 1 to 9999 but got 'abc'"),
        ("QUANT_LLM_JOBS", "0", "expected a number from 1 to 9999 but got '0'"),
        ("QUANT_LLM_JOBS", "-j4", "expected a number from 1 to 9999 but got '-j4'"),
        ("QUANT_LLM_TEST_JOBS", "1.5", "expected a number from 1 to 9999 but got '1.5'"),
        ("QUANT_LLM_BUILD_DIR", "/proc/x", "expected a directory that {user} may write but got '/proc/x'"),
        ("QUANT_LLM_BUILD_DIR", "text.txt/x/y", "expected a directory that {user} may write but got '{root}/text.txt/x/y'"),
        ("QUANT_LLM_THREADS", "abc", "expected a number from 1 to 4096 but got 'abc'"),
        ("QUANT_LLM_THREADS", "4097", "expected a number from 1 to 4096 but got '4097'"),
        ("QUANT_LLM_CACHE_DIR", "text.txt", "expected a directory that {user} may write but got '{root}/text.txt'"),
        ("PIP_CACHE_DIR", "/proc/x", "expected a directory that {user} may write but got '/proc/x'"),
        ("QUANT_LLM_BUILD_DIR", "text.txt", "expected a directory that {user} may write but got '{root}/text.txt'"),
    ],
)
def test_wrong_environment_before_anything_is_done(checkout, name, value, message):
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    before = sorted(checkout.rglob("*"))
    for script, arguments in (("quickstart.sh", USUAL), ("quickstart.sh", ("--dry-run",)), ("test.sh", ()), ("setup.sh", ())):
        expected = f"{script}: error: {name}: {message.format(root=checkout, user=user)}\n"
        assert run(checkout, *arguments, script=script, **{name: value}) == (2, "", expected)
    assert sorted(checkout.rglob("*")) == before


def test_shared_memory(checkout):
    def check(directory):
        return subprocess.run(["bash", "-c", '. scripts/setup.sh; check_shared_memory "$1"', "test.sh", directory], cwd=checkout, capture_output=True, text=True)

    assert (check("site").returncode, check("site").stderr) == (0, "")
    for directory in ("none", "text.txt"):
        message = f"expected to write to {directory}, which several tests at a time need (mount -t tmpfs tmpfs /dev/shm)"
        assert (check(directory).returncode, check(directory).stderr) == (1, f"test.sh: error: {message}\n")


def test_nothing_is_kept_outside_the_checkout(checkout, tmp_path):
    write_program(checkout / "bin" / "cmake", f'echo "$QUANT_LLM_CACHE_DIR:$PIP_CACHE_DIR" > "{checkout}/caches"\n')
    home = {"HOME": str(tmp_path / "home"), "QUANT_LLM_CACHE_DIR": "", "PIP_CACHE_DIR": ""}
    for more, expected in (({}, f"{checkout}/.cache/quant-llm:{checkout}/.cache/pip"), ({"QUANT_LLM_CACHE_DIR": f"{tmp_path}/a", "PIP_CACHE_DIR": f"{tmp_path}/b"}, f"{tmp_path}/a:{tmp_path}/b")):
        assert run(checkout, *USUAL, **(home | more))[0] == 0
        assert (checkout / "caches").read_text() == expected + "\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(checkout, number):
    # Only the script gets the signal, not the processes it started.
    (checkout / "block").touch()
    process = start(checkout, *USUAL)
    wait_for((checkout / "pids").exists)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == "\nquickstart.sh: interrupted; nothing is half-written, run it again to go on\n"
    assert not any(alive(pid) for pid in (checkout / "pids").read_text().split())
    # And the next run is as if nothing had been.
    (checkout / "block").unlink()
    assert run(checkout, *USUAL)[0] == 0


def test_control_c_in_a_terminal(checkout):
    (checkout / "block").touch()
    try:
        for end in pty.openpty():
            os.close(end)
    except OSError:
        pytest.skip("no terminals can be made here (/dev/pts)")
    child, terminal = pty.fork()
    if child == 0:
        accept_signals()
        os.chdir(checkout)
        os.environ["PATH"] = f"{checkout / 'bin'}:{os.environ['PATH']}"
        os.execvp("bash", ["bash", "scripts/quickstart.sh", *USUAL])
    wait_for((checkout / "pids").exists)
    os.write(terminal, b"\x03")
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGINT
    assert b"quickstart.sh: interrupted; nothing is half-written" in shown
    assert not any(alive(pid) for pid in (checkout / "pids").read_text().split())


def test_a_signal_removes_what_was_being_fetched(checkout):
    write_program(checkout / "bin" / "apt-get", f'echo part > debian-faq_1.deb; touch "{checkout}/fetching"; sleep 100\n')
    process = start(checkout, "--model", "model.gguf")
    wait_for((checkout / "fetching").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert os.listdir(checkout / ".cache") == ["lock"]


@pytest.mark.skipif("debian 12" not in " ".join(DISTRIBUTION), reason="packages are installed on Debian 12 only")
def test_an_interrupted_installation_is_ended_first(checkout):
    log = checkout / "log"
    write_program(checkout / "bin" / "dpkg-query", f'[ ! -e "{log}" ] || ! grep -q "apt-get install" "{log}" || printf installed\n')
    write_program(checkout / "bin" / "sudo", 'exec "$@"\n')
    for name in ("dpkg", "apt-get", "apt-cache"):
        write_program(checkout / "bin" / name, f'[ {name} = apt-cache ] || echo {name} $1 $2 >> "{log}"\n')
    assert run(checkout, *USUAL)[0] == 0
    assert log.read_text().splitlines() == ["apt-get update -q", "dpkg --configure -a", "apt-get install -y"]


def test_the_second_of_two_runs_waits(checkout):
    (checkout / "block").touch()
    first = start(checkout, *USUAL)
    wait_for((checkout / "pids").exists)
    second = start(checkout, *USUAL)
    assert "Waiting for another run in this checkout to end" in second.stdout.readline() + second.stdout.readline()
    built = (checkout / "cmake").read_text()
    time.sleep(0.3)
    assert second.poll() is None and (checkout / "cmake").read_text() == built
    (checkout / "block").unlink()
    first.terminate()
    first.communicate(timeout=30)
    assert second.communicate(timeout=30)[1] == "" and second.returncode == 0
    assert (checkout / "cmake").read_text() != built


@pytest.mark.parametrize("name", [".cache", ".cache/lock"])
def test_checkout_that_cannot_be_written(checkout, name):
    # Not by permissions, because root has all of them.
    if name == ".cache":
        (checkout / name).touch()
    else:
        (checkout / name).mkdir(parents=True)
    status, out, err = run(checkout, *USUAL)
    assert (status, out) == (1, "") and f"quickstart.sh: error: cannot write {checkout}/.cache/lock; " in err
    assert not (checkout / "cmake").exists()


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hf") / "tiny"
    tiny_checkpoint.make(directory, dtype="F16", vocab_size=32, max_position_embeddings=2048)
    write_tokenizer(directory / "tokenizer.json", 32)
    (directory / "text.txt").write_text("the cat sat on the mat a dog ran to the hat " * 200)
    return directory


def start_work(model, output, text=None, windows=1):
    command = [sys.executable, SCRIPTS / "quickstart.py", model, text or model / "text.txt", output, "--windows", str(windows), "--prompt", "the cat"]
    return subprocess.Popen(command, preexec_fn=accept_signals, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_work_itself(tiny_model, tmp_path):
    process = start_work(tiny_model, tmp_path / "out")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.splitlines()
    for start_of_line in ("model          tiny -> ", "weights        4,", "bytes ", "of the matrices", "kind ", "perplexity ", "prompt         the cat", "continuation "):
        assert any(line.startswith(start_of_line) for line in lines), start_of_line
    assert sorted(os.listdir(tmp_path / "out")) == ["int4", "original"]


def test_what_is_missing_is_said_before_the_work(tiny_model, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_model, source)
    (source / "tokenizer.json").unlink()
    out, err = start_work(source, tmp_path / "out").communicate(timeout=120)
    assert (out, err) == ("", f"quickstart.py: error: '{source}' has no tokenizer.json\n")
    (source / "text.txt").unlink()
    out, err = start_work(source, tmp_path / "out").communicate(timeout=120)
    assert (out, err) == ("", f"quickstart.py: error: cannot read '{source}/text.txt': No such file or directory\n")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_work(tiny_model, tmp_path, number):
    # So much work that it is not done before the signal comes.
    text = tmp_path / "long.txt"
    text.write_text((tiny_model / "text.txt").read_text() * 300)
    process = start_work(tiny_model, tmp_path / "out", text, windows=600)
    assert process.stderr.readline() == "importing ...\n"
    process.send_signal(number)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number
    assert err.endswith("\nquickstart.py: interrupted, what is in the output directory is complete\n")
    assert set(os.listdir(tmp_path / "out")) <= {"original", "int4"}


@pytest.mark.parametrize(
    "format_status, build_status, summary, expected, last",
    [
        (0, 0, "Total Discovered Tests: 5\\n  Skipped: 1\\n  Passed : 4 (80%%)", 0, "4 passed, 0 failed, 1 skipped"),
        (0, 1, "Total Discovered Tests: 5\\n  Passed : 4 (80%%)\\n  Failed : 1", 1, "4 passed, 1 failed, 0 skipped"),
        (1, 0, "Total Discovered Tests: 4\\n  Passed : 4", 1, "4 passed, 0 failed, 0 skipped"),
        (0, 1, "ninja: error", 1, None),
    ],
)
def test_the_last_line_of_the_tests(checkout, format_status, build_status, summary, expected, last):
    write_program(checkout / "bin" / "cmake", f'case "$*" in *check-quant-llm*) printf "{summary}\\n"; exit {build_status}; esac\n')
    write_program(checkout / "bin" / "clang-format-22", f"exit {format_status}\n")
    for name in ("python3", "ptxas"):
        write_program(checkout / "bin" / name, "exit 0\n")
    for name in ("include", "lib", "tools", "test", "python-bindings", ".cache", "build"):
        (checkout / name).mkdir()
    (checkout / ".cache" / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    status, out, err = run(checkout, script="test.sh")
    assert status == expected
    if last:
        assert out.splitlines()[-1] == last
    else:
        assert "lit printed no summary" in err


def test_a_signal_during_the_tests(checkout):
    (checkout / "block").touch()
    process = start(checkout, script="test.sh")
    wait_for((checkout / "pids").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM and "test.sh: interrupted" in err
    assert not any(alive(pid) for pid in (checkout / "pids").read_text().split())


def test_closed_standard_input(checkout):
    command = "exec 0<&-; exec bash scripts/quickstart.sh --model model.gguf --text text.txt"
    environment = {**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
