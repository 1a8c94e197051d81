# SPDX-License-Identifier: Apache-2.0
"""What plot_*.py and neuron_counts.py share: the command line, and numbers by layer and expert, from the program's HDF5 files or from
CSV."""
import argparse
import csv
import os
import re

import h5py
import numpy as np

import report_data
from tool_errors import EXIT_CONFIG, ToolError, reading


def arguments(description: str | None, inputs: str) -> argparse.ArgumentParser:
    """Returns the parser of a tool that draws."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("input", help=inputs)
    parser.add_argument("output", help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--languages", default="", help="comma-separated; default: all in the file")
    return parser


def open_file(path: str, *formats: str) -> h5py.File:
    """Opens a HDF5 file of one of these formats."""
    file = report_data.open_h5(path, "HDF5")
    found = report_data.text_of(file.attrs.get("format", "no format"))
    if formats and found not in formats:
        file.close()
        raise ToolError(f"{path}: it is {found}, wanted {' or '.join(formats)}")
    return file


def chosen_of(path: str, names: list[str], wanted: str) -> list[str]:
    """Returns the wanted languages, in the order asked for, or all that are there."""
    chosen = wanted.split(",") if wanted else names
    for name in chosen:
        if name not in names:
            raise ToolError(f"{path}: language '{name}' is not in it; it has: {', '.join(names)}", EXIT_CONFIG)
    return chosen


def languages_of(file: h5py.File, wanted: str) -> list[tuple[int, str]]:
    """Returns [(row, name)] of the wanted languages, in the order asked for."""
    names = [report_data.text_of(name) for name in file["language"][...]]
    return [(names.index(name), name) for name in chosen_of(file.filename, names, wanted)]


# ---------------------------------------------------------------- neurons by layer

class Counts:
    """Distinct units per layer: `each` {language: list}, `union` over all of these languages (None: not known)."""

    def __init__(self, each: dict[str, list[int]], union: list[int] | None) -> None:
        self.each, self.union = each, union

    @property
    def layers(self) -> int:
        """How many layers are counted."""
        return len(self.union if self.union is not None else next(iter(self.each.values())))


def counts_of(units: dict[str, list[set[int]]]) -> Counts:
    """Returns the counts of {language: [set of units per layer]}. A unit counts once per layer, whichever projection it is in
    (METHOD 2)."""
    return Counts({name: [len(layer) for layer in layers] for name, layers in units.items()},
                  [len(set().union(*layer)) for layer in zip(*units.values())])


def read_counts(inputs: list[str], wanted: str = "") -> Counts:
    """Returns counts from one neurons.h5, from one CSV with counts by layer, or from LANG=CSV of the published code for each language."""
    named = [word.partition("=") for word in inputs]
    if all(equals and not os.path.exists(word) for word, (_, equals, _) in zip(inputs, named)):
        units = {name: read_expertise(path) for name, _, path in named}
        layers = max(len(found) for found in units.values())
        units = {name: found + [set() for _ in range(layers - len(found))] for name, found in units.items()}
        return counts_of({name: units[name] for name in chosen_of(inputs[0], list(units), wanted)})
    if len(inputs) > 1:
        raise ToolError(f"{inputs[0]}: several inputs have to be LANG=CSV each", EXIT_CONFIG)
    path = inputs[0]
    if path.endswith(".csv"):
        return read_table(path, wanted)
    with open_file(path, "neuronmoe-neurons"):
        units = report_data.read_neurons(path)["units"]
    return counts_of({name: units[name] for name in chosen_of(path, list(units), wanted)})


def read_expertise(path: str) -> list[set[int]]:
    """Returns [set of selected units per layer] of an expertise_limited_*_top.csv; `layer` holds names like
    model.layers.7.mlp.up_proj:0."""
    layers: list[set[int]] = []
    with reading(path), open(path, encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), 2):
            found = re.search(r"\.layers\.(\d{1,4})\.", row["layer"])
            if not found:
                raise ToolError(f"{path}, line {number}: '{row['layer']}' is not a module of a layer; wanted is the "
                                "expertise_limited_*_top.csv of a language")
            layers += [set() for _ in range(int(found[1]) + 1 - len(layers))]
            layers[int(found[1])].add(int(row["unit"]))
    if not layers:
        raise ToolError(f"{path}: no neuron is in it")
    return layers


def read_table(path: str, wanted: str) -> Counts:
    """Returns the counts in columns layer, languages, unique_neurons_<languages>; layer 0 first."""
    with reading(path), open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
        if not rows or [int(row["layer"]) for row in rows] != list(range(len(rows))):
            raise ToolError(f"{path}: wanted a column 'layer' that counts from 0")
        columns = {name: [int(row[name]) for row in rows] for name in rows[0] if name != "layer"}
    unions = {name.removeprefix("unique_neurons_"): columns.pop(name) for name in list(columns) if name.startswith("unique_neurons_")}
    if not columns and not unions:
        raise ToolError(f"{path}: there is no column but 'layer'")
    if wanted:
        chosen = chosen_of(path, list(columns), wanted) if columns else []
        union = unions.get(wanted.replace(",", "_"))
        if not chosen and union is None:
            raise ToolError(f"{path}: there is no column unique_neurons_{wanted.replace(',', '_')}", EXIT_CONFIG)
        return Counts({name: columns[name] for name in chosen}, union)
    if not columns and len(unions) > 1:
        raise ToolError(f"{path}: it has {', '.join(unions)}; name the languages of one with --languages", EXIT_CONFIG)
    return Counts(columns, next(iter(unions.values())) if len(unions) == 1 else None)


def write_counts(path: str, counts: Counts) -> None:
    """Writes CSV as `neuronmoe allocate --allocation.counts` reads it."""
    union = {"unique_neurons_" + "_".join(counts.each): counts.union} if counts.union is not None else {}
    columns = {**counts.each, **union}
    with open(path + ".tmp", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["layer", *columns])
        writer.writerows([layer, *values] for layer, values in enumerate(zip(*columns.values())))
    os.replace(path + ".tmp", path)


# ---------------------------------------------------------------- experts, average precision

def expert_ratios(path: str, language: str) -> np.ndarray:
    """Returns the ratio in percent [layers][most experts], nan where there is no expert; from expert_neurons.h5 or its CSV of the
    language."""
    if path.endswith(".csv"):
        with reading(path), open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
            layers = np.array([int(row["layer"]) for row in rows])
            ids = np.array([0 if row["expert"] == "base" else 1 + int(row["expert"].removeprefix("exp_")) for row in rows])
            ratio = np.array([100.0 * int(row["high_ap"]) / int(row["total"]) for row in rows])
    else:
        with reading(path), open_file(path, "neuronmoe-expert-neurons") as file:
            (row, _), = languages_of(file, language)
            layers, ids = file["expert/layer"][...].astype(int), file["expert/id"][...].astype(int)
            total = file["expert/total"][...].astype(float)
            ratio = 100.0 * file["expert/high_ap"][row] / np.where(total > 0, total, np.nan)
    with reading(path):
        if not len(layers) or layers.min() < 0 or ids.min() < 0 or layers.max() >= report_data.MOST_LAYERS or ids.max() >= report_data.MOST_EXPERTS:
            raise ToolError(f"{path}: no experts, or numbers of layers and experts that cannot be")
        values = np.full((int(layers.max()) + 1, int(ids.max()) + 1), np.nan)
        values[layers, ids] = ratio
    return values


def ap_values(path: str, wanted: str = "") -> dict[str, np.ndarray]:
    """Returns {language: AP of every neuron}; neurons.h5, expert_neurons.h5 or the output of `score`."""
    with reading(path), open_file(path, "neuronmoe-neurons", "neuronmoe-expert-neurons", "neuronmoe-scores") as file:
        labeled = "language" not in file
        names = [f"label {label}" for label in file["label"][...]] if labeled else [name for _, name in languages_of(file, "")]
        values = file["ap"][...].astype(float)
        if values.ndim != 2 or len(names) != len(values):
            raise ToolError(f"{path}: {len(names)} names, AP of shape {values.shape}")
        return {name: values[names.index(name)] for name in (names if labeled else chosen_of(path, names, wanted))}
