#!/usr/bin/env bash
# Installs the Debian packages that the build, the tests and the tools need; only those that are missing.
#   launch/deps.sh            install what is missing (as root, or through sudo)
#   launch/deps.sh --check    only say what is missing; exit 78 if anything is
#   launch/deps.sh --full     also what `launch/test.sh --full` needs (clang, sanitizers)
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config git ca-certificates util-linux
  libopenmpi-dev openmpi-bin                     # ranks
  libhdf5-openmpi-dev hdf5-tools                 # files with numbers
  libboost-program-options-dev libboost-test-dev # options, tests
  libdnnl-dev                                    # CPU GEMM (optional for the build)
  nlohmann-json3-dev libpcre2-dev libutf8proc-dev libsentencepiece-dev sentencepiece # JSON, tokenizers
  libfmt-dev libspdlog-dev libssl-dev            # messages, SHA-256
  python3 python3-h5py python3-numpy python3-matplotlib # tools/report.py
)
check=0
for argument in "$@"; do
  case $argument in
    --check) check=1 ;;
    --full) packages+=(clang libomp-dev) ;;
    *) echo "deps.sh: unknown option '$argument' (known: --check --full)" >&2; exit 78 ;;
  esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "deps.sh: this is not a Debian system; install by hand: ${packages[*]}" >&2
  exit 78
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "deps: all ${#packages[@]} Debian packages are there"
  exit 0
fi
echo "deps: missing: ${missing[*]}"
((check == 0)) || exit 78

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "deps.sh: need root or sudo to install; run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 78
  fi
  as_root=(sudo)
  echo "deps: installing through sudo"
fi

log=$(mktemp "${TMPDIR:-/tmp}/neuronmoe-apt.XXXXXX")
apt() { # quiet when it works; the last lines of its log when it does not
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" </dev/null >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "deps.sh: 'apt-get $1' failed; the whole log is $log" >&2
    exit 70
  fi
}
started=$SECONDS
apt update
# No recommended packages, or Open MPI and matplotlib bring a desktop.
apt install --no-install-recommends "${missing[@]}"
rm -f "$log"
echo "deps: installed ${#missing[@]} packages in $((SECONDS - started)) s"
