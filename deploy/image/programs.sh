#!/bin/sh
# deploy/image/programs.sh ROOT PROGRAM...: makes a root directory of these programs, the libraries that they load, the authorities of the
# web, and what licences and scanners ask for: copyright files, and the state of each package where scanners of images look.
set -eu
tmp=${TMPDIR:-/tmp}
here=$(dirname "$0")
root=$1
shift
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64" "$root/usr/share/sbom" "$root/etc/ssl/certs" "$root/var/lib/dpkg/status.d"
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done

# libgcc_s is loaded by name when a thread of xfs_repair ends: ldd does not know it.
libraries=$(for program in "$@"; do ldd "$(command -v "$program")"; done | grep -o '/[^ ]*' | sort -u)
unwinder=$(find /lib /usr/lib -name libgcc_s.so.1 | head -n 1)
[ -n "$libraries" ] && [ -n "$unwinder" ]
: > "$tmp/owners"
# put FILE PLACE: copies what FILE is, and notes which package it came with; Debian's packages still name some files without /usr.
put() {
  file=$(realpath "$1")
  install -D -m 0755 "$file" "$root/usr/${2#/usr}"
  dpkg -S "$file" >> "$tmp/owners" 2>/dev/null || dpkg -S "${file#/usr}" >> "$tmp/owners"
}
for program in "$@"; do put "$(command -v "$program")" "/sbin/$program"; done
for library in $libraries "$unwinder"; do put "$library" "$library"; done
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo "ca-certificates: bundle" >> "$tmp/owners"

cut -d: -f1 "$tmp/owners" | sort -u > "$tmp/packages"
while read -r package; do
  dpkg-query -s "$package" > "$root/var/lib/dpkg/status.d/$package"
  install -D -m 0644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
  dpkg-query -f 'library\t${source:Package}/${Package}\t${Version}\tpkg:deb/debian/${Package}@${Version}?arch=${Architecture}\t\n' -W "$package"
done < "$tmp/packages" > "$tmp/list"
"$here/sbom.sh" programs < "$tmp/list" > "$root/usr/share/sbom/programs.cdx.json"
