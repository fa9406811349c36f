#!/usr/bin/env bash
# tests/kubernetes/demo.sh: the main journey on the cluster that up.sh has started, shown step by step: the chart is installed, a pool is made on each
# node, a StatefulSet writes to its volumes, one is cut, restored into a new claim and grown while it is used, all of it is deleted, and the chart
# uninstalled. Each step fails unless what it shows is right.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
cd "$here/../.."
began=$SECONDS
step() { printf '\n--- %s\n' "$*"; }
k() { kubectl --namespace demo "$@"; }

running "node-${nodes[0]}" >/dev/null || die "no cluster runs here: make cluster-up"
trap 'say "failed after $((SECONDS - began)) s; the cluster is left as it is: see kubectl get events -A, kubectl -n rockpool logs ds/rockpool-node-default"' ERR
"$here/load.sh"

step "The chart is installed, and a pool is made on each node"
install_chart
make_pools
r get csistoragecapacities -o custom-columns=CLASS:.storageClassName,NODE:.nodeTopology.matchLabels,ROOM:.capacity

step "A StatefulSet of two, each with an xfs volume of its own, written to"
kubectl create namespace demo >/dev/null
# An ext4 grows while it is used only where the driver has CAP_SYS_RESOURCE, which root lacks in some places.
k apply -f - <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: demo-xfs}
provisioner: csi.rockpool.dev
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
parameters: {csi.storage.k8s.io/fstype: xfs}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: app}
spec:
  serviceName: app
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: app}}}
      containers:
        - name: c
          image: $busybox
          command: [sh, -c, "echo written by \$HOSTNAME > /data/file; sync; sleep 3600"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOncePod], storageClassName: demo-xfs, resources: {requests: {storage: 320Mi}}}
END
k rollout status statefulset/app --timeout=90s
so "written by app-0" k exec app-0 -- cat /data/file
so "written by app-1" k exec app-1 -- cat /data/file
k get pvc -o custom-columns=CLAIM:.metadata.name,STATUS:.status.phase,SIZE:.status.capacity.storage

step "A snapshot, and a new claim from it, read by a pod on the same node"
k apply -f - <<END
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: cut}
spec: {volumeSnapshotClassName: rockpool, source: {persistentVolumeClaimName: data-app-0}}
END
k wait volumesnapshot/cut --for=jsonpath='{.status.readyToUse}'=true --timeout=60s
k exec app-0 -- sh -c 'echo changed since > /data/file; sync'
k apply -f - <<END
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: restored}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: rockpool-from-snapshot
  resources: {requests: {storage: 320Mi}}
  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: cut}
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: $busybox
      command: [sleep, "3600"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: restored}}]
END
k wait pod/reader --for=condition=Ready --timeout=60s
so "written by app-0" k exec reader -- cat /data/file
so "changed since" k exec app-0 -- cat /data/file

step "It grows while it is used"
k exec reader -- df -h /data
k patch pvc restored --patch '{"spec": {"resources": {"requests": {"storage": "600Mi"}}}}'
await 60 "the claim has grown" bash -c "[[ \$(kubectl -n demo get pvc restored -o jsonpath='{.status.capacity.storage}') == 600Mi ]]"
k exec reader -- df -h /data
[[ $(k exec reader -- df -m /data | awk 'END { print $2 }') -gt 500 ]] || die "the filesystem has not grown"

step "All of it is deleted, and nothing is left"
k delete statefulset/app pod/reader --timeout=60s
k delete volumesnapshot --all --timeout=60s
k delete pvc --all --timeout=60s
await 60 "no volume is left" bash -c "[[ -z \$(kubectl get pv -o name) && -z \$(kubectl get volumesnapshotcontents -o name) ]]"
for pod in $(node_pods_of); do so "0 B" bash -c "kubectl -n rockpool exec $pod -- rockpool pool list -o json | jq -r '.pools[0].promised_bytes | tostring + \" B\"'"; done
kubectl delete namespace demo --timeout=60s
kubectl delete storageclass demo-xfs

step "The chart is uninstalled"
helm uninstall rockpool --namespace rockpool --wait --timeout 60s
kubectl delete namespace rockpool --timeout=60s
printf '\nkubernetes: the demo took %s s\n' $((SECONDS - began))
