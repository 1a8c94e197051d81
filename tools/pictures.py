# SPDX-License-Identifier: Apache-2.0
"""What the tools that draw with matplotlib share: colors, a heat map, and writing a picture whole or not at all."""
import os
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # a language may have a $ in its name
matplotlib.rcParams.update({"svg.hashsalt": "neuronmoe", "svg.fonttype": "none"})  # the same bytes for the same numbers; text as text
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tool_errors import EXIT_CONFIG, ToolError  # noqa: E402

BASE, NEW, SOURCE = "#9aa5b1", "#d9622b", "#2b6cb0"
FORMATS = ("png", "svg", "pdf")


def save(figure: Figure, path: str) -> None:
    """Writes the picture as PNG, SVG or PDF by the suffix of `path`; PNG without one."""
    form = os.path.splitext(path)[1][1:].lower() or "png"
    if form not in FORMATS:
        raise ToolError(f"{path}: a picture is written as .png, .svg or .pdf", EXIT_CONFIG)
    figure.tight_layout()
    stamp = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    figure.savefig(path + ".tmp", format=form, dpi=150, metadata=stamp)
    plt.close(figure)
    os.replace(path + ".tmp", path)


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str, str]) -> Figure:
    """Draws values[row][column] (nan = nothing there) as colors with the numbers written in. `labels`: of the columns, of the rows, of
    the values."""
    data = np.array(values, dtype=float)
    figure, axis = plt.subplots(figsize=(max(4.0, 0.62 * len(columns) + 2.2), 0.3 * len(rows) + 1.5))
    most = float(np.nanmax(data)) if np.isfinite(data).any() else 0.0
    image = axis.imshow(np.ma.masked_invalid(data), aspect="auto", cmap="YlOrRd", vmin=0, vmax=most or 1.0)
    for (i, j), value in np.ndenumerate(data):
        if np.isfinite(value):
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if most and value > 0.65 * most else "black")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    figure.colorbar(image, label=labels[2])
    return figure
