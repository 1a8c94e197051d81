#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a scaling study measured (slurm/scaling.sh), beside what `plan` predicted: a table on the terminal, and in the study's
folder scaling.csv, a line for every run, and scaling.svg.

    tools/scaling_report.py runs/scaling [--output DIR]

Of each run the first 3 steps are left out. tokens/s is all tokens over all seconds of the others, p50 and p95 are of their seconds; of
several repeats the median. Efficiency: tokens/s per rank against the smallest number. "save" is the time between the last line of
metrics.jsonl and the manifest of the checkpoint behind it. Exchange: what the plan does not hide behind compute, and what rank 0
counted as sent in a step, with the part of all-to-all. A run that has not ended with 0 is listed and counts for nothing."""
import argparse
import csv
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tool_errors import ToolError, exit_code_of, reading

WARM_UP = 3
Row = dict[str, Any]
Points = Sequence[tuple[float, float]]
COLUMNS = ["mode", "nodes", "ranks", "repeat", "job", "exit_code", "global_batch_size", "micro_batch_size", "steps", "tokens_per_s",
           "step_p50_s", "step_p95_s", "sent_bytes_per_step", "all_to_all_share", "save_s", "tflops_per_rank", "efficiency",
           "plan_tokens_per_s", "plan_low", "plan_high", "plan_exchange_share", "measured_over_plan"]


def read(path: Path, default: str | None = None) -> str:
    """Returns the text of a file, `default` where there is none and one is given."""
    if default is not None and not path.exists():
        return default
    with reading(str(path)):
        return path.read_text(encoding="utf-8", errors="replace")


def loaded(path: Path) -> Row:
    """Returns what a file of JSON holds."""
    text = read(path)
    with reading(str(path)):
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ToolError(f"{path}: it is not an object of JSON")
        return found


def quantile(values: Sequence[float], share: float) -> float:
    """Returns a quantile as `plan --plan.calibrate` takes it."""
    values = sorted(values)
    at = share * (len(values) - 1)
    below = int(at)
    return values[below] + (at - below) * (values[min(below + 1, len(values) - 1)] - values[below])


def steps_of(path: Path) -> list[Row]:
    """Returns the lines of metrics.jsonl behind the first WARM_UP, each {"step_s", "tokens_per_s", "bytes", "flops"}."""
    steps = []
    for number, line in enumerate(read(path).splitlines(), 1):
        try:
            step = json.loads(line)
            if not (step["step_s"] > 0 and step["tokens_per_s"] > 0 and step["flops"] >= 0):
                raise ValueError
            sum(step["bytes"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ToolError(f"{path}:{number}: not a line of metrics with step_s, tokens_per_s, bytes and flops") from None
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
    """Returns the plan of the run, {} where there is none."""
    if not read(folder / "plan.json", "").strip():
        return {}
    with reading(str(folder / "plan.json")):
        plan = {(q["section"], q["quantity"]): q for q in loaded(folder / "plan.json")["quantities"] if q["table"] == "run"}
        rate, step = plan["the run", "tokens/s"], plan["time of a step", "step"]["value"]
        exchange = sum(plan["time of a step", name]["value"] for name in ("of these not hidden", "tokens to experts and back"))
        return {"plan_tokens_per_s": rate["value"], "plan_low": rate["low"], "plan_high": rate["high"],
                "plan_exchange_share": exchange / step if step > 0 else 0.0}


def point_of(folder: Path) -> Row:
    """Returns a run: what was asked for, how it ended, what it measured and what was planned."""
    point = loaded(folder / "point.json")
    with reading(str(folder / "point.json")):
        row: Row = {key: point[key] for key in ("mode", "nodes", "ranks", "repeat", "global_batch_size", "micro_batch_size")}
    row["job"] = read(folder / "job_id", "").strip()
    code = read(folder / "exit_code", "").strip()
    row["exit_code"] = int(code) if code.lstrip("-").isdigit() else ""
    row.update(predicted(folder))
    if row["exit_code"] == 0:
        row.update(measured(folder))
        if row.get("plan_tokens_per_s"):
            row["measured_over_plan"] = row["tokens_per_s"] / row["plan_tokens_per_s"]
    else:
        reason = folder / "run" / "exit.json"
        row["reason"] = loaded(reason).get("reason", "") if reason.exists() else ""
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
    """Returns a number for people, "-" where there is none."""
    if value is None:
        return "-"
    value *= scale
    return f"{value:.0f}" if value == int(value) or abs(value) >= 10 ** digits else f"{value:.{digits}g}"


def table(rows: Sequence[Row]) -> str:
    """Returns the table of the medians, in Markdown."""
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


class Panel:
    """Axes with a logarithmic x, at `left` of the drawing. Ticks of x are the numbers of ranks."""
    WIDTH, HEIGHT, TOP = 300, 230, 40

    def __init__(self, left: float, title: str, xs: Sequence[int], low: float, high: float, logarithmic: bool) -> None:
        self.left, self.xs, self.low, self.high, self.logarithmic = left, xs, low, high, logarithmic
        self.parts = [f'<text x="{left}" y="22" font-weight="bold">{title}</text>',
                      f'<rect x="{left}" y="{self.TOP}" width="{self.WIDTH}" height="{self.HEIGHT}" fill="none" stroke="#888"/>']
        for x in xs:
            self.parts.append(f'<text x="{self.x(x):.1f}" y="{self.TOP + self.HEIGHT + 16}" text-anchor="middle">{x}</text>')
        self.parts.append(f'<text x="{left + self.WIDTH / 2}" y="{self.TOP + self.HEIGHT + 34}" text-anchor="middle">ranks</text>')
        for value in self.ticks():
            y = self.y(value)
            self.parts.append(f'<line x1="{left}" x2="{left + self.WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                              f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')

    def ticks(self) -> Sequence[float]:
        """Returns where the lines of the y axis are."""
        if not self.logarithmic:
            return range(0, int(self.high) + 1, 20)
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        return [10.0 ** e for e in range(first, last + 1)] or [self.low, self.high]

    def x(self, value: float) -> float:
        """Returns where a number of ranks is in the drawing."""
        first, last = math.log2(self.xs[0]), math.log2(self.xs[-1])
        return self.left + 20 + (self.WIDTH - 40) * ((math.log2(value) - first) / (last - first) if last > first else 0.5)

    def y(self, value: float) -> float:
        """Returns where a value is in the drawing."""
        scale = math.log10 if self.logarithmic else float
        low, high = scale(self.low), scale(self.high)
        return self.TOP + self.HEIGHT * (1 - (scale(value) - low) / (high - low))

    def line(self, points: Points, color: str, dashes: str = "") -> None:
        """Draws a line through points."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"/>')

    def dots(self, points: Points, color: str) -> None:
        """Draws a dot at each point."""
        self.parts += [f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{color}"/>' for x, y in points]

    def band(self, lower: Points, upper: Points, color: str) -> None:
        """Fills what is between two lines."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in [*lower, *reversed(upper)])
        self.parts.append(f'<polygon points="{path}" fill="{color}" fill-opacity="0.15"/>')


def picture(runs: Sequence[Row], rows: Sequence[Row], mode: str) -> str:
    """Returns the drawing of tokens/s with the plan's range, and efficiency, over ranks; a dot for every run."""
    measured_color, plan_color = "#c05621", "#2b6cb0"
    runs, rows = [[row for row in part if row["mode"] == mode] for part in (runs, rows)]
    runs = [row for row in runs if "tokens_per_s" in row]
    good, planned = [row for row in rows if "tokens_per_s" in row], [row for row in rows if "plan_tokens_per_s" in row]
    xs = [row["ranks"] for row in rows]
    first = good[0] if good else planned[0]
    unit = first.get("tokens_per_s", first.get("plan_tokens_per_s")) / first["ranks"]
    values = [row[key] for row in runs + rows for key in ("tokens_per_s", "plan_low", "plan_high") if row.get(key)] + [unit * x for x in xs]
    rates = Panel(70, f"tokens/s, {mode} scaling", xs, min(values) / 1.3, max(values) * 1.3, True)
    if planned:
        rates.band([(row["ranks"], row["plan_low"]) for row in planned], [(row["ranks"], row["plan_high"]) for row in planned], plan_color)
        rates.line([(row["ranks"], row["plan_tokens_per_s"]) for row in planned], plan_color, "6 4")
    rates.line([(x, unit * x) for x in xs], "#aaa", "2 3")
    rates.line([(row["ranks"], row["tokens_per_s"]) for row in good], measured_color)
    rates.dots([(row["ranks"], row["tokens_per_s"]) for row in runs], measured_color)
    top = max([120.0] + [100 * row["efficiency"] for row in runs])
    shares = Panel(450, "efficiency, % of the smallest", xs, 0, 20 * math.ceil(top / 20), False)
    if planned:
        of_plan = planned[0]["plan_tokens_per_s"] / planned[0]["ranks"]
        shares.line([(row["ranks"], 100 * row["plan_tokens_per_s"] / row["ranks"] / of_plan) for row in planned], plan_color, "6 4")
    shares.line([(row["ranks"], 100 * row["efficiency"]) for row in good], measured_color)
    shares.dots([(row["ranks"], 100 * row["efficiency"]) for row in runs], measured_color)
    legend = (f'<text x="70" y="330" fill="{measured_color}">measured (dots: runs; line: medians)</text>'
              f'<text x="310" y="330" fill="{plan_color}">plan, low to high</text><text x="450" y="330" fill="#888">dotted: ideal</text>')
    return "\n".join(['<svg xmlns="http://www.w3.org/2000/svg" width="780" height="345" font-family="sans-serif" font-size="12">',
                      '<rect width="780" height="345" fill="white"/>', *rates.parts, *shares.parts, legend, "</svg>", ""])


def write(argv: list[str] | None = None) -> None:
    """Writes the CSV and the picture and prints the table of the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the --output of slurm/scaling.sh")
    parser.add_argument("--output", type=Path, help="folder for scaling.csv and scaling.svg (default: the study's)")
    options = parser.parse_args(argv)
    runs = study(options.study)
    rows = medians(runs)
    output = options.output or options.study
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "scaling.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(runs)
    modes = sorted({row["mode"] for row in rows})
    for mode in modes:
        if not any("tokens_per_s" in row or "plan_tokens_per_s" in row for row in rows if row["mode"] == mode):
            continue
        name = "scaling.svg" if len(modes) == 1 else f"scaling-{mode}.svg"
        (output / name).write_text(picture(runs, rows, mode), encoding="utf-8")
    print(table(rows))
    for row in runs:
        if row["exit_code"] != 0:
            state = "has not ended" if row["exit_code"] == "" else f"ended with {row['exit_code']}"
            print(f"{row['mode']}, {row['nodes']} node(s), {row['ranks']} rank(s), repeat {row['repeat']}: {state}"
                  f"{': ' if row['reason'] else ''}{row['reason']}", file=sys.stderr)
    if not any(row["exit_code"] == 0 for row in runs):
        raise ToolError(f"{options.study}: no run has ended with 0 yet")


if __name__ == "__main__":
    sys.exit(exit_code_of("scaling_report.py", write))
