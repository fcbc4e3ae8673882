# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""The command quant-llm: import and info, wrong usage, bad input, interrupts."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import quant_llm
from processes import accept_signals
from quant_llm import cli, model


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as error:  # argparse
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_import_a_hugging_face_directory(capsys, hf_model, tmp_path):
    status, out, err = run(capsys, "import", hf_model, "-o", tmp_path / "model")
    assert (status, out, err) == (0, f"wrote {tmp_path / 'model'}\n", "")
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "model.mlir", "tokenizer.json"]
    assert os.listdir(tmp_path) == ["model"]


def test_info_of_each_kind(capsys, hf_model, tmp_path):
    run(capsys, "import", hf_model, "-o", tmp_path / "model")
    outputs = []
    for kind, path in (("huggingface", hf_model), ("quant-llm", tmp_path / "model")):
        status, out, err = run(capsys, "info", path)
        assert (status, err) == (0, "")
        assert out.startswith(f"llama ({kind}): 2 layers, 16 hidden, 24 intermediate, 4 heads, 2 KV heads, 32 vocabulary\n21 tensors")
        outputs.append(out.split("\n", 1)[1])
    assert outputs[0] == outputs[1]
    assert "feed-forward, gate  f16" in out and "16.000" in out
    status, out, err = run(capsys, "info", tmp_path / "model", "--json")
    description = json.loads(out)
    assert description["kind"] == "quant-llm" and len(description["parameters"]) == 21


