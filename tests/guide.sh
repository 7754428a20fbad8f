# shellcheck shell=bash
# guide.sh: run a page as its reader would. Sourced from the top folder by a script that then calls `guide PAGE "$@"`.
#
# The `sh` blocks of the page are run in their order, in a copy of this checkout. A block that has a line `make run` or
# `build/halutd ...` is left running. A `python` block is saved under the name in its first line, `# NAME.py`. A `json`
# block that follows commands shows the last one's answer: it must have the same keys and words, numbers may differ. A
# block after a comment `<!-- elsewhere: WHERE -->` is run by WHERE instead.
. tests/deploy/lib.sh

# Cut page $1 into files $2/NN.sh, NN.python, NN.json and NN.skip (what is run elsewhere).
cut_page() {
  awk -v top="$2" '
    /^<!-- elsewhere: / { where = $0; gsub(/^<!-- elsewhere: | -->$/, "", where) }
    /^```(sh|python|json)$/ && !inside {
      kind = substr($0, 4); inside = 1
      if (kind == "sh" && where != "") kind = "skip"
      file = sprintf("%s/%02d.%s", top, ++n, kind); printf "" >file
      if (kind == "skip") print "# " where >file
      next }
    /^```/ { if (inside) { inside = 0; where = ""; close(file) } else other = !other; next }
    inside { print >file }' "$1"
}
# A JSON text with every number replaced by 0: what may not differ from the page.
shape() {
  jq -S 'walk(if type == "number" then 0 else . end)' "$1"
}
serve() {
  setsid bash -euo pipefail "$1" >"$top/server.log" 2>&1 &
  server=$!
  for _ in $(seq 600); do
    curl -sf http://127.0.0.1:8080/healthz >/dev/null && return
    kill -0 "$server" 2>/dev/null || break
    sleep 0.5
  done
  cat "$top/server.log"
  return 1
}
answers_as_shown() {
  shape "$1" >"$top/shown" && shape "$top/answer" >"$top/given" && diff "$top/shown" "$top/given"
}
run_block() {
  if ! bash -euo pipefail "$1" >"$top/answer" 2>"$top/errors" || grep -q '{"error":' "$top/answer"; then
    cat "$top/answer" "$top/errors"
    return 1
  fi
}
save_block() {
  local name
  name=$(sed -nE '1s/^# ([a-z_]+\.py)$/\1/p' "$1")
  [ -n "$name" ] && cp "$1" "$name"
}
end_guide() {
  [ -z "$server" ] || kill -TERM -- "-$server" 2>/dev/null
  rm -rf "$top"
}

guide() {
  local page=$1 block first
  # A page uses port 8080 of the loopback: in a network of our own it is always free.
  if [ "${2:-}" != inside ]; then
    if unshare -rn true 2>/dev/null && [ "$(id -u)" -ne 0 ]; then
      exec unshare -rn bash "$0" inside
    elif unshare -n true 2>/dev/null; then
      exec unshare -n bash "$0" inside
    fi
    echo "skip: the commands of $page: no network namespace of our own to run them in"
    exit 77
  fi
  ip link set lo up
  top=$(mktemp -d)
  server=
  trap end_guide EXIT
  cut_page "$page" "$top"
  mkdir "$top/halutd"
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp -p --parents -t "$top/halutd"
  cd "$top/halutd" || exit 2
  rm -rf build && ln -s "$HALUT_BUILD" build
  for block in "$top"/[0-9]*; do
    first=$(grep -vE '^ *(#|$)' "$block" | head -n 1)
    case $block in
      *.skip) skip "$first: run by $(sed -n '1s/^# //p' "$block")" ;;
      *.json) try "the answer shown after that" answers_as_shown "$block" ;;
      *.python) try "$(head -n 1 "$block")" save_block "$block" ;;
      *) if grep -qE '^(make run$|build/halutd )' "$block"; then
        try "$first" serve "$block"
      else
        try "$first" run_block "$block"
      fi ;;
    esac
  done
  finish
}
