#!/usr/bin/env bash
# tests/kubernetes/smoke.sh: a Kubernetes of two nodes from nothing, the main journey on it (demo.sh) with a debug build, and all of it gone again, although
# one of its nodes is killed.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
[[ $(id -u) == 0 ]] || { echo "SKIP kubernetes: only root may make nodes"; exit 0; }
! present || die "a cluster runs here already: make demo-kubernetes, or make cluster-down first"
ended() {
  local status=$?
  trap - EXIT
  set +e
  ((status == 0)) || keep_logs
  # What a node leaves that was killed has to be found all the same.
  if node=$(running node-n1); then kill -KILL "$node"; fi
  "$here/down.sh" || status=1
  exit "$status"
}
trap ended EXIT
"$here/up.sh"
"$here/plain.sh"
ROCKPOOL_IMAGES_LOADED=1 "$here/demo.sh"
