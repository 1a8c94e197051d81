# SPDX-License-Identifier: Apache-2.0
"""Reads the files that the pipeline leaves, for tools/report.py: HDF5, JSON lines and INI in, plain Python out."""
import json
import math
import os
from typing import Any

import h5py
import numpy as np

from tool_errors import ToolError, reading

# What these tools read, with the newest version they know; a test compares it with the program's declarations.
NEWEST_VERSIONS = {"neuronmoe-neurons": 1, "neuronmoe-expert-neurons": 1, "neuronmoe-scores": 1, "neuronmoe-eval": 1,
                   "neuronmoe-interventions": 1}
MOST_EXPERTS, MOST_LAYERS = 4096, 10000  # a damaged number beyond would become that many objects
Json = dict[str, Any]


def read_json(path: str, sealed: bool = False) -> Json:
    """Returns the object in a JSON file; `sealed`: a line with its checksum follows it."""
    with reading(path), open(path, encoding="utf-8") as stream:
        text = stream.read()
        found = json.JSONDecoder().raw_decode(text)[0] if sealed else json.loads(text)
        if not isinstance(found, dict):
            raise ToolError(f"{path}: it holds no JSON object")
        return found


def require_numbers(path: str, scores: Any, names: list[str], low: float = -math.inf) -> None:
    """Refuses {language: {name: value}} unless each value is a finite number above `low`."""
    if not isinstance(scores, dict):
        raise ToolError(f"{path}: scores by language are {scores!r}")
    for lang, values in scores.items():
        for name in names:
            value = values.get(name) if isinstance(values, dict) else None
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= low:
                raise ToolError(f"{path}: {name} of {lang} is {value!r}, not a number"
                                + (f" above {low:g}" if math.isfinite(low) else ""))


# ---------------------------------------------------------------- experts.cfg

def read_experts(path: str) -> list[int]:
    """Returns the experts per layer of an experts.cfg, base included; layer 0 first."""
    with reading(path), open(path, encoding="utf-8") as stream:
        for line in stream:
            if line.startswith("ADA_MOE_NUM_EXPERTS_LIST="):
                counts = [int(part) for part in line.split("=", 1)[1].strip().strip("\"'").split(",")]
                if 1 <= min(counts) and max(counts) <= MOST_EXPERTS and len(counts) <= MOST_LAYERS:
                    return counts
    raise ToolError(f"{path}: no valid line ADA_MOE_NUM_EXPERTS_LIST=")


def read_comments(path: str) -> list[str]:
    """Returns the comment lines of an experts.cfg without their "# "."""
    with reading(path), open(path, encoding="utf-8") as stream:
        return [line[2:].strip() for line in stream if line.startswith("# ")]


def existing_experts(path: str, comments: list[str]) -> list[int] | None:
    """Returns the experts per layer that the list of an experts.cfg was added to, base included; None for a list of a base."""
    beginning, end = "added to the experts of ", " + (E - 1) of "
    line = next((line for line in comments if line.startswith(beginning) and end in line), None)
    with reading(path):
        return [int(part) for part in line.rsplit(end, 1)[0].rsplit(": ", 1)[1].split(",")] if line else None


# ---------------------------------------------------------------- HDF5

def text_of(value: Any) -> str:
    """Returns a string of HDF5, which h5py gives as bytes or as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def require_readable(path: str, root: Any) -> None:
    """Refuses a file of a later program. `root`: attributes of an HDF5 file, or what a JSON file holds."""
    name, version = text_of(root.get("format", "none")), int(root.get("format_version", 1))
    newest = NEWEST_VERSIONS.get(name, version)
    if version > newest:
        raise ToolError(f'{path} has version {version} of format "{name}"; the newest that this program reads is {newest}: '
                        "use a newer neuronmoe")


def open_h5(path: str, kind: str) -> h5py.File:
    """Opens a complete file whose version these tools know."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise ToolError(f"{path}: {error.strerror or 'No such file or directory'}") from error
    except OSError as error:
        raise ToolError(f"{path}: not a readable HDF5 file ({error})") from error
    try:
        with reading(path):
            if not file.attrs.get("complete", 0):
                raise ToolError(f"{path}: incomplete {kind} file; make it again")
            require_readable(path, file.attrs)
    except BaseException:
        file.close()
        raise
    return file


