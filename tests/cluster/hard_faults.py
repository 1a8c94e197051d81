#!/usr/bin/python3
"""What launch/test.sh --cluster adds to cluster.py: a rank killed in each phase under srun, a time limit, hosts in network namespaces
whose link is cut, a full disk. After each fault the same command goes on and ends with the bits of an undisturbed run.
Needs root, iproute2 and util-linux. Usage: hard_faults.py SOURCE_DIR NEURONMOE"""
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cluster
from cluster import BINARY, SOURCE, STEPS, check, final_bits, has_step, training

NET = "10.77.5"


def processes_of(output):
    """Process ids of the program that writes `output`."""
    return [pid for pid, command, _ in cluster.harness.processes_with(output) if command[0] == str(BINARY).encode()]


def kills(slurm, wanted):
    """SIGKILL of one rank under srun: while it starts, in a step, in a save, at the end."""
    for phase, ready in {"load": lambda run: bool(processes_of(run)), "step": has_step,
                         "save": lambda run: any(run.glob("step_*.tmp")),
                         "end": lambda run: (run / f"step_{STEPS:010d}").is_dir()}.items():
        run = slurm.work / f"killed-{phase}"
        job = slurm.submit("-N", 2, SOURCE / "slurm/run.sbatch", *training(slurm.work, run))
        slurm.wait_for(phase, lambda run=run, ready=ready: ready(run), 60)
        alive = processes_of(run)
        if alive:
            os.kill(random.choice(alive), signal.SIGKILL)
        first = slurm.ended(job)
        again = slurm.ended(slurm.submit("-N", 2, SOURCE / "slurm/run.sbatch", *training(slurm.work, run)))
        check(again == ("COMPLETED", "0:0") and final_bits(run) == wanted, f"a rank killed in {phase} {first}: the next job ends with the same bits")


def time_limit(slurm, wanted_of):
    """Slurm's own signal before the limit of a job that needs several."""
    run = slurm.work / "limited"
    words = training(slurm.work, run)
    words[words.index("--train.steps") + 1] = "60000"
    job = slurm.submit("-N", 1, "-t", "1", "--signal=B:USR1@20", SOURCE / "slurm/run.sbatch", *words)
    state = slurm.ended(job, 900)
    log = slurm.output(job)
    check(state == ("COMPLETED", "0:0") and "ended with 85" in log, f"a limit of one minute: requeued {log.count('ended with 85')} times, done {state}")
    check([cluster.sha(run / "step_0000060000" / name) for name in ("model.h5", "optim.h5", "state.h5")] == wanted_of(words),
          "and the bits are those of one run on one rank")


class Hosts:
    """Two network namespaces with a cable between them, each with its own host name and shared memory."""

    def __init__(self, work):
        self.work = work
        self.down()
        for end in ("a", "b"):
            self.ip("netns", "add", f"nmoe-{end}")
        self.ip("link", "add", "nmoe-a0", "netns", "nmoe-a", "type", "veth", "peer", "name", "nmoe-b0", "netns", "nmoe-b")
        for number, end in enumerate(("a", "b"), 1):
            self.ip("-n", f"nmoe-{end}", "addr", "add", f"{NET}.{number}/24", "dev", f"nmoe-{end}0")
            self.ip("-n", f"nmoe-{end}", "link", "set", f"nmoe-{end}0", "up")
            self.ip("-n", f"nmoe-{end}", "link", "set", "lo", "up")
        (work / "hosts").write_text(f"{NET}.1 slots=2\n{NET}.2 slots=2\n")
        agent = work / "agent.sh"
        agent.write_text('#!/bin/sh\nshift\nexec ip netns exec nmoe-b unshare --uts --mount sh -c '
                         '"hostname nmoe-b; mount -t tmpfs tmpfs /dev/shm; $*"\n')
        agent.chmod(0o755)

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    def link(self, state):
        self.ip("-n", "nmoe-b", "link", "set", "nmoe-b0", state)

    def start(self, output):
        environment = {**cluster.harness.ENVIRONMENT, "NMOE_BINARY": str(BINARY), "NMOE_HOSTFILE": str(self.work / "hosts"),
                       "OMPI_MCA_plm_rsh_agent": str(self.work / "agent.sh"), "OMPI_MCA_oob_tcp_if_include": f"{NET}.0/24",
                       "OMPI_MCA_btl_tcp_if_include": f"{NET}.0/24"}
        with open(self.work / "hosts.out", "a") as out:
            return subprocess.Popen(["ip", "netns", "exec", "nmoe-a", "unshare", "--uts", "sh", "-c", 'hostname nmoe-a; exec "$0" "$@"',
                                     SOURCE / "launch/run.sh", "4", *training(self.work, output)], stdout=out, stderr=out,
                                    stdin=subprocess.DEVNULL, env=environment)

    def down(self):
        for end in ("a", "b"):
            subprocess.run(["ip", "netns", "del", f"nmoe-{end}"], check=False, stderr=subprocess.DEVNULL)


