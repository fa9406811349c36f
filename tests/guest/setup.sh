#!/usr/bin/env bash
# tests/guest/setup.sh: fetches a stock Debian kernel once and makes the first root that run.sh boots. Nothing is installed.
#
# Everything lies in GUEST_CACHE (~/.cache/rockpool/guest, about 450 MB); delete it to start over. GUEST_KERNEL names another
# kernel package than the newest that apt knows. It has to be a generic one: cloud kernels have no 9p.
set -euo pipefail
cd "$(dirname "$0")"
cache=${GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rockpool/guest}

say() { printf 'guest: %s\n' "$*"; }
die() { printf 'guest: %s\n' "$*" >&2; exit 1; }

newest_kernel() {
  { apt-cache -t bookworm-backports depends linux-image-amd64 || apt-cache depends linux-image-amd64; } 2>/dev/null |
    awk '/Depends: linux-image-[0-9]/ {print $2}' | sort -V | tail -n 1
}

# The first root holds busybox and the modules that it takes to mount the host's / over 9p and to put an overlay on it.
make_initrd() { # KERNEL-DIR VERSION
  local kernel=$1 version=$2 root module name
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,proc,dev,root,m}
  cp "$(command -v busybox)" "$root/bin/busybox"
  {
    echo '#!/bin/busybox sh'
    echo 'B=/bin/busybox; $B mount -t proc proc /proc; $B mount -t devtmpfs dev /dev'
    for name in virtio_pci 9p 9pnet_virtio overlay virtio_blk; do
      "$cache/tools/modprobe" -d "$kernel" -S "$version" --show-depends "$name" | awk '/^insmod/ {print $2}'
    done | awk '!seen[$0]++' | while read -r module; do
      name=$(basename "$module" .xz)
      case $module in *.xz) xz -dc "$module" > "$root/m/$name" ;; *) cp "$module" "$root/m/$name" ;; esac
      echo "\$B insmod /m/$name"
    done
    echo '$B mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=512000,ro root /root || $B poweroff -f'
    echo 'init=$($B sed -n "s/.*guest_init=\([^ ]*\).*/\1/p" /proc/cmdline); $B umount /proc; exec $B switch_root /root "$init"'
  } > "$root/init"
  chmod +x "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$kernel/initrd.gz"
  rm -rf "$root"
}

fetch() {
  local package=${GUEST_KERNEL:-$(newest_kernel)} new=$cache.new
  if [ -z "$package" ]; then
    say "apt knows no kernel yet: updating its lists"
    apt-get update -qq
    package=$(newest_kernel)
  fi
  [ -n "$package" ] || die "apt knows no linux-image-amd64: the guest tests need a Debian system, or GUEST_KERNEL"
  local version=${package#linux-image-}
  say "fetching $package and kmod into $cache (about 450 MB, once)"
  rm -rf "$new"
  mkdir -p "$new/deb" "$new/tools/lib"
  (cd "$new/deb" && apt-get download -q -o APT::Sandbox::User=root "$package" kmod libkmod2 >/dev/null)
  dpkg -x "$new/deb/$package"_*.deb "$new/kernel"
  dpkg -x "$new"/deb/kmod_*.deb "$new/kmod"
  dpkg -x "$new"/deb/libkmod2_*.deb "$new/kmod"
  find "$new/kmod" -name 'libkmod.so*' -exec mv {} "$new/tools/lib/" \;
  mv "$(find "$new/kmod" -name kmod -path '*bin/*')" "$new/tools/kmod"
  rm -rf "$new/kmod" "$new/deb"
  # kmod decides what it is by the name it is called by.
  mkdir "$new/tools/bin"
  for name in modprobe depmod; do
    ln -s ../kmod "$new/tools/bin/$name"
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s/tools/lib exec %s/tools/bin/%s "$@"\n' "$cache" "$cache" "$name" > "$new/tools/$name"
    chmod +x "$new/tools/$name"
  done
  rm -rf "$cache"
  mv "$new" "$cache"
  "$cache/tools/depmod" -b "$cache/kernel" "$version"
  make_initrd "$cache/kernel" "$version"
  echo "$version" > "$cache/ready"
}

[ -f "$cache/ready" ] || fetch
say "kernel $(cat "$cache/ready") in $cache"
