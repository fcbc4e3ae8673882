#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test. Ends with one line
# 'N passed, N failed, N skipped'; the exit status is 0 only if nothing failed.
set -eu -o pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

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

setup_test
build all QuantLLMUnitTests
get_smollm2 || echo "warning: without SmolLM2 its tests are skipped" >&2
say "Checking the format of the sources"
status=0
check_format || { status=1; echo "error: see the files above (clang-format-22 -i repairs the format)" >&2; }

say "Running the tests"
results="$QUANT_LLM_BUILD/test-results.json"
rm -f "$results"
LIT_OPTS="${LIT_OPTS:+$LIT_OPTS }-j${QUANT_LLM_TEST_JOBS:-2} --output=$results" \
  cmake --build "$QUANT_LLM_BUILD" --target check-quant-llm || status=1

[ -f "$results" ] || die "lit left no results"
"$QUANT_LLM_VENV/bin/python" - "$results" "$status" <<'END'
import collections, json, sys

count = collections.Counter(test["code"] for test in json.load(open(sys.argv[1]))["tests"])
passed = sum(count.pop(code, 0) for code in ("PASS", "FLAKYPASS", "XFAIL"))
skipped = sum(count.pop(code, 0) for code in ("UNSUPPORTED", "SKIPPED", "EXCLUDED"))
failed = sum(count.values())
if sys.argv[2] != "0" and failed == 0:
    print("not a test: the format check or the build of the tests failed, see above")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(int(failed > 0 or passed == 0 or sys.argv[2] != "0"))
END
