#!/bin/sh
# tests/guest/inside.sh TARGET LIBRARY CONTRACT GUEST: what tests/guest/test.sh runs in the guest, each to its end: three test
# binaries, then csi-sanity over a directory pool whose sizes are enforced.
target=$1 library=$2 contract=$3 guest=$4
failed=0
"$library" --ignored || failed=1
"$contract" directory_with_quota:: || failed=1
"$guest" || failed=1

cd csi-sanity || exit 1
export ROCKPOOL_BIN="$target/debug/rockpool" SANITY_SUITE="$target/guest-suite" SANITY_DISK="$VM_DISK3"
"$target/guest-sanity" -test.v -test.run '^TestSanity$' || failed=1
exit $failed
