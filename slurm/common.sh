# Shared by the sbatch files. Sourced, not submitted.
# shellcheck shell=bash
# Needs WORKDIR (the pipeline's folder, with config/*.cfg made by launch/pipeline_config.py) and TARGET.

set -uo pipefail
root=${NMOE_ROOT:-$SLURM_SUBMIT_DIR}
if [[ ! -x $root/launch/run.sh ]]; then
  echo "$0: $root is not the neuronmoe folder; submit from there or set NMOE_ROOT" >&2
  exit 78
fi
if [[ -z ${WORKDIR:-} || -z ${TARGET:-} ]]; then
  echo "$0: pass WORKDIR and TARGET: sbatch --export=ALL,WORKDIR=/path,TARGET=el ..." >&2
  exit 78
fi
cd "$WORKDIR" || exit 70
ranks=${SLURM_NTASKS:?run this file with sbatch}

# Runs one step; decides what its exit code means for the job.
#   85 saved on signal (time is up): back into the queue, at most NMOE_MAX_RESTARTS times
#   86 watchdog (a rank hung): back into the queue too
#   65 bad data, 78 bad config: a second try would end the same way, so the job stops
run_step() {
  local code=0
  "$root/launch/run.sh" "$ranks" "$@" || code=$?
  case $code in
    0) echo "job $SLURM_JOB_ID: $1 done" ;;
    85 | 86)
      if ((${SLURM_RESTART_COUNT:-0} < ${NMOE_MAX_RESTARTS:-20})); then
        echo "job $SLURM_JOB_ID: $1 ended with $code; requeued (restart ${SLURM_RESTART_COUNT:-0})"
        scontrol requeue "$SLURM_JOB_ID"
        # Slurm ends this script; the sleep keeps it from being seen as finished before.
        sleep 60
      fi
      exit "$code" ;;
    *)
      echo "job $SLURM_JOB_ID: $1 failed with $code" >&2
      exit "$code" ;;
  esac
}
