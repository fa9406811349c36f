#!/usr/bin/env bash
# tests/guest/test.sh: runs under the guest's kernel tests/guest/main.rs, the pool contract and csi-sanity on a directory with
# quota, and what the library's own tests leave to the guest (#[ignore]).
set -euo pipefail
cd "$(dirname "$0")/../.."
tests/guest/setup.sh

# binary NAME: the test binary that cargo built for the target NAME.
binary() {
  jq -r --arg name "$1" 'select(.reason == "compiler-artifact" and .profile.test and .target.name == $name and
    .target.kind != ["bin"] and .executable) | .executable' <<< "$built"
}
built=$(cargo test --locked --quiet --no-run --lib --test guest --test contract --message-format=json)
library=$(binary rockpool)
guest=$(binary guest)
contract=$(binary contract)
[ -x "$library" ] && [ -x "$guest" ] && [ -x "$contract" ] || { echo "guest: cargo named no test binaries" >&2; exit 1; }

# There is no Go in the guest: both programs of csi-sanity are built here, without libraries of this system.
target=$(realpath "${CARGO_TARGET_DIR:-target}")
(cd csi-sanity && export CGO_ENABLED=0 && go test -c -o "$target/guest-sanity" . && go build -o "$target/guest-suite" ./suite)

exec tests/guest/run.sh -d 2G -d 2G -d 2G -d 8G -t 1200 -- tests/guest/inside.sh "$target" "$library" "$contract" "$guest"
