# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/loglikelihood_files.py, lm_eval_neuronmoe.py and launch/evaluate.sh, with a program, an lm-eval and a tokenizer that
only pretend."""
import contextlib
import io
import json
import os
import subprocess
import sys
import unittest
import unittest.mock

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FAKES = os.path.join(HERE, "fake_lm_eval")
sys.path[:0] = [os.path.join(ROOT, "tools"), FAKES]
import lm_eval_neuronmoe as plugin  # noqa: E402
import loglikelihood_files as files  # noqa: E402
import transformers  # noqa: E402
from records import BELEBELE, Folder  # noqa: E402


class Files(Folder):
    def exchange(self, *answers):
        requests, path = str(self.folder / "r.jsonl"), self.write("a.jsonl", *answers)
        writer = files.RequestWriter(requests)
        for line in (files.pair_line([1, 2], [3]), files.rolling_line([4, 5], 0), files.pair_line([1, 2], [3])):
            writer.add(line)
        self.assertTrue(os.path.exists(requests + ".tmp"))
        self.assertEqual(writer.close(), 2)
        return requests, path

    def test_answers_are_found_by_request(self):
        found = files.read_answers(*self.exchange({"loglikelihood": -1.5, "is_greedy": True, "tokens": 1},
                                                  {"loglikelihood": -2.5, "is_greedy": False, "tokens": 2}))
        self.assertEqual(found[files.key_of('{"context":[1,2],"continuation":[3]}')], (-1.5, True))
        self.assertEqual(found[files.key_of('{"rolling":[4,5],"prefix":0}')], (-2.5, False))

    def test_answers_that_do_not_belong_are_refused(self):
        good = {"loglikelihood": -1.5, "is_greedy": True, "tokens": 1}
        for answers, wanted in (((good,), "1 answers, but .* more requests"), ((good, good), "line 2: 1 tokens were scored, .* has 2"),
                                ((good, {**good, "tokens": 2}, good), "more answers than the 2 requests"),
                                (({**good, "loglikelihood": None}, good), "line 1: not an answer"),
                                (({**good, "loglikelihood": float("nan")}, good), "line 1: loglikelihood nan"), (({}, good), "not an answer")):
            with self.assertRaisesRegex(files.ToolError, wanted) as raised:
                files.read_answers(*self.exchange(*answers))
            self.assertIn("a.jsonl", str(raised.exception))

    def test_answers_to_other_requests_are_refused(self):
        requests, answers = self.exchange()
        with self.assertRaisesRegex(files.ToolError, "a.jsonl.json: No such file"):
            files.provenance_of(requests, answers)
        self.write("a.jsonl.json", {"requests_hash": "0" * 64})
        with self.assertRaisesRegex(files.ToolError, "a.jsonl: these are answers to other requests than .*r.jsonl"):
            files.provenance_of(requests, answers)
        self.write("a.jsonl.json", {"requests_hash": files.hash_of(requests), "version": "1"})
        self.assertEqual(files.provenance_of(requests, answers)["version"], "1")

    def test_first_token(self):
        adds, plain = transformers.Tokenizer(), transformers.Tokenizer(adds_bos=False)
        cases = {("auto", adds): [256, 97], ("auto", plain): [97], ("yes", plain): [256, 97], ("yes", adds): [256, 97], ("no", adds): [97]}
        for (rule, tokenizer), ids in cases.items():
            encoder = files.Encoder(tokenizer, rule)
            self.assertEqual(encoder.encode("a"), ids, rule)
            self.assertEqual(encoder.encode("<s>a"), [256, 97], rule)  # never a second one
            self.assertEqual(encoder.encode("a", add_special_tokens=False), [97])
            self.assertEqual(encoder.prefix, 256)
            self.assertIn("<s> (id 256)" if ids[0] == 256 else "nothing in front", encoder.describe())
        with self.assertRaisesRegex(files.ToolError, "expected auto, yes, no"):
            files.Encoder(plain, "maybe")

    def test_longest_input(self):
        (self.folder / "config.json").write_text('{"max_position_embeddings": 99, "text_config": {"n_ctx": 7}}', encoding="utf-8")
        self.assertEqual(files.max_length_of(str(self.folder)), 7)
        with self.assertRaisesRegex(files.ToolError, "nowhere/config.json: No such file"):
            files.max_length_of("/nowhere")


class Plugin(Folder):
    def setUp(self):
        super().setUp()
        (self.folder / "config.json").write_text('{"max_position_embeddings": 4096}', encoding="utf-8")

    def model(self, **options):
        with contextlib.redirect_stderr(io.StringIO()):
            return plugin.NeuronMoE(str(self.folder), **options)

    def test_registered_and_refuses_what_the_program_cannot(self):
        self.assertIs(sys.modules["lm_eval.api.registry"].MODELS["neuronmoe"], plugin.NeuronMoE)
        request = type("Request", (), {"task_name": "gsm8k", "args": ("a", {})})
        with self.assertRaisesRegex(files.ToolError, "gsm8k: this task lets the model write, behind .* use bos=auto"):
            self.model(bos="no").generate_until([request])
        lm = self.model()
        lm.exchange = plugin.Exchange()
        lm.exchange.mode = "write"
        with self.assertRaisesRegex(files.ToolError, "gsm8k: this task lets the model write, which only `run` can do"):
            lm.generate_until([request])
        with self.assertRaisesRegex(files.ToolError, "0 tokens; 1 to 4096"):
            self.model()._loglikelihood_tokens([(("context", ""), [1], [])])
        with self.assertRaisesRegex(files.ToolError, "model=DIR is missing"):
            plugin.NeuronMoE()
        info = self.model(bos="no", max_length=77).get_model_info()["neuronmoe"]
        self.assertEqual((info["bos"], info["max_length"]), ("no", 77))

    def test_texts(self):
        settings = [{"until": ["\n", "zz"], "max_gen_toks": 9, "do_sample": False, "temperature": 0.7}, {"until": "x"},
                    {"max_gen_toks": 9, "do_sample": True, "temperature": 0.5, "top_p": 0.9}, {"max_gen_toks": 9}]
        requests = [type("Request", (), {"task_name": "gsm8k", "args": (prompt, how)})
                    for prompt, how in zip(("abc\nd", "xyz", "ä", "last"), settings)]
        lm, environment = self.model(), {"NMOE_BINARY": os.path.join(HERE, "fake_neuronmoe.py")}
        with unittest.mock.patch.dict(os.environ, environment):
            lm.cache_hook = type("Hook", (), {"add_partial": staticmethod(lambda *a: None)})
            texts = lm.generate_until(requests)
        self.assertEqual(texts, ["d", "zy", "ä ['9', '0.5', '0.9']\nmore", "tsal ['9', '0.0', '1.0']\nmore"])
        self.assertEqual(files.until_first("a stop b", ["b", "stop", ""]), "a ")
        self.assertEqual(files.until_first("a", None), "a")
        (self.folder / "t.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
        with self.assertRaisesRegex(files.ToolError, "t.jsonl: 1 texts, 2 were asked for"):
            files.read_texts(str(self.folder / "t.jsonl"), 2)

    def test_an_answer_that_is_not_there(self):
        lm = self.model()
        lm.exchange = plugin.Exchange()
        lm.exchange.mode, lm.exchange.answers_path = "read", "answers.jsonl"
        with self.assertRaisesRegex(files.ToolError, "answers.jsonl: no answer to the request .*write the requests again"):
            lm.loglikelihood_rolling([type("Request", (), {"args": ("text",)})])


class CommandLine(Folder):
    """tools/lm_eval_neuronmoe.py with lm-eval's options."""

    def setUp(self):
        super().setUp()
        (self.folder / "config.json").write_text('{"max_position_embeddings": 4096}', encoding="utf-8")
        self.requests, self.answers = str(self.folder / "r.jsonl"), str(self.folder / "a.jsonl")
        self.program = os.path.join(HERE, "fake_neuronmoe.py")

    def call(self, *arguments, task="pair"):
        done = subprocess.run(["/usr/bin/python3", os.path.join(ROOT, "tools", "lm_eval_neuronmoe.py"), *arguments, "--model_args",
                               f"model={self.folder},bos=no", "--tasks", task], capture_output=True, text=True, check=False,
                              env=dict(os.environ, NMOE_BINARY=self.program, PYTHONPATH=FAKES))
        return done.returncode, done.stdout, done.stderr

    def test_one_process_and_three_steps_agree(self):
        code, one, err = self.call("run")
        self.assertEqual(code, 0, err)
        self.assertRegex(one, r"^table \[\(-\d.*no$")
        code, out, err = self.call("write", self.requests)
        self.assertEqual((code, out), (0, f"neuronmoe: 3 requests in {self.requests}\n"), err)
        subprocess.run([self.program, *files.program_command(self.requests, self.answers, str(self.folder))], check=True)
        code, three, err = self.call("read", self.requests, self.answers)
        self.assertEqual((code, three), (0, one), err)

    def test_errors_are_one_line(self):
        for code, wanted, task, *arguments in (
                (78, "'evaluate': expected run, write or read", "pair", "evaluate"), (78, "--model: the model is neuronmoe", "pair", "run", "--model", "hf"),
                (78, "expected REQUESTS.jsonl ANSWERS.jsonl first", "pair", "read", self.requests),
                (78, "--output_path: `write` has no scores yet", "pair", "write", self.requests, "--output_path", "x"),
                (65, "r.jsonl: No such file or directory; write the requests first", "pair", "read", self.requests, self.answers),
                (70, "lm-eval: no such task (ValueError;", "nothing", "write", self.requests)):
            found, out, err = self.call(*arguments, task=task)
            lines = [line for line in err.splitlines() if not line.startswith("neuronmoe: bos")]
            self.assertEqual((found, out, len(lines)), (code, "", 1), err)
            self.assertIn(wanted, err)
            self.assertEqual([path.name for path in self.folder.iterdir()], ["config.json"])


