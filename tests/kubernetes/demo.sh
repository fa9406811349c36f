#!/usr/bin/env bash
# tests/kubernetes/demo.sh: the main journey on the cluster that up.sh has started, shown step by step: the chart is installed, a pool is made on each
# node, a StatefulSet writes to its volumes, one is cut, restored into a new claim and grown while it is used, all of it is deleted, and the chart
# uninstalled. Each step fails unless what it shows is right.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
# shellcheck source=objects.sh
. "$here/objects.sh"
namespace=demo
began=$SECONDS
step() { printf '\n--- %s\n' "$*"; }

present || die "no cluster runs here: make cluster-up"
trap '[[ $? == 0 ]] || say "failed after $((SECONDS - began)) s; the cluster is left as it is: see kubectl get events -A, kubectl -n rockpool logs ds/rockpool-node-default"' EXIT
"$here/load.sh"

step "The chart is installed, and a pool is made on each node"
install_chart
make_pools
r get csistoragecapacities -o custom-columns=CLASS:.storageClassName,NODE:.nodeTopology.matchLabels,ROOM:.capacity

step "A StatefulSet of two, each with an xfs volume of its own, written to"
kubectl create namespace demo >/dev/null
# An ext4 grows while it is used only where the driver has CAP_SYS_RESOURCE, which root lacks in some places.
class demo-xfs WaitForFirstConsumer Delete xfs
stateful demo-xfs 320Mi ReadWriteOncePod
put app-0 "written by app-0"
put app-1 "written by app-1"
so "written by app-0" get app-0
so "written by app-1" get app-1
k get pods -o custom-columns=POD:.metadata.name,NODE:.spec.nodeName
k get pvc -o custom-columns=CLAIM:.metadata.name,STATUS:.status.phase,SIZE:.status.capacity.storage

step "A snapshot, and a new claim from it, read by a pod on the same node"
take cut data-app-0
k get volumesnapshot cut
put app-0 "changed since"
claim restored 320Mi rockpool-from-snapshot ReadWriteOnce Filesystem "$(cut_of cut)"
pod reader restored
ready reader
so "written by app-0" get reader
so "changed since" get app-0

step "It grows while it is used"
k exec reader -- df -h /data
grow restored 600Mi
await 60 "the claim has grown" prints 600Mi size_of restored
k exec reader -- df -h /data
(($(space_in reader) > 500 * 1024)) || die "the filesystem has not grown"

step "All of it is deleted, and nothing is left"
k delete statefulset/app pod/reader --timeout=60s
k delete volumesnapshot --all --timeout=60s
k delete pvc --all --timeout=60s
nothing_known() { prints "" kubectl get pv -o name && prints "" kubectl get volumesnapshotcontents -o name; }
await 60 "no volume is left" nothing_known
for node in "${nodes[@]}"; do so "0 B" picked '.pools[0].promised_bytes | tostring + " B"' r exec "$(driver_on "$node")" -- rockpool pool list -o json; done
kubectl delete namespace demo --timeout=60s
kubectl delete storageclass demo-xfs

step "The chart is uninstalled"
helm uninstall rockpool --namespace rockpool --wait --timeout 60s
kubectl delete namespace rockpool --timeout=60s
printf '\nkubernetes: the demo took %s s\n' $((SECONDS - began))
