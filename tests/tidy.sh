#!/usr/bin/env bash
# timeout: 300
# test: the house rules that a tool can check (STYLE.md, ARCHITECTURE.md section 2)
# sanitizers: none, it runs none of our programs
#
# tidy.sh [FOLDER]: print `file:line: what is wrong` for each break of a rule in the tracked files of
# FOLDER (default: this checkout), then the rules kept, broken and skipped. tidy_itself.sh breaks each
# rule on purpose.
set -u
cd "${1:-$(dirname "$0")/..}" || exit 2
export LC_ALL=C.UTF-8
passed=0 failed=0 skipped=0
found=$(mktemp)
trap 'rm -f "$found"' EXIT

# Without git (an unpacked archive) every file counts but what builds leave behind.
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  mapfile -t files < <(git ls-files | while IFS= read -r f; do [ -f "$f" ] && echo "$f"; done)
else
  mapfile -t files < <(find . -type f -not -path './build*' -not -path '*/node_modules/*' |
    sed 's@^\./@@' | sort)
fi

# matching REGEX: the files whose path matches.
matching() {
  printf '%s\n' "${files[@]}" | grep -E "$1" || true
}
mapfile -t c_files < <(matching '^[a-z]+/.*\.(c|h|inc|cpp)$')
mapfile -t scripts < <(matching '(\.sh|^\.ci/run)$')
mapfile -t code < <(matching '\.(c|h|inc|cpp|sv|vlt|py|sh|js|mjs|css|html|mk)$|^(Makefile|Dockerfile|\.ci/run)$')

# rule NAME FUNCTION: the function prints what breaks the rule.
rule() {
  "$2" >"$found" 2>&1
  if [ -s "$found" ]; then
    failed=$((failed + 1))
    sed "s/\$/ [$1]/" "$found"
  else
    passed=$((passed + 1))
  fi
}

