#!/usr/bin/env bash
# Runs neuronmoe on N ranks:  launch/run.sh N COMMAND [OPTIONS...]
# srun inside a Slurm job, mpirun elsewhere; the same binary, the same options.
#   NMOE_BINARY  the program          (default build/release/neuronmoe)
#   NMOE_SITE    launch/env/<site>.sh (default local without Slurm, none with it)
#   OMP_NUM_THREADS  threads per rank (default: cores of this machine / ranks, or SLURM_CPUS_PER_TASK)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/run.sh N COMMAND [OPTIONS...]   (N = number of ranks)" >&2
  exit 78
fi
ranks=$1
shift
binary=${NMOE_BINARY:-$root/build/release/neuronmoe}
if [[ ! -x $binary ]]; then
  echo "run.sh: $binary is not there; build it with launch/build.sh or set NMOE_BINARY" >&2
  exit 78
fi

if [[ -n ${SLURM_JOB_ID:-} ]]; then
  if [[ -n ${NMOE_SITE:-} ]]; then
    # shellcheck source=/dev/null
    source "$root/launch/env/$NMOE_SITE.sh"
  fi
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
  gpus=()
  # One GPU per rank where the job has GPUs; SLURM_LOCALID is never read, the program asks MPI for its place.
  [[ -z ${SLURM_GPUS_ON_NODE:-} ]] || gpus=(--gpus-per-task=1)
  # -K1: a dead rank ends the step (Slurm's default waits for ever); -W 60: so does one that left early.
  exec srun --mpi=pmix -K1 -W 60 -n "$ranks" "${gpus[@]}" "$binary" "$@"
fi

if ! command -v mpirun >/dev/null; then
  echo "run.sh: mpirun not found; run launch/deps.sh" >&2
  exit 78
fi
# shellcheck source=/dev/null
source "$root/launch/env/${NMOE_SITE:-local}.sh"
if [[ -z ${OMP_NUM_THREADS:-} ]]; then
  threads=$(($(nproc) / ranks))
  export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi
# Not bound: with 2 ranks mpirun would pin each to one core, threads included.
exec mpirun --bind-to none -n "$ranks" "$binary" "$@"
