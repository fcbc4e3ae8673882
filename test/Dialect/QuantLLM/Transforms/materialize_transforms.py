# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir -p %t
# RUN: %python %s %t
"""What quant-llm-materialize-transforms stores, against NumPy; and what it refuses."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

out = Path(sys.argv[1])
rng = np.random.default_rng(0)


def normal(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def opt(text, *arguments):
    (out / "m.mlir").write_text(text)
    return subprocess.run(["quant-opt", out / "m.mlir", *arguments], capture_output=True, text=True, errors="replace")


def passes(options=""):
    return f"--quant-llm-materialize-transforms=output={out}/t.safetensors {options}"


tensors = {
    "w": normal(6, 8),
    "half": normal(8, 8, dtype=np.float16),
    "brain": normal(4, 8, dtype=ml_dtypes.bfloat16),
    "s": np.abs(normal(8)) + 1,
    "s2": np.abs(normal(2, 4)) + 1,
    "p": rng.permutation(8).astype(np.int32),
    "r": np.linalg.qr(rng.standard_normal((4, 4)))[0],
    "a": np.eye(8) + 0.1 * rng.standard_normal((8, 8)),
    "t": normal(8),
    "kept": normal(3),
    "unused": normal(2),
}
tensors["ai"] = np.linalg.inv(tensors["a"])
save_file(tensors, out / "model.safetensors")
NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64", "int32": "i32"}
TYPES = {k: f"tensor<{'x'.join(map(str, v.shape))}x{NAMES[str(v.dtype)]}>" for k, v in tensors.items()}
HEAD = 'quant_llm.archive @model "model.safetensors"\n' + "".join(f"quant_llm.parameter @{k} from @model : {t}\n" for k, t in TYPES.items())


def module(body, results):
    gets = "".join(f"  %{k} = quant_llm.get_parameter @{k} : {t}\n" for k, t in TYPES.items() if k != "unused" and f"%{k}" in body + results)
    names, types = zip(*[r.split(": ") for r in results.split("; ")])
    return HEAD + f"func.func @f() -> ({', '.join(types)}) {{\n{gets}{body}  return {', '.join(names)} : {', '.join(types)}\n}}\n"


text = module(
    """
  %0 = quant_llm.scale_channels inverse %w by %s dims = [1] : tensor<6x8xf32>, tensor<8xf32>
  %1 = quant_llm.rotate %0 hadamard 4 seed 3 dims = [1] : tensor<6x8xf32>
  %2 = quant_llm.permute_channels inverse %half by %p dims = [0] : tensor<8x8xf16>, tensor<8xi32>
  %3 = quant_llm.rotate inverse %2 by %r dims = [1] : tensor<8x8xf16>, tensor<4x4xf64>
  %4 = quant_llm.affine %brain by %a, %ai plus %t dims = [1] : tensor<4x8xbf16>, tensor<8x8xf64>, tensor<8x8xf64>, tensor<8xf32>
  %e = tensor.empty() : tensor<2x3x4xf32>
  %b = linalg.broadcast ins(%s2 : tensor<2x4xf32>) outs(%e : tensor<2x3x4xf32>) dimensions = [1]
  %c = tensor.collapse_shape %b [[0, 1], [2]] : tensor<2x3x4xf32> into tensor<6x4xf32>
  %x = tensor.expand_shape %w [[0], [1, 2]] output_shape [6, 2, 4] : tensor<6x8xf32> into tensor<6x2x4xf32>
  %5 = quant_llm.scale_channels %x by %c dims = [0, 2] : tensor<6x2x4xf32>, tensor<6x4xf32>
  %6 = quant_llm.linear %t, %half : (tensor<8xf32>, tensor<8x8xf16>) -> tensor<8xf32>
  %7 = quant_llm.shift_channels %t by %6 dims = [0] : tensor<8xf32>, tensor<8xf32>
