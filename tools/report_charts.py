# SPDX-License-Identifier: Apache-2.0
"""The pictures of tools/report.py. Each function returns an SVG element; the page's style has the colors."""
import math
from collections.abc import Sequence

from report_svg import Canvas, Plot, legend_width, text_width, tick_text, ticks

CELL_HEIGHT, HEAT_TOP = 24, 8


def allocation(lists: Sequence[Sequence[int]], counts: Sequence[int] | None, ranges: Sequence[tuple[int, int]] | None, languages: str) -> str:
    """Draws experts per layer as bars: `lists` are base, existing (of an extension; else as the base) and all experts; the neuron counts that
    they come from as a line on an axis of its own; `ranges` as whiskers: what other draws of ties would have given."""
    base, existing, experts = lists
    layers = len(experts)
    step = 46 if layers <= 12 else 26
    entries = [("box", "f-base", "base FFN, frozen")] + [("box", "f-old", "there before, frozen")] * (list(existing) != list(base))
    entries += [("box", "f-new", "new")] + [("line", "whisker", "whiskers: other draws")] * bool(ranges) + [("line", "s-count", "neurons")] * bool(counts)
    most = max(max(experts), max((high for _, high in ranges or []), default=1))
    plot = Plot((max(330, layers * step + 110, 54 + legend_width(entries)), 250), (-0.6, layers - 0.4), (0, most * 1.08), above=40, beside=54 if counts else 14)
    plot.axes("layer", "experts, base included", range(layers), [t for t in ticks(0, most) if t == round(t)])
    width = (plot.right - plot.left) / (layers + 0.2) * 0.7
    for layer, count in enumerate(experts):
        floor = 0
        for top, css in ((base[layer], "f-base"), (existing[layer], "f-old"), (count, "f-new")):
            if top > floor:
                x, y = plot.at(layer, top)
                plot.rect((x - width / 2, y), (width, plot.at(layer, floor)[1] - y), css, title=f"layer {layer}: {count} experts")
                floor = top
        if ranges and ranges[layer][0] != ranges[layer][1]:
            (x, low), (_, high) = plot.at(layer, ranges[layer][0]), plot.at(layer, ranges[layer][1])
            for line in ([(x, low), (x, high)], [(x - 4, low), (x + 4, low)], [(x - 4, high), (x + 4, high)]):
                plot.line(line, "whisker")
    if counts:
        second_axis(plot, counts, languages)
    plot.legend((plot.left, 16), entries)
    return plot.svg(f"experts per layer: {', '.join(map(str, experts))}")


def second_axis(plot: Plot, counts: Sequence[int], languages: str) -> None:
    """Draws the counts over the bars, with their own numbers on the right."""
    bars, plot.y = plot.y, (0, 1.08 * max(list(counts) + [1]))
    points = [plot.at(layer, count) for layer, count in enumerate(counts)]
    plot.line(points, "s-count")
    for point in points:
        plot.dot(point, "f-count", 2.5)
    for value in ticks(0, plot.y[1], 5):
        plot.text((plot.right + 6, plot.at(0, value)[1] + 4), tick_text(value), "start")
    plot.text((plot.width - 8, (plot.top + plot.bottom) / 2), f"distinct neurons of {languages}", css="label", turned=True)
    plot.y = bars


def cell_text(value: float, form: str) -> str:
    """Returns a cell's number, or nothing where there is none."""
    return form.format(value) if math.isfinite(value) else ""


def heat_map(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str, str], form: str) -> str:
    """Draws values[row][column] (nan = nothing there) as colors with the numbers written in, below 0 in another color. `labels`: of the
    columns, of the rows, of the values."""
    most = max((abs(v) for row in values for v in row if math.isfinite(v)), default=0.0)
    widest = max((text_width(cell_text(v, form)) for row in values for v in row), default=0)
    width = max(26.0, widest + 8, max(map(text_width, columns)) + 4)
    left = max(map(text_width, rows)) + 38
    right = left + width * len(columns)
    canvas = Canvas(max(right + 12, 300), HEAT_TOP + CELL_HEIGHT * len(rows) + 74)
    for i, row in enumerate(values):
        y = HEAT_TOP + i * CELL_HEIGHT
        canvas.text((left - 8, y + 16), rows[i], "end")
        for j, value in enumerate(row):
            if not math.isfinite(value):
                continue
            share = abs(value) / most if most else 0.0
            text = cell_text(value, form)
            canvas.rect((left + j * width + 0.5, y + 0.5), (width - 1, CELL_HEIGHT - 1), "f-heat" if value >= 0 else "f-cold",
                        0.06 + 0.94 * share, f"{rows[i]}, {columns[j]}: {text}")
            canvas.text((left + (j + 0.5) * width, y + 16), text, css="high" if share > 0.7 else "")
    bottom = HEAT_TOP + CELL_HEIGHT * len(rows)
    for j, name in enumerate(columns):
        canvas.text((left + (j + 0.5) * width, bottom + 15), name)
    canvas.text(((left + right) / 2, bottom + 33), labels[0], css="label")
    canvas.text((12, (HEAT_TOP + bottom) / 2), labels[1], css="label", turned=True)
    color_scale(canvas, bottom + 48, (min((v for row in values for v in row if math.isfinite(v)), default=0.0), most), labels[2], form)
    return canvas.svg(f"{labels[2]} by {labels[1]} and {labels[0]}")


