#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Histogram of average precision per language, from neurons.h5, expert_neurons.h5 or the output of `score`."""
import sys

import numpy as np

import plot_data
import report_charts


def draw(argv=None):
    options = plot_data.arguments(__doc__, "HDF5 file with /ap").parse_args(argv)
    figure, axis = report_charts.plt.subplots(figsize=(6.5, 3.6))
    bins = np.linspace(0, 1, 101)
    for name, values in plot_data.ap_values(options.input, options.languages).items():
        counts, _ = np.histogram(values, bins)
        axis.stairs(counts, bins, label=f"{name}: {np.count_nonzero(values > 0.5)} above 0.5")
    axis.set_yscale("symlog")
    axis.set_xlabel("average precision")
    axis.set_ylabel("neurons")
    axis.legend(fontsize=8)
    with open(options.output, "wb") as stream:
        stream.write(report_charts.png(figure))


if __name__ == "__main__":
    sys.exit(plot_data.run(draw))
