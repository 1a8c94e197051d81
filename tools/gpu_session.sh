#!/usr/bin/env bash
# A first look at a GPU, in parts that are right, in this order, within 10 minutes together.
#   gpu_session.sh --pack [FOLDER]      here: builds for any x86-64 with a Hopper GPU, and packs the programs with the libraries
#                                       that they need into build/gpu/programs.tar.xz; FOLDER: packs what was built there
#   gpu_session.sh fetch                on Debian with a network: packages into build/gpu/debs, for a build on the other machine
#   gpu_session.sh OUTPUT [PART...]     on the GPU machine, in the source tree with build/gpu/programs.tar.xz: the parts (default:
#                                       facts truth train3b shapes kernels analyze peer more sanitizer), their logs, states and
#                                       results.txt into the folder OUTPUT, all of them after every part
# Further parts, for another 10 minutes: skewed3b stage2 qwen36 sanitizer_all build. A part that passed is not repeated while
# OUTPUT keeps its state. Without programs.tar.xz (or with another CUDA there) `build` is done first, from the machine's own MPI
# and HDF5 or from build/gpu/debs. NMOE_GPU_PROGRAMS names a folder of programs to take instead, NMOE_GPU_LIMIT_S the seconds that
# any part may take, NMOE_GPU_TOY a file that sets toy_* for a machine without a GPU. Exit status: 0 if all passed,
# 1 if a part failed, 64 for wrong arguments.
set -euo pipefail
script="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")"
cd "$(dirname "$script")/.."
work="$PWD/build/gpu"
package="$work/programs.tar.xz"
roots="$work/debian"
truth_tests=(linear transformer attention moe decoder)
more_tests=(ranking pooling communicators)
default_parts=(facts truth train3b shapes kernels analyze peer more sanitizer)
other_parts=(skewed3b stage2 qwen36 sanitizer_all build)

usage() {
  sed -n '2,/^set /s/^# \{0,1\}//p' "$script" >&2
  exit 64
}

# Seconds after which a part is ended; those of the default parts add up to 550.
limit_of() {
  if [[ -n ${NMOE_GPU_LIMIT_S:-} ]]; then echo "$NMOE_GPU_LIMIT_S"; return; fi
  case $1 in
    facts) echo 15 ;; truth) echo 60 ;; train3b) echo 70 ;; shapes) echo 40 ;; kernels) echo 80 ;; analyze) echo 85 ;;
    peer) echo 100 ;; more) echo 50 ;; sanitizer) echo 50 ;; build) echo 580 ;; *) echo 240 ;;
  esac
}

# --- programs and the libraries they find -------------------------------------------------------------------------------------

target_names() {
  local name
  for name in "${truth_tests[@]}" "${more_tests[@]}"; do echo "test_gpu_$name"; done
  echo neuronmoe bench_gpu_ops bench_gpu_train bench_gpu_analyze | tr ' ' '\n'
}

# What a copied program needs: its libraries and theirs, without the C library, the driver, cuBLAS and NCCL.
closure() {
  ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*|libresolv|libnss[^/]*|libcuda|libcublas(Lt)?|libnccl)\.so' || true
}

