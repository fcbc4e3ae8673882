# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Command lines and lists of cases that quant-bench must refuse."""

import os
import subprocess
import tempfile

PROBLEM = ["--n", "64", "--k", "64", "--scheme", "int4"]
LINES = [
    ([], "expected an artifact, or n, k and a scheme"),
    (["--n", "64", "--k", "64"], "expected an artifact, or n, k and a scheme"),
    (["--colour", "red"], "unknown option '--colour'; see --help"),
    (["dir", "--m"], "expected a value for --m"),
    (["--help=1"], "expected no value for --help"),
    (["dir", "--m", "1,,2"], "expected an element of --m to be an integer from 1 to 2147483647 but got ''"),
    (["dir", "--m", "0"], "but got '0'"),
    (["dir", "--m=1x"], "but got '1x'"),
    (["dir", "--m", "99999999999"], "but got '99999999999'"),
    (["dir", "--replays", "19"], "expected --replays to be an integer from 20"),
    (["dir", "--device", "-1"], "expected --device to be an integer from 0"),
    (["dir", "--experts", "2"], "expected --n, --k and --scheme with --experts"),
    (["dir", "--epilogue", "bias"], "expected --n, --k and --scheme with --epilogue"),
    ([*PROBLEM, "--epilogue", "bias,"], "expected a step bias, residual, silu, gelu, gelu_tanh, relu, gate_silu (gate_...) or scale:NUMBER of the epilogue but got ''"),
    ([*PROBLEM, "--epilogue", "softmax"], "but got 'softmax'"),
    ([*PROBLEM, "--epilogue", "gate_tanh"], "but got 'gate_tanh'"),
    ([*PROBLEM, "--epilogue", "bias, gate_silu"], "expected the step 'gate_silu' of the epilogue to come first, where the two sums are"),
    ([*PROBLEM, "--epilogue", "gate_silu, gate_silu"], "expected the step 'gate_silu' of the epilogue to come first"),
    ([*PROBLEM, "--epilogue", "scale:"], "expected a finite f32 number in the step 'scale:' of the epilogue"),
    ([*PROBLEM, "--epilogue", "scale:1e99"], "expected a finite f32 number in the step 'scale:1e99'"),
    ([*PROBLEM, "--epilogue", "scale:1e-60"], "expected a finite f32 number in the step 'scale:1e-60'"),
    ([*PROBLEM, "--epilogue", "scale:2x"], "expected a finite f32 number in the step 'scale:2x'"),
    ([*PROBLEM, "--epilogue", ",".join(["relu"] * 17)], "expected at most 16 steps of the epilogue but got 17"),
    ([*PROBLEM, "--experts", "0"], "expected --experts to be an integer from 1"),
    ([*PROBLEM, "--experts", "1048576"], "expected a weight of at most 2147483648 elements but got 1048576 x 64 x 64"),
    (["dir", "--act", "bf16"], "expected --n, --k and --scheme with --act"),
    ([*PROBLEM, "--k", "0"], "expected --k to be an integer from 1"),
    ([*PROBLEM, "--act", "f32"], "expected f16 or bf16 as activation but got 'f32'"),
    ([*PROBLEM, "--scheme", "int9"], "scheme: expected an element"),
    ([*PROBLEM, "--scheme", "int4, block = [0, 1]"], "scheme: expected block sizes"),
    ([*PROBLEM, "--n", "1048576", "--k", "1048576"], "expected a weight of at most 2147483648 elements but got 1048576 x 1048576"),
    ([*PROBLEM, "--linear", "x"], "expected an artifact that the linear 'x' belongs to"),
    ([*PROBLEM, "--compile-only"], "expected --directory with --compile-only"),
    (["dir", "--compile-only", "--directory", "d"], "expected n, k and a scheme to compile but got the artifact 'dir'"),
    ([*PROBLEM, "--compile-only", "--directory", "d", "--json", "x.json"], "expected no --json with --compile-only, which measures nothing"),
    (["--cases", "/nonexistent"], "cannot open '/nonexistent'"),
]
CASES = [
    ("{}", "expected a list of cases but got object"),
    ("[", "expected"),
    ("[1]", "case 0: expected an object but got number"),
    ('[{"artifact": 1}]', "case 0: expected 'artifact' to be text but got number"),
    ('[{"artifact": "a", "n": 1}]', "case 0: expected either an artifact or n, k and a scheme, but got both"),
    ('[{"n": 1.5, "k": 1, "scheme": "int4"}]', "case 0: expected 'n' to be an integer from 1 to 2147483647 but got '1.5'"),
    ('[{"artifact": "a"}, {"n": 1}]', "case 1: expected an artifact, or n, k and a scheme"),
    ('[{"artifact": "a", "experts": 2}]', "case 0: expected either an artifact or n, k and a scheme, but got both"),
    ('[{"artifact": "a", "epilogue": "bias"}]', "case 0: expected either an artifact or n, k and a scheme, but got both"),
    ('[{"n": 8, "k": 32, "scheme": "int4", "epilogue": ["bias"]}]', "case 0: expected 'epilogue' to be text but got array"),
    ('[{"n": 8, "k": 32, "scheme": "int4", "epilogue": "tanh"}]', "case 0: expected a step bias,"),
    ('[{"artifact": "a", "m": 5}]', "case 0: expected 'm' to be a list of numbers of tokens"),
    ('[{"artifact": "a", "m": []}]', "expected 'm' to be a list"),
    ('[{"artifact": "a", "m": [0]}]', "expected 'm' to be an integer from 1"),
    ('[{"artifact": "a", "tokens": [1]}]', "expected artifact, linear, n, k, scheme, act, experts, epilogue or m but got 'tokens'"),
]


def expect(arguments, message):
    result = subprocess.run(["quant-bench", *arguments], capture_output=True, text=True)
    assert result.returncode == 2, (arguments, result)
    assert result.stderr.startswith("quant-bench: error: ") and message in result.stderr, (arguments, result.stderr)
    assert result.stdout == "", (arguments, result.stdout)


for arguments, message in LINES:
    expect(arguments, message)
with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "cases.json")
    for text, message in CASES:
        with open(path, "w") as file:
            file.write(text)
        expect(["--cases", path], message)
    # The results replace no file that is read, by whatever name.
    link = os.path.join(directory, "link.json")
    os.symlink(path, link)
    with open(path, "w") as file:
        file.write('[{"artifact": "a"}]')
    for name in (path, link):
        for read in (["--cases", path], [directory]):
            expect([*read, "--json", name], f"--json: '{name}' is read in this run; choose another file")
    with open(path) as file:
        assert file.read() == '[{"artifact": "a"}]'
