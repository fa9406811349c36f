#!/usr/bin/env bash
# tests/kubernetes/load.sh: brings the images that `make image` has built to the nodes of the running cluster.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
cd "$here/../.."
# A build that is tried out may be there already.
[[ -z ${LOADED:-} ]] || exit 0
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
for name in controller node; do
  archive=$target/image/$name.oci
  [[ -e $archive ]] || die "$archive is missing: make image"
  for node in "${nodes[@]}"; do
    # The archive says its name without a registry, and kubelet asks for it with one.
    ctr_of "$node" images import --base-name docker.io/library/rockpool "$archive" >/dev/null
    ctr_of "$node" images tag --force "docker.io/library/rockpool:rockpool-$name" "docker.io/library/rockpool-$name:$version" >/dev/null
  done
done
say "the nodes have rockpool-controller and rockpool-node $version"