pack() {
  local tree="${1:-}" stage="$work/stage" lib file name
  lib="/usr/lib/$(uname -m)-linux-gnu"
  if [[ -z $tree ]]; then
    tree="$work/tree"
    cmake -S . -B "$tree" -DCMAKE_BUILD_TYPE=Release -DNMOE_CUDA=ON -DNMOE_NATIVE=OFF -DNMOE_GPU_TESTS=ON -DNMOE_BUILD_BENCH=ON
    # shellcheck disable=SC2046
    cmake --build "$tree" -j "$(nproc)" --target $(target_names)
  fi
  rm -rf "$stage"
  mkdir -p "$stage/bin" "$stage/lib" "$stage/usr/lib/$(uname -m)-linux-gnu" "$stage/usr/bin" "$stage/usr/share"
  for name in $(target_names); do
    file="$(find "$tree" -type f -name "$name" -perm -u+x | head -n 1)"
    [[ -n $file ]] || { echo "gpu_session.sh: $tree has no program $name" >&2; return 66; }
    strip -o "$stage/bin/$name" "$file"
  done
  # Open MPI looks for its parts below OPAL_PREFIX, PMIx below PMIX_INSTALL_PREFIX. A single process starts orted, too.
  cp -a "$lib/openmpi" "$stage$lib/"
  rm -rf "$stage$lib/openmpi/include" "$stage$lib/openmpi/lib/fortran" "$stage$lib"/openmpi/lib/*.a
  cp -a "$lib/pmix2" "$stage$lib/" 2>/dev/null || true
  rm -rf "$stage$lib/pmix2/include" "$stage$lib"/pmix2/lib/*.a
  cp -a /usr/share/openmpi "$stage/usr/share/"
  for name in orted mpirun; do cp -L "/usr/bin/$name" "$stage/usr/bin/"; done
  cp /etc/openmpi/openmpi-mca-params.conf "$stage/usr/share/openmpi/" 2>/dev/null || true
  local plugins
  mapfile -t plugins < <(find "$stage$lib" -name '*.so*' -type f)
  for file in $(closure "$stage"/bin/* "$stage"/usr/bin/* "${plugins[@]}"); do cp -L "$file" "$stage/lib/"; done
  find "$stage" -name '*.so*' -type f -exec strip --strip-unneeded {} +
  git rev-parse --short HEAD >"$stage/revision" 2>/dev/null || true
  tar -C "$stage" -cf - . | xz -9 -T1 >"$package"
  rm -rf "$stage"
  local size
  size=$(stat -c %s "$package")
  echo "gpu_session.sh: $package, $((size / 1000000)) MB"
  ((size <= 30000000)) || { echo "gpu_session.sh: that is more than 30 MB" >&2; return 73; }
}

# Folders of CUDA's libraries, which are not packed: the toolkit's, and those of Python's wheels.
cuda_folders() {
  { compgen -G '/usr/local/cuda*/lib64' || true; } | sort -r
  python3 -c 'import glob, sys
for p in sys.path:
    for d in sorted(glob.glob(p + "/nvidia/*/lib")):
        print(d)' 2>/dev/null || true
}

find_programs() {
  programs=""
  if [[ -n ${NMOE_GPU_PROGRAMS:-} ]]; then
    programs="$NMOE_GPU_PROGRAMS"
  elif [[ -f $package ]]; then
    if [[ ! -d $work/programs || $package -nt $work/programs ]]; then
      rm -rf "$work/programs"
      mkdir -p "$work/programs"
      tar -C "$work/programs" -xJf "$package"
    fi
    programs="$work/programs/bin"
  elif [[ -x $work/built/neuronmoe ]]; then
    programs="$work/built"
    [[ ! -d $roots ]] || use_unpacked_packages
  fi
}

# run_program NAME ARGUMENTS: with the libraries packed beside it, or unpacked; those of the machine's other programs stay theirs.
run_program() {
  local name=$1
  shift
  with_libraries "$programs/$name" "$@"
}
with_libraries() {
  local folders
  folders="$(cuda_folders | paste -sd:)"
  if [[ $programs == "$work/programs/bin" ]]; then
    env LD_LIBRARY_PATH="$work/programs/lib:$work/programs/usr/lib/$(uname -m)-linux-gnu/openmpi/lib:$folders" \
      OPAL_PREFIX="$work/programs/usr" PMIX_INSTALL_PREFIX="$work/programs/usr/lib/$(uname -m)-linux-gnu/pmix2" \
      PATH="$work/programs/usr/bin:$PATH" OMPI_MCA_plm_rsh_agent=sh OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "$@"
  else
    env LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folders" OMPI_MCA_plm_rsh_agent=sh OMPI_ALLOW_RUN_AS_ROOT=1 \
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "$@"
  fi
}

# --- the build on the GPU machine: only where no package fits -------------------------------------------------------------------

packages=(libopenmpi-dev openmpi-bin openmpi-common libopenmpi3 libhdf5-openmpi-dev libhdf5-openmpi-103-1 zlib1g-dev libssl-dev
  pkg-config libboost-program-options-dev libboost-test-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libpcre2-dev
  libutf8proc-dev libsentencepiece-dev)

