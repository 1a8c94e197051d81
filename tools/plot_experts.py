#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Share of high-AP units, layers by experts (the paper's figure 3), from expert_neurons.h5 or its
expert_neurons_LANG.csv; --languages names one."""
import sys

import plot_data
import report_charts


def draw(argv=None):
    options = plot_data.arguments(__doc__, "expert_neurons.h5, or the CSV of a language").parse_args(argv)
    if not options.languages or "," in options.languages:
        raise ValueError("--languages: name one language")
    values = plot_data.expert_ratios(options.input, options.languages)
    columns = ["base"] + [f"exp_{e}" for e in range(values.shape[1] - 1)]
    with open(options.output, "wb") as stream:
        stream.write(report_charts.heat_map(values, range(len(values)), columns,
                                            f"units specialised in {options.languages}, %", "{:.2f}"))


if __name__ == "__main__":
    sys.exit(plot_data.run(draw))
