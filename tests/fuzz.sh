#!/usr/bin/env bash
# tests/fuzz.sh [MINUTES | keep | planted | page] [TARGET...]: fuzzes the targets of fuzz/ for MINUTES altogether (5 unless said), one after the other.
#
# It builds them once, replays the kept corpus (fuzz/corpus), and then goes on from it; what it finds new lies below the target
# directory. `keep` makes the kept corpus anew from all of it and from the seeds made by hand, as small as reaches the same code.
# `SEED=number` makes its choices the same every time: what a change is judged by must not be chance. Without it each run looks elsewhere.
# A crash ends it non-zero, after the other targets had their time, with the command that replays it; its input stays in
# fuzz/artifacts. Figures go to fuzz-results/; `page` writes the sums of all of them into docs/reliability.md.
#
# `planted` is the proof of the proof: it plants the bugs of fuzz/planted.txt in the program, one at a time, and fails unless the
# target of each finds it, in the kept corpus or within a minute, and unless all targets are silent without one.
#
# No sanitizer: what is checked is safe Rust; the unsafe calls of src/os are system calls, into which a sanitizer does not see.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${XDG_CACHE_HOME:-$HOME/.cache}/rockpool/tools/bin:$PATH"
toolchain=$(sed -n 's/^channel = "\(.*\)"/\1/p' fuzz/rust-toolchain.toml)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
work=$target/work
all=(ids parameters mount_flags records mountinfo config requests operations)
minutes=5 verb=fuzz
case ${1:-} in
  keep | planted | page) verb=$1; shift ;;
esac
if [[ ${1:-} =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
  minutes=$1
  shift
fi
for name in "$@"; do
  case " ${all[*]} " in *" $name "*) ;; *)
    echo "fuzz: \`$name\` is neither a number of minutes nor keep, planted, page or a target: want some of ${all[*]}" >&2
    exit 2 ;;
  esac
