#!/bin/sh
# deploy/image/cargo.sh build|clean [ARGUMENT...]: cargo as the images use it: a static release of musl, the same wherever it is built.
set -eu
target=$(uname -m)-unknown-linux-musl
name=$(echo "$target" | tr a-z- A-Z_)
command=$1
shift
export "CC_$(echo "$target" | tr - _)=musl-gcc"
# Paths of the machine that builds do not belong into the binary.
export "CARGO_TARGET_${name}_RUSTFLAGS=--remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
if [ "$command" = build ]; then
  exec cargo auditable build --locked --release --bins --target "$target" "$@"
fi
exec cargo "$command" --release --target "$target" "$@"
