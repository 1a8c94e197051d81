#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Expert lists side by side (the paper's Tables 2, 8 and 9): a line per layer, a column per list, totals and reductions below.

    tools/expert_table.py [NAME=]experts.cfg... [--csv OUT.csv]

Reductions are against the first list: of the experts, and of those added to the base. Standard library and h5py only.
"""
import argparse
import csv
import os
import sys

import report_data
from tool_errors import ToolError, exit_code_of


def read_lists(words: list[str]) -> list[tuple[str, list[int]]]:
    """Returns [(name, experts per layer)]; refuses lists of different depth."""
    lists = []
    for word in words:
        name, equals, path = word.rpartition("=")
        lists.append((name if equals else os.path.basename(path).removesuffix(".cfg"), report_data.read_experts(path)))
        if len(lists[-1][1]) != len(lists[0][1]):
            raise ToolError(f"{path}: {len(lists[-1][1])} layers, {words[0]} has {len(lists[0][1])}; these are different models")
    return lists


def table(lists: list[tuple[str, list[int]]]) -> list[list[str]]:
    """Returns rows of text: head, layers, totals."""
    layers = len(lists[0][1])
    first = sum(lists[0][1])
    rows = [["layer"] + [name for name, _ in lists]]
    rows += [[str(layer)] + [str(experts[layer]) for _, experts in lists] for layer in range(layers)]
    rows.append(["experts"] + [str(sum(experts)) for _, experts in lists])
    rows.append(["reduction_percent"] + [f"{100 * (1 - sum(experts) / first):.1f}" for _, experts in lists])
    added = first - layers
    rows.append(["reduction_of_added_percent"] + [f"{100 * (1 - (sum(experts) - layers) / added):.1f}" if added else ""
                                                  for _, experts in lists])
    return rows


def main(argv: list[str] | None = None) -> None:
    """Prints the table that the command line asks for."""
    parser = argparse.ArgumentParser(description="Expert lists side by side.")
    parser.add_argument("lists", nargs="+", metavar="[NAME=]experts.cfg")
    parser.add_argument("--csv")
    options = parser.parse_args(argv)
    rows = table(read_lists(options.lists))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print("  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))]))
    if options.csv:
        with open(options.csv, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    sys.exit(exit_code_of("expert_table", main))
