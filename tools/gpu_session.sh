#!/usr/bin/env bash
# Everything that needs a GPU, in parts that run alone within 10 minutes and are not repeated once they passed.
#   gpu_session.sh fetch         on a Debian machine with a network: packages into build/gpu/debs
#   gpu_session.sh PART...       on the GPU machine: build tests train sanitizer bench analyze train3b skewed3b stage2 qwen36 kernels
#                                peer table   (default: all of these)
# State, logs and results.txt go to build/gpu (or $NMOE_GPU_DIR). A part that failed or was cut short runs again.
# MPI, parallel HDF5, Boost and the rest are taken from the machine, or unpacked from build/gpu/debs if it lacks them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir="${NMOE_GPU_DIR:-build/gpu}"
results="$dir/results.txt"
tree="$dir/tree"
roots="$dir/debian"
packages=(libopenmpi-dev openmpi-bin openmpi-common libopenmpi3 libhdf5-openmpi-dev libhdf5-openmpi-103-1 zlib1g-dev
  libboost-program-options-dev libboost-test-dev libfmt-dev libfmt9 libspdlog-dev libspdlog1.10 nlohmann-json3-dev
  libpcre2-dev libutf8proc-dev libutf8proc2 libsentencepiece-dev libsentencepiece0)
mkdir -p "$dir"

say() { printf '%s\n' "$*" | tee -a "$results"; }

versions() {
  say "== $(date -u +%FT%TZ) neuronmoe $(git rev-parse --short HEAD 2>/dev/null || echo '(no git)')"
  say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 || true)"
  say "$(nvcc --version 2>&1 | grep release || true); $(c++ --version 2>&1 | head -n 1); $(cmake --version | head -n 1)"
}

fetch() {
  mkdir -p "$dir/debs"
  local list
  mapfile -t list < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "${packages[@]}" | grep -E '^(lib(openmpi|hdf5|boost|fmt|spdlog|pcre2|utf8proc|sentencepiece|protobuf|pmix|hwloc|event|ucx|fabric|psm|rdmacm|ibverbs|nl-|munge|aec|sz2)|openmpi|nlohmann|ibverbs|zlib1g)' | sort -u)
  (cd "$dir/debs" && apt-get download "${list[@]}")
}

use_unpacked_packages() {
  command -v mpicc >/dev/null && return 0
  if ! compgen -G "$dir/debs/*.deb" >/dev/null; then
    echo "gpu_session.sh: no mpicc here and no packages in $dir/debs; run 'gpu_session.sh fetch' on Debian and carry them" >&2
    return 78
  fi
  if [[ ! -d $roots ]]; then
    for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$roots"; done
  fi
  local lib
  lib="$PWD/$roots/usr/lib/$(uname -m)-linux-gnu"
  export PATH="$PWD/$roots/usr/bin:$PATH" CMAKE_PREFIX_PATH="$PWD/$roots/usr" OPAL_PREFIX="$PWD/$roots/usr"
  export LD_LIBRARY_PATH="$lib:$lib/openmpi/lib:$lib/hdf5/openmpi:${LD_LIBRARY_PATH:-}"
  export PKG_CONFIG_PATH="$lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$PWD/$roots"
  export MPICC="$lib/openmpi/bin/mpicc" HDF5_ROOT="$PWD/$roots/usr"
}

