# SPDX-License-Identifier: Apache-2.0
"""Tests of launch/pipeline.sh, launch/pipeline_config.py and launch/run.sh with a program that only pretends
(fake_neuronmoe.py), under the real mpirun: reuse, resume, kill, failure, settings."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "launch"))
import pipeline_config  # noqa: E402

FAKE = os.path.join(HERE, "fake_neuronmoe.py")
CONFIG = os.path.join(ROOT, "configs", "quickstart.cfg")
SPM = shutil.which("spm_train")


def make_corpus(work):
    folder = os.path.join(work, "corpus")
    os.makedirs(folder)
    with open(os.path.join(folder, "corpus.json"), "w", encoding="utf-8") as stream:
        json.dump({"license": "none", "seed": 1, "packages": {}, "counts": {s: {} for s in ("train", "tune", "test")}},
                  stream)
    with open(os.path.join(folder, "tokenizer.txt"), "w", encoding="utf-8") as stream:
        for i in range(400):
            stream.write(f"sentence {i} about the colour of table {i * i} and γραμμή {i * 7}\n")
    os.makedirs(os.path.join(folder, "text", "test"))
    for lang, text in (("en", "This is a text of ten words, no fewer than that."), ("el", "μία γραμμή"), ("hu", "egy sor")):
        with open(os.path.join(folder, "text", "test", lang + ".jsonl"), "w", encoding="utf-8") as stream:
            stream.write(json.dumps({"text": "short"}) + "\n" + json.dumps({"text": text}) + "\n")


@unittest.skipUnless(SPM and shutil.which("mpirun"), "sentencepiece and Open MPI are not installed")
class Pipeline(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = os.path.join(folder.name, "work")
        make_corpus(self.work)
        model = os.path.join(folder.name, "model.json")
        shutil.copy(os.path.join(ROOT, "configs", "quickstart-model.json"), model)
        with open(model, encoding="utf-8") as stream:
            text = stream.read().replace("4096", "300")
        with open(model, "w", encoding="utf-8") as stream:
            stream.write(text)
        self.options = ["--workdir", self.work, "--set", "tokenizer.vocab_size=300", "--set", f"pipeline.model={model}"]

    def environment(self, **extra):
        return dict(os.environ, NMOE_BINARY=FAKE, NMOE_PROGRESS_S="1", **extra)

    def start(self, *arguments, **extra):
        return subprocess.Popen([os.path.join(ROOT, "launch", "pipeline.sh"), CONFIG, *self.options, *arguments],
                                env=self.environment(**extra), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, cwd=self.work, preexec_fn=self.hear_interrupts)

    @staticmethod
    def hear_interrupts():
        """A job started in the background ignores SIGINT, and a shell cannot trap what it inherits as ignored."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def call(self, *arguments, **extra):
        process = self.start(*arguments, **extra)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out

    def calls(self):
        with open(os.path.join(self.work, "calls.jsonl"), encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]

    def ranks(self):
        found = subprocess.run(["pgrep", "-f", FAKE], stdout=subprocess.PIPE, text=True, check=False).stdout.split()
        return [pid for pid in found if self.work == self.cwd(pid)]

    @staticmethod
    def cwd(pid):
        try:
            return os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return ""

    def wait_for(self, condition, what):
        for _ in range(300):
            if condition():
                return
            time.sleep(0.1)
        self.fail("never happened: " + what)

    def steps_done(self, output):
        path = os.path.join(self.work, output, "metrics.jsonl")
        if not os.path.exists(path):
            return 0
        with open(path, encoding="utf-8") as stream:
            return sum(1 for _ in stream)

    def test_whole_journey_then_reuse(self):
        code, out = self.call("--check")
        self.assertEqual(code, 0, out)
        self.assertEqual([call[0] for call in self.calls()], [
            "tokenize", "tokenize", "pretrain", "analyze", "allocate", "evaluate", "train", "train", "evaluate",
            "evaluate", "generate", "generate", "generate", "specialize"])
        with open(os.path.join(self.work, "el", "prompts.jsonl"), encoding="utf-8") as stream:
            self.assertEqual([json.loads(line) for line in stream], [{"prompt": "This is a text of"}, {"prompt": "short"}])
        self.assertIn("This is a text of ...\n  dense base  This is a text of!", out)
        stage2 = [options for command, options in self.calls() if command == "train"][1]
        self.assertEqual((stage2["--stage"], stage2["--train.init_from"], stage2["--resume"]), ("2", "el/stage1", "auto"))
        self.assertIn("all inequalities hold", out)
        self.assertTrue(os.path.exists(os.path.join(self.work, "el", "report.html")))
        before = len(self.calls())
        code, out = self.call()
        self.assertEqual(code, 0)
        self.assertEqual(len(self.calls()), before)
        self.assertEqual(out.count("reusing:"), 16)

    def own_model(self):
        """Options for a base and text of the user's own."""
        folder = os.path.dirname(self.work)
        os.makedirs(os.path.join(folder, "my model"))
        with open(os.path.join(folder, "my model", "config.json"), "w", encoding="utf-8") as stream:
            stream.write("{}")
        options = ["--workdir", self.work, "--set", f"pipeline.base={folder}/my model", "--set", "text.sentences=30"]
        for lang in ("en", "es", "zh", "el", "hu", "tr"):
            path = os.path.join(folder, lang + ".jsonl")
            with open(path, "w", encoding="utf-8") as stream:
                for i in range(300):
                    stream.write(json.dumps({"text": f"Document {i} of {lang} has one sentence here. And a second one there."}) + "\n")
            options += ["--set", f"corpus.{lang}={path}"]
        return options

    def test_a_base_of_ones_own(self):
        shutil.rmtree(os.path.join(self.work, "corpus"))
        self.options = self.own_model()
        code, out = self.call()
        self.assertEqual(code, 0, out)
        self.assertEqual([call[0] for call in self.calls()], [
            "tokenize", "tokenize", "analyze", "allocate", "evaluate", "train", "train", "evaluate", "evaluate", "generate",
            "generate", "generate", "specialize"])
        self.assertIn("step 15 of 15", out)
        self.assertEqual(os.readlink(os.path.join(self.work, "base")), os.path.dirname(self.work) + "/my model")
        with open(os.path.join(self.work, "config", "tokenize-train.cfg"), encoding="utf-8") as stream:
            self.assertIn("tokenizer = base\n", stream.read())
        with open(os.path.join(self.work, "el", "report.html"), encoding="utf-8") as stream:
            self.assertIn("el.jsonl", stream.read())
        code, out = self.call()
        self.assertEqual((code, out.count("reusing:")), (0, 14), out)
        prompts = os.path.join(os.path.dirname(self.work), "my prompts.txt")
        with open(prompts, "w", encoding="utf-8") as stream:
            stream.write("First this\nthen that\n")
        with open(os.path.join(os.path.dirname(self.work), "my model", "config.json"), "w", encoding="utf-8") as stream:
            stream.write('{"another": "model"}')
        code, out = self.call("--set", f"pipeline.prompts={prompts}")
        self.assertIn("then that ...\n  dense base  then that!", out)
        self.assertEqual(out.count("reusing:"), 0, out)

    def test_control_and_second_target_share_the_base(self):
        self.call()
        code, out = self.call("--control", "uniform")
        self.assertEqual(code, 0)
        self.assertIn("reusing:  el/stage2", out)
        self.assertRegex(out, r"stage 2, uniform +24 \(16\)")
        code, out = self.call("--target", "hu")
        self.assertIn("reusing:  pretrain", out)
        self.assertIn("running:  hu/stage1", out)

    def test_a_second_target_extends_the_first(self):
        self.call()
        origin = os.path.join(self.work, "el", "stage2")
        os.makedirs(os.path.join(origin, "step_0000000002"))
        manifest = os.path.join(origin, "step_0000000002", "manifest.json")
        extend = ["--set", "pipeline.extend_from=el/stage2", "--target", "hu"]
        code, out = self.call(*extend)
        self.assertEqual((code, "holds no checkpoint" in out), (65, True), out)
        with open(manifest, "w", encoding="utf-8") as stream:
            stream.write("{}")
        before = len(self.calls())
        code, out = self.call(*extend)
        self.assertEqual(code, 0, out)
        calls = self.calls()[before:]
        self.assertEqual([call[0] for call in calls], ["analyze", "evaluate", "allocate", "evaluate", "train", "train", "evaluate",
                                                       "evaluate", "generate", "generate", "generate", "specialize"])
        self.assertIn("step 18 of 18", out)
        self.assertEqual((calls[0][1]["--resume"], calls[1][1]["--resume"]), (origin, origin))
        self.assertEqual((calls[2][1]["--allocation.add_to"], calls[2][1]["--allocation.neurons"]), (origin, "hu/neurons.h5"))
        self.assertEqual([call[1].get("--train.init_from") for call in calls if call[0] == "train"], [origin, "hu/stage1"])
        self.assertIn("before, the mixture", out)
        self.assertIn("were there before and are frozen", out)
        code, out = self.call(*extend)
        self.assertEqual((code, out.count("reusing:")), (0, 17), out)
        with open(manifest, "w", encoding="utf-8") as stream:
            stream.write("{ }")
        before = len(self.calls())
        self.call(*extend)
        self.assertEqual([call[0] for call in self.calls()[before:]], ["analyze", "evaluate", "allocate", "train", "train", "evaluate",
                                                                       "evaluate", "generate", "generate", "specialize"])
        code, out = self.call("--set", "pipeline.extend_from=el/stage2")
        self.assertEqual((code, "is what the target el writes" in out), (78, True), out)
        self.assertTrue(os.path.exists(manifest))

    def test_changed_settings_start_that_step_and_later_ones_anew(self):
        self.call()
        before = len(self.calls())
        code, out = self.call("--set", "stage2.train.steps=101")
        self.assertEqual(code, 0)
        self.assertIn("reusing:  el/stage1", out)
        self.assertIn("running:  el/stage2", out)
        self.assertEqual([call[0] for call in self.calls()[before:]], ["train", "evaluate", "generate"])

    def test_failed_step_names_itself_and_its_log(self):
        code, out = self.call(FAKE_FAIL="neurons.h5")
        self.assertEqual(code, 65, out)
        self.assertRegex(out, r"step analyze failed with exit code 65; log: .*logs/analyze.log")
        self.assertIn("told to fail", out)
        self.assertEqual(self.ranks(), [])
        code, out = self.call()
        self.assertEqual(code, 0)
        self.assertIn("reusing:  pretrain", out)

    def test_signal_saves_and_the_next_run_resumes(self):
        process = self.start(FAKE_SLOW="el/stage1", FAKE_STEPS="400")
        self.wait_for(lambda: self.steps_done("el/stage1") > 3, "stage 1 under way")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 85, out)
        self.assertIn("saved its state", out)
        self.assertEqual(self.ranks(), [])
        done = self.steps_done("el/stage1")
        code, out = self.call(FAKE_SLOW="el/stage1", FAKE_STEPS=str(done + 3))
        self.assertEqual(code, 0, out)
        self.assertIn("resuming: el/stage1", out)
        self.assertEqual(self.steps_done("el/stage1"), done + 3)

    def test_killed_hard_leaves_no_rank_and_resumes(self):
        process = self.start(FAKE_SLOW="base", FAKE_STEPS="1000")
        self.wait_for(lambda: self.steps_done("base/checkpoints") > 3, "pretraining under way")
        process.kill()
        process.communicate()  # the ranks hold the pipe: returns when they are gone
        code, out = self.call(FAKE_SLOW="base", FAKE_STEPS="5")
        self.assertEqual(code, 0, out)
        self.assertIn("resuming: pretrain", out)
        self.wait_for(lambda: not self.ranks(), "all ranks gone")

    def test_term_during_another_step_stops_everything(self):
        process = self.start(FAKE_SLOW="base", FAKE_STEPS="1000")
        self.wait_for(lambda: self.steps_done("base/checkpoints") > 3, "pretraining under way")
        process.terminate()
        process.terminate()
        out, _ = process.communicate(timeout=30)
        self.assertIn(process.returncode, (85, 130), out)
        self.wait_for(lambda: not self.ranks(), "all ranks gone")

    def test_one_run_at_a_time(self):
        process = self.start(FAKE_SLOW="base", FAKE_STEPS="40")
        self.wait_for(lambda: self.steps_done("base/checkpoints") > 3, "pretraining under way")
        code, out = self.call()
        self.assertEqual(code, 0, out)
        self.assertIn("another run is busy", out)
        self.assertIn("reusing:  pretrain", out)
        process.communicate(timeout=60)

    def test_bad_options_are_one_line_and_78(self):
        for arguments in (["--bogus"], ["--target"], ["--control", "x"], ["--ranks", "0"], ["--target", "en"],
                          ["--target", "xx"], ["--set", "stage1.trian.steps=1"], ["--split", "train"]):
            code, out = self.call(*arguments)
            self.assertEqual(code, 78, (arguments, out))
            self.assertEqual(out.count("\n"), 1, (arguments, out))
            self.assertTrue(out.startswith("pipeline: "), out)

    def test_missing_text_is_65(self):
        shutil.rmtree(os.path.join(self.work, "corpus"))
        code, out = self.call()
        self.assertEqual(code, 65)
        self.assertIn("tools/prepare_corpus.py", out)


