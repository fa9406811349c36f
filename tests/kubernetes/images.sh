#!/usr/bin/env bash
# tests/kubernetes/images.sh [e2e|monitoring]: the images that a node, the tests and the chart's sidecars need, or those of the upstream suite, out of what build.sh made, as archives in the cache.
# They have the names that the chart and the upstream suite ask for. An archive that is newer than what it is made of is left as it is.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkimage=$here/mkimage
shell=registry.k8s.io/e2e-test-images/busybox:1.37.0-1

# newer NAME:TAG SOURCE... : whether its archive is, than these and the scripts that make it.
newer() {
  local archive source
  archive=$(archive "$1")
  for source in "$0" "$mkimage" "$here/versions.sh" "${@:2}"; do [[ $archive -nt $source ]] || return 1; done
}

# single NAME:TAG PROGRAM : an image of one static program.
single() {
  ! newer "$1" "$bin/$2" || return 0
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
  if ! newer "$shell" /bin/busybox; then
    busybox_in "$work/busybox"
    "$mkimage" "$shell" "$work/busybox" /bin/sh
  fi
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

# In that of nginx only scripts are run. glibc is for the sake of GNU dd, whose sh must not be busybox, which prefers its own programs.
nginx_image() {
  busybox_in "$work/nginx"
  "$mkimage" "$1" "$work/nginx" /bin/sh
}
agnhost_image() {
  busybox_in "$work/agnhost"
  cp "$bin/agnhost" "$work/agnhost/agnhost"
  mkdir "$work/agnhost/uploads"
  nsenter_in "$work/agnhost"
  "$mkimage" "$1" "$work/agnhost" /agnhost
}
glibc_image() {
  local file library
  busybox_in "$work/glibc"
  for file in /bin/bash /bin/dd /bin/cat /bin/sync /usr/bin/base64 /usr/bin/sha256sum /usr/bin/stat; do
    rm -f "$work/glibc/$file"
    for library in "$file" $(ldd "$file" | grep -o '/[^ ]*'); do
      mkdir -p "$work/glibc/$(dirname "$library")"
      cp -L "$library" "$work/glibc/$library"
    done
  done
  ln -sf bash "$work/glibc/bin/sh"
  "$mkimage" "$1" "$work/glibc" /bin/bash
}

e2e() {
  local from=registry.k8s.io/e2e-test-images
  newer "$from/nginx:1.15-4" /bin/busybox || nginx_image "$from/nginx:1.15-4"
  newer "$from/agnhost:2.63.0" /bin/busybox "$bin/agnhost" || agnhost_image "$from/agnhost:2.63.0"
  newer "$from/glibc-dns-testing:2.0.0" /bin/busybox /bin/bash /bin/dd || glibc_image "$from/glibc-dns-testing:2.0.0"
}

monitoring() {
  local image=docker.io/library/rockpool-prometheus:$PROMETHEUS
  ! newer "$image" "$bin/prometheus" "$bin/promtool" /bin/busybox || return 0
  busybox_in "$work/prometheus"
  mkdir "$work/prometheus/data"
  cp "$bin/prometheus" "$bin/promtool" "$work/prometheus/"
  "$mkimage" "$image" "$work/prometheus" /prometheus
}

"${1:-core}"
say "images are in $images"
