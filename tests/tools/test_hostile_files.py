# SPDX-License-Identifier: Apache-2.0
"""Every tool that reads a file, with files that are not what it wants: damaged, empty, binary, of another kind, nested without end,
with NaN. One line on standard error, an exit code of README, no traceback, and nothing is left behind."""
import contextlib
import io
import os
import pathlib
import runpy
import shutil
import sys
import tempfile
import unittest

import h5py
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tools"), str(HERE / "fake_lm_eval")]
import synthetic  # noqa: E402

CODES = (65, 70, 75, 78)
TEXTS = {
    "empty": b"", "blank": b"\n\n", "binary": bytes(range(256)) * 8, "start of HDF5": b"\x89HDF\r\n\x1a\n" + bytes(200),
    "cut JSON": b'{"format": "neuronmoe-eval", "perplexity": {"en"', "array": b"[1, 2, 3]\n", "null": b"null\n", "string": b'"text"\n',
    "NaN": b'{"step": NaN, "text": NaN, "format": NaN, "benchmarks": NaN, "hidden_size": NaN, "scores": NaN}\n', "deep": b"[" * 100000,
    "long number": b"9" * 5000 + b"\n", "other columns": b"a,b\n1,2\n", "no numbers": b"layer,unit,expert,high_ap,total,en\n0,x,base,nan,nan,nan\n",
    "far layer": b"layer,unit,expert,high_ap,total,en\nm.layers.99999999999.x,1,exp_99999999999,1,1,1\n", "Latin-1": b"caf\xe9 = 1\n",
    "a config": b"[rates]\nproduct = -1\nmemory = nan\n", "list of zeros": b"ADA_MOE_NUM_EXPERTS_LIST=0,0\n",
    "list of words": b"ADA_MOE_NUM_EXPERTS_LIST=1,two\n", "long list": b"ADA_MOE_NUM_EXPERTS_LIST=1,99999999999999999999\n"}
PLACES = ("a folder", "nothing there")


def h5_files(folder):
    """HDF5 files that open, and are not what anybody writes."""
    def with_format(name, change):
        for kind, write in (("neurons", synthetic.write_neurons), ("expert-neurons", synthetic.write_expert_neurons)):
            path = folder / f"{name}, {kind}"
            write(path)
            with h5py.File(path, "r+") as file:
                change(file)
            yield path

    def set_to(name, value):
        def change(file):
            if name in file:
                del file[name]
                file[name] = value
        return change

    with h5py.File(folder / "no format", "w") as file:
        file.attrs["complete"] = 1
    with h5py.File(folder / "scores without ap", "w") as file:
        file.attrs.update({"complete": 1, "format": "neuronmoe-scores"})
    found = [folder / "no format", folder / "scores without ap"]
    for name, change in (("not complete", lambda file: file.attrs.update({"complete": 0})),
                         ("later version", lambda file: file.attrs.update({"format_version": 9})),
                         ("version of words", lambda file: file.attrs.update({"format_version": "x"})),
                         ("languages are numbers", set_to("language", np.arange(3))), ("flat AP", set_to("ap", 0.5)), ("AP of words", set_to("ap", [b"x"] * 6)),
                         ("layer beyond", set_to("module/layer", np.array([2**32 - 1], dtype="u4"))),
                         ("expert beyond", set_to("expert/id", np.array([2**32 - 1], dtype="u4"))), ("no counts", set_to("expert/total", [b"x"])),
                         ("a folder for AP", lambda file: (file.__delitem__("ap"), file.create_group("ap")))):
        found += with_format(name, change)
    return found


