# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: %pytest %s
"""Wrong options of passes and pipelines: one message that names the pass, the
option, what is there and what was expected, in quant-opt and in Python."""

import concurrent.futures
import pathlib
import re
import subprocess

import pytest

import quant_llm

PASSES = pathlib.Path(__file__).parents[2] / "docs" / "Passes.md"
EMPTY = b"module {}"

WRONG = {
    ("quant-llm-form-blocks", "window=abc"): "invalid option 'window': expected an integer but got 'abc'",
    ("quant-llm-form-blocks", "window=1.5"): "invalid option 'window': expected an integer but got '1.5'",
    ("quant-llm-form-blocks", "window="): "invalid option 'window': expected an integer but got ''",
    ("quant-llm-form-blocks", "window"): "invalid option 'window': expected a value but got none; write window=VALUE",
    ("quant-llm-form-blocks", "layer-pattern"): "invalid option 'layer-pattern': expected a value but got none; write layer-pattern=VALUE",
    ("quant-llm-form-blocks", "window=-9223372036854775809"): "invalid option 'window': expected an integer from -9223372036854775808 to 9223372036854775807 but got '-9223372036854775809'",
    ("quant-llm-form-blocks", "overlap=0 window=x overlap=1"): "invalid option 'window': expected an integer but got 'x'",
    # The first of them, in one line.
    ("quant-llm-form-blocks", "overlap=x window=y"): "invalid option 'overlap': expected an integer but got 'x'",
    ("quant-llm-form-blocks", "window='1\nnope=2\t\x01'"): "invalid option 'window': expected an integer but got '1\\nnope=2\\t\\x01'",
    ("quant-llm-form-blocks", "nope=1"): "unknown option 'nope': expected layer-pattern, window or overlap",
    ("quant-llm-form-blocks", "nope"): "unknown option 'nope': expected layer-pattern, window or overlap",
    ("quant-llm-form-blocks", "window=-1"): "invalid option 'window': expected 0 (no cross_block) or a positive number but got -1",
    ("quant-llm-form-blocks", "window=1 overlap=0 window=2"): "invalid option 'window': expected one value but got '1' and '2'",
    ("quant-llm-fold-transforms", "report=a.json report=b.json"): "invalid option 'report': expected one value but got 'a.json' and 'b.json'",
    ("quant-llm-inline-blocks", "nope=1"): "unknown option 'nope': expected no options",
    ("quant-llm-fuse-epilogues", "gated=2"): "invalid option 'gated': expected true or false but got '2'",
    ("quant-llm-choose-granularity", "threads=-1"): "invalid option 'threads': expected an integer from 0 to 4294967295 but got '-1'",
    ("quant-llm-choose-granularity", "threads=4294967296"): "invalid option 'threads': expected an integer from 0 to 4294967295 but got '4294967296'",
    ("quant-llm-choose-granularity", "alpha="): "invalid option 'alpha': expected a number but got ''",
    ("quant-llm-choose-granularity", "exclude='a b' alpha=abc"): "invalid option 'alpha': expected a number but got 'abc'",
    ("quant-llm-choose-granularity", "statistic=x"): "invalid option 'statistic': expected raw or gaussian but got 'x'",
    ("quant-llm-choose-granularity", "sizes=64,x,16"): "invalid option 'sizes': expected an integer but got 'x'",
    ("quant-llm-choose-granularity", "sizes=64,"): "invalid option 'sizes': expected an integer but got ''",
    ("quant-llm-choose-granularity", "sizes={64,x}"): "invalid option 'sizes': expected an integer but got 'x'",
    ("quant-llm-choose-granularity", "sizes=64 sizes=x"): "invalid option 'sizes': expected an integer but got 'x'",
    ("quant-llm-choose-channel-scales", "grid=2147483648"): "invalid option 'grid': expected an integer from -2147483648 to 2147483647 but got '2147483648'",
    ("quant-llm-finequant", "alpha=abc"): "invalid option 'alpha': expected a number but got 'abc'",
    ("quant-llm-finequant", "fuse=perhaps"): "invalid option 'fuse': expected true or false but got 'perhaps'",
    ("quant-llm-finequant", "aggregation=x"): "invalid option 'aggregation': expected mean or min but got 'x'",
    ("quant-llm-to-cpu", "nope=1"): "unknown option 'nope': expected reference, profile or parallel",
    ("quant-llm-rtn", "output=x.safetensors group=many"): "invalid option 'group': expected an integer but got 'many'",
}
# Values that are wrong only for the pass.
FOUND_LATER = {("quant-llm-form-blocks", "window=-1")}


