#!/usr/bin/env bash
# tests/cluster.sh [--short | PART... [OPTION...]]: three nodes and two controllers in network namespaces, and what can go wrong between them;
# see docs/reliability.md.
#
# It runs in namespaces of its own: whatever happens, no mount, no process and no network stays.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "SKIP cluster: it mounts filesystems and makes network namespaces, which only root may"; exit 0; }
if ! said=$(unshare --net --mount ip link add rp0 type veth peer name rp1 2>&1); then
  echo "SKIP cluster: no network namespaces with veth here: $said"
  exit 0
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
place=$target/cluster
mkdir -p "$place"
# The armed build first: the one that stays in the target directory must be the plain one.
built() { cargo "$@" --locked --features torture --message-format=json 2>/dev/null | jq -r 'select(.executable != null) | "\(.target.name) \(.executable)"'; }
if ! programs=$(built test --test cluster --no-run && built build --bin rockpool); then
  cargo test --locked --features torture --test cluster --no-run
  exit 1
fi
test=$(awk '$1 == "cluster" { print $2 }' <<< "$programs" | tail -n 1)
install -m 755 "$(awk '$1 == "rockpool" { print $2 }' <<< "$programs" | tail -n 1)" "$place/rockpool-armed"
cargo build --locked --quiet --bin rockpool
install -m 755 "$target/debug/rockpool" "$place/rockpool"

# shellcheck source=tests/namespace.sh
. tests/namespace.sh
if [ "${1:-}" = --short ]; then set -- scenes random sanity --seed 1 --minutes 0.8 --longest 6; fi
in_namespaces --net bash -c 'mkdir -p /run/netns && mount -t tmpfs netns /run/netns && exec "$@"' cluster \
  "$test" --plain "$place/rockpool" --armed "$place/rockpool-armed" --logs "$place/logs" "$@"
