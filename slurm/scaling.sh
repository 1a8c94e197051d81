#!/usr/bin/env bash
# A scaling study in one command: the same short training on several numbers of nodes, one Slurm job each, or without
# Slurm on several numbers of ranks of this machine, one after another. tools/scaling_report.py makes its table.
#
#   slurm/scaling.sh 1 2 4 8 16 [--strong|--weak] [--repeat 3] [--steps 20] [--ranks-per-node 4] [--machine FILE] [--output DIR]
#                    [--time T] [--account A] [--partition P] [--sbatch "OPTIONS"] [--local] [--dry-run] -- TRAIN OPTIONS
#
# --strong, the default, keeps the batch of TRAIN OPTIONS; --weak takes it for the smallest number and as much more for the others.
# --repeat runs each as often; the report leaves the first 3 of --steps out. --ranks-per-node are GPUs too; without Slurm, or with
# --local, each number is one of ranks. --machine is a file of configs/machines that `plan` predicts with. --output is a new
# folder (runs/scaling). --dry-run says what it would run. TRAIN OPTIONS are those of `train` without --output. A job has its
# nodes for itself; SBATCH_ACCOUNT and SBATCH_PARTITION work as always, --sbatch has more options, and they win.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() {
  echo "scaling.sh: $*" >&2
  exit 78
}
is_count() { [[ $1 =~ ^[1-9][0-9]{0,6}$ ]]; }

counts=() options=()
sbatch=()
mode=strong repeat=3 steps=20 ranks_per_node=4 machine='' output=runs/scaling local=0 dry_run=0
while (($#)); do
  case $1 in
    --) shift; options=("$@"); break ;;
    --strong | --weak) mode=${1#--} ;;
    --local) local=1 ;;
    --dry-run) dry_run=1 ;;
    --repeat | --steps | --ranks-per-node | --machine | --output | --time | --account | --partition | --sbatch)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --repeat) repeat=$2 ;;
        --steps) steps=$2 ;;
        --ranks-per-node) ranks_per_node=$2 ;;
        --machine) machine=$2 ;;
        --output) output=$2 ;;
        --time | --account | --partition) sbatch+=("$1=$2") ;;
        --sbatch) read -ra words <<<"$2" && sbatch+=("${words[@]}") ;;
      esac
      shift ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) is_count "$1" || die "'$1' is neither a number of nodes nor an option; see slurm/scaling.sh --help"
      counts+=("$1") ;;
  esac
  shift
