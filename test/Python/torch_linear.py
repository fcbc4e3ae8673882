# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && mkdir %t && %python %src_root/test/Integration/CUDA/fake_gpu.py --artifact %t/artifact
# RUN: env QUANT_LLM_TEST_ARTIFACT=%t/artifact QUANT_LLM_CACHE_DIR=%t/cache QUANT_LLM_CUDA_DRIVER=%lib_dir/libquant-llm-fake-cuda.so %pytest %s
"""quant_llm.torch without a GPU: the operator's registration, modules, models,
and launches on a driver that computes on the host."""

import copy
import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from quant_llm import QuantLLMError, _build, gpu
from quant_llm import torch as ql
from quant_llm._scheme import parse_scheme
from quant_llm.model import Model, quantize_directory

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "Integration", "CUDA"))
import schemes

ARTIFACT = os.environ["QUANT_LLM_TEST_ARTIFACT"]
INT4 = "int4, block = [1, 32], scale = f16"
NVFP4 = "f4E2M1FN, block = [1, 16], scale = scheme<f8E4M3FN, block = [-1, -1], scale = f32>"
SCHEMES = [
    *(f"int{bits}, block = [1, 32], scale = f16" for bits in range(1, 9)),
    *(f"uint{bits}, block = [1, 24], scale = bf16, zero = int" for bits in range(1, 9)),
    "ternary, block = [1, -1], scale = bf16",
    "nf4, block = [1, 64], scale = scheme<int8, block = [1, 16], scale = f32>",
    "f8E4M3FN, block = [128, 128], scale = f8E8M0FNU",
    "f8E5M2, block = [1, 32], scale = f32",
    "f6E2M3FN, block = [1, 32], scale = f8E8M0FNU",
    "f6E3M2FN, block = [1, 32], scale = f16",
    "f4E2M1FN, block = [1, 32], scale = f8E8M0FNU",
    NVFP4,
    "int8, block = [-1, 1], scale = f32",
    "int4, block = [1, 32], scale = f8E4M3FN",
    "codebook<2, [-1, 0, 0.5, 1]>, block = [-1, -1], scale = f16",
    "uint5, block = [1, 24], scale = bf16, zero = bf16",
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def make_layer(scheme=INT4, n=40, k=72, bias=False, artifact=""):
    """A QuantLinear of random weights, and them in float64."""
    generator = torch.Generator().manual_seed(1)
    weight = schemes.random_weight(n, k, schemes.Scheme.parse(scheme), generator)
    packed = schemes.pack_weight(weight)
    shapes = parse_scheme(scheme).packed_shapes(n, k)
    parts = [None if part is None else part.contiguous().view(torch.uint8).reshape(shape) for part, shape in zip((packed.packed, packed.scales, packed.zeros), shapes)]
    bias = torch.nn.Parameter(torch.randn(n, generator=generator).half()) if bias else None
    return ql.QuantLinear(*parts, packed.output_scale, k, n, scheme, bias, artifact), weight.dequantize().double()


def arguments_of(layer, x):
    return (x, layer.packed, layer.packed_scales, layer.packed_zeros, layer.bias, layer.output_scale, layer.out_features, layer.in_features, layer.scheme, "f16", "")


def relative(actual, expected):
    return float(((actual.double() - expected).norm() / expected.norm()).detach())


# ---------------------------------------------------------------------------
# Weights and the operator
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_dequantize(scheme):
    for n, k in ((40, 172), (72, 200), (192, 576)):
        layer, weight = make_layer(scheme, n, k)
        assert relative(layer.dequantize(), weight) < 1e-6
        assert layer.dequantize(torch.bfloat16).dtype == torch.bfloat16


def test_large_weights_are_unpacked_in_pieces(monkeypatch):
    layer, weight = make_layer(n=200, k=300)
    monkeypatch.setattr(ql, "_CHUNK", 5000)
    assert relative(layer.dequantize(), weight) < 1e-6


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scheme", [INT4, "uint4, block = [1, 24], scale = bf16, zero = int"])
def test_opcheck(scheme, bias):
    layer, _ = make_layer(scheme, bias=bias)
    for x in (torch.randn(3, 72), torch.randn(2, 3, 72).requires_grad_(), torch.randn(0, 72), torch.randn(72, 5).T):
        results = torch.library.opcheck(torch.ops.quant_llm.linear.default, arguments_of(layer, x.detach().half().requires_grad_(x.requires_grad)))
        assert set(results.values()) == {"SUCCESS"}
        torch.library.opcheck(torch.ops.quant_llm.linear.default, (*arguments_of(layer, x.detach().half()), True))
    torch.library.opcheck(torch.ops.quant_llm.dequantize.default, (layer.packed, layer.packed_scales, layer.packed_zeros, layer.output_scale, 40, 72, layer.scheme, torch.float16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_and_shapes(dtype):
    layer, weight = make_layer(bias=True)
    x = torch.randn(2, 3, 72).to(dtype)
    y = layer(x)
    assert y.dtype == dtype and y.shape == (2, 3, 40)
    assert relative(y, x.double() @ weight.T + layer.bias.double()) < 1e-2
    # Sums over K may be taken in another order for another number of tokens.
    assert relative(layer(x[:, ::2]), y[:, ::2].double()) < 4 * torch.finfo(dtype).eps
    for shape in ((72,), (0, 72), (2, 0, 72), (1, 1, 1, 72)):
        assert layer(torch.ones(shape, dtype=dtype)).shape == (*shape[:-1], 40)


def test_fake_tensors():
    layer, _ = make_layer(bias=True)
    y = layer.to("meta")(torch.empty(5, 7, 72, dtype=torch.bfloat16, device="meta"))
    assert (y.shape, y.dtype, y.device.type) == ((5, 7, 40), torch.bfloat16, "meta")
    with pytest.raises(QuantLLMError, match="expected x with 72 columns"):
        layer(torch.empty(5, 70, device="meta"))


def test_compile():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = make_layer(n=40, k=72)[0], make_layer(n=72, k=40, bias=True)[0]
            self.down.constant_weights = True

        def forward(self, x):
            return x + self.down(torch.nn.functional.silu(self.up(x)))

    block = Block()
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for m in (1, 4, 9):
        x = torch.randn(m, 72)
        with torch.no_grad():
            assert torch.allclose(compiled(x), block(x), atol=1e-5)
    exported = torch.export.export(block, (torch.randn(4, 72),))
    assert torch.allclose(exported.module()(x[:4]), block(x[:4]), atol=1e-5)


def test_gradients():
    layer, weight = make_layer(bias=True)
    x, grad = torch.randn(2, 3, 72, requires_grad=True), torch.randn(2, 3, 40)
    layer(x).backward(grad)
    assert relative(x.grad, grad.double() @ weight) < 1e-5
    assert relative(layer.bias.grad, grad.double().sum((0, 1))) < 1e-3
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_wrong_arguments():
    layer, _ = make_layer(bias=True)
    x = torch.ones(2, 72)

    def fails(message, **changes):
        names = ("x", "packed", "packed_scales", "packed_zeros", "bias", "output_scale", "n", "k", "scheme", "output", "artifact")
        arguments = dict(zip(names, arguments_of(layer, x)))
        with pytest.raises(QuantLLMError, match=message):
            torch.ops.quant_llm.linear(*{**arguments, **changes}.values())

    fails("expected x with 72 columns but got shape \\[2, 71\\]", x=x[:, :71])
    fails("expected x with 72 columns but got shape \\[\\]", x=torch.ones(()))
    fails("expected x of float16, bfloat16 or float32 but got int64", x=x.long())
    fails("expected a bias of shape \\[40\\] but got \\[39\\]", bias=layer.bias[:39])
    fails("expected packed of shape .* but got \\[4, 1, 1023\\] and uint8", packed=layer.packed[:, :, :1023])
    fails("expected packed_scales of shape", packed_scales=layer.packed_scales.view(torch.float16))
    fails("expected no packed_zeros", packed_zeros=layer.packed_scales)
    fails("expected packed_zeros under the scheme", scheme="uint4, block = [1, 32], scale = f16, zero = int")
    fails("expected an output of f16, bf16 or f32 but got 'f8'", output="f8")
    fails("expected an element such as int4", scheme="int9, block = [1, 32]")
    fails("expected a block of two sizes", scheme="int4, block = [1]")
    fails("expected fields block, scale", scheme="int4, blok = [1, 32]")
    fails("expected fields block, scale", scheme="int4, rule = absmax>")
    fails("expected a weight of at least one row and column but got \\[40, 0\\]", x=x[:, :0], k=0)
    fails("expected a weight of at least one row and column but got \\[-1, 72\\]", n=-1, bias=None)
    fails("expected a scale of f16", scheme="int4, scale = f17")
    fails("expected a zero of none, int", scheme="int4, zero = some")
    fails("expected 4 values in a codebook", scheme="codebook<2, [0, 1]>")


def test_schemes():
    for text in SCHEMES:
        scheme = parse_scheme(text)
        assert parse_scheme(scheme.text).text == scheme.text == parse_scheme(scheme.attribute).text
        assert list(scheme.table) == pytest.approx([float(value) for value in schemes.Scheme.parse(text).table] if not scheme.signed else sorted(schemes.Scheme.parse(text).table), nan_ok=True)
    assert parse_scheme(INT4 + ", rule = mse, rounding = half_even").attribute == f"#quant_llm.scheme<{INT4}, rule = mse, rounding = half_even>"


# ---------------------------------------------------------------------------
# Modules
# ---------------------------------------------------------------------------


def test_state(tmp_path):
    layer, _ = make_layer(bias=True)
    x = torch.randn(3, 72)
    expected = layer(x)
    other = make_layer(bias=True)[0]
    for buffer in other.buffers():
        buffer.zero_()
    other.output_scale = 1.0
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected) and other.output_scale == layer.output_scale
    safetensors.torch.save_file(layer.state_dict(), tmp_path / "state.safetensors")
    other.output_scale = 1.0
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert torch.equal(other(x), expected)
    torch.save(layer, tmp_path / "layer.pt")
    for same in (copy.deepcopy(layer), torch.load(tmp_path / "layer.pt", weights_only=False), layer.float(), layer.double().float()):
        assert torch.equal(same(x), expected)
    half = copy.deepcopy(layer).half()
    assert half.packed_scales.dtype == torch.uint8 and torch.equal(half.dequantize(), layer.dequantize())
    with pytest.raises(QuantLLMError, match="expected a weight \\[40, 72\\] under the scheme"):
        layer.set_extra_state(make_layer(n=39)[0].get_extra_state())
    assert "in_features=72, out_features=40, bias=True, scheme='int4" in repr(layer) and "constant" not in repr(layer)
    layer.constant_weights = True
    assert copy.deepcopy(layer).constant_weights and "constant_weights=True" in repr(layer)


def small_model():
    torch.manual_seed(1)
    return torch.nn.ModuleDict({"first": torch.nn.Linear(96, 160), "second": torch.nn.Linear(160, 70, bias=False), "norm": torch.nn.LayerNorm(70)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("recipe, options, error", [("int4", None, 0.3), ("uint8", {"block": "1,32"}, 0.02), ("int4, block = [1, 32], scale = f16", None, 0.2), ("uint4, block = [1, 32], scale = f16, zero = int, rule = minmax", None, 0.2), (NVFP4, None, 0.2)])
def test_quantize_model(dtype, recipe, options, error):
    model = small_model().to(dtype)
    weights = {name: module.weight.detach().float() for name, module in model.items()}
    constant = options is not None
    assert ql.quantize_model_(model, recipe, options=options, constant_weights=constant) is model
    assert model["first"].constant_weights == model["second"].constant_weights == constant
    for name in ("first", "second"):
        assert isinstance(model[name], ql.QuantLinear)
        assert relative(model[name].dequantize(), weights[name].double()) < error
    assert model["first"].bias.dtype == dtype and model["second"].bias is None
    if options or "," in recipe:
        assert "block = [1, 32]" in model["first"].scheme or "[1, 16]" in model["first"].scheme


def test_quantize_some():
    for choice, expected in (({"include": "first"}, ["first"]), ({"exclude": "fir"}, ["second"])):
        model = ql.quantize_model_(small_model(), INT4, **choice)
        assert [name for name, module in model.items() if isinstance(module, ql.QuantLinear)] == expected

    def fails(message, model=None, recipe=INT4, **options):
        model = model or small_model()
        before = {name: type(module) for name, module in model.named_modules()}
        with pytest.raises(QuantLLMError, match=message):
            ql.quantize_model_(model, recipe, **options)
        assert before == {name: type(module) for name, module in model.named_modules()}

    fails("expected torch.nn.Linear modules to quantize but found none", include="third")
    fails("expected a regular expression", include="(")
    fails("expected an element such as int4", recipe="int4x, block = [1, 32]")
    fails("int9", recipe="int9")
    fails("expected no options beside a whole scheme", options={"alpha": 1})
    fails("with memory but 'first' has float32 on meta", model=small_model().to("meta"))
    fails("expected a weight of float16, bfloat16 or float32", model=small_model().double())


def test_modules_in_several_places():
    shared = torch.nn.Linear(64, 64)
    model = torch.nn.Sequential(shared, torch.nn.ReLU(), shared, torch.nn.Sequential(shared))
    ql.quantize_model_(model, INT4, include="^3")
    assert isinstance(model[0], ql.QuantLinear) and model[0] is model[2] and model[0] is model[3][0]


def test_recipes_for_weights(monkeypatch):
    weight = small_model()["first"].weight.detach().double()
    errors = {}
    for recipe, options in (("rtn", {"group": 32}), ("hqq", None), ("mse", None), ("easyquant", None), ("finequant", {"block": "1,32"})):
        model = ql.quantize_model_(small_model(), recipe, options=options)
        assert all(isinstance(model[name], ql.QuantLinear) for name in ("first", "second"))
        errors[recipe] = relative(model["first"].dequantize(), weight)
    assert "zero = f16" in ql.quantize_model_(small_model(), "hqq")["first"].scheme
    assert max(errors.values()) < 0.2
    # A head of its own stays, unless it is asked for; however many weights go at a time.
    for size in (1, ql._GROUP_BYTES):
        monkeypatch.setattr(ql, "_GROUP_BYTES", size)
        for recipe in ("hqq", "int4"):
            model = torch.nn.ModuleDict({"up": torch.nn.Linear(64, 32), "lm_head": torch.nn.Linear(64, 32)})
            ql.quantize_model_(model, recipe)
            assert type(model["lm_head"]) is torch.nn.Linear and isinstance(model["up"], ql.QuantLinear)
            ql.quantize_model_(model, recipe, include="head")
            assert isinstance(model["lm_head"], ql.QuantLinear)
        # A fault in a later one leaves the model as it was.
        model = small_model()
        model["second"].weight.data[3, 5] = float("nan")
        with pytest.raises(QuantLLMError, match="second"):
            ql.quantize_model_(model, "int4")
        assert type(model["first"]) is torch.nn.Linear
    for option in ("include", "exclude"):
        with pytest.raises(QuantLLMError, match=f"expected no option '{option}' but the argument {option}"):
            ql.quantize_model_(small_model(), "int4", options={option: "first"})
    for recipe, message in (
        ("gptq", "expected a recipe for weights alone but 'gptq' reads a calibration file; quantize the checkpoint with it .quant-llm quantize., then load_quantized"),
        ("hadamard", "expected a recipe for weights alone but 'hadamard' changes more than weights .*quant-llm-insert-transforms"),
        ("lorc", "expected a recipe for weights alone but 'lorc' has low-rank parts, which no kernel computes; quantize the checkpoint with it"),
        ("none.toml", "there is no recipe file 'none.toml'"),
    ):
        with pytest.raises(QuantLLMError, match=message):
            ql.quantize_model_(small_model(), recipe)
    with pytest.raises(QuantLLMError, match="groups"):
        ql.quantize_model_(small_model(), "hqq", options={"groups": 32})


def test_models_that_are_none():
    with pytest.raises(QuantLLMError, match="found none; put the module into another, such as torch.nn.Sequential"):
        ql.quantize_model_(torch.nn.Linear(64, 64), INT4)
    for call in (ql.quantize_model_, ql.prepare_kernels, lambda model: ql.load_quantized(model, ".")):
        with pytest.raises(TypeError, match="model: expected a torch.nn.Module but got NoneType"):
            call(None)
    with pytest.raises(TypeError, match="recipe: expected text"):
        ql.quantize_model_(small_model(), 5)


def test_groups_of_weights(monkeypatch):
    monkeypatch.setattr(ql, "_GROUP_BYTES", 1)
    model = ql.quantize_model_(small_model(), INT4)
    assert isinstance(model["first"], ql.QuantLinear) and isinstance(model["second"], ql.QuantLinear)


# ---------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------


def skeleton(directory):
    """The model of a configuration, its parameters random."""
    torch.manual_seed(7)
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(directory), dtype=torch.float32).eval()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)[None]).logits[0].numpy()


@pytest.fixture(scope="module")
def quantized(hf_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("quantized") / "a 'model'"
    quantize_directory(hf_model, directory, options="element=int4")
    return directory


def test_load_quantized(quantized):
    """The same logits as the CPU path."""
    tokens = np.arange(20) % 32
    expected = Model.load(quantized, cache=False).forward(tokens)
    model = ql.load_quantized(skeleton(quantized), quantized)
    layers = [module for module in model.modules() if isinstance(module, ql.QuantLinear)]
    assert len(layers) == 14 and not any(layer.constant_weights for layer in layers)
    actual = logits_of(model, tokens)
    assert np.linalg.norm(actual - expected) < 1e-3 * np.linalg.norm(expected)


def test_artifact(quantized, tmp_path):
    """The same weights, without the compiler; kernels of the artifact are found."""
    path = tmp_path / "artifact"
    ql.build_artifact(quantized, path, chip="sm_80")
    assert sorted(os.path.splitext(name)[0] for name in os.listdir(path)) == ["kernels", "manifest", "packed"]
    expected = ql.load_quantized(skeleton(quantized), quantized)
    code = f"""
import sys, torch, transformers
sys.modules["quant_llm._quant_llm"] = None
from quant_llm import torch as ql
config = transformers.AutoConfig.from_pretrained({str(quantized)!r})
model = ql.load_quantized(transformers.AutoModelForCausalLM.from_config(config), {str(path)!r})
torch.save({{name: module.dequantize() for name, module in model.named_modules() if isinstance(module, ql.QuantLinear)}}, {str(tmp_path / 'weights.pt')!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    weights = torch.load(tmp_path / "weights.pt")
    layers = {name: module for name, module in expected.named_modules() if isinstance(module, ql.QuantLinear)}
    assert weights.keys() == layers.keys() and len(weights) == 14
    assert all(torch.equal(weights[name], layer.dequantize()) for name, layer in layers.items())
    artifact = gpu.Artifact(path)
    assert {linear.name for linear in artifact.linears} == {f"{name}.weight" for name in layers}
    problem = _build.Problem(layers["model.layers.0.mlp.up_proj"].scheme, *layers["model.layers.0.mlp.up_proj"].dequantize().shape, "f16", "f16", False)
    assert any(ql._store.computes(linear, problem, str(path)) for linear in artifact.linears)
    assert not any(ql._store.computes(linear, problem._replace(bias=True), str(path)) for linear in artifact.linears)
    # A gated pair, as quant-llm-to-gpu makes of a module: one linear, here two modules.
    pair = tmp_path / "pair"
    shutil.copytree(path, pair)
    manifest = json.loads((pair / "manifest.json").read_text())
    same = {}
    for entry in manifest["linears"]:
        same.setdefault((entry["n"], entry["k"], entry["scheme"]), []).append(entry)
    first, second = next(entries for entries in same.values() if len(entries) > 1)[:2]
    first["weights"] += second["weights"]
    first["packed"]["keys"] += second["packed"]["keys"]
    manifest["linears"].remove(second)
    (pair / "manifest.json").write_text(json.dumps(manifest))
    assert len(gpu.Artifact(pair).linears) == 13
    model = ql.load_quantized(skeleton(quantized), pair, constant_weights=True)
    assert all(module.constant_weights for module in model.modules() if isinstance(module, ql.QuantLinear))
    assert all(torch.equal(weights[name], module.dequantize()) for name, module in model.named_modules() if isinstance(module, ql.QuantLinear))
    assert sum(isinstance(module, ql.QuantLinear) for module in model.modules()) == 14
    with pytest.raises(QuantLLMError, match="exists already; choose another name"):
        ql.build_artifact(quantized, path)
    with open(os.path.join(path, "mine.txt"), "w"):
        pass
    with pytest.raises(QuantLLMError, match="holds 'mine.txt', which would be lost; move it away, or choose another name"):
        ql.build_artifact(quantized, path, chip="sm_80", activation="bf16", replace=True)
    os.remove(os.path.join(path, "mine.txt"))
    ql.build_artifact(quantized, path, chip="sm_80", activation="bf16", replace=True)
    assert {linear.activation for linear in gpu.Artifact(path).linears} == {"bf16"}
    assert os.listdir(tmp_path) and not [name for name in os.listdir(tmp_path) if name.startswith(".artifact")]


def test_loading_errors(quantized, tmp_path):
    model = skeleton(quantized)

    def fails(message, path, **options):
        with pytest.raises(QuantLLMError, match=message):
            ql.load_quantized(options.pop("model", model), path, **options)

    fails("found neither", tmp_path)
    fails("expected the names of linear modules of the model but got 'model.layers.0", quantized, model=small_model())
    fails("expected weights of linear modules of the model but found none", quantized, model=small_model(), strict=False)
    other = skeleton(quantized)
    other.model.layers[0].mlp.up_proj = torch.nn.Linear(8, 8)
    fails("expected 'model.layers.0.mlp.up_proj.weight' to be \\[8, 8\\]", quantized, model=other)
    fails("found neither", tmp_path / "none")
    kernels = tmp_path / "kernels"
    shutil.copytree(ARTIFACT, kernels)
    manifest = json.loads((kernels / "manifest.json").read_text())
    del manifest["linears"][0]["packed"]
    (kernels / "manifest.json").write_text(json.dumps(manifest))
    fails("has only kernels of 'layer'", kernels)
    (kernels / "kernels.cubin").write_text("other")
    fails("SHA-256", kernels)
    for options, message in (({"chip": "sm_42"}, "expected a chip of sm_80"), ({"activation": "f32"}, "expected activations of f16 or bf16")):
        with pytest.raises(QuantLLMError, match=message):
            ql.build_artifact(quantized, tmp_path / "new", **options)
    with pytest.raises(QuantLLMError, match="expected a directory that quant-llm quantize wrote"):
        ql.build_artifact(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_tied_weights_stay(hf_model):
    model = transformers.AutoModelForCausalLM.from_pretrained(hf_model, dtype=torch.float32)
    model.lm_head.weight = model.model.embed_tokens.weight
    ql.quantize_model_(model, INT4)
    assert type(model.lm_head) is torch.nn.Linear and isinstance(model.model.layers[0].self_attn.q_proj, ql.QuantLinear)


# ---------------------------------------------------------------------------
# Launches: a device that is the CPU, kernels of the tests
# ---------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch, tmp_path):
    """The functions of the GPU path take tensors of the CPU."""
    store = ql._Store()
    monkeypatch.setattr(ql, "_store", store)
    monkeypatch.setattr(ql, "_chip_of", lambda device: "sm_90a")
    monkeypatch.setattr(ql, "_stream_of", lambda device: 0)
    ql.set_kernel_cache(tmp_path / "kernels")
    yield store


def launch(layer, x, artifact="", output="f16"):
    arguments = list(arguments_of(layer, x))
    arguments[-2:] = output, artifact
    return ql._linear_on_gpu(*arguments)


def kernels_of_tests(problem, chip, directory, **changes):
    """What the compiler would write, for the fake driver: the product of int4 weights."""
    shutil.copytree(ARTIFACT, directory, dirs_exist_ok=True)
    path = os.path.join(directory, "manifest.json")
    with open(path) as file:
        manifest = json.load(file)
    manifest["kernels"][0].update(changes)
    linear = manifest["linears"][0]
    del linear["packed"]
    assert (linear["n"], linear["k"], chip) == (problem.n, problem.k, "sm_90a")
    with open(path, "w") as file:
        json.dump(manifest, file)


def test_launch_of_an_artifact(device):
    layer, weight = make_layer(n=72, k=200)
    for x in (torch.randn(5, 200), torch.randn(2, 3, 200), torch.randn(200), torch.randn(200, 4).T, torch.randn(1001)[1:].view(5, 200)):
        x = x.half()
        y = launch(layer, x, ARTIFACT)
        assert y.shape == (*x.shape[:-1], 72) and relative(y, x.double() @ weight.T) < 2e-3
    assert launch(layer, torch.empty(0, 200).half(), ARTIFACT).shape == (0, 72)
    assert len(device.modules) == 1 and len(device.ready) == 1
    with pytest.raises(QuantLLMError, match="expected x of float16 or bfloat16 on a GPU but got float32; use model.half"):
        launch(layer, torch.ones(5, 200), ARTIFACT)
    with pytest.raises(gpu.GPUError, match="but got 101"):
        launch(layer, torch.ones(101, 200).half(), ARTIFACT)


def test_kernels_are_compiled_once(device, monkeypatch):
    layer, weight = make_layer(n=72, k=200)
    calls = []

    def compile_kernels(problem, chip, directory):
        calls.append(problem)
        kernels_of_tests(problem, chip, directory)

    monkeypatch.setattr(ql, "compile_kernels", compile_kernels)
    x = torch.randn(5, 200).half()
    for _ in range(3):
        assert relative(launch(layer, x), x.double() @ weight.T) < 2e-3
    assert calls == [_build.Problem(INT4, 72, 200, "f16", "f16", False)]
    # Another process: from the disk.
    device.ready.clear()
    launch(layer, x)
    assert len(calls) == 1
    # A damaged entry is made again.
    device.ready.clear()
    (entry,) = device.cache.find("")
    with open(os.path.join(entry, "kernels.cubin"), "w") as file:
        file.write("damaged")
    launch(layer, x)
    assert len(calls) == 2
    # So is one that is whole but of other kernels.
    path = os.path.join(entry, "manifest.json")
    for change in (lambda manifest: manifest["linears"].clear(), lambda manifest: manifest["linears"][0].update(n=64), lambda manifest: manifest.update(chip="sm_80")):
        device.ready.clear()
        with open(path) as file:
            manifest = json.load(file)
        change(manifest)
        with open(path, "w") as file:
            json.dump(manifest, file)
        calls.clear()
        assert launch(layer, x).shape == (5, 72) and len(calls) == 1
    # A compiler is not needed for what is there.
    device.ready.clear()

    def no_compiler():
        raise ImportError("no LLVM")

    monkeypatch.setattr(ql, "compiler_identity", no_compiler)
    launch(layer, x)
    other = make_layer(n=64, k=200)[0]
    with pytest.raises(QuantLLMError, match="expected kernels of linear_64x200 under the scheme 'int4.*no LLVM"):
        launch(other, x)
    # Nor may they be loaded during a capture.
    device.ready.clear()
    monkeypatch.setattr(ql, "_is_capturing", lambda device: True)
    fake = type("Device", (), {"type": "cuda", "index": 0})()
    with pytest.raises(QuantLLMError, match="prepare_kernels"):
        device.get(fake, calls[0], "")


def test_constant_weights(device, monkeypatch):
    """Launches that may start before the kernel before them has ended: those whose weights an earlier one of the stream met."""
    monkeypatch.setattr(ql, "compile_kernels", lambda *arguments: kernels_of_tests(*arguments, dependent_launch=1))
    stream, captures = 0, False
    monkeypatch.setattr(ql, "_stream_of", lambda device: stream)
    monkeypatch.setattr(ql, "_captures", lambda device: captures)
    driver = ctypes.CDLL(os.environ["QUANT_LLM_CUDA_DRIVER"])
    layer, weight = make_layer(n=72, k=200)
    x = torch.randn(5, 200).half()

    def overlaps(layer=layer, constant=True):
        y = ql._linear_on_gpu(*arguments_of(layer, x), constant)
        assert relative(y, x.double() @ weight.T) < 2e-3
        return bool(driver.fakeCudaOverlaps())

    def first_is_plain(*arguments):
        assert [overlaps(*arguments) for _ in range(3)] == [False, True, True]

    assert not overlaps(constant=False) and not overlaps(constant=False)
    first_is_plain()
    assert not overlaps(constant=False) and overlaps()
    stream = 7
    first_is_plain()
    stream = 0
    assert overlaps()
    # Weights that PyTorch knows to be written, and others at their place, also of the same contents.
    with torch.no_grad():
        for buffer in (layer.packed, layer.packed_scales):
            buffer.copy_(buffer.clone())
            first_is_plain()
            buffer.view(-1)[:8].add_(0)
            first_is_plain()
    layer.load_state_dict(layer.state_dict())
    first_is_plain()
    layer.load_state_dict({name: value.clone() for name, value in layer.state_dict().items()}, assign=True)
    first_is_plain()
    layer.packed_scales = layer.packed_scales.clone()
    first_is_plain()
    layer.packed_scales.data = layer.packed_scales.clone()
    first_is_plain()
    # There and back, so that the memory may be where it was.
    for _ in range(20):
        layer.packed_scales.data = layer.packed_scales.clone()
        layer.packed_scales.data = layer.packed_scales.clone()
        first_is_plain()
    # Graphs: what was met before, on any stream; what is met in one has not run.
    stream, captures = 8, True
    assert overlaps() and overlaps()
    layer.packed.copy_(layer.packed.clone())
    assert not overlaps() and not overlaps()
    captures = False
    first_is_plain()
    # Buffers that are copied for each launch, and those whose writes nobody counts.
    bytes = torch.zeros(layer.packed.numel() + 16, dtype=torch.uint8)
    begin = (1 - bytes.data_ptr()) % 16
    layer.packed = bytes[begin : begin + layer.packed.numel()].view(layer.packed.shape).copy_(layer.packed)
    assert not any(overlaps() for _ in range(3))
    with torch.inference_mode():
        uncounted = copy.deepcopy(layer)
        uncounted.packed = uncounted.packed.clone()
        assert not any(overlaps(uncounted) for _ in range(3))
    layer.packed = layer.packed.clone()
    first_is_plain()
    with torch.inference_mode():
        assert overlaps()
    # Nothing is kept of what is gone.
    other, before = copy.deepcopy(layer), len(device.met.records)
    first_is_plain(other)
    assert len(device.met.records) == before + 1
    del other
    gc.collect()
    assert len(device.met.records) == before


@pytest.mark.parametrize("output", ["bf16", "f32"])
def test_compiled_kernels(tmp_path, output):
    """What the compiler writes is what is looked for."""
    problem = _build.Problem("uint4, block = [1, 32], scale = f16, zero = int", 40, 72, "bf16", output, True)
    _build.compile_kernels(problem, "sm_80", tmp_path)
    (linear,) = gpu.Artifact(tmp_path).linears
    assert (linear.n, linear.k, linear.output, linear.epilogue) == (40, 72, output, (gpu.Operand("bf16", False),))
    assert ql._Store.computes(linear, problem, str(tmp_path))
    assert not ql._Store.computes(linear, problem._replace(bias=False), str(tmp_path))
    assert not ql._Store.computes(linear, problem._replace(k=73), str(tmp_path))
    assert _build.compiler_identity() == _build.compiler_identity() and len(_build.compiler_identity()) == 16


def test_workspaces(device, monkeypatch):
    layer, _ = make_layer(n=72, k=200)
    monkeypatch.setattr(ql, "compile_kernels", lambda *arguments: kernels_of_tests(*arguments, workspace_bytes=100, workspace_bytes_per_token=10))
    for m in (1, 5, 2):
        launch(layer, torch.ones(m, 200).half())
    ((_, memory),) = device.workspaces.items()
    assert memory.numel() == 150 and not memory.any()
    monkeypatch.setattr(ql, "_is_capturing", lambda device: True)
    assert device.workspace(torch.device("cpu"), 0, 0) is None


def test_only_flags_of_workspaces_are_zeroed(device, monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda size, **options: torch.full((size,), 255, **options))
    cpu = torch.device("cpu")
    memory = device.workspace(cpu, 7, 20000)
    assert not memory[:16384].any() and (memory[16384:] == 255).all()
    # Kernels leave the flags zero: the next one of the stream takes the memory as it is, another stream has its own.
    memory[:] = 1
    assert device.workspace(cpu, 7, 19000) is memory and memory.all()
    assert device.workspace(cpu, 8, 19000) is not memory
    larger = device.workspace(cpu, 7, 30000)
    assert larger.numel() == 30000 and not larger[:16384].any() and device.workspace(cpu, 7, 20000) is larger


def test_plans_are_bounded(device):
    layer, _ = make_layer(n=72, k=200)
    launch(layer, torch.ones(1, 200).half(), ARTIFACT)
    (kernels,) = device.ready.values()
    kernels.plans.update({m: None for m in range(1000, 6000)})
    launch(layer, torch.ones(2, 200).half(), ARTIFACT)
    assert list(kernels.plans) == [2]


def test_cache_of_the_environment(monkeypatch, tmp_path):
    store = ql._Store()
    monkeypatch.setattr(ql, "_store", store)
    monkeypatch.setenv("QUANT_LLM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("QUANT_LLM_KERNEL_CACHE_SIZE", raising=False)
    assert (store.cache.directory, store.cache.limit) == (str(tmp_path / "kernels"), 2 << 30)
    monkeypatch.setenv("QUANT_LLM_KERNEL_CACHE_SIZE", "3M")
    assert store.cache.limit == 3 << 20
    ql.set_kernel_cache(tmp_path / "other", "5K")
    assert (store.cache.directory, store.cache.limit) == (str(tmp_path / "other"), 5 << 10)
    with pytest.raises(QuantLLMError, match="expected a size"):
        ql.set_kernel_cache(size="big")


def test_torch_is_only_imported_where_it_is_used():
    code = "import sys, quant_llm, quant_llm.gpu, quant_llm.model, quant_llm._build; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_program_of_the_page(hf_model, tmp_path):
    program = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "Examples", "model.py")
    result = subprocess.run([sys.executable, program, hf_model, tmp_path / "quantized", tmp_path / "artifact"], check=True, capture_output=True, text=True)
    assert result.stdout == "[1, 8, 32]\n[1, 8, 32]\n"
