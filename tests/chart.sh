#!/usr/bin/env bash
# tests/chart.sh [GO TEST FLAG...]: the chart's tests, with the program that the chart starts; -update writes what they compare.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --quiet
target=$(realpath "${CARGO_TARGET_DIR:-target}")
cd deploy/test
ROCKPOOL_BIN=$target/debug/rockpool exec go test -count=1 -timeout 10m -v ./... "$@"