def color_scale(canvas: Canvas, y: float, ends: tuple[float, float], label: str, form: str) -> None:
    """Draws what the colors mean, with the unit of the values."""
    low, most = ends
    if most == 0:
        canvas.text((12, y + 11), f"{label}: all are 0", "start")
        return
    x = 12.0
    canvas.text((x, y + 11), f"{label}:", "start")
    x += text_width(label) + 12
    steps = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0) if low < 0 else (0.0, 0.25, 0.5, 0.75, 1.0)
    canvas.text((x, y + 11), form.format(-most if low < 0 else 0.0), "start")
    x += text_width(form.format(-most if low < 0 else 0.0)) + 6
    for share in steps:
        canvas.rect((x, y), (14, 14), "f-heat" if share >= 0 else "f-cold", 0.06 + 0.94 * abs(share))
        x += 14
    canvas.text((x + 6, y + 11), form.format(most), "start")
    canvas.width = max(canvas.width, x + 14 + text_width(form.format(most)))


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Returns the running mean over `width` steps, short at both ends."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = [(max(n - width // 2, 0), min(n + width // 2 + 1, len(values))) for n in range(len(values))]
    return [(sums[end] - sums[begin]) / (end - begin) for begin, end in spans]


def thin(points: Sequence[tuple[float, float]], most: int = 1500) -> list[tuple[float, float]]:
    """Returns every n-th point, so that a long training does not make a page of megabytes."""
    return list(points[::max(1, math.ceil(len(points) / most))])


def loss(curves: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> str:
    """Draws [(label, [(step, loss)])] of one training: the second is the control's."""
    points = [point for _, curve in curves for point in curve]
    low, high = min(y for _, y in points), max(y for _, y in points)
    margin = 0.05 * (high - low) or 0.1
    plot = Plot((330, 230), (min(x for x, _ in points), max(x for x, _ in points)), (low - margin, high + margin), above=28 if len(curves) > 1 else 12)
    plot.axes("step", "loss, nats per token", ticks(*plot.x, most=5), ticks(*plot.y))
    for n, (_, curve) in enumerate(curves):
        css, values = ("s-control" if n else "s-source"), [y for _, y in curve]
        if len(curve) > 30:
            plot.line([plot.at(x, y) for x, y in thin(curve)], css + " faint")
            values = smooth(values, max(9, len(values) // 25))
        plot.line([plot.at(x, y) for x, y in thin(list(zip([x for x, _ in curve], values)))], css)
        if len(curve) == 1:
            plot.dot(plot.at(*curve[0]), "f-source")
    if len(curves) > 1:
        plot.legend((plot.left, 14), [("line", "s-control" if n else "s-source", label) for n, (label, _) in enumerate(curves)])
    return plot.svg("loss by step: " + "; ".join(f"{label} {curve[0][1]:.3f} to {curve[-1][1]:.3f}" for label, curve in curves if curve))


def routers(stages: dict[str, dict[str, dict[int, float]]], languages: Sequence[str], layers: int) -> str:
    """Draws {stage: {lang: {layer: weight of the base expert}}}: how far stage 2 sends a language back to the base."""
    plot = Plot((max(330, min(layers * 30, 700) + 80), 240), (-0.4, layers - 0.6), (0, 1), above=44)
    every = 1 if layers <= 16 else 2 if layers <= 32 else 8
    plot.axes("layer (dots: layers with experts)", "mean weight of the base expert", range(0, layers, every), ticks(0, 1))
    entries = []
    for n, lang in enumerate(languages):
        for stage, style in (("stage1", "dashed"), ("stage2", "")):
            rows = stages.get(stage, {}).get(lang, {})
            points = [plot.at(layer, rows[layer]) for layer in sorted(rows)]
            color = ("source", "target")[n]
            if points:
                plot.line(points, f"s-{color} {style}")
                entries.append((n, ("line", f"s-{color} {style}", f"{lang}, {stage[:-1]} {stage[-1]}")))
            for point in points:
                plot.dot(point, f"f-{color}")
    for n in range(len(languages)):
        plot.legend((plot.left, 14 + 16 * n), [entry for row, entry in entries if row == n])
    return plot.svg("router weight of the base expert by layer")
