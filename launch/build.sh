#!/usr/bin/env bash
# Configures and builds one CMake preset:  launch/build.sh [PRESET] [TARGET...]   (default: release)
# With nvcc on PATH (or in /usr/local/cuda/bin) the CUDA side is built too; without it nothing is missing on a CPU.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
preset=${1:-release}
(($# == 0)) || shift

if ! command -v nvcc >/dev/null && [[ -x /usr/local/cuda/bin/nvcc ]]; then
  export PATH=$PATH:/usr/local/cuda/bin
fi
log=build/$preset.log
mkdir -p build
started=$SECONDS
if ! cmake --preset "$preset" >"$log" 2>&1; then
  tail -n 25 "$log" >&2
  echo "build.sh: cmake --preset $preset failed; the whole log is $root/$log" >&2
  exit 70
fi
grep -E '^-- (CPU GEMM|CUDA side|sentencepiece)' "$log" || true
echo "build: compiling preset '$preset' (log: $log)"
if ! cmake --build --preset "$preset" --parallel "$(nproc)" ${@:+--target "$@"} >>"$log" 2>&1; then
  grep -n -m 12 -E 'error|FAILED' "$log" >&2 || tail -n 25 "$log" >&2
  echo "build.sh: compiling failed; the whole log is $root/$log" >&2
  exit 70
fi
echo "build: done in $((SECONDS - started)) s"
