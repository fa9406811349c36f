#!/usr/bin/env bash
# tests/guest/test.sh: runs tests/guest.rs, the pool contract on a directory with quota, and what the library's own tests leave
# to the guest (#[ignore]) under its kernel.
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

# A scratch disk for each test of guest.rs. One thread: the processors are emulated, and slow.
inside='failed=0; "$1" --ignored --test-threads=1 || failed=1; "$3" directory_with_quota:: --test-threads=1 || failed=1; "$2" --test-threads=1 || failed=1; exit $failed'
exec tests/guest/run.sh -d 2G -d 2G -d 2G -t 1200 -- sh -c "$inside" guest-tests "$library" "$guest" "$contract"
