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
  local volume
  volume=$(volume_of source)
  k delete pod/source pvc/source --timeout=60s >/dev/null
  kubectl wait "pv/$volume" --for=delete --timeout=60s >/dev/null
  claim restored 64Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(cut_of s)"
  pod restored restored
  ready restored
  so kept get restored
}

# Each number is in the first volume before it is in the second one, and there before the next is in the first.
in_turn='i=0; while i=$((i + 1)); do for at in one two; do echo $i > /$at/new && sync /$at/new && mv /$at/new /$at/count || exit 1; done; done'
number_in() { k exec "$1" -- cat "/$2/count"; }

# Two volumes of one node are cut at one moment, while somebody writes to both.
scene_is_cut_in_a_group() {
  claim one 64Mi
  claim two 64Mi
  run_pod writer n1 <<END
containers:
  - name: c
    image: $busybox
    command: [sh, -c, $(jq -n --arg command "$in_turn" '$command')]
    volumeMounts: [{name: one, mountPath: /one}, {name: two, mountPath: /two}]
volumes: [{name: one, persistentVolumeClaim: {claimName: one}}, {name: two, persistentVolumeClaim: {claimName: two}}]
END
  ready writer
  await 30 "ten numbers in both" more_than 10 number_in writer two
  k apply -f - >/dev/null <<END
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshot
metadata: {name: g}
spec: {volumeGroupSnapshotClassName: rockpool, source: {selector: {matchLabels: {scene: $namespace}}}}
END
  k wait volumegroupsnapshot/g --for=jsonpath='{.status.readyToUse}'=true --timeout=60s >/dev/null
  # What the sources have since is not in the cut.
  local since members member of first second
  since=$(number_in writer one)
  await 30 "the sources have changed" more_than $((since + 10)) number_in writer two
  members=$(picked '.items[] | .metadata.name + " " + .spec.source.persistentVolumeClaimName' k get volumesnapshots -o json)
  while read -r member of; do
    claim "again-$of" 64Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(cut_of "$member")"
    pod "again-$of" "again-$of"
  done <<<"$members"
  ready again-one again-two
  first=$(number_in again-one data)
  second=$(number_in again-two data)
  ((first > 0 && first <= since + 1)) || die "the first volume was cut at $first, after $since was seen in it"
  ((first == second || first == second + 1)) || die "the volumes were cut at $first and $second: no moment had these"
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
  grow online 600Mi
  grow offline 200Mi
  await 60 "it has grown while used" prints 600Mi size_of online
  (($(space_in online) > 500 * 1024)) || die "its filesystem has not grown"
  k wait pvc/offline --for=condition=FileSystemResizePending --timeout=60s >/dev/null
  so 64Mi size_of offline
  pod offline offline
  ready offline
  await 60 "it has grown at rest" prints 200Mi size_of offline
  (($(space_in offline) > 150 * 1024)) || die "its filesystem has not grown"
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
  written_down
  kubectl delete namespace "$namespace" --timeout=120s >/dev/null
  kubectl create namespace "$namespace" >/dev/null
}
