#!/usr/bin/env bash
# tests/kubernetes/plain.sh: images of a debug build with this machine's own mkfs and fsck, on the nodes of the running cluster, in a minute or two: for
# whoever changes the driver, and for the smoke test. Released are those of `make image`, which take a quarter of an hour.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
cd "$here/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
musl=$(uname -m)-unknown-linux-musl
export "CC_${musl//-/_}=musl-gcc"
cargo build --locked --quiet --target "$musl" --bin rockpool
mkdir -p "$work/tmp" "$work/node"
TMPDIR=$work/tmp deploy/image/programs.sh "$work/node" mke2fs e2fsck resize2fs mkfs.xfs xfs_repair
for name in node controller; do
  mkdir -p "$work/$name"/{usr/bin,etc/rockpool,run,var/lib}
  mkdir -m 1777 "$work/$name/tmp"
  strip -o "$work/$name/usr/bin/rockpool" "${CARGO_TARGET_DIR:-target}/$musl/debug/rockpool"
  image=$(image_name "$name" "$version")
  "$here/mkimage" "$image" "$work/$name" /usr/bin/rockpool
  for node in "${nodes[@]}"; do ctr_of "$node" images import "$(archive "$image")" >/dev/null; done
  rm "$(archive "$image")"
done
ROCKPOOL_IMAGES_LOADED=1 "$here/load.sh"
