#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the beginnings of held-out documents as prompts for `neuronmoe generate`: one of each file.

    make_prompts.py --output PROMPTS.jsonl TEXT.jsonl...
    make_prompts.py --output PROMPTS.jsonl --lines FILE     every line of FILE is a prompt

A prompt is the first words of the first document that has more than it takes: 5 of at least 10 words, or 12 of at least 24 characters
where there are no blanks between words.
"""
import argparse
import json
import os
import sys

from tool_errors import ToolError, exit_code_of, reading

WORDS, CHARACTERS = 5, 12


def beginning(text: str) -> str | None:
    """Returns the first words of `text`, or None if it is too short to be begun and continued."""
    words = text.split()
    if len(words) >= 2 * WORDS:
        return " ".join(words[:WORDS])
    return text[:CHARACTERS] if len(words) == 1 and len(text) >= 2 * CHARACTERS else None


def prompt_of(path: str) -> str:
    """Returns the prompt of one file."""
    first = None
    with reading(path), open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = json.loads(line)["text"].strip()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ToolError(f'{path}:{number}: not {{"text": "..."}} ({error})') from error
            first = first or text
            found = beginning(text)
            if found:
                return found
    if not first:
        raise ToolError(f"{path}: there is no text in it")
    return first


def lines_of(path: str) -> list[str]:
    """Returns the prompts of a file with one on each line."""
    with reading(path), open(path, encoding="utf-8") as stream:
        prompts = [line.rstrip("\r\n") for line in stream if line.strip()]
    if not prompts:
        raise ToolError(f"{path}: there is no prompt in it")
    return prompts


def write(output: str, prompts: list[str]) -> None:
    """Writes prompts as `neuronmoe generate` reads them."""
    with open(output + ".tmp", "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
    os.replace(output + ".tmp", output)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Beginnings of documents as prompts.")
    parser.add_argument("--output", required=True)
    parser.add_argument("--lines")
    parser.add_argument("text", nargs="*")
    options = parser.parse_args(argv)
    return exit_code_of("make_prompts", lambda: write(
        options.output, lines_of(options.lines) if options.lines else [prompt_of(path) for path in options.text]))


if __name__ == "__main__":
    sys.exit(main())
