#!/usr/bin/env bash
# tests/bench.sh [--quick] [--only PART]...: builds the release binary and measures it; see docs/performance.md.
# It clears after the measurement however that ends: a signal, too, leaves no process, mount, loop device or file.
set -uo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "bench: it mounts filesystems, which only root may: run 'sudo make bench'" >&2
  exit 1
fi
base=${TMPDIR:-/var/tmp}
need=$((16 * 1024))
free=$(df --output=avail -m "$base" | tail -n 1)
if [ "$free" -lt "$need" ]; then
  echo "bench: the pools take $need MiB, and $base has $free MiB free: set TMPDIR to a directory with more" >&2
  exit 1
fi
cargo build --locked --release --quiet --bins || exit 1
cargo bench --locked --quiet --bench bench --no-run || exit 1

work=$(mktemp -d "$base/rp-run.XXXXXX")
# shellcheck source=tests/clear.sh
. tests/clear.sh
trap 'clear_below "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
TMPDIR=$work cargo bench --locked --quiet --bench bench -- "$@" &
wait $!
