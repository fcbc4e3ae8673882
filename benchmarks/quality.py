#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Perplexity against bits per weight of all recipes and of other packages: measures, plots, writes the table.

  quality.py MODEL --calibration-text FILE --text NAME=FILE[:WINDOWS]... --output DIR [--entries FILE.json] [--only REGEX]
             [--seeds 0,1] [--samples 128] [--length 512] [--device cpu|cuda] [--jobs 1] [--threads N] [--peer-python PYTHON]
             [--keep-older] [--results PAGE.md]

MODEL is anything that quant-llm reads; for other packages it has to be a Hugging Face directory. What is measured
is in quality_entries.json: recipes, with their options and widths, and methods of other packages (quality_peers.py),
which PYTHON runs and which are skipped, with the reason, if it has not got them. All of them are calibrated on the
same tokens. quality_judge.py has the perplexities: our models through the PyTorch source that the project prints,
those of others through Transformers, the original through both.

Each measurement is kept in DIR/entries, so that the same command goes on where it was interrupted, and another
--only or a longer list adds to it. What another build of the project measured is measured again, as is what another
version of the scripts measured; with --keep-older it stays, and the table marks it. DIR then has quality.json (all there is to know), quality.svg and quality.md; the
table takes the place of what is between the marks `quality.py` of PAGE.md. A text ending in .tokens or .tokens.txt
is one of WikiText's files: its cut into words is undone.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import re
import sys

import measured_process
import numpy as np
import quant_llm
from quant_llm import QuantLLMError, __version__, cli, model as models, recipe as recipes