class Evaluate(Folder):
    """launch/evaluate.sh from MODEL to table."""

    def setUp(self):
        super().setUp()
        model = self.folder / "model"
        for name in ("model", "stage1", "stage2"):
            (self.folder / name).mkdir()
        (model / "config.json").write_text('{"max_position_embeddings": 4096}', encoding="utf-8")
        for lang in ("en", "el"):
            self.write(f"own/belebele/{lang}.jsonl", *[{**BELEBELE, "question": f"Who {n}?"} for n in range(7)])
        self.arguments = [str(model), "--target", "el", "--benchmarks", "belebele", "--data", str(self.folder / "own"), "--workdir",
                          str(self.folder / "work")]

    def call(self, *arguments, **extra):
        done = subprocess.run([os.path.join(ROOT, "launch", "evaluate.sh"), *self.arguments, *arguments], capture_output=True, text=True,
                              check=False, env=dict(os.environ, NMOE_BINARY=os.path.join(HERE, "fake_neuronmoe.py"), PYTHONPATH=FAKES,
                                                    NMOE_LM_EVAL_PYTHON="/usr/bin/python3", NMOE_PROGRESS_S="100", **extra))
        return done.returncode, done.stdout, done.stderr

    def stages(self):
        return [str(self.folder / "stage1"), f"second={self.folder / 'stage2'}"]

    def test_from_model_to_table_and_reuse(self):
        code, out, err = self.call(*self.stages(), "--limit", "5")
        self.assertEqual((code, err), (0, ""), out)
        self.assertRegex(out, r"\n +Belebele en \(0\) +Belebele el \(0\)\ndense .*\nstage1 .*\nsecond .*\n")
        self.assertIn("5 items", out)
        work = self.folder / "work"
        scores = json.loads((work / "second.json").read_text(encoding="utf-8"))
        self.assertEqual((scores["answers"]["options"]["--resume"], scores["bos"]), (str(self.folder / "stage2"), "auto"))
        self.assertEqual(len((work / "dense.json.items.jsonl").read_text(encoding="utf-8").splitlines()), 10)
        self.assertTrue((work / "table.png").read_bytes().startswith(b"\x89PNG"))
        self.assertEqual(len((work / "requests.jsonl").read_text(encoding="utf-8").splitlines()), 20)  # en and el are the same here
        _, out, _ = self.call(*self.stages(), "--limit", "5")
        self.assertEqual((out.count("reusing:"), out.count("running:")), (7, 0), out)
        (self.folder / "stage1" / "step_9").mkdir()
        (self.folder / "stage1" / "step_9" / "weights").write_text("other", encoding="utf-8")
        _, out, _ = self.call(*self.stages(), "--limit", "5")
        self.assertEqual([line for line in out.splitlines() if line.startswith("running")], ["running:  run-stage1"], out)

    def test_three_steps(self):
        code, out, _ = self.call("--only", "run")
        self.assertEqual((code, "write the requests first" in _), (65, True), out)
        self.assertEqual(self.call("--only", "write")[0], 0)
        code, _, err = self.call("--only", "read")
        self.assertEqual((code, err.count("\n")), (65, 1), err)
        self.assertIn("dense.answers.jsonl; make it with --only run", err)
        self.assertEqual(self.call("--only", "run", "--python", "/nowhere/python")[0], 0)
        code, out, _ = self.call("--only", "read")
        self.assertIn("Belebele el", out)
        code, _, err = self.call("--only", "read", "--limit", "99", "--bos", "no")
        self.assertEqual(code, 65)
        self.assertIn("no answer to the request", err)

    def test_wrong_options_are_one_line_and_78(self):
        for arguments in (["--bogus"], ["--target"], ["--preset", "x"], ["--bos", "maybe"], ["--limit", "0"], ["--ranks", "x"],
                          ["--only", "all"], ["/nowhere"], [f"a b={self.folder}"], [f"dense={self.folder}"], ["--benchmarks", "boolq"],
                          ["--python", "/nowhere/python"], ["--max-length", "-1"], ["--data", "/nowhere"]):
            code, out, err = self.call(*arguments)
            self.assertEqual((code, out, err.count("\n")), (78, "", 1), (arguments, err))

    def test_a_failure_names_the_log(self):
        code, _, err = self.call(FAKE_FAIL="loglikelihood")
        self.assertEqual(code, 65, err)
        self.assertIn("fake: no answers today\nevaluate: run-dense failed with exit code 65; log: ", err)
        code, _, err = self.call("--task", "belebele.el=broken")
        self.assertIn("broken: lm-eval cannot run it ('no such data set", err)
        self.assertFalse((self.folder / "work" / "requests.jsonl.tmp").exists())
        code, _, err = self.call("--task", "belebele.el=writes")
        self.assertIn("writes: this task lets the model write", err)
        self.assertEqual(code, 78)


if __name__ == "__main__":
    unittest.main()
