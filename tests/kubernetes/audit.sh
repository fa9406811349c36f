# shellcheck shell=bash disable=SC2154  # sourced after env.sh and chart.sh
# What must be left when all that was asked for is deleted: nothing, in the cluster and on the nodes.
auditor=$state/auditor

# build_auditor : that of the torture test, for the nodes of the running cluster.
build_auditor() {
  local built
  built=$(cargo test --locked --quiet --manifest-path "$here/../../Cargo.toml" --features torture --test torture --no-run --message-format=json-render-diagnostics |
    jq -r 'select(.executable != null and .target.name == "torture") | .executable') || die "the auditor of the torture test cannot be built"
  install -m 755 "$built" "$auditor"
}

# ours KIND : the names of the cluster's objects that are about volumes of the driver.
ours() { picked '.items[] | select((.spec.csi.driver // .spec.driver) == "csi.rockpool.dev") | .metadata.name' kubectl get "$1" -o json; }
nothing_known() { prints "" ours pv && prints "" ours volumesnapshotcontents && prints "" ours volumegroupsnapshotcontents; }

# audit_of NODE : that what lies in its pool is sound and that nothing of it, and of the driver's notes, is there any more.
audit_of() {
  local found
  found=$(beside "$1" env ROCKPOOL_STATE_DIR=/var/lib/rockpool "$auditor" pools --pools /var/lib/rockpool/pools/fast --kubelet "$kubelet/plugins/kubernetes.io" 2>&1) &&
    [[ $'\n'$found$'\n' == *$'\n'"pools: 0 volumes, 0 snapshots, 0 groups, 0 mounts, 0 devices, 0 notes, 0 bytes promised, 0 violations"$'\n'* ]] && return
  echo "$found"
  return 1
}
nothing_left() {
  local node
  for node in "${nodes[@]}"; do audit_of "$node" || return 1; done
}

# audit WHAT SECONDS : dies if WHAT has left something after so many seconds.
audit() {
  local node found
  [[ -x $auditor ]] || die "$auditor is missing: test.sh builds it"
  (await "$2" "volumes" nothing_known) 2>/dev/null ||
    die "PersistentVolumes and snapshots are left of $1:" "$(ours pv | paste -sd' ')" "$(ours volumesnapshotcontents | paste -sd' ')" "$(ours volumegroupsnapshotcontents | paste -sd' ')"
  drivers_ready
  kubectl --namespace kube-system rollout status deployment/coredns --timeout=60s >/dev/null
  if ! (await 20 "pools" nothing_left) 2>/dev/null; then
    for node in "${nodes[@]}"; do { audit_of "$node" || true; } | sed "s/^/$node: /" >&2; done
    die "something is left in the pools of $1"
  fi
  for node in "${nodes[@]}"; do
    found=$(r exec "$(driver_on "$node")" -- rockpool ctl doctor 2>&1) || die "the doctor found something on $node after $1: $found"
  done
}
