#!/usr/bin/python3
"""Long checks of what a checkpoint survives; too long for the tests of every change.
Usage: campaign.py MPIEXEC NEURONMOE kills|flips|reshard [NUMBER] [SEED]
  kills    a training that saves at every step is killed at a random moment (a rank, all ranks or mpirun), looked at and resumed,
           until it is done: no checkpoint is torn or lost, and the last bytes are those of an uninterrupted run
  flips    one bit of a file of a checkpoint is flipped: `inspect` says so, and a resume goes back and makes the same bytes again
  reshard  saved on a ranks, resumed on b: the same bytes for all pairs of rank counts and expert-parallel sizes"""
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Program, content_of, fault_in_step, fresh, make_inputs, metric_steps, steps_of, training

STEPS = 200
RESUME = ["--resume", "auto", "--run.watchdog_s", 60]


def uninterrupted(work, steps, more=()):
    run = fresh(work / "whole")
    job = program.run(training(work, run, steps, more, keep_last=1000))
    assert job.code == 0, job.err
    return {step.name: content_of(step) for step in steps_of(run)}


def ranks_of(job):
    found = subprocess.run(["pgrep", "-g", str(job.pid)], capture_output=True, text=True).stdout.split()
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    return [int(p) for p in {*found, *children} if int(p) != job.pid] or [job.pid]


def writers_of(run):
    """Processes that name `run` in their command: what a killed mpirun leaves ends by itself, a moment later."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if str(run).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(int(pid))
        except OSError:
            pass
    return found


def end(job, run):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if job.poll() is not None and not writers_of(run):
            return True
        time.sleep(0.02)
    for pid in writers_of(run):
        os.kill(pid, signal.SIGKILL)
    job.wait()
    return False


def kills(work, number, rng):
    wanted = uninterrupted(work, STEPS)
    done = completed = 0
    faults = []
    while done < number:
        run, ranks, newest = fresh(work / "run"), rng.choice((1, 2)), 0
        while True:
            job = program.start(training(work, run, STEPS, RESUME), ranks)
            deadline = time.monotonic() + 0.2 + rng.random() * 1.2
            while time.monotonic() < deadline and job.poll() is None:
                time.sleep(0.005)
            if job.poll() is not None:
                if job.returncode != 0:
                    faults.append(f"a resumed run ended with {job.returncode}")
                break
            victims = ranks_of(job)
            for victim in rng.choice(([rng.choice(victims)], victims, [job.pid])):
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not end(job, run):
                faults.append("something survived a kill for 30 s")
            done += 1
            steps = steps_of(run)
            for step in steps:
                fault = fault_in_step(step) or ("" if content_of(step) == wanted[step.name] else "differs")
                if fault:
                    faults.append(f"{step.name}: {fault}")
            last = int(steps[-1].name[5:]) if steps else 0
            if last < newest:
                faults.append(f"step {newest} was lost, {last} is left")
            newest = last
        completed += 1
        if steps_of(run)[-1].name != f"step_{STEPS:010d}" or metric_steps(run) != list(range(1, STEPS + 1)):
            faults.append("the end of a run is not that of the uninterrupted one")
        print(f"kills: {done} of {number}, {completed} runs completed, {len(faults)} faults", flush=True)
    return faults


def flips(work, number, rng):
    steps = 4
    wanted = uninterrupted(work, steps)
    faults = []
    for i in range(number):
        run = fresh(work / "run")
        shutil.copytree(work / "whole", run)
        last = steps_of(run)[-1]
        file = rng.choice(sorted(last.iterdir()))
        content = bytearray(file.read_bytes())
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        what = f"{file.name} bit {bit}"
        if program.run(["inspect", last]).code != 65:
            faults.append(f"{what}: inspect sees nothing")
        if program.run(training(work, run, steps, ["--resume", last], keep_last=1000)).code != 65:
            faults.append(f"{what}: --resume STEP takes it")
        job = program.run(training(work, run, steps, RESUME, keep_last=1000))
        if job.code != 0 or content_of(steps_of(run)[-1]) != wanted[last.name]:
            faults.append(f"{what}: --resume auto ends with {job.code} or other bytes")
        if (i + 1) % 20 == 0:
            print(f"flips: {i + 1} of {number}, {len(faults)} faults", flush=True)
    return faults


def reshard(work, _number, _rng):
    steps = 4
    wanted = uninterrupted(work, steps)[f"step_{steps:010d}"]
    layouts = [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1), (4, 2), (4, 4)]
    faults, pairs = [], 0
    for before, after in itertools.product(layouts, layouts):
        if before == after:
            continue
        run = fresh(work / "run")
        for (ranks, expert_parallel), until in ((before, 2), (after, steps)):
            more = ["--train.expert_parallel_size", expert_parallel, "--resume", "auto"]
            job = program.run(training(work, run, steps, more, keep_last=1000), ranks)
            for step in steps_of(run):  # the first half of the run is what the second layout finds
                if int(step.name[5:]) > until:
                    shutil.rmtree(step)
            if job.code != 0:
                faults.append(f"{before} -> {after}: exit code {job.code}: {job.errors}")
        pairs += 1
        if content_of(steps_of(run)[-1]) != wanted:
            faults.append(f"{before} -> {after}: other bytes")
    print(f"reshard: {pairs} pairs, {len(faults)} faults")
    return faults


program = Program(sys.argv[1], sys.argv[2])
KIND = {"kills": kills, "flips": flips, "reshard": reshard}[sys.argv[3]]
NUMBER = int(sys.argv[4]) if len(sys.argv) > 4 else 200
with tempfile.TemporaryDirectory(prefix="nmoe-campaign-") as directory:
    make_inputs(Path(directory))
    found = KIND(Path(directory), NUMBER, random.Random(int(sys.argv[5]) if len(sys.argv) > 5 else 1))
if found:
    sys.exit(f"campaign.py {sys.argv[3]}: {len(found)} faults:\n" + "\n".join(found[:50]))
print(f"campaign.py {sys.argv[3]}: no fault")
