#!/usr/bin/env bash
# tests/kubernetes/up.sh: a Kubernetes of two nodes on this machine, built and started, until a pod has run on each and names are resolved.
# Progress goes to standard error; what fails says which log to read. down.sh takes all of it away again.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
pki=$state/pki
began=$SECONDS

[[ $(id -u) == 0 ]] || die "only root may make network namespaces and mounts"
[[ -z $(ls -A /var/lib/rockpool 2>/dev/null) ]] || die "/var/lib/rockpool is not empty: a driver lives on this machine, and the nodes would have theirs there"
[[ ! -e $state ]] || die "$state is there: it runs already, or did not end well; run down.sh first"
"$here/build.sh"
"$here/images.sh"
trap '[[ $? == 0 ]] || say "failed after $((SECONDS - began)) s: the logs are in $state/log, and down.sh cleans up"' EXIT
mkdir -p "$state"/{pki,log,pid,etcd} "$run"

# What kubelet sets for the whole machine; down.sh puts it back.
(cd /proc/sys && grep -s . vm/overcommit_memory kernel/panic kernel/panic_on_oops) >"$state/sysctls"

# What down.sh removes again.
for fixed in $fixed_dirs; do [[ -d $fixed ]] || { mkdir -p "$fixed" && echo "$fixed"; }; done >"$state/made"
# An overlay cannot write to another one, as where all this is in a container.
snapshotter=overlayfs
[[ $(stat -f -c %T "$state") != overlayfs ]] || snapshotter=native

# Of the control plane; boot gives each node its own.
network() {
  ip netns add "$netns"
  ip link add "$veth" type veth peer name eth0 netns "$netns"
  ip addr add "$host_ip/30" dev "$veth"
  ip link set "$veth" up
  inside ip link set lo up
  inside ip addr add "$control_ip/30" dev eth0
  inside ip link set eth0 up
  # Nothing in the cluster reaches further than the host.
  inside ip route add unreachable default
  inside sysctl -qw net.ipv4.ip_forward=1
}

# certificate NAME SUBJECT [ALTERNATIVE NAMES] : of an EC key, for ten years.
certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "$2" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" \
    -addext basicConstraints=CA:FALSE ${3:+-addext "subjectAltName=$3"} -keyout "$pki/$1.key" -out "$pki/$1.crt" 2>/dev/null
}

# kubeconfig NAME : for who has that certificate.
kubeconfig() {
  local file=$state/$1.conf
  {
    kubectl config --kubeconfig "$file" set-cluster c --server "https://$control_ip:6443" --embed-certs --certificate-authority "$pki/ca.crt"
    kubectl config --kubeconfig "$file" set-credentials u --embed-certs --client-certificate "$pki/$1.crt" --client-key "$pki/$1.key"
    kubectl config --kubeconfig "$file" set-context c --cluster c --user u
    kubectl config --kubeconfig "$file" use-context c
  } >/dev/null
}

certificates() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=ca -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
  openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
  openssl rsa -in "$pki/sa.key" -pubout -out "$pki/sa.pub" 2>/dev/null
  certificate apiserver /CN=kube-apiserver \
    "IP:127.0.0.1,IP:$control_ip,IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate admin /O=system:masters/CN=admin
  local name
  for name in kube-controller-manager kube-scheduler kube-proxy; do certificate "$name" "/CN=system:$name"; done
  for name in "${nodes[@]}"; do
    certificate "$name" "/O=system:nodes/CN=system:node:$name"
    certificate "$name-server" "/CN=$name" "IP:$(node_ip "$name"),DNS:$name"
  done
  for name in admin kube-controller-manager kube-scheduler kube-proxy "${nodes[@]}"; do kubeconfig "$name"; done
}

control_plane() {
  local enter=(nsenter --net="/run/netns/$netns" --)
  start etcd "${enter[@]}" etcd --data-dir "$state/etcd" --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
  start kube-apiserver "${enter[@]}" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address="$control_ip" \
    --advertise-address="$control_ip" --secure-port=6443 --service-cluster-ip-range="$service_cidr" --allow-privileged=true \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --client-ca-file="$pki/ca.crt" \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/sa.pub" \
    --service-account-signing-key-file="$pki/sa.key" --kubelet-certificate-authority="$pki/ca.crt" \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" --kubelet-preferred-address-types=InternalIP
  await 60 kube-apiserver kubectl get --raw /readyz
  start kube-controller-manager "${enter[@]}" kube-controller-manager --kubeconfig="$state/kube-controller-manager.conf" --kube-api-qps=100 --kube-api-burst=200 \
    --bind-address=127.0.0.1 --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
    --use-service-account-credentials=true --leader-elect=false --pvclaimbinder-sync-period=5s \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
  start kube-scheduler "${enter[@]}" kube-scheduler --kubeconfig="$state/kube-scheduler.conf" --bind-address=127.0.0.1 --leader-elect=false
}

