#!/usr/bin/env bash
# tests/guest/test.sh [TEST...]: runs tests/guest.rs, with the rockpool binary built here, under the guest kernel.
set -euo pipefail
cd "$(dirname "$0")/../.."
tests/guest/setup.sh
tests=$(cargo test --locked --quiet --no-run --test guest --message-format=json |
  jq -r 'select(.reason == "compiler-artifact" and .target.name == "guest" and .executable) | .executable')
[ -x "$tests" ] || { echo "guest: cargo named no test binary" >&2; exit 1; }
# A scratch disk for each test. One thread: two processors are emulated here, and slowly.
exec tests/guest/run.sh -d 2G -d 2G -d 2G -t 900 -- "$tests" --test-threads=1 "$@"
