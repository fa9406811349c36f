# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# What a real Prometheus knows of the driver, and when it cries; what operators are told by Events, and when they ask.

# shellcheck source=../monitoring.sh
. "$here/monitoring.sh"

# pages : name and address of every pod of ours.
pages() { picked '.items[] | .metadata.name + " " + .status.podIP' r get pods -l app.kubernetes.io/name=rockpool -o json; }

scene_prometheus_sees_it() {
  local pod address query board list
  watch_driver
  # Something of everything: made, mounted, cut, restored on the other node, refused.
  claim one 64Mi
  pod one one n1
  ready one
  put one here
  take cut one
  claim away 64Mi t-copy ReadWriteOnce Filesystem "$(cut_of cut)"
  pod away away n2
  ready away
  claim huge 900Gi t-now
  await 30 "a refusal" has_data 'rockpool_calls_total{method="CreateVolume", code!="OK"} > 0'
  await 30 "both volumes" prints 2 value_of 'sum(rockpool_volumes)'
  await 30 "the snapshot" prints 1 value_of 'sum(rockpool_snapshots)'
  await 30 "what went between nodes" has_data 'rockpool_transfers_total{direction="received", result="whole", instance="n2"} >= 1'
  prints 2 value_of 'max(rockpool_nodes{state="told"})'
  prints 2 value_of 'count(rockpool_kubelet_registered == 1)'
  prints 2 value_of 'min(rockpool_link_controllers)'
  prints 2 value_of 'count(rockpool_pool_used_bytes + rockpool_pool_free_bytes == rockpool_pool_size_bytes)'
  await 90 "a look at the volumes" prints 0 value_of 'sum(rockpool_volumes_unhealthy)'
  k delete pvc huge >/dev/null

  list=$(pages)
  while read -r pod address; do
    k exec prometheus -- /bin/busybox wget -qO- "http://$address:9808/metrics" </dev/null | "$bin/promtool" check metrics >"$evidence/promtool" 2>&1 ||
      die "the metrics of $pod break the conventions: $(<"$evidence/promtool")"
  done <<<"$list"
  for board in fleet node; do
    # Those of panels, and those that its variables choose from.
    list=$(jq -r '(.panels[].targets[]?.expr), (.templating.list[]? | .query | (.query? // .) | strings | capture("^label_values\\((?<of>.*),[^,]*\\)$").of)' "$monitoring/$board.json")
    while read -r query; do
      (await 20 "data" has_data "${query//\$instance/n1}") 2>/dev/null </dev/null || die "the dashboard $board has no data for: $query"
    done <<<"$list"
    say "the dashboard $board: $(wc -l <<<"$list") queries, all with data"
  done
  # A claim that fits nowhere is no fault of the driver.
  list=$(rows_of 'ALERTS{alertstate="firing"}')
  [[ $(jq length <<<"$list") == 0 ]] || die "alerts fire: $list"
}

pool=/var/lib/rockpool/pools/fast
in_pool() { beside "$1" bash -c "set -e; cd $pool; $2"; }
# restarted NODE : the driver there, by another pod. go_on PID... : those that are there still.
restarted() {
  r delete "$(driver_on "$1")" --wait=true --timeout=60s >/dev/null
  drivers_ready
}
go_on() { kill -CONT "$@" 2>/dev/null || true; }
handle_of() { kubectl get pv "$(volume_of "$1")" -o jsonpath='{.spec.csi.volumeHandle}'; }
# attached NAME : the loop devices that show it. They are the machine's, paths the node's.
attached() { losetup --list --noheadings --output BACK-FILE | { grep -F "$1" || true; }; }

