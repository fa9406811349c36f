#!/usr/bin/env bash
# tests/image-run.sh CONTROLLER NODE: runs what lies in two root directories of images the way their pods do, and joins them: the controller
# without rights and on a root that nobody can write, the node with real pools and the programs of its own image.
#
# All of it happens in mount and network namespaces of its own, which go with the last process: nothing of the host is mounted on or listened at.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${3:-}" != inside ]; then
  exec unshare --mount --net --propagation private "$0" "$1" "$2" inside
fi
controller=$(realpath "$1") node=$(realpath "$2")
work=$(mktemp -d "${TMPDIR:-/tmp}/rp-run.XXXXXX")
pids=()
passed=0

# clean: ends what runs, takes loop devices over our own file off, and removes what is left.
clean() {
  local pid device
  trap - EXIT
  # What is below it are mounts of this namespace: volumes first, then pools.
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  wait
  awk -v a="$work" -v b="$node" -v c="$controller" 'index($5, a) == 1 || index($5, b) == 1 || index($5, c) == 1 { print $5 }' /proc/self/mountinfo \
    | tac | while read -r at; do umount --lazy "$at" || true; done
  for device in $(losetup --noheadings --raw --output NAME,BACK-FILE | awk -v at="$work/rockpool/" 'index($2, at) == 1 { print $1 }'); do
    losetup --detach "$device" || true
  done
  rm -rf --one-file-system "$work"
}
trap clean EXIT

