#!/usr/bin/env bash
# tests/kubernetes/images.sh: the images that a node, the tests and the chart's sidecars need, out of what build.sh made, as archives in the cache.
# They have the names that the chart and the upstream suite ask for.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkimage=$here/mkimage

# single NAME:TAG PROGRAM : an image of one static program.
single() {
  mkdir "$work/$2"
  cp "$bin/$2" "$work/$2/$2"
  "$mkimage" "$1" "$work/$2" "/$2"
}

# busybox_in DIRECTORY : what `sh -c` needs.
busybox_in() {
  local applet
  mkdir -p "$1"/{bin,etc,root,proc,sys,dev,var,sbin} "$1"/usr/{bin,sbin}
  mkdir -m 1777 "$1/tmp"
  cp /bin/busybox "$1/bin/busybox"
  for applet in $(busybox --list-full); do
    [[ $applet == bin/busybox ]] || ln -sf /bin/busybox "$1/$applet"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
  echo 'root:x:0:' >"$1/etc/group"
}

single registry.k8s.io/pause:3.10.2 pause
single "registry.k8s.io/coredns/coredns:$COREDNS" coredns
single "registry.k8s.io/sig-storage/csi-provisioner:$PROVISIONER" csi-provisioner
single "registry.k8s.io/sig-storage/csi-resizer:$RESIZER" csi-resizer
single "registry.k8s.io/sig-storage/csi-snapshotter:$SNAPSHOTTER" csi-snapshotter
busybox_in "$work/busybox"
"$mkimage" registry.k8s.io/e2e-test-images/busybox:1.37.0-1 "$work/busybox" /bin/sh
say "images are in $images"
