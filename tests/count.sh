#!/usr/bin/env bash
# tests/count.sh LOG...: adds up what cargo test, go test -v, ginkgo and tests/all.sh said in LOG, and ends with the line
# `N passed, N failed, N skipped`. Fails if something failed or, with CI=true, if a skip is not in tests/skips.txt.
#
# A skip is a line `SKIP NAME: REASON`. A Rust test or a check that skips returns early and counts as passed; it is moved over.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: tests/count.sh LOG..." >&2; exit 2; }

# allowed NAME: is NAME on the written list? Entries are shell patterns.
allowed() {
  local pattern
  while read -r pattern _; do
    # shellcheck disable=SC2053  # a pattern on purpose
    case $pattern in '' | '#'*) ;; *) [[ $1 == $pattern ]] && return 0 ;; esac
  done < tests/skips.txt
  return 1
}

plain=$(cat -- "$@" | sed 's/\x1b\[[0-9;]*m//g')
totals=$(printf '%s\n' "$plain" | awk '
  # cargo: test result: ok. 3 passed; 0 failed; 1 ignored; ...
  /^test result: / { passed += number("passed"); failed += number("failed"); skipped += number("ignored") }
  # ginkgo: FAIL! -- 80 Passed | 1 Failed | 0 Pending | 20 Skipped. Which specs may skip is csi-sanity/skips and checked there.
  /[0-9]+ Passed \| [0-9]+ Failed \| / { passed += number("Passed"); failed += number("Failed"); skipped += number("Skipped") + number("Pending") }
  # go test -v, top level only: a parent says the same as its children.
  /^--- PASS: / { passed++ }
  /^--- FAIL: / { failed++ }
  # A check of tests/all.sh or .ci/run that counts nothing itself, and a suite that could not finish.
  /^CHECK PASSED / { passed++ }
  /^(CHECK|SUITE) FAILED / { failed++ }
  # A part of the lint that is left out, on its way to PASSED; anything else that skips is counted as passed by whoever ran it.
  /^SKIP lint::[^ ]+: / { skipped++; next }
  /^SKIP [^ ]+: / { passed--; skipped++ }
  /^--- SKIP: / { skipped++ }
  function number(word,   i) { for (i = 2; i <= NF; i++) if ($i ~ "^" word "[;|.]?$") return $(i - 1); return 0 }
  END { printf "%d %d %d\n", passed, failed, skipped }')
read -r passed failed skipped <<< "$totals"

# How cargo, a panic, go, ginkgo, the steps, the torture, the cluster and the leak check say that something is wrong.
failures='^test .* \.\.\. FAILED|panicked at|^--- FAIL: |\[FAIL\]|^(CHECK|SUITE) FAILED |^VIOLATION |proves nothing$|^error(\[|:)|^[a-z-]+: FAILED: |^FAILED in step |^  (mount|loop|process|file|network|interface|cgroup): '

status=0
names=$(printf '%s\n' "$plain" | sed -nE 's/^SKIP ([^ ]+): .*/\1/p; s/^test (.+) \.\.\. ignored.*/ignored::\1/p; s/^--- SKIP: ([^ ]+).*/go::\1/p')
if [ "${CI:-}" = true ]; then
  while IFS= read -r name; do
    [ -z "$name" ] || allowed "$name" || { echo "count: $name was skipped and is not in tests/skips.txt"; failed=$((failed + 1)); }
  done <<< "$names"
fi
if [ "$failed" != 0 ]; then
  status=1
  # What failed stands far above, and whoever reads the end only must find it, too. Indented: .ci/run counts what make test printed.
  echo "count: what failed:"
  printf '%s\n' "$plain" | grep -E "$failures" | awk '!seen[$0]++' | cut -c 1-400 | sed 's/^/  /' | head -n 60 || true
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit "$status"
