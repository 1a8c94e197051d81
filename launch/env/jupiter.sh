# JUPITER Booster (JSC, Juelich): 4 GH200 per node, InfiniBand NDR200, Slurm with psslurm. Sourced by launch/run.sh with
# NMOE_SITE=jupiter.
# From the site's documentation, untried: apps.fz-juelich.de/jsc/hps/jupiter/{configuration,batchsystem}.html, stored copies without a
# date of which the first thousand characters could be read (2026-12-01): hardware, network, and that psid with the plug-in psslurm takes
# the place of slurmd.
# shellcheck shell=bash

# Names of modules stand on no page that could be read. A user's job script, partition booster and four GPUs per node, has
# "module load Stages/2026 NVHPC/25.9-CUDA-13 OpenMPI/5.0.8"; `module spider HDF5` and the like say the others. Name yours:
# NMOE_MODULES="Stages/2026 GCC OpenMPI ..."
if command -v module >/dev/null && [[ -n ${NMOE_MODULES:-} ]]; then
  set +u # module systems read variables that may not be set
  # shellcheck disable=SC2086 # a list of names
  module load $NMOE_MODULES
  set -u
fi
# ParaStation's own PMIx, which psslurm offers beside Slurm's names: "module load GCC OpenMPI" and "SLURM_MPI_TYPE=pspmix" in a job script
# for partition booster with 288 tasks per node, which is this machine's. It comes after launch/run.sh's --mpi, and wins; yours
# after it.
NMOE_SRUN_OPTIONS="--mpi=pspmix ${NMOE_SRUN_OPTIONS:-}"
# No page that could be read names an NCCL_* or UCX_* variable; both find InfiniBand by themselves.
