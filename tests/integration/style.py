#!/usr/bin/python3
"""How the sources are written: clang-format on C++, shellcheck on scripts, pyflakes and pycodestyle on Python; docstrings of public
functions say what the function does, and the functions of tools/ have type hints.
Usage: style.py SOURCE_DIR [--list]   --list prints every public function of include/ without a fitting docstring

A checker that is not installed is passed over and named (77, "skipped"), or is a failure with NMOE_STYLE=required, as in .ci/run, whose
`launch/deps.sh --lint` installs them all."""
import ast
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(sys.argv[1])
FOLDERS = (".ci", "include", "launch", "slurm", "src", "tests", "tools")
LONGEST = 160  # of a line of Python
# Lambdas with a name and the letter l are used on purpose; lines are broken as they read best.
PASSED_OVER = "E127,E128,E731,E741,W503,W504"
SKIPPED = 77
# Public functions of include/ that a comment of their own would not explain better, or that have none yet: may shrink, not grow.
MOST_WITHOUT_DOCSTRING = 443
# A docstring begins with what the function does: "Returns", "Writes", ... or with a word that qualifies it.
VERB = re.compile(r"(?:(?:Collectively|Also|Only|Never|Once|Now) )?([A-Z]?[a-z]+(?:es|s))\b")
NOUNS = set("""Always Bytes Columns Counts Documents Experts Facts Files Gradients Ids Indices Inputs Its Languages Layers Less Lines Logits Losses Messages
Milliseconds Modules Names Neurons Numbers Options Outputs Parameters Places Positions Ranks Rows Seconds Settings Sizes Steps Sums This Tokens Units Values
Was Weights Whose Words""".split())


def files(*patterns):
    """The files of the repository whose name fits, build folders left out."""
    found = [path for folder in FOLDERS for pattern in patterns for path in (SOURCE / folder).rglob(pattern)]
    return sorted(str(path.relative_to(SOURCE)) for path in found if path.is_file() and "build" not in path.relative_to(SOURCE).parts)


