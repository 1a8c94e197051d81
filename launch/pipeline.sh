#!/usr/bin/env bash
# The whole journey from one config: tokenizer, tokens, base, neurons, experts, two stages, measurements, report.
#
#   launch/pipeline.sh CONFIG [OVERLAY.cfg...] [--target LANG] [--control uniform] [--ranks N] [--workdir DIR]
#                      [--short] [--split tune|test] [--set section.key=value] [--check] [--seed N] [--until STEP]
#
# With [pipeline] base = DIR it starts from that model and makes no tokenizer and no base; [corpus] lang = PATH... is its text.
# With [pipeline] extend_from = RUN the target's experts are added to those of that run (a stage 2 of another target).
# Otherwise expects the text in WORKDIR/corpus, in the layout of tools/prepare_corpus.py. Each finished step leaves a stamp with
# the hash of its settings and inputs: a second run reuses it, a killed run resumes, changed settings start that step
# and those after it anew. Settings are tuned with --split tune and reported with --split test (the default).
# --until STEP ends after tokenize, pretrain, analyze, allocate, stage1, stage2 or specialize; the next run goes on from there.
# --seed N sets train.seed and analysis.seed. NMOE_PYTHON is a Python with h5py, numpy and matplotlib (default Debian's).
# Ctrl-C, TERM and USR1 during a training save a checkpoint and end with 85; a second signal ends at once.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/progress.sh
source "$root/launch/progress.sh"
# shellcheck source=launch/places.sh
source "$root/launch/places.sh"
python=${NMOE_PYTHON:-/usr/bin/python3} # not the first one in PATH: a pyenv or conda python lacks Debian's h5py

usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}
die() {
  echo "pipeline: $1" >&2
  exit "${2:-78}"
}

# ---------------------------------------------------------------- options
configs=() config_options=() report_options=()
target="" control="" ranks=2 work=$builds/pipeline short=0 split=test options_only=0 until=""
while (($#)); do
  case $1 in
    --target | --control | --ranks | --workdir | --split | --set | --seed | --until)
      (($# >= 2)) || die "$1 needs a value" ;;&
    --target) target=$2 && shift ;;
    --control) control=$2 && shift ;;
    --ranks) ranks=$2 && shift ;;
    --workdir) work=$2 && shift ;;
    --split) split=$2 && shift ;;
    --set) config_options+=(--set "$2") && shift ;;
    --seed) config_options+=(--set "train.seed=$2" --set "analysis.seed=$2") && shift ;;
    --until) until=$2 && shift ;;
    --short) short=1 ;;
    --check) report_options+=(--check) ;;
    --options-only) options_only=1 ;; # for quickstart.sh: checks the options and ends
    --help | -h) usage && exit 0 ;;
    -*) die "unknown option '$1' (launch/pipeline.sh --help lists them)" ;;
    *) configs+=("$1") ;;
  esac
  shift
