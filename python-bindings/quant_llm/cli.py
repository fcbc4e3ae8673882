# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The command quant-llm.

Exit status: 0 success; 1 out of memory or a fault of the program; 2 wrong usage or
input, or a file that cannot be read or written; 128 + N after signal N (141: a closed
pipe as output).
"""

import argparse
import contextlib
import functools
import json
import os
import re
import signal
import stat
import sys
import threading
import traceback

try:
    from tqdm import tqdm

    from . import __version__, model
    from ._build import options_of
    from . import recipe as recipes
    from ._calibrate import add_command as add_calibrate, check_size, read_tokens, run_behind, run_calibrate
    from ._check import MAX_THREADS, check_threads
    from ._errors import QuantLLMError
except ImportError as missing:
    # A shared library or a package; the message says which.
    raise SystemExit(f"quant-llm: error: {missing}") from None

# What the options of the pipeline may be (a test compares them with it).
_OTHER_ELEMENTS = ("ternary", "nf4", "f4E2M1FN", "f6E2M3FN", "f6E3M2FN", "f8E4M3FN", "f8E5M2")
ELEMENTS = (*(f"int{bits}" for bits in range(1, 9)), *(f"uint{bits}" for bits in range(1, 9)), *(f"normal{bits}" for bits in range(1, 7)), *_OTHER_ELEMENTS)
ELEMENTS_TEXT = f"int1 to int8, uint1 to uint8, normal1 to normal6, {', '.join(_OTHER_ELEMENTS)} or codebook<BITS, [VALUES]>"
SCALES = ("f16", "bf16", "f32", "f8E8M0FNU", "f8E4M3FN")
RULES = ("absmax", "absmax_full", "minmax", "mse")


class Bars:
    """Progress bars for the handlers of the library; silent unless standard error
    is a terminal."""

    def __init__(self):
        self.quiet = not sys.stderr.isatty()
        self.bar = None
        self.stage = None

    def __call__(self, stage, item, done, total):
        if self.quiet:
            return
        if stage != self.stage:
            self.close()
            self.stage = stage
            self.bar = tqdm(desc=stage, total=total, unit="B", unit_scale=True, leave=False, file=sys.stderr)
        self.bar.set_postfix_str(item if len(item) <= 24 else "..." + item[-21:], refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self):
        if self.bar is not None:
            self.bar.close()
        self.bar = self.stage = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def show_warning(diagnostic):
    if diagnostic.severity == "warning":
        tqdm.write(f"quant-llm: {diagnostic}", file=sys.stderr)


def say(text, end="\n"):
    """Prints to standard output."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise QuantLLMError(f"cannot write to standard output: {error.strerror or error}") from None


def run_import(arguments):
    with Bars() as bars:
        model.import_directory(arguments.model, arguments.output, replace=arguments.force, progress=bars, diagnostic=show_warning)
    say(f"wrote {arguments.output}")


def run_quantize(arguments):
    check_threads(arguments.threads)
    recipe = recipes.load(arguments.recipe)
    options = recipe_options(arguments, recipe)
    # FineQuant is a pipeline of the library; its recipe is there to be copied.
    if arguments.recipe == "finequant":
        recipe, options = "finequant", options_of({name.replace("_", "-"): value for name, value in options.items()})
    calibration, behind = (None, None) if recipe == "finequant" else find_calibration(arguments, recipe)
    with Bars() as bars:
        report = model.quantize_directory(
            arguments.model,
            arguments.output,
            recipe=recipe,
            options=options,
            calibration=calibration,
            behind=behind,
            replace=arguments.force,
            progress=bars,
            diagnostic=show_warning,
        )
    totals = report["totals"]
    say(f"wrote {arguments.output}: {summarize_totals(totals)}")


