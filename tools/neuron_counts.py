#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The paper's Tables 5 and 6 as CSV: distinct selected units per layer, of each language and of all of them together.

    tools/neuron_counts.py neurons.h5 counts.csv [--languages en,el]
    tools/neuron_counts.py en=EXPERTISE_LIMITED.csv el=EXPERTISE_LIMITED.csv counts.csv

The second form reads what the published code leaves behind, expertise_limited_1000_top.csv of each language (`analyze` writes the same
with --analysis.csv). Columns: layer, each language, unique_neurons_<all of them>. `neuronmoe allocate` takes the file:

    neuronmoe allocate --allocation.counts counts.csv --allocation.columns unique_neurons_en_el --output experts.cfg

and so does tools/plot_neurons.py. Needs Debian's python3-h5py, so use /usr/bin/python3.
"""
import argparse
import sys

import plot_data
from tool_errors import exit_code_of


def main(argv: list[str] | None = None) -> None:
    """Writes the CSV that the command line asks for."""
    parser = argparse.ArgumentParser(description="Distinct selected units per layer, as CSV.")
    parser.add_argument("inputs", nargs="+", metavar="neurons.h5 | LANG=CSV", help="one neurons.h5, or a CSV for each language")
    parser.add_argument("output", help="the CSV to write")
    parser.add_argument("--languages", default="", help="comma-separated; default: all")
    options = parser.parse_args(argv)
    counts = plot_data.read_counts(options.inputs, options.languages)
    plot_data.write_counts(options.output, counts)


if __name__ == "__main__":
    sys.exit(exit_code_of("neuron_counts", main))
