# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/make_corpus.py, tools/make_sense.py and tools/corpus_readers.py on small files of every kind."""
import contextlib
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools")
sys.path.insert(0, TOOLS)
import corpus_readers  # noqa: E402
import make_corpus  # noqa: E402
import make_sense  # noqa: E402
from tool_errors import ToolError  # noqa: E402


def text(lang, i):
    return f"The {lang} document number {i} says something. It has a second sentence of its own. And a third one follows here!"


def json_lines(lang, count):
    return "".join(json.dumps({"id": i, "text": text(lang, i)}) + "\n" for i in range(count))


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        data = content if isinstance(content, bytes) else content.encode()
        with open(self.path(name), "wb") as stream:
            stream.write(data)
        return self.path(name)

    def call(self, tool, *arguments):
        """(exit code, standard output, standard error) of a tool's main()."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = tool.main(list(arguments))
        return code, out.getvalue(), err.getvalue()

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as stream:
            return stream.read()


class Readers(Folder):
    def test_every_kind_gives_the_same_documents(self):
        lines, wanted = json_lines("en", 20), [text("en", i) for i in range(20)]
        found = {
            "jsonl": self.write("a.jsonl", lines), "ndjson": self.write("a.ndjson", lines),
            "gz": self.write("a.jsonl.gz", gzip.compress(lines.encode())),
            "two gzip members": self.write("b.jsonl.gz", gzip.compress(lines[:500].encode()) + gzip.compress(lines[500:].encode())),
            "BOM and CRLF": self.write("c.jsonl", "\ufeff" + lines.replace("\n", "\r\n")),
            "txt": self.write("a.txt", "\n\n".join(wanted) + "\n"), "txt.gz": self.write("a.txt.gz", gzip.compress("\n".join(wanted).encode())),
        }
        if shutil.which("zstd"):
            found["zst"] = self.write("a.jsonl.zst", subprocess.run(["zstd", "-c"], input=lines.encode(), stdout=subprocess.PIPE,
                                                                    stderr=subprocess.DEVNULL, check=True).stdout)
        for kind, path in found.items():
            self.assertEqual(list(corpus_readers.documents([path])), wanted, kind)

    def test_standard_input(self):
        out = subprocess.run([sys.executable, os.path.join(TOOLS, "make_corpus.py"), "--output", self.path("out"), "en=-",
                              "el=" + self.write("el.jsonl", json_lines("el", 300)), "--sentences", "20"],
                             input=json_lines("en", 300), text=True, capture_output=True, check=False)
        self.assertEqual(out.returncode, 0, out.stderr)
        self.assertIn('"path": "-"', self.read("out/corpus.json"))

    def test_what_cannot_be_read_is_named_with_file_and_line(self):
        for name, content, message in (
                ("a.jsonl", '{"text": "a"}\n{"texx": "b"}\n', r'a.jsonl:2: .*"text"'),
                ("b.jsonl", '{"text": "a"}\n{"text": 3}\n', r'b.jsonl:2: "text" is not a string'),
                ("c.jsonl", b'{"text": "a"}\n\xff\xfe\n', r"c.jsonl:2: not UTF-8"),
                ("d.json", '[{"text": "a"}]', r"d.json: this is one JSON array; .*jq"),
                ("e.jsonl.gz", b"no gzip", r"e.jsonl.gz: damaged gzip"),
                ("f.jsonl.gz", gzip.compress(json_lines("en", 50).encode())[:-20], r"f.jsonl.gz: damaged gzip")):
            with self.assertRaisesRegex(ToolError, message, msg=name):
                list(corpus_readers.documents([self.write(name, content)]))
        if shutil.which("zstd"):
            with self.assertRaisesRegex(ToolError, "g.jsonl.zst: zstd cannot read it"):
                list(corpus_readers.documents([self.write("g.jsonl.zst", b"no zstd")]))

    def test_the_documented_line_for_parquet(self):
        """As docs/your-model.md has it, with a reader that stands for pyarrow, which Debian lacks."""
        with open(os.path.join(os.path.dirname(TOOLS), "docs", "your-model.md"), encoding="utf-8") as page:
            (line,) = [text.strip() for text in page if text.startswith("    parquet/bin/python -c")]
        os.makedirs(self.path("pyarrow"))
        self.write("pyarrow/__init__.py", "")
        self.write("pyarrow/parquet.py", """
class ParquetFile:
    def __init__(self, path):
        self.texts = open(path, encoding="utf-8").read().split("|")
    def iter_batches(self, columns):
        assert columns == ["text"]
        return [Batch(self.texts[:2]), Batch(self.texts[2:])]
class Batch:
    def __init__(self, texts):
        self.column = lambda i: self
        self.to_pylist = lambda: texts