part_build() {
  use_unpacked_packages || return
  cmake -S . -B "$tree" -DCMAKE_BUILD_TYPE=Release -DNMOE_CUDA=ON -DNMOE_GPU_TESTS=ON -DNMOE_BUILD_BENCH=ON
  cmake --build "$tree" -j "$(nproc)" --target neuronmoe bench_gpu_ops bench_gpu_train bench_gpu_analyze gpu_tests
}
part_tests() {
  use_unpacked_packages || return
  ctest --test-dir "$tree" -L '^gpu$' --output-on-failure
}
part_sanitizer() {
  use_unpacked_packages || return
  local tool
  for tool in memcheck racecheck synccheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$tree/tests/test_gpu_moe"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$tree/tests/test_gpu_attention" --run_test='!same_bits_every_time'
  done
}
part_bench() {
  use_unpacked_packages || return
  "$tree/tools/bench/bench_gpu_ops" | tee -a "$results"
}
# The toy of tests/integration/device.py: both stages and resumes on the GPU beside the CPU.
part_train() {
  use_unpacked_packages || return
  python3 tests/integration/device.py "$tree/neuronmoe" "$tree/tools/bench/bench_gpu_train" .
}
# The goals: useful FLOP/s >= 60 % of the product's, <= 21 GPU-hours, memory <= 1.05 x plan.
bench_train() { # bench_train MODEL EXPERTS STAGE ROUTING
  use_unpacked_packages || return
  "$tree/tools/bench/bench_gpu_train" "model=configs/models/$1.json" "experts=configs/experts/$2.cfg" "stage=$3" \
    "routing=$4" steps=20 | tee -a "$results"
}
part_train3b() { bench_train llama3.2-3b llama3.2-3b-el 1 balanced; }
part_skewed3b() { bench_train llama3.2-3b llama3.2-3b-el 1 skewed; }
part_stage2() { bench_train llama3.2-3b llama3.2-3b-el 2 balanced; }
part_qwen36() { bench_train qwen1.5-1.8b qwen1.5-1.8b-el 1 balanced; }
# Time by kernel of five steps, where Nsight Systems is at hand.
part_kernels() {
  use_unpacked_packages || return
  if ! command -v nsys >/dev/null; then say "kernels: no nsys here, no time by kernel"; return; fi
  nsys profile --force-overwrite true -o "$dir/train3b" "$tree/tools/bench/bench_gpu_train" steps=2
  nsys stats --report cuda_gpu_kern_sum --format column "$dir/train3b.nsys-rep" | sed -n 1,40p | tee -a "$results"
}
part_analyze() {
  use_unpacked_packages || return
  local dtype
  for dtype in float32 bfloat16; do  # METHOD 1.4 says float32; bfloat16 is the option
    "$tree/tools/bench/bench_gpu_analyze" configs/models/llama3.2-3b.json "$dtype" 9 500 | tee -a "$results"
  done
}
part_peer() {
  python3 tools/bench/torch_peer.py | tee -a "$results"
}
part_table() {
  printf '%-10s %-7s %s\n' part state seconds
  local part
  for part in build tests train sanitizer bench analyze train3b skewed3b stage2 qwen36 kernels peer; do
    printf '%-10s %-7s %s\n' "$part" "$(cat "$dir/$part.state" 2>/dev/null || echo 'not run')" \
      "$(cat "$dir/$part.seconds" 2>/dev/null || echo -)"
  done
  echo "results: $results"
}

run_part() { # run_part NAME: in its own shell, 590 s at most, its log kept
  local part=$1 began=$SECONDS status=0
  if [[ $part == table ]]; then part_table; return; fi
  if [[ $(cat "$dir/$part.state" 2>/dev/null) == passed ]]; then echo "$part: passed before"; return; fi
  versions
  timeout 590 tools/gpu_session.sh --inside "$part" >"$dir/$part.log" 2>&1 || status=$?
  echo $((SECONDS - began)) >"$dir/$part.seconds"
  if ((status == 0)); then
    echo passed >"$dir/$part.state"
  else
    echo "failed($status)" >"$dir/$part.state"
    tail -n 30 "$dir/$part.log" >&2
  fi
  say "$part: $(cat "$dir/$part.state") after $(cat "$dir/$part.seconds") s"
}

if [[ ${1:-} == --inside ]]; then
  "part_$2"
  exit
fi
if [[ ${1:-} == fetch ]]; then
  fetch
  exit
fi
if (($# == 0)); then set -- build tests train sanitizer bench analyze train3b skewed3b stage2 qwen36 kernels peer table; fi
for part in "$@"; do
  case $part in
    build | tests | train | sanitizer | bench | analyze | train3b | skewed3b | stage2 | qwen36 | kernels | peer | table)
      run_part "$part" ;;
    *) echo "gpu_session.sh: unknown part '$part' (fetch build tests train sanitizer bench analyze train3b skewed3b stage2 qwen36 kernels peer table)" >&2; exit 78 ;;
  esac
done
if compgen -G "$dir/*.state" >/dev/null && grep -q failed "$dir"/*.state; then exit 1; fi
