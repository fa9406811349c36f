#!/usr/bin/env bash
# tests/guest/run.sh [-m MiB] [-d SIZE]... [-t SECONDS] -- COMMAND...
#
# Runs COMMAND as root in a throw-away guest under a stock Debian kernel. The guest's root is the host's /, read-only with a tmpfs
# over it, so COMMAND runs at its own path and can break nothing. In it $VM_DISK0, $VM_DISK1 ... are scratch disks, one for each
# -d; TMPDIR is a tmpfs; GUEST_TEST=1 says that what needs this kernel must not be skipped.
# Exit status: COMMAND's; 124 after -t; 125 if the guest died.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
cache=$(realpath "${GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rockpool/guest}")
memory=2048 limit=600 disks=()
while getopts m:d:t: option; do
  case $option in
    m) memory=$OPTARG ;;
    d) disks+=("$OPTARG") ;;
    t) limit=$OPTARG ;;
    *) sed -n '2s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
[ -f "$cache/ready" ] || { echo "guest: no kernel in $cache: run tests/guest/setup.sh" >&2; exit 2; }
case $cache$here$PWD in *' '*) echo "guest: paths with blanks are not supported" >&2; exit 2 ;; esac

out=$(mktemp -d "${TMPDIR:-/tmp}/rp-guest.XXXXXX")
qemu=
cleanup() {
  [ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
  rm -rf "$out"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

: > "$out/log"
drives=()
{
  for i in "${!disks[@]}"; do
    truncate -s "${disks[$i]}" "$out/disk$i"
    drives+=(-drive "file=$out/disk$i,format=raw,if=virtio,cache=unsafe,discard=unmap")
    letters=(a b c d e f g h)
    echo "export VM_DISK$i=/dev/vd${letters[$i]}"
  done
  echo "export GUEST_TEST=1 GUEST_CWD=$PWD HOME=/root TMPDIR=/scratch PATH=\$PATH:/usr/sbin:/sbin"
} > "$out/env"
{ printf 'exec'; printf ' %q' "$@"; echo; } > "$out/job"

# No KVM: it is not there in most virtual machines, and what is tested here is meaning, not speed.
timeout -k 5 "$limit" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m "$memory" \
  -nodefaults -no-reboot -display none -serial "file:$out/console" \
  -kernel "$cache/kernel/boot/vmlinuz-$(cat "$cache/ready")" -initrd "$cache/kernel/initrd.gz" \
  -append "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable random.trust_cpu=on guest_init=$here/init.sh guest_cache=$cache" \
  -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=root,mount_tag=root \
  -fsdev "local,id=out,path=$out,security_model=none" -device virtio-9p-pci,fsdev=out,mount_tag=out \
  -device virtio-rng-pci "${drives[@]}" < /dev/null > "$out/qemu" 2>&1 &
qemu=$!
tail -n +1 -f --pid="$qemu" -s 0.1 "$out/log" &
follower=$!
ended=0
wait "$qemu" || ended=$?
qemu=
sleep 0.3
kill "$follower" 2>/dev/null || true
wait "$follower" 2>/dev/null || true

[ ! -f "$out/status" ] || exit "$(cat "$out/status")"
echo "guest: it ended without a status (qemu: $ended); the end of its console and of what qemu said:" >&2
tail -n 20 "$out/console" "$out/qemu" >&2 || true
[ "$ended" = 124 ] && exit 124
exit 125
