#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the folder that launch/pipeline.sh expects out of a user's own text.

    make_corpus.py --output DIR en=PATH[,PATH...] el=PATH... [--seed 1] [--sentences 500] [--held-out 1000]

    DIR/text/{train,tune,test}/<lang>.jsonl   documents to train on, to choose settings by, to report on
    DIR/sense/<lang>.json                     positive and negative sentences for `neuronmoe analyze`
    DIR/corpus.json                           counts, seed, names and sizes of the inputs, hashes of what was written

A path is a .jsonl, .ndjson or .txt file (a document per line), also .gz or .zst, a pattern, or - for standard input. A seeded
hash of its text sends each document to one of train, tune, test and sense, so that no document, nor a copy of one, is in two of
them. Held-out text and sense sentences stop at what is wanted; what would be too much is trained on. Standard library only; text
streams through. The folder appears by one rename; a second call with the same inputs finds it and does nothing.
"""
import argparse
import contextlib
import glob
import hashlib
import json
import os
import random
import shutil
import sys
import time
from typing import Any

import corpus_readers
import corpus_rules
from corpus_rules import negatives_from_others, sense_pieces, unit_hash
from prepare_corpus import commit, sha256_file
from tool_errors import ToolError, exit_code_of

FORMAT_VERSION = 1
HELD_OUT = ("tune", "test")
# Shares of the documents, by hash; the rest is trained on.
SHARES = {"test": 0.05, "tune": 0.05, "sense": 0.10}


def part_of(seed: int, text: str) -> str:
    """Returns which part a document belongs to: a function of its text and the seed."""
    value = unit_hash(seed, "part", text)
    for part, share in SHARES.items():
        if value < share:
            return part
        value -= share
    return "train"


class Language:
    """Deals the documents of one language out while they stream by."""

    def __init__(self, lang: str, out: str, options: argparse.Namespace) -> None:
        self.lang, self.options = lang, options
        self.counts = {part: {"documents": 0, "characters": 0} for part in ("train", *HELD_OUT)}
        self.copies = 0
        self.pieces = []  # sense sentences; METHOD 1.1 stops at twice the pool, which is twice what is wanted
        self.seen = set()  # 8 bytes of hash per document: equal documents count once
        self.files = {}
        for part in self.counts:
            path = os.path.join(out, "text", part, lang + ".jsonl")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self.files[part] = open(path, "w", encoding="utf-8", newline="\n")

    def add(self, text: str) -> None:
        """Deals one document out."""
        digest = hashlib.sha256(text.encode()).digest()[:8]
        if digest in self.seen:
            self.copies += 1
            return
        self.seen.add(digest)
        part = part_of(self.options.seed, text)
        if part == "sense":
            pieces = sense_pieces(text) if len(self.pieces) < 4 * self.options.sentences else []
            self.pieces.extend(pieces)
            if pieces:
                return
            part = "train"  # nothing of it is a sense sentence
        if part in HELD_OUT and self.counts[part]["documents"] >= self.options.held_out:
            part = "train"
        self.counts[part]["documents"] += 1
        self.counts[part]["characters"] += len(text)
        self.files[part].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Closes the files."""
        for file in self.files.values():
            file.close()

    def sentences(self) -> list[str]:
        """Returns the fixed set of this language (METHOD 1.1)."""
        wanted = self.options.sentences
        rng = random.Random(f"{self.options.seed}/sense/{self.lang}")
        pool = rng.sample(self.pieces, 2 * wanted) if len(self.pieces) > 2 * wanted else self.pieces
        return rng.sample(pool, min(wanted, len(pool)))


def read_languages(inputs: dict[str, list[str]], out: str, options: argparse.Namespace) -> dict[str, Language]:
    """Reads all text and deals it out."""
    languages, shown, number = {}, time.monotonic(), 0
    with contextlib.ExitStack() as stack:
        for lang, paths in inputs.items():
            language = languages[lang] = Language(lang, out, options)
            stack.callback(language.close)
            for text in corpus_readers.documents(paths):
                language.add(text)
                number += 1
                if number % 1000 == 0 and time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    print(f"corpus: {lang}: {sum(c['documents'] for c in language.counts.values())} documents kept",
                          flush=True)
                if options.documents and language.counts["train"]["documents"] >= options.documents:
                    break
    return languages


