#!/usr/bin/env bash
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Checks the GPU path on a GPU and writes a report. In two halves, because a
# machine with a GPU need not have the compiler:
#
#   scripts/gpu-check.sh pack BUNDLE     compiles the matrix and puts it with all
#                                        that the second half needs into the
#                                        directory BUNDLE (in a built tree)
#   BUNDLE/gpu-check.sh run BUNDLE       runs it: needs the CUDA driver, Python
#                                        with torch, and compute-sanitizer if it
#                                        is to be used
#   scripts/gpu-check.sh                 both, and the lit tests that need a GPU
#
# Environment: QUANT_LLM_BUILD_DIR (default build), QUANT_LLM_GPU_CHIP (default
# sm_90a), QUANT_LLM_GPU_MATRIX (names of test/Integration/CUDA/matrix.py,
# default "smoke schemes shapes"), QUANT_LLM_GPU_PYTHON (default python3),
# QUANT_LLM_GPU_REPORT (default BUNDLE/report.md), QUANT_LLM_GPU_LIMIT (seconds
# for the numeric checks, default 300). Exit status: 0 all passed, 1 a check
# failed, 2 wrong usage.
set -eu -o pipefail

die() { printf 'gpu-check.sh: error: %s\n' "$*" >&2; exit 2; }
say() { printf '\n== [%s] %s\n' "$(date +%T)" "$*"; }

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${QUANT_LLM_GPU_PYTHON:-python3}"
CHIP="${QUANT_LLM_GPU_CHIP:-sm_90a}"
MATRIX="${QUANT_LLM_GPU_MATRIX:-smoke schemes shapes}"
# Tools of compute-sanitizer that must find nothing. racecheck is none of them:
# it fails by itself on kernels with bulk copies (docs/GPURuntime.md).
SANITIZERS="memcheck synccheck initcheck"

