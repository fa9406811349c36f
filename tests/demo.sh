#!/usr/bin/env bash
# tests/demo.sh: a volume's whole life on an embedded pool, by real CSI calls, in well under a minute once built.
#
# Everything lies below one temporary directory: the pool's file, its mount, the socket, the staging and target paths. Each step
# shows the command, what came back and the milliseconds it took; the first that goes wrong ends the demo with the driver's log.
# ROCKPOOL_BIN=FILE uses a binary that is built already.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
  echo "demo: it mounts filesystems, which only root may: run 'sudo make demo'" >&2
  exit 1
fi
if [ -z "${ROCKPOOL_BIN:-}" ]; then
  echo "demo: building rockpool (minutes the first time, then nothing)"
  cargo build --locked --quiet || { echo "demo: the build failed; the compiler says why above" >&2; exit 1; }
  ROCKPOOL_BIN=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/rockpool
fi

pool_mib=2048
base=${TMPDIR:-/var/tmp}
free_mib=$(df --output=avail -m "$base" | tail -n 1)
if [ "$free_mib" -lt $((pool_mib + 128)) ]; then
  echo "demo: the pool takes $pool_mib MiB, and $base has $free_mib MiB free: set TMPDIR to a directory with more" >&2
  exit 1
fi

# Short: the path of a unix socket must fit into 108 bytes.
work=$(mktemp -d "$base/rp-demo.XXXXXX")
log=$work/driver.log
pods=$work/kubelet
driver=
step=0

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' red='' green='' plain=''; fi