done
[ $# = 0 ] || all=("$@")

# The sums of all runs and the last look for planted bugs, between two marks of the page. Not of uncommitted changes, nor of short runs.
page() {
  local table
  table=$(jq -rs '
    map(select(.commit | endswith("-dirty") | not)) |
    (map(select(.targets and ([.targets[].cpu_seconds] | add) >= 120))) as $runs | (map(select(.planted)) | max_by(.began)) as $proof |
    "\($runs | length) runs, commits \([$runs[].commit] | unique | join(", ")), \([$runs[].toolchain] | unique | join(", ")):",
    "**\([$runs[].targets[].executions] | add) executions in \([$runs[].targets[].cpu_seconds] | add / 36 | round / 100) CPU hours, \([$runs[].targets[].crashes] | add) crashes**.",
    "", "| target | executions | CPU minutes | corpus (kept) | crashes |", "|---|---|---|---|---|",
    ($runs | map(.began as $began | .targets[] + {began: $began}) | group_by(.target)[] | max_by(.began) as $last |
      "| \(.[0].target) | \(map(.executions) | add) | \(map(.cpu_seconds) | add / 6 | round / 10) | \($last.corpus) (\($last.kept)) | \(map(.crashes) | add) |"),
    ($proof // empty |
      "", "Planted bugs caught: **\([.planted[] | select(.by)] | length) of \(.planted | length)** (commit \(.commit)).",
      "", "| planted bug | target | caught by |", "|---|---|---|",
      (.planted[] | "| \(.what) | \(.target) | \(.by // "**not caught**") |"))
  ' fuzz-results/*.json)
  mkdir -p "$target"
  awk -v table="${table//\\/\\\\}" '
    /^<!-- fuzzing: / { print; print ""; print table; print ""; inside = 1 }
    /^<!-- end of fuzzing -->/ { inside = 0 }
    !inside { print }' docs/reliability.md >"$target/page"
  cat "$target/page" >docs/reliability.md
}
[ "$verb" != page ] || { page; exit 0; }

if ! tests/install.sh fuzz; then
  echo "SKIP fuzz::tools: no nightly Rust or no cargo-fuzz, and neither can be had here"
  exit 0
fi

# build DIRECTORY OPTION...: the targets, as programs in the directory.
build() {
  local to=$1 began=$SECONDS
  shift
  mkdir -p "$to"
  if ! cargo "+$toolchain" fuzz build --sanitizer none --target-dir "$target" "$@" >"$target/build.log" 2>&1; then
    cat "$target/build.log"
    exit 1
  fi
  for name in "${all[@]}"; do install -m 755 "$target/$(rustc -vV | sed -n 's/^host: //p')/release/$name" "$to/$name"; done
  echo "fuzz: built in $((SECONDS - began)) s"
}

# A directory of its own for what the targets write, in memory where there is one; it goes with this script.
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" rockpool-fuzz.XXXXXX)
trap 'rm -rf --one-file-system "$scratch"' EXIT
trap 'exit 130' INT TERM

# run PROGRAM ARGUMENT...: one target; in a mount namespace of its own where that can be had.
isolate=()
if [ "$(id -u)" = 0 ] && unshare --mount --propagation private true 2>/dev/null; then
  isolate=(unshare --mount --propagation private)
fi
run() { TMPDIR=$scratch "${isolate[@]}" "$1" -timeout=60 -rss_limit_mb=2048 -max_len=4096 -detect_leaks=0 "${@:2}"; }

# result FIELD: writes the JSON texts of standard input as that field of one more file of results.
result() {
  local file
  mkdir -p fuzz-results
  file=fuzz-results/$(date +%s%N).json
  jq -s --arg field "$1" --argjson began "$began" --arg commit "$commit" \
    --arg toolchain "$(rustc "+$toolchain" --version)" '{began: $began, commit: $commit, toolchain: $toolchain, ($field): .}' >"$file"
  echo "fuzz: written to $file"
}

# figure NAME LOG: one of libFuzzer's final figures.
figure() { sed -n "s/^stat::$1: *//p" "$2" | tail -n 1; }

fuzz() {
  local name seconds log crashed cpu executions kept corpus artifact status=0 parts=()
  seconds=$(awk -v m="$minutes" -v n=${#all[@]} 'BEGIN { s = int(m * 60 / n); print s < 1 ? 1 : s }')
  for name in "${all[@]}"; do
    mkdir -p "$work/$name/corpus" "fuzz/artifacts/$name" "fuzz/corpus/$name"
    log=$work/$name/log crashed=0 TIMEFORMAT='%U %S'
    cpu=$({ time {
      run "$target/plain/$name" -artifact_prefix="fuzz/artifacts/$name/" -runs=0 "fuzz/corpus/$name" >"$log" 2>&1 &&
        run "$target/plain/$name" -artifact_prefix="fuzz/artifacts/$name/" -max_total_time="$seconds" -seed="${SEED:-0}" -print_final_stats=1 \
          "$work/$name/corpus" "fuzz/corpus/$name" >>"$log" 2>&1
    } || touch "$scratch/$name.crashed"; } 2>&1 | awk '{ print $1 + $2 }')
    [ ! -e "$scratch/$name.crashed" ] || crashed=1
    executions=$(figure number_of_executed_units "$log")
    kept=$(find "fuzz/corpus/$name" -type f | wc -l)
    corpus=$(find "$work/$name/corpus" "fuzz/corpus/$name" -type f | wc -l)
    printf 'fuzz %-12s %10s executions, %7s a second, corpus %5d (%d kept), %s CPU seconds, %d crashes\n' \
      "$name" "${executions:-?}" "$(figure average_exec_per_sec "$log")" "$corpus" "$kept" "$cpu" "$crashed"
    if [ "$crashed" != 0 ]; then
      status=1
      grep -aE "panicked at|ERROR: libFuzzer" -A 4 "$log" | head -n 30 || true
      artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
      echo "fuzz: replay it with: $target/plain/$name ${artifact:-fuzz/corpus/$name}"
    fi
    parts+=("$(jq -n --arg target "$name" --argjson executions "${executions:-0}" --argjson corpus "$corpus" --argjson kept "$kept" \
      --argjson cpu "$cpu" --argjson crashes "$crashed" \
      '{target: $target, executions: $executions, corpus: $corpus, kept: $kept, cpu_seconds: $cpu, crashes: $crashes}')")
  done
  printf '%s\n' "${parts[@]}" | result targets
  return "$status"
}

keep() {
  local name one
  cargo run --quiet --locked --manifest-path fuzz/Cargo.toml --target-dir "${target%/fuzz}" --example seeds "$scratch/seeds"
  for name in "${all[@]}"; do
    mkdir -p "$work/$name/corpus" "fuzz/corpus/$name" "$scratch/seeds/$name" "$scratch/new/$name"
    run "$target/plain/$name" -set_cover_merge=1 "$scratch/new/$name" "fuzz/corpus/$name" "$scratch/seeds/$name" "$work/$name/corpus" \
      >"$work/$name/log" 2>&1 || { tail -n 30 "$work/$name/log"; exit 1; }
    # Coverage does not tell these apart, bugs do.
    for one in "fuzz/corpus/$name"/kept-* "$scratch/seeds/$name"/kept-*; do [ ! -e "$one" ] || cp "$one" "$scratch/new/$name/"; done
    rm -rf "fuzz/corpus/$name"
    mv "$scratch/new/$name" "fuzz/corpus/$name"
    echo "$name: $(find "fuzz/corpus/$name" -type f | wc -l) inputs kept, $(du -bs "fuzz/corpus/$name" | cut -f1) bytes"
  done
}

# hunt TARGET BUG SECONDS: says what found the bug, if anything did.
hunt() {
  local began=$SECONDS find=(run "$target/armed/$1" -artifact_prefix="$scratch/")
  export ROCKPOOL_PLANTED=$2
  mkdir -p "$scratch/corpus/$2"
  if ! "${find[@]}" -runs=0 "fuzz/corpus/$1" >"$work/$1.$2.log" 2>&1; then
    echo "the kept corpus"
  elif [ "$3" != 0 ] && ! "${find[@]}" -max_total_time="$3" "$scratch/corpus/$2" "fuzz/corpus/$1" >"$work/$1.$2.log" 2>&1; then
    echo "fuzzing for $((SECONDS - began)) s"
  fi
}

planted() {
  local name bug what by caught=0 parts=() status=0
  mkdir -p "$work"
  for name in "${all[@]}"; do
    by=$(hunt "$name" "" 0)
    [ -z "$by" ] || { echo "fuzz: $name cries wolf: see $work/$name..log"; status=1; }
  done
  while read -r name bug what; do
    case " ${all[*]} " in *" $name "*) ;; *) continue ;; esac
    by=$(hunt "$name" "$bug" 60)
    printf 'fuzz planted %-20s %-12s %s\n' "$bug" "$name" "${by:-NOT CAUGHT}"
    [ -n "$by" ] && caught=$((caught + 1)) || status=1
    parts+=("$(jq -n --arg target "$name" --arg bug "$bug" --arg what "$what" --arg by "$by" \
      '{target: $target, bug: $bug, what: $what, by: (if $by == "" then null else $by end)}')")
  done < <(grep -v '^#' fuzz/planted.txt)
  echo "fuzz: $caught of ${#parts[@]} planted bugs caught"
  printf '%s\n' "${parts[@]}" | result planted
  return "$status"
}

began=$(date +%s) commit=$(git describe --always --dirty 2>/dev/null || true)
case $verb in
  planted) build "$target/armed" --features torture ;;
  *) build "$target/plain" ;;
esac
"$verb"
