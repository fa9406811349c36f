# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# What goes wrong in a cluster, and is done to one, while pods read and write.

# writer NAME NODE : a pod that writes, syncs and reads back all the time; the first error ends it.
writer() {
  claim "$1" 64Mi
  pod "$1" "$1" "$2" 'i=0; while i=$((i + 1)); do dd if=/dev/urandom of=/data/new bs=4k count=16 conv=fsync 2>/dev/null && cmp /data/new /data/new && echo $i > /data/count || exit 1; done'
  ready "$1"
  await 30 "$1 writes" k_has_count "$1"
}
k_has_count() { kubectl --namespace "$namespace" exec "$1" -- test -s /data/count; }
mount_of() { k exec "$1" -- awk '$5 == "/data" { print $1 }' /proc/self/mountinfo; }
count_of() { k exec "$1" -- cat /data/count; }

# undisturbed COMMAND... : what it does is not noticed by a writer on each node: no error, no other mount, no start anew.
undisturbed() {
  local node before mounts=() counts=()
  for node in "${nodes[@]}"; do
    mounts+=("$(mount_of "w-$node")")
    counts+=("$(count_of "w-$node")")
  done
  "$@"
  for node in "${nodes[@]}"; do
    so "${mounts[0]}" mount_of "w-$node" >/dev/null
    before=${counts[0]}
    await 30 "w-$node goes on writing" bash -c "(( \$(kubectl -n $namespace exec w-$node -- cat /data/count) > $before + 5 ))"
    so "Running 0" k get pod "w-$node" -o jsonpath='{.status.phase} {.status.containerStatuses[0].restartCount}' >/dev/null
    mounts=("${mounts[@]:1}") counts=("${counts[@]:1}")
  done
}
writers() {
  local node
  for node in "${nodes[@]}"; do writer "w-$node" "$node"; done
}

# pid_of NODE POD CONTAINER : of its first process, as the host counts.
pid_of() {
  local id
  id=$(r get "$2" -o jsonpath="{.status.containerStatuses[?(@.name == '$3')].containerID}")
  ctr_of "$1" tasks ls | awk -v id="${id#containerd://}" '$1 == id { print $2 }'
}
kill_driver() {
  local pod
  pod=$(driver_on n1)
  kill -KILL "$(pid_of n1 "$pod" rockpool)"
  await 30 "the driver was started anew" bash -c "(( \$(kubectl -n rockpool get $pod -o jsonpath='{.status.containerStatuses[?(@.name == \"rockpool\")].restartCount}') > 0 ))"
  drivers_ready
}
roll_drivers() {
  r rollout restart daemonset/rockpool-node-default >/dev/null
  drivers_ready
}
restart_kubelet() {
  local node
  for node in "${nodes[@]}"; do
    touch "$state/pid/kubelet-$node-again"
    kill -KILL "$(cat "$state/$node/kubelet/kubelet.pid")"
  done
  # Its lease says that it is back.
  sleep 15
  for node in "${nodes[@]}"; do kubectl wait "node/$node" --for=condition=Ready --timeout=60s >/dev/null; done
}

# The driver killed, its pods replaced, kubelet killed: nobody who has a volume notices, and the next one gets his.
scene_goes_on_without_its_driver() {
  writers
  undisturbed kill_driver
  undisturbed roll_drivers
  undisturbed restart_kubelet
  claim after 64Mi
  pod after after n1
  ready after
}

# leader NAME : the pod that holds a sidecar's lease.
leader() { r get lease "$1" -o jsonpath='{.spec.holderIdentity}'; }

# Every claim of a burst gets one volume, also where who provisions is killed in the middle.
scene_survives_the_death_of_its_leader() {
  local number holder
  for number in $(seq 30); do claim "c$number" 16Mi t-now; done &
  sleep 3
  holder=$(leader csi-rockpool-dev)
  r delete pod "$holder" --force --grace-period=0 >/dev/null 2>&1
  wait
  await 120 "thirty bound claims" bash -c "[[ \$(kubectl -n $namespace get pvc -o json | jq '[.items[] | select(.status.phase == \"Bound\")] | length') == 30 ]]"
  so 30 bash -c "kubectl get pv -o json | jq '[.items[] | select(.spec.claimRef.namespace == \"$namespace\")] | length'"
  r rollout status statefulset/rockpool-controller --timeout=120s >/dev/null
}

stateful_set() {
  k apply -f - >/dev/null <<END
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: app}
spec:
  serviceName: app
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}, {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}]
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: app}}}
      containers:
        - {name: c, image: $busybox, command: [sleep, "3600"], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], storageClassName: rockpool, resources: {requests: {storage: 64Mi}}}
END
  k rollout status statefulset/app --timeout=90s >/dev/null
  put app-0 "of app-0"
  put app-1 "of app-1"
}
# on_node NODE : the pod of the set that runs there.
on_node() { k get pods -l app=app -o json | jq -r --arg node "$1" '.items[] | select(.spec.nodeName == $node) | .metadata.name'; }

# A pod whose node is drained waits for it, since its volume is there, and has everything when it is back.
scene_waits_for_a_drained_node() {
  stateful_set
  local moved
  moved=$(on_node n2)
  kubectl drain n2 --ignore-daemonsets --delete-emptydir-data --force --timeout=90s >/dev/null 2>&1
  await 30 "an event that says why" event "$moved" "node(s)"
  kubectl uncordon n2 >/dev/null
  k rollout status statefulset/app --timeout=120s >/dev/null
  so "of $moved" get "$moved"
  so n2 node_of "$moved"
  kubectl --namespace kube-system rollout status deployment/coredns --timeout=60s >/dev/null
}

node_is() { kubectl get node "$1" -o json | jq -e --arg status "$2" '.status.conditions[] | select(.type == "Ready") | .status == $status' >/dev/null; }

# A node that reboots comes back with everything, and its pods go on.
scene_survives_a_reboot() {
  stateful_set
  local there
  there=$(on_node n1)
  stop node-n1 60
  await 90 "n1 is missed" node_is n1 Unknown
  local booted
  booted=$(date -u +%FT%TZ)
  boot n1
  await 90 "n1 is back" node_is n1 True
  await 120 "its pod runs" bash -c "kubectl -n $namespace get pod $there -o json | jq -e '.status.containerStatuses[0] | .ready and .state.running.startedAt > \"$booted\"'"
  drivers_ready
  so "of $there" get "$there"
  k delete pod "$there" --timeout=60s >/dev/null
  k rollout status statefulset/app --timeout=90s >/dev/null
  so "of $there" get "$there"
}