HERE = os.path.dirname(os.path.abspath(__file__))
SCHEMA = "quant_llm.quality/1"
SKIPPED = 3  # the status of quality_peers.py for a package that is not installed
BEGIN, END = "<!-- quality.py: begin -->", "<!-- quality.py: end -->"
KEYS = {"name", "group", "recipe", "peer", "bits", "element", "group_size", "options", "token_weights"}


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration-text", required=True, metavar="FILE")
    parser.add_argument("--text", required=True, action="append", type=text_argument, metavar="NAME=FILE[:WINDOWS]", help="what perplexities are of")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--entries", default=os.path.join(HERE, "quality_entries.json"), metavar="FILE.json")
    parser.add_argument("--only", default="", metavar="REGEX", help="of names of measurements, such as gptq-w3-s1")
    parser.add_argument("--seeds", default="0,1", help="of the calibration sample (default: %(default)s)")
    parser.add_argument("--samples", type=cli.positive, default=128)
    parser.add_argument("--length", type=cli.positive, default=512)
    parser.add_argument("--group", type=cli.positive, default=64, help="inputs that share a scale (default: %(default)s)")
    parser.add_argument("--width", type=cli.positive, default=1024, help="tokens of a window (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=cli.positive, default=1, help="measurements at a time; their seconds then say little")
    parser.add_argument("--threads", type=cli.positive, default=None, help="of each of them")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--keep-older", action="store_true", help="keep what another build of the project, or other scripts, measured")
    parser.add_argument("--results", metavar="PAGE.md")
    arguments = parser.parse_args(arguments)
    try:
        arguments.seeds = [cli.natural(seed) for seed in arguments.seeds.split(",") if seed]
        arguments.only = re.compile(arguments.only)
    except (argparse.ArgumentTypeError, re.error) as error:
        parser.error(str(error))
    if not arguments.seeds or len({name for name, _, _ in arguments.text}) != len(arguments.text):
        parser.error("expected a seed at least, and texts of different names")
    return arguments


def text_argument(text):
    match = re.fullmatch(r"([A-Za-z][\w-]*)=(.+?)(?::(\d+))?", text)
    if not match or match[3] == "0":
        raise argparse.ArgumentTypeError(f"expected NAME=FILE[:WINDOWS] but got '{text}'")
    return match[1], match[2], int(match[3] or 48)


# ---------------------------------------------------------------------------
# Texts
# ---------------------------------------------------------------------------


def read_text(path):
    text = cli.read_text(path)
    if path.endswith((".tokens", ".tokens.txt")):
        lines = (line.strip() for line in text.split("\n"))
        text = "\n\n".join(undo_words(line) for line in lines if line)
    return text


def undo_words(line):
    """A line of WikiText as it was before it was cut into words; '<unk>' stays."""
    for mark in "-,.":
        line = line.replace(f" @{mark}@ ", mark)
    line = re.sub(r" '(s|t|re|ve|m|ll|d|S|T)\b", r"'\1", line)
    line = re.sub(r" ([:;.,!?%])(?= |$)", r"\1", line)
    line = re.sub(r"([$£€]) (?=\d)", r"\1", line)
    line = re.sub(r"([\(\[]) ", r"\1", line)
    line = re.sub(r" ([\)\]])", r"\1", line)
    line = re.sub(r'" ([^"]*?) "', r'"\1"', line)
    line = re.sub(r"(?<=s) '(?= )", "'", line)
    line = re.sub(r"(?<= )' ([^']*?) '(?= |$|[.,;:!?])", r"'\1'", line)
    line = re.sub(r" ([:;.,!?])(?= |$|\")", r"\1", line)
    line = re.sub(r"(\d) – (?=\d)", r"\1–", line)
    line = line.replace(" / ", "/").replace(" ° ", "° ")
    heading = re.match(r"^((?:= )+)(.*?)((?: =)+)$", line)
    return f"{heading[1].replace(' ', '')} {heading[2]} {heading[3].replace(' ', '')}" if heading else line


# ---------------------------------------------------------------------------
# The list
# ---------------------------------------------------------------------------


def read_entries(path):
    """(bars, entries) of a list. Raises QuantLLMError."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if data["schema"] != SCHEMA:
            raise ValueError(f"expected the schema {SCHEMA} but got {data['schema']}")
        for entry in data["entries"]:
            if not isinstance(entry["name"], str) or not isinstance(entry["group"], str) or ("recipe" in entry) == ("peer" in entry):
                raise ValueError(f"expected a name, a group and either a recipe or a peer but got {json.dumps(entry)}")
            if unknown := set(entry) - KEYS:
                raise ValueError(f"{entry['name']}: expected keys among {', '.join(sorted(KEYS))} but got {', '.join(sorted(unknown))}")
            if "recipe" in entry:
                recipes.load(entry["recipe"])
        return data.get("bars", []), data["entries"]
    except OSError as error:
        raise QuantLLMError(f"cannot read '{path}': {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise QuantLLMError(f"'{path}' is no list of measurements: {f'expected the key {error}' if isinstance(error, KeyError) else error}") from None


def expand(entries, arguments):
    """One dict for each measurement: of every width and, where data is sampled, of
    every seed."""
    measurements = [{"id": "original", "name": "original", "group": "original", "bits": None, "seed": None}]
    for entry in entries:
        for bits in entry.get("bits", [None]):
            sampled = entry["peer"] != "hqq" if "peer" in entry else recipes.load(entry["recipe"]).calibration is not None
            for seed in arguments.seeds if sampled else [None]:
                name = re.sub(r"[^\w.-]+", "-", entry["name"]).strip("-").lower()
                id = name + ("" if bits is None else f"-w{bits}") + ("" if seed is None else f"-s{seed}")
                measurements.append({**entry, "id": id, "bits": bits, "seed": seed})
    ids = [one["id"] for one in measurements]
    if double := {id for id in ids if ids.count(id) > 1}:
        raise QuantLLMError(f"expected different names of measurements but got {', '.join(sorted(double))} more than once")
    return [one for one in measurements if arguments.only.search(one["id"])]


# ---------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------


class Benchmark:
    def __init__(self, arguments):
        self.arguments = arguments
        self.directory = os.path.abspath(arguments.output)
        self.environment = dict(os.environ, **({"OMP_NUM_THREADS": str(arguments.threads)} if arguments.threads else {}))
        self.machine = describe_machine(arguments.device, arguments.jobs)
        self.codes = {peer: digest_code(peer) for peer in (False, True)}
        for name in ("entries", "calibration", "work"):
            os.makedirs(os.path.join(self.directory, name), exist_ok=True)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def run(self, command):
        """Runs a program; its last line of output, and what it took."""
        return measured_process.run(command, environment=self.environment)

    def describe(self, command):
        """The command without names that only this machine has."""
        names = [(self.directory + os.sep, ""), (os.path.abspath(self.arguments.model), "MODEL"), (self.arguments.model, "MODEL"), (HERE + os.sep, "benchmarks/")]
        words = ["python", *map(str, command[1:])]
        for old, new in names:
            words = [word.replace(old, new) for word in words]
        return " ".join(words)

    # Tokens ---------------------------------------------------------------

    def tokenize(self):
        """Tokens of the texts as files, the same for all."""
        from quant_llm.calibration import sample_tokens  # needs PyTorch, which --help does not

        arguments = self.arguments
        tokenizer = models.find_tokenizer(arguments.model)
        self.texts, self.digests = {}, {}
        for name, path, windows in arguments.text:
            tokens = tokenizer.encode(read_text(path), special_tokens=False)
            if len(tokens) < arguments.width:
                raise QuantLLMError(f"'{path}': expected at least one window of {arguments.width} tokens but it has {len(tokens)}")
            self.texts[name] = f"{name}={self.save(f'text-{name}.npy', tokens)}:{windows}"
            self.digests[name] = [hashlib.sha256(np.asarray(tokens, "<i8").tobytes()).hexdigest(), windows, arguments.width]
        tokens = tokenizer.encode(read_text(arguments.calibration_text), special_tokens=False)
        self.samples = {}
        for seed in arguments.seeds:
            rows = sample_tokens(tokens, samples=arguments.samples, length=arguments.length, seed=seed)
            self.samples[seed] = self.save(f"sample-s{seed}.npy", rows)
            self.digests[seed] = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()

    def save(self, name, tokens):
        path = self.path("calibration", name)
        with open(path + ".new", "wb") as file:
            np.save(file, np.asarray(tokens, np.int64))
        os.replace(path + ".new", path)
        return path

    # Calibration files -------------------------------------------------------

    def plan_calibrations(self, measurements):
        """{file: (key, statistics)}: one file for all recipes that ask for the same
        tokens and weights of them."""
        plan = {}
        for one in measurements:
            if "recipe" in one and (recipe := recipes.load(one["recipe"])).needs_calibration:
                wanted = recipe.calibration
                weights = one.get("token_weights", wanted.token_weights)
                key = (wanted.tokens, weights, wanted.dtype, one["seed"])
                name = f"{wanted.tokens}-{weights or 'none'}-{wanted.dtype}-s{one['seed']}"
                one["calibration"] = self.path("calibration", name + ".safetensors")
                plan.setdefault(one["calibration"], (key, set()))[1].update(wanted.statistics)
        return plan

    def calibrate(self, path, key, statistics):
        """Makes a calibration file, unless there is one with all that is asked for;
        what it took."""
        tokens, weights, dtype, seed = key
        wanted = {"statistics": sorted(statistics), "digest": self.digests[seed] if tokens == "text" else [self.arguments.samples, self.arguments.length, seed], "code": self.codes[False]}
        record = read_json(path + ".json")
        same = record and all(record["wanted"].get(name) == wanted[name] for name in ("digest", *([] if self.arguments.keep_older else ["code"])))
        if same and set(record["wanted"]["statistics"]) >= statistics and os.path.exists(path):
            return record
        command = [sys.executable, "-m", "quant_llm", "calibrate", self.arguments.model, "-o", path, "--statistics", ",".join(wanted["statistics"])]
        command += ["--seed", str(seed), "--dtype", dtype, "--device", self.arguments.device]
        command += ["--tokens", self.samples[seed]] if tokens == "text" else ["--random-tokens", "--samples", str(self.arguments.samples), "--length", str(self.arguments.length)]
        command += ["--token-weights", weights] if weights else []
        _, took = self.run(command)
        record = {"wanted": wanted, "command": self.describe(command), **took}
        write_json(path + ".json", record)
        return record

    # Measurements --------------------------------------------------------------

    def configure(self, one):
        """What a kept result depends on."""
        keys = ("recipe", "peer", "bits", "seed", "element", "group_size", "options", "token_weights")
        configuration = {key: one[key] for key in keys if one.get(key) is not None or (key == "token_weights" and key in one)}
        configuration["texts"] = {name: self.digests[name] for name in self.texts}
        configuration["group"] = self.arguments.group
        if one["seed"] is not None:
            configuration["sample"] = self.digests[one["seed"]]
        if "recipe" in one:
            configuration["recipe_digest"] = digest_recipe(recipes.load(one["recipe"]))
        configuration["code"] = self.codes["peer" in one]
        return configuration

    def get_kept(self, one):
        """The record of an earlier run that still holds, or None. One of another build,
        where these are kept, has "older" set."""
        record = read_json(self.path("entries", one["id"] + ".json"))
        if not record:
            return None
        configuration, found = self.configure(one), record.get("configuration", {})
        if found == configuration:
            return record
        without_code = lambda values: {name: value for name, value in values.items() if name != "code"}
        if self.arguments.keep_older and "perplexity" in record and without_code(found) == without_code(configuration):
            return {**record, "older": True}
        return None

    def measure(self, one, calibrations):
        """The record of a measurement, which may be a kept one."""
        path = self.path("entries", one["id"] + ".json")
        configuration = self.configure(one)
        kept = self.get_kept(one)
        if kept and "perplexity" in kept:
            return kept
        record = {"id": one["id"], "name": one["name"], "group": one["group"], "bits": one["bits"], "seed": one["seed"], "configuration": configuration, "machine": self.machine}
        work = self.path("work", one["id"])
        # What a killed run left may be of another build.
        self.remove_work(work)
        try:
            if "recipe" in one:
                if "calibration" in one:
                    record["calibration"] = {key: value for key, value in calibrations[one["calibration"]].result().items() if key != "wanted"}
                judged = self.quantize(one, work, record)
            elif "peer" in one:
                judged = self.run_peer(one, work + ".safetensors", record)
            else:
                judged = [self.arguments.model]
                record["bits_per_weight"] = 16.0
            self.judge(judged, record)
            if one["id"] == "original" and models.classify(self.arguments.model) == "huggingface":
                record["transformers"] = self.judge([self.arguments.model, "--transformers"], {})["perplexity"]
        except measured_process.Failed as error:
            record["skipped" if "peer" in one and error.status == SKIPPED else "error"] = str(error)
        finally:
            self.remove_work(work)
        write_json(path, record)
        return record

    @staticmethod
    def remove_work(work):
        if os.path.isdir(work):
            models.remove_tree(work)
        for rest in (work + ".safetensors", work + ".behind.safetensors"):
            if os.path.exists(rest):
                os.remove(rest)

    def quantize(self, one, work, record):
        recipe = recipes.load(one["recipe"])
        options = recipe.options
        settings = dict(one.get("options", {}))
        if "element" in one:
            settings["element"] = one["element"].format(bits=one["bits"])
        # A recipe whose groups are whole rows keeps them.
        if "group" in options and "group" not in settings and ("group_size" in one or options["group"].default > 0):
            settings["group"] = one.get("group_size", self.arguments.group)
        command = [sys.executable, "-m", "quant_llm", "quantize", self.arguments.model, "-o", work, "--force", "--recipe", one["recipe"]]
        if "element" not in settings and one["bits"] is not None:
            command += ["--bits", str(one["bits"])]
        for name, value in settings.items():
            command += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
        command += ["--threads", str(self.arguments.threads)] if self.arguments.threads and "threads" in options else []
        command += ["--calibration", one["calibration"]] if "calibration" in one else []
        command += ["--tokens", self.samples[one["seed"]], "--device", self.arguments.device] if recipe.is_behind else []
        _, took = self.run(command)
        with open(os.path.join(work, "report.json"), encoding="utf-8") as file:
            totals = json.load(file)["totals"]
        record["bits_per_weight"] = totals["bits_per_weight"]
        if order := count_order(os.path.join(work, "model.mlir")):
            record["bits_of_codes_and_scales"] = totals["bits_per_weight"]
            record["bits_per_weight"] += 8 * order / totals["weights"]
        record["quantization"] = {"command": self.describe(command), **took}
        return [work]

    def run_peer(self, one, weights, record):
        # A sample is read by every method, also where it makes no use of one.
        tokens = self.samples[self.arguments.seeds[0] if one["seed"] is None else one["seed"]]
        command = [self.arguments.peer_python, os.path.join(HERE, "quality_peers.py"), one["peer"], self.arguments.model, "--tokens", tokens, "--output", weights]
        command += ["--bits", str(one["bits"]), "--group", str(one.get("group_size", self.arguments.group)), "--device", self.arguments.device]
        line, took = self.run(command)
        report = json.loads(line)
        record["bits_per_weight"] = report["bits_per_weight"]
        record["quantization"] = {"command": self.describe(command), **took, "versions": report["versions"], "device_peak_mib": report["device_peak_mib"]}
        return [self.arguments.model, "--transformers", "--weights", weights]

    def judge(self, judged, record):
        command = [sys.executable, os.path.join(HERE, "quality_judge.py"), *judged, "--tokens", *self.texts.values(), "--width", str(self.arguments.width), "--device", self.arguments.device]
        line, took = self.run(command)
        record.update(json.loads(line))
        record["evaluation"] = {"command": self.describe(command), **took}
        return record

    def measure_all(self, measurements):
        """The records, in the order of the list."""
        plan = self.plan_calibrations(measurements)
        with concurrent.futures.ThreadPoolExecutor(self.arguments.jobs) as pool:
            # First in the queue, so that nothing waits for what has not begun.
            calibrations = {path: pool.submit(self.calibrate, path, *wanted) for path, wanted in plan.items()}
            tasks = {pool.submit(self.measure, one, calibrations): one for one in measurements}
            for task in concurrent.futures.as_completed(tasks):
                print(describe_record(task.result()), flush=True)
        return [task.result() for task in tasks]


def count_order(path):
    """Bytes of the constants by which outputs of split weights are put in order."""
    with open(path, encoding="utf-8") as file:
        return sum(int(n) * int(bits) // 8 for n, bits in re.findall(r"quant_llm\.permute_channels .*, tensor<(\d+)xi(\d+)>", file.read()))


def digest_recipe(recipe):
    """Of what it does, and not of its comments."""
    lines = (line.partition("#")[0] for line in recipe.pipeline.splitlines())
    defaults = {name: option.default for name, option in recipe.options.items()}
    what = [" ".join(" ".join(lines).split()), defaults, dataclasses.asdict(recipe.calibration) if recipe.calibration else None]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def digest_code(peer):
    """Of all that a result of ours, or of another package, comes from: scripts, and for
    ours the Python package and the libraries of the project that are loaded."""
    files = [os.path.join(HERE, name) for name in (["quality_judge.py", "quality_peers.py"] if peer else ["quality_judge.py"])]
    if not peer:
        root = os.path.dirname(os.path.abspath(quant_llm.__file__))
        for directory, _, names in os.walk(root):
            files += [os.path.join(directory, name) for name in names if name.endswith(".py") or ".so" in name]
        with open("/proc/self/maps", encoding="utf-8") as file:
            files += {line.split()[-1] for line in file if "libQuantLLM" in line}
    # A library may be in the package and loaded, and the order of files is that of the disk.
    digests = {}
    for path in sorted(set(map(os.path.realpath, files))):
        with open(path, "rb") as file:
            digests[os.path.basename(path), hashlib.sha256(file.read()).hexdigest()] = None
    return hashlib.sha256(json.dumps(sorted(digests)).encode()).hexdigest()


def describe_record(record):
    if "perplexity" in record:
        return f"{record['id']}: {record['bits_per_weight']:.3f} bits, " + ", ".join(f"{name} {value:.3f}" for name, value in record["perplexity"].items())
    return f"{record['id']}: " + (f"skipped: {record['skipped']}" if "skipped" in record else f"failed: {record['error']}")


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_text(path, text):
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def write_json(path, data):
    write_text(path, json.dumps(data, indent=1) + "\n")


# ---------------------------------------------------------------------------
# What comes of it
# ---------------------------------------------------------------------------


def summarize(records):
    """One row for each method and width, over its seeds: dicts with name, group, bits,
    bits_per_weight, perplexity {text: [values]}, seconds, peak_mib."""
    rows = {}
    for record in records:
        if "perplexity" not in record:
            continue
        row = rows.setdefault((record["group"], record["name"], record["bits"]), {"name": record["name"], "group": record["group"], "bits": record["bits"], "perplexity": {}, "records": []})
        row["bits_per_weight"] = record["bits_per_weight"]
        row["records"].append(record)
        for name, value in record["perplexity"].items():
            row["perplexity"].setdefault(name, []).append(value)
    return list(rows.values())


def resolve_bars(bars, rows):
    """Bars with perplexities: one that is a part of another row's has the mean of its
    seeds, and is left out where that row is not there."""
    result = []
    for bar in bars:
        if "perplexity" not in bar:
            name, bits, part = (bar["part_of"][key] for key in ("name", "bits", "part"))
            found = next((row for row in rows if (row["name"], row["bits"]) == (name, bits)), None)
            if not found:
                continue
            bar = {**bar, "perplexity": {text: part * sum(values) / len(values) for text, values in found["perplexity"].items()}}
        result.append(bar)
    return result


def render_table(records, bars):
    rows = summarize(records)
    texts = list(dict.fromkeys(name for row in rows for name in row["perplexity"]))
    lines = ["| method | bits per weight | " + " | ".join(texts) + " | seconds | MiB |", "|---|---|" + "---|" * (len(texts) + 2)]
    order = {group: at for at, group in enumerate(dict.fromkeys(row["group"] for row in rows))}
    for row in sorted(rows, key=lambda row: (order[row["group"]], -(row["bits"] or 0))):
        cells = [" / ".join(f"{value:.2f}" for value in row["perplexity"].get(name, [])) for name in texts]
        steps = [step for record in row["records"] for step in (record.get("calibration"), record.get("quantization")) if step]
        # What was measured by hand has no times.
        timed = sum(any(name in record for name in ("calibration", "quantization")) for record in row["records"])
        seconds = sum(step["seconds"] for step in steps) / max(timed, 1)
        peaks = [step["peak_mib"] for step in steps if "peak_mib" in step]
        cells += [f"{seconds:.0f}" if steps else "", f"{max(peaks):.0f}" if peaks else ""]
        width = "" if row["bits"] is None else f", {row['bits']} bits"
        mark = " †" if any(record.get("older") for record in row["records"]) else ""
        title = (f"{row['group']}: {row['name']}" if row["name"] != row["group"] else row["name"]) + width + mark
        lines.append(f"| {title} | {row['bits_per_weight']:.3f} | {' | '.join(cells)} |")
    lines += ["", "Two values are those of two seeds of the calibration sample. Seconds are those of calibration and quantization together, MiB the larger peak of the two."]
    if any(record.get("older") for record in records if "perplexity" in record):
        lines[-1] += " †: a value of it at least is by an earlier build of the project, or earlier scripts."
    met = []
    for bar in resolve_bars(bars, rows):
        best = [row for row in rows if row["group"] == bar["group"] and row["bits"] == bar["bits"] and row["bits_per_weight"] <= bar["bits_per_weight"] and all("recipe" in record["configuration"] for record in row["records"])]
        best = [row for row in best if set(bar["perplexity"]) <= set(row["perplexity"])]
        wanted = " / ".join(f"{value:g}" if "part_of" not in bar else f"{value:.2f}" for value in bar["perplexity"].values())
        width = "" if bar["bits"] is None else f", {bar['bits']} bits"
        title = f"{bar['group']}{width}, at most {bar['bits_per_weight']:g} bits in all"
        if other := bar.get("part_of"):
            title += f", {100 * (1 - other['part']):.0f} % below {other['name']} with {other['bits']} bits"
        if best:
            excess = lambda row: max(max(row["perplexity"][name]) / value for name, value in bar["perplexity"].items())
            row = min(best, key=excess)
            verdict = "met" if excess(row) <= 1 else f"missed by {100 * (excess(row) - 1):.1f} %"
            reached = " / ".join(f"{max(row['perplexity'][name]):.2f}" for name in bar["perplexity"])
            met.append(f"| {title} | {wanted} | {row['name']}: {reached} | {verdict} |")
    if met:
        lines += ["", "| bar | " + " / ".join(texts) + " | best recipe, its worse seed | |", "|---|---|---|---|", *met]
    skipped = [record for record in records if "skipped" in record or "error" in record]
    if skipped:
        lines += ["", "Not measured:", *(f"* {describe_record(record)}" for record in skipped)]
    return "\n".join(lines) + "\n"


def plot(records):
    """An SVG with one panel for each text."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "quant-llm"  # the same points give the same bytes
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    rows = summarize(records)
    original = next((row for row in rows if row["group"] == "original"), None)
    texts = list(dict.fromkeys(name for row in rows for name in row["perplexity"]))
    figure, panels = plt.subplots(1, len(texts), figsize=(7 * len(texts), 6), squeeze=False)
    names = list(dict.fromkeys(row["name"] for row in rows if row["group"] != "original"))
    for text, axes in zip(texts, panels[0]):
        limit = 6 * min(row["perplexity"][text][0] for row in rows if text in row["perplexity"])
        beyond = []
        for at, name in enumerate(names):
            chosen = sorted((row for row in rows if row["name"] == name and text in row["perplexity"]), key=lambda row: row["bits_per_weight"])
            points = [(row["bits_per_weight"], value) for row in chosen for value in row["perplexity"][text]]
            shown = [point for point in points if point[1] <= limit]
            if len(shown) < len(points):
                beyond.append(name)
            peer = any("peer" in record["configuration"] for row in chosen for record in row["records"])
            axes.plot(*(zip(*shown) if shown else ((), ())), "x" if peer else "o", color=f"C{at % 10}", markersize=8 if peer else 5, label=name, fillstyle="full" if at < 10 else "none")
        if original and text in original["perplexity"]:
            axes.axhline(original["perplexity"][text][0], color="grey", linewidth=1, linestyle="--", label="original")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.set_xlabel("bits per weight, scales and zeros included")
        axes.set_ylabel("perplexity")
        axes.set_title(text + (f" (beyond the upper edge: {', '.join(beyond)})" if beyond else ""), fontsize=8)
        axes.grid(alpha=0.3, which="both")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "".join(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())


def put_between_marks(page, table):
    """The page with the table between its marks. Raises QuantLLMError."""
    text = cli.read_text(page)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise QuantLLMError(f"'{page}': expected the lines '{BEGIN}' and '{END}', once and in this order")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{table}{text[text.index(END) :]}"


def describe_machine(device, jobs):
    import torch
    import transformers

    record = {"quant_llm": __version__, "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
    record.update(cpus=len(os.sched_getaffinity(0)), jobs=jobs)
    if device.startswith("cuda"):
        record["device"] = torch.cuda.get_device_name(device)
    return record


def main(arguments):
    bars, entries = read_entries(arguments.entries)
    measurements = expand(entries, arguments)
    if not measurements:
        raise QuantLLMError("expected measurements whose name --only finds, but there are none")
    if arguments.results:
        put_between_marks(arguments.results, "")  # now, and not after hours
    benchmark = Benchmark(arguments)
    benchmark.tokenize()
    records = benchmark.measure_all(measurements)
    # With --only, results of other runs that still hold belong to the table, too.
    by_id = {record["id"]: record for record in records}
    everything = argparse.Namespace(**{**vars(arguments), "only": re.compile("")})
    merged = []
    for one in expand(entries, everything):
        if record := by_id.get(one["id"]) or benchmark.get_kept(one):
            merged.append(record)
    write_json(
        benchmark.path("quality.json"),
        {
            "schema": SCHEMA, "model": os.path.basename(os.path.abspath(arguments.model)), "samples": arguments.samples, "length": arguments.length, "group": arguments.group,
            "bars": bars, "entries": merged,
        },
    )
    table = render_table(merged, bars)
    write_text(benchmark.path("quality.md"), table)
    if any("perplexity" in record for record in merged):
        try:
            write_text(benchmark.path("quality.svg"), plot(merged))
        except ImportError:
            print("quality.py: warning: no plot: expected the package matplotlib; pip install matplotlib", file=sys.stderr)
    if arguments.results:
        write_text(arguments.results, put_between_marks(arguments.results, table))
    failed = [record["id"] for record in records if "error" in record]
    if failed:
        raise QuantLLMError(f"{len(failed)} of {len(records)} measurements failed: {', '.join(failed)}; the same command tries them again")


if __name__ == "__main__":
    parsed = parse()
    sys.exit(cli.run_command("quality.py", lambda: main(parsed), "the same command goes on"))
