# SPDX-License-Identifier: Apache-2.0
"""Where, when and with what a run was made, for tools/report.py: hosts, ranks, times, programs, from the files that say so."""
import datetime
import os
import re
from typing import Any

import metrics_file
import report_data as data
from report_run import Results
from tool_errors import reading

RANK = re.compile(r"^ *rank +(\d+) +(\S+) +cores +(\S+) +threads +(\d+) +device (.+?) *$", re.M)
CHECKPOINT = re.compile(r"step_\d+")
HASHES = ("model_sha256", "tokenizer_sha256", "corpus_sha256", "checkpoint_sha256", "seed", "definition", "tie_rule")


def duration(seconds: float) -> str:
    """Returns a time as a reader says it: 12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600:,} h {int(seconds) % 3600 // 60:02d} min"


def moment(seconds: float) -> str:
    """Returns a point in time, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def newest_checkpoint(folder: str) -> str | None:
    """Returns the last step directory of a run."""
    steps = sorted(name for name in os.listdir(folder) if CHECKPOINT.fullmatch(name)) if os.path.isdir(folder) else []
    return os.path.join(folder, steps[-1]) if steps else None


def machine_of(folder: str) -> dict[str, str]:
    """Returns what the newest checkpoint says of hosts, ranks, devices, MPI and program; empty without one."""
    step, out = newest_checkpoint(folder), {}
    for name in ("provenance.json", "manifest.json"):
        path = os.path.join(step or "", name)
        if not step or not os.path.exists(path):
            continue
        found = data.read_json(path, sealed=name == "manifest.json")
        with reading(path):
            if name == "manifest.json":
                out["program"] = str(found.get("facts", {}).get("version", ""))
                continue
            ranks = RANK.findall(str(found.get("placement", "")))
            hosts = list(dict.fromkeys(host for _, host, _, _, _ in ranks))
            out["ranks"] = str(len(ranks)) if ranks else ""
            out["hosts"] = ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")
            out["device"] = ", ".join(dict.fromkeys(re.sub(r"\d+$", "N", device) if len(ranks) > 1 else device for *_, device in ranks))
            out["threads per rank"] = ", ".join(dict.fromkeys(threads for _, _, _, threads, _ in ranks))
            out["MPI"] = str(found.get("mpi", "")).split(" (")[0]
            out.update(settings_of(str(found.get("config", ""))))
    return out


def settings_of(config: str) -> dict[str, str]:
    """Returns the settings that one asks for first, from the resolved config of a training."""
    found = dict(line.split(" = ", 1) for line in config.partition("[train]\n")[2].partition("\n\n")[0].splitlines() if " = " in line)
    if not found:
        return {}
    batch = " × ".join(found.get(name, "?") for name in ("global_batch_size", "seq_length"))
    return {"sequences × tokens of a step": batch, "element type": found.get("dtype", ""), "learning rate": found.get("learning_rate", ""),
            "expert-parallel ranks": found.get("expert_parallel_size", ""), "seed": found.get("seed", "")}


def ending_of(folder: str) -> str:
    """Returns what exit.json says of a training that ended early, or nothing."""
    path = os.path.join(folder, "exit.json")
    if not os.path.exists(path):
        return ""
    found = data.read_json(path)
    return f"ended early at step {found.get('step', '?')}, {found.get('time', '?')}, code {found.get('code', '?')}: {found.get('reason', '?')}"


def trainings(results: Results) -> list[tuple[str, str, list[data.Json]]]:
    """Returns (name, folder, metrics) of every training of the run."""
    runs = [("base", os.path.join("base", "checkpoints"), results.pretrain)]
    for run in [results.guided] + ([results.control] if results.control else []):
        runs += [(f"{stage[:-1]} {stage[-1]}, {run.label}", os.path.join(run.name, stage), rows) for stage, rows in run.metrics.items()]
    return [(name, results.folder.path(folder), rows) for name, folder, rows in runs if rows]


