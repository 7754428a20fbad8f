#!/usr/bin/env bash
# test: the files of deploy/ are accepted by the tools that will read them
# tier: full
# sanitizers: none, it runs none of our programs
#
# `make deps-deploy` installs the tools; what is missing is skipped, by name.
set -u
. tests/deploy/lib.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The unit as it is installed, but with a program that exists here.
unit() {
  sed 's,@SBIN@/halutd,/bin/true,; s,@CONF@,/etc/halutd.conf,' deploy/systemd/halutd.service >"$work/halutd.service"
  cp deploy/systemd/halutd.socket "$work"
  systemd-analyze verify --man=no "$work/halutd.service" "$work/halutd.socket" &&
    systemd-analyze security --no-pager --offline=true --threshold=15 "$work/halutd.service"
}
rules() {
  cp deploy/alerts.yml tests/deploy/alerts_test.yml "$work"
  (cd "$work" && promtool check rules alerts.yml && promtool test rules alerts_test.yml)
}
# Each object that the kustomization names must come out of it.
kustomize() {
  kubectl kustomize deploy/kubernetes >"$work/all.yaml" || return
  local file kind
  for file in deploy/kubernetes/*.yaml; do
    kind=$(sed -n 's/^kind: //p' "$file")
    case $file in
      */kustomization.yaml | */kserve.yaml) ;;
      *) grep -qx "kind: $kind" "$work/all.yaml" || { echo "no $kind"; return 1; } ;;
    esac
  done
}
# What a person gets wrong: a name that is not there, a number as a word.
refuses_mistakes() {
  local wrong
  for wrong in s/maxReplicas:/maxReplica:/ 's/minReplicas: 2/minReplicas: two/' s/readinessProbe:/readynessProbe:/; do
    sed "$wrong" deploy/kubernetes/kserve.yaml >"$work/wrong.yaml"
    ! node tests/deploy/objects.mjs "$HALUT_BUILD/deploy" "$work/wrong.yaml" || { echo "accepted: $wrong"; return 1; }
  done
}
# Every metric that an alert or the dashboard reads is one that the daemon has.
metrics() {
  local name missing=0
  while read -r name; do
    grep -qE "\"${name#halutd_}\"" server/metrics.inc server/metrics.c ||
      { echo "the daemon has no metric $name"; missing=1; }
  done < <(grep -ohE 'halutd_[a-z_]+' deploy/alerts.yml deploy/grafana/dashboards/*.json \
    deploy/kubernetes/hpa.yaml | sed -E 's/_(bucket|sum|count)$//' | sort -u)
  return "$missing"
}

# The generated pages have no error, and the generated configuration means what it says: each key,
# taken out of its comment, is accepted with its default.
manuals() {
  deploy/manual.sh "$HALUT_BUILD" && mandoc -Tlint -W warning "$HALUT_BUILD/halutd.8" "$HALUT_BUILD/halut.1"
}
configuration() {
  deploy/manual.sh "$HALUT_BUILD"
  sed -E 's/^#([a-z-]+ = )/\1/' "$HALUT_BUILD/halutd.conf" >"$work/halutd.conf"
  [ "$(grep -cE '^[a-z-]+ = ' "$work/halutd.conf")" -gt 15 ] &&
    "$HALUT_BUILD/halutd" --config "$work/halutd.conf" --check-config
}

check systemd-analyze "the unit" unit
check promtool "the alerts" rules
check promtool "prometheus.yml" promtool check config --syntax-only deploy/prometheus.yml
check haproxy "haproxy.cfg" haproxy -c -f deploy/haproxy.cfg
check yamllint "YAML" yamllint -d '{extends: relaxed, rules: {line-length: {max: 120}}}' deploy
check kubectl "the kustomization" kustomize
if [ -d "$HALUT_BUILD/deploy/node_modules" ]; then
  try "the Kubernetes objects" node tests/deploy/objects.mjs "$HALUT_BUILD/deploy" deploy/kubernetes/*.yaml
  try "an object with a mistake is refused" refuses_mistakes
  try "the KServe runtime" node tests/deploy/kserve.mjs "$HALUT_BUILD" deploy/kubernetes/kserve.yaml
else
  for what in "the Kubernetes objects" "an object with a mistake" "the KServe runtime"; do
    skip "$what: the modules are not installed (make deps-deploy, with npm)"
  done
fi
check docker-compose "compose.yaml" docker-compose -f deploy/compose.yaml config -q
check jq "the dashboard" jq -e '.panels | length > 5' deploy/grafana/dashboards/halutd.json
try "the metrics that alerts and dashboard read" metrics
check mandoc "the manual pages" manuals
try "halutd.conf" configuration
finish
