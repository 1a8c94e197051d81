#!/usr/bin/env bash
# Installs what is missing, builds and runs every test.
#   launch/test.sh            release build, ctest (programs, scripts and the Python tools)
#   launch/test.sh --cluster  also tests/cluster/hard_faults.py: kills, a time limit, a cut link, a full disk (as root, 7 minutes)
#   launch/test.sh --full     also address + undefined-behaviour sanitizers (preset asan) and clang (preset clang)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

presets=(release) cluster=0
dep_options=(--test)
case ${1:-} in
  "") ;;
  --cluster) cluster=1 ;;
  --full) presets+=(asan clang) dep_options=(--full) ;;
  *)
    echo "test.sh: unknown option '$1' (known: --cluster --full)" >&2
    exit 78 ;;
esac

launch/deps.sh "${dep_options[@]}"
failed=() built=()
# Every part that can run does, even if an earlier one fails; the verdict names them all.
for preset in "${presets[@]}"; do
  if launch/build.sh "$preset"; then
    built+=("$preset")
  else
    code=$?
    ((code != 130)) || exit 130 # Ctrl-C
    failed+=("build $preset (its tests did not run)")
  fi
done
if ((${#built[@]} == 0)); then
  echo "test: FAILED: nothing was built, so no test ran" >&2
  exit 1
fi

# The last preset to run is release, so that its summary is the last one read.
for ((i = ${#built[@]} - 1; i >= 0; --i)); do
  preset=${built[i]}
  echo "test: ctest, preset $preset"
  # Two slots per core: scripts that mostly wait for processes take one, a test that computes two, tests of many ranks four.
  ctest --preset "$preset" --no-tests=error --parallel "$((2 * $(nproc)))" </dev/null || failed+=("ctest $preset")
done
if ((cluster)); then
  /usr/bin/python3 tests/cluster/hard_faults.py "$root" build/release/neuronmoe </dev/null || failed+=("hard_faults.py")
fi

if ((${#failed[@]})); then
  printf 'test: FAILED: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "test: all passed (${presets[*]})"
