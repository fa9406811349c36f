#!/usr/bin/env bash
# tests/kubernetes/scene.sh NAME: one scene on the running cluster, in a namespace of its own; then all of it is deleted, and an audit finds nothing
# left in any pool. --list names them all.
set -Eeuo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
# shellcheck source=objects.sh
. "$here/objects.sh"
# shellcheck source=audit.sh
. "$here/audit.sh"
for scenes in "$here"/scenes/*.sh; do
  # shellcheck source=/dev/null
  . "$scenes"
done
if [[ ${1:-} == --list ]]; then
  list=$(declare -F | sed -n 's/^declare -f scene_//p')
  [[ -n $list ]] || die "there is no scene in $here/scenes"
  echo "$list"
  exit 0
fi
name=$1 namespace=t-${1//_/-} log=$evidence/scene-$1.txt
[[ $(type -t "scene_$name") == function ]] || die "no scene is called $name: see scene.sh --list"
mkdir -p "$evidence"
rm -f "$log"

# later COMMAND... : is done in the end, the last one first, however the scene ends. It is said before what it makes undone, and may find nothing to do.
undo=()
later() { undo+=("$(printf '%q ' "$@")"); }
put_back() {
  local one wrong=0
  while ((${#undo[@]})); do
    one=${undo[-1]}
    unset 'undo[-1]'
    (eval "$one") >>"$log" 2>&1 || { say "$name: this failed, see $log: $one"; wrong=1; }
  done
  return "$wrong"
}

# boot_again NODE : unless it runs.
boot_again() {
  running "node-$1" >/dev/null || boot "$1"
  await 90 "$1 is back" node_is "$1" True
}
node_is() { prints "$2" picked '.status.conditions[] | select(.type == "Ready") | .status' kubectl get node "$1" -o json; }

# written_down : what is there, before it goes with its namespace.
written_down() {
  {
    date -u
    k get pods,pvc,volumesnapshots -o wide
    kubectl get pv -o wide
    k get events --sort-by=.metadata.creationTimestamp
  } >>"$log" 2>&1 || true
}
explain() {
  written_down
  {
    k describe pods,pvc
    kubectl get nodes,volumesnapshotcontents,volumegroupsnapshotcontents -o wide
    r get pods,csistoragecapacities -o wide
    r get events --sort-by=.metadata.creationTimestamp
    r logs -l app.kubernetes.io/name=rockpool --all-containers --prefix --tail=300
  } >>"$log" 2>&1 || true
}

# failed : says so with all that is known, and leaves the cluster as the next scene wants it, as far as that can be.
failed() {
  trap - ERR EXIT
  set +e
  explain
  say "$name failed: what was there is in $log"
  put_back
  kubectl delete namespace "$namespace" --timeout=120s >/dev/null 2>&1
  (audit "$name, which failed," 60)
  exit 1
}
trap 'say "$name: this failed: $BASH_COMMAND"' ERR
trap '[[ $? == 0 ]] || failed' EXIT
# So that what another one has left is not taken for this one's.
audit "those before $name" 20
kubectl create namespace "$namespace" >/dev/null
"scene_$name"
put_back
written_down
kubectl delete namespace "$namespace" --timeout=120s >/dev/null
audit "$name" 90