def recipe_options(arguments, recipe):
    """The options of the recipe that are given."""
    if arguments.block is not None:
        choice = {"--alpha": arguments.alpha, "--group-sizes": arguments.group_sizes, "--statistic": arguments.statistic, "--aggregation": arguments.aggregation}
        vain = [name for name, value in choice.items() if value is not None]
        if vain:
            raise QuantLLMError(f"--block: this block is taken everywhere, nothing is chosen by {', '.join(vain)}; give either --block or {'that' if len(vain) == 1 else 'those'}")
    values = recipe.parse_options(arguments.set)
    given = {
        "element": None,
        "alpha": arguments.alpha,
        "sizes": arguments.group_sizes,
        "block": arguments.block,
        "scale": arguments.scale,
        "rule": arguments.rule,
        "statistic": arguments.statistic,
        "aggregation": arguments.aggregation,
        "include": arguments.include,
        "exclude": arguments.exclude,
        "threads": arguments.threads or None,
    }
    if recipe.name == "finequant" and "element" not in values or not (arguments.element is arguments.bits is arguments.symmetric is None):
        given["element"] = choose_element(arguments.element, arguments.bits, arguments.symmetric)
    for name, value in given.items():
        if value is None:
            continue
        if name in values:
            raise QuantLLMError(f"--set {name}: the option is given twice")
        if name not in recipe.options:
            raise QuantLLMError(f"the recipe '{recipe.name}' has no option '{name}'; it has {', '.join(recipe.options)} (--set)")
        values[name] = value
    return recipe.check_options(values)


def find_calibration(arguments, recipe):
    """The calibration file of a recipe and that with what is measured behind its
    quantized layers: names, functions that make them, or None."""
    wanted = recipe.calibration
    data = [option for option, value in (("--text", arguments.text), ("--tokens", arguments.tokens)) if value]
    given = [option for option, value in (("--calibration", arguments.calibration), ("--behind", arguments.behind)) if value]
    if wanted is None:
        if given or data:
            raise QuantLLMError(f"{(given + data)[0]}: the recipe '{recipe.name}' needs no data")
        return None, None
    if arguments.behind and not recipe.is_behind:
        raise QuantLLMError(f"--behind: the recipe '{recipe.name}' measures nothing behind quantized layers")
    if arguments.calibration and not recipe.needs_calibration:
        raise QuantLLMError(f"--calibration: the recipe '{recipe.name}' reads no statistics of the original model")
    makes_calibration = recipe.needs_calibration and not arguments.calibration
    makes_behind = recipe.is_behind and not arguments.behind
    made = [option for option, makes in (("--calibration", makes_calibration), ("--behind", makes_behind)) if makes]
    if data and not made:
        raise QuantLLMError(f"{data[0]}: nothing is measured, as {' and '.join(given)} {'is' if len(given) == 1 else 'are'} given; leave one out")
    if wanted.tokens == "random" and data:
        raise QuantLLMError(f"{data[0]}: the recipe '{recipe.name}' draws tokens at random; leave {data[0]} out")
    if made and wanted.tokens == "text" and not data:
        raise QuantLLMError(f"the recipe '{recipe.name}' needs a text to calibrate with (--text FILE), samples of tokens (--tokens FILE.npy), or {'a calibration file' if len(made) == 1 else 'the files of an earlier run'} ({', '.join(option + ' FILE' for option in made)})")
    check_size(arguments)
    settings = argparse.Namespace(
        model=arguments.model, text=arguments.text, tokens=arguments.tokens, random_tokens=wanted.tokens == "random", samples=arguments.samples or wanted.samples,
        length=arguments.length or wanted.length, seed=wanted.seed if arguments.seed is None else arguments.seed, statistics=",".join(wanted.statistics),
        token_weights=wanted.token_weights, dtype=wanted.dtype, device=arguments.device, restart=False,
    )
    # Standard input can be read once.
    read = functools.cache(lambda: read_tokens(settings))
    calibration, behind = arguments.calibration, arguments.behind
    if makes_calibration:
        path = os.path.normpath(arguments.output) + ".calibration.safetensors"

        def calibration():
            run_calibrate(argparse.Namespace(**vars(settings), output=path), read)
            return path

    if makes_behind:
        file = os.path.normpath(arguments.output) + ".behind.safetensors"

        def behind(prepared):
            run_behind(settings, prepared, file, read)
            return file

    return calibration, behind


def run_recipes(arguments):
    if arguments.recipe is not None:
        with open(recipes.load(arguments.recipe).path, encoding="utf-8") as file:
            say(file.read(), end="")
        return
    rows = []
    for name in recipes.names():
        recipe = recipes.load(name)
        needs = {None: "nothing", "text": "text", "random": "nothing (PyTorch)"}[recipe.calibration and recipe.calibration.tokens]
        rows.append((name, needs, recipe.summary))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, needs, summary in [("recipe", "needs", "what it does"), *rows]:
        say(f"{name:{widths[0]}}  {needs:{widths[1]}}  {summary}")


