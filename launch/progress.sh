# Long commands that say how far they are. Sourced by deps.sh, build.sh, evaluate.sh and pipeline.sh.
# shellcheck shell=bash

# pause SECONDS: a sleep that a signal ends. Not `read -t`: a trap that runs inside it makes bash 5.2 abort now and then
# ("longjmp causes uninitialized stack frame").
pause() {
  sleep "$1" 9>&- & # without the pipeline's lock, which would outlive it
  wait "$!" || true
}

# with_progress WHAT LOG COMMAND...: runs the command with its output behind what LOG holds. Every NMOE_PROGRESS_S (10)
# seconds it prints the newest line of LOG and the time so far. Returns the exit code of the command. Ctrl-C and TERM
# are passed on; the script that called it ends with 130, after NMOE_STOP_S (20) seconds even if the command does not.
with_progress() {
  local what=$1 log=$2 pid code=0 line began=$SECONDS shown=$SECONDS stopped=-1
  shift 2
  progress_signal=0
  trap 'progress_signal=1' INT TERM HUP
  # A background command would ignore Ctrl-C otherwise.
  env --default-signal=INT,QUIT "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  while [[ -n $(jobs -pr) ]]; do
    pause 0.3
    if ((progress_signal && stopped < 0)); then
      echo "$what: stopping" >&2
      stopped=$SECONDS
      signal_tree INT "$pid"
    fi
    if ((stopped >= 0 && SECONDS - stopped >= ${NMOE_STOP_S:-20})); then
      signal_tree TERM "$pid"
      echo "$what: it has not ended yet and goes on by itself (process $pid)" >&2
      exit 130
    fi
    ((SECONDS - shown >= ${NMOE_PROGRESS_S:-10})) || continue
    shown=$SECONDS
    line=$(tail -c 2000 "$log" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c1-110) || true
    echo "$what: $((SECONDS - began)) s: $line"
  done
  wait "$pid" || code=$?
  trap - INT TERM HUP
  if ((progress_signal)); then
    echo "$what: stopped; the same command goes on from there" >&2
    exit 130
  fi
  return "$code"
}

# signal_tree SIGNAL PID: to the process and what it started, deepest first; not all of them may be ours (sudo).
signal_tree() {
  local child
  # shellcheck disable=SC2013 # they stand in one line
  for child in $(cat "/proc/$2/task/$2/children" 2>/dev/null); do
    signal_tree "$1" "$child"
  done
  kill "-$1" "$2" 2>/dev/null || true
}
