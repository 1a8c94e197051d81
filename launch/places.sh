# Where a script puts what it makes unless it is told. Sourced with `root` set, the folder that holds launch/.
# shellcheck shell=bash
# shellcheck disable=SC2034 # used where it is sourced

installed=0 builds=${root:?}/build
if [[ ! -f $root/CMakeLists.txt ]]; then # PREFIX/share/neuronmoe of cmake --install, which belongs to everybody
  installed=1 builds=$PWD/neuronmoe-work
fi
