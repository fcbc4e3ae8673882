#!/usr/bin/env bash
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Checks the GPU path on a GPU and writes a report. In two halves, because a
# machine with a GPU need not have the compiler:
#
#   scripts/gpu-check.sh pack BUNDLE     compiles the matrices and puts them with
#                                        all that the second half needs into the
#                                        directory BUNDLE (in a built tree)
#   BUNDLE/gpu-check.sh run BUNDLE       runs it: needs the CUDA driver, Python
#                                        with torch, and compute-sanitizer if it
#                                        is to be used
#   scripts/gpu-check.sh                 both, and the lit tests that need a GPU
#
# Environment: QUANT_LLM_BUILD_DIR (default build), QUANT_LLM_GPU_CHIP (default
# sm_90a), QUANT_LLM_GPU_MATRIX (names of test/Integration/CUDA/matrix.py whose
# kernels are checked with weights that are made on the GPU), QUANT_LLM_GPU_LAYERS
# (names whose layers are checked from stored weights on, through the runtime),
# QUANT_LLM_GPU_GROUPED (the name of make_grouped.py), QUANT_LLM_GPU_BENCH (the
# name that is timed); all of these may be empty. QUANT_LLM_GPU_FORMAT (cubin, or
# ptx: kernels are assembled where they run), QUANT_LLM_GPU_JOBS (processes that
# compile, default 2), QUANT_LLM_GPU_PYTHON (default python3),
# QUANT_LLM_GPU_REPORT (default BUNDLE/report.md; the JSON beside it),
# QUANT_LLM_GPU_LIMIT (seconds for each matrix, default 200). Exit status: 0 all
# passed, 1 a check failed, 2 wrong usage.
set -eu -o pipefail

die() { printf 'gpu-check.sh: error: %s\n' "$*" >&2; exit 2; }
fail() { printf 'gpu-check.sh: error: %s\n' "$*" >&2; exit 1; }
say() { printf '\n== [%s] %s\n' "$(date +%T)" "$*"; }

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${QUANT_LLM_GPU_PYTHON:-python3}"
CHIP="${QUANT_LLM_GPU_CHIP:-sm_90a}"
MATRIX="${QUANT_LLM_GPU_MATRIX-schemes epilogues wide random:300:1 random:30:2 shapes}"
LAYERS="${QUANT_LLM_GPU_LAYERS-layers}"
GROUPED="${QUANT_LLM_GPU_GROUPED-smoke}"
BENCH="${QUANT_LLM_GPU_BENCH-bench-short}"
FORMAT="${QUANT_LLM_GPU_FORMAT:-cubin}"
# Tools of compute-sanitizer that must find nothing. racecheck looks at kernels
# of the family multistage only: it fails by itself on those with bulk copies
# (docs/GPURuntime.md).
SANITIZERS="memcheck synccheck initcheck"

# The directory of a matrix; its name may have numbers.
directory_of() { printf '%s' "${1//:/-}"; }

