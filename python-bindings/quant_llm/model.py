# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Language models: directories that the project writes, Hugging Face
directories and GGUF files; text in, logits, perplexity and text out.

A directory that we write holds model.mlir, its weights (*.safetensors, unless
the module refers to the files of the original), config.json, tokenizer.json
and, if the model was quantized, report.json.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time

import numpy as np

from . import _quant_llm, describe_archive, describe_module, import_model, read_gguf_metadata, run_pipeline
from ._build import quote_string
from ._check import check_flag, check_handler, check_integer, check_number, check_path, check_text, wrong_type
from ._errors import Diagnostic, QuantLLMError
from ._safetensors import read_header
from ._scheme import parse_scheme
from .recipe import DIRECTORY as RECIPES, Recipe, load as load_recipe, split_pipeline
from .runtime import Engine
from .tokenizer import MissingTokenizerError, StreamDecoder, Tokenizer, check_special_tokens, find_end_tokens, load_tokenizer

# Files beside the weights that later steps need; the tokenizer has more than
# one so that Transformers can load the directory, too.
_COMPANIONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

# Everything that a directory of ours may hold.
_OURS = frozenset((*_COMPANIONS, "model.mlir", "model.safetensors", "report.json"))


class ExistsError(QuantLLMError):
    """There is something where something new was to be written."""


