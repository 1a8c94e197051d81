#!/usr/bin/env bash
# Submits a pipeline as a chain of jobs, each of which starts when the one before it has ended well:
# tokenize, pretrain (unless the config has a base), analyze and allocate, stage 1, stage 2, measurements and report.
#
#   slurm/chain.sh CONFIG [OVERLAY.cfg...] --workdir DIR [--target el[,hu...]] [--seed 1[,2...]]
#                  [--nodes N] [--time T] [--account A] [--partition P] [--sbatch "OPTIONS"] [--job "PART OPTIONS"]... [--dry-run]
#
# Other options go to launch/pipeline.sh (--set, --control, --split, --short, --check). --nodes and the rest hold for every
# job; --job "stage1 -N 8 -t 12:00:00" adds options of sbatch for one part: tokenize, pretrain, analyze, stage1, stage2, measure.
# SBATCH_ACCOUNT and SBATCH_PARTITION work as always. Several targets or seeds become an array in DIR/<target>-seed<seed>;
# each task waits for its own. If a job fails, those behind it are canceled, and the same command goes on from there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
die() {
  echo "chain: $1" >&2
  exit "${2:-78}"
}

pipeline=() sbatch=() configs=() workdir="" targets="" seeds="" dry=0
declare -A job_options=()
while (($#)); do
  case $1 in
    --workdir | --target | --seed | --nodes | --time | --account | --partition | --sbatch | --job | --set | --control | --split)
      (($# >= 2)) || die "$1 needs a value" ;;&
    --workdir) workdir=$2 && shift ;;
    --target) targets=$2 && shift ;;
    --seed) seeds=$2 && shift ;;
    --nodes | --time | --account | --partition) sbatch+=("$1=$2") && shift ;;
    --sbatch) read -ra words <<<"$2" && sbatch+=("${words[@]}") && shift ;;
    --job)
      part=${2%% *}
      [[ " tokenize pretrain analyze stage1 stage2 measure " == *" $part "* ]] || die "--job '$2': no part '$part'; see --help"
      job_options[$part]=${2#"$part"} && shift ;;
    --set | --control | --split) pipeline+=("$1" "$2") && shift ;;
    --dry-run) dry=1 ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    --until | --ranks) die "$1 is the chain's own business: a job for each part, a rank for each task" ;;
    -*) pipeline+=("$1") ;;
    *) configs+=("$1") ;;
  esac
  shift
done
((${#configs[@]})) || die "no config file given; try: slurm/chain.sh configs/your-model.cfg --workdir DIR"
[[ -n $workdir ]] || die "pass --workdir DIR, on a file system that all nodes see"
command -v sbatch >/dev/null || die "sbatch is not there: this is for a cluster with Slurm"
# What can be wrong in the options is said now, not by the first job.
for target in ${targets//,/ }; do
  "$root/launch/pipeline.sh" "${configs[@]}" "${pipeline[@]}" --target "$target" --options-only || exit $?
done
[[ -n $targets ]] || "$root/launch/pipeline.sh" "${configs[@]}" "${pipeline[@]}" --options-only || exit $?

mkdir -p "$workdir/logs/slurm"
workdir=$(cd "$workdir" && pwd)
IFS=, read -ra target_list <<<"$targets"
IFS=, read -ra seed_list <<<"$seeds"
grid=$(((${#target_list[@]} > 0 ? ${#target_list[@]} : 1) * (${#seed_list[@]} > 0 ? ${#seed_list[@]} : 1)))
after=afterok pattern=%x-%j.out
if ((grid > 1)); then
  sbatch+=("--array=0-$((grid - 1))") after=aftercorr pattern=%x-%A_%a.out
fi
parts=(tokenize pretrain analyze stage1 stage2 measure)
if sed -n '/^\[pipeline\]/,/^\[/p' "${configs[@]}" | grep -q '^base *= *[^ ]'; then
  parts=(tokenize analyze stage1 stage2 measure)
fi
job=""
for part in "${parts[@]}"; do
  until=(--until "${part/analyze/allocate}")
  [[ $part != measure ]] || until=()
  read -ra own <<<"${job_options[$part]:-}"
  command=(sbatch --parsable "--job-name=nmoe-$part" "--output=$workdir/logs/slurm/$pattern" "--export=ALL,NMOE_ROOT=$root"
    "${sbatch[@]}" "${own[@]}" ${job:+"--dependency=$after:$job" --kill-on-invalid-dep=yes} "$root/slurm/pipeline.sbatch"
    "${configs[@]}" "${pipeline[@]}" --workdir "$workdir" ${targets:+--target "$targets"} ${seeds:+--seed "$seeds"} "${until[@]}")
  if ((dry)); then
    printf '%q ' "${command[@]}" && echo
    job="<$part>"
    continue
  fi
  answer=$("${command[@]}") || die "sbatch refused the job '$part'; those before it are in the queue (scancel ${job:-none})" 70
  job=${answer%%;*}
  echo "chain: $part is job $job"
done
((dry)) || echo "chain: output in $workdir/logs/slurm; squeue --me shows the jobs"
