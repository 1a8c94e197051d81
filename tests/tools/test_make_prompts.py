# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/make_prompts.py."""
import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import make_prompts  # noqa: E402


class MakePrompts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name, data):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as stream:
            stream.write(data)
        return path

    def call(self, *arguments):
        output, err = os.path.join(self.folder, "prompts.jsonl"), io.StringIO()
        with contextlib.suppress(FileNotFoundError):
            os.remove(output)
        with contextlib.redirect_stderr(err):
            code = make_prompts.main(["--output", output, *arguments])
        if code:
            self.assertFalse(os.path.exists(output))
            return code, err.getvalue()
        with open(output, encoding="utf-8") as stream:
            return [json.loads(line)["prompt"] for line in stream]

    def documents(self, name, *texts):
        return self.write(name, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())

    def test_beginnings(self):
        words = self.documents("en.jsonl", "nine words are too few to be begun here", "One two\nthree four five six seven eight nine ten")
        signs = self.documents("zh.jsonl", "短", "在文档中插入页码字段的时候请先选择插入菜单然后再选择页码")
        self.assertEqual(self.call(words, signs), ["One two three four five", "在文档中插入页码字段的时"])
        self.assertEqual(self.call(self.documents("short.jsonl", "", "a short one", "another")), ["a short one"])

    def test_lines(self):
        self.assertEqual(self.call("--lines", self.write("p.txt", "Once upon\r\n\n  ένα \n".encode())), ["Once upon", "  ένα "])

    def test_bad_input_is_one_line(self):
        for path, code, words in ((self.documents("empty.jsonl"), 65, "empty.jsonl: there is no text"),
                                  (self.write("bad.jsonl", b'{"text": "a"}\n{"txt": 1}\n'), 65, "bad.jsonl:2: "),
                                  (self.write("number.jsonl", b'{"text": 1}\n'), 65, "number.jsonl:1: "),
                                  (os.path.join(self.folder, "none.jsonl"), 65, "none.jsonl: No such file")):
            found, text = self.call(path)
            self.assertEqual((found, text.count("\n")), (code, 1), text)
            self.assertIn(words, text)
        for data, words in ((b"\n \n", "no prompt"), (b"\xff\xfe", "not UTF-8")):
            found, text = self.call("--lines", self.write("p.txt", data))
            self.assertEqual(found, 65)
            self.assertIn(words, text)


if __name__ == "__main__":
    unittest.main()