def classify(path):
    """What `path` is: "quant-llm" for a directory that we wrote, "huggingface"
    or "gguf". Raises QuantLLMError for anything else."""
    path = check_path(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            names = os.listdir(path)
            # Without the right to enter it, the names are all there is.
            if names:
                os.stat(os.path.join(path, os.curdir))
            if "model.mlir" in names:
                return "quant-llm"
            if "config.json" in names:
                return "huggingface"
            raise QuantLLMError(f"expected a model in '{path}' but found neither model.mlir nor config.json")
        magic = b""
        if stat.S_ISREG(mode):  # to open a pipe would be to wait for a writer
            with open(path, "rb") as file:
                magic = file.read(4)
    except FileNotFoundError:
        raise QuantLLMError(f"expected a model directory or a GGUF file but '{path}' does not exist") from None
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    if magic == b"GGUF":
        return "gguf"
    raise QuantLLMError(f"expected a model directory or a GGUF file but '{path}' is neither")


def check_is_ours(directory, names):
    """Raises if a directory that is to be replaced holds anything but our own
    files, which are known by their `names`: nothing else can be made again."""
    try:
        with os.scandir(directory) as entries:
            foreign = sorted(e.name for e in entries if e.name not in names or e.is_dir(follow_symlinks=False))
    except OSError as error:
        raise QuantLLMError(f"cannot read '{directory}': {error.strerror}") from None
    if foreign:
        shown = ", ".join(f"'{name}'" for name in foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise QuantLLMError(f"'{directory}' holds {shown}, which would be lost; move {'it' if len(foreign) == 1 else 'them'} away, or choose another name")


@contextlib.contextmanager
def new_directory(path, replace=False, reads=()):
    """A directory that appears complete under `path` when the block ends, or not
    at all. Until then it is a hidden one beside it. With `replace` a directory of
    ours gives way to it, which must hold nothing but files of ours and none of
    the files `reads`."""
    path = check_path(path, "output")
    if not path:
        raise QuantLLMError("output: expected the name of a directory but got ''")
    # What a link names is what appears or is replaced: no directory can be
    # renamed onto a link.
    path = os.path.realpath(path)
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise QuantLLMError(f"cannot create '{path}': there is no directory '{parent}'")
    if _is_mount_point(path):
        raise QuantLLMError(f"cannot create '{path}': something is mounted there; choose a name below it")
    occupied = os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path))
    if occupied and not replace:
        raise ExistsError(f"'{path}' exists already; choose another name, or replace it")
    if occupied and not os.path.isfile(os.path.join(path, "model.mlir")):
        raise QuantLLMError(f"'{path}' exists already; it holds no model of ours")
    if occupied:
        check_is_ours(path, _OURS)
        inside = os.path.join(path, "")
        for file in reads:
            if os.path.realpath(file).startswith(inside):
                raise QuantLLMError(f"'{path}' holds '{file}', which is read; choose another name")
    with _temporary_directory(f".{os.path.basename(path)}.", parent) as staging:
        os.chmod(staging, 0o777 & ~_umask())
        try:
            yield staging
            with committing:
                if occupied and os.path.lexists(path):
                    check_is_ours(path, _OURS)  # now, after long work
                    replace_directory(staging, path)
                else:
                    os.rename(staging, path)
                complete.append(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and not replace:  # somebody else was faster
                raise ExistsError(f"'{path}' exists already; choose another name, or replace it") from None
            raise QuantLLMError(f"cannot write '{path}': {error.strerror or error}") from None


# Held while what is complete gets its name. Who takes it first may remove what
# is temporary: nothing of that appears any more, and nothing is between two names.
committing = threading.Lock()

# The directories that got their names so far.
complete = []


def replace_directory(new, path):
    """Puts the directory `new` in the place of `path`. The old one is removed when
    the new one is there, never before."""
    for directory in (new, path):
        if not os.path.isdir(directory):
            raise QuantLLMError(f"cannot put '{new}' in the place of '{path}': expected a directory but '{directory}' is none")
    if _exchange(new, path):
        return  # the old one is where the new one was: a temporary directory
    # Not below a temporary directory, which is removed whatever happens.
    aside = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.replaced.", dir=os.path.dirname(path))
    try:
        os.rename(path, aside)
        os.rename(new, path)
    finally:
        if not os.path.lexists(path):
            try:
                os.rename(aside, path)
            except OSError as error:
                raise QuantLLMError(f"cannot write '{path}': {error.strerror}; what was there is '{aside}' now") from None
        elif not os.path.lexists(new):
            remove_tree(aside)
        else:
            os.rmdir(aside)


def _exchange(first, second):
    """Lets two directories change places at one stroke. False where the system or
    the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _is_mount_point(path):
    if os.path.ismount(path):
        return True
    # A directory of the same file system that is mounted a second time.
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            points = [line.split()[4] for line in file]
    except OSError:
        return False
    return os.fsencode(path) in (re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), point) for point in points)


# Directories that exist only while something is being made; the command line
# removes them when it is interrupted.
_temporary = set()


@contextlib.contextmanager
def _temporary_directory(prefix="quant-llm-", parent=None):
    parent = parent or tempfile.gettempdir()
    # Known before it is there, since an interrupt may come right after it is made,
    # and not made when the command line has begun to remove what is known.
    directory = os.path.join(parent, prefix + secrets.token_hex(8))
    try:
        try:
            with committing:
                _temporary.add(directory)
                os.mkdir(directory, 0o700)
        except OSError as error:
            raise QuantLLMError(f"cannot create a directory in '{parent}': {error.strerror}") from None
        yield directory
    finally:
        remove_tree(directory)
        _temporary.discard(directory)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_tree(path):
    """Removes a directory, even while a thread still writes into it."""
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.01)


def _list_files(source, kind):
    """The files that a model is read from. Of a directory of ours they are those
    with weights: it could be made again, the weights perhaps not."""
    source = check_path(source)
    if kind == "gguf":
        return [source]
    if kind == "huggingface":
        try:
            return [os.path.join(source, name) for name in os.listdir(source)]
        except OSError as error:
            raise QuantLLMError(f"cannot read '{source}': {error.strerror}") from None
    module = _read_module(source)
    archives = describe_module(module, name=os.path.join(source, "model.mlir"))["archives"]
    return [file for archive in archives for file in describe_archive(archive["path"])["files"]]


def _read_module(directory):
    path = os.path.join(directory, "model.mlir")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None


def import_directory(source, output, *, replace=False, progress=None, diagnostic=None):
    """Imports a Hugging Face directory or a GGUF file to a directory of ours.
    The weights of a Hugging Face directory stay where they are."""
    check_handler(progress, "progress")
    check_handler(diagnostic, "diagnostic")
    kind = classify(source)
    if kind == "quant-llm":
        raise QuantLLMError(f"'{source}' is imported already")
    with new_directory(output, replace, _list_files(source, kind) if replace else ()) as staging:
        with _Names({staging: output}, diagnostic) as names:
            _import_into(source, kind, staging, progress, names.diagnostic, _do_without_tokenizer(output, staging, diagnostic))


def _import_into(source, kind, directory, progress, diagnostic, missing=None):
    """Without `missing`, which gets a MissingTokenizerError, the tokenizer of a
    GGUF file is not wanted."""
    tokenizer = None
    if kind == "gguf" and missing:
        try:
            tokenizer = find_tokenizer(source)
        except MissingTokenizerError as error:
            missing(error)  # before the long work
    import_model(source, os.path.join(directory, "model.mlir"), progress=progress, diagnostic=diagnostic)
    if tokenizer is not None:
        tokenizer.save(os.path.join(directory, "tokenizer.json"))
    if kind != "gguf":
        _copy_companions(source, directory)
        if missing:
            _check_tokenizer(source, missing)


def _check_tokenizer(directory, missing):
    if not os.path.exists(os.path.join(directory, "tokenizer.json")):
        missing(_missing_tokenizer(directory))


def _do_without_tokenizer(output, staging, diagnostic):
    """A model without tokenizer can be imported and quantized, but that is said.
    One that was put into the directory that is replaced stays in it."""

    def missing(error):
        old = os.path.join(output, "tokenizer.json")
        if os.path.isfile(old):
            shutil.copyfile(old, os.path.join(staging, "tokenizer.json"))
            advice = f"'{os.fsdecode(old)}' is kept"
        else:
            advice = f"put one into '{os.fsdecode(output)}' to run the model on text"
        if diagnostic:
            diagnostic(Diagnostic("warning", "", f"{error}; {advice}"))

    return missing


def find_tokenizer(path):
    """The tokenizer of a model. Raises MissingTokenizerError (a QuantLLMError) if
    it has none that can be used."""
    path = check_path(path)
    if classify(path) == "gguf":
        return Tokenizer.from_gguf_metadata(read_gguf_metadata(path), source=path)
    tokenizer = load_tokenizer(path)
    if tokenizer is None:
        raise _missing_tokenizer(path)
    return tokenizer


def _missing_tokenizer(directory):
    others = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if os.path.isfile(os.path.join(directory, name))]
    advice = f" (Transformers makes one of '{others[0]}': AutoTokenizer.from_pretrained(directory).save_pretrained(directory))" if others else ""
    return MissingTokenizerError(f"'{os.fsdecode(directory)}' has no tokenizer.json{advice}")


@contextlib.contextmanager
def open_directory(path, *, progress=None, diagnostic=None):
    """A directory of ours for any model: `path` itself, or a temporary one that it
    is imported to. Messages have the names that the user knows."""
    kind = classify(path)
    path = check_path(path)
    if kind == "quant-llm":
        yield path
        return
    with _temporary_directory() as directory, _Names({directory: path}, diagnostic, {directory: directory}) as names:
        _import_into(path, kind, directory, progress, names.diagnostic)
        yield directory


def _copy_companions(source, directory):
    for name in _COMPANIONS:
        original = os.path.join(source, name)
        if os.path.isfile(original) and not os.path.exists(os.path.join(directory, name)):
            try:
                shutil.copyfile(original, os.path.join(directory, name))
            except OSError as error:
                raise QuantLLMError(f"cannot copy '{original}' to '{os.path.join(directory, name)}': {error.strerror}") from None


def quantize_directory(source, output, *, recipe="finequant", options="", calibration=None, behind=None, replace=False, progress=None, diagnostic=None):
    """Quantizes a model (anything that classify() knows) to a directory of ours
    that needs no other file. `recipe` is one that quant_llm.recipe.load() gives,
    or what that takes, with a dict as `options` and a calibration file if it needs
    one (or a function that makes one when all else is checked). A recipe that measures
    behind layers that it quantized needs `behind`: a file of an earlier run, or a function
    that makes one from a PreparedModel. With text as
    `options` and no `calibration`, it is the name of a pipeline
    `quant-llm-<recipe>` and these are its options. Returns the report as a dict."""
    if not isinstance(recipe, Recipe):
        check_text(recipe, "recipe")
        if not isinstance(options, str) or calibration is not None or "/" in recipe or "." in recipe:
            recipe = load_recipe(recipe)
    is_recipe = isinstance(recipe, Recipe)
    if is_recipe:
        options = recipe.check_options(options or {})
        if not callable(calibration):
            calibration = _check_calibration(recipe, calibration, diagnostic)
        behind = _check_behind(recipe, behind)
    else:
        check_text(options, "options")
    check_handler(progress, "progress")
    check_handler(diagnostic, "diagnostic")
    kind = classify(source)
    if kind == "quant-llm":
        _check_not_quantized(source)
    if is_recipe:
        _check_recipe(recipe, options)
    else:
        _quant_llm.check_quantize_options(recipe, options)
    with new_directory(output, replace, _list_files(source, kind) if replace else ()) as staging:
        missing = _do_without_tokenizer(output, staging, diagnostic)
        directory = source
        imported = os.path.join(staging, ".imported")
        with _Names({imported: source, staging: output}, diagnostic, {imported: output}) as names:
            if kind != "quant-llm":
                os.mkdir(imported)
                _import_into(source, kind, imported, progress, names.diagnostic, missing)
                directory = imported
            else:
                _check_tokenizer(source, missing)
            if is_recipe:
                if callable(calibration):
                    calibration = _check_calibration(recipe, calibration(), diagnostic)
                _run_recipe(recipe, options, calibration, behind, directory, staging, progress, names.diagnostic)
            else:
                _quant_llm.quantize_model(
                    check_path(os.path.join(directory, "model.mlir")),
                    staging,
                    recipe,
                    options,
                    progress,
                    names.diagnostic,
                )
        _copy_companions(directory, staging)
        shutil.rmtree(imported, ignore_errors=True)
        with open(os.path.join(staging, "report.json"), encoding="utf-8") as file:
            return json.load(file)


def _run_recipe(recipe, options, calibration, behind, directory, staging, progress, diagnostic):
    """Writes model.mlir, model.safetensors and report.json."""
    text, path = _read_module(directory), os.path.join(os.fspath(directory), "model.mlir")
    with _temporary_directory(".scratch.", staging) as scratch:
        files = _recipe_files(calibration, staging, scratch)

        def run(text, pipeline, path=path):
            return run_pipeline(text, f"builtin.module({pipeline})", name=path, progress=progress, diagnostic=diagnostic)

        if recipe.is_behind:
            before, _, _ = split_pipeline(recipe.render(options, **files, behind=""))
            text = run(text, before)
            # A pass that writes an archive makes paths relative to where that is.
            moved = os.path.join(scratch, "model.mlir")
            if all(os.path.exists(archive["path"]) for archive in describe_module(text, name=moved)["archives"]):
                path = moved
            prepared = PreparedModel(text, path, recipe, options, files)
            if callable(behind):
                behind = _check_behind(recipe, behind(prepared))
            elif not options.get("any_model") and not prepared.identity.items() <= read_header(behind)[1].items():
                raise QuantLLMError(f"'{behind}' was measured behind layers of another model, or quantized in another way than by these options of the recipe '{recipe.name}'; measure it again, or give the model and the options of that run")
            _, step, after = split_pipeline(recipe.render(options, **files, behind=behind))
            text = run(text, ",".join(filter(None, (step, after))), path)
        else:
            text = run(text, recipe.render(options, **files))
    with open(os.path.join(staging, "model.mlir"), "w", encoding="utf-8") as file:
        file.write(text)


class PreparedModel:
    """A model whose linears have schemes and are not quantized yet: what
    quant_llm.calibration.calibrate_behind() runs."""

    def __init__(self, text, path, recipe, options, files):
        self.text, self.path = text, path
        self._recipe, self._options, self._files = recipe, options, files
        description = describe_module(text, name=path)
        self._archives = {archive["name"]: archive["path"] for archive in description["archives"]}
        self._parameters = {p["name"]: p for p in description["parameters"] if p["planned_scheme"]}
        # {parameter: scheme}
        self.planned = {name: p["planned_scheme"] for name, p in self._parameters.items()}
        # What a run that is resumed, or whose file is given, must have in common with this one.
        method = {name: value for name, value in options.items() if name not in ("threads", "any_model")}
        step = split_pipeline(recipe.render(method, **dict.fromkeys(files, ""), behind=""))[1]
        # Whether the statistic residual-drift is of use.
        strength = re.search(r"[\s{]residual-drift=['\"]?([^\s'\"}]*)", step)
        self.follows_residual = strength is not None and strength[1].strip("0.") != ""
        digest = lambda text: hashlib.sha256(text.encode()).hexdigest()
        self.identity = {"behind": digest(step), "schemes": digest(json.dumps(self.planned, sort_keys=True))}

    def select(self, names):
        """The text of a module with nothing but linears of these weights, so that what is done
        for a few takes no longer in a large model."""
        parameters = [self._parameters[name] for name in names]
        lines = [f"quant_llm.archive @{quote_string(name)} {quote_string(self._archives[name])}" for name in sorted({p["archive"] for p in parameters})]
        arguments, body = [], []
        for i, p in enumerate(parameters):
            (n, k), name = p["shape"], quote_string(p["name"])
            x, weight, y = f"tensor<?x{k}xf32>", f"tensor<{n}x{k}x{p['element_type']}>", f"tensor<?x{n}xf32>"
            lines.append(f"quant_llm.parameter @{name} from @{quote_string(p['archive'])} key {quote_string(p['key'])} : {weight}")
            arguments.append(f"%x{i}: {x}")
            body += [f"  %w{i} = quant_llm.get_parameter @{name} : {weight}", f"  %y{i} = quant_llm.linear %x{i}, %w{i} {{scheme = {p['planned_scheme']}}} : ({x}, {weight}) -> {y}"]
        return "\n".join([*lines, f"func.func @linears({', '.join(arguments)}) {{", *body, "  return", "}", ""])

    def quantize(self, module, statistics):
        """Quantizes what select() gave by a calibration file with its statistics, and
        returns the text of a module with a function that has no arguments and returns the
        weights dequantized, in their order. Its archive is there until the next call."""
        output = os.path.join(self._files["scratch"], "step.safetensors")
        _, step, _ = split_pipeline(self._recipe.render(self._options, **{**self._files, "output": output, "report": "", "behind": statistics}))
        text = run_pipeline(module, f"builtin.module({step})", name=self.path)
        lines, results, types = [f"quant_llm.archive @step {quote_string(output)}"], [], []
        for i, p in enumerate(describe_module(text, name=self.path)["parameters"]):
            (n, k), kind, name = p["shape"], p["element_type"], quote_string(p["name"])
            weight, dense = f"!quant_llm.weight<{n}x{k}x{kind}, {p['scheme']}>", f"tensor<{n}x{k}x{kind}>"
            lines.append(f"quant_llm.parameter @{name} from @step key {quote_string(p['key'])} : {weight}")
            results += [f"  %w{i} = quant_llm.get_parameter @{name} : {weight}", f"  %d{i} = quant_llm.dequantize %w{i} : {weight} -> {dense}"]
            types.append(dense)
        values = ", ".join(f"%d{i}" for i in range(len(types)))
        return "\n".join([*lines, f"func.func @weights() -> ({', '.join(types)}) {{", *results, f"  return {values} : {', '.join(types)}", "}", ""])


def _recipe_files(calibration, directory, scratch):
    files = {"output": os.path.join(directory, "model.safetensors"), "report": os.path.join(directory, "report.json"), "scratch": scratch}
    return files if calibration is None else {**files, "calibration": calibration}


def _check_recipe(recipe, options):
    """Raises if a pass refuses its options without a look at the model, as most
    do: better now than after a long import."""
    try:
        pipeline = recipe.render(options, **_recipe_files("calibration.safetensors", "", ""), behind="behind.safetensors")
        _quant_llm.check_pipeline(f"builtin.module({pipeline})")
    except QuantLLMError as error:
        where = "" if os.path.dirname(recipe.path) == RECIPES else f" of '{recipe.path}'"
        raise QuantLLMError(f"the recipe '{recipe.name}'{where} cannot be used: {error}", error.diagnostics) from None


def _check_calibration(recipe, calibration, diagnostic):
    """The absolute path of a calibration file that has what a recipe reads."""
    if not recipe.needs_calibration:
        if calibration is not None:
            raise QuantLLMError(f"the recipe '{recipe.name}' reads no calibration file{' but one measured behind quantized layers' if recipe.is_behind else ''}")
        return None
    wanted = recipe.calibration
    if calibration is None:
        raise QuantLLMError(f"the recipe '{recipe.name}' needs a calibration file with {', '.join(wanted.statistics)} (quant-llm calibrate)")
    calibration = os.path.abspath(check_path(calibration, "calibration"))
    tensors, metadata = read_header(calibration)
    if not metadata.get("schema", "").startswith("quant_llm.calibration/"):
        raise QuantLLMError(f"'{calibration}' is no calibration file (quant-llm calibrate)")
    if "behind" in metadata:
        raise QuantLLMError(f"'{calibration}' has statistics behind layers that a recipe quantized, but the recipe '{recipe.name}' needs those of the original model (quant-llm calibrate)")
    stored = {name.partition("/")[0] for name in tensors}
    if missing := [name for name in wanted.statistics if name not in stored]:
        raise QuantLLMError(f"'{calibration}' has no statistic {', '.join(missing)}, which the recipe '{recipe.name}' needs; it has {', '.join(sorted(stored))}")
    weights = metadata.get("token_weights", "none")
    if diagnostic and weights != (wanted.token_weights or "none"):
        diagnostic(Diagnostic("warning", "", f"the recipe '{recipe.name}' is for token weights '{wanted.token_weights or 'none'}', but those of '{calibration}' are '{weights}'"))
    return calibration


def _check_behind(recipe, behind):
    """The absolute path of a file with what is measured behind quantized layers, or
    the function that makes one."""
    if not recipe.is_behind:
        if behind is not None:
            raise QuantLLMError(f"the recipe '{recipe.name}' measures nothing behind quantized layers")
        return None
    if behind is None:
        raise QuantLLMError(f"the recipe '{recipe.name}' measures behind layers that it quantized, and needs a function that does so with tokens, or the file of an earlier run")
    if callable(behind):
        return behind
    behind = os.path.abspath(check_path(behind, "behind"))
    tensors, metadata = read_header(behind)
    stored = {name.partition("/")[0] for name in tensors}
    if not metadata.get("schema", "").startswith("quant_llm.calibration/") or not {"hessian", "drift"} <= stored:
        raise QuantLLMError(f"expected a calibration file with hessian and drift, measured behind quantized layers, but '{behind}' is none")
    return behind


def _check_not_quantized(source):
    parameters = describe_module(_read_module(source), name=os.path.join(source, "model.mlir"))["parameters"]
    schemes = sorted({parse_scheme(p["scheme"]).element for p in parameters if p["scheme"]})
    if schemes:
        raise QuantLLMError(f"'{os.fsdecode(source)}' is quantized already, to {', '.join(schemes)}; quantize the original model instead")


class _Names:
    """Puts names that the user knows into messages: `names` are those of temporary
    directories, and what stands for them; the first is that of what is read, which a prepared
    module is a step of. Lines of a module there are left out,
    as nobody can look at them. `places` says what stands for those that hold a
    copy of what is read when it is about writing."""

    def __init__(self, names, diagnostic, places=None):
        self.places = {path: os.fsdecode(name) for path, name in (places or {}).items()}
        self.names = {path: os.fsdecode(name) for path, name in names.items()}
        self.diagnostic = diagnostic and (lambda given: diagnostic(self._rename(given)))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, QuantLLMError):
            raise QuantLLMError(self._replace(str(error)), [self._rename(d) for d in error.diagnostics]) from None

    def _replace(self, text):
        source = next(iter(self.names.values()))
        for path in self.names:
            text = re.sub(rf"{re.escape(path)}/\.scratch\.[0-9a-f]+/model\.mlir(:\d+:\d+)?", lambda match: source, text)
        for path, name in self.names.items():
            # What cannot be written there is no fault of what is read.
            place = self.places.get(path, name)
            text = re.sub(
                rf"(cannot (?:write|create) '|' to ')?{re.escape(path)}(/model\.mlir:\d+:\d+)?",
                lambda match, name=name, place=place: match[1] + place + (match[2] or "") if match[1] else name,
                text,
            )
        return text

    def _rename(self, diagnostic):
        return Diagnostic(diagnostic.severity, self._replace(diagnostic.location), self._replace(diagnostic.message))


class Cache:
    """Keys and values of the tokens so far, and room for more."""

    def __init__(self, key, value):
        self.key = key
        self.value = value
        self.length = 0

    @property
    def capacity(self):
        return self.key.shape[2]


class Model:
    """A compiled model with its tokenizer (maybe None) and its configuration, the
    dict of config.json."""

    def __init__(self, engine, tokenizer, config):
        function = engine.functions.get("forward")
        ranks = [len(a.shape) for a in function.arguments] if function else []
        if ranks != [1, 4, 4, 0] or len(function.results) != 3:
            raise QuantLLMError("expected a module with a function @forward(tokens, keys, values, position) as the importer writes it")
        self.engine = engine
        self.tokenizer = tokenizer
        self.config = config
        self._cache_shape = function.arguments[1].shape
        self._cache_dtype = np.float32
        self.vocabulary_size = function.results[0].shape[-1]
        check_special_tokens(config, self.vocabulary_size)

    @classmethod
    def load(cls, path, *, threads=0, reference=False, cache=True, need_tokenizer=False, progress=None, diagnostic=None):
        """Loads a directory of ours, a Hugging Face directory or a GGUF file. The
        latter two are imported to a temporary directory first. A model without
        tokenizer is refused at once if `need_tokenizer`."""
        check_handler(progress, "progress")
        check_handler(diagnostic, "diagnostic")
        check_flag(need_tokenizer, "need_tokenizer")
        is_file = classify(path) == "gguf"

        def find():
            try:
                return find_tokenizer(path)
            except MissingTokenizerError as error:
                if need_tokenizer:
                    raise QuantLLMError(f"{error}; {'import the model to a directory and put one there' if is_file else 'put one there'}") from None

        # Before the import where that takes long.
        tokenizer = find() if is_file else None
        # The weights are mapped when the engine exists: the files may go.
        with open_directory(path, progress=progress, diagnostic=diagnostic) as directory:
            tokenizer = tokenizer if is_file else find()
            config = _read_config(directory, diagnostic)
            engine = Engine(os.path.join(directory, "model.mlir"), threads=threads, reference=reference, cache=cache)
            return cls(engine, tokenizer, config)

    @property
    def context(self):
        """How many tokens the model is for at most, or None if its config.json does
        not say."""
        value = self.config.get("max_position_embeddings")
        if value is not None and (type(value) is not int or value < 1):
            raise QuantLLMError(f"config.json: expected 'max_position_embeddings' to be a positive integer but got {json.dumps(value)}")
        return value

    def new_cache(self, capacity):
        """An empty cache with room for `capacity` tokens."""
        layers, heads, _, width = self._cache_shape
        shape = (layers, heads, check_integer(capacity, "capacity", 0), width)
        return Cache(np.zeros(shape, self._cache_dtype), np.zeros(shape, self._cache_dtype))

    def forward(self, tokens, cache=None):
        """The logits [tokens, vocabulary] of all `tokens`, which follow those in
        `cache` and are added to it (in place). Raises QuantLLMError."""
        tokens = np.ascontiguousarray(_to_tokens(tokens, self.vocabulary_size))
        if tokens.size == 0:
            raise QuantLLMError("expected a non-empty list of tokens but got none")
        length = 0 if cache is None else self._check_cache(cache)
        end = length + tokens.size
        if (context := self.context) is not None and end > context:
            raise QuantLLMError(f"tokens: expected at most {context}, those in the cache included, as the model is for no more (max_position_embeddings), but got {end}")
        cache = self.new_cache(tokens.size) if cache is None else cache
        if end > cache.capacity:
            raise QuantLLMError(f"expected at most {cache.capacity} tokens in the cache but got {end}")
        logits, _, _ = self.engine.invoke("forward", tokens, cache.key, cache.value, np.int64(length), in_place=(1, 2))
        cache.length = end
        return logits

    def _check_cache(self, cache):
        """How many tokens there are in a cache, whose parts anybody can set."""
        if not isinstance(cache, Cache):
            raise wrong_type("cache", "a Cache of new_cache() or None", cache)
        layers, heads, _, width = self._cache_shape
        for name in ("key", "value"):
            array = getattr(cache, name)
            if not isinstance(array, np.ndarray):
                raise wrong_type(f"cache.{name}", "an array of new_cache()", array)
            expected = (layers, heads, *cache.key.shape[2:3], width)
            if array.shape != expected or array.dtype != self._cache_dtype:
                room = "capacity" if name == "key" else expected[2]
                raise QuantLLMError(
                    f"cache.{name}: expected {np.dtype(self._cache_dtype)} of shape [{layers}, {heads}, {room}, {width}] "
                    f"but got {array.dtype} of shape {list(array.shape)}; take a new_cache() of this model"
                )
            if not (array.flags.c_contiguous and array.flags.writeable):
                raise QuantLLMError(f"cache.{name}: expected a contiguous, writable array; take a copy of it")
        if np.may_share_memory(cache.key, cache.value):
            raise QuantLLMError("cache: expected keys and values that share no memory; copy one")
        return check_integer(cache.length, "cache.length", 0, cache.capacity)

    def require_tokenizer(self):
        if self.tokenizer is None:
            raise QuantLLMError("expected a model with a tokenizer but it has none; put a tokenizer.json into its directory")
        return self.tokenizer

    def perplexity(self, tokens, *, window=None, max_windows=None, progress=None):
        """The perplexity of `tokens` in windows that do not overlap: every token
        of a window but the first is predicted from those before it in the
        window, and the mean over all predictions counts; tokens after the last
        whole window are dropped. A window has 1024 tokens by default, or as many
        as the model is for if these are fewer. `progress(done, total, perplexity)`
        is called after every window. Returns {"perplexity", "tokens", "seconds"}."""
        tokens = _to_tokens(tokens, self.vocabulary_size)
        context = self.context
        window = check_integer(min(1024, context or 1024) if window is None else window, "window", 2)
        if context and window > context:
            raise QuantLLMError(f"window: expected at most {context} tokens, as the model is for no more (max_position_embeddings), but got {window}")
        check_handler(progress, "progress")
        count = tokens.size // window
        if count == 0:
            raise QuantLLMError(f"expected a text of at least one window, {window} tokens, but it has {tokens.size}; take a longer text or a smaller window")
        if max_windows is not None:
            count = min(count, check_integer(max_windows, "max_windows", 1))
        start = time.monotonic()
        total, cache = 0.0, self.new_cache(window)
        for i in range(count):
            chunk = tokens[i * window : (i + 1) * window]
            cache.length = 0
            total += _negative_log_likelihood(self.forward(chunk, cache)[:-1], chunk[1:])
            if not math.isfinite(total):
                raise QuantLLMError(f"window {i}: expected finite logits but got infinities or NaN; the weights may be damaged")
            if progress:
                progress(i + 1, count, _exp(total / ((i + 1) * (window - 1))))
        predictions = count * (window - 1)
        return {
            "perplexity": _exp(total / predictions),
            "tokens": predictions,
            "seconds": time.monotonic() - start,
        }

    def generate(self, tokens, *, max_tokens=64, temperature=0.0, top_k=0, top_p=1.0, seed=0):
        """Yields up to `max_tokens` tokens that continue `tokens`, up to and
        without an end token, and none beyond the `context`. `temperature` of 0 takes the likeliest token; else
        one is drawn among the `top_k` likeliest (0: all) that make up `top_p` of
        the probability. The same seed gives the same tokens."""
        tokens = _to_tokens(tokens, self.vocabulary_size)
        max_tokens = check_integer(max_tokens, "max_tokens", 0, 2**31 - 1 - tokens.size)
        temperature = check_number(temperature, "temperature", 0, 100)
        top_k = check_integer(top_k, "top_k", 0)
        top_p = check_number(top_p, "top_p", 0, 1, open_low=True)
        random = np.random.Generator(np.random.PCG64(check_integer(seed, "seed", 0, 2**128 - 1)))
        end = set(find_end_tokens(self.config))
        if (context := self.context) is not None:
            if tokens.size >= context:
                raise QuantLLMError(f"prompt: expected fewer than {context} tokens, as the model is for no more (max_position_embeddings), but got {tokens.size}")
            max_tokens = min(max_tokens, context - tokens.size)
        return self._generate(tokens, max_tokens, (temperature, top_k, top_p, random), end)

    def _generate(self, tokens, max_tokens, options, end):
        try:
            cache = self.new_cache(tokens.size + max_tokens)
        except (MemoryError, ValueError):
            raise QuantLLMError(f"max_tokens: expected a number of tokens whose keys and values fit into memory but got {max_tokens}") from None
        for _ in range(max_tokens):
            logits = self.forward(tokens, cache)[-1]
            damaged = logits.size - np.count_nonzero(np.isfinite(logits))
            if damaged:
                raise QuantLLMError(
                    f"position {cache.length - 1}: expected finite logits but {damaged} of {logits.size} are infinite or NaN; the weights may be damaged"
                )
            token = sample(logits, *options)
            if token in end:
                return
            yield token
            tokens = np.array([token], dtype=np.int64)

    def stream(self, prompt, **options):
        """Yields the text of generate() piece by piece."""
        tokenizer = self.require_tokenizer()
        tokens = tokenizer.encode(check_text(prompt, "prompt"))
        if tokens.size == 0:
            raise QuantLLMError("expected a prompt of at least one token")
        decoder = StreamDecoder(tokenizer, tokens)
        return map(decoder.push, self.generate(tokens, **options))


def _to_tokens(tokens, vocabulary_size):
    """Numbers of tokens of a vocabulary as an array of int64."""
    given = np.asarray(tokens)
    if given.ndim != 1:
        raise QuantLLMError(f"expected a list of tokens but got shape {list(given.shape)}")
    # NumPy has no type for numbers of 2^64 and more.
    is_integer = given.dtype.kind in "iu" or all(type(token) is int for token in given)
    if not is_integer:
        raise QuantLLMError(f"expected tokens as integers but got {given.dtype}")
    # Before the conversion, which changes numbers of 2^63 and more.
    if given.size and (given.min() < 0 or given.max() >= vocabulary_size):
        raise QuantLLMError(f"expected tokens in [0, {vocabulary_size}) but got {int(given.min())} to {int(given.max())}")
    return given.astype(np.int64, copy=False)


def _to_logits(logits):
    """An array of float64 of numbers with a largest, which is finite; -inf is
    what masks a token."""
    try:
        given = np.asarray(logits)
        if given.dtype.kind not in "iufV":  # V: types that NumPy lacks, such as bfloat16
            raise TypeError
        numbers = given.astype(np.float64)
    except (TypeError, ValueError):
        raise wrong_type("logits", "a list of numbers", logits) from None
    if numbers.ndim != 1 or numbers.size == 0:
        raise QuantLLMError(f"logits: expected a non-empty list of numbers but got shape {list(numbers.shape)}")
    if damaged := np.count_nonzero(np.isnan(numbers) | (numbers == np.inf)):
        raise QuantLLMError(f"logits: expected finite numbers or -inf but {damaged} of {numbers.size} are inf or NaN")
    if not np.isfinite(numbers.max()):
        raise QuantLLMError("logits: expected a finite number but all are -inf")
    return numbers


def _exp(value):
    return math.exp(min(value, 700.0))


def _negative_log_likelihood(logits, targets):
    """The sum of -log softmax(logits)[target] over the rows, in double precision
    where it matters, a few rows at a time to stay in the caches."""
    total = 0.0
    for begin in range(0, len(targets), 16):
        rows = logits[begin : begin + 16]
        highest = rows.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            sums = np.exp(rows - highest).sum(axis=1, dtype=np.float64)
        chosen = np.take_along_axis(rows, targets[begin : begin + 16, None], axis=1)
        total += float(np.sum(np.log(sums) + (highest - chosen)[:, 0]))
    return total


def sample(logits, temperature, top_k, top_p, random):
    """Draws a token with a generator of NumPy; see Model.generate()."""
    scaled = _to_logits(logits)
    temperature = check_number(temperature, "temperature", 0, 100)
    top_k = check_integer(top_k, "top_k", 0)
    top_p = check_number(top_p, "top_p", 0, 1, open_low=True)
    if temperature == 0:
        return int(np.argmax(scaled))
    if not isinstance(random, np.random.Generator):
        raise wrong_type("random", "a numpy.random.Generator", random)
    # The highest is 0, so that what overflows at a low temperature is never drawn.
    with np.errstate(over="ignore"):
        scaled = (scaled - scaled.max()) / temperature
    order = np.argsort(-scaled, kind="stable")
    if top_k > 0:
        order = order[:top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    weights /= weights.sum()
    if top_p < 1:
        # As few as reach top_p, at least one.
        order = order[: int(np.searchsorted(np.cumsum(weights), top_p)) + 1]
        weights = weights[: len(order)] / weights[: len(order)].sum()
    return int(order[np.searchsorted(np.cumsum(weights), random.random(), side="right").clip(max=len(order) - 1)])


def describe(path, *, diagnostic=None):
    """What a model is, as a dict: "kind", "config", "parameters" (as in
    describe_module(), without the name of the archive), "report" or None.
    Raises QuantLLMError if its archives lack anything."""
    check_handler(diagnostic, "diagnostic")
    kind = classify(path)
    path = check_path(path)
    if kind != "quant-llm":
        with _temporary_directory() as directory:
            return _describe_original(path, kind, directory)
    name = os.path.join(path, "model.mlir")
    module = _read_module(path)
    description = describe_module(module, name=name)
    if not description["functions"] and not description["parameters"]:
        raise QuantLLMError(f"expected the module of a model in '{name}' but it has neither functions nor parameters; import the model again")
    # Looks every parameter up in its archive.
    _quant_llm.fingerprint_model(module, name)
    return {
        "kind": kind,
        "config": _read_config(path, diagnostic),
        "parameters": description["parameters"],
        "report": _read_report(path),
    }


def _read_config(directory, diagnostic):
    config = _read_json(os.path.join(directory, "config.json"))
    if config is None and diagnostic:
        diagnostic(Diagnostic("warning", "", f"'{directory}' has no config.json, which says where texts end and how long they may be; import the model again"))
    return config or {}


def _read_report(directory):
    """The report of a quantization, or None; with everything that info shows."""
    path = os.path.join(directory, "report.json")
    report = _read_json(path)
    if report is None:
        return None
    try:
        complete = all(
            isinstance(w["name"], str) and isinstance(w["reason"], str) and isinstance(w["bits_per_weight"], (int, float))
            and all(isinstance(size, int) for size in w["shape"] + w["block"])
            for w in report["weights"]
        )
    except (KeyError, TypeError):
        complete = False
    if not complete:
        raise QuantLLMError(f"expected the report of a quantization in '{path}'; quantize the model again, or remove that file")
    return report


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise QuantLLMError(f"expected JSON in '{path}' but got {error}") from None
    if not isinstance(value, dict):
        raise QuantLLMError(f"expected an object in '{path}' but got {type(value).__name__}")
    return value


def _describe_original(path, kind, directory):
    if kind == "gguf":
        metadata = read_gguf_metadata(path)
        architecture = metadata.get("general.architecture", "unknown")
        config = {"model_type": architecture, "name": metadata.get("general.name")}
        for ours, theirs in (
            ("num_hidden_layers", "block_count"),
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("num_attention_heads", "attention.head_count"),
            ("num_key_value_heads", "attention.head_count_kv"),
            ("vocab_size", "vocab_size"),
        ):
            if f"{architecture}.{theirs}" in metadata:
                config[ours] = metadata[f"{architecture}.{theirs}"]
        parameters = [
            {"name": t["name"], "shape": t["shape"], "element_type": t["dtype"], "scheme": None, "bytes": t["bytes"]}
            for t in describe_archive(path)["tensors"]
        ]
        return {"kind": kind, "config": config, "parameters": parameters, "report": None}
    module = os.path.join(directory, "model.mlir")
    import_model(path, module)
    parameters = describe_module(_read_module(directory), name=module)["parameters"]
    return {"kind": kind, "config": _read_json(os.path.join(path, "config.json")), "parameters": parameters, "report": None}
