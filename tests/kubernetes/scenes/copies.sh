# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# Snapshots, restores, clones, groups and growth.

# From a snapshot and from a claim, on the node where the source is, and on the other one.
scene_is_restored_and_cloned_on_either_node() {
  claim source 64Mi
  pod source source n1
  ready source
  put source first
  take s source
  put source second
  claim restored 64Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(cut_of s)"
  claim cloned 64Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(clone_of source)"
  claim restored-there 64Mi t-copy ReadWriteOnce Filesystem "$(cut_of s)"
  claim cloned-there 64Mi t-copy ReadWriteOnce Filesystem "$(clone_of source)"
  pod restored restored
  pod cloned cloned
  pod restored-there restored-there n2
  pod cloned-there cloned-there n2
  ready restored cloned restored-there cloned-there
  so n1 node_of restored
  so n1 node_of cloned
  so first get restored
  so second get cloned
  so first get restored-there
  so second get cloned-there
  # Each is its own.
  put restored changed
  so second get source
}

# A snapshot outlives its source.
scene_is_restored_after_its_source_is_gone() {
  claim source 64Mi
  pod source source
  ready source
  put source kept
  take s source
  k delete pod/source pvc/source --timeout=60s >/dev/null
  claim restored 64Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(cut_of s)"
  pod restored restored
  ready restored
  so kept get restored
}

# Two volumes of one node are cut at one moment.
scene_is_cut_in_a_group() {
  claim one 64Mi
  claim two 64Mi
  pod one one n1
  pod two two n1
  ready one two
  put one 1
  put two 2
  k apply -f - >/dev/null <<END
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshot
metadata: {name: g}
spec: {volumeGroupSnapshotClassName: rockpool, source: {selector: {matchLabels: {scene: $namespace}}}}
END
  k wait volumegroupsnapshot/g --for=jsonpath='{.status.readyToUse}'=true --timeout=60s >/dev/null
  local members
  members=$(k get volumesnapshots -o json | jq -r '.items[] | .metadata.name + " " + .spec.source.persistentVolumeClaimName')
  local member of
  while read -r member of; do
    claim "again-$of" 64Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(cut_of "$member")"
    pod "again-$of" "again-$of"
  done <<<"$members"
  ready again-one again-two
  so 1 get again-one
  so 2 get again-two
}

# While it is used, and while it is not.
scene_grows() {
  claim online 320Mi t-xfs
  claim offline 64Mi
  pod online online
  pod offline offline
  ready online offline
  put online kept
  put offline kept
  k delete pod/offline --timeout=60s >/dev/null
  k patch pvc online --patch '{"spec": {"resources": {"requests": {"storage": "600Mi"}}}}' >/dev/null
  k patch pvc offline --patch '{"spec": {"resources": {"requests": {"storage": "200Mi"}}}}' >/dev/null
  await 60 "it has grown while used" bash -c "[[ \$(kubectl -n $namespace get pvc online -o jsonpath='{.status.capacity.storage}') == 600Mi ]]"
  (($(k exec online -- df -m /data | awk 'END { print $2 }') > 500)) || die "its filesystem has not grown"
  pod offline offline
  ready offline
  await 60 "it has grown at rest" bash -c "[[ \$(kubectl -n $namespace get pvc offline -o jsonpath='{.status.capacity.storage}') == 200Mi ]]"
  (($(k exec offline -- df -m /data | awk 'END { print $2 }') > 150)) || die "its filesystem has not grown"
  so kept get online
  so kept get offline
}

# With everything that is in it, at once and in no order.
scene_goes_with_its_namespace() {
  claim a 64Mi
  claim b 64Mi
  pod a a
  pod b b
  ready a b
  take s a
  claim c 64Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(cut_of s)"
  bound c
  kubectl delete namespace "$namespace" --timeout=120s >/dev/null
  kubectl create namespace "$namespace" >/dev/null
}
