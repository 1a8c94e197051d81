#!/usr/bin/env bash
# Configures and builds one CMake preset:  launch/build.sh [PRESET] [TARGET...]   (default: release)
# NMOE_WERROR=ON makes warnings errors; a compiler newer than ours may have new ones (default OFF).
# NMOE_BUILD_ROOT is where the folder of the preset is made (default build/ of the checkout, which may be read-only).
# With nvcc on PATH (or in /usr/local/cuda/bin) the CUDA side is built too; without it nothing is missing on a CPU.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
preset=${1:-release}
(($# == 0)) || shift

if ! command -v nvcc >/dev/null && [[ -x /usr/local/cuda/bin/nvcc ]]; then
  export PATH=$PATH:/usr/local/cuda/bin
fi
builds=${NMOE_BUILD_ROOT:-$root/build}
if ! mkdir -p "$builds" 2>/dev/null || [[ ! -w $builds ]]; then
  echo "build.sh: cannot write into $builds; set NMOE_BUILD_ROOT to a folder that can be written" >&2
  exit 78
fi
builds=$(cd "$builds" && pwd)
log=$builds/$preset.log
# shellcheck source=launch/progress.sh
source "$root/launch/progress.sh"
started=$SECONDS
: >"$log"
if ! with_progress "build: configuring" "$log" cmake --preset "$preset" -B "$builds/$preset" "-DNMOE_WERROR=${NMOE_WERROR:-OFF}"; then
  tail -n 25 "$log" >&2
  echo "build.sh: cmake --preset $preset failed; the whole log is $log" >&2
  exit 70
fi
grep -E '^-- (CPU GEMM|CUDA side|sentencepiece)' "$log" || true
echo "build: compiling preset '$preset' (log: $log)"
if ! with_progress "build: compiling" "$log" cmake --build "$builds/$preset" --parallel "$(nproc)" ${@:+--target "$@"}; then
  grep -n -m 12 -E 'error|FAILED' "$log" >&2 || tail -n 25 "$log" >&2
  echo "build.sh: compiling failed; the whole log is $log" >&2
  exit 70
fi
echo "build: done in $((SECONDS - started)) s"
