#!/usr/bin/env bash
# tests/kubernetes/e2e.sh [FOCUS]: the upstream storage suite (External.Storage) against the driver in the cluster that up.sh has started. FOCUS is a
# regular expression over the rest of the names. The report, with a JUnit summary, goes to target/e2e.
#
# In the end all of it is gone, as the auditor of the torture test sees it. PROCS=4 so many at a time; LIST=1 only says which there are; TIMEOUT=10800
# seconds for all of the suite. Without FOCUS, what passed and what was skipped is compared with e2e/whole.txt.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "$0")/env.sh"
# shellcheck source=chart.sh
. "$here/chart.sh"
# shellcheck source=objects.sh
. "$here/objects.sh"
# shellcheck source=audit.sh
. "$here/audit.sh"
focus=${1:-}
target=$(realpath -m "${CARGO_TARGET_DIR:-$here/../../target}")
out=$target/e2e
procs=${PROCS:-4}
[[ ${TIMEOUT:=10800} =~ ^[1-9][0-9]*$ ]] || die "TIMEOUT is $TIMEOUT: want a number of seconds, like 10800"
# Those that stop whole nodes by ssh, that are for other systems, and that want a populator's images. Those that must run alone do so, after the others.
skip='\[Disruptive\]|\[Feature:SELinux\]|\[Feature:Windows\]|any volume data source'
dry=()
[[ -z ${LIST:-} ]] || dry=(--dry-run) procs=1

present || die "no cluster runs here: make cluster-up"
"$here/build.sh" e2e
rm -rf "$out"
mkdir -p "$out"
"$here/images.sh" e2e
for node in "${nodes[@]}"; do for one in "$images"/*e2e*.tar; do ctr_of "$node" images import "$one" >/dev/null; done; done
[[ -x $auditor ]] || build_auditor
"$here/load.sh"
install_for_scenes
make_pools
# An ext4 grows while it is used only where the driver has CAP_SYS_RESOURCE, which root lacks in some places: what names no filesystem gets an xfs.
class e2e WaitForFirstConsumer Delete xfs
await 60 "the provisioner has seen the class" rooms e2e
audit "those before the suite" 30

began=$SECONDS
status=0
# suite NAME FOCUS SKIP : one run of ginkgo; its reports are called NAME.
suite() {
  # To ginkgo 0 is no limit at all.
  local left=$((TIMEOUT - SECONDS + began))
  ((left > 0)) || left=1
  ginkgo --procs="$procs" --timeout="${left}s" --focus="External.Storage.*$2" --skip="$skip|$3" --silence-skips --no-color "${dry[@]}" --output-dir="$out" \
    --json-report="$1.json" --junit-report="$1.xml" "$bin/e2e.test" -- -storage.testdriver="$here/e2e/testdriver.yaml" -kubeconfig="$KUBECONFIG" \
    -provider=skeleton -kubectl-path="$bin/kubectl" -num-nodes=2 -report-dir="$out" >"$out/$1.log" 2>&1 || status=$?
  [[ -s $out/$1.json ]] || die "there is no report: see $out/$1.log"
}
# What is cut in a group must be on one node, and the suite takes pods from wherever they come to be.
groups=volumegroupsnapshottable
suite most "$focus" "$groups"
trap 'kubectl uncordon "${nodes[1]}" >/dev/null' EXIT
kubectl cordon "${nodes[1]}" >/dev/null
suite groups "$groups.*$focus" "a spec of another name"

# What was selected: a skip with a message is one at run time.
selected='[.[][0].SpecReports // [] | .[] | select(.LeafNodeType == "It" and (.State != "skipped" or .Failure.Message))]'
name='(.ContainerHierarchyTexts + [.LeafNodeText] | join(" "))'
of() { jq -rs "$selected | $1" "$out/most.json" "$out/groups.json"; }
of ".[] | select(.State == \"skipped\") | \"\(.Failure.Message): \" + $name" | sed 's/\[sig-storage\] External Storage //' | LC_ALL=C sort >"$out/skipped.txt"
of ".[] | select(.State != \"skipped\" and .State != \"passed\") | \"\(.State): \" + $name + \": \" + (.Failure.Message // \"\" | split(\"\n\")[0])"
of "group_by(.State)[] | \"\(length) \(.[0].State)\"" | paste -sd, | sed 's/^/e2e: /; s/,/, /g'
say "$((SECONDS - began)) s; the reports are in $out"
[[ -z ${LIST:-} ]] || exit 0
passed=$(of 'map(select(.State == "passed")) | length')
((passed > 0)) || { say "nothing has passed: is there a spec that says '$focus'?"; status=1; }
if [[ -z $focus ]]; then
  # Each that is skipped is explained in docs/kubernetes.md. Of the reference hostpath driver 78 pass.
  { echo "$passed passed"; sed 's/: External Storage .*//' "$out/skipped.txt" | uniq -c; } >"$out/whole.txt"
  diff "$here/e2e/whole.txt" "$out/whole.txt" >&2 || { say "other specs passed, or were skipped, than e2e/whole.txt says"; status=1; }
fi
kubectl uncordon "${nodes[1]}" >/dev/null
audit "the suite" 120
exit "$status"
