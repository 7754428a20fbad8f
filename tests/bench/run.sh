#!/usr/bin/env bash
# run.sh BUILD [--isa avx2] [OPTION...]: measure BUILD's programs against their peers, interleaved on one core: raw
# products against OpenBLAS and oneDNN (products.c), images against ONNX Runtime (compare.py); and how long the daemon
# takes to start. With --isa avx2 all of them are held to AVX2 (avx2.c).
#
# Installs what the peer needs: Node's onnxruntime-node into BUILD/bench (its install script, which
# fetches GPU libraries, is not run), Debian's python3-onnx and Matplotlib. MODEL chooses the model.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${1:?usage: tests/bench/run.sh BUILD [--isa avx2] [OPTION of compare.py...]}
shift
name=bench held=()
if [ "${1:-}" = --isa ]; then
  name=bench-$2
  held=(env "LD_PRELOAD=$(realpath "$build/tests/bench/$2.so")"
    "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD" OPENBLAS_CORETYPE=Haswell)
  shift 2
  set -- --held "${held[*]}" --name "$name" "$@"
fi
model=${MODEL:-models/resnet9-cifar10.safetensors}
runtime=onnxruntime-node@1.30.0
if [ ! -f "$model" ]; then
  echo "bench: there is no $model" >&2
  exit 1
fi
command -v npm >/dev/null || deploy/packages.sh nodejs npm
deploy/packages.sh python3-onnx python3-matplotlib util-linux valgrind

mkdir -p "$build/bench"
# An OpenBLAS that is older than the processor takes it for one without AVX, and is several times slower than it can be.
if [ -z "${OPENBLAS_CORETYPE:-}" ]; then
  case " $(grep -m 1 '^flags' /proc/cpuinfo) " in
    *" avx512bw "*) export OPENBLAS_CORETYPE=SkylakeX ;;
    *" avx2 "*) export OPENBLAS_CORETYPE=Haswell ;;
  esac
fi
core=$(/usr/bin/python3 -c 'import os; print(max(os.sched_getaffinity(0)))')
products=("$build/tests/bench/products" --json "$build/bench/$name-products.json")
OMP_NUM_THREADS=1 taskset -c "$core" "${held[@]}" "${products[@]}"
echo
if [ ! -d "$build/bench/node_modules/onnxruntime-node" ]; then
  echo "installing $runtime into $build/bench"
  npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$build/bench" "$runtime"
fi
/usr/bin/python3 tests/bench/first_answer.py "$build"
/usr/bin/python3 tests/bench/dense_models.py "$build/bench"
/usr/bin/python3 tests/bench/compare.py "$build/halut" "$model" "$build/bench" "$@"
