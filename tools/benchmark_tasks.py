#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the paper's Tables 1, 3 and 11 as tasks of lm-eval: from the hub, or from files of the user's.

    tools/benchmark_tasks.py --target el --preset paper --output DIR [--source en] [--benchmarks arc,mmlu]
                             [--data FOLDER | --data arc.el=PATH]... [--task hellaswag.el=NAME]...

Writes DIR/benchmarks.json, which tools/lm_eval_neuronmoe.py reads, and a task file for each benchmark that lm-eval does not have.
`--data FOLDER` looks for FOLDER/{arc,belebele,hellaswag,mmlu}/LANG_SPLIT.jsonl; `--data arc.el=PATH` names a file, and {split} in
PATH stands for train, validation, dev or test. `--task` names any task that lm-eval has. docs/lm-eval.md lists formats and tasks.
"""
import argparse
import json
import os
import sys
from typing import Any

import benchmark_readers as readers
from tool_errors import EXIT_CONFIG, ToolError, exit_code_of

BENCHMARKS = ("arc", "belebele", "hellaswag", "mmlu")  # the order of the paper's tables
METRICS = {"arc": "acc_norm", "belebele": "acc", "hellaswag": "acc_norm", "mmlu": "acc"}
SHOTS = {"paper": {"arc": 25, "belebele": 0, "hellaswag": 0, "mmlu": 5},
         "released": {"arc": 25, "belebele": 5, "hellaswag": 10, "mmlu": 5}}
FOUR_SHOTS = ("tr", "hu", "es")  # of MMLU in the released script
SCRIPTS = {"bn": "ben_Beng", "de": "deu_Latn", "el": "ell_Grek", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn",
           "hu": "hun_Latn", "ne": "npi_Deva", "tr": "tur_Latn", "zh": "zho_Hans"}
OKAPI = ("bn", "de", "es", "fr", "hu", "ne", "zh")
OF_THE_HARNESS = {
    **{("arc", lang): f"arc_{lang}" for lang in OKAPI}, ("arc", "en"): "arc_challenge",
    **{("belebele", lang): f"belebele_{script}" for lang, script in SCRIPTS.items()},
    **{("hellaswag", lang): f"hellaswag_{lang}" for lang in OKAPI if lang != "zh"}, ("hellaswag", "en"): "hellaswag",
    **{("mmlu", lang): f"m_mmlu_{lang}" for lang in OKAPI}, ("mmlu", "en"): "mmlu",
}
# Data sets of the hub in the layout of the English ones, for which lm-eval has no task.
OF_THE_HUB = {
    ("arc", "el"): ("ilsp/arc_greek", "ARC-Challenge"), ("arc", "tr"): ("malhajar/arc-tr", "ARC-Challenge"),
    ("hellaswag", "el"): ("ilsp/hellaswag_greek", None), ("hellaswag", "tr"): ("malhajar/hellaswag-tr", None),
    ("mmlu", "el"): ("ilsp/mmlu_greek", None), ("mmlu", "tr"): ("malhajar/mmlu-tr", None),
}
SUBJECTS = """abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics econometrics
electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology
high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
philosophy prehistory professional_accounting professional_law professional_medicine professional_psychology public_relations
security_studies sociology us_foreign_policy virology world_religions""".split()
SPLITS = {"test": ("test",), "validation": ("validation", "val"), "train": ("train",), "dev": ("dev",)}


class Raw(str):
    """Text that stands in a task file as it is: a tag of lm-eval's, not a string."""


def yaml_text(values: dict[str, Any]) -> str:
    """Returns a task file. JSON is YAML, so only lm-eval's tags need care."""
    return "".join(f"{key}: {value if isinstance(value, Raw) else json.dumps(value, ensure_ascii=False)}\n"
                   for key, value in values.items())


def metrics(*names: str) -> list[dict[str, Any]]:
    """Returns metrics as a task names them."""
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


def description(subject: str) -> str:
    """Returns the first line of MMLU's prompts."""
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


def shots_of(preset: str, benchmark: str, language: str) -> int:
    """Returns how many examples stand before a question."""
    return 4 if (preset, benchmark) == ("released", "mmlu") and language in FOUR_SHOTS else SHOTS[preset][benchmark]


