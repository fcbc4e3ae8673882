# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Times CPU kernels of quant_llm in turns with torch's f32 linear.

usage: kernels.py LIBRARY [--seconds S] [--threads 1,2] [CASE ...]

LIBRARY is libQuantKernelBench.so (ninja QuantKernelBench); a case is a list of
options of quant-kernel-bench with m=..., by default those of docs/Results.
Each line is the best time of many short turns, torch and the kernel alternating,
and the median, smallest and largest ratio over the turns.
"""

import argparse
import ctypes
import statistics
import time

import torch

LAYERS = ["n=576 k=576", "n=192 k=576", "n=1536 k=576", "n=576 k=1536", "n=4096 k=4096"]
CASES = (
    [f"{layer} elements=int4 block=1,64 m=512" for layer in LAYERS]
    + [f"{layer} elements=f16 m=512" for layer in LAYERS[:4]]
    + [f"{layer} elements=int4 block=1,{g} m=1" for layer in LAYERS for g in (64, -1)]
    + [f"n=1536 k=576 elements={e} block=1,64 m=1"
       for e in ("uint4", "int2", "int3", "int5", "int6", "int8", "nf4", "f4E2M1FN",
                 "f8E4M3FN", "f16")]
    + ["n=1536 k=576 elements=int4 block=1,32 m=1",
       "n=1536 k=576 elements=int4 block=1,128 m=1",
       "n=1536 k=576 elements=uint4 block=1,64 zero=int m=1"]
    + [f"n=1536 k=576 elements=int4 block=1,64 m={m}" for m in (2, 4, 8, 16, 32, 64)]
    + ["n=49152 k=576 elements=f16 m=1"]
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_intermixed_args()
    library = ctypes.CDLL(arguments.library)
    library.quantKernelCreate.restype = ctypes.c_void_p
    library.quantKernelCheck.restype = ctypes.c_double
    library.quantKernelSeconds.restype = ctypes.c_double
    library.quantKernelBytes.restype = ctypes.c_int64

    for case in arguments.cases or CASES:
        options = dict(part.split("=", 1) for part in case.split())
        n, k, m = int(options["n"]), int(options["k"]), int(options["m"])
        kernel = library.quantKernelCreate(f"{case} cold=1".encode())
        if not kernel:
            raise SystemExit(f"cannot make a kernel of: {case}")
        kernel = ctypes.c_void_p(kernel)
        weight, x = torch.empty(n, k), torch.randn(m, k)
        y = torch.empty(m, n)
        library.quantKernelWeight(kernel, ctypes.c_void_p(weight.data_ptr()))
        run = library.quantKernelRun
        pointers = (kernel, ctypes.c_int64(m), ctypes.c_void_p(x.data_ptr()),
                    ctypes.c_void_p(y.data_ptr()), ctypes.c_int64(0))
        run(*pointers)
        expected = torch.nn.functional.linear(x.double(), weight.double())
        error = ((y.double() - expected).abs().max() / expected.abs().max()).item()
        for threads in map(int, arguments.threads.split(",")):
            torch.set_num_threads(threads)
            library.quantKernelThreads(threads)
            repeat = max(1, int(1e8 / (2 * m * n * k)))

            def measure(function):
                function()
                start = time.perf_counter()
                for _ in range(repeat):
                    function()
                return (time.perf_counter() - start) / repeat

            ours, theirs = [], []
            end = time.time() + arguments.seconds
            while time.time() < end:
                theirs.append(measure(lambda: torch.nn.functional.linear(x, weight)))
                ours.append(measure(lambda: run(*pointers)))
            ratios = sorted(t / o for t, o in zip(theirs, ours))
            best = min(ours)
            print(f"{case:52s} {threads}T {best * 1e6:9.1f} us"
                  f" {2 * m * n * k / best / 1e9:6.1f} GF/s"
                  f" {library.quantKernelBytes(kernel) / best / 1e9:5.1f} GB/s"
                  f"  torch {min(theirs) * 1e6:9.1f} us  best/best"
                  f" {min(theirs) / best:5.2f}x  median {statistics.median(ratios):5.2f}x"
                  f" [{ratios[0]:.2f}, {ratios[-1]:.2f}]  error {error:.1e}", flush=True)
        library.quantKernelDestroy(kernel)


if __name__ == "__main__":
    main()
