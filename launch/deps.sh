#!/usr/bin/env bash
# Installs the Debian packages that the build, the tests and the tools need; only those that are missing.
#   launch/deps.sh            install what is missing (as root, or through sudo)
#   launch/deps.sh --check    only say what is missing; exit 78 if anything is
#   launch/deps.sh --test     also what `launch/test.sh` needs: a Slurm for tests/cluster
#   launch/deps.sh --lint     also what checks how sources are written (clang-format 14, shellcheck, pyflakes, pycodestyle)
#   launch/deps.sh --full     also what `launch/test.sh --full` needs (clang, sanitizers)
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config git ca-certificates util-linux
  libopenmpi-dev openmpi-bin                     # ranks
  libhdf5-openmpi-dev hdf5-tools zlib1g-dev      # files with numbers
  libboost-program-options-dev libboost-test-dev # options, tests
  libdnnl-dev                                    # CPU GEMM (optional for the build)
  nlohmann-json3-dev libpcre2-dev libutf8proc-dev libsentencepiece-dev sentencepiece # JSON, tokenizers
  libfmt-dev libspdlog-dev libssl-dev            # messages, SHA-256
  python3 python3-h5py python3-numpy python3-matplotlib # tools/: report, pictures
)
check=0
for argument in "$@"; do
  case $argument in
    --check) check=1 ;;
    --test) packages+=(slurm-wlm munge) ;;
    --lint) packages+=(clang-format-14 shellcheck python3-pyflakes python3-pycodestyle) ;;
    --full) packages+=(clang libomp-dev) ;;
    *) echo "deps.sh: unknown option '$argument' (known: --check --test --lint --full)" >&2; exit 78 ;;
  esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "deps.sh: this is not a Debian or Ubuntu; docs/install.md says what is needed, and how by Spack, in a container or by hand" >&2
  exit 78
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/progress.sh
source "$root/launch/progress.sh"

find_missing() {
  local package state
  missing=()
  for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
  done
}
find_missing
if ((${#missing[@]} == 0)); then
  echo "deps: all ${#packages[@]} Debian packages are there"
  exit 0
fi
echo "deps: missing: ${missing[*]}"
((check == 0)) || exit 78

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "deps.sh: need root or sudo to install; run as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 78
  fi
  as_root=(sudo)
  echo "deps: installing through sudo"
  sudo -v || exit 78 # asks for the password before anything runs beside the terminal
fi

log=$(mktemp "${TMPDIR:-/tmp}/neuronmoe-apt.XXXXXX")
# A fresh machine often updates itself: its lock is waited for, by apt-get for packages and here for their lists.
lock_s=${NMOE_APT_LOCK_S:-300}
apt() { # the last lines of its log if it does not work
  local until=$((SECONDS + lock_s))
  while : >"$log"; ! with_progress "deps: apt-get $1" "$log" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o DPkg::Lock::Timeout="$lock_s" "$@"; do
    if grep -q 'Could not get lock' "$log" && ((SECONDS < until)); then
      echo "deps: another program holds apt's lock; waiting for it ($((until - SECONDS)) s at most)"
      pause 5
      continue
    fi
    tail -n 15 "$log" >&2
    echo "deps.sh: 'apt-get $1' failed; the whole log is $log" >&2
    exit 70
  done
}
started=$SECONDS
wanted=${#missing[@]}
echo "deps: apt-get fetches up to 300 MB and unpacks up to 1.5 GB"
apt update
# No recommended packages, or Open MPI and matplotlib bring a desktop.
apt install --no-install-recommends "${missing[@]}"
find_missing # apt-get ends well after an interruption, too
if ((${#missing[@]} > 0)); then
  tail -n 15 "$log" >&2
  echo "deps.sh: apt-get ended, but these packages are not installed: ${missing[*]}; run it again (log: $log)" >&2
  exit 70
fi
rm -f "$log"
echo "deps: installed $wanted packages in $((SECONDS - started)) s"
