# SPDX-License-Identifier: Apache-2.0
"""What the tests of benchmarks share: a folder that vanishes, and a record of Belebele."""
import json
import pathlib
import tempfile
import unittest

BELEBELE = {"flores_passage": "Text.", "question": " Who? ", "mc_answer1": "w", "mc_answer2": "x", "mc_answer3": "y", "mc_answer4": "z",
            "correct_answer_num": "2"}


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, name, *records):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)
