#!/usr/bin/env bash
# test: programs of others, as they are published, take what the daemon says
# tier: full
# sanitizers: none, v2 and dialects ask the same
#
# `make deps-deploy` installs them; what is missing is skipped, by name.
set -u
. tests/deploy/lib.sh
modules=$HALUT_BUILD/deploy/node_modules
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo '{"extends": ["spectral:oas"]}' >"$work/rules.json"

lint() {
  "$modules/.bin/spectral" lint --fail-severity=info --ruleset "$work/rules.json" "$1"
}
refuses_mistakes() {
  local wrong
  for wrong in 's/"summary": "the page", "description": "[^"]*", //' \
    's/"operationId": "ping"/"operationId": "health"/' \
    's,#/components/schemas/Ping",#/components/schemas/Pong",'; do
    sed "$wrong" server/openapi.json >"$work/wrong.json"
    ! cmp -s server/openapi.json "$work/wrong.json" || { echo "changes nothing: $wrong"; return 1; }
    ! lint "$work/wrong.json" || { echo "accepted: $wrong"; return 1; }
  done
}

if [ -x "$modules/.bin/spectral" ]; then
  try "an OpenAPI linter (Spectral, its rules of OpenAPI, warnings too)" lint server/openapi.json
  try "a description with a mistake is refused" refuses_mistakes
else
  skip "an OpenAPI linter: Spectral is not installed (make deps-deploy, with npm)"
fi
if [ -d "$modules/@huggingface/inference" ]; then
  try "the client of Hugging Face" node tests/deploy/huggingface.mjs "$HALUT_BUILD" models/photo/cat.jpg
else
  skip "the client of Hugging Face: it is not installed (make deps-deploy, with npm)"
fi
finish
