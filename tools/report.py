#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes one self-contained report.html about a run, the result table on the terminal, and a plain verdict.

    tools/report.py --work DIR --source en --target el [--control DIR] [--split test] [--check]

Reads neurons.h5, experts.cfg, metrics.jsonl, expert_neurons.h5 and eval-*.json below DIR; every statement is computed from them. What
is not there is left out and named. --check exits with 1 unless the inequalities of a working run hold. Needs Debian's python3-h5py, so
use /usr/bin/python3.
"""
import argparse
import os
import sys

from report_page import continuations, write_page
from report_run import Results
from report_verdict import broken_inequalities, verdict
from tool_errors import exit_code_of, plain


def table(results: Results) -> list[list[str]]:
    """Returns header and rows; perplexity per language, then accuracy of the continuation task."""
    rows = results.rows()
    tasks = [lang for lang in results.languages if any(lang in found.get("continuation", {}) for *_, found in rows)]
    cells = [["model", "experts (new)"] + [f"{lang} ppl" for lang in results.languages] + [f"{lang} cont." for lang in tasks]]
    for name, total, new, found in rows:
        row = [name, f"{total} ({new})"]
        row += [f"{found['perplexity'][lang]['ppl']:.1f}" if lang in found["perplexity"] else "-" for lang in results.languages]
        for lang in tasks:
            task = found.get("continuation", {}).get(lang)
            row.append(f"{task['acc']:.3f} ± {task.get('stderr', 0.0):.3f}" if task else "-")
        cells.append(row)
    return cells


def print_table(cells: list[list[str]]) -> None:
    """Prints rows in columns, the first row as their names."""
    cells = [[plain(cell) for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for n, row in enumerate(cells):
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))
        if n == 0:
            print("  ".join("-" * w for w in widths))


def check(results: Results) -> int:
    """Prints what does not hold of a working run; returns 1 if anything, else 0."""
    broken = broken_inequalities(results)
    for text in broken:
        print(f"check: does NOT hold: {plain(text)}", file=sys.stderr)
    if not broken:
        print("check: all inequalities hold")
    return int(bool(broken))


def make(options: argparse.Namespace) -> int:
    """Writes the page and prints the rest."""
    output = options.output or os.path.join(options.work, options.target, "report.html")
    results = Results(options)
    write_page(results, output)
    print()
    if results.rows():
        print_table(table(results))
        print()
    for line in verdict(results):
        print("* " + plain(line))
    for prompt, texts in continuations(results):
        print(f"\n{plain(prompt)} ...")
        for name, text in texts:
            print(f"  {name:10}  {plain(text.replace(chr(10), ' '))}")
    if results.folder.missing:
        print(f"\nnot there, so not in the report: {plain(', '.join(results.folder.missing))}")
    print(f"\nreport: {os.path.abspath(output)}")
    return check(results) if options.check else 0


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Report of one run.")
    parser.add_argument("--work", required=True, help="folder of the pipeline")
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--control", help="folder of the control run, relative to --work")
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", default="unknown", help="of the program that made the run")
    parser.add_argument("--output", help="default WORK/TARGET/report.html")
    parser.add_argument("--check", action="store_true", help="exit 1 unless the inequalities of a working run hold")
    return exit_code_of("report", lambda: make(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
