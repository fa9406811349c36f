#!/usr/bin/env bash
# tests/no-leaks.sh COMMAND...: runs COMMAND and fails if it leaves a mount, a bound loop device, a process, a named network namespace, a network interface, a cgroup of ours or a file behind.
#
# COMMAND gets a fresh TMPDIR, and its processes are known by a variable in their environment, so that a daemon is found
# whatever it calls itself. Mounts, loops and processes named rockpool are compared machine-wide. Where other people mount and
# test on the same machine at the same time, LEAKS=own narrows that to what lies below COMMAND's own TMPDIR.
set -uo pipefail
[ $# -gt 0 ] || { echo "usage: tests/no-leaks.sh COMMAND..." >&2; exit 2; }
scope=${LEAKS:-all}
case $scope in all | own) ;; *) echo "no-leaks: LEAKS is $scope: must be all or own" >&2; exit 2 ;; esac

# Short: the path of a unix socket below it must fit into 108 bytes.
tmp=$(mktemp -d "${TMPDIR:-/tmp}/rp.XXXXXX")
before=$(mktemp -d "${TMPDIR:-/tmp}/rp-before.XXXXXX")
trap 'rm -rf "$before"' EXIT
run=$$.$(date +%s%N)

mounts() { awk '{ for (i = 7; $i != "-"; i++); print $5, $(i + 1), $(i + 2) }' /proc/self/mountinfo | sort; }
loops() {
  for file in /sys/block/loop*/loop/backing_file; do
    [ -r "$file" ] && echo "/dev/$(basename "$(dirname "$(dirname "$file")")") $(cat "$file" 2>/dev/null)"
  done | sort
}
named() {
  for comm in /proc/[0-9]*/comm; do
    case $(cat "$comm" 2>/dev/null) in rockpool*) ps -o pid=,args= -p "$(basename "$(dirname "$comm")")" ;; esac
  done | sort
}
ours() {
  for environ in /proc/[0-9]*/environ; do
    grep -qsz "^ROCKPOOL_TEST_RUN=$run\$" "$environ" 2>/dev/null && ps -o pid=,args= -p "$(basename "$(dirname "$environ")")"
  done | sort
}
state_dirs() {
  {
    find /run/rockpool /var/lib/rockpool -mindepth 1
    find /run/rockpool-kubernetes /var/lib/rockpool-kubernetes -maxdepth 1
    # Where kubelet, containerd and the network plugins of a cluster could write.
    find /var/lib/cni /var/lib/kubelet /var/log/containers /run/containerd
  } 2>/dev/null | sort
}
networks() { find /run/netns /var/run/netns -mindepth 1 2>/dev/null | sort; }
interfaces() { find /sys/class/net -mindepth 1 -printf '%f\n' | sort; }
cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name 'rockpool-*' 2>/dev/null | sort; }
files() { find "$tmp" -xdev -mindepth 1 | sort; }
own() { if [ "$scope" = own ]; then grep -F -- "$tmp"; else cat; fi; }

# left: what is here now and was not before, one thing a line.
left() {
  comm -13 "$before/mounts" <(mounts) | own | sed 's/^/mount: /'
  comm -13 "$before/loops" <(loops) | own | sed 's/^/loop: /'
  comm -13 "$before/named" <(named) | own | sed 's/^/process: /'
  comm -13 "$before/state" <(state_dirs) | own | sed 's/^/file: /'
  comm -13 "$before/networks" <(networks) | own | sed 's/^/network: /'
  comm -13 "$before/interfaces" <(interfaces) | own | sed 's/^/interface: /'
  comm -13 "$before/cgroups" <(cgroups) | own | sed 's/^/cgroup: /'
  ours | sed 's/^/process: /'
  files | sed 's/^/file: /'
}

for what in mounts loops named networks interfaces cgroups; do "$what" > "$before/$what"; done
state_dirs > "$before/state"
TMPDIR=$tmp ROCKPOOL_TEST_RUN=$run "$@"
status=$?

# The kernel takes a moment to clear a loop device after its last user.
for _ in 1 2 3 4 5 6 7 8 9 10; do
  leaks=$(left)
  [ -z "$leaks" ] && break
  sleep 0.5
done
if [ -n "$leaks" ]; then
  echo "no-leaks: FAILED: left behind by: $*"
  printf '%s\n' "$leaks" | head -n 50 | sed 's/^/  /'
  [ "$status" != 0 ] || status=1
else
  rmdir "$tmp"
  echo "no-leaks: no mount, loop device, process or file left behind by: $*"
fi
exit "$status"
