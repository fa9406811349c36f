#!/usr/bin/env bash
# tests/kubernetes/scene.sh NAME: one scene on the running cluster, in a namespace of its own; then all of it is deleted, and an audit finds nothing
# left in any pool. --list names them all.
set -Eeuo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
for scenes in "$here"/scenes/*.sh; do
  # shellcheck source=/dev/null
  . "$scenes"
done
if [[ ${1:-} == --list ]]; then
  sed -n 's/^scene_\([a-z_]*\)() {.*/\1/p' "$here"/scenes/*.sh
  exit 0
fi
[[ -x $state/auditor ]] || die "$state/auditor is missing: test.sh builds it"
name=$1 namespace=t-${1//_/-} log=$state/log/scene-$1.txt
[[ $(type -t "scene_$name") == function ]] || die "no scene is called $name: see scene.sh --list"

k() { kubectl --namespace "$namespace" "$@"; }

# claim NAME SIZE [CLASS [ACCESS [MODE [SOURCE]]]]
claim() {
  k apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1, labels: {scene: $namespace}}
spec:
  storageClassName: ${3:-rockpool}
  accessModes: [${4:-ReadWriteOnce}]
  volumeMode: ${5:-Filesystem}
  resources: {requests: {storage: $2}}
  ${6:+dataSource: $6}
END
}
cut_of() { echo "{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: $1}"; }
clone_of() { echo "{kind: PersistentVolumeClaim, name: $1}"; }

# pod NAME CLAIM [NODE [COMMAND]] : with the claim at /data, on that node if one is named.
pod() {
  k apply -f - >/dev/null <<END
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  ${3:+nodeSelector: {kubernetes.io/hostname: $3\}}
  containers:
    - name: c
      image: $busybox
      command: [sh, -c, "${4:-sleep 3600}"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: $2}}]
END
}
ready() { k wait "${@/#/pod/}" --for=condition=Ready --timeout=90s >/dev/null; }
bound() { k wait "${@/#/pvc/}" --for=jsonpath='{.status.phase}'=Bound --timeout=60s >/dev/null; }
# put POD TEXT : writes it down so that it stays; get POD : reads it.
put() { k exec "$1" -- sh -c "echo '$2' > /data/file && sync"; }
get() { k exec "$1" -- cat /data/file; }
# take NAME CLAIM : a snapshot, ready to use.
take() {
  k apply -f - >/dev/null <<END
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: $1}
spec: {volumeSnapshotClassName: rockpool, source: {persistentVolumeClaimName: $2}}
END
  k wait "volumesnapshot/$1" --for=jsonpath='{.status.readyToUse}'=true --timeout=60s >/dev/null
}
node_of() { k get pod "$1" -o jsonpath='{.spec.nodeName}'; }
volume_of() { k get pvc "$1" -o jsonpath='{.spec.volumeName}'; }
# place_of CLAIM : the node that its volume can be used on.
place_of() { kubectl get pv "$(volume_of "$1")" -o jsonpath='{.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]}'; }
# event OBJECT TEXT : whether an Event about it says that.
event() { k get events --field-selector "involvedObject.name=$1" -o json | jq -e --arg text "$2" 'any(.items[]; .message | contains($text))' >/dev/null; }

ours() { jq -r '.items[] | select((.spec.csi.driver // .spec.driver) == "csi.rockpool.dev") | .metadata.name'; }
nothing_known() {
  [[ -z $(kubectl get pv -o json | ours) ]] && [[ -z $(kubectl get volumesnapshotcontents -o json | ours) ]] &&
    [[ -z $(kubectl get volumegroupsnapshotcontents -o json | ours) ]]
}

# audit_of NODE : by the auditor of the torture test, that what lies in its pool is sound and that nothing of it is there any more.
audit_of() {
  local found pool=/var/lib/rockpool/pools/fast
  found=$(beside "$1" "$state/auditor" pools --pools "$pool" --kubelet "$kubelet/plugins/kubernetes.io" 2>&1) || { echo "$found"; return 1; }
  grep -q "^pools: 0 volumes, 0 snapshots, 0 groups, 0 mounts, 0 devices, 0 bytes promised, 0 violations$" <<<"$found" || { echo "$found"; return 1; }
}
nothing_left() {
  local node
  for node in "${nodes[@]}"; do audit_of "$node" || return 1; done
}

audit() {
  local node
  await 90 "no PersistentVolume or snapshot is left of $name" nothing_known
  drivers_ready
  if ! (await 20 "nothing is left in the pools" nothing_left) 2>/dev/null; then
    for node in "${nodes[@]}"; do audit_of "$node" | sed "s/^/$node: /" >&2; done
    die "$name left something"
  fi
  for node in "${nodes[@]}"; do r exec "$(driver_on "$node")" -- rockpool ctl doctor >/dev/null || die "the doctor found something on $node"; done
}

explain() {
  {
    k get pods,pvc,volumesnapshots -o wide
    kubectl get pv -o wide
    k get events --sort-by=.lastTimestamp
    k describe pods
    r get pods -o wide
    r logs -l app.kubernetes.io/name=rockpool --all-containers --prefix --tail=200
  } >"$log" 2>&1 || true
  say "$name failed: what was there is in $log"
  kubectl delete namespace "$namespace" --timeout=120s >/dev/null 2>&1 || true
}
trap 'say "$name: this failed: $BASH_COMMAND"' ERR
trap '[[ $? == 0 ]] || explain' EXIT
kubectl create namespace "$namespace" >/dev/null
"scene_$name"
kubectl delete namespace "$namespace" --timeout=120s >/dev/null
audit
