# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The report of scripts/gpu-check.sh: write_report.py BUNDLE REPORT.md REPORT.json"""

import datetime
import glob
import json
import os
import subprocess
import sys


# The steps that do what the lit tests with REQUIRES: cuda-sm90 do, on cases that were compiled elsewhere.
STEPS_OF_TESTS = {
    "grouped.test": ["grouped-smoke"],
    "linear.test": ["layers-smoke", "verify", "kernels-wide", "kernels-random-30-2"],
    "overlap.test": ["overlap"],
    "torch.test": ["torch"],
}


def tests_of_suite(directory, steps):
    """[(lit test that needs a GPU, what became of it, its steps)]."""
    results = {step["name"]: step["result"] for step in steps}
    tests = []
    for path in sorted(glob.glob(os.path.join(directory, "*.test"))):
        if "REQUIRES: cuda" not in read(path, ""):
            continue
        name = os.path.basename(path)
        needed = STEPS_OF_TESTS.get(name, [])
        missing = [step for step in needed if step not in results]
        passed = bool(needed) and not missing and all(results[step] == "passed" for step in needed)
        tests.append({"test": name, "result": "passed" if passed else "not run" if missing or not needed else "failed", "steps": needed})
    return tests


def command(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def read(path, otherwise):
    if not os.path.exists(path):
        return otherwise
    with open(path) as file:
        return file.read()


def summarize(path):
    with open(path) as file:
        records = json.load(file)
    compared = [record for record in records if "rel_error" in record]
    ratios = sorted(record["rel_error"] / max(record["dense_error"], 1e-12) for record in compared)
    failed = [record for record in records if not record["passed"]]
    summary = {"cases": len(records), "failed": len(failed), "failures": failed[:50]}
    overlap = [record["overlap"] for record in records if record.get("overlap")]
    summary["overlap"] = {"cases": len(overlap), "stale_inputs_show": sum(inputs for inputs, _ in overlap), "stale_results_show": sum(results for _, results in overlap)}
    if compared:
        summary.update({"median_error_ratio": ratios[len(ratios) // 2], "largest_error_ratio": ratios[-1], "elements_compared": sum(record["m"] * record.get("n", 0) for record in compared)})
        summary["kernels"] = len({(record["case"], record.get("kernel")) for record in compared})
    return summary


def speed(records):
    """The table of what quant-bench timed."""
    columns = ("N x K", "M", "us", "plain us", "read limit us", "cuBLAS us", "faster", "plainly", "TFLOP/s", "error")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for record in records:
        if "us" not in record:
            continue
        cublas = record["cublas_us"]
        times = [record["us"], record["us_plain"], record["read_limit_us"]] + ([] if cublas is None else [cublas, cublas / record["us"], cublas / record["us_plain"]])
        cells = [f"{time:.2f}" for time in times] + ["-"] * (6 - len(times))
        lines.append(f"| {record['n']} x {record['k']} | {record['m']} | {' | '.join(cells)} | {record['tflops']:.1f} | {record['rel_error']:.2e} |")
    text = (
        "Microseconds, medians. us: launches that may start while the one before ends, as the runtime launches layers whose weights it holds. Plain us: each launch starts when the one before has ended, "
        "as those of cuBLAS and of the read limit do. Faster is the time of cuBLAS divided by us, plainly the same divided by plain us."
    )
    return ["## Speed", "", text, "", *lines]


def main(bundle, markdown, data):
    import torch

    log = os.path.join(bundle, "log")
    matrices = {}
    for path in sorted(glob.glob(os.path.join(log, "layers-*.json")) + glob.glob(os.path.join(log, "kernels-*.json")) + glob.glob(os.path.join(log, "grouped-*.json"))):
        matrices[os.path.splitext(os.path.basename(path))[0]] = summarize(path)
    steps = read(os.path.join(log, "steps"), "")
    report = {
        "schema": "quant_llm.gpu_check/1",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": read(os.path.join(bundle, "commit"), "unknown").strip(),
        "gpu": command("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        "torch": torch.__version__,
        "steps": [dict(zip(("name", "result", "time", "last_line"), (cell.strip(" *") for cell in line.strip().strip("|").split("|")))) for line in steps.splitlines()],
        "matrices": matrices,
        # Without the directories of one machine.
        "bench": [{**record, "artifact": os.path.relpath(record["artifact"], bundle)} for record in json.loads(read(os.path.join(log, "bench.json"), "[]"))],
    }
    report["tests"] = tests_of_suite(os.path.join(bundle, "checks"), report["steps"])
    with open(data, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    lines = [
        "# GPU check",
        "",
        f"Written by scripts/gpu-check.sh on {report['date']}, for the commit {report['commit']}. Everything is relative to this machine:",
        "",
        "```",
        report["gpu"],
        f"PyTorch {report['torch']}",
        "```",
        "",
        "| step | result | time | last line |",
        "|---|---|---|---|",
        steps.rstrip(),
        "",
        "## Tests of the suite that need a GPU",
        "",
        "What the lit tests of test/Integration/CUDA with `REQUIRES: cuda-sm90` run is what these steps run, on cases that were compiled where the compiler is. pytest has none of its own: `check_torch.py` is the step torch.",
        "",
        "| test | result | steps |",
        "|---|---|---|",
        *(f"| {test['test']} | {test['result']} | {', '.join(test['steps'])} |" for test in report["tests"]),
        "",
        "## Numbers",
        "",
        "Relative Frobenius error against float64, divided by that of the dense product in the activation type; at most 2, but for results of fewer than 1024 elements, where the ratio is a matter of chance: they may also have four times what rounding gives on average.",
        "",
        "| matrix | kernels | cases | failed | median | largest |",
        "|---|---|---|---|---|---|",
    ]
    for name, summary in matrices.items():
        numbers = [f"{summary[key]:.2f}" if key in summary else "-" for key in ("median_error_ratio", "largest_error_ratio")]
        lines.append(f"| {name} | {summary.get('kernels', '-')} | {summary['cases']} | {summary['failed']} | {numbers[0]} | {numbers[1]} |")
    overlap = {key: sum(summary["overlap"][key] for summary in matrices.values()) for key in ("cases", "stale_inputs_show", "stale_results_show")}
    lines += [
        "",
        f"{overlap['cases']} cases were launched one right after the other, too, with two inputs in turn. A launch that does not wait for what writes its inputs gives other results in "
        f"{overlap['stale_inputs_show']} of them, one that does not wait for the launch before, whose result it reads, in {overlap['stale_results_show']}.",
    ]
    failures = [(name, record) for name, summary in matrices.items() for record in summary["failures"][:20]]
    lines += [""] if failures else []
    for name, record in failures:
        shape = f" {record['n']}x{record['k']} m={record['m']} {record['scheme']}" if "n" in record else ""
        lines.append(f"* {name}: {record['case']}{shape}: {'; '.join(record['failures'])}")
    if report["bench"]:
        lines += ["", *speed(report["bench"])]
    text = "\n".join(lines).rstrip() + "\n"
    with open(markdown, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
