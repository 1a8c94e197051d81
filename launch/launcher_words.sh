# What a job writes to standard error, without what the launcher adds to an error that the program has told already. Sourced by
# launch/run.sh. Not awk: some wait for a full buffer before they look at the first line.
# shellcheck shell=bash

# launcher_words LOG HANG JOB_FILE PATIENCE: copies lines from standard input to standard error.
#   LOG       gets the launcher's words
#   HANG      is made when a rank says that nothing moves
#   JOB_FILE  has the launcher's process number as long as it runs
#   PATIENCE  seconds that it has to end after an error, "" for any number: mpirun waits for a host that cannot be reached until TCP
#             gives up, a quarter of an hour
launcher_words() {
  local log=$1 hang=$2 job_file=$3 patience=$4 line told=0 inside=0 paragraph="" killed=""
  trap '' INT TERM HUP USR1 # it ends with the job
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line == "neuronmoe: error"* ]]; then
      if ((!told)) && [[ -n $patience ]]; then
        end_launcher "$job_file" "$patience" </dev/null >/dev/null 2>&1 &
      fi
      told=1
      [[ ! $line =~ no\ progress\ for\ [0-9.]+\ s|MPI\ has\ not\ started\ for ]] || : >"$hang"
    fi
    if [[ ${#line} -ge 50 && -z ${line//-/} ]]; then # a ruler opens or closes a paragraph of Open MPI
      paragraph+=$line$'\n'
      if ((inside)); then
        end_paragraph
      else
        inside=1
      fi
    elif ((inside)); then
      paragraph+=$line$'\n'
      [[ $line != *"exited on signal"* ]] || killed=$line
    elif ((told)) && is_of_launcher "$line"; then
      printf '%s\n' "$line" >>"$log"
    else
      printf '%s\n' "$line" >&2
    fi
  done
  ((!inside)) || end_paragraph
}

end_paragraph() { # of launcher_words, whose variables it uses
  if ((told)) || [[ $paragraph =~ non-zero\ (exit\ code|status) || $paragraph == *"a non-zero exit code"* ]]; then
    printf '%s' "$paragraph" >>"$log"
    [[ -z $killed ]] || printf 'run.sh: %s\n' "$killed" >&2 # which rank the system killed is told by nobody else
  else
    printf '%s' "$paragraph" >&2
  fi
  inside=0 paragraph="" killed=""
}

is_of_launcher() {
  [[ $1 =~ ^\[[^]]*:[0-9]+\]\ ([0-9]+\ more\ process|Set\ MCA\ parameter) || $1 =~ ^srun:\ error:\ .*Exited\ with\ exit\ code ||
    $1 =~ ^(srun|slurmstepd[^:]*):\ (error:\ |launch[^\ ]*\ _step_signal:\ )?(\**\ ?STEP|Terminating|Force\ Terminated|Job\ step\ aborted) ]]
}

end_launcher() { # not by TERM: while it aborts a job, Open MPI's mpirun 4.1.4 crashes on it
  sleep "$2"
  [[ ! -s $1 ]] || kill -KILL "$(<"$1")"
}
