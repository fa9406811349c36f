# Sourced by tests/torture.sh and tests/cluster.sh: runs a test in namespaces of its own, with a TMPDIR of its own, and clears what
# is in no namespace: files, and loop devices on them.
# shellcheck shell=bash

TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/rpt.XXXXXX")
export TMPDIR
running=
# The loop devices on files of ours, and those on files that lie on such a device. One whose filesystem gave up tells neither:
# there the name tells whose image it is, which holds the random id of its pool.
loops() {
  local ids
  ids=$(find "$TMPDIR" -name pool-id -exec cat {} + 2>/dev/null | tr '\n' ' ')
  losetup -nl -O NAME,MAJ:MIN,BACK-MAJ:MIN,BACK-FILE | awk -v ours="/${TMPDIR##*/}/" -v ids="$ids" '
    BEGIN { split(ids, pools, " ") }
    { number[$1] = $2; below[$1] = $3; if (index($4, ours)) mine[$1]
      for (one in pools) if ($4 ~ /\/volumes\/[^\/]*$/ && index($4, "." pools[one] ".")) mine[$1] }
    END { for (top in below) for (under in mine) if (below[top] == number[under]) print top; for (one in mine) print one }'
}
clear_up() {
  [ -z "$running" ] || kill -KILL "$running" 2>/dev/null || true
  wait
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    left=$(loops)
    [ -n "$left" ] || break
    for device in $left; do losetup -d "$device" 2>/dev/null || true; done
    sleep 0.2
  done
  rm -rf --one-file-system "$TMPDIR"
}
trap clear_up EXIT
trap 'exit 130' INT TERM HUP

# in_namespaces [--NAMESPACE...] COMMAND...: whoever dies of this script, the test and its drivers, nothing below goes on.
in_namespaces() {
  local more=()
  while [[ $1 == --* ]]; do more+=("$1"); shift; done
  setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child --mount-proc "${more[@]}" "$@" &
  running=$!
  wait "$running"
  running=
}
