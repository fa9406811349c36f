#!/usr/bin/env bash
# tests/torture.sh [--short | PART... [OPTION...]]: builds the program as it is and with named steps, and breaks it; see docs/reliability.md.
#
# It runs in namespaces of its own: whatever happens, no mount and no process stays.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "SKIP torture: it mounts filesystems, which only root may"; exit 0; }

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
place=$target/torture
mkdir -p "$place"
# The armed build first: the one that stays in the target directory must be the plain one.
built() { cargo "$@" --locked --message-format=json 2>/dev/null | jq -r 'select(.executable != null) | "\(.target.name) \(.executable)"'; }
if ! programs=$(built test --features torture --test torture --no-run && built build --features torture --bin rockpool); then
  cargo test --locked --features torture --test torture --no-run
  exit 1
fi
test=$(awk '$1 == "torture" { print $2 }' <<< "$programs" | tail -n 1)
install -m 755 "$(awk '$1 == "rockpool" { print $2 }' <<< "$programs" | tail -n 1)" "$place/rockpool-armed"
cargo build --locked --quiet --bin rockpool
install -m 755 "$target/debug/rockpool" "$place/rockpool"

ROCKPOOL_COMMIT=$(git describe --always --dirty 2>/dev/null || true)
export ROCKPOOL_COMMIT

# A test that is killed takes its mounts and processes along, since they are in its namespaces; files and raw devices are not.
# shellcheck source=tests/namespace.sh
. tests/namespace.sh

torture() {
  local report=$1
  shift
  in_namespaces "$test" --plain "$place/rockpool" --armed "$place/rockpool-armed" --report "$report" "$@"
}
if [ "${1:-}" = --short ]; then
  # No figures are made of these: what the page sums up is in torture-results.
  torture "$place/short-random.json" random clean --seed 1 --minutes 0.2 --workers 4
  torture "$place/short-exhaustive.json" exhaustive --grounds image-on-xfs --only "a volume lives" --whole
else
  torture "torture-results/$(date +%s%N).json" "$@"
fi
