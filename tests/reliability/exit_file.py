#!/usr/bin/python3
"""exit.json of a training says why it ended: the ranks that were absent when the watchdog fired, an error, a signal; a run that ends well
leaves none. A second job on the same output is refused and leaves the first one's alone. Usage: exit_file.py MPIEXEC NEURONMOE"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Program, fresh, make_inputs, processes_with, steps_of, training

WATCHDOG_S = 6
failures = []


def check(condition, what):
    print(("ok     " if condition else "FAILED ") + what, flush=True)
    if not condition:
        failures.append(what)


def verdict(run):
    path = run / "exit.json"
    return json.loads(path.read_text()) if path.exists() else None


def wait_for_step(run, job, step=2):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and job.poll() is None:
        if any(int(s.name[5:]) >= step for s in steps_of(run)):
            return
        time.sleep(0.05)
    check(False, f"step {step} came (exit code {job.poll()})")


def ranks_of(run):
    """Process ids by rank of the training that writes `run`."""
    rank = b"OMPI_COMM_WORLD_RANK"
    return {int(environment[rank]): pid for pid, _, environment in processes_with(run) if rank in environment}


def stopped_rank(work):
    run = work / "stopped"
    job = program.start(training(work, run, 100000, ["--run.watchdog_s", WATCHDOG_S], save_every=1), 3)
    wait_for_step(run, job)
    os.kill(ranks_of(run)[1], signal.SIGSTOP)
    began = time.monotonic()
    code = job.wait(60)
    check(code == 86 and time.monotonic() - began < 3 * WATCHDOG_S + 10, f"a stopped rank: 86 in time (got {code})")
    found = verdict(run) or {}
    check(found.get("code") == 86 and [a["rank"] for a in found["absent_ranks"]] == [1] and found["absent_ranks"][0]["host"] == os.uname()[1]
          and found["step"] >= 2 and "rank 1" in found["reason"] and found["num_ranks"] == 3
          and found["ranks_not_waiting"] == [], f"exit.json names the stopped rank: {found}")
    check(not list(run.glob(".waiting*")), "nothing is left of the roll call")
    again = program.run(training(work, run, steps_last(run) + 1, save_every=0), 2)
    check(again.code == 0 and verdict(run) is None and not (run / ".lock").exists(),
          f"the next run takes the lock over and leaves neither lock nor exit.json: {again.code} {again.err[-300:]}")


def steps_last(run):
    return int(steps_of(run)[-1].name[5:])


def errors_and_signals(work):
    run = work / "run"
    job = program.start(training(work, run, 100000, save_every=1), 2)
    wait_for_step(run, job)
    second = program.run(training(work, run, 5), 1)
    check(second.code == 78 and "is being written by process" in second.err and verdict(run) is None,
          f"a second job: 78, and no word of it in the run ({second.code})")
    subprocess.run(["kill", "-USR1", str(job.pid)], check=True)
    code = job.wait(60)
    found = verdict(run) or {}
    check(code == 85 and found.get("code") == 85 and found["step"] == steps_last(run) and found["absent_ranks"] == [],
          f"saved on a signal: {code}, {found}")
    failed = program.run(training(work, run, steps_last(run) + 1, ["--train.top_k", 1]), 2)
    found = verdict(run) or {}
    check(failed.code == 78 and found.get("code") == 78 and "train.top_k" in found["reason"], f"an error: {failed.code}, {found}")
    absent = fresh(work / "absent")
    failed = program.run(["train", "--model", work / "nowhere", *training(work, absent, 1)[3:]], 1)
    check(failed.code == 65 and not absent.exists(), "a run that never began leaves no directory")


with tempfile.TemporaryDirectory(prefix="nmoe-exit-") as directory:
    program = Program(sys.argv[1], sys.argv[2])
    make_inputs(Path(directory))
    stopped_rank(Path(directory))
    errors_and_signals(Path(directory))
if failures:
    sys.exit(f"exit_file.py: {len(failures)} failed")
