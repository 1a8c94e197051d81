#!/usr/bin/env bash
# Runs neuronmoe on N ranks:  launch/run.sh N COMMAND [OPTIONS...]
# srun inside a Slurm job, mpirun elsewhere; the same binary, the same options. Ends with the program's exit code: where
# the launcher loses it (srun does when it has to kill the other ranks), it is read from exit.json and from the messages.
#   NMOE_BINARY   the program             (default build/release/neuronmoe)
#   NMOE_SITE     launch/env/<site>.sh    (default local without Slurm, none with it)
#   NMOE_MPI      pmix, pmi2, cray_shasta or none: what srun offers to the program's MPI (default pmix)
#   NMOE_SRUN_OPTIONS, NMOE_MPIRUN_OPTIONS  more options of the launcher, in words; they win
#   NMOE_HOSTFILE the hosts, for mpirun   (default $PBS_NODEFILE inside a PBS job, else this machine)
#   OMP_NUM_THREADS  threads per rank     (default: the cores of a node divided by its ranks)
#   NMOE_VERDICT  a file that gets a copy of the exit.json of a run that failed
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
refuse() {
  echo "run.sh: $1" >&2
  exit 78
}

[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || refuse "usage: launch/run.sh N COMMAND [OPTIONS...]   (N = number of ranks)"
ranks=$1
shift
binary=${NMOE_BINARY:-$root/build/release/neuronmoe}
[[ -x $binary ]] || refuse "$binary is not there; build it with launch/build.sh or set NMOE_BINARY"

in_slurm=0
[[ -z ${SLURM_JOB_ID:-} ]] || in_slurm=1
site=${NMOE_SITE:-}
((in_slurm)) || site=${site:-local}
if [[ -n $site ]]; then
  file=$root/launch/env/$site.sh
  if [[ ! -r $file ]]; then
    sites=$(cd "$root/launch/env" && printf '%s ' *.sh)
    refuse "NMOE_SITE=$site: there is no launch/env/$site.sh; sites: ${sites//.sh/}"
  fi
  # shellcheck source=/dev/null
  source "$file"
fi

read -ra srun_options <<<"${NMOE_SRUN_OPTIONS:-}"
read -ra mpirun_options <<<"${NMOE_MPIRUN_OPTIONS:-}"
if ((in_slurm)); then
  mpi=${NMOE_MPI:-pmix}
  [[ $mpi == pmix || $mpi == pmi2 || $mpi == cray_shasta || $mpi == none ]] ||
    refuse "NMOE_MPI=$mpi: expected pmix (Open MPI), pmi2 (MPICH), cray_shasta (Cray MPICH) or none"
  nodes=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES:-1}}
  per_node=$(((ranks + nodes - 1) / nodes))
  # srun does not inherit it from the job since Slurm 22.05: without it every rank has one core.
  cores=${SLURM_CPUS_PER_TASK:-$((${SLURM_CPUS_ON_NODE:-1} / per_node))}
  ((cores > 0)) || cores=1
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores} OMP_PLACES=${OMP_PLACES:-cores} OMP_PROC_BIND=${OMP_PROC_BIND:-close}
  # -K1: a dead rank ends the step (Slurm's default waits for ever); -W 60: so does one that left early.
  launch=(srun "--mpi=$mpi" -K1 -W 60 -n "$ranks" "--cpus-per-task=$cores" --cpu-bind=cores)
  if [[ -n ${SLURM_GPUS_ON_NODE:-} && $SLURM_GPUS_ON_NODE != 0 ]]; then
    # Every rank sees all GPUs of its node and takes its own: one that is hidden from its neighbors cannot copy to them.
    unset SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU
    launch+=("--gpus-per-node=$SLURM_GPUS_ON_NODE" --gpu-bind=none)
  fi
  launch+=("${srun_options[@]}")
