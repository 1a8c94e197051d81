# SPDX-License-Identifier: Apache-2.0
"""Everything that tools/report.py speaks about, read from the folder of a run. Parts that are not there are None, and named in
`missing`; a part that is there and cannot be read is an error."""
import argparse
import glob
import os
from collections.abc import Callable
from typing import Any

import metrics_file
import report_data as data
import report_pairs
from tool_errors import ToolError

STAGES = ("stage1", "stage2")


class Folder:
    """The folder of a run: reads what is there and keeps book of it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: list[str] = []
        self.missing: list[str] = []

    def path(self, name: str) -> str:
        """Returns where `name` stands, from the present directory."""
        return os.path.join(self.root, name)

    def read(self, name: str, reader: Callable[..., Any], *arguments: Any, expected: bool = True) -> Any:
        """Returns what `reader` makes of the file, or None if there is none; `expected`: the page says so then."""
        if not os.path.exists(self.path(name)):
            if expected:
                self.missing.append(name)
            return None
        self.files.append(name)
        return reader(self.path(name), *arguments)

    def evaluation(self, name: str, expected: bool = True) -> tuple[data.Json | None, report_pairs.Items | None]:
        """Returns an eval.json and its items, None each where there is none."""
        found = self.read(name, data.read_eval, expected=expected)
        items = self.read(data.items_path(name), report_pairs.read_items, found, expected=False) if found else None
        return found, items


class Run:
    """One expert allocation carried through both stages: its folder holds experts.cfg, stage1, stage2, eval-*.json."""

    def __init__(self, folder: Folder, name: str, label: str) -> None:
        self.name, self.label = name, label
        listed = os.path.join(name, "experts.cfg")
        self.experts: list[int] | None = folder.read(listed, data.read_experts)
        self.comments: list[str] = data.read_comments(folder.path(listed)) if self.experts else []
        self.existing = data.existing_experts(folder.path(listed), self.comments)
        self.evals: dict[str, data.Json] = {}
        self.items: dict[str, report_pairs.Items] = {}
        for stage in STAGES:
            found, items = folder.evaluation(os.path.join(name, f"eval-{stage}.json"))
            self.evals.update({stage: found} if found else {})
            self.items.update({stage: items} if items else {})
        self.metrics = {stage: rows for stage in STAGES
                        if (rows := folder.read(os.path.join(name, stage, "metrics.jsonl"), metrics_file.read_metrics)) is not None}

    @property
    def total(self) -> int:
        """Experts of all layers, base included."""
        return sum(self.experts or [])

    @property
    def new(self) -> int:
        """Experts of all layers that are not the base's."""
        return self.total - len(self.experts or [])

    @property
    def warnings(self) -> list[str]:
        """What `allocate` found doubtful about the list."""
        return [line.removeprefix("warning: ") for line in self.comments if line.startswith("warning: ")]

    def ppl(self, stage: str, lang: str) -> float | None:
        """Returns the perplexity per token after a stage, None where it was not measured."""
        found = self.evals.get(stage, {}).get("perplexity", {}).get(lang)
        return float(found["ppl"]) if found else None


