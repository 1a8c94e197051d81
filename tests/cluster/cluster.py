#!/usr/bin/python3
"""slurm/ and launch/run.sh on a Slurm of two virtual nodes with two cores and two GPUs (in name) each: a pipeline as a chain of jobs, a
training that is told to stop and one with a stopped rank go back into the queue and end with the bits of an undisturbed one, wrong
launches end at once. Usage: cluster.py SOURCE_DIR NEURONMOE"""
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE, BINARY = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
sys.path.insert(0, str(SOURCE / "tests/reliability"))
import harness  # noqa: E402

STEPS, WATCHDOG_S = 600, 8
problems = []


def check(condition, what):
    print(("ok     " if condition else "FAILED ") + f"{time.monotonic() - BEGAN:5.0f} s  {what}", flush=True)
    if not condition:
        problems.append(what)
    return condition


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Cluster:
    """The virtual Slurm and what a user does with it."""

    def __init__(self, work):
        self.work = work
        self.script = SOURCE / "tests/cluster/virtual_slurm.sh"
        subprocess.run([self.script, "up", work / "slurm", "2", "2"], check=True, env={**os.environ, "NMOE_KILL_WAIT": "3"})
        lines = subprocess.run(["bash", "-c", f"env -i PATH=$PATH HOME=$HOME bash -c '. {work}/slurm/environment; env'"],
                               capture_output=True, text=True, check=True).stdout.splitlines()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "SLURM_", "SBATCH_", "NMOE_", "OMP_"))}
        self.environment = {**kept, **dict(line.split("=", 1) for line in lines if "=" in line), "NMOE_BINARY": str(BINARY),
                            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def call(self, *command, cwd=None, **variables):
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, cwd=cwd or self.work,
                              env={**self.environment, **variables})

    def submit(self, *options, **variables):
        """The job's number; 2 ranks on one node unless `options` say otherwise, output in job-<number>.out."""
        done = self.call("sbatch", "--parsable", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1",
                         f"--output={self.work}/job-%j.out", *options, **variables)
        if done.returncode != 0:
            raise RuntimeError(f"sbatch {options}: {done.stderr}")
        return int(done.stdout.split(";")[0])

    def show(self, job):
        text = self.call("scontrol", "show", "job", job).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def output(self, job):
        path = self.work / f"job-{job}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, what, test, timeout):
        """Whether test() became true in time."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if test():
                return True
            time.sleep(0.2)
        print(f"       not within {timeout} s: {what}")
        return False

    def ended(self, job, timeout=120):
        """The state in which the job ended for good, with its exit code."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait_for(f"end of job {job}", lambda: self.show(job).get("JobState") in over, timeout)
        shown = self.show(job)
        return shown.get("JobState"), shown.get("ExitCode")

    def down(self):
        self.call("scancel", "--user", str(os.getuid()))
        subprocess.run([self.script, "down", self.work / "slurm"], check=False)


def training(work, output, *more):
    words = harness.training(work, output, STEPS, [*more, "--run.device", "cpu", "--run.watchdog_s", WATCHDOG_S], save_every=50)
    return [str(w) for w in words]


def final_bits(run):
    """Hashes of the last checkpoint; None if there is none."""
    last = run / f"step_{STEPS:010d}"
    return [sha(last / name) for name in ("model.h5", "optim.h5", "state.h5")] if last.is_dir() else None


def has_step(run):
    return any(run.glob("step_*")) if run.is_dir() else False


def ranks_of(output):
    """Process ids by Slurm's rank of the program that writes `output`."""
    return {int(environment[b"SLURM_PROCID"]): pid for pid, command, environment in harness.processes_with(output)
            if command[0] == str(BINARY).encode()}


def signaled(cluster, wanted):
    """What Slurm sends before the time limit."""
    run = cluster.work / "signaled"
    job = cluster.submit("-N", 2, SOURCE / "slurm/run.sbatch", *training(cluster.work, run))
    cluster.wait_for("a first checkpoint", lambda: has_step(run), 60)
    cluster.call("scancel", "--batch", "-s", "USR1", job)
    state = cluster.ended(job)
    log = cluster.output(job)
    check(state == ("COMPLETED", "0:0") and "ended with 85" in log and f"job {job}: done" in log,
          f"USR1 on 2 nodes: saved, requeued, done {state}")
    check(cluster.show(job).get("Restarts") == "1" and final_bits(run) == wanted, "and the bits are those of one run on one rank")
    if state[0] != "COMPLETED" or final_bits(run) != wanted:
        print(log)


def stopped(cluster, wanted):
    """A rank that stops for ever: the watchdog ends the job, which starts again on the other node."""
    run = cluster.work / "stopped"
    job = cluster.submit("-N", 1, SOURCE / "slurm/run.sbatch", *training(cluster.work, run))
    cluster.wait_for("a first checkpoint", lambda: has_step(run), 60)
    first = cluster.show(job).get("NodeList")
    os.kill(ranks_of(run)[1], signal.SIGSTOP)
    state = cluster.ended(job)
    log, shown = cluster.output(job), cluster.show(job)
    check(state == ("COMPLETED", "0:0") and f"ended with 86 after start 0; back into the queue without {first}" in log,
          f"a stopped rank: 86, requeued without {first} {state}")
    check(shown.get("ExcNodeList") == first and shown.get("NodeList") not in (None, first), "the second start is on another node")
    check(final_bits(run) == wanted, "and the bits are those of one run on one rank")
    if problems:
        print(log)