def test_force_replaces_only_models_of_ours(capsys, hf_model, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    assert run(capsys, "import", hf_model, "-o", model)[0] == 0  # empty: fine
    status, _, err = run(capsys, "import", hf_model, "-o", model)
    assert status == 2 and "exists already" in err and "--force" in err
    assert run(capsys, "import", hf_model, "-o", model, "--force")[0] == 0
    assert "model.mlir" in os.listdir(model)
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("x")
    status, _, err = run(capsys, "import", hf_model, "-o", other, "--force")
    assert status == 2 and "it holds no model of ours" in err
    assert (other / "precious").read_text() == "x"
    assert sorted(os.listdir(tmp_path)) == ["model", "other"]


def test_force_never_removes_what_is_read(capsys, hf_model, tmp_path):
    original = tmp_path / "model"
    shutil.copytree(hf_model, original)
    run(capsys, "import", original, "-o", tmp_path / "imported")
    # An import in place makes a directory of ours out of the original.
    assert run(capsys, "import", original, "-o", original)[0] == 2
    for name in ("model.mlir", "config.json"):
        shutil.copy(tmp_path / "imported" / name, original)
    before = sorted(os.listdir(original))
    for source in (tmp_path / "imported", original):
        status, _, err = run(capsys, "quantize", source, "-o", original, "--force")
        assert status == 2 and "which is read; choose another name" in err and "model.safetensors" in err
    os.symlink(original, tmp_path / "link")
    status, _, err = run(capsys, "quantize", tmp_path / "imported", "-o", tmp_path / "link", "--force")
    assert status == 2 and "which is read" in err
    assert sorted(os.listdir(original)) == before
    # A shard has no directory's name, with or without --force.
    status, _, err = run(capsys, "quantize", tmp_path / "imported", "-o", original / "model.safetensors", "--force")
    assert status == 2 and "it holds no model of ours" in err
    assert run(capsys, "quantize", tmp_path / "imported", "-o", tmp_path / "q")[0] == 0
    status, _, err = run(capsys, "quantize", tmp_path / "q", "-o", tmp_path / "q", "--force")
    assert status == 2 and "is quantized already" in err
    assert run(capsys, "quantize", tmp_path / "imported", "-o", tmp_path / "q", "--force")[0] == 0


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def old_model(hf_model, tmp_path):
    """A model that --force would replace, and what it consists of."""
    cli.main(["import", str(hf_model), "-o", str(tmp_path / "model")])
    (tmp_path / "model" / "report.json").write_text("this is the old one")
    return tmp_path / "model", contents(tmp_path / "model")


def test_force_loses_nothing_of_others(capsys, hf_model, old_model, monkeypatch):
    path, _ = old_model
    capsys.readouterr()
    for name in ("mine.txt", ".hidden", "a", "b"):
        (path / name).write_text("x")
    (path / "results").mkdir()
    before = contents(path)
    for command in ("import", "quantize"):
        status, out, err = run(capsys, command, hf_model, "-o", path, "--force")
        shown = "'.hidden', 'a', 'b' and 2 more, which would be lost; move them away, or choose another name"
        assert (status, out, err) == (2, "", f"quant-llm: error: '{path}' holds {shown}\n")
        assert contents(path) == before
    for name in (".hidden", "a", "b", "mine.txt"):
        (path / name).unlink()
    assert "holds 'results', which would be lost; move it away" in run(capsys, "import", hf_model, "-o", path, "--force")[2]
    (path / "results").rmdir()
    (path / "tokenizer_config.json").mkdir()  # a directory is never ours
    assert "holds 'tokenizer_config.json'" in run(capsys, "import", hf_model, "-o", path, "--force")[2]
    (path / "tokenizer_config.json").rmdir()
    # What appears during the work, too.
    original = model._import_into

    def slow(*arguments):
        original(*arguments)
        (path / "late").write_text("x")

    monkeypatch.setattr(model, "_import_into", slow)
    status, _, err = run(capsys, "import", hf_model, "-o", path, "--force")
    assert status == 2 and "holds 'late'" in err and (path / "late").read_text() == "x" and (path / "report.json").exists()
    assert os.listdir(path.parent) == ["model"]


@pytest.mark.parametrize("exchange", [True, False])
def test_force_leaves_nothing_of_the_old_model(capsys, hf_model, old_model, monkeypatch, exchange):
    if not exchange:  # a file system that cannot
        monkeypatch.setattr(model, "_exchange", lambda first, second: False)
    path, before = old_model
    assert run(capsys, "import", hf_model, "-o", path, "--force")[0] == 0
    assert sorted(contents(path)) == sorted(name for name in before if name.name != "report.json")
    assert os.listdir(path.parent) == ["model"]


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_force_keeps_the_old_model_if_it_fails(hf_model, old_model, monkeypatch, failing, error):
    path, before = old_model
    rename, calls = os.rename, []

    def fail(*names):
        calls.append(names)
        if len(calls) == failing:
            raise error
        rename(*names)

    monkeypatch.setattr(model, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else quant_llm.QuantLLMError):
        model.import_directory(hf_model, path, replace=True)
    assert contents(path) == before
    assert os.listdir(path.parent) == ["model"]


def test_an_old_model_that_cannot_be_put_back_is_named(capsys, hf_model, old_model, monkeypatch):
    path, before = old_model
    rename, calls = os.rename, []

    def fail(*names):
        calls.append(names)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        rename(*names)

    monkeypatch.setattr(model, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", fail)
    status, _, err = run(capsys, "import", hf_model, "-o", path, "--force")
    (aside,) = path.parent.iterdir()
    assert status == 2 and err == f"quant-llm: error: cannot write '{path}': Input/output error; what was there is '{aside}' now\n"
    assert contents(aside) == before


@pytest.mark.parametrize("exchange", [True, False])
def test_interrupt_while_the_old_model_is_replaced(hf_model, old_model, exchange):
    # Whenever it comes, there is one of the two, and it is complete.
    path, before = old_model
    program = f"""
import os, sys, time
from quant_llm import cli, model
exchange, rename = model._exchange, os.rename
def slow(function):
    def call(*names):
        print("renaming", flush=True)
        time.sleep(0.5)
        result = function(*names)
        time.sleep(0.5)
        return result
    return call
model._exchange = slow(exchange) if {exchange} else lambda *names: False
os.rename = slow(rename)
sys.exit(cli.main(sys.argv[1:]))
"""
    for wait in range(1 if exchange else 2):
        command = [sys.executable, "-c", program, "import", str(hf_model), "-o", str(path), "--force"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=accept_signals)
        for _ in range(wait + 1):
            assert process.stdout.readline() == "renaming\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert os.listdir(path.parent) == ["model"]
        now = contents(path)
        assert now == before or sorted(now) == sorted(name for name in before if name.name != "report.json")


@pytest.mark.parametrize("command", ["import", "quantize"])
def test_links_as_output(capsys, hf_model, tmp_path, command):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):  # the second one dangles
        (tmp_path / f"to {name}").symlink_to(name)
        assert run(capsys, command, hf_model, "-o", tmp_path / f"to {name}")[0] == 0
        assert (tmp_path / f"to {name}").is_symlink() and (tmp_path / name / "model.mlir").is_file()
        assert run(capsys, command, hf_model, "-o", tmp_path / f"to {name}")[0] == 2
        assert run(capsys, command, hf_model, "-o", tmp_path / f"to {name}", "--force")[0] == 0
    (tmp_path / "round").symlink_to("round")
    status, _, err = run(capsys, command, hf_model, "-o", tmp_path / "round")
    assert status == 2 and "'{}' exists already".format(tmp_path / "round") in err
    assert sorted(os.listdir(tmp_path)) == ["empty", "new", "round", "to empty", "to new"]


def test_mount_point_as_output(capsys, hf_model, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "_import_into", None)  # before any work
    status, _, err = run(capsys, "import", hf_model, "-o", "/proc")
    assert status == 2 and err == "quant-llm: error: cannot create '/proc': something is mounted there; choose a name below it\n"
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4] for line in file]
    assert all(model._is_mount_point(point) for point in points if "\\" not in point)
    assert not model._is_mount_point(str(tmp_path))


@pytest.mark.parametrize("name", ["model.mlir", "model.safetensors", "report.json"])
def test_links_to_what_is_read_are_not_followed(hf_model, tmp_path, name):
    quant_llm.import_model(hf_model, tmp_path / "in.mlir")
    before = (hf_model / "model.safetensors").read_bytes()
    output = tmp_path / "out"
    output.mkdir()
    os.symlink(hf_model / "model.safetensors", output / name)
    with pytest.raises(quant_llm.QuantLLMError, match="archive that the module reads"):
        quant_llm._quant_llm.quantize_model(str(tmp_path / "in.mlir"), str(output), "finequant", "block=1,8", None, None)
    assert (hf_model / "model.safetensors").read_bytes() == before
    assert os.listdir(output) == [name]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["import"],
        ["import", "x"],
        ["quantize", "x", "-o", "y", "--bits", "9"],
        ["quantize", "x", "-o", "y", "--alpha", "-1"],
        ["quantize", "x", "-o", "y", "--group-sizes", "64,none"],
        ["quantize", "x", "-o", "y", "--block", "64"],
        ["quantize", "x", "-o", "y", "--symmetric", "--asymmetric"],
        ["quantize", "x", "-o", "y", "--element", "nf4", "--bits", "3"],
        ["quantize", "x", "-o", "y", "--element", "nf4", "--bits", "4"],
        ["quantize", "x", "-o", "y", "--threads", "99999999999"],
        ["eval", "x", "--text", "y", "--window", "1"],
        ["eval", "x"],
        ["eval", "x", "--text", "y", "--window", "0"],
        ["generate", "x"],
        ["generate", "x", "--prompt", "y", "--top-p", "0"],
        ["generate", "x", "--prompt", "y", "--temperature", "nan"],
    ],
)
def test_wrong_usage(capsys, arguments):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and out == "" and "usage: quant-llm" in err