class Config(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, text):
        path = os.path.join(self.folder, "x.cfg")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def files(self, target="el", overrides=(), extra=()):
        return pipeline_config.step_files(pipeline_config.read_files([CONFIG, *extra], list(overrides)), target, "test")

    def test_stage_settings_override_the_common_ones(self):
        files = self.files(overrides=["stage1.train.seed=9"])
        self.assertIn("seed = 9\n", files["el/stage1.cfg"])
        self.assertIn("seed = 1\n", files["el/stage2.cfg"])

    def test_target_in_a_mix_and_marks(self):
        stage2 = self.files("hu")["hu/stage2.cfg"]
        self.assertIn("[data.hu]\ntokens = tokens/train.h5\nlang = hu\nmark = new\nweight = 40\n", stage2)
        self.assertIn("[data.en]\ntokens = tokens/train.h5\nlang = en\nmark = old\nweight = 45\n", stage2)

    def test_included_files(self):
        for name, text in (("a.cfg", "[train]\nstage = 1\nseed = 5\nbeta1 = 0.8\n[router]\ncompat = release\n"),
                           ("b.cfg", "[train]\nseed = 6\n[data.es]\nmark = old\ntokens = x.h5\nmax_docs = 9\n[data.target]\nmax_docs = 8\n"),
                           ("s.cfg", "[analysis]\nsense = en:a.json\nsense = el:b.json\nmax_tokens = 77\n")):
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as stream:
                stream.write(text)
        path = self.write("[pipeline]\nstage2 = a.cfg b.cfg\nanalysis = s.cfg\n[stage2.train]\nbeta1 = 0.7\n")
        files = self.files(extra=[path])
        self.assertIn("seed = 6\n", files["el/stage2.cfg"])  # the later of the two
        self.assertIn("beta1 = 0.7\n", files["el/stage2.cfg"])  # the pipeline's own section over both
        self.assertNotIn("stage = 1", files["el/stage2.cfg"])
        self.assertIn("compat = release", files["el/stage2.cfg"])
        self.assertNotIn("compat = release", files["el/stage1.cfg"])  # for its stage alone
        self.assertIn("lang = el\nmark = new\nweight = 40\nmax_docs = 8\n", files["el/stage2.cfg"])
        self.assertNotIn("77", self.files()["analyze.cfg"])
        self.assertEqual(files["analyze.cfg"].count("sense = el:"), 1)
        for text, message in (("stage1 = nowhere.cfg", "nowhere.cfg: no such file beside"), ("stage1 = x.cfg", r"\[pipeline\] means nothing")):
            with self.assertRaisesRegex(pipeline_config.ConfigError, message):
                self.files(extra=[self.write(f"[pipeline]\n{text}\n")])

    def test_base_does_not_depend_on_the_target(self):
        el, hu = self.files("el"), self.files("hu")
        for name in ("pretrain.cfg", "analyze.cfg", "tokenize-train.cfg", "tokenize-test.cfg"):
            self.assertEqual(el[name], hu[name])

    def test_later_file_wins(self):
        path = self.write("[stage1.train]\nsteps = 7\n")
        self.assertIn("steps = 7\n", self.files(extra=[path])["el/stage1.cfg"])

    def test_strictness(self):
        for text, message in (("[trian]\na = 1\n", "did you mean 'train'"),
                              ("[pipeline]\nsorce = en\n", "did you mean 'source'"),
                              ("[train]\nseed =\n", "has no value"),
                              ("[train]\nseed = 1\nseed = 2\n", "already exists"),
                              ("[stage1.mix]\nxx = 3\n", "xx is not one of"),
                              ("[stage1.mix]\nel = -3\n", "not a positive number"),
                              ("[stage1.mix]\nel = nan\n", "not a positive number"),
                              ("steps = 1\n", "no section headers")):
            with self.assertRaisesRegex(pipeline_config.ConfigError, message, msg=text):
                self.files(extra=[self.write(text)])

    def test_a_base_of_ones_own(self):
        base = os.path.join(self.folder, "base")
        os.makedirs(base)
        words = self.write("[pipeline]\nbase = base\n[corpus]\n" + "".join(
            f"{lang} = {lang}.jsonl\n" for lang in ("en", "es", "zh", "el", "hu", "tr")))
        config = pipeline_config.read_files([CONFIG, words], [])
        with self.assertRaisesRegex(pipeline_config.ConfigError, "no config.json"):
            pipeline_config.find_base(config, [words])
        open(os.path.join(base, "config.json"), "w", encoding="utf-8").close()
        self.assertEqual(pipeline_config.find_base(config, [CONFIG, words]), base)
        self.assertNotIn("pretrain.cfg", pipeline_config.step_files(config, "el", "test"))
        known = ["en", "es", "zh", "el", "hu", "tr"]
        self.assertEqual(pipeline_config.corpus_words(config, known)[:2], ["en=en.jsonl", "es=es.jsonl"])
        with self.assertRaisesRegex(pipeline_config.ConfigError, "no text for fr"):
            pipeline_config.corpus_words(config, [*known, "fr"])
        with self.assertRaisesRegex(pipeline_config.ConfigError, "tr is not one of"):
            pipeline_config.corpus_words(config, known[:-1])
        with self.assertRaisesRegex(pipeline_config.ConfigError, r"\[corpus\] needs \[pipeline\] base"):
            pipeline_config.read_files([CONFIG, self.write("[corpus]\nen = a.jsonl\n")], [])

    def test_sections_of_the_program_reach_the_steps_that_read_them(self):
        files = self.files(extra=[self.write("[run]\nthreads = 3\n[comm]\non_node = mpi\n[expert_ap]\nap_high = 0.8\n")])
        for name in ("tokenize-train.cfg", "analyze.cfg", "el/stage1.cfg", "el/evaluate.cfg", "pretrain.cfg"):
            self.assertIn("[run]\nthreads = 3\n", files[name], name)
        self.assertIn("[comm]\non_node = mpi\n", files["el/stage2.cfg"])
        self.assertIn("[expert_ap]\n", files["el/specialize.cfg"])
        self.assertNotIn("[expert_ap]\n", files["el/stage1.cfg"])

    def test_interventions_are_for_the_dense_base(self):
        without = self.files()
        self.assertEqual(without["el/evaluate-dense.cfg"], without["el/evaluate.cfg"])
        files = self.files(extra=[self.write("[intervention]\nreplace = off_p50\n")])
        self.assertEqual(files["el/evaluate.cfg"], without["el/evaluate.cfg"])
        self.assertEqual(files["el/evaluate-dense.cfg"],
                         without["el/evaluate.cfg"] + "[intervention]\nreplace = off_p50\nneurons = neurons.h5\n")

    def test_vocabulary_must_agree_with_the_model(self):
        config = pipeline_config.read_files([CONFIG], ["tokenizer.vocab_size=300"])
        with self.assertRaisesRegex(pipeline_config.ConfigError, "vocab_size 4096 differs"):
            pipeline_config.read_model(config, [CONFIG])


if __name__ == "__main__":
    unittest.main()
