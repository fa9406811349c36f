#!/usr/bin/env bash
# tests/kubernetes/load.sh: brings the images that `make image` has built to the nodes of the running cluster, with the version that they have, and
# with a later one for whoever wants to upgrade. ROCKPOOL_IMAGES_LOADED=1: images of another build are there by hand, and only get the later version.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
target=$(realpath -m "${CARGO_TARGET_DIR:-$here/../../target}")

# bring NAME NODE
bring() {
  local archive=$target/image/$1.oci
  [[ -e $archive ]] || die "$archive is missing: make image"
  # The archive says its name without a registry, and kubelet asks for it with one.
  ctr_of "$2" images import --base-name docker.io/library/rockpool "$archive" >/dev/null
  ctr_of "$2" images tag --force "docker.io/library/rockpool:rockpool-$1" "$(image_name "$1" "$version")" >/dev/null
}

for name in controller node; do
  for node in "${nodes[@]}"; do
    [[ -n ${ROCKPOOL_IMAGES_LOADED:-} ]] || bring "$name" "$node"
    ctr_of "$node" images tag --force "$(image_name "$name" "$version")" "$(image_name "$name" "$later_version")" >/dev/null
  done
  say "the nodes have rockpool-$name $version, $(digest_of "$name")${ROCKPOOL_IMAGES_LOADED:+, loaded by hand}"
done
