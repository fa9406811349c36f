#!/usr/bin/env bash
# tests/lint.sh: format, clippy, docs and what may enter Cargo.lock. Any warning fails.
set -euo pipefail
cd "$(dirname "$0")/.."
deny=${XDG_CACHE_HOME:-$HOME/.cache}/rockpool/tools/bin/cargo-deny

# Advisories need the RustSec database, which only GitHub serves: without it and without GitHub there is nothing to check against.
advisories() {
  if "$deny" fetch db >/dev/null 2>&1; then
    "$deny" --locked check --hide-inclusion-graph advisories
  elif compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/*/crates" >/dev/null; then
    echo "lint: the advisory database could not be refreshed; using the one of an earlier run"
    "$deny" --locked check --disable-fetch --hide-inclusion-graph advisories
  else
    echo "SKIP lint::advisories: no advisory database here and github.com/RustSec cannot be reached"
  fi
}

cargo fmt --check
cargo fmt --manifest-path fuzz/Cargo.toml --check
cargo clippy --locked --all-targets -- -D warnings
# With the steps and planted bugs, and the test that uses them.
cargo clippy --locked --all-targets --features torture -- -D warnings
# The fuzz targets need nightly Rust to fuzz, but none to be checked; what both build is built once.
cargo clippy --locked --manifest-path fuzz/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
# The one exception is for the lock file of fuzz/.
"$deny" --locked check --allow license-exception-not-encountered --hide-inclusion-graph bans licenses sources
# In fuzz/ rustup would want nightly Rust, and not every machine has it by now.
toolchain=$(rustup show active-toolchain 2>/dev/null | cut -d' ' -f1 || true)
RUSTUP_TOOLCHAIN=$toolchain "$deny" --locked --manifest-path fuzz/Cargo.toml --config deny.toml check --hide-inclusion-graph bans licenses sources
advisories
for script in tests/*.sh tests/guest/*.sh tests/kubernetes/*.sh tests/kubernetes/scenes/*.sh deploy/image/*.sh .ci/run; do bash -n "$script"; done
