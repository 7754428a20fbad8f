#!/usr/bin/env bash
# base-image.sh ENGINE [TARFILE]: make debian:bookworm-slim for podman or buildah from Debian's packages.
#
# For machines that reach a Debian mirror but no image registry. The image gets this machine's own apt
# settings (read when this runs), so that the Dockerfile's apt-get works in it: use it for tests, do
# not publish it. Does nothing if the image is there. ENGINE `tar` only writes TARFILE; with the other
# engines TARFILE is kept and used again. Needs root, mmdebstrap and debian-archive-keyring.
set -euo pipefail

engine=${1:?usage: base-image.sh podman|buildah|tar [TARFILE]}
tarfile=${2:-}
image=docker.io/library/debian:bookworm-slim
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() {
  echo "base-image.sh: $*" >&2
  exit 1
}

case $engine in
  podman) podman image exists "$image" && exit 0 ;;
  buildah) buildah inspect --type image "$image" >/dev/null 2>&1 && exit 0 ;;
  tar) [ -n "$tarfile" ] || die "tar needs a TARFILE" ;;
  *) die "no such engine: $engine (podman, buildah, tar)" ;;
esac
: "${tarfile:=$work/root.tar}"

# This machine's bookworm sources as one-line entries, whatever form they have on disk.
sources() {
  # shellcheck disable=SC2016 # apt's own variables
  apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)' |
    awk '$1 == "Packages" && $4 == "main" && $3 ~ /^bookworm(-updates|-security)?$/ && !seen[$2 $3]++ {
      print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " $2, $3, "main" }'
}

if [ ! -s "$tarfile" ]; then
  command -v mmdebstrap >/dev/null || die "mmdebstrap is not installed"
  sources >"$work/sources.list"
  [ -s "$work/sources.list" ] || die "apt knows no bookworm source; run apt-get update first"
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-)' >"$work/90host" || true
  printf '#!/bin/sh\nexit 101\n' >"$work/policy-rc.d" # no package may start a service
  chmod 755 "$work/policy-rc.d"
  # Merged /usr without the usrmerge package, which would bring all of perl.
  # shellcheck disable=SC2016 # $1 is the new root, for mmdebstrap's shell
  mmdebstrap --variant=minbase --mode=root --format=tar --include=usr-is-merged \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook="copy-in $work/90host /etc/apt/apt.conf.d" \
    --customize-hook="copy-in $work/policy-rc.d /usr/sbin" \
    --customize-hook='cd "$1" && rm -f etc/hostname etc/resolv.conf var/cache/apt/*.bin' \
    bookworm "$tarfile.part" "$work/sources.list" 2>"$work/log" || {
    tail -n 20 "$work/log" >&2
    die "mmdebstrap failed"
  }
  mv "$tarfile.part" "$tarfile"
fi

case $engine in
  podman) podman import -q --change 'CMD ["bash"]' "$tarfile" "$image" >/dev/null ;;
  buildah)
    container=$(buildah from scratch)
    buildah add -q "$container" "$tarfile" / >/dev/null
    buildah config --cmd '["bash"]' "$container"
    buildah commit -q --rm "$container" "$image" >/dev/null
    ;;
esac
