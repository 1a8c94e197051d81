#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a scaling study measured (slurm/scaling.sh), beside what `plan` predicted: a table on the terminal, and in the study's
folder scaling.csv, a line for every run, and scaling.svg.

    tools/scaling_report.py runs/scaling [--output DIR]

Of each run the first 3 steps are left out. tokens/s is all tokens over all seconds of the others, p50 and p95 are of their seconds; of
several repeats the median. Efficiency: tokens/s per rank against the smallest number. "save" is the time between the last line of
metrics.jsonl and the manifest of the checkpoint behind it. Exchange: what the plan does not hide behind compute, and what rank 0
counted as sent in a step, with the part of all-to-all. A run that has not ended with 0 is listed and counts for nothing.
A damaged file, or a study of which no run has ended with 0, is exit code 65."""
import argparse
import csv
import io
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report_svg import Canvas, Plot, Point, legend_width, text_width, tick_text, ticks
from tool_errors import ToolError, exit_code_of, plain, reading

WARM_UP = 3
MODES = ("strong", "weak")
COLUMNS = ["mode", "nodes", "ranks", "repeat", "job", "exit_code", "global_batch_size", "micro_batch_size", "steps", "tokens_per_s",
           "step_p50_s", "step_p95_s", "sent_bytes_per_step", "all_to_all_share", "save_s", "tflops_per_rank", "efficiency",
           "plan_tokens_per_s", "plan_low", "plan_high", "plan_exchange_share", "measured_over_plan"]
STYLE = """svg{font:12px sans-serif}.label{fill:#4a5568}.line{fill:none;stroke-width:1.8}.grid{stroke:#cbd5e0;stroke-width:.7}
.axis{stroke:#4a5568;stroke-width:1}.s-measured{stroke:#c05621}.f-measured{fill:#c05621}.s-plan{stroke:#2b6cb0;stroke-dasharray:6 4}
.f-plan{fill:#2b6cb0;fill-opacity:.15}.s-ideal{stroke:#888;stroke-dasharray:2 3}"""
Row = dict[str, Any]  # COLUMNS of a run, as far as they are known, and "reason"; of several runs also "runs" and "good"


def text_at(path: Path) -> str:
    """Returns what a file holds without blanks around it, "" if it is not there."""
    with reading(str(path)):
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def positive(value: Any) -> float:
    """Returns a number that is finite and above 0; anything else is a ValueError or TypeError."""
    if isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not a number above 0")
    return value


def loaded(path: Path) -> dict[str, Any]:
    """Returns the object of a JSON file."""
    with reading(str(path)):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ToolError(f"{path}: not JSON ({error})") from error
        if not isinstance(found, dict):
            raise ToolError(f"{path}: not an object of JSON")
        return found


def quantile(values: Sequence[float], share: float) -> float:
    """Returns a quantile as `plan --plan.calibrate` takes it."""
    values = sorted(values)
    at = share * (len(values) - 1)
    below = int(at)
    return values[below] + (at - below) * (values[min(below + 1, len(values) - 1)] - values[below])


def steps_of(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl behind the first WARM_UP, each with step_s, tokens_per_s, bytes by operation and flops."""
    steps = []
    with reading(str(path)):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                step = json.loads(line)
                positive(step["step_s"]), positive(step["tokens_per_s"])
                if not all(0 <= n < math.inf for n in (step["flops"], *step["bytes"].values())):
                    raise ValueError
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ToolError(f"{path}:{number}: not a line of metrics with step_s, tokens_per_s, bytes and flops") from error
            steps.append(step)
    if len(steps) <= WARM_UP:
        raise ToolError(f"{path}: {len(steps)} steps, and the first {WARM_UP} are left out; give scaling.sh more --steps")
    return steps[WARM_UP:]


def measured(folder: Path) -> Row:
    """Returns what a run that ended with 0 says of itself."""
    metrics = folder / "run" / "metrics.jsonl"
    steps = steps_of(metrics)
    seconds = [step["step_s"] for step in steps]
    sent = sum(sum(step["bytes"].values()) for step in steps)
    exchanged = sum(n for step in steps for name, n in step["bytes"].items() if name.startswith("all_to_all"))
    found = {"steps": len(steps), "tokens_per_s": sum(s["tokens_per_s"] * s["step_s"] for s in steps) / sum(seconds),
             "step_p50_s": quantile(seconds, 0.5), "step_p95_s": quantile(seconds, 0.95), "sent_bytes_per_step": sent / len(steps),
             "all_to_all_share": exchanged / sent if sent else 0.0,
             "tflops_per_rank": sum(s["flops"] for s in steps) / sum(seconds) / 1e12}
    manifests = sorted(folder.glob("run/step_*/manifest.json"))
    if manifests:
        found["save_s"] = max(0.0, manifests[-1].stat().st_mtime - metrics.stat().st_mtime)
    return found


def predicted(folder: Path) -> Row:
    """Returns the plan of a run, {} where there is none."""
    path = folder / "plan.json"
    if not text_at(path):
        return {}
    found = loaded(path)
    with reading(str(path)):
        plan = {(q["section"], q["quantity"]): q for q in found["quantities"] if q["table"] == "run"}
        rate, step = plan["the run", "tokens/s"], plan["time of a step", "step"]["value"]
        exchange = sum(plan["time of a step", name]["value"] for name in ("of these not hidden", "tokens to experts and back"))
        return {"plan_tokens_per_s": positive(rate["value"]), "plan_low": positive(rate["low"]), "plan_high": positive(rate["high"]),
                "plan_exchange_share": exchange / positive(step)}


def point_of(folder: Path) -> Row:
    """Returns what is known of the run in a folder."""
    path = folder / "point.json"
    point = loaded(path)
    with reading(str(path)):
        row: Row = {key: point[key] for key in ("mode", "nodes", "ranks", "repeat", "global_batch_size", "micro_batch_size")}
        if row["mode"] not in MODES or not all(type(n) is int and 0 < n < 2**53 for key, n in row.items() if key != "mode"):
            raise ValueError(f"mode is {' or '.join(MODES)}, the others are whole numbers from 1 on")
    row["job"] = plain(text_at(folder / "job_id"))
    code = text_at(folder / "exit_code")
    with reading(str(folder / "exit_code")):
        row["exit_code"] = int(code) if code else ""
    row.update(predicted(folder))
    if row["exit_code"] == 0:
        row.update(measured(folder))
        if "plan_tokens_per_s" in row:
            row["measured_over_plan"] = row["tokens_per_s"] / row["plan_tokens_per_s"]
    else:
        reason = folder / "run" / "exit.json"
        row["reason"] = plain(str(loaded(reason).get("reason", ""))) if reason.exists() else ""
    return row


def study(folder: Path) -> list[Row]:
    """Returns all runs of a study, the smallest numbers first, with their efficiency."""
    rows = [point_of(path.parent) for path in sorted(folder.glob("*/point.json"))]
    if not rows:
        raise ToolError(f"{folder}: no run of slurm/scaling.sh is in it (no */point.json)")
    rows.sort(key=lambda row: (row["mode"], row["ranks"], row["repeat"]))
    for mode in {row["mode"] for row in rows}:
        good = [row for row in rows if row["mode"] == mode and row["exit_code"] == 0]
        if not good:
            continue
        smallest = good[0]["ranks"]
        unit = statistics.median(row["tokens_per_s"] for row in good if row["ranks"] == smallest) / smallest
        for row in good:
            row["efficiency"] = row["tokens_per_s"] / row["ranks"] / unit
    return rows


def medians(rows: Sequence[Row]) -> list[Row]:
    """Returns one row for each number of ranks: medians over its repeats."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["mode"], row["ranks"]), []).append(row)
    joined = []
    for members in groups.values():
        good = [row for row in members if row["exit_code"] == 0]
        one = {**members[0], "runs": len(members), "good": len(good), "job": " ".join(row["job"] for row in members if row["job"])}
        for key in COLUMNS[COLUMNS.index("tokens_per_s"):]:
            values = [row[key] for row in good if key in row] or [row[key] for row in members if key in row and key.startswith("plan")]
            one.pop(key, None)
            if values:
                one[key] = statistics.median(values)
        joined.append(one)
    return joined


def text_of(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """Returns a number of the table with `digits` digits that count, "-" where there is none."""
    if value is None:
        return "-"
    value *= scale
    return f"{value:.0f}" if value == int(value) or abs(value) >= 10 ** digits else f"{value:.{digits}g}"


def table(rows: Sequence[Row]) -> str:
    """Returns the table for the terminal, a line for each number of ranks."""
    head = ["mode", "nodes", "ranks", "batch", "micro-batch", "runs", "tokens/s", "step p50, ms", "p95, ms", "sent, MB/step",
            "all-to-all, %", "save, s", "efficiency, %", "plan: tokens/s (low to high)", "plan: exchange, %", "measured / plan", "jobs"]
    lines = [head]
    for row in rows:
        plan = text_of(row.get("plan_tokens_per_s"))
        if "plan_low" in row:
            plan += f" ({text_of(row['plan_low'])} to {text_of(row['plan_high'])})"
        runs = str(row["runs"]) if row["good"] == row["runs"] else f"{row['good']} of {row['runs']}"
        cells = [row["mode"], str(row["nodes"]), str(row["ranks"]), str(row["global_batch_size"]), str(row["micro_batch_size"]), runs]
        cells += [text_of(row.get(key), scale) for key, scale in
                  (("tokens_per_s", 1), ("step_p50_s", 1e3), ("step_p95_s", 1e3), ("sent_bytes_per_step", 1e-6), ("all_to_all_share", 100),
                   ("save_s", 1), ("efficiency", 100))]
        cells += [plan, text_of(row.get("plan_exchange_share"), 100), text_of(row.get("measured_over_plan")), row["job"] or "-"]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(text)


class RankPlot(Plot):
    """A plot over numbers of ranks, whose axis is logarithmic; that of the values is on request."""

    def __init__(self, ranks: Sequence[int], values: Point, logarithmic: bool) -> None:
        super().__init__((390, 285), (ranks[0] / 1.2, ranks[-1] * 1.2), values, above=12)
        self.logarithmic = logarithmic

    def at(self, x: float, y: float) -> Point:
        """Returns where a value stands on the canvas."""
        return super().at(on_log_axis(x, self.x), on_log_axis(y, self.y) if self.logarithmic else y)


def on_log_axis(value: float, ends: Point) -> float:
    """Returns what stands on a linear axis where `value` stands on a logarithmic one with the same ends."""
    low, high = ends
    return low + (high - low) * math.log(value / low) / math.log(high / low)


def log_ticks(low: float, high: float) -> list[float]:
    """Returns round numbers for a logarithmic axis: 1, 2 and 5 times powers of ten, only the powers over several of them."""
    factors = (1, 2, 5) if high / low < 1000 else (1,)
    found = [factor * 10.0 ** e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for factor in factors]
    found = [value for value in found if low <= value <= high]
    return found if len(found) > 1 else ticks(low, high)


def rates_over_ranks(runs: Sequence[Row], rows: Sequence[Row], mode: str) -> Plot:
    """Draws tokens/s with the plan's range and the ideal line through the smallest number; a dot for every run."""
    good, planned = with_key(rows, "tokens_per_s"), with_key(rows, "plan_tokens_per_s")
    first, key = (good[0], "tokens_per_s") if good else (planned[0], "plan_tokens_per_s")
    ranks = [row["ranks"] for row in rows]
    ideal = [(x, first[key] / first["ranks"] * x) for x in ranks]
    values = [row[name] for row in [*runs, *rows] for name in ("tokens_per_s", "plan_low", "plan_high") if name in row] + [y for _, y in ideal]
    plot = RankPlot(ranks, (min(values) / 1.3, max(values) * 1.3), True)
    shown = log_ticks(*plot.y)
    plot.left = 30 + max(text_width(tick_text(value)) for value in shown)
    plot.axes("ranks", f"tokens/s, {mode} scaling", ranks, shown)
    plot.area([plot.at(row["ranks"], row["plan_low"]) for row in planned] + [plot.at(row["ranks"], row["plan_high"]) for row in planned[::-1]], "f-plan")
    plot.line([plot.at(row["ranks"], row["plan_tokens_per_s"]) for row in planned], "s-plan")
    plot.line([plot.at(*point) for point in ideal], "s-ideal")
    plot.line([plot.at(row["ranks"], row["tokens_per_s"]) for row in good], "s-measured")
    for row in runs:
        plot.dot(plot.at(row["ranks"], row["tokens_per_s"]), "f-measured")
    return plot


def efficiency_over_ranks(runs: Sequence[Row], rows: Sequence[Row]) -> Plot:
    """Draws tokens/s per rank in percent of the smallest number, measured and planned."""
    good, planned = with_key(rows, "tokens_per_s"), with_key(rows, "plan_tokens_per_s")
    ranks = [row["ranks"] for row in rows]
    of_plan = [(row["ranks"], 100 * row["plan_tokens_per_s"] / row["ranks"] / planned[0]["plan_tokens_per_s"] * planned[0]["ranks"]) for row in planned]
    plot = RankPlot(ranks, (0, max([115.0] + [1.05 * 100 * row["efficiency"] for row in runs] + [1.05 * y for _, y in of_plan])), False)
    plot.axes("ranks", "efficiency, % of the smallest", ranks, ticks(*plot.y, most=7))
    plot.line([plot.at(*point) for point in of_plan], "s-plan")
    plot.line([plot.at(x, 100) for x in ranks], "s-ideal")
    plot.line([plot.at(row["ranks"], 100 * row["efficiency"]) for row in good], "s-measured")
    for row in runs:
        plot.dot(plot.at(row["ranks"], 100 * row["efficiency"]), "f-measured")
    return plot


def with_key(rows: Sequence[Row], key: str) -> list[Row]:
    """Returns the rows in which a number is known."""
    return [row for row in rows if key in row]


def picture(runs: Sequence[Row], rows: Sequence[Row], mode: str) -> str:
    """Returns the SVG of one kind of scaling: `runs` are all, `rows` their medians."""
    runs, rows = [[row for row in part if row["mode"] == mode] for part in (with_key(runs, "tokens_per_s"), rows)]
    panels = rates_over_ranks(runs, rows, mode), efficiency_over_ranks(runs, rows)
    entries = [("line", "s-measured", "measured: medians, dots: runs")] * bool(runs)
    if with_key(rows, "plan_tokens_per_s"):
        entries += [("line", "s-plan", "plan"), ("box", "f-plan", "plan, low to high")]
    entries.append(("line", "s-ideal", "ideal"))
    canvas = Canvas(max(sum(panel.width for panel in panels), 28 + legend_width(entries)), 24 + panels[0].height)
    canvas.legend((14, 20), entries)
    canvas.place((0, 24), panels[0])
    canvas.place((panels[0].width, 24), panels[1])
    numbers = ", ".join(f"{row['ranks']}: {text_of(row.get('tokens_per_s'))}" for row in rows)
    return canvas.file(f"{mode} scaling, tokens/s by ranks: {numbers}", STYLE)


def write_file(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
    os.replace(unfinished, path)


def csv_of(runs: Sequence[Row]) -> str:
    """Returns scaling.csv."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(runs)
    return stream.getvalue()


def make(options: argparse.Namespace) -> None:
    """Prints the table of a study and writes its files; then names the runs that count for nothing on standard error."""
    runs = study(options.study)
    rows = medians(runs)
    output = options.output or options.study
    output.mkdir(parents=True, exist_ok=True)
    write_file(output / "scaling.csv", csv_of(runs))
    modes = sorted({row["mode"] for row in rows})
    for mode in modes:
        if any("tokens_per_s" in row or "plan_tokens_per_s" in row for row in rows if row["mode"] == mode):
            write_file(output / ("scaling.svg" if len(modes) == 1 else f"scaling-{mode}.svg"), picture(runs, rows, mode))
    print(table(rows))
    for row in runs:
        if row["exit_code"] != 0:
            state = "has not ended" if row["exit_code"] == "" else f"ended with {row['exit_code']}"
            reason = f": {row['reason']}" if row["reason"] else ""
            print(f"{row['mode']}, {row['nodes']} node(s), {row['ranks']} rank(s), repeat {row['repeat']}: {state}{reason}", file=sys.stderr)
    if not any(row["exit_code"] == 0 for row in runs):
        raise ToolError(f"{options.study}: no run has ended with 0 yet")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the --output of slurm/scaling.sh")
    parser.add_argument("--output", type=Path, help="folder for scaling.csv and scaling.svg (default: the study's)")
    return exit_code_of("scaling_report", lambda: make(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
