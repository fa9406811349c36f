# shellcheck shell=bash disable=SC2154,SC2034  # sourced after env.sh
# The chart in the running cluster: its images, how it is installed, its pods and its pools.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)
# The same build again, as long as there is no second release.
later_version=$version-next

r() { kubectl --namespace rockpool "$@"; }
in_controller() { r exec rockpool-controller-0 -c rockpool -- rockpool ctl "$@"; }

# so WHAT COMMAND... : shows what a command prints, which must be WHAT.
so() {
  local want=$1 got
  shift
  got=$("$@") || die "this failed: $*"
  [[ $got == "$want" ]] || die "this should print \`$want\` and prints \`$got\`: $*"
  echo "$got"
}

# image_name NAME VERSION : as the nodes know it.
image_name() { echo "docker.io/library/rockpool-$1:$2"; }

# digest_of NAME : what is in that image, on every node the same.
digest_of() {
  local node digest known=
  for node in "${nodes[@]}"; do
    digest=$(ctr_of "$node" images ls "name==$(image_name "$1" "$version")" | awk 'NR == 2 { print $3 }')
    [[ $digest == sha256:* ]] || die "$node has no image rockpool-$1 $version: load.sh brings it"
    [[ ${known:=$digest} == "$digest" ]] || die "the nodes have different images of rockpool-$1 $version: load it again"
  done
  echo "$known"
}

# driver_on NODE : the driver's pod there that is ready and stays.
driver_on() {
  picked "[.items[] | select(.spec.nodeName == \"$1\" and .metadata.deletionTimestamp == null and
    any(.status.conditions[]?; .type == \"Ready\" and .status == \"True\"))][0].metadata.name // error(\"none\") | \"pod/\" + ." \
    r get pods -l app.kubernetes.io/component=node -o json
}
node_pods_of() { r get pods -l app.kubernetes.io/name=rockpool,app.kubernetes.io/component=node -o name; }

# drivers_ready : waits until each node has one that is ready, and all controllers are.
drivers_ready() {
  r rollout status daemonset/rockpool-node-default --timeout=120s >/dev/null
  await 120 "a driver on each node" prints "${#nodes[@]}" r get daemonset rockpool-node-default -o jsonpath='{.status.numberReady}'
  r rollout status statefulset/rockpool-controller --timeout=180s >/dev/null
}

# install_chart [ARGUMENT...] : with what the cluster of the tests asks for. A build that was loaded under the version that is there already makes new
# pods, since they are annotated with what is in it.
install_chart() {
  local node controller
  # All in one chain: who asks whether it worked has switched errexit off.
  node=$(digest_of node) && controller=$(digest_of controller) &&
    { kubectl get namespace rockpool || kubectl create namespace rockpool; } >/dev/null 2>&1 &&
    kubectl label namespace rockpool pod-security.kubernetes.io/enforce=privileged --overwrite >/dev/null &&
    helm upgrade --install rockpool "$here/../../deploy/chart/rockpool" --namespace rockpool --values "$here/values.yaml" \
      --set-string "node.podAnnotations.image=$node" --set-string "controller.podAnnotations.image=$controller" --wait --timeout 180s "$@" >/dev/null
}

# As scenes ask for it: capacities are read often, and a deleted node is given up soon.
install_for_scenes() { install_chart --set sidecars.capacity.pollInterval=5s --set controller.deletedNodeGraceSeconds=15 "$@"; }

# make_pools : one on each node that has none yet.
make_pools() {
  local node
  drivers_ready
  for node in "${nodes[@]}"; do
    beside "$node" test -e /var/lib/rockpool/fast.img ||
      r exec "$(driver_on "$node")" -- rockpool pool init fast --kind image --file /var/lib/rockpool/fast.img --size 12GiB --sparse --unmount --config /tmp/new.toml
  done
  await 90 "room on both nodes" rooms
}

# rooms [CLASS] : whether there is room on each node, as far as schedulers know.
rooms() {
  prints "${#nodes[@]}" picked "[.items[] | select(.storageClassName == \"${1:-rockpool}\" and .capacity != null and .capacity != \"0\") |
    .nodeTopology.matchLabels] | unique | length" r get csistoragecapacities -o json
}

# room_on NODE [CLASS] : in bytes, as far as schedulers know.
room_on() {
  local room
  room=$(picked "[.items[] | select(.storageClassName == \"${2:-rockpool}\" and .nodeTopology.matchLabels[\"topology.csi.rockpool.dev/node\"] == \"$1\")][0].capacity // \"0\"" \
    r get csistoragecapacities -o json) && numfmt --from=auto "$room"
}
