#!/usr/bin/env bash
# tests/all.sh: everything that `make test` runs, each step to its end, then one line that counts it all.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
log=$target/test.log
[ "$(id -u)" = 0 ] || echo "not root: tests that mount say SKIP; run as root to see them all"

# shellcheck source=tests/step.sh
. tests/step.sh
all() {
  check lint tests/lint.sh
  suite "cargo test" tests/no-leaks.sh cargo test --locked --no-fail-fast
  check "torture, a short part" tests/no-leaks.sh tests/torture.sh --short
  suite "chart" tests/no-leaks.sh tests/chart.sh
  check "monitoring" tests/no-leaks.sh tests/monitoring.sh
  suite "csi-sanity" tests/no-leaks.sh tests/sanity.sh
}
all 2>&1 | tee "$log"
tests/count.sh "$log"
