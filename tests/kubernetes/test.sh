#!/usr/bin/env bash
# tests/kubernetes/test.sh [NAME...]: the scenes (scene.sh --list), each in a namespace of its own on the cluster of two nodes, and an audit after
# each. A cluster that is not there yet is started, and taken down in the end.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
# shellcheck source=../step.sh
. "$here/../step.sh"
[[ $(id -u) == 0 ]] || { echo "SKIP kubernetes: only root may make nodes"; exit 0; }
mapfile -t all < <("$here/scene.sh" --list)
(($#)) || set -- "${all[@]}"
for name; do [[ " ${all[*]} " == *" $name "* ]] || die "no scene is called $name: want some of ${all[*]}"; done

# What scenes ask for, beside the chart's own.
classes() {
  local name
  for name in "t-now Immediate Delete ext4" "t-xfs WaitForFirstConsumer Delete xfs" "t-retain WaitForFirstConsumer Retain ext4" "t-copy WaitForFirstConsumer Delete ext4"; do
    read -r name mode policy kind <<<"$name"
    kubectl apply -f - >/dev/null <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: $name}
provisioner: csi.rockpool.dev
volumeBindingMode: $mode
reclaimPolicy: $policy
allowVolumeExpansion: true
parameters: {csi.storage.k8s.io/fstype: $kind}
END
  done
}

began=$SECONDS
if ! running "node-${nodes[0]}" >/dev/null; then
  "$here/up.sh"
  trap '"$here/down.sh"' EXIT
fi
cd "$here/../.."
install -m 755 "$(cargo test --locked --features torture --test torture --no-run --message-format=json 2>/dev/null | jq -r 'select(.executable != null and .target.name == "torture") | .executable')" "$state/auditor"
"$here/load.sh"
install_for_scenes
make_pools
classes
failed=0
for name; do
  # A scene that failed may have left it uninstalled.
  helm status rockpool --namespace rockpool >/dev/null 2>&1 || install_for_scenes
  check "kubernetes: $name" "$here/scene.sh" "$name" | tee "$state/log/check"
  ! grep -q "^CHECK FAILED" "$state/log/check" || failed=$((failed + 1))
done
say "$# scenes in $((SECONDS - began)) s, $failed failed"
((failed == 0))
