#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes sense sentences for `neuronmoe analyze` out of any text: one file per language, by METHOD 1.1 with a fixed seed.

    make_sense.py --output DIR en=PATH[,PATH...] el=PATH... [--sentences 500] [--seed 1]

Paths as in tools/make_corpus.py, which splits text for training too and keeps its sense sentences apart from it. Use this one where
the text is not trained on. Documents of 20 to 500 characters give their first three sentences longer than 20, in file order.
"""
import argparse
import json
import os
import random
import sys

import corpus_readers
from corpus_rules import negatives_from_others, sense_pool
from tool_errors import ToolError, exit_code_of


def make(options: argparse.Namespace) -> None:
    """Writes a sense file for each language."""
    positives = {}
    for lang, paths in corpus_readers.expand(options.text).items():
        rng = random.Random(f"{options.seed}/sense/{lang}")
        pool = sense_pool(corpus_readers.documents(paths), options.sentences, rng)
        if not pool:
            raise ToolError(f"{lang}: no document of 20 to 500 characters holds a sentence longer than 20")
        positives[lang] = rng.sample(pool, min(options.sentences, len(pool)))
    os.makedirs(options.output, exist_ok=True)
    for lang, found in positives.items():
        path = os.path.join(options.output, lang + ".json")
        with open(path + ".tmp", "w", encoding="utf-8", newline="\n") as stream:
            json.dump(negatives_from_others(lang, positives), stream, ensure_ascii=False, indent=2)
            stream.write("\n")
        os.replace(path + ".tmp", path)
        print(f"sense: {path}: {len(found)} of {options.sentences} sentences")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Sense sentences for `neuronmoe analyze` out of any text.")
    parser.add_argument("text", nargs="+", metavar="LANG=PATH[,PATH...]")
    parser.add_argument("--output", required=True, help="folder of the files LANG.json")
    parser.add_argument("--sentences", type=int, default=500, help="per language (default 500)")
    parser.add_argument("--seed", type=int, default=1)
    return exit_code_of("make_sense", lambda: make(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
