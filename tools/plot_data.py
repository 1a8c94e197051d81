# SPDX-License-Identifier: Apache-2.0
"""What the three plot_*.py share: the command line, and rows by layer from the HDF5 files. Nothing but HDF5 is read."""
import argparse
import sys

import numpy as np

import report_data


def arguments(description, inputs):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("input", help=inputs)
    parser.add_argument("output", help="the PNG to write")
    parser.add_argument("--languages", default="", help="comma-separated; default: all in the file")
    return parser


def open_file(path, *formats):
    file = report_data.open_h5(path, "HDF5")
    found = report_data.text_of(file.attrs.get("format", "no format"))
    if formats and found not in formats:
        file.close()
        raise ValueError(f"{path}: it is {found}, wanted {' or '.join(formats)}")
    return file


def languages_of(file, wanted):
    """[(row, name)] of the wanted languages, in the order asked for."""
    names = [report_data.text_of(name) for name in file["language"][...]]
    chosen = wanted.split(",") if wanted else names
    for name in chosen:
        if name not in names:
            raise ValueError(f"{file.filename}: language '{name}' is not in it; it has: {', '.join(names)}")
    return [(names.index(name), name) for name in chosen]


def selected_per_layer(path, wanted=""):
    """({language: selected rows per layer}, number of layers). Rows are counted, as in the paper's figures, so a unit that
    was selected in two projections counts twice (METHOD 2)."""
    with open_file(path, "neuronmoe-neurons") as file:
        layers = file["module/layer"][...]
        count = int(layers.max()) + 1
        return {name: np.bincount(layers[file["selected/" + name]["module"]], minlength=count)
                for _, name in languages_of(file, wanted)}, count


def expert_ratios(path, language):
    """(ratio in percent [layers][most experts], nan where there is no expert)."""
    with open_file(path, "neuronmoe-expert-neurons") as file:
        (row, _), = languages_of(file, language)
        layers, ids = file["expert/layer"][...], file["expert/id"][...]
        ratio = 100.0 * file["expert/high_ap"][row] / file["expert/total"][...]
    values = np.full((int(layers.max()) + 1, int(ids.max()) + 1), np.nan)
    values[layers, ids] = ratio
    return values


def ap_values(path, wanted=""):
    """{language: AP of every neuron}; neurons.h5, expert_neurons.h5 or the output of `score`."""
    with open_file(path, "neuronmoe-neurons", "neuronmoe-expert-neurons", "neuronmoe-scores") as file:
        if "language" not in file:
            return {f"label {label}": file["ap"][g] for g, label in enumerate(file["label"][...])}
        return {name: file["ap"][row] for row, name in languages_of(file, wanted)}


def run(work, argv=None):
    """Ends with 0, or 1 and one line for a file that does not fit."""
    try:
        work(argv)
    except Exception as error:  # whatever a damaged file leads to
        text = f"{error} is missing in the file" if isinstance(error, KeyError) else str(error)
        print(f"error: {report_data.plain(text)}", file=sys.stderr)
        return 1
    return 0
