# Shared by the sbatch files: finds the program, runs a command of the job, decides what its end means. Sourced, not submitted.
# shellcheck shell=bash
set -uo pipefail

# Slurm runs a copy of the sbatch file: where it came from, Slurm knows.
root=${NMOE_ROOT:-}
if [[ -z $root ]]; then
  root=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/^ *Command=\([^ ]*\).*/\1/p')
  root=$(cd "$(dirname "${root:-.}")/.." 2>/dev/null && pwd)
fi
[[ -x $root/launch/run.sh ]] || root=$SLURM_SUBMIT_DIR
if [[ ! -x $root/launch/run.sh ]]; then
  echo "job $SLURM_JOB_ID: neuronmoe was not found; set NMOE_ROOT to its folder (sbatch --export=ALL,NMOE_ROOT=...)" >&2
  exit 78
fi
cd "$SLURM_SUBMIT_DIR" || exit 70

# Puts the job back into the queue, without the nodes $1 (names with commas between; "" for none) if enough others are left.
requeue() {
  local without=$1 old total
  trap '' TERM # Slurm ends this script as soon as the job is requeued; what follows takes a second
  if [[ -z $without ]]; then
    scontrol requeue "$SLURM_JOB_ID"
  else
    old=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.*ExcNodeList=\([^ ]*\).*/\1/p')
    [[ -z $old || $old == "(null)" ]] || without=$old,$without
    total=$(sinfo -h -p "$SLURM_JOB_PARTITION" -o %D | awk '{ n += $1 } END { print n }')
    scontrol requeuehold "$SLURM_JOB_ID"
    if ((total - $(scontrol show hostnames "$without" | sort -u | wc -l) >= SLURM_JOB_NUM_NODES)); then
      for _ in 1 2 3 4 5; do # it may take a moment until the job is pending
        scontrol update "jobid=$SLURM_JOB_ID" "excnodelist=$without" && break
        sleep 0.2
      done
    else
      echo "job $SLURM_JOB_ID: the partition has no node to spare, so the next start may get $without again"
    fi
    scontrol release "$SLURM_JOB_ID"
  fi
  sleep 60 # so that the script is not seen as finished before Slurm ends it
}

# run_job COMMAND...: runs it and ends the job as its exit code says.
#   85 saved on a signal (time is up), or stopped by it in a step that saves nothing: back into the queue
#   86 a rank hung: back into the queue, without the nodes whose ranks gave no sign
#   65 bad data, 78 wrong config and all others: a second try would end the same way, so the job stops
# A job is requeued at most NMOE_MAX_RESTARTS (20) times.
run_job() {
  local code=0 absent="" verdict signaled=0 pid
  verdict=$(mktemp)
  NMOE_VERDICT=$verdict "$@" &
  pid=$!
  trap 'signaled=1; kill -USR1 "$pid" 2>/dev/null' USR1
  trap 'kill -TERM "$pid" 2>/dev/null' TERM
  while :; do
    wait "$pid" && code=0 || code=$?
    kill -0 "$pid" 2>/dev/null || break # else a signal ended the wait
  done
  wait "$pid" && code=0 || code=$?
  trap - USR1 TERM
  ((code != 0)) && { ((signaled && code != 78 && code != 65)) || ((code == 138)); } && code=85
  if ((code == 86)); then
    absent=$(sed -n '/"absent_ranks": \[$/,/\]/s/.*"host": "\([^"]*\)".*/\1/p' "$verdict" | sort -u | paste -sd,)
  fi
  rm -f "$verdict"
  if ((code == 85 || code == 86)); then
    if ((${SLURM_RESTART_COUNT:-0} < ${NMOE_MAX_RESTARTS:-20})); then
      echo "job $SLURM_JOB_ID: ended with $code after start ${SLURM_RESTART_COUNT:-0}; back into the queue${absent:+ without $absent}"
      requeue "$absent"
    else
      echo "job $SLURM_JOB_ID: ended with $code, and was restarted ${SLURM_RESTART_COUNT:-0} times; it stops (NMOE_MAX_RESTARTS)" >&2
    fi
  elif ((code == 0)); then
    echo "job $SLURM_JOB_ID: done"
  else
    echo "job $SLURM_JOB_ID: failed with $code" >&2
  fi
  exit "$code"
}
