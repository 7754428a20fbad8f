#!/usr/bin/env bash
# run.sh [--quick | --under SANITIZER] BUILD [NAME...]: run the tests against the programs in BUILD and count them.
#
# A test is a Check program BUILD/tests/check_*, or a script below tests/ or clients/ (.py .sh .mjs) that has, among
# its first 15 lines, a comment `test: what it shows`. More such comments it may have:
#   timeout: N   seconds it may take (default 120; Check programs 300)
#   tier: full   not part of `make check` (--quick), for what takes long or needs more packages
#   sanitizers: none, WHY   not run --under one, which is what BUILD was built with: asan or tsan
#   sanitizers: asan, WHY   only under that
# NAMEs choose tests by file name without its ending.
#
# A script is run from the top folder with HALUT_BUILD (full path of BUILD) and, where the data set is at hand,
# HALUT_CIFAR10 (folder of the official binary files). How its tests are counted: by a last line `N passed, N failed`
# (perhaps with `, N skipped`), by Check's or unittest's closing lines, else as one test by the exit code (77: skipped).
# Lines that begin with `skip:` say what was skipped and why, one a test, and are shown.
set -u

quick=0 under=
case ${1:-} in
  --quick)
    quick=1
    shift
    ;;
  --under)
    under=$2
    shift 2
    ;;
esac
if [ $# -lt 1 ] || [ ! -d "$1" ]; then
  echo "usage: tests/run.sh [--quick | --under SANITIZER] BUILD [NAME...], where BUILD is a folder that make filled" >&2
  exit 2
fi
cd "$(dirname "$0")/.." || exit 2
HALUT_BUILD=$(cd "$OLDPWD" && cd "$1" && pwd)
export HALUT_BUILD
shift
wanted=" $* "
logs=$HALUT_BUILD/tests/log
mkdir -p "$logs"
passed=0 failed=0 skipped=0 suites=0

# mark FILE KEY: what a `KEY: ...` comment in the head of FILE says.
mark() {
  head -n 15 "$1" | sed -nE "s@ *\*/\$@@; s@^(#|//|/?\*) *$2: *(.*)@\2@p" | head -n 1
}

# belongs FILE: whether the test in FILE is run in this way; says so if not.
belongs() {
  [ "$quick" -eq 1 ] && [ "$(mark "$1" tier)" = full ] && return 1
  local only
  only=$(mark "$1" sanitizers)
  case $under/${only:-$under} in
    "$under/$under"*) return 0 ;;
  esac
  [ -z "$under" ] && return 0
  echo "not under $under: $1: ${only#*, }"
  return 1
}

# count LOG CODE: "passed failed skipped" of one suite, from what it printed and its exit code.
count() {
  awk -v code="$2" '
    /^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ { plain = 1; p = $1; f = $3; s = NF > 4 ? $5 : 0 }
    /^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+/ {
      check = 1; n = $3 + 0; bad = $5 + $7; cp += n - bad; cf += bad }
    /^skip:/ { told++ }
    /^Ran [0-9]+ tests? in / { unit = 1; un = $2 }
    unit && /^(OK|FAILED)( \(.*\))?$/ {
      while (match($0, /(failures|errors|skipped)=[0-9]+/)) {
        split(substr($0, RSTART, RLENGTH), part, "=")
        if (part[1] == "skipped") us = part[2]; else uf += part[2]
        $0 = substr($0, RSTART + RLENGTH)
      } }
    END {
      if (!plain && check) { s = told + 0; p = cp - s; f = cf }
      else if (!plain && unit) { p = un - uf - us; f = uf; s = us }
      else if (!plain) { p = code == 0; s = code == 77; f = !p && !s }
      if (code != 0 && code != 77 && f == 0) f = 1   # it crashed or ran out of time after its last count
      if (p + f + s == 0) f = 1                      # a suite that ran nothing has not passed
      print p + 0, f + 0, s + 0
    }' "$1"
}

# suite NAME SECONDS COMMAND...
suite() {
  local name=$1 limit=$2 log=$logs/$1.log code begin p f s
  shift 2
  case $wanted in
    "  ") ;;
    *" $name "*) ;;
    *) return ;;
  esac
  suites=$((suites + 1))
  begin=$(date +%s%N)
  timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null
  code=$?
  read -r p f s < <(count "$log" "$code")
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  local state=ok
  [ "$s" -gt 0 ] && [ "$p" -eq 0 ] && state=skip
  [ "$f" -gt 0 ] && state=FAIL
  printf '%-4s %-24s %4d passed, %d failed, %d skipped  (%d.%d s)\n' "$state" "$name" "$p" "$f" "$s" \
    $((($(date +%s%N) - begin) / 1000000000)) $((($(date +%s%N) - begin) / 100000000 % 10))
  if [ "$f" -gt 0 ]; then
    [ "$code" -eq 124 ] && echo "     it was ended after its $limit seconds"
    echo "     exit code $code; the end of $log:"
    tail -n 40 "$log" | sed 's/^/     | /'
  fi
  if [ "$s" -gt 0 ]; then
    grep -E "^skip:|\.\.\. skipped '" "$log" | sed 's/^/     /' || tail -n 1 "$log" | sed 's/^/     skip: /'
  fi
}

for program in "$HALUT_BUILD"/tests/check_*; do
  [ -x "$program" ] || continue
  name=${program##*/}
  [ -f "tests/$name.c" ] || continue # left over from a test that is no more
  belongs "tests/$name.c" || continue
  suite "$name" 300 "$program"
done

while IFS= read -r script; do
  [ -n "$(mark "$script" test)" ] || continue
  belongs "$script" || continue
  limit=$(mark "$script" timeout)
  limit=${limit%%[!0-9]*}
  name=${script##*/}
  case $script in
    *.py) runner=/usr/bin/python3 ;;
    *.mjs) runner=node ;;
    *) runner=bash ;;
  esac
  suite "${name%.*}" "${limit:-120}" "$runner" "$script"
done < <(find tests clients -type f \( -name '*.py' -o -name '*.sh' -o -name '*.mjs' \) \
  -not -path '*/node_modules/*' | sort)

if [ "$suites" -eq 0 ]; then
  echo "no such test:$wanted"
  failed=$((failed + 1))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