def read_neurons(path: str) -> Json:
    """Returns the selected neurons per layer: "languages", "num_layers", "num_neurons", "attributes", "units" {lang: [set per layer]},
    "rows" {lang: neurons selected} and "cut" {lang: AP at the cut, how many neurons have it, how many of those were taken, order of
    ties}. A unit index counts once per layer, whichever projection it is in."""
    with reading(path), open_h5(path, "neurons") as file:
        layers = np.asarray(file["module/layer"])
        num_layers = int(layers.max()) + 1
        if num_layers > MOST_LAYERS:
            raise ToolError(f"{path}: a module of layer {num_layers - 1}")
        out: Json = {"languages": [text_of(name) for name in file["language"][...]], "num_layers": num_layers,
                     "num_neurons": int(file["ap"].shape[1]), "units": {}, "cut": {}, "rows": {},
                     "attributes": {name: text_of(value) for name, value in file.attrs.items()}}
        if len(out["languages"]) != file["ap"].shape[0]:
            raise ToolError(f"{path}: {len(out['languages'])} languages, AP of {file['ap'].shape[0]}")
        for lang, ap in zip(out["languages"], file["ap"]):
            attributes = file["selected"][lang].attrs
            selected = file["selected"][lang][...]
            units: list[set[int]] = [set() for _ in range(num_layers)]
            for row in selected:
                units[int(layers[row["module"]])].add(int(row["unit"]))
            out["units"][lang] = units
            out["rows"][lang] = len(selected)
            cut = np.float32(selected["ap"][-1]) if len(selected) else np.float32(math.nan)
            tied = (ap.astype("f4") == cut) & (ap > float(attributes.get("ap_min", 0.0)))
            out["cut"][lang] = (float(cut), int(tied.sum()), int((selected["ap"].astype("f4") == cut).sum()),
                                text_of(attributes.get("ties", "uuid")))
        return out


def union_counts(neurons: Json, languages: list[str]) -> list[int]:
    """Returns S_l: the distinct unit indices per layer over `languages`."""
    return [len(set().union(*(neurons["units"][lang][layer] for lang in languages)))
            for layer in range(neurons["num_layers"])]


def read_specialization(path: str, lang: str) -> tuple[dict[tuple[int, int], float], float]:
    """Returns {(layer, expert id): share in percent of the expert's values with AP >= the bar for `lang`}, and the bar."""
    with reading(path), open_h5(path, "expert neurons") as file:
        languages = [text_of(name) for name in file["language"][...]]
        if lang not in languages:
            raise ToolError(f"{path}: language {lang} is not in it (has {', '.join(languages)})")
        bar = float(file.attrs["ap_high"])
        total = np.asarray(file["expert/total"], dtype=float)
        shares = 100.0 * np.asarray(file["expert/high_ap"])[languages.index(lang)] / np.where(total > 0, total, math.nan)
        experts = zip(np.asarray(file["expert/layer"]).tolist(), np.asarray(file["expert/id"]).tolist())
        return {key: share for key, share in zip(experts, shares.tolist()) if math.isfinite(share)}, bar


def read_interventions(path: str, evaluation: Json) -> Json:
    """Returns the matrix that stands beside an evaluation, of the same texts:
    {"rows": [(language, control, neurons)], "columns": [language], "change", "stderr": [rows][columns], "replace"}."""
    with reading(path), open_h5(path, "interventions") as file:
        names = [text_of(name) for name in file["row/language"][...]]
        found = {"rows": list(zip(names, file["row/control"][...].tolist(), file["row/neurons"][...].tolist())),
                 "columns": [text_of(name) for name in file["column/language"][...]],
                 "change": file["change"][...].tolist(), "stderr": file["stderr"][...].tolist(),
                 "replace": text_of(file.attrs["replace"])}
        shape = (len(found["rows"]), len(found["columns"]))
        if file["change"].shape != shape or file["stderr"].shape != shape or 0 in shape:
            raise ToolError(f"{path}: a matrix of {file['change'].shape}, not {shape}")
        if not all(math.isfinite(x) for name in ("change", "stderr") for row in found[name] for x in row):
            raise ToolError(f"{path}: a change is no finite number")
        for language, nll in zip(found["columns"], file["column/nll"][...].tolist()):
            ppl = evaluation["perplexity"].get(language, {}).get("ppl")
            if ppl is None or not math.isclose(math.exp(nll), ppl, rel_tol=1e-6):
                raise ToolError(f"{path}: its untouched perplexity of {language} is {math.exp(nll):.6g}, that of the evaluation "
                                f"beside it {ppl}; evaluate again")
        return found


# ---------------------------------------------------------------- JSON

def read_eval(path: str) -> Json:
    """Returns an eval.json whose numbers are numbers."""
    found = read_json(path)
    if found.get("format") != "neuronmoe-eval" or "perplexity" not in found:
        raise ToolError(f"{path}: not an evaluation of neuronmoe (format {found.get('format')!r})")
    with reading(path):
        require_readable(path, found)
        require_numbers(path, found["perplexity"], ["ppl"], 0.0)
        require_numbers(path, found.get("continuation", {}), ["acc", "n"])
        for rows in found.get("router", {}).values():
            for row in rows:
                if not (0 <= int(row["layer"]) < MOST_LAYERS and math.isfinite(float(row["base_weight"]))):
                    raise ToolError(f"{path}: a router of {row}")
    return found


def read_texts(path: str) -> list[tuple[str, str]]:
    """Returns [(prompt, continuation)] of a file of `neuronmoe generate`."""
    with reading(path), open(path, encoding="utf-8") as stream:
        texts = [json.loads(line) for line in stream]
        return [(str(text["prompt"]), str(text["text"])) for text in texts]


def items_path(evaluation: str) -> str:
    """Returns the name of the file with a line for each document and item that stands beside an eval.json."""
    return os.path.splitext(evaluation)[0] + ".items.jsonl"
