# SPDX-License-Identifier: Apache-2.0
"""Tests of what tools/report.py says beside the results: differences in pairs, where and how long a run was, and its axes."""
import json
import math
import os
import pathlib
import re
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tools")]
import report_data  # noqa: E402
import report_pairs  # noqa: E402
import report_svg  # noqa: E402
import synthetic  # noqa: E402
from report_case import ReportCase  # noqa: E402


class ReportParts(ReportCase):
    def write_items(self, stage, changes, lang="el"):
        """Ten documents of ten tokens with the perplexity of the evaluation on average; `changes` per document adds up to 0."""
        path = os.path.join(self.work, "el", f"eval-{stage}.json")
        ppl = json.loads(pathlib.Path(path).read_text())["perplexity"][lang]["ppl"]
        rows = [{"task": "perplexity", "set": lang, "document": n, "tokens": 10, "loglikelihood": -10 * math.log(ppl) + change}
                for n, change in enumerate(changes)]
        rows += [{"task": "continuation", "set": lang, "item": n, "gold": 1, "chosen": int(n < round(200 * synthetic.ACC[stage][lang]))}
                 for n in range(200)]
        with open(report_data.items_path(path), "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)

    def test_differences_in_pairs(self):
        synthetic.write_journey(self.work)
        self.write_items("dense", [3, -3] * 5)
        self.write_items("stage1", [4, -4] * 5)
        code, out, err = self.call()
        self.assertEqual((code, err), (0, ""))
        # ln(86.8 / 126.9) = -0.3798; deviations of +-1 nat over documents of 10 tokens: sqrt(10/9 * 10) / 100 = 0.0333
        self.assertIn("<td>−0.380 ± 0.033</td>", self.page())
        # 125 right of 200, then 138: 13 changed in one direction, mean 0.065, sqrt((13/200 - 0.065^2) / 199) = 0.01748
        self.assertIn("0.625 → 0.690 (+0.065 ± 0.017 in pairs);", out)
        self.assertIn("<td>+0.065 ± 0.017</td>", self.page())
        self.assertEqual(report_pairs.Change(-0.00234, 0.000123, 5).words(), "-0.00234 ± 0.00012")
        self.write_items("stage1", [4, -4] * 5 + [0])  # another document: no pairs of documents, but of items
        self.assertEqual(self.call()[0], 0)
        self.assertNotIn("0.380 ±", self.page())
        self.write_items("stage1", [5] + [0] * 9)
        code, _, err = self.call()
        self.assertEqual((code, err.count("\n")), (65, 1))
        self.assertIn("eval-stage1.items.jsonl: its documents of el have a perplexity of", err)

    def test_items_that_are_none(self):
        for content in (b"{", b"[]\n", b'{"task": "perplexity"}\n', b"\xff\n", b"null\n",
                        b'{"task": "perplexity", "set": "el", "document": 0, "tokens": 1, "loglikelihood": NaN}\n',
                        b'{"task": "perplexity", "set": "xx", "document": 0, "tokens": 1, "loglikelihood": -1}\n'):
            synthetic.write_journey(self.work)
            pathlib.Path(self.work, "el", "eval-dense.items.jsonl").write_bytes(content)
            code, out, err = self.call()
            self.assertEqual((code, out, err.count("\n")), (65, "", 1), content)
            self.assertIn("eval-dense.items.jsonl: ", err)

    def test_where_and_how_long(self):
        synthetic.write_journey(self.work)
        step = pathlib.Path(self.work, "el", "stage1", "step_0000000120")
        step.mkdir()
        ranks = "".join(f"  rank {n:>4}  node{n // 2}  cores 0-3  threads 4    device cuda:{n % 2}\n" for n in range(4))
        (step / "provenance.json").write_text(json.dumps({
            "placement": ranks, "mpi": "Open MPI v4.1.4 (MPI 3.1)", "config": "[run]\nseed = 9\n\n[train]\nseq_length = 128\n# a = b is not set\n"
            "global_batch_size = 8\n"
            "dtype = bfloat16\nlearning_rate = 0.002\n\n[lbl]\nseed = 7\n"}))
        (step / "manifest.json").write_text('{"facts": {"version": "0.1.0+abc"}}\n01234567\n')
        (step.parent / "metrics.jsonl").write_text("".join(
            json.dumps({"step": n, "tokens": 100 * n, "loss_lm": 2.0, "step_s": 0.5, "flops": 10**9}) + "\n" for n in range(1, 121)))
        (step.parent / "exit.json").write_text('{"code": 75, "reason": "no space", "step": 3, "time": "2026-11-30T15:29:15Z"}')
        self.assertEqual(self.call()[2], "")
        table = re.search(r"<table class=facts>.*?</table>", self.page(), re.S)[0]
        self.assertEqual(re.findall("<th>(.*?)</th>", table), ["", "base", "stage 1, neuron-guided", "stage 2, neuron-guided"])
        rows = [re.findall("<td>(.*?)</td>", row) for row in table.split("</tr>")[1:-1]]
        self.assertEqual({row[0]: row[2] for row in rows}, {
            "steps": "120", "tokens": "12,000", "time": "1 min 00 s", "tokens/s": "200", "GFLOP/s per rank": "2.0", "ranks": "4", "hosts": "node0, node1",
            "device": "cuda:N", "threads per rank": "4", "MPI": "Open MPI v4.1.4", "sequences × tokens of a step": "8 × 128",
            "element type": "bfloat16", "learning rate": "0.002", "program": "0.1.0+abc",
            "ended": "ended early at step 3, 2026-11-30T15:29:15Z, code 75: no space"})
        for name, content in (("manifest.json", "{"), ("manifest.json", '{"facts": 3}'), ("provenance.json", "[]")):
            (step / name).write_text(content)
            code, _, err = self.call()
            self.assertEqual((code, err.count("\n")), (65, 1), err)
            self.assertIn(name, err)
            (step / name).unlink()

    def test_round_numbers_on_axes(self):
        for low, high in ((0, 1), (0, 4.3), (1, 900), (4.75, 5.43), (-3, 12), (0, 1e9), (0.1, 0.1)):
            found = report_svg.ticks(low, high)
            self.assertTrue(1 <= len(found) <= 6, (low, high, found))
            self.assertTrue(all(low - 1e-9 <= value <= high + 1e-9 for value in found), found)
        self.assertEqual(report_svg.ticks(0, 4.3, 5), [0, 1, 2, 3, 4])
        self.assertEqual([report_svg.tick_text(value) for value in (0.2, 5.0, 15000.0)], ["0.2", "5", "15,000"])


if __name__ == "__main__":
    unittest.main()
