# shellcheck shell=bash disable=SC2034  # sourced; the names are used by the other scripts
# Directories, addresses and helpers of the scripts here.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.sh
. "$here/versions.sh"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/rockpool/kubernetes
bin=$cache/bin
images=$cache/images
state=/var/lib/rockpool-kubernetes
run=/run/rockpool-kubernetes
# The same path on every node, in a mount namespace of its own.
kubelet=$state/kubelet
# Where containerd, kubelet and the network plugins write, too.
fixed_dirs="/var/lib/cni /var/lib/kubelet /var/log/containers /run/containerd"
# What a run leaves to be read, also when the cluster is gone.
evidence=$(realpath -m "${CARGO_TARGET_DIR:-$here/../../target}")/kubernetes

# The control plane has a network namespace, and so has each node; a veth pair joins the first one to the host, so that one kubeconfig
# serves the host, the nodes and the pods. Nothing else is routed.
netns=rockpool-k8s
veth=rpk8s
control_ip=10.98.0.1
host_ip=10.98.0.2
service_cidr=10.96.0.0/16
dns_ip=10.96.0.10
pod_cidr=10.244.0.0/16
nodes=(n1 n2)

export PATH=$bin:$PATH:/usr/local/go/bin:/usr/sbin:/sbin
export KUBECONFIG=$state/admin.conf

say() { printf 'kubernetes: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# number NODE : 1, 2, …
number() { echo "${1#n}"; }
node_ip() { echo "10.98.$(number "$1").2"; }
gateway_ip() { echo "10.98.$(number "$1").1"; }
node_pods() { echo "10.244.$(number "$1").0/24"; }

# inside COMMAND... : runs it in the network of the control plane; on NODE COMMAND... : in that of a node; beside NODE COMMAND... : there and
# among its mounts.
inside() { nsenter --net="/run/netns/$netns" -- "$@"; }
on() { nsenter --net="/run/netns/$netns-$1" -- "${@:2}"; }
beside() { nsenter --target "$(running "node-$1")" --mount --net -- "${@:2}"; }

# kill_inside NETWORK : who still lives in a network of ours was started by us, and left by a start that was broken off, or by somebody who was killed.
kill_inside() { ip netns pids "$1" 2>/dev/null | xargs --no-run-if-empty kill -KILL 2>/dev/null || true; }

# plug NODE : gives it a network, by a cable to that of the control plane; unplug NODE : takes it away again.
plug() {
  ip netns add "$netns-$1"
  inside ip link add "$1" type veth peer name eth0 netns "$netns-$1"
  inside ip addr add "$(gateway_ip "$1")/30" dev "$1"
  inside ip link set "$1" up
  inside ip route add "$(node_pods "$1")" via "$(node_ip "$1")"
  on "$1" ip link set lo up
  on "$1" ip addr add "$(node_ip "$1")/30" dev eth0
  on "$1" ip link set eth0 up
  on "$1" ip route add default via "$(gateway_ip "$1")"
  on "$1" sysctl -qw net.ipv4.ip_forward=1
}
unplug() {
  kill_inside "$netns-$1"
  # By name, since a cable whose namespace ends goes a moment later, and its name is wanted again.
  inside ip link del "$1" 2>/dev/null || true
  ip netns del "$netns-$1" 2>/dev/null || true
}

# boot NODE : starts its daemons, in a network that is made for this life, and in a mount namespace in which what it has of its own lies at the
# usual paths.
boot() {
  unplug "$1"
  plug "$1"
  start "node-$1" nsenter --net="/run/netns/$netns-$1" -- unshare --mount --propagation private "$here/node.sh" "$1"
}

# present : whether a cluster is here. Dies where only a part of it is: nothing that is tried on it would mean anything.
present() {
  local name
  [[ -e $state ]] || return 1
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler snapshot-controller "${nodes[@]/#/node-}"; do
    running "$name" >/dev/null || die "a cluster is here, but its $name does not run: make cluster-down, then again"
  done
}

# archive NAME:TAG : where mkimage puts that image.
archive() { echo "$images/$(tr '/:' '__' <<<"$1").tar"; }
# ctr_of NODE ARGUMENT... : the containerd of a node.
ctr_of() { ctr --address "$run/$1/containerd.sock" --namespace k8s.io "${@:2}"; }

# start NAME COMMAND... : runs a daemon; its log and its pid, with the time of its start, for pids are used again, go under $state.
start() {
  local name=$1
  shift
  ! running "$name" >/dev/null 2>&1 || die "$name runs already"
  setsid "$@" >>"$state/log/$name.log" 2>&1 </dev/null &
  echo "$! $(starttime $!)" >"$state/pid/$name"
}

# starttime PID : in ticks; nothing where it has ended. A zombie has: pid 1 may reap late.
starttime() { sed -n 's/.*) //; /^[ZX]/!p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# running NAME : prints the pid of a daemon that start() has started; fails where it has ended.
running() {
  local pid started
  [[ -e $state/pid/$1 ]] && read -r pid started <"$state/pid/$1" && [[ $(starttime "$pid") == "$started" ]] && echo "$pid"
}

# stop NAME [SECONDS] : TERM, then KILL after so many seconds.
stop() {
  local pid end=$((SECONDS + ${2:-10}))
  [[ -e $state/pid/$1 ]] || return 0
  if pid=$(running "$1"); then
    kill "$pid" || true
    while running "$1" >/dev/null && ((SECONDS < end)); do sleep 0.1; done
    if running "$1" >/dev/null; then
      say "$1 did not end within ${2:-10} s, and is killed"
      kill -KILL "$pid"
    fi
  fi
  rm -f "$state/pid/$1"
}

# keep_logs : of a cluster in which something failed, with what it told.
keep_logs() {
  [[ -d $state/log ]] || return 0
  rm -rf "$evidence/log"
  mkdir -p "$evidence"
  cp -r "$state/log" "$evidence/log"
  kubectl get events -A --sort-by=.metadata.creationTimestamp >"$evidence/events.txt" 2>&1 || true
  say "failed; the logs of the cluster are in $evidence/log, what it told in $evidence/events.txt"
}

# prints WANT COMMAND... : whether it succeeds and prints that; more_than NUMBER COMMAND... : and prints a larger number.
prints() {
  local want=$1 got
  shift
  got=$("$@") && [[ $got == "$want" ]]
}
more_than() {
  local least=$1 got
  shift
  got=$("$@") && [[ $got =~ ^[0-9]+$ ]] && ((got > least))
}
# picked FILTER COMMAND... : what jq takes out of what a command prints; fails where the command does, or prints nothing.
picked() {
  local filter=$1 got
  shift
  got=$("$@") && [[ -n $got ]] && jq -r "$filter" <<<"$got"
}

# await SECONDS WHAT COMMAND... : until the command succeeds. If WHAT is a daemon, it must live. A function will do as a command, and must not rely
# on errexit.
await() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "gave up waiting for $what: see $state/log"
    [[ ! -e $state/pid/$what ]] || running "$what" >/dev/null || die "$what has ended: see $state/log/$what.log"
    sleep 0.2
  done
}
