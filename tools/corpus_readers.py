# SPDX-License-Identifier: Apache-2.0
"""Documents out of text files as people have them, for tools/make_corpus.py and tools/make_sense.py: JSON lines (plain,
gzip, zstd), one document per line of plain text, or either on standard input. One document at a time; nothing is held.
"""
import contextlib
import glob
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from tool_errors import EXIT_CONFIG, EXIT_DATA, EXIT_IO, ToolError

# What stands before a compression suffix -> whether a line is a JSON object with a "text", or a document itself.
KINDS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".txt": "text"}
COMPRESSED = (".gz", ".zst")
STANDARD_INPUT = "-"


def kind_of(path: str) -> str:
    """Returns "json" or "text", by the name. @raise ToolError for a name that says neither, with what to do about it."""
    if path == STANDARD_INPUT:
        return "json"
    stem = path
    for suffix in COMPRESSED:
        stem = stem.removesuffix(suffix)
    suffix = os.path.splitext(stem)[1].lower()
    if suffix in KINDS:
        return KINDS[suffix]
    hint = f"names end in {', '.join(KINDS)}, with .gz or .zst where compressed"
    if suffix == ".parquet":
        hint = "parquet goes into standard input as JSON lines (docs/your-model.md has the line)"
    raise ToolError(f"{path}: cannot tell what it holds: {hint}", EXIT_CONFIG)


@contextlib.contextmanager
def lines_of(path: str) -> Iterator[Any]:
    """Gives the lines of a file as bytes, decompressed on the way."""
    if path == STANDARD_INPUT:
        yield sys.stdin.buffer
    elif path.endswith(".zst"):
        if not shutil.which("zstd"):
            raise ToolError(f"{path}: the program zstd is not installed (apt-get install zstd)", EXIT_IO)
        with subprocess.Popen(["zstd", "-dcq", "--", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            try:
                yield process.stdout
                failed = process.wait() != 0
            finally:
                process.stdout.close()  # a reader that stops early ends zstd by SIGPIPE
            if failed:
                message = process.stderr.read().decode(errors="replace").strip()
                raise ToolError(f"{path}: zstd cannot read it ({message.splitlines()[-1] if message else 'no message'})")
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as stream:
            yield io.BufferedReader(stream)
    else:
        with open(path, "rb") as stream:
            yield stream


def document_of(line: bytes, kind: str, path: str, number: int) -> str | None:
    """Returns the text of one line, None for an empty one."""
    where = "standard input" if path == STANDARD_INPUT else path
    try:
        line = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{where}:{number}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if number == 1:
        line = line.removeprefix("\ufeff")
    if not line.strip():
        return None
    if kind == "text":
        return line.strip("\r\n")
    if number == 1 and line.lstrip().startswith("["):
        raise ToolError(f"{where}: this is one JSON array; wanted is one object per line (jq -c '.[]' FILE > FILE.jsonl)")
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToolError(f"{where}:{number}: wanted is a JSON object with a \"text\" ({error})") from error
    if not isinstance(text, str):
        raise ToolError(f"{where}:{number}: \"text\" is not a string")
    return text


def documents(paths: list[str]) -> Iterator[str]:
    """Yields the text of every document of `paths`, file by file, in their order. Empty ones are left out."""
    for path in paths:
        kind = kind_of(path)
        try:
            with lines_of(path) as lines:
                for number, line in enumerate(lines, 1):
                    text = document_of(line, kind, path, number)
                    if text is not None and text.strip():
                        yield text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ToolError(f"{path}: damaged gzip file ({error})") from error
        except IsADirectoryError as error:
            raise ToolError(f"{path}: {error.strerror}") from error


def expand(words: list[str]) -> dict[str, list[str]]:
    """Returns {language: [path]} of `LANG=PATH...` words; a pattern stands for its files in byte order."""
    found = {}
    for word in words:
        lang, equals, paths = word.partition("=")
        if not (lang and equals and paths):
            raise ToolError(f"{word}: expected LANG=PATH[,PATH...]", EXIT_CONFIG)
        for pattern in paths.replace(",", " ").split():
            files = [pattern] if pattern == STANDARD_INPUT else sorted(glob.glob(os.path.expanduser(pattern)))
            if not files:
                raise ToolError(f"{lang}: {pattern}: there is no such file", EXIT_DATA)
            for path in files:
                kind_of(path)
                found.setdefault(lang, []).append(path)
    if not found:
        raise ToolError("no text given; expected LANG=PATH[,PATH...]", EXIT_CONFIG)
    if sum(path == STANDARD_INPUT for paths in found.values() for path in paths) > 1:
        raise ToolError("standard input can be read for one language only", EXIT_CONFIG)
    return found
