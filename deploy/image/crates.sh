#!/bin/sh
# deploy/image/crates.sh: the crates that are linked into the binary, as "TYPE NAME VERSION PURL LICENCE" with tabs.
set -eu
cargo tree --locked --offline --target "$(uname -m)-unknown-linux-musl" --edges normal --prefix none --format '{p}	{l}' \
  | sed 's/ (\*)$//' | sort -u | awk -F '\t' -v OFS='\t' '
  { split($1, crate, " "); name = crate[1]; version = substr(crate[2], 2) }
  name != "rockpool" { print "library", name, version, "pkg:cargo/" name "@" version, $2 }'