# Tool -> rows of (suffix of the bad file, arguments, names of contents that are good for it). {bad} is the file, {out} where to write,
# {h5}, {experts}, {cfg} good ones.
ANY_TEXT = {name for name, content in TEXTS.items() if content.strip() and name not in ("binary", "start of HDF5", "Latin-1")}
A_SENTENCE = {name for name, content in TEXTS.items() if name in ANY_TEXT and any(20 < len(line) <= 500 for line in content.split(b"\n"))}
ROWS = {
    "tools/analysis_reference.py": [("", ["{bad}", "{bad}", "{bad}", "--languages", "en,el"], ()), ("", ["--make-tokenizer", "{bad}", "{out}"], ())],
    "tools/benchmark_table.py": [(".json", ["{bad}", "--csv", "{out}"], ())],
    "tools/benchmark_tasks.py": [(suffix, ["--target", "el", "--output", "{out}", "--benchmarks", name, "--data", f"{name}.el={{bad}}"], ())
                                 for name, suffix in (("arc", ".jsonl"), ("belebele", ".jsonl"), ("hellaswag", ".jsonl"), ("hellaswag", ".txt"),
                                                      ("hellaswag", ".txt.bz2"), ("mmlu", ".jsonl"), ("mmlu", ".zip"))],
    "tools/check_adapter.py": [("", ["{bad}", "{bad}", "{bad}", "{bad}"], ())],
    "tools/check_export.py": [("", ["{bad}", "{bad}"], ())],
    "tools/check_lm_eval.py": [("", ["--model", "{bad}", "--benchmarks", "{bad}", "--workdir", "{out}"], ())],
    "tools/check_tokenizers.py": [("", ["/bin/false", "{bad}"], ())],
    "tools/expert_table.py": [(".cfg", ["{bad}"], ()), (".cfg", ["{cfg}", "{bad}", "--csv", "{out}"], ())],
    "tools/lm_eval_neuronmoe.py": [("", ["read", "{bad}", "{bad}", "--benchmarks", "{bad}", "--model", "{bad}", "--output", "{out}"], ()),
                                   ("", ["write", "{out}", "--benchmarks", "{bad}", "--model", "{model}"], ())],
    "tools/make_corpus.py": [(suffix, ["--output", "{out}", "en={bad}"], ()) for suffix in (".jsonl", ".txt", ".jsonl.gz", ".jsonl.zst", ".odt")],
    "tools/make_golden.py": [("", ["--output", "{bad}", "--interventions"], ())],
    "tools/make_prompts.py": [(".jsonl", ["--output", "{out}", "{bad}"], ()), (".txt", ["--output", "{out}", "--lines", "{bad}"], ANY_TEXT)],
    "tools/make_sense.py": [(suffix, ["--output", "{out}", "en={bad}"], A_SENTENCE if suffix == ".txt" else ())
                            for suffix in (".jsonl", ".txt", ".txt.gz", ".ndjson.zst")],
    "tools/neuron_counts.py": [(".h5", ["{bad}", "{out}"], ()), (".csv", ["{bad}", "{out}"], ()), (".csv", ["en={bad}", "{out}"], ())],
    "tools/performance_model.py": [("", [option, "{bad}"], ()) for option in ("--model", "--experts", "--rates", "--measured")],
    "tools/plot_ap.py": [(".h5", ["{bad}", "{out}"], ())],
    "tools/plot_experts.py": [(suffix, ["{bad}", "{out}", "--languages", "el"], ()) for suffix in (".h5", ".csv")],
    "tools/plot_neurons.py": [(".h5", ["{bad}", "{out}"], ()), (".csv", ["{bad}", "{out}"], ()), (".cfg", ["{h5}", "{out}", "--experts", "{bad}"], ())],
    "tools/prepare_corpus.py": [("", ["--output", "{out}", "--languages", "en", "--item-languages", "en", "--cache", "{cache}"], ())],
    "tools/report.py": [("", ["--work", "{bad}", "--source", "en", "--target", "el", "--output", "{out}"], ())],  # its files: test_report.py
    "tools/scaling_report.py": [("", ["{bad}", "--output", "{out}"], ())],  # its files: test_files_of_a_study
    "tools/to_tensorboard.py": [("", ["{bad}", "--output", "{out}"], ())],
    "tools/bench/analyze_against_torch.py": [("", ["{bad}", "{bad}"], ())],
    "tools/bench/ap_against_sklearn.py": [("", ["{bad}"], ())],
    "tools/bench/bench_tokenizers.py": [("", ["{bad}", "{bad}", "{bad}", "{bad}"], ())],
    "tools/bench/torch_peer.py": [("", [], ())],
    "launch/pipeline_config.py": [(".cfg", ["{bad}", "--work", "{out}"], ())],
}


