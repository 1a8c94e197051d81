# SPDX-License-Identifier: Apache-2.0
"""The whole journey with the real program, tiny: every file appears, the documentation's snippets and h5ls listings
are true of them. Needs NMOE_TEST_BINARY (launch/test.sh sets it); without it the tests say that they are skipped."""
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import prepare_corpus as pc  # noqa: E402

BINARY = os.environ.get("NMOE_TEST_BINARY", "")
FORMATS = os.path.join(ROOT, "docs", "formats.md")
WORDS = {"en": "the table opens every line with a colour and shows what you chose in the list before it".split(),
         "hu": "a táblázat minden sort színnel nyit meg és megmutatja amit előtte a listában választott".split(),
         "el": "ο πίνακας ανοίγει κάθε γραμμή με χρώμα και δείχνει τι επιλέξατε στον κατάλογο πριν από αυτό".split()}


def make_corpus(out):
    """Invented sentences in three languages, through the same writer as the real corpus."""
    rng = random.Random(5)
    kept = {lang: [(f"page{i}.html", f"p{n}", " ".join(rng.choice(words) for _ in range(16 + rng.randrange(8))))
                   for i in range(60) for n in range(6)] for lang, words in WORDS.items()}
    options = pc.parse_arguments(["--output", out, "--sentences", "24", "--items", "8", "--item-languages", "en,el",
                                  "--mix", "en=1,hu=1,el=1"])
    pc.write_corpus(out, kept, options, {"format": "neuronmoe-corpus", "license": "none", "seed": 1, "packages": {}})


def blocks(kind):
    """[(first line, text)] of the fenced blocks of docs/formats.md that are marked with `kind`."""
    with open(FORMATS, encoding="utf-8") as stream:
        return re.findall(r"```" + kind + r"\n(.*?)```", stream.read(), re.S)


@unittest.skipUnless(BINARY, "NMOE_TEST_BINARY is not set: nothing to run (launch/test.sh sets it)")
class Journey(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.work = os.path.join(folder.name, "work")
        make_corpus(os.path.join(cls.work, "corpus"))
        done = cls.pipeline("--control", "uniform")
        if done.returncode:
            raise AssertionError(f"the tiny journey ended with {done.returncode}:\n{done.stdout}")
        cls.first_output = done.stdout

    @classmethod
    def pipeline(cls, *arguments):
        return subprocess.run(
            [os.path.join(ROOT, "launch", "pipeline.sh"), os.path.join(HERE, "data", "tiny.cfg"), "--workdir", cls.work,
             *arguments], env=dict(os.environ, NMOE_BINARY=BINARY), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=300)

    def test_all_files_are_there(self):
        for name in ("tokens/train.h5", "tokens/test.h5", "base/config.json", "base/model.safetensors", "neurons.h5",
                     "el/experts.cfg", "el/stage1/metrics.jsonl", "el/stage2/metrics.jsonl", "el/expert_neurons.h5",
                     "el/eval-dense.json", "el/eval-stage1.json", "el/eval-stage2.json", "el/report.html",
                     "el/uniform/eval-stage2.json"):
            self.assertTrue(os.path.exists(os.path.join(self.work, name)), name)
        leftovers = [name for _, folders, files in os.walk(self.work) for name in folders + files
                     if name.endswith((".tmp", ".draft"))]
        self.assertEqual(leftovers, [])

    def test_second_run_does_nothing_again(self):
        done = self.pipeline("--control", "uniform")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("done:", done.stdout)

    def test_metrics_count_every_step_once(self):
        with open(os.path.join(self.work, "el", "stage1", "metrics.jsonl"), encoding="utf-8") as stream:
            self.assertEqual([json.loads(line)["step"] for line in stream], list(range(1, 7)))

    def test_documented_snippets_run(self):
        snippets = blocks("python")
        self.assertGreaterEqual(len(snippets), 5)
        for text in snippets:
            done = subprocess.run(["/usr/bin/python3", "-c", text], cwd=self.work, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)
            self.assertEqual(done.returncode, 0, text + done.stdout)
            self.assertTrue(done.stdout.strip(), "prints nothing: " + text)

    def test_documented_listings_are_true(self):
        """`$ h5ls -r FILE` and what follows: same names and kinds of object; sizes are those of the quickstart."""
        listings = blocks("console")
        self.assertGreaterEqual(len(listings), 3)
        for text in listings:
            command, *lines = text.strip().splitlines()
            name = command.split()[-1]
            for step in re.findall(r"step_\d+", name):  # the newest of this run
                steps = [x for x in os.listdir(os.path.join(self.work, name.split("/step_")[0])) if x.startswith("step_")]
                name = name.replace(step, max(steps))
            found = subprocess.run(["h5ls", "-r", name], cwd=self.work, stdout=subprocess.PIPE, text=True, check=True)
            self.assertEqual(self.shape_of(lines), self.shape_of(found.stdout.splitlines()), name)

    @staticmethod
    def shape_of(lines):
        """{path: kind}; numbers of layers, languages and experts are not compared, nor are sizes."""
        out = {}
        for line in lines:
            path, kind = line.split(None, 1)
            path = re.sub(r"^(/lape)?/selected/\w+$", r"\1/selected/<language>", path)
            path = re.sub(r"/layers/\d+", "/layers/<n>", path)
            out[path] = (kind.split()[0], kind.count(","))
        return out


if __name__ == "__main__":
    unittest.main()
