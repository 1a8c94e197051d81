# SPDX-License-Identifier: Apache-2.0
"""What plot_*.py, neuron_counts.py and expert_table.py share: the command line, and numbers by layer and expert, from the program's
HDF5 files or from CSV."""
import argparse
import csv
import re
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


class Counts:
    """Distinct units per layer: `each` {language: list}, `union` over all of these languages (None: not known)."""

    def __init__(self, each, union):
        self.each, self.union = each, union

    @property
    def layers(self):
        return len(self.union if self.union is not None else next(iter(self.each.values())))


def counts_of(units):
    """From {language: [set of units per layer]}. A unit counts once per layer, whichever projection it is in (METHOD 2)."""
    return Counts({name: [len(layer) for layer in layers] for name, layers in units.items()},
                  [len(set().union(*layer)) for layer in zip(*units.values())])


def read_counts(inputs, wanted=""):
    """Counts from one neurons.h5, from one CSV with counts by layer, or from LANG=CSV of the published code for each language."""
    named = [word.partition("=") for word in inputs]
    if all(equals for _, equals, _ in named):
        units = {name: read_expertise(path) for name, _, path in named}
        layers = max(len(found) for found in units.values())
        units = {name: found + [set()] * (layers - len(found)) for name, found in units.items()}
        return counts_of({name: units[name] for name in chosen_of(inputs[0], list(units), wanted)})
    if len(inputs) > 1:
        raise ValueError(f"{inputs[0]}: several inputs have to be LANG=CSV each")
    path = inputs[0]
    if path.endswith(".csv"):
        return read_table(path, wanted)
    with open_file(path, "neuronmoe-neurons"):
        units = report_data.read_neurons(path)["units"]
    return counts_of({name: units[name] for name in chosen_of(path, list(units), wanted)})


def chosen_of(path, names, wanted):
    chosen = wanted.split(",") if wanted else names
    for name in chosen:
        if name not in names:
            raise ValueError(f"{path}: language '{name}' is not in it; it has: {', '.join(names)}")
    return chosen


def read_expertise(path):
    """[set of selected units per layer] of an expertise_limited_*_top.csv; `layer` holds names like model.layers.7.mlp.up_proj:0."""
    layers = []
    with report_data.reading(path), open(path, encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), 2):
            found = re.search(r"\.layers\.(\d+)\.", row["layer"])
            if not found or int(found[1]) > 9999:
                raise report_data.ReportError(f"{path}, line {number}: '{row['layer']}' is not a module of a layer; wanted is the "
                                              "expertise_limited_*_top.csv of a language")
            layers += [set() for _ in range(int(found[1]) + 1 - len(layers))]
            layers[int(found[1])].add(int(row["unit"]))
    if not layers:
        raise report_data.ReportError(f"{path}: no neuron is in it")
    return layers


def read_table(path, wanted):
    """Counts from columns: layer, languages, unique_neurons_<languages>; layer 0 first."""
    with report_data.reading(path), open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
        if not rows or [int(row["layer"]) for row in rows] != list(range(len(rows))):
            raise report_data.ReportError(f"{path}: wanted a column 'layer' that counts from 0")
        columns = {name: [int(row[name]) for row in rows] for name in rows[0] if name != "layer"}
    unions = {name.removeprefix("unique_neurons_"): columns.pop(name) for name in list(columns) if name.startswith("unique_neurons_")}
    if wanted:
        chosen = chosen_of(path, list(columns), wanted) if columns else []
        return Counts({name: columns[name] for name in chosen}, unions.get(wanted.replace(",", "_")))
    if not columns and not unions:
        raise report_data.ReportError(f"{path}: there is no column but 'layer'")
    return Counts(columns, next(iter(unions.values())) if len(unions) == 1 else None)


def write_counts(path, counts):
    """CSV as `neuronmoe allocate --allocation.counts` reads it."""
    columns = {**counts.each, "unique_neurons_" + "_".join(counts.each): counts.union}
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["layer", *columns])
        writer.writerows([layer, *values] for layer, values in enumerate(zip(*columns.values())))


def expert_ratios(path, language):
    """(ratio in percent [layers][most experts], nan where there is no expert); from expert_neurons.h5 or its CSV of the language."""
    if path.endswith(".csv"):
        with report_data.reading(path), open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
            layers = np.array([int(row["layer"]) for row in rows])
            ids = np.array([0 if row["expert"] == "base" else 1 + int(row["expert"].removeprefix("exp_")) for row in rows])
            ratio = np.array([100.0 * int(row["high_ap"]) / int(row["total"]) for row in rows])
    else:
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
