# A cluster without a file of its own. Sourced by launch/run.sh with NMOE_SITE=generic; copy it to launch/env/<site>.sh, or
# set the variables where your jobs do.
# shellcheck shell=bash

# NMOE_MPI: what srun offers to the MPI that the program was built with (`srun --mpi=list` says what there is):
#   pmix  Open MPI 4 and 5        pmi2  MPICH        cray_shasta  Cray MPICH        none
: "${NMOE_MPI:=pmix}"
# NMOE_SRUN_OPTIONS="--uenv=... --view=..."  and  NMOE_MPIRUN_OPTIONS="--mca ..."  are added behind launch/run.sh's own, and win.

# The program itself keeps Open MPI from its own MPI-IO, which reports a full disk as success (docs/reliability.md).
# No pointer of a GPU reaches MPI. Beside NCCL, GPU-aware MPI can deadlock:
# docs.nvidia.com/deeplearning/nccl/user-guide/docs/mpi.html
export MPICH_GPU_SUPPORT_ENABLED=0
# NCCL finds InfiniBand and NVLink by itself. NCCL_DEBUG=INFO shows what it took; where several networks are there, name the fast one
# (NCCL_SOCKET_IFNAME for its first contact, NCCL_IB_HCA): docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html
