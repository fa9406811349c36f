# shellcheck shell=bash disable=SC2154  # sourced after env.sh
# Classes, claims, pods, sets and snapshots as the demo and the scenes make them, in the namespace that $namespace says.
busybox=registry.k8s.io/e2e-test-images/busybox:1.37.0-1

k() { kubectl --namespace "$namespace" "$@"; }

# class NAME MODE POLICY FILESYSTEM
class() {
  kubectl apply -f - >/dev/null <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: $1}
provisioner: csi.rockpool.dev
volumeBindingMode: $2
reclaimPolicy: $3
allowVolumeExpansion: true
parameters: {csi.storage.k8s.io/fstype: $4}
END
}

# claim_yaml, claim NAME SIZE [CLASS [ACCESS [MODE [SOURCE]]]]
claim_yaml() {
  cat <<END
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1, labels: {scene: $namespace}}
spec:
  storageClassName: ${3:-rockpool}
  accessModes: [${4:-ReadWriteOnce}]
  volumeMode: ${5:-Filesystem}
  resources: {requests: {storage: $2}}
  ${6:+dataSource: $6}
END
}
claim() { claim_yaml "$@" | k apply -f - >/dev/null; }
cut_of() { echo "{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: $1}"; }
clone_of() { echo "{kind: PersistentVolumeClaim, name: $1}"; }

# run_pod NAME [NODE] : a pod that is never started anew, on that node if one is named, with what else of its spec stands on standard input, as YAML
# from the first column on.
run_pod() { pod_of "$@" | k apply -f - >/dev/null; }
pod_of() {
  cat <<END
---
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  ${2:+nodeSelector: {kubernetes.io/hostname: $2\}}
END
  sed 's/^/  /'
}

# pod_yaml, pod NAME CLAIM [NODE [COMMAND]] : with the claim at /data.
pod_yaml() {
  # JSON is YAML.
  pod_of "$1" "${3:-}" <<END
containers: [{name: c, image: $busybox, command: [sh, -c, $(jq -n --arg command "${4:-sleep 3600}" '$command')], volumeMounts: [{name: data, mountPath: /data}]}]
volumes: [{name: data, persistentVolumeClaim: {claimName: $2}}]
END
}
pod() { pod_yaml "$@" | k apply -f - >/dev/null; }
ready() { k wait "${@/#/pod/}" --for=condition=Ready --timeout=90s >/dev/null; }
bound() { k wait "${@/#/pvc/}" --for=jsonpath='{.status.phase}'=Bound --timeout=60s >/dev/null; }

# stateful CLASS SIZE ACCESS : a StatefulSet app of two, one on each node, each with a volume of its own, which stay where they are when their node is
# not there.
stateful() {
  k apply -f - >/dev/null <<END
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
      tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}, {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}]
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: app}}}
      containers:
        - {name: c, image: $busybox, command: [sleep, "3600"], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [$3], storageClassName: $1, resources: {requests: {storage: $2}}}
END
  k rollout status statefulset/app --timeout=90s >/dev/null
}

# put POD TEXT : writes it down so that it stays; get POD : reads it.
put() { k exec "$1" -- sh -c "echo '$2' > /data/file && sync"; }
get() { k exec "$1" -- cat /data/file; }
# space_in POD : of the filesystem at /data, in KiB.
space_in() { k exec "$1" -- df -k /data | awk 'END { print $2 }'; }

# take NAME CLAIM : a snapshot, ready to use.
take() {
  k apply -f - >/dev/null <<END
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: $1}
spec: {volumeSnapshotClassName: rockpool, source: {persistentVolumeClaimName: $2}}
END
  k wait "volumesnapshot/$1" --for=jsonpath='{.status.readyToUse}'=true --timeout=60s >/dev/null
}
# grow CLAIM SIZE : asks for it; size_of CLAIM : what it has.
grow() { k patch pvc "$1" --patch '{"spec": {"resources": {"requests": {"storage": "'"$2"'"}}}}' >/dev/null; }
size_of() { k get pvc "$1" -o jsonpath='{.status.capacity.storage}'; }

node_of() { k get pod "$1" -o jsonpath='{.spec.nodeName}'; }
volume_of() { k get pvc "$1" -o jsonpath='{.spec.volumeName}'; }
# place_of CLAIM : the node that its volume can be used on.
place_of() { kubectl get pv "$(volume_of "$1")" -o jsonpath='{.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]}'; }
# event POD TEXT : whether an Event about the pod that has this name now says that.
event() {
  local uid events
  uid=$(k get pod "$1" -o jsonpath='{.metadata.uid}') && events=$(k get events --field-selector "involvedObject.uid=$uid" -o json) &&
    [[ $(jq --arg text "$2" 'any(.items[]; .message | contains($text))' <<<"$events") == true ]]
}
# refusals : Events of volumes that could not be made where a scheduler wanted them.
refusals() { picked '.items[] | select(.reason == "ProvisioningFailed") | .involvedObject.name + ": " + .message' k get events -o json; }