def choose_element(element, bits, symmetric):
    """The element of --element, or of --bits. `symmetric` is None if neither
    --symmetric nor --asymmetric was given."""
    if element is None:
        return f"{'int' if symmetric else 'uint'}{bits or 4}"
    if symmetric and element.startswith("uint"):
        raise QuantLLMError(f"--symmetric: {element} has no negative values and needs zero points; use --element {element[1:]}")
    if symmetric is False and not element.startswith("uint"):
        advice = f"; use --element u{element}" if element.startswith("int") else ""
        raise QuantLLMError(f"--asymmetric: an integer zero point needs an unsigned element but got {element}{advice}")
    return element


def run_info(arguments):
    description = model.describe(arguments.model, diagnostic=show_warning)
    say(json.dumps(description) if arguments.json else "\n".join(render_info(description)))


def run_eval(arguments):
    text = read_text(arguments.text)
    with Bars() as bars:
        loaded = load(arguments, bars)
    tokens = loaded.require_tokenizer().encode(text)
    bar = tqdm(desc="evaluating", unit="window", leave=False, file=sys.stderr, disable=not sys.stderr.isatty())

    def progress(done, total, perplexity):
        bar.total = total
        bar.set_postfix_str(f"perplexity {perplexity:.3f}", refresh=False)
        bar.update(done - bar.n)

    with bar:
        result = loaded.perplexity(tokens, window=arguments.window, max_windows=arguments.max_windows, progress=progress)
    say(json.dumps(result) if arguments.json else f"perplexity {result['perplexity']:.4f} over {result['tokens']} tokens in {result['seconds']:.1f} s")


