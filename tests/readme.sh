#!/usr/bin/env bash
# test: every command of README.md works as it is written, and answers as it is shown
# tier: full
# timeout: 600
# sanitizers: none, `make run` would build it again with the flags of README.md
set -u
. tests/guide.sh
guide README.md "$@"
