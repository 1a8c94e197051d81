#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The layout of the paper's Tables 1, 3 and 11: a row per model, a column per benchmark and language, with standard errors.

    tools/benchmark_table.py [NAME=]RESULTS.json... [--csv OUT.csv] [--png OUT.png] [--text OUT.txt]

RESULTS.json come from `tools/lm_eval_neuronmoe.py read --benchmarks`; a row is called NAME, or after its file.
The table is printed too. Needs Debian's python3-matplotlib for --png, so use /usr/bin/python3.
"""
import argparse
import csv
import io
import json
import math
import os
import sys
from typing import Any

from tool_errors import ToolError, exit_code_of, reading

TITLES = {"arc": "ARC", "belebele": "Belebele", "hellaswag": "HellaSwag", "mmlu": "MMLU"}
Cell = tuple[str, str]  # benchmark, language


def read_results(path: str) -> dict[str, Any]:
    """Returns the scores of one evaluation."""
    try:
        with reading(path), open(path, encoding="utf-8") as stream:
            found = json.load(stream)
        if found["format"] != "neuronmoe-benchmarks" or int(found["format_version"]) > 1:
            raise ValueError(f"it is {found['format']} version {found['format_version']}")
        for row in found["scores"]:
            hash((row["benchmark"], row["language"])), int(row["shots"]), int(row["n"])
            if not math.isfinite(float(row[row["metric"]])):
                raise ValueError(f"{row['metric']} of {row['benchmark']} is {row[row['metric']]}")
        return found
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ToolError(f"{path}: not results of lm_eval_neuronmoe.py ({error}); make them with its "
                         "`read --benchmarks`") from error


class Table:
    """Rows of scores in percent. All rows have to be made alike: benchmarks, shots, limit, first token."""

    def __init__(self, named: list[tuple[str, str]]) -> None:
        self.rows: list[tuple[str, dict[Cell, dict[str, Any]]]] = []
        self.columns: list[Cell] = []
        first: dict[str, Any] = {}
        for name, path in named:
            found = read_results(path)
            cells = {(row["benchmark"], row["language"]): row for row in found["scores"]}
            made = {"limit": found.get("limit"), "bos": found.get("bos_rule"), "max_length": found.get("max_length"),
                    **{f"shots of {b}.{l}": row["shots"] for (b, l), row in cells.items()},
                    **{f"items of {b}.{l}": row["n"] for (b, l), row in cells.items()}}
            first = first or made
            for key, value in made.items():
                if first.get(key, value) != value:
                    raise ToolError(f"{path}: {key} is {value}, in the first row {first[key]}: such rows cannot stand in one table; "
                                     "evaluate them alike")
            self.columns += [cell for cell in cells if cell not in self.columns]
            self.rows.append((name, cells))
        self.made = first

    def value(self, row: int, cell: Cell) -> tuple[float, float] | None:
        """Returns (score, standard error) in percent; nan where lm-eval gives no error."""
        found = self.rows[row][1].get(cell)
        if found is None:
            return None
        error = found.get(found["metric"] + "_stderr")
        return 100 * float(found[found["metric"]]), 100 * error if isinstance(error, (int, float)) else math.nan

    def heads(self) -> list[str]:
        """Returns the names of the columns, with their shots."""
        found = {cell: row for _, cells in reversed(self.rows) for cell, row in cells.items()}
        return [f"{TITLES.get(b, b)} {l} ({found[b, l]['shots']})" for b, l in self.columns]

    def notes(self) -> str:
        """Returns what the numbers are: one line per column, and the rules for all."""
        found = {cell: row for _, cells in reversed(self.rows) for cell, row in cells.items()}
        lines = [f"{TITLES.get(b, b)} {l}: {row['metric']}, {row['shots']} shots, {row['n']} items, {row['task']} ({row['source']})"
                 for (b, l), row in ((cell, found[cell]) for cell in self.columns)]
        limit = f"; only the first {self.made['limit']} items of each task" if self.made.get("limit") else ""
        return "\n".join(lines + [f"{self.made['bos']}{limit}"])

    def text(self) -> str:
        """Returns the table in columns."""
        cells = [["", *self.heads()]]
        for n, (name, _) in enumerate(self.rows):
            cells.append([name, *(cell_text(self.value(n, cell)) for cell in self.columns)])
        widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
        return "\n".join("  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:]))]).rstrip()
                         for row in cells)

    def csv(self) -> str:
        """Returns a line per row of the table with score and error of every column, in percent; columns as in paper-tables."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["method"] + [name for b, l in self.columns for name in (f"{b}_{l}", f"{b}_{l}_stderr")])
        for n, (name, _) in enumerate(self.rows):
            values = [self.value(n, cell) or (math.nan, math.nan) for cell in self.columns]
            writer.writerow([name] + ["" if math.isnan(part) else f"{part:.2f}" for value in values for part in value])
        return stream.getvalue()


def cell_text(value: tuple[float, float] | None) -> str:
    """Returns a score with its standard error."""
    if value is None:
        return "-"
    return f"{value[0]:.2f}" + ("" if math.isnan(value[1]) else f" ± {value[1]:.2f}")


def write_picture(table: Table, path: str) -> None:
    """Writes the table as PNG, SVG or PDF; the best row of a column is bold."""
    import pictures  # here: text and CSV do not need matplotlib
    figure, axis = pictures.plt.subplots(figsize=(1.6 + 1.35 * len(table.columns), 0.9 + 0.3 * len(table.rows)))
    axis.axis("off")
    texts = [[cell_text(table.value(n, cell)) for cell in table.columns] for n in range(len(table.rows))]
    drawn = axis.table(cellText=texts, rowLabels=[name for name, _ in table.rows], colLabels=table.heads(), loc="center",
                       cellLoc="center")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.scale(1, 1.3)
    for k, cell in enumerate(table.columns):
        values = [(table.value(n, cell) or (-1.0, 0.0))[0] for n in range(len(table.rows))]
        drawn[values.index(max(values)) + 1, k].set_text_props(weight="bold")
    axis.set_title("accuracy in %, (shots), ± standard error", fontsize=9)
    pictures.save(figure, path)


def make(options: argparse.Namespace) -> None:
    """Prints the table and writes the files that were asked for."""
    split = [word.partition("=") for word in options.results]
    table = Table([(name, path) if equals else (os.path.splitext(os.path.basename(name))[0], name) for name, equals, path in split])
    whole = f"{table.text()}\n\n{table.notes()}\n"
    print(whole, end="")
    for path, content in ((options.csv, table.csv()), (options.text, whole)):
        if path:
            with open(path + ".tmp", "w", encoding="utf-8", newline="") as stream:
                stream.write(content)
            os.replace(path + ".tmp", path)
    if options.png:
        write_picture(table, options.png)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Table 1 from evaluations.")
    parser.add_argument("results", nargs="+", metavar="[NAME=]RESULTS.json")
    parser.add_argument("--csv")
    parser.add_argument("--png", help="or .svg, .pdf")
    parser.add_argument("--text")
    return exit_code_of("benchmark_table", lambda: make(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
