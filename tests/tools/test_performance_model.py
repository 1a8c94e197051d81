#!/usr/bin/python3
"""tools/performance_model.py: the sums of the estimate it was made from, the FLOPs of `neuronmoe plan`, and how measured
times are set beside the model."""
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/performance_model.py"
sys.path.insert(0, str(TOOL.parent))
import performance_model as pm  # noqa: E402

BINARY = os.environ.get("NMOE_TEST_BINARY", "")
# ms of a list made kernel by kernel by hand: Llama-3.2-3B with 49 experts, 32 x 1,024 tokens, stage 1
BY_HAND = {"dense MLP products": 269, "expert products, forward and input gradients": 244, "expert weight gradients": 87,
           "attention projections": 133, "lm-head products": 128, "attention": 176, "SwiGLU": 48, "norms": 32,
           "gradients and AdamW": 20, "router": 11}
REST_BY_HAND, SUM_BY_HAND = 32, 1179


def run(*arguments):
    job = subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True)
    return job.returncode, job.stdout, job.stderr


def groups_of(stage=1, **rates):
    model = json.loads((ROOT / "configs/models/llama3.2-3b.json").read_text())
    shapes = pm.Shapes(model, pm.load_experts(ROOT / "configs/experts/llama3.2-3b-el.cfg", 28), 32, 1024, stage)
    return pm.Model(shapes, {**pm.load_rates(ROOT / "configs/machines/h200-rates.ini"), **rates}).build()


class PerformanceModel(unittest.TestCase):
    def test_the_estimate_made_by_hand(self):
        ms = {g.name: g.seconds * 1e3 for g in groups_of()}
        for name, wanted in BY_HAND.items():
            self.assertLess(abs(ms[name] - wanted), 0.03 * wanted + 0.5, name)
        rest = sum(value for name, value in ms.items() if name not in BY_HAND)
        self.assertLess(abs(rest - REST_BY_HAND), 0.1 * REST_BY_HAND)
        self.assertLess(abs(sum(ms.values()) - SUM_BY_HAND), 0.03 * SUM_BY_HAND)

    def test_times_follow_from_work_and_rates(self):
        slow, fast = groups_of(product=350), groups_of()
        for a, b in zip(slow, fast):
            self.assertEqual((a.flops, a.bytes, a.launches), (b.flops, b.bytes, b.launches))
        self.assertAlmostEqual(slow[0].seconds, 2 * fast[0].seconds)
        memory = {g.name: g.seconds for g in groups_of(memory=2150)}
        self.assertAlmostEqual(memory["norms"], 2 * next(g.seconds for g in fast if g.name == "norms"))

    @unittest.skipUnless(BINARY, "NMOE_TEST_BINARY names no program")
    def test_flops_are_those_of_plan(self):
        qwen = ["--model", ROOT / "configs/models/qwen1.5-1.8b.json", "--experts", ROOT / "configs/experts/qwen1.5-1.8b-el.cfg"]
        for arguments in ([], ["--stage", 2, "--length", 512, "--sequences", 64], qwen):
            code, out, err = run("--plan", BINARY, *arguments)
            self.assertEqual(code, 0, out + err)

    def test_measured_times_stand_beside(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernels.csv"
            path.write_text('==PROF== Connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
                            '"0","void rms_norm_forward_kernel<8>","gpu__time_duration.sum","nsecond","2,000,000"\n'
                            '"1","void rms_norm_backward_kernel<8>","gpu__time_duration.sum","us","1000"\n'
                            '"2","nvjet_hsh_128x256","gpu__time_duration.sum","ms","7"\n'
                            '"3","something_else","gpu__time_duration.sum","ms","5"\n')
            code, out, err = run("--measured", path)
            self.assertEqual(code, 0, err)
            norms = next(line for line in out.splitlines() if line.startswith("norms"))
            self.assertTrue(norms.endswith(" 3.0"), norms)
            self.assertIn("measured 7.0 ms; kernels of no group: measured 5.0 ms", out)
            self.assertTrue(next(line for line in out.splitlines() if line.startswith("sum")).endswith(" 15.0"))
            path.write_text("==PROF== no kernels\n")
            code, out, err = run("--measured", path)
            self.assertEqual((code, out), (65, ""))
            self.assertIn(str(path), err)

    def test_every_kernel_of_the_step_has_a_group(self):
        """A kernel that training launches and no pattern knows would be counted as one of no group."""
        others = {"add_bias", "plain_forward", "plain_dq", "plain_dk_dv", "lpr", "column_partials", "column_totals", "total",
                  "add_runs", "count_up", "fold_groups", "row_factors", "average_precision", "count_directions", "off_sums",
                  "ranking_keys", "walk_ranks", "for_each", "first_rows", "prefixed_forward", "argmax"}
        with contextlib.redirect_stdout(io.StringIO()):
            patterns = [g.pattern for g in groups_of() if g.pattern]
        for source in (ROOT / "src/ops/cuda").glob("*.cu"):
            for name in re.findall(r"\b(\w+)_kernel\(", source.read_text()):
                known = name in others or any(re.search(p, name + "_kernel") for p in patterns)
                self.assertTrue(known, f"{source.name}: {name}_kernel")

    def test_bad_files_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            rates = Path(folder) / "rates.ini"
            for text in ("", "[rates]\nproduct = fast\n"):
                rates.write_text(text)
                code, _, err = run("--rates", rates)
                self.assertNotEqual(code, 0)
                self.assertIn(str(rates), err)
                self.assertNotIn("Traceback", err)


if __name__ == "__main__":
    unittest.main()