def write_corpus(out: str, languages: dict[str, Language], provenance: dict[str, Any]) -> dict[str, Any]:
    """Writes sense sentences and corpus.json beside the text; returns the counts."""
    empty = [f"{lang}/{part}" for lang, language in languages.items() for part, count in language.counts.items()
             if not count["documents"]]
    if empty:
        raise ToolError(f"no document for {', '.join(empty)}: about 20 of a hundred are held out or give sentences, so a language "
                          "needs some dozens (a .txt file holds a document per line)")
    positives = {lang: language.sentences() for lang, language in languages.items()}
    for lang, found in positives.items():
        if not found:
            raise ToolError(f"{lang}: no sentence passes the sense rule: of documents of 20 to 500 characters the first three "
                              "sentences longer than 20; give text with short documents, or sense files of your own")
        if len(found) < languages[lang].options.sentences:
            print(f"corpus: {lang}: only {len(found)} of {languages[lang].options.sentences} sense sentences were found; more text "
                  "gives more", file=sys.stderr)
    os.makedirs(os.path.join(out, "sense"))
    for lang in positives:
        with open(os.path.join(out, "sense", lang + ".json"), "w", encoding="utf-8", newline="\n") as stream:
            json.dump(negatives_from_others(lang, positives), stream, ensure_ascii=False, indent=2)
            stream.write("\n")
    counts = {part: {lang: language.counts[part] for lang, language in languages.items()} for part in ("train", *HELD_OUT)}
    counts["copies"] = {lang: language.copies for lang, language in languages.items()}
    counts["sense_positive"] = {lang: len(found) for lang, found in positives.items()}
    hashes = {}
    for folder, _, names in sorted(os.walk(out)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            hashes[os.path.relpath(path, out)] = sha256_file(path)
    with open(os.path.join(out, "corpus.json"), "w", encoding="utf-8", newline="\n") as stream:
        json.dump(dict(provenance, counts=counts, sha256=hashes), stream, ensure_ascii=False, indent=2)
        stream.write("\n")
    return counts


def identity_of(path: str) -> dict[str, Any]:
    """Returns what says whether an input has changed: hashing terabytes would take longer than the work."""
    if path == corpus_readers.STANDARD_INPUT:
        return {"path": path}
    status = os.stat(path)
    return {"path": os.path.abspath(path), "bytes": status.st_size, "modified": status.st_mtime_ns}


def is_complete(out: str, provenance: dict[str, Any]) -> bool:
    """Returns whether the folder was made by the same command from the same inputs."""
    try:
        with open(os.path.join(out, "corpus.json"), encoding="utf-8") as stream:
            found = json.load(stream)
        return (all(found.get(key) == value for key, value in provenance.items())
                and all(os.path.exists(os.path.join(out, name)) for name in found["sha256"]))
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def make(options: argparse.Namespace) -> None:
    """Makes the folder, or finds it."""
    inputs = corpus_readers.expand(options.text)
    tools = [__file__, corpus_rules.__file__, corpus_readers.__file__]
    provenance = {
        "format": "neuronmoe-corpus", "format_version": FORMAT_VERSION, "license": "the user's own text",
        "languages": list(inputs), "seed": options.seed, "sentences": options.sentences, "held_out": options.held_out,
        "documents": options.documents, "packages": {},
        "split_rule": "sha256 of seed and text: 5 % test and 5 % tune up to the held-out number, 10 % sense until it is enough",
        "inputs": {lang: [identity_of(path) for path in paths] for lang, paths in inputs.items()},
        "tool_sha256": [sha256_file(os.path.abspath(path)) for path in tools],
    }
    standard_input = any(path == corpus_readers.STANDARD_INPUT for paths in inputs.values() for path in paths)
    if not standard_input and is_complete(options.output, provenance):
        print(f"corpus: reusing {options.output}")
        return
    started = time.monotonic()
    out = options.output.rstrip("/")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    for leftover in glob.glob(glob.escape(out) + ".tmp-*") + glob.glob(glob.escape(out) + ".old-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed
    tmp = f"{out}.tmp-{os.getpid()}"
    try:
        counts = write_corpus(tmp, read_languages(inputs, tmp, options), provenance)
        commit(tmp, out)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    for lang in inputs:
        print(f"corpus: {lang}  " + "  ".join(f"{part} {counts[part][lang]['documents']} documents" for part in ("train", *HELD_OUT))
              + f"  {counts['sense_positive'][lang]} sense sentences")
    print(f"corpus: {out} written in {time.monotonic() - started:.1f} s")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description="Split a user's own text for launch/pipeline.sh.")
    parser.add_argument("text", nargs="+", metavar="LANG=PATH[,PATH...]")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=500, help="sense sentences per language (default 500)")
    parser.add_argument("--held-out", type=int, default=1000, help="most documents of tune and of test (default 1000)")
    parser.add_argument("--documents", type=int, default=0, help="most documents to train on per language (default all)")
    options = parser.parse_args(argv)
    if options.sentences < 1 or options.held_out < 1 or options.documents < 0:
        parser.error("--sentences and --held-out must be at least 1, --documents at least 0")
    return options


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    return exit_code_of("make_corpus", lambda: make(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
