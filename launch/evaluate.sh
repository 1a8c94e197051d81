#!/usr/bin/env bash
# The paper's benchmarks for a model and its checkpoints, as a table like the paper's Tables 1, 3 and 11: text, CSV, PNG.
#
#   launch/evaluate.sh MODEL [[NAME=]CHECKPOINT...] --target LANG [--source LANG] [--preset paper|released] [--benchmarks LIST]
#                      [--data FOLDER|BENCHMARK.LANG=PATH]... [--task BENCHMARK.LANG=NAME]... [--bos auto|yes|no] [--limit N]
#                      [--max-length N] [--ranks N] [--workdir DIR] [--python PYTHON] [--only write|run|read]
#
#   MODEL          Hugging Face directory: the row "dense", and the tokenizer of all rows
#   CHECKPOINT     a run or step directory of `neuronmoe train`: a row named after it, or NAME
#   --preset       shots: paper (ARC 25, HellaSwag 0, Belebele 0, MMLU 5) or released, those of its script (25, 10, 5, 5 or 4)
#   --benchmarks   of arc,belebele,hellaswag,mmlu; default all
#   --data         files of your own in place of the hub's; --task: another task of lm-eval (docs/lm-eval.md)
#   --bos          first token: the tokenizer's rule (auto), always (yes), never (no: lm-eval 0.4.4, and so the paper)
#   --limit N      the first N items of each task
#   --python       one that has lm_eval and transformers (default: NMOE_LM_EVAL_PYTHON, or python3)
#   --only STEP    write: the requests, no model is run; run: the log-likelihoods, without Python; read: the table
# A second run reuses what is done; one that was killed goes on with the row it was at.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/places.sh
source "$root/launch/places.sh"

die() {
  echo "evaluate: $1" >&2
  exit "${2:-78}"
}

# ---------------------------------------------------------------- options
target="" preset=paper bos=auto limit="" max_length="" ranks=1 work=$builds/evaluate only="" places=() task_options=()
lm_python=${NMOE_LM_EVAL_PYTHON:-python3}
while (($#)); do
  case $1 in
    --target | --source | --preset | --benchmarks | --data | --task | --bos | --limit | --max-length | --ranks | --workdir | --python | --only)
      (($# >= 2)) || die "$1 needs a value" ;;&
    --target) target=$2 && task_options+=(--target "$2") && shift ;;
    --preset) preset=$2 && task_options+=(--preset "$2") && shift ;;
    --source | --benchmarks | --data | --task) task_options+=("$1" "$2") && shift ;;
    --bos) bos=$2 && shift ;;
    --limit) limit=$2 && shift ;;
    --max-length) max_length=$2 && shift ;;
    --ranks) ranks=$2 && shift ;;
    --workdir) work=$2 && shift ;;
    --python) lm_python=$2 && shift ;;
    --only) only=$2 && shift ;;
    --help | -h)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0 ;;
    -*) die "unknown option '$1' (launch/evaluate.sh --help lists them)" ;;
    *) places+=("$1") ;;
  esac
  shift
