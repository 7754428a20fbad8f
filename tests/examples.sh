#!/usr/bin/env bash
# test: every command of models/examples/README.md works as it is written
# tier: full
# timeout: 300
set -u
. tests/guide.sh
guide models/examples/README.md "$@"