def quant_opt(*arguments):
    return subprocess.run(["quant-opt", *arguments], input=EMPTY.decode(), capture_output=True, text=True)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: " ".join(wrong))
def test_one_message(wrong, capfd):
    name, options = wrong
    message = f"{name}: {WRONG[wrong]}"
    pipeline = f"{name}{{{options}}}"
    lines = []
    for arguments in ([f"--{name}={options}"], [f"--pass-pipeline=builtin.module({pipeline})"]):
        result = quant_opt(*arguments)
        assert result.returncode == 1 and result.stdout == ""
        lines.append(result.stderr)
    parsed = wrong not in FOUND_LATER
    assert lines == [f"quant-opt: error: {message}" + ("; 'quant-opt --help' lists all" if parsed else "") + "\n"] * 2
    with pytest.raises(quant_llm.QuantLLMError) as info:
        quant_llm.run_pipeline(EMPTY, pipeline)
    assert str(info.value) == (f"invalid pass pipeline '{pipeline}': " if parsed else "") + message
    assert capfd.readouterr() == ("", "")


def test_every_pass_knows_its_options():
    sections = re.split(r"^### `-(\S+)`$", PASSES.read_text(), flags=re.M)[1:]
    pages = dict(zip(sections[::2], sections[1::2]))
    assert len(pages) > 30
    for name, page in pages.items():
        options = re.findall(r"^-(\S+)\s+: ", page, flags=re.M)
        # Pipelines do not say it: they are of modules.
        anchor = re.search(r"^Runs on (?:`(\S+)`|any operation)", page, flags=re.M)
        anchor = (anchor.group(1) or "any") if anchor else "builtin.module"
        with pytest.raises(quant_llm.QuantLLMError) as info:
            quant_llm.run_pipeline(EMPTY, f"{anchor}({name}{{no-such-option=1}})")
        _, given = str(info.value).split(f"{name}: unknown option 'no-such-option': expected ")
        assert sorted(re.split(", | or ", given)) == sorted(options or ["no options"]), name


def test_right_options_still_are():
    for options in ("window=0x2 overlap=0", "window={3}", "", " ", "layer-pattern='a b {}' window=1 overlap=0"):
        result = quant_opt(f"--quant-llm-form-blocks={options}")
        assert result.returncode == 0, result.stderr
    for options in ("residual", "residual=True gated=0", "gated=FALSE"):
        quant_llm.run_pipeline(EMPTY, f"quant-llm-fuse-epilogues{{{options}}}")


