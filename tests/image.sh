#!/usr/bin/env bash
# tests/image.sh: builds both images with buildah, measures them and runs them; ends non-zero where one is too large or does not work.
#
# Everything is kept below target/image: the store of buildah, with the layers that make the next build short, an archive and the component
# lists of each image. Programs run in a chroot. Layers are overlays where the filesystem takes them (4 GiB), else whole copies (vfs, 20 GiB); what
# is mounted there goes when this ends, and what a killed run left goes when the next begins.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "image: it makes root directories of other systems, which only root may: run 'sudo make image'" >&2
  exit 1
fi
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/image
suite=bookworm
mkdir -p "$out/run"
# MiB, compressed.
declare -A most=([controller]=12 [node]=32)
say() { printf 'image: %s\n' "$*"; }
unmount() { awk -v at="$out/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo | tac | while read -r at; do umount "$at"; done; }
unmount
# MiB. Old layers are worth nothing to a build after a change of Cargo.lock: when there are many, all of them go.
need=8000 many=40000
mib() { du -smx "$1" 2>/dev/null | cut -f1; }
if [ "$(mib "$out/store" || echo 0)" -gt "$many" ]; then
  say "$out/store takes $(mib "$out/store") MiB: beginning anew"
  rm -rf "$out/store"
fi
free=$(df --output=avail -m "$out" | tail -n 1)
if [ "$free" -lt "$need" ]; then
  echo "image: the layers take up to $need MiB, and $out has $free MiB free" >&2
  exit 1
fi

export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$out/store" --runroot "$out/run" "$@"; }
work=$(mktemp -d "${TMPDIR:-/tmp}/rp-image.XXXXXX")
trap 'unmount; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# base NAME COMMAND...: a base image of this name, made of the root directory that COMMAND fills, unless it was made before, of the same packages and Rust.
base() {
  local name=$1 container digest
  shift
  digest=$(printf '%s\n' "$suite" "$@" "$(rustc --version)" | sha256sum | cut -c1-12)
  [ "$(buildah inspect --type image --format '{{index .OCIv1.Config.Labels "made-by"}}' "localhost/$name" 2>/dev/null)" = "$digest" ] && return
  say "$name is missing: making it of Debian's packages"
  "$@" "$work/$name.tar"
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/$name.tar" / >/dev/null
  buildah config --label "made-by=$digest" --env PATH=/usr/local/rust/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  buildah commit --quiet --rm "$container" "localhost/$name" >/dev/null
  rm "$work/$name.tar"
}

# debian PACKAGES HOOK... TAR: Debian with these packages; the builds trust whom this machine trusts.
debian() {
  local packages=$1 hooks=()
  while [ $# -gt 2 ]; do
    hooks+=("--customize-hook=$2")
    shift
  done
  mmdebstrap --quiet --variant=minbase --include="$packages" "${hooks[@]}" \
    --customize-hook='cat /etc/ssl/certs/ca-certificates.crt > "$1/etc/ssl/certs/ca-certificates.crt"' "$suite" "$2" \
    || { echo "image: Debian's packages cannot be had" >&2; exit 1; }
}

# Only what compiles: no documents, no sources, no lints.
toolchain() {
  local rust
  rust=$(rustc --print sysroot)
  printf 'mkdir -p "$1/usr/local/rust" && tar -C %q --exclude=share --exclude="*src" --exclude="*clippy*" --exclude="*rust-analyzer*" --exclude="*rustfmt*" -c bin lib | tar -x -C "$1/usr/local/rust"' "$rust"
}

# build TARGET: one image, and its archive as a registry would hold it.
build() {
  local target=$1
  buildah bud --quiet --layers --target "$target" --tag "localhost/rockpool-$target" --timestamp "$(git log -1 --format=%ct)" \
    --build-arg BUILD_BASE=localhost/rockpool-build-base --build-arg NODE_BASE=localhost/rockpool-node-base \
    --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)" --build-arg REVISION="$(git rev-parse HEAD)" \
    . > "$work/$target.id" 2> "$work/$target.log" || { cat "$work/$target.log"; echo "image: $target does not build" >&2; exit 1; }
  rm -rf "$out/$target.oci"
  buildah push --quiet "localhost/rockpool-$target" "oci-archive:$out/$target.oci:rockpool-$target"
}

# measure TARGET: the compressed layers and the configuration, which is what a node fetches.
measure() {
  local target=$1 bytes
  bytes=$(tar -xOf "$out/$target.oci" "$(tar -xOf "$out/$target.oci" index.json | jq -r '.manifests[0].digest | sub("sha256:"; "blobs/sha256/")')" \
    | jq '[.config.size, .layers[].size] | add')
  awk -v name="$target" -v bytes="$bytes" -v most="${most[$target]}" 'BEGIN {
    printf "image: rockpool-%s: %.2f MiB compressed, at most %d allowed\n", name, bytes / 1048576, most
    exit bytes > most * 1048576 }'
}

# root TARGET: the root directory of an image, with its component lists checked and kept.
root() {
  local target=$1 container list
  container=$(buildah from "localhost/rockpool-$target")
  cp -a "$(buildah mount "$container")" "$work/$target"
  buildah rm "$container" >/dev/null
  for list in "$work/$target"/usr/share/sbom/*.json; do
    jq -e '.bomFormat == "CycloneDX" and (.components | length) > 5 and all(.components[]; .version and .purl)' "$list" >/dev/null \
      || { echo "image: $target: $(basename "$list") is no component list" >&2; exit 1; }
    cp "$list" "$out/$target-$(basename "$list")"
  done
  # What scanners read out of the binary itself.
  readelf --section-headers --wide "$work/$target/usr/bin/rockpool" | grep -q '\.dep-v0' \
    || { echo "image: $target: the binary has no list of its crates" >&2; exit 1; }
}

base rockpool-node-base debian ca-certificates
base rockpool-build-base debian ca-certificates,gcc,libc6-dev,musl-tools "$(toolchain)"
for target in controller node; do
  say "building $target"
  build "$target"
  measure "$target"
  root "$target"
done
tests/image-run.sh "$work/controller" "$work/node"