def wrong_launches(cluster):
    check_job = ["check", "--output", cluster.work, "--device", "cpu"]
    jobs = {
        "a GPU that the program cannot have": (cluster.submit(SOURCE / "slurm/run.sbatch", "check", "--output", cluster.work), 78,
                                               "this job has GPUs"),
        "an option that does not exist": (cluster.submit(SOURCE / "slurm/run.sbatch", "check", "--train.stepz", "3"), 78, "stepz"),
        "a pipeline without a folder": (cluster.submit(SOURCE / "slurm/pipeline.sbatch", "toy.cfg"), 78, "--workdir"),
        "srun without PMI": (cluster.submit("--export=ALL,NMOE_MPI=none", SOURCE / "slurm/run.sbatch", *check_job), None, "PMI"),
        "a grid without its array": (cluster.submit(SOURCE / "slurm/pipeline.sbatch", "toy.cfg", "--workdir", "x", "--seed", "1,2"), 78,
                                     "--array=0-1"),
    }
    for what, (job, code, words) in jobs.items():
        state = cluster.ended(job)
        log = cluster.output(job)
        good = state[0] == "FAILED" and (code is None or state[1] == f"{code}:0") and words in log and "back into" not in log
        check(good, f"{what}: {state}")
        if not good:
            print(log)
    done = cluster.call(SOURCE / "launch/run.sh", 1, *check_job, NMOE_SITE="nowhere")
    check(done.returncode == 78 and "sites:" in done.stderr and "local" in done.stderr, "an unknown site: the list of sites")
    done = cluster.call(SOURCE / "launch/run.sh", 1, *check_job, SLURM_JOB_ID="1", NMOE_MPI="mpich")
    check(done.returncode == 78 and "cray_shasta" in done.stderr, "an unknown NMOE_MPI: what there is")


def make_pipeline(work):
    """A model with a tokenizer, text in two languages and the config that extends one by the other."""
    rng = random.Random(3)
    for language, letters in (("en", "etaoinshrdlu"), ("el", "αοιετσνηυρπκ")):
        words = ["".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(60)]
        lines = [" ".join(rng.choices(words, k=rng.randint(6, 14))) for _ in range(240)]
        (work / f"{language}.txt").write_text("".join(line + "\n" for line in lines))
    shutil.copytree(work / "model", work / "base")
    shutil.copy(SOURCE / "tests/golden/tiny_spm.model", work / "base/tokenizer.model")
    (work / "toy.cfg").write_text(f"""[pipeline]
base = {work}/base
source = en
target = el
replay = en
languages = en, el
[corpus]
en = {work}/en.txt
el = {work}/el.txt
[text]
sentences = 20
held_out = 20
[run]
device = cpu
[analysis]
top_k = 10
max_tokens = 64
[allocation]
e_max = 3
[train]
seq_length = 32
micro_batch_size = 2
global_batch_size = 4
learning_rate = 1e-3
save_every = 10
[stage1.train]
steps = 12
[stage1.mix]
target = 100
[stage2.train]
steps = 6
[stage2.mix]
en = 50
target = 50
[generate]
max_tokens = 8
""")


def chain(cluster):
    done = cluster.call(SOURCE / "slurm/chain.sh", "toy.cfg", "--workdir", "run", "--nodes", "2", "--sbatch",
                        "--ntasks-per-node=2 --gpus-per-node=2 --cpus-per-task=1")
    jobs = [int(n) for n in re.findall(r"is job (\d+)", done.stdout)]
    if not check(done.returncode == 0 and len(jobs) == 5, f"chain.sh submits five jobs {done.stderr}"):
        return
    states = [cluster.ended(job, 200) for job in jobs]
    run = cluster.work / "run"
    good = check(all(s == ("COMPLETED", "0:0") for s in states) and (run / "el/report.html").exists(), f"the chain ends with a report {states}")
    if not good:
        print("".join(p.read_text(errors="replace") for p in sorted((run / "logs/slurm").glob("*.out"))))
    failing = cluster.call(SOURCE / "slurm/chain.sh", "toy.cfg", "--workdir", "failing", "--set", "analysis.ap_min=7", "--sbatch",
                           "--ntasks-per-node=2 --gpus-per-node=2 --cpus-per-task=1")
    jobs = [int(n) for n in re.findall(r"is job (\d+)", failing.stdout)]
    return jobs


def failing_chain(cluster, jobs):
    states = [cluster.ended(job)[0] for job in jobs]
    check(states[-1] == "CANCELLED" and "FAILED" in states, f"a chain whose job fails leaves nothing in the queue {states}")


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-cluster-"))
    harness.VOCAB = 512
    harness.make_inputs(work)
    make_pipeline(work)
    reference = subprocess.run([str(BINARY), *training(work, work / "reference")], capture_output=True, text=True, env=harness.ENVIRONMENT)
    wanted = final_bits(work / "reference")
    check(reference.returncode == 0 and wanted is not None, f"a training without Slurm {reference.stderr[-300:] if reference.returncode else ''}")
    cluster = Cluster(work)
    try:
        signaled(cluster, wanted)
        stopped(cluster, wanted)
        wrong_launches(cluster)
        failing_chain(cluster, chain(cluster))
    finally:
        cluster.down()
        if problems or os.environ.get("NMOE_TEST_KEEP"):
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"cluster.py: {len(problems)} problems in {time.monotonic() - BEGAN:.0f} s")
    sys.exit(1 if problems else 0)


BEGAN = time.monotonic()
if __name__ == "__main__":
    main()
