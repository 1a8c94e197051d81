#!/usr/bin/env bash
# Cross-compiles the CPU side for 64-bit Arm and runs the unit tests once under qemu-user.
#   tools/cross_aarch64.sh            sysroot, configure, build, unit tests
#   tools/cross_aarch64.sh --sysroot  only fetch and unpack the arm64 packages (build/aarch64-sysroot)
# Needs: apt-get install --no-install-recommends g++-aarch64-linux-gnu qemu-user-static
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
sysroot=$root/build/aarch64-sysroot
log=$root/build/aarch64.log

packages=(
  libc6-dev libstdc++-12-dev libgomp1 libopenmpi-dev libhdf5-openmpi-dev zlib1g-dev
  libboost-program-options-dev libboost-test-dev libdnnl-dev nlohmann-json3-dev
  libpcre2-dev libutf8proc-dev libsentencepiece-dev libfmt-dev libspdlog-dev libssl-dev
)
for tool in aarch64-linux-gnu-g++ qemu-aarch64-static; do
  if ! command -v "$tool" >/dev/null; then
    echo "cross_aarch64.sh: $tool is missing; apt-get install --no-install-recommends g++-aarch64-linux-gnu qemu-user-static" >&2
    exit 78
  fi
done
mkdir -p build

# A private apt: arm64 as the only architecture, nothing installed, so the whole closure down to libc is fetched and
# the machine's own package database stays as it is.
apt_dir=$root/build/aarch64-apt
private_apt() {
  apt-get -q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$apt_dir/state" \
    -o Dir::State::status="$apt_dir/status" -o Dir::Cache="$apt_dir/cache" -o Debug::NoLocking=1 \
    -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}
if [[ ! -e $sysroot/.complete ]]; then
  echo "cross: fetching arm64 packages (log: $log)"
  mkdir -p "$apt_dir/state/lists/partial" "$apt_dir/cache/archives/partial"
  : >"$apt_dir/status"
  if ! { private_apt update && private_apt install --download-only --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "cross_aarch64.sh: the packages could not be fetched; the whole log is $log" >&2
    exit 70
  fi
  rm -rf "$sysroot"
  mkdir -p "$sysroot"
  for archive in "$apt_dir"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$sysroot" --no-same-owner --exclude=./usr/share/doc --exclude=./usr/share/man
  done
  # Packages hold links from / (/lib/...): inside the sysroot they must be relative.
  find "$sysroot" -type l -lname '/*' | while read -r link; do
    target=$(readlink "$link")
    [[ ! -e $sysroot$target ]] || ln -sfnr "$sysroot$target" "$link"
  done
  touch "$sysroot/.complete"
  echo "cross: $(find "$apt_dir/cache/archives" -name '*.deb' | wc -l) packages unpacked into $sysroot"
fi
[[ ${1:-} != --sysroot ]] || exit 0

echo "cross: configuring and building preset aarch64"
targets=(neuronmoe)
for file in tests/unit/test_*.cpp; do
  name=${file##*/}
  targets+=("${name%.cpp}")
done
for file in tests/fuzz/fuzz_*.cpp; do
  name=${file##*/fuzz_}
  targets+=("replay_${name%.cpp}")
done
if ! { cmake --preset aarch64 && cmake --build --preset aarch64 --parallel "$(nproc)" --target "${targets[@]}"; } >"$log" 2>&1; then
  grep -n -m 12 -E 'error|Error|FAILED' "$log" >&2 || tail -n 25 "$log" >&2
  echo "cross_aarch64.sh: the build failed; the whole log is $log" >&2
  exit 70
fi
file -b build/aarch64/neuronmoe 2>/dev/null || true
# Libraries that an alternatives link would lead to are named for the loader.
lib=$sysroot/usr/lib/aarch64-linux-gnu
export QEMU_LD_PREFIX=$sysroot QEMU_SET_ENV="LD_LIBRARY_PATH=$lib:$lib/openmpi/lib:$lib/hdf5/openmpi:$lib/blas:$lib/lapack"
ctest --test-dir build/aarch64 -L unit --parallel "$(nproc)" --output-on-failure --timeout 1200 </dev/null
