#!/usr/bin/python3
"""tools/gpu_session.sh with programs that only pretend: which parts run, what they leave behind, and that nothing that is
missing, fails or hangs passes."""
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/gpu_session.sh"
TRUTH = [f"test_gpu_{name}" for name in ("linear", "transformer", "attention", "moe", "decoder")]
MORE = [f"test_gpu_{name}" for name in ("ranking", "pooling", "communicators")]
PROGRAMS = TRUTH + MORE + ["neuronmoe", "bench_gpu_ops", "bench_gpu_train", "bench_gpu_analyze"]
PARTS = ["facts", "truth", "train3b", "shapes", "kernels", "analyze", "peer", "more", "sanitizer"]
USERS = {**{name: ["truth"] for name in TRUTH}, **{name: ["more"] for name in MORE}, "test_gpu_attention": ["truth", "sanitizer"],
         "neuronmoe": ["facts", "more"], "bench_gpu_ops": ["shapes"], "bench_gpu_train": ["train3b", "kernels", "more"],
         "bench_gpu_analyze": ["analyze"], "ncu": ["kernels"], "compute-sanitizer": ["sanitizer"], "torch_peer.py": ["peer"],
         "device.py": ["more"]}

# What the script calls besides: ncu and compute-sanitizer run the program that they are given; python3 runs the real tools, and
# instead of the toy's training and of PyTorch asks the programs whether they work.
NCU = """#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in --log-file) log=$2; shift 2 ;; --clock-control | --metrics) shift 2 ;; -*) shift ;; *) break ;; esac
done
printf '"Kernel Name","Metric Name","Metric Unit","Metric Value"\\n"rope_kernel","gpu__time_duration.sum","ms","8"\\n' >"$log"
exec "$@"
"""
SANITIZER = """#!/bin/sh
while :; do case $1 in --tool | --error-exitcode) shift 2 ;; *) break ;; esac; done
exec "$@"
"""
PYTHON = """#!/bin/sh
case $1 in
  *torch_peer.py) exec "$PRETEND/torch_peer.py" ;;
  *device.py) "$PRETEND/device.py" && "$2" && exec "$3" ;;
  *) exec /usr/bin/python3 "$@" ;;
esac
"""


class GpuSession(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="nmoe-gpu-session-")
        self.programs = Path(self.folder.name) / "programs"
        self.commands = Path(self.folder.name) / "commands"
        self.output = Path(self.folder.name) / "output"
        self.programs.mkdir()
        self.commands.mkdir()
        for name in PROGRAMS:
            self.place(self.programs / name, f"#!/bin/sh\necho '{name} says' \"$@\"\n")
        for name, text in {"ncu": NCU, "compute-sanitizer": SANITIZER, "python3": PYTHON, "ldd": "#!/bin/sh\necho ldd\n",
                           "torch_peer.py": "#!/bin/sh\necho '{\"peer\": 1}'\n", "device.py": "#!/bin/sh\necho toy\n",
                           "nvidia-smi": "#!/bin/sh\necho 'a GPU, 580.1'\n"}.items():
            self.place(self.commands / name, text)

    def tearDown(self):
        self.folder.cleanup()

    @staticmethod
    def place(path, text):
        path.write_text(text)
        path.chmod(0o755)

    def path_of(self, name):
        return (self.programs if name in PROGRAMS else self.commands) / name

    def run_session(self, *parts, **variables):
        environment = {**os.environ, "PATH": f"{self.commands}:{os.environ['PATH']}", "PRETEND": str(self.commands),
                       "NMOE_GPU_PROGRAMS": str(self.programs), **variables}
        job = subprocess.run([SCRIPT, self.output, *parts], env=environment, capture_output=True, text=True, timeout=120)
        return job.returncode, job.stdout + job.stderr

    def states(self):
        return {part: (self.output / f"{part}.state").read_text().strip() for part in PARTS if (self.output / f"{part}.state").exists()}

    def test_every_part_runs_and_leaves_its_results(self):
        code, out = self.run_session()
        self.assertEqual(code, 0, out)
        self.assertEqual(self.states(), {part: "passed" for part in PARTS})
        results = (self.output / "results.txt").read_text()
        self.assertEqual(re.findall(r"^== (\w+),", results, re.M), PARTS)
        for words in ["a GPU, 580.1", "neuronmoe says --version", "test_gpu_decoder: passed", "bench_gpu_ops says", "routing=balanced steps=6",
                      "rope ", "bfloat16 9 500", "float32 9 100", '{"peer": 1}', "compute-sanitizer racecheck: test_gpu_attention"]:
            self.assertIn(words, results)
        for part in PARTS:
            self.assertTrue((self.output / f"{part}.log").exists(), part)
        code, out = self.run_session()  # nothing is repeated
        self.assertEqual((code, out.count("passed before")), (0, len(PARTS)), out)

    def test_a_program_that_fails_or_is_missing_fails_its_parts_and_no_others(self):
        for name, users in USERS.items():
            kept = self.path_of(name).read_text()
            for how in ("false", "missing"):
                if how == "missing" and name not in ("test_gpu_moe", "neuronmoe", "bench_gpu_train"):
                    continue
                self.path_of(name).unlink(missing_ok=True)
                if how == "false":
                    self.path_of(name).symlink_to("/bin/false")
                for state in self.output.glob("*.state"):
                    state.unlink()
                code, out = self.run_session(*users, "shapes" if "shapes" not in users else "peer")
                failed = sorted(part for part, state in self.states().items() if state.startswith("failed"))
                self.assertEqual((code, failed), (1, sorted(users)), f"{name} {how}: {out}")
            self.path_of(name).unlink(missing_ok=True)
            self.place(self.path_of(name), kept)
        code, out = self.run_session()  # what failed runs again, and passes
        self.assertEqual((code, set(self.states().values())), (0, {"passed"}), out)

    def test_a_part_that_hangs_is_ended_and_the_next_one_runs(self):
        self.place(self.programs / "bench_gpu_train", "#!/bin/sh\necho begun\nsleep 60\n")
        code, out = self.run_session("train3b", "shapes", NMOE_GPU_LIMIT_S="1")
        self.assertEqual((code, self.states()), (1, {"train3b": "failed(124)", "shapes": "passed"}), out)
        self.assertIn("begun", (self.output / "results.txt").read_text())  # what it said before is kept

    def test_the_default_parts_fit_into_ten_minutes(self):
        text = SCRIPT.read_text()
        limits = re.search(r"case \$1 in\n(.*?)esac", text, re.S).group(1)
        seconds = {name: int(limit) for name, limit in re.findall(r"(\w+)\) echo (\d+)", limits)}
        self.assertLessEqual(sum(seconds[part] for part in PARTS), 550)
        self.assertEqual(re.search(r"default_parts=\((.*?)\)", text).group(1).split(), PARTS)

    def test_wrong_arguments(self):
        for arguments in ([], ["--pick"]):
            job = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
            self.assertEqual(job.returncode, 64)
            self.assertIn("gpu_session.sh OUTPUT", job.stderr)
        code, out = self.run_session("shape")
        self.assertEqual(code, 64)
        self.assertIn("unknown part 'shape'", out)


if __name__ == "__main__":
    unittest.main()
