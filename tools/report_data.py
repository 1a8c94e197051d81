# SPDX-License-Identifier: Apache-2.0
"""Reads what the journey left behind, for tools/report.py: HDF5, JSON lines and INI in, plain Python out."""
import contextlib
import json
import math
import os

import h5py
import numpy as np


# What these tools read, with the newest version they know; a test compares it with the program's declarations.
NEWEST_VERSIONS = {"neuronmoe-neurons": 1, "neuronmoe-expert-neurons": 1, "neuronmoe-scores": 1, "neuronmoe-eval": 1,
                   "neuronmoe-interventions": 1}


class ReportError(Exception):
    """One clear line: which file, what is wrong, what to do."""


@contextlib.contextmanager
def reading(path):
    """Whatever goes wrong with what `path` holds becomes one line that names it."""
    try:
        yield
    except ReportError:
        raise
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ReportError(f"{path}: nested too deeply") from error
    except KeyError as error:
        raise ReportError(f"{path}: {error} is missing in it") from error
    except Exception as error:  # a type, a shape or a value that the writer never makes
        raise ReportError(f"{path}: it is not as neuronmoe writes it ({error})") from error


def plain(text):
    """Text for a terminal: control characters, which could be commands to it, are written out."""
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in text)


def read_json(path):
    """The object in a JSON file."""
    with reading(path), open(path, encoding="utf-8") as stream:
        found = json.load(stream)
        if not isinstance(found, dict):
            raise ReportError(f"{path}: it holds no JSON object")
        return found


def require_numbers(path, scores, names, low=-math.inf):
    """Refuses {language: {name: value}} unless each value is a finite number above `low`."""
    if not isinstance(scores, dict):
        raise ReportError(f"{path}: scores by language are {scores!r}")
    for lang, values in scores.items():
        for name in names:
            value = values.get(name) if isinstance(values, dict) else None
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= low:
                raise ReportError(f"{path}: {name} of {lang} is {value!r}, not a number"
                                  + (f" above {low:g}" if math.isfinite(low) else ""))


def read_experts(path):
    """The experts per layer of an experts.cfg, base included; layer 0 first."""
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("ADA_MOE_NUM_EXPERTS_LIST="):
                    counts = [int(part) for part in line.split("=", 1)[1].strip().strip("\"'").split(",")]
                    if min(counts) >= 1:
                        return counts
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    raise ReportError(f"{path}: no valid line ADA_MOE_NUM_EXPERTS_LIST=")