def training_table(results: Results) -> list[dict[str, str]]:
    """Returns a row of facts for each training; a fact that no file has is empty."""
    table = []
    for name, folder, rows in trainings(results):
        seconds = sum(value for _, value in metrics_file.numbers_of(rows, "step_s"))
        tokens = max((value for _, value in metrics_file.numbers_of(rows, "tokens")), default=0.0)
        first = min((value for _, value in metrics_file.numbers_of(rows, "tokens")), default=0.0)
        flops = sum(value for _, value in metrics_file.numbers_of(rows, "flops"))
        skipped = sum(1 for row in rows if row.get("skipped"))
        table.append({"training": name, "steps": f"{len(rows):,}" + (f" ({skipped} skipped)" if skipped else ""),
                      "tokens": f"{tokens:,.0f}" if tokens else "", "time": duration(seconds) if seconds else "",
                      "tokens/s": f"{tokens / seconds:,.0f}" if seconds and first < tokens else "",
                      "GFLOP/s per rank": f"{flops / seconds / 1e9:,.1f}" if seconds and flops else "", **machine_of(folder),
                      "ended": ending_of(folder)})
    return table


def step_times(results: Results) -> list[tuple[str, float]]:
    """Returns (step, seconds from its start to its end) of the pipeline's steps, by their stamps, in the order they ended."""
    root, found = results.folder.path(".stamps"), []
    places = [root, os.path.join(root, results.target)]
    places += [os.path.join(root, results.control.name)] if results.control else []
    for place in places:
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
            done, started = os.path.join(place, name), os.path.join(place, name + ".started")
            if os.path.isfile(done) and os.path.isfile(started):
                end, begin = os.path.getmtime(done), os.path.getmtime(started)
                found.append((end, os.path.relpath(done, root), end - begin))
    return [(name, seconds) for _, name, seconds in sorted(found) if seconds >= 0]


def dates(results: Results) -> str:
    """Returns from when to when the files of the run were written."""
    times = [os.path.getmtime(results.folder.path(name)) for name in results.folder.files]
    first, last = moment(min(times)), moment(max(times))
    return first if first == last else f"{first} to {last}"


def base_model(results: Results) -> str:
    """Returns the base in words, from its config.json."""
    path = results.folder.path(os.path.join("base", "config.json"))
    if not os.path.exists(path):
        return ""
    found = data.read_json(path)
    facts = [(str(found.get("model_type", "")), ""), *((found.get(key, ""), words) for key, words in (
        ("num_hidden_layers", "{} layers"), ("hidden_size", "hidden size {}"), ("intermediate_size", "FFN {}"),
        ("num_attention_heads", "{} heads"), ("vocab_size", "vocabulary {}")))]
    real = os.path.basename(os.path.realpath(os.path.dirname(path)))
    return real + ": " + ", ".join((words or "{}").format(value) for value, words in facts if value != "")


def corpus_lines(results: Results) -> list[str]:
    """Returns where the text came from, as corpus.json has it."""
    found: Any = results.corpus
    if not found:
        return []
    with reading(results.folder.path(os.path.join("corpus", "corpus.json"))):
        lines = [f"text: {name} {package['version']}" for name, package in found["packages"].items()]
        lines += [f"text: {lang} {file['path']} ({file.get('bytes', '?')} bytes)"
                  for lang, files in found.get("inputs", {}).items() for file in files]
        lines.append(f"text license: {found['license']}; seed {found['seed']}")
        unit = "documents" if "inputs" in found else "paragraphs"
        for split in ("train", "tune", "test"):
            lines.append(f"{split}: " + ", ".join(f"{lang} {c[unit]}" for lang, c in found["counts"][split].items()) + f" {unit}")
    return lines


def source_lines(results: Results) -> list[str]:
    """Returns program, split, tokens, hashes and text that the numbers stand on."""
    lines = [f"program: {results.version}"] if results.version != "unknown" else []
    versions = {found.get("version") for _, _, _, found in results.rows()} - {None}
    lines.append(f"evaluated by: {', '.join(sorted(map(str, versions)))}" if versions else "evaluated by: a program without a version in its files")
    lines.append(f"measured on the held-out split '{results.split}'")
    rows = results.rows()
    tokens = rows[0][3]["perplexity"].get(results.source, {}).get("tokens", "?") if rows else "?"
    lines.append(f"perplexity per token over {tokens} {results.source} tokens; never compare it between tokenizers")
    attributes = results.neurons["attributes"] if results.neurons else {}
    lines += [f"neurons.h5 {name}: {attributes[name]}" for name in HASHES if name in attributes]
    return lines + corpus_lines(results)
