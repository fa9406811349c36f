#!/usr/bin/env bash
# tests/install.sh GROUP...: installs what the groups need and this machine lacks, and says what and why.
# Groups: build, fmt, test, lint, sanity, bench, bench-cluster, torture, cluster, fuzz, guest, image, chart, monitoring, kubernetes. Installs nothing when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/rockpool
deny_version=0.20.2
fuzz_version=0.13.2

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

packages=()
# need PROGRAM PACKAGE WHY: notes PACKAGE as missing unless PROGRAM is there.
need() {
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null && return
  say "$2 is missing: $3"
  packages+=("$2")
}

install_packages() {
  [ ${#packages[@]} -gt 0 ] || return 0
  local apt=(apt-get)
  command -v apt-get >/dev/null || die "no apt-get here: install these with your system's packager: ${packages[*]}"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "run as root, or first install: ${packages[*]}"
    apt=(sudo apt-get)
  fi
  say "installing ${packages[*]} with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  "${apt[@]}" install -qq -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1 && return
  say "not found in the package lists as they are: updating them"
  "${apt[@]}" update -qq
  "${apt[@]}" install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
}

# at_least HAVE WANT: compares dotted version numbers.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

check_rust() {
  local want have
  want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  command -v cargo >/dev/null || die "cargo is missing: install Rust $want or newer from https://rustup.rs, then run this again"
  have=$(cargo --version | cut -d' ' -f2)
  at_least "$have" "$want" || die "cargo is $have, Cargo.toml asks for $want: run 'rustup update stable'"
}

# The images are built with this machine's toolchain, for musl.
check_musl() {
  local target
  target=$(uname -m)-unknown-linux-musl
  [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] && return
  command -v rustup >/dev/null || die "the standard library for $target is missing: install it with your Rust toolchain"
  say "the standard library for $target is missing: the binary of the images is static; installing it with rustup"
  rustup target add "$target"
}

check_rust_component() { # PROGRAM COMPONENT
  cargo "$1" --version >/dev/null 2>&1 && return
  command -v rustup >/dev/null || die "cargo $1 is missing: install it with your Rust toolchain"
  say "$2 is missing: make lint uses it; installing it with rustup"
  rustup component add "$2"
}

check_go() {
  local want have
  command -v go >/dev/null || die "go is missing: csi-sanity and the tests of the chart are Go programs; install Go from https://go.dev/dl, then run this again"
  [ -f csi-sanity/go.mod ] || return 0
  want=$(awk '$1 == "go" {print $2}' csi-sanity/go.mod)
  have=$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//; s/ .*//')
  # From 1.21 on, go fetches the toolchain that go.mod asks for by itself.
  at_least "$have" 1.21 || die "go is $have, csi-sanity/go.mod asks for $want"
}

check_deny() {
  local root=$cache/tools
  [ -x "$root/bin/cargo-deny" ] && [ "$("$root/bin/cargo-deny" --version)" = "cargo-deny $deny_version" ] && return
  say "cargo-deny $deny_version is missing: make lint checks licences, bans and sources with it; building it into $root (about 6 minutes, once)"
  cargo install --quiet --locked --root "$root" --version "$deny_version" cargo-deny
}

check_fuzz() {
  local root=$cache/tools nightly
  nightly=$(sed -n 's/^channel = "\(.*\)"/\1/p' fuzz/rust-toolchain.toml)
  if ! RUSTUP_AUTO_INSTALL=0 cargo "+$nightly" --version >/dev/null 2>&1; then
    command -v rustup >/dev/null || die "no rustup to install $nightly with, which the fuzzer's counters need"
    say "Rust $nightly is missing: the fuzzer's counters need it; installing it with rustup, the minimal profile"
    rustup toolchain install "$nightly" --profile minimal --no-self-update || die "$nightly cannot be had"
  fi
  [ -x "$root/bin/cargo-fuzz" ] && [ "$("$root/bin/cargo-fuzz" --version)" = "cargo-fuzz $fuzz_version" ] && return
  say "cargo-fuzz $fuzz_version is missing: make fuzz builds with it; building it into $root (about 2 minutes, once)"
  cargo install --quiet --locked --root "$root" --version "$fuzz_version" cargo-fuzz || die "cargo-fuzz cannot be had"
}

[ $# -gt 0 ] || die "usage: tests/install.sh GROUP..., groups: build fmt test lint sanity bench bench-cluster torture cluster fuzz guest image chart monitoring kubernetes"
for group in "$@"; do
  case $group in
    build) check_rust ;;
    test)
      need mkfs.ext4 e2fsprogs "mkfs.ext4, resize2fs and e2fsck are what the image pools run"
      need mkfs.xfs xfsprogs "mkfs.xfs and xfs_growfs are what the pools run"
      need losetup util-linux "the tests check for loop devices left behind"
      need strace strace "the tests let the driver's system calls fail with it"
      need jq jq "the scripts read JSON answers with it"
      need ps procps "the tests look for processes left behind"
      ;;
    fmt) check_rust_component fmt rustfmt ;;
    lint)
      check_rust_component fmt rustfmt
      check_rust_component clippy clippy
      need c++ g++ "libFuzzer, which the fuzz targets stand on, is C++"
      check_deny
      ;;
    sanity) check_go ;;
    bench) need fio fio "make bench measures volumes with it" ;;
    torture)
      need strace strace "make torture injects errors into system calls with it"
      need unshare util-linux "make torture runs in a mount namespace of its own"
      ;;
    cluster)
      need ip iproute2 "make test-cluster joins network namespaces with it"
      need ss iproute2 "make test-cluster resets connections with it"
      need nsenter util-linux "make test-cluster starts each process in a namespace of its own"
      ;;
    fuzz)
      need jq jq "the script writes its figures with it"
      need c++ g++ "libFuzzer is built from its C++ source"
      check_fuzz
      ;;
    guest)
      need qemu-system-x86_64 qemu-system-x86 "the guest tests run under a kernel with project quota"
      need busybox busybox-static "the guest's first root"
      need cpio cpio "packs the guest's first root"
      need xz xz-utils "unpacks the guest kernel's modules"
      need mkfs.xfs xfsprogs "the guest makes its pools with it"
      need mkfs.ext4 e2fsprogs "the guest makes its volumes with it"
      ;;
    image)
      check_musl
      need buildah buildah "make image builds with it"
      need mmdebstrap mmdebstrap "makes the bases of Debian's packages"
      need jq jq "reads what is in an image"
      need readelf binutils "looks into the images' binary"
      need openssl openssl "makes the certificates with which the images are tried"
      need ip iproute2 "the images are tried in a network of their own"
      need losetup util-linux "the same for mounts"
      ;;
    bench-cluster) need openssl openssl "what a volume's way from node to node is compared with goes through it" ;;
    chart) check_go ;;
    monitoring)
      check_go
      tests/kubernetes/build.sh monitoring
      ;;
    kubernetes)
      check_go
      check_musl
      need musl-gcc musl-tools "the images of a debug build have a static binary"
      need strip binutils "which is made smaller with it"
      need mkfs.ext4 e2fsprogs "what these images hold beside it"
      need mkfs.xfs xfsprogs "the same"
      need containerd containerd "runs the nodes' containers"
      need runc runc "the same"
      PATH=$PATH:/usr/lib/cni need ptp containernetworking-plugins "gives pods their addresses"
      need nft nftables "kube-proxy and the network plugins write their rules with it"
      need busybox busybox-static "what the tests' pods run"
      need openssl openssl "makes the certificates of the cluster"
      need ip iproute2 "every node is in a network of its own"
      need sysctl procps "which passes on what is for its pods"
      need nsenter util-linux "the same for mounts"
      need jq jq "reads what the cluster says"
      ;;
    *) die "unknown group $group: build, fmt, test, lint, sanity, bench, bench-cluster, torture, cluster, fuzz, guest, image, chart, monitoring or kubernetes" ;;
  esac
done
install_packages
