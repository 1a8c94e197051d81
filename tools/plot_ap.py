#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Histogram of average precision per language, from neurons.h5, expert_neurons.h5 or the output of `score`."""
import sys

import numpy as np

import pictures
import plot_data
from tool_errors import exit_code_of


def draw(argv: list[str] | None = None) -> None:
    """Writes the picture that the command line asks for."""
    options = plot_data.arguments(__doc__, "HDF5 file with /ap").parse_args(argv)
    found = plot_data.ap_values(options.input, options.languages)
    figure, axis = pictures.plt.subplots(figsize=(6.5, 3.6))
    bins = np.linspace(0, 1, 101)
    for name, values in found.items():
        counts, _ = np.histogram(values, bins)
        axis.stairs(counts, bins, label=f"{name}: {np.count_nonzero(values > 0.5)} above 0.5")
    axis.set_yscale("symlog")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")  # that of the scale writes formulas, which names must not
    axis.set_xlabel("average precision (bins of 0.01)")
    axis.set_ylabel("neurons")
    axis.legend(fontsize=8, loc="lower center")
    pictures.save(figure, options.output)


if __name__ == "__main__":
    sys.exit(exit_code_of("plot_ap", draw))
