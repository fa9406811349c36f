# shellcheck shell=bash disable=SC2154  # sourced by scene.sh
# What operators do to the driver and to nodes, with volumes there.

# driver_uids : of the pods of nodes and controllers; images_of : what runs in them.
driver_uids() { picked '.items[].metadata.uid' r get pods -l app.kubernetes.io/name=rockpool -o json | sort; }
images_of() {
  picked '[.items[].spec.containers[] | select(.name == "rockpool") | .image] | unique | join(" ")' r get pods -l app.kubernetes.io/name=rockpool -o json
}

# replaced COMMAND... : it leaves no pod of the driver as it was, and all ready.
replaced() {
  local before after
  before=$(driver_uids)
  "$@"
  drivers_ready
  after=$(driver_uids)
  [[ -z $(comm -12 <(echo "$before") <(echo "$after")) ]] || die "pods of the driver were not replaced by: $*"
}
upgrade() {
  install_for_scenes --set "image.tag=$later_version"
  drivers_ready
  so "rockpool-controller:$later_version rockpool-node:$later_version" images_of >/dev/null
}
roll_back() {
  helm rollback rockpool --namespace rockpool --wait --timeout 180s >/dev/null
  drivers_ready
  so "rockpool-controller:$version rockpool-node:$version" images_of >/dev/null
}
uninstall() {
  helm uninstall rockpool --namespace rockpool --wait --timeout 90s >/dev/null
  await 60 "no pod of the driver is left" prints "" r get pods -o name
}

# Another version and back: nobody who has a volume notices.
scene_is_upgraded_and_rolled_back() {
  later install_for_scenes
  writers
  undisturbed replaced upgrade
  undisturbed replaced roll_back
  claim after 64Mi
  pod after after
  ready after
}

# Without the driver volumes are used on, nothing is lost, and a driver that is installed again has them all.
scene_is_uninstalled_with_volumes_present() {
  later install_for_scenes
  writers
  claim kept 64Mi
  pod kept kept
  ready kept
  put kept "all the time"
  undisturbed uninstall
  so "all the time" get kept
  kubectl get csidriver csi.rockpool.dev >/dev/null
  undisturbed install_for_scenes
  drivers_ready
  await 60 "room on both nodes" rooms
  so "all the time" get kept
  claim after 64Mi
  pod after after
  ready after
}

# pool_is STATE DELETED : whether n2's pool is in that state, and so much in it was deleted while it was lost.
pool_is() { prints "$1 $2" picked ".pools[] | select(.id == \"$pool\") | .state + \" \" + (.deleted | length | tostring)" in_controller pool list -o json; }
# orphans : what was deleted in it meanwhile.
orphans() { picked ".pools[] | select(.id == \"$pool\") | .deleted[]" in_controller pool list -o json; }

# never_comes_back COMMAND... : a node with a volume and its snapshot goes; when that is done, what it had can be deleted; and should it come back after all, what was
# deleted is told and can be cleaned up.
never_comes_back() {
  local pool id ids words
  claim a 64Mi
  pod a a n2
  ready a
  take s a
  pool=$(picked '.pools[0].id' r exec "$(driver_on n2)" -- rockpool pool list -o json)
  later boot_again n2
  stop node-n2 60
  await 90 "n2 is missed" node_is n2 Unknown
  "$@"
  k delete pod/a --force --grace-period=0 >/dev/null 2>&1
  k delete volumesnapshot/s pvc/a --wait=false >/dev/null
  await 240 "the claim's volume and its snapshot are gone" nothing_known
  r wait pod/rockpool-controller-0 --for=condition=Ready --timeout=120s >/dev/null
  await 30 "its pool is lost" pool_is lost 2
  boot_again n2
  drivers_ready
  await 60 "orphans are told" pool_is here 2
  ids=$(orphans)
  words=$(in_controller pool list 2>&1 >/dev/null)
  for id in $ids; do
    [[ $words == *"orphan: $id"* ]] || die "orphan $id is not told in words: $words"
    case $id in
      v*) in_controller volume delete "$id" >/dev/null ;;
      s*) in_controller snapshot delete "$id" >/dev/null ;;
      *) die "an orphan that is neither volume nor snapshot: $id" ;;
    esac
  done
  in_controller pool recall "$pool" >/dev/null
  await 30 "nothing is told any more" pool_is here 0
}
node_deleted() { kubectl delete node n2 --timeout=30s >/dev/null; }
# A controller that was on that node stays there for Kubernetes, since nobody can say that it has ended.
pool_forgotten() {
  r delete pods -l app.kubernetes.io/component=controller --field-selector spec.nodeName=n2 --force --grace-period=0 >/dev/null 2>&1
  r wait pod/rockpool-controller-0 --for=condition=Ready --timeout=120s >/dev/null
  await 60 "the pool can be forgotten" in_controller pool forget "$pool"
}

# Its Node is deleted: the pool is taken for lost a while later.
scene_is_cleaned_up_after_a_node_that_never_comes_back() { never_comes_back node_deleted; }
# Its Node stays: an operator says that the pool is lost.
scene_is_cleaned_up_after_a_pool_was_given_up() { never_comes_back pool_forgotten; }
