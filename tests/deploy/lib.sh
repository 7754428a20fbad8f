# shellcheck shell=bash
# lib.sh: counting for the scripts of this folder, which source it from the top folder.
set -o pipefail
passed=0 failed=0 skipped=0
said=$(mktemp)
: "${HALUT_BUILD:=build}"

# try WHAT COMMAND...: one test; what the command prints is shown when it fails.
try() {
  local what=$1
  shift
  if "$@" >"$said" 2>&1; then
    passed=$((passed + 1))
    echo "ok: $what"
  else
    failed=$((failed + 1))
    echo "FAIL: $what: $*"
    sed 's/^/  /' "$said"
  fi
}

# skip WHAT: one test that cannot be made here, and why.
skip() {
  skipped=$((skipped + 1))
  echo "skip: $*"
}

# check TOOL WHAT COMMAND...: a test, or a skip where TOOL is not installed.
check() {
  if command -v "$1" >/dev/null; then
    try "${@:2}"
  else
    skip "$2: $1 is not installed"
  fi
}

finish() {
  rm -f "$said"
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ]
  exit
}