done
((${#configs[@]})) || die "no config file given; try: launch/pipeline.sh configs/quickstart.cfg"
[[ $ranks =~ ^[1-9][0-9]*$ ]] || die "--ranks $ranks: expected a positive number"
[[ -z $control || $control == uniform ]] || die "--control $control: only 'uniform' is known"
[[ " tokenize pretrain analyze allocate stage1 stage2 specialize " == *" ${until:-tokenize} "* ]] ||
  die "--until $until: expected tokenize, pretrain, analyze, allocate, stage1, stage2 or specialize"
[[ $split == test || $split == tune ]] || die "--split $split: expected tune or test"
if ((short)); then
  overlay=${configs[0]%.cfg}-short.cfg
  [[ -f $overlay ]] || die "--short: there is no $overlay beside ${configs[0]}"
  configs+=("$overlay")
fi
for config in "${configs[@]}"; do
  [[ -r $config ]] || die "$config: there is no such file, or it cannot be read"
done
# The tool below checks every key; this one slip is told even where there is no Python yet.
key_of() { sed -n "/^\[pipeline\]/,/^\[/s/^$1 *= *//p" "${configs[@]}" | tail -n 1 | tr ',' ' '; }
if [[ -n $target && " $(key_of languages) " != *" $target "* ]]; then
  die "target language '$target' is not one of [pipeline] languages = $(key_of languages)"
elif [[ -n $target && " $(key_of replay) " == *" $target "* ]]; then
  die "target '$target' is also a replay language: $(key_of replay)"
fi
((options_only == 0)) || exit 0
mkdir -p "$work" || die "cannot make $work" 70
work=$(cd "$work" && pwd)

# ---------------------------------------------------------------- one run at a time
# The lock passes to the steps: what an earlier run left behind (killed hard) is waited for, never raced.
exec 9>"$work/.lock"
if ! flock -n 9; then
  echo "pipeline: another run is busy in $work; waiting for it to end"
  flock -w 60 9 || die "another run is still busy in $work; stop it or choose another --workdir"
fi

[[ -z $target ]] || config_options+=(--target "$target")
assignments=$("$python" "$root/launch/pipeline_config.py" "${configs[@]}" --work "$work" --split "$split" \
  "${config_options[@]}") || exit $?
source="" vocab_size="" character_coverage="" base="" extend_from="" prompts="" corpus_words=()
eval "$assignments" # source, target, ... and corpus_words: quoted by the tool
logs=$work/logs stamps=$work/.stamps
mkdir -p "$logs" "$stamps/$target" "$logs/$target" "$work/tokens" "$work/$target"
started_in=$PWD
cd "$work"
if ((${#corpus_words[@]})); then # paths of [corpus] are relative to where the user is
  (cd "$started_in" && "$python" "$root/tools/make_corpus.py" --output "$work/corpus" "${corpus_words[@]}") || exit $?
fi
[[ -f corpus/corpus.json ]] || die "no text in $work/corpus; name it in [corpus], or make it with tools/make_corpus.py or\
 tools/prepare_corpus.py --output $work/corpus" 65
[[ -z $base || $until != pretrain ]] || die "--until pretrain: [pipeline] base = $base is a model already, there is no such step"
if [[ -n $base ]]; then
  [[ ! -e base || -L base ]] || die "$work/base is a model that an earlier run made; choose another --workdir for $base"
  ln -sfnT "$base" base
fi
binary=${NMOE_BINARY:-$root/build/release/neuronmoe}
[[ -x $binary ]] || die "$binary is not there; build it with launch/build.sh"
version=$("$binary" --version 2>&1 | head -n 1) || die "$binary --version failed" 70
program=$(sha256sum <"$binary") # a rebuilt program does its steps anew

# ---------------------------------------------------------------- signals
step_pid="" step_kind="" signals=0
# shellcheck disable=SC2317 # called by traps
on_signal() {
  signals=$((signals + 1))
  if [[ -z $step_pid ]]; then
    exit 130
  elif ((signals == 1)) && [[ $step_kind == train ]]; then
    echo "pipeline: saving a checkpoint, then stopping (once more: stop at once)" >&2
    kill -USR1 "$step_pid" 2>/dev/null || true # mpirun passes it on to every rank
  else
    stop_step
  fi
}
# shellcheck disable=SC2317
stop_step() { # politely, then not
  kill -TERM "$step_pid" 2>/dev/null || return 0
  for _ in $(seq 50); do
    kill -0 "$step_pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$step_pid" 2>/dev/null || true
}
trap on_signal INT TERM HUP USR1
trap '[[ -z $step_pid ]] || stop_step' EXIT

# ---------------------------------------------------------------- one step
last_step=$until
[[ $until != tokenize ]] || last_step=tokenize-$split
declare -A keys
timings=()
step_number=0 num_steps=17
[[ -z $base ]] || num_steps=15
[[ -z $control ]] || num_steps=$((num_steps + 5))
[[ -z $extend_from ]] || num_steps=$((num_steps + 1))

# watch LOG: waits for the step; says every ten seconds how far it is, by the newest line of its log; returns its code.
watch() {
  local log=$1 line last="" code=0 shown=$SECONDS began_step=$SECONDS
  while kill -0 "$step_pid" 2>/dev/null; do
    pause 0.2
    ((SECONDS - shown >= ${NMOE_PROGRESS_S:-10})) || continue
    shown=$SECONDS
    # A line of progress is preferred: housekeeping says less.
    line=$(tail -c 4000 "$log" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' |
      awk '{ last = $0 } / ETA / { shown = $0 } END { print shown != "" ? shown : last }' | cut -c1-150) || true
    if [[ -n $line && $line != "$last" ]]; then
      echo "    $line"
      last=$line
    else
      echo "    still running, $((SECONDS - began_step)) s so far"
    fi
  done
  wait "$step_pid" || code=$?
  return "$code"
}

# step NAME KIND OUTPUT "PARENTS" "SETTINGS FILES" COMMAND...
#   KIND  train  writes OUTPUT bit by bit and resumes by itself
#         whole  the program commits OUTPUT by a rename
#         draft  the command writes OUTPUT.draft, which is renamed here
step() {
  local name=$1 kind=$2 output=$3 parents=$4 key parent log code=0 started
  local -a settings
  read -ra settings <<<"$5"
  shift 5
  log=$logs/$name.log
  step_number=$((step_number + 1))
  key=$({
    echo "$name $program"
    for parent in $parents; do echo "${keys[$parent]}"; done
    cat "${settings[@]}"
  } | sha256sum | cut -d' ' -f1)
  keys[$name]=$key
  if [[ -e $output && -f $stamps/$name && $(<"$stamps/$name") == "$key" ]]; then
    echo "reusing:  $name ($output)"
    end_after "$name"
    return
  fi
  rm -f "$stamps/$name"
  if [[ $kind == train && -e $output && -f $stamps/$name.started && $(<"$stamps/$name.started") == "$key" ]]; then
    echo "resuming: $name ($output), step $step_number of $num_steps"
  else
    rm -rf "$output" "$output.draft"
    echo "$key" >"$stamps/$name.started"
    echo "running:  $name, step $step_number of $num_steps"
    rm -f "$log"
  fi
  started=${EPOCHREALTIME/[.,]/}
  step_kind=$kind
  # Own session: a Ctrl-C reaches us alone. Parent-death signal: if we are killed hard, mpirun ends its ranks.
  setpriv --pdeathsig TERM setsid "$@" >>"$log" 2>&1 </dev/null &
  step_pid=$!
  watch "$log" || code=$?
  step_pid=""
  if ((code != 0)); then
    failed "$name" "$log" "$code"
  fi
  [[ $kind != draft ]] || mv -T "$output.draft" "$output"
  [[ -e $output ]] || die "step $name ended well but left no $output; log: $log" 70
  echo "$key" >"$stamps/$name.tmp"
  mv "$stamps/$name.tmp" "$stamps/$name"
  timings+=("$(awk -v a="$started" -v b="${EPOCHREALTIME/[.,]/}" -v n="$name" 'BEGIN{printf "%-22s %8.1f s", n, (b-a)/1e6}')")
  echo "done:     ${timings[-1]}"
  ((signals == 0)) || exit 130 # the step ended before the signal reached it
  end_after "$name"
}

end_after() { # if --until names this step
  if [[ -n $last_step && ${1#"$target"/} == "$last_step" ]]; then
    echo "pipeline: --until $until: done; the same command without it goes on from there"
    exit 0
  fi
}

failed() {
  local name=$1 log=$2 code=$3
  if ((code == 85)); then
    echo "pipeline: $name saved its state on a signal; the same command goes on from there (exit 85)" >&2
    exit 85
  fi
  if ((signals > 0)); then
    echo "pipeline: stopped during $name; the same command goes on from there" >&2
    exit 130
  fi
  tr '\r' '\n' <"$log" | grep -v '^[[:space:]]*$' |
    tail -n 8 | cut -c1-300 >&2 || true
  echo "pipeline: step $name failed with exit code $code; log: $log" >&2
  exit "$code"
}

nmoe() { # nmoe NAME KIND OUTPUT "PARENTS" CONFIG COMMAND OPTIONS...
  local name=$1 kind=$2 output=$3 parents=$4 config=config/$5 files=config/$5
  shift 5
  [[ $name != pretrain ]] || files+=" config/model.json"
  step "$name" "$kind" "$output" "$parents" "$files" \
    "$root/launch/run.sh" "$ranks" "$1" --config "$config" "${@:2}" --output "$output"
}

# The steps that turn one experts.cfg into measurements. $1 = folder, $2 = step that made its experts.cfg
expand() {
  local dir=$1 experts=$2 p=$1
  nmoe "$p/stage1" train "$dir/stage1" "pretrain tokenize-train $experts ${origin[*]}" "$target/stage1.cfg" \
    train --model base --experts "$dir/experts.cfg" --stage 1 --resume auto ${extend_from:+--train.init_from "$extend_from"}
  nmoe "$p/stage2" train "$dir/stage2" "pretrain tokenize-train $p/stage1" "$target/stage2.cfg" \
    train --model base --experts "$dir/experts.cfg" --stage 2 --train.init_from "$dir/stage1" --resume auto
  local stage
  for stage in stage1 stage2; do
    nmoe "$p/eval-$stage" whole "$dir/eval-$stage.json" "pretrain tokenize-$split $p/$stage" "$target/evaluate.cfg" \
      evaluate --model base --resume "$dir/$stage"
  done
}

# ---------------------------------------------------------------- the journey
began=$SECONDS
echo "pipeline: ${configs[*]} in $work: $source + $target, $ranks ranks, measured on '$split' ($version)"
keys[corpus]=$(sha256sum corpus/corpus.json | cut -d' ' -f1)

if [[ -n $base ]]; then # a model of the user's own: what it holds stands for the steps that would have made it
  keys[pretrain]=$({
    sha256sum <base/config.json
    find -L base -maxdepth 1 -type f \( -name '*.safetensors' -o -name '*.h5' -o -name 'tokenizer*' \) -printf '%f %s %T@\n' | sort
  } | sha256sum | cut -d' ' -f1)
  keys[tokenizer]=${keys[pretrain]}
else
  # The settings of the tokenizer are part of its key through this file.
  printf 'vocab_size %s\ncharacter_coverage %s\n' "$vocab_size" "$character_coverage" >config/tokenizer.txt
  # shellcheck disable=SC2016
  step tokenizer draft tokenizer corpus config/tokenizer.txt bash -c '
    mkdir -p tokenizer.draft && exec spm_train --input=corpus/tokenizer.txt --model_prefix=tokenizer.draft/tokenizer \
      --model_type=bpe --byte_fallback=true --vocab_size="$1" --character_coverage="$2" --split_digits=true \
      --normalization_rule_name=identity --unk_id=0 --bos_id=-1 --eos_id=2 --pad_id=-1 --num_threads=1' \
    tokenizer "$vocab_size" "$character_coverage"
fi
for part in train "$split"; do
  nmoe "tokenize-$part" whole "tokens/$part.h5" "corpus tokenizer" "tokenize-$part.cfg" tokenize
done
[[ -n $base ]] || nmoe pretrain train base "tokenizer tokenize-train" pretrain.cfg pretrain --resume auto
origin=() neurons=analyze
if [[ -n $extend_from ]]; then # its neurons are measured on the mixture that it extends
  newest=""
  for manifest in "$extend_from"/step_*/manifest.json "$extend_from"/manifest.json; do
    [[ ! -f $manifest ]] || newest=$manifest
  done
  [[ -n $newest ]] || die "[pipeline] extend_from = $extend_from holds no checkpoint (step_*/manifest.json)" 65
  keys[origin]=$(sha256sum <"$newest" | cut -d' ' -f1)
  origin=(origin) neurons=$target/analyze
  nmoe "$neurons" whole "$target/neurons.h5" "pretrain corpus origin" analyze.cfg analyze --model base --resume "$extend_from"
  nmoe "$target/eval-before" whole "$target/eval-before.json" "pretrain tokenize-$split origin" "$target/evaluate.cfg" \
    evaluate --model base --resume "$extend_from"
else
  rm -f "$target/eval-before.json" "$stamps/$target/eval-before" # of an extension with these names before
  nmoe analyze whole neurons.h5 "pretrain corpus" analyze.cfg analyze --model base
fi
add_to=(${extend_from:+--allocation.neurons "$target/neurons.h5" --allocation.add_to "$extend_from"})
nmoe "$target/allocate" whole "$target/experts.cfg" "$neurons ${origin[*]}" "$target/allocate.cfg" allocate --model base "${add_to[@]}"
dense_parents="pretrain tokenize-$split"
if grep -q '^\[intervention\]' "config/$target/evaluate-dense.cfg"; then # whose neurons are those of neurons.h5
  dense_parents+=" analyze"
fi
nmoe "$target/eval-dense" whole "$target/eval-dense.json" "$dense_parents" "$target/evaluate-dense.cfg" \
  evaluate --model base
expand "$target" "$target/allocate"
prompt_files=(corpus/text/"$split"/{"$source","$target"}.jsonl) prompt_options=()
if [[ -n $prompts ]]; then
  prompt_files=("$prompts") prompt_options=(--lines)
fi
keys[$target/prompt-text]=$(cat "${prompt_files[@]}" | sha256sum | cut -d' ' -f1) || die "no text for prompts: ${prompt_files[*]}" 65
step "$target/prompts" draft "$target/prompts.jsonl" "$target/prompt-text" "config/$target/generate.cfg" \
  "$python" "$root/tools/make_prompts.py" --output "$target/prompts.jsonl.draft" "${prompt_options[@]}" "${prompt_files[@]}"
nmoe "$target/texts-dense" whole "$target/texts-dense.jsonl" "pretrain $target/prompts" "$target/generate.cfg" \
  generate --model base
for stage in stage1 stage2; do
  nmoe "$target/texts-$stage" whole "$target/texts-$stage.jsonl" "$target/prompts $target/$stage" "$target/generate.cfg" \
    generate --model base --resume "$target/$stage"
done
nmoe "$target/specialize" whole "$target/expert_neurons.h5" "corpus $target/stage1" "$target/specialize.cfg" \
  specialize --model base --resume "$target/stage1"
if [[ $control == uniform ]]; then
  mkdir -p "$target/uniform" "$stamps/$target/uniform" "$logs/$target/uniform"
  nmoe "$target/uniform/allocate" whole "$target/uniform/experts.cfg" "$neurons ${origin[*]}" "$target/uniform.cfg" \
    allocate --model base "${add_to[@]}"
  expand "$target/uniform" "$target/uniform/allocate"
  report_options+=(--control "$target/uniform")
fi

step_kind=whole
echo "running:  report, step $num_steps of $num_steps"
code=0
"$python" "$root/tools/report.py" --work "$work" --source "$source" --target "$target" --split "$split" \
  --version "$version" "${report_options[@]}" || code=$?
((${#timings[@]} == 0)) || printf 'time: %s\n' "${timings[@]}"
echo "time: this run took $((SECONDS - began)) s"
((code == 0)) || echo "pipeline: the report ended with exit code $code" >&2
exit "$code"