fail() {
  echo "image: FAILED: $*" >&2
  tail -n 15 "$work"/*.log >&2 2>/dev/null || true
  exit 1
}
# ok NAME: one thing that holds.
ok() { passed=$((passed + 1)); echo "image: ok: $*"; }
# until_true SECONDS COMMAND...: waits for it.
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@" > "$work/last" 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}
same() { [ "$1" = "$2" ] || fail "$3: want $2, is $1"; }

as_controller() { chroot --userspec=65532:65532 --groups= "$controller" /usr/bin/rockpool "$@"; }
on_node() { chroot "$node" /usr/bin/rockpool "$@"; }

# --- what is in them ---
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
same "$(as_controller --version)" "rockpool $version" "the controller's version"
same "$(on_node --version)" "rockpool $version" "the node's version"
programs() { find "$1" -type f -perm /111 ! -path '*/lib*' -printf '/%P\n' | sort | tr '\n' ' '; }
same "$(programs "$controller")" "/usr/bin/rockpool " "what the controller's image can run"
same "$(programs "$node")" "/usr/bin/rockpool /usr/sbin/e2fsck /usr/sbin/mke2fs /usr/sbin/mkfs.xfs /usr/sbin/resize2fs /usr/sbin/xfs_repair " \
  "what the node's image can run"
same "$(find "$controller" "$node" -perm /6000)" "" "what runs as another user"
same "$(readelf --program-headers --dynamic --wide "$controller/usr/bin/rockpool" | grep -c 'INTERP\|NEEDED' || true)" 0 "libraries of the binary"
ok "both are version $version, one static binary, and hold no program that they do not run"

# --- certificates, as docs/cluster.md makes them ---
pki=$work/pki
mkdir -p "$pki"
(
  cd "$pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=rockpool of this test" -keyout ca.key -out ca.crt
  issue() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
    printf 'subjectAltName=%s\nextendedKeyUsage=%s\n' "$2" "$3" > "$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -out "$1.crt" -extfile "$1.ext"
  }
  issue controller DNS:rockpool-controller serverAuth
  issue node URI:rockpool://csi.rockpool.dev/node/node-1 clientAuth
) > "$work/openssl.log" 2>&1
chmod 0644 "$pki"/*

# --- as a pod has it: the image is read-only, what the chart mounts is there ---
# place ROOT DIRECTORY [MOUNT ARGUMENT...]: a mount point in an image, and what is mounted there.
place() {
  local at=$1$2
  shift 2
  mkdir -p "$at"
  mount "$@" "$at"
}
ip link set lo up
for root in "$controller" "$node"; do mount --bind "$root" "$root"; done
place "$controller" /run/rockpool -t tmpfs -o mode=0777 none
place "$controller" /etc/rockpool-link --bind "$pki"
place "$node" /etc/rockpool-link --bind "$pki"
place "$node" /tmp -t tmpfs none
place "$node" /run/rockpool -t tmpfs none
place "$node" /dev --rbind /dev
place "$node" /proc --rbind /proc
place "$node" /sys --rbind /sys
for at in kubelet/pods kubelet/plugins/kubernetes.io/csi rockpool; do
  mkdir -p "$work/$at"
  place "$node" "/var/lib/$at" --bind "$work/$at"
  mount --make-rshared "$node/var/lib/$at"
done
mkdir -p "$work/config"
place "$node" /etc/rockpool --bind "$work/config"
for root in "$controller" "$node"; do mount -o remount,bind,ro "$root"; done
same "$(touch "$controller/x" 2>&1; touch "$node/x" 2>&1)" "touch: cannot touch '$controller/x': Read-only file system
touch: cannot touch '$node/x': Read-only file system" "writing to the images"

# --- the controller ---
csi=unix:///run/rockpool/csi/csi.sock
chroot --userspec=65532:65532 --groups= "$controller" /usr/bin/rockpool controller --endpoint "$csi" --listen 127.0.0.1:7430 --pool-kinds image \
  --link-ca /etc/rockpool-link/ca.crt --link-certificate /etc/rockpool-link/controller.crt --link-key /etc/rockpool-link/controller.key \
  > "$work/controller.log" 2>&1 &
pids+=($!)
until_true 20 as_controller ctl --endpoint "$csi" plugin info || fail "the controller does not answer: $(cat "$work/last")"
grep -q csi.rockpool.dev "$work/last" || fail "plugin info: $(cat "$work/last")"
same "$(awk '/^Uid:/ { print $2 } /^CapEff:/ { print $2 }' "/proc/${pids[0]}/status" | tr '\n' ' ')" "65532 0000000000000000 " "the controller's user and rights"
until_true 30 as_controller ctl --endpoint "$csi" plugin probe || fail "the controller is not ready: $(cat "$work/last")"
ok "the controller serves as user 65532, without a right, on a root that is read-only"

# --- the node, and then its pool, made by the image's own mkfs.xfs: the order of docs/install.md ---
cat > "$work/config/config.toml" <<'TOML'
[[pool]]
name = "fast"
kind = "image"
path = "/var/lib/rockpool/pools/fast"
file = "/var/lib/rockpool/fast.img"
TOML
kubelet=unix:///run/rockpool/csi.sock
chroot "$node" /usr/bin/rockpool node --endpoint "$kubelet" --node-id node-1 --pool-kinds image --controller 127.0.0.1:7430 \
  --link-ca /etc/rockpool-link/ca.crt --link-certificate /etc/rockpool-link/node.crt --link-key /etc/rockpool-link/node.key \
  > "$work/node.log" 2>&1 &
pids+=($!)
until_true 30 grep -q "connected to a controller" "$work/node.log" || fail "the node is not connected"
# What src/os/rights.rs keeps; where this machine has less, less.
for set in CapEff CapBnd; do
  rights=$(awk -v set="$set:" '$1 == set { print $2 }' "/proc/${pids[1]}/status")
  [ $((0x$rights & ~0x920061f)) = 0 ] || fail "the node keeps rights that mounts do not need: $set $rights"
done
on_node pool init fast --kind image --file /var/lib/rockpool/fast.img --size 3GiB --sparse --unmount --config /tmp/new.toml > "$work/init.log" 2>&1 \
  || fail "pool init"
capacity() { [ "$(as_controller ctl --endpoint "$csi" capacity -o json | jq -r .available_capacity)" -gt 0 ]; }
until_true 30 capacity || fail "the controller has no room: $(as_controller ctl --endpoint "$csi" capacity -o json)"
! grep "reaches no other mount namespace" "$work/node.log" || fail "the node takes mounts as the chart makes them for private"
ok "the node's pool is made by its own mkfs.xfs, and the controller knows its room"

create() { as_controller ctl --endpoint "$csi" volume create "$@" -o json | jq -r .volume_id; }
# used ID NAME ARGUMENT...: stage, publish, write, and back.
stage() { on_node ctl --endpoint "$kubelet" volume stage "$1" --staging "/var/lib/kubelet/plugins/kubernetes.io/csi/$2" "${@:3}" >> "$work/ctl.log" 2>&1; }
publish() {
  on_node ctl --endpoint "$kubelet" volume publish "$1" --staging "/var/lib/kubelet/plugins/kubernetes.io/csi/$2" \
    --target "/var/lib/kubelet/pods/$2" "${@:3}" >> "$work/ctl.log" 2>&1
}
back() {
  on_node ctl --endpoint "$kubelet" volume unpublish "$1" --target "/var/lib/kubelet/pods/$2" >> "$work/ctl.log" 2>&1
  on_node ctl --endpoint "$kubelet" volume unstage "$1" --staging "/var/lib/kubelet/plugins/kubernetes.io/csi/$2" >> "$work/ctl.log" 2>&1
}
mib() { df --block-size=1M --output=size "$1" | tail -n 1 | tr -d ' '; }

for fs in ext4 xfs; do
  size=64MiB larger=256MiB
  [ $fs = ext4 ] || size=300MiB larger=512MiB
  id=$(create "a-$fs" --size $size --fs $fs)
  stage "$id" $fs --fs $fs && publish "$id" $fs --fs $fs || fail "using a volume of $fs: $(tail -n 5 "$work/ctl.log")"
  same "$(findmnt --noheadings --output FSTYPE --mountpoint "$node/var/lib/kubelet/pods/$fs")" $fs "the filesystem of $id"
  echo "kept by $fs" > "$node/var/lib/kubelet/pods/$fs/file"
  before=$(mib "$node/var/lib/kubelet/pods/$fs")
  back "$id" $fs || fail "putting a volume of $fs back"
  as_controller ctl --endpoint "$csi" volume expand "$id" --size $larger >> "$work/ctl.log" 2>&1 || fail "growing a volume of $fs"
  # The next stage of ext4 runs e2fsck and resize2fs.
  stage "$id" $fs --fs $fs && publish "$id" $fs --fs $fs || fail "using the grown volume of $fs: $(tail -n 5 "$work/ctl.log")"
  same "$(cat "$node/var/lib/kubelet/pods/$fs/file")" "kept by $fs" "the volume's file"
  after=$(mib "$node/var/lib/kubelet/pods/$fs")
  [ "$after" -gt "$before" ] || fail "the volume of $fs did not grow: $before MiB, then $after MiB"
  back "$id" $fs || fail "putting a volume of $fs back"
  as_controller ctl --endpoint "$csi" volume delete "$id" >> "$work/ctl.log" 2>&1 || fail "deleting a volume of $fs"
  ok "$fs: made, mounted, written, grown from $before to $after MiB and deleted, through the controller, with the image's programs"
done
chroot "$node" /usr/sbin/xfs_repair -V > "$work/last" 2>&1 && chroot "$node" /usr/sbin/e2fsck -V >> "$work/last" 2>&1 || fail "$(cat "$work/last")"
ok "the programs of repair run: $(tr '\n' ' ' < "$work/last")"

for pid in "${pids[@]}"; do
  kill -TERM "$pid"
  wait "$pid" || fail "a process ended with $? after SIGTERM"
done
pids=()
ok "both end with 0 after SIGTERM"
echo "image: $passed of $passed passed"