containerd_config() {
  cat <<END
version = 2
root = "$state/$1/containerd"
state = "$run/$1/containerd"
[grpc]
  address = "$run/$1/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$state/$1/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10.2"
  restrict_oom_score_adj = true # root may lack CAP_SYS_RESOURCE
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/$1/cni"
END
}

# A veth pair for each pod, routed: no bridge.
cni_config() {
  cat <<END
{"cniVersion": "1.0.0", "name": "ptp", "plugins": [{"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local",
 "subnet": "$(node_pods "$1")", "dataDir": "$state/$1/cni/ipam", "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
}

kubelet_config() {
  cat <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$run/$1/containerd.sock
address: $(node_ip "$1")
cgroupDriver: cgroupfs
cgroupRoot: /rockpool-$1
failCgroupV1: false # from 1.35 on
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: 50Mi}
imageGCHighThresholdPercent: 100
oomScoreAdj: 0
syncFrequency: 10s # how soon a claim that has grown is noticed
maxPods: 200
podLogsDir: $state/$1/pods
volumePluginDir: $state/$1/flexvolume
resolvConf: ""
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
healthzBindAddress: 127.0.0.1
serializeImagePulls: false
tlsCertFile: $pki/$1-server.crt
tlsPrivateKeyFile: $pki/$1-server.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
END
}

# cgroups NODE : where its kubelet begins.
cgroups() {
  local group file
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    mkdir -p "/sys/fs/cgroup/rockpool-$1"
    return
  fi
  for group in /sys/fs/cgroup/*/; do mkdir -p "$group/rockpool-$1" 2>/dev/null || true; done
  for file in cpus mems; do
    cat "/sys/fs/cgroup/cpuset/cpuset.$file" >"/sys/fs/cgroup/cpuset/rockpool-$1/cpuset.$file" 2>/dev/null || true
  done
}

# node NODE : what a node has of its own, and its daemons.
node() {
  local home=$state/$1
  mkdir -p "$home"/{cni,kubelet,rockpool} "$run/$1" "$kubelet" /var/lib/rockpool
  containerd_config "$1" >"$home/containerd.toml"
  cni_config "$1" >"$home/cni/10-ptp.conflist"
  kubelet_config "$1" >"$home/kubelet.yaml"
  cgroups "$1"
  boot "$1"
}

snapshots() {
  kubectl apply -k "$cache/crds" >/dev/null
  kubectl wait --for=condition=Established crd/volumesnapshots.snapshot.storage.k8s.io >/dev/null
  start snapshot-controller nsenter --net="/run/netns/$netns" -- snapshot-controller --kubeconfig "$state/admin.conf" \
    --feature-gates=CSIVolumeGroupSnapshot=true
}

# A pod on every node that finds the API server by its name.
probe_pods() {
  local node
  for node in "${nodes[@]}"; do
    kubectl run "up-$node" --image=registry.k8s.io/e2e-test-images/busybox:1.37.0-1 --restart=Never \
      --overrides='{"spec": {"nodeName": "'"$node"'"}}' --command -- \
      sh -c 'until nc -w 5 kubernetes.default.svc.cluster.local 443 </dev/null; do sleep 1; done' >/dev/null
  done
  for node in "${nodes[@]}"; do
    kubectl wait "pod/up-$node" --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s >/dev/null || {
      kubectl describe pod "up-$node" >"$state/log/up-$node.txt"
      die "a pod on $node did not find the API server: see $state/log/up-$node.txt"
    }
    kubectl delete pod "up-$node" --wait=false >/dev/null
  done
}

network
certificates
control_plane
say "the control plane serves after $((SECONDS - began)) s"
for node in "${nodes[@]}"; do node "$node"; done
snapshots
sed "s/@DNS_IP@/$dns_ip/; s/@COREDNS@/$COREDNS/" "$here/coredns.yaml" | kubectl apply -f - >/dev/null
for node in "${nodes[@]}"; do await 90 "node-$node" kubectl wait "node/$node" --for=condition=Ready --timeout=1s; done
await 30 "the default service account" kubectl get serviceaccount default
say "the nodes are Ready after $((SECONDS - began)) s"
kubectl --namespace kube-system rollout status deployment/coredns --timeout=60s >/dev/null
probe_pods
say "a pod has run on each after $((SECONDS - began)) s"
say "export KUBECONFIG=$KUBECONFIG PATH=$bin:\$PATH"
