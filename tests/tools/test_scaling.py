# SPDX-License-Identifier: Apache-2.0
"""slurm/scaling.sh and tools/scaling_report.py: a study that was recorded (data/scaling: a toy on 1 and 2 ranks), its numbers against
sums made here, runs that failed, damaged files; and what is submitted, with a program, an sbatch and nothing else that pretend."""
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BINARY = os.environ.get("NMOE_TEST_BINARY")
sys.path.insert(0, str(ROOT / "tools"))
import scaling_report  # noqa: E402

PROGRAM = r'''#!/usr/bin/env python3
import json, os, sys
arguments = sys.argv[1:]
def option(name, default):
    return arguments[len(arguments) - 1 - arguments[::-1].index(name) + 1] if name in arguments else default
if "--print-config" in arguments:
    if "--bad" in arguments:
        print("neuronmoe: error: unknown option", file=sys.stderr)
        sys.exit(78)
    print("[train]\nseq_length = 4\nmicro_batch_size = %s\nglobal_batch_size = %s\nexpert_parallel_size = %s" % (
        option("--train.micro_batch_size", "8"), option("--train.global_batch_size", "16"), option("--train.expert_parallel_size", "1")))
elif arguments[0] == "plan":
    sys.exit("neuronmoe: error: no model")
elif os.environ.get("OMPI_COMM_WORLD_RANK", "0") == "0":
    ranks = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    folder = option("--output", None)
    os.makedirs(folder)
    if ranks == 4:
        json.dump({"reason": "no room"}, open(folder + "/exit.json", "w"))
        sys.exit(75)
    with open(folder + "/metrics.jsonl", "w") as stream:
        for step in range(int(option("--train.steps", "0"))):
            seconds = 2.0 / ranks
            stream.write(json.dumps({"step": step + 1, "step_s": seconds, "tokens_per_s": int(option("--train.global_batch_size", "0")) * 4 / seconds,
                                     "bytes": {"all_to_all_v": 3, "all_reduce": 1}, "flops": 10 ** 12}) + "\n")
'''
SBATCH = r'''#!/bin/sh
printf '%s\n' "$*" >>"$STATE/sbatch"
echo "$(wc -l <"$STATE/sbatch");cluster"
'''


def steps_of(folder):
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()][3:]


