#!/usr/bin/env bash
# Registers, spills and shared memory of every CUDA kernel, from ptxas; needs nvcc, no GPU.
# Usage: kernel_resources.sh [ARCH=sm_90a] > docs/kernels.tsv
set -euo pipefail
arch="${1:-sm_90a}"
root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

printf '# %s, %s\n' "$(nvcc --version | grep -o 'release .*')" "$arch"
printf 'kernel\tregisters\tspill_stores_bytes\tspill_loads_bytes\tstack_bytes\tstatic_shared_bytes\n'
for file in "$root"/src/ops/cuda/*.cu "$root"/src/comm/nccl/*.cu; do
  nvcc -std=c++20 -O3 -DNDEBUG -DFMT_CONSTEVAL= -DFMT_USE_CONSTEXPR=1 -cubin -Xptxas -v \
    -gencode "arch=compute_${arch#sm_},code=$arch" -I "$root/include" -I "$root/src/tensor/cuda/device" \
    -o "$work/out.cubin" "$file" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
  c++filt < "$work/log" | awk '
    /Compiling entry function/ { sub(/.*Compiling entry function ./, ""); sub(/. for .sm_.*/, ""); name = $0 }
    /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
      registers = $0; sub(/.*Used /, "", registers); sub(/ registers.*/, "", registers)
      shared = 0
      if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH - 11)
      if (name != "") printf "%s\t%s\t%s\t%s\t%s\t%s\n", name, registers, stores, loads, stack, shared
      name = ""
    }'
done | grep -v 'cub::' |
  sed -e 's/nmoe::ops::cuda:://g; s/(anonymous namespace):://g; s/^void //; s/nmoe:://g; s/comm::detail:://g; s/(comm::ReduceOp)//g' |
  awk -F'\t' 'BEGIN { OFS = "\t" } { sub(/\(.*/, "", $1); print }' | LC_ALL=C sort
