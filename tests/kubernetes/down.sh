#!/usr/bin/env bash
# tests/kubernetes/down.sh: stops what up.sh started, and removes all that it left: containers, mounts, loop devices, cgroups, namespaces, files.
# It can be repeated, also after a crash.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
[[ -d $state || -e /run/netns/$netns ]] || { say "nothing is there"; exit 0; }
began=$SECONDS

for node in "${nodes[@]}"; do stop "node-$node" 60 & done
wait
for name in snapshot-controller kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "$name" 10; done

# What a node leaves that was killed: who starts containers, found by the network, and then the containers by their cgroup.
for network in "${nodes[@]/#/$netns-}" "$netns"; do kill_inside "$network"; done
for node in "${nodes[@]}"; do
  find /sys/fs/cgroup -path "*/rockpool-$node/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | xargs --no-run-if-empty kill -KILL 2>/dev/null || true
done

# Loop devices over files of ours, before the files go; one that is still in use goes with its last user.
losetup --noheadings --raw --output NAME,BACK-FILE | while read -r device file; do
  case $file in "$state"/* | /var/lib/rockpool/*) losetup --detach "$device" || true ;; esac
done
under() { awk -v a="$state/" -v b="$run/" '{ if (index($5 "/", a) == 1 || index($5 "/", b) == 1) print $5 }' /proc/self/mountinfo; }
for _ in 1 2 3; do
  under | tac | while read -r point; do umount -l "$(printf '%b' "$point")" 2>/dev/null || true; done
done
[[ -z $(under) ]] || die "still mounted: $(under)"
for node in "${nodes[@]}"; do
  find /sys/fs/cgroup -maxdepth 2 -type d -name "rockpool-$node" 2>/dev/null | while read -r group; do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
  # Those of its pods were made by its network plugin, and have one end of a cable in it.
  for pod in /run/netns/cni-*; do
    mountpoint -q "$pod" || rm -f "$pod"
    [[ ! -e $pod || $(nsenter --net="$pod" ip route 2>/dev/null) != *"$(node_pods "$node" | cut -d. -f1-3)."* ]] || ip netns del "${pod##*/}" || true
  done
  ip netns del "$netns-$node" 2>/dev/null || true
done
# The veth pair goes with it.
ip netns del "$netns" 2>/dev/null || true
ip link del "$veth" 2>/dev/null || true
if [[ -e $state/sysctls ]]; then
  while IFS=: read -r name value; do echo "$value" >"/proc/sys/$name"; done <"$state/sysctls" || true
fi
[[ ! -e $state/made ]] || xargs --no-run-if-empty rmdir <"$state/made" 2>/dev/null || true
rm -rf --one-file-system "$state" "$run"
rmdir /var/lib/rockpool 2>/dev/null || true
say "all of it is gone after $((SECONDS - began)) s"
