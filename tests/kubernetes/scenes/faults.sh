# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# What goes wrong in a cluster, and is done to one, while pods read and write.

# What a writer runs: random bytes are written, synced, read back from the disk, past the cache, and compared; the first error ends it. How often,
# and the longest pause between two times, in hundredths of a second, are in /data/count.
writing='
set -e
clock() { read up rest </proc/uptime; now=${up%.*}${up#*.}; }
i=0 longest=0
clock
while :; do
  last=$now
  dd if=/dev/urandom of=/tmp/want bs=64k count=1 iflag=fullblock 2>/dev/null
  dd if=/tmp/want of=/data/new bs=64k conv=fsync 2>/dev/null
  dd if=/data/new of=/tmp/got bs=64k iflag=direct 2>/dev/null
  cmp /tmp/want /tmp/got
  i=$((i + 1))
  clock
  [ $((now - last)) -le $longest ] || longest=$((now - last))
  echo $i $longest >/data/count.new
  mv /data/count.new /data/count
  sleep 0.05
done'
# The longest that a writer may be held up. Nothing of what is done to the driver should hold it up at all: the machine is slow.
patience=1000

# writer NAME NODE : a pod that does so.
writer() {
  claim "$1" 64Mi
  pod "$1" "$1" "$2" "$writing"
  ready "$1"
  await 30 "$1 writes" more_than 0 count_of "$1"
}
writers() {
  local node
  for node in "${nodes[@]}"; do writer "w-$node" "$node"; done
}
count_of() { k exec "$1" -- cut -d' ' -f1 /data/count; }
longest_of() { k exec "$1" -- cut -d' ' -f2 /data/count; }
# mounts_on NODE : the mounts of volumes, as the node sees them, by id, device and path; notes_on NODE : what its driver has noted about them, but for
# the mount's id, which is another one in each container.
mounts_on() { beside "$1" awk -v below="$kubelet/" 'index($5, below) == 1 && $3 ~ /^7:/ { print $1, $3, $5 }' /proc/self/mountinfo; }
notes_on() { find "$state/$1/rockpool/mounts" -type f -exec jq -cS 'del(.mount, .shows.root)' {} + | sort; }

# undisturbed COMMAND... : what it does is not noticed by a writer on each node: no error, no pause, no other mount, no start anew.
undisturbed() {
  local node at=0 longest now kept=() counts=()
  for node in "${nodes[@]}"; do
    kept+=("$(mounts_on "$node")")
    [[ ${kept[-1]} == *"/globalmount"* ]] || die "$node has no volume mounted that could stay so: ${kept[-1]}"
    counts+=("$(count_of "w-$node")")
    [[ ${counts[-1]} =~ ^[0-9]+$ ]] || die "w-$node counts ${counts[-1]}"
  done
  "$@"
  for node in "${nodes[@]}"; do
    now=$(mounts_on "$node")
    [[ $now == "${kept[at]}" ]] || die "other mounts on $node after $*:" "$(diff <(echo "${kept[at]}") <(echo "$now") || true)"
    await 30 "w-$node goes on writing" more_than $((counts[at] + 5)) count_of "w-$node"
    so "Running 0" k get pod "w-$node" -o jsonpath='{.status.phase} {.status.containerStatuses[0].restartCount}' >/dev/null
    longest=$(longest_of "w-$node")
    say "w-$node has never been held up for longer than $longest hundredths of a second, nor by: $*"
    ((longest <= patience)) || die "w-$node was held up for $longest hundredths of a second: want $patience at most"
    at=$((at + 1))
  done
}

# pid_of NODE POD CONTAINER : of its first process, as the host counts.
pid_of() {
  local id
  id=$(r get "$2" -o jsonpath="{.status.containerStatuses[?(@.name == '$3')].containerID}")
  ctr_of "$1" tasks ls | awk -v id="${id#containerd://}" '$1 == id { print $2 }'
}
restarts_of() { r get "$1" -o jsonpath="{.status.containerStatuses[?(@.name == 'rockpool')].restartCount}"; }
kill_driver() {
  local pod before
  pod=$(driver_on n1)
  before=$(restarts_of "$pod")
  kill -KILL "$(pid_of n1 "$pod" rockpool)"
  await 60 "the driver was started anew" more_than "$before" restarts_of "$pod"
  drivers_ready
}
roll_drivers() {
  local before after
  before=$(node_pods_of | sort)
  r rollout restart daemonset/rockpool-node-default >/dev/null
  drivers_ready
  after=$(node_pods_of | sort)
  [[ -z $(comm -12 <(echo "$before") <(echo "$after")) ]] || die "the pods of the driver were not replaced"
}

kubelet_of() { cat "$state/$1/kubelet/kubelet.pid"; }
# another_kubelet NODE PID : whether it has one that is not this; renewed NODE TIME : whether it has said since then that it lives.
another_kubelet() {
  local pid
  pid=$(kubelet_of "$1") && [[ $pid =~ ^[0-9]+$ && $pid != "$2" ]] && kill -0 "$pid"
}
renewed() {
  local said
  said=$(kubectl --namespace kube-node-lease get lease "$1" -o jsonpath='{.spec.renewTime}') && [[ $said > $2 ]]
}
kill_kubelets() {
  local node killed before=()
  for node in "${nodes[@]}"; do
    before+=("$(kubelet_of "$node")")
    touch "$state/pid/kubelet-$node-again"
    kill -KILL "${before[-1]}"
  done
  killed=$(date -u +%FT%T.%6NZ)
  for node in "${nodes[@]}"; do
    await 60 "another kubelet on $node" another_kubelet "$node" "${before[0]}"
    await 60 "a word of the kubelet of $node" renewed "$node" "$killed"
    kubectl wait "node/$node" --for=condition=Ready --timeout=60s >/dev/null
    before=("${before[@]:1}")
  done
  drivers_ready
}

# The driver killed, its pods replaced, kubelet killed: nobody who has a volume notices, and the next one gets his.
scene_goes_on_without_its_driver() {
  writers
  undisturbed kill_driver
  undisturbed roll_drivers
  undisturbed kill_kubelets
  claim after 64Mi
  pod after after n1
  ready after
}

# What was asked for with a mount is known to the next driver, too: it tells a retry from another request by it.
scene_remembers_what_was_asked_for() {
  writers
  local before
  before=$(notes_on n1)
  [[ $before == *globalmount* ]] || die "nothing is noted on n1: $before"
  kill_driver
  so "$before" notes_on n1 >/dev/null
  roll_drivers
  so "$before" notes_on n1 >/dev/null
}

# leader : the pod that holds the provisioner's lease; changes_of_leader : how often that was another one.
leader() { r get lease csi-rockpool-dev -o jsonpath='{.spec.holderIdentity}'; }
changes_of_leader() { r get lease csi-rockpool-dev -o jsonpath='{.spec.leaseTransitions}'; }
bound_claims() { picked '[.items[] | select(.status.phase == "Bound")] | length' k get pvc -o json; }
let_go_on() { kill -CONT "$(kubelet_of "$1")"; }

# Every claim of a burst gets one volume, also where who provisions, and the controller beside it, are killed in the middle and hand over nothing. Its kubelet stands still until another
# one leads: else it would be back, under the name that leads, before anybody else may.
scene_survives_the_death_of_its_leader() {
  local number holder node changes pid driver bound
  holder=$(leader)
  node=$(r get pod "$holder" -o jsonpath='{.spec.nodeName}')
  pid=$(pid_of "$node" "pod/$holder" provisioner)
  driver=$(pid_of "$node" "pod/$holder" rockpool)
  changes=$(changes_of_leader)
  [[ $pid =~ ^[0-9]+$ && $driver =~ ^[0-9]+$ && ${changes:=0} =~ ^[0-9]+$ ]] || die "no provisioner of $holder, or no driver, runs on $node"
  later let_go_on "$node"
  kill -STOP "$(kubelet_of "$node")"
  for number in $(seq 30); do claim_yaml "c$number" 16Mi t-now; done | k create -f - >/dev/null
  await 60 "five bound claims" more_than 4 bound_claims
  kill -KILL "$pid" "$driver"
  bound=$(bound_claims)
  say "the leader was killed with $bound of 30 claims bound"
  ((bound < 30)) || die "the burst was over before the leader was killed"
  await 60 "another leader" more_than "$changes" changes_of_leader
  let_go_on "$node"
  await 120 "thirty bound claims" prints 30 bound_claims
  so 30 picked "[.items[] | select(.spec.claimRef.namespace == \"$namespace\")] | length" kubectl get pv -o json
  drivers_ready
}

# server_started COMMAND... : unless it runs.
server_started() {
  running kube-apiserver >/dev/null || start kube-apiserver nsenter --net="/run/netns/$netns" -- "$@"
  await 60 kube-apiserver kubectl get --raw /readyz
}
# cut_off NUMBER SECONDS : so many claims are asked for, and while they are being bound nobody answers for so long. $back is when somebody does again.
cut_off() {
  local pid number command
  pid=$(running kube-apiserver)
  mapfile -d '' command <"/proc/$pid/cmdline"
  later server_started "${command[@]}"
  for number in $(seq "$1"); do claim_yaml "c$number" 16Mi t-now; done | k create -f - >/dev/null
  await 60 "some bound claims" more_than 6 bound_claims
  kill -KILL "$pid"
  sleep "$2"
  back=$(date -u +%FT%TZ)
  server_started "${command[@]}"
  say "the API server was away with $(bound_claims) claims bound of $(($1 + 4))"
}
made_since() { picked "[.items[] | select(.spec.claimRef.namespace == \"$namespace\" and .metadata.creationTimestamp >= \"$1\")] | length" kubectl get pv -o json; }
# restarts : of all containers of ours that are no sidecar. Those end by themselves where they cannot keep their lease.
restarts() { picked '[.items[].status.containerStatuses[] | select(.name == "rockpool") | .restartCount] | add' r get pods -l app.kubernetes.io/name=rockpool -o json; }

# Longer than the lease of any leader lasts, in the middle of a burst: no writer notices, no driver starts anew, every claim gets one volume, what was
# found before is not told again at once, and what was lost just before is found and told afterwards.
scene_goes_on_without_the_api_server() {
  local back began late
  # shellcheck disable=SC2034  # told reads it
  local since
  since=$(date -u +%FT%T.%6NZ)
  later install_for_scenes
  install_for_scenes --set controller.auditIntervalSeconds=10
  writers
  claim before 16Mi t-now
  claim meanwhile 16Mi t-now
  bound before meanwhile
  in_controller volume delete "$(handle_of before)" >/dev/null
  await 240 "a word about the first one" told PersistentVolumeWithoutVolume PersistentVolumeClaim before
  began=$(restarts)

  in_controller volume delete "$(handle_of meanwhile)" >/dev/null
  undisturbed cut_off 150 25
  await 180 "all claims bound" prints 154 bound_claims
  so 154 made_since 0 >/dev/null
  late=$(made_since "$back")
  say "$late volumes were made after the API server was back"
  ((late > 0)) || die "the burst was over before the API server was killed"
  await 240 "a word about the second one" told PersistentVolumeWithoutVolume PersistentVolumeClaim meanwhile
  so "1 null" picked '"\(length) \(.[0].series)"' events_of PersistentVolumeWithoutVolume PersistentVolumeClaim before
  so "$began" restarts
  drivers_ready
}

# set_of_two : with what its pods have written, and kept on their nodes by nothing but their volumes.
set_of_two() {
  stateful rockpool 64Mi ReadWriteOnce
  k patch statefulset app --type=json --patch '[{"op": "remove", "path": "/spec/template/spec/topologySpreadConstraints"}]' >/dev/null
  k rollout status statefulset/app --timeout=90s >/dev/null
  put app-0 "of app-0"
  put app-1 "of app-1"
}
# on_node NODE : the pod of the set that runs there.
on_node() { picked ".items[] | select(.spec.nodeName == \"$1\") | .metadata.name" k get pods -l app=app -o json; }

# A pod whose node is drained waits for it, since its volume is there, and has everything when it is back.
scene_waits_for_a_drained_node() {
  set_of_two
  local moved said
  moved=$(on_node n2)
  later kubectl uncordon n2
  said=$(kubectl drain n2 --ignore-daemonsets --delete-emptydir-data --force --timeout=90s 2>&1) || die "n2 cannot be drained: $said"
  await 30 "an event that says why" event "$moved" "didn't match PersistentVolume's node affinity"
  so Pending k get pod "$moved" -o jsonpath='{.status.phase}'
  kubectl uncordon n2 >/dev/null
  k rollout status statefulset/app --timeout=120s >/dev/null
  so "of $moved" get "$moved"
  so n2 node_of "$moved"
}

# left_of MOUNTS NODE : what still runs among these mounts, or in the cgroup of that node, or has its disk attached.
left_of() {
  local disk
  disk=$(stat -c %i "$state/$2/rockpool/fast.img") || return
  readlink /proc/[0-9]*/ns/mnt 2>/dev/null | grep -Fx "$1"
  find /sys/fs/cgroup -path "*/rockpool-$2/*" -name cgroup.procs -exec cat {} + 2>/dev/null
  losetup --noheadings --raw --output BACK-INO,NAME,BACK-FILE | awk -v disk="$disk" '$1 == disk'
  return 0
}
# started_since POD TIME : whether its container was started later, and is ready.
started_since() {
  local started
  started=$(picked '.status.containerStatuses[0] | select(.ready) | .state.running.startedAt' k get pod "$1" -o json) && [[ $started > $2 ]]
}

# A node that reboots comes back with everything, and its pods go on.
scene_survives_a_reboot() {
  set_of_two
  local there mounts booted
  there=$(on_node n1)
  mounts=$(readlink "/proc/$(running node-n1)/ns/mnt")
  later boot_again n1
  stop node-n1 60
  await 30 "the end of all that ran on n1" prints "" left_of "$mounts" n1
  await 90 "n1 is missed" node_is n1 Unknown
  booted=$(date -u +%FT%TZ)
  boot n1
  await 90 "n1 is back" node_is n1 True
  await 120 "its pod runs" started_since "$there" "$booted"
  drivers_ready
  so "of $there" get "$there"
  k delete pod "$there" --timeout=60s >/dev/null
  k rollout status statefulset/app --timeout=90s >/dev/null
  so "of $there" get "$there"
}