def test_pipelines_that_are_none(capfd):
    for pipeline, message in (
        ("nope", "'nope' does not refer to a registered pass or pass pipeline, at the beginning of 'nope'"),
        ("func.func(cse) cse", "expected ',' after parsing pipeline, at the beginning of 'cse'"),
        ("cse{", "missing closing '}' while processing pass options, at the beginning of '{'"),
        ("builtin.module(quant-llm-form-blocks{window=1", "expected a closing '})' at the end of the pipeline"),
        ("builtin.module(func.func(cse", "expected a closing '))' at the end of the pipeline"),
        ("builtin.module(quant-llm-form-blocks{layer-pattern='(}' window=1", "expected a closing '})' at the end of the pipeline"),
        ("cse{x='a\nb'}", "cse: unknown option 'x': expected none"),
        ("cse{x=1}", "cse: unknown option 'x': expected none"),
        ("func.func(cse{x=1})", "cse: unknown option 'x': expected none"),
        # LLVM writes what is wrong with values of MLIR's own passes to standard error.
        ("canonicalize{max-iterations=abc}", "canonicalize: invalid option 'max-iterations': expected an integer but got 'abc'"),
        ("canonicalize{region-simplify=zzz}", "canonicalize: invalid option 'region-simplify': expected disabled, normal or aggressive but got 'zzz'"),
        ("canonicalize{max-iterations=9223372036854775808}", "canonicalize: invalid option 'max-iterations': expected an integer from -9223372036854775808 to 9223372036854775807 but got '9223372036854775808'"),
        ("canonicalize{max-iterations='a\nb'}", "canonicalize: invalid option 'max-iterations': expected an integer but got 'a\\nb'"),
        ("cse,builtin.module(canonicalize{top-down=maybe})", "canonicalize: invalid option 'top-down': expected true or false but got 'maybe'"),
        ("inline{op-pipelines=func.func(nope)}", "'nope' does not refer to a registered pass or pass pipeline, at the beginning of 'nope'"),
    ):
        with pytest.raises(quant_llm.QuantLLMError) as info:
            quant_llm.run_pipeline(EMPTY, pipeline)
        assert str(info.value) == f"invalid pass pipeline '{pipeline}': {message}"
    assert capfd.readouterr() == ("", "")


def test_reports_are_not_lost(tmp_path):
    report = tmp_path / "r.json"
    pipeline = "quant-llm-fold-transforms{{report={}}},quant-llm-fold-transforms{{report={}}}"
    with pytest.raises(quant_llm.QuantLLMError, match="r.json' was written by an earlier pass and would be lost; choose another file for 'report'"):
        quant_llm.run_pipeline(EMPTY, pipeline.format(report, report))
    assert not report.exists()
    quant_llm.run_pipeline(EMPTY, pipeline.format(report, tmp_path / "s.json"))
    assert report.exists() and (tmp_path / "s.json").exists()
    # Another run replaces it.
    quant_llm.run_pipeline(EMPTY, pipeline.format(report, tmp_path / "s.json"))


def test_other_files_do_not_replace_reports(tmp_path):
    report = tmp_path / "r.json"
    for second in (f"quant-llm-save-module{{output={report}}}", f"quant-llm-fold-transforms{{report={report}}}"):
        for pipeline in (f"quant-llm-fold-transforms{{report={report}}},{second}", f"builtin.module(quant-llm-fold-transforms{{report={report}}}),{second}"):
            # Wrapped, or the text would begin with the passes on the module.
            with pytest.raises(quant_llm.QuantLLMError, match="r.json' was written by an earlier pass and would be lost; choose another file for '"):
                quant_llm.run_pipeline(b"module { module {} }", f"builtin.module({pipeline})")
            assert list(tmp_path.iterdir()) == []


def test_nested_modules_leave_nothing(tmp_path):
    # Passes on them run on other threads.
    nested = b"module { module { module {} } module {} module {} }"
    report = tmp_path / "r.json"
    failing = f"quant-llm-verify-calibration{{calibration={tmp_path}/none.safetensors}}"
    write = f"builtin.module(any(canonicalize),builtin.module(quant-llm-fold-transforms{{report={report}}}))"
    with pytest.raises(quant_llm.QuantLLMError, match="none.safetensors"):
        quant_llm.run_pipeline(nested, f"builtin.module({write},{failing})")
    assert list(tmp_path.iterdir()) == []
    quant_llm.run_pipeline(nested, f"builtin.module({write})")
    assert report.exists()
    report.unlink()
    # Modules beside one another want the same file: no order makes that right.
    with pytest.raises(quant_llm.QuantLLMError, match="would be lost|is being written"):
        quant_llm.run_pipeline(nested, f"builtin.module(builtin.module(quant-llm-fold-transforms{{report={report}}}))")
    assert list(tmp_path.iterdir()) == []


def test_runs_at_once_stay_apart(tmp_path):
    def run(i):
        directory = tmp_path / str(i)
        directory.mkdir()
        pipeline = f"quant-llm-fold-transforms{{report={directory}/r.json}}"
        if i % 2:
            pipeline += f",quant-llm-verify-calibration{{calibration={directory}/none.safetensors}}"
        try:
            quant_llm.run_pipeline(b"module { module {} }", f"builtin.module(builtin.module({pipeline}))")
        except quant_llm.QuantLLMError:
            assert i % 2
        return [path.name for path in directory.iterdir()] == ([] if i % 2 else ["r.json"])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(32)))