class Folder:
    """The task files and items of one output folder."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        os.makedirs(os.path.join(self.path, "data"), exist_ok=True)

    def task(self, name: str, values: dict[str, Any]) -> None:
        """Writes a task file."""
        with open(os.path.join(self.path, name + ".yaml"), "w", encoding="utf-8") as stream:
            stream.write(yaml_text(values))

    def group(self, name: str, parts: list[str]) -> None:
        """Writes a task that is the mean of others."""
        self.task(name, {"group": name, "task": parts,
                         "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]})

    def items(self, name: str, items: list[readers.Item]) -> str:
        """Writes items and returns their path."""
        path = os.path.join(self.path, "data", name + ".jsonl")
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({key: item[key] for key in ("query", "choices", "gold")}, ensure_ascii=False) + "\n"
                              for item in items)
        return path


# ---------------------------------------------------------------- the user's files

def places(data: list[str]) -> tuple[list[str], dict[str, str]]:
    """Returns (folders to look through, {"arc.el": path})."""
    folders, named = [], {}
    for word in data:
        name, equals, path = word.partition("=")
        if not equals:
            folders.append(word)
            if not os.path.isdir(word):
                raise ToolError(f"--data {word}: there is no such folder; a single file is named as --data arc.el=PATH", EXIT_CONFIG)
        elif name.partition(".")[0] not in BENCHMARKS or not name.partition(".")[2]:
            raise ToolError(f"--data {word}: expected BENCHMARK.LANGUAGE=PATH with one of {', '.join(BENCHMARKS)}", EXIT_CONFIG)
        else:
            named[name] = path
    return folders, named


def local_files(benchmark: str, language: str, data: list[str]) -> dict[str, str]:
    """Returns {split: path}, or {"all": path} for MMLU's own folder or archive; empty if the user has none."""
    folders, named = places(data)
    patterns = [os.path.join(folder, benchmark, language + end) for folder in folders
                for end in ("_{split}.jsonl", ".jsonl", ".txt", ".txt.bz2", ".zip", "")]
    for pattern in [named[f"{benchmark}.{language}"]] if f"{benchmark}.{language}" in named else patterns:
        if "{split}" in pattern:
            found = {split: pattern.replace("{split}", name) for split, names in SPLITS.items() for name in names
                     if os.path.exists(pattern.replace("{split}", name))}
            if "test" in found or (benchmark == "hellaswag" and "validation" in found):
                return found
        elif os.path.exists(pattern):
            whole = benchmark == "mmlu" and (os.path.isdir(pattern) or pattern.endswith(".zip"))
            return {"all" if whole else "validation" if benchmark == "hellaswag" else "test": pattern}
    if f"{benchmark}.{language}" in named:
        raise ToolError(f"--data {benchmark}.{language}={named[f'{benchmark}.{language}']}: there is no such file")
    return {}


def local_task(folder: Folder, benchmark: str, language: str, paths: dict[str, str], shots: int) -> str:
    """Writes the task; returns its name."""
    if "all" in paths:
        items = readers.read_mmlu(paths["all"])
    else:
        items = {split: readers.read_items(path, benchmark) for split, path in paths.items()}
    name = f"nmoe_{benchmark}_{language}"
    pool = {"arc": ("train",), "mmlu": ("dev", "train", "validation")}.get(benchmark, ())
    pool = next((split for split in pool if items.get(split)), None)
    if shots and pool is None and benchmark in ("arc", "mmlu"):
        raise ToolError(f"{next(iter(paths.values()))}: {benchmark} has {shots} shots, which come from a file of its "
                             f"{'train' if benchmark == 'arc' else 'dev'} split; name both with {{split}} in the path")
    test = "test" if "test" in items else "validation"
    subjects = sorted({item["subject"] for item in items[test] if "subject" in item})
    if not subjects:
        write_local(folder, name, benchmark, items, test, pool, "")
        return name
    parts = []
    for subject in subjects:
        chosen = {split: [item for item in values if item.get("subject") == subject] for split, values in items.items()}
        if shots and len(chosen[pool]) < shots:
            raise ToolError(f"{paths.get(pool) or paths['all']}: {len(chosen[pool])} examples of {subject}, wanted {shots} shots")
        parts.append(f"{name}_{subject}")
        write_local(folder, parts[-1], benchmark, chosen, test, pool, description(subject))
    folder.group(name, parts)
    return name


def write_local(folder: Folder, name: str, benchmark: str, items: dict[str, list[readers.Item]], test: str, pool: str | None,
                text: str) -> None:
    """Writes a task of local files. The shots come from where lm-eval's own task takes them: ARC's train split at random, the dev split of
    MMLU and the test split of Belebele in order; HellaSwag's train split, or without one its validation split, at random."""
    if benchmark == "hellaswag":
        pool = "train" if "train" in items else None
    splits = {split: folder.items(f"{name}_{split}", items[split]) for split in (test, pool) if split}
    where = {"validation_split" if benchmark == "hellaswag" else "test_split": test}
    if benchmark in ("arc", "hellaswag"):
        where |= {"training_split": pool} if pool else {}
    else:
        where |= {"fewshot_split": pool or test, "fewshot_config": {"sampler": "first_n"}}
    folder.task(name, {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": splits}, **where,
                       "output_type": "multiple_choice", **({"description": text} if text else {}), "doc_to_text": "query",
                       "doc_to_target": "gold", "doc_to_choice": "choices",
                       "metric_list": metrics("acc") if benchmark == "mmlu" else metrics("acc", "acc_norm"),
                       "metadata": {"version": 1}})


# ---------------------------------------------------------------- the hub's data sets

