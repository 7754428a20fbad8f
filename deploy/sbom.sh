#!/bin/sh
# sbom.sh VERSION: print the list of what is in this image as SPDX 2.3 JSON.
#
# Run inside the image by the Dockerfile, which keeps the result as /usr/share/halut/sbom.spdx.json.
set -eu

version=${1:?usage: sbom.sh VERSION}
created=$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y-%m-%dT%H:%M:%SZ)
dpkg-query -W -f '${Package} ${Version} ${Architecture}\n' | awk -v version="$version" -v created="$created" '
  # A name as SPDX identifiers and package URLs allow it.
  function id(text) { gsub(/[^A-Za-z0-9.-]/, "-", text); return text }
  function url(text) { gsub(/:/, "%3A", text); gsub(/[+]/, "%2B", text); gsub(/~/, "%7E", text); return text }
  function package(spdx, name, ver, supplier, purl) {
    packages = packages (packages == "" ? "" : ",\n") "  {\"SPDXID\": \"" spdx "\", \"name\": \"" name \
      "\", \"versionInfo\": \"" ver "\", \"supplier\": \"Organization: " supplier \
      "\", \"downloadLocation\": \"NOASSERTION\", \"filesAnalyzed\": false" \
      (purl == "" ? "" : ", \"externalRefs\": [{\"referenceCategory\": \"PACKAGE-MANAGER\", " \
      "\"referenceType\": \"purl\", \"referenceLocator\": \"" purl "\"}]") "}"
    if (spdx != "SPDXRef-halutd")
      links = links ",\n  {\"spdxElementId\": \"SPDXRef-halutd\", \"relationshipType\": \"DEPENDS_ON\", " \
        "\"relatedSpdxElement\": \"" spdx "\"}"
  }
  BEGIN { package("SPDXRef-halutd", "halutd", version, "halutd authors", "") }
  { package("SPDXRef-" id($1 "-" $3), $1, $2, "Debian",
      "pkg:deb/debian/" url($1) "@" url($2) "?arch=" $3) }
  END {
    print "{\"spdxVersion\": \"SPDX-2.3\", \"dataLicense\": \"CC0-1.0\", \"SPDXID\": \"SPDXRef-DOCUMENT\","
    print " \"name\": \"halutd-" version "\", \"documentNamespace\": \"urn:halutd:" version ":" created "\","
    print " \"creationInfo\": {\"created\": \"" created "\", \"creators\": [\"Tool: halutd-sbom\"]},"
    print " \"packages\": [\n" packages "],"
    print " \"relationships\": [\n  {\"spdxElementId\": \"SPDXRef-DOCUMENT\", \"relationshipType\": \"DESCRIBES\", " \
      "\"relatedSpdxElement\": \"SPDXRef-halutd\"}" links "]}"
  }'
