# shellcheck shell=bash disable=SC2154  # sourced after env.sh, chart.sh and objects.sh
# A real Prometheus beside the driver, and what it knows.
monitoring=$here/../../deploy/chart/rockpool/monitoring
prometheus_image=docker.io/library/rockpool-prometheus:$PROMETHEUS

# load_prometheus : brings it to the nodes.
load_prometheus() {
  local node
  "$here/build.sh" monitoring
  "$here/images.sh" monitoring
  for node in "${nodes[@]}"; do
    [[ -n $(ctr_of "$node" images ls -q "name==$prometheus_image") ]] || ctr_of "$node" images import "$(archive "$prometheus_image")" >/dev/null
  done
}

# scrape_config : the one of docs/monitoring.md, which users copy, in a hurry.
scrape_config() {
  echo 'global: {scrape_interval: 2s, evaluation_interval: 2s}'
  echo 'rule_files: [/etc/prometheus/alerts.yaml]'
  sed -n '/^scrape_configs:/,/^```/p' "$here/../../docs/monitoring.md" | sed '$d; s/rockpool-system/rockpool/'
}

# watch_driver : starts it in the scene's namespace. Its alerts are those of the chart, but for their patience.
watch_driver() {
  local rules=$evidence/alerts-soon.yaml
  load_prometheus
  sed 's/ for: .*/ for: 4s/; s/\[10m\]/[40s]/g; s/\[1h\]/[2m]/g' "$monitoring/alerts.yaml" >"$rules"
  "$bin/promtool" check rules "$rules" >/dev/null
  scrape_config >"$evidence/prometheus.yml"
  k create configmap prometheus --from-file=prometheus.yml="$evidence/prometheus.yml" --from-file=alerts.yaml="$rules" >/dev/null
  later kubectl --namespace rockpool delete role,rolebinding prometheus --ignore-not-found
  sed "s/NAMESPACE/$namespace/g; s/VERSION/$PROMETHEUS/" "$here/monitoring/prometheus.yaml" | kubectl apply -f - >/dev/null
  ready prometheus
  await 60 "all pods of ours are scraped" prints "$((${#nodes[@]} + 2))" value_of 'count(up{job="rockpool"} == 1)'
}

# rows_of QUERY : its answer, as JSON; value_of QUERY : of one that is a single number.
rows_of() { k exec prometheus -- /promtool query instant --format=json http://localhost:9090 "$1"; }
value_of() { picked '.[0].value[1] // error("no data")' rows_of "$1"; }
has_data() { more_than 0 picked length rows_of "$1"; }
# fires ALERT [LABELS] : whether it does.
fires() { has_data "ALERTS{alertname=\"$1\", alertstate=\"firing\"${2:+, $2}}"; }
