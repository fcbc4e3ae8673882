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

import pytest
import quant_llm
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
    assert status == 2 and "which is read" in err
    assert run(capsys, "quantize", tmp_path / "imported", "-o", tmp_path / "q", "--force")[0] == 0


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def old_model(hf_model, tmp_path):
    """A model that --force would replace, and what it consists of."""
    cli.main(["import", str(hf_model), "-o", str(tmp_path / "model")])
    (tmp_path / "model" / "note").write_text("this is the old one")
    return tmp_path / "model", contents(tmp_path / "model")


@pytest.mark.parametrize("exchange", [True, False])
def test_force_leaves_nothing_of_the_old_model(capsys, hf_model, old_model, monkeypatch, exchange):
    if not exchange:  # a file system that cannot
        monkeypatch.setattr(model, "_exchange", lambda first, second: False)
    path, before = old_model
    assert run(capsys, "import", hf_model, "-o", path, "--force")[0] == 0
    assert sorted(contents(path)) == sorted(name for name in before if name.name != "note")
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
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(wait + 1):
            assert process.stdout.readline() == "renaming\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert os.listdir(path.parent) == ["model"]
        now = contents(path)
        assert now == before or sorted(now) == sorted(name for name in before if name.name != "note")


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
        ["quantize", "x", "-o", "y", "--recipe", "magic"],
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


def test_bad_module_in_a_directory_of_ours(capsys, tmp_path):
    (tmp_path / "model.mlir").write_text("func.func @f(")
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
    with pytest.raises(quant_llm.QuantLLMError, match="^invalid options 'frob=1' of 'quant-llm-finequant'"):
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
        raise quant_llm.QuantLLMError(f"cannot write '{directory}/model.mlir'", [quant_llm.Diagnostic("error", f"{directory}/model.mlir:1:2", "x")])

    monkeypatch.setattr(model, "_import_into", fail)
    for call, name in ((lambda: model.Model.load(hf_model), hf_model), (lambda: model.import_directory(hf_model, tmp_path / "i"), tmp_path / "i")):
        with pytest.raises(quant_llm.QuantLLMError) as info:
            call()
        assert str(info.value) == f"cannot write '{name}/model.mlir'"
        assert str(info.value.diagnostics[0]) == f"{name}: error: x"


def test_quantize_twice_is_an_error(capsys, hf_model, tmp_path):
    run(capsys, "quantize", hf_model, "-o", tmp_path / "q")
    status, _, err = run(capsys, "quantize", tmp_path / "q", "-o", tmp_path / "again")
    assert status == 2 and err.startswith("quant-llm: error: ")
    assert os.listdir(tmp_path) == ["q"]


def test_help_and_version(capsys):
    for arguments in (["--help"], ["quantize", "--help"]):
        status, out, err = run(capsys, *arguments)
        assert status == 0 and "example" in out and err == ""
    for value in (*cli.SCALES, *cli.RULES, *cli.ELEMENTS[16:], "gaussian", "mean", "finequant", "(0, 2]"):
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

    def accept_hangup():  # the tests may run under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        command = [sys.executable, "-c", program, "import", str(hf_model), "-o", str(tmp_path / "out")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=accept_hangup)
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
    assert (result.returncode, result.stderr) == (2, "quant-llm: error: cannot read or write: No space left on device\n")


def test_closed_pipe_is_no_traceback(hf_model):
    command = f'{sys.executable} -m quant_llm info "{hf_model}" --json | true'
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stderr == ""