def cut_link(work, wanted):
    hosts = Hosts(work)
    try:
        run = work / "cut"
        job = hosts.start(run)
        while not has_step(run) and job.poll() is None:
            time.sleep(0.1)
        hosts.link("down")
        began = time.monotonic()
        while processes_of(run) and time.monotonic() - began < 120:
            time.sleep(0.2)
        ranks_s = time.monotonic() - began
        try:
            code = job.wait(120)
        except subprocess.TimeoutExpired:
            code = None
            job.kill()
        check(code not in (None, 0) and ranks_s < 60 and time.monotonic() - began < 90,
              f"a cut link: ranks gone after {ranks_s:.0f} s, mpirun after {time.monotonic() - began:.0f} s with {code}")
        hosts.link("up")
        again = hosts.start(run).wait(200)
        check(again == 0 and final_bits(run) == wanted, f"with the link back the same command ends with the same bits ({again})")
    finally:
        hosts.down()
        if cluster.problems:
            print((work / "hosts.out").read_text()[-3000:])


def full_disk(work, wanted):
    disk = work / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1300k", "tmpfs", disk], check=True)
    try:
        run = disk / "run"
        environment = {**cluster.harness.ENVIRONMENT, "NMOE_BINARY": str(BINARY)}
        command = [SOURCE / "launch/run.sh", "4", *training(work, run)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        kept = sorted(p.name for p in run.glob("step_*"))
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        check(done.returncode == 75 and len(lines) == 1 and kept and not any(name.endswith(".tmp") for name in kept),
              f"a full disk: {done.returncode} {lines} {kept}")
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        check(done.returncode == 0 and final_bits(run) == wanted, "with room the same command ends with the same bits")
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def main():
    work = Path(tempfile.mkdtemp(prefix="nmoe-hard-"))
    cluster.harness.make_inputs(work)

    def bits_of(words):
        steps = int(words[words.index("--train.steps") + 1])
        reference, output = work / f"reference-{steps}", words.index("--output") + 1
        subprocess.run([str(BINARY), *words[:output], str(reference), *words[output + 1:]], check=True, capture_output=True,
                       env=cluster.harness.ENVIRONMENT)
        return [cluster.sha(reference / f"step_{steps:010d}" / name) for name in ("model.h5", "optim.h5", "state.h5")]

    wanted = bits_of(training(work, work / "reference"))
    full_disk(work, wanted)
    cut_link(work, wanted)
    slurm = cluster.Cluster(work)
    try:
        kills(slurm, wanted)
        time_limit(slurm, bits_of)
    finally:
        slurm.down()
    print(f"hard_faults.py: {len(cluster.problems)} problems; files: {work}")
    sys.exit(1 if cluster.problems else 0)


if __name__ == "__main__":
    main()