class Results:
    """All parts of one run: `neurons`, `dense` (the base), `guided` (the run itself), `control`, and what goes with them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.source, self.target, self.split, self.version = options.source, options.target, options.split, options.version
        target = self.target
        if not os.path.isdir(options.work):
            raise ToolError(f"{options.work}: there is no such folder")
        self.folder = folder = Folder(options.work)
        # Of the mixture that an extension adds to; its neurons are measured on that.
        self.before, self.before_items = folder.evaluation(os.path.join(target, "eval-before.json"), expected=False)
        neurons = os.path.join(target, "neurons.h5") if self.before else "neurons.h5"
        self.neurons: data.Json | None = folder.read(neurons, data.read_neurons)
        for lang in (self.source, target):
            if self.neurons and lang not in self.neurons["languages"]:
                raise ToolError(f"{folder.path(neurons)}: language {lang} was not analysed")
        self.dense, self.dense_items = folder.evaluation(os.path.join(target, "eval-dense.json"))
        self.interventions: data.Json | None = folder.read(
            os.path.join(target, "eval-dense.interventions.h5"), data.read_interventions, self.dense, expected=False) if self.dense else None
        self.guided = Run(folder, target, "neuron-guided")
        self.control = Run(folder, options.control, "uniform") if options.control else None
        self.pretrain: list[data.Json] | None = folder.read(os.path.join("base", "checkpoints", "metrics.jsonl"), metrics_file.read_metrics,
                                                            expected=False)  # a base that was given has none
        found = folder.read(os.path.join(target, "expert_neurons.h5"), data.read_specialization, target)
        self.specialization: dict[tuple[int, int], float] = found[0] if found else {}
        self.bar = float(found[1]) if found else 0.0
        self.counts = data.union_counts(self.neurons, [self.source, target]) if self.neurons else None
        if self.counts and self.guided.experts and len(self.guided.experts) != len(self.counts):
            raise ToolError(f"experts.cfg has {len(self.guided.experts)} layers, neurons.h5 {len(self.counts)}")
        self.texts = {name: texts for name, stage in (("dense base", "dense"), ("stage 1", "stage1"), ("stage 2", "stage2"))
                      if (texts := folder.read(os.path.join(target, f"texts-{stage}.jsonl"), data.read_texts)) is not None}
        self.corpus: data.Json | None = folder.read(os.path.join("corpus", "corpus.json"), data.read_json, expected=False)
        places = [os.path.join(glob.escape(options.work), "config", name) for name in ("*.cfg", os.path.join(glob.escape(target), "*.cfg"))]
        self.configs = [path for place in places for path in sorted(glob.glob(place))
                        if os.path.basename(path) != "uniform.cfg" or self.control]
        if not self.rows() and not self.neurons and not self.guided.experts:
            raise ToolError(f"{options.work}: there is nothing to report: no neurons.h5, no {os.path.join(target, 'experts.cfg')} and no "
                            f"{os.path.join(target, 'eval-*.json')}; --work names the folder of a pipeline")

    @property
    def num_layers(self) -> int:
        """Layers of the model, 0 if no file says how many."""
        return len(self.guided.experts or self.counts or [])

    @property
    def languages(self) -> list[str]:
        """Languages with a perplexity: source, target, then the others in the order of neurons.h5."""
        measured = {lang for _, _, _, found in self.rows() for lang in found["perplexity"]}
        order = [self.source, self.target] + (self.neurons["languages"] if self.neurons else []) + sorted(measured)
        return [lang for lang in dict.fromkeys(order) if lang in measured]

    def dense_ppl(self, lang: str) -> float | None:
        """Returns the perplexity per token of the base, None where it was not measured."""
        found = (self.dense or {}).get("perplexity", {}).get(lang)
        return float(found["ppl"]) if found else None

    def rows(self) -> list[tuple[str, str, str, data.Json]]:
        """Returns (name, experts, new experts, evaluation) of each model that was measured."""
        layers = len(self.guided.experts or [])
        rows = [("dense base", str(layers or "?"), "0", self.dense)] if self.dense else []
        if self.before:
            existing = sum(self.guided.existing or self.guided.experts or [])
            rows.append(("before, the mixture", str(existing), str(existing - layers), self.before))
        for run in [self.guided] + ([self.control] if self.control else []):
            total, new = (str(run.total), str(run.new)) if run.experts else ("?", "?")
            rows += [(f"{stage[:-1]} {stage[-1]}, {run.label}", total, new, run.evals[stage]) for stage in STAGES if stage in run.evals]
        return rows

    def pairs(self) -> list[tuple[str, report_pairs.Items | None, report_pairs.Items | None]]:
        """Returns (name, items before, items after) of the pairs of models that the page compares."""
        items = self.guided.items
        pairs = [("base → stage 1", self.dense_items, items.get("stage1")), ("stage 1 → stage 2", items.get("stage1"), items.get("stage2")),
                 ("base → stage 2", self.dense_items, items.get("stage2"))]
        if self.before:
            pairs.append(("before → stage 2", self.before_items, items.get("stage2")))
        if self.control:
            pairs.append(("uniform → neuron-guided, stage 2", self.control.items.get("stage2"), items.get("stage2")))
        return [pair for pair in pairs if pair[1] and pair[2]]
