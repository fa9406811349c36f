#!/usr/bin/env bash
# tests/kubernetes/node.sh NODE: the first process of a node, in its namespaces: it lays out what a node has of its own, runs containerd, kubelet and
# kube-proxy, and ends with all containers when it is told to, or when one of the three has ended.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
node=$1 home=$state/$1
containerd='' kubelet_pid='' proxy=''

# They are nobody's children, and containerd knows them. Without kubelet nothing starts anew.
end_containers() {
  local one namespace namespaces
  namespaces=$(for one in $(ctr_of "$node" containers ls -q); do
    ctr_of "$node" containers info "$one" | jq -r '.Spec.linux.namespaces[] | select(.type == "network").path // empty'
  done | sort -u)
  for one in $(ctr_of "$node" tasks ls -q); do ctr_of "$node" tasks rm -f "$one" >/dev/null 2>&1 || true; done
  for one in $(ctr_of "$node" containers ls -q); do ctr_of "$node" containers rm "$one" >/dev/null 2>&1 || true; done
  for namespace in $namespaces; do
    [[ $namespace != */netns/cni-* || ! -e $namespace ]] || ip netns del "${namespace##*/}" || true
  done
}

# Whatever it was that ended: who is killed cannot, and leaves that to down.sh.
end() {
  local status=$?
  trap '' TERM EXIT
  local one
  for one in $kubelet_pid $proxy; do kill "$one" 2>/dev/null || true; done
  for one in $kubelet_pid $proxy; do wait "$one" || true; done
  if [[ -n $containerd ]] && kill -0 "$containerd" 2>/dev/null; then
    end_containers
    kill "$containerd" || true
    wait "$containerd" || true
  fi
  exit "$status"
}
trap end TERM EXIT

for own in "$home/kubelet:$kubelet" "$home/rockpool:/var/lib/rockpool"; do
  mount --bind "${own%%:*}" "${own#*:}"
  # What a pod mounts there must reach kubelet and the other pods.
  mount --make-rshared "${own#*:}"
done
# Where the daemons keep things whatever they are told: with this node's mounts that goes, and no other kubelet of this machine sees it.
for fixed in $fixed_dirs; do mount -t tmpfs "rockpool-$node" "$fixed"; done
# Nobody has an address at the beginning of a life: the pods of the one before did not give theirs back.
rm -rf "$home/cni/ipam"
containerd --config "$home/containerd.toml" >>"$state/log/containerd-$node.log" 2>&1 &
containerd=$!
until ctr_of "$node" version >/dev/null 2>&1; do
  kill -0 "$containerd" || exit 1
  sleep 0.1
done
# What an earlier life has taken in is there.
mkdir -p "$home/imported"
for one in "$images"/*.tar; do
  [[ $home/imported/${one##*/} -nt $one ]] && continue
  ctr_of "$node" images import "$one" >/dev/null
  touch "$home/imported/${one##*/}"
done
# A kubelet that ends is started anew where somebody asked for it: see kill_kubelets of scenes/faults.sh.
kubelet_again() {
  local pid
  trap 'kill "$pid" 2>/dev/null && wait "$pid"; exit 0' TERM
  while :; do
    kubelet --config="$home/kubelet.yaml" --kubeconfig="$state/$node.conf" --root-dir="$kubelet" --hostname-override="$node" \
      --node-ip="$(node_ip "$node")" --node-labels="topology.kubernetes.io/zone=z$(number "$node")" >>"$state/log/kubelet-$node.log" 2>&1 &
    pid=$!
    echo "$pid" >"$kubelet/kubelet.pid"
    wait "$pid" || true
    rm "$state/pid/kubelet-$node-again" 2>/dev/null && continue
    # containerd answers a moment before it serves kubelets, which end where it does not.
    ((SECONDS < 15)) || return 1
    sleep 0.5
  done
}
kubelet_again &
kubelet_pid=$!
kube-proxy --kubeconfig="$state/kube-proxy.conf" --hostname-override="$node" --proxy-mode=nftables --cluster-cidr="$pod_cidr" \
  --bind-address="$(node_ip "$node")" --healthz-bind-address= --metrics-bind-address=127.0.0.1 --conntrack-max-per-core=0 \
  --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 >>"$state/log/kube-proxy-$node.log" 2>&1 &
proxy=$!
wait -n || true
