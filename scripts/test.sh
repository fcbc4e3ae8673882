#!/usr/bin/env bash
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Installs what is missing, builds, and runs every test. Ends with one line
# 'N passed, N failed, N skipped'.
#
#   scripts/test.sh
#
# Everything is kept below .venv, build and .cache. Exit status: 0 only if nothing
# failed, 1 failure, 2 wrong usage, 128 + N after signal N (Ctrl-C: 130).
set -eu -o pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
take_no_arguments "$@"

# Fails if a C or C++ file of the repository is not as clang-format wants it.
check_format() {
  local files
  # Without git (a source archive) every file of these folders counts.
  if files="$(git -C "$QUANT_LLM_ROOT" ls-files -- '*.h' '*.c' '*.cpp' 2>/dev/null)" && [ -n "$files" ]; then
    :
  else
    files="$(cd "$QUANT_LLM_ROOT" && find include lib tools test python-bindings -name '*.h' -o -name '*.c' -o -name '*.cpp')"
  fi
  (cd "$QUANT_LLM_ROOT" && printf '%s\n' "$files" | xargs clang-format-22 --dry-run -Werror) &&
    python3 "$QUANT_LLM_ROOT/scripts/check_sources.py"
}

begin
check_shared_memory
setup_test
build all QuantLLMUnitTests
get_ptxas || echo "warning: without ptxas its tests are skipped" >&2
get_smollm2 || echo "warning: without SmolLM2 its tests are skipped" >&2
say "Checking the format of the sources"
status=0
check_format || { status=1; echo "error: see the files above (clang-format-22 -i repairs the format)" >&2; }

say "Running the tests"
results="$QUANT_LLM_BUILD/test-results.txt"
export LIT_OPTS="${LIT_OPTS:+$LIT_OPTS }-j${QUANT_LLM_TEST_JOBS:-2}"
# shellcheck disable=SC2016
attend bash -o pipefail -c 'cmake --build "$1" --target check-quant-llm 2>&1 | tee "$2"' - "$QUANT_LLM_BUILD" "$results" || status=1

# The counts are those of lit's summary: unlike its JSON it has the skipped
# cases of GoogleTest, too.
"$QUANT_LLM_VENV/bin/python" - "$results" "$status" <<'END'
import re, sys

text = open(sys.argv[1], encoding="utf-8", errors="replace").read()
start = text.rfind("Total Discovered Tests")
if start < 0:
    sys.exit("test.sh: error: lit printed no summary; see the messages above")
count = {label.strip(): int(number) for label, number in re.findall(r"^  ([A-Z][A-Za-z ]*?)\s*:\s*(\d+)", text[start:], re.MULTILINE)}
passed = sum(count.pop(label, 0) for label in ("Passed", "Passed With Retry", "Expectedly Failed"))
skipped = sum(count.pop(label, 0) for label in ("Unsupported", "Skipped", "Excluded"))
failed = sum(count.values())
if sys.argv[2] != "0" and failed == 0:
    print("not a test: the format check or the build of the tests failed, see above")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(int(failed > 0 or passed == 0 or sys.argv[2] != "0"))
END
