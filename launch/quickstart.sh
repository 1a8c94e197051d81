#!/usr/bin/env bash
# From a fresh clone to a measured multilingual mixture of experts: installs what is missing, builds, fetches text,
# runs the journey on 2 CPU cores, prints the result and the path of report.html.
#
#   launch/quickstart.sh [--base DIR] [--target LANG] [--control uniform] [--limit N] [--short] [--ranks N] [--workdir DIR]
#
#   --base DIR         extends the model in DIR, a Hugging Face directory, instead of training one: configs/quickstart-base.cfg
#   --target LANG      language to add: el (default), hu or tr
#   --control uniform  also trains three experts in every layer and prints them beside the result
#   --limit N          items of the continuation task per language (default 200; at most 400)
#   --short            fewer steps (CI): checks inequalities only and fails if one does not hold
#   --workdir DIR      default build/quickstart (-base with --base, -short with --short); a checkout that cannot be
#                      written is built in there, too; an installed one makes neuronmoe-work/ where it is called
# A second run reuses what is done; a killed run resumes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/places.sh
source "$root/launch/places.sh"

work="" short=0 base="" configs=("$root/configs/quickstart.cfg") pipeline_options=()
while (($#)); do
  case $1 in
    --base | --target | --control | --ranks | --limit | --workdir)
      if (($# < 2)); then
        echo "quickstart: $1 needs a value" >&2
        exit 78
      fi ;;&
    --base)
      base=$2 && shift
      if [[ ! -f $base/config.json ]]; then
        echo "quickstart: --base $base: there is no config.json in it; wanted is a Hugging Face directory" >&2
        exit 78
      fi
      configs+=("$root/configs/quickstart-base.cfg")
      pipeline_options+=(--set "pipeline.base=$(cd "$base" && pwd)") ;;
    --target | --control | --ranks) pipeline_options+=("$1" "$2") && shift ;;
    --limit)
      if [[ ! $2 =~ ^[1-9][0-9]*$ ]]; then
        echo "quickstart: --limit $2: expected a positive number" >&2
        exit 78
      fi
      pipeline_options+=(--set "evaluation.limit=$2") && shift ;;
    --workdir) work=$2 && shift ;;
    --short) short=1 && pipeline_options+=(--short --check) ;;
    --help | -h)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0 ;;
    *)
      echo "quickstart: unknown option '$1' (launch/quickstart.sh --help lists them)" >&2
      exit 78 ;;
  esac
  shift
done
if ((installed)); then
  export NMOE_BINARY=${NMOE_BINARY:-$root/build/release/neuronmoe}
elif [[ -e $builds && ! -w $builds || ! -e $builds && ! -w $root ]]; then
  if [[ -z $work ]]; then
    echo "quickstart: $root cannot be written; give a folder with --workdir DIR" >&2
    exit 78
  fi
  [[ $work == /* ]] || work=$PWD/$work # the pipeline runs inside it
  builds=$work/build
fi
if [[ -z $work ]]; then
  work=$builds/quickstart${base:+-base}
  ((short == 0)) || work+=-short
fi
# Wrong options are refused before anything is installed or compiled.
"$root/launch/pipeline.sh" "${configs[@]}" --workdir "$work" "${pipeline_options[@]}" --options-only
if ! mkdir -p "$work" 2>/dev/null || [[ ! -w $work ]]; then
  echo "quickstart: --workdir $work cannot be written" >&2
  exit 70
fi

# NMOE_BINARY: a program built elsewhere; nothing is installed or compiled then.
if [[ -z ${NMOE_BINARY:-} ]]; then
  "$root/launch/deps.sh"
  NMOE_BUILD_ROOT=$builds "$root/launch/build.sh" release neuronmoe
  export NMOE_BINARY=$builds/release/neuronmoe
fi
/usr/bin/python3 "$root/tools/prepare_corpus.py" --output "$work/corpus" --cache "$builds/packages"
# exec: a signal meant for the quickstart must reach the pipeline, which stops the ranks.
exec "$root/launch/pipeline.sh" "${configs[@]}" --workdir "$work" "${pipeline_options[@]}"