# Layers with random weights, compiled by quant-bench.
pack_layers() {
  local bundle="$1" build="$2" name="$3"
  say "Compiling the layers '$name' for $CHIP"
  rm -rf "$bundle/layers/$name"
  mkdir -p "$bundle/layers/$name"
  "$PYTHON" "$bundle/checks/matrix.py" layers "$name" "$bundle/layers/$name"
  # A layer in each process; a layer that cannot be compiled is an error.
  (cd "$bundle/layers/$name" && ls -- *.json | sed 's/\.json$//' |
    xargs -P "${QUANT_LLM_GPU_JOBS:-2}" -I '{}' "$build/bin/quant-bench" --compile-only --cases '{}.json' \
      --compiler "$build/bin/quant-opt" --chip "$CHIP" --directory '{}')
  rm -f "$bundle/layers/$name"/*/compiled.mlir
}

pack() {
  local bundle="$1" root build name
  root="$(cd "$HERE/.." && pwd)"
  build="${QUANT_LLM_BUILD_DIR:-$root/build}"
  [ -x "$build/bin/quant-bench" ] && [ -x "$build/bin/quant-opt" ] ||
    die "expected quant-bench and quant-opt in '$build/bin'; build first (scripts/setup.sh)"
  mkdir -p "$bundle/checks"
  cp "$root"/test/Integration/CUDA/*.py "$root"/test/Integration/CUDA/*.test "$bundle/checks/"
  cp "$root/scripts/gpu-check.sh" "$bundle/"
  cp "$build/bin/quant-bench" "$bundle/"
  cp -L "$build/lib/libQuantLLMRuntime.so" "$bundle/"
  git -C "$root" describe --always --dirty > "$bundle/commit" 2> /dev/null || echo unknown > "$bundle/commit"
  # The Python package without its compiler, and the kernels that its check needs.
  if [ -e "$build/python_packages/quant_llm/torch.py" ] && "$PYTHON" -c 'import torch' 2> /dev/null; then
    say "Compiling for quant_llm.torch"
    rm -rf "$bundle/python"
    mkdir -p "$bundle/python/quant_llm"
    cp "$build"/python_packages/quant_llm/*.py "$build"/python_packages/quant_llm/libQuantLLMRuntime.so.* "$bundle/python/quant_llm/"
    PYTHONPATH="$build/python_packages" QUANT_LLM_CACHE_DIR="$bundle/cache" \
      "$PYTHON" "$bundle/checks/check_torch.py" --compile --chip "$CHIP"
  fi
  for name in $MATRIX; do
    say "Compiling the matrix '$name' for $CHIP"
    rm -rf "$bundle/matrix/$(directory_of "$name")"
    "$PYTHON" "$bundle/checks/matrix.py" compile "$name" "$bundle/matrix/$(directory_of "$name")" \
      --quant-opt "$build/bin/quant-opt" --chip "$CHIP" --format "$FORMAT" --jobs "${QUANT_LLM_GPU_JOBS:-2}"
    rm -f "$bundle/matrix/$(directory_of "$name")"/*.mlir "$bundle/matrix/$(directory_of "$name")"/*/*.mlir
  done
  for name in smoke $LAYERS; do
    pack_layers "$bundle" "$build" "$name"
  done
  if [ -n "$GROUPED" ]; then
    say "Compiling the grouped linears '$GROUPED' for $CHIP"
    rm -rf "$bundle/grouped"
    mkdir -p "$bundle/grouped"
    "$PYTHON" "$bundle/checks/make_grouped.py" "$GROUPED" "$bundle/grouped" --opt "$build/bin/quant-opt" --chip "$CHIP"
  fi
  # One module of all families that overlap.
  if [ "$CHIP" = sm_90a ]; then
    say "Compiling the overlapping launches for $CHIP"
    "$PYTHON" "$bundle/checks/check_overlap.py" compile "$bundle/overlap" --opt "$build/bin/quant-opt" --chip "$CHIP"
  fi
  if [ -n "$BENCH" ]; then
    pack_layers "$bundle" "$build" "$BENCH"
    # What is timed needs no more than the packed weights.
    rm -f "$bundle/layers/$BENCH"/*/weights.safetensors
  fi
}

# step NAME COMMAND...: runs a step, keeps its output, counts failures.
step() {
  local name="$1" status=0 begin=$SECONDS
  shift
  say "$name"
  "$@" > "$BUNDLE/log/$name.log" 2>&1 || status=$?
  tail -n 3 "$BUNDLE/log/$name.log"
  printf '| %s | %s | %s s | %s |\n' "$name" "$([ $status = 0 ] && echo passed || echo "**failed** ($status)")" \
    "$((SECONDS - begin))" "$(tail -n 1 "$BUNDLE/log/$name.log" | tr '|' '/' | cut -c 1-160)" >> "$BUNDLE/log/steps"
  [ $status = 0 ] || FAILED=$((FAILED + 1))
}

skipped() { printf '| %s | not run | 0 s | %s |\n' "$1" "$2" >> "$BUNDLE/log/steps"; }

# The cuBLAS that comes with PyTorch, or none.
find_cublas() {
  "$PYTHON" - <<'END'
import glob, os, sysconfig
paths = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "**", "libcublas.so.*"), recursive=True)
print(paths[0] if paths else "none")
END
}

# directories PARENT: those in it, in their order; an array of that name.
directories() { mapfile -t directories < <(ls -d "$1"/*/ 2> /dev/null | sort -V); }

