#!/usr/bin/env python3
"""docs/traps.md and the labels of the C++ tests say the same."""
import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASE = re.compile(r"BOOST_AUTO_TEST_CASE\(\s*(\w+)\s*,(.*?)\)\s*\{", re.S)


def labels_in_tests():
    """{label: {"folder/file: case"}} of every labelled case."""
    found = {}
    for path in ROOT.glob("tests/*/test_*.cpp"):
        name = f"{path.parent.name}/{path.stem.removeprefix('test_')}"
        for case, decorators in CASE.findall(path.read_text(encoding="utf-8")):
            for label in re.findall(r'label\("(\w+)"\)', decorators):
                found.setdefault(label, set()).add(f"{name}: {case}")
    return found


def labels_in_page():
    found = {}
    for line in (ROOT / "docs/traps.md").read_text(encoding="utf-8").splitlines():
        row = re.fullmatch(r"\| ((?:trap|complaint)_\w+) \| .* \| (.*) \|", line)
        if not row:
            continue
        for part in re.sub(r"\(.*?\)", "", row[2]).split("; "):
            cases = re.fullmatch(r"((?:unit|mpi|mpi8)/\w+): ([\w, ]+?) *", part)
            if cases:
                found.setdefault(row[1], set()).update(f"{cases[1]}: {c}" for c in cases[2].split(", "))
    return found


class Traps(unittest.TestCase):
    def test_page_and_labels_agree(self):
        self.assertEqual(labels_in_page(), labels_in_tests())

    def test_every_trap_has_a_test(self):
        self.assertEqual(
            {f"trap_{n:02}" for n in range(1, 20)}, {l for l in labels_in_tests() if l.startswith("trap")}
        )


if __name__ == "__main__":
    unittest.main()
