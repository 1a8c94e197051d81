#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Language-specific neurons per layer, one line per language (the paper's figures 1 and 2), from neurons.h5."""
import sys

import numpy as np

import plot_data
import report_charts


def draw(argv=None):
    options = plot_data.arguments(__doc__, "neurons.h5").parse_args(argv)
    counts, layers = plot_data.selected_per_layer(options.input, options.languages)
    figure, axis = report_charts.plt.subplots(figsize=(max(5.0, 0.28 * layers), 3.6))
    for name, values in counts.items():
        axis.plot(np.arange(layers), values, ".-", linewidth=1, label=f"{name} ({values.sum()})")
    axis.set_xlabel("layer")
    axis.set_ylabel("selected neurons")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    with open(options.output, "wb") as stream:
        stream.write(report_charts.png(figure))


if __name__ == "__main__":
    sys.exit(plot_data.run(draw))