# shellcheck source=tests/clear.sh
. tests/clear.sh
clean() {
  trap - EXIT INT TERM HUP
  clear_below "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# say TEXT: the next step's headline.
say() { step=$((step + 1)); printf '\n%s%2d. %s%s\n' "$bold" "$step" "$1" "$plain"; }

# fail WHAT: ends the demo, with all that is needed to see why.
fail() {
  printf '\n%sFAILED in step %d: %s%s\n' "$red" "$step" "$1" "$plain" >&2
  if [ -s "$log" ]; then
    printf '%s\n' "The end of the driver's log:" >&2
    tail -n 25 "$log" | sed 's/^/    /' >&2
  fi
  cat >&2 <<TEXT
What to do:
  - the last lines above name the call and the cause; 'rockpool ctl --help' lists the exit codes
  - "no loop device", "unknown filesystem" or "permission denied": the kernel needs loop, xfs and ext4, and the process
    CAP_SYS_ADMIN (in a container: --privileged, and /dev of the host)
  - run it again: it starts from nothing each time, and everything it made is removed now
TEXT
  exit 1
}

# shown COMMAND...: how a person would type it.
shown() {
  local text=" $*"
  text=${text// $ROCKPOOL_BIN ctl --endpoint unix:\/\/$work\/run\/csi.sock/ rockpool ctl}
  text=${text//$ROCKPOOL_BIN/rockpool}
  text=${text//$work/\$W}
  printf '    %s$%s%s\n' "$dim" "$text" "$plain"
}

# try WANT COMMAND...: shows a command, runs it, shows its answer and time. WANT is the exit code that is right, or "any".
# Leaves the answer in $out and the code in $code.
try() {
  local want=$1 begin end ms
  shift
  shown "$@"
  begin=$EPOCHREALTIME
  out=$("$@" 2>&1)
  code=$?
  end=$EPOCHREALTIME
  ms=$((${end/./} - ${begin/./}))
  [ -z "$out" ] || printf '%s\n' "$out" | sed 's/^/      /'
  if [ "$want" != any ] && [ "$code" != "$want" ]; then
    fail "'$(shown "$@" | sed 's/^ *//')' ended with $code, and $want would be right"
  fi
  printf '      %s-> %s, %d.%d ms%s\n' "$green" "$([ "$code" = 0 ] && echo ok || echo "refused ($code), as it should be")" \
    $((ms / 1000)) $((ms % 1000 / 100)) "$plain"
}

ctl() { try 0 "$ROCKPOOL_BIN" ctl --endpoint "unix://$work/run/csi.sock" "$@"; }
refused() { local want=$1; shift; try "$want" "$ROCKPOOL_BIN" ctl --endpoint "unix://$work/run/csi.sock" "$@"; }
# id: the id in the answer just shown.
id() { printf '%s\n' "$out" | awk '$1 == "ID" { print $2; exit }'; }
# expect TEXT WHAT: what the last answer must hold.
expect() { case $out in *"$1"*) ;; *) fail "$2: wanted '$1', and it is not there" ;; esac; }

# use NAME ID [FLAG...]: stages and publishes a volume as kubelet would for a pod. give_back is the way back.
use() {
  local name=$1 id=$2
  shift 2
  ctl volume stage "$id" --staging "$pods/stage/$name" "$@"
  ctl volume publish "$id" --staging "$pods/stage/$name" --target "$pods/pods/$name" "$@"
}
give_back() {
  ctl volume unpublish "$2" --target "$pods/pods/$1"
  ctl volume unstage "$2" --staging "$pods/stage/$1"
}

start_driver() {
  shown rockpool standalone --config "$work/pools.toml" --endpoint "unix://$work/run/csi.sock" --node-id demo-node --kubelet-root "$pods" '&'
  local begin=$EPOCHREALTIME end ms
  "$ROCKPOOL_BIN" standalone --config "$work/pools.toml" --endpoint "unix://$work/run/csi.sock" \
    --node-id demo-node --kubelet-root "$pods" --state-dir "$work/state" > "$log" 2>&1 &
  driver=$!
  for _ in $(seq 500); do
    if "$ROCKPOOL_BIN" ctl --endpoint "unix://$work/run/csi.sock" plugin probe > /dev/null 2>&1; then
      end=$EPOCHREALTIME
      ms=$((${end/./} - ${begin/./}))
      printf '      %s-> ready, %d.%d ms%s\n' "$green" $((ms / 1000)) $((ms % 1000 / 100)) "$plain"
      return
    fi
    kill -0 "$driver" 2>/dev/null || break
    sleep 0.02
  done
  fail "the driver did not become ready"
}

stop_driver() {
  shown kill -TERM "$driver"
  local begin=$EPOCHREALTIME end ms
  kill -TERM "$driver"
  wait "$driver"
  code=$?
  driver=
  end=$EPOCHREALTIME
  ms=$((${end/./} - ${begin/./}))
  [ "$code" = 0 ] || fail "the driver ended with $code after SIGTERM, and 0 would be right"
  printf '      %s-> ended with 0, %d.%d ms%s\n' "$green" $((ms / 1000)) $((ms % 1000 / 100)) "$plain"
}

began=$SECONDS
mkdir -p "$pods"
echo "demo: \$W is $work"

say "Prepare a pool: one preallocated file of 2 GiB, formatted as XFS with reflink and mounted"
try 0 "$ROCKPOOL_BIN" pool init demo --kind image --file "$work/pool.img" --size 2GiB --config "$work/pools.toml" --mount-parent "$work/pools"

say "Start the driver: one process, one unix socket"
start_driver
ctl plugin info
ctl node info
ctl capacity

say "Make a volume of 256 MiB with ext4"
ctl volume create data --size 256MiB --fs ext4
data=$(id)
[ -n "$data" ] || fail "the answer has no id"

say "The same call again answers the same volume: every call may be repeated"
ctl volume create data --size 256MiB --fs ext4
expect "$data" "the repeated call"

say "Stage and publish it, as kubelet would for a pod"
use data "$data" --fs ext4

say "Write a file into it"
try 0 sh -c "echo 'written before the snapshot' > $pods/pods/data/note && sync -f $pods/pods/data/note && cat $pods/pods/data/note"
try 0 df -h --output=source,fstype,size,used,target "$pods/pods/data"

say "The size is a hard limit: writing 300 MiB into 256 MiB ends at the limit"
try 1 dd if=/dev/zero "of=$pods/pods/data/fill" bs=1M count=300 status=none
expect "No space left on device" "dd"
try 0 rm "$pods/pods/data/fill"

say "A volume in use is not deleted"
refused 19 volume delete "$data"

say "Cut a snapshot, then change the file"
ctl snapshot create data-before --volume "$data"
snapshot=$(id)
try 0 sh -c "echo 'changed after the snapshot' > $pods/pods/data/note && cat $pods/pods/data/note"

say "Restore the snapshot into a new volume: the old content is there, in the copy alone"
ctl volume create restored --size 256MiB --fs ext4 --from-snapshot "$snapshot"
restored=$(id)
use restored "$restored" --fs ext4
try 0 cat "$pods/pods/restored/note"
expect "written before the snapshot" "the restored note"
try 0 cat "$pods/pods/data/note"
expect "changed after the snapshot" "the note in the source"

say "Clone the volume itself, while it is in use"
ctl volume create cloned --size 256MiB --fs ext4 --from-volume "$data"
cloned=$(id)
ctl volume delete "$cloned"

say "Grow the volume to 512 MiB: the controller's half, then the node's"
ctl volume expand "$data" --size 512MiB
try any "$ROCKPOOL_BIN" ctl --endpoint "unix://$work/run/csi.sock" volume node-expand "$data" \
  --path "$pods/pods/data" --staging "$pods/stage/data" --size 512MiB
case $code in
  0) ;;
  19)
    printf '      This process lacks CAP_SYS_RESOURCE, without which the kernel grows no mounted ext4: the next stage does it.\n'
    give_back data "$data"
    use data "$data" --fs ext4
    ;;
  *) fail "node-expand ended with $code; want 0, or 19 (FAILED_PRECONDITION) where CAP_SYS_RESOURCE is missing" ;;