def run(*command):
    """The lines that a checker prints; none if all is well."""
    done = subprocess.run(command, cwd=SOURCE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return lines or ([f"{command[0]} ended with exit code {done.returncode}"] if done.returncode else [])


def scripts():
    """Shell scripts by suffix or first line."""
    named = files("*.sh", "*.sbatch")
    others = [path for path in files("*") if "." not in os.path.basename(path)]
    return named + [path for path in others if (SOURCE / path).read_bytes()[:40].startswith((b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh"))]


def check_format():
    """Version 14, that of Debian 12: each version of clang-format formats differently."""
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    version = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout if program else ""
    if "version 14." not in version:
        return None
    sources = files("*.cpp", "*.hpp", "*.cu", "*.cuh", "*.c")
    wrong = sorted({line.split(":")[0] for line in run(program, "--dry-run", "-Werror", *sources) if "error:" in line})
    return [f"{path}: not formatted; clang-format-14 -i {path} mends it" for path in wrong]


def check_shell():
    """With -x, so that sourced files are followed."""
    return run("shellcheck", "-x", "--format=gcc", *scripts()) if shutil.which("shellcheck") else None


def has_module(name):
    return subprocess.run([sys.executable, "-c", f"import {name}"], stderr=subprocess.DEVNULL, check=False).returncode == 0


def check_python():
    if not has_module("pyflakes") or not has_module("pycodestyle"):
        return None
    sources = files("*.py")
    return run(sys.executable, "-m", "pyflakes", *sources) + run(
        sys.executable, "-m", "pycodestyle", f"--max-line-length={LONGEST}", f"--ignore={PASSED_OVER}", *sources)


def is_verb(text):
    found = VERB.match(text)
    return bool(found) and found[1] not in NOUNS


def check_tools():
    """Hints and docstrings of tools/*.py."""
    problems = []
    for path in sorted((SOURCE / "tools").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        outer = {node for scope in ast.walk(tree) if isinstance(scope, (ast.Module, ast.ClassDef)) for node in scope.body}
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            where = f"tools/{path.name}:{node.lineno}: {node.name}"
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            if node.returns is None or any(a.annotation is None and a.arg not in ("self", "cls") for a in arguments):
                problems.append(f"{where}: an argument or the result has no type hint")
            text = ast.get_docstring(node)
            is_property = any(getattr(d, "id", "") == "property" for d in node.decorator_list)
            if node.name.startswith("_") or is_property or node not in outer:
                continue
            if not text:
                problems.append(f"{where}: no docstring")
            elif not is_verb(text):
                problems.append(f'{where}: "{text.split(maxsplit=1)[0]} ..." does not say what the function does ("Returns ...", "Writes ...")')
    return problems


# ---------------------------------------------------------------- docstrings of include/

# CONTRIBUTING.md says what these are.
LISTS = ("enum_names", "for_each_buffer", "for_each_coefficient", "for_each_field", "for_each_statistic", "for_each_weight")
DECLARATION = re.compile(r"(?:^|[\s*&>])(~?\w+)\s*\((?!\s*\*)")
NO_FUNCTION = re.compile(r"^\s*(?:#|using\b|typedef\b|friend\b|static_assert\b|return\b|namespace\b|enum\b|NMOE_)|=\s*(?:delete|default)\s*$")
ACCESSOR = re.compile(r"\s*return [^;{}]*;\s*}")  # the whole body of a function whose name says it all
SCOPE = re.compile(r"\b(namespace|class|struct|union|enum)\b(?![^<]*>)(?!.*\()", re.S)
TOKEN = re.compile(r"""///(?P<doc>[^\n]*) | //[^\n]* | /\*.*?\*/ | (?P<text>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+')
                       | (?P<access>\b(?:public|private|protected)\s*:(?!:)) | ^[ \t]*\#(?:[^\n\\]|\\.|\\\n)* | (?P<brace>[{};])""", re.S | re.M | re.X)


class Header:
    """Walks through a header by its braces; `found` are the (line, docstring, statement) for others to see."""

    def __init__(self, text):
        self.text, self.found = text, []
        self.scopes = []  # (kind, whether what follows is public)
        self.comment, self.last_line = [], 0
        self.statement, self.braced = "", 0  # `braced`: inside a default argument
        at = 0
        for token in TOKEN.finditer(text):
            self.statement += text[at:token.start()]
            at = token.end()
            if token["doc"] is not None:
                self.add_comment(token["doc"], text.count("\n", 0, token.start()) + 1)
            elif token["text"]:
                self.statement += '""'
            elif token["access"]:
                self.scopes[-1] = (self.scopes[-1][0], token["access"].startswith("public"))
                self.statement, self.comment = "", []
            elif token["brace"]:
                self.add_brace(token["brace"], at)

    def add_comment(self, words, line):
        if self.statement.strip() or words.startswith("<"):  # behind a declaration
            return
        self.comment = self.comment if self.last_line == line - 1 else []
        self.comment.append(words.strip())
        self.last_line = line

    def add_brace(self, brace, at):
        if self.braced or (brace == "{" and self.statement.count("(") > self.statement.count(")")):
            self.braced += {"{": 1, "}": -1, ";": 0}[brace]
            self.statement += brace
            return
        if brace != "}" and self.statement.strip():
            visible = all(kind not in ("body", "enum") and public for kind, public in self.scopes)
            if visible and not (brace == "{" and not self.comment and ACCESSOR.match(self.text, at)):
                line = self.text.count("\n", 0, at) + 1 - self.statement.strip().count("\n")
                self.found.append((line, " ".join(self.comment), self.statement))
        if brace == "{":
            kind = SCOPE.search(self.statement)
            self.scopes.append((kind[1] if kind else "body", not kind or kind[1] != "class"))
        elif brace == "}" and self.scopes:
            self.scopes.pop()
        self.statement, self.comment = "", []


def public_functions(path):
    """(line, name, docstring) of the functions that a header declares for others; operators, constructors and overrides are known."""
    previous = ""
    for line, comment, statement in Header(path.read_text(encoding="utf-8")).found:
        text = " ".join(re.sub(r"\[\[.*?\]\]|alignas\(.*?\)|noexcept\(.*?\)|requires\s*\(.*?\)|decltype\(.*?\)", "", statement, flags=re.S).split())
        found = DECLARATION.search(text)
        name = found[1] if found else ""
        before = text[:found.start(1)].strip() if found else ""
        if not found or NO_FUNCTION.search(text) or "=" in before or "operator" in text or not before or name.startswith("~") or name.endswith("_"):
            continue
        if name in LISTS and not comment:
            continue
        if re.search(r"\b(?:override|final)\b", text) or before.split()[-1] in ("explicit", "constexpr", "inline") and len(before.split()) == 1:
            continue
        if comment or name != previous:  # an overload shares the comment above
            yield line, name, comment
        previous = name


def misses_of_headers():
    """Lines for the public functions whose docstring is missing or does not begin with what the function does."""
    missing, other, count = [], [], 0
    for path in sorted((SOURCE / "include").rglob("*.hpp")):
        for line, name, comment in public_functions(path):
            count += 1
            where = f"{path.relative_to(SOURCE)}:{line}: {name}"
            if not comment:
                missing.append(f"{where}: no docstring")
            elif not is_verb(comment):
                other.append(f"{where}: \"{' '.join(comment.split()[:7])} ...\"")
    return count, missing, other


def check_headers():
    count, missing, other = misses_of_headers()
    found = len(missing) + len(other)
    print(f"style: {count} public functions in include/: {len(missing)} without a docstring, {len(other)} that begin with something else than a verb")
    if found > MOST_WITHOUT_DOCSTRING:
        return [f"{found} public functions of include/ lack a docstring that begins with what they do, {MOST_WITHOUT_DOCSTRING} did before; "
                "tests/integration/style.py . --list prints them"]
    return []


def main():
    if "--list" in sys.argv:
        _, missing, other = misses_of_headers()
        print("\n".join(missing + other))
        return 0
    problems, absent = [], []
    for name, check in (("clang-format 14", check_format), ("shellcheck", check_shell), ("pyflakes and pycodestyle", check_python),
                        ("hints and docstrings of tools/", check_tools), ("docstrings of include/", check_headers)):
        started = time.monotonic()
        found = check()
        print(f"style: {name}: {'not installed' if found is None else f'{len(found)} problems'}, {time.monotonic() - started:.1f} s")
        problems += found or []
        absent += [name] if found is None else []
    for line in problems:
        print(line)
    if absent and os.environ.get("NMOE_STYLE") == "required":
        problems.append("")
        print(f"style: not installed: {', '.join(absent)}; launch/deps.sh --lint installs them")
    return 1 if problems else SKIPPED if absent else 0


if __name__ == "__main__":
    sys.exit(main())
