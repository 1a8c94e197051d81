# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/benchmark_{readers,tasks,table}.py: from benchmark files to tasks of lm-eval, from scores to the table."""
import bz2
import contextlib
import csv
import io
import json
import os
import pathlib
import sys
import unittest
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import benchmark_readers as readers  # noqa: E402
import benchmark_table  # noqa: E402
import benchmark_tasks  # noqa: E402
from records import BELEBELE, Folder  # noqa: E402

OKAPI = {"instruction": "Miért [x] kék?", "option_a": " A fény. ", "option_b": "B", "option_c": "C", "option_d": "", "answer": "C"}
HELLASWAG = {"ctx_a": "A man [title] sits.", "ctx_b": "he", "activity_label": "Roof", "endings": ["a [step] b", "c", "d", "e"],
             "label": "3"}
MMLU = {"question": " What? ", "choices": ["p", "q", "r", "s"], "answer": 1, "subject": "world_religions"}


class Readers(Folder):
    def test_prompts_are_those_of_the_tasks(self):
        self.assertEqual(readers.arc_item(OKAPI), {"query": "Question: Miért kék?\nAnswer:", "choices": ["A fény.", "B", "C"], "gold": 2})
        question = {"question": "Why [x]?", "choices": {"text": ["p", "q"], "label": ["1", "2"]}, "answerKey": "2"}
        wanted = {"query": "Question: Why [x]?\nAnswer:", "choices": ["p", "q"], "gold": 1}
        self.assertEqual(readers.arc_item(question), wanted)
        own = {"question": {"stem": "Why [x]?", "choices": [{"text": "p", "label": "1"}, {"text": "q", "label": "2"}]}, "answerKey": "2"}
        self.assertEqual(readers.arc_item(own), wanted)
        self.assertEqual(readers.hellaswag_item(HELLASWAG), {"query": "Roof: A man. sits. He", "choices": ["a b", "c", "d", "e"], "gold": 3})
        self.assertEqual(readers.belebele_item(BELEBELE)["query"], "P: Text.\nQ: Who?\nA: w\nB: x\nC: y\nD: z\nAnswer:")
        self.assertEqual(readers.belebele_item(BELEBELE)["gold"], 1)
        self.assertEqual(readers.mmlu_item(MMLU), {"query": "What?\nA. p\nB. q\nC. r\nD. s\nAnswer:", "choices": ["A", "B", "C", "D"],
                                                   "gold": 1, "subject": "world_religions"})
        translated = {**OKAPI, "option_d": "D"}
        self.assertEqual(readers.mmlu_item(translated)["query"], "Miért [x] kék?\nA.  A fény. \nB. B\nC. C\nD. D\nAnswer:")

    def test_other_layouts(self):
        path = self.folder / "en.txt.bz2"
        path.write_bytes(bz2.compress("Roof: he [x]\n3\na\nb\nc\nd\n".encode() * 2))
        self.assertEqual(readers.read_items(str(path), "hellaswag"),
                         [{"query": "Roof: he [x]", "choices": ["a", "b", "c", "d"], "gold": 3}] * 2)
        archive = self.folder / "mmlu.zip"
        with zipfile.ZipFile(archive, "w") as stream:
            stream.writestr("data/dev/human_aging_dev.csv", '"a, ""b""?",1,2,3,4,D\n')
            stream.writestr("data/test/human_aging_test.csv", "c,1,2,3,4,A\nd,1,2,3,4,B\n")
            stream.writestr("data/val/human_aging_val.csv", "e,1,2,3,4,A\n")
        found = readers.read_mmlu(str(archive))
        self.assertEqual({split: [item["gold"] for item in items] for split, items in found.items()}, {"dev": [3], "test": [0, 1]})
        self.assertEqual(found["dev"][0]["query"], 'a, "b"?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:')
        self.assertEqual(found["dev"][0]["subject"], "human_aging")

    def test_faults_name_file_and_line(self):
        for benchmark, record, wanted in (("arc", {**OKAPI, "answer": "E"}, "number 4 of 3"), ("arc", {}, "'question' is missing"),
                                          ("belebele", {**BELEBELE, "correct_answer_num": "5"}, "number 4 of 4"),
                                          ("hellaswag", {**HELLASWAG, "label": ""}, "invalid literal"),
                                          ("mmlu", {**MMLU, "answer": "x"}, "substring not found")):
            path = self.write("x.jsonl", *([{"arc": OKAPI, "belebele": BELEBELE, "hellaswag": HELLASWAG, "mmlu": MMLU}[benchmark]]), record)
            with self.assertRaisesRegex(readers.ToolError, f"x.jsonl, line 2: .*{wanted}"):
                readers.read_items(path, benchmark)
        with self.assertRaisesRegex(readers.ToolError, "No such file"):
            readers.read_items("/nowhere.jsonl", "arc")