esac
ctl volume stats "$data" --path "$pods/pods/data" --staging "$pods/stage/data"
try 0 dd if=/dev/zero "of=$pods/pods/data/fill" bs=1M count=300 status=none
try 0 cat "$pods/pods/data/note"
expect "changed after the snapshot" "the note after growing"

say "A raw block volume: the pod gets the device itself"
ctl volume create raw --size 64MiB --block
raw=$(id)
use raw "$raw" --block
try 0 sh -c "echo 'bytes on a device' | dd of=$pods/pods/raw conv=notrunc,sync bs=4096 oflag=direct status=none && head -c 17 $pods/pods/raw"
expect "bytes on a device" "what was read from the device"
try 0 blockdev --getsize64 "$pods/pods/raw"
expect 67108864 "the device's size"

say "Snapshot two volumes in use at one moment: all frozen, all cut, all thawed"
ctl group create pair --volume "$data" --volume "$restored"
group=$(printf '%s\n' "$out" | grep -o 'g1\.[0-9a-f.]*' | head -n 1)
mapfile -t members < <(printf '%s\n' "$out" | awk '$1 ~ /^s1\./ { print "--snapshot"; print $1 }')
[ -n "$group" ] || fail "the answer has no group id"

say "What there is now"
ctl volume list
ctl snapshot list

say "Stop the driver and start it again: mounts stay, and it knows everything"
stop_driver
try 0 cat "$pods/pods/restored/note"
start_driver
ctl volume get "$restored"

say "Give everything back"
give_back raw "$raw"
give_back restored "$restored"
give_back data "$data"
ctl group delete "$group" "${members[@]}"
ctl snapshot delete "$snapshot"
ctl volume delete "$raw"
ctl volume delete "$restored"
ctl volume delete "$data"
ctl volume list
case $out in *v1.*) fail "a volume is left" ;; esac

say "Stop the driver and unmount the pool"
stop_driver
try 0 "$ROCKPOOL_BIN" pool unmount demo --config "$work/pools.toml"

clean
left=$(awk -v at="$work" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo)
[ -z "$left" ] && [ ! -e "$work" ] || { echo "demo: left behind: $left $work" >&2; exit 1; }
printf '\n%sAll %d steps done in %d s, nothing left behind.%s Next: README.md, or rockpool standalone on your own pool.\n' \
  "$green" "$step" $((SECONDS - began)) "$plain"
