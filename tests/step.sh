# Sourced by tests/all.sh and .ci/run: run a step, say how it went and how long it took, go on after a failure.
# shellcheck shell=bash

timed() { # KIND NAME COMMAND...
  local kind=$1 name=$2 start=$SECONDS result=PASSED
  shift 2
  printf '\n==> %s\n' "$name"
  "$@" || result=FAILED
  printf '%s %s %s (%d s)\n' "$kind" "$result" "$name" $((SECONDS - start))
}

# check NAME COMMAND...: a step that counts as one passed or failed.
check() { timed CHECK "$@"; }
# suite NAME COMMAND...: a step whose own output tells how many passed; it counts only where it could not finish.
suite() { timed SUITE "$@"; }
