# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The subcommand `calibrate` of quant-llm. PyTorch is imported when it runs, so
that --help does not wait for it."""

import os
import sys

from ._errors import QuantLLMError

# Of the inputs of linears, in the order in which they are written.
OF_INPUTS = ("absmax", "absmean", "mean", "min", "max", "quantiles", "hessian", "inputs")
# Of the weights themselves; each takes a way back through the model.
FISHER, ROW_FISHER = OF_WEIGHTS = ("fisher", "row-fisher")
STATISTICS = (*OF_INPUTS, *OF_WEIGHTS)
DEFAULT_STATISTICS = ("absmax", "absmean", "mean", "min", "max", "hessian")
# Weights of tokens by which all count the same in a Hessian.
ENERGY = "energy"
# Those of RSQ, by the attention that is paid to a token; and both.
ATTENTION, ATTENTION_ENERGY = "attention", "attention-energy"
TOKEN_WEIGHTS = (ENERGY, ATTENTION, ATTENTION_ENERGY)
SAMPLES, LENGTH = 128, 512
DTYPES = ("float32", "bfloat16", "float16", "float64")


def add_command(add, positive, natural):
    """`add(name, function, help, example)` makes a subcommand."""
    command = add(
        "calibrate", run_calibrate, "run a model on text and store statistics of the inputs of its linears",
        "quant-llm calibrate model.gguf --text book.txt --samples 128 --length 512 -o calibration.safetensors",
    )
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="the calibration file to write; FILE.partial holds unfinished work")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", metavar="FILE", help="UTF-8 text; - for standard input")
    source.add_argument("--tokens", metavar="FILE.npy", help="tokens instead of text: an array [samples, length] of integers")
    source.add_argument("--random-tokens", action="store_true", help="tokens drawn at random from the vocabulary, for methods without data")
    command.add_argument("--samples", type=positive, metavar="N", help=f"pieces of the text (default: {SAMPLES})")
    command.add_argument("--length", type=positive, metavar="L", help=f"tokens of a piece (default: {LENGTH})")
    command.add_argument("--seed", type=natural, default=0, metavar="S", help="which pieces are drawn (default: %(default)s)")
    command.add_argument(
        "--statistics", default=",".join(DEFAULT_STATISTICS), metavar="LIST", help=f"what to store, of {', '.join(STATISTICS)} (default: %(default)s)"
    )
    command.add_argument("--token-weights", metavar="FILE.npy", help=f"how much each token counts: an array of the shape of the tokens; '{ENERGY}': all the same in every Hessian, however large they are; '{ATTENTION}': by the attention that is paid to them; or '{ATTENTION_ENERGY}'")
    command.add_argument("--dtype", default=DTYPES[0], choices=DTYPES, help="type of the activations (default: %(default)s)")
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; by default cuda if there is any")
    command.add_argument("--restart", action="store_true", help="throw away unfinished work instead of going on with it")
    command.set_defaults(interrupted="the same command goes on from the last block that was saved, if any was")
    return command


def run_calibrate(arguments, read=None):
    """`read` returns what read_tokens() would; with it an output that this call wrote
    before is taken as it is."""
    torch = import_torch()
    from .calibration import calibrate
    from .cli import say, show_warning

    _initialize(torch, arguments)
    if not read:
        check_size(arguments)
        arguments.samples, arguments.length = arguments.samples or SAMPLES, arguments.length or LENGTH
    tokens = read() if read else read_tokens(arguments)
    weights = arguments.token_weights
    if weights not in (None, *TOKEN_WEIGHTS):
        weights = _read_array(weights)
    with Bar("calibrating") as bar:
        report = calibrate(
            arguments.model,
            tokens,
            arguments.output,
            statistics=[s for s in arguments.statistics.split(",") if s],
            token_weights=weights,
            seed=arguments.seed,
            dtype=arguments.dtype,
            device=arguments.device,
            restart=arguments.restart,
            reuse=read is not None,
            progress=bar.show,
            diagnostic=show_warning,
        )
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    _warn_of_dead(report)
    say(_describe(arguments.output, report))


def _warn(message):
    from tqdm import tqdm

    tqdm.write(f"quant-llm: warning: {message}", file=sys.stderr)


def _warn_of_dead(report):
    dead = report["dead"]
    if dead:
        shown = ", ".join(f"{name} {count}" for name, count in list(dead.items())[:4]) + (", ..." if len(dead) > 4 else "")
        _warn(f"inputs that are 0 in every token that counts: {shown}")


def _describe(output, report):
    verb = "took what an earlier run wrote," if report["reused"] else "wrote"
    return f"{verb} {output}: {report['samples']} samples, {report['tokens']:,} tokens"


def run_behind(settings, prepared, output, read):
    """Measures behind the quantized layers of a model.PreparedModel; `settings` are
    as the arguments of run_calibrate(), and `read` returns the tokens."""
    import_torch()
    from .calibration import calibrate_behind
    from .cli import say

    with Bar("quantizing behind quantized layers") as bar:
        report = calibrate_behind(prepared, read(), output, token_weights=settings.token_weights, dtype=settings.dtype, device=settings.device, reuse=True, progress=bar.show)
    _warn_of_dead(report)
    say(_describe(output, report))


def check_size(arguments):
    """Samples that are given have their number and length."""
    for option, value in (("--samples", arguments.samples), ("--length", arguments.length)):
        if arguments.tokens and value is not None:
            raise QuantLLMError(f"{option}: --tokens has samples of its own; leave {option} out")


def import_torch():
    try:
        import torch
    except ImportError:
        raise QuantLLMError("expected the package torch, which runs the model; pip install torch") from None
    return torch


def read_tokens(arguments):
    """The samples that --text, --tokens or --random-tokens ask for, or a function that
    makes them."""
    from .calibration import random_tokens, sample_tokens
    from .cli import read_text

    if arguments.tokens:
        tokens = _read_array(arguments.tokens)
        if tokens.ndim != 2:
            raise QuantLLMError(f"'{arguments.tokens}': expected an array [samples, length] but got shape {list(tokens.shape)}")
        return tokens
    if arguments.random_tokens:

        def tokens(vocabulary):
            if vocabulary is None:
                raise QuantLLMError("expected samples of tokens: the module does not say how large its vocabulary is")
            return random_tokens(vocabulary, samples=arguments.samples, length=arguments.length, seed=arguments.seed)

        return tokens
    text = read_text(arguments.text)
    tokenizer = _find_tokenizer(arguments.model)
    tokens = tokenizer.encode(text, special_tokens=False)
    if tokens.size == 0:
        raise QuantLLMError(f"'{arguments.text}': expected a text but it is empty")
    rows = sample_tokens(tokens, samples=arguments.samples, length=arguments.length, seed=arguments.seed)

    def sampled(vocabulary):
        # Models have entries that no token needs, but not as many again.
        if vocabulary and 2 * tokenizer.vocabulary_size < vocabulary:
            _warn(f"the tokenizer has {tokenizer.vocabulary_size} tokens but the vocabulary of the model {vocabulary}; is it that of another model?")
        return rows

    return sampled


class Bar:
    """Progress of a calibration, on a terminal."""

    def __init__(self, title):
        from tqdm import tqdm

        self.bar = tqdm(desc=title, unit="sample", leave=False, file=sys.stderr, disable=not sys.stderr.isatty())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def show(self, done, total, part):
        if part == "resumed":  # what was done before says nothing about the speed
            self.bar.initial = self.bar.n = done
        self.bar.total = total
        self.bar.set_postfix_str(part, refresh=False)
        self.bar.update(done - self.bar.n)


def _initialize(torch, arguments):
    """Joins the other processes of torchrun, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or torch.distributed.is_initialized():
        return
    use_cuda = torch.cuda.is_available() and not (arguments.device or "cuda").startswith("cpu")
    if use_cuda and not arguments.device:
        arguments.device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    if use_cuda:
        torch.cuda.set_device(arguments.device)
    torch.distributed.init_process_group("nccl" if use_cuda else "gloo")


def _find_tokenizer(path):
    # Here, because recipes know what is above, and models know recipes.
    from . import model as models
    from .tokenizer import MissingTokenizerError

    try:
        return models.find_tokenizer(path)
    except MissingTokenizerError as error:
        raise QuantLLMError(f"{error}; put one there, or give --tokens") from None


def _read_array(path):
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror or error}") from None
    except ValueError as error:
        raise QuantLLMError(f"'{path}' is not a .npy file: {error}") from None
