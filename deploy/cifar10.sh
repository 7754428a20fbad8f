#!/usr/bin/env bash
# cifar10.sh FOLDER: fetch CIFAR-10 in its official binary layout, verify it, unpack it into FOLDER.
set -euo pipefail

folder=${1:?usage: cifar10.sh FOLDER}
url=https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz
md5=c32a1d4ab5d03f1284b67883e8d87530 # published on the data set's page

if [ -f "$folder/test_batch.bin" ]; then
  echo "$folder is there already"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "fetching $url (163 MiB)"
curl --fail --location --show-error --retry 3 --output "$work/archive.tar.gz" "$url"
if ! echo "$md5  $work/archive.tar.gz" | md5sum --check --quiet; then
  echo "cifar10.sh: the archive is not the official one: its MD5 should be $md5" >&2
  exit 1
fi
mkdir -p "$folder"
tar -xzf "$work/archive.tar.gz" -C "$folder" --strip-components=1
echo "$folder: verified, $(find "$folder" -name '*.bin' | wc -l) batch files"