pack() {
  local bundle="$1" root build name
  root="$(cd "$HERE/.." && pwd)"
  build="${QUANT_LLM_BUILD_DIR:-$root/build}"
  [ -x "$build/bin/quant-bench" ] && [ -x "$build/bin/quant-opt" ] ||
    die "expected quant-bench and quant-opt in '$build/bin'; build first (scripts/setup.sh)"
  mkdir -p "$bundle/checks"
  cp "$root"/test/Integration/CUDA/*.py "$bundle/checks/"
  cp "$root/scripts/gpu-check.sh" "$bundle/"
  cp "$build/bin/quant-bench" "$bundle/"
  cp -L "$build/lib/libQuantLLMRuntime.so" "$bundle/"
  # The Python package without its compiler, and the kernels that its check needs.
  if [ -e "$build/python_packages/quant_llm/torch.py" ] && "$PYTHON" -c 'import torch' 2> /dev/null; then
    say "Compiling for quant_llm.torch"
    rm -rf "$bundle/python"
    mkdir -p "$bundle/python/quant_llm"
    cp "$build"/python_packages/quant_llm/*.py "$build"/python_packages/quant_llm/libQuantLLMRuntime.so.* "$bundle/python/quant_llm/"
    PYTHONPATH="$build/python_packages" QUANT_LLM_CACHE_DIR="$bundle/cache" \
      "$PYTHON" "$bundle/checks/check_torch.py" --compile --chip "$CHIP"
  fi
  for name in $MATRIX bench; do
    say "Compiling the matrix '$name' for $CHIP"
    "$PYTHON" "$bundle/checks/matrix.py" "$name" > "$bundle/$name.json"
    rm -rf "$bundle/artifacts/$name"
    "$build/bin/quant-bench" --compile-only --cases "$bundle/$name.json" --chip "$CHIP" \
      --directory "$bundle/artifacts/$name"
  done
}

# step NAME COMMAND...: runs a step, keeps its output, counts failures.
step() {
  local name="$1" status=0
  shift
  say "$name"
  "$@" > "$BUNDLE/log/$name.log" 2>&1 || status=$?
  tail -n 3 "$BUNDLE/log/$name.log"
  printf '| %s | %s | %s |\n' "$name" "$([ $status = 0 ] && echo passed || echo "**failed** ($status)")" \
    "$(tail -n 1 "$BUNDLE/log/$name.log" | tr '|' '/' | cut -c 1-160)" >> "$BUNDLE/log/steps"
  [ $status = 0 ] || FAILED=$((FAILED + 1))
}

# The cuBLAS that comes with PyTorch, or none.
find_cublas() {
  "$PYTHON" - <<'END'
import glob, os, sysconfig
paths = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "**", "libcublas.so.*"), recursive=True)
print(paths[0] if paths else "none")
END
}

run() {
  BUNDLE="$(cd "$1" && pwd)" FAILED=0
  local report="${QUANT_LLM_GPU_REPORT:-$BUNDLE/report.md}" name tool directories m
  [ -x "$BUNDLE/quant-bench" ] || die "expected a directory made by 'gpu-check.sh pack' but got '$1'"
  rm -rf "$BUNDLE/log"
  mkdir -p "$BUNDLE/log"
  : > "$BUNDLE/log/steps"
  for name in $MATRIX; do
    [ -d "$BUNDLE/artifacts/$name" ] || die "the bundle has no matrix '$name'; pack it again"
    mapfile -t directories < <(ls -d "$BUNDLE/artifacts/$name"/*/ | sort -V)
    step "numbers-$name" "$PYTHON" "$BUNDLE/checks/check_linear.py" "${directories[@]}" \
      --library "$BUNDLE/libQuantLLMRuntime.so" --json "$BUNDLE/log/$name.json" \
      --limit "${QUANT_LLM_GPU_LIMIT:-300}"
  done
  [ ! -d "$BUNDLE/python" ] || step torch env PYTHONPATH="$BUNDLE/python" QUANT_LLM_CACHE_DIR="$BUNDLE/cache" \
    "$PYTHON" "$BUNDLE/checks/check_torch.py"
  # A few shapes of the smoke matrix: sanitizers are a hundred times slower.
  if command -v compute-sanitizer > /dev/null; then
    # The runtime asks the driver for parameters until it says there are no more:
    # that error of an API call is none.
    for tool in $SANITIZERS; do
      for m in 1,3 17,40; do
        step "$tool-$m" compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
          "$BUNDLE/quant-bench" --verify-only --m "$m" "$BUNDLE"/artifacts/smoke/*/
      done
    done
  else
    printf '| sanitizers | not run | compute-sanitizer is not in PATH |\n' >> "$BUNDLE/log/steps"
  fi
  step bench "$BUNDLE/quant-bench" "$BUNDLE"/artifacts/bench/*/ --m 1,16,64,256,1024,4096 \
    --cublas "$(find_cublas)" --json "$BUNDLE/log/bench.json"
  write_report > "$report"
  say "Report: $report"
  cat "$BUNDLE/log/steps"
  [ "$FAILED" = 0 ]
}

write_report() {
  echo "# GPU check"
  echo
  echo "Written by scripts/gpu-check.sh on $(date -u +%Y-%m-%d). Everything is relative to this machine:"
  echo
  echo '```'
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "nvidia-smi is not there"
  "$PYTHON" -c 'import torch; print("PyTorch", torch.__version__)'
  echo '```'
  echo
  echo "| step | result | last line |"
  echo "|---|---|---|"
  cat "$BUNDLE/log/steps"
  echo
  echo "## Numbers"
  echo
  "$PYTHON" - "$BUNDLE/log" $MATRIX <<'END'
import json, os, sys

directory, names = sys.argv[1], sys.argv[2:]
for name in names:
    path = os.path.join(directory, name + ".json")
    if not os.path.exists(path):
        continue
    with open(path) as file:
        records = [record for record in json.load(file) if "rel_error" in record]
    failed = [record for record in records if not record["passed"]]
    ratios = sorted(record["rel_error"] / max(record["dense_error"], 1e-12) for record in records)
    line = f"{name}: {len(records)} cases, {len(failed)} failed"
    if ratios:
        line += f"; error relative to the dense product: median {ratios[len(ratios) // 2]:.2f}, largest {ratios[-1]:.2f}"
    print("* " + line)
    for record in failed[:20]:
        print(f"  * {record['case']} {record['n']}x{record['k']} m={record['m']} {record['scheme']}: {'; '.join(record['failures'])}")
END
  echo
  echo "## Speed"
  echo
  echo '```'
  cat "$BUNDLE/log/bench.log"
  echo '```'
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
  -h | --help) sed -n '1,/^#$/d; /^#/!q; s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
  *) die "expected no argument, pack BUNDLE or run BUNDLE but got '$1'; see $0 --help" ;;
esac