# The arrows of ARCHITECTURE.md. An include in quotes names a file from the including one's folder, or
# from the top; a bare name that neither has is made by the build (a Verilated model, say).
includes() {
  grep -nHE '^ *# *include' -- "${c_files[@]}" /dev/null | awk '
    BEGIN {
      may["core"] = "core"; may["models"] = "core models"; may["rtl"] = "core rtl"
      may["server"] = "core models server"; may["clients"] = "clients"
      may["tests"] = "core models rtl server clients tests"
      may["main.c"] = "core models server rtl"; may["backends.c"] = "core models rtl"
      may["cmd_classify.c"] = "core models server"
      network = "uv[.]h|microhttpd[.]h|gnutls/.*"
      parsers = "jansson[.]h|lapacke[.]h|cblas[.]h"
      pictures = "spng[.]h|jpeglib[.]h|zlib[.]h"
      simulator = "verilated.*"
      banned["core"] = network "|" parsers "|" pictures "|" simulator
      banned["models"] = network "|" pictures "|" simulator
      banned["rtl"] = network "|" parsers "|" pictures
      banned["server"] = simulator "|lapacke[.]h|cblas[.]h"
      banned["clients"] = banned["core"]
    }
    {
      split($0, part, ":"); file = part[1]; line = part[2]
      n = split(file, dir, "/"); folder = dir[1]; name = dir[n]
      if (match($0, /"[^"]+"/)) {
        target = substr($0, RSTART + 1, RLENGTH - 2)
        path = file; sub(/[^\/]*$/, "", path); path = path target
        while (match(path, /[^\/.]+\/\.\.\//)) {
          path = substr(path, 1, RSTART - 1) substr(path, RSTART + RLENGTH)
        }
        if ((getline ignored < path) < 0 && path != target) {
          if ((getline ignored < target) >= 0) path = target
          else if (target !~ /\//) next
        }
        close(path); split(path, to, "/")
        allowed = may[folder]
        if (file ~ /^(server\/main|models\/(backends|cmd_classify))[.]c$/) allowed = may[name]
        if (index(" " allowed " ", " " to[1] " ") == 0)
          print file ":" line ": " folder " may not include " to[1] "/ (" target ")"
      } else if (match($0, /<[^>]+>/)) {
        target = substr($0, RSTART + 1, RLENGTH - 2)
        if (banned[folder] != "" && target ~ "^(" banned[folder] ")$")
          print file ":" line ": " folder " may not use <" target ">"
      }
    }'
}

# wide LIMIT FILES...
wide() {
  local limit=$1
  shift
  [ $# -gt 0 ] && awk -v limit="$limit" 'length($0) > limit {
    print FILENAME ":" FNR ": " length($0) " columns, the limit is " limit }' "$@"
}
columns() {
  mapfile -t other < <(matching '\.(py|sh|js|mjs)$|^(Makefile|Dockerfile|\.ci/run)$')
  mapfile -t narrow < <(matching '\.(c|h|inc|cpp|sv)$')
  wide 100 "${narrow[@]}"
  wide 120 "${other[@]}"
}

blanks() {
  grep -nHE '[ 	]+$' -- "${code[@]}" /dev/null | sed 's/\(:[0-9]*:\).*/\1 blanks at the end/'
  grep -nHP '\t' -- "${c_files[@]}" /dev/null | sed 's/\(:[0-9]*:\).*/\1 a tab/'
}

# A name inside a string or a comment is no call. A test may run a program; json_load.c says why jansson is read there.
banned_calls() {
  awk -v names='strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atof|alloca|rand|strtok|mktemp|tmpnam' \
    -v own='^(tests/|models/json_load[.]c$)' '
    { text = $0; gsub(/"([^"\\]|\\.)*"/, "\"\"", text); sub(/\/\/.*/, "", text)
      gsub(/\/\*[^*]*\*\//, "", text); if (text ~ /^ *(\/?\*|\*\/)/) next
      banned = "(^|[^A-Za-z0-9_.>])(" names (FILENAME ~ own ? "" : "|system|json_load[a-z]*") ") *\\("
      if (match(text, banned))
        print FILENAME ":" FNR ": banned call:" substr(text, RSTART, RLENGTH - 1) }
  ' "${c_files[@]}" /dev/null
}

# Spelled so that this line is not a mark itself.
marks() {
  grep -nHE "\b(TO""DO|FIX""ME|XX""X|HA""CK)\b" -- "${code[@]}" /dev/null
}

# A file list must not tell whose machine it was made on.
machine_paths() {
  local top='(work|root|home|farm)'
  mapfile -t text < <(matching '' | grep -vE '\.(png|jpg|safetensors|npy|bin|webp)$')
  grep -nHIE "(^|[^A-Za-z0-9_.\$}~-])/$top/[A-Za-z]" -- "${text[@]}" /dev/null
}

# In the house layout a function starts and ends in column one.
long_functions() {
  awk 'FNR == 1 { start = 0 }
    /^[A-Za-z].*\)? \{$/ && !/^(struct|enum|union|typedef|static const|const|extern)[^(]*\{$/ { start = FNR }
    /^\}/ { if (start && FNR - start + 1 > 70)
      print FILENAME ":" start ": a function of " FNR - start + 1 " lines, the limit is 70"
      start = 0 }' "${c_files[@]}" /dev/null
}

# A program (models/halut.c) may be called after its library, and train/ is no part of either.
same_names() {
  printf '%s\n' "${c_files[@]}" | grep -vE '^models/(halut\.c|train/)' | awk -F/ '
    $NF in seen { print $0 ":1: its name is taken by " seen[$NF] } { seen[$NF] = $0 }'
}

# Sources are built by folder; headers must be included, scripts mentioned or be tests.
orphans() {
  local f
  {
    for f in "${c_files[@]}"; do
      case $f in
        core/*/* | models/train/* | server/*/* | rtl/*/* | tests/*/* | clients/*) ;;
        core/*.c | models/*.c | server/*.c | rtl/*.c | tests/check_*.c) continue ;;
      esac
      echo "$f ${f##*/}"
    done
    while IFS= read -r f; do
      [ -n "$f" ] && ! head -n 15 "$f" | grep -qE '^(#|//) *test: ' && echo "$f $(basename "$f" .py)"
    done < <(matching '\.(sh|py|mjs)$' | grep -vE '(^|/)(__init__|setup|conftest)\.py$')
  } >"$found.names"
  mapfile -t text < <(matching '\.(md|sh|py|mjs|toml|yaml|yml|c|h|inc|cpp|mk)$|^(Makefile|Dockerfile|\.ci/run)$')
  awk -v names="$found.names" '
    BEGIN {
      while ((getline line < names) > 0) { split(line, part, " "); file[part[1]] = part[2]; wanted[part[2]] = 1 }
    }
    FNR == 1 { base = FILENAME; sub(/.*\//, "", base); sub(/\.py$/, "", base) }
    {
      n = split($0, word, /[^A-Za-z0-9_.-]+/)
      for (i = 1; i <= n; i++) {
        gsub(/^\.+|\.+$|\.py$/, "", word[i])
        if (word[i] in wanted && word[i] != base) seen[word[i]] = 1
      }
    }
    END { for (f in file) if (!(file[f] in seen))
      print f ":1: nothing includes, builds or mentions it, and it is no test" }
  ' "${text[@]}" /dev/null | sort
  rm -f "$found.names"
}

headers_alone() {
  mapfile -t headers < <(matching '^(core|models|server|rtl|clients)/.*\.h$')
  [ ${#headers[@]} -gt 0 ] || return
  "${CC:-cc}" -std=c17 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -x c "${headers[@]}" 2>&1 |
    grep -E ': (fatal )?error: ' | sed 's/: \(fatal \)\?error: /: does not compile alone: /'
}

# The files that the top-level pages speak of exist.
pages() {
  local page name
  for page in README.md ARCHITECTURE.md CHANGELOG.md; do
    [ -f "$page" ] || continue
    while read -r name; do
      printf '%s\n' "${files[@]}" | grep -qE "(^|/)${name//./\\.}\$" || echo "$page:1: there is no $name"
    done < <(grep -oE '`[A-Za-z0-9_./-]+\.(c|h|inc|cpp|sv|py|sh|md|vlt|yaml|yml|cfg)`' "$page" | tr -d '`' | sort -u)
  done
}

# A generated file names the target that makes it in its first lines: `generated by make NAME`.
stale() {
  local f target before
  while IFS= read -r f; do
    target=$(sed -nE '1,3s/.*[Gg]enerated by `?make ([a-z-]+).*/\1/p' "$f")
    [ -n "$target" ] || continue
    before=$(sha256sum <"$f")
    make -s "$target" >/dev/null 2>&1 || echo "$f:1: make $target failed"
    [ "$before" = "$(sha256sum <"$f")" ] || echo "$f:1: was stale; make $target has renewed it"
  done < <(grep -lE '[Gg]enerated by `?make ' -- "${code[@]}")
}

# SC2016 is about awk programs; SC2317 takes functions that a test runner calls by name for dead code.
shell() {
  [ ${#scripts[@]} -gt 0 ] && shellcheck -f gcc -x -e SC2016,SC2317 -- "${scripts[@]}"
}

rule arrow includes
rule columns columns
rule blanks blanks
rule call banned_calls
rule mark marks
rule machine machine_paths
rule function long_functions
rule name same_names
rule orphan orphans
rule alone headers_alone
rule page pages
rule stale stale
if command -v shellcheck >/dev/null; then
  rule shell shell
else
  skipped=$((skipped + 1))
  echo "skip: shell scripts: shellcheck is not installed"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