class HostileFiles(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = pathlib.Path(folder.name)
        self.names = {"h5": self.work / "good.h5", "experts": self.work / "good-experts.h5", "cfg": self.work / "good.cfg",
                      "cache": self.work / "cache", "model": self.work / "model"}
        synthetic.write_neurons(self.names["h5"])
        synthetic.write_expert_neurons(self.names["experts"])
        synthetic.write_experts(self.names["cfg"])
        self.names["model"].mkdir()
        (self.names["model"] / "config.json").write_text("{}")
        self.names["cache"].mkdir()

    def call(self, tool, arguments):
        """(exit code, standard output, standard error) of a tool in this process; a traceback is an error of the test."""
        out, err, before = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = [str(ROOT / tool), *arguments]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_path(str(ROOT / tool), run_name="__main__")
            return 0, out.getvalue(), err.getvalue()
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
        finally:
            sys.argv = before

    def check(self, tool, arguments, bad, good=False):
        target = self.work / "out.png"
        filled = [word.format(bad=bad, out=target, **self.names) for word in arguments]
        with self.subTest(tool=tool, file=bad.name, arguments=arguments):
            code, _, err = self.call(tool, filled)
            if good:
                self.assertEqual(code, 0, err)
            else:
                self.assertIn(code, CODES, err)
                lines = [line for line in err.splitlines() if not line.startswith("neuronmoe: bos = ")]  # what lm-eval is told
                self.assertEqual(len(lines), 1, err)
                self.assertGreater(len(lines[0]), 10)
                self.assertNotIn("NMOE_TRACEBACK", err)  # the net below all: it cannot name the file
                self.assertFalse(target.is_file(), err)
            self.assertEqual([path.name for path in self.work.rglob("*.tmp*")], [])
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)

    def test_every_tool_is_in_the_table(self):
        tools = [path for folder in ("tools", "tools/bench", "launch") for path in (ROOT / folder).glob("*.py")]
        self.assertEqual({str(path.relative_to(ROOT)) for path in tools
                          if '__name__ == "__main__"' in path.read_text() or "parse_args()" in path.read_text()}, set(ROWS))

    def test_text_and_bytes(self):
        for tool, rows in ROWS.items():
            for suffix, arguments, good in rows:
                for name, content in TEXTS.items():
                    bad = self.work / (name.replace(" ", "-") + suffix)  # a blank would end the path of LANG=PATH
                    bad.write_bytes(content)
                    if "{cache}" in arguments:
                        (self.names["cache"] / "libreoffice-help-en-us_1_all.deb").write_bytes(content)
                    self.check(tool, arguments, bad, name in good)
                    bad.unlink()

    def test_places(self):
        for tool, rows in ROWS.items():
            for suffix, arguments, _ in rows:
                if "{bad}" not in "".join(arguments) or "bench" in tool:
                    continue
                for name in PLACES:
                    bad = self.work / (name.replace(" ", "-") + suffix)  # a blank would end the path of LANG=PATH
                    if name == "a folder":
                        bad.mkdir()
                    self.check(tool, arguments, bad)
                    if bad.exists():
                        bad.rmdir()

    def test_hdf5_of_another_kind(self):
        folder = self.work / "h5"
        folder.mkdir()
        for bad in h5_files(folder):
            for tool, rows in ROWS.items():
                for suffix, arguments, _ in rows:
                    if suffix == ".h5":
                        fits = {"plot_experts": "expert-neurons", "plot_ap": "neurons", "neuron_counts": ", neurons", "plot_neurons": ", neurons"}
                        # what a tool does not read may be anything
                        harmless = {"plot_ap": ("layer beyond", "expert beyond", "no counts"),
                                    "plot_experts": ("flat AP", "AP of words", "layer beyond", "a folder for AP"),
                                    "neuron_counts": ("expert beyond", "no counts"), "plot_neurons": ("expert beyond", "no counts")}
                        stem = os.path.basename(tool)[:-3]
                        good = fits[stem] in bad.name and bad.name.startswith(harmless[stem])
                        self.check(tool, arguments, bad, good)

    def test_files_of_a_run(self):
        """Each file that the report reads; lines of metrics.jsonl that are none are passed over."""
        run = self.work / "run"
        step = run / "el" / "stage1" / "step_0000000120"
        any_object = ["base/config.json", "el/stage1/exit.json", *(f"el/stage1/{step.name}/{name}.json" for name in ("manifest", "provenance"))]
        names = any_object + [f"el/eval-{stage}.{end}" for stage in ("dense", "stage2") for end in ("json", "items.jsonl")] + [
            "el/eval-before.json", "neurons.h5", "el/experts.cfg", "el/expert_neurons.h5", "el/eval-dense.interventions.h5", "el/texts-dense.jsonl",
            "corpus/corpus.json",
            "el/stage1/metrics.jsonl"]
        for name in names:
            synthetic.write_journey(str(run))
            for folder in (step, run / "corpus"):
                folder.mkdir(exist_ok=True)
            for content in ("binary", "start of HDF5", "cut JSON", "array", "NaN", "deep", "long number", "list of zeros"):
                (run / name).write_bytes(TEXTS[content])
                with self.subTest(file=name, content=content):
                    code, _, err = self.call("tools/report.py", ["--work", str(run), "--source", "en", "--target", "el"])
                    fine = name.endswith("metrics.jsonl") or (content == "NaN" and name in any_object)
                    self.assertIn(code, (0, 65) if fine else CODES, err)
                    self.assertEqual(err.count("\n"), int(code != 0), err)
                    self.assertNotIn("NMOE_TRACEBACK", err)
                    self.assertTrue(code == 0 or os.path.basename(name) in err, err)
            shutil.rmtree(run)

    def test_files_of_a_study(self):
        """Each file that the report of a scaling study reads, with every content; blank, job_id, exit_code and plan.json are not there yet."""
        study, out, run = self.work / "study", self.work / "out", "strong-n1-r2"
        shutil.copytree(HERE / "data" / "scaling", study)
        (study / run / "run" / "exit.json").write_text('{"reason": "no room"}')
        contents = {**TEXTS, "null in a plan": b'{"quantities": [null]}', "empty object": b"{}",
                    "NaN in a step": b'{"step_s": NaN, "tokens_per_s": 1, "bytes": {}, "flops": 1}\n' * 9,
                    "an infinite step": b'{"step_s": 1e999, "tokens_per_s": 1, "bytes": {}, "flops": 1}\n' * 9,
                    "another mode": b'{"mode": "../x", "nodes": 1, "ranks": 1, "repeat": 1, "global_batch_size": 8, "micro_batch_size": 2}',
                    "ranks of words": b'{"mode": "weak", "nodes": 1, "ranks": "1", "repeat": 1, "global_batch_size": 8, "micro_batch_size": 2}',
                    "no ranks": b'{"mode": "weak", "nodes": 1, "ranks": 0, "repeat": 1, "global_batch_size": 8, "micro_batch_size": 2}'}
        fine = {"point.json": (), "run/metrics.jsonl": (), "plan.json": ("empty", "blank"), "exit_code": ("empty", "blank"),
                "run/exit.json": ("empty object", "NaN", "null in a plan", "another mode", "ranks of words", "no ranks"),
                "job_id": set(contents) - {"binary", "start of HDF5", "Latin-1"}}
        for name, good in fine.items():
            bad = study / run / name
            before = bad.read_bytes() if bad.exists() else None
            (study / run / "exit_code").write_text("75\n" if name == "run/exit.json" else "0\n")
            for content, text in contents.items():
                bad.write_bytes(text)
                with self.subTest(file=name, content=content):
                    code, _, err = self.call("tools/scaling_report.py", [str(study), "--output", str(out)])
                    self.assertEqual(code, 0 if content in good else 65, err)
                    self.assertNotIn("NMOE_TRACEBACK", err)
                    if content not in good:
                        self.assertEqual(err.count("\n"), 1, err)
                        self.assertIn(str(bad), err)
                        self.assertFalse(out.exists())
                    self.assertEqual([path.name for path in self.work.rglob("*.tmp*")], [])
                shutil.rmtree(out, ignore_errors=True)
            bad.unlink() if before is None else bad.write_bytes(before)


if __name__ == "__main__":
    unittest.main()
