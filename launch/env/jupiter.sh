# JUPITER Booster (JSC, Juelich): 4 GH200 per node, InfiniBand NDR200, Slurm with psslurm. Sourced by launch/run.sh with
# NMOE_SITE=jupiter.
# From the site's documentation, untried: apps.fz-juelich.de/jsc/hps/jupiter/{configuration,batchsystem}.html, stored copies without a
# date of which the first thousand characters could be read (2026-12-01): hardware, network, and that psid with the plug-in psslurm takes
# the place of slurmd. Names of modules and of the PMI are from job scripts of users of the machine, as said beside them.
# shellcheck shell=bash

# Job script for JUPITER, Julia benchmark: "module load Stages/2026 NVHPC/25.9-CUDA-13 OpenMPI/5.0.8", partition booster,
# --gres=gpu:4. Which HDF5, Boost and NCCL are there, `module spider` says; set NMOE_MODULES to yours.
if command -v module >/dev/null && [[ -z ${NMOE_NO_MODULES:-} ]]; then
  set +u # module systems read variables that may not be set
  # shellcheck disable=SC2086 # a list of names
  module load ${NMOE_MODULES:-Stages/2026 GCC OpenMPI HDF5 Boost CUDA NCCL}
  set -u
fi
# ParaStation's own PMIx, which psslurm offers beside Slurm's names ("module load GCC OpenMPI", "SLURM_MPI_TYPE=pspmix" in a script of
# the site's administrators, partition booster). It comes after launch/run.sh's --mpi, and wins; yours after it.
NMOE_SRUN_OPTIONS="--mpi=pspmix ${NMOE_SRUN_OPTIONS:-}"
# InfiniBand is NCCL's and UCX's own ground: no NCCL_* and no UCX_* line is needed that a page of the site would name.