done
((${#counts[@]})) || die "name the numbers of nodes, for example: slurm/scaling.sh 1 2 4 -- --config ..."
((${#options[@]})) || die "what to train is missing: options of train behind --"
for value in "$repeat" "$steps" "$ranks_per_node"; do
  is_count "$value" || die "--repeat, --steps and --ranks-per-node are whole numbers from 1 on, not '$value'"
done
((steps > 4)) || die "--steps $steps leaves nothing after the first 3, which warm up; at least 5"
mapfile -t counts < <(printf '%s\n' "${counts[@]}" | sort -nu)
for option in "${options[@]}"; do
  case $option in
    --output | --output=* | --run.output | --run.output=*) die "--output is the study's, before the --" ;;
  esac
done
[[ -z $machine || -f $machine ]] || die "--machine $machine is not there"
binary=${NMOE_BINARY:-$root/build/release/neuronmoe}
[[ -x $binary ]] || die "$binary is not there; build it with launch/build.sh or set NMOE_BINARY"
export NMOE_BINARY=$binary
[[ ! -e $output ]] || die "$output exists; give the study another --output, or remove it"
command -v sbatch >/dev/null || local=1
((!local)) || ranks_per_node=1 # a number is one of ranks then

# The batch as train will read it.
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
resolved=$("$binary" train "${options[@]}" --print-config 2>"$messages") || { code=$?; cat "$messages" >&2; exit "$code"; }
setting() { awk -v key="$1" '/^\[/{section=$0} section=="[train]" && $1==key {print $3}' <<<"$resolved"; }
global=$(setting global_batch_size) micro=$(setting micro_batch_size) parallel=$(setting expert_parallel_size)

# batch_of COUNT: sets `batch` and `fed`, its largest micro-batch that leaves no rank idle.
batch_of() {
  local ranks=$(($1 * ranks_per_node))
  batch=$global
  [[ $mode == strong ]] || batch=$((global * $1 / counts[0])) # whole, as every rank of the smallest has a part of it
  ((batch % ranks == 0)) ||
    die "$1: a batch of $batch sequences leaves some of $ranks ranks idle; make --train.global_batch_size a multiple of $ranks, or leave $1 out"
  ((ranks % parallel == 0)) || die "$1: $ranks ranks are no multiple of train.expert_parallel_size = $parallel"
  local of_rank=$((batch / ranks))
  fed=$((micro < of_rank ? micro : of_rank))
  while ((of_rank % fed)); do fed=$((fed - 1)); done
}
for count in "${counts[@]}"; do batch_of "$count"; done # a mistake shows before the first job

# write_point DIR COUNT REPEAT: what is run there, for the job and for the report.
write_point() {
  local dir=$1 count=$2 ranks=$(($2 * ranks_per_node)) fixed
  mkdir -p "$dir"
  fixed=(--train.global_batch_size "$batch" --train.micro_batch_size "$fed" --train.steps "$steps" --train.epochs 0
    --train.warmup_steps 0)
  cat >"$dir/point.json" <<JSON
{"mode": "$mode", "nodes": $((local ? 1 : count)), "ranks": $ranks, "repeat": $3, "global_batch_size": $batch, "micro_batch_size": $fed, "slurm": $((!local))}
JSON
  # shellcheck disable=SC2016  # job.sh expands it
  {
    echo "#!/usr/bin/env bash"
    printf 'cd %q || exit 70\n' "$PWD"
    printf 'export NMOE_BINARY=%q\n' "$binary"
    ((!local)) || printf 'export OMP_NUM_THREADS=%q\n' "$threads"
    printf '[[ -z ${SLURM_JOB_ID:-} ]] || echo "$SLURM_JOB_ID" >%q\n' "$dir/job_id"
    printf '%q ' "$root/launch/run.sh" "$ranks" train ${machine:+--config "$machine"} "${options[@]}" "${fixed[@]}" \
      --train.save_every 0 --resume none --output "$dir/run"
    printf '\ncode=$?\necho $code >%q\nexit $code\n' "$dir/exit_code"
  } >"$dir/job.sh"
  # What is predicted does not depend on the repeat, but a folder should stand alone.
  "$binary" plan ${machine:+--config "$machine"} "${options[@]}" "${fixed[@]}" --machine.nodes "$((local ? 1 : count))" \
    --machine.gpus_per_node "$((local ? count : ranks_per_node))" --plan.format json >"$dir/plan.json" 2>"$dir/plan.log" ||
    echo "scaling.sh: no prediction for $count: $(tail -n 1 "$dir/plan.log")" >&2
}

threads=${OMP_NUM_THREADS:-$(($(nproc) / counts[-1] > 0 ? $(nproc) / counts[-1] : 1))} # as many on every number of ranks
if ((!dry_run)); then
  mkdir -p "$output"
  output=$(cd "$output" && pwd)
fi
failed=0
for ((r = 1; r <= repeat; ++r)); do # repeat by repeat: what changes on the machine meets every number
  for count in "${counts[@]}"; do
    batch_of "$count"
    dir=$output/$mode-n$count-r$r
    what="$mode, $count $( ((local)) && echo "ranks, $threads threads each" || echo "nodes x $ranks_per_node ranks"), repeat $r: batch $batch, micro-batch $fed, $steps steps"
    if ((dry_run)); then
      echo "$what"
      continue
    fi
    write_point "$dir" "$count" "$r"
    if ((local)); then
      code=0
      bash "$dir/job.sh" >"$dir/log" 2>&1 || code=$?
      echo "$what: ended with $code"
      ((code == 0)) || failed=1
    else
      job=$(sbatch --parsable --nodes="$count" --ntasks-per-node="$ranks_per_node" --gpus-per-node="$ranks_per_node" \
        --exclusive --no-requeue --job-name="nmoe-$mode-n$count" --output="$dir/log" "${sbatch[@]}" "$dir/job.sh") ||
        die "sbatch refused $what; jobs before it are in the queue"
      echo "${job%%;*}" >"$dir/job_id"
      echo "$what: job ${job%%;*}"
    fi
  done
done
((!dry_run)) || exit 0
if ((local)); then
  python3 "$root/tools/scaling_report.py" "$output"
  exit "$failed"
fi
echo "when they have ended: tools/scaling_report.py $output"
