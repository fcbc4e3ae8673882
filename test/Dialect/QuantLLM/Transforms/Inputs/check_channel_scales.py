# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_channel_scales.py DIR: reports and constants of quant-llm-choose-channel-scales in DIR, against the formulas of the
methods, for schemes uint3, block = [1, 4], scale = f32 with an integer zero."""

import json
import os
import re
import sys

import numpy as np
from safetensors.numpy import load_file

directory = sys.argv[1]
path = lambda name: os.path.join(directory, name)
weights = {name: value.astype(np.float64) for name, value in load_file(path("model.safetensors")).items()}
statistics = {name: value.astype(np.float64) for name, value in load_file(path("c.safetensors")).items()}
MLP, DOWN = ["w_up", "w_gate"], ["down"]


def get_statistic(kind, members):
    return statistics[f"{kind}/{members[0]}"]


def quantize(w):
    blocks = w.reshape(len(w), -1, 4)
    low, high = np.minimum(blocks.min(axis=2, keepdims=True), 0), np.maximum(blocks.max(axis=2, keepdims=True), 0)
    scale = (high - low) / 7
    scale[scale == 0] = 1
    zero = np.clip(np.rint(-low / scale), 0, 7)
    return ((np.clip(np.rint(blocks / scale + zero), 0, 7) - zero) * scale).reshape(w.shape)


def get_error(members, scales, relative=False):
    total = 0
    square = lambda a: np.einsum("ni,ij,nj->", a, get_statistic("hessian", members), a)
    for name in members:
        d = quantize(weights[name] * scales) / scales - weights[name]
        total += square(d) / (square(weights[name]) if relative else 1)
    return total


def smooth(members, alpha):
    x = get_statistic("absmax", members)
    w = np.max([np.abs(weights[name]).max(axis=0) for name in members], axis=0)
    with np.errstate(divide="ignore"):
        return np.where((x > 0) & (w > 0), x**alpha / w ** (1 - alpha), 1)


def awq(members, exponent, duo):
    x = get_statistic("absmean", members)
    alive = x > 0
    s = x**exponent
    if duo:
        group = lambda w: np.repeat(np.maximum(np.abs(w).reshape(len(w), -1, 4).max(axis=2), 1e-300), 4, axis=1)
        w = np.mean(np.concatenate([np.abs(weights[name]) / group(weights[name]) for name in members]), axis=0)
        alive &= w > 0
        with np.errstate(divide="ignore"):
            s = s / w ** (1 - exponent)
    s = np.where(alive, s, 1)
    return np.where(alive, s / np.sqrt(s[alive].max() * s[alive].min()), 1)


def read(name):
    report = json.load(open(path(name + ".json")))
    sites = {site["site"]: site for site in report["sites"]}
    assert sites["norm-mlp"]["parameters"] == MLP and sites["norm-mlp"]["dead_channels"] == 1, sites
    text = open(path(name + ".mlir")).read()
    constants = [np.array(json.loads(found)) for found in re.findall(r"arith.constant dense<(\[.*?\])> : tensor<\d+xf64>", text)]
    return report, sites, constants


def close(a, b, tolerance=1e-3):
    assert np.allclose(a, b, rtol=tolerance), (a, b)


report, sites, constants = read("smooth")
assert report["strength"] == 0.75 and len(constants) == 1
close(constants[0], smooth(MLP, 0.75), 1e-6)

report, sites, constants = read("plus")
totals = [get_error(MLP, smooth(MLP, i / 10)) for i in range(11)]
assert report["strength"] == np.argmin(totals) / 10, (report, totals)
close(report["error_after"], min(totals))
close(report["error_before"], get_error(MLP, np.ones(8)))
close(constants[0], smooth(MLP, report["strength"]), 1e-6)

for name, kinds in (("awq", [False]), ("duo", [True]), ("both", [False, True]), ("relative", [False])):
    relative = name == "relative"
    report, sites, constants = read(name)
    assert len(constants) == len(sites) == 2, (name, constants)
    for site, members, found in (("norm-mlp", MLP, constants[0]), ("up-down", DOWN, constants[1])):
        trials = {(i / 20, duo): get_error(members, awq(members, i / 20, duo), relative) for i in range(20) for duo in kinds}
        best = min(trials, key=trials.get)
        entry = sites[site]
        close(entry["error_before"], get_error(members, np.ones(len(found)), relative))
        close(entry["error_after"], trials[best])
        assert (entry["strength"], entry["duo_scaling"]) == best, (name, entry, trials)
        close(found, awq(members, *best), 1e-5)
        assert entry["error_after"] < 0.9 * entry["error_before"], entry
        close([entry["smallest_scale"], entry["largest_scale"]], [found.min(), found.max()], 1e-6)

# Scales that are not searched are there at every site, better or not, and nothing is said of errors.
for name, duo in (("fixed", False), ("fixed-duo", True)):
    report, sites, constants = read(name)
    assert report["strength"] == 0.25 and "error_before" not in report and len(constants) == len(sites) == 2, report
    for site, members, found in (("norm-mlp", MLP, constants[0]), ("up-down", DOWN, constants[1])):
        close(found, awq(members, 0.25, duo), 1e-5)
        assert sites[site]["duo_scaling"] == duo and sites[site]["strength"] == 0.25 and "error_after" not in sites[site], sites[site]