def read_tie_range(path):
    """The comment line of an experts.cfg that says how much of the list is chance; None if there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            return next((line[len("# warning: "):].strip() for line in stream if line.startswith("# warning: ties drawn")),
                        None)
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: {error}") from error


def read_existing(path):
    """The experts per layer that the list of an experts.cfg was added to, base included; None for a list of a base."""
    beginning, end = "# added to the experts of ", " + (E - 1) of "
    try:
        with open(path, encoding="utf-8") as stream:
            line = next((line for line in stream if line.startswith(beginning) and end in line), None)
        return line and [int(part) for part in line.rsplit(end, 1)[0].rsplit(": ", 1)[1].split(",")]
    except (OSError, ValueError, IndexError) as error:
        raise ReportError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def text_of(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def require_readable(path, root):
    """Refuses a file of a later program. `root`: attributes of an HDF5 file, or what a JSON file holds."""
    name, version = text_of(root.get("format", "none")), int(root.get("format_version", 1))
    newest = NEWEST_VERSIONS.get(name, version)
    if version > newest:
        raise ReportError(f'{path} has version {version} of format "{name}"; the newest that this program reads is {newest}: '
                          "use a newer neuronmoe")


def open_h5(path, kind):
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ReportError(f"{path}: not a readable HDF5 file ({error})") from error
    if not file.attrs.get("complete", 0):
        file.close()
        raise ReportError(f"{path}: incomplete {kind} file; make it again")
    try:
        require_readable(path, file.attrs)
    except ReportError:
        file.close()
        raise
    return file


def read_neurons(path):
    with reading(path):
        return read_selected(path)


def read_selected(path):
    """Selected neurons per layer: {"languages", "num_layers", "num_neurons", "units": {lang: [set per layer]},
    "cut": {lang: AP at the cut, how many neurons have it, how many of those were taken, order of ties}}. A unit index counts once per layer, whichever projection it is in."""
    with open_h5(path, "neurons") as file:
        layers = np.asarray(file["module/layer"])
        num_layers = int(layers.max()) + 1
        out = {"languages": [text_of(name) for name in file["language"][...]], "num_layers": num_layers,
               "num_neurons": int(file["ap"].shape[1]), "units": {}, "cut": {}, "rows": {},
               "attributes": {name: text_of(value) for name, value in file.attrs.items()}}
        for lang, ap in zip(out["languages"], file["ap"]):
            attributes = file["selected"][lang].attrs
            selected = file["selected"][lang][...]
            units = [set() for _ in range(num_layers)]
            for row in selected:
                units[int(layers[row["module"]])].add(int(row["unit"]))
            out["units"][lang] = units
            out["rows"][lang] = len(selected)
            cut = np.float32(selected["ap"][-1]) if len(selected) else np.float32(math.nan)
            tied = (ap.astype("f4") == cut) & (ap > float(attributes.get("ap_min", 0.0)))
            out["cut"][lang] = (float(cut), int(tied.sum()), int((selected["ap"].astype("f4") == cut).sum()),
                                text_of(attributes.get("ties", "uuid")))
        return out


def union_counts(neurons, languages):
    """S_l: distinct unit indices per layer over `languages`."""
    return [len(set().union(*(neurons["units"][lang][layer] for lang in languages)))
            for layer in range(neurons["num_layers"])]


def read_specialization(path, lang):
    with reading(path):
        return read_shares(path, lang)


def read_shares(path, lang):
    """{(layer, expert id): share in percent of the expert's values with AP >= the bar for `lang`}, and the bar."""
    with open_h5(path, "expert neurons") as file:
        languages = [text_of(name) for name in file["language"][...]]
        if lang not in languages:
            raise ReportError(f"{path}: language {lang} is not in it (has {', '.join(languages)})")
        bar = float(file.attrs["ap_high"])
        row = languages.index(lang)
        shares = 100.0 * np.asarray(file["expert/high_ap"])[row] / np.asarray(file["expert/total"])
        experts = zip(np.asarray(file["expert/layer"]).tolist(), np.asarray(file["expert/id"]).tolist())
        return dict(zip(experts, shares.tolist())), bar


def read_metrics(path):
    """Rows of a metrics.jsonl by step; after a resume the later row of a step wins; a torn last line is skipped."""
    rows = {}
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                try:
                    row = json.loads(line)
                    rows[int(row["step"])] = row
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    continue
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return [rows[step] for step in sorted(rows)]


def read_eval(path):
    found = read_json(path)
    if found.get("format") != "neuronmoe-eval" or "perplexity" not in found:
        raise ReportError(f"{path}: not an evaluation of neuronmoe (format {found.get('format')!r})")
    with reading(path):
        require_readable(path, found)
        require_numbers(path, found["perplexity"], ["ppl"], 0.0)
        require_numbers(path, found.get("continuation", {}), ["acc", "n"])
        for rows in found.get("router", {}).values():
            for row in rows:
                int(row["layer"]), float(row["base_weight"])
    return found


def read_texts(path):
    """[(prompt, continuation)] of a file of `neuronmoe generate`."""
    with reading(path), open(path, encoding="utf-8") as stream:
        texts = [json.loads(line) for line in stream]
        return [(str(text["prompt"]), str(text["text"])) for text in texts]


def read_interventions(path, evaluation):
    """The matrix that stands beside an evaluation, of the same texts; None if there is none:
    {"rows": [(language, control, neurons)], "columns": [language], "change", "stderr": [rows][columns], "replace"}."""
    path = os.path.splitext(path)[0] + ".interventions.h5"
    if not os.path.exists(path):
        return None
    with reading(path), open_h5(path, "interventions") as file:
        names = [text_of(name) for name in file["row/language"][...]]
        found = {"rows": list(zip(names, file["row/control"][...].tolist(), file["row/neurons"][...].tolist())),
                 "columns": [text_of(name) for name in file["column/language"][...]],
                 "change": file["change"][...].tolist(), "stderr": file["stderr"][...].tolist(),
                 "replace": text_of(file.attrs["replace"])}
        shape = (len(found["rows"]), len(found["columns"]))
        if file["change"].shape != shape or file["stderr"].shape != shape or 0 in shape:
            raise ReportError(f"{path}: a matrix of {file['change'].shape}, not {shape}")
        if not all(math.isfinite(x) for name in ("change", "stderr") for row in found[name] for x in row):
            raise ReportError(f"{path}: a change is no finite number")
        for language, nll in zip(found["columns"], file["column/nll"][...].tolist()):
            ppl = evaluation["perplexity"].get(language, {}).get("ppl")
            if ppl is None or not math.isclose(math.exp(nll), ppl, rel_tol=1e-6):
                raise ReportError(f"{path}: its untouched perplexity of {language} is {math.exp(nll):.6g}, that of the evaluation "
                                  f"beside it {ppl}; evaluate again")
        return found


class Run:
    """One expert allocation carried through both stages: its folder holds experts.cfg, stage1, stage2, eval-*.json."""

    def __init__(self, folder, label):
        self.folder, self.label = folder, label
        self.experts = read_experts(os.path.join(folder, "experts.cfg"))
        self.existing = read_existing(os.path.join(folder, "experts.cfg"))
        self.tie_range = read_tie_range(os.path.join(folder, "experts.cfg"))
        self.evals = {stage: read_eval(os.path.join(folder, f"eval-{stage}.json")) for stage in ("stage1", "stage2")}
        self.metrics = {stage: read_metrics(os.path.join(folder, stage, "metrics.jsonl"))
                        for stage in ("stage1", "stage2")}

    @property
    def total(self):
        return sum(self.experts)

    @property
    def new(self):
        return self.total - len(self.experts)

    def ppl(self, stage, lang):
        return float(self.evals[stage]["perplexity"][lang]["ppl"])