RUNNING = {
    "quant-llm-gpu-to-ptx{format=elf}": "invalid option 'format': expected ptx, cubin or auto but got 'elf'",
    "quant-llm-select-kernels{chip=sm_1}": "invalid option 'chip': expected a chip out of sm_80, ",
    "convert-quant-llm-to-gpu{chip=sm_1}": "invalid option 'chip': expected a chip out of sm_80, ",
    "convert-quant-llm-to-cpu{vector-bits=100}": "invalid option 'vector-bits': expected 128, 256 or 512 but got 100",
    "quant-llm-insert-transforms{sites=x}": "invalid option 'sites': expected norm-attention, ",
    "quant-llm-insert-transforms{sites=up-down transform=x}": "invalid option 'transform': expected scale, ",
    "quant-llm-verify-equivalence{pipeline=canonicalize bound=-1}": "invalid option 'bound': expected a number that is not negative but got ",
    "quant-llm-materialize-transforms{any-model}": "invalid option 'any-model': expected none without the option calibration",
    "quant-llm-save-module": "invalid option 'output': expected a file to write but got none",
    "quant-llm-write-gpu-artifact": "invalid option 'output': expected the directory to write but got none",
}


@pytest.mark.parametrize("pipeline", RUNNING)
def test_options_that_are_examined_when_the_pass_runs(pipeline):
    name, _, options = pipeline.rstrip("}").partition("{")
    message = f"{name}: {RUNNING[pipeline]}"
    with pytest.raises(quant_llm.QuantLLMError) as info:
        quant_llm.run_pipeline(EMPTY, pipeline)
    assert message in str(info.value)
    assert f"error: {message}" in quant_opt(f"--{name}={options}" if options else f"--{name}").stderr


def test_anchors_that_do_not_exist(capfd):
    for pipeline, anchor in (
        ("nosuch.op(cse)", "nosuch.op"),
        ("cse,builtin.module(func.func(cse),func.fun(cse{}))", "func.fun"),
        ("quant-llm-verify-equivalence{pipeline=nosuch.op(cse)}", "nosuch.op"),
    ):
        message = f"expected an operation for passes to run on but got '{anchor}(...)', which does not exist"
        with pytest.raises(quant_llm.QuantLLMError, match=re.escape(message)):
            quant_llm.run_pipeline(b"func.func @f(%x: f32) -> f32 { return %x : f32 }", pipeline)
    run = quant_opt("--pass-pipeline=builtin.module(nosuch.op(cse))")
    assert run.returncode != 0 and "error: expected an operation for passes to run on but got 'nosuch.op(...)'" in run.stderr
    assert not quant_opt("--pass-pipeline=builtin.module(nosuch.op(cse))", "--allow-unregistered-dialect").stderr
    for pipeline in ("any(cse)", "func.func(cse),gpu.module(gpu.func(cse))", "composite-fixed-point-pass{name=a(b pipeline='any(cse)'}"):
        quant_llm.run_pipeline(EMPTY, pipeline)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pipeline", [
    "func.func(quant-llm-to-cpu)",
    "func.func(quant-llm-finequant{output=x.safetensors})",
    "any(quant-llm-rtn)",
    "builtin.module(gpu.module(quant-llm-to-gpu{chip=sm_90a}))",
    "quant-llm-verify-equivalence{pipeline=func.func(quant-llm-to-cpu)}",
])
def test_pipelines_on_other_ops_than_modules(pipeline, capfd):
    name, anchor = re.search(r"(\w+(?:\.\w+)?)\((quant-llm-[a-z-]+)", pipeline).group(2, 1)
    with pytest.raises(quant_llm.QuantLLMError, match=re.escape(f"{name}: expected a place in builtin.module(...) but got {anchor}(...)")):
        quant_llm.run_pipeline(b"func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }", pipeline)
    assert capfd.readouterr().err == ""
