# shellcheck shell=bash disable=SC2034  # sourced by env.sh
# The versions of everything that the cluster of the tests consists of, but for containerd, runc and the CNI plugins: those are Debian's.
K8S=v1.36.3
ETCD=v3.6.16
COREDNS=v1.15.0
HELM=v3.22.0
# As in the chart; all built on the libraries of this Kubernetes.
PROVISIONER=v6.3.0
RESIZER=v2.2.0
SNAPSHOTTER=v8.6.0
# What watches it.
PROMETHEUS=v0.316.0
