#!/usr/bin/env python3
"""Tests of launch/run.sh and the jobs of slurm/ with launchers that only print what they were asked for."""
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """#!/usr/bin/env bash
if [[ ${1:-} == --version ]]; then echo "mpirun (Open MPI) 4.1.4"; exit 0; fi
printf '%s\\n' "$@" >"$NMOE_TEST_DIR/arguments"
env >"$NMOE_TEST_DIR/environment"
eval "${NMOE_TEST_ACTION:-true}"
"""
RULE = "-" * 74


class RunScript(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="nmoe run ")
        self.dir = Path(self.folder.name)
        for name in ("srun", "mpirun", "program"):
            path = self.dir / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(LAUNCHER)
            path.chmod(0o755)
        drop = ("SLURM_", "NMOE_", "OMP_", "OMPI_", "PBS_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
        self.environment |= {"PATH": f"{self.dir}/bin:{os.environ['PATH']}", "NMOE_TEST_DIR": str(self.dir), "TMPDIR": str(self.dir),
                             "NMOE_BINARY": str(self.dir / "bin/program"), "NMOE_LAUNCHER_LOG": str(self.dir / "launcher.log")}

    def tearDown(self):
        self.folder.cleanup()

    def start(self, *arguments, **variables):
        return subprocess.Popen([ROOT / "launch/run.sh", *map(str, arguments)], env={**self.environment, **variables}, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run_script(self, *arguments, given="", **variables):
        job = self.start(*arguments, **variables)
        out, err = job.communicate(given, timeout=60)
        return job.returncode, out, err

    def arguments(self):
        return (self.dir / "arguments").read_text().splitlines()

    def variable(self, name):
        return dict(line.split("=", 1) for line in (self.dir / "environment").read_text().splitlines() if "=" in line).get(name)

    def test_srun_gets_cores_gpus_and_mpi(self):
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "288", "SLURM_GPUS_ON_NODE": "4",
               "SLURM_GPUS_PER_TASK": "1"}
        self.assertEqual(self.run_script(8, "check", **job, SLURM_CPUS_PER_TASK="72")[0], 0)
        words = self.arguments()
        for word in ("--mpi=pmix", "-K1", "--cpus-per-task=72", "--cpu-bind=cores", "--gpus-per-node=4", "--gpu-bind=none"):
            self.assertIn(word, words)
        self.assertEqual(words[words.index("-n") + 1], "8")
        self.assertEqual(words[-2:], [self.environment["NMOE_BINARY"], "check"])
        self.assertEqual((self.variable("OMP_NUM_THREADS"), self.variable("OMP_PLACES"), self.variable("SLURM_GPUS_PER_TASK")),
                         ("72", "cores", None))
        self.run_script(16, "check", **job, NMOE_MPI="cray_shasta", NMOE_SRUN_OPTIONS="--network=single_node_vni --cpu-bind=none")
        words = self.arguments()
        self.assertIn("--cpus-per-task=36", words)  # its share of the node, where the job names none
        self.assertIn("--mpi=cray_shasta", words)
        self.assertLess(words.index("--cpu-bind=cores"), words.index("--cpu-bind=none"))  # the later one wins
        self.run_script(2, "check", SLURM_JOB_ID="7")
        self.assertFalse([word for word in self.arguments() if "gpu" in word])

    def test_hosts_without_slurm(self):
        hosts = self.dir / "hosts"
        hosts.write_text("node1\nnode1\n# node9\nnode2 slots=4\n")
        for name in ("NMOE_HOSTFILE", "PBS_NODEFILE"):
            code, _, err = self.run_script(8, "check", NCCL_DEBUG="INFO", NMOE_MPIRUN_OPTIONS="--mca pml ucx", **{name: str(hosts)})
            self.assertEqual(code, 0, err)
            words = self.arguments()
            self.assertEqual(words[words.index("--hostfile") + 1], str(hosts))
            self.assertEqual(words[words.index("--map-by") + 1], "ppr:4:node")
            self.assertIn("NCCL_DEBUG", words)
            self.assertIn("ucx", words)
            self.assertIsNone(self.variable("OMPI_MCA_btl"))  # several hosts need a network
        self.run_script(2, "check")
        self.assertNotIn("--hostfile", self.arguments())
        self.assertEqual(self.variable("OMPI_MCA_btl"), "self,vader")
        code, _, err = self.run_script(2, "check", NMOE_HOSTFILE=str(self.dir / "none"))
        self.assertEqual((code, err.count("\n")), (78, 1))

    def test_standard_input_reaches_the_program(self):
        self.assertEqual(self.run_script(1, "tokenize", given="words\n", NMOE_TEST_ACTION="cat")[1], "words\n")

    def test_the_verdict_is_that_of_exit_json(self):
        run = self.dir / "run"
        run.mkdir()
        write = f"echo '{{\n  \"code\": 86,\n  \"absent_ranks\": []\n}}' >'{run}/new' && mv '{run}/new' '{run}/exit.json'; exit 137"
        code, _, _ = self.run_script(2, "train", "--output", run, SLURM_JOB_ID="7", NMOE_TEST_ACTION=write, NMOE_VERDICT=str(self.dir / "v"))
        self.assertEqual(code, 86)
        self.assertEqual(json.loads((self.dir / "v").read_text())["code"], 86)
        (self.dir / "v").unlink()
        # The verdict of an earlier start says nothing about this one.
        code, _, _ = self.run_script(2, "train", "--output", run, SLURM_JOB_ID="7", NMOE_TEST_ACTION="exit 139", NMOE_VERDICT=str(self.dir / "v"))
        self.assertEqual((code, (self.dir / "v").exists()), (139, False))
        hang = "echo 'neuronmoe: error on rank 1 (n1): no progress for 8 s (run.watchdog_s); last collective: none' >&2; exit 137"
        self.assertEqual(self.run_script(2, "analyze", SLURM_JOB_ID="7", NMOE_TEST_ACTION=hang)[0], 86)

    def test_words_of_the_launcher(self):
        aborted = f"{RULE}\nmpirun detected that one or more processes exited with non-zero status\n{RULE}\n"
        no_slots = f"{RULE}\nThere are not enough slots available\n{RULE}\n"
        killed = f"{RULE}\nmpirun noticed that process rank 1 with PID 0 on node n1 exited on signal 9 (Killed).\n{RULE}\n"
        said = self.dir / "said"
        for text, seen in [("neuronmoe: error: all wrong\n" + aborted, "neuronmoe: error: all wrong\n"), (aborted, ""), (no_slots, no_slots),
                           (killed, killed), ("a warning\n" + no_slots + "more\n", "a warning\n" + no_slots + "more\n"),
                           ("neuronmoe: error: x\n" + killed, "neuronmoe: error: x\nrun.sh: " + killed.splitlines()[1] + "\n"),
                           ("neuronmoe: error: x\nsrun: error: n2: tasks 2-3: Exited with exit code 78\n", "neuronmoe: error: x\n")]:
            said.write_text(text)
            code, _, err = self.run_script(2, "train", NMOE_TEST_ACTION=f"cat '{said}' >&2; exit 70")
            self.assertEqual((code, err), (70, seen))
        self.assertIn("exit code 78", (self.dir / "launcher.log").read_text())

    def test_words_are_shown_at_once(self):
        job = self.start(2, "train", NMOE_TEST_ACTION=f"echo first >&2; while [[ ! -e '{self.dir}/seen' ]]; do sleep 0.05; done")
        self.assertEqual(job.stderr.readline(), "first\n")  # for ever, if they wait for more
        (self.dir / "seen").touch()
        self.assertEqual((job.communicate(timeout=30)[1], job.returncode), ("", 0))

    def test_a_launcher_that_waits_for_a_lost_host_is_ended(self):
        error = "neuronmoe: error on rank 1 (n1): no progress for 8 s (run.watchdog_s); last collective: none"
        began = time.monotonic()
        code, _, _ = self.run_script(2, "train", NMOE_MPIRUN_PATIENCE_S="1", NMOE_TEST_ACTION=f"echo '{error}' >&2; trap '' TERM; exec sleep 60")
        self.assertEqual(code, 86)
        self.assertLess(time.monotonic() - began, 30)

    def test_signals_reach_the_launcher(self):
        for name in ("USR1", "TERM", "INT"):
            action = f"trap 'echo {name}; exit 85' {name}; touch '{self.dir}/ready'; while true; do sleep 0.05; done"
            job = self.start(2, "train", NMOE_TEST_ACTION=action)
            while not (self.dir / "ready").exists():
                time.sleep(0.02)
            os.kill(job.pid, getattr(signal, f"SIG{name}"))
            out, _ = job.communicate(timeout=30)
            self.assertEqual((job.returncode, out), (85, name + "\n"))
            (self.dir / "ready").unlink()

    def test_wrong_words(self):
        for arguments, variables, words in [((), {}, "usage"), (("x", "check"), {}, "usage"), ((2, "check"), {"NMOE_SITE": "moon"}, "sites: "),
                                            ((2, "check"), {"NMOE_MPI": "mpich", "SLURM_JOB_ID": "7"}, "cray_shasta"),
                                            ((2, "check"), {"NMOE_BINARY": "/none"}, "/none is not there")]:
            code, _, err = self.run_script(*arguments, **variables)
            self.assertEqual((code, err.count("\n")), (78, 1))
            self.assertIn(words, err)

    def test_chain_names_its_jobs(self):
        fake = self.dir / "bin/sbatch"
        fake.write_text(LAUNCHER)
        fake.chmod(0o755)
        chain = [ROOT / "slurm/chain.sh", ROOT / "configs/your-model.cfg", "--workdir", self.dir / "work", "--dry-run"]

        def lines(*more, code=0):
            done = subprocess.run([*map(str, chain), *more], capture_output=True, text=True, env=self.environment, timeout=60)
            self.assertEqual(done.returncode, code, done.stderr)
            return done.stdout.splitlines() if code == 0 else done.stderr

        one = lines("--account", "a1", "--nodes", "2", "--job", "stage1 -N 8 -t 12:00:00")
        self.assertEqual([line.split("--job-name=nmoe-")[1].split()[0] for line in one], ["tokenize", "analyze", "stage1", "stage2", "measure"])
        self.assertTrue(all("--account=a1" in line and "--nodes=2" in line for line in one))
        self.assertTrue(all("--kill-on-invalid-dep=yes" in line and "--dependency=afterok:" in line for line in one[1:]))
        self.assertIn("-N 8 -t 12:00:00", one[2])
        self.assertIn("--until allocate", one[1])
        grid = lines("--target", "el", "--seed", "1,2,3")
        self.assertTrue(all("--array=0-2" in line for line in grid) and "--dependency=aftercorr:" in grid[1])
        self.assertIn("no part 'stage3'", lines("--job", "stage3 -N 8", code=78))
        self.assertIn("target language 'xx'", lines("--target", "xx", code=78))


if __name__ == "__main__":
    unittest.main()
