#!/usr/bin/env bash
# tests/kubernetes/smoke.sh: a Kubernetes of two nodes from nothing, the main journey on it (demo.sh) with a debug build, and all of it gone again.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
[[ $(id -u) == 0 ]] || { echo "SKIP kubernetes: only root may make nodes"; exit 0; }
! present || die "a cluster runs here already: make demo-kubernetes, or make cluster-down first"
ended() {
  local status=$?
  trap - EXIT
  if ((status)) && [[ -d $state/log ]]; then
    mkdir -p "$evidence"
    rm -rf "$evidence/log"
    cp -r "$state/log" "$evidence/log"
    kubectl get events -A --sort-by=.metadata.creationTimestamp >"$evidence/events.txt" 2>&1
    say "failed; the logs of the cluster are in $evidence/log, what it told in $evidence/events.txt"
  fi
  "$here/down.sh" || status=1
  exit "$status"
}
trap ended EXIT
"$here/up.sh"
"$here/plain.sh"
ROCKPOOL_IMAGES_LOADED=1 "$here/demo.sh"