def run_generate(arguments):
    try:
        arguments.prompt.encode()
    except UnicodeEncodeError as error:
        given = os.fsencode(arguments.prompt[error.start])
        raise QuantLLMError(f"--prompt: expected UTF-8 text but got the byte 0x{given.hex()} at character {error.start}") from None
    with Bars() as bars:
        loaded = load(arguments, bars)
    pieces = loaded.stream(
        arguments.prompt,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    first = next(pieces, None)
    say(arguments.prompt + (first or ""), end="")
    shown = int(first is not None)
    for piece in pieces:
        say(piece, end="")
        shown += 1
    say("")
    if loaded.context is not None:
        used = loaded.tokenizer.encode(arguments.prompt).size + shown
        if used == loaded.context and shown < arguments.max_tokens:
            print(f"quant-llm: warning: the text ends because the model is for {used} tokens at most", file=sys.stderr)


def load(arguments, bars):
    return model.Model.load(
        arguments.model, threads=arguments.threads, reference=arguments.reference, need_tokenizer=True, progress=bars, diagnostic=show_warning
    )


def read_text(path):
    try:
        if path == "-":
            if sys.stdin is None:
                raise QuantLLMError("cannot read standard input: it is closed")
            return sys.stdin.buffer.read().decode("utf-8")
        with open(path, "rb") as file:
            # A pipe ends, a device may not.
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
                raise QuantLLMError(f"'{path}': expected a file of text but got a device")
            return file.read().decode("utf-8")
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise QuantLLMError(f"'{path}': expected UTF-8 text but got {error.reason} at byte {error.start}") from None


_KINDS = (
    ("attention, query", r"(q_proj|attn_q)\."),
    ("attention, key", r"(k_proj|attn_k)\."),
    ("attention, value", r"(v_proj|attn_v)\."),
    ("attention, output", r"(o_proj|attn_output)\."),
    ("feed-forward, gate", r"(gate_proj|ffn_gate)\."),
    ("feed-forward, up", r"(up_proj|ffn_up)\."),
    ("feed-forward, down", r"(down_proj|ffn_down)\."),
    ("embedding", r"(embed_tokens|token_embd)\."),
    ("output head", r"(lm_head|^output)\."),
    ("normalization", r"norm"),
)


def kind_of(name):
    """What a parameter is for, by its name."""
    for kind, pattern in _KINDS:
        if re.search(pattern, name):
            return kind
    return "other"


def summarize_totals(totals):
    return (
        f"{count(totals['weights'])} weights at {totals['bits_per_weight']:.3f} bits, scales included; "
        f"{count(totals['bytes_before'])} -> {count(totals['bytes_after'])} bytes"
    )


def render_granularities(report):
    """A table of what was chosen, by kind of matrix and block."""
    groups = {}
    for weight in report["weights"]:
        groups.setdefault((kind_of(weight["name"]), tuple(weight["block"])), []).append(weight)
    order = [kind for kind, _ in _KINDS] + ["other"]
    rows = [("kind", "block", "matrices", "bits", "why")]
    for (kind, block), members in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        weights = sum(count_elements(w) for w in members)
        bits = sum(w["bits_per_weight"] * count_elements(w) for w in members) / weights
        rows.append((kind, list(block), len(members), f"{bits:.3f}", summarize_reasons([w["reason"] for w in members])))
    return render_table(rows)


def summarize_reasons(reasons):
    """One line for the reasons of several matrices: the range of the last ratio
    that was compared, if all went the same way, else the first reason."""
    reasons = [reason.removeprefix("FineQuant: ") for reason in reasons]
    step = re.compile(r"(\d+ -> \d+): \D*([0-9.]+)[^;]*?(<|>=) ([0-9.]+), (\w+)$")
    last = [step.search(reason.split(";")[-1]) for reason in reasons]
    if not all(last) or len({(m.group(1), m.group(5)) for m in last}) != 1:
        return reasons[0] if len(set(reasons)) == 1 else f"{reasons[0]} (and similar)"
    ratios = sorted((m.group(2) for m in last), key=float)
    ratio = ratios[0] if ratios[0] == ratios[-1] else f"{ratios[0]} to {ratios[-1]}"
    sizes, sign, alpha, verdict = last[0].group(1), last[0].group(3), last[0].group(4), last[0].group(5)
    return f"{sizes}: ratio of ranges {ratio} {sign} {alpha}, {verdict}"


def count(number):
    return f"{number:,}"


def shorten_scheme(scheme):
    """`int4, block [1, 64], scale f16` of the text of a scheme attribute."""
    match = re.fullmatch(r"#quant_llm\.scheme<(.*)>", scheme)
    inside = match.group(1) if match else scheme
    return re.sub(r"(block|scale|zero|low_rank) = ", r"\1 ", re.sub(r", (rule|rounding) = \w+", "", inside))


def render_table(rows):
    """Lines of a table whose first row is the head; columns of numbers go to the
    right."""
    rows = [[str(cell) for cell in row] for row in rows]
    columns = range(len(rows[0]))
    widths = [max(len(row[i]) for row in rows) for i in columns]
    numeric = [all(re.fullmatch(r"[0-9.,]+", row[i]) for row in rows[1:]) for i in columns]

    def line(row):
        return "  ".join(row[i].rjust(widths[i]) if numeric[i] else row[i].ljust(widths[i]) for i in columns).rstrip()

    return [line(rows[0]), "  ".join("-" * w for w in widths)] + [line(row) for row in rows[1:]]


def render_info(description):
    config, parameters = description["config"], description["parameters"]
    size = [f"{config[key]} {label}" for key, label in (
        ("num_hidden_layers", "layers"), ("hidden_size", "hidden"), ("intermediate_size", "intermediate"),
        ("num_attention_heads", "heads"), ("num_key_value_heads", "KV heads"), ("vocab_size", "vocabulary")) if key in config]
    yield f"{config.get('model_type', 'model')} ({description['kind']})" + (f": {', '.join(size)}" if size else "")
    elements = sum(count_elements(p) for p in parameters)
    stored = sum(p["bytes"] for p in parameters)
    yield f"{count(len(parameters))} tensors, {count(elements)} weights, {count(stored)} bytes, {8 * stored / max(elements, 1):.3f} bits per weight"
    yield ""
    groups = {}
    for parameter in parameters:
        scheme = shorten_scheme(parameter["scheme"]) if parameter["scheme"] else parameter["element_type"]
        if description["report"]:  # blocks come in the second table
            scheme = re.sub(r", block \[[^]]*\]", "", scheme)
        groups.setdefault((kind_of(parameter["name"]), scheme), []).append(parameter)
    order = [kind for kind, _ in _KINDS] + ["other"]
    rows = [("kind", "stored as", "tensors", "weights", "bits per weight")]
    for (kind, scheme), members in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        weights = sum(count_elements(p) for p in members)
        bits = 8 * sum(p["bytes"] for p in members) / max(weights, 1)
        rows.append((kind, scheme, len(members), count(weights), f"{bits:.3f}"))
    yield from render_table(rows)
    if description["report"]:
        yield ""
        yield from render_granularities(description["report"])


def count_elements(parameter):
    product = 1
    for extent in parameter["shape"]:
        product *= extent
    return product


def expecting(what):
    """Makes a converter for argparse say what it expects."""

    def decorate(convert):
        @functools.wraps(convert)
        def checked(text):
            try:
                return convert(text)
            except ValueError:
                raise argparse.ArgumentTypeError(f"expected {what} but got '{text}'") from None

        return checked

    return decorate


def integer(low, high=2**31 - 1):
    @expecting(f"an integer from {low} to {high}" if high < 2**31 - 1 else f"an integer of at least {low}")
    def convert(text):
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return convert


def number_between(low, high, open_low=False):
    @expecting(f"a number in {'(' if open_low else '['}{low}, {high}]")
    def convert(text):
        value = float(text)
        if not (low < value if open_low else low <= value) or not value <= high:
            raise ValueError
        return value

    return convert


positive = integer(1)
natural = integer(0)


@expecting(ELEMENTS_TEXT)
def element(text):
    if text not in ELEMENTS and not text.startswith("codebook<"):
        raise ValueError
    return text


@expecting("sizes such as 64,128")
def sizes(text):
    if any(int(part) < 1 for part in text.split(",")):
        raise ValueError
    return text


@expecting("two sizes, outputs and inputs, such as 1,64 or 1,-1")
def block(text):
    parts = [int(part) for part in text.split(",")]
    if len(parts) != 2 or any(part == 0 or part < -1 for part in parts):
        raise ValueError
    return text


class Parser(argparse.ArgumentParser):
    def _print_message(self, message, file=None):
        """Help and versions; argparse is silent about what it cannot write."""
        if file is not sys.stdout:
            super()._print_message(message, file)
        elif status := run_command("quant-llm", lambda: say(message, end="")):
            self.exit(status)


def make_parser():
    parser = Parser(
        prog="quant-llm",
        description="Quantizes language models and runs them on the CPU. MODEL is a Hugging Face directory, a GGUF file or a directory that quant-llm wrote.",
        epilog="""examples:
  quant-llm info model.gguf
  quant-llm quantize model.gguf -o model-int4
  quant-llm eval model-int4 --text book.txt
  quant-llm generate model-int4 --prompt 'Once upon a time'

exit status: 0 success; 1 out of memory or a fault of the program; 2 wrong usage or
input, or a file that cannot be read or written; 128 + N after signal N (130: Ctrl-C,
141: a closed pipe as output)""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"quant-llm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name, function, help, example):
        command = commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".", epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(function=function)
        command.add_argument("model", metavar="MODEL", help="Hugging Face directory, GGUF file or directory of ours")
        return command

    def add_output(command):
        command.add_argument("-o", "--output", required=True, metavar="DIR", help="the directory to write; it must not exist")
        command.add_argument("--force", action="store_true", help="replace a model directory of ours")

    def add_threads(command):
        command.add_argument("--threads", type=integer(0, MAX_THREADS), default=0, metavar="N", help="threads; 0 for $QUANT_LLM_THREADS or all cores (default)")

    def add_run(command):
        add_threads(command)
        command.add_argument("--reference", action="store_true", help="run the exact reference instead of the fast kernels (slow)")

    command = add("import", run_import, "import a model to MLIR", "quant-llm import model.gguf -o model")
    add_output(command)

    command = add("quantize", run_quantize, "quantize the weights of a model", "quant-llm quantize model.gguf -o model-int4 --alpha 0.8")
    add_output(command)
    command.add_argument("--recipe", default="finequant", metavar="NAME|FILE", help="the method: a name that 'quant-llm recipes' lists, or a file like theirs (default: %(default)s)")
    command.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the recipe; may be repeated")
    command.add_argument("--calibration", metavar="FILE", help="statistics for recipes that need them, from quant-llm calibrate")
    command.add_argument("--behind", metavar="FILE", help="for recipes that measure behind layers that they quantized: DIR.behind.safetensors of an earlier run with the same options")
    data = command.add_mutually_exclusive_group()
    data.add_argument("--text", metavar="FILE", help="UTF-8 text to measure statistics with, which are kept beside DIR; - for standard input")
    data.add_argument("--tokens", metavar="FILE.npy", help="tokens instead of text: an array [samples, length] of integers")
    command.add_argument("--samples", type=positive, metavar="N", help="pieces of that text (default: as the recipe says)")
    command.add_argument("--length", type=positive, metavar="L", help="tokens of a piece (default: as the recipe says)")
    command.add_argument("--seed", type=natural, metavar="S", help="which pieces are drawn (default: as the recipe says)")
    command.add_argument("--device", metavar="NAME", help="where the model runs on that text: cpu, cuda, ...; by default cuda if there is any")
    codes = command.add_mutually_exclusive_group()
    codes.add_argument("--bits", type=integer(1, 8), metavar="B", help="bits per code, 1 to 8 (default: 4); uintB, or intB with --symmetric")
    codes.add_argument(
        "--element",
        type=element,
        metavar="FORMAT",
        help=f"the format of the codes: {ELEMENTS_TEXT}; uintN has zero points, the others have none",
    )
    zero = command.add_mutually_exclusive_group()
    zero.add_argument("--symmetric", dest="symmetric", action="store_const", const=True, help="no zero points: intB instead of uintB")
    zero.add_argument("--asymmetric", dest="symmetric", action="store_const", const=False, help="an integer zero point per group: uintB (default)")
    command.add_argument("--alpha", type=number_between(0, 2, open_low=True), metavar="A", help="split groups while that shrinks their range below this ratio, in (0, 2] (default: 0.75)")
    command.add_argument("--group-sizes", type=sizes, metavar="LIST", help="group sizes to choose from (default: 64,128,256)")
    command.add_argument("--block", type=block, metavar="N,K", help="this block everywhere instead of a choice, such as 1,64 or 1,-1; -1 is the whole dimension")
    command.add_argument("--scale", choices=SCALES, metavar="TYPE", help="type of the scales: %(choices)s (default: f16)")
    command.add_argument("--rule", choices=RULES, metavar="RULE", help="rule of the scales: %(choices)s (default: minmax with zero points, absmax without)")
    command.add_argument("--statistic", choices=["raw", "gaussian"], metavar="S", help="what is compared with alpha: %(choices)s (default: raw)")
    command.add_argument("--aggregation", choices=["min", "mean"], metavar="A", help="how the rows of a matrix vote: %(choices)s (default: min)")
    command.add_argument("--include", metavar="REGEX", help="only parameters whose name matches")
    command.add_argument("--exclude", metavar="REGEX", help="no parameters whose name matches")
    add_threads(command)

    command = commands.add_parser(
        "recipes", help="list the recipes, or print one", description="Lists the recipes, or prints the file of one, to copy and edit.", epilog="example:\n  quant-llm recipes gptq > my.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(function=run_recipes)
    command.add_argument("recipe", nargs="?", metavar="NAME", help="the recipe to print")

    command = add("info", run_info, "say what a model consists of", "quant-llm info model-int4")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("eval", run_eval, "measure the perplexity of a text", "quant-llm eval model-int4 --text book.txt --json")
    command.description += """ The tokens are those of the model's tokenizer, with the start token that it puts in
front of a text, if any. They are cut into windows that do not overlap; every token of a window but the first is
predicted from those before it in the window, and tokens after the last whole window are dropped."""
    command.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text; - for standard input")
    command.add_argument("--window", type=integer(2), metavar="N", help="tokens per window (default: 1024, or as many as the model is for)")
    command.add_argument("--max-windows", type=positive, metavar="N", help="only the first N windows")
    command.add_argument("--json", action="store_true", help="print JSON with the keys perplexity, tokens, seconds")
    add_run(command)

    command = add("generate", run_generate, "continue a prompt", "quant-llm generate model-int4 --prompt 'Once upon a time' --temperature 0.8 --seed 1")
    command.add_argument("--prompt", required=True, metavar="TEXT", help="the text to continue")
    command.add_argument("--max-tokens", type=positive, default=64, metavar="N", help="at most this many tokens (default: %(default)s)")
    command.add_argument("--temperature", type=number_between(0, 100), default=0.0, metavar="T", help="0 takes the likeliest token (default); higher is more random")
    command.add_argument("--top-k", type=natural, default=0, metavar="K", help="draw among the K likeliest tokens; 0 for all (default)")
    command.add_argument("--top-p", type=number_between(0, 1, open_low=True), default=1.0, metavar="P", help="draw among the likeliest tokens of this probability (default: 1)")
    command.add_argument("--seed", type=natural, default=0, metavar="S", help="the same seed gives the same text (default: %(default)s)")
    add_run(command)

    add_calibrate(add, positive, natural)
    return parser


def join_block(argv):
    """`--block -1,64` as `--block=-1,64`: argparse takes -1,64 for an option."""
    joined = []
    for argument in argv:
        if joined and joined[-1] == "--block" and re.match(r"-\d", argument):
            joined[-1] = f"--block={argument}"
        else:
            joined.append(argument)
    return joined


def main(argv=None):
    """Runs the command and returns its exit status."""
    arguments = make_parser().parse_args(join_block(sys.argv[1:] if argv is None else argv))
    interrupted = getattr(arguments, "interrupted", None)
    if getattr(arguments, "recipe", None) and (getattr(arguments, "text", None) or getattr(arguments, "tokens", None)):
        interrupted = "what was measured so far is kept: the same command goes on"
    return run_command("quant-llm", lambda: name_options(arguments), interrupted)


def name_options(arguments):
    """Runs the subcommand. What the library says of its arguments is said of the
    options that they come from."""
    try:
        arguments.function(arguments)
    except model.ExistsError as error:
        raise QuantLLMError(f"{error} (--force)") from None
    except QuantLLMError as error:
        name = re.match(r"(\w+): ", str(error))
        if name and name[1] != "model" and hasattr(arguments, name[1]):
            raise QuantLLMError(f"--{name[1].replace('_', '-')}{str(error)[name.end() - 2:]}", error.diagnostics) from None
        raise


def run_command(name, function, interrupted=None):
    """Calls the function and returns the exit status; whatever goes wrong becomes
    one message. After a signal nothing is left half-written, `interrupted` is
    said (by default whether anything is complete), and the process ends."""
    outcome, received = [], []

    # The work is done by a second thread, so that the first one can react to an
    # interrupt at once, even in the middle of a long call of the library.
    def work():
        try:
            function()
            say("", end="")
            outcome.append((0, None))
        except QuantLLMError as error:
            outcome.append((2, str(error)))
        except BrokenPipeError:
            outcome.append((128 + signal.SIGPIPE, None))
        except MemoryError:
            outcome.append((1, "out of memory"))
        except OSError as error:
            where = f" '{error.filename}'" if error.filename else ""
            outcome.append((2, f"cannot read or write{where}: {error.strerror or error}"))
        except BaseException as error:
            if os.environ.get("QUANT_LLM_TRACEBACK"):
                traceback.print_exc()
            outcome.append((1, f"internal error: {type(error).__name__}: {error} (QUANT_LLM_TRACEBACK=1 shows where)"))

    # Called in the first thread, which does nothing but wait.
    def interrupt(number, frame):
        if received or outcome:
            return
        received.append(number)
        model.committing.acquire()
        for directory in tuple(model._temporary):
            model.remove_tree(directory)
        what = interrupted or (f"'{model.complete[-1]}' is complete" if model.complete else "nothing was written")
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, f"\n{name}: interrupted, {what}\n".encode(errors="surrogateescape"))
        os._exit(128 + number)

    thread = threading.Thread(target=work, daemon=True)
    # Who starts a program with nohup wants it to survive the terminal.
    signals = [signal.SIGINT, signal.SIGTERM] + [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) != signal.SIG_IGN)
    before = {number: signal.signal(number, interrupt) for number in signals}
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    # There is nothing left to clean up.
    for number in signals:
        signal.signal(number, before[number])
    status, message = outcome[0]
    if message is not None:
        print(f"{name}: error: {message}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        # What is left cannot be written; the interpreter would try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if status == 128 + signal.SIGPIPE:
        # As other programs end whose output nobody reads.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    return status


if __name__ == "__main__":
    sys.exit(main())
