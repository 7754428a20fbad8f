#!/usr/bin/env bash
# test: every command of models/TUTORIAL.md works as it is written, in order, with the files as it gives them
# tier: full
# timeout: 600
set -u
. tests/guide.sh
if ! /usr/bin/python3 -c 'import numpy, PIL, torch' 2>/dev/null; then
  echo "skip: the commands of models/TUTORIAL.md: /usr/bin/python3 has not all of NumPy, Pillow and PyTorch"
  exit 77
fi
guide models/TUTORIAL.md "$@"
