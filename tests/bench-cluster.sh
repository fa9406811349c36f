#!/usr/bin/env bash
# tests/bench-cluster.sh [--quick] [--only PART]...: builds the release binary and measures it as a cluster; see docs/performance.md.
# Only the volume that travels from node to node lies in pools that are mounted, in the directory for temporary files; the rest is in memory.
set -euo pipefail
cd "$(dirname "$0")/.."
# A thousand nodes have several descriptors each.
ulimit -n 16384 2>/dev/null || { echo "bench: the limit of open files is $(ulimit -n), and 16384 are needed" >&2; exit 1; }
cargo build --locked --release --quiet --bins
exec cargo bench --locked --quiet --bench bench-cluster -- "$@"
