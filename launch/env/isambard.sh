# Isambard-AI (BriCS, Bristol): 4 GH200 per node, Slingshot 11, Slurm. Sourced by launch/run.sh with NMOE_SITE=isambard.
# From the site's documentation, untried: docs.isambard.ac.uk, user-documentation/guides/{mpi,nccl}, stored copies without a date
# (they speak of July 2025), and its own summary github.com/isambard-sc/skills.isambard.ac.uk, commits 53f13b5 (mpi, nccl) and
# abf7fa9 (slurm), read 2026-12-01.
# shellcheck shell=bash

# guides/mpi: Cray MPICH is the default and comes with PrgEnv-gnu ("recommended"); "Don't use mpirun or mpiexec".
if command -v module >/dev/null && [[ -z ${NMOE_NO_MODULES:-} ]]; then
  set +u # module systems read variables that may not be set
  module load PrgEnv-gnu
  # guides/nccl: NCCL with its plug-in for Slingshot. The module sets the NCCL_* and FI_* variables of that page (NCCL_NET,
  # NCCL_SOCKET_IFNAME=hsn, NCCL_NET_GDR_LEVEL=PHB, NCCL_CROSS_NIC=1, FI_CXI_*, FI_MR_CACHE_MONITOR=userfaultfd ...), whose values
  # differ between versions of the page; they are not repeated here.
  module load brics/nccl
  set -u
fi
: "${NMOE_MPI:=cray_shasta}"               # guides/mpi: cray_shasta for Cray MPICH, pmi2 for Open MPI 4, pmix for Open MPI 5
export NCCL_NET="${NCCL_NET:-AWS Libfabric}" # guides/nccl: "required"; without the plug-in 2.3 GB/s instead of 163
# No pointer of a GPU reaches MPI; beside NCCL, GPU-aware MPI can deadlock (NCCL user guide, "NCCL and MPI").
export MPICH_GPU_SUPPORT_ENABLED=0

# guides/slurm: one GPU is one superchip of 72 cores; jobs of 24 hours at most; --exclusive in a job reserves, and bills, whole nodes.