class Tasks(Folder):
    def call(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = benchmark_tasks.main([*arguments, "--output", str(self.folder / "tasks")])
        return code, out.getvalue(), err.getvalue()

    def entries(self):
        found = json.loads((self.folder / "tasks" / "benchmarks.json").read_text(encoding="utf-8"))["benchmarks"]
        return {f"{entry['benchmark']}.{entry['language']}": entry for entry in found}

    def task(self, name):
        lines = (self.folder / "tasks" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        return {key: value for key, _, value in (line.partition(": ") for line in lines)}

    def test_presets(self):
        shots = {}
        for target, preset in (("el", "paper"), ("el", "released"), ("hu", "released")):
            code, _, err = self.call("--target", target, "--preset", preset)
            self.assertEqual((code, err), (0, ""))
            shots[target, preset] = [entry["shots"] for entry in self.entries().values()]
        self.assertEqual(shots["el", "paper"], [25, 25, 0, 0, 0, 0, 5, 5])
        self.assertEqual(shots["el", "released"], [25, 25, 5, 5, 10, 10, 5, 5])
        self.assertEqual(shots["hu", "released"], [25, 25, 5, 5, 10, 10, 5, 4])

    def test_every_language_of_the_paper_has_its_tasks(self):
        for target in ("el", "tr", "hu", "ne", "bn"):
            self.assertEqual(self.call("--target", target)[0], 0)
            self.assertEqual(len(self.entries()), 8)
        self.assertEqual([entry["task"] for entry in self.entries().values()],
                         ["arc_challenge", "arc_bn", "belebele_eng_Latn", "belebele_ben_Beng", "hellaswag", "hellaswag_bn", "mmlu",
                          "m_mmlu_bn"])
        self.assertEqual([entry["metric"] for entry in self.entries().values()], ["acc_norm"] * 2 + ["acc"] * 2 + ["acc_norm"] * 2 + ["acc"] * 2)

    def test_greek_comes_from_the_hub(self):
        self.call("--target", "el")
        self.assertEqual(self.entries()["arc.el"]["task"], "nmoe_arc_el")
        self.assertEqual(self.task("nmoe_arc_el")["dataset_path"], '"ilsp/arc_greek"')
        self.assertEqual(self.task("nmoe_hellaswag_el")["process_docs"], "!function utils.process_docs")
        self.assertEqual(len(json.loads(self.task("nmoe_mmlu_el")["task"])), 57)
        self.assertEqual(json.loads(self.task("nmoe_mmlu_el_us_foreign_policy")["description"]),
                         "The following are multiple choice questions (with answers) about us foreign policy.\n\n")

    def test_own_files_and_where_their_shots_come_from(self):
        self.write("own/arc/hu_test.jsonl", OKAPI)
        self.write("own/arc/hu_train.jsonl", *[OKAPI] * 25)
        self.write("own/belebele/hu.jsonl", BELEBELE)
        self.write("own/hellaswag/hu_val.jsonl", HELLASWAG)
        mmlu = self.write("m_test.jsonl", MMLU)
        self.write("m_dev.jsonl", *[MMLU] * 5)
        code, out, err = self.call("--target", "hu", "--data", str(self.folder / "own"), "--data",
                                   f"mmlu.hu={mmlu.replace('test', '{split}')}")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("nmoe_arc_hu", out)
        arc = self.task("nmoe_arc_hu")
        self.assertEqual((arc["training_split"], arc["test_split"], arc["doc_to_text"]), ('"train"', '"test"', '"query"'))
        belebele = self.task("nmoe_belebele_hu")
        self.assertEqual((belebele["fewshot_split"], belebele["fewshot_config"]), ('"test"', '{"sampler": "first_n"}'))
        hellaswag = self.task("nmoe_hellaswag_hu")
        self.assertNotIn("training_split", hellaswag)
        self.assertEqual(hellaswag["validation_split"], '"validation"')
        self.assertEqual(json.loads(self.task("nmoe_mmlu_hu")["task"]), ["nmoe_mmlu_hu_world_religions"])
        self.assertEqual(self.task("nmoe_mmlu_hu_world_religions")["fewshot_split"], '"dev"')
        data = json.loads(arc["dataset_kwargs"])["data_files"]["test"]
        self.assertEqual(json.loads(pathlib.Path(data).read_text(encoding="utf-8")), readers.arc_item(OKAPI))

    def test_faults_are_one_line(self):
        alone = self.write("alone.jsonl", OKAPI)
        few_test = self.write("few_test.jsonl", MMLU)
        self.write("few_dev.jsonl", MMLU)
        for code, wanted, *arguments in ((65, "arc.xx: neither lm-eval nor the hub", "--target", "xx"),
                                         (78, "--benchmarks winogrande", "--target", "el", "--benchmarks", "winogrande"),
                                         (78, "--data boolq.el=x", "--target", "el", "--data", "boolq.el=x"),
                                         (78, "--data /nowhere", "--target", "el", "--data", "/nowhere"),
                                         (65, "there is no such file", "--target", "el", "--data", "arc.el=/nowhere.jsonl"),
                                         (65, "its train split", "--target", "el", "--data", f"arc.el={alone}"),
                                         (65, "1 examples of world_religions, wanted 5", "--target", "el", "--data",
                                          f"mmlu.el={few_test.replace('test', '{split}')}")):
            found, _, err = self.call(*arguments)
            self.assertEqual((found, err.count("\n")), (code, 1), err)
            self.assertIn(wanted, err)


class Table(Folder):
    def results(self, name, scores, more=None):
        rows = [{"benchmark": b, "language": l, "task": "t", "source": "s", "shots": 5, "metric": "acc", "n": 100, "acc": value,
                 "acc_stderr": 0.01} for (b, l), value in scores.items()]
        return name + "=" + self.write(f"{name}.json", {"format": "neuronmoe-benchmarks", "format_version": 1, "bos_rule": "bos = auto",
                                                        "limit": None, "scores": rows, **(more or {})})

    def call(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = benchmark_table.main(list(arguments))
        return code, out.getvalue(), err.getvalue()

    def test_rows_columns_and_errors(self):
        dense = self.results("dense", {("arc", "en"): 0.5111, ("arc", "el"): 0.3193})
        stage = self.results("stage1", {("arc", "en"): 0.4915, ("arc", "el"): 0.3416})
        table, png = str(self.folder / "t.csv"), str(self.folder / "t.png")
        code, out, err = self.call(dense, stage, "--csv", table, "--png", png)
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, r"^ +ARC en \(5\) +ARC el \(5\)\ndense +51.11 ± 1.00 +31.93 ± 1.00\nstage1 +49.15")
        self.assertIn("bos = auto", out)
        with open(table, encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.assertEqual((rows[1]["method"], rows[1]["arc_el"], rows[1]["arc_el_stderr"]), ("stage1", "34.16", "1.00"))
        self.assertTrue(pathlib.Path(png).read_bytes().startswith(b"\x89PNG"))

    def test_rows_that_were_made_differently_are_refused(self):
        dense = self.results("dense", {("arc", "en"): 0.5})
        for more, wanted in (({"limit": 5}, "limit is 5, in the first row None"), ({"bos_rule": "bos = no"}, "bos is bos = no"),
                             ({"format_version": 2}, "version 2"), ({"scores": [{}]}, "benchmark")):
            code, _, err = self.call(dense, self.results("other", {("arc", "en"): 0.5}, more))
            self.assertEqual((code, err.count("\n")), (65, 1), err)
            self.assertIn(wanted, err)


if __name__ == "__main__":
    unittest.main()
