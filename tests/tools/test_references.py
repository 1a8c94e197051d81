#!/usr/bin/env python3
"""References of the repository lead somewhere: `METHOD 3.2` and the like to a section of their page, links of the documents to a file and
a heading. No such reference is in text that a user meets."""
import ast
import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: f"docs/{name.lower()}.md" for name in ("METHOD", "DESIGN", "ENGINEERING", "PLATFORM", "PERFORMANCE")}
NAMES = "|".join([*PAGES, "QUICKSTART"])
NUMBER = r"\d+(?:\.\d+)*[a-z]?\b"
# `METHOD 3.2`, `METHOD 1.3 and 8`, `DESIGN 4.5-4.6`, `METHOD 5 steps 2-4`, `METHOD 11 row 38`
REFERENCE = re.compile(rf"\b({NAMES}|DATA) ((?:{NUMBER})(?:(?:, | and |-)(?:{NUMBER}))*)(?: (steps?|row) (\d+)(?:-(\d+))?)?")
BARE = re.compile(rf"(?<![\w./$_-])(?:{NAMES})(?:\.md)?(?![\w$-])(?! {NUMBER})")
SOURCES = {".cpp", ".hpp", ".cu", ".cuh", ".h", ".c", ".py", ".sh", ".cmake", ".cfg", ".md", ".txt", ".sbatch", ".ini", ""}
SELF = Path(__file__).resolve()


def tracked():
    names = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")
    files = [ROOT / name for name in names if name] or [p for p in ROOT.rglob("*") if "build" not in p.parts and ".git" not in p.parts]
    return [p for p in files if p.is_file() and p.suffix in SOURCES and p != SELF and "corpus" not in p.parts]


def read(path):
    return path.read_text(encoding="utf-8", errors="replace")


def joined(text):
    """The text with its lines joined, so that a reference may go on in the next line of a comment."""
    return re.sub(r"\n[ \t]*(?:///?<?|#|\*)?[ \t]*", " ", text)


def sections(page):
    """The numbers that a page has: of its headings, of the items of a numbered list and of the rows of a table below them."""
    found, current, fenced = set(), "", False
    for line in read(ROOT / page).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        if heading := re.match(r"#+ (\d+(?:\.\d+)*[a-z]?)\b", line):
            current = heading[1]
            found.add(current)
        elif item := re.match(r"(\d+)\. ", line):
            found.add(f"{current}.{item[1]}")
        elif row := re.match(r"\| (\d+)(\.\d+)? \|", line):
            found.add(row[1] + row[2] if row[2] else f"{current}.{row[1]}")
    return found


def numbers(reference):
    """Every section that a match of REFERENCE names, `5.7` for step 7 of section 5."""
    _, listed, kind, first, last = reference.groups()
    each = re.split(r", | and |-", listed)
    return each + ([f"{each[-1]}.{n}" for n in range(int(first), int(last or first) + 1)] if kind else [])


def user_strings(path):
    """The string literals of a source. A docstring is one if the program prints it."""
    text = read(path)
    if path.suffix != ".py":
        code = re.sub(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', lambda m: m[1] or " ", text, flags=re.S)
        return re.findall(r'"((?:\\.|[^"\\\n])*)"', code)
    tree, documentation = ast.parse(text), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if not (isinstance(node, ast.Module) and "__doc__" in text):
                    documentation.add(id(first.value))
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in documentation]


def anchors(path):
    """The anchors of a page's headings, by GitHub's rule."""
    found = {}
    for line in re.sub(r"^```.*?^```", "", read(path), flags=re.S | re.M).splitlines():
        if heading := re.match(r"#+ +(.*?)\s*$", line):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {s if n == 0 else f"{s}-{n}" for s, count in found.items() for n in range(count + 1)}


class References(unittest.TestCase):
    def test_each_names_a_section(self):
        known = {name: sections(page) for name, page in PAGES.items() if (ROOT / page).exists()}
        wrong, count = [], 0
        for path in tracked():
            text = joined(read(path))
            for match in REFERENCE.finditer(text):
                count += 1
                wrong += [f"{path.relative_to(ROOT)}: {match[1]} {n}" for n in numbers(match) if n not in known.get(match[1], ())]
            wrong += [f"{path.relative_to(ROOT)}: {m[0]} without a section" for m in BARE.finditer(text)]
        self.assertGreater(count, 100, "the references were not found")
        self.assertEqual(wrong, [], f"{len(wrong)} references lead nowhere")

    def test_none_reaches_a_user(self):
        places = [p for p in tracked() if p.relative_to(ROOT).parts[0] in ("src", "include", "tools", "launch")]
        found = [f"{path.relative_to(ROOT)}: {text[:80]}" for path in places if path.suffix in (".cpp", ".hpp", ".cu", ".cuh", ".py")
                 for text in user_strings(path) if REFERENCE.search(text) or BARE.search(text)]
        found += [f"{p.relative_to(ROOT)}" for p in tracked() if p.suffix in (".cfg", ".sbatch") and REFERENCE.search(read(p))]
        self.assertEqual(found, [])

    def test_links_of_documents(self):
        wrong, count = [], 0
        for path in [p for p in tracked() if p.suffix == ".md"]:
            text = re.sub(r"^```.*?^```|`[^`\n]*`", "", read(path), flags=re.S | re.M)
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if re.match(r"\w+:", target):
                    continue
                count += 1
                file, _, anchor = target.partition("#")
                place = (path.parent / file).resolve() if file else path
                if not place.exists():
                    wrong.append(f"{path.relative_to(ROOT)}: {target}: no such file")
                elif anchor and anchor not in anchors(place):
                    wrong.append(f"{path.relative_to(ROOT)}: {target}: no such heading")
        self.assertGreater(count, 30, "the links were not found")
        self.assertEqual(wrong, [])

    def test_every_page_is_reached_from_the_readme(self):
        seen, waiting = set(), [ROOT / "README.md"]
        while waiting:
            page = waiting.pop()
            if page.suffix == ".md" and page.exists() and page not in seen:
                seen.add(page)
                waiting += [(page.parent / file).resolve() for file in re.findall(r"\]\(([^)#\s]+)", read(page)) if not re.match(r"\w+:", file)]
        self.assertEqual(sorted(p.name for p in (ROOT / "docs").glob("*.md") if p not in seen), [])


if __name__ == "__main__":
    unittest.main()
