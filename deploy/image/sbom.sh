#!/bin/sh
# deploy/image/sbom.sh NAME: makes a CycloneDX document of what stdin lists as "TYPE NAME VERSION PURL LICENCE", with tabs.
# awk, so that it runs in any base; tests/image.sh reads it with jq.
set -eu
awk -F '\t' -v of="$1" '
  function quoted(text) { gsub(/[\\"]/, "\\\\&", text); return "\"" text "\"" }
  BEGIN {
    print "{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.5\",\"version\":1,\"metadata\":{\"component\":{\"type\":\"application\",\"name\":" quoted(of) "}},\"components\":["
  }
  {
    # "Apache-2.0/MIT" is how crates wrote it before SPDX expressions.
    gsub("/", " OR ", $5)
    licences = $5 == "" ? "" : ",\"licenses\":[{\"expression\":" quoted($5) "}]"
    printf "%s{\"type\":%s,\"name\":%s,\"version\":%s,\"purl\":%s%s}", (NR > 1 ? ",\n" : ""), quoted($1), quoted($2), quoted($3), quoted($4), licences
  }
  END { print "\n]}" }'
