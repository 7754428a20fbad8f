#!/usr/bin/env bash
# run.sh BUILD [OPTION...]: measure BUILD/halut against ONNX Runtime, interleaved on one core (compare.py).
#
# Installs what the peer needs: Node's onnxruntime-node into BUILD/bench (its install script, which
# fetches GPU libraries, is not run), Debian's python3-onnx and Matplotlib. MODEL chooses the model.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${1:?usage: tests/bench/run.sh BUILD [OPTION of compare.py...]}
shift
model=${MODEL:-models/resnet9-cifar10.safetensors}
runtime=onnxruntime-node@1.30.0
if [ ! -f "$model" ]; then
  echo "bench: there is no $model" >&2
  exit 1
fi
command -v node >/dev/null || deploy/packages.sh nodejs npm
deploy/packages.sh python3-onnx python3-matplotlib util-linux

mkdir -p "$build/bench"
if [ ! -d "$build/bench/node_modules/onnxruntime-node" ]; then
  echo "installing $runtime into $build/bench"
  npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$build/bench" "$runtime"
fi
/usr/bin/python3 tests/bench/dense_models.py "$build/bench"
/usr/bin/python3 tests/bench/compare.py "$build/halut" "$model" "$build/bench" "$@"