""",
    "%1: tensor<6x8xf32>; %3: tensor<8x8xf16>; %4: tensor<4x8xbf16>; %5: tensor<6x2x4xf32>; %7: tensor<8xf32>; %kept: tensor<3xf32>",
)
done = opt(text, passes(), "-o", str(out / "t.mlir"))
assert done.returncode == 0, done.stderr
stored = load_file(out / "t.safetensors")
assert stored.keys() == {"w", "half", "brain", "w.untied", "t", "kept", "unused"}, stored.keys()

def splitmix_first(seed):
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


sign = np.array([-1 if splitmix_first(3) >> i & 1 else 1 for i in range(4)])
h2 = np.array([[1, 1], [1, -1]])
h4 = sign[:, None] * np.kron(h2, h2) / 2
expected = {
    "w": ((tensors["w"].astype(np.float64) / tensors["s"]).reshape(6, 2, 4) @ h4).reshape(6, 8).astype(np.float32),
    "brain": (tensors["brain"].astype(np.float64) @ tensors["a"] + tensors["t"]).astype(ml_dtypes.bfloat16),
    "w.untied": tensors["w"].reshape(6, 2, 4) * np.repeat(tensors["s2"], 3, axis=0)[:, None, :],
    "t": (tensors["t"] + tensors["half"].astype(np.float64) @ tensors["t"]).astype(np.float32),
    "kept": tensors["kept"],
    "unused": tensors["unused"],
}
half = np.empty((8, 8))
half[tensors["p"]] = tensors["half"]
expected["half"] = (half.reshape(8, 2, 4) @ tensors["r"].T).reshape(8, 8).astype(np.float16)
for key, value in expected.items():
    assert stored[key].dtype == value.dtype, key
    # One rounding; sums in another order may round the other way.
    np.testing.assert_allclose(stored[key].astype(np.float64), value.astype(np.float64), rtol={2: 8e-3, 4: 3e-7}[value.itemsize], atol=1e-7, err_msg=key)

after = (out / "t.mlir").read_text()
assert "@model" not in after and after.count("quant_llm.archive") == 1
assert not any(word in after for word in ("quant_llm.rotate", "linalg.", "tensor.collapse_shape", "@s2", "@r ")), after
# The archive is all that the module needs.
assert subprocess.run(["quant-opt", out / "t.mlir", "--quant-llm-verify-stage=check-archives"], capture_output=True).returncode == 0

# One parameter in two forms.
text = module(
    "  %0 = quant_llm.rotate %w hadamard 8 dims = [1] : tensor<6x8xf32>\n"
    "  %1 = quant_llm.rotate %w hadamard 8 dims = [1] : tensor<6x8xf32>\n"
    "  %2 = quant_llm.rotate inverse %w hadamard 4 dims = [1] : tensor<6x8xf32>\n",
    "%0: tensor<6x8xf32>; %1: tensor<6x8xf32>; %2: tensor<6x8xf32>",
)
done = opt(text, passes("copy-dense=false archive-name=new"))
assert done.returncode == 0, done.stderr
assert load_file(out / "t.safetensors").keys() == {"w", "w.untied"}
assert done.stdout.count("get_parameter @w :") == 2 and done.stdout.count("get_parameter @w.untied :") == 1
assert 'quant_llm.archive @model "model.safetensors"' in done.stdout and 'quant_llm.archive @new "t.safetensors"' in done.stdout

# The parameter is used as it is as well.
text = module("  %0 = quant_llm.rotate %w hadamard 8 dims = [1] : tensor<6x8xf32>\n", "%0: tensor<6x8xf32>; %w: tensor<6x8xf32>")
done = opt(text, passes())
assert done.returncode == 0, done.stderr
stored = load_file(out / "t.safetensors")
assert np.array_equal(stored["w"], tensors["w"]) and "w.untied" in stored


def refuse(text, message, options=None):
    (out / "t.safetensors").unlink(missing_ok=True)
    done = opt(text, options or passes())
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not (out / "t.safetensors").exists()


refuse(module("", "%w: tensor<6x8xf32>"), "quant-llm-materialize-transforms: no parameter is transformed; run quant-llm-fold-transforms first")
rotated = module("  %0 = quant_llm.rotate %w hadamard 8 dims = [1] : tensor<6x8xf32>\n", "%0: tensor<6x8xf32>")
refuse(rotated, "invalid option 'output': expected a safetensors file to write but got none", "--quant-llm-materialize-transforms")
refuse(rotated, "is a file of an archive that the module reads", f"--quant-llm-materialize-transforms=output={out}/model.safetensors")
refuse(rotated, "invalid option 'archive-name': expected a new name but got 'model', which is the name of another symbol", passes("archive-name=model"))
refuse(rotated.replace("6x8xf32", "8x8xf32"), "expected tensor 'w' of shape [8, 8] in the archive but got [6, 8]")

zero = dict(tensors, s=np.array([1, 0] * 4, np.float32), half=np.full((8, 8), 6e4, np.float16), p=np.zeros(8, np.int32))
save_file(zero, out / "model.safetensors")
divided = "  %0 = quant_llm.scale_channels inverse %w by %s dims = [1] : tensor<6x8xf32>, tensor<8xf32>\n"
refuse(module(divided, "%0: tensor<6x8xf32>"), "divides by a scale that is 0")
large = "  %0 = quant_llm.rotate %half hadamard 8 dims = [1] : tensor<8x8xf16>\n"
refuse(module(large, "%0: tensor<8x8xf16>"), "computes parameter 'half', whose element 0 is not a finite number of type 'f16'")
twice = "  %0 = quant_llm.permute_channels %w by %p dims = [1] : tensor<6x8xf32>, tensor<8xi32>\n"
refuse(module(twice, "%0: tensor<6x8xf32>"), "expected a permutation that holds every number from 0 to 7 once")
