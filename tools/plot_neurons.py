#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Distinct language-specific units per layer, from neurons.h5 or a CSV of tools/neuron_counts.py: a line per language, and one for
all of them together. With --experts, which may stand twice, only the latter, over the experts of these lists as bars (the paper's
figures 1 and 2)."""
import os
import sys

import numpy as np

import pictures
import plot_data
import report_data
from tool_errors import EXIT_CONFIG, ToolError, exit_code_of


def lines(counts: plot_data.Counts) -> pictures.Figure:
    """Returns a line per language, and one for all of them together."""
    figure, axis = pictures.plt.subplots(figsize=(max(5.0, 0.28 * counts.layers), 3.6))
    for name, values in counts.each.items():
        axis.plot(np.arange(counts.layers), values, ".-", linewidth=1, label=f"{name} ({sum(values)})")
    if counts.union is not None and len(counts.each) != 1:
        axis.plot(np.arange(counts.layers), counts.union, "k.--", linewidth=1, label=f"any of them ({sum(counts.union)})")
    axis.set_xlabel("layer")
    axis.set_ylabel("distinct units")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    return figure


def bars(counts: plot_data.Counts, paths: list[str]) -> pictures.Figure:
    """Returns the union line over the experts of one or two lists."""
    lists = [(os.path.basename(path).removesuffix(".cfg"), report_data.read_experts(path)) for path in paths]
    for path, (_, experts) in zip(paths, lists):
        if len(experts) != counts.layers:
            raise ToolError(f"{path}: {len(experts)} layers, the neurons have {counts.layers}; these are different models")
    figure, axis = pictures.plt.subplots(figsize=(max(5.0, 0.32 * counts.layers), 3.6))
    width = 0.8 / len(lists)
    for n, (name, experts) in enumerate(lists):
        axis.bar(np.arange(counts.layers) + (n - (len(lists) - 1) / 2) * width, experts, width, label=f"{name}: {sum(experts)} experts",
                 color=(pictures.SOURCE, pictures.BASE)[n])
    axis.set_xlabel("layer")
    axis.set_ylabel("experts, base included")
    axis.set_ylim(0, 1.3 * max(max(experts) for _, experts in lists))
    union = counts.union or []
    other = axis.twinx()
    other.plot(np.arange(counts.layers), union, ".-", color=pictures.NEW, linewidth=1.5,
               label="distinct units" + (" of " + " or ".join(counts.each) if counts.each else ""))
    other.set_ylabel("distinct units")
    other.set_ylim(0, 1.3 * max(union + [1]))
    handles = [handle for part in (axis, other) for handle in part.get_legend_handles_labels()[0]]
    axis.legend(handles, [handle.get_label() for handle in handles], fontsize=8, loc="upper center")
    return figure


def draw(argv: list[str] | None = None) -> None:
    """Writes the picture that the command line asks for."""
    parser = plot_data.arguments(__doc__, "neurons.h5, or a CSV of counts")
    parser.add_argument("--experts", action="append", default=[], help="an experts.cfg, for its bars; at most two")
    options = parser.parse_args(argv)
    counts = plot_data.read_counts([options.input], options.languages)
    if len(options.experts) > 2:
        raise ToolError("--experts: at most two lists fit in the picture", EXIT_CONFIG)
    if options.experts and counts.union is None:
        raise ToolError(f"{options.input}: it does not say how many units the languages have together; name those of a column "
                        "unique_neurons_... with --languages", EXIT_CONFIG)
    figure = bars(counts, options.experts) if options.experts else lines(counts)
    pictures.save(figure, options.output)


if __name__ == "__main__":
    sys.exit(exit_code_of("plot_neurons", draw))
