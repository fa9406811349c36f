# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# What a real Prometheus knows of the driver, and when it cries.

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
    list=$(jq -r '.panels[].targets[]?.expr' "$monitoring/$board.json")
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
# restarted NODE : the driver there, by another pod.
restarted() {
  r delete "$(driver_on "$1")" --wait=true --timeout=60s >/dev/null
  drivers_ready
}
handle_of() { kubectl get pv "$(volume_of "$1")" -o jsonpath='{.spec.csi.volumeHandle}'; }
# attached NAME : the loop devices that show it. They are the machine's, paths the node's.
attached() { losetup --list --noheadings --output BACK-FILE | { grep -F "$1" || true; }; }

# made_slowly CLAIM... : while the drivers of both nodes stand still for a moment.
made_slowly() {
  local pids one
  mapfile -t pids < <(pgrep -f '^(/usr/bin/)?rockpool node ')
  ((${#pids[@]} == ${#nodes[@]})) || die "want a driver on each node, and found ${#pids[@]}"
  later kill -CONT "${pids[@]}"
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
  # What others take is counted when a pool is opened, and by the hour.
  later restarted n1
  restarted n1
  await 90 "in danger" fires RockpoolThinPoolInDanger 'pool="fast", instance="n1"'
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
