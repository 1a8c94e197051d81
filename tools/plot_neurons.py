#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Distinct language-specific units per layer, from neurons.h5 or a CSV of tools/neuron_counts.py: a line per language, and one for
all of them together. With --experts, which may stand twice, only the latter, over the experts of these lists as bars (the paper's
figures 1 and 2)."""
import os
import sys

import numpy as np

import plot_data
import report_charts
import report_data


def lines(counts):
    figure, axis = report_charts.plt.subplots(figsize=(max(5.0, 0.28 * counts.layers), 3.6))
    for name, values in counts.each.items():
        axis.plot(np.arange(counts.layers), values, ".-", linewidth=1, label=f"{name} ({sum(values)})")
    if counts.union is not None and len(counts.each) != 1:
        axis.plot(np.arange(counts.layers), counts.union, "k.--", linewidth=1, label=f"any of them ({sum(counts.union)})")
    axis.set_xlabel("layer")
    axis.set_ylabel("distinct units")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    return figure


def bars(counts, paths):
    """The union line over the experts of one or two lists."""
    lists = [(os.path.basename(path).removesuffix(".cfg"), report_data.read_experts(path)) for path in paths]
    for path, (_, experts) in zip(paths, lists):
        if len(experts) != counts.layers:
            raise ValueError(f"{path}: {len(experts)} layers, the neurons have {counts.layers}; these are different models")
    figure, axis = report_charts.plt.subplots(figsize=(max(5.0, 0.32 * counts.layers), 3.6))
    width = 0.8 / len(lists)
    for n, (name, experts) in enumerate(lists):
        axis.bar(np.arange(counts.layers) + (n - (len(lists) - 1) / 2) * width, experts, width, label=f"{name}: {sum(experts)} experts",
                 color=(report_charts.SOURCE, report_charts.BASE)[n])
    axis.set_xlabel("layer")
    axis.set_ylabel("experts, base included")
    axis.set_ylim(0, 1.3 * max(max(experts) for _, experts in lists))
    other = axis.twinx()
    other.plot(np.arange(counts.layers), counts.union, ".-", color=report_charts.NEW, linewidth=1.5,
               label="distinct units" + (" of " + " or ".join(counts.each) if counts.each else ""))
    other.set_ylabel("distinct units")
    other.set_ylim(0, 1.3 * max(counts.union + [1]))
    handles = [handle for part in (axis, other) for handle in part.get_legend_handles_labels()[0]]
    axis.legend(handles, [handle.get_label() for handle in handles], fontsize=8, loc="upper center")
    return figure


def draw(argv=None):
    parser = plot_data.arguments(__doc__, "neurons.h5, or a CSV of counts")
    parser.add_argument("--experts", action="append", default=[], help="an experts.cfg, for its bars; at most two")
    options = parser.parse_args(argv)
    counts = plot_data.read_counts([options.input], options.languages)
    if len(options.experts) > 2:
        raise ValueError("--experts: at most two lists fit in the picture")
    if options.experts and counts.union is None:
        raise ValueError(f"{options.input}: it does not say how many units the languages have together; name those of a column "
                         "unique_neurons_... with --languages")
    figure = bars(counts, options.experts) if options.experts else lines(counts)
    with open(options.output, "wb") as stream:
        stream.write(report_charts.png(figure))


if __name__ == "__main__":
    sys.exit(plot_data.run(draw))