else
  command -v mpirun >/dev/null || refuse "mpirun not found; run launch/deps.sh"
  hosts=${NMOE_HOSTFILE:-${PBS_NODEFILE:-}} num_hosts=1
  bind=(--bind-to none) # with 2 ranks Open MPI would pin each to one core, threads included
  pass=(-x)
  case $(mpirun --version 2>/dev/null) in
    *HYDRA* | *Hydra* | *Intel*) bind=(-bind-to none) pass=(-genvlist) ;;
  esac
  launch=(mpirun "${bind[@]}" -n "$ranks")
  if [[ -n $hosts ]]; then
    [[ -r $hosts ]] || refuse "the list of hosts $hosts is not there or cannot be read"
    num_hosts=$(awk '!/^[[:space:]]*(#|$)/ { print $1 }' "$hosts" | sort -u | wc -l)
    ((num_hosts > 0)) || refuse "the list of hosts $hosts names no host"
    # By host, not by slot: a node of GPUs has a rank for each, whatever its number of cores.
    if [[ ${pass[0]} == -x ]]; then
      launch+=(--hostfile "$hosts" --map-by "ppr:$(((ranks + num_hosts - 1) / num_hosts)):node")
    else
      launch+=(-f "$hosts" -ppn "$(((ranks + num_hosts - 1) / num_hosts))")
    fi
  fi
  if [[ -z ${OMP_NUM_THREADS:-} ]]; then
    threads=$(($(nproc) * num_hosts / ranks))
    export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
  fi
  if ((num_hosts > 1)); then # other hosts know nothing of this shell
    names=$(compgen -e | grep -E '^(OMP_|NCCL_|FI_|UCX_|NMOE_|CUDA_|MPICH_|PATH$|LD_LIBRARY_PATH$)' | paste -sd,)
    if [[ ${pass[0]} == -x ]]; then
      for name in ${names//,/ }; do launch+=(-x "$name"); done
    else
      launch+=(-genvlist "$names")
    fi
  fi
  launch+=("${mpirun_options[@]}")
fi

# ---------------------------------------------------------------- where a run says why it ended
output=""
for ((i = 1; i < $#; ++i)); do
  next=$((i + 1))
  [[ ${!i} != --output && ${!i} != --run.output ]] || output=${!next}
done
verdict_of() { [[ -z $output ]] || stat -c '%i %Y' "$output/exit.json" 2>/dev/null || true; } # a rename makes a new one
before=$(verdict_of)

# ---------------------------------------------------------------- the launcher, its words, its signals
# shellcheck source=launch/launcher_words.sh
source "$root/launch/launcher_words.sh"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/neuronmoe-run.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
patience="" # Slurm ends what it has started
((in_slurm)) || patience=${NMOE_MPIRUN_PATIENCE_S:-40}
launcher_log=${NMOE_LAUNCHER_LOG:-${TMPDIR:-/tmp}/neuronmoe-launcher-$(id -u).log}
mkfifo "$scratch/words"
: >"$launcher_log" || launcher_log=/dev/null
# Once the program has said what is wrong, the launcher's paragraphs about it go to the log.
launcher_words "$launcher_log" "$scratch/hang" "$scratch/job" "$patience" <"$scratch/words" &
words=$!
guard=() # if this script is killed hard, the launcher goes too
! command -v setpriv >/dev/null || guard=(setpriv --pdeathsig TERM)
env --default-signal=INT,QUIT "${guard[@]}" "${launch[@]}" "$binary" "$@" <&0 2>"$scratch/words" &
job=$!
echo "$job" >"$scratch/job"
for signal in USR1 TERM INT HUP; do
  # shellcheck disable=SC2064 # the signal of now
  trap "kill -$signal $job 2>/dev/null || true" "$signal"
done
code=0
while :; do
  { wait "$job" && code=0 || code=$?; } 2>/dev/null # bash would say "Killed" of a launcher that is
  kill -0 "$job" 2>/dev/null || break # else a signal ended the wait
done
{ wait "$job" && code=0 || code=$?; } 2>/dev/null
rm -f "$scratch/job"
# The last words are waited for, but not those of a process on a host that nobody reaches.
for _ in $(seq 30); do
  kill -0 "$words" 2>/dev/null || break
  sleep 0.1
done
kill -KILL "$words" 2>/dev/null || true

if ((code != 0)); then
  if [[ -n $(verdict_of) && $(verdict_of) != "$before" ]]; then
    said=$(sed -n 's/^ *"code": *\([0-9]*\).*/\1/p' "$output/exit.json" | head -n 1)
    [[ -z ${NMOE_VERDICT:-} ]] || cp "$output/exit.json" "$NMOE_VERDICT"
    code=${said:-$code}
  elif [[ -e $scratch/hang ]]; then
    code=86 # a rank hung in a command that writes no exit.json
  fi
fi
exit "$code"