done
((${#places[@]})) || die "no model given; try: launch/evaluate.sh MODEL runs/el/stage1 runs/el/stage2 --target el"
[[ -n $target ]] || die "--target LANG is missing: the language whose benchmarks stand beside the source's"
[[ $preset == paper || $preset == released ]] || die "--preset $preset: expected paper or released"
[[ $bos == auto || $bos == yes || $bos == no ]] || die "--bos $bos: expected auto, yes or no"
[[ -z $only || $only == write || $only == run || $only == read ]] || die "--only $only: expected write, run or read"
[[ $ranks =~ ^[1-9][0-9]*$ ]] || die "--ranks $ranks: expected a positive number"
[[ -z $limit || $limit =~ ^[1-9][0-9]*$ ]] || die "--limit $limit: expected a positive number"
[[ -z $max_length || $max_length =~ ^[1-9][0-9]*$ ]] || die "--max-length $max_length: expected a positive number"
model=${places[0]}
[[ -f $model/config.json ]] || die "$model: there is no config.json in it; wanted is a Hugging Face directory"
names=(dense) checkpoints=("")
for place in "${places[@]:1}"; do
  name=${place%%=*} path=${place#*=}
  [[ $place == *=* ]] || name=$(basename "$path")
  [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || die "$place: a row may be named with letters, digits, '.', '_' and '-'"
  [[ -d $path ]] || die "$path: there is no such directory; a checkpoint is a run or step directory of neuronmoe train"
  [[ " ${names[*]} " != *" $name "* ]] || die "two rows are called $name; name one: $name-2=$path"
  names+=("$name") checkpoints+=("$path")
done
if [[ $only != run ]] && ! "$lm_python" -c 'import lm_eval, transformers' 2>/dev/null; then
  die "$lm_python has no lm_eval and transformers; make a virtual environment, pip install lm_eval==0.4.13 transformers torch there,\
 and give it with --python DIR/bin/python"
fi
binary=${NMOE_BINARY:-$root/build/release/neuronmoe}
[[ $only == write || $only == read || -x $binary ]] || die "$binary is not there; build it with launch/build.sh or set NMOE_BINARY"
mkdir -p "$work/logs" "$work/.stamps" 2>/dev/null || die "cannot make $work" 70
work=$(cd "$work" && pwd)
exec 9>"$work/.lock"
flock -n 9 || die "another evaluation is busy in $work; choose another --workdir"
# shellcheck source=launch/progress.sh
source "$root/launch/progress.sh"

# ---------------------------------------------------------------- steps
# step NAME OUTPUT KEY COMMAND...: unless OUTPUT was made with the same KEY.
step() {
  local name=$1 output=$2 key log=$work/logs/$1.log code=0
  key=$(sha256sum <<<"$3" | cut -d' ' -f1)
  shift 3
  if [[ -e $output && -f $work/.stamps/$name && $(<"$work/.stamps/$name") == "$key" ]]; then
    echo "reusing:  $name ($output)"
    return
  fi
  echo "running:  $name"
  rm -f "$work/.stamps/$name" "$log"
  with_progress "evaluate: $name" "$log" "$@" || code=$?
  if ((code != 0)); then
    tr '\r' '\n' <"$log" | grep -vE -e '^[[:space:]]*$' -e '^-+$' -e '^Primary job ' -e '^a non-zero exit code' -e '^mpirun detected' \
      -e '^the job to be terminated' -e '^ +(Process name|Exit code): ' | tail -n 4 | cut -c1-300 >&2 || true
    die "$name failed with exit code $code; log: $log" "$code"
  fi
  [[ -e $output ]] || die "$name ended well but left no $output; log: $log" 70
  echo "$key" >"$work/.stamps/$name"
}

# identity PATH: changes when what is in the directory does.
identity() {
  find -L "$1" -type f -printf '%P %s %T@\n' | LC_ALL=C sort | sha256sum
}

common=(--benchmarks "$work/tasks/benchmarks.json" --model "$model" --bos "$bos")
[[ -z $limit ]] || common+=(--limit "$limit")
[[ -z $max_length ]] || common+=(--max-length "$max_length")
plugin=("$lm_python" "$root/tools/lm_eval_neuronmoe.py")
requests=$work/requests.jsonl

if [[ -z $only || $only == write ]]; then
  rm -rf "$work/tasks"
  /usr/bin/python3 "$root/tools/benchmark_tasks.py" "${task_options[@]}" --output "$work/tasks" || exit $?
  tokenizer=$(find -L "$model" -maxdepth 1 -type f ! -name '*.safetensors' -exec sha256sum {} + | LC_ALL=C sort)
  step write "$requests" "$(cat "$work"/tasks/*.* "$work"/tasks/data/* 2>/dev/null | sha256sum) ${common[*]} $tokenizer" \
    "${plugin[@]}" write "$requests" "${common[@]}"
fi
[[ -f $requests && -f $work/tasks/benchmarks.json ]] || die "there is no $requests; write the requests first (--only write)" 65
if [[ $only == write ]]; then
  echo "evaluate: requests are in $requests; next, where the program runs: the same command with --only run"
  exit 0
fi

if [[ -z $only || $only == run ]]; then
  asked=$(sha256sum <"$requests") program=$(sha256sum <"$binary")
  for n in "${!names[@]}"; do
    options=(loglikelihood --model "$model" --loglikelihood.requests "$requests" --output "$work/${names[n]}.answers.jsonl")
    [[ -z ${checkpoints[n]} ]] || options+=(--resume "${checkpoints[n]}")
    [[ -z $max_length ]] || options+=(--loglikelihood.max_length "$max_length")
    step "run-${names[n]}" "$work/${names[n]}.answers.jsonl" "$asked $program $max_length $(identity "${checkpoints[n]:-$model}")" \
      "$root/launch/run.sh" "$ranks" "${options[@]}"
  done
fi
if [[ $only == run ]]; then
  echo "evaluate: log-likelihoods are in $work/*.answers.jsonl; next: the same command with --only read"
  exit 0
fi

results=()
for n in "${!names[@]}"; do
  answers=$work/${names[n]}.answers.jsonl
  [[ -f $answers ]] || die "there is no $answers; make it with --only run" 65
  step "read-${names[n]}" "$work/${names[n]}.json" "$(cat "$requests" "$answers" | sha256sum) ${common[*]}" \
    "${plugin[@]}" read "$requests" "$answers" "${common[@]}" --output "$work/${names[n]}.json"
  results+=("${names[n]}=$work/${names[n]}.json")
done
/usr/bin/python3 "$root/tools/benchmark_table.py" "${results[@]}" --text "$work/table.txt" --csv "$work/table.csv" --png "$work/table.png" ||
  exit $?
echo "evaluate: $work/table.txt, table.csv and table.png; items in $work/*.items.jsonl"