run() {
  [ -x "$1/quant-bench" ] || die "expected a directory made by 'gpu-check.sh pack' but got '$1'"
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null ||
    fail "expected '$PYTHON' (QUANT_LLM_GPU_PYTHON) to have a torch that finds a GPU; see what 'import torch; torch.zeros(1, device=\"cuda\")' says"
  BUNDLE="$(cd "$1" && pwd)" FAILED=0
  local report="${QUANT_LLM_GPU_REPORT:-$BUNDLE/report.md}" name tool short
  for name in $MATRIX; do
    [ -d "$BUNDLE/matrix/$(directory_of "$name")" ] || die "the bundle has no matrix '$name'; pack it again"
  done
  for name in smoke $LAYERS $BENCH; do
    [ -d "$BUNDLE/layers/$name" ] || die "the bundle has no layers '$name'; pack it again"
  done
  rm -rf "$BUNDLE/log"
  mkdir -p "$BUNDLE/log"
  : > "$BUNDLE/log/steps"
  mapfile -t directories < <(find "$BUNDLE"/matrix -name kernels.ptx -exec dirname {} + 2> /dev/null | sort -V)
  if [ "${#directories[@]}" != 0 ]; then
    if command -v ptxas > /dev/null; then
      step assemble "$PYTHON" "$BUNDLE/checks/assemble.py" "${directories[@]}"
    else
      skipped assemble "ptxas is not in PATH; the driver compiles the kernels"
    fi
  fi
  for name in smoke $LAYERS; do
    directories "$BUNDLE/layers/$name"
    step "layers-$name" "$PYTHON" "$BUNDLE/checks/check_linear.py" "${directories[@]}" --quiet \
      --library "$BUNDLE/libQuantLLMRuntime.so" --json "$BUNDLE/log/layers-$name.json" --limit "${QUANT_LLM_GPU_LIMIT:-200}"
  done
  for name in $MATRIX; do
    short="$(directory_of "$name")"
    directories "$BUNDLE/matrix/$short"
    step "kernels-$short" "$PYTHON" "$BUNDLE/checks/check_kernel.py" --manifest "${directories[@]}" --quiet --repeat 6 \
      --json "$BUNDLE/log/kernels-$short.json" --limit "${QUANT_LLM_GPU_LIMIT:-200}"
  done
  if [ -n "$GROUPED" ]; then
    directories "$BUNDLE/grouped"
    step "grouped-$GROUPED" "$PYTHON" "$BUNDLE/checks/check_grouped.py" "${directories[@]}" --quiet \
      --library "$BUNDLE/libQuantLLMRuntime.so" --json "$BUNDLE/log/grouped-$GROUPED.json" --limit "${QUANT_LLM_GPU_LIMIT:-200}"
  fi
  [ ! -d "$BUNDLE/overlap" ] || step overlap "$PYTHON" "$BUNDLE/checks/check_overlap.py" run "$BUNDLE/overlap" \
    --library "$BUNDLE/libQuantLLMRuntime.so"
  [ ! -d "$BUNDLE/python" ] || step torch env PYTHONPATH="$BUNDLE/python" QUANT_LLM_CACHE_DIR="$BUNDLE/cache" \
    "$PYTHON" "$BUNDLE/checks/check_torch.py"
  directories "$BUNDLE/layers/smoke"
  step verify "$BUNDLE/quant-bench" --verify-only --m 1,100 "${directories[@]}"
  # A reduced matrix: sanitizers are slow.
  if command -v compute-sanitizer > /dev/null; then
    mapfile -t directories < <(for name in smoke $LAYERS; do ls -d "$BUNDLE/layers/$name"/*/; done)
    for tool in $SANITIZERS; do
      # The runtime asks the driver for parameters until it says there are no
      # more: that error of an API call is none.
      step "$tool" compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
        "$BUNDLE/quant-bench" --verify-only --m 1,3,17,40,100,257 "${directories[@]}"
    done
    step racecheck compute-sanitizer --tool racecheck --kernel-name kernel_substring=multistage --report-api-errors no \
      --error-exitcode 9 "$BUNDLE/quant-bench" --verify-only --m 1,17,100 "${directories[@]}"
  else
    skipped sanitizers "compute-sanitizer is not in PATH"
  fi
  if [ -n "$BENCH" ]; then
    directories "$BUNDLE/layers/$BENCH"
    step bench "$BUNDLE/quant-bench" "${directories[@]}" --m 1,16,64,256,1024 \
      --cublas "$(find_cublas)" --json "$BUNDLE/log/bench.json"
  fi
  "$PYTHON" "$BUNDLE/checks/write_report.py" "$BUNDLE" "$report" "${report%.md}.json"
  say "Report: $report"
  cat "$BUNDLE/log/steps"
  [ "$FAILED" = 0 ]
}

both() {
  local bundle root build
  root="$(cd "$HERE/.." && pwd)"
  build="${QUANT_LLM_BUILD_DIR:-$root/build}"
  bundle="$build/gpu-check"
  pack "$bundle"
  local status=0
  run "$bundle" || status=1
  say "GPU tests of the suite"
  local targets=(quant-opt quant-bench QuantLLMRuntime quant-llm-fake-cuda)
  [ ! -d "$build/python_packages" ] || targets+=(quant-llm-python)
  cmake --build "$build" --target "${targets[@]}"
  "${QUANT_LLM_LIT:-$root/.venv/bin/lit}" -v "$build/test" --filter Integration/CUDA || status=1
  return $status
}

case "${1:-}" in
  "") both ;;
  pack) [ $# = 2 ] || die "expected: gpu-check.sh pack BUNDLE"; pack "$2" ;;
  run) [ $# = 2 ] || die "expected: gpu-check.sh run BUNDLE"; run "$2" ;;
  # No function of setup.sh: a bundle has this file alone.
  -h | --help)
    help="$(sed -n '1,/^#$/d; /^#/!q; s/^# \{0,1\}//p' "${BASH_SOURCE[0]}")"
    printf '%s\n' "$help" 2> /dev/null || fail "cannot write to standard output"
    ;;
  *) die "expected no argument, pack BUNDLE or run BUNDLE but got '$1'; see $0 --help" ;;
esac