""")
        for folder in ("el", "text"):
            os.makedirs(self.path(folder))
        self.write("el/a.parquet", "\u03ad\u03bd\u03b1|two\nlines|\"three\"")
        self.write("el/b.parquet", "four")
        subprocess.run(["bash", "-ec", line.replace("parquet/bin/python", "/usr/bin/python3")], cwd=self.folder, check=True,
                       env=dict(os.environ, PYTHONPATH=self.folder))
        self.assertEqual([text for text in corpus_readers.documents([self.path("text/el.jsonl.gz")])],
                         ["\u03ad\u03bd\u03b1", "two\nlines", "\"three\"", "four"])

    def test_words(self):
        a, b = self.write("a.jsonl", ""), self.write("b.jsonl", "")
        self.assertEqual(corpus_readers.expand([f"en={self.folder}/*.jsonl", f"el={b},{a}"]), {"en": [a, b], "el": [b, a]})
        for words, message in ((["en"], "LANG=PATH"), ([], "no text"), (["en=nowhere.jsonl"], "no such file"),
                               (["en=-", "el=-"], "one language only"),
                               (["en=" + self.write("x.parquet", "")], "parquet goes into standard input"),
                               (["en=" + self.write("x.doc", "")], "cannot tell")):
            with self.assertRaisesRegex(ToolError, message, msg=str(words)):
                corpus_readers.expand(words)


class Corpus(Folder):
    def make(self, *more, count=1000):
        english = json_lines("en", count) + json_lines("en", count // 2)  # half of it twice
        return self.call(make_corpus, "--output", self.path("out"), "en=" + self.write("en.jsonl", english),
                         "el=" + self.write("el.jsonl", json_lines("el", count)), "--sentences", "50", "--held-out", "30", *more)

    def parts(self, lang):
        return {part: [json.loads(line)["text"] for line in self.read(f"out/text/{part}/{lang}.jsonl").splitlines()]
                for part in ("train", "tune", "test")}

    def test_no_document_is_in_two_parts(self):
        code, out, err = self.make()
        self.assertEqual((code, err), (0, ""))
        for lang in ("en", "el"):
            parts = self.parts(lang)
            everything = sum(parts.values(), [])
            self.assertEqual(len(everything), len(set(everything)))
            self.assertEqual((len(parts["tune"]), len(parts["test"])), (30, 30))
            self.assertGreater(len(parts["train"]), 800)
            sense = json.loads(self.read(f"out/sense/{lang}.json"))["sentences"]
            self.assertEqual((len(sense["positive"]), len(sense["negative"])), (50, 50))
            for sentence in sense["positive"]:
                self.assertFalse(any(sentence in document for document in everything if f" {lang} " in sentence), sentence)
        self.assertEqual(json.loads(self.read("out/corpus.json"))["counts"]["copies"], {"en": 500, "el": 0})
        self.assertIn("corpus: en  train", out)

    def test_a_seed_and_the_text_decide(self):
        self.make()
        first = self.parts("en")
        again = ["--output", self.path("out"), f"en={self.path('en.jsonl')}", f"el={self.path('el.jsonl')}", "--sentences", "50",
                 "--held-out", "30"]
        self.assertIn("reusing", self.call(make_corpus, *again)[1])
        self.make("--seed", "2")
        self.assertNotEqual(first["test"], self.parts("en")["test"])
        self.make()
        self.assertEqual(first, self.parts("en"))

    def test_limits_and_refusals(self):
        code, _, _ = self.make("--documents", "100")
        self.assertEqual((code, len(self.parts("en")["train"])), (0, 100))
        shutil.rmtree(self.path("out"))
        code, _, err = self.make(count=3)
        self.assertEqual(code, 65)
        self.assertIn("no document for", err)
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith("out")], [])
        long = "".join(json.dumps({"text": f"{i} " + "word " * 200}) + "\n" for i in range(300))
        code, _, err = self.call(make_corpus, "--output", self.path("out"), "en=" + self.write("long.jsonl", long))
        self.assertEqual(code, 65)
        self.assertIn("no sentence passes the sense rule", err)


class Sense(Folder):
    def test_files_of_every_language(self):
        code, out, _ = self.call(make_sense, "--output", self.path("sense"), "--sentences", "40",
                                 *(f"{lang}={self.write(lang + '.jsonl', json_lines(lang, 200))}" for lang in ("en", "el", "hu")))
        self.assertEqual(code, 0)
        for lang in ("en", "el", "hu"):
            sense = json.loads(self.read(f"sense/{lang}.json"))
            self.assertEqual((sense["concept"], len(sense["sentences"]["positive"]), len(sense["sentences"]["negative"])), (lang, 40, 80))
            self.assertTrue(all(len(s) > 20 for s in sense["sentences"]["positive"]))
        self.assertEqual(out.count("40 of 40 sentences"), 3)


if __name__ == "__main__":
    unittest.main()
