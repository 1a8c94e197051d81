#!/usr/bin/python3
"""A system call of one rank fails while a file is written: the job ends within seconds with 70 or 75 and the reason, older
checkpoints stay, and the same command goes on to the same bytes. Usage: io_faults.py MPIEXEC NEURONMOE IO_FAULTS_SO SOURCE [--all]
Without --all a choice of a minute; with it every combination."""
import errno
import itertools
import sys
import tempfile
from pathlib import Path

from harness import Program, content_of, fault_in_step, fresh, make_inputs, steps_of, training

LIMIT_S = 10.0
WATCHDOG_S = 60  # far from LIMIT_S: it must not be what ends the job
REASON = {errno.ENOSPC: (75, "no space"), errno.EDQUOT: (75, "quota"), errno.EIO: (70, "")}
failures, count, by_watchdog = [], 0, 0


def check(what, job, code, word, *problems):
    global count, by_watchdog
    count += 1
    by_watchdog += job.code == 86
    problems = [p for p in problems if p]
    if job.code != code:
        problems.append(f"exit code {job.code}, expected {code}")
    if not job.errors or not any(word in line.lower() for line in job.errors):
        problems.append(f"no error line with '{word}'")
    if job.seconds > LIMIT_S + usual_s:
        problems.append(f"took {job.seconds:.1f} s, at most {LIMIT_S + usual_s:.1f}")
    print(f"{what:100} rc {job.code} {job.seconds:5.1f} s {'ok' if not problems else 'FAILED ' + '; '.join(problems)}", flush=True)
    if problems:
        failures.append(what)
        print(job.err[-2000:])


def inject(fault, log):
    log.unlink(missing_ok=True)
    return {"LD_PRELOAD": str(LIBRARY), "NMOE_FAULT": fault, "NMOE_FAULT_LOG": str(log)}


def damage_of(run, wanted):
    for step in steps_of(run):
        fault = fault_in_step(step)
        if fault:
            return f"{step.name}: {fault}"
        if content_of(step) != wanted[step.name]:
            return f"{step.name} differs from the uninterrupted run"
    return ""


def checkpoints(work, ranks, rank, file, op, number, wanted, nth=1):
    """A fault in the third checkpoint, from the nth such call on."""
    run = fresh(work / "run")
    arguments = training(work, run, 4, ["--run.watchdog_s", WATCHDOG_S], keep_last=10)
    log = work / "fired"
    job = program.run(arguments, ranks, inject(f"op={op},err={number},match=step_0000000003.tmp/{file},rank={rank},nth={nth}", log))
    code, word = REASON[number]
    what = f"checkpoint: {errno.errorcode[number]} in {op} {nth} of {file} on rank {rank} of {ranks}"
    if not log.exists():
        print(f"{what}: no such call")
        return
    there = [s.name for s in steps_of(run)]
    # MPI-IO does not pass a failed close on; the file is synced by an older descriptor, read back and compared all the same.
    if op == "close" and job.code == 0 and len(there) == 4 and not damage_of(run, wanted):
        print(f"{what}: nothing is lost, the run goes on")
        return
    check(what, job, code, word, damage_of(run, wanted), "" if len(there) == 2 else f"steps {there}")
    again = program.run(arguments, ranks)
    if again.code != 0 or damage_of(run, wanted) or len(steps_of(run)) != 4:
        failures.append(what + ", resumed")
        print("FAILED: the resumed run", again.code, damage_of(run, wanted), again.err[-1500:])


def other_files(work, ranks, rank, number):
    code, word = REASON[number]
    for name, arguments, match in (
            ("tokenize", ["tokenize", "--tokenize.tokenizer", SOURCE / "tests/golden/tiny_spm.model", "--tokenize.input",
                          f"en:new:{work / 'text.jsonl'}", "--output", work / "out.h5"], "out.h5.tmp"),
            ("convert", ["convert", work / "model", "--convert.to", "checkpoint", "--output", work / "conv"], "conv.tmp/model.h5")):
        log = work / "fired"
        job = program.run([*arguments, "--run.watchdog_s", WATCHDOG_S], ranks,
                          inject(f"op=pwrite,err={number},match={match},rank={rank}", log))
        if not log.exists():
            print(f"{name}: rank {rank} of {ranks} writes nothing")
            continue
        left = [p.name for p in (work / "out.h5", work / "conv") if p.exists()]
        check(f"{name}: {errno.errorcode[number]} in pwrite on rank {rank} of {ranks}", job, code, word,
              f"left {left}" if left else "")


def main():
    global usual_s
    with tempfile.TemporaryDirectory(prefix="nmoe-io-faults-") as directory:
        work = Path(directory)
        make_inputs(work)
        whole = program.run(training(work, work / "whole", 4, keep_last=10), 2)
        assert whole.code == 0, whole.err
        usual_s = whole.seconds
        wanted = {step.name: content_of(step) for step in steps_of(work / "whole")}
        if EVERYTHING:
            calls = (("pwrite", 1), ("pwrite", 2), ("fsync", 1), ("close", 1), ("close", 2), ("close", 3), ("pread", 1), ("create", 1),
                     ("ftruncate", 1))
            places = [(ranks, rank) for ranks in (1, 2, 3, 4) for rank in (0, 1) if rank < ranks]
            for nth_case, ((ranks, rank), file, call) in enumerate(itertools.product(places, ("model.h5", "optim.h5", "state.h5"), calls)):
                # Every reason for the first write and for one rank, one in turn elsewhere.
                reasons = list(REASON) if ranks == 1 or call == ("pwrite", 1) else [list(REASON)[nth_case % len(REASON)]]
                for number in reasons:
                    checkpoints(work, ranks, rank, file, call[0], number, wanted, call[1])
            for ranks, rank, number in itertools.product((1, 2, 3), (0, 1), REASON):
                if rank < ranks:
                    other_files(work, ranks, rank, number)
        else:
            checkpoints(work, 2, 0, "model.h5", "pwrite", errno.EDQUOT, wanted)
            checkpoints(work, 2, 1, "optim.h5", "pwrite", errno.ENOSPC, wanted)
            checkpoints(work, 3, 1, "optim.h5", "pwrite", errno.EIO, wanted)
            checkpoints(work, 1, 0, "state.h5", "pwrite", errno.EDQUOT, wanted)
            checkpoints(work, 2, 0, "optim.h5", "pread", errno.EIO, wanted)
            other_files(work, 2, 0, errno.ENOSPC)
    print(f"io_faults: {count} faults, {by_watchdog} ended by the watchdog, {len(failures)} failed")
    if failures or by_watchdog or not count:
        sys.exit("io_faults.py failed: " + "; ".join(failures))


program = Program(sys.argv[1], sys.argv[2])
LIBRARY, SOURCE = Path(sys.argv[3]).resolve(), Path(sys.argv[4])
EVERYTHING = "--all" in sys.argv[5:]
usual_s = 0.0
main()
