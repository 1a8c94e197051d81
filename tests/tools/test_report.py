# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/report.py on synthetic files."""
import copy
import html.parser
import json
import math
import os
import pathlib
import re
import sys
import unittest
import urllib.parse
import xml.dom.minidom

import h5py

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tools")]
import metrics_file  # noqa: E402
import report_charts  # noqa: E402
import report_data  # noqa: E402
import synthetic  # noqa: E402
from report_case import ReportCase  # noqa: E402
import tool_errors  # noqa: E402


class Tags(html.parser.HTMLParser):
    """Refuses a page whose tags are not closed in the order they were opened."""

    def __init__(self, page):
        super().__init__()
        self.open = []
        self.feed(page)
        if self.open:
            raise AssertionError(f"not closed: {self.open}")

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            raise AssertionError(f"</{tag}> at {self.getpos()}")


class Report(ReportCase):
    def test_page_is_self_contained(self):
        synthetic.write_journey(self.work)
        code, out, err = self.call("--check")
        self.assertEqual((code, err), (0, ""))
        page = self.page()
        self.assertEqual(len(re.findall(r"<svg ", page)), 7)  # allocation, neurons, three losses, experts, routers
        self.assertIsNone(re.search(r'\bsrc=|url\(|@import|href="\w+:', page))
        for name in re.findall(r'href="([^"]+)"', page):
            self.assertTrue(os.path.exists(os.path.join(self.work, "el", urllib.parse.unquote(name))), name)
        self.assertIn('href="../neurons.h5"', page)
        self.assertIn("&lt;not a tag&gt;", page)
        for text in ('name="viewport"', "prefers-color-scheme:dark", "<title>English + Greek", "</body></html>", ">experts, base included<",
                     ">loss, nats per token<", ">step<", ">layer<", ">expert<", ">mean weight of the base expert<"):
            self.assertIn(text, page)
        self.assertNotIn("exp_2", page)
        Tags(page)
        xml.dom.minidom.parseString("<page>" + "".join(re.findall(r"<svg .*?</svg>", page)) + "</page>")
        self.assertIn("all inequalities hold", out)

    def test_prompts_are_continued_by_every_model(self):
        synthetic.write_journey(self.work)
        for stage, text in (("dense", "one\x1b[2J"), ("stage1", "two\nlines"), ("stage2", "<b>three</b>")):
            with open(os.path.join(self.work, "el", f"texts-{stage}.jsonl"), "w", encoding="utf-8") as stream:
                stream.write(json.dumps({"prompt": "Count & go", "text": text}) + "\n")
        code, out, err = self.call()
        self.assertEqual((code, err), (0, ""))
        self.assertIn("Count & go ...\n  dense base  one\\x1b[2J\n  stage 1     two lines\n  stage 2     <b>three</b>\n", out)
        self.assertIn(">Count &amp; go</blockquote>", self.page())
        self.assertIn("<td>stage 2</td><td dir=auto>&lt;b&gt;three&lt;/b&gt;</td>", self.page())
        pathlib.Path(self.work, "el", "texts-stage1.jsonl").write_text('{"prompt": "x"}\n', encoding="utf-8")
        code, _, err = self.call()
        self.assertEqual(code, 65)
        self.assertIn("texts-stage1.jsonl: 'text' is missing", err)

    def test_table_and_verdict_are_computed(self):
        synthetic.write_journey(self.work)
        _, out, _ = self.call()
        self.assertRegex(out, r"dense base +8 \(0\) +38\.1 +126\.9")
        self.assertRegex(out, r"stage 2, neuron-guided +18 \(10\) +40\.1 +90\.9")
        self.assertIn("costs en +44 % perplexity (38.1 → 54.7)", out)  # 54.7 / 38.1 = 1.436
        self.assertIn("86 % of the loss in log-perplexity is undone", out)  # ln(54.7/40.1) / ln(54.7/38.1) = 0.859
        self.assertIn("88 % of the gain in log-perplexity is kept", out)  # ln(126.9/90.9) / ln(126.9/86.8) = 0.878
        self.assertIn("Continuation task, en (200 items, chance 0.25): base to stage 1 0.845 → 0.695;", out)
        self.assertIn("0.625 → 0.690 (within 2 standard errors", out)
        self.assertIn("3,1,1,1,2,3,3,4 = 18 experts, 10 of them new", out)
        self.assertIn("top 100 of 9600 neurons", out)
        self.assertNotIn("Control", out)

    def test_broken_evaluations_are_one_line(self):
        for change in (None, [], {"perplexity": {"en": {"ppl": None}, "el": {"ppl": 9.0}}},
                       {"perplexity": {"en": {"ppl": 0.0}, "el": {"ppl": 9.0}}}, {"perplexity": {"en": {"ppl": -3}}},
                       {"perplexity": {"en": {"ppl": "x"}}}, {"perplexity": {"en": 4.0}}, {"perplexity": [1]},
                       {"continuation": {"en": {"acc": None, "n": 3}}}, {"continuation": [1]}, {"router": {"en": [3]}},
                       {"router": []}, {"format_version": "x"}, "not utf-8", "deep"):
            synthetic.write_journey(self.work)
            path = pathlib.Path(self.work, "el", "eval-stage1.json")
            if isinstance(change, dict):
                path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
            else:
                path.write_bytes({"not utf-8": b'{"a": "\xff"}', "deep": b"[" * 100000}.get(str(change)) or
                                 json.dumps(change).encode())
            code, out, err = self.call()
            self.assertEqual((code, out, err.count("\n")), (65, "", 1), (change, err))
            self.assertIn("eval-stage1.json: ", err, change)

    def test_odd_files_elsewhere_are_one_line_or_passed_over(self):
        for name, content in (("corpus/corpus.json", b'{"packages": 3}'), ("corpus/corpus.json", b"null"),
                              ("el/experts.cfg", b"ADA_MOE_NUM_EXPERTS_LIST=\xff"), ("el/stage1/metrics.jsonl", b"\xff"),
                              ("neurons.h5", b"\x89HDF"), ("el/expert_neurons.h5", b"")):
            synthetic.write_journey(self.work)
            os.makedirs(os.path.join(self.work, "corpus"), exist_ok=True)
            pathlib.Path(self.work, name).write_bytes(content)
            code, _, err = self.call()
            self.assertEqual((code, err.count("\n")), (65, 1), (name, err))
            self.assertIn(name, err)
            pathlib.Path(self.work, name).unlink()

    def test_names_cannot_command_a_terminal_or_formulas(self):
        self.assertEqual(tool_errors.plain("a\x1b[2Jé\n$x"), "a\\x1b[2Jé\\n$x")
        drawn = report_charts.heat_map([[1.0]], ["<script>"], ["$_$"], ("a&b", '"', "$^$"), "{:.0f}")
        self.assertNotIn("<script>", drawn)
        self.assertEqual(len(xml.dom.minidom.parseString(drawn).getElementsByTagName("rect")), 6)

    def write_matrix(self, change, replace="zero"):
        """A matrix of en and el, each with a random set, beside the dense evaluation."""
        dense = json.loads(pathlib.Path(self.work, "el", "eval-dense.json").read_text())["perplexity"]
        with h5py.File(os.path.join(self.work, "el", "eval-dense.interventions.h5"), "w") as file:
            file.attrs.update({"complete": 1, "format": "neuronmoe-interventions", "format_version": 1, "replace": replace})
            file["row/language"], file["row/control"], file["row/neurons"] = [b"en", b"en", b"el", b"el"], [0, 1, 0, 1], [100] * 4
            file["column/language"] = [b"en", b"el"]
            file["column/nll"] = [math.log(dense[lang]["ppl"]) for lang in ("en", "el")]
            file["change"], file["stderr"] = change, [[0.01, 0.01]] * 4

    def test_interventions(self):
        synthetic.write_journey(self.work)
        self.write_matrix([[0.5, 0.1], [0.02, 0.03], [0.4, 0.3], [0.0, -0.01]])
        code, out, err = self.call()
        self.assertEqual((code, err), (0, ""))
        self.assertIn("Neurons of en (100 of them) set to 0: +0.500 ± 0.010 nats per token on en, +0.100 to +0.100 on the other "
                      "languages; as many random ones: +0.020 on en: its own text is hit most", out)
        self.assertIn("as many random ones: -0.010 on el: its own text does NOT stand out", out)
        page = self.page()
        self.assertEqual(page.count("<svg "), 8)
        self.assertIn("Do the neurons matter?", page)

    def test_interventions_of_something_else(self):
        def touched(change):
            synthetic.write_journey(self.work)
            self.write_matrix([[0.5, 0.1], [0.02, 0.03], [0.4, 0.3], [0.0, -0.01]])
            with h5py.File(os.path.join(self.work, "el", "eval-dense.interventions.h5"), "r+") as file:
                change(file)

        def replace(name, value):
            def change(file):
                del file[name]
                if value is not None:
                    file[name] = value
            return change

        for change in (replace("column/nll", [3.0, 4.0]), replace("change", [[1.0, 2.0]]), replace("stderr", None),
                       replace("change", [[float("nan")] * 2] * 4), replace("column/language", [b"en", b"tr"]),
                       lambda file: file.attrs.update({"complete": 0}), lambda file: file.attrs.update({"format_version": 2})):
            touched(change)
            code, out, err = self.call()
            self.assertEqual((code, out, err.count("\n")), (65, "", 1), err)
            self.assertIn("eval-dense.interventions.h5", err)

    def test_control(self):
        synthetic.write_journey(self.work, control="el/uniform")
        code, out, err = self.call("--control", "el/uniform", "--check")
        self.assertEqual((code, err), (0, ""))
        # ln(126.9/90.9) / ln(126.9/88.6) = 0.929; 10 of 16 new experts
        self.assertIn("93 % of the uniform model's log-perplexity gain on el with 62 % of its new experts", out)
        self.assertIn("uniform is better", out)
        self.assertRegex(out, r"stage 1, uniform +24 \(16\) +60\.2 +84\.1")

    def test_says_so_when_the_story_did_not_happen(self):
        ppl = copy.deepcopy(synthetic.PPL)
        ppl["stage1"] = {"en": 37.0, "el": 130.0}
        ppl["stage2"] = {"en": 37.5, "el": 131.0}
        synthetic.write_journey(self.work, ppl=ppl)
        code, out, err = self.call("--check")
        self.assertEqual(code, 1)
        for text in ("Forgetting was NOT seen", "Recovery was NOT seen", "did NOT gain"):
            self.assertIn(text, out)
        self.assertEqual(err.count("does NOT hold"), 4)

    def test_uniform_sized_allocation_breaks_the_check(self):
        synthetic.write_journey(self.work, experts=(3,) * 8)
        code, _, err = self.call("--check")
        self.assertEqual(code, 1)
        self.assertIn("24 experts < 3 per layer = 24", err)

    def test_warns_of_ties_at_the_cut(self):
        synthetic.write_journey(self.work, tied=("zh", "el"))
        with open(os.path.join(self.work, "el", "experts.cfg"), "a", encoding="utf-8") as stream:
            stream.write("# warning: ties drawn at random with 100 seeds (1 to 100) give 20 to 22 experts in all, median 21; "
                         "by layer, layer 0 first: 3,1-2,1,1,2,3-4,3,4\n# warning: top_k = 150 takes all that tie and gives 20 experts: 3\n"
                         "# warning: el: 150 neurons have the AP of the cut, 1.000000\n# warning: something else\n")
        out = self.call()[1]
        for text in ("Caution: 150 neurons of zh have the AP of the cut, 1.0000, and 100 of them were taken; the order of "
                     "rows decided which, first layers first. top_k = 150 takes them all",
                     "Caution: 150 neurons of el have the AP of the cut, 1.0000, and 100 of them were taken; a draw decided",
                     "How much of the list is chance: ties drawn at random with 100 seeds (1 to 100) give 20 to 22"):
            self.assertIn(text, out)
        self.assertIn("Without a draw: top_k = 150 takes all that tie and gives 20 experts: 3.", out)
        self.assertIn("Caution: something else.", out)
        self.assertEqual(out.count("Caution"), 3)
        self.assertEqual(self.page().count('class="line whisker"'), 1 + 2 * 3)  # in the legend, and in two layers

    def test_heat_map_values_are_shares_of_the_expert(self):
        synthetic.write_journey(self.work)
        path = os.path.join(self.work, "el", "expert_neurons.h5")
        with h5py.File(path, "r+") as file:
            file["expert/high_ap"][...] = 0
            file["expert/high_ap"][3, 0] = 204  # el, expert 0 of layer 0, which has 816 values
        shares, bar = report_data.read_specialization(path, "el")
        self.assertEqual(bar, 0.9)
        self.assertAlmostEqual(shares[0, 0], 25.0)
        self.assertEqual({v for k, v in shares.items() if k != (0, 0)}, {0.0})

    def test_union_counts_unit_indices_once(self):
        neurons = {"num_layers": 2, "units": {"en": [{1, 2}, {5}], "el": [{2, 3}, set()]}}
        self.assertEqual(report_data.union_counts(neurons, ["en", "el"]), [3, 1])

    def test_metrics_after_a_resume(self):
        path = os.path.join(self.work, "metrics.jsonl")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write('{"step": 1, "loss_lm": 3}\n{"step": 2, "loss_lm": 9}\n{"step": 2, "loss_lm": 2}\n{"step": 3, "lo')
        self.assertEqual([row["loss_lm"] for row in metrics_file.read_metrics(path)], [3, 2])

    def test_bad_files_give_one_line_and_65(self):
        cases = {"neurons.h5": "not a readable HDF5 file", "el/eval-stage1.json": "eval-stage1.json",
                 "el/experts.cfg": "ADA_MOE_NUM_EXPERTS_LIST"}
        for name, message in cases.items():
            synthetic.write_journey(self.work)
            with open(os.path.join(self.work, name), "w", encoding="utf-8") as stream:
                stream.write("garbage")
            code, _, err = self.call()
            self.assertEqual(code, 65, name)
            self.assertIn(message, err)
            self.assertEqual(err.count("\n"), 1)

    def test_files_of_a_later_version_are_refused(self):
        for name in ("neurons.h5", "el/expert_neurons.h5", "el/eval-stage1.json"):
            synthetic.write_journey(self.work)
            path = os.path.join(self.work, name)
            if name.endswith(".json"):
                with open(path, encoding="utf-8") as stream:
                    found = json.load(stream)
                with open(path, "w", encoding="utf-8") as stream:
                    json.dump({**found, "format_version": 2}, stream)
            else:
                with h5py.File(path, "r+") as file:
                    file.attrs["format_version"] = 2
            code, _, err = self.call()
            self.assertEqual((code, err.count("\n")), (65, 1), name)
            self.assertRegex(err, rf'{path} has version 2 of format "neuronmoe-.*newest that this program reads is 1: use a newer')
        with h5py.File(os.path.join(self.work, "neurons.h5"), "r+") as file:
            del file.attrs["format_version"]
        synthetic.write_eval(os.path.join(self.work, "el/eval-stage1.json"), "stage1")
        self.assertEqual(self.call()[0], 0)  # a file without version is version 1

    def test_known_versions_are_those_of_the_program(self):
        declared = {}
        for folder in ("include", "src"):
            for path in pathlib.Path(ROOT, folder).rglob("*.[ch]pp"):
                declared.update(re.findall(r'FileFormat \w+\{"(neuronmoe-[\w-]+)", (\d+)\}', path.read_text(encoding="utf-8")))
        self.assertGreaterEqual(len(declared), 10)
        for name, version in report_data.NEWEST_VERSIONS.items():
            self.assertEqual(str(version), declared.get(name), name)

    def test_parts_may_be_missing(self):
        for names in (["el/expert_neurons.h5"], ["base/checkpoints/metrics.jsonl"], ["neurons.h5"], ["el/eval-stage2.json"], ["el/eval-dense.json"],
                      ["el/experts.cfg"], ["el/stage1/metrics.jsonl", "el/stage2/metrics.jsonl"],
                      [f"el/eval-{stage}.json" for stage in ("dense", "stage1", "stage2")], ["neurons.h5", "el/experts.cfg"]):
            synthetic.write_journey(self.work)
            for name in names:
                os.unlink(os.path.join(self.work, name))
            code, out, err = self.call()
            self.assertEqual((code, err), (0, ""), names)
            self.assertIn("</body></html>", self.page())
            Tags(self.page())
            for name in names:
                self.assertEqual(name in out, not name.startswith("base"), name)
        code, out, err = self.call("--check")  # without neurons and list
        self.assertEqual(code, 65)
        self.assertIn("are missing", err)

    def test_neurons_alone(self):
        synthetic.write_neurons(os.path.join(self.work, "neurons.h5"))
        code, out, err = self.call()  # the target's folder is made
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(self.page().count("<svg "), 1)

    def test_nothing_to_report(self):
        os.mkdir(os.path.join(self.work, "el"))
        code, out, err = self.call()
        self.assertEqual((code, out, err.count("\n")), (65, "", 1))
        self.assertIn("there is nothing to report: no neurons.h5, no el/experts.cfg", err)

    def test_incomplete_file_is_refused(self):
        synthetic.write_journey(self.work)
        with h5py.File(os.path.join(self.work, "neurons.h5"), "r+") as file:
            del file.attrs["complete"]
        self.assertIn("incomplete", self.call()[2])


if __name__ == "__main__":
    unittest.main()
