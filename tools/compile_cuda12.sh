#!/usr/bin/env bash
# Compiles every source of the CUDA side once with the oldest toolkit that it is written for, CUDA 12.4, without linking.
#   compile_cuda12.sh fetch DIR   on Debian with a network: nvcc (Debian's non-free archive) and headers (PyPI), 670 MB, into DIR
#   compile_cuda12.sh DIR         one line per source; exit status 1 if one does not compile
# The compiler that the machine builds with is left alone. nvcc 12.4 takes g++ up to 13: CXX names another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed -n 2,5p >&2; exit 64; }

# An apt of its own: nothing of the machine's is changed. The release that is stable now has 12.4.
download_nvcc() {
  mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial"
  echo 'deb [arch=amd64] http://deb.debian.org/debian stable main non-free' >"$dir/apt/sources"
  : >"$dir/apt/status"
  printf '%s "%s";\n' Dir::Etc::SourceList "$dir/apt/sources" Dir::Etc::SourceParts - Dir::State "$dir/apt" Dir::State::Lists \
    "$dir/apt/lists" Dir::Cache "$dir/apt" Dir::State::status "$dir/apt/status" >"$dir/apt/conf"
  (cd "$dir" && export APT_CONFIG="$dir/apt/conf" && apt-get -q update && apt-get -q download 'nvidia-cuda-toolkit=12.4.*' libcub-dev libcu++-dev \
    libthrust-dev)
  local deb
  for deb in "$dir"/*.deb; do dpkg -x "$deb" "$dir/debian"; done
}

fetch() {
  mkdir -p "$dir/wheels" "$dir/toolkit/bin" "$dir/toolkit/nvvm/bin" "$dir/toolkit/include"
  download_nvcc
  python3 -m pip download -q --no-deps -d "$dir/wheels" nvidia-cuda-nvcc-cu12==12.4.131 nvidia-cuda-runtime-cu12==12.4.127 \
    nvidia-cublas-cu12==12.4.5.8 nvidia-nccl-cu12==2.21.5
  local wheel
  for wheel in "$dir"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$dir/wheels/unpacked"; done
  cp -r "$dir"/wheels/unpacked/nvidia/*/include/. "$dir/toolkit/include/"
  cp -r "$dir"/debian/usr/include/{cub,cuda,nv,thrust} "$dir/toolkit/include/"  # PyPI's lack files
  cp -r "$dir"/wheels/unpacked/nvidia/cuda_nvcc/nvvm/. "$dir/toolkit/nvvm/"
  cp "$dir"/debian/usr/bin/{cudafe++,fatbinary,nvlink,ptxas} "$dir/debian/usr/lib/nvidia-cuda-toolkit/bin/nvcc" "$dir/toolkit/bin/"
  cp "$dir/debian/usr/lib/nvidia-cuda-toolkit/bin/cicc" "$dir/toolkit/nvvm/bin/"
  cp -rL "$dir/debian/usr/lib/nvidia-cuda-toolkit/bin/crt" "$dir/toolkit/bin/" 2>/dev/null || true
  # nvcc's own file of this name has the folders of Debian's package.
  cat >"$dir/toolkit/bin/nvcc.profile" <<'END'
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include"
END
  chmod +x "$dir"/toolkit/bin/* "$dir/toolkit/nvvm/bin/cicc" 2>/dev/null || true
  rm -rf "$dir/wheels" "$dir/debian" "$dir/apt" "$dir"/*.deb
  "$dir/toolkit/bin/nvcc" --version | grep release
}

compile() { # compile SOURCE: its diagnostics go to $dir/out
  local common=(-std=c++20 -Iinclude -Isrc/tensor/cuda/device -Isrc/ops/cuda/device -c "$1" -o "$dir/out/object.o")
  case $1 in
    */sort.cu) common+=(-Xcompiler=-Wno-maybe-uninitialized) ;;&  # as cmake/NeuronmoeLayers.cmake
    *.cu)
      "$dir/toolkit/bin/nvcc" -ccbin "${CXX:-g++}" -arch=sm_90a -O1 -DFMT_CONSTEVAL= -DFMT_USE_CONSTEXPR=1 \
        -Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror "${common[@]}" ;;
    *)
      "${CXX:-g++}" -O1 -Wall -Wextra -Werror -isystem "$dir/toolkit/include" '-DNMOE_CUBLASLT=""' '-DNMOE_NCCL_FILE=""' \
        -DNMOE_WITH_CUDA=1 "${common[@]}" ;;
  esac
}

(($# >= 1)) || usage
if [[ $1 == fetch ]]; then
  (($# == 2)) || usage
  mkdir -p "$2"
  dir="$(cd "$2" && pwd)"
  fetch
  exit
fi
dir="$(cd "$1" && pwd)"
[[ -x $dir/toolkit/bin/nvcc ]] || { echo "compile_cuda12.sh: no toolkit in $dir; run: compile_cuda12.sh fetch $dir" >&2; exit 66; }
mkdir -p "$dir/out"
failed=0
for source in src/*/cuda/*.cu src/*/cuda/*.cpp src/comm/nccl/*.cu src/comm/nccl/*.cpp; do
  log="$dir/out/$(basename "$source").log"
  if compile "$source" >"$log" 2>&1; then
    echo "ok     $source"
  else
    echo "FAILED $source: $log"
    failed=1
  fi
done
exit $failed
