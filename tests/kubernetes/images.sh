#!/usr/bin/env bash
# tests/kubernetes/images.sh [e2e]: the images that a node, the tests and the chart's sidecars need, or those of the upstream suite, out of what build.sh made, as archives in the cache.
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

core() {
  single registry.k8s.io/pause:3.10.2 pause
  single "registry.k8s.io/coredns/coredns:$COREDNS" coredns
  single "registry.k8s.io/sig-storage/csi-provisioner:$PROVISIONER" csi-provisioner
  single "registry.k8s.io/sig-storage/csi-resizer:$RESIZER" csi-resizer
  single "registry.k8s.io/sig-storage/csi-snapshotter:$SNAPSHOTTER" csi-snapshotter
  busybox_in "$work/busybox"
  "$mkimage" registry.k8s.io/e2e-test-images/busybox:1.37.0-1 "$work/busybox" /bin/sh
}

# nsenter_in DIRECTORY : the suite enters the mounts of a node through its pid 1, which is the machine's here and may be off limits even for root. Its
# kubelet lives among the same mounts.
nsenter_in() {
  rm "$1/usr/bin/nsenter"
  cat >"$1/usr/bin/nsenter" <<END
#!/bin/sh
pid=\$(cat /rootfs$kubelet/kubelet.pid)
for a; do
  shift
  [ "\$a" = --mount=/rootfs/proc/1/ns/mnt ] && a=--mount=/rootfs/proc/\$pid/ns/mnt
  set -- "\$@" "\$a"
done
exec /bin/busybox nsenter "\$@"
END
  chmod +x "$1/usr/bin/nsenter"
}

e2e() {
  local file library
  busybox_in "$work/nginx" # only scripts are run in it
  "$mkimage" registry.k8s.io/e2e-test-images/nginx:1.15-4 "$work/nginx" /bin/sh
  busybox_in "$work/agnhost"
  cp "$bin/agnhost" "$work/agnhost/agnhost"
  mkdir "$work/agnhost/uploads"
  nsenter_in "$work/agnhost"
  "$mkimage" registry.k8s.io/e2e-test-images/agnhost:2.63.0 "$work/agnhost" /agnhost
  # For the sake of GNU dd; its sh must not be busybox, which prefers its own programs.
  busybox_in "$work/glibc"
  for file in /bin/bash /bin/dd /bin/cat /bin/sync /usr/bin/base64 /usr/bin/sha256sum /usr/bin/stat; do
    rm -f "$work/glibc/$file"
    for library in "$file" $(ldd "$file" | grep -o '/[^ ]*'); do
      mkdir -p "$work/glibc/$(dirname "$library")"
      cp -L "$library" "$work/glibc/$library"
    done
  done
  ln -sf bash "$work/glibc/bin/sh"
  "$mkimage" registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0 "$work/glibc" /bin/bash
}

"${1:-core}"
say "images are in $images"
