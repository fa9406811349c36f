# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# Volumes come where they are wanted, are what was asked for, and go.

# Made when a pod wants it, on the node of that pod, with the size asked for, and away with its claim.
scene_waits_for_its_consumer() {
  claim a 64Mi
  sleep 3
  so Pending k get pvc a -o jsonpath='{.status.phase}'
  pod a a n2
  ready a
  so n2 place_of a
  put a written
  so written get a
  # The filesystem takes a little for itself.
  local space
  space=$(space_in a)
  ((space >= 50000 && space <= 65536)) || die "a claim of 65536 KiB gives $space"
  [[ $(k exec a -- sh -c 'dd if=/dev/zero of=/data/more bs=1M count=80 2>&1; rm -f /data/more') == *"No space left"* ]] || die "it holds more than its size"
}

scene_is_bound_at_once() {
  claim a 64Mi t-now
  bound a
  pod a a
  ready a
  so "$(place_of a)" node_of a
}

# less_than BYTES NODE : whether schedulers know that it has less room.
less_than() {
  local room
  room=$(room_on "$2") && ((room < $1))
}

# A claim that fits on one node alone brings its pod there; one that fits nowhere says why.
scene_goes_where_there_is_room() {
  claim large 8Gi
  pod large large n1
  ready large
  await 30 "schedulers know that n1 has less" less_than $((8 << 30)) n1
  claim other 8Gi
  pod other other
  ready other
  so n2 node_of other
  claim huge 50Gi
  pod huge huge
  await 30 "an event that says why" event huge "did not have enough free storage"
  so Pending k get pvc huge -o jsonpath='{.status.phase}'
  so "" refusals
}

# places : of each claim its name and the node that its volume can be used on; runs : of each pod that of its claim and its node. Sorted.
places() {
  picked ".items[] | select(.spec.claimRef.namespace == \"$namespace\") |
    .spec.claimRef.name + \" \" + .spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]" kubectl get pv -o json | sort
}
runs() { picked '.items[] | .spec.volumes[0].persistentVolumeClaim.claimName + " " + .spec.nodeName' k get pods -o json | sort; }
ended_well() { picked '[.items[] | select(.status.phase == "Succeeded" and .metadata.name != "filler")] | length' k get pods -o json; }

# Each of fifty pods gets its volume where it runs, at the first attempt, though one node has room for little more than half of them.
scene_places_a_burst() {
  local number wrong left=$((28 * 16 << 20))
  claim filler "$((($(room_on n1) - left) >> 20))Mi"
  pod filler filler n1
  ready filler
  await 30 "schedulers know that n1 has little room" less_than $((left + (32 << 20))) n1
  ((($(room_on n1)) > 25 * (16 << 20))) || die "n1 has no room for its half: $(room_on n1)"
  for number in $(seq 50); do
    claim_yaml "c$number" 16Mi
    pod_yaml "p$number" "c$number" "" "echo $number > /data/file && sync && cat /data/file"
  done | k create -f - >/dev/null
  await 300 "fifty pods that have ended" prints 50 ended_well
  so 51 picked '.items | length' k get pvc -o json >/dev/null
  wrong=$(comm -3 <(places) <(runs))
  [[ -z $wrong ]] || die "these volumes are not where their pods are: $wrong"
  so 51 picked "[.items[] | select(.spec.claimRef.namespace == \"$namespace\")] | length" kubectl get pv -o json
  so "" refusals
}

# give_up_retained HANDLE : its PersistentVolume, if there is one, may go with its claim; else the volume is deleted.
give_up_retained() {
  local volume
  volume=$(picked ".items[] | select(.spec.csi.volumeHandle == \"$1\") | .metadata.name" kubectl get pv -o json) || return
  if [[ -z $volume ]]; then
    in_controller volume delete "$1"
    return
  fi
  kubectl annotate --overwrite pv "$volume" pv.kubernetes.io/provisioned-by=csi.rockpool.dev &&
    kubectl patch pv "$volume" --patch '{"spec": {"persistentVolumeReclaimPolicy": "Delete"}}'
}

