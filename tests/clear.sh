# Sourced by tests/demo.sh and tests/bench.sh: removes whatever lies below one directory, mounts and all.
# shellcheck shell=bash

# clear_below DIRECTORY: ends the drivers that were started with it, unmounts from the innermost out, detaches loop devices on its
# files, and removes it. Touches nothing else.
clear_below() {
  local work=$1 pid point backing
  for pid in $(drivers_of "$work"); do kill "$pid" 2>/dev/null; done
  for _ in $(seq 100); do
    [ -n "$(drivers_of "$work")" ] || break
    sleep 0.1
  done
  for pid in $(drivers_of "$work"); do kill -KILL "$pid" 2>/dev/null; done
  # Twice: a pool stays busy as long as a device shows one of its files, and that as long as it is mounted.
  for _ in 1 2; do
    while read -r point; do
      umount "$point" 2>/dev/null
    done < <(mounts_below "$work")
    for backing in /sys/block/loop*/loop/backing_file; do
      [ -r "$backing" ] || continue
      case $(cat "$backing" 2>/dev/null) in
        "$work"/*) losetup -d "/dev/$(basename "${backing%/loop/backing_file}")" 2>/dev/null ;;
      esac
    done
  done
  mounts_below "$work" | sed 's/^/left mounted: /' >&2
  rm -rf --one-file-system "$work"
}

# mounts_below DIRECTORY: the innermost first.
mounts_below() { awk -v at="$1/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo | tac; }

# drivers_of DIRECTORY: the drivers whose command line names it.
drivers_of() {
  local cmdline
  for cmdline in /proc/[0-9]*/cmdline; do
    case $(tr '\0' ' ' 2>/dev/null < "$cmdline") in
      *rockpool*\ standalone\ *"$1"/*) basename "${cmdline%/cmdline}" ;;
    esac
  done
}
