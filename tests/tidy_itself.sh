#!/usr/bin/env bash
# timeout: 600
# test: tidy.sh accepts a tidy tree and names each rule that an untidy one breaks
# sanitizers: none, it runs none of our programs
set -u
here=$(cd "$(dirname "$0")" && pwd)
passed=0 failed=0
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT

# A small tree that keeps every rule.
tidy_tree() {
  rm -rf "${top:?}"/*
  mkdir -p "$top"/{core,models,rtl,server,clients,tests}
  printf '#ifndef A_H\n#define A_H\nint a_get(void);\n#endif\n' >"$top/core/a.h"
  printf '#include "a.h"\n\nint a_get(void) {\n  return 1;\n}\n' >"$top/core/a.c"
  printf '#include "../core/a.h"\n#include <stdio.h>\n' >"$top/models/b.c"
  printf '#include "../core/a.h"\n' >"$top/server/main.c"
  printf '#!/bin/sh\n# test: something\necho ok\n' >"$top/tests/c.sh"
  printf 'all:\n' >"$top/Makefile"
}

# breaks RULE FILE TEXT: a tidy tree with TEXT appended to FILE must be refused for that rule.
breaks() {
  tidy_tree
  printf '%b' "$3" >>"$top/$2"
  if said=$("$here/tidy.sh" "$top") || ! grep -qE "^$2:[0-9]+:.*\[$1\]$" <<<"$said"; then
    failed=$((failed + 1))
    echo "rule $1 did not refuse, in $2: $3"
    echo "$said"
  else
    passed=$((passed + 1))
  fi
}

tidy_tree
if "$here/tidy.sh" "$top"; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
  echo "the tidy tree was refused"
fi
breaks arrow core/a.c '#include "../models/b.h"\n'
breaks arrow core/a.c '#include "../server/main.c"\n'
breaks arrow models/b.c '#include "../server/main.c"\n'
breaks arrow models/b.c '#include "../core/../server/main.c"\n'
breaks arrow clients/d.c '#include "../core/a.h"\n'
breaks arrow core/a.c '#include <jansson.h>\n'
breaks arrow models/b.c '#include <uv.h>\n'
breaks columns core/a.c "/* $(printf '%0100d' 0) */\n"
breaks columns tests/c.sh "# $(printf '%0120d' 0)\n"
breaks blanks core/a.c 'int b; \n'
breaks blanks core/a.c '\tint b;\n'
breaks call core/a.c 'void b(char *t) { strcpy(t, "x"); }\n'
breaks call core/a.c 'int b(void) { return rand(); }\n'
breaks call models/a.c 'void b(void) { json_loads("", 0, 0); }\n'
breaks mark core/a.c '/* TO''DO: more */\n'
breaks machine tests/c.sh 'ls /ro''ot/x\n'
breaks function core/a.c "int b(void) {\n$(printf '  a_get();\\n%.0s' {1..80})}\n"
breaks name models/a.c 'int x;\n'
breaks orphan core/lost.h '#ifndef LOST\n#define LOST\n#endif\n'
breaks orphan tests/lost.sh '#!/bin/sh\necho hello\n'
breaks alone core/a.h 'size_t b_get(void);\n'
breaks page README.md 'read `core/gone.c`\n'
if command -v shellcheck >/dev/null; then
  breaks shell tests/c.sh "rm \$1\\n"
fi
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