# made_slowly CLAIM... : while the drivers of both nodes stand still for a moment.
made_slowly() {
  local pids one
  mapfile -t pids < <(pgrep -f '^(/usr/bin/)?rockpool node ')
  ((${#pids[@]} == ${#nodes[@]})) || die "want a driver on each node, and found ${#pids[@]}"
  later go_on "${pids[@]}"
  kill -STOP "${pids[@]}"
  for one; do claim "$one" 16Mi t-now; done
  sleep 5
  kill -CONT "${pids[@]}"
}

scene_alerts_fire() {
  local number total bad ill stranger
  watch_driver

  # A class that asks for what there is not.
  later kubectl delete storageclass t-wrong --ignore-not-found
  class t-wrong Immediate Delete zfs
  # The first of them only begins to be counted.
  for number in $(seq 6); do
    claim "wrong-$number" 16Mi t-wrong
    sleep 3
  done
  await 60 "failing" fires RockpoolProvisioningFailing 'method="CreateVolume"'
  for number in $(seq 6); do k delete pvc "wrong-$number" >/dev/null; done
  # Drivers that take their time.
  made_slowly one two three
  await 60 "slow" fires RockpoolProvisioningSlow 'method="CreateVolume"'

  # Nearly all of the pool of n1 is promised, and then others take the place.
  total=$(in_pool n1 "df --block-size=1 --output=size . | tail -n 1")
  claim full "$((total * 92 / 100 / 1048576))Mi"
  pod full full n1
  ready full
  await 30 "filling" fires RockpoolPoolFilling 'pool="fast", instance="n1"'
  prints 0 picked length rows_of 'ALERTS{alertname="RockpoolThinPoolInDanger"}' || die "there is room still"
  later in_pool n1 "rm -f others"
  in_pool n1 "fallocate -l \$((\$(df --block-size=1 --output=avail . | tail -n 1) - $total * 9 / 100)) others"
  await 180 "in danger" fires RockpoolThinPoolInDanger 'pool="fast", instance="n1"'
  in_pool n1 "rm others"
  k delete pod full >/dev/null
  k delete pvc full >/dev/null

  # A record that is no record, bytes that have none, and a volume without its bytes.
  claim bad 16Mi
  claim ill 16Mi
  pod bad bad n2
  pod ill ill n2
  ready bad ill
  bad=$(handle_of bad)
  ill=$(handle_of ill)
  k delete pod bad ill >/dev/null
  await 30 "no device of them" prints "" attached "$bad"
  await 30 "no device of them" prints "" attached "$ill"
  stranger=${bad%.*}.0123456789abcdef
  later restarted n2
  later in_pool n2 "rm -f volumes/$stranger; [ ! -e ../kept-ill ] || mv ../kept-ill volumes/$ill; [ ! -e ../kept-bad ] || mv ../kept-bad records/$bad"
  in_pool n2 "cp records/$bad ../kept-bad; echo nonsense >records/$bad; cp --sparse=always volumes/$bad volumes/$stranger; cp --sparse=always volumes/$ill ../kept-ill; rm volumes/$ill"
  restarted n2
  await 60 "quarantined" fires RockpoolRecordQuarantined 'pool="fast", instance="n2"'
  await 60 "orphans" fires RockpoolOrphanFound 'pool="fast", instance="n2"'
  await 120 "ill" fires RockpoolVolumeUnhealthy 'pool="fast", instance="n2"'

  # The nodes have nobody to talk to.
  later r rollout status statefulset/rockpool-controller --timeout=120s
  later r scale statefulset/rockpool-controller --replicas=2
  r scale statefulset/rockpool-controller --replicas=0 >/dev/null
  await 90 "no link" fires RockpoolNodeLinkDown 'instance="n1"'
}

# why CLAIM : what is wrong with it, as one code for each cause, as `rockpool ctl why` says with the rights of an operator. It fails where something is
# wrong, and says it all the same.
why() { { "$work/rockpool" ctl why -n "$namespace" -o json "$1" || true; } | jq -er '[.causes[].code] | join(" ")'; }
# because CODE CLAIM : whether that is it.
because() { prints "$1" why "$2"; }

# One after the other, everything that a claim can wait for here.
scene_says_why_it_waits() {
  local work
  work=$(mktemp -d)
  later rm -rf "$work"
  cp "/proc/$(pid_of n1 "$(driver_on n1)" rockpool)/root/usr/bin/rockpool" "$work/rockpool"

  so claim-missing why nobody
  claim waits 16Mi
  await 30 "no-consumer" because no-consumer waits
  claim huge 900Gi
  pod huge huge
  await 30 "no-room" because no-room huge
  claim vast 900Gi t-now
  await 30 "provisioning-failed" because provisioning-failed vast
  claim classless 16Mi t-there-is-no-such
  await 30 "class-missing" because class-missing classless
  later kubectl delete storageclass t-wrong --ignore-not-found
  class t-wrong Immediate Delete zfs
  claim wrong 16Mi t-wrong
  await 30 "provisioning-failed" because provisioning-failed wrong
  claim shared 16Mi t-now ReadWriteMany
  await 30 "access-mode" because access-mode shared
  claim copy 16Mi t-now ReadWriteOnce Filesystem "$(cut_of nothing)"
  await 30 "source-missing" because source-missing copy
  claim gated 16Mi
  { pod_yaml gated gated; echo '  schedulingGates: [{name: example.com/wait}]'; } | k apply -f - >/dev/null
  await 30 "gated" because gated gated
  claim nowhere 16Mi
  pod nowhere nowhere n9
  await 30 "pod-fits-nowhere" because pod-fits-nowhere nowhere

  claim bound 16Mi
  pod bound bound n1
  claim large 8Gi
  pod large large n1
  ready bound large
  so bound why bound
  grow bound 9Gi
  await 60 "resize-no-room" because resize-no-room bound
  k delete pvc bound --wait=false >/dev/null
  await 30 "deleting" because deleting bound
  claim closed 16Mi
  pod closed closed n2
  ready closed
  k delete pod closed >/dev/null
  later kubectl uncordon n2
  kubectl cordon n2 >/dev/null
  pod closed closed n2
  await 30 "node-closed" because node-closed closed
  kubectl uncordon n2 >/dev/null

  # The same in a controller, and when there is none.
  so no-room picked '.causes[0].code' in_controller_why huge
  later r rollout status statefulset/rockpool-controller --timeout=120s
  later r scale statefulset/rockpool-controller --replicas=2
  r scale statefulset/rockpool-controller --replicas=0 >/dev/null
  claim late 16Mi t-now
  await 90 "provisioner-away" because provisioner-away late
}
in_controller_why() { r exec rockpool-controller-0 -c rockpool -- rockpool ctl why -n "$namespace" -o json "$1" 2>/dev/null || true; }

# told REASON KIND NAME [TEXT] : whether one Event since $since says that about this object, and no second one. Those about nodes outlive their scene.
told() { prints 1 picked length events_of "$@"; }
events_of() {
  picked "[.items[] | select(.reason == \"$1\" and .regarding.kind == \"$2\" and .regarding.name == \"$3\" and (.note | contains(\"${4:-}\"))
    and .reportingController == \"csi.rockpool.dev\" and (.series.lastObservedTime // .eventTime) > \"$since\")]" kubectl get events.v1.events.k8s.io -A -o json
}
# figure_of POD METRIC : one without labels, of a controller; has_compared : whether the one that leads has found one PersistentVolume without a volume.
figure_of() {
  local address
  address=$(r get "$1" -o jsonpath='{.status.podIP}') && k exec away -- wget -qO- "http://$address:9808/metrics" | awk -v name="$2" '$1 == name { print $2 }'
}
has_compared() {
  local pod
  for pod in pod/rockpool-controller-0 pod/rockpool-controller-1; do
    if prints 1 figure_of "$pod" rockpool_leader; then
      prints 1 figure_of "$pod" rockpool_persistentvolumes_without_volume
      return
    fi
  done
  return 1
}

scene_is_told_by_events() {
  local made lone since
  since=$(date -u +%FT%T.%6NZ)
  later install_for_scenes
  install_for_scenes --set controller.auditIntervalSeconds=10
  later kubectl delete storageclass t-watched --ignore-not-found
  kubectl apply -f - >/dev/null <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: t-watched}
provisioner: csi.rockpool.dev
volumeBindingMode: WaitForFirstConsumer
parameters: {reportNodeGoneAfter: 5s}
END
  claim away 16Mi t-watched
  pod away away n2
  claim empty 16Mi t-now
  ready away
  bound empty

  # A volume without a PersistentVolume, and one the other way round.
  made=$(in_controller volume create "$namespace" --size 16MiB -o json)
  lone=$(jq -r .volume_id <<<"$made")
  later in_controller volume delete "$lone"
  in_controller volume delete "$(handle_of empty)" >/dev/null

  # A node that says nothing, for longer than the class allows.
  later let_go_on n2
  kill -STOP "$(kubelet_of n2)"
  await 120 "a word about n2" told NodeGone Node n2
  await 30 "a word about the claim" told NodeGone PersistentVolumeClaim away
  let_go_on n2
  await 90 "n2 is back" node_is n2 True

  await 240 "a word about the volume" told VolumeWithoutPersistentVolume Node "$(jq -r '.accessible_topology[0]["topology.csi.rockpool.dev/node"]' <<<"$made")" "$lone"
  await 60 "a word about the PersistentVolume" told PersistentVolumeWithoutVolume PersistentVolumeClaim empty
  so volume-missing picked '.causes[0].code' in_controller_why empty
  # Who leads next finds it, and does not say it again.
  r delete pod rockpool-controller-0 rockpool-controller-1 >/dev/null
  drivers_ready
  await 240 "the next leader has found it" has_compared
  sleep 15
  so "1 null" picked '"\(length) \(.[0].series)"' events_of PersistentVolumeWithoutVolume PersistentVolumeClaim empty
}
