#!/usr/bin/env bash
# tests/sanity.sh [GO TEST FLAG...]: csi-sanity over every pool kind, and proto/ against the specification.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --quiet
target=$(realpath "${CARGO_TARGET_DIR:-target}")
cd csi-sanity
ROCKPOOL_BIN=$target/debug/rockpool exec go test -count=1 -timeout 40m -v "$@" ./...
