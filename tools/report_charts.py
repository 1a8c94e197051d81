# SPDX-License-Identifier: Apache-2.0
"""The pictures of tools/report.py. Each function returns a PNG as bytes."""
import io

import matplotlib
matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # a language may have a $ in its name
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

BASE, NEW, SOURCE, TARGET, CONTROL = "#9aa5b1", "#d9622b", "#2b6cb0", "#c05621", "#718096"


def png(figure):
    buffer = io.BytesIO()
    figure.tight_layout()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def allocation(experts, counts, source, target):
    """Experts per layer as bars, the neuron counts they come from as a line."""
    layers = np.arange(len(experts))
    figure, axis = plt.subplots(figsize=(7.5, 3.2))
    axis.bar(layers, 1, color=BASE, label="base FFN (frozen)")
    axis.bar(layers, np.array(experts) - 1, bottom=1, color=NEW, label="new experts")
    axis.set_xlabel("layer")
    axis.set_ylabel("experts")
    axis.set_xticks(layers)
    axis.set_yticks(range(max(experts) + 1))
    other = axis.twinx()
    other.plot(layers, counts, "k.-", linewidth=1, label=f"neurons of {source} or {target}")
    other.set_ylim(0, 1.35 * max(counts + [1]))
    other.set_ylabel("neurons")
    handles = [h for a in (axis, other) for h in a.get_legend_handles_labels()[0]]
    axis.legend(handles, [h.get_label() for h in handles], fontsize=8, loc="upper center")
    axis.set_ylim(0, max(experts) * 1.35)
    return png(figure)


def heat_map(values, rows, columns, title, number="{:.0f}"):
    """values[row][column] (nan = nothing there) as colours with the numbers written in."""
    data = np.array(values, dtype=float)
    figure, axis = plt.subplots(figsize=(max(4.0, 0.62 * len(columns) + 2.2), 0.36 * len(rows) + 1.5))
    image = axis.imshow(np.ma.masked_invalid(data), aspect="auto", cmap="YlOrRd", vmin=0)
    bar = np.nanmax(data) / 2 if np.isfinite(data).any() else 1
    for (i, j), value in np.ndenumerate(data):
        if np.isfinite(value):
            axis.text(j, i, number.format(value), ha="center", va="center", fontsize=8,
                      color="white" if value > 1.3 * bar else "black")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_title(title, fontsize=10)
    figure.colorbar(image)
    return png(figure)


def change_map(values, rows, columns, title):
    """values[row][column] around 0 as colours, worse in red, with the numbers written in."""
    data = np.array(values, dtype=float)
    most = max(float(np.abs(data).max()), 1e-12)
    figure, axis = plt.subplots(figsize=(max(4.5, 0.8 * len(columns) + 2.8), 0.36 * len(rows) + 1.5))
    image = axis.imshow(data, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
    for (i, j), value in np.ndenumerate(data):
        axis.text(j, i, f"{value:+.3f}", ha="center", va="center", fontsize=8,
                  color="white" if abs(value) > 0.65 * most else "black")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("held-out text")
    axis.set_title(title, fontsize=10)
    figure.colorbar(image)
    return png(figure)


def smooth(values, width):
    """Running mean over `width` steps, short at both ends."""
    padded = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.minimum(np.arange(len(values)) + width // 2 + 1, len(values))
    starts = np.maximum(np.arange(len(values)) - width // 2, 0)
    return (padded[ends] - padded[starts]) / (ends - starts)


def losses(series):
    """series: [(title, [(label, metric rows)])]: one panel per training."""
    figure, axes = plt.subplots(1, len(series), figsize=(3.6 * len(series), 3.0), squeeze=False)
    for axis, (title, curves) in zip(axes[0], series):
        for n, (label, rows) in enumerate(curves):
            rows = [row for row in rows if isinstance(row.get("loss_lm"), (int, float))]
            if not rows:
                continue
            steps = [row["step"] for row in rows]
            values = np.array([row["loss_lm"] for row in rows], dtype=float)
            colour = CONTROL if n else SOURCE
            if len(values) > 30:
                axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.6)
                values = smooth(values, max(9, len(values) // 25))
            axis.plot(steps, values, color=colour, label=label, linestyle="--" if n else "-")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        if len(curves) > 1:
            axis.legend(fontsize=8)
    axes[0][0].set_ylabel("loss (nats per token)")
    return png(figure)


def routers(stages, source, target):
    """stages: {stage: {lang: [(layer, weight of the base expert)]}}: how far stage 2 sends a language back to the base."""
    layers = sorted({layer for langs in stages.values() for rows in langs.values() for layer, _ in rows})
    figure, axis = plt.subplots(figsize=(6.5, 3.0))
    for lang, colour in ((source, SOURCE), (target, TARGET)):
        for stage, style in (("stage1", ":"), ("stage2", "-")):
            rows = dict(stages.get(stage, {}).get(lang, []))
            axis.plot(range(len(layers)), [rows.get(layer, np.nan) for layer in layers], style, marker="o",
                      markersize=4, color=colour, label=f"{lang}, {stage}")
    axis.set_xticks(range(len(layers)), layers)
    axis.set_ylim(0, 1.05)
    axis.set_xlabel("layer with experts")
    axis.set_ylabel("mean router weight\nof the base expert")
    axis.legend(fontsize=8, ncol=2)
    return png(figure)
