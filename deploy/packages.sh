#!/bin/sh
# packages.sh NAME...: install those of the named Debian packages that are missing. Quiet when none is.
#
# Needs root or sudo only when something is missing. A mirror that hiccups is tried three times.
set -eu

missing=
for package in "$@"; do
  # One line for each architecture of it.
  dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "packages.sh: this is not Debian (no apt-get); please install what these stand for:$missing" >&2
  exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "packages.sh: as root, please run: apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
  as_root=sudo
fi

echo "installing:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
try=1
while :; do
  # shellcheck disable=SC2086 # a list of package names, split on purpose
  if $as_root env DEBIAN_FRONTEND=noninteractive sh -c '
    apt-get -q -o DPkg::Lock::Timeout=300 update &&
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
  ' sh $missing >"$log" 2>&1 </dev/null; then
    exit 0
  fi
  if [ "$try" -eq 3 ]; then
    echo "packages.sh: apt-get failed three times; it said:" >&2
    tail -n 20 "$log" >&2
    exit 1
  fi
  sleep $((try * 5))
  try=$((try + 1))
done
