# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# What operators do to the driver and to nodes, with volumes there.

upgrade() { install_for_scenes --set log.level=debug; }
roll_back() {
  helm rollback rockpool --namespace rockpool --wait --timeout 120s >/dev/null
  drivers_ready
}
uninstall() {
  helm uninstall rockpool --namespace rockpool --wait --timeout 90s >/dev/null
  await 60 "no pod of the driver is left" bash -c "[[ -z \$(kubectl -n rockpool get pods -o name) ]]"
}

# Another version and back: nobody who has a volume notices.
scene_is_upgraded_and_rolled_back() {
  writers
  undisturbed upgrade
  undisturbed roll_back
  claim after 64Mi
  pod after after
  ready after
}

# Without the driver volumes are used on, nothing is lost, and a driver that is installed again has them all.
scene_is_uninstalled_with_volumes_present() {
  writers
  claim kept 64Mi
  pod kept kept
  ready kept
  put kept "all the time"
  undisturbed uninstall
  so "all the time" get kept
  kubectl get csidriver csi.rockpool.dev >/dev/null
  undisturbed install_for_scenes
  await 60 "room on both nodes" rooms
  so "all the time" get kept
  claim after 64Mi
  pod after after
  ready after
}

in_controller() { r exec rockpool-controller-0 -c rockpool -- rockpool ctl "$@"; }
pools_json() { in_controller pool list -o json; }
# pool_is STATE [DELETED] : whether a pool is in that state, and how many of its volumes were deleted while it was lost.
pool_is() { pools_json | jq -e --arg state "$1" --argjson deleted "${2:-0}" 'any(.pools[]; .state == $state and (.deleted | length) == $deleted)' >/dev/null; }

# Its claims can be deleted without it, its pool is said to be lost, and should it come back after all, what was deleted is told and can be cleaned up.
scene_is_cleaned_up_after_a_node_that_never_comes_back() {
  claim a 64Mi
  pod a a n2
  ready a
  stop node-n2 60
  kubectl delete node n2 --timeout=30s >/dev/null
  k delete pod/a --force --grace-period=0 >/dev/null 2>&1
  k delete pvc/a --timeout=60s >/dev/null
  await 240 "the claim's volume is gone" nothing_known
  r wait pod/rockpool-controller-0 --for=condition=Ready --timeout=120s >/dev/null
  await 30 "its pool is lost" pool_is lost 1
  boot n2
  await 90 "n2 is back" node_is n2 True
  drivers_ready
  await 60 "an orphan is told" pool_is here 1
  local id pool
  read -r pool id < <(pools_json | jq -r '.pools[] | select(.deleted != []) | .id + " " + .deleted[0]')
  in_controller pool list 2>&1 >/dev/null | grep -q "orphan: $id" || die "the orphan is not told in words"
  in_controller volume delete "$id" >/dev/null
  in_controller pool recall "$pool" >/dev/null
  await 30 "nothing is told any more" bash -c "! kubectl -n rockpool exec rockpool-controller-0 -c rockpool -- rockpool ctl pool list -o json | jq -e 'any(.pools[]; .deleted != [])'"
}
