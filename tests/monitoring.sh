#!/usr/bin/env bash
# tests/monitoring.sh: the alerts, tried with promtool, and what a driver shows, held against the conventions by it.
set -euo pipefail
cd "$(dirname "$0")/.."
promtool=${XDG_CACHE_HOME:-$HOME/.cache}/rockpool/kubernetes/bin/promtool
[[ -x $promtool ]] || { echo "tests/monitoring.sh: $promtool is missing: tests/install.sh monitoring" >&2; exit 1; }
say() { printf 'monitoring: %s\n' "$*"; }

alerts=deploy/chart/rockpool/monitoring/alerts.yaml
"$promtool" check rules --lint=all --lint-fatal "$alerts"
"$promtool" test rules deploy/test/alerts_test.yaml

# A driver with a pool in memory and two volumes, one of which was refused.
cargo build --locked --quiet
rockpool=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/rockpool
dir=$(mktemp -d)
driver=
finish() {
  [[ -z $driver ]] || { kill "$driver" && wait "$driver" || true; }
  rm -rf "$dir"
}
trap finish EXIT
mkdir "$dir/kubelet" "$dir/state"
printf '[[pool]]\nname = "toy"\nkind = "sim"\nsize = "10GiB"\n' >"$dir/config.toml"
export CSI_ENDPOINT=unix://$dir/csi.sock
# Below those that the kernel gives away.
port=$((20000 + RANDOM % 12000))
"$rockpool" standalone --config "$dir/config.toml" --node-id n1 --kubelet-root "$dir/kubelet" --state-dir "$dir/state" \
  --http-listen "127.0.0.1:$port" --volume-metrics >"$dir/log" 2>&1 &
driver=$!
for _ in {1..100}; do
  [[ ! -S $dir/csi.sock ]] || break
  kill -0 "$driver" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
  sleep 0.1
done
"$rockpool" ctl volume create one --size 64MiB >/dev/null
if "$rockpool" ctl volume create one --size 65MiB >/dev/null 2>&1; then
  echo "tests/monitoring.sh: a volume was made again with another size" >&2
  exit 1
fi
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n' >&3
sed '1,/^\r$/d' <&3 >"$dir/metrics"
exec 3<&-
for want in rockpool_build_info 'rockpool_calls_total{method="CreateVolume",code="OK"} 1' 'rockpool_calls_total{method="CreateVolume",code="ALREADY_EXISTS"} 1' rockpool_volume_size_bytes rockpool_pool_free_bytes; do
  grep -qF "$want" "$dir/metrics" || { echo "/metrics lacks $want:" >&2; cat "$dir/metrics" >&2; exit 1; }
done
"$promtool" check metrics --extended <"$dir/metrics"
say "$(grep -c '^# TYPE' "$dir/metrics") metrics keep the conventions"
