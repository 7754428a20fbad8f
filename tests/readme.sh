#!/usr/bin/env bash
# test: every command of README.md works as it is written, and answers as it is shown
# tier: full
# timeout: 600
set -u
. tests/guide.sh
guide README.md "$@"
