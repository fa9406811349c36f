# shellcheck shell=bash disable=SC2154  # sourced after env.sh
# The chart in the running cluster, for demo.sh and the scenes.
busybox=registry.k8s.io/e2e-test-images/busybox:1.37.0-1

r() { kubectl --namespace rockpool "$@"; }

# so WHAT COMMAND... : shows what a command prints, which must be WHAT.
so() {
  local want=$1 got
  shift
  got=$("$@") || die "this failed: $*"
  [[ $got == "$want" ]] || die "this should print \`$want\` and prints \`$got\`: $*"
  echo "$got"
}

# driver_on NODE : the driver's pod there; node_pods_of : all of them.
driver_on() { r get pods -l app.kubernetes.io/component=node --field-selector "spec.nodeName=$1,status.phase=Running" -o name | head -n 1; }
node_pods_of() { r get pods -l app.kubernetes.io/name=rockpool,app.kubernetes.io/component=node -o name; }

# drivers_ready : waits until each node has one that is ready.
drivers_ready() {
  r rollout status daemonset/rockpool-node-default --timeout=120s >/dev/null
  await 120 "a driver on each node" bash -c "[[ \$(kubectl -n rockpool get daemonset rockpool-node-default -o jsonpath='{.status.numberReady}') == ${#nodes[@]} ]]"
}

# install_chart [ARGUMENT...] : with what the cluster of the tests asks for.
install_chart() {
  kubectl get namespace rockpool >/dev/null 2>&1 || kubectl create namespace rockpool >/dev/null
  kubectl label namespace rockpool pod-security.kubernetes.io/enforce=privileged --overwrite >/dev/null
  helm upgrade --install rockpool "$here/../../deploy/chart/rockpool" --namespace rockpool --values "$here/values.yaml" --wait --timeout 120s "$@" >/dev/null
}

# As scenes ask for it: capacities are read often, and a deleted node is given up soon.
install_for_scenes() { install_chart --set sidecars.capacity.pollInterval=5s --set controller.deletedNodeGraceSeconds=15 "$@"; }

# make_pools : one on each node that has none yet.
make_pools() {
  local node
  for node in "${nodes[@]}"; do
    beside "$node" test -e /var/lib/rockpool/fast.img ||
      r exec "$(driver_on "$node")" -- rockpool pool init fast --kind image --file /var/lib/rockpool/fast.img --size 12GiB --sparse --config /tmp/new.toml
  done
  await 90 "room on both nodes" rooms
}

# rooms : whether there is room on each node, as far as schedulers know.
rooms() {
  local nodes_with_room
  nodes_with_room=$(r get csistoragecapacities -o json |
    jq '[.items[] | select(.storageClassName == "rockpool" and .capacity != null and .capacity != "0") | .nodeTopology.matchLabels] | unique | length')
  ((nodes_with_room == ${#nodes[@]}))
}
