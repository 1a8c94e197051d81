# What a job writes to standard error, without what the launcher adds to an error that the program has told already.
# Used by launch/run.sh. log_file: gets the launcher's words; hang: is made when a rank says that nothing moves.
function is_rule(line) { return length(line) >= 50 && line ~ /^-+$/ } # mawk knows no {50,}
function end_paragraph() {
  if (told || paragraph ~ /non-zero (exit code|status)/) {
    printf "%s", paragraph >log_file
    # Which rank the system killed is told by nobody else.
    if (killed != "") print "run.sh: " killed
  } else {
    printf "%s", paragraph
  }
  fflush()
  inside = 0
  paragraph = killed = ""
}
/^neuronmoe: error/ { told = 1 }
/^neuronmoe: error.*(no progress for [0-9.]+ s|MPI has not started for)/ { printf "" >hang; close(hang) }
is_rule($0) {
  paragraph = paragraph $0 "\n"
  if (inside) end_paragraph(); else inside = 1
  next
}
inside {
  paragraph = paragraph $0 "\n"
  if ($0 ~ /exited on signal/) killed = $0
  next
}
told && (/^\[[^]]*:[0-9]+\] ([0-9]+ more process|Set MCA parameter)/ || /^srun: error: .*Exited with exit code/ ||
         /^(srun|slurmstepd[^:]*): (error: |launch[^ ]* _step_signal: )?([*]* ?STEP|Terminating|Force Terminated|Job step aborted)/) { print >log_file; next }
{ print; fflush() }
END { if (inside) end_paragraph() }