def hub_task(folder: Folder, benchmark: str, language: str, dataset: str, subset: str | None) -> str:
    """Writes the task of a data set in the layout of the English one; returns its name."""
    name = f"nmoe_{benchmark}_{language}"
    common: dict[str, Any] = {"task": name, "dataset_path": dataset, "dataset_name": subset, "output_type": "multiple_choice"}
    if benchmark == "arc":
        folder.task(name, {**common, "training_split": "train", "test_split": "test",
                           "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{choices.label.index(answerKey)}}",
                           "doc_to_choice": "{{choices.text}}", "metric_list": metrics("acc", "acc_norm"), "metadata": {"version": 1}})
    elif benchmark == "hellaswag":
        with open(os.path.join(folder.path, "utils.py"), "w", encoding="utf-8") as stream:
            stream.write("from lm_eval.tasks.hellaswag.utils import process_docs  # noqa: F401\n")
        folder.task(name, {**common, "training_split": "train", "validation_split": "validation",
                           "process_docs": Raw("!function utils.process_docs"), "doc_to_text": "{{query}}",
                           "doc_to_target": "{{label}}", "doc_to_choice": "choices", "metric_list": metrics("acc", "acc_norm"),
                           "metadata": {"version": 1}})
    else:
        parts = [f"{name}_{subject}" for subject in SUBJECTS]
        for part, subject in zip(parts, SUBJECTS):
            folder.task(part, {**common, "task": part, "dataset_name": subject, "test_split": "test", "fewshot_split": "dev",
                               "fewshot_config": {"sampler": "first_n"}, "description": description(subject),
                               "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
                                              "D. {{choices[3]}}\nAnswer:",
                               "doc_to_choice": list("ABCD"), "doc_to_target": "answer", "metric_list": metrics("acc"),
                               "metadata": {"version": 1}})
        folder.group(name, parts)
    return name


def entry(folder: Folder, benchmark: str, language: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns one benchmark in one language, as benchmarks.json has it."""
    key = f"{benchmark}.{language}"
    shots = shots_of(options.preset, benchmark, language)
    chosen = dict(word.split("=", 1) for word in options.task)
    paths = local_files(benchmark, language, options.data)
    if key in chosen:
        task, source = chosen[key], "named with --task"
    elif paths:
        task, source = local_task(folder, benchmark, language, paths, shots), ", ".join(paths.values())
    elif (benchmark, language) in OF_THE_HARNESS:
        task, source = OF_THE_HARNESS[benchmark, language], "a task of lm-eval"
    elif (benchmark, language) in OF_THE_HUB:
        dataset = OF_THE_HUB[benchmark, language]
        task, source = hub_task(folder, benchmark, language, *dataset), f"hub, {dataset[0]}"
    else:
        raise ToolError(f"{key}: neither lm-eval nor the hub is known to have it; give --data {key}=FILE or --task {key}=NAME, or "
                             "leave it out with --benchmarks")
    return {"benchmark": benchmark, "language": language, "task": task, "shots": shots, "metric": METRICS[benchmark],
            "source": source}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options; refuses those that name nothing."""
    parser = argparse.ArgumentParser(description="Benchmarks as tasks of lm-eval.")
    parser.add_argument("--target", required=True)
    parser.add_argument("--source", default="en")
    parser.add_argument("--preset", choices=sorted(SHOTS), default="paper")
    parser.add_argument("--benchmarks", default=",".join(BENCHMARKS))
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--task", action="append", default=[])
    parser.add_argument("--output", required=True)
    options = parser.parse_args(arguments)
    options.benchmarks = options.benchmarks.split(",")
    for name in options.benchmarks:
        if name not in BENCHMARKS:
            raise ToolError(f"--benchmarks {name}: known are {', '.join(BENCHMARKS)}", EXIT_CONFIG)
    for word in options.task:
        if "=" not in word or word.partition(".")[0] not in BENCHMARKS:
            raise ToolError(f"--task {word}: expected BENCHMARK.LANGUAGE=NAME with one of {', '.join(BENCHMARKS)}", EXIT_CONFIG)
    places(options.data)
    return options


def make(options: argparse.Namespace) -> None:
    """Writes tasks and benchmarks.json, and prints what is where."""
    folder = Folder(options.output)
    languages = list(dict.fromkeys([options.source, options.target]))
    entries = [entry(folder, benchmark, language, options) for benchmark in BENCHMARKS if benchmark in options.benchmarks
               for language in languages]
    with open(os.path.join(folder.path, "benchmarks.json"), "w", encoding="utf-8") as stream:
        json.dump({"preset": options.preset, "source": options.source, "target": options.target, "benchmarks": entries}, stream,
                  indent=1, ensure_ascii=False)
    for row in entries:
        print(f"{row['benchmark']:<10} {row['language']:<3} {row['shots']:>2} shots  {row['task']} ({row['source']})")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    return exit_code_of("benchmark_tasks", lambda: make(parse(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    sys.exit(main())
