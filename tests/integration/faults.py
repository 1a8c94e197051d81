#!/usr/bin/python3
"""One rank of three throws, dies, sleeps, stops: the job must end in time with its code, one clear message and
nobody left. Usage: faults.py MPIEXEC GUARD_FAULTS"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid

MPIEXEC, PROGRAM = sys.argv[1:3]
WATCHDOG_S = 3.0
failures = []

# mode: (allowed exit codes, seconds until it must be over, text that stderr holds exactly so many times)
GRACE, START = 5.0, 4.0
CASES = {
    "none": ({0}, START, {"error": 0}),
    "signals_stay_off_computing_threads": ({0}, START, {"error": 0}),
    "configure_fails": ({78}, START, {"neuronmoe: error: a bad config": 1}),
    "throw_everywhere": ({78}, START, {"neuronmoe: error: the same mistake everywhere": 1}),
    "throw_late": ({75}, START + 2, {"the same mistake everywhere": 1}),
    "agreed": ({65}, START, {"rank 1: only rank 1 has a bad file": 1}),
    "agreed_io": ({70}, START, {"rank 1: only rank 1 fails": 1}),
    "agreed_internal": ({70}, START, {"rank 1: only rank 1 fails": 1}),
    "library": ({75}, START + 4, {"error on rank 1 (": 1, "only rank 1 has a full disk": 1}),
    "last_rank_fails_at_the_end": ({70}, START, {"error on rank 1: rank 1 failed": 1}),
    "mismatch": ({70}, START, {"neuronmoe: error: ": 1, "float64": None, "int64": None}),
    "throw_one": ({65}, START + GRACE, {"error on rank 1 (": 1, "rank 1 alone has a bad file": 1}),
    "out_of_memory": ({70}, START + GRACE, {"out of memory": 1}),
    "throw_in_thread": ({70}, START, {"thrown in a thread": 1}),
    # mpirun sees these deaths itself and chooses the code
    "exit_1": (None, START + WATCHDOG_S, {}),
    "underscore_exit": (None, START + WATCHDOG_S, {}),
    "kill": (None, START + WATCHDOG_S, {}),
    "stop": ({86}, WATCHDOG_S + 5, {"no progress for": None, "last collective: all_reduce": None}),
    "stop_at_start": ({86}, WATCHDOG_S + 5, {"MPI has not started for": None}),
    "sleep": ({86}, WATCHDOG_S + 5, {"no progress for": None}),
    "loop": ({86}, WATCHDOG_S + 5, {"no progress for": None}),
    "long_but_alive": ({0}, START + 5, {"no progress": 0}),
}
# The same with the other ranks waiting at memory that they share with rank 1, where no message fails.
SHARED_CASES = {mode: CASES[mode] for mode in
                ("none", "throw_one", "throw_in_thread", "exit_1", "underscore_exit", "kill", "sleep", "loop")}
SHARED_CASES["stop"] = ({86}, WATCHDOG_S + 5, {"no progress for": None, "last collective: all_to_all_v": None})


def survivors(token):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read()
            with open(f"/proc/{pid}/stat") as f:
                state = f.read().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if token.encode() in command and state != "Z":
            found.append(int(pid))
    return found


def run(mode, send=None, on_node="mpi", watchdog_s=WATCHDOG_S, exit_file=()):
    token = "token-" + uuid.uuid4().hex
    begin = time.monotonic()
    job = subprocess.Popen([MPIEXEC, "-n", "3", PROGRAM, mode, str(watchdog_s), on_node, token, *exit_file],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if send is not None:
        time.sleep(1.5)
        job.send_signal(send)
    try:
        _, err = job.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        job.kill()
        _, err = job.communicate()
        err += "\nTIMED OUT after 60 s"
    seconds = time.monotonic() - begin
    time.sleep(0.5)
    left = survivors(token)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return job.returncode, seconds, err, left


def check(mode, codes, limit, texts, send=None, on_node="mpi"):
    rc, seconds, err, left = run(mode, send, on_node)
    problems = []
    if rc not in codes if codes is not None else rc == 0:
        problems.append(f"exit code {rc}, expected {codes or 'not 0'}")
    if seconds > limit:
        problems.append(f"took {seconds:.1f} s, at most {limit:.1f}")
    if left:
        problems.append(f"left processes behind: {left}")
    for text, count in texts.items():
        seen = err.count(text)
        if (seen < 1) if count is None else (seen != count):
            problems.append(f"'{text}' stands {seen} times in stderr, expected {count if count is not None else '1 or more'}")
    mode += " (shared)" if on_node == "shared" else ""
    print(f"{mode:34} rc {rc:4} {seconds:5.1f} s {'ok' if not problems else 'FAILED'}")
    if problems:
        failures.append(mode)
        print("  " + "\n  ".join(problems) + "\n  stderr:\n" + err)


def absent_ranks():
    """A rank that gave signs of life for longer than the others is not called absent."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "exit.json")
        rc, _, err, _ = run("stop_late", watchdog_s=13, exit_file=[path])
        absent = [a["rank"] for a in json.load(open(path))["absent_ranks"]] if os.path.exists(path) else None
        left = [name for name in os.listdir(directory) if name != "exit.json"]
    print(f"{'stop_late':34} rc {rc:4} absent {absent}")
    if rc != 86 or absent != [1] or left:
        failures.append("stop_late")
        print(f"  absent should be [1], nothing left: {left}\n  stderr:\n{err}")


# A busy machine or a sanitizer makes starting and ending slow; that is not what is measured here.
rc, usual_s, _, _ = run("none")
slack_s = 2 * usual_s
for mode, (codes, limit, texts) in CASES.items():
    check(mode, codes, limit + slack_s, texts)
for mode, (codes, limit, texts) in SHARED_CASES.items():
    check(mode, codes, limit + slack_s, texts, on_node="shared")
check("stop_on_signal", {85}, START + 2 + slack_s, {"error": 0}, send=signal.SIGUSR1)
absent_ranks()
if failures:
    sys.exit(f"faults.py: {len(failures)} failed: {' '.join(failures)}")
