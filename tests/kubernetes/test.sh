#!/usr/bin/env bash
# tests/kubernetes/test.sh [NAME...]: the scenes (scene.sh --list; without a name all of them, and a fixed part of the upstream suite), each in a
# namespace of its own on the cluster of two nodes, with an audit after each. A cluster that is not there yet is started, and taken down in the end with
# nothing left. What was there where something failed stays in target/kubernetes.
#
# upstream is the name of that part. ROCKPOOL_IMAGES_LOADED=1: see load.sh.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
# shellcheck source=objects.sh
. "$here/objects.sh"
# shellcheck source=audit.sh
. "$here/audit.sh"
# shellcheck source=../step.sh
. "$here/../step.sh"
[[ $(id -u) == 0 ]] || { echo "SKIP kubernetes: only root may make nodes"; exit 0; }
list=$("$here/scene.sh" --list)
mapfile -t all <<<"$list"
all+=(upstream)
(($#)) || set -- "${all[@]}"
for name; do [[ " ${all[*]} " == *" $name "* ]] || die "no scene is called $name: want some of ${all[*]}"; done

# Volumes, snapshots, copies and growth as the upstream suite tries them: a quarter of an hour at most.
part='(provisioning| snapshottable |volume-expand|volumeMode|readwriteoncepod|capacity)'

# ended : a cluster that was started here goes, and what it wrote stays where something failed.
ended() {
  local status=$?
  trap - EXIT
  set +e
  ((status == 0)) || keep_logs
  "$here/down.sh" || status=1
  exit "$status"
}

began=$SECONDS
mkdir -p "$evidence"
if ! present; then
  # From here on, since what is left shows only where it began with nothing.
  [[ -n ${ROCKPOOL_TEST_RUN:-} ]] || exec "$here/../no-leaks.sh" "$0" "$@"
  trap ended EXIT
  "$here/up.sh"
fi
build_auditor
"$here/load.sh"
install_for_scenes
make_pools
# What scenes ask for, beside the chart's own.
class t-now Immediate Delete ext4
class t-xfs WaitForFirstConsumer Delete xfs
class t-retain WaitForFirstConsumer Retain ext4
class t-copy WaitForFirstConsumer Delete ext4

# one NAME : it, on a driver as the chart installs it.
one() {
  install_for_scenes || return
  case $1 in
    upstream) TIMEOUT=900 "$here/e2e.sh" "$part" ;;
    *) "$here/scene.sh" "$1" ;;
  esac
}
failed=0
for name; do
  # Not in a condition, where errexit would not hold.
  check "kubernetes: $name" one "$name" | tee "$evidence/check"
  [[ $(tail -n 1 "$evidence/check") == "CHECK PASSED"* ]] || failed=$((failed + 1))
done
rm "$evidence/check"
say "$# scenes in $((SECONDS - began)) s, $failed failed"
((failed == 0))