# What is retained stays until it is asked for again, by a PersistentVolume that a person wrote, and goes when that may.
scene_is_retained_and_taken_again() {
  claim a 64Mi t-retain
  pod a a
  ready a
  put a kept
  local volume handle place
  volume=$(volume_of a) place=$(place_of a)
  handle=$(kubectl get pv "$volume" -o jsonpath='{.spec.csi.volumeHandle}')
  later give_up_retained "$handle"
  k delete pod/a pvc/a --timeout=60s >/dev/null
  kubectl wait "pv/$volume" --for=jsonpath='{.status.phase}'=Released --timeout=30s >/dev/null
  kubectl delete pv "$volume" --timeout=30s >/dev/null
  kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: static-$namespace}
spec:
  capacity: {storage: 64Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Delete
  storageClassName: t-retain
  claimRef: {namespace: $namespace, name: again}
  csi: {driver: csi.rockpool.dev, volumeHandle: $handle, fsType: ext4}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.rockpool.dev/node, operator: In, values: [$place]}]}]}}
END
  claim again 64Mi t-retain
  pod again again
  ready again
  so kept get again
  # It must be the provisioner's to delete.
  kubectl annotate pv "static-$namespace" pv.kubernetes.io/provisioned-by=csi.rockpool.dev >/dev/null
}

# A block device of exactly the size.
scene_is_a_raw_block_device() {
  claim a 16Mi rockpool ReadWriteOnce Block
  run_pod a <<END
containers: [{name: c, image: $busybox, command: [sleep, "3600"], volumeDevices: [{name: data, devicePath: /dev/raw}]}]
volumes: [{name: data, persistentVolumeClaim: {claimName: a}}]
END
  ready a
  so $((16 << 20)) k exec a -- blockdev --getsize64 /dev/raw
  k exec a -- sh -c 'echo raw | dd of=/dev/raw bs=512 seek=100 conv=fsync,notrunc 2>/dev/null'
  so raw k exec a -- sh -c 'dd if=/dev/raw bs=512 skip=100 count=1 2>/dev/null | head -n 1'
}

scene_has_the_filesystem_of_its_class() {
  claim e 64Mi rockpool
  claim x 320Mi t-xfs
  pod e e
  pod x x
  ready e x
  so ext4 k exec e -- awk '$2 == "/data" { print $3 }' /proc/mounts
  so xfs k exec x -- awk '$2 == "/data" { print $3 }' /proc/mounts
}

# A user who is not root owns the files by the group of the pod, and two containers see a part of the volume each.
scene_belongs_to_the_group_and_in_parts() {
  claim a 64Mi
  run_pod a <<END
securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 1234}
containers:
  - {name: c, image: $busybox, command: [sleep, "3600"], volumeMounts: [{name: data, mountPath: /data}]}
  - {name: one, image: $busybox, command: [sleep, "3600"], volumeMounts: [{name: data, mountPath: /data, subPath: one}]}
  - {name: two, image: $busybox, command: [sleep, "3600"], volumeMounts: [{name: data, mountPath: /data, subPath: two}]}
volumes: [{name: data, persistentVolumeClaim: {claimName: a}}]
END
  ready a
  k exec a -c c -- sh -c 'echo mine > /data/mine'
  so 1234 k exec a -c c -- stat -c %g /data/mine
  k exec a -c one -- sh -c 'echo 1 > /data/file'
  k exec a -c two -- sh -c 'echo 2 > /data/file'
  so "1 2" k exec a -c c -- sh -c 'echo $(cat /data/one/file /data/two/file)'
}

# The second pod waits until the first one is gone.
scene_is_for_one_pod() {
  claim a 64Mi rockpool ReadWriteOncePod
  pod first a
  ready first
  put first mine
  pod second a
  await 30 "an event that says why" event second "ReadWriteOncePod"
  k delete pod/first --timeout=60s >/dev/null
  ready second
  so mine get second
}

scene_lives_as_long_as_its_pod() {
  run_pod a <<END
containers: [{name: c, image: $busybox, command: [sleep, "3600"], volumeMounts: [{name: scratch, mountPath: /data}]}]
volumes:
  - name: scratch
    ephemeral:
      volumeClaimTemplate: {spec: {storageClassName: rockpool, accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}}
END
  ready a
  put a written
  so Bound k get pvc a-scratch -o jsonpath='{.status.phase}'
  k delete pod/a --timeout=60s >/dev/null
  await 60 "the claim is gone" prints "" k get pvc -o name
}
