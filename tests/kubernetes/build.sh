#!/usr/bin/env bash
# tests/kubernetes/build.sh [core|sidecars|helm|e2e|monitoring]...: Kubernetes, etcd, CoreDNS, the sidecars, Helm and Prometheus, built from their Go
# modules into the user's cache (default: all but e2e and monitoring). What is there at its version is not built again.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
mkdir -p "$bin" "$cache/src" "$cache/versions"
export CGO_ENABLED=0 GOWORK=off

# The go.mod of Kubernetes points at directories that its module zip does not have.
staging="api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider
  cluster-bootstrap code-generator component-base component-helpers controller-manager cri-api cri-client
  cri-streaming csi-translation-lib dynamic-resource-allocation endpointslice externaljwt kms
  kube-aggregator kube-controller-manager kube-proxy kube-scheduler kubectl kubelet metrics mount-utils
  pod-security-admission sample-apiserver sample-cli-plugin sample-controller streaming"
base=k8s.io/component-base/version
ldflags="-s -w -X $base.gitVersion=$K8S -X $base.gitMajor=1 -X $base.gitMinor=$(cut -d. -f2 <<<"$K8S")
  -X $base.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=$K8S"

# missing VERSION NAME... : whether any of them is absent, or of another version.
missing() {
  local version=$1 name
  shift
  for name; do
    [[ -e $bin/$name && $(cat "$cache/versions/$name" 2>/dev/null) == "$version" ]] || return 0
  done
  return 1
}

# built VERSION NAME... : notes what there is now.
built() {
  local version=$1 name
  shift
  for name; do echo "$version" >"$cache/versions/$name"; done
  say "built $* $version in $((SECONDS - began)) s"
}

# gobuild WHAT ARGUMENT... : go build, with what it said kept for the case that it fails.
gobuild() {
  local what=$1 log=$cache/src/$1.log
  shift
  began=$SECONDS
  say "building $what; what go says is in $log"
  nice -n 5 go build -mod=mod -trimpath "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "building $what failed: see $log"; }
}

# wrapper NAME MODULE VERSION : a module that requires one thing; the current directory from then on.
wrapper() {
  mkdir -p "$cache/src/$1"
  cd "$cache/src/$1"
  printf 'module rockpool.dev/%s\n\ngo 1.26.0\n\nrequire %s %s\n' "$1" "$2" "$3" >go.mod
}

replaced() { for one in $staging; do echo "replace k8s.io/$one => k8s.io/$one v0.${K8S#v1.}"; done; }

core() {
  local commands=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl)
  if missing "$K8S" "${commands[@]}" agnhost; then
    wrapper kubernetes k8s.io/kubernetes "$K8S"
    replaced >>go.mod
    # One go build for all: the packages that they share are compiled once.
    gobuild Kubernetes -ldflags "$ldflags" -o "$bin/" "${commands[@]/#/k8s.io/kubernetes/cmd/}" k8s.io/kubernetes/test/images/agnhost
    built "$K8S" "${commands[@]}" agnhost
  fi
  if missing "$ETCD" etcd; then
    wrapper etcd go.etcd.io/etcd/server/v3 "$ETCD"
    gobuild etcd -ldflags "-s -w" -o "$bin/etcd" go.etcd.io/etcd/server/v3
    built "$ETCD" etcd
  fi
  if missing "$COREDNS" coredns; then
    wrapper coredns github.com/coredns/coredns "$COREDNS"
    gobuild CoreDNS -ldflags "-s -w" -o "$bin/coredns" github.com/coredns/coredns
    built "$COREDNS" coredns
  fi
  if missing 1 pause; then
    cd "$here/pause"
    gobuild pause -ldflags "-s -w" -o "$bin/pause" main.go
    built 1 pause
  fi
}

# One module and one go build for all sidecars, too. It takes of shared dependencies the newest that any of them asks for, which is not quite
# what each release was built with, and four times cheaper.
sidecars() {
  local csi=github.com/kubernetes-csi commands=(csi-provisioner csi-resizer csi-snapshotter snapshot-controller)
  local versions="$PROVISIONER $RESIZER $SNAPSHOTTER"
  if missing "$versions" "${commands[@]}"; then
    wrapper sidecars $csi/external-provisioner/v6 "$PROVISIONER"
    {
      echo "require $csi/external-resizer/v2 $RESIZER"
      echo "require $csi/external-snapshotter/v8 $SNAPSHOTTER"
      echo "require $csi/external-snapshotter/client/v8 $SNAPSHOTTER"
      replaced
    } >>go.mod
    gobuild sidecars -ldflags "-s -w" -o "$bin/" \
      $csi/external-{provisioner/v6/cmd/csi-provisioner,resizer/v2/cmd/csi-resizer} \
      $csi/external-snapshotter/v8/cmd/{csi-snapshotter,snapshot-controller}
    rm -rf "$cache/crds"
    cp -rT "$(go mod download -json $csi/external-snapshotter/client/v8@"$SNAPSHOTTER" | jq -r .Dir)/config/crd" "$cache/crds"
    chmod -R u+w "$cache/crds"
    built "$versions" "${commands[@]}"
  fi
}

helm() {
  if missing "$HELM" helm; then
    wrapper helm helm.sh/helm/v3 "$HELM"
    gobuild Helm -ldflags "-s -w" -o "$bin/helm" helm.sh/helm/v3/cmd/helm
    built "$HELM" helm
  fi
}

# Without what looks for targets in other people's clouds, which is most of it.
monitoring() {
  local module=github.com/prometheus/prometheus
  if missing "$PROMETHEUS" promtool prometheus; then
    wrapper prometheus $module "$PROMETHEUS"
    gobuild Prometheus -ldflags "-s -w" -tags netgo,remove_all_sd,enable_kubernetes_sd -o "$bin/" $module/cmd/{promtool,prometheus}
    built "$PROMETHEUS" promtool prometheus
  fi
}

e2e() {
  if missing "$K8S" e2e.test ginkgo; then
    wrapper e2e k8s.io/kubernetes "$K8S"
    replaced >>go.mod
    cp "$here/e2e/e2e_test.go" .
    gobuild ginkgo -ldflags "$ldflags" -o "$bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
    say "building the upstream suite"
    nice -n 5 go test -mod=mod -trimpath -ldflags "$ldflags" -c -o "$bin/e2e.test" . >"$cache/src/e2e.log" 2>&1 ||
      die "building the upstream suite failed: see $cache/src/e2e.log"
    built "$K8S" e2e.test ginkgo
  fi
}

for what in "${@:-core sidecars helm}"; do
  for one in $what; do "$one"; done
done