@pytest.mark.parametrize("command", ["import", "quantize", "info", "eval", "generate"])
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "found neither model.mlir nor config.json"),
        (lambda path: path.write_bytes(b"hello"), "is neither"),
        (os.mkfifo, "is neither"),
        (lambda path: path.write_bytes(b"GGUF"), "GGUF"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "config.json"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text('{"model_type": "bert"}')), "bert"),
    ],
    ids=["missing", "empty directory", "text file", "pipe", "short GGUF", "bad config", "unknown architecture"],
)
def test_bad_models(capsys, tmp_path, command, make, message):
    make(tmp_path / "bad")
    more = {"import": ["-o", tmp_path / "out"], "quantize": ["-o", tmp_path / "out"], "eval": ["--text", __file__], "generate": ["--prompt", "x"]}
    before = sorted(os.listdir(tmp_path))
    status, out, err = run(capsys, command, tmp_path / "bad", *more.get(command, []))
    assert status == 2 and out == ""
    assert err.startswith("quant-llm: error: ") and message in err and "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == before


def test_unreadable_models(capsys, hf_model, monkeypatch):
    # Not by permissions, because root has all of them.
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    status, out, err = run(capsys, "info", hf_model)
    assert (status, out, err) == (2, "", f"quant-llm: error: cannot read '{hf_model}': Permission denied\n")
    monkeypatch.setattr(os, "stat", refuse)
    status, out, err = run(capsys, "info", hf_model)
    assert (status, out, err) == (2, "", f"quant-llm: error: cannot read '{hf_model}': Permission denied\n")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("config.json", "[]", "expected an object in '{path}' but got list"),
        ("config.json", "[" * 100000, "expected JSON in '{path}' but got "),
        ("config.json", "{", "expected JSON in '{path}' but got "),
        ("report.json", "{}", "expected the report of a quantization in '{path}'; quantize the model again, or remove that file"),
        ("report.json", '{"weights": [{"name": 3}]}', "expected the report of a quantization in '{path}'"),
        ("report.json", '{"weights": 3}', "expected the report of a quantization in '{path}'"),
    ],
)
def test_damaged_files_of_ours(capsys, hf_model, tmp_path, name, text, message):
    run(capsys, "import", hf_model, "-o", tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_text(text)
    status, out, err = run(capsys, "info", tmp_path / "model")
    assert status == 2 and out == "" and err.startswith(f"quant-llm: error: {message.format(path=path)}")


@pytest.mark.parametrize("end", ['"</s>"', '{"a": 1}', "[[1]]"])
def test_bad_end_tokens(capsys, hf_model, tmp_path, end):
    run(capsys, "import", hf_model, "-o", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": json.loads(end)}))
    status, out, err = run(capsys, "generate", tmp_path / "model", "--prompt", "the")
    assert status == 2 and out == "" and f"expected 'eos_token_id' to be a number or a list of numbers but got {end}" in err


def test_bad_module_in_a_directory_of_ours(capsys, hf_model, tmp_path):
    (tmp_path / "model.mlir").write_text("func.func @f(")
    shutil.copy(hf_model / "tokenizer.json", tmp_path)
    for command in (["info"], ["eval", "--text", __file__], ["generate", "--prompt", "x"], ["quantize", "-o", tmp_path / "out"]):
        status, _, err = run(capsys, command[0], tmp_path, *command[1:])
        assert status == 2 and "model.mlir:1:" in err


def test_output_without_parent(capsys, hf_model, tmp_path):
    status, _, err = run(capsys, "import", hf_model, "-o", tmp_path / "a" / "b")
    assert status == 2 and "there is no directory" in err


def test_bad_text(capsys, hf_model, tmp_path):
    status, _, err = run(capsys, "eval", hf_model, "--text", tmp_path / "none.txt")
    assert status == 2 and "none.txt': No such file" in err
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    status, _, err = run(capsys, "eval", hf_model, "--text", tmp_path / "latin1.txt")
    assert status == 2 and "expected UTF-8 text but got" in err and "at byte 3" in err


@pytest.mark.parametrize(
    "options, element, block",
    [
        ([], "uint4", [1, -1]),
        (["--block", "1,8", "--symmetric"], "int4", [1, 8]),
        (["--block", "-1,-1"], "uint4", [-1, -1]),
        (["--block", "-1,8", "--bits", "3"], "uint3", [-1, 8]),
        (["--element", "uint2", "--asymmetric"], "uint2", [1, -1]),
        (["--element", "int2", "--symmetric"], "int2", [1, -1]),
        (["--element", "codebook<1, [-1, 1]>"], "codebook<1", [1, -1]),
        (["--element", "nf4"], "nf4", [1, -1]),
        (["--bits", "3", "--asymmetric", "--group-sizes", "4,8", "--alpha", "2"], "uint3", [1, 4]),
        (["--scale", "bf16", "--statistic", "gaussian", "--aggregation", "mean"], "uint4", [1, -1]),
    ],
)
def test_quantize(capsys, hf_model, tmp_path, options, element, block):
    output = tmp_path / "it's {quantized}"
    status, out, err = run(capsys, "quantize", hf_model, "-o", output, *options)
    assert (status, err) == (0, "") and f"wrote {output}: " in out
    assert sorted(os.listdir(output)) == ["config.json", "model.mlir", "model.safetensors", "report.json", "tokenizer.json"]
    assert os.listdir(tmp_path) == [output.name]
    report = json.loads((output / "report.json").read_text())
    assert len(report["weights"]) == 14
    assert {w["scheme"].split("<", 1)[1].split(",")[0] for w in report["weights"]} == {element}
    assert {tuple(w["block"]) for w in report["weights"]} == {tuple(block)}
    # Nothing refers to the original.
    assert str(hf_model) not in (output / "model.mlir").read_text()
    status, out, err = run(capsys, "info", output)
    assert status == 0 and err == "" and element in out and "why" in out


def test_choices_are_those_of_the_pass():
    def refused(option, value):
        with pytest.raises(quant_llm.QuantLLMError) as info:
            quant_llm.run_pipeline("", f"quant-llm-choose-granularity{{{option}={value}}}")
        return str(info.value)

    for option, choices in (("scale", cli.SCALES), ("rule", cli.RULES)):
        assert sorted(re.search(r"\((.*)\) but got 'x'", refused(option, "x")).group(1).split(", ")) == sorted(choices)
    listed = re.search(r"\((.*)\) but got 'x'", refused("element", "x")).group(1)
    listed = re.sub(r"\b(u?int)1\.\.\1?int8", lambda m: ", ".join(f"{m[1]}{b}" for b in range(1, 9)), listed.replace("uint1..uint8", "uint1..int8"))
    listed = listed.replace("normal1..normal6", ", ".join(f"normal{b}" for b in range(1, 7)))
    names = listed.replace("codebook<bits, [...]>", "codebook").split(", ")
    assert sorted(names) == sorted((*cli.ELEMENTS, "codebook"))
    for value in ("0", "2.0001"):
        assert "expected a number in (0, 2]" in refused("alpha", value)
        with pytest.raises(SystemExit):
            cli.make_parser().parse_args(["quantize", "x", "-o", "y", "--alpha", value])
    quant_llm.run_pipeline("", "quant-llm-choose-granularity{alpha=2}")
    assert cli.make_parser().parse_args(["quantize", "x", "-o", "y", "--alpha", "2"]).alpha == 2


def test_quantize_what_was_imported(capsys, hf_model, tmp_path):
    run(capsys, "import", hf_model, "-o", tmp_path / "model")
    run(capsys, "quantize", tmp_path / "model", "-o", tmp_path / "a")
    run(capsys, "quantize", hf_model, "-o", tmp_path / "b")
    for name in ("model.mlir", "model.safetensors", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("value", ["abc", "0", "000", "-1", "1.5", "4097", "9" * 5000])
def test_bad_number_of_threads_in_the_environment(capsys, hf_model, tmp_path, monkeypatch, value):
    monkeypatch.setenv("QUANT_LLM_THREADS", value)
    message = f"quant-llm: error: QUANT_LLM_THREADS: expected an integer from 1 to 4096 but got '{value}'\n"
    for command in (["quantize", hf_model, "-o", tmp_path / "q"], ["generate", hf_model, "--prompt", "the"]):
        assert run(capsys, *command) == (2, "", message)
    assert os.listdir(tmp_path) == []
    assert run(capsys, "quantize", hf_model, "-o", tmp_path / "q", "--threads", "1")[0] == 0


def test_leading_zeros_of_the_number_of_threads(capsys, hf_model, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANT_LLM_THREADS", "0000000001")
    assert run(capsys, "quantize", hf_model, "-o", tmp_path / "q")[0] == 0


def test_include_and_exclude(capsys, hf_model, tmp_path):
    run(capsys, "quantize", hf_model, "-o", tmp_path / "q", "--include", "mlp[.](up|down)", "--exclude", "layers[.]0")
    report = json.loads((tmp_path / "q" / "report.json").read_text())
    assert [w["name"] for w in report["weights"]] == ["model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--scale", "f17"], "f17"),
        (["--element", "int9"], "int9"),
        (["--rule", "none"], "none"),
        (["--include", "("], "include"),
        (["--include", "'\""], "expected at most one kind of quotation marks"),
        (["--alpha", "9"], "argument --alpha: expected a number in (0, 2] but got '9'"),
        (["--alpha", "0"], "argument --alpha: expected a number in (0, 2] but got '0'"),
        (["--block", "-2,8"], "argument --block: expected two sizes, outputs and inputs, such as 1,64 or 1,-1 but got '-2,8'"),
        (["--symmetric", "--element", "uint4"], "--symmetric: uint4 has no negative values and needs zero points; use --element int4"),
        (["--asymmetric", "--element", "int3"], "--asymmetric: an integer zero point needs an unsigned element but got int3; use --element uint3"),
        (["--asymmetric", "--element", "nf4"], "--asymmetric: an integer zero point needs an unsigned element but got nf4\n"),
        (["--symmetric", "--rule", "minmax"], "use absmax for a symmetric scheme\n"),
        (["--element", "codebook<2, [1]>"], "expected 4 values in a codebook of 2 bits but got 1"),
        (["--block", "1,8", "--alpha", "0.75"], "--block: this block is taken everywhere, nothing is chosen by --alpha; give either --block or that\n"),
        (
            ["--block", "1,8", "--alpha", "0.2", "--group-sizes", "8", "--statistic", "gaussian", "--aggregation", "min"],
            "nothing is chosen by --alpha, --group-sizes, --statistic, --aggregation; give either --block or those\n",
        ),
    ],
)
def test_quantize_with_wrong_options(capsys, hf_model, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(model, "_import_into", None)  # found before the import
    status, out, err = run(capsys, "quantize", hf_model, "-o", tmp_path / "q", *options)
    assert status == 2 and out == "" and message in err and '"func.func"' not in err
    assert "model.mlir" not in err and tempfile.gettempdir() + "/quant-llm-" not in err
    assert os.listdir(tmp_path) == []


def test_recipe_that_is_none(hf_model, tmp_path):
    with pytest.raises(quant_llm.QuantLLMError, match="^there is no pipeline 'quant-llm-magic'"):
        model.quantize_directory(hf_model, tmp_path / "q", recipe="magic")
    with pytest.raises(quant_llm.QuantLLMError, match="^quant-llm-finequant: unknown option 'frob': expected output, "):
        model.quantize_directory(hf_model, tmp_path / "q", options="frob=1")


def test_messages_name_no_temporary_directory(capsys, hf_model, tmp_path, monkeypatch):
    # Nothing matches: said by the pass about the module that was imported.
    status, _, err = run(capsys, "quantize", hf_model, "-o", tmp_path / "q", "--include", "nothing")
    assert status == 2 and err.startswith(f"quant-llm: error: {hf_model}: quant-llm-quantize: ")
    names = model._Names({"/tmp/a/.imported": "model.gguf", "/tmp/a": "out"}, lambda d: seen.append(str(d)))
    seen = []
    names.diagnostic(quant_llm.Diagnostic("warning", "/tmp/a/.imported/model.mlir:3:5", "see '/tmp/a/model.safetensors'"))
    assert seen == ["model.gguf: warning: see 'out/model.safetensors'"]

    def fail(source, kind, directory, *rest):
        raise quant_llm.QuantLLMError(f"cannot read '{directory}/model.mlir'", [quant_llm.Diagnostic("error", f"{directory}/model.mlir:1:2", "x")])

    monkeypatch.setattr(model, "_import_into", fail)
    for call, name in ((lambda: model.Model.load(hf_model), hf_model), (lambda: model.import_directory(hf_model, tmp_path / "i"), tmp_path / "i")):
        with pytest.raises(quant_llm.QuantLLMError) as info:
            call()
        assert str(info.value) == f"cannot read '{name}/model.mlir'"
        assert str(info.value.diagnostics[0]) == f"{name}: error: x"


def test_quantize_twice_is_an_error(capsys, hf_model, tmp_path):
    run(capsys, "quantize", hf_model, "-o", tmp_path / "q")
    status, out, err = run(capsys, "quantize", tmp_path / "q", "-o", tmp_path / "again")
    assert (status, out, err) == (2, "", f"quant-llm: error: '{tmp_path / 'q'}' is quantized already, to uint4; quantize the original model instead\n")
    assert os.listdir(tmp_path) == ["q"]
    run(capsys, "quantize", hf_model, "-o", tmp_path / "part", "--include", "mlp", "--element", "nf4")
    assert "is quantized already, to nf4; " in run(capsys, "quantize", tmp_path / "part", "-o", tmp_path / "again")[2]


def test_help_and_version(capsys):
    for arguments in (["--help"], ["quantize", "--help"]):
        status, out, err = run(capsys, *arguments)
        assert status == 0 and "example" in out and err == ""
    for value in (*cli.SCALES, *cli.RULES, "int1 to int8", "normal1 to normal6", *cli.ELEMENTS[22:], "gaussian", "mean", "finequant", "(0, 2]"):
        assert value in " ".join(out.split())
    status, out, _ = run(capsys, "--version")
    assert status == 0 and out.startswith("quant-llm ")


def test_interrupt_leaves_nothing(hf_model, tmp_path):
    # The import is slowed down in the middle, when something is written already.
    program = """
import os, sys, time
from quant_llm import cli, model
original = model._import_into
def slow(source, kind, directory, *rest):
    original(source, kind, directory, *rest)
    print("written", os.listdir(directory), flush=True)
    time.sleep(60)
model._import_into = slow
sys.exit(cli.main(sys.argv[1:]))
"""

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        command = [sys.executable, "-c", program, "import", str(hf_model), "-o", str(tmp_path / "out")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=accept_signals)
        assert "model.mlir" in process.stdout.readline()
        assert len(os.listdir(tmp_path)) == 1
        start = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - start < 5
        assert process.returncode == 128 + number
        assert err.strip() == "quant-llm: interrupted, nothing was written"
        assert os.listdir(tmp_path) == []


def test_incomplete_installation(tmp_path):
    package = os.path.dirname(quant_llm.__file__)
    shutil.copytree(package, tmp_path / "quant_llm", ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
    result = subprocess.run([sys.executable, "-m", "quant_llm", "info", "x"], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1
    assert result.stderr.startswith("quant-llm: error: cannot load the compiler of quant_llm, which needs LLVM and MLIR 22 (libmlir-22): ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_full_standard_output(hf_model, more):
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-m", "quant_llm", "info", str(hf_model), *more], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (2, "quant-llm: error: cannot write to standard output: No space left on device\n")


COMMANDS = ("import", "quantize", "info", "eval", "generate", "recipes", "calibrate")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["recipes"], ["recipes", "gptq"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_on_a_full_disk(arguments):
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-m", "quant_llm", *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (2, "quant-llm: error: cannot write to standard output: No space left on device\n")


# Of the file that would be longer than this many bytes.
FULL = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from quant_llm.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("limit", [100, 600, 4000])
@pytest.mark.parametrize("command", ["quantize", "import", "info"])
def test_full_disk_names_what_is_written(hf_model, tmp_path, command, limit):
    output = ["-o", str(tmp_path / "out")] if command != "info" else []
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    program = [sys.executable, "-c", FULL, str(limit), command, str(hf_model), *output]
    result = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(temporary), "QUANT_LLM_CACHE_DIR": str(tmp_path / "cache")})
    place = temporary if command == "info" else tmp_path / "out"
    assert (result.returncode, result.stdout) == (2, "") and result.stderr.count("\n") == 1
    # A companion is named, too, as what is copied.
    assert re.match(rf"quant-llm: error: cannot (write '|copy '{hf_model}/[a-z_.]+' to '){place}[^']*': File too large$", result.stderr), result.stderr
    assert os.listdir(tmp_path) == ["tmp"] and os.listdir(temporary) == []


def test_commands_of_the_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert set(re.findall(r"^    ([a-z]+)\b", capsys.readouterr().out, re.M)) == set(COMMANDS)


def test_closed_pipe(hf_model):
    # Quiet, and with the status that other programs have then.
    command = f'"{sys.executable}" -m quant_llm info "{hf_model}" --json | true; echo ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("141\n", "")


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_closed_streams(hf_model, tmp_path, closed):
    streams = " ".join(f"{number}>&-" for number in closed)
    for command in (["info", hf_model], ["quantize", hf_model, "-o", tmp_path / "q"], ["eval", hf_model, "--text", "-"]):
        result = subprocess.run(["bash", "-c", f'exec "$@" {streams}', "-", sys.executable, "-m", "quant_llm", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if "1" in closed:
            message = "quant-llm: error: cannot write to standard output: it is closed\n"
            assert (result.returncode, result.stdout, result.stderr) == (2, "", "" if "2" in closed else message)
        elif command[0] == "eval":
            message = "cannot read standard input: it is closed" if closed == "0" else "expected a text of at least one window"
            assert result.returncode == 2 and result.stdout == "" and (message in result.stderr or closed == "2")
        else:
            assert (result.returncode, result.stderr) == (0, "") and result.stdout
    assert os.listdir(tmp_path) == ([] if "1" in closed else ["q"])


def test_terminal_without_unicode(hf_model, tmp_path):
    command = [sys.executable, "-m", "quant_llm", "import", hf_model, "-o", tmp_path / "caf\u00e9"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stdout, result.stderr) == (0, f"wrote {tmp_path}/caf?\n", "")


# Sends itself Ctrl-C when the module of the first argument is imported.
INTERRUPT_IMPORT = """
import importlib.abc, os, runpy, signal, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
wanted = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
if sys.argv[1] == "quickstart":
    runpy.run_path(sys.argv.pop(2), run_name="__main__")
else:
    runpy.run_module("quant_llm", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("imported", ["json", "quant_llm.cli", "argparse", "tqdm", "numpy", "quant_llm._quant_llm", "tokenizers", "quant_llm._calibrate"])
@pytest.mark.parametrize("command", ["info", "quickstart"])
def test_interrupt_of_an_import(hf_model, tmp_path, imported, command):
    script = os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "quickstart.py")
    more = [script] if command == "quickstart" else []
    if imported in ("argparse", "json") and more:
        return  # the script needs them first
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPT_IMPORT, imported, command, *more, str(hf_model)], capture_output=True, text=True, cwd=tmp_path, preexec_fn=accept_signals
    )
    # Nothing was begun: the process ends by the signal itself, 130 for a shell.
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("imported", ["torch", "quant_llm.calibration"])
def test_interrupt_of_an_import_by_a_command(hf_model, tmp_path, imported):
    command = ["calibrate", hf_model, "--text", __file__, "--samples", "1", "--length", "8", "-o", tmp_path / "c"]
    result = subprocess.run([sys.executable, "-c", INTERRUPT_IMPORT, imported, *command], capture_output=True, text=True, preexec_fn=accept_signals)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "\nquant-llm: interrupted, the same command goes on from the last block that was saved, if any was\n"


def test_interrupt_when_the_directory_is_made(hf_model, tmp_path):
    program = """
import os, sys, time
from quant_llm import cli
original = os.mkdir
def slow(path, *rest, **options):
    original(path, *rest, **options)
    print("made", path, flush=True)
    time.sleep(0.5)
os.mkdir = slow
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "import", str(hf_model), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=accept_signals)
    assert f"made {tmp_path}/.out." in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "\nquant-llm: interrupted, nothing was written\n")
    assert os.listdir(tmp_path) == []


def test_interrupt_at_any_moment(hf_model, tmp_path):
    # As early as a shell that was told to hold it back until Python can take it.
    hold_back = ["env", "--block-signal=INT"]
    for delay in (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8):
        command = [*hold_back, sys.executable, "-m", "quant_llm", "quantize", str(hf_model), "-o", str(tmp_path / "q")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=accept_signals)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        time.sleep(delay / 4)
        process.send_signal(signal.SIGINT)  # once more, as people do
        out, err = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGINT, 130), err
        if (tmp_path / "q").exists():  # it was quick
            assert err in ("", f"\nquant-llm: interrupted, '{tmp_path / 'q'}' is complete\n")
            assert (tmp_path / "q" / "model.mlir").exists()
            shutil.rmtree(tmp_path / "q")
        else:
            assert process.returncode != 0
            assert out == "" and err in ("", "\nquant-llm: interrupted, nothing was written\n")
        assert os.listdir(tmp_path) == []


def test_interrupt_after_the_work(hf_model, tmp_path):
    # The new directory has its name, but the command has not said so yet.
    program = """
import sys, time
from quant_llm import cli, model
def late(*arguments, **options):
    print("complete", flush=True)
    time.sleep(60)
cli.say = late
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "import", str(hf_model), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=accept_signals)
    assert process.stdout.readline() == "complete\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, f"\nquant-llm: interrupted, '{tmp_path / 'out'}' is complete\n")
    assert os.listdir(tmp_path) == ["out"]


def change(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda m: (m / "model.safetensors").unlink(), "cannot open '{model}/model.safetensors': No such file or directory"),
        (lambda m: os.truncate(m / "model.safetensors", 3000), "the file is truncated"),
        (lambda m: change(m / "model.safetensors", b"layers.0.mlp.up_proj.weight.codes", b"layers.0.mlp.up_proj.weight.kodes"), "'{model}/model.safetensors' has no tensor 'model.layers.0.mlp.up_proj.weight.codes'"),
        (lambda m: change(m / "model.safetensors", b'"model.norm.weight":{"dtype":"F16"', b'"model.norm.weight":{"dtype":"I16"'), "expected tensor 'model.norm.weight' of type 'f16' in the archive but got I16"),
        (lambda m: change(m / "model.safetensors", b'"shape":[32,16]', b'"shape":[16,32]'), "expected tensor 'model.embed_tokens.weight' of shape [32, 16] in the archive but got [16, 32]"),
        (lambda m: (m / "model.mlir").write_text(""), "expected the module of a model in '{model}/model.mlir' but it has neither functions nor parameters; import the model again"),
        (lambda m: (m / "model.mlir").write_text("module {}"), "neither functions nor parameters"),
    ],
    ids=["missing", "truncated", "key", "type", "shape", "empty", "nothing"],
)
def test_info_of_a_damaged_model(capsys, hf_model, tmp_path, damage, message):
    path = tmp_path / "q"
    run(capsys, "quantize", hf_model, "-o", path, "--exclude", "self_attn|layers.1|down_proj")
    damage(path)
    for more in ([], ["--json"]):
        status, out, err = run(capsys, "info", path, *more)
        assert status == 2 and out == "" and err.startswith("quant-llm: error: ") and message.format(model=path) in err


def test_info_without_config(capsys, hf_model, tmp_path):
    run(capsys, "import", hf_model, "-o", tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    warning = f"quant-llm: warning: '{tmp_path / 'model'}' has no config.json, which says where texts end and how long they may be; import the model again\n"
    status, out, err = run(capsys, "info", tmp_path / "model")
    assert status == 0 and out.startswith("model (quant-llm)\n21 tensors") and err == warning
    status, out, err = run(capsys, "generate", tmp_path / "model", "--prompt", "the", "--max-tokens", "2")
    assert status == 0 and err == warning


@pytest.mark.parametrize("command", ["import", "quantize"])
def test_model_without_tokenizer(capsys, hf_model, tmp_path, command):
    source, output = tmp_path / "source", tmp_path / "out"
    shutil.copytree(hf_model, source)
    (source / "tokenizer.json").unlink()
    status, _, err = run(capsys, command, source, "-o", output)
    assert (status, err) == (0, f"quant-llm: warning: '{source}' has no tokenizer.json; put one into '{output}' to run the model on text\n")
    for path in (source, output):
        for words in (["generate", path, "--prompt", "the"], ["eval", path, "--text", __file__], ["calibrate", path, "--text", __file__, "-o", tmp_path / "c"]):
            status, out, err = run(capsys, *words)
            advice = "put one there" + (", or give --tokens" if words[0] == "calibrate" else "")
            assert (status, out, err) == (2, "", f"quant-llm: error: '{path}' has no tokenizer.json; {advice}\n")
    loaded = model.Model.load(output)
    assert loaded.tokenizer is None and len(list(loaded.generate([1, 2], max_tokens=1))) <= 1
    with pytest.raises(quant_llm.QuantLLMError, match="expected a model with a tokenizer but it has none"):
        loaded.stream("the")
    # One that was put there stays.
    shutil.copy(hf_model / "tokenizer.json", output)
    status, _, err = run(capsys, command, source, "-o", output, "--force")
    assert status == 0 and err == f"quant-llm: warning: '{source}' has no tokenizer.json; '{output / 'tokenizer.json'}' is kept\n"
    assert (output / "tokenizer.json").read_bytes() == (hf_model / "tokenizer.json").read_bytes()
    assert run(capsys, "generate", output, "--prompt", "the", "--max-tokens", "1")[0] == 0
    (source / "tokenizer.model").touch()
    _, _, err = run(capsys, command, output if command == "quantize" else source, "-o", tmp_path / "more")
    if command == "quantize":
        return
    assert "(Transformers makes one of 'tokenizer.model': AutoTokenizer.from_pretrained(directory).save_pretrained(directory))" in err


def test_text_of_a_device(capsys, hf_model):
    status, out, err = run(capsys, "eval", hf_model, "--text", "/dev/zero")
    assert (status, out, err) == (2, "", "quant-llm: error: '/dev/zero': expected a file of text but got a device\n")


def test_gguf_without_tokenizer(capsys, gguf_model, tmp_path, monkeypatch):
    source, output = gguf_model, tmp_path / "out"
    reason = f"{source}: expected a tokenizer but there is no key 'tokenizer.ggml.model'"
    said, original = [], model.import_model

    def import_model(*arguments, **options):
        said.append(capsys.readouterr().err)  # before the long work
        original(*arguments, **options)

    monkeypatch.setattr(model, "import_model", import_model)
    assert run(capsys, "quantize", source, "-o", output)[0] == 0
    assert said == [f"quant-llm: warning: {reason}; put one into '{output}' to run the model on text\n"]
    assert "tokenizer.json" not in os.listdir(output)
    monkeypatch.setattr(model, "import_model", None)
    status, out, err = run(capsys, "generate", source, "--prompt", "the")
    assert (status, out, err) == (2, "", f"quant-llm: error: {reason}; import the model to a directory and put one there\n")


def test_context(capsys, hf_model, tmp_path):
    run(capsys, "import", hf_model, "-o", tmp_path / "m")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat " * 100)
    # The default window is not larger than what the model is for.
    status, out, _ = run(capsys, "eval", tmp_path / "m", "--text", text, "--max-windows", "2", "--json")
    assert status == 0 and json.loads(out)["tokens"] == 2 * 127
    status, out, err = run(capsys, "eval", tmp_path / "m", "--text", text, "--window", "129")
    assert (status, out) == (2, "")
    assert err == "quant-llm: error: --window: expected at most 128 tokens, as the model is for no more (max_position_embeddings), but got 129\n"
    config = json.loads((tmp_path / "m" / "config.json").read_text())

    def set_context(value):
        (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": value, "eos_token_id": None}))

    set_context(24)
    status, out, err = run(capsys, "generate", tmp_path / "m", "--prompt", "the cat sat", "--max-tokens", "99999999")
    assert status == 0 and err == "quant-llm: warning: the text ends because the model is for 24 tokens at most\n"
    assert run(capsys, "generate", tmp_path / "m", "--prompt", "the cat sat", "--max-tokens", "3")[2] == ""
    status, _, err = run(capsys, "generate", tmp_path / "m", "--prompt", "the cat sat on the mat " * 9)
    assert status == 2 and err.startswith("quant-llm: error: --prompt: expected fewer than 24 tokens, as the model is for no more")
    set_context(None)
    status, _, err = run(capsys, "generate", tmp_path / "m", "--prompt", "the", "--max-tokens", "2000000000")
    assert status == 2 and err == "quant-llm: error: --max-tokens: expected a number of tokens whose keys and values fit into memory but got 2000000000\n"
    set_context("many")
    status, _, err = run(capsys, "generate", tmp_path / "m", "--prompt", "the")
    assert status == 2 and "config.json: expected 'max_position_embeddings' to be a positive integer but got \"many\"" in err


def test_another_run_was_faster(tmp_path):
    with pytest.raises(model.ExistsError, match="/m' exists already; choose another name, or replace it$"):
        with model.new_directory(tmp_path / "m") as staging:
            open(os.path.join(staging, "model.mlir"), "w").close()
            (tmp_path / "m").mkdir()
            (tmp_path / "m" / "theirs").touch()
    assert sorted(os.listdir(tmp_path)) == ["m"] and os.listdir(tmp_path / "m") == ["theirs"]


def test_messages_of_the_library_name_no_options(hf_model, tmp_path):
    model.import_directory(hf_model, tmp_path / "m")
    with pytest.raises(model.ExistsError, match="exists already; choose another name, or replace it$"):
        model.import_directory(hf_model, tmp_path / "m")
    folder = os.path.dirname(model.__file__)
    for path in [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names if name.endswith(".py")]:
        if os.path.basename(path) not in ("cli.py", "_calibrate.py"):
            with open(path) as file:
                assert not re.search(r"--[a-z]", file.read()), path


@pytest.mark.parametrize("command", ["import", "quantize"])
def test_empty_output(capsys, hf_model, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, command, hf_model, "-o", "") == (2, "", "quant-llm: error: --output: expected the name of a directory but got ''\n")
    assert os.listdir(tmp_path) == []
