# Miyabi-G (JCAHPC, Tokyo): one GH200 per node, InfiniBand NDR, PBS. Sourced by launch/run.sh, which launch/miyabi.pbs calls.
# From documentation of 2026-08-13, untried. The manual of the site is for its users only; what stands here is from its public pages
# (cc.u-tokyo.ac.jp/en/supercomputer/miyabi, stored copies without a date) and from the guide to Miyabi-G of OpenSWPC's author
# ("OpenSWPCの利用", 2026-08-13), which quotes the manual.
# shellcheck shell=bash

# The guide: compiler, Open MPI (HPC-X, over UCX) and HDF5. Whether that HDF5 is parallel, `h5pcc` says; NMOE_MODULES for others.
if command -v module >/dev/null && [[ -z ${NMOE_NO_MODULES:-} ]]; then
  set +u # module systems read variables that may not be set
  # shellcheck disable=SC2086 # a list of names
  module load ${NMOE_MODULES:-nvidia nv-hpcx hdf5}
  set -u
fi
# The guide, "by specification according to the manual": what a job exports reaches one node only. launch/run.sh passes its variables
# with mpirun -x, which Open MPI refuses beside this list of the site's.
unset OMPI_MCA_mca_base_env_list