class Scaling(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = Path(folder.name)
        (self.work / "bin").mkdir()
        self.write("program", PROGRAM)

    def write(self, name, text):
        (self.work / name).write_text(text)
        (self.work / name).chmod(0o755)

    def scaling(self, *arguments, code=0):
        env = {**os.environ, "PATH": f"{self.work}/bin:{os.environ['PATH']}", "STATE": str(self.work), "NMOE_BINARY": str(self.work / "program")}
        for name in list(env):
            if name.startswith(("SLURM_", "OMPI_COMM", "OMP_NUM")):
                del env[name]
        done = subprocess.run([ROOT / "slurm" / "scaling.sh", *map(str, arguments)], cwd=self.work, env=env, text=True, capture_output=True)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def report(self, folder, code=0):
        done = subprocess.run([sys.executable, ROOT / "tools" / "scaling_report.py", folder], text=True, capture_output=True)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def recorded(self):
        study = self.work / "study"
        shutil.copytree(HERE / "data" / "scaling", study)
        return study

    def rows(self, study):
        with open(study / "scaling.csv", newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    # The report.

    def test_a_recorded_study(self):
        study = self.recorded()
        step = study / "strong-n2-r1/run/step_0000000012"
        step.mkdir()
        (step / "manifest.json").write_text("{}")
        os.utime(study / "strong-n2-r1/run/metrics.jsonl", (1000, 1000))
        os.utime(step / "manifest.json", (1002.5, 1002.5))
        out = self.report(study).stdout
        wanted = {}
        for folder in sorted(study.glob("strong-*")):
            lines = steps_of(folder)
            wanted[folder.name] = 256 * len(lines) / sum(line["step_s"] for line in lines)  # 8 sequences of 32 tokens
        rows = {f"strong-n{row['ranks']}-r{row['repeat']}": row for row in self.rows(study)}
        self.assertEqual(set(rows), set(wanted))
        one = statistics.median([wanted["strong-n1-r1"], wanted["strong-n1-r2"]])
        for name, rate in wanted.items():
            self.assertAlmostEqual(float(rows[name]["tokens_per_s"]) / rate, 1, 9)
            self.assertAlmostEqual(float(rows[name]["efficiency"]) / (rate / int(rows[name]["ranks"]) / one), 1, 9)
            self.assertEqual((rows[name]["exit_code"], rows[name]["steps"]), ("0", "9"))
        two = rows["strong-n2-r1"]
        seconds = sorted(step["step_s"] for step in steps_of(study / "strong-n2-r1"))
        self.assertEqual(float(two["step_p50_s"]), seconds[4])
        self.assertAlmostEqual(float(two["step_p95_s"]), seconds[7] + 0.6 * (seconds[8] - seconds[7]))
        self.assertEqual(float(two["sent_bytes_per_step"]), 10752 + 280 + 25472)
        self.assertAlmostEqual(float(two["all_to_all_share"]), 25472 / 36504)
        self.assertEqual(float(two["save_s"]), 2.5)
        self.assertAlmostEqual(float(two["plan_exchange_share"]), 0.030267733 / 0.095445333, 6)
        self.assertAlmostEqual(float(two["measured_over_plan"]), wanted["strong-n2-r1"] / 2682163.6119803307)
        self.assertEqual(len([line for line in out.splitlines() if line.startswith("| strong")]), 2)
        picture = (study / "scaling.svg").read_text()
        xml.dom.minidom.parseString(picture)
        self.assertEqual(picture.count("<circle"), 8)  # every run in both panels

    def test_runs_that_did_not_end_well_count_for_nothing(self):
        study = self.recorded()
        (study / "strong-n2-r1/exit_code").write_text("75\n")
        (study / "strong-n2-r1/run/exit.json").write_text('{"reason": "no space left"}')
        (study / "strong-n2-r2/exit_code").unlink()
        (study / "strong-n2-r2/run/metrics.jsonl").unlink()
        done = self.report(study)
        self.assertIn("2 rank(s), repeat 1: ended with 75: no space left", done.stderr)
        self.assertIn("2 rank(s), repeat 2: has not ended", done.stderr)
        self.assertIn("| 0 of 2 |", done.stdout)
        self.assertEqual([row["efficiency"] == "" for row in self.rows(study)], [False, False, True, True])
        for name in ("strong-n1-r1", "strong-n1-r2"):
            (study / name / "exit_code").write_text("70\n")
        self.assertIn("no run has ended with 0", self.report(study, code=65).stderr)

    def test_damaged_files_are_named(self):
        study = self.recorded()
        metrics = study / "strong-n1-r2/run/metrics.jsonl"
        lines = metrics.read_text().splitlines()
        for damage in ("{", "[]", '{"step_s": 0, "tokens_per_s": 1, "bytes": {}, "flops": 1}', '{"step_s": 1, "tokens_per_s": 1, "bytes": 3, "flops": 1}'):
            metrics.write_text("\n".join([*lines[:4], damage, *lines[5:]]))
            self.assertIn(f"scaling_report: {metrics}:5: not a line of metrics", self.report(study, code=65).stderr)
        metrics.write_text("\n".join(lines[:3]))
        self.assertIn(f"{metrics}: 3 steps", self.report(study, code=65).stderr)
        metrics.write_text("\n".join(lines))
        (study / "strong-n1-r1/plan.json").write_text("{")
        self.assertIn("plan.json: not JSON", self.report(study, code=65).stderr)
        self.assertIn("no run of slurm/scaling.sh", self.report(self.work / "bin", code=65).stderr)

    @unittest.skipUnless(BINARY, "NMOE_TEST_BINARY names no program")
    def test_the_prediction_is_found_in_a_plan(self):
        done = subprocess.run([BINARY, "plan", "--config", "configs/llama3.2-3b-plan.cfg", "--config", "configs/machines/gh200-4.cfg",
                               "--train.micro_batch_size", "8", "--plan.format", "json"], cwd=ROOT, check=True, capture_output=True, text=True)
        (self.work / "plan.json").write_text(done.stdout)
        found = scaling_report.predicted(self.work)
        self.assertLess(found["plan_low"], found["plan_tokens_per_s"])
        self.assertLess(found["plan_tokens_per_s"], found["plan_high"])
        self.assertTrue(0.2 < found["plan_exchange_share"] < 0.4, found)
        self.assertNotIn("idle", done.stderr)
        idle = subprocess.run([*done.args, "--train.micro_batch_size", "32"], cwd=ROOT, check=True, capture_output=True, text=True)
        self.assertEqual(idle.stderr.count("warning: 12 of 16 ranks are idle: "), 1)
        self.assertIn("--train.micro_batch_size 8 feeds every rank", idle.stderr)

    @unittest.skipUnless(BINARY, "NMOE_TEST_BINARY names no program")
    def test_the_tables_of_the_docs_are_those_of_the_program(self):
        text = (ROOT / "docs" / "scaling.md").read_text()
        command = next(line for line in text.splitlines() if line.startswith("    launch/run.sh 1 plan"))
        done = subprocess.run([BINARY, *command.split()[2:]], cwd=ROOT, check=True, capture_output=True, text=True)
        tables = done.stdout[done.stdout.index("strong scaling"):]
        lines = [line for line in tables.splitlines() if line.startswith("|")]
        self.assertEqual(len(lines), 2 * 9)
        self.assertEqual([line for line in text.splitlines() if line.startswith("|")], lines)

    # The study.

    def test_what_is_asked_for_is_checked_before_anything_is_written(self):
        for arguments, words in ((["1"], "what to train is missing"), (["--", "--x"], "name the numbers"), (["0", "--", "--x"], "'0' is neither"),
                                 (["1", "--repeat", "x", "--", "--x"], "not 'x'"), (["1", "--steps", "4", "--", "--x"], "--steps 4 leaves nothing"),
                                 (["1", "--", "--output", "y"], "--output is the study's"), (["3", "--", "--x"], "leaves some of 3 ranks idle"),
                                 (["1", "--machine", "none.cfg", "--", "--x"], "none.cfg is not there"),
                                 (["2", "3", "--weak", "--", "--train.global_batch_size", "3"], "2: a batch of 3 sequences leaves some of 2"),
                                 (["1", "--", "--train.expert_parallel_size", "2"], "no multiple of train.expert_parallel_size = 2"),
                                 (["1", "--output", "bin", "--", "--x"], "bin exists")):
            done = self.scaling("--local", *arguments, code=78)
            self.assertIn(words, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertEqual(self.scaling("--local", "1", "--", "--bad", code=78).stderr, "neuronmoe: error: unknown option\n")
        self.assertFalse((self.work / "runs").exists())

    def test_batches(self):
        strong = self.scaling("1", "2", "8", "--local", "--dry-run", "--repeat", 1, "--", "--x").stdout.splitlines()
        self.assertEqual([line[line.index("batch"):] for line in strong],
                         [f"batch 16, micro-batch {n}, 20 steps" for n in (8, 8, 2)])
        weak = self.scaling("4", "2", "--weak", "--local", "--dry-run", "--repeat", 1, "--", "--x").stdout.splitlines()
        self.assertEqual([line[line.index("batch"):] for line in weak], [f"batch {n}, micro-batch 8, 20 steps" for n in (16, 32)])

    def test_without_slurm(self):
        done = self.scaling("1", "2", "4", "--local", "--repeat", 1, "--steps", 6, "--output", "study", "--", "--x", code=1)
        self.assertEqual(done.stdout.count("ended with 0"), 2)
        self.assertIn("4 rank(s), repeat 1: ended with 75: no room", done.stderr)
        rows = self.rows(self.work / "study")
        self.assertEqual([(row["ranks"], row["tokens_per_s"], row["efficiency"]) for row in rows],
                         [("1", "32.0", "1.0"), ("2", "64.0", "1.0"), ("4", "", "")])

    def test_jobs(self):
        self.write("bin/sbatch", SBATCH)
        done = self.scaling("2", "1", "--ranks-per-node", 2, "--account", "me", "--sbatch", "--gpus-per-node=3 --cpus-per-task=9",
                            "--repeat", 1, "--weak", "--output", "study", "--", "--x", "a b")
        self.assertIn("tools/scaling_report.py " + str(self.work / "study"), done.stdout)
        submitted = (self.work / "sbatch").read_text().splitlines()
        self.assertEqual(len(submitted), 2)
        for nodes, line in zip((1, 2), submitted):
            for word in (f"--nodes={nodes}", "--ntasks-per-node=2", "--exclusive", "--account=me --gpus-per-node=3 --cpus-per-task=9"):
                self.assertIn(word, line)
            folder = self.work / f"study/weak-n{nodes}-r1"
            self.assertEqual((folder / "job_id").read_text(), f"{nodes}\n")
            job = (folder / "job.sh").read_text()
            self.assertIn(f"launch/run.sh {2 * nodes} train --x a\\ b --train.global_batch_size {16 * nodes} --train.micro_batch_size 8 ", job)
            self.assertNotIn("OMP_NUM_THREADS", job)  # the launcher knows the job's cores


if __name__ == "__main__":
    unittest.main()