# The whole closure, as for a machine that has nothing (an empty status), without compilers and what every Debian has: leaving out
# one library of a library ends the link.
fetch() {
  local list
  rm -rf "$work/debs"
  mkdir -p "$work/debs/none/partial"
  : >"$work/debs/status"
  mapfile -t list < <(apt-get -o Dir::State::status="$work/debs/status" -o Dir::Cache::archives="$work/debs/none" -o Debug::NoLocking=1 -y install --no-install-recommends \
    --print-uris "${packages[@]}" | sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" | grep -Ev \
    '^(lib(c6|c6-dev|c-bin|c-dev-bin|crypt1|crypt-dev|tirpc.*|nsl.*|stdc\+\+.*|gcc.*|gfortran.*|quadmath.*|asan.*|lsan.*|tsan.*|ubsan.*|itm.*|cc1.*|isl.*|mpc.*|mpfr.*|gmp.*|binutils|ctf.*|gprofng.*|perl.*|pam.*|sem.*|sepol.*|audit.*|debconf.*|tinfo.*|js-.*|x11.*|xcb.*)|gcc.*|g\+\+.*|cpp.*|gfortran.*|binutils.*|linux-libc-dev|dpkg.*|tar|perl.*|debconf|adduser|passwd|openssh-client|rpcsvc-proto|javascript-common)$')
  (cd "$work/debs" && apt-get download "${list[@]}")
}

# dpkg -x runs no install scripts, so the links through /etc/alternatives and the compiler wrappers' paths are missing: MPI and
# HDF5 are named instead of searched for, as in cmake/aarch64.cmake.
use_unpacked_packages() {
  found_options=()
  if command -v mpicc >/dev/null && command -v mpirun >/dev/null && command -v h5pcc >/dev/null; then return 0; fi
  if ! compgen -G "$work/debs/*.deb" >/dev/null; then
    echo "gpu_session.sh: MPI or parallel HDF5 is not here, nor packages in $work/debs; run '--pack' or 'fetch' elsewhere and carry what it makes" >&2
    return 78
  fi
  local deb lib
  if [[ ! -f $roots/complete ]]; then
    for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$roots"; done
    ln -sf mpirun.openmpi "$roots/usr/bin/mpirun"
    ln -sf mpirun.openmpi "$roots/usr/bin/mpiexec"
    [[ -e $roots/usr/bin/pkg-config || ! -e $roots/usr/bin/pkgconf ]] || ln -sf pkgconf "$roots/usr/bin/pkg-config"
    touch "$roots/complete"
  fi
  local machine
  machine="$(uname -m)-linux-gnu"
  lib="$roots/usr/lib/$machine"
  export PATH="$roots/usr/bin:$PATH" CMAKE_PREFIX_PATH="$roots/usr" OPAL_PREFIX="$roots/usr" OMPI_MCA_plm_rsh_agent=sh
  export LD_LIBRARY_PATH="$lib:$lib/openmpi/lib:$lib/hdf5/openmpi:$lib/libpsm1:$lib/blas:$lib/lapack:$roots/lib/$machine"
  export PKG_CONFIG_LIBDIR="$lib/pkgconfig:$roots/usr/share/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$roots"
  export C_INCLUDE_PATH="$roots/usr/include/$machine" CPLUS_INCLUDE_PATH="$roots/usr/include/$machine"
  local folder links=""
  for folder in ${LD_LIBRARY_PATH//:/ }; do links+=" -Wl,-rpath-link,$folder"; done
  found_options=("-DMPI_C_HEADER_DIR=$lib/openmpi/include" -DMPI_C_LIB_NAMES=mpi "-DMPI_mpi_LIBRARY=$lib/openmpi/lib/libmpi.so"
    -DMPI_C_COMPILER= -DHDF5_C_COMPILER_EXECUTABLE= "-DHDF5_C_INCLUDE_DIR=$roots/usr/include/hdf5/openmpi"
    "-DHDF5_hdf5_LIBRARY_RELEASE=$lib/hdf5/openmpi/libhdf5.so" "-DHDF5_hdf5_LIBRARY_DEBUG=$lib/hdf5/openmpi/libhdf5.so"
    "-DNMOE_MPIEXEC=$roots/usr/bin/mpirun" "-DCMAKE_EXE_LINKER_FLAGS=$links")
}

part_build() {
  local name
  use_unpacked_packages
  cmake -S . -B "$work/tree" -DCMAKE_BUILD_TYPE=Release -DNMOE_CUDA=ON -DNMOE_GPU_TESTS=ON -DNMOE_BUILD_BENCH=ON -DNMOE_WERROR=OFF \
    "${found_options[@]}"
  # shellcheck disable=SC2046
  cmake --build "$work/tree" -j "$(nproc)" --target $(target_names)
  mkdir -p "$work/built"
  for name in $(target_names); do ln -sf "$(find "$work/tree" -type f -name "$name" -perm -u+x | head -n 1)" "$work/built/$name"; done
}

# --- parts ----------------------------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*" | tee -a "$results"; }
record() { tee -a "$results"; } # what a benchmark prints is a result

part_facts() {
  say "$(nvidia-smi --query-gpu=name,driver_version,memory.total,mig.mode.current --format=csv,noheader 2>&1 | head -n 8 || true)"
  say "$(nvcc --version 2>/dev/null | grep release || echo 'no nvcc'); $(c++ --version 2>/dev/null | head -n 1 || echo 'no c++'); $(cmake --version 2>/dev/null | head -n 1 || echo 'no cmake')"
  say "$(grep -m1 PRETTY_NAME /etc/os-release || true) $(uname -m) $(nproc) cores, $(ldd --version | head -n 1)"
  local library folder
  for library in libcublasLt.so libcudnn.so libnccl.so; do
    for folder in $(cuda_folders); do
      { compgen -G "$folder/$library*" || true; } | while read -r file; do say "library $file"; done
    done
  done
  if command -v ncu >/dev/null; then say "ncu $(command -v ncu)"; fi
  if command -v compute-sanitizer >/dev/null; then say "compute-sanitizer $(command -v compute-sanitizer)"; fi
  local missing name
  for name in $(target_names); do
    missing="$(with_libraries ldd "$programs/$name" 2>&1 | grep 'not found' || true)"
    if [[ -n $missing ]]; then say "$name: $missing"; return 1; fi
  done
  local version
  version="$(run_program neuronmoe --version)"
  say "$version"
}

# run_tests NAME...: all of them, whatever the first ones do; one line each.
run_tests() {
  local name status=0 line
  for name in "$@"; do
    if run_program "test_gpu_$name" >"$output/test_gpu_$name.log" 2>&1; then
      say "test_gpu_$name: passed"
    else
      status=1
      line="$(grep -m1 -E 'error|Error|failed|not found' "$output/test_gpu_$name.log" || tail -n 1 "$output/test_gpu_$name.log")"
      say "test_gpu_$name: FAILED: $line"
    fi
  done
  return $status
}
part_truth() { run_tests "${truth_tests[@]}"; }
# What NCCL does with one rank, ranking and pooling, and the toy of tests/integration/device.py.
part_more() {
  local status=0
  run_tests "${more_tests[@]}" || status=1
  with_libraries python3 tests/integration/device.py "$programs/neuronmoe" "$programs/bench_gpu_train" . || status=1
  return $status
}

# The goals: useful FLOP/s >= 60 % of the product's, <= 21 GPU-hours, memory <= 1.05 x plan.
bench_train() { # bench_train MODEL EXPERTS STAGE ROUTING STEPS
  run_program bench_gpu_train "model=configs/models/$1.json" "experts=configs/experts/$2.cfg" "stage=$3" "routing=$4" \
    "steps=$5" ${toy_options[@]+"${toy_options[@]}"} | record
}
part_train3b() { bench_train llama3.2-3b llama3.2-3b-el 1 balanced 6; }
part_skewed3b() { bench_train llama3.2-3b llama3.2-3b-el 1 skewed 20; }
part_stage2() { bench_train llama3.2-3b llama3.2-3b-el 2 balanced 20; }
part_qwen36() { bench_train qwen1.5-1.8b qwen1.5-1.8b-el 1 balanced 20; }
part_shapes() { run_program bench_gpu_ops ${toy_ops:+"$toy_ops"} | record; }

# Time by kernel of one step: ncu, without locking clocks and with nothing but durations, runs each kernel once.
part_kernels() {
  local ncu
  ncu="$(command -v ncu || compgen -G '/usr/local/cuda*/bin/ncu' | head -n 1 || compgen -G '/opt/nvidia/nsight-compute/*/ncu' | head -n 1 || true)"
  if [[ -z $ncu ]]; then say "kernels: no ncu here"; return 1; fi
  with_libraries "$ncu" --clock-control none --metrics gpu__time_duration.sum --csv --log-file "$output/kernels.csv" \
    "$programs/bench_gpu_train" steps=1 warm_up=0 gemm=64 ${toy_options[@]+"${toy_options[@]}"}
  python3 tools/performance_model.py --measured "$output/kernels.csv" | record
}
part_analyze() {
  local status=0  # METHOD 1.4 says float32; bfloat16 is the option
  run_program bench_gpu_analyze "${toy_model:-configs/models/llama3.2-3b.json}" bfloat16 9 "${toy_sentences:-500}" | record || status=1
  run_program bench_gpu_analyze "${toy_model:-configs/models/llama3.2-3b.json}" float32 9 "${toy_sentences:-100}" | record || status=1
  return $status
}
part_peer() { python3 tools/bench/torch_peer.py --steps 5 --warmup 2 ${toy_peer[@]+"${toy_peer[@]}"} | record; }

sanitize() { # sanitize TOOL TEST CASE
  with_libraries compute-sanitizer --tool "$1" --error-exitcode 1 "$programs/test_gpu_$2" ${3:+"--run_test=$3"}
  say "compute-sanitizer $1: test_gpu_$2 ${3:-}: passed"
}
part_sanitizer() {
  sanitize racecheck attention "$sanitized_cases"
  sanitize memcheck attention "$sanitized_cases"
}
part_sanitizer_all() {
  local tool
  for tool in memcheck racecheck synccheck; do
    sanitize "$tool" moe
    sanitize "$tool" attention '!same_bits_every_time'
  done
}

# --- running them ---------------------------------------------------------------------------------------------------------------

state_of() { cat "$output/$1.state" 2>/dev/null || echo 'not run'; }

write_table() {
  local part
  {
    printf '%-14s %-12s %s\n' part state seconds
    for part in "${wanted[@]}"; do
      printf '%-14s %-12s %s\n' "$part" "$(state_of "$part")" "$(cat "$output/$part.seconds" 2>/dev/null || echo -)"
    done
  } >"$output/table.txt"
}

run_part() { # run_part NAME: in its own shell, its log kept, its state written whatever it does
  local part=$1 began=$SECONDS status=0
  if [[ $(state_of "$part") == passed ]]; then
    echo "$part: passed before"
    return
  fi
  say "== $part, $(date -u +%FT%TZ)"
  echo running >"$output/$part.state"
  timeout --kill-after=5 "$(limit_of "$part")" "$script" --inside "$output" "$part" >"$output/$part.log" 2>&1 || status=$?
  echo $((SECONDS - began)) >"$output/$part.seconds"
  if ((status == 0)); then
    echo passed >"$output/$part.state"
  else
    echo "failed($status)" >"$output/$part.state"
    tail -n 15 "$output/$part.log" >&2
  fi
  say "$part: $(state_of "$part") after $(cat "$output/$part.seconds") s"
  write_table
}

is_part() {
  local known
  for known in "${default_parts[@]}" "${other_parts[@]}"; do [[ $known != "$1" ]] || return 0; done
  return 1
}

case ${1:-} in
  --pack)
    (($# <= 2)) || usage
    mkdir -p "$work"
    pack "${2:-}"
    exit ;;
  fetch) (($# == 1)) || usage; fetch; exit ;;
  '' | -*) [[ ${1:-} == --inside ]] || usage ;;
esac
sanitized_cases=later_tokens_do_not_matter,large_scores_do_not_overflow
toy_options=()
toy_peer=()
if [[ -n ${NMOE_GPU_TOY:-} ]]; then # a file that sets toy_*: for a machine without a GPU
  # shellcheck source=/dev/null
  source "$NMOE_GPU_TOY"
fi
if [[ $1 == --inside ]]; then
  output=$2
  results="$output/results.txt"
  find_programs
  "part_$3"
  exit
fi
mkdir -p "$1"
output="$(cd "$1" && pwd)"
results="$output/results.txt"
shift
wanted=("$@")
(($#)) || wanted=("${default_parts[@]}")
for part in "${wanted[@]}"; do
  is_part "$part" || { echo "gpu_session.sh: unknown part '$part' (${default_parts[*]} ${other_parts[*]})" >&2; exit 64; }
done
find_programs
if [[ -z $programs && ${wanted[0]} != build ]]; then wanted=(build "${wanted[@]}"); fi
say "neuronmoe $(git rev-parse --short HEAD 2>/dev/null || cat "$work/programs/revision" 2>/dev/null || echo '(no git)'), programs: ${programs:-to be built}"
for part in "${wanted[@]}"; do run_part "$part"; done
cat "$output/table.txt" 2>/dev/null || true
echo "results: $results"
for part in "${wanted[@]}"; do [[ $(state_of "$part") == passed ]] || exit 1; done
